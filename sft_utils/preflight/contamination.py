"""Is the evaluation trained on? Equal and near-equal prompts, and long pieces of held-out texts.

Words in a row decide, not topics: two customers may describe the same fault. Texts that many rows
share (templates, instructions) are no leak, and system prompts are not looked at.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sft_utils.data.duplicates import composed, words_of
from sft_utils.preflight.rawtext import turns_of
from sft_utils.preflight.record import Detector, Finding, RunRecord, spot

PIECE = 13
"""Words in a row that two independent texts do not share by chance."""
HALF = 0.5
"""Share of a held-out text from which its piece in a training row is a leak for certain."""
ANCHOR = 4
"""Words per piece of the quick test before."""
NEAR, NEAR_WORDS, SHINGLE = 0.7, 8, 3
"""Jaccard similarity of word triples from which two prompts of NEAR_WORDS or more are one."""
SHORT_BYTES, LONG_CHARACTERS = 12, 40
"""A prompt shorter than this ("Hi!") may be in both parts; a longer one is no common phrase."""

_NUMBER = re.compile(r"\w*\d\w*")
_MARKS = ".,;:!?…'\"“”‘’´`"
_EDGES = re.compile(rf"(?<!\d)[{_MARKS}]+|[{_MARKS}]+(?!\d)")

Words = tuple[str, ...]
Reader = Callable[[str], Words]
Place = tuple[int, int]  # (held-out text, position of a word)


def exact_key(text: str) -> str:
    """A text without case, spacing and punctuation marks; signs that carry meaning stay (+, #).

    Example:
        >>> exact_key("  What is 2 + 2.5?") == exact_key("what IS 2 +  2.5")
        True
    """
    return " ".join(_EDGES.sub("", composed(text).casefold()).split())


@dataclass(slots=True)
class Prompt:
    """What the user says in one row, and the rest of what the model is given."""

    where: str
    text: str  # all user turns
    context: str | None  # system and tool texts; None: not known
    row: int | None = None
    turn: int | None = None
    words: Words = ()


def _prompts(rows: Sequence[Any], texts: Iterable[str], part: str, read: Reader) -> list[Prompt]:
    """Prompts of conversations, then of bare user texts that no conversation has."""
    found = []
    for i, row in enumerate(rows):
        turns = turns_of(row)
        asked = "\n".join(text for _, role, text in turns if role == "user")
        given = "\n".join(text for _, role, text in turns if role not in ("user", "assistant"))
        first = next((k for k, role, _ in turns if role == "user"), None)
        if asked.strip():
            found.append(Prompt(f"{part} row {i}", asked, given, i, first, read(asked)))
    known = {p.text for p in found}
    for i, text in enumerate(texts):
        if isinstance(text, str) and text.strip() and text not in known:
            found.append(Prompt(f"{part} text {i}", text, None, words=read(text)))
    return found


def contamination(record: RunRecord) -> Iterator[Finding]:
    """D1: an evaluation prompt is trained on. D2: a long piece of one stands in a training row."""
    plan = record.evaluation
    read = cache(lambda text: tuple(words_of(text)))  # a text is read by several checks
    held = _prompts(record.eval_conversations, plan.eval_texts if plan else (), "eval", read)
    if not held:
        return
    trained = _prompts(record.conversations, plan.train_texts if plan else (), "train", read)
    leaked: set[int] = set()  # rows that D1 has named: D2 would say the same again
    for finding in (*_equal(trained, held), *_near(trained, held)):
        if finding.row is not None:
            if finding.row in leaked:
                continue
            leaked.add(finding.row)
        yield finding
    yield from _pieces(record.conversations, held, leaked, read)


def _equal(trained: Sequence[Prompt], held: Sequence[Prompt]) -> Iterator[Finding]:
    """Prompts that are equal but for case, spacing and punctuation."""
    key_of = cache(exact_key)
    wanted = {_bucket(test) for test in held}
    by_key: dict[str, list[Prompt]] = {}
    for prompt in trained:
        if _bucket(prompt) in wanted:
            by_key.setdefault(key_of(prompt.text), []).append(prompt)
    for test in held:
        key = key_of(test.text)
        same = by_key.get(key, [])
        contexts = {key_of(p.context) for p in same if p.context is not None}
        context = None if test.context is None else key_of(test.context)
        # One question about many documents: the documents decide, and they stand in the context.
        if len(contexts) > 1 and context not in contexts:
            continue
        sure = context in contexts or context is None or len(key) >= LONG_CHARACTERS
        fatal = sure and len(key.encode("utf-8", "replace")) >= SHORT_BYTES
        for prompt in same:
            given = None if prompt.context is None else key_of(prompt.context)
            if None in (context, given) or len(contexts) == 1 or given == context:
                yield _duplicate(prompt, test, "is", fatal)


def _bucket(prompt: Prompt) -> tuple[int, Words]:
    """Equal prompts have equal buckets; cheaper than hashing every word."""
    return len(prompt.words), prompt.words[:3]


def _near(trained: Sequence[Prompt], held: Sequence[Prompt]) -> Iterator[Finding]:
    """Prompts that share most of their word triples and all of their numbers: WARN."""
    index: dict[Words, list[int]] = {}
    for j, test in enumerate(held):
        if len(test.words) >= NEAR_WORDS:
            for triple in _grams(test.words, SHINGLE):
                index.setdefault(triple, []).append(j)
    known, common = set(index), max(3, len(held) // 50)
    numbers = cache(_numbers_of)
    for prompt in trained:
        if len(prompt.words) < NEAR_WORDS:
            continue
        both = known.intersection(_in_order(prompt.words, SHINGLE))
        if len(both) < NEAR * (len(set(prompt.words)) - SHINGLE + 1):
            continue  # too few shared ones for any held-out text
        triples = _grams(prompt.words, SHINGLE)
        # Triples of many held-out texts are phrases of the task: they propose no pair.
        rare = [gram for gram in both if len(index[gram]) <= common]
        votes = Counter(j for gram in rare for j in index[gram])
        for j, _ in votes.most_common(3):
            other = _grams(held[j].words, SHINGLE)
            alike = len(triples & other) / len(triples | other)
            if alike < NEAR or numbers(prompt.text) != numbers(held[j].text):
                continue
            if exact_key(prompt.text) != exact_key(held[j].text):
                yield _duplicate(prompt, held[j], f"is nearly ({alike:.0%} of the wording)", False)
                break


def _in_order(words: Words, size: int, step: int = 1) -> Iterator[Words]:
    """Every `step`-th piece of `size` words."""
    return zip(*(words[k::step] for k in range(size)), strict=False)


def _grams(words: Words, size: int) -> set[Words]:
    return set(_in_order(words, size))


def _numbers_of(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text))


def _duplicate(prompt: Prompt, test: Prompt, how: str, fatal: bool) -> Finding:
    return Finding(
        id="D1",
        severity="FAIL" if fatal else "WARN",
        what=f"the prompt {how} that of {test.where}: {test.text.strip()[:50]!r}",
        where=prompt.where,
        fix="drop the row from the training data (keep the evaluation as it is)",
        why="the score then measures memory: it rises without the model being better for anybody",
        row=prompt.row,
        turn=prompt.turn,
    )


def _pieces(
    rows: Sequence[Any], held: Sequence[Prompt], skip: set[int], read: Reader
) -> Iterator[Finding]:
    """Runs of PIECE words or more of one held-out text inside a training text."""
    texts = Counter(test.words for test in held)
    tests = [test for test in held if len(test.words) >= PIECE and texts[test.words] == 1]
    index: dict[Words, Place] = {}
    shared: set[Words] = set()  # in several held-out texts: a template
    for j, test in enumerate(tests):
        for position, gram in enumerate(_in_order(test.words, PIECE)):
            if index.setdefault(gram, (j, position))[0] != j:
                shared.add(gram)
    if not index:
        return
    known = set(index)
    # A run of PIECE words holds one of every (PIECE - ANCHOR + 1)-th piece of ANCHOR words whole.
    anchors = {gram for test in tests for gram in _in_order(test.words, ANCHOR)}
    step = PIECE - ANCHOR + 1
    spread: Counter[Words] = Counter()  # rows per piece
    hits: list[tuple[int, int, list[Words]]] = []
    for i, row in enumerate(rows):
        for k, role, text in turns_of(row):
            if role in ("system", "developer"):
                continue
            words = read(text)
            if len(words) < PIECE or anchors.isdisjoint(_in_order(words, ANCHOR, step)):
                continue
            found = [g for g in _in_order(words, PIECE) if g in known and g not in shared]
            spread.update(set(found))
            if found and i not in skip:
                hits.append((i, k, found))
    # A piece in several rows is a template, too; with four rows or less two are already several.
    several = 2 if len(rows) <= 4 else 3
    said: set[int] = set()
    for i, k, found in hits:
        own = [gram for gram in found if spread[gram] < several]
        j, length, gram = _longest(own, index)
        if not length or i in said:
            continue
        inside = length / len(tests[j].words)
        if inside < HALF and length < 2 * PIECE:
            continue  # a stock phrase of letters, a quotation: two people may write it
        said.add(i)
        yield Finding(
            id="D2",
            severity="FAIL" if inside >= HALF else "WARN",
            what=f"{length} words in a row are those of {tests[j].where} ({inside:.0%} of it): "
            f"'{' '.join(gram)} ...'",
            where=spot(i, k),
            fix="drop the row from the training data (keep the evaluation as it is)",
            why="the model has seen the test: its score says nothing about new inputs",
            row=i,
            turn=k,
        )


def _longest(grams: Sequence[Words], index: dict[Words, Place]) -> tuple[int, int, Words]:
    """(held-out text, words, first piece) of the longest run of pieces that follow each other."""
    best: tuple[int, int, Words] = (0, 0, ())
    start, before, length = (), (-1, -1), 0
    for gram in grams:
        j, position = index[gram]
        if (j, position - 1) == before:
            length += 1
        else:
            start, length = gram, PIECE
        before = (j, position)
        if length > best[1]:
            best = (j, length, start)
    return best


DETECTORS: tuple[Detector, ...] = (contamination,)
