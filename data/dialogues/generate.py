"""Write train.jsonl, val.jsonl, test.jsonl, fewshot.jsonl and the counts in README.md.

    python data/dialogues/generate.py                 write the files, the same bytes every time
    python data/dialogues/generate.py --check         exit 1 if a committed file differs

Dialogues are composed from the hand-written phrases in phrases/. Each reply is drawn until it keeps
every rule of its system prompt (`sft_utils.task.rules`); a plan for which that fails is dropped.
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for sft_utils, if not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dialogues import measure
from dialogues.plans import FAMILIES, Writer
from sft_utils.data import generated
from sft_utils.data.rows import dump_row, fingerprint
from sft_utils.task.rules import KINDS, count_words

FOLDER = Path(__file__).resolve().parent
SEED = 707
SIZES = {  # split: (pairs of dialogues, turns at least, turns at most)
    "train": (192, 3, 6),
    "val": (24, 3, 6),
    "test": (56, 3, 6),
    "fewshot": (3, 3, 4),
}


def build(seed: int = SEED) -> dict[str, list[dict]]:
    """The rows of every split."""
    used: set[str] = set()
    found = {}
    for split, (n, low, high) in SIZES.items():
        families = ("language", "format", "refusal") if split == "fewshot" else FAMILIES
        found[split] = Writer(split, seed, used, families).rows(n, (low, high))
    found["fewshot"] = found["fewshot"][::2]  # examples need no counterpart
    return found


def build_files(seed: int = SEED) -> dict[str, str]:
    """The text of every generated file, by its name."""
    rows = build(seed)
    texts = {f"{split}.jsonl": "".join(dump_row(r) for r in part) for split, part in rows.items()}
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    return texts | {"README.md": generated.with_counts(card, counts(rows, texts))}


def _table(head: list[str], lines: list[list]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in every)


def counts(rows: dict[str, list[dict]], texts: dict[str, str]) -> str:
    """The tables of the data card."""
    files = [
        [f"`{s}.jsonl`", len(part), sum(len(r["turns"]) for r in part),
         f"`{hashlib.sha256(texts[f'{s}.jsonl'].encode()).hexdigest()[:16]}…`", f"`{fingerprint(part)[:16]}…`"]
        for s, part in rows.items()
    ]  # fmt: skip
    turns = {s: [t for r in part for t in r["turns"]] for s, part in rows.items()}
    trained = {r["domain"] for r in rows["train"]}
    what = {
        "in a domain that train lacks": {s: sum(r["domain"] not in trained for r in part) for s, part in rows.items()},
        **{f"rule: {k}": {s: sum(k in {x["kind"] for x in r["rules"]} for r in part) for s, part in rows.items()} for k in KINDS},
        **{f"asks at distance {d}": {s: sum(bool(t["asks"]) and t["asks"]["distance"] == d for t in part) for s, part in turns.items()} for d in range(2, 6)},
        **{f"turns: {k}": {s: sum(t[k] for t in part) for s, part in turns.items()} for k in ("trap", "refuse", "borderline")},
        "words per reply, mean": {s: f"{sum(count_words(t['reply']) for t in part) / len(part):.1f}" for s, part in turns.items()},
    }  # fmt: skip
    per_domain = {s: Counter(r["domain"] for r in part) for s, part in rows.items()}
    names = sorted(set().union(*per_domain.values()), key=lambda d: (not per_domain["train"][d], d))
    tables = [
        _table(["file", "dialogues", "turns", "sha256", "fingerprint"], files),
        _table(["what", *rows], [[k, *v.values()] for k, v in what.items()]),
        _table(["domain", *rows], [[f"`{d}`", *(per_domain[s][d] for s in rows)] for d in names]),
        _table(["language detection", "texts", "right"], measure.table()),
    ]
    return "\n".join(tables)


if __name__ == "__main__":
    sys.exit(generated.command_line(build_files, FOLDER))
