"""The benchmark's own ground: tokenizers are the right ones, healthy runs are healthy."""

import copy
from pathlib import Path

import pytest

from sft_utils.errors import ModelError
from sft_utils.masks.chat import oracle
from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.collated import batch_rows
from tests.mutation import clean, conversations, families, frame, probes, subjects, vocabularies


@pytest.fixture(scope="module")
def built():
    return families.available()


@pytest.fixture(scope="module")
def by_name(built):
    return {f.name: f for f in built[0]}


@pytest.fixture(scope="module")
def clean_set():
    left_out = {}
    return list(clean.clean_records(left_out=left_out)), left_out


def test_every_family_is_there_or_named_with_its_reason(built):
    found, absent = built
    names = [f.name for f in found]
    assert len(set(names)) == len(names)
    wanted = {"smollm2", *families.REAL, *(f"{n} (synthetic)" for n in families.SYNTHETIC)}
    assert {*names, *absent} == wanted
    assert len(families.SYNTHETIC) >= 6
    assert all("requirements/tokenizers.txt" in reason for reason in absent.values())


def test_a_family_can_be_used(built):
    for family in built[0]:
        tokenizer = family.tokenizer
        assert tokenizer.is_fast, family.name
        assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id), family.name
        assert family.stops[0] == tokenizer.eos_token_id
        assert None not in family.stops
        assert probes.first_stop(tokenizer, family.kwargs) == tokenizer.eos_token, family.name
        assert "incremental" in family.traits, family.name


def test_traits_are_what_is_known_about_the_families(by_name):
    known = {
        "smollm2": {"system", "verbatim"},
        "qwen": {"system", "tools", "verbatim"},
        "gemma3 (synthetic)": {"bos", "adds_bos", "system", "parts"},
        "llama3": {"bos", "adds_bos", "system"},
        "mistral-tekken": {"bos", "adds_bos", "system", "verbatim"},
        "deepseek": {"bos", "system", "tools", "tool_text", "strips_think", "verbatim"},
        "gemma (synthetic)": {"bos", "adds_bos"},
    }
    for name, wanted in known.items():
        if name in by_name:
            assert by_name[name].traits - {"incremental"} == wanted, name


def test_a_wrong_vocabulary_is_refused(by_name):
    if "qwen" not in by_name:
        pytest.skip("the Qwen vocabulary is not installed")
    source = vocabularies.SOURCES["qwen"]
    tokenizer = copy.deepcopy(by_name["qwen"].tokenizer)
    assert vocabularies.proved(tokenizer, source, "qwen") is tokenizer
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.add_tokens(["<one more>"])
    with pytest.raises(ModelError, match="tokens instead of"):
        vocabularies.proved(tokenizer, source, "qwen")
    with pytest.raises(ModelError, match="published are"):
        vocabularies.proved(by_name["smollm2"].tokenizer,
                            vocabularies.Source(package="", file="", build=None, size=49_152,
                                                proof={"Hello!": (1, 2)}), "other")  # fmt: skip


def test_an_absent_wheel_is_no_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_TOKENIZERS", str(tmp_path))
    assert families.find_wheel_file("dashscope", "dashscope/resources/qwen.tiktoken") is None
    with pytest.raises(ModelError, match="requirements/tokenizers.txt"):
        vocabularies.vocabulary("qwen")


def test_pins_name_their_user_and_licence():
    text = (Path(__file__).parents[3] / "requirements/tokenizers.txt").read_text()
    lines = [x for x in text.splitlines() if x and not x.startswith("#")]
    assert {x.split("==")[0] for x in lines} == {s.package for s in vocabularies.SOURCES.values()}
    assert all("  # " in x and ";" in x for x in lines)


def test_six_subjects_of_every_family(built):
    found = list(subjects.subjects(built[0]))
    assert len(found) == 6 * len(built[0])
    places = [(s.family, s.layout, s.packed) for s in found]
    assert len(set(places)) == len(places)
    for s in found:
        assert frame.is_packed(s.record) == s.packed
        assert len(frame.rows_of(s.record)) == len(s.record.conversations) == len(s.record.raw)


def test_healthy_labels_by_three_ways(built):
    """Prefixes, sentinels and the served prompt agree on what is trained in every subject."""
    for s in subjects.subjects(built[0]):
        family = next(f for f in built[0] if f.name == s.family)
        for messages, row in zip(s.record.conversations, frame.rows_of(s.record), strict=True):
            served = probes.served_row(family.tokenizer, messages, stops=family.stops,
                                       kwargs=family.kwargs, turns=s.record.turns)  # fmt: skip
            assert served == row, (s.family, s.layout, messages[0])
            if s.record.turns == "all":
                truth = oracle(family.tokenizer, messages)
                assert [int(x != IGNORE) for x in row["labels"]] == truth.mask, s.family


def test_the_server_gives_the_beginning_of_every_row(built):
    for s in subjects.subjects(built[0]):
        if s.layout == "messages" and not s.packed:
            rows = frame.rows_of(s.record)
            for messages, row in zip(s.record.conversations, rows, strict=True):
                prompt = s.record.serve(messages[:-1])
                assert row["input_ids"][: len(prompt)] == prompt


def test_a_model_on_request(by_name):
    (first, *_) = subjects.subjects([by_name["smollm2"]], with_model=True)
    model = first.record.model
    assert any(p.requires_grad for p in model.parameters())
    assert set(model.generation_config.eos_token_id) == first.record.stops
    loss = model(**first.record.train_batches[0]).loss
    assert loss.isfinite()


def test_tools_on_request(by_name):
    qwen = by_name.get("qwen") or by_name["lfm2_2_5 (synthetic)"]
    plain = next(subjects.subjects([qwen])).record
    more = next(subjects.subjects([qwen], with_tools=True)).record
    assert len(more.conversations) > len(plain.conversations)
    assert any(m.get("tool_calls") for c in more.conversations for m in c)


def test_the_clean_set_is_large_and_its_names_are_unique(clean_set):
    names = [name for name, _ in clean_set[0]]
    assert len(names) >= 300
    assert len(set(names)) == len(names)
    assert len({n.split("/")[0] for n in names if n.startswith("trl ")}) >= 40


def test_what_was_left_out_says_why(clean_set):
    reasons = clean_set[1]
    assert all(reasons.values())
    cannot = {n for n in reasons if n.startswith("trl ")}
    assert any("idefics3" in n for n in cannot), "renders lists of parts only"


def test_every_clean_row_trains_its_answers_and_nothing_of_the_prompt(clean_set):
    for name, record in clean_set[0]:
        rows = [row for batch in record.train_batches for row in batch_rows(batch)]
        assert len(rows) == len(record.conversations), name
        spoken = {role: [probes.words(m) for c in record.conversations for m in c
                         if m["role"] == role] for role in ("user", "assistant")}  # fmt: skip
        text = ""
        for ids, labels in rows:
            trained = [i for i, x in zip(ids, labels, strict=True) if x != IGNORE]
            assert trained == [x for x in labels if x != IGNORE], name
            stop = trained[-1] in record.stops
            assert stop or "loss to the end of the row" in name, name
            text += record.tokenizer.decode(trained)
        answers = "\n".join(spoken["assistant"])
        asked = [q for q in spoken["user"] if len(q) > 12 and q not in answers]
        assert not [q for q in asked if q in text], name
        if record.turns == "all":
            # decoders may compose accents and drop a space in front; ASCII words come back
            said = [a.strip() for a in spoken["assistant"] if a.isascii()]
            assert all(a in text for a in said), name


def test_runs_that_differ_in_settings(clean_set):
    runs = {name: record for name, record in clean_set[0] if name.startswith("run/")}
    assert len(runs) >= 25
    assert {r.arguments.learning_rate for r in runs.values() if r.arguments} >= {2e-5, 1e-4, 4e-4}
    models = [r.model for r in runs.values() if r.model is not None]
    assert len(models) >= 5
    assert all(any(p.requires_grad for p in m.parameters()) for m in models)


def test_flavours_cover_the_known_oddities():
    assert len(conversations.FLAVOURS) >= 30
    assert {"tools", "white space", "left padding", "empty system", "reasoning inline"} <= set(
        conversations.FLAVOURS
    )
