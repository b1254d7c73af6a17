"""The parts of a configuration that say which models are asked, and on what machine."""

from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
QuestionName = Literal[
    "objects", "backgrounds", "neighbours", "associations", "colours", "lighting", "overlays", "camera"
]
"""What a language model may be asked about a class; see `backends.llm_questions`."""


class Part(BaseModel):
    """A part of the configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(Part):
    """An OpenAI-compatible server: whom it asks, how long it waits, and what it may spend."""

    llm: str | None = Field(None, description="the model's name, as its server knows it")
    base_url: str = Field("https://api.openai.com/v1", description="of any OpenAI-compatible server, with its /v1")
    key_env: str | None = Field(
        None, description="environment variable that holds the key; OPENAI_API_KEY for OpenAI's own server, else none"
    )
    cache: str | None = Field(None, description="folder that keeps every answer; llm-cache beside the run by default")
    timeout_s: Annotated[float, Field(gt=0)] = Field(60.0, description="seconds without an answer before a retry")
    retries: Annotated[int, Field(ge=0)] = Field(5, description="of a request, with back-off, after 429, 5xx, silence")
    concurrency: Count = Field(4, description="requests under way at the same time")
    max_calls: Annotated[int, Field(ge=0)] = Field(0, description="calls in all; 0 for no limit")
    max_tokens: Annotated[int, Field(ge=0)] = Field(0, description="tokens in all, in and out; 0 for no limit")
    max_money: Annotated[float, Field(ge=0)] = Field(0.0, description="in the currency of the prices; 0 for no limit")
    price_in: Annotated[float, Field(ge=0)] | None = Field(None, description="of a million tokens of prompts")
    price_out: Annotated[float, Field(ge=0)] | None = Field(None, description="of a million tokens of answers")

    @model_validator(mode="after")
    def _can_be_used(self) -> "ServerConfig":
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url must be such as http://127.0.0.1:8000/v1; it has no scheme or no host")
        if address.username or address.password or address.query:
            raise ValueError("base_url must hold no key or password: name the variable that holds it in key_env")
        if self.max_money and (self.price_in is None or self.price_out is None):
            raise ValueError("max_money needs price_in and price_out, per million tokens")
        return self


class MllmConfig(ServerConfig):
    """A multimodal LLM under audit: which one, local or `llm` at a server, and how it is asked."""

    cache: str | None = Field("runs/llm-cache", description="API: folder that keeps every answer")
    answer_tokens: Count = Field(16, description="API: longest answer; a model that thinks aloud first needs hundreds")
    checkpoint: str | None = Field(None, description="local: a folder or hub id of a transformers checkpoint")
    wordings: tuple[str, ...] = Field(
        (
            "Is there {a_label} in this image?",
            "Does this image show {a_label}?",
            "Can {a_label} be seen in this image?",
        ),
        min_length=1,
        description="neutral yes/no questions; {a_label} is the class with its article, {label} without",
    )
    run_wordings: Count = Field(1, description="of them in predict and ablate; discovery ask uses all")
    choice: str = Field("What is the main subject of this image?", description="the multiple-choice question")
    ask: Literal["each", "choice"] = Field(
        "each", description="in predict and ablate: a yes/no question per class, or one choice among all classes"
    )
    choice_orders: Count = Field(2, description="orders in which the options of a choice are named")
    min_mass: Fraction = Field(0.1, description="with less probability on all options together an answer is unclear")
    side_px: Count = Field(512, description="longer side of the photo that is asked about")

    @model_validator(mode="after")
    def _names_the_class(self) -> "MllmConfig":
        lost = [text for text in self.wordings if "{label}" not in text and "{a_label}" not in text]
        if lost:
            raise ValueError(f"model.mllm.wordings must name the class as {{label}} or {{a_label}}, got {lost[0]!r}")
        return self


class ModelConfig(Part):
    """The model under audit."""

    kind: Literal[
        "probe", "torch", "python", "hf", "timm", "ultralytics", "onnx", "clip_zero_shot", "http", "predictions", "mllm"
    ] = "probe"
    backbone: str = Field("efficientnet_lite0", description="probe: an encoder, 'name' or 'name:checkpoint'")
    inverse_regularisation: Annotated[float, Field(gt=0)] = Field(
        0.01, description="probe: C of the logistic regression"
    )
    path: str | None = Field(
        None, description="the model: a file, or for hf and timm a folder, for clip_zero_shot 'clip:FOLDER_OR_ID'"
    )
    arch: str | None = Field(None, description="timm: name of the architecture, where path is a weights file")
    callable: str | None = Field(None, description="python: 'package.module:callable', images → probabilities")
    classes: tuple[str, ...] = Field(
        (), description="class names in output order; default: the model's own, else the sorted labels"
    )
    templates: tuple[str, ...] = Field(
        ("a photo of a {}.",), min_length=1, description="clip_zero_shot: texts around a class's name"
    )
    prompts: dict[str, tuple[str, ...]] = Field(
        {}, description="clip_zero_shot: what a class is called; default: its name"
    )
    url: str | None = Field(None, description="http: where images are posted")
    timeout_s: Annotated[float, Field(gt=0)] = Field(60.0, description="http: for one answer")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(5, description="http: further tries, with growing pauses")
    token_env: str | None = Field(None, description="http: environment variable that holds a bearer token")
    input_px: Count = Field(224, description="torch, onnx: side of the square input, where the file leaves it open")
    resize_px: Count | None = Field(None, description="torch, onnx, probe: shorter side before the centre crop")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="torch, onnx: of RGB in [0, 1]")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="torch, onnx: of RGB in [0, 1]")
    outputs: Literal["logits", "probs"] = Field("logits", description="torch, onnx: what the file returns")
    mllm: MllmConfig = MllmConfig()
    sensor: str | None = Field(None, description="written by calibrate: cues that the model is made to react to")
    sensor_strength: float = Field(0.0, description="calibrate: log-odds that a cue adds to its class")

    @property
    def can_be_asked(self) -> bool:
        """Whether there is a model behind it that answers to changed photos."""
        return self.kind != "predictions"

    @model_validator(mode="after")
    def _needs_its_source(self) -> "ModelConfig":
        needed = {"probe": None, "mllm": None, "python": "callable", "http": "url"}.get(self.kind, "path")
        if needed and getattr(self, needed) is None:
            raise ValueError(f"model.kind = {self.kind!r} needs model.{needed}")
        if self.kind == "mllm" and (self.mllm.checkpoint is None) == (self.mllm.llm is None):
            raise ValueError("model.kind = 'mllm' needs either model.mllm.checkpoint (local) or model.mllm.llm (API)")
        if not all("{}" in template for template in self.templates):
            raise ValueError("model.templates: each needs {} where the class's name goes")
        if self.sensor_strength and self.sensor is None:
            raise ValueError("model.sensor_strength needs model.sensor; both are set by discovery calibrate alone")
        return self


class ProposeConfig(ServerConfig):
    """Which attributes are candidates, and the language model that is asked for them, if one is."""

    proposer: str = "vocabulary"
    file: str | None = Field(None, description="file proposer: a .txt, .csv or .toml list of the user's own phrases")
    text: str = Field(
        "minilm",
        description="text encoder, 'name' or 'name:checkpoint', that tells here and later which phrases are alike",
    )
    per_class: Count = Field(16, description="phrases kept per class among those that the images show")
    images_per_class: Count = Field(60, description="images looked at per class to narrow the vocabulary")
    tags_per_image: Count = Field(6, description="best vocabulary phrases counted per image")
    questions: tuple[QuestionName, ...] = Field(
        get_args(QuestionName), min_length=1, description="openai: asked per class"
    )
    phrases_per_question: Count = Field(16, description="openai: phrases taken from an answer")
    judge: bool = Field(True, description="openai: ask which phrases are parts of the class, nearly always there, …")
    judged_at_once: Count = Field(40, description="openai: phrases in one such question")
    computed: bool = Field(True, description="openai: add the appearances that are computed for every class")
    show_photos: Annotated[int, Field(ge=0)] = Field(0, description="openai: photos of the class shown per question")
    photo_px: Count = Field(512, description="openai: longer side of a photo that is shown")
    evidence: Literal["none", "tags", "captions"] = Field(
        "none", description="openai: what is said of photos the model got right and wrong; see docs/method.md first"
    )
    evidence_photos: Count = Field(12, description="openai: of them at most, per class, right ones and wrong ones each")
    caption_column: str = Field("caption", description="openai: column of the manifest for evidence = 'captions'")

    @model_validator(mode="after")
    def _has_someone_to_tell(self) -> "ProposeConfig":
        if self.evidence != "none" and self.proposer != "openai":
            raise ValueError("propose.evidence is told to a language model: it needs propose.proposer = 'openai'")
        return self


class DetectConfig(Part):
    """How a phrase becomes regions."""

    box_detector: str = Field(
        "conse", description="detector of free phrases: conse, or an open-set model such as owlv2:FOLDER"
    )
    prompt: str = Field("a photo of {}", pattern=r"\{\}", description="owlv2, owlvit: what is asked; {} is the phrase")
    exemplars: str | None = Field(
        None, description="folder of <phrase>/*.png: such phrases are looked for by these pictures"
    )
    exemplar_model: str = Field("efficientnet_lite0", description="exemplars: an encoder, or owlv2:FOLDER")
    vote_with: str | None = Field(None, description="a second detector, whose agreement with the first is kept")
    text_model: str | None = Field(
        None, description="yolo_world, yoloe: clip:FOLDER, openai_clip:FILE.pt or mobileclip:FILE.ts"
    )
    min_score: Fraction = Field(0.05, description="open-set models: boxes below this score are not written")
    boxes_per_phrase: Count = Field(8, description="open-set models: boxes per photo and phrase at most")
    nms_iou: Fraction = Field(0.5, description="open-set models: of two boxes that overlap more (IoU) the better stays")
    images_per_pass: Count = Field(8, description="open-set models: photos at once; halved when memory runs out")
    phrases_per_pass: Count = Field(128, description="open-set models: phrases compared at once")
    conse_floor: float = Field(1.5, description="conse: windows below this score are not written")
    text_min_score: Fraction = Field(0.5, description="text: confidence below which a box is not written")


class EmbedConfig(Part):
    """Which class-agnostic regions are cut and with what they are embedded."""

    encoder: str = Field("efficientnet_lite0", description="encoder of regions, 'name' or 'name:checkpoint'")
    namer: str | None = Field(
        None, description="encoder that names clusters; default: the same, or efficientnet_lite0 for one without text"
    )
    grid: Annotated[int, Field(ge=0, le=7)] = Field(3, description="grid × grid overlapping windows per image")
    superpixels: Annotated[int, Field(ge=0, le=200)] = Field(12, description="superpixels per image; 0 for none")


class ComputeConfig(Part):
    """How the work is cut; but for `fast` none of it changes a result."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: Count = 32
    shard_size: Count = Field(512, description="images per part: what is lost at most by a crash")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="0: as many as there are cores")
    fast: bool = Field(
        False, description="on CUDA: half precision and torch.compile for transformers' models; scores move slightly"
    )
    download: bool = Field(False, description="fetch checkpoints that are not on this machine from their hub")
