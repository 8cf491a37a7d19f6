"""FSDP2 by torch's own `fully_shard`: the loop that is needed where the trainer cannot shard.

accelerate shards on accelerators only; on a CPU its FSDP settings give plain DDP. Everything but
the distribution is as in the trainer: order of rows, loss, clipping, optimizer, schedule.
"""

import shutil
from pathlib import Path
from typing import Any

from sft_utils.artifacts import write_json
from sft_utils.masks.masking import IGNORE, Row, collate
from sft_utils.ranks.rankreport import Report, gradient_bytes, in_force, optimizer_bytes
from sft_utils.ranks.rankrun import RankRun


def shard(model: Any, device: str, world_size: int) -> Any:
    """Shard every transformer layer, and the rest of the model as one more unit, over all ranks.

    Every rank must hold the same values before: `fully_shard` cuts what is there, and unlike DDP
    it does not copy rank 0's values to the others.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (world_size,))
    names = set(model.get_base_model()._no_split_modules)  # "LlamaDecoderLayer"
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def micro_batches(run: RankRun, rows: list[Row], rank: int, step: int) -> list[list[Row]]:
    """The rows of one rank in one step (from 0), in the order in which accelerate deals batches.

    Batches of `batch_size` rows go to the ranks in turn: rank 0, rank 1, rank 0, ...

    Example:
        >>> run = RankRun(folder="f", rows="r", model="m", strategy="ddp", world_size=2)
        >>> micro_batches(run, list(range(6)), 1, 0), micro_batches(run, list(range(6)), 1, 1)
        ([[1], [3]], [[5]])
    """
    part = rows[step * run.global_batch : (step + 1) * run.global_batch]
    batches = [part[i : i + run.batch_size] for i in range(0, len(part), run.batch_size)]
    return batches[rank :: run.world_size]


def nll_sum(model: Any, batch: dict[str, Any]) -> Any:
    """Sum of the negative log-likelihood over the supervised tokens of a batch, in nats.

    Logits are computed only at positions that predict a supervised token of some row.
    """
    import torch

    labels = batch["labels"][:, 1:]  # (B, T-1)
    keep = (labels != IGNORE).any(dim=0).nonzero().flatten()
    if not len(keep):  # a filler: all ranks must go forward and backward together
        keep = torch.zeros(1, dtype=torch.long, device=labels.device)
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        logits_to_keep=keep, use_cache=False,
    )  # fmt: skip
    logits = output.logits.float()  # (B, kept, V)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, keep].flatten(), ignore_index=IGNORE, reduction="sum"
    )


def train(
    run: RankRun, model: Any, rows: list[Row], numbers: list[int], pad_id: int, report: Report,
    checkpoint: Path | None,
) -> None:  # fmt: skip
    """Train one pass and save the adapter (rank 0).

    Args:
        run: Settings.
        model: A PeftModel on the rank's device, the same values on every rank.
        rows: In the order of training, filled up to whole batches on every rank.
        numbers: Number of each row; `rankrun.EMPTY` for fillers.
        pad_id: For padding.
        report: Receives facts and steps.
        checkpoint: Where to continue, or None.
    """
    import torch
    import torch.distributed as dist
    from transformers import get_scheduler

    model = shard(model, run.device, run.world_size)
    device = next(model.parameters()).device
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=run.learning_rate, weight_decay=0.0)
    total = run.steps(sum(n >= 0 for n in numbers))
    schedule = get_scheduler(run.schedule, optimizer, num_warmup_steps=0, num_training_steps=total)
    began = _restore(model, optimizer, schedule, checkpoint) if checkpoint else 0
    report.resume(began)
    report.update(**in_force(model))
    model.train()
    for step in range(began, total):
        part = micro_batches(run, list(zip(numbers, rows, strict=True)), report.rank, step)
        batches = [{k: v.to(device) for k, v in collate([r for _, r in b], pad_id).items()}
                   for b in part]  # fmt: skip
        counts = [int((b["labels"][:, 1:] != IGNORE).sum()) for b in batches]
        n_global = torch.tensor(float(sum(counts)), device=device)
        dist.all_reduce(n_global)  # supervised tokens of the global batch
        loss = torch.zeros((), device=device)
        for i, batch in enumerate(batches):
            model.set_requires_gradient_sync(i == len(batches) - 1)
            share = nll_sum(model, batch) / n_global
            (share * run.world_size).backward()  # FSDP divides the sum of gradients by the ranks
            loss += share.detach()
            sizes = int(batch["attention_mask"].sum()), counts[i]
            report.trained([n for n, _ in part[i]], *sizes)
        dist.all_reduce(loss)
        if step == began:
            report.update(gradient_bytes=gradient_bytes(model))
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step == began:
            report.update(optimizer_bytes=optimizer_bytes(optimizer))
        report.step(step + 1, loss.item())
        if run.save_steps and (step + 1) % run.save_steps == 0:
            _save(model, optimizer, schedule, Path(run.folder) / f"checkpoint-{step + 1}", step + 1)
    _save_adapter(model, Path(run.folder) / "adapter")


def _options(**more: Any) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False, **more)


def _save(model: Any, optimizer: Any, schedule: Any, folder: Path, step: int) -> None:
    """Gather the trained values on rank 0, which writes them; trainer_state.json comes last."""
    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, optimizer, options=_options(cpu_offload=True))
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        state = {"model": weights, "optimizer": moments, "schedule": schedule.state_dict()}
        torch.save(state, folder / "state.pt")
        write_json(folder / "trainer_state.json", {"global_step": step})
        for old in folder.parent.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old)
    dist.barrier()


def _restore(model: Any, optimizer: Any, schedule: Any, folder: Path) -> int:
    """Put a checkpoint back, each rank its own part; returns its step."""
    import torch
    from torch.distributed.checkpoint.state_dict import set_state_dict

    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"],
        optim_state_dict=state["optimizer"], options=_options(),
    )  # fmt: skip
    schedule.load_state_dict(state["schedule"])
    return int(folder.name.split("-")[1])


def _save_adapter(model: Any, folder: Path) -> None:
    """Gather the adapter on rank 0, which writes it: a rank alone holds only a part."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    weights = get_model_state_dict(model, options=_options(cpu_offload=True))
    if dist.get_rank() == 0:
        model.save_pretrained(folder, state_dict=weights)
    dist.barrier()
