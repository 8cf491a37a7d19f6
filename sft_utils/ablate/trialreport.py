"""The experiment report of 08: Markdown and figures, made from one JSON value alone.

`python -m sft_utils.ablate.trialreport FOLDER` renders a folder again from its report.json, so that
a figure can be redrawn without a model, and an edited number cannot hide.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_utils.ablate import trialplots
from sft_utils.ablate.trialstats import Difference, mean_f1
from sft_utils.ablate.trialstore import Result, unpack_scores
from sft_utils.artifacts import read_json, write_json, write_text
from sft_utils.errors import ConfigError, SFTError
from sft_utils.formats import number
from sft_utils.formats import table as markdown_table

KINDS = ("heat_map", "intervals", "size_curve", "curves", "parallel")
"""Figures that a section may have: the functions of `trialplots`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One question of the report, its answer, and what the answer rests on."""

    question: str
    rule: str  # what to do, with the number behind it
    evidence: Mapping[str, Difference] = field(default_factory=dict)  # what -> metric entry
    figure: str = ""  # one of KINDS, or none
    drawn: Mapping[str, Any] = field(default_factory=dict)  # arguments of the figure, JSON values
    title: str = ""  # of the figure: what it shows


def trial_row(result: Result) -> dict[str, Any]:
    """A stored trial as one line: its settings and what came of them."""
    scores = unpack_scores(result)
    return {
        "id": result["id"], **result["trial"], "steps": len(result["curve"]),
        "trainable": result["trainable"], "train_s": result["train_s"],
        "mails": len(scores),  # test mails are others, and as a rule more, than those that pick
        "schema_valid": sum(s.schema_valid for s in scores) / len(scores),
        "field_f1": mean_f1([scores]),
    }  # fmt: skip


def write(
    folder: Path,
    sections: Sequence[Section],
    results: Sequence[Result],
    facts: Mapping[str, Any],
) -> Path:
    """Write report.json, and from it report.md and one PNG per figure.

    Args:
        folder: Receives the files; equal input gives equal bytes.
        sections: In the order of the report.
        results: Every trial the sections rest on.
        facts: What the reader must know about the run: profile, run id, budget, data.
    Returns:
        The Markdown file.
    Raises:
        ConfigError: A figure of an unknown kind.
    """
    for section in sections:
        if section.figure and section.figure not in KINDS:
            raise ConfigError(f"figure {section.figure!r} is not one of {', '.join(KINDS)}")
    value = {
        "facts": dict(facts),
        "sections": [
            {"question": s.question, "rule": s.rule, "evidence": dict(s.evidence),
             "figure": s.figure, "drawn": dict(s.drawn), "title": s.title}
            for s in sections
        ],
        "trials": [trial_row(r) for r in results],
    }  # fmt: skip
    write_json(folder / "report.json", value)
    return render(folder)


def render(folder: Path) -> Path:
    """Make report.md and the figures of a folder from its report.json."""
    value = read_json(folder / "report.json")
    facts = ", ".join(f"{k} {v}" for k, v in value["facts"].items())
    text = [f"# Ablations: which knob matters?\n\n{facts}.\n"]
    text.append("Intervals are 95 %, over mails and, where there are several, over seeds.\n")
    for k, section in enumerate(value["sections"], 1):
        text.append(f"## {section['question']}\n\n**Rule**: {section['rule']}\n")
        if section["evidence"]:
            rows = [
                [what, number(e["value"]), f"[{number(e['ci95'][0])}, {number(e['ci95'][1])}]",
                 str(e["n"])]
                for what, e in section["evidence"].items()
            ]  # fmt: skip
            text.append(markdown_table(["what", "value", "95 % interval", "mails"], rows) + "\n")
        if section["figure"]:
            name = f"{k:02d}_{section['figure']}.png"
            said = _draw(folder / name, section)
            text.append(f"![{section['title']}: {said}]({name})\n")
    text.append("## All trials\n\n" + _trials(value["trials"]) + "\n")
    text.append(
        "Made by notebook 08 from its trial files; `python -m sft_utils.ablate.trialreport FOLDER` "
        "makes this page and its figures again from report.json.\n"
    )
    write_text(folder / "report.md", "\n".join(text))
    return folder / "report.md"


def _draw(path: Path, section: Mapping[str, Any]) -> str:
    """One figure as PNG; returns its text alternative."""
    from matplotlib.figure import Figure

    drawn = dict(section["drawn"])
    if section["figure"] == "size_curve":  # JSON has no integer keys
        drawn["curve"] = {int(n): entry for n, entry in drawn["curve"].items()}
    if section["figure"] == "heat_map":
        import numpy as np

        drawn["values"] = np.array(drawn["values"])
    figure = Figure(figsize=(7, 3.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    said = getattr(trialplots, section["figure"])(axes, **drawn)
    axes.set_title(section["title"], fontsize=11, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    return said


def _trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Settings that differ between trials, and the results."""
    names = [n for n in trials[0] if n == "id" or len({str(t[n]) for t in trials}) > 1]
    rows = [[_cell(t[n]) for n in names] for t in trials]
    return markdown_table(names, rows)


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float | int) else str(value)


def main(arguments: Sequence[str]) -> int:
    """The command line: 0 and the path of the page, or what is wrong with the folder."""
    if len(arguments) != 1:
        print("usage: python -m sft_utils.ablate.trialreport FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        print(render(folder))
    except FileNotFoundError:
        said = f"{folder} holds no report.json; 08 writes one to outputs/runs/<profile>/"
        print(f"ConfigError: {said}08_ablations/report", file=sys.stderr)
    except SFTError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{folder}/report.json is no report of 08 ({type(error).__name__}: {error})"
        print(f"DataError: {said}. Run 08 again, or put back what was edited", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
