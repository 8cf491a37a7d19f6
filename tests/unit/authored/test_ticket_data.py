"""The ticket data set: reproducible, rightly labelled, and damaged exactly where the key says."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "data" / "tickets"))

import generate
import template
from case import draw_facts
from composer import Composer
from corpus import HELD_OUT, TEST_FILES, Generator
from draw import pick_weighted
from grammar import STYLES, retell, write_mail
from guidelines import schema_problems, ticket_problems
from intruders import luhn
from lexicon import load_phrases
from rows import ALIKE, Collection, mail_of, read_rows, similarity, ticket_of
from scenarios import TOPICS, case_table, load_scenarios, pick_case
from speech import Speech
from voices import CLOSE, OPEN, lower_case, misspell, show

from sft_utils.errors import DataError

DATA = generate.HERE
URGENT = re.compile(
    r"\b(?:(?<!not )(?<!not be )urgent|asap|as soon as|immediately|today|right away|at once)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def raw_lines():
    return (DATA / "raw.jsonl").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(scope="module")
def key():
    return list(read_rows(DATA / "answer_key.jsonl"))


@pytest.fixture(scope="module")
def exam_rows():
    return list(read_rows(DATA / "test.jsonl"))


@pytest.fixture(scope="module")
def few_rows():
    return list(read_rows(DATA / "fewshot.jsonl"))


@pytest.fixture(scope="module")
def planted(raw_lines, key):
    """Kind -> the rows with that defect that are JSON."""
    kinds: dict[str, list[tuple[dict, dict]]] = {}
    for entry in key:
        if entry["defect"] != "broken_line":
            row = json.loads(raw_lines[entry["line"] - 1])
            kinds.setdefault(entry["defect"], []).append((entry, row))
    return kinds


@pytest.fixture(scope="module")
def clean_rows(raw_lines, key):
    damaged = {entry["line"] for entry in key if entry["defect"] != "none"}
    return [json.loads(line) for n, line in enumerate(raw_lines, 1) if n not in damaged]


@pytest.fixture(scope="module")
def mails():
    rng, cases = Random(4), case_table(load_scenarios())
    return [write_mail(rng, *pick_case(rng, cases)) for _ in range(1500)]


def numbers_in(text: str) -> set[float]:
    """Every number a text can mean, with either decimal sign."""
    found = set()
    for token in re.findall(r"\d+(?:[.,']\d+)*", text):
        bare = token.replace("'", "")
        for form in (bare.replace(",", ""), bare.replace(".", "").replace(",", ".")):
            if re.fullmatch(r"\d+(\.\d+)?", form):
                found.add(float(form))
    return found


def test_regenerating_gives_the_committed_bytes():
    for name, text in generate.build_files().items():
        assert (DATA / name).read_bytes() == text.encode(), f"run generate.py: {name} differs"


def test_clean_labels_hold_what_the_mail_says(clean_rows, exam_rows, few_rows):
    for row in [*clean_rows, *exam_rows, *few_rows]:
        mail, ticket = mail_of(row), ticket_of(row)
        assert ticket_problems(mail, ticket) == [], row["id"]
        if row["source"] == "grammar":  # hand-written mails may spell numbers out
            assert ticket["amount"] is None or ticket["amount"] in numbers_in(mail), row["id"]
            assert ticket["date"] is None or str(int(ticket["date"][8:])) in mail, row["id"]


def test_counts(raw_lines, key, exam_rows, few_rows, clean_rows):
    kinds = Counter(entry["defect"] for entry in key)
    assert len(raw_lines) >= 1900
    assert len(set(kinds) - {"none"}) >= 10
    assert 300 <= sum(kinds.values()) - kinds["none"] <= 400
    assert kinds["none"] == 60
    assert Counter(row["source"] for row in exam_rows) == {"handwritten": 120, "grammar": 48}
    assert sum(row["scenario"] in HELD_OUT for row in exam_rows) == 24
    assert len(few_rows) == 8
    for label in ("topic", "action"):
        shares = Counter(ticket_of(row)[label] for row in clean_rows)
        assert len(shares) == 6
        assert max(shares.values()) <= 2.5 * min(shares.values())
    assert {ticket_of(row)["topic"] for row in few_rows} == set(TOPICS)
    assert {row["scenario"] for row in few_rows} <= set(TEST_FILES)


def test_split_is_made_by_thread_and_scenario(clean_rows, exam_rows, few_rows):
    threads = [{row["thread"] for row in rows} for rows in (clean_rows, exam_rows, few_rows)]
    assert not threads[0] & threads[1]
    assert not (threads[0] | threads[1]) & threads[2]
    assert not {row["scenario"] for row in clean_rows} & set(HELD_OUT)
    assert len(threads[0]) < len(clean_rows)  # some customers wrote twice


def test_no_two_clean_mails_are_alike(clean_rows, exam_rows, few_rows):
    collection = Collection()
    rows = [*exam_rows, *few_rows, *clean_rows]
    assert [row["id"] for row in rows if not collection.add(mail_of(row))] == []


def test_key_points_to_the_right_lines(raw_lines, key, planted):
    assert [entry["line"] for entry in key] == sorted({entry["line"] for entry in key})
    assert all(row["id"] == entry["id"] for rows in planted.values() for entry, row in rows)
    for entry in key:
        if entry["defect"] == "broken_line":
            with pytest.raises(ValueError, match=r"\w"):
                json.loads(raw_lines[entry["line"] - 1])
    ids = [json.loads(line)["id"] for line in raw_lines if '"id"' in line and _parses(line)]
    assert len(ids) == len(set(ids))


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_copies_repeat_what_the_key_says(planted, raw_lines, exam_rows):
    by_id = {row["id"]: row for row in [*map(json.loads, filter(_parses, raw_lines)), *exam_rows]}
    for kind in ("exact_duplicate", "leakage_exact", "near_duplicate", "leakage_near"):
        for entry, row in planted[kind]:
            original = by_id[entry["of"]]
            assert original["id"].startswith("e-" if kind.startswith("leakage") else "t-")
            assert original["thread"] != row["thread"]
            assert ticket_of(original) == ticket_of(row)
            one, two = mail_of(original), mail_of(row)
            if "exact" in kind:
                assert one.lower().split() == two.lower().split()
            else:
                assert one.lower().split() != two.lower().split()
                assert similarity(one, two) >= ALIKE + 0.05


def test_damage_is_what_the_key_says(planted):
    for _, row in planted["invalid_json_answer"]:
        assert not _parses(row["messages"][1]["content"])
    for _, row in planted["schema_violation"]:
        assert schema_problems(ticket_of(row))
    for entry, row in planted["contradiction"]:
        mail, ticket = mail_of(row), ticket_of(row)
        field = entry["note"].split(":")[0]
        assert schema_problems(ticket) == []
        assert str(ticket[field]).upper() not in mail.upper(), entry
    for _, row in planted["mojibake"]:
        mail = mail_of(row)
        assert "\ufffd" in mail or mail.encode("cp1252").decode("utf-8") != mail
    for _, row in planted["empty"]:
        assert min(len(message["content"].strip()) for message in row["messages"]) == 0
    for _, row in planted["wrong_roles"]:
        shape = [(message["role"], "content" in message) for message in row["messages"]]
        assert shape != [("user", True), ("assistant", True)]
    for _, row in planted["over_long"]:
        assert 700 <= len(mail_of(row).split()) <= 2000
    for _, row in planted["html"]:
        assert re.search(r"</?\w+[^>]*>|&\w+;", mail_of(row))
    for _, row in planted["foreign_licence"]:
        assert row.get("licence") != "CC-BY-4.0"
        assert row["source"] in ("forum-scrape", "vendor-kb")


def test_personal_data_is_invented_but_well_formed(planted):
    for entry, row in planted["personal_data"]:
        text = mail_of(row).rsplit("\n", 1)[1]
        if entry["note"] == "e-mail address":
            assert re.search(r"[\w.-]+@[\w.]*\bexample\b", text)
        elif entry["note"] == "card number":
            assert luhn(re.sub(r"\D", "", text))
        elif entry["note"] == "IBAN":
            iban = re.sub(r"[ .]", "", re.search(r"[A-Z]{2}\d\d[ A-Z0-9]+", text)[0])
            moved = "".join(str(int(c, 36)) for c in iban[4:] + iban[:4])
            assert int(moved) % 97 == 1
        else:
            assert len(re.sub(r"\D", "", text)) >= 8


def test_hard_clean_rows_look_suspicious(planted):
    notes = Counter(entry["note"] for entry, _ in planted["none"])
    assert notes["hard clean: same problem, other customer"] == 24
    for entry, row in planted["none"]:
        if "no card" in entry["note"]:
            number = ticket_of(row)["order_id"]
            assert len(number) >= 13
            assert not luhn(number)


def test_urgency_words_decide_the_label(mails):
    for mail in mails:
        own = re.sub(r"(?m)^>.*$", "", mail.text)
        assert mail.ticket["urgent"] or not URGENT.search(own), own


def test_shares_of_the_grammar(mails):
    def unsaid(name: str) -> float:
        return sum(mail.ticket[name] is None for mail in mails) / len(mails)

    for name, share in (("product", 25), ("order_id", 35), ("amount", 50), ("date", 45)):
        assert abs(unsaid(name) - share / 100) < 0.07, name
    assert abs(unsaid("customer") - 0.25) < 0.07
    assert abs(sum(mail.ticket["urgent"] for mail in mails) / len(mails) - 0.25) < 0.05
    assert {mail.style for mail in mails} == set(STYLES)
    words = sorted(len(mail.text.split()) for mail in mails)
    assert words[len(words) // 2] in range(40, 60)


def test_retold_mails_are_labelled_anew(mails):
    rng = Random(8)
    for mail in mails[:400]:
        other = retell(rng, mail)
        assert ticket_problems(other.text, other.ticket) == []
        assert [key for key, value in other.ticket.items() if value is None] == [
            key for key, value in mail.ticket.items() if value is None
        ]


def test_every_scenario_has_enough_wording():
    scenarios = load_scenarios()
    assert min(Counter(one.topic for one in scenarios).values()) >= 10
    assert len({one.id for one in scenarios}) == len(scenarios)
    for one in scenarios:
        assert len(one.full) >= 2
        assert all(len(requests) >= 2 for requests in one.ask.values()), one.id


def test_phrases_use_only_known_slots():
    """Every template of every scenario can be expanded with all facts at hand."""
    rng = Random(1)
    for scenario in load_scenarios():
        action = next(iter(scenario.ask))
        for style in ("plain", "terse", "formal"):
            assert write_mail(rng, scenario, action, style=style).text
        texts = [*scenario.full, *scenario.problem, *scenario.terse, *scenario.detail]
        for text in texts:
            assert "_amount}" not in text or "{amount}" in text, text  # a decoy needs the real sum
            template.parse(text)
    assert load_phrases("shared")["greeting"]["plain"]


@pytest.mark.parametrize("style", ["plain", "terse", "quoted_reply"])
def test_no_mail_without_its_problem(style):
    """A customer who wants to say no fact at all still says what the mail is about."""
    rng = Random(6)
    for scenario in load_scenarios():
        for action in scenario.ask:
            for left in (set(), {"order"}, {"customer", "date"}):
                facts = draw_facts(rng, scenario.family, scenario.nouns, scenario.sum)
                speech = Speech(rng, facts, left)
                Composer(speech, scenario, action, style, follow_up=False).write()
                own = {*scenario.full, *scenario.terse, *scenario.problem}
                assert speech.used & own, (scenario.id, action)


def test_unmatched_bracket_is_named():
    with pytest.raises(DataError, match="unmatched bracket"):
        template.parse("one <of two")


def test_unknown_slot_is_named(mails):
    from case import decoy

    with pytest.raises(DataError, match="nonsense"):
        decoy(Random(0), "nonsense", mails[0].facts, set())


def test_noise_never_touches_labels():
    text = f"please repair my {OPEN}pKestrel 40{CLOSE} kettle, thanks"
    for seed in range(50):
        noisy = misspell(text, Random(seed), 0.9)
        assert "Kestrel 40" in show(noisy)
    assert show(lower_case(text)) == "please repair my kestrel 40 kettle, thanks"


def test_weighted_draw_follows_the_weights():
    rng = Random(2)
    counts = Counter(pick_weighted(rng, "abc", (1, 3, 0)) for _ in range(4000))
    assert set(counts) == {"a", "b"}
    assert 0.7 < counts["b"] / 4000 < 0.8


def test_stream_has_the_defect_mix_and_no_other_copies():
    lines = list(generate.stream_rows(3000, seed=5))
    assert lines[:50] == list(generate.stream_rows(50, seed=5))
    kinds = Counter(kind for _, kind in lines)
    assert 0.75 < kinds[""] / len(lines) < 0.9
    assert 0.01 < kinds["near_duplicate"] / len(lines) < 0.04
    clean = [json.loads(line) for line, kind in lines if not kind]
    assert len({mail_of(row) for row in clean}) == len(clean)
    for row in clean:
        assert ticket_problems(mail_of(row), ticket_of(row)) == []
    assert len({json.loads(line)["id"] for line, kind in lines if kind != "broken_line"}) > 2900


def test_more_handwritten_mails_leave_the_test_set_alone(monkeypatch, exam_rows, few_rows):
    every = Generator.handwritten

    def fewer(self):
        return [row for row in every(self) if row["scenario"] in TEST_FILES]

    monkeypatch.setattr(Generator, "handwritten", fewer)
    _, test, few = Generator(generate.SEED).corpus()
    assert test == exam_rows
    assert few == few_rows
