"""Trials: their identity, the store that resumes, adapters of equal size, the sweep."""

import dataclasses
import inspect
import json
import math
import os
import signal
import subprocess
import sys

import pytest
from peft import LoraConfig, get_peft_model

from sft_utils import artifacts
from sft_utils.ablate import ablations, sweeps, trialstore
from sft_utils.ablate.ablations import Trial
from sft_utils.config import PROFILES, get_profile
from sft_utils.errors import ConfigError
from sft_utils.scores import jsonanswers, scoring
from sft_utils.scores.scoring import Score

CONTEXT = {"data": {"curated": "c", "raw": "r", "faults": "f"}, "base_weights": "w", "code": "x"}
OTHER = {"learning_rate": 2e-3, "rank": 8, "alpha": 16.0, "targets": "mlp", "method": "dora", "rows": 9,
         "epochs": 2, "prompt_loss": True, "data": "raw", "seed": 18}  # fmt: skip


def test_every_setting_is_in_the_id():
    assert OTHER.keys() == {f.name for f in dataclasses.fields(Trial)}, "a new field needs a value here"
    ids = {trialstore.trial_id(Trial(), CONTEXT)}
    ids |= {trialstore.trial_id(dataclasses.replace(Trial(), **{k: v}), CONTEXT) for k, v in OTHER.items()}
    assert len(ids) == len(OTHER) + 1


def test_the_id_is_canonical():
    assert Trial(alpha=32, learning_rate=0.001) == Trial(alpha=32.0, learning_rate=1e-3)
    one = trialstore.trial_id(Trial(alpha=32), CONTEXT)
    assert one == trialstore.trial_id(Trial(alpha=32.0), dict(reversed(CONTEXT.items())))


@pytest.mark.parametrize("part", ["base_weights", "code"])
def test_what_surrounds_a_trial_is_in_the_id(part):
    assert trialstore.trial_id(Trial(), CONTEXT) != trialstore.trial_id(Trial(), {**CONTEXT, part: "new"})


def test_only_the_rows_a_trial_uses_count():
    def with_data(**changed):
        return {**CONTEXT, "data": {**CONTEXT["data"], **changed}}

    same = trialstore.trial_id(Trial(), CONTEXT)
    assert trialstore.trial_id(Trial(), with_data(raw="new")) == same
    assert trialstore.trial_id(Trial(), with_data(curated="new")) != same
    raw = Trial(data="raw")
    assert trialstore.trial_id(raw, with_data(raw="new")) != trialstore.trial_id(raw, CONTEXT)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"method": "qalora"}, "method"), ({"targets": "all"}, "targets"), ({"rank": 0}, "rank"),
     ({"method": "full"}, "rank"), ({"alpha": 0}, "alpha"), ({"rows": 0}, "rows"), ({"data": "x"}, "data"),
     ({"epochs": 0}, "epochs"), ({"learning_rate": 0}, "learning_rate"),
     ({"learning_rate": math.nan}, "learning_rate")],
)  # fmt: skip
def test_impossible_trials_are_refused(changes, named):
    with pytest.raises(ConfigError, match=f"{named} = .*must be"):
        Trial(**changes)


def test_the_base_is_one_trial():
    assert ablations.base_trial() == ablations.base_trial()
    assert ablations.base_trial().steps(2) == 0
    assert ablations.base_trial().scale == 0.0


def test_the_scale_stays_when_the_rank_changes():
    for rank in (1, 3, 64):
        assert ablations.at_rank(Trial(), rank).scale == Trial().scale


def test_code_counts_with_what_it_imports(monkeypatch):
    before = trialstore.code_hash([scoring])
    assert trialstore.code_hash([scoring]) == before
    source = inspect.getsource

    def edited(thing):
        return source(thing) + ("# edited" if thing is jsonanswers else "")

    monkeypatch.setattr(trialstore.inspect, "getsource", edited)
    assert trialstore.code_hash([scoring]) != before, "scoring imports jsonanswers"
    monkeypatch.undo()
    assert trialstore.code_hash([scoring], [source]) != before
    assert trialstore.code_hash([scoring], [source]) != trialstore.code_hash([scoring], [math_like])


def math_like():
    """Stands for a function of a notebook."""


SCORES = [Score(parses=True, schema_valid=False, exact=False, tp=3, fp=1, fn=2)] * 2


def made(trial):
    return {"scores": trialstore.pack_scores(SCORES), "curve": [2.0, float("nan")], "seed": trial.seed}


def seeds(n):
    return [dataclasses.replace(Trial(), seed=s) for s in range(n)]


def test_a_trial_that_is_read_is_touched(tmp_path):
    """The runner sees so that a run went on from stored work; trials of other code stay as they are."""
    store = trialstore.Store(folder=tmp_path, context=CONTEXT)
    store.run(seeds(2), made)
    for path in tmp_path.iterdir():
        os.utime(path, ns=(1, 1))
    store.run(seeds(1), made)
    assert store.path(seeds(2)[0]).stat().st_mtime_ns > 1
    assert store.path(seeds(2)[1]).stat().st_mtime_ns == 1


def test_a_finished_trial_costs_nothing(tmp_path):
    store, calls = trialstore.Store(folder=tmp_path, context=CONTEXT), []

    def work(trial):
        calls.append(trial.seed)
        return made(trial)

    told = []
    first = store.run([*seeds(3), Trial(seed=1)], work, done=lambda k, n, r, new: told.append((k, n, new)))
    assert calls == [0, 1, 2], "the same trial is run once"
    assert told == [(1, 4, True), (2, 4, True), (3, 4, True), (4, 4, False)]
    assert store.run(seeds(3), work) == first[:3]
    assert len(calls) == 3
    assert first[0]["curve"] == [2.0, None], "a loss that diverged is stored all the same"
    assert trialstore.unpack_scores(first[0]) == SCORES
    assert [p.stem for p in sorted(tmp_path.iterdir())] == sorted(r["id"] for r in first[:3])


def test_a_broken_or_foreign_file_is_no_result(tmp_path):
    store = trialstore.Store(folder=tmp_path, context=CONTEXT)
    store.run(seeds(1), made)
    path = store.path(Trial(seed=0))
    whole = json.loads(path.read_text())
    for text in ("", path.read_text()[:50], "[]", json.dumps({**whole, "trial": {"seed": 5}})):
        path.write_text(text)
        assert store.get(Trial(seed=0)) is None
        assert store.run(seeds(1), made)[0]["seed"] == 0
    assert store.get(Trial(seed=0)) is not None


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.ablate.test_ablations import CONTEXT, made, seeds
from sft_utils import trialstore

def work(trial):
    if trial.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(trial)

trialstore.Store(folder=Path(sys.argv[1]), context=CONTEXT).run(seeds(5), work)
"""


def test_a_killed_grid_goes_on_where_it_was(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(artifacts.ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment,
                          cwd=artifacts.ROOT, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-500:]
    assert len(list(tmp_path.glob("*.json"))) == 2
    calls = []

    def work(trial):
        calls.append(trial.seed)
        return made(trial)

    store = trialstore.Store(folder=tmp_path, context=CONTEXT)
    assert [r["seed"] for r in store.run(seeds(5), work)] == [0, 1, 2, 3, 4]
    assert calls == [2, 3, 4]


@pytest.mark.parametrize("targets", ablations.TARGETS)
@pytest.mark.parametrize("rank", [1, 5])
def test_the_size_of_an_adapter_is_what_peft_trains(tiny, targets, rank):
    expected = ablations.adapter_size(tiny, targets, rank)
    lora = LoraConfig(r=rank, target_modules=list(ablations.TARGETS[targets]), task_type="CAUSAL_LM")
    assert get_peft_model(tiny, lora).get_nb_trainable_parameters()[0] == expected


def test_all_linear_is_what_peft_calls_so(tiny):
    expected = ablations.adapter_size(tiny, "all-linear", 3)
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    assert get_peft_model(tiny, lora).get_nb_trainable_parameters()[0] == expected


def test_equal_rank_is_the_closest(tiny):
    for budget_rank in range(2, 65):
        budget = ablations.adapter_size(tiny, "all-linear", budget_rank)
        for targets in ablations.TARGETS:
            rank = ablations.equal_rank(tiny, targets, budget)
            size = {r: abs(ablations.adapter_size(tiny, targets, r) - budget) for r in (rank - 1, rank, rank + 1)}
            assert size[rank] == min(size.values())
        assert ablations.equal_rank(tiny, "all-linear", budget) == budget_rank
    with pytest.raises(ConfigError, match="rank 1 on all-linear trains"):
        ablations.equal_rank(tiny, "all-linear", 100)


def test_other_names_of_layers_are_refused(tiny, monkeypatch):
    monkeypatch.setitem(ablations.TARGETS, "mlp", ("c_fc",))
    with pytest.raises(ConfigError, match=r"no layer is called c_fc.*Add them"):
        ablations.adapter_size(tiny, "mlp", 4)


@pytest.mark.parametrize("name", PROFILES)
def test_sizes_fit_together(name):
    size = ablations.sizes(get_profile(name))
    default = ablations.default_trial(size)
    assert default.learning_rate in size.rates
    assert default.rank in size.ranks
    assert size.curve[0] < default.rows, "the smallest set is repeated to the steps of the default"
    assert list(size.curve) == sorted(set(size.curve))
    assert default.rows in size.curve, "the curve shares a trial with the other sections"
    assert default.rows >= size.min_steps * size.batch_size, "one pass of the default is long enough"
    for method, _ in size.methods:
        assert method in ablations.METHODS


# --- the sweep


def cpu_grid():
    size = ablations.sizes(get_profile("cpu"))
    default = ablations.default_trial(size)
    return default, size, sweeps.sweep_definition(default, size.rates, size.ranks)


def test_the_sweep_file_is_the_grid_of_the_notebook():
    default, size, definition = cpu_grid()
    text = (artifacts.ROOT / sweeps.SWEEP).read_text(encoding="utf-8")
    assert text == sweeps.sweep_text(definition), "run: python -m sft_utils.ablate.sweeps"
    import yaml

    configs = sweeps.sweep_configs(yaml.safe_load(text))
    trials = [sweeps.sweep_trial(config, default) for config in configs]
    grid = ablations.grid(default, size.rates, size.ranks)
    assert len(trials) == len(grid) == len(size.rates) * len(size.ranks)
    ids = {trialstore.trial_id(t, CONTEXT) for t in trials}
    assert ids == {trialstore.trial_id(t, CONTEXT) for t in grid}


def test_the_sweep_has_the_form_that_wandb_reads():
    _, _, definition = cpu_grid()
    assert definition["method"] == "grid"
    assert definition["metric"] == {"name": "field_f1", "goal": "maximize"}
    for spec in definition["parameters"].values():
        assert set(spec) in ({"value"}, {"values"})
    assert "alpha" not in definition["parameters"], "it follows from the rank"


def test_sweeps_that_need_a_server_are_refused():
    default, _, definition = cpu_grid()
    with pytest.raises(ConfigError, match="'bayes' asks W&B's server"):
        sweeps.sweep_configs({**definition, "method": "bayes"})
    with pytest.raises(ConfigError, match="'lr' is no field"):
        sweeps.sweep_trial({"lr": 0.1}, default)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": {"min": 2, "max": 16}}, "'rank': a grid needs `value`, or a list `values`; it has"),
        ({"rank": {"values": 4}}, "'rank': a grid needs `value`"),
        ({"rank": 4}, "'rank': a grid needs `value`.*it has neither"),
    ],
)
def test_a_sweep_file_that_was_edited_wrongly_is_named(change, said):
    _, _, definition = cpu_grid()
    with pytest.raises(ConfigError, match=said):
        sweeps.sweep_configs({**definition, "parameters": {**definition["parameters"], **change}})
    with pytest.raises(ConfigError, match="a sweep needs `parameters`"):
        sweeps.sweep_configs({"method": "grid"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 2.5), ("rows", "32"), ("prompt_loss", "false"), ("rank", True), ("learning_rate", "x")],
)
def test_a_sweep_value_of_another_type_is_not_trained_as_something_else(name, value):
    """A rank of 2.5 was trained as 2, and a quoted false as true."""
    default, _, _ = cpu_grid()
    with pytest.raises(ConfigError, match=f"sweep parameter '{name}' = .* is no "):
        sweeps.sweep_trial({name: value}, default)
    assert sweeps.sweep_trial({"learning_rate": "2e-3"}, default).learning_rate == 2e-3  # YAML's text


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_the_scale_is_the_one_that_peft_uses(tiny, method):
    trial = Trial(rank=9, alpha=18, method=method)
    model = get_peft_model(tiny, LoraConfig(
        r=trial.rank, lora_alpha=trial.alpha, use_rslora=method == "rslora", use_dora=method == "dora",
        target_modules="all-linear", task_type="CAUSAL_LM",
    ))  # fmt: skip
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    assert layer.scaling["default"] == pytest.approx(trial.scale)


def test_the_exercises_can_be_solved():
    """The checkers of 08 accept a right solution and refuse what is in the notebook."""
    text = (artifacts.ROOT / "notebooks/src/08_ablations.py").read_text(encoding="utf-8")
    cell = next(c for c in text.split("# %%\n") if c.startswith("def undecided"))
    cell = cell.split("# %% [markdown]")[0]
    told = []
    exec(cell, {"print": lambda *words: told.append(words[0])})
    assert told.count("not solved yet") == 2
    solved = cell.replace("[False for _ in intervals]", "[low <= 0 and high >= margin for low, high in intervals]")
    solved = solved.replace("return 0  #", "return round(budget / sum(i + o for i, o in layers))  #")
    told.clear()
    exec(solved, {"print": lambda *words: told.append(words[0])})
    assert told.count("solved") == 2
