"""No silent failure reaches the first optimizer step: facts about a run, before it costs anything.

Three doors. In a notebook: `check(trainer, conversations, tokenizer)`, `show(findings)`,
`gate(findings)`. In a training script: `callback.preflight_callback(...)`. On somebody else's run:
`python -m sft_utils.preflight --model DIR --data FILE`.

Ids of findings are those of the failure catalogue in README.md here. FAIL is for facts, WARN for
judgement.
"""

from sft_utils.preflight.record import EvalPlan, Finding, RunRecord
from sft_utils.preflight.stages import BEFORE, STAGES, check, gate, inspect, merge
from sft_utils.preflight.view import as_rows, show

__all__ = [
    "BEFORE",
    "STAGES",
    "EvalPlan",
    "Finding",
    "RunRecord",
    "as_rows",
    "check",
    "gate",
    "inspect",
    "merge",
    "show",
]
