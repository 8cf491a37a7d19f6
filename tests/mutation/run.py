"""The mutation benchmark: plant every fault in every family, and see what is said about it.

    python -m tests.mutation.run            # the full part, minutes; `make mutation`
    python -m tests.mutation.run --quick    # token level, one layout per family
"""

import argparse
import itertools
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, write_json
from sft_utils.preflight import STAGES, inspect
from tests.mutation import baselines, clean, families, subjects
from tests.mutation.frame import Mutator, Subject
from tests.mutation.mutators import MUTATORS

RESULT = ROOT / "outputs" / "reference" / "mutation.json"
MODEL_LAYERS = ("model", "export")
"""Faults that live in weights or files: the tokenizer matters little, one layout is enough."""

DRAWS = 100
"""Draws per second-order mutant: most pairs share a layer or cannot be planted together."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one mutant."""

    mutator: str
    id: str
    severity: str
    family: str
    real: bool
    layout: str
    packed: bool
    alive: bool
    found: tuple[str, ...]  # FAIL ids
    warned: tuple[str, ...]  # WARN ids
    caught: bool
    right: bool
    masked_check: bool  # would "is every label -100?" have seen it?
    error: str = ""
    source: str = "own"


def judge(mutator: Mutator, subject: Subject) -> Outcome:
    """Plant one fault and ask all stages."""
    facts: dict[str, Any] = {
        "mutator": mutator.name, "id": mutator.id, "severity": mutator.severity,
        "family": subject.family, "real": subject.real, "layout": subject.layout,
        "packed": subject.packed, "source": mutator.source,
    }  # fmt: skip
    dead = {"alive": False, "found": (), "warned": (), "caught": False, "right": False,
            "masked_check": False}  # fmt: skip
    try:
        broken = mutator.apply(subject.record)
        if not mutator.alive(subject.record, broken):
            return Outcome(**facts, **dead)
        findings = inspect(broken, stages=tuple(STAGES))
    except Exception as error:  # a crash is a survivor with its reason, not the end of the run
        return Outcome(**facts, **{**dead, "alive": True}, error=f"{type(error).__name__}: {error}")
    fails = tuple(f.id for f in findings if f.severity == "FAIL")
    warns = tuple(f.id for f in findings if f.severity == "WARN")
    wanted = mutator.expected or {mutator.id}
    seen = fails if mutator.severity == "FAIL" else fails + warns
    return Outcome(
        **facts, alive=True, found=fails, warned=warns, caught=bool(seen),
        right=bool(wanted & set(seen)), masked_check=baselines.sees_fully_masked(broken),
    )  # fmt: skip


Pair = tuple[Mutator, Subject]
Name = tuple[str, str]


def name_of(mutator: Mutator) -> Name:
    """What tells a mutator from all others: faults of two classes may share a slug."""
    return mutator.id, mutator.name


def applicable(quick: bool, built: list[families.Family]) -> list[Pair]:
    """Every pair that makes sense: token faults on all layouts, model faults on one.

    Quick: the layouts take turns over the families, packed or not alternates, and one subject has
    a model. A fault that applies to none of these is planted in the first one that it applies to.
    """
    everything = list(subjects.subjects(built))
    with_model = [s for s in subjects.subjects([f for f in built if f.real], with_model=True)
                  if s.layout == "messages" and not s.packed]  # fmt: skip
    turn: Counter[str] = Counter()
    chosen = []
    for subject in everything:
        if not quick or hash_index(subject.family, 6) == turn[subject.family]:
            chosen.append(subject)
        turn[subject.family] += 1
    found = [(m, s) for s in chosen for m in MUTATORS
             if m.layer not in MODEL_LAYERS and m.applies(s)]  # fmt: skip
    found += [(m, s) for s in (with_model[:1] if quick else with_model) for m in MUTATORS
              if m.layer in MODEL_LAYERS and m.applies(s)]  # fmt: skip
    there = {name_of(m) for m, _ in found}
    for mutator in MUTATORS:
        if name_of(mutator) not in there:
            pool = with_model if mutator.layer in MODEL_LAYERS else everything
            found += [(mutator, s) for s in pool if mutator.applies(s)][:1]
    return found


def thinned(work: list[Pair], thin: int) -> list[Pair]:
    """Every thin-th pair, and the first one of each fault that would be left out by that."""
    place = {name_of(m): k for k, m in enumerate(MUTATORS)}
    kept = [(place[name_of(m)] + k) % thin == 0 for k, (m, _) in enumerate(work)]
    there = {name_of(m) for (m, _), keep in zip(work, kept, strict=True) if keep}
    for k, (mutator, _) in enumerate(work):
        if name_of(mutator) not in there:
            there.add(name_of(mutator))
            kept[k] = True
    return [pair for pair, keep in zip(work, kept, strict=True) if keep]


def hash_index(name: str, n: int) -> int:
    """A stable number in [0, n) for a name."""
    return sum(name.encode()) % n


def pairs(built: list[families.Family], n: int, seed: int = 17) -> list[dict[str, Any]]:
    """Second order: two faults of different layers in one run; one may hide the other.

    Fewer than `n` if so many draws do not give more.
    """
    rng = random.Random(seed)
    every = [s for s in subjects.subjects(built) if not s.packed]
    facts = [m for m in MUTATORS if m.severity == "FAIL" and m.layer not in MODEL_LAYERS]
    found: list[dict[str, Any]] = []
    for _ in range(DRAWS * n):
        if len(found) == n:
            break
        subject = rng.choice(every)
        first, second = rng.sample(facts, 2)
        if first.layer == second.layer or not (first.applies(subject) and second.applies(subject)):
            continue
        try:
            once = first.apply(subject.record)
            twice = second.apply(once)
            if not (first.alive(subject.record, once) and second.alive(once, twice)):
                continue
        except Exception:  # two faults that cannot be planted together are no mutant
            continue
        ids = {f.id for f in inspect(twice, stages=tuple(STAGES)) if f.severity == "FAIL"}
        wanted = [m.expected or {m.id} for m in (first, second)]
        named = [bool(set(w) & ids) for w in wanted]
        found.append({"pair": f"{first.name} + {second.name}", "family": subject.family,
                      "caught": bool(ids), "one_named": any(named), "both_named": all(named)})  # fmt: skip
    return found


def false_alarms(records: Iterable[tuple[str, Any]]) -> tuple[int, list[dict[str, str]], Counter]:
    """Healthy configurations looked at, FAIL alarms with their evidence, WARN counts."""
    n, alarms, warned = 0, [], Counter()
    for name, record in records:
        n += 1
        for f in inspect(record, stages=tuple(STAGES)):
            if f.severity == "FAIL":
                alarms.append({"config": name, "id": f.id, "what": f.what, "where": f.where})
            else:
                warned[f.id] += 1
    return n, alarms, warned


def lower95(k: int, n: int) -> float:
    """Lower end of the two-sided 95 % Clopper-Pearson interval for k out of n."""
    from scipy.stats import beta

    return 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))


def upper95(k: int, n: int) -> float:
    """Upper end of the same interval."""
    return 1.0 - lower95(n - k, n)


def summary(outcomes: list[Outcome], clean_result: tuple, second: list, seconds: float) -> dict:
    """The committed table."""
    alive = [o for o in outcomes if o.alive]
    facts = [o for o in alive if o.severity == "FAIL"]
    caught, right = sum(o.caught for o in facts), sum(o.right for o in facts)
    n_clean, alarms, warned = clean_result
    return {
        "classes": len({o.id for o in facts}),
        "families": len({o.family for o in facts}),
        "real_tokenizers": len({o.family for o in facts if o.real}),
        "mutants": len(facts),
        "recall": caught / len(facts),
        "right_reason_recall": right / len(facts),
        "recall_lower95": lower95(caught, len(facts)),
        "right_reason_lower95": lower95(right, len(facts)),
        "clean_configs": n_clean,
        "false_alarms": len(alarms),
        "false_alarm_upper95": upper95(len({a["config"] for a in alarms}), n_clean),
        "survivors": survivors(facts),
        "alarms": alarms[:20],
        "dead": dict(Counter(o.mutator for o in outcomes if not o.alive)),
        "warnings_on_clean": dict(warned),
        "warn_classes": grouped([o for o in alive if o.severity == "WARN"], "id"),
        "by_family": grouped(facts, "family"),
        "by_class": grouped(facts, "id"),
        "second_order": {
            "mutants": len(second),
            "caught": sum(s["caught"] for s in second),
            "one_named": sum(s["one_named"] for s in second),
            "both_named": sum(s["both_named"] for s in second),
            "uncaught": [s["pair"] for s in second if not s["caught"]],
        },
        "baselines": {"all_labels_masked": sum(o.masked_check for o in facts) / len(facts)},
        "seconds": round(seconds, 1),
    }


def survivors(facts: list[Outcome]) -> list[dict[str, Any]]:
    """Mutants that were not named, grouped by fault and what was said instead."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for o in facts:
        if not o.right:
            place = f"{o.family}/{o.layout}{'/packed' if o.packed else ''}"
            groups[(o.mutator, o.id, o.found, o.error)].append(place)
    return [
        {"mutator": m, "id": i, "said": list(said), "error": error, "where": where}
        for (m, i, said, error), where in sorted(groups.items())
    ]


def grouped(outcomes: list[Outcome], key: str) -> dict[str, dict[str, Any]]:
    """Counts and right-reason recall by one attribute."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        groups[getattr(o, key)].append(o)
    return {
        name: {"mutants": len(g), "caught": sum(o.caught for o in g),
               "right": sum(o.right for o in g),
               "right_lower95": round(lower95(sum(o.right for o in g), len(g)), 3)}
        for name, g in sorted(groups.items())
    }  # fmt: skip


def benchmark(
    *, quick: bool, only: str = "", n_pairs: int = 60, baseline: bool = False, thin: int = 1
) -> dict[str, Any]:
    """Run everything; progress with the remaining time goes to stderr.

    Args:
        quick: One layout per family instead of all six.
        only: Mutators whose name contains this, and no clean configurations.
        n_pairs: Second-order mutants; a third of it if quick.
        baseline: Ask TRL about one mutant of every fault.
        thin: Every thin-th mutant and clean configuration; every fault is still planted once.
    """
    started = time.monotonic()
    built, absent = families.available()
    work = [(m, s) for m, s in applicable(quick, built) if only in m.name]
    work = thinned(work, thin)
    outcomes = []
    for k, (mutator, subject) in enumerate(work, 1):
        outcomes.append(judge(mutator, subject))
        if k % 200 == 0:
            left = (time.monotonic() - started) / k * (len(work) - k)
            print(f"{k}/{len(work)} mutants, about {left:.0f} s left", file=sys.stderr, flush=True)
    second = pairs(built, n_pairs // 3 if quick else n_pairs) if not only else []
    records = [] if only else itertools.islice(clean.clean_records(), 0, None, thin)
    result = summary(outcomes, false_alarms(records), second, time.monotonic() - started)
    result["skipped_families"] = absent
    result["part"] = "one layout per family" if quick else "all layouts"
    if baseline:
        first = [f for f in built if f.real][:1]
        chosen = [s for s in subjects.subjects(first, with_model=True)
                  if s.layout == "messages" and not s.packed]  # fmt: skip
        trl = baselines.trl_alone(MUTATORS, chosen)
        result["baselines"]["trl_alone"] = trl["recall"]
        result["baselines"]["trl_alone_detail"] = trl
    result["outcomes"] = [asdict(o) for o in outcomes]
    return result


def main() -> int:
    """Print the table, write the file; exit 1 when a fact survives or a clean run alarms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="mutators whose name contains this")
    parser.add_argument("--baseline", action="store_true", help="ask TRL alone, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = benchmark(quick=options.quick, only=options.only, baseline=options.baseline)
    if not options.only:  # thousands of lines
        result["outcomes"] = []
    if options.json:
        write_json(options.json, {k: v for k, v in result.items() if k != "outcomes"})
    print(json.dumps({k: v for k, v in result.items() if not isinstance(v, dict)}, indent=1))
    return int(bool(result["survivors"] or result["false_alarms"]))


if __name__ == "__main__":
    sys.exit(main())
