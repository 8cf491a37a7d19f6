"""The data card of data/tickets: every number in it is counted from the files it describes."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, display_path, sha256_file, write_text
from sft_utils.curation.answers import ticket_of
from sft_utils.curation.audit import CAUGHT_BY, CLEAN
from sft_utils.data.rows import Row, fingerprint, mail_of, read_jsonl, rows_of

TICKETS = ROOT / "data/tickets"  # one literal: nbdeps reads it as a dependency
FILES = {
    "raw.jsonl": "training material as it comes: clean rows and planted defects, shuffled",
    "test.jsonl": "held out for final scores; clean; no customer thread shared with raw.jsonl",
    "fewshot.jsonl": "examples for prompts; clean; in no other file",
    "answer_key.jsonl": "which lines of raw.jsonl are defective, and how; look-alikes too",
}


def card(folder: Path = TICKETS) -> str:
    """The data card as markdown; the same bytes for the same files.

    Raises:
        DataError: A file is missing or broken.
    """
    key = rows_of(folder / "answer_key.jsonl")
    bad = {entry["line"] for entry in key if entry["defect"] != CLEAN}
    raw = list(read_jsonl(folder / "raw.jsonl"))
    clean = [line.row for line in raw if line.row is not None and line.number not in bad]
    parts = {
        "raw, clean": clean,
        "test": rows_of(folder / "test.jsonl"),
        "few-shot": rows_of(folder / "fewshot.jsonl"),
    }
    sections = [
        _HEAD,
        "## Files\n\n" + _files(folder, len(raw)),
        f"Fingerprint of the clean rows of raw.jsonl (independent of their order): "
        f"`{fingerprint(clean)}`",
        _FIELDS,
        "## Where the rows come from\n\n" + _sources(parts),
        _AUTHORSHIP,
        "## Labels and lengths\n\n" + _labels(parts),
        "## Known defects\n\n" + _defects(key, len(raw)),
        _USE,
    ]
    return "\n\n".join(sections) + "\n"


def _grid(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _files(folder: Path, raw_lines: int) -> str:
    rows = []
    for name, use in FILES.items():
        path = folder / name
        count = raw_lines if name == "raw.jsonl" else len(rows_of(path))
        size_kib = path.stat().st_size / 1024
        rows.append([f"`{name}`", count, f"{size_kib:.0f}", f"`{sha256_file(path)[:16]}…`", use])
    return _grid(["file", "lines", "KiB", "sha256", "what it is"], rows)


def _sources(parts: dict[str, list[Row]]) -> str:
    counts = {
        name: Counter((row["source"], row["licence"]) for row in rows)
        for name, rows in parts.items()
    }
    kinds = sorted({kind for count in counts.values() for kind in count})
    return _grid(
        ["source", "licence", *parts],
        [[*kind, *(counts[name][kind] for name in parts)] for kind in kinds],
    )


def _labels(parts: dict[str, list[Row]]) -> str:
    rows: list[list[str]] = []
    tickets = {name: [ticket_of(row) for row in part] for name, part in parts.items()}
    for label in ("topic", "action", "urgent", "currency"):
        counts = {
            name: Counter(dumps(t[label]).strip('"') for t in part)
            for name, part in tickets.items()
        }
        for value in sorted({value for count in counts.values() for value in count}):
            cells = [_share(counts[name][value], len(parts[name])) for name in parts]
            rows.append([label, value, *cells])
    for label in ("product", "order_id", "amount", "date", "customer"):
        filled = {name: sum(t[label] is not None for t in part) for name, part in tickets.items()}
        cells = [_share(filled[name], len(parts[name])) for name in parts]
        rows.append([label, "not null", *cells])
    styles = {name: Counter(row["style"] for row in part) for name, part in parts.items()}
    for value in sorted({value for count in styles.values() for value in count}):
        cells = [_share(styles[name][value], len(parts[name])) for name in parts]
        rows.append(["style", value, *cells])
    words = {
        name: sorted(len(mail_of(row).split()) for row in part) for name, part in parts.items()
    }
    for label, place in (("shortest", 0.0), ("median", 0.5), ("longest", 1.0)):
        cells = [str(w[round(place * (len(w) - 1))]) for w in words.values()]
        rows.append(["words", label, *cells])
    header = ["label", "value", *(f"{name} (n = {len(part)})" for name, part in parts.items())]
    return _grid(header, rows)


def _share(count: int, n: int) -> str:
    return f"{count} ({count / n:.0%})" if count else "0"


def _defects(key: list[dict[str, Any]], lines: int) -> str:
    counts = Counter(entry["defect"] for entry in key)
    planted = sum(count for kind, count in counts.items() if kind != CLEAN)
    rows = [[kind, counts[kind], f"`{CAUGHT_BY[kind]}`"] for kind in CAUGHT_BY if counts[kind]]
    return (
        f"{planted} of {lines} lines of raw.jsonl are defective on purpose, each in one way, so "
        "that filters can be measured (notebook 01). Nothing else is known to be wrong. "
        f"{counts[CLEAN]} more entries of the key are clean rows that a clumsy filter drops.\n\n"
        + _grid(["defect", "lines", "filter that finds it"], rows)
    )


_HEAD = """\
<!-- generated by `python -m sft_utils.curation.datacard`; do not edit -->
# Data card: support tickets

Customer mails in English and what a support desk needs from each, as one JSON object
(`schema.json`). The rules of labelling are in `GUIDELINES.md`. Licence of all rows made for this
project: **CC-BY-4.0**. Attribution: "SFT notebooks, support tickets"."""

_FIELDS = """\
A row: `id`, `source`, `licence`, `thread` (mails of one customer conversation share it; splits
must respect it), `style`, `scenario`, `messages` (user: the mail; assistant: the ticket as compact
JSON). The system prompt is not in the data."""

_AUTHORSHIP = """\
- **handwritten**: written one by one for this project with language-model assistance, after the
  guidelines, and checked by program (schema, every fact verbatim in the mail). The scenario names
  the file in `handwritten/`.
- **grammar**: expanded by `grammar.py` from clauses written for this project (`phrases/`). The
  ticket is built from the facts that were written into the mail.
- Rows of raw.jsonl with another source were written for this project as well; source and licence
  in them are invented, so that a licence filter has something to find.

All people, companies, products, addresses, accounts and numbers are invented. `generate.py --check`
rebuilds the files from these sources, byte by byte."""

_USE = """\
## Intended use

Learning and testing fine-tuning recipes: extraction into a fixed schema, data curation, adherence.
raw.jsonl is to be curated before training; test.jsonl is for final scores only.

## Limits

- Mails are short, in English, about shops and services. Nothing here shows how a model does on
  other domains, languages, or real mails.
- One labelling per mail, by its author; agreement between labellers was not measured. Topic,
  action and urgency are judgements, the other fields can be checked against the mail.
- Hand-written and test mails have the same authors: test scores are an upper bound for mails of
  strangers. Half of the grammar test mails come from scenarios that no clean row of raw.jsonl has.
- Planted defects are cleaner than those of found data: one per row, of known kinds.
- Names come from many countries, chosen for variety, not in proportion to any population."""


def main() -> int:
    """Write the card, or with --check compare the committed one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if README.md is stale")
    options = parser.parse_args()
    path, text = TICKETS / "README.md", card()
    if not options.check:
        write_text(path, text)
        return 0
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"{display_path(path)} is stale. Run: python -m sft_utils.curation.datacard")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
