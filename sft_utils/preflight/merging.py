"""Do the served weights compute what the trained ones did?

| id | fault | FAIL | WARN |
|---|---|---|---|
| S6 | adapter keys do not match | foreign keys, lora_B zero after load, served = base | |
| Q1 | merged weights compute something else | over 10 % of the tuning effect | over 2 % |
| Q2 | merged into another precision than trained | as far off as the base | over 2 %, measured |
| Q5 | adapter on the wrong base | hash of base tensors differs | in float16 |
| Q6 | score of another artefact | | always |

The tuning effect is KL(trained || base) on answer tokens; gaps are relative to it. Q3, Q4 and O12
are in `formats`.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sft_utils.preflight import artefact
from sft_utils.preflight.compare import (
    Likeness,
    answer_logits,
    artefact_hash,
    base_hash,
    base_logits,
    count_4bit,
    likeness,
    probes,
)
from sft_utils.preflight.record import Detector, Finding, RunRecord, Severity

OFF, SLIGHTLY = 0.10, 0.02
"""Shares of the tuning effect that a served model may lose: a fact, and a doubt."""

EXACT, ROUNDED = 1e-3, 2e-2
"""KL in nats that is put down to rounding: float32 only, and with a shorter dtype."""

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")


def adapter_keys(record: RunRecord) -> Iterator[Finding]:
    """S6: every saved tensor finds its module, and is there after the load."""
    folder = artefact.folder_of(record)
    saved = artefact.adapter_tensors(folder) if folder else {}
    if folder is None or not saved:
        return
    why = "peft skips such keys with a warning: the base model is served"
    fix = "save and load with the same wrapping and peft version; compare the keys of both"
    strangers = _strangers(record, saved, artefact.read(folder, "adapter_config.json"))
    if strangers:
        yield fail(
            id="S6",
            what=f"{len(strangers)} of {len(saved)} adapter keys belong to no module of the base, "
            f"first {strangers[0]}",
            where="adapter_model.safetensors",
            why=why,
            fix=fix,
        )
    if not hasattr(record.served_model, "peft_config"):
        return
    live = artefact.adapter_state(record.served_model)
    had, has = (sum(bool(t.any()) for n, t in x.items() if "lora_B" in n) for x in (saved, live))
    if has < had:
        yield fail(
            id="S6",
            what=f"{had} lora_B are saved with weights, {has} of the loaded ones have any",
            where="served model",
            why=why,
            fix=fix,
        )


def _strangers(record: RunRecord, saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Saved keys without a place in the model."""
    if hasattr(record.model, "peft_config"):
        live = artefact.adapter_state(record.model)
        # Embeddings may be saved on top of the adapter.
        return [k for k in saved if k not in live and ("lora_" in k or not _module(record, k))]
    if config.get("peft_type") != "LORA" or config.get("target_parameters"):
        return []
    return [k for k in saved if "lora_" in k and not _module(record, k)]


def _module(record: RunRecord, key: str) -> bool:
    """Whether the module that a key names is in the base model; True if there is none to ask."""
    base = record.base_model if record.base_model is not None else record.model
    if base is None:
        return True
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    path = key.removeprefix("base_model.model.").split(".lora_")[0].removesuffix(".weight")
    return any(name == path for name, _ in base.named_modules())


def served_weights(record: RunRecord) -> Iterator[Finding]:
    """Q1, Q2, Q5, Q6 and S6 by measurement: logits of trained, served and base model."""
    model, served = record.model, record.served_model
    if model is None or served is None or served is model:
        return
    rows = probes(record)
    ours, theirs = answer_logits(model, rows), answer_logits(served, rows)
    if not ours or not theirs:
        return
    gap, base = likeness(ours, theirs), base_logits(record, rows)
    effect = likeness(ours, base) if base else None
    if effect is not None and effect.kl < 1e-6:
        return  # nothing was trained, which is another fault
    severity = _severity(gap, effect, _noise(model, served))
    if severity is None:
        return
    if base and likeness(theirs, base).kl < 0.01 * gap.kl:
        code, what, severity = "S6", "the served model computes what the base does", "FAIL"
        fix = "load the adapter that was trained, and look at the missing keys peft reports"
    else:
        code, what, fix, severity = _cause(record, severity, gap, effect)
    measured = f"KL {gap.kl:.3g} nats, same first choice at {gap.top1:.0%} of {gap.n} tokens"
    if effect is not None:
        measured += f"; the whole tuning effect is {effect.kl:.3g} nats"
    yield Finding(
        id=code,
        severity=severity,
        what=f"{what} ({measured})",
        where="served model",
        why="the model that was evaluated is not the one that is handed over",
        fix=fix,
    )


def _severity(gap: Likeness, effect: Likeness | None, noise: float) -> Severity | None:
    """FAIL, WARN or nothing for the distance between trained and served model."""
    share = gap.kl / (effect.kl if effect is not None else 1.0)
    if share > OFF and gap.kl > noise:
        return "FAIL"
    # Below the noise only a training that is itself no more than rounding is worth a word.
    doubtful = share > SLIGHTLY and gap.kl > noise / 4
    return "WARN" if doubtful or (share > 0.5 and gap.kl > 1e-4) else None


def _noise(*models: Any) -> float:
    """KL that rounding explains, by the shortest dtype in use."""
    import torch

    found = {p.dtype for m in models for p in m.parameters() if p.is_floating_point()}
    return EXACT if found <= {torch.float32, torch.float64} else ROUNDED


def _cause(
    record: RunRecord, severity: Severity, gap: Likeness, effect: Likeness | None
) -> tuple[str, str, str, Severity]:
    """Id, description, fix and severity of a distance, from what the two models are made of."""
    model, served = record.model, record.served_model
    packed, packed_served = count_4bit(model), count_4bit(served)
    adapted = hasattr(served, "peft_config")
    if packed and packed_served and not adapted:
        fix = "dequantise the 4-bit base, add the adapter, save that (modeling.merge_into)"
        return "Q1", "merged into 4-bit weights, which rounds the adapter away", fix, severity
    if packed and not packed_served:
        what = f"trained on {packed} 4-bit layers, served on full-precision ones"
        fix = "merge into the dequantised training base, or show that the task score holds"
        lost = effect is not None and gap.kl >= effect.kl
        return "Q2", what, fix, "FAIL" if lost else "WARN"
    if packed_served and not packed:
        fix = "score this artefact, not the one before quantisation"
        return "Q6", "the served weights were quantised after training", fix, "WARN"
    if adapted and hasattr(model, "peft_config") and base_hash(model) != base_hash(served):
        return "Q5", "the adapter is served on another base", "load the training base", severity
    if severity == "WARN":
        fix = "merge in float32 and round once, or score the merged weights"
        return "Q1", "what the served weights round away is large beside the tuning", fix, severity
    return "Q1", "the served weights compute something else", "merge the trained adapter", severity


def merge_warning(record: RunRecord) -> Iterator[Finding]:
    """Q1, if nothing can be measured: peft said that it merged into quantised weights."""
    if record.model is not None and record.served_model is not None:
        return
    said = [m for m in record.messages if "Merge lora module to" in m and "-bit" in m]
    if said:
        yield warn(
            id="Q1",
            what=said[0],
            where="merge_and_unload",
            why="the merged weights are rounded again, and part of the adapter is lost",
            fix="dequantise the 4-bit base, add the adapter, save that (modeling.merge_into)",
            count=len(said),
        )


def base_identity(record: RunRecord) -> Iterator[Finding]:
    """Q5: the base under the adapter is the one it was trained on.

    Known from `declared["base_sha256"]` or the export's manifest, as `compare.base_hash`.
    """
    folder = artefact.folder_of(record)
    kept = record.declared.get("base_sha256")
    kept = kept or (artefact.read(folder, artefact.MANIFEST).get("base_sha256") if folder else None)
    adapted = hasattr(record.served_model, "peft_config")
    asked = {"base model": record.base_model}
    asked["served model"] = record.served_model if adapted else None
    for where, model in asked.items():
        if not kept or model is None or (found := base_hash(model)) == kept:
            continue
        short = str(next(model.parameters()).dtype) == "torch.float16"  # may round otherwise
        yield (warn if short else fail)(
            id="Q5",
            what=f"base tensors hash to {found[:12]}, the adapter was trained on {str(kept)[:12]}",
            where=where,
            why="shapes fit, so it loads; the adapter corrects weights that are not there",
            fix="load the base named in adapter_config.json, at the revision of the training",
        )


def scored(record: RunRecord) -> Iterator[Finding]:
    """Q6: what was scored is what is handed over.

    `observed["evaluated_sha256"]` is `compare.artefact_hash` of the scored directory.
    """
    folder, was = artefact.folder_of(record), record.observed.get("evaluated_sha256")
    if folder is None or not was or was == (found := artefact_hash(folder)):
        return
    yield warn(
        id="Q6",
        what=f"the scores belong to artefact {str(was)[:12]}, this one is {found[:12]}",
        where="observed['evaluated_sha256']",
        why="merging and quantising change answers: scores of the checkpoint do not carry over",
        fix="run the task metric once on the files that are handed over",
    )


DETECTORS: tuple[Detector, ...] = (
    merge_warning,
    scored,
    adapter_keys,
    base_identity,
    served_weights,
)
