"""Can the directory that is handed over turn text into the trained ids, and stop?

| id | fault | FAIL | WARN |
|---|---|---|---|
| S1 | no tokenizer or template in it | missing, or it does not load | |
| S2 | template where a loader does not look | files that render differently | other text only |
| S3 | stop list | answer end missing; answers run on | no answer stopped; ends of earlier answers |
| S4 | ids without an embedding row | used or new ids; sizes contradict | spare ids |
| S5 | golden ids not reproduced | any difference | |
| S10 | base named by a path, or not at all | | always |

S7 to S9 are in `lineage`; S6, Q1, Q2, Q5 and Q6 in `merging`; Q3, Q4 and O12 in `formats`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import SENTINEL, Oracle, render
from sft_utils.preflight import artefact, formats, lineage, merging
from sft_utils.preflight.record import Detector, Finding, RunRecord

GOLDEN = 20
"""Conversations encoded again."""

CUT = 0.05
"""Share of answers that may run on."""

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")


def tokenizer_saved(record: RunRecord) -> Iterator[Finding]:
    """S1: the directory alone must turn a conversation into ids."""
    if record.export is None:
        return
    folder = artefact.folder_of(record)
    problem, where = "", artefact.JINJA
    if folder is None:
        problem, where = f"{Path(record.export).name} is no directory: nothing was saved", "export"
    elif not any(folder.glob("*.gguf")):  # such a file brings tokenizer and template along
        found, reason = artefact.tokenizer(folder)
        if found is None:
            problem, where = f"the export has no usable tokenizer: {reason}", "tokenizer.json"
        elif record.tokenizer.chat_template and not artefact.templates(folder):
            problem = "the tokenizer was exported without its chat template"
    if problem:
        yield fail(
            id="S1",
            what=problem,
            where=where,
            why="the server takes the base model's tokenizer and template, or none: other ids",
            fix="tokenizer.save_pretrained(directory); saving an adapter or a merge does not do it",
        )


def template_files(record: RunRecord) -> Iterator[Finding]:
    """S2: every loader must find the same template."""
    folder = artefact.folder_of(record)
    sources = artefact.templates(folder) if folder else {}
    if folder is None or not sources:
        return
    why = "the server renders other text than the one trained on, and says nothing"
    reads = record.declared.get("loader_reads") or ()
    reads = (reads,) if isinstance(reads, str) else tuple(reads)
    if reads and not set(reads) & set(sources):
        yield fail(
            id="S2",
            what=f"the template is in {', '.join(sources)}; the server reads {', '.join(reads)}",
            where=reads[0],
            why=why,
            fix="tokenizer.save_pretrained(directory, save_jinja_files=False) for this server",
        )
    (first, text), *others = sources.items()
    for name, other in others:
        if other.strip() == text.strip():
            continue
        same = _same_render(record, folder, text, other)
        yield (warn if same else fail)(
            id="S2",
            what=f"{first} and {name} hold different templates"
            + ("; these rows render alike" if same else ", and rows render differently"),
            where=name,
            why=why,
            fix=f"take chat_template out of {name}, or make both equal",
        )


def _same_render(record: RunRecord, folder: Path, one: str, two: str) -> bool:
    """Whether two templates write the same text for a few rows and for their prompts."""
    found, _ = artefact.tokenizer(folder)
    if found is None:
        return False
    texts = []
    for template in (one, two):
        found.chat_template = template
        texts.append(
            [
                artefact.encode(found, c, generation=g, **record.template_kwargs)[1]
                for c in record.conversations[:5]
                for g in (False, True)
            ]
        )
    return texts[0] == texts[1]


def stop_list(record: RunRecord) -> Iterator[Finding]:
    """S3: the export must stop where answers end."""
    folder = artefact.folder_of(record)
    stops = artefact.stops(folder) if folder else None
    if stops is None:
        return
    name = record.tokenizer.convert_ids_to_tokens
    where, listed = "generation_config.json: eos_token_id", name(sorted(stops)) or "nothing"
    ends, earlier = _ends(record), _ends(record, last=False)
    if not ends <= stops:
        yield fail(
            id="S3",
            what=f"answers end with {name(sorted(ends))}, the export stops at {listed}",
            where=where,
            why="generation goes on after the answer: the model writes the next question itself",
            fix=f"model.generation_config.eos_token_id = {sorted(stops | ends)}, then save again",
        )
    elif not earlier <= stops:
        yield warn(
            id="S3",
            what=f"earlier answers of a conversation end with {name(sorted(earlier - stops))}, the "
            f"export stops at {listed}",
            where=where,
            why="after the first turn the model was trained to write a token that stops nothing",
            fix="train the last answer of each row only (turns='last'); add the token to the stop "
            "list only if it never stands inside an answer (gpt-oss ends thoughts with <|end|>)",
        )


def running_on(record: RunRecord) -> Iterator[Finding]:
    """S3, seen in answers: some go on into a turn that is not theirs."""
    answers = record.evaluation.answers if record.evaluation else ()
    open_ended = [text for text, ended in answers if not ended]
    if not open_ended:
        return
    marks = _next_turn(record)
    over = [text for text in open_ended if any(mark in text for mark in marks)]
    fix = f"stop at {sorted(_ends(record))}, the end of a trained answer, in generate and server"
    why = "what follows the answer is scored, shown and paid for"
    if len(over) > CUT * len(answers):
        yield fail(
            id="S3",
            what=f"{len(over)} of {len(answers)} answers run on into another turn, the first "
            f"{over[0][:60]!r}",
            where="evaluation.answers",
            why=why,
            fix=fix,
        )
    elif len(open_ended) == len(answers) >= 5:
        yield warn(
            id="S3",
            what=f"none of {len(answers)} answers ended with a stop token",
            where="evaluation.answers",
            why=why,
            fix=fix,
        )


def _ends(record: RunRecord, *, last: bool = True) -> frozenset[int]:
    """Ids that end the trained answers: those that end a row, or those before them."""
    if not last and record.turns == "last":
        return frozenset()
    return frozenset(
        truth.ids[turn.stop]
        for truth, messages in zip(record.oracles, record.conversations, strict=True)
        if isinstance(truth, Oracle)
        for turn in truth.turns
        if turn.stop is not None and (turn.message == len(messages) - 1) == last
    )


def _next_turn(record: RunRecord) -> set[str]:
    """Texts that follow an answer only if generation did not stop at its end."""
    tok, one, two = record.tokenizer, f"{SENTINEL}1", f"{SENTINEL}2"
    said = [("user", "?"), ("assistant", one), ("user", two)]
    try:
        chat = [{"role": r, "content": c} for r, c in said]
        text = render(tok, chat, template_kwargs=record.template_kwargs)
    except TemplateError:
        return set()
    after = text.partition(one)[2].partition(two)[0].strip()
    header = tok.decode(tok(after, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    marks = {tok.decode([i]) for i in _ends(record)} | {after}
    # Decoded without special tokens, only the header of the next turn is left, on its own line.
    return {m for m in marks if m} | ({f"\n{header.strip()}\n"} if header.strip() else set())


def vocabulary(record: RunRecord) -> Iterator[Finding]:
    """S4: every id of the tokenizer needs a row in the embedding, in every artefact."""
    folder = artefact.folder_of(record)
    tok = artefact.tokenizer(folder)[0] if folder else None
    if folder is None or tok is None:
        return
    tensors = artefact.stored(folder)
    table, output = artefact.embedding(tensors), artefact.head(tensors)
    found = table or artefact.embedding(artefact.stored(folder, adapter=True))
    models = [m for m in (record.model, record.base_model) if m is not None]
    memory = [len(m.get_input_embeddings().weight) for m in models]
    rows = found.shape[0] if found else memory[-1] if memory else None
    if rows is None:
        return
    where, fix = (
        "embedding of the export",
        "resize the embedding before training, save both together",
    )
    size = _size(tok)
    if size > rows:
        used = {i for o in record.oracles if isinstance(o, Oracle) for i in o.ids}
        over = sorted(i for i in used | set(tok.all_special_ids) if i >= rows)
        # Some families ship a spare id without a row; that harms nobody until it is used.
        hard = over or max(memory, default=0) >= size or size > _size(record.tokenizer)
        names = tok.convert_ids_to_tokens(over[:3] or list(range(rows, min(size, rows + 3))))
        yield (fail if hard else warn)(
            id="S4",
            what=f"the tokenizer has ids up to {size - 1}, the embedding {rows} rows; without one: "
            f"{names}",
            where=where,
            why="such an id raises, or reads a padding row that was never trained",
            fix=fix,
        )
    elif memory and rows < memory[0]:
        yield warn(
            id="S4",
            what=f"the export has {rows} embedding rows, the trained model {memory[0]}",
            where=where,
            why="artefacts of one run should agree; one of them is of another run",
            fix="export the model that was trained",
        )
    config = artefact.read(folder, "config.json")
    wanted = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    sizes = {
        "config": wanted,
        "embedding": table and table.shape[0],
        "head": output and output.shape[0],
    }
    if len({n for n in sizes.values() if n}) > 1:
        yield fail(
            id="S4",
            what=f"vocabulary sizes contradict each other: {sizes}",
            where=where,
            why="a loader raises, or fills the missing rows with random numbers",
            fix=fix,
        )


def _size(tok: Any) -> int:
    """One more than the largest id; ids may have gaps."""
    return max([len(tok), *(i + 1 for i in tok.added_tokens_decoder)])


def golden(record: RunRecord) -> Iterator[Finding]:
    """S5: the export must encode the golden conversations as they were trained."""
    folder = artefact.folder_of(record)
    tok = artefact.tokenizer(folder)[0] if folder else None
    if folder is None or tok is None or not tok.chat_template:
        return
    kept = record.golden or artefact.read(folder, artefact.MANIFEST).get("golden")
    for k, row in enumerate((kept or artefact.golden_ids(record))[:GOLDEN]):
        want, options = list(row["ids"]), dict(record.template_kwargs)
        if row.get("tools"):
            options["tools"] = row["tools"]
        got, text = artefact.encode(tok, row["messages"], **options)
        prompt, _ = artefact.encode(tok, row["messages"], generation=True, **options)
        if want in (got, prompt):
            continue
        pairs = enumerate(zip(want, got, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(want), len(got)))
        seen = repr(tok.decode(got[at : at + 6])) if got else text
        yield fail(
            id="S5",
            what=f"golden conversation {k} differs from token {at} on: trained "
            f"{record.tokenizer.decode(want[at : at + 6])!r}, export {seen}",
            where="tokenizer and template of the export",
            why="the model is asked in a form that it was not trained on",
            fix="export the tokenizer object that encoded the training rows",
            row=None if kept else k,
        )


def base_name(record: RunRecord) -> Iterator[Finding]:
    """S10: whoever gets the adapter must be able to find its base."""
    folder = artefact.folder_of(record)
    config = artefact.read(folder, "adapter_config.json") if folder else {}
    name = config.get("base_model_name_or_path")
    local = bool(name) and (Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name)
    if not config or (name and not local):
        return
    yield warn(
        id="S10",
        what=f"the adapter names a local folder as its base: {Path(name).name!r}"
        if local
        else "the adapter names no base model",
        where="adapter_config.json: base_model_name_or_path",
        why="nobody else can load it on the right base",
        fix="write the public name and its revision there (modeling.clean_adapter_config)",
    )


DETECTORS: tuple[Detector, ...] = (
    base_name,
    running_on,
    *lineage.DETECTORS,
    template_files,
    tokenizer_saved,
    stop_list,
    vocabulary,
    golden,
    *formats.DETECTORS,
    *merging.DETECTORS,
)
