"""Finished trials of 08: an identity that covers what decides their numbers, and one file each.

The id is a hash of the trial and of everything around it (rows, base weights, code, installed
versions, budget), so that a finished trial is read instead of repeated, and a killed grid goes on
where it was.
"""

import contextlib
import dataclasses
import importlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sft_utils.ablate.ablations import Trial
from sft_utils.artifacts import read_json, sha256_json, sha256_text, write_json
from sft_utils.scores.scoring import Score


def trial_id(trial: Trial, context: Mapping[str, Any]) -> str:
    """First 16 hex digits of a hash over the trial and everything around it.

    Args:
        trial: The trial.
        context: JSON values: fingerprints of rows and base weights, code, versions, the budget.
            Under "data" stands one fingerprint per data name; only the trial's own counts.
    Example:
        >>> a = trial_id(Trial(), {"data": {"curated": "1", "raw": "2"}})
        >>> a == trial_id(Trial(alpha=32), {"data": {"raw": "3", "curated": "1"}})
        True
    """
    around = dict(context)
    if "data" in around:
        around["data"] = around["data"].get(trial.data)
    return sha256_json({"trial": dataclasses.asdict(trial), "context": around})[:16]


def code_hash(modules: Iterable[ModuleType], functions: Iterable[Callable[..., Any]] = ()) -> str:
    """Hash of the source of some modules, of what they import from this package, and of functions.

    A trial trained by yesterday's code must not answer for today's. Modules that are imported
    inside functions are not followed: name them.

    Args:
        modules: Modules of this package.
        functions: Functions that live elsewhere, in a notebook for example.
    """
    waiting, files = {m.__name__ for m in modules}, {}
    while waiting:
        name = waiting.pop()
        module = importlib.import_module(name)
        files[name] = sha256_text(inspect.getsource(module))
        owners = {getattr(v, "__name__", "") for v in vars(module).values() if _is_module(v)}
        owners |= {str(getattr(v, "__module__", "")) for v in vars(module).values()}
        waiting |= {o for o in owners if o.startswith("sft_utils.")} - files.keys()
    return sha256_json([sorted(files.items()), [inspect.getsource(f) for f in functions]])


def _is_module(value: Any) -> bool:
    return isinstance(value, ModuleType)


Result = dict[str, Any]
"""What the file of a trial holds: id, trial, what `work` returned, wall_s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Finished trials: one JSON file per id."""

    folder: Path
    context: Mapping[str, Any]  # see trial_id

    def path(self, trial: Trial) -> Path:
        """Where the result of a trial is, or will be."""
        return self.folder / f"{trial_id(trial, self.context)}.json"

    def get(self, trial: Trial) -> Result | None:
        """The result of a finished trial; a file that is not readable or lies is no result.

        It is touched: whoever asks afterwards sees which trials a run did not have to train.
        """
        try:
            found = read_json(self.path(trial))
        except (OSError, ValueError):
            return None
        same = isinstance(found, dict) and found.get("trial") == dataclasses.asdict(trial)
        if same:
            with contextlib.suppress(OSError):  # a folder of somebody else's
                os.utime(self.path(trial))
        return found if same else None

    def run(
        self,
        trials: Sequence[Trial],
        work: Callable[[Trial], Result],
        *,
        done: Callable[[int, int, Result, bool], None] | None = None,
    ) -> list[Result]:
        """Results of trials in the order given; those without a file are computed first.

        Each result is written before the next trial starts, whole or not at all: whatever kills
        this call, the next one repeats at most the trial that was under way.

        Args:
            trials: A trial that occurs twice is run once.
            work: Trains and scores one trial; returns JSON values.
            done: Called after each trial: its place from 1, how many, the result, was it computed?
        """
        results = []
        for k, trial in enumerate(trials, 1):
            result, computed = self.get(trial), False
            if result is None:
                began = time.monotonic()
                made = work(trial)
                head = {"id": self.path(trial).stem, "trial": dataclasses.asdict(trial)}
                wall = {"wall_s": round(time.monotonic() - began, 2)}
                write_json(self.path(trial), finite({**head, **made, **wall}))
                result, computed = read_json(self.path(trial)), True
            results.append(result)
            if done:
                done(k, len(trials), result, computed)
        return results


def finite(value: Any) -> Any:
    """The value with NaN and infinity as None: a run that diverged has a result all the same."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def pack_scores(scores: Sequence[Score]) -> list[list[int]]:
    """Scores as small lists, one per mail; `unpack_scores` is the way back."""
    return [[int(v) for v in dataclasses.astuple(s)] for s in scores]


def unpack_scores(result: Result) -> list[Score]:
    """The scores of a stored result."""
    names = [f.name for f in dataclasses.fields(Score)]
    flags = ("parses", "schema_valid", "exact")
    return [
        Score(**{n: bool(v) if n in flags else v for n, v in zip(names, row, strict=True)})
        for row in result["scores"]
    ]
