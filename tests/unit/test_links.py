"""Links that open one recording for a while."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crmbridge.web.links import Bad, Links

NOW_S = 1795413177.5
LINKS = Links(b"k" * 32, expire_s=3600)
NAME = "2026/11/23/in-trunk-0521234567-20261123-055257-1795413177.274.wav"


def taken_apart(link: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(link)
    return unquote(parts.path.removeprefix("/recordings/")), dict(parse_qsl(parts.query, strict_parsing=True))


def test_a_link_opens_what_it_was_made_for_until_then() -> None:
    name, given_ = taken_apart(LINKS.link(NAME, "10", NOW_S))
    assert name == NAME
    assert given_["expires"] == "1795416777"
    assert given_.keys() == {"ClientId", "expires", "signature"}
    assert LINKS.judge(NAME, given_, NOW_S) is None
    assert LINKS.judge(NAME, given_, 1795416776.9) is None
    assert LINKS.judge(NAME, given_, 1795416777.0) is Bad.EXPIRED


@pytest.mark.parametrize("name", ["שיחה.wav", "a b&c=d?e#f%2e.wav", 'a"b.wav', "a+b.wav", "../x"])
def test_names_and_clients_of_any_kind(name: str) -> None:
    link = LINKS.link(name, "a&b=c", NOW_S)
    assert link.isascii()
    there, given_ = taken_apart(link)
    assert there == name
    assert LINKS.judge(name, given_, NOW_S) is None


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "1795416778"},
        {"expires": "01795416777"},
        {"expires": " 1795416777"},
        {"expires": "1795416777\n10"},
        {"expires": ""},
        {"ClientId": "11"},
        {"ClientId": ""},
        {"ClientId": "10\n1795416777"},
        {"signature": ""},
        {"signature": "A" * 43},
        {"signature": "é" * 43},
    ],
)
def test_a_link_that_was_altered_opens_nothing(change: dict[str, str]) -> None:
    _, given_ = taken_apart(LINKS.link(NAME, "10", NOW_S))
    assert LINKS.judge(NAME, {**given_, **change}, NOW_S) is Bad.INVALID


def test_each_character_of_a_signature_counts() -> None:
    _, given_ = taken_apart(LINKS.link(NAME, "10", NOW_S))
    right = given_["signature"]
    assert len(right) == 43
    for at in range(43):
        wrong = right[:at] + ("B" if right[at] == "A" else "A") + right[at + 1 :]
        assert LINKS.judge(NAME, {**given_, "signature": wrong}, NOW_S) is Bad.INVALID
    for wrong in (right[:-1], right + "=", right + "A", right.swapcase()):
        assert LINKS.judge(NAME, {**given_, "signature": wrong}, NOW_S) is Bad.INVALID


def test_an_expired_link_that_was_altered_is_not_called_expired() -> None:
    _, given_ = taken_apart(LINKS.link(NAME, "10", NOW_S))
    assert LINKS.judge("other.wav", given_, NOW_S + 10_000) is Bad.INVALID


def test_another_key_signs_otherwise() -> None:
    _, given_ = taken_apart(Links(b"l" * 32, expire_s=3600).link(NAME, "10", NOW_S))
    assert LINKS.judge(NAME, given_, NOW_S) is Bad.INVALID


@given(*(st.text(max_size=8),) * 4)
def test_no_two_files_share_a_link(name: str, client_id: str, other: str, other_client: str) -> None:
    assume((name, client_id) != (other, other_client))
    assume("\n" not in client_id + other_client)  # settings hold no line ends
    _, given_ = taken_apart(LINKS.link("x", "y", NOW_S))
    given_ |= {"ClientId": client_id, "signature": LINKS._signature(name, client_id, given_["expires"])}
    assert LINKS.judge(name, given_, NOW_S) is None
    assert LINKS.judge(other, {**given_, "ClientId": other_client}, NOW_S) is Bad.INVALID
