"""What every notebook source must look like; nothing is executed here."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "notebooks" / "src").glob("*.py"))
MAX_LINES, MAX_LONG, MAX_WIDTH = 30, 60, 112
FORBIDDEN = (
    r"\bpush_to_hub\b", r"\bnotebook_login\b", r"(?<!no )\blogin\(", r"pip install", r"hf_[A-Za-z]{20}",
    r"trust_remote_code=True", r"torch\.load\(", r"raises-exception", r"ipywidgets",
)  # fmt: skip


@pytest.fixture(params=SOURCES, ids=[p.stem for p in SOURCES])
def notebook(request):
    return jupytext.read(request.param)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_there_are_sources():
    numbers = [p.stem[:2] for p in SOURCES]
    assert len(numbers) == len(set(numbers)) >= 5
    assert all(n.isdigit() for n in numbers)


def test_opening(notebook):
    assert re.match(r"# \d\d · .+\?\n", notebook.cells[0].source), (
        "the first cell is a title that asks a question, `# 12 · Question?`, and text below it"
    )
    assert "You will be able to" in notebook.cells[1].source
    assert "**Not covered**" in notebook.cells[1].source
    assert "<!-- generated:cost -->" in notebook.cells[2].source
    assert tags(notebook.cells[3]) == ["parameters"], "the fourth cell holds the parameters, tagged so"


def test_parameters_are_typed_and_commented(notebook):
    lines = notebook.cells[3].source.splitlines()
    # The reader's own file takes more: data alone where the form of the rows is fixed, or all three.
    own = [x.split(":")[0] for x in lines if x.split(":")[0] in ("data", "schema", "mapping")]
    assert own in ([], ["data"], ["data", "schema", "mapping"])
    assert len(lines) - len(own) <= 8
    for line in lines:
        assert re.match(r"\w+: (str|int|float|bool) = .+  # .+", line), (
            f"{line!r}: a parameter is written as `name: type = default  # what it does`"
        )


def test_imports_stand_in_one_cell(notebook):
    cells = code(notebook)
    assert "start(" in cells[1].source
    for cell in cells[2:]:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.Import | ast.ImportFrom), cell.source[:80]


def test_cells_are_short(notebook):
    long_ok = [c for c in code(notebook) if "long-ok" in tags(c)]
    assert len(long_ok) <= 1
    for cell in code(notebook)[2:]:
        limit = MAX_LONG if "long-ok" in tags(cell) else MAX_LINES
        lines = cell.source.splitlines()
        assert len(lines) <= limit, f"{len(lines)} lines: {lines[0]}"
        assert max(map(len, lines)) <= MAX_WIDTH, max(lines, key=len)


def test_one_checkpoint_at_the_end(notebook):
    checkpoints = [c for c in code(notebook) if "checkpoint" in tags(c)]
    assert len(checkpoints) == 1, 'one code cell has the tag "checkpoint", the one that judges'
    assert checkpoints[0] in code(notebook)[-3:], "only exercises may follow"
    assert "with checkpoint(run" in checkpoints[0].source


def test_closing(notebook):
    text = "\n".join(c.source for c in notebook.cells[-8:])
    for part in ("**Summary**", "**What this does not show**", "**Exercises**", "**Next**"):
        assert part in text, f"{part} is in none of the last eight cells"
    assert notebook.cells[-1].source.startswith("**Sources**")


def test_breaks_something_on_purpose(notebook):
    heading = "## Break it on purpose"
    assert any(heading in c.source for c in notebook.cells), f"no cell has the heading {heading}"


def test_forbidden(notebook):
    text = "\n".join(c.source for c in notebook.cells)
    assert not [p for p in FORBIDDEN if re.search(p, text)]


def test_no_numbers_in_takeaways(notebook):
    """A takeaway's measured numbers come from expressions: no literal decimal or percentage."""
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "takeaway":
                literal = "".join(literals(node.args))
                assert not re.search(r"\d ?%|\d\.\d", literal), literal


def literals(nodes):
    """Text typed into strings; expressions inside f-strings and their formats do not count."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield from literals(node.values)
        elif isinstance(node, ast.BinOp):
            yield from literals([node.left, node.right])
        elif isinstance(node, ast.IfExp):
            yield from literals([node.body, node.orelse])


def test_what_it_takes_from_our_modules_is_defined_there(notebook):
    """A name that a module happens to import is not its interface: the next clean-up removes it."""
    package = Path(__file__).resolve().parents[2] / "sft_utils"
    trees = [ast.parse(c.source) for c in code(notebook)]
    ours = {a.asname or a.name for t in trees for node in ast.walk(t) if isinstance(node, ast.ImportFrom)
            and node.module == "sft_utils" for a in node.names}  # fmt: skip
    missing = []
    for name in sorted(ours):
        places = [package / f"{name}.py", package / name / "__init__.py", *sorted(package.glob(f"*/{name}.py"))]
        path = next(p for p in places if p.is_file())
        known = _defined(ast.parse(path.read_text(encoding="utf-8")), package)
        missing += [
            f"{name}.{node.attr}" for t in trees for node in ast.walk(t)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id == name and node.attr not in known
        ]  # fmt: skip
    assert not missing


def _defined(tree, package):
    """Functions, classes and constants of a module, and what it takes over from our modules."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sft_utils"):
            names |= {a.asname or a.name for a in node.names}
    return names
