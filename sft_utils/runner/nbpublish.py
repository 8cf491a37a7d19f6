"""Turn a finished run into the committed notebook and reference."""

import base64
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from sft_utils.artifacts import read_json, sha256_json, write_json, write_text
from sft_utils.config import PROFILES, THREADS
from sft_utils.errors import RunnerError
from sft_utils.notebook.nbdeps import data_hashes, dependencies, upstream_closure
from sft_utils.notebook.nbsource import (
    Layout,
    build,
    code_cells,
    code_sha256,
    notebook_names,
    outputs_sha256,
    parse,
    read_source,
)
from sft_utils.runner import nbpages
from sft_utils.runner.nbflow import Run, is_fresh, repeat_command
from sft_utils.runner.nbverify import (
    PUBLISHED_PROFILE,
    modules,
    of_this_machine,
    problems,
    read_notebook,
    renewed,
    renewed_readme,
)


def compose(
    built: NotebookNode,
    executed: NotebookNode,
    result: dict[str, Any],
    reached: Mapping[str, str] | None = None,
) -> NotebookNode:
    """The publishable notebook: cells of the source, outputs of the run, a stamp.

    Built from the source rather than cleaned from the run, so no metadata of papermill,
    widgets or timing can get in. Commit and versions are those recorded when it ran.

    Args:
        built: The source as a notebook; changed in place.
        executed: What papermill saved.
        result: The run's result file.
        reached: Module -> hash of those the notebook reaches, as they were when it ran.
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
        "run_id": result.get("run_id", "unknown"),
        "result_sha256": sha256_json(_portable(result)),
        "modules": dict(reached or {}),
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
    """Publish finished runs: the reference JSON, and at `cpu` its reports, notebook and README.

    Everything is checked before the first file is written.

    Args:
        layout: Where things are.
        notebooks: Full names.
        profile: Profile of the runs; at others than cpu only the JSON is published.
        models: Profile -> base model, for the cost tables.
    Returns:
        The files written, relative to the repository.
    Raises:
        RunnerError: A run is missing, stale, shared the machine with another notebook, went on
            from stored work, had another number of threads or files that are not committed, or
            ran with other parameters than the defaults; what it reads ran with other code cells
            or data; or its notebook holds something `verify` refuses.
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
            built = build(layout, notebook, models)
            ready[notebook] = compose(built, ran, results[notebook], modules(layout, notebook))
            refused += problems(layout, notebook, ready[notebook])
            machine = of_this_machine(layout)
            found = nbpages.unfit(layout, results[notebook], machine)
            refused += [f"{notebook}: {line}" for line in found]
    if refused:
        raise RunnerError("\n".join(["nothing published:", *refused]))
    written = []
    for notebook, result in results.items():
        target = layout.reference(notebook, profile)
        write_json(target, _portable(result))
        written.append(target)
        if profile == PUBLISHED_PROFILE:
            written += nbpages.write(layout, notebook, result)
    written += _write_notebooks(layout, ready, models)
    return [str(path.relative_to(layout.root)) for path in [*written, *write_readme(layout)]]


def _unfit_runs(layout: Layout, notebook: str, profile: str) -> list[str]:
    """Runs behind a notebook that another machine, or this one next week, cannot repeat."""
    found = []
    read = {*upstream_closure(layout, notebook), *dependencies(layout, notebook).optional}
    for name in sorted({notebook, *read}):
        path, committed = layout.run_file(name, profile, ".json"), layout.reference(name, profile)
        if not path.is_file():
            continue
        result = read_json(path)
        if name != notebook and committed.is_file() and result == read_json(committed):
            continue  # put back from the published results, which anybody can do
        why = _unfit(result)
        if not why and name != notebook:
            why = _outdated(layout, name, profile)
        if why:
            what = "it" if name == notebook else f"{name}, which it reads,"
            command = f"{repeat_command(name, profile, {})} FORCE=1"
            trials = layout.run_file(name, profile, "") / "trials"
            if result.get("continued") and trials.is_dir():  # FORCE leaves them
                command = f"rm -r {_shown(layout, trials)} && {command}"
            found.append(f"{notebook}: {what} ran {why}. Run: {command}")
    return found


def _shown(layout: Layout, path: Path) -> str:
    return shlex.quote(os.path.relpath(path, layout.root))


def _outdated(layout: Layout, notebook: str, profile: str) -> str:
    """What decides a result and is no longer what ran: code cells or files below data/.

    Words and modules may have changed since. Most such changes move no number, and refusing them
    would mean to run everything again before one notebook can be published (`verify` notes
    them). Only what is recorded can be compared: runs of old have no hashes of their data.
    """
    ran = layout.run_file(notebook, profile, ".ipynb")
    source = parse(read_source(layout, notebook), notebook)
    if ran.is_file() and code_sha256(nbformat.read(ran, as_version=4)) != code_sha256(source):
        return "with other code cells than its source holds now"
    state = layout.run_file(notebook, profile, ".state.json")
    recorded = read_json(state).get("data", {}) if state.is_file() else {}
    today = data_hashes(layout, notebook)
    changed = [p for p in sorted(recorded) if today.get(p, recorded[p]) != recorded[p]]
    changed = [p for p in changed if p.startswith("data/")]  # benchmarks are measured again
    return f"before {changed[0]} was changed" if changed else ""


def _unfit(result: dict[str, Any]) -> str:
    """How a run differs from what is published: alone, whole, default threads, committed files."""
    beside, threads = result.get("at_once"), result.get("threads")
    git = result.get("manifest", {}).get("git", {})
    is_gpu = PROFILES[result["profile"]].is_gpu
    if beside is None or (threads is None and not is_gpu):
        return "by hand or long ago: it does not say beside what and with how many threads"
    if beside > 1:
        return (
            f"with {beside} notebooks at a time; its time and its last digits are not those of a "
            "run alone"
        )
    if result.get("continued"):
        return "on from what an earlier run had stored; its time is not that of the work"
    if threads != THREADS and not is_gpu:
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
            nb = read_notebook(path)
        text = renewed(layout, notebook, nb, models)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            written.append(path)
    return written


def renew(layout: Layout, models: dict[str, str]) -> list[str]:
    """Write again what stands around results: text, cost tables, setup cells, README tables.

    Returns:
        The files that changed, relative to the repository.
    """
    written = [*_write_notebooks(layout, {}, models), *write_readme(layout)]
    return [str(path.relative_to(layout.root)) for path in written]


def write_readme(layout: Layout) -> list[Path]:
    """Renew the generated tables of README.md, where it has their markers."""
    readme = layout.root / "README.md"
    if not readme.is_file():
        return []
    new = renewed_readme(layout)
    if new == readme.read_text(encoding="utf-8"):
        return []
    write_text(readme, new)
    return [readme]
