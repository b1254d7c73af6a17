import numpy as np
import pytest

from discovery.regions import Regions, clip_boxes, decode_rle, draw_mask, encode_rle, overlap_frac


@pytest.mark.parametrize("fill", ["empty", "full", "first", "last", "random"])
def test_masks_survive_encoding(fill):
    mask = np.zeros((7, 5), bool)
    if fill == "full":
        mask[:] = True
    elif fill in ("first", "last"):
        mask.flat[0 if fill == "first" else -1] = True
    elif fill == "random":
        mask = np.random.default_rng(0).random((7, 5)) < 0.5
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


def test_columns_must_agree():
    with pytest.raises(ValueError, match="columns disagree"):
        Regions(np.zeros(2, int), np.zeros(1, int), np.zeros((2, 4), np.float32), np.zeros(2, np.float32))


def test_an_empty_box_is_refused():
    with pytest.raises(ValueError, match="x0 < x1"):
        Regions.build([(0, 0, [5, 5, 5, 9], 1.0, None)])


def test_a_box_that_is_half_nan_is_refused():
    with pytest.raises(ValueError, match="all NaN"):
        Regions.build([(0, 0, [0, 0, 5, np.nan], 1.0, None)])


def test_none_is_a_whole_image_cue():
    found = Regions.build([(0, 3, None, 0.5, None)])
    assert np.isnan(found.xyxy).all()
    assert found.phrase[0] == 3


def test_nothing_is_a_valid_answer():
    assert len(Regions.concat([])) == len(Regions.build([])) == 0


def test_a_box_is_drawn_at_the_scale_of_the_mask():
    mask = draw_mask(np.array([20, 10, 40, 30], np.float32), None, (100, 100), (50, 50))
    assert mask.sum() == 10 * 10
    assert mask[5:15, 10:20].all()


def test_a_field_draws_only_what_the_view_shows():
    box = np.array([0, 0, 30, 100], np.float32)
    field = np.array([25, 25, 75, 75], np.float32)
    mask = draw_mask(box, None, (100, 100), (50, 50), field=field)
    assert mask[:, :5].all()
    assert not mask[:, 5:].any()


def test_a_box_outside_the_field_leaves_nothing():
    field = np.array([25, 25, 75, 75], np.float32)
    assert not draw_mask(np.array([0, 0, 10, 10], np.float32), None, (100, 100), (50, 50), field=field).any()


def test_a_coarse_mask_is_stretched_over_the_image():
    coarse = np.zeros((2, 2), bool)
    coarse[0, 1] = True
    mask = draw_mask(np.zeros(4, np.float32), encode_rle(coarse), (40, 80), (40, 80))
    assert mask[:20, 40:].all()
    assert mask.sum() == 20 * 40


def test_clip_keeps_whole_image_rows():
    boxes = np.array([[-5, -5, 200, 50], [np.nan] * 4], np.float32)
    clipped = clip_boxes(boxes, 40, 100)
    np.testing.assert_array_equal(clipped[0], [0, 0, 100, 40])
    assert np.isnan(clipped[1]).all()


def test_overlap_is_a_share_of_the_first_box():
    one, two = np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 0, 100, 100]], np.float32)
    assert overlap_frac(one, two)[0] == pytest.approx(0.5)
