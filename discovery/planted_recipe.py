"""A TOML section → a recipe for a planted set, and which of its images show which cue."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from discovery.errors import ConfigError
from discovery.planted_cues import parse_cue
from discovery.schema import Kind

SPLITS = ("train", "test")
CORNERS = 4

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Plant(BaseModel):
    """One planted cue.

    A *cue* goes with its label in the train split; a *decoy* is as frequent but goes with none; an *unused* one goes
    with its label but lies where the model does not look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrase: str
    kind: Kind
    role: Literal["cue", "decoy", "unused"] = "cue"
    label: str | None = Field(None, description="the class it goes with; none for a decoy")
    cramers_v: Fraction = Field(0.0, description="Cramér's V of the cue with its label in the train split")
    prevalence: Fraction | None = Field(None, description="share of train images with it; default 1 / classes")
    border_frac: Fraction = Field(0.08, description="borders: thickness as a share of the side")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "Plant":
        parse_cue(self.phrase)
        if (self.role == "decoy") != (self.label is None and self.cramers_v == 0):
            raise ValueError(
                f"{self.role} {self.phrase!r}: a decoy has neither label nor cramers_v, a cue or an unused has both"
            )
        return self


class Recipe(BaseModel):
    """What to plant in what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "planted"
    seed: Annotated[int, Field(ge=0)] = 0
    classes: tuple[str, ...] = Field(min_length=2)
    train_per_class: Annotated[int, Field(ge=1)] = 110
    test_per_class: Annotated[int, Field(ge=0)] = 60
    canvas_px: Annotated[int, Field(ge=64, le=1024)] = 160
    objects: str = Field("digits", description='"digits", or a folder of class/*.jpg photos')
    contrast: Fraction = Field(0.5, description="how far the object stands out from what is behind it")
    noise: Annotated[float, Field(ge=0)] = Field(10.0, description="standard deviation in grey levels")
    label_noise: Fraction = Field(0.0, description="share of train images whose object is of another class")
    test_prevalence: Fraction = Field(0.5, description="share of each class's test images with each plant")
    plants: tuple[Plant, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> "Recipe":
        for plant in self.plants:
            if plant.label is not None and plant.label not in self.classes:
                raise ValueError(f"plant {plant.phrase!r}: label {plant.label!r} is none of {', '.join(self.classes)}")
            presence_probs(self, plant)
        phrases = [plant.phrase for plant in self.plants]
        if len(set(phrases)) < len(phrases) or len(set(self.classes)) < len(self.classes):
            raise ValueError("a phrase or a class is there twice; name each once")
        if sum(parse_cue(phrase).corners for phrase in phrases) > CORNERS:
            raise ValueError(f"an image has {CORNERS} corners: a sticker or text takes one, a caption two")
        return self


def read_recipe(path: str | Path) -> Recipe:
    """Reads the `[recipe]` section of a TOML file.

    Raises:
        ConfigError: the file or section is missing, or a key is unknown or its value unusable.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no recipe at {path}; start from data/demo.toml")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if "recipe" not in values:
        raise ConfigError(f"{path} has no section [recipe]; see data/demo.toml")
    try:
        return Recipe(**values["recipe"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("recipe", *first["loc"]))
        raise ConfigError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from error


def presence_probs(recipe: Recipe, plant: Plant) -> tuple[float, float]:
    """Returns the shares of its own class's and of all other train images that show a plant.

    For a binary cue against a binary label Cramér's V is |phi| = d √(π(1 − π) / (p(1 − p))), with d the difference of
    the two shares, π the label's share and p the cue's (Cramér 1946, §21.9).

    Raises:
        ValueError: no shares in [0, 1] give this V at this prevalence.
    """
    share = 1 / len(recipe.classes)
    p = share if plant.prevalence is None else plant.prevalence
    if plant.label is None:
        return p, p
    difference = plant.cramers_v * np.sqrt(p * (1 - p) / (share * (1 - share)))
    own, rest = p + (1 - share) * difference, p - share * difference
    if own > 1 + 1e-9 or rest < -1e-9:
        raise ValueError(
            f"plant {plant.phrase!r}: V = {plant.cramers_v} cannot be had at prevalence {p:.2f} with "
            f"{len(recipe.classes)} classes; leave prevalence out ({share:.2f}), or lower V"
        )
    return float(min(own, 1)), float(max(rest, 0))


def draw_presences(recipe: Recipe, split: str) -> np.ndarray:
    """Draws which image of a split shows which plant, with exact counts.

    Returns:
        (n, plants) bool; images are in the order of the classes.
    """
    rng = np.random.default_rng([recipe.seed, SPLITS.index(split), 1])
    each = recipe.train_per_class if split == "train" else recipe.test_per_class
    columns = [np.zeros((0, len(recipe.classes) * each), bool)]
    for item in recipe.plants:
        counts = _counts(recipe, item, each, rng) if split == "train" else _even(recipe, each)
        shown = [rng.permutation(each) < count for count in counts]
        columns.append(np.concatenate(shown)[None])
    return np.concatenate(columns).T


def cramers_v(present: np.ndarray, tied: np.ndarray) -> float:
    """Returns Cramér's V of two (n,) bool columns; 0 when one does not vary."""
    if present.all() or tied.all() or not present.any() or not tied.any():
        return 0.0
    return float(abs(np.corrcoef(present, tied)[0, 1]))


def _even(recipe: Recipe, each: int) -> list[int]:
    return [round(recipe.test_prevalence * each)] * len(recipe.classes)


def _counts(recipe: Recipe, item: Plant, each: int, rng: np.random.Generator) -> list[int]:
    """Returns how many train images of each class show a plant: the whole numbers that come closest to its V."""
    own, rest = presence_probs(recipe, item)
    if item.label is None:
        return [round(own * each)] * len(recipe.classes)
    others = (len(recipe.classes) - 1) * each
    tied = np.repeat([True, False], [each, others])

    def miss(pair: tuple[int, int]) -> float:
        shown = np.concatenate([np.arange(each) < pair[0], np.arange(others) < pair[1]])
        return abs(cramers_v(shown, tied) - item.cramers_v)

    near = [
        (a, b)
        for a in range(int(own * each), min(int(own * each) + 1, each) + 1)
        for b in range(int(rest * others), min(int(rest * others) + 1, others) + 1)
    ]
    shown_own, shown_rest = min(near, key=miss)
    base, spare = divmod(shown_rest, len(recipe.classes) - 1)
    extra = iter(rng.permutation(len(recipe.classes) - 1) < spare)
    return [shown_own if name == item.label else base + int(next(extra)) for name in recipe.classes]
