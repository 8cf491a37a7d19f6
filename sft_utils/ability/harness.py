"""lm-eval in this process: tasks by name or file, its model class with less work, its records."""

import contextlib
import copy
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sft_utils.artifacts import ROOT, display_path
from sft_utils.data.rows import rows_of
from sft_utils.errors import ConfigError, DataError
from sft_utils.model.generation import common_prefix

FOLDER = ROOT / "data/general"  # one literal: the runner finds data files by it
CHOICE = ("facts", "cloze", "grammar", "arithmetic")
"""Tasks whose answers are chosen by likelihood; together they are `general_accuracy`."""

LOCAL = (*CHOICE, "instructions")
OWN = (".jsonl", ".json")
"""Endings that tell a file of the reader's from the name of a task; one JSON object per line."""

HUB = ("mmlu", "hellaswag", "ifeval")
"""What GPU profiles measure instead: their data sets come from the hub."""

MOST_LOGITS = 2**28
"""Numbers in the logits of one batch: 1 GiB in the float32 of the softmax, half of it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one item gave."""

    task: str
    id: str
    correct: bool
    prompt: str  # as the model read it, template included
    choices: tuple[str, ...] = ()  # continuations that were compared
    scores: tuple[float, ...] = ()  # their log-likelihoods, nats
    text: str = ""  # the answer, where one was generated


def load(name: str) -> tuple[dict[str, Any], int | None]:
    """lm-eval's task objects, and the number of items if they are local."""
    from lm_eval.tasks import TaskManager

    if name in LOCAL:
        manager = TaskManager(include_path=str(FOLDER / "tasks"), include_defaults=False)
        return manager.load([f"sft_{name}"]), len(rows_of(FOLDER / f"{name}.jsonl"))
    if name.endswith(OWN):
        rows = choice_rows(name)
        manager = TaskManager(include_path=str(FOLDER / "tasks"), include_defaults=False)
        return manager.load([_own_task(rows)]), len(rows)
    try:
        return TaskManager().load([name]), None
    except Exception as error:  # lm-eval, datasets and the hub raise a dozen kinds between them
        raise ConfigError(
            f"lm-eval cannot load {name!r} ({type(error).__name__}: {str(error)[:200]}). Check the "
            f"name and the network, use {', '.join(LOCAL)}, or give a local file."
        ) from error


def choice_rows(file: str | Path) -> list[dict[str, Any]]:
    """Rows of a multiple-choice file of the reader's: `question`, `choices`, `answer`.

    An answer is the text of a choice, its index from 0, or its letter. Where two of these readings
    name different choices the row is refused: a wrong guess would be a wrong gold answer.

    Raises:
        DataError: Rows that cannot be used, each with its number and reason (five are shown).
    """
    found, faults = [], []
    asked: dict[tuple[str, ...], int] = {}  # question and choices -> number of the row
    named: dict[str, int] = {}  # id -> number of the row
    for i, row in enumerate(rows_of(ROOT / file), start=1):
        try:
            texts, answer = _choices(row)
        except ValueError as error:
            faults.append(f"row {i}: {error}")
            continue
        said = (row["question"].strip(), *sorted(t.strip() for t in texts))
        first = asked.setdefault(said, i)
        if first != i:
            faults.append(f"row {i}: asks the same as row {first}; it would count twice. Drop one")
        row_id = str(i if row.get("id") is None else row["id"])
        if (first := named.setdefault(row_id, i)) != i:
            faults.append(
                f"row {i}: has the id {row_id!r} of row {first}; items are told apart by it. Give "
                "each row its own, or none (then it is its number)"
            )
        found.append(
            {"id": row_id, "question": row["question"], "choices": texts, "answer": answer}
        )
    if faults:
        shown = "; ".join(faults[:5]) + f"; and {len(faults) - 5} more" * (len(faults) > 5)
        raise DataError(f"{display_path(ROOT / file)}: {shown}")
    return found


def enough_questions(file: str | Path, picking: int, profile: str) -> None:
    """Refuse a file of the reader's that the grid of 10 would use up.

    The grid reads `picking` of its questions, and what picked a point cannot judge it: the verdict
    reads the rest, at least as many again.

    Raises:
        ConfigError: Fewer than twice `picking` questions.
        DataError: As `choice_rows`.
    """
    n = len(choice_rows(file))
    if n < 2 * picking:
        raise ConfigError(
            f"{display_path(ROOT / file)} holds {n} questions, profile {profile!r} needs at least "
            f"{2 * picking}: {picking} pick a run, and as many others judge it. Add "
            f"{2 * picking - n}, or leave `file` empty for the profile's own tasks"
        )


_KINDS = {str: "text", list: "list", dict: "object", bool: "boolean", type(None): "null"}


def _choices(row: Mapping[str, Any]) -> tuple[list[str], int]:
    """The choices of a row as texts, and the index of the right one.

    Raises:
        ValueError: Why the row cannot be used.
    """
    question, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(choices, list):
        seen = ", ".join(f"`{k}` ({_KINDS.get(type(v), 'number')})" for k, v in row.items())
        raise ValueError(
            "wants `question` (text), `choices` (list of texts) and `answer`; it has "
            f"{seen or 'nothing'}. Write them under these names"
        )
    if len(choices) < 2:
        raise ValueError(f"{len(choices)} choices; a choice needs two")
    for choice in choices:
        if isinstance(choice, bool) or not isinstance(choice, str | int | float):
            raise ValueError(f"choice {choice!r} is no text and no number")
        if not str(choice).strip():
            raise ValueError(f"choice {choice!r} is empty")
    texts = [str(choice) for choice in choices]
    if half := re.search("[\ud800-\udfff]", "".join([question, *texts])):
        raise ValueError(f"holds half a character (U+{ord(half[0]):04X}), which no tokenizer takes")
    bare = [text.strip() for text in texts]
    twice = next((text for k, text in enumerate(bare) if text in bare[:k]), None)
    if twice is not None:
        raise ValueError(f"choice {twice!r} stands there twice")
    readings = set()
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        if (value := str(answer).strip()) in bare:
            readings.add(bare.index(value))
        place = answer
        if isinstance(answer, str):  # "b" is a letter, "ß" and "ab" are none
            place = ascii_uppercase.find(answer.upper()) if len(answer) == 1 else -1
        if isinstance(place, int) and 0 <= place < len(texts):
            readings.add(place)
    if not readings:
        raise ValueError(
            f"answer {answer!r} is none of the {len(texts)} choices: give its text, its index from "
            "0, or its letter"
        )
    if len(readings) > 1:
        fix = "its index from 0" if isinstance(answer, str) else "its text, in quotes"
        names = " or ".join(repr(texts[k]) for k in sorted(readings))
        raise ValueError(f"answer {answer!r} could be choice {names}: give {fix}")
    return texts, readings.pop()


def _own_task(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from datasets import Dataset

    return {
        "task": "own_choice",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "{{question}}",
        "gen_prefix": "The answer is",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def record(task: str, sample: dict[str, Any]) -> Result:
    """lm-eval's record of one item; IFEval has a metric of its own."""
    names = ("acc", "prompt_level_strict_acc", "exact_match")
    metric = next((n for n in names if n in sample), None)
    if metric is None:
        raise ConfigError(f"task {task} gives none of {', '.join(names)}; it cannot be paired")
    requests = sample["arguments"]
    chosen = isinstance(requests[0][1], str)
    return Result(
        task=task,
        id=str(sample["doc"].get("id", f"{task}-{sample['doc_id']}")),
        correct=bool(sample[metric]),
        prompt=requests[0][0],
        choices=tuple(r[1] for r in requests) if chosen else (),
        scores=tuple(float(r[0]) for r in sample["filtered_resps"]) if chosen else (),
        text="" if chosen else str(sample["filtered_resps"][0]),
    )


def wrap(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's model class, with less work for the same numbers.

    A template begins every prompt with the same words: their keys and values are computed once.
    Logits are made from the first scored position on, not for the whole prompt: over a vocabulary
    of 49,152 they cost as much as the model itself. lm-eval allows for both; it counts positions
    from the end. The softmax is float32: in bf16 a log-likelihood has three digits.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    class Harness(HFLM):
        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            self.begins: dict[tuple[int, ...], int] = {}  # input -> position of its first score
            for _, context, rest in requests:
                key = _unpadded((context + rest)[:-1])
                self.begins[key] = min(self.begins.get(key, len(key)), len(context) - 1)
            prefix = common_prefix([context for _, context, _ in requests]) if requests else []
            self.n_prefix, self.memory = len(prefix), None
            if prefix:
                with torch.inference_mode():
                    ids = torch.tensor([prefix], device=self.device)
                    self.memory = self.model(ids, use_cache=True).past_key_values
            spans = [(len(key), begin) for key, begin in self.begins.items()]
            self.batch_size_per_gpu = rows_at_once(spans, self.config.vocab_size, batch_size)
            try:
                return super()._loglikelihood_tokens(requests, *args, **kwargs)
            finally:
                self.batch_size_per_gpu = batch_size  # answers that are written need no logits

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            begins = [self.begins.get(_unpadded(row)) for row in inps.tolist()]
            if self.memory is None or None in begins:
                return super()._model_call(inps, *args, **kwargs)
            memory = copy.deepcopy(self.memory)
            memory.batch_repeat_interleave(len(inps))
            with torch.inference_mode():
                return self.model(
                    inps[:, self.n_prefix :],
                    past_key_values=memory,
                    use_cache=True,
                    logits_to_keep=inps.shape[1] - min(begins),
                ).logits

    return Harness(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32"
    )


def rows_at_once(spans: Sequence[tuple[int, int]], n_vocab: int, most: int) -> int:
    """Rows of a batch whose logits stay below `MOST_LOGITS`, `most` or a half, a quarter of it ...

    lm-eval takes the longest inputs first. A batch gets logits from the earliest scored position of
    any row on: where lengths differ by hundreds (questions about a passage) over a vocabulary of
    150,000, 32 rows would need more than the model.

    Args:
        spans: Length of each input, and the position of its first score.
        n_vocab: Width of the logits.
        most: Rows at most.
    Example:
        >>> rows_at_once([(60, 50)] * 40, 49152, 32)
        32
        >>> rows_at_once([(900, 890), (300, 290), (280, 270), (260, 250)], 152064, 4)
        2
    """
    ordered = sorted(spans, reverse=True)
    while most > 1:
        parts = [ordered[i : i + most] for i in range(0, len(ordered), most)]
        largest = max((len(p) * (p[0][0] - min(b for _, b in p)) for p in parts), default=0)
        if largest * n_vocab <= MOST_LOGITS:
            break
        most //= 2
    return most


def _unpadded(ids: Sequence[int]) -> tuple[int, ...]:
    """Ids without the zeros that lm-eval pads with."""
    end = len(ids)
    while end and ids[end - 1] == 0:
        end -= 1
    return tuple(ids[:end])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without lm-eval's progress bars (no setting turns them off) and its remarks on tasks."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
