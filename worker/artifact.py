"""What may be said of an artifact: checked where job code says it, and again where the supervisor hears it."""

import re

NAME_CHARACTERS_MAX = 200
ARTIFACTS_MAX = 100
RESULT_NAME = "result.json"

MEDIA_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_artifact(name: str, media_type: str) -> None:
    """Raises ValueError for a name or media type that cannot be kept."""
    if not name.strip() or name in (".", "..") or len(name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"artifact name {str(name)[:80]!r}: give 1 to {NAME_CHARACTERS_MAX} characters")
    if "/" in name or "\\" in name or CONTROL.search(name):
        raise ValueError(f"artifact name {name!r}: no slash, backslash or control character")
    if not MEDIA_TYPE.fullmatch(media_type):
        raise ValueError(f"artifact {name!r}: {media_type!r} is no media type")
