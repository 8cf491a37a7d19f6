"""The final answer of a text: found in every usual form, compared by value."""

import time

import pytest

from sft_utils.cot import answercheck, traces
from sft_utils.errors import DataError

FOUND = [
    ("The answer is 85.", "85"),
    ("The answer is 85", "85"),
    ("4 * 12 = 48.\nThe answer is 48.\n", "48"),
    ("the final answer is: 7", "7"),
    ("Answer: 12 euros", "12 euros"),
    ("**Answer:** 12", "12"),
    ("The answer is **1,234**.", "1,234"),
    ("#### 72", "72"),
    ("#### 1,234\n", "1,234"),
    ("So it is 5.\n#### -3.5", "-3.5"),
    (r"Thus \boxed{42}.", "42"),
    (r"$\boxed{\frac{3}{4}}$", r"\frac{3}{4}"),
    (r"The answer is $\boxed{12}$.", "12"),
    (r"\[ \boxed{1{,}234} \]", "1{,}234"),
    (r"\boxed{\text{Ana}}", r"\text{Ana}"),
    ("The answer is 3.5.", "3.5"),
    ("The answer is 3.5. Done.", "3.5"),
    ("The answer is 85. The answer is 86.", "86"),
    ("First the answer is 1.\nNo: the answer is 2.", "2"),
    ("The answer is Ana.", "Ana"),
    ("The answer is [1, 2].", "[1, 2]"),
    ("The answer is 'ab'.", "'ab'"),
    ("The answer = 9", "9"),
    ("THE ANSWER IS 9!", "9"),
    ("The correct answer is $5.", "$5"),
    ("The answer is `[3]`.", "[3]"),
    ("The answer is −5.", "−5"),
    ("The answer is 1.\n\nI hope that helps.", "1"),
    ("The answer is 85.\n#### Explanation\nIt is 85.", "85"),
    ("#### **$85**", "$85"),
    ("**Answer**: 20", "20"), ("### Answer\n20", "20"), ("## Final Answer\n\n**Ada**\n", "Ada"), ("#### Total: 20 apples", "20 apples"),
    ("The answer is 20.\n### Answer\nWe added both boxes.", "20"), ("The answer is 20.\n#### Answer\n```python\n3", "20"),
]
MISSING = [
    ("", True, "format"), ("85", True, "format"), ("It is 85.", True, "format"), ("4 * 12 = 4", False, "no stop"),
    ("The answer is", False, "no stop"), ("The answer is .", True, "format"), ("####", True, "format"),
    ("#### Step 1: nuts", True, "format"), ("#### Explanation", False, "no stop"), (r"\boxed{12", True, "format"), ("I answered it.", True, "format"), ("The answer is \n", True, "format"),
]  # fmt: skip
EQUAL = [
    ("85", "85"), ("85.0", "85"), ("085", "85"), ("1,234", "1234"), ("1\u00a0234", "1234"),
    ("1,234,567", "1234567"), ("1'234", "1234"), ("1_234", "1234"), ("$1,234.50", "1234.5"), ("€ 12", "12"),
    ("12 €", "12"), ("12 euros", "12"), ("12 km/h", "12"), ("12 m^2", "12"), ("12 apples left", "12"),
    ("-3", "-3"), ("−3", "-3"), ("- 3", "-3"), ("-$3", "-3"), ("$-3", "-3"), ("+3", "3"),
    ("0.5", "1/2"), (".5", "1/2"), ("1/2", "0.5"), ("2/4", "1/2"), ("½", "1/2"), ("2½", "2.5"),
    ("3 1/2", "3.5"), ("-3 1/2", "-3.5"), (r"\frac{3}{4}", "3/4"), (r"-\frac{1}{2}", "-1/2"), (r"2\frac{1}{2}", "5/2"),
    (r"\dfrac{3}{4}", "0.75"), ("25%", "25%"), ("25 %", "0.25"), ("25%", "25"), (r"25\%", "25"), ("25 percent", "25"),
    ("1{,}234", "1234"), (r"12\text{ cm}", "12"), ("x = 5", "5"), ("3 + 4 = 7", "7"), ("1e3", "1000"), ("7.", "7"),
    ("12 (twelve)", "12"), ("15-year-olds: 15", "15"), ("100.00", "100"),
    ("about 12", "12"), ("minus 3", "-3"), ("negative $3", "-3"), ("12 more than Ben", "12"), ("12, not a bit more", "12"),
    ("5 more than 7 = 12", "12"), ("exactly 12 notes", "12"),
    ("12 * 4 = 40 + 8 = 48", "48"), ("x ≠ 4, x = 5", "5"), ("3 more than 5 = 8", "8"), ("No. of apples = 5", "5"),
    ("12 over 4 = 3", "3"), ("since 4 > 3, x = 5", "5"), ("3 million", "3000000"), ("$5k", "5000"), ("2.5 thousand", "2500"),
    ("-(10)", "-10"), ("-($10)", "-10"), ("(10)", "10"), ("-₹20", "-20"), ("₹20", "20"), ("1e+3", "1000"), ("3 Million", "3000000"),
    ("2 trillion", "2000000000000"), ("12 m²", "12"), ("5 M&Ms", "5"), ("3x as many", "3"), ("12-packs: 12", "12"),
    ("3 dozen", "3"), ("5 km", "5"), (r"\frac34", "3/4"), ("30 minutes, half of it", "30"), ("12 and a bit = 13", "13"),
]  # fmt: skip
DIFFERENT = [
    ("58", "85"), ("85.1", "85"), ("-85", "85"), ("8 5", "85"), ("", "85"), ("eighty-five", "85"), ("12 or 13", "12"),
    ("1/3", "0.3333"), ("1,23", "123"), ("0.25", "25"), ("5/0", "5"), ("850", "85"), ("3.14", "22/7"), ("nan", "5"),
    ("inf", "5"), ("1/2/3", "1/2"), ("25", "25%"), ("minus 3", "3"), ("12, which is under 20", "12"),
    ("3 million", "3"), ("half of 10", "10"), ("12 and a half", "12"), (r"\sqrt{16}", "16"), ("√16", "16"), ("twice 12", "12"),
    ("3 + 3", "3"), ("4 * 4", "4"), ("10-10", "10"), ("2 x 2", "2"), ("2x2", "2"), ("3x + 3", "3"), ("3 apples + 3 apples", "3"), ("3 times 3", "3"),
    (r"3 \times 3", "3"), ("2^2", "2"), ("2**2", "2"), ("5²", "5"), (r"3\pi", "3"), ("3π", "3"), ("x + 3", "3"), ("6/3/2", "2"), ("1/1/1", "1"), ("5 ± 5", "5"),
    ("-(10)", "10"), ("-₹20", "20"), ("$3 M", "3"), ("50K", "50"), ("50 k", "50"), ("3B", "3"), ("3 Million", "3"), ("2 trillion", "2"),
    ("5k", "5"), (r"\frac34", "34"), ("9" * 5000, "9"), ("double the 12", "12"),
]  # fmt: skip
UNSTATED = [
    "not 127", "NOT $127", "no 127", "isn't 127", "isn’t **127**", "never 127", "not equal to 127", "not = 127",
    "more than 127", "less than 127 km", "greater than 127", "fewer than 127", "other than 127", "at least 127",
    "at the most 127", "over 127", "under 127", "above 127", "below 127", "up to 127", "127 or more", "> 127", "x < 127",
    "x != 127", "x >= 127", "≤ 127", r"x \neq 127", "unknown, maybe 127", "maybe 127", "perhaps 127", "probably 127",
    "unclear, I guess 127", "almost 127", "minus 127", "unknown: 127 %", "x = 4 or x = 127", "maybe x = 127",
    "it is not 1 * 127 = 127", "x isn't y = 127", "I guess 127 = 127",
]  # fmt: skip
TEXTS = [
    ("Ana", "Ana", "text", True), ("ana.", "Ana", "text", True), ("the cat", "cat", "text", True),
    ("  A  Liar ", "liar", "text", True), (r"\text{Ana}", "Ana", "text", True), ("Ana and Ben", "Ana", "text", False),
    ("Anna", "Ana", "text", False), ("truth-teller", "liar", "text", False), ("", "Ana", "text", False),
    ("[1, 2]", "[1,2]", "output", True), ("[2, 1]", "[1, 2]", "output", False), ("(1, 2)", "[1, 2]", "output", False),
    ("['a']", '["a"]', "output", True), ("'ab'", "ab", "output", True), ("ab", "ab", "output", True),
    ("Ab", "ab", "output", False), ("7", "7", "output", True), ("7.0", "7", "output", False), ("07", "7", "output", False),
    ("True", "True", "output", True), ("1", "True", "output", False), ("[1", "[1]", "output", False),
    ("[1, True]", "[1, 1]", "value", False), ("[1, True]", "[1, 1]", "output", False), ("[[1.0]]", "[[1]]", "", False),
    ("{1: 'a'}", "{True: 'a'}", "", False), ("{'b': [2], 'a': 1}", "{'a': 1, 'b': [2]}", "", True), ("{2, 1}", "{1, 2}", "", True),
    ("{1, 2}", "{1, 2.0}", "", False), ("(1,)", "[1]", "", False), ("[1, 2]", "[1,  2]", "", True), ("85 km", "85", "", True), ("Ana", "ana", "", True),
]  # fmt: skip


def test_the_table_is_long():
    assert len(FOUND) + len(MISSING) + len(EQUAL) + len(DIFFERENT) + len(TEXTS) >= 60


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_found(text, answer):
    found = answercheck.extract(text)
    assert found.text == answer
    assert found.why == ""
    assert 0 <= found.start < len(text)


@pytest.mark.parametrize(("text", "stopped", "why"), MISSING)
def test_missing_answers_have_a_reason(text, stopped, why):
    found = answercheck.extract(text, stopped=stopped)
    assert (found.text, found.why) == (None, why)
    assert not found


@pytest.mark.parametrize(("said", "gold"), EQUAL)
def test_equal(said, gold):
    assert answercheck.equal(said, gold, "number")


@pytest.mark.parametrize(("said", "gold"), DIFFERENT)
def test_different(said, gold):
    assert not answercheck.equal(said, gold, "number")


@pytest.mark.parametrize("said", UNSTATED)
def test_a_number_that_is_denied_bounded_or_guessed_is_no_answer(said):
    assert answercheck.extract(f"The answer is {said}.").text
    assert not answercheck.equal(said, "127", "number")


@pytest.mark.parametrize(("said", "gold", "kind", "same"), TEXTS)
def test_names_and_output(said, gold, kind, same):
    assert answercheck.equal(said, gold, kind) is same


def test_the_trace_ends_where_the_statement_begins():
    text = "4 * 12 = 48.\nThe answer is 48."
    assert text[: answercheck.extract(text).start] == "4 * 12 = 48.\n"


@pytest.mark.parametrize(
    "piece", ["answer ", r"\boxed{", "1 ", "The answer is ", "12 * ", "4 apples ", "1,111", "a: ", "9", "#### ", "1 - 1 = ", "\n"]
)
def test_long_texts_are_quick(piece):
    started = time.process_time()
    text = piece * 3_000
    answercheck.extract(text)
    traces.unread(text, traces.equations(text))
    answercheck.to_number(text)
    assert time.process_time() - started < 2


def test_huge_exponents_do_not_hang():
    assert not answercheck.equal("1e999", "5", "number")
    assert not answercheck.equal("1e999999999", "5", "number")


def test_gsm8k():
    assert answercheck.gsm8k("a <<1+1=2>>2\nb\n#### 1,200") == ("a 2\nb", "1200")
    for bad in ("no mark 5", "#### none", "####"):
        with pytest.raises(DataError, match="#### N"):
            answercheck.gsm8k(bad)
