"""Rules as dicts, and the sentences that say them in a system prompt; the last wording is the test's."""

from random import Random

from dialogues import pieces

FULL = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
PRONOUN = {("formal", "de"): "Sie", ("formal", "fr"): "vous", ("formal", "es"): "usted",
           ("informal", "de"): "du", ("informal", "fr"): "tu", ("informal", "es"): "tú"}  # fmt: skip
FILLERS = {
    "en": ["please", "help", "thank", "sure", "glad", "sorry", "welcome", "course", "question", "happy"],
    "de": ["gerne", "danke", "helfen", "natürlich", "leider", "Fragen", "Hilfe", "klar"],
    "fr": ["merci", "volontiers", "aider", "désolé", "question", "plaisir", "bien"],
    "es": ["gracias", "gusto", "ayudar", "siento", "preguntas", "claro", "pregunta"],
}
MARKERS = ["[END]", "[OK]", "<done>", "(desk)", "//", "+++", "Over.", "[READY]", "~fin"]
TEST_MARKERS = ["[CLOSED]", "<stop>", "(office)", "Done.", "==="]
STARTS = {
    "en": ["Good day", "Hello", "Dear guest", "Well then"],
    "de": ["Guten Tag", "Hallo", "Also gut"],
    "fr": ["Bonjour", "Bien reçu", "Cher client"],
    "es": ["Buenos días", "Hola", "Muy bien"],
}
TEST_STARTS = {"en": ["Greetings", "Noted"], "de": ["Grüß Gott"], "fr": ["Enchanté"], "es": ["Saludos"]}
WORDINGS = {
    "language": ["Reply only in {x}.", "Always answer in {x}.", "All replies must be in {x}.",
                 "Write every answer in {x}, whatever the user writes."],
    "max_words": ["Use at most {x} words per reply.", "Keep every reply to {x} words or fewer.",
                  "No reply may be longer than {x} words.", "Never write more than {x} words."],
    "sentences": ["Reply in exactly {x}.", "Every reply is exactly {x}.", "Give each answer as exactly {x}."],
    "forbidden": ["Never use {x}.", "Do not say {x}.", "Forbidden: {x}.", "Avoid {x} completely."],
    "end": ['Sign every reply with "– {x}".', 'End every reply with your name: "– {x}".',
            'Your name is {x}; put "– {x}" at the end of each reply.'],
    "start": ["Your name is {x}. Begin every reply with your name.",
              "You are {x} and say your name first in every reply.",
              "Open each reply by giving your name, {x}."],
    "ends_with": ['End every reply with "{x}".', 'The last thing in every reply is "{x}".', 'Close each reply with "{x}".'],
    "starts_with": ['Start every reply with "{x}".', 'The first words of every reply are "{x}".',
                    'Open each reply with "{x}".'],
    "bullets": ['Reply with a list of at least two bullets, each starting with "- ".',
                'Reply only in bullet points ("- "), at least two.',
                'Every line of a reply is a bullet "- ", two or more.'],
    "case": ["Write only in lower case.", "Use no capital letters.", "Never write a capital letter."],
    "refusal": ["Do not talk about {x}; say politely that you cannot. Answer everything else.",
                "If asked about {x}, decline politely, but answer all other questions.",
                "Politely refuse requests about {x}, and only those."],
    "exclamation": ["Never use exclamation marks.", "Stay calm: no exclamation marks.",
                    "Exclamation marks are not allowed."],
    "contractions": ['Do not use contractions such as "it\'s".', "Write out every word: no contractions.",
                     'Contractions like "I\'m" are not allowed.'],
    "address": ["In every reply, address the user with the {x}.", "Use the {x} in every reply.",
                "Every reply must contain the {x}."],
}  # fmt: skip


def draw(kind: str, language: str, split: str, topic: str, words: list[str], rng: Random) -> dict:
    """One rule of a family; `words` are content words of the user that may be forbidden."""
    test = split == "test"
    if kind == "language":
        return {"kind": kind, "language": language}
    if kind == "length":
        choice = rng.choice([8, 10, 12, 12, 15, 18, "one", "one", "two"])
        return {"kind": kind, "max_words": choice} if isinstance(choice, int) else {
            "kind": kind, "sentences": {"one": 1, "two": 2}[choice]}  # fmt: skip
    if kind == "forbidden":
        chosen = rng.sample(FILLERS[language], rng.choice([1, 2]))
        if words and rng.random() < 0.6:
            chosen = [*chosen[:1], rng.choice(words)]
        return {"kind": kind, "words": chosen}
    if kind == "persona":
        name = rng.choice(pieces.pool("persona", split))
        return {"kind": kind, "name": name, "where": rng.choice(["end", "start"])}
    if kind == "format":
        form = rng.choice(["ends_with", "ends_with", "starts_with", "bullets", "case"])
        marks, starts = (TEST_MARKERS, TEST_STARTS) if test else (MARKERS, STARTS)
        value = {"ends_with": rng.choice(marks), "starts_with": rng.choice(starts[language]),
                 "bullets": 2, "case": "lower"}[form]  # fmt: skip
        return {"kind": kind, form: value}
    if kind == "refusal":
        return {"kind": kind, "topic": topic}
    if language == "en":
        return {"kind": kind, "no": rng.choice(["exclamation", "contractions"])}
    if rng.random() < 0.35:
        return {"kind": kind, "no": "exclamation"}
    return {"kind": kind, "address": rng.choice(["formal", "formal", "informal"]), "language": language}


def sentence(rule: dict, split: str, rng: Random) -> str:
    """How a system prompt says the rule."""
    kind = rule["kind"]
    if kind == "language":
        key, x = kind, FULL[rule["language"]]
    elif kind == "length":
        key = "max_words" if "max_words" in rule else "sentences"
        x = rule.get("max_words") or {1: "one sentence", 2: "two sentences"}[rule["sentences"]]
    elif kind == "forbidden":
        quoted = [f'"{word}"' for word in rule["words"]]
        key, x = kind, ("the word " if len(quoted) == 1 else "the words ") + " and ".join(quoted)
    elif kind == "persona":
        key, x = rule["where"], rule["name"]
    elif kind == "format":
        key, x = next((k, v) for k, v in rule.items() if k != "kind")
    elif kind == "refusal":
        key, x = kind, rule["topic"]
    elif "no" in rule:
        key, x = rule["no"], ""
    else:
        key, x = "address", f'{rule["address"]} "{PRONOUN[rule["address"], rule["language"]]}"'
    options = WORDINGS[key]
    if split == "test" and rng.random() < 0.5:
        return options[-1].format(x=x)
    return rng.choice(options[:-1]).format(x=x)
