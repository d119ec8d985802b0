"""The filter is run by a small interpreter of classic BPF: both machines are tested on either."""

import errno
import re
import struct
from pathlib import Path

import pytest

from palestra.envs.sandbox import seccomp

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decide(program: bytes, arch: int, number: int, *arguments: int) -> int:
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return int(value)
            case 0x15:
                position += if_true if accumulator == value else if_false
            case 0x35:
                position += if_true if accumulator >= value else if_false
            case 0x45:
                position += if_true if accumulator & value else if_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def verdict(machine: str, name: str, *arguments: int, fork: bool = False) -> int:
    arch, column = MACHINES[machine]
    number = {**seccomp.DENIED, **seccomp.JUDGED}[name][column]
    assert number is not None
    return decide(seccomp.build(machine, fork=fork), arch, number, *arguments)


both = pytest.mark.parametrize("machine", MACHINES)


@both
def test_program_is_within_the_kernels_bounds(machine: str) -> None:
    program = seccomp.build(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096
    assert list(struct.iter_unpack("<HBBI", program))[-1][0] == 0x06


@both
def test_every_denied_call_is_refused_and_common_calls_are_not(machine: str) -> None:
    arch, column = MACHINES[machine]
    program = seccomp.build(machine)
    denied = {numbers[column] for numbers in seccomp.DENIED.values()} - {None}
    judged = {numbers[column] for numbers in seccomp.JUDGED.values()} - {None}
    for number in (number for number in range(450) if not 295 <= number < 424 or number in denied):
        expected = seccomp.REFUSE if number in denied else seccomp.ALLOW
        if number not in judged:
            assert decide(program, arch, number) == expected, number


@both
def test_other_machines_calls_kill(machine: str) -> None:
    program = seccomp.build(machine)
    for arch in (0x40000003, 0x40000028, 0xC00000F3, *(a for m, (a, _) in MACHINES.items() if m != machine)):
        assert decide(program, arch, 0) == seccomp.KILL
    assert decide(program, MACHINES[machine][0], 0x40000000 | 39) == seccomp.KILL


@both
def test_calls_newer_than_the_list_do_not_exist(machine: str) -> None:
    for number in (450, 462, 600, 0x3FFFFFFF):
        assert decide(seccomp.build(machine), MACHINES[machine][0], number) == 0x00050000 | errno.ENOSYS


@both
def test_calls_in_the_gap_before_the_shared_numbers_do_not_exist(machine: str) -> None:
    for number in range(335 if machine == "x86_64" else 295, 403):
        assert decide(seccomp.build(machine), MACHINES[machine][0], number) == 0x00050000 | errno.ENOSYS


@both
@pytest.mark.parametrize("fork", [False, True])
def test_namespaces_are_refused_with_and_without_fork(machine: str, fork: bool) -> None:
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        for others in (17, 0x10000, 0x3D0F00):
            assert verdict(machine, "clone", flag | others, fork=fork) == seccomp.REFUSE
    assert verdict(machine, "clone3", fork=fork) == seccomp.ABSENT


@both
def test_threads_always_and_processes_only_on_request(machine: str) -> None:
    thread, process, spawn = 0x3D0F00, 0x01200011, 0x4111
    assert verdict(machine, "clone", thread) == seccomp.ALLOW
    assert verdict(machine, "clone", process) == seccomp.REFUSE
    assert verdict(machine, "clone", spawn) == seccomp.REFUSE
    assert verdict(machine, "clone", process, fork=True) == seccomp.ALLOW
    assert verdict(machine, "clone", 1 << 32 | 17) == seccomp.REFUSE  # high bits hide nothing


def test_old_fork_calls_follow_the_same_switch() -> None:
    for name in ("fork", "vfork"):
        assert verdict("x86_64", name) == seccomp.REFUSE
        assert verdict("x86_64", name, fork=True) == seccomp.ALLOW


@both
def test_only_pairs_of_local_streams_are_left_of_sockets(machine: str) -> None:
    def allowed(call: str) -> set[tuple[int, int]]:
        kinds = [(family, kind) for family in range(64) for kind in range(16)]
        return {(f, k) for f, k in kinds if verdict(machine, call, f, k) == seccomp.ALLOW}

    assert allowed("socketpair") == {(1, 1)}
    assert verdict(machine, "socketpair", 1, 1 | 0o4000 | 0o2000000) == seccomp.ALLOW  # SOCK_NONBLOCK, SOCK_CLOEXEC
    assert verdict(machine, "socketpair", 1, 2 | 0o2000000) == seccomp.REFUSE
    assert verdict(machine, "socketpair", 1 << 32 | 2, 1) == seccomp.REFUSE
    for call in ("socket", "bind", "connect", "listen", "accept", "accept4"):
        assert verdict(machine, call, 1, 1) == seccomp.REFUSE


@both
def test_some_options_are_refused(machine: str) -> None:
    refused = {option for option in range(64) if verdict(machine, "prctl", option) == seccomp.REFUSE}
    assert refused == {1, 22}
    assert verdict(machine, "prctl", 1 << 32 | 22) == seccomp.REFUSE
    assert verdict(machine, "ioctl", 0, 0x5412) == seccomp.REFUSE
    assert verdict(machine, "ioctl", 0, 1 << 32 | 0x541C) == seccomp.REFUSE
    assert verdict(machine, "ioctl", 0, 0x5401) == seccomp.ALLOW
    assert verdict(machine, "fcntl", 3, 1024) == verdict(machine, "fcntl", 3, 1026) == seccomp.REFUSE
    assert verdict(machine, "fcntl", 3, 1) == seccomp.ALLOW


@both
def test_socket_buffers_keep_their_size(machine: str) -> None:
    refused = {option for option in range(64) if verdict(machine, "setsockopt", 3, 1, option) == seccomp.REFUSE}
    assert refused == {7, 8}
    assert verdict(machine, "setsockopt", 3, 6, 7) == seccomp.ALLOW


@both
@pytest.mark.parametrize(
    "call", ["prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"]
)
def test_limits_and_scheduling_are_changed_of_oneself_only(machine: str, call: str) -> None:
    assert verdict(machine, call, 0, 7) == seccomp.ALLOW
    assert verdict(machine, call, 1, 7) == seccomp.REFUSE
    assert verdict(machine, call, 2**32 - 1, 7) == seccomp.REFUSE


@both
def test_priority_is_changed_of_oneself_only(machine: str) -> None:
    assert verdict(machine, "setpriority", 0, 0) == seccomp.ALLOW
    for which, who in ((0, 1), (1, 0), (2, 0), (0, 2**32 - 1)):
        assert verdict(machine, "setpriority", which, who) == seccomp.REFUSE


@both
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    text = header.read_text(encoding="utf-8")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    column = MACHINES[machine][1]
    for name, pair in {**seccomp.DENIED, **seccomp.JUDGED}.items():
        assert pair[column] == numbers.get(name), name


def test_unknown_machine_is_not_supported() -> None:
    assert not seccomp.supported("riscv64")
    assert seccomp.supported("aarch64")
