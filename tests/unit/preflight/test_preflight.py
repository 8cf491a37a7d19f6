"""Every fault is named, and a healthy trainer is left alone."""

import copy
from types import SimpleNamespace

import pytest
import torch

from sft_utils import preflight
from sft_utils.errors import PreflightError
from sft_utils.masks import masking


class Trainer:
    """What the preflight needs of a trainer: a model and a loader."""

    def __init__(self, model, batches):
        self.model, self.batches = model, batches

    def get_train_dataloader(self):
        return self.batches


@pytest.fixture
def rows(tokenizer, conversations):
    return [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]


@pytest.fixture
def run(tokenizer, tiny, conversations):
    def check(rows, declared=conversations, model=tiny, collate=masking.collate):
        batches = [collate(rows[i : i + 2], 0) for i in range(0, len(rows), 2)]
        return preflight.check(Trainer(model, batches), declared, tokenizer)

    return check


def ids(findings):
    return [f.id for f in findings]


def test_healthy(run, rows):
    assert run(rows) == []
    assert run(rows[::-1]) == []


def test_healthy_packed(run, rows):
    def collate(part, _):
        batch = masking.pack(part)
        # the first token of a row never carries loss here, so packing changes no label
        return batch

    assert run(rows, collate=collate) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: list(r["input_ids"]), "M1"),
        (lambda r: [-100] * len(r["labels"]), "M2"),
        (lambda r: [*r["labels"][1:], -100], "M6"),
        (lambda r: [-100 if x == 2 else x for x in r["labels"]], "M7"),
    ],
)
def test_labels(run, rows, change, expected):
    found = run([{**r, "labels": change(r)} for r in rows])
    assert ids(found) == [expected]
    assert found[0].count == len(rows)


def test_shifted_mask(run, rows):
    shifted = []
    for r in rows:
        keep = [False, *[x != -100 for x in r["labels"]][:-1]]
        labels = [i if k else -100 for i, k in zip(r["input_ids"], keep, strict=True)]
        shifted.append({**r, "labels": labels})
    found = run(shifted)
    assert ids(found) == ["M6"]
    assert "begin at the first token" in found[0].fix, "the labels themselves are not moved"
    moved = run([{**r, "labels": [*r["labels"][1:], -100]} for r in rows])
    assert "unshifted copies" in moved[0].fix


def test_only_last_turn(run, rows, conversations):
    row = copy.deepcopy(rows[1])
    first = row["labels"].index(2)
    row["labels"][: first + 1] = [-100] * (first + 1)
    assert ids(run([row], [conversations[1]])) == ["M8"]


def test_template_and_context(run, rows, tokenizer, conversations):
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("assistant\n' }}", "assistant ' }}").replace(
        "['role'] + '\n'", "['role'] + ' '"
    )
    spaced = [masking.assistant_labels(other, c, max_length=400) for c in conversations]
    assert "C10" in ids(run(spaced))
    silent = [[{"role": "system", "content": "Be kind."}, c[-2], c[-1]] for c in conversations]
    moved = [masking.assistant_labels(tokenizer, c, max_length=400) for c in silent]
    assert "C8" in ids(run(moved))
    plain = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}]
    assert ids(run(plain, conversations[:1])) == ["C1"]


def test_truncation_and_lost_rows(run, rows, conversations):
    cut = [{k: v[:-2] for k, v in r.items()} for r in rows]
    assert "P1" in ids(run(cut))
    assert ids(run(rows[:-1])) == ["P3"]
    assert ids(run([rows[0]] * len(rows))) == ["P3", "P7"], "one row trained again and again"
    assert ids(run([*rows, rows[0]])) == ["P7"]


def test_the_share_of_one_rank_is_not_counted(tokenizer, rows, conversations):
    """Under torchrun the loader yields a part of the rows, and repeats some to fill batches."""
    share = Trainer(None, [masking.collate([*rows[::2], rows[0]], 0)])
    for world, expected in ((2, []), (1, ["P3", "P7"])):
        share.args = SimpleNamespace(world_size=world)
        assert ids(preflight.check(share, conversations, tokenizer, stages=("batches",))) == expected
    bad = [{**r, "labels": r["input_ids"]} for r in rows[::2]]
    share = Trainer(None, [masking.collate(bad, 0)])
    share.args = SimpleNamespace(world_size=2)
    assert ids(preflight.check(share, conversations, tokenizer, stages=("batches",))) == ["M1"]


def test_a_batch_that_is_not_full_may_be_dropped(tokenizer, rows, conversations):
    for lost, dropped, expected in ((1, True, []), (2, True, ["P3"]), (1, False, ["P3"])):
        kept = rows[: len(rows) - lost]
        batches = [masking.collate(kept[i : i + 2], 0) for i in range(0, len(kept), 2)]
        trainer = Trainer(None, batches)
        trainer.args = SimpleNamespace(dataloader_drop_last=dropped)
        found = preflight.check(trainer, conversations, tokenizer, stages=("batches",))
        assert ids(found) == expected, (lost, dropped)


def test_rows_that_end_with_their_stop_token(run, rows):
    """Without the line break that is served behind it, nothing that is trained is missing."""
    short = [{k: v[:-1] for k, v in r.items()} for r in rows]
    assert run(short) == []
    assert ids(run(short[:-1])) == ["P3"]
    assert ids(run([*short, rows[0]])) == ["P7"]
    mute = [{**r, "labels": [*r["labels"][:-1], -100]} for r in short]
    assert ids(run(mute)) == ["M7"]


def test_a_token_between_answer_and_stop_token_must_be_trained(tokenizer, tiny, conversations):
    """As in Llama 2, where a space stands there: the model has to write it before it can stop."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    )
    declared = [[{"role": "user", "content": f"What is {i}?"},
                 {"role": "assistant", "content": f"The number {i}."}] for i in range(4)]  # fmt: skip
    encoded = [masking.assistant_labels(other, c, max_length=400) for c in declared]
    assert other.convert_ids_to_tokens(encoded[0]["input_ids"][-3:]) == [".", "Ġ", "<|im_end|>"]
    holes = [{**r, "labels": [*r["labels"][:-2], -100, r["labels"][-1]]} for r in encoded]
    for part, expected in ((encoded, []), (holes, ["M7"])):
        trainer = Trainer(tiny, [masking.collate(part, 0)])
        found = preflight.check(trainer, declared, other, stages=("batches",))
        assert ids(found) == expected
    assert "' ' between the answer and its stop token" in found[0].what
    assert found[0].count == 4


def test_rows_that_are_wrapped_around(run, rows):
    """All tokens in one stream, cut every 60 tokens: conversations join and break."""
    stream = {key: [x for row in rows for x in row[key]] for key in rows[0]}
    n = len(stream["labels"])
    cut = [{k: v[i : i + 60] for k, v in stream.items()} for i in range(0, n - n % 60, 60)]
    found = run(cut)
    assert {"P5", "P6"} <= set(ids(found))
    assert not {"C13", "P3"} & set(ids(found))


def test_a_row_that_cannot_be_judged_is_known_by_its_tokens(run, rows, tokenizer, conversations):
    """Its answer has no place in the render; that is no other template, and no other row."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ '\n' + m.content if m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    declared = [*conversations[:1], [conversations[1][1], {"role": "assistant", "content": ""}]]
    encoded = [masking.assistant_labels(other, c, max_length=400) for c in declared]
    batches = [masking.collate(encoded, 0)]
    found = preflight.check(Trainer(None, batches), declared, other, stages=("template", "batches"))
    assert [(f.id, f.severity) for f in found] == [("C0", "WARN")]


def test_rows(run, rows, conversations):
    roles = [
        [{**m, "role": {"user": "human"}.get(m["role"], m["role"])} for m in c]
        for c in conversations
    ]
    assert ids(run(rows, roles))[0] == "C18"  # the trained text differs, too
    empty = [[*c[:-1], {"role": "assistant", "content": " "}] for c in conversations]
    assert "D3" in ids(run(rows, empty))
    assert ids(run(rows, [[c[0]] for c in conversations]))[0] == "D7"


def test_model(run, rows, tiny):
    tiny.requires_grad_(False)
    assert ids(run(rows, model=tiny)) == ["O3"]
    tiny.requires_grad_(True)
    tiny.generation_config.eos_token_id = 0
    found = run(rows, model=tiny)
    assert ids(found) == ["C6"]
    assert "<|im_end|>" in found[0].what


def test_checking_draws_no_random_numbers(run, rows):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    run(rows)
    assert torch.equal(torch.rand(3), expected)


def test_gate(run, rows, capsys):
    preflight.gate(run(rows))
    assert "none fatal" in capsys.readouterr().out
    with pytest.raises(PreflightError, match="P3 .*1 of 6 rows"):
        preflight.gate(run(rows[:-1]))
