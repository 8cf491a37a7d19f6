"""What is asked of a backend is there afterwards, or is refused by name before anything is loaded."""

import dataclasses

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import KasaConfig

from sft_utils.config import get_profile
from sft_utils.errors import ConfigError, ModelError
from sft_utils.masks import masking
from sft_utils.train import backends


@pytest.fixture
def local(tiny, tokenizer, tmp_path):
    """A profile whose model is a small local directory of two layers."""
    tiny.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return dataclasses.replace(get_profile("smoke"), model=str(tmp_path / "model"))


@pytest.fixture
def loaded(local, tokenizer, conversations):
    """Loads with a LoraConfig of these options; gives the paths of the adapted modules."""
    rows = [masking.assistant_labels(tokenizer, c, max_length=200) for c in conversations[:2]]

    def load(**options):
        config = LoraConfig(**{"r": 2, "task_type": "CAUSAL_LM", **options})
        model, _ = backends.load_for_training(local, rows, config)
        return [n.split("base_model.model.")[1].split(".lora_A")[0]
                for n, _ in model.named_parameters() if ".lora_A" in n]  # fmt: skip

    return load


@pytest.mark.parametrize("targets", [None, "all-linear", list(backends.TARGETS)])
def test_no_targets_are_all_projections(loaded, targets):
    assert len(loaded(target_modules=targets)) == 2 * 7


@pytest.mark.parametrize(("options", "adapted"), [
    ({"target_modules": r".*\.(q|v)_proj"}, 4),
    ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, 1),
    ({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 0}, 2),
    ({"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.0.mlp.up_proj"]}, 3),
    ({"target_modules": ["layers.1.self_attn.q_proj"]}, 1),
    ({"target_modules": ["q_proj", "lm_head"]}, 3),
    ({"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]}, 2),
    ({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}, "bias": "all"}, 2),
])  # fmt: skip
def test_plain_attaches_what_peft_understands(loaded, options, adapted):
    assert len(loaded(**options)) == adapted


@pytest.mark.parametrize(("targets", "said"), [
    (["q_proj", "qkv_proj"], "qkv_proj has an adapter in 0 of 2 layers, not in layer 0"),
    (["q_proj", "0.self_attn.k"], "0.self_attn.k has an adapter in 0 of 2 layers"),
])  # fmt: skip
def test_a_target_that_is_not_there_is_named(loaded, targets, said):
    with pytest.raises(ModelError, match=rf"{said}.*layers_to_transform"):
        loaded(target_modules=targets)


def test_layers_that_the_backend_left_out_are_named(loaded, monkeypatch):
    from peft import get_peft_model

    def half(base, lora):
        return get_peft_model(base, dataclasses.replace(lora, layers_to_transform=[1]))

    monkeypatch.setattr("peft.get_peft_model", half)
    with pytest.raises(ModelError, match="q_proj has an adapter in 1 of 2 layers, not in layer 0"):
        loaded(target_modules=["q_proj"])


@pytest.mark.parametrize("start", [
    False, "gaussian", "olora", "pissa", "pissa_niter_4", "loftq", "corda", "eva", "orthogonal", "mica",
])  # fmt: skip
def test_other_starts_are_refused_before_loading(local, monkeypatch, start):
    """same_start set B to 0 where PiSSA had taken its part out of the base: a damaged model."""
    monkeypatch.setattr(backends.modeling, "load_model", lambda *a, **k: pytest.fail("it loaded"))
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    lora.init_lora_weights = start
    for backend in backends.BACKENDS:
        with pytest.raises(ConfigError, match=rf"init_lora_weights={start!r}: .*get_peft_model"):
            backends.require_possible(lora, backend)
    with pytest.raises(ConfigError, match="init_lora_weights"):
        backends.load_for_training(local, [], lora)


def test_a_variant_that_changes_the_base_is_refused():
    lora = LoraConfig(r=2, target_modules=["q_proj"], kasa_config=KasaConfig())
    with pytest.raises(ConfigError, match="kasa_config: every backend starts"):
        backends.require_possible(lora, "plain")


def test_unsloth_is_asked_only_for_what_it_is_handed():
    plain = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj"], use_rslora=True,
                       task_type="CAUSAL_LM")  # fmt: skip
    backends.require_possible(plain, "unsloth")
    backends.require_possible(dataclasses.replace(plain, target_modules="all-linear"), "unsloth")
    options = {
        "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 8}, "use_dora": True, "bias": "all",
        "modules_to_save": ["lm_head"], "exclude_modules": ["layers.0"], "layers_to_transform": [0],
        "target_parameters": ["mlp.up_proj.weight"], "trainable_token_indices": [3], "lora_bias": False,
    }  # fmt: skip
    for name, value in options.items():
        lora = dataclasses.replace(plain, **{name: value})
        backends.require_possible(lora, "plain")
        if name == "lora_bias":  # the default
            backends.require_possible(lora, "unsloth")
            continue
        with pytest.raises(ConfigError, match=rf"'unsloth' is handed r, .*{name}=.*backend=.plain"):
            backends.require_possible(lora, "unsloth")
    pattern = LoraConfig(r=4, target_modules=r".*q_proj")
    with pytest.raises(ConfigError, match="as a pattern"):
        backends.require_possible(pattern, "unsloth")


def test_the_start_of_plain_lora_is_drawn_and_the_base_is_whole(local, tiny, tokenizer, conversations):
    rows = [masking.assistant_labels(tokenizer, c, max_length=200) for c in conversations[:2]]
    lora = LoraConfig(r=2, target_modules=None, task_type="CAUSAL_LM")
    model, _ = backends.load_for_training(local, rows, lora, dtype=torch.float32)
    assert lora.target_modules is None, "the caller's config stays as it is"
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        found, expected = model.eval()(input_ids=ids).logits, tiny(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
