"""A healthy export is left alone, every fault of one is named, and odd inputs are no faults."""

import copy
import json

import pytest
import torch

from sft_utils.artifacts import write_text
from sft_utils.preflight import artefact, exported, merging
from sft_utils.preflight.compare import (
    artefact_hash,
    base_hash,
    likeness,
    probes,
    tensor_hash,
    untouched,
)
from sft_utils.preflight.record import EvalPlan, RunRecord
from tests.mutation import exports

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def chats():
    return [
        [{"role": "user", "content": "Capital of France?"},
         {"role": "assistant", "content": "Paris"}],
        [{"role": "system", "content": ""}, {"role": "user", "content": "naïve 日本語 🙂"},
         {"role": "assistant", "content": "def f(x):\n    return {'a': [x]}\n"},
         {"role": "user", "content": "As JSON"}, {"role": "assistant", "content": '{"a":null}'}],
    ]  # fmt: skip


@pytest.fixture
def record(tokenizer, chats):
    return RunRecord(tokenizer=tokenizer, conversations=chats)


@pytest.mark.parametrize(("words", "beginning"), [(10, True), (60, True), (130, False), (400, False)])
def test_probes_predict_answers_however_long_the_prompt_is(tokenizer, words, beginning):
    """Behind 127 tokens the first positions of the prompt were compared, as if they were answers."""
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "long " * words},
            {"role": "assistant", "content": "Paris, in the north of France, on the river Seine"}]  # fmt: skip
    one = RunRecord(tokenizer=tokenizer, conversations=[chat])
    (truth,) = one.oracles
    ((ids, asked),) = probes(one, positions=8)
    assert len(ids) <= 128
    start = next(k for k in range(len(truth.ids)) if truth.ids[k : k + len(ids)] == ids)
    assert (start == 0) == beginning
    answer = [k for k, m in enumerate(truth.mask) if m][:8]
    assert [start + k + 1 for k in asked] == answer


@pytest.fixture
def adapter(record):
    return exports.with_adapter(record)


@pytest.fixture
def merge(record):
    return exports.with_merge(record)


def look(record):
    return [f for detector in exported.DETECTORS for f in detector(record)]


def ids(record, severity=None):
    return {f.id for f in look(record) if severity in (None, f.severity)}


def only(record, code, severity="FAIL"):
    """The first finding, if all findings have this id and its severity is the worst."""
    found = look(record)
    assert {f.id for f in found} == {code}, found
    assert severity in {f.severity for f in found}
    assert all(f.what and f.where and f.why and f.fix for f in found)
    return next(f for f in found if f.severity == severity)


def test_healthy(record, adapter, merge):
    for one in (record, adapter, merge, exports.with_4bit(record)):
        assert look(one) == []


def test_the_files_alone_are_enough(adapter, merge):
    for one in (adapter, merge):
        assert look(one.change(model=None, base_model=None, served_model=None, golden=())) == []


def test_nothing_is_touched(adapter):
    model = adapter.model
    before = tensor_hash(dict(model.state_dict()))
    modes = [m.training for m in model.train().modules()]
    flags = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    look(adapter)
    assert torch.equal(torch.rand(2), expected)
    assert tensor_hash(dict(model.state_dict())) == before
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    model.eval()


# --- odd but legal --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"use_rslora": True, "bias": "all"},
        {"modules_to_save": ["lm_head", "embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [5, 6]},
        {"rank_pattern": {"q_proj": 2}},
    ],
)
def test_other_adapters_are_legal(record, options):
    base = exports.built(record).base
    model = exports.adapted(base, **options)
    one = record.change(model=model, base_model=base)
    folder = exports.save(model, exports.new_folder(), one)
    assert look(one.change(export=folder, served_model=exports.load_adapter(base, folder))) == []


def test_other_exports_are_legal(merge, tmp_path):
    folder = exports.copied(merge.export)
    same = artefact.templates(folder)[artefact.JINJA] + "\n"
    twice = exports.edit_json(merge, artefact.CONFIG, chat_template=same)
    old = exports.without(twice, artefact.JINJA)
    named = exports.edit_json(
        old, artefact.CONFIG, chat_template=[{"name": "default", "template": same}]
    )
    stops = exports.ends(merge)
    more = exports.edit_json(merge, "generation_config.json", eos_token_id=[0, *stops])
    fallback = exports.without(merge, "generation_config.json")
    for one in (twice, old, named, more, fallback):
        assert look(one) == []
    merge.served_model.save_pretrained(tmp_path, max_shard_size="1MB")
    merge.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert look(merge.change(export=tmp_path)) == []


def test_a_gguf_file_brings_its_own_tokenizer(record, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert look(record.change(export=tmp_path)) == []


def test_rounding_is_no_fault(merge):
    served = copy.deepcopy(merge.served_model).to(torch.bfloat16)
    assert ids(merge.change(served_model=served)) == {"Q4"}
    assert base_hash(merge.base_model) == base_hash(copy.deepcopy(merge.base_model).bfloat16())


def test_adapters_and_packing_keep_the_base_hash(record):
    one = exports.built(record)
    assert base_hash(one.base) == base_hash(one.adapted) == base_hash(exports.four_bit(one.base))
    assert base_hash(one.base) != base_hash(exports.tiny(record, seed=3))


def test_odd_folders_do_not_raise(adapter, tmp_path):
    assert only(adapter.change(export=tmp_path / "nowhere"), "S1").where == "export"
    (tmp_path / "file").write_text("x")
    only(adapter.change(export=tmp_path / "file"), "S1")
    only(adapter.change(export=tmp_path), "S1")
    names = ("tokenizer.json", "adapter_model.safetensors", "adapter_config.json")
    broken = exports.copied(adapter.export)
    for name in names:
        write_text(broken / name, "{ broken")
    assert "S1" in ids(adapter.change(export=broken))


# --- files ----------------------------------------------------------------------------------


def test_tokenizer_and_template_missing(adapter):
    finding = only(exports.without(adapter, "tokenizer*", artefact.JINJA), "S1")
    assert "no vocabulary file" in finding.what
    assert "save_pretrained" in finding.fix
    assert "chat template" in only(exports.without(adapter, artefact.JINJA), "S1").what


def test_two_templates(merge):
    text = artefact.templates(merge.export)[artefact.JINJA]
    other = exports.edit_json(merge, artefact.CONFIG, chat_template=text + "{{ 'x' }}")
    assert artefact.CONFIG in only(other, "S2").what
    comment = exports.edit_json(merge, artefact.CONFIG, chat_template=text + "{# v2 #}")
    assert "render alike" in only(comment, "S2", "WARN").what
    unread = exports.declare(merge, loader_reads=[artefact.CONFIG])
    assert artefact.JINJA in only(unread, "S2").what


def test_stop_list(merge, tokenizer):
    wiped = exports.edit_json(merge, "generation_config.json", eos_token_id=None)
    finding = only(wiped, "S3")
    assert "<|im_end|>" in finding.what
    assert "nothing" in finding.what
    assert str(tokenizer.eos_token_id) in finding.fix
    other = exports.edit_json(merge, "generation_config.json", eos_token_id=0)
    assert "<|endoftext|>" in only(other, "S3").what


def test_the_end_of_earlier_answers_need_not_stop(tokenizer, chats, tmp_path):
    """gpt-oss ends earlier answers with <|end|>, which also ends thoughts: no token to stop at."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"extra_special_tokens": ["<|end|>", "<|return|>"]})
    other.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    end, final = other.convert_tokens_to_ids(["<|end|>", "<|return|>"])

    def found(stops, **changes):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
        one = RunRecord(tokenizer=other, conversations=chats, export=tmp_path)
        return [*exported.stop_list(one.change(**changes))]

    (finding,) = found([final])
    assert finding.severity == "WARN"
    assert "earlier answers" in finding.what
    assert str(end) not in finding.fix
    assert found([final], turns="last") == []
    assert found([final], conversations=chats[:1]) == []
    assert found([final, end]) == []
    (finding,) = found([end])
    assert finding.severity == "FAIL"
    assert f"[{end}, {final}]" in finding.fix


@pytest.mark.parametrize(
    "tail", ["<|im_end|>\n<|im_start|>user\nMore?", "\nuser\nMore?", "<|im_end|> x"]
)
def test_answers_run_on(record, tail):
    answers = ((f"Paris{tail}", False), *((f"a{i}", True) for i in range(9)))
    assert "1 of 10" in only(record.change(evaluation=EvalPlan(answers=answers)), "S3").what


def test_open_answers_alone_are_not_blamed_on_the_stop_list(record):
    long = tuple(("a long story of a user and an assistant", k > 3) for k in range(10))
    assert look(record.change(evaluation=EvalPlan(answers=long))) == []
    none = tuple(("a long story", False) for _ in range(10))
    only(record.change(evaluation=EvalPlan(answers=none)), "S3", "WARN")


def test_vocabulary(merge, tokenizer):
    size = exports.config_of(merge)["vocab_size"]
    finding = only(exports.edit_json(merge, "config.json", vocab_size=size + 8), "S4")
    assert str(size + 8) in finding.what
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["<brand-new>"])
    folder = exports.copied(merge.export, without=["tokenizer*", "chat_template*"])
    grown.save_pretrained(folder)
    assert "<brand-new>" in only(merge.change(export=folder), "S4").what
    # The family itself has an id more than rows, and nobody uses it.
    spare = merge.change(export=folder, tokenizer=grown)
    assert "<brand-new>" in only(spare, "S4", "WARN").what


def test_golden_ids(merge, adapter):
    folder = exports.copied(adapter.export)
    text = artefact.templates(folder)[artefact.JINJA]
    write_text(folder / artefact.JINJA, text + "{{ '\\n' }}")
    finding = only(adapter.change(export=folder), "S5")
    assert "golden conversation 0" in finding.what
    assert "\\n" in finding.what
    # Without golden ids the manifest is taken, without that the rows of the run.
    assert "S5" in ids(adapter.change(export=folder, golden=()))
    prompt = [{"role": "user", "content": "Hi"}]
    asked, _ = artefact.encode(merge.tokenizer, prompt, generation=True)
    assert look(merge.change(golden=[{"messages": prompt, "ids": asked}])) == []


def test_base_name(adapter):
    for name in ("/home/me/base", "./base", None):
        changed = exports.edit_json(adapter, "adapter_config.json", base_model_name_or_path=name)
        finding = only(changed, "S10", "WARN")
        assert "/home/me" not in finding.what


# --- lineage --------------------------------------------------------------------------------


def test_wrong_checkpoint(adapter, merge):
    tensors = artefact.adapter_tensors(adapter.export)
    other = exports.with_adapter_tensors(adapter, {k: v * 0.9 for k, v in tensors.items()})
    assert only(other, "S7").where == "adapter_model.safetensors"
    undeclared = other.change(declared={})
    assert "in memory" in only(undeclared, "S7", "WARN").what
    zero = {k: v * (0 if "lora_B" in k else 1) for k, v in tensors.items()}
    first = exports.with_adapter_tensors(adapter, zero).change(declared={}, served_model=None)
    assert "before the first step" in only(first, "S7").what
    stale = exports.edit_json(merge, artefact.MANIFEST, adapter_sha256="0" * 64)
    assert only(stale, "S7").where == artefact.MANIFEST


def test_a_saved_file_may_be_declared_by_its_own_hash(adapter):
    for name in artefact.adapter_hashes(adapter.export):
        assert look(exports.declare(adapter, adapter_sha256=name)) == []


def test_old_merge_by_time(merge, adapter, tmp_path):
    bare = exports.without(merge, artefact.MANIFEST).change(declared={"adapter_dir": str(tmp_path)})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"newer")
    assert "older" in only(bare, "S7", "WARN").what


def test_resume_files(record, tmp_path):
    start = record.change(declared={"resume_from": str(tmp_path)})
    assert "optimizer.pt" in only(start, "S8").what
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json"):
        (tmp_path / name).touch()
    assert "random" in only(start, "S8", "WARN").what
    (tmp_path / "rng_state_0.pth").touch()
    assert look(start) == []
    (tmp_path / "optimizer.pt").unlink()
    (tmp_path / "scheduler.pt").unlink()
    (tmp_path / "global_step40").mkdir()
    assert look(start) == [], "DeepSpeed keeps its own folder"


@pytest.mark.parametrize(
    ("resumed", "severity"),
    [([2.0, 1.5, 1.25], ""), ([2.0, 1.5001, 1.25], ""), ([2.0, 1.503, 1.2], "WARN"),
     ([2.0, 1.9, 1.8], "FAIL"), ([2.0, float("nan"), 1.25], "FAIL")],
)  # fmt: skip
def test_resume_losses(record, resumed, severity):
    observed = {"loss_straight": [2.0, 1.5, 1.25], "loss_resumed": resumed}
    found = look(record.change(observed=observed))
    assert [f.severity for f in found] == [severity] * bool(severity)
    assert all(f.where == "step 1" for f in found)


def test_context(merge):
    assert "16" in only(exports.declare(merge, served_context=16), "S9").what
    assert look(exports.declare(merge, served_context=4096)) == []
    only(exports.edit_json(merge, "config.json", max_position_embeddings=8), "S9")
    only(exports.edit_json(merge, "config.json", max_position_embeddings=32_768), "S9", "WARN")
    rope = {**exports.config_of(merge)["rope_parameters"], "rope_theta": 5e5}
    finding = only(exports.edit_json(merge, "config.json", rope_parameters=rope), "S9")
    assert "500000.0" in finding.what


# --- weights --------------------------------------------------------------------------------


def test_a_model_that_computes_nothing_is_far_from_one_that_does():
    """KL was NaN, which is above no bound: a served model of NaN was told to be right."""
    one = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    for broken in (torch.full((2, 2), float("nan")), torch.tensor([[2.0, 0.0], [float("nan"), 1.0]])):
        for pair in (([one], [broken]), ([broken], [one])):
            found = likeness(*pair)
            assert found.kl == float("inf")
            assert found.top1 < 1
            assert merging._severity(found, None, merging.ROUNDED) == "FAIL"


def test_likeness():
    one, two = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0, 9.0]])
    assert likeness([one], [one]).kl == 0
    apart = likeness([one], [two])
    assert apart.kl > 3
    assert (apart.top1, apart.n) == (0.0, 1)


def test_adapter_keys(adapter):
    tensors = artefact.adapter_tensors(adapter.export)
    moved = {k.replace("model.layers", "model.inner.layers"): v for k, v in tensors.items()}
    broken = exports.with_adapter_tensors(adapter, moved).change(declared={}, served_model=None)
    assert "model.inner.layers" in only(broken, "S6").what
    # The same from the base alone, without the trained model.
    only(broken.change(model=None), "S6")
    served = exports.load_adapter(adapter.base_model, broken.export)
    assert any("lora_B" in f.what for f in look(broken.change(served_model=served)))


def test_base_is_served(adapter):
    finding = only(adapter.change(served_model=adapter.base_model), "S6")
    assert "nats" in finding.what


def test_merging(record, merge):
    packed = exports.with_4bit(record)
    rounded = packed.change(served_model=copy.deepcopy(packed.model).merge_and_unload())
    finding = only(rounded, "Q1")
    assert "4-bit" in finding.what
    assert "tuning effect" in finding.what
    original = exports.adapted(exports.built(record).base).merge_and_unload()
    assert ids(packed.change(served_model=original)) == {"Q2"}
    half = copy.deepcopy(merge.model)
    for name, parameter in half.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.5)
    only(merge.change(served_model=half.merge_and_unload()), "Q1")
    said = "UserWarning: Merge lora module to 4-bit linear may get different generations"
    only(record.change(messages=[said]), "Q1", "WARN")


def test_quantisation(record, merge):
    model = exports.with_4bit(record).model
    one = merge.change(model=model, base_model=None, served_model=None, declared={})
    same = exports.edit_json(one, "config.json", quantization_config=exports.NF4)
    assert look(same) == []
    fp4 = {**exports.NF4, "bnb_4bit_quant_type": "fp4"}
    finding = only(exports.edit_json(one, "config.json", quantization_config=fp4), "Q3")
    assert "nf4" in finding.what
    assert "fp4" in finding.what
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    only(exports.edit_json(one, "config.json", quantization_config=awq), "Q3", "WARN")
    from transformers import BitsAndBytesConfig

    objects = {"quantization": BitsAndBytesConfig(**{k: v for k, v in exports.NF4.items()
                                                     if k != "quant_method"})}  # fmt: skip
    assert look(same.change(model=None, declared=objects)) == []


def test_wrong_base(adapter):
    other = exports.tiny(adapter, seed=99)
    served = exports.load_adapter(other, adapter.export)
    only(adapter.change(base_model=other, served_model=served), "Q5")
    only(adapter.change(base_model=other, model=None, served_model=None, declared={}), "Q5")
    undeclared = exports.without(adapter.change(declared={}, served_model=served), "sft_export*")
    assert "Q5" in ids(undeclared)


def test_scored_artefact(merge):
    mine = artefact_hash(merge.export)
    assert look(exports.observe(merge, evaluated_sha256=mine)) == []
    only(exports.observe(merge, evaluated_sha256="0" * 64), "Q6", "WARN")


def test_tied_head(merge, adapter):
    from safetensors.torch import load_file

    tensors = load_file(merge.export / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    both = merge.change(export=exports.copied(merge.export))
    exports.save_tensors(both.export, "model.safetensors", {**tensors, "lm_head.weight": table})
    assert look(both) == [], "stored twice, but equal"
    exports.save_tensors(both.export, "model.safetensors", {**tensors, "lm_head.weight": table * 2})
    assert "two different ones" in only(both, "O12").what
    assert look(exports.edit_json(both, "config.json", tie_word_embeddings=False)) == []
    model = exports.adapted(adapter.base_model, modules_to_save=["embed_tokens", "lm_head"])
    with torch.no_grad():
        model.get_output_embeddings().modules_to_save["default"].weight.mul_(2)
    apart = adapter.change(model=model, export=None, served_model=None)
    only(apart, "O12", "WARN")
    assert "O12" in ids(apart.change(served_model=merge.served_model), "FAIL")


def test_the_manifest(adapter):
    about = json.loads((adapter.export / artefact.MANIFEST).read_text())
    assert about["adapter_sha256"] in artefact.adapter_hashes(adapter.export)
    assert about["base_sha256"] == base_hash(adapter.model)
    assert about["golden"][0]["ids"] == adapter.oracles[0].ids


def test_untouched_restores_after_an_error(adapter):
    adapter.model.train()
    with pytest.raises(RuntimeError), untouched(adapter.model):
        assert not adapter.model.training
        raise RuntimeError
    assert adapter.model.training
    adapter.model.eval()


def test_other_objects_as_models_do_not_raise(record, tmp_path):
    model = torch.nn.Linear(2, 2)
    assert look(record.change(model=model)) == []
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert look(record.change(model=model, export=tmp_path)) == []
