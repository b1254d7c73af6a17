"""RaVL's region-aware repair on a tiny CLIP."""

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_clip

from discovery.backends.classifier import load_classifier
from discovery.backends.roles import Head
from discovery.config import make_config
from discovery.errors import BackendError
from discovery.repairs import region_aware
from discovery.repairs.region_aware import region_loss, repair
from discovery.retrain_job import Job
from discovery.retrain_steps import task_of


@pytest.fixture
def task(leaning_run, tmp_path):
    values = leaning_run.config.model_dump(mode="json")
    values["model"] = {
        "kind": "clip_zero_shot",
        "path": f"clip:{save_clip(tmp_path / 'own')}",
        "classes": ["cat", "dog"],
    }
    values["retrain"] |= {"method": "region_aware", "epochs": 100, "learning_rate": 0.2}
    return task_of(Job.create(leaning_run, make_config(values)))


def unit(x) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(x, dtype=torch.float32), dim=-1)


def test_the_loss_falls_when_spurious_regions_leave_their_text_and_the_others_reach_it():
    text, label = torch.eye(2, 3), torch.tensor([0, 1])
    spurious = torch.tensor([[True, False], [False, False]])
    image = unit([[1, 0, 0.2], [0, 1, 0.2]])
    leaning = unit([[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]])
    repaired = unit([[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0]]])
    before, after = (float(region_loss(image, part, spurious, label, text)) for part in (leaning, repaired))
    assert after < before - 1


def test_regions_of_the_cue_lose_the_text_of_their_class_and_the_text_tower_stays(task):
    made = repair(task)
    config = task.run.config.model.model_copy(update=made.model)
    own, repaired = task.model, load_classifier(config, task.run.config.compute, Head(("cat", "dog")))
    np.testing.assert_allclose(repaired.linear().coef, own.linear().coef, atol=1e-5)
    _, regions, spurious = region_aware._states(task)
    text = torch.from_numpy(own.linear().coef / own.space.scale).float()
    shares = []
    for model in (own, repaired):
        weight = model.space.model.visual_projection.weight.detach()
        score = unit(torch.from_numpy(regions) @ weight.T) @ text.T / region_aware.TEMPERATURE
        share = torch.softmax(score, dim=2)[np.arange(len(spurious))[:, None], np.arange(9)[None], task.label[:, None]]
        shares.append(float(share[torch.from_numpy(spurious)].mean()))
    assert shares[1] < shares[0] - 0.02
    assert made.facts["loss"][-1] < made.facts["loss"][0]
    assert made.facts["spurious_regions"] > 0


def test_another_kind_of_model_is_refused_by_name(leaning_run):
    with pytest.raises(BackendError, match=r"repairs zero-shot CLIP models .* got 'python'; take --method groupdro"):
        repair(task_of(Job.create(leaning_run, leaning_run.config)))
