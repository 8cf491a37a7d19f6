"""Findings for people: a table, and the tokens of the row that a finding is about."""

from collections.abc import Sequence
from typing import Any

from sft_utils.masks.masking import token_html
from sft_utils.preflight.collated import batch_rows
from sft_utils.preflight.record import Finding, RunRecord


def as_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as plain rows, for tables and JSON."""
    return [
        {
            "id": f.id,
            "severity": f.severity,
            "rows": f.count,
            "what": f.what,
            "where": f.where,
            "why": f.why,
            "fix": f.fix,
        }
        for f in findings
    ]


def as_text(findings: Sequence[Finding]) -> str:
    """Findings for a terminal; one line says so when there are none."""
    if not findings:
        return "preflight: nothing found"
    parts = []
    for f in findings:
        times = f"  ({f.count}x)" if f.count > 1 else ""
        parts.append(f"{f.severity}  {f.id}  {f.what}{times}\n      where  {f.where}")
        parts += [f"      why    {f.why}"] * bool(f.why)
        parts.append(f"      fix    {f.fix}")
    return "\n".join(parts)


def show(findings: Sequence[Finding], record: RunRecord | None = None) -> None:
    """Show findings in a notebook; with a record also the coloured tokens of the first trained row.

    Args:
        findings: What `check` or `inspect` returned.
        record: The record they are about.
    """
    from IPython.display import HTML, display

    from sft_utils.report import table

    if findings:
        table(as_rows(findings))
    else:
        print("preflight: nothing found")
    if record is not None and record.train_batches:
        ids, labels = next(iter(batch_rows(record.train_batches[0])))
        row = {"input_ids": ids, "labels": labels}
        display(HTML(token_html(record.tokenizer, row)))
