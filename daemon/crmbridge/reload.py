"""What of new settings a running bridge can follow, and what it takes up only at its next start.

Who may ask and for what, which clicks are dialed, how much is kept and how much is logged change without a call or a
connection being touched. The rest (where the PBXes, the CRM and the databases are, what is what on a PBX, how many
PBXes there are) is built into parts that hold calls in progress. How the settings are read, and who follows them, is
not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from crmbridge.config import OnePbxSettings, Settings

AT_ONCE: Mapping[str, frozenset[str]] = {
    "crm": frozenset({"client_id", "clients"}),
    "http": frozenset({"username", "password", "allow", "trusted_proxies", "credentials_as_parameters", "links_from"}),
    "dialer": frozenset(
        {"channel", "context", "caller_id", "auto_answer", "international", "allow_numbers", "deny_numbers"}
        | {"per_extension_per_minute", "per_minute", "max_calls", "when_talking", "when_away", "duplicate_window_s"}
    ),
    "store": frozenset({"keep_days", "keep_mb", "keep_calls_days"}),
    "log": frozenset({"level"}),
}
"""Keys that are followed at once, by section."""
OF_PBX_AT_ONCE = frozenset({"client_id", "dialer"})
"""The same for an entry of `[[pbxes]]`."""


def differing(old: Settings, new: Settings) -> list[str]:
    """The keys (`section.key`, `pbxes.NAME.section`) that are not the same, in the order of the settings."""
    return list(_differing(old, new))


def _differing(old: Settings, new: Settings) -> Iterator[str]:
    for name in type(old).model_fields:
        if name == "pbxes":
            yield from _differing_pbxes(_by_name(old), _by_name(new))
        else:
            yield from (f"{name}{key}" for key in _changed(getattr(old, name), getattr(new, name)))


def _differing_pbxes(old: Mapping[str, OnePbxSettings], new: Mapping[str, OnePbxSettings]) -> Iterator[str]:
    for pbx in dict.fromkeys([*old, *new]):
        yield from (f"pbxes.{pbx}{key}" for key in _changed(old.get(pbx), new.get(pbx)))


def _changed(old: BaseModel | None, new: BaseModel | None) -> list[str]:
    """Keys of a section that are not the same, each after a dot; an empty one where there was, or is, no section."""
    if old is None or new is None:
        return [] if old is new else [""]
    return [f".{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]


def follows(key: str) -> bool:
    """Whether a change of this key is followed at once."""
    section, _, name = key.partition(".")
    if section == "pbxes":
        return "." in name and name.rpartition(".")[2] in OF_PBX_AT_ONCE
    return name in AT_ONCE.get(section, ())


def merged(old: Settings, new: Settings) -> Settings:
    """The settings in force after a reload: what is followed at once is new, the rest is as it was."""
    sections: dict[str, Any] = {
        name: getattr(old, name).model_copy(update={key: getattr(getattr(new, name), key) for key in keys})
        for name, keys in AT_ONCE.items()
    }
    pbxes = _by_name(new)
    sections["pbxes"] = [
        one.model_copy(update={key: getattr(pbxes.get(name, one), key) for key in OF_PBX_AT_ONCE})
        for name, one in _by_name(old).items()
    ]
    return old.model_copy(update=sections)


def _by_name(settings: Settings) -> dict[str, OnePbxSettings]:
    return {one.pbx.name: one for one in settings.pbxes}
