import cv2
import numpy as np
import pytest
from drawn import frame, square

from discovery.interventions import (
    FILLS,
    background_pair,
    border_pair,
    control_mask,
    crop_border,
    donor_pair,
    paste_pair,
    show_removed,
    swap_pair,
    whole_image_pair,
    whole_image_paste,
)

KINDS = ["colour", "lighting", "quality"]


def flat(value, shape=(64, 64)) -> np.ndarray:
    return np.full((*shape, 3), value, np.uint8)


def photo(rng, shape=(64, 64)) -> np.ndarray:
    return rng.integers(0, 255, (*shape, 3), dtype=np.uint8)


def changed(one, other) -> np.ndarray:
    return (one != other).any(axis=2)


def size(one, other) -> float:
    return float(np.sqrt(((one.astype(float) - other) ** 2).mean()))


def test_what_callers_take_from_here_is_here():
    assert list(FILLS) == ["blur", "mean", "inpaint"]
    assert control_mask(square(), square(), np.random.default_rng(0)).sum() == 256


def test_a_control_from_another_photo_is_pasted_over_the_same_place():
    target, mask = flat(0, (40, 30)), np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    pair = donor_pair(target, flat(200, (20, 20)), flat(100, (60, 60)), mask)
    changed, control = ((view != 0).any(axis=2) for view in (pair.removed, pair.control))
    assert (changed == control).all()
    assert changed.any()
    assert (pair.removed.max(), pair.control.max()) == (200, 100)


def test_a_swap_takes_the_donors_pixels_inside_the_mask_alone():
    view, mask = flat(0, (20, 20)), square((20, 20), (0, 0), 10)
    pair = swap_pair(view, mask, flat(50, (40, 30)), flat(90, (20, 20)))
    assert pair.name == "swap"
    assert (pair.removed[mask] == 50).all()
    assert (pair.control[mask] == 90).all()
    assert (pair.removed[~mask] == 0).all()
    assert (pair.control[~mask] == 0).all()


def test_a_background_is_replaced_and_the_object_kept(rng):
    view, keep = photo(rng), square(at=(20, 20), side=24)
    pair = background_pair(view, keep, flat(50, (40, 30)), flat(90))
    assert pair.name == "background"
    for made, value in ((pair.removed, 50), (pair.control, 90)):
        np.testing.assert_array_equal(made[keep], view[keep])
        assert (made[:18] == value).all()
        assert (made[:, 46:] == value).all()


def test_a_cue_is_pasted_at_its_own_place_and_nothing_else_changes(rng):
    target, source, mask = flat(10), flat(200), square(at=(12, 30))
    source[mask] = [255, 0, 0]
    pair = paste_pair(target, source, mask, square(at=(40, 5)))
    assert pair.name == "paste"
    for made in (pair.removed, pair.control):
        np.testing.assert_array_equal(made[~mask], target[~mask])
    assert (pair.removed[14:26, 32:44] == [255, 0, 0]).all()
    assert (pair.control[14:26, 32:44] == 200).all()


@pytest.mark.parametrize("side", [28, 64, 224])
@pytest.mark.parametrize("shape", [(64, 64), (97, 50), (224, 224)])
def test_a_moved_control_hides_the_same_pixels_behind_the_same_seam(side, shape, rng):
    mask = np.zeros(shape, bool)
    mask[5:20, 8:21] = rng.random((15, 13)) < 0.8
    mask[5, 8] = mask[19, 20] = True
    control = np.roll(mask, (22, 19), axis=(0, 1))
    # One colour everywhere in the source: any difference would be one of place or seam.
    pair = paste_pair(photo(rng, (side, side)), flat(77, shape), mask, control)
    np.testing.assert_array_equal(pair.removed, pair.control)


def test_the_control_of_a_paste_holds_the_controls_pixels(rng):
    source, mask = photo(rng), square(at=(12, 30))
    control = control_mask(mask, mask, rng)
    pair = paste_pair(flat(0), source, mask, control)
    rows, columns = np.nonzero(control)
    inner = source[rows.min() + 2 : rows.max() - 1, columns.min() + 2 : columns.max() - 1]
    np.testing.assert_array_equal(pair.control[14:26, 32:44], inner)


@pytest.mark.parametrize(("size_px", "ring"), [(64, [0.5, 1]), (160, [1 / 3, 2 / 3, 1])])
def test_the_edge_of_a_paste_fades_inward(size_px, ring):
    mask = square((size_px, size_px), (20, 20), 20)
    pair = paste_pair(flat(0, mask.shape), flat(240, mask.shape), mask, np.roll(mask, 21, axis=1))
    np.testing.assert_allclose(pair.removed[30, 20 : 20 + len(ring), 0], 240 * np.array(ring), atol=1)
    assert (pair.removed[30, 19] == 0).all()


def test_a_paste_has_no_edge_along_the_side_of_the_view():
    mask = np.zeros((64, 64), bool)
    mask[:10] = True
    pair = paste_pair(flat(0), flat(240), mask, np.roll(mask, 30, axis=0))
    assert (pair.removed[:8] == 240).all()


@pytest.mark.parametrize("move", [True, False])
def test_a_control_of_another_shape_or_unmoved_is_pasted_where_it_was(move):
    target, mask = flat(0), square()
    control = square(at=(40, 40)) if not move else square(at=(40, 40), side=17)
    pair = paste_pair(target, flat(200), mask, control, move=move)
    np.testing.assert_array_equal(changed(pair.control, target), control)
    np.testing.assert_array_equal(changed(pair.removed, target), mask)


def test_a_source_of_another_size_is_pasted_at_the_same_share_of_the_view():
    source, mask = flat(30, (128, 192)), square((128, 192), (32, 48), 32)
    source[mask] = 250
    pair = paste_pair(flat(0), source, mask, square((128, 192), (90, 150), 32))
    rows, columns = np.nonzero(changed(pair.removed, flat(0)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 16, 26)
    assert (pair.removed[18:30, 18:25] == 250).all()
    assert (pair.control[18:30, 18:25] == 30).all()


def test_a_cue_too_small_for_the_target_is_not_pasted():
    mask = np.zeros((200, 200), bool)
    mask[1, 1] = True
    pair = paste_pair(flat(0, (20, 20)), flat(9, (200, 200)), mask, np.roll(mask, 50, axis=0))
    assert (pair.removed == 0).all()


def test_nothing_given_is_changed(rng):
    view, source, mask = photo(rng), photo(rng), frame()
    kept = view.copy(), source.copy(), mask.copy()
    paste_pair(view, source, mask, control_mask(mask, mask, rng))
    swap_pair(view, mask, source, source)
    background_pair(view, mask, source, source)
    border_pair(view, mask)
    for now, before in zip((view, source, mask), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_cropping_a_border_leaves_only_the_middle(rng):
    view, mask = photo(rng), frame(width=7)
    view[:] = np.minimum(view, 100)
    view[mask] = 255
    cropped = crop_border(view, mask)
    assert cropped.shape == view.shape
    assert cropped.max() <= 100


def test_a_border_of_uneven_sides_and_round_corners_is_cropped(rng):
    mask = np.zeros((60, 90), bool)
    mask[:3] = mask[-8:] = mask[:, :5] = mask[:, -2:] = True
    mask[3:6, 5:8] = mask[49:52, 85:88] = True
    view = np.where(mask[..., None], 255, np.minimum(photo(rng, (60, 90)), 100)).astype(np.uint8)
    assert crop_border(view, mask).max() <= 100


def three_sides() -> np.ndarray:
    mask = frame()
    mask[-5:, 5:-5] = False
    mask[-1] = False
    return mask


@pytest.mark.parametrize(
    "mask",
    [square(), frame(width=10), frame() | square(at=(28, 28), side=8), three_sides(), np.ones((64, 64), bool)],
    ids=["no border", "thick", "something in the middle", "three sides", "all"],
)
def test_only_a_border_around_most_of_the_view_is_cropped(mask):
    assert crop_border(flat(9), mask) is None
    assert border_pair(flat(9), mask) is None


def test_the_control_of_a_crop_shows_the_border_and_all_of_the_middle(rng):
    view, mask = np.repeat(np.repeat(photo(rng, (16, 16)), 4, axis=0), 4, axis=1), frame()
    pair = border_pair(view, mask)
    assert pair.name == "crop"
    np.testing.assert_array_equal(pair.control[mask], view[mask])
    off = np.abs(pair.control.astype(int) - view)[~mask]
    assert 0 < off.mean() < 12, "resampled, and where it was"
    assert changed(pair.removed, pair.control)[mask].mean() > 0.9


def test_recolouring_takes_a_tint_away_and_its_control_does_not(rng):
    grey = rng.integers(60, 180, (64, 64, 1)).astype(float)
    view = np.clip(grey + np.array([40, 0, -40]), 0, 255).astype(np.uint8)
    pair = whole_image_pair(view, "colour")

    def cast(image):
        return np.ptp(image.reshape(-1, 3).mean(axis=0))

    assert cast(pair.removed) < 3
    assert cast(pair.control) > 60


@pytest.mark.parametrize("kind", ["colour", "quality"])
def test_a_whole_image_control_changes_as_much_as_the_intervention(kind, rng):
    view = np.clip(rng.normal([90, 70, 60], 15, (64, 64, 3)), 0, 255).astype(np.uint8)
    source = cv2.GaussianBlur(rng.integers(80, 250, (64, 64, 3), dtype=np.uint8), (0, 0), 2) - np.array(
        [50, 0, 20], np.uint8
    )
    for pair in (whole_image_pair(view, kind), whole_image_paste(view, source, kind)):
        assert size(pair.control, view) == pytest.approx(size(pair.removed, view), rel=0.05)
        assert size(pair.control, pair.removed) > 1


def test_whole_image_interventions_are_named(rng):
    view, source = photo(rng) // 2 + np.array([40, 20, 0], np.uint8), cv2.GaussianBlur(photo(rng), (0, 0), 3)
    assert [whole_image_pair(view, kind).name for kind in KINDS] == ["recolour", "relight", "sharpen"]
    assert [whole_image_paste(view, source, kind).name for kind in KINDS] == ["tint", "light", "soften"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_has_nothing_to_take_from_itself(kind, rng):
    view = photo(rng)
    assert whole_image_paste(view, view, kind) is None


def test_an_image_without_a_tint_has_nothing_to_recolour():
    assert whole_image_pair(flat(100, (16, 16)), "colour") is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[("object", fill) for fill in FILLS],
        *[("background", name) for name in ("swap", "paste", "background", "crop")],
        *[("colour", name) for name in ("recolour", "tint", "mean")],
    ],
)
def test_the_report_can_show_every_removal(kind, name, rng):
    image = np.clip(rng.normal([150, 90, 60], 20, (40, 50, 3)), 0, 255).astype(np.uint8)
    shown = show_removed(image, square((40, 50)), kind, name)
    assert shown.shape == image.shape
    assert (shown != image).any()


def test_the_report_shows_a_crop_as_a_crop(rng):
    view, mask = photo(rng), frame()
    np.testing.assert_array_equal(show_removed(view, mask, "background", "crop"), crop_border(view, mask))


def test_a_pasted_frame_is_held_against_the_middle_of_its_source_on_the_same_place(rng):
    source = np.full((64, 64, 3), 90, np.uint8)
    frame = np.ones((64, 64), bool)
    frame[6:-6, 6:-6] = False
    source[frame] = [0, 0, 255]
    target = np.full((64, 64, 3), 200, np.uint8)
    pair = paste_pair(target, source, frame, np.zeros_like(frame))
    assert (pair.removed[~frame] == 200).all()
    assert (pair.control[~frame] == 200).all()
    assert (pair.removed[2, 2] == [0, 0, 255]).all()
    assert (pair.control[2, 2] == 90).all()
