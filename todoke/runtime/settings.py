"""Every setting with its default, unit and reason; the only place that reads the environment.

`python -m todoke settings` prints what is in force, secrets masked.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from todoke.model.errors import InvalidInput
from todoke.model.loopback import is_loopback
from todoke.model.origin import check_origin

SECRET_KEY_LETTERS = 32
# Read by commands that speak to an API over HTTP.
OF_COMMANDS = ("TODOKE_API_KEY",)
# From the end of an attempt's deadline to the end of its lease: the time to record it, more than once if need be.
LEASE_MARGIN_SECONDS, LEASE_MARGIN_SECONDS_MIN = 25, 10

Words = Annotated[tuple[str, ...], NoDecode]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode]


class Settings(BaseSettings):
    """Read once at start, then frozen. Names are `TODOKE_` + the field, except the four the original fixed."""

    model_config = SettingsConfigDict(
        env_prefix="TODOKE_", frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True
    )

    # The real parts.
    database_url: SecretStr = Field(
        SecretStr("postgresql://postgres@127.0.0.1:5432/todoke"),
        validation_alias="DATABASE_URL",
        description="PostgreSQL that keeps everything.",
    )
    listen_database_url: SecretStr | None = Field(
        None, description="PostgreSQL for LISTEN: a direct one, never a transaction pooler. Default: DATABASE_URL."
    )
    sqs_queue_url: str = Field("", validation_alias="SQS_QUEUE_URL", description="SQS queue that carries hints.")
    s3_bucket: str = Field("", description="S3 bucket that keeps results too large for the database.")
    aws_region: str = Field("us-east-1", validation_alias="AWS_REGION", description="Region of queue and bucket.")
    aws_endpoint_url: str | None = Field(
        None, validation_alias="AWS_ENDPOINT_URL", description="An SQS and S3 other than AWS's own. Default: AWS."
    )

    # The HTTP face.
    host: str = Field("127.0.0.1", description="Address to bind. Desk mode takes loopback only.")
    port: int = Field(8080, ge=0, le=65535, description="Port to bind.")
    listen_fd: int | None = Field(None, description="An inherited listening socket, used instead of host and port.")
    public_url: str | None = Field(
        None, description="Where callers reach the API, e.g. https://jobs.example.com. Makes links absolute."
    )
    desk_mode: bool = Field(
        False, description="Set by `todoke dev` alone: loopback only, no keys unless asked, loopback callbacks allowed."
    )
    require_keys: bool = Field(
        default_factory=lambda known: not known.get("desk_mode", False),
        description="Every call needs an API key. Desk mode alone may do without; its default is false.",
    )
    secret_keys: SecretStr | None = Field(
        None,
        description=(
            "Keys of tickets, cookies, cursors and signing secrets: random texts of 32 characters or more, "
            "comma-separated; the first seals, all open."
        ),
    )
    keep_alive_seconds: int = Field(
        5, ge=1, description="A kept connection is closed when idle for so long; a proxy has to close its own sooner."
    )
    gateway_asks: bool = Field(
        False, description="Tell a gateway at `/internal/auth` who may come in; it must keep that path from callers."
    )
    body_bytes_max: int = Field(16 * 2**20, ge=1024, description="Largest request body, bytes.")
    body_seconds: float = Field(30, gt=0, description="A request body that has not arrived after this long is refused.")
    params_depth_max: int = Field(64, ge=1, le=190, description="How deep a body may nest, in levels.")
    params_values_max: int = Field(1_000_000, ge=1, description="How many values a body may hold.")
    cors_origins: Words = Field(
        (), description="Web origins whose pages may call the API, e.g. https://app.example.com, comma-separated."
    )
    tenant_submits_per_minute: int = Field(
        default_factory=lambda known: 0 if known.get("desk_mode", False) else 6_000,
        ge=0,
        description="Submits and other writes of one tenant in one API process. 0: no limit, desk mode's default.",
    )
    tenant_reads_per_minute: int = Field(
        default_factory=lambda known: 0 if known.get("desk_mode", False) else 30_000,
        ge=0,
        description="Reads of one tenant in one API process. 0: no limit, desk mode's default.",
    )
    queue_depth_max: int = Field(
        default_factory=lambda known: 0 if known.get("desk_mode", False) else 1_000_000,
        ge=0,
        description="Jobs that may wait for their start before submits are put off. 0: no limit, desk mode's default.",
    )
    tenant_queue_depth_max: int = Field(
        default_factory=lambda known: 0 if known.get("desk_mode", False) else 100_000,
        ge=0,
        description="Of those, how many may be one tenant's. 0: no limit, desk mode's default.",
    )
    stream_heartbeat_seconds: float = Field(
        15, gt=0, description="Silence on a stream before a comment is sent; below every common proxy's idle limit."
    )
    streams_max: int = Field(20_000, ge=1, description="Streams and long polls one API process holds open.")
    tenant_streams_max: int = Field(
        default_factory=lambda known: 0 if known.get("desk_mode", False) else 1_000,
        ge=0,
        description="Of those, how many one tenant may hold in one API process. 0: no limit, desk mode's default.",
    )
    stream_rotation_seconds: float = Field(
        600, gt=0, description="A stream is asked to reconnect after about this long; below every gateway's limit."
    )
    stream_drain_seconds: float = Field(
        default_factory=lambda known: 0.0 if known.get("desk_mode", False) else 30.0,
        ge=0,
        description="After SIGTERM, open streams are asked to reconnect one by one over this long; 0 in desk mode.",
    )
    ring_mb: int = Field(128, ge=1, description="Memory for recent events of watched jobs, MiB in one API process.")

    # The work.
    jobs: Words = Field((), description="Modules that declare job types, comma-separated.")
    slots: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2), ge=1, le=256, description="Jobs one worker runs at once."
    )
    lease_seconds: float = Field(15, gt=0, description="How long a claim holds without a heartbeat.")
    heartbeat_seconds: float = Field(
        default_factory=lambda known: min(5.0, known.get("lease_seconds", 15.0) / 3),
        gt=0,
        description="Pause between renewals of a lease. Default: 5, or a third of a shorter lease.",
    )
    sweep_seconds: float = Field(5, gt=0, description="Pause between sweeps for what a hint or NOTIFY missed.")
    redispatch_seconds: float = Field(
        30, gt=0, description="Wait before a hint is sent again; doubles each time, up to 15 minutes."
    )
    visibility_seconds: int = Field(60, ge=1, le=43200, description="SQS visibility of a received hint.")
    receive_wait_seconds: int = Field(10, ge=0, le=20, description="SQS long poll.")
    inline_result_bytes: int = Field(
        64 * 1024, ge=0, description="Results up to this size live in PostgreSQL, larger ones in S3."
    )
    drain_seconds: float = Field(15, ge=0, description="After SIGTERM, how long running jobs may still finish.")
    dlq_url: str = Field("", description="SQS queue of the dead letters. Without it nobody looks at them.")
    queue_outage_seconds: float = Field(
        30, ge=0, description="SQS unreachable this long: workers take jobs straight from PostgreSQL until it is back."
    )
    losses_max: int = Field(3, ge=1, description="Workers a job may be lost with before it is FAILED.")
    tenant_jobs_max: int = Field(
        0, ge=0, description="Jobs of one tenant that may run at once, over all workers. 0: no limit."
    )
    job_memory_mb: int = Field(
        2048, ge=0, description="Memory of a child process, in MiB, when its job type names no limit. 0: no limit."
    )
    child_jobs_max: int = Field(10_000, ge=1, description="Jobs a child process runs before a fresh one replaces it.")

    # How long things are kept.
    result_days: float = Field(7, ge=0, description="Results are removed this long after the end. 0: never.")
    job_days: float = Field(30, ge=0, description="Finished jobs become tombstones after this long. 0: never.")
    tombstone_days: float = Field(365, ge=0, description="Tombstones are removed after this long. 0: never.")
    prune_seconds: float = Field(60, gt=0, description="Pause between looks of a worker for what is that old.")

    # Webhooks.
    signing_secret: SecretStr | None = Field(
        None, description="whsec_… that signs webhooks of the tenant default until it makes a secret of its own."
    )
    callback_hosts: Words = Field(
        (), description="Receivers (host:port) that may have any address, over http too, comma-separated."
    )
    callback_networks: Words = Field(
        (), description="Private networks (CIDR) that callbacks may reach, over https, comma-separated."
    )
    callback_denied: Words = Field(
        (), description="Networks (CIDR) that callbacks may not reach, besides those nobody's may, comma-separated."
    )
    callback_ports: Ports = Field((443, 8443), description="Ports callbacks may use, comma-separated.")
    webhook_timeout_seconds: float = Field(15, ge=1, le=30, description="One deadline over a whole delivery attempt.")
    webhook_lease_seconds: float = Field(
        default_factory=lambda known: known.get("webhook_timeout_seconds", 15.0) + LEASE_MARGIN_SECONDS,
        gt=0,
        description="How long a claimed delivery is nobody else's. Default: 25 more than the deadline.",
    )
    webhook_slots: int = Field(256, ge=1, le=1024, description="Deliveries one notifier has in flight.")
    webhook_endpoint_slots: int = Field(
        4, ge=1, le=32, description="Deliveries in flight to one endpoint, over all notifiers."
    )
    webhook_window_hours: float = Field(
        120, ge=0, le=168, description="A delivery owed this long is parked; twelve attempts take 76 to 95 hours."
    )
    webhook_excerpt_bytes: int = Field(
        1024, ge=0, le=1024, description="Of a refusing answer's body, this much is kept, escaped. 0: nothing."
    )

    # The desk.
    pg_bin: Path | None = Field(
        None,
        description="bin folder of the PostgreSQL that `todoke dev` runs. Default: the wheel's, then the system's.",
    )

    # Signals.
    notify_channel: str = Field("todoke", pattern=r"^[a-z_][a-z0-9_]{0,39}$", description="LISTEN/NOTIFY channel.")
    notify_mode: Literal["in_transaction", "post_commit", "off"] = Field(
        "in_transaction",
        description=(
            "When changes are announced: as part of each commit, right after it on a connection of its own, "
            "or never (sweeps find them)."
        ),
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port on loopback where worker and notifier show metrics. 0: none."
    )
    otlp_url: str | None = Field(
        None, description="Where traces go by OTLP over HTTP, e.g. http://collector:4318. Default: none are made."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severe line logged.")

    @field_validator(
        "jobs",
        "callback_hosts",
        "callback_networks",
        "callback_denied",
        "callback_ports",
        "cors_origins",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return _words(value)
        return value

    @field_validator("secret_keys")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(len(key) >= SECRET_KEY_LETTERS for key in _words(value.get_secret_value())):
            raise ValueError(f"every key needs {SECRET_KEY_LETTERS} characters or more: openssl rand -base64 32")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _web_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_origin(origin) for origin in value)

    @field_validator("otlp_url")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith(("http://", "https://")) and _host(value)):
            raise ValueError("give the http:// or https:// URL of a collector that speaks OTLP over HTTP")
        return value

    @field_validator("public_url")
    @classmethod
    def _plain_origin(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith(("http://", "https://")) and value.isascii() and _host(value)):
            raise ValueError("give an http:// or https:// URL; spell an international host name in its xn-- form")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "TODOKE_HEARTBEAT_SECONDS must be at most half of TODOKE_LEASE_SECONDS, or a live worker loses its jobs"
            )
        if self.webhook_lease_seconds < self.webhook_timeout_seconds + LEASE_MARGIN_SECONDS_MIN:
            raise ValueError(
                f"TODOKE_WEBHOOK_LEASE_SECONDS must outlast TODOKE_WEBHOOK_TIMEOUT_SECONDS by "
                f"{LEASE_MARGIN_SECONDS_MIN:g}, or one delivery may be sent twice at once"
            )
        if self.desk_mode and self.public_url:
            raise ValueError("desk mode serves this machine only: unset TODOKE_PUBLIC_URL")
        if self.desk_mode and not is_loopback(self.host):
            raise ValueError("desk mode serves this machine only: TODOKE_HOST must be a loopback address")
        if not self.require_keys and not self.desk_mode:
            raise ValueError("TODOKE_REQUIRE_KEYS=false is for `todoke dev` alone: anybody could read every job")
        return self

    @property
    def sealing_keys(self) -> tuple[str, ...]:
        """The keys of TODOKE_SECRET_KEYS: the first seals, all open."""
        return _words(self.secret_keys.get_secret_value()) if self.secret_keys else ()

    @property
    def listen_url(self) -> str:
        """Where LISTEN connects."""
        return (self.listen_database_url or self.database_url).get_secret_value()


def load_settings(**overrides: object) -> Settings:
    """Read the environment, let `overrides` (by field name) win. Raises InvalidInput that names each bad setting."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # A default that follows another setting says nothing when that one is wrong.
        mistakes = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        lines = [f"{_shown_name(item['loc'])}: {item['msg'].removeprefix('Value error, ')}" for item in mistakes]
        raise InvalidInput("\n".join(lines)) from None


def variable_names() -> dict[str, str]:
    """Map each field to the environment variable that sets it."""
    fields = Settings.model_fields.items()
    return {name: str(field.validation_alias or f"TODOKE_{name.upper()}") for name, field in fields}


def unknown_variables() -> list[str]:
    """Variables with our prefix that no setting reads: almost always a misspelling, worth a warning."""
    known = {*variable_names().values(), *OF_COMMANDS}
    return sorted(name for name in os.environ if name.startswith("TODOKE_") and name not in known)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _shown_name(location: tuple[int | str, ...]) -> str:
    if not location:
        return "settings"
    field = str(location[0])
    return variable_names().get(field, field)
