"""Where the time went: kinds of cells from their code, shares that add up, the command."""

import io
import json

import nbformat
import pytest

from sft_utils.runner import nbrun, nbtimes
from sft_utils.runner.nbprogress import say
from tests.unit.nb_repo import make_repo


def executed(*cells, wall=None, injected=False):
    """A notebook as papermill leaves it: (source, seconds) or markdown."""
    nb = nbformat.v4.new_notebook()
    for cell in cells:
        if isinstance(cell, str):
            nb.cells.append(nbformat.v4.new_markdown_cell(cell))
            continue
        source, seconds = cell
        nb.cells.append(nbformat.v4.new_code_cell(source))
        if seconds is not None:
            nb.cells[-1].metadata["papermill"] = {"duration": seconds}
    if injected:
        nb.cells[0].metadata["tags"] = ["injected-parameters"]
    if wall is not None:
        nb.metadata["papermill"] = {"duration": wall}
    return nb


@pytest.mark.parametrize(
    ("sources", "last"),
    [
        (["import torch\nfrom x import y\n\nrun = start(1)"], "imports"),
        (["x = 1"], "other"),
        (["model = modeling.load_model(P)"], "load"),
        (["answers = generation.generate(m, t, p)"], "generate"),
        (["trainer.train()"], "train"),
        (["model.train()"], "other"),
        (["training.train_resumable(trainer, folder, {})\nscore = evaluate(m)"], "train"),
        (["def f():\n    loss.backward()"], "other"),
        (["def f():\n    loss.backward()", "def g():\n    return f()", "x = [g() for _ in y]"], "train"),
        (["def ask(m):\n    return m.generate()", "scores = {a: judge(ask, a) for a in b}"], "generate"),
        (["def f():\n    return f()", "f()"], "other"),
        (["class A:\n    def f(self):\n        self.x.backward()"], "other"),
        (["with tracked(run):\n    training.train_resumable(t, f, {})"], "train"),
    ],
)
def test_kinds_come_from_what_is_called(sources, last):
    assert nbtimes.kinds_of(sources)[-1] == last


def test_shares_add_up_and_the_rest_is_the_kernels():
    nb = executed("# T", ("import a", 2.0), "## Train?", ("trainer.train()", 6.0), ("x = 1", None), wall=10.0)
    times = nbtimes.times_of("03_x", nb)
    shares = times.shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == pytest.approx(
        {"imports": 0.2, "train": 0.6, "generate": 0, "load": 0, "other": 0, "kernel": 0.2}
    )
    assert [(c.number, c.heading, c.seconds) for c in times.slowest(2)] == [(2, "Train?", 6.0), (1, "T", 2.0)]


def test_an_interrupted_run_and_injected_parameters_count_as_they_should():
    nb = executed(("steps = 1", 0.5), ("import a", 1.5), ("x = broken(", 0.0), injected=True)
    with pytest.raises(SyntaxError):  # an executed notebook cannot hold this
        nbtimes.times_of("03_x", nb)
    nb.cells.pop()
    times = nbtimes.times_of("03_x", nb)
    assert times.wall_s == 2.0
    assert [c.number for c in times.cells] == [0, 1]
    assert nbtimes.times_of("03_x", executed()).shares()["kernel"] == 0


def test_the_command_prints_each_notebook_the_sum_and_the_slowest_cells(tmp_path, capsys):
    layout = make_repo(tmp_path)
    assert nbrun.main(["times", "--profile", "smoke"], layout) == 2
    assert "make run-all PROFILE=smoke" in capsys.readouterr().err
    folder = layout.runs_root / "smoke"
    folder.mkdir(parents=True)
    for name, seconds in (("00_first", 30.0), ("01_second", 90.0)):
        nb = executed("## How long?", ("m.generate()", seconds), wall=seconds)
        (folder / f"{name}.ipynb").write_text(json.dumps(nb))
    assert nbrun.main(["times", "--profile", "smoke"], layout) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[1].split() == ["00_first", "30", "s", "0%", "0%", "100%", "0%", "0%", "0%"]
    assert lines[3].split()[:3] == ["all", "2", "min"]
    assert "How long?" in lines[-1]
    assert "100%" in lines[-1]


def test_a_line_of_characters_that_the_locale_lacks_is_said(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    say("cell 2/4, a → b · 95 %")
    assert raw.getvalue().decode("latin-1") == "cell 2/4, a ? b · 95 %\n"


def test_a_half_written_notebook_is_left_out(tmp_path, capsys):
    """A run saves after each cell, and may be killed in that, or be under way."""
    layout = make_repo(tmp_path)
    folder = layout.runs_root / "cpu"
    folder.mkdir(parents=True)
    whole = json.dumps(executed(("x = 1", 2.0), wall=2.0))
    (folder / "00_first.ipynb").write_text(whole)
    for half in (whole[: len(whole) // 2], ""):
        (folder / "01_second.ipynb").write_text(half)
        assert nbrun.main(["times"], layout) == 0
        shown = capsys.readouterr().out
        assert "00_first" in shown
        assert "01_second" not in shown
