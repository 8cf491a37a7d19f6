"""The preflight of somebody else's run: a model, a file, and the options it would train with.

The file goes through the real TRL trainer, with a tiny random model in place of the weights: what
is compared is what TRL would really train on. Exit code: 0 nothing, 1 warnings, 2 a fact that
ruins the run, 64 the command itself is wrong, 65 the file or model cannot be used, 70 the preflight
itself failed.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path
from sft_utils.data import layouts, schemas
from sft_utils.errors import DataError, ModelError, SFTError
from sft_utils.preflight import columns
from sft_utils.preflight.capture import library_warnings
from sft_utils.preflight.record import Finding, RunRecord
from sft_utils.preflight.sides import row_variables
from sft_utils.preflight.stages import SAMPLE, check, inspect, merge
from sft_utils.preflight.view import as_rows, as_text

USAGE, UNUSABLE, BROKEN = 64, 65, 70

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")

VERDICT = {
    0: "nothing found",
    1: "warnings only, read them and decide",
    2: "FAIL means that this run would be ruined",
}
"""Exit code -> the end of the last line."""


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2, which here means "this run would be ruined"."""

    def error(self, message: str) -> Any:
        self.exit(USAGE, f"preflight: {message} (--help lists the options)\n")


def parser() -> argparse.ArgumentParser:
    """The options; every one has the name of the TRL option it stands for."""
    p = _Parser(
        prog="python -m sft_utils.preflight",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        epilog="exit code: 0 nothing found, 1 warnings, 2 a fact that ruins the run, "
        "64 wrong option, 65 file or model unusable, 70 the preflight itself failed",
    )
    p.add_argument("--model", required=True, help="directory or hub id with the SERVED tokenizer")
    p.add_argument("--revision", help="commit of a hub id")
    p.add_argument(
        "--data", required=True, type=Path, help=f"JSONL, JSON, CSV or Parquet: {layouts.KEYS}"
    )
    p.add_argument("--eval-data", type=Path, help="held-out rows, checked against --data")
    p.add_argument("--train-tokenizer", help="directory, if rows are tokenised by another one")
    p.add_argument("--schema", type=Path, help="JSON schema that answers are meant to obey")
    p.add_argument("--max-length", type=_count, default=1024, help="default 1024, 0: no limit")
    p.add_argument("--packing", action="store_true", help="several rows in one, as SFTConfig does")
    p.add_argument("--packing-strategy", choices=("bfd", "bfd_split", "wrapped"), default="bfd")
    p.add_argument("--assistant-only-loss", action="store_true", help="for rows with messages")
    p.add_argument("--completion-only-loss", action=argparse.BooleanOptionalAction, default=None)
    p.add_argument("--learning-rate", type=float, help="checked if given")
    p.add_argument("--turns", choices=("all", "last"), default="all", help="answers meant to train")
    p.add_argument(
        "--limit", type=_count, default=SAMPLE, help="rows compared, default 2000, 0: all"
    )
    p.add_argument("--format", choices=("text", "json"), default="text")
    return p


def _count(text: str) -> int:
    """A whole number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    from sft_utils import runtime

    runtime.quiet()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # stdout is the report, libraries print too
            findings, n = _examine(options)
    except (SFTError, OSError) as error:
        print(f"preflight: {error}", file=sys.stderr)
        return UNUSABLE
    except Exception as error:  # Python's own exit code, 1, would read as "warnings only"
        traceback.print_exc()
        print(
            f"preflight: it failed itself, with {type(error).__name__}: nothing is said about "
            "this run. Report the lines above with the options and a row of the file.",
            file=sys.stderr,
        )
        return BROKEN
    code = max((2 if f.severity == "FAIL" else 1 for f in findings), default=0)
    if options.format == "json":
        print(json.dumps({"rows": n, "exit": code, "findings": as_rows(findings)}, indent=1))
        return code
    if findings:
        print(as_text(findings))
    if any("row" in f.where for f in findings):
        print("Rows and messages count from 0: row 3 is the fourth row of the file.")
    sample = f" (tokens of {options.limit} compared; --limit 0: all)" * (0 < options.limit < n)
    fails = sum(f.severity == "FAIL" for f in findings)
    print(
        f"preflight: {n} row{'s' * (n != 1)} of {options.data}{sample}: {fails} FAIL, "
        f"{len(findings) - fails} WARN; exit code {code}, {VERDICT[code]}"
    )
    return code


def _examine(options: argparse.Namespace) -> tuple[list[Finding], int]:
    """Findings about the rows as TRL would train on them."""
    raw = layouts.read(options.data)
    chats = _conversations(raw, options.data)
    held = layouts.read(options.eval_data) if options.eval_data else []
    facts: dict[str, Any] = {
        "turns": options.turns,
        "schema": schemas.load_schema(options.schema) if options.schema else None,
        "eval_conversations": _conversations(held, options.eval_data),
        "declared": {"max_length": options.max_length or None, "packing": options.packing},
        "observed": {"columns": sorted(set().union(*raw))},
    }
    facts["template_kwargs"], mixed = row_variables(raw)
    tokenizer, facts["generation"] = _served(options.model, options.revision)
    if options.train_tokenizer:
        facts["train_tokenizer"] = _tokenizer(options.train_tokenizer, None)
    record = RunRecord(tokenizer=tokenizer, conversations=chats, **facts)
    dataset, problem = _dataset(raw)
    stored = _read_back(dataset, raw) if dataset is not None else ()
    data = inspect(record.change(raw=raw, stored=stored), stages=("data",))
    if any(f.severity == "FAIL" and f.id in ("C18", "D7", "D15") for f in data):
        return data, len(raw)  # TRL would crash on these rows or lose them; they come first
    if dataset is None:
        raise DataError(f"{display_path(options.data)}: the rows do not make one table: {problem}")
    unread = columns.stop(raw)
    if unread:
        return merge([*data, unread]), len(raw)
    if mixed:
        return merge([*data, *inspect(record, stages=("template",)), mixed]), len(raw)
    with tempfile.TemporaryDirectory() as folder, library_warnings() as said:
        try:
            trainer = _trainer(options, dataset, record.train_tokenizer or tokenizer, folder)
        except Exception as error:  # whatever TRL raises here would end the user's run as well
            others = merge([*data, *inspect(record, stages=("template",))])
            return merge([*others, _refusal(error, others)]), len(raw)
        if len(trainer.train_dataset):
            stages = ("settings", "template", "batches", "evaluation")
            limit = options.limit or None
            found = check(trainer, chats, tokenizer, stages=stages, limit=limit, **facts)
        else:
            found = [*inspect(record, stages=("template",)), _all_dropped(options, len(raw))]
    if options.learning_rate is None:
        found = [f for f in found if f.id != "O7"]  # the rate of the stand-in says nothing
    heard = RunRecord(tokenizer=tokenizer, conversations=chats[:1], messages=tuple(said))
    found = merge([*data, *found, *inspect(heard, stages=("settings",))])
    return [_advised(f, raw[0]) for f in found], len(raw)


def _conversations(rows: Sequence[dict[str, Any]], file: Path) -> list[list[dict[str, Any]]]:
    """The rows of a file as conversations; an error names the file, since there may be two."""
    try:
        return [layouts.conversation(row, i) for i, row in enumerate(rows, 1)]
    except DataError as error:
        raise DataError(f"{display_path(file)}, {error}. Repair the row.") from error


def _served(model: str, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """The served tokenizer and generation config; weights are not loaded."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = _tokenizer(model, revision)
    if not tokenizer.chat_template:
        raise ModelError(
            f"{model}: its tokenizer has no chat template, so there is nothing to compare the rows "
            "with. Name the tokenizer that will be served, template included."
        )
    try:
        config = GenerationConfig.from_pretrained(model, revision=revision)
    except OSError:
        try:
            config = AutoConfig.from_pretrained(model, revision=revision)
        except (OSError, ValueError):
            config = tokenizer  # a folder with a tokenizer alone: its eos is all there is
    return tokenizer, {
        "eos_token_id": getattr(config, "eos_token_id", None),
        "do_sample": getattr(config, "do_sample", False),
    }


def _tokenizer(model: str, revision: str | None) -> Any:
    """A fast tokenizer, or one line that says why there is none."""
    from transformers import AutoTokenizer

    written_as_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    folder = Path(model)
    if written_as_path and not folder.is_dir():
        raise ModelError(f"{model}: no such directory. Check the path.")
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{model}: no tokenizer there (none of {', '.join(TOKENIZER_FILES)}).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    except Exception as error:  # transformers answers a broken folder with many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = "" if folder.is_dir() else "no directory of this name here, and "
        raise ModelError(f"{model}: {place}no tokenizer can be loaded ({reason})") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{model}: a fast tokenizer is needed, for token positions")
    return tokenizer


def _dataset(raw: Sequence[dict[str, Any]]) -> tuple[Any, str]:
    """The rows as a `datasets.Dataset` as `load_dataset("json")` gives it, or None and the reason.

    A column that a row lacks becomes null. (`Dataset.from_list` alone drops what row 0 lacks.)
    Objects with other keys per row stay as they are (Parquet would store nulls for them).

    Source: datasets 4.8.5, packaged_modules/json/json.py (Json features for mixed objects)
    """
    from datasets import Dataset

    keys = dict.fromkeys(key for row in raw for key in row)
    try:
        rows = [{**keys, **row} for row in raw]
        return Dataset.from_list(rows, on_mixed_types="use_json"), ""
    except Exception as error:  # pyarrow raises its own kinds for columns that do not fit together
        return None, str(error)


def _read_back(dataset: Any, raw: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The conversations as the dataset gives them, without the columns it added to a row."""
    return [
        layouts.conversation({k: v for k, v in got.items() if k in row}, i)
        for i, (got, row) in enumerate(zip(dataset, raw, strict=True), 1)
    ]


def _refusal(error: Exception, others: Sequence[Finding]) -> Finding:
    """What TRL said when it refused the run."""
    reason = (str(error).splitlines() or [""])[0]
    fix = "change the option or column that the message names"
    if "generation" in reason:
        fix = "give rows with prompt and completion, which need no marker in the template"
    elif others:
        fix = f"first repair what {', '.join(f.id for f in others)} found; if it stays, {fix}"
    return Finding(
        id="TRL",
        severity="FAIL",
        what=f"SFTTrainer refuses this run with {type(error).__name__}: {reason}",
        where="SFTTrainer(...)",
        why="the tokens of the rows could not be checked",
        fix=fix,
    )


def _advised(finding: Finding, row: dict[str, Any]) -> Finding:
    """The finding with the change that helps for the layout of this file, where it is known."""
    paired, fix = "prompt" in row, ""
    if finding.id in ("C1", "C13") and isinstance(row.get("prompt"), str):
        fix = (
            "TRL applies no chat template to plain texts; write them as messages: "
            '"prompt": [{"role": "user", "content": ...}], '
            '"completion": [{"role": "assistant", "content": ...}]'
        )
    elif finding.id == "M1" and not paired:
        fix = (
            "write the rows as prompt and completion: TRL then trains the completion alone; or use "
            "--assistant-only-loss with a template that has {% generation %}"
        )
    elif finding.id == "M8" and paired:
        fix = "--turns last, if only the completion is meant; else split the row at every answer"
    elif finding.id == "P5" and finding.where == "library warning":
        fix = "measure it with your model: check(trainer, ..., stages=(*BEFORE, 'dryrun'))"
    return dataclasses.replace(finding, fix=fix) if fix else finding


def _all_dropped(options: argparse.Namespace, n: int) -> Finding:
    """No row is left after truncation: there is no batch that could be looked at."""
    return Finding(
        id="P3",
        severity="FAIL",
        what=f"TRL drops all {n} rows: within max_length={options.max_length} none has an answer",
        where="max_length",
        why="there is nothing left to train on",
        fix="raise max_length above the length of the prompts",
        count=n,
    )


def stand_in(tokenizer: Any) -> Any:
    """A tiny random model with the vocabulary of a tokenizer: TRL needs one to be built."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _trainer(options: argparse.Namespace, dataset: Any, tokenizer: Any, folder: str) -> Any:
    """TRL's trainer for these rows and options."""
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        max_length=options.max_length or None,
        packing=options.packing,
        packing_strategy=options.packing_strategy,
        assistant_only_loss=options.assistant_only_loss,
        completion_only_loss=options.completion_only_loss,
        **({"learning_rate": options.learning_rate} if options.learning_rate is not None else {}),
    )
    return SFTTrainer(
        stand_in(tokenizer), arguments, train_dataset=dataset, processing_class=tokenizer
    )
