"""A zero-shot CLIP and regions of its cues → its image projection, trained so that those regions lose the class's text.

The region-aware loss of RaVL (Varma et al. 2024), σ(R, y) = exp(max over r in R of cos(f(r), g(y)) / τ): L_R pulls the
other regions R of a photo to their class's text, against all texts and all spurious regions; L_A pushes the spurious
regions from it; 0.8 · cross-entropy of the photos + 0.2 · (L_R + L_A). The text tower is frozen. RaVL trains the whole
image tower; here its last layer is trained, so that every photo is put through the tower once.
"""

import copy
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.checkpoint import load_processor, read_choice
from discovery.backends.classifier_zero_shot import ZeroShotClassifier
from discovery.errors import BackendError
from discovery.images import read_image
from discovery.regions import draw_mask
from discovery.repairs.groupdro import EVERY, save_state
from discovery.repairs.task import Repaired, Task
from discovery.run import hash_of
from discovery.seen import BOX, box_of

TEMPERATURE, REGION_SHARE = 0.07, 0.2
SPURIOUS_SHARE = 0.5
"""Share of a window inside its photo's cues from which it is a spurious region; the one that holds most always is."""
WINDOWS = 3
"""Windows × windows per photo, overlapping by half."""


def repair(task: Task) -> Repaired:
    """Trains the projection and saves a checkpoint; see `repairs.task.Repair`."""
    choice = read_choice(task.run.config.model.path or "")
    if not isinstance(task.model, ZeroShotClassifier) or choice.name != "clip":
        raise BackendError(
            "region_aware repairs zero-shot CLIP models (model.kind = 'clip_zero_shot', model.path = 'clip:…'), got "
            f"{task.run.config.model.kind!r}; take --method groupdro"
        )
    whole, regions, spurious = _states(task)
    if not spurious.any():
        raise BackendError(
            "region_aware found no region of the chosen cues in the photos to fit on: they have no place (colour, "
            "lighting), or lie outside what the model sees; take --method groupdro"
        )
    space = task.model.space
    weight, losses = _train(task, (whole, regions, spurious), space.model.visual_projection.weight)
    folder = task.folder / "clip"
    repaired = copy.deepcopy(space.model)
    repaired.visual_projection.weight.data.copy_(weight.to(repaired.dtype))
    repaired.save_pretrained(folder)
    _copy_processors(task, choice.checkpoint or "", folder)
    facts = {"spurious_regions": int(spurious.sum()), "other_regions": int((~spurious).sum()), "loss": losses}
    return Repaired(model={"path": f"clip:{folder.absolute()}"}, facts=facts)


def _states(task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what the projection sees: (n, h) of photos, (n, r, h) of their windows, and (n, r) which are spurious."""
    import torch

    run, model = task.run, task.model
    norm = model.space.model.vision_model.post_layernorm
    samples = {row["sample_id"]: row for row in run.read("samples").iter_rows(named=True)}
    boxes = _boxes(task)
    whole, regions, spurious = [], [], []
    for done, sample_id in enumerate(task.sample_id.tolist()):
        row = samples[sample_id]
        image = read_image(Path(run.config.dataset.root) / row["uri"], max_pixels=run.config.dataset.max_pixels)
        states = model.space.images([model.view(image)])[0][0]
        side = round((len(states) - 1) ** 0.5)
        windows = _windows(side)
        with torch.inference_mode():
            whole.append(norm(states[0]).float().cpu().numpy())
            regions.append(norm(torch.stack([states[1:][w].mean(dim=0) for w in windows])).float().cpu().numpy())
        size, field = (row["height_px"], row["width_px"]), model.field(row["height_px"], row["width_px"])
        drawn = [draw_mask(box_of(b), b["mask_rle"], size, (side, side), field=field) for b in boxes.get(sample_id, [])]
        mask = np.logical_or.reduce([np.zeros((side, side), bool), *drawn]).reshape(-1)
        covered = np.array([mask[w].mean() for w in windows])
        spurious.append((covered >= SPURIOUS_SHARE) | ((covered > 0) & (covered == covered.max())))
        task.progress(done, len(task.sample_id))
    return np.stack(whole), np.stack(regions), np.array(spurious)


def _windows(side: int) -> list[np.ndarray]:
    """Returns the patches of each window, as places in the flattened grid."""
    size = max(1, round(2 * side / (WINDOWS + 1)))
    starts = np.unique(np.round(np.linspace(0, side - size, WINDOWS)).astype(int))
    grid = np.arange(side * side).reshape(side, side)
    return [grid[y : y + size, x : x + size].reshape(-1) for y in starts for x in starts]


def _boxes(task: Task) -> dict[str, list[dict]]:
    """Returns per photo the regions of the cues that were chosen for its class."""
    of_class = {(task.classes.index(label), cue) for label, cue in task.cues.select("label", "cue_id").iter_rows()}
    label = dict(zip(task.sample_id.tolist(), task.label.tolist(), strict=True))
    shown = task.run.read("presences", columns=["cue_id", "sample_id", "region_ids"])
    wanted = {
        region_id: sample_id
        for cue_id, sample_id, region_ids in shown.iter_rows()
        if (label.get(sample_id), cue_id) in of_class
        for region_id in region_ids
    }
    found: dict[str, list[dict]] = {}
    for part in task.run.scan("regions", ["region_id", *BOX, "mask_rle"]):
        for region in part.filter(pl.col("region_id").is_in(list(wanted))).iter_rows(named=True):
            found.setdefault(wanted[region["region_id"]], []).append(region)
    return found


def _train(task: Task, data: tuple[np.ndarray, np.ndarray, np.ndarray], start) -> tuple[object, list[float]]:
    import torch

    whole, regions, spurious = (torch.from_numpy(part) for part in data)
    label = torch.from_numpy(task.label)
    text = torch.from_numpy(task.head().coef / task.model.space.scale).float()
    weight = start.detach().float().cpu().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=task.config.learning_rate / 10)
    mark = hash_of([task.config.model_dump(mode="json"), list(regions.shape), float(regions.abs().sum())])
    file, first, losses = task.folder / "region_aware.pt", 0, []
    kept = torch.load(file, weights_only=True) if file.is_file() else {"mark": None}
    if kept["mark"] == mark:
        first, losses = kept["epoch"], kept["losses"]
        weight.data.copy_(kept["weight"])
        optimiser.load_state_dict(kept["optimiser"])
    for epoch in range(first + 1, task.config.epochs + 1):
        loss = region_loss(_unit(whole @ weight.T), _unit(regions @ weight.T), spurious, label, text)
        if not torch.isfinite(loss):
            raise BackendError("the repair by region_aware diverged: lower retrain.learning_rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if epoch % EVERY == 0:
            losses.append(round(float(loss.detach()), 5))
            state = {"mark": mark, "epoch": epoch, "losses": losses, "weight": weight.detach()}
            save_state(file, state | {"optimiser": optimiser.state_dict()})
            task.progress(epoch, task.config.epochs)
    file.unlink(missing_ok=True)
    return weight.detach(), losses


def region_loss(image, region, spurious, label, text):
    """Returns the loss.

    Args:
        image: (n, d) unit-norm photos.
        region: (n, r, d) unit-norm regions.
        spurious: (n, r) bool.
        label: (n,) int.
        text: (c, d) unit-norm texts.
    """
    import torch

    own = label[:, None]
    contrast = torch.nn.functional.cross_entropy(image @ text.T / TEMPERATURE, label)
    score = region @ text.T / TEMPERATURE
    off = torch.finfo(score.dtype).min
    clean = score.masked_fill(spurious[..., None], off).amax(dim=1)
    some_clean, some_spurious = (~spurious).any(dim=1), spurious.any(dim=1)
    # All spurious regions, of whatever photo, against each photo's own text.
    against = torch.logsumexp(score[spurious], dim=0)[label]
    total = torch.logaddexp(torch.logsumexp(clean, dim=1), against)
    pull = (total - clean.gather(1, own)[:, 0])[some_clean]
    bad = score.masked_fill(~spurious[..., None], off).amax(dim=1)[some_spurious]
    share = torch.softmax(bad, dim=1).gather(1, own[some_spurious])[:, 0]
    push = -torch.log1p(-share.clamp(max=1 - 1e-6))
    return (1 - REGION_SHARE) * contrast + REGION_SHARE * (pull.mean() + push.mean())


def _unit(x):
    import torch

    return torch.nn.functional.normalize(x, dim=-1)


def _copy_processors(task: Task, source: str, folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    for kind in (AutoImageProcessor, AutoTokenizer):
        load_processor(kind, source, task.run.config.compute).save_pretrained(folder)
