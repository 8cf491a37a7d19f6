"""Frames of the schema apartment_listing."""

from structured.engine import WORDS, Draw, Fact, Topic, date, listing, pick

DISTRICTS = [
    "Old Town", "Riverside", "Northgate", "Mill Hill", "the Harbour Quarter", "Eastfield", "Rosenau",
    "Castle Park", "Westend", "Linden Grove", "Station Quarter", "Weavers' Yard", "Southbank", "Fairview",
]
FEATURES = {
    "balcony": ["a balcony"], "garden": ["a garden", "a small garden"], "lift": ["a lift"],
    "parking": ["parking", "a parking space"],
}


def features(draw: Draw) -> Fact:
    """One to three of the features that a flat "has"."""
    names = draw.rng.sample(list(FEATURES), draw.rng.randint(1, 3))
    return listing([draw.rng.choice(FEATURES[name]) for name in names]), names


def plan(draw: Draw) -> tuple[int, int, int]:
    """Rooms, size and rent that go together."""
    if "plan" not in draw.memo:
        rooms = draw.rng.randint(2, 6)
        size = rooms * draw.rng.randint(18, 30) + draw.rng.randint(0, 9)
        draw.memo["plan"] = rooms, size, size * draw.rng.randint(9, 17) // 10 * 10
    return draw.memo["plan"]


def rooms(draw: Draw) -> Fact:
    """A number, sometimes spelled out."""
    value = plan(draw)[0]
    return (WORDS[value] if draw.rng.random() < 0.3 else str(value)), value


def rent(draw: Draw) -> Fact:
    """Euros a month."""
    value = plan(draw)[2]
    return draw.rng.choice([f"{value} euros", f"€{value}", f"{value} EUR", f"{value:,} €"]), value


def size(draw: Draw) -> Fact:
    """Square metres."""
    value = plan(draw)[1]
    return draw.rng.choice([f"{value} m²", f"{value} sqm", f"{value} square metres", f"{value} m2"]), value


TRAIN = [
    "{rooms}-room flat in {district}, {size_m2}, {rent} a month. [It has {features}.] [Free from {available}.] [Pets welcome{pets=true}.]",
    "To let: {district}, {rooms} rooms on {size_m2}, rent {rent}[, with {features}]. [No pets{pets=false}.] [Available {available}.]",
    "We rent out our flat in {district}. {rooms} rooms, {size_m2}, {rent} monthly. [There is {features}.] [You can move in on {available}.]",
    "district: {district}\nrooms: {rooms}\nsize: {size_m2}\nrent: {rent}[\nextras: {features}][\nfrom: {available}]",
    "I am looking for somebody to take over my flat in {district}: {size_m2}, {rooms} rooms, {rent} per month[, {features}]. [Dogs and cats are fine{pets=true}.]",
    "Sunny flat! {district}, {rooms} rooms, {size_m2}. [You get {features}.] It costs {rent} a month[ and is free on {available}].",
    "{district} - {size_m2} - {rooms} rooms - {rent}[ - {features}][ - from {available}][ - no animals{pets=false}]",
    "My aunt lets a flat of {size_m2} in {district} for {rent} a month. It has {rooms} rooms[ and {features}]. [Pets are not allowed{pets=false}.]",
    "For {rent} a month you get {rooms} rooms and {size_m2} in {district}[, plus {features}]. [Start of lease: {available}.]",
    "New on the market in {district}: {rooms} rooms, {size_m2}, monthly rent {rent}. [Comes with {features}.] [Ready on {available}.] [You may bring your pet{pets=true}.]",
    "Flat with {rooms} rooms, {size_m2}, quiet part of {district}. [Included: {features}.] {rent} each month. [Vacant from {available}.]",
    "Tenant wanted for {district}. Rent {rent}, {rooms} rooms, {size_m2}. [Move in: {available}.] [Animals are okay{pets=true}.]",
]
VAL = [
    "Offer: {rooms} rooms in {district}, {size_m2} for {rent} a month[, {features}]. [Can be had from {available}.]",
    "In {district} I let {size_m2}, {rooms} rooms. Monthly {rent}. [Pets allowed{pets=true}.] [Begin {available}.]",
]
TEST = [
    "Still free: {size_m2} in {district}, split into {rooms} rooms. Price {rent} monthly. [Nice to have: {features}.] [Moving in is possible on {available}.] [Sorry, no pets{pets=false}.]",
    "Who wants our old place in {district}? {rent} a month for {rooms} rooms and {size_m2}[, {features}]. [We leave and you start on {available}.]",
    "flat 2b, {district}. {rooms} rms, {size_m2}, {rent} p.m.[, {features}][, avail. {available}][, pets ok{pets=true}]",
    "Here is what we have in {district}: {rooms} rooms, {size_m2} in all, for {rent} a month. [Tenants enjoy {features}.] [A cat would be no problem{pets=true}.]",
]
TOPIC = Topic(
    name="apartment_listing",
    slots={"district": pick(DISTRICTS), "rooms": rooms, "size_m2": size, "rent": rent, "available": date, "features": features},
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"features": []},
    extra=["The bus stops at the door.", "Neighbours are quiet.", "The kitchen is from last year."],
)
