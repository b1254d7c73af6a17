import cv2
import numpy as np
import pytest

from discovery.whole_image import (
    BALANCE_SD,
    BRIGHTNESS_SD,
    PASTES,
    REMOVALS,
    light,
    recolour,
    shift_as_much,
    soften,
    tint,
)


def photo(rng, mean=(120, 120, 120), spread=25, shape=(64, 64)) -> np.ndarray:
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (*shape, 1)).astype(np.float32), (0, 0), 2)[..., None]
    return np.clip(np.array(mean) + spread * smooth / smooth.std(), 0, 255).astype(np.uint8)


def means(view) -> np.ndarray:
    return view.reshape(-1, 3).mean(axis=0)


def chroma(view) -> np.ndarray:
    return means(view) - means(view).mean()


def size(one, other) -> float:
    return float(np.sqrt(((one.astype(float) - other) ** 2).mean()))


def sharpness(view) -> float:
    return float(np.log(cv2.Laplacian(view.mean(axis=2), cv2.CV_64F).var() + 1))


def test_recolouring_takes_a_tint_away(rng):
    assert np.ptp(means(recolour(photo(rng, (150, 110, 80))))) < 2


def test_a_tint_brings_the_chroma_of_the_source_and_leaves_the_brightness(rng):
    target, source = photo(rng, (110, 120, 130)), photo(rng, (190, 150, 140), 10, (40, 90))
    tinted = tint(target, source)
    np.testing.assert_allclose(chroma(tinted), chroma(source), atol=1)
    assert tinted.mean() == pytest.approx(target.mean(), abs=1)


@pytest.mark.parametrize(("mean", "spread"), [(60, 12), (190, 20), (120, 45)])
def test_light_brings_the_brightness_and_contrast_of_the_source(mean, spread, rng):
    target, source = photo(rng, (110, 120, 130)), photo(rng, (mean,) * 3, spread)
    lit = light(target, source)
    assert lit.mean() == pytest.approx(source.mean(), abs=3)
    assert lit.mean(axis=2).std() == pytest.approx(source.mean(axis=2).std(), rel=0.1)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_softening_finds_the_blur_of_the_source(sigma, rng):
    target = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    source = cv2.GaussianBlur(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8), (0, 0), sigma)
    softened = soften(target, source)
    np.testing.assert_array_equal(softened, cv2.GaussianBlur(target, (0, 0), sigma))
    assert sharpness(softened) == pytest.approx(sharpness(source), abs=0.3)


def test_nothing_is_softened_for_a_sharper_source(rng):
    target = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), (0, 0), 2)
    np.testing.assert_array_equal(soften(target, rng.integers(0, 255, (70, 50, 3), dtype=np.uint8)), target)


@pytest.mark.parametrize("kind", ["colour", "quality"])
@pytest.mark.parametrize("mean", [(90, 70, 60), (30, 25, 10), (245, 235, 200)])
def test_a_shift_changes_as_much_whatever_is_clipped(kind, mean, rng):
    view, other = photo(rng, mean), photo(rng, (150, 170, 90), 40)
    for changed in (REMOVALS[kind][1](view), PASTES[kind][1](view, other)):
        shifted = shift_as_much(view, changed, kind)
        if shifted is None:
            assert size(view, changed) < 0.5
        else:
            assert size(view, shifted) == pytest.approx(size(view, changed), rel=0.03, abs=0.5)


def test_a_shift_goes_where_the_kind_does_not(rng):
    view = photo(rng, (140, 110, 90))
    np.testing.assert_allclose(chroma(shift_as_much(view, recolour(view), "colour")), chroma(view), atol=1)
    relit = shift_as_much(view, np.clip(view * 0.5, 0, 255).astype(np.uint8), "lighting")
    assert relit.mean() == pytest.approx(view.mean(), abs=1.5)
    assert np.ptp(chroma(relit) - chroma(view)) > 10


@pytest.mark.parametrize("levels", [10, 40, 90])
def test_white_balance_moves_by_as_many_standard_deviations_as_the_light(levels, rng):
    view = photo(rng, (120, 120, 120))
    red, _, blue = shift_as_much(view, view + np.uint8(levels), "lighting").reshape(-1, 3).mean(axis=0)
    assert np.log(red / blue) / BALANCE_SD == pytest.approx(levels / BRIGHTNESS_SD, rel=0.05)


def test_no_change_has_no_shift():
    view = np.full((16, 16, 3), 100, np.uint8)
    assert shift_as_much(view, view, "colour") is None


def test_views_are_never_changed_in_place(rng):
    view, other = photo(rng, (150, 110, 80)), photo(rng)
    before = view.copy()
    for kind in REMOVALS:
        REMOVALS[kind][1](view)
        PASTES[kind][1](view, other)
    np.testing.assert_array_equal(view, before)
