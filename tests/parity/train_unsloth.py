"""One SFT step through Unsloth's CPU backend; prints the loss. Its import patches TRL and
transformers, so it gets a process of its own.

usage: train_unsloth.py MODEL_DIR ROWS.json OUTPUT_DIR
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(UNSLOTH_FORCE_CPU="1", UNSLOTH_DISABLE_STATISTICS="1",
                  UNSLOTH_SKIP_TORCHVISION_CHECK="1")  # fmt: skip

from unsloth import FastLanguageModel  # isort: skip

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(2)
model_dir, rows_file, output = sys.argv[1:]
rows = json.loads(Path(rows_file).read_text())
model, tokenizer = FastLanguageModel.from_pretrained(
    model_dir, max_seq_length=512, load_in_4bit=False, dtype=torch.float32
)
model = FastLanguageModel.get_peft_model(
    model, r=8, lora_alpha=16, random_state=17, use_gradient_checkpointing=False,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)  # fmt: skip
config = SFTConfig(
    output_dir=output, use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=len(rows),
    logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, max_length=512,
    gradient_checkpointing=False,
)  # fmt: skip
trainer = SFTTrainer(
    model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
)
trainer.train()
losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
print("RESULT", json.dumps({"loss": losses[0]}))
