"""Predicted bytes against known models on the meta device and real quantised layers; refusals."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from sft_utils.config import PROFILES
from sft_utils.errors import ConfigError
from sft_utils.runtime import GIB
from sft_utils.train import memory

SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads", "num_key_value_heads")  # fmt: skip


def config(kind, *sizes, tied):
    return kind(**dict(zip(SHAPE, sizes, strict=True)), tie_word_embeddings=tied)


# Written by hand from the models' cards; the last number is the parameter count published there.
KNOWN = {
    "SmolLM2-135M": (config(LlamaConfig, 49152, 576, 1536, 30, 9, 3, tied=True), 134_515_008),
    "Qwen2.5-1.5B": (config(Qwen2Config, 151936, 1536, 8960, 28, 12, 2, tied=True), 1_543_714_304),
    "Qwen2.5-7B": (config(Qwen2Config, 152064, 3584, 18944, 28, 28, 4, tied=False), 7_615_616_512),
    "Llama-3.1-8B": (config(LlamaConfig, 128256, 4096, 14336, 32, 32, 8, tied=False), 8_030_261_248),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_on_the_meta_device(name):
    shapes, published = KNOWN[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shapes, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == published
    assert memory.weight_bytes(shapes, 16) == 2 * published
    assert memory.weight_bytes(shapes, 32) == 4 * published
    linear = sum(m.weight.numel() for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear))
    expected = linear * (1 / 2 + 1 / 64) + 2 * (published - linear)
    assert memory.weight_bytes(shapes, 4) == pytest.approx(expected, rel=0.01)


def test_adapters_on_the_meta_device():
    from peft import LoraConfig, get_peft_model

    shapes, _ = KNOWN["Llama-3.1-8B"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shapes, dtype=torch.bfloat16)
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    trainable, _ = model.get_nb_trainable_parameters()
    budget = memory.predict(shapes, rank=16, batch_size=1, tokens=8, adapter_bytes=4)
    assert budget.adapter == trainable * 4 * 4  # weights, gradients, two moments


@pytest.mark.parametrize(("out", "inner"), [(512, 576), (192, 1536), (4096, 512)])
def test_nf4_bytes_are_what_bitsandbytes_stores(out, inner):
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(
        inner, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
        compress_statistics=True,
    ).to("cpu")  # fmt: skip
    if layer.weight.quant_state is None:
        layer.weight = layer.weight._quantize("cpu")
    stored = memory.storage_bytes([layer.weight])
    assert layer.weight.dtype == torch.uint8
    assert memory.nf4_bytes(out, inner) == pytest.approx(stored, rel=0.01)


def rows(*lengths):
    return [{"input_ids": [1] * n, "labels": [1] * n} for n in lengths]


def test_the_longest_batch_is_found_in_real_rows():
    many = rows(10, 400, 30, 390, 20)
    assert memory.longest_batch(many, 2) == memory.Batch(rows=2, tokens=400, padded=True)
    assert memory.longest_batch(many, 8).rows == 5, "there are no more"
    assert not memory.longest_batch(many, 1).padded, "a row alone has no padding"
    assert not memory.longest_batch(rows(7, 7, 7), 2).padded
    with pytest.raises(ConfigError, match="no rows"):
        memory.longest_batch([], 2)


def test_one_long_row_decides():
    shapes, _ = KNOWN["Llama-3.1-8B"]
    short, long = rows(*[200] * 50), rows(*[200] * 49, 4000)
    options = {"rank": 16, "batch_size": 8, "bits": 4, "checkpointing": True}
    need = [memory.predict_rows(shapes, r, **options).total_gib for r in (short, long)]
    memory.require_fit(memory.predict_rows(shapes, short, **options), 1.2 * need[0])
    with pytest.raises(ConfigError, match=r"predicted .* GiB .* Lower batch_size"):
        memory.require_fit(memory.predict_rows(shapes, long, **options), 1.2 * need[0])


@pytest.mark.parametrize("name", [n for n, p in PROFILES.items() if p.is_gpu])
def test_every_gpu_profile_fits_its_machine_and_not_a_smaller_one(name):
    """At the longest rows it allows, padded."""
    profile = PROFILES[name]
    shapes, _ = KNOWN[profile.model.split("/")[1].removesuffix("-Instruct")]
    budget = memory.predict(
        shapes, rank=16, batch_size=profile.batch_size, tokens=profile.max_length,
        bits=profile.bits, attention=profile.attention,
        checkpointing=profile.gradient_checkpointing,
        adapter_bytes=4 if profile.precision == "fp16" else 2,
    )  # fmt: skip
    memory.require_fit(budget, profile.vram_gib)
    with pytest.raises(ConfigError, match="predicted"):
        memory.require_fit(budget, budget.weights / GIB)


def test_gpu_profiles_are_complete():
    for name, profile in PROFILES.items():
        assert profile.bits == {"nf4": 4, "none": 16}[profile.quantization]
        if not profile.is_gpu:
            continue
        assert profile.revision, name
        assert len(profile.revision) == 40, "a commit, not a branch"
        assert profile.vram_gib > 0
        assert profile.min_gpus >= (2 if name == "multi-gpu" else 1)
    assert PROFILES["gpu-16gb"].precision == "fp16", "a T4 has no bf16"


def test_peak_is_the_highest_point_and_not_the_sum():
    one, three = 2**20, 3 * 2**20

    def work():
        a = torch.empty(one, dtype=torch.uint8)
        b = torch.empty(one, dtype=torch.uint8)
        del a, b
        c = torch.empty(three, dtype=torch.uint8)
        del c
        return torch.empty(one, dtype=torch.uint8)

    assert memory.peak_rise(work) == pytest.approx(three, rel=0.01)


def test_storage_is_counted_once():
    base = torch.zeros(1000, dtype=torch.float32)
    assert memory.storage_bytes([base, base[:10], base.view(10, 100)]) == 4000
