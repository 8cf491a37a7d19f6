"""The inside of `make gpu-check`: one worker process per backend runs its arms one after another.

Every arm says on stdout that it begins and what came of it; `gpucheck` reads that, limits the time
and starts another process for the rest if this one dies. Imports stand inside the functions:
Unsloth must be imported before transformers, and an arm must not pay for another's libraries.
"""

import gc
import itertools
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_utils import runtime
from sft_utils.artifacts import write_json
from sft_utils.config import cpu_threads, get_profile
from sft_utils.errors import ConfigError
from sft_utils.gpu import gpuruns
from sft_utils.gpu.gpuruns import RANK, SEED, Job, Row, build, losses, profile_for, sft_config
from sft_utils.model import modeling
from sft_utils.runtime import GIB, seed_everything
from sft_utils.train import backends, memory
from sft_utils.workers import tell

STEPS, LONG_STEPS, TINY_STEPS = 8, 6, 4
"""Of throughput arms: usual, above 4,096 tokens, rehearsed. Two of them warm up, the second of
which measures memory; the last has no end to be timed by."""

PARITY_STEPS, TINY_PARITY_STEPS = 4, 2


def write_weights(job: Job) -> Row:
    """Write the random checkpoint, a shard per layer; every backend then loads the same file.

    All layers hold the same random numbers: drawing 16 GB of them would take longer than the arms.

    Raises:
        ConfigError: The disk is too small for it.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    config, folder = gpuruns.shape(job["tiny"]), gpuruns.weights_dir(job)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    needed, free = memory.weight_bytes(config, 16), shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise ConfigError(
            f"the random model needs {needed / GIB:.0f} GiB of disk, {free / GIB:.0f} are free in "
            "outputs/runs. Free some, or set SFT_RUNS to a larger disk."
        )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    layer = {n.split("layers.0.")[1]: s for n, s in shapes.items() if "layers.0." in n}
    rest = {n: s for n, s in shapes.items() if "layers." not in n}
    torch.manual_seed(SEED)

    def drawn(size: tuple[int, ...]) -> Any:
        if len(size) == 1:
            return torch.ones(size, dtype=torch.bfloat16)  # norms
        return torch.empty(size, dtype=torch.bfloat16, device=job["device"]).normal_(0, 0.02).cpu()

    one = {name: drawn(size) for name, size in layer.items()}
    shards = [{f"model.layers.{i}.{n}": t for n, t in one.items()} for i in
              range(config.num_hidden_layers)]  # fmt: skip
    shards.append({name: drawn(size) for name, size in rest.items()})
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": needed}, "weight_map": index})  # fmt: skip
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    gpuruns.tokenizer().save_pretrained(folder)
    written = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return {"gib": written / GIB, "checks": {"size": abs(written / needed - 1) < 0.01}}


def qlora(job: Job, precision: str | None = None) -> Row:
    """QLoRA for real on the bundled model: loss falls, labels are right, evaluation is harmless."""
    from sft_utils import preflight
    from sft_utils.train import training

    talks, rows = gpuruns.ticket_rows(16 if job["tiny"] else 96)
    changes = {"precision": precision} if precision else {}
    model_dir = gpuruns.weights_dir(job) if job["tiny"] else get_profile("cpu").model
    profile = profile_for(
        job, model=str(model_dir), quantization="nf4", batch_size=4, max_length=1024, **changes
    )
    seed_everything(SEED)
    model, budget = backends.load_for_training(profile, rows, gpuruns.adapter_config(), seed=SEED)
    cosine = gpuruns.cosine_around_evaluation(model, rows[:2])
    steps = 4 if job["tiny"] else 24
    config = sft_config(
        job, profile, max_steps=steps, learning_rate=5e-3 if job["tiny"] else 1e-3,
        gradient_checkpointing=False, train_sampling_strategy="group_by_length",
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = build(model, config, rows)
    training.fit_adapter_precision(trainer)
    findings = [f.id for f in preflight.check(trainer, talks, gpuruns.tokenizer())]
    seen = memory.watch(trainer)
    trainer.train()
    curve = losses(trainer)
    first, last = statistics.mean(curve[:2]), statistics.mean(curve[-2:])
    return {
        "first_loss": first, "last_loss": last, "steps": steps, "findings": findings,
        "gradient_cosine_around_evaluation": cosine, "precision": profile.precision,
        **gpuruns.peak_memory(seen, budget),
        "checks": {
            "loss falls": last < first - (0.0 if job["tiny"] else 0.5),
            "finite": all(map(math.isfinite, curve)),
            "labels match the oracle": not findings,
            "an evaluation leaves gradients alone": cosine > 0.999,
        },
    }  # fmt: skip


def parity(job: Job) -> Row:
    """The same rows, adapter and settings through plain TRL and through Unsloth."""
    import torch

    _, rows = gpuruns.ticket_rows(8 if job["tiny"] else 16)
    cpu = job["device"] == "cpu"
    model_dir = gpuruns.weights_dir(job) if job["tiny"] else get_profile("cpu").model
    profile = profile_for(job, model=str(model_dir), batch_size=4, max_length=1024)
    config = sft_config(
        job, profile, max_steps=TINY_PARITY_STEPS if job["tiny"] else PARITY_STEPS,
        learning_rate=1e-3, gradient_checkpointing=False, packing=False, padding_free=False,
    )  # fmt: skip
    backend = "unsloth" if job["worker"] == "unsloth" else "plain"
    dtype = torch.float32 if cpu else None
    found = gpuruns.trajectory(profile, rows, config, backend=backend, dtype=dtype)
    plain = Path(job["work"]) / "parity-plain.json"
    if backend == "plain":
        write_json(plain, {**found, "key": job.get("key")})
        return {**found, "checks": {"finite": all(map(math.isfinite, found["losses"]))}}
    before = json.loads(plain.read_text(encoding="utf-8")) if plain.exists() else {}
    if not before or before["key"] != job.get("key"):
        raise ConfigError(
            "the plain trajectory of this code and machine is missing: arm plain_parity did not "
            "finish. Run both again with --force"
        )
    return gpuruns.compare(before, found, job["device"])


def throughput(job: Job, quantization: str, length: int) -> Row:
    """Seconds per step and peak memory of one row of `length` random tokens."""
    import torch
    from transformers import AutoConfig

    from sft_utils.train import training

    backend = job["worker"]
    steps = TINY_STEPS if job["tiny"] else LONG_STEPS if length > 4096 else STEPS
    profile = profile_for(
        job, model=str(gpuruns.weights_dir(job)), quantization=quantization, max_length=length
    )
    shapes = AutoConfig.from_pretrained(profile.model)
    generator = torch.Generator().manual_seed(SEED)
    rows = []
    for _ in range(steps):
        ids = torch.randint(3, shapes.vocab_size, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length - length // 4)
                     + ids[length - length // 4 :]})  # fmt: skip
    # Unsloth keeps checkpoints outside the GPU and has kernels of its own: it is tried anyway.
    free = math.inf if backend == "unsloth" else gpuruns.free_gib(job)
    narrow = 2 if profile.precision == "bf16" else 4
    needs = {
        recompute: memory.predict_rows(
            shapes, rows, rank=RANK, batch_size=1, bits=profile.bits, checkpointing=recompute,
            adapter_bytes=4 if backend == "plain" and quantization == "none" else narrow,
            autocast=profile.is_gpu,
        ) for recompute in (False, True)
    }  # fmt: skip
    memory.require_fit(needs[True], free)
    fits_plainly = needs[False].total_gib < 0.9 * free
    recompute = True if backend != "ours" else not fits_plainly
    seed_everything(SEED)
    if backend == "plain":
        model = modeling.load_model(profile, quantization=backends.nf4(profile))
        # Everything else is what SFTConfig chooses by itself.
        config = sft_config(job, profile, max_steps=steps)
        trainer = build(model, config, rows, peft_config=gpuruns.adapter_config())
    else:
        model, _ = backends.load_for_training(
            profile, rows, gpuruns.adapter_config(), seed=SEED, checkpointing=recompute,
            backend="unsloth" if backend == "unsloth" else "plain", available_gib=free,
        )  # fmt: skip
        config = sft_config(job, profile, max_steps=steps, gradient_checkpointing=recompute)
        trainer = build(model, config, rows)
    training.fit_adapter_precision(trainer)
    seen, starts = memory.watch(trainer), gpuruns.clock(trainer, profile.is_gpu)
    trainer.train()
    seconds = [b - a for a, b in itertools.pairwise(starts[2:])]
    curve = losses(trainer)
    return {
        "seconds_per_step": statistics.median(seconds),
        "tokens_per_s": length / statistics.median(seconds),
        "n": len(seconds), "gradient_checkpointing": recompute, "first_loss": curve[0],
        **gpuruns.peak_memory(seen, None if backend == "unsloth" else needs[recompute]),
        "checks": {"finite": all(map(math.isfinite, curve))},
    }  # fmt: skip


def arm(job: Job, name: str) -> Callable[[], Row]:
    """The function behind an arm's name, such as "weights" or "unsloth_nf4_8192"."""
    what = name.removeprefix(f"{job['worker']}_")
    fixed: dict[str, Callable[[], Row]] = {
        "weights": lambda: write_weights(job),
        "qlora": lambda: qlora(job),
        "qlora_fp16": lambda: qlora(job, "fp16"),
        "parity": lambda: parity(job),
    }
    if what in fixed:
        return fixed[what]
    kind, length = what.rsplit("_", 1)
    return lambda: throughput(job, {"nf4": "nf4", "bf16": "none"}[kind], int(length))


def attempt(work: Callable[[], Row]) -> Row:
    """Run an arm; whatever happens becomes a row with a status."""
    import torch

    began = time.monotonic()
    try:
        row = {"status": "ok", **work()}
        json.dumps(row, allow_nan=False)  # NaN is no figure: the row says so instead of holding it
    except torch.OutOfMemoryError as error:
        row = {"status": "out of memory", "why": str(error).splitlines()[0][:200]}
    except ConfigError as error:
        fit = str(error).startswith("predicted")
        row = {"status": "does not fit" if fit else "failed", "why": str(error)[:400]}
    except Exception as error:  # named in its row; the other arms still have something to say
        text = (str(error).splitlines() or [""])[0]
        row = {"status": "failed", "why": f"{type(error).__name__}: {text}"[:400]}
    return {**row, "wall_s": time.monotonic() - began}


def main(path: str) -> int:
    """Run the arms of a job file; ends early when the process is no clean start any more."""
    job: Job = json.loads(Path(path).read_text(encoding="utf-8"))
    cpu = job["device"] == "cpu"
    runtime.quiet()
    try:
        backends.prepare("unsloth" if job["worker"] == "unsloth" else "plain", cpu=cpu)
    except ConfigError as error:
        tell("unavailable", why=str(error))
        return 0
    import torch

    if cpu:
        torch.set_num_threads(cpu_threads())
    for name in job["arms"]:
        tell("begin", arm=name)
        row = attempt(arm(job, name))
        tell("row", arm=name, row=row)
        gc.collect()
        if not cpu:
            torch.cuda.empty_cache()
            if torch.cuda.memory_allocated() > GIB / 4:
                return 0  # something holds on to the arm's model: the rest gets a fresh process
        if row["status"] in ("out of memory", "failed"):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
