"""The benchmark's arithmetic, its baseline, its processes and its files; never a wall time."""

import dataclasses
import inspect
import os
import time

import psutil
import pytest
from matplotlib.axes import Axes

from sft_utils.artifacts import ROOT
from sft_utils.errors import CheckError, ConfigError, ServeError
from sft_utils.notebook import readme
from tests.bench import curation_scale, evaluate, plot, run, startup, train, train_worker, turns


def step(seconds, tokens=100, loss=2.0, supervised=40, places=110, peak=1.0):
    return {"seconds": seconds, "tokens": tokens, "loss": loss, "supervised": supervised,
            "places": places, "peak_gib": peak}  # fmt: skip


def test_the_plain_arm_is_what_trl_does_by_default():
    from trl import SFTConfig, SFTTrainer

    stock, plain = SFTConfig(use_cpu=True), train_worker.PLAIN
    assert next(iter(train_worker.ARMS)) == "plain_trl"
    assert train_worker.ARMS["plain_trl"] is plain
    assert (stock.gradient_checkpointing, stock.bf16) == (plain.checkpointing, True)
    assert stock.per_device_train_batch_size == plain.micro_batch == train_worker.ROWS_PER_STEP
    assert stock.gradient_accumulation_steps == 1
    assert (stock.loss_type, stock.packing) == ("chunked_nll", False)
    assert stock.train_sampling_strategy == "random"
    source = inspect.getsource(inspect.getmodule(SFTTrainer))  # a test may have changed the value
    assert f"\n_CHUNKED_LM_HEAD_CHUNK_SIZE = {plain.loss_chunk}\n" in source


def test_each_arm_changes_one_thing_and_says_so():
    for name, arm in train_worker.ARMS.items():
        if name == "plain_trl":
            continue
        before = train_worker.ARMS[arm.before]
        changed = {
            f.name for f in dataclasses.fields(arm)
            if getattr(arm, f.name) != getattr(before, f.name)
        }  # fmt: skip
        assert len(changed - {"says", "before"}) == 1, name
        assert "says" in changed


def test_rows_by_length_are_the_same_rows_with_less_padding():
    rows = [{"input_ids": [0] * (1 + i * 7 % 40)} for i in range(40)]
    grouped = train_worker.by_length(rows)
    assert sorted(map(id, grouped)) == sorted(map(id, rows))

    def places(some):
        batches = [some[i : i + 8] for i in range(0, 40, 8)]
        return sum(8 * max(len(r["input_ids"]) for r in batch) for batch in batches)

    assert places(grouped) < 0.8 * places(rows)
    assert [len(r["input_ids"]) for r in grouped] != sorted(len(r["input_ids"]) for r in grouped)


def test_rates_ratios_and_padding():
    slow = [step(4.0), step(4.0, tokens=200, places=300)]
    fast = [step(1.0, peak=2.0), step(1.0, tokens=200, places=220, peak=2.5)]
    metrics, table = train.summary({"plain_trl": slow, "ours": fast})
    assert metrics["plain_trl.tokens_per_s"] == {"value": 37.5, "n": 2, "range": [25.0, 50.0]}
    assert metrics["ours.supervised_per_s"]["value"] == 40.0
    assert metrics["ours_over_plain_trl.tokens_per_s"] == {"value": 4.0, "n": 2, "range": [4.0, 4.0]}
    assert metrics["ours.step_s"]["value"] == 1.0
    assert metrics["ours.peak_gib"] == {"value": 2.5, "n": 1}
    assert [row["over_plain"] for row in table] == [1.0, 4.0]
    assert table[0]["padding"] == pytest.approx(1 - 300 / 410)


@pytest.mark.parametrize(("off", "exact", "fails"), [(0.5, True, True), (0.5, False, True), (1e-5, True, False)])
def test_arms_that_do_not_train_the_same_are_refused(monkeypatch, off, exact, fails):
    def race(arms, rows, steps, *, exact: bool, **_):
        gap = off if exact is wanted else 0.0
        return {arm: [step(1.0, loss=2.0 + gap * (arm == "ours")) for _ in range(steps)] for arm in arms}

    wanted = exact
    monkeypatch.setattr(train, "race", race)
    monkeypatch.setattr(train, "ticket_rows", lambda n: [{}] * n)
    monkeypatch.setattr(train_worker, "load_libraries", lambda: None)
    ungrouped = {n: dataclasses.replace(a, by_length=False) for n, a in train_worker.ARMS.items()}
    monkeypatch.setattr(train, "ARMS", ungrouped)
    if fails:
        with pytest.raises(CheckError, match=r"differ by 5.00e-01 nats"):
            train.measure(rounds=4, show=str)
    else:
        found = train.measure(rounds=4, show=str)["metrics"]
        assert found["ours_minus_plain_trl.loss_exact"]["value"] == pytest.approx(off, rel=1e-3)
        assert found["ours_minus_plain_trl.loss_native"]["value"] == 0.0


def test_losses_of_grouped_rows_are_compared_in_float32_only(monkeypatch):
    """In their own precision the arms that group rows see other rows in each step."""
    gaps = []

    def race(arms, rows, steps, *, exact: bool, **_):
        grouped = {a for a in arms if a in train_worker.ARMS and train_worker.ARMS[a].by_length}
        gaps.append((exact, grouped))
        return {a: [step(1.0, loss=9.0 if a in grouped and not exact else 2.0)] * steps for a in arms}

    monkeypatch.setattr(train, "race", race)
    monkeypatch.setattr(train, "ticket_rows", lambda n: [{}] * n)
    monkeypatch.setattr(train_worker, "load_libraries", lambda: None)
    train.measure(rounds=4, show=str)
    alone = train.different(list(train_worker.ARMS))  # float32: one process at a time
    assert [exact for exact, _ in gaps] == [*[True] * len(alone), False]
    assert any("ours" in grouped for exact, grouped in gaps if exact)
    assert max(len(grouped) for exact, grouped in gaps if exact) == 1


def test_an_arm_adds_what_was_left_out_before_it():
    reports = {name: [step(1.0)] for name in ("plain_trl", "bf16_weights", "ours")}
    _, table = train.summary(reports)
    assert [row["before"] for row in table] == ["", "plain_trl", "bf16_weights"]
    assert table[2]["new"] == (
        "eager attention; freed memory stays with the process; rows of similar length together"
    )


def test_float32_compares_each_arithmetic_once():
    exact = train.different(list(train_worker.ARMS))
    assert exact[0] == "plain_trl"
    assert {"bf16_weights", "ours", "pairs", "pairs_chunks"} <= set(exact)
    assert not {"no_checkpointing", "eager", "kept_memory"} & set(exact), "the same arithmetic as the arm behind"



def test_the_bare_products_are_those_of_the_grouped_steps(tiny, monkeypatch):
    rows = [{"input_ids": [1] * (3 + i % 5), "labels": [-100, -100, *[1] * (1 + i % 5)]} for i in range(16)]
    said, waited = [], []
    monkeypatch.setattr("sft_utils.model.modeling.load_model", lambda *_, **__: tiny.bfloat16())
    spec = {"arm": train_worker.FLOOR, "rows": rows, "steps": 2, "threads": 1}
    train_worker.work(spec, said.append, lambda: waited.append(1))
    assert said[0] == {}
    assert len(waited) == len(said) - 1 == 2
    assert sum(r["tokens"] for r in said[1:]) == sum(len(r["input_ids"]) for r in rows)
    assert sum(r["supervised"] for r in said[1:]) == sum(1 + i % 5 for i in range(16))
    assert all(r["tokens"] <= r["places"] for r in said[1:])


def test_bare_products_of_other_steps_bound_nothing():
    reports = {"ours": [step(1.0)] * 2, train_worker.FLOOR: [step(1.0), step(1.0, places=120)]}
    with pytest.raises(CheckError, match="step 2 of ours had 110 places, the bare products 120"):
        train.same_work(reports, ["ours"])


def test_the_bare_products_are_no_arm_of_the_table():
    reports = {"plain_trl": [step(4.0)], "ours": [step(2.0)], train_worker.FLOOR: [step(1.0)]}
    metrics, table = train.summary(reports)
    assert [row["arm"] for row in table] == ["plain_trl", "ours"]
    assert metrics["products_over_plain_trl.tokens_per_s"]["value"] == 4.0
    assert metrics["ours_over_products.tokens_per_s"]["value"] == 0.5


def test_the_share_of_others_is_a_share_however_short_the_part(tmp_path, monkeypatch):
    """The machine's clock ticks in hundredths of a second, a faked part takes less."""
    ticks = iter([(0.0, 0.0), (9.0, 0.0)])
    monkeypatch.setattr(run, "busy_s", lambda: next(ticks))
    monkeypatch.setattr(run, "measure", lambda *_: {"metrics": {}})
    run.record("startup", tmp_path / "b.json", None)
    assert run.read_json(tmp_path / "b.json")["parts"]["startup"]["others_cpu_share"] == 1.0


def count(spec, answer, wait):
    print("said to the log")
    answer({})
    for number in range(spec["turns"]):
        wait()
        if spec.get("dies") == number:
            raise RuntimeError("no more memory")
        answer({"seconds": 0.0, "at": time.monotonic(), "pid": os.getpid()})


def test_turns_alternate_who_begins_and_end_their_processes(capfd):
    with turns.workers(count, {"a": {"turns": 3}, "b": {"turns": 3}, "c": {"turns": 3}}) as arms:
        reports = turns.in_turns(arms, 3, show=str)
        pids = {r[0]["pid"] for r in reports.values()}
    rounds = [sorted(reports, key=lambda name: reports[name][k]["at"]) for k in range(3)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "said to the log" not in capfd.readouterr().out


def test_an_arm_that_dies_is_named_with_the_end_of_its_log():
    specs = {"a": {"turns": 3}, "b": {"turns": 3, "dies": 1}}
    with (
        pytest.raises(ServeError, match=r"(?s)'b' ended with status 1.*no more memory"),
        turns.workers(count, specs) as arms,
    ):
        turns.in_turns(arms, 3, show=str)


def test_a_part_replaces_its_old_metrics_and_sizes_of_curation_add_up():
    old = run.merged({}, "train", {"metrics": {"gone.step_s": {"value": 1, "n": 1}}, "table": []}, {})
    new = run.merged(old, "train", {"metrics": {"ours.step_s": {"value": 2, "n": 3}}}, {"wall_s": 5})
    assert new["metrics"] == {"ours.step_s": {"value": 2, "n": 3, "part": "train"}}
    assert new["parts"]["train"] == {"wall_s": 5}
    for rows in (1000, 100):
        row = {"rows": rows, "rows_per_s": 50.0, "peak_gib": rows / 1000}
        found = {"metrics": {f"curation_{rows}.wall_s": {"value": rows, "n": rows}}, "table": [row]}
        new = run.merged(new, "curation", found, {})
    assert [row["rows"] for row in new["parts"]["curation"]["table"]] == [100, 1000]
    assert set(new["metrics"]) == {
        "ours.step_s", "curation_100.wall_s", "curation_1000.wall_s", "curation.time_exponent",
        "curation.bytes_per_row",
    }  # fmt: skip
    assert new["metrics"]["curation.time_exponent"] == {"value": 1.0, "n": 2, "part": "curation"}
    assert new["metrics"]["curation.bytes_per_row"]["value"] == pytest.approx(2**30 / 1000)


def test_parts_and_arms_are_chosen_by_name():
    assert run.chosen("curation, startup", run.PARTS) == ["startup", "curation"]
    assert run.chosen("", run.PARTS) == list(run.PARTS)
    with pytest.raises(ConfigError, match="there is no 'trian'"):
        run.chosen("trian", run.PARTS)


def test_curation_is_measured_at_each_size_and_its_growth_named(tmp_path):
    seen = []
    found = curation_scale.measure(sizes=(400, 200), show=str, done=lambda part: seen.append(len(part["table"])))
    assert [row["rows"] for row in found["table"]] == [200, 400]
    assert seen == [1, 2]
    for name in ("curation_200.rows_per_s", "curation_400.wall_s", "curation_400.peak_gib"):
        assert name in found["metrics"]
    assert all(0 < row["kept"] < row["rows"] for row in found["table"])


def test_the_parts_that_take_long_write_their_parts_and_the_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(startup, "measure", lambda **_: {"metrics": {"import_config.wall_s": {"value": 0.1, "n": 3}}})
    reports = {"plain_trl": [step(4.0)] * 4, "ours": [step(1.0)] * 4}
    metrics, table = train.summary(reports)
    monkeypatch.setattr(train, "measure", lambda **_: {"metrics": metrics, "table": table})
    times = {name: [2.0, 4.0] for name in ("one_by_one", "lm_eval", "batched", "ours")}
    generated = {f"generate_{n}.items_per_s": evaluate.entry(t, 8) for n, t in times.items()}
    chosen = {f"likelihood_{n}.items_per_s": evaluate.entry(times[n], 8) for n in ("lm_eval", "ours")}
    gain = {"generate_ours_over_one_by_one.items_per_s": evaluate.over([1.0, 1.0], [4.0, 6.0], 8)}
    monkeypatch.setattr(evaluate, "measure", lambda **_: {"metrics": generated | chosen | gain})
    out = tmp_path / "bench.json"
    assert run.main(["--out", str(out), "--rows", "200,400"]) == 0
    found = run.read_json(out)
    assert set(found["parts"]) == set(run.PARTS)
    assert found["metrics"]["ours_over_plain_trl.tokens_per_s"]["value"] == 4.0
    assert found["metrics"]["generate_ours_over_one_by_one.items_per_s"] == {
        "value": 5.0, "n": 8, "range": [4.0, 6.0], "part": "evaluation",
    }  # fmt: skip
    for facts in found["parts"].values():
        assert facts["versions"]["torch"]
        assert 0 <= facts["others_cpu_share"] <= 1
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "ours_over_plain_trl.tokens_per_s" in capsys.readouterr().out
    assert run.main(["--only", "nothing", "--out", str(out)]) == 1


def test_readme_shows_the_recorded_ratios_with_their_range_and_price():
    """A ratio without its range, or without the memory that it takes, would flatter."""
    found = run.read_json(run.RESULT)
    lines = readme.bench_table(found).splitlines()
    for name, kind in (("ours_over_plain_trl.tokens_per_s", ""),
                       ("generate_ours_over_one_by_one.items_per_s", "generate_"),
                       ("likelihood_ours_over_lm_eval.items_per_s", "likelihood_")):  # fmt: skip
        ratio = found["metrics"][name]
        low, high = ratio["range"]
        cells = f"| {ratio['value']:.2f} | {low:.2f} to {high:.2f} | {ratio['n']} |"
        assert sum(cells in line for line in lines) == 1, kind
    plain, ours = (found["metrics"][f"{arm}.peak_gib"]["value"] for arm in ("plain_trl", "ours"))
    assert any(f"{plain:.1f} GiB and {ours:.1f} GiB" in line for line in lines)
    last = found["parts"]["curation"]["table"][-1]
    assert f"curation of {last['rows']:,} rows" in lines[-1]
    assert f"{last['peak_gib']:.1f} GiB" in lines[-1]
    assert readme.bench_table({}) == "Not measured."
    assert "\n".join(lines) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_figure_says_how_far_single_steps_lie_apart(tmp_path, monkeypatch):
    found, said, subtitles = run.read_json(run.RESULT), [], []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **_: said.append(text))
    monkeypatch.setattr(plot, "_title", lambda axis, title, subtitle: subtitles.append(subtitle))
    run.write_json(tmp_path / "bench.json", found)
    plot.draw(tmp_path / "bench.json")
    ratio = found["metrics"]["ours_over_plain_trl.tokens_per_s"]
    low, high = ratio["range"]
    assert f" {ratio['value']:.2f}x [{low:.2f}, {high:.2f}]" in said
    n = found["metrics"]["likelihood_ours.items_per_s"]["n"]
    assert any(f"likelihoods {n} items" in text for text in subtitles)


def test_the_figure_draws_what_is_there(tmp_path):
    table = [{"rows": 10, "wall_s": 1.0, "peak_gib": 0.1}, {"rows": 100, "wall_s": 10.0, "peak_gib": 0.2}]
    part = {"hardware": "h", "measured_on": "d", "table": table}
    run.write_json(tmp_path / "b.json", {"metrics": {}, "parts": {"curation": part}})
    assert plot.draw(tmp_path / "b.json").is_file()
    run.write_json(tmp_path / "c.json", {"metrics": {}, "parts": {"startup": {}}})
    assert not plot.draw(tmp_path / "c.json").exists()


def test_all_ways_to_generate_give_the_same_answers_in_float32(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(evaluate, "NEW_TOKENS", 4)
    prompts = [[5, 6, 7, 8 + i] + [9] * i for i in range(3)]
    ways = [evaluate.one_by_one, evaluate.batched, evaluate.ours]
    texts = [way(tiny, tokenizer, prompts) for way in ways]
    assert texts[0] == texts[1] == texts[2]
    assert evaluate.decoding.supports(tiny)


def test_texts_are_compared_with_each_other_and_with_float32():
    texts = {"one_by_one": ["a", "b"], "ours": ["a", "c "], "ours_float32": ["a", "b"], "batched_float32": ["a", "b"]}
    shares = {name: entry["value"] for name, entry in evaluate.equalities(texts).items()}
    assert shares == {
        "generate_ours_equal_one_by_one.share": 0.5,
        "generate_one_by_one_equal_ours_float32.share": 1.0,
        "generate_ours_equal_ours_float32.share": 0.5,
        "generate_ours_float32_equal_batched_float32.share": 1.0,
    }


def test_likelihoods_put_the_model_class_back(monkeypatch):
    ours = evaluate.harness.wrap

    def broken(*args, **kwargs):
        assert evaluate.harness.wrap is stock
        raise ValueError

    stock = evaluate.stock_harness
    monkeypatch.setattr(evaluate.general, "evaluate", broken)
    with pytest.raises(ValueError):  # noqa: PT011
        evaluate.likelihoods(None, None, 1, stock)
    assert evaluate.harness.wrap is ours
