"""Frames of the schema recipe_card."""

from structured.engine import Draw, Fact, Topic, number

SWEET_DISHES = ["plum cake", "cherry pie", "pear tart", "lemon cake", "waffles", "pancakes", "cheesecake"]
DISHES = [
    "lentil soup", "potato gratin", "mushroom risotto", "fish pie", "bean chili",
    "tomato tart", "chicken curry", "leek quiche", "beetroot salad", "onion soup",
    "pea stew", "pumpkin curry", "egg noodles", "spinach pie",
]
GOODS = [
    ("eggs", ["2", "3", "4"]),
    ("milk", ["250 ml", "500 ml", "1 cup"]), ("butter", ["50 g", "80 g", "100 g"]),
    ("onions", ["2", "3", "1 kg"]), ("carrots", ["3", "4", "500 g"]),
    ("rice", ["200 g", "1 cup", "300 g"]), ("potatoes", ["1 kg", "600 g", "5"]),
    ("cream", ["100 ml", "200 ml"]), ("spring onions", ["3", "5"]),
    ("tomatoes", ["4", "500 g", "1 kg"]), ("cheese", ["100 g", "150 g"]),
    ("lentils", ["250 g", "2 cups"]), ("garlic cloves", ["2", "3", "5"]),
    ("olive oil", ["2 tbsp", "50 ml"]), ("mushrooms", ["300 g", "400 g"]),
    ("peas", ["200 g", "1 cup"]), ("leeks", ["2", "3"]),
    ("yoghurt", ["150 g", "200 ml"]),
]  # fmt: skip
SWEET = [
    ("flour", ["200 g", "250 g", "300 g"]), ("sugar", ["80 g", "2 tbsp", "120 g"]), ("eggs", ["2", "3", "4"]),
    ("butter", ["50 g", "80 g", "100 g"]), ("cream", ["100 ml", "200 ml"]), ("milk", ["250 ml", "1 cup"]),
    ("honey", ["2 tbsp", "50 g"]), ("ground almonds", ["100 g", "150 g"]), ("cinnamon", ["1 tsp", "2 tsp"]), ("yoghurt", ["150 g", "200 ml"]),
]
JOINS = [", ", " + ", ", ", "; "]


def is_sweet(draw: Draw) -> bool:
    """Whether this text is about a cake."""
    return draw.memo.setdefault("sweet", draw.rng.random() < 0.35)


def dish(draw: Draw) -> Fact:
    """A dish by its name."""
    name = draw.of(SWEET_DISHES if is_sweet(draw) else DISHES)
    return name, name


def ingredients(draw: Draw) -> Fact:
    """Two to four ingredients with quantities."""
    rows = [(draw.rng.choice(amounts), item) for item, amounts in draw.some(SWEET if is_sweet(draw) else GOODS, 2, 3)]
    way = draw.rng.randrange(3)
    if way == 0:
        parts = [f"{amount} {item}" for amount, item in rows]
    elif way == 1:
        parts = [f"{item} ({amount})" for amount, item in rows]
    else:
        parts = [f"{amount} of {item}" if " " in amount else f"{amount} {item}" for amount, item in rows]
    join = draw.rng.choice(JOINS)
    text = join.join(parts) if join != ", " or draw.rng.random() < 0.3 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return text, [{"item": item, "quantity": amount} for amount, item in rows]


TRAIN = [
    "For {servings} portions of {dish} you need {ingredients}. [It takes {minutes} minutes.]",
    "My grandmother's {dish}: {ingredients}. Serves {servings}. [Ready in {minutes} minutes.]",
    "{dish} (serves {servings}[, {minutes} min])\n{ingredients}",
    "Tonight I made {dish} with {ingredients}; enough for {servings} people. [Took me {minutes} minutes.]",
    "Buy {ingredients}. That makes {dish} for {servings}[, done after {minutes} minutes in the oven].",
    "Shopping list for the {dish}: {ingredients}. We will be {servings} at the table. [Plan {minutes} minutes.]",
    "How to cook {dish} for {servings}: take {ingredients}, mix, season[, and wait {minutes} minutes].",
    "{servings} servings, [{minutes} minutes,] {dish}. You will want {ingredients}.",
    "Take {ingredients} and you have {dish} for {servings} guests. [Cooking time: {minutes} minutes.]",
    "The kids love this {dish}. It feeds {servings}. Ingredients: {ingredients}. [Total time {minutes} minutes.]",
    "Here is the {dish} from the cooking class, for {servings} persons. We used {ingredients}. [{minutes} minutes from start to plate.]",
    "dish of the week: {dish}. {ingredients}. feeds {servings}[. {minutes} mins]",
    "You asked for my {dish}. Start with {ingredients}; salt as you like. Good for {servings} people[ and finished in {minutes} minutes].",
]
VAL = [
    "Recipe no. 14, {dish}. Put {ingredients} in a pot. Yields {servings} portions[ within {minutes} minutes].",
    "To make {dish} for {servings}, get {ingredients}. [Allow {minutes} minutes.]",
]
TEST = [
    "I always cook {dish} on Sundays: {ingredients}, nothing else. One pot is enough for {servings}. [Give it {minutes} minutes.]",
    "If {servings} friends come over, try {dish}. All it wants is {ingredients}[, and {minutes} minutes of patience].",
    "Notes on {dish} - amounts for {servings} plates - {ingredients}[ - {minutes} minutes on low heat]",
    "With {ingredients} in the fridge I would do {dish}, which makes {servings} portions. [You are done in {minutes} minutes.]",
]
TOPIC = Topic(
    name="recipe_card",
    slots={
        "dish": dish,
        "servings": number(2, 12, words=0.4),
        "minutes": lambda draw: (lambda n: (str(n), n))(draw.rng.choice([15, 20, 25, 30, 35, 40, 45, 50, 60, 75, 90])),
        "ingredients": ingredients,
    },
    frames={"train": TRAIN, "val": VAL, "test": TEST},
    extra=["Do not forget the salt.", "My oven is old, so watch the colour.", "It tastes even better the next day."],
)
