"""Files in a folder that hostile code owns: nothing outside it is reached, and nothing in it hangs us."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from palestra.envs.sandbox.inside import files


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def folder(top: Path) -> Iterator[int]:
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def deep(folder: int) -> Iterator[None]:
    """Makes folders in the folder that go deeper than any path, and than recursion."""
    at = os.dup(folder)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    yield
    while (above := os.open("..", os.O_RDONLY, dir_fd=at)) >= 0:
        os.close(at)
        at = above
        try:
            os.rmdir("d", dir_fd=at)
        except OSError:
            break  # the top
    os.close(at)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret", encoding="utf-8")
    return path


def test_what_is_written_is_read(folder: int, top: Path) -> None:
    files.write(folder, "a/b/c", b"\0data")
    assert files.read(folder, "a/b/c", 100) == b"\0data"
    assert files.read(folder, "a/b/c", 2) == b"\0d"
    assert files.read(folder, "a/b/c", 0) == b""
    assert files.listing(folder) == ["a/b/c"]
    assert (top / "a/b/c").stat().st_mode & 0o777 == 0o644


def test_a_file_is_replaced_and_not_written_through(folder: int, top: Path, secret: Path) -> None:
    os.link(secret, top / "hard")
    os.symlink(secret, top / "soft")
    for name in ("hard", "soft"):
        files.write(folder, name, b"new")
        assert files.read(folder, name, 9) == b"new"
    assert secret.read_text(encoding="utf-8") == "secret"


@pytest.mark.parametrize("path", ["link/secret", "loop/x", "file/x", "pipe", "socket", "d", "nothing", "d/nothing"])
def test_only_regular_files_are_read(folder: int, top: Path, secret: Path, path: str) -> None:
    import socket

    os.symlink(secret.parent, top / "link")
    os.symlink("loop", top / "loop")
    os.mkfifo(top / "pipe")
    (top / "d").mkdir()
    (top / "file").touch()
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(top)  # names of sockets are short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        with pytest.raises(OSError, match=r"\w"):
            files.read(folder, path, 100)


def test_links_on_the_way_are_not_followed_when_writing(folder: int, top: Path, secret: Path) -> None:
    os.symlink(secret.parent, top / "link")
    for path in ("link/secret", "link/new", "link/new/new"):
        with pytest.raises(OSError, match=r"\w"):
            files.write(folder, path, b"x")
    assert secret.read_text(encoding="utf-8") == "secret"
    assert sorted(path.name for path in secret.parent.iterdir()) == ["secret", "top"]


def test_a_folder_in_the_way_is_an_error(folder: int, top: Path) -> None:
    (top / "d").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write(folder, "d", b"x")


def test_only_regular_files_are_listed(folder: int, top: Path, secret: Path) -> None:
    os.symlink(secret.parent, top / "link")
    os.symlink("/", top / "root")
    os.mkfifo(top / "pipe")
    (top / "d").mkdir()
    (top / "d" / "file").touch()
    assert files.listing(folder) == ["d/file"]


def test_listing_is_bounded(folder: int, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LISTED", 10)
    for number in range(30):
        (top / f"{number}").touch()
    assert len(files.listing(folder)) == 10
    assert len(files.listing(folder)) == 10


@pytest.mark.usefixtures("deep")
def test_listing_goes_down_some_levels_only(folder: int) -> None:
    assert files.listing(folder) == []


def test_clearing_removes_everything_whatever_its_mode(folder: int, top: Path, secret: Path) -> None:
    os.symlink(secret.parent, top / "link")
    os.mkfifo(top / "pipe")
    (top / "locked" / "inner").mkdir(parents=True)
    (top / "locked" / "inner" / "file").touch()
    (top / "locked" / "inner").chmod(0)
    (top / "locked").chmod(0)
    (top / os.fsdecode(b"\xff\n")).touch()
    files.clear(folder)
    assert list(top.iterdir()) == []
    assert secret.exists()


@pytest.mark.usefixtures("deep")
def test_clearing_needs_neither_recursion_nor_descriptors_for_what_is_deep(folder: int, top: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, limits[1]))
    try:
        files.clear(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert list(top.iterdir()) == []


def test_a_race_of_links_never_leads_outside(folder: int, top: Path, secret: Path) -> None:
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for make in (lambda: os.mkdir(top / "d"), lambda: os.symlink(secret.parent, top / "d")):
                try:
                    make()
                    os.rename(top / "d", top / "old")
                except OSError:
                    pass
                for remove in (os.unlink, os.rmdir):
                    try:
                        remove(top / "old")
                    except OSError:
                        pass

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            try:
                files.write(folder, "d/planted", b"x")
                assert files.read(folder, "d/secret", 9) != b"secret"
            except OSError:
                continue
    finally:
        over.set()
        thread.join()
    assert not (secret.parent / "planted").exists()


def test_no_descriptor_is_left_open(folder: int, top: Path) -> None:
    (top / "d").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for path in ("d/a", "d/x/y", "d"):
        for call in (lambda path=path: files.write(folder, path, b"x"), lambda path=path: files.read(folder, path, 1)):
            try:
                call()
            except OSError:
                pass
    files.listing(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_listing_of_long_names_is_bounded(top: Path, folder: int) -> None:
    at = top
    for _ in range(15):
        at /= "d" * 200
        at.mkdir()
    for number in range(1000):
        (at / f"{number}{'x' * 200}").touch()
    assert 0 < sum(map(len, files.listing(folder))) <= 1_000_000
    assert len(files.listing(folder)) < 1000
