"""What a preflight looks at (`RunRecord`) and what it says (`Finding`)."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Message, Oracle, oracles

Severity = Literal["FAIL", "WARN"]
Batch = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (FAIL, a fact) or looks wrong (WARN, a judgement)."""

    id: str  # of the failure catalogue, "M1"
    severity: Severity
    what: str  # one line: what was seen, with the token text where there is one
    where: str  # row, turn, token or setting
    fix: str  # the line to change
    why: str = ""  # what happens to the model if it stays
    row: int | None = None  # index into RunRecord.conversations
    turn: int | None = None  # index of the message in that row
    count: int = 1  # rows with the same finding


def spot(row: int, turn: int | None = None) -> str:
    """How findings name a row, or a message in it."""
    return f"row {row}" if turn is None else f"row {row}, message {turn}"


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """How the tuned model will be judged; empty fields are not checked."""

    arms: tuple[str, ...] = ()  # names of the compared models or prompts
    n: int = 0  # scored examples
    interval: bool = False  # are intervals reported?
    metric: str = ""  # what decides, "eval_mean_token_accuracy" is a teacher-forced one
    selection_ids: frozenset[str] = frozenset()  # examples that choose a checkpoint
    test_ids: frozenset[str] = frozenset()  # examples that are reported
    train_texts: tuple[str, ...] = ()  # user texts trained on
    eval_texts: tuple[str, ...] = ()  # user texts scored
    templated: Mapping[str, bool] = field(default_factory=dict)  # arm -> prompts use its template
    max_new_tokens: int = 0
    answers: tuple[tuple[str, bool], ...] = ()  # (text, ended by a stop token)
    general_suite: bool = True  # is something outside the task measured?


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything a detector may read. Only `tokenizer` and `conversations` are required.

    A detector is a pure function RunRecord -> findings; what it needs and does not find, it does
    not check. Frozen: variations are made with `dataclasses.replace`.
    """

    tokenizer: Any  # with the template and special tokens that will be SERVED
    conversations: Sequence[Sequence[Message]]  # rows as they were declared, before any library
    batches: Iterable[Batch] | Callable[[], Iterable[Batch]] | None = None  # after the collator
    turns: Literal["all", "last"] = "all"  # which assistant turns are meant to be trained
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # as served

    raw: Sequence[Mapping[str, Any]] = ()  # lines of the file, any layout
    stored: Sequence[Sequence[Message]] = ()  # the conversations read back from the dataset
    schema: Mapping[str, Any] | None = None  # JSON schema that answers are meant to obey
    licences: frozenset[str] = frozenset()  # licences that may be trained on; empty: any
    formatting: Callable[[Mapping[str, Any]], str] | None = None  # formatting_func as declared

    train_tokenizer: Any = None  # what tokenised the training rows, if it is another object
    train_template_kwargs: Mapping[str, Any] | None = None  # as trained

    eval_conversations: Sequence[Sequence[Message]] = ()
    eval_batches: Iterable[Batch] | Callable[[], Iterable[Batch]] | None = None
    evaluation: EvalPlan | None = None

    model: Any = None  # about to be trained, or just trained
    generation: Mapping[str, Any] | None = None  # served generation config; None: the model's
    arguments: Any = None  # training arguments (transformers or TRL), or any object with fields
    trainer: Any = None  # for the dry run
    declared: Mapping[str, Any] = field(default_factory=dict)  # what the user asked for
    observed: Mapping[str, Any] = field(default_factory=dict)  # what is really in force
    messages: Sequence[str] = ()  # library warnings captured while the run was built

    serve: Callable[[Sequence[Message]], list[int]] | None = None  # prompt ids of the server
    export: Path | None = None  # directory that will be handed over
    base_model: Any = None  # the model before training, for the effect of an adapter
    served_model: Any = None  # what is served, for comparison with `model`
    golden: Sequence[Mapping[str, Any]] = ()  # {"messages", "ids"} recorded at training

    @cached_property
    def oracles(self) -> list[Oracle | TemplateError]:
        """The truth for every conversation, or why it cannot be told. Computed once."""
        return oracles(
            self.tokenizer,
            self.conversations,
            template_kwargs=self.template_kwargs,
            stops=self.stops,
        )

    @cached_property
    def train_batches(self) -> list[Batch]:
        """The training batches, drawn once."""
        return _drawn(self.batches)

    @cached_property
    def held_batches(self) -> list[Batch]:
        """The evaluation batches, drawn once."""
        return _drawn(self.eval_batches)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Ids at which the served model stops."""
        if self.generation is not None:
            ids = self.generation.get("eos_token_id")
        else:
            ids = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return frozenset([ids] if isinstance(ids, int) else ids or [])

    def change(self, **changes: Any) -> "RunRecord":
        """A copy with other fields; nothing computed is carried over."""
        return dataclasses.replace(self, **changes)


Detector = Callable[[RunRecord], Iterable[Finding]]


def _drawn(batches: Iterable[Batch] | Callable[[], Iterable[Batch]] | None) -> list[Batch]:
    """A list of batches from a list, a loader or a function that gives one."""
    if batches is None:
        return []
    return list(batches() if callable(batches) else batches)
