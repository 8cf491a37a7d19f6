"""Source <-> notebook in both directions, what a notebook depends on, generated tables."""

import dataclasses
import errno
import importlib.metadata
from pathlib import Path

import nbformat
import pytest

from sft_utils.config import PROFILES
from sft_utils.errors import ConfigError, RunnerError
from sft_utils.formats import number, table
from sft_utils.manifest import locked_versions
from sft_utils.notebook import nbdeps
from sft_utils.notebook.nbdeps import dependencies, state_hash, upstream_closure
from sft_utils.notebook.nbsource import (
    adopt,
    build,
    code_sha256,
    differences,
    find_notebook,
    notebook_names,
    parse,
)
from sft_utils.notebook.readme import replace_generated
from tests.unit.nb_repo import FIRST, MODELS, SECOND, add_report, edit, make_repo, write_result

HEADER = "# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n# ---\n\n"  # no display_name


@pytest.fixture
def layout(tmp_path):
    return make_repo(tmp_path / "a repo")


def with_injected(nb):
    nb.cells.insert(
        3, nbformat.v4.new_code_cell("steps = 9", metadata={"tags": ["injected-parameters"]})
    )
    return nb


def test_build_is_deterministic_and_clean(layout):
    one, two = (nbformat.writes(build(layout, "00_first", MODELS)) for _ in range(2))
    assert one == two
    nb = nbformat.reads(one, as_version=4)
    assert nb.metadata.kernelspec.name == "python3"
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    nbformat.validate(nb)


def test_cell_ids_follow_the_source_not_the_cost_table(layout):
    before = [c.id for c in build(layout, "00_first", MODELS).cells]
    write_result(layout.reference("00_first", "cpu"))
    assert [c.id for c in build(layout, "00_first", MODELS).cells] == before
    edit(layout, "notebooks/src/00_first.py", "gain", "profit")
    after = [c.id for c in build(layout, "00_first", MODELS).cells]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_code_hash_counts_code_only(layout):
    nb = build(layout, "00_first", MODELS)
    digest = code_sha256(nb)
    assert code_sha256(with_injected(nb)) == digest
    nb.cells[0].source += " edited"
    assert code_sha256(nb) == digest
    nb.cells[-1].source += "\n1"
    assert code_sha256(nb) != digest


def test_differences_name_what_changed(layout):
    source, other = (build(layout, "00_first", MODELS) for _ in range(2))
    assert differences(source, with_injected(other)) == []
    other.cells[0].source = "# 00 · Other"
    other.cells[-1].source = "print(1)"
    found = differences(source, other)
    assert found[0].startswith("markdown differs in cell 1")
    assert found[1].startswith("code differs in cell 4: 'from sft_utils import tiny'")
    other.cells.pop()
    assert differences(source, other)[1].startswith("code only in the source, in cell 4")


def test_an_added_cell_is_one_difference(layout):
    """Each cell behind it was named as changed: 51 lines for one cell."""
    source, other = (build(layout, "00_first", MODELS) for _ in range(2))
    source.cells.insert(1, nbformat.v4.new_markdown_cell("New."))
    assert differences(source, other) == ["markdown only in the source, in cell 2: 'New.'"]
    assert differences(other, source) == ["markdown is not in the source: 'New.'"]


def test_a_new_measurement_is_no_difference(layout):
    before = build(layout, "00_first", MODELS)
    write_result(layout.reference("00_first", "cpu"))
    after = build(layout, "00_first", MODELS)
    assert after.cells[1].source != before.cells[1].source
    assert differences(before, after) == []


@pytest.mark.parametrize("text", [FIRST, SECOND, HEADER + SECOND])
def test_adopt_round_trip_is_identity(text):
    assert adopt(text, parse(text, "x")) == text


def test_adopt_identity_does_not_depend_on_style(layout):
    text = FIRST.replace("# %%\nfrom", "\n\n# %%\n\nfrom") + "\n\n"
    assert adopt(text, parse(text, "x")) == text


def test_adopt_takes_the_edit_and_nothing_else(layout):
    write_result(layout.reference("00_first", "cpu"))
    nb = with_injected(build(layout, "00_first", MODELS))
    nb.cells[-1].outputs = [nbformat.v4.new_output("stream", text="old")]
    nb.cells[0].source += "\n\nAn added line."
    nb.cells.append(nbformat.v4.new_code_cell("!ls", metadata={"tags": ["x"], "colab": {"a": 1}}))
    expected = FIRST.replace("work?\n", "work?\n#\n# An added line.\n", 1)
    assert adopt(FIRST, nb) == expected + '\n# %% tags=["x"]\n# !ls\n'


def test_adopt_keeps_other_cells_when_one_is_removed():
    nb = parse(SECOND, "x")
    del nb.cells[2]
    assert adopt(SECOND, nb) == SECOND.replace("# %%\nfrom sft_utils import tiny\n\n", "")


def test_adopt_survives_a_cell_marker_inside_a_string():
    text = '# %%\nx = """\n# %% not a cell\n"""\n\n# %%\ny = 1\n'
    nb = parse(text, "x")
    assert adopt(text, nb).count("y = 1") == 1


@pytest.mark.parametrize("given", ["0", "00", "00_first", "00_first.py"])
def test_find_notebook(layout, given):
    assert find_notebook(layout, given) == "00_first"


def test_unknown_notebook_suggests(layout):
    with pytest.raises(ConfigError, match="Did you mean '00_first'"):
        find_notebook(layout, "00_frist")
    with pytest.raises(ConfigError, match="Known: 00_first, 01_second"):
        find_notebook(layout, "7")


def test_sources_that_are_no_notebooks_are_ignored(layout):
    (layout.root / "notebooks/src/helper.py").write_text("x = 1\n")
    assert notebook_names(layout) == ["00_first", "01_second"]


def test_a_source_without_code_is_refused():
    with pytest.raises(RunnerError, match=r"00_bad\.py holds no code cell"):
        parse("# %% [markdown]\n# only text\n", "00_bad")


def test_dependencies_are_derived(layout):
    (layout.root / "data").mkdir()
    (layout.root / "data/rows.jsonl").write_text("{}\n")
    write_result(layout.reference_root / "bench.json")
    write_result(layout.reference("00_first", "cpu"))
    edit(layout, "sft_utils/constants.py", "GAIN", 'ROWS = "data/rows.jsonl"\nGAIN')
    edit(layout, "sft_utils/tiny.py", "import json", 'X = ["outputs/reference", "outputs/reference/"'
         ', "outputs/reference/bench.json", "outputs/reference/cpu/00_first.json"]\nimport json')  # fmt: skip
    edit(
        layout,
        "notebooks/src/01_second.py",
        "    return x / 2",
        '    import sft_utils.unused\n    return x / 2, "data/absent.jsonl", "-m sft_utils.nope"',
    )
    found = dependencies(layout, "01_second")
    assert found.upstream == ("00_first",)
    assert found.modules == ("constants", "tiny", "unused")
    bench = layout.reference_root / "bench.json"
    assert found.data == (layout.root / "data/rows.jsonl", bench), "results change by publishing"
    assert dependencies(layout, "00_first").modules == ("constants", "tiny")


def test_code_is_parsed_again_only_when_it_has_changed(layout, monkeypatch):
    """A chain asks dozens of times; parsing each time took longer than its shortest notebook."""
    edit(layout, "sft_utils/tiny.py", "import hashlib", "# no other test has this\nimport hashlib")
    parsed, real = [], nbdeps.ast.parse
    monkeypatch.setattr(nbdeps.ast, "parse", lambda text, *rest: parsed.append(text) or real(text, *rest))
    found = dependencies(layout, "01_second")
    first = len(parsed)
    assert first
    assert dependencies(layout, "01_second") == found
    upstream_closure(layout, "01_second")
    assert len(parsed) == first
    edit(layout, "sft_utils/tiny.py", "import hashlib", "import sft_utils.unused\nimport hashlib")
    assert "unused" in dependencies(layout, "01_second").modules
    assert len(parsed) > first


def test_what_reads_recorded_runs_depends_on_all_earlier_ones_and_needs_none(layout):
    add_report(layout)
    found = dependencies(layout, "03_report")
    assert found.upstream == ()
    assert found.optional == ("00_first", "01_second", "02_third")
    assert upstream_closure(layout, "03_report") == []
    assert dependencies(layout, "02_third").optional == ()
    before = state_hash(layout, "03_report", "cpu", {})
    write_result(layout.run_file("02_third", "cpu", ".json"))
    assert state_hash(layout, "03_report", "cpu", {}) != before


def test_a_module_launched_by_name_counts(layout):
    edit(layout, "notebooks/src/01_second.py", "half(value)\n", 'half(value), "sft_utils.unused"\n')
    assert "unused" in dependencies(layout, "01_second").modules


def test_required_notebooks_must_exist(layout):
    edit(layout, "notebooks/src/01_second.py", '"00_first"', '"00_frist"')
    with pytest.raises(RunnerError, match=r"requires '00_frist', but .* does not exist"):
        upstream_closure(layout, "01_second")


def test_invalid_python_is_named(layout):
    edit(layout, "notebooks/src/01_second.py", "half(value)\n", "!ls\n")
    with pytest.raises(RunnerError, match=r"01_second.py is no valid Python: .* in line"):
        dependencies(layout, "01_second")


def test_state_hash_sees_what_matters(layout):
    upstream = layout.run_file("00_first", "cpu", ".json")

    def now(**params):
        return state_hash(layout, "01_second", "cpu", params)

    seen = [now()]
    write_result(upstream)
    seen.append(now())
    write_result(upstream, wall_s=1.0, manifest={"data": "d", "code": "c", "git": {"commit": "x"},
                                                 "versions": {"torch": "1"}})  # fmt: skip
    assert now() == seen[-1], "times and commits of an upstream run must not count"
    edit(layout, "sft_utils/unused.py", "1", "2")
    assert now() == seen[-1], "a module that is not imported must not count"
    write_result(upstream, metrics={"tuned.f1": {"value": 0.6}})
    seen.append(now())
    edit(layout, "sft_utils/constants.py", "0.5", "0.6")
    seen.append(now())
    seen.append(now(steps=3))
    (layout.root / "mine.jsonl").write_text("a")
    seen.append(now(rows="mine.jsonl"))
    (layout.root / "mine.jsonl").write_text("b")
    seen.append(now(rows="mine.jsonl"))
    seen.append(state_hash(layout, "01_second", "smoke", {}))
    assert len(set(seen)) == len(seen)


def test_state_hash_sees_package_versions(layout, monkeypatch):
    before = state_hash(layout, "00_first", "cpu", {})
    installed, other = importlib.metadata.version, {}
    monkeypatch.setattr("importlib.metadata.version", lambda n: other.get(n) or installed(n))
    for package in ("llguidance", "lxml", "xllamacpp", "pandas"):  # decide numbers, shown nowhere
        other[package] = "99.0"
        locked_versions.cache_clear()
        assert state_hash(layout, "00_first", "cpu", {}) != before, package
        other.clear()
        locked_versions.cache_clear()
        assert state_hash(layout, "00_first", "cpu", {}) == before


def test_state_hash_sees_the_contents_of_data(layout):
    rows = layout.root / "data/sets/rows.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("{}\n")
    edit(layout, "sft_utils/constants.py", "GAIN", 'ROWS = "data/sets"\nGAIN')
    before = state_hash(layout, "00_first", "cpu", {})
    rows.write_text('{"a": 1}\n')
    changed = state_hash(layout, "00_first", "cpu", {})
    assert changed != before
    (rows.parent / "more.jsonl").write_text("{}\n")
    assert state_hash(layout, "00_first", "cpu", {}) not in (before, changed)


@pytest.mark.parametrize(("code", "seen"), [
    ('ROOT / "data" / "sets" / "rows.jsonl"', ["sets/rows.jsonl"]),
    ('(ROOT / "data" / "sets").glob("*")', ["sets/rows.jsonl"]),
    ('ROOT / "data" / KIND / "rows.jsonl"', ["other.jsonl", "sets/rows.jsonl"]),
    ('ROOT / "data"', ["other.jsonl", "sets/rows.jsonl"]),
    ('ROOT / "sets" / "rows.jsonl"', []),
    ("GAIN / 2", []),
])  # fmt: skip
def test_paths_that_are_put_together_are_data(layout, code, seen):
    """A notebook that named its rows so was "unchanged" after they had changed."""
    for name in ("sets/rows.jsonl", "other.jsonl"):
        path = layout.root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    edit(layout, "sft_utils/constants.py", "GAIN", f"ROWS = lambda: {code}\nGAIN")
    found = dependencies(layout, "00_first").data
    assert [str(p.relative_to(layout.root / "data")) for p in found] == seen


def test_state_hash_sees_a_file_below_the_users_home(layout, tmp_path, monkeypatch):
    """zsh hands DATA=~/mails.csv on as it is, and `loading.load` finds that file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = set()
    for text in ("one", "two"):
        (tmp_path / "mails.csv").write_text(text)
        seen.add(state_hash(layout, "00_first", "cpu", {"data": "~/mails.csv"}))
    assert len(seen) == 2


@pytest.mark.parametrize("part", [{"files": {"rows": {"path": "a", "sha256": "1"}}},
                                  {"manifest": {"data": "other"}}])  # fmt: skip
def test_state_hash_sees_all_that_an_upstream_run_hands_on(layout, part):
    upstream = layout.run_file("00_first", "cpu", ".json")
    write_result(upstream)
    before = state_hash(layout, "01_second", "cpu", {})
    write_result(upstream, **part)
    assert state_hash(layout, "01_second", "cpu", {}) != before


def test_state_hash_sees_a_base_model_that_is_a_folder(layout, tmp_path, monkeypatch):
    """Weights retrained at the same place are another model; a name alone counts for nothing."""
    before = state_hash(layout, "00_first", "cpu", {})
    model = tmp_path / "model"
    other = dataclasses.replace(PROFILES["cpu"], model=str(model))
    monkeypatch.setitem(PROFILES, "cpu", other)
    assert state_hash(layout, "00_first", "cpu", {}) == before, "no folder: as it always was"
    model.mkdir()
    seen = {before}
    for name, text in (("model.safetensors", "one"), ("model.safetensors", "two"), ("config.json", "{}")):
        (model / name).write_text(text)
        seen.add(state_hash(layout, "00_first", "cpu", {}))
    assert len(seen) == 4


@pytest.mark.parametrize("refuses", ["is_file", "open"])
def test_a_data_file_that_cannot_be_read_is_named(layout, tmp_path, monkeypatch, refuses):
    """Root reads everything, so the refusal is played."""
    mine = tmp_path / "mine.csv"
    mine.write_text("a")
    real = getattr(Path, refuses)

    def refused(path, *arguments, **options):
        if path == mine:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, refuses, refused)
    with pytest.raises(ConfigError, match=r"mine\.csv cannot be read: Permission denied"):
        state_hash(layout, "00_first", "cpu", {"data": str(mine)})


def test_state_hash_sees_the_number_of_threads_on_a_cpu(layout, monkeypatch):
    monkeypatch.delenv("SFT_THREADS", raising=False)  # set where tests run two at a time
    before = [state_hash(layout, "00_first", profile, {}) for profile in ("cpu", "gpu-16gb")]
    monkeypatch.setenv("SFT_THREADS", "5")
    after = [state_hash(layout, "00_first", profile, {}) for profile in ("cpu", "gpu-16gb")]
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert state_hash(layout, "00_first", "cpu", {}, 2) == before[0]


def test_a_parameter_longer_than_a_file_name_is_no_error(layout):
    mapping = "prompt=" + "+".join(f"column_number_{i}" for i in range(20)) + ",completion=x"
    assert state_hash(layout, "00_first", "cpu", {"mapping": mapping})


def test_cost_table_holds_recorded_runs_only(layout):
    write_result(layout.reference("00_first", "cpu"), measured_on="2026-11-21", peak_gpu_gib=3)
    text = build(layout, "00_first", MODELS).cells[1].source
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()[1:-1]]
    assert rows[3][:3] == ["cpu", "tiny", "1 min 05 s"]
    assert rows[3][3:] == ["1.2 GiB RAM, 3.0 GiB GPU", "test", "2026-11-21"]
    assert rows[4] == ["gpu-16gb", "big", "not measured", "not measured", "not measured", ""]
    assert len(rows) == 2 + len(MODELS)


def test_generated_blocks():
    text = "a <!-- generated:x -->\nold\n<!-- /generated --> b"
    assert replace_generated(text, "y", "new") == text
    assert replace_generated(text, "x", r"\1 new") == (
        "a <!-- generated:x -->\n\\1 new\n<!-- /generated --> b"
    )


def test_tables_survive_their_content():
    assert table(["a"], [["x | y\nz"]]).splitlines()[-1] == "| x \\| y z |"
    assert number(True) == "yes"
