"""A short QLoRA run with the gate, as notebook 03 does it; started as a process by the tests.

usage: train_small.py FOLDER [PAUSE_AT]: at step PAUSE_AT the process waits to be killed.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sft_utils import runtime

runtime.quiet()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import BitsAndBytesConfig, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from sft_utils.masks import masking  # noqa: E402
from sft_utils.model import modeling  # noqa: E402
from sft_utils.task import tickets  # noqa: E402
from sft_utils.train import training  # noqa: E402

STEPS = 6
folder = Path(sys.argv[1])
pause_at = int(sys.argv[2]) if len(sys.argv) > 2 else 0
run = runtime.start("smoke_training", "smoke", seed=5)
tokenizer = modeling.load_tokenizer(run.profile)
rows = sorted(tickets.read_rows(tickets.TEST), key=lambda r: len(tickets.mail(r)))[:12]
encoded = [
    masking.assistant_labels(tokenizer, tickets.conversation(r), max_length=300) for r in rows
]
nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
)
model = get_peft_model(
    modeling.load_model(run.profile, quantization=nf4),
    LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear",
               task_type="CAUSAL_LM"),
)  # fmt: skip


class Pause(TrainerCallback):
    """Tell the test that training is in the middle, then wait for the kill."""

    def on_step_begin(self, args, state, control, **kwargs):
        if pause_at and state.global_step == pause_at:
            Path(f"{folder}.paused").touch()
            time.sleep(600)


def evaluate(m, full):
    nll = modeling.answer_nll(m, encoded[:2], tokenizer.pad_token_id)
    return {"task": -sum(nll), "forgetting": 0.0}


gate = training.TaskGate(evaluate, folder / "candidates", every=2)
config = SFTConfig(
    output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, learning_rate=1e-3,
    lr_scheduler_type="cosine", save_steps=2, logging_steps=1, seed=5, data_seed=5, use_cpu=True,
    bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, max_length=300,
)  # fmt: skip
trainer = SFTTrainer(
    model, config, train_dataset=Dataset.from_list(encoded), processing_class=tokenizer,
    callbacks=[gate, Pause()],
)  # fmt: skip
began = training.train_resumable(trainer, folder, {"seed": 5, "steps": STEPS})
model.save_pretrained(folder / "final")
gate.finish(model, STEPS, modeling.load_adapter_into)
losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
history = [(c.step, c.full, c.task) for c in gate.history]
(folder / "result.json").write_text(
    json.dumps({"began": began, "losses": losses, "history": history})
)
