"""Compare two results of one notebook: tolerances, differences, and what may explain them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How far a metric may be from its reference."""

    title: str
    endings: tuple[str, ...]  # of the metric's last part: tuned.field_f1 -> field_f1
    kind: Literal["skip", "exact", "absolute", "relative"]
    same_hardware: float = 0.0  # tolerance when both ran on the same hardware
    other_hardware: float = 0.0  # tolerance otherwise


RULES = (  # the first rule that fits is used
    Rule(title="time, memory, throughput", kind="skip", endings=("_s", "_ms", "_gib", "_mib")),
    Rule(title="differences of runs", kind="absolute", same_hardware=1e-4, other_hardware=1e-3,
         endings=("loss_difference",)),
    Rule(title="losses", kind="relative", same_hardware=1e-3, other_hardware=0.05,
         endings=("loss", "perplexity", "nll", "nats", "nats_per_token")),
    Rule(title="counts, settings", kind="exact",
         endings=("count", "rows", "tokens", "steps", "bytes", "params", "rank", "learning_rate")),
    Rule(title="rates and all others", kind="absolute", same_hardware=0.03, other_hardware=0.03,
         endings=("",)),
)  # fmt: skip
LOSS_GAP = Rule(title="losses of two arms", kind="absolute", same_hardware=5e-3,
                other_hardware=0.1, endings=())  # fmt: skip
"""a_minus_b of two losses lies near 0, where a share of the value allows nothing."""

INPUTS = ("config", "data", "template", "tokenizer", "base_weights", "lock", "code", "seed")
"""Parts of the manifest that decide a number, and so may explain a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as recorded."""

    notebook: str
    name: str  # metric, or the check's name
    what: str  # "value", "n", "ci95", "metric", "check" or "notebook"
    reference: str
    observed: str
    tolerance: str = ""

    def __str__(self) -> str:
        allowed = f", tolerance {self.tolerance}" if self.tolerance else ""
        what = "" if self.what == "value" else f" ({self.what})"
        values = f"reference {self.reference}, observed {self.observed}{allowed}"
        return f"{self.notebook} {self.name}{what}: {values}"


@dataclass(slots=True, kw_only=True)
class Comparison:
    """All that a comparison found; `differences` decides, the rest explains."""

    differences: list[Difference] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # metrics that are not compared
    inputs: list[str] = field(default_factory=list)  # hardware, versions and hashes that differ
    unknown: list[str] = field(default_factory=list)  # results without a reference
    n_compared: int = 0  # metrics and checks


def rule_for(metric: str) -> Rule:
    """The tolerance rule of a metric.

    Example:
        >>> rule_for("tuned.tokens_per_s").kind, rule_for("tuned.field_f1").same_hardware
        ('skip', 0.03)
    """
    last = metric.rsplit(".", 1)[-1]
    if last.startswith("n_"):
        return next(rule for rule in RULES if rule.kind == "exact")
    rule = next(rule for rule in RULES if last.endswith(rule.endings))
    return LOSS_GAP if rule.title == "losses" and "_minus_" in metric else rule


def within(rule: Rule, reference: Any, observed: Any, *, same_hardware: bool) -> tuple[bool, str]:
    """Whether a value is near enough, and the tolerance in words."""
    limit = rule.same_hardware if same_hardware else rule.other_hardware
    numbers = all(isinstance(v, int | float) for v in (reference, observed))
    if rule.kind == "exact" or not numbers:
        return reference == observed, "exact"
    if rule.kind == "relative":
        return abs(observed - reference) <= limit * abs(reference), f"{limit:g} relative"
    return abs(observed - reference) <= limit + 1e-12, f"{limit:g} absolute"


def compare(
    reference: Mapping[str, Any], observed: Mapping[str, Any], *, exact: bool = False
) -> Comparison:
    """Compare two results of one notebook.

    A check must exist and pass on both sides; its value may move within its own bound. Intervals
    follow from the values and have no tolerance of their own: only `exact` compares them.

    Args:
        reference: The recorded result.
        observed: The new one.
        exact: Tolerance 0 for every metric that is not a time, memory or throughput, and for its
            interval.
    """
    notebook = reference["notebook"]
    found = Comparison(inputs=list(_inputs(reference, observed)))
    same = reference.get("hardware") == observed.get("hardware")
    late = []  # what is missing or new, after the numbers
    ours, theirs = reference["metrics"], observed["metrics"]
    for name in [*ours, *(n for n in theirs if n not in ours)]:
        rule = rule_for(name)
        if name not in ours or name not in theirs:
            here = ["present" if name in side else "missing" for side in (ours, theirs)]
            late.append(difference(notebook, name, "metric", *here))
            continue
        if rule.kind == "skip":
            found.skipped.append(f"{notebook} {name}")
            continue
        found.n_compared += 1
        old, new = ours[name]["value"], theirs[name]["value"]
        near, tolerance = within(rule, old, new, same_hardware=same)
        if exact:
            near, tolerance = old == new, "exact"
        if not near:
            found.differences.append(difference(notebook, name, "value", old, new, tolerance))
        sizes = ours[name].get("n"), theirs[name].get("n")
        if sizes[0] != sizes[1]:
            found.differences.append(difference(notebook, name, "n", *sizes, "exact"))
        bounds = ours[name].get("ci95"), theirs[name].get("ci95")
        if exact and bounds[0] != bounds[1]:
            found.differences.append(difference(notebook, name, "ci95", *bounds, "exact"))
    checks = [{c["name"]: c for c in r.get("checks", [])} for r in (reference, observed)]
    for name in checks[0] | checks[1]:
        found.n_compared += 1
        told = ["missing" if name not in side else _check(side[name]) for side in checks]
        passed = all(side.get(name, {}).get("passed") for side in checks)
        if told[0] != told[1] or not passed:
            late.append(difference(notebook, name, "check", *told))
    found.differences += late
    return found


def interval_code_changed(found: Comparison) -> bool:
    """Whether some interval differs although its value and n are equal.

    A recorded run is replayed with the code of today: then that code computes intervals anew.
    """
    kinds: dict[tuple[str, str], set[str]] = {}
    for one in found.differences:
        kinds.setdefault((one.notebook, one.name), set()).add(one.what)
    return {"ci95"} in kinds.values()


def _check(check: Mapping[str, Any]) -> str:
    return f"{check['bound']} {'passed' if check['passed'] else 'FAILED'}"


def difference(
    notebook: str, name: str, what: str, reference: Any, observed: Any, tolerance: str = ""
) -> Difference:
    """A `Difference` with its values as text."""
    return Difference(
        notebook=notebook,
        name=name,
        what=what,
        reference=str(reference),
        observed=str(observed),
        tolerance=tolerance,
    )


def _inputs(reference: Mapping[str, Any], observed: Mapping[str, Any]) -> Iterator[str]:
    """What went into two runs and differs, one line each."""
    old, new = reference.get("manifest", {}), observed.get("manifest", {})
    notebook = reference["notebook"]
    if {"python"} <= old.keys() & new.keys() and old["python"] != new["python"]:
        yield f"version of Python: reference {old['python']}, observed {new['python']}"
    # All pinned packages where both sides know them, else the few that every result names.
    known = "packages" if {"packages"} <= old.keys() & new.keys() else "versions"
    for name in sorted(old.get(known, {}).keys() | new.get(known, {}).keys()):
        versions = [side.get(known, {}).get(name, "absent") for side in (old, new)]
        if versions[0] != versions[1]:
            yield f"version of {name}: reference {versions[0]}, observed {versions[1]}"
    # Older hashes of a lock count its comments; with the packages equal, so is what it is for.
    same = {"lock"} if known == "packages" and old[known] == new[known] else set()
    for part in INPUTS:
        if part not in same and old.get(part) != new.get(part):
            values = (str(side.get(part, "absent"))[:12] for side in (old, new))
            yield "{} {}: reference {}, observed {}".format(notebook, part, *values)
    if reference.get("hardware") != observed.get("hardware"):
        machines = reference.get("hardware"), observed.get("hardware")
        yield "hardware: reference {}, observed {}".format(*machines)
