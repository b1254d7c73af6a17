import numpy as np
import pytest
from drawn import frame, square

from discovery.controls import control_mask, shift_between


def disc(shape, centre, radius) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def centre(mask) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def test_any_control_has_the_area_of_the_cue_and_touches_nothing_forbidden(rng):
    made = 0
    for _ in range(150):
        shape = tuple(rng.integers(20, 120, 2))
        mask = disc(shape, rng.integers(0, shape), rng.integers(1, 30)) & (rng.random(shape) < rng.choice([0.5, 1]))
        forbidden = disc(shape, rng.integers(0, shape), rng.integers(1, 30))
        around = disc(shape, rng.integers(0, shape), rng.integers(1, 30))
        control = control_mask(mask, forbidden, rng, around=around)
        room = ~(mask | forbidden)
        assert (control is None) == (mask.sum() == 0 or room.sum() < mask.sum())
        if control is not None:
            made += 1
            assert control.sum() == mask.sum()
            assert not (control & (mask | forbidden)).any()
            assert not (control & around).any() or (room & ~around).sum() < mask.sum()
    assert made > 100


def test_a_control_keeps_the_shape_where_it_fits(rng):
    mask = square()
    control = control_mask(mask, mask, rng)
    rows, columns = np.nonzero(control)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (16, 16)


def test_controls_are_drawn_from_many_places(rng):
    mask = square(side=8)
    places = {tuple(centre(control_mask(mask, mask, rng))) for _ in range(50)}
    assert len(places) > 30


def test_the_same_generator_gives_the_same_control():
    mask, around = square(), disc((64, 64), (40, 40), 10)
    one, two = (control_mask(mask, mask, np.random.default_rng(3), around=around) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("at", [(0, 0), (40, 4), (60, 100)])
def test_a_control_is_about_as_far_from_the_object_as_the_cue(at, rng):
    shape = (128, 128)
    mask, around = square(shape, at, 14), disc(shape, (64, 64), 20)
    wanted = np.hypot(*(centre(mask) - centre(around)))
    with_object, without = (
        [np.hypot(*(centre(control_mask(mask, mask, rng, around=a)) - centre(around))) for _ in range(40)]
        for a in (around, None)
    )
    unlike = np.abs(np.array(with_object) - wanted)
    assert unlike.max() < 25
    assert unlike.mean() < 0.5 * np.abs(np.array(without) - wanted).mean()


def test_a_patch_too_is_about_as_far_from_the_object_as_the_cue(rng):
    shape = (128, 128)
    mask = rng.random(shape) < 0.3
    mask[:112] = False
    forbidden = rng.random(shape) < 0.2  # no cell is free: the shape fits nowhere
    around = disc(shape, (64, 64), 5)
    wanted = np.hypot(*(centre(mask) - centre(around)))
    with_object, without = (
        [np.hypot(*(centre(control_mask(mask, forbidden, rng, around=a)) - centre(around))) for _ in range(20)]
        for a in (around, None)
    )
    assert np.abs(np.array(with_object) - wanted).mean() < 0.5 * np.abs(np.array(without) - wanted).mean()


def test_without_other_room_the_object_gives_way(rng):
    mask = square((32, 32), (0, 0), 16)
    around = ~mask
    control = control_mask(mask, mask, rng, around=around)
    assert control.sum() == mask.sum()
    assert not (control & mask).any()


def test_an_object_outside_the_view_changes_nothing():
    mask = square()
    one = control_mask(mask, mask, np.random.default_rng(1), around=np.zeros((64, 64), bool))
    np.testing.assert_array_equal(one, control_mask(mask, mask, np.random.default_rng(1)))


def test_a_shape_that_fits_nowhere_gets_a_compact_patch(rng):
    cross = np.zeros((64, 64), bool)
    cross[28:32] = cross[:60, 28:32] = True
    control = control_mask(cross, cross, rng)
    assert control.sum() == cross.sum()
    assert np.ptp(np.argwhere(control), axis=0).max() < 45


def test_no_room_is_said(rng):
    assert control_mask(square(side=50), square(side=50), rng) is None
    assert control_mask(np.zeros((64, 64), bool), np.zeros((64, 64), bool), rng) is None


def test_the_control_of_a_frame_is_the_next_frame_inward(rng):
    control = control_mask(frame(), frame(), rng)
    assert not control[16:-16, 16:-16].any()
    assert control[5:7, 5:-5].all()


def test_the_control_of_a_frame_leaves_the_object_alone(rng):
    around = disc((64, 64), (12, 30), 8)
    control = control_mask(frame(), frame(), rng, around=around)
    assert control.sum() == frame().sum()
    assert not (control & (around | frame())).any()


@pytest.mark.parametrize("there", [(30, 41), (0, 0), (48, 48)])
def test_a_shift_brings_the_control_under_the_cue(there):
    cue = disc((16, 16), (6, 9), 5)
    mask, control = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[20:36, 10:26] = cue
    control[there[0] : there[0] + 16, there[1] : there[1] + 16] = cue
    shift = shift_between(mask, control)
    np.testing.assert_array_equal(np.roll(control, shift, axis=(0, 1)), mask)


def test_another_shape_has_no_shift():
    assert shift_between(square(), square(at=(30, 30), side=15)) is None
    assert shift_between(square(side=17), disc((64, 64), (40, 40), 8)) is None
