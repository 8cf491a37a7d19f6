"""Frames of the schema job_posting."""

from structured.engine import Draw, Fact, Topic, pick, several
from structured.pools import COMPANIES

JOBS = [
    "data analyst", "truck driver", "pastry chef", "nurse", "web developer", "accountant",
    "warehouse clerk", "graphic designer", "electrician", "sales assistant", "lab technician",
    "project manager", "receptionist", "mechanic", "translator", "gardener", "support engineer",
]
SKILLS = [
    "Excel", "fluent German", "a forklift licence", "Python", "first aid", "good manners", "SQL",
    "welding", "a driving licence", "photo editing", "bookkeeping", "public speaking", "Linux",
    "customer service", "night shift experience", "French", "technical drawing", "a food hygiene pass",
]
BARE = [word.removeprefix("a ") for word in SKILLS]


def pay(draw: Draw) -> Fact:
    """A range, in several spellings, in euros a month."""
    low = draw.rng.randrange(1800, 6000, 100)
    high = low + draw.rng.randrange(200, 1500, 100)
    text = draw.rng.choice(["{a} to {b} euros", "{a}-{b} EUR", "between {a} and {b} €", "EUR {a} to {b}", "{c} to {d} euros"])
    return text.format(a=low, b=high, c=f"{low:,}", d=f"{high:,}"), {"min": low, "max": high}


TRAIN = [
    "{company} is looking for a {position}. You bring {skills}. [We pay {pay} a month.] [Home office is possible{remote=true}.]",
    "Wanted: {position} at {company}. Required: {skills}. [Salary {pay} monthly.] [On site only{remote=false}.]",
    "Join {company} as a {position}! We expect {skills}[ and offer {pay} per month]. [You may work from home{remote=true}.]",
    "{position} ({company})\nskills: {skills}[\npay: {pay} per month][\nremote: yes{remote=true}]",
    "We at {company} need a new {position} with {skills}. [The monthly pay is {pay}.] [Sorry, no home office{remote=false}.]",
    "A vacancy for you: {company} wants a {position}. [{pay} each month, ][fully remote{remote=true}, ]must have: {skills}.",
    "Do you know {skills}? Then become {position} at {company}. [You get {pay} a month.]",
    "Our {position} is retiring and {company} seeks somebody to follow. Asked for: {skills}. [Monthly salary: {pay}.] [Working from home is fine{remote=true}.]",
    "job alert - {company} - {position} - needs {skills}[ - {pay} a month][ - remote{remote=true}]",
    "{company} has an opening. Position: {position}. Please have {skills}. [Pay range {pay} a month.] [The work is done in our office{remote=false}.]",
    "Become our {position}. {company} is a family firm; what counts is {skills}. [We offer {pay} monthly.] [Two days a week from home{remote=true}.]",
    "As {position} at {company} you will need {skills}. [Expect {pay} a month.] [This job can be done remotely{remote=true}.]",
]
VAL = [
    "Urgently needed at {company}: one {position}, {skills}. [Monthly pay {pay}.] [Home working allowed{remote=true}.]",
    "The {position} we want knows {skills}. {company} pays fairly[: {pay} a month].",
]
TEST = [
    "Are you a {position}? {company} would like to meet you. Bring {skills} along. [Each month you earn {pay}.] [Your desk can be at home{remote=true}.]",
    "My company, {company}, hires a {position}. Musts are {skills}. [In return: {pay} a month.] [Presence is required every day{remote=false}.]",
    "{company} grows and a post as {position} is free; profile: {skills}[; wage {pay} monthly][; remote work okay{remote=true}].",
    "Tell your friends: {company} takes on a {position}, ideally with {skills}. [They mentioned {pay} per month.]",
]
TOPIC = Topic(
    name="job_posting",
    slots={
        "position": pick(JOBS),
        "company": pick(COMPANIES),
        "pay": pay,
        "skills": several(BARE, 1, 3),
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"remote": False},
    extra=["Our canteen is famous.", "Start as soon as you like.", "Bikes can be parked in the yard."],
)
