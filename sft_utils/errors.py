"""Every error this package raises on purpose.

Adding one: derive from `SFTError` and from the closest standard class, so that callers can
catch the family or the plain Python type. A message says what went wrong, what was observed,
where, and how to fix it, in one or two lines.
"""

import contextlib
import re
from collections.abc import Iterator


class SFTError(Exception):
    """Root of the family."""


class ConfigError(SFTError, ValueError):
    """A profile, parameter or setting that cannot work."""


class DataError(SFTError, ValueError):
    """A data file or row that cannot be used."""


class TemplateError(SFTError, ValueError):
    """A chat template that does not render what it is given."""


class MaskError(SFTError, ValueError):
    """Labels that do not cover what they should."""


class ModelError(SFTError, RuntimeError):
    """Model files that are missing, corrupt or not what they claim."""


class PreflightError(SFTError, RuntimeError):
    """A check before, in or after training found a fact that ruins the run."""


class HandoffError(SFTError, FileNotFoundError):
    """A notebook needs the result of an earlier one that is not there."""


class StorageError(SFTError, OSError):
    """A file could not be written; what was there before is untouched."""


class CheckError(SFTError, AssertionError):
    """A named check of a checkpoint cell failed."""


class ServeError(SFTError, RuntimeError):
    """A model server that did not start, answer or stop."""


class LaunchError(SFTError, RuntimeError):
    """Ranks of a training run that did not start as asked, died, or stood still."""


class RunnerError(SFTError, RuntimeError):
    """A notebook could not be built, executed, published or compared."""


@contextlib.contextmanager
def expect_error(kind: type[BaseException], match: str = "") -> Iterator[None]:
    """Run a block that must fail; print the message in one line, raise if nothing fails.

    papermill stops at a cell that raises even if it is tagged `raises-exception`, so the
    notebooks break things inside this block.

    Args:
        kind: The exception class the block must raise.
        match: Regular expression that must occur in the message.
    Raises:
        CheckError: The block did not raise, or the message does not match.
    Example:
        >>> with expect_error(DataError, match="line 3"):
        ...     raise DataError("broken JSON in line 3")
        DataError (expected): broken JSON in line 3
    """
    try:
        yield
    except kind as error:
        text = str(error)
        if not re.search(match, text):
            raise CheckError(f"expected a message matching {match!r}, got: {text}") from error
        print(f"{type(error).__name__} (expected): {text}")
    else:
        raise CheckError(f"expected {kind.__name__}, but the block finished without an error")
