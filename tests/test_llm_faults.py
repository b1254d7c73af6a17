"""Real photos, and a server that spoils every first answer of a language model: the same cues as with a good one."""

import polars as pl
import pytest
from llm_faults import few_photos, make, settings_for, wrongs
from pretend_llm import FAULTS, BadServer, PretendModel

PHOTOS = 7
CUES = {
    "climbing": {"objects": [("rope", "object")], "backgrounds": [("cliff", "background"), ("sky", "background")]},
    "diving": {"backgrounds": [("underwater", "background"), ("sea", "background")], "objects": [("fish", "object")]},
}
QUICK = {
    "dataset": {"min_class_images": 5},
    "propose": {"computed": False},  # reading text in every photo twice would take a minute
    "embed": {"superpixels": 0, "grid": 1},
    "cluster": {"k_candidates": [6]},
    "associate": {"permutations": 99},
    "ablate": {"images_per_cue": 4, "min_images": 3, "fills": ["blur", "mean"], "looks": 1, "untied_images": 0},
    "rank": {"bootstrap": 200},
}


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory):
    """Two classes of the BAR photos, some of the training photos and some of the test photos each."""
    return few_photos(shared_data / "bar", tmp_path_factory.mktemp("bar"), PHOTOS, CUES)


def test_a_bad_server_changes_no_cue_and_loses_nothing_and_its_cost_table_is_right(photos, tmp_path):
    config = settings_for(photos, QUICK)
    model = PretendModel(CUES, parts=frozenset({"rope", "cliff", "sky"}))
    good = make(config, tmp_path / "good", model)
    bad = make(config, tmp_path / "bad", BadServer(model))
    assert len(good.run.read("effects")) > 0
    assert all(bad.spoilt[fault] for fault in FAULTS)
    assert wrongs(good, bad) == []
    assert good.total("repaired") == good.total("retried") == 0
    assert bad.total("money") > good.total("money") > 0
    judged = bad.run.read("associations").filter(pl.col("core_reason") == "so the language model pretended judges")
    assert set(judged["label"]) == {"climbing"}
