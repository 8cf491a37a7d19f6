"""One rank of a training run: torchrun --nproc-per-node N -m sft_utils.ranks.ranktrain run.json"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, read_json, sha256_json, write_json
from sft_utils.errors import ConfigError, DataError
from sft_utils.masks.masking import IGNORE, Row, collate
from sft_utils.ranks.rankreport import Report, failures, gradient_bytes, in_force, optimizer_bytes
from sft_utils.ranks.rankrun import EMPTY, ZERO3, RankRun, read

COMPLETE = "complete.json"
"""Written when a run has ended; a folder without it is resumed."""


def read_rows(path: str | Path) -> list[Row]:
    """Tokenised rows in the order of training.

    Raises:
        DataError: A line without ids and labels of one length; names it.
    """
    rows = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if not row.get("input_ids") or len(row["input_ids"]) != len(row.get("labels", ())):
                raise DataError(
                    f"{Path(path).name}, line {number}: input_ids and labels of one length wanted"
                )
            rows.append({"input_ids": row["input_ids"], "labels": row["labels"]})
    if not rows:
        raise DataError(f"{Path(path).name} holds no rows")
    return rows


def fill(rows: list[Row], share: int, pad_id: int) -> tuple[list[Row], list[int]]:
    """Fill rows up to a multiple of `share` with rows that teach nothing, and number all.

    Without fillers a distributed loader repeats the first rows until every rank has a last batch:
    they would be trained twice, and the result would depend on the number of ranks.

    Args:
        rows: In the order of training.
        share: Ranks x rows per micro-batch.
        pad_id: Token of the fillers; they have no supervised token.
    Returns:
        Rows, and their numbers: EMPTY for fillers.
    Example:
        >>> row = {"input_ids": [5, 6], "labels": [-100, 6]}
        >>> rows, numbers = fill([row, row, row], 2, pad_id=0)
        >>> rows[3], numbers
        ({'input_ids': [0, 0], 'labels': [-100, -100]}, [0, 1, 2, -1])
    """
    filler = {"input_ids": [pad_id, pad_id], "labels": [IGNORE, IGNORE]}
    missing = -len(rows) % share
    return rows + [filler] * missing, [*range(len(rows)), *[EMPTY] * missing]


def identity_of(run: RankRun, rows: list[Row]) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued: settings, and what the rows say.

    Their file may keep its name, and as many rows and labels, when their order or words change.
    """
    return run.identity() | {"rows": sha256_json(rows)}


def start_point(run: RankRun, identity: dict[str, Any]) -> str:
    """On rank 0: clear what another or a finished run left, and find the newest checkpoint.

    Returns:
        Path of the checkpoint to continue from, or "".
    """
    from sft_utils.train.training import last_checkpoint

    folder = Path(run.folder)
    mark = folder / "identity.json"
    same = mark.exists() and read_json(mark) == identity
    if (folder / COMPLETE).exists() or not same:
        for old in [*folder.glob("checkpoint-*"), folder / "adapter"]:
            shutil.rmtree(old, ignore_errors=True)
        (folder / COMPLETE).unlink(missing_ok=True)
        write_json(mark, identity)
    checkpoint = last_checkpoint(folder)
    return str(checkpoint) if checkpoint else ""


def agree(value: str) -> str:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def build(run: RankRun) -> tuple[Any, Any]:
    """Base model with a fresh adapter, and the tokenizer; the same values on every rank."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"revision": run.revision, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(run.model, **options)
    base = AutoModelForCausalLM.from_pretrained(
        run.model, dtype=getattr(torch, run.dtype), use_safetensors=True,
        attn_implementation=run.attention, **options,
    )  # fmt: skip
    if run.device == "cuda":
        base = base.to(torch.device("cuda", torch.cuda.current_device()))
    lora = LoraConfig(
        r=run.lora_rank, lora_alpha=2 * run.lora_rank, lora_dropout=0.0,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(run.seed)  # one seed on all ranks: fully_shard copies nothing between them
    return get_peft_model(base, lora), tokenizer


def values_hash(model: Any) -> str:
    """Hash of the values that will be trained."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def trainer_arguments(run: RankRun, n_rows: int) -> Any:
    """The trainer's settings: the same for one process and for many, but for the strategy."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=run.folder,
        max_steps=run.steps(n_rows),
        per_device_train_batch_size=run.batch_size,
        gradient_accumulation_steps=run.accumulation,
        train_sampling_strategy="sequential",  # the file holds the order of training
        learning_rate=run.learning_rate,
        lr_scheduler_type=run.schedule,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        loss_type="chunked_nll",
        average_tokens_across_devices=run.token_mean == "global",
        max_length=None,
        bf16=run.device == "cuda" and run.dtype == "bfloat16",
        use_cpu=run.device == "cpu",
        gradient_checkpointing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,  # its default logs a loss that is NaN as 0.0
        save_strategy="steps" if run.save_steps else "no",
        save_steps=run.save_steps or 1,
        save_total_limit=1,
        seed=run.seed,
        ddp_timeout=run.timeout_s,
        ddp_find_unused_parameters=False,
        fsdp=True if run.strategy == "fsdp2" else None,
        fsdp_config={"version": 2} if run.strategy == "fsdp2" else None,
        deepspeed=str(ROOT / ZERO3) if run.strategy == "zero3" else None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are made, fillers stay
        report_to="none",
        disable_tqdm=True,
    )


def _load_onto_cpu_ranks() -> None:
    """Let torch load checkpoints onto "cpu:0", as accelerate calls the CPU of a rank.

    The trainer loads optimizer states with `map_location=args.device` where there are several
    ranks, and torch knows the plain "cpu" only: no such run could continue.
    Source: transformers 5.17.0, trainer.py (_load_optimizer_and_scheduler)
    """
    from torch.serialization import register_package

    register_package(5, lambda storage: None, lambda s, place: s if place[:4] == "cpu:" else None)


def with_trainer(
    run: RankRun, model: Any, tokenizer: Any, rows: list[Row], numbers: list[int], report: Report,
    checkpoint: str,
) -> None:  # fmt: skip
    """Train with TRL's SFTTrainer, as a notebook or script does; accelerate distributes."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTTrainer

    from sft_utils.train.training import fit_loss_chunks

    if run.device == "cpu":
        fit_loss_chunks(64)
        _load_onto_cpu_ranks()
    arguments = trainer_arguments(run, sum(n != EMPTY for n in numbers))

    def collated(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(batch, tokenizer.pad_token_id) | {
            "row": torch.tensor([r["row"] for r in batch])
        }

    class Reporting(SFTTrainer):
        """Notes which rows really go through a training step, in what kind of module."""

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            if "strategy" not in report.facts:
                report.update(**in_force(model))
            numbers = inputs.pop("row").tolist()
            taught = int((inputs["labels"][:, 1:] != IGNORE).sum())
            report.trained(numbers, int(inputs["attention_mask"].sum()), taught)
            return super().training_step(model, inputs, *rest)

    class Steps(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            if "gradient_bytes" not in report.facts:
                report.update(gradient_bytes=gradient_bytes(kw["model"]))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            if "optimizer_bytes" not in report.facts:
                report.update(optimizer_bytes=optimizer_bytes(kw["optimizer"]))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
            if "loss" in logs:
                report.step(state.global_step, logs["loss"])

    table = [{**r, "row": n} for r, n in zip(rows, numbers, strict=True)]
    trainer = Reporting(
        model, arguments, train_dataset=Dataset.from_list(table), processing_class=tokenizer,
        data_collator=collated, callbacks=[Steps()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    report.resume(int(Path(checkpoint).name.split("-")[1]) if checkpoint else 0)
    trainer.train(resume_from_checkpoint=checkpoint or None)
    trainer.save_model(str(Path(run.folder) / "adapter"))


def join(run: RankRun) -> None:
    """Meet the other ranks; alone, there is nobody to meet."""
    if run.world_size == 1:
        return
    import torch
    import torch.distributed as dist

    if run.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if run.device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=run.timeout_s))


def end_with_parent() -> None:
    """On Linux: die when the launcher does, however it dies."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            raise SystemExit("the launcher has ended")


def main(run_file: str) -> None:
    """Train one rank from its first import to its last file."""
    end_with_parent()
    run = read(run_file)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    report = Report(run, int(os.environ.get("RANK", "0")), world_size)
    report.watch_writes()
    with failures(report):
        from sft_utils import heap, runtime

        runtime.quiet()
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        if run.device == "cpu":
            torch.set_num_threads(run.threads)
            heap.keep_freed_memory()
        elif not torch.cuda.is_available():
            raise ConfigError(f"run {run.name} needs CUDA and torch sees no GPU")
        join(run)
        rows = read_rows(run.rows)
        model, tokenizer = build(run)
        report.update(values=values_hash(model), threads=torch.get_num_threads())
        identity = identity_of(run, rows)
        first = report.rank == 0
        checkpoint = agree(start_point(run, identity) if first else "")
        full, numbers = fill(rows, run.world_size * run.batch_size, tokenizer.pad_token_id)
        if run.engine == "torch":
            from sft_utils.ranks import sharded

            where = Path(checkpoint) if checkpoint else None
            sharded.train(run, model, full, numbers, tokenizer.pad_token_id, report, where)
        else:
            with_trainer(run, model, tokenizer, full, numbers, report, checkpoint)
        report.finish()
        if first:
            write_json(Path(run.folder) / COMPLETE, {"identity": identity})
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
