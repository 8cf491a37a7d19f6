"""Plans of dialogues: what the user says; and the rules of the two system prompts of each plan."""

import re
from random import Random

from dialogues import compose, pieces, rulebook
from dialogues.compose import Spec
from sft_utils.task import rules as judge

DOMAINS, GENERAL, FACTS = pieces.domains(), pieces.general(), pieces.facts()
TOPICS, TRAPS, OPENINGS = pieces.topics(), pieces.traps(), pieces.openings()
OTHERS = ("de", "fr", "es")
FAMILIES = ("language", "persona", "length", "refusal", "format", "forbidden", "style", "language",
            "refusal", "style")  # fmt: skip
PLAIN = ("language", "persona", "length", "format", "forbidden", "style")
"""Main rules of the first prompt of a plan, in turn."""


class Writer:
    """Draws plans and rows of one split; no code or system prompt is in two splits (`used`)."""

    def __init__(self, split: str, seed: int, used: set[str], families: tuple[str, ...] = FAMILIES):
        self.split, self.used, self.families = split, used, families
        self.rng = Random(f"{seed}:{split}")
        self.test = split == "test"
        self.domains = [d for d in DOMAINS if not d.test]
        if self.test:  # new places twice as often as known ones
            self.domains += 2 * [d for d in DOMAINS if d.test]

    def mine(self, items):
        """The items of this split: those with a star are the test's, others everybody else's."""
        return [item for item in items if item.test == self.test]

    def rows(self, n_pairs: int, turns: tuple[int, ...]) -> list[dict]:
        found, seen = [], set()
        while len(found) < 2 * n_pairs:
            number = len(found) // 2
            pair = self.pair(number, turns)
            key = tuple(row["system"] + "\n".join(t["user"] for t in row["turns"]) for row in pair or ())
            known = self.used & {row["system"] for row in pair or ()}  # of another split
            if pair and not known and not seen & set(key):
                seen |= set(key)
                found += pair
        self.used |= {row["system"] for row in found}
        return found

    def pair(self, number: int, turns: tuple[int, ...]) -> list[dict] | None:
        """The same requests under two system prompts, or None if the rules cannot be met."""
        rng = self.rng
        domain = self.domains[number % len(self.domains)]
        turn = number + number // len(self.domains)  # not in step with the domains
        family = self.families[turn % len(self.families)]
        user_language = rng.choice(OTHERS) if family == "language" and rng.random() < 0.5 else "en"
        topic = None
        if family == "refusal" or (user_language == "en" and rng.random() < 0.12 and max(turns) > 3):
            topic = rng.choice(self.mine(TOPICS))
        one, language_one = self.ruleset(family, user_language, topic)
        other_family = family if rng.random() < 0.5 else rng.choice(PLAIN)
        if topic and not topic.safe:
            other_family = rng.choice(PLAIN)
        two, language_two = self.ruleset(
            other_family, user_language, topic if topic and topic.safe else None, unlike=one
        )
        if two == one:
            return None
        specs = self.plan(domain, user_language, topic, one, two, max(min(turns), 4 if topic else 3), max(turns))
        words = sorted(_content_words(specs))
        scene = rng.choice(SCENES[-1:] if self.test and rng.random() < 0.5 else SCENES[:-1])
        pair = []
        for side, rules, language in (("a", one, language_one), ("b", two, language_two)):
            rules = [self.filled(rule, language, words) for rule in rules]
            made = [compose.compose(spec, rules, language, rng) for spec in specs]
            if not all(made):
                return None
            told = [rulebook.sentence(rule, self.split, rng) for rule in rules]
            rng.shuffle(told)
            pair.append({
                "id": f"{self.split}-{number:03d}{side}", "pair": f"{self.split}-{number:03d}",
                "domain": domain.key, "split": self.split,
                "system": " ".join([scene.format(domain.scene), *told]), "rules": rules,
                "turns": [_turn(turn) for turn in made],
            })  # fmt: skip
        return pair

    def ruleset(self, family, user_language, topic, unlike=None):
        """One to three rules, and the language that a reply is in."""
        rng = self.rng
        kinds = {family} - {"refusal"}
        if topic:
            kinds.add("refusal")
        while len(kinds) < rng.choice([1, 2, 2, 2, 3]):
            kinds.add(rng.choice([*PLAIN, "length", "persona"]))
        if user_language != "en":
            kinds.add("language")
        while len(kinds) > 3:
            kinds.remove(rng.choice(sorted(kinds - {"language", "refusal"})))
        language = "en"
        if "language" in kinds:
            options = [c for c in ("en", *OTHERS) if c != user_language] if user_language != "en" else OTHERS
            before = [rule["language"] for rule in unlike or () if rule["kind"] == "language"]
            language = rng.choice([c for c in options if c not in before] or options)
        name = topic.name if topic else ""
        order = [k for k in judge.KINDS if k in kinds]
        return [rulebook.draw(k, language, self.split, name, [], rng) for k in order], language

    def filled(self, rule, language, words):
        """Forbid a content word of the user in some prompts, where the answer is English."""
        if rule["kind"] != "forbidden" or language != "en":
            return rule
        return rulebook.draw("forbidden", language, self.split, "", words, self.rng)

    def plan(self, domain, language, topic, rules, others, low, high) -> list[Spec]:
        rng, n = self.rng, self.rng.randint(low, high)
        kinds = rng.sample(domain.facts, 3)
        values = {k: pieces.value(k, self.split, rng, self.used) for k in kinds}
        starts = [text for test, text in OPENINGS if test == self.test]
        opening = rng.choice(starts)[language]
        used = [k for k, slot in zip(kinds, "abc", strict=True) if "{" + slot + "}" in opening]
        gives = {slot: FACTS[k].give[language].format(v=values[k]) for k, slot in zip(kinds, "abc", strict=True)}
        asked = rng.sample(self.mine(domain.pairs), 3) + rng.sample(self.mine(GENERAL), 3)
        rng.shuffle(asked)
        asked = [p for p in asked if language in p.ask] + rng.sample(self.mine(GENERAL), 4)
        specs: dict[int, Spec] = {0: Spec("open", opening.format(**gives))}
        if rng.random() < 0.5:
            pair = asked.pop(0)
            specs[0] = Spec("open", f"{specs[0].user} {pair.ask[language]}", pair.reply)
        free = list(range(1, n))
        n_asks = 2 if n >= 5 and rng.random() < 0.6 else 1
        places = rng.sample(range(2, n), n_asks)
        if n == 6 and rng.random() < 0.6 and 5 not in places:
            places[0] = 5  # the longest distance is rare otherwise
        for at, kind in zip(sorted(places), rng.sample(used, 2), strict=False):
            specs[at] = self.ask(kind, values[kind], at, language)
            free.remove(at)
        rng.shuffle(free)
        if topic:
            for pairs, kind in ((topic.ask, "forbidden"), (topic.near, "near")):
                if free:
                    pair = rng.choice(pairs)
                    specs[free.pop()] = Spec(kind, pair.ask["en"], pair.reply, topic=kind == "forbidden")
        if free and language == "en" and rng.random() < 0.6:
            specs[free.pop()] = self.trap(domain, topic, rules, others)
        for at in free:
            pair = next(p for p in asked if not any(p.ask[language] in s.user for s in specs.values()))
            specs[at] = Spec("pair", pair.ask[language], pair.reply)
        return [specs[i] for i in range(n)]

    def ask(self, kind, value, at, language) -> Spec:
        fact = FACTS[kind]
        tell = self.rng.choice(fact.tell)
        answers = {code: text.format(v=value) for code, text in tell.items()}
        asks = judge.Ask(fact=kind, value=value, distance=at)
        return Spec("ask", self.rng.choice(fact.ask)[language], answers, asks=asks)

    def trap(self, domain, topic, rules, others) -> Spec:
        rng = self.rng
        kinds = {"any"} | {rule["kind"] for rule in rules if rule["kind"] != "refusal" or topic}
        trap = rng.choice([t for t in self.mine(TRAPS) if t.kind in kinds])
        pair = rng.choice(self.mine(domain.pairs))
        banned = rng.choice(topic.ask) if topic else None
        own = [rule["name"] for rule in [*rules, *others] if rule["kind"] == "persona"]
        name = rng.choice([p for p in pieces.pool("persona", self.split) if p not in own])
        text = trap.text.format(q=pair.ask["en"], ask=banned.ask["en"] if banned else "", name=name)
        if trap.kind == "refusal":
            return Spec("trap", text, banned.reply, trap=True, topic=True)
        imposed = name if "{name}" in trap.text else ""
        answers = pair.reply if "{q}" in trap.text else None
        return Spec("trap", text, answers, trap=True, imposed=imposed)


SCENES = ["You are the assistant at {}.", "You answer questions at {}.", "You work at {}.", "You are on duty at {}."]


def _content_words(specs: list[Spec]) -> set[str]:
    """Longer words that the user says and no English answer needs."""
    said = {w.lower() for spec in specs[1:] for w in re.findall(r"\b[a-z]{5,}\b", spec.user) if not spec.trap}
    needed = {w.lower() for spec in specs if spec.answers for w in re.findall(r"\w+", spec.answers["en"])}
    return said - needed - {"there", "which", "where", "could", "would", "about", "again", "should", "these"}


def _turn(turn: judge.Turn) -> dict:
    asks = turn.asks and {"fact": turn.asks.fact, "value": turn.asks.value, "distance": turn.asks.distance}
    return {"user": turn.user, "reply": turn.reply, "asks": asks, "trap": turn.trap,
            "refuse": turn.refuse, "borderline": turn.borderline, "imposed": turn.imposed}  # fmt: skip
