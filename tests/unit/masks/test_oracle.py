"""The oracle on real templates, on thoughts and tool calls, and on many rows at once."""

import copy
import importlib.util
import re
import time
from pathlib import Path

import pytest

from sft_utils.errors import TemplateError
from sft_utils.masks import chat, rendering

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
TEMPLATES = sorted(p.stem for p in FOLDER.glob("*.jinja"))
MARKER = re.compile(r"<\|[^\s|<>]+\|?>|<[a-z_]+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_\w+>|</?think>")
PARTS = ("idefics3", "llava_next")  # read contents as lists of parts
NO_STOP = ("glm4moe", "llava_next")  # close a turn with the next one; with </s>, text here

CHAT = [
    {"role": "user", "content": "What is dew?"},
    {"role": "assistant", "content": "Water from cool air."},
    {"role": "user", "content": "And frost?"},
    {"role": "assistant", "content": "Ice.\n\nFrom cold air."},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": {"a": "Oslo"}}}
TOOLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up", "tool_call_id": "c1", "content": "rain"},
    {"role": "assistant", "content": "Rain."},
]


@pytest.fixture(scope="module")
def marked(tokenizer):
    """The real vocabulary with the markers of all templates as special tokens."""
    other = copy.deepcopy(tokenizer)
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.jinja")]
    found = dict.fromkeys(m for text in texts for m in MARKER.findall(text))
    new = [m for m in found if other.backend_tokenizer.token_to_id(m) is None]
    other.add_special_tokens({"extra_special_tokens": new})
    return other


@pytest.fixture
def served(marked):
    def with_template(name):
        other = copy.copy(marked)
        other.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        return other

    return with_template


def said(tokenizer, truth, turn):
    return tokenizer.decode(truth.ids[turn.start : turn.end])


def stop(tokenizer, truth, turn):
    return turn.stop and tokenizer.convert_ids_to_tokens(truth.ids[turn.stop])


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_of_trl(served, name):
    tokenizer, rows = served(name), CHAT
    if name.removesuffix("_training") in PARTS:
        rows = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
    truth = chat.oracle(tokenizer, rows)
    assert [t.message for t in truth.turns] == [1, 3]
    for turn in truth.turns:
        answer = CHAT[turn.message]["content"]
        assert answer in said(tokenizer, truth, turn)
        assert len(said(tokenizer, truth, turn)) - len(answer) <= len("<|END_RESPONSE|>")
        assert (turn.stop is None) == (name in NO_STOP or name == "llava_next_training")
        assert turn.head <= turn.start < turn.end <= turn.tail
    assert truth.ids == tokenizer(truth.text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cohere2", ["<|END_OF_TURN_TOKEN|>"] * 2),  # behind <|END_RESPONSE|>, which is trained too
        ("phi3", ["<|end|>"] * 2),  # eos stands behind the last one only
        ("gptoss", ["<|end|>", "<|return|>"]),
        ("glm4moe_training", ["<|user|>"] * 2),
        ("llama3", ["<|eot_id|>"] * 2),
        ("qwen3", ["<|im_end|>"] * 2),
    ],
)
def test_stop_tokens(served, name, expected):
    tokenizer = served(name)
    truth = chat.oracle(tokenizer, CHAT)
    assert [stop(tokenizer, truth, t) for t in truth.turns] == expected


def test_known_stops_decide_between_two(served):
    tokenizer = served("cohere2")
    for name in ("<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>"):
        ids = [tokenizer.convert_tokens_to_ids(name)]
        truth = chat.oracle(tokenizer, CHAT, stops=ids)
        assert {stop(tokenizer, truth, t) for t in truth.turns} == {name}


@pytest.mark.parametrize("name", ["phi3", "llama3", "qwen2_5", "gemma", "gptoss"])
def test_the_header_of_the_next_turn_is_no_stop_token(served, name):
    tokenizer = served(name)
    for close in ("<|end|>", "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|return|>"):
        tokenizer.chat_template = tokenizer.chat_template.replace(close, "")
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "")
    assert [t.stop for t in chat.oracle(tokenizer, CHAT).turns] == [None, None]


@pytest.mark.parametrize("close", ["</s>", "### End", "\n"])
def test_an_end_in_plain_text_is_no_stop_token(tokenizer, close):
    other = copy.copy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + close + "\n{% endfor %}"
    )
    truth = chat.oracle(other, CHAT)
    assert [t.stop for t in truth.turns] == [None, None]
    assert said(other, truth, truth.turns[0]).strip().startswith("Water from cool air.")


def test_an_end_that_only_looks_like_text(tokenizer):
    other = copy.copy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ eos_token }}\n{% endfor %}"
    )
    truth = chat.oracle(other, CHAT)
    assert [stop(other, truth, t) for t in truth.turns] == [other.eos_token] * 2


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_training", "llama3_1", "gptoss",
                                  "gemma4", "glm4moe_training", "muse_glimmer",
                                  "nemotron_3_nano", "lfm2_2_5"])  # fmt: skip
def test_a_tool_call_is_trained_from_the_header_to_its_end(served, name):
    tokenizer = served(name)
    truth = chat.oracle(tokenizer, TOOLS)
    call, answer = truth.turns
    text = said(tokenizer, truth, call)
    assert "look_up" in text
    assert "Oslo" in text
    assert "rain" not in text
    assert call.stop is not None
    before = tokenizer.decode(truth.ids[: call.start])
    assert "Weather?" in before
    assert "look_up" not in before
    assert said(tokenizer, truth, answer).startswith("Rain.")


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ c.function|tojson }}"
    "{% endfor %}]{{ eos_token }}{% elif m.role == 'tool' %}"
    "[TOOL_RESULTS] {{ {'content': m.content}|tojson }}[/TOOL_RESULTS]"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
"""The layout of Mistral-7B-v0.3: no header before an answer but a space, none before a call."""


@pytest.fixture(scope="module")
def mistral(tokenizer):
    other = copy.deepcopy(tokenizer)
    marks = ("INST", "/INST", "TOOL_CALLS", "TOOL_RESULTS", "/TOOL_RESULTS")
    other.add_special_tokens({"extra_special_tokens": [f"[{mark}]" for mark in marks]})
    other.chat_template = MISTRAL
    return other


def test_a_second_call_begins_behind_the_result_of_the_first(mistral):
    second = {**CALL, "function": {"name": "look_up", "arguments": {"a": "Rome"}}}
    rows = [*TOOLS[:3], {"role": "assistant", "content": "", "tool_calls": [second]},
            {**TOOLS[2], "content": "clear sky"}, TOOLS[3]]  # fmt: skip
    truth = chat.oracle(mistral, rows)
    one, two, answer = (said(mistral, truth, t) for t in truth.turns)
    assert one.startswith("[TOOL_CALLS]")
    assert two.startswith("[TOOL_CALLS]")
    assert ("Oslo" in one, "Rome" in two) == (True, True)
    assert answer.strip() == "Rain."
    trained = mistral.decode([i for i, m in zip(truth.ids, truth.mask, strict=True) if m])
    assert "rain" not in trained
    assert "clear" not in trained


def test_space_alone_is_no_header(mistral):
    assert rendering.shape(mistral, CHAT, {}).headers == ("[/INST]",)


@pytest.mark.parametrize(("name", "content"), [("gemma4", "Let me check."), ("diffusion_gemma", ""),
                                               ("diffusion_gemma", "Let me check.")])  # fmt: skip
def test_results_inside_an_answer_are_never_demanded(served, name, content):
    """These templates write the result of a tool into the turn of the model."""
    rows = [TOOLS[0], {**TOOLS[1], "content": content}, *TOOLS[2:]]
    with pytest.raises(TemplateError, match=r"message 1: the result of a tool \(message 2\)"):
        chat.oracle(served(name), rows)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "glm4moe_training", "nemotron_3_nano"])
def test_a_tool_call_without_content(served, name):
    rows = [{**m, "content": None} if m.get("tool_calls") else m for m in TOOLS]
    tokenizer = served(name)
    truth = chat.oracle(tokenizer, rows)
    assert "look_up" in said(tokenizer, truth, truth.turns[0])


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_thoughts_are_part_of_an_answer(served, field):
    tokenizer = served("qwen3")
    answer = {"role": "assistant", "content": "No.", "reasoning_content": "7 * 13"}
    if field == "content":
        answer = {"role": "assistant", "content": "<think>\n7 * 13\n</think>\n\nNo."}
    truth = chat.oracle(tokenizer, [CHAT[0], answer])
    assert said(tokenizer, truth, truth.turns[0]) == "<think>\n7 * 13\n</think>\n\nNo."
    # In an earlier turn this template strips them: what is left is trained.
    truth = chat.oracle(tokenizer, [CHAT[0], answer, *CHAT[2:]])
    assert said(tokenizer, truth, truth.turns[0]) == "No."


def test_thoughts_that_are_opened_in_the_prompt(served):
    tokenizer = served("qwen3_5_think")
    answer = {"role": "assistant", "content": "No.", "reasoning_content": "7 * 13"}
    truth = chat.oracle(tokenizer, [CHAT[0], answer])
    assert said(tokenizer, truth, truth.turns[0]) == "7 * 13\n</think>\n\nNo."


@pytest.mark.parametrize("name", ["qwen3_5_think", "nemotron_3_nano"])
def test_thoughts_in_the_content_that_are_opened_in_the_prompt(served, name):
    """The header that serving writes reaches into the thoughts of the data."""
    tokenizer = served(name)
    answer = {"role": "assistant", "content": "<think>\n7 * 13\n</think>\n\nNo."}
    truth = chat.oracle(tokenizer, [CHAT[0], answer])
    (turn,) = truth.turns
    assert said(tokenizer, truth, turn) == "7 * 13\n</think>\n\nNo."
    assert truth.ids[: turn.start] == chat.prompt_ids(tokenizer, [CHAT[0]])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3", "gptoss"])
def test_a_dropped_thought_that_the_question_says_too(served, name):
    """The words of the question are no thought, wherever the thought went."""
    tokenizer = served(name)
    rows = [
        {"role": "user", "content": "Is 7 prime? Think about divisors."},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "divisors"},
        *CHAT[2:],
    ]
    truth = chat.oracle(tokenizer, rows)
    assert said(tokenizer, truth, truth.turns[0]).endswith("Yes.")
    assert "divisors" not in said(tokenizer, truth, truth.turns[0])
    assert "divisors" in tokenizer.decode(truth.ids[: truth.turns[0].start])


def test_constant_text_may_be_trained_or_not(served):
    tokenizer = served("qwen3")
    truth = chat.oracle(tokenizer, CHAT[:2])
    free = [i for i, f in zip(truth.ids, truth.free, strict=True) if f]
    assert tokenizer.decode(free) == "<think>\n\n</think>\n\n\n"
    assert not any(m and f for m, f in zip(truth.mask, truth.free, strict=True))


def test_what_stands_between_an_answer_and_its_stop_token_is_trained(tokenizer):
    other = copy.copy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ eos_token }}\n{% endfor %}"
    )
    truth = chat.oracle(other, CHAT[:2])
    (turn,) = truth.turns
    assert other.decode(truth.ids[turn.end : turn.stop]) == " "
    assert truth.mask[turn.start : turn.stop + 1] == [1] * (turn.stop + 1 - turn.start)
    assert not any(m and f for m, f in zip(truth.mask, truth.free, strict=True))


def test_template_variables_change_the_render(tokenizer):
    other = copy.copy(tokenizer)
    other.chat_template = "{{ mood }}: " + other.chat_template
    for mood in ("calm", "curious"):
        truth = chat.oracle(other, CHAT, template_kwargs={"mood": mood})
        assert truth.text.startswith(f"{mood}: ")
        assert chat.prompt_ids(other, CHAT[:1], template_kwargs={"mood": mood}) != truth.ids


def test_answers_that_are_missing_do_not_crash(tokenizer):
    rows = [[CHAT[0], {"role": "assistant", "content": None}], [CHAT[0], {"role": "assistant"}], []]
    assert all(isinstance(t, chat.Oracle | TemplateError) for t in chat.oracles(tokenizer, rows))


def test_many_rows_at_once(tokenizer, conversations):
    bad = [[], None, [None], "text", [{"role": "assistant", "content": 7}, 7]]
    rows = [*conversations, *bad, *conversations]
    found = chat.oracles(tokenizer, rows)
    alone = [chat.oracle(tokenizer, c) for c in conversations]
    n = len(conversations)
    assert found[:n] == alone == found[-n:]
    assert all(isinstance(t, TemplateError) for t in found[n:-n])


def test_no_rows_and_no_template(tokenizer):
    assert chat.oracles(tokenizer, []) == []
    other = copy.copy(tokenizer)
    other.chat_template = None
    (error,) = chat.oracles(other, [CHAT])
    assert "no chat template" in str(error)


def test_two_thousand_rows_in_seconds(tokenizer):
    rows = [[{"role": "user", "content": f"Ticket {i}: " + "it leaks. " * 60}, CHAT[1]]
            for i in range(2000)]  # fmt: skip
    start = time.process_time()
    assert len(chat.oracles(tokenizer, rows)) == len(rows)
    assert time.process_time() - start < 8
