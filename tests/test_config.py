import pytest

from discovery.config import make_config, read_config
from discovery.errors import ConfigError


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[dataset]\nroot = "photos"\n[rank]\nlevel = 0.1\n')
    return path


def test_the_file_names_the_run_by_default(toml):
    assert read_config(toml).name == "mine"


def test_a_map_of_the_model_is_asked_for_only_where_there_is_one(toml):
    assert read_config(toml, ["ablate.object=attribution"]).ablate.object == "attribution"
    for other in (["model.kind=torch", "model.path=x.pt"], ["model.backbone=clip:x"]):
        with pytest.raises(ConfigError, match=r"ablate.object = 'attribution' wants a probe on efficientnet_lite0"):
            read_config(toml, ["ablate.object=attribution", *other])


def test_overrides_win_over_the_file(toml):
    config = read_config(toml, ["rank.level=0.2", "dataset.root=/else where/photos", "ablate.fills=['mean','blur']"])
    assert (config.rank.level, config.dataset.root, config.ablate.fills) == (
        0.2,
        "/else where/photos",
        ("mean", "blur"),
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rank.levle=0.1", "unknown configuration key 'rank.levle'"),
        ("rnk.level=0.1", "unknown configuration key 'rnk'"),
        ("rank.level=7", "rank.level"),
        ("rank.level", "key=value"),
        ("name.x=1", "not a section"),
        ("name=../up", "name"),
        ("model.kind=torch", "needs model.path"),
        ("ablate.fills=['blur']", "ablate.fills"),
    ],
)
def test_a_wrong_override_is_one_line_with_the_dotted_key(toml, override, said):
    with pytest.raises(ConfigError) as caught:
        read_config(toml, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_start(tmp_path):
    with pytest.raises(ConfigError, match=r"data/bar\.toml"):
        read_config(tmp_path / "none.toml")


def test_text_that_is_not_toml_is_one_line(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("= 3")
    with pytest.raises(ConfigError, match="not TOML"):
        read_config(path)


def test_a_missing_root_is_named():
    with pytest.raises(ConfigError, match=r"dataset"):
        make_config({})


def test_everything_is_audited_unless_a_probe_is_fitted():
    probe = make_config({"dataset": {"root": "x"}})
    other = make_config({"dataset": {"root": "x"}, "model": {"kind": "python", "callable": "a:b"}})
    chosen = make_config({"dataset": {"root": "x", "holdout_frac": 0.5}})
    assert (probe.dataset.holdout_frac, other.dataset.holdout_frac, chosen.dataset.holdout_frac) == (0.3, 1.0, 0.5)


def test_the_environment_is_not_read(monkeypatch):
    monkeypatch.setenv("NAME", "from-the-environment")
    monkeypatch.setenv("SEED", "7")
    config = make_config({"dataset": {"root": "x"}})
    assert (config.name, config.seed) == ("run", 0)


def test_a_configuration_cannot_be_changed():
    config = make_config({"dataset": {"root": "x"}})
    with pytest.raises(ValueError, match="frozen"):
        config.rank.level = 0.5
