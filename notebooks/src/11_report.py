# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · What do we hand over, and what comes after SFT?
#
# The runs are recorded; here they become one page that a colleague can read, question and repeat, and
# one JSON file that says the same. Then the question behind every report: is supervised fine-tuning
# exhausted, and would learning from preferences do better? A criterion is measured and a small run of
# *direct preference optimization* (DPO) is tried, which learns from pairs of a better and a worse answer.

# %% [markdown]
# **You will be able to** read a claim with its n and interval · detect a record that contradicts
# itself · decide by number between more SFT, DPO, KTO and GRPO · check a DPO run before trusting it.
#
# **Needs** nothing: whatever has run is reported, the rest reads "not run". The DPO part uses the
# adapter of 03 and the mails of 01. **Not covered**: reward models, human preferences, on-policy RL.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for sampling and data order
dpo_steps: int = 0  # optimizer steps, 0 means the profile decides
dpo_rate: float = 0.00005  # learning rate of the preference run
beta: float = 0.1  # how strongly DPO holds on to the reference
temperature: float = 0.8  # of the sampled answers, above 0: greedy answers are there as well
report_to: str = "none"  # none | wandb (offline unless WANDB_MODE says otherwise)

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import copy
import math
from collections import Counter

import torch
from datasets import Dataset, disable_progress_bars
from peft import PeftModel
from transformers import BitsAndBytesConfig, PrinterCallback
from trl import DPOConfig, DPOTrainer

from sft_utils import (
    chat,
    generation,
    handfiles,
    handover,
    handpage,
    manifest,
    masking,
    modeling,
    preferences,
    scoring,
    tickets,
    tracking,
    training,
)  # fmt: skip
from sft_utils.artifacts import read_json, sha256_json, write_json, write_text
from sft_utils.errors import ConfigError, DataError, expect_error
from sft_utils.report import COLOURS, checkpoint, figure, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start(
    "11_report", profile, seed=seed, dpo_steps=dpo_steps, dpo_rate=dpo_rate, beta=beta,
    temperature=temperature, report_to=report_to,
)  # fmt: skip
if temperature <= 0:
    raise ConfigError(f"temperature = {temperature:g}; sampling divides by it, so it must be above 0")
P, SIZE = run.profile, preferences.sizes(run.profile)
disable_progress_bars()  # of tokenising the pairs

# %% [markdown]
# **Predict first.** Of the tuned model's wrong answers, how many break the form and how many are valid
# but wrong? If the model may answer several times, how often is one of the answers right? What is the
# first loss of a DPO run, before anything was learned?

# %% [markdown]
# ## What was recorded?
#
# Every notebook left one result file. Nothing is computed again here, and nothing is copied by hand: a
# track without a file is a track that was not run.

# %%
results = handover.recorded(P.name)
tracks = handover.tracks(results, run.notebook)
table([
    {"track": f"{t['number']} {t['title']}", "status": t["status"], "run": t.get("run_id", ""),
     "checks": f"{t['checks']['passed']}/{t['checks']['n']}" if "checks" in t else "",
     "inputs gone or recorded again": ", ".join(t.get("inputs_gone", []))}
    for t in tracks
], f"profile {P.name}")  # fmt: skip
measured = [t for t in tracks if t["status"] == "measured"]
takeaway(f"{len(measured)} of {len(tracks)} tracks are measured; the others are named as they are.")

# %% [markdown]
# ## What changed, and by how much?
#
# A claim is a before, an after and their paired difference on the same items. An interval that holds
# zero is called *no difference*: none is shown. Where no paired difference was recorded, two intervals that
# do not touch say the same with less power; a number without an interval is one measurement. Each interval is
# for its own comparison: where nothing differs, about one in twenty excludes zero by chance.

# %%
claims = [{"track": t["number"], **c} for t in measured for c in t["claims"]]
paired = [c for c in claims if c["difference"]]
table([
    {"track": c["track"], "claim": c["name"],
     **{side: c[side] or "" for side in ("before", "after", "difference")},
     "n": (c["difference"] or c["after"]).get("n", ""), "reading": c["reading"]}
    for c in claims
], "value [95 % interval]")  # fmt: skip
every = [handover.claim(t["metrics"], name) for t in measured for name in t["metrics"]
         if "_minus_" in name.partition(".")[0]]  # fmt: skip
readings = Counter(c["reading"] for c in every if c and c["difference"])
takeaway(f"The table has the main claims and every difference that reads worse. Of all {readings.total()} "
         "recorded paired differences: "
         + ", ".join(f"{n} {reading}" for reading, n in readings.most_common()) + ".")

# %%
shown = [c for c in paired if c["difference"].get("ci95")]
if shown:
    count = Counter(c["reading"] for c in shown)
    with figure(
        f"▲ better: {count['better']}, ● no difference: {count['no difference']}, ▼ worse: {count['worse']}",
        f"paired differences of the table with 95 % intervals; profile {P.name}",
        alt="; ".join(f"{c['track']} {c['name']} {c['difference']['value']:+.2f}" for c in shown),
    ) as ax:
        ax.figure.set_figheight(max(3.5, 0.17 * len(shown) + 1))
        for y, c in enumerate(shown):
            low, high = c["difference"]["ci95"]
            colour = COLOURS[{"better": "sft", "worse": "broken"}.get(c["reading"], "base")]
            ax.plot([low, high], [y, y], color=colour, lw=2)
            mark = {"better": "^", "worse": "v"}.get(c["reading"], "o")
            ax.plot(c["difference"]["value"], y, mark, color=colour, ms=4)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(range(len(shown)), [f"{c['track']} {c['name']}" for c in shown], fontsize=6)
        ax.set_xscale("symlog", linthresh=1, linscale=3)  # perplexity moves by more than shares can
        ax.set_xticks(ticks := [-1, -0.5, 0, 0.5, 1, 10], [f"{t:g}" for t in ticks])
        ax.set(xlabel="after minus before (logarithmic beyond 1)\nof nll, perplexity, bleed less is better")
        ax.invert_yaxis()

# %% [markdown]
# ## Break it on purpose: a number that was improved by hand
#
# **Predict.** Someone raises one score in a result file, or forgets its n. What in the file still
# knows better?

# %%
def planted(entries, name, **change):
    """The metrics of a run with one entry changed; the record itself stays as it is."""
    changed = copy.deepcopy(entries)
    changed[name] |= change
    return handover.faults({"metrics": changed})


EXAMPLE = {
    "base.field_f1": {"value": 0.25, "n": 8, "ci95": [0.125, 0.5]},
    "tuned.field_f1": {"value": 0.75, "n": 8, "ci95": [0.5, 1.0]},
    "tuned_minus_base.field_f1": {"value": 0.5, "n": 8, "ci95": [0.25, 0.75]},
}  # used where no track with a paired difference has run


def bound(entries):
    """The first difference of a run whose two arms were scored on the same items."""
    for name in (n for n in entries if "_minus_" in n):
        found = handover.claim(entries, name)
        sides = [found[s] for s in ("before", "after", "difference") if found and found[s]]
        if len(sides) == 3 and len({s.get("n") for s in sides}) == 1:
            return found


# %%
recorded_metrics = [results[t["notebook"]]["metrics"] for t in measured]
holder = next(filter(bound, recorded_metrics), EXAMPLE)
pair = bound(holder)
after = f"{pair['after']['arm']}.{pair['metric']}"
PLANTED = {
    "after raised": planted(holder, after, value=pair["after"]["value"] + 0.02, ci95=[0.0, 2.0]),
    "outside its interval": planted(holder, after, value=pair["after"]["value"] + 3),
    "n lost": planted(holder, after, n=None),
    "no number": planted(holder, after, value=float("nan")),
}
table([{"planted": k, "found": len(v), "first": v[0] if v else "nothing"} for k, v in PLANTED.items()])
contradictions = [f"{t['number']} {f}" for t in tracks for f in t["faults"]]
takeaway(f"In the recorded runs as they are: {contradictions or 'no contradiction'}.")

# %% [markdown]
# **Why.** A paired difference is computed from the same answers as its two arms, so three numbers
# bind each other. A report that copies only the best of them lets go of that.

# %% [markdown]
# ## What did it cost?
#
# Seconds and memory are what the runner saw. Tokens come from the trainer's log. Where no log is kept
# (trainings without checkpoints, results put back without their folder) they read *not recorded*; of the
# runs of 04 only the one that was killed and resumed keeps one. So the sum of tokens is a lower bound.
# FLOPs follow from tokens: a forward pass costs two per parameter and token, backward two more for the
# activations and two for weight gradients, and frozen weights need no weight gradient.

# %%
source, _ = modeling.model_source(P)
n_base = handfiles.base_parameters(source)
costs = handfiles.costs(P.name, results, n_base)
SHOWN = {"seconds": ",.0f", "peak_gib": ".1f", "steps": ",", "tokens": ",", "flops": ".2e"}
table([{"notebook": row["notebook"], **{k: "not recorded" if row[k] is None else f"{row[k]:{form}}"
                                        for k, form in SHOWN.items()}} for row in costs],
      handfiles.FORMULA)  # fmt: skip
seconds = sum(row["seconds"] or 0 for row in costs)
tokens = sum(row["tokens"] or 0 for row in costs)
takeaway(f"All recorded runs together: {seconds:,.0f} s, at least {tokens:,} tokens trained.")

# %% [markdown]
# ## When is SFT not enough?
#
# SFT raises the likelihood of gold answers. It cannot say "not like that". Two measurements decide
# whether a method that can is worth its cost. *How do answers fail?* A broken form is cured by a
# constraint (05), not by preferences. *Is there head room by sampling?* Of the mails that the greedy
# answer gets wrong, how many does one of several sampled answers get right? There the model knows more
# than it says, and a preference can raise what is there. Where hardly any, data is the cure.

# %%
ARMS = [("03_qlora_single_gpu", "tuned", ""), ("05_json_schema", "tuned", ""),
        ("05_json_schema", "tuned", "_unseen"), ("05_json_schema", "tuned_constrained", "_unseen")]
splits, split_names = {}, {}
for notebook, arm, suffix in ARMS:
    found = handover.failure_split(results.get(notebook, {"metrics": {}})["metrics"], arm, suffix)
    if found:
        shown_as = f"{notebook[:2]} {arm}{suffix.replace('_', ' ')}"
        splits[shown_as] = found
        split_names[shown_as] = f"{arm}.broken_form_share{suffix}_{notebook[:2]}"
if splits:
    table([{"arm": k, "wrong answers": v["n"], "of them broken form": v} for k, v in splits.items()],
          "the rest is valid and wrong")
else:
    takeaway("03 and 05 have not run here, or left no wrong answer: how answers fail is unknown.")

# %%
files, why_not = handover.inputs(results, {
    "01_data_preparation": ("train", "val"), "03_qlora_single_gpu": ("adapter",)
})  # fmt: skip
ready = not why_not
if why_not:
    takeaway(f"The DPO part and the sampling are skipped: {why_not}.")
tokenizer = modeling.load_tokenizer(P)
if ready:
    trained = results["03_qlora_single_gpu"]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16 if P.precision == "fp16" else torch.bfloat16,
    )  # fmt: skip
    base = modeling.load_model(P, quantization=nf4)
    model = PeftModel.from_pretrained(base, files["adapter"], is_trainable=True)
    modeling.to_bf16_adapter(model)
    plain = None if P.is_gpu else modeling.plain_copy(P)
    val = tickets.read_rows(files["val"], P.val_rows)
    takeaway(f"Adapter of run {trained['run_id']}; {len(val)} validation mails, none of the test set.")


# %%
def served():
    """The state that generates: a merged copy on a CPU, the model itself on a GPU."""
    return model.eval() if plain is None else modeling.merge_into(plain, model)


def ask(rows, limit):
    """Greedy answers of the present adapter."""
    return generation.generate(
        served(), tokenizer, [chat.prompt_ids(tokenizer, tickets.prompt(r)) for r in rows],
        max_new_tokens=limit, batch_size=2 * P.eval_batch_size, progress=run.progress_file,
    )  # fmt: skip


# %% [markdown]
# Sampling is written out once. Greedy decoding takes the largest logit; with Gumbel noise added to
# `logits / temperature` the largest one is a draw from the softmax, so greedy decoding of disturbed
# logits is sampling. An oracle that knows the gold answer picks the best of several draws: the share is
# an upper bound.

# %%
class Sampling:
    """Goes where a grammar would go: it may change the logits before the largest one is taken."""

    digest = f"sampled at {temperature:g}"

    def guide(self, rows):
        return self

    def restrict(self, logits, rows):
        uniform = torch.rand(logits.shape, device=logits.device).clamp(1e-9, 1 - 1e-7)
        return logits.float() / temperature - torch.log(-torch.log(uniform))

    def advance(self, rows, tokens):
        """Nothing to remember: every draw is made afresh."""


def sample(generator, rows, k):
    """`k` sampled answers per mail, as texts."""
    ids = [chat.prompt_ids(tokenizer, tickets.prompt(r)) for r in rows for _ in range(k)]
    drawn = generation.generate(
        generator, tokenizer, ids, max_new_tokens=P.max_new_tokens, batch_size=3 * P.eval_batch_size,
        progress=run.progress_file, constraint=Sampling(),
    )  # fmt: skip
    return [[a.text for a in drawn[i * k : (i + 1) * k]] for i in range(len(rows))]


def exact(rows, texts):
    """Whether each text is the gold ticket."""
    golds = map(tickets.gold, rows)
    return [scoring.score(t, g, tickets.SCHEMA).exact for t, g in zip(texts, golds, strict=True)]


# %%
step_metrics, room = {}, None
if ready:
    before = ask(val, P.max_new_tokens)
    greedy = exact(val, [a.text for a in before])
    some = val[: SIZE.sampled]
    seed_everything(seed)
    drawn = sample(served(), some, SIZE.samples)
    hits = [exact([r] * SIZE.samples, texts) for r, texts in zip(some, drawn, strict=True)]
    best = [any(h) for h in hits]
    wrong = [found for found, ok in zip(best, greedy, strict=False) if not ok]
    room = scoring.rate(wrong) if wrong else None
    lost = sum(ok and not found for found, ok in zip(best, greedy, strict=False))
    step_metrics |= {
        "tuned.exact_match_sampled_mails": scoring.rate(greedy[: len(some)]),
        "best_of_samples.exact_match": scoring.rate(best),
        "best_of_samples_minus_tuned.exact_match": scoring.rate_difference(best, greedy[: len(some)]),
        **({"samples.right_where_greedy_is_wrong": room} if room else {}),
    }  # fmt: skip
    takeaway(f"Of {len(some)} mails the greedy answer is right for {len(some) - len(wrong)}, at least one of "
             f"{SIZE.samples} samples for {sum(best)}. Of the {len(wrong)} that the greedy answer gets wrong, "
             f"samples put {sum(wrong)} right; of the others, no sample is right for {lost}.")

# %% [markdown]
# The rule, in the open: form first, then head room, then the kind of feedback that exists. Head room is
# worth a preference run if it is shown to be above `ENOUGH`, not worth one if shown to be below, and
# between the two undecided: a few mails cannot tell. With gold
# answers, pairs cost nothing (DPO). With single verdicts only (good or bad, no pairs), KTO. With a checker
# that can judge any answer, as here, GRPO (reinforcement learning on groups of sampled answers) may explore
# beyond both, at many sampled answers per step.

# %%
ENOUGH = 0.1  # share of the wrong answers that sampling must put right


def decide(split, head_room):
    """The next method, with the measurement that decided."""
    if split is None or head_room is None:
        return "Not decided: the failures or the head room were not measured, or nothing was wrong."
    form = f"{split['value']:.0%} of {split['n']} wrong answers break the form"
    low, high = head_room["ci95"]
    room_text = (f"sampling is right for {head_room['value']:.0%} [{low:.0%}, {high:.0%}] of "
                 f"{head_room['n']} mails that the greedy answer gets wrong")  # fmt: skip
    if split["ci95"][0] > 0.5:
        return f"Constrain decoding first: {form}."
    if low > ENOUGH:
        return (f"SFT alone leaves right answers unsaid: {room_text}; {form}. Preferences have "
                "something to raise. Pairs exist, so DPO is the cheapest trial; the scorer would "
                "serve GRPO as a reward.")  # fmt: skip
    if high < ENOUGH:
        return f"More or better SFT data first: {room_text}; {form}. There is little to raise."
    return f"Undecided, sample more mails: {room_text}, {ENOUGH:.0%} are asked; {form}."


decision = decide(splits.get("03 tuned"), room)
takeaway(decision)

# %% [markdown]
# ## Which pairs?
#
# Training mails that 03 did not take are answered by the tuned model; where it took all, those that it was
# trained on, and the table says so. Each wrong answer becomes the rejected half of a pair whose chosen half is
# the gold ticket. Right answers make no pair.

# %%
if ready:
    pool = tickets.read_rows(files["train"])
    taken = {r["id"] for r in tickets.prefer_handwritten(pool, P.train_rows)}
    left = [r for r in pool if r["id"] not in taken]
    mails = (left or pool)[:: max(1, len(left or pool) // SIZE.asked)][: SIZE.asked]
    replies = ask(mails, P.max_new_tokens)
    right = exact(mails, [a.text for a in replies])
    if all(right):
        ready, why_not = False, f"all {len(mails)} training mails asked were answered right: nothing to prefer"
        takeaway(f"DPO is skipped: {why_not}.")
if ready:
    golds = [r["messages"][1]["content"] for r in mails]
    rows, counts = preferences.pairs([tickets.prompt(r) for r in mails], golds, replies, right)
    table([counts], "training mails, answered by the tuned model, " + (
        "03 did not train on them" if left else "trained on by 03: it left none out"))
    print("CHOSEN  ", rows[0]["chosen"][0]["content"])
    print("REJECTED", rows[0]["rejected"][0]["content"])
    with expect_error(DataError, match="nothing to prefer"):
        preferences.pairs([tickets.prompt(mails[0])], golds[:1], replies[:1], [True])

# %% [markdown]
# ## Break it on purpose: the update that rounds to nothing
#
# **Predict.** 03 keeps its adapter in bf16, with eight bits of precision (in float32 where a GPU has no
# bf16). DPO steps are small. Which share of the adapter's weights can one step of this size change at all?

# %%
moves = {}
if ready:
    weights = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora_" in n])
    for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        w = weights.to(dtype)
        moves[name] = (w + dpo_rate != w).float().mean().item()
    takeaway(f"A step of {dpo_rate:g} changes {moves['bf16']:.1%} of the weights in bf16 and "
             f"{moves['float32']:.1%} in float32.")

# %% [markdown]
# **Why.** A sum is rounded to the nearest number that the type can hold. Nothing warns: the loss is
# logged, the optimizer steps, and large weights stay where they are. So the adapter trains in float32
# here; the *reference* must be cast with it, or the two start apart.

# %% [markdown]
# ## What does DPO compute?
#
# $-\log\sigma\big(\beta\,[(\log p_\theta - \log p_{ref})(chosen) - (\log p_\theta - \log p_{ref})(rejected)]\big)$.
# Beta times the bracket is logged as the *reward margin*.
# Before the first step the model *is* its reference, the bracket is zero and the loss is $\ln 2$.
# A first line of the log that is far from it means that something other than the tuned model is held on
# to; how far is far stands in the checkpoint, since the trainer's own first loss need not be exact.

# %%
def log_p(rows, side):
    """Log-probability of one side of each pair under the present state of the model."""
    encoded = [masking.assistant_labels(tokenizer, [*r["prompt"], *r[side]], max_length=P.max_length)
               for r in rows]  # fmt: skip
    nll = modeling.answer_nll(model, encoded, tokenizer.pad_token_id)
    counted = [masking.supervised(e) for e in encoded]
    return -torch.tensor(nll, dtype=torch.float64) * torch.tensor(counted)


def margin(rows):
    """How much more likely the chosen answer is than the rejected one, in nats."""
    return log_p(rows, "chosen") - log_p(rows, "rejected")


def dpo_loss(policy, reference):
    """The loss by hand, from two margins."""
    return -torch.nn.functional.logsigmoid(beta * (policy - reference)).mean().item()


# %%
first_losses = {}
if ready:
    few = rows[:4]
    start_margin = margin(few)
    with model.disable_adapter():
        base_margin = margin(few)
    first_losses = {"the base model": dpo_loss(start_margin, base_margin)}
    takeaway(f"ln 2 is {math.log(2):.4f}. With the base model as reference the loss starts at "
             f"{first_losses['the base model']:.4f} (n = {len(few)} pairs): the run would pull back "
             "towards a model that cannot do the task.")

# %% [markdown]
# ## A small DPO run
#
# TRL copies the loaded adapter as a frozen second adapter named `ref`. Whether that copy is the tuned
# model is measured: with it as reference, the first loss by hand must be $\ln 2$. The pairs go in as
# messages, and the tokens that come out are compared with those of 03.

# %%
steps = dpo_steps or SIZE.steps
arguments = DPOConfig(
    output_dir=str(run.dir / "dpo"),
    max_steps=steps,
    per_device_train_batch_size=2,
    learning_rate=dpo_rate,
    lr_scheduler_type="constant",
    weight_decay=0.0,
    max_grad_norm=1.0,
    beta=beta,
    loss_type=["sigmoid"],
    max_length=P.max_length,
    bf16=P.is_gpu and P.precision == "bf16",
    fp16=P.is_gpu and P.precision == "fp16",
    use_cpu=not P.is_gpu,
    gradient_checkpointing=P.is_gpu,
    logging_steps=1,
    logging_nan_inf_filter=False,  # a NaN would be logged as 0
    save_strategy="no",
    seed=seed,
    data_seed=seed,
    report_to=report_to,
    disable_tqdm=True,
)

# %%
log, differing = [], -1
if ready:
    tuned = modeling.adapter_state(model)
    trainer = DPOTrainer(
        model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[training.Progress(run.progress_file)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    for name, parameter in model.named_parameters():  # the adapter and its reference alike
        if "lora_" in name:
            parameter.data = parameter.data.float()
    modeling.restore_adapter(model, tuned)  # TRL rounds it to bf16 after it has copied the reference
    model.set_adapter("ref")
    copied_margin = margin(few)
    model.set_adapter("default")
    first_losses["TRL's copy"] = dpo_loss(margin(few), copied_margin)
    table([{"reference": k, "first loss": v} for k, v in first_losses.items()], f"n = {len(few)} pairs")

# %%
if ready:
    differing, behind = 0, set()
    for row, seen in zip(rows, trainer.train_dataset, strict=True):
        for side in ("chosen", "rejected"):
            ours = masking.assistant_labels(tokenizer, [*row["prompt"], *row[side]], max_length=P.max_length)
            differing += seen["prompt_ids"] + seen[f"{side}_ids"] != ours["input_ids"]
            behind.add(tokenizer.decode(seen[f"{side}_ids"][masking.supervised(ours):]))
    takeaway(f"{differing} of {2 * len(rows)} conversations reach DPO with other tokens than 03 reads. "
             f"DPO also weighs what the template writes behind an answer: {sorted(behind)}.")

# %%
run.fingerprints |= {
    "data": sha256_json(rows if ready else sorted(r["run_id"] for r in results.values())),
    "template": chat.template_hash(tokenizer),
    "tokenizer": modeling.tokenizer_hash(tokenizer),
    "base_weights": modeling.weights_hash(P),
}
facts = manifest.build(run)
if ready:
    seed_everything(seed)
    with tracking.tracked(run, report_to, {"run_id": facts["run_id"], "manifest": facts}):
        trainer.train()
    log = [e for e in trainer.state.log_history if "loss" in e]
    moved = margin(few) - start_margin
    table([{"step": e["step"], "loss": e["loss"], "reward margin": e["rewards/margins"]}
           for e in log[:: max(1, len(log) // 6)]], f"{steps} steps of two pairs")  # fmt: skip
    takeaway(f"The first loss is {log[0]['loss']:.4f}. The margin of the first {len(few)} pairs moved by "
             f"{moved.mean().item():+.2f} nats.")

# %% [markdown]
# ## Did it help?
#
# The same validation mails, before and after, paired. They chose the checkpoint in 03, for both sides
# alike; the test mails stay out of this.

# %%
if ready:
    after_dpo = ask(val, P.max_new_tokens)
    scores = {"tuned": tickets.score_answers(val, before), "dpo": tickets.score_answers(val, after_dpo)}
    for arm, values in scores.items():
        found = scoring.arm_metrics(arm, values, ("schema_valid", "field_f1", "exact_match"))
        step_metrics |= {f"{k}_val": v for k, v in found.items()}
    gain = scoring.f1_difference(scores["dpo"], scores["tuned"])
    step_metrics["dpo_minus_tuned.field_f1_val"] = gain
    changed = sum(a.text != b.text for a, b in zip(before, after_dpo, strict=True))
    table([{"arm": a, "n": len(val), **{m: step_metrics[f"{a}.{m}_val"] for m in
            ("schema_valid", "field_f1", "exact_match")}} for a in scores], "validation mails")  # fmt: skip
    takeaway(f"{changed} of {len(val)} answers changed; field F1 {scoring.verdict(gain)}.")
    decision += f" The trial of {steps} steps on {len(rows)} pairs: field F1 {scoring.verdict(gain)}."
else:
    decision += f" No DPO trial: {why_not}."

# %% [markdown]
# ## The report
#
# One JSON value, and one page made from that value and nothing else: no script, no resource from
# outside, light and dark, readable on a phone and on paper.

# %%
report = {
    "profile": P.name, "tracks": tracks,
    "next_step": {"decision": decision, "metrics": step_metrics, "failure_split": splits},
    "costs": costs, "base_parameters": n_base, "flops_formula": handfiles.FORMULA,
    "data_cards": handfiles.data_cards(), "model_cards": handfiles.model_cards(results),
    "tracking_runs": handfiles.tracking_runs(P.name, results),
    "manifests": handfiles.manifests(results), "runbook": handfiles.runbook(P.name, results),
    "limits": handover.limits(),
}  # fmt: skip
write_json(run.dir / "report.json", report)
page = handpage.page(read_json(run.dir / "report.json"))
write_text(run.dir / "report.html", page)
table([{"section": title, "entries": len(report[key])} for title, key in {
    "tracks": "tracks", "data cards": "data_cards", "model cards": "model_cards",
    "W&B runs": "tracking_runs", "runbook steps": "runbook", "limits": "limits"}.items()])  # fmt: skip
takeaway(f"outputs/runs/{P.name}/11_report/report.html: {len(page.encode()) / 1024:.0f} KiB, one file.")

# %% tags=["checkpoint", "long-ok"]
unmarked = [x["name"] for x in claims if x["reading"] != "single measurement"
            and not (x["difference"] or x["after"]).get("n")]
outside = [word for word in ("<script", "src=", "@import", "url(", "<link") if word in page]
with tracking.tracked(run, report_to, {"run_id": facts["run_id"]}) as tracker:
    tracking.log_summary(tracker, step_metrics)
README = ["report.tracks_measured", "best_of_samples_minus_tuned.exact_match",
          "samples.right_where_greedy_is_wrong", "dpo_minus_tuned.field_f1_val"]  # fmt: skip
README = [name for name in README if name in ("report.tracks_measured", *step_metrics)]
with checkpoint(run, headline="report.tracks_measured", readme=README) as c:
    c.metric("report.tracks_measured", len(measured), n=len(tracks))
    c.metric("report.claims", len(claims), n=len(measured))
    for name, entry in step_metrics.items():
        c.metric(name, entry)
    for name, found in splits.items():
        c.metric(split_names[name], found)
    c.equal("recorded numbers that contradict themselves", contradictions, [])
    c.equal("planted faults that were not found", [k for k, v in PLANTED.items() if not v], [])
    c.equal("claims without n that are not marked as single", unmarked, [])
    c.equal("resources from outside, scripts", outside, [])
    c.true("the page comes from the JSON alone", handpage.page(read_json(run.dir / "report.json")) == page)
    c.true("every section has a heading", all(f'id="{k}"' in page for k in handpage.SECTIONS))
    if ready:
        c.equal("conversations that reach DPO with other tokens", differing, 0)
        # Inside the trainer it is not quite ln 2, probably because a 4-bit layer takes another kernel
        # with gradients; not proven. By hand, without gradients, both sides take the same one.
        c.between("first DPO loss minus ln 2", log[0]["loss"] - math.log(2), -0.005, 0.005)
        c.between("first loss by hand minus ln 2", first_losses["TRL's copy"] - math.log(2), -1e-6, 1e-6)
        c.true("the wrong reference does not start at ln 2",
               abs(first_losses["the base model"] - math.log(2)) > 0.005)
        c.true("float32 moves more weights than bf16", moves["float32"] > moves["bf16"] or moves["bf16"] == 1)
        c.equal("DPO steps", len(log), steps)
    c.save_file("report", run.dir / "report.html")
    c.save_file("data", run.dir / "report.json")

# %% [markdown]
# **Summary**
# - The report is made from records; what was not recorded is named, and a record that contradicts
#   itself stops it.
# - A preference run is worth trying when answers keep their form, are wrong in content, and sampling
#   finds right ones. That does not show that more SFT would help less; too few mails are *undecided*.
# - A DPO run starts close to ln 2 with the tuned model as reference; far from it, it trains something else.
#
# **What this does not show**: what a long preference run would reach, other values of beta and rate,
# KTO and GRPO (reasoned, not run), or whether as many SFT steps on the same gold answers would do the
# same. The pairs differ in few tokens, where DPO is weakest. Validation mails chose the checkpoint of
# 03. Head room is an oracle's. What to try next is read off failures on test mails, so those mails cannot
# judge that choice again. The adapter is in bf16 before DPO and in float32 after it: answers that changed
# include those that this rounding alone changes. One seed.
#
# **Exercises**: (1) Write `shortfall` below. (2) Set `temperature` low and watch the head room.
# (3) Run with `dpo_rate` a hundred times larger and read the reward margin beside field F1.
#
# **Next**: your own file through 03, then this report again.

# %%
def shortfall(metric: dict, target: float) -> bool:
    """Whether a metric misses a target surely: its whole interval lies below."""
    return False  # FILL ME IN (1 line)


def check(yours: list[bool], expected: list[bool]) -> None:
    print("solved" if yours == expected else "not solved yet", "· yours", yours)
    print("expected", expected)


ENTRIES = [{"value": 0.5, "ci95": [0.4, 0.6]}, {"value": 0.85, "ci95": [0.8, 0.95]}]
check([shortfall(e, 0.9) for e in ENTRIES], [True, False])

# %% [markdown]
# **Sources**: Rafailov et al., *Direct Preference Optimization*, arXiv 2305.18290v3 · Ethayarajh et
# al., *KTO*, arXiv 2402.01306v4 · Shao et al., *DeepSeekMath* (GRPO), arXiv 2402.03300v3 · Pal et al.,
# *Smaug*, arXiv 2402.13228v2, on pairs that differ in few tokens · Kaplan et al., arXiv 2001.08361v1,
# section 2.1 on FLOPs · TRL 1.14.2, trainer/dpo_trainer.py.
