"""lm-eval's log-likelihoods are those of a second computation that shares no code with it."""

import json

import pytest
import torch

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


def test_few_long_rows_share_a_batch(model, tokenizer, tmp_path, monkeypatch):
    """Logits of 32 passages of unequal length over 152,000 tokens would need more than a model of 1.5B."""
    path = tmp_path / "own.jsonl"
    rows = [{"question": "word " * (20 + 60 * k), "choices": [" yes", " no"], "answer": 0} for k in range(8)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    seen, softmax = [], torch.nn.functional.log_softmax

    def noted(logits, **options):
        seen.append(logits.numel())
        return softmax(logits, **options)

    monkeypatch.setattr("lm_eval.models.huggingface.F.log_softmax", noted)
    whole = general.evaluate(model, tokenizer, tasks=[str(path)], batch_size=8)
    bound = max(seen) // 3
    assert len(seen) == 1
    seen.clear()
    monkeypatch.setattr(harness, "MOST_LOGITS", bound)
    parts = general.evaluate(model, tokenizer, tasks=[str(path)], batch_size=8)
    assert max(seen) <= bound
    for a, b in zip(whole, parts, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-3)


def test_batches_of_our_own_tasks_are_as_asked(tokenizer):
    for task in harness.CHOICE:
        pairs = [p for _, asked in general.requests(task, tokenizer) for p in asked]
        spans = [(len(tokenizer.encode(c + a)) - 1, len(tokenizer.encode(c.rstrip())) - 1) for c, a in pairs]
        assert harness.rows_at_once(spans, 49152, 32) == 32


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
