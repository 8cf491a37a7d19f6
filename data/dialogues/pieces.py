"""The hand-written phrases (phrases/*.txt) as data, and the values that facts take."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).parent / "phrases"
LANGUAGES = ("en", "de", "fr", "es")
Text = dict[str, str]  # language -> text


@dataclass(frozen=True)
class Pair:
    """A request and its reply; `ask` has English only, or all four languages."""

    ask: Text
    reply: Text
    test: bool = False


@dataclass(frozen=True)
class Domain:
    key: str
    scene: str
    facts: tuple[str, ...]
    test: bool
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Fact:
    give: Text
    ask: tuple[Text, ...]
    tell: tuple[Text, ...]


@dataclass(frozen=True)
class Topic:
    name: str
    safe: bool  # never answered, with or without the rule
    test: bool
    ask: tuple[Pair, ...]
    near: tuple[Pair, ...]


@dataclass(frozen=True)
class Trap:
    kind: str  # of the rule it attacks, or any
    text: str
    test: bool


def _sections(name: str) -> list[tuple[str, list[str]]]:
    """(header, lines) of a file; the header is empty before the first [..]."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and "]" in line and name != "traps":
            found.append((line, []))
        elif line and not line.startswith("#"):
            found[-1][1].append(line)
    return [part for part in found if part[0] or part[1]]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def _text(cells: list[str]) -> Text:
    if len(cells) != len(LANGUAGES):
        raise ValueError(f"{len(cells)} instead of {len(LANGUAGES)} languages: {cells}")
    return dict(zip(LANGUAGES, cells, strict=True))


def _star(line: str) -> tuple[bool, str]:
    return line.startswith("*"), line.removeprefix("*").strip()


def domains() -> list[Domain]:
    found = []
    for header, lines in _sections("domains"):
        key, scene, facts = re.fullmatch(r"(\[+\w+\]+) (.+) \| (.+)", header).groups()
        pairs = []
        for line in lines:
            test, rest = _star(line)
            ask, *replies = _cells(rest)
            pairs.append(Pair({"en": ask}, _text(replies), test or key.startswith("[[")))
        found.append(
            Domain(key.strip("[]"), scene, tuple(facts.split(", ")), key.startswith("[["), tuple(pairs))
        )
    return found


def general() -> list[Pair]:
    lines = _sections("general")[0][1]
    found = []
    for ask, reply in zip(lines[::2], lines[1::2], strict=True):
        test, rest = _star(ask)
        found.append(Pair(_text(_cells(rest)), _text(_cells(reply.removeprefix("="))), test))
    return found


def facts() -> dict[str, Fact]:
    found = {}
    for header, lines in _sections("facts"):
        parts: dict[str, list[Text]] = defaultdict(list)
        for line in lines:
            kind, *cells = _cells(line)
            parts[kind].append(_text(cells))
        found[header.strip("[]")] = Fact(parts["give"][0], tuple(parts["ask"]), tuple(parts["tell"]))
    return found


def topics() -> list[Topic]:
    found = []
    for header, lines in _sections("refusals"):
        name, kind = re.fullmatch(r"\[(.+)\] (\w+)", header).groups()
        parts: dict[str, list[Pair]] = defaultdict(list)
        for line in lines:
            what, ask, *replies = _cells(line)
            parts[what].append(Pair({"en": ask}, _text(replies)))
        test, name = _star(name)
        found.append(Topic(name, kind == "safe", test, tuple(parts["ask"]), tuple(parts["near"])))
    return found


def speech() -> dict[str, list[Text]]:
    return {
        header.strip("[]"): [_text(_cells(line.removeprefix("!"))) for line in lines]
        for header, lines in _sections("speech")
    }


def traps() -> list[Trap]:
    found = []
    for line in _sections("traps")[0][1]:
        kind, text = _cells(line)
        found.append(Trap(kind.removesuffix(" *"), text, kind.endswith("*")))
    return found


def openings() -> list[tuple[bool, Text]]:
    lines = (_star(line) for line in _sections("openings")[0][1])
    return [(test, _text(_cells(rest))) for test, rest in lines]


SPLITS = ("train", "val", "test", "fewshot")
NAMES = """Novak Berger Silva Okafor Lindqvist Moretti Dubois Tanaka Kowalski Haddad Jensen Castillo
Nguyen Fischer Petrov Rahman Sullivan Andersen Kaya Marino Holmberg Osei Varga Lambert Schneider Ortega
Bianchi Sato Keller Popescu Delgado Weiss Lopes Farrell Yilmaz Hoffman Laurent Nowak Ahmadi Brandt
| Eriksen Pereira Zhang Dvorak Romano | Achterberg Quispe Thorne Ivanova Mbeki Sorensen Falk Vidal
Zimmer Duarte Kimura Abebe Ruiz Stein Galvan Hauser Pryce Lindgren | Marlow Bekele Orsini"""
PERSONAS = """Mira Anton Luca Greta Nora Felix Ida Theo Clara Oskar Juno Emil Vera Milo Lena Hugo
Stella Ruben Paula Jonas | Edda Nils Rosa Timo | Wanda Bruno Odette Casper Zelda Ivo Pilar Quentin Maeve
Tobias | Alma Kai Ines Leo"""
CITIES = """Lisbon Vienna Oslo Dublin Prague Seville Lyon Turin Ghent Malmo Bergen Porto Basel Leipzig
Bristol Nantes Krakow Zagreb Riga Bilbao | Tallinn Graz Cork | Valencia Uppsala Bremen Toulouse
Trieste Galway Ljubljana Aarhus | Verona Hull"""
BRANDS = """Corvo Tidewheel Brightline Halden Marlin Kestrel Norda Vento Pinewood Rambler Solano
Quickstep | Ostra Juniper | Larkspur Zephyr Bramble Tornado Mistral Copperhead | Wren Alder"""
DEVICES = """Falcon Otter Cedar Comet Beacon Harbor Maple Nimbus Orion Pebble Raven Tango | Umber
Willow | Yonder Badger Cobalt Dynamo Ember Fjord | Garnet Heron"""
TITLES = """Silver-Harbour The-Last-Orchard Winter-Lanterns A-Quiet-Tide Paper-Boats Northern-Bells
The-Glass-Mill Seven-Bridges Blue-Thursday The-Salt-Road | Morning-Tram Two-Rivers | The-Copper-Owl
Slow-Thunder Island-Post The-Green-Door Night-Ferry Distant-Drums | Old-Maps Red-Kites"""
PLANTS = """Morning-Star Lady-Anne Golden-Hour Ruby-Lake White-Dove Summer-Wind Pink-Cloud Sunny-Day
Evening-Song Amber-Glow | First-Kiss Coral-Bay | Snow-Queen Velvet-Moon Honey-Bee Royal-Dawn
Silver-Bell Peach-Tree | Lemon-Ice Rosy-Dream"""
WORDS = {"name": NAMES, "persona": PERSONAS, "city": CITIES, "brand": BRANDS, "device": DEVICES,
         "title": TITLES, "plant": PLANTS}  # fmt: skip
NUMBERS = {  # the values of one split are in no other, whatever the kind
    "people": ((2, 3, 4, 6, 8), (5,), (7, 10, 11, 12), (9,)),
    "amount": ((14, 16, 18, 20, 24, 25, 30, 36, 40), (15, 45), (21, 27, 33, 48, 60, 75), (35,)),
    "budget": ((400, 600, 900, 1200, 1500, 2000, 2400), (1800, 2200), (1100, 1300, 1700, 1900, 2600), (2800,)),
}
TIMES = {"arrival", "pickup", "visit", "delivery", "callback", "departure"}
MINUTES = {"train": (0, 30, 45, 10), "val": (20,), "test": (15, 50, 35), "fewshot": (40,)}


def pool(kind: str, split: str) -> list[str]:
    """The words that one split may use."""
    words = WORDS[kind].split("|")[SPLITS.index(split)].split()
    return [word.replace("-", " ") for word in words]


def value(kind: str, split: str, rng: Random, used: set[str]) -> str:
    """A value of a fact; codes are drawn until one is new to all splits."""
    if kind in WORDS:
        return rng.choice(pool(kind, split))
    if kind in NUMBERS:
        return str(rng.choice(NUMBERS[kind][SPLITS.index(split)]))
    if kind in TIMES:
        return f"{rng.randint(8, 21)}:{rng.choice(MINUTES[split]):02d}"
    while True:
        letter, number = rng.choice("ABCDEFGHJKLMNPRSTUVWXZ"), rng.randint(101, 989)
        code = {"room": f"{number}", "locker": f"{number}", "seat": f"{letter}{number % 100}",
                "shelf": f"{letter}{number % 100}"}.get(kind, f"{letter}{number}")  # fmt: skip
        taken = code in used if kind not in ("room", "locker", "seat", "shelf") else (
            f"{SPLITS.index(split)}" != f"{share(int(re.sub(r'[^0-9]', '', code)))}"
        )
        if not taken:
            used.add(code)
            return code


def share(number: int) -> int:
    """The split (by index) that a short number belongs to: rooms and seats may recur within one."""
    return (0, 0, 0, 0, 0, 1, 2, 2, 2, 3)[number % 10]
