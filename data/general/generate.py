"""Write every JSONL file of this folder and the table in README.md, the same bytes every time.

    python data/general/generate.py                 write the files
    python data/general/generate.py --check         exit 1 if a committed file differs

Facts, cloze items, instructions, questions and the held-out text are written by hand (written/);
here they get an id and an answer position. Grammar pairs and sums are drawn (grammar.py,
arithmetic.py).
"""

import hashlib
import random
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for sft_utils, if not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from general import arithmetic, grammar
from sft_utils.data import generated
from sft_utils.data.rows import dump_row

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]

SEED = 1011
GRAMMAR_EACH = 16  # pairs per phenomenon
SUMS = 204


def _written(name: str) -> list[tuple[str, list[str]]]:
    """(section, cells) of every line of a hand-written file; `# name` begins a section."""
    section, found = "", []
    for line in (HERE / "written" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            section = line[2:].split(":")[0]
        elif line.strip():
            found.append((section, line.split("|")))
    return found


def _placed(right: str, wrong: list[str], position: int, r: random.Random) -> Row:
    """Choices with the right one at a given position, the others in random order."""
    others = r.sample(wrong, len(wrong))
    return {"choices": [*others[:position], right, *others[position:]], "answer": position}


def _positions(n: int, choices: int, r: random.Random) -> list[int]:
    """Every position equally often, in random order."""
    places = [i % choices for i in range(n)]
    r.shuffle(places)
    return places


def _written_choices(name: str, key: str, letter: str) -> list[Row]:
    r = random.Random(f"{SEED} {name}")
    lines = _written(name)
    places = _positions(len(lines), 4, r)
    return [
        {"id": f"{letter}-{i:03}", "topic": topic, key: text, **_placed(right, wrong, place, r)}
        for i, ((topic, (text, right, *wrong)), place) in enumerate(
            zip(lines, places, strict=True), 1
        )
    ]


def _grammar() -> list[Row]:
    r = random.Random(f"{SEED} places")
    drawn = grammar.pairs(GRAMMAR_EACH, SEED)
    places = _positions(len(drawn), 2, r)
    return [
        {"id": f"gr-{i:03}", "topic": topic, **_placed(right, [wrong], place, r)}
        for i, ((topic, right, wrong), place) in enumerate(zip(drawn, places, strict=True), 1)
    ]


def _arithmetic() -> list[Row]:
    r = random.Random(f"{SEED} places")
    drawn = arithmetic.problems(SUMS, SEED)
    places = _positions(len(drawn), 4, r)
    return [
        {
            "id": f"ar-{i:03}", "topic": topic, "question": text,
            **_placed(str(right), [str(w) for w in wrong], place, r),
        }
        for i, ((topic, text, right, wrong), place) in enumerate(zip(drawn, places, strict=True), 1)
    ]  # fmt: skip


def _instructions() -> list[Row]:
    rows = []
    for i, (_, (text, check)) in enumerate(_written("instructions"), 1):
        kind, _, value = check.partition("=")
        rows.append({"id": f"in-{i:03}", "instruction": text, "check": kind, "value": value})
    return rows


def _texts() -> list[Row]:
    text = (HERE / "written" / "heldout.txt").read_text(encoding="utf-8")
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return [{"id": f"tx-{i:03}", "text": part} for i, part in enumerate(parts, 1)]


def build_files() -> dict[str, str]:
    """The text of every generated file, by its name in this folder."""
    rows = {
        "facts": _written_choices("facts", "question", "fa"),
        "cloze": _written_choices("cloze", "text", "cl"),
        "grammar": _grammar(),
        "arithmetic": _arithmetic(),
        "instructions": _instructions(),
        "questions": [
            {"id": f"qu-{i:03}", "question": cells[0]}
            for i, (_, cells) in enumerate(_written("questions"), 1)
        ],
        "heldout_text": _texts(),
    }
    files = {f"{name}.jsonl": "".join(map(dump_row, part)) for name, part in rows.items()}
    card = (HERE / "README.md").read_text(encoding="utf-8")
    lines = ["", "| file | rows | choices | kinds | sha256 |", "| --- | --- | --- | --- | --- |"]
    for name, part in rows.items():
        digest = hashlib.sha256(files[f"{name}.jsonl"].encode()).hexdigest()[:16]
        choices = len(part[0].get("choices", ())) or ""
        kinds = len({row.get("topic", row.get("check", "")) for row in part} - {""}) or ""
        lines.append(f"| `{name}.jsonl` | {len(part)} | {choices} | {kinds} | `{digest}…` |")
    files["README.md"] = generated.with_counts(card, "\n".join(lines))
    return files


if __name__ == "__main__":
    sys.exit(generated.command_line(build_files, HERE))
