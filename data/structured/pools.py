"""Invented names and everyday words; the first 70 % serve training, the last 60 % tests."""

CITIES = [
    "Lisbon", "Oslo", "Graz", "Porto", "Dublin", "Malmö", "Turin", "Ghent", "Split", "Leipzig",
    "Nantes", "Bristol", "Krakow", "Seville", "Tampere", "Zurich", "Brno", "Cork", "Aarhus", "Riga",
    "Bologna", "Toulouse", "Madrid", "Vilnius", "Antwerp", "Valencia", "Stockholm", "Bergen",
    "Athens", "Hamburg", "Naples", "Geneva", "Warsaw", "Utrecht", "Edinburgh", "Ljubljana",
]
FIRST = [
    "Amara", "Jonas", "Priya", "Mateo", "Ines", "Tomasz", "Leila", "Callum", "Yuki", "Nadia",
    "Felix", "Rosa", "Emeka", "Hanna", "Viktor", "Chiara", "Omar", "Freya", "Dimitri", "Aoife",
    "Luca", "Marta", "Kofi", "Elsa", "Rafael", "Mina", "Anton", "Zoe", "Idris", "Petra",
]
LAST = [
    "Okafor", "Lindqvist", "Moreau", "Banerjee", "Kovacs", "Fenwick", "Duarte", "Halloran",
    "Novak", "Sato", "Brandt", "Castellan", "Adeyemi", "Rossetti", "Vance", "Petrov", "Nyberg",
    "Whitlock", "Ferreira", "Jansen", "Marchetti", "Quill", "Osman", "Tamm", "Bielski",
]
COMPANIES = [
    "Nordwind Logistics", "Bluefin Foods", "Hartmann Optics", "Copper & Pine", "Lumen Studio",
    "Oakfield Dental", "Rapid Kiosk", "Vela Robotics", "Greenmile", "Tinwhistle Games",
    "Saltmarsh Energy", "Pixelforge", "Quarry Lane Bakery", "Aster Clinics", "Fjordline Tools",
    "Mossbank Insurance", "Kettle & Co", "Redbrick Media", "Sundial Travel", "Orbit Textiles",
]
