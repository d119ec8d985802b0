"""Frames between host and runner: whatever happens to the bytes, nothing is taken that was not sent there."""

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palestra.envs.sandbox.inside import wire
from palestra.envs.sandbox.inside.wire import (
    KEY_BYTES,
    MAX_FRAME,
    TO_HOST,
    TO_RUNNER,
    Decoder,
    Encoder,
    Message,
    WireError,
)

KEY, OTHER_KEY = bytes(range(KEY_BYTES)), bytes(KEY_BYTES)
COUNTED = {"frames": 0}


def frames(key: bytes, direction: bytes, messages: list[Message]) -> list[bytes]:
    encoder = Encoder(key, direction)
    return [encoder.encode(*message) for message in messages]


def feed(decoder: Decoder, stream: bytes, cuts: random.Random) -> tuple[list[Message], bool]:
    """Feed a stream in pieces of random sizes; returns what was taken, and whether the stream was refused."""
    taken: list[Message] = []
    at = 0
    while at < len(stream):
        size = cuts.choice((1, 3, 20, 24, 100, 4096, 65536))
        try:
            taken += decoder.feed(stream[at : at + size])
        except WireError:
            return taken, True
        at += size
    return taken, False


def flip(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent))
    frame = bytearray(sent[at])
    frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
    return [*sent[:at], bytes(frame), *sent[at + 1 :]]


def leave_out(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent))
    return sent[:at] + sent[at + 1 :]


def repeat(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at, to = dice.randrange(len(sent)), dice.randrange(len(sent) + 1)
    return [*sent[:to], sent[at], *sent[to:]]


def swap(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    one, two = dice.randrange(len(sent)), dice.randrange(len(sent))
    mixed = list(sent)
    mixed[one], mixed[two] = mixed[two], mixed[one]
    return mixed


def splice(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent) + 1)
    return [*sent[:at], dice.choice(other), *sent[at:]]


def insert(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent) + 1)
    return [*sent[:at], dice.randbytes(dice.choice((1, 4, 20, 28, 200))), *sent[at:]]


def cut_out(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    stream = b"".join(sent)
    start = dice.randrange(len(stream) + 1)
    return [stream[:start], stream[start + dice.randrange(1, 100) :]]


def truncate(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    stream = b"".join(sent)
    return [stream[: dice.randrange(len(stream) + 1)]]


def claim(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent))
    return [*sent[:at], dice.randbytes(4) + sent[at][4:], *sent[at + 1 :]]


def resize(dice: random.Random, sent: list[bytes], other: list[bytes]) -> list[bytes]:
    at = dice.randrange(len(sent))
    frame = sent[at] + dice.randbytes(dice.randrange(1, 9))
    return [*sent[:at], max(0, len(frame) - 20).to_bytes(4, "big") + frame[4:], *sent[at + 1 :]]


MUTATIONS = (flip, leave_out, repeat, swap, splice, insert, cut_out, truncate, claim, resize)


def check_stream(seed: int) -> None:
    """Harm a stream in random ways; what is taken is a beginning of what was sent."""
    dice = random.Random(seed)
    sent = [
        Message(
            dice.choice((0, 1, n, 2**32 - 1)),
            {"op": "x" * dice.randrange(5), "n": n},
            dice.randbytes(dice.randrange(60)),
        )
        for n in range(dice.randrange(1, 8))
    ]
    original = frames(KEY, TO_HOST, sent)
    other = [*frames(KEY, TO_RUNNER, sent), *frames(OTHER_KEY, TO_HOST, sent), *original]
    harmed = original
    for _ in range(dice.randrange(0, 4)):
        harmed = [frame for frame in dice.choice(MUTATIONS)(dice, harmed, other) if frame] or [b"\0"]
    stream = b"".join(harmed)
    COUNTED["frames"] += len(harmed)
    decoder = Decoder(KEY, TO_HOST)
    taken, refused = feed(decoder, stream, dice)
    assert taken == sent[: len(taken)]
    if stream == b"".join(original):
        assert taken == sent
        assert not refused
    if refused:
        with pytest.raises(WireError, match="before"):
            decoder.feed(b"".join(original))


def check_noise(data: bytes) -> None:
    COUNTED["frames"] += 1
    taken, _ = feed(Decoder(KEY, TO_HOST), data, random.Random(len(data)))
    assert taken == []


ANY_SEED = st.integers(0, 2**62)
NOISE = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.integers(0, 300), st.binary(max_size=300)).map(lambda pair: pair[0].to_bytes(4, "big") + pair[1]),
)
often = settings(max_examples=30_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(deadline=None)
@given(ANY_SEED)
def test_only_what_was_sent_is_taken_from_a_harmed_stream(seed: int) -> None:
    check_stream(seed)


@settings(deadline=None)
@given(NOISE)
def test_nothing_is_taken_from_noise(data: bytes) -> None:
    check_noise(data)


@pytest.mark.slow
def test_100_000_frames_hold_no_forgery() -> None:
    COUNTED["frames"] = 0
    often(given(NOISE)(check_noise))()
    often(given(ANY_SEED)(check_stream))()
    assert COUNTED["frames"] >= 100_000


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.dictionaries(st.text(), JSON, max_size=3), st.binary())))
def test_messages_come_out_as_they_went_in(sent: list[tuple[int, dict[str, Any], bytes]]) -> None:
    encoder, decoder = Encoder(KEY, TO_RUNNER), Decoder(KEY, TO_RUNNER)
    stream = b"".join(encoder.encode(*message) for message in sent)
    taken, refused = feed(decoder, stream, random.Random(0))
    assert (taken, refused) == ([Message(*message) for message in sent], False)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"1", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"{} {}", b'{"a":1e999999}x'],
    ids=lambda text: repr(text[:12]),
)
def test_a_header_that_is_no_object_is_refused_also_from_who_has_the_key(text: bytes) -> None:
    with pytest.raises(WireError):
        Decoder(KEY, TO_HOST).feed(forged(text))


def forged(text: bytes) -> bytes:
    """A frame by someone who has the key, with any header."""
    content = (1).to_bytes(4, "big") + len(text).to_bytes(4, "big") + text
    return len(content).to_bytes(4, "big") + wire._tag(KEY, TO_HOST, 0, content) + content


def test_memory_is_taken_for_what_came_not_for_what_was_claimed() -> None:
    decoder = Decoder(KEY, TO_HOST)
    tracemalloc.start()
    try:
        decoder.feed(MAX_FRAME.to_bytes(4, "big") + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [0, 7, MAX_FRAME + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_at_once(length: int) -> None:
    with pytest.raises(WireError):
        Decoder(KEY, TO_HOST).feed(length.to_bytes(4, "big"))


def test_a_frame_that_is_too_long_is_not_made() -> None:
    encoder = Encoder(KEY, TO_HOST)
    with pytest.raises(ValueError, match="too long"):
        encoder.encode(1, {}, bytes(MAX_FRAME))
    assert Decoder(KEY, TO_HOST).feed(encoder.encode(1, {}, b"x")) == [Message(1, {}, b"x")]
