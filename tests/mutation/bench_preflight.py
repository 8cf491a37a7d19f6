"""How long does the preflight take? Seconds next to plain tokenisation, and peak memory.

    python -m tests.mutation.bench_preflight --rows 10000 --json result.json
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils import runtime
from sft_utils.preflight import BEFORE, inspect
from sft_utils.preflight.record import RunRecord
from tests.mutation.conversations import CODE, STORY, Conversation, chat, held_out
from tests.mutation.families import Family, available
from tests.mutation.frame import collated
from tests.mutation.probes import served_row
from tests.mutation.subjects import healthy


def generated(n: int, *, system: bool, seed: int = 17) -> list[Conversation]:
    """Chat rows of many lengths: 1 to 4 turns, prose, lists, code and JSON."""
    rng = random.Random(seed)
    words = sorted({w.strip(".,;").lower() for w in STORY.split()})

    def prose(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high))).capitalize() + "."

    def answer() -> str:
        kind = rng.random()
        if kind < 0.1:
            return json.dumps({"title": prose(2, 5), "n": rng.randint(0, 999), "tags": [prose(1, 2)]})
        if kind < 0.2:
            return f"# {prose(3, 6)}\n{CODE}"
        if kind < 0.3:
            return "\n".join(f"- {prose(3, 9)}" for _ in range(rng.randint(2, 8)))
        return prose(5, 120)

    chats = []
    for i in range(n):
        texts = [f"Request {i}: {prose(4, 60)}", answer()]
        while rng.random() < 0.35 and len(texts) < 8:
            texts += [prose(3, 30), answer()]
        head = prose(5, 20) if system and rng.random() < 0.5 else None
        chats.append(chat(*texts, system=head))
    return chats


def tokenise(family: Family, chats: Sequence[Conversation]) -> int:
    """What a training script does anyway: template and tokenizer, row by row. Returns tokens."""
    n = 0
    for messages in chats:
        text = family.tokenizer.apply_chat_template(messages, tokenize=False, **family.kwargs)
        n += len(family.tokenizer(text, add_special_tokens=False)["input_ids"])
    return n


def peak_gib() -> float:
    """Highest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def prepared(family: Family, chats: Sequence[Conversation]) -> RunRecord:
    """A healthy run over these rows, with a test of 300 questions and held-out rows."""
    rows, held = (
        [served_row(family.tokenizer, c, stops=family.stops, kwargs=family.kwargs) for c in some]
        for some in (chats, held_out())
    )
    batches = collated(rows, packed=False, size=8)
    return healthy(family, chats, rows, layout="messages", packed=False, batches=batches,
                   held_rows=held)  # fmt: skip


def measure(family: Family, n: int) -> dict[str, Any]:
    """Time and memory for `n` rows of one family."""
    chats = generated(n, system="system" in family.traits)
    tokens = tokenise(family, chats)  # also warms the caches of the template and the tokenizer
    started = time.perf_counter()
    tokenise(family, chats)
    plain = time.perf_counter() - started
    record = prepared(family, chats)
    before = peak_gib()
    inspect(prepared(family, chats[:8]))  # imports are paid once per process, not per row
    started = time.perf_counter()
    n_truths = len(record.oracles)  # all stages share it: timed apart
    stages, findings = {"oracle": time.perf_counter() - started}, []
    for stage in BEFORE:
        started = time.perf_counter()
        findings += inspect(record, stages=(stage,))
        stages[stage] = time.perf_counter() - started
    total = sum(stages.values())
    return {
        "family": family.name,
        "rows": n_truths,
        "tokens": tokens,
        "tokenise_s": round(plain, 2),
        "preflight_s": round(total, 2),
        "stages_s": {stage: round(s, 2) for stage, s in stages.items()},
        "ratio": round(total / plain, 2),
        "rows_per_s": round(n / total),
        "peak_before_gib": round(before, 2),
        "peak_gib": round(peak_gib(), 2),
        "findings": sorted({f"{f.severity} {f.id}" for f in findings}),
    }


def main() -> None:
    """Print the figures, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--family", default="smollm2")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runtime.quiet()
    built, absent = available()
    chosen = next((f for f in built if f.name == options.family), None)
    if chosen is None:
        parser.error(f"no family {options.family!r}; there are {[f.name for f in built]}, "
                     f"not available: {absent}")  # fmt: skip
    result = measure(chosen, options.rows)
    print(f"{result['rows']:,} rows, {result['tokens']:,} tokens, family {result['family']}")
    print(f"  plain tokenisation {result['tokenise_s']:8.2f} s")
    print(f"  preflight          {result['preflight_s']:8.2f} s")
    for stage, spent in result["stages_s"].items():
        print(f"    {stage:<16} {spent:8.2f} s")
    print(f"  ratio              {result['ratio']:8.2f}    {result['rows_per_s']:,} rows/s")
    print(f"  peak memory        {result['peak_gib']:8.2f} GiB ({result['peak_before_gib']} before)")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
