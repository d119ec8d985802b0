"""Small packets: readers take exactly what the writers make, and refuse everything else with `PacketError`."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palestra.envs.sandbox.inside import packets
from palestra.envs.sandbox.inside.packets import Exited, Failed, Forked, PacketError, Ready, Task

NUMBERS = st.integers(0, 2**32 - 1)


@given(
    NUMBERS,
    st.sampled_from([0, 1 << 8, 255 << 8, 9, 11, 64, 139]),
    st.integers(0, 2**64 - 1),
    st.text(max_size=800),
    st.booleans(),
)
def test_what_is_written_is_read(number: int, status: int, cpu: int, text: str, session: bool) -> None:
    said = text.encode("utf-8", "replace")[:500].decode("utf-8", "replace")
    assert packets.read_fork(packets.fork(number)) == number
    assert packets.read_zygote(packets.forked(number)) == Forked(number)
    assert packets.read_zygote(packets.exited(number, status, cpu)) == Exited(number, status, cpu)
    assert packets.read_zygote(packets.failed(number, text)) == Failed(number, said)
    assert packets.read_zygote(packets.ready('{"a": 1}')) == Ready('{"a": 1}')
    assert packets.read_task(packets.task(session, number, cpu % 2**32)) == Task(session, number, cpu % 2**32)
    assert packets.read_hardened(packets.HARDENED) is None
    assert packets.read_hardened(packets.unprepared(text)) == said
    assert packets.read_cell_done(packets.cell_done(number, "memory"), number) == "memory"
    assert packets.read_note(packets.note(number % 256)) == number % 256


@given(st.binary(max_size=40))
@example(b"")
@example(b"D\0\0\0\1o")
@example(b"X\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0")
def test_no_bytes_bring_a_reader_down(data: bytes) -> None:
    for read in (
        packets.read_fork,
        packets.read_zygote,
        packets.read_task,
        packets.read_hardened,
        lambda packet: packets.read_cell_done(packet, 1),
    ):
        with contextlib.suppress(PacketError):
            read(data)


@given(st.binary(max_size=8), NUMBERS)
def test_the_end_of_a_cell_is_told_by_its_own_packet_only(data: bytes, number: int) -> None:
    honest = {packets.cell_done(number, status) for status in ("ok", "error", "memory")}
    if data not in honest:
        with pytest.raises(PacketError):
            packets.read_cell_done(data, number)


@given(st.text(max_size=6) | st.integers(-300, 2000).map(str) | st.text("0123456789\u0661\uff11 +-_.\n", max_size=4))
@example("256")
@example("00")
@example("1\n")
@example("\udcff")
def test_a_note_is_an_exit_code_and_nothing_else(target: str) -> None:
    if target in {str(code) for code in range(256)}:
        assert packets.note(packets.read_note(target)) == target
        return
    with pytest.raises(PacketError):
        packets.read_note(target)


@given(NUMBERS, NUMBERS)
def test_the_end_of_another_cell_is_refused(told: int, expected: int) -> None:
    packet = packets.cell_done(told, "ok")
    if told == expected:
        assert packets.read_cell_done(packet, expected) == "ok"
        return
    with pytest.raises(PacketError):
        packets.read_cell_done(packet, expected)


def test_every_packet_fits_into_the_largest() -> None:
    assert len(packets.failed(1, "x" * 10_000)) <= packets.MAX_PACKET
    assert len(packets.unprepared("ä" * 10_000)) <= packets.MAX_PACKET
