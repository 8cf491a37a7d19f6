"""Start-up: imports of the package and of the libraries, a kernel, the model. Fresh processes."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from sft_utils.artifacts import ROOT
from sft_utils.runner.nbprogress import say

IMPORTS = {
    "python": "pass",
    "config": "import sft_utils.config",
    "nbrun": "import sft_utils.runner.nbrun",
    "loading": "import sft_utils.data.layouts, sft_utils.data.loading",
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM",
    "peft": "from peft import get_peft_model",
    "trl": "from trl import SFTConfig, SFTTrainer",
    "datasets": "from datasets import Dataset",
    "notebook_03": (
        "from sft_utils import runtime; runtime.quiet(); import torch; from datasets import Dataset;"
        "from peft import LoraConfig, PeftModel, get_peft_model;"
        "from transformers import AutoConfig, BitsAndBytesConfig, PrinterCallback;"
        "from trl import SFTConfig, SFTTrainer;"
        "from sft_utils import chat, generation, masking, modeling, preflight, scoring, tasks, training"
    ),
}
"""Name -> code. What `notebook_03` takes is what the first cell of a training notebook takes."""

TIMER = "import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
LOAD = """
import json, time
from sft_utils import runtime; runtime.quiet()
from sft_utils import modeling
from sft_utils.config import get_profile
import transformers
transformers.AutoModelForCausalLM, transformers.AutoTokenizer
P = get_profile("cpu")
t = time.perf_counter(); modeling.load_tokenizer(P); a = time.perf_counter()
modeling.load_model(P); b = time.perf_counter()
print(json.dumps({"tokenizer": a - t, "model": b - a}))
"""


def in_fresh_process(code: str) -> str:
    """Last line that a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def kernel_s() -> float:
    """Seconds until a new Jupyter kernel has answered its first cell."""
    from jupyter_client.manager import start_new_kernel

    began = time.perf_counter()
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(ROOT), stderr=subprocess.DEVNULL
    )
    try:
        client.execute_interactive("1", timeout=60, output_hook=lambda message: None)
        return time.perf_counter() - began
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def entry(values: list[float]) -> dict[str, Any]:
    """Seconds as a metric."""
    return {"value": statistics.median(values), "n": len(values),
            "range": [min(values), max(values)]}  # fmt: skip


def measure(
    *, rounds: int = 3, show: Callable[[str], None] = say,
    done: Callable[[dict[str, Any]], None] = lambda part: None,
) -> dict[str, Any]:  # fmt: skip
    """The whole part, in rounds: the first one also fills the file cache and does not count."""
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        seen = {
            f"import_{name}.wall_s": float(in_fresh_process(TIMER.format(code=code)))
            for name, code in IMPORTS.items()
        }
        loaded = json.loads(in_fresh_process(LOAD))
        seen |= {f"load_{name}.wall_s": seconds for name, seconds in loaded.items()}
        seen["kernel_start.wall_s"] = kernel_s()
        for name, seconds in seen.items():
            times.setdefault(name, []).append(seconds)
        if number:
            done(_metrics(times))
        total = sum(seen.values())
        show(f"  round {number + 1}/{rounds + 1}, about {total * (rounds - number):.0f} s left")
    return _metrics(times)


def _metrics(times: dict[str, list[float]]) -> dict[str, Any]:
    return {"metrics": {name: entry(values[1:]) for name, values in times.items()}}
