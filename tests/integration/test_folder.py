"""Files of one folder, and none outside of it: on a real file system, with what changes under our hands."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path

import pytest

from crmbridge.web import folder

CANARY = b"nobody may see this"
SOUND = b"sound"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "monitor"
    (root / "d").mkdir(parents=True)
    (root / "a.wav").write_bytes(SOUND)
    (root / "d/b.wav").write_bytes(SOUND)
    (tmp_path / "canary.wav").write_bytes(CANARY)
    (tmp_path / "monitor2").mkdir()
    (tmp_path / "monitor2/canary.wav").write_bytes(CANARY)
    return root


def read(root: Path, *paths: str) -> bytes | None:
    opened = folder.open_first(str(root), paths)
    if opened is None:
        return None
    try:
        content = os.read(opened.fd, 1000)
        assert opened.size == len(content)
        return content
    finally:
        os.close(opened.fd)


def test_the_first_that_is_there(root: Path) -> None:
    assert read(root, "x.wav", "d", "a.wav/x", "d/b.wav") == SOUND
    opened = folder.open_first(str(root), ["x.wav", "d/b.wav"])
    assert opened is not None
    os.close(opened.fd)
    assert opened.path == "d/b.wav"
    assert opened.inode == (root / "d/b.wav").stat().st_ino
    assert read(root) is None


@pytest.mark.parametrize("path", ["../canary.wav", "d/../../canary.wav", "../monitor2/canary.wav", "/etc/passwd"])
def test_names_that_lead_out(root: Path, path: str) -> None:
    """None such comes here; it would not open anything either."""
    assert read(root, path) is None


@pytest.mark.parametrize(
    "target",
    [
        "../canary.wav",
        "{outside}/canary.wav",
        "{outside}/monitor2/canary.wav",
        "/proc/self/environ",
        "/proc/self/cwd",
        "/dev/zero",
        "/dev/null",
        "link.wav",
        "nothing.wav",
    ],
)
def test_links_that_lead_out_or_nowhere(root: Path, target: str) -> None:
    (root / "link.wav").symlink_to(target.format(outside=root.parent))
    assert read(root, "link.wav") is None


def test_folders_that_lead_out(root: Path) -> None:
    (root / "out").symlink_to("../monitor2")
    (root / "up").symlink_to("..")
    assert read(root, "out/canary.wav", "up/canary.wav", "up/monitor2/canary.wav") is None
    assert read(root, "up/monitor/a.wav") == SOUND, "out and in again is inside"


def test_links_that_stay_inside(root: Path) -> None:
    (root / "link.wav").symlink_to("d/b.wav")
    (root / "absolute.wav").symlink_to(root / "d/b.wav")
    (root.parent / "spool").symlink_to(root)
    assert read(root, "link.wav") == read(root, "absolute.wav") == read(root.parent / "spool", "link.wav") == SOUND
    assert folder.real(str(root.parent / "spool")) == str(root)


def test_what_is_no_file(root: Path) -> None:
    os.mkfifo(root / "fifo.wav")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s.wav"))
        assert read(root, "fifo.wav", "s.wav", "d", ".", "") is None
    assert read(root, "x" * 300, "y" * 5000, "a.wav") == SOUND


def test_a_device_is_not_even_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some do something when they are: only a handle is taken of what is not known to be a file."""
    (root / "null.wav").symlink_to("/dev/null")
    flags = list[int]()
    really = os.open

    def noted(path: str, flag: int, *rest: int, dir_fd: int | None = None) -> int:
        flags.append(flag)
        return really(path, flag, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", noted)
    assert read(root, "null.wav") is None
    assert len(flags) == 2
    assert all(flag & os.O_PATH for flag in flags)


def test_a_folder_that_is_none(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(root / "x", "a.wav")
    with pytest.raises(NotADirectoryError):
        read(root / "a.wav", "a.wav")


def test_what_refuses_is_told_only_where_nothing_else_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def refusing(path: bytes, *rest: int, dir_fd: int | None = None) -> int:
        if path == b"locked.wav":
            raise PermissionError(13, "Permission denied")
        return really(path, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    assert read(root, "locked.wav", "a.wav") == SOUND
    with pytest.raises(PermissionError):
        read(root, "x.wav", "locked.wav", "y.wav")


def test_what_is_swapped_under_our_hands(root: Path) -> None:
    """Somebody swaps a file and a link to the canary, and the folder above it, as fast as can be."""
    stop = threading.Event()
    for name, target in (("file", "a.wav"), ("out", "../canary.wav"), ("proc", "/proc/self/environ")):
        (root / name).symlink_to(target)
    (root / "in").symlink_to("d")
    (root / "beside").symlink_to("../monitor2")
    (root.parent / "monitor2/b.wav").write_bytes(CANARY)

    def swap() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            new = root / "new"
            new.symlink_to(os.readlink(root / chance.choice(["file", "out", "proc"])))
            new.replace(root / "swapped.wav")
            new.symlink_to(os.readlink(root / chance.choice(["in", "beside"])))
            new.replace(root / "swapped")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        found = [read(root, name) for _ in range(3000) for name in ("swapped.wav", "swapped/b.wav")]
    finally:
        stop.set()
        swapping.join()
    assert set(found) == {None, SOUND}


def test_no_handle_is_left(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "out.wav").symlink_to("/etc/passwd")
    for _ in range(50):
        read(root, "x.wav", "out.wav", "d", "a.wav")
        read(root, "x.wav", "out.wav", "d")
    assert len(os.listdir("/proc/self/fd")) == before
