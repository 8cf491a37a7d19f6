"""A reply for a request under rules: an answer, dressed as the rules ask, and checked by them."""

from dataclasses import dataclass
from random import Random

from dialogues import pieces
from sft_utils.task import rules as judge

SPEECH = pieces.speech()
ATTEMPTS = 80


@dataclass(frozen=True)
class Spec:
    """One user turn of a plan, before anybody answers."""

    kind: str  # open, pair, ask, near, forbidden, trap
    user: str
    answers: dict[str, str] | None = None  # language -> answer; None: no answer but a stock phrase
    asks: judge.Ask | None = None
    trap: bool = False
    topic: bool = False  # asks for the forbidden topic of its plan
    imposed: str = ""  # the name that a trap wants


def compose(spec: Spec, rules: list[dict], language: str, rng: Random) -> judge.Turn | None:
    """The turn with a reply that keeps all rules, or None if none was found."""
    refuse = spec.topic and any(rule["kind"] == "refusal" for rule in rules)
    flags = {"trap": spec.trap, "refuse": refuse, "borderline": spec.kind == "near", "asks": spec.asks,
             "imposed": spec.imposed}  # fmt: skip
    for _ in range(ATTEMPTS):
        reply = _draft(spec, rules, language, refuse, rng)
        turn = judge.Turn(user=spec.user, reply=reply, **flags)
        if judge.refused(reply) == refuse and all(v.kept for v in judge.check_all(rules, reply, turn)):
            return turn
    return None


def _piece(group: str, language: str, rng: Random) -> str:
    return rng.choice(SPEECH[group])[language]


def _draft(spec: Spec, rules: list[dict], language: str, refuse: bool, rng: Random) -> str:
    form = {key: value for rule in rules for key, value in rule.items() if key != "kind"}
    if refuse:
        core = _piece("refuse", language, rng)
    elif spec.answers is None:
        core = _piece("ack" if spec.kind == "open" else "stay", language, rng)
    else:
        core = spec.answers[language]
    opener = closer = ""
    if not refuse and spec.answers is not None and rng.random() < 0.45:
        opener = _piece("open", language, rng)
    if "address" in form:
        closer = _piece(form["address"], language, rng)
    elif "bullets" in form or form.get("sentences") == 2 or rng.random() < 0.45:
        closer = _piece("close", language, rng)
    if "sentences" in form or "bullets" in form:
        opener = ""
    if form.get("sentences") == 1 and "address" not in form:
        closer = ""
    head = {"en": "{} here:", "de": "{} hier:", "fr": "Ici {} :", "es": "Aquí {}:"}[language]
    first = [f"{form['starts_with']}."] if "starts_with" in form else []
    first += [head.format(form["name"])] if form.get("where") == "start" else []
    last = [f"– {form['name']}"] if form.get("where") == "end" else []
    last += [form["ends_with"]] if "ends_with" in form else []
    if "bullets" in form:
        lines = [" ".join([*first, core]), " ".join([closer, *last])]
        text = "\n".join(f"- {line}" for line in lines)
    else:
        text = " ".join(part for part in [*first, opener, core, closer, *last] if part)
    return text.lower() if form.get("case") == "lower" else text
