"""The recipe of the tiny OWLv2: its scenes, its judge, and that a step of it learns."""

import numpy as np
import pytest
import torch
from coloured_shapes import COLOURS, HELD_OUT, KNOWN, Scene, draw_scene, held_out_scenes, score_found
from tiny_owlv2 import PROMPT, QUERIES, Pool, assign, build, loss_of

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


def test_things_are_assigned_to_the_patches_that_fit_them_and_absent_ones_to_none():
    boxes = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1]]])
    true = torch.tensor([[[0.7, 0.7, 0.9, 0.9], [0.1, 0.1, 0.3, 0.3], [0, 0, 0, 0]]])
    wanted = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    scene, patch, thing = assign(torch.zeros(1, 3, 2), boxes, wanted, true)
    assert sorted(zip(patch.tolist(), thing.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert scene.tolist() == [0, 0]


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
    tokens = tokenizer(
        [PROMPT.replace("{}", q) for q in QUERIES], padding="max_length", max_length=16, return_tensors="pt"
    )
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
