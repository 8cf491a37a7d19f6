"""Do packed documents stay apart, and does the adapter act? Each asks the model a few times."""

from collections.abc import Iterator, Mapping
from typing import Any

from sft_utils.masks.chat import Oracle
from sft_utils.masks.masking import IGNORE
from sft_utils.preflight import compare
from sft_utils.preflight.onestep import runner
from sft_utils.preflight.record import Batch, Detector, Finding, RunRecord
from sft_utils.preflight.smallbatch import is_plain, logits_at, on_device


def mixed_documents(record: RunRecord) -> Iterator[Finding]:
    """P5: documents of a packed row read each other."""
    model = runner(record)
    if not hasattr(model, "parameters") or not hasattr(model, "get_input_embeddings"):
        return
    import torch

    table = getattr(compare.original(model.get_input_embeddings()), "weight", ())
    for batch in [b for b in record.train_batches[:8] if "input_ids" in b]:
        known = int(batch["input_ids"].max()) < len(table)
        cut = _two_documents(record, batch) if known else None
        if cut is None or _is_padding(batch, cut):
            continue
        ids = batch["input_ids"][0]
        device = next(model.parameters()).device
        packed = {k: v for k, v in on_device(batch, device).items() if k != "labels"}
        if is_plain(batch):
            packed = {k: v[:1, : cut[2]] for k, v in packed.items()}
        gaps = []
        with compare.untouched(model):
            for start, end in ((0, cut[1]), (cut[1], cut[2])):
                last = torch.arange(max(start, end - 8), end, device=device)
                try:
                    whole = logits_at(model, packed, last)
                    alone = {"input_ids": ids[None, start:end].to(device)}
                    single = logits_at(model, alone, last - start)
                except (RuntimeError, ValueError, TypeError, IndexError):
                    return
                gaps.append(float((whole - single).abs().max() / single.std().clamp(min=1e-9)))
        # Nothing stands before the first document: what differs there is rounding.
        if gaps[1] > max(10 * gaps[0], 1e-3):
            yield Finding(
                id="P5",
                severity="FAIL",
                what="the second document of a packed row has other logits than alone "
                f"({gaps[1]:.1%} of their spread; the first: {gaps[0]:.1%})",
                where="packed batch" + (", attention_mask" if "attention_mask" in batch else ""),
                why="answers are learned from the documents in front of them, which are not there "
                "when the model is served",
                fix='packing_strategy="bfd"; batches with position_ids that restart and without '
                "attention_mask",
            )
        return


def _is_padding(batch: Batch, cut: tuple[int, int, int]) -> bool:
    """Whether one of two documents is only padding, whose positions also start at 0."""
    labels, real = batch.get("labels"), batch.get("attention_mask")
    if real is not None and not bool(real[0, : cut[2]].all()):
        return True
    spans = [slice(0, cut[1]), slice(cut[1], cut[2])]
    return labels is not None and any(bool((labels[0, s] == IGNORE).all()) for s in spans)


def _two_documents(record: RunRecord, batch: Batch) -> tuple[int, int, int] | None:
    """Borders (0, a, b) of the first two documents of the first row."""
    ids = batch["input_ids"][0].tolist()
    if "position_ids" in batch:
        places = batch["position_ids"][0].tolist()
        cuts = [k for k, p in enumerate(places) if p == 0][1:3]
        cuts = [*cuts, len(ids)] if len(cuts) == 1 else cuts
        if len(cuts) == 2:
            return (0, cuts[0], cuts[1]) if cuts[0] < cuts[1] <= 4096 else None
    known = {tuple(o.ids) for o in record.oracles if isinstance(o, Oracle)}
    found = [0]
    for _ in range(2):
        start = found[-1]
        ends = [
            start + n for n in {len(k) for k in known} if tuple(ids[start : start + n]) in known
        ]
        if not ends:
            return None
        found.append(max(ends))
    return (0, found[1], found[2]) if found[2] <= 4096 else None


def adapter_in_force(record: RunRecord) -> Iterator[Finding]:
    """O14: a trained adapter that does not take part."""
    model = record.model
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping) or not configs:
        return
    layers = [m for m in model.modules() if hasattr(m, "lora_B") and hasattr(m, "active_adapters")]
    if any(getattr(m, "merged", False) for m in layers):
        return
    off = [m for m in layers if getattr(m, "disable_adapters", False)]
    trained = {name for name in configs if _has_effect(layers, name)}
    active = {name for m in layers for name in m.active_adapters}
    if off and trained:
        yield _inactive("FAIL", f"{len(off)} of {len(layers)} adapted layers are switched off")
    elif trained and not trained & active:
        names = f"{', '.join(sorted(active))!r} is active and empty, {sorted(trained)[0]!r} trained"
        yield _inactive("WARN", f"adapter {names}")
    elif trained and not off:
        rows = compare.probes(record)
        tuned = compare.answer_logits(model, rows) if rows else []
        base = compare.base_logits(record, rows) if tuned else []
        if base and all(a.equal(b) for a, b in zip(tuned, base, strict=True)):
            yield _inactive("FAIL", "logits with the trained adapter are those of the base model")


def _has_effect(layers: list[Any], name: str) -> bool:
    """Whether an adapter changes one of the first layers."""
    for layer in layers[:8]:
        if name in layer.lora_B and name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            if a.ndim == 2 and float((b.detach().float() @ a.detach().float()).abs().max()) > 1e-6:
                return True
    return False


def _inactive(severity: Any, what: str) -> Finding:
    return Finding(
        id="O14",
        severity=severity,
        what=what,
        where="model.active_adapter",
        why="the base model is judged and reported as the tuned one",
        fix='model.base_model.enable_adapter_layers(); model.set_adapter("default")',
    )


DETECTORS: tuple[Detector, ...] = (mixed_documents, adapter_in_force)
