"""Frames of the schema incident_report."""

from structured.engine import Draw, Fact, Topic, date, pick, several

SYSTEMS = [
    "payment gateway", "mail server", "booking site", "warehouse scanner app", "login service",
    "phone system", "file share", "ticket shop", "badge reader", "backup server", "print queue",
    "customer portal", "label printer service", "video call system", "time tracking tool",
]
CAUSES = [
    "an expired certificate", "a full disk", "a broken network cable", "a failed update",
    "a power cut", "a wrong firewall rule", "a memory leak", "overheating", "a typo in the config",
    "a faulty switch", "too many requests", "a locked database table", "an old driver", "a bad backup job",
]
TEAMS = [
    "Sales", "Support", "Finance", "Logistics", "Marketing", "Legal", "Purchasing", "Research",
    "Reception", "Field Service", "Production", "Quality",
]
LEVELS = ["low", "medium", "high", "critical"]


def severity(draw: Draw) -> Fact:
    """A level by its name."""
    word = draw.rng.choice(LEVELS)
    return word, word


TRAIN = [
    "On {date} the {system} went down. Severity: {severity}. Affected: {teams}. [The cause was {cause}.] [It is fixed{resolved=true}.]",
    "{system} outage on {date}, severity {severity}[, caused by {cause}]. {teams} could not work. [Solved by now{resolved=true}.]",
    "Incident of {severity} severity: since {date} the {system} does not answer. Hit: {teams}. [We found {cause}.] [Still open{resolved=false}.]",
    "date: {date}\nsystem: {system}\nseverity: {severity}\nteams: {teams}[\ncause: {cause}][\nstatus: resolved{resolved=true}]",
    "Our {system} failed on {date}. {teams} called us about it. We rate it {severity}. [Reason: {cause}.] [Everything runs again{resolved=true}.]",
    "{severity} incident, {date}: {system}. [It came from {cause}.] Teams hit: {teams}. [We have not got it back yet{resolved=false}.]",
    "For the log: {date}, {system} unavailable, impact {severity}, teams {teams}[, root cause {cause}][, closed{resolved=true}].",
    "The {system} has been unusable for {teams} since {date}. Please treat this as {severity}. [The cause is unknown so far.]",
    "[Thanks to {cause}, ]the {system} stopped on {date}. Level {severity}. {teams} lost some hours. [It has been repaired{resolved=true}.]",
    "{teams} reported on {date} that the {system} was slow, then dead. Priority {severity}. [It turned out to be {cause}.] [Now it works{resolved=true}.]",
    "Post-mortem of {date}. What broke: the {system}. How bad: {severity}. Who suffered: {teams}. [Why: {cause}.] [Fixed: yes{resolved=true}.]",
    "We had a {severity} problem with the {system} on {date}; {teams} had to wait[ because of {cause}]. [Nobody has a fix so far{resolved=false}.]",
]
VAL = [
    "Outage note, {date}: {system} dead, {severity} severity, {teams} without service. [Trigger: {cause}.] [Restored{resolved=true}.]",
    "We log a {severity} failure of the {system} from {date}. It blocked {teams}. [Blame {cause}.]",
]
TEST = [
    "Starting on {date}, nobody in {teams} could use the {system}. I would call that {severity}. [A technician blamed {cause}.] [All good again{resolved=true}.]",
    "{system} / {date} / {severity} / {teams}[ / {cause}][ / resolved{resolved=true}]",
    "Please file this: severity {severity}, the {system}, {date}. It stopped {teams} from working. [In the end it was {cause}.] [The trouble goes on{resolved=false}.]",
    "what happened: {system} crashed on {date}. who noticed: {teams}. severity is {severity}. [culprit: {cause}.] [it is up again{resolved=true}.]",
]
TOPIC = Topic(
    name="incident_report",
    slots={
        "system": pick(SYSTEMS),
        "severity": severity,
        "date": lambda draw: date(draw, 2025),
        "cause": pick(CAUSES),
        "teams": several(TEAMS, 1, 3),
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"resolved": False},
    extra=["The phones did not stop ringing.", "I was in a meeting when it happened.", "No data was lost."],
)
