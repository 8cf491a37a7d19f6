"""The figure of the benchmark: cost against work, from the result file alone."""

from pathlib import Path
from textwrap import fill
from typing import Any

from sft_utils.artifacts import read_json
from sft_utils.formats import number
from sft_utils.report import COLOURS


def draw(result: Path) -> Path:
    """Draw what a result file holds beside it, as PNG; returns the path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = read_json(result)
    panels = [draw_part for part, draw_part in PANELS.items() if part in found["parts"]]
    target = result.with_suffix(".png")
    if not panels:
        return target
    fig, axes = plt.subplots(
        len(panels), 1, figsize=(7, 2.7 * len(panels)), dpi=110, layout="constrained", squeeze=False
    )
    for axis, draw_part in zip(axes[:, 0], panels, strict=True):
        draw_part(axis, found)
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(target, metadata={"Software": None})
    plt.close(fig)
    return target


def _title(axis: Any, title: str, subtitle: str) -> None:
    axis.set_title(f"{title}\n", fontsize=10, loc="left", fontweight="bold")
    axis.text(0, 1.03, subtitle, transform=axis.transAxes, fontsize=8, color="#444")


def _facts(found: dict[str, Any], part: str) -> str:
    facts = found["parts"][part]
    return f"{facts['hardware']}, {facts['measured_on']}"


def _train(axis: Any, found: dict[str, Any]) -> None:
    table = found["parts"]["train"]["table"]
    cost = [1000 / row["tokens_per_s"] for row in table]
    colours = [COLOURS["base"], *[COLOURS["lora"]] * (len(table) - 1)]
    axis.barh(range(len(table)), cost, color=colours)
    above = ["", *[row["arm"] for row in table]]  # if one is left out, the next adds more
    named = [row["new"] if row["before"] == top else f"all of {row['arm']}"
             for row, top in zip(table, above, strict=False)]  # fmt: skip
    axis.set_yticks(range(len(table)), [fill(name, 32) for name in named])
    for place, row in enumerate(table):
        ratio = found["metrics"].get(f"{row['arm']}_over_{table[0]['arm']}.tokens_per_s", {})
        steps = " [{:.2f}, {:.2f}]".format(*ratio["range"]) if ratio else ""
        said = f" {row['over_plain']:.2f}x{steps}"
        axis.text(cost[place], place, said, va="center", fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("seconds per 1,000 tokens")
    axis.set_xlim(0, max(cost) * 1.12)
    ours = next((row for row in table if row["arm"] == "ours"), table[-1])
    best, n = ours["over_plain"], found["metrics"][f"{ours['arm']}.tokens_per_s"]["n"]
    if floor := found["metrics"].get("products.tokens_per_s"):
        axis.axvline(1000 / floor["value"], color="black", linestyle=":", linewidth=1,
                     label="matrix products alone")  # fmt: skip
        axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.66, 0.0))
    _title(axis, f"Training: {best:.2f} times the tokens/s of the trainer's defaults",
           f"bars add up; [slowest, fastest] of {n} steps; {_facts(found, 'train')}")  # fmt: skip


def _evaluation(axis: Any, found: dict[str, Any]) -> None:
    arms = {
        "generate_one_by_one": "model.generate, one by one",
        "generate_lm_eval": "lm-eval, generate",
        "generate_batched": "batches by length",
        "generate_ours": "ours: and the prefix once",
        "likelihood_lm_eval": "lm-eval, likelihoods",
        "likelihood_ours": "ours, likelihoods",
    }
    names = {f"{arm}.items_per_s": label for arm, label in arms.items()}
    entries = {label: found["metrics"][n] for n, label in names.items() if n in found["metrics"]}
    cost = [1 / entry["value"] for entry in entries.values()]
    colours = [COLOURS["sft"] if "ours" in label else COLOURS["base"] for label in entries]
    axis.barh(list(entries), cost, color=colours)
    for place, seconds in enumerate(cost):
        axis.text(seconds, place, f" {number(seconds)} s", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlim(0, max(cost) * 1.15)
    axis.set_xlabel("seconds per item")
    items = found["metrics"].get("likelihood_ours.items_per_s")
    choices = f", likelihoods {items['n']} items" if items else ""
    gain = found["metrics"]["generate_ours_over_one_by_one.items_per_s"]["value"]
    _title(axis, f"Evaluation: {gain:.1f} times as many answers per second as one by one",
           f"n = {found['metrics']['generate_ours.items_per_s']['n']} mails{choices}; "
           f"{_facts(found, 'evaluation')}")  # fmt: skip


def _curation(axis: Any, found: dict[str, Any]) -> None:
    table = found["parts"]["curation"]["table"]
    rows, seconds = [r["rows"] for r in table], [r["wall_s"] for r in table]
    axis.plot(rows, seconds, "o-", color=COLOURS["lora"], label="measured")
    axis.plot(rows, [seconds[0] * n / rows[0] for n in rows], "--", color=COLOURS["base"],
              label="linear from the smallest")  # fmt: skip
    for row in table:
        axis.annotate(f"{row['peak_gib']:.2f} GiB", (row["rows"], row["wall_s"]), fontsize=8,
                      textcoords="offset points", xytext=(6, -10))  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(min(seconds) / 2)  # room for the label below the first point
    axis.set_xlabel("rows")
    axis.set_ylabel("seconds")
    axis.legend(frameon=False, fontsize=8)
    last = table[-1]
    _title(axis, f"Curation: {last['rows']:,} rows in {last['wall_s']:.0f} s and "
                 f"{last['peak_gib']:.2f} GiB", f"one process, streaming; {_facts(found, 'curation')}")  # fmt: skip


PANELS = {"train": _train, "evaluation": _evaluation, "curation": _curation}
