import numpy as np
import pytest

from discovery.interventions import FILLS, control_mask, show_removed, swap_pair, whole_image_pair


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def square(shape=(64, 64), at=(8, 8), side=16) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_changes_the_region_and_nothing_else(fill, rng):
    view = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = square()
    filled = FILLS[fill](view, mask)
    np.testing.assert_array_equal(filled[~mask], view[~mask])
    assert (filled[mask] != view[mask]).mean() > 0.5


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_the_cue_is_left_in_the_fill(fill):
    view = np.full((64, 64, 3), 120, np.uint8)
    mask = square()
    view[mask] = [255, 0, 0]
    np.testing.assert_allclose(FILLS[fill](view, mask), 120, atol=2)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_survives_a_mask_of_everything_and_odd_sizes(fill, rng):
    view = rng.integers(0, 255, (7, 311, 3), dtype=np.uint8)
    assert FILLS[fill](view, np.ones((7, 311), bool)).shape == view.shape


def test_the_blur_follows_its_surroundings():
    view = np.zeros((64, 64, 3), np.uint8)
    view[:, 32:] = 200
    filled = FILLS["blur"](view, square(at=(24, 24)))
    assert filled[32, 25].mean() < 70
    assert filled[32, 38].mean() > 130


def test_a_control_has_the_area_of_the_cue_and_touches_nothing_forbidden(rng):
    mask = square()
    forbidden = np.zeros((64, 64), bool)
    forbidden[:, 32:] = True
    for _ in range(20):
        control = control_mask(mask, forbidden, rng)
        assert control.sum() == mask.sum()
        assert not (control & (mask | forbidden)).any()


def test_a_control_keeps_the_shape_where_it_fits(rng):
    mask = square()
    control = control_mask(mask, mask, rng)
    rows, columns = np.nonzero(control)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (16, 16)


def test_a_shape_that_fits_nowhere_gets_a_patch_of_equal_area(rng):
    frame = np.ones((64, 64), bool)
    frame[5:-5, 5:-5] = False
    control = control_mask(frame, frame, rng)
    assert control.sum() == frame.sum()
    assert not (control & frame).any()


def test_no_room_is_said(rng):
    assert control_mask(square(side=50), square(side=50), rng) is None
    assert control_mask(np.zeros((64, 64), bool), np.zeros((64, 64), bool), rng) is None


def test_recolouring_takes_a_tint_away_and_its_control_does_not(rng):
    grey = rng.integers(60, 180, (64, 64, 1)).astype(float)
    view = np.clip(grey + np.array([40, 0, -40]), 0, 255).astype(np.uint8)
    pair = whole_image_pair(view, "colour")

    def cast(image):
        return np.ptp(image.reshape(-1, 3).mean(axis=0))

    assert cast(pair.removed) < 3
    assert cast(pair.control) > 60


@pytest.mark.parametrize("kind", ["colour", "lighting", "quality"])
def test_a_whole_image_control_changes_as_much_as_the_removal(kind, rng):
    view = np.clip(rng.normal([90, 70, 60], 15, (64, 64, 3)), 0, 255).astype(np.uint8)
    pair = whole_image_pair(view, kind)

    def size(image):
        return np.sqrt(((image.astype(float) - view) ** 2).mean())

    assert size(pair.control) == pytest.approx(size(pair.removed), rel=0.1)


def test_an_image_without_a_tint_has_nothing_to_recolour():
    assert whole_image_pair(np.full((16, 16, 3), 100, np.uint8), "colour") is None


def test_a_swap_takes_the_donors_pixels_inside_the_mask_alone(rng):
    view = np.zeros((20, 20, 3), np.uint8)
    mask = square((20, 20), (0, 0), 10)
    pair = swap_pair(view, mask, np.full((40, 30, 3), 50, np.uint8), np.full((20, 20, 3), 90, np.uint8))
    assert (pair.removed[mask] == 50).all()
    assert (pair.control[mask] == 90).all()
    assert (pair.removed[~mask] == 0).all()


@pytest.mark.parametrize(("kind", "name"), [("object", "mean"), ("background", "swap"), ("colour", "recolour")])
def test_the_report_can_show_every_removal(kind, name, rng):
    image = np.clip(rng.normal([150, 90, 60], 20, (40, 50, 3)), 0, 255).astype(np.uint8)
    shown = show_removed(image, square((40, 50)), kind, name)
    assert shown.shape == image.shape
    assert (shown != image).any()


def test_the_control_of_a_frame_is_the_next_frame_inward(rng):
    frame = np.ones((64, 64), bool)
    frame[5:-5, 5:-5] = False
    control = control_mask(frame, frame, rng)
    assert not control[16:-16, 16:-16].any()
    assert control[5:7, 5:-5].all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_has_the_grain_of_its_photo(fill, rng):
    view = np.clip(rng.normal(120, 14, (96, 96, 3)), 0, 255).astype(np.uint8)
    mask = square((96, 96), (30, 30), 32)
    inside = FILLS[fill](view, mask)[mask]
    assert inside.std() == pytest.approx(14, rel=0.3)
