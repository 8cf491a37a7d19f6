"""Frames of the two XML documents, and how their facts become XML."""

from xml.sax.saxutils import escape

from structured.engine import Draw, Fact, Topic, date, pick
from structured.pools import FIRST, LAST

EVENTS = [
    ("concert", "Moonlight Brass"), ("workshop", "Bees for Beginners"), ("lecture", "Old Maps and New"),
    ("market", "Sourdough Sunday"), ("concert", "Strings at Dusk"), ("workshop", "The Mending Table"),
    ("market", "Seeds and Swaps"), ("lecture", "Glaciers Talking"), ("workshop", "Ceramics for Two"),
    ("concert", "Night of the Accordions"), ("market", "Honey and Cheese"), ("lecture", "Why Bridges Hum"),
    ("concert", "Choir Under Stars"), ("workshop", "Knots and Splices"), ("market", "Ten Tables of Tin"),
    ("lecture", "Salt in History"), ("concert", "Jazz on the Stairs"), ("workshop", "Bike Fixing Basics"),
    ("market", "Wool Weekend"), ("lecture", "The Sleep of Fish"),
]
VENUES = [
    "Town Hall", "Mill Barn", "St Olaf Church", "Harbour Stage", "the old cinema", "Garden Centre", "Market Square",
    "the school gym", "Library Loft", "Castle Yard", "Studio 9", "Boat House", "the tram depot",
]


def recipient(draw: Draw) -> Fact:
    """First and last name."""
    name = f"{draw.of(FIRST)} {draw.of(LAST)}"
    return name, name


def number(draw: Draw) -> Fact:
    """Two letters and four to six digits."""
    name = f"{draw.rng.choice(['PK', 'LX', 'DE', 'ZT', 'QA'])}{draw.rng.randint(1000, 999999)}"
    return name, name


def weight(draw: Draw) -> Fact:
    """Kilograms."""
    value = draw.rng.choice([f"{draw.rng.randint(1, 30)}", f"{draw.rng.uniform(0.2, 25):.1f}"])
    return draw.rng.choice([f"{value} kg", f"{value}kg", f"{value} kilos"]), value


def price(draw: Draw) -> Fact:
    """Whole euros, or free."""
    value = draw.rng.choice([0, 3, 5, 8, 10, 12, 15, 18, 20, 25, 30])
    if not value:
        return draw.rng.choice(["free of charge", "free entry"]), "0"
    return draw.rng.choice([f"{value} euros", f"€{value}", f"{value} EUR"]), str(value)


def happening(draw: Draw) -> tuple[str, str]:
    """A kind of event and a title."""
    if "event" not in draw.memo:
        draw.memo["event"] = draw.of(EVENTS)
    return draw.memo["event"]


def kind(draw: Draw) -> Fact:
    """The kind of event by its name."""
    word = happening(draw)[0]
    return word, word


def title(draw: Draw) -> Fact:
    """The title of the event."""
    word = happening(draw)[1]
    return word, word


PARCEL = Topic(
    name="parcel",
    slots={"number": number, "recipient": recipient, "weight": weight, "arrives": date},
    frames={
        "train": [
            "Parcel {number} for {recipient}, {weight}, arrives on {arrives}. [It goes express{express=true}.]",
            "{recipient} will get parcel {number} on {arrives}. Weight: {weight}. [Standard delivery{express=false}.]",
            "Your parcel {number} weighs {weight} and will be delivered to {recipient} on {arrives}[ by express{express=true}].",
            "no: {number}\nfor: {recipient}\nweight: {weight}\narrival: {arrives}[\nexpress: yes{express=true}]",
            "We sent {weight} of books to {recipient}; number {number}, expected {arrives}. [Express, as you wished{express=true}.]",
            "On {arrives} the driver brings {number} ({weight}) to {recipient}. [No express fee this time{express=false}.]",
            "Is somebody there for {recipient} on {arrives}? It is about {number}, {weight}[, an express parcel{express=true}].",
            "{number}, addressed to {recipient}, {weight}, due {arrives}[, express{express=true}].",
            "Parcel desk: {weight} for {recipient}. Tracking {number}. Comes {arrives}. [Express service{express=true}.]",
        ],
        "val": ["Track {number}: recipient {recipient}, {weight}, arriving {arrives}[, sent express{express=true}]."],
        "test": [
            "A box of {weight} is on its way to {recipient}. Its number is {number} and it should be there on {arrives}. [The sender paid for express{express=true}.]",
            "pickup note - {recipient} - {number} - {weight} - {arrives}[ - express{express=true}]",
            "{arrives} is the day when {recipient} receives {number}. The scale said {weight}. [Not express{express=false}.]",
        ],
    },
    extra=["Please have your ID ready.", "The doorbell is broken."],
)
EVENT = Topic(
    name="event",
    slots={"title": title, "venue": pick(VENUES), "day": date, "price": price, "type": kind},
    frames={
        "train": [
            "\"{title}\", a {type} at {venue} on {day}[, {price}].",
            "{day}, {venue}: {title} ({type})[, {price}].",
            "Come to our {type} {title}! {venue}, {day}. [Tickets: {price}.]",
            "type: {type}\ntitle: {title}\nwhere: {venue}\nwhen: {day}[\nprice: {price}]",
            "We invite you to the {type} \"{title}\" on {day}. Place: {venue}. [Admission: {price}.]",
            "Please list this {type}: {title}, {day}, {venue}[, {price}].",
            "At {venue} there will be a {type} on {day}. It is called {title}. [Entry: {price}.]",
            "For the calendar: {title} on {day} at {venue}, category {type}[; {price}].",
            "The {type} of the month is {title}, {venue}, {day}. [Price: {price}.]",
        ],
        "val": ["New {type} on {day} at {venue}, named {title}[, price {price}]."],
        "test": [
            "Save the date, {day}! {venue} hosts {title}, the {type} everyone asked for[ ({price})].",
            "{type} | {title} | {venue} | {day}[ | {price}]",
            "Our club organises {title}. That is a {type}, and it happens at {venue} on {day}. [What it costs: {price}.]",
        ],
    },
    extra=["Bring a friend.", "Doors open half an hour before."],
)
TOPICS = [PARCEL, EVENT]


def to_xml(name: str, said: dict[str, str]) -> str:
    """The document of the facts said."""
    facts = {key: escape(str(value)) for key, value in said.items()}
    if name == "parcel":
        express = "true" if said.get("express") is True else "false"
        return (
            f'<parcel number="{facts["number"]}"><recipient>{facts["recipient"]}</recipient>'
            f'<weight>{facts["weight"]}</weight><arrives>{facts["arrives"]}</arrives>'
            f"<express>{express}</express></parcel>"
        )
    price = f'<price>{facts["price"]}</price>' if "price" in facts else ""
    return (
        f'<event type="{facts["type"]}"><title>{facts["title"]}</title>'
        f'<venue>{facts["venue"]}</venue><day>{facts["day"]}</day>{price}</event>'
    )
