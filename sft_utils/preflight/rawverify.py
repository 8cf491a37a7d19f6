"""Answers a machine can check: JSON against its schema, arithmetic against arithmetic."""

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from sft_utils.preflight.rawanswers import trained_answers
from sft_utils.preflight.rawtext import text_of
from sft_utils.preflight.record import Detector, Finding, RunRecord, spot
from sft_utils.scores.multiples import decimal_multiples
from sft_utils.scores.scoring import parse_json

_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>.*?</\1>\s*", re.S)
_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.S)
JSON_ROWS, JSON_SHARE = 20, 0.9


def structured_answers(record: RunRecord) -> Iterator[Finding]:
    """D9: answers that break the declared schema, and tool calls whose arguments are not JSON."""
    violation: Callable[[Any], str] | None = None
    if record.schema is not None:
        violation, problem = _validator(record.schema)
        if problem:
            yield Finding(
                id="D9",
                severity="FAIL",
                what=f"the schema is not a valid JSON schema: {problem}",
                where="schema",
                fix="repair the schema",
                why="no answer can be checked against it",
            )
    like_json = 0
    doubtful: list[tuple[int, int, str]] = []
    for i, row in enumerate(record.conversations):
        for k, message in trained_answers(record, row):
            if broken := _broken_arguments(message):
                yield _structure_finding(i, k, broken, fatal=not broken.endswith("''"))
                break
            text = text_of(message)
            if message.get("tool_calls") or not text.strip():
                continue
            if violation is not None:
                what, fatal = _violation(text, violation)
                if what:
                    yield _structure_finding(i, k, what, fatal=fatal)
                    break
            elif record.schema is None and text.lstrip()[:1] == "{":
                try:
                    like_json += isinstance(parse_json(text), dict)
                except (ValueError, RecursionError) as error:
                    doubtful.append((i, k, f"the answer is not JSON: {error}"))
    if like_json >= max(JSON_ROWS, JSON_SHARE * len(record.conversations)):
        for i, k, what in doubtful:
            yield _structure_finding(i, k, f"{what}, but {like_json} others are", fatal=False)


def _structure_finding(row: int, turn: int, what: str, *, fatal: bool) -> Finding:
    return Finding(
        id="D9",
        severity="FAIL" if fatal else "WARN",
        what=what,
        where=spot(row, turn),
        fix="repair the answer or drop the row; write answers with json.dumps",
        why="whoever reads the model's output parses it: what is broken here is broken there",
        row=row,
        turn=turn,
    )


def _violation(text: str, check: Callable[[Any], str]) -> tuple[str, bool]:
    """(what is wrong with an answer, is it certain); ("", False) if nothing is."""
    body = _THOUGHT.sub("", text, count=1) if text.lstrip()[:1] == "<" else text
    fence = _FENCE.fullmatch(body)
    try:
        value = parse_json(fence[1] if fence else body)
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}: {body.strip()[:40]!r}", True
    if broken := check(value):
        return f"the answer breaks the schema: {broken}", True
    return (
        ("the JSON stands in a code fence, which the schema's reader must remove", False)
        if (fence)
        else ("", False)
    )


def _validator(schema: Mapping[str, Any]) -> tuple[Callable[[Any], str] | None, str]:
    """A function that names the first violation, or None and what is wrong with the schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        return None, error.message[:120]
    # An explicit registry: references to other files are not fetched from the network.
    exact = decimal_multiples(kind)
    validator = exact(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)

    surely_valid = _shortcut(validator, schema)

    def check(value: Any) -> str:
        if surely_valid(value):
            return ""
        try:
            error = next(iter(validator.iter_errors(value)), None)
        except (Unresolvable, RecursionError):
            return ""  # the schema points elsewhere: nothing can be said
        if error is None:
            return ""
        return f"{'/'.join(map(str, error.absolute_path)) or 'the whole'}: {error.message[:120]}"

    return check, ""


_FLAT = {"$schema", "$id", "title", "description", "type", "properties", "required"}
_REFERENCE = re.compile(r"\$\w*ref", re.I)


def _shortcut(validator: Any, schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """A test that is true only for valid objects, three times as fast as the validator.

    In a flat schema the properties are judged one by one, and their values repeat from row to row:
    one value of one property is judged once.
    """
    properties = schema.get("properties")
    flat = schema.keys() <= _FLAT | {"additionalProperties"} and schema.get("type") == "object"
    if not flat or not isinstance(properties, Mapping) or _REFERENCE.search(str(schema)):
        return lambda value: False
    bare = validator.evolve(schema={**schema, "properties": dict.fromkeys(properties, True)})
    judges = {name: validator.evolve(schema=part) for name, part in properties.items()}
    shapes: dict[frozenset[str], bool] = {}
    known: set[tuple[str, type, Any]] = set()

    def valid(value: Any) -> bool:
        if not isinstance(value, dict) or not value.keys() <= judges.keys():
            return False
        shape = frozenset(value)
        if shape not in shapes:
            shapes[shape] = bare.is_valid(value)
        if not shapes[shape]:
            return False
        for name, part in value.items():
            if isinstance(part, list | dict):
                if not judges[name].is_valid(part):
                    return False
            elif (key := (name, type(part), part)) not in known:
                if not judges[name].is_valid(part):
                    return False
                known.add(key)
        return True

    return valid


def _broken_arguments(message: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of the tool calls of a message, "" if nothing is."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if not isinstance(arguments, str):
            continue
        name = function.get("name")
        try:
            value = parse_json(arguments)
        except (ValueError, RecursionError) as error:
            return f"the arguments of tool call {name!r} are not JSON: {error}: {arguments[:40]!r}"
        if not isinstance(value, dict):
            return f"the arguments of tool call {name!r} are no JSON object: {arguments[:40]!r}"
    return ""


_NOTE = re.compile(r"<<([^<>\n]{3,200})>>")
_PLAIN = re.compile(r"[-+*/().\d\s]+")
_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SIMPLE = re.compile(r"(?P<a>\d+(?:\.\d+)?)(?P<op>[-+*/])(?P<b>\d+(?:\.\d+)?)=(?P<c>\d+(?:\.\d+)?)")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_FINAL = re.compile(r"^####\s*\$?(-?\d[\d,]*(?:\.\d+)?)\s*%?\s*\Z", re.M)
_RESULT = re.compile(r"=\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_IN_WORDS = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|hundreds?|half"
    r"|halves|quarters?|thirds?|thousands?|millions?|twice|doubl\w+|tripl\w+|round\w*)\b",
    re.I,
)


def arithmetic(record: RunRecord) -> Iterator[Finding]:
    """D10: calculator notes `<<48/2=24>>` that are wrong, final numbers the steps do not give."""
    for i, row in enumerate(record.conversations):
        for k, message in trained_answers(record, row):
            text = text_of(message)
            if "<<" not in text and "####" not in text:
                continue
            wrong = next((w for n in _NOTE.findall(text) if (w := wrong_note(n))), "")
            what, fatal = (wrong, True) if wrong else _wrong_final(text)
            if what:
                yield Finding(
                    id="D10",
                    severity="FAIL" if fatal else "WARN",
                    what=what,
                    where=spot(i, k),
                    fix="correct the number or drop the row",
                    why="a derivation that does not lead to its answer teaches the model to guess "
                    "the answer and to decorate it",
                    row=i,
                    turn=k,
                )
                break


def wrong_note(note: str) -> str:
    """Why a calculator note is wrong, "" if it is right, rounded, or no plain arithmetic.

    Example:
        >>> wrong_note("48/2=25")
        '<<48/2=25>>: 48/2 is 24'
        >>> wrong_note("10/3=3.33")
        ''
    """
    if (match := _SIMPLE.fullmatch(note)) and float(match["b"]):
        result = _OPERATIONS[match["op"]](float(match["a"]), float(match["b"]))
        if result == float(match["c"]):
            return ""  # nearly all notes; exact fractions take ten times as long
    sides = note.split("=")
    for left, right in itertools.pairwise(sides):
        lefts, rights = _values(left), _values(right)
        if not lefts or not rights:
            continue
        digits = re.search(r"\.(\d+)", right)
        unit = Fraction(1, 10 ** len(digits[1]) if digits else 1)
        if not any(_agree(a, b, unit) for a in lefts for b in rights):
            return f"<<{note}>>: {left.strip()} is {_shown(lefts[0])}"
    return ""


def _agree(exact: Fraction, stated: Fraction, unit: Fraction) -> bool:
    """Equal, or equal after rounding up or down to the decimals that are stated."""
    difference = abs(exact - stated)
    if difference <= abs(exact) / 1_000_000:
        return True
    return (exact / unit).denominator != 1 and difference < unit


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _values(side: str) -> list[Fraction]:
    """What one side of a note may mean ("20%" is 0.2 or 20); empty if it is no plain arithmetic."""
    if re.search(r"[-+]\s*[\d.]+%", side):
        return []  # "20 + 20%" is 24 for some and 20.2 for others
    side = _GROUPS.sub("", side.replace("$", "").replace("×", "*").replace("÷", "/")).strip()
    readings = [re.sub(r"(\d+(?:\.\d+)?|\.\d+)%", r"(\1/100)", side), side.replace("%", "")]
    values = []
    for reading in readings if "%" in side else readings[:1]:
        if not _PLAIN.fullmatch(reading):
            return []
        try:
            values.append(_evaluate(ast.parse(reading.strip(), mode="eval").body))
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return []
    return values


def _evaluate(node: ast.expr) -> Fraction:
    """The exact value of an expression of + - * / and numbers.

    Raises:
        ValueError: Anything else.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _evaluate(node.left), _evaluate(node.right)
        match node.op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.Div():
                return a / b
    raise ValueError("no plain arithmetic")


def _wrong_final(text: str) -> tuple[str, bool]:
    """(why `#### N` does not follow from the last step, is it certain); ("", False) if it may.

    The last line before it must hold a calculation. It is certain if N stands nowhere in the
    steps, is no rounding, sign or percentage of the result, and no word after the result could
    lead on to it ("= 24, twice as many").
    """
    final = _FINAL.search(text)
    body = text[: final.start()].rstrip() if final else ""
    steps = _NOTE.sub(lambda note: f"={note[1].rpartition('=')[2]} ", body)
    line = steps.rpartition("\n")[2]
    results = list(_RESULT.finditer(line))
    if final is None or not results:
        return "", False
    stated, result = _read(final[1]), _read(results[-1][1])
    if any(abs(stated - value) < 1 for value in (result, -result, result * 100, result / 100)):
        return "", False
    said = {_read(number) for number in _NUMBER.findall(body)}
    if abs(stated) in said or _read(_NUMBER.findall(line)[-1]) != abs(result):
        return "", False
    what = f"the last step gives {_shown(result)}, the final answer says {_shown(stated)}"
    return what, not _IN_WORDS.search(line[results[-1].end() :])


def _read(number: str) -> Fraction:
    return Fraction(number.replace(",", "").rstrip("."))


DETECTORS: tuple[Detector, ...] = (arithmetic, structured_answers)
