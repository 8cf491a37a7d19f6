"""Batched generation with a shared prefix equals one prompt at a time."""

import copy
import json

import pytest
import torch

from sft_utils.errors import ConfigError
from sft_utils.model import generation

OPTIONS = {"max_new_tokens": 8, "batch_size": 4}


@pytest.fixture
def prompts(tokenizer):
    head = "You are a test. Answer.\n"
    texts = ["a", "some longer prompt with words", "mid length one", "x y z", "another text here"]
    return [tokenizer(head + t)["input_ids"] for t in texts]


def test_prefix_sharing_changes_nothing(tiny, tokenizer, prompts):
    batched = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    for prompt, answer in zip(prompts, batched, strict=True):
        with torch.inference_mode():
            out = tiny.generate(
                torch.tensor([prompt]), max_new_tokens=8, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )[0, len(prompt):].tolist()  # fmt: skip
        eos = tokenizer.eos_token_id
        expected = out[: out.index(eos)] if eos in out else out
        assert answer.text == tokenizer.decode(expected)
        assert answer.n_prompt == len(prompt)
        assert answer.stopped == (eos in out)


def test_attention_of_another_library_reads_the_prompts_whole(tiny, tokenizer, prompts):
    """Unsloth puts its own forward in; it never sees a prefix that is kept apart."""
    wanted = [a.text for a in generation.generate(tiny, tokenizer, prompts, **OPTIONS)]
    kind = type(tiny.model.layers[0].self_attn)

    class Foreign(kind):
        def forward(self, hidden_states, **kwargs):
            was, self.config._attn_implementation = self.config._attn_implementation, "sdpa"
            try:
                return super().forward(hidden_states, **kwargs)
            finally:
                self.config._attn_implementation = was

    assert generation.decoding.supports(tiny)
    for layer in tiny.model.layers:
        layer.self_attn.__class__ = Foreign
    assert not generation.decoding.supports(tiny)
    found = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    assert [a.text for a in found] == wanted


def test_order_is_kept(tiny, tokenizer, prompts):
    forward = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    backward = generation.generate(tiny, tokenizer, prompts[::-1], **OPTIONS)
    assert [a.text for a in forward] == [a.text for a in backward[::-1]]


def test_cache_resumes_at_the_unfinished_batch(tiny, tokenizer, prompts, tmp_path, monkeypatch):
    cache = tmp_path / "answers.json"
    whole = generation.generate(tiny, tokenizer, prompts, cache=cache, key="k", **OPTIONS)
    saved = json.loads(cache.read_text())
    kept = dict(list(saved["answers"].items())[:4])
    cache.write_text(json.dumps({**saved, "answers": kept}))
    calls = []
    decode = generation._decode
    monkeypatch.setattr(generation, "_decode", lambda *a: calls.append(len(a[2])) or decode(*a))
    assert generation.generate(tiny, tokenizer, prompts, cache=cache, key="k", **OPTIONS) == whole
    assert calls == [1], "only the batch that was missing is decoded again"
    generation.generate(tiny, tokenizer, prompts, cache=cache, key="other model", **OPTIONS)
    assert calls == [1, 4, 1], "another model does not reuse the answers"


@pytest.mark.parametrize("change", ["code", "threads", "versions", "precision"])
def test_kept_answers_are_those_of_the_same_arithmetic(
    tiny, tokenizer, prompts, tmp_path, monkeypatch, change
):
    cache, threads = tmp_path / "answers.json", torch.get_num_threads()
    generation.generate(tiny, tokenizer, prompts, cache=cache, key="k", **OPTIONS)
    before = json.loads(cache.read_text())["identity"]
    if change == "code":
        monkeypatch.setattr(generation, "sha256_files", lambda files: f"{len(files)} other files")
    elif change == "versions":
        monkeypatch.setattr(generation, "versions", lambda: {"torch": "0"})
    elif change == "precision":
        tiny = copy.deepcopy(tiny).to(torch.float64)
    else:
        torch.set_num_threads(threads + 1)
    try:
        generation.generate(tiny, tokenizer, prompts, cache=cache, key="k", **OPTIONS)
    finally:
        torch.set_num_threads(threads)
    assert json.loads(cache.read_text())["identity"] != before


def test_progress_is_reported(tiny, tokenizer, prompts, tmp_path):
    path = tmp_path / "progress.json"
    generation.generate(tiny, tokenizer, prompts, progress=path, what="w", **OPTIONS)
    assert json.loads(path.read_text()) == {"what": "w", "done": 2, "total": 2, "eta_s": 0.0}


def test_refuses_sampling(tiny, tokenizer, prompts):
    tiny.generation_config.do_sample = True
    with pytest.raises(ConfigError, match="greedy"):
        generation.generate(tiny, tokenizer, prompts, **OPTIONS)


def test_a_model_that_trains_answers_as_it_will(tiny, tokenizer, prompts):
    """On a GPU 03 asks the model that has just trained: it was refused, after all its training."""
    tiny.eval()
    expected = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    tiny.gradient_checkpointing_enable()
    tiny.train()
    tiny.lm_head.eval()
    assert generation.generate(tiny, tokenizer, prompts, **OPTIONS) == expected
    assert tiny.training
    assert tiny.model.layers[0].training
    assert not tiny.lm_head.training


def test_large_scores_do_not_overflow_in_fp16(tokenizer):
    """Products of queries and keys beyond 65,504 would be NaN, and NaN is answered as token 0."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        layer = model.model.layers[0].self_attn
        layer.k_proj.bias.normal_(0, 40)
        layer.q_proj.bias.copy_(torch.cat([layer.k_proj.bias] * 2) * 0.5)
        assert (layer.q_proj.bias[:128] @ layer.k_proj.bias).item() > torch.finfo(torch.float16).max
    prompts = [[*range(10, 40), 50, 51], [*range(10, 40), 60, 61, 62]]
    texts = {
        dtype: [a.text for a in generation.generate(model.to(dtype), tokenizer, prompts, **OPTIONS)]
        for dtype in (torch.float32, torch.float16)
    }
    assert texts[torch.float16] == texts[torch.float32]
    model._original_forward = model.forward  # as accelerate leaves a model that trained in fp16
    model.forward = torch.autocast("cpu", torch.float16)(model.forward)
    wrapped = model.forward
    trained = generation.generate(model, tokenizer, prompts, **OPTIONS)
    assert [a.text for a in trained] == texts[torch.float32]
    assert model.forward is wrapped, "training goes on in mixed precision"


def test_the_longest_answer_has_room(tokenizer):
    """09 cut the reader's answers where 03 did not, and wrote the scores of the halves into its card."""
    long = "word " * 200
    assert generation.room(tokenizer, ["short", long], 96) == len(tokenizer.encode(long)) + 1 > 200
    assert generation.room(tokenizer, ["short"], 96) == generation.room(tokenizer, [], 96) == 96


@pytest.mark.parametrize(("name", "value"), [
    ("num_beams", 3), ("repetition_penalty", 1.1), ("no_repeat_ngram_size", 2), ("min_new_tokens", 4),
    ("suppress_tokens", [5]),
])  # fmt: skip
def test_what_is_no_greedy_choice_is_refused(tiny, tokenizer, prompts, name, value):
    """`model.generate` follows such a setting, the shared prefix does not: two answers, no word."""
    setattr(tiny.generation_config, name, value)
    with pytest.raises(ConfigError, match=f"generation_config.{name} is .*greedy"):
        generation.generate(tiny, tokenizer, prompts, **OPTIONS)


@pytest.mark.parametrize("shared", [True, False])
def test_a_tokenizer_without_a_pad_token_answers_alike(tiny, tokenizer, prompts, shared, monkeypatch):
    if not shared:
        monkeypatch.setattr(generation.decoding, "supports", lambda model: False)
    expected = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    assert generation.generate(tiny, bare, prompts, **OPTIONS) == expected


class Forced:
    """What stands where a grammar would, as the sampling of 11: no grammars, one token only."""

    digest = "forced"

    def guide(self, rows):
        return self

    def restrict(self, logits, rows):
        only = torch.full_like(logits, float("-inf"))
        only[:, 7] = 0.0
        return only

    def advance(self, rows, tokens):
        """Nothing to remember."""


def test_what_is_no_grammar_may_change_the_logits(tiny, tokenizer, prompts):
    found = generation.generate(tiny, tokenizer, prompts, constraint=Forced(), **OPTIONS)
    assert {a.text for a in found} == {tokenizer.decode([7] * OPTIONS["max_new_tokens"])}


def test_each_prompt_needs_a_grammar(tiny, tokenizer, prompts):
    """One too many was an answer under the schema of another prompt."""
    schemas = [{"type": "boolean"}] * (len(prompts) + 1)
    grammars = generation_constraint(tokenizer, schemas, stops=[tokenizer.eos_token_id])
    with pytest.raises(ConfigError, match="5 prompts and 6 grammars"):
        generation.generate(tiny, tokenizer, prompts, constraint=grammars, **OPTIONS)
    with pytest.raises(ConfigError, match="no id ends an answer"):
        generation_constraint(tokenizer, schemas, stops=[])


def generation_constraint(tokenizer, schemas, stops):
    from sft_utils.model import constrain

    return constrain.constraint(tokenizer, schemas, stops=stops, n_vocab=len(tokenizer))
