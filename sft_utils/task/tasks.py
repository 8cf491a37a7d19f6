"""A task that a notebook trains and judges: the tickets of this project, or the reader's file.

Rows of every task look alike: {"id", "source", "messages"}, the last message being the answer that
is trained and scored.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_utils.artifacts import placed, sha256_text
from sft_utils.data import layouts, loading, schemas
from sft_utils.data.duplicates import SAMPLE, HeldOut, common_shingles, exact_key, shingles
from sft_utils.data.exclusions import Reason, apply, breaks, counted, json_answers, listed
from sft_utils.errors import ConfigError, DataError, MaskError, TemplateError
from sft_utils.masks import masking
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer
from sft_utils.scores.scoring import Score, score, score_text
from sft_utils.task import tickets

Row = dict[str, Any]
MIN_TRAIN, MIN_HELD = 16, 8
"""Below these sizes neither training nor a comparison says anything."""
JSON_SHARE = 0.9
"""From this share of JSON answers on, a file without a schema is a structured task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How rows become prompts, and answers become scores."""

    name: str
    system: str  # all that a tuned model is told; the rest is in its weights
    instructions: str  # what a model must be told when its weights do not know the task
    schema: str | dict[str, Any] | None  # of the answers; None for plain text

    @property
    def metric(self) -> str:
        """What promotion and comparison look at: F1 over fields, or over words."""
        return "field_f1" if self.schema is not None else "word_f1"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of one arm, the main one included."""
        if self.schema is None:
            return ("word_f1", "exact_match")
        return ("parses", "schema_valid", "field_f1", "exact_match")

    def conversation(self, row: Row) -> list[Message]:
        """What a row is trained on."""
        return [*_system(self.system), *row["messages"]]

    def prompt(
        self, row: Row, system: str | None = None, examples: Sequence[Row] = ()
    ) -> list[Message]:
        """System prompt, solved examples as earlier turns, and the request of a row."""
        told = _system(self.system if system is None else system)
        own = row["messages"][:-1]
        if told and own and own[0]["role"] == "system":  # the file's own, then ours
            told = _system(f"{own[0]['content']}\n\n{told[0]['content']}")
            own = own[1:]
        shots = [m for e in examples for m in e["messages"] if m["role"] != "system"]
        return [*told, *shots, *own] if told or not shots else [*own[:-1], *shots, own[-1]]

    def answer(self, row: Row) -> str:
        """The text that a row should be answered with."""
        return row["messages"][-1]["content"]

    def score(self, rows: Sequence[Row], answers: Sequence[Answer | str]) -> list[Score]:
        """Score answers against their rows."""
        texts = [a if isinstance(a, str) else a.text for a in answers]
        if self.schema is None:
            return [score_text(t, self.answer(r)) for r, t in zip(rows, texts, strict=True)]
        return [
            score(t, json.loads(self.answer(r)), self.schema)
            for r, t in zip(rows, texts, strict=True)
        ]


def _system(text: str) -> list[Message]:
    return [{"role": "system", "content": text}] if text else []


TICKETS = Task(
    name="tickets",
    system=tickets.SYSTEM,
    instructions=tickets.INSTRUCTIONS,
    schema=tickets.SCHEMA,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The reader's file as a task, split, with everything that was left out."""

    task: Task
    train: list[Row]
    val: list[Row]
    test: list[Row]
    layout: str
    unit: str = "line"  # what numbers count: lines, or rows (JSON list, Parquet, hub)
    excluded: list[tuple[int, str]] = field(default_factory=list)  # number, reason
    ignored: Counter[str] = field(default_factory=Counter)  # key that nothing reads -> rows
    warnings: dict[str, list[int]] = field(default_factory=dict)  # reason -> numbers of kept rows

    @property
    def reasons(self) -> Counter[str]:
        """How many rows each reason excluded."""
        return Counter(reason.split(":")[0] for _, reason in self.excluded)

    def rows(self) -> list[dict[str, Any]]:
        """What became of the file, for a table: parts, warnings, what is excluded or not read."""
        parts = [("train", self.train), ("validation", self.val), ("test", self.test)]
        said = {name: [r["line"] for r in rows] for name, rows in parts}
        kept = {number for numbers in said.values() for number in numbers}
        for reason, numbers in self.warnings.items():
            if left := kept.intersection(numbers):
                said[f"kept with a warning: {reason}"] = list(left)
        first = {}
        for name, _ in self.reasons.most_common():
            found = [(k, w) for k, w in self.excluded if w.split(":")[0] == name]
            said[f"excluded: {name}"] = [k for k, _ in found]
            first[f"excluded: {name}"] = min(found)[1].partition(": ")[2][:100]
        where = "lines" if self.unit == "line" else f"{self.unit} numbers"
        table = [{"part": k, "rows": len(n), where: _lines(n)} for k, n in said.items()]
        for row in table:
            if first:
                row["the first"] = first.get(row["part"], "")
        unread = self.ignored.most_common()
        return table + [
            dict.fromkeys(table[0], "") | {"part": f"not used: {k}", "rows": n} for k, n in unread
        ]

    def write_excluded(self, path: Path) -> str:
        """List all that was left out in a file, since `rows` shows the first numbers only."""
        return listed(self.excluded, self.unit, path)


def _lines(numbers: Any) -> str:
    """The first line numbers of a part."""
    every = sorted(numbers)
    return ", ".join(map(str, every[:6])) + (", …" if len(every) > 6 else "")


def own(
    source: str,
    *,
    schema: str = "",
    mapping: str = "",
    seed: int,
    train_rows: int,
    val_rows: int,
    test_rows: int,
    tokenizer: Any = None,
    max_length: int = 0,
    told: bool = False,
) -> Own:
    """Read, check and split the reader's own file.

    Rows with the same request never lie on two sides; training rows whose user turns resemble those
    of a held-out one are excluded. What many rows share (system prompt, instruction, footer) makes
    none resemble another, nor do the same words around other numbers. Held out are at most a fifth
    of the rows for the test and a tenth for validation.
    Every row of the file is in `train`, `val`, `test` or `excluded`; columns that nothing reads are
    in `ignored`.

    Args:
        source: File or hub id; see `loading.load`.
        schema: JSON Schema file of the answers; empty: inferred from the training answers if the
            answers are JSON. A held-out row that it does not fit is excluded.
        mapping: Columns of a table, for example "prompt=question,completion=answer".
        seed: Another seed holds out other rows.
        train_rows: Most rows to train on.
        val_rows: Most rows to validate on.
        test_rows: Most rows to test on.
        tokenizer: Of the model that will be trained; None leaves lengths and masks unchecked.
        max_length: Tokens of a rendered conversation above which a row is excluded; goes with
            `tokenizer`.
        told: Lengths are those with the instructions in every prompt, as 05 trains.
    Raises:
        ConfigError: A tokenizer without a length, or a length without a tokenizer.
        DataError: Nothing usable is left; says what was excluded and why.
    """
    if (tokenizer is None) != (max_length < 1):
        raise ConfigError(
            f"tasks.own: tokenizer {'missing' if tokenizer is None else 'given'}, max_length = "
            f"{max_length}: lengths are checked with both, or not at all with neither"
        )
    loaded = loading.load(placed(source))
    normal = layouts.conversations(loaded, mapping=mapping)
    excluded = [(e.number, f"{e.reason}: {e.detail}") for e in normal.excluded]
    rows = [
        {"id": f"{normal.unit} {n}", "line": n, "source": "own", "messages": list(c)}
        for n, c in zip(normal.numbers, normal.conversations, strict=True)
    ]
    given = schemas.load_schema(placed(schema)) if schema else None
    answers, others = json_answers(rows)
    structured = given is not None or len(answers) >= JSON_SHARE * len(rows)
    if not structured and len(answers) > (1 - JSON_SHARE) * len(rows):
        raise mixed(source, answers, others, normal.unit)
    if structured:
        rows = apply(rows, lambda r: others.get(r["line"]), excluded)
    if given is not None:
        rows = apply(rows, breaks(given, answers, "answer breaks the schema"), excluded)
    rows = apply(rows, _repeats(rows), excluded)
    if tokenizer is not None:
        rows = apply(
            rows, _unfit(_task(loaded.source, given), tokenizer, max_length, False), excluded
        )
    ordered = sorted(rows, key=lambda r: sha256_text(f"{seed}:{exact_key(request(r))}"))
    n_test = min(test_rows, len(rows) // 5)
    n_val = min(val_rows, len(rows) // 10)
    test, val, rest = ordered[:n_test], ordered[n_test : n_test + n_val], ordered[n_test + n_val :]
    if test or val:
        common = common_shingles([_asked(r) for r in rows[:: max(1, len(rows) // SAMPLE)]])
        held = HeldOut({r["id"]: _asked(r) for r in test + val}, common, signs=True)
        rest = apply(rest, lambda r: _leak(r, held), excluded)
    rules = given
    if structured and rules is None and rest:
        # Not from held-out answers: a prompt that lists their values would tell them.
        rules = schemas.infer_schema([answers[r["line"]] for r in rest])
        unseen = breaks(rules, answers, "held-out answer outside the training schema")
        test, val = (apply(part, unseen, excluded) for part in (test, val))
    task = _task(loaded.source, rules)
    if tokenizer is not None and told:
        long = _unfit(task, tokenizer, max_length, told)
        rest, test, val = (apply(part, long, excluded) for part in (rest, test, val))
    rest = sorted(rest, key=lambda r: sha256_text(f"{seed}:{r['id']}"))
    surplus = {r["line"] for r in rest[train_rows:]}
    enough = f"not needed: this profile trains {train_rows} rows"
    rest = apply(rest, lambda r: enough if r["line"] in surplus else None, excluded)
    blind = "None is left to validate. " if val_rows and not val else ""  # and F1 of none is 1
    if blind or len(rest) < min(MIN_TRAIN, train_rows) or len(test) < min(MIN_HELD, test_rows):
        raise DataError(
            f"{source}: {len(rest)} rows to train on and {len(test)} to test are left; at least "
            f"{MIN_TRAIN} and {MIN_HELD} are needed. {blind}Excluded: "
            f"{counted(excluded, normal.unit)}. "
            "Give more rows, or repair what excludes them: the rows, the schema, the template."
        )
    return Own(
        task=task,
        train=rest,
        val=sorted(val, key=lambda r: r["line"]),
        test=sorted(test, key=lambda r: r["line"]),
        layout=normal.layout,
        unit=normal.unit,
        excluded=sorted(excluded),
        ignored=normal.ignored,
        warnings=loaded.warnings,
    )


def request(row: Row) -> str:
    """All that stands before the answer, as one text."""
    return "\n".join(m["content"] for m in row["messages"][:-1])


def _asked(row: Row) -> str:
    """What the user says; a system prompt is mostly that of all rows."""
    return "\n".join(m["content"] for m in row["messages"][:-1] if m["role"] == "user")


def not_json(source: str, rows: Sequence[Row]) -> DataError:
    """For work that needs structured answers.

    Args:
        rows: Its training rows.
    """
    answers, others = json_answers(list(rows))
    number, reason = min(others.items(), default=(0, ""))
    fenced = any(r["messages"][-1]["content"].lstrip().startswith("```") for r in rows)
    hint = " Take the code fences around them away." if fenced else ""
    return DataError(
        f"{source}: {len(answers)} of {len(rows)} training answers are JSON objects, so there is "
        f"no schema to obey; number {number}: {reason}.{hint} Give a file whose answers are JSON, "
        "or train on texts with notebook 03."
    )


def mixed(
    source: str, answers: Mapping[int, Any], others: Mapping[int, str], unit: str
) -> DataError:
    """For a file of texts and JSON: scored as one kind, the other would be wrong in silence."""
    number, reason = min(others.items())
    return DataError(
        f"{source}: {len(answers)} of {len(answers) + len(others)} answers are JSON objects, the "
        f"others are not ({unit} {number}: {reason}). Repair these, or give a schema: then they "
        "are excluded and listed; a file of plain texts holds no JSON answers."
    )


def _repeats(rows: list[Row]) -> Reason:
    """Requests that occur more than once: the first answer stays, and a contradiction is named."""
    first: dict[str, Row] = {}
    for row in rows:  # by the text itself: case and white space may be the point of a request
        first.setdefault(request(row).strip(), row)

    def reason(row: Row) -> str | None:
        kept = first[request(row).strip()]
        if kept is row:
            return None
        same = kept["messages"][-1]["content"] == row["messages"][-1]["content"]
        kind = "repeated request" if same else "repeated request with another answer"
        return f"{kind}: first in {kept['id']}"

    return reason


def _unfit(task: Task, tokenizer: Any, max_length: int, told: bool) -> Reason:
    """What a trainer could not take: too many tokens, or a form that cannot be masked."""

    def reason(row: Row) -> str | None:
        prompt = task.prompt(row, task.instructions)
        messages = [*prompt, row["messages"][-1]] if told else task.conversation(row)
        try:
            whole = masking.assistant_labels(tokenizer, messages, max_length=sys.maxsize)
        except (MaskError, TemplateError) as error:
            return f"cannot be masked: {error}"
        n = len(whole["input_ids"])
        fits = n <= max_length
        return None if fits else f"too long: {n} tokens, at most {max_length} (max_length)"

    return reason


def _leak(row: Row, held: HeldOut) -> str | None:
    text = _asked(row)
    # Equal requests are one row by now; equal questions under two system prompts may be two.
    found = held.find(text, shingles(text), exact_key(request(row)))
    return f"resembles a held-out row: {found}" if found else None


def _task(name: str, rules: Mapping[str, Any] | None) -> Task:
    if rules is None:
        return Task(name=name, system="", instructions="", schema=None)
    told = f"Answer with one JSON object and nothing else:\n{schemas.signature(dict(rules))}"
    return Task(name=name, system="", instructions=told, schema=dict(rules))
