"""Write the JSONL files of this folder and the tables in README.md.

    python data/reasoning/generate.py                 write the files
    python data/reasoning/generate.py --check         exit 1 if a committed file differs

The same bytes every time. Programs are run in the sandbox, puzzles are solved by trying every world.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for sft_utils, if not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reasoning.rows import DOMAINS, HELD, SPLITS, Row, build
from sft_utils.cot.traces import render
from sft_utils.data import generated
from sft_utils.data.rows import dump_row, fingerprint

HERE = Path(__file__).resolve().parent
SEED = 606
GSM8K_ROWS = 240


def build_files(seed: int = SEED) -> dict[str, str]:
    """The text of every generated file, by its name."""
    rows = build(seed)
    files = {f"{split}.jsonl": "".join(map(dump_row, rows[split])) for split in SPLITS}
    files["word_gsm8k.jsonl"] = "".join(map(_gsm8k, _words(rows["train"])))
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    files["README.md"] = generated.with_counts(readme, _counts(rows, files))
    return files


def _words(rows: list[Row]) -> list[Row]:
    """Word problems of all structures, evenly spaced: rows of one structure stand together."""
    words = [row for row in rows if row["domain"] == "word"]
    return words[:: len(words) // GSM8K_ROWS][:GSM8K_ROWS]


def _gsm8k(row: Row) -> str:
    """A word problem in the layout of GSM8K files: the trace, then "#### N"."""
    trace = render(row["steps"], "worded")
    return json.dumps({"question": row["question"], "answer": f"{trace}\n#### {row['answer']}"}) + "\n"


def _counts(rows: dict[str, list[Row]], files: dict[str, str]) -> str:
    lines = ["", "| file | rows | word | code | logic | sha256 | fingerprint |", "| --- " * 7 + "|"]
    for split in SPLITS:
        digest = hashlib.sha256(files[f"{split}.jsonl"].encode()).hexdigest()
        by = Counter(row["domain"] for row in rows[split])
        cells = " | ".join(str(by[domain]) for domain in DOMAINS)
        lines.append(
            f"| `{split}.jsonl` | {len(rows[split])} | {cells} | `{digest}` | `{fingerprint(rows[split])[:16]}…` |"
        )
    lines += ["", "| domain | structure | difficulty | held out | train | val | test |", "| --- " * 7 + "|"]
    facts = {(row["domain"], row["structure"]): row["difficulty"] for part in rows.values() for row in part}
    count = Counter((row["structure"], split) for split in SPLITS for row in rows[split])
    for (domain, name), difficulty in sorted(facts.items(), key=lambda i: (DOMAINS.index(i[0][0]), i[1], i[0][1])):
        cells = " | ".join(str(count[name, split]) for split in ("train", "val", "test"))
        lines.append(
            f"| {domain} | `{name}` | {difficulty} | {'yes' if name in HELD[domain] else 'no'} | {cells} |"
        )
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    sys.exit(generated.command_line(build_files, HERE))
