"""View + cue (a mask, or the whole image) → view with the cue removed or pasted in, and its matched control.

An intervention and its control change the same number of pixels in the same way; they differ in whether the cue is what
changes. Views are (h, w, 3) uint8, masks (h, w) bool.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from discovery.controls import control_mask, shift_between
from discovery.fills import FILLS, fill_blur, window
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.whole_image import PASTES, REMOVALS, shift_as_much

__all__ = [
    "FILLS",
    "Pair",
    "background_pair",
    "border_pair",
    "control_mask",
    "crop_border",
    "donor_pair",
    "paste_pair",
    "show_removed",
    "swap_pair",
    "whole_image_pair",
    "whole_image_paste",
]

LEAST_MIDDLE = 0.5
"""Share of a view that must be left inside a border for the border to be cropped away."""
FINE_PX = 128
"""Shorter side from which a seam is two pixels soft; in smaller views it is one."""


@dataclass(frozen=True)
class Pair:
    """An intervention and its control.

    Attributes:
        name: the intervention, as the table `effects` names it.
        removed: the view without the cue; for a paste, another photo's view with the cue pasted in.
        control: the view with as much else changed in the same way.
    """

    name: str
    removed: np.ndarray
    control: np.ndarray


def swap_pair(view: np.ndarray, mask: np.ndarray, without: np.ndarray, with_cue: np.ndarray) -> Pair:
    """Replaces a region by the same place of another photo: one without the cue, and as control one that has it.

    For a cue too large to have an equal-area control. Both donors come from other classes, so what differs is the cue.

    Args:
        view: the photo.
        mask: the cue in it.
        without: (h, w, 3) uint8 donor that lacks the cue.
        with_cue: (h, w, 3) uint8 donor that shows it.
    """
    inside = mask.view(np.uint8)
    lacking, showing = (cv2.copyTo(_fit(donor, view), inside, view.copy()) for donor in (without, with_cue))
    return Pair("swap", lacking, showing)


def background_pair(view: np.ndarray, keep: np.ndarray, without: np.ndarray, with_cue: np.ndarray) -> Pair:
    """Replaces all that is not the object by other photos: one without the cue, and as control one that has it.

    The donors' own objects come along; with both donors from other classes, that is the same in the two.

    Args:
        view: the photo.
        keep: (h, w) bool, the object, of which no pixel changes.
        without: (h, w, 3) uint8 donor whose background lacks the cue.
        with_cue: (h, w, 3) uint8 donor whose background shows it.
    """
    return Pair("background", *(_blend(view, _fit(donor, view), ~keep) for donor in (without, with_cue)))


def paste_pair(
    target: np.ndarray, source: np.ndarray, mask: np.ndarray, control: np.ndarray, *, move: bool = True
) -> Pair:
    """Pastes a cue into another photo, and as control something else of the same source photo.

    A control of the cue's own shape is pasted over the very place that the cue is pasted over: both hide the same part
    of the target behind the same seam. So is that of a frame: what the source shows inside it, enlarged. Any other
    control is pasted where it was.

    Args:
        target: the view that the cue is pasted into.
        source: the view that it is taken from; another size is resized to the target's.
        mask: the cue in the source.
        control: what is held against it in the source, as from `control_mask`.
        move: False pastes every control where it was.
    """
    shift = shift_between(mask, control) if move else None
    inner = crop_border(source, mask) if move else None
    beside, place = (source, control) if shift is None else (np.roll(source, shift, axis=(0, 1)), mask)
    if inner is not None:
        beside, place = inner, mask
    height, width = target.shape[:2]
    here, there = (
        cv2.resize(area.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).view(bool)
        for area in (mask, place)
    )
    return Pair("paste", _blend(target, _fit(source, target), here), _blend(target, _fit(beside, target), there))


def donor_pair(target: np.ndarray, source: np.ndarray, donor: np.ndarray, mask: np.ndarray) -> Pair:
    """Pastes a cue into another photo, and as control the same place of a third photo, which lacks the cue.

    For a cue that leaves no room for a control beside it. Source and donor are of one class, so that what else is
    pasted is alike: what differs is the cue.

    Args:
        target: the view that both are pasted into.
        source: the view that the cue is taken from.
        donor: the view that the control is taken from.
        mask: the cue in the source.
    """
    height, width = target.shape[:2]
    place = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).view(bool)
    return Pair("paste-donor", *(_blend(target, _fit(view, target), place) for view in (source, donor)))


def _fit(donor: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Returns a donor at the size of a view."""
    if donor.shape == view.shape:
        return donor
    return cv2.resize(donor, (view.shape[1], view.shape[0]), interpolation=cv2.INTER_AREA)


def _blend(target: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lays a source over a target inside a mask, with an edge that fades inward: nothing outside the mask changes."""
    pasted = target.copy()
    soft_px = 2 if min(mask.shape) >= FINE_PX else 1
    box = window(mask, 1)
    inside = mask[box].view(np.uint8)
    if not inside.any():
        return pasted
    weight = np.minimum(cv2.distanceTransform(inside, cv2.DIST_C, 3) / (soft_px + 1), 1, dtype=np.float32)
    pasted[box] = cv2.blendLinear(source[box], target[box], weight, 1 - weight)
    return pasted


def crop_border(view: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Crops a view to the middle that a border leaves free, and brings it back to its size.

    Returns:
        (h, w, 3) uint8, or None when the mask does not touch all four sides or leaves less than half the view free.
    """
    middle = _middle(mask)
    if middle is None:
        return None
    return cv2.resize(view[middle], (view.shape[1], view.shape[0]), interpolation=cv2.INTER_LINEAR)


def border_pair(view: np.ndarray, mask: np.ndarray) -> Pair | None:
    """Removes a border by a crop to its middle, against the middle enlarged and shrunk back inside the border.

    Both show the whole middle, resampled as much, and only one shows the border. They differ in scale, which a crop
    cannot help; a control with an enlarged middle would hide a part of it and pass for the border's own harm.

    Args:
        view: the photo.
        mask: the border in it.

    Returns:
        The pair, or None where `crop_border` finds no middle.
    """
    removed = crop_border(view, mask)
    if removed is None:
        return None
    rows, columns = _middle(mask)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    control = view.copy()
    control[rows, columns] = cv2.resize(removed, size, interpolation=cv2.INTER_AREA)
    return Pair("crop", removed, control)


def _middle(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Returns the rows and columns inside a border: out from the centre to the border, then in until all is free."""
    if not (mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()):
        return None
    height, width = mask.shape
    spans = (
        _span(mask[:, width // 4 : -(-3 * width // 4)].any(axis=1)),
        _span(mask[height // 4 : -(-3 * height // 4)].any(axis=0)),
    )
    (top, bottom), (left, right) = spans
    while bottom > top and right > left and (bottom - top) * (right - left) >= LEAST_MIDDLE * mask.size:
        if not mask[top:bottom, left:right].any():
            return slice(top, bottom), slice(left, right)
        top, bottom, left, right = top + 1, bottom - 1, left + 1, right - 1
    return None


def _span(covered: np.ndarray) -> tuple[int, int]:
    """Returns the start and end of the free lines around the middle one; equal when that one is covered."""
    centre = len(covered) // 2
    before, after = np.flatnonzero(covered[:centre]), np.flatnonzero(covered[centre:])
    return (int(before[-1]) + 1 if len(before) else 0), centre + (
        int(after[0]) if len(after) else len(covered) - centre
    )


def whole_image_pair(view: np.ndarray, kind: str) -> Pair | None:
    """Removes a cue that has no place, against a change of equal size in another direction.

    colour: the mean chroma is shifted to grey; control: an equal shift of brightness.
    lighting: brightness and contrast are brought to the middle; control: a change of white balance as rare as that.
    quality: sharpened (unsharp mask); control: an equal shift of brightness.

    Returns:
        The pair, or None when the removal changes nothing.
    """
    name, change = REMOVALS[kind]
    return _against_shift(name, view, change(view), kind)


def whole_image_paste(target: np.ndarray, source: np.ndarray, kind: str) -> Pair | None:
    """Gives a view another photo's cue that has no place, against a change of equal size in another direction.

    colour: the mean chroma is shifted to the source's; control: an equal shift of brightness.
    lighting: brightness and contrast are brought to the source's; control: a change of white balance as rare as that.
    quality: blurred by that Gaussian (or none) which brings the sharpness, the variance of the Laplacian, nearest to
    the source's; control: an equal shift of brightness.

    Returns:
        The pair, or None when the change is nothing.
    """
    name, change = PASTES[kind]
    return _against_shift(name, target, change(target, source), kind)


def _against_shift(name: str, view: np.ndarray, changed: np.ndarray, kind: str) -> Pair | None:
    control = shift_as_much(view, changed, kind)
    return None if control is None else Pair(name, changed, control)


def show_removed(image: np.ndarray, mask: np.ndarray, kind: str, intervention: str) -> np.ndarray:
    """Returns an image with a cue removed, as the report shows it.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        kind: of the cue.
        intervention: as in the table `effects`; what takes another photo is shown as a blur, since donors differ.
    """
    if kind in WHOLE_IMAGE_KINDS and intervention not in FILLS:
        pair = whole_image_pair(image, kind)
        return image if pair is None else pair.removed
    cropped = crop_border(image, mask) if intervention == "crop" else None
    return FILLS.get(intervention, fill_blur)(image, mask) if cropped is None else cropped
