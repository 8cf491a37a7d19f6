"""No heavy import before it is needed, seen in sys.modules of a fresh process; never by a clock."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "evaluate", "bitsandbytes",
    "unsloth", "wandb", "matplotlib", "pandas", "pyarrow", "sklearn", "scipy", "lm_eval",
    "llguidance", "IPython", "papermill", "nbclient", "jupyter_client", "requests", "aiohttp",
)  # fmt: skip
LIGHT = ("errors", "artifacts", "basemodel", "config", "notebook.readme", "data.loading", "data.layouts",
         "manifest")  # fmt: skip
"""Modules that also do without numpy, jupytext and jsonschema: they start everything else."""
EXEMPT = {"training"}
"""It derives from a class of transformers; nothing that does not train imports it."""

WATCH = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(name)
    found[name] = sorted({m.split(".")[0] for m in set(sys.modules) - before})
print(json.dumps(found))
"""


def loaded_by(names):
    """Module -> top-level packages that its import brought, on top of those before it."""
    command = [sys.executable, "-c", WATCH, json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def all_modules():
    package = ROOT / "sft_utils"
    paths = [p.relative_to(ROOT).with_suffix("") for p in sorted(package.rglob("*.py"))]
    names = [".".join(p.parts).removesuffix(".__init__") for p in paths]
    return [n for n in names if not n.endswith(".__main__") and n.split(".")[-1] not in EXEMPT]


def test_no_module_imports_anything_heavy():
    found = loaded_by(all_modules())
    assert {n: sorted(set(m) & set(HEAVY)) for n, m in found.items() if set(m) & set(HEAVY)} == {}


def test_what_starts_everything_imports_the_standard_library_only():
    for name, packages in loaded_by([f"sft_utils.{n}" for n in LIGHT]).items():
        foreign = {p for p in packages if p not in sys.stdlib_module_names} - {"sft_utils"}
        assert not foreign, f"{name} brings {foreign}"


def test_the_exemption_is_still_needed():
    assert "transformers" in loaded_by(["sft_utils.train.training"])["sft_utils.train.training"]


def test_commands_in_the_documentation_name_modules_that_run():
    texts = [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "outputs/README.md"]
    texts += [p for top in ("data", "notebooks", "sft_utils", "tests") for p in (ROOT / top).rglob("*.md")]
    texts += [*ROOT.glob("notebooks/src/*.py"), *ROOT.glob("notebooks/*.yaml")]
    said = {}
    for path in texts:
        for name in re.findall(r"-m ((?:sft_utils|tests)[\w.]*\w)", path.read_text(encoding="utf-8")):
            said.setdefault(name, path.relative_to(ROOT))
    assert len(said) > 8, said
    for name, path in said.items():
        at = ROOT.joinpath(*name.split("."))
        module = at / "__main__.py" if at.is_dir() else at.with_suffix(".py")
        assert module.is_file(), f"{path}: python -m {name}"
