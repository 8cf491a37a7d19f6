"""Tables from result files, and the marked blocks of markdown that hold them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json

END = "<!-- /generated -->"

FALLING = ("nll", "loss", "perplexity", "format_bleed", "leaky_share", "forgetting", "over_refusal")
"""Words in the names of metrics that should fall."""
_FALLS = re.compile(rf"(?:^|[._])(?:{'|'.join(FALLING)})(?:[._]|$)")


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


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> clock(7.4), clock(130), clock(7260)
        ('7 s', '2 min 10 s', '2 h 01 min')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A GitHub markdown table; `|` and line breaks in cells are made harmless."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"

    names = list(header)
    return "\n".join([line(names), line(["---"] * len(names)), *map(line, rows)])


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


def number(value: float | int | bool | None) -> str:
    """A metric value for people: integers exact, fractions to three digits.

    A share that is not quite 0 or 1 never reads as 0 or 1: it gets the digits that show it.

    Example:
        >>> number(160), number(0.98765), number(0.00001234), number(None)
        ('160', '0.988', '1.23e-05', 'none')
        >>> number(17577 / 17579), number(0.9996), number(1.0)
        ('0.9999', '0.9996', '1.000')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    digits = 3
    while 1 - abs(value) > 1e-9 and round(abs(value), digits) == 1:
        digits += 1
    return f"{value:.{digits}f}"


def interval(metric: Mapping[str, Any]) -> str:
    """The 95 % interval of a metric as `[low, high]`, or a dash where there is none."""
    bounds = metric.get("ci95")
    return f"[{number(bounds[0])}, {number(bounds[1])}]" if bounds else "-"


def size(metric: Mapping[str, Any]) -> str:
    """The n of a metric, and behind it how many clusters of units its interval draws.

    Example:
        >>> size({"n": 289, "n_clusters": 16}), size({"n": 40}), size({})
        ('289 (16)', '40', '')
    """
    n, clusters = metric.get("n"), metric.get("n_clusters")
    return f"{n} ({clusters})" if n and clusters else str(n or "")


def lower_is_better(metric: str) -> bool:
    """Whether a metric, named without its arm, should fall.

    Whole words count, and an accuracy rises: names may hold that of a reader's file.

    Example:
        >>> lower_is_better("general_nll"), lower_is_better("over_refusal")
        (True, True)
        >>> lower_is_better("glossary.jsonl_accuracy"), lower_is_better("loss.jsonl_accuracy")
        (False, False)
    """
    return bool(_FALLS.search(metric)) and not metric.endswith("accuracy")


def worse(name: str, metric: Mapping[str, Any]) -> bool:
    """Whether a recorded paired difference lies on the worse side of zero with its whole interval.

    Args:
        name: `after_minus_before.metric`; other names are no differences.
        metric: Its entry.
    Example:
        >>> loss = {"value": -0.03, "n": 9, "ci95": [-0.05, -0.01]}
        >>> worse("tuned_minus_base.accuracy", loss), worse("tuned_minus_base.nll", loss)
        (True, False)
    """
    arms, _, measured = name.partition(".")
    if "_minus_" not in arms or not metric.get("ci95"):
        return False
    low, high = metric["ci95"]
    return low > 0 if lower_is_better(measured) else high < 0


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


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
    return "\n".join(lines)
