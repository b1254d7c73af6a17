"""The parts of a configuration that say what a stage does with what it reads."""

from typing import Annotated, Literal

from pydantic import Field

from discovery.config_models import Count, Fraction, Part


class DatasetConfig(Part):
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


class ClusterConfig(Part):
    """How region embeddings are grouped."""

    k_candidates: tuple[Count, ...] = Field((20, 40, 60, 90), description="numbers of clusters tried on a sample")
    sample: Count = Field(20_000, description="regions that k-means is trained on")
    silhouette_sample: Count = Field(2_000, description="regions that k is chosen on")
    iterations: Count = 25


class PresenceConfig(Part):
    """When an image counts as showing a cue, and which phrases are one cue."""

    thresholds: dict[str, float] = Field(
        {}, description="score from which a cue is present, per detector; the others' are learned from the scores"
    )
    min_agreement: Fraction = Field(
        0.0, description="detect.vote_with: a region counts from this agreement (IoU) with the second detector on"
    )
    merge_similarity: Fraction = Field(0.7, description="phrases of one kind at least this alike (cosine) are one cue")
    related_similarity: Fraction = Field(0.4, description="phrases this alike are one cue if also seen together")
    related_phi: Fraction = Field(0.6, description="correlation of presences that counts as seen together")
    merge_phi: Fraction = Field(0.8, description="a cluster seen in the photos of another cue (phi) repeats it")
    min_cluster_share: Fraction = Field(0.02, description="clusters seen in fewer images of every class are dropped")


class AssociateConfig(Part):
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


class AblateConfig(Part):
    """How intervention becomes evidence, and how much of it is bought."""

    fills: tuple[Literal["blur", "mean", "inpaint"], ...] = Field(
        ("blur", "mean", "inpaint"), min_length=2, description="ways to fill a removed region"
    )
    fills_per_photo: Count = Field(1, description="of them per photo, in turn; each costs two forward passes")
    paste: bool = Field(True, description="also paste the cue into photos of other classes")
    images_per_cue: Count = Field(40, description="photos per class, cue and way (removal, paste-in) at most")
    looks: Count = Field(
        3, description="times it is asked whether more photos are needed, each time with twice as many"
    )
    untied_images: Annotated[int, Field(ge=0)] = Field(
        10, description="photos that a cue which is not tied to the class is pasted into first; 0 for none"
    )
    max_forwards: Annotated[int, Field(ge=0)] = Field(0, description="forward passes in all; 0 for no limit")
    stop_level: Fraction = Field(0.05, description="level of the intervals that decide whether more photos are needed")
    stop_effect: Fraction = Field(0.02, description="an interval within ± this is decisive: the cue is not used")
    stop_futile: Fraction = Field(
        0.3, description="a tied cue with a larger uncorrected p-value has no prospect and is left; 1: never"
    )
    max_area_frac: Fraction = Field(0.45, description="a larger cue has no equal-area control: it is swapped instead")
    doses: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 1.0),
        description="shares of a swapped cue that are removed as well, one forward pass each; () for none",
    )
    object: Literal["given", "detected", "attribution"] = Field(
        "detected",
        description="where the object is: given by the data's boxes alone; or else detected by the name of its class, "
        "where detect.box_detector is an open-set model; or, for cues that are things, where the model sees the class "
        "without the cue (attribution)",
    )
    attribution_level: Fraction = Field(
        0.6, description="height in a class activation map, between its least and its most, from which it is the object"
    )
    object_area_frac: Fraction = Field(0.9, description="a detected box that covers more of its photo says nothing")
    sibling_similarity: Fraction = Field(0.45, description="no control holds part of a phrase at least this alike")
    min_images: Count = Field(8, description="cues seen in fewer audited photos of the class are not removed")
    screen_p: Fraction = Field(
        0.05,
        description="cues whose tie to the class has a larger p-value are untied: they cannot be spurious",
    )
    sources: Count = Field(40, description="photos that a pasted cue is cut from, or that a large cue is swapped with")


class RankConfig(Part):
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


class ReportConfig(Part):
    """What the report shows."""

    cues_per_class: Count = 12
    photos_per_cue: Count = 4
    thumbnail_px: Count = 160


class ExportConfig(Part):
    """Which cues become groups, and in which other forms they are written."""

    verdicts: tuple[str, ...] = ("spurious",)
    cues: tuple[str, ...] = Field((), description="ids or phrases, or 'class: phrase', instead of all of `verdicts`")
    formats: tuple[Literal["coco", "masks", "imagefolder", "splits"], ...] = Field(
        (), description="what is written into the run's folder export/, beside the groups"
    )
    photos: Literal["link", "copy"] = Field("link", description="how an imagefolder holds photos: links, or copies")


class RetrainConfig(Part):
    """How a model is repaired after a run, and how the repair is judged."""

    method: str = Field("groupdro", description="a repair by name; see discovery/repairs/menu.py")
    fit_split: str | None = Field(
        None, description="split that a repair is fitted on, and not judged by; default: what the run did not audit"
    )
    fit_frac: Fraction = Field(
        0.5, description="share of the fit split that a repair is fitted on where the run audited all of it"
    )
    null_cues: Annotated[int, Field(ge=0)] = Field(20, description="unused cues that are audited again beside them")
    min_group: Count = Field(4, description="a rarer combination of class and cues is no group of its own")
    inverse_regularisation: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        min_length=1,
        description="values of C that are tried on held-out photos",
    )
    fits: Count = Field(10, description="dfr: fits on different draws that are averaged")
    epochs: Count = Field(200, description="groupdro: full-batch steps")
    learning_rate: Annotated[float, Field(gt=0)] = Field(0.03, description="groupdro: of Adam")
    augment_photos: Count = Field(12, description="augment: photos changed per class, and per cue and way")
    copies: Count = Field(200, description="counterfactual: changed copies per class, cue and way, at most")
    group_step: Annotated[float, Field(gt=0)] = Field(
        0.05, description="groupdro: η of the groups' weights; counterfactual: the largest that is tried"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.03, description="groupdro: half the sum of squares times this"
    )
    jtt_factor: Annotated[float, Field(ge=1)] = Field(
        5.0, description="jtt: weight of a photo that the first fit gets wrong"
    )
    wise_with: str = Field("groupdro", description="wise: the repair that is interpolated with")
    callable: str | None = Field(
        None, description="python: 'package.module:function', repairs.python_hook.Training → a model"
    )


class AskConfig(Part):
    """What a multimodal LLM is asked about the cues of a finished run (`discovery ask`)."""

    cues_per_class: Count = Field(5, description="the first cues of each class, by rank")
    photos: Count = Field(50, description="photos with a cue, and as many without, per class, cue and probe")
    drop_tokens: bool = Field(True, description="also ask without the object's visual tokens, where a model allows it")
    choices: bool = Field(True, description="also ask multiple-choice questions: the photo's class or the cue's")
    options: Annotated[int, Field(ge=2, le=26)] = Field(4, description="classes that a choice is among")
    orders: Count = Field(4, description="orders in which the options of a choice are named")
    max_questions: Annotated[int, Field(ge=0)] = Field(0, description="refuses to begin with more; 0 for no limit")


class ExplainConfig(Part):
    """How one photo is taken apart, and what a set of its regions is worth."""

    regions: Literal["grid", "superpixels", "cues"] = Field("grid", description="what is removed as a whole")
    side: Annotated[int, Field(ge=1, le=32)] = Field(7, description="cells per side of a grid; its square superpixels")
    fills: tuple[Literal["blur", "mean", "inpaint"], ...] = Field(
        ("blur", "mean"), min_length=2, description="ways to fill a removed region; an answer must flip under each"
    )
    insertion: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of p(class | only the regions)")
    deletion: Annotated[float, Field(gt=0)] = Field(1.0, description="weight of 1 - p(class | without the regions)")
    confidence: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of a sure answer to the regions alone")
    diversity: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of regions unlike each other")
