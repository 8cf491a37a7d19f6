"""Reading a directory that is handed over, with nothing but the files in it."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import sha256_file, sha256_json, write_json
from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Message, Oracle, render
from sft_utils.preflight.compare import base_hash, tensor_hash
from sft_utils.preflight.record import RunRecord

MANIFEST = "sft_export.json"
"""What an export says about itself: hashes of base and adapter, golden token ids."""

JINJA, CONFIG, LEGACY = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
"""Files that may hold a chat template, in the order in which transformers believes them."""

VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
              "sentencepiece.bpe.model", "tekken.json", "*.tiktoken")  # fmt: skip
"""Files of which one must be there to turn text into ids."""

_OTHER = ("merges.txt", "special_tokens_map.json", "added_tokens.json")
_EMBEDDING = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_HEAD = ("lm_head.weight", "embed_out.weight")
_LOADED: dict[str, Any] = {}  # tokenizers by content: loading one takes up to a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor of a weight file; `read` gives some of its rows."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it, "F32"

    def read(self, first: int, last: int) -> Any:
        """Rows [first, last) of the tensor."""
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            return file.get_slice(self.name)[first:last]


def folder_of(record: RunRecord) -> Path | None:
    """The export of a record, if it is a directory."""
    path = Path(record.export) if record.export is not None else None
    return path if path is not None and path.is_dir() else None


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the directory; empty if it is missing or broken."""
    try:
        value = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def vocabulary_files(folder: Path) -> list[Path]:
    """Files that hold a vocabulary."""
    return [p for pattern in VOCABULARY for p in sorted(Path(folder).glob(pattern))]


def templates(folder: Path) -> dict[str, str]:
    """Default chat template by the file that holds it."""
    found: dict[str, str] = {}
    path = Path(folder) / JINJA
    if path.is_file():
        found[JINJA] = path.read_text(encoding="utf-8", errors="replace")
    for name in (CONFIG, LEGACY):
        value = read(folder, name).get("chat_template")
        if isinstance(value, list):
            value = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        if isinstance(value, dict):
            value = value.get("default")
        if isinstance(value, str):
            found[name] = value
    return found


def tokenizer(folder: Path) -> tuple[Any, str]:
    """The tokenizer that the directory alone gives, and why not if it gives none.

    The template is the one transformers would take. Equal files are loaded once.
    """
    from transformers import AutoTokenizer

    files = vocabulary_files(folder)
    if not files:
        return None, "no vocabulary file"
    files += [p for p in (Path(folder) / n for n in _OTHER) if p.is_file()]
    settings = {k: v for k, v in read(folder, CONFIG).items() if k != "chat_template"}
    settings["model_type"] = read(folder, "config.json").get("model_type")
    key = sha256_json([settings, *((p.name, sha256_file(p)) for p in files)])
    if key not in _LOADED:
        try:
            loaded = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # the tokenizers library raises bare Exceptions
            return None, str(error).splitlines()[0] if str(error) else type(error).__name__
        if len(_LOADED) >= 8:
            _LOADED.pop(next(iter(_LOADED)))
        _LOADED[key] = loaded
    found = copy.copy(_LOADED[key])
    sources = templates(folder)
    found.chat_template = sources.get(JINJA, sources.get(CONFIG))
    return found, ""


def encode(
    tok: Any, messages: Sequence[Message], *, generation: bool = False, **kwargs: Any
) -> tuple[list[int], str]:
    """Ids and text of a conversation; the text says why if the template refuses it (no ids)."""
    try:
        text = render(tok, messages, generation=generation, template_kwargs=kwargs)
    except TemplateError as error:
        return [], str(error)
    return tok(text, add_special_tokens=False)["input_ids"], text


def stops(folder: Path) -> frozenset[int] | None:
    """Ids at which transformers stops with this export; None if no file says anything."""
    for name in ("generation_config.json", "config.json"):
        if not (Path(folder) / name).is_file():
            continue
        config = read(folder, name)
        eos = config.get("eos_token_id")
        if eos is None and name == "config.json":
            eos = (config.get("text_config") or {}).get("eos_token_id")
        return frozenset([eos] if isinstance(eos, int) else eos or [])
    return None


def stored(folder: Path, *, adapter: bool = False) -> dict[str, Stored]:
    """Tensors of the safetensors files of a directory, by name; only headers are read."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        if path.name.startswith("adapter_") != adapter:
            continue
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    part = file.get_slice(name)
                    shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                    found[name] = Stored(path=path, name=name, shape=shape, dtype=dtype)
        except (SafetensorError, OSError):
            continue
    return found


def embedding(tensors: dict[str, Stored]) -> Stored | None:
    """The input embedding among stored tensors."""
    return next((t for n, t in tensors.items() if n.endswith(_EMBEDDING)), None)


def head(tensors: dict[str, Stored]) -> Stored | None:
    """The output projection among stored tensors; a tied one is not stored."""
    return next((t for n, t in tensors.items() if n.endswith(_HEAD)), None)


def adapter_tensors(folder: Path) -> dict[str, Any]:
    """Tensors of a saved adapter; empty if there is none or its file is broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / "adapter_model.safetensors"
    try:
        return load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError):
        return {}


def adapter_hashes(folder: Path) -> frozenset[str]:
    """Names a saved adapter goes by: sha256 of its file, and `tensor_hash` of its tensors."""
    path, tensors = Path(folder) / "adapter_model.safetensors", adapter_tensors(folder)
    return frozenset({sha256_file(path), tensor_hash(tensors)}) if tensors else frozenset()


def describe(record: RunRecord, *, golden: int = 10) -> dict[str, Any]:
    """What an export should say about itself, taken from the run that made it.

    Args:
        record: With `model` (trained), and `base_model` if there is one.
        golden: Conversations whose token ids are kept.
    Returns:
        base_sha256, golden, and adapter_sha256 for a model with an adapter.
    """
    about: dict[str, Any] = {"golden": golden_ids(record)[:golden]}
    adapted = hasattr(record.model, "peft_config")
    if record.base_model is not None or adapted:
        about["base_sha256"] = base_hash(record.model if adapted else record.base_model)
    if adapted:
        about["adapter_sha256"] = tensor_hash(adapter_state(record.model))
    return about


def write_manifest(folder: Path, record: RunRecord) -> None:
    """Write `describe` next to the weights."""
    write_json(Path(folder) / MANIFEST, describe(record))


def golden_ids(record: RunRecord) -> list[dict[str, Any]]:
    """Conversations of a record with the ids they are served as."""
    pairs = zip(record.conversations, record.oracles, strict=True)
    return [{"messages": list(c), "ids": o.ids} for c, o in pairs if isinstance(o, Oracle)]


def adapter_state(model: Any) -> dict[str, Any]:
    """Tensors of the active adapter, named as peft saves them."""
    from peft import get_peft_model_state_dict

    name = getattr(model, "active_adapter", "default")
    return get_peft_model_state_dict(
        model,
        adapter_name=name if isinstance(name, str) else "default",
        save_embedding_layers=False,
    )
