"""One TOML file → one frozen `RunConfig` that holds one small config per stage."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource

from discovery.config_models import (
    ComputeConfig,
    DetectConfig,
    EmbedConfig,
    MllmConfig,
    ModelConfig,
    ProposeConfig,
    ServerConfig,
)
from discovery.config_stages import (
    AblateConfig,
    AskConfig,
    AssociateConfig,
    ClusterConfig,
    DatasetConfig,
    ExplainConfig,
    ExportConfig,
    PresenceConfig,
    RankConfig,
    ReportConfig,
    RetrainConfig,
)
from discovery.errors import ConfigError

__all__ = [
    "AblateConfig",
    "AskConfig",
    "AssociateConfig",
    "ClusterConfig",
    "ComputeConfig",
    "DatasetConfig",
    "DetectConfig",
    "EmbedConfig",
    "ExplainConfig",
    "ExportConfig",
    "MllmConfig",
    "ModelConfig",
    "PresenceConfig",
    "ProposeConfig",
    "RankConfig",
    "ReportConfig",
    "RetrainConfig",
    "RunConfig",
    "ServerConfig",
    "change_config",
    "make_config",
    "read_config",
]


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
    explain: ExplainConfig = ExplainConfig()
    ask: AskConfig = AskConfig()
    retrain: RetrainConfig = RetrainConfig()
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

    @model_validator(mode="after")
    def _has_maps(self) -> "RunConfig":
        mapped = self.model.kind == "probe" and self.model.backbone == "efficientnet_lite0"
        if self.ablate.object == "attribution" and not mapped:
            raise ValueError(
                "ablate.object = 'attribution' wants a probe on efficientnet_lite0, whose last layer reads a spatial "
                "map; set it to 'detected' or 'given'"
            )
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


def change_config(config: RunConfig, overrides: list[str]) -> RunConfig:
    """Returns a configuration with `key=value` overrides applied (see `read_config`)."""
    values = config.model_dump(mode="json")
    for override in overrides:
        _set(values, override)
    return make_config(values)


def override(config: RunConfig, overrides: list[str], sections: tuple[str, ...]) -> RunConfig:
    """Applies `key=value` overrides to some sections of a configuration that was used already.

    Raises:
        ConfigError: a key is unknown, its value unusable, or it lies in another section.
    """
    for text in overrides:
        if text.partition(".")[0].strip() not in sections:
            raise ConfigError(
                f"--set here changes {' and '.join(f'{name}.*' for name in sections)} alone, got {text!r}; "
                "for another run change its configuration and use discovery run"
            )
    return change_config(config, overrides)


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
