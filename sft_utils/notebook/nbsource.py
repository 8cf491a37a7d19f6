"""The text source of a notebook and its ipynb form, in both directions.

`notebooks/src/NN_slug.py` is the edited form. Everything here is deterministic: the same
source gives the same bytes, so that comparing contents replaces comparing times.
"""

import copy
import difflib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from sft_utils.artifacts import ROOT, sha256_json, sha256_text
from sft_utils.colab import CELL
from sft_utils.errors import ConfigError, RunnerError
from sft_utils.notebook.readme import cost_table, replace_generated

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
SETUP_TAG = "setup"  # the cell that fetches the repository on Colab or RunPod
RUNNER_TAGS = {"injected-parameters", "papermill-error-cell-tag", SETUP_TAG}  # no source has them
NAME = re.compile(r"\d\d_[a-z0-9_]+")
HEADER = re.compile(r"\A# ---\n(?:#.*\n)*?# ---\n\s*")
CELL_START = re.compile(r"^# %%", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one copy of the repository keeps notebooks and results."""

    root: Path  # the repository
    runs_root: Path  # holds <profile>/NN_slug.*; SFT_RUNS moves it

    @classmethod
    def of(cls, root: Path = ROOT) -> "Layout":
        """The layout of a repository, with `SFT_RUNS` respected."""
        runs = Path(os.environ.get("SFT_RUNS", root / "outputs" / "runs"))
        return cls(root=root, runs_root=runs.absolute())

    def source(self, notebook: str) -> Path:
        """The edited form."""
        return self.root / "notebooks" / "src" / f"{notebook}.py"

    def published(self, notebook: str) -> Path:
        """The committed form with outputs."""
        return self.root / "notebooks" / f"{notebook}.ipynb"

    def run_file(self, notebook: str, profile: str, suffix: str) -> Path:
        """A file of a run: suffix ".ipynb", ".json", ".state.json" or ".progress.json"."""
        return self.runs_root / profile / f"{notebook}{suffix}"

    @property
    def reference_root(self) -> Path:
        """Folder of the committed results of all profiles."""
        return self.root / "outputs" / "reference"

    def reference(self, notebook: str, profile: str) -> Path:
        """The committed result of one notebook."""
        return self.reference_root / profile / f"{notebook}.json"

    @property
    def chains(self) -> Path:
        """Folder of the committed times of all notebooks together: PROFILE-JOBS.json."""
        return self.reference_root / "chain"


def notebook_names(layout: Layout) -> list[str]:
    """All notebooks that have a source, in order of their numbers."""
    found = (p.stem for p in (layout.root / "notebooks" / "src").glob("*.py"))
    return sorted(name for name in found if NAME.fullmatch(name))


def find_notebook(layout: Layout, text: str) -> str:
    """The full name of a notebook given as `3`, `03` or `03_slug`.

    Raises:
        ConfigError: No such notebook; the message names the closest one.
    """
    names = notebook_names(layout)
    wanted = text.strip().removesuffix(".py").removesuffix(".ipynb")
    number = wanted.zfill(2) if wanted.isdigit() else None
    for name in names:
        if wanted == name or number == name[:2]:
            return name
    raise ConfigError(f"there is no notebook {text!r} in notebooks/src.{suggest(wanted, names)}")


def suggest(wrong: str, known: list[str]) -> str:
    """The tail of a "no such thing" message: the closest known name, else all of them."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."


def read_source(layout: Layout, notebook: str) -> str:
    """The source text with \\n line ends."""
    return layout.source(notebook).read_text(encoding="utf-8").replace("\r\n", "\n")


def parse(text: str, notebook: str) -> NotebookNode:
    """Turn source text into a notebook with fixed metadata and cell ids, without outputs.

    Raises:
        RunnerError: The text is not a percent-format notebook.
    """
    import jupytext  # here and below: it brings jupyter_client, and most callers only want names

    # the header holds metadata that is set here anyway, and crashes jupytext when incomplete
    read = jupytext.reads(HEADER.sub("", text), fmt="py:percent")
    if not any(cell.cell_type == "code" for cell in read.cells):
        raise RunnerError(f"notebooks/src/{notebook}.py holds no code cell. Start cells with # %%")
    metadata = {"kernelspec": KERNELSPEC, "language_info": LANGUAGE}
    nb = nbformat.v4.new_notebook(metadata=copy.deepcopy(metadata))
    for index, cell in enumerate(read.cells):
        new = _new_cell(cell)
        # nbformat draws random ids; ids from content keep rebuilt files byte-equal
        new["id"] = sha256_text(f"{notebook}:{index}:{new.source}")[:12]
        nb.cells.append(new)
    return nb


def build(layout: Layout, notebook: str, models: dict[str, str]) -> NotebookNode:
    """Build the notebook of a source file; the cost table is filled from recorded runs.

    Args:
        layout: Where things are.
        notebook: Full name.
        models: Profile -> base model, the rows of the cost table.
    """
    nb = with_setup_cell(parse(read_source(layout, notebook), notebook))
    return fill_costs(nb, cost_table(notebook, layout.reference_root, models))


def with_setup_cell(nb: NotebookNode) -> NotebookNode:
    """Put `colab.CELL` in front of the first code cell, in place, instead of an older one.

    It is added here and not in the sources, so that it is the same everywhere, and no cell of the
    author's: it counts neither for freshness nor for execution numbers, and `adopt` drops it.
    """
    nb.cells = [c for c in nb.cells if SETUP_TAG not in c.metadata.get("tags", [])]
    first = next(i for i, cell in enumerate(nb.cells) if cell.cell_type == "code")
    cell = nbformat.v4.new_code_cell(CELL, metadata={"tags": [SETUP_TAG]})
    cell["id"] = sha256_text(f"setup:{CELL}")[:12]
    nb.cells.insert(first, cell)
    return nb


def fill_costs(nb: NotebookNode, costs: str) -> NotebookNode:
    """Put a cost table between the markers of the notebook's markdown cells, in place."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = replace_generated(cell.source, "cost", costs)
    return nb


def without_generated(source: str) -> str:
    """A cell's text with an empty cost table, so that a new measurement is no edit."""
    return replace_generated(source, "cost", "")


def is_own(cell: NotebookNode) -> bool:
    """Whether a cell comes from the source, not from papermill."""
    return not RUNNER_TAGS.intersection(cell.metadata.get("tags", []))


def own_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The cells that come from the source, in order."""
    return [cell for cell in nb.cells if is_own(cell)]


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The code cells that come from the source, in order."""
    return [cell for cell in own_cells(nb) if cell.cell_type == "code"]


def code_sha256(nb: NotebookNode) -> str:
    """Hash of the code cells; injected parameters do not count."""
    return sha256_json([cell.source for cell in code_cells(nb)])


def outputs_sha256(nb: NotebookNode) -> str:
    """Hash of the outputs and execution counts of the code cells."""
    return sha256_json([[c.execution_count, c.outputs] for c in code_cells(nb)])


def _key(cell: NotebookNode) -> tuple[str, str, tuple[str, ...]]:
    tags = tuple(cell.metadata.get("tags", []))
    return cell.cell_type, without_generated(cell.source), tags


def differences(source: NotebookNode, other: NotebookNode) -> list[str]:
    """Name every cell in which two notebooks differ; outputs and cost tables do not count.

    A cell that was added or removed is one difference: those behind it only stand elsewhere.

    Returns:
        One line per difference, "code ..." or "markdown ..." first; empty when equal.
    """
    ours, theirs = own_cells(source), own_cells(other)
    keys = [list(map(_key, cells)) for cells in (ours, theirs)]
    found = []
    parts = difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    for same, i, i_end, j, j_end in parts:
        if same == "equal":
            continue
        pairs = itertools.zip_longest(range(i, i_end), theirs[j:j_end])
        for index, b in pairs:
            a = None if index is None else ours[index]
            kind = "markdown" if {c.cell_type for c in (a, b) if c} == {"markdown"} else "code"
            where = "is not in the source" if a is None else f"in cell {index + 1}"
            what = f"{'' if a is None else 'differs ' if b else 'only in the source, '}{where}"
            first = next(iter((a or b).source.strip().splitlines()), "(empty)")
            found.append(f"{kind} {what}: {first[:60]!r}")
    return found


def adopt(text: str, nb: NotebookNode) -> str:
    """Bring an edited notebook back into source text.

    Cells that did not change keep their source lines exactly, so the diff shows the edit
    only. Outputs, injected parameters and the content of the cost table are dropped.

    Args:
        text: The present source text.
        nb: The edited notebook: published, executed or downloaded.
    Returns:
        The new source text; equal to `text` when nothing was edited.
    """
    old, new = parse(text, "source").cells, own_cells(nb)
    header = HEADER.match(text)
    begin = header.end() if header else 0
    starts = [m.start() for m in CELL_START.finditer(text, begin)]
    chunks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    if len(chunks) != len(old):  # a "# %%" inside a string: rewrite all rather than guess
        starts, parts = [begin], list(map(_write_cell, new))
    else:
        matcher = difflib.SequenceMatcher(
            a=[_key(c) for c in old], b=[_key(c) for c in new], autojunk=False
        )
        parts = []
        for tag, a0, a1, b0, b1 in matcher.get_opcodes():
            parts += chunks[a0:a1] if tag == "equal" else map(_write_cell, new[b0:b1])
        if parts == chunks:
            return text
    spaced = [p if p.endswith("\n\n") else p.rstrip("\n") + "\n\n" for p in parts]
    return text[: starts[0]] + "".join(spaced).rstrip("\n") + "\n"


def _write_cell(cell: NotebookNode) -> str:
    import jupytext

    metadata = {"jupytext": {"notebook_metadata_filter": "-all"}}
    single = nbformat.v4.new_notebook(cells=[_new_cell(cell)], metadata=metadata)
    return jupytext.writes(single, fmt="py:percent")


def _new_cell(cell: NotebookNode) -> NotebookNode:
    """A cell with the type, text and tags of `cell` and nothing else."""
    make = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }[cell.cell_type]
    tags = list(cell.metadata.get("tags", []))
    return make(without_generated(cell.source), metadata={"tags": tags} if tags else {})
