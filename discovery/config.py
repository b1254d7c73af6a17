"""One TOML file → one frozen `RunConfig` that holds one small config per stage."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource

from discovery.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """A part of the configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetConfig(_Part):
    """Where the photos are and which of them are evidence."""

    root: str = Field(description="folder of images, or the folder that a manifest's uris are relative to")
    manifest: str | None = Field(None, description="CSV or Parquet: uri,label[,split][,x0,y0,x1,y1]")
    fit_split: str = Field("train", description="split that a probe is fitted on and presence bias is measured in")
    holdout_frac: Fraction | None = Field(
        None, description="share of the fit split that is audited; default 0.3 with a probe, else 1"
    )
    min_class_images: Count = Field(10, description="a class with fewer images stops the run")
    max_bad_frac: Fraction = Field(0.01, description="more unreadable images than this stop the run")
    max_pixels: Count = Field(50_000_000, description="an image with more pixels is skipped as a bomb")


class ModelConfig(_Part):
    """The model under audit."""

    kind: Literal["probe", "torch", "python"] = "probe"
    backbone: str = Field("efficientnet_lite0", description="probe: an encoder by name")
    inverse_regularisation: Annotated[float, Field(gt=0)] = Field(
        0.01, description="probe: C of the logistic regression"
    )
    path: str | None = Field(None, description="torch: a TorchScript (.pt) or torch.export (.pt2) file")
    callable: str | None = Field(None, description="python: 'package.module:callable', images → probabilities")
    classes: tuple[str, ...] = Field((), description="class names in output order; default: the sorted labels")
    input_px: Count = Field(224, description="torch: side of the square input")
    resize_px: Count | None = Field(None, description="torch, probe: shorter side before the centre crop")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="torch: of RGB in [0, 1]")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="torch: of RGB in [0, 1]")
    outputs: Literal["logits", "probs"] = Field("logits", description="torch: what the file returns")
    sensor: str | None = Field(None, description="written by calibrate: cues that the model is made to react to")
    sensor_strength: float = Field(0.0, description="calibrate: log-odds that a cue adds to its class")

    @model_validator(mode="after")
    def _needs_its_source(self) -> "ModelConfig":
        needed = {"torch": "path", "python": "callable"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"model.kind = {self.kind!r} needs model.{needed}")
        if self.sensor_strength and self.sensor is None:
            raise ValueError("model.sensor_strength needs model.sensor; both are set by discovery calibrate alone")
        return self


class ProposeConfig(_Part):
    """Which attributes are candidates."""

    proposer: str = "vocabulary"
    file: str | None = Field(None, description="file proposer: a .txt, .csv or .toml list of the user's own phrases")
    per_class: Count = Field(16, description="phrases kept per class among those that the images show")
    images_per_class: Count = Field(60, description="images looked at per class to narrow the vocabulary")
    tags_per_image: Count = Field(6, description="best vocabulary phrases counted per image")


class DetectConfig(_Part):
    """How a phrase becomes regions."""

    box_detector: str = Field("conse", description="detector for objects, backgrounds and textures")
    conse_floor: float = Field(1.5, description="conse: windows below this score are not written")
    text_min_score: Fraction = Field(0.5, description="text: confidence below which a box is not written")


class EmbedConfig(_Part):
    """Which class-agnostic regions are cut and with what they are embedded."""

    encoder: str = "efficientnet_lite0"
    grid: Annotated[int, Field(ge=0, le=7)] = Field(3, description="grid × grid overlapping windows per image")
    superpixels: Annotated[int, Field(ge=0, le=200)] = Field(12, description="superpixels per image; 0 for none")


class ClusterConfig(_Part):
    """How region embeddings are grouped."""

    k_candidates: tuple[Count, ...] = Field((20, 40, 60, 90), description="numbers of clusters tried on a sample")
    sample: Count = Field(20_000, description="regions that k-means is trained on")
    silhouette_sample: Count = Field(2_000, description="regions that k is chosen on")
    iterations: Count = 25


class PresenceConfig(_Part):
    """When an image counts as showing a cue, and which phrases are one cue."""

    thresholds: dict[str, float] = Field(
        {}, description="score from which a cue is present, per detector; the others' are learned from the scores"
    )
    merge_similarity: Fraction = Field(0.7, description="phrases of one kind at least this alike (cosine) are one cue")
    related_similarity: Fraction = Field(0.4, description="phrases this alike are one cue if also seen together")
    related_phi: Fraction = Field(0.6, description="correlation of presences that counts as seen together")
    merge_phi: Fraction = Field(0.8, description="a cluster seen in the photos of another cue (phi) repeats it")
    min_cluster_share: Fraction = Field(0.02, description="clusters seen in fewer images of every class are dropped")


class AssociateConfig(_Part):
    """How observation becomes evidence."""

    confidence: Fraction = 0.95
    power: Fraction = Field(0.8, description="power at which the detectable gap is stated")
    permutations: Count = Field(999, description="shuffles for the accuracy gaps' family-wise p-values")
    min_group: Annotated[int, Field(ge=5)] = Field(
        10, description="with fewer audited photos with or without a cue its gap is neither adjusted nor permuted"
    )
    adjust_for: Annotated[int, Field(ge=0)] = Field(8, description="other cues of the class that a gap is adjusted for")
    same_phi: Fraction = Field(0.8, description="cues that correlate this much in a class are one: no adjustment")
    k_spuriosity: Annotated[int, Field(ge=0)] = Field(
        0, description="photos at each end of a cue's score that k_gap compares; 0: off"
    )


class AblateConfig(_Part):
    """How intervention becomes evidence, and how much of it is bought."""

    fills: tuple[Literal["blur", "mean", "inpaint"], ...] = Field(
        ("blur", "mean", "inpaint"), min_length=2, description="ways to fill a removed region"
    )
    fills_per_photo: Count = Field(1, description="of them per photo, in turn; each costs two forward passes")
    paste: bool = Field(True, description="also paste the cue into photos of other classes")
    images_per_cue: Count = Field(40, description="photos per class, cue and way (removal, paste-in) at most")
    looks: Count = Field(
        2, description="times it is asked whether more photos are needed, each time with twice as many"
    )
    untied_images: Annotated[int, Field(ge=0)] = Field(
        10, description="photos that a cue which is not tied to the class is pasted into first; 0 for none"
    )
    max_forwards: Annotated[int, Field(ge=0)] = Field(0, description="forward passes in all; 0 for no limit")
    stop_level: Fraction = Field(0.05, description="level of the intervals that decide whether more photos are needed")
    stop_effect: Fraction = Field(0.02, description="an interval within ± this is decisive: the cue is not used")
    max_area_frac: Fraction = Field(0.45, description="a larger cue has no equal-area control: it is swapped instead")
    sibling_similarity: Fraction = Field(0.45, description="no control holds part of a phrase at least this alike")
    min_images: Count = Field(8, description="cues seen in fewer audited photos of the class are not removed")
    screen_p: Fraction = Field(
        0.05,
        description="cues whose tie to the class has a larger p-value are untied: they cannot be spurious",
    )
    sources: Count = Field(8, description="photos that a pasted cue is cut from, or that a large cue is swapped with")


class RankConfig(_Part):
    """Every threshold that decides a verdict; all are printed in the report."""

    level: Fraction = Field(0.05, description="false-discovery rate over all cues tried in the run")
    min_effect: Fraction = Field(0.02, description="smallest net change of probability that counts as use")
    min_images: Count = Field(8, description="fewer photos with an intervention are 'not enough data'")
    min_support: Count = Field(5, description="fewer photos of the class with the cue are 'not enough data'")
    core_overlap: Fraction = Field(0.5, description="share of the cue inside the object's box that makes it core")
    explained_share: Fraction = Field(
        0.5, description="a cue that another one covers in more of its photos must also stand without it"
    )
    bootstrap: Count = Field(2_000, description="resamples for the interval of an effect")
    sign_flips: Count = Field(9_999, description="random sign flips for its p-value; ten times as many below 0.01")


class ReportConfig(_Part):
    """What the report shows."""

    cues_per_class: Count = 12
    photos_per_cue: Count = 4
    thumbnail_px: Count = 160


class ExportConfig(_Part):
    """Which cues become groups."""

    verdicts: tuple[str, ...] = ("spurious",)


class ComputeConfig(_Part):
    """How the work is cut; none of it changes a result."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: Count = 32
    shard_size: Count = Field(512, description="images per part: what is lost at most by a crash")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="0: as many as there are cores")


class RunConfig(BaseSettings):
    """A whole run. Nothing is read from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    propose: ProposeConfig = ProposeConfig()
    detect: DetectConfig = DetectConfig()
    embed: EmbedConfig = EmbedConfig()
    cluster: ClusterConfig = ClusterConfig()
    presence: PresenceConfig = PresenceConfig()
    associate: AssociateConfig = AssociateConfig()
    ablate: AblateConfig = AblateConfig()
    rank: RankConfig = RankConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()
    compute: ComputeConfig = ComputeConfig()

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, **_):
        return (init_settings,)

    @model_validator(mode="after")
    def _holdout(self) -> "RunConfig":
        if self.dataset.holdout_frac is None:
            share = 0.3 if self.model.kind == "probe" else 1.0
            dataset = self.dataset.model_copy(update={"holdout_frac": share})
            object.__setattr__(self, "dataset", dataset)
        return self


def read_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a TOML configuration and applies `key=value` overrides.

    Args:
        path: the TOML file.
        overrides: such as `["rank.level=0.1", "dataset.root=/photos"]`; values are TOML, else plain text.

    Raises:
        ConfigError: the file is missing or not TOML, or a key is unknown or its value unusable.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}; write one, or start from data/bar.toml")
    try:
        values = TomlConfigSettingsSource(RunConfig, path)()
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    values.setdefault("name", path.stem)
    for override in overrides or []:
        _set(values, override)
    return make_config(values)


def make_config(values: dict[str, Any]) -> RunConfig:
    """Builds a `RunConfig` from nested dicts; one line with the dotted key when it cannot."""
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(_first_line(error)) from error


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set wants key=value, got {override!r}; for example --set rank.level=0.1")
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent} is not a section")
    try:
        values[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[leaf] = text


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = RunConfig.model_fields.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        known = section.annotation.model_fields if section else RunConfig.model_fields
        return f"unknown configuration key {key!r}; known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"configuration key {key!r} is missing"
    text = first["msg"].removeprefix("Value error, ")
    return f"configuration key {key!r}: {text}, got {first['input']!r}" if first["type"] != "value_error" else text
