"""The run file, the command and the judgement of what ranks report; nothing is started here."""

import dataclasses
import json
import os
import shlex
from pathlib import Path

import pytest

from sft_utils.config import get_profile
from sft_utils.cot import reasoning
from sft_utils.errors import ConfigError, DataError, LaunchError
from sft_utils.masks import masking
from sft_utils.ranks import launching, rankresult, rankrun, ranktrain, sharded
from sft_utils.ranks.rankreport import Report
from sft_utils.ranks.rankrun import RankRun

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "notebooks" / "cluster"


def run(folder="f", **changes):
    known = {"strategy": "ddp", "world_size": 2, "rows": "rows.jsonl", "model": "m"}
    return RankRun(folder=str(folder), **(known | changes))


def test_rows_per_update_do_not_depend_on_the_ranks():
    arms = [run(strategy="single", world_size=1), run(), run(world_size=4), run(batch_size=2)]
    assert [a.accumulation for a in arms] == [4, 2, 1, 1]
    assert {a.accumulation * a.world_size * a.batch_size for a in arms} == {4}
    assert [arms[0].steps(n) for n in (4, 5, 45)] == [1, 2, 12]


@pytest.mark.parametrize(("changes", "says"), [
    ({"world_size": 3}, "no multiple of 3 ranks"),
    ({"batch_size": 3}, "no multiple of 2 ranks x batch_size 3 = 6"),
    ({"world_size": 1}, "'ddp' with world_size = 1"),
    ({"strategy": "single"}, "'single' with world_size = 2"),
    ({"engine": "torch"}, "engine 'torch' is for strategy 'fsdp2'"),
    ({"strategy": "fsdp2", "engine": "torch", "token_mean": "per rank"}, "only the trainer"),
    ({"threads": 0}, "at least 1"),
])  # fmt: skip
def test_a_run_that_cannot_work_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        run(**changes)


@pytest.mark.parametrize("profile", sorted(rankrun.SIZES))
def test_the_rank_is_killed_between_a_complete_checkpoint_and_the_end(profile):
    """A step is reported before it is saved: killed in that moment, there was nothing to go on from."""
    sizes = rankrun.SIZES[profile]
    steps = -(-sizes.rows // 4)  # rows per update of two ranks
    assert sizes.save_steps < sizes.kill_step <= steps - 2
    assert sizes.rows % 4, "the last batch must not be even"


def gpus(monkeypatch, n):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


def test_one_gpu_has_the_sizes_of_the_cpu_that_proves(monkeypatch):
    gpus(monkeypatch, 1)
    for name in ("gpu-16gb", "gpu-24gb", "gpu-80gb"):
        assert rankrun.sizes(get_profile(name)) == rankrun.SIZES["cpu"]
    for n in (2, 8, 16):
        gpus(monkeypatch, n)
        size = rankrun.sizes(get_profile("multi-gpu"))
        assert size == rankrun.SIZES["gpu"]
        assert size.kill_step <= -(-size.rows // (2 * n)) - 2
    gpus(monkeypatch, 32)
    with pytest.raises(ConfigError, match="use fewer GPUs"):
        rankrun.sizes(get_profile("multi-gpu"))


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("2,3", "2"), ("GPU-1f", "GPU-1f")])
def test_a_single_process_sees_one_gpu_and_ranks_on_a_cpu_see_none(monkeypatch, visible, first):
    """Two would be nn.DataParallel: not the single rank that the others are compared with."""
    seen = []
    monkeypatch.setattr(launching.subprocess, "Popen", lambda command, env, **_: seen.append(env))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    single = run(strategy="single", world_size=1, device="cuda")
    for one in (single, run(device="cuda"), dataclasses.replace(single, device="cpu")):
        launching._start(["true"], one, None)
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in seen] == [first, visible, ""]


def test_the_rows_exist():
    found = reasoning.read(train_rows=10_000, test_rows=0, seed=17, max_difficulty=1)
    assert len(found.train) == rankrun.MOST_ROWS // 2
    assert max(size.rows for size in rankrun.SIZES.values()) <= rankrun.MOST_ROWS


@pytest.mark.parametrize("rows", [1, 20, 28, 313, 1001, -5])
def test_rows_that_cannot_show_it_are_refused_at_once(rows):
    with pytest.raises(ConfigError, match=rf"rows = {rows}: 04 needs 29 to 312 at profile 'cpu'"):
        rankrun.sizes(get_profile("cpu"), rows=rows)


def test_rows_of_the_reader_replace_those_of_the_profile():
    assert rankrun.sizes(get_profile("cpu"), 29) == dataclasses.replace(rankrun.SIZES["cpu"], rows=29)
    assert rankrun.sizes(get_profile("smoke"), rows=13) == rankrun.SIZES["smoke"]


def test_written_and_read(tmp_path):
    asked = run(tmp_path / "arm", seed=3)
    assert rankrun.read(asked.write()) == asked
    assert asked.name == "arm"
    (tmp_path / "bad.json").write_text('{"folder": "f", "ranks": 2}')
    with pytest.raises(ConfigError, match=r"bad.json is no run of ranks.*ranks"):
        rankrun.read(tmp_path / "bad.json")


def test_identity_ignores_where_the_run_is():
    assert run("a").identity() == run("b", timeout_s=5).identity() != run("a", seed=3).identity()


def test_a_checkpoint_belongs_to_its_rows():
    """As many rows and labels in another order were trained on from the old checkpoint."""
    one, two = ({"input_ids": [k, 6], "labels": [-100, 6]} for k in (4, 5))
    identities = [ranktrain.identity_of(run(), rows) for rows in ([one, two], [two, one], [one, one])]
    assert identities[0] != identities[1] != identities[2] != identities[0]
    assert ranktrain.identity_of(run(rows="moved.jsonl"), [one, two]) == identities[0]


def test_a_wrong_start_is_told_in_words():
    asked = run(strategy="fsdp2")
    told = {"rank": 1, "world_size": 2}
    assert rankrun.mismatch(asked, told) == "", "not judged before it has reported"
    assert "2 processes were asked for, 1 runs" in rankrun.mismatch(asked, {**told, "world_size": 1})
    assert "3 run:" in rankrun.mismatch(asked, {**told, "world_size": 3})
    plain = rankrun.mismatch(asked, {**told, "strategy": "ddp", "evidence": "whole parameters"})
    assert "'fsdp2' was asked for, 'ddp' is in force on rank 1: whole parameters" in plain
    whole = {**told, "strategy": "fsdp2", "held_share": 1.0}
    assert "nothing is sharded" in rankrun.mismatch(asked, whole)
    assert rankrun.mismatch(asked, {**whole, "held_share": 0.5}) == ""


def test_a_rank_that_is_not_what_was_asked_for_stops_itself(tmp_path):
    with pytest.raises(LaunchError, match="1 runs"):
        Report(run(tmp_path), 0, 1)
    assert rankrun.reported(tmp_path)[0]["world_size"] == 1, "the launcher can read why"


def test_events_after_the_checkpoint_are_forgotten(tmp_path):
    report = Report(run(tmp_path), 1, 2)
    for step in (1, 2, 3):
        report.trained([step], 10, 4)
        report.step(step, 1.0 / step)
    with rankrun.events_file(tmp_path, 1).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    again = Report(run(tmp_path), 1, 2)
    again.resume(2)
    again.trained([7], 9, 3)
    again.step(3, 0.5)
    lines = [json.loads(x) for x in rankrun.events_file(tmp_path, 1).read_text().splitlines()]
    assert [(e["step"], e["rows"], e["tokens"], e["supervised"]) for e in lines] == [
        (1, [1], 10, 4), (2, [2], 10, 4), (3, [7], 9, 3),
    ]  # fmt: skip


def test_a_loss_that_is_no_number_is_no_result(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n{}\n")
    one = run(tmp_path, strategy="single", world_size=1, rows=str(tmp_path / "rows.jsonl"), global_batch=1,
              batch_size=1)
    assert ranktrain.trainer_arguments(one, 2).logging_nan_inf_filter is False, "else NaN is logged as 0.0"
    report = Report(one, 0, 1)
    for step, loss in ((1, 2.0), (2, float("nan"))):
        report.trained([step], 10, 4)
        report.step(step, loss)
    report.finish()
    with pytest.raises(LaunchError, match="the loss of step 2 is not finite"):
        rankresult.collect(one, 1.0)


def test_only_own_writes_count(tmp_path):
    report, arm = Report(run(tmp_path / "arm"), 0, 2), tmp_path / "arm"
    for path, mode, flags in [
        (arm / "adapter/adapter_config.json", "w", 0), (tmp_path / "elsewhere", "w", 0),
        (arm / "run.json", "r", os.O_RDONLY), (arm / "rank-0.jsonl", "a", 0), (3, "w", 0),
        (str(arm / "state.pt"), None, os.O_WRONLY | os.O_CREAT),
    ]:  # fmt: skip
        report._audit("open", (path, mode, flags))
    report._audit("import", ("json",))
    report.finish()
    assert rankrun.reported(tmp_path / "arm")[0]["wrote"] == ["adapter/adapter_config.json", "state.pt"]


@pytest.mark.parametrize(("n", "ranks", "size", "total"), [(45, 2, 1, 4), (9, 2, 1, 4), (7, 2, 2, 8), (8, 4, 1, 8)])
def test_rows_are_dealt_as_accelerate_deals_them(n, ranks, size, total):
    """The loop of `sharded` and the trainer's loader give a rank the same rows in the same steps."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    asked = run(world_size=ranks, batch_size=size, global_batch=total)
    row = {"input_ids": [1, 2], "labels": [-100, 2]}
    _, numbers = ranktrain.fill([row] * n, ranks * size, 0)
    assert len(numbers) % (ranks * size) == 0
    seen = []
    for rank in range(ranks):
        ours = [b for s in range(asked.steps(n)) for b in sharded.micro_batches(asked, numbers, rank, s)]
        theirs = BatchSamplerShard(BatchSampler(range(len(numbers)), size, False), ranks, rank)
        assert ours == [[numbers[i] for i in batch] for batch in theirs]
        seen += [i for b in ours for i in b if i != rankrun.EMPTY]
    assert sorted(seen) == list(range(n))


def test_without_fillers_rows_would_repeat():
    """If this fails, accelerate has changed and 04 must say something else."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    dealt = [i for r in (0, 1) for b in BatchSamplerShard(BatchSampler(range(5), 1, False), 2, r) for i in b]
    assert sorted(dealt) == [0, 0, 1, 2, 3, 4]


def test_the_loss_is_a_sum_over_supervised_tokens(tiny):
    """Over a padded batch with gaps between answers, and nothing for a filler."""
    import torch

    rows = [
        {"input_ids": [5, 6, 7, 8, 9, 4], "labels": [-100, 6, -100, -100, 9, 4]},
        {"input_ids": [3, 8, 2], "labels": [-100, -100, 2]},
    ]
    expected = 0.0
    for row in rows:
        logits = tiny(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for at, label in enumerate(row["labels"]):
            if label != masking.IGNORE:
                expected -= logits[at - 1, label].item()
    found = sharded.nll_sum(tiny, masking.collate(rows, 0))
    assert found.item() == pytest.approx(expected, abs=1e-4)
    filler, _ = ranktrain.fill(rows[:1], 2, pad_id=0)
    nothing = sharded.nll_sum(tiny, masking.collate(filler[1:], 0))
    assert nothing.item() == 0.0
    nothing.backward()  # the other ranks wait for its gradients
    assert all(p.grad is not None for p in tiny.parameters())


def test_rows_that_cannot_be_trained_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input_ids": [1, 2], "labels": [-100, 2]}\n{"input_ids": [1], "labels": []}\n')
    with pytest.raises(DataError, match="rows.jsonl, line 2"):
        ranktrain.read_rows(path)


def test_another_run_clears_the_folder_and_the_same_one_continues(tmp_path):
    asked = run(tmp_path)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert ranktrain.start_point(asked, {"seed": 1}) == "", "of unknown origin"
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-6").mkdir()  # killed while saving
    assert ranktrain.start_point(asked, {"seed": 1}).endswith("checkpoint-4")
    assert not (tmp_path / "checkpoint-6").exists()
    (tmp_path / ranktrain.COMPLETE).write_text("{}")
    assert ranktrain.start_point(asked, {"seed": 1}) == "", "finished: from the start again"


OWN_LOG = """[E] failed (exitcode: -9) local_rank: 1 (pid: 12)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:00:00
  host      : machine
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
Other Failures:
[1]:
  time      : 2026-11-21_10:00:00
  host      : machine
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 12)
  error_file: <N/A>
"""


def test_the_rank_that_died_first_is_blamed(tmp_path):
    """torchrun named rank 0, which only lost its partner."""
    asked = run(tmp_path)
    (tmp_path / rankresult.LOG).write_text(OWN_LOG)
    survivor = Report(asked, 0, 2)
    survivor.step(3, 1.0)
    survivor.event({"error": "RuntimeError: Connection closed by peer", "time": 5.0})
    victim = Report(asked, 1, 2)
    victim.step(3, 1.0)
    said = rankresult.obituary(asked, 1, 7.0)
    assert "rank 1 of 2 was ended by SIGKILL after step 3, 7 s after the start" in said
    (tmp_path / rankresult.LOG).write_text(OWN_LOG.replace("-9", "1"))
    victim.event({"error": "ValueError: the real reason", "time": 4.0})
    said = rankresult.obituary(asked, 1, 7.0)
    assert "rank 1 of 2 failed, exit code 1" in said
    assert "ValueError: the real reason" in said
    (tmp_path / rankresult.LOG).write_text("no such option\n")
    assert "the launcher failed, exit code 2" in rankresult.obituary(asked, 2, 1.0)
    assert "no such option" in rankresult.obituary(asked, 2, 1.0)


ENDED_BY_TORCHRUN = """Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 11)  (SIGTERM)
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 12)
"""


@pytest.mark.parametrize(("code", "said"), [(-9, "was ended by SIGKILL"), (1, "failed, exit code 1")])
def test_a_survivor_that_torchrun_ended_is_not_blamed(tmp_path, code, said):
    """It may have had no time to notice the loss of its partner and raise an error."""
    asked = run(tmp_path)
    (tmp_path / rankresult.LOG).write_text(ENDED_BY_TORCHRUN.format(code=code))
    if code > 0:
        Report(asked, 1, 2).event({"error": "ValueError: the real reason", "time": 4.0})
    assert f"rank 1 of 2 {said}" in rankresult.obituary(asked, 1, 7.0)
    (tmp_path / rankresult.LOG).write_text(ENDED_BY_TORCHRUN.format(code=-15))
    assert "of 2 was ended by SIGTERM" in rankresult.obituary(asked, 1, 7.0), "somebody ended them all"


def command_of(name):
    """The torchrun command in a file, as the shell splits it, variables unexpanded."""
    text = (CLUSTER / name).read_text().replace("\\\n", " ")
    line = next(x for x in text.splitlines() if "torch.distributed.run" in x)
    return shlex.split(line)


@pytest.mark.parametrize(("name", "nodes", "processes", "node"), [
    ("slurm.sh", "$SLURM_NNODES", "$SLURM_GPUS_ON_NODE", "$SLURM_NODEID"),
    ("skypilot.yaml", "$SKYPILOT_NUM_NODES", "$SKYPILOT_NUM_GPUS_PER_NODE", "$SKYPILOT_NODE_RANK"),
])  # fmt: skip
def test_the_cluster_files_hold_the_tested_command(name, nodes, processes, node):
    expected = rankrun.torchrun(
        "$RUN", processes=processes, nodes=nodes, node_rank=node, head="$HEAD", logs="$LOGS",
        python=("python",),
    )  # fmt: skip
    assert command_of(name) == expected


def test_the_skypilot_file_is_yaml_with_two_nodes():
    import yaml

    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 2
    assert "SKYPILOT_NODE_IPS" in task["run"]
    assert task["envs"]["RUN"].startswith(next(iter(task["file_mounts"])))


def test_the_zero3_file_saves_whole_weights():
    settings = json.loads((ROOT / rankrun.ZERO3).read_text())
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert settings["zero_force_ds_cpu_optimizer"] is False
