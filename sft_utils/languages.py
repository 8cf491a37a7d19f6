"""Which of four languages a short reply is in, and what it denies: small words, no dependency."""

import re

NAMES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
"""The languages told apart, by code."""

_SMALL = {
    "en": """the a an is are was were be been it its this that these those i we you he she they
    my our your their and or but if of to in on at by for from with without about after
    before until can could will would shall should must may have has had do does did not
    no yes there here what which who when where how any some all each every more most
    please thank thanks sorry still also only then than as so up out into over under
    between one two three just me us them am very much many too again often""",
    "de": """der die das den dem des ein eine einen einem einer eines ist sind war waren wird
    werden ich wir sie er es mein meine meinen unser unsere ihr ihre ihren ihnen du dir
    dich dein deine und oder aber wenn von zu zum zur in im an am auf für mit ohne über
    nach vor bis bei aus kann können hat haben habe nicht kein keine keinen ja nein hier
    dort was welche wer wann wo wie alle alles jede jeder jeden mehr bitte danke leider
    auch nur noch gern gerne dann als so um ab durch unter zwischen zwei drei sich gibt
    liegt lautet kostet uhr gut heute dazu dabei sehr schon wurde sein bleibt bleibe
    steht stehen""",
    "fr": """le la les un une des du de d l est sont était sera je j nous vous il elle ils elles
    on mon ma mes notre nos votre vos son sa ses leur tu te toi ton ta tes et ou mais si
    à au aux en dans sur par pour avec sans après avant jusqu chez peut peux pouvons
    peuvent a ai ont avons ne n pas plus non oui ici là que qu qui quoi quel quelle
    quand où comment tout tous toute toutes chaque ce cet cette ces c cela s se merci
    aussi encore bien très entre deux trois faut volontiers désolé d'accord être reste
    voici""",
    "es": """el la los las un una unos unas de del al es son era está están será yo nosotros
    usted ustedes él ella ellos mi mis nuestro nuestra su sus lo tú te ti tu tus y o
    pero si en a con sin por para sobre después antes hasta desde entre puede puedo
    podemos pueden ha he han hay tiene tienen no sí aquí allí que qué quién cuál cuándo
    dónde cómo todo todos toda todas cada más este esta estos estas eso esto se gracias
    también solo muy dos tres favor siento claro bien gusto queda me nos fue""",
}
SMALL = {code: frozenset(words.split()) for code, words in _SMALL.items()}
LETTERS = {
    "de": re.compile(r"[äöüß]"),
    "fr": re.compile(r"[àâçèêëîïôûùœ]|\b[dljnscmt]'"),
    "es": re.compile(r"[ñáíóú¿¡]"),
}
"""Letters that one of the four uses and the others hardly do; é is in two of them."""
SHAPES = {
    "en": re.compile(r"\bth|\bwh|ing\b|ed\b|ck|oo|ee|ea|ly\b|tion\b|ness\b"),
    "de": re.compile(r"sch|cht|ung|keit\b|\w{2}en\b|ei|ck|tz|\bge"),
    "fr": re.compile(r"eau|eux\b|ou|ez\b|oi|tion\b|qu|age\b|ment\b|aux\b|que\b"),
    "es": re.compile(r"ción\b|[aeo]s\b|[ai]d[ao]s?\b|ll|ue|ar\b|er\b|ir\b|ment[eo]\b|iento"),
}
"""Groups of letters that are frequent in one language; they decide where small words do not."""
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")

_BREAK = re.compile(r"[.,;:!?()–—]|\b(?:but|and|aber|sondern|und|mais|et|pero|sino|y)\b")
_DENIED = re.compile(
    r"n['’]t\b|\bn['’]|\b(?:not?|cannot|never|neither|nor|unknown|maybe|perhaps|possibly|probably"
    r"|nicht|kein\w*|nie|niemals|weder|unbekannt|vielleicht|wahrscheinlich|ne|pas|jamais|ni|inconnue?"
    r"|peut-être|probablement|nunca|jamás|tampoco|ning[uú]n\w*|desconocid[oa]|quizás?|tal vez"
    r"|probablemente)\b"
)
_BOUND = re.compile(
    r"\b(?:than|at (?:the )?(?:least|most)|over|under|above|below|up to|almost|nearly|als|über"
    r"|mindestens|höchstens|unter|bis zu|fast|au (?:moins|plus)|(?:plus|moins) de|presque|al menos"
    r"|como (?:mucho|mínimo)|(?:más|menos) de|casi|between|zwischen|entre) $"
)
_ONE_OF_TWO_BEFORE = re.compile(r"\b(?:or|oder|ou|o|u) $")
_ONE_OF_TWO_AFTER = re.compile(  # "K281 or K282", "Novak or Nowak."; not "K281 or ask at the desk"
    r" (?:or|oder|ou|o|u) (?:\S*\d|[^\W\d]+(?=[.,;:!?)]|$))"
)
_RANGE_BEFORE = re.compile(
    r"\d (?:to|bis|à|a) $|\b(?:between|zwischen|entre) \S+ (?:and|und|et|y) $"
)
_RANGE_AFTER = re.compile(r" (?:to|bis|à|a|-|–) \d+(?![:.]?\d| ?h\b)")
_LARGER_BEFORE = re.compile(  # "twenty four", "treinta y cuatro"
    r"\b(?:twenty|(?:thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|vingts?|trente|quarante"
    r"|cinquante|soixante|cents?|mille|veinte|(?:trei|cuare|cincue|sese|sete|oche|nove)nta"
    r"|cien(?:to)?|\w*cientos|mil) (?:(?:and|et|y) )?$"
)
_LARGER_AFTER = re.compile(  # "four hundred", "4 000"
    r" (?:hundred|thousand|dozen|hundert|tausend|cents?|cientos|mil|mille|milli\w*)\b| \d{3}(?!\d)"
)


def votes(text: str) -> dict[str, float]:
    """How much speaks for each language: small words, its own letters, frequent groups of letters.

    A word that only one language knows counts three times one that two or more share ("es", "in").
    """
    flat = text.replace("’", "'").lower()
    words = [part for word in WORD.findall(flat) for part in word.split("'")]
    found = dict.fromkeys(NAMES, 0.0)
    for word in words:
        homes = [code for code in NAMES if word in SMALL[code]]
        for code in homes:
            found[code] += 3.0 if len(homes) == 1 else 1.0
    for code, letters in LETTERS.items():
        found[code] += 2.0 * len(letters.findall(flat))
    for code, shape in SHAPES.items():
        found[code] += 0.5 * len(shape.findall(flat))
    return found


def detect(text: str) -> str:
    """The language of a text as a code of `NAMES`, "" if nothing decides.

    Small words instead of a package: `data/dialogues/README.md` holds the measured accuracy of
    this and of the packages tried, on the sentences of the data set.

    Example:
        >>> detect("Breakfast is served from 7 to 10."), detect("Das Frühstück gibt es ab 7 Uhr.")
        ('en', 'de')
        >>> detect("El desayuno es de 7 a 10."), detect("Le petit-déjeuner est servi dès 7 h.")
        ('es', 'fr')
        >>> detect("K4821")
        ''
    """
    found = votes(text)
    first, second = sorted(found.values(), reverse=True)[:2]
    return max(found, key=found.__getitem__) if first > second else ""


def stated(before: str, value: str, after: str, *, number: bool = False) -> bool:
    """Does a text say a value where it stands, in any of the four languages?

    Not if a word before it in its clause denies it or makes it a guess, or it is one of two; nor,
    for a number, if a bound stands right before it, or it is a part of a larger one or an end of a
    range. Else words behind a value are not read.

    Args:
        before: The text up to the value, case folded, with single blanks.
        value: As it stands there.
        after: The rest.
        number: It counts something.
    Example:
        >>> stated("no problem, it is for ", "4", "."), stated("it isn't for ", "4", ".")
        (True, False)
        >>> stated("für mehr als ", "4", ".", number=True), stated("", "4", " cent", number=True)
        (False, False)
    """
    if _DENIED.search(_BREAK.split(before)[-1]):
        return False
    if _ONE_OF_TWO_BEFORE.search(before) or _ONE_OF_TWO_AFTER.match(after):
        return False
    if not number:
        return True
    grouped = re.fullmatch(r"\d{3}", value) and re.search(r"(?<!\w)\d{1,3} $", before)  # "1 252"
    larger = grouped or _LARGER_BEFORE.search(before) or _LARGER_AFTER.match(after)
    ranged = _RANGE_BEFORE.search(before) or _RANGE_AFTER.match(after)
    return not (larger or ranged or _BOUND.search(before))
