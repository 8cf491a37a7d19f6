"""Raw rows: every fault is named with its id, row and turn, and what is merely unusual is left alone."""

import copy
import json

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.data import rows as data
from sft_utils.preflight import rawdata, rawtext
from sft_utils.preflight.contamination import exact_key
from sft_utils.preflight.rawverify import wrong_note
from sft_utils.preflight.record import EvalPlan, RunRecord

LONG = (
    "A baker in Lisbon sells round loaves and long loaves. On Monday she bakes twice as many round "
    "ones as long ones and gives the broken ones away before noon."
)


def ask(question, answer, **more):
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, **more},
    ]


def call(arguments, name="weather", **more):
    function = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [function], **more},
        {"role": "tool", "content": "{}"},
        {"role": "assistant", "content": "Sunny."},
    ]


@pytest.fixture(scope="module")
def look(tokenizer):
    def look(conversations, **fields):
        record = RunRecord(tokenizer=tokenizer, conversations=conversations, **fields)
        return [finding for detector in rawdata.DETECTORS for finding in detector(record)]

    return look


def told(findings):
    """Ids, a small letter for WARN."""
    return [f.id if f.severity == "FAIL" else f.id.lower() for f in findings]


def test_healthy(look, conversations):
    lines = [{"messages": c, "licence": "MIT"} for c in conversations]
    held = [ask("Capital of Chile?", "Santiago"), ask(LONG, "Yes.")]
    assert look(conversations, raw=lines, stored=copy.deepcopy(conversations),
                licences=frozenset({"mit"}), eval_conversations=held) == []  # fmt: skip


def test_every_finding_speaks(look):
    chats = [ask("a?", "nan"), ask("b?", "Ã¼ber"), ask("c?", "<|im_end|>"), [], [{"role": "x"}]]
    for finding in look(chats):
        assert all((finding.what, finding.where, finding.fix, finding.why))
        assert f"row {finding.row}" in finding.where
        assert "\n" not in finding.what


ODD = [None, 3, "text", {}, [None], [3], [[]], ["user"], [{}], [{"role": None}], [{"role": 4}],
       [{"role": ["user"]}], [{"role": "user", "content": None}],
       [{"role": "user", "content": {"a": 1}}, {"role": "assistant", "content": 5}],
       [{"role": "user", "content": [None, 3, {"text": 4}]}, {"role": "assistant", "content": [3]}],
       [{"role": "assistant", "tool_calls": 3}, {"role": "assistant", "tool_calls": [None, {}]}],
       call(None), call(3), call([]), call({}), [{"role": "assistant", "tool_calls": "[{"}],
       ask("\ud800", "\udfff"), ask(float("nan"), float("nan")), ask("####", "<<=>>\n#### 1"),
       ask("a", "<<1/0=2>> <<2(3)=1>> <<((((=5>> <<9**9**9=1>> <<1=2=3>>")]  # fmt: skip


@pytest.mark.parametrize("turns", ["all", "last"])
def test_odd_input_never_raises(look, turns):
    odd = {"messages": ODD, "conversations": [None, {"from": []}], "licence": [3], "meta": 3}
    plan = EvalPlan(eval_texts=("", "\ud800", LONG), train_texts=("", LONG))
    for stored in (ODD, ODD[::-1], ODD[:3]):
        assert look(ODD, turns=turns, raw=[odd, None, 3, *ODD[2:]], stored=stored, evaluation=plan,
                    eval_conversations=ODD, schema={"type": "object"},
                    licences=frozenset({"MIT"}))  # fmt: skip
        look([], raw=ODD, stored=ODD, evaluation=plan)


def test_no_template(tokenizer, conversations):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    record = RunRecord(tokenizer=bare, conversations=[*conversations, ask("a <|im_end|>", "b")])
    assert told(f for d in rawdata.DETECTORS for f in d(record)) == ["C19"]


class TestRoles:
    @pytest.mark.parametrize(
        ("user", "assistant"),
        [("human", "gpt"), ("User", "Assistant"), (" user", "assistant"), ("USER", "ASSISTANT"),
         ("prompter", "assistant"), ("user", "model"), ("user", "ai"), ("customer", "agent"),
         ("question", "answer")],
    )  # fmt: skip
    def test_named(self, look, user, assistant):
        chat = [{"role": user, "content": "a"}, {"role": assistant, "content": "b"}]
        found = look([ask("x", "y"), chat])
        assert told(found) == ["C18"]
        assert found[0].row == 1
        assert found[0].turn == (0 if user != "user" else 1)

    def test_keys_of_sharegpt(self, look):
        chat = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        found = look([chat])
        assert told(found) == ["C18"]
        assert "['from', 'value']" in found[0].what

    def test_file_of_sharegpt(self, look):
        lines = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
        renamed = [[{"role": t["from"], "content": t["value"]} for t in lines[0]["conversations"]]]
        assert told(look(renamed, raw=lines)) == ["C18"], "one finding, not two"
        assert told(look([ask("a", "b")], raw=lines)) == ["c18"], "converted by hand"
        legal = [{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}]
        assert look([ask("a", "b")], raw=legal) == []

    def test_a_role_the_template_knows(self, tokenizer):
        known, dropping = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
        known.chat_template = "{% set r = ['developer', 'observation'] %}" + known.chat_template
        dropping.chat_template = (
            "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
            "{{ m.content }}{% endif %}{% endfor %}"
        )
        chat = [{"role": "developer", "content": "d"}, *ask("a", "b")]
        other = [*ask("a", "b"), {"role": "observation", "content": "d"}, *ask("a", "b")]

        def found(tokenizer, chat):
            return told(rawdata.roles(RunRecord(tokenizer=tokenizer, conversations=[chat])))

        assert found(known, chat) == found(known, other) == []
        assert found(tokenizer, chat) == ["c18"], "printed as text: may be meant"
        assert found(dropping, chat) == ["C18"], "lost"


class TestOrder:
    @pytest.mark.parametrize(
        ("order", "expected"),
        [("ua", []), ("sua", []), ("uaua", []), ("suaua", []), ("uata", []), ("uattaua", []),
         ("dua", []), ("uatata", []),
         ("", ["D7"]), ("u", ["D7"]), ("s", ["D7"]), ("su", ["D7"]), ("uaa", ["D7"]),
         ("uua", ["D7"]), ("uau", ["D7"]), ("uat", ["D7"]), ("suuaa", ["D7"]),
         ("aua", ["d7"]), ("sa", ["d7"]), ("uasua", ["d7"]), ("uta", ["d7"])],
    )  # fmt: skip
    def test_grammar(self, tokenizer, order, expected):
        names = {"u": "user", "a": "assistant", "s": "system", "t": "tool", "d": "developer"}
        chat = [{"role": names[letter], "content": f"text {k}"} for k, letter in enumerate(order)]
        record = RunRecord(tokenizer=tokenizer, conversations=[ask("a", "b"), chat])
        found = list(rawdata.turn_grammar(record))
        assert told(found) == expected
        assert all(f.row == 1 for f in found)

    def test_turn_is_named(self, look):
        chat = [*ask("a", "b"), {"role": "assistant", "content": "c"}]
        assert [(f.row, f.turn) for f in look([chat])] == [(0, 2)]

    def test_two_assistant_messages_of_one_turn(self, tokenizer):
        chat = [*call("{}")[:2], {"role": "assistant", "content": "Sunny."}]
        record = RunRecord(tokenizer=tokenizer, conversations=[chat])
        assert told(rawdata.turn_grammar(record)) == ["d7"]


class TestControlTokens:
    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    @pytest.mark.parametrize(
        "text", ["<|im_end|>", "a<|im_start|>b", "[<|endoftext|>]", "<<|im_end|>"]
    )
    def test_named(self, look, role, text):
        chat = [{"role": "system", "content": "s"}, *ask("a", "b")]
        k = next(i for i, m in enumerate(chat) if m["role"] == role)
        chat[k] = {**chat[k], "content": f"look: {text} !"}
        found = look([ask("x", "y"), chat])
        assert told(found) == ["C19"]
        assert (found[0].row, found[0].turn) == (1, k)
        assert "control token" in found[0].what

    @pytest.mark.parametrize(
        ("chat", "kind"),
        [
            (ask("a?", "b", reasoning_content="ends with <|im_end|>."), "reasoning"),
            (ask("a?", "b", thinking="ends with <|im_end|>."), "reasoning"),
            (call({"city": "<|im_end|>"}), "tool call"),
            (call('{"city": "Oslo <|im_end|>"}'), "tool call"),
            (call({"<|im_end|>": 1}), "tool call"),
            (call({"city": "Oslo"}, name="<|im_end|>"), "tool call"),
        ],
    )
    def test_named_in_thoughts_and_calls(self, look, chat, kind):
        found = [f for f in look([chat]) if f.id == "C19"]
        assert [(f.severity, f.turn) for f in found] == [("FAIL", 1)]
        assert f"the assistant {kind} holds '<|im_end|>'" in found[0].what

    def test_marks_that_teach_thoughts_and_calls_are_legal_there(self, tokenizer):
        marked = copy.deepcopy(tokenizer)
        marked.add_special_tokens({"extra_special_tokens": ["<think>", "<tool_call>"]})
        chats = [ask("a?", "b", reasoning_content="<think>hm"), call({"city": "<tool_call>"})]
        record = RunRecord(tokenizer=marked, conversations=chats)
        assert told(rawtext.control_tokens(record)) == []

    @pytest.mark.parametrize(
        "text",
        ["<div>", "a[i] < b[j] > c", "</s>", "<|im_sep|>", "|im_end|", "< |im_end|>", "<|im_end| >",
         "<think>\nhm\n</think>\nok", "List<String>", "[INST]", "im_end", "<|IM_END|>"],
    )  # fmt: skip
    def test_ordinary_text(self, look, text):
        assert look([ask(f"What is {text}", f"This: {text}")]) == []

    def test_a_token_that_is_no_marker_warns(self, look):
        found = look([ask("cp <filename> /tmp", "Copied.")])
        assert told(found) == ["c19"]

    def test_split_tokens_are_text(self, tokenizer):
        split = copy.deepcopy(tokenizer)
        split.split_special_tokens = True
        record = RunRecord(tokenizer=split, conversations=[ask("a <|im_end|> b", "c")])
        real = 2 in split("a <|im_end|> b", add_special_tokens=False)["input_ids"]
        assert told(rawtext.control_tokens(record)) == (["C19"] if real else [])


class TestEncoding:
    @pytest.mark.parametrize(
        "text",
        ["naïve façade", "Größe für Zürich", "Привет, мир", "日本語です", "Ελληνικά", "ÇA VA, NESTLÉ®",
         "AMANHÃ…", "„SCHÖ“", "IRMÃ”", "5 Å–10 Å, 3 Å²", "H = Â² + Â·B̂", "ÀÁÂÃÄÅÆÇÈÉ", "coborâ…»",
         "fiancé”—", "MAÇÃ\xa0DOCE", "ð and þ", "👩‍👩‍👧 🙂", "x × y ÷ z ± 1", "„Ä“, „Ö“, „Ü“", "10 °C ²",
         "ÄÖÜß", "«CAFÉ»", "São Paulo – “olá”", "עברית", "हिन्दी", "\ufeffBOM", "¿Qué? ¡Sí!"],
    )  # fmt: skip
    def test_right_text(self, look, text):
        assert look([ask(text, f"{text} is fine")]) == []

    @pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
    @pytest.mark.parametrize(
        "text",
        ["für", "café", "à la carte", "São Paulo", "25 °C", "“quoted”", "it’s", "a – b", "5 €",
         "Привет", "日本語", "שלום", "🙂", "Łódź škoda", "Pérez", "ÉCOLE", "naïve", "señor", "kūrė"],
    )  # fmt: skip
    def test_decoded_twice(self, look, text, codec):
        damaged = text.encode().decode(codec, "ignore" if codec == "cp1252" else "strict")
        found = look([ask("a", "b"), ask("What?", damaged)])
        assert told(found) == ["D5"], damaged
        assert (found[0].row, found[0].turn) == (1, 1)

    def test_lost(self, look):
        assert told(look([ask("Z\ufffdrich", "a")])) == ["D5"]
        assert told(look([ask("a", "\ud83d b")])) == ["D5"]
        assert told(look([ask("Code?", "text.replace('\ufffd', '')")])) == ["d5"]

    def test_a_text_about_encodings_warns(self, look):
        assert told(look([ask("Why do I see cafÃ© for café?", "UTF-8 read as Latin-1.")])) == ["d5"]


class TestAnswers:
    @pytest.mark.parametrize("text", ["", " \n", "\u200b\ufeff ", None, [], float("nan")])
    def test_empty(self, look, text):
        found = look([ask("a?", "b"), ask("How far?", text)])
        assert told(found) == ["D3"]
        assert (found[0].row, found[0].turn) == (1, 1)

    @pytest.mark.parametrize("text", ["N/A", "null", "None", "-", "...", "nan", "NaN"])
    def test_placeholder_warns(self, look, text):
        assert told(look([ask("How far?", text)])) == ["d3"]

    def test_not_empty(self, look):
        asked = ask("Write N/A if there is none.", "N/A")
        python = ask("What does float('nan') print?", "nan")
        picture = ask("Draw.", [{"type": "image"}])
        assert look([asked, python, picture, ask("Digit?", "0"), ask("Sign?", "?"), call("{}")]) == []
        assert told(look([ask(" ", "Hello.")])) == ["d3"]
        assert told(look([ask("a?", "", reasoning_content="hm")])) == ["d3"]

    def test_only_trained_turns(self, look):
        chat = [*ask("a?", ""), *ask("b?", "c")]
        assert told(look([chat])) == ["D3"]
        assert look([chat], turns="last") == []

    def test_boilerplate(self, look):
        said = ["As an AI language model, I cannot.", "I’m sorry, but I can’t assist with that.",
                "Als KI-Sprachmodell kann ich das nicht."]  # fmt: skip
        fine = ["The model of the car is old.", "I am sorry, the parcel is late.",
                "AI is a field of study.", "She can't help laughing."]  # fmt: skip
        assert told(look([ask(f"{i}?", text) for i, text in enumerate(said)])) == ["d4"] * 3
        assert look([ask(f"{i}?", text) for i, text in enumerate(fine)]) == []

    def test_one_answer_for_all(self, look):
        found = look([ask(f"Question {i}?", LONG) for i in range(8)])
        assert told(found) == ["d4"]
        assert found[0].count == 8
        labels = [ask(f"Question {i}?", "billing department") for i in range(8)]
        assert look(labels) == []

    def test_leaked_label(self, look):
        found = look([ask("My lamp is broken.\nLabel: repairs", "repairs")])
        assert told(found) == ["d6"]
        assert found[0].turn == 0
        fine = [ask("Is it red or blue?", "blue"), ask("A: Rome\nB: Paris", "Paris"),
                ask("Repeat: the cat sat down", "the cat sat down"),
                ask("Answer: yes or no?", "no"), ask("Who wrote it? Text: by Jane Austen.", "Jane Austen")]  # fmt: skip
        assert look(fine) == []

    def test_length_skew(self, look):
        rows = [ask(f"Question {i}?", f"Answer {i}.") for i in range(40)]
        assert look(rows) == []
        found = look([*rows, ask("Story?", "word " * 4000)])
        assert told(found) == ["d8"]
        assert found[0].row == 40
        assert look([*rows[:5], ask("Story?", "word " * 4000)]) == [], "too few rows to judge"

    def test_conflict(self, look):
        found = look([ask("Which?", "a"), ask("Which?", "b"), ask("Which?", " a")])
        assert told(found) == ["d11"]
        assert found[0].row == 1
        system = [{"role": "system", "content": "other"}, *ask("Which?", "b")]
        assert look([ask("Which?", "a"), system]) == []


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class TestStructure:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [('{"n": 1}', []), (' {"n": 1}\n', []), ("<think>\nhm\n</think>\n\n{\"n\": 1}", []),
         ('```json\n{"n": 1}\n```', ["d9"]), ('{"n": 1', ["D9"]), ("{'n': 1}", ["D9"]),
         ('{"n": "1"}', ["D9"]), ("{}", ["D9"]), ("[1]", ["D9"]), ('{"n": NaN}', ["D9"]),
         ('Sure! {"n": 1}', ["D9"])],
    )  # fmt: skip
    def test_schema(self, look, answer, expected):
        found = look([ask("a", '{"n": 0}'), ask("b", answer)], schema=SCHEMA)
        assert told(found) == expected
        assert all((f.row, f.turn) == (1, 1) for f in found)
        assert look([ask("b", answer)]) == [], "no schema declared"

    def test_broken_schema(self, look):
        found = look([ask("a", "{}")], schema={"type": "objekt"})
        assert told(found) == ["D9"]
        assert found[0].where == "schema"
        assert look([ask("a", "{}")], schema={"$ref": "https://example.org/x.json"}) == []

    def test_json_by_majority(self, look):
        rows = [ask(f"{i}", json.dumps({"n": i})) for i in range(30)]
        assert told(look([*rows, ask("x", '{"n": ')])) == ["d9"]
        assert look([ask(f"{i}", f"{{% if {i} %}}") for i in range(30)]) == []

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [({"a": 1}, []), ('{"a": 1}', []), ("{}", []), (None, []), ('{"a": ', ["D9"]),
         ("Paris", ["D9"]), ("[1]", ["D9"]), ("", ["d9"])],
    )  # fmt: skip
    def test_tool_calls(self, look, arguments, expected):
        assert told(look([call(arguments)])) == expected
        assert told(look([call(arguments)], turns="last")) == []


class TestArithmetic:
    @pytest.mark.parametrize(
        "note",
        ["48/2=24", "10/3=3.33", "10/3=3", "7/2=4", "7/2=3", "20*5%=1", "1,200+300=1,500", "$5*2=$10",
         ".5*4=2", "5*2=10=10", "100*1.1=110.00000000000001", "5/20*100=25%", "5/20=25%", "20+20%=24", "100%-20%=80%", "1 1/2*4=6", "8/2=4.0", "3*.33=1",
         "-3+5=2",
         "(2+3)*4=20", "x*2=10", "2*3=six", "cout=1", "5=5", "2/3*60=40", "1/3=0.33", "05*2=10"],
    )  # fmt: skip
    def test_right_or_unknown(self, note):
        assert wrong_note(note) == ""

    @pytest.mark.parametrize("note", ["48/2=25", "2+2=5", "10/3=3.5", "1,200+300=1,600", "20*5%=3",
                                      "5*2=10=11", "7/2=5", "3*3=9.5"])  # fmt: skip
    def test_wrong(self, look, note):
        assert wrong_note(note)
        found = look([ask("Sum?", f"That is <<{note}>>.")])
        assert told(found) == ["D10"]
        assert note in found[0].what

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [("He has 3+4=<<3+4=7>>7 apples.\n#### 7", []), ("He has 3+4=7.\n#### 7", []),
         ("He has 3+4=7.\n#### 9", ["D10"]), ("He has 3+4=<<3+4=7>>7 apples.\n#### 12", ["D10"]),
         ("It is 7/2=3.5, rounded up.\n#### 4", []), ("The share is 1/4=0.25.\n#### 25", []),
         ("12*2=24, and twice that for two.\n#### 48", ["d10"]), ("It loses 2-7=-5.\n#### 5", []),
         ("First 3+4=7. Of these 5 stay.\n#### 5", []), ("No calculation.\n#### 9", []),
         ("Sum 1000+200=1,200.\n#### 1200", []), ("# Title\n#### 3\nA section with 1+1=2.", []),
         ("It costs 3*4=$12.\n#### $12", [])],
    )  # fmt: skip
    def test_final_number(self, look, answer, expected):
        assert told(look([ask("How many?", answer)])) == expected


class TestFiles:
    def test_licences(self, look):
        lines = [{"licence": "mit"}, {"license": "CC BY 4.0"}, {"metadata": {"license": ["MIT"]}},
                 {"licence": "GPL-3.0"}, {"licence": None}, {}, {"license": ["MIT", "GPL-3.0"]}]  # fmt: skip
        chats = [ask(f"{i}", "a") for i in range(7)]
        allowed = frozenset({"MIT", "cc-by-4.0"})
        found = look(chats, raw=lines, licences=allowed)
        assert told(found) == ["D12"] * 4
        assert [f.row for f in found] == [3, 4, 5, 6]
        assert look(chats, raw=lines) == [], "none declared: any"

    def test_layouts(self, look):
        chat = ask("a", "b")
        chats = [chat] * 3
        found = look(chats, raw=[{"messages": chat}, {"prompt": "a", "completion": "b"}, {"messages": chat}])
        assert told(found) == ["D15"]
        assert found[0].row == 1
        same = [{"messages": chat}, {"messages": chat, "id": 3}, {"messages": chat, "text": "a"}]
        assert look(chats, raw=same) == []
        assert look(chats, raw=[{"mail": "a", "ticket": i} for i in range(3)]) == [], "own layout"
        united = [{"messages": None, "text": "a"}, {"messages": chat, "text": None}]
        assert told(look(chats[:2], raw=united)) == ["D15"]
        types = [{"prompt": "a", "completion": "b"}, {"prompt": chat[:1], "completion": chat[1:]}]
        assert told(look(chats[:2], raw=types)) == ["D15"]

    def test_arrow(self, look):
        from datasets import Dataset

        chats = [call({"city": "Paris"}), call({"x": 1, "y": 2}, name="add"), ask("a", "b")]
        lines = [{"messages": c} for c in chats]
        stored = [row["messages"] for row in Dataset.from_list(lines)]
        found = look(chats, stored=stored)
        assert told(found) == ["D13"] * 2
        assert (found[0].row, found[0].turn) == (0, 1)
        assert "'x' = null" in found[0].what
        assert told(look(stored, raw=lines)) == ["D13"] * 2, "read back, compared with the file"
        assert told(look(stored)) == ["d13"] * 2, "nothing to compare with"
        kept = [row["messages"] for row in Dataset.from_list(lines, on_mixed_types="use_json")]
        assert look(chats, stored=kept) == []

    def test_stored_in_another_form(self, look):
        chats = [call({"city": "Paris"}), ask("a", "b")]
        text = copy.deepcopy(chats)
        text[0][1]["tool_calls"][0]["function"]["arguments"] = '{"city": "Paris"}'
        nulls = [[{"name": None, **m} for m in c] for c in chats]
        whole = copy.deepcopy(chats)
        whole[0][1]["tool_calls"] = json.dumps(whole[0][1]["tool_calls"])
        for stored in (text, nulls, whole, [tuple(c) for c in chats], chats[:1]):
            assert look(chats, stored=stored) == []

    def test_stored_text_changed(self, look):
        chats = [ask("a", "b"), ask("c", "d ")]
        found = look(chats, stored=[chats[0], ask("c", "d")])
        assert told(found) == ["D13"]
        assert found[0].row == 1

    def test_nulls_that_the_template_prints(self, tokenizer):
        strict = copy.deepcopy(tokenizer)
        strict.chat_template = (
            "{% for m in messages %}{% if m.name is defined %}[{{ m.name }}]{% endif %}"
            "{{ m.content }}{% endfor %}"
        )
        chats = [ask("a", "b")]
        stored = [[{**m, "name": None} for m in c] for c in chats]
        record = RunRecord(tokenizer=strict, conversations=chats, stored=stored)
        assert told(f for d in rawdata.DETECTORS for f in d(record)) == ["D13"]


class TestContamination:
    def test_equal(self, look):
        noisy = f"  {LONG.upper().replace('.', '!!')} "
        found = look([ask("a?", "b"), ask(noisy, "c")], eval_conversations=[ask(LONG, "d")])
        assert told(found) == ["D1"]
        assert (found[0].row, found[0].turn) == (1, 0)
        assert "eval row 0" in found[0].what
        plan = EvalPlan(eval_texts=(LONG,))
        assert told(look([ask(noisy, "c")], evaluation=plan)) == ["D1"]
        plan = EvalPlan(eval_texts=(LONG,), train_texts=(noisy,))
        assert told(look([], evaluation=plan)) == ["D1"]

    def test_exact_key_keeps_signs(self):
        assert exact_key("What is 2+2?") != exact_key("What is 2-2?")
        assert exact_key("3.5") != exact_key("35")
        assert exact_key("C++, please") != exact_key("C#, please")
        assert exact_key("“Why,” he said.") == exact_key("why HE  said")

    def test_short_prompts_warn(self, look):
        assert told(look([ask("Hi!", "Hello.")], eval_conversations=[ask("hi", "Hey.")])) == ["d1"]

    def test_one_question_about_many_documents(self, look):
        def about(document):
            return [{"role": "system", "content": document}, *ask(f"{LONG} What is it about?", "It.")]

        train = [about(f"Document {i} about {i}.") for i in range(4)]
        assert look(train, eval_conversations=[about("Document 9.")]) == []
        assert told(look(train, eval_conversations=[about("document 2 about 2")])) == ["D1"]

    def test_another_system_prompt(self, look):
        train = [[{"role": "system", "content": "Be kind."}, *ask(LONG, "a")]]
        assert told(look(train, eval_conversations=[ask(LONG, "a")])) == ["D1"]

    def test_near(self, look):
        reworded = LONG.replace("baker", "butcher")
        assert told(look([ask(reworded, "a")], eval_conversations=[ask(LONG, "b")])) == ["d1"]
        numbers = [LONG.replace("Monday", f"day {n}") for n in (3, 4)]
        held = [ask(numbers[1], "b")]
        assert "D1" not in told(look([ask(numbers[0], "a")], eval_conversations=held))

    def test_piece(self, look):
        rows = [ask(f"Question {i}?", f"Answer {i}.") for i in range(6)]
        inside = ask("Give me an exercise.", f"Well, take this. {LONG} What do you think?")
        found = look([*rows, inside], evaluation=EvalPlan(eval_texts=(LONG,)))
        assert told(found) == ["D2"]
        assert (found[0].row, found[0].turn) == (6, 1)
        part = ask("Exercise?", " ".join(LONG.split()[:12]))
        assert look([*rows, part], evaluation=EvalPlan(eval_texts=(LONG,))) == []

    def test_shared_templates_are_no_leak(self, look):
        rule = "Read the mail below and say in one word to which of our five departments it belongs"
        train = [ask(f"{rule}: mail number {i} about {'abcdefgh'[i]} things", "a") for i in range(8)]
        held = [ask(f"{rule}: a letter of another kind {k}", "b") for k in ("x", "y")]
        assert look(train, eval_conversations=held) == []
        assert look(train, eval_conversations=held[:1]) == []
        system = [[{"role": "system", "content": LONG}, *ask(f"{i}?", "a")] for i in range(3)]
        test = [[{"role": "system", "content": LONG}, *ask("Anything else?", "a")]]
        assert look(system, eval_conversations=test) == []


def test_a_file_with_known_defects(tokenizer):
    """The raw file of notebook 01: no clean row is refused, the planted defects are."""
    folder = ROOT / "data" / "tickets"
    key = {row["line"]: row["defect"] for row in data.rows_of(folder / "answer_key.jsonl")}
    lines = [line for line in data.read_jsonl(folder / "raw.jsonl") if line.row]
    record = RunRecord(
        tokenizer=tokenizer,
        conversations=[line.row.get("messages") for line in lines],
        raw=[line.row for line in lines],
        schema=json.loads((folder / "schema.json").read_text("utf-8")),
        licences=frozenset({"CC-BY-4.0", "CC0-1.0", "Apache-2.0", "MIT"}),
        eval_conversations=[row["messages"] for row in data.rows_of(folder / "test.jsonl")],
    )
    found: dict[str, set[str]] = {}
    caught: dict[str, set[int]] = {}
    for detector in rawdata.DETECTORS:
        for finding in detector(record):
            number = lines[finding.row].number
            defect = key.get(number, "none")
            caught.setdefault(defect, set()).add(number)
            if finding.severity == "FAIL":
                found.setdefault(finding.id, set()).add(defect)
    assert all("none" not in defects for defects in found.values())
    assert found["D5"] == {"mojibake"}
    assert found["D12"] == {"foreign_licence"}
    assert found["C18"] == {"wrong_roles"}
    planted = {number: defect for number, defect in key.items() if number in
               {line.number for line in lines}}  # fmt: skip
    for defect in ("mojibake", "empty", "wrong_roles", "foreign_licence", "schema_violation",
                   "invalid_json_answer", "leakage_exact"):  # fmt: skip
        assert caught[defect] == {number for number, d in planted.items() if d == defect}
