"""A notebook file alone in a fresh environment: it fetches the repository and asks pip for the pins.

pip is a recorder here and the repository a local path: Colab, RunPod, a real download and a real
GPU were not tried.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest

from sft_utils import colab
from sft_utils.artifacts import ROOT
from sft_utils.bootstrap import LOCK, pins
from sft_utils.notebook import nbsource
from sft_utils.runner import nbverify

PIP = """
import json, os, sys
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("PIP_STATUS", "0")))
"""


TWICE = """
import os

def once():
    try:
        exec({cell!r}, {{}})
        print("CELL done")
    except BaseException as error:
        print("CELL", type(error).__name__, error)

once()
{between}
once()
print("CELL in", os.path.basename(os.getcwd()), os.path.exists("later.txt"))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with what the setup cell needs, as the working tree has it now."""
    folder = tmp_path_factory.mktemp("origin") / "repository"
    shutil.copytree(ROOT / "sft_utils", folder / "sft_utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    shutil.copy(ROOT / "environment.yml", folder)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    first = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    (folder / "later.txt").write_text("a second commit")
    for arguments in (["add", "."], ["commit", "-qm", "two"]):
        subprocess.run([*git, *arguments], check=True)
    return folder, first.stdout.strip()


class Machine:
    """A rented machine: a fresh environment, a folder with one notebook, a pip that writes down."""

    def __init__(self, root, repository):
        self.home, self.log = root / "content", root / "pip.log"
        self.home.mkdir()
        venv.create(root / "venv", with_pip=False)
        self.python = root / "venv" / "bin" / "python"
        self.site = next((root / "venv" / "lib").glob("python*")) / "site-packages"
        self.install("pip", "1.0")
        (self.site / "pip").mkdir()
        (self.site / "pip" / "__init__.py").touch()
        (self.site / "pip" / "__main__.py").write_text(PIP)
        notebook = nbformat.read(ROOT / "notebooks" / "03_qlora_single_gpu.ipynb", as_version=4)
        nbformat.write(nbsource.with_setup_cell(notebook), self.home / "03_qlora_single_gpu.ipynb")
        self.env = {"PATH": os.environ["PATH"], "PIP_LOG": str(self.log), "HOME": str(root),
                    "SFT_REPOSITORY": str(repository)}  # fmt: skip

    def install(self, name, version, requires=()):
        """Make a distribution look installed."""
        folder = self.site / f"{name}-{version}.dist-info"
        folder.mkdir()
        needs = "".join(f"Requires-Dist: {r}\n" for r in requires)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")

    @property
    def cell(self):
        """The first code cell of the notebook."""
        notebook = nbformat.read(next(self.home.glob("*.ipynb")), as_version=4)
        return next(c for c in notebook.cells if c.cell_type == "code").source

    def run(self, then="", **env):
        """Run the first code cell, and a line after it."""
        return self.python_runs(f"{self.cell}\n{then}", **env)

    def run_twice(self, between="", **env):
        """The first cell twice in one kernel, some lines in between; prints what became of each."""
        return self.python_runs(TWICE.format(cell=self.cell, between=between), **env)

    def python_runs(self, code, **env):
        return subprocess.run([str(self.python), "-c", code], cwd=self.home, env=self.env | env,
                              capture_output=True, text=True, check=False)  # fmt: skip

    @property
    def asked(self):
        """What pip was asked for, call by call."""
        if not self.log.exists():
            return []
        return [json.loads(x) for x in self.log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path, repository):
    return Machine(tmp_path, repository[0])


def test_the_first_code_cell_of_every_published_notebook_sets_up():
    published = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert published
    for path in published:
        cells = nbformat.read(path, as_version=4).cells
        first = next(c for c in cells if c.cell_type == "code")
        assert first.source == colab.CELL, f"{path.name}: run make renew"
        assert first.outputs == [], "it prints nothing where the repository is"


def test_the_address_is_one_constant():
    said = [p for p in ROOT.glob("sft_utils/**/*.py") if colab.REPOSITORY in p.read_text()]
    assert [p.name for p in said] == ["colab.py"]
    assert (ROOT / "sft_utils" / "colab.py").read_text().count(colab.REPOSITORY) == 1
    assert "SFT_REPOSITORY" in (ROOT / "README.md").read_text()


def test_a_lone_notebook_fetches_and_installs(machine):
    done = machine.run("import os, sft_utils; print(os.path.basename(os.getcwd()), sft_utils.__file__)")
    assert done.returncode == 0, done.stderr
    where, file = done.stdout.splitlines()[-1].split()
    assert where == colab.FOLDER
    assert file == str(machine.home / colab.FOLDER / "sft_utils" / "__init__.py")
    packages = [x for call in machine.asked for x in call if "==" in x]
    assert {p.replace("+cpu", "") for p in packages} == set(pins(LOCK)), "all pins, exactly"
    assert "torch==2.13.0+cpu" in packages, "no CUDA build where there is no GPU"
    assert all("--no-deps" in call for call in machine.asked)


def test_nothing_happens_the_second_time_or_at_home(machine):
    assert machine.run().returncode == 0
    calls = len(machine.asked)
    inside = machine.home / colab.FOLDER
    done = machine.run("print(os.getcwd())", PYTHONPATH=str(inside))
    assert done.stdout == f"{machine.home}\n", "sft_utils can be imported: not even a line"
    assert len(machine.asked) == calls
    for pin in pins(LOCK):  # a restarted kernel: cloned and installed, not importable yet
        if not pin.startswith("torch=="):
            machine.install(*pin.split("=="))
    machine.install("torch", "2.13.0+cpu")
    done = machine.run("import sft_utils")
    assert done.returncode == 0, done.stderr
    assert len(machine.asked) == calls


@pytest.mark.parametrize(
    ("version", "stays"), [("2.13.0+cu130", True), ("2.13.0", True), ("2.12.1+cu128", False)]
)
def test_the_machines_torch_stays_if_it_satisfies_the_pin(machine, version, stays):
    machine.install("torch", version)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    packages = [x for call in machine.asked for x in call if "==" in x]
    assert any(p.startswith("torch==") for p in packages) is not stays
    assert ("the machine's torch stays" in done.stdout) is stays
    assert "transformers==5.17.0" in packages


def test_the_running_kernel_is_left_alone(machine):
    """Other versions of what the kernel runs on stay; other packages come to their pins."""
    machine.install("ipykernel", "6.17.1", ["tornado>=6", "ipython", "black; extra == 'test'"])
    machine.install("ipython", "7.34.0", ["pygments"])
    for name, version in (("tornado", "6.1"), ("pygments", "2.0"), ("pandas", "2.2.2")):
        machine.install(name, version)
    assert machine.run().returncode == 0
    names = {x.split("==")[0].lower() for call in machine.asked for x in call if "==" in x}
    assert not names & {"ipykernel", "ipython", "tornado", "pygments"}
    assert {"pandas", "papermill"} <= names


def test_a_gpu_machine_gets_what_only_cuda_can_use(machine, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")
    (tools / "nvidia-smi").chmod(0o755)
    machine.install("torch", "2.13.0+cu130")
    assert machine.run(PATH=f"{tools}:{os.environ['PATH']}").returncode == 0
    packages = {x.split("==")[0] for call in machine.asked for x in call if "==" in x}
    assert {*colab.GPU_ONLY, *colab.IFEVAL} <= packages
    assert "torch" not in packages


def test_a_commit_can_be_asked_for(machine, repository):
    done = machine.run("print(os.path.exists('later.txt'))", SFT_COMMIT=repository[1])
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert not (machine.home / colab.FOLDER / "later.txt").exists()


def test_failures_end_in_one_line(machine):
    done = machine.run(PIP_STATUS="1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("setup: ")


def test_a_repository_that_is_not_there_is_named(machine):
    nowhere = str(machine.home / "nowhere")
    done = machine.run("print('went on')", SFT_REPOSITORY=nowhere)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"SFT_REPOSITORY={nowhere} cannot be used: ")
    assert f"repository '{nowhere}' does not exist" in line, "git's own words"
    assert done.stdout == ""
    assert not (machine.home / colab.FOLDER).exists(), "the next try clones again"
    assert machine.asked == []


def test_a_commit_that_is_not_there_installs_nothing(machine):
    done = machine.run("print('went on')", SFT_COMMIT="0" * 40)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"SFT_COMMIT={'0' * 40} cannot be used: fatal: ")
    assert done.stdout == ""
    assert machine.asked == []


def said(done):
    return [line for line in done.stdout.splitlines() if line.startswith("CELL ")]


def test_a_corrected_commit_is_taken_the_second_time(machine, repository):
    done = machine.run_twice(f"os.environ['SFT_COMMIT'] = {repository[1]!r}", SFT_COMMIT="0" * 40)
    failed, *rest = said(done)
    assert failed.startswith("CELL SystemExit SFT_COMMIT=000")
    assert rest == ["CELL done", f"CELL in {colab.FOLDER} False"], done.stderr
    assert machine.asked


def test_a_corrected_address_is_taken_the_second_time(machine, repository):
    then = f"os.environ['SFT_REPOSITORY'] = {str(repository[0])!r}"
    done = machine.run_twice(then, SFT_REPOSITORY=str(machine.home / "nowhere"))
    assert said(done)[1:] == ["CELL done", f"CELL in {colab.FOLDER} True"], done.stderr


def test_a_failed_installation_is_repeated(machine):
    done = machine.run_twice("os.environ['PIP_STATUS'] = '0'", PIP_STATUS="1")
    assert said(done)[0].startswith("CELL SystemExit setup: ")
    assert said(done)[1:] == ["CELL done", f"CELL in {colab.FOLDER} True"], done.stderr
    packages = [x for x in machine.asked[-1] if "==" in x]
    assert len(packages) == len(pins(LOCK)) - 1, "all but torch, which was asked for before"


def test_a_failed_installation_without_network_names_no_make(machine):
    (machine.site / "pip" / "__main__.py").write_text(
        "import sys; sys.exit('Temporary failure in name resolution')"
    )
    line = machine.run().stderr.strip().splitlines()[-1]
    assert line == (
        "setup: no network: the package index cannot be reached. Connect and run: this cell again"
    )


def test_a_commit_without_this_module_can_be_corrected(machine, repository, tmp_path):
    """What was imported of a wrong commit is forgotten, so that the right one counts."""
    other = tmp_path / "other"
    git = ["git", "-C", str(other), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "clone", "-q", str(repository[0]), str(other)], check=True)
    subprocess.run([*git, "rm", "-q", "sft_utils/colab.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "without"], check=True)
    then = f"os.environ['SFT_COMMIT'] = {repository[1]!r}"
    done = machine.run_twice(then, SFT_REPOSITORY=str(other))
    assert said(done)[0].startswith("CELL ImportError")
    assert said(done)[1:] == ["CELL done", f"CELL in {colab.FOLDER} False"], done.stderr


def test_a_package_that_is_loaded_asks_for_a_restart(machine):
    (machine.site / "pandas").mkdir()
    (machine.site / "pandas" / "__init__.py").touch()
    machine.install("pandas", "2.2.2")
    info = machine.site / "pandas-2.2.2.dist-info"
    (info / "top_level.txt").write_text("pandas\n")
    path = next(machine.home.glob("*.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    first = next(c for c in notebook.cells if c.cell_type == "code")
    first.source = f"import pandas\n{first.source}"
    nbformat.write(notebook, path)
    done = machine.run()
    assert done.returncode == 1
    assert "pandas had been loaded by this kernel before. Restart it" in done.stderr
    for pin in pins(LOCK):  # pip has done its work now, and the kernel is still the old one
        name, version = pin.split("==")
        if name not in ("pandas", "torch"):
            machine.install(name, version)
    machine.install("torch", "2.13.0+cpu")
    pinned = next(pin.split("==")[1] for pin in pins(LOCK) if pin.startswith("pandas=="))
    text = (info / "METADATA").read_text().replace("2.2.2", pinned)
    done = machine.run_twice(f"open({str(info / 'METADATA')!r}, 'w').write({text!r})")
    first, second, _ = said(done)
    assert "pandas had been loaded by this kernel before. Restart it" in first
    assert second == first
    assert machine.run("import pandas").returncode == 0, "a new kernel"


def test_the_cell_is_no_cell_of_the_author(tmp_path):
    """It is added once, changes neither hashes nor differences, and adopt drops it."""
    layout = nbsource.Layout.of(ROOT)
    text = nbsource.read_source(layout, "03_qlora_single_gpu")
    plain = nbsource.parse(text, "03_qlora_single_gpu")
    twice = nbsource.with_setup_cell(nbsource.with_setup_cell(nbsource.parse(text, "03_qlora_single_gpu")))
    assert len(twice.cells) == len(plain.cells) + 1
    assert nbsource.code_sha256(twice) == nbsource.code_sha256(plain)
    assert nbsource.differences(plain, twice) == []
    assert nbsource.adopt(text, twice) == text
    path = Path(shutil.copy(ROOT / "notebooks" / "03_qlora_single_gpu.ipynb", tmp_path))
    published = nbformat.read(path, as_version=4)
    published.cells = [c for c in published.cells if nbsource.SETUP_TAG not in c.metadata.get("tags", [])]
    found = nbverify.problems(layout, "03_qlora_single_gpu", published)
    assert any("make renew" in line for line in found)


def test_it_needs_nothing_but_the_standard_library():
    code = "import sys; from sft_utils import colab; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
