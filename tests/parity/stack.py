"""Small runs of the pinned stack, what its libraries say meanwhile, and advice when a fact flips."""

import contextlib
import copy
import importlib.metadata
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trl
from accelerate.logging import MultiProcessAdapter
from datasets import Dataset
from peft import LoraConfig
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from sft_utils.preflight.capture import library_warnings

VERSIONS = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("trl", "transformers", "peft", "datasets", "accelerate", "bitsandbytes")
)

HARMLESS = "Flash Attention variant"
"""Part of what is said about every packed run without FlashAttention. SDPA keeps documents apart
as well, as the packing test in test_trl_prevents.py shows."""

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The served format without a default system turn, answers marked."""

STOP_OUTSIDE = CHATML.replace(
    "m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    "m.content }}{% endgeneration %}{{ '<|im_end|>\n' }}",
)
"""CHATML whose stop token is outside the marked answer."""

PREFILLED = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
"""CHATML whose generation prompt opens a thought that no training row has."""

SETTINGS = frozenset(SFTConfig.__dataclass_fields__)


def chat(user: str = "Capital of France?", answer: str = "Paris") -> list[dict[str, str]]:
    """A question and its answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


ROWS = [{"messages": chat()}, {"messages": chat("Capital of Peru?", "Lima, on the coast")}]
PAIRS = [{"prompt": r["messages"][:1], "completion": r["messages"][1:]} for r in ROWS]


def tokens(first: int, n: int, supervised: int) -> dict[str, list[int]]:
    """A pre-tokenised row of `n` ids counting up from `first`; the last `supervised` carry loss."""
    ids = list(range(first, first + n))
    return {"input_ids": ids, "labels": [-100] * (n - supervised) + ids[n - supervised :]}


def family(name: str) -> str:
    """A chat template that TRL ships."""
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    return path.read_text(encoding="utf-8")


def variant(tokenizer, template: str | None = None, **attributes: str):
    """A copy of a tokenizer with another template or other special tokens."""
    copied = copy.deepcopy(tokenizer)
    if template is not None:
        copied.chat_template = template
    for name, value in attributes.items():
        setattr(copied, name, value)
    return copied


def with_bos(tokenizer):
    """A tokenizer that begins every text with BOS, and so does its template (Llama, Gemma)."""
    bos = "<file_sep>"
    copied = variant(tokenizer, "{{ bos_token }}" + CHATML, bos_token=bos)
    copied.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, copied.bos_token_id)]
    )
    assert copied("x")["input_ids"][0] == copied.bos_token_id
    return copied


def lora(**options) -> LoraConfig:
    """A small adapter on all linear layers."""
    defaults = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**defaults, **options})


def nf4(model, folder: Path):
    """The same model with 4-bit weights."""
    model.save_pretrained(folder)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, device_map={"": "cpu"}
    )


def build(rows, *, model, tokenizer, folder: Path, kind=SFTTrainer, **options):
    """A trainer for one step; options that are no setting of SFTConfig go to the trainer."""
    config = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none",
        "disable_tqdm": True, "gradient_checkpointing": False, "save_strategy": "no",
        "max_length": 400, "per_device_train_batch_size": 2, "max_steps": 1, "logging_steps": 1,
        **{k: v for k, v in options.items() if k in SETTINGS},
    }  # fmt: skip
    extra = {k: v for k, v in options.items() if k not in SETTINGS}
    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return kind(model, SFTConfig(**config), train_dataset=data, processing_class=tokenizer, **extra)


def batches(trainer) -> list[dict]:
    """The training batches after the collator."""
    return list(trainer.get_train_dataloader())


def trained_text(tokenizer, row) -> str:
    """The text of a prepared row that carries loss."""
    return tokenizer.decode([t for t in row["labels"] if t != -100])


def snapshot(model) -> dict:
    """Copies of all weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what the libraries say, even what they say only once per process."""
    MultiProcessAdapter.warning_once.cache_clear()
    transformers_logging.warning_once.cache_clear()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.WARNING)  # another test may have silenced it
    try:
        with library_warnings() as said:
            yield said
    finally:
        logger.setLevel(level)


def heard(said: list[str], text: str) -> bool:
    """Whether one of the messages holds a text."""
    return any(text in message for message in said)


@dataclass(frozen=True, slots=True)
class Silent:
    """One thing that the pinned stack does without a word, and what of ours exists because of it."""

    guard: str  # "detector M1"
    does: str  # what the stack does, present tense

    @contextlib.contextmanager
    def unsaid(self) -> Iterator[None]:
        """Run library calls; fail with advice if they raise or say anything."""
        __tracebackhide__ = True
        try:
            with listening() as said:
                yield
        except Exception as error:  # whatever it is, the call is no longer accepted
            self._flip(f"it is rejected with {type(error).__name__}: {error}", error)
        news = [message for message in said if HARMLESS not in message]
        if news:
            self._flip(f"the libraries say {news}")

    def holds(self, fact: bool) -> None:
        """Fail with advice unless the stack still does it."""
        __tracebackhide__ = True
        if not fact:
            self._flip("the result is another one")

    def _flip(self, now: str, cause: Exception | None = None) -> None:
        __tracebackhide__ = True
        raise AssertionError(
            f"Until now: {self.does}, silently. With {VERSIONS} {now}.\n"
            f"If the release fixed it, delete our {self.guard} and this test, or keep both for the "
            "older versions that we support. If an interface only changed, repair this test."
        ) from cause
