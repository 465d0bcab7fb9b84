"""Callbacks to the byte, and what each answer means."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.events import CallEvent, Kind
from crmbridge.crm.callback import Answer, check_url, excerpt, idempotency_key, judge, request_url

BASE = "https://testcall.crm.fixdigital.co.il/webservice.php"


def event(kind: Kind = Kind.RING, **changes: str) -> CallEvent:
    values = {
        "pbx": "main",
        "call": "1700000000.1",
        "extension": "777",
        "number": "033004799",
        "client_id": "10",
        "linkedid": "1700000000.1",
        "uniqueid": "1700000000.2",
    } | changes
    return CallEvent(kind=kind, at=datetime(2024, 1, 2, tzinfo=UTC), **values)


def test_the_questionnaires_samples_to_the_byte() -> None:
    assert request_url(BASE, event()) == (
        "https://testcall.crm.fixdigital.co.il/webservice.php"
        "?operation=incomingCall&sExt=777&sNumber=033004799&ClientId=10"
    )
    assert request_url(BASE, event(Kind.ANSWER)) == (
        "https://testcall.crm.fixdigital.co.il/webservice.php"
        "?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10"
    )


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://crm/w", "http://crm/w?operation=incomingCall&"),
        ("http://crm/w?", "http://crm/w?operation=incomingCall&"),
        ("http://crm/w?token=a%20b", "http://crm/w?token=a%20b&operation=incomingCall&"),
        ("http://crm/w?token=a&", "http://crm/w?token=a&operation=incomingCall&"),
    ],
)
def test_a_base_url_with_a_query(base: str, expected: str) -> None:
    assert request_url(base, event()).startswith(expected)


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        ("+97233004799", "%2B97233004799"),
        ("*98#", "%2A98%23"),
        ("1 2&x=3", "1%202%26x%3D3"),
        ("דנה", "%D7%93%D7%A0%D7%94"),
        ("a\r\nb\0", "a%0D%0Ab%00"),
        ("\ud83d", "%3F"),
        ("A-z_0.~", "A-z_0.~"),
        ("", ""),
    ],
)
def test_percent_encoding(number: str, encoded: str) -> None:
    assert f"&sNumber={encoded}&" in request_url(BASE, event(number=number))


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(extension=TEXT, number=TEXT, client_id=TEXT)
def test_any_text_arrives_as_it_was(extension: str, number: str, client_id: str) -> None:
    url = request_url(BASE, event(extension=extension, number=number, client_id=client_id))
    assert url.isascii()
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [
        ("operation", "incomingCall"),
        ("sExt", extension),
        ("sNumber", number),
        ("ClientId", client_id),
    ]


@given(st.text(), st.text())
def test_the_key_fits_a_header_and_tells_facts_apart(pbx: str, extension: str) -> None:
    key = idempotency_key(event(pbx=pbx, extension=extension))
    assert key.isascii()
    assert key.isalnum()
    assert key == idempotency_key(event(pbx=pbx, extension=extension, number="other", uniqueid="other"))
    assert key != idempotency_key(event(Kind.ANSWER, pbx=pbx, extension=extension))
    assert key != idempotency_key(event(pbx=pbx + "x", extension=extension))


def test_the_key_is_the_same_for_every_version() -> None:
    """It may not change with an upgrade: the CRM would take what is sent again for something new."""
    assert idempotency_key(event()) == "17837f03c6f6278faf0eee8125cdfebc"


def test_the_key_does_not_run_fields_together() -> None:
    assert idempotency_key(event(pbx="a", call="bc")) != idempotency_key(event(pbx="ab", call="c"))


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example/webservice.php",
        "http://127.0.0.1:8080/w?a=b",
        "http://[::1]:8080/",
        "https://user:pass@crm.example/",
        "HTTPS://crm.example",
    ],
)
def test_addresses_that_can_be_used(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("crm.example/webservice.php", "whole web address"),
        ("ftp://crm.example/", "whole web address"),
        ("https:///webservice.php", "whole web address"),
        ("https://crm.example:0/", "whole web address"),
        ("https://crm.example:99999/", "no web address"),
        ("https://crm.example/a b", "percent-encoded"),
        ("https://crm.example/\r\nHost: x", "percent-encoded"),
        ("https://crm.example/דנה", "percent-encoded"),
        ("https://crm.example/#a", "no '#'"),
        ("", "whole web address"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_url(url)


OK = b'{"success":true,"result":[]}'


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, OK, Answer.CONFIRMED),
        (200, b'\xef\xbb\xbf{"success": true}', Answer.CONFIRMED),
        (200, b'\r\n\t \xef\xbb\xbf\xef\xbb\xbf\n{"success": true}\n', Answer.CONFIRMED),
        (200, b'{"success": true, "name": "\xf9\xec"}', Answer.CONFIRMED),
        (200, b'{"success": false}', Answer.REFUSED),
        (200, b'{"success":false,"error":"no such client"}', Answer.REFUSED),
        (200, b'{"success": 1}', Answer.RETRY),
        (200, b'{"success": "true"}', Answer.RETRY),
        (200, b'{"result": []}', Answer.RETRY),
        (200, b"[true]", Answer.RETRY),
        (200, b"true", Answer.RETRY),
        (200, b"", Answer.RETRY),
        (200, b"<html>Fatal error</html>", Answer.RETRY),
        (200, b"[" * 60_000, Answer.RETRY),
        (200, b"1" * 60_000, Answer.RETRY),
        (201, OK, Answer.RETRY),
        (204, b"", Answer.RETRY),
        (400, OK, Answer.REFUSED),
        (401, b"", Answer.REFUSED),
        (403, b"", Answer.REFUSED),
        (404, b"<html>", Answer.REFUSED),
        (408, b"", Answer.RETRY),
        (425, b"", Answer.RETRY),
        (429, b'{"success":false}', Answer.RETRY),
        (499, b"", Answer.REFUSED),
        (500, OK, Answer.RETRY),
        (503, b'{"success":false}', Answer.RETRY),
        (302, OK, Answer.RETRY),
        (304, b"", Answer.RETRY),
        (999, OK, Answer.RETRY),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, expected: Answer) -> None:
    assert judge(status, body).answer is expected


@given(st.integers(100, 999), st.binary(max_size=300))
def test_no_answer_raises_and_every_reason_is_one_printable_line(status: int, body: bytes) -> None:
    verdict = judge(status, body, body.decode("latin-1"))
    assert verdict.reason.isprintable()
    assert str(status) in verdict.reason
    assert len(verdict.reason) < 500


def test_a_redirect_says_where_to_and_what_to_change() -> None:
    verdict = judge(302, b"", "https://crm.example/new.php?sNumber=033004799")
    assert verdict.reason == (
        "HTTP 302 to https://crm.example/new.php: redirects are not followed; set crm.url to the CRM's new address"
    )


def test_an_excerpt_cannot_paint_the_terminal() -> None:
    assert excerpt(b"\xef\xbb\xbf\n<b>\x1b[2J\r\nWarning</b>\n") == "<b> [2J  Warning</b>"
    assert excerpt(b" \n") == "(empty)"
