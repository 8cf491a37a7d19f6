"""Legal training runs that differ in settings, judging and model, not in their rows."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from sft_utils.preflight.record import RunRecord
from tests.mutation.families import Family
from tests.mutation.subjects import subjects, tiny_llama

ARGUMENTS: dict[str, dict[str, Any]] = {
    "epochs instead of steps": {"max_steps": -1, "num_train_epochs": 30.0, "warmup_steps": 2},
    "warmup as a share": {"warmup_steps": 0, "warmup_ratio": 0.05},
    "constant rate": {"lr_scheduler_type": "constant", "warmup_steps": 0},
    "linear decay": {"lr_scheduler_type": "linear"},
    "lower rate": {"learning_rate": 1e-4},
    "higher rate": {"learning_rate": 4e-4},
    "batches of one": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    "one large batch": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    "fused optimizer": {"optim": "adamw_torch_fused", "weight_decay": 0.1},
    "adafactor": {"optim": "adafactor"},
    "checkpointing": {"gradient_checkpointing": True},
    "noise on embeddings": {"neftune_noise_alpha": 5.0},
    "no length limit": {"max_length": None},
    "another seed": {"seed": 1, "data_seed": 2},
    "best checkpoint by loss": {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
                                "greater_is_better": False, "save_strategy": "steps",
                                "save_steps": 20},
    "no clipping": {"max_grad_norm": 0.0},
    "tracked": {"report_to": ["wandb"], "run_name": "a"},
    "autocast": {"bf16": True},
}  # fmt: skip
"""Changes to the arguments of a healthy run, with the names of SFTConfig."""

JUDGING: dict[str, dict[str, Any]] = {
    "no test yet": {"evaluation": None},
    "arguments unknown": {"arguments": None},
    "generation config with one id": {"generation": "first"},
    "raw rows unknown": {"raw": (), "stored": ()},
    "no server": {"serve": None},
    "rows without a licence list": {"licences": frozenset()},
}
"""Other fields of a healthy record, mostly left empty."""

LORA: dict[str, dict[str, Any]] = {
    "LoRA on all layers": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
    "LoRA by names": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "rank-stabilised LoRA": {"r": 16, "lora_alpha": 16, "use_rslora": True,
                             "target_modules": "all-linear"},
    "DoRA": {"r": 8, "lora_alpha": 16, "use_dora": True, "target_modules": "all-linear"},
}  # fmt: skip
"""Options of adapters that would be trained."""


def trl_arguments() -> Any:
    """The same plan as a real SFTConfig."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, report_to="none",
        learning_rate=2e-4, max_steps=100, warmup_steps=10, max_length=2048,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, assistant_only_loss=True,
    )  # fmt: skip


def adapted(family: Family, options: dict[str, Any]) -> Any:
    """A tiny model with an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return get_peft_model(tiny_llama(family), LoraConfig(task_type="CAUSAL_LM", **options))


def by_run(family: Family) -> Iterator[tuple[str, RunRecord]]:
    """One healthy run of a family, with one thing after the other changed."""
    plain = next(subjects([family])).record

    def arguments(**changes: Any) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(plain.arguments), **changes})

    for title, changes in ARGUMENTS.items():
        yield f"run/{title}", plain.change(arguments=arguments(**changes))
    yield "run/a real SFTConfig", plain.change(arguments=trl_arguments())
    for title, changes in JUDGING.items():
        if changes.get("generation") == "first":
            changes = {"generation": {"eos_token_id": family.stops[0], "do_sample": False}}
        yield f"run/{title}", plain.change(**changes)
    judged = plain.evaluation
    smaller = dataclasses.replace(
        judged, n=120, eval_texts=judged.eval_texts[:120], answers=judged.answers[:120],
        test_ids=frozenset(sorted(judged.test_ids)[:120]), metric="answer_f1",
    )  # fmt: skip
    yield "run/a smaller test", plain.change(evaluation=smaller)
    models: dict[str, tuple[Callable[[], Any], float]] = {
        title: (lambda options=options: adapted(family, options), 2e-4)
        for title, options in LORA.items()
    }
    models["full fine-tuning"] = (lambda: tiny_llama(family), 2e-5)
    for title, (build, rate) in models.items():
        yield f"run/{title}", plain.change(model=build(), arguments=arguments(learning_rate=rate))
