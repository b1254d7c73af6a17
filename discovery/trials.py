"""Trials (views with a cue removed or pasted in, and their controls) × classifier → rows of `effects`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from discovery.backends.classifier import Classifier
from discovery.config import AblateConfig
from discovery.controls import control_mask
from discovery.dose import DOSE, Dose
from discovery.fills import FILLS, measure_grain
from discovery.interventions import Pair, background_pair, border_pair, crop_border, swap_pair, whole_image_pair
from discovery.stats import logit

CROP = "crop"
"""A frame is cropped away as often as it is filled."""
REMOVAL, PASTE = "removal", "paste"
WAYS = (REMOVAL, PASTE)
UNSEEN = "unseen"
"""Intervention of a cue that lies outside the model's view: nothing to remove, and its effect is zero for certain."""


@dataclass(frozen=True)
class Trial:
    """One cue in one photo: the pairs of variants that are predicted, and what the row already knows.

    Attributes:
        row: the columns of `effects` known before prediction, and `predicted`, the class the photo had.
        pairs: interventions; pairs of the same name are averaged. None where the model's view holds nothing of the cue.
        class_index: of the class in question in the model's output.
        also: rows and class indices of other classes, for which the same forward passes answer.
        doses: views with more and more of the cue removed, which nothing is held against.
    """

    row: dict
    pairs: list[Pair] | None
    class_index: int
    also: tuple[tuple[dict, int], ...] = ()
    doses: tuple[Dose, ...] = ()

    def asked(self) -> list["Trial"]:
        """Returns the trial as each of its classes asks it; the first one bears the forward passes."""
        return [self, *(replace(self, row=row, class_index=index, also=()) for row, index in self.also)]

    def views(self) -> list[np.ndarray]:
        """Returns what is predicted: removed and control of each pair, then the doses."""
        paired = [view for pair in self.pairs or () for view in (pair.removed, pair.control)]
        return paired + [dose.view for dose in self.doses]


@dataclass(frozen=True)
class Scene:
    """What a removal is chosen by.

    Attributes:
        kind: of the cue.
        turn: which of the fills comes first: the place of the photo in the cue's queue.
        forbidden: (h, w) bool, what no control may touch: the cue's siblings.
        around: (h, w) bool, the object, where it is known.
    """

    kind: str
    turn: int
    forbidden: np.ndarray
    around: np.ndarray | None = None


def run_trials(trials: Iterable[Trial], classifier: Classifier, batch_size: int) -> Iterator[dict]:
    """Predicts the variants of trials in full batches and yields the rows of `effects`.

    Args:
        trials: in any order.
        classifier: the model under audit.
        batch_size: views per forward pass.
    """
    waiting: list[Trial] = []
    n_views = 0
    for trial in trials:
        waiting.append(trial)
        n_views += len(trial.views())
        if n_views >= batch_size:
            yield from _rows(waiting, classifier, batch_size)
            waiting, n_views = [], 0
    yield from _rows(waiting, classifier, batch_size)


def _rows(trials: list[Trial], classifier: Classifier, batch_size: int) -> Iterator[dict]:
    views = [view for trial in trials for view in trial.views()]
    chunks = [views[i : i + batch_size] for i in range(0, len(views), batch_size)]
    probs = np.concatenate([classifier.predict(chunk) for chunk in chunks]) if chunks else np.empty((0, 0))
    start = 0
    for trial in trials:
        if trial.pairs is None:
            yield from (_unseen(each) for each in trial.asked())
            continue
        mine, middle = probs[start : start + len(trial.views())], 2 * len(trial.pairs)
        start += len(mine)
        yield from _dosed(trial, mine[middle:])
        mine = mine[:middle]
        for name in dict.fromkeys(pair.name for pair in trial.pairs):
            picked = np.array([pair.name == name for pair in trial.pairs])
            for each in trial.asked():
                row = _row(each, name, mine[0::2][picked], mine[1::2][picked])
                yield row if each is trial else row | {"n_forwards": 0}


def _row(trial: Trial, name: str, after: np.ndarray, control: np.ndarray) -> dict:
    before, c = trial.row["prob_before"], trial.class_index
    # What the cue adds: lost when it is removed, won when it is pasted in.
    sign = 1.0 if trial.row["way"] == REMOVAL else -1.0
    p_after, p_control = float(after[:, c].mean()), float(control[:, c].mean())
    known = {key: value for key, value in trial.row.items() if key != "predicted"}
    return known | {
        "intervention": name,
        "n_forwards": 2 * len(after),
        "prob_after": p_after,
        "prob_control": p_control,
        "effect": sign * (before - p_after),
        "effect_control": sign * (before - p_control),
        "logit_effect": sign * float(logit(before) - logit(after[:, c]).mean()),
        "logit_effect_control": sign * float(logit(before) - logit(control[:, c]).mean()),
        "flipped": _flipped(trial, after, control),
    }


def _dosed(trial: Trial, after: np.ndarray) -> Iterator[dict]:
    for each in trial.asked():
        for dose, probs in zip(trial.doses, after[:, None], strict=True):
            row = _row(each, f"{DOSE}-{dose.share:g}", probs, probs)
            unheld = dict.fromkeys(("prob_control", "effect_control", "logit_effect_control"))
            yield row | unheld | {"way": DOSE, "dose": dose.share, "n_forwards": int(each is trial)}


def _flipped(trial: Trial, after: np.ndarray, control: np.ndarray) -> bool:
    """Tells whether a removal lost the right answer, or a paste-in won the class while its control did not."""
    c = trial.class_index
    called = (after.argmax(axis=1) == c).mean() > 0.5
    if trial.row["way"] == REMOVAL:
        return trial.row["predicted"] == trial.row["label"] and not called
    return bool(called and (control.argmax(axis=1) != c).mean() >= 0.5)


def _unseen(trial: Trial) -> dict:
    before = trial.row["prob_before"]
    known = {key: value for key, value in trial.row.items() if key != "predicted"}
    zeros = dict.fromkeys(("effect", "effect_control", "logit_effect", "logit_effect_control"), 0.0)
    return (
        known
        | zeros
        | {
            "intervention": UNSEEN,
            "n_forwards": 0,
            "prob_after": before,
            "prob_control": before,
            "flipped": False,
        }
    )


def removal_pairs(
    view: np.ndarray, mask: np.ndarray | None, scene: Scene, config: AblateConfig, rng: np.random.Generator
) -> list[Pair]:
    """Makes the removals of one cue from one photo, each with its control.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool, or None for a whole-image cue.
        scene: the cue's kind and what a control must keep clear of.
        config: fills and the largest area with a control of its own.
        rng: chooses the control's place.

    Returns:
        The pairs; none when there is nothing to remove or no control to hold it against.
    """
    if mask is None:
        pair = whole_image_pair(view, scene.kind)
        return [] if pair is None else [pair]
    if np.count_nonzero(mask) > config.max_area_frac * mask.size:
        return []
    # Under a frame lies nothing of the photo, and the next frame inward would cost what it hides: a frame is held
    # against the photo as it is.
    framed = scene.kind == "border" and crop_border(view, mask) is not None
    control = None if framed else control_mask(mask, scene.forbidden, rng, around=scene.around)
    if control is None and not framed:
        return []
    ways = (*config.fills, CROP) if framed else config.fills
    names = dict.fromkeys(ways[(scene.turn + i) % len(ways)] for i in range(config.fills_per_photo))
    grain = measure_grain(view, mask)
    pairs = [_pair(name, view, mask, control, grain) for name in names]
    return [pair for pair in pairs if pair is not None]


def _pair(name: str, view: np.ndarray, mask: np.ndarray, control: np.ndarray | None, grain: np.ndarray) -> Pair | None:
    if name == CROP:
        return border_pair(view, mask)
    beside = view if control is None else FILLS[name](view, control, grain=grain)
    return Pair(name, FILLS[name](view, mask, grain=grain), beside)


def swap_pairs(
    view: np.ndarray,
    mask: np.ndarray,
    scene: Scene,
    donors: Callable[[], list[tuple[np.ndarray, np.ndarray]]],
) -> list[Pair]:
    """Makes the removals of a cue that is too large for a control: its place is filled from other photos.

    A background is changed everywhere but on the object, where the object is known.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool.
        scene: the cue's kind, and the object.
        donors: gives (view without the cue, view with it) of other classes.
    """
    if scene.kind == "background" and scene.around is not None and scene.around.any() and not scene.around.all():
        return [background_pair(view, scene.around, *donor) for donor in donors()]
    return [swap_pair(view, mask, *donor) for donor in donors()]
