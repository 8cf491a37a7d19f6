# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · What did it unlearn, and what does it cost to keep?
#
# An adapter that is good at one task has moved every other answer too. Here the move is measured with
# questions that have nothing to do with the task, and the cheapest cure, replay, is priced: how much
# general ability does it keep, and what does that cost on the task?

# %% [markdown]
# **You will be able to** measure forgetting on paired items · read a frontier of learning against
# forgetting · pick a point by a rule instead of by taste · detect format bleed.
#
# **Needs** 01 (mails), 03 (the promoted adapter). **Not covered**: long contexts, safety, other
# languages.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for data order and initialisation
suite: str = ""  # lm-eval tasks with commas; empty: the profile's own (README of data/general)
file: str = ""  # your JSONL file with question, choices, answer; replaces the tasks
report_to: str = "none"  # none | wandb (offline unless WANDB_MODE says otherwise)

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import shutil
from itertools import cycle, islice

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, PrinterCallback
from trl import SFTConfig, SFTTrainer

from sft_utils import (
    chat,
    general,
    generation,
    manifest,
    masking,
    modeling,
    preflight,
    scoring,
    tasks,
    tickets,
    tracking,
    training,
)  # fmt: skip
from sft_utils.artifacts import handed_file, require, sha256_json
from sft_utils.errors import ConfigError, TemplateError, expect_error
from sft_utils.report import COLOURS, checkpoint, figure, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start("10_forgetting", profile, seed=seed, suite=suite, file=file, report_to=report_to)
P, SIZE = run.profile, general.sizes(run.profile)

# %% [markdown]
# **Predict first.** Which suffers most from training on ticket JSON: facts, grammar, sums, or following
# instructions? What share of ordinary questions does the tuned model answer with JSON? How much of the
# task gain does replay cost?

# %% [markdown]
# ## What could the base model do?
#
# Short items of five kinds. Four are multiple choice, scored by likelihood through the
# lm-evaluation-harness; the fifth wants an instruction obeyed, and code checks it. (GPU profiles ask MMLU,
# HellaSwag and IFEval of the hub instead, for hours on a small GPU; not measured.) Both sides of every
# comparison read the same prompts, template included; that is asserted, since another template moves
# these numbers by itself, and that would be booked as forgetting.

# %%
trained = require("03_qlora_single_gpu", profile, ours=True)
TASKS = general.task_names(P, wanted=suite, file=file)
tokenizer = modeling.load_tokenizer(P)
base = modeling.plain_copy(P) if not P.is_gpu else modeling.load_model(P).eval()
results = {"base": general.evaluate(base, tokenizer, tasks=TASKS, limit=SIZE.items)}
table([{"task": t, "base": general.accuracy(results["base"], [t])} for t in TASKS],
      "accuracy [95 % interval]")  # fmt: skip
CHOICE = [t for t in TASKS if t not in ("instructions", "ifeval")]  # together: general accuracy

# %% [markdown]
# A number that decides something is computed twice. The second way shares no code with the harness:
# context and answer through the model, log-probabilities of the answer's tokens added up. In float32,
# where a model of that size fits: in 16 bits the two ways round differently.

# %%
wide = not P.is_gpu or 4 * base.num_parameters() < 0.8 * torch.cuda.mem_get_info()[0]
exact = modeling.load_model(P, dtype=torch.float32).eval() if wide else base
probe = [t for t in CHOICE if t in ("facts", "grammar")] or CHOICE[:1]
few = min(6, SIZE.items)
theirs = [r for r in general.evaluate(exact, tokenizer, tasks=probe, limit=few) if r.choices]
ours = {(t, name): pairs for t in probe if t in general.CHOICE
        for name, pairs in general.requests(t, tokenizer)}  # fmt: skip
gaps = []
for r in theirs:
    pairs = ours.get((r.task, r.id)) or [(r.prompt, choice) for choice in r.choices]
    again = general.loglikelihoods(exact, tokenizer, pairs)
    gaps += [abs(x - y) for x, y in zip(again, r.scores, strict=True)]
takeaway(f"Largest difference of {len(gaps)} log-likelihoods in {str(exact.dtype).split('.')[1]}: "
         f"{max(gaps, default=0):.1e} nats.")
del exact

# %% [markdown]
# Without the template the same model is asked something else, and judged otherwise on some items: a
# careless "after" would book that as forgetting, or as a gain. The package refuses the comparison.

# %%
bare = general.evaluate(base, tokenizer, tasks=CHOICE, limit=SIZE.grid_items, chat_template=False)
same = general.evaluate(base, tokenizer, tasks=CHOICE, limit=SIZE.grid_items)
picked_on = {(r.task, r.id) for r in same}  # what the grid below will read


def unseen(found):
    """Items that pick no grid point; all of them where the grid needs all there are."""
    return [r for r in found if (r.task, r.id) not in picked_on] or list(found)


without, usual = ([r.correct for r in found] for found in (bare, same))
takeaway(f"The untouched base model without its template is judged otherwise on "
         f"{sum(a != b for a, b in zip(without, usual, strict=True))} of {len(same)} items; accuracy "
         f"{scoring.verdict(scoring.rate_difference(without, usual))}.")
with expect_error(TemplateError):
    general.accuracy_difference(bare, same)

# %% [markdown]
# ## What did the task adapter of 03 unlearn?
#
# Three more measures beside accuracy: perplexity of prose nobody trained on, *format bleed* (the share
# of ordinary questions that are answered in JSON), and the nats per token that ordinary answers have
# lost, the budget that 03 kept. 03 mixed replay into its rows already: what is lost here is lost in spite of
# it. The adapter of 03 was trained on 4-bit weights and is scored on them,
# the base in 16 bits: what rounding the base did to it is part of its difference. On a CPU the runs below
# train and are scored on the 16-bit base; GPU profiles train and score them on 4-bit weights as 03 does,
# and there rounding is part of theirs too.

# %%
asked = general.questions(SIZE.questions)
asked_in_grid = general.questions()[SIZE.questions :][: SIZE.questions // 2]  # others
texts = general.heldout_texts(SIZE.texts)
probes = [masking.assistant_labels(tokenizer, [{"role": "user", "content": g["question"]},
                                               {"role": "assistant", "content": g["answer"]}],
                                   max_length=P.max_length)
          for g in tickets.read_rows("data/probes/general.jsonl", P.probe_rows)]  # fmt: skip


def lost(model):
    """Nats per token of ordinary answers."""
    return float(np.mean(modeling.answer_nll(model, probes, tokenizer.pad_token_id)))


def spoken(model, questions):
    """Greedy answers to ordinary questions."""
    prompts = [chat.prompt_ids(tokenizer, [{"role": "user", "content": q}]) for q in questions]
    return [a.text for a in generation.generate(
        model, tokenizer, prompts, max_new_tokens=32, batch_size=2 * P.eval_batch_size)]  # fmt: skip


said, extra, prose = {}, {}, {}


# %%
def measure(arm, model):
    """Everything general about one state."""
    if arm not in results:
        results[arm] = general.evaluate(model, tokenizer, tasks=TASKS, limit=SIZE.items)
    said[arm] = spoken(model, asked)
    prose[arm] = general.text_nats(model, tokenizer, texts)
    extra[arm] = {"general_accuracy": general.accuracy(unseen(results[arm]), CHOICE),
                  "format_bleed": general.json_share(said[arm]),
                  "perplexity": general.perplexity(prose[arm]), "nll": lost(model)}  # fmt: skip


# %%
four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16 if P.precision == "fp16" else torch.bfloat16,
)  # fmt: skip
measure("base", base)
if P.is_gpu:
    base.to("cpu")  # the 4-bit states want its memory; below it answers once more
there = PeftModel.from_pretrained(
    modeling.load_model(P, quantization=four_bit), handed_file(trained, "adapter")
).eval()
modeling.to_bf16_adapter(there)  # as 03 trained and scored it; it comes back in float32
copy = None if P.is_gpu else modeling.plain_copy(P)
measure("tuned", there if P.is_gpu else modeling.merge_into(copy, there))
del there
FACES = ["general_accuracy", "format_bleed", "perplexity"]
table([{"measure": m, **{arm: extra[arm][m] for arm in ("base", "tuned")}} for m in FACES],
      "base, and the adapter that 03 promoted")  # fmt: skip
gone = {t: general.accuracy_difference([r for r in results["tuned"] if r.task == t],
                                       [r for r in results["base"] if r.task == t]) for t in TASKS}  # fmt: skip
for t, change in gone.items():
    takeaway(f"{t}: {scoring.verdict(change)}")
print(f"{asked[0]}\n  base   {said['base'][0]!r}\n  tuned  {said['tuned'][0]!r}")

# %% [markdown]
# ## What does replay buy?
#
# Replay rows are ordinary requests which the *base model answered itself*: they fit any base, and they
# are not the probe. A grid of learning rate and replay share, each run short; one more run replays
# authored dialogues instead of the model's own answers. The answers of the probe are authored as well, so
# that a small loss of that run may be style learned rather than ability kept.

# %%
curated = require("01_data_preparation", profile)
pool = tickets.prefer_handwritten(
    tickets.read_rows(handed_file(curated, "train")), max(SIZE.final_rows, SIZE.grid_rows)
)
val = tickets.read_rows(handed_file(curated, "val"), SIZE.val_rows)
TASK = tasks.TICKETS
requests = [[{"role": "user", "content": r["question"]}]
            for r in tickets.read_rows("data/replay/questions.jsonl", P.replay_rows)]  # fmt: skip
replies = generation.generate(
    base.to(P.device), tokenizer, [chat.prompt_ids(tokenizer, c) for c in requests], max_new_tokens=64,
    batch_size=2 * P.eval_batch_size,
)  # fmt: skip
if P.is_gpu:
    base.to("cpu")
own_words = [[*c, {"role": "assistant", "content": a.text}]
             for c, a in zip(requests, replies, strict=True) if a.stopped and a.text.strip()]  # fmt: skip
authored = [[{"role": "system", "content": d["system"]},
             {"role": "user", "content": d["turns"][0]["user"]},
             {"role": "assistant", "content": d["turns"][0]["reply"]}]
            for d in tickets.read_rows("data/dialogues/train.jsonl")]  # fmt: skip
takeaway(f"{len(own_words)} requests answered by the base model to the end, {len(authored)} authored.")


def mixed(n_mails, share, source):
    """Mails and replay rows; the share counts all rows, and a short source is gone through again."""
    mails = pool[:n_mails]  # there may be fewer
    n = round(len(mails) * share / (1 - share))
    return [TASK.conversation(r) for r in mails] + list(islice(cycle(source), n))


# %%
lora = LoraConfig(
    r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
seed_everything(seed)
# On a CPU the small base stays in bf16; GPU profiles train an adapter on a 4-bit base, as in 03.
model = get_peft_model(modeling.load_model(P, quantization=four_bit if P.is_gpu else None), lora)
modeling.to_bf16_adapter(model)
initial = modeling.adapter_state(model)
if not P.is_gpu:
    training.fit_loss_chunks(64)
run.fingerprints |= {
    "data": sha256_json([pool, own_words, authored, trained["files"]["adapter"]["sha256"]]),
    "template": chat.template_hash(tokenizer), "tokenizer": modeling.tokenizer_hash(tokenizer),
    "base_weights": modeling.weights_hash(P),
}  # fmt: skip
facts = manifest.build(run)
findings = []


def served(m):
    """The state that generates: a merged copy on a CPU, the model itself on a GPU."""
    return m.eval() if copy is None else modeling.merge_into(copy, m)


# %%
def arguments(name, n_rows, rate):
    """The recipe of all runs."""
    return SFTConfig(
        output_dir=str(run.dir / "train" / name), learning_rate=rate,
        max_steps=-(-n_rows // P.effective_batch_size),
        per_device_train_batch_size=P.batch_size, gradient_accumulation_steps=P.grad_accumulation,
        train_sampling_strategy="group_by_length", lr_scheduler_type="cosine", warmup_steps=0.05,
        weight_decay=0.0, max_grad_norm=1.0, loss_type="chunked_nll", max_length=P.max_length,
        bf16=P.is_gpu and P.precision == "bf16", fp16=P.is_gpu and P.precision == "fp16",
        use_cpu=not P.is_gpu, gradient_checkpointing=P.is_gpu, logging_steps=1,
        save_steps=P.eval_steps, save_total_limit=1, seed=seed, data_seed=seed,
        report_to=report_to, disable_tqdm=True,
    )  # fmt: skip


# %%
def train(name, conversations, rate, callbacks=()):
    """One run from the same initial adapter; resumable, checked before the first step."""
    rows = [masking.assistant_labels(tokenizer, c, max_length=P.max_length) for c in conversations]
    modeling.restore_adapter(model, initial)
    model.train()
    trainer = SFTTrainer(
        model, arguments(name, len(rows), rate), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[training.Progress(run.progress_file), *callbacks],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    found = preflight.check(trainer, conversations, tokenizer)
    findings.extend(found)
    preflight.gate(found)
    identity = {"run_id": facts["run_id"], "rows": sha256_json([r["input_ids"] for r in rows]),
                "rate": rate}  # fmt: skip
    training.train_resumable(trainer, run.dir / "train" / name, identity)
    return trainer


def answered(m, rows):
    """Field scores of greedy answers to mails."""
    prompts = [chat.prompt_ids(tokenizer, TASK.prompt(r)) for r in rows]
    return TASK.score(rows, generation.generate(
        m, tokenizer, prompts, max_new_tokens=P.max_new_tokens, batch_size=2 * P.eval_batch_size))  # fmt: skip


# %%
GRID = [(rate, share, "own words", own_words) for rate in SIZE.rates for share in SIZE.shares]
GRID.append((SIZE.rates[-1], SIZE.shares[-1], "authored", authored))
points, field_scores = [], []
for rate, share, kind, source in GRID:
    name = f"grid-{rate:g}-{share:g}-{kind.replace(' ', '-')}"
    train(name, mixed(SIZE.grid_rows, share, source), rate)
    state = served(model)
    some = general.evaluate(state, tokenizer, tasks=CHOICE, limit=SIZE.grid_items)
    field_scores.append(answered(state, val))
    points.append({
        "rate": rate, "share": share, "replay": kind if share else "none",
        "field_f1": scoring.f1_metric(field_scores[-1]),
        "general": general.accuracy_difference(some, same), "lost": lost(state) - extra["base"]["nll"],
        "bleed": general.json_share(spoken(state, asked_in_grid)),
    })  # fmt: skip
table([{**p, "rate": f"{p['rate']:g}"} for p in points],
      f"{SIZE.grid_rows} mails each; field F1 on {len(val)} validation mails")  # fmt: skip

# %% [markdown]
# The rule: among points *with replay* whose format bleed is at most 2 % and whose general accuracy is not
# below the base model's (the paired interval reaches zero), take those whose field F1 is not measurably
# below the best one's, and of them the one with the highest general accuracy. A few validation mails
# cannot tell such points apart, so the task may not overrule what is being protected. If no point
# qualifies, the one that bleeds and loses least, and the text says so. Points without replay are not for
# picking: whether none was needed is answered below, by a twin of the picked run.

# %%
BLEED = 0.02
fit = [k for k, p in enumerate(points) if p["general"]["ci95"][1] >= 0 and p["bleed"]["value"] <= BLEED]
replayed = [k for k, p in enumerate(points) if p["share"]]
able = [k for k in fit if k in replayed]
if able:
    best = max(able, key=lambda k: points[k]["field_f1"]["value"])
    level = [k for k in able
             if scoring.f1_difference(field_scores[k], field_scores[best])["ci95"][1] >= 0]  # fmt: skip
    picked = points[max(level, key=lambda k: points[k]["general"]["value"])]
else:
    print("no point with replay qualifies; this one bleeds and loses least")
    level = []
    picked = points[min(replayed, key=lambda k: (points[k]["bleed"]["value"], points[k]["lost"]))]
takeaway(f"{len(able)} of {len(replayed)} points with replay qualify and {len(fit) - len(able)} of "
         f"{len(points) - len(replayed)} without; {len(level)} are level with the best field F1. Picked: rate "
         f"{picked['rate']:g}, replay share {picked['share']:.0%} ({picked['replay']}).")

# %%
fast = [p for p in points if p["rate"] == max(SIZE.rates)]
bare_fast = next(p for p in fast if not p["share"])
kept_fast = min((p for p in fast if p["replay"] == "own words"), key=lambda p: p["lost"])
SHADE = {"none": COLOURS["broken"], "own words": COLOURS["lora"], "authored": COLOURS["qlora"]}
MARK = {"none": "v", "own words": "o", "authored": "s"}
with figure(
    f"Own words replayed at rate {bare_fast['rate']:g}: {kept_fast['lost']:+.2f} nats lost, without "
    f"{bare_fast['lost']:+.2f}",
    f"{len(points)} runs of {SIZE.grid_rows} mails; beside each: rate, replay share; ring: picked; profile "
    f"{P.name}",
    alt="; ".join(f"{p['rate']:g}/{p['share']:.0%} {p['replay']}: F1 {p['field_f1']['value']:.2f}, lost "
                  f"{p['lost']:+.2f}" for p in points),
) as ax:
    for p in points:
        value, (low, high) = p["field_f1"]["value"], p["field_f1"]["ci95"]
        ax.errorbar(p["lost"], value, yerr=[[value - low], [high - value]], color=SHADE[p["replay"]],
                    fmt=MARK[p["replay"]], markersize=5 + 12 * p["share"], capsize=2, linewidth=1)  # fmt: skip
        ax.annotate(f"{p['rate']:g}, {p['share']:.0%}", (p["lost"], value), fontsize=7, xytext=(6, 3),
                    textcoords="offset points")  # fmt: skip
    ax.plot(picked["lost"], picked["field_f1"]["value"], "o", markersize=20, fillstyle="none", color="black")
    for kind, colour in SHADE.items():
        ax.plot([], [], MARK[kind], color=colour, label=f"replay: {kind}")
    ax.set(xlabel="nats per token that ordinary answers lost (left is better)", ylabel="field F1 (validation)")
    ax.legend(fontsize=7, frameon=False)

# %% [markdown]
# ## Does the picked point hold?
#
# It is trained again on more mails, through the gate of 03: scored while it trains, promoted by the
# task metric within the forgetting budget. Its twin (*narrow*) has the same mails and the same rate, and no
# replay at all, so fewer steps, and is taken as it ends, without a gate. Both meet mails, general items and
# questions that picked nothing here. The adapter of 03 (*tuned*) stands beside them but is no part of the pair:
# its rows, rate and share of replay are other ones.

# %%
BUDGET = trained["parameters"]["forgetting_budget"]


def scored(m, full):
    """What the gate asks: task metric and forgetting of the present state."""
    state = served(m)
    return {"task": scoring.field_f1(answered(state, val if full else val[: P.smoke_val_rows])),
            "forgetting": lost(state) - extra["base"]["nll"]}  # fmt: skip


test = tickets.read_rows(tickets.TEST, SIZE.test_rows)
source = authored if picked["replay"] == "authored" else own_words
train("narrow", mixed(SIZE.final_rows, 0.0, source), picked["rate"])
state = served(model)
scores = {"narrow": answered(state, test)}
measure("narrow", state)

# %%
folder = run.dir / "train" / "replay" / "candidates"
with_replay = mixed(SIZE.final_rows, picked["share"], source)
half = -(-len(with_replay) // (2 * P.effective_batch_size))  # scored there and at the end
gate = training.TaskGate(scored, folder, every=half, progress=run.progress_file)
trainer = train("replay", with_replay, picked["rate"], [gate])
gate.finish(model, trainer.state.global_step, modeling.load_adapter_into, budget=BUDGET)
promoted = training.choose(gate.history, budget=BUDGET)
modeling.load_adapter_into(model, gate.adapter_dir(promoted.step))
state = served(model)
scores["replay"] = answered(state, test)
measure("replay", state)
n_mails = len(pool[: SIZE.final_rows])
n_replay = len(with_replay) - n_mails
takeaway(f"{n_mails} mails and {n_replay} replay rows (of {len(source)} different ones). Step "
         f"{promoted.step} of {trainer.state.global_step} is promoted: validation F1 {promoted.task:.3f}, "
         f"{promoted.forgetting:+.3f} nats per token (budget {BUDGET:g}).")

# %%
ARMS = ["base", "tuned", "narrow", "replay"]
table([{"measure": m, **{arm: extra[arm][m] for arm in ARMS}} for m in FACES]
      + [{"measure": "field_f1", "base": trained["metrics"]["base.field_f1"],
          "tuned": trained["metrics"]["tuned.field_f1"],
          **{arm: scoring.f1_metric(scores[arm]) for arm in ("narrow", "replay")}}],
      f"field F1: n = {len(test)} test mails; base and tuned are those of 03, n = "
      f"{trained['metrics']['tuned.field_f1']['n']}")  # fmt: skip
moved = {arm: general.accuracy_difference(unseen(results[arm]), unseen(results["base"]), CHOICE)
         for arm in ARMS[1:]}  # fmt: skip
for arm, change in moved.items():
    takeaway(f"general accuracy of {arm} against base: {scoring.verdict(change)}")

# %%
floor = trained["metrics"]["base.field_f1"]["value"]
of = {arm: scoring.f1_of(scores[arm]) for arm in ("narrow", "replay")}


def kept_share(draws):
    """Share of the task gain without replay that is there with replay."""
    gain = np.maximum(of["narrow"](draws) - floor, 1e-6)
    return (of["replay"](draws) - floor) / gain


everything = np.arange(len(test))[None]
kept = {"value": float(kept_share(everything)[0]), "n": len(test),
        "ci95": scoring.bootstrap(kept_share, len(test))}  # fmt: skip
takeaway(f"Without replay field F1 gains {float(of['narrow'](everything)[0]) - floor:+.3f}; replay keeps "
         f"{kept['value']:.1%} [{kept['ci95'][0]:.1%}, {kept['ci95'][1]:.1%}] of that.")


# %%
def bleeding(arm):
    """Which spoken answers are JSON."""
    return [general.is_json_answer(text) for text in said[arm]]


apart = {  # replay minus narrow, on the same mails, items, texts and questions
    "field_f1": scoring.f1_difference(scores["replay"], scores["narrow"]),
    "general_accuracy": general.accuracy_difference(
        unseen(results["replay"]), unseen(results["narrow"]), CHOICE),
    "perplexity": general.perplexity_difference(prose["replay"], prose["narrow"]),
    "format_bleed": scoring.rate_difference(bleeding("replay"), bleeding("narrow")),
}  # fmt: skip
table([{"measure": m, "n": d["n"], "replay minus narrow": d} for m, d in apart.items()],
      "paired differences; perplexity and format bleed: less is better")  # fmt: skip
low, high = apart["format_bleed"]["ci95"]
takeaway(f"Format bleed goes from {extra['narrow']['format_bleed']['value']:.1%} to "
         f"{extra['replay']['format_bleed']['value']:.1%}: a difference that {len(asked)} questions "
         f"{'do not show' if low <= 0 <= high else 'show'}.")
bled = [k for k, is_json in enumerate(bleeding("narrow")) if is_json]
for k in (bled or [0])[:2]:
    print(f"{asked[k]}\n  narrow {said['narrow'][k]!r}\n  replay {said['replay'][k]!r}\n")

# %% [markdown]
# ## Break it on purpose: a budget that nothing meets
#
# **Predict.** The gate has candidates, and a budget below the least of them. Does it promote the least
# bad one?

# %%
least = min(c.forgetting for c in gate.history)
with expect_error(ConfigError, match="no checkpoint forgets less"):
    training.choose(gate.history, budget=least - 1)

# %% [markdown]
# **Why.** A gate that always promotes something is a decoration. Train less, replay more, or accept a
# larger budget in writing.
#
# ## Break it on purpose: changes that accuracy cannot see
#
# **Predict.** Multiple choice compares likelihoods of given answers; nobody lets the model speak. Can
# accuracy stay while every spoken answer changes? And with replay, where the general ability was kept?

# %%
for arm in ("narrow", "replay"):
    unchanged = sum(a == b for a, b in zip(said["base"], said[arm], strict=True))
    takeaway(f"{arm}: general accuracy moved by {100 * moved[arm]['value']:+.1f} points, and {unchanged} of "
             f"{len(asked)} spoken answers are still the base model's, word for word.")

# %% [markdown]
# **Why.** Likelihood items ask what the model knows, spoken answers what it does. Both are needed. A
# changed answer is not yet a worse one: greedy answers change with any training, as those with replay
# show, and what is worse for certain is an ordinary answer in JSON, above.

# %% tags=["checkpoint", "long-ok"]
real = P.name != "smoke"
adapter = run.dir / "adapter"
shutil.rmtree(adapter, ignore_errors=True)
model.save_pretrained(adapter)
modeling.clean_adapter_config(adapter, P)
tokenizer.save_pretrained(adapter)
manifest.write_beside(adapter, {**facts, "promoted_step": promoted.step, "replay_rows": n_replay})
metrics = {f"{arm}.{m}": extra[arm][m] for arm in ARMS for m in FACES}
metrics |= {f"{arm}_minus_base.general_accuracy": change for arm, change in moved.items()}
metrics |= {f"{arm}_minus_base.perplexity": general.perplexity_difference(prose[arm], prose["base"])
            for arm in ARMS[1:]}  # fmt: skip
metrics |= {f"tuned_minus_base.{t}_accuracy": change for t, change in gone.items()}
metrics |= {f"{arm}.field_f1": scoring.f1_metric(scores[arm]) for arm in ("narrow", "replay")}
metrics |= {f"replay_minus_narrow.{m}": d for m, d in apart.items()}
metrics["replay.task_gain_kept"] = kept
README = ["base.general_accuracy", "tuned_minus_base.general_accuracy", "narrow_minus_base.general_accuracy",
          "narrow.format_bleed", "replay_minus_base.general_accuracy", "replay.format_bleed",
          "replay_minus_narrow.general_accuracy", "replay.task_gain_kept"]  # fmt: skip
with tracking.tracked(run, report_to, {"run_id": facts["run_id"]}) as tracker:
    tracking.log_summary(tracker, metrics)
with checkpoint(run, headline="replay.task_gain_kept", readme=README) as c:
    for name, entry in metrics.items():
        c.metric(name, entry)
    c.equal("preflight findings", [f.id for f in findings], [])
    c.at_least("log-likelihoods computed twice", len(gaps), 1)
    c.between("lm-eval against our log-likelihoods, nats", max(gaps, default=0.0), 0.0, 1e-3,
              when=wide)  # fmt: skip
    c.true("all arms read the same prompts",
           all(general.same_prompts(results[arm], results["base"]) for arm in ARMS))
    c.true("promoted within the budget", promoted.forgetting <= BUDGET)
    c.at_least("general accuracy not shown to be below base, upper bound",
               moved["replay"]["ci95"][1], 0.0, when=real)  # fmt: skip
    c.at_least("1 - format bleed with replay", 1 - extra["replay"]["format_bleed"]["value"],
               1 - BLEED, when=real)  # fmt: skip
    c.at_least("task gain without replay, lower bound",  # a share of nothing would pass any bound
               metrics["narrow.field_f1"]["ci95"][0] - floor, 1e-9, when=real)  # fmt: skip
    c.at_least("share of the task gain kept, point value", kept["value"], 0.95, when=real)
    c.save_file("adapter", adapter)

# %% [markdown]
# **Summary**
# - Forgetting is a paired difference on items that have nothing to do with the task, under one
#   template.
# - What replay with the base model's own answers costs the task is a number, and so is what it does not keep:
#   hold its perplexity against the base model's.
# - The point is picked by a rule, trained again, and judged on mails, items and questions that did not
#   pick it.
#
# **What this does not show**: abilities that these items do not ask for; long answers; whether a larger model
# forgets in the same places; how forgetting depends on the rank, which is the same in all runs, or on
# stopping early, for which the gate looks only twice. Some replay requests have the form of facts and sums
# among the general items (a capital, half of a number), though none asks the same: part of what replay keeps
# there may be the form. Format bleed of the two final runs is counted on few questions: where they show no
# difference, the grid's larger one is the evidence. Grid points are short runs with one seed each. *Not shown
# to be below the base model* is no proof of being level: its interval says how much may be lost. The rule of
# picking was changed once after a look at final figures (Decisions in sft_utils/README.md).
#
# **Exercises**: (1) Write `bleeds` below. (2) Which task of the harness moves most with the rate
# (`some` in the loop of the grid holds the items of one point)?
# (3) Give `file=` a set of your own questions: what must never be forgotten in your product?
#
# **Next**: 11, the report.

# %%
def bleeds(answers: list[str]) -> float:
    """Share of answers that start like JSON."""
    return 0.0  # FILL ME IN (1 line)


def check(yours: float, expected: float) -> None:
    print("solved" if abs(yours - expected) < 1e-9 else "not solved yet", "· yours", yours)
    print("expected", expected)


check(bleeds(['{"a": 1}', "Paris.", ' {"b": null', "It is {warm}."]), 0.5)

# %% [markdown]
# **Sources**: EleutherAI lm-evaluation-harness 0.4.13 · Biderman et al., "LoRA Learns Less and Forgets
# Less" (arXiv 2405.09673) · Luo et al., "An Empirical Study of Catastrophic Forgetting in Large
# Language Models" (arXiv 2308.08747) · Warstadt et al., "BLiMP" (arXiv 1912.00582), minimal pairs ·
# Huang et al., "Mitigating Catastrophic Forgetting with Self-Synthesized Rehearsal" (arXiv 2403.01244).
