"""Trials of 08: what one is, how large, and which adapters are equally large."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sft_utils.config import Profile
from sft_utils.errors import ConfigError

TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""Sets of projections, by the names that Llama, Qwen and Mistral share; lm_head is in none."""

METHODS = ("lora", "rslora", "dora", "qlora", "full", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training run of an ablation. Equal fields are the same trial, whatever section asks."""

    learning_rate: float = 1e-3  # peak, cosine to zero
    rank: int = 16  # of LoRA and its kin; 0 without an adapter
    alpha: float = 32.0  # scale is alpha / rank, with rslora alpha / sqrt(rank)
    targets: str = "all-linear"  # a key of TARGETS
    method: str = "lora"  # one of METHODS; "none" is the base model
    rows: int = 64  # distinct training rows
    epochs: int = 1  # passes over them
    prompt_loss: bool = False  # loss on the prompt too
    data: Literal["curated", "raw", "faults"] = "curated"
    seed: int = 17  # which rows, their order, the initialisation

    def __post_init__(self) -> None:
        for name in ("learning_rate", "alpha"):  # 0 and 0.0 must not be two trials
            object.__setattr__(self, name, float(getattr(self, name)))
        adapter = self.method not in ("full", "none")
        bounds = [
            ("method", self.method in METHODS, f"one of {', '.join(METHODS)}"),
            ("targets", self.targets in TARGETS, f"one of {', '.join(TARGETS)}"),
            ("data", self.data in ("curated", "raw", "faults"), "curated, raw or faults"),
            ("rank", self.rank >= 1 if adapter else self.rank == 0, f"{'> 0' if adapter else 0}"),
            ("alpha", self.alpha > 0 if adapter else self.alpha == 0, f"{'> 0' if adapter else 0}"),
            ("rows", self.rows >= 1 or self.method == "none", ">= 1"),
            ("epochs", self.epochs >= 1 or self.method == "none", ">= 1"),
            ("learning_rate", 0 < self.learning_rate < 1 or self.method == "none", "in (0, 1)"),
        ]
        for name, fine, bound in bounds:
            if not fine:
                value = getattr(self, name)
                raise ConfigError(f"trial with method {self.method!r}: {name} = {value!r}, "
                                  f"must be {bound}")  # fmt: skip

    @property
    def scale(self) -> float:
        """What the product of the two small matrices is multiplied with.

        Example:
            >>> Trial(rank=16, alpha=32).scale, Trial(rank=16, alpha=32, method="rslora").scale
            (2.0, 8.0)
        """
        root = math.sqrt(self.rank) if self.method == "rslora" else self.rank
        return self.alpha / root if self.rank else 0.0

    def steps(self, batch_size: int) -> int:
        """Optimizer steps; the last batch of the last pass may be smaller."""
        return -(-self.rows * self.epochs // batch_size)

    def changed(self, other: "Trial") -> dict[str, Any]:
        """The fields in which this trial differs from another one."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {k: v for k, v in mine.items() if v != theirs[k]}


def base_trial(seed: int = 17) -> Trial:
    """The base model as a trial: rank 0, nothing trained. One per seed, all equal."""
    return Trial(method="none", rank=0, alpha=0, learning_rate=0, rows=0, epochs=0, seed=seed)


def at_rank(trial: Trial, rank: int) -> Trial:
    """The same trial with another rank at the same scale, as 03 sets it."""
    return dataclasses.replace(trial, rank=rank, alpha=trial.alpha / trial.rank * rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """08: rows and mails unless a unit is given."""

    rows: int  # of a trial that does not vary them
    batch_size: int  # rows per optimizer step
    min_steps: int  # optimizer steps that even the smallest set gets, by repeating it
    val_rows: int  # mails that score each trial
    test_rows: int  # mails that judge the chosen cell and its rival
    rates: tuple[float, ...]  # of the grid
    ranks: tuple[int, ...]
    curve: tuple[int, ...]  # sizes of the training set; the last is "all" of this budget
    methods: tuple[tuple[str, float], ...]  # with their rates; 0: that of the other trials
    n_seeds: int  # repeats where a conclusion depends on it


SIZES = {
    "smoke": Sizes(
        rows=3, batch_size=1, min_steps=3, val_rows=2, test_rows=2, rates=(2e-3,), ranks=(2, 4),
        curve=(2, 3), methods=(("rslora", 0), ("dora", 0), ("qlora", 0), ("full", 2e-4)), n_seeds=1,
    ),
    "cpu": Sizes(
        rows=32, batch_size=2, min_steps=16, val_rows=24, test_rows=32, rates=(5e-4, 2e-3, 8e-3),
        ranks=(2, 16), curve=(8, 16, 32, 96),
        methods=(("rslora", 0), ("dora", 0), ("qlora", 0), ("full", 2e-4)), n_seeds=2,
    ),
    "gpu": Sizes(
        rows=256, batch_size=8, min_steps=32, val_rows=96, test_rows=168,
        rates=(5e-5, 2e-4, 1e-3, 4e-3), ranks=(1, 4, 16, 64),
        curve=(16, 32, 64, 128, 256, 512, 1024, 1900),
        methods=(("rslora", 0), ("dora", 0), ("qlora", 0)), n_seeds=3,
    ),
}  # fmt: skip
"""At cpu a trial takes about half a minute on two cores, as the output of 08 shows."""


def sizes(profile: Profile) -> Sizes:
    """Sizes of 08; all GPU profiles share one set, without full fine-tuning (memory)."""
    return SIZES[profile.track]


def default_trial(size: Sizes, seed: int = 17) -> Trial:
    """The trial from which every section changes one thing: the recipe of 03."""
    rate = size.rates[len(size.rates) // 2]
    rank = size.ranks[len(size.ranks) // 2]
    return Trial(learning_rate=rate, rank=rank, alpha=2 * rank, rows=size.rows, seed=seed)


def adapter_size(model: Any, targets: str, rank: int) -> int:
    """Trainable numbers of a LoRA adapter: rank x (inputs + outputs), over all target layers.

    Args:
        model: The base model, in 4 bits or not.
        targets: A key of TARGETS.
    Raises:
        ConfigError: No layer has one of these names.
    """
    layers = [m for name, m in model.named_modules() if name.split(".")[-1] in TARGETS[targets]]
    if not layers:
        raise ConfigError(
            f"no layer is called {', '.join(TARGETS[targets])}: this architecture uses other "
            "names. Add them to ablations.TARGETS."
        )
    return rank * sum(layer.in_features + layer.out_features for layer in layers)


def equal_rank(model: Any, targets: str, budget: int) -> int:
    """The rank at which adapters on some targets come closest to a number of trainable parameters.

    Ranks are whole, so that the result is off by at most half of what one rank costs.

    Raises:
        ConfigError: Even rank 1 is more than twice the budget.
    """
    one = adapter_size(model, targets, 1)
    rank = max(1, round(budget / one))
    if rank * one > 2 * budget:
        raise ConfigError(
            f"rank 1 on {targets} trains {one:,} parameters, the budget is {budget:,}: there is no "
            "equal rank. Raise the rank of the trial that sets the budget."
        )
    return rank


def grid(default: Trial, rates: Sequence[float], ranks: Sequence[int]) -> list[Trial]:
    """Every rate with every rank, at the scale of the default: the plain loop."""
    return [
        dataclasses.replace(at_rank(default, rank), learning_rate=rate)
        for rate in rates
        for rank in ranks
    ]
