"""Labels and presences of several cues → one group per photo: its class × the cues it shows, small groups merged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Key = tuple[bool | tuple[int, ...], ...]


@dataclass(frozen=True)
class Groups:
    """One group per photo.

    Attributes:
        of: (n,) int, the group of each photo.
        names: per group `class|what it shows`.
        label: per group the index of its class.
        merged: names of the combinations that were too rare to be groups of their own, with their numbers of photos.
    """

    of: np.ndarray
    names: tuple[str, ...]
    label: np.ndarray
    merged: dict[str, int]

    @property
    def sizes(self) -> np.ndarray:
        """Returns (groups,) numbers of photos."""
        return np.bincount(self.of, minlength=len(self.names))


def own_cues(pairs: Iterable[tuple[str, str]], classes: Sequence[str], cue_ids: Sequence[str]) -> np.ndarray:
    """Returns (c, k) bool, which of k cues are named with which of c classes by (class, cue id) pairs."""
    own = np.zeros((len(classes), len(cue_ids)), bool)
    for name, cue_id in pairs:
        own[classes.index(name), cue_ids.index(cue_id)] = True
    return own


@dataclass(frozen=True)
class Overlapping:
    """Groups that a photo may be in several of: `photo` and `of`, (e,) int, name each photo of each group once."""

    photo: np.ndarray
    of: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of_each(cls, groups: Groups) -> "Overlapping":
        """Returns groups of which each photo is in one."""
        return cls(np.arange(len(groups.of)), groups.of, groups.names)


def overlapping(
    label: np.ndarray, shown: np.ndarray, own: np.ndarray, names: Sequence[Sequence[str]], least: int
) -> Overlapping:
    """Groups the photos of each class by every cue alone, and by whether they show any of the class's own.

    Per class and cue: the photos that show it, and those that do not, where there are `least` of both. Per class: those
    that show any of its own cues, none, and none but another class's, as far as there are `least`. A group of the same
    photos as an earlier one is left out; a class without any group is one. Arguments are those of `combine`.
    """
    found: dict[bytes, tuple[str, np.ndarray]] = {}

    def add(groups: dict[str, np.ndarray]) -> None:
        """Adds all of them, or none when one is too small."""
        if all(rows.sum() >= least for rows in groups.values()):
            for name, rows in groups.items():
                found.setdefault(rows.tobytes(), (name, rows))

    for y in np.unique(label):
        mine, name, before = label == y, names[0][y], len(found)
        any_own, any_other = (shown[:, cues].any(axis=1) for cues in (own[y], ~own[y]))
        for cue, phrase in enumerate(names[1]):
            add({f"{name}|{phrase}": mine & shown[:, cue], f"{name}|no {phrase}": mine & ~shown[:, cue]})
        add({f"{name}|any own cue": mine & any_own})
        add({f"{name}|no own cue": mine & ~any_own})
        add({f"{name}|only cues of others": mine & ~any_own & any_other})
        if len(found) == before:
            found[mine.tobytes()] = (name, mine)
    photos = [np.flatnonzero(part) for _, part in found.values()]
    of = np.repeat(np.arange(len(photos)), [len(rows) for rows in photos])
    return Overlapping(np.concatenate(photos), of, tuple(name for name, _ in found.values()))


def combine(
    label: np.ndarray, shown: np.ndarray, own: np.ndarray, names: Sequence[Sequence[str]], least: int
) -> Groups:
    """Groups photos by class and the cues they show.

    Every combination that at least `least` photos show is a group. The photos of rarer ones are grouped by which of
    the class's own cues they show and whether they show any other; then by whether they show any own and any other;
    then by whether they show any own; and what is still too rare joins the largest group of its class.

    Args:
        label: (n,) int.
        shown: (n, k) bool, presences of k cues.
        own: (c, k) bool, the cues that were found for each class.
        names: names of the c classes, and of the k cues.
        least: photos in the smallest group.
    """
    of, found, merged = np.full(len(label), -1), [], {}
    for y in range(len(names[0])):
        mine = np.flatnonzero(label == y)
        for key, members in _cells(shown[mine], own[y], least, merged, lambda k, y=y: _name(names, y, k)).items():
            of[mine[members]] = len(found)
            found.append((_name(names, y, key), y))
    return Groups(of, tuple(name for name, _ in found), np.array([y for _, y in found], np.int64), merged)


def balanced_weights(groups: Groups) -> np.ndarray:
    """Returns (n,) weights of mean 1 under which all groups of a class weigh the same, and each class what it did.

    With as many groups in every class this is the inverse of the group's frequency.
    """
    sizes = groups.sizes
    of_class = np.bincount(groups.label, minlength=groups.label.max() + 1)
    total = np.bincount(groups.label, weights=sizes)
    share = total[groups.label] / of_class[groups.label]
    return (share / np.maximum(sizes, 1))[groups.of]


def _cells(
    shown: np.ndarray, own: np.ndarray, least: int, merged: dict[str, int], name: Callable[[Key], str]
) -> dict[Key, np.ndarray]:
    """Returns the groups of one class: key → rows of `shown`."""
    cells: dict[Key, np.ndarray] = {}
    left = np.arange(len(shown))
    for coarseness in range(4):
        by_key: dict[Key, list[int]] = {}
        for row in left.tolist():
            by_key.setdefault(_key(shown[row], own, coarseness), []).append(row)
        if coarseness == 0:
            merged.update({name(key): len(rows) for key, rows in by_key.items() if len(rows) < least})
        cells |= {key: np.array(rows) for key, rows in by_key.items() if len(rows) >= least}
        left = np.array([row for rows in by_key.values() if len(rows) < least for row in rows], np.int64)
    if len(left):
        largest = max(cells, key=lambda key: len(cells[key]), default=_key(shown[left[0]], own, 3))
        cells[largest] = np.concatenate([cells.get(largest, np.empty(0, np.int64)), left])
    return cells


def _key(shown: np.ndarray, own: np.ndarray, coarseness: int) -> Key:
    its_own, other = bool((shown & own).any()), bool((shown & ~own).any())
    exactly = tuple(np.flatnonzero(shown).tolist())
    own_exactly = tuple(np.flatnonzero(shown & own).tolist())
    return ((exactly,), (own_exactly, other), (its_own, other), (its_own,))[coarseness]


def _name(names: Sequence[Sequence[str]], y: int, key: Key) -> str:
    words = []
    for part, where in zip(key, ("own", "other"), strict=False):
        if isinstance(part, tuple):
            words.append(" + ".join(names[1][cue] for cue in part) or "none")
        else:
            words.append(f"{'an' if part and where == 'own' else 'some' if part else 'no'} {where} cue")
    return f"{names[0][y]}|{', '.join(words)}"
