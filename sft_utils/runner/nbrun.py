"""Command line of the notebooks: run, run-all, publish, renew, verify, adopt, list, times.

    python -m sft_utils.runner.nbrun run --nb 03 --profile cpu --param max_steps=10

Exit status: 0 success, 1 a notebook or a check failed, 2 wrong usage, 130 interrupted.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from sft_utils.artifacts import write_text
from sft_utils.config import PROFILES, get_profile
from sft_utils.errors import ConfigError, RunnerError, SFTError
from sft_utils.formats import clock
from sft_utils.notebook.nbdeps import dependencies
from sft_utils.notebook.nbsource import Layout, adopt, find_notebook, notebook_names, read_source
from sft_utils.runner import nbtimes
from sft_utils.runner.nbchain import check_recordable, record, run_all
from sft_utils.runner.nbflow import expected_s, lock, plan, run_one, summary
from sft_utils.runner.nbprogress import nobody_reads, say
from sft_utils.runner.nbpublish import publish, renew, write_readme
from sft_utils.runner.nbverify import notes, question, verify


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m sft_utils.runner.nbrun", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, *, profile: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        if profile:
            command.add_argument("--profile", default="cpu", help="machine profile")
        return command

    one = add("run", "run one notebook")
    one.add_argument("--nb", required=True, help="number or full name")
    every = add("run-all", "run all notebooks; a failure stops what needs it")
    for command in (one, every):
        command.add_argument(
            "--param", action="append", default=[], help="name=value, or several, shell-quoted"
        )
        command.add_argument("--force", action="store_true", help="run even if unchanged")
        command.add_argument("--cell-timeout", type=int, help="seconds; default: the profile's")
    every.add_argument("--jobs", type=int, default=1, help="notebooks at a time; default 1")
    every.add_argument(
        "--record",
        action="store_true",
        help="write the time of the whole chain for README; runs all",
    )
    release = add("publish", "publish finished runs: notebook, reference JSON, README tables")
    release.add_argument("--nb", default="all", help="number, full name, or all")
    add("renew", "bring text, tables, setup cells of published notebooks up to date", profile=False)
    add("verify", "name what is stale, edited or unfit: notebooks, results, tables", profile=False)
    rescue = add("adopt", "bring an edited notebook back into notebooks/src", profile=False)
    rescue.add_argument("--nb", required=True, help="number or full name")
    rescue.add_argument("--from", dest="origin", type=Path, help="the edited .ipynb")
    rescue.add_argument("--yes", action="store_true", help="write without asking")
    add("list", "list notebooks, expected times and what they need")
    add("times", "where the time of the last runs went: kinds of work, slowest cells")
    return top


def main(argv: Sequence[str] | None = None, layout: Layout | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        return _dispatch(options, layout or Layout.of())
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return 2
    except SFTError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues with this notebook", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return nobody_reads()


def _dispatch(options: argparse.Namespace, layout: Layout) -> int:
    if "profile" in options:
        get_profile(options.profile)
    if options.command in ("run", "run-all"):
        return _run(options, layout)
    if options.command == "publish":
        for path in publish(layout, _chosen(options, layout), options.profile, profile_models()):
            say(f"wrote {path}")
        return 0
    if options.command == "renew":
        for path in renew(layout, profile_models()):
            say(f"wrote {path}")
        return 0
    if options.command == "verify":
        return _verify(layout)
    if options.command == "adopt":
        return _adopt(options, layout)
    if options.command == "times":
        return _times(options, layout)
    return _list(options, layout)


def profile_models() -> dict[str, str]:
    """Profile -> base model: the rows of the cost tables."""
    return {name: profile.model for name, profile in PROFILES.items()}


def _chosen(options: argparse.Namespace, layout: Layout) -> list[str]:
    every = notebook_names(layout)
    if options.command == "run-all" or options.nb == "all":
        if not every:
            raise ConfigError("notebooks/src holds no notebook")
        return every
    return [find_notebook(layout, options.nb)]


def _run(options: argparse.Namespace, layout: Layout) -> int:
    runs = plan(layout, _chosen(options, layout), options.profile, options.param)
    limit = options.cell_timeout or get_profile(options.profile).cell_timeout_s
    settings = {"force": options.force, "cell_timeout_s": limit}
    if options.command == "run-all" and options.record:
        check_recordable(runs)
        settings["force"] = True  # the time of a chain is that of all its notebooks
    models = profile_models()
    with lock(layout, options.profile):
        if options.command == "run":
            run_one(runs[0], models, **settings)
            return 0
        chain = run_all(runs, models, jobs=options.jobs, **settings)
    outcomes = chain.outcomes
    say("")
    say(summary(outcomes, chain.elapsed_s, chain.jobs))
    failed = [o.notebook for o in outcomes if o.status == "failed"]
    for outcome in outcomes:  # once more where a log of hours ends, which may be all that is kept
        if outcome.why:
            say(f"\n{outcome.why}")
    if failed:
        blocked = [o.notebook for o in outcomes if o.status == "blocked"]
        rest = f"; not run because of that: {', '.join(blocked)}" if blocked else ""
        say(f"failed: {', '.join(failed)}{rest}")
        say("the same command continues with these")
        return 1
    if options.record:
        for path in [record(layout, chain, options.profile), *write_readme(layout)]:
            say(f"wrote {path.relative_to(layout.root)}")
    return 0


def _verify(layout: Layout) -> int:
    found = verify(layout, profile_models())
    for line in found:
        say(line)
    for line in notes(layout):
        say(f"note, no problem: {line}")
    say(f"{len(found)} problems" if found else "all published notebooks match their sources")
    return 1 if found else 0


def _adopt(options: argparse.Namespace, layout: Layout) -> int:
    notebook = find_notebook(layout, options.nb)
    origin = options.origin or layout.published(notebook)
    if not origin.is_file():
        raise ConfigError(f"{origin} does not exist. Name the edited notebook with --from")
    try:
        edited = nbformat.read(origin, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise RunnerError(f"{origin} is no notebook: {str(error).splitlines()[0]}") from error
    target = layout.source(notebook)
    old = read_source(layout, notebook)
    new = adopt(old, edited)
    if new == old:
        say(f"{target.name} already holds everything in {origin.name}")
        return 0
    lines = (old.splitlines(), new.splitlines())
    say("\n".join(difflib.unified_diff(*lines, target.name, origin.name, lineterm="")))
    if not options.yes:
        if not sys.stdin.isatty():
            raise RunnerError("nothing written. Add --yes (make: YES=1) to take this edit over")
        if input(f"write this to {target.name}? [y/N] ").strip().lower() != "y":
            say("nothing written")
            return 1
    write_text(target, new)
    say(f"wrote {target.name}. Next: make nb NB={notebook[:2]}")
    return 0


def _list(options: argparse.Namespace, layout: Layout) -> int:
    for notebook in notebook_names(layout):
        seconds = expected_s(layout, notebook, options.profile)
        time = "time unknown" if seconds is None else f"about {clock(seconds)}"
        deps = dependencies(layout, notebook)
        needs = ", ".join(name[:2] for name in deps.upstream) or "nothing"
        reads = ", reads whatever has run" if deps.optional else ""
        say(f"{notebook}  {question(layout, notebook)}  ({time}; needs {needs}{reads})")
    return 0


def _times(options: argparse.Namespace, layout: Layout) -> int:
    found = nbtimes.collect(layout, options.profile)
    if not found:
        command = f"make run-all PROFILE={options.profile}"
        raise ConfigError(f"nothing has run at profile {options.profile} yet. Run: {command}")
    say(nbtimes.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
