"""Training: plain `SFTTrainer`, our settings one by one, our training; tokens/s, memory, losses."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT
from sft_utils.config import get_profile
from sft_utils.curation import funnel as curation
from sft_utils.data.filters import length_fence
from sft_utils.data.rows import rows_of
from sft_utils.errors import CheckError
from sft_utils.masks import masking
from sft_utils.model import modeling
from sft_utils.runner.nbprogress import say
from sft_utils.task import tickets
from tests.bench import train_worker, turns
from tests.bench.train_worker import ARMS, FLOOR, ROWS_PER_STEP

EXACT_BOUND = 1e-3
"""Nats. In float32 the arms may differ by rounding only."""
NATIVE_BOUND = 0.1
"""Nats. In the precision that each arm trains in, the largest difference of one step's loss."""


def ticket_rows(n: int) -> list[dict[str, Any]]:
    """`n` curated ticket rows as ids and labels, in an order that has nothing to do with length."""
    raw, folder = ROOT / "data/tickets/raw.jsonl", ROOT / "data/tickets"
    settings = curation.Settings(
        max_words=length_fence(curation.mail_lengths(raw)),
        held_out=(folder / "test.jsonl", folder / "fewshot.jsonl"),
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as out:
        kept = Path(out) / "kept.jsonl"
        curation.curate(raw, kept, Path(out) / "dropped.jsonl", settings)
        rows = rows_of(kept)
    tokenizer = modeling.load_tokenizer(get_profile("cpu"))
    picked = [rows[i * len(rows) // n] for i in range(n)]
    return [
        masking.assistant_labels(tokenizer, tickets.conversation(row), max_length=512)
        for row in picked
    ]


def race(
    arms: Sequence[str], rows: list[dict[str, Any]], steps: int, *, exact: bool, threads: int,
    show: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """All arms in turns over the same rows; one report per step and arm."""
    specs = {
        arm: {"arm": arm, "rows": rows, "steps": steps, "exact": exact, "threads": threads}
        for arm in arms
    }
    show(f"  starting {len(specs)} processes: {', '.join(specs)}")
    with turns.workers(train_worker.work, specs) as started:
        return turns.in_turns(started, steps, show=show)


def different(arms: Sequence[str]) -> list[str]:
    """The arms that compute something of their own in float32 on rows in file order; of equal ones
    the last, which has all settings of those before it."""
    seen: dict[Any, str] = {}
    for arm in arms:
        a = ARMS[arm]
        seen[a.checkpointing, a.attention, a.loss_chunk, a.micro_batch, a.compiled] = arm
    return list(seen.values())


def loss_gaps(reports: dict[str, list[dict[str, Any]]], base: str) -> dict[str, float]:
    """Arm -> largest |difference| of a step's loss from the same step of `base`, nats."""
    truth = [r["loss"] for r in reports[base]]
    return {
        arm: max(abs(r["loss"] - t) for r, t in zip(turns_, truth, strict=True))
        for arm, turns_ in reports.items()
    }


def same_work(reports: dict[str, list[dict[str, Any]]], arms: Sequence[str]) -> None:
    """The bare products must be those of the steps they are compared with.

    Raises:
        CheckError: Places, tokens or labels of a step differ.
    """
    for arm in arms:
        for number, (a, b) in enumerate(zip(reports[arm], reports[FLOOR], strict=True), 1):
            for what in ("places", "tokens", "supervised"):
                if a[what] != b[what]:
                    raise CheckError(
                        f"bench: step {number} of {arm} had {a[what]} {what}, the bare products "
                        f"{b[what]}: they do not bound its speed"
                    )


def rate(reports: Sequence[dict[str, Any]], what: str = "tokens") -> dict[str, Any]:
    """Tokens per second over all steps, with the slowest and fastest step."""
    seconds = sum(r["seconds"] for r in reports)
    each = [r[what] / r["seconds"] for r in reports]
    return {
        "value": sum(r[what] for r in reports) / seconds,
        "n": len(reports),
        "range": [min(each), max(each)],
    }


def ratio(
    fast: Sequence[dict[str, Any]], slow: Sequence[dict[str, Any]], what: str = "tokens"
) -> dict[str, Any]:
    """How many times the tokens/s of `slow` an arm reaches; range over pairs of neighbours.

    A pair is one round, so that both sides saw the same machine; their rows may differ.
    """
    pairs = [
        (a[what] / a["seconds"]) / (b[what] / b["seconds"])
        for a, b in zip(fast, slow, strict=True)
    ]
    value = rate(fast, what)["value"] / rate(slow, what)["value"]
    return {"value": value, "n": len(pairs), "range": [min(pairs), max(pairs)]}


def summary(reports: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, Any], list[dict]]:
    """Metrics, and one table row per arm with its ratio to the arm before and to the first."""
    names = [name for name in reports if name != FLOOR]
    first, metrics, table = names[0], {}, []
    for name in names:
        own, before = reports[name], ARMS[name].before
        new = ARMS[name].says
        while before and before not in reports:  # an arm that was left out: this one adds its change
            new, before = f"{ARMS[before].says}; {new}", ARMS[before].before
        before = before or first
        metrics[f"{name}.tokens_per_s"] = rate(own)
        metrics[f"{name}.supervised_per_s"] = rate(own, "supervised")
        seconds = [r["seconds"] for r in own]
        metrics[f"{name}.step_s"] = {
            "value": statistics.median(seconds), "n": len(seconds),
            "range": [min(seconds), max(seconds)],
        }  # fmt: skip
        metrics[f"{name}.peak_gib"] = {"value": own[-1]["peak_gib"], "n": 1}
        if name != first:
            metrics[f"{name}_over_{first}.tokens_per_s"] = ratio(own, reports[first])
            metrics[f"{name}_over_{before}.tokens_per_s"] = ratio(own, reports[before])
        places = sum(r["places"] for r in own)
        table.append({
            "arm": name, "before": "" if name == first else before, "new": new,
            "tokens_per_s": metrics[f"{name}.tokens_per_s"]["value"],
            "step_s": metrics[f"{name}.step_s"]["value"],
            "padding": 1 - sum(r["tokens"] for r in own) / places,
            "peak_gib": own[-1]["peak_gib"],
            "over_before": 1.0 if name == first else
            metrics[f"{name}_over_{before}.tokens_per_s"]["value"],
            "over_plain": 1.0 if name == first else
            metrics[f"{name}_over_{first}.tokens_per_s"]["value"],
        })  # fmt: skip
    if FLOOR in reports:
        floor = reports[FLOOR]
        metrics[f"{FLOOR}.tokens_per_s"] = rate(floor)
        metrics[f"{FLOOR}_over_{first}.tokens_per_s"] = ratio(floor, reports[first])
        if names[-1] != first:
            metrics[f"{names[-1]}_over_{FLOOR}.tokens_per_s"] = ratio(reports[names[-1]], floor)
    return metrics, table


def measure(
    *, rounds: int = 12, exact_steps: int = 3, arms: Sequence[str] = (), threads: int = 2,
    show: Callable[[str], None] = say,
) -> dict[str, Any]:  # fmt: skip
    """The whole part.

    Args:
        rounds: Steps per arm.
        exact_steps: Steps of the comparison of losses in float32; 0 leaves it out.
        arms: Names of `ARMS`, next to the plain one, which always takes part; empty means all.
        threads: Of torch, per arm.
        show: Receives progress lines.
    Raises:
        CheckError: The arms do not train the same: their losses differ by more than rounding.
    """
    train_worker.load_libraries()
    names = [n for n in ARMS if not arms or n in arms or ARMS[n] is train_worker.PLAIN]
    rows = ticket_rows(rounds * ROWS_PER_STEP)
    checks = []
    if exact_steps:
        few = rows[: exact_steps * ROWS_PER_STEP]
        show(f"  losses of {exact_steps} steps in float32, the same rows in the same order")
        exact = {}
        for name in different(names):  # one at a time: float32 arms together need over 24 GiB
            exact |= race([name], few, exact_steps, exact=True, threads=threads, show=show)
        gap = max(loss_gaps(exact, names[0]).values())
        checks.append(("exact", gap, EXACT_BOUND, exact_steps))
    reports = race([*names, FLOOR], rows, rounds, exact=False, threads=threads, show=show)
    same_rows = [n for n in names if not ARMS[n].by_length]
    gaps = loss_gaps({n: reports[n] for n in same_rows}, names[0])
    checks.append(("native", max(gaps.values()), NATIVE_BOUND, rounds))
    same_work(reports, [n for n in names if ARMS[n].by_length and ARMS[n].micro_batch == ROWS_PER_STEP])
    metrics, table = summary(reports)
    for name, gap, bound, n in checks:
        metrics[f"ours_minus_plain_trl.loss_{name}"] = {"value": gap, "n": n, "bound": bound}
        if not gap <= bound:
            raise CheckError(
                f"bench: losses of the arms differ by {gap:.2e} nats ({name}, bound {bound:g}), "
                "so they do not train the same and their speeds cannot be compared"
            )
    return {"metrics": metrics, "table": table, "rows": len(rows)}
