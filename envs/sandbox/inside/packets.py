"""Small fixed packets between supervisor, zygote and child, over Unix sockets that keep message boundaries.

A child may send anything, since model code runs in it: what is not exactly a packet that fits the moment is
a `PacketError`, which ends that child and nobody else. Nothing here allocates by what a packet claims.
"""

import os
import re
import struct
from typing import Literal, NamedTuple

MAX_PACKET = 4096


class PacketError(Exception):
    """Something that is no packet, or not the one that fits."""


# Zygote: the supervisor asks for a child, the zygote tells its process descriptor, and how it ended.

_FORK = struct.Struct(">cI")
_EXIT = struct.Struct(">cIiQ")


def fork(child: int) -> bytes:
    """Ask for a child; descriptors go along: its socket, stdout, stderr, then its control groups."""
    return _FORK.pack(b"F", child)


def read_fork(packet: bytes) -> int:
    """Return the number of the child that is asked for.

    Raises:
        PacketError: It is not such a packet.
    """
    if len(packet) != _FORK.size or packet[:1] != b"F":
        raise PacketError("the zygote was sent something else than a request to fork")
    return int(_FORK.unpack(packet)[1])


class Forked(NamedTuple):
    """A child runs; its pidfd comes along."""

    child: int


class Exited(NamedTuple):
    """A child ended."""

    child: int
    status: int
    """As `os.waitpid` gives it."""
    cpu_us: int


class Failed(NamedTuple):
    """A child could not be made."""

    child: int
    reason: str


class Ready(NamedTuple):
    """The zygote can fork."""

    facts: str
    """JSON that describes it."""


def forked(child: int) -> bytes:
    """Tell that a child runs; its pidfd goes along."""
    return _FORK.pack(b"P", child)


def exited(child: int, status: int, cpu_us: int) -> bytes:
    """Tell how a child ended."""
    return _EXIT.pack(b"X", child, status, cpu_us)


def failed(child: int, reason: str) -> bytes:
    """Tell why a child could not be made."""
    return _FORK.pack(b"E", child) + reason.encode("utf-8", "replace")[:500]


def ready(facts: str) -> bytes:
    """Tell that forking can begin."""
    return b"Z" + facts.encode("ascii")


def read_zygote(packet: bytes) -> Forked | Exited | Failed | Ready:
    """Read what a zygote sent.

    Raises:
        PacketError: No zygote sends that.
    """
    kind = packet[:1]
    if kind == b"P" and len(packet) == _FORK.size:
        return Forked(_FORK.unpack(packet)[1])
    if kind == b"X" and len(packet) == _EXIT.size:
        told = Exited(*_EXIT.unpack(packet)[1:])
        if os.WIFEXITED(told.status) or os.WIFSIGNALED(told.status):
            return told
    if kind == b"E" and len(packet) >= _FORK.size:
        return Failed(_FORK.unpack_from(packet)[1], packet[_FORK.size :].decode("utf-8", "replace"))
    if kind == b"Z":
        return Ready(packet[1:].decode("utf-8", "replace"))
    raise PacketError("the zygote sent something that is no packet")


# Child: it announces itself, is told what to run, and in a session tells the end of each cell.

_TASK = struct.Struct(">cII")
_DONE = struct.Struct(">cIc")
_VERDICTS = {b"o": "ok", b"e": "error", b"m": "memory"}
CellStatus = Literal["ok", "error", "memory"]


class Task(NamedTuple):
    """What a child is to do; descriptors of the code and of standard input come along."""

    session: bool
    """Whether it is a cell, after which another one may come."""
    number: int
    cpu_s: int
    """Processor time allowed, in seconds; a backstop of the clock outside."""


def task(session: bool, number: int, cpu_s: int) -> bytes:
    """Tell a child what to do; descriptors of the code and of standard input go along."""
    return _TASK.pack(b"C" if session else b"1", number, cpu_s)


def read_task(packet: bytes) -> Task:
    """Read what the supervisor sent to a child.

    Raises:
        PacketError: It is not a task.
    """
    if len(packet) != _TASK.size or packet[:1] not in (b"C", b"1"):
        raise PacketError("a child was sent something else than a task")
    kind, number, cpu_s = _TASK.unpack(packet)
    return Task(kind == b"C", number, cpu_s)


FOLDER = b"W"
"""A child has a working folder; its descriptor goes along."""
HARDENED = b"R"
"""A child is confined and waits."""


def unprepared(reason: str) -> bytes:
    """Tell why a child could not be confined; it runs nothing."""
    return b"!" + reason.encode("utf-8", "replace")[:500]


def read_hardened(packet: bytes) -> str | None:
    """Read a child's packet about itself: None if it is confined, else the reason why it is not.

    Raises:
        PacketError: It is neither.
    """
    if packet == HARDENED:
        return None
    if packet[:1] == b"!":
        return packet[1:].decode("utf-8", "replace")
    raise PacketError("a child announced itself with something that is no packet")


NOTE = ".palestra-exit"
"""A link that a program's process leaves in its folder at its end: it has no descriptor to send a packet by."""
_NOTE = re.compile(r"0|[1-9][0-9]{0,2}")


def note(exit_code: int) -> str:
    """Tell the exit code of a program, before the process ends; what the link `NOTE` points to."""
    return str(exit_code)


def read_note(target: str) -> int:
    """Read what the link `NOTE` points to: an exit code from 0 to 255.

    Raises:
        PacketError: It is none.
    """
    if _NOTE.fullmatch(target) is None or int(target) > 255:
        raise PacketError("a child left something that is no exit code")
    return int(target)


def cell_done(number: int, status: CellStatus) -> bytes:
    """Tell that a cell has ended."""
    return _DONE.pack(b"D", number, status[0].encode("ascii"))


def read_cell_done(packet: bytes, number: int) -> CellStatus:
    """Read the end of the cell `number`.

    Raises:
        PacketError: It is not the end of that cell.
    """
    if len(packet) == _DONE.size:
        kind, told, verdict = _DONE.unpack(packet)
        if kind == b"D" and told == number and verdict in _VERDICTS:
            return _VERDICTS[verdict]  # type: ignore[return-value]
    raise PacketError("a cell ended with something that is no packet")
