"""The grid of 08 as a W&B sweep: its definition, its YAML file, and what an agent would run."""

import contextlib
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
        ConfigError: The sweep is no grid, so that only W&B's server knows what comes next; or a
            parameter names no values.
    """
    method, parameters = definition.get("method"), definition.get("parameters")
    if method != "grid":
        raise ConfigError(
            f"sweep method {method!r} asks W&B's server for each next trial; only a grid can be "
            "run offline"
        )
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"a sweep needs `parameters`, it has {sorted(definition)}")
    choices = {name: _values(name, spec) for name, spec in parameters.items()}
    pairs = (zip(choices, values, strict=True) for values in itertools.product(*choices.values()))
    return [dict(p) for p in pairs]


def _values(name: str, spec: Any) -> list[Any]:
    """What a grid tries of one parameter."""
    spec = spec if isinstance(spec, Mapping) else {}
    values = spec["values"] if "values" in spec else [spec["value"]] if "value" in spec else []
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"sweep parameter {name!r}: a grid needs `value`, or a list `values`; it has "
            f"{dict(spec) or 'neither'}"
        )
    return values


def sweep_trial(config: Mapping[str, Any], default: Trial) -> Trial:
    """The trial that a sweep's config stands for.

    Raises:
        ConfigError: A parameter that no trial has, or a value of another type: a rank of 2.5 would
            have been trained as 2, and a quoted "false" as true.
    """
    known = {f.name for f in dataclasses.fields(Trial)} - {"alpha"}
    if strange := sorted(set(config) - known):
        raise ConfigError(f"sweep parameter {strange[0]!r} is no field of a trial: {sorted(known)}")
    for name, value in config.items():
        wanted = type(getattr(default, name))
        if wanted is float:  # YAML reads 2e-3 as a text and 2.0e-3 as a number
            with contextlib.suppress(TypeError, ValueError):
                value = float(value)
        if type(value) is not wanted:
            raise ConfigError(
                f"sweep parameter {name!r} = {value!r} is no {wanted.__name__}; without quotes "
                "YAML reads 16 as int and false as bool"
            )
    chosen = at_rank(default, config.get("rank", default.rank))
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
