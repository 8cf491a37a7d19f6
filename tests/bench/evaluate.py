"""Evaluation: our batched generation and likelihoods against the usual ways, on the same items."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from sft_utils import runtime
from sft_utils.ability import general, harness
from sft_utils.config import get_profile
from sft_utils.masks import chat
from sft_utils.model import decoding, generation, modeling
from sft_utils.runner.nbprogress import say
from sft_utils.task import tickets

NEW_TOKENS = 96
BATCH = 32
SHOTS = 2


def one_by_one(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    """`model.generate` for each prompt by itself, as most evaluation scripts do."""
    import torch

    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                do_sample=False, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        new = out[0, len(prompt) :].tolist()
        end = new.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in new else len(new)
        texts.append(tokenizer.decode(new[:end]))
    return texts


def lm_eval(lm: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    """lm-eval's `generate_until`; `lm` is its model class with batches as large as ours."""
    from lm_eval.api.instance import Instance

    until = {"until": [tokenizer.eos_token], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(text, dict(until)), idx=i)
        for i, text in enumerate(texts)
    ]
    with harness.quietly():
        return lm.generate_until(asked, disable_tqdm=True)


def batched(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    """Ours without the shared beginning: `model.generate` on batches by length."""
    kept, decoding.supports = decoding.supports, lambda model: False
    try:
        return ours(model, tokenizer, prompts)
    finally:
        decoding.supports = kept


def ours(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    """`generation.generate`: batches by length, the shared beginning kept once."""
    answers = generation.generate(
        model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=BATCH
    )
    return [a.text for a in answers]


def stock_harness(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's own model class, as `harness.wrap` would return it without our changes."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def likelihoods(model: Any, tokenizer: Any, items: int, wrap: Callable[..., Any]) -> list[Any]:
    """Choice items through lm-eval with one of two model classes."""
    kept, harness.wrap = harness.wrap, wrap
    try:
        return general.evaluate(
            model, tokenizer, tasks=harness.CHOICE, limit=items, batch_size=BATCH
        )
    finally:
        harness.wrap = kept


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def entry(times: list[float], n: int) -> dict[str, Any]:
    """Items per second as a metric, with the slowest and fastest round."""
    each = [n / t for t in times]
    return {"value": statistics.median(each), "n": n, "range": [min(each), max(each)]}


def over(fast: list[float], slow: list[float], n: int) -> dict[str, Any]:
    """Ratio of two arms, range over rounds."""
    each = [s / f for f, s in zip(fast, slow, strict=True)]
    value = statistics.median(slow) / statistics.median(fast)
    return {"value": value, "n": n, "range": [min(each), max(each)]}


def equalities(texts: dict[str, list[str]]) -> dict[str, Any]:
    """Shares of equal texts: ours against each way in bf16, and each way against float32.

    Two ways that round differently part where two tokens are about equally likely. If ours is as
    often float32's text as the others are, its differences from them are their rounding as well.
    """
    ways = [name for name in texts if not name.endswith("_float32")]
    pairs = [("ours", name) for name in ways if name != "ours"]
    pairs += [(name, "ours_float32") for name in ways]
    pairs.append(("ours_float32", "batched_float32"))
    shares = {}
    for a, b in pairs:
        same = [x.strip() == y.strip() for x, y in zip(texts[a], texts[b], strict=True)]
        shares[f"generate_{a}_equal_{b}.share"] = {"value": sum(same) / len(same), "n": len(same)}
    return shares


def measure(
    *, items: int = 24, choice_items: int = 24, rounds: int = 2,
    show: Callable[[str], None] = say,
    done: Callable[[dict[str, Any]], None] = lambda part: None,
) -> dict[str, Any]:  # fmt: skip
    """The whole part: one process, arms in turns, the order reversed in every other round.

    One model for all arms but its attention: the stock ways get sdpa, which is their default.
    Answers of a batch may differ from single ones in bf16; how many are equal is counted, to each
    other and to float32.
    """
    runtime.quiet()
    import torch

    torch.set_num_threads(2)
    profile = get_profile("cpu")
    tokenizer = modeling.load_tokenizer(profile)
    stock = modeling.load_model(dataclasses.replace(profile, attention="sdpa")).eval()
    rows = tickets.read_rows(tickets.TEST, items)
    shots = tickets.read_rows(tickets.FEW_SHOT, SHOTS)
    wanted = [tickets.prompt(row, tickets.INSTRUCTIONS, shots) for row in rows]
    prompts = [chat.prompt_ids(tokenizer, p) for p in wanted]
    lm = stock_harness(stock, tokenizer, BATCH)
    arms = {"one_by_one": one_by_one, "lm_eval": lm_eval, "batched": batched, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in arms}
    texts: dict[str, list[str]] = {}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            asked = lm if name == "lm_eval" else stock
            seconds, texts[name] = timed(lambda name=name, m=asked: arms[name](m, tokenizer, prompts))
            times[name].append(seconds)
            show(f"  generate, round {number + 1}/{rounds}: {name} {seconds:.1f} s")
    metrics = {f"generate_{name}.items_per_s": entry(t, len(rows)) for name, t in times.items()}
    for name in ("one_by_one", "lm_eval", "batched"):
        metrics[f"generate_ours_over_{name}.items_per_s"] = over(
            times["ours"], times[name], len(rows)
        )
    show("  generate: two ways once more in float32, for the texts alone")
    exact = modeling.load_model(
        dataclasses.replace(profile, attention="sdpa"), dtype=torch.float32
    ).eval()
    for name in ("ours", "batched"):
        texts[f"{name}_float32"] = arms[name](exact, tokenizer, prompts)
    del exact
    metrics |= equalities(texts)
    length = sum(map(len, prompts)) / len(prompts)
    done({"metrics": metrics, "prompt_tokens": length})
    wraps = {"lm_eval": stock_harness, "ours": harness.wrap}
    spent: dict[str, list[float]] = {name: [] for name in wraps}
    found: dict[str, list[Any]] = {}
    for number in range(rounds):
        for name in list(wraps)[:: -1 if number % 2 else 1]:
            seconds, found[name] = timed(
                lambda name=name: likelihoods(stock, tokenizer, choice_items, wraps[name])
            )
            spent[name].append(seconds)
            show(f"  likelihoods, round {number + 1}/{rounds}: {name} {seconds:.1f} s")
    n = len(found["ours"])
    metrics |= {f"likelihood_{name}.items_per_s": entry(t, n) for name, t in spent.items()}
    metrics["likelihood_ours_over_lm_eval.items_per_s"] = over(spent["ours"], spent["lm_eval"], n)
    agree = [a.correct == b.correct for a, b in zip(found["ours"], found["lm_eval"], strict=True)]
    metrics["likelihood_ours_equal_lm_eval.share"] = {"value": sum(agree) / n, "n": n}
    return {"metrics": metrics, "prompt_tokens": length}
