"""Every fault of the chat template is named, and legal rows and templates are left alone."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from sft_utils.masks import chat
from sft_utils.preflight import RunRecord
from sft_utils.preflight.sides import sample, trl_templates, trl_twin
from sft_utils.preflight.templates import DETECTORS

USER = {"role": "user", "content": "How old is the oak?"}
ANSWER = {"role": "assistant", "content": "Ninety years."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "look_up", "arguments": {"tree": "the oak"}}}
    ],
}
RESULT = {"role": "tool", "name": "look_up", "content": '{"age": "ninety", "quote": "a \\"b\\""}'}
SYSTEM = {"role": "system", "content": "Answer as a forester."}


def thought(text, answer):
    return {"role": "assistant", "content": f"<think>\n{text}\n</think>\n\n{answer}"}


@pytest.fixture
def record(tokenizer, conversations):
    return RunRecord(
        tokenizer=tokenizer,
        conversations=conversations,
        generation={"eos_token_id": [tokenizer.eos_token_id]},
        serve=lambda messages: chat.prompt_ids(tokenizer, messages),
    )


@pytest.fixture
def edited(tokenizer):
    """The tokenizer with parts of its template exchanged."""

    def edit(*changes, template=None):
        other = copy.copy(tokenizer)
        text = template or tokenizer.chat_template
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        other.chat_template = text
        return other

    return edit


def found(record):
    return [f for detector in DETECTORS for f in detector(record)]


def ids(record, severity="FAIL"):
    return [f.id for f in found(record) if f.severity == severity]


def the(record, code):
    """The worst finding with an id, checked for what every finding has to say."""
    finding, *_ = sorted((f for f in found(record) if f.id == code), key=lambda f: f.severity)
    assert all(getattr(finding, name) for name in ("what", "where", "fix", "why"))
    return finding


def test_healthy(record):
    assert found(record) == []
    assert found(RunRecord(tokenizer=record.tokenizer, conversations=[])) == []


def test_no_template_is_said(record):
    other = copy.copy(record.tokenizer)
    other.chat_template = None
    finding = the(record.change(tokenizer=other), "C0")
    assert finding.severity == "WARN"
    assert finding.count == 6


def test_rows_that_a_template_refuses_are_said(record, edited):
    other = edited(template="{{ raise_exception('system role not supported') }}")
    finding = the(record.change(tokenizer=other), "C0")
    assert (finding.severity, finding.row, finding.count) == ("WARN", 0, 6)
    assert "cannot be checked" in finding.what
    assert "system role not supported" in finding.what


# --- markers and the end of an answer


def test_template_of_another_family(record, edited):
    other = edited(
        ("<|im_end|>", "<|eot_id|>"), ("<|im_start|>", "<|start_header_id|>")
    )
    finding = the(record.change(tokenizer=other), "C1")
    assert finding.severity == "FAIL"
    assert "'<|eot_id|>'" in finding.what
    assert "no token ends an answer" in finding.what
    assert "C5" not in ids(record.change(tokenizer=other)), "one cause, one id"


def test_header_in_plain_text_with_a_real_end_is_a_judgement(record, edited):
    other = edited(("<|im_start|>", "<|turn|>"))
    finding = the(record.change(tokenizer=other), "C1")
    assert finding.severity == "WARN"
    assert ids(record.change(tokenizer=other)) == []


def test_bracket_markers_of_the_first_mistral_are_legal(record, edited):
    other = copy.deepcopy(record.tokenizer)
    other.bos_token = "<s>"
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    rows = [[USER, ANSWER]]
    assert "C1" not in {f.id for f in found(record.change(tokenizer=other, conversations=rows))}


def test_answer_without_stop_token(record, edited):
    other = edited(("message['content'] + '<|im_end|>'", "message['content']"))
    finding = the(record.change(tokenizer=other), "C5")
    assert (finding.severity, finding.row, finding.turn, finding.count) == ("FAIL", 0, 1, 6)


def test_a_header_at_which_serving_stops_ends_a_turn(record, edited):
    """GLM's model stops at <|user|>, which its template writes as the next header."""
    last = "{% if loop.last %}<|im_end|>{% endif %}"
    other = edited(
        template="{% for m in messages %}{{ '<|im_start|>' }}{{ m.role }}\n{{ m.content }}"
        + last + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )  # fmt: skip
    rows = [[USER, ANSWER, USER, ANSWER]]
    broken = record.change(tokenizer=other, conversations=rows)
    assert "C5" in ids(broken)
    assert "C5" not in ids(broken.change(generation={"eos_token_id": [1, 2]}))
    assert "C5" not in ids(broken.change(turns="last"))


def test_turn_end_that_is_no_stop(record):
    finding = the(record.change(generation={"eos_token_id": 0}), "C6")
    assert finding.severity == "FAIL"
    assert "'<|im_end|>' (2)" in finding.what
    assert "add 2 to generation_config.eos_token_id" in finding.fix
    assert finding.count == 6


def test_stops_of_a_model_count_too(record, tiny):
    plain = record.change(generation=None, model=tiny)
    assert found(plain) == []
    tiny.generation_config.eos_token_id = [0, 7]
    assert ids(plain.change()) == ["C6"]


def test_other_eos_in_the_tokenizer(record):
    other = copy.deepcopy(record.tokenizer)
    other.eos_token = "<|endoftext|>"
    changed = record.change(tokenizer=other)
    assert the(changed, "C6").severity == "WARN"
    assert the(changed.change(generation=None), "C6").severity == "WARN"
    legal = {"eos_token_id": [other.eos_token_id, record.tokenizer.eos_token_id]}
    assert found(changed.change(generation=legal)) == [], "as Gemma and Phi do it"


def test_another_end_for_earlier_answers_is_a_judgement(record, edited):
    other = edited(("'<|im_end|>' + '\n'", "('<|im_end|>' if loop.last or message['role'] != "
                    "'assistant' else '<|endoftext|>')"))  # fmt: skip
    changed = record.change(tokenizer=other)
    assert ids(changed) == []
    finding = the(changed, "C6")
    assert finding.severity == "WARN"
    assert "earlier answers" in finding.what
    assert "add " not in finding.fix, "it may end thoughts inside an answer"


# --- prompt, clock, markers, variables, server


@pytest.mark.parametrize("text", ["<think>\n", " ", "\n"])
def test_prompt_that_is_no_prefix(record, edited, text):
    other = edited(("<|im_start|>assistant\n' }}", "<|im_start|>assistant\n' }}" + text))
    finding = the(record.change(tokenizer=other), "C7")
    assert (finding.severity, finding.row, finding.turn) == ("FAIL", 0, 1)
    assert finding.count == 6


def test_only_trained_turns_need_their_prompt(record, edited):
    loop = "{% for message in messages %}"
    other = edited((loop, loop + "{% if not loop.last and message.role == 'assistant' %}(then) "
                    "{% endif %}"))  # fmt: skip
    rows = [[USER, ANSWER, USER, ANSWER]]
    changed = record.change(tokenizer=other, conversations=rows)
    assert the(changed, "C7").turn == 1
    assert ids(changed.change(turns="last")) == []


def test_answer_that_begins_with_space_is_the_rows_doing(record):
    rows = [[USER, {"role": "assistant", "content": "   Ninety."}]]
    finding = the(record.change(conversations=rows), "C7")
    assert finding.severity == "WARN"
    assert "strip" in finding.fix


def test_clock(record, edited):
    other = edited(template="{{ strftime_now('%d %b %Y') }}\n" + record.tokenizer.chat_template)
    changed = record.change(tokenizer=other)
    finding = the(changed, "C9")
    assert finding.severity == "WARN"
    assert "2001" in finding.what
    assert ids(changed) == []
    pinned = edited(
        template="{% if not day is defined %}{% set day = strftime_now('%d') %}{% endif %}"
        "{{ day }}\n" + record.tokenizer.chat_template
    )
    kwargs = {"day": "3 May"}
    legal = record.change(
        tokenizer=pinned, template_kwargs=kwargs,
        serve=lambda messages: chat.prompt_ids(pinned, messages, template_kwargs=kwargs),
    )  # fmt: skip
    assert found(legal) == []


def test_missing_generation_marker(record, edited):
    asked = SimpleNamespace(assistant_only_loss=True)
    finding = the(record.change(arguments=asked), "C16")
    assert finding.severity == "FAIL"
    assert the(record.change(declared={"assistant_only_loss": True}), "C16")
    marked = edited(("message['content'] + '<|im_end|>'", "message['content'] }}{% generation %}{{ "
                     "'<|im_end|>' }}{% endgeneration %}{{ ''"))  # fmt: skip
    assert "C16" not in ids(record.change(tokenizer=marked, arguments=asked))
    labelled = [{"labels": torch.tensor([[-100, 5]])}]
    assert found(record.change(arguments=asked, batches=labelled)) == [], "labels come from elsewhere"
    assert found(record.change(arguments=asked, batches=[{"labels": [[-100, 5]]}])) == []
    empty = [{"labels": torch.tensor([[-100, -100]])}]
    assert ids(record.change(arguments=asked, batches=empty)) == ["C16"]


def trl(name):
    return (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")


def test_trl_replaces_templates_that_it_knows(record, edited):
    asked = SimpleNamespace(assistant_only_loss=True)
    known = edited(template=trl("qwen3"))
    assert "{% generation %}" in trl_twin(known.chat_template).replace("{%-", "{%")
    assert trl_twin(record.tokenizer.chat_template) is None
    rows = [[USER, ANSWER]]
    changed = record.change(tokenizer=known, conversations=rows, arguments=asked, serve=None)
    assert ids(changed) == []
    several = changed.change(conversations=[[USER, ANSWER, USER, ANSWER]])
    assert ids(several) == ["C13"], "its training template keeps empty thoughts in the history"


@pytest.mark.parametrize("side", ["train", "serve"])
def test_variables_of_one_side(record, edited, side):
    other = edited(template="{% if calm is defined %}Calm. {% endif %}"
                   + record.tokenizer.chat_template)  # fmt: skip
    kwargs = {"train_template_kwargs": {}, "template_kwargs": {}, "serve": None}
    kwargs["train_template_kwargs" if side == "train" else "template_kwargs"] = {"calm": True}
    finding = the(record.change(tokenizer=other, **kwargs), "C20")
    assert finding.severity == "FAIL"
    assert "'calm': True" in finding.what
    assert finding.count == 6


def test_variables_that_change_nothing_are_legal(record, edited):
    kwargs = {"train_template_kwargs": {"enable_thinking": False}}
    assert found(record.change(**kwargs)) == []
    qwen3 = edited(template=trl("qwen3"))
    rows = [[USER, ANSWER]]
    changed = record.change(tokenizer=qwen3, conversations=rows, serve=None, **kwargs)
    assert ids(changed) == []
    assert the(changed, "C20").severity == "WARN", "the prompt differs, and fits the rows"


def test_bos_twice_when_served(record):
    other = copy.deepcopy(record.tokenizer)
    other.bos_token = "<|endoftext|>"
    other.chat_template = "{{ bos_token }}" + other.chat_template
    bos = other.bos_token_id
    healthy = record.change(tokenizer=other, serve=lambda m: chat.prompt_ids(other, m))
    assert "C3" not in ids(healthy)
    doubled = healthy.change(serve=lambda m: [bos, *chat.prompt_ids(other, m)])
    finding = the(doubled, "C3")
    assert finding.severity == "FAIL"
    assert "add_special_tokens=False" in finding.fix


# --- content that is lost


def test_trimmed_answers(record, edited):
    other = edited(("message['content']", "message['content']|trim"))
    finding = the(record.change(tokenizer=other), "C11")
    assert (finding.severity, finding.row, finding.turn, finding.count) == ("FAIL", 2, 2, 2)
    assert "'🙂 答え ' becomes '🙂 答え'" in finding.what
    clean = record.change(tokenizer=other, conversations=[[USER, ANSWER]])
    assert not [f for f in found(clean) if f.id == "C11"]  # no row is affected


@pytest.mark.parametrize("change", ["message['content'][:4]", "message['content']|upper", "''"])
def test_changed_answers(record, edited, change):
    other = edited(("message['content']", f"({change} if message['role'] == 'assistant' "
                    "else message['content'])"))  # fmt: skip
    assert the(record.change(tokenizer=other), "C11").severity == "FAIL"


def test_changed_questions_are_a_judgement_and_lost_ones_are_not(record, edited):
    asked = "(message['content'] {} if message['role'] == 'user' else message['content'])"
    trimmed = edited(("message['content']", asked.format("|trim")))
    rows = [[{"role": "user", "content": " And now? "}, ANSWER]]
    assert the(record.change(tokenizer=trimmed, conversations=rows), "C11").severity == "WARN"
    lost = edited(("message['content']", asked.format("and ''")))
    finding = the(record.change(tokenizer=lost), "C11")
    assert (finding.severity, finding.turn) == ("FAIL", 0)


def test_strings_for_a_template_that_reads_parts(record, edited):
    other = edited(
        template="{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    broken = record.change(tokenizer=other, serve=None)
    (first, *_) = [f for f in found(broken) if f.id == "C11"]
    assert first.severity == "FAIL"
    assert "'type': 'text'" in first.fix
    parts = [[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in c]
             for c in record.conversations]  # fmt: skip
    assert found(broken.change(conversations=parts)) == []


def test_thoughts_of_earlier_turns(record, edited):
    qwen3 = edited(template=trl("qwen3"))
    rows = [[USER, thought("Rings.", "Ninety."), USER, thought("Again.", "Ninety, still.")]]
    changed = record.change(tokenizer=qwen3, conversations=rows, serve=None)
    finding = the(changed, "C12")
    assert (finding.severity, finding.turn) == ("FAIL", 1)
    assert "earlier turn: 'Rings.'" in finding.what
    assert the(changed.change(turns="last"), "C12").severity == "WARN"
    same = [[USER, thought("Rings.", "Ninety."), USER, thought("Rings.", "Ninety, still.")]]
    assert the(changed.change(conversations=same), "C12").turn == 1, "the same thought, once lost"
    assert ids(changed.change(conversations=[rows[0][2:]])) == []
    assert "C12" not in ids(record.change(conversations=rows)), "this template keeps all of them"


def test_dropped_thoughts_that_the_question_says_too(record):
    asked = {**USER, "content": USER["content"] + " It has ninety rings."}
    rows = [[asked, {**ANSWER, "reasoning_content": "It has ninety rings."}]]
    changed = record.change(conversations=rows)
    assert the(changed, "C12").turn == 1
    assert ids(changed) == []


def test_thoughts_in_a_field_that_is_ignored(record):
    answer = {**ANSWER, "reasoning_content": "It has ninety rings."}
    rows = [[USER, answer, USER, ANSWER]]
    assert the(record.change(conversations=rows), "C12").severity == "FAIL"
    last = the(record.change(conversations=[[USER, answer]]), "C12")
    assert last.severity == "WARN", "a template without thoughts may be wanted"


def test_tool_turns_that_are_dropped(record, edited):
    rows = [[USER, CALL, RESULT, ANSWER]]
    finding = the(record.change(conversations=rows), "C14")
    assert (finding.severity, finding.turn) == ("FAIL", 1)
    assert "look_up" in finding.what
    for name in ("qwen2_5", "qwen3", "nemotron_3_nano"):
        able = record.change(tokenizer=edited(template=trl(name)), conversations=rows, serve=None)
        assert "C14" not in ids(able), name
    deaf = edited(("message.role == \"tool\"", "false"), template=trl("qwen2_5"))
    finding = the(record.change(tokenizer=deaf, conversations=rows, serve=None), "C14")
    assert finding.turn == 2


@pytest.mark.parametrize("shown", [True, False])
def test_a_lost_call_whose_words_stand_in_the_schema(record, edited, shown):
    """LFM2 prints the schema of a tool and no call of it."""
    schema = {"type": "object", "properties": {"tree": {"type": "string", "enum": ["the oak"]}}}
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": schema}}]
    lfm2 = record.change(
        tokenizer=edited(template=trl("lfm2")), conversations=[[USER, CALL, RESULT, ANSWER]],
        serve=None, template_kwargs={"tools": tools} if shown else {},
    )  # fmt: skip
    assert ("look_up" in lfm2.oracles[0].text) == shown
    finding = the(lfm2, "C14")
    assert (finding.severity, finding.turn) == ("FAIL", 1)
    assert "the tool call loses 'look_up'" in finding.what


def test_results_that_are_escaped_are_not_lost(record, edited):
    """gpt-oss writes results as JSON text."""
    rows = [[USER, CALL, RESULT, ANSWER]]
    gptoss = edited(template=trl("gptoss"))
    assert "C14" not in ids(record.change(tokenizer=gptoss, conversations=rows, serve=None))


def test_schemas_that_are_dropped(record, edited):
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    finding = the(record.change(template_kwargs={"tools": tools}), "C14")
    assert "look_up" in finding.what
    able = record.change(tokenizer=edited(template=trl("qwen2_5")), serve=None,
                         template_kwargs={"tools": tools})  # fmt: skip
    assert "C14" not in ids(able)


def test_dropped_system_prompt(record, edited):
    loop = "{% for message in messages %}"
    other = edited((loop, "{% for message in messages if message['role'] != 'system' %}"))
    rows = [[USER, ANSWER], [SYSTEM, USER, ANSWER]]
    finding = the(record.change(tokenizer=other, conversations=rows), "C15")
    assert (finding.severity, finding.row, finding.turn) == ("FAIL", 1, 0)
    assert ids(record.change(tokenizer=other, conversations=rows[:1])) == []
    mild = edited(("message['content']", "message['content']|replace('forester', 'gardener')"))
    finding = the(record.change(tokenizer=mild, conversations=rows), "C11")
    assert finding.severity == "WARN", "another word is not a lost rule"


# --- two templates


def test_white_space_of_the_header(record, edited):
    other = edited(("message['role'] + '\n'", "message['role'] + ' '"))
    finding = the(record.change(train_tokenizer=other), "C10")
    assert (finding.severity, finding.count) == ("FAIL", 6)
    assert ids(record.change(train_tokenizer=other)) == ["C10"]


def test_space_behind_the_last_turn_is_of_no_consequence(record, edited):
    other = edited(template=record.tokenizer.chat_template + "{{ '\n' }}")
    assert found(record.change(train_tokenizer=other)) == []


def test_default_system_prompt(record, edited):
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    other = edited((default, "You are a pirate"))
    assert ids(record.change(train_tokenizer=other)) == ["C8"]
    finding = the(record.change(train_tokenizer=other), "C8")
    assert finding.count == 4, "rows with a system message are the same"
    assert "pirate" in finding.what


def test_default_system_prompt_without_a_system_role(record, edited):
    plain = ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}"
             "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")  # fmt: skip
    served = edited(template=plain)
    trained = edited(template="Be kind.\n" + plain)
    changed = record.change(tokenizer=served, train_tokenizer=trained,
                            conversations=[[USER, ANSWER]], serve=None)  # fmt: skip
    assert "C8" in ids(changed)


def test_another_template(record, edited):
    other = edited(template=trl("phi3"))
    assert ids(record.change(train_tokenizer=other)) == ["C13"]
    trainer = SimpleNamespace(chat_template=other.chat_template)
    assert ids(record.change(trainer=trainer)) == ["C13"], "TRL keeps its template on the trainer"


# --- never in the way


LEGAL = {
    "empty system": [{"role": "system", "content": ""}, USER, ANSWER],
    "code": [USER, {"role": "assistant", "content": "def f(x):\n\treturn {'a': [x]}\n"}],
    "control-like text": [USER, {"role": "assistant", "content": "[INST] <b>x</b> {{ m }} {% if %}"}],
    "scripts": [{"role": "user", "content": "ما هي؟ 日本 🙂"}, {"role": "assistant", "content": "வணக்கம் 👩‍👩‍👧"}],
    "inline thought": [USER, thought("Rings.", "Ninety.")],
    "inline thoughts": [USER, thought("Rings.", "Ninety."), USER, thought("Again.", "Ninety.")],
    "many turns": [USER, ANSWER] * 12,
    "no answer": [USER],
    "answer first": [ANSWER, USER, ANSWER],
    "two answers": [USER, ANSWER, ANSWER],
    "quoted prompt": [USER, {"role": "assistant", "content": USER["content"]}],
    "long": [{"role": "user", "content": "many words " * 4000}, ANSWER],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_legal_rows(record, name):
    assert found(record.change(conversations=[LEGAL[name]])) == []


ODD = [[], None, "text", [None], [{"content": "x"}], [{"role": ["x"], "content": {"a": 1}}, ANSWER],
       [{"role": "user"}, {"role": "assistant"}], [USER, {"role": "assistant", "content": None}],
       [USER, {"role": "assistant", "tool_calls": [3, {"function": "f"}]}, {"role": "tool"}],
       [{"role": ["x"], "content": "a"}, CALL, {"role": {"x": 1}, "content": "b"}, ANSWER]]  # fmt: skip


@pytest.mark.parametrize("row", ODD)
def test_odd_rows_never_raise(record, row):
    tools = {"tools": [{"a": 1}, print]}
    for changes in ({}, {"template_kwargs": tools, "train_template_kwargs": {}}):
        changed = record.change(conversations=[row, [USER, ANSWER]], **changes)
        assert all(f.what for f in found(changed))


def test_broken_templates_never_raise(record, edited):
    for template in ("{% for m in %}", "{{ messages.x.y }}", "x", "{{ 1 / 0 }}"):
        changed = record.change(tokenizer=edited(template=template), train_tokenizer=edited())
        assert found(changed)


def test_the_record_is_left_as_it_was(record):
    before = copy.deepcopy(record.conversations)
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    found(record)
    assert record.conversations == before
    assert all(getattr(record, name) is value for name, value in fields.items())


def test_the_sample_holds_every_kind_of_row(conversations):
    rows = [[USER, ANSWER]] * 500 + [[SYSTEM, USER, ANSWER]] + [[USER, CALL, RESULT, ANSWER]]
    record = RunRecord(tokenizer=None, conversations=rows)
    chosen = sample(record)
    assert len(chosen) == 64
    assert {500, 501} <= {i for i, _ in chosen}
