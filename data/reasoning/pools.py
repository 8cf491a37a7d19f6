"""Names and things that are filled into the phrasings."""

NAMES = (
    "Ada Ben Cara Dan Ela Finn Gina Hugo Ida Jon Kira Leo Mia Nils Olga Pia Ravi Sara Tom Uma Vera Wes Yara Zoe "
    "Amir Bea Chen Dora Emil Fay Goran Hana Ivan Jade Kofi Lena Milo Nora Omar Petra Rosa Sven Tara Viktor"
).split()
"""First names; a problem uses different ones for different people."""

THINGS = (
    "apples stickers marbles pencils stamps shells buttons cards nuts plums coins beads badges pears lemons "
    "candles balloons postcards magnets crayons"
).split()
"""Countable things, in the plural."""

GOODS = "pens mugs books caps scarves plants lamps kites bowls games".split()
"""Things that are bought, in the plural."""

SNACKS = "muffins rolls cookies pies pretzels tarts scones buns".split()

PETS = "cat dog fish bird rabbit hamster turtle".split()
COLOURS = "red blue green yellow white black".split()
FOODS = "soup salad pizza rice pasta curry".split()
