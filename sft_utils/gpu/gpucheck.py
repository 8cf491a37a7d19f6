"""`make gpu-check`: what this machine's GPU really does, in at most nine minutes, as one JSON file.

    python -m sft_utils.gpu.gpucheck                      # a GPU, no network
    python -m sft_utils.gpu.gpucheck --device cpu --tiny  # rehearsal: all arms, a small model

Each arm is one named row: an arm that runs out of memory, hangs or lacks Unsloth costs itself
only. Rows are written as they come; the same command continues with what is missing. This process
never imports torch, so that no memory is taken on the GPU and no driver state can spoil a worker.
"""

import argparse
import datetime
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import (
    ROOT,
    display_path,
    read_json,
    runs_dir,
    sha256_files,
    sha256_json,
    write_json,
)
from sft_utils.config import OFFLINE
from sft_utils.formats import aligned, clock
from sft_utils.manifest import git_state, locked_versions, versions
from sft_utils.workers import Arm, run

LENGTHS, TINY_LENGTHS = (2048, 8192), (32, 96)
MINUTES = 9.0
FINAL = ("ok", "does not fit", "out of memory", "unavailable")
"""Rows that a later call keeps. The others were stopped or failed, and are tried again."""

PROBE = """
import json, torch
ok = torch.cuda.is_available()
p = torch.cuda.get_device_properties(0) if ok else None
print(json.dumps({"gpu": p.name if ok else None, "count": torch.cuda.device_count(),
  "memory_gib": p.total_memory / 2**30 if ok else 0, "cuda": torch.version.cuda,
  "capability": f"{p.major}.{p.minor}" if ok else None}))
"""


def arms(*, tiny: bool) -> list[Arm]:
    """All arms in the order they run; neighbours of one worker share a process."""

    def arm(worker: str, name: str, limit_s: float) -> Arm:
        # A rehearsal may share its cores with other work; nothing is measured there.
        return Arm(name=name, worker=worker, limit_s=limit_s * (4 if tiny else 1))

    def cells(worker: str) -> list[Arm]:
        lengths = TINY_LENGTHS if tiny else LENGTHS
        return [
            arm(worker, f"{worker}_{bits}_{n}", 120) for bits in ("nf4", "bf16") for n in lengths
        ]

    return [
        arm("ours", "weights", 150),
        arm("ours", "ours_qlora", 120),
        *cells("ours"),
        arm("ours", "ours_qlora_fp16", 90),  # what a GPU without bf16 runs
        arm("plain", "plain_parity", 90),
        *cells("plain"),
        arm("unsloth", "unsloth_parity", 150),  # compiles its kernels
        *cells("unsloth"),
    ]


def probe() -> dict[str, Any]:
    """The GPU as a process of its own sees it."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["python failed"]
        sys.exit(f"gpu-check: torch cannot be asked for a GPU ({lines[-1]})")
    return json.loads(done.stdout.strip().splitlines()[-1])


def slug(name: str) -> str:
    """A file name from a GPU's name.

    Example:
        >>> slug("NVIDIA H200 (MIG 1g.18gb)")
        'nvidia-h200-mig-1g-18gb'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def key(device: str, tiny: bool) -> str:
    """Rows of another program, or of other packages, are no rows of this run."""
    code = sha256_files(sorted((ROOT / "sft_utils").rglob("*.py")))
    return sha256_json([device, tiny, code, locked_versions()])[:16]


def metrics(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of finished arms in the form of all result files."""
    names = ("tokens_per_s", "seconds_per_step", "peak_gib", "predicted_over_measured",
             "step1_difference", "max_difference", "first_loss", "last_loss")  # fmt: skip
    return {
        f"{arm}.{name}": {"value": row[name], "n": row.get("n", 1)}
        for arm, row in rows.items()
        for name in names
        if row["status"] == "ok" and name in row
    }


def problems(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong: arms that failed or hung, and checks that do not hold."""
    found = []
    for arm, row in rows.items():
        if row["status"] in ("failed", "timed out"):
            found.append(f"{arm}: {row['status']} · {row.get('why', '')}")
        bad = [name for name, passed in row.get("checks", {}).items() if not passed]
        found += [f"{arm}: does not hold: {name}" for name in bad]
    return found


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    if row["status"] != "ok":
        return f"{row['status']} · {row.get('why', '')}"[:160]
    parts = []
    if "tokens_per_s" in row:
        parts.append(f"{row['tokens_per_s']:,.0f} tokens/s")
    if "peak_gib" in row:
        parts.append(f"peak {row['peak_gib']:.2f} GiB")
    if "predicted_gib" in row:
        parts.append(f"predicted {row['predicted_gib']:.2f}")
    if "max_difference" in row:
        parts.append(f"loss differs by {row['max_difference']:.2g} (bound {row['bound']:g})")
    if "last_loss" in row:
        parts.append(f"loss {row['first_loss']:.2f} -> {row['last_loss']:.2f}")
    bad = [name for name, passed in row.get("checks", {}).items() if not passed]
    return " · ".join([*parts, *(f"DOES NOT HOLD: {name}" for name in bad)]) or "ok"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0 if nothing failed, 1 if something did, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m sft_utils.gpu.gpucheck")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a random small model: rehearsal")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--force", action="store_true", help="run finished arms again")
    options = parser.parse_args(argv)
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu rehearses and needs --tiny: 8 billion weights do not fit there")
    began = time.monotonic()
    machine = probe() if options.device == "cuda" else {"gpu": "no GPU, rehearsal"}
    if machine["gpu"] is None:
        print("gpu-check: torch sees no NVIDIA GPU here, nothing was run. GPU figures stay "
              "\"not measured\"; `--device cpu --tiny` rehearses.", file=sys.stderr)  # fmt: skip
        return 2
    work = runs_dir("gpu-check")
    work.mkdir(parents=True, exist_ok=True)
    out = options.out or (
        work / "rehearsal.json" if options.tiny
        else ROOT / "outputs" / "reference" / "gpu" / f"{slug(machine['gpu'])}.json"
    )  # fmt: skip
    with (work / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"gpu-check: another one is at work in {display_path(work)}, and each removes what "
                "the other trains. Wait for it, then run the same command again.",
                file=sys.stderr,
            )
            return 1
        return _check(options, machine, work, out, began)


def _check(
    options: argparse.Namespace, machine: dict[str, Any], work: Path, out: Path, began: float
) -> int:
    plan, own = arms(tiny=options.tiny), key(options.device, options.tiny)
    old = read_json(out) if out.is_file() and not options.force else {}
    rows: dict[str, dict[str, Any]] = old.get("arms", {}) if old.get("key") == own else {}
    rows = {a.name: rows[a.name] for a in plan if rows.get(a.name, {}).get("status") in FINAL}
    todo = [a for a in plan if a.name not in rows]
    if todo and all(a.name != "weights" for a in todo):
        todo = [plan[0], *todo]  # the checkpoint is removed after a run
    deadline = began + 60 * options.minutes
    print(f"gpu-check on {machine['gpu']}: {len(todo)} of {len(plan)} arms to run, at most "
          f"{clock(60 * options.minutes)}", flush=True)  # fmt: skip

    def keep(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        write_json(out, _result(machine, own, plan, rows))
        number = [a.name for a in todo].index(name) + 1
        left = clock(max(deadline - time.monotonic(), 0))
        print(f"[{number}/{len(todo)}] {name}: {line(row)} (at most {left} left)", flush=True)

    job = {"device": options.device, "tiny": options.tiny, "work": str(work), "key": own}
    os.environ.update(OFFLINE)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # else Trainer splits batches over all GPUs
    try:
        run(todo, job, [sys.executable, "-m", "sft_utils.gpu.gpuarms"], deadline, keep)
    finally:
        _clean(work)
    found = problems(rows)
    print(aligned([[a.name, line(rows[a.name])] for a in plan if a.name in rows]))
    print("\n".join([f"wrote {display_path(out)} in {clock(time.monotonic() - began)}", *found]))
    return 1 if found else 0


def _result(
    machine: dict[str, Any], own: str, plan: Sequence[Arm], rows: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return {
        "hardware": machine["gpu"],
        "machine": machine,
        "measured_on": datetime.date.today().isoformat(),
        "complete": all(rows.get(a.name, {}).get("status") in FINAL for a in plan),
        "key": own,
        "versions": versions(),
        "git": git_state(),
        "metrics": metrics(rows),
        "arms": {a.name: rows[a.name] for a in plan if a.name in rows},
        "limits": {a.name: a.limit_s for a in plan},
    }


def _clean(work: Path) -> None:
    """Remove the random checkpoint (16 GB) and what trainers left."""
    import shutil

    for name in ("random-llama", "trainer"):
        shutil.rmtree(work / name, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
