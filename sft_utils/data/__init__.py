"""From a file of any usual kind to rows, conversations and schemas; copies and faults are named.

`sft_utils.data` itself offers what reads, writes, fingerprints and splits rows.
"""

from sft_utils.data.rows import (
    Line,
    Row,
    answer_of,
    crossing_groups,
    dump_row,
    fingerprint,
    group_split,
    mail_of,
    read_at,
    read_jsonl,
    rows_of,
    write_jsonl,
)

__all__ = [
    "Line",
    "Row",
    "answer_of",
    "crossing_groups",
    "dump_row",
    "fingerprint",
    "group_split",
    "mail_of",
    "read_at",
    "read_jsonl",
    "rows_of",
    "write_jsonl",
]
