"""Notes, and the report that is made of them.

A setting: what was done (note, summary), places, findings (note, sentence), next steps (note,
sentence). `{p}` is the place, `{w}` who was there.
"""

from structured.engine import Draw
from structured.pools import FIRST

Pairs = list[tuple[str, str]]
STATUS = {
    "train": {
        "open": ["not finished yet", "work goes on", "still open", "in progress"],
        "blocked": ["on hold until the part comes", "blocked", "cannot go on, no permit", "stuck, waiting for the supplier"],
        "done": ["all done", "finished", "closed", "job complete"],
    },
    "test": {
        "open": ["more to do", "we carry on", "remains open"],
        "blocked": ["halted, key missing", "can't continue before the parts arrive", "blocked for now"],
        "done": ["wrapped up", "everything finished", "done and dusted"],
    },
}
FINAL = [("nothing", "None."), ("file the papers", "File the papers."), ("tell the owner", "Tell the owner.")]
Setting = tuple[str, list[str], list[str], Pairs, Pairs]
SETTINGS: dict[str, Setting] = {
    "greenhouse": (
        "{w} checked {p}.", ["{w} went to {p}", "{p}, check by {w}", "visit: {p} ({w})"], ["greenhouse 1", "greenhouse 4", "the seed house", "greenhouse 7"],
        [("pump leaks", "The pump leaks."), ("two panes cracked", "Two panes are cracked."), ("filter clean", "The filter is clean."), ("vents jammed", "The vents are jammed."), ("soil dry", "The soil is dry."), ("heater ok", "The heater works.")],
        [("replace pump seal", "Replace the pump seal."), ("order glass", "Order glass."), ("water the beds", "Water the beds."), ("oil the vents", "Oil the vents.")],
    ),
    "servers": (
        "{w} inspected {p}.", ["{w} in {p}", "{p} inspected by {w}", "round through {p}, {w}"], ["server room A", "server room B", "the network closet", "the backup rack"],
        [("fan 3 noisy", "Fan 3 is noisy."), ("disk almost full", "The disk is almost full."), ("cables unlabelled", "The cables are unlabelled."), ("power supply fine", "The power supply is fine."), ("door does not lock", "The door does not lock."), ("temperature normal", "The temperature is normal.")],
        [("swap the fan", "Swap the fan."), ("delete old backups", "Delete old backups."), ("label cables", "Label the cables."), ("call locksmith", "Call a locksmith.")],
    ),
    "playground": (
        "{w} inspected {p}.", ["{p}: {w} had a look", "{w}, {p}, yearly check", "inspection {p} by {w}"], ["the playground in Mill Park", "the school playground", "playground 12", "the playground at the lake"],
        [("swing chain rusty", "The swing chain is rusty."), ("slide ok", "The slide is in order."), ("sand dirty", "The sand is dirty."), ("bench broken", "A bench is broken."), ("fence complete", "The fence is complete."), ("screw loose on the seesaw", "A screw on the seesaw is loose.")],
        [("new chain", "Fit a new chain."), ("change sand", "Change the sand."), ("repair bench", "Repair the bench."), ("tighten screw", "Tighten the screw.")],
    ),
    "bakery": (
        "{w} tested {p}.", ["{w} tried {p}", "trial of {p}, baker {w}", "{p} - test run by {w}"], ["the new rye bread", "the oat rolls", "the nut cake", "the spelt loaf"],
        [("crust too hard", "The crust is too hard."), ("taste good", "The taste is good."), ("dough sticky", "The dough is sticky."), ("oven too hot at the back", "The oven is too hot at the back."), ("customers liked it", "Customers liked it."), ("too salty", "It is too salty.")],
        [("bake shorter", "Bake it for a shorter time."), ("less salt", "Use less salt."), ("add flour", "Add flour."), ("print labels", "Print the labels.")],
    ),
    "bus": (
        "{w} serviced {p}.", ["{w} had {p} in the workshop", "{p} serviced, mechanic {w}", "workshop: {p}, {w}"], ["bus 17", "bus 204", "the school bus", "bus 33"],
        [("brakes worn", "The brakes are worn."), ("oil changed", "The oil was changed."), ("left mirror cracked", "The left mirror is cracked."), ("tyres fine", "The tyres are fine."), ("door slow", "The door is slow."), ("battery weak", "The battery is weak.")],
        [("fit new brakes", "Fit new brakes."), ("get mirror", "Get a mirror."), ("charge battery", "Charge the battery."), ("road test", "Do a road test.")],
    ),
    "website": (
        "{w} tested {p}.", ["{w} clicked through {p}", "test of {p} by {w}", "{p}, tester {w}"], ["the booking page", "the login page", "the shop", "the contact form"],
        [("loads slowly", "It loads slowly."), ("two dead links", "There are two dead links."), ("works on phones", "It works on phones."), ("button hidden", "The button is hidden."), ("text has typos", "The text has typos."), ("search finds nothing", "The search finds nothing.")],
        [("fix links", "Fix the links."), ("shrink images", "Shrink the images."), ("correct text", "Correct the text."), ("test again", "Test it again.")],
    ),
    "warehouse": (
        "{w} counted {p}.", ["{w} counted {p}", "stock count {p}, {w}", "{p} counted ({w})"], ["shelf 9", "the paint store", "aisle C", "the spare parts"],
        [("four boxes missing", "Four boxes are missing."), ("labels wrong", "The labels are wrong."), ("list matches", "The list matches the stock."), ("one pallet wet", "One pallet is wet."), ("ladder unsafe", "The ladder is unsafe."), ("scanner works", "The scanner works.")],
        [("search boxes", "Search for the boxes."), ("print new labels", "Print new labels."), ("dry the pallet", "Dry the pallet."), ("buy ladder", "Buy a ladder.")],
    ),
}
HELD_OUT: dict[str, Setting] = {
    "boat": (
        "{w} surveyed {p}.", ["{w} on board of {p}", "survey of {p} done by {w}"], ["the Wild Goose", "rowing boat 5", "the pilot boat"],
        [("hull scratched", "The hull is scratched."), ("sails torn", "The sails are torn."), ("engine starts", "The engine starts."), ("rope frayed", "A rope is frayed."), ("life vests complete", "The life vests are complete."), ("bilge full of water", "The bilge is full of water.")],
        [("patch sails", "Patch the sails."), ("paint hull", "Paint the hull."), ("pump out bilge", "Pump out the bilge."), ("new rope", "Fit a new rope.")],
    ),
    "cinema": (
        "{w} examined {p}.", ["{w} looked after {p}", "{p} / {w} was there"], ["screen 2", "the big hall", "the projection booth"],
        [("lamp dim", "The lamp is dim."), ("seat 14 torn", "Seat 14 is torn."), ("sound clear", "The sound is clear."), ("curtain stuck", "The curtain is stuck."), ("exit sign dark", "The exit sign is dark."), ("carpet stained", "The carpet is stained.")],
        [("change lamp", "Change the lamp."), ("sew seat", "Sew the seat."), ("free the curtain", "Free the curtain."), ("repair sign", "Repair the sign.")],
    ),
}


def lay_out(summary: str, findings: list[str], step: str, status: str) -> str:
    """The Markdown of a report."""
    bullets = "\n".join(f"- {one}" for one in findings)
    return f"## Summary\n{summary}\n\n## Findings\n{bullets}\n\n## Next step\n{step}\n\nStatus: {status}"


def write(draw: Draw) -> tuple[str, str, str]:
    """One row: setting, notes, report."""
    rng, part = draw.rng, "test" if draw.split == "test" else "train"
    settings = HELD_OUT if part == "test" else SETTINGS
    name = rng.choice(list(settings))
    summary, heads, places, findings, steps = settings[name]
    place, who = rng.choice(places), draw.of(FIRST)
    status = rng.choice(["open", "blocked", "done"])
    found, step = rng.sample(findings, rng.randint(2, 3)), rng.choice(FINAL if status == "done" else steps)
    head = rng.choice(heads).format(p=place, w=who)
    later = rng.choice(["next: ", "todo: ", "then: "] if part == "train" else ["to come: ", "after that: "])
    cue = rng.choice(STATUS[part][status])
    notes = [head, *(note for note, _ in found), later + step[0], cue]
    way = rng.randrange(3)
    if way == 0:
        text = ". ".join(one[:1].upper() + one[1:] for one in notes) + "."
    elif way == 1:
        text = "\n".join(f"- {one}" for one in notes) if rng.random() < 0.5 else "\n".join(notes)
    else:
        text = f"{head}: {', '.join(note for note, _ in found)}; {later}{step[0]}; {cue}"
    said = summary.format(p=place, w=who)
    return name, text, lay_out(said[:1].upper() + said[1:], [full for _, full in found], step[1], status)
