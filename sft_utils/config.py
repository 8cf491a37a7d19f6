"""Profiles: one recipe, several machines. A profile is data, never a fork of a notebook."""

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping
from typing import Literal

from sft_utils.basemodel import BUNDLED
from sft_utils.errors import ConfigError

MAX_SEED = 2**32 - 1  # what numpy takes
Precision = Literal["bf16", "fp16"]
Quantization = Literal["nf4", "none"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What differs between machines. Sizes are examples unless a unit is given."""

    name: str
    device: Literal["cpu", "cuda"]  # refused at start if the machine does not have it
    model: str = BUNDLED  # bundled name, local directory or hub id
    revision: str | None = None  # commit of a hub model; required for a hub id
    precision: Precision = "bf16"  # compute dtype; a T4 has no bf16
    quantization: Quantization = "none"  # for backends.load_for_training; notebooks train on NF4
    attention: Literal["eager", "sdpa"] = "sdpa"  # of transformers
    gradient_checkpointing: bool = False  # the same; notebooks recompute activations on GPUs only
    min_gpus: int = 0  # refused below this
    vram_gib: float = 0.0  # memory per GPU the profile is made for; 0 on a CPU
    cell_timeout_s: int = 3600  # one cell running longer than this has hung

    # Work sizes. `smoke` makes every cell run for real, `cpu` makes every number mean something.
    train_rows: int  # curated rows used for training
    epochs: int = 1  # passes over them
    batch_size: int = 8  # rows per device and micro-batch
    grad_accumulation: int = 1  # micro-batches per optimizer step
    max_length: int = 512  # tokens per row; the distribution in 01/02 justifies it
    val_rows: int  # full validation per epoch
    smoke_val_rows: int  # quick validation every `eval_steps`
    eval_steps: int  # optimizer steps between quick validations
    test_rows: int  # held-out mails scored at the end (168 exist)
    replay_rows: int = 96  # general requests that the base answers itself, mixed into training
    probe_rows: int = 64  # general answers whose likelihood measures forgetting
    eval_batch_size: int = 32  # prompts decoded together
    max_new_tokens: int = 96  # the longest gold ticket has 78 tokens
    range_test_steps: int  # steps per learning rate in the range test
    overfit_steps: int  # steps of the planted overfit run
    sabotage_steps: int  # steps of each sabotaged run in 02
    sabotage_rows: int  # mails that score each sabotaged run
    stream_rows: int  # rows of the generated file that 01 streams

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool):
                low = 0 if field.name in ("min_gpus", "range_test_steps") else 1
                if value < low:
                    raise ConfigError(
                        f"profile {self.name!r}: {field.name} = {value}, must be >= {low}"
                    )

    @property
    def is_gpu(self) -> bool:
        """True for profiles that need CUDA."""
        return self.device == "cuda"

    @property
    def track(self) -> str:
        """Which sizes of a single track are meant: all GPU profiles share one set.

        A CPU profile of your own takes those of `cpu`.
        """
        return "gpu" if self.is_gpu else "smoke" if self.name == "smoke" else "cpu"

    @property
    def bits(self) -> int:
        """Bits per weight of the frozen projections, as `memory.predict` takes them."""
        return 4 if self.quantization == "nf4" else 16

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimizer step on one device."""
        return self.batch_size * self.grad_accumulation


CPU = Profile(
    name="cpu",
    device="cpu",
    attention="eager",  # the fused kernel is slow backwards (sft_utils/README.md, Decisions)
    batch_size=2,  # small: more updates from the same rows (sft_utils/README.md, Decisions)
    train_rows=840,
    val_rows=48,
    smoke_val_rows=24,
    eval_steps=140,
    test_rows=168,
    range_test_steps=5,
    overfit_steps=24,
    sabotage_steps=8,
    sabotage_rows=12,
    stream_rows=100_000,
)

SMOKE = dataclasses.replace(
    CPU,
    name="smoke",
    train_rows=8,
    batch_size=2,  # few rows are several steps then: one alone has the warm-up's rate of zero
    val_rows=2,
    smoke_val_rows=2,
    eval_steps=3,
    test_rows=4,
    replay_rows=4,
    probe_rows=4,
    max_new_tokens=12,
    range_test_steps=1,
    overfit_steps=2,
    sabotage_steps=1,
    sabotage_rows=2,
    stream_rows=2_000,
)

_GPU = dataclasses.replace(
    CPU,
    device="cuda",
    quantization="nf4",
    attention="sdpa",
    gradient_checkpointing=True,
    min_gpus=1,
    cell_timeout_s=12 * 3600,  # the grid of 10 is one cell: ten trainings, each with lm-eval
    batch_size=8,
    train_rows=4096,
    epochs=2,
    max_length=1024,
    val_rows=96,
    smoke_val_rows=48,
    eval_steps=50,
    range_test_steps=10,
    overfit_steps=60,
    sabotage_steps=20,
    sabotage_rows=48,
    stream_rows=1_000_000,
    name="gpu-16gb",
    vram_gib=15.0,
    precision="fp16",
    model="Qwen/Qwen2.5-1.5B-Instruct",
    revision="989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
)
_GPU_24 = dataclasses.replace(
    _GPU,
    name="gpu-24gb",
    vram_gib=22.0,
    precision="bf16",
    model="Qwen/Qwen2.5-7B-Instruct",
    revision="a09a35458c702b33eeacc393d103063234e8bc28",
)

# 16 bits fit here beside the batch (memory.predict): what backends.load_for_training then takes.
_GPU_80 = dataclasses.replace(
    _GPU_24, name="gpu-80gb", vram_gib=79.0, batch_size=16, quantization="none"
)

PROFILES: dict[str, Profile] = {
    "smoke": SMOKE,
    "cpu": CPU,
    "gpu-16gb": _GPU,
    "gpu-24gb": _GPU_24,
    "gpu-80gb": _GPU_80,
    # 16 bits: FSDP2 and ZeRO-3 cut the weights themselves, and packed 4-bit blocks cannot be cut.
    "multi-gpu": dataclasses.replace(
        _GPU_24, name="multi-gpu", vram_gib=40.0, min_gpus=2, batch_size=4, quantization="none"
    ),
}


def get_profile(name: str) -> Profile:
    """Look a profile up by name.

    Raises:
        ConfigError: Unknown name; lists the known ones and the closest.
    """
    if name in PROFILES:
        return PROFILES[name]
    close = difflib.get_close_matches(name, PROFILES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}.{hint}")


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Environment that keeps the hub's libraries from waiting for a network."""

THREADS = 2  # those of all published numbers of CPU profiles


def check_parameters(given: Mapping[str, object]) -> None:
    """Refuse a number that a notebook's parameter cannot be.

    Counts, rates and budgets are finite and not negative: -1 for "no limit" would be taken for a
    number of steps. What 0 means is said in the parameters cell.

    Args:
        given: Name -> value; what is no number passes.
    Raises:
        ConfigError: Names the parameter, its value and the bounds.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low = 1 if name == "rank" else 0
        high = MAX_SEED if name == "seed" else math.inf
        if not low <= value <= high or value == math.inf:  # no comparison holds for nan
            upper = f" and at most {high}" if name == "seed" else ""
            raise ConfigError(f"parameter {name} = {value}, must be finite, at least {low}{upper}")


def cpu_threads() -> int:
    """Threads of one process on a CPU: `SFT_THREADS`, else `THREADS`.

    The number is part of the arithmetic: another one changes the last bits of a loss.

    Raises:
        ConfigError: `SFT_THREADS` is no whole number above 0.
    """
    given = os.environ.get("SFT_THREADS", str(THREADS))
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise ConfigError(f"SFT_THREADS={given!r}: a whole number above 0, or leave it unset")
    return int(given)
