"""Answers of an exported folder by a process that knows nothing but that folder.

Whatever a notebook still holds in memory (a tokenizer that was repaired, a config that was edited,
weights that were never saved) is not there: what comes back is what anybody gets who downloads it.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils import heap
from sft_utils.artifacts import ROOT, read_json, write_json
from sft_utils.config import cpu_threads
from sft_utils.errors import ServeError
from sft_utils.masks.chat import Message, prompt_ids, template_hash
from sft_utils.model.generation import Answer, generate
from sft_utils.workers import end_with_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """What a fresh process made of a folder."""

    answers: list[Answer]
    prompts: list[list[int]]  # token ids, by the folder's own tokenizer and template
    template: str  # hash of its chat template
    logits: list[Any]  # per probe a float32 tensor (positions, V)


def fresh(
    folder: Path, conversations: Sequence[Sequence[Message]], *, dtype: str, device: str,
    max_new_tokens: int, batch_size: int, probes: Sequence[Any] = (), timeout_s: float = 3600.0,
) -> Fresh:  # fmt: skip
    """Load a folder in a new process and answer greedily.

    On Linux that process ends with this one, however this one ends.

    Args:
        folder: An exported model; a relative path counts from here.
        conversations: Messages up to the answer; rendered over there.
        dtype: Name of a torch dtype.
        device: "cpu" or "cuda".
        max_new_tokens: Limit per answer.
        batch_size: Prompts decoded together.
        probes: (token ids, positions) whose logits are wanted (`preflight.compare.probes`).
        timeout_s: Seconds after which it is killed.
    Raises:
        ServeError: The process failed or took too long; holds the end of what it said.
    """
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="sft-fresh-") as name:
        place = Path(name)
        # The process starts in the repository: a relative folder would be another one there.
        job = {"folder": str(Path(folder).resolve()),
               "conversations": [list(c) for c in conversations],
               "dtype": dtype, "device": device, "max_new_tokens": max_new_tokens,
               "batch_size": batch_size, "probes": [list(p) for p in probes]}  # fmt: skip
        write_json(place / "job.json", job)
        heap.give_back_freed_memory()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "sft_utils.export.answering", str(place)],
                cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
                timeout=timeout_s, preexec_fn=end_with_parent(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise ServeError(
                f"a fresh process was ended after {timeout_s:g} s: {len(conversations)} answers of "
                f"{folder.name} were not ready. Ask for fewer or shorter ones, or give it more "
                "time (timeout_s)."
            ) from late
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            how = " | ".join(said) or f"exit status {done.returncode}"
            raise ServeError(f"a fresh process could not use {folder.name}: {how}")
        found = read_json(place / "found.json")
        tensors = load_file(place / "logits.safetensors") if probes else {}
    return Fresh(
        answers=[Answer(**a) for a in found["answers"]],
        prompts=found["prompts"],
        template=found["template"],
        logits=[tensors[str(k)] for k in range(len(tensors))],
    )


def _work(place: Path) -> None:
    """The other side of `fresh`."""
    from sft_utils import runtime

    runtime.quiet()
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    job = read_json(place / "job.json")
    if job["device"] == "cpu":
        torch.set_num_threads(cpu_threads())
        heap.keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(job["folder"], local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=getattr(torch, job["dtype"]), device_map={"": job["device"]},
        local_files_only=True, use_safetensors=True,
    ).eval()  # fmt: skip
    logits = {}
    with torch.inference_mode():
        for k, (ids, positions) in enumerate(job["probes"]):
            output = model(input_ids=torch.tensor([ids], device=model.device))
            logits[str(k)] = output.logits[0, positions].float().cpu().contiguous()
    if logits:
        save_file(logits, place / "logits.safetensors")
    prompts = [prompt_ids(tokenizer, c) for c in job["conversations"]]
    answers = generate(
        model, tokenizer, prompts, max_new_tokens=job["max_new_tokens"],
        batch_size=job["batch_size"],
    )  # fmt: skip
    write_json(place / "found.json", {
        "answers": [dataclasses.asdict(a) for a in answers],
        "prompts": prompts,
        "template": template_hash(tokenizer),
    })  # fmt: skip


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
