"""Write support mails whose ticket is known, from the clauses in phrases/*.toml.

A fact is in the ticket exactly if a clause that says it was used, so a label can never claim what
the mail does not hold. Modules: `lexicon` draws facts, `template` expands clauses, `speech` fills
their slots, `composer` puts them in order, `voices` adds tone and errors.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

import voices
from case import Facts, draw_facts
from composer import Composer
from draw import pick_weighted
from scenarios import Scenario
from speech import Speech
from written import pick_money

STYLES = {
    "plain": 24,
    "terse": 12,
    "chatty": 11,
    "angry": 16,
    "typos": 10,
    "quoted_reply": 8,
    "several_issues": 9,
    "missing_facts": 5,
    "formal": 9,
    "non_native": 9,
}
SAY_SHARES = {"product": 0.87, "order": 0.75, "amount": 0.66, "date": 0.58, "customer": 0.77}
STYLE_FACTORS = {"missing_facts": 0.15, "terse": 0.85}
SMALL_LETTERS = {"typos": 0.45, "terse": 0.12}  # share of the style written without capitals


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A finished mail with its ticket."""

    marked: str  # the text with the marks of its labelled spans, see voices.py
    ticket: dict[str, Any]
    style: str
    scenario: str
    facts: Facts

    @property
    def text(self) -> str:
        """The mail as the customer sent it."""
        return voices.show(self.marked)


def write_mail(
    rng: Random,
    scenario: Scenario,
    action: str,
    *,
    facts: Facts | None = None,
    style: str = "",
) -> Mail:
    """Compose one mail.

    Args:
        scenario: What happened.
        action: What the customer asks for; a key of `scenario.ask`.
        facts: Those of an earlier mail of the same customer, which makes this a follow-up.
        style: One of `STYLES`; drawn if not given.
    Returns:
        The mail; its ticket holds exactly the facts that the text says.
    """
    if not style:
        styles = [one for one in STYLES if not (one == "angry" and scenario.calm)]
        style = pick_weighted(rng, styles, [STYLES[one] for one in styles])
    case = facts or draw_facts(rng, scenario.family, scenario.nouns, scenario.sum)
    speech = Speech(rng, case, _facts_to_say(rng, scenario, style))
    composer = Composer(speech, scenario, action, style, follow_up=facts is not None)
    text = composer.write()
    small = rng.random() < SMALL_LETTERS.get(style, 0)
    text = voices.lower_case(text) if small else text
    said = speech.said
    product = case.product.lower() if small else case.product
    customer = case.person.name.lower() if small else case.person.name
    ticket = {
        "topic": scenario.topic,
        "product": product if "product" in said else None,
        "order_id": case.order if "order" in said else None,
        "amount": case.money.value if "amount" in said else None,
        "currency": case.money.currency if "amount" in said else None,
        "date": case.day.iso if "date" in said else None,
        "customer": customer if "customer" in said else None,
        "action": action,
        "urgent": composer.urgent,
    }
    return Mail(marked=text, ticket=ticket, style=style, scenario=scenario.id, facts=case)


def retell(rng: Random, mail: Mail) -> Mail:
    """The same words from another customer, with other facts: a quick way to one more mail."""
    old = mail.facts
    new = draw_facts(rng, [old.family], [old.noun + "*" * old.plural], ())
    # other sums in the mail, unlabelled, are in the same currency and lower or higher
    value = float(old.money.value)
    new.money = pick_money(rng, value * 0.95, value * 1.05, old.money.currency)
    small = mail.marked.islower()
    texts = {
        "p": new.product,
        "o": new.order,
        "a": new.money.text,
        "d": new.day.text,
        "c": new.person.name,
    }
    if small:
        texts = {kind: text.lower() for kind, text in texts.items()}
    values = {
        "product": texts["p"],
        "order_id": new.order,
        "amount": new.money.value,
        "currency": new.money.currency,
        "date": new.day.iso,
        "customer": texts["c"],
    }
    ticket = {
        key: values[key] if key in values and value is not None else value
        for key, value in mail.ticket.items()
    }
    marked = voices.refill(mail.marked, texts)
    return Mail(marked=marked, ticket=ticket, style=mail.style, scenario=mail.scenario, facts=new)


def _facts_to_say(rng: Random, scenario: Scenario, style: str) -> set[str]:
    """Draw the facts that the customer will mention if a clause can hold them."""
    factor = STYLE_FACTORS.get(style, 1.0)
    shares = {fact: share * factor for fact, share in SAY_SHARES.items()}
    shares["product"] *= scenario.product
    if scenario.money == "none":
        shares["amount"] = 0
    if scenario.context == "looking":  # nothing was ordered yet
        shares["order"] = 0
    return {fact for fact, share in shares.items() if rng.random() < share}
