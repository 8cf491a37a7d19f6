"""One loader for every usual format: each fault by its exact words, and the good rows beside it."""

import gzip
import io
import json
import re
import time
import zipfile
from functools import partial

import pyarrow
import pytest
from pyarrow import parquet

from sft_utils.data import loading, parsing
from sft_utils.data import rows as data
from sft_utils.data.loading import load
from sft_utils.errors import ConfigError, DataError, SFTError

ONE, TWO = {"q": "é1", "a": "A"}, {"q": "2", "a": "B"}
A, B = (json.dumps(row, ensure_ascii=False).encode() for row in (ONE, TWO))
TABLE = "q,a\né1,A\n".encode()


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def lines(bad, end=b"\n"):
    return A + end + bad + end + B + end


gzipped = partial(gzip.compress, mtime=0)  # the same bytes each time: they are in names of tests


def under(*rows, more=b""):
    """An object whose list has a name of its own; `more` stands at the end of the first row."""
    first, *others = rows
    rows = [first[:-1] + more + b"}", *others] if more else rows
    return b'{"version": "1", "examples": [' + b", ".join(rows) + b"]}"


def table(bad):
    return TABLE + bad + b"2,B\n"


def packed(rows):
    """A Parquet file of these rows, one row group each."""
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=1)
    return out.getvalue()


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    return out.getvalue()


# (name, suffix, content, number, exact words): rows ONE and TWO stand beside the fault.
ROW_FAULTS = [
    ("cut object", ".jsonl", lines(b'{"q": 1'), 2, "not JSON: Expecting ',' delimiter at character 7"),
    ("single quotes", ".jsonl", lines(b"{'q': 1}"), 2, "not JSON: Expecting property name enclosed in double quotes at character 1"),
    ("plain text", ".jsonl", lines(b"oops"), 2, "not JSON: Expecting value at character 0"),
    ("trailing comma", ".jsonl", lines(b'{"q": 1},'), 2, "text after the JSON value at character 8"),
    ("two values", ".jsonl", lines(b'{"q": 1} {"q": 2}'), 2, "two JSON values in one line (second at character 8)"),
    ("list", ".jsonl", lines(b"[1]"), 2, "a JSON list where an object is expected"),
    ("string", ".jsonl", lines(b'"x"'), 2, "a JSON str where an object is expected"),
    ("null", ".jsonl", lines(b"null"), 2, "a JSON NoneType where an object is expected"),
    ("blank line", ".jsonl", lines(b" \t"), 2, "blank line between rows"),
    ("NUL", ".jsonl", lines(b'{"q": "\0"}'), 2, "NUL byte at byte 7"),
    ("Latin-1", ".jsonl", lines('{"q": "é"}'.encode("latin-1")), 2, "invalid UTF-8 at byte 7"),
    ("CESU surrogate", ".jsonl", lines(b'{"q": "\xed\xa0\x80"}'), 2, "invalid UTF-8 at byte 7"),
    ("lone surrogate", ".jsonl", lines(b'{"q": "x\\ud800"}'), 2, "lone surrogate: U+D800 at character 1"),
    ("lone surrogate behind other dirt", ".jsonl", lines(b'{"q": "\\u001b \\ufffd x\\ud83d"}'), 2, "lone surrogate: U+D83D at character 5"),
    ("lone surrogate deep", ".jsonl", lines(b'{"q": [{"a": "\\udc00"}]}'), 2, "lone surrogate: U+DC00 at character 0"),
    ("lone surrogate in a key", ".jsonl", lines(b'{"\\udfff": 1}'), 2, "lone surrogate: U+DFFF at character 0"),
    ("duplicate key", ".jsonl", lines(b'{"q": 1, "q": 2}'), 2, "duplicate key: 'q'"),
    ("duplicate key deep", ".jsonl", lines(b'{"x": [{"y": 1, "z": 0, "y": 2}]}'), 2, "duplicate key: 'y'"),
    ("NaN", ".jsonl", lines(b'{"q": NaN}'), 2, "not JSON: NaN is not JSON"),
    ("-Infinity", ".jsonl", lines(b'{"q": -Infinity}'), 2, "not JSON: -Infinity is not JSON"),
    ("huge float", ".jsonl", lines(b'{"q": 1e999}'), 2, "not JSON: 1e999 is beyond the range of a float"),
    ("endless integer", ".jsonl", lines(b'{"q": ' + b"9" * 5000 + b"}"), 2, "not JSON: an integer has more than 4300 digits"),
    ("deep nesting", ".jsonl", lines(b'{"q": ' + b"[" * 9000 + b"]" * 9000 + b"}"), 2, "not JSON: nested too deeply to be read"),
    ("over-long line", ".jsonl", lines(b'{"q": "' + b"x" * 30000 + b'"}'), 2, "over-long line: 30010 bytes, the limit is 20000"),
    ("cut last line", ".jsonl", A + b"\n" + B + b'\n{"q": "x', 3, "not JSON, the last line may be cut: Unterminated string starting at at character 6"),
    ("first line", ".jsonl", b"oops\n" + A + b"\n" + B, 1, "not JSON: Expecting value at character 0"),
    ("first line is a list", ".jsonl", b"[1]\n" + A + b"\n" + B, 1, "a JSON list where an object is expected"),
    ("first line cut", ".txt", b'{"q":\n' + A + b"\n" + B, 1, "not JSON: Expecting value at character 5"),
    ("CRLF", ".jsonl", lines(b"oops", b"\r\n"), 2, "not JSON: Expecting value at character 0"),
    ("lone CR", ".jsonl", lines(b"oops", b"\r"), 2, "not JSON: Expecting value at character 0"),
    ("UTF-16 cut", ".jsonl", lines(b"oops").decode().encode("utf-16")[:-1], 2, "not JSON: Expecting value at character 0"),
    ("colon missing in a list", ".json", b"[" + A + b',\n{"q" 1},\n' + B + b"]", 2, "not JSON: Expecting ':' delimiter at character 29 (row begins in line 2)"),
    ("quote missing in a list", ".json", b"[" + A + b',\n{"q": "x},\n' + B + b"]", 2, "not JSON: Invalid control character at at character 34 (row begins in line 2)"),
    ("bracket missing in a list", ".json", b"[" + A + b',\n{"q": [1},\n' + B + b"]", 2, "not JSON: Expecting ',' delimiter at character 32 (row begins in line 2)"),
    ("brace too many", ".json", b"[" + A + b', {"q": 1}}, ' + B + b"]", 2, "text after the JSON value at character 32 (row begins in line 1)"),
    ("first row broken", ".json", b'[{"q": 1, ' + A + b", " + B + b"]", 1, "not JSON: Expecting property name enclosed in double quotes at character 10 (row begins in line 1)"),
    ("no object in a list", ".json", b"[" + A + b", 3, " + B + b"]", 2, "a JSON int where an object is expected (row begins in line 1)"),
    ("Latin-1 in a list", ".json", b"[" + A + b', {"q": "\xe9"}, ' + B + b"]", 2, "invalid UTF-8: byte 0xE9 (row begins in line 1)"),
    ("duplicate key in a list", ".json", b"[" + A + b', {"q": 1, "q": 2}, ' + B + b"]", 2, "duplicate key: 'q' (row begins in line 1)"),
    ("NaN in a list", ".json", b"[" + A + b', {"q": NaN}, ' + B + b"]", 2, "not JSON: NaN is not JSON (row begins in line 1)"),
    ("empty place in a list", ".json", b"[" + A + b",, " + B + b"]", 2, "not JSON: Expecting value at character 23 (row begins in line 1)"),
    ("cut between rows", ".json", b"[" + A + b", " + B + b",", 3, "cut list: the file ends before the list is closed"),
    ("cut in a row", ".json", b"[" + A + b", " + B + b', {"q"', 3, "not JSON: Expecting ':' delimiter at character 50 (row begins in line 1; the file ends in this row)"),
    ("text after a list", ".json", b"[" + A + b", " + B + b"] [3]", 3, "text after the list: '[3]'"),
    ("over-long row", ".json", b"[" + A + b', {"q": "' + b"x" * 30000 + b'"}, ' + B + b"]", 2, "over-long row: 30009 characters, the limit is 20000 (row begins in line 1)"),
    ("broken row under data", ".json", b'{"v": 1, "data": [' + A + b', {"q" 1}, ' + B + b"]}", 2, "not JSON: Expecting ':' delimiter at character 46 (row begins in line 1)"),
    ("no object under rows", ".json", b'{"rows": [' + A + b", 3, " + B + b"]}", 2, "a JSON int where an object is expected"),
    ("NaN under another key", ".json", under(A, b'{"q": NaN}', B), 2, "not JSON: NaN is not JSON (row begins in line 1)"),
    ("NaN beside a list called rows in a row", ".json", under(A, b'{"q": NaN}', B, more=b', "rows": [{"x": 1}]'), 2, "not JSON: NaN is not JSON (row begins in line 1)"),
    ("trailing comma under another key", ".json", under(A, b'{"q": 1,}', B), 2, "not JSON: Expecting property name enclosed in double quotes at character 61 (row begins in line 1)"),
    ("cut in a row under another key", ".json", under(A, B, b'{"q": "xy')[:-2], 3, "not JSON: Unterminated string starting at at character 81 (row begins in line 1; the file ends in this row)"),
    ("cut between rows under another key", ".json", under(A, B, b"")[:-2], 3, "cut list: the file ends before the list is closed"),
    ("cut behind the list", ".json", under(A, B)[:-1], 3, "cut object: the file ends before the object is closed"),
    ("cut in a second list", ".json", b'{"data": [' + A + b", " + B + b'], "test": [{"q": "3"}, {"q"', 3, "cut object: the file ends before the object is closed"),
    ("NaN beside the list", ".json", under(A, B).replace(b'"1"', b"NaN"), 3, "not JSON: NaN is not JSON (in 'version')"),
    ("NaN in a list of numbers", ".json", under(A, B)[:-1] + b', "scores": [1, NaN]}', 3, "not JSON: NaN is not JSON (in 'scores')"),
    ("comma missing beside the list", ".json", under(A, B)[:-1] + b' "n": 2}', 3, "not JSON: Expecting ',' delimiter at character 75"),
    ("duplicate key beside the list", ".json", under(A, B)[:-1] + b', "version": "2"}', 3, "duplicate key: 'version'"),
    ("no key beside the list", ".json", under(A, B)[:-1] + b", 3}", 3, "not JSON: a key is expected at character 76"),
    ("bracket missing behind the list", ".json", under(A, B)[:-2] + b', "n": 2}', 3, "not JSON: Expecting ']' at character 75"),
    ("bracket missing at the end", ".json", under(A, B).replace(b"]", b""), 3, "not JSON: Expecting ']' at character 73"),
    ("text after an object", ".json", b'{"data": [' + A + b", " + B + b"]} oops", 3, "text after the object: 'oops'"),
    ("Latin-1 under a key", ".json", under(A, b'{"q": "\xe9"}', B), 2, "invalid UTF-8: byte 0xE9 (row begins in line 1)"),
    ("too many fields", ".csv", table(b"1,2,3\n"), 3, "wrong number of fields: 3 where the header has 2"),
    ("too few fields", ".csv", table(b"1\n"), 3, "wrong number of fields: 1 where the header has 2"),
    ("blank line in a CSV", ".csv", table(b"\n"), 3, "blank line between rows"),
    ("unclosed quote", ".csv", table(b'"x,1\n'), 3, "a quote opens here and is never closed"),
    ("text after a quote", ".csv", table(b'"x"y,1\n'), 3, "text after a closing quote"),
    ("NUL in a CSV", ".csv", table(b"\0,1\n"), 3, "NUL byte at byte 0"),
    ("Latin-1 in a CSV", ".csv", table(b"x,\xe9\n"), 3, "invalid UTF-8 at byte 2"),
    ("Latin-1 in a later line of a field", ".csv", table(b'x,"\n\xe9"\n'), 3, "invalid UTF-8 at byte 0 of line 4"),
    ("over-long CSV line", ".csv", table(b"x," + b"y" * 30000 + b"\n"), 3, "over-long line: 30003 bytes, the limit is 20000"),
    ("over-long field of many lines", ".csv", table(b'x,"' + b"y\n" * 15000), 3, "a quote opens here and is never closed"),
    ("lone CR in a CSV", ".csv", b"q,a\r\xc3\xa91,A\r1\r2,B\r", 3, "wrong number of fields: 1 where the header has 2"),
    ("gzip cut in a CSV", ".csv.gz", gzipped(table(b"") + b"3,Cxyz")[:-9], 4, "cut gzip file: nothing can be read from here on"),
    ("gzip cut under a key", ".json.gz", gzipped(under(A, B, b'{"q": "0123456789abcdefghij"}'))[:-16], 3, "cut gzip file (row begins in line 1; the file ends in this row)"),
    ("gzip with a wrong checksum", ".jsonl.gz", gzipped(A + b"\n" + B + b"\n")[:-8] + bytes(8), 3, None),
    ("gzip of an object with a wrong checksum", ".json.gz", gzipped(under(A, B))[:-8] + bytes(8), 3, None),
    ("gzip of a list with a wrong checksum", ".json.gz", gzipped(b"[" + A + b", " + B + b"]")[:-8] + bytes(8), 3, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "suffix", "content", "number", "words"), ROW_FAULTS, ids=[f[0] for f in ROW_FAULTS]
)
def test_a_broken_row_is_named_and_costs_no_other(tmp_path, name, suffix, content, number, words):
    loaded = load(put(tmp_path, f"x{suffix}", content), max_line_bytes=20_000)
    good = [{key: r.row[key] for key in ONE} for r in loaded.rows if r.row.keys() >= ONE.keys()]
    assert [row for row in good if row in (ONE, TWO)] == [ONE, TWO]
    first = loaded.excluded[0]
    assert first.number == number
    if words is None:
        assert str(first).startswith("broken gzip file (CRC check failed")
    else:
        assert str(first) == words
    if name not in ("over-long field of many lines", "UTF-16 cut"):
        assert len(loaded.excluded) == 1
        assert len(loaded.rows) == 2
    assert number not in {row.number for row in loaded.rows}


FILE_FAULTS = [
    ("empty", "x.jsonl", b"", "x.jsonl is empty: no row in it. Check how it was written."),
    ("white space", "x.json", b" \n\n", "x.json is empty: no row in it. Check how it was written."),
    ("byte order mark alone", "x.csv", b"\xef\xbb\xbf", "x.csv is empty: no row in it. Check how it was written."),
    ("empty list", "x.json", b"[]", "x.json is empty: no row in it. Check how it was written."),
    ("empty gzip", "x.jsonl.gz", gzipped(b""), "x.jsonl.gz is empty: no row in it. Check how it was written."),
    ("gzip cut at once", "x.jsonl.gz", gzipped(A)[:11], "x.jsonl.gz is empty: no row in it (cut gzip file). Check how it was written."),
    ("UTF-16 without mark", "x.jsonl", A.decode().encode("utf-16-le"), "x.jsonl is UTF-16 without a byte order mark: save it as UTF-8."),
    ("UTF-16-BE without mark", "x.csv", TABLE.decode().encode("utf-16-be"), "x.csv is UTF-16 without a byte order mark: save it as UTF-8."),
    ("zeros", "x.bin", bytes(99), "x.bin is no JSON, JSONL, CSV, TSV or Parquet: it begins with '" + "\\x00" * 30 + "'. A table needs a header and the suffix .csv or .tsv."),
    ("Excel", "x.csv", zipped(), "x.csv is an Excel, Word or zip file: save the table as CSV, or unpack it."),
    ("old Excel", "x.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "x.xls is an old Excel or Word file: save the table as CSV."),
    ("PDF", "x.jsonl", b"%PDF-1.7\n", "x.jsonl is a PDF: export the data as CSV or JSONL."),
    ("HTML", "x.jsonl", b"\n<!DOCTYPE html>\n<html>", "x.jsonl is an HTML or XML page, perhaps an error page of a download: fetch the data file itself."),
    ("git-lfs", "x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "x.jsonl is a pointer of git-lfs, not the file itself: run git lfs pull."),
    ("pickle", "x.parquet", b"\x80\x04\x95", "x.parquet is a Python pickle, which could run code: save it as Parquet or JSONL."),
    ("gzip twice", "x.jsonl.gz", gzipped(gzipped(A)), "x.jsonl.gz is a gzip file in a gzip file: unpack it once."),
    ("cut Parquet", "x.parquet", packed([ONE])[:-6], None),
    ("object", "x.json", b'{"q": 1}', "x.json is one JSON object (keys ['q']), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("one chat", "x.json", b'{"messages": [{"role": "user", "content": "x"}]}', "x.json is one JSON object (keys ['messages']), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("two lists", "x.json", b'{"b": [{"q": 1}], "a": [{"q": 1}]}', "x.json is one JSON object (lists ['a', 'b']), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("two lists, one broken", "x.json", b'{"b": [{"q": 1}, {"q": NaN}], "a": [{"q": 1}]}', "x.json is one JSON object (lists ['a', 'b']), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("two lists, one of broken rows alone", "x.json", b'{"b": [{"q": NaN}], "a": [{"q": 1}]}', "x.json is one JSON object (lists ['a', 'b']), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("a list twice", "x.json", b'{"data": [{"q": 1}], "data": [{"q": 2}]}', "x.json is no JSON: the list 'data' comes twice. Rename one or join them."),
    ("two pages", "x.json", b"\n".join(json.dumps({"data": [ONE, TWO], "next": n}, indent=1).encode() for n in (1, 2)), "x.json holds several JSON documents: a second JSON document begins at character 103 (line 14). Write one object per line (JSONL), or all rows into one list."),
    ("two pages, the first broken", "x.json", b'{\n"data": [' + A + b', {"q": NaN}]\n} {\n"data": []}', "x.json holds several JSON documents: a second JSON document begins at character 48 (line 3). Write one object per line (JSONL), or all rows into one list."),
    ("two chats over several lines", "x.json", b"\n".join([b'{"messages": [\n{"role": "user", "content": "q"}\n]}'] * 2), "x.json holds several JSON documents: a second JSON document begins at character 51 (line 4). Write one object per line (JSONL), or all rows into one list."),
    ("cut gzip without a list", "x.json.gz", gzipped(b'{"q": "0123456789abcdefghij"}')[:-16], "x.json.gz is no JSON: not JSON Unterminated string starting at at character 6 (cut gzip file). Repair it, or write one object per line (JSONL)."),
    ("a frame of pandas by its index", "x.json", json.dumps(dict.fromkeys(range(5000), ONE)).encode(), "x.json is one JSON object (keys ['0', '1', '10', '100', '1000', '1001', '1002', '1003', '1004', '1005', '1006', '1007' and 4988 more]), a list of rows is needed: put the rows into a list under \"data\", or write one object per line in a .jsonl file."),
    ("delimiter alone", "x.csv", b"sep=;\r\n", "x.csv, header: none follows the line that names the delimiter. Add it."),
    ("number", "x.json", b"42", "x.json holds a JSON int: a list of objects is needed."),
    ("text named JSON", "x.json", b"oops", "x.json is no JSON: not JSON Expecting value at character 0. Repair it, or write one object per line (JSONL)."),
    ("prose", "x.txt", b"Dear all, hello.\nBye.", "x.txt is no JSON, JSONL, CSV, TSV or Parquet: it begins with 'Dear all, hello.'. A table needs a header and the suffix .csv or .tsv."),
    ("header only", "x.csv", b"q,a\n", "x.csv, header: no row follows the columns q, a."),
    ("header and blank lines", "x.csv", b"q,a\r\n\r\n\r\n", "x.csv, header: no row follows the columns q, a."),
    ("duplicate names", "x.csv", b"q,a,q\n1,2,3\n", "x.csv, header: two columns are called 'q'. Rename one."),
    ("empty name", "x.csv", b"q,,a\n1,2,3\n", "x.csv, header: column 2 has no name. Name every column."),
    ("broken header", "x.csv", b'q,"a"b\n1,2\n', "x.csv, header (line 1): text after a closing quote. Repair it."),
    ("Latin-1 header", "x.csv", b"q,\xe9\n1,2\n", "x.csv, header (line 1): invalid UTF-8 at byte 2. Repair it."),
    ("nothing usable", "x.jsonl", b"oops\n[1]\n", "x.jsonl (JSONL): no row can be used, 2 excluded; the first, line 1: not JSON: Expecting value at character 0. Repair the file."),
    ("list of texts", "x.json", b'["a"]', "x.json (JSON list): no row can be used, 1 excluded; the first, row 1: a JSON str where an object is expected (row begins in line 1). Repair the file."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "content", "words"), FILE_FAULTS, ids=[f[0] for f in FILE_FAULTS]
)
def test_a_file_that_gives_nothing_is_named(tmp_path, name, file, content, words):
    with pytest.raises(DataError) as caught:
        load(put(tmp_path, file, content))
    if words is None:
        assert str(caught.value).startswith("x.parquet is cut or broken Parquet: ")
    else:
        assert str(caught.value) == words


def test_paths_that_are_no_file(tmp_path):
    put(tmp_path, "train.jsonl", A)
    for path, words in (
        (tmp_path / "tran.jsonl", "does not exist. Did you mean train.jsonl?"),
        (tmp_path / "qqq", "does not exist. Check the path."),
        (tmp_path / "no" / "x.csv", f"does not exist, nor does its directory: {tmp_path / 'no'} is no folder."),
        (tmp_path, "is a directory. Name one file, for example train.jsonl."),
    ):
        with pytest.raises(DataError) as caught:
            load(path)
        assert str(caught.value) == f"{path} {words}"


def csv_text(delimiter=",", end="\n"):
    return (
        end.join(
            delimiter.join(f'"{v}"' for v in r) for r in (ONE.keys(), ONE.values(), TWO.values())
        )
        + end
    )


SAME = [
    ("x.jsonl", A + b"\n" + B + b"\n", "JSONL", "UTF-8"),
    ("x.jsonl", b"\xef\xbb\xbf" + A + b"\r\n" + B + b"\r\n\r\n", "JSONL", "UTF-8 with byte order mark"),
    ("x.json", A + b"\r" + B, "JSONL", "UTF-8"),
    ("x", A + b"\n" + B, "JSONL", "UTF-8"),
    ("x.ndjson.gz", gzipped(A + b"\n" + B), "JSONL, gzip", "UTF-8"),
    ("named-wrongly.csv", A + b"\n" + B, "JSONL", "UTF-8"),
    ("x.jsonl", (A + b"\n" + B).decode().encode("utf-16"), "JSONL", "UTF-16-LE with byte order mark"),
    ("x.jsonl", b"\xfe\xff" + (A + b"\n" + B).decode().encode("utf-16-be"), "JSONL", "UTF-16-BE with byte order mark"),
    ("x.jsonl", (A + b"\n" + B).decode().encode("utf-32"), "JSONL", "UTF-32-LE with byte order mark"),
    ("x.json", b"[" + A + b", " + B + b"]\n", "JSON list", "UTF-8"),
    ("x.jsonl", json.dumps([ONE, TWO], indent=2).encode(), "JSON list", "UTF-8"),
    ("x.json", b"[" + A + b", " + B + b",]", "JSON list", "UTF-8"),
    ("x.json", json.dumps({"v": [1], "data": [ONE, TWO]}, indent=1).encode(), "JSON object, list 'data'", "UTF-8"),
    ("x.json.gz", gzipped(json.dumps({"rows": [ONE, TWO]}).encode()), "JSON object, list 'rows', gzip", "UTF-8"),
    ("x.json", json.dumps({"examples": [ONE, TWO], "n": 2, "tags": ["t"]}).encode(), "JSON object, list 'examples'", "UTF-8"),
    ("x.csv", csv_text().encode(), "CSV", "UTF-8"),
    ("x.csv", csv_text(end="\r\n").encode("utf-8-sig"), "CSV", "UTF-8 with byte order mark"),
    ("x.csv", csv_text(";", "\r").encode("utf-16"), "CSV with semicolons", "UTF-16-LE with byte order mark"),
    ("x.tsv.gz", gzipped(csv_text("\t").encode()), "TSV, gzip", "UTF-8"),
    ("x.txt", csv_text("\t").encode(), "TSV", "UTF-8"),
    ("x.parquet", packed([ONE, TWO]), "Parquet", "UTF-8"),
    ("x.bin", packed([ONE, TWO]), "Parquet", "UTF-8"),
    ("x.parquet.gz", gzipped(packed([ONE, TWO])), "Parquet, gzip", "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "kind", "encoding"), SAME)
def test_the_same_rows_in_every_format(tmp_path, name, content, kind, encoding):
    loaded = load(put(tmp_path, name, content))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    assert (loaded.kind, loaded.encoding) == (kind, encoding)
    assert not loaded.excluded
    assert not loaded.warnings


@pytest.mark.parametrize("name", ["x.json", "x", "x.jsonl"])
def test_lines_longer_than_what_is_looked_at(tmp_path, name):
    long = {"messages": [{"role": "user", "content": "x" * 2 * parsing.HEAD}]}
    loaded = load(put(tmp_path, name, json.dumps(long).encode() + b"\n\n" + A + b"\n" + B))
    assert [(one.number, one.row) for one in loaded.rows] == [(1, long), (3, ONE), (4, TWO)]
    assert loaded.kind == "JSONL"


def test_turns_of_a_cut_chat_are_no_rows(tmp_path):
    with pytest.raises(DataError, match="x.json is no JSON: not JSON Expecting"):
        load(put(tmp_path, "x.json", b'{"messages": [\n {"role": "user", "content": "x"},\n'))


def test_parts_of_a_broken_row_are_no_rows(tmp_path):
    """The turns of a chat whose list is not closed, and a next row that begins with another key."""
    broken = b'{"q": "x", "turns": [{"role": "u"}, {"role": "v"}'
    loaded = load(put(tmp_path, "x.json", b"[" + A + b", " + broken + b", " + B + b"]"))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    other = b'[{"q" 1, "l": [1, {"q": 2}]}, {"other": 1}]'
    loaded = load(put(tmp_path, "x.json", other))
    assert [(one.number, one.row) for one in loaded.rows] == [(2, {"other": 1})]


def row_of(number, answer='"a"'):
    return f'{{"prompt": "{number}", "completion": {answer}}}'


UNCLOSED = {
    "brackets": ['"a"]', '["a"', '["a"', '"a"'],
    "closing braces": ['"a"}}', '{"x": "a"', '[{"x": "a"', '"a"'],
    "a comma inside": ['"a",,', '["a",,]', '{"x",,}', '"a"'],
}


@pytest.mark.parametrize("gap", [",\n", ", ", ",\n  "])
@pytest.mark.parametrize("kind", UNCLOSED)
def test_rows_after_unbalanced_ones_keep_their_numbers(tmp_path, kind, gap):
    broken = [row_of(n, answer) for n, answer in enumerate(UNCLOSED[kind], 2)]
    text = "[" + gap[1:] + gap.join([row_of(1), *broken, row_of(6)]) + "]"
    loaded = load(put(tmp_path, "x.json", text.encode()))
    assert [(one.number, one.row["prompt"]) for one in loaded.rows] == [(1, "1"), (5, "5"), (6, "6")]
    assert [one.number for one in loaded.excluded] == [2, 3, 4]


NESTED = '"meta": [{"id": 9, "q": "inner"}, {"id": 10, "q": "inner"'


@pytest.mark.parametrize("gap", [",\n", ", "])
def test_objects_inside_a_broken_row_are_no_rows(tmp_path, gap):
    for end in ("]}", "]", "}]]}"):
        rows = ['{"id": 1, "q": "1"}', f'{{"id": 2, "q": "2", {NESTED}{end}', '{"id": 3, "q": "3"}']
        loaded = load(put(tmp_path, "x.json", f"[{gap[1:]}{gap.join(rows)}]".encode()))
        assert [(one.number, one.row["id"]) for one in loaded.rows] == [(1, 1), (3, 3)], end


def test_what_is_not_sure_after_a_broken_row_is_said(tmp_path):
    rows = '{"id": 1}, {"id": 2, "a": ["x", {"id": 3}, {"id": 4}'
    loaded = load(put(tmp_path, "x.json", f"[{rows}]".encode()))
    assert str(loaded.excluded[0]).endswith("its end is not sure, nor are later row numbers)")
    assert loaded.warnings == {"after a row whose end is not sure": [3]}


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"n": 1, "examples": [', '], "m": 1}')])
@pytest.mark.parametrize("gap", [",\n", ", "])
@pytest.mark.parametrize("answer", ["NaN", '["a"', '{"b": "a"', '"a'])
def test_many_broken_rows_take_time_that_grows_with_the_file(tmp_path, answer, gap, begin, end):
    text = begin + gap.join(row_of(n, answer) + " " * 900 for n in range(6000)) + f"{gap}{row_of(0)}{end}"
    began = time.perf_counter()
    loaded = load(put(tmp_path, "x.json", text.encode()))
    assert time.perf_counter() - began < 5
    assert len(loaded.excluded) + len(loaded.rows) > 5990 or (answer, gap) == ('"a', ", ")


@pytest.mark.parametrize("window", [1, 2, 7, 40])
def test_a_value_longer_than_the_window_is_read_alike(monkeypatch, window):
    texts = ['{"a": [1.5e3, -20, true, null, "x\\u00e9\\ud83d\\ude00\\n"]} , 3', "123456", '"abc', '{"a": tru}',
             '{"a": 1, "a": 2}', '{"a": NaN}', '{"a" 1}', '[1, 2', "[-Infinity]", '{"a": "x\ny"}', "1e999"]  # fmt: skip
    expected = [data.decode(f"  {text}", 2) for text in texts]
    monkeypatch.setattr(data, "WINDOW", window)
    assert [data.decode(f"  {text}", 2) for text in texts] == expected


def test_rows_before_an_impossible_character_are_read(tmp_path):
    content = (A + b"\n" + B + b"\n").decode().encode("utf-32") + b"\xff" * 4 + b"x" * 400
    loaded = load(put(tmp_path, "x.jsonl", content))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    assert [(one.number, str(one)) for one in loaded.excluded] == [
        (3, "invalid UTF-32-LE: nothing can be read from here on")]  # fmt: skip


def test_a_delimiter_between_quotes_is_none(tmp_path):
    loaded = load(put(tmp_path, "x.csv", b'"q, or r, or s";"a"\n1;2\n'))
    assert loaded.kind == "CSV with semicolons"
    assert loaded.rows[0].row == {"q, or r, or s": "1", "a": "2"}


def test_a_comma_in_the_header_of_a_file_with_semicolons(tmp_path):
    text = b"Frage (kurz, deutsch);Antwort\nWas?;Das\nWer, wie?;Der\n"
    loaded = load(put(tmp_path, "x.csv", text))
    assert (loaded.kind, loaded.excluded) == ("CSV with semicolons", [])
    assert [list(one.row.values()) for one in loaded.rows] == [["Was?", "Das"], ["Wer, wie?", "Der"]]


def test_of_several_delimiters_a_tsv_takes_the_tab(tmp_path):
    text = b"q, long\ta\n1, 2\t3\n"
    loaded = load(put(tmp_path, "x.tsv", text))
    assert (loaded.kind, loaded.rows[0].row) == ("TSV", {"q, long": "1, 2", "a": "3"})
    assert load(put(tmp_path, "x.csv", text)).kind == "CSV"
    assert load(put(tmp_path, "x.tsv", b"q,a\n1,2\n")).kind == "CSV"


@pytest.mark.parametrize(
    ("told", "kind"),
    [("sep=;", "CSV with semicolons"), ('"sep=,"', "CSV"), ("SEP=\t", "TSV"), ("sep=|", "CSV with '|'")],
)
def test_the_delimiter_that_excel_is_told_is_taken(tmp_path, told, kind):
    text = f"{told}\r\nq|a\r\n1, x; y|2\r\n\r\n\"3\"x|4\r\n5|6\r\n"
    if told != "sep=|":
        text = text.replace(", x; y", "").replace("|", told.strip('"')[-1])
    loaded = load(put(tmp_path, "x.csv", text.encode()))
    assert loaded.kind == kind
    assert [(one.number, one.row["a"]) for one in loaded.rows] == [(3, "2"), (6, "6")]
    assert [(one.number, one.reason) for one in loaded.excluded] == [
        (4, "blank line between rows"), (5, "text after a closing quote")]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "rows", "kind", "names"),
    [
        ("Titel, kurz;Antwort", ["Hallo, du;x", "Hallo;y", "Du;z, a"], "CSV with semicolons", ["Titel, kurz", "Antwort"]),
        ("q;r,a", ["1;2,3", "4,5", "6,7"], "CSV", ["q;r", "a"]),
        ("q, r;a", ['"x\ny, z\nw, v";1', '"x\ny, z";2', '"x\ny";3'], "CSV with semicolons", ["q, r", "a"]),
        ("q|a", ["x, y|1", "z|2"], "CSV with '|'", ["q", "a"]),
        ("q (a|b),a", ["x,1", "y|z,2"], "CSV", ["q (a|b)", "a"]),
    ],
)  # fmt: skip
def test_the_delimiter_is_the_one_that_the_records_agree_on(tmp_path, header, rows, kind, names):
    """A header with as many commas as semicolons was cut at its commas, the rows with it."""
    loaded = load(put(tmp_path, "x.csv", "\n".join([header, *rows, ""]).encode()))
    assert (loaded.kind, loaded.excluded, list(loaded.rows[0].row)) == (kind, [], names)
    assert len(loaded.rows) == len(rows)


def test_a_table_of_two_delimiters_that_both_fit_is_refused(tmp_path):
    text = b"Titel, kurz;Antwort\nHallo, du;x\n"
    with pytest.raises(DataError, match=r"its columns are 'Titel', ' kurz;Antwort' \(by ','\) or "
                       r"'Titel, kurz', 'Antwort' \(by ';'\); the lines fit both. Put a first line sep=; "):  # fmt: skip
        load(put(tmp_path, "x.csv", text))
    loaded = load(put(tmp_path, "x.csv", b"sep=;\n" + text))
    assert loaded.rows[0].row == {"Titel, kurz": "Hallo, du", "Antwort": "x"}


def test_a_carriage_return_in_a_text_does_not_cut_it(tmp_path):
    """csv.writer(lineterminator="\\n") of Python 3.11 writes a lone CR without quotes."""
    text = b'q,a\n1,one\rtwo\n"2\rb",x\n3,y\n'
    loaded = load(put(tmp_path, "x.csv", text))
    assert [one.row for one in loaded.rows] == [{"q": "2\rb", "a": "x"}, {"q": "3", "a": "y"}]
    assert [(e.number, e.reason) for e in loaded.excluded] == [(2, "a carriage return outside quotes")]
    loaded = load(put(tmp_path, "x.csv", b'q,a\r1,"one\ntwo"\r2,x\r'))
    assert [one.row["a"] for one in loaded.rows] == ["one\ntwo", "x"], "rows of an old Mac end so"
    loaded = load(put(tmp_path, "x.csv", b"q,a\r\r\n1,x\r\r\n2,y\r\r\n"))
    assert [one.row["a"] for one in loaded.rows] == ["x", "y"], "written as text on Windows"


def test_names_of_columns_have_no_space_around_them(tmp_path):
    assert load(put(tmp_path, "x.csv", b"q, a\n1,2\n")).rows[0].row == {"q": "1", "a": "2"}
    with pytest.raises(DataError, match="header: two columns are called 'q'"):
        load(put(tmp_path, "x.csv", b"q, q\n1,2\n"))
    with pytest.raises(DataError, match="header: column 2 has no name"):
        load(put(tmp_path, "x.csv", b"q, \n1,2\n"))


def test_lists_in_lines_are_excluded_line_by_line(tmp_path):
    turns = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).encode()
    words = (r"x.jsonl \(JSONL\): no row can be used, 3 excluded; the first, line 1: "
             "a JSON list where an object is expected")  # fmt: skip
    with pytest.raises(DataError, match=words):
        load(put(tmp_path, "x.jsonl", b"\n".join([turns] * 3)))


def test_a_second_list_of_rows_is_named(tmp_path):
    rows = json.dumps([ONE, TWO]).encode()
    def kind(text):
        loaded = load(put(tmp_path, "x.json", text))
        assert [one.row for one in loaded.rows] == [ONE, TWO]
        return loaded.kind
    assert kind(b'{"validation": [{"q": "3"}], "data": ' + rows + b', "n": [3]}') == (
        "JSON object, list 'data'; not read: 'validation' (1)")  # fmt: skip
    assert kind(b'{"features": [{"name": "q"}], "rows": ' + rows + b"}") == "JSON object, list 'rows'"
    for other in (b'{"validation": [{"q": "3"}], "data": [%s, {"q": NaN}, %s]}',
                  b'{"data": [%s, {"q": NaN}, %s], "validation": [{"q": "3"}]}',
                  b'{"data": [%s, %s], "validation": [{"q": NaN}]}'):  # fmt: skip
        assert kind(other % (A, B)) == "JSON object, list 'data'; not read: 'validation' (1)"


@pytest.mark.parametrize("between", [b"", b'"n": 2, "note": "x", '])
@pytest.mark.parametrize("broken", [b'{"q": {"x": 1}\n', b'{"q": 1, x": "y"}'])
def test_rows_of_another_list_are_not_those_of_a_broken_one(tmp_path, between, broken):
    """Brackets or quotes of the last row of a list do not match; its like begin the next list."""
    content = b'{"data": [\n%s,\n%s], %s"test": [\n%s,\n%s\n]}' % (A, broken, between, B, B)
    loaded = load(put(tmp_path, "x.json", content))
    assert [one.row for one in loaded.rows] == [ONE]
    assert [one.number for one in loaded.excluded] == [2]
    assert loaded.kind == "JSON object, list 'data'; not read: 'test' (2)"
    with pytest.raises(DataError, match=r"one JSON object \(lists \['test', 'train'\]\)"):
        load(put(tmp_path, "x.json", content.replace(b'"data"', b'"train"')))


def test_a_bracket_too_many_in_a_row_does_not_end_the_list(tmp_path):
    rows = b'{"q": "1", "l": [{"x": 1}]}, {"q": "2"], "l": [{"x": 1}]}, {"q": "3"}'
    loaded = load(put(tmp_path, "x.json", b'{"data": [' + rows + b"]}"))
    assert [one.number for one in loaded.rows] == [1, 3]
    assert loaded.kind == "JSON object, list 'data'"


@pytest.mark.parametrize("first", [b'{"q": 1, "x": oops', b'{"q":', b"{", b'{"rows": [{"q": 1', b"{'q': 1}\n{'q': 2}", b'{"q": 1,\n"a": 2}'])
def test_lines_behind_a_broken_first_one_are_rows(tmp_path, first):
    loaded = load(put(tmp_path, "x.jsonl", first + b"\n" + A + b"\n" + B + b"\n"))
    assert (loaded.kind, [one.row for one in loaded.rows]) == ("JSONL", [ONE, TWO])


def served(*rows):
    return json.dumps({"features": [{"name": "q"}], "rows": list(rows), "num_rows_total": 2}).encode()


def test_rows_of_the_dataset_server_are_taken_out_of_their_wrapping(tmp_path):
    rows = [{"row_idx": 0, "row": ONE}, {"row_idx": 1, "row": TWO, "truncated_cells": []}]
    loaded = load(put(tmp_path, "x.json", served(*rows)))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    assert loaded.kind == "JSON object, list 'rows', under 'row'"
    loaded = load(put(tmp_path, "x.json", served({**rows[0], "truncated_cells": ["a"]}, rows[1])))
    assert [one.row for one in loaded.rows] == [{**ONE, "a": None}, TWO]
    assert loaded.warnings == {"a text that the dataset server cut in column 'a', read as null": [1]}
    own = [{**rows[0], "note": "x"}, rows[1]]
    assert [one.row for one in load(put(tmp_path, "x.json", served(*own))).rows] == own


def test_paths_that_no_system_takes():
    with pytest.raises(DataError, match="is no usable path: File name too long"):
        load("x" * 5000 + "/y.csv")
    with pytest.raises(DataError, match="null is no ordinary file"):
        load("/dev/null")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("file:///a/x.jsonl", "give its path alone: /a/x.jsonl"),
        ("https://e.org/a/x.jsonl", "fetch it and give the path of the file, or name a dataset"),
        ("C:\\Users\\me\\x.jsonl", "WSL has it as /mnt/c/Users/me/x.jsonl"),
        ("{}/x.jsonl ", "take the spaces around {}/x.jsonl away"),
        ("'{}/x.jsonl'", "take the quotes around {}/x.jsonl away"),
        ("{}/*.jsonl", "one file is read, and 2 fit; for example {}/lost.jsonl"),
        ("{}/lost.jsonl", "lost.jsonl is a link to gone.jsonl, which does not exist"),
        ("{}/loop.jsonl.gz", "loop.jsonl.gz' is no usable path: Symlink loop"),
        ("{}/a/b/x.jsonl", "nor does its directory: {}/a is no folder."),
        ("{}/X.JSON", "Did you mean x.jsonl or lost.jsonl?"),
        ("a\0b", "is no usable path: embedded null byte"),
    ],
)  # fmt: skip
def test_what_is_no_path_of_this_machine_is_told_what_to_do(tmp_path, given, words):
    put(tmp_path, "x.jsonl", b'{"a": 1}\n')
    (tmp_path / "lost.jsonl").symlink_to("gone.jsonl")
    (tmp_path / "loop.jsonl.gz").symlink_to("loop.jsonl.gz")
    with pytest.raises(DataError, match=re.escape(words.format(tmp_path))):
        load(given.format(tmp_path))


def test_values_stay_as_they_are(tmp_path):
    row = {
        "id": 2**53 + 1,
        "big": 10**40,
        "x": 0.1,
        "t": "a\u2028b\x85 🙂 \\ud83d",
        "n": None,
        "é": [True],
    }
    loaded = load(put(tmp_path, "x.jsonl", json.dumps(row).encode() + b"\n"))
    assert loaded.rows[0].row == row
    assert type(loaded.rows[0].row["id"]) is int
    assert load(put(tmp_path, "x.json", json.dumps([row]).encode())).rows[0].row == row


def test_csv_fields_of_several_lines_keep_their_text_and_line_numbers(tmp_path):
    loaded = load(put(tmp_path, "x.csv", b'\nq,a\n"1\r\n\n, ""x""",A\n2,\n'))
    assert [(one.number, one.row) for one in loaded.rows] == [
        (3, {"q": '1\r\n\n, "x"', "a": "A"}), (6, {"q": "2", "a": ""})]  # fmt: skip


def test_rows_after_an_unclosed_quote_are_read(tmp_path):
    loaded = load(put(tmp_path, "x.csv", b'q,a\n"1,A\n2,B\n3,"C\nD"\n'))
    assert [(one.number, one.row["a"]) for one in loaded.rows] == [(3, "B"), (4, "C\nD")]
    assert [(one.number, str(one)) for one in loaded.excluded] == [
        (2, "text after a closing quote")
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_written_one_behind_the_other_lose_no_row_to_their_marks(tmp_path, encoding):
    one, two = (f"{part.decode()}\n".encode(encoding) for part in (A, B))
    loaded = load(put(tmp_path, "x.jsonl", one + two))
    assert [r.row for r in loaded.rows] == [ONE, TWO]
    assert loaded.warnings == {parsing.INNER_MARK: [2]}
    assert not loaded.excluded
    broken = load(put(tmp_path, "y.jsonl", one + "oops\n".encode(encoding) + two))
    assert [(e.number, e.reason) for e in broken.excluded] == [(2, "not JSON")]


def test_suspicious_texts_are_kept_with_a_warning(tmp_path):
    rows = [
        {"q": "fine é “x”"},
        {"q": [{"a": "fa\u00c3\u00a7ade"}]},
        {"q": "\ufffd"},
        {"q": "\u0000"},
    ]
    loaded = load(put(tmp_path, "x.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode()))
    assert [one.row for one in loaded.rows] == rows
    assert loaded.warnings == {"mojibake": [2], "U+FFFD": [3], "U+0000": [4]}
    assert loaded.summary().splitlines()[1] == (
        "kept with a warning: mojibake (line 2); U+FFFD (line 3); U+0000 (line 4)"
    )


def test_a_missing_comma_is_a_warning(tmp_path):
    loaded = load(put(tmp_path, "x.json", b"[" + A + b"\n" + B + b"]"))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    assert loaded.warnings == {"no comma before the row": [2]}


def test_the_summary_counts_reasons_with_their_first_lines(tmp_path):
    loaded = load(
        put(tmp_path, "x.jsonl", b"\n".join([A, b"[1]", b"\0", b"[1]", b"[1]", b"[1]", B]))
    )
    assert loaded.summary() == (
        "x.jsonl (JSONL; UTF-8): 2 rows kept, 5 excluded: 4 a JSON list where an object is expected "
        "(lines 2, 4, 5, …); 1 NUL byte (line 3)"
    )
    assert loaded.reasons == {"a JSON list where an object is expected": 4, "NUL byte": 1}


def test_limit_stops_and_says_so(tmp_path):
    path = put(tmp_path, "x.jsonl", A + b"\noops\n" + B + b"\n" + A + b"\n")
    loaded = load(path, limit=2)
    assert [one.number for one in loaded.rows] == [1, 3]
    assert loaded.limited
    assert "2 rows kept (limit reached, the rest is not read), 1 excluded" in loaded.summary()
    assert not load(path, limit=3).limited
    with pytest.raises(ConfigError, match="limit = 0, must be at least 1"):
        load(path, limit=0)


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_blocks_do_not_cut_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(parsing, "BLOCK", block)
    monkeypatch.setattr(parsing, "HEAD", 4)
    content = b"a,b\r\n1,2\r3,\xc3\xa9\n\r\n" + b"x" * 50 + b",4\r\n5,6"
    for raw in (content, gzipped(content), content.decode().encode("utf-16")):
        source = parsing.Source(put(tmp_path, "x.csv", raw))
        assert [(n, line, reason) for n, line, reason, _ in parsing.lines(source, 20)] == [
            (1, b"a,b\r\n", ""), (2, b"1,2\r", ""), (3, b"3,\xc3\xa9\n", ""), (4, b"\r\n", ""),
            (5, b"", "over-long line"), (6, b"5,6", "")]  # fmt: skip
        source.close()


def test_a_long_line_in_small_blocks_is_searched_once(tmp_path, monkeypatch):
    class Counting:
        seen = 0

        def finditer(self, text, at=0):
            self.seen += len(text) - at
            return parsing.re.compile(rb"\r\n|\n|\r").finditer(text, at)

    monkeypatch.setattr(parsing, "BLOCK", 100)
    monkeypatch.setattr(parsing, "HEAD", 4)
    monkeypatch.setattr(parsing, "_END", Counting())
    source = parsing.Source(put(tmp_path, "x.csv", b"x" * 50_000 + b"\r\nlast"))
    assert [len(line) for _, line, _, _ in parsing.lines(source, 10**6)] == [50_002, 4]
    source.close()
    assert parsing._END.seen < 2 * 50_006


def test_a_huge_line_is_not_held_in_memory(tmp_path):
    path = put(
        tmp_path, "x.jsonl.gz", gzipped(lines(b'{"q": "' + b"x" * 64 * 2**20 + b'"}'), compresslevel=1)
    )
    import tracemalloc

    tracemalloc.start()
    loaded = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.number for one in loaded.rows] == [1, 3]
    assert str(loaded.excluded[0]) == "over-long line: 67108874 bytes, the limit is 8388608"
    assert peak < 40 * 2**20


def test_a_broken_row_group_costs_no_other(tmp_path):
    content = bytearray(packed([ONE, {"q": "x" * 2000, "a": "y"}, TWO]))
    second = parquet.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0)
    start = second.dictionary_page_offset
    content[start : start + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    loaded = load(put(tmp_path, "x.parquet", bytes(content)))
    assert [one.row for one in loaded.rows] == [ONE, TWO]
    assert loaded.excluded[0].number == 2
    assert str(loaded.excluded[0]).startswith("broken row group: rows 2 to 2: ")


MARS = pyarrow.timestamp("us", tz="Mars/Phobos")
BROKEN_TEXT = pyarrow.Array.from_buffers(
    pyarrow.string(), 3, [None, pyarrow.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])), pyarrow.py_buffer(b"x\xffz")]
)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "good", "why"),
    [
        (pyarrow.array([0.5, float("nan"), 1.5]), [0.5, None, 1.5], "NaN or Infinity"),
        (pyarrow.array([[0.5], [float("-inf")], None]), [[0.5], None, None], "NaN or Infinity"),
        (pyarrow.array([None, b"x", None]), [None] * 3, "a value that JSON cannot hold (bytes)"),
        (pyarrow.array([None, 7, None], pyarrow.duration("s")), [None] * 3, "a value that JSON cannot hold (timedelta)"),
        (pyarrow.array([0, 2**62, None], pyarrow.timestamp("us")), ["1970-01-01T00:00:00", None, None], "a value that Python cannot hold (timestamp[us])"),
        (pyarrow.array([None, 2, None], MARS), [None] * 3, f"a value that Python cannot hold ({MARS})"),
        (BROKEN_TEXT, ["x", None, "z"], "invalid UTF-8"),
    ],
)  # fmt: skip
def test_a_typed_value_that_json_has_not_is_null_with_a_warning(tmp_path, column, good, why):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"q": ["a", "b", "c"], "t": column}), path)
    loaded = load(path)
    assert [one.row for one in loaded.rows] == [{"q": q, "t": t} for q, t in zip("abc", good, strict=True)]
    assert [one.lost for one in loaded.rows] == [(), (("t", why),), ()]
    assert loaded.warnings == {f"{why} in column 't', read as null": [2]}
    assert not loaded.excluded


def test_a_row_may_have_several_warnings(tmp_path):
    nan = float("nan")
    loaded = load(put(tmp_path, "x.parquet", packed([{"q": "fa\u00c3\u00a7ade", **{f"s{n}": nan for n in range(20)}}])))
    assert len(loaded.warnings) == 21
    assert loaded.warnings["mojibake"] == [1]
    assert loaded.summary().endswith("in column 's11', read as null (row 1); and 9 more")


def test_the_row_numbers_of_pandas_are_a_column_of_their_own(tmp_path):
    loaded = load(put(tmp_path, "x.csv", b",q,a\n0,x,y\n1,z,w\n"))
    assert loaded.rows[1].row == {"Unnamed: 0": "1", "q": "z", "a": "w"}
    with pytest.raises(DataError, match="column 1 has no name"):
        load(put(tmp_path, "x.csv", b",Unnamed: 0,a\n0,x,y\n"))


def test_parquet_dates_become_texts(tmp_path):
    import datetime
    import decimal

    row = {
        "d": datetime.date(2026, 2, 3),
        "t": datetime.datetime(2026, 2, 3, 4, 5),
        "x": decimal.Decimal("1.50"),
    }
    assert load(put(tmp_path, "x.parquet", packed([row]))).rows[0].row == {
        "d": "2026-02-03", "t": "2026-02-03T04:05:00", "x": "1.50"}  # fmt: skip


def test_a_missing_file_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/train", "nowhere/train.jsonl"):
        with pytest.raises(DataError, match="does not exist"):
            load(name)


# --- any bytes --------------------------------------------------------------------------------


def test_damage_anywhere_raises_nothing_but_our_errors(tmp_path):
    """Every format with bytes lost, changed or inserted: an answer or an SFTError, no traceback."""
    import random

    draw = random.Random(17)
    for name, content, *_ in SAME:
        for _ in range(25):
            raw = bytearray(content)
            at = draw.randrange(len(raw))
            match draw.randrange(3):
                case 0:
                    del raw[at:]
                case 1:
                    raw[at] = draw.randrange(256)
                case 2:
                    raw[at:at] = draw.choice(
                        [b"\0", b"\xff", b'"', b"{", b"}", b"]", b",", b"\n", b"\r"]
                    )
            try:
                loaded = load(put(tmp_path, name, bytes(raw)))
            except SFTError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017
            else:
                assert loaded.summary()
                assert loading.tally(loaded.excluded, loaded.unit) or not loaded.excluded
