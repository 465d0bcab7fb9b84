"""Where a recording may lie, by its name alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.cdr import LONGEST_PATH
from crmbridge.calls.recordings import FORMATS, folders_of, is_empty, media_type, name_of, places

MONITOR = ("/var/spool/asterisk/monitor", "/mnt/disk2/monitor/")
FREEPBX = "in-trunk-0521234567-20261123-055257-1795413177.274.wav"


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (FREEPBX, FREEPBX),
        ("2026/11/23/a.wav", "2026/11/23/a.wav"),
        ("2026//11/./a.wav", None),
        ("2026//11/a.wav", "2026/11/a.wav"),
        ("/var/spool/asterisk/monitor/a.wav", "a.wav"),
        ("/var/spool/asterisk/monitor/2026/11/23/a.wav", "2026/11/23/a.wav"),
        ("/mnt/disk2/monitor/a.wav", "a.wav"),
        ("//mnt/disk2/monitor//a.wav", "a.wav"),
        ("mnt/disk2/monitor/a.wav", "a.wav"),
        ("/var/spool/asterisk/monitor2/a.wav", None),
        ("/var/spool/asterisk/a.wav", None),
        ("/var/spool/asterisk/monitor", None),
        ("/var/spool/asterisk/monitor/", None),
        ("/etc/passwd", None),
        ("../a.wav", None),
        ("a/../a.wav", None),
        ("/var/spool/asterisk/monitor/../a.wav", None),
        ("..", None),
        (".", None),
        ("/", None),
        ("", None),
        ("a\0.wav", None),
        ("a\n.wav", None),
        ("x" * LONGEST_PATH, "x" * LONGEST_PATH),
        ("x" * (LONGEST_PATH + 1), None),
        ("שיחה.wav", "שיחה.wav"),
        ("...wav", "...wav"),
    ],
)
def test_names(filename: str, name: str | None) -> None:
    assert name_of(filename, MONITOR) == name


PIECES = ["/", ".", "..", "\\", "%", "a", "\0", "\n", "/var/spool/asterisk/monitor", ".wav", "20261123-055257"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_no_name_leads_out(filename: str) -> None:
    name = name_of(filename, MONITOR)
    for place in places(name) if name is not None else ():
        assert not {"", ".", ".."} & set(place.split("/"))
        assert "\0" not in place


@pytest.mark.parametrize(
    ("name", "days"),
    [
        (FREEPBX, ["2026/11/23"]),
        ("out-0521234567-777-20261123-235959-1.2.wav", ["2026/11/23"]),
        ("external-777-0521234567-20261123-055257-1795413177.274.wav", ["2026/11/23"]),
        ("internal-777-778-20261123-055257-1795413177.274.wav", ["2026/11/23"]),
        ("q-600-0521234567-20261123-055257-1795413177.274.wav", ["2026/11/23"]),
        ("rg-601-0521234567-20261123-055257-1795413177.274.wav", ["2026/11/23"]),
        ("in-20260101-055257-20261123-055257-1.2.wav", ["2026/11/23", "2026/01/01"]),  # a caller's number like a date
        ("in-12345678-20261123-055257-1.2.wav", ["2026/11/23"]),
        ("in-trunk-1-20261323-055257-1.2.wav", []),  # no such month
        ("in-trunk-1-20261123-0552577-1.2.wav", []),
        ("1795413177.274.wav", []),
    ],
)
def test_the_folder_of_the_day(name: str, days: list[str]) -> None:
    assert folders_of(name) == [*days, ""]


def test_a_path_is_looked_for_where_it_says() -> None:
    assert folders_of(f"2025/01/01/{FREEPBX}") == ["2025/01/01"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("a.wav", ["a.wav", "a.WAV", "a.mp3"]),
        ("a.WAV", ["a.WAV", "a.wav", "a.mp3"]),
        ("a.wav49", ["a.WAV", "a.wav49", "a.WAV49"]),
        ("a.gsm", ["a.gsm", "a.GSM", "a.wav"]),
        ("1795413177.274", ["1795413177.274.wav", "1795413177.274.WAV", "1795413177.274.mp3"]),
        ("d/a.wav", ["d/a.wav", "d/a.WAV", "d/a.mp3"]),
    ],
)
def test_what_is_looked_for_first(name: str, first: list[str]) -> None:
    assert list(places(name))[:3] == first


def test_the_file_itself_comes_before_another_format_of_it() -> None:
    found = list(places(FREEPBX))
    assert found[:2] == [f"2026/11/23/{FREEPBX}", FREEPBX]
    assert found[2] == f"2026/11/23/{FREEPBX}".replace(".wav", ".WAV")


@pytest.mark.parametrize("name", ["notes.txt", "a", "a.wav.bak", ".wav", "config.toml", "a.wav."])
def test_nothing_but_recordings_is_looked_for(name: str) -> None:
    for place in places(name):
        assert re.search(r"\.([a-z0-9]+)$", place.lower())[1] in FORMATS  # type: ignore[index]
        assert place != name


def test_no_place_is_looked_at_twice_and_they_are_few() -> None:
    for name in (FREEPBX, "a.wav49", "a", f"in-20260101-055257-{FREEPBX}"):
        found = list(places(name))
        assert len(found) == len(set(found)) < 120


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.wav", "audio/wav"),
        ("2026/11/23/a.WAV", "audio/wav"),
        ("a.mp3", "audio/mpeg"),
        ("a.OGG", "audio/ogg"),
        ("a.gsm", "audio/x-gsm"),
        ("a.ulaw", "audio/basic"),
        ("a.sln", "application/octet-stream"),
        ("a.html", "application/octet-stream"),
    ],
)
def test_media_types(path: str, kind: str) -> None:
    assert media_type(path) == kind


@pytest.mark.parametrize(
    ("path", "size", "empty"),
    [
        ("a.wav", 44, True),
        ("a.wav", 45, False),
        ("a.WAV", 60, True),
        ("a.WAV", 125, False),
        ("a.gsm", 0, True),
        ("a.gsm", 33, False),
        ("a.mp3", 1, False),
    ],
)
def test_headers_without_sound(path: str, size: int, empty: bool) -> None:
    assert is_empty(path, size) is empty
