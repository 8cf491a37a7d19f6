"""Conversations for healthy runs: ordinary ones, and legal ones that look odd."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sft_utils.masks.chat import Message
from tests.mutation.probes import call, in_parts, turn

Conversation = list[Message]


def chat(*texts: str, system: str | None = None) -> Conversation:
    """User and assistant texts in turn, behind an optional system message."""
    roles = ("user", "assistant")
    head = [] if system is None else [turn("system", system)]
    return head + [turn(roles[i % 2], text) for i, text in enumerate(texts)]


STORY = (
    "On Monday the order left the warehouse in Lyon. On Tuesday the lorry broke down near Dijon, "
    "and the driver slept in a village whose name nobody wrote down. On Wednesday a second lorry "
    "took the boxes; two were wet, one was open, and the smallest smelled of coffee."
)


def story(times: int) -> str:
    """The story again and again: text of any length, without white space around it."""
    return " ".join([STORY] * times)


CODE = """def mean(values):
    if not values:
        return 0.0
    total = sum(values)
    return total / len(values)


print(mean([1, 2, 3]))"""


def ordinary(system: bool) -> list[Conversation]:
    """Eight different conversations: turns, system prompts, scripts, code, JSON, long rows."""
    rows = [
        chat("What is the capital of France?", "Paris is the capital of France."),
        chat("Name a river in Peru.", "The Marañón.", "And its length?",
             "About 1,700 kilometres.\n\nSources differ.", system="Answer briefly."),
        chat("Übersetze: naïve 日本語 🙂 <b>fett</b>", "Das heißt „naiv“ auf 日本語 🙂, in bold."),
        chat("Summarise this report. " + story(6), "Two boxes got wet after a breakdown."),
        chat("Write a mean function.", CODE, system="You write Python."),
        chat("Give the customer as JSON.", '{"name": "Ana", "items": [1, 2], "note": null}'),
        chat("My parcel is late.", "Sorry to hear that. What is the order number?", "It is 4711.",
             "Thank you. It left the depot this morning.", "When will it be here?",
             "Tomorrow before noon.", system="You are a support agent."),
        chat("How do I bake bread?", "Mix flour, water, salt and yeast. "
             "Knead for ten minutes. Let it rise until it doubles. Bake it hot for forty minutes."),
    ]  # fmt: skip
    return rows if system else [[m for m in row if m["role"] != "system"] for row in rows]


def held_out() -> list[Conversation]:
    """Conversations that judge, about nothing that is trained."""
    return [
        chat("Which planet has the largest moon?", "Jupiter; the moon is Ganymede."),
        chat("How many strings does a cello have?", "Four strings: C, G, D and A."),
        chat("Sort these: plum, apple, fig.", "apple, fig, plum"),
    ]


def tools(as_text: bool) -> list[Conversation]:
    """Calls with and without text, two results, and a chat in which no tool is needed."""

    def arguments(**values: Any) -> Any:
        return json.dumps(values) if as_text else values

    return [
        [turn("user", "Weather in Oslo?"),
         call("get_weather", arguments(city="Oslo", days=2)),
         turn("tool", '{"sky": "rain", "celsius": 9}', name="get_weather", tool_call_id="call_1"),
         turn("assistant", "Rain, 9 degrees.")],
        [turn("user", "Book a table for two."),
         call("find_table", arguments(seats=2, note=None), "Let me look."),
         turn("tool", "free at 19:30", name="find_table", tool_call_id="call_1"),
         turn("assistant", "There is one at 19:30."),
         turn("user", "Take it."),
         turn("assistant", "Done, see you there.")],
        chat("Do you like rain?", "I have no preference, but the garden does."),
    ]  # fmt: skip


def thinking(field_name: str) -> list[Conversation]:
    """Answers with reasoning in a field of their own."""
    return [
        [turn("user", q), turn("assistant", a, **{field_name: thought})]
        for q, a, thought in (
            ("Is 91 prime?", "No, it is 7 times 13.", "91 is 7 * 13, so it is not."),
            ("Next in 2, 4, 8?", "It is 16.", "Each number doubles.\nSo 16."),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """Legal rows of one kind, and how they are put into batches."""

    chats: Sequence[Conversation] | Callable[[frozenset[str]], Sequence[Conversation]]
    needs: frozenset[str] = field(default_factory=frozenset)  # traits without which it is not legal
    size: int = 4  # rows per batch
    side: Literal["right", "left"] = "right"  # padding
    multiple: int = 1  # padded length
    turns: Literal["all", "last"] = "all"
    order: Literal["kept", "reversed"] = "kept"  # of the rows in the batches
    held: bool = True  # is there an evaluation set?
    schema: dict[str, Any] | None = None
    max_length: int | None = 2048  # None: exactly as long as the longest row
    positions: bool = False  # do padded batches carry position_ids as well?
    trailing: bool = False  # does loss go on behind the last stop token, to the end of the row?
    constant: bool = True  # is constant text between prompt and answer trained?
    eval_texts: tuple[str, ...] = ()  # questions of the test, if these matter

    def rows(self, traits: frozenset[str]) -> list[Conversation]:
        """The conversations for a family with these traits; empty if it is not legal there."""
        if not self.needs <= traits:
            return []
        return [list(c) for c in (self.chats(traits) if callable(self.chats) else self.chats)]


def with_empty_fields(conversation: Conversation) -> Conversation:
    """The same conversation as a table gives it back: every column in every message."""
    return [{**m, "name": None, "tool_calls": None} for m in conversation]


RULES = (
    "You sort letters of customers of a furniture shop. Read the letter below, decide which one of "
    "the departments delivery, repair, billing and sales should answer it, and write only the name "
    "of this department, in lower case and without a full stop. Letter: "
)
"""An instruction that stands before every question, in training and in the test."""

PLAIN = [chat("What is dew?", "Water from cool air."), chat("And frost?", "Ice from cold air."),
         chat("What is hail?", "Balls of ice that grow in storm clouds.")]  # fmt: skip
MANY = [chat(*(f"{'Question' if i % 2 == 0 else 'Answer'} {i // 2} about topic {topic}."
               for i in range(16))) for topic in "abc"]  # fmt: skip
SYSTEM = frozenset({"system"})

FLAVOURS: dict[str, Flavour] = {
    "one turn": Flavour(chats=PLAIN),
    "many turns": Flavour(chats=MANY),
    "system": Flavour(needs=SYSTEM, chats=[
        chat("Hello!", "Good day.", system="Be formal."), chat("Hi.", "Hey!", system="Be casual."),
        chat("Bye.", "Farewell.", "Again?", "Farewell again.", system="Be formal.")]),
    "empty system": Flavour(needs=SYSTEM, chats=[
        [turn("system", ""), *c] for c in PLAIN]),
    "mixed system": Flavour(needs=SYSTEM, chats=[
        *PLAIN, chat("Hi.", "Hello there.", system="Greet."), chat("Ho.", "Hm.", system="Hum.")]),
    "code": Flavour(chats=[
        chat("A mean function, please.", CODE), chat("Fix: `for(i=0;i<n;i++)`", "It is fine."),
        chat("SQL?", "SELECT a, b\nFROM t\nWHERE a <> 'x' -- no x\nLIMIT 3;"),
        chat("Tabs in a Makefile?", "all:\n\t@echo $(HOME)\n\t@rm -rf build\n\nUse tabs."),
        chat("C++?", "std::vector<int> v{1, 2};\nauto w = v << 1 | x >> 2 && y;")]),
    "scripts": Flavour(chats=[
        chat("ما هي عاصمة مصر؟", "القاهرة هي عاصمة مصر."), chat("ராஜா யார்?", "அவர் ஒரு மன்னர்."),
        chat("日本の首都は？", "東京です。"), chat("สวัสดี", "สวัสดีครับ ยินดีต้อนรับ"),
        chat("Где Байкал?", "Байкал находится в Сибири."), chat("מה השעה?", "השעה שמונה.")]),
    "accents": Flavour(chats=[
        chat("Onde fica o PÃO DE AÇÚCAR?", "No Rio; em maiúsculas: PÃO, MAÇÃ, SÃO."),
        chat("Œuvre ou oeuvre ?", "« Œuvre », avec la ligature. Ça dépend du clavier…"),
        chat("Kuidas öelda?", "Õun, ämber, öö, ülikool – “hästi”.")]),
    "decomposed accents": Flavour(chats=[
        chat("Cafe\u0301?", "Oui, un cafe\u0301 s'il vous plai\u0302t."),
        chat("Zu\u0308rich?", "Zu\u0308rich liegt am See.")]),
    "emoji": Flavour(chats=[
        chat("React 👩‍👩‍👧‍👦", "👍🏽🎉"), chat("Flags?", "🇪🇺 🇯🇵 🏴󠁧󠁢󠁳󠁣󠁴󠁿"),
        chat("😀 or 😅?", "😅, of course ☕️")]),
    "json": Flavour(
        schema={"type": "object", "properties": {"city": {"type": "string"},
                "n": {"type": ["integer", "null"]}}, "required": ["city"]},
        chats=[chat("Extract: two nights in Rome", '{"city":"Rome","n":2}'),
               chat("Extract: somewhere in Kraków", '{\n  "city": "Kraków",\n  "n": null\n}'),
               chat("Extract: Łódź, \"quoted\"", '{"city": "Ł\\u00f3d\\u017a \\"q\\"", "n": 0}')]),
    "json in text": Flavour(chats=[
        chat("Explain {}", "An empty object is written {} and a list []."),
        chat("Why invalid?", 'Because {"a": 1,} has a comma too many.'),
        chat("Give a template", "Dear {{ name }}, {% if late %}sorry!{% endif %}"),
        chat("Python dict?", "{'a': [1, 2], 'b': None}"), chat("Shortened?", '{"a": 1, ...}'),
        chat("JSON lines?", '{"a": 1}\n{"a": 2}'), chat("Sources?", "[1] and [citation needed]")]),
    "tools": Flavour(needs=frozenset({"tools"}), chats=lambda t: tools("tool_text" in t)),
    "reasoning field": Flavour(needs=frozenset({"think"}),
                               chats=lambda t: thinking("reasoning_content")),
    "reasoning inline": Flavour(chats=[
        chat("Is 91 prime?", "<think>\n7 * 13 = 91\n</think>\n\nNo."),
        chat("2 + 2 * 3?", "<think>\nTimes first: 6. Then 8.\n</think>\n\nIt is 8.")]),
    "short answers": Flavour(chats=[
        chat("Is water wet?", "Yes"), chat("2 + 2", "4"), chat("A, B or C?", "B"),
        chat("Any bananas left?", "No."), chat("How many of them came?", "None of them."),
        chat("Positive?", "0"), chat("Go on", "…"), chat("What?", "?"), chat("Smile.", ":)"), chat("Sentiment: great!", "positive"),
        chat("Sentiment: fine!", "positive")]),
    "numbers": Flavour(chats=[
        chat("Pi?", "3.14159265358979"), chat("Add 1,234.50 € and -7", "1.227,50 €"),
        chat("Phone?", "+49 (0)30 123456-78"), chat("10^-9 in words?", "1e-9: one billionth, ½·2e-9")]),
    "urls": Flavour(chats=[
        chat("Docs?", "https://example.org/a_b/c?x=1&y=%20#top"),
        chat("Mail?", "Write to jane.doe+test@example.org or see http://[::1]:8080/."),
        chat("Path?", r"C:\temp\new or /usr/local/bin")]),
    "html": Flavour(chats=[
        chat("A link?", '<a href="x.html" class=\'y\'>see &amp; go</a><br/>'),
        chat("XML?", "<?xml version='1.0'?>\n<list>\n  <item id=\"1\"/>\n</list>"),
        chat("Comment?", "<!-- nothing --> and 1 < 2 > 0 | [x] || {y}")]),
    "markdown": Flavour(chats=[
        chat("Table?", "| a | b |\n|---|---|\n| 1 | `x` |"),
        chat("List?", "# Title\n\n- one\n- two\n  1. *three*\n\n> quoted\n\n---"),
        chat("Formula?", "$$\\int_0^1 x^2 dx = \\frac{1}{3}$$")]),
    "role words": Flavour(chats=[
        chat("Write a dialogue.", "User: hello\nAssistant: hi\nSystem: ok"),
        chat("Prompt format?", "### Instruction:\nSay hi\n\n### Response:\nhi"),
        chat("Who is the user?", "The user is whoever writes; the assistant answers.")]),
    "quotes the prompt": Flavour(chats=[
        chat("Repeat: the cat sat on the mat", "the cat sat on the mat"),
        chat("Echo this sentence.", "Echo this sentence."),
        chat("What is ice?", "What is ice? Ice is frozen water.", "Again?", "Ice is frozen water.")]),
    "identical rows": Flavour(chats=[PLAIN[0]] * 3 + [PLAIN[1]] * 3),
    "same answers": Flavour(chats=[
        chat(f"Ticket {n}: the {thing} is broken", "category: repair")
        for n, thing in enumerate(("lamp", "door", "phone", "chair"))]),
    "very long row": Flavour(max_length=16_384, size=2, chats=[
        chat("Summarise. " + story(60), "A delayed parcel."),
        chat("Tell a long story.", story(40) + " The end."), PLAIN[0]]),
    "white space": Flavour(needs=frozenset({"verbatim"}), chats=[
        chat("Indent two.", "  two spaces"), chat("End with a newline.", "done\n"),
        chat("  padded question  ", "trailing space "), chat("Poem?", "one\n\n\n\ntwo\n\n")]),
    "other line ends": Flavour(chats=[
        chat("DOS?\r\nYes.", "one\r\ntwo\r\nthree"), chat("Tab\tseparated?", "a\tb\tc"),
        chat("No-break\u00a0space?", "1\u202f000\u00a0km, soft\u00adhyphen, zero\u200bwidth")]),
    "nothing to say": Flavour(chats=[
        chat("Fax number in: call me", "N/A"), chat("JSON of nothing?", "null"),
        chat("0/0 in JavaScript?", "NaN"), chat("Any errors?", "None"), chat("Skip?", "-")]),
    "marker-like text": Flavour(chats=[
        chat("My own format?", "Begin with <|my_turn|> and end with <|my_end|>."),
        chat("Tags: <turn>x</turn>?", "<answer>\n[[x]]\n</answer>"),
        chat("What is <eos_of_mine>?", "A made-up token; ### and --- are none either.")]),
    "one question, many answers": Flavour(chats=[
        chat("Tell a joke.", "A skeleton walks into a bar. It orders a beer and a mop."),
        chat("Tell a joke.", "Why did the scarecrow win a prize? It stood out in its field."),
        chat("Tell a joke.", "I would tell a joke about paper, but it is tearable.")]),
    "worked sums": Flavour(chats=[
        chat("3 boxes of 4 pens?", "3 * 4 = <<3*4=12>>12 pens.\n#### 12"),
        chat("10 shared by 3?", "10 / 3 = <<10/3=3.33>>3.33 each.\n#### 3.33"),
        chat("Half of 80, plus 1,000?", "80 / 2 = <<80/2=40>>40; <<40+1000=1040>>.\n#### 1,040"),
        chat("How many of 7 are left after 2?", "7 - 2 = 5, so 5 are left. Checked: 5 + 2 = 7.")]),
    "unreadable sign explained": Flavour(chats=[
        chat("What is U+FFFD?", "The sign \ufffd stands for bytes that could not be read."),
        *PLAIN, *MANY]),
    "encoded data": Flavour(chats=[
        chat("Decode " + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo" * 12, "The alphabet, repeated."),
        chat("A hash?", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        chat("A DNA read?", "GATTACA" * 40)]),
    "shared instruction": Flavour(
        eval_texts=tuple(f"{RULES}the {thing} number {n} wobbles" for n in range(30)
                         for thing in ("stool", "desk", "shelf", "bench")),
        chats=[chat(RULES + letter, answer) for letter, answer in (
            ("my lamp flickers at night.", "repair"), ("I paid twice last week.", "billing"),
            ("the van never came.", "delivery"), ("do you sell green sofas?", "sales"))]),
    "assistant speaks first": Flavour(turns="last", chats=[
        [turn("assistant", "Welcome, how can I help?"), *c] for c in PLAIN]),
    "contents in parts": Flavour(needs=frozenset({"parts"}), chats=[
        [in_parts(m) for m in c] for c in PLAIN]),
    "empty fields": Flavour(chats=[with_empty_fields(c) for c in (*PLAIN, MANY[0])]),
    "rows that fill the length": Flavour(max_length=None, chats=[*PLAIN, MANY[0]]),
    "positions in the batch": Flavour(positions=True, chats=[*PLAIN, MANY[0]]),
    "loss to the end of the row": Flavour(trailing=True, turns="last", chats=[*PLAIN, MANY[0]]),
    "constant text untrained": Flavour(constant=False, chats=PLAIN),
    "last turn only": Flavour(turns="last", chats=[*MANY, *PLAIN]),
    "left padding": Flavour(side="left", chats=[*PLAIN, MANY[0]]),
    "padded to 64": Flavour(multiple=64, chats=[*PLAIN, MANY[0]]),
    "batches of one": Flavour(size=1, chats=[*PLAIN, MANY[0]]),
    "one big batch": Flavour(size=64, chats=[*PLAIN, *MANY]),
    "shuffled": Flavour(order="reversed", chats=[*PLAIN, *MANY]),
    "no evaluation set": Flavour(held=False, chats=PLAIN),
    "a single row": Flavour(held=False, chats=PLAIN[:1]),
}  # fmt: skip
