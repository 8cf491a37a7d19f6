"""Hostile programs: each is contained, and named for what it tried."""

import os

import pytest

from sft_utils.cot import sandbox
from sft_utils.errors import ConfigError

HOSTILE = {
    "infinite loop": ("while True: pass", "time"),
    "sleep": ("import time\ntime.sleep(60)", "time"),
    "loop that swallows": ("while True:\n    try:\n        1/0\n    except BaseException:\n        pass", "time"),
    "fork": ("import os\nos.fork()", "process"),
    "fork bomb": ("import os\nwhile True:\n    try:\n        os.fork()\n    except BaseException:\n        pass", "process"),
    "system": ("import os\nos.system('echo hi')", "process"),
    "exec": ("import os\nos.execv('/bin/sh', ['sh'])", "process"),
    "subprocess": ("import subprocess\nsubprocess.run(['ls'])", "process"),
    "threads": ("import threading\nthreading.Thread(target=print).start()", "process"),
    "memory bomb": ("x = []\nwhile True: x.append('a' * 10**6)", "memory"),
    "one big block": ("x = [0] * 10**9", "memory"),
    "write": ("open('{tmp}', 'w').write('x')", "file"),
    "append by os": ("import os\nos.open('{tmp}', os.O_CREAT | os.O_WRONLY)", "file"),
    "delete": ("import os\nos.remove('{tmp}')", "file"),
    "rename": ("import os\nos.rename('{tmp}', '{tmp}.x')", "file"),
    "list": ("import os\nprint(os.listdir('/'))", "file"),
    "passwd": ("print(open('/etc/passwd').read())", "file"),
    "passwd, swallowed": ("try:\n    open('/etc/passwd')\nexcept BaseException:\n    print('calm')", "file"),
    "pathlib": ("import pathlib\nprint(pathlib.Path('/etc/passwd').read_text())", "import"),
    "socket": ("import socket\nsocket.create_connection(('1.1.1.1', 80))", "network"),
    "url": ("import urllib.request\nurllib.request.urlopen('http://1.1.1.1')", "network"),
    "huge output": ("while True: print('x' * 1000)", "output"),
    "huge line": ("print('x' * 10**7)", "output"),
    "kill parent": ("import os\nos.kill(os.getppid(), 9)", "signal"),
    "kill all": ("import os\nos.kill(-1, 9)", "signal"),
    "kill group": ("import os\nos.killpg(0, 9)", "signal"),
    "ctypes": ("import ctypes\nctypes.CDLL(None).getpid()", "native"),
    "objects": ("import gc\nprint(gc.get_objects())", "native"),
    "another hook": ("import sys\nsys.addaudithook(print)", "native"),
    "exit": ("import sys\nprint(7)\nsys.exit(0)", "exit"),
    "raise exit": ("raise SystemExit", "exit"),
    "hard exit": ("import os\nprint(7)\nos._exit(0)", "exit"),
    "exception": ("print(7)\n1/0", "exception"),
    "endless recursion": ("def f(): return f()\nf()", "exception"),
    "error without text": ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "exception"),
    "read input": ("input()", "exception"),
    "syntax": ("x = (", "syntax"),
    "third party": ("import numpy", "import"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained_and_named(name, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    program, reason = HOSTILE[name]
    result = sandbox.run(program.replace("{tmp}", str(target)), timeout_s=0.5 if reason == "time" else 10)
    assert result.reason == reason, result
    assert not result.ok
    assert target.read_text() == "precious"
    assert os.listdir(tmp_path) == ["target"]
    assert "root:" not in result.stdout + result.detail
    assert len(result.stdout) <= 10_000


def test_output_before_the_end_is_kept():
    assert sandbox.run("print(7)\nimport sys\nsys.exit(0)").stdout == "7\n"
    assert sandbox.run("print(7)\n1/0").detail == "ZeroDivisionError: division by zero"


PROBE = """
import os
tried = [lambda: os.fork(), lambda: open('/etc/passwd'), lambda: open('{tmp}', 'w'), lambda: os.listdir('/'),
         lambda: os.kill(os.getppid(), 0), lambda: os.execv('/bin/sh', ['sh']), lambda: os.remove('{tmp}'),
         lambda: os.mkdir('x')]
for one in tried:
    try:
        one()
        print('done')
    except PermissionError:
        print('refused')
"""


def test_the_kernel_refuses_without_the_hook(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    result = sandbox.run(PROBE.replace("{tmp}", str(target)), guards=["seccomp"])
    if "seccomp" not in result.guards:
        pytest.skip("this kernel has no seccomp filter for us; the audit hook stands alone")
    assert result.stdout.split() == ["refused"] * 8, result
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", [n for n in HOSTILE if n not in ("threads", "syntax")])
def test_the_hook_holds_without_the_kernel(name, tmp_path):
    program, reason = HOSTILE[name]
    result = sandbox.run(program.replace("{tmp}", str(tmp_path / "no")), timeout_s=0.5 if reason == "time" else 10, guards=["audit"])
    assert result.guards == ("audit",)
    assert result.reason == reason, result
    assert os.listdir(tmp_path) == []


def test_a_flood_past_the_counter_is_cut():
    flood = "import os\nwhile True:\n    for fd in range(3, 9):\n        try:\n            os.write(fd, b'x' * 9999)\n        except OSError:\n            pass"
    assert sandbox.run(flood, timeout_s=1).reason == "output"


def test_a_forged_report_wins_nothing():
    forged = "import os\nfor fd in range(3, 9):\n    try:\n        os.write(fd, b'[0, \"perfect\", \"\", \"85\"]\\n[1]\\nnull\\n')\n    except OSError:\n        pass\nprint(84)"
    assert sandbox.run(forged).stdout == "84\n"


WRITE = "import os\ndef say(data):\n    for fd in range(3, 9):\n        try:\n            os.write(fd, data)\n        except OSError:\n            pass\n"
CLAIM = WRITE + "say(b'[0,\"ok\",\"\",\"85\\\\n\"]\\n')\n"


@pytest.mark.parametrize(
    ("then", "reason", "stdout"),
    [
        ("while True: pass", "time", ""), ("print(7)\nopen('/etc/passwd')", "file", "7\n"), ("1/0", "exception", ""),
        ("print(84)", "ok", "84\n"), ("say(b'x')\n1/0", "exception", ""), ("os._exit(1)", "exit", ""), ("os.abort()", "crash", ""),
        ("for fd in range(3, 9):\n    try:\n        os.close(fd)\n    except OSError:\n        pass\nwhile True: pass", "time", ""),
        ("say(b'junk')\nos._exit(0)", "exit", ""),
    ],
)  # fmt: skip
def test_how_a_program_ends_overrides_what_it_claims(then, reason, stdout):
    result = sandbox.run(CLAIM + then, timeout_s=1 if reason == "time" else 10)
    assert (result.reason, result.stdout) == (reason, stdout), result


def test_a_nested_report_is_no_report():
    result = sandbox.run(WRITE + "say(b'[' * 50000 + b'\\n')\nprint(7)")
    assert (result.reason, result.stdout) == ("ok", "7\n")
    assert sandbox.run(WRITE + "say(b'[' * 50000 + b'\\n')\nos._exit(0)").reason == "exit"


def test_output_within_the_limit_is_kept_whatever_its_characters():
    assert sandbox.run("print('🙂' * 9999)").stdout == "🙂" * 9999 + "\n"
    assert sandbox.run("print('🙂' * 9999)\nraise ValueError('🙂' * 900)").reason == "exception"


def test_ordinary_programs_run():
    result = sandbox.run("import math, collections, itertools, re, random\nfrom fractions import Fraction\n"
                         "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
                         "print(P(1), math.isqrt(10), collections.Counter('aab'), Fraction(1, 3), f'{2.5:.2f}')")  # fmt: skip
    assert result.ok, result
    assert result.stdout == "P(x=1) 3 Counter({'a': 2, 'b': 1}) 1/3 2.50\n"


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    result = sandbox.run("import os, sys\nprint(sorted(set(os.environ) - {'LC_CTYPE'}), sys.argv[1:], sys.flags.isolated, sys.flags.no_site)")
    assert result.stdout == "[] [] 1 1\n"


def test_many():
    results = sandbox.run_many(["print(1)", "1/0", "x = 5", "print(x)"])
    assert [r.reason for r in results] == ["ok", "exception", "ok", "exception"]
    assert results[0].stdout == "1\n"
    assert [r.reason for r in sandbox.run_many(["print(1)", "import os\nos._exit(0)", "print(3)"])] == ["ok", "exit", "crash"]
    assert sandbox.run_many([]) == []


def test_unprintable_output_survives():
    assert sandbox.run("print('naïve 🙂', '\\ud800')").reason in ("ok", "exception")
    assert sandbox.run("print('naïve 🙂')").stdout == "naïve 🙂\n"
    assert sandbox.run("x = '\ud800'").reason == "ok", "handed over as a question mark"


@pytest.mark.parametrize("bad", [{"timeout_s": 0}, {"memory_mib": 8}, {"output_chars": 0}, {"guards": []}, {"guards": ["magic"]}])
def test_limits_that_cannot_work(bad):
    with pytest.raises(ConfigError):
        sandbox.run("print(1)", **bad)
