"""What the three processes find in their environment when `todoke dev` starts them."""

from collections.abc import Mapping
from pathlib import Path

from todoke.dev import aws
from todoke.dev.leftovers import MARK
from todoke.dev.ports import LOOPBACK
from todoke.dev.state import Secrets
from todoke.model.errors import Refused
from todoke.model.loopback import is_loopback

# They would lead the processes away from the parts started here.
REPLACED = frozenset(
    {"DATABASE_URL", "SQS_QUEUE_URL", "TODOKE_DLQ_URL", "TODOKE_LISTEN_DATABASE_URL", "TODOKE_LISTEN_FD"}
)


def refuse_open_doors(environment: Mapping[str, str]) -> None:
    """Raises Refused when the caller wants a desk that others can reach."""
    host = environment.get("TODOKE_HOST", "")
    if host and not is_loopback(host):
        raise Refused(
            f"todoke dev serves this machine only: unset TODOKE_HOST ({host}),"
            " or start `todoke api` with your own database and queue"
        )
    if environment.get("TODOKE_PUBLIC_URL"):
        raise Refused("todoke dev serves this machine only: unset TODOKE_PUBLIC_URL")


def child_environment(
    caller: Mapping[str, str],
    *,
    state: Path,
    port: int,
    database_url: str,
    aws_url: str,
    places: aws.Places,
    secrets: Secrets,
    require_keys: bool,
) -> dict[str, str]:
    """The caller's variables, every TODOKE_ one included, under those of the stack."""
    kept = {name: value for name, value in caller.items() if name not in REPLACED and not name.startswith("AWS_")}
    return kept | {
        "DATABASE_URL": database_url,
        "SQS_QUEUE_URL": places.queue_url,
        "TODOKE_DLQ_URL": places.dead_letter_url,
        "AWS_REGION": aws.REGION,
        "AWS_DEFAULT_REGION": aws.REGION,
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": aws.KEY_ID,
        "AWS_SECRET_ACCESS_KEY": aws.SECRET,
        "TODOKE_S3_BUCKET": places.bucket,
        "TODOKE_SIGNING_SECRET": caller.get("TODOKE_SIGNING_SECRET") or secrets.signing_secret,
        "TODOKE_SECRET_KEYS": caller.get("TODOKE_SECRET_KEYS") or secrets.secret_keys,
        "TODOKE_DESK_MODE": "true",
        "TODOKE_REQUIRE_KEYS": str(require_keys).lower(),
        "TODOKE_HOST": LOOPBACK,
        "TODOKE_PORT": str(port),
        # A company's proxy must not be asked for what runs on this machine.
        **{name: _without_proxy(caller.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
        "PYTHONUNBUFFERED": "1",
        MARK: str(state),
    }


def _without_proxy(hosts: str) -> str:
    return ",".join(part for part in (hosts, LOOPBACK, "localhost") if part)
