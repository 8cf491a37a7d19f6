"""General ability: lm-eval on local items, a second computation of its numbers, format bleed.

The items and their tasks are in data/general. Nothing here needs a network, and nothing is written.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sft_utils.ability import harness
from sft_utils.ability.harness import CHOICE, FOLDER, HUB, LOCAL, OWN, Result
from sft_utils.artifacts import ROOT, reader_path
from sft_utils.config import Profile
from sft_utils.data.rows import rows_of
from sft_utils.errors import ConfigError, TemplateError
from sft_utils.masks import rendering
from sft_utils.masks.masking import IGNORE
from sft_utils.model import modeling
from sft_utils.scores.intervals import bootstrap
from sft_utils.scores.jsonanswers import extract_json, parse_json
from sft_utils.scores.scoring import rate, rate_difference

ASKED = {
    "facts": ("{question}", "The answer is"),
    "arithmetic": ("{question}", "The answer is"),
    "cloze": ("Continue the text.", "{text}"),
    "grammar": ("Write one correct English sentence.", ""),
}
"""Task -> what the user says, and how the answer begins. Written a second time on purpose: the
task files say the same to lm-eval, and tests/parity compares the prompts that come out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """10: rows unless a unit is given."""

    grid_rows: int  # mails of each grid run
    final_rows: int  # mails of the run that is promoted, and of its twin without replay
    val_rows: int  # mails that score a grid run
    test_rows: int
    grid_items: int  # general items of each task for a grid run
    items: int  # general items of each task before and after; 400 are all
    questions: int  # ordinary ones that measure format bleed; the grid asks half as many others
    texts: int  # paragraphs whose perplexity is measured; 61 are all
    rates: tuple[float, ...]
    shares: tuple[float, ...]  # replay rows as a share of all rows


SIZES = {
    "smoke": Sizes(grid_rows=4, final_rows=4, val_rows=2, test_rows=2, grid_items=2, items=3,
                   questions=2, texts=4, rates=(2e-3,), shares=(0.0, 0.3)),
    "cpu": Sizes(grid_rows=80, final_rows=240, val_rows=24, test_rows=120, grid_items=48,
                 items=400, questions=60, texts=61, rates=(1e-3, 4e-3), shares=(0.0, 0.1, 0.25)),
    "gpu": Sizes(grid_rows=512, final_rows=2048, val_rows=96, test_rows=168, grid_items=200,
                 items=400, questions=80, texts=61, rates=(1e-4, 3e-4, 1e-3),
                 shares=(0.0, 0.02, 0.04)),
}  # fmt: skip


def sizes(profile: Profile) -> Sizes:
    """Sizes of 10; all GPU profiles share one set."""
    return SIZES[profile.track]


def task_names(profile: Profile, *, wanted: str = "", file: str = "") -> tuple[str, ...]:
    """Which tasks a profile measures.

    Args:
        wanted: Names with commas, of ours or of lm-eval; empty means the profile's own.
        file: A JSONL file of the reader's with `question`, `choices` and `answer`; it replaces all.
    Raises:
        ConfigError: Tasks of the hub on a machine that is offline; no such file, no JSONL, or too
            few questions in it.
        DataError: Rows of the file that cannot be used.
    """
    if file:
        file = str(reader_path(file))
        if not (ROOT / file).is_file():
            raise ConfigError(f"no file {file}; give a JSONL file with question, choices, answer")
        if not file.endswith(OWN):
            raise ConfigError(
                f"{file} does not end in {' or '.join(OWN)}: questions are read from JSONL only, "
                "one object with question, choices and answer per line. Convert it"
            )
        if profile.name != "smoke":  # which says nothing about a model
            harness.enough_questions(file, sizes(profile).grid_items, profile.name)
        return (file,)
    names = tuple(n.strip() for n in wanted.split(",") if n.strip())
    names = names or (HUB if profile.is_gpu else LOCAL)
    offline = {os.environ.get(n, "") for n in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")} - {"", "0"}
    foreign = [n for n in names if n not in LOCAL]
    if foreign and offline and not profile.is_gpu:
        raise ConfigError(
            f"{', '.join(foreign)}: these data sets come from the hub, and profile "
            f"{profile.name!r} runs offline. Use {', '.join(LOCAL)}, give a local file, or a GPU "
            "profile with network."
        )
    return names


def evaluate(
    model: Any,
    tokenizer: Any,
    *,
    tasks: Sequence[str] = LOCAL,
    limit: int | None = None,
    chat_template: bool = True,
    batch_size: int = 32,
) -> list[Result]:
    """Run lm-eval in this process.

    Args:
        model: A loaded model, with adapter or without.
        tasks: Result of `task_names`.
        limit: Items per task, evenly spread over ours; the first ones of a hub task, of each of its
            parts if it is a group.
        chat_template: Ask through the template, or as plain text.
        batch_size: Sequences computed together.
    Returns:
        One result per item, in the order of tasks and files; items of a group carry its name.
    Raises:
        ConfigError: A task that lm-eval does not know, or whose data cannot be had.
    """
    from lm_eval import evaluator

    results: list[Result] = []
    training = model.training
    with harness.quietly():
        lm = harness.wrap(model, tokenizer, batch_size)
        for name in tasks:
            loaded, n = harness.load(name)
            some = None
            if n is not None and limit is not None and limit < n:
                some = {task: [i * n // limit for i in range(limit)] for task in loaded["tasks"]}
            found = evaluator.evaluate(
                lm,
                task_dict=loaded,
                limit=None if n is not None else limit,
                samples=some,
                bootstrap_iters=0,  # its standard errors are not used: ours are paired
                log_samples=True,
                apply_chat_template=chat_template,
            )
            for task, samples in found["samples"].items():
                ours = name if n is not None else task
                records = [
                    harness.record(ours, s) for s in sorted(samples, key=lambda s: s["doc_id"])
                ]
                results += [replace(r, task=name) for r in records]  # mmlu holds 57 tasks
    model.train(training)
    return results


def same_prompts(a: Sequence[Result], b: Sequence[Result]) -> bool:
    """Whether two evaluations asked the same in the same words; only then can they be compared.

    Raises:
        TemplateError: They did not; names the first item that differs.
    """
    for x, y in zip(a, b, strict=False):
        if (x.task, x.id) != (y.task, y.id):
            raise TemplateError(f"item {x.task}/{x.id} stands against {y.task}/{y.id}")
        if (x.prompt, x.choices) != (y.prompt, y.choices):
            raise TemplateError(
                f"{x.task}/{x.id} was asked in two ways: {x.prompt[-60:]!r}, {y.prompt[-60:]!r}. "
                "Evaluate both sides with one tokenizer and one template."
            )
    if len(a) != len(b):
        raise TemplateError(f"{len(a)} items against {len(b)}: give both sides the same limit")
    return True


def accuracy(results: Sequence[Result], tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Share of right items of some tasks (all without names) as a metric entry."""
    return rate([r.correct for r in results if not tasks or r.task in tasks])


def accuracy_difference(
    a: Sequence[Result], b: Sequence[Result], tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy of `a` minus `b` on the same items, with the interval of `rate_difference`.

    Raises:
        TemplateError: The two sides did not read the same prompts.
        ConfigError: No items, or none of these tasks.
    """
    same_prompts(a, b)
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if not tasks or x.task in tasks]
    return rate_difference([x.correct for x, _ in pairs], [y.correct for _, y in pairs])


def requests(
    task: str, tokenizer: Any, *, chat_template: bool = True
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(id, its pairs of context and continuation) of a choice task, built without lm-eval.

    Raises:
        ConfigError: Not a local task with choices.
    """
    if task not in CHOICE:
        raise ConfigError(f"{task!r} is none of the local tasks with choices: {', '.join(CHOICE)}")
    said, begun = ASKED[task]
    found = []
    for row in rows_of(FOLDER / f"{task}.jsonl"):
        question, start = said.format(**row), begun.format(**row)
        if chat_template:
            chat = [{"role": "user", "content": question}]
            context = rendering.render(tokenizer, chat, generation=True) + start
        else:
            context = f"{question} {start}".rstrip()
        space = " " if start or not chat_template else ""
        found.append((row["id"], [(context, space + choice) for choice in row["choices"]]))
    return found


def loglikelihoods(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32
) -> list[float]:
    """log p(continuation | context) in nats, computed without lm-eval.

    Context and continuation are tokenised together and cut where the context alone ends; white
    space at the end of the context belongs to the continuation. Special tokens are added only if
    the text does not bring its own.
    """
    rows = []
    for context, continuation in pairs:
        head = context.rstrip()
        whole = context + continuation
        own = bool(tokenizer.bos_token) and whole.startswith(tokenizer.bos_token)
        ids = tokenizer(whole, add_special_tokens=not own)["input_ids"]
        n = len(tokenizer(head, add_special_tokens=not own)["input_ids"])
        rows.append({"input_ids": ids, "labels": [IGNORE] * n + ids[n:]})
    return [-nats for nats, _ in _nats(model, tokenizer, rows, batch_size)]


def _nats(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, list[int]]], batch_size: int
) -> list[tuple[float, int]]:
    """(nats, scored tokens) of each row, computed in the order of length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    training = model.training
    means = modeling.answer_nll(
        model, [rows[i] for i in order], tokenizer.pad_token_id, batch_size=batch_size
    )
    model.train(training)
    mean = dict(zip(order, means, strict=True))
    counts = [sum(label != IGNORE for label in row["labels"][1:]) for row in rows]
    return [(mean[i] * counts[i], counts[i]) for i in range(len(rows))]


def text_nats(
    model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 16
) -> list[tuple[float, int]]:
    """(nats, tokens) of each text as plain text, from its second token on, without a template."""
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": ids, "labels": [IGNORE, *ids[1:]]})
    return _nats(model, tokenizer, rows, batch_size)


def perplexity(nats: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """exp(nats per token) over texts as a metric entry; n texts, bootstrap over them.

    Raises:
        ConfigError: No texts, or none with a scored token.
    Example:
        >>> round(perplexity([(6.931471805599453, 10)] * 4)["value"], 6)
        2.0
    """
    values, tokens = np.array([n for n, _ in nats]), np.array([t for _, t in nats])
    if not tokens.sum():
        raise ConfigError(f"perplexity of {len(nats)} texts without a scored token: give it texts")
    interval = bootstrap(lambda d: np.exp(values[d].sum(1) / tokens[d].sum(1)), len(nats))
    return {"value": float(np.exp(values.sum() / tokens.sum())), "n": len(nats), "ci95": interval}


def perplexity_difference(
    a: Sequence[tuple[float, int]], b: Sequence[tuple[float, int]]
) -> dict[str, Any]:
    """Perplexity of `a` minus that of `b` on the same texts, paired bootstrap over them.

    Args:
        a, b: As `text_nats` gives them, text by text.
    Raises:
        ConfigError: The two do not score the same tokens.
    Example:
        >>> short, long = [(6.931471805599453, 10)] * 4, [(13.862943611198906, 10)] * 4
        >>> {k: np.round(v, 6).tolist() for k, v in perplexity_difference(long, short).items()}
        {'value': 2.0, 'n': 4, 'ci95': [2.0, 2.0]}
    """
    tokens = np.array([t for _, t in a])
    if [t for _, t in b] != tokens.tolist() or not tokens.sum():
        raise ConfigError(
            f"paired perplexity needs the same texts: {len(a)} with {tokens.sum()} scored tokens "
            f"and {len(b)} with {sum(t for _, t in b)}. Score both arms on one list of texts"
        )
    x, y = np.array([n for n, _ in a]), np.array([n for n, _ in b])

    def change(d: Any) -> Any:
        n = tokens[d].sum(-1)
        return np.exp(x[d].sum(-1) / n) - np.exp(y[d].sum(-1) / n)

    value = float(change(np.arange(len(a))))
    return {"value": value, "n": len(a), "ci95": bootstrap(change, len(a))}


_FENCE = re.compile(r"```\s*json\b", re.IGNORECASE)
_BROKEN = re.compile(r'\A\s*(```\w*\s*)?(\{\s*"|\[\s*\{)')


def is_json_answer(text: str) -> bool:
    r"""Whether an answer is, holds or begins as a JSON object, or opens a JSON code fence.

    Example:
        >>> [is_json_answer(t) for t in ('Sure: {"a": 1}', '{"topic": "bil', "It is {warm}. [1]")]
        [True, True, False]
    """
    if _FENCE.search(text) or _BROKEN.match(text) or extract_json(text):
        return True
    with contextlib.suppress(ValueError):
        return isinstance(parse_json(text), dict | list)
    return False


def json_share(texts: Sequence[str]) -> dict[str, Any]:
    """Format bleed: share of answers to ordinary questions that are JSON, as a metric entry."""
    return rate([is_json_answer(text) for text in texts])


def questions(limit: int | None = None) -> list[str]:
    """Ordinary questions that nobody would answer in JSON."""
    return [row["question"] for row in rows_of(FOLDER / "questions.jsonl")][:limit]


def heldout_texts(limit: int | None = None) -> list[str]:
    """Paragraphs of plain prose for perplexity."""
    return [row["text"] for row in rows_of(FOLDER / "heldout_text.jsonl")][:limit]
