"""Comparison with the reference, tolerances, and replaying a recorded run."""

import json
import os
import subprocess

import pytest

from sft_utils.errors import ConfigError, RunnerError
from sft_utils.runner import nbrun, regress
from sft_utils.runner.nbcompare import compare, rule_for
from sft_utils.runner.nbreplay import find_run, replay
from tests.unit.nb_repo import MODELS, add_report, edit, finish, make_repo, write_result

RESULT = {
    "notebook": "00_first",
    "hardware": "a",
    "metrics": {
        "tuned.f1": {"value": 0.5, "n": 8},
        "train.loss": {"value": 2.0, "n": 1},
        "train.steps": {"value": 40},
        "tuned.tokens_per_s": {"value": 100.0},
    },
    "checks": [{"name": "works", "value": 1, "bound": "== 1", "passed": True}],
    "manifest": {"data": "d" * 64, "code": "c", "versions": {"torch": "2.1", "trl": "1"}},
}


def changed(**parts):
    """A copy of RESULT with some entries of its parts replaced; None removes one."""
    result = json.loads(json.dumps(RESULT))
    for part, entries in parts.items():
        if isinstance(entries, dict):
            result[part].update(entries)
            result[part] = {k: v for k, v in result[part].items() if v is not None}
        else:
            result[part] = entries
    return result


def values(**metrics):
    return changed(metrics={k.replace("__", "."): {"value": v} for k, v in metrics.items()})


@pytest.fixture
def layout(tmp_path):
    return make_repo(tmp_path / "a repo")


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("tuned.field_f1", "absolute"),
        ("tuned_minus_base.exact_match", "absolute"),
        ("train.final_loss", "relative"),
        ("base.perplexity", "relative"),
        ("train.steps", "exact"),
        ("train.n_rows", "exact"),
        ("tuned.learning_rate", "exact"),
        ("tuned.tokens_per_s", "skip"),
        ("stream.peak_gib", "skip"),
        ("train.wall_s", "skip"),
    ],
)
def test_rules_go_by_the_metric_name(metric, kind):
    assert rule_for(metric).kind == kind


@pytest.mark.parametrize(
    ("old", "new", "hardware", "n_differences"),
    [
        ({"tuned__f1": 0.50}, {"tuned__f1": 0.53}, "a", 0),
        ({"tuned__f1": 0.50}, {"tuned__f1": 0.531}, "a", 1),
        ({"train__loss": 2.0}, {"train__loss": 2.0019}, "a", 0),
        ({"train__loss": 2.0}, {"train__loss": 2.0021}, "a", 1),
        ({"train__loss": 2.0}, {"train__loss": 2.09}, "b", 0),
        ({"train__loss": 2.0}, {"train__loss": 2.11}, "b", 1),
        ({"ddp__max_loss_difference": 1e-6}, {"ddp__max_loss_difference": 9e-5}, "a", 0),
        ({"ddp__max_loss_difference": 1e-6}, {"ddp__max_loss_difference": 0.02}, "b", 1),
        ({"ddp__max_loss_difference": 1e-6}, {"ddp__max_loss_difference": 2e-4}, "a", 1),
        ({"ddp__max_loss_difference": 1e-6}, {"ddp__max_loss_difference": 2e-3}, "b", 1),
        ({"a_minus_b__f1": 0.10}, {"a_minus_b__f1": 0.12}, "a", 0),  # no gap of losses
        ({"a_minus_b__f1": 0.10}, {"a_minus_b__f1": 0.16}, "b", 1),
        ({"a_minus_b__nll": 0.0}, {"a_minus_b__nll": 0.004}, "a", 0),
        ({"a_minus_b__nll": 0.048}, {"a_minus_b__nll": 0.06}, "a", 1),
        ({"a_minus_b__nll": 0.048}, {"a_minus_b__nll": 0.1}, "b", 0),
        ({"train__steps": 40}, {"train__steps": 41}, "a", 1),
        ({"tuned__tokens_per_s": 1.0}, {"tuned__tokens_per_s": 900.0}, "a", 0),
        ({"tuned__f1": 0.5}, {"tuned__f1": "none"}, "a", 1),
    ],
)
def test_tolerances(old, new, hardware, n_differences):
    found = compare(values(**old), values(**new) | {"hardware": hardware})
    assert len(found.differences) == n_differences


def test_exact_allows_nothing():
    assert compare(RESULT, values(tuned__f1=0.5000001), exact=True).differences
    assert not compare(RESULT, changed(metrics={"tuned.tokens_per_s": {"value": 1}}), exact=True
                       ).differences  # fmt: skip


def test_exact_compares_intervals_and_says_why_they_may_differ():
    def with_interval(high, value=0.5):
        return changed(metrics={"tuned.f1": {"value": value, "n": 8, "ci95": [0.1, high]}})

    assert not compare(with_interval(0.9), with_interval(0.9), exact=True).differences
    assert not compare(with_interval(0.9), with_interval(0.8)).differences, "only exact compares them"
    found = compare(with_interval(0.9), with_interval(0.8), exact=True)
    assert [str(d) for d in found.differences] == [
        "00_first tuned.f1 (ci95): reference [0.1, 0.9], observed [0.1, 0.8], tolerance exact"
    ]
    assert "the code that computes intervals may have changed" in "\n".join(regress.report(found))
    table = regress.replay_table(with_interval(0.9), with_interval(0.8), found)
    assert "tuned.f1            0.5       0.5       other interval" in table
    both = compare(with_interval(0.9), with_interval(0.8, value=0.4), exact=True)
    assert [d.what for d in both.differences] == ["value", "ci95"]
    assert "the code that computes" not in "\n".join(regress.report(both))
    gone = compare(with_interval(0.9), changed(), exact=True).differences
    assert "reference [0.1, 0.9], observed None" in str(gone[0])


def test_a_check_that_failed_on_both_sides_is_no_agreement():
    failed = changed(checks=[{"name": "works", "value": 0, "bound": "== 1", "passed": False}])
    for exact in (False, True):
        assert [str(d) for d in compare(failed, failed, exact=exact).differences] == [
            "00_first works (check): reference == 1 FAILED, observed == 1 FAILED"
        ]


def test_sizes_missing_and_new_metrics_and_checks_are_named():
    other = changed(
        metrics={"tuned.f1": {"value": 0.5, "n": 9}, "train.steps": None, "new.f1": {"value": 1}},
        checks=[{"name": "works", "value": 0, "bound": "== 1", "passed": False}],
    )
    lines = [str(d) for d in compare(RESULT, other).differences]
    assert lines == [
        "00_first tuned.f1 (n): reference 8, observed 9, tolerance exact",
        "00_first train.steps (metric): reference present, observed missing",
        "00_first new.f1 (metric): reference missing, observed present",
        "00_first works (check): reference == 1 passed, observed == 1 FAILED",
    ]


def test_the_first_differing_number_comes_first_then_versions_and_hashes():
    other = changed(
        metrics={"tuned.f1": {"value": 0.1, "n": 8}, "train.loss": None},
        manifest={"versions": {"torch": "2.2", "peft": "1"}, "data": "e" * 64},
        hardware="b",
    )
    lines = regress.report(compare(RESULT, other))
    assert lines[0] == (
        "first difference: 00_first tuned.f1: reference 0.5, observed 0.1, tolerance 0.03 absolute"
    )
    text = "\n".join(lines)
    for part in (
        "version of torch: reference 2.1, observed 2.2",
        "version of trl: reference 1, observed absent",
        "version of peft: reference absent, observed 1",
        "00_first data: reference dddddddddddd, observed eeeeeeeeeeee",
        "hardware: reference a, observed b",
        "not compared (time, memory, throughput): 00_first tuned.tokens_per_s",
    ):
        assert part in text
    rows = [line.split() for line in lines]
    assert ["00_first", "tuned.f1", "value", "0.5", "0.1", "0.03", "absolute"] in rows
    assert ["00_first", "train.loss", "metric", "present", "missing", "-"] in rows
    assert lines[-1].endswith(": 2 differences")


def test_another_size_is_a_first_difference_too():
    """00 read other rows, and 03 is off because of that: the cause is the first one."""
    found = compare(RESULT, changed(metrics={"tuned.f1": {"value": 0.5, "n": 9}}))
    found.differences += compare(RESULT, values(train__loss=9.0)).differences
    assert regress.report(found)[0].startswith("first difference: 00_first tuned.f1 (n): reference 8")


def test_every_package_that_changed_is_named_and_the_python():
    facts = {"versions": {"torch": "2.1"}, "packages": {"torch": "2.1", "llguidance": "1"}}
    other = {"versions": {"torch": "2.1"}, "packages": {"torch": "2.1", "llguidance": "2", "new": "3"}}
    lines = compare(changed(manifest=facts | {"python": "3.11.7"}),
                    changed(manifest=other | {"python": "3.13.1"})).inputs  # fmt: skip
    assert lines == [
        "version of Python: reference 3.11.7, observed 3.13.1",
        "version of llguidance: reference 1, observed 2",
        "version of new: reference absent, observed 3",
    ]
    old = compare(changed(manifest={"versions": {"torch": "2.0"}}), changed(manifest=other)).inputs
    assert old == ["version of torch: reference 2.0, observed 2.1"], "what only one side knows says nothing"


def test_a_comment_in_the_lock_explains_no_difference():
    facts = {"packages": {"trl": "1"}, "lock": "a"}
    assert compare(changed(manifest=facts), changed(manifest=facts | {"lock": "b"})).inputs == []
    other = compare(changed(manifest=facts), changed(manifest={"packages": {"trl": "2"}, "lock": "b"})).inputs
    assert len(other) == 2, "a version and the lock"
    unknown = compare(changed(manifest={"lock": "a"}), changed(manifest={"lock": "b"})).inputs
    assert len(unknown) == 1, "nothing says that they are the same"


def test_a_result_of_old_has_the_packages_of_its_commit(layout, capsys):
    """References that name fourteen packages only: the lock of their commit knows all."""
    def git(*words):
        me = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(["git", "-C", layout.root, *me, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    lock = layout.root / "requirements" / "cpu.lock"
    lock.parent.mkdir()
    lock.write_text("# pins\nllguidance==1.9.1  # grammar\ntorch==2.13.0\n")
    git("init", "-q")
    git("add", "requirements")
    git("commit", "-qm", "pins")
    facts = {"versions": {"torch": "2.13.0+cpu"}, "git": {"commit": git("rev-parse", "HEAD"), "dirty": False}}
    now = {"versions": facts["versions"], "packages": {"llguidance": "1.9.2", "torch": "2.13.0+cpu"}}
    write_result(layout.reference("00_first", "cpu"), manifest=facts)
    write_result(layout.run_file("00_first", "cpu", ".json"), manifest=now)
    finish(layout, "00_first", "cpu")
    assert regress.main(["compare"], layout) == 0
    said = [x.strip() for x in capsys.readouterr().out.splitlines() if "version of" in x]
    assert said == ["version of llguidance: reference 1.9.1, observed 1.9.2"]
    for state in ({"dirty": True}, {}):
        unsure = facts | {"git": {"commit": facts["git"]["commit"]} | state}
        write_result(layout.reference("00_first", "cpu"), manifest=unsure)
        assert regress.main(["compare"], layout) == 0
        assert "version of" not in capsys.readouterr().out, "the lock may have been another one"
    facts["git"]["commit"] = "0" * 40
    write_result(layout.reference("00_first", "cpu"), manifest=facts)
    assert regress.main(["compare"], layout) == 0, "a shallow clone has no such commit"
    assert "version of" not in capsys.readouterr().out


def test_numbers_of_a_run_whose_checks_failed_are_compared(layout, capsys):
    """After a bump this is the run that one wants to know about."""
    write_result(layout.reference("00_first", "cpu"))
    failed = [{"name": "works", "value": 0, "bound": "== 1", "passed": False}]
    write_result(layout.run_file("00_first", "cpu", ".json"), passed=False, checks=failed,
                 metrics={"tuned.f1": {"value": 0.1, "n": 8}})  # fmt: skip
    assert regress.main(["compare"], layout) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("first difference: 00_first tuned.f1: reference 0.5, observed 0.1")
    assert any(line.startswith("  00_first: checks failed. Run: make nb NB=00") for line in lines)
    assert lines[-1] == "2 metrics and checks compared: 2 differences"


def test_an_interrupted_replay_ends_without_a_traceback(layout, capsys, monkeypatch):
    write_result(layout.reference("00_first", "cpu"), run_id="abc1")

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(regress, "replay", stopped)
    assert regress.main(["reproduce", "--run", "abc1"], layout) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues\n"


def test_equal_results_end_with_one_line():
    lines = regress.report(compare(values(), values()))
    assert lines[-1] == "4 metrics and checks compared: all equal within tolerance"


def test_compare_command(layout, capsys):
    assert regress.main(["compare"], layout) == 1
    assert "outputs/reference/cpu holds no result" in capsys.readouterr().err
    write_result(layout.reference("00_first", "cpu"))
    assert regress.main(["compare"], layout) == 1
    assert "observed not run" in capsys.readouterr().out
    write_result(layout.run_file("00_first", "cpu", ".json"))
    write_result(layout.reference_root / "cpu" / "bench.json")
    assert regress.main(["compare"], layout) == 1
    assert "observed not finished" in capsys.readouterr().out, "a killed or a failed run"
    finish(layout, "00_first", "cpu")
    assert regress.main(["compare", "--nb", "0"], layout) == 0
    assert "not what would run today" not in capsys.readouterr().out
    write_result(layout.run_file("01_second", "cpu", ".json"))
    assert regress.main(["compare"], layout) == 0
    assert "no reference yet, not compared: 01_second" in capsys.readouterr().out
    edit(layout, "sft_utils/constants.py", "0.5", "0.6")
    assert regress.main(["compare"], layout) == 0
    assert "00_first: not what would run today: code" in capsys.readouterr().out
    write_result(layout.run_file("00_first", "cpu", ".json"), metrics={"tuned.f1": {"value": 0}})
    assert regress.main(["compare"], layout) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 differences")
    assert regress.main(["compare", "--profile", "cpuu"], layout) == 2
    assert regress.main(["compare", "--nb", "9"], layout) == 2


def test_a_missing_run_hides_no_other_and_nb_shows_one(layout, capsys):
    for name in ("00_first", "01_second"):
        write_result(layout.reference(name, "cpu"))
    write_result(layout.run_file("01_second", "cpu", ".json"), metrics={"tuned.f1": {"value": 0.1, "n": 8}})
    finish(layout, "01_second", "cpu")
    assert regress.main(["compare"], layout) == 1
    said = capsys.readouterr().out
    assert any(line.startswith("00_first") and "not run" in line for line in said.splitlines()), said
    assert "01_second tuned.f1: reference 0.5, observed 0.1" in said
    assert regress.main(["compare", "--nb", "0"], layout) == 1
    assert "01_second" not in capsys.readouterr().out


def test_unknown_and_ambiguous_ids_list_the_known_ones(layout, capsys):
    write_result(layout.run_file("00_first", "cpu", ".json"), run_id="abc1")
    write_result(layout.reference("01_second", "cpu"), run_id="abd2")
    assert find_run(layout, "abd")["notebook"] == "01_second"
    assert regress.main(["reproduce", "--run", "zz"], layout) == 2
    error = capsys.readouterr().err
    assert "'zz' is not the beginning of any recorded run id" in error
    assert "abc1  00_first [cpu]" in error
    with pytest.raises(ConfigError, match="'ab' fits several runs"):
        find_run(layout, "ab")


def test_own_run_is_preferred_to_its_published_copy(layout):
    write_result(layout.run_file("00_first", "cpu", ".json"), run_id="abc1", hardware="own")
    write_result(layout.reference("00_first", "cpu"), run_id="abc1", hardware="published")
    assert find_run(layout, "abc")["hardware"] == "own"


def test_reproduce_replays_next_to_the_original(layout, capsys):
    assert nbrun.main(["run-all", "--param", "steps=3"], layout) == 0
    original = layout.run_file("00_first", "cpu", ".json").read_bytes()
    capsys.readouterr()
    assert regress.main(["reproduce", "--run", "id00"], layout) == 0
    text = capsys.readouterr().out
    assert "tuned.f1  0.5       0.5       equal" in text
    there = layout.root / "outputs" / "reproduce" / "id00cpu" / "cpu" / "00_first.json"
    assert json.loads(there.read_text())["parameters"] == {"profile": "cpu", "steps": 3}
    assert layout.run_file("00_first", "cpu", ".json").read_bytes() == original


@pytest.mark.parametrize("mine", [None, "2"])
def test_reproduce_uses_as_many_threads_as_the_recorded_run(layout, monkeypatch, mine):
    monkeypatch.setenv("SFT_THREADS", mine or "")
    if mine is None:
        monkeypatch.delenv("SFT_THREADS")
    note = "import os, pathlib\npathlib.Path('threads').write_text(os.environ['SFT_THREADS'])\n"
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", note + "tiny.save(")
    recorded = write_result(layout.reference("00_first", "cpu"), threads=7)
    assert replay(layout, recorded, MODELS)["threads"] == 7
    assert (layout.root / "threads").read_text() == "7"
    assert os.environ.get("SFT_THREADS") == mine, "what the user has set stays"


def test_reproduce_hands_over_upstream_results_and_files(layout, capsys):
    assert nbrun.main(["run-all"], layout) == 0
    folder = layout.run_file("00_first", "cpu", "")
    (folder / "adapter").write_text("weights")
    capsys.readouterr()
    for _ in range(2):
        assert regress.main(["reproduce", "--run", "id01"], layout) == 0
        text = capsys.readouterr().out
        assert "00_first [cpu] taken from outputs/runs/cpu/00_first.json" in text
        assert "01_second [cpu] done" in text, "a replay must really run"
    there = layout.root / "outputs/reproduce/id01cpu/cpu/00_first/adapter"
    assert there.read_text() == "weights"


def test_reproduce_forgets_what_the_replay_before_kept(layout, capsys):
    """Kept trials would be compared with themselves; those of an interrupted replay are its own."""
    keep = ("import os\nkept = pathlib.Path(os.environ['SFT_RUNS'], profile, '00_first', 'trial')\n"
            "print('kept' if kept.exists() else 'computed')\nkept.parent.mkdir(exist_ok=True)\n"
            "kept.touch()\nif pathlib.Path('stop').exists():\n    raise KeyError('stop')\n")  # fmt: skip
    edit(layout, "notebooks/src/00_first.py", "tiny.save(", "import pathlib\n" + keep + "tiny.save(")
    recorded = write_result(layout.reference("00_first", "cpu"), run_id="r1")
    executed = layout.root / "outputs/reproduce/r1/cpu/00_first.ipynb"
    for _ in range(2):
        replay(layout, recorded, MODELS)
        assert '"computed\\n"' in executed.read_text()
    (layout.root / "stop").touch()
    for said in ("computed", "kept"):
        with pytest.raises(RunnerError, match="stop"):
            replay(layout, recorded, MODELS)
        assert f'"{said}\\n"' in executed.read_text()


def test_reproduce_takes_over_where_it_had_begun_an_upstream_run_itself(layout):
    recorded = write_result(layout.reference("01_second", "cpu"), run_id="r1")
    begun = layout.root / "outputs/reproduce/r1/cpu/00_first/half"
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert nbrun.main(["run", "--nb", "0"], layout) == 0
    assert layout.run_file("00_first", "cpu", "").is_dir()
    replay(layout, recorded, MODELS)
    assert begun.parent.is_symlink()


def test_reproduce_leaves_the_files_of_a_run_in_progress_alone(layout):
    """The first replay linked the folder of 00; now 00 runs again, and its result is gone."""
    assert nbrun.main(["run-all"], layout) == 0
    recorded = json.loads(layout.run_file("01_second", "cpu", ".json").read_text())
    replay(layout, recorded, MODELS)
    rows = layout.run_file("00_first", "cpu", "") / "rows"
    rows.write_text("of the run in progress")
    layout.run_file("00_first", "cpu", ".json").unlink()
    replay(layout, recorded, MODELS)
    assert rows.read_text() == "of the run in progress"


def test_reproduce_hands_over_what_a_report_reads_if_it_is_there(layout):
    add_report(layout)
    write_result(layout.run_file("02_third", "cpu", ".json"))
    recorded = write_result(layout.reference("03_report", "cpu"), run_id="r1")
    assert replay(layout, recorded, MODELS)["seen"] == ["02_third"]


def test_reproduce_makes_missing_upstream_results(layout, capsys):
    recorded = write_result(
        layout.reference("01_second", "cpu"), run_id="ref1", metrics={"tuned.f1": {"value": 0.25}}
    )
    replayed = replay(layout, recorded, MODELS)
    assert replayed["metrics"]["tuned.f1"]["value"] == 0.25
    assert "00_first [cpu] done" in capsys.readouterr().out


def test_reproduce_fails_on_the_smallest_difference(layout, capsys):
    edit(layout, "notebooks/src/00_first.py", "tiny.GAIN, parameters",
         "tiny.GAIN + int.from_bytes(__import__('os').urandom(4)) * 1e-12, parameters")  # fmt: skip
    assert nbrun.main(["run", "--nb", "0"], layout) == 0
    assert regress.main(["reproduce", "--run", "id00"], layout) == 1
    text = capsys.readouterr().out
    assert "different" in text
    assert "first difference: 00_first tuned.f1" in text


def test_reproduce_refuses_a_parameter_that_is_gone(layout):
    recorded = write_result(layout.reference("00_first", "cpu"), parameters={"width": 3})
    with pytest.raises(ConfigError, match="no parameter 'width'"):
        replay(layout, recorded, MODELS)


def test_reproduce_reports_a_failing_replay(layout):
    recorded = write_result(layout.reference("00_first", "cpu"))
    edit(layout, "sft_utils/constants.py", "GAIN", "OTHER")
    with pytest.raises(RunnerError, match="ImportError: cannot import name 'GAIN'"):
        replay(layout, recorded, MODELS)
