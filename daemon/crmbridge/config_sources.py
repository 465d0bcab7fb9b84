"""Where settings come from: the file, the environment, systemd's credentials; and how mistakes in them are told.

It knows names of sections where a name means something there (`pbxes.haifa.ami.secret`), and nothing of their values.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

ENV_PREFIX = "CRMBRIDGE_"
FILES = frozenset({"ami.ca_file", "http.tls_cert", "http.tls_key"})
"""Settings that name a file: a systemd credential of such a name is that file."""
SHORT_FORM = ("ami", "pbx", "cdr")
"""Sections of the only PBX. The unit that we ship loads ami.secret in any case: beside [[pbxes]] it means nothing."""


class ConfigError(Exception):
    """The settings can't be used; the message has a line for each mistake."""


def read_file(file: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ConfigError."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}: name the settings with --config FILE") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The section of this name, made where there is none; nothing that lasts where it is of the wrong kind."""
    found = values.setdefault(name, {})
    return found if isinstance(found, dict) else {}


def add_credentials(values: dict[str, Any], sections: set[str]) -> None:
    """systemd credentials named `section.key` (LoadCredential=ami.secret:…) stand above the file.

    Raises ConfigError.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        raise ConfigError(f"the credentials in {folder} can't be read: {error.strerror}") from None
    for file in files:
        first, dot, key = file.name.partition(".")
        if dot and first in sections and not (values.get("pbxes") and first in SHORT_FORM):
            value = _credential(file)
            if file.name.startswith("crm.clients."):
                _client_credential(values, file.name, value)
            elif first == "pbxes":
                _pbx_credential(values, file.name, value)
            else:
                section(values, first)[key] = value


def _credential(file: Path) -> str:
    if ".".join(file.name.rsplit(".", 2)[-2:]) in FILES:
        return str(file)
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the credential {file.name} can't be read: {error}") from None


def _client_credential(values: dict[str, Any], name: str, value: str) -> None:
    """`crm.clients.11.password` is that of the entry with this client_id."""
    client_id, _, key = name.removeprefix("crm.clients.").rpartition(".")
    found = [one for one in _entries(section(values, "crm").get("clients")) if str(one.get("client_id")) == client_id]
    if not found:
        raise ConfigError(
            f"the credential {name} is for no client: no entry of crm.clients has client_id {client_id!r}"
        )
    for entry in found:
        entry[key] = value


def _pbx_credential(values: dict[str, Any], name: str, value: str) -> None:
    """`pbxes.haifa.ami.secret` is ami.secret of the PBX of this name, which may have dots in it."""
    pbx, *keys = name.removeprefix("pbxes.").rsplit(".", 2)
    found = [one for one in _entries(values.get("pbxes")) if _name(one) == pbx]
    if not found or len(keys) != 2:
        raise ConfigError(f"the credential {name} is for no PBX: no entry of pbxes has pbx.name {pbx!r}")
    section(found[0], keys[0])[keys[1]] = value


def add_environment(values: dict[str, Any], model: type[BaseModel]) -> None:
    """`CRMBRIDGE_PBXES__HAIFA__AMI__SECRET`: what is of one PBX, by its name. Raises ConfigError.

    The name in capitals, and what can't stand in a variable's name is `_`. `model`: of an entry of pbxes.
    """
    entries = _entries(values.get("pbxes"))
    for variable, text in os.environ.items():
        pbx, _, rest = variable.upper().removeprefix(f"{ENV_PREFIX}PBXES__").partition("__")
        if not variable.upper().startswith(f"{ENV_PREFIX}PBXES__"):
            continue
        found = [one for one in entries if _variable(_name(one)) == pbx]
        if len(found) != 1:
            raise ConfigError(f"{variable} is for no PBX: not one entry of pbxes has a pbx.name that is written {pbx}")
        *where, key = rest.lower().split("__")
        target = found[0]
        for name in where:
            target = section(target, name)
        try:
            target[key] = json.loads(text) if _is_list(model, where, key) else text
        except ValueError:
            raise ConfigError(f"{variable} is no list or table as JSON writes it") from None


def _is_list(model: type[BaseModel], where: list[str], key: str) -> bool:
    for name in where:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        model = field.annotation
    return key in model.model_fields and get_origin(model.model_fields[key].annotation) in {list, dict}


def _entries(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _name(entry: dict[str, Any]) -> str:
    return str(section(entry, "pbx").get("name", ""))


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def mistake(model: type[BaseModel], location: tuple[int | str, ...], kind: str, message: str) -> str:
    """One of pydantic's errors in an administrator's words. `model`: of all settings."""
    key = ".".join(str(part) for part in location if part != "[key]")
    message = message.removeprefix("Value error, ")
    if not key:
        return message  # about several sections; it names them
    if kind == "missing":
        return f"{key}: is needed"
    if kind == "extra_forbidden":
        return f"{key}: there is no such setting{_known(model, location)}"
    return f"{key}: {message}"


def _known(model: Any, location: tuple[int | str, ...]) -> str:  # noqa: ANN401  # a model, or what a field holds
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        model = get_args(annotation)[0] if get_origin(annotation) is list else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ""
    return f" (known: {', '.join(model.model_fields)})"
