"""Frames of the schemas that are never trained: test only."""

from structured.engine import Draw, Fact, Topic, pick, several, write_date
from structured.pools import FIRST, LAST

VESSELS = ["MV Halcyon", "Baltic Heron", "MS Torvald", "Star of Candia", "MV Pelican", "Ocean Thistle", "Amber Tide", "MS Larkspur"]
PORTS = ["Rotterdam", "Gdansk", "Piraeus", "Bilbao", "Turku", "Le Havre", "Antwerp", "Genoa", "Riga", "Cork"]
GOODS = ["timber", "coffee", "steel coils", "wheat", "cement", "paper pulp", "machine parts", "olive oil", "bricks", "copper wire"]
PETS = ["Biscuit", "Nero", "Luna", "Pepper", "Olaf", "Mimi", "Rusty", "Pickles", "Shadow", "Kiwi"]
THINGS = ["parasol", "backpack", "laptop sleeve", "scarf", "violin case", "lunch box", "wallet", "sports bag", "hat", "camera"]
PLACES = ["tram 6", "bus 41", "Central Station", "the night bus", "platform 3", "the airport train", "line U2", "the ferry pier"]
BRANDS = ["Tarvik", "Norrland", "Pelto", "Ostrava Sport", "Mirelle", "Quayside", "Brunel & Sons", "Kestrel"]
THINGS_IN = ["keys", "a notebook", "two books", "swimming gear", "a phone charger", "sunglasses", "house keys", "a water bottle", "gloves"]


def cargo(draw: Draw) -> Fact:
    """One or two goods with their tonnes."""
    rows = [(draw.rng.randrange(20, 900, 10), goods) for goods in draw.some(GOODS, 1, 2)]
    form = draw.rng.choice(["{n} tonnes of {g}", "{n} t {g}", "{g} ({n} t)"])
    parts = [form.format(n=n, g=goods) for n, goods in rows]
    text = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return text, [{"goods": goods, "tonnes": n} for n, goods in rows]


def route(draw: Draw) -> Fact:
    """Two ports."""
    a, b = draw.some(PORTS, 2, 2)
    text = draw.rng.choice([f"from {a} to {b}", f"loading in {a}, unloading in {b}", f"{a} to {b}"])
    return text, {"loading_port": a, "discharge_port": b}


def enum(*words: str):
    """A slot for a value written as it is."""
    def slot(draw: Draw) -> Fact:
        word = draw.rng.choice(words)
        return word, word
    return slot


def owner(draw: Draw) -> Fact:
    """First and last name."""
    name = f"{draw.of(FIRST)} {draw.of(LAST)}"
    return name, name


def principal(draw: Draw) -> Fact:
    """A sum in euros."""
    value = draw.rng.choice([2500, 4000, 7500, 12000, 18500, 25000, 40000, 150000, 220000])
    return draw.rng.choice([f"{value} euros", f"{value:,} euros", f"€{value:,}", f"EUR {value}"]), value


def rate(draw: Draw) -> Fact:
    """Percent a year."""
    value = draw.rng.choice([2, 3, 5, 1.9, 2.75, 3.4, 4.25, 5.5, 6.1, 7.9])
    return draw.rng.choice([f"{value}%", f"{value} percent", f"{value} %"]), value


def term(draw: Draw) -> Fact:
    """A number of months, or of years."""
    value = draw.rng.choice([12, 18, 24, 36, 48, 60, 84, 120])
    years = [f"{value // 12} years"] if value % 12 == 0 and value > 12 else []
    return draw.rng.choice([f"{value} months", *years]), value


def days(draw: Draw) -> Fact:
    """Signed on one day, first payment a month or two later in the same year."""
    rng, month = draw.rng, draw.rng.randint(1, 10)
    day, due_month, due = rng.randint(1, 28), month + rng.randint(1, 2), rng.choice([1, 15, 28])
    a, b = write_date(rng, 2026, month, day), write_date(rng, 2026, due_month, due)
    text = rng.choice(["signed on {a}, first payment on {b}", "contract of {a}, first instalment due {b}", "signature {a}, first due {b}"])
    return text.format(a=a, b=b), {"signed_on": f"2026-{month:02}-{day:02}", "first_due": f"2026-{due_month:02}-{due:02}"}


def reward(draw: Draw) -> Fact:
    """Euros for the finder."""
    value = draw.rng.choice([5, 10, 20, 25, 30, 50, 100])
    return draw.rng.choice([f"{value} euros", f"€{value}"]), value


TOPICS = [
    Topic(
        name="freight_manifest",
        slots={"vessel": pick(VESSELS), "route": route, "cargo": cargo},
        frames={"test": [
            "{vessel}, {route}, carrying {cargo}.",
            "Manifest {vessel}: {route}. On board: {cargo}.",
            "Please note for the {vessel}, {route}, the following load: {cargo}. [The pilot comes at dawn.]",
            "We shipped {cargo} on the {vessel}, {route}.",
        ]},
    ),
    Topic(
        name="vet_visit",
        slots={"patient": pick(PETS), "species": enum("dog", "cat", "rabbit", "bird", "horse"), "reason": enum("vaccination", "injury", "illness", "checkup"), "sex": enum("male", "female"), "owner": owner},
        frames={"test": [
            "{patient}, a [{sex} ]{species}, is here. Reason: {reason}. [Owner: {owner}.] [There is insurance{insured=true}.]",
            "{species} {patient}[ ({sex})], reason for the visit: {reason}[, brought by {owner}, the owner][, not insured{insured=false}]",
            "[{owner} is the owner. ]The {species} is called {patient}. [It is {sex}.] We put down {reason}. [Insured, yes{insured=true}.]",
            "Next in the waiting room: {patient} the {species} - {reason}. [Sex {sex}.] [No insurance{insured=false}.] [The owner is called {owner}.]",
        ]},
    ),
    Topic(
        name="loan_terms",
        slots={"principal": principal, "rate_percent": rate, "term_months": term, "days": days},
        frames={"test": [
            "A loan of {principal} at {rate_percent} over {term_months}, {days}.",
            "We lend {principal}. Interest {rate_percent}, term {term_months}; {days}. [The rest is in the annex.]",
            "Terms: {principal}, {term_months}, {rate_percent} a year. Dates: {days}.",
            "For the new workshop we borrowed {principal} for {term_months} at {rate_percent}, {days}.",
        ]},
    ),
    Topic(
        name="lost_property",
        slots={"object": pick(THINGS), "colour": enum("red", "black", "green", "grey", "yellow", "navy"), "brand": pick(BRANDS), "last_seen": pick(PLACES), "contents": several(THINGS_IN, 1, 2), "reward": reward},
        frames={"test": [
            "I lost my [{colour} ]{object} on {last_seen}. [The brand is {brand}.] [Inside: {contents}.]",
            "Missing: {object}[, {colour}][, made by {brand}]. I had it last at {last_seen}. [The finder gets {reward}.]",
            "Has anybody handed in a [{colour} ]{object}[ by {brand}]? Probably left at {last_seen}. [It held {contents}.] [I pay {reward} as a reward.]",
            "my {object} is gone[, colour {colour}]. last seen: {last_seen}. [in it: {contents}.] [brand {brand}.]",
        ]},
    ),
]
