"""Rules of a system prompt as code: did a reply keep the rule?

A rule is a dict: {"kind": family, ...parameters}. Families and parameters:
language(language), length(max_words | sentences), forbidden(words), persona(name, where),
format(ends_with | starts_with | bullets | case), refusal(topic), style(no | address).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.errors import ConfigError
from sft_utils.task.languages import NAMES, detect

Rule = Mapping[str, Any]
KINDS = ("language", "length", "forbidden", "persona", "format", "refusal", "style")

LINE_MARK = re.compile(r"^\s*(?:[-*+•–]\s+|\d+[.)]\s+|#{1,6}\s+|>\s+)+", re.MULTILINE)
BULLET = re.compile(r"^\s*[-*•]\s+\S")
EMPHASIS = re.compile(r"\*\*|__|`+|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
SIGNATURE = re.compile(r"\s*[—–~-]{1,2}\s*[^\W\d_]+(?: [^\W\d_]+)?\.?$")
ENDING = re.compile(r"\s*(?:\[[^\]]*\]|\([^)]*\)|<[^>]*>|[#~/=+]+ ?\w*)$")
SPLIT = re.compile(r"(?<=[.!?…])[\"'»”)]*\s+")
_GOES_ON = r"[^\W_](?<![A-ZÀ-ÖØ-Þ])|\("  # a small letter, a digit, a bracket
_DAYS = (
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:[a-z]*days?)?\b|(?:Jan|Feb)(?:[a-z]*ary)?\b|Mar(?:ch)?\b"
    r"|Apr(?:il)?\b|May \d|June?\b|July?\b|Aug(?:ust)?\b|(?:Sep|Oct|Nov|Dec)(?:[a-z]*ber)?\b"
)
ABBREVIATION = re.compile(  # its full stop ends no sentence
    r"\b(?:z\. ?B|d\. ?h|u\. ?a|e\.g|i\.e|approx|Mr|Mrs|Ms|Dr|St|ca|Sr|Sra|M|Mme|vs)\.(?= \S)"
    r"|\b(?:[Nn]r|No)\.(?= #?[A-Z]{0,3}-?\d)"
    rf"|\betc\.(?= (?:{_GOES_ON}))"
    rf"|(?<=\d )[ap]\.m\.(?= (?:{_GOES_ON}|{_DAYS}|[A-Z]{{2,4}}\b))"  # "7 a.m. Monday", "a.m. CET"
    r"|\b\d{1,2}\.(?= (?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez))"
)
CONTRACTION = re.compile(
    r"\b[a-z]+n't\b|\b[a-z]+'(?:m|re|ve|ll|d)\b"
    r"|\b(?:it|that|what|here|there|who|he|she|let|how|where|when|everything|name)'s\b",
    re.IGNORECASE,
)
ADDRESS = {  # language: (formal words, informal words); German formal words are capitalised
    "de": (r"\b(?:Sie|Ihnen|Ihr(?:e[nmrs]?)?)\b", r"(?i:\b(?:du|dich|dir|dein(?:e[nmrs]?)?)\b)"),
    "fr": (r"(?i:\b(?:vous|votre|vos)\b)", r"(?i:\b(?:tu|te|toi|ton|ta|tes)\b|\bt'(?=\w))"),
    "es": (r"(?i:\b(?:usted|ustedes)\b)", r"(?i:\b(?:tú|te|ti|tu|tus|contigo)\b)"),
}
_HELP_BUT = r"help(?!\s+but\s+(?!(?:the|our|my|your|an?|please|this|i|we|you|they|there)\b))"
_GIVE = (  # "I cannot give you more than two towels" is an answer
    r"(?:give(?!\s+(?:up(?!\s+(?:any|details|information)\b)|in(?!-)|way)\b)"
    r"(?!\s+(?:\w+\s+){0,2}more\s+than\b)"
    r"|offer(?=\s+(?:\w+\s+){0,2}(?:advice|opinions?|information|guidance|help|assistance)\b))"
)
_ANSWER = r"(?:answer|discuss|comment|speak|talk|say|advise|help|assist)\b"
_DECLINE = (  # what is asked: not "We must decline cards", nor "We never decline."
    r"(?:(?:am|afraid|must|have|need|will|would|like|to|going|therefore|respectfully|politely)\s+)"
    rf"{{0,4}}declin(?:e|ing)(?=\s*(?:[.,;:!?–-]|$|to\s+{_ANSWER}|(?:this|that|your)\b))"
)
# Who cannot *help* refuses, whoever the subject is ("Mira kann dabei nicht helfen"); that somebody
# cannot speak or give may be a rule of the house, unless it is the speaker.
REFUSAL = re.compile(
    r"\b(?:i|we)\b(?:\s+(?:am|are|really|also|just))*'?(?:m|re)?\s*(?:\w+\s+)?"
    r"(?:can ?not|can't|could not|couldn't|not (?:able|allowed|permitted|qualified) to|unable to|"
    rf"may not|must not|won't|will not)\s+(?:\w+\s+){{0,2}}?(?:{_HELP_BUT}|assist|discuss|talk|"
    rf"speak|answer|comment|advise|{_GIVE}|share|say|provide|tell|disclose|engage|comply|"
    r"go\s+(?:\w+\s+){0,2}?(?:into|through|over))\b"
    rf"|\b(?:i|we)\b(?:'ll|'m|'d)?\s+{_DECLINE}"
    rf"|\b(?:i|we)(?:\s*'d|\s+would)?\s+(?:rather|prefer)\s+not\s+(?:to\s+)?{_ANSWER}"
    r"|\b(?:i|we)\s+(?:do\s+not|don't|never)\s+(?:discuss|(?:talk|speak)\s+about|comment\s+on|"
    r"advise\s+on)\b"
    r"|\bnot (?:something|a topic|a subject) (?:that )?(?:i|we) (?:can|may)\b"
    r"|\b(?:kann|können|darf|dürfen)\b[^.!?]{0,60}\b(?:nicht|keine?n?)\b[^.!?]{0,40}\b(?:weiter)?"
    r"(?:helfen|beantworten|auskunft|beraten)\b"
    r"|\b(?:ich (?:kann|darf)|(?:kann|darf) ich|wir (?:können|dürfen)|(?:können|dürfen) wir)\b"
    r"[^.!?]{0,60}\b(?:nicht|keine?n?)\b[^.!?]{0,40}\b(?:sagen|sprechen|geben|äußern|reden)\b"
    r"|\b(?:(?:ich|wir) (?:möchten?|werden?)|(?:möchten?|werden?) (?:ich|wir))\b"
    r"[^.!?]{0,60}\bnicht\b[^.!?]{0,40}\b(?:sprechen|äußern|reden|beantworten)\b"
    r"|\bne (?:peux|peut|pouvons|puis)(?: malheureusement)? pas\b[^.!?]{0,40}"
    r"(?:aider|répondre|conseiller|renseigner)\b"
    r"|\b(?:je|nous) ne (?:peux|pouvons|puis)(?: malheureusement)? pas\b[^.!?]{0,40}"
    r"(?:parler|donner|dire|discuter)\b"
    r"|\b(?:je préfère|nous préférons) ne pas (?:en |y )?(?:parler|discuter|répondre|commenter)\b"
    r"|\bno (?:le |te |les )?(?:puedo|podemos|puede)\b[^.!?]{0,30}\b(?:ayudar|responder|aconsejar|"
    r"informar)"
    r"|\bno (?:le |te |les )?(?:puedo|podemos)\b[^.!?]{0,30}\b(?:hablar|decir|dar|comentar)"
    r"|\b(?:prefiero|preferimos) no (?:hablar|responder|comentar|opinar)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A fact that the user gave in the first turn and asks for now."""

    fact: str  # what kind of fact
    value: str  # as it should occur in the reply
    distance: int  # turns between giving and asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request of the user and the reply that keeps all rules."""

    user: str
    reply: str = ""
    asks: Ask | None = None
    trap: bool = False  # the user claims to be the system, or asks to drop the rules
    refuse: bool = False  # a rule forbids the topic
    borderline: bool = False  # sounds like a forbidden topic and is innocent
    imposed: str = ""  # a name that a trap wants the assistant to take


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a rule was kept, and what was seen."""

    kept: bool
    reason: str


def plain(reply: str) -> str:
    """A reply without Markdown marks, with straight quotes, without quotes around all of it."""
    text = reply.replace("’", "'").replace("‘", "'").strip()
    text = EMPHASIS.sub("", LINE_MARK.sub("", text)).strip()
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "„“", "«»"):
        text = text[1:-1].strip()
    return text


def count_words(reply: str) -> int:
    """Words as people count them: what stands between blanks and holds a letter or digit.

    Example:
        >>> count_words("- **Well-known** rooms: 12, at 7.30 -- d'accord?")
        6
    """
    return sum(any(c.isalnum() for c in part) for part in plain(reply).split())


def count_sentences(reply: str) -> int:
    """Sentences: pieces that end in . ! ? or a line; a signature or an end mark is none.

    Example:
        >>> count_sentences("It opens at 7.30 a.m. on weekdays. – Mira")
        1
    """
    total = 0
    for line in plain(reply).splitlines():
        text = ENDING.sub("", SIGNATURE.sub("", ENDING.sub("", line.strip())))
        text = ABBREVIATION.sub(lambda m: m.group().replace(".", "\0"), text)
        total += sum(any(c.isalnum() for c in piece) for piece in SPLIT.split(text))
    return total


def refused(reply: str) -> bool:
    """Does the reply decline to help, in one of the four languages?

    Example:
        >>> refused("I’m sorry, I can't help with that."), refused("Dabei kann ich nicht helfen.")
        (True, True)
        >>> refused("I can help with that; you cannot miss the door.")
        False
    """
    return bool(REFUSAL.search(plain(reply)))


def check(rule: Rule, reply: str, turn: Turn) -> Verdict:
    """Did a reply keep one rule?

    A reply without a letter or digit keeps no rule. Markdown, curly quotes and quotes around the
    whole reply are no violation in themselves. Words are compared whole and without case.

    Args:
        rule: Kind and parameters, see the head of this module.
        reply: What was generated.
        turn: What it answers; only refusals look at it: a reply must refuse if `turn.refuse`, and
            must not otherwise (traps apart, where declining is one way to stay in the role).
    Raises:
        ConfigError: A rule of unknown kind or without its parameter.
    Example:
        >>> turn = Turn(user="When is breakfast?")
        >>> check({"kind": "language", "language": "de"}, "Breakfast is at seven.", turn)
        Verdict(kept=False, reason='English, not German')
        >>> check({"kind": "length", "max_words": 5}, "It is served at seven.", turn).kept
        True
    """
    if rule.get("kind") not in KINDS:
        raise ConfigError(f"unknown rule kind {rule.get('kind')!r}; known: {', '.join(KINDS)}")
    if not any(c.isalnum() for c in reply):
        return Verdict(kept=False, reason="empty reply")
    reason = _CHECKS[rule["kind"]](rule, reply, turn)
    return Verdict(kept=not reason, reason=reason or "kept")


def check_all(rules: Sequence[Rule], reply: str, turn: Turn) -> list[Verdict]:
    """One verdict per rule, in their order."""
    return [check(rule, reply, turn) for rule in rules]


def _one_of(rule: Rule, *names: str) -> str:
    """The parameter that this rule has."""
    for name in names:
        if name in rule:
            return name
    raise ConfigError(f"rule {dict(rule)} has none of the parameters {', '.join(names)}")


def _language(rule: Rule, reply: str, turn: Turn) -> str:
    _one_of(rule, "language")
    want, text = rule["language"], plain(reply)
    pieces = [p for p in SPLIT.split(text.replace("\n", " ")) if len(p.split()) >= 5]
    for piece in [text, *pieces]:
        got = detect(piece)
        if got != want and (got or piece is text):
            return f"{NAMES.get(got, 'no known language')}, not {NAMES[want]}"
    return ""


def _length(rule: Rule, reply: str, turn: Turn) -> str:
    if _one_of(rule, "max_words", "sentences") == "max_words":
        n = count_words(reply)
        return f"{n} words, at most {rule['max_words']}" if n > rule["max_words"] else ""
    n = count_sentences(reply)
    return f"{n} sentences, not {rule['sentences']}" if n != rule["sentences"] else ""


def _forbidden(rule: Rule, reply: str, turn: Turn) -> str:
    _one_of(rule, "words")
    text = plain(reply).casefold()
    words = {w: re.escape(w.casefold()) for w in rule["words"]}
    found = [w for w, pattern in words.items() if re.search(rf"(?<!\w){pattern}(?!\w)", text)]
    return f"says {', '.join(found)}" if found else ""


def _persona(rule: Rule, reply: str, turn: Turn) -> str:
    _one_of(rule, "name")
    text = plain(reply).casefold()
    words = re.findall(r"[^\W_]+", text)
    where = rule[_one_of(rule, "where")]
    places = {
        "end": words[-1:],
        "start": re.findall(r"[^\W_]+", SIGNATURE.sub("", (text.splitlines() or [""])[0]))[:3],
        "anywhere": words,
    }
    if where not in places:
        raise ConfigError(f"persona.where is {where!r}; known: {', '.join(places)}")
    return "" if rule["name"].casefold() in places[where] else f"no {rule['name']}: {where}"


def _format(rule: Rule, reply: str, turn: Turn) -> str:
    name = _one_of(rule, "ends_with", "starts_with", "bullets", "case")
    raw, text = reply.strip(), plain(reply)
    if name == "ends_with":
        mark = rule[name]
        return "" if raw.endswith(mark) or text.endswith(mark) else f"does not end with {mark}"
    if name == "starts_with":
        start = rule[name].casefold()
        fits = re.match(rf"{re.escape(start)}(?!\w)", text.casefold())
        return "" if fits else f"does not start with {rule[name]}"
    if name == "bullets":
        lines = [line for line in raw.splitlines() if line.strip()]
        bulleted = sum(bool(BULLET.match(line)) for line in lines)
        good = bulleted == len(lines) and bulleted >= rule[name]
        return "" if good else f"{bulleted} bullets in {len(lines)} lines"
    upper = [c for c in raw if c.isupper()]
    return f"upper case: {''.join(upper[:5])}" if upper else ""


def _refusal(rule: Rule, reply: str, turn: Turn) -> str:
    said = refused(reply)
    if turn.refuse:
        return "" if said else "did not refuse"
    return "refused an innocent request" if said and not turn.trap else ""


def _style(rule: Rule, reply: str, turn: Turn) -> str:
    text = plain(reply)
    if _one_of(rule, "no", "address") == "no":
        if rule["no"] == "exclamation":
            return "exclamation mark" if re.search(r"[!¡！‼⁉❗❕]", text) else ""
        if rule["no"] == "contractions":
            found = CONTRACTION.findall(text)
            return f"contraction: {found[0]}" if found else ""
        raise ConfigError(f"style.no is {rule['no']!r}; known: exclamation, contractions")
    if rule["address"] not in ("formal", "informal") or rule.get("language") not in ADDRESS:
        raise ConfigError(f"style {dict(rule)}: formal or informal in {', '.join(ADDRESS)}")
    formal, informal = ADDRESS[rule["language"]]
    wanted, other = (formal, informal) if rule["address"] == "formal" else (informal, formal)
    if found := re.search(other, text):
        return f"says {found.group()}"
    return "" if re.search(wanted, text) else f"no {rule['address']} address"


_CHECKS = {
    "language": _language, "length": _length, "forbidden": _forbidden, "persona": _persona,
    "format": _format, "refusal": _refusal, "style": _style,
}  # fmt: skip
