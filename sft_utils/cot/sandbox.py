"""Run Python that nobody vouches for: another process, without files, network, or time to waste.

Layers, each of which holds alone for what it covers: an isolated interpreter (`-I -S`, no
environment, an empty directory), limits of the kernel (time, memory, file size, processes), an
audit hook that names what was tried and ends the process, and on Linux a seccomp filter that leaves
only the system calls of computing and printing: no file, socket, process or signal, whatever Python
can be talked into. Elsewhere the hook stands alone, which Python code of ill will can get round.
It guards against what models write, not against an attacker with a kernel exploit.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_utils.errors import ConfigError

INSIDE = Path(__file__).with_name("sandboxed.py")
GUARDS = ("audit", "seccomp")
REASONS = ("ok", "time", "memory", "output", "file", "network", "process", "signal", "native",
           "import", "exit", "exception", "syntax", "crash")  # fmt: skip
"""How a run can end. "native" is ctypes and other ways round the interpreter, "exit" an exit before
the end of the program, "crash" a death by a signal of the kernel."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one program ended."""

    reason: str  # one of REASONS
    stdout: str  # what was printed until then
    detail: str = ""
    guards: tuple[str, ...] = ()  # what was in force beside the limits

    @property
    def ok(self) -> bool:
        """The program came to its end."""
        return self.reason == "ok"


def run(
    program: str,
    *,
    timeout_s: float = 2.0,
    memory_mib: int = 256,
    output_chars: int = 10_000,
    guards: Sequence[str] = GUARDS,
) -> Result:
    """Run one program and say how it ended.

    Modules of computing (`sandboxed.MODULES`: math, itertools, collections …) can be imported.

    Args:
        program: Python source; it reads nothing and prints its result.
        timeout_s: Wall-clock limit, start of the interpreter included.
        memory_mib: Address space in MiB.
        output_chars: Longest output.
        guards: For tests that switch one layer off.
    Example:
        >>> run("print(sum(range(10)))").stdout
        '45\\n'
        >>> run("while True: pass", timeout_s=0.5).reason
        'time'
    """
    return run_many([program], timeout_s=timeout_s, memory_mib=memory_mib,
                    output_chars=output_chars, guards=guards)[0]  # fmt: skip


def run_many(
    programs: Sequence[str],
    *,
    timeout_s: float = 10.0,
    memory_mib: int = 256,
    output_chars: int = 10_000,
    guards: Sequence[str] = GUARDS,
) -> list[Result]:
    """Run programs one after the other in one process, for programs of one author.

    They share an interpreter, so that one could disturb the next; programs that models wrote are
    run one by one. What ends the process ends the rest, which is then reported as "crash".

    Raises:
        ConfigError: A limit that cannot work.
    """
    if not guards or not set(guards) <= set(GUARDS):
        raise ConfigError(f"guards are {guards}; at least one of {', '.join(GUARDS)} is needed")
    if timeout_s <= 0 or memory_mib < 64 or output_chars < 1:
        raise ConfigError(
            f"limits: {timeout_s} s, {memory_mib} MiB, {output_chars} characters; the interpreter "
            "needs time above 0, 64 MiB and room for one character"
        )
    request = {
        "programs": [p.encode("utf-8", "replace").decode() for p in programs],
        "timeout_s": timeout_s, "memory_mib": memory_mib, "output_chars": output_chars,
        "guards": list(guards),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sandbox-") as empty:
        # JSON writes a character in up to 12 bytes, and a detail has up to 300 of them
        data, how, code = _talk(json.dumps(request).encode(), empty, timeout_s,
                                len(programs) * (output_chars + 400) * 12 + 2_000)  # fmt: skip
    return _results(data, how, code, len(programs))


def _talk(request: bytes, folder: str, timeout_s: float, limit: int) -> tuple[bytes, str, int]:
    """Start, feed, listen, and leave no process of the group behind."""
    deadline = time.monotonic() + timeout_s
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(INSIDE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={}, cwd=folder, start_new_session=True, close_fds=True,
    )  # fmt: skip
    assert child.stdin
    assert child.stdout
    data, how = b"", ""
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(request)
            child.stdin.close()
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                how = "time"
                break
            piece = os.read(child.stdout.fileno(), 65_536)
            data += piece
            if not piece:
                break
            if len(data) > limit:
                how = "output"
                break
        if not how:
            try:
                child.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # it closed the descriptor and went on
                how = "time"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    return data, how, code


def _results(data: bytes, how: str, code: int, n: int) -> list[Result]:
    """What the inside reported, and what follows from its silence.

    A program can write to the report's descriptor. Run alone, it gains little by that: only the
    last line counts, and how the process really ended overrides what is claimed.
    """
    guards: tuple[str, ...] = ()
    results: dict[int, Result] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if n == 1 and line:
            results.clear()
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            match json.loads(line):
                case [int(at), str(reason), str(detail), str(out)] if reason in REASONS:
                    results.setdefault(at, Result(reason, out, detail, guards))
                case [*names] if all(isinstance(name, str) for name in names):
                    guards = guards or tuple(names)
    if how:
        silent = Result(how, "", "the limit was reached", guards)
    elif code == -signal.SIGXCPU:
        silent = Result("time", "", "processor time", guards)
    elif code < 0:
        silent = Result("crash", "", f"signal {-code}", guards)
    else:
        silent = Result("exit", "", f"status {code} without a report", guards)
    if n == 1 and (how or code < 0 or (code and 0 in results and results[0].ok)):
        results.clear()
    first = next((i for i in range(n) if i not in results), n)
    lost = Result("crash", "", "an earlier program ended the process", guards)
    return [results.get(i) or (silent if i == first else lost) for i in range(n)]
