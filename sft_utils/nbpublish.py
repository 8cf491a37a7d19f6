"""Turn a finished run into the committed notebook and reference; what makes a notebook unfit."""

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from sft_utils.artifacts import read_json, write_json, write_text
from sft_utils.colab import CELL
from sft_utils.config import PROFILES, THREADS
from sft_utils.errors import RunnerError
from sft_utils.nbdeps import dependencies, upstream_closure
from sft_utils.nbflow import Run, is_fresh, repeat_command
from sft_utils.nbsource import (
    SETUP_TAG,
    Layout,
    build,
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
from sft_utils.readme import (
    chain_table,
    cost_table,
    gpu_table,
    notebooks_table,
    replace_generated,
    results_table,
)

PUBLISHED_PROFILE = "cpu"  # the one every reader can repeat
MAX_BYTES = 400 * 1024
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
HOMES = r"/(?:home|Users)/[\w.-]+/|[A-Z]:\\\\+Users\\\\+|/tmp/ipykernel_\d+"


def compose(built: NotebookNode, executed: NotebookNode, result: dict[str, Any]) -> NotebookNode:
    """The publishable notebook: cells of the source, outputs of the run, a stamp.

    Built from the source rather than cleaned from the run, so no metadata of papermill,
    widgets or timing can get in. Commit and versions are those recorded when it ran.

    Args:
        built: The source as a notebook; changed in place.
        executed: What papermill saved.
        result: The run's result file.
    Raises:
        RunnerError: The run executed other code than the source holds.
    """
    if code_sha256(built) != code_sha256(executed):
        raise RunnerError("the executed notebook holds other code than its source; run it again")
    pairs = zip(code_cells(built), code_cells(executed), strict=True)
    count = 0
    for cell, ran in pairs:
        cell.outputs = [_with_small_pictures(output) for output in ran.outputs]
        if ran.execution_count is None:  # an empty cell
            continue
        count += 1  # the injected cell's number is closed up
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    facts = result.get("manifest", {})
    built.metadata["sft"] = {
        "code_sha256": code_sha256(built),
        "outputs_sha256": outputs_sha256(built),
        "profile": result["profile"],
        "commit": facts.get("git", {}).get("commit", "unknown"),
        "dirty": facts.get("git", {}).get("dirty", True),
        "versions": facts.get("versions", {}),
    }
    return built


def _with_small_pictures(output: NotebookNode) -> NotebookNode:
    """The output with its PNG as a palette of 128 colours: as wide and high, a third of the bytes.

    Plots have few colours, and every version of a notebook stays in the repository's history.
    """
    picture = output.get("data", {}).get("image/png")
    if picture is None:
        return output
    from PIL import Image

    drawn = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA")
    page = Image.new("RGBA", drawn.size, "white")  # what is transparent would turn black
    packed = io.BytesIO()
    flat = Image.alpha_composite(page, drawn).convert("RGB")
    flat.quantize(128).save(packed, format="PNG", optimize=True)
    small = base64.b64encode(packed.getvalue()).decode()
    output.data["image/png"] = small if len(small) < len(picture) else picture
    return output


def publish(
    layout: Layout, notebooks: Sequence[str], profile: str, models: dict[str, str]
) -> list[str]:
    """Publish finished runs: the reference JSON, and at `cpu` the notebook and the README.

    Everything is checked before the first file is written.

    Args:
        layout: Where things are.
        notebooks: Full names.
        profile: Profile of the runs; at others than cpu only the JSON is published.
        models: Profile -> base model, for the cost tables.
    Returns:
        The files written, relative to the repository.
    Raises:
        RunnerError: A run is missing, stale, shared the machine with another notebook, had
            another number of threads or files that are not committed, or ran with other
            parameters than the defaults, or its notebook holds something `verify` refuses.
    """
    ready: dict[str, NotebookNode] = {}
    results: dict[str, dict[str, Any]] = {}
    refused = []
    for notebook in notebooks:
        result_file = layout.run_file(notebook, profile, ".json")
        ran_with = read_json(result_file).get("threads") if result_file.is_file() else None
        run = Run(layout=layout, notebook=notebook, profile=profile, params={}, threads=ran_with)
        if not is_fresh(run):
            refused.append(
                f"{notebook}: no finished, unchanged run with default parameters at profile "
                f"{profile}. Run: {repeat_command(notebook, profile, {})}"
            )
            continue
        results[notebook] = read_json(result_file)
        refused += _unfit_runs(layout, notebook, profile)
        if profile == PUBLISHED_PROFILE:
            ran = nbformat.read(layout.run_file(notebook, profile, ".ipynb"), as_version=4)
            ready[notebook] = compose(build(layout, notebook, models), ran, results[notebook])
            refused += problems(layout, notebook, ready[notebook])
    if refused:
        raise RunnerError("\n".join(["nothing published:", *refused]))
    written = []
    for notebook, result in results.items():
        target = layout.reference(notebook, profile)
        write_json(target, _portable(result))
        written.append(target)
    written += _write_notebooks(layout, ready, models)
    return [str(path.relative_to(layout.root)) for path in [*written, *write_readme(layout)]]


def _unfit_runs(layout: Layout, notebook: str, profile: str) -> list[str]:
    """Runs behind a notebook that another machine, or this one next week, cannot repeat."""
    found = []
    read = {*upstream_closure(layout, notebook), *dependencies(layout, notebook).optional}
    for name in sorted({notebook, *read}):
        path = layout.run_file(name, profile, ".json")
        why = _unfit(read_json(path)) if path.is_file() else ""
        if why:
            what = "it" if name == notebook else f"{name}, which it reads,"
            command = f"{repeat_command(name, profile, {})} FORCE=1"
            found.append(f"{notebook}: {what} ran {why}. Run: {command}")
    return found


def _unfit(result: dict[str, Any]) -> str:
    """How a run differs from what is published: alone, default threads, committed files."""
    beside, threads = result.get("at_once", 1), result.get("threads", THREADS)
    git = result.get("manifest", {}).get("git", {})
    if beside > 1:
        return (
            f"with {beside} notebooks at a time; its time and its last digits are not those of a "
            "run alone"
        )
    if threads != THREADS and not PROFILES[result["profile"]].is_gpu:
        return (
            f"with SFT_THREADS={threads}, published numbers are of {THREADS} threads: last digits "
            "differ. Unset it"
        )
    if git.get("dirty", True):
        commit = git.get("commit", "none")[:12]
        return (
            f"from files that differ from their commit ({commit}): nobody can fetch what made its "
            "numbers. Commit first"
        )
    return ""


def _portable(result: dict[str, Any]) -> dict[str, Any]:
    """The result without files at absolute paths: they exist on this machine only."""
    files = result.get("files", {})
    paths = {k: Path(v["path"] if isinstance(v, dict) else v) for k, v in files.items()}
    return result | {"files": {k: v for k, v in files.items() if not paths[k].is_absolute()}}


def _write_notebooks(
    layout: Layout, ready: dict[str, NotebookNode], models: dict[str, str]
) -> list[Path]:
    """Write new notebooks; renew what stands around the outputs of the others."""
    written = []
    for notebook in notebook_names(layout):
        path = layout.published(notebook)
        nb = ready.get(notebook)
        if nb is None and not path.is_file():
            continue
        if nb is None:
            nb = with_setup_cell(nbformat.read(path, as_version=4))
            _renew_text(parse(read_source(layout, notebook), notebook), nb)
        text = _text(fill_costs(nb, cost_table(notebook, layout.reference_root, models)))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            written.append(path)
    return written


def _renew_text(source: NotebookNode, nb: NotebookNode) -> None:
    """Bring text cells to the source's wording, in place; only if every code cell is the same.

    What a notebook prints does not come from its own text cells, so better words cost no run.
    """
    if all(line.startswith("markdown") for line in differences(source, nb)):
        for ours, cell in zip(own_cells(source), own_cells(nb), strict=True):
            if cell.cell_type == "markdown":
                cell.source, cell.metadata = ours.source, ours.metadata


def renew(layout: Layout, models: dict[str, str]) -> list[str]:
    """Write again what stands around results: text, cost tables, setup cells, README tables.

    Returns:
        The files that changed, relative to the repository.
    """
    written = [*_write_notebooks(layout, {}, models), *write_readme(layout)]
    return [str(path.relative_to(layout.root)) for path in written]


def _text(nb: NotebookNode) -> str:
    return nbformat.writes(nb, version=4) + "\n"


def write_readme(layout: Layout) -> list[Path]:
    """Renew the generated tables of README.md, where it has their markers."""
    readme = layout.root / "README.md"
    if not readme.is_file():
        return []
    titles, results = {}, {}
    for notebook in notebook_names(layout):
        titles[notebook] = question(layout, notebook)
        reference = layout.reference(notebook, PUBLISHED_PROFILE)
        if reference.is_file():
            results[notebook] = read_json(reference)
    old = readme.read_text(encoding="utf-8")
    new = replace_generated(old, "notebooks", notebooks_table(titles, results))
    new = replace_generated(new, "results", results_table(results))
    gpus = {p.stem: read_json(p) for p in sorted((layout.reference_root / "gpu").glob("*.json"))}
    new = replace_generated(new, "gpu", gpu_table(gpus))
    chains = sorted(layout.chains.glob("*.json"))
    new = replace_generated(new, "chain", chain_table([read_json(path) for path in chains]))
    if new == old:
        return []
    write_text(readme, new)
    return [readme]


def question(layout: Layout, notebook: str) -> str:
    """The title of a notebook after the `·`; its name when it has none."""
    text = layout.source(notebook).read_text(encoding="utf-8")
    found = re.search(r"^# # (?:.*?· *)?(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else notebook


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
    setup = [c.source for c in nb.cells if SETUP_TAG in c.metadata.get("tags", [])]
    if setup != [CELL]:
        found.append("the setup cell is missing or old. Run: make renew")
    stamp = nb.metadata.get("sft", {})
    if stamp.get("code_sha256") != code_sha256(nb):
        found.append("code cells edited since the run, or no stamp; use make adopt, then run it")
    elif stamp.get("outputs_sha256") != outputs_sha256(nb):
        found.append("outputs edited by hand: they differ from the stamp")
    elif stamp.get("profile") != PUBLISHED_PROFILE:
        found.append(f"published from profile {stamp.get('profile')!r}, not {PUBLISHED_PROFILE!r}")
    n_bytes = len(_text(nb).encode()) if n_bytes is None else n_bytes
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
    own = [re.escape(f"{p}/") for p in (layout.root, Path.home()) if p != Path("/")]
    machine = re.compile(rf"(?<![\w.~-])(?:{'|'.join(own)})|{HOMES}")
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
