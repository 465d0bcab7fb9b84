"""The key that lasts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from crmbridge.store.key import LENGTH, lasting_key


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_lasts_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "links.key"
    key = lasting_key(path)
    assert len(key) == LENGTH
    assert path.read_bytes() == key
    assert mode(path) == 0o600
    assert lasting_key(path) == key
    assert os.listdir(tmp_path) == ["links.key"]


def test_another_when_it_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "links.key"
    key = lasting_key(path)
    path.unlink()
    assert lasting_key(path) != key


@pytest.mark.parametrize("damaged", [b"", b"short", b"x" * 33])
def test_a_file_that_is_not_ours_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "links.key"
    path.write_bytes(damaged)
    path.chmod(0o644)
    key = lasting_key(path)
    assert path.read_bytes() == key != damaged
    assert mode(path) == 0o600


def test_a_mode_that_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "links.key"
    lasting_key(path)
    path.chmod(0o644)
    lasting_key(path)
    assert mode(path) == 0o600


@pytest.mark.parametrize("where", ["missing/links.key", "folder"])
def test_a_disk_that_refuses_keeps_nothing_from_starting(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    with capture_logs() as logs:
        first, second = (lasting_key(tmp_path / where) for _ in range(2))
    assert len(first) == LENGTH
    assert first != second
    assert [line["event"] for line in logs] == ["store.key_not_kept"] * 2
