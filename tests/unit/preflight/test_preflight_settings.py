"""Settings, ignored flags, several processes: each fault is named, sound settings are left alone."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sft_utils.masks import masking
from sft_utils.preflight import ranks, schedule, settings, stack
from sft_utils.preflight.record import RunRecord


def arguments(**changes):
    usual = {
        "learning_rate": 2e-4, "max_steps": 100, "warmup_steps": 10, "optim": "adamw_torch",
        "lr_scheduler_type": "cosine", "per_device_train_batch_size": 4, "num_train_epochs": 1,
        "gradient_accumulation_steps": 2, "average_tokens_across_devices": True,
        "packing": False, "packing_strategy": "bfd", "completion_only_loss": None,
        "assistant_only_loss": False, "fp16": False, "use_cpu": True,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **changes})


@pytest.fixture
def rows(tokenizer, conversations):
    return [masking.assistant_labels(tokenizer, c, max_length=400) for c in conversations]


@pytest.fixture
def record(tokenizer, conversations, rows):
    return RunRecord(
        tokenizer=tokenizer, conversations=conversations, arguments=arguments(),
        batches=[masking.collate(rows[:3], 0), masking.collate(rows[3:], 0)],
        generation={"eos_token_id": 2},
    )  # fmt: skip


@pytest.fixture
def lora(tiny):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(tiny, config)


def look(record, code=None):
    found = [f for detector in settings.DETECTORS for f in detector(record)]
    return found if code is None else [f for f in found if f.id == code]


def said(record):
    return [(f.id, f.severity) for f in look(record)]


def test_healthy(record, lora, tiny, conversations):
    assert said(record) == []
    assert said(record.change(model=lora)) == []
    world = {"world_size": 2, "strategy": "fsdp"}
    declared = {**world, "effective_batch_size": 16, "eval_n": 6}
    observed = {**world, "rank_rows": [[1, 2], [3, 4]], "rank_draws": [[0.1], [0.7]],
                "eval_ids": [[0, 1, 2], [3, 4, 5]], "columns": ["messages"]}  # fmt: skip
    assert said(record.change(declared=declared, observed=observed)) == []
    assert said(RunRecord(tokenizer=record.tokenizer, conversations=conversations)) == []
    assert said(RunRecord(tokenizer=record.tokenizer, conversations=[])) == []


def test_healthy_with_real_arguments(record, lora, tmp_path):
    from trl import SFTConfig

    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, learning_rate=2e-4,
                       max_steps=20, warmup_steps=0.1)  # fmt: skip
    assert said(record.change(arguments=config, model=lora)) == []
    tight = record.change(arguments=config, declared={"effective_batch_size": 64})
    assert said(tight) == [("X6", "FAIL")]
    assert "gradient_accumulation_steps=8" in look(tight)[0].fix
    default = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=20)
    assert said(record.change(arguments=default, model=lora)) == [("O7", "WARN")]


def test_detectors_leave_the_random_state_alone(record, lora):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    look(record.change(model=lora))
    assert torch.equal(torch.rand(3), expected)


# Adapters


@pytest.mark.parametrize(
    ("targets", "expected", "text"),
    [
        (["q_proj", "k_proj", "v_proj", "o_proj"], [("O6", "WARN")], "6 mlp layers"),
        (["up_proj", "gate_proj", "down_proj"], [("O6", "WARN")], "attention layers"),
        (["q_proj", "gate_prj"], [("O6", "FAIL"), ("O6", "WARN")], "did you mean 'gate_proj'"),
        (["q_proj", "up_proj", "layers.0.mlp.down_proj"], [], ""),
        (r".*\.(q_proj|up_proj)", [], ""),
        (r"visual\..*_proj", [("O6", "FAIL")], "no module of the model matches"),
        ("(", [("O6", "FAIL")], "no valid pattern"),
        ("all-linear", [], ""),
    ],
)
def test_target_modules(record, tiny, targets, expected, text):
    # As declared, before peft has seen it.
    got = record.change(model=tiny, declared={"target_modules": targets, "lora_r": 8})
    assert said(got) == expected
    assert not expected or text in look(got)[0].what


def test_a_list_for_several_families_is_legal(record, tiny):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "c_attn"]
    assert said(record.change(model=tiny, declared={"target_modules": names})) == [("O6", "WARN")]
    some = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "up_proj"], layers_to_transform=[1])
    assert said(record.change(model=get_peft_model(tiny, some))) == []


def test_conv1d_models_are_covered(record, tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
    kinds = settings.module_kinds(model)
    assert kinds["transformer.h.0.attn.c_attn"] == "attention"
    assert kinds["transformer.h.0.mlp.c_fc"] == "mlp"
    only = record.change(model=model, declared={"target_modules": ["c_attn"]})
    assert said(only) == [("O6", "WARN")]


def test_rates(record, lora):
    slow = record.change(arguments=arguments(learning_rate=2e-5))
    assert said(slow.change(model=lora)) == [("O7", "WARN")]
    assert said(slow.change(declared={"lora_r": 8})) == [("O7", "WARN")]


def test_rates_of_full_training(record, tiny):
    assert said(record.change(model=tiny, arguments=arguments(learning_rate=2e-5))) == []
    assert said(record.change(model=tiny)) == [("O7", "WARN")]
    assert said(record.change(model=tiny, arguments=arguments(optim="sgd"))) == []
    tiny.requires_grad_(False)
    tiny.lm_head.weight.requires_grad_(True)
    tiny.model.norm.weight.requires_grad_(True)
    assert look(record.change(model=tiny, arguments=arguments(optim="adafactor")), "O7") == []


@pytest.mark.parametrize(
    ("rank", "alpha", "stable", "alarm"),
    [(8, 16, False, False), (64, 16, False, False), (256, 16, False, True), (4, 64, False, True),
     (256, 16, True, False), (256, 4, True, False), (64, 256, True, True)],
)  # fmt: skip
def test_scale(record, rank, alpha, stable, alarm):
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=stable, target_modules="all-linear")
    got = look(record.change(declared={"peft_config": config}), "O8")
    assert bool(got) == alarm
    assert not alarm or f"alpha {alpha}, rank {rank}" in got[0].what


@pytest.mark.parametrize(("patterns", "said"), [
    ({"alpha_pattern": {"q_proj": 256}}, "alpha 256, rank 8"),
    ({"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"v_proj": 8}}, "alpha 16, rank 1"),
    ({"rank_pattern": {"q_proj": 64}, "alpha_pattern": {"q_proj": 128}}, ""),
])  # fmt: skip
def test_scale_of_the_layers_that_a_pattern_names(record, patterns, said):
    """A layer that was scaled by 32 went unseen, since only alpha / r of the config was read."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **patterns)
    found = look(record.change(declared={"peft_config": config}), "O8")
    assert [said in f.what and "q_proj" in f.where for f in found] == [True] * bool(said)


def test_nothing_trainable(record, lora):
    lora.requires_grad_(False)
    (found,) = look(record.change(model=lora))
    assert (found.id, found.severity) == ("O3", "FAIL")
    assert "is_trainable=True" in found.fix
    served = RunRecord(tokenizer=record.tokenizer, conversations=[], model=lora)
    assert look(served) == [], "a model that is only served need not be trainable"


def test_quantisation(record, lora):
    (found,) = look(record.change(model=lora, declared={"quantization": "nf4"}))
    assert (found.id, found.severity) == ("Q7", "FAIL")
    assert "torch.float32" in found.what


# New tokens


@pytest.fixture
def longer(record, tiny, conversations):
    """A token that the base does not know, in the data and in a longer table."""
    tokenizer = copy.deepcopy(record.tokenizer)
    tokenizer.add_tokens(["<note>"])
    chats = copy.deepcopy(conversations)
    chats[0][0]["content"] += " <note>"
    rows = [masking.assistant_labels(tokenizer, c, max_length=400) for c in chats]
    tiny.resize_token_embeddings(len(tokenizer))
    return record.change(tokenizer=tokenizer, conversations=chats,
                         batches=[masking.collate(rows, 0)]), tiny  # fmt: skip


def adapter(model, **options):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **options)
    return get_peft_model(model, config)


def test_new_tokens(longer):
    changed, model = longer
    number = changed.tokenizer.convert_tokens_to_ids("<note>")
    (found,) = look(changed.change(model=adapter(model)))
    assert (found.id, found.severity) == ("O11", "FAIL")
    assert "<note>" in found.what
    assert str(number) in found.fix
    assert 'loss_type="nll"' in found.fix, "tied: TRL's chunked loss ends on the wrapped head"
    model.config.tie_word_embeddings = False
    (found,) = look(changed.change(model=model))
    assert "ensure_weight_tying" not in found.fix


def test_many_new_tokens_are_all_in_the_advice():
    for ids in ([3], list(range(8)), [5, *range(100, 140), 200, 202]):
        assert eval(settings._as_code(ids)) == ids, "the advice is pasted"


@pytest.mark.parametrize("how", ["indices", "saved", "all"])
def test_new_tokens_that_are_trained(longer, how):
    changed, model = longer
    number = changed.tokenizer.convert_tokens_to_ids("<note>")
    if how == "indices":
        model = adapter(model, trainable_token_indices=[number])
    elif how == "saved":
        model = adapter(model, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    rate = 2e-5 if how == "all" else 2e-4
    changed = changed.change(model=model, arguments=arguments(learning_rate=rate))
    assert said(changed) == []
    assert said(changed.change(declared={"added_tokens": ["<note>"]})) == []


def test_new_tokens_that_do_not_occur(longer, conversations, rows):
    changed, model = longer
    without = changed.change(conversations=conversations, batches=[masking.collate(rows, 0)])
    assert said(without.change(model=adapter(model), declared={"added_tokens": ["<note>"]})) == []


def test_new_tokens_by_the_size_of_the_base(longer):
    changed, model = longer
    base = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=range(49152)))
    with torch.no_grad():
        model.get_input_embeddings().weight[-1].normal_()
    changed = changed.change(model=adapter(model))
    assert said(changed) == [], "a row like any other: nothing to see"
    assert said(changed.change(base_model=base)) == [("O11", "FAIL")]


# Schedules


@pytest.mark.parametrize(
    ("changes", "expected", "text"),
    [
        ({"warmup_steps": 200}, [("O15", "FAIL")], "warmup lasts 200 steps, the whole run 100"),
        ({"max_steps": 0}, [("O15", "FAIL")], "0 optimizer steps"),
        ({"learning_rate": 0.0}, [("O15", "FAIL")], "0 in every step"),
        ({"max_steps": 1, "warmup_steps": 0.1}, [("O15", "FAIL")], "warmup lasts 1 steps"),
        ({"max_steps": -1, "num_train_epochs": 0}, [("O15", "FAIL")], "0 optimizer steps"),
        ({"max_steps": 1, "warmup_steps": 0}, [], ""),
        ({"warmup_steps": 0.05}, [], ""),
        ({"max_steps": 1_000_000, "warmup_steps": 5000}, [], ""),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, [], ""),
        ({"lr_scheduler_type": "constant"}, [], ""),
        ({"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}}, [], ""),
        ({"lr_scheduler_type": "something new"}, [], ""),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 20.0}},
         [("O15", "WARN")], "of the steps have more than a tenth"),
    ],
)  # fmt: skip
def test_schedule(record, changes, expected, text):
    got = record.change(arguments=arguments(**changes))
    assert said(got) == expected
    assert not expected or text in look(got)[0].what


def test_steps_from_epochs(record):
    epochs = record.change(arguments=arguments(max_steps=-1, num_train_epochs=3))
    assert schedule.total_steps(epochs) == 3, "two batches, two accumulated, three epochs"
    late = epochs.change(arguments=arguments(max_steps=-1, num_train_epochs=3, warmup_steps=0),
                         observed={"resume_step": 3})  # fmt: skip
    assert said(late) == [("O15", "FAIL")]


def test_rates_are_those_of_transformers():
    found = schedule.rates(arguments(lr_scheduler_type="linear", max_steps=10, warmup_steps=2), 10)
    assert found == pytest.approx([2e-4 * x for x in (0, 0.5, 1, 7/8, 6/8, 5/8, 4/8, 3/8, 2/8, 1/8)])  # fmt: skip


# Flags


def test_completion_only_on_messages(record, rows):
    deaf = record.change(arguments=arguments(completion_only_loss=True),
                         observed={"columns": ["messages"]})  # fmt: skip
    assert said(deaf) == [], "the batches are masked: somebody else saw to it"
    full = [{**r, "labels": list(r["input_ids"])} for r in rows]
    for batch in (masking.collate(full, 0), masking.pack(full)):
        (found,) = look(deaf.change(batches=[batch]))
        assert (found.id, found.severity) == ("T5", "FAIL")
        assert "completion_only_loss" in found.where
    paired = deaf.change(batches=None, observed={"columns": ["prompt", "completion"]})
    assert said(paired) == []
    assert said(deaf.change(batches=None)) == [("T5", "FAIL")]
    lines = [{"messages": c} for c in record.conversations]
    assert said(deaf.change(batches=None, observed={}, raw=lines)) == [], "may have been converted"


def test_assistant_only_without_messages(record):
    deaf = record.change(arguments=arguments(assistant_only_loss=True), batches=None)
    assert said(deaf.change(observed={"columns": ["text"]})) == [("T5", "FAIL")]
    assert said(deaf.change(observed={"columns": ["messages"]})) == []
    assert said(deaf.change(observed={"columns": ["input_ids", "labels"]})) == []


def test_packing_that_did_not_happen(record, rows):
    packed = record.change(arguments=arguments(packing=True))
    (found,) = look(packed)
    assert (found.id, found.severity) == ("T5", "FAIL")
    assert "6 padded rows" in found.what
    assert said(packed.change(batches=[masking.pack(rows)])) == []
    wrapped = arguments(packing=True, packing_strategy="wrapped")
    assert said(packed.change(arguments=wrapped)) == []


def test_fp16_on_a_cpu(record):
    half = record.change(arguments=arguments(fp16=True))
    assert said(half) == [("T5", "WARN")]
    gpu = record.change(arguments=arguments(fp16=True, use_cpu=False), observed={"device": "cuda"})
    assert said(gpu) == []


def test_repacked_weights(record, lora):
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(32, 32)
    layer.support_avx512bf16_for_cpu = True
    lora.base_model.model.model.layers[0].self_attn.extra = layer
    lora = record.change(model=lora, observed={"avx512_bf16": True})
    (found,) = look(lora, "T1")
    assert found.severity == "FAIL"
    assert "guard_nf4" in found.fix
    assert look(lora.change(observed={"avx512_bf16": False}), "T1") == []
    layer.support_avx512bf16_for_cpu = False
    assert look(lora, "T1") == []


def test_eos_that_opens_turns(record, tokenizer):
    wrong = copy.deepcopy(tokenizer)
    wrong.eos_token = "<|im_start|>"
    (found,) = look(record.change(tokenizer=wrong))
    assert (found.id, found.severity) == ("T2", "FAIL")
    assert found.fix.startswith('tokenizer.eos_token = "<|im_end|>"')
    assert (found.row, found.turn) == (0, 1)


def test_another_eos_is_not_T2(record, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|endoftext|>"
    assert look(record.change(tokenizer=other)) == [], "C6 is about the stop list"
    other.bos_token = "<|endoftext|>"
    assert look(record.change(tokenizer=other)) == [], "one token for both, and the model stops"
    assert said(record.change(tokenizer=other, generation={"eos_token_id": 0})) == [("T2", "FAIL")]
    assert said(record.change(tokenizer=other, generation=None)) == [("T2", "WARN")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UserWarning: Found missing adapter keys while loading the checkpoint: ['x']", ("S6", "FAIL")),
        ("A decoder-only architecture is being used, but right-padding was detected!", ("E1", "FAIL")),
        ("UserWarning: Merge lora module to 4-bit linear may get different generations", ("Q1", "WARN")),
        ("The `quantization_config` will be ignored.", ("Q7", "FAIL")),
        ("None of the inputs have requires_grad=True. Gradients will be None", ("O4", "FAIL")),
        ("Paged optimizers are not supported on CPU. Falling back", ("T5", "WARN")),
        ("Something nobody has seen before", ("W1", "WARN")),
    ],
)
def test_messages(record, text, expected):
    (found,) = look(record.change(messages=[text]))
    assert (found.id, found.severity) == expected
    assert text in found.what


def test_harmless_messages(record):
    said_by_library = ["`use_cache=True` is incompatible with gradient checkpointing. Setting", " "]
    assert look(record.change(messages=said_by_library)) == []
    assert len(look(record.change(messages=["x" * 500]))[0].what) < 210


def test_known_messages_exist_in_the_installed_libraries():
    """A pattern that no library prints any more is dead."""
    import importlib.util
    import re
    from pathlib import Path

    sources = []
    for name in ("trl/trainer", "peft/peft_model.py", "peft/tuners/lora/bnb.py",
                 "peft/tuners/tuners_utils.py", "transformers/generation/utils.py",
                 "transformers/trainer_utils.py", "transformers/tokenization_utils_base.py",
                 "torch/utils/checkpoint.py", "bitsandbytes/optim/optimizer.py"):  # fmt: skip
        package, _, rest = name.partition("/")
        folder = Path(importlib.util.find_spec(package).submodule_search_locations[0]) / rest
        for path in [folder] if folder.is_file() else folder.glob("sft*.py"):
            sources.append(path.read_text(encoding="utf-8"))
    # Messages are written as adjacent literals: join them.
    text = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    missing = [known.pattern for known in stack.KNOWN if not re.search(known.pattern, text)]
    assert missing == []


# Processes and files


@pytest.mark.parametrize(
    ("declared", "observed", "changes", "expected"),
    [
        ({"world_size": 2}, {"world_size": 1}, {}, [("T3", "FAIL")]),
        ({"strategy": "fsdp"}, {"strategy": "DDP"}, {}, [("T4", "FAIL")]),
        ({"strategy": "zero-3"}, {"strategy": "zero3"}, {}, []),
        ({"strategy": "fsdp"}, {"strategy": "FSDP2"}, {}, []),
        ({"strategy": "zero3"}, {"strategy": "zero2"}, {}, [("T4", "FAIL")]),
        ({"strategy": "ddp"}, {"strategy": "fsdp"}, {}, []),
        ({}, {"world_size": 2}, {"average_tokens_across_devices": False}, [("O2", "FAIL")]),
        ({}, {"world_size": 1}, {"average_tokens_across_devices": False}, []),
        ({"effective_batch_size": 8}, {"world_size": 4}, {}, [("X6", "FAIL")]),
        ({"effective_batch_size": 32}, {"world_size": 4}, {}, []),
        ({}, {"rank_rows": [[1, 2, 3], [1, 2, 3]]}, {}, [("X1", "FAIL")]),
        ({}, {"rank_rows": [[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]]}, {}, [("X1", "WARN")]),
        ({}, {"rank_rows": [[], []]}, {}, []),
        ({}, {"rank_draws": [torch.ones(2), torch.ones(2)]}, {}, [("X4", "WARN")]),
        ({}, {"rank_draws": [0.5]}, {}, []),
        ({"eval_n": 3}, {"eval_ids": ["a", "b", "c", "a"]}, {}, [("X2", "FAIL")]),
        ({"eval_n": 4}, {"eval_ids": ["a", "b", "c"]}, {}, [("X2", "FAIL")]),
        ({}, {"eval_ids": ["a", "b", "c"]}, {}, []),
    ],
)
def test_ranks(record, declared, observed, changes, expected):
    got = record.change(declared=declared, observed=observed, arguments=arguments(**changes))
    assert said(got) == expected


def test_same_draws_without_dropout(record, lora):
    same = record.change(observed={"rank_draws": [[0.5], [0.5]]})
    assert said(same.change(model=lora)) == [], "nothing is dropped"
    for module in lora.modules():
        if isinstance(module, torch.nn.Identity):
            module.p = 0.0
    lora.config.attention_dropout = 0.1
    assert said(same.change(model=lora)) == [("X4", "WARN")]


def save(folder, tensors, **config):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, **config}), encoding="utf-8")
    return folder


def test_saved_adapters(record, tmp_path):
    good = {"a.lora_A.weight": torch.ones(4, 8), "a.lora_B.weight": torch.ones(8, 4)}
    fine = record.change(export=save(tmp_path / "good", good))
    assert said(fine) == []
    assert ranks.saved_shapes(tmp_path / "good" / "adapter_model.safetensors") == {
        "a.lora_A.weight": [4, 8], "a.lora_B.weight": [8, 4]}  # fmt: skip
    wide = {**good, "a.lora_A.weight": torch.ones(6, 8)}
    patterned = save(tmp_path / "pattern", wide, rank_pattern={"a": 6})
    assert said(record.change(export=patterned)) == []

    def broken(name, tensors, text):
        (found,) = look(record.change(export=save(tmp_path / name, tensors)))
        assert (found.id, found.severity) == ("X5", "FAIL")
        assert text in found.what

    broken("none", {}, "no tensors")
    broken("hollow", {n: torch.zeros(0) for n in good}, "2 of 2 tensors are empty")
    broken("shard", {**good, "a.lora_A.weight": torch.ones(2, 8)}, "rank 4")


def test_files_that_are_missing_or_cut(record, tmp_path):
    good = {"a.lora_A.weight": torch.ones(4, 8)}
    folder = save(tmp_path / "cut", good)
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        (found,) = look(record.change(export=folder))
        assert "cannot be read" in found.what
    path.unlink()
    assert "without adapter weights" in look(record.change(export=folder))[0].what
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "weight files are missing" in look(record.change(export=tmp_path))[0].what
    assert look(record.change(export=tmp_path / "nowhere")) == []


def test_labels_that_do_not_line_up_do_not_stop_the_inspection(tokenizer):
    """A collator that packs empty documents gives labels longer than ids: a finding, no crash."""

    from sft_utils.preflight import RunRecord, inspect

    batch = {
        "input_ids": torch.ones(1, 7, dtype=torch.long),
        "attention_mask": torch.ones(1, 7, dtype=torch.long),
        "labels": torch.ones(1, 10, dtype=torch.long),
    }
    record = RunRecord(
        tokenizer=tokenizer,
        conversations=[[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]],
        arguments={"assistant_only_loss": True},
        batches=[batch],
    )
    assert [f.what for f in inspect(record) if f.id == "M6"] == [
        "ids and labels do not line up: tokens a row "
        "{'input_ids': [7], 'labels': [10], 'attention_mask': [7]}"
    ]
