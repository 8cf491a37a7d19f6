"""Comparison plots of trials; each draws on the axes it is given and says what is on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_utils.ablate.trialstats import Difference

STYLES = ("-", "--", ":", "-.")
MARKS = ("", "o", "s", "^")  # behind four styles the next mark: told apart without colour
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
"""Of labels that lines run through."""


def heat_map(axes: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> str:
    """A table of field F1 as colours, each cell with its number; the best one has a frame.

    Args:
        axes: Matplotlib axes.
        values: Shape (rows, columns).
        rows: Labels from top to bottom.
        columns: Labels from left to right.
    Returns:
        The text alternative.
    """
    axes.imshow(values, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto")
    best = np.unravel_index(int(np.argmax(values)), values.shape)
    for (y, x), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 else "black"
        weight = "bold" if (y, x) == best else "normal"
        axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, weight=weight)
    axes.add_patch(_frame(best))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    return "; ".join(
        f"{r}: " + ", ".join(f"{c} {v:.2f}" for c, v in zip(columns, line, strict=True))
        for r, line in zip(rows, values, strict=True)
    )


def _frame(cell: Any) -> Any:
    from matplotlib.patches import Rectangle

    y, x = (int(v) for v in cell)
    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, ec="black", lw=2)


def intervals(
    axes: Any, entries: Mapping[str, Difference], *, zero: bool, colour: str = "#1b9e9e"
) -> str:
    """Values with their 95 % intervals, one line each.

    Args:
        axes: Matplotlib axes.
        entries: Label -> metric entry.
        zero: Draw the line of "no difference".
        colour: Of the points.
    Returns:
        The text alternative.
    """
    for y, entry in enumerate(entries.values()):
        low, high = entry["ci95"]
        axes.plot([low, high], [y, y], color="black", lw=1.2)
        axes.plot(entry["value"], y, "o", color=colour)
    axes.set_yticks(range(len(entries)), list(entries))
    axes.set_ylim(len(entries) - 0.5, -0.5)
    if zero:
        axes.axvline(0, color="#7f7f7f", ls="--", lw=1)
    axes.set_xlabel("difference in field F1" if zero else "field F1")
    return "; ".join(
        f"{name} {e['value']:.2f} [{e['ci95'][0]:.2f}, {e['ci95'][1]:.2f}]"
        for name, e in entries.items()
    )


def size_curve(
    axes: Any,
    curve: Mapping[int, Difference],
    *,
    base: float,
    reference: tuple[int, float] | None = None,
) -> str:
    """Field F1 against the number of training rows, rows on a logarithmic axis.

    Args:
        axes: Matplotlib axes.
        curve: Rows -> metric entry.
        base: Field F1 without training.
        reference: Rows and field F1 of a longer training, not part of the curve.
    Returns:
        The text alternative.
    """
    sizes = sorted(curve)
    middle = [curve[n]["value"] for n in sizes]
    low, high = zip(*(curve[n]["ci95"] for n in sizes), strict=True)
    axes.fill_between(sizes, low, high, color="#1b9e9e", alpha=0.2, lw=0)
    axes.plot(sizes, middle, "o-", color="#1b9e9e", label="trained")
    axes.axhline(base, color="#7f7f7f", ls="--", label="base, no rows")
    told = f"base {base:.2f}; " + ", ".join(f"{n} rows {curve[n]['value']:.2f}" for n in sizes)
    ticks = list(sizes)
    if reference is not None:
        axes.plot(*reference, "s", color="#e0812a", label="trained in full")
        told += f"; in full, {reference[0]} rows {reference[1]:.2f}"
        ticks.append(reference[0])
    axes.set_xscale("log")
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set(xlabel="training rows (logarithmic)", ylabel="field F1", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return told


def curves(axes: Any, losses: Mapping[str, Sequence[float | None]]) -> str:
    """Training losses by optimizer step, smoothed over five steps; steps that diverged are gaps.

    Returns:
        The text alternative.
    """
    said = []
    for k, (name, values) in enumerate(losses.items()):
        line = np.array([np.nan if v is None else v for v in values])
        width = min(5, len(line))
        smooth = np.convolve(line, np.ones(width) / width, mode="valid")
        # Equal curves lie on each other: a broken line lets the one below it show.
        axes.plot(range(width, width + len(smooth)), smooth, label=name, lw=1.5, ls=STYLES[k % 4],
                  marker=MARKS[k // 4 % 4], markersize=4, markevery=0.1)  # fmt: skip
        said.append(f"{name} {line[0]:.2f} to {smooth[-1]:.2f}")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)")
    axes.legend(frameon=False, fontsize=7, ncols=2)
    return "; ".join(said)


def parallel(axes: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Parallel coordinates: one line per trial over its settings, coloured by the last column.

    Numbers stand in order on their axis, evenly spaced by rank (they span decades); the last column
    keeps its scale.

    Args:
        axes: Matplotlib axes.
        rows: One mapping per trial.
        columns: Settings from left to right; the last is the score.
    Returns:
        The text alternative.
    """
    from matplotlib import colormaps

    places: dict[str, dict[Any, float]] = {}
    for column in columns[:-1]:
        values = sorted({r[column] for r in rows}, key=lambda v: (isinstance(v, str), v))
        last = max(len(values) - 1, 1)
        places[column] = {v: k / last if len(values) > 1 else 0.5 for k, v in enumerate(values)}
        for value, y in places[column].items():
            axes.text(columns.index(column) + 0.04, y, f"{value:g}" if isinstance(value, float)
                      else str(value), fontsize=7, va="center", bbox=BEHIND, zorder=3)  # fmt: skip
    scores = np.array([float(r[columns[-1]]) for r in rows])
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)
    shade = colormaps["viridis_r"]
    for row, at in zip(rows, share, strict=True):
        line = [*(places[c][row[c]] for c in columns[:-1]), at]
        axes.plot(range(len(columns)), line, color=shade(at), lw=1.2, alpha=0.8)
    for value, y in ((low, 0.0), (high, 1.0)):
        axes.text(len(columns) - 0.96, y, f"{value:.2f}", fontsize=7, va="center")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.1, len(columns) - 0.6), ylim=(-0.06, 1.06))
    axes.grid(axis="x", color="#cccccc")
    best = rows[int(np.argmax(scores))]
    told = ", ".join(f"{c} {best[c]}" for c in columns[:-1])
    return f"{len(rows)} trials, {columns[-1]} from {low:.2f} to {high:.2f}; best: {told}"
