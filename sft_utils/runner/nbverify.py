"""What is committed: what notebooks, results and tables must be, and whether they are."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from sft_utils.artifacts import read_json, sha256_file, sha256_json
from sft_utils.colab import CELL
from sft_utils.errors import RunnerError
from sft_utils.notebook.nbdeps import dependencies
from sft_utils.notebook.nbsource import (
    RUNNER_TAGS,
    SETUP_TAG,
    Layout,
    code_cells,
    code_sha256,
    differences,
    fill_costs,
    notebook_names,
    outputs_sha256,
    own_cells,
    parse,
    read_source,
    with_setup_cell,
)
from sft_utils.notebook.readme import (
    answers_table,
    bench_table,
    chain_table,
    cost_table,
    gpu_table,
    notebooks_table,
    replace_generated,
    results_table,
)
from sft_utils.reporting.handover import claims
from sft_utils.runner import nbpages

PUBLISHED_PROFILE = "cpu"  # the one every reader can repeat
MAX_BYTES = 400 * 1024
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
HOMES = r"/(?:home|Users)/[\w.-]+/|[A-Z]:\\\\+Users\\\\+|/tmp/ipykernel_\d+"
SAID = re.compile(r"^run ([0-9a-f]{12}): \d+ checks passed", re.MULTILINE)
"""What the checkpoint cell of a notebook prints (`report.checkpoint`)."""


def read_notebook(path: Path) -> NotebookNode:
    """Read a published notebook.

    Raises:
        RunnerError: It is none, for example after a merge with conflicts.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise RunnerError(
            f"{path.name} is no notebook ({str(error).splitlines()[0][:80]}). Bring a published "
            f"one back: git checkout HEAD -- notebooks/{path.name}"
        ) from error


def renewed(layout: Layout, notebook: str, nb: NotebookNode, models: dict[str, str]) -> str:
    """The file that a published notebook should be: own outputs, all around them of today."""
    nb = with_setup_cell(copy.deepcopy(nb))
    _renew_text(parse(read_source(layout, notebook), notebook), nb)
    return as_text(fill_costs(nb, cost_table(notebook, layout.reference_root, models)))


def _renew_text(source: NotebookNode, nb: NotebookNode) -> None:
    """Bring text cells to the source's wording, in place; only if every code cell is the same.

    What a notebook prints does not come from its own text cells, so better words cost no run.
    """
    if all(line.startswith("markdown") for line in differences(source, nb)):
        for ours, cell in zip(own_cells(source), own_cells(nb), strict=True):
            if cell.cell_type == "markdown":
                cell.source, cell.metadata = ours.source, ours.metadata


def as_text(nb: NotebookNode) -> str:
    return nbformat.writes(nb, version=4) + "\n"


def renewed_readme(layout: Layout) -> str:
    """README.md with the tables that the recorded results give."""
    readme = layout.root / "README.md"
    titles, results = {}, {}
    for notebook in notebook_names(layout):
        titles[notebook] = question(layout, notebook)
        reference = layout.reference(notebook, PUBLISHED_PROFILE)
        if reference.is_file():
            results[notebook] = read_json(reference)
    old = readme.read_text(encoding="utf-8")
    new = replace_generated(old, "notebooks", notebooks_table(titles, results))
    new = replace_generated(new, "results", results_table(results))
    answers = {name: claims(name.split("_")[0], result) for name, result in results.items()}
    new = replace_generated(new, "answers", answers_table(answers))
    gpus = {p.stem: read_json(p) for p in sorted((layout.reference_root / "gpu").glob("*.json"))}
    new = replace_generated(new, "gpu", gpu_table(gpus))
    bench = layout.reference_root / "bench.json"
    table = bench_table(read_json(bench) if bench.is_file() else {})
    new = replace_generated(new, "bench", table)
    chains = sorted(layout.chains.glob("*.json"))
    return replace_generated(new, "chain", chain_table([read_json(path) for path in chains]))


def question(layout: Layout, notebook: str) -> str:
    """The title of a notebook after the `·`; its name when it has none."""
    text = layout.source(notebook).read_text(encoding="utf-8")
    found = re.search(r"^# # (?:.*?· *)?(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else notebook


def modules(layout: Layout, notebook: str) -> dict[str, str]:
    """Module -> hash of those a notebook reaches, enough digits to see a change."""
    package = layout.root / "sft_utils"
    found = dependencies(layout, notebook).modules
    return {name: sha256_file(package / f"{name}.py")[:12] for name in found}


def publish_command(notebook: str) -> str:
    """The commands that run one notebook and publish it."""
    return f"Run: make nb NB={notebook[:2]} && make publish NB={notebook[:2]}"


def problems(
    layout: Layout,
    notebook: str,
    nb: NotebookNode,
    n_bytes: int | None = None,
) -> list[str]:
    """What makes one notebook unfit to be published or read.

    Args:
        layout: Where things are.
        notebook: Full name.
        nb: The published notebook, or the one about to be.
        n_bytes: Size on disk; None measures the serialised notebook.
    """
    found = []
    changes = differences(parse(read_source(layout, notebook), notebook), nb)
    words_only = all(line.startswith("markdown") for line in changes)
    command = "Run: make renew" if words_only else publish_command(notebook)
    for line in changes:
        what = "markdown differs from source" if line.startswith("markdown") else "source changed"
        found.append(f"{what}: {line}. {command}")
    setup = [c for c in nb.cells if SETUP_TAG in c.metadata.get("tags", [])]
    if [c.source for c in setup] != [CELL] or any(c.get("outputs") for c in setup):
        found.append("the setup cell is missing, old or has outputs. Run: make renew")
    foreign = RUNNER_TAGS - {SETUP_TAG}
    for number, cell in enumerate(nb.cells, start=1):
        if foreign.intersection(cell.metadata.get("tags", [])):
            first = next(iter(cell.source.strip().splitlines()), "(empty)")
            found.append(f"cell {number} comes from no source: {first[:60]!r}. Remove it")
    stamp = nb.metadata.get("sft", {})
    if stamp.get("code_sha256") != code_sha256(nb):
        found.append("code cells edited since the run, or no stamp; use make adopt, then run it")
    elif stamp.get("outputs_sha256") != outputs_sha256(nb):
        found.append("outputs edited by hand: they differ from the stamp")
    elif stamp.get("profile") != PUBLISHED_PROFILE:
        found.append(f"published from profile {stamp.get('profile')!r}, not {PUBLISHED_PROFILE!r}")
    n_bytes = len(as_text(nb).encode()) if n_bytes is None else n_bytes
    if n_bytes > MAX_BYTES:
        found.append(f"{n_bytes / 1024:.0f} KiB; at most {MAX_BYTES // 1024}. Show less output")
    if "widgets" in nb.metadata:
        found.append("widget metadata; use a plain progress log instead of widgets")
    found += _output_problems(layout, nb)
    return [f"{notebook}: {line}" for line in found]


def _output_problems(layout: Layout, nb: NotebookNode) -> list[str]:
    found = []
    counts = [c.execution_count for c in code_cells(nb) if c.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"execution counts {counts} are not 1..{len(counts)}: not one clean run")
    machine = of_this_machine(layout)
    for number, cell in enumerate(code_cells(nb), start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {number} holds an error: {output.ename}")
            if output.get("name") == "stderr":
                first = output.text.strip().splitlines()[:1]
                found.append(f"code cell {number} wrote to stderr: {''.join(first)[:80]!r}")
            if WIDGET_MIME in output.get("data", {}):
                found.append(f"code cell {number} shows a widget")
            path = machine.search(json.dumps(output, ensure_ascii=False))
            if path:
                found.append(f"code cell {number} shows a path of this machine: {path[0]}")
    return found


def of_this_machine(layout: Layout) -> re.Pattern[str]:
    """Finds a path that no other machine has."""
    own = [re.escape(f"{p}/") for p in (layout.root, Path.home()) if p != Path("/")]
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(own)})|{HOMES}")


def verify(layout: Layout, models: dict[str, str]) -> list[str]:
    """Name everything that is wrong with what is committed; empty when all is well.

    A published notebook must be what its source and its outputs make, its run the one whose
    result is the reference, and every generated table what the references give.

    Args:
        layout: Where things are.
        models: Profile -> base model, for the cost tables.
    """
    names = notebook_names(layout)
    found = []
    for notebook in names:
        path = layout.published(notebook)
        if not path.is_file():
            found.append(f"{notebook}: not published. {publish_command(notebook)}")
            continue
        try:
            nb = read_notebook(path)
        except RunnerError as error:
            found.append(f"{notebook}: {error}")
            continue
        unfit = problems(layout, notebook, nb, n_bytes=path.stat().st_size)
        unfit += [f"{notebook}: {line}" for line in _of_another_run(layout, notebook, nb)]
        if not unfit and renewed(layout, notebook, nb, models) != path.read_text(encoding="utf-8"):
            unfit.append(f"{notebook}: its cost table or file form is not current. Run: make renew")
        found += unfit
    for path in sorted((layout.root / "notebooks").glob("*.ipynb")):
        if path.stem not in names:
            found.append(f"{path.stem}: published without a source. Remove notebooks/{path.name}")
    return [*found, *_readme_problems(layout)]


def _of_another_run(layout: Layout, notebook: str, nb: NotebookNode) -> Iterator[str]:
    """Whether notebook and reference are one run; the stamp of older ones knows only outputs."""
    reference = layout.reference(notebook, PUBLISHED_PROFILE)
    shown = reference.relative_to(layout.root)
    if not reference.is_file():
        yield f"{shown} is missing. {publish_command(notebook)}"
        return
    result, stamp = read_json(reference), nb.metadata.get("sft", {})
    texts = [o.get("text", "") for cell in code_cells(nb) for o in cell.outputs]
    said = {run for text in texts for run in SAID.findall("".join(text))}
    said |= {stamp["run_id"]} if "run_id" in stamp else set()
    if said - {result.get("run_id")}:
        runs, other = ", ".join(sorted(said)), result.get("run_id")
        yield f"is of run {runs}, {shown} of run {other}. {publish_command(notebook)}"
    elif "result_sha256" in stamp and stamp["result_sha256"] != sha256_json(result):
        yield f"{shown} was edited since it was published. Bring it back: git checkout -- {shown}"
    for line in nbpages.changed(layout, notebook, result):
        yield f"{line}. {publish_command(notebook)}"


def _readme_problems(layout: Layout) -> Iterator[str]:
    readme = layout.root / "README.md"
    if not readme.is_file():
        return
    old, new = readme.read_text(encoding="utf-8"), renewed_readme(layout)
    for number, (ours, theirs) in enumerate(_lines(old, new), start=1):
        if ours != theirs:
            yield (
                f"README.md line {number}: a generated table is not what outputs/reference gives: "
                f"{(ours or theirs).strip()[:80]!r}. Run: make renew"
            )
            return


def _lines(old: str, new: str) -> Iterator[tuple[str, str]]:
    ours, theirs = old.splitlines(), new.splitlines()
    longest = max(len(ours), len(theirs))
    for lines in (ours, theirs):
        lines += [""] * (longest - len(lines))
    return zip(ours, theirs, strict=True)


def notes(layout: Layout) -> list[str]:
    """Modules that have changed since a published notebook ran; no problem, but good to know."""
    found = []
    for notebook in notebook_names(layout):
        path: Path = layout.published(notebook)
        try:
            stamp = read_notebook(path).metadata.get("sft", {}) if path.is_file() else {}
        except RunnerError:
            continue
        if ran := stamp.get("modules"):
            now = modules(layout, notebook)
            changed = sorted(m for m in ran.keys() | now.keys() if ran.get(m) != now.get(m))
            if changed:
                found.append(f"{notebook}: since its run changed: {', '.join(changed)}")
    return found
