"""The kinds of mails the grammar knows, and how often it writes each."""

from dataclasses import dataclass, field
from random import Random

from draw import pick, pick_weighted
from lexicon import GOODS, MISC, load_phrases

TOPICS = ("billing", "delivery", "defect", "return", "account", "question")
# Weights of the actions within a topic: every topic weighs the same, and over all topics the
# actions stay within a factor of 2.5.
ACTION_WEIGHTS = {
    "billing": {"refund": 52, "information": 18, "change": 18, "cancel": 12},
    "delivery": {"information": 27, "replacement": 29, "refund": 12, "cancel": 18, "change": 14},
    "defect": {"repair": 46, "replacement": 28, "refund": 18, "information": 8},
    "return": {"refund": 38, "replacement": 23, "information": 15, "cancel": 17, "change": 7},
    "account": {"repair": 37, "change": 27, "cancel": 28, "information": 8},
    "question": {"information": 72, "change": 28},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of mail: its wording fixes the topic, its requests the action.

    A template that starts with "!" asks for the first action of `ask` by itself.
    """

    id: str
    topic: str
    family: list[str]  # families of goods and services it can happen to
    full: tuple[str, ...]  # openings that stand alone
    problem: tuple[str, ...]  # sentences that follow a context or an opening
    detail: tuple[str, ...]
    terse: tuple[str, ...]
    subject: tuple[str, ...]
    ask: dict[str, tuple[str, ...]]  # action -> requests
    dates: list[str]  # what the date can be: keys of shared.toml [say_date]
    money: str  # what the sum can be: "price", "disputed" or "none"
    nouns: list[str] = field(default_factory=list)  # instead of those of the family
    sum: tuple[float, ...] = ()  # [lowest, highest], instead of family prices
    product: float = 1.0  # multiplies the chance that the product is named
    context: str = ""  # "none", "looking"; "": the contexts of the family
    asks: bool = False  # every opening asks for the first action
    calm: bool = False  # nobody is angry about this
    b2b: bool = False  # written by a company


def load_scenarios() -> list[Scenario]:
    """All scenarios, in file order."""
    scenarios: list[Scenario] = []
    for topic in TOPICS:
        for row in load_phrases(topic)["scenario"]:
            family = row.pop("family").replace("goods", " ".join(GOODS)).split()
            named = row.pop("nouns", "")  # "@large": a list of words.toml [misc]
            nouns = MISC[named[1:]] if named[:1] == "@" else [n for n in named.split(", ") if n]
            dates = row.pop("dates").split()
            scenarios.append(Scenario(topic=topic, family=family, nouns=nouns, dates=dates, **row))
    return scenarios


Cases = dict[str, tuple[list[str], list[int], dict[str, list[Scenario]]]]


def case_table(scenarios: list[Scenario]) -> Cases:
    """Topic -> actions, their weights, and the scenarios of each action."""
    table: Cases = {}
    for topic in TOPICS:
        pool = [one for one in scenarios if one.topic == topic]
        by_action = {
            action: fitting
            for action in ACTION_WEIGHTS[topic]
            if (fitting := [one for one in pool if action in one.ask])
        }
        weights = [ACTION_WEIGHTS[topic][action] for action in by_action]
        table[topic] = (list(by_action), weights, by_action)
    return table


def pick_case(rng: Random, cases: Cases, topic: str = "") -> tuple[Scenario, str]:
    """Draw a scenario and an action it allows: topics evenly, actions by `ACTION_WEIGHTS`."""
    actions, weights, by_action = cases[topic or pick(rng, TOPICS)]
    action = pick_weighted(rng, actions, weights)
    return pick(rng, by_action[action]), action
