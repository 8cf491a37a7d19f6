"""Numbered passages, a question, and an answer that cites: `... in 1911 [2].`

A field of knowledge has things and facts. A fact is (passages, questions, answer, values); `{t}` is
the thing, `{v}` the value. All things are invented.
"""

from structured.engine import Draw

Fact = tuple[list[str], list[str], str, list[str]]
YEARS = [str(year) for year in range(1868, 2019, 7)]
PRICES = ["3 euros", "4.50 euros", "6 euros", "8 euros", "9 euros", "12 euros", "15 euros"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Sunday"]
HOURS = ["7 am", "8 am", "9 am", "9:30 am", "10 am", "11 am"]

FIELDS: dict[str, tuple[list[str], list[Fact]]] = {
    "museum": (
        ["Clock Museum", "Ropewalk Museum", "Salt Museum", "Tramway Museum"],
        [
            (["The {t} was founded in {v}.", "In {v} a teacher founded the {t}."], ["When was the {t} founded?", "In which year did the {t} begin?"], "The {t} was founded in {v}", YEARS),
            (["A ticket to the {t} costs {v}.", "Visitors of the {t} pay {v}."], ["How much is a ticket to the {t}?", "What does the {t} cost?"], "A ticket to the {t} costs {v}", PRICES),
            (["The {t} is closed on {v}s.", "On {v}s nobody can visit the {t}."], ["On which day is the {t} closed?"], "The {t} is closed on {v}s", DAYS),
            (["The {t} is in {v}.", "You find the {t} in {v}."], ["Where is the {t}?"], "The {t} is in {v}", ["Mill Street", "the old barracks", "Harbour Lane", "the railway station"]),
        ],
    ),
    "bridge": (
        ["Wolsey Bridge", "Kestrel Bridge", "Iron Footbridge", "Weir Bridge"],
        [
            (["The {t} is {v} metres long.", "From bank to bank the {t} measures {v} metres."], ["How long is the {t}?"], "The {t} is {v} metres long", ["48", "75", "112", "160", "212", "340"]),
            (["Engineers finished the {t} in {v}.", "The {t} was opened in {v}."], ["When was the {t} built?", "In what year was the {t} finished?"], "The {t} was finished in {v}", YEARS),
            (["The {t} is made of {v}.", "Builders used {v} for the {t}."], ["What is the {t} made of?"], "The {t} is made of {v}", ["granite", "steel", "oak", "brick"]),
            (["Lorries over {v} tonnes may not cross the {t}.", "The {t} carries at most {v} tonnes."], ["What weight does the {t} carry?"], "The {t} carries at most {v} tonnes", ["3", "7", "12", "20"]),
        ],
    ),
    "ferry": (
        ["Skerry Line", "Lagoon Line", "North Sound Line", "Bell Island Line"],
        [
            (["The first boat of the {t} leaves at {v}.", "At {v} the {t} starts its day."], ["When does the first boat of the {t} leave?"], "The first boat of the {t} leaves at {v}", HOURS),
            (["A crossing with the {t} takes {v} minutes.", "After {v} minutes the {t} reaches the other side."], ["How long does a crossing with the {t} take?"], "A crossing with the {t} takes {v} minutes", ["12", "25", "40", "55"]),
            (["Bicycles cost {v} on the {t}.", "The {t} charges {v} for a bicycle."], ["What does a bicycle cost on the {t}?", "Do I pay for my bike on the {t}?"], "A bicycle costs {v} on the {t}", PRICES),
            (["The {t} does not run on {v}s.", "There is no {t} service on {v}s."], ["When does the {t} not run?"], "The {t} does not run on {v}s", DAYS),
        ],
    ),
    "lamp": (
        ["Orla lamp", "Pico lamp", "Halden lamp", "Tilda lamp"],
        [
            (["The {t} uses {v} watts.", "At full power the {t} needs {v} watts."], ["How much power does the {t} need?"], "The {t} needs {v} watts", ["4", "7", "9", "14", "22"]),
            (["The battery of the {t} lasts {v} hours.", "You can use the {t} for {v} hours without a cable."], ["How long does the battery of the {t} last?"], "The battery of the {t} lasts {v} hours", ["3", "6", "10", "18", "30"]),
            (["The {t} comes with a warranty of {v} years.", "If a {t} breaks within {v} years, it is repaired for free."], ["How long is the warranty of the {t}?"], "The {t} has a warranty of {v} years", ["2", "3", "5", "10"]),
            (["Clean the {t} with {v}.", "For the {t}, only {v} should be used for cleaning."], ["How do I clean the {t}?"], "Clean the {t} with {v}", ["a dry cloth", "warm water", "a soft brush"]),
        ],
    ),
    "library": (
        ["Elm Street Library", "City Library", "Riverside Library", "Annexe Library"],
        [
            (["The {t} lends books for {v} days.", "At the {t} you may keep a book for {v} days."], ["How long can I keep a book from the {t}?"], "The {t} lends books for {v} days", ["14", "21", "28", "30"]),
            (["The {t} opens at {v}.", "Doors of the {t} open at {v}."], ["When does the {t} open?", "From what time can I enter the {t}?"], "The {t} opens at {v}", HOURS),
            (["A card for the {t} costs {v} a year.", "Readers pay {v} a year at the {t}."], ["What is the yearly fee of the {t}?"], "The {t} costs {v} a year", PRICES),
            (["The {t} holds {v} books.", "On the shelves of the {t} stand {v} books."], ["How many books does the {t} have?"], "The {t} holds {v} books", ["8,000", "21,000", "64,000", "130,000"]),
        ],
    ),
    "festival": (
        ["Lantern Festival", "Plum Festival", "Kite Festival", "River Festival"],
        [
            (["The {t} takes place in {v}.", "Every {v} the town holds the {t}."], ["In which month is the {t}?"], "The {t} takes place in {v}", ["May", "June", "August", "October"]),
            (["Last year {v} people came to the {t}.", "The {t} drew {v} guests last year."], ["How many guests did the {t} have last year?"], "Last year {v} people came to the {t}", ["900", "3,000", "7,500", "12,000"]),
            (["The {t} lasts {v} days.", "For {v} days the streets belong to the {t}."], ["How long does the {t} last?"], "The {t} lasts {v} days", ["two", "three", "four", "nine"]),
            (["The {t} is paid for by {v}.", "The money for the {t} comes from {v}."], ["Who pays for the {t}?"], "The {t} is paid for by {v}", ["the brewers", "the town", "local shops", "a foundation"]),
        ],
    ),
    "garden": (
        ["Fern House", "Rose Walk", "Palm House", "Alpine Bed"],
        [
            (["The {t} was planted in {v}.", "Students planted the {t} in {v}."], ["When was the {t} planted?"], "The {t} was planted in {v}", YEARS),
            (["The {t} is watered every {v} days.", "Every {v} days the {t} gets water."], ["How often is the {t} watered?"], "The {t} is watered every {v} days", ["two", "three", "five"]),
            (["Guided tours of the {t} start at {v}.", "A guide shows the {t} at {v}."], ["At what time are tours of the {t}?"], "Tours of the {t} start at {v}", HOURS),
        ],
    ),
}
HELD_OUT: dict[str, tuple[list[str], list[Fact]]] = {
    "lighthouse": (
        ["Gannet Light", "Old Skaw Light", "Thorn Point Light"],
        [
            (["{t} rises {v} metres above the sea.", "The tower of {t} has a height of {v} metres."], ["How high is {t}?"], "{t} is {v} metres high", ["18", "27", "41", "56"]),
            (["The last keeper left {t} in {v}.", "Since {v} {t} has worked without a keeper."], ["When did the last keeper leave {t}?"], "The last keeper left {t} in {v}", YEARS),
            (["{t} flashes every {v} seconds.", "Sailors know {t} by a flash every {v} seconds."], ["How often does {t} flash?"], "{t} flashes every {v} seconds", ["5", "8", "10", "15"]),
            (["There are {v} steps inside {t}.", "Climbing {t} means {v} steps."], ["How many steps does {t} have?"], "{t} has {v} steps", ["96", "143", "208"]),
        ],
    ),
    "pool": (
        ["Northside Pool", "Quarry Baths", "Linden Pool"],
        [
            (["The water in {t} has {v} degrees.", "{t} is heated to {v} degrees."], ["How warm is the water in {t}?"], "The water in {t} has {v} degrees", ["22", "24", "27", "31"]),
            (["{t} has {v} lanes.", "Swimmers share {v} lanes in {t}."], ["How many lanes are there in {t}?"], "{t} has {v} lanes", ["four", "five", "six", "eight"]),
            (["Children under {v} swim for free in {t}.", "{t} is free for children under {v}."], ["Up to what age is {t} free?"], "Children under {v} swim for free in {t}", ["4", "6", "10", "12"]),
            (["On {v}s {t} is reserved for clubs.", "Clubs have {t} for themselves on {v}s."], ["When is {t} reserved for clubs?"], "On {v}s {t} is reserved for clubs", DAYS),
        ],
    ),
}


def write(draw: Draw) -> tuple[str, str, str]:
    """One row: field, text, answer."""
    rng = draw.rng
    fields = HELD_OUT if draw.split == "test" else FIELDS
    name = rng.choice(list(fields))
    things, facts = fields[name]
    thing, other = rng.sample(things, 2)
    asked = rng.sample(range(len(facts)), 2 if rng.random() < 0.3 else 1)
    told = [(thing, at, rng.choice(facts[at][3])) for at in asked]
    rest = [at for at in range(len(facts)) if at not in asked]
    told += [(thing, at, rng.choice(facts[at][3])) for at in rng.sample(rest, 1)]
    values = [value for value in facts[asked[0]][3] if value != told[0][2]]
    told.append((other, asked[0], rng.choice(values)))
    if len(told) < 4 and rng.random() < 0.4:
        told.append((other, rest[-1], rng.choice(facts[rest[-1]][3])))
    rng.shuffle(told)
    passages = [
        f"[{n}] {rng.choice(facts[at][0]).format(t=one, v=value)}"
        for n, (one, at, value) in enumerate(told, 1)
    ]
    question = " ".join(rng.choice(facts[at][1]).format(t=thing) for at in asked)
    answers = []
    for at in asked:
        place = next(n for n, (one, this, _) in enumerate(told, 1) if (one, this) == (thing, at))
        said = facts[at][2].format(t=thing, v=told[place - 1][2])
        answers.append(f"{said} [{place}].")
    asking = rng.choice(["", "", "Question: ", "Q: "])
    return name, "\n".join([*passages, "", asking + question]), " ".join(answers)
