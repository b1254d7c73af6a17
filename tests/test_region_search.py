"""The search finds what an answer rests on, with few questions, and says so when nothing flips."""

import numpy as np
import pytest
from red_model import BLUE, RED, Reds, painted

from discovery.config import ExplainConfig
from discovery.curves import trace
from discovery.errors import ConfigError
from discovery.masked_views import MaskedViews
from discovery.partitions import around_cues, grid_cells, superpixels
from discovery.region_search import FRUGAL, NAIVE, Worth, find_flip, order_regions

CELLS = grid_cells((56, 56), 7)


def asked(view, bar=3.0, fills=("blur", "mean")) -> list[MaskedViews]:
    return [MaskedViews(view, CELLS, Reds(bar), fill=fill, batch_size=16) for fill in fills]


def n_forwards(views) -> int:
    return sum(own.n_forwards for own in views)


@pytest.mark.parametrize("schedule", [FRUGAL, NAIVE])
def test_the_regions_that_the_answer_rests_on_come_first(schedule):
    views = asked(painted(3, 17, 30, 44))
    order = order_regions(Worth(views, 0, ExplainConfig()), schedule)
    assert set(order[:4]) == {3, 17, 30, 44}
    assert sorted(order) == list(range(49))


def test_the_search_asks_a_fifth_of_what_naive_greedy_asks(rng):
    view = rng.integers(0, 255, (56, 56, 3)).astype(np.uint8)
    for schedule, most in ((FRUGAL, 49 * 50 / 2 / 5), (NAIVE, 49 * 50 / 2 + 1)):
        views = asked(view)
        order_regions(Worth(views, 0, ExplainConfig()), schedule)
        assert 49 < n_forwards(views) <= most


def test_a_flipping_set_has_no_region_too_many():
    views = asked(painted(3, 17, 30, 44))  # log-odds +5: two of the four must go
    flip = find_flip(views, 0, [9, 3, 10, 11, 17, 30, 44])
    assert len(flip.regions) == 3 or set(flip.regions) < {3, 17, 30, 44}
    assert flip.probs.argmax() == 1
    for region in flip.regions:
        kept = [other for other in flip.regions if other != region]
        assert any(own.without([kept])[0].argmax() == 0 for own in views)
    assert not {9, 10, 11} & set(flip.regions)


def test_where_nothing_flips_there_is_no_set():
    views = asked(painted(3), bar=-1.0)
    assert find_flip(views, 0, list(range(49))) is None


def test_what_flips_under_one_fill_alone_does_not_count():
    class Picky(Reds):
        def predict(self, views):
            grey = np.array([np.ptp(view.reshape(-1, 3), axis=0).max() < 5 for view in views])
            return np.where(grey[:, None], [[0.1, 0.9]], [[0.9, 0.1]])

    view = painted(3)
    both = [MaskedViews(view, CELLS, Picky(), fill=fill) for fill in ("blur", "mean")]
    both[1].without = lambda removed: np.tile([0.9, 0.1], (len(removed), 1))
    assert find_flip(both[:1], 0, [3, 4]).regions == (3,)
    assert find_flip(both, 0, [3, 4]) is None


def test_the_same_question_is_asked_once_and_counted_once():
    views = asked(painted(3))[0]
    first = views.without([(1, 2), (2, 1), ()])
    np.testing.assert_array_equal(first[0], first[1])
    assert views.n_forwards == views._classifier.n_seen == 2
    views.only([set(range(49))])
    assert views.n_forwards == 2


def test_removing_regions_changes_them_and_nothing_else():
    view = painted(3, 17)
    drawn = MaskedViews(view, CELLS, Reds()).draw([3, 40])
    gone = CELLS[3] | CELLS[40]
    np.testing.assert_array_equal(drawn[~gone], view[~gone])
    assert (drawn[CELLS[3]][:, 0] < 180).all()


def test_each_term_of_the_worth_is_what_it_says():
    views = asked(painted(3, 17))
    p = views[0]._classifier.predict
    only, without = (p([drawn])[0, 0] for drawn in (views[0].draw(set(range(49)) - {3, 40}), views[0].draw([3, 40])))
    worth = {
        name: Worth(views, 0, ExplainConfig(**{"deletion": 1e-9, name: 1.0}))([(3, 40), (3,)])
        for name in ("deletion", "insertion", "confidence", "diversity")
    }
    assert worth["deletion"][0] == pytest.approx(1 - without)
    assert worth["insertion"][0] == pytest.approx(only, abs=1e-6)
    entropy = -(only * np.log(only) + (1 - only) * np.log(1 - only)) / np.log(2)
    assert worth["confidence"][0] == pytest.approx(1 - entropy, abs=1e-6)
    apart = np.array([*(np.subtract(RED, BLUE) / 255), 5 / 7, 2 / 7])  # colour, then place
    assert worth["diversity"][0] == pytest.approx(np.linalg.norm(apart) / np.sqrt(5), abs=1e-4)
    assert worth["diversity"][1] == pytest.approx(0.0, abs=1e-6)


def test_insertion_costs_forwards_of_its_own_and_deletion_alone_does_not():
    plain, both = asked(painted(3)), asked(painted(3))
    Worth(plain, 0, ExplainConfig())([(3,), (4,)])
    Worth(both, 0, ExplainConfig(insertion=1.0))([(3,), (4,)])
    assert (n_forwards(plain), n_forwards(both)) == (2, 4)


def test_curves_run_from_the_photo_to_nothing_and_back():
    views = asked(painted(3, 17, 30, 44))[0]
    good = trace(views, [3, 17, 30, 44, *(r for r in range(49) if r not in (3, 17, 30, 44))], 0)
    bad = trace(views, good_reversed := list(range(48, -1, -1)), 0)
    assert good.fill == "blur"
    assert good.deletion[0] == good.insertion[-1] == pytest.approx(1 / (1 + np.exp(-5)))
    assert good.deletion[-1] == good.insertion[0]
    assert good.deletion_auc < bad.deletion_auc
    assert good.insertion_auc > bad.insertion_auc
    assert (good.area_frac[0], good.area_frac[-1], len(good.area_frac)) == (0, pytest.approx(1), len(good_reversed) + 1)


@pytest.mark.parametrize("shape", [(56, 56), (50, 33), (3, 3)])
def test_a_grid_covers_the_view_once(shape):
    cells = grid_cells(shape, 7)
    assert (cells.sum(axis=0) == 1).all()
    assert len(cells) == min(7, shape[0]) * min(7, shape[1])


def test_superpixels_are_about_as_many_as_asked_even_on_noise(rng):
    view = rng.integers(0, 255, (64, 48, 3)).astype(np.uint8)
    masks = superpixels(view, 49)
    assert (masks.sum(axis=0) == 1).all()
    assert 30 <= len(masks) <= 64


def test_cues_are_regions_of_their_own_and_the_smaller_one_has_the_overlap():
    frame, patch = np.ones((56, 56), bool), np.zeros((56, 56), bool)
    frame[4:-4, 4:-4] = False
    patch[2:10, 2:10] = True
    masks = around_cues([frame, patch], (56, 56), 7)
    assert (masks.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(masks[0], patch)
    np.testing.assert_array_equal(masks[1], frame & ~patch)


def test_a_deletion_weight_of_zero_is_refused():
    from discovery.config import make_config

    with pytest.raises(ConfigError, match=r"explain\.deletion"):
        make_config({"dataset": {"root": "x"}, "explain": {"deletion": 0}})
