"""Recipes: presences have the stated strength, and what cannot be planted is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from small_set import CUES, small_recipe

from discovery.errors import ConfigError
from discovery.planted_cues import parse_cue
from discovery.planted_recipe import Plant, cramers_v, draw_presences, presence_probs, read_recipe
from discovery.planted_scenes import DIGITS

DEMO = Path(__file__).parents[1] / "data" / "demo.toml"


@pytest.mark.parametrize(("n_classes", "v"), list(itertools.product((2, 3, 6), (0.0, 0.3, 0.7, 0.9, 1.0))))
def test_achieved_cramers_v_is_the_stated_one(n_classes, v):
    classes = DIGITS[:n_classes]
    recipe = small_recipe(
        classes=classes,
        train_per_class=110,
        plants=(Plant(phrase="red circle", kind="object", label="one", cramers_v=v),),
    )
    shown = draw_presences(recipe, "train")[:, 0]
    tied = np.repeat([name == "one" for name in classes], 110)
    assert cramers_v(shown, tied) == pytest.approx(v, abs=0.02)
    assert shown[tied].mean() >= shown[~tied].mean() - 0.01


def test_prevalence_is_kept_where_it_is_given():
    recipe = small_recipe(plants=(Plant(phrase="stripes", kind="texture", label="one", cramers_v=0.4, prevalence=0.5),))
    own, rest = presence_probs(recipe, recipe.plants[0])
    assert own / 3 + rest * 2 / 3 == pytest.approx(0.5)
    assert draw_presences(recipe, "train").mean() == pytest.approx(0.5, abs=0.02)


def test_two_plants_are_drawn_independently_within_a_class():
    recipe = small_recipe(train_per_class=170, test_per_class=0, plants=[p for p in CUES if p.role != "decoy"])
    shown = draw_presences(recipe, "train")[340:]
    assert abs(np.corrcoef(shown[:, 2], shown[:, 3])[0, 1]) < 0.25


def test_unused_border_of_the_demo_lies_outside_the_centre_crop():
    recipe = read_recipe(DEMO)
    hidden = [item for item in recipe.plants if item.role == "unused"]
    assert hidden
    assert all(item.border_frac * recipe.canvas_px + 2 <= recipe.canvas_px / 16 for item in hidden)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plants": [{"phrase": "mauve circle", "kind": "object", "role": "decoy"}]}, "cannot plant 'mauve circle'"),
        (
            {"plants": [{"phrase": "stripes", "kind": "texture", "label": "nine", "cramers_v": 0.5}]},
            "'nine' is none of",
        ),
        ({"plants": [{"phrase": "stripes", "kind": "texture"}]}, "a decoy has neither label"),
        (
            {"plants": [{"phrase": "stripes", "kind": "texture", "role": "decoy", "label": "one"}]},
            "a decoy has neither",
        ),
        (
            {"plants": [{"phrase": "grid", "kind": "texture", "label": "one", "cramers_v": 0.9, "prevalence": 0.9}]},
            "cannot be had at prevalence 0.90",
        ),
        ({"plants": [CUES[0].model_dump()] * 2}, "twice"),
        (
            {
                "plants": [
                    {"phrase": f"{c} star", "kind": "object", "role": "decoy"}
                    for c in ("red", "blue", "green", "cyan", "pink")
                ]
            },
            "an image has 4 corners",
        ),
    ],
)
def test_impossible_recipe_is_refused_with_its_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        small_recipe(**changes)


def test_recipe_file_errors_name_the_key(tmp_path):
    file = tmp_path / "recipe.toml"
    with pytest.raises(ConfigError, match="no recipe at"):
        read_recipe(file)
    for text, message in [
        ("x = ", "is not TOML"),
        ("x = 1", r"no section \[recipe\]"),
        ("[recipe]\nclasses = ['one', 'two']\ncontrasts = 1", "recipe.contrasts"),
        ("[recipe]\nclasses = ['one', 'two']\nnoise = -1", "recipe.noise"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_recipe(file)


def test_demo_recipe_plants_five_kinds_with_five_classes():
    recipe = read_recipe(DEMO)
    planted = [item for item in recipe.plants if item.role == "cue"]
    assert {item.kind for item in planted} == {"texture", "object", "border", "text", "colour"}
    assert len({item.label for item in planted}) == 5
    assert {item.role for item in recipe.plants} == {"cue", "decoy", "unused"}


@pytest.mark.parametrize(
    ("phrase", "family"),
    [("Red Circle", "sticker"), ("brick wall", "texture"), ("grey border", "border"), ("blurry image", "change")],
)
def test_phrases_are_read_whatever_their_case(phrase, family):
    assert parse_cue(phrase).family == family
