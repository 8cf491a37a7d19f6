"""Real training processes: bit-equal repetition, and a kill in the middle."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("train_small.py")
pytestmark = pytest.mark.slow


def command(folder, *arguments):
    return [sys.executable, str(SCRIPT), str(folder), *arguments]


def finished(folder):
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, finished(folder)


def same_adapter(a, b):
    first, second = (load_file(p / "final" / "adapter_model.safetensors") for p in (a, b))
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def test_two_processes_are_bit_equal(undisturbed, tmp_path):
    folder, result = undisturbed
    assert finished(tmp_path / "again")["losses"] == result["losses"]
    assert same_adapter(folder, tmp_path / "again")
    assert len(set(result["losses"])) == len(result["losses"]) == 6


def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    process = subprocess.Popen(
        command(folder, "5"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 600
    while not Path(f"{folder}.paused").exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    result = finished(folder)
    assert result["began"] == 4, "continues from the last checkpoint, not from the start"
    assert same_adapter(undisturbed[0], folder)
    assert result["losses"] == undisturbed[1]["losses"]
    assert result["history"] == undisturbed[1]["history"]
    again = finished(folder)  # as if killed after training: its notebook never ended
    assert again == result | {"began": 6}, "what has ended is loaded, not made again"
    assert same_adapter(undisturbed[0], folder)


FULL_DISK = """
mount -t tmpfs -o size=20m none "$1" || exit 99
"$2" "$3" "$1" > "$4/first.txt" 2>&1; echo $? > "$4/first.rc"
mount -o remount,size=400m "$1"
"$2" "$3" "$1" > "$4/second.txt" 2>&1; echo $? > "$4/second.rc"
cp -r "$1/final" "$1/result.json" "$4/"
"""


def test_full_disk_then_continue(undisturbed, tmp_path):
    """A real file system of 20 MB fills up at the second checkpoint; with room, the run goes on."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "_", disk, sys.executable, SCRIPT, out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not (out / "first.rc").exists():
        pytest.skip(f"no private mounts here: {done.stderr.strip()[:80]}")
    assert (out / "first.rc").read_text().strip() == "1"
    last = (out / "first.txt").read_text().strip().splitlines()[-1]
    assert "StorageError: cannot write" in last
    assert "No space left" in last
    assert "run the same command again" in last
    assert (out / "second.rc").read_text().strip() == "0", (out / "second.txt").read_text()[-1500:]
    assert json.loads((out / "result.json").read_text())["began"] >= 2
    assert same_adapter(undisturbed[0], out)
