"""From raw ticket rows to those worth training on: filters, leaks, audit, data card.

`sft_utils.curation` itself offers the funnel; `python -m sft_utils.curation` is its command line.
"""

from sft_utils.curation.funnel import (
    FUNNEL,
    Drop,
    Funnel,
    Settings,
    curate,
    judge_rows,
    mail_lengths,
)

__all__ = ["FUNNEL", "Drop", "Funnel", "Settings", "curate", "judge_rows", "mail_lengths"]
