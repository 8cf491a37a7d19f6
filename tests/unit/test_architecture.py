"""The layers of the package: imports go strictly downward, modules stay small."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sft_utils"

LAYERS = [
    {"errors", "grounding", "bootstrap", "nbcompare", "decoding", "sandboxed", "languages", "heap",
     "multiples", "equations"},
    {"artifacts", "schematext", "answercheck", "puzzles", "sandbox", "rules", "colab"},
    {"generated", "traces", "intervals", "basemodel", "rendering", "jsonanswers", "manifest", "readme",
     "duplicates", "constrain", "workers", "recalls", "sums", "checkpoints"},
    {"schemafaults"},
    {"statetraces", "tracefaults", "chat", "scoring", "taxonomy", "documents", "outlines",
     "htmlparts"},
    {"clusters", "config", "masking", "generation", "data", "nbsource", "audit", "handpage",
     "handfiles"},
    {"schemas", "parsing", "runtime", "tickets", "modeling", "tracking", "filters", "personal",
     "dialogues", "harness", "preferences", "rankrun", "ablations", "trialstats"},
    {"rankreport", "rankresult", "merging", "serving", "gguffile", "answering", "modelcard",
     "trialstore", "sweeps", "trialplots", "jsonlists"},
    {"launching", "sharded", "mergecheck", "tables", "jsonfiles", "memory", "training", "report", "answers", "leaks", "nbdeps",
     "nbparams", "nbprogress", "general", "trialreport"},
    {"sniffing", "exclusions", "coverage", "curation", "datacard", "nbexec", "nbtimes", "handover", "ranktrain",
     "backends", "gpucheck"},
    {"loading", "gpuruns"},
    {"layouts", "reasoning", "gpuarms"},
    {"tasks"},
    {"structured"},
    {"preflight"},
    {"nbflow", "nbverify"},
    {"nbjobs", "nbreplay", "nbpublish"},
    {"nbchain"},
    {"nbrun", "regress"},
]
"""sft_utils/README.md says what each module is for."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = {p.relative_to(PACKAGE).with_suffix("").as_posix(): p for p in sorted(PACKAGE.rglob("*.py"))}
FILES.pop("__init__")
MODULES = sorted(FILES)
RUNNER = {name for name in MODULES if name.startswith("nb")} | {"readme", "regress", "bootstrap", "colab", "workers"}


def imported(path: Path, *, top_level_only: bool) -> set[str]:
    """Names of sft_utils modules (or of any package) that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if node.module == "sft_utils":
                found |= {f"sft_utils.{alias.name}" for alias in node.names}
            else:
                found.add(".".join(parts[:2]) if parts[0] == "sft_utils" else parts[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_every_module_has_a_layer():
    assert {name.split("/")[0] for name in MODULES} == set(LEVEL), "add the module to LAYERS and to sft_utils/README.md"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    room = name.split("/")[0]
    own = {m.split(".")[1] for m in imported(FILES[name], top_level_only=True)
           if m.startswith("sft_utils.") and m != "sft_utils.__version__"} - {room}  # fmt: skip
    upward = {m for m in own if m in LEVEL and LEVEL[m] >= LEVEL[room]}
    assert not upward, f"{name} (layer {LEVEL[room]}) imports {upward}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{name} has {lines} lines: does it still have one purpose?"


@pytest.mark.parametrize("name", sorted(RUNNER))
def test_the_runner_never_imports_torch(name):
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "unsloth", "wandb"}
    assert not imported(FILES[name], top_level_only=False) & heavy


@pytest.mark.parametrize("name", [m for m in MODULES if m != "training"])
def test_optional_packages_are_imported_lazily(name):
    lazy = {"torch", "bitsandbytes", "unsloth", "wandb", "matplotlib", "ftfy", "transformers",
            "jsonschema", "lxml", "llguidance", "lm_eval", "datasets", "mlflow", "yaml"}  # fmt: skip
    assert not imported(FILES[name], top_level_only=True) & lazy


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
