"""Linux namespaces, capabilities and seccomp by way of libc: what a child gives up before it runs anything.

Every function raises `OSError` where the kernel refuses, but for `hold_program` and `use_huge_pages`, which do what it
allows.
"""

import ctypes
import os
import struct
from dataclasses import dataclass

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_RELATIME = 32, 4096, 1 << 21
_KEPT = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
"""Flags of a mount that have the same value in statvfs(3), and that a remount must repeat."""
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CAP_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, of this process
_LAST_CAP = 63

_HUGE_PAGE = 2 * 1024 * 1024
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE, _MADV_COLLAPSE = 14, 23, 25
_PROT = {"r": 1, "w": 2, "x": 4}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.madvise.argtypes = _libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, *arguments: int) -> None:
    _check(_libc.prctl(option, *arguments, *(0,) * (4 - len(arguments))), f"prctl({option})")


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` (`NEWNS` and so on) for new ones."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def enter_pid_namespace(descriptor: int) -> None:
    """Have later children made in the pid namespace of `descriptor`."""
    _check(_libc.setns(descriptor, NEWPID), "setns")


def mount_tmpfs(target: str, options: str, *, read_only: bool = False) -> None:
    """Mount an empty file system in memory.

    Args:
        target: Where.
        options: Of tmpfs, such as `size=64m,nr_inodes=4096,mode=1777`.
        read_only: Whether it stays empty.
    """
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY | _MS_NOEXEC if read_only else 0)
    _check(_libc.mount(b"tmpfs", target.encode(), b"tmpfs", flags, options.encode()), f"mount {target}")


def remount_read_only(target: str) -> None:
    """Make a mount read-only. A device stays as writable as it is, but its node keeps its times and mode."""
    has = os.statvfs(target).f_flag
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | has & _KEPT | (_MS_RELATIME if has & os.ST_RELATIME else 0)
    _check(_libc.mount(None, target.encode(), None, flags, None), f"remount {target}")


def own_user_namespace(proc_self: int) -> None:
    """Move into a user namespace of one's own, as the same user, so that NPROC counts nobody else's tasks.

    Args:
        proc_self: Descriptor of /proc/self, which may be hidden by now.
    """
    user, group = os.getuid(), os.getgid()
    unshare(NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        descriptor = os.open(name, os.O_WRONLY, dir_fd=proc_self)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)


def set_file_identity(user: int, group: int) -> None:
    """Act on files as somebody else, in the calling thread only; needs to be root."""
    _libc.setfsgid(group)
    _libc.setfsuid(user)


def set_dumpable(value: bool) -> None:
    """Allow or forbid processes of the same user to look into this one."""
    _prctl(_PR_SET_DUMPABLE, int(value))


def drop_capabilities() -> None:
    """Empty all capability sets, and rule out that an executed file brings some back."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_LAST_CAP + 1):
        # EINVAL: the kernel knows fewer capabilities; EPERM: there is no CAP_SETPCAP, hence none to drop.
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _check(_libc.capset(_CAP_HEADER, bytes(24)), "capset")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


@dataclass(frozen=True)
class _Area:
    """A line of /proc/self/maps."""

    start: int
    end: int
    rights: str
    name: str
    """The path of its file, or such as `[heap]`, or nothing."""


def _areas() -> list[_Area]:
    areas = []
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            addresses, rights, _, _, _, *name = line.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            areas.append(_Area(start, end, rights, name[0] if name else ""))
    return areas


def hold_program() -> bool:
    """Copy the program and its libraries out of the files that they are mapped from; forks share the copies.

    The kernel drops pages of files where memory is short, and reads them again when they are needed. In a control
    group full of what cannot be dropped, a program then does nothing else for minutes, and since there is progress,
    nobody is killed for memory. Copies are not dropped, unless there is swap.

    Returns:
        Whether all was copied; Linux can do it from 5.14 on.
    """
    held = True
    for area in _areas():
        if area.name.startswith("/") and area.rights[0] == "r" and area.rights[3] == "p":
            length, rights = area.end - area.start, sum(_PROT.get(letter, 0) for letter in area.rights)
            held &= _libc.mprotect(area.start, length, rights | _PROT["w"]) == 0
            held &= _libc.madvise(area.start, length, _MADV_POPULATE_WRITE) == 0
            held &= _libc.mprotect(area.start, length, rights) == 0
    return held


def use_huge_pages() -> None:
    """Put the heap on huge pages: forking copies a table entry for every page, and these are 512 times fewer.

    Nothing happens where the kernel has none or does not collapse pages on request (before 6.1).
    """
    for area in _areas():
        if area.rights == "rw-p" and area.name in ("", "[heap]"):
            start = -(-area.start // _HUGE_PAGE) * _HUGE_PAGE
            length = area.end // _HUGE_PAGE * _HUGE_PAGE - start
            if length > 0:
                for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                    _libc.madvise(start, length, advice)


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, an array of `struct sock_filter`, for good."""
    holder = _Program(len(program) // 8, program)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(holder))
