"""Generators write the same files they check, and a data card keeps its own words."""

import pytest

from sft_utils.data import generated
from sft_utils.errors import DataError

FILES = {"raw.jsonl": "a\n", "below/test.jsonl": "b\n"}


def run(folder, *arguments):
    return generated.command_line(lambda: FILES, folder, arguments)


def test_check_names_the_file_that_differs(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert run(tmp_path, "--check") == 0
    (tmp_path / "below" / "test.jsonl").write_text("changed\n")
    capsys.readouterr()
    assert run(tmp_path, "--check") == 1
    said = capsys.readouterr().out
    assert "test.jsonl" in said
    assert "raw.jsonl" not in said
    assert (tmp_path / "below" / "test.jsonl").read_text() == "changed\n"  # --check writes nothing
    (tmp_path / "raw.jsonl").unlink()
    assert generated.different(FILES, tmp_path) == list(FILES)


def test_out_leaves_the_committed_files(tmp_path):
    assert run(tmp_path / "committed", "--out", str(tmp_path / "other")) == 0
    assert generated.different(FILES, tmp_path / "other") == []
    assert not (tmp_path / "committed").exists()


@pytest.mark.parametrize(
    "card",
    [
        "no marks",
        generated.START,
        generated.END + generated.START,
        (generated.START + generated.END) * 2,
    ],
)
def test_a_card_without_its_marks_is_refused(card):
    with pytest.raises(DataError, match="once each"):
        generated.with_counts(card, "| n |")


def test_only_the_counts_are_replaced():
    card = f"before\n{generated.START}\nold\n{generated.END}\nafter"
    once = generated.with_counts(card, "| n |")
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter")
    assert generated.with_counts(once, "\n| n |\n\n") == once
