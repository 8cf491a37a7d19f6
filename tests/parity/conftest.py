"""Fixtures of the tests that look at what TRL does; `stack` is imported late, it loads TRL."""

import functools

import pytest


@pytest.fixture
def sft(tiny, tokenizer, tmp_path):
    """Builds a trainer for one step of the tiny model."""
    import stack

    return functools.partial(stack.build, model=tiny, tokenizer=tokenizer, folder=tmp_path)


@pytest.fixture
def marked(tokenizer):
    """The tokenizer with a template that marks answers."""
    import stack

    return stack.variant(tokenizer, stack.CHATML)
