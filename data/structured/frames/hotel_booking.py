"""Frames of the schema hotel_booking."""

from structured.engine import Draw, Fact, Topic, date, number, pick
from structured.pools import CITIES, FIRST, LAST


def guest(draw: Draw) -> Fact:
    """First and last name."""
    name = f"{draw.of(FIRST)} {draw.of(LAST)}"
    return name, name


def room(draw: Draw) -> Fact:
    """A kind of room by its name."""
    word = draw.rng.choice(["single", "double", "suite"])
    return (word if word == "suite" else f"{word} room"), word


TRAIN = [
    "Please reserve a {room} in {city} for {guest}, {nights} nights from {check_in}[, with breakfast{breakfast=true}].",
    "My name is {guest}. I arrive in {city} on {check_in} and stay {nights} nights. A {room}, please[, breakfast included{breakfast=true}].",
    "{guest} needs a {room} in {city}. Check-in {check_in}, {nights} nights. [No breakfast{breakfast=false}.]",
    "booking for {guest}: {city}, {check_in}, {nights} nights, {room}[, breakfast yes{breakfast=true}]",
    "We would like to stay in your {city} house from {check_in} for {nights} nights. One {room}[ and breakfast every day{breakfast=true}]. {guest}",
    "Guest: {guest}\nCity: {city}\nArrival: {check_in}\nNights: {nights}\nRoom: {room}[\nBreakfast: yes{breakfast=true}]",
    "Is a {room} free in {city} on {check_in}? I would take it for {nights} nights. [I skip breakfast{breakfast=false}.] The name is {guest}.",
    "I am coming to {city} for a conference on {check_in} and need a {room} for {nights} nights. Please put it under {guest}. [Add breakfast{breakfast=true}.]",
    "Kindly book one night{nights=1} in {city} for our colleague {guest}: {room}, {check_in}. [Breakfast is not needed{breakfast=false}.]",
    "{nights} nights in {city} starting {check_in}, {room}, for {guest}. [I love your breakfast, so count me in{breakfast=true}.]",
    "Could I change nothing but the name? It is {guest}, still the {room} in {city} from {check_in}, {nights} nights.",
    "For my parents' anniversary: a {room} in {city}, {nights} nights, arrival {check_in}. Name on the door: {guest}. [With breakfast, of course{breakfast=true}.]",
]
VAL = [
    "{guest} here. Do you have a {room} in {city}? From {check_in}, {nights} nights[, breakfast too{breakfast=true}].",
    "Put {guest} down for a {room} in {city}, checking in {check_in} and staying {nights} nights.",
]
TEST = [
    "Reservation request. Who: {guest}. Where: {city}. From {check_in} on, {nights} nights in a {room}. [Breakfast wanted{breakfast=true}.]",
    "I will spend {nights} nights in {city} next time, from {check_in}. A {room} would do. [Please include breakfast{breakfast=true}.] Yours, {guest}",
    "need {room} {city} {check_in}, {nights} nights, name {guest}[, no breakfast{breakfast=false}]",
    "Our director {guest} visits {city} and checks in on {check_in}. We ask you for a {room} for {nights} nights[; breakfast is on us{breakfast=true}].",
]
TOPIC = Topic(
    name="hotel_booking",
    slots={
        "guest": guest,
        "city": pick(CITIES),
        "check_in": date,
        "nights": number(2, 14, words=0.4),
        "room": room,
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"breakfast": False},
    extra=["A quiet side would be great.", "We come by train.", "Last time the lift was broken."],
)
