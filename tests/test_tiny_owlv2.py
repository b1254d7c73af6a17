"""The recipe of the tiny OWLv2: its scenes, its judge, and that a step of it learns."""

import numpy as np
import pytest
import torch
from coloured_shapes import COLOURS, HELD_OUT, KNOWN, Scene, draw_scene, held_out_scenes, score_found
from tiny_owlv2 import PROMPT, QUERIES, SAVED, Pool, assign, build, loss_of, tokens_of

from discovery.backends.detector import Phrase, load_detector
from discovery.config import ComputeConfig, DetectConfig
from discovery.planted_cues import COLOURS as INKS
from discovery.planted_cues import SHAPES
from discovery.regions import Regions


def test_what_is_held_out_is_neither_drawn_nor_named_and_its_words_are():
    assert not set(HELD_OUT) & {*KNOWN, *QUERIES}
    assert {word for name in HELD_OUT for word in name.split()} <= {word for name in KNOWN for word in name.split()}
    pool = Pool(200)
    assert pool.wanted.sum(-1).max() == 3  # its combination, its colour, its shape
    assert (pool.wanted[..., len(KNOWN) :].sum(-1) == 2 * (pool.wanted.sum(-1) > 0)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_holds_its_shape_in_its_colour(shape, rng):
    for colour in COLOURS:
        scene = draw_scene([f"{colour} {shape}"], rng)
        x0, y0, x1, y1 = scene.boxes[0].round().astype(int)
        inside = np.zeros(scene.image.shape[:2], bool)
        inside[y0:y1, x0:x1] = True
        near = np.abs(scene.image.astype(int) - INKS[colour]).max(-1) < 60
        assert near[inside].mean() > 0.3
        assert 10 <= x1 - x0 <= 50


def test_held_out_scenes_show_one_held_out_thing_each():
    for scene in held_out_scenes(12, seed=0):
        assert sum(name in HELD_OUT for name in scene.names) == 1
        assert len(scene.names) == len(scene.boxes) <= 3


def test_recall_and_precision_are_counted_once_per_thing():
    scene = Scene(
        np.zeros((96, 96, 3), np.uint8), ("red star", "red star"), np.array([[0, 0, 20, 20], [50, 50, 70, 70]])
    )
    rows = [
        (0, 0, [0, 0, 20, 20], 0.9, None),
        (0, 0, [1, 0, 20, 20], 0.8, None),  # the same thing again
        (0, 0, [30, 0, 40, 20], 0.7, None),  # nothing there
        (0, 0, [50, 50, 70, 70], 0.2, None),  # below the floor
        (0, 1, [50, 50, 70, 70], 0.9, None),  # by another name
    ]
    found = score_found([scene], ["red star", "blue star"], Regions.build(rows), 0.5)
    assert (found.recall, found.precision, found.n_drawn, found.n_boxes) == (0.5, 0.25, 2, 4)


def test_things_are_assigned_the_patches_in_their_middle_and_absent_ones_none():
    true = torch.tensor([[[0.5, 0.0, 1.0, 0.5], [0.01, 0.76, 0.03, 0.78], [0, 0, 0, 0]]])
    wanted = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    scene, patch, thing = assign(wanted, true, 4)
    assert sorted(zip(patch.tolist(), thing.tolist(), strict=True)) == [(2, 0), (3, 0), (6, 0), (7, 0), (12, 1)]
    assert not scene.any()


def test_a_mirrored_scene_keeps_its_boxes_on_its_things():
    pool = Pool(64)
    pixels, boxes, wanted = pool.batch(np.random.default_rng(0))
    shown = wanted.sum(-1) > 0
    assert ((boxes[shown][:, 2:] - boxes[shown][:, :2]) > 0.1).all()
    reds = wanted[..., QUERIES.index("red")] > 0
    for i, k in reds.nonzero().tolist():
        x, y = ((boxes[i, k, :2] + boxes[i, k, 2:]) / 2 * 95).round().long().tolist()
        assert pixels[i, 0, y, x] > pixels[i, 2, y, x] + 0.2


def test_a_few_steps_on_one_batch_lower_its_loss():
    torch.set_num_threads(1)
    model, tokenizer = build()
    tokens = tokens_of(tokenizer)
    batch = Pool(40).batch(np.random.default_rng(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = loss_of(model, tokens, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_gradients_of_the_heads_leave_room_for_the_others():
    """As transformers draws them they are hundreds of times larger, and clipping leaves nothing else."""
    torch.set_num_threads(1)
    model, tokenizer = build()
    loss_of(model, tokens_of(tokenizer), Pool(40).batch(np.random.default_rng(0))).backward()
    norms = {"heads": 0.0, "towers": 0.0}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            norms["towers" if name.startswith("owlv2.") else "heads"] += weight.grad.square().sum().item()
    assert norms["heads"] ** 0.5 < 10 * norms["towers"] ** 0.5


@pytest.fixture(scope="module")
def seen():
    """Scenes with one held-out thing each, and what the saved weights found in them by the held-out names."""
    detector = load_detector(f"owlv2:{SAVED}", DetectConfig(prompt=PROMPT), ComputeConfig(device="cpu", threads=1))
    scenes = held_out_scenes(100, seed=1)
    return scenes, detector.detect([scene.image for scene in scenes], [Phrase(name, "object") for name in HELD_OUT])


def test_combinations_never_seen_are_found_by_their_names(seen):
    found = score_found(seen[0], HELD_OUT, seen[1], 0.3)
    assert found.recall > 0.3
    assert found.precision > 0.3


def test_by_the_names_of_others_they_are_not_found(seen):
    """The control: the same boxes under shuffled names."""
    assert score_found(seen[0], [*HELD_OUT[1:], *HELD_OUT[:1]], seen[1], 0.3).recall < 0.1
