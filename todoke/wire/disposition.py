"""What a download is called, as bytes on the wire say it."""

import unicodedata
from urllib.parse import quote


def disposition(filename: str, *, inline: bool) -> str:
    """A Content-Disposition (RFC 6266): an ASCII name every client reads, and the true one where they differ."""
    kind = "inline" if inline else "attachment"
    visible = "".join(letter for letter in filename if unicodedata.category(letter)[0] != "C") or "result"
    plain = "".join(letter if letter.isascii() and letter not in '"\\/%;' else "_" for letter in visible)
    header = f'{kind}; filename="{plain}"'
    return header if plain == visible else f"{header}; filename*=UTF-8''{quote(visible, safe='')}"
