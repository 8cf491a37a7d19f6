"""The preflight inside a training script: checks at the start, and what only the run can show.

trainer.add_callback(preflight_callback(findings))
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from sft_utils.errors import PreflightError
from sft_utils.preflight.compare import untouched
from sft_utils.preflight.record import Finding
from sft_utils.preflight.stages import gate


class Watch:
    """Stops a run whose log shows that it cannot be right. Use `preflight_callback`.

    Args:
        findings: Of `preflight.check`; a FAIL among them stops the run before its first step.
        stop_rate: model -> share of probe answers that end with a stop token; called in eval mode.
            It must not draw random numbers of the run.
        every: Optimizer steps between two probes.
        at_least: Smallest share that raises no warning.
    """

    def __init__(
        self,
        findings: Sequence[Finding] = (),
        *,
        stop_rate: Callable[[Any], float] | None = None,
        every: int = 50,
        at_least: float = 0.5,
    ) -> None:
        self.before, self.findings = list(findings), list(findings)
        self.stop_rate, self.every, self.at_least = stop_rate, every, at_least
        self._skipped = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse to start with a FAIL finding."""
        gate(self.before)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at what was logged."""
        finding = self._judge(dict(logs or {}), state, fp16=bool(getattr(args, "fp16", False)))
        if finding is not None:
            self.findings.append(finding)
            if finding.severity == "FAIL":
                raise PreflightError(
                    f"{finding.id} · {finding.what} ({finding.where}). Fix: {finding.fix}"
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask now and then whether answers end."""
        model = kwargs.get("model")
        if self.stop_rate is None or model is None or state.global_step % self.every:
            return
        with untouched(model):
            rate = self.stop_rate(model)
        if rate < self.at_least:
            self.findings.append(
                Finding(
                    id="S3",
                    severity="WARN",
                    what=f"{rate:.0%} of the probe answers end with a stop token",
                    where=f"step {state.global_step}",
                    why="a model that does not stop fails as soon as it is served",
                    fix="is the stop token in the labels (M7), and in the generation config (C6)?",
                )
            )

    def _judge(self, logs: dict[str, Any], state: Any, *, fp16: bool) -> Finding | None:
        """The finding in one log line."""
        step = int(getattr(state, "global_step", 0))
        numbers = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
        for name in ("loss", "eval_loss", "grad_norm"):
            value = numbers.get(name, 0.0)
            if math.isfinite(value):
                continue
            # A float16 scaler finds its scale by skipping a few steps; many are a fault.
            self._skipped += name == "grad_norm"
            searching = fp16 and name == "grad_norm" and self._skipped <= max(3, 0.01 * step)
            return _stopped(
                "O10",
                f"{name} is {value}",
                step,
                "bf16=True instead of fp16, a lower learning rate, labels in every row",
                severity="WARN" if searching else "FAIL",
            )
        if numbers.get("grad_norm") == 0.0 and numbers.get("loss"):
            fix = "is anything trainable, and does the loss reach it? Run the dry run"
            return _stopped(
                "O3", f"grad_norm is exactly 0 at loss {numbers['loss']:.4g}", step, fix
            )
        if numbers.get("loss") == 0.0 and not numbers.get("grad_norm"):
            fix = (
                "look for batches without a single label (prompts longer than max_length, packing)"
            )
            return _stopped("P4", "the training loss is exactly 0", step, fix)
        return None


def _stopped(code: str, what: str, step: int, fix: str, severity: Any = "FAIL") -> Finding:
    why = "the remaining steps would change nothing, or destroy the weights"
    return Finding(id=code, severity=severity, what=what, where=f"step {step}", why=why, fix=fix)


def preflight_callback(findings: Sequence[Finding] = (), **options: Any) -> Any:
    """A `transformers.TrainerCallback` that stops a run which cannot be right.

    Args:
        findings: Of `preflight.check`; gated when training begins.
        options: stop_rate, every, at_least (see `Watch`).
    Returns:
        The callback; `.findings` holds what was given and what the run added.
    """
    from transformers import TrainerCallback  # seconds of import time, and only trainers need it

    return type("PreflightCallback", (Watch, TrainerCallback), {})(findings, **options)
