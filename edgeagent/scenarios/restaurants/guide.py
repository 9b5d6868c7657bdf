"""Write a small restaurant guide from a seed: twelve Californian cities, every name made up.

Knows nothing of storage. Entries have the shape of Schema-Guided Dialogue's Restaurants_1, where
every value is a string.
"""

from __future__ import annotations

import random

CITIES = {
    "Berkeley": "510",
    "Cupertino": "408",
    "Fremont": "510",
    "Fresno": "559",
    "Long Beach": "562",
    "Los Angeles": "213",
    "Oakland": "510",
    "Sacramento": "916",
    "San Diego": "619",
    "San Francisco": "415",
    "San Jose": "408",
    "Santa Rosa": "707",
}
"""City → area code."""

CUISINES = {
    "American": ("Grill", "Diner", "Kitchen"),
    "Asian": ("Wok", "Table", "House"),
    "Barbecue": ("Smokehouse", "Pit", "Barbecue"),
    "Chinese": ("Garden", "Palace", "Dumplings"),
    "French": ("Bistro", "Brasserie", "Table"),
    "Indian": ("Curry House", "Tandoor", "Spice"),
    "Italian": ("Trattoria", "Osteria", "Pizzeria"),
    "Japanese": ("Sushi", "Ramen", "Izakaya"),
    "Mexican": ("Taqueria", "Cantina", "Cocina"),
    "Mediterranean": ("Mezze", "Terrace", "Olive Bar"),
    "Seafood": ("Oyster Bar", "Fish House", "Pier"),
    "Thai": ("Thai Kitchen", "Orchid", "Street Food"),
    "Vegetarian": ("Greens", "Garden", "Leaf"),
    "Vietnamese": ("Pho", "Banh Mi", "Kitchen"),
}
"""Cuisine → how the names of such places end."""

PRICES = ("inexpensive", "moderate", "expensive", "very expensive")

_FIRST = (
    "Amber", "Blue Heron", "Cedar", "Copper Kettle", "Daybreak", "Elm Street", "Fig Tree",
    "Golden Gate", "Half Moon", "Indigo", "Juniper", "Kingfisher", "Lantern", "Marigold",
    "Nightingale", "Old Mill", "Pepper Lane", "Quiet Corner", "Red Door", "Saffron", "Tin Roof",
    "Union", "Velvet", "Willow", "Yellow Bird",
)  # fmt: skip
_STREETS = (
    "Almaden", "Bancroft", "Citrus", "Dolores", "Eucalyptus", "Ferry", "Grove", "Harbor",
    "Island", "Jackson", "Lakeshore", "Mission", "Orchard", "Poppy", "Redwood", "Sunset",
)  # fmt: skip


def generate(seed: int, n_restaurants: int = 200) -> list[dict[str, str]]:
    """Return the guide; no two places in one city share a name."""
    rng = random.Random(f"restaurant guide {seed}")
    seen: set[tuple[str, str]] = set()
    guide: list[dict[str, str]] = []
    pairs = [(city, cuisine) for city in CITIES for cuisine in CUISINES]
    rng.shuffle(pairs)
    while len(guide) < n_restaurants:
        city, cuisine = pairs[len(guide) % len(pairs)]
        name = f"{rng.choice(_FIRST)} {rng.choice(CUISINES[cuisine])}"
        if (city, name) in seen:
            continue
        seen.add((city, name))
        guide.append(
            {
                "city": city,
                "cuisine": cuisine,
                "has_live_music": str(rng.random() < 0.25),
                "phone_number": f"{CITIES[city]}-555-{rng.randrange(10000):04d}",
                "price_range": rng.choices(PRICES, weights=(3, 5, 3, 1))[0],
                "restaurant_name": name,
                "serves_alcohol": str(rng.random() < 0.5),
                "street_address": f"{rng.randrange(100, 4000)} {rng.choice(_STREETS)} Street",
            }
        )
    return guide
