"""A right merge is recognised in every dtype, a wrong one by its name; an export stands alone."""

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import KasaConfig
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from sft_utils.errors import ModelError, StorageError
from sft_utils.export import mergecheck, merging, modelcard
from sft_utils.model import modeling

LORA = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def trained(base, **options):
    """The base with an adapter that is far from zero."""
    config = LoraConfig(**{**LORA.to_dict(), **options}) if options else LORA
    model = get_peft_model(base, config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def pair(tiny):
    """(model with adapter, weights of its base)."""
    original = {n: t.clone() for n, t in tiny.state_dict().items()}
    return trained(tiny), original


def weights(model, recipe=merging.effective, dtype=torch.float32):
    with torch.no_grad():
        return {n: t.to(dtype) for n, t in merging.made(model, recipe)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_merge_is_right_in_any_dtype(pair, dtype):
    found = mergecheck.explain(weights(pair[0], dtype=dtype), *pair)
    assert (found.name, found.share) == (mergecheck.RIGHT, 1.0)
    mergecheck.require_right(found)


def test_the_sum_is_what_the_adapter_computes(pair, tiny, tokenizer):
    model, _ = pair
    ids = torch.tensor([tokenizer.encode("Capital of France?")])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        plain = type(model.get_base_model())(model.config)
        merging.load_into(plain, weights(model).items())
        assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-4)
        merging.load_into(plain, weights(model, lambda p: p.base).items())
        assert not torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (lambda p: p.base if p.delta is None else p.base + 2 * p.delta, "adapter added twice"),
        (lambda p: p.base if p.delta is None else p.base + p.delta / p.scaling,
         "scaling of the adapter lost"),
        (lambda p: p.base, "no adapter"),
        (lambda p: merging.effective(p) * 1.02, mergecheck.UNKNOWN),
        (lambda p: merging.effective(p) if ".0." in p.name else p.base, mergecheck.UNKNOWN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_merge_is_named(pair, recipe, name, dtype):
    found = mergecheck.explain(weights(pair[0], recipe, dtype), *pair)
    assert found.name == name
    with pytest.raises(ModelError, match=f"these weights are: {name}"):
        mergecheck.require_right(found)


def test_one_changed_element_is_seen(pair):
    tensors = weights(pair[0])
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] += 0.01
    found = mergecheck.explain(tensors, *pair)
    assert (found.name, found.worst) == (mergecheck.UNKNOWN, name)
    assert 0.99 < found.share < 1


def test_missing_and_reshaped_weights_are_named(pair):
    tensors = weights(pair[0])
    short = {n: t[:1] if n == "model.norm.weight" else t for n, t in tensors.items()}
    assert "other shape of model.norm.weight" in mergecheck.explain(short, *pair).name
    del tensors["model.norm.weight"]
    assert "model.norm.weight is missing" in mergecheck.explain(tensors, *pair).name


def test_adapters_that_are_no_sum_are_refused(tiny):
    with pytest.raises(ModelError, match="DoRA is no sum"):
        list(merging.parts(trained(tiny, use_dora=True)))


def test_trained_copies_are_refused(tiny):
    with pytest.raises(ModelError, match="trained copy"):
        list(merging.parts(trained(tiny, modules_to_save=["lm_head"])))


@pytest.mark.parametrize(("options", "said"), [
    ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens: an adapter of an embedding"),
    ({"lora_bias": True}, "the bias of its adapter"),
    ({"trainable_token_indices": [3, 5]}, "embed_tokens: a trained copy of a module or of its tokens"),
    ({"target_modules": ["q_proj", "lm_head"]},
     "lm_head: its weight is also that of model.embed_tokens .tied.*Leave lm_head out"),
    ({"target_modules": None, "target_parameters": ["mlp.up_proj.weight"]},
     "up_proj: an adapter of the parameter 'weight'"),
    ({"alora_invocation_tokens": [5, 6]}, "ALoraLinearVariant computes something else"),
    ({"kasa_config": KasaConfig()}, "KasaLinearVariant computes something else"),
])  # fmt: skip
def test_what_is_no_product_is_refused(tiny, options, said):
    """Left out of the sum and of the comparison with it, they were called a right merge."""
    model = trained(tiny, **options)
    with pytest.raises(ModelError, match=said):
        list(merging.parts(model))
    with pytest.raises(ModelError, match=said):
        modeling.merge_into(copy.deepcopy(tiny), model)


def test_other_kinds_of_adapters_are_refused(tiny):
    model = get_peft_model(tiny, IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ))  # fmt: skip
    with pytest.raises(ModelError, match=r"k_proj: Linear is no adapter of LoRA"):
        list(merging.parts(model))


def test_weights_whose_scales_are_elsewhere_are_refused(tiny):
    """load_in_8bit: the codes from -127 to 127 were taken for weights."""
    from bitsandbytes.nn import Linear8bitLt

    layer = tiny.model.layers[0].mlp.up_proj
    eight = Linear8bitLt(32, 64, bias=False, has_fp16_weights=False)
    eight.load_state_dict(layer.state_dict())
    tiny.model.layers[0].mlp.up_proj = eight.to("cpu")
    model = trained(tiny, target_modules=["q_proj"])
    eight.weight.data = layer.weight.data.mul(127).to(torch.int8)
    said = "mlp.up_proj: its weight holds torch.int8 codes, whose scales are not read"
    with pytest.raises(ModelError, match=said):
        list(merging.parts(model))
    with pytest.raises(ModelError, match=said):
        modeling.merge_into(copy.deepcopy(tiny), model)
    with pytest.raises(ModelError, match="a weight of Linear8bitLt holds torch.int8 codes"):
        modeling.dequantised(eight)


def test_transposed_weights_get_a_transposed_delta():
    """GPT-2: its square projections would have taken the delta as it is, without an error."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    model = trained(base, target_modules=["c_proj"], fan_in_fan_out=True)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        plain = merging.load_into(GPT2LMHeadModel(base.config), weights(model).items())
        assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-5)


def test_a_model_that_is_merged_already_is_refused(pair):
    model, _ = pair
    model.merge_adapter()
    with pytest.raises(ModelError, match="merged already .* Call unmerge_adapter"):
        list(merging.parts(model))
    model.unmerge_adapter()
    assert list(merging.parts(model))


def test_a_weight_that_the_model_does_not_have_is_named(pair):
    tensors = weights(pair[0])
    head = "lm_head.weight"
    assert head not in tensors, "tied"
    tensors[head] = tensors["model.embed_tokens.weight"].clone()
    assert mergecheck.explain(tensors, *pair).name == mergecheck.RIGHT
    tensors[head][0, 0] += 1
    found = mergecheck.explain(tensors, *pair)
    assert found.name == f"more than the model: {head}"


def test_a_full_disk_is_told_as_one(pair, tokenizer, tmp_path, monkeypatch):
    """The writer of weights has an error of its own for it."""
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="cannot write .*File too large. Free some space"):
        merging.export(pair[0], tokenizer, tmp_path / "shipped", dtype=torch.float32, name="x")
    assert list(tmp_path.iterdir()) == []


def test_several_adapters_are_summed(pair):
    model, _ = pair
    model.add_adapter("two", LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.two" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    single = {}
    for name in ("default", "two"):
        model.set_adapter(name)
        single[name] = {p.name: p.delta for p in merging.parts(model) if p.delta is not None}
    model.base_model.set_adapter(["default", "two"])
    for part in merging.parts(model):
        if part.delta is not None:
            expected = single["default"][part.name] + single["two"][part.name]
            assert torch.allclose(part.delta, expected, atol=1e-6)


def test_an_export_stands_alone(pair, tokenizer, tmp_path, monkeypatch):
    model, _ = pair
    monkeypatch.setattr(merging, "SHARD_BYTES", 200_000)
    folder = tmp_path / "out"
    for _ in range(2):  # the second one replaces the first
        merging.export(model, tokenizer, folder, dtype=torch.bfloat16, name="some-name")
    assert not list(tmp_path.glob(".part-*"))
    assert len(list(folder.glob("*.safetensors"))) > 1, "shards, with an index"
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["dtype"], config["eos_token_id"]) == ("bfloat16", tokenizer.eos_token_id)
    assert str(tmp_path) not in (folder / "config.json").read_text()
    found = mergecheck.explain(merging.stored_tensors(folder), *pair)
    assert found.name == mergecheck.RIGHT
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert all(t.equal(weights(model, dtype=torch.bfloat16)[n]) for n, t in loaded.named_parameters())
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(("base", "written"), [
    (2, 2), ([2], 2), (None, 2), (1, [1, 2]), ([1, 7], [1, 7, 2]), ([7, 2], [7, 2]),
])  # fmt: skip
def test_the_stops_of_the_base_are_kept(pair, tokenizer, tmp_path, base, written):
    """Gemma ends turns with 106 and its tokenizer has eos 1: a server must know both."""
    plain = pair[0].get_base_model()
    plain.config.eos_token_id = plain.generation_config.eos_token_id = base
    assert tokenizer.eos_token_id == 2
    merging.export(pair[0], tokenizer, tmp_path / "out", dtype=torch.float32, name="x")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["eos_token_id"] == written
    assert plain.config.eos_token_id == base, "the model in memory stays as it is"


def test_what_a_killed_export_left_is_removed_by_the_next_one(pair, tokenizer, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(merging, "_write_shards", killed)
        patched.setattr(merging.shutil, "rmtree", lambda *_, **__: None)  # nothing runs after SIGKILL
        merging.export(pair[0], tokenizer, tmp_path / "out", dtype=torch.float32, name="x")
    left = [p.name for p in tmp_path.iterdir()]
    assert [name[:10] for name in left] == [".part-out-"]
    others = {".part-out-x-abcdefgh", ".part-exact-abcdefgh"}  # of exports to out-x and to exact
    for name in others:
        (tmp_path / name).mkdir()
    merging.export(pair[0], tokenizer, tmp_path / "out", dtype=torch.float32, name="x")
    assert {p.name for p in tmp_path.iterdir()} == {"out", *others}


def test_weights_that_were_not_given_are_missed(pair):
    model, _ = pair
    tensors = weights(model)
    tensors.pop("model.norm.weight")
    plain = type(model.get_base_model())(model.config)
    with pytest.raises(ModelError, match=r"1 weights were not given, first model\.norm"):
        merging.load_into(plain, tensors.items())


def test_an_empty_folder_has_no_weights(tmp_path):
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        merging.stored_tensors(tmp_path)


def test_a_weight_file_that_was_cut_is_named(tmp_path):
    """The library says "invalid header length", and not of which file."""
    for name, data in (("model-1.safetensors", b"cut"), ("model-2.safetensors", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=f"{tmp_path.name}/{name} cannot be read .* was cut"):
            merging.stored_tensors(tmp_path)
        (tmp_path / name).unlink()


def test_a_four_bit_base_is_told_from_its_original(profile, tmp_path):
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    original = modeling.load_model(profile).state_dict()
    model = trained(modeling.load_model(profile, quantization=nf4))
    model.save_pretrained(tmp_path)
    wrong = {
        "original base + adapter": weights(
            model, lambda p: original[p.name].float() + (0 if p.delta is None else p.delta)
        ),
        "original base, no adapter": original,
        mergecheck.RIGHT: weights(model, dtype=torch.bfloat16),
    }
    naive = PeftModel.from_pretrained(modeling.load_model(profile, quantization=nf4), tmp_path)
    with pytest.warns(UserWarning, match="4-bit"):
        naive = naive.merge_and_unload()
    wrong["merged into 4-bit weights"] = {
        f"{n}.weight": modeling.dequantised(m)
        for n, m in naive.named_modules()
        if f"{n}.weight" in original
    }
    for name, tensors in wrong.items():
        with torch.no_grad():
            assert mergecheck.explain(tensors, model, original).name == name


def test_the_card_says_what_was_recorded(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    text = modelcard.card(
        tmp_path, name="n", base="b", revision=None, facts={"run_id": "e1", "versions": {"torch": "2"}},
        trained={"run_id": "t1", "seed": 17, "data": "abc"},
        results={"shipped.field_f1": {"value": 0.9, "n": 64, "ci95": [0.8, 0.95]}},
        usage="serve", limits="much",
    )  # fmt: skip
    for said in ("run t1", "run e1", "| `shipped.field_f1` | 0.900 | 64 | [0.800, 0.950] |",
                 "| data | abc |", "| model.safetensors | 7 |", "torch 2"):  # fmt: skip
        assert said in text


def test_the_card_says_what_to_say_before_the_request(tmp_path):
    """Under another system message the model is asked something that it was never trained on."""

    def card(*told):
        rows = [{"messages": [{"role": "system", "content": t}, {"role": "user", "content": "x"}]} for t in told]
        if told:
            (tmp_path / "sft_export.json").write_text(json.dumps({"golden": rows}))
        return modelcard.card(
            tmp_path, name="n", base="smollm2-135m-instruct", revision=None, facts={"run_id": "e1"}, trained={},
            results={}, usage="transformers serve n", limits="much",
        )  # fmt: skip

    assert "How to ask: not recorded." in card()
    assert "Licence of the base model: Apache-2.0." in card()
    assert "word for word:\n\n    Turn the mail\n    into JSON.\n" in card(*["Turn the mail\ninto JSON."] * 2)
    assert "System messages differ" in card("one", "another")


def test_the_command_of_the_card_serves_its_folder_and_the_base_is_on_the_hub(tmp_path):
    def card(base):
        return modelcard.card(
            tmp_path, name="sft-tickets", base=base, revision=None, facts={"run_id": "e1"}, trained={}, results={},
            usage="transformers serve sft-tickets --dtype bfloat16", limits="much",
        )  # fmt: skip

    bundled = card("smollm2-135m-instruct")
    assert "\n    transformers serve . --dtype bfloat16\n" in bundled, "a bare name is a hub id to a server"
    assert "\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in bundled
    assert "bundled 4-bit copy `smollm2-135m-instruct`" in bundled
    assert "\nbase_model: Qwen/Qwen2.5-7B-Instruct\n" in card("Qwen/Qwen2.5-7B-Instruct")
    assert "copy" not in card("Qwen/Qwen2.5-7B-Instruct")
    local = card("/srv/models/our-base")
    assert "A local model, `our-base`, with the adapter" in local
    assert "base_model:" not in local, "a path is no model of the hub"
    assert "/srv" not in local


def test_buffers_are_part_of_an_export(tokenizer, tmp_path):
    """The bias of a router is a buffer: without it an export answered with other experts."""
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    torch.manual_seed(0)
    base = Glm4MoeForCausalLM(Glm4MoeConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=4,
        num_attention_heads=4, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, moe_intermediate_size=8, first_k_dense_replace=1,
    ))  # fmt: skip
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    base.get_buffer(name).normal_()
    original = {n: t.clone() for n, t in base.state_dict().items()}
    model = trained(base, target_modules=["q_proj"])
    merging.export(model, tokenizer, tmp_path / "out", dtype=torch.bfloat16, name="x")
    stored = merging.stored_tensors(tmp_path / "out")
    assert stored[name].equal(original[name]), "in its own dtype"
    assert mergecheck.explain(stored, model, original).name == mergecheck.RIGHT
    assert mergecheck.explain(model.get_base_model().state_dict(), model, original).name != mergecheck.RIGHT
    wrong = stored | {name: torch.zeros_like(stored[name])}
    assert mergecheck.explain(wrong, model, original).name == mergecheck.UNKNOWN
    del wrong[name]
    assert mergecheck.explain(wrong, model, original).name == f"incomplete: {name} is missing"
    plain = merging.load_into(copy.deepcopy(base_like(base)), merging.made(model))
    assert plain.get_buffer(name).equal(original[name])


def base_like(base):
    """A fresh model of the same shape."""
    return type(base.get_base_model() if hasattr(base, "get_base_model") else base)(base.config)


def test_a_resized_head_under_an_adapter_is_judged(tokenizer, tmp_path):
    """Its original has fewer rows: a right merge was an error of shapes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ))  # fmt: skip
    original = {n: t.clone() for n, t in base.state_dict().items()}
    base.resize_token_embeddings(48, mean_resizing=False)
    model = trained(base, target_modules=["q_proj", "lm_head"])
    assert mergecheck.explain(weights(model), model, original).name == mergecheck.RIGHT
    twice = weights(model, lambda p: p.base if p.delta is None else p.base + 2 * p.delta)
    assert mergecheck.explain(twice, model, original).name == "adapter added twice"
    with pytest.raises(ModelError, match=r"hold no model.layers.0.self_attn.q_proj.weight, which has"):
        mergecheck.explain(twice, model, {n.removeprefix("model."): t for n, t in original.items()})
