"""The report as one HTML page: no script, nothing from outside, every number from the JSON."""

from collections.abc import Mapping
from html import escape
from typing import Any

from sft_utils.formats import clock
from sft_utils.reporting import handorigin
from sft_utils.reporting.htmlparts import STYLE, chart, entry, label, table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SECTIONS = {
    "claims": "Before and after", "next": "The next step", "costs": "Costs", "data": "Data cards",
    "models": "Model cards", "tracking": "Tracking runs", "manifests": "Manifests",
    "runbook": "Retraining runbook", "limits": "Known limits",
}  # fmt: skip

MODEL_KINDS = {"merged": "merged model"}  # other than adapters


def page(report: Mapping[str, Any]) -> str:
    """The whole page from the report's JSON value and from nothing else."""
    parts = {
        "claims": "".join(_track(t) for t in report["tracks"]),
        "next": _next(report["next_step"]),
        "costs": _costs(report),
        "data": "".join(map(_data, report["data_cards"])),
        "models": "".join(map(_model, report["model_cards"])) or "<p>No adapter was handed on.</p>",
        "tracking": _tracking(report["tracking_runs"]),
        "manifests": _manifests(report["manifests"]),
        "runbook": _runbook(report["runbook"]),
        "limits": _limits(report["limits"]),
    }
    links = "".join(f'<li><a href="#{k}">{escape(v)}</a></li>' for k, v in SECTIONS.items())
    body = "".join(
        f'<section id="{k}"><h2>{escape(v)}</h2>\n{parts[k]}</section>\n'
        for k, v in SECTIONS.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Fine-tuning report, profile {escape(report['profile'])}</title>"
        f"<style>{STYLE}</style></head><body>\n<header><h1>What the fine-tuning runs show</h1>\n"
        f'{_summary(report)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f"<main>{body}</main></body></html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    names = {"measured": [], "checks failed": [], "not run": []}
    for one in report["tracks"]:
        names[one["status"]].append(one["number"])
    states = "; ".join(f"{k}: {', '.join(v)}" for k, v in names.items() if v)
    text = (
        f"<p>Profile <b>{escape(report['profile'])}</b>. Tracks {escape(states)}. Every number "
        "below was recorded by a notebook, with the number of items n and a 95 % interval, or is "
        "marked as a single measurement. A difference is “no difference” when its interval holds "
        "zero.</p>\n"
    )
    if report["profile"] == "smoke":
        text += _note(
            "Profile smoke only shows that every cell runs. Its n are too small to say anything "
            "about a model.",
            bad=True,
        )
    text += _glance(report["tracks"])
    found = [f"{t['number']} {f}" for t in report["tracks"] for f in t["faults"]]
    if found:
        text += _note("Recorded numbers that contradict themselves: " + "; ".join(found), bad=True)
    return text


def _glance(tracks: list[Mapping[str, Any]]) -> str:
    """One line per track: its first claim, else its headline."""
    rows = []
    for one in tracks:
        name = f"<b>{one['number']}</b> {escape(one['title'])}"
        if one["status"] == "not run":
            rows.append([name, '<span class="dim">not run</span>', "", ""])
            continue
        if settings := _settings(one):
            name += f"<br><small>{settings}</small>"
        first = next(iter(one["claims"]), None)
        if first:
            gap = first["difference"]
            alone = {k: v for k, v in (first["after"] or {}).items() if k != "arm"}  # label has it
            said = [escape(label(first)), entry(gap or alone, signed=bool(gap))]
            reading = _reading(first["reading"])
        else:
            said = [escape(_words(one["headline"])), entry(one["metrics"].get(one["headline"]))]
            reading = "measured"
        if one["failed_checks"]:
            reading = '<span class="bad">checks failed</span>'
        rows.append([name, *said, reading])
    return table(["track", "claim", "value", "reading"], rows, "At a glance")


def _settings(one: Mapping[str, Any]) -> str:
    """Whose data and which settings, where they are not the notebook's own; as code."""
    text = handorigin.said(one.get("settings", {}))
    return f"<code>{escape(text)}</code>" if text else ""


def _words(name: str) -> str:
    arm, _, metric = name.partition(".")
    return f"{metric}: {arm}".replace("_", " ")


def _note(text: str, *, bad: bool = False) -> str:
    return f'<p class="note{" bad" if bad else ""}">{escape(text)}</p>\n'


def _reading(text: str) -> str:
    css = {"better": "good", "worse": "bad"}.get(text.split(":")[0], "")
    return f'<span class="{css}">{escape(text)}</span>' if css else escape(text)


def _track(one: Mapping[str, Any]) -> str:
    head = f"<h3>{one['number']} · {escape(one['title'])}</h3>\n"
    if one["status"] == "not run":
        return head + '<p class="dim">not run</p>\n'
    checks = one["checks"]
    text = head + (
        f'<p class="dim">run <code>{escape(one["run_id"])}</code> · '
        f"{checks['passed']} of {checks['n']} checks passed · "
        f"{clock(one['wall_s'])} · {escape(str(one.get('measured_on', 'date not recorded')))}</p>\n"
    )
    if settings := _settings(one):
        own = "Not the notebook's defaults: " if one.get("settings") else ""
        text += f'<p class="note">{own}{settings}</p>\n'
    if one["failed_checks"]:
        text += _note("Failed: " + "; ".join(one["failed_checks"]), bad=True)
    if one["inputs_gone"]:
        gone = ", ".join(one["inputs_gone"])
        text += _note(
            f"Its input {gone} has failed, is gone or was recorded again: run it again.", bad=True
        )
    if unrecorded := ", ".join(one.get("inputs_unrecorded", [])):
        text += _note(
            f"Which files of its upstream notebooks ({unrecorded}) it read is not recorded, so "
            "nobody can tell whether they were made again since."
        )
    rows = [
        [escape(label(c)), entry(c["before"]), entry(c["after"]),
         entry(c["difference"], signed=True), _reading(c["reading"])]
        for c in one["claims"]
    ]  # fmt: skip
    text += chart(one["claims"], f"{one['title']}: before and after")
    text += table(["what", "before", "after", "difference", "reading"], rows, "95 % intervals")
    every = [[f"<code>{escape(k)}</code>", entry(v)] for k, v in one["metrics"].items()]
    more = table(["metric", "value"], every, "as recorded")
    return f"{text}<details><summary>All {len(every)} metrics</summary>{more}</details>\n"


def _next(step: Mapping[str, Any]) -> str:
    text = f"<p>{escape(step['decision'])}</p>\n"
    rows = [[escape(k), entry(v)] for k, v in step["metrics"].items()]
    if rows:
        text += table(["what", "value"], rows, "measured by this report's notebook")
    split = [[escape(k), entry(v)] for k, v in step["failure_split"].items()]
    if split:
        text += table(["arm", "of the wrong answers, broken form"], split, "the rest is content")
    return text


def _costs(report: Mapping[str, Any]) -> str:
    rows = [
        [
            row["notebook"][:2],
            clock(row["seconds"]) if row["seconds"] is not None else "not recorded",
            f"{row['peak_gib']:.1f} GiB" if row["peak_gib"] else "not recorded",
            f"{row['steps']:,}" if row["steps"] else "not recorded",
            f"{row['tokens']:,}" if row["tokens"] else "not recorded",
            f"{row['flops']:.2e}" if row["flops"] else "not recorded",
        ]
        for row in report["costs"]
    ]
    total = sum(row["seconds"] or 0 for row in report["costs"])
    machines = sorted({row["hardware"] for row in report["costs"] if row["hardware"]})
    n_base = report["base_parameters"]
    size = f" N = {n_base:,}." if n_base else " N is not known here, so FLOPs are left out."
    header = ["notebook", "wall time", "peak memory", "steps", "tokens trained", "FLOPs"]
    return (
        f"<p>Together {clock(total)} on {escape('; '.join(machines) or 'no recorded machine')}. "
        f"Single measurements. {escape(report['flops_formula'])}.{size} Tokens are those of the "
        "trainer's own log: trainings without checkpoints (02, 08) leave none, and they, range "
        "tests and generation are in the time only.</p>\n"
        + table(header, rows, "one recorded run each")
    )


def _data(card: Mapping[str, Any]) -> str:
    rows = [
        [f"<code>{escape(f['name'])}</code>", f"{f['rows']:,}", f"<code>{f['sha256'][:16]}</code>"]
        for f in card["files"]
    ]
    files = table(["file", "rows", "sha256 (first 16)"], rows, "files") if rows else ""
    return (
        f"<h3>{escape(card['title'])}</h3><p>{escape(card['about'])}</p>"
        f"<p>Licence: {escape(card['licence'])}. <code>data/{escape(card['name'])}</code></p>"
        f"{files}"
    )


def _model(card: Mapping[str, Any]) -> str:
    known = {
        "made to ask": card.get("question"),
        "base model": card.get("base_model"),
        "its licence": card.get("base_licence"),
        "revision": card.get("base_revision"),
        "its weights": card.get("base_form"),
        MODEL_KINDS.get(card.get("kind", ""), "adapter"): card["path"],
        "sha256": card["sha256"],
        "files": card["files"],
        "trained data": card["data"],
        "LoRA rank, alpha": f"{card['rank']}, {card['alpha']}" if "rank" in card else None,
        "target modules": ", ".join(card.get("target_modules", [])),
        "adapter parameters": f"{card['parameters']:,}" if "parameters" in card else None,
        "promoted step": card.get("promoted_step"),
        "learning rate": card.get("learning_rate"),
        "not shown": card.get("limits"),
    }
    prose = ("made to ask", "not shown")
    rows = [
        [escape(k), escape(str(v)) if k in prose else f"<code>{escape(str(v))}</code>"]
        for k, v in known.items()
        if v
    ]
    rows += [[escape(k), entry(v)] for k, v in card["headline"].items()]
    name = escape(card["notebook"])
    return f"<h3>{name}</h3>" + table(["field", "value"], rows, f"run {card['run_id']}")


def _tracking(runs: list[Mapping[str, Any]]) -> str:
    if not runs:
        return "<p>none</p>\n"
    rows = [
        [escape(r["notebook"]), f"<code>{escape(r['id'])}</code>", r["started"], r["mode"],
         "yes" if r["current"] else "older"]
        for r in runs
    ]  # fmt: skip
    header = ["notebook", "id", "started", "mode", "recorded result"]
    return table(header, rows, "Weights & Biases runs found in the run folders")


def _manifests(found: Mapping[str, Any]) -> str:
    rows = [
        [run["notebook"][:2], f"<code>{escape(run['run_id'])}</code>", str(run["seed"]),
         f"<code>{escape(run['commit'][:12])}</code>" + (" with changes" if run["dirty"] else ""),
         *(f"<code>{escape(run[k][:8])}</code>" if run[k] else ""
           for k in ("data", "template", "base_weights", "code"))]
        for run in found["runs"]
    ]  # fmt: skip
    header = ["notebook", "run id", "seed", "commit", "data", "template", "base weights", "code"]
    text = table(header, rows, "first digits of each hash; the JSON holds them whole")
    for key, values in found["differs"].items():
        groups = "; ".join(f"{', '.join(v)}: {k[:8]}" for k, v in values.items())
        text += _note(f"Not all tracks share one {key.replace('_', ' ')}: {groups}")
    names = [
        f"{package} " + ", ".join(
            v if len(found_in) == 1 else f"{v} ({', '.join(where)})"
            for v, where in found_in.items()
        )
        for package, found_in in found["versions"].items()
    ]  # fmt: skip
    return text + f"<p>Versions: {escape(' · '.join(names))}</p>\n"


def _runbook(steps: list[Mapping[str, str]]) -> str:
    items = "".join(
        f"<li><code>{escape(s['command'])}</code><br>{escape(s['purpose'])}</li>" for s in steps
    )
    return (
        "<p>A promoted adapter is a folder with its manifest. Training again at the same profile "
        "writes over it: copy the folder away first, and going back is loading the copy.</p>"
        f"<ol>{items}</ol>\n"
    )


def _limits(found: Mapping[str, str]) -> str:
    items = "".join(f"<li><b>{escape(k[:2])}</b> {escape(v)}</li>" for k, v in found.items())
    return f"<p>In the words of each notebook: what its numbers do not show.</p><ul>{items}</ul>\n"
