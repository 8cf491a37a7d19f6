"""Structured answers that are not JSON: XML, cited prose, Markdown reports.

Each check gives a `Verdict`: valid or not, every reason, and the answer's fields by path as
`jsonanswers.flatten` names them, so that `scoring.field_counts(answer.fields, gold.fields)` works
for all formats. A check never raises for an answer, only for a specification that cannot work.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT
from sft_utils.errors import ConfigError
from sft_utils.scores.jsonanswers import flatten, load_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one answer is worth by its format's rules."""

    valid: bool  # no reason against it
    reasons: tuple[str, ...]  # each rule that is broken, with what was observed
    fields: dict[str, Any] = field(default_factory=dict)  # leaf values by path; {} if unreadable


def _verdict(reasons: list[str], fields: Any) -> Verdict:
    return Verdict(valid=not reasons, reasons=tuple(reasons), fields=flatten(fields))


# --- XML --------------------------------------------------------------------------------------

# Atomic group: without it, a row of comments can be split up in exponentially many ways.
_DOCTYPE = re.compile(r"\s*(?>(?:<\?.*?\?>\s*|<!--.*?-->\s*)*)<!DOCTYPE", re.S)
_XSD, _XSI = "{http://www.w3.org/2001/XMLSchema}", "{http://www.w3.org/2001/XMLSchema-instance}"


def check_xml(text: str, xsd: str | Path) -> Verdict:
    """Is an answer well-formed XML that satisfies an XSD?

    A DOCTYPE is refused before the parser sees it: without one there are no entities to expand
    (billion laughs) and no external files to read. Hints at other schemas (xsi:schemaLocation)
    are not followed: the answer does not choose what it is measured by.

    Args:
        text: The answer, one XML document and nothing else.
        xsd: The schema, as text or as a path relative to the repository root.
    Returns:
        Fields are texts of leaf elements and attributes (`@name`). An element that the schema lets
        occur more than once is numbered even if it occurs once.
    Raises:
        ConfigError: The schema is no XSD.
    Example:
        >>> xsd = ('<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">'
        ...        '<xs:element name="n" type="xs:int"/></xs:schema>')
        >>> check_xml("<n>x</n>", xsd).reasons
        ("line 1: Element 'n': 'x' is not a valid value of the atomic type 'xs:int'.",)

    Source: lxml.de/FAQ.html (How do I use lxml safely as a web-service endpoint?)
    """
    from lxml import etree

    schema, repeated = _xsd(str(xsd))
    if _DOCTYPE.match(text.removeprefix("\ufeff")):
        return _verdict(["a DOCTYPE is refused: it can define entities and name files"], {})
    try:  # bytes, because lxml refuses str with an encoding declaration
        root = etree.fromstring(text.strip(" \t\n\r").encode("utf-8"), _parser())
    except UnicodeEncodeError as error:
        return _verdict([f"not well-formed: {error.reason} at character {error.start}"], {})
    except etree.XMLSyntaxError as error:
        return _verdict([f"not well-formed: {error.msg}"], {})
    reasons = []
    if not schema.validate(root):
        reasons = [f"line {e.line}: {e.message}" for e in schema.error_log]
    return _verdict(reasons, {_local(root): _element(root, repeated)})


def _parser() -> Any:
    from lxml import etree

    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        encoding="utf-8",  # whatever the declaration claims: the answer is text already
    )


@lru_cache(maxsize=16)
def _xsd(source: str) -> tuple[Any, frozenset[str]]:
    """The compiled schema, and names of elements that may occur more than once."""
    from lxml import etree

    if not source.lstrip().startswith("<"):
        path = ROOT / source
        if not path.is_file():
            raise ConfigError(f"no XSD at {source}. Give a path below the repository, or its text.")
        source = path.read_text(encoding="utf-8")
    try:
        tree = etree.fromstring(source.encode("utf-8"), _parser())
        schema = etree.XMLSchema(tree)
    except (etree.XMLSyntaxError, etree.XMLSchemaParseError) as error:
        raise ConfigError(f"not an XSD: {error}") from error
    repeated = set()
    for node in tree.iter(f"{_XSD}element", f"{_XSD}sequence", f"{_XSD}choice"):
        if node.get("maxOccurs", "1") not in ("0", "1"):
            inside = [node] if node.tag == f"{_XSD}element" else node.findall(f"{_XSD}element")
            repeated |= {(e.get("name") or e.get("ref", "")).split(":")[-1] for e in inside}
    return schema, frozenset(repeated)


def _local(node: Any) -> str:
    return str(node.tag).rpartition("}")[2]


def _element(node: Any, repeated: frozenset[str]) -> Any:
    """An element as nested dicts and lists; a leaf is its text, None if it is empty."""
    fields: dict[str, Any] = {
        f"@{name.rpartition('}')[2]}": value
        for name, value in node.attrib.items()
        if not name.startswith(_XSI)  # xsi:type and the like speak about the document
    }
    leaf = next(node.iterchildren("*"), None) is None  # comments inside cut no value
    text = ("".join(node.itertext()) if leaf else node.text or "").strip()
    for child in node.iterchildren("*"):
        fields.setdefault(_local(child), []).append(_element(child, repeated))
    if not fields:
        return text or None
    for name, children in fields.items():
        if isinstance(children, list) and len(children) == 1 and name not in repeated:
            fields[name] = children[0]
    return fields | ({"#text": text} if text else {})


# --- citations --------------------------------------------------------------------------------

_MARKER = re.compile(r"\[(\d+)\]")
# A sentence ends at . ! ? (its markers may follow) before a blank and no lower-case letter.
_END = re.compile(
    r"[.!?][\"'”’)]*(?:\s*\[\d+\])*(?=\s+[^a-zß-öø-ÿ\s]|\s*$)|\n\s*\n|\n(?=\s*[^a-zß-öø-ÿ\s])"
)
_NO_END = re.compile(
    r"\s*\d+\.|.*(?:\b[A-Z]|\b(?:Dr|Mr|Mrs|Ms|Prof|St|Nos?|vs|approx|e\.g|i\.e|cf))\.", re.S
)
# "It is in hall B. The museum", "in the U.S. It opens"; not "J. A. Smith", "A. The museum"
_LETTER = re.compile(r"(?:[a-zß-öø-ÿ]\s+|\b[A-Z]\.)[A-Z]\.\Z")
_STARTS = re.compile(r"(?:The|Th[a-z]{2,3}|Its?|We|You|S?[Hh]e|An?|In|On|At|For|If|All)\b(?!\.)")
_ITEM = re.compile(r"\A\s*(?:[-*+]|\d+[.)])\s+")  # the sign in front of a list item says nothing
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after all also an and any are as at be because been before being between both
        but by can could did do does during each for from had has have he her his how if in
        into is it its may might more most must no nor not of on only or other our over she
        should since so some such than that the their them then there these they this those
        through to under until up was we were what when where which while who will with
        within without would you your""",
    )
)
MIN_SUPPORT = 0.5
"""Share of content words that a cited passage must hold: chosen, not calibrated on pairs."""


def check_citations(
    text: str, passages: Sequence[str], *, min_support: float = MIN_SUPPORT
) -> Verdict:
    """Does every sentence cite a passage that exists and says so?

    Support is measured by words, which catches a wrong source and an invented number, not a
    reversed claim: "opens on Monday" supports "never opens on Monday".

    Args:
        text: Prose whose sentences carry markers: [1] is the first passage.
        passages: What may be cited.
        min_support: Share of a sentence's content words that its passages must hold.
    Returns:
        Fields are the passage numbers by sentence, `sentences/0/cites/0`.
    Example:
        >>> check_citations("The museum opens at 9 [1].", ["The museum opens at 10."]).reasons
        ('sentence 1: number 9 is not in [1]',)
    """
    reasons: list[str] = []
    cited: list[dict[str, list[int]]] = []
    for i, sentence in enumerate(sentences(text), 1):
        numbers = sorted({int(n) for n in _MARKER.findall(sentence)})
        cited.append({"cites": numbers})
        unknown = [n for n in numbers if not 1 <= n <= len(passages)]
        reasons += [f"sentence {i}: [{n}] does not exist (1..{len(passages)})" for n in unknown]
        sources = "\n".join(passages[n - 1] for n in numbers if n not in unknown)
        if not numbers:
            reasons.append(f"sentence {i} cites nothing: {sentence[:60]!r}")
        elif not unknown:
            share, missing = support(sentence, sources)
            names = "".join(f"[{n}]" for n in numbers)
            reasons += [f"sentence {i}: number {number} is not in {names}" for number in missing]
            if share < min_support:
                reasons.append(f"sentence {i}: {names} holds {share:.0%} of its content words")
    if not cited:
        reasons.append("no sentence")
    rest = re.split(_MARKER, text)[-1].strip(" \t\n\r.!?\"'”’)")
    if cited and rest and any(s["cites"] for s in cited):
        reasons.append(f"text after the last marker: {rest[:60]!r}")
    return _verdict(reasons, {"sentences": cited})


def sentences(text: str) -> list[str]:
    """Sentences with their markers, which may stand before or behind the full stop.

    Example:
        >>> sentences("Dr. Ito paid 3.50 [1]. He left. [2] Why? [1][2]")
        ['Dr. Ito paid 3.50 [1].', 'He left. [2]', 'Why? [1][2]']
        >>> sentences("It is in hall B. The tour with J. A. Ito starts there [1].")
        ['It is in hall B.', 'The tour with J. A. Ito starts there [1].']
    """
    found, start = [], 0
    for match in _END.finditer(text):
        until, rest = text[start : match.end()], text[match.end() :].lstrip()
        if rest and _goes_on(until, rest):
            continue
        found.append(until)
        start = match.end()
    found.append(text[start:])
    return [_ITEM.sub("", s).strip() for s in found if re.search(r"\w", _MARKER.sub("", s))]


def _goes_on(until: str, rest: str) -> bool:
    """Is the full stop that a text ends with one of a list number, an initial, an abbreviation?"""
    if _NO_END.fullmatch(until) and re.search(r"\bNos?\.\Z", until):  # not "No. I think so."
        return bool(re.match(r"#?[A-Z]{0,3}-?\d|(?:[IVXLC]{2,}|[VX]|I and)\b", rest))
    return bool(_NO_END.fullmatch(until)) and not (_LETTER.search(until) and _STARTS.match(rest))


def support(sentence: str, passage: str) -> tuple[float, list[str]]:
    """Share of a sentence's content words found in a passage, and numbers that are not in it.

    A word counts as found if a word of the passage begins alike ("opened", "opens"); a number only
    if it is equal (1,200 and 1200; 3.50 and 3.5). A sentence without content words scores 1.

    Example:
        >>> support("It opened 1,200 new rooms [1].", "The hotel opens 1200 rooms.")
        (0.6666666666666666, [])
    """
    body = _MARKER.sub(" ", sentence)
    words, there = _content(body), set(_content(passage))
    stems = [w[: max(4, len(w) - 3)] for w in words]
    hits = sum(any(t.startswith(stem) for t in there) for stem in stems)
    known = {_number(n) for n in _NUMBER.findall(passage)}
    missing = [n for n in _NUMBER.findall(body) if _number(n) not in known]
    return (hits / len(words) if words else 1.0), list(dict.fromkeys(missing))


def _content(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]{3,}", unicodedata.normalize("NFKC", text).casefold())
    return [w for w in dict.fromkeys(words) if w not in _STOPWORDS]


def _number(digits: str) -> str:
    """One spelling per number: commas before three digits group, the point is decimal."""
    digits = re.sub(r",(?=\d{3}(?!\d))", "", digits).replace(",", ".")
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


# --- reports ----------------------------------------------------------------------------------

_BULLET = re.compile(r" ?[-*+]\s+(\S.*)")
_STATUS = re.compile(r"Status:[ \t]*(.*?)[ \t]*")
_SPEC = {"title", "headings", "level", "bullets", "status"}


def check_report(text: str, spec: dict[str, Any] | str | Path) -> Verdict:
    """Does a Markdown report have the sections, bullets and status asked for?

    Args:
        text: The answer.
        spec: Object, JSON text or path. `headings`: titles in order; `level`: number of # signs
            (2); `bullets`: [least, most] per title, top level only; `status`: values allowed in
            the one line `Status: ...`; `title` is for readers.
    Returns:
        Fields are `Status` and each section: its bullets by index, or its text.
    Raises:
        ConfigError: The specification has unknown or impossible entries.
    Example:
        >>> spec = {"headings": ["Facts"], "bullets": {"Facts": [1, 2]}, "status": ["open"]}
        >>> check_report("Status: shut\\n## Facts\\nNone.", spec).reasons
        ("Status is 'shut', not one of open", 'Facts: 0 bullets, expected 1 to 2')
    """
    rules = _spec(spec)
    sections, status = _sections(text, rules["level"])
    reasons: list[str] = []
    if "status" in rules:
        allowed = ", ".join(rules["status"])
        if len(status) != 1:
            reasons.append(f"{len(status)} Status lines, expected one of {allowed}")
        elif status[0] not in rules["status"]:
            reasons.append(f"Status is {status[0]!r}, not one of {allowed}")
    titles, wanted = [title for title, _ in sections[1:]], rules["headings"]
    if titles != wanted:
        reasons.append(f"headings are {titles}, expected {wanted}")
    if lead := " ".join(sections[0][1]).strip():
        reasons.append(f"text before the first heading: {lead[:60]!r}")
    fields: dict[str, Any] = {"Status": status[0]} if len(status) == 1 else {}
    for title, lines in sections[1:]:
        bullets = [m[1].strip() for line in lines if (m := _BULLET.fullmatch(line))]
        body = " ".join(s for line in lines if (s := line.strip()) and line[0] != "#")
        least, most = rules.get("bullets", {}).get(title, (0, len(bullets)))
        if not body:
            reasons.append(f"{title}: empty")
        elif not least <= len(bullets) <= most:
            reasons.append(f"{title}: {len(bullets)} bullets, expected {least} to {most}")
        fields.setdefault(title, bullets or body)
    return _verdict(reasons, fields)


def _spec(spec: dict[str, Any] | str | Path) -> dict[str, Any]:
    rules = {"level": 2} | load_schema(spec)
    if unknown := rules.keys() - _SPEC:
        raise ConfigError(f"report spec: unknown {sorted(unknown)}; known are {sorted(_SPEC)}")
    headings = rules.get("headings")
    if not headings or len(set(headings)) != len(headings):
        raise ConfigError(f"report spec: headings must be a list of different titles: {headings}")
    for title, bounds in rules.get("bullets", {}).items():
        if title not in headings or len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
            why = "a title of `headings` and [least, most]"
            raise ConfigError(f"report spec: bullets need {why}: {title!r}: {bounds}")
    return rules


def _sections(text: str, level: int) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(title, lines) per section, the part before the first heading first; and all statuses."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    status, fenced = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith(("```", "~~~"))
        fenced ^= fence  # a # in a code block is no heading
        heading = re.fullmatch(rf"#{{{level}}}[ \t]+(.*?)[ \t#]*", line)
        if heading and not fenced:
            sections.append((heading[1], []))
        elif not fenced and (match := _STATUS.fullmatch(line)):
            status.append(match[1])
        elif not fence:
            sections[-1][1].append(f"    {line}" if fenced else line)
    return sections, status
