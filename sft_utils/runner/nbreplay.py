"""Find a recorded run by its id and run its notebook again, next to the original."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json, storage_error
from sft_utils.errors import ConfigError
from sft_utils.notebook.nbdeps import dependencies, upstream_closure
from sft_utils.notebook.nbparams import convert, defaults
from sft_utils.notebook.nbsource import NAME, Layout, find_notebook, parse, read_source
from sft_utils.runner.nbflow import Run, lock, run_one
from sft_utils.runner.nbprogress import say


def recorded_results(layout: Layout) -> list[dict[str, Any]]:
    """All results with a run id: own runs first, then committed ones."""
    files = [*layout.runs_root.glob("*/*.json"), *layout.reference_root.glob("*/*.json")]
    results = [read_json(path) for path in files if NAME.fullmatch(path.stem)]
    return [result for result in results if result.get("run_id")]


def find_run(layout: Layout, prefix: str) -> dict[str, Any]:
    """The recorded result whose run id begins with `prefix`.

    Raises:
        ConfigError: None or several do; the known ids are listed.
    """
    results = recorded_results(layout)
    matches = {r["run_id"]: r for r in reversed(results) if r["run_id"].startswith(prefix)}
    if len(matches) == 1 and prefix:
        return next(iter(matches.values()))
    listed = matches if matches else {r["run_id"]: r for r in results}
    known = [f"  {i}  {r['notebook']} [{r['profile']}]" for i, r in sorted(listed.items())]
    problem = "fits several runs" if matches else "is not the beginning of any recorded run id"
    raise ConfigError("\n".join([f"{prefix!r} {problem}. Recorded:", *(known or ["  none"])]))


def replay(layout: Layout, recorded: Mapping[str, Any], models: dict[str, str]) -> dict[str, Any]:
    """Run a recorded run's notebook again with its profile and parameters.

    Everything is written below outputs/reproduce/<run id>; the original stays. Results of
    upstream notebooks are taken from the present runs where they exist, else made there.

    Args:
        layout: Where things are.
        recorded: The recorded result.
        models: Profile -> base model, for the cost tables.
    Returns:
        The new result.
    Raises:
        ConfigError: The notebook, or one of its recorded parameters, no longer exists.
        RunnerError: The replay failed.
    """
    notebook, profile = find_notebook(layout, recorded["notebook"]), recorded["profile"]
    there = Layout(
        root=layout.root,
        runs_root=layout.root / "outputs" / "reproduce" / recorded["run_id"],
    )
    given = {k: v for k, v in recorded.get("parameters", {}).items() if k != "profile"}
    known = defaults(parse(read_source(layout, notebook), notebook))
    params = convert(notebook, known, given)
    with lock(there, profile), _threads_of(recorded):
        for name in upstream_closure(layout, notebook):
            run = Run(layout=there, notebook=name, profile=profile, params={})
            if there.run_file(name, profile, ".state.json").is_file() or not hand_over(
                layout, there, name, profile
            ):
                _unlink(there.run_file(name, profile, ""))
                run_one(run, models)
        for name in dependencies(layout, notebook).optional:
            hand_over(layout, there, name, profile)
        if there.run_file(notebook, profile, ".state.json").is_file():
            _clear(there.run_file(notebook, profile, ""))
        run = Run(layout=there, notebook=notebook, profile=profile, params=params)
        return dict(run_one(run, models, force=True).result)


@contextlib.contextmanager
def _threads_of(recorded: Mapping[str, Any]) -> Iterator[None]:
    """As many threads as the recorded run had: another number adds up in another order."""
    before = os.environ.get("SFT_THREADS")
    if "threads" in recorded:
        os.environ["SFT_THREADS"] = str(recorded["threads"])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SFT_THREADS", None)
        else:
            os.environ["SFT_THREADS"] = before


def hand_over(layout: Layout, there: Layout, notebook: str, profile: str) -> bool:
    """Copy a result and link its folder of files into the replay; False if there is none."""
    result = layout.run_file(notebook, profile, ".json")
    if not result.is_file():
        return False
    target = there.run_file(notebook, profile, ".json")
    folder = there.run_file(notebook, profile, "")
    try:
        shutil.copyfile(result, target)
        _clear(folder)
        _link(layout.run_file(notebook, profile, ""), folder)
    except OSError as error:
        raise storage_error(target, error) from error
    say(f"{notebook} [{profile}] taken from {os.path.relpath(result, layout.root)}")
    return True


def _unlink(folder: Path) -> None:
    """Remove what an earlier replay linked: a run would write into the files of the original."""
    if folder.is_symlink():
        folder.unlink()


def _clear(folder: Path) -> None:
    """Remove a link, or a folder that an earlier replay filled: answers and trials it kept."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def _link(source: Path, link: Path) -> None:
    if source.is_dir():
        link.symlink_to(source, target_is_directory=True)
