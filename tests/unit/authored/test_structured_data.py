"""The rows with an answer of a fixed form: reproducible, valid, derivable, honestly split."""

import csv
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

sys.path.append(str(Path(__file__).resolve().parents[3] / "data"))
from structured.engine import MONTHS, WORDS
from structured.frames import citation
from structured.generate import build_files
from structured.rows import ALIKE, SEEN, UNSEEN, schema_of, shingles, similarity

ROOT = Path(__file__).resolve().parents[3]
HERE, EXAMPLES = ROOT / "data" / "structured", ROOT / "data" / "examples"
MOST_TOKENS = {"json": 75, "xml": 70, "citation": 70, "report": 90}  # of an answer
MOST_TEXT = {"json": 110, "xml": 90, "citation": 130, "report": 90}
GENERIC = {"date", "name"}
# derived leaves, not copied ones: dates, clock times, signs for units and currencies, pronouns
DERIVED = {"start", "unit", "currency", "sex"}
# (schema, value): the words that say so in hand-written training rows, which may paraphrase an enum
PARAPHRASES = {
    ("flight_request", "economy"): "cheapest seats|coach",
    ("hotel_booking", "single"): "room for (one|1)",
    ("hotel_booking", "double"): "room for two|dbl",
    ("incident_report", "low"): "cosmetic|minor",
    ("incident_report", "medium"): "moderate",
    ("incident_report", "critical"): "top priority|code red",
    ("book_review", "romance"): "love stories",
    ("book_review", "crime"): "whodunit|detective",
    ("book_review", "travel"): "on the road",
    ("apartment_listing", "lift"): "elevator",
    ("apartment_listing", "parking"): "garage",
}
WRITTEN_TRAINING = dict.fromkeys(SEEN, 54) | {"parcel": 12, "event": 12, "citation": 30, "report": 30}


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows():
    return {split: read(HERE / f"{split}.jsonl") for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def every(rows):
    return [row for split in rows.values() for row in split]


def of_kind(rows, kind):
    return [row for row in rows if row["kind"] == kind]


def written(answer):
    return answer if isinstance(answer, str) else json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def leaves(value, key=""):
    """(last key, leaf) of everything below."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, key)
    else:
        yield key, value


def keys_of(rule):
    """All property names of a schema, nested ones included."""
    found = set(rule.get("properties", ()))
    for one in rule.get("properties", {}).values():
        found |= keys_of(one)
    return found | (keys_of(rule["items"]) if "items" in rule else set())


def words(text):
    """The longer words: function words support nothing."""
    return set(re.findall(r"\w{3,}", text))


def rules(rule):
    """A schema and all schemas in it."""
    yield rule
    for one in [*rule.get("properties", {}).values(), *([rule["items"]] if "items" in rule else [])]:
        yield from rules(one)


def test_generating_again_gives_the_same_bytes(tmp_path):
    for name, text in build_files().items():
        (tmp_path / Path(name).name).write_bytes(text.encode())
        assert (tmp_path / Path(name).name).read_bytes() == (ROOT / "data" / name).read_bytes(), name


def test_counts(rows):
    count = {split: Counter((r["schema"], r["source"]) for r in part) for split, part in rows.items()}
    for name in SEEN:
        assert count["train"][name, "grammar"] == 72
        assert count["val"][name, "grammar"] == 8
        assert count["test"][name, "grammar"] >= 8 <= count["test"][name, "handwritten"]
    for name in UNSEEN:
        assert count["test"][name, "grammar"] >= 12 <= count["test"][name, "handwritten"]
    for kind in ("xml", "citation", "report"):
        assert sum(r["source"] == "grammar" for r in of_kind(rows["train"], kind)) == 72
        assert len(of_kind(rows["val"], kind)) == 8
        test = of_kind(rows["test"], kind)
        assert len(test) == 32
        assert sum(r["source"] == "handwritten" for r in test) >= 12
    hand = {name: n for (name, source), n in count["train"].items() if source == "handwritten"}
    assert hand == WRITTEN_TRAINING
    assert {split: len(part) for split, part in rows.items()} == {"train": 1560, "val": 104, "test": 352}
    assert len(SEEN) >= 9
    assert len(UNSEEN) >= 4


def test_rows_have_the_stated_keys(every):
    keys = ["id", "kind", "schema", "source", "group", "text", "answer"]
    assert all(list(row) == keys for row in every)
    assert len({row["id"] for row in every}) == len({row["text"].lower() for row in every}) == len(every)


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_schemas_are_bounded(name):
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    for rule in rules(schema):
        kinds = rule.get("type", [])
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        assert "object" not in kinds or rule["additionalProperties"] is False
        assert "string" not in kinds or "maxLength" in rule
        assert "array" not in kinds or "maxItems" in rule
        assert not kinds & {"number", "integer"} or {"minimum", "maximum"} <= rule.keys()
        assert "multipleOf" not in rule


def test_held_out_schemas_share_no_key_with_trained_ones():
    trained = set().union(*(keys_of(schema_of(name)) for name in SEEN))
    for name in UNSEEN:
        assert keys_of(schema_of(name)) & trained <= GENERIC, name


def test_held_out_schemas_are_only_in_the_test(rows):
    used = {row["schema"] for split in ("train", "val") for row in rows[split]}
    assert not used & UNSEEN.keys()
    assert {row["schema"] for row in of_kind(rows["test"], "json")} == {*SEEN, *UNSEEN}


def test_json_answers_are_valid_and_ordered(every):
    checks = {
        name: Draft202012Validator(schema_of(name), format_checker=Draft202012Validator.FORMAT_CHECKER)
        for name in [*SEEN, *UNSEEN]
    }

    def ordered(value, rule):
        if isinstance(value, dict):
            order = [key for key in rule["properties"] if key in value]
            return list(value) == order and all(ordered(value[k], rule["properties"][k]) for k in order)
        return all(ordered(one, rule["items"]) for one in value) if isinstance(value, list) else True

    for row in of_kind(every, "json"):
        checks[row["schema"]].validate(row["answer"])
        assert ordered(row["answer"], checks[row["schema"]].schema), row["id"]


def test_an_invalid_date_would_be_found():
    check = Draft202012Validator(
        {"format": "date"}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    assert not check.is_valid("2026-02-30")


def test_strings_are_in_the_text(every):
    for row in of_kind(every, "json"):
        enums = {v for rule in rules(schema_of(row["schema"])) for v in rule.get("enum", ())}
        for key, value in leaves(row["answer"]):
            if not isinstance(value, str) or key in DERIVED or re.fullmatch(r"\d{4}-\d\d-\d\d", value):
                continue
            text = row["text"].lower() if value in enums else row["text"]
            other = PARAPHRASES.get((row["schema"], value))
            if other and row["group"].endswith("/handwritten-train") and re.search(other, text):
                continue
            assert value in text, (row["id"], key, value)


def test_numbers_of_grammar_rows_are_in_the_text(every):
    """As digits or as a word; lengths of time also in hours or years."""
    spans = {60: "1 hour|one hour", 90: "1.5 hours", 120: "2 hours|two hours"}
    for row in of_kind(every, "json"):
        text = row["text"].lower().replace(",", "")
        for key, value in leaves(row["answer"]):
            if isinstance(value, bool) or not isinstance(value, int | float) or row["source"] != "grammar":
                continue
            forms = {f"{value:g}", f"{value:.2f}"} | ({WORDS[value]} if value in range(11) else set())
            forms |= set(spans[value].split("|")) if key == "minutes" and value in spans else set()
            forms |= {f"{value // 12} years"} if key == "term_months" else set()
            forms |= {1: {"alone", "just me"}, 2: {"wife and i"}}.get(value, set()) if key == "passengers" else set()
            assert any(form in text for form in forms), (row["id"], key, value)


def test_dates_are_in_the_text(every):
    """Day and month are written, and the year unless it is 2026."""
    months = [name[:3].lower() for name in MONTHS]
    for row in [*of_kind(every, "json"), *of_kind(every, "xml")]:
        text = row["text"].lower()
        for year, month, day in re.findall(r"\b(\d{4})-(\d\d)-(\d\d)\b", written(row["answer"])):
            assert str(int(day)) in text , row["id"]
            short = rf"\b0?{int(day)}[./] ?0?{int(month)}\b"  # 9.11., 8.8.2026
            assert months[int(month) - 1] in text or month in text or re.search(short, text), row["id"]
            assert year == "2026" or year in text, row["id"]


@pytest.mark.parametrize("name", ["val", "test"])
def test_held_out_texts_do_not_resemble_training(rows, name):
    known = [(shingles(row["text"]), row["schema"]) for row in rows["train"]]
    for row in rows[name]:
        mine = shingles(row["text"])
        assert all(similarity(mine, grams) < ALIKE for grams, schema in known if schema == row["schema"])


def test_near_copies_would_be_found():
    a = "please find two tickets from oslo to cork on the first of may for us"
    assert similarity(shingles(a), shingles(a + " thanks")) > ALIKE


def test_hand_written_training_rows_end_the_file_and_have_their_own_group(rows):
    n = sum(WRITTEN_TRAINING.values())
    assert all(row["source"] == "grammar" for row in rows["train"][:-n])
    for row in rows["train"][-n:]:
        assert (row["source"], row["group"]) == ("handwritten", f"{row['schema']}/handwritten-train")
    assert not {row["text"].lower() for row in rows["train"]} & {row["text"].lower() for row in rows["test"]}


def test_groups_are_disjoint(rows):
    groups = {split: {r["group"] for r in part} for split, part in rows.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]
    assert all(group.startswith(("citation/", "report/")) for group in groups["train"] & groups["val"])
    for name in SEEN:
        assert sum(group.startswith(f"{name}/") for group in groups["train"]) >= 12


@pytest.fixture(scope="module")
def token_count(tokenizer):
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_texts_and_answers_are_short(every, token_count):
    for row in every:
        assert token_count(written(row["answer"])) <= MOST_TOKENS[row["kind"]], row["id"]
        assert token_count(row["text"]) <= MOST_TEXT[row["kind"]], row["id"]


def test_xml_is_well_formed_and_in_order(every):
    order = {"parcel": ["recipient", "weight", "arrives", "express"], "event": ["title", "venue", "day", "price"]}
    for row in of_kind(every, "xml"):
        root = ET.fromstring(row["answer"])
        tags = [child.tag for child in root]
        assert root.tag == row["schema"]
        assert tags == order[root.tag][: len(tags)]
        for child in root:
            if child.tag in ("recipient", "title", "venue", "weight"):
                assert child.text in row["text"], row["id"]
        assert all(value.lower() in row["text"].lower() for value in root.attrib.values())


def facets(name):
    """Path of an element or attribute -> its facets, read from an XSD file (no library needed)."""
    xs = "{http://www.w3.org/2001/XMLSchema}"
    root = ET.parse(HERE / "xsd" / f"{name}.xsd").getroot()
    types = {
        kind.get("name"): [(one.tag.removeprefix(xs), one.get("value")) for one in kind[0]]
        for kind in root.iter(f"{xs}simpleType")
    }
    parts = [*root.iter(f"{xs}attribute"), *(one for one in root.iter(f"{xs}element") if one.get("type"))]
    return {part.get("name"): types.get(part.get("type"), [("pattern", r"\d{4}-\d\d-\d\d")]) for part in parts}


def test_xml_values_keep_the_facets_of_the_xsd(every):
    holds = {
        "minLength": lambda value, bound: len(value) >= int(bound),
        "maxLength": lambda value, bound: len(value) <= int(bound),
        "pattern": lambda value, bound: re.fullmatch(bound, value),
        "minExclusive": lambda value, bound: float(value) > float(bound),
        "minInclusive": lambda value, bound: float(value) >= float(bound),
        "maxInclusive": lambda value, bound: float(value) <= float(bound),
    }
    for row in of_kind(every, "xml"):
        root, known = ET.fromstring(row["answer"]), facets(row["schema"])
        for name, value in [*root.attrib.items(), *((child.tag, child.text) for child in root)]:
            choices = [bound for facet, bound in known[name] if facet == "enumeration"]
            assert not choices or value in choices, row["id"]
            assert all(holds[f](value, bound) for f, bound in known[name] if f != "enumeration"), row["id"]


def test_xml_satisfies_its_xsd(every):
    etree = pytest.importorskip("lxml.etree")
    for name in ("parcel", "event"):
        schema = etree.XMLSchema(etree.parse(str(HERE / "xsd" / f"{name}.xsd")))
        for row in every:
            if row["schema"] == name:
                schema.assertValid(etree.fromstring(row["answer"]))


def test_xsd_files_are_well_formed():
    for path in (HERE / "xsd").glob("*.xsd"):
        assert ET.parse(path).getroot().tag.endswith("schema")


def test_citations_cite_a_passage_that_says_so(every):
    spec = json.loads((HERE / "citation.json").read_text("utf-8"))
    for row in of_kind(every, "citation"):
        passages = dict(re.findall(r"^\[(\d)\] (.+)$", row["text"], re.MULTILINE))
        sentences = re.findall(r".+?\[\d\]\.(?= |$)", row["answer"])
        assert " ".join(one.strip() for one in sentences) == row["answer"]
        assert 2 <= len(passages) <= 4
        assert spec["sentences"][0] <= len(sentences) <= spec["sentences"][1]
        for one in map(str.strip, sentences):
            assert re.fullmatch(spec["sentence_pattern"], one), one
            said, cited = one[:-5].lower(), passages[one[-3]].lower()
            assert set(re.findall(r"\d+", said)) <= set(re.findall(r"\d+", cited)), (row["id"], one)
            if row["source"] == "grammar":
                assert any(cited == claim.lower() for claim in supporting(row["group"], one[:-5])), (row["id"], one)
            else:
                assert len(words(said) & words(cited)) >= len(words(said)) / 2, (row["id"], one)


def supporting(group, sentence):
    """The passages of the grammar that say what the sentence says."""
    things, facts = (citation.FIELDS | citation.HELD_OUT)[group.split("/")[1].removeprefix("test-")]
    for passages, _, claim, values in facts:
        for thing in things:
            for value in values:
                if claim.format(t=thing, v=value) == sentence:
                    yield from (passage.format(t=thing, v=value) for passage in passages)


def test_reports_follow_their_spec(every):
    spec = json.loads((HERE / "report.json").read_text("utf-8"))
    low, high = spec["bullets"]["Findings"]
    states = "|".join(spec["status"])
    pattern = (
        r"## Summary\n[^\n#]+\.\n\n## Findings\n"
        rf"(- [^\n]+\.\n){{{low},{high}}}\n## Next step\n[^\n#]+\.\n\nStatus: ({states})"
    )
    for row in of_kind(every, "report"):
        assert re.fullmatch(pattern, row["answer"]), row["id"]


def test_statuses_are_balanced(rows):
    count = Counter(r["answer"].rsplit(" ", 1)[1] for r in of_kind(rows["train"], "report"))
    assert min(count.values()) >= 15


def test_no_mail_addresses_or_telephone_numbers(every):
    for row in every:
        assert "@" not in row["text"].replace(" @ ", " "), row["id"]
        assert not re.search(r"\+\d|\b0\d{6,}", row["text"]), row["id"]


def test_example_layouts_hold_the_same_rows():
    rows = [(r["prompt"], r["completion"]) for r in read(EXAMPLES / "flights.jsonl")]
    schema = json.loads((EXAMPLES / "flights.schema.json").read_text("utf-8"))
    assert len(set(rows)) == len(rows) == 160
    for question, slots in rows:
        Draft202012Validator(schema).validate(json.loads(slots))
        assert all(v is True or str(v) in question for v in json.loads(slots).values())
    with (EXAMPLES / "flights.csv").open(encoding="utf-8", newline="") as handle:
        table = [(r["question"], r["slots"]) for r in csv.DictReader(handle)]
    alpaca = json.loads((EXAMPLES / "flights_alpaca.json").read_text("utf-8"))
    shared = json.loads((EXAMPLES / "flights_sharegpt.json").read_text("utf-8"))
    assert table == rows[:60]
    assert [(r["instruction"], r["output"]) for r in alpaca] == rows[:60]
    assert [tuple(turn["value"] for turn in r["conversations"]) for r in shared] == rows[:60]
    assert not schema["properties"].keys() & schema_of("flight_request")["properties"].keys()
