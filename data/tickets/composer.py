"""The order of the clauses in one mail: who greets how, says what when, and signs."""

from typing import Any

import layout
import template
import voices
from draw import pick
from lexicon import load_phrases
from scenarios import Scenario
from speech import Speech
from voices import FILLER_SHARES, NO_GREETING, OPENER_SHARES, TYPO_VOICES, VOICES

URGENT_SHARE = 0.25
SHARED: dict[str, dict[str, Any]] = load_phrases("shared")
SUBJECT_SHARES = {"formal": 0.28, "terse": 0.07, "missing_facts": 0.06}
QUOTE = ("head", "body", "tail")


class Composer:
    """Writes one mail; `urgent` is known when it is done."""

    def __init__(
        self, speech: Speech, scenario: Scenario, action: str, style: str, *, follow_up: bool
    ) -> None:
        self.rng, self.speech, self.scenario = speech.rng, speech, scenario
        self.action, self.style, self.follow_up = action, style, follow_up
        self.urgent = self.chance(URGENT_SHARE)
        self.asked = False  # a clause asked for the action already
        self.pressed = False  # a clause said already that it is urgent
        self.numbered = style == "several_issues" and self.chance(0.3)
        fitting = TYPO_VOICES if style == "typos" else VOICES
        fitting = [voice for voice in fitting if not (voice == "angry" and scenario.calm)]
        self.voice = style if style in VOICES else pick(self.rng, ["plain", *fitting])

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.rng.random() < share

    def shared(self, kind: str, voice: str = "") -> str:
        """One shared clause in the voice of the mail; plain if the voice has none."""
        table = SHARED[kind]
        voice = voice or self.voice
        if kind in ("opener", "filler") and self.scenario.calm:
            voice = "calm" if voice == "plain" else f"calm_{voice}"
        return self.speech.choose(table.get(voice) or table["plain"])

    def own(self, options: tuple[str, ...]) -> str:
        """One clause of the scenario; one with "!" only if it asks for the right action."""
        clause = self.speech.choose(options, asking=self.action == next(iter(self.scenario.ask)))
        self.asked = self.asked or clause.startswith("!")
        return clause.removeprefix("!")

    def lead(self, *lists: tuple[str, ...]) -> str:
        """What the mail is about: a clause of the first list that has a fitting one.

        If none fits, a fact is said that was to stay unsaid, or is said twice: a mail without a
        lead would have a label that nobody could find.
        """
        for options in lists:
            if clause := self.own(options):
                return clause
        unsaid = [one for one in lists[-1] if not template.clause(one).needs & self.speech.said]
        self.speech.left |= template.clause(pick(self.rng, unsaid or lists[-1])).needs
        return self.lead(lists[-1])

    def write(self) -> str:
        """The whole mail, its labelled spans still marked."""
        subject = self.subject()
        greeting = self.shared("greeting", "quoted_reply" if self.style == "quoted_reply" else "")
        if self.chance(NO_GREETING.get(self.voice, 0.25)):
            greeting = ""
        gap = pick(self.rng, ("\n", "\n\n", "\n\n", " "))
        text = (greeting + gap if greeting else "") + self.body()
        end = self.signature()
        if end:
            text += pick(self.rng, ("\n", "\n", "\n\n", " ") if len(end) < 30 else ("\n",)) + end
        text = voices.finish(text, self.rng, self.voice, typos=self.style == "typos")
        if self.style == "quoted_reply":
            # its dates, sums and names belong to an agent and are not labelled
            parts = [self.speech.tell(pick(self.rng, SHARED["quoted"][part])) for part in QUOTE]
            text += "\n\n" + layout.quote(parts)
        if subject:
            text = f"Subject: {subject}" + pick(self.rng, ("\n", "\n\n")) + text
        return text

    def subject(self) -> str:
        """The subject line, or nothing."""
        if not self.chance(SUBJECT_SHARES.get(self.style, 0.15)):
            return ""
        subject = self.own(self.scenario.subject if self.chance(0.8) else SHARED["subject"]["any"])
        self.asked = False  # a subject alone is no request
        if self.urgent and subject and self.chance(0.35):
            form = pick(self.rng, SHARED["press"]["subject"])
            subject, self.pressed = form.replace("{subject}", subject), True
        return voices.capital(subject)

    def opening(self) -> list[str]:
        """What happened: an opening of the scenario, or a context and the problem."""
        scenario = self.scenario
        units: list[str] = []
        if self.follow_up:
            units.append(self.speech.choose(SHARED["opener"]["follow_up"]))
        elif self.style == "quoted_reply" and self.chance(0.85):
            kind = "calm_quoted_reply" if scenario.calm else "quoted_reply"
            units.append(self.speech.choose(SHARED["opener"][kind]))
        elif self.chance(OPENER_SHARES.get(self.voice, 0)):
            units.append(self.shared("opener"))
        if self.voice == "terse" and self.chance(0.85):
            self.asked = self.asked or scenario.asks
            return [*units, self.lead(scenario.terse, scenario.full)]
        context = scenario.context or self.speech.facts.group
        if scenario.problem and context in SHARED["context"] and self.chance(0.3):
            # a context tells the price, which is not the sum in dispute
            price = {"amount"} if scenario.money == "disputed" else set()
            units.append(self.speech.choose(SHARED["context"][context], unsaid=price))
            return [*units, self.lead(scenario.problem, scenario.full)]
        if context == "looking" and self.chance(0.3):
            units.append(self.speech.choose(SHARED["context"][context]))
        units.append(self.lead(scenario.full))
        self.asked = self.asked or scenario.asks
        if scenario.problem and self.chance(0.45):
            units.append(self.own(scenario.problem))
        return units

    def body(self) -> str:
        """The paragraphs between greeting and signature."""
        first = self.chance(0.12) and not self.scenario.asks
        start = [self.request()] if first else []
        middle = self.opening()
        if self.chance(0.12 if self.voice == "terse" else 0.4):
            middle.append(self.own(self.scenario.detail))
        for _ in range(2):
            if self.chance(FILLER_SHARES.get(self.voice, 0)):
                clause = self.shared("filler")
                middle.insert(self.rng.randrange(1, len(middle) + 1), clause)
        if self.chance(0.1):
            kind = "parcel" if self.scenario.topic == "delivery" else self.speech.facts.group
            middle.append(self.speech.choose(SHARED["distractor"][kind]))
        deadline = self.deadline()
        late = self.chance(0.3)
        rest = self.rest()
        request = [] if first else [self.request()]
        if self.urgent and not self.pressed and self.chance(0.15):
            start, pressing = [self.shared("urgent_first", "plain"), *start], ""
        else:
            pressing = deadline or self.pressure()
        end = [self.shared("lost_words")] if self.chance(0.16) and self.voice != "terse" else []
        end += [self.later(kind) for kind in ("date", "amount") if self.chance(0.1)]
        if self.style == "several_issues":
            end = [self.second()]
        middle += [] if late else rest
        tail = [*request, pressing, *(rest if late else []), *end]
        return layout.body(self.rng, start, middle, tail, numbered=self.numbered)

    def request(self) -> str:
        """What the customer wants; left out where the guidelines say what silence means."""
        scenario = self.scenario
        if self.asked and self.chance(0.65):
            return ""
        complaint = scenario.topic in ("billing", "return") and scenario.money == "disputed"
        silence = "refund" if complaint else "information"
        quiet = 0.12 if self.action == "refund" else 0.25
        if not scenario.calm and silence == self.action and self.chance(quiet):
            return ""
        wish = self.speech.choose(scenario.ask[self.action])
        if wish.startswith("="):
            return wish[1:]
        frames = SHARED["frame"].get(self.voice, SHARED["frame"]["plain"])
        if self.urgent and not self.pressed and self.chance(0.35):
            frames, self.pressed = SHARED["press"]["framed"], True
        self.speech.words |= {"vp": wish, "Vp": wish[0].upper() + wish[1:]}
        return self.speech.tell(pick(self.rng, frames))

    def pressure(self) -> str:
        """A clause that makes the mail urgent, or seldom one that says that it is not."""
        if not self.urgent:
            return self.speech.choose(SHARED["press"]["calm"]) if self.chance(0.05) else ""
        if self.pressed:
            return ""
        return self.speech.choose(SHARED["press"]["urgent"])

    def deadline(self) -> str:
        """A deadline on a calendar date, which is then the date of the mail."""
        if not self.urgent or self.pressed or not self.chance(0.3):
            return ""
        clause = self.speech.choose(SHARED["press"]["dated"])
        self.pressed = bool(clause)
        return clause

    def rest(self) -> list[str]:
        """Clauses for the facts that should be in the mail and were not said yet."""
        speech, scenario = self.speech, self.scenario
        group = speech.facts.group
        options: dict[str, tuple[str, ...]] = {}
        if "order" in speech.left:
            options["order"] = SHARED["say_order"][group]
        if "amount" in speech.left and scenario.context != "looking":
            special = f"{group}_{scenario.money}"
            table = SHARED["say_amount"]
            options["amount"] = table[special if special in table else scenario.money]
        if "date" in speech.left and scenario.dates:
            options["date"] = SHARED["say_date"][pick(self.rng, scenario.dates)]
        if "product" in speech.left:
            options["product"] = SHARED["say_product"]["any" if group == "goods" else "digital"]
        if "order" in options and "customer" in speech.left and self.chance(0.12):
            del options["order"]  # it goes under the name
        order = self.rng.sample(list(options), len(options))
        if len(order) > 1 and self.chance(0.25):
            return ["\n" + "\n".join(speech.line(fact) for fact in order) + "\n"]
        units: list[str] = []
        if len(order) > 1 and self.chance(0.7):
            units.append(speech.choose(SHARED["say_more"][group], unsaid={"amount"} - set(options)))
        return [*units, *(speech.choose(options[f]) for f in order if f in speech.left)]

    def later(self, fact: str) -> str:
        """Another date or sum after the labelled one, if there is one."""
        unsaid = fact not in self.speech.said or self.speech.facts.group != "goods"
        if unsaid or self.voice == "terse" or self.scenario.context == "looking":
            return ""
        return self.speech.choose(SHARED["distractor"][f"{fact}s".replace("amount", "sum")])

    def second(self) -> str:
        """Another, smaller issue after the main one."""
        if self.numbered:
            return self.speech.choose(SHARED["second"]["numbered"])
        goods = self.speech.facts.group == "goods" and self.scenario.context != "looking"
        named = goods and "product" in self.speech.said
        kinds = ("plain", "plain", "product") if named else ("plain",)
        return self.speech.choose(SHARED["second"][pick(self.rng, kinds)])

    def signature(self) -> str:
        """Closing words and the name, or a closing without a name."""
        speech = self.speech
        if "customer" not in speech.left | speech.said:
            return self.shared("nobody") if self.chance(0.45) else ""
        if "customer" in speech.said and self.chance(0.5):
            return self.shared("closing").rstrip(",") if self.chance(0.5) else ""
        name = speech.facts.person.title + speech.sign()
        if "order" in speech.left:
            name += "\n" + speech.tell("{Oref}")
        elif self.chance(0.15 if self.scenario.b2b else 0.03):
            name += "\n" + speech.tell(pick(self.rng, ("{company}", "{team}, {company}", "{team}")))
        if self.chance(0.35 if self.voice in ("terse", "angry") else 0.2):
            return pick(self.rng, ("", "", "- ", "/ ")) + name
        closing = self.shared("closing")
        return closing + ("\n" if closing[-1] in ",!" and self.chance(0.75) else " ") + name
