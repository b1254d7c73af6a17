"""Evidence → cleanlab Datalab's spurious correlations: how well one image property alone predicts the label."""

import numpy as np

from .interface import Evidence, Finding, Ranking, rank_findings

FOLDS = 5
THRESHOLD = 0.3
SMOOTHING = 1e-9
"""Share of a property's variance added to the variance within each class, as in scikit-learn's GaussianNB."""


def cleanlab_property(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks cues by 1 - label prediction error; the label is the class that scores the cue highest on average.

    Reports: an error under 0.3, Datalab's own threshold.
    Trap: accuracy is plain and its baseline the *index* of the majority class over n, hence about 0: with one class
    above 70 % noise is flagged. The model is never looked at, so the object itself is the first finding.
    """
    error = label_prediction_error(evidence.cue_score, evidence.label)
    member = np.eye(evidence.n_classes)[evidence.label]
    mean = evidence.cue_score @ member / np.maximum(member.sum(axis=0), 1)
    found = Finding(np.arange(len(error)), mean.argmax(axis=1), 1 - error, error < THRESHOLD)
    return rank_findings(evidence, found, rng)


def label_prediction_error(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns (q,) min(1, (1 - accuracy) / (1 - baseline)) of (q, n) properties, as Datalab computes it."""
    baseline = np.bincount(label).argmax() / len(label)
    return np.minimum(1.0, (1.0 - cross_validated_accuracy(score, label)) / (1.0 - baseline))


def cross_validated_accuracy(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns (q,) mean accuracy over five folds of a Gaussian naive Bayes that sees one property."""
    fold = stratified_folds(label)
    score = score.astype(np.float64)
    accuracy = []
    for held_out in np.unique(fold):
        test = fold == held_out
        predicted = _predict(score[:, ~test], label[~test], score[:, test])
        accuracy.append((predicted == label[test]).mean(axis=1))
    return np.mean(accuracy, axis=0)


def stratified_folds(label: np.ndarray) -> np.ndarray:
    """Returns (n,) folds 0 to 4; the images of each class are dealt out in turn."""
    fold = np.zeros(len(label), np.int64)
    for y in np.unique(label):
        own = np.flatnonzero(label == y)
        fold[own] = np.arange(len(own)) % FOLDS
    return fold


def _predict(train: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fits one Gaussian per class to each of (q, n) properties, and returns (q, m) classes of (q, m) new values."""
    joint = np.full((*test.shape, label.max() + 1), -np.inf)
    floor = np.maximum(SMOOTHING * train.var(axis=1), 1e-300)
    for y in np.unique(label):
        own = train[:, label == y]
        mean, variance = own.mean(axis=1, keepdims=True), (own.var(axis=1) + floor)[:, None]
        likelihood = -0.5 * (np.log(2 * np.pi * variance) + (test - mean) ** 2 / variance)
        joint[:, :, y] = likelihood + np.log(own.shape[1] / len(label))
    return joint.argmax(axis=2)
