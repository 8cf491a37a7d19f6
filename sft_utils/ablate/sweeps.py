"""The grid of 08 as a W&B sweep: its definition, its YAML file, and what an agent would run."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sft_utils.ablate.ablations import Trial, at_rank, default_trial, sizes
from sft_utils.artifacts import ROOT, write_text
from sft_utils.config import get_profile
from sft_utils.errors import ConfigError

SWEEP = "notebooks/08_sweep.yaml"
"""The grid of the profile cpu; written by `python -m sft_utils.ablate.sweeps`."""


def sweep_definition(
    default: Trial, rates: Sequence[float], ranks: Sequence[int]
) -> dict[str, Any]:
    """The same grid as a W&B sweep configuration.

    W&B has no parameter that follows from another one, so that `alpha` is not in it: the agent's
    function sets it from the rank (`sweep_trial`).
    """
    fixed = {k: {"value": v} for k, v in dataclasses.asdict(default).items() if k != "alpha"}
    varied = {"learning_rate": {"values": list(rates)}, "rank": {"values": list(ranks)}}
    return {
        "name": "08-learning-rate-by-rank",
        "method": "grid",
        "metric": {"name": "field_f1", "goal": "maximize"},
        "parameters": {**fixed, **varied},
    }


def sweep_configs(definition: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the agent of a grid sweep would be given, one config after the other.

    Raises:
        ConfigError: The sweep is no grid, so that only W&B's server knows what comes next.
    """
    if definition["method"] != "grid":
        raise ConfigError(
            f"sweep method {definition['method']!r} asks W&B's server for each next trial; only a "
            "grid can be run offline"
        )
    choices = {
        name: spec["values"] if "values" in spec else [spec["value"]]
        for name, spec in definition["parameters"].items()
    }
    pairs = (zip(choices, values, strict=True) for values in itertools.product(*choices.values()))
    return [dict(p) for p in pairs]


def sweep_trial(config: Mapping[str, Any], default: Trial) -> Trial:
    """The trial that a sweep's config stands for."""
    known = {f.name for f in dataclasses.fields(Trial)} - {"alpha"}
    if strange := sorted(set(config) - known):
        raise ConfigError(f"sweep parameter {strange[0]!r} is no field of a trial: {sorted(known)}")
    chosen = at_rank(default, int(config.get("rank", default.rank)))
    return dataclasses.replace(chosen, **{k: v for k, v in config.items() if k != "rank"})


def sweep_text(definition: Mapping[str, Any]) -> str:
    """The sweep as the YAML file that `wandb sweep` reads."""
    import yaml

    head = (
        "# The grid of notebook 08 as a W&B sweep. Generated: python -m sft_utils.ablate.sweeps\n"
        "# Offline, the notebook runs it without a server. With an account: `wandb sweep`, then\n"
        "# wandb.agent(id, function=...) with the function that the notebook shows.\n"
    )
    return head + yaml.safe_dump(dict(definition), sort_keys=False)


if __name__ == "__main__":
    _size = sizes(get_profile("cpu"))
    _made = sweep_definition(default_trial(_size), _size.rates, _size.ranks)
    write_text(ROOT / SWEEP, sweep_text(_made))
