"""A GGUF file read by another loader is the same model; what does not fit is refused."""

import copy

import numpy as np
import pytest
import torch

from sft_utils.errors import ModelError
from sft_utils.export import gguffile


@pytest.fixture
def model(tiny):
    """Larger heads than four, so that a wrong permutation shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tiny.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.1)
    return tiny


def written(model, tokenizer, tmp_path, kind="F32"):
    path = tmp_path / f"m.{kind}.gguf"
    gguffile.write(path, model.named_parameters(), model.config, tokenizer, kind=kind, name="tiny")
    return path


def logits(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("Capital of France? Order KX-48213, 12.50 EUR")])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(("kind", "bound"), [("F32", 0.0), ("Q8_0", 0.5)])
def test_what_comes_back_computes_the_same(model, tokenizer, tmp_path, kind, bound):
    back = gguffile.read_model(written(model, tokenizer, tmp_path, kind), dtype=torch.float32)
    gap = (logits(back, tokenizer) - logits(model, tokenizer)).abs().max().item()
    assert gap <= bound
    assert (gap > 0) == (kind != "F32")
    assert not hasattr(back.config, "quantization_config")


def test_without_the_permutation_it_is_another_model(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(gguffile, "permuted", lambda weight, heads: weight)
    back = gguffile.read_model(written(model, tokenizer, tmp_path), dtype=torch.float32)
    assert (logits(back, tokenizer) - logits(model, tokenizer)).abs().max() > 0.1


def test_vocabulary_and_template_travel(model, tokenizer, tmp_path):
    facts = gguffile.read_facts(written(model, tokenizer, tmp_path))
    assert facts["eos"] == tokenizer.eos_token_id
    assert facts["template"] == tokenizer.chat_template
    assert facts["tokens"] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert facts["merges"][0] == "Ġ t"


def test_the_permutation_is_undone_by_the_loader():
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    weight = np.arange(6 * 8 * 4.0).reshape(48, 4)
    loader = LlamaTensorProcessor({"num_attention_heads": 6, "num_key_value_heads": 6})
    back = loader.process(gguffile.permuted(weight, 6), "blk.0.attn_q.weight").weights
    assert np.array_equal(back, weight)


def test_other_architectures_are_refused(model, tokenizer, tmp_path):
    config = copy.deepcopy(model.config)
    config.model_type = "gemma2"
    with pytest.raises(ModelError, match=r"'gemma2' is not laid out here.*convert_hf_to_gguf"):
        gguffile.write(tmp_path / "x.gguf", [], config, tokenizer, kind="F32", name="x")


def test_stretched_rope_is_refused(model, tokenizer, tmp_path):
    config = copy.deepcopy(model.config)
    config.rope_parameters = {**config.rope_parameters, "rope_type": "yarn"}
    with pytest.raises(ModelError, match="rope type 'yarn'"):
        gguffile.write(tmp_path / "x.gguf", [], config, tokenizer, kind="F32", name="x")


def with_state(tokenizer, change):
    """A copy whose tokenizer.json is changed."""
    import json

    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    change(state)
    other = copy.deepcopy(tokenizer)
    other._tokenizer = Tokenizer.from_str(json.dumps(state))
    return other


def test_the_bundled_kind_has_no_obstacle(model, tokenizer):
    assert gguffile.obstacle(model.config, tokenizer) == ""
    digits = [{"type": "Digits", "individual_digits": True},
              {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]  # fmt: skip
    other = with_state(
        tokenizer, lambda s: s.update(pre_tokenizer={"type": "Sequence", "pretokenizers": digits})
    )
    assert gguffile.obstacle(model.config, other) == ""


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_type": "gemma2"}, "model type 'gemma2' is not laid out here; known: llama"),
    ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3"}}, "rope type 'llama3'"),
    ({"attention_bias": True, "mlp_bias": True}, "attention_bias; mlp_bias"),
    ({"hidden_act": "gelu"}, "activation 'gelu'"),
    ({"head_dim": 16}, "heads of 16 instead of 8"),
    ({"vocab_size": 100}, r"token \d+ in an embedding of 100 rows"),
])  # fmt: skip
def test_what_the_file_cannot_say_is_named_before_any_work(model, tokenizer, tmp_path, changes, said):
    """llama.cpp would compute a plain Llama from it."""
    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ModelError, match=rf"x\.gguf: .*{said}.*convert_hf_to_gguf"):
        gguffile.write(tmp_path / "x.gguf", unread(), config, tokenizer, kind="F32", name="x")
    assert not list(tmp_path.iterdir())


def unread():
    """Tensors that nobody should have asked for."""
    pytest.fail("the work began")
    yield


@pytest.mark.parametrize(("change", "said"), [
    (lambda s: s.update(pre_tokenizer=None), "BPE with pre-tokenizer none"),
    (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "BPE with pre-tokenizer Whitespace"),
    (lambda s: s["pre_tokenizer"].update(add_prefix_space=True), "ByteLevel with add_prefix_space=True"),
    (lambda s: s.update(normalizer={"type": "NFC"}), "normalizer NFC"),
    (lambda s: s["model"].update(ignore_merges=True), "ignore_merges"),
])  # fmt: skip
def test_other_ways_to_split_are_named_before_any_work(model, tokenizer, tmp_path, change, said):
    other = with_state(tokenizer, change)
    with pytest.raises(ModelError, match=said):
        gguffile.write(tmp_path / "x.gguf", unread(), model.config, other, kind="F32", name="x")


def test_a_template_that_is_missing_is_named(model, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    assert gguffile.obstacle(model.config, other).endswith("a tokenizer without chat template")


def test_unknown_weights_are_refused(model, tokenizer, tmp_path):
    with pytest.raises(ModelError, match=r"no place for model\.extra\.weight"):
        gguffile.write(
            tmp_path / "x.gguf", [("model.extra.weight", torch.zeros(2, 32))], model.config,
            tokenizer, kind="F32", name="x",
        )  # fmt: skip
