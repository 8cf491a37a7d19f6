"""An honest evaluation is left alone; every way to fool oneself is named."""

import copy
import dataclasses

import pytest
import torch

from sft_utils.preflight import judged
from sft_utils.preflight.record import EvalPlan, RunRecord

HONEST = EvalPlan(
    arms=("base zero-shot", "base few-shot", "tuned"),
    n=300,
    interval=True,
    metric="field_f1",
    selection_ids=frozenset({"v1", "v2"}),
    test_ids=frozenset({"t1", "t2"}),
    templated={"base zero-shot": True, "base few-shot": True, "tuned": True},
    max_new_tokens=64,
    answers=tuple((f"answer {i}", i > 2) for i in range(100)),
    general_suite=True,
)


@pytest.fixture
def record(tokenizer, conversations):
    return RunRecord(
        tokenizer=tokenizer,
        conversations=conversations,
        eval_conversations=[c for c in conversations if len(c[-1]["content"]) < 40],
        evaluation=HONEST,
        generation={"do_sample": False, "eos_token_id": 2},
    )


def look(record):
    return [f for detector in judged.DETECTORS for f in detector(record)]


def planned(record, **changes):
    return record.change(evaluation=dataclasses.replace(record.evaluation, **changes))


def only(record, code, severity="FAIL"):
    """The single finding, with everything a reader needs."""
    (finding,) = look(record)
    assert (finding.id, finding.severity) == (code, severity), finding
    assert finding.what
    assert finding.where
    assert finding.why
    assert finding.fix
    return finding


def test_honest(record, tiny):
    assert look(record) == []
    assert look(record.change(evaluation=None, generation=None)) == []
    assert look(record.change(evaluation=EvalPlan(), generation=None, model=tiny)) == []


@pytest.mark.parametrize(
    "metric",
    ["eval_loss", "eval_mean_token_accuracy", "eval_entropy", "perplexity", "eval_tickets_loss"],
)
def test_teacher_forced_metrics(record, metric):
    assert metric in only(planned(record, metric=metric), "E8").what


@pytest.mark.parametrize("metric", ["", "exact_match", "hamming_loss", "eval_exact", "glossary"])
def test_other_metrics_are_legal(record, metric):
    assert look(planned(record, metric=metric)) == []


def test_selection(record):
    assert "'t1'" in only(planned(record, selection_ids=frozenset({"t1", "v"})), "E9").what


def test_templates(record):
    raw = {**HONEST.templated, "base zero-shot": False}
    assert "'base zero-shot'" in only(planned(record, templated=raw), "E3").what
    declared = planned(record, templated=raw).change(
        declared={"templated": {"base zero-shot": False}}
    )
    assert look(declared) == [], "a base without chat template is asked raw on purpose"
    nobody = dict.fromkeys(raw, False)
    assert look(planned(record, templated=nobody)) == []
    forgotten = record.change(declared={"templated": {"tuned": False}})
    assert "opposite" in only(forgotten, "E3").what


@pytest.mark.parametrize(
    ("arms", "severity"),
    [
        (("tuned",), "FAIL"),
        (("lora r8", "lora r16"), "FAIL"),
        (("sft", "finetuned"), "FAIL"),
        (("alice", "bob"), "WARN"),
        (("base zero-shot", "tuned"), "WARN"),
        (("untuned", "tuned", "5-shot"), ""),
        (("Pretrained", "Few-Shot base", "SFT"), ""),
        (("majority", "base", "base, in-context examples", "tuned"), ""),
        ((), ""),
    ],
)
def test_baselines(record, arms, severity):
    found = look(planned(record, arms=arms))
    assert [(f.id, f.severity) for f in found] == [("E4", severity)] * bool(severity)


def test_intervals(record):
    assert "300 examples" in only(planned(record, interval=False), "E5").what
    assert "18%" in only(planned(record, n=29), "E5", "WARN").why
    inside = record.change(observed={"difference_interval": (-0.1, 0.2)})
    assert look(inside) == [], "nothing is claimed"
    assert "zero" in only(inside.change(declared={"claims_gain": True}), "E5").what
    clear = record.change(observed={"difference_interval": (0.1, 0.2)})
    assert look(clear.change(declared={"claims_gain": True})) == []


def test_extractors(record):
    only(record.change(observed={"score_strict": 0.2, "score_lenient": 0.78}), "E6", "WARN")
    assert look(record.change(observed={"score_strict": 0.75, "score_lenient": 0.78})) == []


def test_cut_answers(record):
    cut = tuple((f"answer {i}", i > 5) for i in range(100))
    finding = only(planned(record, answers=cut), "E7")
    assert "6 of 100" in finding.what
    assert "max_new_tokens=64" in finding.where
    finding = only(planned(record, max_new_tokens=3), "E7")
    assert "expected answers" in finding.what
    length = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x " * 90}]
    rare = record.change(eval_conversations=[record.conversations[0]] * 30 + [length])
    only(rare, "E7", "WARN")


def test_suite(record):
    only(planned(record, general_suite=False), "E10", "WARN")


@pytest.mark.parametrize(
    ("generation", "greedy", "severity"),
    [
        ({"do_sample": True, "temperature": 0.6}, True, "FAIL"),
        ({"do_sample": True, "temperature": 0.6}, False, "WARN"),
        ({"do_sample": True, "top_k": 1}, True, ""),
        ({"temperature": 0.6}, True, ""),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, True, ""),
    ],
)
def test_sampling(record, generation, greedy, severity):
    one = record.change(generation=generation, declared={"greedy": greedy})
    found = look(one)
    assert [(f.id, f.severity) for f in found] == [("E2", severity)] * bool(severity)
    assert all("temperature=0.6" in f.what for f in found)


def test_sampling_of_the_model(record, tiny):
    tiny.generation_config.do_sample = True
    one = record.change(generation=None, model=tiny, declared={"greedy": True})
    assert "claims greedy" in only(one, "E2").what


def test_two_runs(record):
    observed = {"answers_first": ["a", "b"], "answers_second": ["a", "c"]}
    only(record.change(observed=observed, declared={"greedy": True}), "E2")
    only(record.change(observed=observed), "E2", "WARN")


def batches(record, model, side, **observed):
    tokenizer = copy.copy(record.tokenizer)
    tokenizer.padding_side = side
    declared = {"generation_batch_size": 8}
    return record.change(tokenizer=tokenizer, model=model, declared=declared, observed=observed)


def test_padding_side(record, tiny):
    assert look(batches(record, tiny, "left")) == []
    assert "KL" in only(batches(record, tiny, "right"), "E1").what
    assert "padding_side" in only(batches(record, None, "right"), "E1").fix
    single = batches(record, tiny, "right").change(declared={"generation_batch_size": 1})
    assert look(single) == []
    by_hand = batches(record, tiny, "right", padding_side="left")
    assert look(by_hand) == [], "generation pads itself, whatever the tokenizer says"


def test_ignored_mask(record, tiny):
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(20 if parameter.ndim > 1 else 1)  # fresh weights predict all alike
    assert look(batches(record, tiny, "left")) == []
    forward = tiny.forward
    tiny.forward = lambda input_ids, attention_mask, position_ids: forward(input_ids)
    assert "attention_mask" in only(batches(record, tiny, "left"), "E1").fix


def test_probing_leaves_no_trace(record, tiny):
    tiny.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    look(batches(record, tiny, "left"))
    assert tiny.training
    assert torch.equal(torch.rand(2), expected)


def test_batch_answers(record):
    single = [f"answer {i}" for i in range(8)]
    few = [*single[:7], "other"]
    observed = {"answers_single": single, "answers_batched": few}
    only(record.change(observed=observed), "E1", "WARN")
    observed["answers_batched"] = ["!"] * 8
    assert "8 of 8" in only(record.change(observed=observed), "E1").what
