"""Faults of served weights: merged, quantised, cast, on another base."""

import copy
from typing import Any

from sft_utils.preflight import artefact
from sft_utils.preflight.compare import artefact_hash
from sft_utils.preflight.record import RunRecord
from tests.mutation import exports
from tests.mutation.exports import export_mutator, on_adapter, on_merge
from tests.mutation.frame import Mutator


def merged_in_4bit(record: RunRecord) -> RunRecord:
    """`merge_and_unload` on 4-bit layers: the sum is rounded to 4 bits again."""
    record = exports.with_4bit(record)
    return record.change(served_model=copy.deepcopy(record.model).merge_and_unload())


def merged_into_original(record: RunRecord) -> RunRecord:
    """A QLoRA adapter merged into the weights from before quantisation."""
    record = exports.with_4bit(record)
    on_original = exports.adapted(exports.built(record).base)  # the same seed: the same adapter
    return record.change(served_model=on_original.merge_and_unload())


def other_merge(record: RunRecord) -> RunRecord:
    """Merged with half of the adapter's scale."""
    half = copy.deepcopy(record.model)
    for name, parameter in half.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.5)
    return record.change(served_model=half.merge_and_unload())


def far_apart(_: RunRecord, after: RunRecord) -> bool:
    """Whether trained and served model compute different answers."""
    return exports.distance(after.model, after.served_model, after) > exports.FLOOR


def fp4_served(record: RunRecord) -> RunRecord:
    """Trained on nf4, exported as fp4."""
    record = exports.with_4bit(record).change(served_model=None)
    other = {**exports.NF4, "bnb_4bit_quant_type": "fp4"}
    return exports.edit_json(record, "config.json", quantization_config=other)


def norms_cast(record: RunRecord) -> RunRecord:
    """Norms are cast to bf16 for serving only."""
    import torch

    served = copy.deepcopy(record.served_model)
    for name, parameter in served.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return record.change(served_model=served)


def norm_dtypes(model: Any) -> set[str]:
    """Dtypes of the norms of a model."""
    return {str(p.dtype) for n, p in model.named_parameters() if "norm" in n}


def wrong_base(record: RunRecord) -> RunRecord:
    """The adapter is loaded on weights of the same shape from another run."""
    other = exports.tiny(record, seed=99)
    served = exports.load_adapter(other, record.export)
    return record.change(base_model=other, served_model=served)


def base_differs(_: RunRecord, after: RunRecord) -> bool:
    """Whether the embedding under the served adapter is not the trained one."""
    ours, theirs = (m.get_base_model().get_input_embeddings().weight
                    for m in (after.model, after.served_model))  # fmt: skip
    return bool((ours != theirs).any())


def scored_before(record: RunRecord) -> RunRecord:
    """The scores are those of the adapter, handed over is the merge."""
    return exports.observe(
        record, evaluated_sha256=artefact_hash(exports.built(record).adapter_folder)
    )


def untied(record: RunRecord) -> RunRecord:
    """The head was trained apart, the exported config still ties it."""
    from safetensors.torch import load_file

    folder = exports.copied(record.export)
    tensors = load_file(folder / "model.safetensors")
    table = next(v for k, v in tensors.items() if k.endswith("embed_tokens.weight"))
    exports.save_tensors(folder, "model.safetensors", {**tensors, "lm_head.weight": table * 1.5})
    return exports.edit_json(record.change(export=folder), "config.json", tie_word_embeddings=True)


def head_lost(record: RunRecord) -> RunRecord:
    """Head and embedding were trained apart; the served model has the embedding for both."""
    import torch

    base = record.base_model
    model = exports.adapted(base, modules_to_save=["embed_tokens", "lm_head"])
    with torch.no_grad():
        model.get_output_embeddings().modules_to_save["default"].weight.mul_(1.5)
    served = copy.deepcopy(record.served_model)
    return record.change(model=model, served_model=served, export=None)


def heads_differ(_: RunRecord, after: RunRecord) -> bool:
    """Whether two different heads are stored, or trained and then lost."""
    if after.export is not None:
        tensors = artefact.stored(after.export)
        n = artefact.head(tensors).shape[0]
        head, table = artefact.head(tensors).read(0, n), artefact.embedding(tensors).read(0, n)
        return bool((head != table).any()) and exports.config_of(after)["tie_word_embeddings"]
    output = after.model.get_output_embeddings().modules_to_save["default"].weight
    table = after.model.get_input_embeddings().modules_to_save["default"].weight
    return bool((output != table).any())


def exported_type(record: RunRecord) -> str:
    """The 4-bit type in the exported config."""
    return exports.config_of(record)["quantization_config"]["bnb_4bit_quant_type"]


MUTATORS: tuple[Mutator, ...] = (
    export_mutator("Q1", "merged-in-4bit", merged_in_4bit, far_apart),
    export_mutator("Q1", "merged-at-half-scale", on_merge(other_merge), far_apart),
    export_mutator("Q2", "merged-into-original", merged_into_original, far_apart, severity="WARN"),
    export_mutator("Q3", "served-as-fp4", on_merge(fp4_served),
                   lambda _, r: exported_type(r)
                   != r.model.config.quantization_config["bnb_4bit_quant_type"]),
    export_mutator("Q4", "norms-cast-for-serving", on_merge(norms_cast),
                   lambda _, r: norm_dtypes(r.model) != norm_dtypes(r.served_model),
                   severity="WARN"),
    export_mutator("Q5", "adapter-on-wrong-base", on_adapter(wrong_base), base_differs),
    export_mutator("Q6", "scored-before-merge", on_merge(scored_before),
                   lambda _, r: r.observed["evaluated_sha256"] != artefact_hash(r.export),
                   severity="WARN"),
    export_mutator("O12", "exported-head-untied", on_merge(untied), heads_differ),
    export_mutator("O12", "trained-head-lost", on_merge(head_lost), heads_differ),
)  # fmt: skip
