"""A seccomp filter, assembled by hand: the system calls that code in a sandbox has no business making.

It is a deny-list for x86-64 and aarch64 (`man 2 seccomp`; numbers from the kernel's `asm/unistd_64.h` and
`asm-generic/unistd.h`). Namespaces and an unprivileged user already confine the code; the filter takes away
kernel interfaces that have been ways around them. There are no sockets but pairs of streams: executions share a
network namespace, in which they could find each other. Invariants: a call through another ABI (32-bit, x32) kills
the process; a call newer than this list does not exist (ENOSYS); what cannot be judged by its registers
(`clone3` keeps its flags behind a pointer) does not exist either.
"""

import errno
import platform
import struct

_ARCHES = {"x86_64": (0xC000003E, 0, 335), "aarch64": (0xC00000B7, 1, 295)}
"""Machine -> (AUDIT_ARCH_*, column in the tables below, first number of a gap up to 423 that new calls fill)."""
_AFTER_GAP = 424

_FIRST_UNKNOWN = 450
"""Calls from this number on, which both machines share, are refused: nobody has judged them."""
_X32_BIT = 0x40000000

# Numbers on (x86-64, aarch64); None where the machine lacks the call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # file systems and roots
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    # namespaces
    "unshare": (272, 97),
    "setns": (308, 268),
    # any network, also the one that executions in one network namespace would share
    "socket": (41, 198),
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # descriptors on their way are counted by user, and other executions are of the same user
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    # files that other executions and the host have open, too
    "flock": (73, 32),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    # what is counted for a user, or waits for the whole machine's disks
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "sync": (162, 81),
    "syncfs": (306, 267),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "ioprio_set": (251, 30),
    "pidfd_getfd": (438, 438),
    # wide kernel interfaces
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "seccomp": (317, 277),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "sysfs": (139, None),
    # the machine as a whole
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    # memory that RLIMIT_AS does not count, or that cannot be swapped or moved
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "mlockall": (151, 230),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
JUDGED: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "socketpair": (53, 199),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "setsockopt": (54, 208),
    "fcntl": (72, 25),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
}
"""Calls that are refused or allowed by their arguments, by `fork`, or with another error."""

_NEW_NAMESPACE = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_CLONE_PARENT = 0x00008000  # makes a child of the process that forked us
_CLONE_THREAD = 0x00010000
_AF_UNIX, _SOCK_STREAM, _OTHER_TYPES = 1, 1, 0xE
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP = 1, 22
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SOL_SOCKET, _SO_SNDBUF, _SO_RCVBUF = 1, 7, 8

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
KILL = 0x80000000
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
ABSENT = 0x00050000 | errno.ENOSYS

_Instruction = tuple[int, int, int, int]


def supported(machine: str | None = None) -> bool:
    """Whether a filter can be built for a machine (as `platform.machine()` names it; default: this one)."""
    return (machine or platform.machine()) in _ARCHES


def build(machine: str | None = None, *, fork: bool = False) -> bytes:
    """Assemble the filter as an array of `struct sock_filter`.

    Args:
        machine: `"x86_64"` or `"aarch64"`; default: this machine.
        fork: Whether new processes are allowed. Threads always are.

    Raises:
        KeyError: The machine is not one of the two; ask `supported` first.
    """
    arch, column, gap = _ARCHES[machine or platform.machine()]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_when(_AT_LEAST, _X32_BIT, KILL),
        *_when(_AT_LEAST, _FIRST_UNKNOWN, ABSENT),
        *((_AT_LEAST, 0, 2, gap), (_AT_LEAST, 1, 0, _AFTER_GAP), (_RETURN, 0, 0, ABSENT)),
    ]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            program += _when(_EQUAL, number, REFUSE)
    for name, numbers in JUDGED.items():
        if (number := numbers[column]) is not None:
            rule = _rule(name, fork)
            program += [(_EQUAL, 0, len(rule), number), *rule]
    program.append((_RETURN, 0, 0, ALLOW))
    # Both machines are little-endian, as is every array that the kernel takes from them.
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _when(test: int, value: int, action: int) -> list[_Instruction]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, action)]


def _argument(index: int) -> _Instruction:
    # Only the low half: the kernel reads these arguments as 32 bits, so the high half must not hide anything.
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _rule(name: str, fork: bool) -> list[_Instruction]:
    """The instructions that decide about one call; they always return."""
    allow, refuse = (_RETURN, 0, 0, ALLOW), (_RETURN, 0, 0, REFUSE)
    match name:
        case "clone":
            threads_only = [] if fork else [(_ANY_BIT, 1, 0, _CLONE_THREAD), refuse]
            return [_argument(0), *_when(_ANY_BIT, _NEW_NAMESPACE | _CLONE_PARENT, REFUSE), *threads_only, allow]
        case "clone3":
            return [(_RETURN, 0, 0, ABSENT)]
        case "fork" | "vfork":
            return [allow if fork else refuse]
        case "socketpair":
            # Streams only: a datagram socket can send to a name, also one that was made as half of a pair.
            return [
                *(_argument(0), (_EQUAL, 1, 0, _AF_UNIX), refuse),
                *(_argument(1), *_when(_ANY_BIT, _OTHER_TYPES, REFUSE), *_when(_ANY_BIT, _SOCK_STREAM, ALLOW), refuse),
            ]
        case "prctl":
            # The parent-death signal is what ends the sandbox when the host process is killed.
            options = (_PR_SET_PDEATHSIG, _PR_SET_SECCOMP)
            return [_argument(0), *(i for o in options for i in _when(_EQUAL, o, REFUSE)), allow]
        case "ioctl":
            requests = (_TIOCSTI, _TIOCLINUX)
            return [_argument(1), *(i for r in requests for i in _when(_EQUAL, r, REFUSE)), allow]
        case "fcntl":
            return [_argument(1), *(i for c in (_F_SETLEASE, _F_NOTIFY) for i in _when(_EQUAL, c, REFUSE)), allow]
        case "prlimit64" | "sched_setaffinity" | "sched_setattr" | "sched_setparam" | "sched_setscheduler":
            # On itself only: what forks the executions of a container belongs to the same user.
            return [_argument(0), *_when(_EQUAL, 0, ALLOW), refuse]
        case "setpriority":
            return [_argument(0), (_EQUAL, 1, 0, 0), refuse, _argument(1), *_when(_EQUAL, 0, ALLOW), refuse]
        case "setsockopt":
            # Buffers of sockets are kernel memory, which no limit of a process counts.
            sizes = (_SO_SNDBUF, _SO_RCVBUF)
            return [
                *(_argument(1), (_EQUAL, 1, 0, _SOL_SOCKET), allow),
                *(_argument(2), *(i for s in sizes for i in _when(_EQUAL, s, REFUSE)), allow),
            ]
    raise AssertionError(name)
