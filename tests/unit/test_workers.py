"""Arms in worker processes: an arm that dies, hangs or cannot start costs itself only."""

import json
import sys
import time

import pytest

from sft_utils.workers import Arm, run

WORKER = '''
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from sft_utils.workers import tell
job = json.load(open(sys.argv[2]))
open(os.path.join(job["work"], "started"), "a").write(job["worker"] + "\\n")
if job["worker"] == "missing":
    tell("unavailable", why="no such library")
    sys.exit()
if job["worker"] == "broken":
    sys.exit("ImportError: libfast.so")
for name in job["arms"]:
    tell("begin", arm=name)
    print("a library says something")
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        print("now it hangs", flush=True)
        time.sleep(600)
    tell("row", arm=name, row={"status": "out of memory" if name == "full" else "ok"})
    if name == "full":
        sys.exit()
print("goodbye")
'''


@pytest.fixture
def go(tmp_path):
    """Run arms given as (worker, name) pairs; returns their rows and the processes started."""
    from sft_utils.artifacts import ROOT

    script = tmp_path / "worker.py"
    script.write_text(WORKER)

    def start(*pairs, limit_s=20.0, seconds=60.0):
        arms = [Arm(name=name, worker=worker, limit_s=limit_s) for worker, name in pairs]
        rows, order = {}, []
        run(arms, {"work": str(tmp_path)}, [sys.executable, str(script), str(ROOT)],
            time.monotonic() + seconds, lambda n, r: (rows.__setitem__(n, r), order.append(n)))  # fmt: skip
        assert order == [a.name for a in arms], "every arm has one row, in order"
        started = tmp_path / "started"
        return rows, started.read_text().split() if started.exists() else []

    return start


def test_neighbours_share_a_process(go):
    rows, started = go(("a", "one"), ("a", "two"), ("b", "three"))
    assert [r["status"] for r in rows.values()] == ["ok"] * 3
    assert started == ["a", "b"]


def test_a_dead_worker_costs_one_arm(go):
    rows, started = go(("a", "one"), ("a", "dies"), ("a", "three"))
    assert [r["status"] for r in rows.values()] == ["ok", "failed", "ok"]
    assert "SIGKILL" in rows["dies"]["why"]
    assert started == ["a", "a"]


def test_a_hanging_arm_is_stopped_and_says_where(go):
    began = time.monotonic()
    rows, _ = go(("a", "hangs"), ("a", "two"), limit_s=4.0)
    assert rows["hangs"]["status"] == "timed out"
    assert "now it hangs" in rows["hangs"]["why"]
    assert rows["two"]["status"] == "ok"
    assert time.monotonic() - began < 30


def test_after_running_out_of_memory_comes_a_fresh_process(go):
    rows, started = go(("a", "full"), ("a", "two"))
    assert [r["status"] for r in rows.values()] == ["out of memory", "ok"]
    assert started == ["a", "a"]


def test_a_missing_library_is_asked_for_once(go):
    rows, started = go(("missing", "one"), ("missing", "two"), ("a", "three"))
    assert [r["status"] for r in rows.values()] == ["unavailable", "unavailable", "ok"]
    assert rows["two"]["why"] == "no such library"
    assert started == ["missing", "a"]


def test_a_worker_that_cannot_start_is_tried_once(go):
    rows, started = go(("broken", "one"), ("broken", "two"), ("a", "three"))
    assert [r["status"] for r in rows.values()] == ["failed", "failed", "ok"]
    assert "exit status 1" in rows["one"]["why"]
    assert started == ["broken", "a"]


def test_nothing_runs_past_the_end(go):
    began = time.monotonic()
    rows, started = go(("a", "hangs"), ("a", "two"), ("b", "three"), limit_s=50.0, seconds=4.0)
    assert [r["status"] for r in rows.values()] == ["no time left"] * 3
    assert time.monotonic() - began < 30
    assert started == ["a"]
    assert json.dumps(rows)
