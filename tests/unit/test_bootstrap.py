"""`make setup`: where an environment may be built, which machines are refused, what is converted."""

import ast
import errno
import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sft_utils import basemodel, bootstrap


@pytest.fixture
def stamp(tmp_path, monkeypatch):
    """The stamp of a converted model, not written yet."""
    path = tmp_path / basemodel.STAMP
    monkeypatch.setattr(bootstrap, "MODEL_STAMP", path)
    return path


def test_the_stamp_is_that_of_the_bundled_model():
    assert bootstrap.MODEL_STAMP.name == basemodel.STAMP
    assert bootstrap.MODEL_STAMP.parent.name == basemodel.BUNDLED


@pytest.mark.parametrize(
    ("said", "current"),
    [
        (None, False),
        ({"files": {}}, False),  # from before recipes were counted
        ({"recipe": basemodel.RECIPE - 1}, False),
        ({"recipe": basemodel.RECIPE}, True),
    ],
)
def test_only_a_model_of_todays_recipe_is_current(stamp, said, current):
    if said is not None:
        stamp.write_text(json.dumps(said))
    assert bootstrap.model_is_current() is current


def test_what_a_killed_conversion_left_is_removed_by_the_next(tmp_path):
    for name, age_s in ((".part-old", 7200), (".part-new", 60), ("model", 7200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    basemodel.remove_killed(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".part-new", "model"]


@pytest.fixture
def disk(monkeypatch):
    """Gives the disk this many free GiB."""

    def free(gib):
        found = SimpleNamespace(free=int(gib * 2**30))
        monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: found)

    return free


def test_a_full_disk_is_refused(disk):
    disk(1.25)
    with pytest.raises(SystemExit, match=r"^setup: only 1\.2 GiB of disk free here, 5 GiB are needed$"):
        bootstrap.check_machine()
    disk(bootstrap.NEEDED_GIB)
    bootstrap.check_machine()


def test_an_old_python_is_refused(disk, monkeypatch):
    disk(100)
    bootstrap.check_machine()
    monkeypatch.setattr(bootstrap, "MIN_PYTHON", (99, 0))
    with pytest.raises(SystemExit, match=r"^setup: Python .* is too old.* make setup PYTHON=python3\.11$"):
        bootstrap.check_machine()


def test_an_old_python_reaches_the_line_that_says_so():
    """Annotations like list[str] end Python 3.8 with a TypeError unless they stay unevaluated."""
    tree = ast.parse(Path(bootstrap.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert (first.module, first.names[0].name) == ("__future__", "annotations")


# Where an environment may be built. Set-up once erased any folder without bin/python.


def only_below(place, remove):
    """`remove`, which a wrong path shall not lead outside of the test's folder."""

    def guarded(path, *args, **options):
        assert Path(path).resolve().is_relative_to(place), path
        remove(path, *args, **options)

    return guarded


@pytest.fixture
def machine(tmp_path, monkeypatch, disk):
    """A repository below a home, nothing installed; `build` runs set-up for a value of VENV."""
    disk(100)
    root = tmp_path / "home" / "work" / "repository"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("main")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(root)
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "model_is_current", lambda: True)
    installed = []
    monkeypatch.setattr(bootstrap, "install", installed.append)
    monkeypatch.setattr(bootstrap, "install_tokenizers", lambda target, python: None)
    monkeypatch.setattr(bootstrap, "link_checkout", lambda python: None)

    def created(self, folder):
        """What venv does, without the seconds that pip takes; never outside of the test's folder."""
        assert Path(folder).resolve().is_relative_to(tmp_path / "home"), folder
        python = Path(folder) / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.unlink(missing_ok=True)
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
        (Path(folder) / "pyvenv.cfg").touch()

    monkeypatch.setattr(bootstrap.venv.EnvBuilder, "create", created)
    monkeypatch.setattr(bootstrap.shutil, "rmtree", only_below(tmp_path, shutil.rmtree))

    def build(value):
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--venv", str(value)])
        installed.clear()
        bootstrap.main()
        return installed

    return SimpleNamespace(root=root, home=tmp_path / "home", build=build)


def everything(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(machine, value, message):
    before = everything(machine.home)
    with pytest.raises(SystemExit, match=rf"^setup: VENV.*{message}") as error:
        machine.build(value)
    assert len(str(error.value).splitlines()) == 1
    assert everything(machine.home) == before, "nothing may be touched"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_venv_is_not_the_repository(machine, value):
    refused(machine, value, "is empty .*CONDA_PREFIX")


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (".", "holds this repository"),
        ("..", "holds this repository"),
        ("../..", "holds this repository"),
        ("../../elsewhere/..", "holds this repository"),
        ("link", "holds this repository"),
    ],
)
def test_the_repository_and_what_is_above_it_are_never_built_in(machine, value, message, marked):
    (machine.home / "elsewhere").mkdir()
    (machine.root / "link").symlink_to(machine.root.parent)
    if marked:
        (machine.root / value / "pyvenv.cfg").touch()
    refused(machine, value, message)


def test_a_home_beside_the_repository_is_never_built_in(machine, monkeypatch):
    home = machine.root.parent.parent / "users" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, home.parent):
        (folder / "pyvenv.cfg").touch()
        refused(machine, folder, "holds your home")


@pytest.mark.parametrize("mark", ["", "pyvenv.cfg"])
def test_a_folder_with_anything_else_in_it_is_left_alone(machine, mark):
    precious = machine.home / "precious"
    (precious / "a").mkdir(parents=True)
    (precious / "a" / "thesis.txt").write_text("years of work")
    if mark:
        (precious / mark).touch()
    refused(machine, precious, r"\(a\), so it is not erased\. Nothing was changed")
    (machine.home / "link").symlink_to(precious)
    refused(machine, machine.home / "link", r"\(a\)")


def test_folders_of_an_environment_without_its_mark_are_left_alone(machine):
    """~/.local has bin, lib and share."""
    local = machine.home / ".local"
    for name in ("bin/tool", "lib/library", "share/data"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).touch()
    refused(machine, local, r"is no Python environment and not empty \(bin, lib, share\)")


def test_empty_folders_of_other_names_are_left_alone(machine):
    (machine.home / "archive" / "2026").mkdir(parents=True)
    refused(machine, machine.home / "archive", "is no Python environment")


def test_a_home_that_the_shell_did_not_fill_in_is_no_folder(machine):
    """zsh hands VENV=~/env on as it is; `rm -rf ~` is what one types to be rid of such a folder."""
    refused(machine, "~/env", r"your shell has left the ~ as it is\. Write VENV=\$HOME/")


def test_a_file_is_no_folder(machine):
    (machine.home / "notes.txt").write_text("notes")
    refused(machine, machine.home / "notes.txt", "is no folder")
    (machine.home / "link").symlink_to(machine.home / "notes.txt")
    refused(machine, machine.home / "link", "is no folder")


def test_a_folder_that_cannot_be_read_is_one_line(machine, monkeypatch):
    (machine.home / "closed").mkdir()
    monkeypatch.setattr(bootstrap.os, "access", lambda path, mode: False)
    refused(machine, machine.home / "closed", "is no folder that can be read")


def killed_at_pip(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (folder / "bin" / "python").chmod(0o755)
    (folder / "lib" / "python3.11").mkdir(parents=True)
    (folder / "lib64").symlink_to("lib")
    (folder / "pyvenv.cfg").touch()


def killed_at_the_first_folders(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()


def python_is_gone(folder):
    """The system's Python was exchanged: the link dangles, the stamp of the lock is still there."""
    killed_at_pip(folder)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("gone")
    (folder / bootstrap.STAMP).write_text("old")


@pytest.mark.parametrize(
    "made",
    [lambda folder: None, Path.mkdir, killed_at_the_first_folders, killed_at_pip, python_is_gone],
)
@pytest.mark.parametrize("value", [".venv", "../other", "link"])
def test_an_absent_empty_or_half_made_environment_is_built(machine, made, value):
    (machine.root / "link").symlink_to(machine.home / "far")
    folder = (machine.root / value).resolve()
    made(folder)
    assert machine.build(value) == [folder / "bin" / "python"]
    assert (folder / "bin" / "python").read_text() == "#!/bin/sh\n", "made anew"
    assert not (folder / "lib").exists(), "what was half-made is gone"
    assert machine.build(value) == [], "and the second time there is nothing to do"


def test_a_finished_environment_whose_python_is_gone_is_built_again(machine):
    assert machine.build(".venv")
    (machine.root / ".venv" / "bin" / "python").unlink()
    assert machine.build(".venv")


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 127\n", "#!/gone/python\n", ""])
def test_a_finished_environment_whose_python_cannot_start_is_built_again(machine, text):
    """The stamp of the lock is current, the library behind the interpreter is not there."""
    assert machine.build(".venv")
    python = machine.root / ".venv" / "bin" / "python"
    python.write_text(text)
    python.chmod(0o755 if text else 0o644)
    assert machine.build(".venv") == [python]
    assert python.read_text() == "#!/bin/sh\n", "made anew"


def test_an_interrupted_repair_is_continued(machine, monkeypatch):
    """The mark of an environment goes last, so that the rest of it is still known as one."""
    folder = machine.root / ".venv"
    killed_at_pip(folder)
    (folder / "lib" / "python3.11" / "pip.py").touch()

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            machine.build(".venv")
    assert (folder / "pyvenv.cfg").exists()
    assert machine.build(".venv")


def test_a_working_environment_is_used_as_it_is(machine):
    """pip answers: nothing is erased, whatever else is there."""
    machine.build("../project")
    folder = machine.root.parent / "project"
    (folder / "thesis.txt").write_text("years of work")
    (folder / bootstrap.STAMP).unlink()
    assert machine.build("../project") == [folder / "bin" / "python"]
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_conda_environment_is_linked_only(machine):
    folder = machine.home / "conda" / "envs" / "sft-notebooks"
    (folder / "conda-meta").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    before = everything(folder)
    assert machine.build(folder) == []
    assert everything(folder) == before


def remove(machine, monkeypatch, value):
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--venv", str(value), "--remove"])
    bootstrap.main()


def test_distclean_knows_an_environment_that_a_newer_python_made(machine, monkeypatch):
    """`python -m venv` writes a .gitignore since 3.13."""
    machine.build(".venv")
    (machine.root / ".venv" / ".gitignore").write_text("*")
    remove(machine, monkeypatch, ".venv")
    assert not (machine.root / ".venv").exists()


def test_a_python_that_would_be_ignored_is_refused(machine, monkeypatch, capsys):
    assert machine.build(".venv")
    settings = machine.root / ".venv" / "pyvenv.cfg"
    for name in ("version", "version_info"):  # of venv, and of others
        settings.write_text(f"home = /usr/bin\n{name} = 3.2.1\n")
        assert machine.build(".venv") == [], "nobody has asked for another"
        bootstrap.check_python(settings.parent, ".venv", ["NB"])
        with pytest.raises(SystemExit, match=r"VENV=\.venv is an environment of 3\.2\. Delete that folder"):
            bootstrap.check_python(settings.parent, ".venv", ["PYTHON"])
    settings.write_text("version = {}.{}.99\n".format(*sys.version_info))
    bootstrap.check_python(settings.parent, ".venv", ["PYTHON"])


def test_a_conda_environment_without_the_packages_is_told(tmp_path):
    """`export VENV=$CONDA_PREFIX` in base, for example: nothing is written there."""
    venv = tmp_path / "conda"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    with pytest.raises(SystemExit, match=r"conda is a conda environment without torch\. Make the one of"):
        bootstrap.link_checkout(venv / "bin" / "python")
    assert not list(venv.rglob("sft_utils_checkout.pth"))


def test_a_second_set_up_waits_for_the_first(machine, monkeypatch, capsys):
    """Both find no environment; the second would erase what the first is building."""
    began, end = threading.Event(), threading.Event()

    def slow(python):
        began.set()
        assert end.wait(30)

    monkeypatch.setattr(bootstrap, "install", slow)
    first = threading.Thread(target=machine.build, args=(".venv",))
    first.start()
    assert began.wait(30)
    second = threading.Thread(target=machine.build, args=(".venv",))
    second.start()
    second.join(1)
    assert second.is_alive()
    assert capsys.readouterr().out.endswith("setup: waiting for another set-up of this clone …\n")
    monkeypatch.setattr(bootstrap, "install", lambda python: pytest.fail("all was done"))
    end.set()
    first.join(30)
    second.join(30)
    assert not second.is_alive()
    assert (machine.root / ".venv" / bootstrap.STAMP).exists()


def test_a_folder_without_locks_is_no_obstacle(machine, monkeypatch):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert machine.build(".venv")


@pytest.mark.parametrize(("system", "more"), [("linux", []), ("darwin", [bootstrap.MACOS])])
def test_kernels_on_macos_get_what_they_import_there(monkeypatch, system, more):
    """Without it no notebook runs there: ipykernel 7.4.0, ipkernel.py, IPythonKernel.__init__."""
    said = []

    def pip(python, *arguments):
        said.append(arguments)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(bootstrap, "pip", pip)
    monkeypatch.setattr(bootstrap.sys, "platform", system)
    bootstrap.install(Path("python"))
    assert said[-1] == ("--no-deps", "-r", str(bootstrap.LOCK), *more)
    kernel = importlib.metadata.requires("ipykernel")
    wanted = [x for x in kernel if "Darwin" in x and "extra" not in x]
    assert [x.partition(">")[0] for x in wanted] == [bootstrap.MACOS.partition("=")[0]]


@pytest.mark.parametrize("sign", ["SSLError", "ProxyError", "ConnectTimeoutError", "ReadTimeoutError"])
def test_an_index_that_refuses_is_not_a_wrong_pin(sign):
    """What pip says at its end is "no matching distribution"."""
    text = f"WARNING: Retrying (Retry(total=0)) after connection broken by '{sign}(x)'\n"
    text += "ERROR: No matching distribution found for torch==2.13.0"
    said = bootstrap.explain(SimpleNamespace(stderr=text, stdout=""))
    assert said == (
        f"the package index cannot be reached ({sign}). Check proxy and certificates, then run: make setup"
    )


def test_a_locale_without_our_characters_is_no_error(machine):
    code = (
        "import sys; from sft_utils import bootstrap as b; b.prepare = lambda *x: print('setup: … done'); "
        "sys.argv = ['x', '--venv', '.venv']; b.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"},
                          cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.stdout, done.stderr) == ("setup: ? done\n", "")


@pytest.mark.parametrize("place", ["runs/cpu", "reproduce/3fa9/smoke"])
def test_clean_waits_for_no_run_but_removes_none(machine, monkeypatch, place):
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--idle"])
    bootstrap.main()
    path = machine.root / "outputs" / place / ".lock"
    path.parent.mkdir(parents=True)
    path.write_text("process 7")
    bootstrap.main()
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match=rf"^setup: a run is writing to outputs/{place} \(process 7\)"):
            bootstrap.main()


def test_distclean_removes_the_environment_and_nothing_else(machine, monkeypatch):
    before = everything(machine.home)
    machine.build(".venv")
    remove(machine, monkeypatch, ".venv")
    assert everything(machine.home) == before
    remove(machine, monkeypatch, ".venv")
    (machine.root / ".venv").symlink_to(machine.home / "far")
    machine.build(".venv")
    remove(machine, monkeypatch, ".venv")
    assert not (machine.root / ".venv").is_symlink()
    assert (machine.home / "far" / "pyvenv.cfg").exists(), "of a link, only the link"


@pytest.mark.parametrize(
    ("value", "message"), [("..", "holds this repository"), ("../project", "more than an env"), ("", "empty")]
)
def test_distclean_removes_no_folder_with_more_in_it(machine, monkeypatch, value, message):
    (machine.root.parent / "project").mkdir()
    (machine.root.parent / "project" / "thesis.txt").touch()
    (machine.root / value / "pyvenv.cfg").touch()
    before = everything(machine.home)
    with pytest.raises(SystemExit, match=rf"^setup: VENV.*{message}"):
        remove(machine, monkeypatch, value)
    assert everything(machine.home) == before


def test_a_real_environment_is_repaired(machine, monkeypatch):
    """venv itself, not its stand-in: killed before pip, then whole."""
    monkeypatch.undo()
    folder = machine.home / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    bootstrap.create(folder, folder / "bin" / "python")
    done = subprocess.run([folder / "bin" / "python", "-m", "pip", "--version"], check=False)
    assert done.returncode == 0
    assert (folder / "bin" / "activate").is_file()


NAMES = ["PROFILE", "NB", "PARAMS", "DATA", "MAPPING", "FORCE", "VENV"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("PROFLE", r"make reads no PROFLE=\. Did you mean PROFILE=\? It reads: PROFILE NB"),
        ("V_ENV", r"Did you mean VENV=\?"),
        ("data", r"Did you mean DATA=\?"),
        ("max_steps", r'goes into PARAMS="max_steps=…"\.'),
        ("margin", r'goes into PARAMS="margin=…"\.'),
        ("NOTEBOOK", r"make reads no NOTEBOOK=\. It reads: PROFILE NB"),
    ],
)
def test_a_name_that_make_does_not_read_is_refused(typed, message):
    with pytest.raises(SystemExit, match=rf"^setup: .*{message}"):
        bootstrap.check_names(["NB", typed], NAMES)


def test_known_names_and_environment_variables_pass():
    bootstrap.check_names([*NAMES, "HF_HUB_OFFLINE", "SFT_THREADS", "CUDA_VISIBLE_DEVICES"], NAMES)
    bootstrap.check_names([], [])
