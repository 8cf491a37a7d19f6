"""The benchmark's quick part on every change, and the committed table against its own claims."""

import json

import pytest

from tests.mutation import run


@pytest.fixture(scope="module")
def quick():
    """A third of the pairs of fault and family, every fault once, a third of the healthy runs."""
    return run.benchmark(quick=True, thin=3)


def test_every_planted_fault_is_named(quick):
    assert quick["survivors"] == []
    assert quick["right_reason_recall"] == 1.0


def test_every_fault_was_really_planted(quick):
    assert quick["dead"] == {}
    names = [run.name_of(m) for m in run.MUTATORS]
    assert len(set(names)) == len(names)
    assert {(o["id"], o["mutator"]) for o in quick["outcomes"] if o["alive"]} == set(names)


def test_no_healthy_configuration_alarms(quick):
    assert quick["clean_configs"] >= 200
    assert quick["alarms"] == []


def test_two_faults_at_once_never_hide_each_other_completely(quick):
    assert quick["second_order"]["mutants"] == 20
    assert quick["second_order"]["uncaught"] == []


def test_a_blind_detector_would_be_noticed(monkeypatch):
    """The benchmark can fail: without the detectors of one stage, faults survive."""
    monkeypatch.setitem(run.STAGES, "batches", ())
    blind = run.benchmark(quick=True, only="stop-token")
    assert blind["survivors"]


def test_the_committed_table():
    table = json.loads(run.RESULT.read_text(encoding="utf-8"))
    assert table["classes"] >= 60
    assert table["families"] >= 8
    assert table["real_tokenizers"] >= 5
    assert table["recall"] == table["right_reason_recall"] == 1.0
    assert table["recall_lower95"] >= 0.99
    assert table["clean_configs"] >= 300
    assert table["false_alarms"] == 0
    assert table["survivors"] == []
    assert 0 < table["baselines"]["trl_alone"] < 0.5
