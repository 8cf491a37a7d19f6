"""Frames of the schema meeting_invite."""

from structured.engine import Draw, Fact, Topic, date, pick, several
from structured.pools import FIRST

TOPICS = [
    "budget review", "website launch", "hiring plan", "safety training", "price list", "office move",
    "customer survey", "summer party", "new logo", "supplier contract", "roof repair", "test results",
    "product roadmap", "first aid course", "tax audit", "travel policy", "stock count",
]
ROOMS = [
    "Room 4", "the library", "Room B12", "the canteen", "Room Oak", "the blue room", "Room 201",
    "the meeting pod", "Room Harbour", "the attic", "Room 7", "the green room", "Room Delta",
]


def start(draw: Draw) -> Fact:
    """A time of day, on a 12- or 24-hour clock."""
    hour, minute = draw.rng.randint(8, 18), draw.rng.choice([0, 0, 15, 30, 30, 45])
    value = f"{hour:02}:{minute:02}"
    short = f"{(hour - 1) % 12 + 1}" + (f":{minute:02}" if minute else "")
    half = "am" if hour < 12 else "pm"
    if value == "12:00" and draw.rng.random() < 0.5:
        return "noon", value
    return draw.rng.choice([value, value, f"{short} {half}", f"{short}{half}"]), value


def minutes(draw: Draw) -> Fact:
    """A length in minutes or hours."""
    value = draw.rng.choice([15, 20, 30, 45, 60, 60, 90, 120])
    texts = {60: ["60 minutes", "one hour", "1 hour"], 120: ["two hours", "120 minutes", "2 hours"], 90: ["90 minutes", "1.5 hours"]}
    return draw.rng.choice(texts.get(value, [f"{value} minutes", f"{value} min"])), value


TRAIN = [
    "Let us talk about the {topic} on {date} at {start}[ in {room}]. Please come: {attendees}. It will take {minutes}.",
    "Invitation: {topic}, {date}, {start}, {minutes}[, {room}]. Attendees: {attendees}.",
    "{attendees}, can you make it on {date} at {start}? Subject: {topic}. I plan {minutes}. [We meet in {room}.]",
    "I booked [{room} for ]{minutes} on {date} from {start}. The topic is the {topic}. With {attendees}.",
    "what: {topic}\nwhen: {date}, {start}\nhow long: {minutes}\nwho: {attendees}[\nwhere: {room}]",
    "Please block {minutes} for the {topic} with {attendees}: {date}, starting at {start}[, {room}].",
    "Reminder! {topic} on {date}. We start at {start} sharp and need {minutes}. {attendees} should be there. [Place: {room}.]",
    "{date}, {start}: {topic}. {attendees} are invited[ to {room}]. Duration {minutes}.",
    "Set up a call about the {topic} for {attendees}, {minutes}, {date} at {start}.",
    "The {topic} needs a decision. {attendees} and nobody else, {date} at {start}[ in {room}], {minutes} at most.",
    "Can we do the {topic} on {date}? {start} would suit {attendees}. {minutes} should be enough. [{room} is free.]",
    "New date for the {topic}: {date}, {start}[, still in {room}]. Same people: {attendees}. Same length: {minutes}.",
]
VAL = [
    "Meeting on the {topic}: {attendees} meet [in {room} ]on {date} at {start} for {minutes}.",
    "I would like {minutes} of your time for the {topic}, {attendees}. {date}, {start}[, {room}].",
]
TEST = [
    "We still have to discuss the {topic}. I suggest {date}, {start}, for {minutes}[; {room} is ours]. Participants are {attendees}.",
    "pls add to calendar: {topic} w/ {attendees}, {date} {start}, {minutes}[, {room}]",
    "On {date} there is a session on the {topic}. It runs {minutes} from {start}[ and takes place in {room}]. I expect {attendees}.",
    "{attendees}: {start} on {date}, {topic}, {minutes}. [See you in {room}.]",
]
TOPIC = Topic(
    name="meeting_invite",
    slots={
        "topic": pick(TOPICS),
        "date": date,
        "start": start,
        "minutes": minutes,
        "attendees": several(FIRST, 2, 4),
        "room": pick(ROOMS),
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    extra=["I will bring biscuits.", "Laptops can stay at your desks.", "The coffee machine is broken again."],
)
