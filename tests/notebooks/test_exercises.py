"""The exercises of 06 and 07: their checkers accept a right solution and refuse the rest."""

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.cot import traces

SHARE = "return sum(a % 10 + b % 10 >= 10 for a, b in equations) / len(equations)"
TENS_FIRST = 't = a + b // 10 * 10; return [f"{a} + {b // 10 * 10} = {t}", f"{t} + {b % 10} = {a + b}"]'
ONES_FIRST = 't = a + b % 10; return [f"{a} + {b % 10} = {t}", f"{t} + {b // 10 * 10} = {a + b}"]'


def told(notebook, first, *bodies):
    """What the last cell prints per exercise, its gaps filled with these bodies."""
    text = next((ROOT / "notebooks/src").glob(f"{notebook}_*.py")).read_text(encoding="utf-8")
    cell = next(c for c in text.split("# %%\n") if c.startswith(f"def {first}")).split("# %% [markdown]")[0]
    lines = cell.splitlines()
    gaps = [k for k, line in enumerate(lines) if "FILL ME IN" in line]
    for gap, body in zip(gaps, bodies, strict=True):
        lines[gap] = f"    {body}" if body else lines[gap]
    said = []
    exec("\n".join(lines), {"traces": traces, "print": lambda *words: said.append(words)})
    return [word for words in said for word in words if word in ("solved", "not solved yet")]


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [
        ("", "", ["not solved yet", "not solved yet"]),
        (SHARE, TENS_FIRST, ["solved", "solved"]),
        (SHARE.replace(">=", ">"), ONES_FIRST, ["not solved yet", "not solved yet"]),
        ("return len(equations)", 'return [f"{a} + {b} = {a + b}"]', ["not solved yet", "not solved yet"]),
        ("return 0.25", TENS_FIRST.replace("a + b}", "a + b + 1}"), ["not solved yet", "not solved yet"]),
    ],
)
def test_carries_and_fine_sums(share, steps, expected):
    assert told("06", "share_of_carries", share, steps) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "not solved yet"), ('return "?" not in reply', "solved"),
        ('return not reply.endswith("?")', "not solved yet"), ("return True", "not solved yet"),
    ],
)  # fmt: skip
def test_no_questions(body, expected):
    assert told("07", "no_questions", body) == [expected]
