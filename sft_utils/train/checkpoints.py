"""The folder of a training run: whose it is, and how far it came."""

import dataclasses
import enum
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_utils.artifacts import COMPLETE, IDENTITY, sha256_json
from sft_utils.errors import ConfigError

NO_PART = re.compile(
    r"_|log_|logging_|save_|hub_|push_to_hub|trackio_|report_to$|run_name$|project$|disable_tqdm$|"
    r"local_rank$|resume_from_|base_model_name_or_path$|debug$|skip_memory|dataset_num_proc$|"
    r"dataloader_(num_w|pin|pers|pref)|.*_(dir|path|token)$"
)
"""Settings that decide no weight, or that another process may have otherwise: places, names of
runs, logging, when to save, how many workers load data."""


ROW_PART = re.compile(r"(ids|labels?|masks?)$")


def recipe(trainer: Any) -> dict[str, str]:
    """Hashes of what a trainer would train with: settings, adapter and rows.

    A run id covers code in files. A cell that was edited in an open notebook, and never saved,
    shows only here. The same script started again must give the same hashes.
    """
    model, args = getattr(trainer, "model", None), getattr(trainer, "args", None)
    settings = args if dataclasses.is_dataclass(args) else getattr(args, "__dict__", {})
    adapter = getattr(model, "peft_config", None) or {}
    parts = {"settings": _plain(settings), "adapter": _plain(adapter)}
    rows = _rows(getattr(trainer, "train_dataset", None))
    return {name: sha256_json(part) for name, part in parts.items()} | {"rows": rows}


def as_stored(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as its file gives it back: with lists for tuples, and texts for numbers as keys.

    Compared as it was given, one with a tuple would never be the stored one, and each start of the
    same command would clear what it should continue.

    Raises:
        ConfigError: It holds what JSON cannot.
    """
    try:
        return json.loads(json.dumps(identity, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the identity of a training cannot be stored: {error}. Give texts, finite numbers, "
            "lists and dicts: str(path), or the hash of a file."
        ) from error


def require_output(trainer: Any, folder: Path) -> None:
    """Refuse a trainer that writes elsewhere: its checkpoints would never be found again.

    Raises:
        ConfigError: `output_dir` of its arguments is another folder.
    """
    written = getattr(getattr(trainer, "args", None), "output_dir", None)
    if written is not None and Path(written).resolve() != folder.resolve():
        raise ConfigError(
            f"the trainer writes its checkpoints to {written}, and is to be continued from "
            f"{folder}: after a kill it would begin at step 0. Give both the same folder."
        )


def _plain(value: Any) -> Any:
    """The value as JSON that is equal in every process: no order of a set, address or place.

    Not by `to_dict` of settings: that of transformers changes what they hold.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return "" if os.path.isabs(value) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not NO_PART.match(str(k))}
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=json.dumps)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    text = repr(value)
    return type(value).__qualname__ if isinstance(value, Path) or " at 0x" in text else text


def _rows(dataset: Any) -> str:
    """Hash of token ids, labels and masks; of nothing where rows are streamed or made on demand."""
    digest = hashlib.sha256()
    columns = [c for c in getattr(dataset, "column_names", None) or [] if ROW_PART.search(c)]
    if columns and hasattr(dataset, "__len__") and hasattr(dataset, "with_format"):
        read = dataset.with_format(None).select_columns(sorted(columns))
        for batch in read.iter(batch_size=500):
            digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def last_checkpoint(folder: Path) -> Path | None:
    """Newest complete Trainer checkpoint; half-written ones (killed, disk full) are removed.

    The trainer writes trainer_state.json last, so a folder without it is not complete.
    """
    named = (p for p in Path(folder).glob("checkpoint-*") if p.name.split("-", 1)[1].isdecimal())
    for path in sorted(named, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return None


def clear(folder: Path) -> None:
    """Empty a folder that a run of ours has marked, the marks last: it may be killed here, too.

    Raises:
        ConfigError: Something is there, and no mark says that it is ours.
    """
    marks = (COMPLETE, IDENTITY)
    inside = [p for p in folder.glob("*") if not p.name.startswith(".part-")]
    if inside and not (folder / IDENTITY).exists():
        raise ConfigError(
            f"{folder} holds {inside[0].name!r} and no {IDENTITY}, so it is no training run of "
            "ours and is left alone. Name a new or empty folder, or empty it yourself."
        )
    for path in sorted(inside, key=lambda p: marks.index(p.name) if p.name in marks else -1):
        whole = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path, ignore_errors=True) if whole else path.unlink(missing_ok=True)


def keep_dtypes(trainer: Any) -> None:
    """Make a resumed adapter train in the precision it had.

    TRL casts adapters on 4-bit bases to bf16, but peft 0.21.2 loads a checkpoint's adapter as
    float32: without this, a resumed run silently goes on in another precision, optimizer state
    included, and ends with another adapter.
    """
    if not hasattr(trainer, "_load_from_checkpoint"):
        return
    dtypes = {n: p.dtype for n, p in trainer.model.named_parameters() if p.requires_grad}
    load = trainer._load_from_checkpoint

    def load_and_restore(*arguments: Any, **options: Any) -> None:
        load(*arguments, **options)
        for name, parameter in trainer.model.named_parameters():
            if name in dtypes:
                parameter.data = parameter.data.to(dtypes[name])

    trainer._load_from_checkpoint = load_and_restore
