"""How a person writes: changes to a finished text that leave its labelled spans alone.

While a mail is being composed, a labelled span is wrapped in `OPEN`, a letter for its kind, and
`CLOSE`; no function here looks inside one, so noise can never damage a label.
"""

import re
from collections.abc import Callable
from random import Random

from draw import pick

VOICES = ("plain", "terse", "chatty", "angry", "formal", "non_native")
TYPO_VOICES = ("plain", "terse", "chatty", "angry")
NO_GREETING = {"terse": 0.75, "angry": 0.45, "chatty": 0.12}
OPENER_SHARES = {"chatty": 0.6, "angry": 0.6, "formal": 0.4, "non_native": 0.45, "plain": 0.13}
FILLER_SHARES = {"chatty": 0.75, "angry": 0.5, "formal": 0.3, "non_native": 0.35, "plain": 0.15}
OPEN, CLOSE = "\x02", "\x03"
MARK = re.compile(f"{OPEN}.|{CLOSE}")
SPAN = re.compile(f"({OPEN}[^{CLOSE}]*{CLOSE})")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: row[max(0, n - 1) : n] + row[n + 1 : n + 2]
    for row in ROWS
    for n, letter in enumerate(row)
}
# The words that decide `urgent` stay readable.
SPARED = frozenset(
    ("urgent", "asap", "immediately", "today", "right", "away", "once", "deadline", "before")
)
BEFORE_PRODUCT = re.compile(r"\b([Aa])n (?=\x02p)")
BLANKS, MANY_LINES = re.compile(r" *\n *"), re.compile(r"\n{3,}")
SENTENCE = re.compile(r"((?:[a-z)%\"]|\x03)(?<!\bno)(?<!\bnr)(?<!\bNo)[.!?] +(?:\x02[da])?)([a-z])")
VOWEL = re.compile(
    r"\b([Aa]) (?=(?:\x02.)?(?:[aeioAEIO](?!ne\b|u)|u[mnlr](?!i)|U[lmnr](?!i)|[HLMRSX][A-Z]?-))"
)
CONTRACTIONS = {
    "I'm": "I am",
    "I've": "I have",
    "I'd": "I would",
    "I'll": "I will",
    "We'd": "We would",
    "we'd": "we would",
    "can't": "cannot",
    "won't": "will not",
    "it's": "it is",
    "It's": "It is",
    "You're": "You are",
    "you're": "you are",
}
SHORT_FORM = re.compile(rf"\b(?:{'|'.join(CONTRACTIONS)})\b")
SHORT_SPELLINGS = {
    "please": "pls",
    "thanks": "thx",
    "thank you": "thx",
    "you": "u",
    "your": "ur",
    "and": "n",
    "because": "cos",
    "would": "wud",
    "tomorrow": "tmrw",
}
FOREIGN_HABITS = (
    (r"\b(?:the|a|an) (?=[a-z])", "", 0.22),
    (r"\bI (bought|ordered|booked|paid|sent|used)\b", r"I have \1", 0.5),
    (r"\bstopped working\b", "stopped to work", 0.8),
    (r"\bfor (two|three|five|ten|six) (days|weeks|months)\b", r"since \1 \2", 0.7),
    (r"\b([Ii]t|that) does not (\w+)", r"\1 is not \2ing", 0.25),
    (r"\bdoes not work\b", "not works", 0.3),
    (r"\bI am waiting\b", "I wait", 0.7),
    (r"\bhas not (arrived|come)\b", r"is not \1", 0.7),
    (r"\bnever (arrived|came)\b", r"did never \1", 0.3),
    (r"\bThere is\b", "It gives", 0.3),
    (r"\bCould you\b", "Can you", 0.4),
    (r"\bI would like\b", "I want", 0.4),
    (r"\bhas been\b", "was", 0.4),
    (r"\bI do not\b", "I not", 0.15),
    (r"\bmoney\b", "moneys", 0.08),
    (r"\bon (?=\x02d)", "at ", 0.25),
    (r"\bon (?=\x02d)", "in ", 0.1),
)


def outside_spans(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to everything but the labelled spans.

    Example:
        >>> outside_spans("my \\x02pKite\\x03 kettle", str.upper)
        'MY \\x02pKite\\x03 KETTLE'
    """
    return "".join(
        part if part.startswith(OPEN) else change(part) for part in SPAN.split(text) if part
    )


def lower_case(text: str) -> str:
    """Write everything in small letters, labelled spans too (the labels follow)."""
    return SPAN.sub(lambda span: span[0][:2] + span[0][2:].lower(), outside_spans(text, str.lower))


def misspell(text: str, rng: Random, rate: float) -> str:
    """Add typing errors: swapped, missing, doubled and neighbouring letters, short spellings."""

    def word(match: re.Match[str]) -> str:
        old = match[0]
        if old.lower() in SPARED or rng.random() > rate:
            return old
        if old in SHORT_SPELLINGS and rng.random() < 0.5:
            return SHORT_SPELLINGS[old]
        if len(old) < 4:
            return old[1] + old[0] + old[2:] if len(old) == 3 and rng.random() < 0.4 else old
        at = rng.randrange(1, len(old) - 1)
        kind = rng.random()
        if kind < 0.3:
            return old[:at] + old[at + 1] + old[at] + old[at + 2 :]
        if kind < 0.65:
            return old[:at] + old[at + 1 :]
        if kind < 0.8:
            return old[:at] + old[at] + old[at:]
        return old[:at] + pick(rng, NEIGHBOURS.get(old[at], old[at])) + old[at + 1 :]

    text = outside_spans(text, lambda part: re.sub(r"[A-Za-z]{2,}", word, part))
    if rng.random() < 0.5:
        text = outside_spans(text, lambda part: part.replace("'", ""))
    if rng.random() < 0.4:
        text = outside_spans(text, lambda part: part.replace(", ", " "))
    return text


def formal(text: str) -> str:
    """Write short forms out: "I don't" becomes "I do not"."""
    if "'" not in text:
        return text
    text = SHORT_FORM.sub(lambda match: CONTRACTIONS[match[0]], text)
    return re.sub(r"\b(\w+)n't\b", r"\1 not", text)


def non_native(text: str, rng: Random) -> str:
    """Add habits of other languages: articles dropped, present for perfect, "since 3 weeks"."""
    text = formal(text)
    for pattern, new, chance in FOREIGN_HABITS:

        def maybe(match: re.Match[str], new: str = new, chance: float = chance) -> str:
            return match.expand(new) if rng.random() < chance else match[0]

        text = re.sub(pattern, maybe, text)
    return text


def angry(text: str, rng: Random) -> str:
    """Shout a little: some exclamation marks, at most one word in capitals."""
    text = outside_spans(
        text,
        lambda part: re.sub(
            r"(?<=[a-z]{3})\.(?= [A-Z]|\n|$)",
            lambda dot: pick(rng, ("!", "!", "!!")) if rng.random() < 0.2 else dot[0],
            part,
        ),
    )
    loud = re.findall(r"\b(?:never|nothing|again|twice|weeks|still|third|every|nobody|not)\b", text)
    if loud and rng.random() < 0.5:
        word = pick(rng, loud)
        text = outside_spans(text, lambda part: re.sub(rf"\b{word}\b", word.upper(), part))
    return text


def refill(text: str, texts: dict[str, str]) -> str:
    """Put other words into the labelled spans, by the letter of their kind."""
    text = SPAN.sub(lambda span: span[0][:2] + texts[span[0][1]] + CLOSE, text)
    text = VOWEL.sub(r"\1n ", BEFORE_PRODUCT.sub(r"\1 ", text))
    return text.replace(f".{CLOSE}.", f".{CLOSE}")


def capital(text: str) -> str:
    """Start with a capital; a labelled name, product or number stays as it is."""
    if text.startswith(OPEN):
        return text[:2] + text[2].upper() + text[3:] if text[1] in "da" else text
    return text[:1].upper() + text[1:]


def finish(text: str, rng: Random, voice: str, *, typos: bool) -> str:
    """Repair what joining clauses left behind, then give the text its voice."""
    # a date such as 3.4. can end a sentence
    text = text.replace(f".{CLOSE}.", f".{CLOSE}").replace("..", ".")
    text = VOWEL.sub(r"\1n ", text)
    text = SENTENCE.sub(lambda m: m[1] + m[2].upper(), text)
    text = BLANKS.sub("\n", MANY_LINES.sub("\n\n", text)).strip()
    if voice == "chatty" and rng.random() < 0.15:
        text += pick(rng, (" :)", " 🙂", " 😅", " 🙏", " ☀️"))
    if voice == "formal":
        text = formal(text)
    if voice == "non_native":
        text = non_native(text, rng)
    if voice == "angry":
        text = angry(text, rng)
    return misspell(text, rng, rng.uniform(0.05, 0.16)) if typos else text


def show(text: str) -> str:
    """Remove the marks of the labelled spans."""
    return MARK.sub("", text)
