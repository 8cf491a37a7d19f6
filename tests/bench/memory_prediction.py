"""Predicted against measured peak of real training steps on a CPU (allocated bytes).

    python -m tests.bench.memory_prediction outputs/reference/memory.json

tests/parity/test_memory_peak.py asserts that every case is predicted within `BOUND`.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from sft_utils import runtime

runtime.quiet()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    Qwen2Config,
)
from trl import SFTConfig, SFTTrainer  # noqa: E402

from sft_utils import basemodel  # noqa: E402
from sft_utils.config import get_profile  # noqa: E402
from sft_utils.model import modeling  # noqa: E402
from sft_utils.train import memory, training  # noqa: E402

BOUND = 0.15
MIB = 2**20
SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads", "num_key_value_heads")  # fmt: skip


def small(kind, *sizes, tied):
    return kind(**dict(zip(SHAPE, sizes, strict=True)), tie_word_embeddings=tied, pad_token_id=0,
                bos_token_id=1, eos_token_id=2)  # fmt: skip


SHAPES = {
    "bundled": lambda: AutoConfig.from_pretrained(basemodel.bundled_model()),
    "smol": lambda: small(LlamaConfig, 49152, 576, 1536, 8, 9, 3, tied=True),
    "qwen": lambda: small(Qwen2Config, 16384, 512, 2816, 6, 8, 2, tied=True),
    "llama": lambda: small(LlamaConfig, 16384, 512, 1792, 6, 8, 2, tied=False),
    "narrow": lambda: small(LlamaConfig, 2048, 512, 1792, 6, 8, 2, tied=False),  # logits are cheap
}

# name -> shape, bits, attention, checkpointing, rows, tokens, and what differs besides
CASES = {
    "03 at cpu": ("bundled", 4, "eager", False, 2, 160, {"loss_chunk": 64}),
    "05 at cpu": ("bundled", 16, "eager", False, 2, 160, {"loss_chunk": 64}),
    "logits decide": ("smol", 16, "sdpa", True, 2, 256, {}),
    "nf4, checkpointing": ("smol", 4, "sdpa", True, 2, 256, {}),
    "padded rows": ("smol", 16, "sdpa", False, 2, 256, {"padded": True}),
    "biases": ("qwen", 16, "sdpa", False, 2, 768, {}),
    "eager, long": ("qwen", 16, "eager", False, 2, 512, {}),
    "nf4": ("llama", 4, "sdpa", False, 2, 768, {}),
    "float32 adapter": ("llama", 16, "sdpa", False, 2, 768, {"adapter_bytes": 4}),
    "short rows": ("llama", 16, "sdpa", False, 2, 64, {}),
    "a layer decides": ("narrow", 16, "sdpa", True, 2, 1024, {}),
    "a layer decides, nf4, padded": ("narrow", 4, "sdpa", True, 2, 1024, {"padded": True}),
    "a layer decides, eager": ("narrow", 16, "eager", True, 2, 512, {}),
    "a layer decides, float32 adapter": ("narrow", 16, "sdpa", True, 2, 1024, {"adapter_bytes": 4}),
    "float32": ("narrow", 32, "sdpa", False, 2, 512, {"adapter_bytes": 4}),
    "rank 64, four rows": ("narrow", 16, "sdpa", False, 4, 256, {"rank": 64}),
}


def load(shape, bits, attention, folder):
    """The base of a case: the bundled model, or random weights."""
    source = basemodel.bundled_model()
    if shape != "bundled":
        source = folder / "base"
        dtype = torch.float32 if bits == 32 else torch.bfloat16
        AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=dtype).save_pretrained(source)
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32 if bits == 32 else torch.bfloat16, device_map={"": "cpu"},
        attn_implementation=attention, quantization_config=four if bits == 4 else None,
    )  # fmt: skip
    modeling.guard_nf4(model)
    return model


def measure(name):
    """Train two steps of a case; returns measured and predicted MiB and their ratio."""
    shape, bits, attention, checkpointing, n, tokens, extra = CASES[name]
    options = {"rank": 16, "padded": False, "adapter_bytes": 2, "autocast": False, **extra}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        model = load(shape, bits, attention, Path(scratch))
        model = get_peft_model(
            model, LoraConfig(r=options["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
        )
        if options["adapter_bytes"] == 2:
            modeling.to_bf16_adapter(model)
        lengths = [tokens, *[tokens // 2 if options["padded"] else tokens] * (n - 1)] * 2
        vocabulary = model.config.vocab_size
        rows = [{"input_ids": torch.randint(3, vocabulary, (k,)).tolist()} for k in lengths]
        rows = [r | {"labels": [-100] * (len(r["input_ids"]) // 2)
                     + r["input_ids"][len(r["input_ids"]) // 2 :]} for r in rows]  # fmt: skip
        before = training.fit_loss_chunks(options.get("loss_chunk", memory.LOSS_CHUNK))
        try:
            config = SFTConfig(
                output_dir=scratch, use_cpu=True, bf16=False, max_steps=2, max_length=None,
                gradient_checkpointing=checkpointing, per_device_train_batch_size=n,
                report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=100,
                train_sampling_strategy="sequential",
            )  # fmt: skip
            trainer = SFTTrainer(
                model, config, train_dataset=Dataset.from_list(rows),
                processing_class=modeling.load_tokenizer(get_profile("smoke")),
            )  # fmt: skip
            seen = memory.watch(trainer)
            trainer.train()
        finally:
            training.fit_loss_chunks(before)
    budget = memory.predict(
        SHAPES[shape](), batch_size=n, tokens=tokens, bits=bits, attention=attention,
        checkpointing=checkpointing, **options,
    )  # fmt: skip
    predicted, measured = budget.total_gib * 1024, seen["peak_bytes"] / MIB
    return {"measured_mib": measured, "predicted_mib": predicted, "ratio": predicted / measured}


def main(path):
    """Measure every case and write the result file."""
    cases = {}
    for name in CASES:
        began = time.monotonic()
        cases[name] = measure(name)
        print(f"{name:34s} {cases[name]['ratio']:.3f}  {time.monotonic() - began:.1f} s", flush=True)
    result = {"method": "torch CPU allocator, second micro-batch", "bound": BOUND, "cases": cases}
    Path(path).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
