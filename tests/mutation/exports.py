"""Exports of a tiny model for any tokenizer, healthy ones and the tools to break them.

Everything lives in one temporary directory that goes away with the process.
"""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sft_utils.artifacts import write_json
from sft_utils.masks.chat import Oracle
from sft_utils.model.modeling import merge_into
from sft_utils.preflight import artefact
from sft_utils.preflight.compare import answer_logits, likeness, probes
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator

Change = Callable[[RunRecord], RunRecord]

FLOOR = 1e-3
"""KL in nats that no rounding explains in these float32 models."""

BASE_NAME = "example/base-1b"
"""What an adapter calls its base: a public name."""

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
       "bnb_4bit_use_double_quant": True}  # fmt: skip
"""The part of a quantisation config that decides weights."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """One tiny model before and after training, and its two healthy exports."""

    base: Any
    adapted: Any  # PeftModel on a copy of base, trained (random, far from zero)
    merged: Any
    adapter_folder: Path
    merged_folder: Path


# By tokenizer, which is kept so that its id stays unique.
_BUILT: dict[int, tuple[Any, Built]] = {}
_BASES: dict[int, tuple[Any, Any]] = {}


@lru_cache(maxsize=1)
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="sft-exports-")


def new_folder() -> Path:
    """An empty folder."""
    return Path(tempfile.mkdtemp(dir=_root().name))


def copied(folder: Path, *, without: Iterable[str] = ()) -> Path:
    """A copy of a folder to break: files are links, so replace them, never write into them."""
    target = new_folder()
    left_out = shutil.ignore_patterns(*without)
    shutil.copytree(folder, target, copy_function=os.link, dirs_exist_ok=True, ignore=left_out)
    return target


def ends(record: RunRecord) -> list[int]:
    """Ids that end the answers of a record."""
    truths = [o for o in record.oracles if isinstance(o, Oracle)]
    found = {o.ids[t.stop] for o in truths for t in o.turns if t.stop is not None}
    return sorted(found) or [record.tokenizer.eos_token_id]


def tiny(record: RunRecord, *, seed: int = 17) -> Any:
    """A random one-layer Llama whose logits are far apart, with the record's vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = record.tokenizer
    config = LlamaConfig(
        vocab_size=max([len(tokenizer), *(i + 1 for i in tokenizer.added_tokens_decoder)]),
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=16_384,
        initializer_range=0.4, eos_token_id=ends(record), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    model.name_or_path = BASE_NAME
    return model


def base_of(record: RunRecord) -> Any:
    """The tiny model of a record's tokenizer, made once."""
    key = id(record.tokenizer)
    if key not in _BASES:
        _BASES[key] = (record.tokenizer, tiny(record))
    return _BASES[key][1]


def adapted(base: Any, *, seed: int = 18, **options: Any) -> Any:
    """A trained LoRA on a copy of `base`; every lora_B is far from zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM",
                      base_model_name_or_path=BASE_NAME, **options)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(copy.deepcopy(base), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def save(model: Any, folder: Path, record: RunRecord | None = None) -> Path:
    """Save an adapter or a model; with a record also its tokenizer and its manifest."""
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, **options)
    if record is not None:
        record.tokenizer.save_pretrained(folder)
        artefact.write_manifest(folder, record)
    return folder


def built(record: RunRecord) -> Built:
    """The tiny model of a record's tokenizer and its exports, made once."""
    key = id(record.tokenizer)
    if key not in _BUILT:
        base = base_of(record)
        model = adapted(base)
        trained = record.change(model=model, base_model=base)
        merged = copy.deepcopy(model).merge_and_unload()
        found = Built(
            base=base,
            adapted=model,
            merged=merged,
            adapter_folder=save(model, new_folder(), trained),
            merged_folder=save(merged, new_folder(), trained),
        )
        _BUILT[key] = (record.tokenizer, found)
    return _BUILT[key][1]


def load_adapter(base: Any, folder: Path) -> Any:
    """The adapter of a folder on a copy of a base, as a server loads it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def with_adapter(record: RunRecord) -> RunRecord:
    """The record of a run that hands over an adapter."""
    one = built(record)
    served = load_adapter(one.base, one.adapter_folder)
    return _handed_over(record, one, one.adapter_folder, served)


def with_merge(record: RunRecord) -> RunRecord:
    """The record of a run that hands over merged weights."""
    one = built(record)
    return _handed_over(record, one, one.merged_folder, one.merged)


def _handed_over(record: RunRecord, one: Built, folder: Path, served: Any) -> RunRecord:
    """A record after training, with everything declared."""
    about = artefact.read(one.adapter_folder, artefact.MANIFEST)
    declared = {k: about[k] for k in ("base_sha256", "adapter_sha256")}
    return record.change(
        export=folder,
        model=one.adapted,
        base_model=one.base,
        served_model=served,
        golden=artefact.golden_ids(record)[:10],
        declared={**record.declared, **declared},
    )


def four_bit(base: Any) -> Any:
    """A copy of a model whose linear layers are stored as NF4."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    model = copy.deepcopy(base)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    for name, layer in layers:
        if name == "lm_head":
            continue
        parent, _, child = name.rpartition(".")
        packed = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4",
                            compute_dtype=torch.float32)  # fmt: skip
        weight = Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
        packed.weight = weight.to("cpu")
        packed.support_avx512bf16_for_cpu = False
        setattr(model.get_submodule(parent), child, packed)
    model.is_loaded_in_4bit = True
    model.config.quantization_config = dict(NF4)
    return model.eval()


def with_4bit(record: RunRecord) -> RunRecord:
    """The record of a QLoRA run whose merge dequantised the training base."""
    one = built(record)
    base = four_bit(one.base)
    model = adapted(base)
    served = merge_into(copy.deepcopy(one.base), model)
    return record.change(model=model, base_model=base, served_model=served)


def on_adapter(change: Change) -> Change:
    """Plant a fault in a healthy adapter export of the record."""
    return lambda record: change(with_adapter(record))


def on_merge(change: Change) -> Change:
    """Plant a fault in a healthy merged export of the record."""
    return lambda record: change(with_merge(record))


def declare(record: RunRecord, **facts: Any) -> RunRecord:
    """The record with more declared facts."""
    return record.change(declared={**record.declared, **facts})


def observe(record: RunRecord, **facts: Any) -> RunRecord:
    """The record with more observed facts."""
    return record.change(observed={**record.observed, **facts})


def config_of(record: RunRecord, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of the export, read without the preflight."""
    return json.loads((record.export / name).read_text(encoding="utf-8"))


def edit_json(record: RunRecord, name: str, **values: Any) -> RunRecord:
    """The record with values in a JSON file of its export replaced; None removes one."""
    folder = copied(record.export)
    found = {**config_of(record, name), **values}
    write_json(folder / name, {k: v for k, v in found.items() if v is not None})
    return record.change(export=folder)


def without(record: RunRecord, *patterns: str) -> RunRecord:
    """The record with files of its export left out."""
    return record.change(export=copied(record.export, without=patterns))


def save_tensors(folder: Path, name: str, tensors: dict[str, Any]) -> None:
    """Replace a weight file; the old one may be shared with other folders."""
    from safetensors.torch import save_file

    (folder / name).unlink(missing_ok=True)
    save_file({k: v.clone() for k, v in tensors.items()}, folder / name)


def with_adapter_tensors(record: RunRecord, tensors: dict[str, Any]) -> RunRecord:
    """The record with another adapter file in its export."""
    folder = copied(record.export)
    save_tensors(folder, "adapter_model.safetensors", tensors)
    return record.change(export=folder)


def distance(one: Any, two: Any, record: RunRecord) -> float:
    """KL between two models on answers of the record, nats."""
    rows = probes(record)
    return likeness(answer_logits(one, rows), answer_logits(two, rows)).kl


def export_mutator(
    code: str, name: str, apply: Change, alive: Callable[[RunRecord, RunRecord], bool], **more: Any
) -> Mutator:
    """One fault of an export."""
    return Mutator(id=code, name=name, layer="export", apply=apply, alive=alive, **more)
