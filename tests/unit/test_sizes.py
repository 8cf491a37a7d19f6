"""Sizes of single tracks: every profile has them, and answers have room."""

import dataclasses

import pytest

from sft_utils.ability import general
from sft_utils.ablate import ablations
from sft_utils.config import PROFILES, get_profile
from sft_utils.cot import reasoning
from sft_utils.export import merging
from sft_utils.ranks import rankrun
from sft_utils.task import dialogues, structured
from sft_utils.train import preferences

TRACKS = (rankrun.sizes, structured.sizes, reasoning.sizes, dialogues.sizes, general.sizes,
          merging.sizes, ablations.sizes, preferences.sizes)  # fmt: skip


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_sizes(track, name):
    values = [v for v in dataclasses.astuple(track(get_profile(name))) if not isinstance(v, tuple)]
    assert min(values) > 0


@pytest.mark.parametrize("track", TRACKS)
def test_a_profile_of_the_readers_has_the_sizes_of_its_kind(track):
    """On a CPU it was a KeyError in the first notebook with sizes of its own."""
    mine = dataclasses.replace(get_profile("cpu"), name="mine")
    assert track(mine) == track(get_profile("cpu"))


@pytest.mark.parametrize("track", TRACKS)
def test_smoke_is_smaller_than_cpu_and_gpu_is_larger(track, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    smoke, cpu, gpu = (dataclasses.asdict(track(get_profile(n))) for n in ("smoke", "cpu", "gpu-24gb"))
    for name, value in cpu.items():
        if isinstance(value, int):
            assert smoke[name] <= value <= gpu[name], name


@pytest.mark.parametrize("name", ["cpu", "gpu-24gb"])
def test_gold_answers_fit_into_the_limit(name, tokenizer):
    limit = reasoning.sizes(get_profile(name))
    items = reasoning.read(
        train_rows=2000, test_rows=200, seed=1, domains=reasoning.DOMAINS,
        max_difficulty=limit.max_difficulty,
    )  # fmt: skip
    texts = [i.completion() for i in items.train + items.asked()]
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) < limit.new_tokens
    replies = [t.reply for d in dialogues.read("test") for t in d.turns]
    longest = max(len(ids) for ids in tokenizer(replies)["input_ids"])
    assert longest < dialogues.sizes(get_profile(name)).new_tokens


def test_one_cell_of_a_gpu_profile_has_time_for_the_grid_of_10():
    """An hour was the limit of every profile. Each point trains 512 mails, then answers 57 parts of MMLU."""
    size = general.SIZES["gpu"]
    points = len(size.rates) * len(size.shares) + 1
    limits = {p.name: p.cell_timeout_s for p in PROFILES.values() if p.is_gpu}
    assert min(limits.values()) >= points * 1800, limits
