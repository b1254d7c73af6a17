import numpy as np
import pytest
from drawn import frame, square

from discovery.fills import FILLS, INPAINT_BUDGET_PX, fill_blur, fill_inpaint, fill_mean, measure_grain, window

SHAPES = [(7, 311), (64, 64), (28, 28), (1, 9), (53, 97), (224, 224), (700, 40)]


def every_fill():
    return pytest.mark.parametrize("fill", FILLS.values(), ids=list(FILLS))


def masks(shape: tuple[int, int], rng) -> dict[str, np.ndarray]:
    height, width = shape
    lone = np.zeros(shape, bool)
    lone[-1, -1] = True
    return {
        "scattered": rng.random(shape) < 0.4,
        "block": square(shape, (height // 3, width // 3), max(1, min(shape) // 2)),
        "one pixel": lone,
        "all but one pixel": ~lone,
    }


@every_fill()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fill_changes_the_region_and_nothing_else(fill, shape, rng):
    view = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    for name, mask in masks(shape, rng).items():
        before = view.copy()
        filled = fill(view, mask)
        np.testing.assert_array_equal(view, before, err_msg=name)
        np.testing.assert_array_equal(filled[~mask], view[~mask], err_msg=name)
        assert filled.dtype == np.uint8
        if name == "block" and mask.sum() > 100:
            assert (filled[mask] != view[mask]).mean() > 0.5


@every_fill()
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_inside_the_region_has_no_part_in_its_fill(fill, shape, rng):
    view = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    for name, mask in masks(shape, rng).items():
        other = view.copy()
        other[mask] = rng.integers(0, 255, (mask.sum(), 3), dtype=np.uint8)
        np.testing.assert_array_equal(fill(view, mask), fill(other, mask), err_msg=name)


@every_fill()
@pytest.mark.parametrize("side", [16, 60])
@pytest.mark.parametrize("size", [64, 97])
def test_a_flat_view_is_filled_flat(fill, side, size):
    view = np.full((size, size, 3), 120, np.uint8)
    mask = square((size, size), (2, 2), side)
    view[mask] = [255, 0, 0]
    np.testing.assert_allclose(fill(view, mask), 120, atol=1)


@every_fill()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fill_survives_a_mask_of_everything_and_of_nothing(fill, shape, rng):
    view = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert fill(view, np.ones(shape, bool)).shape == view.shape
    np.testing.assert_array_equal(fill(view, np.zeros(shape, bool)), view)


@every_fill()
def test_a_fill_takes_views_and_masks_that_are_slices(fill, rng):
    large = rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)
    view, mask = large[::2, 5:69], np.asfortranarray(square((40, 64), side=20))
    np.testing.assert_array_equal(fill(view, mask), fill(view.copy(), np.ascontiguousarray(mask)))


@every_fill()
def test_a_frame_is_filled_from_within(fill):
    view = np.full((64, 64, 3), 90, np.uint8)
    mask = frame()
    view[mask] = [0, 0, 255]
    np.testing.assert_allclose(fill(view, mask), 90, atol=1)


@every_fill()
def test_a_fill_has_the_grain_of_its_photo(fill, rng):
    view = np.clip(rng.normal(120, 14, (96, 96, 3)), 0, 255).astype(np.uint8)
    mask = square((96, 96), (30, 30), 32)
    inside = fill(view, mask)[mask]
    assert inside.std() == pytest.approx(14, rel=0.3)


@every_fill()
def test_a_grain_measured_before_is_used(fill):
    view = np.full((96, 96, 3), 120, np.uint8)
    mask = square((96, 96), (30, 30), 32)
    inside = fill(view, mask, grain=np.array([0, 5, 20], np.float32))[mask]
    np.testing.assert_allclose(inside.std(axis=0), [0, 5, 20], rtol=0.15)


@every_fill()
def test_one_shape_at_two_places_gets_the_same_grain(fill):
    view = np.full((96, 96, 3), 120, np.uint8)
    grain = np.full(3, 9, np.float32)
    here, there = square((96, 96), (3, 5), 30), square((96, 96), (50, 61), 30)
    np.testing.assert_array_equal(fill(view, here, grain=grain)[here], fill(view, there, grain=grain)[there])


def test_grain_is_the_noise_and_not_the_edges(rng):
    view = np.zeros((224, 224, 3))
    view[:, ::23] = 200
    noisy = np.clip(view + 20 + rng.normal(0, (3, 6, 12), view.shape), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(measure_grain(noisy), [3, 6, 12], rtol=0.25)


def test_grain_leaves_the_mask_out(rng):
    view = np.full((90, 90, 3), 100, np.uint8)
    mask = square((90, 90), (0, 0), 80)
    view[mask] = rng.integers(0, 255, (mask.sum(), 3))
    assert (measure_grain(view) > 20).all()
    assert (measure_grain(view, mask) == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 9), (9, 2)])
def test_a_view_too_small_to_measure_has_no_grain(shape):
    np.testing.assert_array_equal(measure_grain(np.zeros((*shape, 3), np.uint8)), 0)


def test_the_mean_is_that_of_what_is_outside():
    view = np.zeros((40, 40, 3), np.uint8)
    view[:20] = [10, 60, 200]
    mask = np.zeros((40, 40), bool)
    mask[20:] = True
    assert (fill_mean(view, mask)[mask] == [10, 60, 200]).all()


def test_the_blur_follows_its_surroundings():
    view = np.zeros((64, 64, 3), np.uint8)
    view[:, 32:] = 200
    filled = fill_blur(view, square(at=(24, 24)))
    assert filled[32, 25].mean() < 70
    assert filled[32, 38].mean() > 130


@pytest.mark.parametrize("side", [64, 224])
def test_inpainting_continues_an_edge_that_a_blur_smears(side):
    view = np.full((side, side, 3), 40, np.uint8)
    view[:, side // 2 :] = 200
    mask = square((side, side), (side // 3, side // 3), side // 3)

    def error(filled):
        return np.abs(filled[mask].astype(float) - view[mask]).mean()

    assert error(fill_inpaint(view, mask)) < 0.6 * error(fill_blur(view, mask))


def test_a_large_mask_is_inpainted_reduced(monkeypatch, rng):
    import cv2

    sizes, inpaint = [], cv2.inpaint
    monkeypatch.setattr(
        cv2, "inpaint", lambda image, mask, *rest: sizes.append(mask.sum()) or inpaint(image, mask, *rest)
    )
    view = rng.integers(0, 255, (224, 224, 3), dtype=np.uint8)
    for side in (20, 100, 180):
        fill_inpaint(view, square((224, 224), (10, 20), side))
    assert sizes[0] == 400
    assert max(sizes) <= 1.2 * INPAINT_BUDGET_PX


def test_a_window_is_the_bounding_box_and_stops_at_the_view():
    mask = square((30, 40), (4, 30), 5)
    assert window(mask) == (slice(4, 9), slice(30, 35))
    assert window(mask, 6) == (slice(0, 15), slice(24, 40))
