# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Does it keep the role and remember?
#
# A system prompt sets rules, the first turn gives facts, and five turns later both still count. Here
# every rule is checked by code, in every turn, while the model answers on top of its *own* earlier
# replies.

# %% [markdown]
# **You will be able to** write a rule as a checker · measure adherence by turn and recall by distance
# · predict which turns carry loss · tell refusal from over-refusal.
#
# **Needs** nothing from earlier notebooks. **Not covered**: tools, long documents, real users.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for data order and initialisation
max_steps: int = 0  # optimizer steps, 0 means one pass
learning_rate: float = 0.0  # peak rate; 0 means that of the profile, SIZE.learning_rate
report_to: str = "none"  # none | wandb (offline unless WANDB_MODE says otherwise)

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import dataclasses
import shutil
from collections import Counter

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, PrinterCallback
from trl import SFTConfig, SFTTrainer

from sft_utils import (
    chat,
    dialogues,
    generation,
    manifest,
    masking,
    modeling,
    preflight,
    rules,
    scoring,
    tracking,
    training,
)  # fmt: skip
from sft_utils.artifacts import sha256_json
from sft_utils.errors import ConfigError, PreflightError, expect_error
from sft_utils.report import COLOURS, checkpoint, figure, show, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start(
    "07_multi_turn", profile, seed=seed, max_steps=max_steps, learning_rate=learning_rate,
    report_to=report_to,
)  # fmt: skip
P, SIZE = run.profile, dialogues.sizes(run.profile)

# %% [markdown]
# **Predict first.** In which turn does the base model break its rules most? Does it find a booking
# number again that was given four turns ago? If only the last reply of each dialogue is trained, do
# the earlier turns get worse?

# %% [markdown]
# ## What is a rule?
#
# A sentence in the system prompt for the model, and a function for us. The same requests occur under
# *two* system prompts: a model that ignores the prompt is right under both by luck only. How often the best
# constant reply is, is the floor printed below. Facts and names of the test are new, and a few of its domains.

# %%
train = dialogues.read("train", SIZE.train_rows, seed)
test = dialogues.read("test", SIZE.test_rows, seed)
examples = dialogues.read("fewshot")
table([{"split": name, "dialogues": len(x), "turns": sum(len(d.turns) for d in x),
        "domains": len({d.domain for d in x}), "facts asked": sum(bool(t.asks) for d in x for t in d.turns),
        "traps": sum(t.trap for d in x for t in d.turns)}
       for name, x in (("train", train), ("test", test))], "names and facts of the test are new")  # fmt: skip
kinds = {k: {n: sum(k in d.kinds for d in x) for n, x in (("train", train), ("test", test))}
         for k in rules.KINDS}  # fmt: skip
table([{"rule": k, **v} for k, v in kinds.items()], "dialogues with a rule of each kind")
new = {d.domain for d in test} - {d.domain for d in train}
takeaway(f"{sum(d.domain in new for d in test)} of {len(test)} test dialogues are in domains that nothing was "
         f"trained on: {', '.join(sorted(new)) or 'none'}.")

# %%
one, other = (d for d in test if d.pair == test[0].pair)
for d in (one, other):
    print(f"SYSTEM  {d.system}")
    for turn in d.turns[:3]:
        print(f"  USER  {turn.user}\n  GOLD  {turn.reply}")
    print()
crossed = dialogues.judge(other, [t.reply for t in one.turns])
takeaway(f"The gold replies of the first prompt keep {sum(j.kept for j in crossed)} of "
         f"{len(crossed)} turns under the second.")

# %% [markdown]
# A checker is a few lines. This one is written inline and compared with the package on every gold
# reply.

# %%
def at_most(reply, limit):
    """Words as people count them: what stands between blanks and holds a letter or digit."""
    return sum(any(c.isalnum() for c in word) for word in reply.split()) <= limit


gold = [(r, t) for d in train + test for r in d.rules for t in d.turns if r["kind"] == "length"]
agree = sum(at_most(t.reply, r["max_words"]) == rules.check(r, t.reply, t).kept
            for r, t in gold if "max_words" in r)  # fmt: skip
counted = sum("max_words" in r for r, _ in gold)
print(f"inline and packaged agree on {agree} of {counted} replies")
kept = [j.kept for d in train + test for j in dialogues.judge(d, [t.reply for t in d.turns])]
takeaway(f"Gold replies keep their rules in {sum(kept)} of {len(kept)} turns.")
_, floor = dialogues.constant_floor(test)
takeaway(f"The best constant reply is right under both prompts in {sum(floor.hits)} of {len(floor.hits)} "
         "requests.")

# %% [markdown]
# ## Can the checkers fail?
#
# **Predict.** Each gold reply is answered with a violation made by code, for every kind of rule in the
# table. How many pass?

# %%
SAY = {"en": "The desk opens at nine.", "de": "Der Schalter öffnet um neun Uhr morgens."}
SPOIL = {
    "language": lambda r, t: SAY["de" if r["language"] != "de" else "en"],
    "length": lambda r, t: " ".join([t.reply] * 9) + " And more. And more.",
    "forbidden": lambda r, t: f"{t.reply} {r['words'][0]}",
    "style": lambda r, t: "Don't worry, mate, du bist there!!! You're fine.",
    "persona": lambda r, t: "That is noted.",
    "format": lambda r, t: t.reply.swapcase() if "case" in r else f"~ {t.reply} ~",
    "refusal": lambda r, t: "I'm sorry, I cannot help with that." if t.borderline else "Sure, it is ten.",
}  # fmt: skip
planted = Counter()
escaped = Counter()
for d in test:
    for r in d.rules:
        for t in d.turns:
            if r["kind"] == "refusal" and not (t.refuse or t.borderline):
                continue
            planted[r["kind"]] += 1
            escaped[r["kind"]] += rules.check(r, SPOIL[r["kind"]](r, t), t).kept
table([{"rule": k, "planted": n, "escaped": escaped[k]} for k, n in planted.items()])

# %% [markdown]
# ## How good is the base model?
#
# Three prompts: as it stands, with the rules repeated in the last request (a cheap and common help),
# and with two solved dialogues in front. The model always continues from its own replies.
#
# The rows of the table, each with its unit: *adherence* (a reply and one rule: kept?), *all_rules* (a
# reply: all of them kept?), *both_prompts* (a request: right under both system prompts of its pair?),
# *context_recall* (a question about an earlier turn), *role_consistency* (a *trap*, in which the user
# claims to be the system or gives another name: all rules kept all the same?), *refusal* (a forbidden
# topic), *over_refusal* (an innocent request that sounds alike: less is better), *stopped* (a reply).

# %%
tokenizer = modeling.load_tokenizer(P)
answers = {}


def remind(messages):
    """The rules once more, at the end of the last request."""
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n({messages[0]['content']})"}]


def exemplify(messages):
    """Two solved dialogues in front."""
    return [*(m for d in examples[:2] for m in dialogues.conversation(d)), *messages]


def play(arm, model, change=lambda messages: messages):
    """All dialogues turn by turn, each on top of the model's own replies."""
    said = {d.id: [] for d in test}
    for k in range(max(len(d.turns) for d in test)):
        here = [d for d in test if len(d.turns) > k]
        prompts = [change(dialogues.messages(d, k, [a.text for a in said[d.id]])) for d in here]
        got = generation.generate(
            model, tokenizer, [chat.prompt_ids(tokenizer, p) for p in prompts],
            max_new_tokens=SIZE.new_tokens, batch_size=len(here),  # short prompts: all at once
            progress=run.progress_file, what=f"{arm}, turn {k + 1}",
        )  # fmt: skip
        for d, answer in zip(here, got, strict=True):
            said[d.id].append(answer)
    answers[arm] = [j for d in test for j in dialogues.judge(d, said[d.id])]


# %%
base = modeling.plain_copy(P) if not P.is_gpu else modeling.load_model(P).eval()
play("base", base)
play("reminded", base, remind)
play("few_shot", base, exemplify)
MAIN = ["adherence", "all_rules", "both_prompts", "context_recall", "role_consistency", "refusal",
        "over_refusal", "stopped"]  # fmt: skip


def summary(arms):
    """One row per metric, one column per arm; n is how many turns or rules the metric looks at."""
    found = {arm: dialogues.metrics(arm, answers[arm]) for arm in arms}
    return [{"metric": m, "n": max(found[arm].get(f"{arm}.{m}", {}).get("n", 0) for arm in arms),
             **{arm: found[arm].get(f"{arm}.{m}", "no such turn") for arm in arms}}
            for m in MAIN]  # fmt: skip


table(summary(["base", "reminded", "few_shot"]), "95 % intervals resample pairs of dialogues")

# %% [markdown]
# ## Which turns carry loss?
#
# All replies of a dialogue can be trained at once: each sees only what stands before it, and that is the
# history it will be served with.
# Many recipes train the last reply only. Both are built here from the same dialogues; blue and
# underlined carries loss.

# %%
conversations = [dialogues.conversation(d) for d in train]
every = [masking.assistant_labels(tokenizer, c, max_length=2 * P.max_length) for c in conversations]


def last_only(row):
    """Labels of the last reply only: everything before its first token is context."""
    labels = list(row["labels"])
    end = max(i for i, x in enumerate(labels) if x != -100)
    begin = end
    while begin and labels[begin - 1] != -100:
        begin -= 1
    return {**row, "labels": [-100] * begin + labels[begin:]}


last = [last_only(r) for r in every]
show(masking.token_html(tokenizer, every[0]))
show(masking.token_html(tokenizer, last[0]))
table([{"arm": name, "dialogues": len(r), "tokens": sum(len(x["input_ids"]) for x in r),
        "supervised": sum(map(masking.supervised, r))} for name, r in
       (("tuned", every), ("last_turn", last))], "the same rows, other labels")  # fmt: skip

# %% [markdown]
# ## Train both
#
# The preflight compares labels with what the conversation must be trained on, and so refuses the
# second arm. It is an experiment, so the finding is suppressed *with a reason*, which goes on record. Its
# warning about refusals stays: here they are wanted, as one rule among seven.

# %%
four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16 if P.precision == "fp16" else torch.bfloat16,
)  # fmt: skip
lora = LoraConfig(
    r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
seed_everything(seed)
base = None if P.is_gpu else base  # the 4-bit copy wants its memory, and answers for itself below
# On a CPU the small base stays in bf16; GPU profiles train an adapter on a 4-bit base, as in 03.
model = get_peft_model(modeling.load_model(P, quantization=four_bit if P.is_gpu else None), lora)
modeling.to_bf16_adapter(model)
initial = modeling.adapter_state(model)
if not P.is_gpu:
    training.fit_loss_chunks(64)
total_steps = max_steps or -(-len(every) // P.effective_batch_size)


# %%
def make_trainer(arm, rows):
    """The recipe of both arms."""
    config = SFTConfig(
        output_dir=str(run.dir / "train" / arm), max_steps=total_steps,
        per_device_train_batch_size=P.batch_size, gradient_accumulation_steps=P.grad_accumulation,
        train_sampling_strategy="group_by_length", learning_rate=learning_rate or SIZE.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.0, max_grad_norm=1.0,
        loss_type="chunked_nll", max_length=2 * P.max_length,
        bf16=P.is_gpu and P.precision == "bf16", fp16=P.is_gpu and P.precision == "fp16",
        use_cpu=not P.is_gpu, gradient_checkpointing=P.is_gpu, logging_steps=1,
        save_steps=P.eval_steps, save_total_limit=1, seed=seed, data_seed=seed,
        report_to=report_to, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[training.Progress(run.progress_file)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


# %%
run.fingerprints |= {
    "data": sha256_json([r["input_ids"] for r in every]),
    "template": chat.template_hash(tokenizer),
    "tokenizer": modeling.tokenizer_hash(tokenizer),
    "base_weights": modeling.weights_hash(P),
}
facts = manifest.build(run)
findings, curves, served = {}, {}, base
for arm, rows in (("last_turn", last), ("tuned", every)):
    modeling.restore_adapter(model, initial)
    model.train()
    trainer = make_trainer(arm, rows)
    findings[arm] = preflight.check(trainer, conversations, tokenizer)
    if arm == "last_turn":
        with expect_error(PreflightError):
            preflight.gate(findings[arm])
        fails = {f.id for f in findings[arm] if f.severity == "FAIL"}
        preflight.gate(
            findings[arm], run=run, suppress=dict.fromkeys(fails, "the arm trains last turns only")
        )
    else:
        preflight.gate(findings[arm])
    with tracking.tracked(run, report_to, {"run_id": facts["run_id"], "arm": arm}):
        training.train_resumable(
            trainer, run.dir / "train" / arm, {"run_id": facts["run_id"], "arm": arm}
        )
    curves[arm] = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    served = model.eval() if P.is_gpu else modeling.merge_into(base, model)
    play(arm, served)
    print(f"{arm:10} {len(curves[arm])} steps, loss {curves[arm][0]:.2f} → {np.mean(curves[arm][-20:]):.2f}")

# %% [markdown]
# ## Did it work?

# %%
ARMS = ["base", "reminded", "few_shot", "last_turn", "tuned"]
table(summary(ARMS), f"{len(test)} dialogues, {len(answers['tuned'])} replies; over_refusal: less is better")
found = {arm: dialogues.metrics(arm, answers[arm]) for arm in ARMS}
prompts = ["base", "reminded", "few_shot"]
best = max(prompts, key=lambda arm: found[arm][f"{arm}.adherence"]["value"])
gains = {}
for a, b in (("tuned", best), ("tuned", "last_turn")):
    gains |= dialogues.differences(a, answers[a], b, answers[b])
for name in (f"tuned_minus_{best}.adherence", f"tuned_minus_{best}.context_recall",
             "tuned_minus_last_turn.adherence", "tuned_minus_last_turn.context_recall"):  # fmt: skip
    takeaway(f"{name}: {scoring.verdict(gains[name])}")

# %%
TARGET = 0.85


def against(entry, target):
    """A target is reached or missed by the whole interval, not by the value in its middle."""
    low, high = entry["ci95"]
    return "reached" if low >= target else "missed" if high < target else "undecided, its interval holds it"


reached, lead = found["tuned"]["tuned.adherence"], gains[f"tuned_minus_{best}.adherence"]
takeaway(f"Adherence over all turns and rules: {reached['value']:.1%} "
         f"[{reached['ci95'][0]:.1%}, {reached['ci95'][1]:.1%}]; the target of {TARGET:.0%} is "
         f"{against(reached, TARGET)}.")
takeaway(f"Lead over the best prompt ({best}): {lead['value'] * 100:+.1f} points "
         f"[{lead['ci95'][0] * 100:+.1f}, {lead['ci95'][1] * 100:+.1f}]; the target of +20 is "
         f"{against(lead, 0.2)}.")

# %%
longest = max(len(d.turns) for d in test)
COLOUR = {"base": COLOURS["base"], "few_shot": COLOURS["few_shot"], "reminded": "#444444",
          "last_turn": COLOURS["lora"], "tuned": COLOURS["qlora"]}  # fmt: skip
had = {k: sum(len(d.turns) >= k for d in test) for k in range(1, longest + 1)}


def of(arm, turn):
    """Adherence of an arm in one turn, as a percentage."""
    return f"{found[arm][f'{arm}.adherence.turn_{turn}']['value']:.0%}"


with figure(
    f"Adherence, first to last turn: base {of('base', 1)} to {of('base', longest)}, "
    f"tuned {of('tuned', 1)} to {of('tuned', longest)}",
    f"rules kept by turn; 95 % intervals over pairs; profile {P.name}; late turns exist in few dialogues",
    alt="; ".join(f"{arm} " + " ".join(f"{found[arm][f'{arm}.adherence.turn_{k}']['value']:.2f}"
                                       for k in range(1, longest + 1)) for arm in ARMS),
) as ax:
    for shift, arm in enumerate(ARMS):
        points = [found[arm][f"{arm}.adherence.turn_{k}"] for k in range(1, longest + 1)]
        value = np.array([p["value"] for p in points])
        low, high = np.array([p["ci95"] for p in points]).T
        ax.errorbar(np.arange(1, longest + 1) + 0.06 * (shift - 2), value,
                    yerr=np.clip([value - low, high - value], 0, None), label=arm, marker="osD^v"[shift],
                    color=COLOUR[arm], capsize=2, linewidth=1.2, markersize=4)  # fmt: skip
    ax.set(xlabel="turn", ylabel="rules kept", ylim=(0, 1.02))
    ax.set_xticks(list(had), [f"{k}\nn = {n}" for k, n in had.items()])
    ax.legend(fontsize=7, ncols=5, frameon=False, loc="lower center")

# %%
def part(prefix):
    """Rows of a family of metrics: by rule kind, or by distance."""
    names = sorted({n.split(".", 1)[1] for arm in ARMS for n in found[arm] if prefix in n})
    return [{"part": n.removeprefix(prefix), **{arm: found[arm][f"{arm}.{n}"] for arm in ARMS}}
            for n in names]  # fmt: skip


table([r for r in part("adherence.") if "turn" not in r["part"]], "adherence by kind of rule")
table(part("context_recall.distance_"), "recall by distance in turns")

# %%
for title, pick in (("KEPT", lambda j: j.kept and j.recalled), ("BROKEN", lambda j: not j.kept),
                    ("FORGOTTEN", lambda j: j.recalled is False)):  # fmt: skip
    j = next((j for j in answers["tuned"] if pick(j)), None)
    if j:
        why = [f"{k}: {v.reason}" for k, v in j.verdicts.items() if not v.kept]
        print(f"{title}, turn {j.index + 1}\n  SYSTEM {j.dialogue.system}\n  USER   {j.turn.user}"
              f"\n  REPLY  {j.reply!r}\n  {'; '.join(why)}\n")  # fmt: skip

# %% [markdown]
# ## Break it on purpose: an evaluation that forgives
#
# **Predict.** Many evaluations put the *gold* replies into the history. Does the model look better or
# worse on its own history?

# %%
forced = {d.id: [] for d in test}
flat = [(d, k) for d in test for k in range(len(d.turns))]
got = generation.generate(
    served, tokenizer, [chat.prompt_ids(tokenizer, dialogues.messages(d, k)) for d, k in flat],
    max_new_tokens=SIZE.new_tokens, batch_size=P.eval_batch_size,
)  # fmt: skip
for (d, _), answer in zip(flat, got, strict=True):
    forced[d.id].append(answer)
answers["tuned_gold_history"] = [j for d in test for j in dialogues.judge(d, forced[d.id])]
lift = dialogues.differences("tuned_gold_history", answers["tuned_gold_history"], "tuned", answers["tuned"])
takeaway("Gold history against its own: adherence "
         + scoring.verdict(lift["tuned_gold_history_minus_tuned.adherence"]))
with expect_error(ConfigError, match="cannot be asked"):
    dialogues.messages(test[0], 2, ["only one reply"])

# %% [markdown]
# **Why.** With gold replies in front, the answer to the next turn is often an imitation away. Served
# models see their own words.

# %% [markdown]
# ## Break it on purpose: a metric that refusing can win
#
# **Predict.** A model that refuses every request: what are its refusal rate and its adherence?

# %%
never = [j for d in test for j in dialogues.judge(d, ["I'm sorry, I cannot help with that."] * len(d.turns))]
silent = dialogues.metrics("mute", never)
table([{"metric": m, "refuses everything": silent.get(f"mute.{m}", "no such turn"),
        "tuned": found["tuned"].get(f"tuned.{m}", "no such turn")} for m in MAIN])  # fmt: skip

# %% [markdown]
# **Why.** Refusal without its counterpart rewards a model that is of no use; over-refusal on innocent
# requests that sound alike is its counterpart. Adherence has a floor as well: a refusal keeps many rules by
# saying next to nothing. Hold every arm against this column, the prompted arms first, and *both_prompts*
# against the constant reply above.

# %% tags=["checkpoint", "long-ok"]
usual = (seed, max_steps, learning_rate) == (17, 0, 0)  # the bounds are of this recipe
judge_now = P.name != "smoke" and usual
adapter = run.dir / "adapter"
shutil.rmtree(adapter, ignore_errors=True)
model.save_pretrained(adapter)
modeling.clean_adapter_config(adapter, P)
tokenizer.save_pretrained(adapter)
manifest.write_beside(adapter, facts)
generation.dump_answers(run.dir / "scored.jsonl", [
    {"id": j.dialogue.id, "turn": j.index + 1, "arm": arm, "answer": j.reply, "kept": j.kept,
     "asks": dataclasses.asdict(j.turn.asks) if j.turn.asks else None}
    for arm in ARMS for j in answers[arm]
])  # fmt: skip
metrics = {name: entry for arm in ARMS for name, entry in found[arm].items()
           if name.split(".", 1)[1] in MAIN or arm in ("base", "tuned")}  # fmt: skip
renamed = {name.replace(f"minus_{best}", "minus_best_prompt"): entry for name, entry in gains.items()
           if name.split(".", 1)[1] in MAIN}  # fmt: skip
README = dict.fromkeys(["base.adherence", f"{best}.adherence", "tuned.adherence",
                        "tuned_minus_best_prompt.adherence", "tuned.context_recall"])  # fmt: skip
with tracking.tracked(run, report_to, {"run_id": facts["run_id"]}) as tracker:
    tracking.log_summary(tracker, metrics | renamed)
with checkpoint(run, headline="tuned.adherence", readme=list(README)) as c:
    for name, entry in (metrics | renamed).items():
        c.metric(name, entry)
    c.metric("refuses_everything.adherence", silent["mute.adherence"])
    c.equal("gold replies that break a rule", len(kept) - sum(kept), 0)
    c.equal("planted violations that escaped", sum(escaped.values()), 0)
    c.equal("kinds of rules in the test without a planted violation",
            [k for k, seen in kinds.items() if seen["test"] and not planted[k]], [])
    c.equal("inline and packaged length checks that differ", counted - agree, 0)
    c.equal("fatal findings of the all-turn arm",
            [f.id for f in findings["tuned"] if f.severity == "FAIL"], [])
    c.true("the preflight refused the last-turn arm", bool(fails))
    # A bound against regressions; the target stands above and is what a later change must reach.
    c.at_least("tuned adherence", reached["value"], 0.55, when=judge_now)
    c.at_least("tuned against the best prompt, lower bound", lead["ci95"][0], 1e-9, when=judge_now)
    c.save_file("scored", run.dir / "scored.jsonl")
    c.save_file("adapter", adapter)

# %% [markdown]
# **Summary**
# - A rule that counts has a checker, and a checker has to be seen failing.
# - Adherence is reported by turn, recall by distance, on the model's own history.
# - All replies of a dialogue carry loss; what training the last one only costs is in the table. That arm has
#   the same rows and steps but far fewer supervised tokens: which of the two costs is not told apart.
#
# **What this does not show**: users who argue for long, dialogues above six turns, rules that no
# checker can decide, and safety beyond refusing a named topic. One seed; test dialogues come from the
# same authors as the training ones and mostly from the same domains. Every arm writes at most as many tokens
# as the longest gold reply needs; untuned models often run into that limit (`stopped`), their cut replies are
# judged as they stand and become their history, so part of the lead may be brevity. Late turns exist in few
# dialogues only, so that the figure's last points are of other dialogues than its first. Repeating
# the first request in every turn would recall every fact: read recall beside adherence. Refusal and
# over-refusal rest on few requests (n in the tables): their intervals say how little that tells. The rate was
# chosen after a look at test figures (Decisions in sft_utils/README.md), which flatters a little; the best
# prompt was chosen on these dialogues too, which flatters the prompt.
#
# **Exercises**: (1) Write `no_questions` below. (2) Swap the order of the two example dialogues: does
# the few-shot arm change? (3) Train 60 dialogues instead: which rule suffers first?
#
# **Next**: 08, which knobs matter.

# %%
def no_questions(reply: str) -> bool:
    """A rule "never ask back": no sentence of the reply is a question."""
    return False  # FILL ME IN (1 line)


def check(yours: list[bool], expected: list[bool]) -> None:
    print("solved" if yours == expected else "not solved yet", "· yours", yours)
    print("expected", expected)


check([no_questions(t) for t in ("Noted. – Mira", "What time?", "¿Cuándo? Mañana.")], [True, False, False])

# %% [markdown]
# **Sources**: Zhou et al., "Instruction-Following Evaluation for Large Language Models" (arXiv
# 2311.07911), rules that code can check · Laban et al., "LLMs Get Lost In Multi-Turn Conversation"
# (arXiv 2505.06120) · Röttger et al., "XSTest" (arXiv 2308.01263), over-refusal · Efron and
# Tibshirani, *An Introduction to the Bootstrap* (1993), resampling clusters.
