"""What the task files of lm-eval call: read the rows, check whether an instruction was followed."""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]


def read(name: str, **_: Any) -> dict[str, Any]:
    """The rows of a file as lm-eval wants them: in memory, nothing is downloaded or cached."""
    from datasets import Dataset

    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}", text, re.IGNORECASE) is not None


def _sentences(text: str) -> int:
    return len([part for part in re.split(r"[.!?]+(?=\s|$)", text) if part.strip()])


def follows(text: str, check: str, value: str = "") -> bool:
    """Whether an answer does what was asked; only the form is judged, not whether it is true.

    Args:
        text: The answer.
        check: Name of the check (the column `check` of instructions.jsonl).
        value: What the check compares with.
    """
    text = text.strip()
    words = _words(text)
    if not words:
        return False
    if check == "words":
        return len(words) == int(value)
    if check == "most":
        return len(words) <= int(value)
    if check == "equals":
        return text.strip("\"'.!").casefold() == value.strip(".").casefold()
    if check == "count":
        word, times = value.split(":")
        return [w.casefold() for w in words] == [word] * int(times)
    if check == "contains":  # capitals of the value are asked for, others are free
        return all(w in text if w.isupper() else _has(text, w) for w in value.split(","))
    if check == "avoids":
        return not _has(text, value)
    if check == "oneof":
        return words[0].casefold() in value.split(",")
    if check == "number":
        return re.fullmatch(r"-?\d+(\.\d+)?\.?", text) is not None
    if check == "commas":
        return text.count(",") == int(value) and "\n" not in text
    if check == "sentences":
        return _sentences(text) == int(value)
    if check == "ends":
        return text.rstrip("\"'”").endswith(value)
    if check == "starts":
        return text.lstrip("\"'“").startswith(value)
    if check == "lower":
        return text == text.lower()
    if check == "upper":
        return text == text.upper()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if check == "dashes":
        return len(lines) == int(value) and all(line.startswith("-") for line in lines)
    if check == "numbered":
        return len(lines) == int(value) and all(
            re.match(rf"{i}[.)]", line) for i, line in enumerate(lines, 1)
        )
    if check == "quoted":
        return len(text) > 2 and text[0] in '"“' and text.rstrip(".")[-1] in '"”'
    raise ValueError(f"unknown check {check!r}")


def judge(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """What lm-eval records for one answer."""
    return {"acc": float(follows(results[0], doc["check"], doc["value"]))}
