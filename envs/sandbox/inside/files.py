"""Files in a child's working folder, read and written from outside while hostile code may be changing it.

Every part of a path is opened relative to the folder before it and without following links, so that nothing
outside the folder can be reached, whatever is renamed or linked meanwhile. Root acts as the folder's owner
does: the file system belongs to a user namespace that knows no root.
"""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

from palestra.envs.sandbox.inside import jail

MAX_LISTED = 10_000
_MAX_LISTED_CHARACTERS = 1_000_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 32


def write(folder: int, path: str, data: bytes) -> None:
    """Write a file, replacing one that is there; parent folders are made.

    Args:
        folder: Descriptor of the working folder.
        path: Relative, without `.` and `..`.
        data: The content.

    Raises:
        OSError: Something on the path is in the way, or there is no room.
    """
    *parents, name = path.split("/")
    with _as_owner(folder), _Walk(folder) as walk:
        for part in parents:
            try:
                os.mkdir(part, 0o755, dir_fd=walk.at)
            except FileExistsError:
                pass
            walk.enter(part)
        try:
            os.unlink(name, dir_fd=walk.at)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=walk.at), "wb") as file:
            file.write(data)


def read(folder: int, path: str, limit: int) -> bytes:
    """Return the first `limit` bytes of a regular file.

    Raises:
        OSError: There is no such regular file, or something on the path is a link.
    """
    *parents, name = path.split("/")
    with _as_owner(folder), _Walk(folder) as walk:
        for part in parents:
            walk.enter(part)
        # Not blocking: it may be a pipe, which nobody writes to.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=walk.at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"not a regular file: {path}")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        parts = []
        while limit > 0 and (data := file.read(min(limit, 1 << 20))):
            parts.append(data)
            limit -= len(data)
        return b"".join(parts)


def listing(folder: int) -> list[str]:
    """Return the relative paths of the regular files, sorted; at most `MAX_LISTED` of them, some levels deep."""
    found: list[str] = []
    room = _MAX_LISTED_CHARACTERS
    with _as_owner(folder), closing(_regular_files(folder, "", 0)) as names:
        for name in names:
            room -= len(name)
            if len(found) == MAX_LISTED or room < 0:
                break
            found.append(name)
    return sorted(found)


def clear(folder: int) -> None:
    """Remove everything in the folder, while nobody changes it.

    Folders are moved up before they are emptied, so that their depth does not matter.

    Raises:
        OSError: Something could not be removed.
    """
    while folders := _remove_files(folder):
        for name in folders:
            os.chmod(name, 0o700, dir_fd=folder)
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                for deeper in _remove_files(inner):
                    os.chmod(deeper, 0o700, dir_fd=inner)  # moving it changes its `..`
                    os.rename(deeper, os.urandom(16).hex(), src_dir_fd=inner, dst_dir_fd=folder)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=folder)


def _remove_files(folder: int) -> list[str]:
    """Remove what is no folder; returns the names of the folders."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders


class _Walk:
    """Goes down from a folder, one part of a path at a time."""

    def __init__(self, folder: int) -> None:
        self.at = os.dup(folder)

    def enter(self, name: str) -> None:
        """Go into a folder."""
        below = os.open(name, _FOLDER, dir_fd=self.at)
        os.close(self.at)
        self.at = below

    def __enter__(self) -> "_Walk":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.at)


@contextmanager
def _as_owner(folder: int) -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    owner = os.fstat(folder)
    jail.set_file_identity(owner.st_uid, owner.st_gid)
    try:
        yield
    finally:
        jail.set_file_identity(0, 0)


def _regular_files(folder: int, prefix: str, depth: int) -> Generator[str, None, None]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + os.fsencode(entry.name).decode("utf-8", "replace")
            if entry.is_file(follow_symlinks=False):
                yield name
            elif entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
                try:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                except OSError:
                    continue
                try:
                    yield from _regular_files(inner, name + "/", depth + 1)
                finally:
                    os.close(inner)
