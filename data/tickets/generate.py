"""Write raw.jsonl, test.jsonl, fewshot.jsonl and answer_key.jsonl, the same bytes every time.

    python data/tickets/generate.py            write the files
    python data/tickets/generate.py --check    exit 1 if a committed file differs

Sources are the hand-written mails (handwritten/*.jsonl) and the grammar (phrases/*.toml). The
split is made on clean mails, by customer thread, before any damage: 120 hand-written and 48
grammar mails are the test set, 8 hand-written ones the few-shot examples, the rest is raw.
raw.jsonl then gets planted defects. A row that has a defect has exactly one, listed in
answer_key.jsonl with its line; every other raw row is clean by construction, and no two clean
mails are alike (`rows.ALIKE`). Defect "none" in the key marks clean rows that a clumsy filter
would drop.
"""

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for sft_utils, if not installed

import lookalikes
from corpus import COPIES, HELD_OUT, Generator
from defects import DAMAGES
from draw import pick_weighted
from grammar import Mail, retell, write_mail
from rows import Item, Row, dump, make_row, read_rows
from scenarios import case_table, load_scenarios, pick_case

from sft_utils.data import generated

HERE = Path(__file__).resolve().parent
SEED = 20260
RAW_SIZE = 2000  # the planted counts are out of about so many lines; `stream_rows` keeps the rates
RECENT = 1000  # a copy in a stream repeats one of the last so many clean rows


def to_line(item: Item) -> str:
    """The line of raw.jsonl, without its newline."""
    line = dump(item.row)
    return item.damage(line) if item.damage else line


def build_files(seed: int = SEED) -> dict[str, str]:
    """The text of every generated file, by name."""
    items, test, few = Generator(seed).corpus()
    key = [
        {
            "line": line,
            "id": item.row["id"],
            "defect": item.defect,
            "note": item.note,
            "of": item.of["id"] if item.of else None,
        }
        for line, item in enumerate(items, 1)
        if item.defect
    ]
    return {
        "raw.jsonl": "".join(to_line(item) + "\n" for item in items),
        "test.jsonl": "".join(dump(row) + "\n" for row in test),
        "fewshot.jsonl": "".join(dump(row) + "\n" for row in few),
        "answer_key.jsonl": "".join(dump(entry) + "\n" for entry in key),
    }


def stream_rows(n: int, seed: int) -> Iterator[tuple[str, str]]:
    """Endless supply for scale tests: lines like those of raw.jsonl, made one by one.

    Kinds occur at the rates of raw.jsonl (planted count / `RAW_SIZE`). A duplicate repeats one of
    the last `RECENT` clean rows, a leak one of test.jsonl; its line has another id and thread.
    About half of the clean rows share their wording with one other row, of another customer with
    other facts: these are no duplicates.

    Args:
        n: Number of lines.
        seed: Same seed, same lines.
    Returns:
        An iterator of (line without newline, kind of defect or "" for a clean row).
    """
    rng = Random(seed)
    supply = _Supply(rng)
    test = list(read_rows(HERE / "test.jsonl"))
    recent: deque[Row] = deque(maxlen=RECENT)
    counts = {**COPIES, **{kind: number for kind, (number, _) in DAMAGES.items()}}
    kinds = ["", *counts]
    weights = [RAW_SIZE - sum(counts.values()), *counts.values()]
    for number in range(1, n + 1):
        kind = pick_weighted(rng, kinds, weights)
        originals = test if kind.startswith("leakage") else recent
        item = None
        while item is None:
            if kind in COPIES and originals:
                copy = lookalikes.exact_copy if "exact" in kind else lookalikes.near_copy
                item = copy(rng, originals[rng.randrange(len(originals))])
            elif kind in DAMAGES:
                item = DAMAGES[kind][1](rng, _stream_row(supply.mail()))
            else:
                kind, item = "", Item(row=_stream_row(supply.mail()))
        item.row["id"] = f"s-{number:07}"
        item.row["thread"] = f"c-{number:07}"
        if not kind:
            recent.append(item.row)
        yield to_line(item), kind


class _Supply:
    """Mails for a stream: every other one has the wording of an earlier one, with other facts."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.cases = case_table([one for one in load_scenarios() if one.id not in HELD_OUT])
        self.once: list[Mail] = []  # mails whose wording was used once

    def mail(self) -> Mail:
        if len(self.once) > RECENT or (self.once and self.rng.random() < 0.5):
            return retell(self.rng, self.once.pop(self.rng.randrange(len(self.once))))
        while True:
            mail = write_mail(self.rng, *pick_case(self.rng, self.cases))
            # a short mail without names could repeat another one by chance
            if any(mail.ticket[key] for key in ("order_id", "product", "customer")):
                self.once.append(mail)
                return mail


def _stream_row(mail: Mail) -> Row:
    return make_row(
        mail.text,
        mail.ticket,
        source="grammar",
        style=mail.style,
        scenario=mail.scenario,
        thread="",
    )


if __name__ == "__main__":
    sys.exit(generated.command_line(build_files, HERE))
