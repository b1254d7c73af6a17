"""A torch network that ends in class logits → a model under audit, and its last linear layer, found by watching it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from discovery.backends.preprocessing import Preprocessing
from discovery.backends.roles import Head, check_probs, softmax
from discovery.errors import BackendError

if TYPE_CHECKING:
    import torch

TOLERANCE, TOLERANCE_HALF = 1e-3, 2e-2
"""Of the largest logit: how far features × layer may lie from what the network says, in single and half precision."""


class NetClassifier:
    """A network under audit; see `roles.Featured`.

    Its last layer is the linear layer whose output is the logits. Where there is none (two heads that are averaged, a
    convolution, something after the layer) the network can be audited all the same, and gives no features.

    Args:
        net: in evaluation mode, on its device.
        logits: what the network says, (n, c), of what it is given, (n, 3, h, w).
        sight: its preprocessing.
        classes: names in output order.
        source: its checkpoint, for error messages.
    """

    def __init__(
        self,
        net: "torch.nn.Module",
        logits: "Callable[[torch.Tensor], torch.Tensor]",
        sight: Preprocessing,
        *,
        classes: tuple[str, ...],
        source: str,
    ) -> None:
        self.classes, self._source = classes, source
        self._net, self._logits, self._sight = net, logits, sight
        self.view, self.field = sight.view, sight.field
        first = next(net.parameters())
        self._device, self._dtype = first.device, first.dtype

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        if not len(views):
            return np.empty((0, len(self.classes)))
        said = self._run(views).double().cpu().numpy()
        return check_probs(softmax(said) if np.isfinite(said).all() else said, len(views), self.classes)

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Featured.features`."""
        if not len(views):
            return np.empty((0, self._last.in_features), np.float32)
        return _watched(self._last, lambda: self._run(views))[0].float().cpu().numpy()

    def linear(self) -> Head:
        """See `Featured.linear`."""
        last = self._last
        coef = last.weight.detach().double().cpu().numpy()
        bias = np.zeros(len(coef)) if last.bias is None else last.bias.detach().double().cpu().numpy()
        return Head(self.classes, coef, bias)

    @cached_property
    def _last(self) -> "torch.nn.Linear":
        """Finds the last layer on two views of noise, and checks that it gives the logits."""
        import torch

        shape = (2, *self._sight.shape, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        tolerance = TOLERANCE if self._dtype == torch.float32 else TOLERANCE_HALF
        layers = [part for part in self._net.modules() if isinstance(part, torch.nn.Linear)]
        for layer in reversed(layers):
            if layer.out_features != len(self.classes):
                continue
            seen = _watched(layer, lambda: self._run(noise))
            if seen is None or seen[0].ndim != 2 or len(seen[0]) != len(noise):
                continue
            given, said = seen[0].double(), seen[1].double()
            again = given @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
            if again.shape == said.shape and (again - said).abs().max() <= tolerance * (1 + said.abs().max()):
                return layer
        raise BackendError(
            f"the head of {self._source} cannot be found: no linear layer gives its logits; "
            "it can be audited, and repaired with --method python and your own training"
        )

    def _run(self, views: Sequence[np.ndarray]) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            return self._logits(self._sight.tensor(views, self._device).to(self._dtype))


def _watched(layer: "torch.nn.Linear", run: "Callable[[], torch.Tensor]") -> "tuple[torch.Tensor, torch.Tensor] | None":
    """Returns what a layer was given last while the network ran, and what the network said; None if it did not run."""
    given = []
    hook = layer.register_forward_hook(lambda _layer, inputs, _output: given.append(inputs[0]))
    try:
        said = run()
    finally:
        hook.remove()
    return (given[-1], said) if given else None
