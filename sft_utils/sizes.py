"""Work sizes of single tracks, by profile: a new track does not make every other notebook stale.

What all notebooks share stands in `config.Profile`; a size that one notebook uses stands here.
"""

import dataclasses

from sft_utils.config import Profile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Structured:
    """05: rows of data/structured; tickets come on top, one for every 14 rows."""

    train_rows: int
    group_rows: int  # held-out items of a full group


STRUCTURED = {
    "smoke": Structured(train_rows=48, group_rows=4),
    "cpu": Structured(train_rows=640, group_rows=48),
    "gpu": Structured(train_rows=1560, group_rows=96),
}


def structured(profile: Profile) -> Structured:
    """Sizes of 05; all GPU profiles share one set."""
    return STRUCTURED["gpu" if profile.is_gpu else profile.name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """06: items unless a unit is given."""

    train_rows: int  # of three domains together
    test_rows: int  # of the main domain; the others get a third, held-out structures 40 %
    sampled: int  # questions of which the base model writes four traces
    new_tokens: int  # the longest gold trace in fine steps has 227 tokens
    max_difficulty: int  # steps of a word problem


REASONING = {
    "smoke": Reasoning(train_rows=24, test_rows=6, sampled=2, new_tokens=24, max_difficulty=4),
    "cpu": Reasoning(train_rows=720, test_rows=96, sampled=8, new_tokens=192, max_difficulty=4),
    "gpu": Reasoning(train_rows=2400, test_rows=150, sampled=64, new_tokens=256, max_difficulty=5),
}


def reasoning(profile: Profile) -> Reasoning:
    """Sizes of 06; all GPU profiles share one set."""
    return REASONING["gpu" if profile.is_gpu else profile.name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialogues:
    """07: dialogues unless a unit is given; both of a pair count."""

    train_rows: int
    test_rows: int
    new_tokens: int  # the longest gold reply has fewer


DIALOGUES = {
    "smoke": Dialogues(train_rows=12, test_rows=4, new_tokens=16),
    "cpu": Dialogues(train_rows=240, test_rows=40, new_tokens=48),
    "gpu": Dialogues(train_rows=384, test_rows=112, new_tokens=64),
}


def dialogues(profile: Profile) -> Dialogues:
    """Sizes of 07; all GPU profiles share one set."""
    return DIALOGUES["gpu" if profile.is_gpu else profile.name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """10: rows unless a unit is given."""

    grid_rows: int  # mails of each grid run
    final_rows: int  # mails of the run that is promoted, and of its twin without replay
    val_rows: int  # mails that score a grid run
    test_rows: int
    grid_items: int  # general items of each task for a grid run
    items: int  # general items of each task before and after; 400 are all
    questions: int  # ordinary questions that measure format bleed
    rates: tuple[float, ...]
    shares: tuple[float, ...]  # replay rows as a share of all rows


FORGETTING = {
    "smoke": Forgetting(grid_rows=4, final_rows=8, val_rows=2, test_rows=4, grid_items=2, items=4,
                        questions=4, rates=(2e-3,), shares=(0.0, 0.3)),
    "cpu": Forgetting(grid_rows=120, final_rows=320, val_rows=24, test_rows=120, grid_items=48,
                      items=400, questions=60, rates=(1e-3, 4e-3), shares=(0.0, 0.15, 0.4)),
    "gpu": Forgetting(grid_rows=512, final_rows=2048, val_rows=96, test_rows=168, grid_items=200,
                      items=400, questions=120, rates=(1e-4, 3e-4, 1e-3), shares=(0.0, 0.15, 0.4)),
}  # fmt: skip


def forgetting(profile: Profile) -> Forgetting:
    """Sizes of 10; all GPU profiles share one set."""
    return FORGETTING["gpu" if profile.is_gpu else profile.name]
