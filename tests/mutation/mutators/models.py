"""Tiny models, and the small parts that mutators of settings and models share."""

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from sft_utils.masks.chat import Oracle
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, rows_of, with_rows

EVERY = "all-linear"


def fresh(
    record: RunRecord, *, targets: str | Sequence[str] | None = EVERY, layers: int = 1,
    dropout: float = 0.0, rows: int = 0,
) -> Any:  # fmt: skip
    """A random Llama with the vocabulary of a record, and LoRA unless `targets` is None.

    Args:
        rows: Embedding rows, if there should be more than the tokenizer needs.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = record.tokenizer
    needed = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1, rows)
    config = LlamaConfig(
        vocab_size=needed, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        max_position_embeddings=8192, eos_token_id=stops(record) or None,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = LlamaForCausalLM(config)
        model.generation_config.do_sample = False
        if targets is None:
            return model
        wanted = targets if isinstance(targets, str) else list(targets)
        return get_peft_model(
            model,
            LoraConfig(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=wanted,
                       task_type="CAUSAL_LM"),
        )  # fmt: skip


def stops(record: RunRecord) -> list[int]:
    """Ids at which the model of a record stops: as served, else the ends of its turns."""
    if record.stops:
        return sorted(record.stops)
    return sorted({truth.ids[turn.stop] for truth in record.oracles if isinstance(truth, Oracle)
                   for turn in truth.turns if turn.stop is not None})  # fmt: skip


def adapted(record: RunRecord) -> Any:
    """A copy of the adapted model of a record, or a new one."""
    if hasattr(record.model, "peft_config"):
        return copy.deepcopy(record.model)
    return fresh(record)


def arguments(record: RunRecord, **changes: Any) -> SimpleNamespace:
    """The arguments of a record with changes."""
    usual = {"learning_rate": 2e-4, "max_steps": 100, "warmup_steps": 10, "optim": "adamw_torch",
             "lr_scheduler_type": "cosine", "per_device_train_batch_size": 4,
             "gradient_accumulation_steps": 2}  # fmt: skip
    return SimpleNamespace(**{**usual, **vars(record.arguments or SimpleNamespace()), **changes})


def configured(**changes: Any) -> Callable[[RunRecord], RunRecord]:
    """Other training arguments."""
    return lambda record: record.change(arguments=arguments(record, **changes))


def has(**settings: Any) -> Callable[[RunRecord, RunRecord], bool]:
    """Are these the arguments now, and were they not before?"""

    def alive(before: RunRecord, after: RunRecord) -> bool:
        new = all(getattr(after.arguments, k) == v for k, v in settings.items())
        old = before.arguments or SimpleNamespace()
        return new and any(getattr(old, k, None) != v for k, v in settings.items())

    return alive


def facts(*, declared: Any = None, observed: Any = None) -> Callable[[RunRecord], RunRecord]:
    """Other declared and observed facts."""

    def apply(record: RunRecord) -> RunRecord:
        return record.change(
            declared={**record.declared, **(declared or {})},
            observed={**record.observed, **(observed or {})},
        )

    return apply


def differ(name: str) -> Callable[[RunRecord, RunRecord], bool]:
    """Is what was declared another thing than what is in force?"""
    return lambda before, after: after.declared[name] != after.observed[name]


def mutator(code: str, name: str, apply: Any, alive: Any, layer: Any = "config", **more: Any) -> Any:
    """A Mutator in one line."""
    return Mutator(id=code, name=name, layer=layer, apply=apply, alive=alive, **more)


def judged(code: str, name: str, apply: Any, alive: Any, layer: Any = "config") -> Any:
    """A fault of judgement."""
    return mutator(code, name, apply, alive, layer, severity="WARN")


def short_first(record: RunRecord) -> RunRecord:
    """The same rows, the short ones first: the dry run looks at the first batch."""
    return with_rows(record, sorted(rows_of(record), key=lambda r: len(r["input_ids"])))


def spoiled(change: Callable[[Any], None], **options: Any) -> Callable[[RunRecord], RunRecord]:
    """An adapted model that something was done to; the short rows come first."""

    def apply(record: RunRecord) -> RunRecord:
        model = fresh(record, **options) if options else adapted(record)
        change(model)
        return short_first(record).change(model=model, arguments=arguments(record))

    return apply


def planted(code: str, name: str, apply: Any, alive: Any, **more: Any) -> Mutator:
    """A Mutator of a model in one line."""
    return mutator(code, name, apply, alive, "model", **more)


def randomise(model: Any) -> None:
    """Give a LoRA adapter weights as after training."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.5)


def sharpen(model: Any) -> Any:
    """Make a random model certain of something: else every token has the same loss."""
    import torch

    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(40)
    return model


def loss_of(model: Any, record: RunRecord) -> float:
    """The model's own loss on the first batch."""
    import torch

    with torch.no_grad():
        return float(model(**record.train_batches[0]).loss)


class Stub:
    """A trainer reduced to its model, its loss and its loader."""

    model_accepts_loss_kwargs = True
    compute_loss_func = None

    def __init__(self, model: Any, record: RunRecord, *, counted: bool = True,
                 masked: bool = True) -> None:  # fmt: skip
        self.model, self.args, self.record = model, record.arguments, record
        self.counted, self.masked = counted, masked

    def get_train_dataloader(self) -> Any:
        """The batches of the record."""
        return self.record.train_batches

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:  # fmt: skip
        """Cross-entropy, without the mask or the number of labels if so wished."""
        import torch

        labels = inputs.pop("labels") if self.masked else inputs.pop("labels") * 0
        labels = labels if self.masked else inputs["input_ids"]
        logits = model(**inputs, use_cache=False).logits[:, :-1]  # (B, T-1, V)
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum"
        )
        known = (labels[:, 1:] != -100).sum()
        heard = self.counted and self.masked and num_items_in_batch is not None
        return total / (num_items_in_batch if heard else known)
