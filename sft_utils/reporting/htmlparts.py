"""Pieces of an HTML page: its style, numbers with intervals, tables that fold, interval charts."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sft_utils.formats import number, size

STYLE = """
:root{--bg:#fff;--ink:#1c2126;--dim:#57606a;--line:#d5dae0;--soft:#f4f6f8;--before:#757575;
--after:#1a63a5;--good:#17663a;--bad:#a32626}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e8eaed;--dim:#a3adb8;--line:#3a4149;
--soft:#1e2328;--before:#a8a8a8;--after:#6db3f2;--good:#6cc58b;--bad:#f08a84}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:62rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.25rem;margin:2.2rem 0 .4rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1.05rem;margin:1.6rem 0 .3rem}
p{margin:.4rem 0}.dim{color:var(--dim)}a{color:var(--after)}
code{font:.88em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem .9rem;list-style:none;padding:0;margin:.6rem 0}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.92rem}
caption{text-align:left;color:var(--dim);padding:.2rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;
border-bottom:1px solid var(--line)}
th{font-weight:600}.num{font-variant-numeric:tabular-nums}.num small{white-space:nowrap}
small{color:var(--dim);font-size:.82rem}
.good{color:var(--good)}.bad{color:var(--bad)}.good,.bad{font-weight:600}
.note{background:var(--soft);border-left:4px solid var(--after);padding:.5rem .8rem;margin:.8rem 0}
.note.bad{border-color:var(--bad);color:inherit;font-weight:inherit}
svg{display:block;width:100%;max-width:34rem;height:auto;margin:.6rem 0}
svg text{fill:var(--ink);paint-order:stroke;stroke:var(--bg);stroke-width:3px;
font:11px system-ui,"Liberation Sans",sans-serif}
svg .axis{stroke:var(--line)}svg .tick{fill:var(--dim)}
svg .b{stroke:var(--before);fill:var(--bg)}svg .a{stroke:var(--after);fill:var(--after)}
summary{cursor:pointer;color:var(--after);padding:.3rem 0}
@media (max-width:40rem){
table.stack thead{position:absolute;clip-path:inset(50%);height:1px;overflow:hidden}
table.stack,table.stack tbody,table.stack tr,table.stack td,table.stack th,
table.stack caption{display:block}
table.stack tr{border-bottom:1px solid var(--line);padding:.4rem 0}
table.stack td,table.stack tbody th{border:0;padding:.1rem 0}
table.stack td[data-label]::before{content:attr(data-label) ": ";color:var(--dim)}
table.stack td:empty{display:none}}
@media print{:root{--bg:#fff;--ink:#000;--dim:#444;--line:#bbb;--soft:#f3f3f3;--before:#666;
--after:#0b4f8a;--good:#0f5730;--bad:#8f1d1d}body{max-width:none;font-size:11pt;padding:0}
nav,details{display:none}
tr,svg,.note{break-inside:avoid}h2,h3{break-after:avoid}}
"""

LABELS = {
    "field_f1": "field F1", "schema_valid": "valid by schema", "exact_match": "wholly right",
    "general_nll": "nats per token lost on ordinary answers", "greedy_equal": "equal answers",
}  # fmt: skip


def entry(metric: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """A number with its interval and n as HTML; without an interval it says so."""
    if not metric:
        return ""
    value = ("+" if signed and metric["value"] > 0 else "") + number(metric["value"])
    n = f" n = {size(metric)}" if metric.get("n") else ""
    arm = f"{escape(metric['arm'])} " if "arm" in metric else ""
    if not metric.get("ci95"):
        return f"{arm}<b>{value}</b> <small>single measurement{n}</small>"
    low, high = metric["ci95"]
    bounds = f"[{number(low)}, {number(high)}]"
    return f"{arm}<b>{value}</b> <small>{bounds}{n}</small>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An accessible table that becomes a list of cards on a narrow screen; cells are HTML.

    Roles are written out because `display: block` takes the table's own away in some browsers.
    """
    head = "".join(f'<th scope="col" role="columnheader">{escape(h)}</th>' for h in header)
    body = ""
    for first, *rest in rows:
        cells = "".join(
            f'<td role="cell" class="num" data-label="{escape(h)}">{cell}</td>'
            if cell
            else "<td></td>"
            for h, cell in zip(header[1:], rest, strict=True)
        )
        body += f'<tr role="row"><th scope="row" role="rowheader">{first}</th>{cells}</tr>\n'
    return (
        f'<table class="stack" role="table"><caption>{escape(caption)}</caption><thead '
        f'role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">\n{body}'
        "</tbody></table>\n"
    )


def label(claim: Mapping[str, Any]) -> str:
    """What a claim is about, in words; an arm without numbers of its own keeps its name.

    Example:
        >>> label({"name": "a_minus_b.f1", "metric": "f1", "before": {"arm": "b"}, "after": None})
        'f1: b → a'
    """
    metric = claim["metric"]
    name = next((text + metric[len(key) :].replace("_", " ") for key, text in LABELS.items()
                 if metric.startswith(key)), metric.replace("_", " "))  # fmt: skip
    after, _, before = claim["name"].partition(".")[0].partition("_minus_")
    sides = {"before": before, "after": after}
    arms = [claim[k]["arm"] if claim[k] else arm for k, arm in sides.items() if claim[k] or arm]
    return f"{name}: {' → '.join(a.replace('_', ' ') for a in arms)}"


def chart(claims: Sequence[Mapping[str, Any]], title: str) -> str:
    """Before (open square) and after (dot) with 95 % intervals, for values between 0 and 1."""

    def fits(side: Mapping[str, Any] | None) -> bool:
        return bool(side and side.get("ci95") and side["ci95"][0] >= 0 and side["ci95"][1] <= 1)

    shown = [c for c in claims if fits(c["after"]) and (c["before"] is None or fits(c["before"]))]
    if not shown:
        return ""
    left, right, row = 8, 352, 42
    height = row * len(shown) + 22

    def x(value: float) -> str:
        return f"{left + value * (right - left):.1f}"

    marks, said = "", []
    for k, claim in enumerate(shown):
        top = k * row
        said.append(f"{label(claim)} {_plain(claim['before'])}{_plain(claim['after'])}")
        marks += f'<text x="{left}" y="{top + 12}">{escape(label(claim))}</text>'
        for kind, y in (("before", top + 20), ("after", top + 29)):
            side = claim[kind]
            if not side:
                continue
            at, css = x(side["value"]), kind[0]
            low, high = (x(v) for v in side["ci95"])
            marks += (
                f'<line class="{css}" x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke-width="2"/>'
            )
            marks += (
                f'<rect class="b" x="{float(at) - 3.5:.1f}" y="{y - 3.5}" width="7" height="7" '
                'stroke-width="1.5"/>'
                if css == "b"
                else f'<circle class="a" cx="{at}" cy="{y}" r="4"/>'
            )
    base = height - 16
    for value in (0, 0.25, 0.5, 0.75, 1):
        marks = f'<line class="axis" x1="{x(value)}" x2="{x(value)}" y1="0" y2="{base}"/>' + marks
        anchor = {0: "start", 1: "end"}.get(value, "middle")
        place = f'x="{x(value)}" y="{height - 4}" text-anchor="{anchor}"'
        marks += f'<text class="tick" {place}>{value:g}</text>'
    return (
        f'<svg viewBox="0 0 360 {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape('; '.join(said))}</desc>{marks}</svg>\n"
        '<p class="dim"><small>□ before, ● after; lines are 95 % intervals</small></p>\n'
    )


def _plain(side: Mapping[str, Any] | None) -> str:
    if not side:
        return ""
    low, high = side["ci95"]
    return f"{number(side['value'])} [{number(low)}, {number(high)}] "
