"""Things that should not be in a training mail: personal data, and pages of pasted text."""

from random import Random

from lexicon import MISC, pick_person
from rows import Item, Row, mail_of, with_texts

MAIL_HOSTS = ("example.org", "example.com", "mail.example.net", "post.example")
NEWSLETTER = (
    "This week in our shop: new colours for the terrace and a warm soup for your lunch break.",
    "Members collect double points on everything that is made of wood, clay or linen.",
    "Our workshop team shows you how to sharpen a kitchen knife without cutting your sofa.",
    "The reader's photo of the month comes from a balcony with more tomatoes than neighbours.",
    "Have you met our plant doctor? She answers letters about yellow leaves and sad ferns.",
    "Three recipes with beetroot, and one for people who would rather not.",
    "Free shipping returns with the swallows; the small print is printed small below.",
    "Our customers ask and we answer: why is the manual folded like a map of the Alps?",
    "A walk along the old harbour, with stops for cake, is the tip of our colleague Henrik.",
    "The autumn catalogue weighs as much as a cat and is just as comfortable to hold.",
    "Lost a screw? Our spare parts drawer has become a website with four thousand pictures.",
    "Read how a family of five lives with one charger, and what they have learnt from it.",
    "You receive this letter because you said yes in a box that was not ticked in advance.",
    "To leave the list, follow the link at the end, or simply look away.",
)
LEGAL = (
    "The information in this message is confidential and meant for the addressee alone.",
    "If you are not the addressee, please delete the message and forget what you have read.",
    "Opinions in this mail are those of the writer and not necessarily of the organisation.",
    "No contract is concluded by electronic mail unless both parties confirm it on paper.",
    "The organisation accepts no liability for damage caused by attachments or by their lack.",
    "Although this message was scanned, nobody can promise that it is free of malicious parts.",
    "The place of jurisdiction is the registered office, as far as the law permits.",
    "Should one provision be void, the others remain as they are and the void one is replaced.",
    "Personal particulars are processed to answer enquiries and are erased when that is done.",
    "The processing rests on legitimate interest, which has been weighed with due care.",
    "You may object at any time, with effect for the future and without giving reasons.",
    "Consider the forest before you print this mail, and the reader before you forward it.",
    "Nothing herein is advice of a legal, fiscal or medical nature.",
    "The managing directors are entered in the commercial register of the named court.",
)
LOG_WORDS = (
    "sync started",
    "cache miss, reading from disk",
    "retrying after timeout",
    "worker idle",
    "handshake ok",
    "queue empty",
    "checksum matches",
    "sensor read",
    "connection reset by peer",
    "flushing buffer",
    "no route, waiting",
    "firmware block written",
    "watchdog fed",
    "low memory, trimming",
)


def over_long(rng: Random, row: Row) -> Item:
    """A mail of 700 to 2,000 words: a log, a newsletter or a legal footer was pasted below it."""
    note = rng.choice(("pasted log", "pasted newsletter", "legal footer"))
    goal = rng.randrange(700, 1900)
    parts = [mail_of(row), "", "-- "]
    count = len(mail_of(row).split())
    clock = 0
    while count < goal:
        if note == "pasted log":
            clock += rng.randrange(1, 90)
            level = rng.choice(("INFO", "DEBUG", "WARN"))
            line = f"[+{clock}s] {level} unit{rng.randrange(9)}: {rng.choice(LOG_WORDS)}"
        elif note == "pasted newsletter":
            line = rng.choice(NEWSLETTER) + rng.choice(("", "", f" ({rng.choice(MISC['cities'])})"))
        else:
            line = f"{len(parts) - 2}. {rng.choice(LEGAL)}"
        parts.append(line)
        count += len(line.split())
    return Item(row=with_texts(row, mail="\n".join(parts)), note=f"{note}, {count} words")


def personal_data(rng: Random, row: Row) -> Item:
    """A mail that gives away an invented address, phone number, account or card number."""
    note = rng.choice(("e-mail address", "phone number", "IBAN", "card number"))
    text = {
        "e-mail address": _address,
        "phone number": _phone,
        "IBAN": _iban,
        "card number": _card,
    }[note](rng)
    return Item(row=with_texts(row, mail=f"{mail_of(row)}\n{text}"), note=note)


def _address(rng: Random) -> str:
    first, *_, last = pick_person(rng).name.split() * 2
    ascii_name = f"{first}.{last}".encode("ascii", "ignore").decode().lower().strip(".-'")
    address = f"{ascii_name}{rng.randrange(10, 99)}@{rng.choice(MAIL_HOSTS)}"
    return rng.choice(("Write to {}", "My mail: {}", "You reach me at {}.", "{}")).format(address)


def _phone(rng: Random) -> str:
    """Numbers from ranges that are kept free for fiction."""
    number = rng.choice(
        (
            f"+44 7700 900{rng.randrange(1000):03}",
            f"+1 (212) 555-01{rng.randrange(100):02}",
            f"030 23125 {rng.randrange(1000):03}",
            f"+33 1 99 00 {rng.randrange(100):02} {rng.randrange(100):02}",
        )
    )
    return rng.choice(("Call me: {}", "Tel. {}", "My number is {}.", "Mobile {}")).format(number)


def _iban(rng: Random) -> str:
    """An account at a bank that does not exist, with the right check digits."""
    country, bank = rng.choice((("DE", "00000000"), ("GB", "TEST000000"), ("NL", "TEST")))
    account = f"{rng.randrange(10**8):0{8 if country == 'GB' else 10}}"
    digits = "".join(str(int(c, 36)) for c in bank + account + country + "00")
    iban = f"{country}{98 - int(digits) % 97:02}{bank}{account}"
    if rng.random() < 0.6:
        iban = " ".join(iban[n : n + 4] for n in range(0, len(iban), 4))
    return rng.choice(("Please pay to {}", "IBAN {}", "My account is {}.")).format(iban)


def _card(rng: Random) -> str:
    """A card number of a test range that passes the Luhn check."""
    start = f"400000{rng.randrange(10**9):09}"
    number = next(start + last for last in "0123456789" if luhn(start + last))
    if rng.random() < 0.6:
        number = " ".join(number[n : n + 4] for n in range(0, 16, 4))
    return rng.choice(("Paid with card {}", "My card: {}", "Card no. {}")).format(number)


def luhn(digits: str) -> bool:
    """Whether a number passes the check of payment cards.

    Example:
        >>> luhn("4000000000000002"), luhn("4000000000000003")
        (True, False)
    """
    total = 0
    for n, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + n % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0
