"""Duplicates and leaks: copies are found, two customers with the same problem are not copies."""

import subprocess
import sys
import unicodedata

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.data import duplicates as d
from sft_utils.errors import DataError

LONG = (
    "Hello, my kettle Fjordal-6 stopped working on 3 March after only two weeks of use. "
    "I tried another socket and it made no difference. Please send me a new one. Ana Ruiz"
)
EDITED = LONG.replace("Hello", "Hi there").replace("only two", "just two").replace("new one", "new")
OTHER = (
    "Where is my parcel? Tracking has said nothing for six days, the depot does not answer, and "
    "the birthday is tomorrow. Tell me at once whether it will arrive. Tomasz"
)


def near(text, case, index, key):
    sketch = index.sketch(d.shingles(text), case)
    found = index.candidates(sketch)
    index.add(key, sketch)
    return found


def test_exact_key_ignores_case_and_spacing_only():
    assert d.exact_key("Where IS\n it?") == d.exact_key("where is it? ")
    assert d.exact_key("where is it?") != d.exact_key("where is it")


ACCENTED = (
    "Grüße aus Köln, José Muñoz hier: Die Kaffeemühle für 49,90 € ist schon wieder zerbrochen, "
    "bitte schicken Sie möglichst schnell eine neue nach Łódź. Größte Eile, danke schön"
)


@pytest.mark.parametrize("hidden", ["\u00ad", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff"])
def test_what_nobody_sees_makes_no_other_text(hidden):
    for twin in (unicodedata.normalize("NFD", ACCENTED), ACCENTED.replace("e", f"e{hidden}")):
        assert twin != ACCENTED
        assert d.exact_key(twin) == d.exact_key(ACCENTED)
        assert d.words_of(twin) == d.words_of(ACCENTED)
        edited = f"Hallo! {twin} und tschüss"
        for text, evidence in ((twin, "exactly e-1"), (edited, "near e-1")):
            found = d.HeldOut({"e-1": ACCENTED}, signs=True).find(text, d.shingles(text), d.exact_key(text))
            assert (found or "").startswith(evidence)
    assert d.exact_key("Jose") != d.exact_key("José"), "an accent is not nothing"


def test_the_held_out_text_that_is_repeated_most_is_named():
    words = [f"w{k}" for k in range(40)]
    half, most = " ".join([*words[:30], *"abcdefgh"]), " ".join([*words[:38], "x", "y"])
    text, best = " ".join(words), f"Jaccard {36 / 40:.2f}"
    for held in ({"a": half, "b": most, "c": most}, {"c": most, "b": most, "a": half}):
        assert d.HeldOut(held).find(text, d.shingles(text), d.exact_key(text)) == f"near b: {best}"
    longer = f"{' '.join(f'v{k}' for k in range(90))} {text}"
    held = d.HeldOut({"a": half, "b": most, "c": most})
    found = held.find(longer, d.shingles(longer), d.exact_key(longer))
    assert found == "contains b: 94% of its 8-grams"


def test_evidence_is_the_same_in_every_process():
    code = (
        "from sft_utils import duplicates as d; words = [f'w{k}' for k in range(60)];"
        "held = d.HeldOut({f'e-{k}': ' '.join(words[k : k + 32]) for k in reversed(range(29))});"
        "one, two = ' '.join(words), ' '.join([*(f'v{k}' for k in range(90)), *words]);"
        "print([held.find(t, d.shingles(t), d.exact_key(t)) for t in (one, two)])"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in "1234"
    }  # fmt: skip
    assert found == {"['near e-0: Jaccard 0.52', 'contains e-0: 100% of its 8-grams']\n"}


def test_shingles_of_short_texts_are_not_empty():
    assert d.shingles("Hi!") == {("hi",)}
    assert d.jaccard(d.shingles(""), d.shingles("")) == 0.0, "no words are no likeness"
    assert d.jaccard(d.shingles("hi"), d.shingles("ho")) == 0.0


@pytest.mark.parametrize(("held", "trained"), [
    ("请用一句话解释一下为什么天空在白天看起来是蓝色的，而在傍晚却变成红色呢", "请用一句话解释一下为什么天空在白天看起来是蓝色的，而在晚上却变成红色呢"),
    ("昼間の空が青く見えるのに夕方になると赤く変わるのはなぜか一文で説明してください", "昼間の空が青く見えるのに夕方になると赤く変わるのはなぜか二文で説明してください"),
    ("ทำไมท้องฟ้าถึงเป็นสีฟ้าในตอนกลางวันแต่กลับเป็นสีแดงในตอนเย็น", "ทำไมท้องฟ้าถึงเป็นสีฟ้าในตอนกลางวันแต่กลับเป็นสีแดงในตอนค่ำ"),
])  # fmt: skip
def test_scripts_without_spaces_have_words(held, trained):
    """A clause would be one word, and one changed character another text."""
    found = d.HeldOut({"held": held}).find(trained, d.shingles(trained), d.exact_key(trained))
    assert found.startswith("near held")
    other = "你们的退货政策是什么，我昨天买的鞋子太小了想换一双"
    assert d.HeldOut({"held": held}).find(other, d.shingles(other), d.exact_key(other)) is None


def test_texts_without_words_resemble_nothing():
    assert d.HeldOut({"held": "🙂"}).find("🚀", d.shingles("🚀"), d.exact_key("🚀")) is None
    assert d.HeldOut({"held": "🙂"}).find("🙂", d.shingles("🙂"), d.exact_key("🙂")) == "exactly held"


def test_an_edited_copy_is_proposed_and_above_the_threshold():
    index = d.NearDuplicates()
    assert near(LONG, "case", index, 1) == []
    assert near(OTHER, "case", index, 2) == []
    assert near(EDITED, "case", index, 3) == [1]
    assert d.ALIKE <= d.jaccard(d.shingles(LONG), d.shingles(EDITED)) < 1


def test_the_same_words_about_another_case_are_never_proposed():
    index = d.NearDuplicates()
    near(LONG, "Fjordal-6|Ana", index, 1)
    assert near(LONG, "Fjordal-6|Kofi", index, 2) == []
    assert near(LONG, "Fjordal-6|Ana", index, 3) == [1]


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (LONG, "exactly e-1"),
        (LONG.upper().replace(" ", "\n"), "exactly e-1"),
        (EDITED, "near e-1"),
        (LONG.replace("Ana Ruiz", "Kofi").replace("Fjordal-6", "Ilmo 3"), "near e-1"),
        (f"{OTHER} {OTHER[::-1]} {LONG} and now for something else: {OTHER}", "contains e-1"),
        (OTHER, None),
        ("Hello, my kettle stopped working on 3 March. Please send me a new one.", None),
    ],
)
def test_leaks(text, evidence):
    held = d.HeldOut({"e-1": LONG})
    found = held.find(text, d.shingles(text), d.exact_key(text))
    assert (found or "").startswith(evidence or "")
    assert bool(found) == bool(evidence)


def test_a_short_held_out_mail_is_found_and_does_not_match_everything():
    held = d.HeldOut({"e-1": "Any nuts in the bar?"})
    for text, leak in (("any nuts in the BAR?", True), ("Are any nuts in the bar?", True),
                       ("Any chance of nuts next year in the bar car?", False)):  # fmt: skip
        assert bool(held.find(text, d.shingles(text), d.exact_key(text))) == leak


FOOTER = "This message is confidential and only for the person named above, delete it otherwise."


def test_boilerplate_is_what_many_texts_share():
    mails = [f"{OTHER} {k} {chr(97 + k)}" for k in range(9)]
    assert d.common_shingles(mails) == frozenset(), "nine rows are no template"
    assert ("where", "is", "my") in d.common_shingles([*mails, OTHER])
    assert d.common_shingles([*mails, OTHER], 40) == frozenset(), "a shorter run than asked for"
    assert d.common_shingles([f"{k} b c" for k in range(500)] + ["x y z"] * 9) == frozenset()
    assert d.common_shingles(["Go on!"] * 10) == {("go", "on")}
    assert ("where", "is", "my") in d.common_shingles(mails, rows=9)


def test_a_footer_makes_no_leak_and_hides_none():
    common = d.common_shingles([FOOTER] * 10, d.CONTAINED_SIZE)
    held = d.HeldOut({"e-1": f"The lamp flickers. {FOOTER}", "e-2": f"{LONG} {FOOTER}"}, common)
    for text, leak in ((f"My order is late. {FOOTER}", None), (f"{EDITED} {FOOTER}", "near e-2"),
                       (FOOTER, None), (f"The lamp flickers. {FOOTER}", "exactly e-1"),
                       (f"{OTHER} {OTHER[::-1]} {LONG} {FOOTER}", "contains e-2")):  # fmt: skip
        found = held.find(text, d.shingles(text), d.exact_key(text))
        assert (found or "").startswith(leak or "-" * bool(found)), (text, found)
        assert bool(found) == bool(leak)


def test_a_templated_question_inside_a_longer_text_is_a_leak():
    """What the template shares is boilerplate; the one word that is left must still find the text."""
    ask = "please tell me what the capital city of place{} is and give one short reason for that"
    common = d.common_shingles([ask.format(k) for k in range(60)])
    held = d.HeldOut({"e-1": ask.format(3)}, common, signs=True)
    for text, leak in ((f"{OTHER} {ask.format(3)}", "contains e-1"), (f"{OTHER} {ask.format(4)}", None)):
        found = held.find(text, d.shingles(text), d.exact_key(text))
        assert (found or "").startswith(leak or "-" * bool(found)), (text, found)
        assert bool(found) == bool(leak)


@pytest.mark.parametrize(
    ("text", "same"),
    [("what is 1 + 2", True), ("What is 1 - 2?", False), ("What is 1 * 2?", False),
     ("What is 1 + 3?", False), ("So what is 1 + 2?", True)],
)  # fmt: skip
def test_other_numbers_or_operators_make_another_text(text, same):
    held = d.HeldOut({"e-1": "What is 1 + 2?"}, signs=True)
    assert bool(held.find(text, d.shingles(text), d.exact_key(text))) == same


def test_nothing_held_out_is_refused():
    with pytest.raises(DataError, match="no held-out texts"):
        d.HeldOut({})


@pytest.mark.parametrize(("times", "common"), [(19, False), (20, True)])
def test_of_many_rows_two_per_cent_must_share_a_phrase(times, common):
    """A phrase of fewer rows still says that two of them are alike."""
    texts = [f"mail{i} of row{i}" for i in range(1000 - times)] + ["see you soon"] * times
    assert d.common_shingles(texts) == ({("see", "you", "soon")} if common else set())


def test_a_text_shorter_than_a_run_of_boilerplate_is_none():
    assert d.common_shingles(["my order is late"] * 20, 8) == frozenset()
    assert d.common_shingles(["late"] * 20) == {("late",)}


def test_all_pairs_is_the_brute_force_answer():
    half = " ".join(LONG.split()[: len(LONG.split()) // 2])  # shares much, and is no duplicate
    sets = [d.shingles(text) for text in (LONG, OTHER, EDITED, LONG, half)]
    brute = {
        (a, b) for b in range(len(sets)) for a in range(b) if d.jaccard(sets[a], sets[b]) >= d.ALIKE
    }
    assert d.all_pairs(sets) == brute == {(0, 2), (0, 3), (2, 3)}


def test_finders_are_compared_on_known_pairs():
    finders = {"rensa": d.rensa_pairs, "datasketch": d.datasketch_pairs, "exact": d.all_pairs}
    results = d.compare_finders([LONG, OTHER, EDITED], [(2, 0)], finders)
    assert [(r.name, r.planted, r.found) for r in results] == [
        ("rensa", 1, 1), ("datasketch", 1, 1), ("exact", 1, 1),
    ]  # fmt: skip
    assert [r.proposed for r in results] == [1, 1, 1], "a finder that proposes all finds all"
    assert results[2].false == 0
    blind = d.compare_finders([LONG, EDITED], [(0, 1)], {"blind": lambda sets: set()})
    assert blind[0].found == 0
