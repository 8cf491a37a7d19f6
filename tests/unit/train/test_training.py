"""Promotion by task metric, resuming, and a disk that fills up."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sft_utils import artifacts
from sft_utils.errors import ConfigError, StorageError
from sft_utils.train import checkpoints, training
from sft_utils.train.training import Candidate, choose


def candidate(step, task, forgetting=0.0, full=True):
    return Candidate(step=step, full=full, task=task, forgetting=forgetting)


def test_best_task_not_last():
    history = [candidate(10, 0.7), candidate(20, 0.9), candidate(30, 0.8)]
    assert choose(history, budget=1.0).step == 20


def test_budget_excludes():
    history = [candidate(10, 0.7, 0.1), candidate(20, 0.9, 0.6)]
    assert choose(history, budget=0.5).step == 10
    with pytest.raises(ConfigError, match="least: 0.100 at step 10; 2 scored fully"):
        choose(history, budget=0.05)


def test_ties_go_to_the_earlier_and_quick_ones_do_not_compete():
    history = [candidate(5, 1.0, full=False), candidate(10, 0.9), candidate(20, 0.9)]
    assert choose(history, budget=1.0).step == 10


class Model:
    training = True

    def eval(self):
        self.training = False

    def train(self, mode=True):
        self.training = mode

    def save_pretrained(self, path):
        path.mkdir(parents=True, exist_ok=True)


class State:
    max_steps = 100

    def __init__(self, step):
        self.global_step = step


class Control:
    should_training_stop = False


def test_progress_leaves_out_the_step_that_warms_everything_up(tmp_path, monkeypatch):
    """A resumed run starts late; pace and median are those of the steps made here."""
    ends = iter([100.0, 102.0, 104.0, 116.0])  # the first step took 60 s, the last had company
    monkeypatch.setattr(training.time, "monotonic", lambda: next(ends))
    steps = training.Progress(tmp_path / "p.json")
    assert steps.median_s() == 0.0
    for step, eta in ((50, 0.0), (51, 2.0 * 4), (52, 2.0 * 3), (53, 16 / 3 * 2)):
        state = types.SimpleNamespace(global_step=step, max_steps=55)
        steps.on_step_end(None, state, None)
        assert json.loads((tmp_path / "p.json").read_text())["eta_s"] == pytest.approx(eta, abs=0.1)
    assert steps.median_s() == 2.0


def test_gate_scores_keeps_and_stops_early(tmp_path):
    tasks = iter([0.5, 0.6, 0.6, 0.55, 0.7])
    gate = training.TaskGate(
        lambda m, full: {"task": next(tasks), "forgetting": 0.0}, tmp_path, every=10, patience=2
    )
    model, control = Model(), Control()
    for step in (10, 15, 20, 30):
        gate.on_step_end(None, State(step), control, model=model)
        assert not control.should_training_stop
    gate.on_step_end(None, State(40), control, model=model)
    assert control.should_training_stop
    assert model.training, "the mode of the model is restored"
    gate.on_epoch_end(None, State(40), control, model=model)
    assert [c.step for c in gate.history] == [10, 20, 30, 40, 40]
    assert gate.adapter_dir(20).is_dir()
    assert len(json.loads(gate.history_file.read_text())) == 5


def test_history_continues_after_a_kill(tmp_path):
    gate = training.TaskGate(lambda m, full: {"task": 0.5, "forgetting": 0.0}, tmp_path, every=10)
    for step in (10, 20, 30):
        gate.on_step_end(None, State(step), Control(), model=Model())
    resumed = training.TaskGate(None, tmp_path, every=10)
    resumed.on_train_begin(None, State(20), Control())
    assert [c.step for c in resumed.history] == [10, 20]


def test_a_run_that_is_finished_twice_has_scored_the_same_states(tmp_path):
    """Killed after its promotion: the second finish took the next best state besides."""
    task = {10: 0.9, 20: 0.8, 30: 0.5}

    def made():
        at = types.SimpleNamespace(step=0)
        gate = training.TaskGate(lambda m, full: {"task": task[at.step], "forgetting": 0.0},
                                 tmp_path, every=10)  # fmt: skip
        return gate, at, lambda model, folder: setattr(at, "step", int(folder.name[-5:]))

    gate, at, load = made()
    for at.step in (10, 20):
        gate.on_step_end(None, State(at.step), Control(), model=Model())
    at.step = 30
    gate.finish(Model(), 30, load)
    assert [(c.step, c.full) for c in gate.history] == [(10, False), (20, False), (30, True), (10, True)]
    again, at, load = made()
    again.on_train_begin(None, State(30), Control(), model=Model())
    at.step = 30
    again.finish(Model(), 30, load)
    assert again.history == gate.history


def test_a_run_that_had_stopped_early_is_not_trained_on(tmp_path):
    """It was killed while its end was scored; an undisturbed run makes no further step."""
    scores = {"task": 0.5, "forgetting": 0.0}
    settings = {"every": 2, "patience": 2}
    gate = training.TaskGate(lambda m, full: scores, tmp_path / "gate", **settings)
    for step in (2, 4, 6):
        gate.on_step_end(None, State(step), Control(), model=Model())

    class Resumed(FinishingTrainer):
        args, control, ended = None, Control(), 0

        def train(self, resume_from_checkpoint=None):
            gate.on_train_begin(self.args, self.state, self.control, model=Model())
            raise AssertionError("a step too many")

        @property
        def callback_handler(self):
            return self

        def on_train_end(self, *_):
            self.ended += 1

    gate = training.TaskGate(lambda m, full: scores, tmp_path / "gate", **settings)
    trainer = Resumed()
    trainer.state = State(6)
    training.train_resumable(trainer, tmp_path / "run", {"rate": 1})
    assert [(c.step, c.full) for c in gate.history] == [(2, False), (4, False), (6, False),
                                                        (6, True)]  # fmt: skip
    assert trainer.ended == 1


def test_the_end_is_scored_even_if_the_trainer_did_not_announce_it(tmp_path):
    """A run killed during its last evaluation resumes behind the end of the epoch."""
    gate = training.TaskGate(lambda m, full: {"task": 0.5, "forgetting": 0.0}, tmp_path, every=10)
    gate.on_step_end(None, State(10), Control(), model=Model())
    gate.finish(Model(), 20, lambda model, path: None)
    assert (20, True) in [(c.step, c.full) for c in gate.history]
    assert (10, True) in [(c.step, c.full) for c in gate.history], "the best quick state competes"


def test_the_best_quick_state_inside_the_budget_competes(tmp_path):
    """A state with a higher score that forgets too much must not take its place."""
    seen = iter([(0.90, 0.60), (0.88, 0.30), (0.85, 0.55), (0.86, 0.56), (0.87, 0.31)])
    gate = training.TaskGate(
        lambda m, full: dict(zip(("task", "forgetting"), next(seen), strict=True)),
        tmp_path, every=10,
    )  # fmt: skip
    for step in (10, 20, 30):
        gate.on_step_end(None, State(step), Control(), model=Model())
    gate.finish(Model(), 35, lambda model, path: None, budget=0.5)
    assert training.choose(gate.history, budget=0.5).step == 20


def test_what_no_state_keeps_is_named_with_the_least(tmp_path):
    quick = training.Candidate(step=10, full=False, task=0.5, forgetting=0.7)
    full = training.Candidate(step=20, full=True, task=0.6, forgetting=0.9)
    with pytest.raises(ConfigError, match=r"0.700 at step 10; 1 scored fully, 1 quickly"):
        training.choose([quick, full], budget=0.5)


def test_divergence_is_named(tmp_path):
    gate = training.TaskGate(
        lambda m, full: {"task": 0.0, "forgetting": float("nan")}, tmp_path, every=1
    )
    with pytest.raises(ConfigError, match="diverged: at step 1"):
        gate.on_step_end(None, State(1), Control(), model=Model())


class FinishingTrainer:
    state = State(3)

    def __init__(self):
        self.resumed = []

    def train(self, resume_from_checkpoint=None):
        self.resumed.append(resume_from_checkpoint)


def test_only_the_same_run_of_a_notebook_that_was_killed_is_continued(tmp_path, monkeypatch):
    def saved():
        checkpoint = tmp_path / "checkpoint-2"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "trainer_state.json").write_text("{}")

    def another_process():
        monkeypatch.setattr(training, "_ENDED_HERE", set())

    trainer = FinishingTrainer()
    assert training.train_resumable(trainer, tmp_path, {"rate": 1}) == 0
    saved()
    another_process()
    assert training.train_resumable(trainer, tmp_path, {"rate": 1}) == 2, "killed while it scored"
    assert training.train_resumable(trainer, tmp_path, {"rate": 1}) == 0, "the cell was run again"
    saved()
    another_process()
    assert training.train_resumable(trainer, tmp_path, {"rate": 2}) == 0, "another run"
    saved()
    another_process()
    (tmp_path / training.COMPLETE).write_text("{}")
    assert training.train_resumable(trainer, tmp_path, {"rate": 2}) == 0, "the notebook has ended"
    assert not (tmp_path / training.COMPLETE).exists()


@dataclasses.dataclass
class Settings:
    """Of a trainer, as far as the tests change them; `output_dir` is always an absolute path."""

    output_dir: str
    weight_decay: float = 0.0
    logging_steps: int = 1
    save_steps: int = 2
    run_name: str = "now"
    dataloader_num_workers: int = 0
    model_init_kwargs: dict | None = None


@dataclasses.dataclass
class Adapter:
    lora_alpha: int = 16
    target_modules: set = dataclasses.field(default_factory=lambda: {"q_proj", "v_proj", "o_proj"})
    base_model_name_or_path: str = ""


class SetUpTrainer(FinishingTrainer):
    """Settings, an adapter and rows, given as changes."""

    def __init__(self, folder, settings=None, adapter=None, rows=None):
        from datasets import Dataset

        super().__init__()
        self.args = Settings(output_dir=str(folder), **(settings or {}))
        self.model = types.SimpleNamespace(
            peft_config={"default": Adapter(**(adapter or {}))},
            parameters=lambda: (),
        )
        rows = rows or [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "note": "a"}]
        self.train_dataset = Dataset.from_list(rows)


ROW = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "note": "a"}


@pytest.mark.parametrize(
    ("changed", "began"),
    [
        ({}, 2),
        ({"settings": {"weight_decay": 0.1}}, 0),
        ({"settings": {"model_init_kwargs": {"dtype": "float16"}}}, 0),
        ({"adapter": {"lora_alpha": 64}}, 0),
        ({"adapter": {"target_modules": {"q_proj"}}}, 0),
        ({"rows": [ROW | {"labels": [-100, -100, 7]}]}, 0),
        ({"rows": [ROW, ROW]}, 0),
        # What decides no weight, or is otherwise in each process.
        ({"settings": {"logging_steps": 5, "save_steps": 1, "run_name": "later"}}, 2),
        ({"settings": {"dataloader_num_workers": 2}}, 2),
        ({"adapter": {"base_model_name_or_path": "/tmp/xyz"}}, 2),
        ({"rows": [ROW | {"note": "b"}]}, 2),
    ],
)
def test_a_run_with_other_settings_adapter_or_rows_is_not_continued(tmp_path, changed, began):
    """A cell edited in an open notebook is in no file, so no run id knows of it."""
    training.train_resumable(SetUpTrainer(tmp_path), tmp_path, {"rate": 1})
    training._ENDED_HERE.clear()  # as after a kill
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert training.train_resumable(SetUpTrainer(tmp_path, **changed), tmp_path, {"rate": 1}) == began


RECIPE = """
import dataclasses, sys
from types import SimpleNamespace
from sft_utils.train.checkpoints import recipe

@dataclasses.dataclass
class Adapter:
    target_modules: set
    base_model_name_or_path: str

args = SimpleNamespace(output_dir=sys.argv[1], anything=object(), kwargs={"cache": sys.argv[1]})
lora = Adapter({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}, sys.argv[1])
print(recipe(SimpleNamespace(args=args, model=SimpleNamespace(peft_config={"default": lora}))))
"""


def test_the_recipe_is_the_same_in_every_process(tmp_path):
    """Sets have another order, objects other addresses, folders other names: a resume goes on.

    With real settings and adapters: tests/smoke/test_training_process.py.
    """
    said = set()
    for seed in "1234":
        done = subprocess.run(
            [sys.executable, "-c", RECIPE, str(tmp_path / seed)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        said.add(done.stdout)
    assert len(said) == 1
    assert "adapter" in said.pop()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    precious = tmp_path / "my_adapter.safetensors"
    precious.write_text("weights")
    with pytest.raises(ConfigError, match=r"my_adapter\.safetensors.*identity\.json.*empty folder"):
        training.train_resumable(FinishingTrainer(), tmp_path, {"rate": 1})
    assert precious.read_text() == "weights"
    precious.rename(tmp_path / ".part-0")  # what a killed write of ours leaves behind
    training.train_resumable(FinishingTrainer(), tmp_path, {"rate": 1})


def test_clearing_that_is_killed_can_be_repeated(tmp_path, monkeypatch):
    """The marks go last: without them the rest would look like somebody else's."""
    training.train_resumable(FinishingTrainer(), tmp_path, {"rate": 1})
    (tmp_path / "checkpoint-2").mkdir()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train_resumable(FinishingTrainer(), tmp_path, {"rate": 2})
    assert (tmp_path / "identity.json").exists()
    assert training.train_resumable(FinishingTrainer(), tmp_path, {"rate": 2}) == 0


def test_checkpoints_with_a_name_of_somebody_else(tmp_path):
    for name in ("checkpoint-best", "checkpoint-5", "checkpoint-5-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert training.last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert (tmp_path / "checkpoint-best").is_dir()


def test_half_written_checkpoints_are_removed(tmp_path):
    whole, half = tmp_path / "checkpoint-5", tmp_path / "checkpoint-10"
    whole.mkdir()
    half.mkdir()
    (whole / "trainer_state.json").write_text("{}")
    (half / "trainer_state.json").write_text('{"global')
    assert training.last_checkpoint(tmp_path) == whole
    assert not half.exists()
    assert training.last_checkpoint(tmp_path / "nothing") is None


class FailingTrainer:
    def __init__(self, error):
        self.error = error

    def train(self, resume_from_checkpoint=None):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("IoError: No space left on device")],
)
def test_full_disk_has_a_clear_error(tmp_path, error):
    with pytest.raises(StorageError, match=r"cannot write .*No space left.*Free some space"):
        training.train_resumable(FailingTrainer(error), tmp_path, {})
    assert not (tmp_path / training.COMPLETE).exists()


def test_other_errors_are_not_renamed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        training.train_resumable(FailingTrainer(ZeroDivisionError("x")), tmp_path, {})


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    """The kernel refuses the write (file size limit); the older version stays whole."""
    path = tmp_path / "result.json"
    artifacts.write_json(path, {"old": True})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"result.json: File too large"):
            artifacts.write_json(path, {"new": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert artifacts.read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.fixture
def built(tokenizer):
    """Makes a TRL trainer of a tiny model with an adapter; five rows, so three steps an epoch."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": list(range(5, 15 + k)), "labels": [-100] * 4 + list(range(9, 15 + k))}
            for k in range(5)]  # fmt: skip

    def make(folder, steps, *callbacks, **options):
        torch.manual_seed(0)
        model = get_peft_model(
            LlamaForCausalLM(LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, eos_token_id=2, pad_token_id=0, bos_token_id=1,
            )),
            LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1, task_type="CAUSAL_LM"),
        )  # fmt: skip
        config = SFTConfig(**{
            "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 2,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_steps": 2, "logging_steps": 1,
            "seed": 5, "data_seed": 5, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "report_to": "none", "disable_tqdm": True, "max_length": 100, **options,
        })  # fmt: skip
        return SFTTrainer(model, config, train_dataset=Dataset.from_list(rows),
                          processing_class=tokenizer, callbacks=list(callbacks))  # fmt: skip

    return make


def adapter_of(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def same(one, two):
    return one.keys() == two.keys() and all(one[n].equal(two[n]) for n in one)


@pytest.mark.parametrize("steps", [4, 6])  # inside an epoch, and at the end of one
def test_a_run_killed_after_its_last_step_makes_no_further_one(built, tmp_path, steps):
    """transformers trains one more where the end lies inside an epoch."""
    first = built(tmp_path, steps)
    training.train_resumable(first, tmp_path, {"rate": 1})
    training._ENDED_HERE.clear()  # killed while its end was scored
    again = built(tmp_path, steps)
    assert training.train_resumable(again, tmp_path, {"rate": 1}) == steps
    assert again.state.global_step == steps
    assert same(adapter_of(again), adapter_of(first))


def test_an_identity_with_tuples_is_continued(tmp_path):
    """Its file holds a list: compared with that, the run was cleared and began again each time."""
    identity = {"layers": (1, 2), "rates": {1: 0.5}}
    training.train_resumable(SetUpTrainer(tmp_path), tmp_path, identity)
    training._ENDED_HERE.clear()  # as after a kill
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert training.train_resumable(SetUpTrainer(tmp_path), tmp_path, identity) == 2


@pytest.mark.parametrize("value", [Path("rows.jsonl"), {1}, float("nan")])
def test_an_identity_that_cannot_be_stored_clears_nothing(tmp_path, value):
    training.train_resumable(SetUpTrainer(tmp_path), tmp_path, {"rate": 1})
    training._ENDED_HERE.clear()
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ConfigError, match="identity of a training cannot be stored"):
        training.train_resumable(SetUpTrainer(tmp_path), tmp_path, {"rate": 1, "data": value})
    assert (tmp_path / "checkpoint-2").is_dir()


def test_a_trainer_that_writes_elsewhere_is_refused(tmp_path):
    """Its checkpoints were never found: after a kill it began at step 0 without a word."""
    with pytest.raises(ConfigError, match=r"writes its checkpoints to .*other, .* continued from"):
        training.train_resumable(SetUpTrainer(tmp_path / "other"), tmp_path / "run", {"rate": 1})


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_scores_of_other_libraries_are_numbers(tmp_path, kind):
    """They were computed, and then could not be stored: an error in the middle of a training."""
    import numpy
    import torch

    value = numpy.float32(0.5) if kind == "numpy" else torch.tensor(0.5)
    scores = {"task": value, "forgetting": value}
    gate = training.TaskGate(lambda model, full: scores, tmp_path, every=1)
    gate.on_epoch_end(None, State(1), Control(), model=Model())
    assert json.loads(gate.history_file.read_text())[0]["task"] == 0.5


@pytest.mark.parametrize("found", [{"task": 0.5}, {"task": 0.5, "forgetting": 0.0, "f1": 0.5}])
def test_other_scores_than_the_two_are_named(tmp_path, found):
    gate = training.TaskGate(lambda model, full: found, tmp_path, every=1)
    with pytest.raises(ConfigError, match="returned .*'task'.*, expected 'task' and 'forgetting'"):
        gate.on_epoch_end(None, State(1), Control(), model=Model())


def test_a_gate_needs_a_number_of_steps(tmp_path):
    with pytest.raises(ConfigError, match="every = 0"):
        training.TaskGate(lambda model, full: {}, tmp_path, every=0)
