"""Faults of what is handed over: its files, and the run they come from."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_utils.artifacts import write_json, write_text
from sft_utils.preflight import artefact
from sft_utils.preflight.compare import tensor_hash
from sft_utils.preflight.record import RunRecord
from tests.mutation import exports
from tests.mutation.exports import Change, export_mutator, on_adapter, on_merge
from tests.mutation.frame import Mutator, Subject
from tests.mutation.mutators import served


def template_text(record: RunRecord) -> str:
    """The template file of the export."""
    return (record.export / artefact.JINJA).read_text(encoding="utf-8")


def template_in_config(record: RunRecord) -> RunRecord:
    """An older template is left in tokenizer_config.json, the new one is a file."""
    other = template_text(record) + "{{ '\\n' }}"
    return exports.edit_json(record, artefact.CONFIG, chat_template=other)


def newline_added(record: RunRecord) -> RunRecord:
    """Somebody tidies the exported template: one newline more at its end."""
    folder = exports.copied(record.export)
    write_text(folder / artefact.JINJA, template_text(record) + "{{ '\\n' }}")
    return record.change(export=folder)


def other_render(_: RunRecord, after: RunRecord) -> bool:
    """Whether the exported template renders a golden conversation to other ids."""
    tok, golden = copy.copy(after.tokenizer), after.golden[0]
    tok.chat_template = template_text(after)
    return artefact.encode(tok, golden["messages"])[0] != golden["ids"]


def lost_token(record: RunRecord) -> RunRecord:
    """The exported tokenizer knows the token that ends a turn by another name."""
    folder = exports.copied(record.export)
    text = (record.export / "tokenizer.json").read_text(encoding="utf-8")
    for name in end_names(record):
        text = text.replace(name, f'{name[:-1]}#"')
    write_text(folder / "tokenizer.json", text)
    return record.change(export=folder)


def end_names(record: RunRecord) -> list[str]:
    """Tokens that end a turn, as JSON."""
    names = record.tokenizer.convert_ids_to_tokens(exports.ends(record))
    return [json.dumps(name, ensure_ascii=False) for name in names]


def no_token(_: RunRecord, after: RunRecord) -> bool:
    """Whether no end of a turn is in the exported vocabulary under its name."""
    text = (after.export / "tokenizer.json").read_text(encoding="utf-8")
    return not any(name in text for name in end_names(after))


def stops_replaced(ids: Callable[[RunRecord], list[int] | None]) -> Change:
    """Another stop list in both configs of the export."""

    def change(record: RunRecord) -> RunRecord:
        eos = ids(record)
        once = exports.edit_json(record, "config.json", eos_token_id=eos)
        return exports.edit_json(once, "generation_config.json", eos_token_id=eos)

    return change


def other_stop(record: RunRecord) -> list[int]:
    """A special token that ends no answer."""
    special = set(record.tokenizer.all_special_ids) | set(record.tokenizer.added_tokens_decoder)
    return [min(special - set(exports.ends(record)), default=0)]


def no_stop(_: RunRecord, after: RunRecord) -> bool:
    """Whether the end of an answer is in neither config."""
    files = ("config.json", "generation_config.json")
    listed = [exports.config_of(after, name).get("eos_token_id") for name in files]
    flat = {i for eos in listed for i in (eos if isinstance(eos, list) else [eos])}
    return not flat & set(exports.ends(after))


def run_on(record: RunRecord) -> RunRecord:
    """Answers of a server that did not stop: the next question follows."""
    tok = record.tokenizer
    chat = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "I did."},
            {"role": "user", "content": "And?"}]  # fmt: skip
    _, text = artefact.encode(tok, chat, **record.template_kwargs)
    tail = text[text.index("I did.") :]
    plan = record.evaluation
    answers = tuple((tail, False) if k % 3 == 0 else a for k, a in enumerate(plan.answers))
    return record.change(evaluation=dataclasses.replace(plan, answers=answers))


def rows_cut(record: RunRecord) -> RunRecord:
    """Merged into a base that was never resized: fewer embedding rows than ids."""
    from safetensors.torch import load_file

    folder = exports.copied(record.export)
    tensors = load_file(folder / "model.safetensors")
    rows = max(i for g in record.golden for i in g["ids"])  # the last id in use loses its row
    for name, tensor in tensors.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensors[name] = tensor[:rows].clone()
    exports.save_tensors(folder, "model.safetensors", tensors)
    write_json(folder / "config.json", {**exports.config_of(record), "vocab_size": rows})
    return record.change(export=folder)


def resized_once(record: RunRecord) -> RunRecord:
    """Only the config was resized: it promises more rows than the weights have."""
    size = exports.config_of(record)["vocab_size"] + 8
    return exports.edit_json(record, "config.json", vocab_size=size)


def prefix_renamed(record: RunRecord) -> RunRecord:
    """Saved under a wrapper: every key has one word more in front."""
    tensors = artefact.adapter_tensors(record.export)
    moved = {k.replace(".model.layers.", ".model.language_model.layers."): v
             for k, v in tensors.items()}  # fmt: skip
    broken = exports.with_adapter_tensors(record, moved)
    served = exports.load_adapter(record.base_model, broken.export)
    promoted = tensor_hash(artefact.adapter_tensors(broken.export))
    return exports.declare(broken.change(served_model=served), adapter_sha256=promoted)


def served_is_base(_: RunRecord, after: RunRecord) -> bool:
    """Whether the served model computes what the base does, and the trained one does not."""
    near = exports.distance(after.base_model, after.served_model, after)
    return near < 1e-6 and exports.distance(after.model, after.base_model, after) > exports.FLOOR


def fresh_adapter(record: RunRecord) -> RunRecord:
    """The server wraps the base in a new adapter instead of loading the saved one."""
    served = exports.adapted(record.base_model)
    for name, parameter in served.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    return record.change(served_model=served)


def zeroed(record: RunRecord) -> dict[str, Any]:
    """The adapter as it was before the first step."""
    tensors = artefact.adapter_tensors(record.export)
    return {k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}


def step_zero(record: RunRecord) -> RunRecord:
    """The checkpoint of step 0 is exported; nothing was declared about it."""
    kept = {k: v for k, v in record.declared.items() if k != "adapter_sha256"}
    broken = exports.with_adapter_tensors(record, zeroed(record))
    served = exports.load_adapter(record.base_model, broken.export)
    return broken.change(declared=kept, served_model=served)


def other_checkpoint(record: RunRecord) -> RunRecord:
    """The last checkpoint is exported, another one was promoted."""
    tensors = artefact.adapter_tensors(record.export)
    return exports.with_adapter_tensors(record, {k: v * 0.9 for k, v in tensors.items()})


def old_merge(record: RunRecord) -> RunRecord:
    """The merge was made of an earlier adapter than the promoted one."""
    tensors = {k: v * 0.5 for k, v in artefact.adapter_state(record.model).items()}
    return exports.edit_json(record, artefact.MANIFEST, adapter_sha256=tensor_hash(tensors))


def not_promoted(_: RunRecord, after: RunRecord) -> bool:
    """Whether the exported adapter, or the one a merge was made of, is not the trained one."""
    trained = tensor_hash(artefact.adapter_state(after.model))
    saved = artefact.adapter_tensors(after.export)
    if saved:
        return tensor_hash(saved) != trained
    return exports.config_of(after, artefact.MANIFEST)["adapter_sha256"] != trained


def losses(*, drop_optimizer: bool, steps: int = 8) -> list[float]:
    """Losses of a tiny run that is stopped in the middle and continued."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        x, y = torch.randn(16, 4), torch.randn(16, 1)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        found = []
        for step in range(steps):
            if step == steps // 2:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
                if not drop_optimizer:
                    optimizer.load_state_dict(state)
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found


def resumed_without_state(record: RunRecord) -> RunRecord:
    """A run goes on with fresh Adam moments."""
    straight, resumed = losses(drop_optimizer=False), losses(drop_optimizer=True)
    return exports.observe(record, loss_straight=straight, loss_resumed=resumed)


def weights_only(record: RunRecord) -> RunRecord:
    """The checkpoint to resume from was saved with save_only_model=True."""
    folder = exports.new_folder() / "checkpoint-40"
    folder.mkdir()
    write_json(folder / "trainer_state.json", {"global_step": 40})
    write_text(folder / "model.safetensors", "")
    return exports.declare(record, resume_from=str(folder))


def has_plan(subject: Subject) -> bool:
    """Whether the subject has scored answers."""
    return bool(subject.record.evaluation and subject.record.evaluation.answers)


def rows_in_file(record: RunRecord) -> int:
    """Embedding rows of the exported weights."""
    return artefact.embedding(artefact.stored(record.export)).shape[0]


def longest(record: RunRecord) -> int:
    """Tokens of the longest golden conversation."""
    return max(len(g["ids"]) for g in record.golden)


def file_changed(name: str, **values: Any) -> Change:
    """The export with values in a JSON file replaced; None removes one."""
    return lambda record: exports.edit_json(record, name, **values)


def theta_changed(record: RunRecord) -> RunRecord:
    """Another rope base in the exported config."""
    rope = {**exports.config_of(record)["rope_parameters"], "rope_theta": 500_000.0}
    return exports.edit_json(record, "config.json", rope_parameters=rope)


def theta(record: RunRecord) -> tuple[float, float]:
    """Rope base of the exported config, and of the trained model."""
    exported = exports.config_of(record)["rope_parameters"]["rope_theta"]
    return exported, record.model.config.rope_parameters["rope_theta"]


def no_template(_: RunRecord, after: RunRecord) -> bool:
    """Whether tokenizer_config.json holds no template."""
    return "chat_template" not in exports.config_of(after, artefact.CONFIG)


def parts_after_stop(_: RunRecord, after: RunRecord) -> bool:
    """Whether the runs agree up to the first resumed step, and not behind it."""
    one, two = after.observed["loss_straight"], after.observed["loss_resumed"]
    return one[:5] == two[:5] and one[5:] != two[5:]


def many_open(before: RunRecord, after: RunRecord) -> bool:
    """Whether a third of the answers is longer than before and did not stop."""
    answers = after.evaluation.answers
    opened = [len(a) > len(b) for (a, ended), (b, _) in
              zip(answers, before.evaluation.answers, strict=True) if not ended]  # fmt: skip
    return all(opened) and len(opened) > len(answers) / 4


TOKENIZER = (
    "tokenizer*",
    "chat_template*",
    "special_tokens*",
    "vocab*",
    "merges*",
    "added_tokens*",
)
BASE = "base_model_name_or_path"
ADAPTER = "adapter_config.json"

MUTATORS: tuple[Mutator, ...] = (
    export_mutator("S1", "tokenizer-not-exported",
                   on_adapter(lambda r: exports.without(r, *TOKENIZER)),
                   lambda _, r: not list(r.export.glob("tokenizer*"))),
    export_mutator("S1", "template-not-exported",
                   on_adapter(lambda r: exports.without(r, artefact.JINJA)),
                   lambda b, r: no_template(b, r) and not (r.export / artefact.JINJA).exists()),
    export_mutator("S2", "template-in-unread-file",
                   on_merge(lambda r: exports.declare(r, loader_reads=artefact.CONFIG)), no_template),
    export_mutator("S2", "two-templates-in-export", on_merge(template_in_config),
                   lambda _, r: exports.config_of(r, artefact.CONFIG)["chat_template"]
                   != template_text(r)),
    export_mutator("S3", "export-stop-list-wiped", on_merge(stops_replaced(lambda r: None)), no_stop),
    export_mutator("S3", "export-stop-list-other", on_merge(stops_replaced(other_stop)), no_stop),
    export_mutator("S3", "answers-run-on", run_on, many_open, applies=has_plan),
    export_mutator("S4", "export-rows-cut", on_merge(rows_cut),
                   lambda _, r: rows_in_file(r) in {i for g in r.golden for i in g["ids"]}),
    export_mutator("S4", "export-resized-once", on_merge(resized_once),
                   lambda _, r: exports.config_of(r)["vocab_size"] != rows_in_file(r)),
    export_mutator("S5", "export-newline-edited", on_adapter(newline_added), other_render),
    export_mutator("S5", "export-token-renamed", on_merge(lost_token), no_token),
    export_mutator("S6", "adapter-prefix-renamed", on_adapter(prefix_renamed), served_is_base),
    export_mutator("S6", "adapter-not-loaded", on_adapter(fresh_adapter), served_is_base),
    export_mutator("S7", "step-zero-exported", on_adapter(step_zero), not_promoted),
    export_mutator("S7", "last-instead-of-best", on_adapter(other_checkpoint), not_promoted),
    export_mutator("S7", "stale-merge", on_merge(old_merge), not_promoted),
    export_mutator("S8", "optimizer-state-dropped", resumed_without_state, parts_after_stop),
    export_mutator("S8", "checkpoint-weights-only", weights_only,
                   lambda _, r: not (Path(r.declared["resume_from"]) / "optimizer.pt").exists()),
    export_mutator("S9", "context-shrunk",
                   on_merge(file_changed("config.json", max_position_embeddings=8)),
                   lambda _, r: exports.config_of(r)["max_position_embeddings"] < longest(r)),
    export_mutator("S9", "rope-changed", on_merge(theta_changed),
                   lambda _, r: theta(r)[0] != theta(r)[1]),
    export_mutator("S9", "served-context-short",
                   on_adapter(lambda r: exports.declare(r, served_context=16)),
                   lambda _, r: longest(r) > r.declared["served_context"]),
    export_mutator("S10", "base-name-is-a-path",
                   on_adapter(file_changed(ADAPTER, **{BASE: "/home/me/models/base"})),
                   lambda _, r: Path(exports.config_of(r, ADAPTER)[BASE]).is_absolute(),
                   severity="WARN"),
    export_mutator("S10", "base-name-missing", on_adapter(file_changed(ADAPTER, **{BASE: None})),
                   lambda _, r: not exports.config_of(r, ADAPTER).get(BASE), severity="WARN"),
    *served.MUTATORS,
)  # fmt: skip
