"""Real ranks of a tiny model: N train what one trains; a dead rank ends the job and loses nothing.

SFT_KILLS=10 repeats the kills ten times (about five minutes).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from sft_utils.errors import LaunchError
from sft_utils.ranks import launching, rankresult, rankrun
from sft_utils.ranks.rankrun import RankRun

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loopback")]
ROOT = Path(__file__).resolve().parents[2]
ROWS = 161  # odd: the last batch has one row for two ranks
FSDP = {"strategy": "fsdp2", "engine": "torch", "world_size": 2, "save_steps": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A folder with a tiny random model and rows of very different length."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng, lines = random.Random(3), []
    for number in range(ROWS):
        ids = [rng.randint(5, 40_000) for _ in range(rng.randint(8, 24))]
        taught = rng.choice([2, len(ids) - 3])
        if number < 4:  # the ranks of the first step teach very different numbers of tokens
            taught = (2, len(ids) - 3)[number % 2]
        labels = [-100] * (len(ids) - taught) + ids[len(ids) - taught :]
        lines.append(json.dumps({"id": f"r{number}", "input_ids": ids, "labels": labels}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "few.jsonl").write_text("\n".join(lines[:12]) + "\n")
    return folder


def asked(place, name, *, rows="rows.jsonl", **how):
    common = {"model": str(place / "model"), "learning_rate": 5e-3, "timeout_s": 60, "schedule": "cosine"}
    return RankRun(folder=str(place / name), rows=str(place / rows), **common, **how)


@pytest.fixture(scope="module")
def single(place):
    return launching.launch(asked(place, "single"))


def loss_gap(a, b):
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))


def adapter_gap(a, b):
    """Distance of two adapters as a share of what was learned."""
    ours, theirs = (load_file(d.adapter / "adapter_model.safetensors") for d in (a, b))
    assert ours.keys() == theirs.keys()
    apart = sum((ours[k] - theirs[k]).square().sum().item() for k in ours)
    return (apart / sum(v.square().sum().item() for k, v in ours.items() if "lora_B" in k)) ** 0.5


def same(a, b):
    """Losses and adapters agree to rounding, and training did something."""
    assert loss_gap(a, b) < 1e-4
    assert adapter_gap(a, b) < 1e-2
    assert abs(a.losses[0] - a.losses[-1]) > 1e-3
    assert len(a.losses) == 41


def every_row_once(found):
    ranks = [set(part) for part in found.rows]
    assert sorted(n for part in found.rows for n in part) == list(range(ROWS))
    assert all(len(s) == len(part) for s, part in zip(ranks, found.rows, strict=True))
    last = [events[-1]["rows"] for events in found.steps]
    assert last[0] == [ROWS - 1]
    assert all(rows == [rankrun.EMPTY] for rows in last[1:]), "the others wait with a filler"


NAMESPACES = """
set -e
ip link set lo up
unshare -n sleep 300 & export OTHER=$!
trap 'kill $OTHER' EXIT
until [ "$(readlink /proc/$OTHER/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add veth0 type veth peer name veth1 netns $OTHER
ip addr add 10.77.0.1/24 dev veth0; ip link set veth0 up
nsenter -t $OTHER -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev veth1; ip link set veth1 up'
touch "$READY"
bash notebooks/cluster/slurm.sh "$1"
"""
SRUN = """#!/bin/bash
# What srun does, for two "machines": the same command once in each namespace.
shift
SLURM_NODEID=0 GLOO_SOCKET_IFNAME=veth0 "$@" & first=$!
SLURM_NODEID=1 GLOO_SOCKET_IFNAME=veth1 nsenter -t $OTHER -n "$@" & second=$!
wait $first; a=$?; wait $second; b=$?; exit $((a | b))
"""


def over_two_namespaces(run, place):
    """Run slurm.sh itself, with stand-ins for Slurm's commands; why not, if it is not permitted."""
    lacking = [name for name in ("unshare", "ip", "nsenter") if shutil.which(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} on this machine"
    stand_ins = place / "stand-ins"
    stand_ins.mkdir()
    for name, text in {
        "srun": SRUN, "scontrol": "#!/bin/sh\necho 10.77.0.1\n",
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    }.items():  # fmt: skip
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    ready = place / "ready"
    environment = {
        **os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}", "READY": str(ready),
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1",
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "-rn", "bash", "-c", NAMESPACES, "_", str(run.write())], cwd=ROOT, timeout=200,
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not ready.exists():
        return f"no network namespaces here: {done.stderr.strip()[:100]}"
    assert done.returncode == 0, done.stderr[-1500:]
    return ""


@pytest.fixture(scope="module")
def ddp(place):
    """SFTTrainer on two ranks: on two network namespaces where that is permitted, else on one machine."""
    run = asked(place, "ddp", strategy="ddp", world_size=2)
    why_not = over_two_namespaces(run, place)
    if why_not:
        return launching.launch(run), why_not
    return rankresult.collect(run, 0.0), ""


def test_ddp_trains_what_one_process_trains(single, ddp):
    found, _ = ddp
    same(single, found)
    every_row_once(found)
    assert single.rows == [list(range(ROWS))]
    assert [f["strategy"] for f in found.facts.values()] == ["ddp", "ddp"]
    assert found.facts[0]["wrote"]
    assert found.facts[1]["wrote"] == [], "one rank saves"


def test_ranks_meet_over_two_network_namespaces(ddp):
    found, why_not = ddp
    if why_not:
        pytest.skip(why_not)
    assert [f["node"] for f in found.facts.values()] == [0, 1]


def of_first_step(found, key):
    """What each rank reported of its first optimizer step: "rows", "supervised"."""
    return [events[0][key] for events in found.steps]


def test_a_mean_of_means_is_seen(place, single):
    """The fault that 04 plants: every rank divides by its own tokens.

    Only the first step compares: no weight has changed yet, and the schedules differ from there on
    (cosine over 3 steps here, over 41 in `single`).
    """
    how = {"rows": "few.jsonl", "strategy": "ddp", "world_size": 2}
    right = launching.launch(asked(place, "right", **how))
    wrong = launching.launch(asked(place, "wrong", token_mean="per rank", **how))
    for found in (single, right, wrong):  # few.jsonl is the head of rows.jsonl
        assert sorted(n for part in of_first_step(found, "rows") for n in part) == [0, 1, 2, 3]
    assert len(set(of_first_step(wrong, "supervised"))) == 2, "with equal counts both means are one"
    assert abs(right.losses[0] - single.losses[0]) < 1e-4
    assert abs(wrong.losses[0] - single.losses[0]) > 1e-3


class Killer:
    """Kills one rank, or torchrun and with it all, once rank 0 has reported a step."""

    def __init__(self, what, at=12):
        self.what, self.at, self.moment, self.pids = what, at, 0.0, []

    def __call__(self, event, facts):
        if event["step"] < self.at or self.moment:
            return
        self.moment, self.pids = time.monotonic(), [f["pid"] for f in facts.values()]
        parent = psutil.Process(self.pids[0]).ppid()
        self.pids.append(parent)
        os.kill(parent if self.what == "all" else facts[self.what]["pid"], signal.SIGKILL)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def killed_and_resumed(run, what):
    killer = Killer(what)
    says = "the launcher was ended by SIGKILL" if what == "all" else (
        rf"rank {what} of 2 was ended by SIGKILL after step \d+.*continues from the last checkpoint"
    )  # fmt: skip
    with pytest.raises(LaunchError, match=says):
        launching.launch(run, watch=killer)
    assert time.monotonic() - killer.moment < 60
    assert len(killer.pids) == 3
    assert [pid for pid in killer.pids if not gone(pid)] == []
    found = launching.launch(run)
    assert found.began >= 10, "continues from a checkpoint, not from the start"
    return found


def test_killed_and_resumed_trains_the_same(place, single):
    found = killed_and_resumed(asked(place, "fsdp2", **FSDP), 1)
    same(single, found)
    every_row_once(found)
    assert [f["held_share"] for f in found.facts.values()] == [0.5, 0.5]
    assert found.facts[0]["shapes"]["embed_tokens.weight"] == [[49152, 32], [24576, 32]]
    assert [bool(f["wrote"]) for f in found.facts.values()] == [True, False], "one rank saves"


def test_a_trainer_of_two_ranks_continues(place, single):
    """transformers loads optimizer states onto "cpu:0", a name that torch alone does not know."""
    how = {**FSDP, "strategy": "ddp", "engine": "trainer"}
    found = killed_and_resumed(asked(place, "ddp-killed", **how), 0)
    same(single, found)
    every_row_once(found)


@pytest.mark.skipif("SFT_KILLS" not in os.environ, reason="SFT_KILLS=10 repeats the kills")
def test_kills_again_and_again(place):
    """Rank 0, rank 1 and torchrun in turn, in both engines: bit-equal to an undisturbed run each time."""
    for name, how in {"ddp": {**FSDP, "strategy": "ddp", "engine": "trainer"}, "fsdp2": FSDP}.items():
        undisturbed = launching.launch(asked(place, f"{name}-whole", **how))
        for n in range(int(os.environ["SFT_KILLS"]) // 2):
            found = killed_and_resumed(asked(place, f"{name}-{n}", **how), (1, 0, "all")[n % 3])
            assert found.losses == undisturbed.losses, (name, n)
            assert adapter_gap(undisturbed, found) == 0.0


# Ranks that only report: what the launcher does needs no model.
FAKE = """
import os, sys, time
from sft_utils import rankrun
from sft_utils.ranks.rankreport import Report
from sft_utils.ranks.ranktrain import end_with_parent
end_with_parent()
run = rankrun.read(sys.argv[1])
report = Report(run, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
report.update(values=os.environ["RANK"] if "differ" in run.folder else "same")
report.resume(0)
for step in range(1, 2 if "stuck" in run.folder else 400):
    report.step(step, 1.0)
    time.sleep(0.2)
time.sleep(600)
"""


@pytest.fixture
def fake(tmp_path):
    """Makes (run, command) of ranks that train nothing."""
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1], "labels": [1]}\n' * 999)

    def made(name, processes=2):
        many = {"strategy": "ddp", "world_size": processes} if processes > 1 else {}
        run = RankRun(folder=str(tmp_path / name), rows=str(tmp_path / "rows.jsonl"), model="m", **many)
        command = rankrun.torchrun("", processes=processes, logs=str(tmp_path / "logs"))[:-3]
        file = str(tmp_path / name / rankrun.RUN_FILE)
        return run, [*(command if many else [sys.executable]), str(tmp_path / "fake.py"), file]

    return made


def test_ranks_that_stand_still_are_ended(fake):
    run, command = fake("stuck", 1)
    with pytest.raises(LaunchError, match=r"anything for 2 s \(rank 0 after step 1\)"):
        launching.launch(run, command=command, stall_s=2)
    assert gone(rankrun.reported(run.folder)[0]["pid"])


def test_ranks_that_start_from_different_values_are_refused(fake):
    run, command = fake("differ")
    with pytest.raises(LaunchError, match="different adapter values"):
        launching.launch(run, command=command)
    assert all(gone(f["pid"]) for f in rankrun.reported(run.folder).values())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_nothing_is_left_when_the_notebook_is_killed(fake, tmp_path):
    run, command = fake("orphans")
    script = (
        "from sft_utils import launching, rankrun\n"
        f"run = rankrun.RankRun(folder={run.folder!r}, rows={run.rows!r}, model='m', strategy='ddp', "
        f"world_size=2)\nlaunching.launch(run, command={command!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not all(rankrun.events_file(run.folder, r).exists() for r in (0, 1)):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ranks = [f["pid"] for f in rankrun.reported(run.folder).values()]
    torchrun = psutil.Process(ranks[0]).ppid()
    assert not any(map(gone, [*ranks, torchrun]))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while not all(map(gone, [*ranks, torchrun])):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)


def test_a_command_that_does_not_exist(fake):
    run, _ = fake("absent", 1)
    with pytest.raises(LaunchError, match="cannot start no-such-launcher"):
        launching.launch(run, command=["no-such-launcher"])
