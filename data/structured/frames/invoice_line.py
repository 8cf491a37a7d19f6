"""Frames of the schema invoice_line."""

from structured.engine import Draw, Fact, Topic, pick

ARTICLES = [
    "desk lamps", "printer cartridges", "steel brackets", "paint buckets", "office chairs", "water filters",
    "packing boxes", "LED panels", "rubber gloves", "oak shelves", "cable reels", "door handles",
    "coffee pads", "bike helmets", "garden hoses", "name badges", "paper rolls", "fuse boxes",
]
SIGNS = {"EUR": ["€{n}", "{n} €", "{n} EUR", "{n} euros"], "USD": ["${n}", "{n} USD", "USD {n}", "{n} dollars"], "GBP": ["£{n}", "{n} GBP", "GBP {n}", "{n} pounds"]}


def price(draw: Draw) -> Fact:
    """An amount with its currency."""
    value = draw.rng.choice([float(draw.rng.randint(2, 45)), draw.rng.randint(2, 40) + 0.5, round(draw.rng.uniform(3, 60), 2)])
    currency = draw.rng.choice(list(SIGNS))
    text = f"{value:.2f}" if value % 1 or draw.rng.random() < 0.3 else str(int(value))
    return draw.rng.choice(SIGNS[currency]).format(n=text), {"unit_price": int(value) if value % 1 == 0 else value, "currency": currency}


def discount(draw: Draw) -> Fact:
    """A whole percentage."""
    value = draw.rng.choice([2, 3, 5, 8, 10, 12, 15, 20, 25])
    return draw.rng.choice(["{n}%", "{n} %", "{n} percent"]).format(n=value), value


TRAIN = [
    "{quantity} {article} at {price} each[, less {discount_percent}]. [Already paid{paid=true}.]",
    "Please bill {quantity} {article}, unit price {price}[, discount {discount_percent}]. [Payment is still open{paid=false}.]",
    "We bought {quantity} {article} for {price} apiece. [You gave us {discount_percent} off.] [The money was sent yesterday{paid=true}.]",
    "article: {article}\nquantity: {quantity}\nprice: {price}[\ndiscount: {discount_percent}][\npaid: yes{paid=true}]",
    "Invoice item: {article}, {quantity} pieces, {price} per piece[, {discount_percent} discount][, paid{paid=true}][.]",
    "Add {quantity} {article} to the bill, {price} per unit. [Take {discount_percent} off.] [They have not paid yet{paid=false}.]",
    "One piece costs {price}, and they took {quantity} of the {article}. [We granted {discount_percent} discount.]",
    "Line 3: {quantity} x {article} @ {price}[ -{discount_percent}][, settled in cash{paid=true}]",
    "The customer ordered {quantity} {article}. Price per item: {price}. [Rebate: {discount_percent}.] [Transfer received, thanks{paid=true}.]",
    "Our {article} are {price} each; the school wants {quantity}[ and gets {discount_percent} off]. [Unpaid{paid=false}.]",
    "For {quantity} {article} I noted {price} a piece[ minus {discount_percent}]. [She paid by card{paid=true}.]",
    "could you invoice {quantity} {article}? single price {price}[, with {discount_percent} discount]",
]
VAL = [
    "Delivered: {quantity} {article}. Each one is {price}[, {discount_percent} discount applies]. [Bill was paid{paid=true}.]",
    "Charge {price} per piece for the {article}, {quantity} in total[, and deduct {discount_percent}].",
]
TEST = [
    "On the delivery note I count {quantity} {article}. We agreed on {price} per item[ and a discount of {discount_percent}]. [You have the money already{paid=true}.]",
    "{article}: {quantity} pcs, {price} ea.[, disc. {discount_percent}][, PAID{paid=true}]",
    "They will take {quantity} {article} if one costs {price}[, with {discount_percent} knocked off]. [Nothing has been paid so far{paid=false}.]",
    "Write down: {price} for each of the {quantity} {article}. [Regular customer, so {discount_percent} less.] [Paid on the spot{paid=true}.]",
]


def quantity(draw: Draw) -> Fact:
    """Two or more, often round."""
    value = draw.rng.choice([draw.rng.randint(2, 20), draw.rng.choice([24, 30, 36, 40, 50, 75, 100, 120, 250])])
    return str(value), value


TOPIC = Topic(
    name="invoice_line",
    slots={"article": pick(ARTICLES), "quantity": quantity, "price": price, "discount_percent": discount},
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    defaults={"paid": False},
    extra=["The pallet came on Tuesday.", "Our VAT number has not changed.", "The driver was very kind."],
)
