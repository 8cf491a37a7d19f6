"""The benchmark: what this project costs against the usual ways, measured in one run.

    python -m tests.bench.run                      # all parts; `make bench`
    python -m tests.bench.run --only train         # startup, train, evaluation, curation
    python -m tests.bench.run --only curation --rows 10000,100000

Every part writes its results as soon as it has them into outputs/reference/bench.json, and the
figure beside it. It says what else the machine did meanwhile: ratios survive that, times do not.
The training part holds all its arms in memory, about 20 GiB; --arms takes fewer, or the pairs.
"""

import argparse
import datetime
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from sft_utils import manifest, runtime
from sft_utils.artifacts import ROOT, display_path, read_json, write_json
from sft_utils.config import get_profile
from sft_utils.errors import ConfigError, SFTError
from sft_utils.formats import aligned, clock, number
from tests.bench import curation_scale

RESULT = ROOT / "outputs" / "reference" / "bench.json"
PARTS = ("startup", "train", "evaluation", "curation")
MERGED = ("curation",)
"""Parts whose sizes may be measured one at a time: old ones stay."""


def cpu_name() -> str:
    """The processor as it names itself, "unknown" where it does not."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def busy_s() -> tuple[float, float]:
    """CPU seconds since boot that the machine worked, and that we and our children did."""
    whole = psutil.cpu_times()
    idle = whole.idle + getattr(whole, "iowait", 0.0) + getattr(whole, "steal", 0.0)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(whole) - idle, sum(u.ru_utime + u.ru_stime for u in used)


def merged(old: dict[str, Any], part: str, found: dict[str, Any], facts: dict[str, Any]) -> dict:
    """The result file with one part renewed.

    Args:
        old: What the file holds, or {}.
        part: Name of the part; its earlier metrics go, except in parts that are merged.
        found: metrics, and whatever else the part tells.
        facts: Machine, versions, times.
    """
    metrics = {
        name: entry for name, entry in old.get("metrics", {}).items()
        if entry.get("part") != part or part in MERGED
    }  # fmt: skip
    metrics |= {name: {**entry, "part": part} for name, entry in found["metrics"].items()}
    rest = {key: value for key, value in found.items() if key != "metrics"}
    if part in MERGED:
        table = {row["rows"]: row for row in old.get("parts", {}).get(part, {}).get("table", [])}
        table |= {row["rows"]: row for row in rest.get("table", [])}
        rest["table"] = [table[rows] for rows in sorted(table)]
        grown = curation_scale.growth(rest["table"])
        metrics |= {name: {**entry, "part": part} for name, entry in grown.items()}
    parts = {**old.get("parts", {}), part: {**facts, **rest}}
    return {"benchmark": "bench", "metrics": dict(sorted(metrics.items())), "parts": parts}


def measure(part: str, options: argparse.Namespace, done: Callable[[dict], None]) -> dict[str, Any]:
    """Run one part; `done` receives what it has so far, where a part is long."""
    if part == "startup":
        from tests.bench import startup

        return startup.measure(done=done)
    if part == "train":
        from tests.bench import train

        return train.measure(rounds=options.rounds, arms=options.arms)
    if part == "evaluation":
        from tests.bench import evaluate

        return evaluate.measure(items=options.items, done=done)
    return curation_scale.measure(sizes=options.rows, done=done)


def record(part: str, target: Path, options: argparse.Namespace) -> None:
    """Run one part and write it, with the machine's state while it ran."""
    began, before = time.monotonic(), busy_s()

    def write(found: dict[str, Any]) -> None:
        wall = time.monotonic() - began
        machine, own = (now - then for now, then in zip(busy_s(), before, strict=True))
        facts = {
            "measured_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": runtime.hardware(get_profile("cpu")),
            "cpu": cpu_name(),
            "wall_s": round(wall, 1),
            # The machine's clock ticks in hundredths of a second: a short part could be over 1.
            "others_cpu_share": round(
                min(1.0, max(0.0, machine - own) / (wall * (os.cpu_count() or 1))), 3
            ),
            "versions": {"python": sys.version.split()[0], **manifest.versions()},
        }
        old = read_json(target) if target.is_file() else {}
        write_json(target, merged(old, part, found, facts))

    found = measure(part, options, write)
    write(found)
    print(table(found["metrics"]))
    print(f"{part}: {clock(time.monotonic() - began)}, written to {display_path(target)}\n")


def table(metrics: dict[str, Any]) -> str:
    """Metrics as aligned text."""
    rows = [["metric", "value", "n", "range"]]
    for name, entry in metrics.items():
        low_high = entry.get("range")
        between = f"{number(low_high[0])} to {number(low_high[1])}" if low_high else "-"
        rows.append([name, number(entry["value"]), str(entry["n"]), between])
    return aligned(rows)


def chosen(text: str, known: Sequence[str]) -> list[str]:
    """Names given with commas, in the order of `known`; empty means all.

    Raises:
        ConfigError: An unknown name.
    """
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"there is no {name!r}; known: {', '.join(known)}")
    return [name for name in known if name in wanted or not wanted]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for, write it, draw the figure."""
    from tests.bench.plot import draw
    from tests.bench.train_worker import ARMS, USUAL

    top = argparse.ArgumentParser(description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--only", default="", help=f"parts with commas: {', '.join(PARTS)}")
    top.add_argument(
        "--arms", default=",".join(USUAL),
        help=f"train: arms with commas, of {', '.join(ARMS)}; default: %(default)s",
    )  # fmt: skip
    top.add_argument("--rounds", type=int, default=12, help="train: steps per arm")
    top.add_argument("--items", type=int, default=24, help="evaluation: mails that are answered")
    top.add_argument("--rows", default="10000,100000,1000000", help="curation: sizes with commas")
    top.add_argument("--out", type=Path, default=RESULT, help="result file, made or renewed; for trials")
    options = top.parse_args(argv)
    try:
        parts = chosen(options.only, PARTS)
        options.arms = chosen(options.arms, list(ARMS))
        options.rows = [int(n) for n in options.rows.split(",")]
        for part in parts:
            print(part, flush=True)
            record(part, options.out, options)
            draw(options.out)
    except SFTError as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
