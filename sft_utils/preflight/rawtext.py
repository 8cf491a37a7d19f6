"""What no text of a row may hold: control tokens of the model, and wrongly decoded characters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import render
from sft_utils.masks.rendering import REASONING_FIELDS
from sft_utils.preflight.record import Finding, RunRecord, spot
from sft_utils.preflight.survival import call_parts


def text_of(message: Any) -> str:
    """The text of a message: its content, or the text parts of a content list."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        parts = (p.get("text") if isinstance(p, Mapping) else p for p in content)
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


def turns_of(row: Any) -> list[tuple[int, str, str]]:
    """(index, role, text) of every message of a row; what is no message is left out."""
    if not isinstance(row, Sequence) or isinstance(row, str):
        return []
    return [
        (k, str(m.get("role")), text_of(m)) for k, m in enumerate(row) if isinstance(m, Mapping)
    ]


def _written(row: Any) -> Iterator[tuple[int, str, str, str]]:
    """(index, role, kind, text) of everything of a row that a template may write."""
    yield from ((k, role, "text", text) for k, role, text in turns_of(row))
    for k, role, _ in turns_of(row):
        thoughts = (row[k].get(name) for name in REASONING_FIELDS)
        yield from ((k, role, "reasoning", text) for text in thoughts if isinstance(text, str))
        yield from ((k, role, "tool call", text) for text in call_parts(row[k]))


# Written inline by data that teaches reasoning, tools or pictures: no accident there.
_INLINE = re.compile(r"think|reason|tool|func|call|python|image|img|vision|video|audio|media", re.I)
_SHAPE = re.compile(r"<[^<>\[\]\s]+>|\[[^<>\[\]\s]+\]")


def control_tokens(record: RunRecord) -> Iterator[Finding]:
    """C19: text that the served tokenizer turns into one of its control tokens."""
    tokens, structural = _control_tokens(record)
    if not tokens:
        return
    shaped = {t for t in tokens if _SHAPE.fullmatch(t)}
    others = [t for t in tokens if t not in shaped]
    opening = "".join({t[0] for t in shaped})
    real: dict[str, bool] = {}  # token -> does it become its id inside text?
    for i, row in enumerate(record.conversations):
        worst: Finding | None = None
        for k, role, kind, text in _written(row):
            hits = [t for t in others if t in text]
            if any(c in text for c in opening):
                hits += [t for t in _SHAPE.findall(text) if t in shaped]
            for token in hits:
                inline = _INLINE.search(token) is not None
                if inline and role in ("assistant", "system", "developer"):
                    continue
                if token not in real:
                    real[token] = _becomes(record.tokenizer, text, token, tokens[token])
                if not real[token]:
                    continue
                fatal = token in structural and not inline
                if worst is None or (fatal and worst.severity == "WARN"):
                    worst = _control_finding(i, k, f"{role} {kind}", token, tokens[token], fatal)
        if worst:
            yield worst


def _control_finding(row: int, turn: int, kind: str, token: str, id_: int, fatal: bool) -> Finding:
    return Finding(
        id="C19",
        severity="FAIL" if fatal else "WARN",
        what=f"the {kind} holds {token!r}, which becomes control token {id_}",
        where=spot(row, turn),
        fix=f"remove {token!r} from the text, or put a space after its first character",
        why="a control token inside a text ends or forges a turn: the model learns a conversation "
        "that nobody had, and a user who types it at serving time takes over the chat",
        row=row,
        turn=turn,
    )


def _control_tokens(record: RunRecord) -> tuple[dict[str, int], set[str]]:
    """(control tokens by their text, those of them that begin, separate or end turns).

    A special token that is ordinary text ("!" as pad) is none; a token that the template writes is
    one, whether or not the tokenizer calls it special.
    """
    tokenizer = record.tokenizer
    added: dict[str, int] = {}
    special: set[str] = set()
    for id_, token in dict(getattr(tokenizer, "added_tokens_decoder", None) or {}).items():
        text = str(getattr(token, "content", token))
        if len(text) > 2 and re.search(r"[<>\[\]|{}]", text):
            added[text] = int(id_)
            if getattr(token, "special", False):
                special.add(text)
    structural = {str(getattr(tokenizer, f"{name}_token", None)) for name in ("bos", "eos", "pad")}
    system, user = {"role": "system", "content": "a"}, {"role": "user", "content": "b"}
    answer = {"role": "assistant", "content": "c"}
    for probe in ([user, answer], [system, user, answer, user, answer]):
        try:
            text = render(tokenizer, probe)
        except (TemplateError, ValueError, AttributeError):
            continue  # some templates refuse a system turn; the other probe tells enough
        structural |= {token for token in added if token in text}
    known = special | structural
    tokens = {text: id_ for text, id_ in added.items() if text in known}
    return tokens, structural


def _becomes(tokenizer: Any, text: str, token: str, id_: int) -> bool:
    """Whether a token text really is read as its id where it stands."""
    at = text.find(token)
    around = text[max(0, at - 20) : at + len(token) + 20]
    try:
        return id_ in tokenizer(around, add_special_tokens=False)["input_ids"]
    except (TypeError, ValueError, KeyError):
        return False


# What the bytes 80-BF (which follow a lead byte in UTF-8) look like when read as cp1252 or latin-1.
_TRAIL = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_PUNCTUATION = "‘’“”–—…»›"  # stands after a capital letter in healthy text, too: AMANHÃ…
_SIGNS = "®™©°¹²³·ªº\xa0"  # likewise: NESTLÉ®, Å²
_CAPITAL = "A-Z\xc0-\xd6\xd8-\xde"
_SMALL = "a-z\xdf-\xff"
_MOJIBAKE = re.compile(
    "|".join(
        (
            f"â[€‚„†ˆ\x80\x82\x84\x86\x88][{_TRAIL}]",  # quotes, dashes, €, ™, arrows, minus
            f"ð[Ÿ\x9f][{_TRAIL}]{{2}}",  # emoji
            "ï»¿|ï¿½",  # byte order mark, replacement character
            f"(?:[Â-ß][{_TRAIL}]){{2,}}",  # Cyrillic, Greek, Hebrew, Arabic
            f"(?:[à-ï][{_TRAIL}]{{2}}){{2,}}",  # Chinese, Japanese, Korean, Indic scripts
            f"Ã(?:(?![{_PUNCTUATION}{_SIGNS}])[{_TRAIL}]|(?<![{_CAPITAL}]Ã)[{_SIGNS}])",
            f"(?<=[{_SMALL}])Ã[{_PUNCTUATION}]|Ã[{_SIGNS}](?=[{_SMALL}])",
            f"(?<![^\x00-@\\[-\x7f{_SMALL}])Â(?![«»²³¹·])[\xa1-\xbf]",  # Â² may be an operator
            f"(?<=[{_SMALL}.,;:!?)])Â[«»{_SIGNS}]",
            "(?<=[0-9])Â\xa0",
            f"(?<=[{_SMALL}])[ÄÅ](?![{_PUNCTUATION}{_SIGNS}])[{_TRAIL}]",
            f"[ÄÅ](?![{_PUNCTUATION}{_SIGNS}])[{_TRAIL}](?=[{_SMALL}])",
        )
    )
)
_LOST = re.compile("[\ufffd\ud800-\udfff]")
_QUOTED = re.compile("[\"'`(>]\ufffd+[\"'`)<]")  # code that handles the character itself
_ABOUT_ENCODING = re.compile(
    r"mojibake|utf.?8|unicode|encod|decod|charset|character set|latin.?1|1252|8859|U\+FFFD"
    r"|replacement char|kodier|codific|codage|кодиров|编码|文字化け",
    re.I,
)


def mojibake(record: RunRecord) -> Iterator[Finding]:
    """D5: text that was decoded wrongly; accents, capitals and other scripts are right as such."""
    for i, row in enumerate(record.conversations):
        turns = turns_of(row)
        for k, role, text in turns:
            if text.isascii() or not (seen := _misread(text)):
                continue
            # A text about encodings quotes the damage: to be looked at, not to be refused.
            about = any(_ABOUT_ENCODING.search(other) for _, _, other in turns) or (
                "\ufffd" in text and not _misread(_QUOTED.sub("", text))
            )
            yield Finding(
                id="D5",
                severity="WARN" if about else "FAIL",
                what=f"the {role} text is wrongly decoded: {seen}",
                where=spot(i, k),
                fix='read the source again with open(..., encoding="utf-8"); ftfy.fix_text(text) '
                "repairs double encoding, a lost character (U+FFFD) only the source can give back",
                why="the model learns to write these characters to your users",
                row=i,
                turn=k,
            )
            break


def _misread(text: str) -> str:
    """Evidence that a text was decoded wrongly, "" if there is none."""
    if lost := _LOST.search(text):
        around = text[max(0, lost.start() - 12) : lost.end() + 12]
        name = "a lost character (U+FFFD)" if lost[0] == "\ufffd" else "half a character"
        return f"{name} in {around!r}"
    for match in _MOJIBAKE.finditer(text):
        if meant := _decoded(match[0]):
            around = text[max(0, match.start() - 12) : match.end() + 12]
            return f"{around!r} has {match[0][:12]!r} for {meant[:12]!r}"
    return ""


def _decoded(seen: str) -> str:
    """The text that was meant: back to bytes, then read as UTF-8; "" if that gives no text."""
    raw = b""
    for char in seen:
        try:
            raw += char.encode("cp1252")
        except UnicodeEncodeError:
            raw += char.encode("latin-1", "replace")  # the five bytes that cp1252 leaves undefined
    try:
        meant = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if any(c < "\xa0" for c in meant) else meant
