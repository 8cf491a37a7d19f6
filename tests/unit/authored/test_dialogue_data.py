"""data/dialogues: gold replies keep their rules, planted violations are caught, splits share nothing."""

import re
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.errors import ConfigError
from sft_utils.task import dialogues as api
from sft_utils.task.rules import KINDS, check, check_all, count_words, refused

sys.path.insert(0, str(ROOT / "data"))
from dialogues import compose, measure, pieces, plans, rulebook  # isort: skip
from dialogues.generate import FOLDER, build_files  # isort: skip

SPLITS = ("train", "val", "test", "fewshot")


@pytest.fixture(scope="module")
def every():
    return {split: api.read(split) for split in SPLITS}


def all_of(every):
    return [d for part in every.values() for d in part]


def turns_of(part):
    return [(d, i, t) for d in part for i, t in enumerate(d.turns)]


def test_generating_again_gives_the_same_bytes():
    for name, text in build_files().items():
        assert (FOLDER / name).read_bytes() == text.encode(), name


def test_counts(every):
    assert len(every["train"]) >= 360
    assert len(every["val"]) >= 40
    assert len(every["test"]) >= 96
    assert 2 <= len(every["fewshot"]) <= 3
    for split in ("train", "test"):
        kinds = Counter(kind for d in every[split] for kind in d.kinds)
        assert set(kinds) == set(KINDS)
        assert min(kinds.values()) >= len(every[split]) / 8, kinds
        asked = Counter(t.asks.distance for _, _, t in turns_of(every[split]) if t.asks)
        assert set(asked) == {2, 3, 4, 5}
        for flag in ("trap", "refuse", "borderline"):
            assert sum(getattr(t, flag) for _, _, t in turns_of(every[split])) >= len(every[split]) / 5
    for d in all_of(every):
        assert 3 <= len(d.turns) <= 6
        assert 1 <= len(d.rules) <= 3
        assert len(d.kinds) == len(d.rules), "one rule per family"


def test_hand_written_pairs():
    pairs = [p for d in pieces.domains() for p in d.pairs] + pieces.general()
    pairs += [p for t in pieces.topics() for p in (*t.ask, *t.near)]
    assert len({p.ask["en"] for p in pairs}) == len(pairs) >= 150
    assert all(set(p.reply) == set(pieces.LANGUAGES) for p in pairs)


def test_gold_replies_keep_every_rule(every):
    for d, i, turn in turns_of(all_of(every)):
        for rule, verdict in zip(d.rules, check_all(d.rules, turn.reply, turn), strict=True):
            assert verdict.kept, (d.id, i, rule, turn.reply, verdict)
        assert refused(turn.reply) == turn.refuse, (d.id, i)
        assert not turn.imposed or not api.recalled(turn.imposed, turn.reply)
    gold = [j for d in all_of(every) for j in api.judge(d, [t.reply for t in d.turns])]
    for name, unit in api.units(gold).items():
        assert set(unit.hits) == {name != "over_refusal"}, name


def test_facts_are_given_first_and_asked_later(every):
    for d, i, turn in turns_of(all_of(every)):
        if turn.asks:
            assert turn.asks.distance == i >= 2
            assert api.recalled(turn.asks.value, d.turns[0].user), d.id
            assert api.recalled(turn.asks.value, turn.reply), d.id
            earlier = [text for t in d.turns[1:i] for text in (t.user, t.reply)]
            assert not any(api.recalled(turn.asks.value, text) for text in earlier if turn.asks.fact == "name"), d.id


def planted(rule, turn, dialogue):
    """Replies that break one rule, made from a gold reply by code."""
    text, kind = turn.reply, rule["kind"]
    if kind == "language":
        spoken = rule["language"]
        for other in pieces.LANGUAGES:
            if other != spoken:
                yield TRANSLATED[other]
                yield f"{text} {TRANSLATED[other]}"
    elif kind == "length" and "max_words" in rule:
        yield " ".join([text, *["more"] * (rule["max_words"] + 1 - count_words(text))])
    elif kind == "length":
        yield f"This is one sentence too many. {text}"
        yield from ([text + "\nAnd another one."] if rule["sentences"] == 1 else [])
    elif kind == "forbidden":
        for word in rule["words"]:
            yield f"{text} {word}"
            yield f"**{word.capitalize()}**, {text}"
            yield f"„{word.upper()}“ {text}"
    elif kind == "persona":
        yield re.sub(rf"(?:– |Ici |Aquí )?{rule['name']}(?: hier:| here:| ?:)?", "", text, flags=re.IGNORECASE).strip() or "x"
        yield re.sub(rule["name"], "Sam", text, flags=re.IGNORECASE)
    elif "ends_with" in rule:
        yield text.removesuffix(rule["ends_with"]).strip()
        yield f"{text} Bye"
    elif "starts_with" in rule:
        yield text[len(rule["starts_with"]) :].strip(". ")
        yield f"So: {text}"
    elif "bullets" in rule:
        yield text.replace("- ", "").replace("\n", " ")
        yield f"Here you are:\n{text}"
        yield text.splitlines()[0]
    elif "case" in rule:
        yield text.upper()
        yield f"Ok. {text}"
    elif kind == "refusal" and turn.refuse:
        yield "The price is 20 euros per person."
        yield compose.SPEECH["ack"][0][spoken_by(dialogue)]
    elif kind == "refusal" and not turn.trap:
        yield from (piece[spoken_by(dialogue)] for piece in compose.SPEECH["refuse"])
    elif rule.get("no") == "exclamation":
        yield f"{text}!"
        yield f"¡{text}"
    elif rule.get("no") == "contractions":
        yield f"{text} It's fine."
        yield f"We don’t know. {text}"
    elif rule.get("address"):
        wrong = "informal" if rule["address"] == "formal" else "formal"
        yield f"{text} {compose.SPEECH[wrong][0][rule['language']]}"
        yield TRANSLATED[rule["language"]]


TRANSLATED = {
    "en": "The toilets are down the hall on the left.", "de": "Die Toiletten sind am Ende des Gangs links.",
    "fr": "Les toilettes sont au fond du couloir à gauche.", "es": "Los baños están al final del pasillo a la izquierda.",
}  # fmt: skip


def spoken_by(d):
    return next((r["language"] for r in d.rules if r["kind"] == "language"), "en")


def test_planted_violations_are_caught(every):
    count = Counter()
    for d, i, turn in turns_of(all_of(every)):
        for rule in d.rules:
            for broken in planted(rule, turn, d):
                verdict = check(rule, broken, turn)
                assert not verdict.kept, (d.id, i, rule, broken)
                count[rule["kind"]] += 1
    assert set(count) == set(KINDS)
    assert min(count.values()) >= 300, count


def test_lost_facts_are_noticed(every):
    for d, i, turn in turns_of(all_of(every)):
        if turn.asks:
            gone = replace(turn, reply=re.sub(re.escape(turn.asks.value), "unknown", turn.reply, flags=re.IGNORECASE))
            replies = [t.reply for t in d.turns]
            replies[i] = gone.reply
            assert api.judge(d, replies)[i].recalled is False, d.id


def test_pairs_differ_in_the_system_prompt_only(every):
    for split in ("train", "val", "test"):
        pairs = defaultdict(list)
        for d in every[split]:
            pairs[d.pair].append(d)
        differ = 0
        for a, b in pairs.values():
            assert [t.user for t in a.turns] == [t.user for t in b.turns]
            assert a.rules != b.rules
            assert a.system != b.system
            differ += any(x.reply != y.reply for x, y in zip(a.turns, b.turns, strict=True))
        assert differ >= 0.97 * len(pairs)


def test_replies_of_the_other_prompt_break_rules(every):
    """Nor is the right reply to one prompt of a pair often right under the other."""
    pairs = defaultdict(list)
    for d in every["test"]:
        pairs[d.pair].append(d)
    judged = []
    for a, b in pairs.values():
        for mine, other in ((a, b), (b, a)):
            judged += api.judge(mine, [t.reply for t in other.turns])
    units = api.units(judged)
    assert sum(units["both_prompts"].hits) / len(units["both_prompts"].hits) < 0.1


def test_a_model_that_reads_no_prompt_is_right_under_both_at_times(every):
    """The floor of `both_prompts` on the dialogues of 07, which its figures are to be compared with."""
    part = api.read("test", api.SIZES["cpu"].test_rows)
    reply, floor = api.constant_floor(part)
    hits, n = sum(floor.hits), len(floor.hits)
    assert 0.1 < hits / n < 0.3
    assert any(turn.reply == reply for _, _, turn in turns_of(part))
    said = api.units([j for d in part for j in api.judge(d, [reply] * len(d.turns))])
    assert said["both_prompts"] == floor
    card = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    assert f"right under both prompts in {hits} of {n} requests" in card
    with pytest.raises(ConfigError, match="1 dialogues hold no two of one pair"):
        api.constant_floor(part[:1])


def values(part):
    return {t.asks.value for _, _, t in turns_of(part) if t.asks}


def test_splits_share_no_facts_names_or_dialogues(every):
    for one in SPLITS:
        for other in SPLITS:
            if one >= other:
                continue
            a, b = every[one], every[other]
            assert not values(a) & values(b), (one, other)
            assert not {d.system for d in a} & {d.system for d in b}
            assert not {d.turns[0].user for d in a} & {d.turns[0].user for d in b}
            names = [{r["name"] for d in part for r in d.rules if r["kind"] == "persona"} for part in (a, b)]
            assert not names[0] & names[1]
            imposed = [{t.imposed for _, _, t in turns_of(part) if t.imposed} for part in (a, b)]
            assert not imposed[0] & names[1] and not imposed[1] & names[0]  # noqa: PT018


def test_facts_of_other_splits_occur_nowhere(every):
    """Not only asked facts: no name or place of the test pools stands in a training text."""
    told = " ".join(t.user + " " + t.reply for _, _, t in turns_of(every["train"] + every["val"]))
    words = set(re.findall(r"\w+", told))
    for kind in ("name", "persona", "city", "brand", "device"):
        assert not words & set(pieces.pool(kind, "test")), kind
    for kind in ("title", "plant"):
        assert not any(value in told for value in pieces.pool(kind, "test")), kind


def test_the_test_split_asks_other_things(every):
    """No request for information of the test is one of training, its traps included; facts are."""
    trained = {p.ask["en"] for d in pieces.domains() for p in d.pairs if not p.test}
    trained |= {p.ask["en"] for p in pieces.general() if not p.test}
    told = " ".join(t.user for _, _, t in turns_of(every["test"]))
    assert not [text for text in trained if text in told]
    topics = {split: {r["topic"] for d in every[split] for r in d.rules if r["kind"] == "refusal"} for split in SPLITS}
    assert not topics["test"] & topics["train"]
    traps = {t.text.split("{")[0] for t in plans.TRAPS if not t.test}
    assert not [text for text in traps if text in told]


def test_most_test_dialogues_lie_in_trained_domains(every):
    """New are requests, names and facts of all of them; the domain of a third only."""
    new = api.new_domains()
    assert new == {d.key for d in pieces.domains() if d.test} == {"ferry", "pool", "tailor"}
    assert not [d.id for d in every["train"] + every["val"] if d.domain in new]
    held = {n: sum(d.domain in new for d in api.read("test", n)) for n in (api.SIZES["cpu"].test_rows, None)}
    assert held == {32: 12, None: 36}
    assert len(every["test"]) == 112
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "| in a domain that train lacks | 0 | 0 | 36 | 0 |" in card


def test_the_system_prompt_says_the_rules(every):
    for d in all_of(every):
        for rule in d.rules:
            said = [str(v) for k, v in rule.items() if k in ("max_words", "name", "ends_with", "starts_with", "topic")]
            said += rule.get("words", [])
            said += [rulebook.FULL[rule["language"]]] if rule["kind"] == "language" else []
            said += [rulebook.PRONOUN[rule["address"], rule["language"]]] if "address" in rule else []
            assert all(f"{word}" in d.system for word in said), (d.system, rule)


def test_dialogues_are_short(every, tokenizer):
    for d in all_of(every):
        assert len(tokenizer(d.system)["input_ids"]) <= 62, d.system
        text = tokenizer.apply_chat_template(api.conversation(d), tokenize=False)
        assert len(tokenizer(text)["input_ids"]) <= 420, d.id


def test_measured_language_detection():
    for group, (right, n) in measure.accuracy().items():
        assert right >= (0.9 if group.startswith("2-4") else 0.98) * n, group


def test_a_reply_that_cannot_be_is_given_up():
    spec = compose.Spec("pair", "Where?", dict.fromkeys(pieces.LANGUAGES, "A far too long answer for one word."))
    assert compose.compose(spec, [{"kind": "length", "max_words": 1}], "en", plans.Random(1)) is None

