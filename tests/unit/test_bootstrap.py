"""`make setup`: when the base model is converted again, and which machines are refused."""

import json
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
