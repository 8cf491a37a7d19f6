"""Commands that texts and messages print are there: make targets, modules, scripts."""

import re
from pathlib import Path

import pytest

from sft_utils.artifacts import ROOT

TEXTS = sorted(
    path for pattern in ("*.md", "Makefile", "*.yml", "data/**/*.md", "notebooks/src/*.py", "notebooks/*.yaml",
                         "notebooks/cluster/*", "outputs/*.md", "requirements/*", "sft_utils/**/*.md",
                         "sft_utils/**/*.py", "tests/**/*.py", ".ci/*")
    for path in ROOT.glob(pattern) if path.is_file() and path != Path(__file__)
)  # fmt: skip
OURS = ("sft_utils", "tests", "data")


def said(pattern):
    """What a pattern finds -> the places where it stands."""
    found = {}
    for path in TEXTS:
        for match in re.finditer(pattern, path.read_text(encoding="utf-8")):
            found.setdefault(match[1], []).append(str(path.relative_to(ROOT)))
    return found


def module_file(name):
    path = ROOT.joinpath(*name.split("."))
    return [p for p in (path.with_suffix(".py"), path / "__main__.py") if p.is_file()]


def test_modules_that_are_to_be_started_exist():
    """Rooms became folders, and two of these commands stayed behind in a README."""
    named = said(r"python3? -m ([a-z_]\w*(?:\.\w+)+|sft_utils\b)")
    ours = {name: places for name, places in named.items() if name.split(".")[0] in OURS}
    assert len(ours) > 8
    gone = {name: places for name, places in ours.items() if not module_file(name)}
    assert not {name: places for name, places in gone.items() if name != "sft_utils.x"}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(text):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    # In code, as a command of a block, or behind "Run:": elsewhere "make" is a word.
    block = "^    |" if text.suffix == ".md" else ""
    command = rf"(?:`|{block}[Rr]un: |&& )make (?:-\w )?([a-z][a-z-]*)"
    assert set(re.findall(command, text.read_text(encoding="utf-8"), flags=re.M)) <= targets
