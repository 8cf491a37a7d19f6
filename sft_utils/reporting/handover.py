"""What is handed over: every claim of the recorded runs, with n and interval, as one JSON value.

Nothing is computed on models here. What was not recorded is said to be missing, never guessed.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import handed_file, read_json, runs_dir
from sft_utils.errors import HandoffError
from sft_utils.formats import lower_is_better, number, worse
from sft_utils.notebook.nbsource import NAME, Layout, notebook_names
from sft_utils.reporting import handorigin, handsound
from sft_utils.reporting.handfiles import made_for
from sft_utils.scores.intervals import wilson

Entry = dict[str, Any]  # value, n, ci95

TRACKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "00": ("Prompts", ("few_shot_minus_base.field_f1", "few_shot_8_minus_few_shot.field_f1",
                       "few_shot_8_minus_base.schema_valid")),
    "01": ("Data", ("fresh.defects_dropped", "fresh.precision", "row_split.leaky_share")),
    "02": ("Sabotages of template and mask", ("preflight.faults_caught",
                                              "*_minus_healthy.field_f1")),
    "03": ("QLoRA", ("tuned_minus_best_prompt.field_f1", "tuned_minus_base.schema_valid",
                     "tuned_minus_base.exact_match", "tuned_minus_base.general_nll")),
    "04": ("Several processes", ("ddp.max_loss_difference", "fsdp2.max_loss_difference")),
    "05": ("JSON Schema", ("tuned_minus_few_shot.schema_valid", "tuned_minus_base.schema_valid",
                           "tuned_minus_base.field_f1",
                           "tuned_minus_few_shot.field_f1", "tuned_minus_base.field_f1_unseen",
                           "tuned_constrained_minus_tuned.field_f1_unseen")),
    "06": ("Chain of thought", ("cot_minus_answer_only.accuracy", "cot_minus_few_shot.accuracy",
                                "cot_equal_tokens_minus_answer_only.accuracy",
                                "cot_minus_answer_only.accuracy_word_heldout")),
    "07": ("Multi-turn", ("tuned_minus_best_prompt.adherence",
                          "tuned_minus_best_prompt.context_recall",
                          "tuned_minus_best_prompt.role_consistency",
                          "tuned_minus_last_turn.adherence")),
    "08": ("Ablations", ("default_minus_base.field_f1", "chosen_minus_rival.field_f1_test",
                         "prompt_loss_minus_default.field_f1", "raw_minus_default.field_f1")),
    "09": ("Merge and export", ("merged.greedy_equal", "reloaded.greedy_equal",
                                "served.greedy_equal")),
    "10": ("Forgetting", ("tuned_minus_base.general_accuracy",
                          "narrow_minus_base.general_accuracy",
                          "replay_minus_base.general_accuracy",
                          "replay_minus_narrow.general_accuracy",
                          "replay_minus_narrow.format_bleed", "replay.task_gain_kept")),
}  # fmt: skip
"""Number -> title and the claims shown first. `a_minus_b.metric` compares two arms, whether or not
their paired difference was recorded; what a run does not hold is left out."""

FALLBACK = 6  # differences shown of a track that has none of its named claims
PROMPT_ARMS = ("base", "few_shot", "reminded")  # and few_shot_<n>: no weights were trained


def recorded(profile: str) -> dict[str, dict[str, Any]]:
    """Results of all notebooks that have run at a profile, by full name.

    A notebook that calls this depends on whatever was recorded before it (`nbdeps`).

    Entries that nothing can be done with leave `metrics` for `unfit`, where `faults` names them.

    Raises:
        HandoffError: A file is broken or lacks a part, or is of another notebook or profile.
    """
    found = {}
    for path in sorted(runs_dir(profile).glob("*.json")):
        if not NAME.fullmatch(path.stem):
            continue
        try:
            result = read_json(path)
            about = (result["notebook"], result["profile"])
            lacking = handsound.lacking(result)
        except (ValueError, KeyError, TypeError) as error:
            raise HandoffError(f"{path.name} is no result of a notebook ({error})") from error
        if about != (path.stem, profile):
            raise HandoffError(
                f"{path.name} at profile {profile} holds the result of {about[0]} at {about[1]}: "
                f"it was copied. Run: make nb NB={path.stem[:2]} PROFILE={profile}"
            )
        if lacking:
            raise HandoffError(
                f"{path.name} is no whole result: {lacking}. Run: make nb NB={path.stem[:2]} "
                f"PROFILE={profile}"
            )
        result["metrics"], result["unfit"] = handsound.parted(result["metrics"])
        found[path.stem] = result
    return found


def best_prompt(metrics: Mapping[str, Entry], metric: str, *, after: str = "") -> str | None:
    """The arm without training that scores best on a metric; None if there is none.

    A notebook picks its best prompt once, by its main metric, and compares every metric with that
    arm, so that on another metric a different prompt may score higher, or score the same: what fits
    most of the recorded differences of `after`, the arm that was compared, comes first.
    """
    arms = [name.removesuffix(f".{metric}") for name in metrics if name.endswith(f".{metric}")]
    arms = [a for a in arms if a in PROMPT_ARMS or re.fullmatch(r"few_shot_\d+", a)]
    recorded = [n for n in metrics if after and n.startswith(f"{after}_minus_best_prompt.")]

    def fits(arm: str, name: str) -> bool:
        ours, theirs = (metrics.get(f"{a}.{name.partition('.')[2]}") for a in (after, arm))
        gap = metrics[name]["value"]
        return bool(ours and theirs) and abs(ours["value"] - theirs["value"] - gap) < 1e-6

    def place(arm: str) -> tuple[int, float]:
        return sum(fits(arm, n) for n in recorded), metrics[f"{arm}.{metric}"]["value"]

    return max(arms, key=place, default=None)


def claim(metrics: Mapping[str, Entry], name: str) -> dict[str, Any] | None:
    """One claim of a run: an arm, or two arms and their difference.

    Args:
        metrics: Of one result file.
        name: `arm.metric` or `after_minus_before.metric`.
    Returns:
        name, metric, before, after, difference (entries or None), reading; None if the run does
        not hold the arm after the change.
    Example:
        >>> pair = {"base.f1": {"value": 0.1, "n": 9, "ci95": [0.0, 0.2]},
        ...         "tuned.f1": {"value": 0.8, "n": 9, "ci95": [0.7, 0.9]}}
        >>> claim(pair, "tuned_minus_base.f1")["reading"]
        'better: the intervals do not touch'
        >>> claim(pair, "tuned.f1")["reading"]
        'measured'
    """
    arms, _, metric = name.partition(".")
    after, minus, before = arms.partition("_minus_")
    difference = metrics.get(name) if minus else None
    if before == "best_prompt":
        before = best_prompt(metrics, metric, after=after) or before
    sides = {
        "before": _side(metrics, before, metric) if minus else None,
        "after": _side(metrics, after, metric),
        "difference": difference,
    }
    if difference is None and (sides["after"] is None or (minus and sides["before"] is None)):
        return None
    return {"name": name, "metric": metric, **sides, "reading": _reading(metric, **sides)}


def _side(metrics: Mapping[str, Entry], arm: str, metric: str) -> Entry | None:
    entry = metrics.get(f"{arm}.{metric}")
    return None if entry is None else {"arm": arm, **entry}


def _reading(
    metric: str, before: Entry | None, after: Entry | None, difference: Entry | None
) -> str:
    if difference is None and before is None:
        return "measured" if after and after.get("ci95") else "single measurement"
    if difference is not None:
        if not difference.get("ci95"):
            return "single measurement"
        low, high = difference["ci95"]
    else:
        if not (before and after and before.get("ci95") and after.get("ci95")):
            return "single measurement"
        low, high = after["ci95"][0] - before["ci95"][1], after["ci95"][1] - before["ci95"][0]
    if low <= 0 <= high:
        return "no difference" if difference else "the intervals touch"
    better = (low > 0) != lower_is_better(metric)
    how = "" if difference else ": the intervals do not touch"
    return ("better" if better else "worse") + how


def claims(track_number: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The claims of a run that the report shows first, then what its notebook names for README.

    Every other recorded paired difference that reads "worse" follows, then losses that only the
    arms' own values show: a loss is never left out.
    """
    metrics = result["metrics"]
    names: list[str] = []
    for name in TRACKS.get(track_number, ("", ()))[1]:
        if name.startswith("*_minus_"):
            before, _, metric = name.removeprefix("*_minus_").partition(".")
            arms = [m.removesuffix(f".{metric}") for m in metrics if m.endswith(f".{metric}")]
            names += [f"{arm}_minus_{before}.{metric}" for arm in arms if arm != before]
        else:
            names.append(name)
    shown = [c for c in (claim(metrics, name) for name in names) if c]
    if not shown:
        paired = [name for name in metrics if "_minus_" in name.split(".")[0]]
        shown = [c for c in (claim(metrics, name) for name in paired[:FALLBACK]) if c]
    said = {f"{s['arm']}.{c['metric']}" for c in shown for s in (c["before"], c["after"]) if s}
    said |= {c["name"] for c in shown}
    rest = [n for n in result.get("readme_metrics", []) if n not in said]
    rest += [n for n, m in metrics.items() if n not in {*said, *rest} and worse(n, m)]
    shown += [c for c in (claim(metrics, name) for name in rest) if c]
    return shown + _losses_beside(metrics, shown)


def _losses_beside(
    metrics: Mapping[str, Entry], shown: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Losses without a recorded difference that claims would hide behind a flattering comparison.

    Two arms that a claim compares are compared on every metric both have; an arm that is better
    than another is compared with the best of all others on that metric.
    """
    pairs = [c for c in shown if c["after"] and c["before"]]
    said = {(frozenset((c["after"]["arm"], c["before"]["arm"])), c["metric"]) for c in pairs}
    wanted = []
    for c in pairs:
        after, before = c["after"]["arm"], c["before"]["arm"]
        both = [n.partition(".")[2] for n in metrics if n.startswith(f"{after}.")]
        wanted += [(after, before, metric) for metric in both]
        if c["reading"].startswith("better"):
            wanted.append((after, _best_other(metrics, c["metric"], after), c["metric"]))
    found = []
    for after, before, metric in wanted:
        one = claim(metrics, f"{after}_minus_{before}.{metric}")
        key = frozenset((after, before)), metric
        if one and key not in said and one["reading"].startswith("worse"):
            said.add(key)
            found.append(one)
    return found


def _best_other(metrics: Mapping[str, Entry], metric: str, arm: str) -> str | None:
    """The best arm on a metric, `arm` aside; differences are no arms."""
    split = {n: n.partition(".") for n in metrics}
    values = {a: metrics[n]["value"] for n, (a, _, m) in split.items() if m == metric and a != arm}
    best = min if lower_is_better(metric) else max
    arms = (a for a in values if "_minus_" not in a)
    return best(arms, key=values.__getitem__, default=None)


def faults(result: Mapping[str, Any]) -> list[str]:
    """What makes a recorded number unfit for a report; empty for a sound result.

    A value that is no number or lies outside its own interval, an interval without n, and a paired
    difference that is not the difference of its two arms on the same items.
    """
    metrics, wrong = handsound.parted(result["metrics"])
    wrong = {**result.get("unfit", {}), **wrong}
    found = [f"{name}: {why}" for name, why in wrong.items()]
    for name, entry in metrics.items():
        value, ci95 = entry["value"], entry.get("ci95")
        if ci95 and not ci95[0] - 1e-9 <= value <= ci95[1] + 1e-9:
            low, high = (number(x) for x in ci95)
            found.append(f"{name}: {number(value)} is outside its interval [{low}, {high}]")
        if ci95 and not entry.get("n"):
            found.append(f"{name}: an interval without n")
        one = claim(metrics, name) if "_minus_" in name.split(".")[0] else None
        if one and one["before"] and one["after"]:
            sides = one["after"]["value"] - one["before"]["value"]
            same = len({entry.get("n"), one["before"].get("n"), one["after"].get("n")}) == 1
            if same and abs(sides - value) > 1e-6:
                found.append(f"{name}: recorded as {number(value)}, its arms say {number(sides)}")
    return found


def failure_split(metrics: Mapping[str, Entry], arm: str, suffix: str = "") -> Entry | None:
    """Of the wrong answers of an arm, the share that breaks the form; the rest is content.

    An answer is wrong if it is not exactly the gold answer, and breaks the form if the schema
    rejects it. Both are counts, so the share is exact.

    Returns:
        value, n (wrong answers), ci95 (Wilson); None if nothing is wrong or was not recorded.
    Example:
        >>> arm = {"tuned.schema_valid": {"value": 0.75, "n": 8},
        ...        "tuned.exact_match": {"value": 0.5, "n": 8}}
        >>> failure_split(arm, "tuned")["value"]
        0.5
    """
    valid = metrics.get(f"{arm}.schema_valid{suffix}")
    exact = metrics.get(f"{arm}.exact_match{suffix}")
    if not valid or not exact or valid["n"] != exact["n"]:
        return None
    wrong = round(exact["n"] * (1 - exact["value"]))
    form = round(valid["n"] * (1 - valid["value"]))
    return {"value": form / wrong, "n": wrong, "ci95": wilson(form, wrong)} if wrong else None


def limits() -> dict[str, str]:
    """What each notebook says it does not show, by full name, from its source."""
    found = {}
    for name in notebook_names(Layout.of()):
        text = made_for(name).get("limits")
        if text:
            found[name] = text
    return found


def track(
    name: str, result: Mapping[str, Any] | None, results: Mapping[str, Any]
) -> dict[str, Any]:
    """One track of the report; `result` is None where nothing was recorded."""
    title = TRACKS.get(name[:2], (name[3:].replace("_", " "), ()))[0]
    head = {"number": name[:2], "title": title, "notebook": name}
    if result is None:
        return {**head, "status": "not run", "claims": [], "faults": []}
    status = "measured" if result.get("passed", True) else "checks failed"
    checks = result.get("checks", [])
    keys = ("run_id", "hardware", "wall_s", "peak_rss_gib", "measured_on", "headline", "metrics")
    return {
        **head,
        "status": status,
        "settings": handorigin.settings(name, result),
        "inputs_gone": handorigin.inputs_gone(name, result, results),
        "inputs_unrecorded": handorigin.inputs_unrecorded(name, result),
        "checks": {"passed": sum(bool(c["passed"]) for c in checks), "n": len(checks)},
        "failed_checks": [c["name"] for c in checks if not c["passed"]],
        "claims": claims(name[:2], result),
        "faults": faults(result),
        **{k: result[k] for k in keys if k in result},
    }


def tracks(results: Mapping[str, dict[str, Any]], own: str) -> list[dict[str, Any]]:
    """All tracks in order: those recorded, and those of the list that were not run."""
    names = {n[:2]: n for n in (*notebook_names(Layout.of()), *results) if n != own}
    rest = {k: f"{k}_{title.lower().replace(' ', '_')}" for k, (title, _) in TRACKS.items()}
    every = rest | names
    return [track(every[k], results.get(every[k]), results) for k in sorted(every)]


def inputs(
    results: Mapping[str, dict[str, Any]], wanted: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, Path], str]:
    """Files of recorded runs that a later step wants, or the reason why it has to be skipped.

    Args:
        results: By full name, from `recorded`.
        wanted: Notebook -> names of the files it handed on.
    Returns:
        Name -> verified path, and ""; or nothing and the reason.
    """
    files = {}
    for notebook, names in wanted.items():
        result = results.get(notebook)
        if result is None:
            return {}, f"{notebook} has not run"
        if not result.get("passed", True):
            return {}, f"{notebook} holds failed checks"
        if result.get("parameters", {}).get("data"):
            return {}, f"{notebook} ran on a file of the reader's"
        try:
            files |= {name: handed_file(result, name) for name in names}
        except (HandoffError, KeyError) as error:
            return {}, str(error)
    return files, ""
