"""How often the language detection of the package is right, on the phrases of this folder."""

from dialogues import pieces
from sft_utils.task.languages import detect


def texts() -> list[tuple[str, str]]:
    """(language, text): every request, answer and stock phrase of two words or more, once."""
    found = {}
    pairs = [p for d in pieces.domains() for p in d.pairs] + pieces.general()
    topics = [p for t in pieces.topics() for p in (*t.ask, *t.near)]
    told = [part for p in (*pairs, *topics) for part in (p.ask, p.reply)]
    told += [text for group in pieces.speech().values() for text in group]
    told += [text for fact in pieces.facts().values() for text in (*fact.ask, *fact.tell)]
    for text in told:
        for code, line in text.items():
            if len(line.split()) > 1:
                found[line.replace("{v}", "K482")] = code
    return [(code, text) for text, code in found.items()]


def accuracy(find=detect) -> dict[str, tuple[int, int]]:
    """Group -> (right, texts): per language, and by length."""
    count: dict[str, list[int]] = {}
    for code, text in texts():
        n = len(text.split())
        size = "2-4 words" if n < 5 else "5-7 words" if n < 8 else "8 words or more"
        for group in (code, size, "all"):
            cell = count.setdefault(group, [0, 0])
            cell[0] += find(text) == code
            cell[1] += 1
    return {group: (right, n) for group, (right, n) in count.items()}


def table() -> list[list]:
    """Lines for the data card."""
    order = [*pieces.LANGUAGES, "2-4 words", "5-7 words", "8 words or more", "all"]
    found = accuracy()
    return [[g, found[g][1], f"{found[g][0]} ({found[g][0] / found[g][1]:.1%})"] for g in order]
