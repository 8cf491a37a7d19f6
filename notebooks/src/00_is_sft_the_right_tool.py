# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Is fine-tuning the right tool for this task?
#
# Before training anything, ask the model. This notebook measures how far prompts alone get on the
# task of the whole series, with intervals, and prints a decision from the numbers.

# %% [markdown]
# **You will be able to** compute a prompt-only baseline with an interval · price a prompt per
# request · tell a format failure from a content failure · decide between prompting and tuning.
#
# **Needs** nothing but `make setup`. **Not covered**: constrained decoding, retrieval.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for everything random
test_rows: int = 0  # held-out mails to score, 0 means the profile decides

# %%
import time

from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import json

from sft_utils import chat, generation, modeling, scoring, tickets
from sft_utils.artifacts import ROOT, sha256_file
from sft_utils.report import COLOURS, checkpoint, figure, table, takeaway
from sft_utils.runtime import start

run = start("00_is_sft_the_right_tool", profile, seed=seed, test_rows=test_rows)

# %% [markdown]
# **Predict first.** Write three numbers down before you run on: which share of the answers of a
# 135M instruct model will be valid JSON of our schema from instructions alone? With three solved
# examples in the prompt? And a prompt with eight examples, how many times the tokens of one with a single
# line of instructions does it need?

# %% [markdown]
# ## What is the task?
#
# A support mail goes in, a ticket with nine fields comes out. Every field has a rule
# (`data/tickets/GUIDELINES.md`), the ticket has a JSON Schema, and the mails that score us are never
# trained on. Most of them were written one by one, the others come from a grammar.

# %%
rows = tickets.read_rows(tickets.TEST, test_rows or run.profile.test_rows)
examples = tickets.read_rows(tickets.FEW_SHOT)
for row in rows[:3]:
    print(tickets.mail(row), "\n→", row["messages"][1]["content"], "\n")

# %%
by_hand = [row["source"] == "handwritten" for row in rows]
takeaway(
    f"{len(rows)} held-out mails, {sum(by_hand)} of them hand-written; "
    f"{len(examples)} solved examples for prompts, none of them in the test set."
)

# %% [markdown]
# ## What do we say to the model?
#
# The instructions spell out every rule: a fair baseline gets all the help that a prompt can give.
# A tuned model will later get one line instead. Examples are added as earlier turns of the same
# conversation, which is the form an instruct model was trained on.

# %%
print(tickets.INSTRUCTIONS)

# %%
tokenizer = modeling.load_tokenizer(run.profile)
messages = tickets.prompt(rows[0], tickets.INSTRUCTIONS, examples[:1])
print(chat.render(tokenizer, messages, generation=True)[-900:])

# %% [markdown]
# ## How many tokens does each prompt cost?
#
# Every request pays for the whole prompt again (a cache can hide part of it on your own server).
# The price of a long prompt is therefore paid per request, for as long as the product lives; the
# price of tuning is paid once.

# %%
ARMS = {
    "base": (tickets.INSTRUCTIONS, []),
    "few_shot": (tickets.INSTRUCTIONS, examples[:3]),
    "few_shot_8": (tickets.INSTRUCTIONS, examples[:8]),
}
prompts = {
    arm: [chat.prompt_ids(tokenizer, tickets.prompt(row, system, shots)) for row in rows]
    for arm, (system, shots) in ARMS.items()
}
prompts["tuned (later)"] = [chat.prompt_ids(tokenizer, tickets.prompt(row)) for row in rows]
mean_tokens = {arm: sum(map(len, ids)) / len(ids) for arm, ids in prompts.items()}

# %%
price = 0.10  # $ per million input tokens: an example; put your provider's figure here
table(
    [
        {
            "prompt": arm,
            "tokens per request": round(n),
            "times the tuned prompt": n / mean_tokens["tuned (later)"],
            f"$ per million requests at ${price:.2f}/M": round(n * price),
        }
        for arm, n in mean_tokens.items()
    ]
)

# %% [markdown]
# ## How good are prompts alone?
#
# Greedy decoding (always the likeliest next token), one harness for all *arms* (the settings that are
# compared), every answer kept. `schema_valid` asks whether the whole
# answer is JSON that satisfies the schema. `field_f1` asks whether the values are right and accepts
# JSON with prose around it: prompting is not punished for a chatty answer, unless its length limit cuts it
# (how many were cut is counted below). Agreeing that a field is
# empty earns nothing, since most fields of most mails are; inventing a value for it costs.

# %%
model = modeling.load_model(run.profile)
model.eval()
base_weights = modeling.weights_hash(run.profile)


def answer(arm):
    """Greedy answers of one arm, kept on disk batch by batch."""
    return generation.generate(
        model,
        tokenizer,
        prompts[arm],
        max_new_tokens=run.profile.max_new_tokens,
        batch_size=run.profile.eval_batch_size,
        cache=run.dir / f"answers-{arm}.json",
        key=base_weights,
        progress=run.progress_file,
        what=f"answers, arm {arm}",
    )


# %%
answers, scores, seconds = {}, {}, {}
for arm in ARMS:
    began = time.monotonic()
    answers[arm] = answer(arm)
    seconds[arm] = (time.monotonic() - began) / len(rows)
    scores[arm] = tickets.score_answers(rows, answers[arm])
metrics = {}
for arm in ARMS:
    metrics |= scoring.arm_metrics(arm, scores[arm])

# %%
NAMES = ("parses", "schema_valid", "field_f1", "exact_match")
table(
    [
        {"arm": arm, **{m: metrics[f"{arm}.{m}"] for m in NAMES}, "s per answer": seconds[arm]}
        for arm in ARMS
    ],
    f"n = {len(rows)} mails, value [95 % interval]",
)

# %%
best = max(ARMS, key=lambda arm: metrics[f"{arm}.field_f1"]["value"])
title = f"Prompts alone reach {metrics[f'{best}.field_f1']['value']:.2f} field F1 at best"
with figure(
    title,
    f"n = {len(rows)} mails, profile {run.profile.name}, 95 % intervals",
    alt="; ".join(f"{a}: schema-valid {metrics[f'{a}.schema_valid']['value']:.3f}, "
                  f"F1 {metrics[f'{a}.field_f1']['value']:.3f}" for a in ARMS),
) as ax:
    for x, arm in enumerate(ARMS):
        for shift, name, colour in ((-0.18, "schema_valid", "base"), (0.18, "field_f1", "sft")):
            entry = metrics[f"{arm}.{name}"]
            low, high = entry["ci95"]
            error = [[max(entry["value"] - low, 0)], [max(high - entry["value"], 0)]]
            label = name if x == 0 else None
            ax.bar(x + shift, entry["value"], 0.34, color=COLOURS[colour], label=label)
            ax.errorbar(x + shift, entry["value"], error, color="black", capsize=3, lw=1)
    ax.set_xticks(range(len(ARMS)), [f"{a}\n{mean_tokens[a]:.0f} tokens" for a in ARMS])
    ax.set_ylim(0, 1)
    ax.set_ylabel("share / F1")
    ax.legend(frameon=False)

# %% [markdown]
# ## What do the failures look like?
#
# A number without an example invites wishful reading. Three answers of the best prompt, each below the
# ticket that is right (*gold*): look at whether the *form* fails, or the *content*.

# %%
for i in (0, len(rows) // 2, len(rows) - 1):
    print("MAIL  ", tickets.mail(rows[i])[:160].replace("\n", " "))
    print("GOLD  ", rows[i]["messages"][1]["content"])
    print("ANSWER", answers[best][i].text[:260].replace("\n", " "), "\n")

# %%
cut = {arm: sum(not a.stopped for a in answers[arm]) for arm in ARMS}
braces = {arm: sum("{" in a.text for a in answers[arm]) for arm in ARMS}
copied = sum(
    a.text.strip() in {e["messages"][1]["content"] for e in examples} for a in answers[best]
)
takeaway(
    f"Of {len(rows)} answers of arm {best}, {cut[best]} hit the length limit without stopping and "
    f"{copied} repeat the ticket of an example word for word."
)
takeaway("Answers that were cut, and those with a brace in them: "
         + ", ".join(f"{arm} {cut[arm]} and {braces[arm]}" for arm in ARMS) + f", of {len(rows)} each.")

# %% [markdown]
# ## Do more examples help?
#
# Paired on the same mails: where the arms find the same mails hard, these cancel, and the interval of
# the difference is narrower than two intervals side by side. One that touches zero is called *no
# difference*: none is shown, which is no proof that there is none.

# %%
few = scoring.f1_difference(scores["few_shot"], scores["base"])
more = scoring.f1_difference(scores["few_shot_8"], scores["few_shot"])
takeaway(f"Three examples against none: {scoring.verdict(few)} (field F1).")
takeaway(f"Eight examples against three: {scoring.verdict(more)} (field F1).")

# %% [markdown]
# ## Break it on purpose
#
# **Predict.** Score the same answers against the *wrong* mails. If a metric rewarded plausible
# output, it would stay high.

# %%
rotated = rows[1:] + rows[:1]
wrong = scoring.arm_metrics("rotated", tickets.score_answers(rotated, answers[best]))
right = metrics[f"{best}.field_f1"]["value"]
takeaway(f"Field F1 with the right mails {right:.3f}, with the wrong mails "
         f"{wrong['rotated.field_f1']['value']:.3f}: what is left is the luck of common values.")

# %% [markdown]
# **Why.** Topic, action and urgency have few values, so a blind answer scores above zero. A trivial
# baseline tells how much: one constant ticket for every mail, with the most frequent topic, action and
# urgency of the examples and nothing else. What a prompt is worth is what it adds to *that*.

# %%
trivial = {}
train_like = [tickets.gold(e) for e in examples]
for key in train_like[0]:
    values = [g[key] for g in train_like]
    trivial[key] = max(values, key=values.count) if key in ("topic", "action", "urgent") else None
constant = [scoring.score(json.dumps(trivial), tickets.gold(r), tickets.SCHEMA) for r in rows]
metrics["trivial.field_f1"] = scoring.f1_metric(constant)
takeaway(f"The constant ticket scores {scoring.field_f1(constant):.3f} field F1; "
         f"{sum(s.schema_valid for s in constant)} of {len(constant)} times it is schema-valid.")
for arm in ARMS:
    metrics[f"{arm}_minus_trivial.field_f1"] = scoring.f1_difference(scores[arm], constant)
    takeaway(f"{arm} against the constant ticket: "
             f"{scoring.verdict(metrics[f'{arm}_minus_trivial.field_f1'])} (field F1).")

# %% [markdown]
# ## How much data would tuning need?
#
# Published experience is about following instructions in general: LIMA (arXiv 2305.11206) trained on
# 1,000 examples, InstructGPT (arXiv 2203.02155) on about 13,000. One narrow task may need less. Quality
# and coverage decide, which is the subject of 01; 08 draws the curve for this task.

# %%
target = 0.90
lower, upper = metrics[f"{best}.field_f1"]["ci95"]
decision = "undecided, score more mails"
if upper < target:
    decision = "fine-tune"
elif lower >= target:
    decision = "keep prompting"
takeaway(
    f"Decision: {decision}. The best prompt ({best}) has field F1 between {lower:.2f} and {upper:.2f}, "
    f"the product needs {target:.2f}, and its prompt costs "
    f"{mean_tokens[best] / mean_tokens['tuned (later)']:.1f} times the tokens of a tuned model's."
)

# %%
said = [
    {"id": r["id"], "arm": arm, "answer": answers[arm][i].text, "source": r["source"]}
    for arm in ARMS
    for i, r in enumerate(rows)
]
generation.dump_answers(run.dir / "scored.jsonl", said)

# %% tags=["checkpoint"]
readme = [f"{arm}.{m}" for arm in ARMS for m in ("schema_valid", "field_f1")]
readme += ["trivial.field_f1", f"{best}_minus_trivial.field_f1"]
with checkpoint(run, headline=f"{best}.field_f1", readme=readme) as c:
    c.fingerprint("data", sha256_file(ROOT / tickets.TEST))
    c.fingerprint("template", chat.template_hash(tokenizer))
    c.fingerprint("tokenizer", modeling.tokenizer_hash(tokenizer))
    c.fingerprint("base_weights", base_weights)
    for name, entry in metrics.items():
        c.metric(name, entry)
    c.metric("few_shot_minus_base.field_f1", few)
    c.metric("few_shot_8_minus_few_shot.field_f1", more)
    for arm, n in mean_tokens.items():
        if arm in ARMS:
            c.metric(f"{arm}.prompt_tokens", n, n=len(rows))
    c.equal("answers per arm", [len(a) for a in answers.values()], [len(rows)] * len(ARMS))
    c.true("right mails score above wrong mails",
           right > wrong["rotated.field_f1"]["value"] or run.profile.name == "smoke")
    shared = {tickets.mail(e) for e in examples} & set(map(tickets.mail, rows))
    c.equal("examples that are test mails", len(shared), 0)
    c.save_file("scored", run.dir / "scored.jsonl")

# %% [markdown]
# **Summary**
# - A prompt-only baseline has a number and an interval before any training begins.
# - Form and content are different failures, and are measured by different metrics.
# - The decision follows from the interval of the best prompt and the target; the cost per request stands
#   beside it.
#
# **What this does not show**: prompting a much larger model may solve the task; constrained decoding
# repairs the form, and of the content only what a broken form had lost (05).
#
# **Exercises**: (1) Reorder the examples and measure again: does the interval of the paired difference
# exclude zero? (2) Replace the price by your provider's and find the number of requests at which one
# hour of GPU pays off. (3) Add a rule to the instructions for the field that is wrong most often (03 prints a
# table by field; its cell can be copied). Which mails may tell you whether it helped?
#
# **Next**: 01, where the training data comes from.

# %% [markdown]
# **Sources**: LIMA, arXiv 2305.11206v1 · InstructGPT, arXiv 2203.02155v1 · Miller, *Adding Error Bars
# to Evals*, arXiv 2411.00640v1 · Wilson, JASA 22 (1927) 209-212 · SmolLM2, arXiv 2502.02737v1.
