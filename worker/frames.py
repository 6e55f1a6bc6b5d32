"""What supervisor and child say to each other: JSON objects, each behind its length in four bytes."""

import asyncio
import json
import os
import struct
from typing import Any

FRAME_BYTES_MAX = 128 * 2**20

Frame = dict[str, Any]

LENGTH = struct.Struct(">I")


class BrokenFrame(Exception):
    """The other side did not keep to the protocol."""


def encode(frame: Frame) -> bytes:
    """One frame as bytes."""
    # Escapes keep lone surrogates harmless.
    payload = json.dumps(frame, separators=(",", ":")).encode()
    if len(payload) > FRAME_BYTES_MAX:
        raise BrokenFrame(f"a frame of {len(payload)} bytes")
    return LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Frame:
    """The frame in these bytes. Raises BrokenFrame."""
    try:
        frame = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BrokenFrame(f"{type(error).__name__}: {error}"[:200]) from error
    if not isinstance(frame, dict):
        raise BrokenFrame("not an object")
    return frame


async def receive(reader: asyncio.StreamReader, bytes_max: int) -> Frame | None:
    """The next frame, or None when the other side has closed. Raises BrokenFrame, also for one that is too large."""
    try:
        length = _checked(await reader.readexactly(LENGTH.size), bytes_max)
        return decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read(descriptor: int) -> Frame | None:
    """The next frame of a blocking pipe, or None at its end."""
    head = _read_exactly(descriptor, LENGTH.size)
    payload = _read_exactly(descriptor, _checked(head)) if head else None
    return decode(payload) if payload is not None else None


def write(descriptor: int, frame: Frame) -> None:
    """Write a frame to a blocking pipe, whole."""
    rest = memoryview(encode(frame))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _checked(head: bytes, bytes_max: int = FRAME_BYTES_MAX) -> int:
    length: int = LENGTH.unpack(head)[0]
    if length > bytes_max:
        raise BrokenFrame(f"a frame of {length} bytes")
    return length


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
