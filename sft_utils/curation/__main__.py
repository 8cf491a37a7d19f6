"""Command line of the funnel: `python -m sft_utils.curation RAW FOLDER --held-out FILE`."""

import argparse
import json
import sys
from pathlib import Path

from sft_utils.curation.funnel import Settings, curate, mail_lengths
from sft_utils.data import filters
from sft_utils.errors import SFTError
from sft_utils.runtime import GIB, peak_rss_gib


def _own_peak_gib() -> float:
    """Peak memory of this process alone, in GiB.

    On Linux the usual counter is inherited from the parent, so a small job started by a large
    notebook would report the notebook.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_rss_gib()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


def main() -> int:
    """Curate one file from the command line; prints one JSON object with counts and cost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("raw", type=Path, help="JSONL file to curate")
    parser.add_argument("folder", type=Path, help="receives kept.jsonl and dropped.jsonl")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="JSONL files")
    parser.add_argument("--max-words", type=int, default=0, help="0: computed from the file")
    options = parser.parse_args()
    try:
        fence = options.max_words or filters.length_fence(mail_lengths(options.raw))
        settings = Settings(max_words=fence, held_out=tuple(options.held_out))
        kept, dropped = options.folder / "kept.jsonl", options.folder / "dropped.jsonl"
        funnel = curate(options.raw, kept, dropped, settings)
    except SFTError as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
    counts = {"lines": funnel.lines, "kept": funnel.kept, "dropped": funnel.dropped}
    cost = {"rows_per_s": funnel.rows_per_s, "peak_gib": _own_peak_gib()}
    print(json.dumps({**counts, **cost}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
