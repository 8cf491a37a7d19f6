"""Tables from result files, and the marked blocks of markdown that hold them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json
from sft_utils.formats import clock, interval, number, size, table, worse

END = "<!-- /generated -->"


def replace_generated(text: str, name: str, body: str) -> str:
    """Put `body` between the markers of every block called `name`; other text stays.

    Args:
        text: Markdown that may hold `<!-- generated:NAME -->` ... `<!-- /generated -->`.
        name: The block's name.
        body: New content without markers; "" empties the block.
    Returns:
        The new text, unchanged where there is no such block.
    Example:
        >>> print(replace_generated("<!-- generated:x -->old<!-- /generated -->", "x", "new"))
        <!-- generated:x -->
        new
        <!-- /generated -->
    """
    start = f"<!-- generated:{name} -->"
    block = f"{start}\n{body.strip()}\n{END}" if body.strip() else f"{start}\n{END}"
    return re.sub(rf"{re.escape(start)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)


def memory(result: Mapping[str, Any]) -> str:
    """Peak memory of a run as text: RAM, and GPU memory where it was measured."""
    parts = []
    if "peak_rss_gib" in result:
        parts.append(f"{result['peak_rss_gib']:.1f} GiB RAM")
    if "peak_gpu_gib" in result:
        parts.append(f"{result['peak_gpu_gib']:.1f} GiB GPU")
    return ", ".join(parts) or "not measured"


def cost_table(notebook: str, reference_root: Path, models: Mapping[str, str]) -> str:
    """What one notebook costs per profile, from recorded runs only.

    Args:
        notebook: Full name, for example "03_qlora_single_gpu".
        reference_root: Folder that holds <profile>/<notebook>.json.
        models: Profile name -> default base model, in the order of the rows.
    Returns:
        A markdown table; a profile without a recorded run reads "not measured".
    """
    rows = []
    for profile, model in models.items():
        path = reference_root / profile / f"{notebook}.json"
        if not path.is_file():
            rows.append([profile, model, *["not measured"] * 3, ""])
            continue
        result = read_json(path)
        rows.append(
            [
                profile,
                str(result.get("model", model)),
                clock(result["wall_s"]) if "wall_s" in result else "not measured",
                memory(result),
                str(result.get("hardware", "not recorded")),
                str(result.get("measured_on", "")),
            ]
        )
    header = ["profile", "model", "wall time", "peak memory", "hardware", "measured on"]
    return table(header, rows)


def checks_passed(result: Mapping[str, Any]) -> str:
    """Passed and total checks of a result, `7/7`."""
    checks = result.get("checks", [])
    return f"{sum(bool(c['passed']) for c in checks)}/{len(checks)}"


def notebooks_table(titles: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's list of notebooks.

    Args:
        titles: Notebook -> its question, in order.
        results: Notebook -> its cpu result; missing ones read "not measured".
    """
    rows = []
    for notebook, question in titles.items():
        result = results.get(notebook)
        measured = (
            [clock(result["wall_s"]), memory(result), checks_passed(result)]
            if result
            else ["not measured"] * 3
        )
        # An unpublished notebook has no outputs to read: the link leads to its source.
        link = f"[open](notebooks/{notebook}.ipynb)" if result else (
            f"[source](notebooks/src/{notebook}.py), not published yet"
        )  # fmt: skip
        rows.append([notebook.split("_")[0], question, *measured, link])
    return table(["#", "question", "cpu time", "peak memory", "checks", "notebook"], rows)


def chain_table(records: Sequence[Mapping[str, Any]]) -> str:
    """How long all notebooks take together, by profile and number at a time.

    Args:
        records: What `make run-all RECORD=1` wrote.
    """
    header = [
        "profile",
        "at a time",
        "threads each",
        "whole chain",
        "sum of the notebooks",
        "machine",
    ]
    rows = [
        [
            record["profile"],
            str(record["at_once"]),
            str(record["threads"] or "-"),
            clock(record["wall_s"]),
            clock(sum(record["notebooks_s"].values())),
            f"{record['hardware']}, {record['measured_on']}",
        ]
        for record in records
    ]
    return table(header, rows) if rows else "Not measured."


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's result table: what each result file names in `readme_metrics`.

    Paired differences that read "worse" are added, named or not: a loss is never left out.

    Raises:
        KeyError: A result names a metric it does not hold.
    """
    rows = []
    for notebook, result in results.items():
        profile = result["profile"]
        link = f"[{profile}](outputs/reference/{profile}/{notebook}.json)"
        named = result.get("readme_metrics", [])
        lost = [n for n, m in result["metrics"].items() if n not in named and worse(n, m)]
        for name in [*named, *lost]:
            metric = result["metrics"][name]
            cells = number(metric["value"]), size(metric) or "-", interval(metric)
            rows.append([notebook, f"`{name}`", *cells, link])
    return table(["notebook", "metric", "value", "n", "95 % interval", "measured"], rows)


def answers_table(claims: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What each notebook found, in a line, and below it every recorded loss.

    Args:
        claims: Notebook -> `handover.claims` of its result, the one that answers it first.
    Returns:
        Its first claim, then its paired differences that read "worse"; both arms with their values,
        so that nobody has to look for the other one.
    """
    rows = []
    for notebook, found in claims.items():
        lost = [c for c in found[1:] if c["difference"] and c["reading"] == "worse"]
        for place, one in enumerate([*found[:1], *lost]):
            link = "" if place else f"[{notebook.split('_')[0]}](notebooks/{notebook}.ipynb)"
            gap = one["difference"]
            shown = gap or ({} if one["before"] else one["after"])  # of the last value on the left
            after, _, before = one["name"].partition(".")[0].partition("_minus_")
            sides = [f"{s['arm']}: {number(s['value'])}" if s else arm for arm, s in
                     ((before, one["before"]), (after, one["after"]))]  # fmt: skip
            cells = [one["metric"], *sides, f"{gap['value']:+.3f}" if gap else ""]
            cells = [link, *(c.replace("_", " ") for c in cells)]
            rows.append([*cells, interval(shown), size(shown), one["reading"]])
    header = ["#", "metric", "before", "after", "difference", "95 % interval", "n", "reading"]
    return table(header, rows)


def gpu_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What `make gpu-check` measured: a random 8B Llama, by backend, weights and row length.

    Args:
        results: File stem -> content of outputs/reference/gpu/<stem>.json.
    Returns:
        One row per measured configuration and GPU; a configuration without figures says why, and
        without any result every cell reads "not measured".
    """
    header = ["backend", "weights", "tokens per row", "tokens/s", "peak memory", "hardware"]
    wanted = [
        (backend, bits, length)
        for backend in ("plain", "ours", "unsloth")
        for bits in ("nf4", "bf16")
        for length in (2048, 8192)
    ]
    rows = []
    for result in results.values() or [{}]:
        hardware = f"{result['hardware']}, {result['measured_on']}" if result else "not measured"
        for backend, bits, length in wanted:
            row = result.get("arms", {}).get(f"{backend}_{bits}_{length}", {})
            figures = ["not measured"] * 2
            if row.get("status") == "ok":
                figures = [f"{row['tokens_per_s']:,.0f}", f"{row['peak_gib']:.1f} GiB"]
            elif row:
                figures = [row["status"]] * 2
            rows.append([backend, bits, str(length), *figures, hardware])
    return table(header, rows)


SPEED = (
    ("training, tokens/s", "", "plain_trl", "tokens_per_s", "SFTTrainer with its defaults"),
    ("answers/s", "generate_", "one_by_one", "items_per_s", "model.generate, one by one"),
    ("answers/s", "generate_", "lm_eval", "items_per_s", "lm-eval"),
    ("choice items/s", "likelihood_", "lm_eval", "items_per_s", "lm-eval"),
)
"""Rows of the speed table: what, prefix of its metrics, the usual way, unit, that way in words."""


def bench_table(bench: Mapping[str, Any]) -> str:
    """What `make bench` measured: ours against the usual ways, in turns in one run.

    Args:
        bench: Content of outputs/reference/bench.json, {} where there is none.
    """
    metrics, rows = bench.get("metrics", {}), []
    for what, kind, usual, unit, words in SPEED:
        if f"{kind}ours_over_{usual}.{unit}" not in metrics:
            continue
        slow, fast = metrics[f"{kind}{usual}.{unit}"], metrics[f"{kind}ours.{unit}"]
        ratio = metrics[f"{kind}ours_over_{usual}.{unit}"]
        low, high = ratio["range"]
        peaks = [metrics.get(f"{kind}{arm}.peak_gib") for arm in (usual, "ours")]
        memory = " and ".join(f"{p['value']:.1f} GiB" for p in peaks if p)
        about = bench["parts"][fast["part"]]
        rows.append([
            what, words, f"{slow['value']:.3g}", f"{fast['value']:.3g}", f"{ratio['value']:.2f}",
            f"{low:.2f} to {high:.2f}", str(fast["n"]), memory, about["measured_on"],
        ])  # fmt: skip
    curated = bench.get("parts", {}).get("curation", {})
    for row in curated.get("table", ())[-1:]:
        what = f"curation of {row['rows']:,} rows, rows/s"
        rows.append([what, "none", "", f"{row['rows_per_s']:,.0f}", "", "", "1",
                     f"{row['peak_gib']:.1f} GiB", curated["measured_on"]])  # fmt: skip
    header = ["work", "usual way", "its rate", "ours", "times as fast", "in single turns", "n",
              "peak memory", "measured"]  # fmt: skip
    return table(header, rows) if rows else "Not measured."
