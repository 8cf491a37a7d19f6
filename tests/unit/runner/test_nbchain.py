"""Several notebooks at a time: order, threads, failures, interrupts, and the record of the time."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sft_utils.errors import ConfigError, RunnerError
from sft_utils.notebook import nbdeps
from sft_utils.runner import nbchain, nbflow, nbjobs, nbrun
from sft_utils.runner.nbchain import run_all
from sft_utils.runner.nbflow import expected_s, plan
from sft_utils.runner.nbpublish import publish
from tests.unit.nb_repo import MODELS, add_report, edit, make_repo, write_result

ALL = ["00_first", "01_second", "02_third", "03_report"]


@pytest.fixture
def layout(tmp_path):
    """Four notebooks: 01 requires 00, 02 nothing, 03 reads whatever has run."""
    layout = make_repo(tmp_path / "a repo")
    add_report(layout)
    return layout


MEET = """
import json, os, pathlib, time
def mark(what):
    pathlib.Path("{name}." + what).write_text(json.dumps([os.environ.get(n) for n in {settings}]))
mark("begun")
end = time.monotonic() + 60
while not pathlib.Path("{other}.begun").exists():
    assert time.monotonic() < end, "{other} did not begin beside {name}"
    time.sleep(0.1)
"""


def meet(layout):
    """00 and 02 each wait for the other to have begun: one after the other they cannot end."""
    for name, other in (("00_first", "02_third"), ("02_third", "00_first")):
        code = MEET.format(name=name, other=other, settings=nbjobs.THREAD_SETTINGS)
        edit(layout, f"notebooks/src/{name}.py", "tiny.save(", code + "tiny.save(")


def began_with(layout, name):
    """Thread settings a notebook saw."""
    return json.loads((layout.root / f"{name}.begun").read_text())


@pytest.fixture
def no_settings(monkeypatch):
    for name in nbjobs.THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_two_at_a_time_overlap_and_dependents_wait(layout, capfd, no_settings, monkeypatch):
    meet(layout)
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 0
    text = capfd.readouterr().out
    end, start = text.index("00_first [cpu] done"), text.index("01_second [cpu] expected")
    assert end < start, "01 requires 00"
    share = nbjobs.threads_each(2)
    assert began_with(layout, "00_first") == began_with(layout, "02_third") == [str(share)] * 2
    report = json.loads(layout.run_file("03_report", "cpu", ".json").read_text())
    assert report["seen"] == ALL[:3], "the report reads whatever has run, so it waits for all"
    assert (report["at_once"], report["threads"]) == (2, share)
    lines = [line for line in text.splitlines() if " done in " in line]
    assert sorted(line[:5] for line in lines) == ["00 | ", "01 | ", "02 | ", "03 | "]
    rows = [line.split()[:2] for line in text.splitlines() if re.match(r"0\d_\w+ +ok", line)]
    assert rows == [[name, "ok"] for name in ALL], "the table is in the order of the numbers"
    assert ", 2 notebooks at a time (" in text
    assert not (layout.runs_root / "cpu" / "times.json").exists(), "not what one alone will take"
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 0
    text = capfd.readouterr().out
    assert text.count("unchanged, skipped") == 4
    assert " | " not in text.partition("notebook")[0], "known without starting a process for each"
    monkeypatch.setenv("SFT_THREADS", "5")
    assert nbrun.main(["run", "--nb", "2"], layout) == 0
    assert "02_third [cpu] done" in capfd.readouterr().out, "other threads are another run"


def test_one_at_a_time_stays_in_this_process_and_in_order(layout, capsys):
    assert nbrun.main(["run-all"], layout) == 0
    text = capsys.readouterr().out
    started = [line.split()[0] for line in text.splitlines() if "expected time" in line]
    assert started == ALL
    assert "at a time" not in text
    assert json.loads(layout.run_file("00_first", "cpu", ".json").read_text())["at_once"] == 1


def test_a_failure_among_several_blocks_only_what_requires_it(layout, capsys):
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", 'raise KeyError("lost")\ntiny.save(')
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 1
    text = capsys.readouterr().out
    rows = dict(line.split()[:2] for line in text.splitlines() if re.match(r"0\d_\w+ +\w+ +\d+ s", line))
    assert rows == {"00_first": "failed", "01_second": "blocked", "02_third": "ok", "03_report": "ok"}
    assert "KeyError: 'lost'" in text.partition("total: ")[2]
    assert not layout.run_file("01_second", "cpu", ".json").exists()


def test_a_chain_that_found_work_done_is_not_recorded(layout):
    """Its time would stand in README as that of the whole."""
    found = [nbflow.Outcome(notebook="08_x", status="ok", wall_s=1.0, result={"continued": True})]
    chain = nbchain.Chain(outcomes=found, jobs=1, elapsed_s=1.0)
    with pytest.raises(RunnerError, match=r"not recorded: 08_x went on .*cpu/NOTEBOOK/trials"):
        nbchain.record(layout, chain, "cpu")
    assert not layout.chains.exists()


def test_threads_of_the_user_stay(layout, monkeypatch):
    monkeypatch.setenv("SFT_THREADS", "3")
    meet(layout)
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 0
    assert began_with(layout, "00_first")[0] == "3"
    assert json.loads(layout.run_file("00_first", "cpu", ".json").read_text())["threads"] == 3


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_unforeseen_error_ends_a_notebook_and_not_the_chain(layout, capsys, jobs):
    (layout.runs_root / "cpu" / "02_third.json").mkdir(parents=True)  # unlink cannot remove a folder
    assert nbrun.main(["run-all", "--jobs", jobs], layout) == 1
    text = capsys.readouterr().out
    told = text.partition("total: ")[2]
    assert "02_third failed at profile cpu: IsADirectoryError" in told
    assert re.search(r"^at .*\.py:\d+, in unlink$", told, re.MULTILINE), "where it happened"
    assert "memory" not in text
    assert layout.run_file("01_second", "cpu", ".json").is_file(), "the others go on"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_that_cannot_be_read_ends_those_that_read_it(layout, capsys, jobs, monkeypatch):
    """Asked whether it is unchanged, 02 raises; 00 and 01 do not read the file."""
    (layout.root / "data").mkdir()
    (layout.root / "data" / "rows").touch()
    edit(layout, "notebooks/src/02_third.py", "tiny.save(", 'rows = "data/rows"\ntiny.save(')
    read = nbdeps.sha256_file

    def refuse(path):
        if path.name == "rows":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(nbdeps, "sha256_file", refuse)
    state = layout.run_file("02_third", "cpu", ".state.json")
    write_result(layout.run_file("02_third", "cpu", ".json"))
    state.write_text('{"state_hash": ""}')
    layout.run_file("02_third", "cpu", ".ipynb").write_text("{}")
    assert nbrun.main(["run-all", "--jobs", jobs], layout) == (jobs == "1")
    assert "total: " in capsys.readouterr().out
    assert layout.run_file("01_second", "cpu", ".json").is_file(), "the others go on"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_notebook_that_cannot_be_read_fails_alone(layout, capsys, jobs):
    edit(layout, "notebooks/src/01_second.py", "tiny.save(", "def (\ntiny.save(")
    assert nbrun.main(["run-all", "--jobs", jobs], layout) == 1
    text = capsys.readouterr().out
    rows = dict(line.split()[:2] for line in text.splitlines() if re.match(r"0\d_\w+ +\w+ +\d+ s", line))
    assert rows == {"00_first": "ok", "01_second": "failed", "02_third": "ok", "03_report": "ok"}
    assert "01_second.py is no valid Python" in text.partition("total: ")[2]


def test_each_process_runs_more_than_one_notebook(layout):
    """Its imports take seconds; one for each notebook would pay them a dozen times."""
    for name in ALL:
        note = f'import os, pathlib\npathlib.Path("{name}.parent").write_text(str(os.getppid()))\n'
        edit(layout, f"notebooks/src/{name}.py", "tiny.save(", note + "tiny.save(")
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 0
    parents = {(layout.root / f"{name}.parent").read_text() for name in ALL}
    assert len(parents) <= 2 < len(ALL)
    for process in parents:
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


def test_notebooks_that_wait_for_each_other_are_named(layout, capsys):
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", 'tiny.require("01_second", profile)\ntiny.save(')
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 1
    error = capsys.readouterr().err
    assert "wait for each other" in error
    assert "01_second waits for 00_first" in error


def test_a_killed_process_is_a_failure_that_says_so(layout, capsys):
    kill = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(30)\n"
    edit(layout, "notebooks/src/02_third.py", "tiny.save(", kill + "tiny.save(")
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 1
    text = capsys.readouterr().out
    assert "02_third failed at profile cpu: the process that ran it ended with status -9" in text
    assert "mostly because memory ran out: repeat without JOBS" in text
    assert "failed: 02_third" in text
    assert layout.run_file("01_second", "cpu", ".json").is_file()


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_no_notebook_at_a_time_is_refused(layout, capsys, jobs):
    assert nbrun.main(["run-all", "--jobs", jobs], layout) == 2
    assert f"JOBS={jobs}: at least one" in capsys.readouterr().err


def test_several_on_one_gpu_are_refused(layout):
    runs = plan(layout, ALL, "gpu-16gb", [])
    with pytest.raises(ConfigError, match="JOBS=2 at profile gpu-16gb: .* share the memory"):
        run_all(runs, MODELS, jobs=2)


def test_what_most_work_waits_for_goes_first(layout):
    for name, seconds in {"00_first": 5, "01_second": 50, "02_third": 20, "03_report": 1}.items():
        write_result(layout.reference(name, "cpu"), wall_s=seconds)
    runs = plan(layout, ALL, "cpu", [])
    waiting = [run.notebook for run in nbchain._Plan(runs, 2).waiting]
    assert waiting == ["00_first", "01_second", "02_third", "03_report"]
    write_result(layout.reference("02_third", "cpu"), wall_s=200)
    waiting = [run.notebook for run in nbchain._Plan(runs, 2).waiting]
    assert waiting == ["02_third", "00_first", "01_second", "03_report"]
    one = [run.notebook for run in nbchain._Plan(runs, 1).waiting]
    assert one == ALL, "one at a time they go by number"


@pytest.mark.parametrize(("n_cores", "jobs", "each"), [(2, 1, 2), (2, 2, 1), (8, 2, 2), (1, 2, 1)])
def test_threads_never_exceed_the_cores_or_what_a_notebook_uses_alone(
    monkeypatch, no_settings, n_cores, jobs, each
):
    monkeypatch.setattr(nbjobs, "cores", lambda: n_cores)
    assert nbjobs.threads_each(jobs) == each


def test_the_time_of_the_chain_is_recorded(layout, capsys, no_settings):
    assert nbrun.main(["run-all", "--jobs", "2", "--record"], layout) == 0
    assert "wrote outputs/reference/chain/cpu-2.json" in capsys.readouterr().out
    recorded = json.loads((layout.chains / "cpu-2.json").read_text())
    assert (recorded["at_once"], recorded["threads"]) == (2, nbjobs.threads_each(2))
    assert sorted(recorded["notebooks_s"]) == ALL
    assert "| cpu | 2 | " in (layout.root / "README.md").read_text(), "the table in README says so"
    assert expected_s(layout, "02_third", "cpu") == recorded["notebooks_s"]["02_third"]
    assert nbrun.main(["run-all", "--record"], layout) == 0
    assert "unchanged" not in capsys.readouterr().out, "the time of a chain is that of all"
    assert (layout.chains / "cpu-1.json").is_file(), "each number at a time has its own row"
    assert (layout.chains / "cpu-2.json").is_file()


def test_a_chain_of_other_parameters_or_with_a_failure_is_not_recorded(layout, capsys):
    assert nbrun.main(["run-all", "--record", "--param", "steps=3"], layout) == 2
    captured = capsys.readouterr()
    assert "RECORD=1 is for default parameters only: 00_first {'steps': 3}" in captured.err
    assert "expected time" not in captured.out, "said before anything runs"
    edit(layout, "notebooks/src/02_third.py", "tiny.save(", 'raise KeyError("lost")\ntiny.save(')
    assert nbrun.main(["run-all", "--record"], layout) == 1
    assert not layout.chains.exists()


def test_a_notebook_that_shared_the_machine_is_not_published(layout):
    assert nbrun.main(["run-all", "--jobs", "2"], layout) == 0
    with pytest.raises(RunnerError, match="00_first: it ran with 2 notebooks at a time"):
        publish(layout, ["00_first"], "cpu", MODELS)
    assert nbrun.main(["run", "--nb", "1", "--force"], layout) == 0
    with pytest.raises(RunnerError, match="01_second: 00_first, which it reads, ran with 2"):
        publish(layout, ["01_second"], "cpu", MODELS)
    assert not layout.published("00_first").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_every_notebook_and_its_kernel(layout, sent):
    for name in ("00_first", "02_third"):
        code = (f"import pathlib, time\npathlib.Path('kernel_{name}').write_text(str(__import__("
                "'os').getpid()))\ntime.sleep(600)\n")  # fmt: skip
        edit(layout, f"notebooks/src/{name}.py", "tiny.save(", code + "tiny.save(")
    script = layout.root.parent / "start.py"  # not beside the small repository's own sft_utils
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom sft_utils.runner.nbrun import main\n"
        "from sft_utils.notebook.nbsource import Layout\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    root = Path(sys.argv[1])\n"
        "    layout = Layout(root=root, runs_root=root / 'outputs' / 'runs')\n"
        "    sys.exit(main(['run-all', '--jobs', '2'], layout))\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script), str(layout.root)], cwd=root, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    files = [layout.root / f"kernel_{name}" for name in ("00_first", "02_third")]
    end = time.monotonic() + 120
    while not all(f.is_file() and f.read_text() for f in files) and time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    kernels = [psutil.Process(int(f.read_text())) for f in files]
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert error.splitlines()[-1].startswith("interrupted;")
        assert "Traceback" not in error
    for left in [*kernels, *workers]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.wait(timeout=20)
        assert not left.is_running(), f"{left} was left behind"
