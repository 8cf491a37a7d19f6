"""The report of 08: one JSON value, the same bytes again, and figures that say what they show."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from sft_utils.ablate import trialplots, trialreport, trialstore
from sft_utils.ablate.ablations import Trial
from sft_utils.ablate.trialreport import Section
from sft_utils.errors import ConfigError
from sft_utils.scores.scoring import Score

ENTRY = {"value": 0.25, "n": 24, "ci95": [-0.05, 0.5]}


def result(seed, tp):
    scores = [Score(parses=True, schema_valid=True, exact=False, tp=tp, fp=1, fn=1)] * 3
    return {
        "id": f"{seed:016x}", "trial": dataclasses.asdict(Trial(seed=seed)), "curve": [2.0, None, 1.0],
        "scores": trialstore.pack_scores(scores), "trainable": 100, "train_s": 1.5,
    }  # fmt: skip


SECTIONS = [
    Section(question="Rate?", rule="take rank 2.", evidence={"best minus cheapest": ENTRY}, figure="heat_map",
            drawn={"values": [[0.1, 0.7]], "rows": ["1e-3"], "columns": ["rank 0", "rank 2"]}, title="F1"),
    Section(question="Rows?", rule="label 16 rows.", figure="size_curve", title="F1 by rows",
            drawn={"curve": {"8": ENTRY, "16": ENTRY}, "base": 0.1}),
    Section(question="Method?", rule="LoRA.", figure="intervals", title="Against LoRA",
            drawn={"entries": {"dora": ENTRY}, "zero": True}),
    Section(question="Loss?", rule="none.", figure="curves", drawn={"losses": {"a": [2.0, None, 1.0]}}),
    Section(question="All?", rule="none.", figure="parallel", drawn={
        "rows": [{"rate": 0.001, "method": "lora", "f1": 0.2}, {"rate": 0.01, "method": "dora", "f1": 0.6}],
        "columns": ["rate", "method", "f1"]}),
]  # fmt: skip


def test_equal_input_gives_equal_bytes(tmp_path):
    results = [result(1, 3), result(2, 9)]
    page = trialreport.write(tmp_path / "a", SECTIONS, results, {"profile": "smoke"})
    trialreport.write(tmp_path / "b", SECTIONS, results, {"profile": "smoke"})
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert sorted(files) == ["01_heat_map.png", "02_size_curve.png", "03_intervals.png", "04_curves.png",
                             "05_parallel.png", "report.json", "report.md"]  # fmt: skip
    text = page.read_text()
    for part in ("**Rule**: take rank 2.", "| best minus cheapest | 0.250 | [-0.050, 0.500] | 24 |",
                 "![F1: 1e-3: rank 0 0.10, rank 2 0.70](01_heat_map.png)", "| 0.750 |", "profile smoke"):  # fmt: skip
        assert part in text, part
    assert "learning_rate" not in text, "settings that all trials share are left out"


def test_trials_judged_on_other_mails_are_told_apart(tmp_path):
    on_test = result(2, 9) | {"scores": result(2, 9)["scores"] * 2}
    text = trialreport.write(tmp_path, SECTIONS, [result(1, 3), on_test], {}).read_text()
    header, _, one, two = text.split("## All trials\n\n")[1].splitlines()[:4]
    column = [cell.strip() for cell in header.split("|")].index("mails")
    assert [row.split("|")[column].strip() for row in (one, two)] == ["3", "6"]


def test_the_page_comes_from_the_json_alone(tmp_path):
    trialreport.write(tmp_path, SECTIONS, [result(1, 3)], {"profile": "smoke"})
    before = (tmp_path / "report.md").read_text()
    value = json.loads((tmp_path / "report.json").read_text())
    value["sections"][0]["rule"] = "take rank 64."
    (tmp_path / "report.json").write_text(json.dumps(value))
    trialreport.render(tmp_path)
    after = (tmp_path / "report.md").read_text()
    assert after == before.replace("take rank 2.", "take rank 64.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no report.json"),
        ("{", "report.json is no JSON"),
        ("[]", "is no report of 08"),
        ('{"facts": {}, "sections": [{"question": "?", "rule": "."}], "trials": []}', "is no report of 08"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_folder(tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    assert trialreport.main([str(tmp_path)]) == 1
    assert said in capsys.readouterr().err
    assert trialreport.main([]) == 2


def test_the_command_makes_the_page(tmp_path, capsys):
    trialreport.write(tmp_path, SECTIONS[:1], [result(1, 3)], {})
    assert trialreport.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.md")


def test_an_unknown_figure_is_refused(tmp_path):
    wrong = Section(question="?", rule=".", figure="pie")
    with pytest.raises(ConfigError, match="'pie' is not one of heat_map"):
        trialreport.write(tmp_path, [wrong], [result(1, 3)], {})
    assert not list(tmp_path.iterdir())


def test_plots_draw_what_they_say():
    axes = Figure().subplots()
    told = trialplots.heat_map(axes, np.array([[0.1, 0.2], [0.9, 0.3]]), ["a", "b"], ["x", "y"])
    assert told == "a: x 0.10, y 0.20; b: x 0.90, y 0.30"
    frame = axes.patches[-1]
    assert (round(frame.get_x() + 0.48), round(frame.get_y() + 0.46)) == (0, 1), "around the best cell"
    axes = Figure().subplots()
    trialplots.size_curve(axes, {8: ENTRY, 64: ENTRY}, base=0.1)
    assert axes.get_xscale() == "log"
    axes = Figure().subplots()
    trialplots.curves(axes, {f"arm {k}": [2.0, 1.0] for k in range(8)})
    lines = axes.get_lines()
    assert lines[0].get_linestyle() != lines[1].get_linestyle(), "the upper one would hide the other"
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(lines), "without colour two curves look alike"
    axes = Figure().subplots()
    same = [{"rate": 0.1, "f1": 0.5}] * 2
    assert trialplots.parallel(axes, same, ["rate", "f1"]).startswith("2 trials, f1 from 0.50 to 0.50")
