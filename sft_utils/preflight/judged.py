"""Will the numbers of the evaluation mean what they are taken to mean?

| id | fault | FAIL | WARN |
|---|---|---|---|
| E3 | template in one arm only | always, unless declared so | |
| E4 | no baseline | tuned arms only | names unknown; no few-shot arm |
| E5 | no interval | n given, no interval; gain claimed inside it | n < 30 |
| E6 | strict and lenient extractor disagree | | by more than 0.05 |
| E7 | answers cut by max_new_tokens | over 5 % of answers or golds | some golds |
| E8 | teacher-forced metric decides | always | |
| E9 | selected on the test set | any id in both | |
| E10 | nothing outside the task measured | | always |

A plan without an interval is a fact about the plan; whether n = 29 is too few is a judgement. An
arm that is meant to be asked without template is declared: declared["templated"] = {arm: False}.
E1 and E2 are in `repeatable`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial

from sft_utils.preflight import repeatable
from sft_utils.preflight.record import Detector, EvalPlan, Finding, RunRecord

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")

CUT = 0.05
"""Share of answers that may end without a stop token."""

GAP = 0.05
"""Difference between two extractors that is worth a look."""

FEW = 30
"""Scored examples below which an interval spans half the scale."""

BASE = re.compile(
    r"base|zero|shot|untuned|pretrained|original|majority|trivial|constant|random|rule"
)
TUNED = re.compile(r"(?<!un)tuned|sft|lora|adapter|merged|checkpoint|epoch|step|(?<!pre)trained")
FEW_SHOT = re.compile(r"few|[1-9]\d*[-_ ]?shot|in[-_ ]context|icl|examples")
FORCED = re.compile(
    r"(eval_(?!hamming|zero_one)(\w+_)?|train_)?"
    r"(mean_token_accuracy|token_accuracy|loss|entropy|perplexity|nll)"
)


def one_sided(record: RunRecord) -> Iterator[Finding]:
    """E3: all arms are asked through their template, but those declared otherwise."""
    plan = record.evaluation or EvalPlan()
    policy: Mapping[str, bool] = record.declared.get("templated") or {}
    used = dict(plan.templated)
    odd = [arm for arm, with_template in used.items() if policy.get(arm, True) != with_template]
    mixed = len(set(used.values())) > 1
    if odd and (mixed or any(arm in policy for arm in odd)):
        state = "with" if used[odd[0]] else "without"
        yield fail(
            id="E3",
            what=f"arm {odd[0]!r} is asked {state} its chat template, others are not"
            if mixed
            else f"arm {odd[0]!r} is asked {state} its chat template, declared is the opposite",
            where=f"evaluation.templated[{odd[0]!r}]",
            why="the comparison measures the prompt format, not the training",
            fix="apply_chat_template(..., add_generation_prompt=True) in every arm",
            count=len(odd),
        )


def baseline(record: RunRecord) -> Iterator[Finding]:
    """E4: a tuned model is compared with something."""
    arms = record.evaluation.arms if record.evaluation else ()
    if not arms:
        return
    names = [a.lower() for a in arms]
    known = [n for n in names if BASE.search(n) and not TUNED.search(n)]
    why = "the same score may come from the base with a good prompt, or from a constant answer"
    if not known:
        certain = len(arms) == 1 or all(TUNED.search(n) for n in names)
        yield (fail if certain else warn)(
            id="E4",
            what=f"no baseline among the arms {list(arms)}"
            + ("" if certain else ", as far as their names tell"),
            where="evaluation.arms",
            why=why,
            fix="score the base model zero-shot and few-shot on the same examples",
        )
    elif not any(FEW_SHOT.search(n) and "zero" not in n for n in names):
        yield warn(
            id="E4",
            what=f"no few-shot arm among {list(arms)}",
            where="evaluation.arms",
            why="a few examples in the prompt often close most of the gap, without training",
            fix="add the base model with three to five examples in its prompt",
        )


def interval(record: RunRecord) -> Iterator[Finding]:
    """E5: a number comes with its uncertainty.

    `observed["difference_interval"]` is (low, high) of tuned minus baseline, checked against
    `declared["claims_gain"]`.
    """
    plan = record.evaluation or EvalPlan()
    fix = "intervals.wilson for a share, intervals.bootstrap for other metrics"
    if plan.n and not plan.interval:
        yield fail(
            id="E5",
            what=f"a score over {plan.n} examples is reported without an interval",
            where="evaluation.interval",
            why=f"with n={plan.n} a share is uncertain by up to ±{0.98 / plan.n**0.5:.0%}",
            fix=fix,
        )
    if 0 < plan.n < FEW:
        yield warn(
            id="E5",
            what=f"{plan.n} scored examples",
            where="evaluation.n",
            why=f"a share is uncertain by up to ±{0.98 / plan.n**0.5:.0%}",
            fix="score more examples, or compare per example instead of by the mean",
        )
    low, high = record.observed.get("difference_interval") or (1.0, 1.0)
    if record.declared.get("claims_gain") and low <= 0 <= high:
        yield fail(
            id="E5",
            what=f"a gain is claimed, its interval [{low:.3g}, {high:.3g}] contains zero",
            where="observed['difference_interval']",
            why="the data do not tell the arms apart",
            fix="say so, or score more examples",
        )


def extractors(record: RunRecord) -> Iterator[Finding]:
    """E6: `observed["score_strict"]` and `["score_lenient"]` tell the same."""
    strict, lenient = (record.observed.get(f"score_{k}") for k in ("strict", "lenient"))
    if strict is None or lenient is None or abs(lenient - strict) <= GAP:
        return
    yield warn(
        id="E6",
        what=f"the score is {strict:.3g} with the strict extractor, {lenient:.3g} with the lenient",
        where="observed['score_strict']",
        why="one of them measures how answers are wrapped, not whether they are right",
        fix="report both, and look at ten answers that only the lenient one accepts",
    )


def cut_answers(record: RunRecord) -> Iterator[Finding]:
    """E7: answers end by themselves, and the limit leaves room for the expected ones."""
    plan = record.evaluation or EvalPlan()
    limit = plan.max_new_tokens
    opened = [text for text, ended in plan.answers if not ended]
    if len(opened) > CUT * len(plan.answers):
        yield fail(
            id="E7",
            what=f"{len(opened)} of {len(plan.answers)} answers did not end with a stop token, the "
            f"first ends in {opened[0][-40:]!r}",
            where=f"max_new_tokens={limit}" if limit else "max_new_tokens",
            why="cut answers are scored as wrong ones, or a runaway model as a slow one",
            fix="raise max_new_tokens above the longest expected answer, and report the share",
        )
    if not limit:
        return
    golds = [
        len(record.tokenizer(str(m["content"]), add_special_tokens=False)["input_ids"])
        for messages in record.eval_conversations[:500]
        for m in messages[-1:]
        if m.get("role") == "assistant" and m.get("content")
    ]
    # The stop token needs room too.
    long = [n for n in golds if n + 1 > limit]
    if long:
        yield (fail if len(long) > CUT * len(golds) else warn)(
            id="E7",
            what=f"{len(long)} of {len(golds)} expected answers need up to {max(long) + 1} tokens, "
            f"max_new_tokens is {limit}",
            where="evaluation.max_new_tokens",
            why="these examples cannot be answered right",
            fix=f"max_new_tokens={max(long) + 1} or more",
        )


def teacher_forced(record: RunRecord) -> Iterator[Finding]:
    """E8: the deciding metric comes from answers that the model wrote itself."""
    metric = record.evaluation.metric if record.evaluation else ""
    if FORCED.fullmatch(metric.lower()):
        yield fail(
            id="E8",
            what=f"{metric} decides: the model sees the right answer up to every token",
            where="evaluation.metric",
            why="a model that never stops, or fails at its own first mistake, scores well",
            fix="generate answers and score those; keep the loss for watching the training",
        )


def selection(record: RunRecord) -> Iterator[Finding]:
    """E9: examples that choose a checkpoint are not the ones that are reported."""
    plan = record.evaluation or EvalPlan()
    both = sorted(map(str, plan.selection_ids & plan.test_ids))
    if both:
        yield fail(
            id="E9",
            what=f"{len(both)} of {len(plan.test_ids)} test examples also choose the checkpoint, "
            f"first {both[0]!r}",
            where="evaluation.selection_ids",
            why="the best of several checkpoints on these examples looks better than it is",
            fix="choose on a validation split, score the test split once",
            count=len(both),
        )


def outside(record: RunRecord) -> Iterator[Finding]:
    """E10: what the model could do before is measured again."""
    if record.evaluation is not None and not record.evaluation.general_suite:
        yield warn(
            id="E10",
            what="nothing outside the task is measured",
            where="evaluation.general_suite",
            why="a model that forgot everything else passes",
            fix="score a fixed set of general prompts before and after, with the same interval",
        )


DETECTORS: tuple[Detector, ...] = (
    teacher_forced,
    selection,
    one_sided,
    baseline,
    interval,
    extractors,
    outside,
    cut_answers,
    *repeatable.DETECTORS,
)
