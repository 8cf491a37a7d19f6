"""A dataset of the hub as rows: one commit and one config of it, never those of another."""

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sft_utils.data import tables
from sft_utils.data.parsing import Item, listed
from sft_utils.data.sniffing import DATA_NAMES, suffix_of
from sft_utils.errors import ConfigError, DataError, SFTError

DEFAULT = "default"
"""What the hub calls the config of a dataset that names none; no other is read unnamed."""


class HubId(NamedTuple):
    """What `owner/name[:config][:split]@commit` says; one part between colons is the split."""

    name: str
    config: str
    split: str
    commit: str

    def __str__(self) -> str:
        return f"{_pinned(self.name, self.config, self.split)}@{self.commit[:8]}"


_HUB = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[^:/@]+)(?=:))?"
    r"(?::(?P<split>[\w.-]+(?:\[[\w%:-]*\])?))?(?:@(?P<commit>[\w./-]+))?"
)


def _pinned(name: str, config: str, split: str) -> str:
    """How a part of a dataset is named; `default` is not written."""
    return ":".join([name, *[config] * (config != DEFAULT), split])


def hub_id(text: str) -> HubId | None:
    """The parts of a text that can only mean a dataset of the hub.

    Raises:
        ConfigError: No commit is given, or a branch, which may change between two runs.
    Example:
        >>> hub_id("openai/gsm8k:socratic:train[:100]@" + 40 * "0")[:3]
        ('openai/gsm8k', 'socratic', 'train[:100]')
    """
    found = _HUB.fullmatch(text)
    if not found or (not found["commit"] and (
        suffix_of(Path(found["name"])) in DATA_NAMES or Path(text).parent.is_dir()
    )):  # fmt: skip
        return None
    name, config, split = found["name"], found["config"] or DEFAULT, found["split"] or "train"
    commit = found["commit"] or ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        seen = f"{commit!r} is no commit" if commit else "no file of this name, and no commit given"
        raise ConfigError(
            f"{text}: {seen}. Pin a hub dataset as {_pinned(name, config, split)}@<40 hex digits>, "
            f"listed at https://huggingface.co/datasets/{name}/commits/main."
        )
    return HubId(name, config, split, commit)


def rows(hub: HubId) -> Iterator[Item]:
    """Rows of a hub dataset; fetched once, then from the cache, which needs no network.

    Raises:
        ConfigError: There is no such config or split; lists those that there are.
        DataError: It is not in the cache and cannot be fetched.
    """
    try:
        builder = _cached(hub) or _fetched(hub)
        splits = [*(builder.info.splits or {})]
        if splits and (split := hub.split.partition("[")[0]) not in [*splits, "all"]:
            configs = _configs_beside(builder)
            fix = f" {split!r} is a config." + _fix(hub, split, splits[0])
            raise ConfigError(
                f"{hub}: config {hub.config!r} has no split {split!r}, only {listed(splits)}."
                + (fix if split in configs else "")
            )
        table = builder.as_dataset(split=hub.split)
    except SFTError:
        raise
    except Exception as error:  # network, cache, hub and split each raise kinds of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(
            f"{hub} cannot be loaded ({type(error).__name__}: {reason}). {_unreached()}"
        ) from error
    for number, row in enumerate(table, 1):
        yield tables.plain(number, row)


def _cached(hub: HubId) -> Any:
    """The builder of what an earlier run fetched of exactly this commit and config, or None."""
    builder = _in_cache(hub)
    return builder if Path(builder.cache_dir).is_dir() else None


def _in_cache(hub: HubId) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    short = hub.name.split("/")[1]
    return Cache(dataset_name=short, repo_id=hub.name, config_name=hub.config, hash=hub.commit)


def _configs_beside(builder: Any) -> list[str]:
    """The configs of a dataset: those that it declares, and those in the cache at its commit."""
    folder = Path(builder.cache_dir)
    stored = (path.parts[-3] for path in folder.parents[2].glob(f"*/*/{folder.name}"))
    return sorted({*builder.builder_configs, *stored})


def _fetched(hub: HubId) -> Any:
    """The builder of a dataset, after it has been fetched.

    Where the hub does not answer, `datasets` takes the latest that its cache holds under this name,
    of whatever commit, and warns; that would be other rows under the same parameter.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(hub.name, hub.config, revision=hub.commit)
    except ValueError as error:
        found = re.search(r"not found\. Available: (\[.*\])", str(error))
        stored = _configs_beside(_in_cache(hub))
        if not found and not stored:
            raise
        configs = ast.literal_eval(found[1]) if found else stored
        raise ConfigError(_no_config(hub, configs, "" if found else _unreached())) from error
    if builder.hash != hub.commit:
        raise DataError(
            f"{hub} cannot be loaded: the hub did not give it, and the cache holds another commit, "
            f"{str(builder.hash)[:8]}. {_unreached()}"
        )
    builder.download_and_prepare()
    return builder


def _unreached() -> str:
    """What to do about a dataset that is not there."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return (
            "This run is offline, as smoke and cpu are: put HF_HUB_OFFLINE=0 "
            "TRANSFORMERS_OFFLINE=0 HF_DATASETS_OFFLINE=0 before the command once, or give a file."
        )
    return "Check name, commit and network; without a network, give a file."


def _no_config(hub: HubId, configs: list[str], unreached: str) -> str:
    """The message for a config that is unknown, or needed and not given.

    Args:
        unreached: Said where only the cache could be asked: there may be other configs.
    """
    given = hub.config != DEFAULT
    what = f"there is no config {hub.config!r}" if given else "no config is named"
    near = difflib.get_close_matches(hub.config, configs, 1, 0.6) if given else []
    is_config = hub.split in configs  # of one part between colons, which is the split
    config = hub.split if is_config else [*near, *configs][0]
    where = "In the cache of this commit are" if unreached else "Its configs are"
    fix = _fix(hub, config, "train" if is_config else hub.split)
    return f"{hub}: {what}. {where} {listed(configs)}.{fix}{' ' * bool(unreached)}{unreached}"


def _fix(hub: HubId, config: str, split: str) -> str:
    return f" Give one, as in {_pinned(hub.name, config, split)}@{hub.commit}."
