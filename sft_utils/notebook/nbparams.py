"""Notebook parameters given on the command line: known, typed, or refused."""

import ast
import difflib
import shlex
from collections.abc import Iterable, Mapping

from nbformat import NotebookNode

from sft_utils.config import check_parameters
from sft_utils.errors import ConfigError
from sft_utils.notebook.nbsource import code_cells

TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "str"}
Scalar = str | int | float | bool


def defaults(nb: NotebookNode) -> dict[str, Scalar]:
    """The parameters of a notebook with their default values.

    Read from the syntax tree of the cell tagged `parameters`: papermill's own inspection
    skips a line whose comment holds a "=".

    Raises:
        ConfigError: A parameter is no plain str, int, float or bool.
    """
    found: dict[str, Scalar] = {}
    cells = [c for c in code_cells(nb) if "parameters" in c.metadata.get("tags", [])]
    for node in ast.parse(cells[0].source).body if cells else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, value = node.target.id, node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        else:
            continue
        try:
            default = ast.literal_eval(value) if value else None
        except ValueError:
            default = None
        if type(default) not in TYPE_NAMES:
            raise ConfigError(
                f"parameter {name!r} must have a plain str, int, float or bool as its default; "
                "only such values can be given on the command line"
            )
        found[name] = float(default) if _annotated_float(node) else default
    return found


def _annotated_float(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "float"


def split(pairs: Iterable[str]) -> dict[str, str]:
    """Split `name=value` items; one item may hold several, quoted as in a shell.

    An item of the form `name==value` is one value, taken as it is: a path with blanks or quotes.

    Raises:
        ConfigError: An item has no "=", a name occurs twice, or a quote is not closed.
    Example:
        >>> split(["max_steps=10 seed=3", "note='two words'"])
        {'max_steps': '10', 'seed': '3', 'note': 'two words'}
        >>> split(["data==my file's rows.csv"])
        {'data': "my file's rows.csv"}
    """
    given: dict[str, str] = {}
    for text in pairs:
        name, verbatim, value = text.partition("==")
        items = [f"{name}={value}"] if verbatim and name.isidentifier() else _shell_words(text)
        for item in items:
            name, equals, value = item.partition("=")
            if not (equals and name):
                raise ConfigError(f"parameter {item!r} is not of the form name=value")
            if name in given:
                raise ConfigError(f"parameter {name!r} is given twice")
            given[name] = value
    return given


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"parameters {text!r}: {error}. Close the quote.") from error


def convert(
    notebook: str, known: Mapping[str, Scalar], given: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Check names and types of given parameters against the notebook's defaults.

    Args:
        notebook: Name for the messages.
        known: Defaults of the notebook.
        given: Values as text (command line) or typed (a recorded run).
    Returns:
        The typed values that differ from their defaults, so that a value that only repeats
        the default is the same run.
    Raises:
        ConfigError: An unknown name (the closest known one is suggested), a wrong type, a number
            out of bounds, or `profile`, which has its own option.
    """
    changed = {}
    for name, value in given.items():
        if name == "profile":
            raise ConfigError(f"give the profile as PROFILE={value} (--profile {value})")
        if name not in known:
            others = [k for k in known if k != "profile"]
            close = difflib.get_close_matches(name, others, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(others)}"
            raise ConfigError(f"notebook {notebook} has no parameter {name!r}; {hint}")
        typed = _typed(notebook, name, value, type(known[name]))
        check_parameters({name: typed})
        if typed != known[name]:
            changed[name] = typed
    return changed


def _typed(notebook: str, name: str, value: Scalar, kind: type) -> Scalar:
    if isinstance(value, str):
        if kind is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            if kind is not bool:
                return kind(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    elif kind is float and type(value) is int:
        return float(value)
    expected = "true or false" if kind is bool else TYPE_NAMES[kind]
    raise ConfigError(f"parameter {name} of {notebook} must be {expected}, not {value!r}")
