"""XML, cited prose and reports: valid or every reason why not, and fields like those of JSON."""

import time

import pytest

from sft_utils.errors import ConfigError
from sft_utils.scores import documents, scoring
from sft_utils.scores.documents import check_citations, check_report, check_xml

XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <xs:element name="booking"><xs:complexType><xs:sequence>
  <xs:element name="id" type="xs:string"/>
  <xs:element name="passenger" maxOccurs="unbounded"><xs:complexType><xs:sequence>
    <xs:element name="name" type="xs:string"/><xs:element name="age" type="xs:int" minOccurs="0"/>
   </xs:sequence><xs:attribute name="lead" type="xs:boolean"/></xs:complexType></xs:element>
 </xs:sequence></xs:complexType></xs:element></xs:schema>"""
BOOKING = '<booking><id>K1</id><passenger lead="true"><name>Ada</name><age>36</age></passenger></booking>'


def test_xml_fields_are_leaves_and_repeatable_elements_are_numbered():
    verdict = check_xml(BOOKING, XSD)
    assert verdict.valid
    assert verdict.fields == {
        "booking/id": "K1", "booking/passenger/0/@lead": "true", "booking/passenger/0/name": "Ada",
        "booking/passenger/0/age": "36",
    }  # fmt: skip
    two = BOOKING.replace("</booking>", "<passenger><name> Bob\n</name></passenger></booking>")
    assert check_xml(two, XSD).fields["booking/passenger/1/name"] == "Bob"
    assert scoring.field_counts(verdict.fields, check_xml(two, XSD).fields) == (4, 0, 1)
    assert check_xml('<?xml version="1.0" encoding="latin-1"?>\n' + BOOKING.replace("Ada", "Zoë"), XSD).fields["booking/passenger/0/name"] == "Zoë"
    assert check_xml("<!-- DOCTYPE --><!-- <!DOCTYPE x> -->" + BOOKING, XSD).valid
    for inside in ("A<!-- first -->da", "A<?x y?>da"):
        noted = check_xml(BOOKING.replace("Ada", inside), XSD)
        assert (noted.valid, noted.fields) == (True, verdict.fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOOKING[:-1], "not well-formed"), ("", "not well-formed"), ("Here: " + BOOKING, "not well-formed"),
        (BOOKING + BOOKING, "not well-formed"), (BOOKING.replace("Ada", "A&B"), "not well-formed"),
        (BOOKING.replace("Ada", "\x00"), "not well-formed"), (BOOKING.replace("Ada", "\ud800"), "not well-formed"),
        (BOOKING.replace("Ada", "&x;"), "not well-formed"), ("<a>" * 5000 + "</a>" * 5000, "not well-formed"),
        (BOOKING.replace("36", "old"), "line 1: Element 'age'"), (BOOKING.replace("id>", "no>"), "Element 'no'"),
        (BOOKING.replace("lead", "led"), "attribute 'led'"),
    ],
)  # fmt: skip
def test_xml_reasons(text, reason):
    verdict = check_xml(text, XSD)
    assert not verdict.valid
    assert reason in verdict.reasons[0]


def test_xml_refuses_entities_before_they_cost_anything(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    attacks = [
        f'<!DOCTYPE b [<!ENTITY l0 "ha">{laughs}]>' + BOOKING.replace("Ada", "&l11;"),
        f'<?xml version="1.0"?>\n<!-- x --><!DOCTYPE b [<!ENTITY s SYSTEM "file://{secret}">]>' + BOOKING.replace("Ada", "&s;"),
        f'\ufeff<!DOCTYPE b SYSTEM "file://{secret}">' + BOOKING,
        '<!DOCTYPE b SYSTEM "http://127.0.0.1:9/x.dtd">' + BOOKING,
    ]
    started = time.process_time()
    for text in attacks:
        verdict = check_xml(text, XSD)
        assert not verdict.valid
        assert verdict.fields == {}
        assert "DOCTYPE" in verdict.reasons[0]
        assert "SECRET" not in str(verdict)
    assert not check_xml("<!-- -->" * 5000 + "<", XSD).valid  # no regular expression explodes
    assert time.process_time() - started < 2


def test_the_parser_itself_expands_nothing(tmp_path):
    """The second lock: even where a DOCTYPE gets through, entities stay unexpanded."""
    from lxml import etree

    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    text = f'<!DOCTYPE b [<!ENTITY s SYSTEM "file://{secret}"><!ENTITY i "in">]><b>&s;&i;</b>'
    root = etree.fromstring(text.encode(), documents._parser())
    assert etree.tostring(root) == b"<b>&s;&i;</b>"


def test_an_answer_cannot_bring_its_own_schema(tmp_path):
    hint = tmp_path / "own.xsd"
    hint.write_text('<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="mine"/></xs:schema>')
    xsi = f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="{hint}"'
    assert not check_xml(f"<mine {xsi}/>", XSD).valid
    verdict = check_xml(BOOKING.replace("<booking>", f"<booking {xsi}>"), XSD)
    assert verdict.valid
    assert verdict.fields == check_xml(BOOKING, XSD).fields


def test_an_xsd_is_given_as_text_or_path(tmp_path):
    (tmp_path / "b.xsd").write_text(XSD)
    assert check_xml(BOOKING, tmp_path / "b.xsd").valid
    for broken in ("no.xsd", "<a/>", "<a"):
        with pytest.raises(ConfigError, match="XSD"):
            check_xml(BOOKING, broken)


PASSAGES = ["The museum opens daily at 9:30. Admission costs 1,200 yen.", "Guided tours start on Monday, 12 March."]
GOOD = "The museum opened daily at 9:30 [1]. Admission costs 1200 yen, and tours start on Monday. [1][2]"


@pytest.mark.parametrize(("text", "n"), [
    ("Tours start in hall B. The museum opens daily at 9:30 [1].", 2), ("Is it open? No. The museum is shut [1].", 3),
    ("J. A. Ito opened it [1].", 1), ("It was Vitamin C. Smith left [1].", 1), ("See No. 12 and Nos. I and II [1].", 1), ("In the U.S. It opens [1].", 2),
    ("Symphony No. V is played in gate No. B12 [1].", 1), ("A. The museum opens [1].\nB. It closes [1].", 2), ("Theresa A. May opened it [1].", 1),
    ("The owner said no. 12 guests left [1].", 2),
])  # fmt: skip
def test_a_letter_may_end_a_sentence(text, n):
    assert len(documents.sentences(text)) == n


def test_citations():
    verdict = check_citations(GOOD, PASSAGES)
    assert verdict.valid, verdict.reasons
    assert verdict.fields == {"sentences/0/cites/0": 1, "sentences/1/cites/0": 1, "sentences/1/cites/1": 2}
    assert check_citations("- Admission costs 1,200 yen [1]\n- Tours start on Monday [2]", PASSAGES).valid
    assert check_citations("1. Admission costs 1,200 yen [1]", PASSAGES).reasons == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no sentence"), ("[1]", "no sentence"),
        ("The museum opens daily.", "sentence 1 cites nothing: 'The museum opens daily.'"),
        ("The museum opens daily. Tours start on Monday [2].", "sentence 1 cites nothing"),
        ("The museum opens daily [1]. Enjoy!", "text after the last marker: 'Enjoy'"),
        ("The museum opens daily [1] and more", "text after the last marker: 'and more'"),
        ("The museum opens daily [3].", "sentence 1: [3] does not exist (1..2)"),
        ("The museum opens daily [0].", "sentence 1: [0] does not exist (1..2)"),
        ("The museum opens daily [2].", "sentence 1: [2] holds 0% of its content words"),
        ("The museum opens daily at 9:45 [1].", "sentence 1: number 45 is not in [1]"),
        ("Admission costs 12 yen [1].", "sentence 1: number 12 is not in [1]"),
    ],
)  # fmt: skip
def test_citation_reasons(text, reason):
    assert any(r.startswith(reason) for r in check_citations(text, PASSAGES).reasons)


def test_support_does_not_see_negation():
    """A known limit, written down: words agree, the claim is reversed."""
    assert check_citations("The museum never opens daily [1].", PASSAGES).valid


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("It costs 3.50 e.g. in Rome [1]. Dr. Ito left [2].", 2), ("J. S. Bach played [1].", 1),
        ("He left.[1] She stayed.[2]", 2), ('He said "Go." [1] She went [2].', 2), ("wrapped\nline [1].", 1),
        ("One [1]\n\ntwo [2]", 2), ("Really?! [1] Yes [2]", 2), ("\n\n", 0),
    ],
)  # fmt: skip
def test_sentences(text, n):
    assert len(documents.sentences(text)) == n


SPEC = {"headings": ["Summary", "Facts", "Next steps"], "bullets": {"Facts": [1, 3]}, "status": ["open", "closed"]}
REPORT = "Status: open\n\n## Summary\nA tap drips.\n\n## Facts\n- kitchen\n  - left tap\n- since May\n\n## Next steps\nSend a plumber.\n"


def test_report():
    verdict = check_report(REPORT, SPEC)
    assert verdict.valid, verdict.reasons
    assert verdict.fields == {
        "Status": "open", "Summary": "A tap drips.", "Facts/0": "kitchen", "Facts/1": "since May",
        "Next steps": "Send a plumber.",
    }  # fmt: skip
    assert check_report(REPORT.replace("A tap drips.", "```\n# no heading\n## none\n```"), SPEC).valid
    assert check_report(REPORT.replace("##", "#"), SPEC | {"level": 1}).valid
    closed = check_report(REPORT.replace("open", "closed"), SPEC)
    assert scoring.field_counts(closed.fields, verdict.fields) == (4, 1, 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Status: open", "", "0 Status lines"), ("Status: open", "Status: open\nStatus: open", "2 Status lines"),
        ("Status: open", "Status: shut", "Status is 'shut'"), ("Status: open", "Status: Open", "Status is 'Open'"),
        ("## Facts", "## Details", "headings are"), ("## Facts", "### Facts", "headings are"),
        ("## Summary", "## Next steps", "headings are"), ("Send a plumber.", "", "Next steps: empty"),
        ("Send a plumber.", "### Soon", "Next steps: empty"),
        ("- kitchen\n  - left tap\n- since May", "Some.", "Facts: 0 bullets"), ("- since May", "- a\n* b\n+ c", "Facts: 4 bullets"),
        ("Status: open", "Here it is.\nStatus: open", "text before the first heading"),
    ],
)  # fmt: skip
def test_report_reasons(old, new, reason):
    verdict = check_report(REPORT.replace(old, new), SPEC)
    assert any(r.startswith(reason) for r in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    "spec", [{}, {"headings": []}, {"headings": ["A", "A"]}, {"headings": ["A"], "bulets": {}}, {"headings": ["A"], "bullets": {"B": [0, 1]}}, {"headings": ["A"], "bullets": {"A": [2, 1]}}]
)  # fmt: skip
def test_a_specification_that_cannot_work_is_refused(spec):
    with pytest.raises(ConfigError):
        check_report(REPORT, spec)
