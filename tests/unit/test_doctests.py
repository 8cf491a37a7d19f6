"""Examples in docstrings run."""

import doctest
import importlib

import pytest

WITH_EXAMPLES = (
    "answercheck", "clusters", "constrain", "coverage", "data", "dialogues", "documents",
    "duplicates", "errors", "filters", "general", "generation", "grounding", "handover",
    "jsonanswers", "languages", "layouts", "loading", "nbcompare", "nbparams", "outlines",
    "personal", "preferences", "puzzles", "readme", "rules", "sandbox", "schemas", "schematext",
    "scoring", "statetraces", "taxonomy", "tracefaults", "traces",
)  # fmt: skip


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"sft_utils.{name}"))
    assert result.attempted
    assert not result.failed
