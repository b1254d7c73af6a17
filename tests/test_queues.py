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
    return {**named, "n_audit_with": 5, "tied": True, "tie_sign": 1.0, **changes}


def shown(sample_ids: list[str], cue_id: str = "grass", scores: list[float] | None = None) -> list[dict]:
    scores = scores or [1.0] * len(sample_ids)
    return [{"cue_id": cue_id, "sample_id": s, "score": score} for s, score in zip(sample_ids, scores, strict=True)]


def queues(presences: list[dict], pairs: list[dict] | None = None, **settings):
    frame, near = frame_of("presences", presences), {"grass": {"grass", "lawn"}}
    return build_queues(pl.DataFrame(pairs or [pair()]), frame, SAMPLES, near, CONFIG.model_copy(update=settings))


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


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"bias_z": -3.0}, -1.0),
        ({"bias_z": 3.0, "gap": -0.2, "gap_adjusted": -0.1}, 1.0),
        ({"bias_p": 0.9, "gap_p_maxt": 0.01, "bias_z": 3.0, "gap": 0.2, "gap_adjusted": -0.1}, -1.0),
        ({"bias_p": 0.9, "gap_p_maxt": 0.01, "bias_z": 3.0, "gap": -0.2}, -1.0),
        ({}, 0.0),
    ],
)
def test_the_sign_is_that_of_the_stronger_tie(changes, sign):
    assert find_pairs(frame_of("associations", [association(**changes)]), CONFIG)["tie_sign"].to_list() == [sign]


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


def test_a_pasted_cue_is_cut_from_where_it_is_clearest_in_the_class_that_it_is_typical_of():
    cows, camels = of("cow"), of("camel")
    found = queues(
        shown(cows[:8], scores=[0.5, 5.0, 0.2, 4.0, 3.0, 0.1, 0.3, 0.4]) + shown(camels[:5], scores=[9.0] * 5)
    )
    clearest = [cows[1], cows[3], cows[4], cows[0]]
    assert queue_of(found, "paste")["source_id"].to_list() == clearest + clearest[:2]
    assert [cut.label for cut in found.cuts["grass"]][:4] == ["camel"] * 4, "swaps want all classes, the clearest first"


def test_sources_of_other_classes_come_in_where_those_of_the_own_class_are_too_few():
    cows, camels = of("cow"), of("camel")
    found = queues(shown(cows[:18]) + shown(camels[:6], scores=[9.0] * 6), sources=12)
    sources = queue_of(found, "paste")["source_id"].to_list()[:6]
    assert set(sources) & set(cows[:18])
    assert set(sources) & set(camels[:6])


def test_a_donor_with_a_like_phrase_is_used_only_where_clean_ones_are_too_few():
    cows, camels = of("cow"), of("camel")
    clean = queues(shown(cows[:8], scores=[9.0] * 8) + shown(cows[10:], "lawn") + shown(camels[:6]))
    used = {cut.source: cut.apart for cut in clean.cuts["grass"]}
    assert all(used[source] for source in queue_of(clean, "paste")["source_id"])
    assert not all(used.values())


def test_the_control_of_a_patch_is_cut_from_a_photo_without_the_cue_of_its_class_and_as_new_to_the_model():
    cows, camels = of("cow"), of("camel")
    rows = shown(cows[:8] + camels[:5])
    cuts = queues(rows, sources=12).cuts["grass"]
    facts = SAMPLES.rows_by_key("sample_id", named=True, unique=True)
    assert len(cuts) >= 12
    for cut in cuts[:12]:
        one, two = facts[cut.source], facts[cut.donor]
        assert (one["label"], one["audit"]) == (two["label"], two["audit"])
        assert cut.label == one["label"]
        assert cut.donor not in {row["sample_id"] for row in rows}
    donors = [cut.donor for cut in cuts if cut.donor]
    assert len(set(donors)) == len(donors), "a donor was used twice"


def test_a_class_whose_photos_are_the_clearest_leaves_pairs_of_other_classes_to_swap_with():
    cows, camels = of("cow"), of("camel")
    found = queues(shown(cows[:10], scores=[9.0] * 10) + shown(camels[:6]), sources=4)
    assert [cut.label for cut in found.cuts["grass"] if cut.donor] == ["cow"] * 4 + ["camel"] * 4
    assert set(queue_of(found, "paste")["source_id"]) <= set(cows[:10])


def test_what_shows_a_like_phrase_is_a_donor_only_for_want_of_others():
    cows = of("cow")
    plain, lawns = cows[4:6], cows[6:]
    rows = shown(cows[:4]) + shown(lawns, "lawn")
    donors = {cut.donor for cut in queues(rows).cuts["grass"]}
    assert set(plain) < donors


def test_a_source_without_a_donor_comes_last():
    cows, camels = of("cow"), of("camel")
    found = queues(shown(cows, scores=[9.0] * len(cows)) + shown(camels[:2]))
    assert [(cut.source, cut.donor is None) for cut in found.cuts["grass"]][:3] == [
        (camels[0], False),
        (camels[1], False),
        (cows[0], True),
    ]


def test_one_photo_comes_up_for_all_classes_at_once_and_with_the_same_patch():
    rows = shown(of("cow")[:8] + of("camel")[:3])
    pasted = queue_of(queues(rows, [pair(), pair(label="camel"), pair(label="goat")], images_per_cue=5), "paste")
    goat = pasted.filter(label="goat")
    assert len(goat) == 5
    together = pasted.join(goat, on="sample_id")
    assert len(together) == 2 * len(goat), "each of them is pasted into for one more class"
    assert (together["position"] == together["position_right"]).all()
    assert (together["source_id"] == together["source_id_right"]).all()
    assert pasted.filter(label="camel")["position"].max() < 5


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
