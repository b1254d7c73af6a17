"""Which arms (class, cue and way) are given more photos, and that asking again and again does not make a finding."""

import numpy as np
import polars as pl
import pytest

from discovery.budget import in_doubt, look_sizes, n_forwards_at_most, photos_for
from discovery.config import AblateConfig, RankConfig
from discovery.run import frame_of
from discovery.use import measure_use

CONFIG = AblateConfig(images_per_cue=40, looks=3, untied_images=6, stop_futile=1.0)
NOBODY = frame_of("effects", [])


def queue(*cues: tuple[str, bool], ways: tuple[str, ...] = ("removal",), n: int = 40) -> pl.DataFrame:
    """Returns the queues of cues of one class, n photos each; a cue is its name and whether it is tied."""
    rows = [
        {
            "label": "cow",
            "cue_id": cue,
            "tied": tied,
            "tie_sign": 1.0,
            "way": way,
            "sample_id": f"s{i}",
            "position": i,
            "source_id": None,
        }
        for cue, tied in cues
        for way in ways
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema_overrides={"source_id": pl.String})


def tried(cue: str, nets: np.ndarray, *, way: str = "removal", first: int = 0) -> list[dict]:
    """Returns rows of `effects` with these net effects; eight times as large in log-odds."""
    return [
        {
            **{"label": "cow", "cue_id": cue, "way": way, "sample_id": f"s{first + i}", "intervention": "blur"},
            **{"effect": net, "effect_control": 0.0, "logit_effect": 8 * net, "logit_effect_control": 0.0},
            **{"n_forwards": 2, "flipped": False, "look": 0, "level_share": 1 / 3},
        }
        for i, net in enumerate(nets)
    ]


def noise(n: int, mean: float = 0.0, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=n)
    return mean + spread * (drawn - drawn.mean()) / drawn.std()


def open_arms(effects: list[dict], *, tied: bool = True, n_pairs: int = 1) -> list[str]:
    arms = pl.DataFrame([{"label": "cow", "cue_id": "grass", "way": "removal", "tied": tied, "tie_sign": 1.0}])
    return in_doubt(arms, frame_of("effects", effects), n_pairs, CONFIG)["cue_id"].to_list()


@pytest.mark.parametrize(
    ("images", "looks", "sizes"),
    [(40, 3, (10, 20, 40)), (40, 1, (40,)), (12, 2, (6, 12)), (2, 3, (1, 2)), (7, 3, (1, 3, 7)), (1, 4, (1,))],
)
def test_every_look_has_twice_as_many_photos_as_the_one_before(images, looks, sizes):
    assert look_sizes(AblateConfig(images_per_cue=images, looks=looks)) == sizes


def test_the_first_look_takes_the_head_of_every_queue_and_less_for_untied_cues():
    due = photos_for(queue(("tied", True), ("untied", False)), NOBODY, 0, CONFIG)
    assert due.filter(cue_id="tied")["position"].to_list() == list(range(10))
    assert due.filter(cue_id="untied")["position"].to_list() == list(range(6))


def test_looks_go_through_the_queue_without_gap_or_repetition():
    trials, effects, seen = queue(("tied", True), ("untied", False)), [], []
    # Clear in log-odds, near zero in probability: neither decisive nor hopeless.
    undecided = {"tied": noise(40, 0.02, 0.04), "untied": noise(40, 0.02, 0.02)}
    for look in range(3):
        due = photos_for(trials, frame_of("effects", effects), look, CONFIG)
        seen += due.select("cue_id", "position").rows()
        for cue in undecided:
            places = due.filter(cue_id=cue)["position"].to_list()
            effects += tried(cue, undecided[cue][places], first=places[0])
    assert sorted(seen) == [(cue, i) for cue in ("tied", "untied") for i in range(40)]


def test_a_clear_effect_stops_an_arm():
    assert open_arms(tried("grass", noise(10, 0.4, 0.05))) == []
    assert open_arms(tried("grass", noise(10, -0.4, 0.05))) == []


def test_an_effect_within_the_band_stops_an_arm():
    assert open_arms(tried("grass", noise(10, 0.0, 0.005))) == []
    assert open_arms(tried("grass", np.zeros(10))) == []


def test_an_undecided_arm_goes_on():
    assert open_arms(tried("grass", noise(10, 0.03, 0.1))) == ["grass"]
    assert open_arms(tried("grass", np.zeros(1))) == ["grass"]
    assert open_arms([]) == ["grass"]


def test_a_clear_effect_must_stand_the_correction_for_all_that_is_tried():
    effects = tried("grass", noise(10, 0.2, 0.11))
    assert open_arms(effects, n_pairs=1) == []
    assert open_arms(effects, n_pairs=10_000) == ["grass"]


def test_an_effect_that_is_only_significant_is_not_clear():
    effects = tried("grass", noise(10, 0.02, 0.01))
    assert open_arms(effects) == ["grass"]


def test_an_untied_arm_without_promise_stops_where_a_tied_one_goes_on():
    effects = tried("grass", noise(10, 0.03, 0.1))
    assert (open_arms(effects, tied=True), open_arms(effects, tied=False)) == (["grass"], [])
    promising = tried("grass", noise(10, 0.03, 0.03))
    assert open_arms(promising, tied=False) == ["grass"]
    assert open_arms([], tied=False) == []


def test_a_tied_arm_without_prospect_is_left_unless_hardly_any_photo_could_be_tried():
    arms = pl.DataFrame([{"label": "cow", "cue_id": "grass", "way": "removal", "tied": True, "tie_sign": 1.0}])
    config = CONFIG.model_copy(update={"stop_futile": 0.3})

    def going(effects: list[dict]) -> bool:
        return len(in_doubt(arms, frame_of("effects", effects), 1, config)) == 1

    assert not going(tried("grass", noise(10, 0.02, 0.1)))
    assert going(tried("grass", noise(10, 0.05, 0.1)))
    assert going(tried("grass", noise(5, 0.02, 0.1)))


@pytest.mark.parametrize(
    ("tie_sign", "mean", "goes_on"),
    [(1.0, 0.05, True), (-1.0, -0.05, True), (1.0, -0.05, False), (-1.0, 0.05, False), (0.0, 0.05, True)],
    ids=["with", "with, both against the class", "against", "against, for the class", "no sign"],
)
def test_an_effect_against_the_sign_of_its_tie_must_be_clearer_to_go_on(tie_sign, mean, goes_on):
    arms = pl.DataFrame([{"label": "cow", "cue_id": "grass", "way": "removal", "tied": True, "tie_sign": tie_sign}])
    config = CONFIG.model_copy(update={"stop_futile": 0.3})
    effects = frame_of("effects", tried("grass", noise(10, mean, 0.1)))
    assert (len(in_doubt(arms, effects, 1, config)) == 1) == goes_on
    clear = frame_of("effects", tried("grass", noise(10, mean, 0.04)))
    assert len(in_doubt(arms, clear, 1, config)) == 1


def test_doses_wait_until_a_cue_has_a_prospect_unless_its_photos_end_before():
    trials = pl.concat([queue(("long", True)), queue(("middle", True), n=17), queue(("short", True), n=10)])
    first = photos_for(trials, NOBODY, 0, CONFIG)
    assert dict(first.select("cue_id", "dosed").unique().iter_rows()) == {"long": False, "middle": True, "short": True}
    doubtful = frame_of("effects", [row for cue in ("long", "middle") for row in tried(cue, noise(10, 0.03, 0.1))])
    assert photos_for(trials, doubtful, 1, CONFIG)["dosed"].all()
    alone = CONFIG.model_copy(update={"looks": 1})
    assert photos_for(trials, NOBODY, 0, alone)["dosed"].all(), "without looks there is nothing to wait for"


def test_ways_stop_one_by_one():
    trials = queue(("grass", True), ways=("removal", "paste"))
    effects = tried("grass", noise(10, 0.4, 0.05)) + tried("grass", noise(10, 0.03, 0.1), way="paste")
    due = photos_for(trials, frame_of("effects", effects), 1, CONFIG)
    assert set(due["way"]) == {"paste"}
    assert due["position"].to_list() == list(range(10, 20))


def test_control_and_cue_are_compared_photo_by_photo():
    rows = tried("grass", noise(10, 0.4, 0.05))
    same = [row | {"effect_control": row["effect"], "logit_effect_control": row["logit_effect"]} for row in rows]
    arms = pl.DataFrame([{"label": "cow", "cue_id": "grass", "way": "removal", "tied": True, "tie_sign": 1.0}])
    assert in_doubt(arms, frame_of("effects", same), 1, CONFIG).is_empty()
    several = same + [row | {"intervention": "mean"} for row in same]
    assert in_doubt(arms, frame_of("effects", several), 1, CONFIG).is_empty()


def test_a_budget_takes_tied_cues_first_and_goes_round_them_evenly():
    trials = queue(("a", False), ("b", True), ("c", True))
    limited = CONFIG.model_copy(update={"max_forwards": 16})
    due = photos_for(trials, NOBODY, 0, limited)
    assert due.group_by("cue_id").len().sort("cue_id").rows() == [("b", 4), ("c", 4)]
    generous = CONFIG.model_copy(update={"max_forwards": 46})
    assert photos_for(trials, NOBODY, 0, generous).group_by("cue_id").len().sort("cue_id").rows() == [
        ("a", 3),
        ("b", 10),
        ("c", 10),
    ]


def test_a_budget_goes_to_what_is_least_known():
    trials = queue(("known", True), ("vague", True))
    effects = tried("known", noise(10, 0.03, 0.06)) + tried("vague", noise(10, 0.03, 0.2))
    limited = CONFIG.model_copy(update={"max_forwards": 50})
    due = photos_for(trials, frame_of("effects", effects), 1, limited)
    assert due["cue_id"].to_list() == ["vague"] * 5
    assert photos_for(
        trials, frame_of("effects", effects), 1, CONFIG.model_copy(update={"max_forwards": 40})
    ).is_empty()


def test_a_removal_costs_two_forwards_per_fill():
    config = CONFIG.model_copy(update={"max_forwards": 12, "fills_per_photo": 3})
    assert len(photos_for(queue(("a", True)), NOBODY, 0, config)) == 2
    assert len(photos_for(queue(("a", True), ways=("paste",)), NOBODY, 0, config)) == 6


def test_without_looks_every_photo_is_tried_every_way():
    assert n_forwards_at_most(CONFIG, n_audit_with=100) == 2 * (40 + 40)
    assert n_forwards_at_most(CONFIG, n_audit_with=12) == 2 * (12 + 40)
    assert n_forwards_at_most(CONFIG, n_audit_with=CONFIG.min_images - 1) == 2 * 40
    assert n_forwards_at_most(CONFIG.model_copy(update={"paste": False, "fills_per_photo": 3}), 10) == 60


def null_arms(n_arms: int, tied: bool, config: AblateConfig, n_pairs: int) -> pl.DataFrame:
    """Returns the effects of arms without any effect, after all looks that they were given."""
    rng = np.random.default_rng(5)
    scale = rng.choice([0.02, 0.1, 0.3], size=(n_arms, 1)) * rng.choice([0.2, 1.0, 3.0], size=(n_arms, 40))
    drawn = scale * rng.normal(size=scale.shape)
    trials = queue(*((f"c{i}", tied) for i in range(n_arms)))
    effects = NOBODY
    for look in range(len(look_sizes(config))):
        if look:
            arms = trials.select("label", "cue_id", "way", "tied", "tie_sign").unique(maintain_order=True)
            going = in_doubt(arms, effects, n_pairs, config)["cue_id"]
            due = photos_for(trials.filter(pl.col("cue_id").is_in(going.implode())), effects, look, config)
        else:
            due = photos_for(trials, effects, look, config)
        rows = []
        for (cue, share), part in due.group_by("cue_id", "level_share", maintain_order=True):
            places = part["position"].to_list()
            mine = tried(cue, drawn[int(cue[1:])][places], first=places[0])
            rows += [row | {"look": look, "level_share": share} for row in mine]
        effects = pl.concat([effects, frame_of("effects", rows)])
    return effects


@pytest.mark.parametrize(
    ("tied", "settings", "eager"),
    [
        (True, {}, False),
        (False, {}, False),
        (True, {"stop_level": 2.0, "stop_effect": 1e-9}, True),
    ],
    ids=["tied", "untied", "stopped at the first p under 0.05"],
)
def test_stopping_early_does_not_make_findings_of_nothing(tied, settings, eager):
    """Of null arms no more than about 5 % report a p-value of 0.05 or less, although each was looked at three times."""
    n = 400
    effects = null_arms(n, tied, CONFIG.model_copy(update=settings), n_pairs=1 if eager else n)
    photos = effects.group_by("cue_id").len()["len"]
    assert photos.n_unique() > 1, "nothing was stopped early"
    ranking = RankConfig(bootstrap=50)
    parts = [part for _, part in effects.group_by("cue_id", maintain_order=True)]
    naive, reported = (
        sum(measure_use(part, ranking, np.random.default_rng(i)).removal.p <= 0.05 for i, part in enumerate(found))
        for found in ([part.with_columns(level_share=1.0) for part in parts], parts)
    )
    allowed = 0.05 * n + 2 * np.sqrt(0.05 * 0.95 * n)
    assert len(parts) == n
    assert reported <= allowed
    assert (naive > allowed) == eager, "the p-value of the last look alone would have been too small"


def test_the_last_look_of_an_arm_spends_most_of_the_error_and_an_only_look_all_of_it():
    trials = pl.concat([queue(("long", True)), queue(("middle", True), n=15), queue(("short", True), n=10)])
    first = photos_for(trials, NOBODY, 0, CONFIG)
    shares = dict(first.select("cue_id", "level_share").unique().iter_rows())
    assert shares == pytest.approx({"long": 0.05, "middle": 0.1, "short": 1.0})
    doubtful = [row for cue in ("long", "middle") for row in tried(cue, noise(10, 0.03, 0.1))]
    second = photos_for(trials, frame_of("effects", doubtful), 1, CONFIG)
    shares = dict(second.select("cue_id", "level_share").unique().iter_rows())
    assert shares == pytest.approx({"long": 0.05, "middle": 0.9})


def shared(*labels: str, n: int = 40, untied: tuple[str, ...] = ()) -> pl.DataFrame:
    """Returns paste-ins of one cue into the same photos for several classes."""
    rows = [
        {"label": label, "cue_id": "grass", "tied": label not in untied, "way": "paste", "sample_id": f"s{i}"}
        | {"position": i, "source_id": f"p{i}", "tie_sign": 1.0}
        for label in labels
        for i in range(n)
    ]
    return pl.DataFrame(rows)


def test_a_budget_counts_a_pass_that_answers_for_several_classes_once():
    limited = CONFIG.model_copy(update={"max_forwards": 12})
    due = photos_for(shared("cow", "goat", "pig"), NOBODY, 0, limited)
    assert due["sample_id"].n_unique() == 6
    assert len(due) == 18


def test_what_is_pasted_for_a_class_in_doubt_tells_of_the_tied_classes_that_had_stopped_too():
    known = tried("grass", noise(10, 0.4, 0.02), way="paste")
    vague = [row | {"label": "goat"} for row in tried("grass", noise(10, 0.03, 0.1), way="paste")]
    trials = shared("cow", "goat", "pig", untied=("pig",))
    due = photos_for(trials, frame_of("effects", known + vague), 1, CONFIG)
    assert due.group_by("label").len().sort("label").rows() == [("cow", 10), ("goat", 10)]
    stopped = known + [row | {"label": "goat"} for row in known]
    assert photos_for(trials, frame_of("effects", stopped), 1, CONFIG).is_empty()
