"""A planted set of three digits with every kind of role, small enough for tests."""

from discovery.planted_recipe import Plant, Recipe

CUES = (
    Plant(phrase="red circle", kind="object", label="three", cramers_v=0.8),
    Plant(phrase="stripes", kind="texture", label="one", cramers_v=0.6),
    Plant(phrase="date stamp", kind="text", role="decoy"),
    Plant(phrase="blue border", kind="border", label="eight", cramers_v=0.7),
    Plant(phrase="magenta border", kind="border", role="unused", label="eight", cramers_v=0.7, border_frac=0.04),
)


def small_recipe(**changes: object) -> Recipe:
    values = {
        "classes": ("one", "three", "eight"),
        "train_per_class": 20,
        "test_per_class": 10,
        "canvas_px": 96,
        "plants": CUES,
    }
    return Recipe(**(values | changes))
