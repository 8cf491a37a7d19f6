"""Rows that repeat another row, and clean rows that a clumsy filter would drop."""

import re
from random import Random

from grammar import Mail, write_mail
from intruders import luhn
from rows import ALIKE, Item, Row, mail_of, similarity, ticket_of, with_texts
from scenarios import Cases, pick_case
from voices import CLOSE, OPEN, misspell, show

GREETING = re.compile(r"^(Subject: [^\n]+\n+)?((?:Hi|Hello|Dear|Good|Hey)\b[^\n]{0,40}[,!])[ \n]")
FIXED = re.compile(r"(\x02[^\x03]*\x03)|^>.*$|[^\s\x02\x03]*\d[^\s\x02\x03]*", re.MULTILINE)
GREETINGS = ("Hello,", "Hi,", "Dear team,", "Good morning,", "Hi there,", "Dear support,")
SYNONYMS = {
    "ordered": "bought",
    "bought": "purchased",
    "arrived": "came",
    "came": "arrived",
    "Please": "Kindly",
    "Could you": "Can you",
    "Can you": "Would you",
    "I would like": "I'd like",
    "I'd like": "I would like",
    "cannot": "can't",
    "although": "even though",
    "problem": "issue",
    "received": "got",
    "got": "received",
    "broken": "damaged",
    "Thanks": "Thank you",
    "Regards": "Best wishes",
    "Best regards": "Kind regards",
    "Kind regards": "Best regards",
    "send": "ship",
    "a month": "every month",
    "wrong": "incorrect",
    "parcel": "package",
    "tell me": "let me know",
}
SYNONYM = re.compile(rf"\b(?:{'|'.join(sorted(SYNONYMS, key=len, reverse=True))})\b")
NATIVE_NAMES = (
    "王伟",
    "Ольга Петрова",
    "محمد الحداد",
    "Łukasz Żółkiewski",
    "Nguyễn Thị Hương",
    "佐藤美咲",
    "Γιώργος Παπαδάκης",
    "김서연",
    "Þórdís Ægisdóttir",
    "नीरज शर्मा",
)


def exact_copy(rng: Random, row: Row) -> Item:
    """The same mail and answer, equal after case and space normalisation."""
    mail = mail_of(row)
    form = rng.choice(("identical", "identical", "spaces", "line breaks", "capitals"))
    if form == "spaces":
        mail = re.sub(r"(?<=[a-z]{3})\. ", ".  ", mail) + " "
    elif form == "line breaks":
        mail = mail.replace("\n", "\n\n") + "\n"
    elif form == "capitals":
        mail = GREETING.sub(lambda m: (m[1] or "") + m[0][len(m[1] or "") :].upper(), mail)
    return Item(row=with_texts(row, mail=mail), note=form, of=row)


def near_copy(rng: Random, row: Row) -> Item | None:
    """The same mail with another greeting, other words and typing errors; the facts stay."""
    old, ticket = mail_of(row), ticket_of(row)
    labels = [ticket[key] for key in ("product", "customer") if ticket[key]]
    text = old
    for label in labels:
        text = text.replace(label, f"{OPEN}x{label}{CLOSE}")
    text = FIXED.sub(lambda m: m[0] if m[1] else f"{OPEN}x{m[0]}{CLOSE}", text)
    greeting = GREETING.match(text)
    if greeting:
        text = text[: greeting.start(2)] + rng.choice(GREETINGS) + text[greeting.end(2) :]
    elif not old.startswith("Subject"):
        text = f"{rng.choice(GREETINGS)}\n{text}"
    found = list(SYNONYM.finditer(text))
    for word in sorted(
        rng.sample(found, min(len(found), rng.randrange(1, 4))), key=re.Match.start, reverse=True
    ):
        text = text[: word.start()] + SYNONYMS[word[0]] + text[word.end() :]
    text = show(misspell(text, rng, 0.03))
    kept = all(label in text for label in labels)
    alike = similarity(old, text)
    if not kept or not ALIKE + 0.05 <= alike < 0.97:
        return None
    return Item(row=with_texts(row, mail=text), note=f"similarity {alike:.2f}", of=row)


def accents_and_emoji(rng: Random, row: Row) -> Item | None:
    """Accents and an emoji are no mojibake."""
    if not re.search("[^\\W\\da-zA-Z_]", mail_of(row)):
        return None
    emoji = rng.choice(("🙂", "😅🙏", "☕", "🌧️", "👍🏽", "🎉", "🤷"))
    return Item(row=with_texts(row, mail=f"{mail_of(row)} {emoji}"), note="accents and emoji")


def less_than(rng: Random, row: Row) -> Item:
    """A "<" is no HTML."""
    text = rng.choice(
        (
            "PS: I <3 your shop otherwise.",
            "PS: <3 to your colleague on the phone.",
            "(Room temperature here is > 18 and < 24 degrees, in case that matters.)",
            "PS: my rule is price < value, and so far you kept to it.",
            "I expect a waiting time < 2 weeks, as your page says.",
        )
    )
    return Item(row=with_texts(row, mail=f"{mail_of(row)}\n{text}"), note='a "<" that is no tag')


def curly_quotes(rng: Random, row: Row) -> Item | None:
    """Typographic quotes are no mojibake."""
    texts = [message["content"] for message in row["messages"]]
    if "'" not in texts[0]:
        return None
    texts[0] = re.sub(r'"([^"\n]*)"', "\u201c\\1\u201d", texts[0])
    return Item(
        row=with_texts(row, *(text.replace("'", "\u2019") for text in texts)),
        note="typographic quotes",
    )


def long_number(rng: Random, row: Row) -> Item | None:
    """An order number of 13 to 16 digits is no card number: it fails the Luhn check."""
    old = ticket_of(row)["order_id"]
    if not old:
        return None
    size = rng.choice((13, 14, 15, 16, 16))
    new = f"{rng.randrange(10 ** (size - 1), 10**size)}"
    if luhn(new):
        new = new[:-1] + str((int(new[-1]) + 1) % 10)
    texts = [
        re.sub(re.escape(old), new, message["content"], flags=re.IGNORECASE)
        for message in row["messages"]
    ]
    return Item(row=with_texts(row, *texts), note=f"order number of {size} digits, no card")


def native_name(rng: Random, row: Row) -> Item | None:
    """A name in its own script is no damage."""
    old = ticket_of(row)["customer"]
    if not old or len(old) < 5 or mail_of(row).count(old) != 1:
        return None
    texts = [message["content"].replace(old, "\0") for message in row["messages"]]
    name = rng.choice(NATIVE_NAMES)
    texts = [text.replace("\0", name) for text in texts]
    return Item(row=with_texts(row, *texts), note="name in its own script")


def same_problem(rng: Random, cases: Cases) -> tuple[Mail, Mail]:
    """Two customers with the same problem: alike (0.33 to `ALIKE`), but other facts and words."""
    while True:
        scenario, action = pick_case(rng, cases)
        mails = [write_mail(rng, scenario, action, style="plain") for _ in range(12)]
        for n, one in enumerate(mails):
            for two in mails[:n]:
                if 0.33 <= similarity(one.text, two.text) < ALIKE:
                    return one, two
