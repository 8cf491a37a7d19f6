"""The labels of one trained row, token by token, beside what the oracle says must be trained.

The token ids of the row are those of its oracle. Decision order, the first that fits speaks:

1. no label at all: M2
2. labels that are not the ids of their positions: M6
3. every token labelled, the prompt too: M5 if the mask existed before the collator, or if exactly
   one id is left out everywhere (that is what collators do that mask padding by id); M4 as well if
   that id ends an answer. Otherwise M1.
4. the mask of every answer moved by the same few tokens: M6
5. then, each for its own tokens: whole turns M8; loss on tool results M15, on text that follows an
   answer without a gap C17, on other roles M1, on the served header M10 (a warning: the tokens are
   constant, they make losses look better than they are); stop tokens M4 (every occurrence of the
   padding id is left out) or M7, also for what stands before them; a token shared by header and
   answer M11; first tokens M6; other holes M3

Space after the stop token, and constant text between header and answer, may carry loss or not.
"""

from collections.abc import Iterator

import numpy as np

from sft_utils.masks.masking import IGNORE
from sft_utils.masks.rendering import REASONING_FIELDS, content_text
from sft_utils.preflight.characters import SLOW, Characters
from sft_utils.preflight.record import Finding, Severity, spot

TOOLS = frozenset({"tool", "function", "ipython", "environment", "observation"})
"""Roles whose text comes from a program."""

ADVICE = {
    "C17": ("the model learns to write the next question itself, and does so when it should stop",
            "end the mask at the stop token of each answer; do not take the mask of "
            "apply_chat_template(return_assistant_tokens_mask=True) without looking at it"),
    "M1": ("the model learns to write prompts as well as answers; the loss curve looks healthy",
           "label answers and their stop tokens only: assistant_only_loss=True with a template "
           "that marks them, or rows that bring their own labels"),
    "M2": ("the row costs time and teaches nothing; if all rows are like this, nothing is learned",
           "look for a response marker that never matches; then rebuild the labels"),
    "M3": ("a part of the data teaches nothing, or something else than the rest",
           "find out why the marker of the answer is not found in this row: it is often cut into "
           "other tokens there; take the mask from the template instead of from a marker"),
    "M4": ("the model never learns to stop and runs into max_new_tokens",
           "set pad_token to a token that ends nothing, or mask padding by position "
           "(attention_mask == 0), never by id"),
    "M5": ("the mask that the rows bring is thrown away: the model is trained on prompts",
           "leave data_collator= out, or use one that pads labels instead of writing new ones"),
    "M6": ("every token is learned one step too early or too late",
           "labels are unshifted copies of input_ids; the model shifts them itself"),
    "M6 edge": ("what an answer begins with, or the token that ends it, is never learned",
                "let the mask begin at the first token of an answer and end with its stop token"),
    "M7": ("the model never learns to stop and runs into max_new_tokens",
           "let the labels reach up to and including the token that ends the turn; in the template "
           "it belongs inside {% generation %}"),
    "M8": ("other turns teach than those that were meant to",
           "train the turns you declare (turns='all' or 'last', train: false on a message), or "
           "declare what you train"),
    "M10": ("constant tokens that serving writes itself are learned: harmless for the answers, but "
            "loss and token accuracy look better than they are",
            "begin the labels at the first token that the served model has to write"),
    "M11": ("a token is trained that the served model will never see there",
            "strip space at the ends of answers, or end headers and answers with special tokens"),
    "M15": ("the model learns to invent the results of tools instead of waiting for them",
            "mask everything of the tool messages: keep them outside {% generation %}"),
}  # fmt: skip
"""Why it matters, and the line to change."""


class Masks(Characters):
    """Compares labels with oracles."""

    def target(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions that must carry loss, and positions that may; the first never does."""
        truth = self.oracles[row]
        want = np.zeros(len(truth.ids), bool)
        free = np.zeros(len(truth.ids), bool)
        for t in truth.turns:
            free[t.start if t.head is None else t.head : t.start] = True
            free[t.close : t.close if t.tail is None else t.tail] = True
        for t in self.wanted(row):
            want[t.start : t.close] = True
        want[:1], free[:1] = False, True  # nothing predicts the first token
        return want, free

    def judge(self, ids: np.ndarray, labels: np.ndarray, row: int) -> list[Finding]:
        """Everything that is wrong with the labels of a row that begins like oracle `row`."""
        want, free = (part[: len(ids)] for part in self.target(row))
        got = labels != IGNORE
        got[:1] = False
        if np.array_equal(got, want) and np.array_equal(labels[want], ids[want]):
            return list(self._shared(ids, row))
        if not got.any():
            return [self._say("M2", row, "no token of the row carries loss")] * bool(want.any())
        if not np.array_equal(labels[got], ids[got]):
            return [self._other_values(ids, labels, got, row)]
        missing, extra = want & ~got, got & ~want & ~free
        if not missing.any() and not extra.any():
            return list(self._shared(ids, row))
        whole = self._everything(ids, got, want, row) if extra.any() else []
        if whole:
            return whole
        moved = self._moved(got, missing, extra, row)
        if moved:
            return [moved]
        return [
            *self._turns(ids, missing, extra, row),
            *self._outside(ids, got, extra, row),
            *self._inside(ids, got, missing, row),
        ]

    def _say(
        self, code: str, row: int, what: str, *, turn: int | None = None,
        severity: Severity = "FAIL", advice: str = "",
    ) -> Finding:  # fmt: skip
        why, fix = ADVICE[advice or code]
        return Finding(
            id=code, severity=severity, what=what, where=spot(row, turn), why=why, fix=fix,
            row=row, turn=turn,
        )  # fmt: skip

    def _other_values(
        self, ids: np.ndarray, labels: np.ndarray, got: np.ndarray, row: int
    ) -> Finding:
        """Step 2."""
        k = int(np.flatnonzero(got & (labels != ids))[0])
        n = int((got & (labels != ids)).sum())
        early = np.array_equal(labels[:-1][got[:-1]], ids[1:][got[:-1]])
        cause = "labels are already moved by one token" if early else "labels are other tokens"
        what = f"{cause} at {n} positions: token {k} is {self.quote(ids[k : k + 1])}, its label "
        return self._say("M6", row, what + self.quote(np.abs(labels[k : k + 1])))

    def _everything(
        self, ids: np.ndarray, got: np.ndarray, want: np.ndarray, row: int
    ) -> list[Finding]:
        """Step 3."""
        dark = ~got
        dark[:1] = False
        left = {int(i) for i in np.unique(ids[dark])}
        messages = self.conversations[row]
        if not left:
            roles = [str(m.get("role")) for m in messages if m.get("role") != "assistant"]
            self.roles[row] = set(roles)
            seen = self.before()
            n = int((~want).sum())
            what = f"all {len(ids)} tokens carry loss, {n} of them outside the trained answers"
            if seen and seen[0]:
                return [self._say("M5", row, f"{what}; before the collator they were masked")]
            named = ", ".join(dict.fromkeys(roles)) or "the template"
            return [self._say("M1", row, f"{what} (text of {named})")]
        one = next(iter(left))
        by_id = len(left) == 1 and one in self.special and not got[1:][ids[1:] == one].any()
        if not by_id:
            return []
        token = self.quote([one])
        what = f"labels equal the ids everywhere except at {token}, in the prompt as well"
        found = [self._say("M5", row, f"{what}: the collator wrote them anew")]
        ends = [
            t for t in self.wanted(row) if t.stop is not None and want[t.stop : t.stop + 1].any()
        ]
        if any(ids[t.stop] == one for t in ends):
            what = f"{token} ends the answers and is never labelled, since it is the padding too"
            found.append(self._say("M4", row, what))
        return found

    def _moved(
        self, got: np.ndarray, missing: np.ndarray, extra: np.ndarray, row: int
    ) -> Finding | None:
        """Step 4."""
        n = len(got)
        lost, added = set(np.flatnonzero(missing)), set(np.flatnonzero(extra))
        spans = [(t.start, t.end - 1 if t.stop is None else t.stop) for t in self.wanted(row)]
        spans = [(a, min(b, n - 1)) for a, b in spans if a < n]
        for d in (1, 2, 3):
            late = {k for a, b in spans for k in range(max(a, 1), min(a + d, b + 1))}
            after = {k for _, b in spans for k in range(b + 1, b + d + 1)}
            if lost and lost == late and added <= after and not self.is_shared(row, lost):
                what = f"the mask begins {d} token(s) late: the first of every answer is untrained"
                return self._say("M6", row, what, advice="M6 edge")
            ends = {k for a, b in spans for k in range(max(a, b - d + 1), b + 1)}
            heads = [k for a, _ in spans for k in range(max(a - d, 1), a)]
            if lost == ends and heads and got[heads].all():
                what = f"the mask begins {d} token(s) early: header trained, stop token not trained"
                return self._say("M6", row, what, advice="M6 edge")
        return None

    def _turns(
        self, ids: np.ndarray, missing: np.ndarray, extra: np.ndarray, row: int
    ) -> Iterator[Finding]:
        """Step 5, M8; clears the positions it explains."""
        wanted, n = self.wanted(row), len(ids)
        more, less = [], []
        for t in self.oracles[row].turns:
            last = t.end if t.stop is None else t.stop + 1
            inside = [k for k in (*range(t.start, t.end), last - 1) if k < n]
            if t not in wanted and extra[inside].any():
                more.append(t.message)
                extra[t.start : last] = False
            elif t in wanted and t.start < n and inside and missing[inside].all():
                less.append(t.message)
                missing[t.start : last] = False
        declared = "all answers are" if self.turns == "all" else "only the last answer is"
        for turns, verb in ((more, "carries loss"), (less, "carries no loss")):
            if turns:
                first = next(t for t in self.oracles[row].turns if t.message == turns[0])
                what = f"answer {self.quote(ids[first.start : first.end])} {verb}, declared: "
                what += f"{declared} trained" + " (minus excluded ones)" * (turns is more)
                what += f"; {len(turns)} such turn(s)" * (len(turns) > 1)
                yield self._say("M8", row, what, turn=turns[0])

    def _outside(
        self, ids: np.ndarray, got: np.ndarray, extra: np.ndarray, row: int
    ) -> Iterator[Finding]:
        """Step 5, loss outside answers."""
        if not extra.any():
            return
        owners = self.owners(row)[: len(ids)]
        messages = self.conversations[row]
        spoken = [int(k) for k in np.unique(owners[extra]) if k >= 0]
        roles = {str(messages[k].get("role")) for k in spoken}
        n, text = int(extra.sum()), self.quote(ids[extra])
        if spoken:
            turns = [t for t in self.oracles[row].turns if t.message < spoken[0]]
            gap = slice(turns[-1].end, int(np.argmax(owners == spoken[0]))) if turns else None
            if roles <= TOOLS:
                what = f"the result of a tool carries loss: {n} tokens, first {text}"
                yield self._say("M15", row, what, turn=spoken[0])
            elif gap is not None and got[gap].all():
                what = (
                    f"the mask of an answer runs on into the next message: {n} tokens, first {text}"
                )
                yield self._say("C17", row, what, turn=spoken[0])
            else:
                self.roles[row] = roles
                what = f"{n} tokens outside the answers carry loss (text of "
                what += f"{', '.join(sorted(roles))}), first {text}"
                yield self._say("M1", row, what, turn=spoken[0])
            return
        for t in self.oracles[row].turns:
            end = t.start if t.head is None else t.head
            begin = end
            while begin > 0 and extra[begin - 1]:
                begin -= 1
            if begin < end:
                what = f"{self.quote(ids[begin:end])} of the served header carries loss"
                yield self._say("M10", row, what, turn=t.message, severity="WARN")
                extra[begin:end] = False
                break
        for t in self.oracles[row].turns:  # the other turns of the same row
            end = t.start if t.head is None else t.head
            while end > 0 and extra[end - 1]:
                end -= 1
                extra[end] = False
        if extra.any():
            self.roles[row] = set()
            n, text = int(extra.sum()), self.quote(ids[extra])
            what = f"{n} tokens of the template carry loss, first {text}"
            yield self._say("M1", row, what)

    def _inside(
        self, ids: np.ndarray, got: np.ndarray, missing: np.ndarray, row: int
    ) -> Iterator[Finding]:
        """Step 5, holes in answers."""
        if not missing.any():
            return
        wanted = [t for t in self.wanted(row) if t.start < len(ids)]
        kinds = {int(i) for i in np.unique(ids[missing])}
        one = next(iter(kinds))
        lost = [t for t in wanted if t.stop is not None and missing[t.stop : t.stop + 1].any()]
        if len(kinds) == 1 and self._is_padding(one) and not got[ids == one].any():
            what = f"{self.quote([one])} is never labelled in this row, since it is the padding too"
            yield self._say("M4", row, what, turn=lost[0].message if lost else None)
            return
        if lost:
            what = (
                f"the stop token {self.quote(ids[lost[0].stop : lost[0].stop + 1])} carries no loss"
            )
            yield self._say("M7", row, what, turn=lost[0].message)
            for t in lost:
                k = t.stop
                while k >= t.start and (missing[k] or k >= t.end):
                    missing[k] = False
                    k -= 1
        for t in wanted:
            hole = np.flatnonzero(missing[t.start : t.close]) + t.start
            if not len(hole):
                continue
            text = self.quote(ids[hole])
            if hole[0] >= t.end:
                what = f"{text} between the answer and its stop token carries no loss"
                yield self._say("M7", row, what, turn=t.message)
            elif self.is_shared(row, set(hole)):
                what = f"the header and the answer share the token {text}, which carries no loss"
                yield self._say("M11", row, what, turn=t.message, severity="WARN")
            elif len(hole) <= 3 and hole[-1] == t.start + len(hole) - 1:
                what = f"the answer begins with {text}, which carries no loss"
                yield self._say("M6", row, what, turn=t.message, advice="M6 edge")
            else:
                what = f"{len(hole)} tokens inside the answer carry no loss, first {text}"
                yield self._say("M3", row, what, turn=t.message)
            return

    def _is_padding(self, token: int) -> bool:
        """Whether a token is padding, and was labelled before the collator if that is known."""
        seen = self.before()
        return token in self.pads and (seen is None or token in seen[1])

    def _shared(self, ids: np.ndarray, row: int) -> Iterator[Finding]:
        """M11 where the mask is right: tokens that an answer shares with its surroundings."""
        for t in self.wanted(row):
            message = self.conversations[row][t.message]
            said = content_text(message)
            composed = any(message.get(f) for f in ("tool_calls", *REASONING_FIELDS))
            if composed or not said or t.end <= t.start or t.end > len(ids):
                continue
            first, last = int(ids[t.start]), int(ids[t.end - 1])
            begins = said.startswith(self.text(first)) or (
                not self.spaced and said.startswith(self.text(first).lstrip() or "\n")
            )
            ends = said.endswith(self.text(last)) or not self.text(last).strip()
            odd = "\ufffd" in self.text(first) + self.text(last) or {first, last} & self.special
            if (begins and ends) or odd or self.slow >= SLOW:
                continue
            self.slow += 1
            before, after = self.foreign(row, t, said)
            if not before and not after.strip():
                continue
            k = t.start if before else t.end - 1
            what = (
                f"the token {self.quote(ids[k : k + 1])} holds {before or after!r} of the template"
            )
            what += f" and the {'beginning' if before else 'end'} of the answer"
            severity: Severity = "FAIL" if (before or after).strip() else "WARN"
            yield self._say("M11", row, what, turn=t.message, severity=severity)
            return
