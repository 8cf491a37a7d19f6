"""Draw the rows of every split; programs are run, nothing is in two splits."""

from collections.abc import Callable
from random import Random
from typing import Any

from reasoning import logic, programs, words
from sft_utils.cot import sandbox

Row = dict[str, Any]
SPLITS = ["train", "val", "test", "fewshot"]
WORD = {s.name: s for s in words.STRUCTURES}
CODE = {p.name: p for p in programs.PROGRAMS}
HELD = {
    "word": [s.name for s in words.STRUCTURES if s.heldout],
    "code": [p.name for p in programs.PROGRAMS if p.heldout],
    "logic": [name for name, (_, held, _) in logic.STRUCTURES.items() if held],
}
SEEN = {
    "word": [name for name in WORD if name not in HELD["word"]],
    "code": [name for name in CODE if name not in HELD["code"]],
    "logic": [name for name in logic.STRUCTURES if name not in HELD["logic"]],
}
DOMAINS = list(SEEN)
COUNTS = {  # split -> domain -> (rows of seen structures, rows of held-out structures)
    "train": {"word": (1500, 0), "code": (500, 0), "logic": (500, 0)},
    "val": {"word": (90, 0), "code": (30, 0), "logic": (30, 0)},
    "test": {"word": (150, 60), "code": (60, 24), "logic": (60, 24)},
    "fewshot": {"word": (5, 0), "code": (5, 0), "logic": (5, 0)},
}
SHOTS = {  # structures of the solved examples, from easy to hard
    "word": ["gain", "boxes_plus_loose", "change", "two_prices", "bus_stops"],
    "code": ["assign", "if_else", "sum_range", "keep_even", "call_twice"],
    "logic": ["order3", "order_place", "truth_chain", "own_given", "own_elimination"],
}
MAKE: dict[str, Callable[[str, Random, int], Row]] = {
    "word": lambda name, rng, turn: words.make(WORD[name], rng, turn),
    "logic": logic.make,
}
TRIES = 4_000


def draw(domain: str, names: list[str], count: int, rng: Random, used: set[Any]) -> list[Row]:
    """`count` rows, the structures taking turns; `used` holds what exists and grows.

    Raises:
        ValueError: A structure has too few different problems.
    """
    rows: list[Row] = []
    for number in range(count):
        name, turn = names[number % len(names)], number // len(names)
        for _ in range(TRIES):
            row = MAKE[domain](name, rng, turn)
            key = tuple(map(str, row.pop("key")))
            if key in used or row["question"] in used:
                continue
            used |= {key, row["question"]}
            rows.append(row)
            break
        else:
            raise ValueError(f"too few different problems: {domain}/{name}")
    return rows


def run(rows: list[Row]) -> list[bool]:
    """Run programs and fill in what they printed; False for one that is no good as a problem."""
    results = sandbox.run_many([row["run"] for row in rows])
    return [result.ok and programs.finish(row, result.stdout) for row, result in zip(rows, results, strict=True)]


def draw_programs(names: list[str], count: int, rng: Random, used: set[Any]) -> list[Row]:
    """The same for programs, many to a process: candidates first, the good ones are kept.

    Raises:
        ValueError: A structure has too few different problems.
    """
    quota = {name: [turn for turn in range(count) if names[turn % len(names)] == name] for name in names}
    kept: dict[int, Row] = {}
    for name, places in quota.items():
        for _ in range(20):
            if not places:
                break
            candidates, keys = [], []
            for turn in range(4 * len(places) + 8):
                row = programs.make(CODE[name], rng, turn)
                key = tuple(map(str, row.pop("key")))
                if key not in used and row["question"] not in used and key not in keys:
                    candidates.append(row)
                    keys.append(key)
            for key, row, good in zip(keys, candidates, run(candidates), strict=True):
                if good and places and row["question"] not in used:
                    used |= {key, row["question"]}
                    kept[places.pop(0)] = row
        if places:
            raise ValueError(f"too few different problems: code/{name}")
    return [kept[place] for place in sorted(kept)]


def sample(domain: str, names: list[str], count: int, rng: Random, used: set[Any]) -> list[Row]:
    """Rows of a domain, by the way that suits it."""
    if domain == "code":
        return draw_programs(names, count, rng, used)
    return draw(domain, names, count, rng, used)


def build(seed: int) -> dict[str, list[Row]]:
    """All rows by split, with ids. Every split and domain has a generator of its own."""
    used: set[Any] = set()
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for split in ("fewshot", "test", "val", "train"):  # the small ones first: training gives way
        for domain in DOMAINS:
            seen, held = COUNTS[split][domain]
            rng = Random(f"{seed}/{split}/{domain}")
            names = SHOTS[domain] if split == "fewshot" else SEEN[domain]
            rows = sample(domain, names, seen, rng, used)
            if held:
                rows += sample(domain, HELD[domain], held, rng, used)
            for number, row in enumerate(rows, 1):
                splits[split].append({"id": f"{split}-{domain}-{number:04}", **row, "split": split})
    return splits
