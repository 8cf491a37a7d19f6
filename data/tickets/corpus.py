"""Draw the whole data set: clean mails, the split by customer thread, and the planted defects."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

import lookalikes
from defects import DAMAGES
from grammar import Mail, write_mail
from guidelines import ticket_problems
from rows import ALIKE, Collection, Item, Row, mail_of, make_row, ticket_of
from scenarios import Cases, case_table, load_scenarios, pick_case

from sft_utils.errors import DataError

HAND = Path(__file__).resolve().parent / "handwritten"
GRAMMAR_ROWS = 1300
HAND_TEST, FEWSHOT = 120, 8
TEST_PER_TOPIC = 4  # grammar mails of scenarios in raw, and as many of scenarios that are not
FOLLOW_UP_SHARE = 0.06
# One scenario of each topic is never in raw: half of the grammar test mails come from them.
HELD_OUT = (
    "charged-after-cancelling",
    "returned-to-sender",
    "leaks",
    "gift",
    "name-change",
    "ship-abroad",
)
COPIES = {"exact_duplicate": 40, "near_duplicate": 50, "leakage_exact": 15, "leakage_near": 25}
HARD_PAIRS = 12
# Test and few-shot mails come from these files, all others serve training only.
TEST_FILES = (
    "b2b_misc",
    "electronics",
    "home_kitchen",
    "outdoor_sport",
    "software",
    "travel_services",
)
HARD_CHANGES: tuple[tuple[int, Callable[[Random, Row], Item | None]], ...] = (
    (8, lookalikes.accents_and_emoji),
    (7, lookalikes.less_than),
    (7, lookalikes.curly_quotes),
    (7, lookalikes.long_number),
    (7, lookalikes.native_name),
)


class Generator:
    """Draws everything from one seed; every stage has a random stream of its own.

    So more hand-written mails, in other files, change neither the test set nor the examples.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.stage(0)
        scenarios = load_scenarios()
        self.seen = case_table([one for one in scenarios if one.id not in HELD_OUT])
        self.held_out = case_table([one for one in scenarios if one.id in HELD_OUT])
        self.threads = count(1)
        self.copies_made = count(100)
        self.mails = Collection()

    def stage(self, number: int) -> None:
        """Start the random stream of a stage."""
        self.rng = Random(self.seed * 10 + number)

    def thread(self) -> str:
        """A new customer conversation."""
        return f"c-{next(self.threads):05}"

    def to_row(self, mail: Mail, thread: str = "") -> Row:
        """A row of a grammar mail."""
        return make_row(
            mail.text,
            mail.ticket,
            source="grammar",
            style=mail.style,
            scenario=mail.scenario,
            thread=thread or self.thread(),
        )

    def fresh(self, cases: Cases, topic: str = "") -> Mail:
        """A grammar mail unlike every other clean mail."""
        while True:
            mail = write_mail(self.rng, *pick_case(self.rng, cases, topic))
            if self.mails.add(mail.text):
                return mail

    def handwritten(self) -> list[Row]:
        """The hand-written mails, in file order."""
        rows = []
        for path in sorted(HAND.glob("*.jsonl")):
            for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                row = json.loads(line)
                self.mails.add(row["mail"])
                rows.append(
                    make_row(
                        row["mail"],
                        row["ticket"],
                        source="handwritten",
                        style=row["style"],
                        scenario=path.stem,
                        thread=f"{path.stem}-{n:02}",
                    )
                )
        return rows

    def split_handwritten(self) -> tuple[list[Row], list[Row], list[Row]]:
        """Test, few-shot and the rest; the test set is spread over files and styles."""
        rows = self.handwritten()
        order = [row for row in rows if row["scenario"] in TEST_FILES]
        self.rng.shuffle(order)
        order.sort(key=lambda row: (row["scenario"], row["style"]))
        step = len(order) / HAND_TEST
        chosen = {int((n + 0.5) * step) for n in range(HAND_TEST)}
        test = [row for n, row in enumerate(order) if n in chosen]
        rest = [row for n, row in enumerate(order) if n not in chosen]
        self.rng.shuffle(rest)
        few: list[Row] = []
        while len(few) < FEWSHOT:
            few.append(max(rest, key=lambda row: _novelty(row, few)))
            rest.remove(few[-1])
        return test, few, [*rest, *(row for row in rows if row["scenario"] not in TEST_FILES)]

    def grammar_raw(self) -> list[Row]:
        """The clean grammar rows of raw, some of them second mails of the same customer."""
        rows: list[Row] = []
        mails: list[tuple[Mail, str]] = []
        scenarios = {one.id: one for one in load_scenarios()}
        while len(rows) < GRAMMAR_ROWS:
            if mails and self.rng.random() < FOLLOW_UP_SHARE:
                first, thread = mails.pop(self.rng.randrange(len(mails)))
                again = scenarios[first.scenario]
                action = first.ticket["action"]
                mail = write_mail(self.rng, again, action, facts=first.facts)
                if self.mails.add(mail.text):
                    rows.append(self.to_row(mail, thread))
                continue
            mail = self.fresh(self.seen)
            mails.append((mail, self.thread()))
            rows.append(self.to_row(mail, mails[-1][1]))
        return rows

    def hard_rows(self) -> list[Item]:
        """Clean rows that look suspicious."""
        items: list[Item] = []
        for _ in range(HARD_PAIRS):
            pair = lookalikes.same_problem(self.rng, self.seen)
            while not all(self.mails.nearest(mail.text) < ALIKE for mail in pair):
                pair = lookalikes.same_problem(self.rng, self.seen)
            for mail in pair:
                self.mails.add(mail.text)
                items.append(Item(row=self.to_row(mail), note="same problem, other customer"))
        for number, change in HARD_CHANGES:
            items += self.damaged(number, change)
        for item in items:
            item.defect, item.note = "none", f"hard clean: {item.note}"
        return items

    def damaged(self, number: int, change: Callable[[Random, Row], Item | None]) -> list[Item]:
        """So many fresh grammar rows that lend themselves to a change, changed."""
        items: list[Item] = []
        while len(items) < number:
            item = change(self.rng, self.to_row(self.fresh(self.seen)))
            if item:
                items.append(item)
        return items

    def copies(self, kind: str, originals: list[Row]) -> list[Item]:
        """Rows that repeat others, under a new thread."""
        change = lookalikes.exact_copy if "exact" in kind else lookalikes.near_copy
        items: list[Item] = []
        while len(items) < COPIES[kind]:
            item = change(self.rng, originals.pop())
            if item:
                by_hand = item.row["source"] == "handwritten"
                new = f"{item.row['scenario']}-{next(self.copies_made)}" if by_hand else ""
                item.row = {**item.row, "thread": new or self.thread()}
                item.defect = kind
                items.append(item)
        return items

    def grammar_test(self) -> list[Row]:
        """The grammar mails of the test set."""
        return [
            self.to_row(self.fresh(cases, topic))
            for topic in self.seen
            for cases in (self.seen, self.held_out)
            for _ in range(TEST_PER_TOPIC)
        ]

    def corpus(self) -> tuple[list[Item], list[Row], list[Row]]:
        """Everything: the lines of raw in order, the test rows, the few-shot rows; all with ids.

        Raises:
            DataError: A clean row breaks the labelling guidelines.
        """
        self.stage(1)
        test, few, hand = self.split_handwritten()
        self.stage(2)
        test += self.grammar_test()
        self.rng.shuffle(test)
        self.stage(3)
        clean = [*hand, *self.grammar_raw()]
        items = [Item(row=row) for row in clean]
        self.stage(4)
        items += self.hard_rows()
        self.stage(5)
        for kind, (number, change) in DAMAGES.items():
            for item in self.damaged(number, change):
                item.defect = kind
                items.append(item)
        self.stage(6)
        originals = self.rng.sample(clean, len(clean))
        leaked = self.rng.sample(test, len(test))
        for kind in COPIES:
            items += self.copies(kind, leaked if kind.startswith("leakage") else originals)
        self.rng.shuffle(items)
        for prefix, width, rows in (
            ("t", 5, [item.row for item in items]),
            ("e", 3, test),
            ("f", 1, few),
        ):
            for n, row in enumerate(rows, 1):
                row["id"] = f"{prefix}-{n:0{width}}"
        intact = [item.row for item in items if item.defect in ("", "none", *COPIES)]
        for row in [*intact, *test, *few]:
            if problems := ticket_problems(mail_of(row), ticket_of(row)):
                raise DataError(
                    f"row {row['id']} breaks GUIDELINES.md: {problems}. Mend its source."
                )
        return items, test, few


def _novelty(row: Row, chosen: list[Row]) -> tuple[int, int]:
    """How much a row adds to the few-shot examples: new labels and styles, a middle length."""
    others = [_features(one) for one in chosen]
    new = sum(all(value != one[n] for one in others) for n, value in enumerate(_features(row)))
    return new, -abs(len(mail_of(row).split()) - 45)


def _features(row: Row) -> tuple[object, ...]:
    ticket = ticket_of(row)
    labels = (ticket["topic"], ticket["action"], ticket["urgent"], ticket["product"] is None)
    return (*labels, row["style"], row["scenario"])
