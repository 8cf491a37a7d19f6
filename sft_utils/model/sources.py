"""Where a base model comes from, and what is said where it cannot be loaded."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from sft_utils.artifacts import ROOT, display_path
from sft_utils.basemodel import BUNDLED, STAMP, bundled_model, verify_model_dir
from sft_utils.config import Profile
from sft_utils.errors import ModelError


def model_source(profile: Profile) -> tuple[str, str | None]:
    """Where the base model of a profile is: a local directory, or a hub id with its revision.

    A relative path counts from the repository's root, wherever the kernel runs.

    Raises:
        ModelError: A local directory without safetensors weights or with an adapter, or a hub id
            without a commit.
    """
    if profile.model == BUNDLED:
        return str(bundled_model()), None
    path = ROOT / Path(profile.model).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").exists():  # loaded on top of its base, without a word
            raise ModelError(
                f"{display_path(path)} holds an adapter, not a model. Merge it first: notebook 09 "
                "does that with one of 03, PEFT's merge_and_unload with any other."
            )
        if not list(path.glob("*.safetensors")):
            raise ModelError(
                f"{display_path(path)} holds no *.safetensors; pickled weights are not loaded. "
                "Convert the model with save_pretrained first."
            )
        if (path / STAMP).exists():
            verify_model_dir(path)
        return str(path), None
    if not re.fullmatch("[0-9a-f]{40}", profile.revision or ""):
        seen = f", and {profile.revision!r} is none" if profile.revision else ""
        raise ModelError(
            f"{profile.model!r} is no local directory, and as a hub id it needs a pinned revision "
            f"(a commit of 40 hex digits){seen}: a branch may change between two runs. Set it in "
            "the profile, or check the path."
        )
    return profile.model, profile.revision


def shown(source: str) -> str:
    return display_path(source) if Path(source).is_dir() else source


@contextlib.contextmanager
def named(source: str) -> Iterator[None]:
    """What transformers raises for files that do not fit, or are not there, as one ModelError."""
    import safetensors
    from huggingface_hub import constants

    try:
        yield
    except safetensors.SafetensorError as error:
        raise ModelError(f"{shown(source)}: corrupt weight file ({error})") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "mismatched" not in str(error):
            raise  # of the device: out of memory, for example
        fix = "Give a folder as save_pretrained writes it, with config, weights and tokenizer."
        if not Path(source).is_dir():
            fix = "Check id, commit and network; a gated model needs HF_TOKEN."
            if constants.HF_HUB_OFFLINE:
                fix = (
                    "This run is offline, as smoke and cpu are: put HF_HUB_OFFLINE=0 "
                    "TRANSFORMERS_OFFLINE=0 before the command once, or give a folder."
                )
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{shown(source)} cannot be loaded ({reason}). {fix}") from error
