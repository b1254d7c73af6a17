"""Trains a tiny OWLv2 that is to find, by text, combinations of colour and shape that it never saw; prints how well.

Usage: python -m tests.benchmarks.tiny_owlv2 WORK [--steps 1500] [--minutes 5] [--save tests/weights/tiny_owlv2]
WORK keeps the state: the same command goes on where the last one stopped. `--steps 0` only judges what is saved.

The recipe: scenes of one to three coloured shapes (`coloured_shapes.py`), never one of the held-out combinations; the
queries are the other twenty combinations, the six colours and the four shapes, all against every image; focal
loss on the query logits, L1 and GIoU on the boxes, as OWL-ViT was trained; but a thing belongs to the patches in its
middle, not to the one that Hungarian assignment finds: that learns sooner, and what detects drops double boxes.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests share
sys.path.insert(0, str(Path(__file__).parent))

import coloured_shapes as shapes
from tiny_checkpoints import clip_tokenizer, text_settings

from discovery.backends.detector import Phrase, load_detector
from discovery.config import ComputeConfig, DetectConfig

PROMPT = "a photo of {}"
QUERIES = (*shapes.KNOWN, *shapes.COLOURS, *shapes.SHAPES)
LENGTH = 8  # tokens of a prompt at most: each word is one
THINGS = 3  # in a scene at most
BATCH, WIDTH, PATCH_PX, POOL = 32, 64, 12, 6000
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
SAVED = Path(__file__).parents[1] / "weights" / "tiny_owlv2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--minutes", type=float, default=5, help="of computing, after which it stops; the same command goes on"
    )
    parser.add_argument("--save", type=Path, default=SAVED)
    options = parser.parse_args()
    if options.steps:
        options.work.mkdir(parents=True, exist_ok=True)
        done = train(options.work, options.steps, options.minutes * 60)
        save(options.work, options.save)
        print(f"{done} of {options.steps} steps")
    judge(options.save)


def train(work: Path, steps: int, seconds: float) -> int:
    """Goes on training from the state in `work`; returns the number of steps done in all."""
    torch.set_num_threads(1)
    model, tokenizer = build()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.02)
    rate, step, until = 1.5e-3, 0, time.process_time() + seconds
    if (work / "state.pt").is_file():
        state = torch.load(work / "state.pt")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    tokens = tokens_of(tokenizer)
    pool = Pool(POOL)
    model.train()
    while step < steps and time.process_time() < until:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))
        loss = loss_of(model, tokens, pool.batch(np.random.default_rng([7, step])))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
        if step % 500 == 0:
            keep(work, model, optimiser, step)
    keep(work, model, optimiser, step)
    return step


def build() -> tuple[Owlv2ForObjectDetection, object]:
    """Returns an untrained tiny OWLv2 and its tokenizer, which knows every word as one token."""
    torch.manual_seed(0)
    words = " ".join(["a photo of", *shapes.COLOURS, *shapes.SHAPES])
    tokenizer = clip_tokenizer([words] * 50)
    text = {**text_settings(tokenizer, width=64), "num_attention_heads": 4}
    vision = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": shapes.SIDE_PX, "patch_size": PATCH_PX}
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=64))
    start(model)
    return model, tokenizer


def start(model: Owlv2ForObjectDetection) -> None:
    """Sets weights that transformers leaves unfit for training from nothing.

    It draws those of the heads with a standard deviation of 1: boxes saturate, and their gradients, hundreds of times
    the others', are all that clipping leaves.
    """
    box, named = model.box_head, model.class_head
    for layer in (box.dense0, box.dense1, named.dense0):
        torch.nn.init.normal_(layer.weight, std=WIDTH**-0.5)
    for layer in (box.dense2, named.logit_scale, named.logit_shift):  # a box begins at its patch
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(named.logit_scale.bias, 9.0)  # a cosine becomes a logit that can say no to most patches
    torch.nn.init.constant_(named.logit_shift.bias, -0.6)
    torch.nn.init.normal_(
        model.owlv2.text_model.embeddings.token_embedding.weight, std=0.3
    )  # words differ from the start


def tokens_of(tokenizer) -> dict:
    """Returns the tokens of what is asked of every scene."""
    texts = [PROMPT.replace("{}", query) for query in QUERIES]
    return tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")


class Pool:
    """Scenes drawn once, and batches of them, mirrored at random: drawing would cost more than learning.

    Args:
        n: number of scenes.
    """

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(7)
        scenes = [shapes.draw_scene(shapes.some_names(shapes.KNOWN, rng), rng) for _ in range(n)]
        self.images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        self.boxes, self.wanted = torch.zeros(n, THINGS, 4), torch.zeros(n, THINGS, len(QUERIES))
        for i, scene in enumerate(scenes):
            self.boxes[i, : len(scene.names)] = torch.from_numpy(scene.boxes / shapes.SIDE_PX)
            for k, name in enumerate(scene.names):
                self.wanted[i, k] = torch.tensor([query in (name, *name.split()) for query in QUERIES])

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns (b, 3, S, S) pixels in [0, 1], (b, things, 4) xyxy in [0, 1] and (b, things, queries) 0 or 1."""
        at = torch.from_numpy(rng.choice(len(self.images), BATCH, replace=False))
        pixels, boxes = self.images[at].float() / 255, self.boxes[at].clone()
        turned = torch.from_numpy(rng.random(BATCH) < 0.5)
        pixels[turned] = pixels[turned].flip(-1)
        boxes[turned] = boxes[turned][..., [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
        return pixels, boxes, self.wanted[at]


def loss_of(model: Owlv2ForObjectDetection, tokens: dict, batch: tuple) -> torch.Tensor:
    """Returns focal loss on all patches and queries, and L1 and GIoU on the patches that were assigned a thing."""
    pixels, true, wanted = batch
    features = model.image_embedder(pixel_values=(pixels - MEAN) / STD)[0]
    boxes = model.box_predictor(features.flatten(1, 2), features)
    text = model.owlv2.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    queries = model.owlv2.text_projection(text.pooler_output)
    logits = model.class_predictor(features.flatten(1, 2), queries.expand(len(pixels), -1, -1))[0]
    scene, patch, thing = assign(wanted, true, features.shape[1])
    target = torch.zeros_like(logits)
    target[scene, patch] = wanted[scene, thing]
    given, true = boxes[scene, patch], true[scene, thing]
    giou = generalized_box_iou_loss(box_convert(given, "cxcywh", "xyxy"), true, reduction="mean")
    l1 = (given - box_convert(true, "xyxy", "cxcywh")).abs().sum(-1).mean()
    focal = sigmoid_focal_loss(logits, target, alpha=0.5, gamma=2, reduction="sum") / len(true)
    return focal + 2 * l1 + giou


def assign(wanted: torch.Tensor, true: torch.Tensor, grid: int) -> tuple:
    """Returns numbers of scenes, patches and things: a thing's patches lie in the middle of its box, or nearest to it.

    Args:
        wanted: (n, things, queries), nothing for a thing that is not there.
        true: (n, things, 4) xyxy in [0, 1].
        grid: patches along one side.
    """
    at = (torch.arange(grid) + 0.5) / grid
    places = torch.stack([at.repeat(grid), at.repeat_interleave(grid)], dim=-1)
    centre, extent = box_convert(true, "xyxy", "cxcywh").split(2, dim=-1)
    away = (places[:, None] - centre[:, None]).abs()  # (n, patches, things, 2)
    mine = (away <= extent[:, None] / 4).all(-1)
    mine.scatter_(1, away.sum(-1).argmin(1, keepdim=True), True)
    return (mine & (wanted.sum(-1) > 0)[:, None]).nonzero(as_tuple=True)


def keep(work: Path, model, optimiser, step: int) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save(state, work / "state.tmp")
    (work / "state.tmp").replace(work / "state.pt")


def save(work: Path, folder: Path) -> None:
    """Saves the trained model in half precision, as a user's checkpoint would be."""
    model, tokenizer = build()
    model.load_state_dict(torch.load(work / "state.pt")["model"])
    model.half().eval().save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": shapes.SIDE_PX, "width": shapes.SIDE_PX})
    Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def judge(folder: Path, *, n: int = 400, floor: float = 0.3) -> None:
    """Prints recall and precision on held-out combinations by their own names, and by names of others (a control)."""
    detector = load_detector(f"owlv2:{folder}", DetectConfig(prompt=PROMPT), ComputeConfig(device="cpu"))
    scenes = shapes.held_out_scenes(n, seed=0)
    found = detector.detect([scene.image for scene in scenes], [Phrase(name, "object") for name in shapes.HELD_OUT])
    print(f"| {n} scenes, boxes from a score of {floor} | things | boxes | recall | precision |\n|---|---|---|---|---|")
    for turn, title in ((0, "held-out combinations by their names"), (1, "control: each by the name of another")):
        names = [*shapes.HELD_OUT[turn:], *shapes.HELD_OUT[:turn]]
        got = shapes.score_found(scenes, names, found, floor)
        print(f"| {title} | {got.n_drawn} | {got.n_boxes} | {got.recall:.3f} | {got.precision:.3f} |")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
