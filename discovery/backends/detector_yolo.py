"""Images and phrases → boxes by YOLO-World or YOLOE, and masks where the checkpoint segments.

Cheng et al. 2024 (YOLO-World) and Wang et al. 2025 (YOLOE) compare image features with text embeddings, which are
computed here beforehand. YOLO-World mixes them into its neck, so that the whole network runs once per chunk of phrases;
YOLOE compares them in its head alone, so that everything before it runs once per photo.

Ultralytics is AGPL-3.0: it is imported when one of these is asked for, and never otherwise.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from discovery.backends.checkpoint import read_choice
from discovery.backends.class_texts import load_class_texts
from discovery.backends.detector import Phrase
from discovery.backends.extras import needed
from discovery.backends.open_set import Batches, Chosen, Queries, choose, chunks, sees_place
from discovery.config import ComputeConfig, DetectConfig
from discovery.device import device_for
from discovery.errors import BackendError
from discovery.images import resize
from discovery.regions import Regions, encode_rle

TEXT_MODELS = {"yolo_world": "clip:openai/clip-vit-base-patch32", "yoloe": "mobileclip:mobileclip_blt.ts"}
"""What the published checkpoints were trained with."""
GREY = 114  # of the padding, as in training


class YoloDetector:
    """Open-set detection by text with YOLO-World or YOLOE.

    Args:
        name: "yolo_world" or "yoloe".
        checkpoint: a .pt file. It is a pickle, which can run code: name only files that you trust.
        config: `text_model`, the floor, and how much is done at once.
        compute: where it runs.
    """

    def __init__(self, name: str, checkpoint: str, config: DetectConfig, compute: ComputeConfig) -> None:
        self._net, self._splits = _load(name, checkpoint, compute), name == "yoloe"
        self._device, self._config = device_for(compute), config
        self._net.to(self._device).eval().requires_grad_(False)
        if compute.fast and self._device.type == "cuda":
            self._net.half().compile(dynamic=True)
        self._dtype = next(self._net.parameters()).dtype
        self._side = _side(self._net)
        self._text = load_class_texts(read_choice(config.text_model or TEXT_MODELS[name]), compute)
        self._batches = Batches(min(config.images_per_pass, compute.batch_size))
        self._queries = Queries(self._embed, config.phrases_per_pass)

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether the phrase has a place; free text is all it needs."""
        return sees_place(phrase)

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """See `Detector.detect`."""
        return self._queries.find(images, phrases, self._batches, self._find)

    def _find(self, images: Sequence[np.ndarray], queries: torch.Tensor) -> Regions:
        views = [_view(image, self._side) for image in images]
        sizes = [image.shape[:2] for image in images]
        scale = torch.tensor([[max(size) / self._side] for size in sizes], device=self._device)[:, None]
        pixels = torch.stack([torch.from_numpy(_padded(view, self._side)) for view in views]).to(self._device)
        pixels = pixels.permute(0, 3, 1, 2).to(self._dtype) / 255
        parts, first = [], 0
        for answer, protos in self._answers(pixels, queries):
            n = min(self._config.phrases_per_pass, len(queries) - first)
            raw = answer.float().transpose(1, 2)  # (n, anchors, 4 + phrases + coefficients)
            centre, half = raw[..., :2], raw[..., 2:4] / 2
            boxes = torch.cat([centre - half, centre + half], dim=-1)
            chosen = choose(raw[..., 4 : 4 + n], boxes * scale, sizes, self._config)
            found = chosen.regions
            if protos is not None:
                found = _with_masks(chosen, raw[..., 4 + n :], protos.float(), [view.shape[:2] for view in views])
            parts.append(replace(found, phrase=found.phrase + first))
            first += n
        return Regions.concat(parts)

    def _answers(
        self, pixels: torch.Tensor, queries: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Yields (n, 4 + phrases + coefficients, anchors) answers and mask prototypes, chunk by chunk of phrases."""
        head, kept = self._net.model[-1], None
        for part in chunks(len(queries), self._config.phrases_per_pass):
            texts = queries[part][None].to(self._dtype)
            if self._splits:
                kept = kept or _before_head(self._net, pixels)
                answer = head([*kept, head.get_tpe(texts).expand(len(pixels), -1, -1)])[0]
            else:
                head.nc = texts.shape[1]
                answer = self._net(pixels, txt_feats=texts)[0]
            yield answer if isinstance(answer, tuple) else (answer, None)

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        found = self._text(texts)
        if found.shape[1] != (width := _text_width(self._net)):
            raise BackendError(
                f"detect.text_model gives {found.shape[1]} numbers per phrase and this YOLO reads {width}; "
                "name the text model it was trained with"
            )
        return found


def _load(name: str, checkpoint: str, compute: ComputeConfig) -> Any:
    """Returns the network of a checkpoint, with Ultralytics' telemetry and its installing of packages off."""
    if not Path(checkpoint).is_file() and not compute.download:
        raise BackendError(f"no file at {checkpoint}; name a .pt file, or fetch it once with compute.download = true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    if not compute.download:
        os.environ.setdefault("YOLO_OFFLINE", "1")
    ultralytics = needed("ultralytics", "yolo")
    from ultralytics.nn.tasks import WorldModel, YOLOEModel

    ultralytics.settings.update({"sync": False})
    wrapper, wanted = {
        "yolo_world": (ultralytics.YOLOWorld, WorldModel),
        "yoloe": (ultralytics.YOLOE, YOLOEModel),
    }[name]
    try:
        net = wrapper(checkpoint).model
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
        pickle.PickleError,
    ) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackendError(f"cannot load {checkpoint}: {said}") from error
    if not isinstance(net, wanted):
        raise BackendError(f"{checkpoint} is a checkpoint of type {type(net).__name__}; {name} reads {wanted.__name__}")
    head = net.model[-1]
    if getattr(head, "is_fused", False) or hasattr(head, "lrpc"):
        raise BackendError(f"the classes of {checkpoint} are fixed; name a YOLOE that still takes text prompts")
    head.end2end = False  # the end-to-end branch gives every box one phrase only
    return net


def _before_head(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the feature maps that the head reads."""
    kept = []
    for layer in net.model:
        if layer.f != -1:
            x = kept[layer.f] if isinstance(layer.f, int) else [x if j == -1 else kept[j] for j in layer.f]
        if layer is net.model[-1]:
            break
        x = layer(x)
        kept.append(x if layer.i in net.save else None)
    return x


def _with_masks(
    chosen: Chosen, coefficients: torch.Tensor, protos: torch.Tensor, shapes: Sequence[tuple[int, int]]
) -> Regions:
    """Returns the chosen regions with masks: prototypes mixed by a box's coefficients, cut to the box (as YOLACT)."""
    found, masks = chosen.regions, []
    side = 4 * protos.shape[-1]
    for i, box, anchor in zip(found.image, found.xyxy, chosen.box, strict=True):
        height, width = shapes[i]
        logits = torch.einsum("c,chw->hw", coefficients[i, anchor], protos[i])
        full = interpolate(logits[None, None], size=(side, side), mode="bilinear")[0, 0, :height, :width]
        mask, scale = (full > 0).cpu().numpy(), max(height, width) / max(chosen.sizes_px[i])
        x0, y0, x1, y1 = np.round(box * scale).astype(int)
        inside = np.zeros_like(mask)
        inside[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        masks.append(encode_rle(mask & inside) if (mask & inside).any() else None)
    return replace(found, mask_rle=tuple(masks))


def _view(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def _padded(view: np.ndarray, side: int) -> np.ndarray:
    canvas = np.full((side, side, 3), GREY, np.uint8)
    canvas[: view.shape[0], : view.shape[1]] = view
    return canvas


def _side(net: Any) -> int:
    """Returns the side of the square input that a network was trained on, a multiple of its stride."""
    side = net.args["imgsz"] if isinstance(net.args, dict) else net.args.imgsz
    return int(np.ceil(np.max(side) / 32) * 32)


def _text_width(net: Any) -> int:
    head = net.model[-1]
    return head.embed if hasattr(head, "embed") else net.txt_feats.shape[-1]
