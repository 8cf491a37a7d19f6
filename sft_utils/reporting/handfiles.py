"""What lies beside the results: data and model cards, tracking runs, hashes, costs, the runbook."""

import contextlib
import itertools
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, handed_file, read_json, runs_dir, sha256_file, sha256_json
from sft_utils.basemodel import BUNDLED, LICENCE, is_local
from sft_utils.config import get_profile
from sft_utils.errors import HandoffError

DATA = "data/"  # named like this, all files below it count as read (nbdeps)
HASHES = ("config", "data", "template", "tokenizer", "base_weights", "lock", "code")
SHARED = ("template", "tokenizer", "base_weights", "lock")  # one pipeline has one of each

RUNBOOK = (
    ("make setup", "the pinned environment and the base model, verified by hash"),
    ("make test", "the package on this machine, before anything is trained"),
    (
        "make reproduce RUN={run}",
        "replay this report's adapter before anything changes; with the same code, on the same "
        "kind of processor, it must come out equal",
    ),
    (
        "make nb NB=01 PROFILE={profile}",
        "curate; new mails stand behind those of data/tickets/raw.jsonl; read the funnel before "
        "going on",
    ),
    (
        "make nb NB=03 PROFILE={profile}",
        "train, gate and promote, over the adapter that is there; or DATA=rows.jsonl for your file",
    ),
    ("make run-all PROFILE={profile}", "the other tracks; a failure stops only what needs it"),
    ("make regress PROFILE={profile}", "compare with the committed numbers; explain what moved"),
    ("make nb NB=11 PROFILE={profile}", "this report again, from the new runs"),
    ("make publish PROFILE={profile}", "new baseline and README tables, once the change is wanted"),
)
"""Command and purpose, in order; `{run}` is the run id of 03, `{profile}` that of the report."""

MODELS = ("adapter", "merged")  # files of a result that are models: 09 merges that of 03
LICENCES = {BUNDLED: LICENCE}  # of base models; of others the card says nothing

FORMULA = "FLOPs = 4 N D + 6 A D (N frozen base parameters, A trained parameters, D tokens trained)"
"""Forward costs 2 FLOPs per parameter and token, backward 2 for activations and 2 for weight
gradients; frozen weights need no weight gradient. Attention scores are left out (small at these
lengths), and the vocabulary projection counts in full although only supervised tokens need it."""


def data_cards() -> list[dict[str, Any]]:
    """What each data set says about itself, and what its files hold now.

    Returns:
        name, title, about (first paragraph), licence, files (name, rows, sha256) per data card.
    """
    cards = []
    for path in sorted((ROOT / DATA).glob("*/README.md")):
        text = path.read_text(encoding="utf-8")
        title = re.search(r"(?m)^# (.+)$", text)
        blocks = [b for b in text[title.end() if title else 0 :].split("\n\n") if b.strip()]
        licence = re.search(r"(?i)licence[^.]{0,80}?(CC-BY-4\.0|CC0-1\.0|Apache-2\.0|MIT)", text)
        name = title[1].removeprefix("Data card: ") if title else path.parent.name
        cards.append(
            {
                "name": path.parent.name,
                "title": name[:1].upper() + name[1:],
                "about": re.sub(r"[*`]", "", " ".join(blocks[0].split())) if blocks else "",
                "licence": licence[1] if licence else "not stated",
                "files": [
                    {"name": p.name, "rows": _lines(p), "sha256": sha256_file(p)}
                    for p in sorted(path.parent.glob("*.jsonl"))
                ],
            }
        )
    return cards


def _lines(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(1 for line in handle if line.strip())


def model_cards(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One card per adapter or merged model that a run handed on; are the files still those?"""
    cards = []
    pairs = [(name, kind) for name in results for kind in MODELS]
    for name, kind in pairs:
        result = results[name]
        if kind not in result.get("files", {}):
            continue
        more = result.get("readme_metrics", []) if kind == "merged" else []
        card = {
            "notebook": name,
            "kind": kind,
            "run_id": result["run_id"],
            "sha256": result["files"][kind]["sha256"],
            "path": result["files"][kind]["path"],
            "data": result["manifest"].get("data", ""),
            **made_for(name),
            "headline": {k: result["metrics"].get(k) for k in (result["headline"], *more)},
        }
        try:
            folder = handed_file(result, kind)
        except HandoffError as error:
            cards.append({**card, "files": f"not usable: {error}"})
            continue
        if kind == "merged":
            cards.append({**card, "files": "present, hash verified; README.md in it says the rest"})
            continue
        config = read_json(folder / "adapter_config.json")
        base = config["base_model_name_or_path"]
        beside = folder / "manifest.json"
        trained = read_json(beside) if beside.is_file() else {}
        cards.append(
            {
                **card,
                "files": "present, hash verified",
                "base_model": Path(base).name if is_local(base) else base,
                "base_revision": config.get("revision"),
                "base_licence": LICENCES.get(base),
                "base_form": base_form(name, result["profile"]),
                "rank": config["r"],
                "alpha": config["lora_alpha"],
                "target_modules": sorted(config["target_modules"]),
                "parameters": parameters(folder / "adapter_model.safetensors"),
                **{k: trained[k] for k in ("promoted_step", "learning_rate") if k in trained},
            }
        )
    return cards


def base_form(notebook: str, profile: str) -> str:
    """The weights that an adapter was trained on: on others it is another model (09)."""
    four_bit = notebook.startswith("03_") or get_profile(profile).is_gpu
    return "4-bit (NF4), and the adapter belongs on these" if four_bit else "16-bit"


def made_for(notebook: str) -> dict[str, str]:
    """The question a model was trained to answer and what its notebook does not show, as text."""
    path = ROOT / "notebooks" / "src" / f"{notebook}.py"
    text = re.sub(r"(?m)^# ?", "", path.read_text(encoding="utf-8")) if path.is_file() else ""
    question = re.search(r"(?m)^# \d\d · (.+)$", text)
    limit = re.search(r"\*\*What this does not show\*\*[:.]?\s*(.+?)(?:\n\n|\Z)", text, re.S)
    found = {"question": question, "limits": limit}
    plain = {k: re.sub(r"[*`]", "", match[1]) for k, match in found.items() if match}
    return {key: " ".join(value.split()) for key, value in plain.items()}


def parameters(path: Path) -> int:
    """Parameters in a safetensors file, from its header.

    Source: github.com/huggingface/safetensors, Format (8 bytes length, then JSON)
    """
    with path.open("rb") as handle:
        (size,) = struct.unpack("<Q", handle.read(8))
        header = json.loads(handle.read(size))
    return sum(math.prod(t["shape"]) for k, t in header.items() if k != "__metadata__")


def base_parameters(source: str) -> int | None:
    """Parameters of a base model in a local folder; None for a hub id."""
    files = sorted(Path(source).glob("*.safetensors"))
    return sum(map(parameters, files)) if files else None


def tracking_runs(profile: str, results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """W&B runs in the run folders, newest first; `current` marks those of the recorded results.

    Runs are named by the notebook's run id, those of 08 by their trials: its report lists them.
    """
    runs = []
    ids = {name: {result.get("run_id")} for name, result in results.items()}
    for name in results:
        report = runs_dir(profile) / name / "report" / "report.json"
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # none, or cut
            ids[name] |= {trial["id"] for trial in read_json(report)["trials"]}
    for path in runs_dir(profile).glob("*/tracking/wandb/*run-*"):
        match = re.fullmatch(r"(offline-)?run-(\d{8})_(\d{6})-(\w+)", path.name)
        if not match:
            continue
        notebook = path.parents[2].name
        day, clock = match[2], match[3]
        runs.append(
            {
                "notebook": notebook,
                "id": match[4],
                "started": f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}",
                "mode": "offline" if match[1] else "online",
                "current": match[4] in ids.get(notebook, ()),
            }
        )
    return sorted(runs, key=lambda r: (r["started"], r["id"]), reverse=True)


def manifests(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Run ids and hashes of every result, versions, and what the tracks do not share."""
    runs, values = [], {key: {} for key in SHARED}
    facts_of = [result["manifest"] for result in results.values()]
    # A lock counts by what it pins: a comment in the file makes another hash, and no difference.
    pins = {
        f["lock"]: sha256_json(f["packages"]) for f in facts_of if {"lock", "packages"} <= f.keys()
    }
    versions: dict[str, dict[str, list[str]]] = {}
    for name, result in results.items():
        facts = result["manifest"]
        git = facts.get("git", {})
        runs.append(
            {
                "notebook": name,
                "run_id": result["run_id"],
                "seed": facts.get("seed"),
                "commit": git.get("commit", "unknown"),
                "dirty": git.get("dirty"),
                **{key: facts.get(key, "") for key in HASHES},
            }
        )
        for key in SHARED:
            if facts.get(key):
                value = pins.get(facts[key], facts[key])
                values[key].setdefault(value, []).append(name[:2])
        for package, version in facts.get("versions", {}).items():
            versions.setdefault(package, {}).setdefault(version, []).append(name[:2])
    return {
        "runs": runs,
        "versions": dict(sorted(versions.items())),
        "differs": {key: found for key, found in values.items() if len(found) > 1},
    }


def costs(
    profile: str, results: Mapping[str, dict[str, Any]], n_base: int | None
) -> list[dict[str, Any]]:
    """Seconds, memory, steps, tokens and FLOPs of each recorded run.

    Tokens and steps are those of the trainer's own log (the last checkpoint of each training, and
    every stored trial); bare loops such as range tests and all generation are in the seconds only.

    Args:
        profile: Name of the profile, for the run folders.
        results: By full name.
        n_base: Parameters of the base model; None leaves FLOPs out.
    """
    rows = []
    for name, result in results.items():
        tokens, steps = _trained(runs_dir(profile) / name)
        adapter = runs_dir(profile) / name / "adapter" / "adapter_model.safetensors"
        flops = None
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, struct.error):
            if tokens and n_base:  # without a whole adapter beside them FLOPs stay unknown
                flops = 4 * n_base * tokens + 6 * parameters(adapter) * tokens
        trials = list(_trials(runs_dir(profile) / name / "trials"))
        if trials:
            tokens = (tokens or 0) + sum(t.tokens for t in trials)
            steps = (steps or 0) + sum(t.steps for t in trials)
            flops = sum(t.flops(n_base) for t in trials) if n_base else None
        rows.append(
            {
                "notebook": name,
                "seconds": result.get("wall_s"),
                "peak_gib": result.get("peak_rss_gib"),
                "hardware": result.get("hardware"),
                "steps": steps,
                "tokens": tokens,
                "flops": flops,
            }
        )
    return rows


@dataclass(frozen=True, slots=True)
class _Trial:
    """What one stored trial of 08 trained."""

    tokens: int
    steps: int
    trainable: int
    full: bool

    def flops(self, n_base: int) -> int:
        """By `FORMULA`; where every weight trains, none is frozen."""
        frozen = 0 if self.full else 4 * n_base
        return (frozen + 6 * self.trainable) * self.tokens


def _trials(folder: Path) -> Iterator[_Trial]:
    """Stored trials that say how many tokens they trained; damaged files are left out."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            found = read_json(path)
            full = found["trial"]["method"] == "full"
            yield _Trial(int(found["tokens"]), len(found["curve"]), int(found["trainable"]), full)


def _trained(folder: Path) -> tuple[int | None, int | None]:
    """Tokens and optimizer steps of all trainings below a run folder."""
    last: dict[Path, tuple[int, int]] = {}
    for path in folder.glob("**/checkpoint-*/trainer_state.json"):
        try:
            state = read_json(path)
            steps, log = int(state["global_step"]), state["log_history"]
            counted = [int(e["num_tokens"]) for e in log if "num_tokens" in e]
        except (ValueError, LookupError, TypeError):
            continue  # written in place by the trainer: a kill leaves a part of it
        if counted:
            # The count restarts where a run was resumed: what came before is added.
            before = sum(a for a, b in itertools.pairwise(counted) if b < a)
            entry = (steps, before + counted[-1])
            last[path.parents[1]] = max(last.get(path.parents[1], entry), entry)
    if not last:
        return None, None
    return sum(t for _, t in last.values()), sum(s for s, _ in last.values())


def runbook(profile: str, results: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Commands to train again, with the names of this report filled in."""
    run = next((r["run_id"] for n, r in results.items() if n.startswith("03_")), "ID")
    return [
        {"command": c.format(profile=profile, run=run), "purpose": p.format(profile=profile)}
        for c, p in RUNBOOK
    ]
