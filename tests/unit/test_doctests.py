"""Examples in docstrings run."""

import doctest
import importlib

import pytest

WITH_EXAMPLES = (
    "constrain", "coverage", "data", "documents", "duplicates", "errors", "filters", "generation", "grounding",
    "jsonanswers", "layouts", "loading", "nbcompare", "nbparams", "personal", "readme", "schemas",
    "schematext", "outlines", "handover", "preferences", "scoring", "taxonomy",
)  # fmt: skip


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"sft_utils.{name}"))
    assert result.attempted
    assert not result.failed
