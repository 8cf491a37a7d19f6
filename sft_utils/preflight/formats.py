"""Are weights stored and served in the form they were trained in?

| id | fault | FAIL | WARN |
|---|---|---|---|
| Q3 | quantised otherwise than trained | one method, other type or bits | other method |
| Q4 | dtype of norms or head differs | | always |
| O12 | tied embeddings diverged | files or served model lose the head | nothing exported yet |
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from sft_utils.preflight import artefact
from sft_utils.preflight.compare import trained
from sft_utils.preflight.record import Detector, Finding, RunRecord

CHUNK = 8192
"""Rows of a stored embedding compared at once."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names in safetensors files."""

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")


def quantisation(record: RunRecord) -> Iterator[Finding]:
    """Q3: weights are quantised in serving as in training.

    Taken from the models; `declared["quantization"]` and `declared["served_quantization"]` replace
    or complete them.
    """
    folder = artefact.folder_of(record)
    stored = artefact.read(folder, "config.json") if folder else {}
    ours = _quantised(record.declared.get("quantization") or record.model)
    theirs = {
        "served model": _quantised(record.served_model),
        "config.json": _quantised(stored.get("quantization_config")),
        "declared['served_quantization']": _quantised(record.declared.get("served_quantization")),
    }
    for where, config in theirs.items():
        if not ours or not config or config == ours:
            continue
        keys = sorted(k for k in ours.keys() | config.keys() if ours.get(k) != config.get(k))
        other_method = ours.get("quant_method") != config.get("quant_method")
        soft = other_method or keys == ["bnb_4bit_use_double_quant"]
        yield (warn if soft else fail)(
            id="Q3",
            what="quantised otherwise: "
            + ", ".join(f"{k} {ours.get(k)} trained, {config.get(k)} served" for k in keys),
            where=where,
            why="the adapter learned to correct the rounding of the training format",
            fix="serve with the training quantisation, or score the artefact as it is served",
        )


def _quantised(source: Any) -> dict[str, str]:
    """What of a model, config object or dict decides the stored weights; empty if nothing."""
    config = getattr(source, "config", source)
    config = getattr(config, "quantization_config", config)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(config, dict):
        return {}
    keys = ["quant_method", "load_in_4bit", "load_in_8bit", "bits", "group_size"]
    if config.get("load_in_4bit"):
        keys += ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant"]
    found = {k: config[k] for k in keys if config.get(k)}
    return {k: str(getattr(v, "value", v)) for k, v in found.items()}


def precision(record: RunRecord) -> Iterator[Finding]:
    """Q4: norms and head are served in the dtype they were trained in."""
    if record.model is None or (record.served_model is None and record.export is None):
        return
    ours = _of_model(record.model)
    others: dict[str, dict[str, set[str]]] = {}
    if record.served_model is not None:
        others["served model"] = _of_model(record.served_model)
    elif folder := artefact.folder_of(record):
        tensors = artefact.stored(folder).items()
        others["weight files"] = _dtypes((n, DTYPES.get(t.dtype, t.dtype)) for n, t in tensors)
    for where, found in others.items():
        for part in sorted(ours.keys() & found.keys()):
            if ours[part] != found[part]:
                yield warn(
                    id="Q4",
                    what=f"{part}: {', '.join(sorted(ours[part]))} in training, "
                    f"{', '.join(sorted(found[part]))} here",
                    where=where,
                    why="norms and head touch every token: small differences shift all answers",
                    fix="cast before training as in serving, or compare logits after the cast",
                )


def _of_model(model: Any) -> dict[str, set[str]]:
    """Dtypes of the model's own norms and head, without adapters."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    named = ((n, p) for n, p in base.named_parameters() if "lora_" not in n)
    return _dtypes((n, str(p.dtype).removeprefix("torch.")) for n, p in named)


def _dtypes(named: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Dtypes by part: norms, head."""
    found: dict[str, set[str]] = {}
    for name, dtype in named:
        part = "norms" if "norm" in name else "head" if "lm_head" in name else None
        if part:
            found.setdefault(part, set()).add(dtype)
    return found


def tied_head(record: RunRecord) -> Iterator[Finding]:
    """O12: a head that was trained apart from the embedding survives the export."""
    folder = artefact.folder_of(record)
    config = artefact.read(folder, "config.json") if folder else {}
    apart, what, where = _apart(record.model), "", "config.json: tie_word_embeddings"
    if folder and config.get("tie_word_embeddings"):
        tensors = artefact.stored(folder)
        table, output = artefact.embedding(tensors), artefact.head(tensors)
        if table and output and table.shape == output.shape and not _equal(table, output):
            what = "the config ties head and embedding, the files hold two different ones"
        elif table and not output and apart:
            what = "the head was trained apart from the embedding, the export holds only one"
    if apart and not what and record.served_model is not None and not _apart(record.served_model):
        what = "head and embedding were trained apart, the served model has one for both"
        where = "served model"
    why = "a loader that obeys the config ties them again and drops the trained head"
    if what:
        yield fail(
            id="O12",
            what=what,
            where=where,
            why=why,
            fix="export with tie_word_embeddings=False and both tensors in the files",
        )
    elif apart and record.served_model is None and not config and _tied_by_config(record.model):
        yield warn(
            id="O12",
            what="the config ties head and embedding, training moved them apart",
            where="trained model",
            why=why,
            fix="LoraConfig(ensure_weight_tying=True), or untie the model before training",
        )


def _tied_by_config(model: Any) -> bool:
    """Whether the class ties head and embedding, and its config asks for it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = base.config.get_text_config()
    return bool(getattr(text, "tie_word_embeddings", False) and base.all_tied_weights_keys)


def _apart(model: Any) -> bool:
    """Whether head and embedding in force are different weights of equal shape."""
    import torch

    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is None:
        return False
    head, table = trained(output).weight, trained(model.get_input_embeddings()).weight
    if head is table or head.shape != table.shape:
        return False
    return not torch.equal(head, table.to(head.device))


def _equal(one: artefact.Stored, two: artefact.Stored) -> bool:
    """Whether two stored tensors of equal shape are the same."""
    import torch

    spans = ((k, min(k + CHUNK, one.shape[0])) for k in range(0, one.shape[0], CHUNK))
    return all(torch.equal(one.read(*span), two.read(*span)) for span in spans)


DETECTORS: tuple[Detector, ...] = (quantisation, precision, tied_head)
