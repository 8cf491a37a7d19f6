"""The card of an exported model, written from what was recorded; no number in it is typed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json, sha256_file
from sft_utils.basemodel import BUNDLED, LICENCE, is_local
from sft_utils.formats import interval, number, table

HUB = {BUNDLED: "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Base models that this project names otherwise than the hub does."""


def card(
    folder: Path, *, name: str, base: str, revision: str | None, facts: Mapping[str, Any],
    trained: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], usage: str, limits: str,
) -> str:  # fmt: skip
    """Text of the card.

    Args:
        folder: The export; its files are listed with size and hash.
        name: Public name of the model.
        base: Hub id of the base model, its name in `HUB`, or its folder.
        revision: Commit of the base; None for the bundled one.
        facts: Manifest of the run that exported (`manifest.build`).
        trained: Manifest of the run that trained, as kept beside the adapter.
        results: Metric name -> entry with value, n, ci95; of exactly these files.
        usage: Command that serves the model; where it says `name`, the card says ".", its folder: a
            server takes any other bare name for a hub id.
        limits: What was not measured.
    """
    hub = HUB.get(base, base)
    source = hub + (f", in the bundled 4-bit copy `{base}`" if hub != base else "")
    if is_local(base):  # the hub refuses a path as `base_model`
        hub, source = "", f"A local model, `{Path(base).name}`"
    source += f" at revision {revision}" if revision else ""
    command = " ".join("." if word == name else word for word in usage.split())
    files = [
        [p.name, f"{p.stat().st_size:,}", sha256_file(p)[:16]]
        for p in sorted(folder.iterdir())
        if p.is_file() and p.name != "README.md"
    ]
    measured = [
        [f"`{key}`", number(entry["value"]), str(entry.get("n", "-")), interval(entry)]
        for key, entry in results.items()
    ]
    inputs = [
        [part, str(trained[part])[:16]]
        for part in ("data", "template", "tokenizer", "base_weights", "code", "lock")
        if trained.get(part)
    ]
    told = [[k, str(trained[k])] for k in ("run_id", "seed", "learning_rate", "promoted_step")
            if k in trained]  # fmt: skip
    versions = ", ".join(f"{k} {v}" for k, v in sorted(facts.get("versions", {}).items()))
    return "\n".join(
        [
            "---",
            *([f"base_model: {hub}"] if hub else []),
            "pipeline_tag: text-generation",
            "library_name: transformers",
            "---",
            "",
            f"# {name}",
            "",
            f"{source}, with the adapter "
            f"of run {trained.get('run_id', 'unknown')} merged into its dequantised 4-bit weights, "
            f"exported by run {facts['run_id']}."
            + (f" Licence of the base model: {LICENCE}." if base == BUNDLED else ""),
            "",
            "## Measured on these files",
            "",
            table(["metric", "value", "n", "95 % interval"], measured),
            "",
            "## Use",
            "",
            "In the folder of this card; requests name the model as the command does:",
            "",
            f"    {command}",
            "",
            _told(folder),
            "",
            "## Not measured",
            "",
            limits,
            "",
            "## How it was trained",
            "",
            table(["setting", "value"], told),
            "",
            table(["input", "sha256"], inputs),
            "",
            f"Versions: {versions}.",
            "",
            "## Files",
            "",
            table(["file", "bytes", "sha256"], files),
            "",
        ]
    )


def _told(folder: Path) -> str:
    """What the model was told before the request: with other words it is asked something else."""
    record = folder / "sft_export.json"
    golden = read_json(record).get("golden", []) if record.is_file() else []
    told = {m["content"] for g in golden for m in g["messages"][:1] if m["role"] == "system"}
    if len(told) == 1:
        lines = "\n".join(f"    {line}".rstrip() for line in told.pop().splitlines())
        return f"Ask under the system message of `sft_export.json`, word for word:\n\n{lines}"
    if told:
        return "System messages differ: ask as `sft_export.json` shows."
    return "Ask as `sft_export.json` shows." if golden else "How to ask: not recorded."
