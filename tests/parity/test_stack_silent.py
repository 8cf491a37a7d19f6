"""What the pinned stack does without a word: the reason why our detectors exist.

Each test asserts the present behaviour and that nothing is raised or said about it. The day a
release fixes one, its test fails and says what of ours can go.

Unlike in TRL 1.16, in the pinned 1.14.2 also: the adapter is initialised before the seed is set,
DoRA magnitudes of a 4-bit model are bf16, a step without a trained token has the loss NaN.
Not asserted: D15, a schema decided by the first row (Arrow tables have one schema anyway).
"""

import copy
import datetime
import logging
import math
import os
import subprocess
import sys
import warnings

import pytest
import stack
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from datasets import Dataset
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import DataCollatorForLanguageModeling
from transformers.integrations.ggml import GGUFLlamaConverter
from trl import SFTConfig, SFTTrainer

from sft_utils.model import modeling

SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Paris"}]


def test_a_flip_says_what_can_go():
    item = stack.Silent("detector M1", "a flag is ignored")
    advice = "Until now: a flag is ignored, silently.*delete our detector M1"
    with pytest.raises(AssertionError, match=f"(?s){advice}"):
        item.holds(False)
    with pytest.raises(AssertionError, match="it is rejected with ValueError: no"), item.unsaid():
        raise ValueError("no")
    for logger in ("trl.trainer.sft_trainer", "transformers.trainer"):
        with pytest.raises(AssertionError, match="say .*the flag"), item.unsaid():
            logging.getLogger(logger).warning("the flag")
    with pytest.raises(AssertionError, match="say .*the flag"), item.unsaid():
        warnings.warn("the flag", stacklevel=1)


# --- C: template and special tokens


def test_template_of_another_family(sft, tokenizer):
    item = stack.Silent("detector C1", "markers of another family are trained as ordinary text")
    foreign = stack.variant(tokenizer, stack.family("llama3"))
    with item.unsaid():
        run = sft(stack.ROWS, tokenizer=foreign)
    ids = run.train_dataset[0]["input_ids"]
    item.holds("<|eot_id|>" in foreign.decode(ids) and foreign.eos_token_id not in ids)


def test_rendered_text_gets_a_second_bos(sft, tokenizer):
    item = stack.Silent("detector C2", "a `text` column with rendered chats gets a second BOS")
    bos = stack.with_bos(tokenizer)
    text = bos.apply_chat_template(stack.chat(), tokenize=False)
    with item.unsaid():
        run = sft([{"text": text}], tokenizer=bos)
    item.holds(run.train_dataset[0]["input_ids"][:2] == [bos.bos_token_id] * 2)


def test_rendered_text_gets_a_second_stop_token(sft, marked):
    item = stack.Silent("detector C4", "rendered chats that end in a newline get a second EOS")
    text = marked.apply_chat_template(stack.chat(), tokenize=False)
    with item.unsaid():
        run = sft([{"text": text}], tokenizer=marked)
    item.holds(marked.decode(run.train_dataset[0]["input_ids"]) == text + "<|im_end|>")


def test_stop_token_that_the_served_model_does_not_stop_at(sft, tiny, tokenizer):
    item = stack.Silent("detector C6", "answers end with a token that is no EOS of the model")
    base = stack.variant(tokenizer, stack.CHATML, eos_token=tokenizer.pad_token)
    tiny.config.eos_token_id = tiny.generation_config.eos_token_id = base.eos_token_id
    with item.unsaid():
        run = sft(stack.ROWS, tokenizer=base, assistant_only_loss=True)
        run.train()
    item.holds(
        tokenizer.eos_token_id in run.train_dataset[0]["labels"]
        and run.model.generation_config.eos_token_id in (base.eos_token_id, [base.eos_token_id])
    )


def test_wrong_eos_of_the_tokenizer_wins_over_the_model(sft, tiny, tokenizer):
    """It is logged, as an alignment: the log does not say that it is the wrong way round."""
    item = stack.Silent(
        "detector C6", "the model's right EOS gives way to the tokenizer's wrong one"
    )
    wrong = stack.variant(tokenizer, eos_token=tokenizer.pad_token)
    tiny.generation_config.eos_token_id = None
    run = sft(stack.ROWS, tokenizer=wrong)
    run.train()
    item.holds(run.model.config.eos_token_id == wrong.eos_token_id)
    item.holds(run.model.generation_config.eos_token_id == [wrong.eos_token_id])


def test_generation_prompt_that_training_never_shows(sft, tokenizer):
    item = stack.Silent("detector C7", "`messages` rows lack text of the generation prompt")
    prefilled = stack.variant(tokenizer, stack.PREFILLED)
    with item.unsaid():
        run = sft(stack.ROWS, tokenizer=prefilled)
    prompt = prefilled.apply_chat_template(
        stack.chat()[:1], tokenize=False, add_generation_prompt=True
    )
    text = prefilled.decode(run.train_dataset[0]["input_ids"])
    item.holds(not text.startswith(prompt) and text.startswith(prompt.removesuffix("<think>\n")))


def test_date_in_the_training_text(sft, tokenizer):
    item = stack.Silent("detector C9", "a template writes today's date into training rows")
    dated = stack.variant(tokenizer, stack.family("llama3_2"))
    days = [datetime.date.today()]
    with item.unsaid():
        run = sft(stack.ROWS, tokenizer=dated)
    days.append(datetime.date.today())
    text = dated.decode(run.train_dataset[0]["input_ids"])
    item.holds(any(f"{day:%d %b %Y}" in text for day in days))


def test_training_template_differs_from_the_served_one(sft, tokenizer):
    item = stack.Silent("detector C13", "TRL's training template renders other text than is served")
    qwen = stack.variant(tokenizer, stack.family("qwen3"))
    messages = [*stack.chat(), *stack.chat("Sure?", "Yes")]
    with item.unsaid():
        run = sft([{"messages": messages}], tokenizer=qwen, assistant_only_loss=True)
    served = qwen.apply_chat_template(messages, tokenize=False)
    trained = qwen.decode(run.train_dataset[0]["input_ids"])
    item.holds((trained.count("<think>"), served.count("<think>")) == (2, 1))


def test_tool_calls_that_the_template_drops(sft, tokenizer):
    item = stack.Silent("detector C14", "tool calls vanish in a template that does not know them")
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Lima"}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    with item.unsaid():
        run = sft([{"messages": [stack.chat()[0], answer]}])
    item.holds("weather" not in tokenizer.decode(run.train_dataset[0]["input_ids"]))


def test_mask_spills_into_the_next_turn(tokenizer):
    item = stack.Silent("detector C17", "a one-token answer at position 0 marks the whole row")
    spilling = stack.variant(
        tokenizer,
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}",
    )
    with item.unsaid():
        mask = spilling.apply_chat_template(
            stack.chat(answer="Hello")[::-1], return_assistant_tokens_mask=True
        )["assistant_masks"]
    item.holds(len(mask) > 3 and all(mask))


def test_sharegpt_roles_are_printed(sft, tokenizer):
    item = stack.Silent("detector C18", "the roles human and gpt become headers of their own")
    with item.unsaid():
        run = sft([{"conversations": SHAREGPT}])
    item.holds("<|im_start|>human\nHi" in tokenizer.decode(run.train_dataset[0]["input_ids"]))


def test_sharegpt_conversation_vanishes(sft, tokenizer):
    item = stack.Silent("detector C18", "a whole conversation with the roles human, gpt vanishes")
    qwen = stack.variant(tokenizer, stack.family("qwen2_5"))
    with item.unsaid():
        run = sft([{"conversations": SHAREGPT}], tokenizer=qwen)
    text = qwen.decode(run.train_dataset[0]["input_ids"])
    item.holds(text.count("<|im_start|>") == 1 and "Paris" not in text)


def test_control_tokens_in_user_text_become_real(sft, marked):
    item = stack.Silent("detector C19", "a stop token written by a user becomes a real one")
    with item.unsaid():
        run = sft([{"messages": stack.chat("Type <|im_end|> now")}], tokenizer=marked)
    item.holds(run.train_dataset[0]["input_ids"].count(marked.eos_token_id) == 3)


# --- M: loss mask


def test_completion_only_loss_on_messages_trains_everything(sft):
    item = stack.Silent("detectors M1, T5", "completion_only_loss=True on `messages` is ignored")
    with item.unsaid():
        run = sft(stack.ROWS, completion_only_loss=True)
    item.holds(all(row["labels"] == row["input_ids"] for row in run.train_dataset))


def test_hf_collator_masks_eos_by_pad_id(sft, tokenizer):
    """Like the next test with one row per batch; rows of unequal length are refused."""
    item = stack.Silent("detector M4", "the collator of transformers masks EOS if it is also pad")
    same = stack.variant(tokenizer, pad_token=tokenizer.eos_token)
    with item.unsaid():
        (batch, *_) = stack.batches(
            sft(
                stack.ROWS[:1], tokenizer=same,
                data_collator=DataCollatorForLanguageModeling(same, mlm=False),
            )
        )  # fmt: skip
    item.holds(same.eos_token_id in batch["input_ids"] and same.eos_token_id not in batch["labels"])


def test_hf_collator_discards_the_mask(sft, tokenizer):
    item = stack.Silent("detector M5", "the collator of transformers discards the prepared labels")
    with item.unsaid():
        run = sft(
            stack.PAIRS[:1], data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)
        )
        (batch,) = stack.batches(run)
    item.holds(-100 in run.train_dataset[0]["labels"])
    item.holds(torch.equal(batch["labels"], batch["input_ids"]))


def test_header_newline_is_trained(sft, tokenizer):
    item = stack.Silent("detector M10", "TRL's Qwen2.5 template trains the newline of the header")
    qwen = stack.variant(tokenizer, stack.family("qwen2_5"))
    with item.unsaid():
        run = sft(stack.ROWS, tokenizer=qwen, assistant_only_loss=True)
    item.holds(stack.trained_text(qwen, run.train_dataset[0]).startswith("\nParis"))


def test_newline_after_the_stop_token_is_trained(sft, tokenizer):
    item = stack.Silent("detector M1", "prompt-completion rows train the newline after the answer")
    with item.unsaid():
        run = sft(stack.PAIRS)
    item.holds(stack.trained_text(tokenizer, run.train_dataset[0]) == "Paris<|im_end|>\n")


def test_train_and_eval_rows_are_masked_differently(sft):
    item = stack.Silent("detector M12", "`messages` eval rows are not masked like the train rows")
    with item.unsaid():
        run = sft(stack.PAIRS, eval_dataset=Dataset.from_list(stack.ROWS))
    item.holds(-100 in run.train_dataset[0]["labels"])
    item.holds(run.eval_dataset[0]["labels"] == run.eval_dataset[0]["input_ids"])


def test_formatting_func_is_ignored(sft, tokenizer):
    item = stack.Silent("detector M13", "formatting_func has no effect beside a `messages` column")
    with item.unsaid():
        run = sft(stack.ROWS, formatting_func=lambda row: "formatted text")
    item.holds("formatted" not in tokenizer.decode(run.train_dataset[0]["input_ids"]))


# --- P: truncation and packing


def test_answers_are_cut_without_their_stop_token(sft, marked):
    item = stack.Silent("detector P1", "answers longer than max_length lose their end")
    rows = [{"messages": stack.chat(answer="Paris and " * 30)}]
    with item.unsaid():
        run = sft(rows, tokenizer=marked, max_length=30, assistant_only_loss=True)
    (row,) = run.train_dataset
    item.holds(len(row["labels"]) == 30 and marked.eos_token_id not in row["labels"])


def test_rows_are_cut_at_1024_by_default(sft):
    item = stack.Silent("detector P2", "rows are cut at 1024 tokens if nothing is set")
    default = SFTConfig.__dataclass_fields__["max_length"].default
    with item.unsaid():
        run = sft([stack.tokens(100, 1500, 1500)], max_length=default)
    item.holds(len(run.train_dataset[0]["input_ids"]) == 1024)


def test_rows_disappear(sft):
    item = stack.Silent("detector P3", "rows whose prompt fills max_length are dropped")
    with item.unsaid():
        run = sft([stack.tokens(100, 30, 5), stack.tokens(200, 10, 5)], max_length=20)
    item.holds(len(run.train_dataset) == 1)


def test_packing_keeps_rows_without_loss(sft):
    item = stack.Silent("detector P4", "packing keeps rows in which no token is trained")
    with item.unsaid():
        run = sft([stack.tokens(100, 30, 5)], max_length=20, packing=True)
    item.holds(len(run.train_dataset) == 1 and set(run.train_dataset[0]["labels"]) == {-100})


def test_step_without_a_trained_token_is_logged_as_zero(sft, tiny):
    item = stack.Silent("detector P4", "a step without a trained token has loss NaN, logged as 0")
    rows, losses = [stack.tokens(100, 30, 5)], {}
    for hidden in (True, False):
        with item.unsaid():
            run = sft(
                rows, model=copy.deepcopy(tiny), max_length=20, packing=True,
                logging_nan_inf_filter=hidden,
            )  # fmt: skip
            run.train()
        losses[hidden] = run.state.log_history[0]["loss"]
    item.holds(losses[True] == 0 and math.isnan(losses[False]))


def test_wrapped_packing_mixes_documents(sft):
    item = stack.Silent("detector P5", "wrapped packing lets a document see the one before it")
    rows = [stack.tokens(100, 10, 10), stack.tokens(200, 10, 10)]
    with item.unsaid():
        run = sft(rows, packing=True, packing_strategy="wrapped", max_length=20)
        (batch,) = stack.batches(run)
    item.holds("position_ids" not in batch and bool(batch["attention_mask"].all()))
    ids, model = batch["input_ids"], run.model.eval()
    with torch.no_grad():
        difference = model(input_ids=ids).logits[:, 10:] - model(input_ids=ids[:, 10:]).logits
    item.holds(difference.abs().max() > 1e-4)


@pytest.mark.parametrize("strategy", ["wrapped", "bfd_split"])
def test_packing_splits_conversations(sft, strategy):
    item = stack.Silent("detector P6", f"{strategy} packing cuts a row from its beginning")
    with item.unsaid():
        run = sft(
            [stack.tokens(100, 30, 30)], packing=True, packing_strategy=strategy, max_length=20
        )
    item.holds([row["input_ids"][0] for row in run.train_dataset] == [100, 120])


# --- O: loss and optimisation


class OwnLoss(SFTTrainer):
    """A plausible override, as found in many scripts."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Ignore how many tokens the whole step has."""
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def test_own_compute_loss_breaks_gradient_accumulation(sft, tiny):
    item = stack.Silent("detector O1", "an own compute_loss multiplies updates by the accumulation")
    rows = [stack.tokens(100 * k, 12, 8) for k in range(1, 5)]
    before, moved = stack.snapshot(tiny), []
    for kind in (SFTTrainer, OwnLoss):
        model = copy.deepcopy(tiny)
        with item.unsaid():
            sft(
                rows, model=model, kind=kind, per_device_train_batch_size=1, optim="sgd",
                gradient_accumulation_steps=4, max_grad_norm=0.0, learning_rate=0.1,
            ).train()  # fmt: skip
        after = stack.snapshot(model)
        moved.append(torch.cat([(after[n] - before[n]).flatten() for n in before]).norm())
    item.holds(3.5 < moved[1] / moved[0] < 4.5)


def test_nothing_trainable_after_late_preparation(sft, tiny):
    item = stack.Silent("detector O3", "a model without trainable parameters is trained")
    model = get_peft_model(tiny, stack.lora())
    prepare_model_for_kbit_training(model)
    before = stack.snapshot(model)
    with item.unsaid():
        run = sft(stack.ROWS, model=model, gradient_checkpointing=True)
        run.train()
    after = stack.snapshot(run.model)
    item.holds(all(torch.equal(before[n], after[n]) for n in before))


def test_nothing_trainable_in_a_reloaded_adapter(sft, tiny, tmp_path):
    item = stack.Silent("detector O3", "an adapter loaded without is_trainable=True is trained")
    get_peft_model(copy.deepcopy(tiny), stack.lora()).save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny, tmp_path / "adapter")
    with item.unsaid():
        run = sft(stack.ROWS, model=model, gradient_checkpointing=True)
        run.train()
    item.holds(not any(p.requires_grad for p in run.model.parameters()))
    item.holds(run.state.log_history[0]["grad_norm"] == 0)


def test_norms_do_not_move_in_bf16(sft, tiny):
    item = stack.Silent("detector O9", "bf16 weights lose updates of the default learning rate")
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = copy.deepcopy(tiny).to(dtype)
        before = stack.snapshot(model)
        with item.unsaid():
            sft(stack.ROWS, model=model).train()
        norms = [n for n in before if "norm" in n]
        after = stack.snapshot(model)
        moved[dtype] = sum(not torch.equal(before[n], after[n]) for n in norms) / len(norms)
    item.holds(moved == {torch.float32: 1.0, torch.bfloat16: 0.0})


def test_precision_depends_on_how_the_model_is_passed(sft, tiny, tmp_path):
    item = stack.Silent("detector O9", "a model by name is float32 whatever its checkpoint says")
    tiny.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    with item.unsaid():
        named = sft(stack.ROWS, model=str(tmp_path / "base"))
        passed = sft(stack.ROWS, model=tiny)
    item.holds((named.model.dtype, passed.model.dtype) == (torch.float32, torch.bfloat16))


def test_new_tokens_stay_untrained_under_lora(sft, tiny, tokenizer):
    item = stack.Silent("detector O11", "embeddings of new tokens are not trained by LoRA")
    wider = stack.variant(tokenizer, stack.CHATML)
    wider.add_tokens(["<call>", "</call>"])
    tiny.resize_token_embeddings(len(wider))
    embeddings = tiny.get_input_embeddings().weight
    before = embeddings[-2:].detach().clone()
    with item.unsaid():
        run = sft(
            [{"messages": stack.chat(answer="<call>weather</call>")}],
            tokenizer=wider, peft_config=stack.lora(),
        )  # fmt: skip
        run.train()
    item.holds(len(wider) - 1 in run.train_dataset[0]["labels"])
    item.holds(torch.equal(run.model.get_input_embeddings().weight[-2:], before))


def test_adapter_is_initialised_before_the_seed_is_set(sft, tiny):
    item = stack.Silent("runtime.seed_everything before building", "LoRA ignores SFTConfig.seed")
    weights = []
    for state in (1, 2, 1):
        torch.manual_seed(state)
        with item.unsaid():
            run = sft(stack.ROWS, model=copy.deepcopy(tiny), peft_config=stack.lora(), seed=17)
        weights.append(next(p for n, p in run.model.named_parameters() if "lora_A" in n))
    first, other, again = weights
    assert torch.equal(first, again)
    item.holds(not torch.equal(first, other))


def test_dora_magnitudes_are_rounded_to_bf16(sft, tiny, tmp_path):
    item = stack.Silent("detector O9", "DoRA magnitudes of a 4-bit model are trained in bf16")
    model = stack.nf4(tiny, tmp_path / "base")
    with item.unsaid():
        run = sft(stack.ROWS, model=model, peft_config=stack.lora(use_dora=True))
    found = {p.dtype for n, p in run.model.named_parameters() if "magnitude" in n}
    item.holds(found == {torch.bfloat16})


# --- D: data


def test_empty_answers_are_trained(sft, marked):
    item = stack.Silent("detector D3", "an empty answer trains the model to stop at once")
    with item.unsaid():
        run = sft([{"messages": stack.chat(answer="")}], tokenizer=marked, assistant_only_loss=True)
    item.holds(stack.trained_text(marked, run.train_dataset[0]) == "<|im_end|>")


def test_two_answers_in_a_row_are_trained(sft, tokenizer):
    item = stack.Silent("detector D7", "two assistant turns in a row are accepted")
    user, answer = stack.chat()
    with item.unsaid():
        run = sft([{"messages": [user, answer, answer]}])
    item.holds(tokenizer.decode(run.train_dataset[0]["input_ids"]).count("Paris") == 2)


def test_arrow_writes_null_arguments_into_tool_calls(sft, tokenizer):
    item = stack.Silent("detector D13", "tool calls get null arguments from the other rows")
    qwen = stack.variant(tokenizer, stack.family("qwen2_5"))
    rows = []
    for arguments in ({"city": "Lima"}, {"stock": "ACME"}):
        call = {"type": "function", "function": {"name": "look_up", "arguments": arguments}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        rows.append({"messages": [stack.chat()[0], answer]})
    with item.unsaid():
        run = sft(rows, tokenizer=qwen)
    item.holds('"stock": null' in qwen.decode(run.train_dataset[0]["input_ids"]))


# --- Q, S, E: adapters, saving, evaluation


def test_adapter_on_another_base(tiny, tmp_path):
    item = stack.Silent("detector Q5", "an adapter loads onto a base it was not trained on")
    get_peft_model(tiny, stack.lora()).save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = type(tiny)(tiny.config)
    with item.unsaid():
        loaded = PeftModel.from_pretrained(other, tmp_path)
    item.holds(isinstance(loaded, PeftModel))


def test_adapter_is_saved_without_tokenizer(tiny, tmp_path):
    item = stack.Silent("detector S1", "an adapter is saved without tokenizer and template")
    model = get_peft_model(tiny, stack.lora())
    with item.unsaid():
        model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    item.holds("adapter_config.json" in files)
    item.holds(not any("token" in name or "template" in name for name in files))


def test_local_path_is_saved_with_the_adapter(tiny, tmp_path):
    item = stack.Silent(
        "modeling.clean_adapter_config", "an adapter names a local path as its base"
    )
    tiny.save_pretrained(tmp_path / "base")
    base = type(tiny).from_pretrained(tmp_path / "base")
    with item.unsaid():
        get_peft_model(base, stack.lora()).save_pretrained(tmp_path / "adapter")
    item.holds(str(tmp_path) in (tmp_path / "adapter" / "adapter_config.json").read_text())


def test_metrics_of_several_eval_sets_overwrite_each_other(sft):
    item = stack.Silent(
        "note about several eval sets", "only eval_loss carries the name of its set"
    )
    sets = {name: Dataset.from_list(stack.ROWS) for name in ("a", "b")}
    with item.unsaid():
        metrics = sft(stack.ROWS, eval_dataset=sets).evaluate()
    item.holds({"eval_a_loss", "eval_b_loss"} <= metrics.keys())
    item.holds(not any(k.startswith("eval_a_mean_token") for k in metrics))


# --- T: this stack on this machine


@pytest.mark.filterwarnings("ignore:.*gemv_4bit")
@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="needs a CPU with AVX512-BF16 instructions"
)
def test_4_bit_weights_are_repacked_by_an_evaluation():
    """No error; torch warns about a kernel without autograd, in the next training step."""
    import bitsandbytes

    item = stack.Silent(
        "detector T1 and modeling.guard_nf4", "an evaluation spoils 4-bit gradients"
    )
    cosines = {}
    for guarded in (True, False):
        torch.manual_seed(0)
        layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4")
        layer = layer.to("cpu")
        if guarded:
            modeling.guard_nf4(layer)
        x, found = torch.randn(4, 64), []
        for _ in range(2):
            leaf = x.clone().requires_grad_()
            layer.train()(leaf).square().sum().backward()
            grad = torch.zeros_like(x) if leaf.grad is None else leaf.grad
            found.append(grad.flatten())
            with torch.no_grad():
                layer.eval()(x)
        cosines[guarded] = torch.nn.functional.cosine_similarity(*found, dim=0).item()
    assert cosines[True] > 0.99, "our guard no longer helps"
    item.holds(cosines[False] < 0.9)


def test_gguf_eos_is_read_from_the_wrong_field():
    item = stack.Silent(
        "detector T2 and the repair in basemodel.convert", "a GGUF tokenizer's EOS is its BOS"
    )
    fields = {
        "tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a"], "merges": [],
        "token_type": [3, 3, 3, 1], "tokenizer_type": "gpt2", "bos_token_id": 1,
        "eos_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip
    with item.unsaid():
        converter = GGUFLlamaConverter(fields)
        converter.tokenizer(converter.proto)
    item.holds(converter.additional_kwargs["eos_token"] == "<|im_start|>")


@pytest.mark.parametrize("how", ["flag", "config"])
def test_cpu_launcher_starts_one_process(tmp_path, how):
    item = stack.Silent("detector T3", f"`accelerate launch` by {how} starts 1 CPU process of 2")
    script = tmp_path / "script.py"
    script.write_text("open(__file__ + '.log', 'a').write('started\\n')\n")
    options = [
        "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
    ]  # fmt: skip
    if how == "flag":
        options.append("--cpu")
    else:
        config = tmp_path / "config.yaml"
        config.write_text(
            "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_machines: 1\n"
            "num_processes: 2\nuse_cpu: true\nmixed_precision: 'no'\n"
        )
        options += ["--config_file", str(config)]
    with item.unsaid():
        launch_command(launch_command_parser().parse_args([*options, str(script)]))
    item.holds((tmp_path / "script.py.log").read_text().count("started") == 1)


FSDP = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
print("TYPE", accelerator.distributed_type.value)
"""


def test_fsdp_on_a_cpu_is_plain_ddp(tmp_path, loopback):
    """A group of one process is enough to see which kind accelerate chooses."""
    item = stack.Silent("detector T4", "accelerate replaces FSDP by DDP on a CPU")
    group = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FSDP], env={**os.environ, **group}, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    item.holds(done.returncode == 0 and "TYPE MULTI_CPU" in done.stdout)
    item.holds("fsdp" not in done.stderr.lower())


def test_fp16_on_a_cpu_is_ignored(sft, tiny):
    item = stack.Silent("detector T5", "fp16=True on a CPU computes in float32")
    seen = {}
    for name in ("bf16", "fp16"):
        with item.unsaid():
            run = sft(stack.ROWS, model=copy.deepcopy(tiny), **{"bf16": False, name: True})
        layer = run.model.model.layers[0].mlp.down_proj
        layer.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out.dtype}))
        with item.unsaid():
            run.train()
    item.holds(seen == {"bf16": torch.bfloat16, "fp16": torch.float32})
