"""One customer's case: the facts that labels are made of, and the words that are only decoy."""

from dataclasses import dataclass
from random import Random

from draw import pick
from lexicon import FAMILIES, MISC, Person, pick_person, pick_product_name
from written import CURRENCIES, Day, Money, pick_day, pick_money, pick_order_id

from sft_utils.errors import DataError

SERVICES = ("digital", "contract", "booking")


@dataclass(slots=True, kw_only=True)
class Facts:
    """Everything that one customer could tell about one case."""

    family: str
    noun: str
    plural: bool
    product: str
    order: str
    money: Money
    day: Day
    person: Person

    @property
    def group(self) -> str:
        """goods, digital, contract or booking."""
        return self.family if self.family in SERVICES else "goods"


def draw_facts(
    rng: Random, families: list[str], nouns: list[str], price: tuple[float, ...]
) -> Facts:
    """Draw the facts of a new case.

    Args:
        families: Families of goods and services that the scenario is about.
        nouns: Product nouns to choose from; empty for all of the family.
        price: Lowest and highest sum in whole units; empty for the prices of the family.
    """
    family = pick(rng, families)
    noun = pick(rng, nouns or FAMILIES[family]["nouns"])
    homes = [name for name, words in FAMILIES.items() if noun in words["nouns"]]
    if homes and family not in homes:
        family = pick(rng, homes)
    low, high = price or FAMILIES[family]["price"]
    return Facts(
        family=family,
        noun=noun.rstrip("*"),
        plural=noun.endswith("*"),
        product=pick_product_name(rng, family),
        order=pick_order_id(rng),
        money=pick_money(rng, low, high, pick(rng, CURRENCIES)),
        day=pick_day(rng),
        person=pick_person(rng),
    )


WORD_LISTS = {
    "agent": "agents",
    "shop": "shops",
    "company": "companies",
    "team": "teams",
    "city": "cities",
    "colour": "colours",
    "size": "sizes",
    "vague": "vague",
    "span": "spans",
    "age": "ages",
    "small": "small",
    "place": "places",
}


def decoy(rng: Random, slot: str, facts: Facts, taken: set[str]) -> str:
    """Draw the text of a slot that no label depends on.

    Args:
        slot: Its name; a final 2 means another one of the same kind.
        taken: Words that the mail holds already; lists do not give them again.
    Raises:
        DataError: The slot is unknown.
    """
    base = slot.rstrip("23")
    if base in WORD_LISTS:
        return pick(rng, [word for word in MISC[WORD_LISTS[base]] if word not in taken])
    if base == "signer":
        return pick_person(rng).name
    if base == "agent_formal":
        return pick(rng, ("Mr ", "Ms ", "Mrs ")) + pick_person(rng).name.split()[-1]
    if base == "date":
        return pick_day(rng).text
    if base == "amount":
        return pick_money(rng, 5, 60, facts.money.currency).text
    if base.endswith("_amount"):
        value = facts.money.value * (0.6 if base == "lower_amount" else 2)
        return pick_money(rng, value * 0.8, value * 1.2, facts.money.currency).text
    if base == "other":
        return pick_product_name(rng, facts.family)
    numbers = {
        "serial": (
            f"{pick(rng, 'ABKMSX')}{rng.randrange(10**8, 10**9)}",
            f"SN{rng.randrange(10**5, 10**7)}",
            f"{rng.randrange(100, 999)}-{rng.randrange(10**4, 10**5)}",
        ),
        "tracking": (
            f"{rng.randrange(10**11, 10**12)}",
            f"ZR{rng.randrange(10**7, 10**8)}",
            f"{rng.randrange(100, 999)} {rng.randrange(100, 999)} {rng.randrange(100, 999)}",
        ),
        "code": (
            f"E{rng.randrange(1, 40):02}",
            f"0x{rng.randrange(16, 255):02X}",
            str(rng.randrange(100, 999)),
            f"F-{rng.randrange(1, 30)}",
        ),
    }
    if base not in numbers:
        raise DataError(f"phrases/*.toml: unknown slot {slot!r}. Use one that speech.py knows.")
    return pick(rng, numbers[base])
