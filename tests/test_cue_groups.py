import numpy as np
import pytest

from discovery.cue_groups import Overlapping, balanced_weights, combine, overlapping

NAMES = (("cat", "dog"), ("sofa", "grass"))
OWN = np.array([[True, False], [False, True]])


def groups_of(rows: list[tuple[int, int, int]], least: int):
    table = np.array(rows)
    return combine(table[:, 0], table[:, 1:].astype(bool), OWN, NAMES, least)


def test_every_common_combination_is_a_group():
    rows = [(y, a, b) for y in (0, 1) for a in (0, 1) for b in (0, 1)] * 3
    groups = groups_of(rows, least=3)
    assert len(groups.names) == 8
    assert set(groups.sizes) == {3}
    assert "cat|sofa + grass" in groups.names
    assert groups.merged == {}


def test_rare_combinations_join_what_is_like_them():
    # One cat on grass and one on both: neither is a group of its own, and together they show another's cue.
    rows = [(0, 1, 0)] * 6 + [(0, 0, 0)] * 3 + [(0, 0, 1)] * 2 + [(0, 1, 1)] * 2 + [(1, 0, 1)] * 5
    groups = groups_of(rows, least=3)
    assert groups.merged == {"cat|grass": 2, "cat|sofa + grass": 2}
    assert groups.sizes.sum() == len(rows)
    assert groups.sizes.min() >= 3
    assert [groups.names[g] for g in np.unique(groups.of[:6])] == ["cat|sofa"]
    assert groups.names[groups.of[-1]] == "dog|grass"


def test_without_a_group_of_its_own_a_photo_joins_the_largest_of_its_class():
    groups = groups_of([(0, 1, 0)] * 6 + [(0, 0, 0)] + [(1, 0, 1)] * 5, least=4)
    assert groups.sizes.tolist() == [7, 5]


@pytest.mark.parametrize("least", [1, 3])
def test_balanced_weights_keep_the_classes_and_level_their_groups(least, rng):
    rows = np.column_stack([rng.integers(0, 2, 200), rng.random((200, 2)) < [0.8, 0.3]]).astype(int)
    groups = groups_of([tuple(row) for row in rows], least)
    weight = balanced_weights(groups)
    in_group = np.bincount(groups.of, weights=weight)
    for y in (0, 1):
        np.testing.assert_allclose(in_group[groups.label == y], in_group[groups.label == y][0])
        assert weight[rows[:, 0] == y].sum() == pytest.approx((rows[:, 0] == y).sum())


def test_each_cue_alone_cuts_a_class_and_so_does_any_of_its_own():
    label = np.array([0] * 8 + [1] * 4)
    shown = np.zeros((12, 3), bool)
    shown[:4, 0] = True  # own to class 0
    shown[2:6, 1] = True  # own to class 0, and the rest of it shows neither
    shown[4:7, 2] = True  # own to class 1
    own = np.array([[True, True, False], [False, False, True]])
    found = overlapping(label, shown, own, (("cow", "fish"), ("grass", "fence", "sea")), least=2)
    groups = {name: set(found.photo[found.of == place].tolist()) for place, name in enumerate(found.names)}
    assert groups == {
        "cow|grass": {0, 1, 2, 3},
        "cow|no grass": {4, 5, 6, 7},
        "cow|fence": {2, 3, 4, 5},
        "cow|no fence": {0, 1, 6, 7},
        "cow|sea": {4, 5, 6},
        "cow|no sea": {0, 1, 2, 3, 7},
        "cow|any own cue": {0, 1, 2, 3, 4, 5},
        "cow|no own cue": {6, 7},
        "fish|no own cue": {8, 9, 10, 11},
    }


def test_what_too_few_photos_show_is_no_group_and_a_class_without_any_is_one():
    label, shown = np.array([0] * 6), np.zeros((6, 1), bool)
    shown[0] = True
    found = overlapping(label, shown, np.ones((1, 1), bool), (("cow",), ("grass",)), least=6)
    assert found.names == ("cow",)
    np.testing.assert_array_equal(found.photo, np.arange(6))
    found = overlapping(label, shown, np.ones((1, 1), bool), (("cow",), ("grass",)), least=2)
    assert found.names == ("cow|no own cue",)


def test_groups_of_which_each_photo_is_in_one_overlap_nowhere():
    groups = combine(np.zeros(4, int), np.eye(4, 1, dtype=bool), np.ones((1, 1), bool), (("cow",), ("grass",)), 1)
    found = Overlapping.of_each(groups)
    np.testing.assert_array_equal(np.bincount(found.photo), 1)
    np.testing.assert_array_equal(np.bincount(found.of), groups.sizes)
