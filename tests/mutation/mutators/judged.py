"""Faults of an evaluation: what is compared, how answers are generated, what decides."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from sft_utils.preflight.record import EvalPlan, RunRecord
from tests.mutation import exports
from tests.mutation.exports import Change
from tests.mutation.frame import Mutator, Subject

Proof = Callable[[RunRecord, RunRecord], bool]


def with_plan(record: RunRecord, **changes: Any) -> RunRecord:
    """The record with parts of its evaluation replaced."""
    return record.change(evaluation=dataclasses.replace(record.evaluation, **changes))


def planned(**changes: Any) -> Change:
    """A change of the evaluation plan."""
    return lambda record: with_plan(record, **changes)


def batched(record: RunRecord, side: str, model: Any) -> RunRecord:
    """The record of an evaluation that generates in batches with this padding."""
    tokenizer = copy.copy(record.tokenizer)
    tokenizer.padding_side = side
    declared = {**record.declared, "generation_batch_size": 4}
    return record.change(tokenizer=tokenizer, model=model, declared=declared)


def right_padded(record: RunRecord) -> RunRecord:
    """Batches are padded on the right, the tokenizer's default for training."""
    return batched(record, "right", exports.base_of(record))


def mask_forgotten(record: RunRecord) -> RunRecord:
    """Left padding, but the model never sees the attention mask."""
    model = copy.deepcopy(exports.base_of(record))
    forward = model.forward

    def without_mask(input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> Any:
        return forward(input_ids=input_ids)

    model.forward = without_mask
    return batched(record, "left", model)


def batch_matters(_: RunRecord, after: RunRecord) -> bool:
    """Whether the model continues a short prompt otherwise when it is padded as declared."""
    import torch

    tok, model = after.tokenizer, after.model
    texts = ("Yes?", "A much longer question " * 4)
    short, long = (tok.encode(t, add_special_tokens=False) for t in texts)
    fill, ones = [0] * (len(long) - len(short)), [1] * len(short)
    pads = [tok.pad_token_id or 0] * len(fill)
    left = tok.padding_side == "left"
    mask = torch.tensor([fill + ones if left else ones + fill])
    ids = torch.tensor([pads + short if left else short + pads])
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([short])).logits[0, -1]
        padded = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[0, -1]
    return float((alone - padded).abs().max()) > 0.01


def answers_twice(single: str, batched_: str, **claims: Any) -> Change:
    """Two lists of answers to the same prompts; most of them differ."""

    def change(record: RunRecord) -> RunRecord:
        first = [text for text, _ in record.evaluation.answers[:20]]
        second = [text + "!" if k % 4 else text for k, text in enumerate(first)]
        observed = {**record.observed, single: first, batched_: second}
        return record.change(observed=observed, declared={**record.declared, **claims})

    return change


def lists_differ(one: str, two: str) -> Proof:
    """Whether two observed lists of answers differ."""
    return lambda _, after: after.observed[one] != after.observed[two]


def sampled(record: RunRecord) -> RunRecord:
    """The served generation config still samples, as many models ship it."""
    generation = {**(record.generation or {}), "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    return record.change(generation=generation, declared={**record.declared, "greedy": True})


def raw_base(record: RunRecord) -> RunRecord:
    """The base is asked with bare text, the tuned model through the template."""
    arms = dict(record.evaluation.templated)
    first = next(iter(arms))
    return with_plan(record, templated={**arms, first: False})


def observe(**facts: Any) -> Change:
    """More observed facts."""
    return lambda record: record.change(observed={**record.observed, **facts})


def zero_inside(record: RunRecord) -> RunRecord:
    """A gain is claimed although the interval of the difference contains zero."""
    record = observe(difference_interval=(-0.02, 0.05))(record)
    return record.change(declared={**record.declared, "claims_gain": True})


def cut(record: RunRecord) -> RunRecord:
    """max_new_tokens=8: long answers end in the middle."""
    answers = tuple((t[: len(t) // 2], False) if k % 2 else (t, e)
                    for k, (t, e) in enumerate(record.evaluation.answers))  # fmt: skip
    return with_plan(record, max_new_tokens=8, answers=answers)


def no_room(record: RunRecord) -> RunRecord:
    """max_new_tokens is smaller than the expected answers."""
    return with_plan(record, max_new_tokens=2, answers=())


def golds_too_long(_: RunRecord, after: RunRecord) -> bool:
    """Whether most expected answers have more words than the limit has tokens."""
    golds = [m["content"] for c in after.eval_conversations for m in c[-1:]]
    return sum(len(g.split()) > after.evaluation.max_new_tokens for g in golds) > len(golds) / 2


def tested_on_selection(record: RunRecord) -> RunRecord:
    """eval_dataset was the test set: a third of its examples also chose the checkpoint."""
    ids = sorted(record.evaluation.test_ids)
    return with_plan(record, selection_ids=frozenset(ids[: len(ids) // 3]))


def plan_of(record: RunRecord) -> EvalPlan:
    """The evaluation plan."""
    return record.evaluation


def has_plan(subject: Subject) -> bool:
    """Whether the subject says how it will be judged."""
    plan = subject.record.evaluation
    return bool(plan and plan.answers and plan.templated and plan.test_ids)


def has_golds(subject: Subject) -> bool:
    """Whether the subject also has expected answers."""
    return has_plan(subject) and bool(subject.record.eval_conversations)


def mutator(code: str, name: str, apply: Change, alive: Proof, **more: Any) -> Mutator:
    """One fault of an evaluation."""
    options = {"applies": has_plan, **more}
    return Mutator(id=code, name=name, layer="evaluation", apply=apply, alive=alive, **options)


MUTATORS: tuple[Mutator, ...] = (
    mutator("E1", "right-padded-generation", right_padded, batch_matters),
    mutator("E1", "mask-not-passed", mask_forgotten, batch_matters),
    mutator("E1", "batch-changes-answers", answers_twice("answers_single", "answers_batched"),
            lists_differ("answers_single", "answers_batched")),
    mutator("E2", "sampling-inherited", sampled,
            lambda _, r: r.generation["do_sample"] and r.generation["temperature"] > 0),
    mutator("E2", "two-runs-differ", answers_twice("answers_first", "answers_second", greedy=True),
            lists_differ("answers_first", "answers_second")),
    mutator("E3", "template-in-one-arm", raw_base,
            lambda _, r: set(plan_of(r).templated.values()) == {True, False}),
    mutator("E4", "baseline-dropped", planned(arms=("tuned",)),
            lambda b, r: len(plan_of(r).arms) < len(plan_of(b).arms)),
    mutator("E4", "checkpoints-only", planned(arms=("sft step 100", "sft step 200")),
            lambda b, r: not set(plan_of(r).arms) & set(plan_of(b).arms)),
    mutator("E4", "few-shot-dropped", planned(arms=("base zero-shot", "tuned")), severity="WARN",
            alive=lambda b, r: set(plan_of(r).arms) < set(plan_of(b).arms)),
    mutator("E5", "interval-dropped", planned(interval=False),
            lambda _, r: plan_of(r).n > 0 and not plan_of(r).interval),
    mutator("E5", "few-examples", planned(n=20), lambda _, r: 0 < plan_of(r).n < 30,
            severity="WARN"),
    mutator("E5", "gain-inside-the-interval", zero_inside,
            lambda _, r: r.observed["difference_interval"][0] < 0),
    mutator("E6", "strict-extractor", observe(score_strict=0.20, score_lenient=0.78),
            lambda _, r: r.observed["score_strict"] < r.observed["score_lenient"], severity="WARN"),
    mutator("E7", "answers-cut", cut,
            lambda _, r: sum(not ended for _, ended in plan_of(r).answers) > plan_of(r).n / 4),
    mutator("E7", "no-room-for-answers", no_room, golds_too_long, applies=has_golds),
    mutator("E8", "token-accuracy-decides", planned(metric="eval_mean_token_accuracy"),
            lambda b, r: plan_of(r).metric != plan_of(b).metric),
    mutator("E8", "loss-of-a-set-decides", planned(metric="eval_tickets_loss"),
            lambda b, r: plan_of(r).metric != plan_of(b).metric),
    mutator("E9", "selected-on-test", tested_on_selection,
            lambda _, r: bool(plan_of(r).selection_ids & plan_of(r).test_ids)),
    mutator("E10", "general-suite-dropped", planned(general_suite=False),
            lambda _, r: not plan_of(r).general_suite, severity="WARN"),
)  # fmt: skip
