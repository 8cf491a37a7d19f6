"""Frames of the schema book_review; titles and authors are invented."""

from structured.engine import Draw, Fact, Topic, pick
from structured.pools import FIRST, LAST

TITLES = [
    "The Salt Ledger", "Nine Quiet Doors", "A Lantern for Mirelle", "Bread and Thunder", "The Glass Orchard",
    "Low Tide Murders", "Kings of Ashmoor", "The Tin Cartographer", "Winter at Polvane", "Slow Trains East",
    "The Last Beekeeper of Orn", "Dust on the Harp", "A Map of Small Rains", "The Ninth Ferryman",
    "Letters to Halvard", "The Copper Moth", "Under the Weir", "Two Weeks in Tarrow", "The Fox Parliament",
]


def author(draw: Draw) -> Fact:
    """First and last name."""
    name = f"{draw.of(FIRST)} {draw.of(LAST)}"
    return name, name


def genre(draw: Draw) -> Fact:
    """A genre by its name."""
    word = draw.rng.choice(["crime", "fantasy", "history", "romance", "travel"])
    return word, word


STARS = {
    1: ["1 star", "one star", "1/5", "1 out of 5 stars"], 2: ["2 stars", "two stars", "2/5"],
    3: ["3 stars", "three stars", "3/5", "3 out of 5 stars"], 4: ["4 stars", "four stars", "4/5", "4 out of 5 stars"],
    5: ["5 stars", "five stars", "5/5"],
}
GOOD = ["Recommended", "Read it", "A must", "I recommend it to everybody", "Buy it"]
BAD = ["Not recommended", "Save your money", "I would not recommend it", "Skip it", "Leave it on the shelf"]
GOOD_TEST = ["You should read it", "Go and get it", "Warmly recommended"]
BAD_TEST = ["Give it a miss", "I cannot recommend this", "Better spend your evening otherwise"]


def verdict(draw: Draw) -> Fact:
    """Stars and an advice that fits them."""
    stars = draw.rng.randint(1, 5)
    like = stars > 3 if stars != 3 else draw.rng.random() < 0.5
    good, bad = (GOOD_TEST, BAD_TEST) if draw.split == "test" else (GOOD, BAD)
    text = f"{draw.rng.choice(STARS[stars])}. {draw.rng.choice(good if like else bad)}"
    return text, {"stars": stars, "recommended": like}


TRAIN = [
    "I just finished \"{title}\"[ by {author}], a {genre} book. {verdict}.",
    "{title}[ ({author})], {genre}: {verdict}!",
    "Genre {genre}. \"{title}\"[ by {author}] kept me busy for a week. My rating: {verdict}.",
    "title: {title}[\nauthor: {author}]\ngenre: {genre}\n{verdict}",
    "My sister gave me {title}, one more {genre} book[ by {author}]. {verdict}.",
    "As a fan of {genre} I had to try {title}[, written by {author}]. Result: {verdict}.",
    "[{author} is new to me. ]\"{title}\" is {genre} through and through. {verdict}.",
    "review of {title}: typical {genre}, {verdict}[. the author is {author}]",
    "We read {title}[ by {author}] in our {genre} club. I gave it {verdict}.",
    "Found {title} in the {genre} corner of the library. [Author: {author}.] {verdict}.",
    "If you like {genre}, here is my opinion on {title}[ by {author}]. {verdict}.",
    "Three evenings with \"{title}\"[, the new one by {author}]. It is sold as {genre}. {verdict}.",
]
VAL = [
    "On my table: {title}[ by {author}]. Shelf: {genre}. {verdict}.",
    "{verdict}. That is what I think of {title}, a {genre} title[ from {author}].",
]
TEST = [
    "Everybody talks about {title}[ by {author}], so I bought this piece of {genre}. {verdict}.",
    "Book 12 of my year: {title}. {genre} again. [{author} wrote it.] {verdict}.",
    "[{author}: ]{title} - {genre} - {verdict}",
    "Took \"{title}\" along on the train and read it in one go. [It is by {author}.] Category {genre}. {verdict}.",
]
TOPIC = Topic(
    name="book_review",
    slots={"title": pick(TITLES), "author": author, "genre": genre, "verdict": verdict},
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    extra=["The cover is pretty, at least.", "I read the paperback.", "My cat slept on it half of the time."],
)
