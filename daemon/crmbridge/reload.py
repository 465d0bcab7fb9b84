"""What of new settings a running bridge can follow, and what it takes up only at its next start.

Who may ask and for what, which clicks are dialed, how much is kept and how much is logged change without a call or a
connection being touched. The rest (where the PBX, the CRM and the databases are, what is what on the PBX) is built
into parts that hold calls in progress. How the settings are read, and who follows them, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from crmbridge.config import Settings

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


def differing(old: Settings, new: Settings) -> list[str]:
    """The keys (`section.key`) that are not the same, in the order of the settings."""
    return [f"{name}.{key}" for name, section in _sections(old) for key in _changed(section, getattr(new, name))]


def follows(key: str) -> bool:
    """Whether a change of this key (`section.key`) is followed at once."""
    section, _, name = key.partition(".")
    return name in AT_ONCE.get(section, ())


def merged(old: Settings, new: Settings) -> Settings:
    """The settings in force after a reload: what is followed at once is new, the rest is as it was."""
    sections = {
        name: section.model_copy(update={key: getattr(getattr(new, name), key) for key in AT_ONCE[name]})
        for name, section in _sections(old)
        if name in AT_ONCE
    }
    return old.model_copy(update=sections)


def _sections(settings: Settings) -> Iterator[tuple[str, BaseModel]]:
    return ((name, getattr(settings, name)) for name in type(settings).model_fields)


def _changed(old: BaseModel, new: Any) -> list[str]:  # noqa: ANN401  # of the same section
    return [key for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
