"""A repository of two small notebooks, for the tests of the runner."""

import json
from pathlib import Path
from typing import Any

from sft_utils.notebook.nbdeps import state_hash
from sft_utils.notebook.nbsource import Layout

MODELS = {"smoke": "tiny", "cpu": "tiny", "gpu-16gb": "big"}

TINY = """
import hashlib
import json
import os
import pathlib

from sft_utils.constants import GAIN


def path(notebook, profile):
    return pathlib.Path(os.environ["SFT_RUNS"], profile, notebook + ".json")


def require(notebook, profile):
    return json.loads(path(notebook, profile).read_text())


def save(notebook, profile, value, **more):
    rows = path(notebook, profile).with_suffix("") / "rows"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.write_text(str(value))
    sha = hashlib.sha256(rows.read_bytes()).hexdigest()
    result = {
        "notebook": notebook, "profile": profile, "run_id": "id" + notebook[:2] + profile,
        "hardware": "test", "headline": "tuned.f1", "readme_metrics": ["tuned.f1"],
        "metrics": {"tuned.f1": {"value": value, "n": 8, "ci95": [0.1, 0.9]}},
        "checks": [{"name": "works", "value": 1, "bound": "== 1", "passed": True}],
        "files": {"here": {"path": f"outputs/runs/{profile}/{notebook}/rows", "sha256": sha},
                  "far": {"path": "/elsewhere/rows", "sha256": sha}},
        "manifest": {"data": "d", "versions": {"torch": "1"}, "git": {"commit": "c", "dirty": False}},
    }
    path(notebook, profile).write_text(json.dumps(result | more))
"""

FIRST = """# %% [markdown]
# # 00 · Does the first one work?

# %% [markdown]
# <!-- generated:cost -->
# <!-- /generated -->

# %% tags=["parameters"]
profile: str = "cpu"  # any
steps: int = 2  # steps; 0 = none
rate: float = 1  # a float
loud: bool = False  # prints more

# %%
from sft_utils import tiny

tiny.save("00_first", profile, tiny.GAIN, parameters={"profile": profile, "steps": steps})
print("gain", tiny.GAIN, "steps", steps)
"""

SECOND = """# %% [markdown]
# # 01 · And the second?

# %% tags=["parameters"]
profile: str = "cpu"  # any

# %%
from sft_utils import tiny

# %% [markdown]
# ## The part that reads

# %%
first = tiny.require("00_first", profile)
value = first["metrics"]["tuned.f1"]["value"]


def half(x):
    return x / 2


# %%
tiny.save("01_second", profile, half(value), parameters={"profile": profile})
half(value)
"""

README = """# Tiny
<!-- generated:notebooks -->
<!-- /generated -->
<!-- generated:answers --><!-- /generated -->
<!-- generated:results --><!-- /generated -->
<!-- generated:chain --><!-- /generated -->
"""


def make_repo(root: Path) -> Layout:
    """Write the repository; the second notebook requires the first."""
    files = {
        "sft_utils/__init__.py": "",
        "sft_utils/constants.py": "GAIN = 0.5\n",
        "sft_utils/tiny.py": TINY,
        "sft_utils/unused.py": "X = 1\n",
        "notebooks/src/00_first.py": FIRST,
        "notebooks/src/01_second.py": SECOND,
        "README.md": README,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Layout(root=root, runs_root=root / "outputs" / "runs")


def edit(layout: Layout, name: str, old: str, new: str) -> None:
    """Replace text in a file; it must be there."""
    path = layout.root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def write_result(path: Path, **changes: Any) -> dict[str, Any]:
    """Write a result file with some keys changed; returns it."""
    result: dict[str, Any] = {
        "notebook": path.stem,
        "profile": "cpu",
        "run_id": "abc123",
        "hardware": "test",
        "wall_s": 65.0,
        "peak_rss_gib": 1.25,
        "parameters": {"profile": "cpu"},
        "metrics": {"tuned.f1": {"value": 0.5, "n": 8, "ci95": [0.1, 0.9]}},
        "checks": [{"name": "works", "value": 1, "bound": "== 1", "passed": True}],
        "files": {},
        "manifest": {"data": "d", "code": "c", "versions": {"torch": "1"}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | changes))
    return result | changes


def finish(layout: Layout, notebook: str, profile: str) -> None:
    """Make a result that `write_result` wrote that of a finished, unchanged run."""
    state = {"state_hash": state_hash(layout, notebook, profile, {})}
    layout.run_file(notebook, profile, ".state.json").write_text(json.dumps(state))
    layout.run_file(notebook, profile, ".ipynb").write_text("{}")

THIRD = """# %% [markdown]
# # 02 · Does it need neither?

# %% tags=["parameters"]
profile: str = "cpu"  # any

# %%
from sft_utils import tiny

# %%
tiny.save("02_third", profile, 0.25, parameters={"profile": profile})
"""

REPORT = """# %% [markdown]
# # 03 · What is there to report?

# %% tags=["parameters"]
profile: str = "cpu"  # any

# %%
from sft_utils import tiny

# %%
seen = tiny.recorded(profile)
tiny.save("03_report", profile, len(seen) / 10, parameters={"profile": profile}, seen=seen)
"""

RECORDED = """

def recorded(profile):
    files = sorted(pathlib.Path(os.environ["SFT_RUNS"], profile).glob("0[0-2]_*.json"))
    return [p.stem for p in files if p.stem.count(".") == 0]
"""


def add_report(layout: Layout) -> None:
    """Two more notebooks: one that requires nothing, one that reads whatever has run."""
    for name, text in {"02_third": THIRD, "03_report": REPORT}.items():
        (layout.root / f"notebooks/src/{name}.py").write_text(text, encoding="utf-8")
    tiny = layout.root / "sft_utils/tiny.py"
    tiny.write_text(tiny.read_text(encoding="utf-8") + RECORDED, encoding="utf-8")
