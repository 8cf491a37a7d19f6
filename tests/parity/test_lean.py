"""The lean layers and attention compute what PEFT's and transformers' do; else they step aside."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sft_utils import lean, masking, modeling
from sft_utils.errors import ModelError

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 10, 11], "labels": [-100, -100, 7, 8, 9, 10, 11]},
    {"input_ids": [9, 8, 7, 6], "labels": [-100, -100, -100, 6]},
    {"input_ids": [3, 4, 5, 6, 7], "labels": [-100, 4, 5, 6, 7]},
]


def adapted(tiny, **options):
    """A LoRA model whose B is not zero, so that its gradients say something."""
    tiny.set_attn_implementation("eager")
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(tiny), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def loss_and_gradients(model):
    model.zero_grad()
    output = model(**masking.collate(ROWS, 0))
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return output.loss.item(), output.logits.detach(), gradients


def test_same_losses_logits_and_gradients_with_padding(tiny):
    model = adapted(tiny)
    loss, logits, gradients = loss_and_gradients(model)
    done = lean.install(model)
    assert (done.layers, done.attention, done.left) == (14, True, ())
    assert model.get_base_model().config._attn_implementation == lean.NAME
    lean_loss, lean_logits, lean_gradients = loss_and_gradients(model)
    assert lean_loss == pytest.approx(loss, abs=1e-5)
    seen = masking.collate(ROWS, 0)["attention_mask"].bool()
    torch.testing.assert_close(lean_logits[seen], logits[seen], atol=1e-5, rtol=1e-4)
    assert gradients.keys() == lean_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(lean_gradients[name], gradient, atol=1e-6, rtol=1e-3)


def test_bf16_stays_as_close_as_bf16_is(tiny):
    model = adapted(tiny)
    exact = loss_and_gradients(model)[2]
    model = model.to(torch.bfloat16)
    theirs = loss_and_gradients(model)[2]
    lean.install(model)
    ours = loss_and_gradients(model)[2]

    def off(found):
        return sum((found[n].float() - g).square().sum().item() for n, g in exact.items()) ** 0.5

    assert off(ours) <= 1.25 * off(theirs) + 1e-6


def test_the_replacement_is_really_used(tiny, monkeypatch):
    model = adapted(tiny)
    lean.install(model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            monkeypatch.setattr(module.base_layer, "forward", None)  # PEFT would call it
    assert loss_and_gradients(model)[0] > 0


@pytest.mark.parametrize("state", ["no_grad", "disabled", "merged", "autocast", "second adapter"])
def test_steps_aside(tiny, state):
    model, plain = adapted(tiny), adapted(tiny)
    lean.install(model)
    for one in (model, plain):
        if state == "merged":
            one.merge_adapter()
        if state == "second adapter":
            torch.manual_seed(3)
            one.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
            one.base_model.set_adapter(["default", "other"])
    batch = {k: v for k, v in masking.collate(ROWS, 0).items() if k != "labels"}

    def logits(one):
        if state == "no_grad":
            with torch.no_grad():
                return one(**batch).logits
        if state == "disabled":
            with one.disable_adapter():
                return one(**batch).logits
        if state == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return one(**batch).logits
        return one(**batch).logits

    seen = batch["attention_mask"].bool()
    tolerance = 5e-2 if state == "autocast" else 1e-5
    torch.testing.assert_close(
        logits(model)[seen].float(), logits(plain)[seen].float(), atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"lora_dropout": 0.1}, "dropout"), ({"use_dora": True}, "variant Dora"), ({"lora_bias": True}, "a bias")],
)
def test_leaves_layers_that_would_not_be_the_same(tiny, options, reason):
    model = adapted(tiny, **options)
    done = lean.install(model)
    assert (done.layers, len(done.left), done.attention) == (0, 14, True)
    assert reason in done.left[0]
    assert not any("forward" in m.__dict__ for m in model.modules() if hasattr(m, "lora_A"))


def test_another_adapter_goes_the_old_way(tiny):
    """A DoRA adapter that is added later must not be computed as plain LoRA."""
    model, plain = adapted(tiny), adapted(tiny)
    lean.install(model)
    batch = {k: v for k, v in masking.collate(ROWS[:1], 0).items() if k != "labels"}
    seen = []
    for one in (model, plain):
        torch.manual_seed(5)
        one.add_adapter("dora", LoraConfig(r=2, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in one.named_parameters():
            if "lora_B.dora" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        one.set_adapter("dora")
        seen.append(one(**batch).logits)
    torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-4)


def test_refuses_a_model_in_which_nothing_fits(tiny):
    assert lean.install(copy.deepcopy(tiny)) == lean.Installed(layers=0, attention=True, left=())
    tiny.config.attention_dropout = 0.1
    with pytest.raises(ModelError, match="no LoRA layer"):
        lean.install(tiny)
    tiny.config.attention_dropout = 0.0
    model = adapted(tiny, lora_dropout=0.1)
    model.get_base_model().config.attention_dropout = 0.1
    with pytest.raises(ModelError, match=r"nothing of this llama model.*dropout"):
        lean.install(model)


def test_installed_twice_saved_and_merged_as_before(tiny, tmp_path):
    model, plain = adapted(tiny), adapted(tiny)
    assert lean.install(model) == lean.install(model)
    first = {n: m.forward for n, m in model.named_modules() if hasattr(m, "lora_A")}
    lean.install(model)
    assert all(m.forward == first[n] for n, m in model.named_modules() if n in first)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(tiny), tmp_path)
    for (name, ours), theirs in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    state = modeling.adapter_state(model)
    modeling.restore_adapter(plain, state)
    merged = [modeling.merge_into(copy.deepcopy(tiny), one).state_dict() for one in (model, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.values() for m in merged), strict=True))
