"""The start of every notebook: quiet libraries, a device that exists, seeds, one line to say so."""

import logging
import os
import platform
import random
import resource
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_utils import heap
from sft_utils.artifacts import HANDED, runs_dir
from sft_utils.config import Profile, check_parameters, cpu_threads, get_profile
from sft_utils.errors import ConfigError

GIB = 2**30

# Loggers that speak about kernels this project never uses on a CPU.
_NOISY = ("bitsandbytes.backends.cpu.ops", "torchao", "torch.utils._pytree", "httpx")


@dataclass(slots=True, kw_only=True)
class Run:
    """One execution of one notebook; made by `start`, written out by `report.checkpoint`."""

    notebook: str  # full name, "03_qlora_single_gpu"
    profile: Profile
    seed: int
    parameters: dict[str, Any]  # what papermill could change, as used
    started: float = field(default_factory=time.monotonic)
    fingerprints: dict[str, str] = field(default_factory=dict)  # manifest parts known so far
    suppressed: dict[str, str] = field(default_factory=dict)  # preflight findings accepted, why

    @property
    def dir(self) -> Path:
        """Folder for this notebook's larger files: outputs/runs/<profile>/<notebook>/."""
        return runs_dir(self.profile.name) / self.notebook

    @property
    def progress_file(self) -> Path:
        """Where long work reports how far it is; the runner shows it."""
        return runs_dir(self.profile.name) / f"{self.notebook}.progress.json"

    @property
    def device(self) -> str:
        """Torch device of this run."""
        return self.profile.device


def quiet() -> None:
    """Silence what is printed on every import and says nothing about the run.

    Called before torch, transformers, trl or peft are imported. Warnings about the run itself
    stay: the preflight captures them.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The older name of "offline": at that word transformers prints a line at every import.
    os.environ.setdefault("WANDB_MODE", "dryrun")
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # torch.jit is used inside torch 2.13 itself; nothing here can change that.
    warnings.filterwarnings("ignore", ".*torch.jit.*deprecated", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*", category=UserWarning)
    # ipywidgets is left out on purpose: its state would be stored in every notebook.
    warnings.filterwarnings("ignore", message="IProgress not found")


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; data order and LoRA initialisation follow from it."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def require_device(profile: Profile) -> str:
    """Describe the device of `profile`, or refuse.

    Raises:
        ConfigError: The profile needs a GPU (or more of them, or a larger one, or bf16) than
            this machine has.
    """
    import torch

    if not profile.is_gpu:
        return f"CPU, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"profile {profile.name!r} needs an NVIDIA GPU and torch sees none on this machine. "
            "Use PROFILE=cpu, or install the CUDA build of torch (environment.yml)."
        )
    if torch.cuda.device_count() < profile.min_gpus:
        raise ConfigError(
            f"profile {profile.name!r} needs {profile.min_gpus} GPUs, "
            f"{torch.cuda.device_count()} found"
        )
    properties = torch.cuda.get_device_properties(0)
    vram_gib = properties.total_memory / GIB
    if vram_gib < 0.9 * profile.vram_gib:
        raise ConfigError(
            f"profile {profile.name!r} is made for {profile.vram_gib:g} GiB per GPU, "
            f"{properties.name} has {vram_gib:.1f} GiB. Choose a smaller profile."
        )
    if profile.precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(f"{properties.name} has no bf16. Use PROFILE=gpu-16gb (fp16).")
    return f"{torch.cuda.device_count()} x {properties.name}, {vram_gib:.0f} GiB"


def one_gpu_per_trainer() -> None:
    """Let every trainer of this process use one GPU, however many the machine shows.

    `TrainingArguments` counts the visible GPUs. With two it doubles the rows of each batch, logs
    twice the loss, and wraps a 16-bit model in `nn.DataParallel`: another recipe than the one on
    the page. Runs of several ranks (04) are processes of their own, with one GPU each. Changing
    `CUDA_VISIBLE_DEVICES` here would be too late, since libraries have asked the driver already.

    Source: transformers 5.17.0, training_args.py (n_gpu), trainer.py (_wrap_model)
    """
    from transformers import TrainingArguments

    counted = TrainingArguments.n_gpu.fget
    if not hasattr(counted, "counted"):

        def at_most_one(arguments: Any) -> int:
            return min(counted(arguments), 1)

        at_most_one.counted = counted  # type: ignore[attr-defined]
        TrainingArguments.n_gpu = property(at_most_one)


def hardware(profile: Profile) -> str:
    """Short name of the machine class, without host names: figures are compared within one."""
    import torch

    if profile.is_gpu:
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = " bf16" if torch.cpu._is_avx512_bf16_supported() else ""
    return f"{platform.machine()} {os.cpu_count()} cores {capability}{bf16}"


def start(notebook: str, profile: str, *, seed: int = 17, **parameters: Any) -> Run:
    """Open a run: check the machine, seed everything, print one line about the environment.

    Args:
        notebook: Full name of the notebook, as in the file name.
        profile: Name of a profile.
        seed: One seed for data order, initialisation and sampling.
        parameters: The notebook's other papermill parameters; they enter the run id.
    Raises:
        ConfigError: Unknown profile, a machine that cannot run it, or a number out of bounds.
    """
    chosen = get_profile(profile)
    check_parameters({"seed": seed, **parameters})
    quiet()
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if not chosen.is_gpu:
        torch.set_num_threads(cpu_threads())
        heap.keep_freed_memory()
    device = require_device(chosen)
    if chosen.is_gpu:
        one_gpu_per_trainer()
    seed_everything(seed)
    print(
        f"{notebook} · profile {chosen.name} · {device} · python "
        f"{sys.version_info.major}.{sys.version_info.minor} · torch {torch.__version__} · "
        f"transformers {transformers.__version__} · seed {seed}"
    )
    HANDED.clear()
    return Run(notebook=notebook, profile=chosen, seed=seed, parameters=dict(parameters))


def peak_rss_gib() -> float:
    """Largest resident memory of this process so far, in GiB (2**30 bytes)."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / GIB


def peak_gpu_gib() -> float:
    """Most memory that tensors of this process took on its GPU, in GiB, since the last reset.

    03 resets it before it trains. What ranks and servers take is theirs.
    """
    import torch

    return torch.cuda.max_memory_allocated(0) / GIB
