"""Which photos a cue is removed from and pasted into, and which it is cut from."""

import numpy as np
import polars as pl
import pytest

from discovery.config import AblateConfig
from discovery.queues import MIN_SOURCES, build_queues, find_pairs, siblings
from discovery.run import frame_of

CONFIG = AblateConfig(images_per_cue=6, min_images=2, sources=4)
CLASSES = ("cow", "camel")
N = 40
SAMPLES = frame_of(
    "samples",
    [{"sample_id": f"s{i:02d}", "label": CLASSES[i % 2], "audit": i % 4 < 2} for i in range(N)],
)
"""Even photos are cows; of each class every other photo is audited."""


def of(label: str) -> list[str]:
    return SAMPLES.filter(label=label)["sample_id"].to_list()


def audited() -> set[str]:
    return set(SAMPLES.filter("audit")["sample_id"])


def pair(**changes) -> dict:
    named = {"label": "cow", "cue_id": "grass", "phrase": "grass", "kind": "background"}
    return {**named, "n_audit_with": 5, "tied": True, **changes}


def shown(sample_ids: list[str], cue_id: str = "grass", scores: list[float] | None = None) -> list[dict]:
    scores = scores or [1.0] * len(sample_ids)
    return [{"cue_id": cue_id, "sample_id": s, "score": score} for s, score in zip(sample_ids, scores, strict=True)]


def queues(presences: list[dict], pairs: list[dict] | None = None, **settings):
    areas = [row.get("area_frac", 0.2) for row in presences]
    rows = [{name: value for name, value in row.items() if name != "area_frac"} for row in presences]
    frame = frame_of("presences", rows).with_columns(area_frac=pl.Series(areas, dtype=pl.Float64))
    return build_queues(pl.DataFrame(pairs or [pair()]), frame, SAMPLES, CONFIG.model_copy(update=settings))


def queue_of(found, way: str) -> pl.DataFrame:
    return found.trials.filter(way=way)


def association(**changes) -> dict:
    named = {"label": "cow", "cue_id": "grass", "phrase": "grass", "kind": "background", "n_audit_with": 5}
    return {**named, "bias_p": 0.001, "gap_p_maxt": 0.5, "cramers_v": 0.4, **changes}


@pytest.mark.parametrize(
    ("changes", "tied"),
    [
        ({}, True),
        ({"bias_p": 0.9, "gap_p_maxt": 0.02}, True),
        ({"bias_p": 0.03}, False),  # doubled for having looked at two ties
        ({"bias_p": 0.001, "gap_p_maxt": None}, True),
        ({"bias_p": 0.9, "gap_p_maxt": None}, False),
    ],
)
def test_the_stronger_of_two_ties_decides(changes, tied):
    assert find_pairs(frame_of("associations", [association(**changes)]), CONFIG)["tied"].to_list() == [tied]


@pytest.mark.parametrize("v", [None, 0.0])
def test_what_no_photo_shows_or_all_do_is_not_tried(v):
    assert find_pairs(frame_of("associations", [association(cramers_v=v)]), CONFIG).is_empty()


@pytest.mark.parametrize("setting", [{"paste": False}, {"untied_images": 0}])
def test_without_paste_or_photos_for_them_untied_cues_are_left_out(setting):
    rows = frame_of("associations", [association(), association(cue_id="sand", bias_p=0.9)])
    assert find_pairs(rows, CONFIG)["cue_id"].to_list() == ["grass", "sand"]
    assert find_pairs(rows, CONFIG.model_copy(update=setting))["cue_id"].to_list() == ["grass"]


def test_a_cue_is_removed_from_audited_photos_of_its_class_that_show_it():
    cows, camels = of("cow"), of("camel")
    removed = queue_of(queues(shown(cows[3:14] + camels[:5]), images_per_cue=4), "removal")
    expected = [s for s in cows[3:14] if s in audited()][:4]
    assert removed["sample_id"].to_list() == expected
    assert removed["position"].to_list() == [0, 1, 2, 3]
    assert removed["source_id"].null_count() == 4


def test_a_cue_is_pasted_into_audited_photos_of_other_classes_without_it():
    cows, camels = of("cow"), of("camel")
    pasted = queue_of(queues(shown(cows[:8] + camels[:5])), "paste")
    assert pasted["sample_id"].to_list() == [s for s in camels[5:] if s in audited()][:6]
    assert pasted["position"].to_list() == list(range(6))


def test_a_pasted_cue_is_cut_from_where_it_is_clearest_whatever_the_class():
    cows, camels = of("cow"), of("camel")
    found = queues(shown(cows[:8]) + shown(camels[:5], scores=[0.5, 5.0, 0.2, 4.0, 3.0]))
    clearest = [camels[1], camels[3], camels[4], cows[0]]
    assert queue_of(found, "paste")["source_id"].to_list() == clearest + clearest[:2]
    assert found.showing["cow", "grass"] == [camels[1], camels[3], camels[4], camels[0]]


def test_a_photo_that_the_cue_fills_is_a_source_only_for_want_of_others():
    cows = of("cow")
    rows = [row | {"area_frac": 0.9} for row in shown(cows[:4], scores=[9.0, 8.0, 7.0, 6.0])] + shown(cows[4:7])
    assert set(queue_of(queues(rows), "paste")["source_id"]) == set(cows[4:7])
    assert cows[0] in set(queue_of(queues(rows[:-1]), "paste")["source_id"])


def test_a_cue_that_hardly_any_photo_shows_is_not_pasted():
    assert queue_of(queues(shown(of("cow")[: MIN_SOURCES - 1])), "paste").is_empty()
    assert len(queue_of(queues(shown(of("cow")[:MIN_SOURCES])), "paste")) == 6


def test_an_untied_cue_is_pasted_and_never_removed():
    found = queues(shown(of("cow")[:8]), [pair(tied=False)])
    assert set(found.trials["way"]) == {"paste"}
    assert not found.trials["tied"].any()


def test_a_cue_in_few_audited_photos_of_the_class_is_not_removed():
    presences = shown(of("cow")[:8])
    assert queue_of(queues(presences, [pair(n_audit_with=1)]), "removal").is_empty()
    assert len(queue_of(queues(presences, [pair(n_audit_with=2)]), "removal")) > 0


def test_without_paste_there_are_removals_alone():
    assert set(queues(shown(of("cow")[:8]), paste=False).trials["way"]) == {"removal"}


def test_donors_of_a_swap_are_of_other_classes():
    camels = of("camel")
    found = queues(shown(of("cow")[:8] + camels[:7]))
    assert found.showing["cow", "grass"] == camels[:4]
    assert found.lacking["cow", "grass"] == camels[7:11]


def test_every_class_has_its_own_queue_of_one_cue():
    cows, camels = of("cow"), of("camel")
    found = queues(shown(cows[:8] + camels[:8]), [pair(), pair(label="camel")])
    rows = found.trials.join(SAMPLES.select("sample_id", own="label"), on="sample_id")
    assert rows.filter(way="removal").filter(pl.col("label") != pl.col("own")).is_empty()
    assert rows.filter(way="paste").filter(pl.col("label") == pl.col("own")).is_empty()
    assert set(rows["label"]) == set(CLASSES)


def test_a_pair_that_no_photo_can_be_found_for_leaves_an_empty_queue():
    found = queues(shown(of("cow")[:1]), [pair(n_audit_with=0)])
    assert found.trials.is_empty()
    assert {"label", "cue_id", "way", "sample_id", "position", "tied", "source_id"} <= set(found.trials.columns)


def test_siblings_are_phrases_of_like_meaning_that_have_a_place():
    cues = pl.DataFrame(
        {"cue_id": ["grass", "lawn", "sofa", "green"], "kind": ["background", "object", "object", "colour"]}
    )
    embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    found = siblings(cues, embeddings, 0.7)
    assert found == {"grass": {"grass", "lawn"}, "lawn": {"grass", "lawn"}, "sofa": {"sofa"}, "green": set()}
    assert siblings(cues, embeddings, 0.55)["sofa"] == {"sofa", "lawn"}
