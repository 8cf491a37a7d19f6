"""Greedy batched generation with a shared prompt prefix, progress, and answers kept on disk."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json, sha256_files, sha256_json, write_json
from sft_utils.errors import ConfigError
from sft_utils.manifest import versions
from sft_utils.model import decoding
from sft_utils.model.constrain import Constraint, Guide
from sft_utils.model.decoding import GREEDY
from sft_utils.model.modeling import own_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generated answer."""

    text: str  # decoded new tokens, without the stop token
    n_prompt: int  # prompt tokens
    n_new: int  # generated tokens, stop token included
    stopped: bool  # ended by a stop token, not by the length limit


def check_decoding(model: Any) -> None:
    """Refuse a model whose answers would not be the most likely tokens, one after the other.

    `model.generate` would follow such a setting and the shared prefix would not: which of the two
    answers depends on the model's attention. `modeling.load_model` switches off what models bring.

    Raises:
        ConfigError: The generation config of the model samples, searches or penalises.
    """
    config = model.generation_config
    if config.do_sample:
        raise ConfigError("generation_config.do_sample is true; evaluation here is greedy")
    for name, plain in GREEDY.items():
        value = getattr(config, name, None)
        if value and value != plain:
            raise ConfigError(
                f"generation_config.{name} is {value!r}; evaluation here is greedy. "
                f"Set model.generation_config.{name} = None"
            )


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """Eval mode inside: dropout would change answers, and checkpointing would forget the cache.

    On a GPU the model that trains is the one that is asked, between steps too; after the block each
    module is in the mode it had.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    cache: Path | None = None,
    key: str = "",
    progress: Path | None = None,
    what: str = "generating",
    constraint: Constraint | None = None,
) -> list[Answer]:
    """Greedy answers to prompts that may share a prefix.

    The longest common prefix of all prompts (system prompt, few-shot examples) is run once and
    its keys and values serve every batch (`decoding`): for an eight-shot prompt that is most of
    the work. Prompts are grouped by length, so that padding stays small.

    Args:
        model: In any mode (`answering`).
        prompts: Token ids, template and answer header included.
        max_new_tokens: Limit per answer.
        batch_size: Prompts decoded together.
        cache: File that receives each finished batch; the same call after a kill continues there.
        key: Identity of the model; a cache written under another key, prompts, limits, code of
            decoding, package versions, precision or number of threads is ignored.
        progress: File for the runner: what, done, total, eta_s.
        constraint: One grammar per prompt that its answer must follow (`constrain`), or what else
            has its `digest` and `guide`, as the sampling of 11.
    Returns:
        One answer per prompt, in the order given.
    Raises:
        ConfigError: The model would not decode greedily, or there is not one grammar per prompt.
    """
    check_decoding(model)
    if isinstance(constraint, Constraint) and len(constraint.grammars) != len(prompts):
        n = len(constraint.grammars)
        raise ConfigError(f"{len(prompts)} prompts and {n} grammars: give one schema per prompt")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    limits = [constraint.digest] if constraint else []
    arithmetic = _arithmetic(model) if cache else {}
    identity = sha256_json([key, prompts, max_new_tokens, batch_size, *limits, arithmetic])
    done: dict[int, dict[str, Any]] = {}
    if cache and cache.exists():
        saved = read_json(cache)
        if saved["identity"] == identity:
            done = {int(i): answer for i, answer in saved["answers"].items()}
    todo = [batch for batch in batches if not all(i in done for i in batch)]
    started = time.monotonic()
    prefix = common_prefix(prompts) if todo and decoding.supports(model) else []
    with own_forward(model), answering(model), _attention(model, prefix):
        for worked, batch in enumerate(todo, 1):
            part = [prompts[i] for i in batch]
            guide = constraint.guide(batch) if constraint else None
            answers = _decode(model, tokenizer, part, prefix, max_new_tokens, guide)
            done |= {i: asdict(answer) for i, answer in zip(batch, answers, strict=True)}
            if cache:
                write_json(cache, {"identity": identity, "answers": done})
            if progress:
                pace = (time.monotonic() - started) / worked
                finished = len(batches) - len(todo) + worked
                report_progress(progress, what, finished, len(batches), pace)
    return [Answer(**done[i]) for i in range(len(prompts))]


def room(tokenizer: Any, answers: Iterable[str], least: int) -> int:
    """Tokens that the longest of some answers needs together with its stop, at least `least`."""
    return max([least, *(len(tokenizer.encode(answer)) + 1 for answer in answers)])


def _arithmetic(model: Any) -> dict[str, Any]:
    """What decides an answer besides weights and prompt: the code here, and how it is computed."""
    import torch

    folder = Path(__file__).parent
    return {
        "code": sha256_files([folder / f"{m}.py" for m in ("generation", "decoding", "constrain")]),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "model": [str(model.dtype), str(model.device), model.config._attn_implementation],
    }


def _attention(model: Any, prefix: list[int]) -> Any:
    """Shared-prefix attention where the model allows it, otherwise nothing."""
    return decoding.shared_prefix(model, prefix) if prefix else contextlib.nullcontext()


def report_progress(path: Path, what: str, done: int, total: int, pace_s: float) -> None:
    """Tell the runner how far a long piece of work is; `pace_s` is seconds per unit."""
    eta = (total - done) * pace_s
    write_json(path, {"what": what, "done": done, "total": total, "eta_s": round(eta, 1)})


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Longest shared beginning of all prompts, always leaving one token of each outside.

    Example:
        >>> common_prefix([[1, 2, 3], [1, 2, 4]])
        [1, 2]
        >>> common_prefix([[1, 2]])
        [1]
    """
    shortest = min(len(p) for p in prompts)
    length = 0
    while length < shortest - 1 and len({p[length] for p in prompts}) == 1:
        length += 1
    return list(prompts[0][:length])


def _decode(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    prefix: list[int],
    max_new_tokens: int,
    guide: Guide | None = None,
) -> list[Answer]:
    """One batch of answers."""
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or [])
    # What fills a row up is masked and never read: any id does where a tokenizer names none.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    if prefix:
        rows = decoding.greedy(
            model,
            [p[len(prefix) :] for p in prompts],
            offset=len(prefix),
            stops=stops,
            pad=pad,
            limit=max_new_tokens,
            guide=guide,
        )
    else:
        rows = _stock(model, prompts, pad, max_new_tokens, guide)
    answers = []
    for prompt, row in zip(prompts, rows, strict=True):
        end = next((i for i, token in enumerate(row) if token in stops), None)
        new = row if end is None else row[:end]
        answers.append(
            Answer(
                text=tokenizer.decode(new),
                n_prompt=len(prompt),
                n_new=len(new) + (end is not None),
                stopped=end is not None,
            )
        )
    return answers


def _stock(
    model: Any,
    prompts: list[list[int]],
    pad: int,
    max_new_tokens: int,
    guide: Guide | None = None,
) -> list[list[int]]:
    """`model.generate` for models whose attention the shared prefix does not cover."""
    import torch

    width = max(map(len, prompts))
    rows = [[pad] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    every = range(len(prompts))

    def follow(ids: Any, scores: Any) -> Any:
        """A logits processor: what was chosen since the last call, then what may come now."""
        if ids.shape[1] > width:
            guide.advance(every, ids[:, -1].tolist())
        return guide.restrict(scores, every)

    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            logits_processor=[follow] if guide else None,
        )
    return output[:, width:].tolist()


def dump_answers(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object per line (answers beside their gold), atomically."""
    from sft_utils.artifacts import write_text

    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
