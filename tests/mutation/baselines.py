"""What one would have without the preflight: TRL's own exceptions and warnings, or a look at -100."""

import tempfile
from collections.abc import Sequence
from typing import Any

from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.capture import library_warnings
from sft_utils.preflight.cli import stand_in
from sft_utils.preflight.collated import batch_rows
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, Subject, rows_of


def sees_fully_masked(record: RunRecord) -> bool:
    """The check most people write: is there a row in which no label is trained?"""
    return any(
        all(label == IGNORE for label in labels)
        for batch in record.train_batches
        for _, labels in batch_rows(batch)
    )


def trl_says(record: RunRecord) -> list[str]:
    """Exceptions and warnings of TRL for the rows of a record, one optimizer step included."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = record.train_tokenizer or record.tokenizer
    model = record.model if record.model is not None else stand_in(tokenizer)
    with tempfile.TemporaryDirectory() as folder, library_warnings() as said:
        try:
            arguments = SFTConfig(
                output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False,
                report_to="none", disable_tqdm=True, max_steps=1, save_strategy="no",
                per_device_train_batch_size=2, logging_strategy="no",
                learning_rate=getattr(record.arguments, "learning_rate", None) or 2e-4,
                warmup_steps=getattr(record.arguments, "warmup_steps", None) or 0,
            )  # fmt: skip
            rows = Dataset.from_list(rows_of(record)[:4])
            SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
        except Exception as error:  # whatever it raises would have stopped the user
            said.append(f"{type(error).__name__}: {error}")
    return [text.split("\n")[0][:120] for text in said]


def trl_alone(mutators: Sequence[Mutator], chosen: Sequence[Subject]) -> dict[str, Any]:
    """One mutant per fault through TRL: did it say anything that it does not say when healthy?

    Rows arrive as this project hands them over, tokenised with labels; faults that live in another
    place of the run (export, evaluation) are beyond TRL and count as missed.
    """
    seen: dict[str, str] = {}
    total = 0
    healthy = {id(s): {_kind(t) for t in trl_says(s.record)} for s in chosen}
    for mutator in mutators:
        subject = next((s for s in chosen if mutator.applies(s)), None)
        if subject is None or mutator.severity != "FAIL":
            continue
        broken = mutator.apply(subject.record)
        if not mutator.alive(subject.record, broken):
            continue
        total += 1
        if mutator.layer in ("export", "evaluation", "stack"):
            continue
        new = [t for t in trl_says(broken) if _kind(t) not in healthy[id(subject)]]
        if new:
            seen[mutator.name] = new[0]
    return {"mutants": total, "caught": len(seen), "recall": len(seen) / total, "said": seen}


def _kind(text: str) -> str:
    """A message without its numbers."""
    return "".join(c for c in text if not c.isdigit())[:60]
