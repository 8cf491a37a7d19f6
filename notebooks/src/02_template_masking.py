# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Which tokens do we train on?
#
# A conversation becomes one row of token ids, and a second row that says which of them carry loss.
# This notebook builds that second row by hand, proves it against an independent oracle on every row
# of the training set, and shows what a wrong one does while the loss looks healthy.

# %% [markdown]
# **You will be able to** predict the supervised tokens of a conversation · verify a mask against an
# oracle · choose a sequence length from the data · recognise faults that no loss curve shows.
#
# **Needs** the curated data of 01. **Not covered**: images, tool calls (the preflight covers more).

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for data order and initialisation
sabotage_steps: int = 0  # optimizer steps of each sabotaged run, 0 means the profile decides
learning_rate: float = 0.002  # of the sabotaged runs

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import copy
import re

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForLanguageModeling, PrinterCallback
from trl import SFTConfig, SFTTrainer

from sft_utils import (
    chat,
    generation,
    masking,
    modeling,
    preflight,
    scoring,
    tickets,
    training,
)  # fmt: skip
from sft_utils.artifacts import ROOT, handed_file, read_json, require
from sft_utils.errors import MaskError, PreflightError, expect_error
from sft_utils.report import COLOURS, checkpoint, figure, show, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start(
    "02_template_masking", profile, seed=seed, sabotage_steps=sabotage_steps,
    learning_rate=learning_rate,
)  # fmt: skip

# %% [markdown]
# **Predict first.** Which share of a row's tokens carries loss if only answers do? Which token of an
# answer is forgotten most often? If the stop token is never trained, will the training loss be
# higher or lower than in a healthy run?

# %% [markdown]
# ## What does the model read?
#
# A chat template turns messages into text. The text is all that the model ever sees. In this template a
# special token and the name of the role begin a turn, and another special token ends it. Text between
# them belongs to someone, and the mask has to know to whom.

# %%
tokenizer = modeling.load_tokenizer(run.profile)
print(tokenizer.chat_template)

# %%
curated = require("01_data_preparation", profile)
rows = tickets.read_rows(handed_file(curated, "train"))
conversations = [tickets.conversation(row) for row in rows]
short = min(conversations, key=lambda c: len(c[1]["content"]))
print(chat.render(tokenizer, short))

# %% [markdown]
# ## How is a mask built by hand?
#
# Render the conversation up to the answer's header, then completely. What the second text adds is
# the answer, its stop token and a newline. Labels are a copy of the ids with everything else set to
# −100, the value that cross-entropy skips. The model shifts labels itself: they stay aligned here.

# %%
def naive_labels(conversation):
    """Labels of a conversation with one answer, at its end."""
    head = chat.render(tokenizer, conversation[:-1], generation=True)
    full = chat.render(tokenizer, conversation)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        labels.append(token if begin >= len(head) else masking.IGNORE)
    last = len(labels) - 1
    while labels[last] != tokenizer.eos_token_id:  # the newline after the stop token is no answer
        labels[last] = masking.IGNORE
        last -= 1
    return {"input_ids": encoded["input_ids"], "labels": labels}


naive = naive_labels(short)
print(masking.token_text(tokenizer, naive))

# %% [markdown]
# The packaged version does the same for any number of answers and refuses what it cannot do safely.

# %% tags=["nbval-check-output"]
package = masking.assistant_labels(tokenizer, short, max_length=run.profile.max_length)
print("same ids:   ", package["input_ids"] == naive["input_ids"])
print("same labels:", package["labels"] == naive["labels"])

# %%
show(masking.token_html(tokenizer, package))

# %% [markdown]
# ## Who checks the mask?
#
# Both versions above trust prefixes. The oracle does not: it renders the conversation again with the
# answer replaced by a sentinel, and finds the place of the answer from what stands before and after.
# It uses no marker, no prefix length and no trainer code, so it can judge all of them.

# %%
def oracle_demo(conversation):
    """Where is the answer? Ask a sentinel."""
    probe = copy.deepcopy(conversation)
    probe[-1]["content"] = chat.SENTINEL
    before, after = chat.render(tokenizer, probe).split(chat.SENTINEL)
    full = chat.render(tokenizer, conversation)
    return full[len(before) : len(full) - len(after)]


print(oracle_demo(short) == short[-1]["content"])

# %%
encoded = [
    masking.assistant_labels(tokenizer, c, max_length=run.profile.max_length)
    for c in conversations
]
truths = [chat.oracle(tokenizer, c) for c in conversations]
wrong = [
    i
    for i, (row, truth) in enumerate(zip(encoded, truths, strict=True))
    if row["input_ids"] != truth.ids
    or [int(x != masking.IGNORE) for x in row["labels"]] != truth.mask
]
supervised = sum(map(masking.supervised, encoded))
total = sum(len(row["input_ids"]) for row in encoded)
takeaway(f"{len(encoded) - len(wrong)} of {len(encoded)} rows equal the oracle token by token.")
takeaway(f"{supervised / total:.0%} of {total:,} tokens carry loss; the rest are context.")

# %% [markdown]
# ## What about several turns?
#
# Every answer is trained, everything between them is not. The stop token after *each* answer belongs
# to the answer.

# %% tags=["nbval-check-output"]
dialogue = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Capital of France?"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "And of Peru?"},
    {"role": "assistant", "content": "Lima"},
]
multi = masking.assistant_labels(tokenizer, dialogue, max_length=200)
print(masking.token_text(tokenizer, multi))
print([int(x != -100) for x in multi["labels"]] == chat.oracle(tokenizer, dialogue).mask)

# %% [markdown]
# ## Does the loss really ignore the rest?
#
# The loss of a batch must not change when a row's context is padded wider, and must equal the plain
# mean over supervised tokens of minus the natural logarithm of their probability. Its unit is the *nat*.

# %%
model = modeling.load_model(run.profile)
model.eval()
longest_row = max(encoded, key=lambda r: len(r["input_ids"]))
batch, wide = (
    {k: v.to(model.device) for k, v in masking.collate(part, tokenizer.pad_token_id).items()}
    for part in (encoded[:2], [*encoded[:2], longest_row])
)
with torch.inference_mode():
    tight = model(**batch).loss.item()
    padded = model(**{k: v[:2] for k, v in wide.items()}).loss.item()
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
keep = batch["labels"][:, 1:] != masking.IGNORE
by_hand = torch.nn.functional.cross_entropy(
    logits[:, :-1][keep].float(), batch["labels"][:, 1:][keep]
).item()
print(f"loss {tight:.4f} · padded wider {padded:.4f} · by hand {by_hand:.4f}")

# %% [markdown]
# ## How long may a row be?
#
# `max_length` cuts from the right, and the right end is the answer. TRL's default of 1,024 is
# a guess about somebody else's data. Look at the distribution, and choose a round number above
# the longest row: the profile's, dashed below, cuts nothing.

# %%
lengths = np.array([len(row["input_ids"]) for row in encoded])
p50, p95, p99 = (int(x) for x in np.percentile(lengths, [50, 95, 99]))
with figure(
    f"No row is longer than {lengths.max()} tokens; half are shorter than {p50}",
    f"n = {len(lengths)} curated rows, limit of profile {run.profile.name} dashed",
    alt=f"row lengths: median {p50}, p95 {p95}, p99 {p99}, max {lengths.max()} tokens",
) as ax:
    ax.hist(lengths, bins=40, color=COLOURS["sft"])
    ax.axvline(run.profile.max_length, color=COLOURS["broken"], ls="--")
    ax.set_xlabel("tokens per row")
    ax.set_ylabel("rows")

# %%
longest = conversations[int(lengths.argmax())]
with expect_error(MaskError, match="cuts an answer"):
    masking.assistant_labels(tokenizer, longest, max_length=int(lengths.max()) - 10)

# %% [markdown]
# ## Can rows share a sequence?
#
# Packing removes padding by putting rows behind each other. It is only sound if no row sees another.
# transformers derives a block-diagonal mask from position ids that restart at zero, as long as *no*
# attention mask is passed: with one, the documents melt into each other without a message.

# %%
pair = encoded[:2]
# float32 shows isolation to the last digits; a large GPU model stays in its own precision
exact = model if run.profile.is_gpu else modeling.load_model(run.profile, dtype=torch.float32)
exact.eval()
packed = {k: v.to(exact.device) for k, v in masking.pack(pair).items() if k != "labels"}
second = torch.tensor([pair[1]["input_ids"]], device=exact.device)
begin = len(pair[0]["input_ids"])
with torch.inference_mode():
    alone = exact(input_ids=second, use_cache=False).logits[0]
    isolated = exact(**packed, use_cache=False).logits[0, begin:]
    ones = torch.ones_like(packed["input_ids"])
    mixed = exact(**packed, attention_mask=ones, use_cache=False).logits[0, begin:]
clean_gap = (isolated - alone).abs().max().item()
mixed_gap = (mixed - alone).abs().max().item()
takeaway(f"Largest logit change of the second document: {clean_gap:.1e} packed correctly, "
         f"{mixed_gap:.1e} with an all-ones attention mask added.")

# %% [markdown]
# ## What does the trainer really see?
#
# All of the above is about *our* rows. Between them and the model stand a trainer and a collator
# (the function that pads rows into a batch) that
# may truncate, drop, rebuild labels or ignore a flag. The preflight therefore takes the batches that
# come out of the trainer's own loader and compares those with the oracle.

# %%
del exact
pool = sorted(range(len(rows)), key=lambda i: lengths[i])[: 16 * len(rows) // 30]
steps = sabotage_steps or run.profile.sabotage_steps
n_rows = 4 * steps
picked = [pool[i * len(pool) // n_rows % len(pool)] for i in range(n_rows)]
study = [conversations[i] for i in dict.fromkeys(picked)]
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
half = run.profile.precision == "fp16"  # there Adam needs a float32 adapter and scaled gradients
model = get_peft_model(model, lora, autocast_adapter_dtype=half)
initial = modeling.adapter_state(model)
# A merged copy answers faster on a CPU (03 compares it with the unmerged model); same for the loss.
plain = None if run.profile.is_gpu else modeling.plain_copy(run.profile)
if plain is not None:
    training.fit_loss_chunks(64)

# %%
def make_trainer(train_rows, **options):
    """The plain TRL trainer of this study: LoRA, four rows per step."""
    config = SFTConfig(
        output_dir=str(run.dir / "trainer"), max_steps=steps, per_device_train_batch_size=4,
        learning_rate=learning_rate, lr_scheduler_type="constant", logging_steps=1, seed=seed,
        logging_nan_inf_filter=False,
        bf16=False, fp16=half, use_cpu=not run.profile.is_gpu, gradient_checkpointing=False,
        save_strategy="no", report_to="none", disable_tqdm=True, max_length=1024,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(train_rows), processing_class=tokenizer,
        **options,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # a table follows; no line per step
    return trainer


# %% tags=["long-ok"]
def rows_of(chats, **changes):
    """Pre-tokenised rows, optionally with another template."""
    other = copy.deepcopy(tokenizer)
    for name, value in changes.items():
        setattr(other, name, value)
    return [masking.assistant_labels(other, c, max_length=1024) for c in chats]


def relabel(chats, function):
    """Healthy rows with changed labels."""
    return [{**r, "labels": function(r)} for r in rows_of(chats)]


def foreign(chats):
    """Text of another model family, tokenised as text."""
    head = "<|start_header_id|>{role}<|end_header_id|>\n\n"
    result = []
    for c in chats:
        context = "".join(head.format(**m) + m["content"] + "<|eot_id|>" for m in c[:-1])
        context += head.format(**c[-1])
        head_ids = tokenizer(context)["input_ids"]
        ids = tokenizer(c[-1]["content"] + "<|eot_id|>")["input_ids"]
        result.append({"input_ids": head_ids + ids, "labels": [-100] * len(head_ids) + ids})
    return result


def cut(row, n=24):
    """A row that ends in the middle of its answer."""
    return {k: v[: len(v) - n] for k, v in row.items()}


def swap_roles(chats):
    """ShareGPT role names: templates print them as they are, or drop their turns."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [[{**m, "role": names[m["role"]]} for m in c] for c in chats]


EOS = tokenizer.eos_token_id
# Whatever the template is: its text, with another sign behind the role.
spaced = "{% set text %}" + tokenizer.chat_template + "{% endset %}{{ text"
for role in ("system", "user", "assistant"):
    spaced += f" | replace('<|im_start|>{role}\\n', '<|im_start|>{role} ')"
spaced += " }}"
silent = [[{"role": "system", "content": "You are helpful."}, *c[1:]] for c in study]
empty = [[*c[:-1], {**c[-1], "content": " "}] if i % 4 == 0 else c for i, c in enumerate(study)]

# %% [markdown]
# ## Break it on purpose, many times
#
# **Predict.** Below are runs of the same few steps: one healthy, the others broken by one change
# each. For each: will the final loss look worse than the healthy one? Three of them are named as
# ruinous before they run; the checkpoint asks whether their loss falls and their answers fail.

# %%
healthy = rows_of(study)
language_modeling = DataCollatorForLanguageModeling(copy.deepcopy(tokenizer), mlm=False)
language_modeling.tokenizer.pad_token = tokenizer.eos_token  # "no pad token? use eos"


def rebuilds_labels(part):
    """The stock language-modelling collator: labels are ids, padding masked *by id*."""
    return language_modeling([{"input_ids": r["input_ids"]} for r in part])


SABOTAGE = {  # name: (expected finding, rows that train, conversations as declared, options)
    "healthy": (None, healthy, study, {}),
    "loss on the prompt": ("M1", relabel(study, lambda r: list(r["input_ids"])), study, {}),
    "stop token masked": ("M7", relabel(
        study, lambda r: [-100 if x == EOS else x for x in r["labels"]]), study, {}),
    "labels shifted twice": ("M6", relabel(
        study, lambda r: [*r["labels"][1:], -100]), study, {}),
    "collator rebuilds labels": ("M5", healthy, study, {"data_collator": rebuilds_labels}),
    "header ends in a space": ("C10", rows_of(study, chat_template=spaced), study, {}),
    "another system prompt": ("C8", rows_of(silent), study, {}),
    "another family's template": ("C1", foreign(study), study, {}),
    "roles human and gpt": ("C18", healthy, swap_roles(study), {}),
    "answers cut off": ("P1", [cut(r) for r in healthy], study, {}),
    "a quarter of answers empty": ("D3", rows_of(empty), empty, {}),
}  # fmt: skip

RUINOUS = {"labels shifted twice", "header ends in a space", "answers cut off"}

# %% [markdown]
# Each run trains a LoRA adapter (small extra weights beside the frozen ones, see 03) from the same start
# and the same seed. The preflight speaks before the first step;
# then the run trains anyway, so that we can see what the loss says, and answers held-out mails.

# %%
held_out = tickets.read_rows(tickets.TEST)
held_out = sorted(held_out, key=lambda r: len(tickets.mail(r)))[: run.profile.sabotage_rows * 2]
held_out = held_out[:: 2]
test_prompts = [chat.prompt_ids(tokenizer, tickets.prompt(row)) for row in held_out]


def sabotaged(name):
    """Preflight, then train a little, then answer."""
    expected, train_rows, declared, options = SABOTAGE[name]
    if name == "roles human and gpt":
        train_rows = shared_gpt_rows(declared)
    modeling.restore_adapter(model, initial)
    seed_everything(seed)
    trainer = make_trainer(train_rows, **options)
    found = preflight.check(trainer, declared, tokenizer)
    trainer.train()
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    model.eval()
    generator = model if plain is None else modeling.merge_into(plain, model)
    answers = generation.generate(
        generator, tokenizer, test_prompts, max_new_tokens=run.profile.max_new_tokens,
        batch_size=run.profile.eval_batch_size, progress=run.progress_file, what=name,
    )  # fmt: skip
    return {"expected": expected, "found": found, "losses": losses, "answers": answers}


# %%
def shared_gpt_rows(chats):
    """What a marker-based mask makes of foreign roles: text after the last header is trained."""
    result = []
    for c in chats:
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in c)
        ids = tokenizer(text)["input_ids"]
        n = len(tokenizer(c[-1]["content"] + "<|im_end|>\n")["input_ids"])
        result.append({"input_ids": ids, "labels": [-100] * (len(ids) - n) + ids[-n:]})
    return result


results = {name: sabotaged(name) for name in SABOTAGE}

# %% [markdown]
# One more fault changes no row at all: the adapter is attached, but nothing is trainable.

# %%
modeling.restore_adapter(model, initial)
names = [n for n, p in model.named_parameters() if p.requires_grad]
for parameter in model.parameters():
    parameter.requires_grad_(False)
frozen = preflight.check(make_trainer(healthy), study, tokenizer)
for name, parameter in model.named_parameters():
    parameter.requires_grad_(name in names)
with expect_error(PreflightError, match="O3"):
    preflight.gate(frozen)

# %% [markdown]
# **See.** Final loss beside task metrics beside what the preflight said before step 1, as ids with the number
# of rows (`sft_utils/preflight/README.md` lists them; some messages follow in full). Losses under different
# masks are means over different tokens: they cannot be compared, and a smaller one proves nothing.

# %%
report = []
for name, result in results.items():
    scored = tickets.score_answers(held_out, result["answers"])
    report.append({
        "run": name,
        "final loss": float(np.mean(result["losses"][-3:])),
        "schema-valid": scoring.rate([s.schema_valid for s in scored]),
        "field F1": scoring.f1_metric(scored),
        "stops": scoring.rate([a.stopped for a in result["answers"]]),
        "preflight": ", ".join(f"{f.id} ({f.count}x)" for f in result["found"]) or "clean",
    })  # fmt: skip
table(report, f"{steps} steps each on short rows, answers to n = {len(held_out)} of the shortest held-out "
      "mails; with so few mails and steps only large differences mean anything")

# %%
below = [r["run"] for r in report[1:] if r["final loss"] < report[0]["final loss"]]
falling = [r["run"] for r in report if r["final loss"] < results[r["run"]]["losses"][0]]
fallen = len(set(falling) - {"healthy"})
takeaway(f"{fallen} of {len(report) - 1} broken runs end below the loss at which they began; {len(below)} end "
         "below the healthy run.")

# %%
with figure(
    f"The loss falls in {fallen} of {len(report) - 1} broken runs",
    f"training loss, {steps} steps, profile {run.profile.name}; named: highest end, no valid field",
    alt="; ".join(f"{r['run']}: loss {results[r['run']]['losses'][0]:.2f} to {r['final loss']:.2f}"
                  for r in report),
) as ax:
    ruined = {r["run"] for r in report if r["field F1"]["value"] == 0}
    named = sorted({max(results, key=lambda n: results[n]["losses"][-1]), *ruined} - {"healthy"},
                   key=lambda n: results[n]["losses"][-1])
    for name, result in results.items():
        if name != "healthy":
            line = ax.plot(range(1, steps + 1), result["losses"], color=COLOURS["broken"], lw=0.9)
            line[0].set_label("broken" if name == "stop token masked" else None)
            if name in named:
                ax.annotate(name, (steps, result["losses"][-1]), fontsize=7, textcoords="offset points",
                            xytext=(3, 12 * named.index(name)), color=COLOURS["broken"])
    ax.plot(range(1, steps + 1), results["healthy"]["losses"], color=COLOURS["sft"], lw=2, label="healthy")
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("training loss (nats per trained token)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)

# %% [markdown]
# **Why.** Each fault changes *what* is learned, not *whether* something is learned. Gradient descent
# lowers whatever loss it is given. Compare rows of the table: the metric may fall to nothing while the
# loss ends where the healthy one does, and a row that looks harmless still trained something that will not be
# served.

# %%
missed = [n for n, r in results.items() if r["expected"] and r["expected"] not in
          [f.id for f in r["found"]]]
for name in list(SABOTAGE)[1:4]:
    with expect_error(PreflightError, match=results[name]["expected"]):
        preflight.gate(results[name]["found"])

# %% [markdown]
# ## Plant your own
#
# `plant` changes what is trained; here the first token of every answer loses its label. Change it,
# run the cell again, and read what the preflight says: what it saw, where, and the line to change.

# %%
def plant(rows):
    """Your fault."""
    for row in rows:
        first = next(k for k, label in enumerate(row["labels"]) if label != -100)
        row["labels"][first] = -100
    return rows


modeling.restore_adapter(model, initial)
yours = make_trainer(plant(rows_of(study)))
planted = preflight.check(yours, study, tokenizer)
preflight.show(planted, preflight.RunRecord(
    tokenizer=tokenizer, conversations=study, batches=yours.get_train_dataloader))

# %% [markdown]
# ## How far can the preflight be trusted?
#
# A check that never fires is silent, too. The mutation benchmark plants nearly every fault of the
# catalogue in healthy runs of many model families, proves that the fault is really there, and asks
# whether it is named for the right reason; and it runs healthy configurations, of which nothing may be
# called a FAIL. The table counts FAIL alone; planted warnings, and those on healthy configurations, stand
# beside it in the file (`warn_classes`, `warnings_on_clean`). Bounds count planted copies as independent;
# the classes are what was chosen. TRL alone meets every kind of fault once, hence its smaller n, and counts as
# silent where a fault lies outside its training (export, evaluation, installed packages). The result is the
# committed one of `make mutation`.

# %%
def floor(share):
    """Rounded down to hundredths of a percent: a lower bound must not become a certainty."""
    return np.floor(share * 1e4) / 1e4


def ceiling(share):
    """Rounded up to hundredths of a percent: an upper bound must not become smaller."""
    return np.ceil(share * 1e4) / 1e4


bench = read_json(ROOT / "outputs/reference/mutation.json")
table([
    {"what": "faults planted", "n": bench["mutants"], "share": ""},
    {"what": "named for the right reason", "n": bench["mutants"],
     "share": f"{bench['right_reason_recall']:.2%}, at least {floor(bench['right_reason_lower95']):.2%}"},
    {"what": "TRL alone: exceptions and new warnings",
     "n": bench["baselines"]["trl_alone_detail"]["mutants"],
     "share": f"{bench['baselines']['trl_alone']:.1%}"},
    {"what": "check for rows with every label masked", "n": bench["mutants"],
     "share": f"{bench['baselines']['all_labels_masked']:.1%}"},
    {"what": "false alarms on healthy configurations", "n": bench["clean_configs"],
     "share": f"{bench['false_alarms']} (below {ceiling(bench['false_alarm_upper95']):.2%})"},
], f"{bench['classes']} classes of faults, {bench['families']} families of chat templates, "
   f"{bench['real_tokenizers']} with their real tokenizer")
takeaway("Faults and detectors have the same authors: this is an upper bound, not a guarantee.")

# %% tags=["checkpoint"]
caught = [r["expected"] in [f.id for f in r["found"]] for n, r in results.items() if r["expected"]]
lowest = report[0]["field F1"]["ci95"][0]
spared = [r["run"] for r in report if r["run"] in RUINOUS and r["field F1"]["ci95"][1] >= lowest]
judged = run.profile.name != "smoke"  # one step there
with checkpoint(run, headline="preflight.faults_caught", readme=["preflight.faults_caught"]) as c:
    c.fingerprint("data", curated["manifest"]["data"])
    c.fingerprint("template", chat.template_hash(tokenizer))
    c.fingerprint("tokenizer", modeling.tokenizer_hash(tokenizer))
    c.fingerprint("base_weights", modeling.weights_hash(run.profile))
    c.equal("rows whose labels differ from the oracle", len(wrong), 0)
    c.true("naive mask equals packaged mask", naive["labels"] == package["labels"])
    c.between("loss padded wider minus loss", abs(padded - tight), 0, 0.02)
    c.between("share of tokens trained", supervised / total, 0.05, 0.95)
    c.between("loss by hand minus model loss", abs(by_hand - tight), 0, 0.02)
    c.between("packed minus alone, largest logit", clean_gap, 0, 1.0 if run.profile.is_gpu else 1e-3)
    c.true("an attention mask contaminates packing", mixed_gap > 10 * clean_gap)
    c.equal("rows longer than max_length", int((lengths > run.profile.max_length).sum()), 0)
    c.equal("findings on the healthy run", len(results["healthy"]["found"]), 0)
    c.equal("sabotages not caught before step 1", missed, [])
    c.equal("frozen adapter caught", [f.id for f in frozen], ["O3"])
    c.true("the planted fault is found", any(f.severity == "FAIL" for f in planted))
    c.true("the healthy loss falls", "healthy" in falling or not judged)
    c.equal("ruinous faults with answers as good as healthy ones", spared if judged else [], [])
    c.equal("ruinous faults that the loss betrays", sorted(RUINOUS - set(falling)) if judged else [], [])
    c.metric("preflight.faults_caught", scoring.rate([*caught, frozen[0].id == "O3"]))
    c.metric("train.supervised_share", supervised / total, n=len(encoded))
    c.metric("train.tokens_p99", p99, n=len(encoded))
    for r in report:
        c.metric(f"{re.sub('[^a-z]+', '_', r['run'])}.field_f1", r["field F1"])

# %% [markdown]
# **Summary**
# - Labels are ids where the model answers, −100 elsewhere; the stop token is part of the answer.
# - An oracle that shares no rule for where an answer is with the mask turns "looks right" into "equal on every row".
# - Faults that ruin or distort a model leave a loss that falls; the preflight names them before step 1.
#
# **What this does not show**: faults nobody thought of; templates of other families;
# a handful of steps says which way a fault pushes, not how far it goes.
#
# **Exercises**: (1) Make `plant` break the mask in a way that is not in the table: is it named?
# (2) Train the stop-token fault longer (`sabotage_steps`): does the share of answers that stop go up? (3) Use
# `token_html` on a row of your own data.
#
# **Next**: 03, training an adapter that deserves promotion.

# %% [markdown]
# **Sources**: torch 2.13 CrossEntropyLoss (ignore_index) · transformers 5.17 chat templating and
# packed-sequence masks · TRL 1.14.2 SFTTrainer · karpathy/nanochat #582 (mask fault with an unchanged
# loss) · huggingface/trl #6669 (packing that lost rows) · catalogue of failures in sft_utils/preflight/README.md.
