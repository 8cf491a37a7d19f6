"""Examples in docstrings run."""

import doctest
import importlib
import re

import pytest

from sft_utils.artifacts import ROOT

EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)
TICKETS = ROOT / "data" / "tickets"
ELSEWHERE = {"sft_utils.preflight.capture", "sft_utils.preflight.stages"}
"""Run by test_preflight_doors.py."""


def with_examples(folder):
    """Dotted names, from the root of the repository, of all files that show an example."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if EXAMPLE.search(path.read_text(encoding="utf-8"))
    }


PACKAGE = with_examples(ROOT / "sft_utils")
MODULES = sorted((PACKAGE - ELSEWHERE) | with_examples(ROOT / "tests" / "bench"))
OF_TICKETS = sorted(name.rpartition(".")[2] for name in with_examples(TICKETS))


def run_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_examples_are_found():
    """Else the tests below would be skipped."""
    assert len(PACKAGE) > 50
    assert PACKAGE > ELSEWHERE
    assert OF_TICKETS


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    run_examples(name)


@pytest.mark.parametrize("name", OF_TICKETS)
def test_examples_of_the_ticket_generator(name, monkeypatch):
    monkeypatch.syspath_prepend(str(TICKETS))  # its files import each other by their bare names
    run_examples(name)
