"""A few SFT steps through Unsloth's CPU backend. Its import patches TRL and transformers, so it gets
a process of its own, which prints what went in and what came out.

usage: train_unsloth.py SETTINGS.json     (keys: rows, quantization, dtype, steps, extra, folder)
"""

import json
import sys
from pathlib import Path

from sft_utils.train import backends

backends.prepare("unsloth", cpu=True)  # above all other imports

import torch  # noqa: E402

from sft_utils.config import cpu_threads  # noqa: E402
from sft_utils.gpu import gpuruns  # noqa: E402

settings = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(cpu_threads())
job = {"device": "cpu", "tiny": True, "work": settings["folder"]}
profile = gpuruns.profile_for(job, batch_size=4, quantization=settings["quantization"])
config = gpuruns.sft_config(
    job, profile, max_steps=settings["steps"], learning_rate=1e-3, gradient_checkpointing=False,
    **settings["extra"],
)  # fmt: skip
dtype = getattr(torch, settings["dtype"])
found = gpuruns.trajectory(profile, settings["rows"], config, backend="unsloth", dtype=dtype)
found["packing"] = [config.packing, config.padding_free]
found["kernels"] = sorted(name for name in sys.modules if name.startswith("unsloth.kernels"))
print("RESULT", json.dumps(found))
