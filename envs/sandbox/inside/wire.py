"""Frames between the host and a runner in a container: length, MAC, number, JSON header, body.

Sans-IO: an `Encoder` turns messages into bytes, a `Decoder` bytes into messages. Every frame carries a keyed
BLAKE2b tag over its direction, its position in the stream and its content, so that a frame that was altered,
repeated, left out, reordered, sent back or made up by anyone without the key is refused, and with it the rest
of the stream.
"""

import hmac
import json
from hashlib import blake2b
from typing import Any, NamedTuple

KEY_BYTES = 32
MAX_FRAME = 48 * 1024 * 1024
TO_RUNNER, TO_HOST = b"r", b"h"
_TAG_BYTES = 16
_PREFIX = 4 + _TAG_BYTES
_FIXED = 8


class WireError(Exception):
    """The stream holds something that the peer cannot have sent; nothing after it can be trusted."""


class Message(NamedTuple):
    """One frame's content."""

    number: int
    """The request that it belongs to, 0 to 2**32 - 1."""
    header: dict[str, Any]
    body: bytes


class Encoder:
    """Makes frames of one direction."""

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._key = key
        self._direction = direction
        self._position = 0

    def encode(self, number: int, header: dict[str, Any], body: bytes = b"") -> bytes:
        """Return the next frame.

        Raises:
            ValueError: The frame would be longer than `MAX_FRAME`.
        """
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        content = b"".join((number.to_bytes(4, "big"), len(text).to_bytes(4, "big"), text, body))
        if len(content) > MAX_FRAME:
            raise ValueError(f"a frame of {len(content)} bytes is too long")
        tag = _tag(self._key, self._direction, self._position, content)
        self._position += 1
        return b"".join((len(content).to_bytes(4, "big"), tag, content))


class Decoder:
    """Reads frames of one direction; after a `WireError` it refuses everything."""

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._key = key
        self._direction = direction
        self._position = 0
        self._buffer = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[Message]:
        """Take received bytes and return the messages that are complete now.

        Raises:
            WireError: The bytes are not what the peer sent; messages before the fault are lost too.
        """
        if self._broken:
            raise WireError("the stream was broken before")
        self._buffer += data
        messages = []
        try:
            while (message := self._next()) is not None:
                messages.append(message)
        except WireError:
            self._broken = True
            self._buffer.clear()
            raise
        return messages

    def _next(self) -> Message | None:
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if not _FIXED <= length <= MAX_FRAME:
            raise WireError(f"a frame of {length} bytes")
        if len(self._buffer) < _PREFIX + length:
            return None
        tag = bytes(self._buffer[4:_PREFIX])
        content = bytes(self._buffer[_PREFIX : _PREFIX + length])
        if not hmac.compare_digest(tag, _tag(self._key, self._direction, self._position, content)):
            raise WireError("a frame with a wrong tag")
        del self._buffer[: _PREFIX + length]
        self._position += 1
        end = _FIXED + int.from_bytes(content[4:_FIXED], "big")
        try:
            header = json.loads(content[_FIXED:end])
        except (ValueError, RecursionError) as error:
            raise WireError("a frame whose header is no JSON") from error
        if end > length or not isinstance(header, dict):
            raise WireError("a frame whose header is no object")
        return Message(int.from_bytes(content[:4], "big"), header, content[end:])


def _tag(key: bytes, direction: bytes, position: int, content: bytes) -> bytes:
    digest = blake2b(key=key, digest_size=_TAG_BYTES)
    digest.update(direction + position.to_bytes(8, "big"))
    digest.update(content)
    return digest.digest()
