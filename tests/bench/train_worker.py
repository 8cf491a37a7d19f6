"""One arm of the training benchmark: a real `SFTTrainer.train()`, one optimizer step per turn.

Every arm trains the same rows (ids and labels, so nobody tokenises) with the same adapter from the
same seed, at the same rate, eight rows per optimizer step. What an arm changes stands in `ARMS`.
"""

import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sft_utils import heap, runtime
from tests.bench import turns

RATE = 1e-3
SEED = 17
ROWS_PER_STEP = 8
"""The default of `SFTTrainer`: eight rows per device."""
WARM_PASSES = 2
"""Before the first step, so that every arm is timed on all rows: an arm that groups rows by length
begins with the longest ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """How one arm trains; the defaults are those of TRL on a CPU."""

    says: str  # what is new against `before`
    before: str = ""  # the arm it differs from in one thing
    checkpointing: bool = True  # forward activations are computed twice
    bf16_weights: bool = False  # else float32 weights under bf16 autocast
    loss_chunk: int = 256  # supervised tokens projected on the vocabulary together
    attention: str = "sdpa"
    by_length: bool = False  # rows of similar length share a batch
    micro_batch: int = ROWS_PER_STEP  # rows computed together
    keeps_memory: bool = False  # freed memory stays with the process
    compiled: bool = False  # each decoder layer by torch.compile


PLAIN = Arm(says="SFTTrainer with its defaults")
ARMS = {"plain_trl": PLAIN}


def _arm(name: str, before: str, says: str, **change: Any) -> None:
    ARMS[name] = dataclasses.replace(ARMS[before], before=before, says=says, **change)


_arm("no_checkpointing", "plain_trl", "no gradient checkpointing", checkpointing=False)
_arm("bf16_weights", "no_checkpointing", "bf16 weights, no autocast", bf16_weights=True)
_arm("eager", "bf16_weights", "eager attention", attention="eager")
_arm("kept_memory", "eager", "freed memory stays with the process", keeps_memory=True)
_arm("ours", "kept_memory", "rows of similar length together", by_length=True)
# Needs a C++ compiler; its two warm passes are not timed, and the first of them compiles.
_arm("compiled", "ours", "decoder layers compiled", compiled=True)
# The notebooks compute two rows at a time: they take an optimizer step after each pair.
_arm("pairs", "ours", "our settings, two rows at a time", micro_batch=2)
_arm("pairs_chunks", "pairs", "loss in chunks of 64 supervised tokens", loss_chunk=64)
LEFT_OUT = ("no_checkpointing", "compiled", "pairs", "pairs_chunks")
USUAL = tuple(name for name in ARMS if name not in LEFT_OUT)
"""What is measured unless told otherwise: for all arms, 24 GiB of memory are not enough."""
FLOOR = "products"
"""No way to train, but what each of them cannot do without: the products with the frozen matrices."""


def make_trainer(arm: Arm, rows: list[dict[str, Any]], spec: dict[str, Any], folder: str) -> Any:
    """The trainer of an arm.

    Args:
        rows: input_ids and labels.
        spec: steps, and exact: everything in float32 and rows in file order, to compare losses.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from sft_utils.config import get_profile
    from sft_utils.model import modeling
    from sft_utils.train import training

    exact = spec["exact"]
    profile = dataclasses.replace(get_profile("cpu"), attention=arm.attention)
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    options: dict[str, Any] = {
        "output_dir": folder, "max_steps": spec["steps"], "learning_rate": RATE,
        "use_cpu": True, "seed": SEED, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    if not arm.checkpointing:
        options["gradient_checkpointing"] = False
    if exact or arm.bf16_weights:
        options["bf16"] = False
    if exact or arm.by_length:
        options["train_sampling_strategy"] = "sequential"
    if arm.by_length and not exact:
        rows = by_length(rows)
    if arm.micro_batch != ROWS_PER_STEP:
        options["per_device_train_batch_size"] = arm.micro_batch
        options["gradient_accumulation_steps"] = ROWS_PER_STEP // arm.micro_batch
    dataset = Dataset.from_list(rows)
    runtime.seed_everything(SEED)
    if arm.loss_chunk != 256:
        training.fit_loss_chunks(arm.loss_chunk)
    if arm == PLAIN:  # to the letter: a path, and what the trainer makes of it
        source, _ = modeling.model_source(profile)
        return SFTTrainer(
            source, args=SFTConfig(**options), train_dataset=dataset, peft_config=lora,
            processing_class=modeling.load_tokenizer(profile),
        )  # fmt: skip
    half = arm.bf16_weights and not exact
    model = modeling.load_model(profile, dtype=torch.bfloat16 if half else torch.float32)
    model = get_peft_model(model, lora)
    if half:
        modeling.to_bf16_adapter(model)
    if arm.compiled:
        for layer in model.base_model.model.model.layers:
            layer.compile(dynamic=True)
    trainer = SFTTrainer(
        model, args=SFTConfig(**options), train_dataset=dataset,
        processing_class=modeling.load_tokenizer(profile),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in batches of similar length, the batches in random order.

    It is what `group_by_length` makes of a full training set: that sorts as many rows at a time as
    a quarter of the set, 216 of 880. Of the few rows of a benchmark it would sort 24.
    """
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    starts = list(range(0, len(rows), ROWS_PER_STEP))
    random.Random(SEED).shuffle(starts)
    return [row for start in starts for row in ordered[start : start + ROWS_PER_STEP]]


def meter(trainer: Any) -> dict[str, float]:
    """Let a trainer count what it trains: losses and tokens of the current step, summed."""
    seen = {"loss": 0.0, "tokens": 0, "supervised": 0, "places": 0}
    step = trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen["tokens"] += int(inputs["attention_mask"].sum())
        seen["places"] += inputs["attention_mask"].numel()
        seen["supervised"] += int((inputs["labels"][:, 1:] != -100).sum())
        loss = step(model, inputs, *args, **kwargs)
        seen["loss"] += float(loss)
        return loss

    trainer.training_step = counted
    return seen


def warm_up(trainer: Any, model: Any, rows: list[dict[str, Any]]) -> None:
    """Forward and backward without an optimizer step: first kernels, first memory."""
    model.train()
    inputs = trainer.data_collator(rows)
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(model, inputs)
    trainer.accelerator.backward(loss)
    model.zero_grad()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0


def work(spec: dict[str, Any], answer: Callable[..., None], wait: Callable[[], None]) -> None:
    """Train in turns; a report per step: seconds, loss, tokens, peak memory so far."""
    import torch
    from transformers import TrainerCallback

    if spec["arm"] == FLOOR:
        products(spec, answer, wait)
        return
    torch.set_num_threads(spec["threads"])
    arm = ARMS[spec["arm"]]
    if arm.keeps_memory:
        heap.keep_freed_memory()

    class Turns(TrainerCallback):
        """Waits behind every step until it is this arm's turn again."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for _ in range(WARM_PASSES):
                warm_up(trainer, kwargs["model"], spec["rows"][: arm.micro_batch])
            answer({})
            self.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = time.perf_counter() - self.clock
            answer({"seconds": seconds, "peak_gib": turns.own_peak_gib(), **seen})
            seen.update(dict.fromkeys(seen, 0))
            if state.global_step < state.max_steps:
                self.wait()

        def wait(self) -> None:
            wait()
            self.clock = time.perf_counter()

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        trainer = make_trainer(arm, spec["rows"], spec, folder)
        seen = meter(trainer)
        trainer.add_callback(Turns())
        trainer.train()


def steps_of(rows: list[dict[str, Any]]) -> list[dict[str, int]]:
    """What each optimizer step of the grouped arms computes: places with padding, tokens, labels."""
    ordered = by_length(rows)
    batches = [ordered[i : i + ROWS_PER_STEP] for i in range(0, len(rows), ROWS_PER_STEP)]
    return [
        {
            "places": len(batch) * max(len(row["input_ids"]) for row in batch),
            "tokens": sum(len(row["input_ids"]) for row in batch),
            "supervised": sum(label != -100 for row in batch for label in row["labels"][1:]),
        }
        for batch in batches
    ]


def products(spec: dict[str, Any], answer: Callable[..., None], wait: Callable[[], None]) -> None:
    """The matrix products of a step in bf16, and nothing between them.

    One forward and one for the gradient of the input, per frozen matrix; the head on supervised
    positions only. Adapter, attention, norms, softmax, loss and optimizer are left out: no LoRA
    step that reads each weight in bf16 is faster, so its tokens/s bound the ratio of every arm.
    """
    import torch

    from sft_utils.config import get_profile
    from sft_utils.model import modeling

    torch.set_num_threads(spec["threads"])
    model = modeling.load_model(get_profile("cpu"), dtype=torch.bfloat16)
    head = model.get_output_embeddings().weight
    inner = [
        m.weight for m in model.modules()
        if isinstance(m, torch.nn.Linear) and m.weight is not head
    ]  # fmt: skip
    longest = max(step["places"] for step in steps_of(spec["rows"]))
    widths = {size for weight in [*inner, head] for size in weight.shape}
    whole = {n: torch.randn(longest, n, dtype=torch.bfloat16) for n in widths}

    def run(step: dict[str, int]) -> None:
        for weight, positions in [*((w, step["places"]) for w in inner), (head, step["supervised"])]:
            n_out, n_in = weight.shape
            torch.nn.functional.linear(whole[n_in][:positions], weight)
            torch.mm(whole[n_out][:positions], weight)

    with torch.no_grad():
        steps = steps_of(spec["rows"])
        for _ in range(WARM_PASSES):
            run(steps[0])
        answer({})
        for step in steps[: spec["steps"]]:
            wait()
            clock = time.perf_counter()
            run(step)
            seconds = time.perf_counter() - clock
            answer({"seconds": seconds, "peak_gib": turns.own_peak_gib(), "loss": 0.0, **step})


def load_libraries() -> None:
    """Import what every arm needs, before the processes fork; nothing is computed here."""
    runtime.quiet()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import peft
    import torch
    import transformers
    import trl

    # Lazy modules: touch what the arms use, so that it is loaded here and once.
    used = (datasets.Dataset, peft.get_peft_model, torch.nn.Linear, transformers.LlamaForCausalLM,
            transformers.AutoTokenizer, transformers.TrainerCallback, trl.SFTTrainer)  # fmt: skip
    assert all(used)
