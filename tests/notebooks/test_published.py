"""Published notebooks are what their sources produce, and deterministic cells repeat."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sft_utils.notebook import nbsource
from sft_utils.runner import nbrun, nbverify

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_GONE = ("PYTEST_CURRENT_TEST",)


PENDING: dict[str, str] = {}
"""Source without a published notebook -> date and reason. An entry that is published fails."""


def test_fresh_and_untouched():
    layout = nbsource.Layout.of(ROOT)
    published = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert not published & PENDING.keys()
    assert PENDING.keys() <= set(nbsource.notebook_names(layout))
    found = nbverify.verify(layout, nbrun.profile_models())
    assert [x for x in found if x.split(": not published")[0] not in PENDING] == []


def printed(number):
    """What the cells of a published notebook print."""
    path = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def test_the_example_that_opens_readme_is_the_one_of_the_published_notebooks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(b for b in text.split("```") if b.startswith("text\nmail"))
    mail = " ".join(block.split("mail", 1)[1].split("\n\n")[0].split())
    prompted, tuned = re.findall(r"^\{.*\}$", block, re.M)
    assert "eight solved examples in the prompt (00)" in block
    assert "answers of arm few_shot_8," in printed("00"), "the arm whose answers 00 prints"
    for number, answer in (("00", prompted), ("03", tuned)):
        shown = re.findall(r"(?:MAIL|INPUT) +(.*?) *\nGOLD .*\nANSWER (.*?) *\n", printed(number))
        assert (mail, answer) in shown, number


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder that holds 01 at profile smoke, made by the runner itself."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "SFT_RUNS": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "sft_utils.runner.nbrun", "run", "--nb", "01", "--profile", "smoke"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", ["01", "02"])
def test_deterministic_cells_repeat(number, runs, tmp_path):
    """nbval runs the notebook up to its last deterministic cell and compares those outputs."""
    source = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    notebook = nbformat.read(source, as_version=4)
    tagged = [
        i
        for i, c in enumerate(notebook.cells)
        if "nbval-check-output" in c.metadata.get("tags", [])
    ]
    assert tagged, "nothing would be compared"
    notebook.cells = notebook.cells[: tagged[-1] + 1]
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r'profile: str = "cpu"', 'profile: str = "smoke"', cell.source)
    copy = tmp_path / source.name
    nbformat.write(notebook, copy)
    environment = {k: v for k, v in os.environ.items() if k not in RUNTIME_GONE}
    environment |= {"SFT_RUNS": str(runs), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_nbval.py")), str(copy)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len([c for c in notebook.cells if c.cell_type == 'code'])} passed" in done.stdout
