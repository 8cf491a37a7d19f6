# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Which knob matters?
#
# Learning rate, rank, modules, method, rows, passes, mask, curation: every section changes one of
# them, on one task, with one harness and one budget. A setting that is not shown to be worse than the best,
# and over all seeds lies at most `margin` behind it, ties with it, and a tie goes to the cheaper setting.

# %% [markdown]
# **You will be able to** compare settings so that the difference means something · say how few rows
# are as good as all of them · repeat and resume a grid at no cost · recognise a winner made by luck.
#
# **Needs** 01 (curated rows, and what it dropped) and 03 (the adapter that was trained in full).
# **Not covered**: search that adapts to results, scaling laws, several GPUs.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # first seed: which rows, their order, the initialisation
margin: float = 0.05  # field F1 that you would give up for a smaller training set or adapter
fresh: bool = False  # forget finished trials and run all of them again
report_to: str = "wandb"  # wandb (offline unless WANDB_MODE says otherwise) | mlflow | none

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import dataclasses
import functools
import gc
import shutil
import time

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from sft_utils import (
    ablations,
    chat,
    data,
    duplicates,
    filters,
    generation,
    manifest,
    masking,
    modeling,
    preflight,
    scoring,
    sweeps,
    tickets,
    tracking,
    training,
    trialplots,
    trialreport,
    trialstats,
    trialstore,
)  # fmt: skip
from sft_utils.artifacts import (
    ROOT,
    handed_file,
    read_json,
    require,
    sha256_json,
    sha256_path,
    sha256_text,
    write_json,
)
from sft_utils.errors import DataError, MaskError, PreflightError, expect_error
from sft_utils.report import checkpoint, figure, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start("08_ablations", profile, seed=seed, margin=margin, fresh=fresh, report_to=report_to)
P, SIZE = run.profile, ablations.sizes(run.profile)

# %% [markdown]
# **Predict first.** Which moves the score more over the grid below, the learning rate or the rank? Is
# training only the attention layers as good as training only the MLP, at equal size? After how many
# rows do further rows stop helping? By how much does the best of several *equal* settings beat the rest?

# %% [markdown]
# ## What is one trial?
#
# A trial is data: ten settings. Everything else is the same for all trials: base model, harness,
# schedule, rows per step, and the mails that score it. Sets of rows are nested: the order is drawn
# once per seed, a smaller set is the beginning of a larger one, and the raw set is drawn in the same
# order as the curated one.

# %%
curated = require("01_data_preparation", profile)
in_full = require("03_qlora_single_gpu", profile, ours=True)  # used below; refused here if of another task
kept = tickets.read_rows(handed_file(curated, "train"))
val_rows = tickets.read_rows(handed_file(curated, "val"), SIZE.val_rows)
test_rows = tickets.read_rows(tickets.TEST, SIZE.test_rows)
dropped = {d["id"]: d["filter"] for d in data.rows_of(handed_file(curated, "dropped"))}
lines = [x.row for x in data.read_jsonl(ROOT / "data/tickets/raw.jsonl") if x.row is not None]
judges = tickets.read_rows(handed_file(curated, "val")) + tickets.read_rows(tickets.TEST)
held = duplicates.HeldOut({r["id"]: data.mail_of(r) for r in judges})


def resembles_judge(row):
    """A raw row that repeats a mail of validation or test would score itself."""
    mail = data.mail_of(row)
    return held.find(mail, duplicates.shingles(mail), duplicates.exact_key(mail))


trainable = [r for r in lines if filters.roles(r) is None]
raw = [r for r in trainable if not resembles_judge(r)]
WRONG = ("answer_json", "answer_schema", "answer_contradicts")  # filters of 01 that judge the answer
POOLS = {"curated": kept, "raw": raw,
         "wrong": [r for r in raw if dropped.get(r["id"]) in WRONG]}  # fmt: skip
table([{"pool": name, "rows": len(rows), "dropped by 01": sum(r["id"] in dropped for r in rows)}
       for name, rows in POOLS.items()],
      f"{len(lines)} readable lines, {len(lines) - len(trainable)} without valid roles, "
      f"{len(trainable) - len(raw)} like a mail that judges")  # fmt: skip

# %%
tokenizer = modeling.load_tokenizer(P)


def draw(pool, n, seed):
    """The first rows of a pool in the order of this seed that fit into a training row."""
    chosen = []
    for row in sorted(POOLS[pool], key=lambda r: sha256_text(f"{seed}:{r['id']}")):
        try:
            encoded = masking.assistant_labels(
                tokenizer, tickets.conversation(row), max_length=P.max_length
            )
        except MaskError:  # too long, or nothing to supervise
            continue
        chosen.append((row, encoded))
        if len(chosen) == n:
            return chosen
    raise DataError(f"pool {pool!r} has {len(chosen)} usable rows, {n} are asked for")


def training_rows(trial):
    """Rows of a trial: as mails, and as ids with labels."""
    if trial.data == "faults":  # every second row has a wrong answer, as long as there are any
        half = min(trial.rows // 2, len(POOLS["wrong"]))
        both = draw("wrong", half, trial.seed) + draw("curated", trial.rows - half, trial.seed)
    else:
        both = draw(trial.data, trial.rows, trial.seed)
    rows, encoded = zip(*both, strict=True)
    if trial.prompt_loss:
        encoded = [{**e, "labels": list(e["input_ids"])} for e in encoded]
    return list(rows), list(encoded)


# %% [markdown]
# What the settings mean is written here once: the adapter, the trainer, and the state that answers.

# %%
nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16 if P.precision == "fp16" else torch.bfloat16,
)  # fmt: skip


def build(trial):
    """Base model, and on it what trains."""
    if trial.method == "full":  # bf16 weights would swallow most updates: float32, computed in bf16
        return modeling.load_model(P, dtype=torch.float32)
    model = modeling.load_model(P, quantization=nf4 if trial.method == "qlora" else None)
    if trial.method == "none":
        return model
    lora = LoraConfig(
        r=trial.rank,
        lora_alpha=trial.alpha,
        lora_dropout=0.0,
        target_modules=list(ablations.TARGETS[trial.targets]),
        use_rslora=trial.method == "rslora",
        use_dora=trial.method == "dora",
        task_type="CAUSAL_LM",
    )
    seed_everything(trial.seed)
    model = get_peft_model(model, lora)
    modeling.to_bf16_adapter(model)
    return model


# %%
def arguments(trial):
    """The settings of 03, for every trial."""
    return SFTConfig(
        output_dir=str(run.dir / "train"),
        max_steps=trial.steps(SIZE.batch_size),
        per_device_train_batch_size=SIZE.batch_size,
        train_sampling_strategy="group_by_length",
        learning_rate=trial.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type="chunked_nll",
        max_length=P.max_length,
        bf16=(P.is_gpu or trial.method == "full") and P.precision == "bf16",
        fp16=P.is_gpu and P.precision == "fp16",
        use_cpu=not P.is_gpu,
        gradient_checkpointing=P.is_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN would be logged as 0
        save_strategy="no",
        seed=trial.seed,
        data_seed=trial.seed,
        report_to="none",
        disable_tqdm=True,
    )


# %%
def trainer_of(trial, model, encoded):
    """The trainer of one trial."""
    trainer = SFTTrainer(
        model, arguments(trial), train_dataset=Dataset.from_list(encoded), processing_class=tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


# %%
copy = None if P.is_gpu else modeling.plain_copy(P)
if not P.is_gpu:
    training.fit_loss_chunks(64)


def served(trial, model):
    """The state that answers: on a CPU a plain copy with everything merged into it."""
    if copy is None or trial.method == "none":
        return model.eval()
    if trial.method == "full":
        copy.load_state_dict(model.state_dict())
        return copy
    return modeling.merge_into(copy, model)


def answers_of(trial, model, rows):
    """Greedy answers to some mails, the tuned model's one line of instructions before each."""
    return generation.generate(
        served(trial, model), tokenizer,
        [chat.prompt_ids(tokenizer, tickets.prompt(r)) for r in rows],
        max_new_tokens=P.max_new_tokens, batch_size=P.eval_batch_size,
    )  # fmt: skip


# %% [markdown]
# Training itself: the preflight looks at every trial first. Some trials train on purpose what it
# refuses; those findings are suppressed with a reason, which goes on record.

# %%
def train(trial, model, *callbacks):
    """Train one trial; returns losses, what it took, findings, and what was suppressed."""
    rows, encoded = training_rows(trial)
    trainer = trainer_of(trial, model, encoded)
    found = preflight.check(trainer, [tickets.conversation(r) for r in rows], tokenizer)
    fails = [f.id for f in found if f.severity == "FAIL"]
    deliberate = trial.prompt_loss or trial.data != "curated"
    accepted = dict.fromkeys(fails, "08 trains it on purpose") if deliberate else {}
    if set(fails) - set(accepted):
        preflight.gate(found)
    training.fit_adapter_precision(trainer)  # TRL casts adapters on 4-bit bases to bf16, in fp16 runs too
    steps = training.Progress(run.progress_file)
    for callback in (steps, *callbacks):
        trainer.add_callback(callback)
    spent = {"train_s": trainer.train().metrics["train_runtime"], "step_s": steps.median_s()}
    log = [e for e in trainer.state.log_history if "loss" in e]
    spent["tokens"] = int(log[-1]["num_tokens"])
    return [e["loss"] for e in log], spent, [f.id for f in found], accepted


# %%
def work(trial, rows):
    """One trial from the base model to the scores of its answers."""
    gc.collect()
    model, losses, found, accepted = build(trial), [], [], {}
    spent = {"train_s": 0.0, "step_s": 0.0, "tokens": 0}
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trial.method != "none":
        losses, spent, found, accepted = train(trial, model)
    answers = answers_of(trial, model, rows)
    return {
        "scores": trialstore.pack_scores(tickets.score_answers(rows, answers)),
        "answers": [a.text for a in answers], "curve": losses, "findings": found,
        "suppressed": accepted, "trainable": n if losses else 0,
        **{what: round(amount, 3) for what, amount in spent.items()},
    }  # fmt: skip


# %% [markdown]
# A result is kept in a file whose name is a hash of all that decided it. A trial that another section
# already ran is read; after a kill the next run repeats one trial at most.

# %%
CONTEXT = {
    "data": {
        "curated": data.fingerprint(kept),
        "raw": data.fingerprint(raw),
        "faults": data.fingerprint(kept + POOLS["wrong"]),
    },
    "base_weights": modeling.weights_hash(P),
    "template": chat.template_hash(tokenizer),
    "tokenizer": modeling.tokenizer_hash(tokenizer),
    "packages": manifest.lock_hash(), "schema": sha256_path(ROOT / tickets.SCHEMA),
    "code": trialstore.code_hash(
        [chat, generation, masking, modeling, preflight, runtime, scoring, tickets, training],
        [draw, training_rows, build, arguments, trainer_of, served, answers_of, train, work,
         ablations.Trial],
    ),
    "nf4": nf4.to_json_string(),
    "targets": {name: list(layers) for name, layers in ablations.TARGETS.items()},
    "budget": {
        "batch_size": SIZE.batch_size, "max_length": P.max_length, "precision": P.precision,
        "max_new_tokens": P.max_new_tokens, "attention": P.attention, "device": P.device,
        "threads": torch.get_num_threads(),
    },
}  # fmt: skip

# %%
if fresh:
    shutil.rmtree(run.dir / "trials", ignore_errors=True)
store = trialstore.Store(
    folder=run.dir / "trials", context={**CONTEXT, "scored": data.fingerprint(val_rows)}
)
DEFAULT = ablations.default_trial(SIZE, seed)
BASE = ablations.base_trial(seed)
SEEDS = [seed + k for k in range(SIZE.n_seeds)]
used, trained_now = {}, []  # id -> result, of every trial looked at; ids that were not in a file
sections = []  # of the report at the end


# %%
def rule(question, text, evidence=None, **drawn):
    """Say what to do, and keep it for the report with what it rests on."""
    takeaway(f"Rule: {text}")
    sections.append(
        trialreport.Section(question=question, rule=text, evidence=evidence or {}, **drawn)
    )


def tell(k, n, result, computed):
    """One line per trial that had to be trained."""
    used[result["id"]] = result
    if not computed:
        return
    trained_now.append(result["id"])
    trial = ablations.Trial(**result["trial"])
    what = ", ".join(f"{a} {b}" for a, b in trial.changed(DEFAULT).items()) or "default"
    f1 = scoring.field_f1(trialstore.unpack_scores(result))
    print(f"{k:2}/{n} {result['wall_s']:5.1f} s  {result['id'][:8]}  field F1 {f1:.3f}  {what}")


# %%
def run_trials(trials, where=store, rows=val_rows):
    """The plain loop: results in the order given."""
    return where.run(trials, functools.partial(work, rows=rows), done=tell)


def arm(trial, seeds=SEEDS):
    """Scores of a trial, one run per seed."""
    results = run_trials([dataclasses.replace(trial, seed=s) for s in seeds])
    return [trialstore.unpack_scores(r) for r in results]


def against(trial, reference=None, difference=trialstats.difference):
    """Difference to a reference, paired. What one seed shows has to hold over all seeds."""
    pair = trial, reference or DEFAULT
    one = difference(*(arm(t, SEEDS[:1]) for t in pair))
    low, high = one["ci95"]
    if low <= 0 <= high:
        return one
    return difference(*(arm(t) for t in pair))


# %%
base = [trialstore.unpack_scores(run_trials([BASE])[0])] * SIZE.n_seeds  # no seed moves it
default = arm(DEFAULT)
began = time.monotonic()
again = arm(DEFAULT)
repeat_s = time.monotonic() - began
takeaway(f"{DEFAULT.rows} rows, {DEFAULT.steps(SIZE.batch_size)} steps and {SIZE.val_rows} mails per "
         f"trial: the default went from {trialstats.mean_f1(base):.3f} to "
         f"{trialstats.mean_f1(default):.3f} field F1 (seeds: "
         + ", ".join(f"{trialstats.mean_f1([r]):.3f}" for r in default)
         + f"). Asking again took {repeat_s:.2f} s.")  # fmt: skip

# %% [markdown]
# ## Which learning rate, and which rank?
#
# The product of two small matrices is scaled by alpha / rank; that scale stays the same at every rank,
# but Adam moves each number about equally far, so that a higher rank also goes further per step: a
# column changes capacity *and* step, a row the step alone. Rank 0 is the base model. Which of the two moves the
# score more depends on how far the grid reaches in each direction.

# %%
GRID = ablations.grid(DEFAULT, SIZE.rates, SIZE.ranks)
cells = {t: trialstore.unpack_scores(r) for t, r in zip(GRID, run_trials(GRID), strict=True)}
names = {t: f"rate {t.learning_rate:g}, rank {t.rank}" for t in GRID}
heat = np.array([[scoring.field_f1(cells[t]) for t in GRID if t.learning_rate == rate]
                 for rate in SIZE.rates])  # fmt: skip
labels = {"rows": [f"{r:g}" for r in SIZE.rates],
          "columns": ["rank 0"] + [f"rank {r}" for r in SIZE.ranks]}  # fmt: skip
shown = np.column_stack([np.full(len(heat), trialstats.mean_f1(base)), heat])
spread = {"rate": np.ptp(heat, axis=0).mean(), "rank": np.ptp(heat, axis=1).mean()}
more = max(spread, key=spread.get)
with figure(
    f"In this grid the {more} moves field F1 most: by {spread[more]:.2f} on average",
    f"field F1, n = {SIZE.val_rows} mails, one seed, profile {P.name}; frame: best cell",
    alt=f"Heat map. {'; '.join(f'{names[t]} {scoring.field_f1(s):.2f}' for t, s in cells.items())}.",
) as ax:
    trialplots.heat_map(ax, shown, **labels)
    ax.set_ylabel("learning rate")

# %%
source, revision = modeling.model_source(P)
with torch.device("meta"):  # the size of an adapter follows from shapes, no weights are needed
    layers = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, revision=revision))
price = {names[t]: ablations.adapter_size(layers, t.targets, t.rank) for t in GRID}
first = trialstats.choose({names[t]: [s] for t, s in cells.items()}, price)
by_name = {name: t for t, name in names.items()}
ahead = sorted(by_name, key=lambda name: -scoring.field_f1(cells[by_name[name]]))
again_over = dict.fromkeys([*ahead[:2], first.chosen, names[DEFAULT]])  # one seed may flatter a cell
over_seeds = {name: arm(by_name[name]) for name in again_over}
final = trialstats.choose(over_seeds, price, margin=margin)
chosen = by_name[final.chosen]
rival = max((n for n in over_seeds if n != final.chosen), key=lambda n: trialstats.mean_f1(over_seeds[n]))
gap = trialstats.difference(over_seeds[final.chosen], over_seeds[rival])
table([{"cell": name, "parameters": price[name],
        **{f"seed {s}": round(trialstats.mean_f1([r]), 3) for s, r in zip(SEEDS, runs, strict=True)},
        "all seeds": trialstats.metric(runs)} for name, runs in over_seeds.items()],
      f"repeated: the two best, the cheapest that ties, the default; n = {SIZE.val_rows} mails")

# %%
takeaway(f"With one seed {first.best} is best and {len(first.tied) - 1} of {len(GRID) - 1} other cells "
         f"are not shown to be worse. Over {SIZE.n_seeds} seeds {final.best} is best; the smallest "
         f"adapter that loses less than {margin:g} and is not shown to be worse: {final.chosen}. "
         f"Against its rival, {rival}: {scoring.verdict(gap)}.")
rule("Which learning rate, and which rank?",
     f"repeat the best cells with other seeds, then take the smallest adapter that ties: here "
     f"{names[chosen]} with {price[names[chosen]]:,} trainable parameters. A wrong rate cost up to "
     f"{np.ptp(heat, axis=0).max():.2f} field F1, a wrong rank up to {np.ptp(heat, axis=1).max():.2f}.",
     {"chosen cell minus rival, all seeds": gap}, figure="heat_map",
     drawn={"values": shown.tolist(), **labels}, title="Field F1 by learning rate and rank")

# %% [markdown]
# **The same grid as a sweep.** A W&B sweep names the same values in YAML; its server hands out one
# configuration after the other to an agent. Offline there is no server, but a grid needs none: its
# configurations are expanded here, and the trials come from their files. With an account the agent's
# function is `with wandb.init() as tracker: record(tracker, trained(dict(tracker.config)))`, run by
# `wandb.agent(wandb.sweep(definition), function=...)`; that needs a network and is not run here.

# %%
definition = sweeps.sweep_definition(DEFAULT, SIZE.rates, SIZE.ranks)
print(sweeps.sweep_text(definition))


def trained(config):
    """The result of one configuration of the sweep."""
    return run_trials([sweeps.sweep_trial(config, DEFAULT)])[0]


def record(tracker, result):
    """Losses step by step, and what the sweep maximises."""
    for step, loss in enumerate(result["curve"], 1):
        if tracker is not None and loss is not None:
            tracker.log({"loss": loss}, step=step)
    f1 = scoring.f1_metric(trialstore.unpack_scores(result))
    tracking.log_summary(tracker, {"field_f1": f1})


swept = [trained(config) for config in sweeps.sweep_configs(definition)]
for result in swept:
    with tracking.tracked(run, report_to, {"run_id": result["id"], **result["trial"]}) as tracker:
        record(tracker, result)

# %% [markdown]
# ## Which modules, at equal size?
#
# Attention layers are smaller than MLP layers, so that equal ranks are not equal adapters. The rank is
# solved for each set: as many trainable parameters as the default has, up to one rank.

# %%
budget = ablations.adapter_size(layers, DEFAULT.targets, DEFAULT.rank)
sets = {}
for targets in ablations.TARGETS:
    rank = ablations.equal_rank(layers, targets, budget)
    sets[targets] = dataclasses.replace(ablations.at_rank(DEFAULT, rank), targets=targets)
module_arms = {name: arm(trial, SEEDS[:1]) for name, trial in sets.items()}
parameters = {name: ablations.adapter_size(layers, t.targets, t.rank) for name, t in sets.items()}
table([{"modules": name, "rank": sets[name].rank, "parameters": parameters[name],
        "of the budget": f"{parameters[name] / budget:.1%}",
        "field F1": trialstats.metric(module_arms[name])} for name in sets],
      f"n = {SIZE.val_rows} mails, one seed")  # fmt: skip

# %%
gaps = {}  # arm -> difference to the default
for name in ("attention", "mlp"):
    gaps[name] = against(sets[name])
    takeaway(f"{name} against all-linear, equal parameters: {scoring.verdict(gaps[name])}.")
better, worse = ([n for n, g in gaps.items() if scoring.verdict(g).startswith(word)]
                 for word in ("better", "worse"))  # fmt: skip
rule("Which modules, at equal size?",
     (f"{' and '.join(better)} shown to be better than all-linear: take the better one."
      if better else "all-linear: nothing is shown to be better at the same size.")
     + (f" {' and '.join(worse)}: shown to be worse." if worse else ""),
     {f"{n} minus all-linear": g for n, g in gaps.items()})  # fmt: skip

# %% [markdown]
# ## Which method?
#
# One switch is flipped, everything else stays. rsLoRA divides alpha by the square root of the rank: at
# one rank that is nothing but a larger step. DoRA trains the length of each row besides. QLoRA freezes
# 4-bit weights. Full fine-tuning trains every weight and needs a rate of its own. The seconds are the median
# step of one trial each, its first step left out, on a machine that may have other work: LoRA and rsLoRA do the
# same arithmetic, so what lies between these two is noise, and no smaller difference says anything.

# %%
method_trials = {"lora": DEFAULT}
for method, rate in SIZE.methods:
    full = {"rank": 0, "alpha": 0, "learning_rate": rate} if method == "full" else {}
    method_trials[method] = dataclasses.replace(DEFAULT, method=method, **full)
method_arms = {name: arm(trial, SEEDS[:1]) for name, trial in method_trials.items()}
ran = {name: run_trials([t])[0] for name, t in method_trials.items()}
table([{"method": name, "scale": method_trials[name].scale, "trained": ran[name]["trainable"],
        "s/step, median": ran[name]["step_s"],
        "field F1": trialstats.metric(method_arms[name])} for name in ran],
      f"n = {SIZE.val_rows} mails, one seed")  # fmt: skip

# %%
rivals = [name for name in method_arms if name != "lora"]
for name in rivals:
    gaps[name] = against(method_trials[name])
    takeaway(f"{name} against LoRA: {scoring.verdict(gaps[name])}.")
better, worse = ([n for n in rivals if scoring.verdict(gaps[n]).startswith(word)]
                 for word in ("better", "worse"))  # fmt: skip
with figure(
    f"Shown to be better than LoRA: {len(better)} of {len(rivals)} methods; worse: {len(worse)}",
    f"field F1 minus that of LoRA, n = {SIZE.val_rows} mails, {P.name}; one seed, and where that shows a "
    f"difference {SIZE.n_seeds}",
    alt="; ".join(f"{n} {gaps[n]['value']:+.2f}" for n in rivals),
) as ax:
    trialplots.intervals(ax, {n: gaps[n] for n in rivals}, zero=True)
rule("Which method?",
     (f"{' or '.join(better)}: shown to be better than LoRA." if better else
      "LoRA: no other method is shown to be better, and another one has to earn its seconds and bytes.")
     + (f" Shown to be worse: {', '.join(worse)}." if worse else ""),
     {f"{n} minus LoRA": gaps[n] for n in rivals}, figure="intervals",
     drawn={"entries": {n: gaps[n] for n in rivals}, "zero": True},
     title="Field F1 minus that of LoRA")  # fmt: skip

# %% [markdown]
# ## How many rows?
#
# Small sets are repeated until they have had the same number of steps as the default; larger ones get
# one pass, and so more steps: the largest is therefore also held against the next smaller one at equal
# steps. Two questions: from which size on is a set *not shown to be worse* than all rows? And from
# which size on is it *shown* to lose less than the margin? Between them lies what these mails cannot
# tell. "All" is the largest set of this budget; what 03 reached with its rows, mails and replay together,
# is drawn beside it.

# %%
def of_size(n):
    """The default on `n` rows, with at least the smallest number of steps."""
    passes = max(1, -(-SIZE.min_steps * SIZE.batch_size // n))
    return dataclasses.replace(DEFAULT, rows=n, epochs=passes)


curve_arms = {n: arm(of_size(n), SEEDS[:1]) for n in SIZE.curve}
curve = {n: trialstats.metric(runs) for n, runs in curve_arms.items()}
smallest = trialstats.smallest_set(curve_arms, margin=margin)
everything, *below = sorted(curve, reverse=True)
enough, over_seeds = trialstats.not_worse(  # with all seeds, down to the first that is shown to be worse
    curve, lambda n: trialstats.difference(arm(of_size(everything)), arm(of_size(n)))
)
steps = of_size(everything).steps(SIZE.batch_size)
longer = dataclasses.replace(of_size(below[0]), epochs=-(-steps * SIZE.batch_size // below[0]))
equal_steps = against(of_size(everything), longer)
fewest = of_size(below[0]).steps(SIZE.batch_size)
said = (f"The next smaller set, {below[0]} rows in {fewest} steps, loses against {everything} in {steps}"
        if enough == everything else f"From {enough} rows on nothing is shown to be lost against "
        f"{everything}, at {of_size(enough).steps(SIZE.batch_size)} to {steps} steps")  # fmt: skip

# %%
adapter = handed_file(in_full, "adapter")
full_rows = in_full["metrics"]["train.steps"]["n"]
long_run = PeftModel.from_pretrained(modeling.load_model(P, quantization=nf4), adapter)
modeling.to_bf16_adapter(long_run)
long_answers = generation.generate(
    served(DEFAULT, long_run), tokenizer,
    [chat.prompt_ids(tokenizer, tickets.prompt(r)) for r in val_rows],
    max_new_tokens=P.max_new_tokens, batch_size=P.eval_batch_size,
    cache=run.dir / "answers-long_run.json",
    key=sha256_json([in_full["files"]["adapter"]["sha256"], CONTEXT["code"], CONTEXT["budget"]]),
)  # fmt: skip
del long_run
long_arm = [tickets.score_answers(val_rows, long_answers)]
rising = trialstats.difference(long_arm * SIZE.n_seeds, arm(of_size(everything)))  # 03 trained once
reference = [full_rows, trialstats.mean_f1(long_arm)]
with figure(
    said,
    f"n = {SIZE.val_rows} mails; drawn: one seed, 95 % band; {P.name}; square: 03, {full_rows} rows",
    alt="; ".join(f"{n} rows {m['value']:.2f}" for n, m in curve.items())
        + f"; 03 {reference[1]:.2f}",
) as ax:
    trialplots.size_curve(ax, curve, base=trialstats.mean_f1(base), reference=reference)

# %%
table([{"rows": n, "passes": of_size(n).epochs, "steps": of_size(n).steps(SIZE.batch_size),
        "field F1": curve[n], "lost against all": smallest.lost[n]} for n in curve],
      f"all = {everything} rows, the largest set of this budget; one seed")  # fmt: skip
worse = [n for n in below if smallest.lost[n]["ci95"][0] > 0]
takeaway(f"{said}, over {SIZE.n_seeds} seeds. With one seed {len(worse)} of {len(curve) - 1} smaller sets "
         f"are shown to lose something, and a loss below {margin:g} is shown "
         + (f"from {smallest.within} rows on." if smallest.within < everything else "for none of them."))
takeaway(f"{everything} rows against {below[0]} rows at equal steps ({steps}): "
         f"{scoring.verdict(equal_steps)}.")
takeaway(f"03, with {full_rows} rows, more steps, replay, and a checkpoint that such mails picked, against "
         f"all rows of this budget, {SIZE.n_seeds} seeds: {scoring.verdict(rising)}.")
rule("How many rows?", said
     + ("; part of it is rows and not steps alone" if equal_steps["ci95"][0] > 0 else
        "; at equal steps no gain from more rows is shown")
     + ("; 03 is better still: by rows, steps or replay, which is not told apart." if rising["ci95"][0] > 0
        else "."),
     {**{f"{everything} minus {n} rows, {SIZE.n_seeds} seeds": d for n, d in over_seeds.items()},
      **{f"{everything} minus {n} rows, one seed": smallest.lost[n] for n in below if n not in over_seeds},
      f"{everything} minus {below[0]} rows, equal steps": equal_steps,
      f"03 ({full_rows} rows) minus {everything} rows, {SIZE.n_seeds} seeds": rising}, figure="size_curve",
     drawn={"curve": {str(n): m for n, m in curve.items()}, "base": trialstats.mean_f1(base),
            "reference": reference}, title="Field F1 by training rows")  # fmt: skip

# %% [markdown]
# ## New rows, or the same ones again?
#
# Three ways to spend training on the smallest set: once, again and again to the steps of the default,
# or new rows in place of the repeats.

# %%
few = of_size(SIZE.curve[0])
gaps["repeated"] = against(few, dataclasses.replace(few, epochs=1))
gaps["new_rows"] = against(DEFAULT, few)
takeaway(f"{few.rows} rows {few.epochs} times against once: {scoring.verdict(gaps['repeated'])}.")
takeaway(f"{DEFAULT.rows} rows once against {few.rows} rows {few.epochs} times, equal steps: "
         f"{scoring.verdict(gaps['new_rows'])}.")
rule("New rows, or the same ones again?",
     ("repeat a small set until it has had its steps" if gaps["repeated"]["ci95"][0] > 0 else
      "repeating a small set is not shown to help")
     + ("; new rows are worth more than the same number of repeats."
        if gaps["new_rows"]["ci95"][0] > 0 else "; new rows are not shown to beat repeats."),
     {f"{few.epochs} passes minus 1, {few.rows} rows": gaps["repeated"],
      "new rows minus repeats, equal steps": gaps["new_rows"]})  # fmt: skip

# %% [markdown]
# ## Should the prompt carry loss?
#
# Then the model also learns to write mails. The losses of the two arms cannot be compared, they are
# means over other tokens; the answers can. The preflight refuses such labels, so that it has to be
# told that this is meant.

# %%
with_prompt = dataclasses.replace(DEFAULT, prompt_loss=True)
mails, encoded = training_rows(dataclasses.replace(with_prompt, rows=2))
trainer = trainer_of(with_prompt, build(with_prompt), encoded)
found = preflight.check(trainer, [tickets.conversation(r) for r in mails], tokenizer)
with expect_error(PreflightError):
    preflight.gate(found)
del trainer  # and its model: later trials need the memory

# %%
gaps["prompt_loss"] = against(with_prompt)
share = np.mean([masking.supervised(e) / len(e["input_ids"]) for e in
                 training_rows(DEFAULT)[1]])  # fmt: skip
takeaway(f"Answers are {share:.0%} of the tokens. Loss on the prompt too, against answers only: "
         f"{scoring.verdict(gaps['prompt_loss'])}.")
low, high = gaps["prompt_loss"]["ci95"]
rule("Should the prompt carry loss?",
     "no: it costs." if high < 0 else "at this budget it helps; check that again with more steps."
     if low > 0 else "no lever here. Leave it out: the loss then says something about answers.",
     {"with minus without": gaps["prompt_loss"]})  # fmt: skip

# %% [markdown]
# ## Curated or raw rows?
#
# The raw arm takes rows in the same order, with the defects that 01 would have dropped; rows that
# repeat a judging mail are out of both. The natural share of *wrong answers* is small, so a third arm
# has one in every second row: is the effect absent, or only small? The rule reads field F1 and the valid
# answers: what wrong answers cost first may be the form.

# %%
kinds = {kind: dataclasses.replace(DEFAULT, data=kind) for kind in ("curated", "raw", "faults")}
valid = {}  # kind -> difference of the valid answers to the curated rows
for kind in ("raw", "faults"):
    gaps[kind] = against(kinds[kind])
    valid[kind] = against(kinds[kind], difference=trialstats.valid_difference)
data_arms = {kind: arm(trial, SEEDS[:1]) for kind, trial in kinds.items()}
mixes = {kind: training_rows(trial)[0] for kind, trial in kinds.items()}
bad = {kind: sum(r["id"] in dropped for r in rows) / len(rows) for kind, rows in mixes.items()}
wrong = {kind: sum(dropped.get(r["id"]) in WRONG for r in rows) / len(rows)
         for kind, rows in mixes.items()}  # fmt: skip
table([{"rows": kind, "defect": f"{bad[kind]:.0%}", "wrong answer": f"{wrong[kind]:.0%}",
        "field F1": trialstats.metric(data_arms[kind]),
        "schema-valid": scoring.rate([s.schema_valid for r in data_arms[kind] for s in r])}
       for kind in kinds], f"n = {SIZE.val_rows} mails, one seed; {DEFAULT.rows} rows")  # fmt: skip

# %%
for kind in ("raw", "faults"):
    takeaway(f"{kind} against curated: field F1 {scoring.verdict(gaps[kind])}; valid answers "
             f"{scoring.verdict(valid[kind])}.")
costs = [name for name, gap in (("field F1", gaps["faults"]), ("valid answers", valid["faults"]))
         if gap["ci95"][1] < 0]  # fmt: skip
rule("Curated or raw rows?",
     f"{wrong['faults']:.0%} wrong answers cost {' and '.join(costs)}: check answers first."
     if costs else
     f"{wrong['faults']:.0%} wrong answers are not shown to cost field F1 or valid answers at this "
     "budget; curate for leaks, licences and people, which no score shows.",
     {f"{kind} minus curated{what}": gap[kind] for kind in ("raw", "faults")
      for what, gap in (("", gaps), (", valid answers", valid))})  # fmt: skip

# %% [markdown]
# ## Which checkpoint?
#
# The last state of a run is one of many. The default is trained once more and answers the same mails after each
# quarter of its steps. Its rate falls along a cosine, so an early state is not what a shorter run would have
# given. Answering between two steps must not change what follows: the last state has to score as the
# trial did.

# %%
class Quarters(TrainerCallback):
    """Lets the model answer after each quarter of its steps."""

    def __init__(self, trial):
        self.trial, self.scores = trial, {}

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step in {-(-k * state.max_steps // 4) for k in (1, 2, 3, 4)}:
            answers = answers_of(self.trial, model, val_rows)
            model.train()
            self.scores[state.global_step] = tickets.score_answers(val_rows, answers)


kept_states = run.dir / "checkpoints.json"  # of this trial, or of one that was something else
states = read_json(kept_states) if kept_states.is_file() and not fresh else {}
if states.get("trial") != store.path(DEFAULT).stem:
    watcher = Quarters(DEFAULT)
    train(DEFAULT, build(DEFAULT), watcher)
    packed = {str(k): trialstore.pack_scores(v) for k, v in watcher.scores.items()}
    states = {"trial": store.path(DEFAULT).stem, "scores": packed}
    write_json(kept_states, states)
by_step = {int(k): [trialstore.unpack_scores({"scores": v})] for k, v in states["scores"].items()}
last = max(by_step)
undisturbed = by_step[last] == default[:1]

# %%
gained = {k: trialstats.difference(by_step[last], a) for k, a in by_step.items() if k < last}
peak = max(by_step, key=lambda k: trialstats.mean_f1(by_step[k]))
open_still = [k for k, gap in gained.items() if gap["ci95"][0] <= 0]  # not shown to be worse
points = {f"step {k}": trialstats.metric(a) for k, a in by_step.items()}
with figure(
    f"Best of {len(points)} checkpoints: step {peak} of {last}",
    f"field F1, n = {SIZE.val_rows} mails, one seed, 95 % intervals; the default; profile {P.name}",
    alt="; ".join(f"{n} {m['value']:.2f}" for n, m in points.items()),
) as ax:
    trialplots.intervals(ax, points, zero=False)
takeaway("The last state against earlier ones: "
         + "; ".join(f"step {k} {scoring.verdict(gap)}" for k, gap in gained.items()) + ".")
named = ", ".join(map(str, open_still or gained))
rule("Which checkpoint?",
     (f"the last: earlier ones, after steps {named}, are shown to be worse." if not open_still else
      f"after steps {named} nothing is shown to be lost against the last. The best of a few checkpoints on few "
      "mails is mostly luck: take the last, or choose on mails that report nothing, as 03 does."),
     {f"step {last} minus step {k}": gap for k, gap in gained.items()}, figure="intervals",
     drawn={"entries": points, "zero": False}, title="Field F1 by checkpoint")  # fmt: skip

# %% [markdown]
# ## Does the winner hold?
#
# So far one set of mails judged everything. The finalists, the chosen cell and its rival (the best of the
# other repeated cells), are trained once more with seeds that chose nothing, and answer test mails that
# chose nothing.

# %%
on_test = trialstore.Store(
    folder=run.dir / "trials", context={**CONTEXT, "scored": data.fingerprint(test_rows)}
)
finalists = {"chosen": chosen, "rival": by_name[rival]}
judged = {}  # name -> scores, one run per new seed
for name, t in finalists.items():
    anew = [dataclasses.replace(t, seed=s + 100) for s in SEEDS]
    judged[name] = [trialstore.unpack_scores(r) for r in run_trials(anew, on_test, test_rows)]
seen = {name: arm(t) for name, t in finalists.items()}
table([{"finalist": n, "setting": ", ".join(f"{a} {b}" for a, b in t.changed(DEFAULT).items()) or "default",
        "validation": trialstats.metric(seen[n]), "test, new seeds": trialstats.metric(judged[n])}
       for n, t in finalists.items()],
      f"n = {SIZE.val_rows} mails and {SIZE.test_rows} test mails, {SIZE.n_seeds} seeds each")  # fmt: skip

# %%
confirmed = trialstats.difference(judged["chosen"], judged["rival"])
entries = {f"{n}, {where}": trialstats.metric(arms[n]) for n in finalists
           for where, arms in (("validation", seen), ("test, new seeds", judged))}  # fmt: skip
with figure(
    f"On unseen mails: chosen {entries['chosen, test, new seeds']['value']:.2f}, "
    f"rival {entries['rival, test, new seeds']['value']:.2f}",
    f"field F1, n = {SIZE.val_rows} and {SIZE.test_rows} mails, 95 % intervals, profile {P.name}",
    alt="; ".join(f"{n} {e['value']:.2f}" for n, e in entries.items()),
) as ax:
    trialplots.intervals(ax, entries, zero=False)
low, high = confirmed["ci95"]
ship = "the chosen cell" if low > 0 else "the rival" if high < 0 else "either"
rule("Does the winner hold?",
     f"ship {ship}: chosen against rival on unseen mails is {scoring.verdict(confirmed)}.",
     {"chosen minus rival, test": confirmed}, figure="intervals",
     drawn={"entries": entries, "zero": False}, title="Finalists before and after")  # fmt: skip

# %% [markdown]
# ## Break it on purpose: the best of many equal settings
#
# **Predict.** Take one trained model, pretend that it is as many settings as the grid has, and score
# each on its own draw of mails. By how much does the best of these twins beat their common score?

# %%
luck = trialstats.luck_of_the_best(default[:1], len(GRID))  # one seed, as each cell of the grid
lead = max(scoring.field_f1(s) for s in cells.values()) - scoring.field_f1(cells[DEFAULT])
takeaway(f"The best of {len(GRID)} equal settings seems {luck:+.3f} better than it is "
         f"(n = {SIZE.val_rows} mails). The best cell of the grid leads the default by {lead:+.3f}.")

# %% [markdown]
# **Why.** A maximum of noisy numbers is too high. All cells here answer the *same* mails, which
# removes most of that noise from their differences; the seed's luck stays. So: pair, repeat with seeds,
# and confirm on mails that chose nothing.

# %% [markdown]
# ## Break it on purpose: a cache that knows only the settings
#
# **Predict.** Many scripts name a result after its hyperparameters. Then somebody repairs the data and
# runs the script again. What does the second run report?

# %%
repaired = {**CONTEXT["data"], "curated": data.fingerprint(kept[1:])}  # one row fewer
naive = [sha256_json(dataclasses.asdict(DEFAULT))[:16] for _ in (kept, kept[1:])]
ids = [trialstore.trial_id(DEFAULT, {**store.context, "data": d})
       for d in (CONTEXT["data"], repaired)]  # fmt: skip
elsewhere = trialstore.Store(folder=run.dir / "trials", context={**store.context, "data": repaired})
takeaway(f"Named by settings: {'one name' if len(set(naive)) == 1 else 'two names'} for two data sets, "
         f"so that the old number is reported. By what decides the number: "
         f"{ids[0][:8]} and {ids[1][:8]}; stored for the repaired data: {elsewhere.get(DEFAULT)}.")

# %% [markdown]
# **Why.** A cache is right only if its key holds everything that decides the value: rows, weights,
# template, code, versions, budget. What the key leaves out, the cache hides.

# %% [markdown]
# ## What do all trials say together?
#
# Curves, settings against score, and a report that is made of the trial files alone. What the ids of the
# preflight mean: `sft_utils/preflight/README.md`.

# %%
compared = {"default": DEFAULT, **{n: t for n, t in finalists.items() if t != DEFAULT},
            **{n: t for n, t in method_trials.items() if n != "lora"}}  # fmt: skip
kept_of = {n: used[store.path(t).stem] for n, t in compared.items()}
losses = {n: r["curve"] for n, r in kept_of.items()}
ends = {n: float(np.mean([np.inf if x is None else x for x in v[-5:]])) for n, v in losses.items()}
score_of = {n: scoring.field_f1(trialstore.unpack_scores(r)) for n, r in kept_of.items()}
lowest, highest = min(ends, key=ends.get), max(score_of, key=score_of.get)
with figure(
    f"Lowest loss: {lowest}. Highest field F1: {highest}",
    f"training loss, mean of five steps; one seed, n = {SIZE.val_rows} mails; profile {P.name}",
    alt="; ".join(f"{n} ends at {v:.2f}, field F1 {score_of[n]:.2f}" for n, v in ends.items()),
) as ax:
    trialplots.curves(ax, losses)

# %%
COLUMNS = ["learning_rate", "rank", "targets", "method", "rows", "steps", "data",
           "field_f1"]
on_val = [r for r in used.values() if r["trial"]["method"] != "none"
          and r["id"] == store.path(ablations.Trial(**r["trial"])).stem]  # fmt: skip
coordinates = [{c: trialreport.trial_row(r)[c] for c in COLUMNS} for r in on_val]
top = max(coordinates, key=lambda r: r["field_f1"])
with figure(
    f"Best of {len(coordinates)} trials: {top['field_f1']:.2f} with {top['rows']} rows, {top['steps']} steps",
    f"one line per trial, n = {SIZE.val_rows} mails, profile {P.name}; values in order",
    alt=", ".join(f"{k} {v}" for k, v in top.items()),
) as ax:
    trialplots.parallel(ax, coordinates, COLUMNS)

# %%
sections += [
    trialreport.Section(
        question="How lucky is the best?", rule=f"the best of {len(GRID)} equal settings seems "
        f"{luck:+.3f} field F1 better than it is.", figure="parallel",
        drawn={"rows": coordinates, "columns": COLUMNS}, title="Settings and field F1"),
    trialreport.Section(
        question="What do the losses say?", rule=f"lowest loss {lowest}, highest field F1 "
        f"{highest} (one seed, a maximum, no proof of a better one): compare answers.",
        figure="curves", drawn={"losses": losses}, title="Training loss"),
]  # fmt: skip
noted = {f: sum(f in r["findings"] for r in used.values())
         for f in sorted({f for r in used.values() for f in r["findings"]})}  # fmt: skip
takeaway(f"{len(used)} trials, {len(trained_now)} of them trained in this run, the others read. "
         "The preflight had something to say: "
         + (", ".join(f"{f} in {n} trials" for f, n in noted.items()) or "never") + ".")
about = {"profile": P.name, "trials": len(used), "rows per trial": DEFAULT.rows,
         "mails": SIZE.val_rows, "seeds": SIZE.n_seeds, "data": CONTEXT["data"]["curated"][:12]}
folder = run.dir / "report"
shutil.rmtree(folder, ignore_errors=True)
page = trialreport.write(folder, sections, list(used.values()), about)
written = {p.name: p.read_bytes() for p in folder.iterdir()}
trialreport.render(folder)
same_report = written == {p.name: p.read_bytes() for p in folder.iterdir()}
print(page.read_text(encoding="utf-8")[:700], "…")
takeaway(f"{page.name} and {len(written) - 2} figures; made again from report.json: "
         f"{'the same bytes' if same_report else 'other bytes'}.")

# %%
metrics = {"base.field_f1": trialstats.metric(base), "default.field_f1": trialstats.metric(default)}
metrics |= {f"{n}.field_f1_test": trialstats.metric(judged[n]) for n in judged}
not_default = {"repeated": "repeated_minus_once", "new_rows": "new_rows_minus_repeated"}
metrics |= {f"{not_default.get(n, f'{n}_minus_default')}.field_f1": g for n, g in gaps.items()}
metrics["full_run_minus_all_rows.field_f1"] = rising
metrics["all_minus_next_rows_at_equal_steps.field_f1"] = equal_steps
metrics |= {f"rows_{n}.field_f1": m for n, m in curve.items()}
metrics |= {f"all_minus_rows_{n}.field_f1": d for n, d in smallest.lost.items() if n < everything}
metrics["chosen_minus_rival.field_f1_test"] = confirmed
metrics |= {f"last_minus_quarter_{k}.field_f1": gap for k, gap in enumerate(gained.values(), 1)}
metrics["default_minus_base.field_f1"] = trialstats.difference(default, base)
for result in used.values():
    run.suppressed.update(result["suppressed"])
run.fingerprints |= {k: CONTEXT[k] for k in ("template", "tokenizer", "base_weights")}
run.fingerprints["data"] = sha256_json(CONTEXT["data"])

# %% tags=["checkpoint", "long-ok"]
one_rank = max(parameters[n] / sets[n].rank for n in sets) / budget
sized = [n for n in sets if used[store.path(sets[n]).stem]["trainable"] != parameters[n]]
asked = sorted({r["id"] for r in swept} ^ {store.path(t).stem for t in GRID})
README = ["default_minus_base.field_f1", "smallest_set.rows", "chosen.field_f1_test",
          "chosen_minus_rival.field_f1_test", "all_minus_next_rows_at_equal_steps.field_f1",
          "prompt_loss_minus_default.field_f1", "raw_minus_default.field_f1"]  # fmt: skip
with checkpoint(run, headline="smallest_set.rows", readme=README) as c:
    for name, entry in metrics.items():
        c.metric(name, entry)
    c.metric("smallest_set.rows", enough, n=SIZE.val_rows)
    c.metric("smallest_set.rows_within_margin", smallest.within, n=SIZE.val_rows)
    c.metric("trials.run", len(used), n=len(used))
    c.true("asking again gives the same scores", again == default)
    c.true("answering between steps changes no step", undisturbed or P.is_gpu)  # a GPU may add in any order
    c.equal("trials of only the sweep or only the loop", asked, [])
    c.between("largest distance to equal size", max(abs(v / budget - 1) for v in parameters.values()),
              0, 0.5 * one_rank + 1e-9)
    c.equal("adapters of another size than computed", sized, [])
    c.true("the report is made again byte by byte", same_report)
    c.true("a result of other data is not served", len(set(ids)) == 2 and elsewhere.get(DEFAULT) is None)
    c.at_least("default against base, lower bound", metrics["default_minus_base.field_f1"]["ci95"][0],
               1e-9, when=P.name != "smoke")
    c.save_file("report", folder)

# %% [markdown]
# **Summary**
# - One change per trial, the same mails for all, intervals over mails and seeds; a tie goes to the
#   cheaper setting.
# - The smallest sufficient set has two answers: not shown to be worse, and shown to be good enough. Both
#   count rows together with their steps: only the comparison at equal steps says what rows alone bring.
# - A grid costs its trials once: the key of a result holds everything that decides it.
#
# **What this does not show**: what happens after many more steps. Trials here are short, so that they favour
# settings that learn fast; few mails and seeds leave small differences undecided. An interval of one seed
# draws mails alone: another training can differ by more than it says (compare the seeds of the repeated
# cells). So a difference that one seed shows is asked of all seeds before a rule reads it; one that it does
# not show is left there, as "not shown". 03 was trained once: its own luck is in no interval. Each interval
# is for its own comparison: where nothing differs, about one in twenty excludes zero by chance. Full fine-
# tuning had one rate. "All rows" means the largest set of this budget, not the whole pool.
#
# **Exercises**: (1) Write `undecided` below. (2) Write `rank_for` below. (3) Raise `margin`
# until a smaller set is shown to be enough: at which value, and would you give that up?
#
# **Next**: 09, shipping the model that was trained.

# %%
def undecided(intervals: list[tuple[float, float]], margin: float) -> list[bool]:
    """Differences to "all rows" that are neither shown to be lost nor shown to be below the margin."""
    return [False for _ in intervals]  # FILL ME IN (1 line)


def rank_for(budget: int, layers: list[tuple[int, int]]) -> int:
    """The rank at which adapters on layers (inputs, outputs) train closest to `budget` parameters."""
    return 0  # FILL ME IN (1 line)


def check(yours: list, expected: list) -> None:
    print("solved" if yours == expected else "not solved yet", "· yours", yours)
    print("expected", expected)


check(undecided([(-0.02, 0.03), (-0.01, 0.20), (0.04, 0.30)], 0.05), [False, True, False])
check([rank_for(1000, [(10, 15)])] + [rank_for(n, [(10, 10), (10, 40)]) for n in (900, 860)], [40, 13, 12])

# %% [markdown]
# **Sources**: Hu et al., "LoRA" (arXiv 2106.09685) · Kalajdzievski, "A Rank Stabilization Scaling
# Factor for Fine-Tuning with LoRA" (arXiv 2312.03732) · Liu et al., "DoRA" (arXiv 2402.09353) ·
# Dettmers et al., "QLoRA" (arXiv 2305.14314) · Biderman et al., "LoRA Learns Less and Forgets Less"
# (arXiv 2405.09673) · Miller, "Adding Error Bars to Evals" (arXiv 2411.00640) · W&B sweep
# configuration (wandb 0.31) · peft 0.21.2, trl 1.14.2.
