"""What every `data/*/generate.py` does with its files: write them, or compare them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sft_utils.artifacts import display_path, write_text
from sft_utils.errors import DataError

START, END = "<!-- counts: begin -->", "<!-- counts: end -->"


def with_counts(card: str, counts: str) -> str:
    """A data card with the part between its two marks replaced.

    Args:
        card: Markdown that holds the marks `START` and `END` once each, in this order.
        counts: Markdown table; blank lines around it are put here.
    Raises:
        DataError: A mark is missing, doubled or out of order.

    Example:
        >>> with_counts(f"# Card\\n{START}\\nold\\n{END}\\nrest", "| new |\\n").splitlines()
        ['# Card', '<!-- counts: begin -->', '', '| new |', '', '<!-- counts: end -->', 'rest']
    """
    if card.count(START) != 1 or card.count(END) != 1 or card.index(START) > card.index(END):
        raise DataError(
            f"the data card must hold {START} and then {END}, once each; "
            f"found {card.count(START)} and {card.count(END)}. Put the two marks back around "
            "the table."
        )
    head, rest = card.split(START)
    return f"{head}{START}\n\n{counts.strip()}\n\n{END}{rest.split(END)[1]}"


def different(files: dict[str, str], folder: Path) -> list[str]:
    """Names of files that are missing in `folder` or hold other bytes."""
    return [
        name
        for name, text in files.items()
        if not (folder / name).exists() or (folder / name).read_bytes() != text.encode()
    ]


def command_line(
    build: Callable[[], dict[str, str]], folder: Path, argv: Sequence[str] | None = None
) -> int:
    """The command line of a generator: write its files, or with --check only compare.

    Args:
        build: Gives the text of every file by its path below `folder`.
        folder: Where the committed files stand; --out writes to another place.
    Returns:
        1 if --check found a difference, otherwise 0.
    """
    parser = argparse.ArgumentParser(description=f"Generate the files of {display_path(folder)}.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    parser.add_argument("--out", type=Path, default=folder, help="folder to write to")
    args = parser.parse_args(argv)
    files = build()
    if not args.check:
        for name, text in files.items():
            write_text(args.out / name, text)
        print(f"{len(files)} files written to {display_path(args.out)}")
        return 0
    wrong = different(files, args.out)
    for name in wrong:
        print(
            f"{display_path(args.out / name)} differs from what the generator writes. "
            "Run it without --check."
        )
    return 1 if wrong else 0
