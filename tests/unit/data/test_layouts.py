"""Any layout becomes the same conversations; one row's fault excludes that row."""

import copy

import pytest

from sft_utils.data.layouts import conversation, conversations, read
from sft_utils.data.loading import Excluded, Loaded, LoadedRow, load
from sft_utils.errors import ConfigError, DataError


def loaded(*rows, excluded=()):
    numbered = [LoadedRow(n, row) for n, row in enumerate(rows, 1)]
    return Loaded(source="x.jsonl", kind="JSONL", encoding="UTF-8", unit="line", rows=numbered,
                  excluded=list(excluded))  # fmt: skip


def msg(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, USER, ANSWER = msg("system", "s"), msg("user", "q"), msg("assistant", "a")
GOOD = {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("messages", {"messages": [SYSTEM, USER, ANSWER]}),
        ("messages", {"messages": [SYSTEM, USER, ANSWER], "id": 3, "tools": None, "prompt": "q"}),
        ("messages", {"messages": [SYSTEM, USER, msg("assistant", "a", weight=1)]}),
        ("messages", {"messages": [USER, ANSWER], "system": "s"}),
        ("prompt + completion", {"prompt": [SYSTEM, USER], "completion": [ANSWER]}),
        ("prompt + completion", {"prompt": [SYSTEM, USER], "completion": "a"}),
        ("prompt + completion", {"prompt": "q", "completion": "a", "system": "s", "messages": None}),
        ("conversations (ShareGPT)", {"conversations": [
            {"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        ("conversations (ShareGPT)", {"system": "s", "conversations": [
            {"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}),
        ("instruction + output (Alpaca)", {"instruction": "q", "output": "a", "system": "s"}),
        ("instruction + output (Alpaca)", {"instruction": "q", "input": "", "output": "a", "system": "s"}),
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_conversation(layout, row):
    before = copy.deepcopy(row)
    got = conversations(loaded(row))
    assert got.conversations == [[SYSTEM, USER, ANSWER]]
    assert (got.layout, got.numbers, got.excluded) == (layout, [1], [])
    assert row == before


def test_a_given_system_prompt_fills_only_what_has_none():
    rows = [
        GOOD,
        {"messages": [msg("system", "own"), USER, ANSWER]},
        {**GOOD, "system": " "},
        {**GOOD, "system": "col"},
    ]
    got = conversations(loaded(*rows), system="given")
    assert [chat[0]["content"] for chat in got.conversations] == ["given", "own", "given", "col"]
    assert conversations(loaded(GOOD)).conversations == [[USER, ANSWER]]


def test_alpaca_input_follows_the_instruction():
    got = conversations(loaded({"instruction": "Translate.", "input": "cat", "output": "Katze"}))
    assert got.conversations[0][0] == msg("user", "Translate.\n\ncat")


@pytest.mark.parametrize("absent", [{}, {"input": None}, {"input": ""}])
def test_an_alpaca_input_may_be_absent(absent):
    row = {"instruction": "Translate.", **absent, "output": "a"}
    assert conversation(row, 1) == [msg("user", "Translate."), ANSWER]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": 5}, "'input' is a number"),
        ({"input": 0}, "'input' is a number"),
        ({"input": 0.0}, "'input' is a number"),
        ({"input": False}, "'input' is a boolean"),
        ({"input": []}, "'input' is a list"),
        ({"instruction": None}, "'instruction' is null"),
        ({"instruction": 0}, "'instruction' is a number"),
        ({"instruction": None, "input": "cat"}, "'instruction' is null"),
    ],
)
def test_nothing_of_an_alpaca_row_vanishes(fields, words):
    good = {"instruction": "Translate.", "input": "cat", "output": "Katze"}
    got = conversations(loaded(good, {**good, **fields}))
    assert [str(one) for one in got.excluded] == [f"non-text content: {words}, a text is needed"]


@pytest.mark.parametrize("column", ["s", " s\n"])
def test_a_system_column_may_repeat_the_first_turn(column):
    got = conversations(loaded({"messages": [SYSTEM, USER, ANSWER], "system": column}))
    assert got.conversations == [[SYSTEM, USER, ANSWER]]


def test_a_system_column_fills_a_blank_first_turn():
    got = conversations(loaded({"messages": [msg("system", " "), USER, ANSWER], "system": "s"}))
    assert got.conversations == [[SYSTEM, USER, ANSWER]]


# --- columns that held what JSON cannot -------------------------------------------------------


def with_lost(row, *columns):
    return LoadedRow(2, row, tuple((column, "NaN or Infinity") for column in columns))


@pytest.mark.parametrize("lost", ["prompt", "completion", "system"])
def test_a_value_that_is_lost_costs_a_row_that_reads_it(lost):
    good = {"prompt": "q", "completion": "a", "score": 1.0}
    table = loaded(good, {**good, "score": None}, {**good, lost: None})
    table.rows[1] = with_lost(table.rows[1].row, "score")
    table.rows[2] = with_lost(table.rows[2].row, lost)
    got = conversations(table)
    assert got.conversations == [[USER, ANSWER]] * 2
    assert [str(one) for one in got.excluded] == [f"NaN or Infinity in column {lost!r}"]


def test_a_value_that_is_lost_costs_a_row_whose_mapping_reads_it():
    table = loaded({"t": "x", "b": "y", "c": "a", "d": "z"})
    table.rows.append(with_lost({"t": "x", "b": None, "c": "a", "d": None}, "b", "d"))
    got = conversations(table, mapping="prompt=t+b,completion=c")
    assert [str(one) for one in got.excluded] == ["NaN or Infinity in column 'b'"]
    assert len(conversations(table, mapping="prompt=t,completion=c").conversations) == 2


def test_a_file_that_must_be_whole_may_lose_what_nobody_reads(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    rows = {"prompt": ["q", "q"], "completion": ["a", "a"], "score": [1.0, float("nan")]}
    parquet.write_table(pyarrow.table(rows), path)
    assert [row["score"] for row in read(path)] == [1.0, None]
    parquet.write_table(pyarrow.table({**rows, "completion": ["a", b"a"]}), path)
    with pytest.raises(DataError, match=r"x.parquet, row 1: a value that JSON cannot hold \(bytes\) in column 'completion'\. Repair or remove the row\."):
        read(path)


ROW_FAULTS = [
    ({"messages": []}, "no messages: the list is empty"),
    ({"messages": "q"}, "non-text content: 'messages' is a string, a list of messages is needed"),
    ({"messages": None}, "non-text content: 'messages' is null, a list of messages is needed"),
    ({"messages": [USER, "a"]}, "non-text content: messages[1] is a string, an object is needed"),
    (
        {"messages": [USER, msg("assistant", None)]},
        "non-text content: message 2 (assistant) is null",
    ),
    (
        {"messages": [USER, msg("assistant", [{"type": "text"}])]},
        "non-text content: message 2 (assistant) is a list",
    ),
    (
        {"messages": [USER, {"role": "assistant"}]},
        "non-text content: message 2 (assistant) is missing",
    ),
    (
        {"messages": [USER, msg("assistant", "a", tool_calls=[{}])]},
        "tool calls: message 2 has 'tool_calls'",
    ),
    ({"messages": [USER, msg("tool", "x"), ANSWER]}, "wrong roles: user tool assistant"),
    ({"messages": [msg("human", "q"), msg("gpt", "a")]}, "wrong roles: human gpt"),
    ({"messages": [msg("User", "q"), msg("Assistant", "a")]}, "wrong roles: User Assistant"),
    ({"messages": [msg(None, "q"), ANSWER]}, "wrong roles: None assistant"),
    ({"messages": [{"content": "q"}, ANSWER]}, "wrong roles: None assistant"),
    ({"messages": [msg(["user"], "q"), ANSWER]}, "wrong roles: ['user'] assistant"),
    ({"messages": [USER, SYSTEM, ANSWER]}, "wrong roles: user system assistant"),
    ({"messages": [USER, USER, ANSWER]}, "wrong roles: user user assistant"),
    ({"messages": [ANSWER]}, "wrong roles: assistant"),
    ({"messages": [USER]}, "no assistant turn at the end: the last one is user"),
    ({"messages": [USER, ANSWER, USER]}, "no assistant turn at the end: the last one is user"),
    ({"messages": [SYSTEM]}, "no assistant turn at the end: the last one is system"),
    ({"messages": [msg("user", " \n"), ANSWER]}, "empty prompt: message 1 is ' \\n'"),
    ({"messages": [USER, msg("assistant", "\u200b")]}, "empty completion: message 2 is '\\u200b'"),
    ({"messages": [USER, ANSWER], "system": 3}, "non-text content: 'system' is a number"),
    (
        {"messages": [SYSTEM, USER, ANSWER], "system": "t"},
        "two system prompts: the column 'system' and the first turn differ",
    ),
    (
        {"prompt": "q", "completion": "a"},
        "another layout: prompt + completion, the file is messages",
    ),
    (
        {"messages": [USER, msg("assistant", "a", weight=0), USER, ANSWER]},
        "answer that is not to be trained: message 2 has weight 0 or train false; every assistant turn is trained",
    ),
    (
        {"messages": [USER, ANSWER, USER, msg("assistant", "a", train=False)]},
        "answer that is not to be trained: message 4 has weight 0 or train false; every assistant turn is trained",
    ),
    ({"text": "x", "id": 1}, "no layout: ['id', 'text'], the file is messages"),
    ({}, "no layout: [], the file is messages"),
    (
        dict.fromkeys("abcdefghijklmno", 1),
        "no layout: ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l' and 3 more], the file is messages",
    ),
]


@pytest.mark.parametrize(("row", "words"), ROW_FAULTS)
def test_a_row_that_is_no_conversation_is_named_and_costs_no_other(row, words):
    got = conversations(loaded(GOOD, row, GOOD), system="s")
    assert got.numbers == [1, 3]
    assert [(one.number, str(one)) for one in got.excluded] == [(2, words)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "", "completion": "a"}, "empty prompt: message 1 is ''"),
        ({"prompt": "q", "completion": "  "}, "empty completion: message 2 is '  '"),
        (
            {"prompt": "q", "completion": None},
            "non-text content: 'completion' is null, a text is needed",
        ),
        (
            {"prompt": "q", "completion": {"a": 1}},
            "non-text content: 'completion' is an object, a text is needed",
        ),
        ({"prompt": [ANSWER], "completion": "a"}, "wrong roles: assistant assistant"),
    ],
)
def test_pairs_that_are_no_conversation(row, words):
    good = {"prompt": "q", "completion": "a"}
    got = conversations(loaded(good, row, good))
    assert got.numbers == [1, 3]
    assert str(got.excluded[0]) == words


def test_nulls_that_arrow_adds_to_turns_hide_nothing():
    null = {"role": None, "content": None}
    turns = [{"from": "human", "value": "q", **null}, {**null, "from": "gpt", "value": "a"}]
    got = conversations(loaded({"conversations": turns}))
    assert got.conversations == [[USER, ANSWER]]
    turns = [{**USER, "from": None, "value": None}, {"from": None, "value": None, **ANSWER}]
    assert conversations(loaded({"conversations": turns})).conversations == [[USER, ANSWER]]


def test_answers_that_look_like_placeholders_stay():
    assert conversations(loaded({"prompt": "q", "completion": "none"})).conversations == [
        [USER, msg("assistant", "none")]
    ]


def test_the_loaders_and_the_layouts_exclusions_stand_in_order():
    got = conversations(
        loaded(
            GOOD,
            {"messages": [USER]},
            excluded=[Excluded(7, "NUL byte", "at byte 1"), Excluded(1, "x")],
        )
    )
    assert [(one.number, one.reason) for one in got.excluded] == [
        (1, "x"), (2, "no assistant turn at the end"), (7, "NUL byte")]  # fmt: skip
    assert got.summary() == (
        "1 conversation (messages), 3 excluded: 1 x (line 1); 1 no assistant turn at the end (line 2); "
        "1 NUL byte (line 7)"
    )


def test_what_is_not_used_is_counted():
    rows = [
        {**GOOD, "id": 1, "tools": None},
        {"messages": [USER, msg("assistant", "a", weight=1)], "id": 2},
    ]
    got = conversations(loaded(*rows))
    assert got.ignored == {"id": 2, "messages[].weight": 1}
    assert got.summary().endswith("\nnot used: id (2), messages[].weight (1)")


# --- mapping ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "row", "prompt"),
    [
        ("prompt=question,completion=answer", {"question": "q", "answer": "a"}, "q"),
        (" prompt = question , completion = answer ", {"question": "q", "answer": "a"}, "q"),
        (
            "prompt=title+body,completion=answer",
            {"title": "t", "body": "b", "answer": "a"},
            "t\n\nb",
        ),
        ("prompt=title+body,completion=answer", {"title": "t", "body": " ", "answer": "a"}, "t"),
        ("prompt=title+body,completion=answer", {"title": None, "body": "b", "answer": "a"}, "b"),
        ("prompt=a+b,completion=c d", {"a+b": "q", "c d": "a"}, "q"),
        ("completion=prompt,prompt=completion", {"prompt": "a", "completion": "q"}, "q"),
        ("prompt=Question, please, completion=a,b", {"Question, please": "q", "a,b": "a"}, "q"),
        (
            "messages=chat",
            {"chat": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "q",
        ),
    ],
)
def test_columns_are_mapped_by_name(mapping, row, prompt):
    got = conversations(loaded({**row, "id": 1}), mapping=mapping)
    assert got.conversations == [[msg("user", prompt), ANSWER]]
    assert got.layout == "mapped columns"
    assert got.ignored == {"id": 1}


def test_a_mapped_system_column():
    rows = [{"q": "q", "a": "a", "s": "own"}, {"q": "q", "a": "a", "s": ""}, {"q": "q", "a": "a"}]
    got = conversations(loaded(*rows), mapping="prompt=q,completion=a,system=s", system="given")
    assert [chat[0] for chat in got.conversations] == [
        msg("system", s) for s in ("own", "given", "given")
    ]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("prompt=qestion,completion=answer", "mapping 'prompt=qestion,completion=answer': no row has a column 'qestion'. Did you mean 'question'?"),
        ("prompt=zzz,completion=answer", "mapping 'prompt=zzz,completion=answer': no row has a column 'zzz'. There are 'question', 'answer'."),
        ("prompt=question", "mapping 'prompt=question' fills 'prompt': prompt and completion (or messages alone) are needed, for example mapping='prompt=question,completion=answer'."),
        ("prompt", "mapping 'prompt': 'prompt' is no target=column; targets are prompt, completion, system, messages, for example mapping='prompt=question,completion=answer'."),
        ("promt=question,completion=answer", "mapping 'promt=question,completion=answer': 'promt=question' is no target=column; targets are prompt, completion, system, messages, for example mapping='prompt=question,completion=answer'."),
        ("prompt=question,answer", "mapping 'prompt=question,answer': 'answer' is no target=column; targets are prompt, completion, system, messages, for example mapping='prompt=question,completion=answer'."),
        ("prompt=question,prompt=answer", "mapping 'prompt=question,prompt=answer': 'prompt=answer' comes twice; targets are prompt, completion, system, messages, for example mapping='prompt=question,completion=answer'."),
        ("prompt=question+,completion=answer", "mapping 'prompt=question+,completion=answer': no row has a column ''. There are 'question', 'answer'."),
        ("prompt=question,completion=question", "mapping 'prompt=question,completion=question': column 'question' fills prompt and completion; a model that is told its answer learns to repeat it. Give two columns, for example mapping='prompt=question,completion=answer'."),
        ("prompt=question+answer,completion=answer", "mapping 'prompt=question+answer,completion=answer': column 'answer' fills prompt and completion; a model that is told its answer learns to repeat it. Give two columns, for example mapping='prompt=question,completion=answer'."),
        ("messages=question,prompt=answer", "mapping 'messages=question,prompt=answer' fills 'messages', 'prompt': prompt and completion (or messages alone) are needed, for example mapping='prompt=question,completion=answer'."),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_work_is_refused(mapping, words):
    with pytest.raises(ConfigError) as caught:
        conversations(loaded({"question": "q", "answer": "a"}), mapping=mapping)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"t": "x", "c": "a"}, "column missing: 'b'"),
        ({"t": "x", "b": 3, "c": "a"}, "non-text content: 'b' is a number, a text is needed"),
        ({"t": "", "b": "", "c": "a"}, "empty prompt: message 1 is ''"),
        (
            {"t": "x", "b": "y", "c": 3},
            "non-text content: 'c' is a number, a text is needed",
        ),
        ({"t": "x", "b": "y"}, "column missing: 'c'"),
    ],
)
def test_a_row_that_a_mapping_does_not_fit(row, words):
    good = {"t": "x", "b": "y", "c": "a"}
    got = conversations(loaded(good, row, good), mapping="prompt=t+b,completion=c")
    assert got.numbers == [1, 3]
    assert str(got.excluded[0]) == words


def test_a_column_of_whole_dialogues_is_no_completion():
    rows = [{"p": "q", "chosen": [USER, ANSWER]}, {"p": "q", "chosen": [ANSWER]}]
    got = conversations(loaded(*rows), mapping="prompt=p,completion=chosen")
    assert got.conversations == [[USER, ANSWER]]
    assert str(got.excluded[0]) == (
        "whole dialogue as completion: 'chosen' begins with user: mapping 'messages=chosen'"
    )


def test_an_answer_that_was_refused_is_trained_by_a_mapping_alone():
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in (True, False, "no", 0)]
    got = conversations(loaded(*rows))
    assert [str(one) for one in got.excluded] == [
        "label is false: such an answer was refused; a mapping trains it all the same"
    ]
    assert got.numbers == [1, 3, 4]
    mapped = conversations(loaded(*rows), mapping="prompt=prompt,completion=completion")
    assert mapped.numbers == [1, 2, 3, 4]


def test_earlier_turns_beside_an_instruction_are_not_lost_in_silence():
    row = {"instruction": "and now?", "input": "", "output": "a"}
    got = conversations(loaded({**row, "history": []}, {**row, "history": [["q", "a"]]}, row))
    assert [str(one) for one in got.excluded] == [
        "earlier turns in column 'history': write the row as messages; a mapping does without them"
    ]
    assert got.numbers == [1, 3]


def test_a_weight_on_a_user_turn_says_nothing_of_an_answer():
    rows = {"conversations": [{"from": "human", "value": "q", "weight": 0},
                              {"from": "gpt", "value": "a", "weight": None}]}  # fmt: skip
    assert conversations(loaded(rows)).conversations == [[USER, ANSWER]]


def test_an_unknown_layout_names_the_columns_and_the_mapping():
    with pytest.raises(DataError) as caught:
        conversations(loaded({"Question": "q", "label": "a", "id": 1}))
    assert str(caught.value) == (
        "x.jsonl: no row has a known layout (messages, prompt + completion, conversations (ShareGPT), "
        "instruction + output (Alpaca)); its columns are 'Question', 'label', 'id'. Say which is "
        'which: mapping="prompt=Question,completion=label".'
    )


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (("instruction", "context", "response"), "prompt=instruction+context,completion=response"),
        (("prompt", "response"), "prompt=prompt,completion=response"),
        (("question", "completion"), "prompt=question,completion=completion"),
        (("instruction", "input", "response"), "prompt=instruction+input,completion=response"),
        (("inputs", "targets"), "prompt=inputs,completion=targets"),
        (("system_prompt", "question", "response"), "prompt=question,completion=response,system=system_prompt"),
        (("source", "problem", "solution"), "prompt=problem,completion=solution"),
    ],
)
def test_the_suggested_mapping_drops_no_column_of_the_task(columns, mapping):
    row = dict.fromkeys(columns, "x")
    with pytest.raises(DataError) as caught:
        conversations(loaded(row))
    assert str(caught.value).endswith(f'mapping="{mapping}".')
    left = {column: 1 for column in columns if column not in mapping}
    assert conversations(loaded(row), mapping=mapping).ignored == left


DIALOGUE = [USER, ANSWER]
TEXT = "\n\nHuman: q?\n\nAssistant: a"
SPLIT = "holds whole dialogues, each as one text: split them into messages with a role and a content first."


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"chosen": DIALOGUE, "rejected": DIALOGUE, "prompt": "q"},
         'Say which is which: mapping="messages=chosen".'),
        ({"rejected": DIALOGUE, "chosen": DIALOGUE, "prompt": [USER]},
         'Say which is which: mapping="messages=chosen".'),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]},
         'Say which is which: mapping="prompt=prompt,completion=chosen".'),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
         'Say which is which: mapping="prompt=question,completion=chosen,system=system".'),
        ({"id": 1, "items": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         'Say which is which: mapping="messages=items".'),
        ({"chosen": TEXT, "rejected": TEXT}, f"Column 'chosen' {SPLIT}"),
        ({"text": "### Human: q### Assistant: a"}, f"Column 'text' {SPLIT}"),
        ({"text": "<s>[INST] q [/INST] a</s>"}, f"Column 'text' {SPLIT}"),
        ({"message_id": "1", "parent_id": None, "text": "q", "role": "prompter"},
         "Each row is one message of a tree: join every answer with its parents first, into a row with messages."),
        ({"context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}},
         'Say which is which: mapping="prompt=question+context,completion=COLUMN". \'answers\' is an '
         "object, a text is needed: make it one in a column of its own."),
        ({"text": "x", "label": 1},
         'Say which is which: mapping="prompt=text,completion=COLUMN". \'label\' is a number, a text '
         "is needed: make it one in a column of its own."),
        ({"q|a": "x|y"}, 'Say which is which: mapping="prompt=COLUMN,completion=COLUMN".'),
    ],
)  # fmt: skip
def test_what_is_said_of_shapes_that_people_bring(row, advice):
    with pytest.raises(DataError) as caught:
        conversations(loaded(dict.fromkeys(row), row))
    assert str(caught.value).endswith(f". {advice}")
    if (found := advice.partition('mapping="')[2].partition('"')[0]) and "COLUMN" not in found:
        assert conversations(loaded(row), mapping=found).conversations[0][-2:] == DIALOGUE


def test_no_conversation_at_all_is_an_error():
    with pytest.raises(DataError) as caught:
        conversations(loaded({"messages": [USER]}, {"messages": [USER]}))
    assert str(caught.value) == (
        "x.jsonl (messages): no row gives a conversation, 2 excluded: 2 no assistant turn at the end "
        "(lines 1, 2); the first: no assistant turn at the end: the last one is user. Repair the rows."
    )


def test_from_a_file_with_its_line_numbers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"question;answer\nq;a\n;a\nq\nq;a\n")
    got = conversations(load(path), mapping="prompt=question,completion=answer")
    assert got.conversations == [[USER, ANSWER]] * 2
    assert got.numbers == [2, 5]
    assert [(one.number, one.reason) for one in got.excluded] == [
        (3, "empty prompt"), (4, "wrong number of fields")]  # fmt: skip
