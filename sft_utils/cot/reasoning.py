"""Problems with a checkable trace: the items of notebook 06, authored or the reader's own.

The same `grade` judges data, candidate traces and answers of models. A trace is judged line by
line: arithmetic is recomputed, states are compared with the real run, deductions are put to the
solver.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sft_utils.artifacts import ROOT, placed, sha256_text
from sft_utils.config import Profile
from sft_utils.cot import answercheck, statetraces, traces
from sft_utils.cot.tracefaults import Corrupted, completion, corrupt, corrupt_number
from sft_utils.cot.traces import Check
from sft_utils.data import loading
from sft_utils.data.rows import in_turns, rows_of
from sft_utils.errors import ConfigError, DataError
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer

FOLDER = "data/reasoning"
DOMAINS = ("word", "code", "logic")
KIND = {"word": "number", "code": "output", "logic": "text"}
"""Domain -> how its answers are compared; see `answercheck.equal`."""
HELD_SHARE = 0.4
"""Items of held-out structures as a share of `test_rows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """06: items unless a unit is given."""

    train_rows: int  # of three domains together
    batch_size: int  # rows per micro-batch: short rows, see sft_utils/README.md, Decisions
    test_rows: int  # of the main domain; the others get a third, held-out structures 40 %
    sampled: int  # questions of which the base model writes four traces, all in one batch
    learning_rate: float  # of rows of about 100 tokens; on a GPU QLoRA's (arXiv 2305.14314) for 7B
    new_tokens: int  # the longest gold trace in fine steps has 227 tokens
    max_difficulty: int  # steps of a word problem


SIZES = {
    "smoke": Sizes(train_rows=12, batch_size=1, test_rows=6, sampled=2, learning_rate=1.4e-3,
                   new_tokens=16, max_difficulty=3),
    "cpu": Sizes(train_rows=720, batch_size=4, test_rows=90, sampled=4, learning_rate=1.4e-3,
                 new_tokens=160, max_difficulty=3),
    "gpu": Sizes(train_rows=2400, batch_size=8, test_rows=150, sampled=16, learning_rate=2e-4,
                 new_tokens=256, max_difficulty=5),
}  # fmt: skip


def sizes(profile: Profile) -> Sizes:
    """Sizes of 06; all GPU profiles share one set."""
    return SIZES[profile.track]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One problem, its answer, and the steps that lead there."""

    id: str
    domain: str  # word, code, logic, or own
    structure: str  # how its numbers or facts hang together
    difficulty: int  # steps of a word problem; 1 to 3 elsewhere; 0: unknown
    question: str
    answer: str  # canonical
    steps: tuple[dict[str, str], ...] = ()
    heldout: bool = False  # its structure is in no training row
    puzzle: dict[str, Any] | None = None  # facts of logic
    written: str = ""  # the trace of a row from a file, as it stands

    def trace(self, grain: str = "fine") -> str:
        """The right trace; see `traces.render`."""
        return self.written or traces.render(self.steps, grain, self.domain)

    def completion(self, grain: str | None = "fine") -> str:
        """What is trained: trace and answer, or with None the answer alone."""
        return completion("" if grain is None else self.trace(grain), self.answer)

    def turns(self, grain: str | None = "fine") -> list[Message]:
        """Question and completion as two messages."""
        return [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.completion(grain)},
        ]

    def corrupted(self, rng: Any, *, kind: str = "", grain: str = "fine") -> tuple[str, str]:
        """A wrong completion and its kind of fault; see `tracefaults.corrupt`."""
        return corrupt(
            self.steps, rng, answer=self.answer, question=self.question, kind=kind, grain=grain,
            domain=self.domain, puzzle=self.puzzle,
        )  # fmt: skip

    def corrupted_number(self, rng: Any, *, grain: str = "fine") -> Corrupted | None:
        """One wrong number in the trace of a word problem; see `tracefaults.corrupt_number`."""
        if self.domain != "word":
            return None
        return corrupt_number(self.steps, rng, question=self.question, grain=grain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What is trained, and what is asked, by group."""

    train: list[Item]
    val: list[Item]
    groups: dict[str, list[Item]]  # test: "word", "word_heldout", "code", …
    fewshot: list[Item]
    excluded: list[tuple[int, str]] = field(default_factory=list)  # of the reader's file

    def asked(self, *names: str) -> list[Item]:
        """Test items of some groups, one after the other; all without names."""
        return [item for name in names or self.groups for item in self.groups.get(name, ())]


@dataclass(frozen=True, slots=True)
class Graded:
    """What one completion is worth."""

    correct: bool  # the final answer
    reason: str  # "correct", or one of traces.REASONS
    said: str | None = None  # the final answer as found
    trace_ok: bool | None = None  # None: there is no trace
    detail: str = ""


def read(
    *,
    train_rows: int,
    test_rows: int,
    seed: int,
    domains: Sequence[str] = ("word",),
    val_rows: int = 0,
    max_difficulty: int = 5,
) -> Items:
    """The authored items, balanced by structure and difficulty.

    Args:
        train_rows: Rows to train on, over all domains; the structures take turns.
        test_rows: Test items of seen structures per domain; of held-out structures there are at
            most `HELD_SHARE` as many.
        seed: Draws the rows.
        domains: Some of `DOMAINS`.
        val_rows: Validation items over all domains.
        max_difficulty: Leaves out longer problems, in every split.
    Raises:
        ConfigError: An unknown domain.
    """
    unknown = set(domains) - set(DOMAINS)
    if unknown or not domains:
        raise ConfigError(f"domains {sorted(unknown)} are unknown; choose of {', '.join(DOMAINS)}")

    def items(split: str) -> list[Item]:
        rows = rows_of(ROOT / FOLDER / f"{split}.jsonl")
        return [
            _item(r) for r in rows if r["domain"] in domains and r["difficulty"] <= max_difficulty
        ]

    test, groups = items("test"), {}
    for domain in domains:
        mine = [i for i in test if i.domain == domain]
        held = _draw([i for i in mine if i.heldout], round(HELD_SHARE * test_rows), seed)
        groups[domain] = _draw([i for i in mine if not i.heldout], test_rows, seed)
        groups[f"{domain}_heldout"] = held
    return Items(
        train=_draw(items("train"), train_rows, seed), val=_draw(items("val"), val_rows, seed),
        groups={name: group for name, group in groups.items() if group}, fewshot=items("fewshot"),
    )  # fmt: skip


def _item(row: dict[str, Any]) -> Item:
    return Item(
        id=row["id"], domain=row["domain"], structure=row["structure"],
        difficulty=row["difficulty"], question=row["question"], answer=row["answer"],
        steps=tuple(row["steps"]), heldout=row["heldout_structure"], puzzle=row.get("puzzle"),
    )  # fmt: skip


def _draw(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """At most `n` items: difficulties take turns, and within them the structures.

    A difficulty or structure that runs out leaves its turns to the others.
    """
    shuffled = sorted(items, key=lambda i: sha256_text(f"{seed}:{i.id}"))
    structures = in_turns(shuffled, key=lambda i: i.structure)
    return in_turns(structures, key=lambda i: (i.domain, i.difficulty))[:n]


def from_file(
    source: str,
    *,
    seed: int,
    train_rows: int,
    test_rows: int,
    least: int = 3,
    tokenizer: Any = None,
    max_tokens: int = 0,
) -> Items:
    """A file in the format of GSM8K: `question`, and `answer` with the trace and "#### N".

    Only rows whose trace `check` accepts are used: a wrong equation makes the stated answer
    doubtful too, and a trace without equations cannot be checked. The checker also refuses right
    traces whose numbers it cannot place (1.5 for "150 %"), so figures speak of problems that it can
    follow. Rows that cannot be used are listed in `excluded` with number and
    reason, behind them those beyond `train_rows`. At most a fifth is asked; a question that occurs
    twice counts once.

    Args:
        source: File or hub id; see `loading.load`.
        seed: Another seed asks other rows.
        train_rows: Most rows to train on.
        test_rows: Most rows to ask.
        least: Rows without which there is no run: the shortest arm's, and one to ask.
        tokenizer: Counts the tokens of question and trace; None means any length will do.
        max_tokens: Rows of more are left out: training would cut them.
    Raises:
        DataError: Fewer than `least` rows can be used.
    """
    loaded = loading.load(placed(source))
    excluded = [(e.number, str(e)) for e in loaded.excluded]
    items: dict[str, Item] = {}
    for number, row in ((r.number, r.row) for r in loaded.rows):
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or not question.strip():
            excluded.append((number, "no texts named question and answer"))
            continue
        try:
            trace, last = answercheck.gsm8k(answer)
        except DataError as error:
            excluded.append((number, str(error)))
            continue
        key = " ".join(question.split()).casefold()
        if key in items:
            excluded.append((number, f"repeats the question of {items[key].id}"))
            continue
        item = Item(
            id=f"line {number}", domain="own", structure="own", question=question.strip(),
            difficulty=len(traces.equations(trace)), answer=last, written=trace,
        )  # fmt: skip
        judged = check(item, item.completion())
        if not judged.ok:
            excluded.append((number, f"trace rejected, {judged.reason}: {judged.detail}"))
            continue
        n = len(tokenizer.encode(item.question + item.completion())) if tokenizer else 0
        if n > max_tokens:
            excluded.append((number, f"{n} tokens with its trace, {max_tokens} have room"))
            continue
        items[key] = item
    if len(items) < least:
        first = next((f"; left out first: row {n}, {why}" for n, why in sorted(excluded)), "")
        raise DataError(
            f"{source}: {f'only {len(items)} rows' if items else 'no row'} can be used{first}. "
            f"{least} are needed. A row has question and answer; the answer leads from the "
            "question's numbers by equations such as 3 + 4 = 7 to its last line, '#### N'."
        )
    ordered = sorted(items.values(), key=lambda i: sha256_text(f"{seed}:{i.question}"))
    n_test = min(test_rows, max(1, len(ordered) // 5))
    # examples of the prompt are not trained where rows are left: the model samples traces of those
    rest = ordered[n_test:]
    n_shots = min(4, max(0, len(rest) - max(least, 12)))
    train, fewshot = rest[: len(rest) - n_shots][:train_rows], rest[-4:]
    used = {i.id for i in [*ordered[:n_test], *train, *fewshot]}
    enough = f"not needed: this profile trains {train_rows} rows"
    surplus = sorted((int(i.id.split()[1]), enough) for i in ordered if i.id not in used)
    return Items(
        train=train, val=[], groups={"own": ordered[:n_test]}, fewshot=fewshot,
        excluded=[*sorted(excluded), *surplus],
    )  # fmt: skip


def check(item: Item, answer: Answer | str) -> Check:
    """Judge trace and answer of a completion, line by line."""
    text, stopped = (answer, True) if isinstance(answer, str) else (answer.text, answer.stopped)
    if item.domain == "code":
        return statetraces.check_states(text, steps=item.steps, answer=item.answer, stopped=stopped)
    if item.domain == "logic":
        return statetraces.check_claims(
            text, puzzle=item.puzzle or {}, answer=item.answer, stopped=stopped
        )
    return traces.check(text, question=item.question, answer=item.answer, stopped=stopped)


def grade(item: Item, answer: Answer | str) -> Graded:
    """Is the final answer right, and if not, what went wrong first?"""
    text, stopped = (answer, True) if isinstance(answer, str) else (answer.text, answer.stopped)
    said = answercheck.extract(text, stopped=stopped)
    judged = check(item, answer)
    trace_ok = judged.ok if judged.steps else None
    if not said:
        return Graded(False, said.why, None, trace_ok, judged.detail)
    if answercheck.equal(said.text or "", item.answer, KIND.get(item.domain, "number")):
        return Graded(True, "correct", said.text, trace_ok, judged.detail)
    reason = judged.reason if judged.steps else "wrong answer"
    return Graded(False, reason, said.text, trace_ok, judged.detail)


def funnel(items: Sequence[Item], texts: Sequence[Answer | str]) -> tuple[list[int], Counter[str]]:
    """Which candidate traces may be trained on: their places, and how many fell for which reason.

    Args:
        items: One per candidate; an item may occur several times.
        texts: The candidates. A repeated one counts as "repeated".
    """
    kept: list[int] = []
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for place, (item, text) in enumerate(zip(items, texts, strict=True)):
        judged = check(item, text)
        key = (item.id, (text if isinstance(text, str) else text.text).strip())
        reason = judged.reason if not judged.ok else "repeated" if key in seen else "kept"
        seen.add(key)
        counts[reason] += 1
        if reason == "kept":
            kept.append(place)
    return kept, counts
