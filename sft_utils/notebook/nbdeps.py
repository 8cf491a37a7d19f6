"""What a notebook depends on, derived from its source, and the hash that says "unchanged"."""

import ast
import errno
import functools
import itertools
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import given_path, read_json, sha256_file, sha256_json, sha256_text
from sft_utils.config import PROFILES, cpu_threads
from sft_utils.errors import ConfigError, RunnerError
from sft_utils.manifest import locked_versions
from sft_utils.notebook.nbsource import NAME, Layout, notebook_names, read_source

MODULE_NAME = re.compile(r"sft_utils((?:\.\w+)+)")
RECORDED = re.compile(r"outputs/reference/[\w-]+\.json")  # benchmarks; results are `upstream`


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Everything whose content can change what a notebook prints."""

    upstream: tuple[str, ...]  # notebooks it requires, in order of their numbers
    optional: tuple[str, ...]  # notebooks whose results it reads if they are there
    modules: tuple[str, ...]  # sft_utils modules, transitively; "chat", "preflight/batches"
    data: tuple[Path, ...]  # files under data/ and recorded benchmarks, absolute


def dependencies(layout: Layout, notebook: str) -> Dependencies:
    """Derive the dependencies of a notebook from its code.

    Upstream notebooks are the literals in `require("NN_slug", ...)`; a notebook that calls
    `recorded(...)` reads the results of all earlier ones, whatever of them is there. Data files
    are the string literals below data/ that exist (a folder counts with all its files), also put
    together as `ROOT / "data" / "rows.jsonl"`, and those that name a benchmark,
    outputs/reference/NAME.json; a path that is made otherwise is not seen. Modules are the
    `sft_utils` imports, also those inside functions or named for `python -m sft_utils.x`.

    Raises:
        RunnerError: The notebook or a module it imports is no valid Python.
    """
    own = _named(read_source(layout, notebook), f"notebooks/src/{notebook}.py")
    parts = [own]
    modules: set[str] = set()
    names, waiting = set(own.modules), list(own.modules)
    while waiting:
        for module in set(_module_files(layout, waiting.pop())) - modules:
            modules.add(module)
            path = layout.root / "sft_utils" / f"{module}.py"
            parts.append(_named(path.read_text(encoding="utf-8"), f"sft_utils/{module}.py"))
            waiting += parts[-1].modules - names
            names |= parts[-1].modules
    data = {path for part in parts for path in _data_files(layout, part)}
    upstream = tuple(sorted(own.required - {notebook}))
    earlier = [n for n in notebook_names(layout) if n < notebook and n not in upstream]
    return Dependencies(
        upstream=upstream,
        optional=tuple(earlier) if "recorded" in own.called else (),
        modules=tuple(sorted(modules)),
        data=tuple(sorted(data)),
    )


def upstream_closure(layout: Layout, notebook: str) -> list[str]:
    """All notebooks that must have run before this one, in the order to run them."""
    found: set[str] = set()
    waiting = set(dependencies(layout, notebook).upstream)
    while waiting:
        name = waiting.pop()
        if not layout.source(name).is_file():
            raise RunnerError(
                f"{notebook} requires {name!r}, but notebooks/src/{name}.py does not exist. "
                "Correct the name in require(...)."
            )
        found.add(name)
        waiting |= set(dependencies(layout, name).upstream) - found
    return sorted(found)


def state_hash(
    layout: Layout,
    notebook: str,
    profile: str,
    params: Mapping[str, Any],
    threads: int | None = None,
) -> str:
    """One hash over all that decides a notebook's result; equal means "unchanged".

    Counted: the notebook's source, the modules and data files it reaches, the versions of all
    packages of the lock, a base model that is a folder of the user's, the results of the notebooks
    it reads without their times, the profile, the parameters, the files parameters point at, and
    the number of threads on a CPU, which decides last digits.

    Args:
        layout: Where things are.
        notebook: Full name.
        profile: Profile of the run.
        params: Parameters that differ from the notebook's defaults.
        threads: Threads of the run; None means those of this process. Not counted on a GPU.
    """
    deps = dependencies(layout, notebook)
    package = layout.root / "sft_utils"
    upstream = {}
    for name in (*deps.upstream, *deps.optional):
        path = layout.run_file(name, profile, ".json")
        upstream[name] = _said(read_json(path)) if path.is_file() else None
    texts = [value for value in params.values() if isinstance(value, str) and value]
    named = [layout.root / os.path.expanduser(value) for value in texts]  # as `loading.load` does
    model = layout.root / PROFILES[profile].model  # else a pinned one, which cannot change
    weights = {str(f.relative_to(model)): _content(f) for f in _files(model)}
    return sha256_json(
        {
            "source": sha256_text(read_source(layout, notebook)),
            "modules": {m: sha256_file(package / f"{m}.py") for m in deps.modules},
            "data": _hashes(layout, deps),
            "packages": {"python": platform.python_version(), **locked_versions()},
            "upstream": upstream,
            "profile": profile,
            "threads": None if PROFILES[profile].is_gpu else threads or cpu_threads(),
            "params": dict(params),
            "param_files": {str(f): _content(f) for p in named for f in _files(p)},
            **({"base_model": weights} if weights else {}),
        }
    )


def data_hashes(layout: Layout, notebook: str) -> dict[str, str]:
    """Data file, relative to the repository -> hash of its content, of all a notebook reaches."""
    return _hashes(layout, dependencies(layout, notebook))


def _hashes(layout: Layout, deps: Dependencies) -> dict[str, str]:
    return {str(p.relative_to(layout.root)): _sha256(p) for p in deps.data}


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"{given_path(path)} cannot be read: {reason}. Check its permissions.")


def _said(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result hands on, without the times and the commit it was made at."""
    manifest = {k: v for k, v in result.get("manifest", {}).items() if k != "git"}
    return {"metrics": result.get("metrics"), "files": result.get("files"), "manifest": manifest}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """What one piece of code names, whatever of it is there."""

    modules: frozenset[tuple[str, ...]]  # parts of dotted names below sft_utils
    data: frozenset[str]  # paths below data/, and those of recorded benchmarks
    required: frozenset[str]  # notebooks in require("NN_slug", ...)
    called: frozenset[str | None]  # functions, without the module in front


# By text: a chain asks for the same hundred modules dozens of times, and parsing takes the time.
@functools.lru_cache(maxsize=1024)
def _named(text: str, label: str) -> _Named:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError as error:
        raise RunnerError(
            f"{label} is no valid Python: {error.msg} in line {error.lineno}. Correct it; "
            "magics and shell lines must be commented (# %time, # !ls)."
        ) from error
    strings = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    found = [MODULE_NAME.match(name) for name in [*_imports(nodes), *strings]]
    return _Named(
        modules=frozenset(tuple(m[1].split(".")[1:]) for m in found if m),
        data=frozenset(filter(_is_data, [*strings, *_joined(nodes)])),
        required=frozenset(_required(calls)),
        called=frozenset(map(_name, calls)),
    )


def _imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["sft_utils" if node.level else "", node.module]))
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _module_files(layout: Layout, parts: tuple[str, ...]) -> Iterator[str]:
    """Module files behind a dotted name, packages on the way included, attributes ignored.

    A module without its room, as notebooks name it, is found as `sft_utils.__getattr__` finds it.
    """
    package = layout.root / "sft_utils"
    if parts and not (package / parts[0]).is_dir() and not (package / f"{parts[0]}.py").is_file():
        rooms = [p.parent.name for p in package.glob(f"*/{parts[0]}.py")]
        parts = (*sorted(set(rooms) - {"preflight"})[:1], *parts)
    for end in range(1, len(parts) + 1):
        stem = "/".join(parts[:end])
        for candidate in (stem, f"{stem}/__init__", f"{stem}/__main__"):
            if (package / f"{candidate}.py").is_file():
                yield candidate


def _required(calls: list[ast.Call]) -> Iterator[str]:
    for call in calls:
        first = call.args[0] if call.args else None
        name = first.value if isinstance(first, ast.Constant) else None
        if _name(call) == "require" and isinstance(name, str) and NAME.fullmatch(name):
            yield name


def _name(call: ast.Call) -> str | None:
    """Name of the function called, without the module in front."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _joined(nodes: list[ast.AST]) -> Iterator[str]:
    """Paths below data/ that are put together with "/", as `ROOT / "data" / "rows.jsonl"`.

    Where a part is no literal, or "data" is all there is, any file of the folder may be meant.
    """
    steps = [n for n in nodes if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)]
    inner = {id(step.left) for step in steps}
    for step in steps:
        parts: list[Any] = []
        node: ast.AST = step
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts.insert(0, node.right.value if isinstance(node.right, ast.Constant) else None)
            node = node.left
        if id(step) not in inner and "data" in parts:
            parts = parts[parts.index("data") :]
            known = list(itertools.takewhile(lambda part: isinstance(part, str), parts))
            whole = len(known) == len(parts) and len(known) > 1
            yield "/".join(known) if whole else f"{'/'.join(known)}/"


def _is_data(text: str) -> bool:
    below = text.startswith("data/") and "\n" not in text and len(text) < 256
    return below or bool(RECORDED.fullmatch(text))


def _data_files(layout: Layout, part: _Named) -> Iterator[Path]:
    for text in part.data:
        yield from _files(layout.root / text)


def _files(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise _unreadable(path, error) from error
        return []  # a long parameter, such as a mapping of columns, is no path
    if not path.is_dir():
        return []
    return [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def _content(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > 1 << 28:  # a model of the user's: reading it all costs minutes
        return f"{stat.st_size} bytes at {stat.st_mtime_ns}"
    return _sha256(path)
