"""The rooms of the package and their layers: imports go strictly downward, modules stay small."""

import ast
import graphlib
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sft_utils"

LAYERS = [
    {""},  # modules of no room: what every room stands on
    {"masks", "scores", "notebook"},
    {"model", "data", "ablate", "reporting"},
    {"task", "cot", "ability", "train", "export", "preflight", "runner"},
    {"curation", "ranks", "gpu"},
]
"""Rooms, from the ground up; sft_utils/README.md says what each is for. A room imports lower layers
only, also inside functions, so never another room of its own layer."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = {p.relative_to(PACKAGE).with_suffix("").as_posix(): p for p in sorted(PACKAGE.rglob("*.py"))}
FILES.pop("__init__")
MODULES = sorted(FILES)
ROOM = {name: name.rpartition("/")[0] for name in MODULES}
RUNNER = {name for name in MODULES if ROOM[name] in ("notebook", "runner")} | {
    "bootstrap", "colab", "workers", "formats"}  # fmt: skip


def foreign(path: Path, *, top_level_only: bool) -> set[str]:
    """Top-level packages that a file imports."""
    found = set()
    for node in _nodes(path, top_level_only):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def own(path: Path, *, top_level_only: bool) -> set[str]:
    """Modules of this package that a file imports, as "room/module"; "?name" where there is none."""
    found = set()
    for node in _nodes(path, top_level_only):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sft_utils":
            base = "/".join(node.module.split(".")[1:])
            for alias in node.names:
                name = f"{base}/{alias.name}".strip("/")
                found.add(next((n for n in (name, f"{name}/__init__", base, f"{base}/__init__") if n in FILES),
                               "" if name == "__version__" else f"?{name}"))  # fmt: skip
    return found - {""}


def _nodes(path, top_level_only):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tree.body if top_level_only else list(ast.walk(tree))


def test_every_room_has_a_layer():
    assert set(ROOM.values()) == set(LEVEL), "add the room to LAYERS and to sft_utils/README.md"
    said = [name for name in MODULES if ast.get_docstring(ast.parse(FILES[name].read_text())) is None]
    assert not said, f"{said} do not say what they are for"


def test_tests_stand_where_the_code_does():
    folders = {p.parent.name for p in Path(__file__).parent.glob("*/test_*.py")}
    assert folders == set(LEVEL) - {""} | {"authored"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    """Modules of this package are named with their room; only notebooks do without it."""
    upward = {m for m in own(FILES[name], top_level_only=False)
              if m.startswith("?") or (ROOM[m] != ROOM[name] and LEVEL[ROOM[m]] >= LEVEL[ROOM[name]])}  # fmt: skip
    assert not upward, f"{name} (layer {LEVEL[ROOM[name]]}) imports {upward}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: own(FILES[name], top_level_only=True) for name in MODULES}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_notebooks_find_every_module_without_its_room():
    """`from sft_utils import name`: one module each, the one that the package itself would name."""
    names = [n.split("/")[1] for n in MODULES if ROOM[n] not in ("", "preflight") and "__" not in n]
    twice = {n for n in names if names.count(n) > 1 or n in FILES or n in LEVEL}
    assert not twice, f"{twice} are ambiguous: notebooks name modules without their room"
    import sft_utils

    assert sft_utils.intervals is importlib.import_module("sft_utils.scores.intervals")
    assert {"errors", "intervals", "tickets", "preflight"} <= set(dir(sft_utils))
    assert not hasattr(sft_utils, "batches")
    with pytest.raises(AttributeError, match="module 'sft_utils' has no attribute 'nothing'"):
        _ = sft_utils.nothing


def test_editors_find_what_notebooks_find():
    """The stub names every module with its room, as `sft_utils.__getattr__` would find it."""
    named = {(node.module.replace(".", "/").removeprefix("sft_utils/") + "/" + alias.name, alias.asname)
             for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
             if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
    assert named == {(n, n.split("/")[1]) for n in MODULES
                     if ROOM[n] not in ("", "preflight") and "__" not in n}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{name} has {lines} lines: does it still have one purpose?"


@pytest.mark.parametrize("name", sorted(RUNNER))
def test_the_runner_never_imports_torch(name):
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "unsloth", "wandb"}
    assert not foreign(FILES[name], top_level_only=False) & heavy


@pytest.mark.parametrize("name", [m for m in MODULES if m != "train/training"])
def test_optional_packages_are_imported_lazily(name):
    lazy = {"torch", "bitsandbytes", "unsloth", "wandb", "matplotlib", "ftfy", "transformers",
            "jsonschema", "lxml", "llguidance", "lm_eval", "datasets", "mlflow", "yaml"}  # fmt: skip
    assert not foreign(FILES[name], top_level_only=True) & lazy


def test_modules_are_documented():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    text += (PACKAGE / "preflight" / "README.md").read_text(encoding="utf-8")
    missing = [name for name in MODULES if f"`{name.split('/')[-1]}`" not in text
               and not name.endswith("__init__")]  # fmt: skip
    assert not missing, f"sft_utils/README.md does not mention {missing}"


def test_no_unused_public_names():
    """Delete what nothing uses: every public function is named outside itself; a test is no use."""
    root = PACKAGE.parent
    files = [*PACKAGE.rglob("*.py"), *root.glob("notebooks/src/*.py"), *root.glob("tests/bench/*.py"),
             *root.glob("data/**/*.py"), root / "Makefile", *root.glob("*/*.md"), *root.glob("*.md")]  # fmt: skip
    text = {p: p.read_text(encoding="utf-8") for p in files}
    unused = []
    for name in MODULES:
        path = FILES[name]
        for node in ast.parse(text[path]).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                lines = text[path].splitlines()
                others = {**text, path: "\n".join(lines[: node.lineno - 1] + lines[node.end_lineno :])}
                word = re.compile(rf"\b{node.name}\b")
                if not any(word.search(body) for body in others.values()):
                    unused.append(f"{name}.{node.name}")
    assert not unused
