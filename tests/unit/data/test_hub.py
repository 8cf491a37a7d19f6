"""Datasets of the hub: the commit and the config that were asked for, or an error, no others."""

import json
import shutil
import types
from pathlib import Path

import datasets
import pytest
from datasets.packaged_modules.json.json import Json

from sft_utils import manifest
from sft_utils.artifacts import ROOT
from sft_utils.config import get_profile
from sft_utils.data import hub
from sft_utils.data.loading import load
from sft_utils.errors import ConfigError, DataError
from sft_utils.task import tasks

NAME = "openai/gsm8k"
COMMIT, OTHER = "0123456789" * 4, "9876543210" * 4
OFFLINE = (
    "This run is offline, as smoke and cpu are: put HF_HUB_OFFLINE=0 TRANSFORMERS_OFFLINE=0 "
    "HF_DATASETS_OFFLINE=0 before the command once, or give a file."
)


def said(text):
    """Rows whose question names where they come from."""
    return [{"question": text, "answer": "#### 1"}]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What an earlier fetch left behind, without a network since."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def fetched(config, commit, rows):
        file = tmp_path / f"{config}-{commit[:4]}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        builder = Json(dataset_name="gsm8k", repo_id=NAME, config_name=config, hash=commit,
                       data_files={"train": [str(file)]})  # fmt: skip
        builder.download_and_prepare()
        place = folder / "openai___gsm8k" / config / "0.0.0" / commit  # that of a fetched one
        if Path(builder.cache_dir) != place:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(builder.cache_dir, place)
            shutil.rmtree(Path(builder.cache_dir).parents[1])
            told = json.loads((place / "dataset_info.json").read_text())
            (place / "dataset_info.json").write_text(json.dumps({**told, "config_name": config}))

    return fetched


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub with one dataset: the library reads it from a folder; returns what was asked."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    real, asked = datasets.load_dataset_builder, []

    def published(files, card=""):
        folder = tmp_path / "gsm8k"
        for name, rows in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "README.md").write_text(card)

        def load_dataset_builder(name, config=None, *, revision):
            asked.append((name, config, revision))
            builder = real(str(folder), config)
            builder.hash = revision
            return builder

        monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
        return asked

    return published


CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.jsonl}, {split: test, path: main/test.jsonl}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train.jsonl}]
---
"""
FILES = {"main/train.jsonl": said("main"), "main/test.jsonl": said("test"),
         "socratic/train.jsonl": said("socratic")}  # fmt: skip


def first(text):
    return load(text).rows[0].row["question"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("o/n", ("o/n", "default", "train")),
        ("o/n:test", ("o/n", "default", "test")),
        ("o/n:test[10%:-1]", ("o/n", "default", "test[10%:-1]")),
        ("o/n:main:test", ("o/n", "main", "test")),
        ("o/n:main:test[:100]", ("o/n", "main", "test[:100]")),
        ("o/n:20231101.en:train", ("o/n", "20231101.en", "train")),
        ("o/n:two words, one=1:train", ("o/n", "two words, one=1", "train")),
    ],
)
def test_one_part_between_colons_is_the_split(text, parts):
    assert hub.hub_id(f"{text}@{COMMIT}") == (*parts, COMMIT)


@pytest.mark.parametrize("text", ["o/n:", "o/n::train", "o/n:main:", "o/n:a:b:c", "o/n/main:train"])
def test_what_no_hub_id_says(text):
    assert hub.hub_id(f"{text}@{COMMIT}") is None


@pytest.mark.parametrize(
    ("text", "seen", "pin"),
    [
        ("owner/name", "no file of this name, and no commit given", "owner/name:train"),
        ("owner/name@main", "'main' is no commit", "owner/name:train"),
        ("owner/name:main:test@v1", "'v1' is no commit", "owner/name:main:test"),
    ],
)
def test_a_hub_dataset_must_be_pinned(text, seen, pin):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value) == (
        f"{text}: {seen}. Pin a hub dataset as {pin}@<40 hex digits>, listed at "
        "https://huggingface.co/datasets/owner/name/commits/main."
    )


def test_a_config_is_fetched_by_its_name(online):
    asked = online(FILES, CARD)
    loaded = load(f"{NAME}:socratic:train@{COMMIT}")
    assert [one.row for one in loaded.rows] == said("socratic")
    assert loaded.source == f"{NAME}:socratic:train@{COMMIT}"  # what outputs and records name
    assert first(f"{NAME}:main:test@{COMMIT}") == "test"
    assert asked == [(NAME, "socratic", COMMIT), (NAME, "main", COMMIT)]


def test_a_dataset_without_configs_needs_none(online):
    asked = online({"train.jsonl": [*said("1"), *said("2")], "test.jsonl": said("t")})
    assert [one.row["question"] for one in load(f"{NAME}@{COMMIT}").rows] == ["1", "2"]
    assert first(f"{NAME}:train[1:]@{COMMIT}") == "2"
    assert first(f"{NAME}:test@{COMMIT}") == "t"
    assert asked[0] == (NAME, "default", COMMIT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NAME, "openai/gsm8k:train@01234567: no config is named. Its configs are 'main', "
               f"'socratic'. Give one, as in openai/gsm8k:main:train@{COMMIT}."),
        (f"{NAME}:test", "openai/gsm8k:test@01234567: no config is named. Its configs are 'main', "
                         f"'socratic'. Give one, as in openai/gsm8k:main:test@{COMMIT}."),
        (f"{NAME}:socratic", "openai/gsm8k:socratic@01234567: no config is named. Its configs are "
         f"'main', 'socratic'. Give one, as in openai/gsm8k:socratic:train@{COMMIT}."),
        (f"{NAME}:socrates:train", "openai/gsm8k:socrates:train@01234567: there is no config "
         "'socrates'. Its configs are 'main', 'socratic'. Give one, as in "
         f"openai/gsm8k:socratic:train@{COMMIT}."),
        (f"{NAME}:main:val", "openai/gsm8k:main:val@01234567: config 'main' has no split 'val', "
                             "only 'train', 'test'."),
        (f"{NAME}:main:socratic", "openai/gsm8k:main:socratic@01234567: config 'main' has no split "
         "'socratic', only 'train', 'test'. 'socratic' is a config. Give one, as in "
         f"openai/gsm8k:socratic:train@{COMMIT}."),
    ],
)  # fmt: skip
def test_a_missing_config_or_split_lists_those_that_there_are(online, text, message):
    online(FILES, CARD)
    with pytest.raises(ConfigError) as caught:
        load(f"{text}@{COMMIT}")
    assert str(caught.value) == message


def test_one_config_of_another_name_is_named_too(online):
    """Unnamed it would be another id offline, where the cache does not say which is the only one."""
    online({"train.jsonl": said("1")}, "---\nconfigs:\n- config_name: plain_text\n"
           "  data_files: train.jsonl\n---\n")  # fmt: skip
    with pytest.raises(ConfigError, match=r"no config is named. Its configs are 'plain_text'. Give"):
        load(f"{NAME}@{COMMIT}")
    assert first(f"{NAME}:plain_text:train@{COMMIT}") == "1"


def test_the_cache_gives_the_commit_and_config_asked_for(cache):
    """The library takes the newest of the cache, whatever its commit, and its only config."""
    cache("main", COMMIT, said("right"))
    cache("socratic", COMMIT, said("another config"))
    cache("main", OTHER, said("another commit"))
    assert first(f"{NAME}:main:train@{COMMIT}") == "right"
    assert first(f"{NAME}:main:train@{OTHER}") == "another commit"
    assert first(f"{NAME}:socratic:train@{COMMIT}") == "another config"
    with pytest.raises(ConfigError) as caught:
        load(f"{NAME}@{COMMIT}")
    assert str(caught.value) == (
        "openai/gsm8k:train@01234567: no config is named. In the cache of this commit are 'main', "
        f"'socratic'. Give one, as in openai/gsm8k:main:train@{COMMIT}. {OFFLINE}"
    )


def test_another_commit_of_the_cache_is_no_answer(cache):
    cache("main", OTHER, said("another commit"))
    cache("default", OTHER, said("another commit"))
    with pytest.raises(DataError) as caught:
        load(f"{NAME}:main:train@{COMMIT}")
    assert str(caught.value) == (
        "openai/gsm8k:main:train@01234567 cannot be loaded: the hub did not give it, and the cache "
        f"holds another commit, 98765432. {OFFLINE}"
    )
    with pytest.raises(DataError, match="holds another commit, 98765432"):
        load(f"{NAME}@{COMMIT}")
    with pytest.raises(DataError, match=r"cannot be loaded \(ValueError: Couldn't find cache for"):
        load(f"{NAME}:socratic:train@{COMMIT}")


def test_nothing_in_the_cache_and_no_network(cache):
    with pytest.raises(DataError) as caught:
        load(f"{NAME}:main:train@{COMMIT}")
    assert str(caught.value).startswith("openai/gsm8k:main:train@01234567 cannot be loaded (Connec")
    assert str(caught.value).endswith(OFFLINE)


def test_values_that_json_cannot_hold(cache, tmp_path, monkeypatch):
    rows = datasets.Dataset.from_list([{"q": b"x", "a": "1"}])
    builder = type("Builder", (), {"info": rows.info, "as_dataset": lambda self, split: rows})
    monkeypatch.setattr(hub, "_cached", lambda named: builder())
    loaded = load(f"{NAME}@{COMMIT}")
    assert [one.row for one in loaded.rows] == [{"q": None, "a": "1"}]
    assert loaded.warnings == {"a value that JSON cannot hold (bytes) in column 'q', read as null": [1]}
    assert (loaded.kind, loaded.unit) == ("hub dataset", "row")


def test_an_unreachable_hub_is_one_error(online, monkeypatch):
    online(FILES, CARD)

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(DataError) as caught:
        load(f"{NAME}@{COMMIT}")
    assert str(caught.value) == (
        "openai/gsm8k:train@01234567 cannot be loaded (ConnectionError: Couldn't reach the Hub). "
        "Check name, commit and network; without a network, give a file."
    )


def test_a_task_is_called_as_its_dataset_is(cache, monkeypatch):
    """From a notebook's own folder the id was taken for a path in it; outside it lost its owner."""
    rows = [{"prompt": f"{n} and {n * n}?", "completion": f"about {n}"} for n in range(60)]
    cache("main", COMMIT, rows)
    sizes = {"seed": 17, "train_rows": 40, "val_rows": 5, "test_rows": 10}
    for folder in (ROOT / "notebooks", Path("/")):
        monkeypatch.chdir(folder)
        own = tasks.own(f"{NAME}:main:train@{COMMIT}", **sizes)
        assert own.task.name == f"{NAME}:main:train@{COMMIT}"
        assert own.unit == "row"


def test_the_config_is_part_of_what_a_run_is():
    def run_id(data):
        run = types.SimpleNamespace(
            notebook="03_qlora_single_gpu", profile=get_profile("smoke"), seed=17, suppressed={},
            parameters={"data": data}, fingerprints={"data": "the same rows"},
        )  # fmt: skip
        return manifest.build(run)["run_id"]

    ids = [f"{NAME}:{part}@{COMMIT}" for part in ("train", "main:train", "socratic:train")]
    assert len({run_id(data) for data in ids}) == 3
