# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Do verified traces beat answers?
#
# A small model that must say the result at once has one forward pass per token to find it. A trace (a *chain of
# thought*, `cot`: the steps before the result) gives it more. Here each step of each trace is recomputed before
# anything is trained, and training on traces is compared with training on answers: at equal examples, and at
# equal supervised tokens.

# %% [markdown]
# **You will be able to** check traces by recomputing them, and say why one was rejected · compare
# arms at equal examples and at equal tokens · tell a trace that is used from one that decorates ·
# choose the grain of the steps.
#
# **Needs** nothing from earlier notebooks. **Not covered**: reinforcement learning, long thoughts.

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # smoke | cpu | gpu-16gb | gpu-24gb | gpu-80gb | multi-gpu
seed: int = 17  # one seed for data order, sampling and initialisation
data: str = ""  # your file or hub id in GSM8K form (question, answer with "#### N"); empty: ours
max_steps: int = 0  # optimizer steps of the largest arm, 0 means one pass
learning_rate: float = 0.0  # peak rate; 0 means that of the profile, SIZE.learning_rate
report_to: str = "none"  # none | wandb (offline unless WANDB_MODE says otherwise)

# %%
from sft_utils import runtime

runtime.quiet()  # before the libraries below are imported: no warnings about kernels and widgets

import copy
import random
import re
import shutil
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, PrinterCallback
from trl import SFTConfig, SFTTrainer

from sft_utils import (
    answercheck,
    chat,
    generation,
    manifest,
    masking,
    modeling,
    preflight,
    reasoning,
    sandbox,
    scoring,
    traces,
    tracking,
    training,
)  # fmt: skip
from sft_utils.artifacts import sha256_json
from sft_utils.errors import DataError, MaskError, expect_error
from sft_utils.report import COLOURS, checkpoint, figure, table, takeaway
from sft_utils.runtime import seed_everything, start

run = start(
    "06_chain_of_thought", profile, seed=seed, data=data, max_steps=max_steps,
    learning_rate=learning_rate, report_to=report_to,
)  # fmt: skip
P, SIZE = run.profile, reasoning.sizes(run.profile)

# %% [markdown]
# **Predict first.** How many of ten word problems does the base model solve, with worked examples in
# the prompt? Does training on bare answers help at all? If a number in the middle of the trace is
# changed, does the answer follow the change?

# %% [markdown]
# ## What can be verified?
#
# Three domains in which a program can say whether an answer is right, and whether each line before it
# is: arithmetic in words, the state of a running program, deductions in small puzzles. Some
# *structures* (how the numbers hang together) are kept out of training altogether.

# %%
DOMAINS = ("own",) if data else ("word", "code", "logic")
tokenizer = modeling.load_tokenizer(P)
SYSTEM = "Solve the problem step by step. End with: The answer is X."
if data:
    room = P.max_length - len(tokenizer.encode(SYSTEM)) - 24  # 24: the template around three turns
    items = reasoning.from_file(
        data, seed=seed, train_rows=SIZE.train_rows, test_rows=SIZE.test_rows,
        least=SIZE.batch_size + 2, tokenizer=tokenizer, max_tokens=room,
    )  # fmt: skip
    table([{"row": n, "left out because": why} for n, why in items.excluded[:10]],
          f"{len(items.excluded)} rows left out")  # fmt: skip
else:
    items = reasoning.read(
        train_rows=SIZE.train_rows, test_rows=SIZE.test_rows, seed=seed, domains=DOMAINS,
        max_difficulty=SIZE.max_difficulty,
    )  # fmt: skip
MAIN = DOMAINS[0]  # the domain of the main claim
for group in items.groups:  # the main question gets the most items
    if group.split("_")[0] != MAIN:
        items.groups[group] = items.groups[group][: SIZE.test_rows // 3]
trained = Counter(i.domain for i in items.train)
table([{"group": g, "asked": len(x), "structures": len({i.structure for i in x}),
        "trained": 0 if g.endswith("_heldout") else trained[x[0].domain]}
       for g, x in items.groups.items()], "test items and training rows")  # fmt: skip
for domain in DOMAINS:
    shown = next(i for i in items.train if i.domain == domain)
    print(f"{domain.upper()}, structure {shown.structure}\n{shown.question}\n"
          f"  → {shown.completion()!r}\n")  # fmt: skip

# %% [markdown]
# One grader judges data, candidate traces and models. It reads the last stated answer, whatever its
# form, and compares values, not strings.

# %%
FORMS = ["The answer is 1,250.", "#### 1250", r"so \boxed{1250}", "The answer is 2500/2 euros.",
         "The answer is 1250.00", "It is about 1250", "The answer is 12500."]  # fmt: skip
for text in FORMS:
    found = answercheck.extract(text)
    right = bool(found) and answercheck.equal(found.text, "1250")
    print(f"{text!r:36} read as {found.text!r:12} right: {right}")

# %% [markdown]
# The programs in the questions are run to get their gold answers, in the sandbox that programs of a *model*
# would get: another process without files, without network, and with a time limit.

# %%
BAD = {"loop": "while True: pass", "file": "open('/etc/passwd').read()",
       "network": "import socket; socket.socket()", "honest": "print(6 * 7)"}  # fmt: skip
boxed = {name: sandbox.run(program, timeout_s=1.0) for name, program in BAD.items()}
table([{"program": BAD[n], "ended by": r.reason, "printed": r.stdout.strip()}
       for n, r in boxed.items()], "each in a process of its own")  # fmt: skip
programs = [i for i in items.asked() if i.domain == "code"]
PROSE = re.compile(r"^(?:What|Run) .*[?:]$", re.MULTILINE)  # the question around the program
ran = sandbox.run_many([PROSE.sub("", i.question) for i in programs])
agree = sum(r.stdout.strip() == i.answer for i, r in zip(programs, ran, strict=True))
takeaway(f"{agree} of {len(programs)} test programs print their gold answer when run again.",
         when=bool(programs))  # fmt: skip

# %% [markdown]
# ## Which traces are worth training on?
#
# A trace can end right and be wrong on the way; trained, it teaches the wrong way. The checker
# recomputes every step, asks where each number comes from, and whether the answer follows from the
# last step. Written inline first, for bare equations.

# %%
def inline_check(trace):
    """Every "a op b = c" of a trace, recomputed; the places where it is wrong."""
    wrong = []
    for a, op, b, c in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", trace):
        result = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b),
                  "/": int(a) / max(int(b), 1)}[op]  # fmt: skip
        if result != int(c):
            wrong.append(f"{a} {op} {b} = {c}")
    return wrong


sums = [i for i in items.train if i.domain == MAIN][:200]
print(sums[0].completion("coarse"), "→", inline_check(sums[0].completion("coarse")))
assert data or not any(inline_check(i.completion("coarse")) for i in sums)
assert all(reasoning.check(i, i.completion("coarse")).ok for i in sums) or data

# %% [markdown]
# Candidates come from three sources: the generator, the same with a fault planted in each, and the
# base model itself, which writes several traces per question (rejection sampling). Only what the
# checker accepts may be trained.

# %%
def prompt(item, shots=()):
    """System prompt, solved examples as earlier turns, and the question."""
    return [{"role": "system", "content": SYSTEM}, *(m for s in shots for m in s.turns("worded")),
            item.turns()[0]]  # fmt: skip


def shots(item):
    """Four solved examples of the item's domain, with traces."""
    return [i for i in items.fewshot if i.domain == item.domain][:4]


base = modeling.plain_copy(P) if not P.is_gpu else modeling.load_model(P).eval()
drawn = [i for i in items.train if i.domain == MAIN][: SIZE.sampled]
ids = [chat.prompt_ids(tokenizer, prompt(i, shots(i))) for i in drawn]
longest = max(map(len, ids))
batch = torch.tensor([[tokenizer.pad_token_id] * (longest - len(r)) + r for r in ids])
seed_everything(seed)
with torch.inference_mode():
    sampled = base.generate(
        input_ids=batch.to(base.device), attention_mask=(batch != tokenizer.pad_token_id).to(base.device),
        do_sample=True, temperature=0.7, top_p=0.95, num_return_sequences=4,
        max_new_tokens=SIZE.new_tokens, pad_token_id=tokenizer.pad_token_id,
    )[:, longest:]  # fmt: skip

# %%
texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
ends = set(np.atleast_1d(base.generation_config.eos_token_id).tolist())
replies = [generation.Answer(text=t, n_prompt=longest, n_new=len(r), stopped=bool(ends & set(r)))
           for t, r in zip(texts, sampled.tolist(), strict=True)]  # fmt: skip
rng = random.Random(seed)
planted = [] if data else [i.corrupted(rng) for i in items.train]
CANDIDATES = {
    "generator": (items.train, [i.completion() for i in items.train]),
    "generator, one fault each": (items.train[: len(planted)], [text for text, _ in planted]),
    "base model, sampled": ([i for i in drawn for _ in range(4)], replies),
}
kept, funnel = {}, []
for name, (asked, candidates) in CANDIDATES.items():
    kept[name], reasons = reasoning.funnel(asked, candidates)
    funnel.append({"source": name, "candidates": len(candidates), "kept": len(kept[name]),
                   "rejected": ", ".join(f"{n} {r}" for r, n in reasons.most_common()
                                         if r != "kept")})  # fmt: skip
table(funnel, "what the checker says")
escaped = len(kept["generator, one fault each"])
takeaway(f"{len(planted) - escaped} of {len(planted)} planted faults were rejected.", when=bool(planted))
takeaway(f"Of {len(texts)} traces of the base model {len(kept['base model, sampled'])} were accepted.")

# %%
for k in [k for k in range(len(texts)) if k not in kept["base model, sampled"]][:2]:
    asked = CANDIDATES["base model, sampled"][0][k]
    judged = reasoning.check(asked, replies[k])
    print(f"{asked.question}\n  {texts[k].strip()[:160]!r}\n  {judged.reason}: {judged.detail}\n")

# %% [markdown]
# ## How good is the base model?
#
# Without examples, and with four worked ones of the same domain in the prompt.

# %%
answers = {}


def ask(arm, model, groups, shots=None):
    """Greedy completions of one arm to some groups."""
    for group in groups:
        prompts = [prompt(i, shots(i) if shots else ()) for i in items.groups[group]]
        answers[arm, group] = generation.generate(
            model, tokenizer, [chat.prompt_ids(tokenizer, p) for p in prompts],
            max_new_tokens=SIZE.new_tokens, batch_size=3 * P.eval_batch_size // 2,
            progress=run.progress_file, what=f"answers, {arm}, {group}",
        )  # fmt: skip


def right(arm, group):
    """One truth value per item of a group."""
    pairs = zip(items.groups[group], answers[arm, group], strict=True)
    return [reasoning.grade(i, a).correct for i, a in pairs]


HERE = [g for g in items.groups if g.split("_")[0] == MAIN]  # the main claim
ask("base", base, HERE)
ask("few_shot", base, items.groups, shots)
table([{"group": g, "arm": arm, "accuracy": scoring.rate(right(arm, g))}
       for arm, g in answers], "before training")  # fmt: skip

# %% [markdown]
# ## Four arms, one recipe
#
# Each arm starts from the same adapter and sees the same questions, grouped by the length of its own rows.
# They differ in what follows the question: the answer alone, a trace in coarse steps (`cot_coarse`), or one
# in fine steps that splits numbers into tens and ones (`cot`). The fourth is `cot` with as many *supervised
# tokens* as the answers have, so far fewer examples.

# %%
def rows(chosen, grain):
    """Tokenised rows of one arm, loss on the completion."""
    return [masking.assistant_labels(tokenizer, conversation(i, grain), max_length=P.max_length)
            for i in chosen]  # fmt: skip


def conversation(item, grain):
    """What an item is trained on."""
    return [*prompt(item), item.turns(grain)[1]]


reached = items.train[: max_steps * SIZE.batch_size or None]  # what the steps reach
PLAN = {"answer_only": (reached, None), "cot": (reached, "fine"),
        "cot_coarse": (reached, "coarse")}  # fmt: skip
encoded = {arm: rows(*plan) for arm, plan in PLAN.items()}
budget = sum(map(masking.supervised, encoded["answer_only"]))
used = np.cumsum([masking.supervised(r) for r in encoded["cot"]])
few = max(SIZE.batch_size + 1, int(np.searchsorted(used, budget)))  # two steps: one alone is warm-up
PLAN["cot_equal_tokens"] = (reached[:few], "fine")
encoded["cot_equal_tokens"] = encoded["cot"][:few]
table([{"arm": arm, "examples": len(r), "tokens": sum(len(x["input_ids"]) for x in r),
        "supervised": sum(map(masking.supervised, r))} for arm, r in encoded.items()],
      "what each arm trains on")  # fmt: skip

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


def arguments(arm, n_rows):
    """The recipe of all arms."""
    return SFTConfig(
        output_dir=str(run.dir / "train" / arm), max_steps=-(-n_rows // SIZE.batch_size),
        per_device_train_batch_size=SIZE.batch_size,
        train_sampling_strategy="group_by_length", learning_rate=learning_rate or SIZE.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.0, max_grad_norm=1.0,
        loss_type="chunked_nll", max_length=P.max_length,
        bf16=P.is_gpu and P.precision == "bf16", fp16=P.is_gpu and P.precision == "fp16",
        use_cpu=not P.is_gpu, gradient_checkpointing=P.is_gpu, logging_steps=1,
        save_steps=P.eval_steps, save_total_limit=1, seed=seed, data_seed=seed,
        report_to=report_to, disable_tqdm=True,
    )  # fmt: skip


# %%
run.fingerprints |= {
    "data": sha256_json({arm: [r["input_ids"] for r in rs] for arm, rs in encoded.items()}),
    "template": chat.template_hash(tokenizer),
    "tokenizer": modeling.tokenizer_hash(tokenizer),
    "base_weights": modeling.weights_hash(P),
}
facts = manifest.build(run)
findings, curves, served = {}, {}, base
ORDER = ["answer_only", "cot_equal_tokens", *([] if data else ["cot_coarse"]), "cot"]
for arm in ORDER:
    n = len(encoded[arm])
    modeling.restore_adapter(model, initial)
    model.train()
    trainer = SFTTrainer(
        model, arguments(arm, n), train_dataset=Dataset.from_list(encoded[arm][:n]),
        processing_class=tokenizer, callbacks=[training.Progress(run.progress_file)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    chosen, grain = PLAN[arm]
    findings[arm] = preflight.check(trainer, [conversation(i, grain) for i in chosen[:n]], tokenizer)
    preflight.gate(findings[arm])
    with tracking.tracked(run, report_to, {"run_id": facts["run_id"], "arm": arm}):
        training.train_resumable(
            trainer, run.dir / "train" / arm, {"run_id": facts["run_id"], "arm": arm}
        )
    curves[arm] = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    served = model.eval() if P.is_gpu else modeling.merge_into(base, model)
    ask(arm, served, items.groups if arm in ("answer_only", "cot") else HERE)
    print(f"{arm:18} {len(curves[arm])} steps, loss {curves[arm][0]:.2f} → "
          f"{np.mean(curves[arm][-20:]):.2f}")  # fmt: skip

# %% [markdown]
# **Why the losses say nothing.** The arms predict different tokens. Most tokens of a trace are copied
# or follow from the line before, so its mean loss is low; a bare answer is one hard guess.

# %% [markdown]
# ## Did it work?

# %%
ARMS = ["base", "few_shot", *ORDER]
accuracy = {(arm, g): scoring.rate(right(arm, g)) for arm, g in answers}
table([{"arm": arm, **{g: scoring.rate(right(arm, g)) for g in HERE}} for arm in ARMS],
      "accuracy [95 % interval]; held-out structures apart")  # fmt: skip
PAIRS = [("cot", "answer_only"), ("cot_equal_tokens", "answer_only"), ("cot", "few_shot"),
         *([] if data else [("cot", "cot_coarse")])]  # fmt: skip
gains = {(a, b, g): scoring.rate_difference(right(a, g), right(b, g)) for a, b in PAIRS for g in HERE}
for (a, b, g), gain in gains.items():
    takeaway(f"{g}: {a} against {b}: {scoring.verdict(gain)}")

# %%
COLOUR = {"base": COLOURS["base"], "few_shot": COLOURS["few_shot"], "answer_only": COLOURS["sft"],
          "cot_equal_tokens": COLOURS["lora"], "cot_coarse": COLOURS["lora"],
          "cot": COLOURS["qlora"]}  # fmt: skip
gain = gains["cot", "answer_only", MAIN]
with figure(
    f"Traces beat answers by {gain['value'] * 100:.0f} points at equal examples"
    if gain["ci95"][0] > 0 else f"Traces against answers at equal examples: {scoring.verdict(gain)}",
    f"accuracy on {MAIN} problems, n = {gain['n']} of seen and "
    f"{len(items.groups.get(f'{MAIN}_heldout', []))} of held-out structures; profile {P.name}",
    alt="; ".join(f"{arm} {accuracy[arm, g]['value']:.2f} on {g}" for arm in ARMS for g in HERE),
) as ax:
    for k, group in enumerate(HERE):
        values = [accuracy[arm, group] for arm in ARMS]
        at = np.arange(len(ARMS)) + 0.4 * k
        middle = np.array([v["value"] for v in values])
        low, high = np.array([v["ci95"] for v in values]).T
        ax.bar(at, middle, 0.36, color=[COLOUR[a] for a in ARMS], alpha=1 - 0.5 * k,
               yerr=np.clip([middle - low, high - middle], 0, None), capsize=2, label=group)  # fmt: skip
    ax.set_xticks(np.arange(len(ARMS)) + 0.2, ARMS, fontsize=8)
    ax.set(ylabel="accuracy", ylim=(0, 1))
    ax.legend(title="full and pale colour" if len(HERE) > 1 else None, frameon=False, fontsize=8)

# %%
levels = sorted({i.difficulty for i in items.groups[MAIN]})


def by_steps(arm, level):
    """One truth value per item of the main group that takes so many steps."""
    pairs = zip(right(arm, MAIN), items.groups[MAIN], strict=True)
    return [ok for ok, i in pairs if i.difficulty == level]


table([{"steps": level, **{arm: scoring.rate(by_steps(arm, level)) for arm in ARMS}}
       for level in levels], f"accuracy on {MAIN} by number of steps")  # fmt: skip
others = [g for g in items.groups if g not in HERE]
table([{"group": g, **{arm: accuracy[arm, g] for arm in ("few_shot", "answer_only", "cot")}}
       for g in others], "the other domains")  # fmt: skip
for k in levels:
    gain = scoring.rate_difference(by_steps("cot", k), by_steps("answer_only", k))
    takeaway(f"{MAIN}, {k} steps: cot against answer_only: {scoring.verdict(gain)}")
for g in others:
    gains["cot", "answer_only", g] = scoring.rate_difference(right("cot", g), right("answer_only", g))
    takeaway(f"{g}: cot against answer_only: {scoring.verdict(gains['cot', 'answer_only', g])}")

# %% [markdown]
# ## What goes wrong?
#
# The checker names the first fault of every wrong completion. Format faults are cured first; what is
# left shows what the model cannot do yet.

# %%
CAUSES = ["correct", "wrong arithmetic", "wrong step", "answer does not follow", "wrong answer",
          "format", "no stop"]  # fmt: skip
grades = {arm: [reasoning.grade(i, a) for i, a in zip(items.groups[MAIN], answers[arm, MAIN],
                                                       strict=True)] for arm in ARMS}  # fmt: skip
causes = {arm: Counter(g.reason for g in grades[arm]) for arm in ARMS}
shades = [plt.get_cmap("tab20")(k) for k in (6, 2, 8, 10, 14, 16)]
with figure(
    f"Most frequent fault of the fine traces: "
    f"{next((c for c, _ in causes['cot'].most_common() if c != 'correct'), 'none')}",
    f"first fault of each completion, {MAIN}, n = {len(items.groups[MAIN])} per arm; profile {P.name}",
    alt="; ".join(f"{arm}: " + ", ".join(f"{n} {c}" for c, n in causes[arm].items()) for arm in ARMS),
) as ax:
    left = np.zeros(len(ARMS))
    for k, cause in enumerate(CAUSES):
        widths = np.array([causes[arm][cause] for arm in ARMS])
        colour = "#2a7f3f" if not k else shades[k - 1]
        ax.barh(ARMS, widths, left=left, label=f"{k + 1} {cause}", color=colour)
        for y in np.flatnonzero(widths >= 0.03 * len(items.groups[MAIN])):  # read without colours too
            ax.text(left[y] + widths[y] / 2, y, k + 1, ha="center", va="center", fontsize=8)
        left += widths
    ax.invert_yaxis()
    ax.set(xlabel="completions")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

# %%
for cause in CAUSES:
    k = next((k for k, g in enumerate(grades["cot"]) if g.reason == cause), None)
    if k is not None:
        item, text = items.groups[MAIN][k], answers["cot", MAIN][k].text
        print(f"{cause.upper()} {grades['cot'][k].detail}\n  {item.question}\n  {text[:200]!r}"
              f"\n  gold {item.answer}\n")  # fmt: skip

# %% [markdown]
# ## Is the trace used?
#
# **Predict.** One number in the middle of a right trace is replaced by a wrong one, and the model
# continues from there. If the trace is what it computes with, the wrong number is carried to the end. A
# right answer all the same would come from elsewhere, and the trace would decorate; *something else* says
# neither.

# %%
changed = [(i, c) for i in items.groups[MAIN] if (c := i.corrupted_number(rng))]
changed = changed[: P.eval_batch_size]
starts = [chat.prompt_ids(tokenizer, prompt(i))
          + tokenizer(c.prefix, add_special_tokens=False)["input_ids"] for i, c in changed]  # fmt: skip
carried = generation.generate(
    served, tokenizer, starts, max_new_tokens=SIZE.new_tokens, batch_size=P.eval_batch_size
) if changed else []  # fmt: skip
follows = []
for (item, c), rest in zip(changed, carried, strict=True):
    said = answercheck.extract(c.prefix + rest.text, stopped=rest.stopped)
    follows.append("right answer all the same" if said and answercheck.equal(said.text, item.answer)
                   else "follows the change" if said and answercheck.equal(said.text, c.followed)
                   else "something else")  # fmt: skip
faithful = scoring.rate([f == "follows the change" for f in follows]) if follows else None
for (item, c), rest in list(zip(changed, carried, strict=True))[:2]:
    print(f"{item.question}\n  {c.prefix!r} ▸ {rest.text!r}\n")
takeaway(f"After one changed number: {dict(Counter(follows))}, n = {len(follows)}.", when=bool(follows))

# %% [markdown]
# ## Thoughts in tags, and what later turns see
#
# **Predict.** Templates of thinking models drop the thoughts of *earlier* turns. A dialogue of two
# answers with thoughts is trained as one row: how many thoughts carry loss?

# %%
keeps = tokenizer.chat_template
strips = copy.deepcopy(tokenizer)
strips.chat_template = """{%- set kept = namespace(all=[]) -%}
{%- for m in messages -%}
  {%- set earlier = m['role'] == 'assistant' and not loop.last -%}
  {%- set text = m['content'].split('</think>')[-1] if earlier else m['content'] -%}
  {%- set kept.all = kept.all + [dict(m, content=text)] -%}
{%- endfor -%}
{%- set messages = kept.all -%}""" + keeps  # any template, which then sees no earlier thought
first, second = items.train[0], items.train[1]
talk = [{"role": "system", "content": SYSTEM}]
for i in (first, second):
    thought, final = i.completion().rsplit("\n", 1)
    talk += [{"role": "user", "content": i.question},
             {"role": "assistant", "content": f"<think>{thought}</think>{final}"}]  # fmt: skip


def thoughts_trained(tok, conversations):
    """Thoughts that carry loss, by the tokens of their opening tag."""
    text = ""
    for c in conversations:
        row = masking.assistant_labels(tok, c, max_length=4 * P.max_length)  # two of your rows
        text += tok.decode([t for t in row["labels"] if t != -100])
    return text.count("<think>")


# %%
with expect_error(MaskError, match="not a prefix"):
    thoughts_trained(strips, [talk])

# %% [markdown]
# **Why.** The stripped thought is in no token of the row, so it cannot be trained, and the oracle
# refuses to guess. The cure is one row per answer: each is trained with the history that will be
# served, earlier thoughts gone and its own kept.

# %%
unrolled = [talk[:3], [*talk[:2], {**talk[2], "content": talk[2]["content"].split("</think>")[1]},
                       *talk[3:]]]  # fmt: skip
count = thoughts_trained(strips, unrolled)
takeaway(f"One row per answer: {count} of 2 thoughts carry loss, under the template that is served.")

# %% [markdown]
# ## Break it on purpose: a grader that reads the last number
#
# **Predict.** Many scripts take the last number of the text as the answer. How does it grade a right
# trace that was cut off before it stated any answer? And a model that stops too early on every item?

# %%
def last_number(text, gold):
    """The usual shortcut."""
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return bool(found) and answercheck.equal(found[-1].rstrip("."), gold)


cut = [(i, i.trace()) for i in items.groups[MAIN] if i.trace() and not i.written]
by_shortcut = [last_number(text, i.answer) for i, text in cut]
by_grader = [reasoning.grade(i, text).correct for i, text in cut]
numeric = [(a, i, x) for a in ARMS for i, x in zip(items.groups[MAIN], answers[a, MAIN], strict=True)]
wrongly = [(a, x) for a, i, x in numeric
           if last_number(x.text, i.answer) and not reasoning.grade(i, x).correct]  # fmt: skip
takeaway(f"A model that never states an answer would score {sum(by_shortcut)} of {len(cut)} with the "
         f"shortcut and {sum(by_grader)} with the grader. Of the {len(numeric)} completions above the "
         f"shortcut accepts {len(wrongly)} that the grader refuses.")
with expect_error(DataError, match="####"):
    answercheck.gsm8k("The total is 12, no marker anywhere.")

# %% [markdown]
# **Why.** A number that is mentioned is not an answer that is given. Accuracy must not rise because a
# model talks more.

# %% tags=["checkpoint", "long-ok"]
usual = (seed, max_steps, learning_rate) == (17, 0, 0)  # the bounds are of this recipe
ours = P.name != "smoke" and usual and not data
adapter = run.dir / "adapter"
shutil.rmtree(adapter, ignore_errors=True)
model.save_pretrained(adapter)
modeling.clean_adapter_config(adapter, P)
tokenizer.save_pretrained(adapter)
manifest.write_beside(adapter, facts)
generation.dump_answers(run.dir / "scored.jsonl", [
    {"id": i.id, "group": g, "arm": a, "answer": x.text, "correct": reasoning.grade(i, x).correct}
    for (a, g), xs in answers.items() for i, x in zip(items.groups[g], xs, strict=True)
])  # fmt: skip


def name_of(group):
    """Metric suffix; the main group has none."""
    return "" if group == MAIN else f"_{group}"


README = ["few_shot.accuracy", "answer_only.accuracy", "cot.accuracy", f"cot.accuracy_{MAIN}_heldout",
          "cot_minus_answer_only.accuracy"]  # fmt: skip
metrics = {f"{arm}.accuracy{name_of(g)}": accuracy[arm, g] for arm, g in answers}
metrics |= {f"{a}_minus_{b}.accuracy{name_of(g)}": gain for (a, b, g), gain in gains.items()}
if faithful:
    metrics["cot.follows_changed_number"] = faithful
with tracking.tracked(run, report_to, {"run_id": facts["run_id"]}) as tracker:
    tracking.log_summary(tracker, metrics)
with checkpoint(run, headline="cot.accuracy", readme=[n for n in README if n in metrics]) as c:
    for name, entry in metrics.items():
        c.metric(name, entry)
    c.equal("preflight findings", [
        f.id for fs in findings.values() for f in fs if ours or f.severity == "FAIL"], [])
    if not data:
        c.equal("generated traces rejected", len(items.train) - len(kept["generator"]), 0)
    c.equal("planted faults that escaped", escaped, 0)
    c.equal("test programs with another output", len(programs) - agree, 0)
    c.equal("how the hostile programs ended",
            [boxed[n].reason for n in ("loop", "file", "network")], ["time", "file", "network"])
    c.equal("thoughts trained, one row per answer", count, 2)
    c.equal("unfinished traces that the grader accepts", sum(by_grader), 0)
    lead = gains["cot", "answer_only", MAIN]
    c.at_least("cot against answer-only, points", lead["value"], 0.15, when=ours)
    c.at_least("cot against answer-only, lower bound", lead["ci95"][0], 1e-9, when=ours)
    c.save_file("scored", run.dir / "scored.jsonl")
    c.save_file("adapter", adapter)

# %% [markdown]
# **Summary**
# - Traces are checked line by line before training: a right answer does not prove the way to it.
# - Comparisons name their budget: equal examples and equal supervised tokens are two questions.
# - The lead over bare answers is that of all word problems together. Problems of more steps, programs and
#   puzzles have rows of their own above, with fewer items: read their intervals before you expect it there.
# - Whether the grain of the steps is a lever is measured (`cot` against `cot_coarse`), and finer traces are
#   more tokens; the faults that remain say what to practise next.
#
# **What this does not show**: problems longer than the trained ones, text not written by this
# project's generators, sampling with votes, and whether the trace is what a larger model computes
# with. The corrupted number tests calculation as much as use: a model that goes wrong anyway follows
# nothing. Held-out structures come from the same authors and are few: intervals draw problems, not
# structures. The length of the trained problems was chosen after a look at test figures (Decisions in
# sft_utils/README.md), which flatters a little. One seed.
#
# **Exercises**: (1) Write `share_of_carries` below. (2) Write `fine_sum`: the steps of a sum that is
# split into tens and ones; the checker of the package reads them. (3) Train `cot` on the grain `worded`, that
# of the few-shot examples: is it between coarse and fine? (4) Bring a file in GSM8K form:
# `make nb NB=06 DATA=file.jsonl`.
#
# **Next**: 07, several turns and rules that must outlive them.

# %%
def share_of_carries(equations: list[tuple[int, int]]) -> float:
    """Share of the sums a + b in which the ones add up to ten or more."""
    return 0.0  # FILL ME IN (about 2 lines)


def fine_sum(a: int, b: int) -> list[str]:
    """Equations that add first the tens and then the ones of `b` to `a`, like "48 + 30 = 78"."""
    return []  # FILL ME IN (about 2 lines)


def check(number: int, yours: object, solved: bool) -> None:
    wanted = {1: "0.5", 2: "['48 + 30 = 78', '78 + 7 = 85'], and likewise for other sums"}[number]
    print(f"({number})", "solved" if solved else "not solved yet", "· yours", yours, "· expected", wanted)


share = share_of_carries([(48, 37), (40, 30), (15, 5), (21, 34)])
check(1, share, abs(share - 0.5) < 1e-9)
sums = {(a, b): fine_sum(a, b) for a, b in [(48, 37), (15, 28), (63, 19)]}
read = {pair: traces.equations(", ".join(lines)) for pair, lines in sums.items()}
tens_first = {pair: pair[0] + pair[1] // 10 * 10 for pair in sums}
check(2, sums[48, 37], all(
    len(found) == 2 and all(e.right for e in found)
    and [e.stated for e in found] == [tens_first[pair], sum(pair)]
    for pair, found in read.items()
))  # fmt: skip

# %% [markdown]
# **Sources**: Wei et al., "Chain-of-Thought Prompting Elicits Reasoning in Large Language Models"
# (arXiv 2201.11903) · Cobbe et al., "Training Verifiers to Solve Math Word Problems" (arXiv
# 2110.14168), the form of GSM8K files · Zelikman et al., "STaR" (arXiv 2203.14465), rejection
# sampling · Lanham et al., "Measuring Faithfulness in Chain-of-Thought Reasoning" (arXiv 2307.13702).
