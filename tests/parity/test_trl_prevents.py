"""What TRL, transformers and peft prevent, repair or warn about by themselves: asserted, not rebuilt.

One test per case, named after it, so that a release which drops one is noticed. In test_trl.py
already: unknown templates without generation markers are refused; gradient accumulation is exact.

The pinned TRL 1.14.2 does not have these protections of 1.16 (test_stack_silent.py asserts the
present behaviour): the seed is not set before the adapter is initialised, DoRA magnitudes of a
4-bit model are rounded to bf16, an optimizer step without a trained token divides zero by zero.
Left out: the refusal of nn.DataParallel (absent here, needs two GPUs) and the reentrant
checkpointing of DeepSpeed ZeRO-3 (present, needs DeepSpeed).
"""

import types

import pytest
import stack
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, DataCollatorForLanguageModeling
from trl import SFTConfig, SFTTrainer, pack_dataset

# --- template and mask


def test_conversational_rows_get_one_bos(sft, tokenizer):
    bos = stack.with_bos(tokenizer)
    ids = sft(stack.ROWS, tokenizer=bos).train_dataset[0]["input_ids"]
    assert ids[0] == bos.bos_token_id
    assert ids.count(bos.bos_token_id) == 1


def test_missing_generation_markers_of_a_known_template_are_added(sft, tokenizer):
    known = stack.variant(tokenizer, stack.family("qwen2_5"))
    run = sft(stack.ROWS, tokenizer=known, assistant_only_loss=True)
    assert run.chat_template == stack.family("qwen2_5_training")
    assert stack.trained_text(known, run.train_dataset[0]).strip() == "Paris<|im_end|>"


def test_row_without_assistant_tokens_is_refused(sft, marked):
    rows = [*stack.ROWS, {"messages": stack.chat()[:1]}]
    with pytest.raises(RuntimeError, match="no assistant tokens"):
        sft(rows, tokenizer=marked, assistant_only_loss=True)


def test_stop_token_outside_the_mask_is_announced(sft, tokenizer):
    outside = stack.variant(tokenizer, stack.STOP_OUTSIDE)
    with stack.listening() as said:
        run = sft(stack.ROWS, tokenizer=outside, assistant_only_loss=True)
    assert stack.heard(said, "may not learn to stop")
    assert stack.trained_text(outside, run.train_dataset[0]) == "Paris"


def test_prompt_that_is_no_prefix_is_announced(sft, tokenizer):
    with stack.listening() as said:
        sft(stack.PAIRS, tokenizer=stack.variant(tokenizer, stack.PREFILLED))
    assert stack.heard(said, "not a prefix")


def test_assistant_only_loss_on_text_is_refused(sft, marked):
    with pytest.raises(ValueError, match="not conversational"):
        sft([{"text": "Paris"}], tokenizer=marked, assistant_only_loss=True)


def test_formatting_func_with_completion_only_loss_is_refused(sft):
    with pytest.raises(ValueError, match="formatting function"):
        sft(stack.ROWS, completion_only_loss=True, formatting_func=str)


def test_skipped_preparation_with_a_mask_but_no_labels_is_refused(sft):
    rows = [{"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]}]
    with pytest.raises(ValueError, match="mask columns but no 'labels'"):
        sft(rows, dataset_kwargs={"skip_prepare_dataset": True})


def test_with_transform_datasets_are_refused(sft):
    data = Dataset.from_list(stack.ROWS).with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match="with_transform"):
        sft(data)


def test_padding_is_masked_by_position_not_by_id(sft, tokenizer):
    same = stack.variant(tokenizer, pad_token=tokenizer.eos_token)
    (batch,) = stack.batches(sft(stack.ROWS, tokenizer=same))
    real = batch["attention_mask"].bool()
    assert not real.all()
    assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(~real, -100))
    assert (batch["labels"] == same.eos_token_id).sum() > len(batch["labels"])


def test_hf_collator_refuses_rows_of_unequal_length(sft, tokenizer):
    """By accident: it does not pad the labels that TRL prepared. Single rows pass silently."""
    run = sft(stack.ROWS, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False))
    with pytest.raises(ValueError, match="Unable to create tensor"):
        stack.batches(run)


# --- truncation and packing


def test_rows_left_without_labels_by_truncation_are_dropped(sft):
    run = sft([stack.tokens(100, 30, 5), stack.tokens(200, 10, 5)], max_length=20)
    assert [row["input_ids"][0] for row in run.train_dataset] == [200]


def test_nothing_left_to_train_is_refused(sft):
    run = sft([stack.tokens(100, 30, 5)], max_length=20)
    with pytest.raises(ValueError, match="num_samples"):
        run.get_train_dataloader()


def test_truncation_that_keeps_the_end_is_deprecated():
    with pytest.warns(FutureWarning, match="keep_end"):
        SFTConfig(truncation_mode="keep_end", use_cpu=True, bf16=False)


def test_masked_micro_batch_is_no_nan(sft):
    """One of two accumulated batches has nothing to train."""
    rows = [stack.tokens(100, 8, 0), stack.tokens(200, 8, 4)]
    run = sft(
        rows, max_length=None, per_device_train_batch_size=1, gradient_accumulation_steps=2
    )  # fmt: skip
    assert len(run.train_dataset) == 2
    run.train()
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_bfd_packing_keeps_documents_apart(sft):
    """Restarting positions and no attention mask: SDPA isolates documents without FlashAttention."""
    rows = [stack.tokens(100, 12, 12), stack.tokens(200, 9, 9)]
    run = sft(rows, packing=True, max_length=32)
    (batch,) = stack.batches(run)
    assert "attention_mask" not in batch
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert starts == [0, 12]
    assert batch["labels"][0, starts].tolist() == [-100, -100]
    model = run.model.eval()
    with torch.no_grad():
        packed = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits[:, 12:]
        alone = model(input_ids=batch["input_ids"][:, 12:], use_cache=False).logits
    assert (packed - alone).abs().max() < 1e-5


@pytest.mark.parametrize("strategy", ["wrapped", "bfd_split"])
def test_packing_loses_and_repeats_no_token(strategy):
    rows = [stack.tokens(100 * k, 7 + k, 7 + k) for k in range(1, 9)]
    packed = pack_dataset(Dataset.from_list(rows), 10, strategy, {"batch_size": 3})
    before = sorted(t for row in rows for t in row["input_ids"])
    assert sorted(t for row in packed["input_ids"] for t in row) == before


def test_custom_collator_with_packing_is_refused(sft, tokenizer):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    with pytest.raises(ValueError, match="custom data collator"):
        sft(stack.ROWS, packing=True, data_collator=collator)


def test_padding_free_with_max_length_is_refused(sft):
    with pytest.raises(ValueError, match="`max_length` is not enforced"):
        sft(stack.ROWS, padding_free=True, max_length=400)


def test_padding_free_with_wrapped_packing_is_announced(sft):
    with stack.listening() as said:
        sft(stack.ROWS, padding_free=True, packing=True, packing_strategy="wrapped")
    assert stack.heard(said, "'wrapped' packing strategy, which is not recommended")


def test_packing_with_context_parallelism_is_refused(sft, monkeypatch):
    """The setting is faked once the accelerator exists: a real one needs several processes."""
    parallel = types.SimpleNamespace(cp_enabled=True, sp_enabled=False, sp_backend=None)

    class Parallel(SFTTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            monkeypatch.setattr(Accelerator, "parallelism_config", parallel)

    with pytest.raises(ValueError, match="not compatible with context parallelism"):
        sft(stack.ROWS, packing=True, kind=Parallel)


# --- optimisation


def test_loss_is_averaged_over_the_tokens_of_all_devices():
    assert SFTConfig(use_cpu=True, bf16=False).average_tokens_across_devices


@pytest.mark.parametrize("reentrant", [True, False])
def test_adapters_get_gradients_under_checkpointing(sft, reentrant):
    run = sft(
        stack.ROWS, peft_config=stack.lora(), gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )  # fmt: skip
    run.train()
    moved = {n: bool(p.any()) for n, p in run.model.named_parameters() if "lora_B" in n}
    assert len(moved) == 14
    assert all(moved.values())


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_adapter_on_lm_head_is_refused(sft):
    with pytest.raises(ValueError, match="`lm_head` is wrapped by a PEFT adapter"):
        sft(stack.ROWS, peft_config=stack.lora(target_modules=["q_proj", "lm_head"]))


def test_adapter_that_matches_nothing_is_refused(sft):
    with pytest.raises(ValueError, match="Target modules"):
        sft(stack.ROWS, peft_config=stack.lora(target_modules=["query"]))


def test_peft_model_with_another_adapter_is_refused(sft, tiny):
    with pytest.raises(ValueError, match="`PeftModel` instance together with a `peft_config`"):
        sft(stack.ROWS, model=get_peft_model(tiny, stack.lora()), peft_config=stack.lora())


def test_tokens_added_with_a_template_become_trainable(sft, tokenizer, tmp_path):
    source = stack.variant(tokenizer, stack.CHATML)
    source.add_tokens(["<call>"])
    source.save_pretrained(tmp_path / "source")
    adapter = stack.lora()
    target = stack.variant(tokenizer)
    with stack.listening() as said:
        sft(
            stack.ROWS, tokenizer=target, peft_config=adapter,
            chat_template_path=str(tmp_path / "source"),
        )  # fmt: skip
    new = target.convert_tokens_to_ids("<call>")
    assert new in adapter.trainable_token_indices["embed_tokens"]
    assert adapter.modules_to_save == ["lm_head"]
    assert stack.heard(said, "'lm_head' is not in PEFT's")


def test_adapters_on_4_bit_weights_become_bf16(sft, tiny, tmp_path):
    run = sft(stack.ROWS, model=stack.nf4(tiny, tmp_path / "base"), peft_config=stack.lora())
    trainable = [p for p in run.model.parameters() if p.requires_grad]
    assert trainable
    assert {p.dtype for p in trainable} == {torch.bfloat16}


@pytest.mark.parametrize("setting", ["model_init_kwargs", "quantization_config"])
def test_settings_that_come_too_late_for_a_loaded_model_are_announced(sft, setting):
    value = {"dtype": "float32"}
    if setting == "quantization_config":
        value = BitsAndBytesConfig(load_in_4bit=True)
    with stack.listening() as said:
        run = sft(stack.ROWS, **{setting: value})
    assert stack.heard(said, f"`{setting}` will be ignored")
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the default precision suits a GPU")
def test_default_precision_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="setup doesn't support bf16"):
        SFTConfig()


# --- special tokens, generation, adapters


def test_eos_token_outside_the_vocabulary_is_refused(sft):
    with pytest.raises(ValueError, match="not found in the vocabulary"):
        sft(stack.ROWS, eos_token="<|eot_id|>")


def test_eos_token_setting_reaches_the_generation_config(sft, tiny, tokenizer):
    tiny.config.eos_token_id = tiny.generation_config.eos_token_id = tokenizer.pad_token_id
    wrong = stack.variant(tokenizer, eos_token=tokenizer.pad_token)
    run = sft(stack.ROWS, tokenizer=wrong, eos_token=tokenizer.eos_token)
    assert wrong.eos_token == tokenizer.eos_token
    assert run.model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token_id in run.model.generation_config.eos_token_id


def test_special_tokens_of_model_and_tokenizer_are_aligned(sft, tiny, tokenizer):
    tiny.config.eos_token_id = tiny.generation_config.eos_token_id = tokenizer.pad_token_id
    run = sft(stack.ROWS)
    with stack.listening() as said:
        run.train()
    assert stack.heard(said, "were aligned accordingly")
    assert tokenizer.eos_token_id in run.model.generation_config.eos_token_id


def test_right_padding_at_generation_is_announced(tiny, tokenizer):
    batch = stack.variant(tokenizer, padding_side="right")(
        ["Hello", "Hello and good morning"], padding=True, return_tensors="pt"
    )
    with stack.listening() as said:
        tiny.generate(**batch, max_new_tokens=1)
    assert stack.heard(said, "right-padding was detected")


def test_merge_into_4_bit_weights_is_announced(tiny, tmp_path):
    model = get_peft_model(stack.nf4(tiny, tmp_path), stack.lora())
    with stack.listening() as said:
        model.merge_and_unload()
    assert stack.heard(said, "4-bit linear may get different generations")


def test_missing_adapter_keys_are_announced(tiny, tmp_path):
    get_peft_model(tiny, stack.lora()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"other.{k}": v for k, v in load_file(file).items()}, file)
    tiny = tiny.__class__(tiny.config)
    with stack.listening() as said:
        PeftModel.from_pretrained(tiny, tmp_path)
    assert stack.heard(said, "Found missing adapter keys")


def test_adapter_on_tied_embeddings_is_announced(tiny):
    with stack.listening() as said:
        get_peft_model(tiny, stack.lora(modules_to_save=["embed_tokens"]))
    assert stack.heard(said, "tie_word_embeddings=True")
