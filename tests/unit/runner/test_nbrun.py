"""Run, skip, fail, continue, publish and verify, on a repository of two small notebooks."""

import base64
import contextlib
import errno
import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from sft_utils.errors import ConfigError, RunnerError
from sft_utils.notebook.nbparams import convert, defaults, split
from sft_utils.notebook.nbsource import Layout, code_cells, outputs_sha256, parse
from sft_utils.runner import nbpublish, nbrun
from sft_utils.runner.nbexec import kernel_env, repeat_command, socket_folder
from sft_utils.runner.nbflow import expected_s, is_fresh, lock, plan, run_one
from sft_utils.runner.nbprogress import Monitor, training_progress
from sft_utils.runner.nbpublish import publish
from sft_utils.runner.nbverify import notes, verify
from tests.unit.nb_repo import MODELS, add_report, edit, make_repo, write_result

KNOWN = {"profile": "cpu", "steps": 2, "rate": 1.0, "loud": False, "name": ""}


@pytest.fixture(scope="module", autouse=True)
def usual_threads():
    """Runs of other numbers of threads are not published; two tests at a time have one each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SFT_THREADS", raising=False)
        yield


@pytest.fixture
def layout(tmp_path):
    return make_repo(tmp_path / "a repo")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A repository in which both notebooks have run at cpu; copied by `done`."""
    layout = make_repo(tmp_path_factory.mktemp("finished") / "a repo")
    assert nbrun.main(["run-all"], layout) == 0
    return layout


@pytest.fixture
def done(finished, tmp_path):
    root = tmp_path / "a repo"
    shutil.copytree(finished.root, root)
    return Layout(root=root, runs_root=root / "outputs" / "runs")


@pytest.fixture
def published(done):
    publish(done, ["00_first", "01_second"], "cpu", MODELS)
    assert verify(done, MODELS) == []
    return done


def started(text):
    """Notebooks that an output says were started."""
    return [line.split()[0] for line in text.splitlines() if "expected time" in line]


def run_second(layout, **options):
    (run,) = plan(layout, ["01_second"], "cpu", [])
    write_result(layout.run_file("00_first", "cpu", ".json"))
    return run_one(run, MODELS, **options)


# Parameters


def test_defaults_are_read_from_the_source():
    text = '# %% tags=["parameters"]\nsteps: int = 2  # a = b\nrate: float = 1\nname = "x"\n'
    assert defaults(parse(text, "x")) == {"steps": 2, "rate": 1.0, "name": "x"}


def test_a_parameter_that_cannot_be_typed_is_refused():
    with pytest.raises(ConfigError, match="'rows' must have a plain"):
        defaults(parse('# %% tags=["parameters"]\nrows: list = []\n', "x"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": "7"}, {"steps": 7}),
        ({"rate": "2e-4"}, {"rate": 2e-4}),
        ({"rate": 2}, {"rate": 2.0}),
        ({"loud": "True"}, {"loud": True}),
        ({"name": "7"}, {"name": "7"}),
        ({"steps": "2", "loud": "false"}, {}),
    ],
)
def test_parameters_take_the_type_of_their_default(given, expected):
    assert convert("nb", KNOWN, given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": "7"}, r"nb has no parameter 'step'; did you mean 'steps'\?"),
        ({"zzz": "7"}, "no parameter 'zzz'; it has: steps, rate, loud, name"),
        ({"steps": "7.5"}, "parameter steps of nb must be int, not '7.5'"),
        ({"steps": True}, "must be int, not True"),
        ({"loud": "1"}, "must be true or false, not '1'"),
        ({"rate": "fast"}, "must be float"),
        ({"profile": "smoke"}, "PROFILE=smoke"),
        ({"steps": "-1"}, "parameter steps = -1, must be finite, at least 0"),
        ({"rate": "-0.5"}, r"parameter rate = -0\.5"),
        ({"rate": "nan"}, "parameter rate = nan"),
        ({"rate": "inf"}, "parameter rate = inf"),
    ],
)
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        convert("nb", KNOWN, given)


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps", "not of the form"), ("a=1 a=2", "given twice"), ("a='x", "Close the quote")],
)
def test_malformed_parameters_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        split([text])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--nb", "09"], "there is no notebook '09'"),
        (["run", "--nb", "00", "--profile", "cpuu"], "'cpu'"),
        (["run", "--nb", "00", "--param", "stepz=1"], "did you mean 'steps'"),
        (["run-all", "--param", "stepz=1"], "no parameter 'stepz'"),
        (["publish", "--nb", "x"], "there is no notebook 'x'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(layout, capsys, words, message):
    assert nbrun.main(words, layout) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_run_all_gives_a_parameter_to_those_that_have_it(layout):
    first, second = plan(layout, ["00_first", "01_second"], "cpu", ["steps=5"])
    assert first.params == {"steps": 5}
    assert second.params == {}


@pytest.mark.parametrize("given", ["schema=s.json", "mapping==a=b", "data= mapping='a=b'"])
def test_how_to_read_a_file_without_the_file_is_refused(layout, given):
    edit(layout, "notebooks/src/00_first.py", "loud: bool = False",
         'data: str = ""\nschema: str = ""\nmapping: str = ""\nloud: bool = False')  # fmt: skip
    with pytest.raises(ConfigError, match=r"(schema|mapping) of 00_first .* Add DATA=file"):
        plan(layout, ["00_first", "01_second"], "cpu", [given])
    (run,) = plan(layout, ["00_first"], "cpu", [given.replace("data=", ""), "data==my.csv"])
    assert len(run.params) == 2


@pytest.mark.parametrize("given", ["/", ".", "~", "notebooks"])
def test_a_folder_for_a_file_is_refused_before_it_is_read(layout, given):
    """All files of a parameter count for "unchanged": of DATA=/ that was the whole disk."""
    edit(layout, "notebooks/src/00_first.py", "loud: bool = False", 'data: str = ""\nloud: bool = False')
    with pytest.raises(ConfigError, match=f"parameter data of 00_first: {given} is a folder. Name a file"):
        plan(layout, ["00_first"], "cpu", [f"data={given}"])


def test_a_notebook_without_profile_is_refused(layout):
    edit(layout, "notebooks/src/01_second.py", 'profile: str = "cpu"', 'profil: str = "cpu"')
    with pytest.raises(ConfigError, match="01_second has no parameter `profile`"):
        plan(layout, ["01_second"], "cpu", [])


# Running


def test_a_finished_run_records_its_cost(finished):
    result = json.loads(finished.run_file("00_first", "cpu", ".json").read_text())
    assert result["wall_s"] > 0
    assert 0.01 < result["peak_rss_gib"] < 4
    assert result["metrics"]["tuned.f1"]["value"] == 0.5
    executed = nbformat.read(finished.run_file("00_first", "cpu", ".ipynb"), as_version=4)
    assert len(executed.cells) == 5, "defaults must not be injected"  # one more: the setup cell


def test_unchanged_notebooks_are_skipped(done, capsys):
    assert nbrun.main(["run-all"], done) == 0
    text = capsys.readouterr().out
    assert started(text) == []
    assert text.count("unchanged, skipped (0 s)") == 2
    assert "tuned.f1 0.500" in text
    assert "total: 0 s" in text


@pytest.mark.parametrize("harm", ["gone", "changed", "folder gone"])
def test_a_run_whose_files_are_gone_or_changed_is_run_again(done, capsys, harm):
    """A notebook that misses them names `make nb NB=00`, which has to make them anew."""
    rows = done.run_file("00_first", "cpu", "") / "rows"
    before = rows.read_bytes()
    if harm == "changed":
        rows.write_text("edited")
    elif harm == "gone":
        rows.unlink()
    else:
        shutil.rmtree(rows.parent)
    assert nbrun.main(["run", "--nb", "00"], done) == 0
    assert started(capsys.readouterr().out) == ["00_first"]
    assert rows.read_bytes() == before
    assert nbrun.main(["run-all"], done) == 0
    assert started(capsys.readouterr().out) == [], "the same files: nothing after it changes"


def test_a_changed_module_reruns_what_depends_on_it(done, capsys):
    edit(done, "sft_utils/unused.py", "1", "2")
    assert nbrun.main(["run-all"], done) == 0
    assert started(capsys.readouterr().out) == []
    edit(done, "sft_utils/constants.py", "0.5", "0.6")
    assert nbrun.main(["run-all"], done) == 0
    text = capsys.readouterr().out
    assert started(text) == ["00_first", "01_second"]
    assert "expected time: about" in text, "the last run's time must be used"


def test_after_a_failure_the_same_command_continues_there(done, capsys):
    edit(done, "notebooks/src/01_second.py", "    return x / 2", '    raise KeyError("lost")')
    assert nbrun.main(["run-all"], done) == 1
    text = capsys.readouterr().out
    assert started(text) == ["01_second"]
    for part in (
        "01_second failed at profile cpu after",
        "in cell 4/4, The part that reads:",
        '    tiny.save("01_second"',
        "KeyError: 'lost'",
        "at Cell In[",
        "notebook so far: outputs/runs/cpu/01_second.ipynb",
        "repeat just this one: make nb NB=01 PROFILE=cpu",
        "failed: 01_second",
    ):
        assert part in text
    assert "Traceback" not in text
    assert done.run_file("01_second", "cpu", ".ipynb").is_file()
    assert not done.run_file("01_second", "cpu", ".json").exists(), "an old result must not stay"
    edit(done, "notebooks/src/01_second.py", '    raise KeyError("lost")', "    return x / 2")
    assert nbrun.main(["run-all"], done) == 0
    assert started(capsys.readouterr().out) == ["01_second"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"steps": 5, "rate": 2e-05, "loud": True},
        {"data": "my file.csv", "schema": "it's.json", "mapping": "prompt=a+b,completion=c"},
        {"name": 'two words, "quoted", $HOME `x` #1', "steps": 3},
    ],
)
@pytest.mark.parametrize("profile", ["cpu", "smoke"])
def test_the_command_that_repeats_a_run_says_the_same(params, profile):
    """As the runner has it: the profile is injected like a parameter where it is not the default."""
    injected = params if profile == "cpu" else {"profile": profile, **params}
    words = shlex.split(repeat_command("00_first", profile, injected))
    assert words[:4] == ["make", "nb", "NB=00", f"PROFILE={profile}"]
    given = []
    for name, _, text in (word.partition("=") for word in words[4:]):
        given.append(text if name == "PARAMS" else f"{name.lower()}=={text}")  # as the Makefile does
    known = KNOWN | {"data": "", "schema": "", "mapping": ""}
    assert convert("00_first", known, split(given)) == params


def test_a_failure_at_another_profile_names_a_command_that_is_accepted(layout, capsys):
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", 'raise KeyError("lost")\ntiny.save(')
    words = ["run", "--nb", "00", "--profile", "smoke", "--param", "steps=5"]
    assert nbrun.main(words, layout) == 1
    repeat = capsys.readouterr().err.splitlines()[-1]
    assert repeat == "repeat just this one: make nb NB=00 PROFILE=smoke PARAMS=steps=5"


@pytest.mark.parametrize(("saved", "kept"), [("", False), (", passed=True", False), (", passed=False", True)])
def test_a_failure_after_the_checkpoint_leaves_no_result_to_read(layout, saved, kept):
    """Failed checks are kept for the report, which says so; `require` refuses them."""
    edit(layout, "notebooks/src/01_second.py", '{"profile": profile})\nhalf(value)',
         '{"profile": profile}' + saved + ')\n\n# %%\nraise KeyError("late")')  # fmt: skip
    with pytest.raises(RunnerError, match="KeyError: 'late'"):
        run_second(layout)
    assert layout.run_file("01_second", "cpu", ".json").is_file() == kept
    assert layout.run_file("01_second", "cpu", ".failed.json").is_file() != kept
    assert not layout.run_file("01_second", "cpu", ".state.json").is_file()


def test_a_kernel_that_dies_at_its_start_is_explained(layout, capsys):
    text = "import os\nprint('no module', flush=True)\nos.kill(os.getpid(), 9)\n"
    (layout.root / "ipykernel_launcher.py").write_text(text)
    assert nbrun.main(["run", "--nb", "0"], layout) == 1
    error = capsys.readouterr().err
    assert "DeadKernelError: the kernel ended before the first cell" in error
    assert "no module" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("lost", [".json", ".ipynb", ".state.json"])
def test_a_run_that_lost_a_part_is_run_again(done, capsys, lost):
    done.run_file("01_second", "cpu", lost).unlink()
    assert nbrun.main(["run", "--nb", "1"], done) == 0
    assert started(capsys.readouterr().out) == ["01_second"]


@pytest.mark.parametrize("broken", [".json", ".state.json"])
def test_a_run_with_a_broken_file_is_run_again(done, capsys, broken):
    path = done.run_file("00_first", "cpu", broken)
    path.write_text(path.read_text()[:20])
    (done.runs_root / "cpu" / "times.json").write_text("")
    assert nbrun.main(["run-all"], done) == 0
    assert "00_first" in started(capsys.readouterr().out)


def test_a_broken_result_that_is_read_is_named(done, capsys):
    done.run_file("00_first", "cpu", ".json").write_text("<<<<<<< HEAD")
    assert nbrun.main(["run", "--nb", "1"], done) == 1
    said = capsys.readouterr().err
    assert said.startswith("DataError: 00_first.json is no JSON (")
    assert len(said.splitlines()) == 1


def test_a_result_of_another_run_is_not_that_of_the_state(done):
    """A notebook run by hand writes into the same file: nothing says what it was run with."""
    (run,) = plan(done, ["00_first"], "cpu", [])
    assert is_fresh(run)
    ran = done.run_file("00_first", "cpu", ".json")
    old = ran.read_text()
    edit(done, "outputs/runs/cpu/00_first.json", '"value": 0.5', '"value": 0.99')
    assert not is_fresh(run)
    with pytest.raises(RunnerError, match="00_first: no finished, unchanged run"):
        publish(done, ["00_first"], "cpu", MODELS)
    ran.write_text(old)
    assert is_fresh(run)
    state = done.run_file("00_first", "cpu", ".state.json")
    known = json.loads(state.read_text())
    del known["result_sha256"], known["data"]
    state.write_text(json.dumps(known))
    assert is_fresh(run), "a state of before that was recorded stays valid"


KEEP = """
import os, pathlib
kept = pathlib.Path(os.environ["SFT_RUNS"], profile, "00_first")
for name in ({names}):
    path = kept / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("{{}}")
    elif {touch}:
        os.utime(path)
"""
TRAINING = '"train/a/identity.json", "train/a/checkpoint-2/trainer_state.json",'


@pytest.mark.parametrize(
    ("names", "touch", "continued"),
    [
        ('"trials/1.json",', True, True),
        ('"trials/1.json",', False, False),  # of other code: not read
        ('"answers-base.json",', False, True),
        (TRAINING, False, True),  # ended or not: the notebook had not
        (TRAINING + '"train/a/complete.json",', False, False),  # of a notebook that has: made anew
        ('"train/a/identity.json",', False, False),
        ('"adapter/adapter_config.json",', True, False),
    ],
)
def test_a_run_that_went_on_from_stored_work_says_so(layout, names, touch, continued):
    """Its time is not that of the work: it is neither expected of the next run nor published."""
    code = KEEP.format(names=names, touch=touch)
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", code + "\ntiny.save(")
    (run,) = plan(layout, ["00_first"], "cpu", [])
    assert "continued" not in run_one(run, MODELS).result
    times = layout.runs_root / "cpu" / "times.json"
    times.write_text('{"00_first": 7777}')
    assert run_one(run, MODELS, force=True).result.get("continued", False) is continued
    assert ("7777" in times.read_text()) is continued
    if continued:
        with pytest.raises(RunnerError, match="00_first: it ran on from what an earlier run had sto") as error:
            publish(layout, ["00_first"], "cpu", MODELS)
        removal = "rm -r outputs/runs/cpu/00_first/trials && make nb NB=00"
        assert (removal in str(error.value)) is ("trials" in names)
    else:
        publish(layout, ["00_first"], "cpu", MODELS)


def test_what_changes_while_a_notebook_runs_is_not_taken_for_what_ran(layout):
    """The state is that of the beginning: an edit made meanwhile is seen by the next call."""
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", "import pathlib\npathlib.Path('sft_utils/'"
         "'constants.py').write_text('GAIN = 0.7\\n')\ntiny.save(")  # fmt: skip
    (run,) = plan(layout, ["00_first"], "cpu", [])
    run_one(run, MODELS)
    assert not is_fresh(run)


def test_a_failure_stops_only_what_requires_it(layout, capsys):
    """00 fails: 01 requires it and is blocked, 02 and the report run; the table names all four."""
    add_report(layout)
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", 'raise KeyError("lost")\ntiny.save(')
    assert nbrun.main(["run-all"], layout) == 1
    text = capsys.readouterr().out
    assert started(text) == ["00_first", "02_third", "03_report"]
    table = {line.split()[0]: line.split()[1] for line in text.splitlines() if line[:2].isdigit()
             and " failed at " not in line and "[cpu]" not in line}  # fmt: skip
    assert table == {"00_first": "failed", "01_second": "blocked", "02_third": "ok", "03_report": "ok"}
    assert "01_second [cpu] not run: it needs 00, which failed" in text
    assert "failed: 00_first; not run because of that: 01_second" in text
    closing = text.partition("02_third ")[2].partition("total: ")[2]
    assert "KeyError: 'lost'" in closing, "the last lines of a long log must say why"
    report = json.loads(layout.run_file("03_report", "cpu", ".json").read_text())
    assert report["seen"] == ["02_third"]
    edit(layout, "notebooks/src/00_first.py", 'raise KeyError("lost")\n', "")
    assert nbrun.main(["run-all"], layout) == 0
    assert started(capsys.readouterr().out) == ["00_first", "01_second", "03_report"]
    report = json.loads(layout.run_file("03_report", "cpu", ".json").read_text())
    assert report["seen"] == ["00_first", "01_second", "02_third"], "new results must be read"


def test_the_frame_in_our_module_is_named(layout):
    edit(layout, "sft_utils/tiny.py", "    result = {", "    int('x')\n    result = {")
    with pytest.raises(
        RunnerError, match=r"ValueError: .*\nat File sft_utils/tiny.py:\d+, in save"
    ):
        run_second(layout)


def test_a_notebook_that_writes_no_result_fails(layout):
    edit(layout, "notebooks/src/01_second.py", "tiny.save", "print")
    edit(layout, "notebooks/src/01_second.py", ", parameters={", ", {")
    with pytest.raises(RunnerError, match="ran to its end but wrote no 01_second"):
        run_second(layout)


def test_a_dead_kernel_is_explained(layout):
    edit(layout, "notebooks/src/01_second.py", "    return x / 2",
         "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)")  # fmt: skip
    with pytest.raises(RunnerError, match="the kernel was killed, probably out of memory"):
        run_second(layout)


def test_a_cell_that_hangs_is_stopped(layout):
    edit(
        layout, "notebooks/src/01_second.py", "    return x / 2", "    import time; time.sleep(99)"
    )
    with pytest.raises(RunnerError, match="CellTimeoutError: the cell ran longer than 1 s"):
        run_second(layout, cell_timeout_s=1)


def test_parameters_and_profile_reach_the_notebook(layout, capsys, caplog):
    words = ["run", "--nb", "0", "--profile", "smoke", "--param", "steps=5"]
    assert nbrun.main(words, layout) == 0
    result = json.loads(layout.run_file("00_first", "smoke", ".json").read_text())
    assert result["parameters"] == {"profile": "smoke", "steps": 5}
    assert "unknown parameter" not in caplog.text  # the comment of `steps` holds a "="
    assert nbrun.main(words[:-2], layout) == 0
    assert len(started(capsys.readouterr().out)) == 2, "other parameters are another run"


def test_heartbeats_slow_cells_and_leftover_processes(layout, monkeypatch):
    monkeypatch.setattr("sft_utils.runner.nbprogress.SLOW_CELL_S", 2.0)
    progress = {"what": "step", "done": 3, "total": 9, "eta_s": 61}
    code = (
        f"    import json, os, pathlib, subprocess, time\n"
        f"    part = pathlib.Path(os.environ['SFT_RUNS'], 'cpu', '01_second.progress.json')\n"
        f"    part.write_text(json.dumps({progress}))\n"
        f"    child = subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=-3)\n"
        f"    pathlib.Path('child').write_text(str(child.pid))\n"
        f"    time.sleep(3)\n    return x"
    )
    edit(layout, "notebooks/src/01_second.py", "    return x / 2", code)
    lines = []
    run_second(layout, heartbeat_s=1.0, show=lines.append)
    text = "\n".join(lines)
    assert "time left unknown | cell 4/4, The part that reads | step 3/9, 1 min 01 s left" in text
    assert any(line.endswith(" s  cell 4/4, The part that reads") for line in lines), "slow cell"
    assert "\x1b" not in text
    assert "\r" not in text
    assert not psutil.pid_exists(int((layout.root / "child").read_text()))


def test_the_kernel_is_this_interpreter_without_network(layout, tmp_path, monkeypatch):
    other = tmp_path / "bin"
    other.mkdir()
    (other / "python").write_text("#!/bin/sh\nexit 1\n")
    (other / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:{os.environ['PATH']}")
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(other / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    edit(layout, "notebooks/src/01_second.py", "    return x / 2", "    return [sys.executable,"
         "\n        os.environ['HF_HUB_OFFLINE'], os.getcwd(), tiny.__file__]")  # fmt: skip
    edit(layout, "notebooks/src/01_second.py", "def half", "import os, sys\n\n\ndef half")
    value = run_second(layout).result["metrics"]["tuned.f1"]["value"]
    assert value == [sys.executable, "1", str(layout.root), str(layout.root / "sft_utils/tiny.py")]


def test_sockets_fit_where_the_folder_for_temporary_files_is_deep(layout, tmp_path, monkeypatch):
    """A socket path has at most 107 characters, on macOS 103."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with socket_folder() as folder:
        assert len(f"{folder}/kernel-5") <= 103
    assert nbrun.main(["run", "--nb", "0"], layout) == 0


def test_what_the_users_ipython_starts_with_does_not_run(layout, tmp_path, monkeypatch):
    startup = tmp_path / ".ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("from pathlib import Path\nPath('mine').touch()\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    assert nbrun.main(["run", "--nb", "0"], layout) == 0
    assert not (layout.root / "mine").exists()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
    assert nbrun.main(["run", "--nb", "0", "--force"], layout) == 0
    assert (layout.root / "mine").exists(), "what the user has set stays"


def test_the_users_settings_win_and_gpu_profiles_may_download(layout, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = kernel_env(layout, "smoke")
    assert (env["WANDB_MODE"], env["HF_HUB_OFFLINE"]) == ("online", "1")
    assert env["PYTHONPATH"].split(os.pathsep) == [str(layout.root), "/elsewhere"]
    assert "HF_HUB_OFFLINE" not in kernel_env(layout, "gpu-16gb")


def test_a_second_run_at_the_same_profile_is_refused(layout, capsys):
    path = layout.runs_root / "cpu" / ".lock"
    path.parent.mkdir(parents=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("process 1")
        handle.flush()
        assert nbrun.main(["run", "--nb", "0"], layout) == 1
        assert "another run at profile cpu is active (process 1)" in capsys.readouterr().err
        with lock(layout, "smoke"):
            pass
    with lock(layout, "cpu"):
        assert path.read_text() == f"process {os.getpid()}"


def test_a_file_system_without_locks_is_no_obstacle(layout, monkeypatch, capsys):
    """Some network folders of clusters have none."""
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock(layout, "cpu"):
        assert "has no locks (No locks available)" in capsys.readouterr().out


def test_interrupt_ends_the_kernel_too(layout):
    edit(layout, "notebooks/src/01_second.py", "    return x / 2",
         "    import pathlib, time\n    pathlib.Path('kernel').write_text(str(__import__('os')"
         ".getpid()))\n    time.sleep(600)")  # fmt: skip
    write_result(layout.run_file("00_first", "cpu", ".json"))
    code = (  # a shell's background job starts with interrupts ignored, and so would its children
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; from pathlib import Path; from sft_utils.runner.nbrun import main;"
        "from sft_utils.notebook.nbsource import Layout; root = Path(sys.argv[1]);"
        "sys.exit(main(['run', '--nb', '1'], Layout(root=root, runs_root=root/'outputs'/'runs')))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(layout.root)],
        cwd=Path(__file__).resolve().parents[3],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    pid_file, end = layout.root / "kernel", time.monotonic() + 60
    while not (pid_file.is_file() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    kernel = psutil.Process(int(pid_file.read_text()))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("interrupted;")
    assert len(error.splitlines()) == 1
    with contextlib.suppress(psutil.NoSuchProcess):
        kernel.wait(timeout=5)
    assert not kernel.is_running()


def test_expected_time_falls_back_to_the_reference(layout):
    assert expected_s(layout, "00_first", "cpu") is None
    write_result(layout.reference("00_first", "cpu"))
    assert expected_s(layout, "00_first", "cpu") == 65.0
    (layout.runs_root / "cpu").mkdir(parents=True)
    (layout.runs_root / "cpu" / "times.json").write_text('{"00_first": 7}')
    assert expected_s(layout, "00_first", "cpu") == 7


@pytest.mark.parametrize("text", ["", '{"what": "x"', '{"what": "x"}', "[]"])
def test_unreadable_progress_is_no_error(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    assert training_progress(path) == ""
    assert training_progress(tmp_path / "absent") == ""


def test_time_left_is_said_honestly(layout):
    monitor = Monitor([], expected_s=100, progress_file=layout.root / "x")
    assert "about 1 min 40 s left" in monitor.heartbeat()
    monitor.started -= 200
    assert "longer than the last run" in monitor.heartbeat()


# Publishing


def test_publish_writes_notebook_reference_and_readme(published):
    nb = nbformat.read(published.published("01_second"), as_version=4)
    nbformat.validate(nb)
    assert [c.execution_count for c in code_cells(nb)] == [1, 2, 3, 4]
    assert code_cells(nb)[-1].outputs[0].data["text/plain"] == "0.25"
    assert set(nb.metadata) == {"kernelspec", "language_info", "sft"}
    assert all(set(cell.metadata) <= {"tags"} for cell in nb.cells)
    stamp = nb.metadata.sft
    assert (stamp.profile, stamp.commit, stamp.dirty) == ("cpu", "c", False)
    assert stamp.versions == {"torch": "1"}
    reference = json.loads(published.reference("01_second", "cpu").read_text())
    assert set(reference["files"]) == {"here"}
    readme = (published.root / "README.md").read_text()
    assert "| 00 | Does the first one work? |" in readme
    assert "| 01_second | `tuned.f1` | 0.250 | 8 | [0.100, 0.900] |" in readme
    first = nbformat.read(published.published("00_first"), as_version=4)
    assert "| cpu | tiny | " in first.cells[1].source


def test_published_pictures_are_small_and_whole():
    output = nbformat.v4.new_output("display_data", {"image/png": _plot(), "text/plain": "a plot"})
    before = len(output.data["image/png"])
    small = nbpublish._with_small_pictures(output)
    found = Image.open(io.BytesIO(base64.b64decode(small.data["image/png"])))
    assert found.size == (300, 200)
    assert len(small.data["image/png"]) < before / 2
    drawn = Image.open(io.BytesIO(base64.b64decode(_plot()))).convert("RGB")
    apart = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(drawn, int))
    assert apart.mean() < 2, "the colours are still those that were drawn"
    assert small.data["text/plain"] == "a plot"
    tiny = _png(Image.new("RGB", (1, 1)))
    assert _published(tiny) == tiny, "what would grow stays as it is"
    clear = _plot(transparent=True)
    assert _published(clear) != clear
    page = Image.open(io.BytesIO(base64.b64decode(_published(clear)))).convert("RGB")
    assert page.getpixel((0, 0)) == (255, 255, 255), "a transparent ground becomes paper"


def _png(image):
    packed = io.BytesIO()
    image.save(packed, format="PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def _published(png):
    output = nbformat.v4.new_output("display_data", {"image/png": png})
    return nbpublish._with_small_pictures(output).data["image/png"]


def _plot(**options):
    """A PNG of smooth curves, as matplotlib writes it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2), dpi=100)
    axes = figure.subplots()
    for k in range(6):
        axes.plot(np.sin(np.linspace(0, 3 + k, 99)))
    packed = io.BytesIO()
    figure.savefig(packed, format="png", **options)
    return base64.b64encode(packed.getvalue()).decode()


def test_publish_again_changes_nothing(published):
    before = {p: p.read_bytes() for p in published.root.rglob("*") if p.is_file()}
    publish(published, ["00_first", "01_second"], "cpu", MODELS)
    assert before == {p: p.read_bytes() for p in published.root.rglob("*") if p.is_file()}


def test_other_profiles_publish_the_reference_only(published):
    write_result(published.run_file("00_first", "smoke", ".json"), profile="smoke")
    with pytest.raises(RunnerError, match="00_first: no finished, unchanged run"):
        publish(published, ["00_first"], "smoke", MODELS)
    assert nbrun.main(["run", "--nb", "0", "--profile", "smoke"], published) == 0
    digest = outputs_sha256(nbformat.read(published.published("00_first"), as_version=4))
    written = publish(published, ["00_first"], "smoke", MODELS)
    assert written == ["outputs/reference/smoke/00_first.json", "notebooks/00_first.ipynb"]
    nb = nbformat.read(published.published("00_first"), as_version=4)
    assert outputs_sha256(nb) == digest, "only the cost table may change"
    assert "| smoke | tiny | not measured" not in nb.cells[1].source
    assert verify(published, MODELS) == []


def test_publish_refuses_a_run_with_other_parameters(done):
    (run,) = plan(done, ["00_first"], "cpu", ["steps=9"])
    run_one(run, MODELS)
    with pytest.raises(RunnerError, match="00_first: no finished, unchanged run with default"):
        publish(done, ["00_first"], "cpu", MODELS)


def test_publish_refuses_a_run_with_other_threads(done, monkeypatch):
    monkeypatch.setenv("SFT_THREADS", "5")
    assert nbrun.main(["run", "--nb", "0"], done) == 0
    monkeypatch.delenv("SFT_THREADS")
    with pytest.raises(RunnerError, match=r"00_first: it ran with SFT_THREADS=5, .* are of 2 thr"):
        publish(done, ["00_first"], "cpu", MODELS)
    with pytest.raises(RunnerError, match="01_second: 00_first, which it reads, ran with SFT_THR"):
        publish(done, ["01_second"], "cpu", MODELS)


@pytest.mark.parametrize("git", [{"commit": "c0ffee", "dirty": True}, {}])
def test_publish_refuses_a_run_of_files_that_are_not_committed(layout, git):
    edit(layout, "sft_utils/tiny.py", '{"commit": "c", "dirty": False}', repr(git))
    assert nbrun.main(["run", "--nb", "0"], layout) == 0
    with pytest.raises(RunnerError, match=r"00_first: it ran from files that differ from their c"):
        publish(layout, ["00_first"], "cpu", MODELS)
    assert not layout.published("00_first").exists()


def test_what_a_run_reads_may_be_a_published_result_that_was_put_back(done):
    """It is a committed file, whoever once made it; a result that differs from it is not."""
    ran, committed = done.run_file("00_first", "cpu", ".json"), done.reference("00_first", "cpu")
    old = json.loads(ran.read_text())
    ran.write_text(json.dumps(old | {"manifest": {"git": {"commit": "c0ffee", "dirty": True}}}))
    with pytest.raises(RunnerError, match="01_second: 00_first, which it reads, ran from files"):
        _must_publish(done)
    committed.parent.mkdir(parents=True, exist_ok=True)
    committed.write_text(ran.read_text())
    _must_publish(done)
    committed.write_text(json.dumps(json.loads(ran.read_text()) | {"metrics": {}}))
    with pytest.raises(RunnerError, match="01_second: 00_first, which it reads, ran from files"):
        _must_publish(done)


@pytest.mark.parametrize("lost", ["threads", "at_once"])
def test_publish_refuses_a_run_that_does_not_say_how_it_ran(done, lost):
    """Made by hand in JupyterLab, and then read by the next notebook."""
    ran = done.run_file("00_first", "cpu", ".json")
    result = json.loads(ran.read_text())
    del result[lost]
    ran.write_text(json.dumps(result))
    with pytest.raises(RunnerError, match="01_second: 00_first, which it reads, ran by hand"):
        publish(done, ["01_second"], "cpu", MODELS)


@pytest.fixture
def reads_data(layout):
    """00 reads a file below data/ and a benchmark; both notebooks have run."""
    for name in ("data/rows.csv", "outputs/reference/bench.json"):
        (layout.root / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.root / name).write_text('{"n": 1}')
        edit(layout, "notebooks/src/00_first.py", "tiny.save(", f'open("{name}").read()\ntiny.save(')
    assert nbrun.main(["run-all"], layout) == 0
    return layout


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("notebooks/src/00_first.py", 'print("gain"', 'print("new gain"', "ran with other code cells than its so"),
        ("data/rows.csv", "1", "2", r"ran before data/rows\.csv was changed"),
        # What moves no number, or is noted by verify: publishing one notebook must not rerun all.
        ("notebooks/src/00_first.py", "Does the first", "Would the first", ""),
        ("sft_utils/constants.py", "0.5", "0.50", ""),
        ("outputs/reference/bench.json", "1", "2", ""),
    ],
)
def test_publish_refuses_what_read_a_run_of_other_code_or_data(reads_data, file, old, new, why):
    edit(reads_data, file, old, new)
    assert nbrun.main(["run", "--nb", "1"], reads_data) == 0
    if not why:
        publish(reads_data, ["01_second"], "cpu", MODELS)
        return
    with pytest.raises(RunnerError, match=f"01_second: 00_first, which it reads, {why}"):
        publish(reads_data, ["01_second"], "cpu", MODELS)
    assert not reads_data.published("01_second").exists()
    state = reads_data.run_file("00_first", "cpu", ".state.json")
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "data"}))
    if file.startswith("data"):
        publish(reads_data, ["01_second"], "cpu", MODELS)  # nothing recorded to compare with
        return
    committed = reads_data.reference("00_first", "cpu")
    committed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(reads_data.run_file("00_first", "cpu", ".json"), committed)
    publish(reads_data, ["01_second"], "cpu", MODELS)  # it is the published result


def _must_publish(layout):
    nbrun.main(["run", "--nb", "1", "--force"], layout)
    publish(layout, ["01_second"], "cpu", MODELS)


def test_publish_refuses_stale_and_writes_nothing(done):
    edit(done, "sft_utils/constants.py", "0.5", "0.7")
    with pytest.raises(RunnerError, match="nothing published"):
        publish(done, ["00_first", "01_second"], "cpu", MODELS)
    assert not done.reference_root.exists()
    assert not done.published("00_first").exists()


def test_publish_refuses_what_verify_would_refuse(layout):
    edit(layout, "notebooks/src/00_first.py", 'print("gain"', 'print(tiny.__file__, "gain"')
    (run,) = plan(layout, ["00_first"], "cpu", [])
    run_one(run, MODELS)
    with pytest.raises(RunnerError, match="code cell 2 shows a path of this machine"):
        publish(layout, ["00_first"], "cpu", MODELS)


def tampered(layout, change, *, restamp=False):
    path = layout.published("01_second")
    nb = nbformat.read(path, as_version=4)
    change(nb)
    if restamp:
        nb.metadata.sft.outputs_sha256 = outputs_sha256(nb)
    nbformat.write(nb, path)
    return verify(layout, MODELS)


def test_verify_names_a_changed_source(published):
    edit(published, "notebooks/src/01_second.py", "x / 2", "x / 3")
    found = verify(published, MODELS)
    assert len(found) == 1
    assert found[0].startswith("01_second: source changed: code differs in cell 5")
    assert "make nb NB=01 && make publish NB=01" in found[0]


def test_verify_names_changed_text(published):
    edit(published, "notebooks/src/01_second.py", "that reads", "that writes")
    found = verify(published, MODELS)[0]
    assert found.startswith("01_second: markdown differs from source")
    assert found.endswith("Run: make renew")


def test_renew_brings_better_words_but_never_other_code(published):
    before = nbformat.read(published.published("01_second"), as_version=4)
    edit(published, "notebooks/src/01_second.py", "that reads", "that writes")
    assert nbpublish.renew(published, MODELS) == ["notebooks/01_second.ipynb"]
    after = nbformat.read(published.published("01_second"), as_version=4)
    assert verify(published, MODELS) == []
    assert [c.source for c in code_cells(after)] == [c.source for c in code_cells(before)]
    assert outputs_sha256(after) == outputs_sha256(before)
    assert any("that writes" in c.source for c in after.cells)
    edit(published, "notebooks/src/01_second.py", "that writes", "that prints")
    edit(published, "notebooks/src/01_second.py", "return x / 2", "return x / 3")
    assert nbpublish.renew(published, MODELS) == []
    found = verify(published, MODELS)
    assert any("source changed" in line for line in found), "other code needs a run"
    kept = nbformat.read(published.published("01_second"), as_version=4)
    assert kept.cells == after.cells, "and the words stay those of the code that ran"


def test_verify_names_missing_and_orphaned(published):
    published.published("01_second").rename(published.root / "notebooks" / "07_gone.ipynb")
    found = verify(published, MODELS)
    assert found[0].startswith("01_second: not published")
    assert found[1].startswith("07_gone: published without a source")


def output(nb):
    return code_cells(nb)[-1].outputs[0]


def tagged(kind, source, tag):
    return getattr(nbformat.v4, f"new_{kind}_cell")(source, metadata={"tags": [tag]})


def setup_cell(nb):
    return next(c for c in nb.cells if "setup" in c.metadata.get("tags", []))


@pytest.mark.parametrize(
    ("change", "restamp", "message"),
    [
        (lambda nb: output(nb).data.update({"text/plain": "0.9"}), False, "outputs edited by hand"),
        (lambda nb: nb.metadata.pop("sft"), False, "no stamp"),
        (
            lambda nb: nb.metadata.sft.update(profile="smoke"),
            False,
            "published from profile 'smoke'",
        ),
        (lambda nb: nb.metadata.update(widgets={}), False, "widget metadata"),
        (
            lambda nb: nb.cells.insert(3, tagged("code", "print(0.999)", "injected-parameters")),
            False,
            "cell 4 comes from no source: 'print(0.999)'. Remove it",
        ),
        (
            lambda nb: nb.cells.append(tagged("markdown", "F1", "papermill-error-cell-tag")),
            False,
            "comes from no source: 'F1'",
        ),
        (
            lambda nb: setup_cell(nb).outputs.append(
                nbformat.v4.new_output("stream", name="stdout", text="field F1 0.999\n")
            ),
            False,
            "the setup cell is missing, old or has outputs",
        ),
        (lambda nb: code_cells(nb)[0].update(execution_count=5), True, "are not 1..4"),
        (lambda nb: output(nb).data.update({"text/plain": "x" * 500_000}), True, "KiB; at most 400"),
        (lambda nb: output(nb).data.update({"text/plain": "in /home/jo/x"}), True, "path of this"),
        (
            lambda nb: output(nb).data.update({"application/vnd.jupyter.widget-view+json": {}}),
            True,
            "code cell 4 shows a widget",
        ),
        (
            lambda nb: code_cells(nb)[0].outputs.append(
                nbformat.v4.new_output("stream", name="stderr", text="Warning: x\n")
            ),
            True,
            "code cell 1 wrote to stderr: 'Warning: x'",
        ),
        (
            lambda nb: code_cells(nb)[0].outputs.append(
                nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])
            ),
            True,
            "code cell 1 holds an error: KeyError",
        ),
    ],
)
def test_verify_names_what_is_unfit(published, change, restamp, message):
    found = tampered(published, change, restamp=restamp)
    assert len(found) == 1
    assert found[0].startswith("01_second: ")
    assert message in found[0]


def test_verify_names_edited_code(published):
    found = tampered(published, lambda nb: code_cells(nb)[-1].update(source="half(value) + 1"))
    assert any("code cells edited since the run" in line for line in found)


def test_verify_finds_this_repository_in_outputs(published):
    text = f"{published.root}/data"
    found = tampered(published, lambda nb: output(nb).data.update(a=text), restamp=True)
    assert len(found) == 1
    assert "shows a path of this machine" in found[0]


def test_verify_command_exits_1(published, capsys):
    assert nbrun.main(["renew"], published) == 0  # the models of real profiles
    assert nbrun.main(["verify"], published) == 0
    assert "note," not in capsys.readouterr().out
    edit(published, "sft_utils/constants.py", "0.5", "0.6")
    assert nbrun.main(["verify"], published) == 0
    said = capsys.readouterr().out
    assert "note, no problem: 00_first: since its run changed: constants\n" in said
    published.published("00_first").unlink()
    assert nbrun.main(["verify"], published) == 1
    assert "00_first: not published" in capsys.readouterr().out


def test_verify_names_tables_and_results_that_do_not_belong_together(published):
    edit(published, "README.md", "| 01_second | `tuned.f1` | 0.250 |", "| 01_second | `tuned.f1` | 0.999 |")
    (found,) = verify(published, MODELS)
    assert found.startswith("README.md line")
    assert "0.999" in found
    assert found.endswith("Run: make renew")
    nbrun.write_readme(published)
    before = published.reference("01_second", "cpu").read_text()
    edit(published, "outputs/reference/cpu/01_second.json", '"value": 0.25', '"value": 0.999')
    assert any("cpu/01_second.json was edited since" in x for x in verify(published, MODELS))
    published.reference("01_second", "cpu").write_text(before.replace("id01cpu", "id99cpu"))
    assert any("is of run id01cpu, outputs/reference/cpu/01_second.json of run id99cpu" in x
               for x in verify(published, MODELS))  # fmt: skip
    published.reference("01_second", "cpu").unlink()
    assert any("cpu/01_second.json is missing" in x for x in verify(published, MODELS))


def test_verify_names_another_cost_table(published):
    edit(published, "notebooks/00_first.ipynb", "GiB RAM", "MiB RAM")
    (found,) = verify(published, MODELS)
    assert found == "00_first: its cost table or file form is not current. Run: make renew"


def test_notebooks_stamped_before_results_were_are_known_by_the_run_they_print(published):
    def older(nb, run="0123456789ab"):
        for name in ("run_id", "result_sha256", "modules"):
            nb.metadata.sft.pop(name, None)
        text = f"run {run}: 3 checks passed \u2192 outputs/runs/cpu/01_second.json\n"
        code_cells(nb)[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]

    reference = published.reference("01_second", "cpu")
    reference.write_text(reference.read_text().replace("id01cpu", "0123456789ab"))
    assert tampered(published, older, restamp=True) == []
    (found,) = tampered(published, lambda nb: older(nb, "ba9876543210"), restamp=True)
    assert found.startswith("01_second: is of run ba9876543210")
    assert notes(published) == []


def test_verify_names_a_file_that_is_no_notebook(published, capsys):
    path = published.published("01_second")
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    assert nbrun.main(["verify"], published) == 1
    assert "01_second: 01_second.ipynb is no notebook" in capsys.readouterr().out
    assert nbrun.main(["renew"], published) == 1
    assert "git checkout HEAD -- notebooks/01_second.ipynb" in capsys.readouterr().err


def test_adopt_shows_a_diff_and_writes_only_when_told(published, capsys):
    source = published.source("01_second").read_text()
    path = published.published("01_second")
    assert nbrun.main(["adopt", "--nb", "1"], published) == 0
    assert "already holds everything" in capsys.readouterr().out
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source += "  # edited"
    nbformat.write(nb, path)
    assert nbrun.main(["adopt", "--nb", "1"], published) == 1
    assert "+half(value)  # edited" in capsys.readouterr().out
    assert published.source("01_second").read_text() == source
    assert nbrun.main(["adopt", "--nb", "1", "--yes"], published) == 0
    adopted = published.source("01_second").read_text()
    assert adopted == source.replace("\nhalf(value)\n", "\nhalf(value)  # edited\n")


def test_adopt_refuses_what_is_no_notebook(layout, tmp_path, capsys):
    bad = tmp_path / "bad.ipynb"
    bad.write_text("{")
    assert nbrun.main(["adopt", "--nb", "0", "--from", str(bad)], layout) == 1
    assert "is no notebook" in capsys.readouterr().err
    assert nbrun.main(["adopt", "--nb", "0"], layout) == 2
    assert "--from" in capsys.readouterr().err


def test_list(layout, capsys):
    assert nbrun.main(["list"], layout) == 0
    assert capsys.readouterr().out.splitlines() == [
        "00_first  Does the first one work?  (time unknown; needs nothing)",
        "01_second  And the second?  (time unknown; needs 00)",
    ]


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    """`make list | head -1`."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "sft_utils.runner.nbrun", "list"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as process:
        assert process.stdout.readline().startswith("00_")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_full_disk_ends_a_notebook_and_not_the_chain(layout, monkeypatch, capsys):
    """papermill cannot save what it ran: a row of the summary, no traceback."""
    import papermill.iorw

    def full(file, mode="r", *arguments, **options):
        if "w" in mode and str(file).endswith("00_first.ipynb"):
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return open(file, mode, *arguments, **options)

    monkeypatch.setattr(papermill.iorw, "open", full, raising=False)
    assert nbrun.main(["run-all", "--profile", "cpu"], layout) == 1
    said = capsys.readouterr()
    assert "No space left on device. Free some space" in said.out + said.err
    assert "00_first" in said.out
    assert "total:" in said.out
