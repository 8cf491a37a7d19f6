"""The inside of the sandbox: started as a script by `sandbox`, never imported.

Order matters: limits, then the modules that a program may use, then the audit hook, then seccomp,
then the program. A refused act ends the process at once with its name, so that no `except` of the
program can swallow it. Standard library only.
"""

import ast
import io
import json
import os
import resource
import sys

MODULES = frozenset({
    "abc", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator",
    "random", "re", "statistics", "string", "textwrap", "time", "typing",
})  # fmt: skip
NETWORK = frozenset({
    "socket", "_socket", "ssl", "select", "selectors", "asyncio", "urllib", "http", "ftplib",
    "smtplib",
})  # fmt: skip
PROCESS = frozenset({
    "subprocess", "_posixsubprocess", "multiprocessing", "_multiprocessing", "pty", "concurrent",
    "threading",
})  # fmt: skip
NATIVE = frozenset(["ctypes", "_ctypes", "cffi", "mmap", "gc"])
EVENTS = (  # beginning of an audit event -> what it is called
    ("open", "file"), ("os.fork", "process"), ("os.exec", "process"), ("os.posix_spawn", "process"),
    ("os.spawn", "process"), ("os.system", "process"), ("subprocess.", "process"),
    ("pty.", "process"), ("_thread.", "process"), ("os.kill", "signal"), ("signal.", "signal"),
    ("socket.", "network"), ("ctypes.", "native"), ("mmap.", "native"), ("gc.", "native"),
    ("sys.addaudithook", "native"), ("sys.setprofile", "native"), ("sys.settrace", "native"),
    ("os.", "file"), ("shutil.", "file"), ("tempfile.", "file"), ("glob.", "file"),
    ("pathlib.", "file"), ("fcntl.", "file"),
)  # fmt: skip
# System calls that computing and printing need: (audit architecture, numbers)
CALLS = {
    "x86_64": (0xC000003E, [0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96,
                            98, 100, 110, 131, 186, 201, 202, 228, 229, 230, 231, 318, 334]),
    "aarch64": (0xC00000B7, [57, 62, 63, 64, 80, 93, 94, 98, 101, 113, 114, 115, 124, 132, 134,
                             135, 139, 153, 165, 169, 172, 173, 178, 214, 215, 216, 222, 226, 233,
                             278, 293]),
}  # fmt: skip


def limit(request: dict) -> None:
    """Limits of the kernel, from which there is no way back."""
    seconds = int(request["timeout_s"]) + 1
    for name, value in [
        ("RLIMIT_CPU", seconds), ("RLIMIT_AS", request["memory_mib"] * 2**20), ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NPROC", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 32),
    ]:  # fmt: skip
        kind = getattr(resource, name, None)
        if kind is not None:
            try:
                resource.setrlimit(kind, (value, value))
            except (ValueError, OSError):  # macOS has no address space limit
                continue


def preload(sources: list) -> None:
    """Import what the programs name and may have; afterwards no file can be opened."""
    wanted = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted.add(node.module.split(".")[0])
    for name in sorted(wanted & MODULES):
        __import__(name)
        if name == "collections":
            __import__("collections.abc")


def lock_kernel() -> bool:
    """A seccomp filter: system calls outside `CALLS` fail with EPERM. False: not available."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in CALLS:
        return False
    import ctypes

    arch, numbers = CALLS[machine]

    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                    ("k", ctypes.c_uint32)]  # fmt: skip

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]

    load, equal, give = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050001  # ALLOW; ERRNO | EPERM
    rows = [(load, 0, 0, 4), (equal, 0, len(numbers) + 1, arch), (load, 0, 0, 0)]
    rows += [(equal, len(numbers) - i, 0, n) for i, n in enumerate(numbers)]
    rows += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    array = (Filter * len(rows))(*[Filter(*row) for row in rows])
    program = Program(len(rows), array)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        return False
    for name in [n for n in sys.modules if n.partition(".")[0] in ("ctypes", "_ctypes", "struct")]:
        del sys.modules[name]  # a program that imports it again is named
    return True


def main() -> None:
    """Read the request from stdin, run every program, write one JSON line per program."""
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    request = json.loads(sys.stdin.buffer.read())
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    limit(request)
    preload(request["programs"])
    leave, write, dumps, kinds = os._exit, os.write, json.dumps, dict(EVENTS)
    state = {"at": 0, "out": None, "armed": False}

    def tell(reason: str, detail: str = "") -> None:
        text = state["out"].getvalue() if state["out"] else ""
        # the line break before it ends what a program may have written there itself
        line = b"\n" + dumps([state["at"], reason, detail[:300], text]).encode() + b"\n"
        while line:
            line = line[write(report, line) :]

    def stop(reason: str, detail: str) -> None:
        state["armed"] = False
        tell(reason, detail)
        leave(3)

    def hook(event: str, args: tuple) -> None:
        if not state["armed"]:
            return
        if event == "import":
            name = str(args[0]).partition(".")[0]
            kind = ("network" if name in NETWORK else "process" if name in PROCESS
                    else "native" if name in NATIVE else "import")  # fmt: skip
            stop(kind, f"import {args[0]}")
        if event == "open" and str(args[0]).startswith("<"):
            raise FileNotFoundError(args[0])  # the interpreter looks for the line of an error
        for start, kind in kinds.items():
            if event.startswith(start):
                stop(kind, f"{event} {args[:1]!r}")

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell() + len(text) > request["output_chars"]:
                super().write(text[: request["output_chars"] - self.tell()])
                stop("output", f"more than {request['output_chars']} characters")
            return super().write(text)

    if "audit" in request["guards"]:
        sys.addaudithook(hook)
    guards = [g for g in request["guards"] if g != "seccomp" or lock_kernel()]
    write(report, dumps(guards).encode() + b"\n")
    if not guards:
        leave(4)  # nothing would hold the program
    for at, source in enumerate(request["programs"]):
        state["at"], state["out"] = at, Output()
        sys.stdout = sys.stderr = state["out"]
        state["armed"] = "audit" in guards
        reason, detail = "ok", ""
        try:
            exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
        except SystemExit as error:
            reason, detail = "exit", f"sys.exit({error.code!r})"
        except MemoryError:
            reason = "memory"
        except SyntaxError as error:
            reason, detail = "syntax", f"line {error.lineno}: {error.msg}"
        except BaseException as error:  # whatever a program raises is its result
            reason, detail = "exception", type(error).__name__
            try:
                detail = f"{detail}: {error}"
            except BaseException:  # an error whose text raises
                detail += " without a text"
        state["armed"] = False
        tell(reason, detail)
    leave(0)


if __name__ == "__main__":
    main()
