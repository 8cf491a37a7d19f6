"""Settings that cannot work, found in milliseconds without running the model.

Adapter coverage and scale, learning rate and schedule, new tokens, quantisation. Ignored flags and
faults of the libraries are in `stack`, several processes in `ranks`.
"""

import difflib
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from sft_utils.masks.chat import Oracle
from sft_utils.preflight import ranks, schedule, stack
from sft_utils.preflight.record import Detector, Finding, RunRecord
from sft_utils.preflight.stack import value_of

LOW_LORA_RATE = HIGH_FULL_RATE = 5e-5
"""Rates around which LoRA usually learns too little, and full fine-tuning forgets too much."""

SCALE = (0.2, 8.0)
"""Band of alpha / rank that recipes use; with rank-stabilised scaling twice that."""


_ATTENTION = re.compile(r"attn|attention|[qkvo]_proj|qkv|query|key|value")
_FEED_FORWARD = re.compile(r"mlp|ffn|feed_forward|gate_proj|up_proj|down_proj|fc[12]|expert|dense")


def adapter_of(record: RunRecord) -> Any:
    """The configuration of the adapter, from the model or as it was declared; None for none."""
    configs = getattr(record.model, "peft_config", None)
    if isinstance(configs, Mapping) and configs:
        return configs.get(getattr(record.model, "active_adapter", None)) or next(
            iter(configs.values())
        )
    if record.declared.get("peft_config") is not None:
        return record.declared["peft_config"]
    named = {"target_modules": "target_modules", "lora_r": "r", "lora_alpha": "lora_alpha"}
    known = {new: record.declared[old] for old, new in named.items() if old in record.declared}
    return SimpleNamespace(**known) if known else None


def module_kinds(model: Any) -> dict[str, str]:
    """Name of every module, without peft's wrappers -> "attention", "mlp", "other" or ""."""
    kinds: dict[str, str] = {}
    for name, module in model.named_modules():
        if ".lora_" in name or "modules_to_save" in name or not name:
            continue
        plain = name.replace("base_model.model.", "", 1).removesuffix(".base_layer")
        kind = ""
        if "Linear" in type(module).__name__ or type(module).__name__ == "Conv1D":
            named = (("attention", _ATTENTION), ("mlp", _FEED_FORWARD))
            kind = next((label for label, pattern in named if pattern.search(plain)), "other")
        kinds[plain] = kinds.get(plain) or kind
    return kinds


def targeted(targets: str | Iterable[str], name: str) -> bool:
    """Whether peft would put an adapter on a module: full match of a pattern, end of a name."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith(f".{t}") for t in targets)


def coverage(record: RunRecord) -> Iterator[Finding]:
    """O6: target modules that do not exist, or leave attention or MLP layers out."""
    adapter = adapter_of(record)
    targets = value_of(adapter, "target_modules")
    if record.model is None or not targets or str(targets).lower() == "all-linear":
        return
    kinds = module_kinds(record.model)
    try:
        hit = {name for name in kinds if targeted(targets, name)}
    except re.error as error:
        yield _uncovered("FAIL", f"target_modules {targets!r} is no valid pattern: {error}", kinds)
        return
    by_kind = {k: {n for n in kinds if kinds[n] == k} for k in ("attention", "mlp")}
    complete = all(names <= hit for names in by_kind.values())
    for target in [targets] if isinstance(targets, str) else sorted(targets):
        if not any(targeted(target if isinstance(targets, str) else [target], n) for n in kinds):
            close = difflib.get_close_matches(target, {n.split(".")[-1] for n in kinds}, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield _uncovered(
                # A list that serves several families may name layers that this one lacks.
                "WARN" if complete else "FAIL",
                f"target_modules names {target!r}, which no module of the model matches{hint}",
                kinds,
            )
    whole = not value_of(adapter, "layers_to_transform") and not value_of(
        adapter, "target_parameters"
    )
    for kind, names in by_kind.items():
        if names and hit and whole and not names & hit:
            yield _uncovered(
                "WARN", f"no adapter on any of the {len(names)} {kind} layers of the model", kinds
            )


def _uncovered(severity: Any, what: str, kinds: Mapping[str, str]) -> Finding:
    leaves = sorted({n.split(".")[-1] for n, k in kinds.items() if k in ("attention", "mlp")})
    return Finding(
        id="O6",
        severity=severity,
        what=what,
        where="target_modules",
        why="layers without an adapter stay as they are; the rest learns less than it could",
        fix=f'target_modules="all-linear", or name them: {leaves}',
    )


def learning_rate(record: RunRecord) -> Iterator[Finding]:
    """O7: a rate of full fine-tuning for LoRA, or the other way round."""
    rate = value_of(record.arguments, "learning_rate")
    optimizer = str(value_of(record.arguments, "optim") or "adamw")
    if not isinstance(rate, float) or not 0 < rate < 1 or "adam" not in optimizer.lower():
        return
    adapter = adapter_of(record)
    lora = value_of(adapter, "r") is not None or value_of(adapter, "target_modules") is not None
    if lora and rate < LOW_LORA_RATE:
        what = f"learning_rate {rate:g} is a rate for full fine-tuning; this run trains LoRA"
        why = "LoRA needs about ten times the rate of full fine-tuning; the loss falls, but slowly"
        yield _rate(what, why, "learning_rate=2e-4, or run a range test of five rates")
    elif adapter is None and rate > HIGH_FULL_RATE and _trains_fully(record.model):
        what = f"learning_rate {rate:g} is a rate for LoRA; this run trains all weights"
        why = "large updates of all weights overwrite what the base model knows"
        yield _rate(what, why, "learning_rate=1e-5 .. 5e-5, or train an adapter")


def _rate(what: str, why: str, fix: str) -> Finding:
    where = "arguments.learning_rate"
    return Finding(id="O7", severity="WARN", what=what, where=where, why=why, fix=fix)


def _trains_fully(model: Any) -> bool:
    """Whether most of the parameters of a model are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()] if model is not None else []
    return sum(n for n, trained in sizes if trained) > 0.5 * sum(n for n, _ in sizes)


def adapter_scale(record: RunRecord) -> Iterator[Finding]:
    """O8: alpha / rank far from what recipes use, also of the layers that a pattern names."""
    adapter = adapter_of(record)
    ranks_of = value_of(adapter, "rank_pattern") or {}
    alphas_of = value_of(adapter, "alpha_pattern") or {}
    stable = bool(value_of(adapter, "use_rslora"))
    low, high = SCALE[0], SCALE[1] * (2 if stable else 1)
    for name in ("", *dict.fromkeys((*ranks_of, *alphas_of))):
        rank = ranks_of.get(name, value_of(adapter, "r"))
        alpha = alphas_of.get(name, value_of(adapter, "lora_alpha"))
        if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank <= 0:
            continue
        scale = alpha / (math.sqrt(rank) if stable else rank)
        if low <= scale <= high:
            continue
        yield Finding(
            id="O8",
            severity="WARN",
            what=f"the adapter is scaled by {scale:.3g} (alpha {alpha:g}, rank {rank}"
            f"{', rank-stabilised' if stable else ''}); usual is {low:g} to {high:g}",
            where=f"rank_pattern, alpha_pattern: {name!r}" if name else "lora_alpha / r",
            why="the scale multiplies every update like a learning rate: changing the rank alone "
            "changes the size of the steps",
            fix=f"lora_alpha={2 * rank} (twice the rank), or use_rslora=True with lora_alpha=16",
        )


def untrained_tokens(record: RunRecord) -> Iterator[Finding]:
    """O11: new tokens occur in the data, but their embeddings stay as they were initialised."""
    if record.model is None or not hasattr(record.model, "get_input_embeddings"):
        return
    used = _used_ids(record)
    fresh = _new_ids(record, used) & used
    fresh -= _trainable_ids(record, fresh)
    if not fresh:
        return
    ids = sorted(fresh)
    tokens = record.tokenizer.convert_ids_to_tokens(ids)
    tied = ")"
    if getattr(getattr(record.model, "config", None), "tie_word_embeddings", False):
        # peft then wraps the head too, and TRL's default loss reads `lm_head.bias` of the wrapper
        tied = ', ensure_weight_tying=True) with SFTConfig(loss_type="nll")'
    yield Finding(
        id="O11",
        severity="FAIL",
        what=f"{len(ids)} new tokens occur in the data but are not trained: {tokens[:4]}",
        where="embedding rows " + ", ".join(map(str, ids[:4])),
        why="their embeddings keep their initial values, so the model reads and writes noise there",
        fix=f"LoraConfig(..., trainable_token_indices={_as_code(ids)}{tied}; or "
        'modules_to_save=["embed_tokens", "lm_head"]',
        count=len(ids),
    )


def _as_code(ids: list[int]) -> str:
    """Ids as they can be pasted: all of them, many as ranges."""
    if len(ids) <= 8:
        return str(ids)
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][-1] + 1:
            runs[-1][1:] = [i]
        else:
            runs.append([i])
    return "[" + ", ".join(f"*range({r[0]}, {r[-1] + 1})" for r in runs) + "]"


def _used_ids(record: RunRecord) -> set[int]:
    """Token ids that the run trains or reads."""
    pad = {record.tokenizer.pad_token_id}  # its row is zero by design
    if record.train_batches:
        parts = [b["input_ids"] for b in record.train_batches if "input_ids" in b]
        return {int(i) for part in parts for i in part.unique()} - pad
    return {i for truth in record.oracles if isinstance(truth, Oracle) for i in truth.ids} - pad


def _new_ids(record: RunRecord, used: set[int]) -> set[int]:
    """Ids that the base model was never trained on, as far as this can be told."""
    declared = record.declared.get("added_tokens", ())
    ids = {record.tokenizer.convert_tokens_to_ids(t) for t in declared}
    if hasattr(record.base_model, "get_input_embeddings"):
        rows = len(record.base_model.get_input_embeddings().weight)
        ids |= {i for i in used if i >= rows}
    # transformers starts new rows at the mean of the old ones, where no trained row ever is.
    import torch

    table = getattr(record.model.get_input_embeddings(), "weight", None)
    added = sorted(i for i in used if i in record.tokenizer.added_tokens_decoder)
    if table is None or table.ndim != 2 or not table.is_floating_point() or not added:
        return ids
    rows = table.detach()
    mean = rows.mean(0, dtype=torch.float32)  # (H,)
    gaps = (rows[:: max(len(rows) // 256, 1)].float() - mean).norm(dim=1).tolist()
    typical = statistics.median(gaps)
    near = [i for i in added if i < len(rows)]
    return ids | {i for i in near if float((rows[i].float() - mean).norm()) < 0.02 * typical}


def _trainable_ids(record: RunRecord, ids: set[int]) -> set[int]:
    """Which of these ids have embedding rows that training changes."""
    adapter = adapter_of(record)
    if adapter is not None and not hasattr(record.model, "peft_config"):
        saved = " ".join(value_of(adapter, "modules_to_save") or ())
        if "embed" in saved or "wte" in saved:
            return ids
        return ids & _indices(value_of(adapter, "trainable_token_indices"))
    module = record.model.get_input_embeddings()
    names = {n for n, p in module.named_parameters() if p.requires_grad}
    if any("trainable_tokens" not in n for n in names):
        return ids
    # peft keeps the selected rows next to the table, not inside it.
    return ids & _indices(value_of(adapter, "trainable_token_indices"))


def _indices(selected: Any) -> set[int]:
    """Ids out of peft's trainable_token_indices: a list, or lists by module name."""
    if isinstance(selected, Mapping):
        return {i for part in selected.values() for i in part}
    return set(selected or ())


def quantisation(record: RunRecord) -> Iterator[Finding]:
    """Q7: 4 or 8 bit were asked for, the model has none."""
    wanted = record.declared.get("quantization") or record.declared.get("quantization_config")
    if record.model is None or not wanted:
        return
    linears = [m for m in record.model.modules() if "Linear" in type(m).__name__]
    packed = re.compile(r"4bit|8bit|NF4|FP4|Quant|Hqq|Awq|Gptq|Aqlm", re.IGNORECASE)
    if not linears or any(packed.search(type(m).__name__) for m in record.model.modules()):
        return
    weights: Sequence[Any] = [getattr(m, "weight", None) for m in linears]
    if any(w is not None and not w.is_floating_point() for w in weights):
        return
    if getattr(getattr(record.model, "config", None), "quantization_config", None) is not None:
        return
    kind = next((str(w.dtype) for w in weights if w is not None), "floating point")
    yield Finding(
        id="Q7",
        severity="FAIL",
        what=f"quantisation was asked for, but all {len(linears)} linear layers are {kind}",
        where="quantization_config",
        why="a model object that exists already is not quantised: memory and results are those of "
        "another run",
        fix="from_pretrained(..., quantization_config=...), or hand the trainer a model name",
    )


def trainable(record: RunRecord) -> Iterator[Finding]:
    """O3: nothing is trainable, though a training run is prepared."""
    model = getattr(record.trainer, "model", None) or record.model
    prepared = record.trainer is not None or record.train_batches
    if not hasattr(model, "parameters") or not prepared:
        return
    if any(p.requires_grad for p in model.parameters()):
        return
    adapter = hasattr(model, "peft_config")
    yield Finding(
        id="O3",
        severity="FAIL",
        what="no parameter requires a gradient"
        + (", although the model has an adapter" if adapter else ""),
        where="model",
        why="the run goes through all its steps, the loss is printed, and nothing changes",
        fix="PeftModel.from_pretrained(..., is_trainable=True)"
        if adapter
        else "attach the adapter after prepare_model_for_kbit_training, not before",
    )


DETECTORS: tuple[Detector, ...] = (
    trainable,
    learning_rate,
    adapter_scale,
    coverage,
    quantisation,
    *schedule.DETECTORS,
    untrained_tokens,
    *stack.DETECTORS,
    *ranks.DETECTORS,
)
