"""Write train.jsonl, val.jsonl, test.jsonl and the table in README.md, the same bytes every time.

    python data/structured/generate.py                 write the files
    python data/structured/generate.py --check         exit 1 if a committed file differs

Sources are the sentence frames (frames/) and the hand-written rows (handwritten/). Rows for
validation are made of frames only; no frame serves two splits. The hand-written rows of
handwritten/train end train.jsonl, the others are test rows. The example files of data/examples are
written as well (`example.py`).
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for sft_utils, if not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sft_utils.data import generated
from sft_utils.data.rows import dump_row, fingerprint
from structured import example
from structured.rows import DOCUMENTS, SEEN, SPLITS, UNSEEN, Row, build

DATA = Path(__file__).resolve().parents[1]
SEED = 505


def build_files(seed: int = SEED) -> dict[str, str]:
    """The text of every generated file, by its path below data/."""
    rows = build(seed)
    files = {f"structured/{split}.jsonl": "".join(map(dump_row, rows[split])) for split in SPLITS}
    files |= {f"examples/{name}": text for name, text in example.files(seed).items()}
    readme = (DATA / "structured" / "README.md").read_text(encoding="utf-8")
    files["structured/README.md"] = generated.with_counts(readme, _counts(rows, files))
    return files


def _counts(rows: dict[str, list[Row]], files: dict[str, str]) -> str:
    lines = ["", "| file | rows | sha256 | fingerprint |", "| --- | --- | --- | --- |"]
    for split in SPLITS:
        digest = hashlib.sha256(files[f"structured/{split}.jsonl"].encode()).hexdigest()
        lines.append(
            f"| `{split}.jsonl` | {len(rows[split])} | `{digest}` | `{fingerprint(rows[split])[:16]}…` |"
        )
    for name in sorted(name for name in files if name.startswith("examples/")):
        digest = hashlib.sha256(files[name].encode()).hexdigest()
        lines.append(f"| `../{name}` | | `{digest}` | |")
    lines += [
        "",
        "| schema | kind | in training | train, hand-written | train, grammar | val | test, hand-written "
        "| test, grammar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    kinds = {row["schema"]: row["kind"] for row in rows["test"]}
    count = Counter(
        (row["schema"], split, row["source"]) for split in SPLITS for row in rows[split]
    )
    for name in [*SEEN, *UNSEEN, *DOCUMENTS, "citation", "report"]:
        cells = [
            f"`{name}`", kinds[name], "no" if name in UNSEEN else "yes",
            *(count[name, *key] for key in [("train", "handwritten"), ("train", "grammar"), ("val", "grammar"),
                                            ("test", "handwritten"), ("test", "grammar")]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    sys.exit(generated.command_line(build_files, DATA))
