"""What single values of the settings may be, and what is said of those that are not."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, SecretStr

LONGEST_NAME = 64
"""Of a PBX: it is a column's value, a part of recordings' paths and of credentials' names."""


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"is no address or network like 203.0.113.7/32: {error}") from None
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("is no time zone like Asia/Jerusalem") from None
    return value


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:6560 or [::]:6560")
    return value


def _channel(value: str) -> str:
    if value.count("{ext}") != 1 or "/" not in value or any(c in value.replace("{ext}", "") for c in "{}&,\r\n"):
        raise ValueError("must be a channel with {ext} in it once, such as PJSIP/{ext}")
    return value


def _endpoint(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]+/\S+", value):
        raise ValueError("must be technology and name, such as PJSIP/trunk-bezeq")
    return value


def _crm_url(value: HttpUrl) -> HttpUrl:
    if value.username or value.password or value.fragment:
        raise ValueError("must hold no user name, password or #fragment")
    return value


def _text(value: object) -> object:
    """Numbers without quotes are what one writes for an id: take them as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_line(value: str) -> str:
    if any(ord(character) < 32 for character in value):
        raise ValueError("must not hold line breaks or other control characters")
    return value


def _store_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("sqlite+aiosqlite:////", "mysql+asyncmy://")):
        raise ValueError("must be sqlite+aiosqlite:////FILE or mysql+asyncmy://USER:PASSWORD@HOST/DATABASE")
    return value


def _cdr_source(value: SecretStr) -> SecretStr:
    source = value.get_secret_value()
    if source != "ami" and not source.startswith(("mysql+asyncmy://", "/")):
        raise ValueError(
            "must be ami, a database (mysql+asyncmy://USER:PASSWORD@HOST/asteriskcdrdb) "
            "or a file (/var/log/asterisk/cdr-csv/Master.csv)"
        )
    return value


Regex = Annotated[str, AfterValidator(_regular_expression)]
Network = Annotated[str, AfterValidator(_network)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Text = Annotated[str, BeforeValidator(_text), AfterValidator(_one_line)]
Id = Annotated[str, BeforeValidator(_text), AfterValidator(_one_line), Field(min_length=1)]


def _username(value: str) -> str:
    if ":" in value:
        raise ValueError("must hold no colon: HTTP Basic ends the user's name there")
    return value


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("must not be empty")
    return value


def _pbx_name(value: str) -> str:
    if len(value) > LONGEST_NAME or "/" in value or value.startswith("."):
        raise ValueError(f"must be at most {LONGEST_NAME} characters, without slashes and no dot at its beginning")
    return value


Username = Annotated[Id, AfterValidator(_username)]
Password = Annotated[SecretStr, AfterValidator(_not_empty)]
PbxName = Annotated[Id, AfterValidator(_pbx_name)]
Listen = Annotated[str, AfterValidator(_listen)]
ChannelPattern = Annotated[str, AfterValidator(_channel)]
CrmUrl = Annotated[HttpUrl, AfterValidator(_crm_url)]
StoreUrl = Annotated[SecretStr, AfterValidator(_store_url)]
CdrSource = Annotated[SecretStr, AfterValidator(_cdr_source)]
TableName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_$]{1,64}(\.[A-Za-z0-9_$]{1,64})?$")]
Timezone = Annotated[str, AfterValidator(_timezone)]
Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=1, le=36500)]
