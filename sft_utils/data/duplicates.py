"""Texts that repeat other texts: exact keys, MinHash-LSH, and overlap with held-out mails.

MinHash only proposes pairs; a pair is a duplicate if its true word overlap says so *and* both rows
are about the same case. Two customers who describe the same fault in similar words are two rows.
"""

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any

from sft_utils.errors import DataError

Shingles = frozenset[tuple[str, ...]]

SIZE = 3
"""Words per shingle: one word is topic, three are wording."""
ALIKE = 0.5
"""Jaccard similarity of shingles from which two texts are one text, edited."""
PERMUTATIONS, BANDS = 32, 16
"""Two rows per band: a pair at `ALIKE` is proposed with probability 1 - (1 - 0.5²)¹⁶ = 0.99."""
PROPOSED = 300
"""Most earlier texts that one text is compared with."""
CONTAINED_SIZE = 8
"""Words per n-gram of the containment test: eight words in a row are not common speech."""
COMMON_SHARE, COMMON_ROWS = 0.02, 10
"""Words in a row that stand in this share of the texts, and in so many, are boilerplate: a footer,
an instruction, a template. They say nothing about whether two texts are one."""
SAMPLE = 4000
"""Rows that are looked at for boilerplate: one phrase in fifty rows is then seen about 80 times."""
SEED = 17

_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
"""Soft hyphen, zero-width characters, byte order mark: two texts may differ in them unseen."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana and Han, which are written without spaces between words."""
_WORD = re.compile(r"\w+")
_WORD_OR_SIGN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SIGN = re.compile(r"\w*\d\w*|[+*/^=<>%×÷−]|(?<=\s)-(?=\s)|(?<=\d)-(?=\d)")


def composed(text: str) -> str:
    """A text as a reader sees it: Unicode form NFC, nothing invisible inside its words.

    Example:
        >>> composed("Jose\\u0301 re\\u00adfund")
        'José refund'
    """
    if text.isascii():  # most mails, and nothing to do for them
        return text
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def exact_key(text: str) -> int:
    """64-bit hash of a text without its case, spacing and way of writing an accent.

    Example:
        >>> exact_key("Where IS it?\\n") == exact_key("where is  it?")
        True
    """
    flat = " ".join(composed(text).casefold().split())
    return int.from_bytes(blake2b(flat.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def words_of(text: str) -> list[str]:
    """Words without case and punctuation; of scripts without spaces, single characters.

    Example:
        >>> words_of("Where IS it?"), words_of("KX-1 在哪里？")
        (['where', 'is', 'it'], ['kx', '1', '在', '哪', '里'])
    """
    return (_WORD if text.isascii() else _WORD_OR_SIGN).findall(composed(text).casefold())


def shingles(text: str, size: int = SIZE) -> Shingles:
    """The set of `size` consecutive words; empty for a text without words, which is near none."""
    words = words_of(text)
    if len(words) <= size:
        return frozenset([tuple(words)] if words else [])
    return frozenset(zip(*(words[start:] for start in range(size)), strict=False))


def common_shingles(texts: Sequence[str], size: int = SIZE, *, rows: int = COMMON_ROWS) -> Shingles:
    """The shingles of boilerplate: inside `size` words that many of the texts share.

    A text with so many near copies reads as a template, too; equal copies are still equal.

    Args:
        texts: Texts of one file, or a fair sample of them.
        size: Words in a row that count as one piece of boilerplate, at least `SIZE`.
        rows: Texts that must share them, however few texts there are.
    Example:
        >>> cities = [f"what is the capital of place{i}" for i in range(10)]
        >>> sorted(common_shingles(cities))[0]
        ('is', 'the', 'capital')
    """
    found = (run for text in texts for run in shingles(text, size))
    counts = Counter(run for run in found if len(run) == size or size == SIZE)
    least = max(rows, COMMON_SHARE * len(texts))
    runs = [run for run, n in counts.items() if n >= least]
    return frozenset(run[k : k + SIZE] for run in runs for k in range(size - SIZE + 1))


def _signs(text: str) -> Counter[str]:
    """Numbers and operators, which shingles of words lose or outweigh."""
    return Counter(_SIGN.findall(composed(text).casefold()))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared part of two sets, 0 to 1.

    Example:
        >>> jaccard(shingles("a b c d"), shingles("a b c e"))
        0.3333333333333333
    """
    return len(a & b) / len(a | b) if a or b else 0.0


class NearDuplicates:
    """MinHash-LSH over a stream: proposes the earlier texts that a text may repeat.

    Memory: about 1.3 KB per text (16 band entries), whatever its length; texts are not kept.
    The case is mixed into every shingle, so texts about different cases share none and are never
    proposed. That keeps the candidate lists short where a million mails share their phrases.
    """

    def __init__(self) -> None:
        from rensa import RMinHashLSH

        self._lsh = RMinHashLSH(ALIKE, PERMUTATIONS, BANDS)

    def sketch(self, parts: Shingles, case: str) -> Any:
        """The MinHash of a text about a case; made once, used for `candidates` and `add`."""
        from rensa import RMinHash

        sketch = RMinHash(PERMUTATIONS, SEED)
        sketch.update([f"{case}|{' '.join(words)}" for words in parts])
        return sketch

    def candidates(self, sketch: Any) -> list[int]:
        """Keys of earlier texts that may be near, oldest first; true overlap must confirm.

        At most the latest `PROPOSED`: texts that propose each other by the hundred share a phrase,
        and to compare them all would take time that grows with the square of the file.
        """
        return sorted(self._lsh.query(sketch))[-PROPOSED:]

    def add(self, key: int, sketch: Any) -> None:
        """Remember a text under a key."""
        self._lsh.insert(key, sketch)


class HeldOut:
    """Mails that no training row may resemble: the test set and the few-shot examples.

    The case plays no role here. A training row that is dropped needlessly costs one row; a leaked
    test mail costs the truth of every number measured later.
    """

    def __init__(
        self, texts: Mapping[str, str], common: Shingles = frozenset(), *, signs: bool = False
    ) -> None:
        """Index held-out texts by id.

        Args:
            texts: Name -> text.
            common: `common_shingles` of the training file: they count for nothing.
            signs: Texts with other numbers or operators are other texts, however alike their
                words: 1 + 2 and 1 - 2 are two questions.
        Raises:
            DataError: There is none, so nothing would be compared.
        """
        if not texts:
            raise DataError("HeldOut: no held-out texts, so no leak could be found. Pass some.")
        self._exact = {exact_key(text): name for name, text in texts.items()}
        self._common = common
        self._signs = {name: _signs(text) for name, text in texts.items()} if signs else {}
        self._parts = {name: shingles(text) - common for name, text in texts.items()}
        self._long = {name: self._runs(text) for name, text in texts.items()}
        self._by_part = _inverted(self._parts)
        self._by_long = _inverted(self._long)

    def find(self, text: str, parts: Shingles, key: int) -> str | None:
        """What a text repeats, as evidence, or None.

        Of several held-out texts the one it repeats most is named, of equal ones the first by
        name: the evidence is stored, and sets have another order in every process.

        Args:
            text: A mail.
            parts: `shingles(text)`.
            key: `exact_key(text)`.
        """
        if name := self._exact.get(key):
            return f"exactly {name}"
        parts = parts - self._common
        shared, signs = _hits(self._by_part, parts), _signs(text) if self._signs else Counter()
        near = []
        for name, both in shared.items():
            overlap = both / (len(parts) + len(self._parts[name]) - both)
            if overlap >= ALIKE and signs == self._signs.get(name, signs):
                near.append((-overlap, name))
        if near:
            overlap, name = min(near)
            return f"near {name}: Jaccard {-overlap:.2f}"
        # One shared n-gram of CONTAINED_SIZE words makes one more shared shingle than this; where
        # boilerplate was taken out of it, at least one is left.
        if max(shared.values(), default=0) <= (0 if self._common else CONTAINED_SIZE - SIZE):
            return None
        inside = []
        for name, both in _hits(self._by_long, self._runs(text)).items():
            share = both / len(self._long[name])
            if share >= ALIKE and self._signs.get(name, signs) <= signs:
                inside.append((-share, name))
        if not inside:
            return None
        share, name = min(inside)
        return f"contains {name}: {-share:.0%} of its {CONTAINED_SIZE}-grams"

    def _runs(self, text: str) -> Shingles:
        """The n-grams of the containment test; those of boilerplate alone are left out."""
        runs = shingles(text, CONTAINED_SIZE)
        if not self._common:
            return runs
        starts = range(CONTAINED_SIZE - SIZE + 1)
        return frozenset(
            r for r in runs if any(r[k : k + SIZE] not in self._common for k in starts)
        )


def _inverted(sets: Mapping[str, Shingles]) -> dict[tuple[str, ...], list[str]]:
    index: dict[tuple[str, ...], list[str]] = {}
    for name, parts in sets.items():
        for part in parts:
            index.setdefault(part, []).append(name)
    return index


def _hits(index: Mapping[tuple[str, ...], list[str]], parts: Shingles) -> dict[str, int]:
    """Names with the number of parts they share."""
    counts: dict[str, int] = {}
    for part in parts:
        for name in index.get(part, ()):
            counts[name] = counts.get(name, 0) + 1
    return counts


Pair = tuple[int, int]
Finder = Callable[[Sequence[Shingles]], set[Pair]]


def rensa_pairs(texts: Sequence[Shingles]) -> set[Pair]:
    """Pairs proposed by rensa (Rust), as index pairs (earlier, later)."""
    from rensa import RMinHash, RMinHashLSH

    lsh, pairs = RMinHashLSH(ALIKE, PERMUTATIONS, BANDS), set()
    for key, parts in enumerate(texts):
        sketch = RMinHash(PERMUTATIONS, SEED)
        sketch.update([" ".join(words) for words in parts])
        pairs |= {(other, key) for other in lsh.query(sketch)}
        lsh.insert(key, sketch)
    return pairs


def datasketch_pairs(texts: Sequence[Shingles]) -> set[Pair]:
    """The same with datasketch (numpy), with the same permutations and bands."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    pairs = set()
    for key, parts in enumerate(texts):
        sketch = MinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update_batch([" ".join(words).encode() for words in parts])
        pairs |= {(other, key) for other in lsh.query(sketch)}
        lsh.insert(key, sketch, check_duplication=False)
    return pairs


def all_pairs(texts: Sequence[Shingles]) -> set[Pair]:
    """Every pair at `ALIKE` or above by exact comparison: the truth that MinHash approximates.

    Pairs without a shared shingle are never compared, the rest is quadratic: a few thousand texts.
    """
    owners: dict[tuple[str, ...], list[int]] = {}
    for key, parts in enumerate(texts):
        for part in parts:
            owners.setdefault(part, []).append(key)
    shared = Counter(pair for keys in owners.values() for pair in combinations(keys, 2))
    return {
        (a, b) for (a, b), n in shared.items() if n / (len(texts[a]) + len(texts[b]) - n) >= ALIKE
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one way to find near-duplicates is worth."""

    name: str
    planted: int  # pairs known to be duplicates
    found: int  # ... and proposed
    proposed: int  # all pairs proposed
    false: int  # proposed, but below `ALIKE` by exact comparison
    seconds: float


def compare_finders(
    texts: Sequence[str], planted: Iterable[Pair], finders: Mapping[str, Finder]
) -> list[Comparison]:
    """Run several finders on the same texts and count against known pairs.

    Args:
        texts: Mails.
        planted: Index pairs known to be duplicates, in any order.
        finders: Name -> function, for example {"rensa": rensa_pairs}.
    """
    sets = [shingles(text) for text in texts]
    known = {(min(pair), max(pair)) for pair in planted}
    results = []
    for name, finder in finders.items():
        started = time.perf_counter()
        pairs = finder(sets)
        seconds = time.perf_counter() - started
        false = sum(jaccard(sets[a], sets[b]) < ALIKE for a, b in pairs)
        results.append(
            Comparison(name=name, planted=len(known), found=len(known & pairs),
                       proposed=len(pairs), false=false, seconds=seconds)
        )  # fmt: skip
    return results
