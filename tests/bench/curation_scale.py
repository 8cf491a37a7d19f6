"""Curation: rows per second and peak memory of 01's funnel at growing sizes."""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT
from sft_utils.curation import funnel as curation
from sft_utils.data.filters import length_fence
from sft_utils.formats import clock
from sft_utils.runner.nbprogress import say

TICKETS = ROOT / "data/tickets"
SIZES = (10_000, 100_000, 1_000_000)
SEED = 18
"""The stream of 01 with its default seed."""


def write_stream(path: Path, n: int) -> float:
    """Write `n` generated raw rows; returns seconds."""
    sys.path.insert(0, str(TICKETS))
    from generate import stream_rows

    began = time.perf_counter()
    with path.open("w", encoding="utf-8") as file:
        for line, _ in stream_rows(n, SEED):
            file.write(line + "\n")
    return time.perf_counter() - began


def name_of(n: int) -> str:
    """10000 -> "10k", 1000000 -> "1m".

    Example:
        >>> name_of(10_000), name_of(1_000_000), name_of(512)
        ('10k', '1m', '512')
    """
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if n % size == 0:
            return f"{n // size}{letter}"
    return str(n)


def curate(path: Path, folder: Path, fence: int) -> dict[str, Any]:
    """The funnel as its own process, so that the peak memory is its own."""
    command = [sys.executable, "-m", "sft_utils.curation", path, folder, "--max-words", str(fence),
               "--held-out", TICKETS / "test.jsonl", TICKETS / "fewshot.jsonl"]  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) | {"wall_s": time.perf_counter() - began}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Exponent of growth between the first and the last point: 1 is linear.

    Example:
        >>> slope([(10, 2.0), (1000, 200.0)])
        1.0
    """
    (x0, y0), (x1, y1) = points[0], points[-1]
    return math.log(y1 / y0) / math.log(x1 / x0)


def growth(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How time and memory grow from the smallest to the largest size, as metrics.

    Args:
        table: One row per size, ascending; one alone grows nowhere.
    """
    if len(table) < 2:
        return {}
    first, last = table[0], table[-1]
    points = [(row["rows"], row["rows"] / row["rows_per_s"]) for row in (first, last)]
    per_row = (last["peak_gib"] - first["peak_gib"]) * 2**30 / (last["rows"] - first["rows"])
    return {
        "curation.time_exponent": {"value": slope(points), "n": len(table)},
        "curation.bytes_per_row": {"value": per_row, "n": last["rows"]},
    }


def measure(
    *, sizes: Sequence[int] = SIZES, show: Callable[[str], None] = say,
    done: Callable[[dict[str, Any]], None] = lambda part: None,
) -> dict[str, Any]:  # fmt: skip
    """The whole part, the smallest size first; each size is handed to `done` when it is through."""
    fence = length_fence(curation.mail_lengths(TICKETS / "raw.jsonl"))
    metrics: dict[str, Any] = {}
    table: list[dict[str, Any]] = []
    for n in sorted(sizes):
        if table:
            last = table[-1]
            spent = last["generate_s"] + last["wall_s"]
            show(f"  {n:,} rows: about {clock(spent / last['rows'] * n)}")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            path = Path(folder) / "raw.jsonl"
            generated = write_stream(path, n)
            found = curate(path, Path(folder) / "out", fence)
            size = path.stat().st_size
        row = {"rows": n, "kept": found["kept"], "wall_s": found["wall_s"],
               "rows_per_s": found["rows_per_s"], "peak_gib": found["peak_gib"],
               "file_mib": size / 2**20, "generate_s": generated}  # fmt: skip
        table.append(row)
        show(f"  {n:,} rows: {found['rows_per_s']:,.0f} rows/s, {found['wall_s']:.1f} s, "
             f"{found['peak_gib']:.2f} GiB")  # fmt: skip
        for what in ("wall_s", "rows_per_s", "peak_gib"):
            metrics[f"curation_{name_of(n)}.{what}"] = {"value": row[what], "n": n}
        done({"metrics": metrics, "table": table})
    return {"metrics": metrics, "table": table}
