"""Preference pairs from a model's own wrong answers, and the sizes of the run that uses them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sft_utils.config import Profile
from sft_utils.errors import DataError
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """11: mails unless a unit is given."""

    asked: int  # training mails that 03 did not take, answered to find wrong answers
    steps: int  # optimizer steps of two pairs each
    sampled: int  # validation mails that get several sampled answers
    samples: int  # sampled answers per mail


SIZES = {
    "smoke": Sizes(asked=4, steps=2, sampled=2, samples=2),
    "cpu": Sizes(asked=24, steps=6, sampled=24, samples=4),
    "gpu": Sizes(asked=512, steps=60, sampled=96, samples=8),
}


def sizes(profile: Profile) -> Sizes:
    """Sizes of 11; all GPU profiles share one set."""
    return SIZES[profile.track]


def pairs(
    prompts: Sequence[Sequence[Message]],
    golds: Sequence[str],
    answers: Sequence[Answer],
    right: Sequence[bool],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Gold answer against the model's own wrong answer, one pair per wrong answer.

    A right answer makes no pair: preferring one of two right texts would teach a taste for
    spelling. An answer that was cut off has no end of its own; the template would add one that
    the model never wrote. Such answers are used only where there is nothing else.

    Args:
        prompts: Messages asked.
        golds: Gold answers as text.
        answers: What the model answered.
        right: Whether each answer counts as right.
    Returns:
        Rows with `prompt`, `chosen` and `rejected` messages as TRL reads them, and counts of
        right, cut and used answers.
    Raises:
        DataError: Every answer is right, or the lists do not have one length.
    Example:
        >>> def answer(text, stopped=True):
        ...     return Answer(text=text, n_prompt=1, n_new=1, stopped=stopped)
        >>> ask = [[{"role": "user", "content": q}] for q in "abc"]
        >>> said = [answer("1"), answer("5"), answer("7", False)]
        >>> rows, counts = pairs(ask, ["1", "2", "3"], said, [True, False, False])
        >>> [r["rejected"][0]["content"] for r in rows], counts
        (['5'], {'asked': 3, 'right': 1, 'cut': 1, 'pairs': 1})

    Source: Rafailov et al., arXiv 2305.18290v3; trl 1.14.2, dataset formats (preference)
    """
    if not len(prompts) == len(golds) == len(answers) == len(right):
        raise DataError(
            f"pairs need one gold answer, answer and verdict per prompt: {len(prompts)} prompts, "
            f"{len(golds)}, {len(answers)}, {len(right)}"
        )
    wrong = [i for i, ok in enumerate(right) if not ok and answers[i].text != golds[i]]
    if not wrong:
        raise DataError(
            f"all {len(prompts)} answers are right: there is nothing to prefer. Ask more mails."
        )
    whole = [i for i in wrong if answers[i].stopped]
    used = whole or wrong
    rows = [
        {
            "prompt": [dict(m) for m in prompts[i]],
            "chosen": [{"role": "assistant", "content": golds[i]}],
            "rejected": [{"role": "assistant", "content": answers[i].text}],
        }
        for i in used
    ]
    counts = {
        "asked": len(prompts),
        "right": len(prompts) - len(wrong),
        "cut": len(wrong) - len(whole),
        "pairs": len(rows),
    }
    return rows, counts
