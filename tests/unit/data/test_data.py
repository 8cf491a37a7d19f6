"""Reading, writing, fingerprints, splits: what a broken file or a careless split must not do."""

import json

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.data import rows as data
from sft_utils.errors import DataError


def rows_of_threads(sizes):
    return [{"id": f"{t}-{i}", "thread": t} for t, n in sizes.items() for i in range(n)]


def by_thread(row):
    return row["thread"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1', "not JSON"),
        (b'{"a": "x\0y"}', "NUL byte at byte 8"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b'{"a": 1}{"a": 2}', "two JSON values in one line"),
        (b'{"a": 1} oops', "text after the JSON value"),
        (b"[1, 2]", "a JSON list where an object is expected"),
        (b"42", "a JSON int"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": ' + b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path, raw, reason):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' + raw + b'\n{"n": 3}\n')
    lines = list(data.read_jsonl(path))
    assert [line.number for line in lines] == [1, 2, 3]
    assert [line.row for line in lines] == [{"n": 1}, None, {"n": 3}]
    assert reason in lines[1].reason
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: "):
        data.rows_of(path)


def test_bom_crlf_and_trailing_blank_lines_are_accepted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}\r\n\r\n')
    lines = list(data.read_jsonl(path, strict=True))
    assert [line.row for line in lines] == [{"n": 1}, {"n": 2}]
    assert [data.read_at(path, line.offset) for line in lines] == [{"n": 1}, {"n": 2}]


def test_a_blank_line_between_rows_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n\n{"n": 3}')
    lines = list(data.read_jsonl(path))
    assert [(line.number, line.reason) for line in lines if line.row is None] == [
        (2, "blank line between rows")
    ]
    with pytest.raises(DataError, match="line 2: blank line"):
        list(data.read_jsonl(path, strict=True))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is empty"):
        list(data.read_jsonl(path))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        next(data.read_jsonl(tmp_path / "x.jsonl"))


def test_reading_streams(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' * 3 + b"\xff" * 10)
    reader = data.read_jsonl(path, strict=True)
    assert next(reader).row == {"n": 1}, "the fourth line is not read yet"


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n')
    with pytest.raises(DataError, match="was it changed"):
        data.read_at(path, 3)


def test_written_rows_come_back(tmp_path):
    rows = [{"text": "Grüße 🙂\n\u2028"}, {"text": "[]"}]
    data.write_jsonl(tmp_path / "x.jsonl", rows)
    assert data.rows_of(tmp_path / "x.jsonl") == rows


def test_fingerprint_sees_content_and_nothing_else():
    one = [{"a": 1, "b": [1, 2]}, {"a": 2, "b": []}]
    same = [{"b": [], "a": 2}, {"b": [1, 2], "a": 1}]
    assert data.fingerprint(one) == data.fingerprint(same)
    assert data.fingerprint(one) != data.fingerprint([one[0], one[0], one[1]])
    assert data.fingerprint(one) != data.fingerprint([one[0], {"a": 2, "b": [1]}])


@pytest.mark.parametrize("seed", range(5))
def test_no_group_crosses_the_split(seed):
    rows = rows_of_threads({f"t{i}": 1 + i % 4 for i in range(60)})
    rest, held = data.group_split(rows, group=by_thread, share=0.2, seed=seed)
    assert not data.crossing_groups(rest, held, group=by_thread)
    assert len(rest) + len(held) == len(rows)
    assert len(held) == round(0.2 * len(rows))


def test_the_split_does_not_depend_on_the_order_of_rows():
    rows = rows_of_threads({f"t{i}": 1 + i % 3 for i in range(40)})
    _, held = data.group_split(rows, group=by_thread, share=0.25, seed=1)
    _, again = data.group_split(rows[::-1], group=by_thread, share=0.25, seed=1)
    _, other = data.group_split(rows, group=by_thread, share=0.25, seed=2)
    assert held == again[::-1]
    assert held != other


def test_a_split_that_cannot_work_is_refused():
    with pytest.raises(DataError, match="must be between 0 and 1"):
        data.group_split([{"thread": "a"}], group=by_thread, share=1.0, seed=1)
    with pytest.raises(DataError, match="no group fits into 1 of 4 rows"):
        data.group_split(rows_of_threads({"a": 2, "b": 2}), group=by_thread, share=0.3, seed=1)


def test_crossing_groups_finds_a_split_by_row():
    rows = rows_of_threads({"a": 2, "b": 1})
    assert data.crossing_groups(rows[:1], rows[1:], group=by_thread) == {"a"}


def test_committed_files_are_whole():
    for name in ("test.jsonl", "fewshot.jsonl", "answer_key.jsonl"):
        assert data.rows_of(ROOT / "data" / "tickets" / name)
    assert json.loads(data.dump_row({"a": "é"})) == {"a": "é"}
