"""Names and things that are filled into the phrasings."""

NAMES = ["Ada", "Ben", "Cara", "Dan", "Ela", "Finn", "Gina", "Hugo", "Ida", "Jon", "Kira", "Leo", "Mia", "Nils", "Olga", "Pia", "Ravi", "Sara", "Tom", "Uma", "Vera", "Wes", "Yara", "Zoe", "Amir", "Bea", "Chen", "Dora", "Emil", "Fay", "Goran", "Hana", "Ivan", "Jade", "Kofi", "Lena", "Milo", "Nora", "Omar", "Petra", "Rosa", "Sven", "Tara", "Viktor"]
"""First names; a problem uses different ones for different people."""

THINGS = ["apples", "stickers", "marbles", "pencils", "stamps", "shells", "buttons", "cards", "nuts", "plums", "coins", "beads", "badges", "pears", "lemons", "candles", "balloons", "postcards", "magnets", "crayons"]
"""Countable things, in the plural."""

GOODS = ["pens", "mugs", "books", "caps", "scarves", "plants", "lamps", "kites", "bowls", "games"]
"""Things that are bought, in the plural."""

SNACKS = ["muffins", "rolls", "cookies", "pies", "pretzels", "tarts", "scones", "buns"]

PETS = ["cat", "dog", "fish", "bird", "rabbit", "hamster", "turtle"]
COLOURS = ["red", "blue", "green", "yellow", "white", "black"]
FOODS = ["soup", "salad", "pizza", "rice", "pasta", "curry"]
