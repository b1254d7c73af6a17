"""Evidence → Domino: a mixture over embeddings, labels and predictions; its error slices, and their cues."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from .interface import Evidence, Ranking, every_pair, rank_findings
from .slices import enrichment

PCA_DIMENSIONS = 128
COMPONENTS = 25
SLICES = 5
GAMMA = 10.0
"""Weight of label and of prediction in the log-likelihood."""
CONFUSION_NOISE = 1e-3
MAX_ITERATIONS = 100
TOLERANCE = 1e-3
MIN_VARIANCE = 1e-6
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Images:
    """What the mixture is fitted to.

    Attributes:
        z: (n, d) float64 embeddings.
        y: (n, c) one-hot labels.
        y_hat: (n, c) probabilities of the model, put in as they are.
    """

    z: np.ndarray
    y: np.ndarray
    y_hat: np.ndarray


@dataclass(frozen=True)
class Mixture:
    """Parameters of k slices.

    Attributes:
        weight: (k,) P(S).
        mean: (k, d) of P(Z|S).
        variance: (k, d) of P(Z|S).
        y: (k, c) P(Y|S).
        y_hat: (k, c) P(Ŷ|S).
    """

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    y: np.ndarray
    y_hat: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted mixture.

    Attributes:
        mixture: its parameters.
        share: (n, k) P(S|image).
        likelihoods: mean log-likelihood of an image at each step.
    """

    mixture: Mixture
    share: np.ndarray
    likelihoods: tuple[float, ...]


def domino(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks cues by how differently one of the five slices with the highest error shows them (ICLR 2022).

    An entry's score is the largest, over slices, of slice error times |share of the slice with the cue - share of
    the rest of its class|. A cue that the slice shows more often points to the class it is taken for, one that it
    lacks to the true class.
    Reports: its top five, having no rule of its own.
    Trap: on correlations it loses to the plain confusion cell; its confusion start needs classes² ≤ 25, so that
    beyond five classes its k-means start is taken.
    """
    fit = fit_mixture(_images(evidence, rng), rng)
    error = (fit.mixture.y_hat - fit.mixture.y).max(axis=1)
    score = np.zeros((len(evidence.cue_words), evidence.n_classes))
    for s in np.argsort(-error, kind="stable")[:SLICES]:
        true = fit.mixture.y[s].argmax()
        taken_for = (fit.mixture.y_hat[s] - fit.mixture.y[s]).argmax()
        more = enrichment(evidence.cue_present, fit.share[:, s], evidence.label == true)
        for label, toward in ((taken_for, more > 0), (true, more < 0)):
            score[:, label] = np.maximum(score[:, label], error[s] * np.abs(more) * toward)
    return rank_findings(evidence, every_pair(score), rng)


def fit_mixture(images: Images, rng: np.random.Generator, gamma: float = GAMMA) -> Fit:
    """Maximises Σ log Σ_s P(s) P(z|s) P(y|s)^γ P(ŷ|s)^γ by expectation-maximisation, diagonal covariances."""
    share = _first_shares(images, rng)
    likelihoods: list[float] = []
    for _ in range(MAX_ITERATIONS):
        mixture = maximise(images, share)
        joint = _log_joint(images, mixture, gamma)
        total = logsumexp(joint, axis=1)
        share = np.exp(joint - total[:, None])
        likelihoods.append(float(total.mean()))
        if len(likelihoods) > 1 and abs(likelihoods[-1] - likelihoods[-2]) < TOLERANCE:
            break
    return Fit(mixture, share, tuple(likelihoods))


def maximise(images: Images, share: np.ndarray) -> Mixture:
    """Returns the parameters that fit best to (n, k) shares of images in slices."""
    size = share.sum(axis=0) + 10 * EPS
    mean = share.T @ images.z / size[:, None]
    variance = share.T @ images.z**2 / size[:, None] - mean**2
    return Mixture(
        weight=size / size.sum(),
        mean=mean,
        variance=np.maximum(variance, 0) + MIN_VARIANCE,
        y=share.T @ images.y / size[:, None],
        y_hat=share.T @ images.y_hat / size[:, None],
    )


def _log_joint(images: Images, mixture: Mixture, gamma: float) -> np.ndarray:
    """Returns (n, k) log P(s) + log P(z|s) + γ log P(y|s) + γ log P(ŷ|s)."""
    precision = 1 / mixture.variance
    square = (
        images.z**2 @ precision.T
        - 2 * images.z @ (mixture.mean * precision).T
        + (mixture.mean**2 * precision).sum(axis=1)
    )
    log_z = -0.5 * (square + np.log(2 * np.pi * mixture.variance).sum(axis=1))
    log_y = np.log(images.y @ mixture.y.T + EPS) + np.log(images.y_hat @ mixture.y_hat.T + EPS)
    return np.log(mixture.weight + EPS) + log_z + gamma * log_y


def _images(evidence: Evidence, rng: np.random.Generator) -> Images:
    z = evidence.image_embedding.astype(np.float64)
    pca = PCA(min(PCA_DIMENSIONS, *z.shape), random_state=int(rng.integers(2**31)))
    return Images(pca.fit_transform(z), np.eye(evidence.n_classes)[evidence.label], evidence.probs.astype(np.float64))


def _first_shares(images: Images, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, k) shares by cell of the confusion matrix with a little noise, by k-means beyond five classes."""
    n, classes = images.y.shape
    if classes**2 <= COMPONENTS:
        cell = (images.y[:, :, None] * images.y_hat[:, None, :]).reshape(n, -1)
        share = cell[:, np.arange(COMPONENTS) % classes**2]
        share = share / np.maximum(share.sum(axis=1, keepdims=True), EPS)
    else:
        model = KMeans(min(COMPONENTS, n), n_init=1, random_state=int(rng.integers(2**31)))
        share = np.eye(COMPONENTS)[model.fit_predict(images.z)]
    share = share + rng.random(share.shape) * CONFUSION_NOISE
    return share / share.sum(axis=1, keepdims=True)
