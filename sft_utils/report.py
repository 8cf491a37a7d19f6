"""What a notebook shows and hands on: takeaways, tables, figures, the checkpoint cell."""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_utils import manifest
from sft_utils.artifacts import (
    COMPLETE,
    HANDED,
    IDENTITY,
    display_path,
    result_path,
    sha256_path,
    write_json,
)
from sft_utils.errors import CheckError, ConfigError
from sft_utils.formats import number
from sft_utils.runtime import Run, hardware, peak_gpu_gib, peak_rss_gib

COLOURS = {
    "base": "#7f7f7f",
    "few_shot": "#b0a36a",
    "sft": "#1f6fb4",
    "lora": "#1b9e9e",
    "qlora": "#e0812a",
    "broken": "#c23b3b",
}
"""One colour per thing in every figure (readable with colour-blindness; never the only cue)."""

UNJUDGED = ", not judged in this run"


def takeaway(text: str, *, when: bool = True) -> None:
    """Print what the numbers above say; `when` limits it to runs in which it is measured."""
    print(f"→ {text}" if when else f"→ not claimed of this run: {text}")


def table(rows: Sequence[dict[str, Any]], caption: str = "") -> None:
    """Show rows as a table; floats with three digits, metric entries with their interval."""
    import pandas
    from IPython.display import display

    shown = [{k: _cell(v) for k, v in row.items()} for row in rows]
    if caption:
        print(caption)
    with pandas.option_context("display.max_colwidth", None, "display.max_rows", None):
        frame = pandas.DataFrame(shown).fillna("")
        frame.index = [""] * len(frame)
        display(frame)


def _cell(value: Any) -> Any:
    if isinstance(value, dict) and "value" in value:
        return interval_text(value)
    if isinstance(value, float):
        return number(value)
    return value


def interval_text(metric: dict[str, Any]) -> str:
    """A metric entry as text: `0.912 [0.871, 0.946]`."""
    if metric.get("ci95") is None:
        return f"{metric['value']:.4g}"
    low, high = metric["ci95"]
    return f"{number(metric['value'])} [{number(low)}, {number(high)}]"


@contextlib.contextmanager
def figure(title: str, subtitle: str, *, alt: str, width: float = 7.0) -> Iterator[Any]:
    """Draw one figure: the title states the finding, the text alternative is printed below.

    Yields:
        A matplotlib Axes of `width` x 3.5 inches at 110 dpi.
    """
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "sft"
    fig, axes = plt.subplots(figsize=(width, 3.5), dpi=110, layout="constrained")
    yield axes
    axes.set_title(f"{title}\n", fontsize=11, loc="left", fontweight="bold")
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=8.5, color="#444")
    axes.spines[["top", "right"]].set_visible(False)
    plt.show()
    plt.close(fig)
    print(f"[figure] {alt}")


def show(text: str) -> None:
    """Display an HTML fragment."""
    from IPython.display import HTML, display

    display(HTML(text))


def show_source(function: Callable[..., Any]) -> None:
    """Print the live source of a packaged function, so that nothing is hidden."""
    print(inspect.getsource(function))


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as those that JSON can hold, also inside lists and entries."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


class Checkpoint:
    """Collects named checks, metrics and files; `checkpoint` writes them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.metrics: dict[str, dict[str, Any]] = {}
        self.unwritable: set[str] = set()  # names of metrics with NaN or infinity
        self.checks: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, str]] = {}

    def _add(self, name: str, value: Any, bound: str, passed: bool) -> None:
        value = _plain(value)
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # JSON has no such number, and the check is to be named all the same
        self.checks.append({"name": name, "value": value, "bound": bound, "passed": bool(passed)})

    def true(self, name: str, value: bool) -> None:
        """Require a fact."""
        self._add(name, bool(value), "is true", bool(value))

    def equal(self, name: str, observed: Any, expected: Any) -> None:
        """Require equality; the expected value is recorded as the bound."""
        self._add(name, observed, f"== {expected}", observed == expected)

    def between(
        self, name: str, value: float, low: float, high: float, *, when: bool = True
    ) -> None:
        """Require low <= value <= high; `when=False` as in `at_least`."""
        judged = f"in [{low:g}, {high:g}]{'' if when else UNJUDGED}"
        self._add(name, value, judged, low <= value <= high or not when)

    def at_least(self, name: str, value: float, bound: float, *, when: bool = True) -> None:
        """Require value >= bound; with `when=False` the value is recorded, not judged."""
        judged = f">= {bound:g}{'' if when else UNJUDGED}"
        self._add(name, value, judged, value >= bound or not when)

    def metric(
        self, name: str, value: Any, n: int | None = None, ci95: list[float] | None = None
    ) -> None:
        """Publish a metric: a number with n and interval, or an entry made by `scoring`.

        One that holds NaN or infinity becomes a failed check: no file can hold it, and where a run
        diverged the other numbers say so.

        Raises:
            ConfigError: It is no number, or a bound of its interval is none.
        """
        entry = value if isinstance(value, dict) else {"value": value, "n": n, "ci95": ci95}
        entry = {k: _plain(v) for k, v in entry.items() if v is not None}
        numbers = [entry.get("value"), *entry.get("ci95", ())]
        if not all(isinstance(x, int | float) for x in numbers):
            raise ConfigError(f"metric {name!r} is {entry}: value and interval must be numbers")
        if all(map(math.isfinite, numbers)):
            self.metrics[name] = entry
        else:
            self.unwritable.add(name)
            self._add(f"metric {name}", str(entry["value"]), "a number with its interval", False)

    def fingerprint(self, part: str, sha: str) -> None:
        """Add a manifest part: data, template, tokenizer, base_weights, or one of your own."""
        self.run.fingerprints[part] = sha

    def save_file(self, name: str, path: Path) -> None:
        """Hand a file directly below run.dir on to later notebooks, with its hash."""
        self.files[name] = {"path": display_path(path), "sha256": sha256_path(path)}


@contextlib.contextmanager
def checkpoint(run: Run, *, headline: str, readme: Sequence[str] = ()) -> Iterator[Checkpoint]:
    """The last cell of a notebook: judge, show the checks, write the hand-off.

    The result file is written before a failed check raises, so that the numbers are not lost;
    it then says `"passed": false` and no later notebook accepts it.

    Args:
        run: The run opened by `start`.
        headline: Metric shown in the runner's final table.
        readme: Metrics shown in the README's result table.
    Raises:
        CheckError: A check failed; names the first.
        ConfigError: The headline metric was not published.
    """
    collected = Checkpoint(run)
    yield collected
    published = collected.metrics.keys() | collected.unwritable
    unknown = [name for name in (headline, *readme) if name not in published]
    if unknown:
        raise ConfigError(f"headline or readme metrics not published: {', '.join(unknown)}")
    facts = manifest.build(run)
    failed = [c for c in collected.checks if not c["passed"]]
    result = {
        "notebook": run.notebook,
        "profile": run.profile.name,
        "run_id": facts["run_id"],
        "passed": not failed,
        "hardware": hardware(run.profile),
        "wall_s": round(time.monotonic() - run.started, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        **({"peak_gpu_gib": round(peak_gpu_gib(), 3)} if run.profile.is_gpu else {}),
        "headline": headline,
        "readme_metrics": list(readme),
        "parameters": {"profile": run.profile.name, "seed": run.seed, **run.parameters},
        "metrics": collected.metrics,
        "checks": collected.checks,
        "files": collected.files,
        "inputs": {notebook: dict(files) for notebook, files in HANDED.items()},
        "manifest": {k: v for k, v in facts.items() if k != "run_id"},
    }
    table(
        [
            {"check": c["name"], "value": c["value"], "bound": c["bound"],
             "result": "pass" if c["passed"] else "FAIL"}
            for c in collected.checks
        ]
    )  # fmt: skip
    path = result_path(run.notebook, run.profile.name)
    write_json(path, result)
    if failed:
        first = failed[0]
        raise CheckError(
            f"{len(failed)} of {len(collected.checks)} checks failed, first: {first['name']}: "
            f"{first['value']} is not {first['bound']}"
        )
    # Answers and trainings were kept for a resume, which is over: another run makes them anew.
    for cache in run.dir.glob("answers-*.json"):
        cache.unlink()
    for mark in (run.dir / "train").rglob(IDENTITY):
        write_json(mark.with_name(COMPLETE), {"run_id": facts["run_id"]})
    print(f"run {facts['run_id']}: {len(collected.checks)} checks passed → {display_path(path)}")
