"""Prints what repairs of a zero-shot CLIP win on digits with a planted square: RaVL's region-aware loss, and group DRO.

Usage: python -m tests.benchmarks.repair_clip --work FOLDER [--seeds 0 1 2] [--V 0.95]
FOLDER may be that of `tests.benchmarks.repair`: the digits are the same. No CLIP's weights come with this project, so
a small one is trained from nothing: a vision transformer of three layers, its texts the names of the digits. Models,
runs and repairs are kept in FOLDER, and an interrupted benchmark goes on.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests share

from tiny_checkpoints import clip_tokenizer, text_settings

from discovery.backends.classifier import load_classifier
from discovery.backends.classifier_zero_shot import prompts_of
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig, override
from discovery.cue_groups import Groups
from discovery.repairs.task import group_accuracy
from discovery.retrain import retrain
from discovery.retrain_audit import CHOSEN, NULL, WORSE
from discovery.run import Run, frame_of
from tests.benchmarks import arena_digits
from tests.benchmarks.arena import Setting
from tests.benchmarks.digits_model import CLASSES, learned_strength, trained_model
from tests.benchmarks.digits_pool import CELL, SIDE, Pool, make_pool
from tests.benchmarks.repair_arena import LOOK, TRAINING, Arena, finished, planted_pairs
from tests.benchmarks.repair_bench import WORST_OF

EPOCHS, BATCH, WIDTH, LAYERS, PATCH_PX = 25, 128, 64, 3, 7
METHODS = {"region_aware": (), "groupdro": (), "spufix": ()}
"""Repairs, and settings of `retrain` that are not the product's own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--V", type=float, default=0.95)
    options = parser.parse_args()
    print("| model | repair | strength τ | worst group, % | average, % | planted cue: share left | null cues worse |")
    print("|---|---|---|---|---|---|---|")
    for seed in options.seeds:
        arena = planted_clip(options.work / "digits", options.V, seed)
        print(f"| {seed} | as it is | {arena.tau[0]:.2f} | {_accuracy(arena, arena.run)} | 1.00 | – |", flush=True)
        for method, settings in METHODS.items():
            given = [f"retrain.method='{method}'", *(f"retrain.{each}" for each in settings)]
            outcome = retrain(arena.run, override(arena.run.config, given, ("retrain",)))
            nulls = [row for row in outcome.facts["cues"] if row["role"] == NULL]
            worse = f"{sum(row['outcome'] == WORSE for row in nulls)} of {len(nulls)}"
            accuracy, left = _accuracy(arena, Run.open(outcome.folder)), _left(arena, outcome.facts)
            print(f"| {seed} | {method} | | {accuracy} | {left} | {worse} |", flush=True)


def planted_clip(folder: Path, cramers_v: float, seed: int) -> Arena:
    """Trains a CLIP on the digits, runs the product's stages on it, and exports the groups of what was found."""
    pool = make_pool(folder, look=LOOK)
    setting = _with_clip(arena_digits.setting(pool, folder, cramers_v, seed, training=TRAINING), pool, folder)
    run = finished(setting, folder / "runs" / f"clip-{cramers_v}-{seed}")
    shown = {sample_id: pool.square[[int(sample_id)]] >= 0 for sample_id in setting.tables["samples"]["sample_id"]}
    own = np.arange(len(CLASSES))[:, None] == setting.targets[0].label
    return Arena(run, (setting.targets[0].tau,), CLASSES, shown, own, planted_pairs(setting, CLASSES))


def _with_clip(setting: Setting, pool: Pool, folder: Path) -> Setting:
    """Returns the setting with a CLIP in place of its network."""
    v, seed = setting.facts["cramers_v"], setting.facts["seed"]
    known = trained_model(pool, folder, v, seed, "", TRAINING)
    path = folder / "clips" / f"{v}-{seed}"
    config = ModelConfig(kind="clip_zero_shot", path=f"clip:{path}", classes=CLASSES)
    if not (path / "model.safetensors").is_file():
        _train(pool.image[known.train], known.target, [prompts_of(config, name)[0] for name in CLASSES], path, seed)
    model = load_classifier(config, ComputeConfig(), Head(CLASSES))
    audited = np.flatnonzero(pool.audited)
    views, truth = [model.view(pool.image[i]) for i in audited], pool.digit[audited]
    probs = np.concatenate([model.predict(views[i : i + 200]) for i in range(0, len(views), 200)])
    rows = [
        {
            **{"sample_id": f"{i:05d}", "predicted": CLASSES[int(p.argmax())], "probs": p.tolist()},
            **{"prob_label": float(p[t]), "correct": bool(p.argmax() == t)},
        }
        for i, p, t in zip(audited, probs, truth, strict=True)
    ]
    (target,) = setting.targets
    tau = learned_strength(pool.square[audited] >= 0, truth, probs.argmax(1), target.label)
    return replace(
        setting,
        config=setting.config | {"model": {"kind": config.kind, "path": config.path, "classes": CLASSES}},
        tables=setting.tables | {"predictions": frame_of("predictions", rows)},
        targets=(replace(target, tau=tau),),
    )


def _train(images: np.ndarray, target: np.ndarray, prompts: list[str], path: Path, seed: int) -> None:
    """Trains a CLIP by cross-entropy over the texts of all classes, and saves it as a checkpoint."""
    torch.manual_seed(seed)
    side, tokenizer = 2 * CELL, clip_tokenizer(prompts)
    vision = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS}
    vision |= {"num_attention_heads": 4, "image_size": side, "patch_size": PATCH_PX}
    text = text_settings(tokenizer)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": side, "width": side})
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    tokens, label = tokenizer(prompts, padding=True, return_tensors="pt"), torch.from_numpy(target)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(label) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(label)).split(BATCH):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(**tokens, pixel_values=pixels[rows]).logits_per_image, label[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(
            f"CLIP of seed {seed}: epoch {epoch + 1} of {EPOCHS}, loss {np.mean(losses):.3f}",
            file=sys.stderr,
            flush=True,
        )
    model.eval().save_pretrained(path)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(path)


def _judged(arena: Arena, run: Run) -> tuple[np.ndarray, np.ndarray, Groups]:
    """Returns which audited photos are right, the shares of their groups among the others, and these groups."""
    samples = arena.run.read("samples")
    right = dict(run.read("predictions", columns=["sample_id", "correct"]).iter_rows())
    groups = {}
    for audit in (False, True):
        part = samples.filter(samples["audit"] == audit)
        label = np.array([CLASSES.index(name) for name in part["label"]])
        groups[audit] = part["sample_id"].to_list(), arena.judged(CLASSES, label, part["sample_id"].to_list())
    ids, judged = groups[True]
    sizes = dict(zip(groups[False][1].names, groups[False][1].sizes.tolist(), strict=True))
    return np.array([right[i] for i in ids]), np.array([sizes.get(name, 0) for name in judged.names], float), judged


def _accuracy(arena: Arena, run: Run) -> str:
    right, shares, groups = _judged(arena, run)
    accuracy = group_accuracy(right, groups)
    worst = accuracy[groups.sizes >= WORST_OF].min()
    return f"{100 * worst:.1f} | {100 * accuracy @ shares / shares.sum():.1f}"


def _left(arena: Arena, facts: dict) -> str:
    rows = [row for row in facts["cues"] if row["role"] == CHOSEN and (row["label"], row["cue_id"]) in arena.planted]
    shares = [row["effect_after"] / row["effect_before"] for row in rows]
    return f"{np.median(shares):.2f}" if shares else "not found"


if __name__ == "__main__":
    main()
