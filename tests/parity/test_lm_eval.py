"""lm-eval's log-likelihoods are those of a second computation that shares no code with it."""


import pytest

from sft_utils.ability import general, harness
from sft_utils.errors import TemplateError
from sft_utils.model import modeling

pytest.importorskip("lm_eval")
EACH = 6


@pytest.fixture(scope="module")
def model(profile):
    """The bundled model in float32: in bf16 two orders of summing differ by more than 1e-3."""
    import torch

    return modeling.load_model(profile, dtype=torch.float32).eval()


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_same_prompts_and_same_likelihoods(model, tokenizer, chat):
    results = general.evaluate(
        model, tokenizer, tasks=harness.CHOICE, limit=EACH, chat_template=chat, batch_size=8
    )
    assert len(results) == EACH * len(harness.CHOICE)
    pairs, scores = [], []
    for task in harness.CHOICE:
        asked = dict(general.requests(task, tokenizer, chat_template=chat))
        for r in [r for r in results if r.task == task]:
            assert [(r.prompt, c) for c in r.choices] == asked[r.id]
            pairs += asked[r.id]
            scores += r.scores
    ours = general.loglikelihoods(model, tokenizer, pairs, batch_size=5)
    assert max(abs(a - b) for a, b in zip(scores, ours, strict=True)) < 1e-3
    assert len({round(s, 3) for s in ours}) > len(ours) / 2
    gold = {r["id"]: r["answer"] for t in harness.CHOICE for r in general.rows_of(general.FOLDER / f"{t}.jsonl")}
    taken = iter(ours)
    for r in results:
        own = [next(taken) for _ in r.choices]
        assert r.correct == (own.index(max(own)) == gold[r.id])
    assert any(r.correct for r in results)


def test_the_work_saved_changes_no_number(model, tokenizer, monkeypatch):
    fast = general.evaluate(model, tokenizer, tasks=["facts"], limit=4)
    monkeypatch.setattr(harness, "common_prefix", lambda prompts: [])
    plain = general.evaluate(model, tokenizer, tasks=["facts"], limit=4)
    assert general.same_prompts(fast, plain)
    for a, b in zip(fast, plain, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-3)


def test_another_template_is_noticed(tiny, tokenizer):
    a = general.evaluate(tiny, tokenizer, tasks=["facts"], limit=3)
    b = general.evaluate(tiny, tokenizer, tasks=["facts"], limit=3, chat_template=False)
    with pytest.raises(TemplateError, match="asked in two ways"):
        general.same_prompts(a, b)


def test_answers_are_judged_and_the_model_is_left_as_it_was(tiny, tokenizer, monkeypatch):
    tiny.train()
    results = general.evaluate(tiny, tokenizer, tasks=["instructions"], limit=4)
    assert tiny.training
    assert len(results) == 4
    assert all(r.prompt.endswith("assistant\n") and not r.choices for r in results)
    assert not any(r.correct for r in results)  # random weights


def test_own_file_is_a_task(tiny, tokenizer, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f'{{"question": "Q{k}?", "choices": ["x", "y"], "answer": "B"}}\n' for k in range(3)))
    results = general.evaluate(tiny, tokenizer, tasks=[str(path)], limit=2)
    assert [r.task for r in results] == [str(path)] * 2
    assert all(r.correct == (r.scores[1] > r.scores[0]) for r in results)


def test_perplexity_of_texts(tiny, tokenizer):
    import torch

    texts = general.heldout_texts(3)
    nats = general.text_nats(tiny, tokenizer, texts, batch_size=2)
    for text, (value, n) in zip(texts, nats, strict=True):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            loss = tiny(ids, labels=ids).loss.item()
        assert n == ids.shape[1] - 1
        assert value / n == pytest.approx(loss, abs=1e-4)
    assert general.perplexity(nats)["value"] > 1000  # random weights over 49,152 tokens
