"""Our rows against what TRL makes of the same conversations, and what it prevents by itself."""

import copy

import pytest
import stack
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from sft_utils import preflight
from sft_utils.masks import masking
from sft_utils.model import generation
from sft_utils.preflight.collated import batch_rows
from sft_utils.train import training

TURN = "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}" + TURN + "{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def trainer(model, tokenizer, rows, tmp_path, **options):
    defaults = {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none",
        "per_device_train_batch_size": 2, "gradient_checkpointing": False, "disable_tqdm": True,
        "max_length": 400,
    }  # fmt: skip
    config = SFTConfig(**{**defaults, **options})
    return SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def loader_rows(trainer):
    found = {}
    for batch in trainer.get_train_dataloader():
        for ids, labels in batch_rows(batch):
            found[tuple(ids)] = labels
    return found


def test_assistant_only_loss_trains_the_same_tokens(tiny, tokenizer, conversations, tmp_path):
    marked = copy.deepcopy(tokenizer)
    marked.chat_template = MARKED
    rows = [{"messages": c} for c in conversations]
    theirs = loader_rows(trainer(tiny, marked, rows, tmp_path, assistant_only_loss=True))
    for c in conversations:
        ours = masking.assistant_labels(tokenizer, c, max_length=400)
        assert theirs[tuple(ours["input_ids"])] == ours["labels"]


def test_pretokenised_rows_arrive_unchanged(tiny, tokenizer, conversations, tmp_path):
    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    theirs = loader_rows(trainer(tiny, tokenizer, ours, tmp_path))
    assert theirs == {tuple(r["input_ids"]): r["labels"] for r in ours}


def fails(findings):
    return [f.id for f in findings if f.severity == "FAIL"]


def test_preflight_is_silent_on_a_healthy_trainer(tiny, tokenizer, conversations, tmp_path):
    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    healthy = trainer(tiny, tokenizer, ours, tmp_path)
    assert fails(preflight.check(healthy, conversations, tokenizer)) == []


def test_preflight_on_packed_batches(tiny, tokenizer, conversations, tmp_path):
    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    packed = trainer(tiny, tokenizer, ours, tmp_path, packing=True, max_length=256)
    assert fails(preflight.check(packed, conversations, tokenizer)) == []


def test_completion_only_loss_on_messages_is_ignored_and_caught(
    tiny, tokenizer, conversations, tmp_path
):
    """TRL 1.14.2 trains on every token here without a word. Flips when a release fixes it."""
    rows = [{"messages": c} for c in conversations]
    silent = trainer(tiny, tokenizer, rows, tmp_path, completion_only_loss=True)
    findings = preflight.check(silent, conversations, tokenizer)
    assert "M1" in fails(findings)
    assert next(f for f in findings if f.id == "M1").count == len(conversations)


def test_truncation_by_trl_is_caught(tiny, tokenizer, conversations, tmp_path):
    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    short = trainer(tiny, tokenizer, ours, tmp_path, max_length=45)
    found = set(fails(preflight.check(short, conversations, tokenizer)))
    assert found == {"P1", "P3"}, "cut answers, and rows that TRL drops because nothing is left"


def test_trl_refuses_assistant_only_loss_without_markers(tiny, tokenizer, conversations, tmp_path):
    """Prevented by TRL itself: asserted, not rebuilt."""
    rows = [{"messages": c} for c in conversations]
    with pytest.raises(ValueError, match="template"):
        trainer(tiny, tokenizer, rows, tmp_path, assistant_only_loss=True)


def test_gradient_accumulation_is_exact(tiny, tokenizer, conversations, tmp_path):
    """Prevented by TRL itself: (4, 1) and (1, 4) give the same update."""
    import torch

    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations[:4]]
    states = []
    for size, accumulation in ((4, 1), (1, 4)):
        model = copy.deepcopy(tiny)
        run = trainer(
            model, tokenizer, ours, tmp_path, per_device_train_batch_size=size, max_steps=1,
            gradient_accumulation_steps=accumulation, optim="sgd", save_strategy="no",
        )  # fmt: skip
        run.train()
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (states[0] - states[1]).abs().max() < 1e-6


def test_smaller_loss_chunks_change_nothing_but_time(tiny, tokenizer, conversations, tmp_path):
    import torch
    from trl.trainer import sft_trainer

    ours = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    before = training.fit_loss_chunks(sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE)
    states, losses = [], []
    try:
        for chunk in (before, 4):
            training.fit_loss_chunks(chunk)
            model = copy.deepcopy(tiny)
            run = trainer(
                model, tokenizer, ours, tmp_path, max_steps=1, optim="sgd", save_strategy="no",
                logging_steps=1,
            )  # fmt: skip
            run.train()
            losses.append(run.state.log_history[0]["loss"])
            states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    finally:
        training.fit_loss_chunks(before)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (states[0] - states[1]).abs().max() < 1e-6


def test_an_fp16_run_gets_a_float32_adapter(tiny, tokenizer, conversations, tmp_path):
    """TRL casts adapters on 4-bit bases to bf16 even under fp16, whose scaler cannot take them."""
    rows = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    model = stack.nf4(tiny, tmp_path / "base")

    def built(**options):
        return stack.build(rows, model=model, tokenizer=tokenizer, folder=tmp_path / "run",
                           peft_config=stack.lora(), **options)  # fmt: skip

    def dtypes(trainer):
        return {p.dtype for p in trainer.model.parameters() if p.requires_grad}

    half = built(fp16=True)
    assert dtypes(half) == {torch.bfloat16}, "TRL changed: fit_adapter_precision may be superfluous"
    assert training.fit_adapter_precision(half) == 2 * 2 * 7
    assert dtypes(half) == {torch.float32}
    assert training.train_resumable(half, tmp_path / "run", {"run_id": "x"}) == 0
    assert dtypes(half) == {torch.float32}


def test_other_precisions_keep_their_adapter(tiny, tokenizer, conversations, tmp_path):
    rows = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    plain = stack.build(rows, model=stack.nf4(tiny, tmp_path / "base"), tokenizer=tokenizer,
                        folder=tmp_path / "run", peft_config=stack.lora())  # fmt: skip
    assert training.fit_adapter_precision(plain) == 0
    assert {p.dtype for p in plain.model.parameters() if p.requires_grad} == {torch.bfloat16}


class Watch(TrainerCallback):
    """Asks for an answer after each step, and notes under which arithmetic layers computed."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer, self.seen, self.answering = model, tokenizer, {}, False
        model.get_input_embeddings().register_forward_hook(self.note)

    def note(self, *_):
        kinds = self.seen.setdefault("answers" if self.answering else "training", set())
        kinds.add(torch.is_autocast_enabled("cpu"))

    def on_step_end(self, args, state, control, **_):
        self.answering = True
        self.model.eval()
        generation.generate(self.model, self.tokenizer, [[5, 6, 7], [5, 6, 8]], max_new_tokens=2,
                            batch_size=2)  # fmt: skip
        self.model.train()
        self.answering = False


def test_mixed_precision_ends_with_the_training(tiny, tokenizer, conversations, tmp_path):
    """Autocast stayed around the trained model: its logits were not those of its saved adapter."""
    rows = [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]
    model = get_peft_model(copy.deepcopy(tiny), stack.lora(init_lora_weights=False))
    watch = Watch(model, tokenizer)
    for k in range(2):  # a second trainer of the same model has its own autocast
        watch.seen.clear()
        run = stack.build(rows, model=model, tokenizer=tokenizer, folder=tmp_path / f"run-{k}",
                          bf16=True, max_steps=2, callbacks=[watch])  # fmt: skip
        training.train_resumable(run, tmp_path / f"run-{k}", {"run_id": "x"})
        assert watch.seen == {"training": {True}, "answers": {False}}
    assert model.forward.__func__ is type(model).forward
    model.eval().save_pretrained(tmp_path / "adapter")
    fresh = PeftModel.from_pretrained(copy.deepcopy(tiny), tmp_path / "adapter").eval()
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, fresh(input_ids=ids).logits)
