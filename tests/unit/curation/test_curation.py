"""The funnel: every filter catches its defect, spares what only looks like it, and says why."""

import copy
import gzip
import hashlib
import json
import random
import subprocess
import sys

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.curation import answers, audit, coverage, datacard, leaks
from sft_utils.curation import funnel as curation
from sft_utils.curation.grounding import dates_in, numbers_in, ungrounded
from sft_utils.curation.personal import personal_data
from sft_utils.data import duplicates, filters
from sft_utils.data import rows as data
from sft_utils.data.duplicates import ALIKE, exact_key, jaccard, shingles
from sft_utils.errors import DataError, StorageError
from sft_utils.scores.scoring import schema_errors

TICKETS = ROOT / "data" / "tickets"
MAIL = "Hi, order KX-48213 of 3.4. was 49,90 €. The Fjordal-6 is broken, please refund. Ana"
TICKET = {
    "topic": "defect", "product": "Fjordal-6", "order_id": "KX-48213", "amount": 49.9,
    "currency": "EUR", "date": "2026-04-03", "customer": "Ana", "action": "refund",
    "urgent": False,
}  # fmt: skip


def row(mail=MAIL, answer=None, **fields):
    messages = [
        {"role": "user", "content": mail},
        {"role": "assistant", "content": json.dumps(TICKET) if answer is None else answer},
    ]
    base = {"id": "t-1", "source": "grammar", "licence": "CC-BY-4.0", "messages": messages}
    return {**base, **fields}


def turns(*names):
    return {"messages": [{"role": name, "content": "x"} for name in names]}


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (turns("human", "gpt"), turns("user", "assistant")),
        (turns("User", "Assistant"), turns("system", "user", "assistant")),
        (turns("user", "user", "assistant"), turns("user", "assistant", "user", "assistant")),
        (turns("assistant", "user"), None),
        (turns("user", "assistant", "user"), None),
        (turns("system"), None),
        (turns("user", "system", "assistant"), None),
        ({"messages": []}, None),
        ({"conversations": [{"from": "human"}]}, None),
        ({"messages": [{"role": "user", "content": None}, {"role": "assistant"}]}, None),
        ({"messages": "user: hi"}, None),
    ],
)
def test_roles(bad, good):
    assert filters.roles(bad)
    assert good is None or filters.roles(good) is None


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\ufeff", "N/A", "nan", "…", "\u00a0"])
def test_empty(text):
    assert filters.empty(row(mail=text))
    assert filters.empty(row(answer=text))


def test_empty_spares_short_mails():
    for text in ("ok", "Why?", "Nothing works", "none of it"):
        assert filters.empty(row(mail=text)) is None


def test_over_long():
    assert "500 words" in (filters.over_long(row(mail="w " * 500), max_words=300) or "")
    assert "characters" in (filters.over_long(row(mail="x" * 9000), max_words=300) or "")
    assert filters.over_long(row(mail="w " * 300), max_words=300) is None
    assert filters.over_long(row(mail="unübersehbar " * 100), max_words=300) is None


def test_the_length_fence_ignores_absurd_rows():
    rng = random.Random(1)
    lengths = [rng.randrange(20, 90) for _ in range(1000)]
    fence = filters.length_fence(lengths)
    assert 90 < fence < 700
    assert filters.length_fence([*lengths, *[2000] * 10, *[0] * 20]) == pytest.approx(
        fence, rel=0.1
    )
    assert filters.length_fence([50] * 10) > 50
    assert filters.length_fence([10] * 80 + [14] * 20) == 20, "twice as long is not over-long"
    assert filters.length_fence(curation.mail_lengths(TICKETS / "raw.jsonl")) == 311
    with pytest.raises(DataError, match="at least 4"):
        filters.length_fence([3, 0, 0])


RIGHT_TEXTS = [
    "Grüße aus Zürich, żółć, Ærøskøbing, Şahin, Nguyễn Thị Hương, Ñandú, 佐藤美咲, Ольга",
    "It’s “fine” – really… 50 € – naïve café, «voilà», »Ü«, 10 £, ½ price, 20 °C",
    "👍🏽 🌧️ 🙂 (family: 👨‍👩‍👧) \r\n\tdone",
    "SÃO PAULO, Évora, À bientôt, «Ä», Île, Œuvre, Å",
]


@pytest.mark.parametrize("text", RIGHT_TEXTS)
def test_encoding_spares_what_is_right(text):
    assert filters.encoding(row(mail=text)) is None


@pytest.mark.parametrize(
    "text",
    [
        *[text.encode().decode("cp1252", "ignore") for text in ("Grüße", "It’s", "Şahin", "49 €")],
        "Grüße".encode().decode("cp1252").encode().decode("cp1252"),
        "Grüße".encode().decode("latin-1"),
        "Gr\ufffd\ufffde",
        "half a pair \ud83d",
        "bell \x07",
    ],
)
def test_encoding_finds_what_is_wrong(text):
    assert filters.encoding(row(mail=f"Hello, {text} and so on"))


@pytest.mark.parametrize(
    "text",
    ["<p>Hello</p>", "a<br/>b", 'x <div style="a:b">', "</SPAN>", "R&amp;B", "5&nbsp;€", "&#8217;",
     "<a href=x.html>here</a>", "<!-- x -->", "<!DOCTYPE html>"],
)  # fmt: skip
def test_markup_finds_html(text):
    assert filters.markup(row(mail=text))


@pytest.mark.parametrize(
    "text",
    ["I <3 it", "if a < b and c > d", "x <a and b> y", "<Ana Ruiz>", "<ana@example.org>", "AT&T;",
     "Q&A", "Tom & Jerry; both", "<order no>", "temperature >18 & <24", "< b >"],
)  # fmt: skip
def test_markup_spares_what_is_no_html(text):
    assert filters.markup(row(mail=text)) is None


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "GPL-3.0", "unknown", "", " ", None, 4, []])
def test_licence(licence):
    assert filters.licence(row(licence=licence), allowed=filters.LICENCES)
    assert filters.licence({"messages": []})
    assert filters.licence(row()) is None
    assert filters.licence(row(licence="GPL-3.0"), allowed={"GPL-3.0"}) is None


@pytest.mark.parametrize(
    "text",
    ["write to ana.ruiz+x@mail.example.org", "GB82 WEST 1234 5698 7654 32",
     "DE89370400440532013000",
     "IBAN NL91 ABNA 0417 1643 00 THANKS", "4242 4242 4242 4242", "card 5555555555554444",
     "3782-822463-10005", "+44 7700 900123", "+1 (212) 555-0142", "Tel. 030 23125 259",
     "Order 948-503-87\nMy number is 030 23125 259.", "call me on 07700900123",
     "4242 4242 4242 4242 12/27 123", "4111111111111111 123", "5555555555554444 09/28",
     "4242-4242-4242-4242-123", "3782 822463 10005 12 / 2027 1234", "4242424242424242 0927 123",
     "CH56 0483 5012 3456 7800 9", "PT50 0002 0123 1234 5678 9015 4 OK", "HR12 1001 0051 8630 0016 0",
     "LV80 BANK 0000 4351 9500 1", "UA21 3223 1300 0002 6007 2335 6600 1", "NO9386011117947",
     "de89 3704 0044 0532 0130 00 is my account", "de89370400440532013000",
     "mt84 malt 0110 0001 2345 mtlc ast0 01s",
     "In case of questions: 0176 1234567", "in any case 0176 1234567", "Yours, Bill 0176 1234567",
     "the part broke, my number on file 0176 1234567", "call me on case 12: 0176 1234567",
     "at +52.520008, 13.404954, or +49 30 1234567", "write to ana@2x.com",
     "my phone number is 2125550142", "212-555-0142", "call me on 12/05/2026 or 0171 555 0123", "call me on 45-06-2024"],
)  # fmt: skip
def test_personal_data_is_found_and_masked(text):
    found = personal_data(row(mail=f"Hello. {text}"))
    assert found
    assert "…" in found
    assert text not in found


@pytest.mark.parametrize(
    "text",
    ["GB83 WEST 1234 5698 7654 32", "order 4242424242424241", "order 9930012345678", "2026-04-03",
     "tracking 00340 8812 77", "serial on the box 0099-3381-55", "card number 0071-5583",
     "order 338-20746", "10.03.2026 12:30", "1.299,00 EUR", "20 x 30 x 40", "@home", "a @ b",
     "order no. 0171 555 0123", "booking 212-555-0142", "parcels with number 00340-5561",
     "since 2019 2020 2021", "IMEI 490154203237518", "MT84 of 12 May", "12-345-6789-0",
     "I ordered it on 05-06-2024.", "delivered 01-12-2025, still nothing", "It arrived 05 06 2024.",
     "Please call me on 12/05/2026.", "Could you ring us on 2026-11-05?", "call me (12-05-2026)",
     "my cell 2026-05-12 14 30", "open 09 00 17 00", "open 09 00 - 17 00",
     "Article number 400-123-4567", "art.-no. 400-123-4567", "Part 555-123-4567 broke",
     "item 212-555-0123", "case 0176 1234567", "claim 0412 334 556", "bill no. 0800 1234567",
     "receipt 0176-123-456", "INV 0012345678", "PO 0412-3345-56", "P.O. 0412-3345-56",
     "delivery no. 0176-123-456", "call me about case 0176 1234567",
     "It is at +52.520008, 13.404954.", "52.520008 +13.404954", "lat: +52.520008, lon: +13.404954",
     "the file icon@2x.png", "logo@3x.jpg, scan@home.pdf",
     "no15 arrived broke and i want it back", "my kx48 is not what i ordered, is it",
     "GB82 WEST 1234 5698 7654 3", "EAN 4006381333931 250 g", "EAN 4222222222222 123",
     "tracking 4242 4242 42 4242 4242 123"],
)  # fmt: skip
def test_personal_data_spares_other_numbers(text):
    assert personal_data(row(mail=f"Hello. {text}")) is None


@pytest.mark.parametrize(
    "answer",
    ['{"a": 1', "{'a': 1}", "```json\n{}\n```", '{"a": 1,}', 'Sure: {"a": 1}', '{"a": NaN}',
     '{"a": 1, "a": 2}', '{"a": 1}{}', "{a: 1}", "[" * 5000],
)  # fmt: skip
def test_answer_json(answer):
    assert answers.answer_json(row(answer=answer))


def test_answer_json_spares_spacing():
    assert answers.answer_json(row(answer=json.dumps(TICKET, indent=1) + "\n")) is None
    with pytest.raises(DataError, match="no object"):
        answers.ticket_of(row(answer="[1]"))


CHANGES = [
    {"topic": "Billing"}, {"topic": None}, {"urgent": "no"}, {"urgent": 0}, {"amount": "49.9"},
    {"amount": -1}, {"amount": 10**6}, {"amount": True}, {"amount": None}, {"amount": 3},
    {"date": "3.4.2026"}, {"date": "2026-02-30"}, {"date": "20260403"}, {"date": "2026-04-03\n"},
    {"date": None}, {"date": "2026-01-31"}, {"order_id": "#KX"}, {"order_id": "kx-1"},
    {"order_id": "AB1\n"}, {"order_id": "A" * 30}, {"product": ""}, {"product": "x" * 61},
    {"product": 5}, {"currency": "YEN"}, {"currency": None}, {"customer": []}, {"extra": 1}, {},
    {"action": {"a": 1}}, {"date": "٢٠٢٦-٠٤-٠٣"}, {"amount": 1e400},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_quick_schema_test_agrees_with_jsonschema(change):
    for value in ({**TICKET, **change}, {k: v for k, v in TICKET.items() if k not in change}):
        slow = schema_errors(value, answers.SCHEMA)
        quick = answers.schema_violation(value, answers.SCHEMA)
        assert (quick is None) == (not slow)
        assert quick is None or slow[0].startswith(quick[:100])
    for value in ([], None, "x", {}):
        assert answers.schema_violation(value, answers.SCHEMA)


def test_the_quick_schema_test_proves_every_clean_ticket():
    quick = answers._quick(answers.SCHEMA)
    rows = data.rows_of(TICKETS / "test.jsonl")
    assert all(quick(answers.ticket_of(row)) for row in rows), "jsonschema would run: slow"


def test_an_unknown_schema_keyword_is_left_to_jsonschema(tmp_path):
    schema = json.loads((TICKETS / "schema.json").read_text())
    schema["properties"]["product"]["const"] = "only this"
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    assert answers.schema_violation(TICKET, str(path))
    assert answers.answer_schema(row(), schema=str(path))
    assert answers.answer_schema(row()) is None


def test_answer_contradicts_spares_the_right_ticket():
    assert answers.answer_contradicts(row()) is None


def test_the_case_of_a_row_does_not_depend_on_how_a_value_is_written():
    def key(**fields):
        return answers.facts_key(row(answer=json.dumps({**TICKET, **fields})))

    assert key(amount=55) == key(amount=55.0) != key(amount=55.5)
    assert key(amount=0) == key(amount=-0.0) != key(amount=None)
    assert key(customer="José") == key(customer="JOSE\u0301") != key(customer="Jose")
    assert key(amount=10**400) != key(amount=1), "no float is that large"


def test_facts_of_a_dialogue_may_stand_in_any_user_turn():
    talk = dialogue("t", MAIL, "Yes please.")
    assert answers.answer_contradicts(talk) is None
    talk["messages"][0]["content"] = MAIL.replace("48213", "48231")
    assert "KX-48213" in answers.answer_contradicts(talk)


@pytest.mark.parametrize(
    "change",
    [{"order_id": "KX-48231"}, {"order_id": "X-48213"}, {"customer": "An"}, {"customer": "Kofi"},
     {"product": "Fjordal-7"}, {"amount": 49.99}, {"amount": 48213}, {"currency": "USD"},
     {"date": "2026-03-04"}, {"date": "2025-04-03"}],
)  # fmt: skip
def test_answer_contradicts_finds_every_changed_fact(change):
    (field,) = change
    evidence = answers.answer_contradicts(row(answer=json.dumps({**TICKET, **change})))
    assert evidence
    assert evidence.startswith(field)


@pytest.mark.parametrize(
    ("text", "date"),
    [("3.4.", "2026-04-03"), ("03.04.2025", "2025-04-03"), ("on 5 May", "2026-05-05"),
     ("May 5th, 2024", "2024-05-05"), ("the 1st of june", "2026-06-01"),
     ("14/06/2026", "2026-06-14"),
     ("2026-02-11", "2026-02-11"), ("21st August. 71028777 it is", "2026-08-21"),
     ("28.08. 17-EG-985", "2026-08-28"), ("5 Sept", "2026-09-05"), ("31.12.24", "2024-12-31"),
     ("6 Jauary", "2026-01-06"), ("on 7 Jyly", "2026-07-07"), ("2026/04/13", "2026-04-13"),
     ("2026/4/3,", "2026-04-03"), ("2026.04.13.", "2026-04-13"), ("2026‑04‑13", "2026-04-13"),
     ("13\u00a0April", "2026-04-13")],
)  # fmt: skip
def test_dates_are_read_as_a_reader_would(text, date):
    assert ungrounded({"date": date}, f"It came {text} and so on") is None


@pytest.mark.parametrize(
    "text", ["2026/13/04", "2025/04/13", "http://x/2026/04/13/a.png", "2026/04/133", "12026/04/13",
             "v2026.04.13", "2026.04.13.2", "2026/04.13"],
)  # fmt: skip
def test_a_number_with_slashes_is_no_date_by_that_alone(text):
    assert ungrounded({"date": "2026-04-13"}, f"Delivered {text} or so")


def test_dates_are_not_invented():
    assert dates_in("in March, last Tuesday, 45.3, 10 marks, 99 May, version 3.14.159") <= {
        "2026-03-14"
    }


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1.299,00 €", 1299.0), ("$1,299.00", 1299), ("CHF 240.-", 240), ("12 quid", 12),
     ("£7.50", 7.5),
     ("EUR15", 15), ("1'299.50 CHF", 1299.5), ("1 299 EUR", 1299),
     ("SPD-2026-135 494,21 €", 494.21),
     ("12,5", 12.5), ("Fr.49.90", 49.9), ("Fr. 20", 20), ("20-30 €", 30), ("1.299", 1299), ("USD 18.4,", 18.4),
     ("1\u202f299,00 €", 1299), ("1\u2009299 €", 1299), ("€\u202f1\u202f299.50", 1299.5),
     ("five pounds", 5), ("Twelve euros", 12), ("one dollar", 1), ("five €", 5), ("ten US dollars", 10),
     ("three CHF", 3), ("five francs 3 days ago", 5), ("two quid, ten days ago", 2)],
)  # fmt: skip
def test_sums_are_read_as_a_reader_would(text, amount):
    assert ungrounded({"amount": amount}, f"I paid {text} for it") is None


def test_parts_of_words_are_no_sums():
    assert not numbers_in("KX-48213 ab12 x9y")


@pytest.mark.parametrize(
    "text",
    ["twenty-five pounds", "twenty five pounds", "twenty‑five pounds", "a hundred and five pounds",
     "thousand-and-five euros", "fifty-five euros", "two point five pounds", "five hundred pounds",
     "five pounds fifty", "five euros 50", "five pounds and 20p", "five euros and three cents",
     "five minutes, 20 pounds", "I bought five. 20 pounds", "the five £20 notes", "these five CHF 20",
     "five parcels for €20", "five-pound bag"],
)  # fmt: skip
def test_a_number_word_counts_only_as_the_whole_sum(text):
    assert ungrounded({"amount": 5}, text)
    assert ungrounded({"amount": 1}, "the blue one £20, that one EUR 20, one hundred pounds")


def test_typeset_marks_and_accents_are_the_typed_ones():
    for dash in "\u2010\u2011\u2012\u2013\u2212":
        assert ungrounded({"order_id": "KX-48213"}, f"order KX{dash}48213 is late") is None
        assert ungrounded({"order_id": "X-48213"}, f"order KX{dash}48213 is late")
        assert ungrounded({"order_id": "KX-4821"}, f"order KX{dash}48213 is late")
        assert ungrounded({"product": "Fjordal-6"}, f"my Fjordal{dash}6 broke") is None
    assert ungrounded({"customer": "José"}, "Yours, Jose\u0301 Ruiz") is None
    assert ungrounded({"customer": "Jose\u0301"}, "Yours, JOSÉ") is None
    assert ungrounded({"customer": "Jose"}, "Yours, Jose\u0301 Ruiz"), "half a letter"


# --- the funnel ---------------------------------------------------------------------------------


def dialogue(name, *asked, system=None, answer=None):
    """A row of several user turns; what the assistant says in between is always the same."""
    last = row(asked[-1], answer)["messages"]
    messages = [] if system is None else [{"role": "system", "content": system}]
    for text in asked[:-1]:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "Of course."}]
    return row(id=name, messages=messages + last)


@pytest.fixture
def settings(tmp_path):
    held = tmp_path / "held.jsonl"
    data.write_jsonl(
        held, [row(mail="Nobody writes a mail like this one, ever, at all.", id="e-1")]
    )
    return curation.Settings(max_words=300, held_out=(held,))


def run(tmp_path, rows, settings):
    raw = tmp_path / "raw.jsonl"
    data.write_jsonl(raw, rows)
    funnel = curation.curate(raw, tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl", settings)
    dropped = (tmp_path / "dropped.jsonl").read_text().splitlines()
    return funnel, data.rows_of(tmp_path / "kept.jsonl"), [json.loads(d) for d in dropped]


def test_two_customers_with_the_same_words_both_stay(tmp_path, settings):
    other = copy.deepcopy(TICKET) | {"customer": "Kofi", "order_id": "KX-99999"}
    rows = [
        row(id="a"),
        row(MAIL.replace("Ana", "Kofi").replace("48213", "99999"), json.dumps(other), id="b"),
        row(MAIL.replace("Hi,", "Hello there,"), id="c"),
        row(MAIL.upper().replace(" ", "  "), id="d"),
    ]
    _, kept, dropped = run(tmp_path, rows, settings)
    assert [r["id"] for r in kept] == ["a", "b"]
    assert [(d["id"], d["filter"], d["of"]) for d in dropped] == [
        ("c", "near_duplicate", "a"),
        ("d", "exact_duplicate", "a"),
    ]


def test_kept_rows_are_unchanged_and_lines_add_up(tmp_path, settings):
    rows = [row(id=str(i), extra={"ö": [i]}, licence="x" if i % 3 else "MIT", thread=i) for i in
            range(9)]  # fmt: skip
    funnel, kept, dropped = run(tmp_path, rows, settings)
    assert kept == rows[:1]
    assert funnel.kept + sum(funnel.dropped.values()) == funnel.lines == 9
    assert len(dropped) == 8
    assert funnel.steps()[-1]["left"] == funnel.kept
    assert {step["filter"]: step["dropped"] for step in funnel.steps()} == {
        name: funnel.dropped[name] for name in curation.FUNNEL
    }


def test_a_broken_line_is_dropped_with_its_number(tmp_path, settings):
    raw = tmp_path / "raw.jsonl"
    raw.write_text(data.dump_row(row()) + '{"id": \n')
    curation.curate(raw, tmp_path / "k", tmp_path / "d", settings)
    (drop,) = data.rows_of(tmp_path / "d")
    assert (drop["line"], drop["filter"]) == (2, "parse")


def test_nothing_left_is_an_error_that_names_the_filter(tmp_path, settings):
    rows = [row(licence="unknown"), row(licence=None), row(mail="")]
    with pytest.raises(DataError, match="none of 3 rows is left, licence dropped 2"):
        run(tmp_path, rows, settings)


def test_half_surrogates_do_not_stop_the_funnel(tmp_path, settings):
    raw = tmp_path / "raw.jsonl"
    raw.write_text(data.dump_row(row()) + json.dumps(row(mail="bad \ud83d", id="\ud83d")) + "\n")
    curation.curate(raw, tmp_path / "k", tmp_path / "d", settings)
    assert data.rows_of(tmp_path / "d")[0]["filter"] == "encoding"


def test_a_leak_of_a_copied_mail_is_a_leak(tmp_path, settings):
    leak = "Nobody writes a mail like this one, ever, at all."
    ticket = json.dumps(dict.fromkeys(TICKET) | {"topic": "question", "action": "information",
                                                 "urgent": False})  # fmt: skip
    _, kept, dropped = run(tmp_path, [row(), row(leak, ticket), row(leak, ticket)], settings)
    assert len(kept) == 1
    assert [d["filter"] for d in dropped] == ["leakage", "leakage"]


def naive(rows, settings):
    """The funnel without streams, hashes or MinHash: every row against every kept row."""
    held = [data.mail_of(r) for path in settings.held_out for r in data.rows_of(path)]
    kept = []
    for number, one in enumerate(rows):
        if one is None or any(judge(one) for judge in curation.row_filters(settings).values()):
            continue
        mail = data.mail_of(one)
        if any(jaccard(shingles(mail), shingles(h)) >= ALIKE for h in held):
            continue
        same = [
            k for k in kept
            if exact_key(data.mail_of(rows[k])) == exact_key(mail)
            or (answers.facts_key(rows[k]) == answers.facts_key(one)
                and jaccard(shingles(data.mail_of(rows[k])), shingles(mail)) >= ALIKE)
        ]  # fmt: skip
        if not same:
            kept.append(number)
    return kept


def test_streaming_equals_the_naive_funnel(tmp_path):
    lines = list(data.read_jsonl(TICKETS / "raw.jsonl"))[:500]
    settings = curation.Settings(max_words=350, held_out=(TICKETS / "test.jsonl",))
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"".join((TICKETS / "raw.jsonl").read_bytes().splitlines(keepends=True)[:500]))
    verdicts = [verdict for _, verdict in curation.judge_rows(raw, settings)]
    streamed = [number for number, verdict in enumerate(verdicts) if verdict is None]
    assert streamed == naive([line.row for line in lines], settings)


# --- the audit ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    raw = TICKETS / "raw.jsonl"
    settings = curation.Settings(
        max_words=filters.length_fence(curation.mail_lengths(raw)),
        held_out=(TICKETS / "test.jsonl", TICKETS / "fewshot.jsonl"),
    )
    curation.curate(raw, folder / "kept.jsonl", folder / "dropped.jsonl", settings)
    return data.rows_of(folder / "kept.jsonl"), data.rows_of(folder / "dropped.jsonl")


def test_filters_on_the_planted_defects(curated):
    kinds, by_filter = audit.score_filters(curated[1], data.rows_of(TICKETS / "answer_key.jsonl"))
    assert len(kinds) >= 12
    for score in kinds:
        assert score.recall["value"] >= 0.95, score
    for score in by_filter:
        assert score.precision["value"] >= 0.95, score
    dropped, false = sum(s.dropped for s in by_filter), sum(len(s.false) for s in by_filter)
    assert false / dropped <= 0.01


def test_a_broken_filter_shows_in_its_recall(curated):
    key = data.rows_of(TICKETS / "answer_key.jsonl")
    blind = [drop for drop in curated[1] if drop["filter"] != "encoding"]
    kinds = {score.kind: score for score in audit.score_filters(blind, key)[0]}
    assert kinds["mojibake"].recall["value"] == 0
    assert len(kinds["mojibake"].missed) == kinds["mojibake"].planted
    assert kinds["html"].recall["value"] >= 0.95


def test_a_greedy_filter_shows_in_its_precision(curated):
    key = data.rows_of(TICKETS / "answer_key.jsonl")
    gone = {drop["line"] for drop in curated[1]} | {entry["line"] for entry in key}
    greedy = [{"line": n, "id": "", "filter": "markup"} for n in range(1, 300) if n not in gone]
    scores = {s.filter: s for s in audit.score_filters([*curated[1], *greedy], key)[1]}
    assert scores["markup"].precision["value"] < 0.2
    assert scores["markup"].false == [drop["line"] for drop in greedy]


def test_a_pair_is_found_whichever_half_is_dropped():
    key = [{"line": 1, "id": "c", "defect": "near_duplicate", "of": "o"}]
    drop = {"line": 9, "id": "o", "filter": "near_duplicate", "of": "c"}
    kinds, by_filter = audit.score_filters([drop], key)
    assert kinds[0].right == 1
    assert by_filter[0].false == []
    both = [drop, {"line": 1, "id": "c", "filter": "near_duplicate", "of": "x"}]
    assert audit.score_filters(both, key)[1][0].false == [9], "both halves gone: one too many"


def test_the_loss_of_an_original_finds_its_own_copy_alone():
    key = [{"line": 5, "id": "t-5", "defect": "near_duplicate", "of": "t-1"}]
    drop = {"line": 1, "id": "t-1", "filter": "near_duplicate", "of": "t-99"}
    kinds, by_filter = audit.score_filters([drop], key)
    assert (kinds[0].right, kinds[0].missed) == (0, [5])
    assert by_filter[0].false == [1]
    copies = [*key, {"line": 7, "id": "t-7", "defect": "exact_duplicate", "of": "t-1"}]
    kinds, by_filter = audit.score_filters([drop | {"of": "t-7", "filter": "exact_duplicate"}], copies)
    assert {k.kind: k.missed for k in kinds} == {"exact_duplicate": [], "near_duplicate": [5]}
    assert by_filter[0].false == []


def test_an_unknown_defect_is_refused():
    with pytest.raises(DataError, match="no filter is made for gremlins"):
        audit.score_filters([], [{"line": 1, "id": "a", "defect": "gremlins"}])


# --- coverage, card, command line ---------------------------------------------------------------


def test_difficulty_counts_what_a_reader_has_to_do():
    easy = row("Where is my parcel?", json.dumps(dict.fromkeys(TICKET)), style="plain")
    hard = row(f"{MAIL} Serial 99120, two of 7 boxes. " + "word " * 60, style="typos")
    assert coverage.features(easy)["difficulty"] == 0
    found = coverage.features(hard)
    assert (found["facts"], found["decoys"], found["difficulty"]) == (5, 2, 9)


def test_crosstab_shows_empty_cells():
    table = coverage.crosstab([{"a": "x", "b": 1}, {"a": "y", "b": 2}], across="b", down="a")
    assert table == [{"a": "x", 1: 1, 2: 0}, {"a": "y", 1: 0, 2: 1}]


def test_the_committed_data_card_is_fresh():
    assert (TICKETS / "README.md").read_text(encoding="utf-8") == datacard.card(), (
        "run: python -m sft_utils.curation.datacard"
    )


def test_the_command_line_reports_counts_and_cost(tmp_path):
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"".join((TICKETS / "raw.jsonl").read_bytes().splitlines(keepends=True)[:200]))
    command = [sys.executable, "-m", "sft_utils.curation", raw, tmp_path / "out", "--held-out",
               TICKETS / "test.jsonl"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    cost = json.loads(done.stdout)
    assert cost["lines"] == 200 == cost["kept"] + sum(cost["dropped"].values())
    assert 0 < cost["peak_gib"] < 0.4
    assert len(data.rows_of(tmp_path / "out" / "kept.jsonl")) == cost["kept"]
    missing = subprocess.run([*command[:3], "nowhere.jsonl", *command[4:]], cwd=ROOT,
                             capture_output=True, text=True, check=False)  # fmt: skip
    assert missing.returncode == 1
    assert missing.stderr.startswith("DataError: nowhere.jsonl does not exist")


OTHER = "A quite different letter about a lamp that flickers whenever the tram passes. Regards, Bo"


FOOTER = ("This message and any attachment are confidential and intended only for the person named "
          "above. If you are not that person please delete it and tell the sender at once.")  # fmt: skip
NOTHING = json.dumps(dict.fromkeys(TICKET) | {"topic": "question", "action": "information",
                                              "urgent": False})  # fmt: skip
SECRET = "Nobody writes a mail like this one, ever, at all."
THIRD = "The green kettle hums a tune at night and my cat has begun to answer it. Sincerely, Cy"


@pytest.mark.parametrize(
    ("leaking", "place"),
    [(dialogue("x", SECRET, "Thanks!", answer=NOTHING), "exactly e-1 (user turn 1)"),
     (dialogue("x", OTHER, f"So: {SECRET}", "Thanks!", answer=NOTHING), "near e-1: Jaccard 0.89 (user turn 2)"),
     (dialogue("x", OTHER, SECRET, answer=NOTHING), "exactly e-1 (user turn 2)"),
     (dialogue("x", OTHER, system=f"Read mails such as this: {OTHER} {SECRET}", answer=NOTHING),
      "contains e-1: 100% of its 8-grams (system text)")],
    ids=["first turn", "middle turn", "last turn", "system text"],
)  # fmt: skip
def test_a_leak_is_found_in_every_turn(tmp_path, settings, leaking, place):
    _, kept, dropped = run(tmp_path, [row(), leaking], settings)
    assert [r["id"] for r in kept] == ["t-1"]
    assert [(d["filter"], d["evidence"]) for d in dropped] == [("leakage", place)]


def test_every_turn_of_a_held_out_dialogue_counts_but_for_common_speech(tmp_path, settings):
    data.write_jsonl(settings.held_out[0], [dialogue("e-1", SECRET, "Yes please.", OTHER)])
    words = f"{SECRET} Yes please. {OTHER}".split()
    pieces = [" ".join(words[k : k + 4]) for k in range(0, len(words), 4)]
    rows = [row(SECRET, NOTHING, id="a"), row(f"Dear team! {OTHER}", NOTHING, id="b"),
            dialogue("c", THIRD, "Yes please.", answer=NOTHING), row("Yes please.", NOTHING, id="d"),
            dialogue("e", *pieces, answer=NOTHING)]  # fmt: skip
    _, kept, dropped = run(tmp_path, rows, settings)
    assert [r["id"] for r in kept] == ["c", "d"]
    assert [d["evidence"] for d in dropped] == [
        "exactly e-1, turn 1", "near e-1, turn 3: Jaccard 0.87", "exactly e-1",
    ]  # fmt: skip


def test_instructions_that_held_out_mails_carry_are_no_leak_in_a_system_text(tmp_path, settings):
    """One file has them in the system text, the other in the user turn: no mail is given away."""
    ask = ("Read the mail of a customer and write down product, order number, amount, currency, date "
           "and name as JSON, with null for whatever the mail does not say at all.")  # fmt: skip
    data.write_jsonl(settings.held_out[0], [row(f"{ask} {text}", id=f"e-{k}") for k, text in
                                            enumerate((SECRET, OTHER))])  # fmt: skip
    rows = [dialogue("a", THIRD, system=ask, answer=NOTHING),
            dialogue("b", THIRD.upper()[:30], system=f"{ask} For example: {OTHER}", answer=NOTHING)]  # fmt: skip
    _, kept, dropped = run(tmp_path, rows, settings)
    assert [r["id"] for r in kept] == ["a"]
    assert [d["evidence"] for d in dropped] == ["near e-1: Jaccard 0.68 (system text)"]


def test_an_opening_that_many_dialogues_share_is_no_leak(tmp_path, settings):
    opening = "Hello and good morning, could you please help me with an order of mine?"
    rng, known = random.Random(0), [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(676)]
    rows = [dialogue(str(k), opening, " ".join(rng.sample(known, 20)), answer=NOTHING) for k in range(40)]
    data.write_jsonl(settings.held_out[0], [dialogue("e-1", opening, OTHER)])
    _, kept, _ = run(tmp_path, rows, settings)
    assert kept == rows


def test_dialogues_are_copies_by_all_that_the_user_says(tmp_path, settings):
    rows = [dialogue("a", OTHER, "Yes please.", answer=NOTHING),
            dialogue("b", THIRD, "Yes please.", answer=NOTHING),
            dialogue("c", OTHER.upper(), "Yes  please.", answer=NOTHING),
            dialogue("d", f"Hello! {THIRD}", "Yes please.", answer=NOTHING)]  # fmt: skip
    _, kept, dropped = run(tmp_path, rows, settings)
    assert [r["id"] for r in kept] == ["a", "b"]
    assert [(d["filter"], d["of"]) for d in dropped] == [("exact_duplicate", "a"), ("near_duplicate", "b")]


def test_copies_with_another_answer_are_named(tmp_path, settings):
    spaced = json.dumps(TICKET | {"amount": 49.90}, indent=1)
    rows = [row(id="a"), row(answer=spaced, id="b"), row(answer=json.dumps(TICKET | {"action": "repair"}), id="c")]
    _, _, dropped = run(tmp_path, rows, settings)
    assert [d["evidence"] for d in dropped] == ["same mail as a", "same mail as a, another answer"]


def test_copies_whose_amount_is_written_otherwise_are_found(tmp_path, settings):
    mail, ticket = MAIL.replace("49,90", "55"), TICKET | {"amount": 55}
    rows = [row(mail, json.dumps(ticket), id="a"),
            row(mail.replace("Hi,", "Hello there,"), json.dumps(ticket | {"amount": 55.0}), id="b")]  # fmt: skip
    _, _, dropped = run(tmp_path, rows, settings)
    assert [(d["filter"], d["of"]) for d in dropped] == [("near_duplicate", "a")]


def test_a_copy_in_another_unicode_form_is_a_copy(tmp_path, settings):
    mail, ticket = MAIL.replace("Ana", "José"), json.dumps(TICKET | {"customer": "José"})
    rows = [row(mail, ticket, id="a"), row(mail.replace("é", "e\u0301"), ticket, id="b")]
    _, kept, dropped = run(tmp_path, rows, settings)
    assert [r["id"] for r in kept] == ["a"]
    assert [(d["filter"], d["of"]) for d in dropped] == [("exact_duplicate", "a")]


def test_held_out_files_that_number_their_rows_alike_hide_nothing(tmp_path):
    first, second = tmp_path / "test.jsonl", tmp_path / "examples.jsonl"
    data.write_jsonl(first, [row(id="0")])
    data.write_jsonl(second, [row(mail=OTHER, id="0")])
    held = leaks.held_out_turns((first, second))
    assert held == {"0": [MAIL], "0 (examples.jsonl:1)": [OTHER]}


def test_held_out_rows_need_no_id(tmp_path):
    data.write_jsonl(tmp_path / "held.jsonl", [{"messages": row()["messages"]}])
    assert leaks.held_out_turns((tmp_path / "held.jsonl",)) == {"(held.jsonl:1)": [MAIL]}


def test_a_held_out_row_without_a_mail_is_named(tmp_path, settings):
    data.write_jsonl(settings.held_out[0], [row(), {"id": "x", "prompt": "p", "completion": "c"}])
    with pytest.raises(DataError, match=r"held.jsonl:2: this held-out row .*no list of messages"):
        run(tmp_path, [row()], settings)


def with_footer(n, words, seed=0):
    """Different mails about no case in particular, under one footer."""
    rng, known = random.Random(seed), [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(676)]
    mails = [" ".join(rng.sample(known, words)) for _ in range(n)]
    return [row(f"{mail}. {FOOTER}", NOTHING, id=str(i)) for i, mail in enumerate(mails)]


def test_a_footer_makes_different_mails_neither_duplicates_nor_leaks(tmp_path, settings):
    data.write_jsonl(settings.held_out[0], with_footer(1, 9, seed=1))
    rows = with_footer(50, 9)
    near = row(rows[7]["messages"][0]["content"].replace(".", " and thanks.", 1), NOTHING, id="near")
    _, kept, dropped = run(tmp_path, [*rows, near, rows[3]], settings)
    assert kept == rows
    assert [(d["filter"], d["of"]) for d in dropped] == [("near_duplicate", "7"), ("exact_duplicate", "3")]


def test_a_footer_costs_no_time_that_grows_with_the_square(tmp_path, settings, monkeypatch):
    looked = []
    honest = curation.read_at
    monkeypatch.setattr(curation, "read_at", lambda *place: looked.append(1) or honest(*place))
    run(tmp_path, with_footer(400, 26), settings)
    assert len(looked) < 400


def test_a_row_is_compared_with_so_many_and_no_more(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(curation, "_boilerplate", lambda path: frozenset())
    monkeypatch.setattr(duplicates, "PROPOSED", 5)
    looked = []
    honest = curation.jaccard
    monkeypatch.setattr(curation, "jaccard", lambda *sets: looked.append(1) or honest(*sets))
    run(tmp_path, with_footer(60, 40), settings)
    assert 100 < len(looked) <= 5 * 60


def test_boilerplate_is_looked_for_in_the_whole_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(curation, "SAMPLE", 100)
    raw = tmp_path / "raw.jsonl"
    data.write_jsonl(raw, [row(f"mail number {i}") for i in range(900)] + with_footer(100, 5))
    assert ("confidential", "and", "intended") in curation._boilerplate(raw)
    data.write_jsonl(raw, with_footer(10, 5))
    raw.write_bytes(b"\xef\xbb\xbf" + raw.read_bytes())
    monkeypatch.setattr(curation, "SAMPLE", 10**9)
    assert ("confidential", "and", "intended") in curation._boilerplate(raw), "every row is read once"


def test_our_own_raw_file_has_no_boilerplate():
    assert curation._boilerplate(TICKETS / "raw.jsonl") == frozenset()


@pytest.mark.parametrize("name", ["raw", "kept", "held"])
def test_no_file_that_is_read_is_written(tmp_path, settings, name):
    data.write_jsonl(tmp_path / "kept.jsonl", [row()])
    raw = tmp_path / "kept.jsonl" if name == "kept" else tmp_path / "raw.jsonl"
    data.write_jsonl(raw, [row()])
    target = {"raw": raw, "kept": tmp_path / "x" / ".." / "kept.jsonl",
              "held": settings.held_out[0]}[name]  # fmt: skip
    (tmp_path / "x").mkdir()
    before = raw.read_bytes(), settings.held_out[0].read_bytes()
    with pytest.raises(DataError, match=f"{target.name} is read and would be written.*another folder"):
        curation.curate(raw, target, tmp_path / "dropped.jsonl", settings)
    assert (raw.read_bytes(), settings.held_out[0].read_bytes()) == before


def test_a_folder_that_is_a_file_is_named(tmp_path, settings):
    data.write_jsonl(tmp_path / "raw.jsonl", [row()])
    (tmp_path / "out").write_text("x")
    with pytest.raises(StorageError, match="cannot write kept.jsonl: "):
        curation.curate(tmp_path / "raw.jsonl", tmp_path / "out" / "kept.jsonl",
                        tmp_path / "out" / "dropped.jsonl", settings)  # fmt: skip


def test_half_a_surrogate_outside_the_messages_costs_its_row_alone(tmp_path, settings):
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps(row(OTHER, NOTHING, thread="\ud83d")) + "\n" + data.dump_row(row()))
    curation.curate(raw, tmp_path / "k", tmp_path / "d", settings)
    (drop,) = data.rows_of(tmp_path / "d")
    assert (drop["filter"], drop["evidence"]) == ("encoding", "U+D83D outside the messages")
    assert data.rows_of(tmp_path / "k") == [row()]


def test_a_raw_file_that_may_not_be_read_is_named(tmp_path, settings, monkeypatch):
    raw = tmp_path / "raw.jsonl"
    data.write_jsonl(raw, [row()])
    honest = type(raw).open

    def refuse(path, *mode, **more):
        if path.name == "raw.jsonl":
            raise PermissionError(13, "Permission denied")
        return honest(path, *mode, **more)

    monkeypatch.setattr(type(raw), "open", refuse)
    for read in (lambda: curation.mail_lengths(raw),
                 lambda: curation.curate(raw, tmp_path / "k", tmp_path / "d", settings)):  # fmt: skip
        with pytest.raises(DataError, match="raw.jsonl cannot be read: Permission denied. Check"):
            read()


def test_a_missing_raw_file_is_named(tmp_path, settings):
    with pytest.raises(DataError, match="nowhere.jsonl does not exist"):
        curation.curate(tmp_path / "nowhere.jsonl", tmp_path / "k", tmp_path / "d", settings)


@pytest.mark.parametrize("content", [gzip.compress(b"{}", mtime=0), b"question,answer\nq,a\n", b'[{"a": 1}]\n',
                                     b'{"prompt": "q", "completion": "a"}\n'], ids=["gzip", "CSV", "JSON list", "layout"])  # fmt: skip
def test_a_raw_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / "raw.x").write_bytes(content)
    with pytest.raises(DataError, match=r"raw.x: none of [12] lines is a row with messages \(line 1: .*JSONL"):
        curation.mail_lengths(tmp_path / "raw.x")


def test_the_funnel_decides_as_recorded(tmp_path):
    """A faster funnel must keep and drop the same lines for the same reasons, to the byte."""
    settings = curation.Settings(
        max_words=filters.length_fence(curation.mail_lengths(TICKETS / "raw.jsonl")),
        held_out=(TICKETS / "test.jsonl", TICKETS / "fewshot.jsonl"),
    )
    files = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    curation.curate(TICKETS / "raw.jsonl", *files, settings)
    found = [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]
    assert found == ["c6b533fd1fdc312d", "84e3471bd359d6c2"]
