"""Which new settings a running bridge follows, and which wait for its next start."""

from __future__ import annotations

from typing import Any

from crmbridge import reload
from crmbridge.config import Settings, parse

OLD: dict[str, Any] = {
    "crm": {"url": "http://127.0.0.1/x", "client_id": "10"},
    "ami": {"username": "crmbridge", "secret": "s"},
    "http": {"username": "crm", "password": "old"},
}


def settings(**changes: dict[str, Any]) -> Settings:
    return parse({name: OLD.get(name, {}) | changes.get(name, {}) for name in OLD | changes}, source="a test")


def test_every_key_that_is_followed_at_once_is_a_setting() -> None:
    for name, keys in reload.AT_ONCE.items():
        section = Settings.model_fields[name].annotation
        assert keys <= set(section.model_fields), name  # type: ignore[union-attr]  # a section


def test_what_differs_is_named_with_its_section() -> None:
    new = settings(http={"password": "new"}, pbx={"name": "haifa"}, dialer={"max_calls": 5, "timeout_s": 20})
    changed = reload.differing(settings(), new)
    assert changed == ["pbx.name", "http.password", "dialer.timeout_s", "dialer.max_calls"]
    assert [key for key in changed if reload.follows(key)] == ["http.password", "dialer.max_calls"]
    assert reload.differing(settings(), settings()) == []


def test_what_is_not_followed_stays_as_it_was_and_is_named_again() -> None:
    old = settings()
    new = settings(http={"password": "new", "listen": "127.0.0.1:1"}, pbx={"name": "haifa"}, log={"level": "debug"})
    merged = reload.merged(old, new)
    assert merged.http.password.get_secret_value() == "new"
    assert (merged.http.listen, merged.pbx.name, merged.log.level) == ("127.0.0.1:6560", "pbx", "debug")
    assert reload.differing(merged, new) == ["pbx.name", "http.listen"]


def several(**pbxes: dict[str, Any]) -> Settings:
    """Settings with these PBXes; each by its sections."""
    entries = [
        sections
        | {"ami": {"host": name, **OLD["ami"], **sections.get("ami", {})}}
        | {"pbx": {"name": name, **sections.get("pbx", {})}}
        for name, sections in pbxes.items()
    ]
    return parse({"crm": OLD["crm"], "http": OLD["http"], "pbxes": entries}, source="a test")


def test_of_each_pbx_what_differs_is_named_and_followed_as_far_as_it_can_be() -> None:
    old = several(haifa={}, eilat={"client_id": "20"}, acre={})
    new = several(
        eilat={"client_id": "21", "pbx": {"extensions": "7.."}, "dialer": {"context": "x"}},
        haifa={"ami": {"username": "u", "secret": "new"}},
        safed={},
    )
    changed = reload.differing(old, new)
    assert changed == [
        *("pbxes.haifa.ami", "pbxes.eilat.client_id", "pbxes.eilat.pbx", "pbxes.eilat.dialer"),
        *("pbxes.acre", "pbxes.safed"),
    ]
    assert [key for key in changed if reload.follows(key)] == ["pbxes.eilat.client_id", "pbxes.eilat.dialer"]
    merged = {one.pbx.name: one for one in reload.merged(old, new).each()}
    assert list(merged) == ["haifa", "eilat", "acre"]
    assert (merged["eilat"].crm.client_id, merged["eilat"].dialer.context) == ("21", "x")
    assert merged["eilat"].pbx.extensions == old.each()[1].pbx.extensions
    assert merged["haifa"].ami.secret.get_secret_value() == "s"
    assert reload.differing(reload.merged(old, new), new) == [key for key in changed if not reload.follows(key)]


def test_another_form_of_the_settings_waits_for_a_restart() -> None:
    one, more = settings(), several(pbx={})
    for old, new in ((one, more), (more, one)):
        assert [key for key in reload.differing(old, new) if not reload.follows(key)] == [
            "ami",
            "pbx",
            "pbxes.pbx",
            "cdr",
        ]
        assert reload.differing(reload.merged(old, new), old) == []
