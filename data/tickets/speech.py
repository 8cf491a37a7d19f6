"""What one mail can say: its facts, which of them are still unsaid, and the words that fit them."""

import re
from collections.abc import Set
from dataclasses import dataclass, field
from random import Random

import template
from case import Facts, decoy
from draw import pick, pick_weighted
from lexicon import MISC
from voices import CLOSE, OPEN

SINGULAR = re.compile(r"\b(?:an?|one|another|second|third|every|each)(?: \w+)? $", re.IGNORECASE)
PLURAL_WORDS = {
    "it": ("it", "them"),
    "they": ("it", "they"),
    "It": ("It", "They"),
    "them": ("it", "them"),
    "They": ("It", "They"),
    "is": ("is", "are"),
    "was": ("was", "were"),
    "Is": ("Is", "Are"),
    "has": ("has", "have"),
    "does": ("does", "do"),
    "s": ("s", ""),
    "es": ("es", ""),
}
ORDER_WORDS = {
    group: words.split("|")
    for group, words in {
        "goods": "order |order |order no. |order number |order #|order nr |order nr. |invoice "
        "|purchase order |order no |#",
        "digital": "order |order no. |invoice |order #|invoice no. |order number ",
        "contract": "contract |contract no. |contract number |contract nr ",
        "booking": "booking |booking no. |booking #|reservation |booking reference ",
    }.items()
}


@dataclass(slots=True)
class Speech:
    """A `template.Speaker` for one mail."""

    rng: Random
    facts: Facts
    left: set[str]
    said: set[str] = field(default_factory=set)
    words: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # no clause twice in a mail
    vague_used: bool = False

    def can(self, slot: str) -> bool:
        """Whether the slot can be filled now."""
        if slot.endswith("_amount"):
            return "amount" in self.left | self.said
        if slot.startswith("other_"):
            return "product" in self.said
        fact = template.FACT_OF_SLOT.get(slot)
        return fact is None or fact in self.left

    def tell(self, text: str) -> str:
        """Expand a template."""
        return template.expand(template.parse(text), self)

    def choose(
        self, options: tuple[str, ...], *, asking: bool = True, unsaid: Set[str] = frozenset()
    ) -> str:
        """Expand one fitting template, or none; those that say unsaid facts are preferred.

        Args:
            asking: Whether the clause may ask for the action by itself.
            unsaid: Facts that the clause has to leave for later.
        """
        kept = self.left & unsaid
        self.left -= kept
        text = ""
        if fitting := template.fitting(options, self, asking=asking):
            weights = [1 + 1.5 * len(clause.facts & self.left) for clause in fitting]
            chosen = pick_weighted(self.rng, fitting, weights)
            self.used.add(chosen.text)
            text = template.expand(chosen.nodes, self)
        self.left |= kept
        return text

    def line(self, fact: str) -> str:
        """One fact as a line of a list."""
        label = {"order": "Order", "amount": "Amount", "date": "Date", "product": "Product"}[fact]
        if fact == "order" and self.facts.group != "goods":
            label = self.facts.group.replace("digital", "invoice").capitalize() + " no."
        slot = {"product": "name"}.get(fact, fact)
        return self.tell(f"{label}: {{{slot}}}")

    def sign(self) -> str:
        """The customer's name as a label."""
        return self._mark("customer", self.facts.person.name)

    def _mark(self, fact: str, text: str) -> str:
        self.left.discard(fact)
        self.said.add(fact)
        return f"{OPEN}{fact[0]}{text}{CLOSE}"

    def say(self, slot: str, before: str) -> str:
        """The text of a slot, given the text before it."""
        if slot in PLURAL_WORDS:
            return PLURAL_WORDS[slot][self.facts.plural]
        if slot == "noun":
            return self._noun(before)
        if slot in ("date", "when", "when2", "when_since", "When_cap"):
            return self._date(slot)
        if slot == "amount":
            return self._mark("amount", self.facts.money.text)
        if slot in ("order", "oref", "Oref"):
            return self._order(slot)
        if slot == "name":
            return self._mark("product", self.facts.product)
        if slot in ("product", "the_product", "a_product", "The_product"):
            text = self._product("the_product" if slot == "The_product" else slot)
            return text[0].upper() + text[1:] if slot == "The_product" else text
        if slot == "signer":
            return self.facts.person.title + self._mark("customer", self.facts.person.name)
        return self._decoy(slot)

    def _noun(self, before: str) -> str:
        if self.facts.plural and SINGULAR.search(before):
            return "pair"
        return self.facts.noun

    def _date(self, slot: str) -> str:
        if "date" in self.left:
            date = self._mark("date", self.facts.day.text)
            forms = {"date": date, "when": f" on {date}", "when2": f"on {date} "}
            return forms.get(slot) or (f" {date}" if slot == "when_since" else f"On {date}")
        if slot == "when_since":
            return pick(self.rng, (" last week", " yesterday", " Monday", " last month"))
        vague = pick(self.rng, MISC["vague"])
        if slot == "When_cap":
            return vague[0].upper() + vague[1:]
        if self.vague_used or "date" in self.said or self.rng.random() < 0.5:
            return ""
        self.vague_used = True
        return f"{vague} " if slot == "when2" else f" {vague}"

    def _order(self, slot: str) -> str:
        order = self.facts.order
        if self.rng.random() < 0.07:
            order = order.lower()
        number = self._mark("order", order)
        if slot == "order":
            return "#" + number if self.rng.random() < 0.1 else number
        if self.facts.noun.endswith(("insurance", "policy")):
            word = pick(self.rng, ("policy ", "policy no. ", "policy number "))
        elif self.facts.noun.endswith("ticket"):
            word = pick(self.rng, ("ticket no. ", "booking ", "ticket ", "booking reference "))
        else:
            word = pick(self.rng, ORDER_WORDS[self.facts.group])
        word += "#" if word.endswith(("order ", "no. ")) and self.rng.random() < 0.08 else ""
        return (word[0].upper() + word[1:] if slot == "Oref" else word) + number

    def _product(self, slot: str) -> str:
        rng, facts = self.rng, self.facts
        goods = facts.group == "goods"
        new = "product" in self.left
        if not new and not ("product" in self.said and rng.random() < 0.2):
            if slot == "a_product":
                return ("" if facts.plural else "a ") + facts.noun
            return f"{'my' if slot == 'product' and rng.random() < 0.5 else 'the'} {facts.noun}"
        name = self._mark("product", facts.product)
        with_noun = facts.plural or rng.random() < (0.6 if goods else 0.55)
        if not goods and not with_noun and rng.random() < 0.7:
            return name
        if slot == "a_product":
            article = pick(rng, ("a pair of ", "")) if facts.plural else "a "
        elif slot == "product":
            article = pick(rng, ("my ", "my ", "the ", "our "))
        else:
            article = "the "
        if goods and new and rng.random() < 0.09:
            article += pick(rng, MISC["colours"]) + " "
        return article + name + (f" {facts.noun}" if with_noun else "")

    def _decoy(self, slot: str) -> str:
        """A word that no label depends on; the same slot gives the same word twice."""
        kind = "other" if slot.startswith("other_") else slot
        if kind not in self.words or kind.endswith("amount"):
            self.words[kind] = decoy(self.rng, kind, self.facts, set(self.words.values()))
        article = {"other_a": "a ", "other_the": "the "}.get(slot, "")
        return article + self.words[kind]
