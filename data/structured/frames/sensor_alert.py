"""Frames of the schema sensor_alert."""

from structured.engine import Draw, Fact, Topic, pick

PLACES = [
    "cold store 2", "boiler room", "greenhouse 5", "server room", "tank farm", "paint shop", "hall 3",
    "the cellar", "wine vault", "pump house", "drying chamber", "incubator 1", "the attic", "loading bay",
    "fish tank 4", "clean room", "cheese cave",
]
UNITS = {
    "°C": ((-20, 60), [" °C", "°C", " degrees Celsius"]),
    "%": ((5, 99), ["%", " %", " percent"]),
    "bar": ((1, 12), [" bar"]),
    "ppm": ((200, 3000), [" ppm", "ppm"]),
}


def sensor(draw: Draw) -> Fact:
    """An identifier like T-204."""
    name = f"{draw.rng.choice(['T', 'P', 'H', 'CO', 'TX', 'A'])}-{draw.rng.randint(1, 480)}"
    return name, name


def values(draw: Draw) -> tuple[str, str, str, dict]:
    """A reading above its limit."""
    unit = draw.rng.choice(list(UNITS))
    (low, high), forms = UNITS[unit]
    limit = draw.rng.randint(low, high - 2)
    value = draw.rng.randint(limit + 1, min(high, limit + max(3, (high - low) // 4)))
    if unit in ("°C", "bar") and draw.rng.random() < 0.4:
        value = value - draw.rng.randint(1, 9) / 10
        value = round(value, 1)
    form = draw.rng.choice(forms)
    return f"{value}{form}", f"{limit}{form}", str(limit), {"reading": {"value": value, "unit": unit}, "limit": limit}


def over(draw: Draw) -> Fact:
    """Reading and limit in one phrase."""
    value, limit, bare, facts = values(draw)
    if draw.split == "test":
        forms = [f"{value} although only {limit} is allowed", f"{value}, above the {bare} we set", f"{value} where {limit} is the limit"]
    else:
        forms = [f"{value} (limit {limit})", f"{value}, limit is {bare}", f"{value}; the limit of {limit} is exceeded", f"{value}, max. {limit}", f"{value} instead of at most {limit}"]
    return draw.rng.choice(forms), facts


TRAIN = [
    "Sensor {sensor} in {place} reads {over}. [Acknowledged by the shift lead{acknowledged=true}.]",
    "ALERT {sensor} {place}: {over}[ - ack{acknowledged=true}]",
    "{place}: {sensor} shows {over}. [Nobody has confirmed it{acknowledged=false}.]",
    "Please check {place}. According to {sensor} it is at {over}. [I have confirmed the alarm{acknowledged=true}.]",
    "alarm from {sensor}, {place}. value {over}. [acknowledged: no{acknowledged=false}]",
    "We got a warning: {over}. It came from {sensor}, {place}. [Marta acknowledged it{acknowledged=true}.]",
    "{sensor} is screaming again, {over}, over in {place}. [Still unacknowledged{acknowledged=false}.]",
    "sensor: {sensor}\nplace: {place}\nvalue: {over}[\nacknowledged: yes{acknowledged=true}]",
    "At six this morning {sensor} measured {over}. Location: {place}. [The alarm has been acknowledged{acknowledged=true}.]",
    "Something is wrong in {place}, {sensor} says {over}. [I pressed the confirm button{acknowledged=true}.]",
    "Shift note: {sensor} ({place}) went up to {over}. [Alarm not yet confirmed{acknowledged=false}.]",
    "The display for {place} turned red. {sensor} gives {over}. [Alarm confirmed{acknowledged=true}.]",
]
VAL = [
    "Reading of {sensor}, mounted in {place}: {over}. [Alarm was acknowledged{acknowledged=true}.]",
    "New alert! {place}, {sensor}, {over}.",
]
TEST = [
    "I walked past {place} and saw {sensor} at {over}. [Somebody had already acknowledged it{acknowledged=true}.]",
    "{sensor} -- {place} -- {over}[ -- confirmed{acknowledged=true}]",
    "Monitoring reports {over} for {sensor} near {place}. [So far no one has acknowledged this{acknowledged=false}.]",
    "Can a technician go to {place}? {sensor} has climbed to {over}. [I acknowledged the alarm from my desk{acknowledged=true}.]",
]
TOPIC = Topic(
    name="sensor_alert",
    slots={"sensor": sensor, "place": pick(PLACES), "over": over},
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"acknowledged": False},
    extra=["The window there does not close.", "It was fine yesterday.", "The batteries are new."],
)
