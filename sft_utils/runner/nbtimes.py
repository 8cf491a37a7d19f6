"""Where the time of the chain goes: per notebook the share of each kind of work, the slowest cells.

Times come from the executed notebooks below outputs/runs, in which papermill leaves what each cell
took. What a cell does is read from its code: a call of a function that the notebook defines counts
as what that function calls.
"""

import ast
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode
from nbformat.reader import NotJSONError

from sft_utils.formats import aligned, clock
from sft_utils.notebook.nbsource import Layout, is_own, notebook_names
from sft_utils.runner.nbprogress import heading

KINDS: Mapping[str, frozenset[str]] = {
    "train": frozenset({"trainer.train", "train_resumable", "backward"}),
    "generate": frozenset({"generate", "evaluate", "answer_nll"}),
    "load": frozenset({"load_model", "plain_copy", "load_tokenizer", "from_pretrained"}),
}
"""Kind of work -> functions that do it. A cell that does several is of the first kind."""

ORDER = ("imports", *KINDS, "other", "kernel")
"""`kernel` is what no cell took: starting the kernel, saving after each cell, ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One code cell of an executed notebook."""

    number: int  # as the runner counts: code cells of the source, from 1
    heading: str  # the heading it stands under
    kind: str  # one of ORDER
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What one execution of a notebook took."""

    notebook: str
    wall_s: float
    cells: tuple[Cell, ...]

    def shares(self) -> dict[str, float]:
        """Kind of work -> share of the wall time; they add up to 1."""
        seconds: Counter[str] = Counter()
        for cell in self.cells:
            seconds[cell.kind] += cell.seconds
        seconds["kernel"] = max(0.0, self.wall_s - sum(seconds.values()))
        total = sum(seconds.values()) or 1.0
        return {kind: seconds[kind] / total for kind in ORDER}

    def slowest(self, n: int = 3) -> list[Cell]:
        """The cells that took longest, longest first."""
        return sorted(self.cells, key=lambda cell: -cell.seconds)[:n]


def times_of(notebook: str, nb: NotebookNode) -> Times:
    """Times of an executed notebook.

    Args:
        notebook: Full name.
        nb: What papermill saved; cells that did not run count nothing.
    """
    kinds = kinds_of([c.source for c in nb.cells if c.cell_type == "code"])
    cells, number, place = [], 0, 0
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        kind, place = kinds[place], place + 1
        number += is_own(cell)
        seconds = cell.metadata.get("papermill", {}).get("duration") or 0.0
        cells.append(
            Cell(number=number, heading=heading(nb.cells, index), kind=kind, seconds=seconds)
        )
    wall = nb.metadata.get("papermill", {}).get("duration") or sum(c.seconds for c in cells)
    return Times(notebook=notebook, wall_s=wall, cells=tuple(cells))


def kinds_of(sources: Sequence[str]) -> list[str]:
    """What each code cell of a notebook does; later cells may call functions of earlier ones.

    Example:
        >>> kinds_of(["import torch", "def f(m):\\n    return m.generate()", "f(1)", "x = 2"])
        ['imports', 'other', 'generate', 'other']
    """
    reach: dict[str, set[str]] = {}  # function of the notebook -> all names it calls in the end
    return [_kind(ast.parse(source), reach) for source in sources]


def _kind(tree: ast.Module, reach: dict[str, set[str]]) -> str:
    """The kind of one cell; functions it defines are added to `reach`."""
    local: dict[str, set[str]] = {}
    top: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            local[node.name] = _called(node)
        elif not isinstance(node, ast.ClassDef):
            top |= _called(node)
    for name, called in local.items():
        reach[name] = _closed(called, reach | local)
    names = _closed(top, reach)
    for kind, functions in KINDS.items():
        if names & functions:
            return kind
    imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
    return "imports" if imports and imports * 2 >= len(tree.body) - 1 else "other"


def _called(node: ast.AST) -> set[str]:
    """Names called below a node, and names passed on as arguments: they may be called there.

    A method counts with its object and without: `trainer.train` trains, `model.train` does not.
    """
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            function = part.func
            if isinstance(function, ast.Attribute):
                found |= {function.attr, ast.unparse(function)}
            values = [*part.args, *(keyword.value for keyword in part.keywords), function]
            found |= {value.id for value in values if isinstance(value, ast.Name)}
    return found


def _closed(names: set[str], reach: Mapping[str, set[str]]) -> set[str]:
    """Names and everything that functions among them call."""
    found, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= reach.get(name, set()) - found
    return found


def collect(layout: Layout, profile: str) -> list[Times]:
    """Times of all executed notebooks of a profile, in their order; those not run are left out.

    So are half-written ones: a run saves its notebook after each cell, and may be killed in that.
    """
    paths = {nb: layout.run_file(nb, profile, ".ipynb") for nb in notebook_names(layout)}
    found = []
    for name, path in paths.items():
        with contextlib.suppress(FileNotFoundError, NotJSONError):
            found.append(times_of(name, nbformat.read(path, as_version=4)))
    return found


def table(times: Sequence[Times]) -> str:
    """Wall time and shares per notebook, the sum, and the slowest cells of each."""
    total = sum(t.wall_s for t in times)
    rows = [["notebook", "time", *ORDER]]
    sums: Counter[str] = Counter()
    for t in times:
        shares = t.shares()
        rows.append([t.notebook, clock(t.wall_s), *(f"{shares[kind]:.0%}" for kind in ORDER)])
        for kind in ORDER:
            sums[kind] += shares[kind] * t.wall_s
    rows.append(["all", clock(total), *(f"{sums[k] / (total or 1):.0%}" for k in ORDER)])
    slow = [["notebook", "cell", "time", "share", "kind", "heading"]]
    for t in times:
        for cell in t.slowest():
            share = f"{cell.seconds / (t.wall_s or 1):.0%}"
            row = [t.notebook, str(cell.number), clock(cell.seconds), share, cell.kind]
            slow.append([*row, cell.heading])
    return f"{aligned(rows)}\n\n{aligned(slow)}"
