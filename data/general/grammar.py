"""Minimal pairs: two sentences that differ in one point of grammar; only one of them is right."""

import random
from collections.abc import Callable
from functools import partial

Pair = tuple[str, str]  # (right, wrong)

PEOPLE = [
    ("teacher", "teachers"), ("doctor", "doctors"), ("farmer", "farmers"), ("student", "students"),
    ("neighbour", "neighbours"), ("singer", "singers"), ("driver", "drivers"), ("nurse", "nurses"),
    ("tourist", "tourists"), ("lawyer", "lawyers"), ("painter", "painters"), ("sailor", "sailors"),
    ("child", "children"), ("woman", "women"), ("man", "men"), ("guest", "guests"),
]  # fmt: skip
THINGS = [
    ("book", "books"), ("letter", "letters"), ("key", "keys"), ("picture", "pictures"),
    ("bottle", "bottles"), ("chair", "chairs"), ("ticket", "tickets"), ("flower", "flowers"),
    ("box", "boxes"), ("knife", "knives"), ("shirt", "shirts"), ("map", "maps"),
    ("coin", "coins"), ("cup", "cups"), ("lamp", "lamps"), ("basket", "baskets"),
]  # fmt: skip
PLACES = ["in the garden", "at the station", "behind the house", "in the kitchen", "at the market",
          "in the office", "on the beach", "at school", "near the river", "in the library"]  # fmt: skip
ATTRACTORS = ["from the villages", "with the red bags", "near the tall trees", "of my brothers",
              "behind the cars", "with two dogs", "from the big cities"]  # fmt: skip
SINGLE_ATTRACTORS = ["from the village", "with the red bag", "near the tall tree", "of my brother",
                     "behind the car", "with the dog", "from the big city"]  # fmt: skip
# base form, third person, past, participle, -ing
VERBS = [
    ("sing", "sings", "sang", "sung", "singing"), ("swim", "swims", "swam", "swum", "swimming"),
    ("work", "works", "worked", "worked", "working"), ("wait", "waits", "waited", "waited", "waiting"),
    ("sleep", "sleeps", "slept", "slept", "sleeping"), ("laugh", "laughs", "laughed", "laughed", "laughing"),
    ("read", "reads", "read", "read", "reading"), ("eat", "eats", "ate", "eaten", "eating"),
    ("dance", "dances", "danced", "danced", "dancing"), ("run", "runs", "ran", "run", "running"),
    ("smile", "smiles", "smiled", "smiled", "smiling"), ("speak", "speaks", "spoke", "spoken", "speaking"),
]  # fmt: skip
# past, participle, an object that fits
IRREGULAR = [
    ("wrote", "written", "a long letter"), ("broke", "broken", "the old window"), ("ate", "eaten", "the whole cake"),
    ("drove", "driven", "the new bus"), ("took", "taken", "the last ticket"), ("chose", "chosen", "the blue dress"),
    ("stole", "stolen", "a silver ring"), ("forgot", "forgotten", "the house key"), ("saw", "seen", "the famous film"),
    ("gave", "given", "a good answer"), ("sang", "sung", "an old song"), ("drank", "drunk", "all the milk"),
    ("began", "begun", "the difficult work"), ("wore", "worn", "a warm coat"), ("drew", "drawn", "a small map"),
    ("grew", "grown", "some tomatoes"),
]  # fmt: skip
NAMES = [("Anna", "she"), ("Tom", "he"), ("Maria", "she"), ("Peter", "he"), ("Susan", "she"),
         ("David", "he"), ("Laura", "she"), ("Paul", "he"), ("Emma", "she"), ("Robert", "he")]  # fmt: skip
ADJECTIVES = ["tall", "old", "strong", "young", "rich", "small", "fast", "kind"]
LONG_ADJECTIVES = ["beautiful", "expensive", "difficult", "comfortable", "important", "dangerous"]
COUNTED = ["apples", "friends", "questions", "tickets", "houses", "mistakes", "chairs", "children"]
UNCOUNTED = ["water", "money", "bread", "rice", "milk", "time", "sugar", "luggage"]
VOWEL = ["apple", "orange", "egg", "umbrella", "island", "onion", "engine", "answer", "owl", "idea"]
CONSONANT = ["banana", "lemon", "bridge", "pencil", "mirror", "garden", "ticket", "dog", "spoon"]


def _cap(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in "?." else ".")


def _pair(good: str, bad: str) -> Pair:
    return _cap(good), _cap(bad)


def agreement(r: random.Random) -> Pair:
    one, many = r.choice(PEOPLE)
    base, third, *_ = r.choice([v for v in VERBS if v[0] != "read"])  # "read" may be a past form
    place = r.choice(PLACES)
    if r.random() < 0.5:
        return _pair(f"the {one} {third} {place} every day", f"the {one} {base} {place} every day")
    return _pair(f"the {many} {base} {place} every day", f"the {many} {third} {place} every day")


def agreement_far(r: random.Random) -> Pair:
    one, many = r.choice(PEOPLE)
    adjective = r.choice(["tired", "late", "hungry", "happy", "ill", "angry", "ready", "famous"])
    if r.random() < 0.5:
        return _pair(*(f"the {one} {r_} {v} {adjective}" for r_ in [r.choice(ATTRACTORS)] for v in ("is", "are")))
    rest = r.choice(SINGLE_ATTRACTORS)
    return _pair(*(f"the {many} {rest} {v} {adjective}" for v in ("are", "is")))


def agreement_relative(r: random.Random) -> Pair:
    one, many = r.choice(PEOPLE)
    verb = r.choice(["know", "like", "see", "visit", "help"])
    adjective = r.choice(["old", "friendly", "famous", "rich", "quiet", "clever"])
    if r.random() < 0.5:
        return _pair(*(f"the {one} that the {r_} {verb} {v} {adjective}"
                       for r_ in [r.choice([p for _, p in PEOPLE if p != many])] for v in ("is", "are")))  # fmt: skip
    other = r.choice([p for p, _ in PEOPLE if p != one])
    return _pair(*(f"the {many} that the {other} {verb}s {v} {adjective}" for v in ("are", "is")))


def determiner(r: random.Random) -> Pair:
    one, many = r.choice(THINGS)
    name = r.choice(NAMES)[0]
    verb = r.choice(["found", "bought", "sold", "cleaned", "wanted", "painted"])
    if r.random() < 0.5:
        right, wrong = r.choice([("this", "these"), ("that", "those")])
        return _pair(f"{name} {verb} {right} {one}", f"{name} {verb} {wrong} {one}")
    right, wrong = r.choice([("these", "this"), ("those", "that"), ("many", "every"), ("two", "a")])
    return _pair(f"{name} {verb} {right} {many}", f"{name} {verb} {wrong} {many}")


def reflexive(r: random.Random) -> Pair:
    verb = r.choice(["hurt", "saw", "washed", "blamed", "introduced", "cut"])
    where = r.choice(["yesterday", "in the mirror", "again", "last night"]) if verb == "saw" else "yesterday"
    kind = r.randrange(3)
    name, pronoun = r.choice(NAMES)
    if kind == 0:
        right, wrong = ("himself", "herself") if pronoun == "he" else ("herself", "himself")
        return _pair(f"{name} {verb} {right} {where}", f"{name} {verb} {wrong} {where}")
    if kind == 1:
        many = r.choice(PEOPLE)[1]
        wrong = r.choice(["himself", "itself", "herself"])
        return _pair(f"the {many} {verb} themselves {where}", f"the {many} {verb} {wrong} {where}")
    subject, right, wrong = r.choice([("I", "myself", "herself"), ("we", "ourselves", "themselves"), ("they", "themselves", "ourselves")])
    return _pair(f"{subject} {verb} {right} {where}", f"{subject} {verb} {wrong} {where}")


def participle(r: random.Random) -> Pair:
    past, done, thing = r.choice(IRREGULAR)
    name = r.choice(NAMES)[0]
    if r.random() < 0.5:
        return _pair(f"{name} has {done} {thing}", f"{name} has {past} {thing}")
    return _pair(f"yesterday {name} {past} {thing}", f"yesterday {name} {done} {thing}")


def pronoun_case(r: random.Random) -> Pair:
    subject, obj = r.choice([("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")])
    if r.random() < 0.5:
        done, thing = r.choice([(x, t) for x, _, t in IRREGULAR])
        return _pair(f"{subject} {done} {thing}", f"{obj} {done} {thing}")
    verb = r.choice(["called", "helped", "visited", "invited", "thanked", "saw", "met"])
    person = r.choice(PEOPLE)[0]
    return _pair(f"the {person} {verb} {obj} yesterday", f"the {person} {verb} {subject} yesterday")


def question(r: random.Random) -> Pair:
    person = r.choice(PEOPLE)[0]
    verb = r.choice(VERBS)
    place = r.choice(PLACES)
    kind = r.randrange(3)
    if kind == 0:
        return _pair(f"does the {person} {verb[0]} {place}?", f"does the {person} {verb[1]} {place}?")
    if kind == 1:
        word = r.choice(["where", "when", "why"])
        return _pair(f"{word} did the {person} {verb[0]}?", f"{word} the {person} did {verb[0]}?")
    word = r.choice(["where", "why", "when"])
    return _pair(f"{word} is the {person} {verb[4]}?", f"{word} the {person} is {verb[4]}?")


def negation(r: random.Random) -> Pair:
    person = r.choice(PEOPLE)[0]
    verb = r.choice(VERBS)
    place = r.choice(PLACES)
    kind = r.randrange(3)
    if kind == 0:
        return _pair(f"the {person} does not {verb[0]} {place}", f"the {person} not does {verb[0]} {place}")
    if kind == 1:
        return _pair(f"the {person} did not {verb[0]} {place}", f"the {person} did not {verb[1]} {place}")
    return _pair(f"the {person} has never {verb[3]} {place}", f"the {person} never has not {verb[3]} {place}")


def comparison(r: random.Random) -> Pair:
    (a, _), (b, _) = r.sample(NAMES, 2)
    if r.random() < 0.5:
        short = r.choice(ADJECTIVES)
        form = {"kind": "kinder", "rich": "richer"}.get(short, f"{short}er")
        return _pair(f"{a} is {form} than {b}", f"{a} is {r.choice(['more ' + form, short])} than {b}")
    long = r.choice(LONG_ADJECTIVES)
    one = r.choice(THINGS)[0]
    kind = r.choice([(f"more {long} than", f"more {long} as"), (f"as {long} as", f"as {long} than")])
    return _pair(*(f"this {one} is {k} that one" for k in kind))


def quantity(r: random.Random) -> Pair:
    name = r.choice(NAMES)[0]
    where = r.choice(["at home", "this week", "in the city", "after the party", "today"])
    if r.random() < 0.5:
        noun = r.choice(COUNTED)
        right, wrong = r.choice([("many", "much"), ("a few", "a little"), ("fewer", "a fewer")])
        return _pair(f"{name} saw {right} {noun} {where}", f"{name} saw {wrong} {noun} {where}")
    noun = r.choice(UNCOUNTED)
    right, wrong = r.choice([("much", "many"), ("a little", "a few")])
    return _pair(f"{name} does not need {right} {noun} {where}" if right == "much" else f"{name} needs {right} {noun} {where}",
                 f"{name} does not need {wrong} {noun} {where}" if right == "much" else f"{name} needs {wrong} {noun} {where}")  # fmt: skip


def article(r: random.Random) -> Pair:
    name = r.choice(NAMES)[0]
    verb = r.choice(["saw", "drew", "found", "wanted", "lost"])
    place = r.choice(PLACES)
    if r.random() < 0.5:
        noun = r.choice(VOWEL)
        return _pair(f"{name} {verb} an {noun} {place}", f"{name} {verb} a {noun} {place}")
    noun = r.choice(CONSONANT)
    return _pair(f"{name} {verb} a {noun} {place}", f"{name} {verb} an {noun} {place}")


def tense(r: random.Random) -> Pair:
    subject = r.choice(NAMES)[0]
    verb = r.choice([v for v in VERBS if v[0] not in ("read", "run")])
    place = r.choice(PLACES)
    kind = r.randrange(3)
    if kind == 0:
        when = r.choice(["yesterday", "last week", "two days ago"])
        return _pair(f"{when} {subject} {verb[2]} {place}", f"{when} {subject} {verb[1]} {place}")
    if kind == 1:
        when = r.choice(["tomorrow", "next week"])
        return _pair(f"{when} {subject} will {verb[0]} {place}", f"{when} {subject} {verb[2]} {place}")
    return _pair(f"right now {subject} is {verb[4]} {place}", f"right now {subject} is {verb[0]} {place}")


def modal(r: random.Random) -> Pair:
    person = r.choice(PEOPLE)[0]
    verb = r.choice(VERBS)
    place = r.choice(PLACES)
    helper = r.choice(["can", "must", "should", "will", "might"])
    wrong = r.choice([verb[1], verb[4], f"to {verb[0]}"])
    return _pair(f"the {person} {helper} {verb[0]} {place}", f"the {person} {helper} {wrong} {place}")


def infinitive(r: random.Random) -> Pair:
    person = r.choice(PEOPLE)[0]
    verb = r.choice(VERBS)
    place = r.choice(PLACES)
    if r.random() < 0.5:
        head = r.choice(["wants to", "hopes to", "decided to", "needs to"])
        return _pair(f"the {person} {head} {verb[0]} {place}", f"the {person} {head} {verb[4]} {place}")
    head = r.choice(["enjoys", "keeps", "stopped", "avoids"])
    wrong = r.choice([verb[0], verb[1]])
    return _pair(f"the {person} {head} {verb[4]} {place}", f"the {person} {head} {wrong} {place}")


def there_is(r: random.Random) -> Pair:
    one, many = r.choice(THINGS)
    place = r.choice(["on the table", "in the room", "under the bed", "in the car", "on the shelf"])
    now, other = r.choice([(("is", "are"), "is"), (("was", "were"), "was")])
    if r.random() < 0.5:
        return _pair(f"there {other} a {one} {place}", f"there {now[1]} a {one} {place}")
    some = r.choice(["some", "two", "many", "three"])
    return _pair(f"there {now[1]} {some} {many} {place}", f"there {now[0]} {some} {many} {place}")


def each_all(r: random.Random) -> Pair:
    one, many = r.choice(PEOPLE)
    base, third, *_ = r.choice(VERBS)
    place = r.choice(PLACES)
    if r.random() < 0.5:
        word = r.choice(["every", "each"])
        return _pair(f"{word} {one} {third} {place}", f"{word} {many} {base} {place}")
    word = r.choice(["all", "most", "some"])
    return _pair(f"{word} {many} {base} {place}", f"{word} {many} {third} {place}")


def word_order(r: random.Random) -> Pair:
    name = r.choice(NAMES)[0]
    done, _, thing = r.choice(IRREGULAR)
    kind = r.randrange(3)
    if kind == 0:
        return _pair(f"{name} {done} {thing}", f"{name} {thing} {done}")
    colour = r.choice(["red", "green", "white", "black", "heavy", "small", "new", "broken"])
    one = r.choice(THINGS)[0]
    verb = r.choice(["found", "bought", "sold", "cleaned", "painted"])
    if kind == 1:  # not "painted the lamp red", which is right
        return _pair(f"{name} {verb} the {colour} {one}", f"{name} {verb} {colour} the {one}")
    often = r.choice(["often", "always", "never", "usually"])
    person = r.choice(PEOPLE)[0]
    third = r.choice(VERBS)[1]
    return _pair(f"the {person} {often} {third} here", f"the {person} {third} here {often} does")


def relative(r: random.Random) -> Pair:
    one = r.choice(PEOPLE)[0]
    thing = r.choice(THINGS)[0]
    verb = r.choice(["found", "bought", "sold", "cleaned", "painted"])
    if r.random() < 0.5:
        return _pair(f"the {one} who {verb} the {thing} is here", f"the {one} which {verb} the {thing} is here")
    name = r.choice(NAMES)[0]
    return _pair(f"this is the {thing} that {name} {verb}", f"this is the {thing} who {name} {verb}")


def possessive(r: random.Random) -> Pair:
    thing = r.choice(THINGS)[0]
    verb = r.choice(["lost", "found", "sold", "forgot", "cleaned"])
    right, wrong = r.choice([("my", "mine"), ("her", "hers"), ("their", "theirs"), ("our", "ours"), ("your", "yours")])
    name = r.choice(NAMES)[0]
    if r.random() < 0.6:
        return _pair(f"{name} {verb} {right} {thing}", f"{name} {verb} {wrong} {thing}")
    return _pair(f"the {thing} on the table is {wrong}", f"the {thing} on the table is {right}")


PHENOMENA: dict[str, Callable[[random.Random], Pair]] = {
    f.__name__: f
    for f in (
        agreement, agreement_far, agreement_relative, determiner, reflexive, participle,
        pronoun_case, question, negation, comparison, quantity, article, tense, modal, infinitive,
        there_is, each_all, word_order, relative, possessive,
    )
}  # fmt: skip


def pairs(each: int, seed: int) -> list[tuple[str, str, str]]:
    """(phenomenon, right, wrong), `each` per phenomenon, no sentence twice."""
    found: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for name, make in PHENOMENA.items():
        draw = partial(make, random.Random(f"{seed} {name}"))
        kept = 0
        while kept < each:
            right, wrong = draw()
            if right != wrong and not {right, wrong} & seen:
                seen |= {right, wrong}
                found.append((name, right, wrong))
                kept += 1
    return found
