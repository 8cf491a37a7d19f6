"""Faults that show when a model is asked: dropout, adapters that do not act, mixed documents."""

from collections.abc import Callable
from typing import Any

from sft_utils.masks import masking
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, rows_of
from tests.mutation.mutators.models import adapted, fresh, planted, randomise, short_first, spoiled


def judged_in_train_mode(record: RunRecord) -> RunRecord:
    """model.train() before generating."""
    return short_first(record).change(
        model=fresh(record, dropout=0.1), observed={**record.observed, "training_at_eval": True}
    )


def always_drops(model: Any) -> None:
    """Dropout written as a function, without looking at the mode."""
    import torch

    model.get_base_model().model.layers[0].mlp.register_forward_hook(
        lambda m, i, out: torch.nn.functional.dropout(out, 0.5, training=True)
    )
    with torch.no_grad():
        model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight.mul_(50)


def changes_from_call_to_call(before: RunRecord, after: RunRecord) -> bool:
    """Are two forwards in eval mode different?"""
    import torch

    after.model.eval()
    ids = after.train_batches[0]["input_ids"][:1]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        inner = after.model.get_base_model().model
        one, two = (inner(input_ids=ids).last_hidden_state for _ in range(2))
    return not torch.equal(one, two)


def switched_off(model: Any) -> None:
    """disable_adapter_layers, and nobody switches them on again."""
    randomise(model)
    model.base_model.disable_adapter_layers()


def scaled_to_nothing(model: Any) -> None:
    """The trained adapter is active, with scale 0."""
    randomise(model)
    for module in model.modules():
        if hasattr(module, "lora_A") and hasattr(module, "scaling"):
            module.scaling = dict.fromkeys(module.scaling, 0.0)


def other_adapter(model: Any) -> None:
    """A new, empty adapter is the active one."""
    randomise(model)
    model.add_adapter("second", model.peft_config["default"])
    model.set_adapter("second")


def tuned_is_base(before: RunRecord, after: RunRecord) -> bool:
    """Is there a trained adapter whose removal would change nothing?"""
    import torch

    trained = any(bool(p.any()) for n, p in after.model.named_parameters() if ".lora_B." in n)
    plain = fresh(after, targets=None)
    plain.load_state_dict(
        {n.replace("base_model.model.", "").replace(".base_layer", ""): p
         for n, p in after.model.state_dict().items() if "lora_" not in n}
    )  # fmt: skip
    ids = after.train_batches[0]["input_ids"][:1]
    with torch.no_grad():
        inner = after.model.get_base_model().model
        same = torch.equal(inner(input_ids=ids)[0], plain.model(input_ids=ids)[0])
    return trained and same


# Packing


def contaminated(*, positions: bool) -> Callable[[RunRecord], RunRecord]:
    """Packed rows with an attention mask of ones, with or without restarting positions."""

    def apply(record: RunRecord) -> RunRecord:
        import torch

        rows = sorted(rows_of(record), key=lambda r: len(r["input_ids"]))
        batches = []
        for k in range(0, len(rows), 4):
            batch = masking.pack(rows[k : k + 4])
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            if not positions:
                del batch["position_ids"]
            batches.append(batch)
        return record.change(batches=batches, model=adapted(record))

    return apply


def several_in_one(before: RunRecord, after: RunRecord) -> bool:
    """Are there fewer rows than conversations, under a mask that separates nothing?"""
    rows = sum(len(b["input_ids"]) for b in after.train_batches)
    return rows < len(after.conversations) and all(
        bool(b["attention_mask"].all()) for b in after.train_batches
    )


MUTATORS: tuple[Mutator, ...] = (
    planted("O13", "train-mode-at-evaluation", judged_in_train_mode,
            lambda b, a: any(getattr(m, "p", 0) > 0 for m in a.model.modules())),
    planted("O13", "dropout-in-eval-mode", spoiled(always_drops), changes_from_call_to_call),
    planted("O14", "adapter-switched-off", spoiled(switched_off), tuned_is_base),
    planted("O14", "adapter-scaled-to-zero", spoiled(scaled_to_nothing), tuned_is_base),
    planted("O14", "other-adapter-active", spoiled(other_adapter), tuned_is_base, severity="WARN"),
    planted("P5", "packed-under-ones", contaminated(positions=True), several_in_one),
    planted("P5", "wrapped-without-positions", contaminated(positions=False), several_in_one),
)  # fmt: skip
