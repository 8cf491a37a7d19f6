"""Reports beside the committed results: those of the run, whole, and of no single machine."""

import re

import pytest

from sft_utils.artifacts import read_json, sha256_path
from sft_utils.errors import RunnerError
from sft_utils.notebook.nbsource import Layout
from sft_utils.runner import nbpages, nbrun
from sft_utils.runner.nbpublish import publish
from sft_utils.runner.nbverify import verify
from tests.unit.nb_repo import MODELS, edit, make_repo

NOWHERE = re.compile("/home/me/")


@pytest.fixture
def layout(tmp_path):
    return Layout(root=tmp_path, runs_root=tmp_path / "outputs" / "runs")


@pytest.fixture
def result(layout):
    """A run that handed on a page, a folder, and what another notebook reads."""
    folder = layout.run_file("11_end", "cpu", "")
    (folder / "figures").mkdir(parents=True)
    (folder / "page.html").write_text("<p>7</p>", encoding="utf-8")
    (folder / "figures" / "a.png").write_bytes(b"\x89PNG")
    (folder / "figures" / "page.md").write_text("![](a.png)", encoding="utf-8")
    (folder / "adapter").write_text("weights", encoding="utf-8")
    handed = {"report": "page.html", "data": "figures", "adapter": "adapter"}
    return {"profile": "cpu", "files": {
        key: {"path": str((folder / name).relative_to(layout.root)), "sha256": sha256_path(folder / name)}
        for key, name in handed.items()}}  # fmt: skip


def test_what_readers_open_is_committed_and_nothing_else(layout, result):
    assert list(nbpages.unfit(layout, result, NOWHERE)) == []
    old = layout.reference("11_end", "cpu").with_suffix("") / "page_of_old.html"
    old.parent.mkdir(parents=True)
    old.write_text("an earlier run", encoding="utf-8")
    written = nbpages.write(layout, "11_end", result)
    folder = layout.root / "outputs" / "reference" / "cpu" / "11_end"
    assert written == [folder / "page.html"]
    assert [p.name for p in folder.iterdir()] == ["page.html"]
    result["files"]["report"] = result["files"]["data"]
    assert nbpages.write(layout, "11_end", result) == [folder / "figures"]
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == ["figures/a.png", "figures/page.md"]
    assert list(nbpages.changed(layout, "11_end", result)) == []
    (folder / "figures" / "more.png").write_bytes(b"")
    assert len(list(nbpages.changed(layout, "11_end", result))) == 1, "a file too many"


def test_edited_and_missing_reports_are_named(layout, result):
    (page,) = nbpages.write(layout, "11_end", result)
    page.write_text("<p>8</p>", encoding="utf-8")
    assert list(nbpages.changed(layout, "11_end", result)) == [
        "outputs/reference/cpu/11_end/page.html is not what the run of the committed result wrote"]
    page.unlink()
    assert next(nbpages.changed(layout, "11_end", result)) == "outputs/reference/cpu/11_end/page.html is missing"


def test_unfit_reports_are_named(layout, result):
    page = layout.root / result["files"]["report"]["path"]

    def said(text):
        page.write_text(text, encoding="utf-8")
        result["files"]["report"]["sha256"] = sha256_path(page)
        return list(nbpages.unfit(layout, result, NOWHERE))

    assert said("see /home/me/run") == ["outputs/runs/cpu/11_end/page.html holds a path of this machine: /home/me/"]
    assert said("x" * (nbpages.MAX_BYTES + 1)) == ["outputs/runs/cpu/11_end/page.html has 1.0 MiB; at most 1"]
    page.write_text("edited", encoding="utf-8")
    assert list(nbpages.unfit(layout, result, NOWHERE)) == [
        "outputs/runs/cpu/11_end/page.html is not what the run handed on as 'report'; run it again"]


def test_publish_and_verify_know_the_reports_of_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv("SFT_THREADS", raising=False)
    layout = make_repo(tmp_path / "a repo")
    edit(layout, "sft_utils/tiny.py", '"files": {"here"', '"files": {"report"')
    assert nbrun.main(["run", "--nb", "0"], layout) == 0
    written = publish(layout, ["00_first"], "cpu", MODELS)
    assert "outputs/reference/cpu/00_first/rows" in written
    assert not [line for line in verify(layout, MODELS) if line.startswith("00_first")]
    page = layout.root / "outputs/reference/cpu/00_first/rows"
    page.write_text("9")
    (line,) = [line for line in verify(layout, MODELS) if line.startswith("00_first")]
    assert line == ("00_first: outputs/reference/cpu/00_first/rows is not what the run of the committed "
                    "result wrote. Run: make nb NB=00 && make publish NB=00")  # fmt: skip
    run = layout.root / read_json(layout.reference("00_first", "cpu"))["files"]["report"]["path"]
    run.write_text("10")
    with pytest.raises(RunnerError, match="00_first"):
        publish(layout, ["00_first"], "cpu", MODELS)
    assert page.read_text() == "9", "nothing was published"
