"""Frames of the schema flight_request."""

from structured.engine import Draw, Fact, Topic, date, number, pick
from structured.pools import CITIES

FROM, TO = CITIES[::2], CITIES[1::2]


def cabin(draw: Draw) -> Fact:
    """A cabin class by its name."""
    word = draw.rng.choice(["economy", "business", "first"])
    return word, word


TRAIN = [
    "I need a flight from {origin} to {destination} on {date} for {passengers} <people|passengers>[, {cabin} class]. [My dates are flexible{flexible=true}.]",
    "Could you book {passengers} seats to {destination}, leaving {origin} on {date}? [{cabin} class if possible.]",
    "Flying {origin} - {destination}, {date}, {passengers} pax[, {cabin}][, dates flexible{flexible=true}]",
    "We are {passengers} travellers and want to leave {origin} for {destination} on {date}. [A day earlier or later is fine too{flexible=true}.] [{cabin} class, please.]",
    "On {date} I have to be in {destination}; I would start from {origin}. Alone, so one ticket{passengers=1}[, {cabin} class].",
    "Please find {passengers} tickets: from {origin}, to {destination}, date {date}. [The day is fixed{flexible=false}.]",
    "My wife and I{passengers=2} would like to travel from {origin} to {destination} on {date}[ in {cabin} class]. [We could also fly another day{flexible=true}.]",
    "to: {destination}\nfrom: {origin}\nwhen: {date}\nwho: {passengers} persons[\nclass: {cabin}]",
    "What do {passengers} {cabin} class tickets from {origin} to {destination} cost on {date}? [We can move the date if it gets cheaper{flexible=true}.]",
    "Just me this time{passengers=1}: {origin} to {destination}, {date}. [It must be that day{flexible=false}.]",
    "A group of {passengers} is going to {destination} on {date}, <departing from|starting in> {origin}. [Book {cabin} class for all of them.]",
    "Get me out of {origin}! {passengers} tickets to {destination} on {date}[, {cabin} class], [any day that week works{flexible=true},] please.",
    "{date}: {origin} to {destination} for {passengers}. [Cabin: {cabin}.] [Plus or minus a day is okay{flexible=true}.]",
]
VAL = [
    "Is there still room for {passengers} on a plane to {destination} on {date}? We live in {origin}. [{cabin} class would be nice.]",
    "Trip for {passengers}: departure {origin}, arrival {destination}, travel day {date}. [Not tied to that day{flexible=true}.]",
]
TEST = [
    "Our team of {passengers} has a fair in {destination}. Departure on {date} from {origin}[, all in {cabin}]. [If another date saves money, take it{flexible=true}.]",
    "can you check {origin}-{destination} for {date}? there will be {passengers} of us[, {cabin} class tickets]",
    "I would like to reserve {passengers} places on a plane that goes from {origin} to {destination}; the date is {date}. [I can shift it by some days{flexible=true}.]",
    "Two of us{passengers=2}, {destination}-bound, taking off in {origin} on {date}. [We want {cabin} seats.]",
]
TOPIC = Topic(
    name="flight_request",
    slots={
        "origin": pick(FROM),
        "destination": pick(TO),
        "date": date,
        "passengers": number(2, 9, words=0.4),
        "cabin": cabin,
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"flexible": False},
    extra=["Last year the food on board was terrible.", "We travel with hand luggage only.", "No red-eye if you can avoid it."],
)
