"""`Settings`: everything `decant serve` can be told, by flags, by DECANT_* variables, or by a file, in that order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from .errors import ServiceError
from .keys import NAME, ApiKey
from .queue import Limits

_MIB = 2**20


class ConfigError(ServiceError):
    """A setting that makes no sense."""


Dtype = Literal["float32", "bfloat16", "float16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSetting(_Part):
    """A model beside the first one."""

    name: str = Field(pattern=NAME, description="What clients call it")
    path: str | None = Field(default=None, description="Model folder or hub name")
    kind: Literal["encoder", "reranker"] = Field(
        default="encoder", description="A reranker is a cross-encoder's folder"
    )
    device: str | None = None
    dtype: Dtype | None = None
    rule: str | None = Field(default=None, description="Name of a published model's prompts and pooling")
    adapters: Mapping[str, str] = Field(default={}, description="LoRA folders by name; each is served as NAME:ADAPTER")
    load: Literal["start", "request"] = Field(
        default="start", description="With the server, or when Models.Load asks for it"
    )


class StoreSetting(_Part):
    """A store beside the first one."""

    name: str = Field(pattern=NAME, description="What clients call it")
    path: str = Field(description="Its folder; {tenant} in it gives every tenant a folder of its own")
    model: str = Field(default="", description="Which of the models made it; the first if empty")
    tenants: tuple[str, ...] = Field(default=(), description="Who may use it; everybody if empty")
    writable: bool = Field(default=False, description="Whether it is created where absent, and clients may change it")


class TenantSetting(_Part):
    """What one tenant may use."""

    queued_tokens: int | None = Field(default=None, ge=1, description="Its tokens that may wait")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Calls, evened out; a minute's may come at once"
    )


class Settings(BaseSettings):
    """How a server runs. Unknown names in a file are errors; seconds and bytes are in the names."""

    model_config = SettingsConfigDict(env_prefix="DECANT_", extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = Field(None, description="Model folder or hub name; the model that ships with Decant if absent")
    name: str | None = Field(None, description="What clients call the model; the folder's name if absent")
    adapters: Mapping[str, str] = Field({}, description="LoRA folders of the model by name; served as MODEL:ADAPTER")
    models: tuple[ModelSetting, ...] = Field((), description="More models")
    rerank: Literal["dense", "late"] = Field(
        "dense", description="How an encoder reranks: by its vectors, or token by token"
    )
    store: Path | None = Field(None, description="Folder of the index to search; no search if absent")
    stores: tuple[StoreSetting, ...] = Field((), description="More stores")
    generator: str = Field(
        "evidence",
        min_length=1,
        description="Who writes answers: evidence (quotations), reader or xc (cached states; need the model they were "
        "trained for), the address of an OpenAI-compatible endpoint, or a decoder's folder",
    )
    generator_model: str | None = Field(
        None, description="What the endpoint calls its model; its key is read from DECANT_GENERATOR_KEY alone"
    )
    draft: str | None = Field(None, description="Folder of a smaller decoder that drafts for the one that writes")
    kv_reuse: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of each passage's keys that a decoder keeps and joins instead of reading the passage again",
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 and so on; the best one here if absent")
    dtype: Dtype | None = Field(None, description="Number format of the model")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every one this machine has")
    grpc_port: int = Field(50051, ge=0, le=65535, description="0 for one that the system picks")
    http_port: int = Field(8080, ge=0, le=65535, description="0 for one that the system picks")
    max_texts: int = Field(2048, ge=1, description="Texts in one request")
    max_message_bytes: int = Field(64 * _MIB, ge=1024, description="Size of one request or answer")
    batch_tokens: int | None = Field(None, ge=1, description="Token budget of a batch; what suits the device if absent")
    batch_seconds: float = Field(
        0.2,
        gt=0,
        description="Batches are made smaller where they would take longer; up to twice that where much waits",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Metrics of one process alone, over plain HTTP; worker n's port is n higher"
    )
    compute_niceness: int = Field(10, ge=0, le=19, description="How far computing stands back behind answering; Linux")
    queued_tokens: int = Field(524_288, ge=1, description="Tokens that may wait; beyond it calls are refused")
    queued_requests: int = Field(1024, ge=1, description="Calls that may wait; beyond it calls are refused")
    query_seconds: float = Field(1.0, gt=0, description="Queries are refused while those before them take longer")
    bulk_seconds: float = Field(30.0, gt=0, description="Other calls are refused while all that waits takes longer")
    request_seconds: float = Field(60.0, gt=0, description="Time limit of a call that sets none")
    drain_seconds: float = Field(30.0, ge=0, description="Time that running calls get when the server stops")
    linger_seconds: float = Field(
        0.0, ge=0, description="Between NOT_SERVING and refusing calls, for load balancers to notice"
    )
    grpc_gzip: bool = Field(False, description="Compress gRPC answers; compressed requests are always read")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_requests: Literal["none", "failed", "all"] = Field(
        "failed", description="Which calls get a line in the log; no line ever holds a text"
    )
    workers: int = Field(1, ge=1, le=256, description="Processes that share the ports, each with its own models")
    reuse_port: bool = Field(False, description="Let other processes listen on the same ports (SO_REUSEPORT)")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) that both ports show; TLS where given")
    tls_key: Path | None = Field(None, description="Its private key (PEM)")
    tls_client_ca: Path | None = Field(None, description="Who signs clients' certificates; they must show one then")
    traces: Literal["none", "otlp", "console"] = Field(
        "none", description="Where OpenTelemetry spans go; otlp is set up by OTEL_* variables"
    )
    api_keys: tuple[ApiKey, ...] = Field((), description="Hashed keys; everybody is let in if there are none")
    tenants: Mapping[str, TenantSetting] = Field({}, description="What a tenant may use, by its name")

    @field_validator("api_keys")
    @classmethod
    def _hashed(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for key in keys:
            if len(key.sha256) != 64 or not all(c in "0123456789abcdefABCDEF" for c in key.sha256):
                raise ValueError("sha256 must be the key's hash, 64 hexadecimal digits, not the key itself")
        return keys

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.generator.startswith(("http://", "https://")) and not self.generator_model:
            raise ValueError("an endpoint needs the name of its model: give generator_model")
        stores = [s.name for s in self.stores] + (["default"] if self.store is not None else [])
        for kind, names in (("models", [m.name for m in self.models]), ("stores", stores)):
            if len(set(names)) < len(names):
                raise ValueError(f"two {kind} have the same name")
        known = {key.tenant for key in self.api_keys}
        if strangers := [name for name in self.tenants if name not in known]:
            raise ValueError(f"tenant {strangers[0]!r} has no API key")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before variables before the file."""
        file = (TomlConfigSettingsSource(settings_cls), JsonConfigSettingsSource(settings_cls))
        return (init_settings, env_settings, *file)

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Self:
        """Put the three sources together; a flag that is None was not given.

        Raises:
            ConfigError: naming the setting that cannot be used.
        """
        if file is not None and not file.is_file():
            raise ConfigError(f"there is no configuration file {file}: check --config")
        if file is not None and file.suffix == ".json":
            where = SettingsConfigDict(json_file=file)
        else:
            where = SettingsConfigDict(toml_file=file)
        _no_slips_in(os.environ)
        configured = cast("type[Self]", type(cls.__name__, (cls,), {"model_config": where}))
        try:
            return configured(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(_told(error)) from None
        except (SettingsError, ValueError) as error:
            raise ConfigError(f"the configuration cannot be read: {' '.join(str(error).split())}") from None

    def limits(self, batch_tokens: int) -> Limits:
        """The queue's limits; `batch_tokens` where none is set."""
        own = {name: tenant.queued_tokens for name, tenant in self.tenants.items() if tenant.queued_tokens}
        budget = self.batch_tokens or batch_tokens
        return Limits(
            self.queued_tokens,
            self.queued_requests,
            budget,
            self.batch_seconds,
            own,
            self.query_seconds,
            self.bulk_seconds,
            self.compute_niceness,
        )

    def rates(self) -> Mapping[str, float]:
        """Calls per minute of the tenants that have a limit."""
        tenants = self.tenants.items()
        return {name: tenant.requests_per_minute for name, tenant in tenants if tenant.requests_per_minute}

    def page(self, http_port: int) -> str:
        """The address of the web page, for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        scheme = "http" if self.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{http_port}/"

    def shown(self) -> dict[str, Any]:
        """All settings, ready for JSON, the keys' hashes cut short."""
        values = self.model_dump(mode="json")
        values["api_keys"] = [{**key, "sha256": f"{key['sha256'][:8]}..."} for key in values["api_keys"]]
        return values


def _no_slips_in(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly a setting's; others may be anybody's. Raises ConfigError."""
    known = Settings.model_fields
    for variable in environment:
        name = variable.upper().removeprefix("DECANT_").lower()
        if not variable.upper().startswith("DECANT_") or name in known:
            continue
        if near := get_close_matches(name, known, 1, cutoff=0.85):
            raise ConfigError(f"there is no setting {variable}: is DECANT_{near[0].upper()} meant?")


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = Settings.model_fields if len(first["loc"]) == 1 else {}
        near = get_close_matches(name, known, 1)
        return f"there is no setting {name}" + (f": is {near[0]} meant?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    return f"setting {name}: {message}" if name else message
