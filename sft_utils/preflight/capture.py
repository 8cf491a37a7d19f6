"""What the libraries say while a run is built: in a headless notebook nobody reads it."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

LIBRARIES = ("trl", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "unsloth")
"""Loggers that are listened to; their own handlers stay."""


class _Listener(logging.Handler):
    """Keeps warnings as text."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(f"{record.name}: {record.getMessage()}")


@contextlib.contextmanager
def library_warnings() -> Iterator[list[str]]:
    """Collect Python warnings and log messages of the training libraries.

    Log messages come in order, Python warnings follow when the block ends (also by an exception).
    A logger that was told to be quiet is heard, but prints no more than before. A message that a
    library gives once per process is heard only the first time.

    Example:
        >>> with library_warnings() as said:
        ...     logging.getLogger("trl").warning("the stop token is outside the mask")
        >>> said
        ['trl: the stop token is outside the mask']
    """
    messages: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with contextlib.ExitStack() as stack:
            for name in LIBRARIES:
                stack.enter_context(_heard(logging.getLogger(name), _Listener(messages)))
            caught = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            yield messages
    finally:
        messages += [f"{w.category.__name__}: {w.message}" for w in caught]


@contextlib.contextmanager
def _heard(logger: logging.Logger, listener: logging.Handler) -> Iterator[None]:
    """Attach a listener; a level above WARNING moves from the logger to its other handlers."""
    level, propagate = logger.level, logger.propagate
    others = [(handler, handler.level) for handler in logger.handlers]
    quiet = level > logging.WARNING
    if quiet:
        logger.setLevel(logging.WARNING)
        logger.propagate = False  # handlers further up know nothing of the level
        for handler, before in others:
            handler.setLevel(max(before, level))
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        if quiet:
            logger.setLevel(level)
            logger.propagate = propagate
            for handler, before in others:
                handler.setLevel(before)
