"""Masks and the oracle that judges them."""

import copy
import re

import pytest
import torch

from sft_utils.errors import MaskError, TemplateError
from sft_utils.masks import chat, masking
from sft_utils.preflight.sides import trl_templates

LONG = 400


def mask_of(row):
    return [int(x != masking.IGNORE) for x in row["labels"]]


def test_labels_equal_the_oracle(tokenizer, conversations):
    for c in conversations:
        row = masking.assistant_labels(tokenizer, c, max_length=LONG)
        truth = chat.oracle(tokenizer, c)
        assert row["input_ids"] == truth.ids
        assert mask_of(row) == truth.mask


def test_golden_mask(tokenizer, conversations):
    row = masking.assistant_labels(tokenizer, conversations[1], max_length=LONG)
    assert masking.token_text(tokenizer, row) == (
        "  .   | <|im_start|>system\\nOne word.<|im_end|>\\n<|im_start|>user\\nCapital of Peru?"
        "<|im_end|>\\n<|im_start|>assistant\\n\n"
        "train | Lima<|im_end|>\n"
        "  .   | \\n<|im_start|>user\\nSure?<|im_end|>\\n<|im_start|>assistant\\n\n"
        "train | Yes, Lima.\\n\\nIt is.<|im_end|>\n"
        "  .   | \\n"
    )


def test_labels_are_unshifted_copies(tokenizer, conversations):
    row = masking.assistant_labels(tokenizer, conversations[0], max_length=LONG)
    assert all(
        x in (masking.IGNORE, i) for x, i in zip(row["labels"], row["input_ids"], strict=True)
    )


def test_every_answer_ends_with_a_trained_stop_token(tokenizer, conversations):
    for c in conversations:
        row = masking.assistant_labels(tokenizer, c, max_length=LONG)
        answers = sum(m["role"] == "assistant" for m in c)
        assert row["labels"].count(tokenizer.eos_token_id) == answers


def test_truncation_raises_instead_of_shortening(tokenizer, conversations):
    row = masking.assistant_labels(tokenizer, conversations[3], max_length=LONG)
    with pytest.raises(MaskError, match="no supervised token"):
        masking.assistant_labels(tokenizer, conversations[3], max_length=20)
    with pytest.raises(MaskError, match="cuts an answer"):
        masking.assistant_labels(tokenizer, conversations[1], max_length=30)
    assert masking.supervised(row) == 2
    whole = masking.assistant_labels(tokenizer, conversations[1], max_length=LONG)
    n = len(whole["input_ids"]) - 1  # the last token is the line break behind the stop token
    short = masking.assistant_labels(tokenizer, conversations[1], max_length=n)
    assert short == {key: ids[:n] for key, ids in whole.items()}
    with pytest.raises(MaskError, match="cuts an answer"):
        masking.assistant_labels(tokenizer, conversations[1], max_length=n - 1)


def test_an_answer_without_a_stop_token_ends_where_its_turn_ends(tokenizer, conversations):
    other = copy.copy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}#{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}#assistant\n{% endif %}"
    )
    row = masking.assistant_labels(other, conversations[1], max_length=LONG)
    assert re.findall(r"train \| (.*)", masking.token_text(tokenizer, row)) == [
        "Lima\\n", "Yes, Lima.\\n\\nIt is.\\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "end",
    [
        "{{ 'GO' if add_generation_prompt }}",  # what is served is no prefix of the turn
        "{{ '!' if messages | length == 2 }}",  # the turn is no prefix of the conversation
    ],
)
def test_a_turn_that_the_whole_conversation_shows_differently_is_refused(tokenizer, conversations, end):
    other = copy.copy(tokenizer)
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    other.chat_template = turns + end
    with pytest.raises(MaskError, match=r"message 1: .* is not a prefix"):
        masking.assistant_labels(other, conversations[1][1:], max_length=LONG)


def test_oracle_refuses_a_template_that_trims(tokenizer, conversations):
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace(
        "message['content']", "message['content']|trim"
    )
    with pytest.raises(TemplateError, match="changes the answer"):
        chat.oracle(other, conversations[2])


def test_oracle_refuses_a_template_that_drops_the_answer(tokenizer, conversations):
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="0 times"):
        chat.oracle(other, conversations[0])


def test_oracle_sees_a_missing_stop_token(tokenizer, conversations):
    other = copy.deepcopy(tokenizer)
    other.chat_template = re.sub(
        r"message\['content'\] \+ '<\|im_end\|>'", "message['content']", other.chat_template
    )
    assert chat.oracle(other, conversations[0]).turns[0].stop is None


def test_template_errors_are_ours(tokenizer, conversations):
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(TemplateError, match="no system role"):
        chat.render(other, conversations[1])
    other.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        chat.render(other, conversations[1])


def test_generation_prompt_is_a_prefix_of_training(tokenizer, conversations):
    for c in conversations:
        head = chat.prompt_ids(tokenizer, c[:-1])
        assert chat.oracle(tokenizer, c).ids[: len(head)] == head


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
def test_a_list_that_the_template_does_not_read(tokenizer, name):
    """One drops it, the other writes it in Python's own notation; neither may become labels."""
    other = copy.copy(tokenizer)
    other.chat_template = (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")
    rows = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
    ]
    with pytest.raises(MaskError, match=r"message 1: .*'Hello\.'.*Give the content as one string"):
        masking.assistant_labels(other, rows, max_length=LONG)


def test_an_answer_that_the_template_changes(tokenizer):
    other = copy.copy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'] | upper"
    )
    rows = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    with pytest.raises(MaskError, match=r"'Hello\.' becomes 'HELLO.*another template"):
        masking.assistant_labels(other, rows, max_length=LONG)


def test_padding_does_not_change_the_loss(tokenizer, tiny, conversations):
    rows = [masking.assistant_labels(tokenizer, c, max_length=LONG) for c in conversations]
    narrow = masking.collate(rows[:2], tokenizer.pad_token_id)
    wide = {
        k: v[:2] for k, v in masking.collate([*rows[:2], rows[3]], tokenizer.pad_token_id).items()
    }
    assert wide["input_ids"].shape[1] > narrow["input_ids"].shape[1]
    assert narrow["attention_mask"][0].tolist() == [
        int(i < len(rows[0]["input_ids"])) for i in range(narrow["input_ids"].shape[1])
    ]
    with torch.no_grad():
        assert tiny(**narrow).loss.item() == pytest.approx(tiny(**wide).loss.item(), abs=1e-6)


def test_packing_isolates_documents(tokenizer, tiny, conversations):
    rows = [masking.assistant_labels(tokenizer, c, max_length=LONG) for c in conversations]
    packed = masking.pack(rows)
    labels = packed.pop("labels")
    kept = [[masking.IGNORE, *row["labels"][1:]] for row in rows]
    assert labels.tolist() == [[label for row in kept for label in row]]
    begin = len(rows[0]["input_ids"])
    end = begin + len(rows[1]["input_ids"])
    with torch.no_grad():
        alone = tiny(input_ids=torch.tensor([rows[1]["input_ids"]]), use_cache=False).logits[0]
        inside = tiny(**packed, use_cache=False).logits[0, begin:end]
        mixed = tiny(**packed, attention_mask=torch.ones_like(labels), use_cache=False).logits[
            0, begin:end
        ]
    assert (alone - inside).abs().max() < 1e-5
    assert (alone - mixed).abs().max() > 1e-4, (
        "the contrast that makes the first assertion mean something"
    )
    assert int((labels != masking.IGNORE).sum()) == sum(map(masking.supervised, rows))


def test_token_html_escapes(tokenizer, conversations):
    html = masking.token_html(
        tokenizer, masking.assistant_labels(tokenizer, conversations[2], max_length=LONG)
    )
    assert "<b>" not in html
    assert "&lt;" in html
    row = {"input_ids": tokenizer("ab cd")["input_ids"], "labels": [masking.IGNORE, 1]}
    grey, blue = re.findall(r'<span style="([^"]*)">', masking.token_html(tokenizer, row))
    assert ("underline" in grey or "border" in grey, "border" in blue) == (False, True)
