"""What the arms of `make gpu-check` are made of: models, trainers, clocks, and how runs compare.

The parity test on CPUs (tests/parity) uses the same functions. Imports stand inside them: Unsloth
must be imported before transformers.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils.config import Profile, get_profile
from sft_utils.model import modeling
from sft_utils.runtime import GIB
from sft_utils.train import backends, memory

RANK, SEED = 16, 17
PARITY_BOUND = {"cpu": 1e-5, "cuda": 0.05}
"""Largest accepted loss difference to plain TRL: float32 on a CPU; bf16 and other kernels there."""

Job = dict[str, Any]  # device, tiny, worker, arms, work (folder)
Row = dict[str, Any]  # what an arm found; "checks" name -> passed


def shape(tiny: bool) -> Any:
    """Config of the random model: Llama-3.1-8B, or two small layers of the same kind."""
    from transformers import LlamaConfig

    sizes = (49152, 64, 192, 2, 4, 2) if tiny else (128256, 4096, 14336, 32, 32, 8)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads")  # fmt: skip
    return LlamaConfig(
        **dict(zip(names, sizes, strict=True)),
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def profile_for(job: Job, **changes: Any) -> Profile:
    """A profile for an arm: this device, and what the arm changes."""
    import torch

    gpu = job["device"] == "cuda"
    bf16 = not gpu or torch.cuda.is_bf16_supported(False)
    settings = {
        "name": "gpu-check", "device": job["device"], "attention": "sdpa", "batch_size": 1,
        "precision": "bf16" if bf16 else "fp16", **changes,
    }  # fmt: skip
    return dataclasses.replace(get_profile("cpu"), **settings)


def weights_dir(job: Job) -> Path:
    """Folder of the random checkpoint."""
    return Path(job["work"]) / "random-llama"


def tokenizer() -> Any:
    """The bundled model's tokenizer: the random model has no words of its own."""
    return modeling.load_tokenizer(get_profile("cpu"))


def adapter_config() -> Any:
    """The adapter of all arms."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=list(backends.TARGETS),
        task_type="CAUSAL_LM",
    )  # fmt: skip


def sft_config(job: Job, profile: Profile, **settings: Any) -> Any:
    """SFTConfig with what every arm needs; anything not named is TRL's own default."""
    from trl import SFTConfig

    gpu = profile.is_gpu
    return SFTConfig(
        output_dir=str(Path(job["work"]) / "trainer"),
        per_device_train_batch_size=profile.batch_size,
        max_length=profile.max_length,
        bf16=gpu and profile.precision == "bf16",
        fp16=gpu and profile.precision == "fp16",
        use_cpu=not gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # its default logs a loss that is NaN as 0.0, which "falls"
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        data_seed=SEED,
        **settings,
    )


def build(model: Any, config: Any, rows: Sequence[dict[str, Any]], **options: Any) -> Any:
    """TRL's trainer, or what Unsloth made of it; quiet."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    trainer = SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer(), **options,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def losses(trainer: Any) -> list[float]:
    """Loss of every logged step."""
    return [e["loss"] for e in trainer.state.log_history if "loss" in e]


def ticket_rows(limit: int) -> tuple[list[Any], list[Any]]:
    """Conversations of the ticket task, and their ids and labels."""
    from sft_utils.masks import masking
    from sft_utils.task import tickets

    talks = [tickets.conversation(r) for r in tickets.read_rows(tickets.TEST, limit)]
    own = tokenizer()
    return talks, [masking.assistant_labels(own, talk, max_length=1024) for talk in talks]


def trajectory(
    profile: Profile, rows: Sequence[dict[str, Any]], config: Any, *, backend: str, dtype: Any
) -> Row:
    """Train a few steps through a backend and note what really went in and came out.

    Returns:
        Per step: a hash of the ids, a hash of the labels, trained tokens, the loss.
    """
    model, _ = backends.load_for_training(
        profile, rows, adapter_config(), backend=backend, seed=SEED, dtype=dtype
    )
    trainer = build(model, config, rows)
    step, noted = trainer.training_step, []

    def noting(model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        ids, labels = inputs["input_ids"].tolist(), inputs["labels"].tolist()
        noted.append({
            "rows": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16],
            "mask": hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16],
            "trained_tokens": sum(t != -100 for row in labels for t in row[1:]),
        })  # fmt: skip
        return step(model, inputs, *arguments, **options)

    trainer.training_step = noting
    trainer.train()
    return {key: [n[key] for n in noted] for key in noted[0]} | {"losses": losses(trainer)}


def compare(plain: Row, other: Row, device: str) -> Row:
    """Two trajectories: equal rows, masks and token counts, and finite losses within the bound.

    Example:
        >>> one = {"rows": ["a"], "mask": ["b"], "trained_tokens": [7], "losses": [2.5]}
        >>> compare(one, one | {"losses": [2.75]}, "cpu")["checks"]["losses"]
        False
    """
    gaps = [abs(a - b) for a, b in zip(plain["losses"], other["losses"], strict=True)]
    same = {key: plain[key] == other[key] for key in ("rows", "mask", "trained_tokens")}
    finite = all(map(math.isfinite, gaps))  # max([0.0, nan]) is 0.0
    figures = {"step1_difference": gaps[0], "max_difference": max(gaps)} if finite else {}
    return {
        **figures,
        "bound": PARITY_BOUND[device],
        "checks": {**same, "losses": finite and max(gaps) <= PARITY_BOUND[device]},
    }


def cosine_around_evaluation(model: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Cosine of the gradients before and after one pass in eval mode (`modeling.guard_nf4`)."""
    import torch

    from sft_utils.masks import masking

    batch = {k: v.to(model.device) for k, v in masking.collate(rows, 0).items()}

    def gradient() -> Any:
        model.train()
        model.zero_grad()
        model(**batch).loss.backward()
        found = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat(found).double()

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(**{k: v for k, v in batch.items() if k != "labels"})
    after = gradient()
    model.zero_grad()
    return torch.nn.functional.cosine_similarity(before, after, dim=0).item()


def peak_memory(seen: dict[str, int], budget: memory.Budget | None) -> Row:
    """Measured and predicted peak; Unsloth's own kernels are not predicted."""
    measured = seen["peak_bytes"] / GIB
    row: Row = {"peak_gib": measured}
    if budget is not None:
        row |= {"predicted_gib": budget.total_gib,
                "predicted_over_measured": budget.total_gib / measured}  # fmt: skip
    return row


def free_gib(job: Job) -> float:
    """Memory an arm may use: what the GPU has free, or what the rehearsal's machine has."""
    if job["device"] == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] / GIB
    import psutil

    return psutil.virtual_memory().available / GIB


def clock(trainer: Any, gpu: bool) -> list[float]:
    """Note when every micro-batch starts, the device's queue emptied before."""
    import torch

    starts, step = [], trainer.training_step

    def timed(*arguments: Any, **options: Any) -> Any:
        if gpu:
            torch.cuda.synchronize()
        starts.append(time.perf_counter())
        return step(*arguments, **options)

    trainer.training_step = timed
    return starts
