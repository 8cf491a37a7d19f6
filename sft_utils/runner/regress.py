"""Compare results with their reference, and replay a recorded run.

    python -m sft_utils.runner.regress compare --profile cpu
    python -m sft_utils.runner.regress reproduce --run 3fa9

Exit status: 0 equal within tolerance, 1 a difference or a failed replay, 2 wrong usage, 130
interrupted.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sft_utils.artifacts import read_json
from sft_utils.config import get_profile
from sft_utils.errors import ConfigError, RunnerError, SFTError
from sft_utils.formats import aligned
from sft_utils.notebook.nbsource import NAME, Layout, find_notebook, notebook_names
from sft_utils.runner.nbcompare import (
    Comparison,
    compare,
    difference,
    interval_code_changed,
    rule_for,
)
from sft_utils.runner.nbexec import repeat_command
from sft_utils.runner.nbflow import Run, is_fresh, read_state
from sft_utils.runner.nbprogress import nobody_reads, say
from sft_utils.runner.nbreplay import find_run, replay
from sft_utils.runner.nbrun import profile_models


def compare_profile(layout: Layout, profile: str, notebook: str | None = None) -> Comparison:
    """Compare all results of a profile with the committed ones.

    A result counts only if its run finished, or ended with failed checks: then its numbers are
    those that one wants to see. Whether the code, the inputs or the parameters are
    others than those of a default run today stands among the inputs that differ.

    Args:
        layout: Where things are.
        profile: Profile name.
        notebook: Full name of one notebook; None compares all.
    Raises:
        RunnerError: There is no reference to compare with.
    """
    folder = layout.reference_root / profile
    names = sorted(p.stem for p in folder.glob("*.json") if NAME.fullmatch(p.stem))
    recorded = set(names)
    names = [n for n in names if notebook in (None, n)]
    if not names:
        raise RunnerError(
            f"outputs/reference/{profile} holds no result of {notebook or 'any notebook'}. "
            f"Record one: make run-all publish PROFILE={profile}"
        )
    total = Comparison()
    if notebook is None:
        ran = (n for n in notebook_names(layout) if layout.run_file(n, profile, ".json").is_file())
        total.unknown = [n for n in ran if n not in recorded]
    for name in names:
        path = layout.run_file(name, profile, ".json")
        observed = read_json(path) if path.is_file() else {}
        finished = bool(read_state(layout, name, profile))
        if not finished and observed.get("passed", True):
            what = "not finished" if observed else "not run"
            total.differences.append(difference(name, "result", "notebook", "present", what))
            continue
        reference = read_json(layout.reference(name, profile))
        one = compare(*(_with_packages(layout, result) for result in (reference, observed)))
        threads = observed.get("threads")
        run = Run(layout=layout, notebook=name, profile=profile, params={}, threads=threads)
        if not finished:
            total.inputs.append(f"{name}: checks failed. Run: {repeat_command(name, profile, {})}")
        elif not is_fresh(run):
            total.inputs.append(
                f"{name}: not what would run today: code, inputs, packages or parameters are "
                f"others. Run: {repeat_command(name, profile, {})}"
            )
        total.differences += one.differences
        total.skipped += one.skipped
        total.inputs += [line for line in one.inputs if line not in total.inputs]
        total.n_compared += one.n_compared
    return total


def _with_packages(layout: Layout, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A result with the versions of all pinned packages.

    Results of old name fourteen; the others are the pins of the commit that they ran at.
    """
    facts = result.get("manifest", {})
    commit = facts.get("git", {}).get("commit")
    if "packages" in facts or not commit or facts["git"].get("dirty", True):
        return result
    show = ["git", "-C", str(layout.root), "show", f"{commit}:requirements/cpu.lock"]
    try:
        lock = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no checkout, or a shallow one
        return result
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", lock, flags=re.MULTILINE))
    return result | {"manifest": facts | {"packages": pins | facts.get("versions", {})}}


def report(found: Comparison) -> list[str]:
    """The lines that tell a person what differs, the first differing number first."""
    lines = []
    if found.differences:
        numbers = [d for d in found.differences if d.what in ("value", "n")]
        lines += [f"first difference: {[*numbers, *found.differences][0]}", ""]
        header = ["notebook", "name", "what", "reference", "observed", "tolerance"]
        rows = [[d.notebook, d.name, d.what, d.reference, d.observed, d.tolerance or "-"]
                for d in found.differences]  # fmt: skip
        lines += [*aligned([header, *rows]).splitlines(), ""]
    if interval_code_changed(found):
        lines.append(
            "intervals differ where values and n are equal: the code that computes intervals may "
            "have changed since the recorded run, which is replayed with the code of today"
        )
    if found.inputs:
        lines += ["inputs that differ:", *(f"  {line}" for line in found.inputs)]
    if found.unknown:
        lines.append(
            f"no reference yet, not compared: {', '.join(found.unknown)}. "
            "Record one: make publish, with the same PROFILE"
        )
    if found.skipped:
        lines.append(f"not compared (time, memory, throughput): {', '.join(found.skipped)}")
    n = len(found.differences)
    end = f"{n} difference{'s' * (n != 1)}" if n else "all equal within tolerance"
    return [*lines, f"{found.n_compared} metrics and checks compared: {end}"]


def main(argv: Sequence[str] | None = None, layout: Layout | None = None) -> int:
    """Run one command; returns the exit status."""
    top = argparse.ArgumentParser(prog="python -m sft_utils.runner.regress", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare", help="results of this machine against the committed ones")
    one.add_argument("--profile", default="cpu")
    one.add_argument("--nb", help="number or full name; default: all")
    two = commands.add_parser("reproduce", help="replay a recorded run and compare exactly")
    two.add_argument("--run", required=True, help="run id or its unique beginning")
    options = top.parse_args(argv)
    layout = layout or Layout.of()
    try:
        if options.command == "compare":
            get_profile(options.profile)
            notebook = find_notebook(layout, options.nb) if options.nb else None
            found = compare_profile(layout, options.profile, notebook)
        else:
            recorded = find_run(layout, options.run)
            replayed = replay(layout, recorded, profile_models())
            found = compare(recorded, replayed, exact=True)
            for line in replay_table(recorded, replayed, found):
                say(line)
        for line in report(found):
            say(line)
    except SFTError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return nobody_reads()
    return 1 if found.differences else 0


def replay_table(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any], found: Comparison
) -> list[str]:
    """Every metric of both runs side by side."""
    wrong = {d.name for d in found.differences if d.what != "ci95"}
    moved = {d.name for d in found.differences} - wrong
    rows = [["metric", "recorded", "replayed", "verdict"]]
    for name in recorded["metrics"] | replayed["metrics"]:
        values = [str(r["metrics"].get(name, {}).get("value", "-")) for r in (recorded, replayed)]
        verdict = "different" if name in wrong else "equal"
        verdict = "other interval" if name in moved else verdict
        rows.append([name, *values, "not compared" if rule_for(name).kind == "skip" else verdict])
    return [*aligned(rows).splitlines(), ""]


if __name__ == "__main__":
    sys.exit(main())
