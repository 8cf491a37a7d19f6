"""What `make` hands on: values as they were typed, switches that can be off, names that it knows."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.notebook.nbparams import split
from sft_utils.runner.nbexec import repeat_command

SHOW = """#!/usr/bin/env python3
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def make(tmp_path):
    """Runs make on a copy of the Makefile: no set-up, and a Python that prints what it was given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SHOW)
    python.chmod(0o755)

    def run(*words, env=None):
        clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(["make", "PYTHON=true", *words], cwd=tmp_path, env=clean | (env or {}),
                              capture_output=True, text=True, check=False)  # fmt: skip

    return run


def handed(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


VALUES = [
    "plain.csv",
    "my file.csv",
    "my$file.csv",
    "$(shell touch x) $$HOME `id`",
    "it's \"quoted\" #1 \\ %s a=b, c;d & (e",
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("typed", [True, False])
def test_values_stay_as_typed(make, value, typed):
    """On the command line, and in the environment."""
    given = {"DATA": value, "SCHEMA": value, "MAPPING": value}
    words = [f"{k}={v}" for k, v in given.items()] if typed else []
    found = handed(make("nb", "NB=3", *words, env=None if typed else given))
    assert found[:7] == ["-m", "sft_utils.runner.nbrun", "run", "--nb", "3", "--profile", "cpu"]
    assert split(found[8::2]) == {k.lower(): v for k, v in given.items()}


@pytest.mark.parametrize("value", VALUES)
def test_the_command_of_a_failed_run_comes_back_as_it_was(make, value):
    params = {"profile": "smoke", "steps": 5, "name": value, "data": value}
    found = handed(make(*shlex.split(repeat_command("03_x", "smoke", params))[1:]))
    assert found[5:7] == ["--profile", "smoke"]
    assert split(found[8::2]) == {"steps": "5", "name": value, "data": value}


@pytest.mark.parametrize("target", [("nb", "NB=3", "FORCE"), ("run-all", "FORCE"), ("run-all", "RECORD"),
                                    ("adopt", "NB=3", "YES")])  # fmt: skip
def test_switches_can_be_off(make, target):
    *words, name = target
    flag = f"--{name.lower()}"
    assert flag not in handed(make(*words))
    for value in ("", "0", "no", "false"):
        assert flag not in handed(make(*words, f"{name}={value}")), value
    for value in ("1", "yes", "true"):
        assert flag in handed(make(*words, f"{name}={value}")), value
    done = make(*words, f"{name}=off")
    assert done.returncode != 0
    assert f"{name}=off: 1 means yes, 0 or nothing means no" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nb"], "this target needs NB="),
        (["adopt"], "this target needs NB="),
        (["reproduce"], "this target needs RUN="),
        (["run-all", "NB=03"], "run-all runs every notebook; for one alone: make nb NB=03"),
        (["clean", "PROFILE=smoke"], "nothing was done: make clean does not read PROFILE=, leave it out"),
        (["verify", "renew", "NB=03"], "make verify renew does not read NB="),
        (["nb", "NB=03", "JOBS=2"], "make nb does not read JOBS="),
    ],
)
def test_a_target_without_its_value_or_with_a_useless_one_is_refused(make, words, message):
    done = make(*words)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("word", "message"), [("PROFLE=smoke", "Did you mean PROFILE=?"), ("max_steps=3", 'PARAMS="max_steps=…"')]
)
def test_a_wrong_name_is_refused_before_anything_is_set_up(make, tmp_path, word, message):
    (tmp_path / "sft_utils").mkdir()
    shutil.copy(ROOT / "sft_utils" / "bootstrap.py", tmp_path / "sft_utils")
    done = make("nb", "NB=3", word, "PYTHON=python3")
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert "SCHEMA" in done.stderr, "the Makefile's names are listed"


def test_what_each_target_reads_is_listed(make):
    """By its recipe, in which every name stands that can change it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = set(re.search(r"^names := (.*)$", text, re.MULTILINE)[1].split()) - {"VENV", "PYTHON"}
    listed = set(re.search(r"^reads := ((?:.*\\\n)*.*)$", text, re.MULTILINE)[1].replace("\\\n", " ").split())
    shared = re.search(r"^file := (.*)$", text, re.MULTILINE)[1].split()
    for target in ("nb", "run-all"):
        listed = listed - {f"$(file:%={target}=%)"} | {f"{target}={name}" for name in shared}
    macros = dict.fromkeys(["$(params)"], " ".join(f"$({n})" for n in shared if n != "PROFILE"))
    found = set()
    for target, recipe in re.findall(r"^([a-z-]+):.*##.*\n((?:\t.*\n)+)", text, re.MULTILINE):
        for macro, meaning in macros.items():
            recipe = recipe.replace(macro, meaning)
        used = re.findall(r"\$\$?[({]?(?:call on,)?([A-Z]{2,})\b", recipe)
        found |= {f"{target}={name}" for name in used if name in names}
    assert found == listed


def test_a_name_that_one_of_several_targets_reads_is_enough(make):
    assert make("-n", "run-all", "publish", "NB=").returncode == 0
    assert make("-n", "verify", "regress", "PROFILE=smoke", "NB=03").returncode == 0


def test_every_name_that_the_makefile_reads_is_listed():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = next(line for line in text.splitlines() if line.startswith("names :=")).split()[2:]
    given = [line.split()[0] for line in text.splitlines()
             if line.split()[1:2] in (["?="], ["="]) and line.split()[0].isupper()]  # fmt: skip
    assert sorted(listed) == sorted(given)


def test_the_example_of_the_help_needs_no_other_notebook(make):
    """It is the first thing that a newcomer types."""
    example = make().stdout.partition("for example: ")[2]
    number = example.partition("NB=")[2][:2]
    source = next(Path(ROOT / "notebooks" / "src").glob(f"{number}_*.py")).read_text(encoding="utf-8")
    assert "require(" not in source
    assert shlex.split(example)[:2] == ["make", "nb"]


@pytest.mark.parametrize("namespaces", [True, False])
def test_ci_runs_setup_tests_and_smoke_with_or_without_a_namespace(tmp_path, namespaces):
    """In bash 3.2 an array without elements is an unbound variable: no macOS ran the tests."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "[@]" not in script
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(script)
    tools = tmp_path / "tools"
    tools.mkdir()
    make = 'echo "make $*"; case "$*" in test*) echo "3 passed, 1 skipped in 2.00s (0:00:02)";; esac'
    for name, text in {"make": make, "unshare": f"[ {namespaces} = True ] && shift && exec \"$@\""}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    (tmp_path / ".ci" / "offline").write_text('#!/bin/sh\necho "offline: $*"\nexec "$@"\n')
    (tmp_path / ".ci" / "offline").chmod(0o755)
    done = subprocess.run(["bash", tmp_path / ".ci" / "run"], env={"PATH": f"{tools}:{os.environ['PATH']}"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("make ", "offline: "))]
    wanted = ["make setup", "make test JOBS=2", "make run-all PROFILE=smoke JOBS=2"]
    if namespaces:
        wanted = [wanted[0], *(f"{off}{line}" for line in wanted[1:] for off in ("offline: ", ""))]
    assert said == wanted
    assert done.stdout.splitlines()[-1] == (
        "ci: tests 3 passed, 1 skipped in 2.00s (0:00:02); all notebooks ran at smoke"
    ), "the last line names the tests, a page above"
    tools.joinpath("make").write_text("#!/bin/sh\n[ $1 != test ]\n")
    failed = subprocess.run(["bash", tmp_path / ".ci" / "run"], env={"PATH": f"{tools}:{os.environ['PATH']}"},
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert failed.returncode, "tests that fail are not hidden by what reads their output"
