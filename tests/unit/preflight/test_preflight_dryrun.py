"""One step on the real batch: faults are named, nothing is changed, sound models are left alone."""

import copy
import functools
import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from sft_utils.errors import PreflightError
from sft_utils.masks import masking
from sft_utils.preflight import dryrun, onestep
from sft_utils.preflight.record import Finding, RunRecord


def arguments(**changes):
    usual = {"learning_rate": 2e-4, "optim": "adamw_torch", "gradient_accumulation_steps": 2}
    return SimpleNamespace(**{**usual, **changes})


def adapt(model, **options):
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    for name, value in options.items():
        setattr(config, name, value)
    return get_peft_model(model, config)


@pytest.fixture
def rows(tokenizer, conversations):
    short = [c for i, c in enumerate(conversations) if i != 3]
    return [masking.assistant_labels(tokenizer, c, max_length=400) for c in short]


@pytest.fixture
def lora(tiny):
    return adapt(tiny)


@pytest.fixture
def record(tokenizer, conversations, rows, lora):
    return RunRecord(tokenizer=tokenizer, conversations=conversations, arguments=arguments(),
                     batches=[masking.collate(rows[:3], 0)], model=lora)  # fmt: skip


def look(record):
    return [f for detector in dryrun.DETECTORS for f in detector(record)]


def said(record):
    return [(f.id, f.severity) for f in look(record)]


def trained(model):
    """As after training."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.5)
    return model


class Trainer:
    """A loss of one's own; the rest of a trainer is not needed."""

    model_accepts_loss_kwargs = True
    compute_loss_func = None

    def __init__(self, model, loss):
        self.model, self.loss, self.args = model, loss, arguments()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self.loss(model, inputs, num_items_in_batch)


def plain(model, inputs, count, *, labels=None, mean=False):
    labels = inputs["labels"] if labels is None else labels
    inputs = {k: v for k, v in inputs.items() if k != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    return total / ((labels[:, 1:] != -100).sum() if mean or count is None else count)


def test_healthy(record, rows, tiny):
    assert said(record) == []
    assert said(record.change(batches=[masking.pack(rows)])) == []
    assert said(record.change(model=trained(record.model))) == []
    assert said(record.change(trainer=Trainer(record.model, plain))) == []
    assert said(record.change(batches=None)) == []
    assert said(RunRecord(tokenizer=record.tokenizer, conversations=[])) == []
    empty = masking.collate([{**r, "labels": [-100] * len(r["labels"])} for r in rows], 0)
    assert said(record.change(batches=[empty])) == [], "M2 says that"
    left = {k: v.flip(1) for k, v in masking.collate(rows, 0).items()}
    assert said(record.change(batches=[left])) == []


def test_the_loss_is_that_of_all_rows(record, rows):
    trainer = Trainer(record.model, plain)
    step = onestep.measure(record.change(batches=[masking.collate(rows[:2], 0)], trainer=trainer))
    with torch.no_grad():
        want = float(record.model(**masking.collate(rows[:2], 0)).loss)
    assert step.plain == pytest.approx(want, rel=1e-6)
    assert step.loss == pytest.approx(want, rel=1e-6)
    assert step.split < 1e-5


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_left_behind(record, rows, packed):
    """Weights, gradients, flags, modes, random state: bit for bit."""
    model = trained(record.model)
    model.train()
    model.base_model.model.model.norm.eval()
    first = next(p for p in model.parameters() if p.requires_grad)
    first.grad = torch.ones_like(first)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    if packed:
        record = record.change(batches=[masking.pack(rows)])
    look(record)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in model.parameters() if p is not first)


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
KINDS = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # Conv1D, functional dropout
    "Gemma2": {**SIZES, "head_dim": 8},  # soft-capped logits
    "Cohere": SIZES,  # scaled logits
    "Granite": {**SIZES, "logits_scaling": 4.0},
    "Qwen3": {**SIZES, "head_dim": 8},
    "Mistral": {**SIZES, "sliding_window": 32},
    "Qwen3Moe": {**SIZES, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                 "moe_intermediate_size": 16},
    "Mixtral": {**SIZES, "num_local_experts": 4, "output_router_logits": True},
    "Lfm2": {**SIZES, "layer_types": ["conv", "full_attention"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_architectures(record, rows, tokenizer, kind):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **KINDS[kind]
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert said(record.change(model=model)) == []
    if "Moe" not in kind and kind != "Mixtral":
        model = adapt(model, lora_dropout=0.1, fan_in_fan_out=kind == "GPT2")
        assert said(record.change(model=model, batches=[masking.pack(rows)])) == []
        assert said(record.change(model=model.to(torch.bfloat16))) == []


def test_packing_that_a_model_cannot_keep_apart(record, rows, tokenizer):
    """OPT in transformers 5.17 does not look at restarting positions."""
    config = transformers.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=1,
        num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=512,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config)
    assert said(record.change(model=model, batches=[masking.pack(rows)])) == [("P5", "FAIL")]


# The trainer of TRL


@pytest.fixture
def sft(tiny, tokenizer, rows, tmp_path):
    """A real SFTTrainer on prepared rows."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def build(callbacks=(), model=tiny, **options):
        usual = {"learning_rate": 2e-4, "max_steps": 2, "per_device_train_batch_size": 2,
                 "gradient_accumulation_steps": 2, "gradient_checkpointing": False,
                 "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
                 "save_strategy": "no"}  # fmt: skip
        config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{**usual, **options})
        return SFTTrainer(model, config, train_dataset=Dataset.from_list(rows),
                          processing_class=tokenizer, callbacks=list(callbacks))  # fmt: skip

    return build


@pytest.mark.parametrize(
    "options", [{}, {"loss_type": "nll"}, {"packing": True, "max_length": 256},
                {"loss_type": "dft"}, {"label_smoothing_factor": 0.1, "loss_type": "nll"}],
)  # fmt: skip
def test_trl_is_healthy(record, lora, sft, options):
    trainer = sft(model=lora, **options)
    counters = copy.deepcopy((trainer._metrics, trainer._total_train_tokens))
    batches = list(trainer.get_train_dataloader())
    got = record.change(trainer=trainer, arguments=trainer.args, batches=batches, model=lora)
    assert said(got) == []
    assert not math.isnan(onestep.measure(got).split)
    assert (trainer._metrics, trainer._total_train_tokens) == counters


def test_trl_with_an_override(record, lora, sft):
    trainer = sft(model=lora, loss_type="nll")
    trainer.compute_loss = lambda model, inputs, return_outputs=False, num_items_in_batch=None: plain(
        model, inputs, None
    )
    (found,) = look(record.change(trainer=trainer, arguments=trainer.args))
    assert (found.id, found.severity) == ("O1", "FAIL")
    assert "num_items_in_batch" in found.fix


# Loss


def test_count_that_is_ignored(record, rows):
    mean = functools.partial(plain, mean=True)
    wrong = record.change(trainer=Trainer(record.model, mean))
    assert said(wrong) == [("O1", "FAIL")]
    assert said(wrong.change(arguments=arguments(gradient_accumulation_steps=1))) == [("O1", "WARN")]
    assert said(wrong.change(batches=[masking.pack(rows)])) == [("O1", "FAIL")]
    averaged = Trainer(record.model, mean)
    averaged.model_accepts_loss_kwargs = False  # the Trainer then averages over micro-batches
    (found,) = look(record.change(trainer=averaged))
    assert found.id == "O1"
    assert onestep.measure(record.change(trainer=averaged)).split < 0.9


def test_mask_that_is_dropped(record):
    def loss(model, inputs, count):
        return plain(model, inputs, count, labels=inputs["input_ids"], mean=True)

    with torch.no_grad():  # a random model finds every token equally likely
        record.model.get_input_embeddings().weight.mul_(40)
    got = record.change(trainer=Trainer(record.model, loss))
    found = {f.id: f for f in look(got)}
    assert "the mask is dropped" in found["M14"].what
    declared = Trainer(record.model, loss)
    declared.compute_loss_func = loss
    assert "M14" in {f.id for f in look(record.change(trainer=declared))}


def test_a_loss_of_ones_own_is_legal_if_it_keeps_the_mask(record):
    def focal(model, inputs, count):
        return 0.5 * plain(model, inputs, count)

    own = Trainer(record.model, focal)
    assert said(record.change(trainer=own)) == [("M14", "FAIL")]
    own.compute_loss_func = focal
    assert said(record.change(trainer=own)) == []


# Gradients


def test_zero_gradients(record):
    def nothing(model, inputs, count):
        return plain(model, inputs, count) * 0 + 3.0

    found = {f.id: f for f in look(record.change(trainer=Trainer(record.model, nothing)))}
    assert "gradient of exactly zero" in found["O3"].what


def test_a_cut_graph(record):
    norm = record.model.base_model.model.model.norm
    norm.register_forward_hook(lambda module, args, output: output.detach())
    (found,) = look(record)
    assert (found.id, found.severity) == ("O3", "FAIL")
    assert "detach" in found.fix


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("anchor", [False, True])
def test_reentrant_checkpointing(record, anchor):
    from torch.utils.checkpoint import checkpoint

    inner = record.model.get_base_model()
    func = functools.partial(checkpoint, use_reentrant=True)
    inner._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=func)
    if anchor:
        inner.model.norm.weight.requires_grad_(True)
    (found,) = look(record)
    assert (found.id, found.severity) == ("O4", "FAIL")
    assert "enable_input_require_grads" in found.fix
    record.model.enable_input_require_grads()
    assert said(record.change(batches=record.batches)) == []


def test_part_of_the_adapters(record):
    layer = record.model.base_model.model.model.layers[1]
    layer.register_forward_pre_hook(lambda module, args: tuple(a.detach() for a in args))
    (found,) = look(record)
    assert found.id == "O4"
    assert found.count == 7
    assert "layers.0" in found.where


def test_an_adapter_that_never_runs_is_legal(record):
    """A tower for pictures has no gradient on text, and experts may be left out by the router."""
    config = LoraConfig(r=4, target_modules=["fc"])
    tower = get_peft_model(torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)}), config)
    record.model.base_model.model.vision = tower
    assert said(record) == []


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_head_that_the_loss_bypasses(record, tiny):
    model = record.model.unload()
    model = adapt(model, target_modules=["q_proj", "up_proj", "lm_head"])
    inner = model.get_base_model()
    assert said(record.change(model=model)) == []

    def fused(model, inputs, count):
        labels = inputs["labels"]
        hidden = inner.model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        logits = (hidden @ inner.lm_head.base_layer.weight.T)[:, :-1].flatten(0, 1)
        target = labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits, target, reduction="sum") / count

    (found,) = look(record.change(model=model, trainer=Trainer(model, fused)))
    assert (found.id, found.severity) == ("O5", "FAIL")
    assert found.where.endswith("lm_head")


# Numbers


def test_pure_bf16(record, tiny):
    model = record.model.unload().requires_grad_(True).to(torch.bfloat16)
    slow = record.change(model=model, arguments=arguments(learning_rate=2e-5))
    found = look(slow)
    assert {f.id for f in found} == {"O9"}
    (fail,) = (f for f in found if f.severity == "FAIL")
    assert "norm weights (5 tensors, bfloat16)" in fail.what
    assert said(slow.change(model=model.float())) == []
    assert said(slow.change(model=model.bfloat16(), arguments=arguments(deepspeed="z3.json"))) == []
    assert said(slow.change(arguments=arguments(learning_rate=2e-5, optim="adafactor"))) == []


def test_rate_that_moves_nothing(record):
    model = record.model.unload().requires_grad_(True)
    found = look(record.change(model=model, arguments=arguments(learning_rate=1e-9)))
    assert (found[0].id, found[0].severity) == ("O9", "FAIL")


def test_overflow(record):
    half = record.model.half()
    half.base_model.model.model.layers[1].input_layernorm.weight.data.fill_(6e4)
    (found,) = look(record)
    assert (found.id, found.severity) == ("O10", "FAIL")
    assert found.where.endswith("layers.1.input_layernorm")


def test_nan(record):
    record.model.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight.data[0, 0] = torch.nan
    assert said(record) == [("O10", "FAIL")]


def test_a_model_that_cannot_be_run(record):
    record.model.base_model.model.model.norm.forward = lambda x: x[0]
    (found,) = look(record)
    assert (found.id, found.severity) == ("W1", "WARN")
    assert "Error" in found.what
    small = masking.collate([{"input_ids": [10**6, 5], "labels": [5, 5]}], 0)
    assert said(record.change(batches=[small])) == [], "S4 says that; a GPU would not survive it"


# Evaluation


def test_train_mode(record, lora):
    judged = record.change(observed={"training_at_eval": True})
    assert said(judged) == [("O13", "WARN")], "nothing is dropped: no harm yet"
    assert said(judged.change(model=None, batches=None)) == [("O13", "FAIL")]
    dropping = adapt(record.model.unload(), lora_dropout=0.1)
    assert said(judged.change(model=dropping)) == [("O13", "FAIL")]


def test_dropout_that_ignores_the_mode(record):
    mlp = record.model.base_model.model.model.layers[0].mlp
    mlp.down_proj.base_layer.weight.data.mul_(50)
    mlp.register_forward_hook(lambda m, a, out: torch.nn.functional.dropout(out, 0.5))
    assert ("O13", "FAIL") in said(record)


def test_inactive_adapters(record):
    model = trained(record.model)
    model.base_model.disable_adapter_layers()
    found = {f.id: f for f in look(record)}
    assert "14 of 14 adapted layers are switched off" in found["O14"].what
    model.base_model.enable_adapter_layers()
    assert said(record.change(model=model)) == []
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.scaling = {"default": 0.0}
    assert ("O14", "FAIL") in said(record.change(model=model))


def test_another_adapter_is_active(record):
    model = trained(record.model)
    model.add_adapter("second", model.peft_config["default"])
    assert said(record) == []
    model.set_adapter("second")
    assert ("O14", "WARN") in said(record.change(model=model))


def test_a_fresh_adapter_is_not_inactive(record):
    assert said(record.change(base_model=copy.deepcopy(record.model).unload())) == []


# Packing


@pytest.mark.parametrize("positions", [True, False])
def test_documents_that_read_each_other(record, rows, positions):
    batch = masking.pack(rows)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if not positions:
        del batch["position_ids"]
    (found,) = look(record.change(batches=[batch]))
    assert (found.id, found.severity) == ("P5", "FAIL")
    assert "second document" in found.what


def test_padding_is_no_document(record, rows):
    """Collators give padding the position 0, with or without a mask."""
    batch = masking.collate(rows[:3], 0)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1) * batch["attention_mask"]
    assert said(record.change(batches=[batch])) == []
    left = {k: v.flip(1) for k, v in batch.items()}
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert said(record.change(batches=[left])) == []
    tail = masking.pack(rows[:1])
    tail = {k: torch.nn.functional.pad(v, (0, 5), value=-100 if k == "labels" else 0)
            for k, v in tail.items()}  # fmt: skip
    assert said(record.change(batches=[tail])) == []


# Inside a run


@pytest.fixture
def callback():
    from sft_utils.preflight.callback import preflight_callback

    return preflight_callback


def log(watch, step=5, fp16=False, **logs):
    watch.on_log(SimpleNamespace(fp16=fp16), SimpleNamespace(global_step=step), None, logs=logs)
    return [(f.id, f.severity) for f in watch.findings]


@pytest.mark.parametrize(
    ("logs", "code"),
    [
        ({"loss": math.nan, "grad_norm": 1.0}, "O10"),
        ({"eval_loss": math.inf}, "O10"),
        ({"loss": 1.5, "grad_norm": math.nan}, "O10"),
        ({"loss": 1.5, "grad_norm": 0.0}, "O3"),
        ({"loss": 0.0, "grad_norm": 0.0}, "P4"),
        ({"loss": 0.0}, "P4"),
    ],
)
def test_a_log_that_stops_the_run(callback, logs, code):
    watch = callback()
    with pytest.raises(PreflightError, match=code):
        log(watch, **logs)
    assert [f.id for f in watch.findings] == [code]


def test_healthy_logs(callback):
    watch = callback()
    log(watch, loss=1.2, grad_norm=0.4, learning_rate=0.0)
    log(watch, loss=1e-7, grad_norm=1e-6)
    log(watch, eval_loss=0.0, eval_runtime=0.1)
    log(watch, train_runtime=1.0, train_loss=0.4)
    assert watch.findings == []


def test_float16_may_look_for_its_scale(callback):
    watch = callback()
    assert log(watch, fp16=True, loss=1.0, grad_norm=math.inf) == [("O10", "WARN")]
    with pytest.raises(PreflightError, match="O10"):
        for _ in range(4):
            log(watch, fp16=True, loss=1.0, grad_norm=math.nan)


def test_stop_rate(callback, lora):
    lora.train()
    rates = iter([0.2, 0.9])
    asked = []

    def rate(model):
        asked.append(model.training)
        return next(rates)

    watch = callback(stop_rate=rate, every=10)
    for step in (5, 10, 20):
        watch.on_step_end(None, SimpleNamespace(global_step=step), None, model=lora)
    assert asked == [False, False]
    assert lora.training
    assert [(f.id, f.severity, f.where) for f in watch.findings] == [("S3", "WARN", "step 10")]


def test_callback_in_a_real_run(callback, sft, lora, capsys):
    watch = callback()
    sft([watch], model=lora).train()
    assert watch.findings == []
    assert "none fatal" in capsys.readouterr().out
    lora.requires_grad_(False)
    lora.enable_input_require_grads()
    watch = callback()
    with pytest.raises(PreflightError, match="O3 .*grad_norm is exactly 0"):
        sft([watch], model=lora).train()


def test_callback_refuses_to_start(callback, sft, lora):
    fail = Finding(id="M7", severity="FAIL", what="no stop token", where="row 0", fix="train it")
    with pytest.raises(PreflightError, match="M7"):
        sft([callback([fail])], model=lora).train()
