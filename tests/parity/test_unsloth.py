"""Unsloth as pinned trains on a CPU, and its first loss is plain TRL's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

from sft_utils import basemodel, masking, modeling, tickets

SCRIPT = Path(__file__).with_name("train_unsloth.py")


@pytest.mark.slow
def test_first_loss_equals_plain_trl(profile, tokenizer, tmp_path):
    rows = [
        masking.assistant_labels(tokenizer, tickets.conversation(r), max_length=512)
        for r in tickets.read_rows(tickets.TEST, 4)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(basemodel.bundled_model()), str(tmp_path / "rows.json"),
         str(tmp_path / "unsloth")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])["loss"]

    torch.set_num_threads(2)
    model = get_peft_model(
        modeling.load_model(profile, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    config = SFTConfig(
        output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, max_steps=1, logging_steps=1,
        per_device_train_batch_size=4, save_strategy="no", report_to="none", disable_tqdm=True,
        max_length=512, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    ours = next(e["loss"] for e in trainer.state.log_history if "loss" in e)
    assert theirs == pytest.approx(ours, abs=1e-5)
