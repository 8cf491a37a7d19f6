"""Dialogues under a system prompt whose rules can be checked: the data and metrics of notebook 07.

An answer is judged turn by turn; every metric is a list of 0/1 units with the cluster each belongs
to, so that intervals resample clusters (`clusters.cluster_rate`), not replies.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sft_utils.artifacts import ROOT, sha256_text
from sft_utils.config import Profile
from sft_utils.data.rows import rows_of
from sft_utils.errors import ConfigError, DataError
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer
from sft_utils.scores.clusters import cluster_difference, cluster_rate
from sft_utils.task.recalls import recalled
from sft_utils.task.rules import KINDS, Ask, Rule, Turn, Verdict, check, refused

__all__ = ["Ask", "Dialogue", "Turn", "Units", "constant_floor", "conversation", "differences",
           "judge", "messages", "metrics", "new_domains", "parse", "read", "recalled",
           "units"]  # fmt: skip

FOLDER = "data/dialogues"
SPLITS = ("train", "val", "test", "fewshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """07: dialogues unless a unit is given; both of a pair count."""

    train_rows: int
    test_rows: int
    learning_rate: float  # on a GPU that of QLoRA (arXiv 2305.14314) for 7B, not measured here
    new_tokens: int  # the longest gold reply has fewer, but at smoke, which cuts them


SIZES = {
    "smoke": Sizes(train_rows=4, test_rows=4, learning_rate=2e-3, new_tokens=12),
    "cpu": Sizes(train_rows=240, test_rows=32, learning_rate=2e-3, new_tokens=48),
    "gpu": Sizes(train_rows=384, test_rows=112, learning_rate=2e-4, new_tokens=64),
}


def sizes(profile: Profile) -> Sizes:
    """Sizes of 07; all GPU profiles share one set."""
    return SIZES[profile.track]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A system prompt with its rules as data, and what user and assistant say."""

    id: str
    pair: str  # shared with the dialogue of the same requests under other rules
    domain: str
    split: str
    system: str
    rules: tuple[Rule, ...]
    turns: tuple[Turn, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """The rule families of its system prompt."""
        return frozenset(rule["kind"] for rule in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One reply of a model, judged."""

    dialogue: Dialogue
    index: int  # of the turn, from 0
    turn: Turn
    reply: str
    verdicts: dict[str, Verdict]  # rule kind -> verdict, only rules that this turn can break
    kept: bool  # all of them
    recalled: bool | None  # the fact asked for is in the reply; None: none was asked for
    refused: bool
    stopped: bool  # ended by itself, not at the limit of tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """0/1 outcomes of one metric, aligned with the cluster of each."""

    hits: list[bool] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)


def parse(row: dict[str, Any]) -> Dialogue:
    """A row of the JSONL files as a dialogue.

    Raises:
        DataError: A key is missing, or a rule is of an unknown kind.
    """
    try:
        turns = tuple(
            Turn(**{**turn, "asks": Ask(**turn["asks"]) if turn.get("asks") else None})
            for turn in row["turns"]
        )
        found = Dialogue(
            id=row["id"], pair=row.get("pair", row["id"]), domain=row["domain"], split=row["split"],
            system=row["system"], rules=tuple(row["rules"]), turns=turns,
        )  # fmt: skip
        for rule in found.rules:
            check(rule, "probe", Turn(user=""))
    except (KeyError, TypeError, ConfigError) as error:
        raise DataError(
            f"dialogue {row.get('id', '?')!r} cannot be used: {error!r}. "
            f"{FOLDER}/README.md describes a row."
        ) from error
    return found


def read(split: str, rows: int | None = None, seed: int = 17) -> list[Dialogue]:
    """Dialogues of a split; a part is balanced over the rule kinds, pairs stay together.

    Args:
        split: train, val, test or fewshot.
        rows: At most so many dialogues; None for all.
        seed: Decides the order, and which are taken.
    Raises:
        ConfigError: An unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    pairs: dict[str, list[Dialogue]] = {}
    for row in rows_of(ROOT / FOLDER / f"{split}.jsonl"):
        pairs.setdefault(row["pair"], []).append(parse(row))
    waiting = sorted(pairs, key=lambda name: sha256_text(f"{seed}:{name}"))
    count, found = Counter(dict.fromkeys(KINDS, 0)), []
    while waiting and (rows is None or len(found) < rows):
        for kind in sorted(KINDS, key=lambda k: (count[k], k)):  # the rarest so far comes next
            hits = [p for p in waiting if any(kind in d.kinds for d in pairs[p])]
            if hits:
                break
        else:
            hits = waiting
        waiting.remove(hits[0])
        for dialogue in pairs[hits[0]]:
            count.update(dialogue.kinds)
            found.append(dialogue)
    return found[:rows]


def new_domains() -> frozenset[str]:
    """Domains of test dialogues in which nothing is trained; most test dialogues lie in others."""
    domains = {
        split: {row["domain"] for row in rows_of(ROOT / FOLDER / f"{split}.jsonl")}
        for split in ("train", "test")
    }
    return frozenset(domains["test"] - domains["train"])


def messages(
    dialogue: Dialogue, upto_turn: int, replies: Sequence[str] | None = None
) -> list[Message]:
    """The prompt of one turn: system prompt, earlier turns, and the request.

    Args:
        dialogue: What is played.
        upto_turn: Index of the turn to answer, from 0.
        replies: The model's own earlier replies (free running); None for the gold ones.
    Raises:
        ConfigError: Too few replies, or no such turn.
    """
    said = [t.reply for t in dialogue.turns] if replies is None else list(replies)
    if not 0 <= upto_turn < len(dialogue.turns) or len(said) < upto_turn:
        raise ConfigError(
            f"dialogue {dialogue.id} has {len(dialogue.turns)} turns and {len(said)} replies; "
            f"turn {upto_turn} cannot be asked"
        )
    found: list[Message] = [{"role": "system", "content": dialogue.system}]
    for turn, reply in zip(dialogue.turns[:upto_turn], said, strict=False):
        found += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": reply}]
    return [*found, {"role": "user", "content": dialogue.turns[upto_turn].user}]


def conversation(dialogue: Dialogue) -> list[Message]:
    """What is trained: all turns with their gold replies."""
    last = len(dialogue.turns) - 1
    gold: Message = {"role": "assistant", "content": dialogue.turns[last].reply}
    return [*messages(dialogue, last), gold]


def _relevant(rule: Rule, turn: Turn) -> bool:
    """A topic rule counts only where the topic, or something like it, comes up."""
    return rule["kind"] != "refusal" or turn.refuse or turn.borderline


def judge(dialogue: Dialogue, answers: Sequence[Answer | str]) -> list[Judged]:
    """Judge the replies to the turns of one dialogue.

    A topic rule counts in adherence only on turns that ask for the topic or for something that
    sounds like it: elsewhere not refusing is no achievement.

    Args:
        dialogue: With rules and gold turns.
        answers: One per turn; plain texts count as stopped.
    Raises:
        ConfigError: Another number of answers than turns.
    """
    if len(answers) != len(dialogue.turns):
        raise ConfigError(
            f"dialogue {dialogue.id}: {len(answers)} answers to {len(dialogue.turns)} turns"
        )
    found = []
    for index, (turn, answer) in enumerate(zip(dialogue.turns, answers, strict=True)):
        text = answer if isinstance(answer, str) else answer.text
        counted = [rule for rule in dialogue.rules if _relevant(rule, turn)]
        verdicts = {rule["kind"]: check(rule, text, turn) for rule in counted}
        found.append(Judged(
            dialogue=dialogue, index=index, turn=turn, reply=text, verdicts=verdicts,
            kept=all(v.kept for v in verdicts.values()), refused=refused(text),
            recalled=recalled(turn.asks.value, text) if turn.asks else None,
            stopped=isinstance(answer, str) or answer.stopped,
        ))  # fmt: skip
    return found


def units(judged: Sequence[Judged]) -> dict[str, Units]:
    """All metrics as 0/1 units. Cluster: the pair, since its two dialogues share their requests.

    adherence (one unit per reply and rule; also .turn_N from 1, .<rule kind>), all_rules (per
    reply: every rule kept), context_recall (.distance_N), role_consistency (replies to traps: all
    rules kept, no other name taken), refusal (forbidden topics refused), over_refusal (innocent
    requests that sound alike, refused: less is better), both_prompts (per request: right under both
    system prompts of its pair; not zero without reading them, see `constant_floor`), stopped.
    """
    found: dict[str, Units] = {}
    both: dict[tuple[str, int], list[bool]] = {}

    def add(name: str, hit: bool, cluster: str) -> None:
        unit = found.setdefault(name, Units())
        unit.hits.append(hit)
        unit.clusters.append(cluster)

    for one in judged:
        turn, cluster = one.turn, one.dialogue.pair
        for kind, verdict in one.verdicts.items():
            for name in ("adherence", f"adherence.turn_{one.index + 1}", f"adherence.{kind}"):
                add(name, verdict.kept, cluster)
        if one.verdicts:
            add("all_rules", one.kept, cluster)
            both.setdefault((cluster, one.index), []).append(one.kept)
        if one.recalled is not None and turn.asks:
            for name in ("context_recall", f"context_recall.distance_{turn.asks.distance}"):
                add(name, one.recalled, cluster)
        if turn.trap:
            taken = bool(turn.imposed) and recalled(turn.imposed, one.reply)
            add("role_consistency", one.kept and not taken, cluster)
        if turn.refuse:
            add("refusal", one.refused, cluster)
        if turn.borderline and "refusal" in one.dialogue.kinds:
            add("over_refusal", one.refused, cluster)
        add("stopped", one.stopped, cluster)
    for (cluster, _), kept in both.items():
        if len(kept) == 2:
            add("both_prompts", all(kept), cluster)
    return dict(sorted(found.items()))


def constant_floor(part: Sequence[Dialogue]) -> tuple[str, Units]:
    """The gold reply that, said to everything, is right under both prompts most often; those units.

    Two prompts of a pair can share a rule or have rules that get along, so a model that reads no
    prompt is right under both at times: `both_prompts` is to be compared with this, not with zero.

    Args:
        part: Dialogues with whole pairs. Seconds for 32 dialogues: each gold reply is judged in
            every turn.
    Raises:
        ConfigError: There is no whole pair.
    """
    best: tuple[str, Units] | None = None
    for reply in sorted({turn.reply for dialogue in part for turn in dialogue.turns}):
        judged = [j for d in part for j in judge(d, [reply] * len(d.turns))]
        found = units(judged).get("both_prompts", Units())
        if found.hits and (best is None or sum(found.hits) > sum(best[1].hits)):
            best = reply, found
    if best is None:
        raise ConfigError(
            f"{len(part)} dialogues hold no two of one pair whose rules count in the same turn, "
            "so there is no floor. Read an even number of rows: whole pairs."
        )
    return best


def metrics(arm: str, judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Metric entries `<arm>.<metric>` with intervals that resample clusters."""
    return {f"{arm}.{name}": cluster_rate(u.hits, u.clusters) for name, u in units(judged).items()}


def differences(
    a: str, judged_a: Sequence[Judged], b: str, judged_b: Sequence[Judged]
) -> dict[str, dict[str, Any]]:
    """Metric entries `<a>_minus_<b>.<metric>` of two arms on the same dialogues, paired.

    Raises:
        ConfigError: The arms did not answer the same turns.
    """
    keys = [[(j.dialogue.id, j.index) for j in part] for part in (judged_a, judged_b)]
    if keys[0] != keys[1]:
        raise ConfigError(
            f"{a} and {b} did not answer the same turns: {len(keys[0])}, {len(keys[1])}"
        )
    one, two = units(judged_a), units(judged_b)
    return {
        f"{a}_minus_{b}.{name}": cluster_difference(
            one[name].hits, two[name].hits, one[name].clusters
        )
        for name in one
    }
