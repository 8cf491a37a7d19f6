"""Write a merged Llama-type model as one GGUF file for llama.cpp, and read it back.

llama.cpp's own converter is a script outside any package. The writer it uses is a package (`gguf`);
what remains is the names of tensors, one permutation, and the vocabulary.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_utils.artifacts import storage_error
from sft_utils.errors import ModelError

ARCHITECTURES = ("llama",)
"""Model types whose tensors `write` lays out."""

SPLITS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
"""Pre-tokenizers, and the names llama.cpp knows them by."""

PLAIN = {"add_prefix_space": False, "use_regex": True, "individual_digits": True}
"""Their options, as llama.cpp has them."""


def obstacle(config: Any, tokenizer: Any) -> str:
    """Why `write` cannot describe a model in a GGUF file, in a few words; empty if it can.

    llama.cpp builds a model from the keys of the file: what they do not say, it computes as a plain
    Llama does, and answers worse without an error.

    Args:
        config: Configuration of the model.
        tokenizer: The one that is served, with its template.
    """
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"model type {config.model_type!r} is not laid out here; known: {known}"
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    head, even = _head(config), config.hidden_size // config.num_attention_heads
    found = [
        f"rope type {rope!r}" if rope != "default" else "",
        "attention_bias" if config.attention_bias else "",
        "mlp_bias" if config.mlp_bias else "",
        f"activation {config.hidden_act!r}" if config.hidden_act != "silu" else "",
        f"heads of {head} instead of {even}" if head != even else "",
        _unknown_words(tokenizer, config.vocab_size),
        "" if tokenizer.chat_template else "a tokenizer without chat template",
    ]
    named = "; ".join(why for why in found if why)
    return f"not laid out here: {named}" if named else ""


def _unknown_words(tokenizer: Any, size: int) -> str:
    """What of a tokenizer llama.cpp would not do; empty if nothing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        return f"{type(tokenizer).__name__}, which has no tokenizer.json"
    state = json.loads(backend.to_str())
    model, steps = state["model"], _split(state)
    kinds = tuple(step["type"] for step in steps)
    normalizer = state["normalizer"] or {}
    if model["type"] != "BPE" or kinds not in SPLITS:
        return f"vocabulary {model['type']} with pre-tokenizer {' + '.join(kinds) or 'none'}"
    for step in steps:  # gpt-2 and smollm of llama.cpp split in one way each
        for option, value in PLAIN.items():
            if step.get(option, value) != value:
                return f"pre-tokenizer {step['type']} with {option}={step[option]}"
    if normalizer.get("normalizers", [normalizer]) not in ([], [{}]):
        return f"normalizer {normalizer['type']}"
    if model.get("ignore_merges"):
        return "a vocabulary with ignore_merges"
    last = max(tokenizer.get_vocab().values())
    return f"token {last} in an embedding of {size} rows" if last >= size else ""


def _split(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, which may be none."""
    splits = state["pre_tokenizer"] or {"pretokenizers": []}
    return list(splits.get("pretokenizers", [splits]))


def _head(config: Any) -> int:
    """Size of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def permuted(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection in llama.cpp's order.

    transformers rotates the two halves of a head, llama.cpp neighbours: row i of the first half
    and row i of the second half come to lie side by side.

    Args:
        weight: NumPy array (heads * D, H).
        heads: Query heads, or key heads for a key projection.
    Example:
        >>> import numpy as np
        >>> permuted(np.arange(8).reshape(8, 1), heads=2).ravel().tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def write(
    path: Path, tensors: Iterable[tuple[str, Any]], config: Any, tokenizer: Any, *,
    kind: str, name: str,
) -> None:  # fmt: skip
    """Write one GGUF file with weights, vocabulary, special tokens and chat template.

    Args:
        path: The file; replaced.
        tensors: Names as in transformers, float32 tensors (`merging.made`).
        config: Configuration of the model.
        tokenizer: Byte-level BPE with the template that is served.
        kind: "F32", "F16" or "Q8_0"; one-dimensional weights stay F32.
        name: Public name of the model.
    Raises:
        ModelError: A model or tokenizer that this layout does not describe (`obstacle`).
        StorageError: The disk is full.
    """
    import gguf

    if why := obstacle(config, tokenizer):
        raise ModelError(f"{path.name}: {why}. Use convert_hf_to_gguf.py of llama.cpp.")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    qtype = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    _describe(
        writer,
        config,
        name,
        gguf.LlamaFileType[f"ALL_{kind}" if kind == "F32" else f"MOSTLY_{kind}"],
    )
    _vocabulary(writer, tokenizer, config.vocab_size)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in tensors:
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"GGUF has no place for {key}")
        array = tensor.detach().float().cpu().numpy()
        layer = key.split(".")[-2]
        if layer in heads:
            array = permuted(array, heads[layer])
        if array.ndim == 1:
            writer.add_tensor(target, array)
        else:
            writer.add_tensor(target, gguf.quants.quantize(array, qtype), raw_dtype=qtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as error:
        raise storage_error(path, error) from error


def _describe(writer: Any, config: Any, name: str, file_type: Any) -> None:
    """The shape of the model, under llama.cpp's keys."""
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(_head(config))
    writer.add_vocab_size(config.vocab_size)


def _vocabulary(writer: Any, tokenizer: Any, size: int) -> None:
    """Tokens, merges, special tokens and the template."""
    from gguf import TokenType

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {i: text for text, i in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    types = []
    for i in range(size):
        if i not in tokens:
            types.append(TokenType.UNUSED)
        elif i in added:
            types.append(TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLITS[tuple(step["type"] for step in _split(state))])
    writer.add_token_list([tokens.get(i, f"[unused{i}]") for i in range(size)])
    writer.add_token_types(types)
    writer.add_token_merges(
        [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    )
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if token is not None:
            add(token)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def read_model(path: Path, *, dtype: Any) -> Any:
    """The model of a GGUF file by transformers' own loader, weights dequantised."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.generation_config.do_sample = False
    return model.eval()


def read_facts(path: Path) -> dict[str, Any]:
    """What a GGUF file says about stopping, template and vocabulary."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    keys = {"eos": "tokenizer.ggml.eos_token_id", "template": "tokenizer.chat_template",
            "tokens": "tokenizer.ggml.tokens", "merges": "tokenizer.ggml.merges"}  # fmt: skip
    return {name: fields[key].contents() for name, key in keys.items()}
