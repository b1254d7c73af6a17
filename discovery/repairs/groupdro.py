"""Features and groups → a last layer trained against the worst group: exponentiated-gradient weights over groups.

Sagawa et al. (2020), algorithm 1, on full batches: q_g ← q_g · exp(η · loss_g), normalised; then one step down the
q-weighted loss. Without a penalty a layer of a thousand features fits every group, and no group is the worst: hence
`retrain.weight_decay`.

Groups overlap (`cue_groups.overlapping`): two dozen cues cut a class into combinations of a handful of photos each,
whose losses say more of these photos than of any cue.
"""

import io
import os
from pathlib import Path

import numpy as np

from discovery.cue_groups import Overlapping, overlapping, own_cues
from discovery.errors import BackendError
from discovery.repairs.linear_fit import Scaled
from discovery.repairs.task import Repaired, Task, need_groups
from discovery.run import hash_of

EVERY = 10
"""Epochs between two checkpoints: well under a second."""


def repair(task: Task) -> Repaired:
    """Trains the layer; see `repairs.task.Repair`."""
    need_groups(task)
    own = own_cues(task.cues.select("label", "cue_id").iter_rows(), task.classes, task.cue_ids)
    phrases = dict(task.cues.select("cue_id", "phrase").iter_rows())
    names = task.classes, [phrases[cue_id] for cue_id in task.cue_ids]
    return train(task, overlapping(task.label, task.shown, own, names, task.config.min_group))


def train(task: Task, groups: Overlapping) -> Repaired:
    """Trains the layer against the worst of the given groups of the task's photos."""
    scaled = Scaled.of(task.features())
    weights, share = _train(task, scaled, groups)
    shares = dict(zip(groups.names, np.round(share, 4).tolist(), strict=True))
    return Repaired(scaled.head(weights, task.classes), facts={"epochs": task.config.epochs, "group_weights": shares})


def _train(task: Task, scaled: Scaled, groups: Overlapping) -> tuple[np.ndarray, np.ndarray]:
    """Trains; goes on from the checkpoint of an interrupted training of the same data and settings.

    Returns:
        (c, d + 1) weights and (groups,) final weights of the groups.
    """
    import torch

    x, label, photo, group = (torch.from_numpy(part) for part in (scaled.x, task.label, groups.photo, groups.of))
    sizes = torch.bincount(group, minlength=len(groups.names))
    weights = torch.zeros(len(task.classes), x.shape[1], requires_grad=True)
    share = (sizes > 0).float() / (sizes > 0).sum()
    optimiser = torch.optim.Adam([weights], lr=task.config.learning_rate)
    given = [list(x.shape), float(x.abs().sum()), photo.tolist(), group.tolist()]
    mark = hash_of([task.config.model_dump(mode="json"), given])
    file, first = task.folder / "groupdro.pt", 0
    kept = torch.load(file, weights_only=True) if file.is_file() else {"mark": None}
    if kept["mark"] == mark:
        first, share = kept["epoch"], kept["share"]
        weights.data.copy_(kept["weights"])
        optimiser.load_state_dict(kept["optimiser"])
    for epoch in range(first + 1, task.config.epochs + 1):
        share = _step(weights, share, (x, label, photo, group, sizes), optimiser, task)
        if epoch % EVERY == 0:
            state = {"mark": mark, "epoch": epoch, "share": share, "weights": weights.detach()}
            save_state(file, state | {"optimiser": optimiser.state_dict()})
            task.progress(epoch, task.config.epochs)
    file.unlink(missing_ok=True)
    return weights.detach().double().numpy(), share.double().numpy()


def _step(weights, share, data, optimiser, task: Task):
    import torch

    x, label, photo, group, sizes = data
    loss = torch.nn.functional.cross_entropy(x @ weights.T, label, reduction="none")
    mean = torch.zeros(len(sizes)).index_add(0, group, loss[photo]) / sizes.clamp_min(1)
    with torch.no_grad():
        share = share * torch.exp(task.config.group_step * mean)
        share = share / share.sum()
    total = (share * mean).sum() + task.config.weight_decay / 2 * (weights[:, :-1] ** 2).sum()
    if not torch.isfinite(total):
        cues = ", ".join(map(repr, task.cues["phrase"].unique(maintain_order=True).head(3)))
        raise BackendError(f"the repair of {cues} by groupdro diverged: lower retrain.learning_rate or group_step")
    optimiser.zero_grad()
    total.backward()
    optimiser.step()
    return share


def save_state(file: Path, state: dict) -> None:
    """Writes a checkpoint, atomically."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f".tmp-{os.getpid()}")
    scratch.write_bytes(buffer.getvalue())
    os.replace(scratch, file)
