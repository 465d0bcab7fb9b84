"""The settings: a TOML file, the environment (`CRMBRIDGE_SECTION__KEY`) and systemd credentials (`section.key`).

Only `cli`, `app` and `demo` know them; the other parts are handed plain values. Every mistake is found at once and told
with its key and what is allowed. Secrets don't show in a repr.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

DEFAULT_FILE = Path("/etc/crmbridge/config.toml")
ENV_PREFIX = "CRMBRIDGE_"
FILES = frozenset({"ami.ca_file", "http.tls_cert", "http.tls_key"})
"""Settings that name a file: a systemd credential of such a name is that file."""


class ConfigError(Exception):
    """The settings can't be used; the message has a line for each mistake."""


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


Username = Annotated[Id, AfterValidator(_username)]
Password = Annotated[SecretStr, AfterValidator(_not_empty)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClientSettings(Section):
    """One of several clients that share the PBX."""

    client_id: Id
    dids: list[Id] = []
    extensions: list[Id] = []
    trunks: list[Endpoint] = []
    username: Username | None = None
    password: Password | None = None
    allow: list[Network] | None = None
    """In place of http.allow."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self

    @property
    def stands_apart(self) -> bool:
        """Whether it has credentials or addresses of its own."""
        return self.username is not None or self.allow is not None


class CrmSettings(Section):
    """Where callbacks go."""

    url: Annotated[HttpUrl, AfterValidator(_crm_url)]
    client_id: Id
    timeout_s: PositiveFloat = 10
    concurrency: PositiveInt = 8
    ring_expires_s: PositiveFloat = 60
    answer_expires_s: PositiveFloat = 3600
    clients: list[ClientSettings] = []


class AmiSettings(Section):
    """How Asterisk is reached."""

    host: Id = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 5038
    username: Id
    secret: SecretStr
    tls: bool = False
    ca_file: Path | None = None


class PbxSettings(Section):
    """What is what on this PBX."""

    name: Id = "pbx"
    inbound_contexts: list[Id] = [
        # vanilla and what FreePBX gives its trunks; a phone that stands in one of these is a mistake on any PBX
        "from-trunk*",
        "from-pstn*",
        "from-sip-external",
        "from-dahdi",
        "from-zaptel",
        "from-analog",
        "from-digital",
    ]
    trunks: list[Endpoint] = []
    extensions: Regex = r"\d{2,5}"
    endpoints: dict[Endpoint, Id] = {}


class TellSettings(Section):
    """What is told in debatable cases (calls.debatable says why the defaults are what they are)."""

    ring_again: bool = False
    consult_ring: bool = False
    handed_over: bool = False
    conference: bool = True
    mobiles: dict[Id, Id] = {}


class NumberSettings(Section):
    """How numbers are written."""

    region: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "IL"
    format: Literal["national", "e164", "digits"] = "national"
    anonymous: Id = "anonymous"


class HttpSettings(Section):
    """Our own HTTP endpoint: dialer and call list."""

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:6560"
    username: Username
    password: Password
    credentials_as_parameters: bool = False
    allow: list[Network] = ["127.0.0.0/8", "::1/128"]
    trusted_proxies: list[Network] = []
    links_from: list[Network] = []
    """From where signed links to recordings are followed, besides `allow`: the browsers of the CRM's users."""
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


class DialerSettings(Section):
    """Click to call."""

    channel: Annotated[str, AfterValidator(_channel)] = "PJSIP/{ext}"
    context: Id = "from-internal"
    caller_id: Text = '"CRM {number}" <{ext}>'
    auto_answer: bool = False
    timeout_s: PositiveFloat = 30
    per_extension_per_minute: PositiveInt = 6
    per_minute: PositiveInt = 60
    max_calls: PositiveInt = 30
    when_talking: Literal["refuse", "ring"] = "refuse"
    when_away: Literal["refuse", "ring"] = "refuse"
    international: bool = False
    allow_numbers: list[Regex] = []
    deny_numbers: list[Regex] = []
    duplicate_window_s: PositiveFloat = 10


class StoreSettings(Section):
    """What lasts."""

    state_dir: Path = Path("/var/lib/crmbridge")
    keep_days: Annotated[int, Field(ge=1, le=36500)] = 180
    keep_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    url: Annotated[SecretStr, AfterValidator(_store_url)] | None = None
    """Of the call list's database; None: SQLite in state_dir."""
    keep_calls_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    """None: for good."""


class ClaimSettings(Section):
    """Two bridges on the same PBXes: who tells what is settled in the database of store.url."""

    bridge: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")] | None = None
    """This bridge's name; None: it is alone."""
    timeout_s: PositiveFloat = 2
    lease_s: PositiveFloat = 2


class CdrSettings(Section):
    """Where call records come from."""

    source: Annotated[SecretStr, AfterValidator(_cdr_source)] = SecretStr("ami")
    """`ami`, a database's address, or a file of cdr_csv or cdr_custom."""
    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_$]{1,64}(\.[A-Za-z0-9_$]{1,64})?$")] = "cdr"
    timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    """Of the PBX's clock; None: this machine's own."""
    recordings_dir: Path | None = None
    """Where the PBX keeps recordings; None: none are served."""
    links_expire_s: PositiveInt = 3600
    """How long a signed link to a recording opens it."""


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    mask_numbers: bool = False


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    crm: CrmSettings
    ami: AmiSettings
    pbx: PbxSettings = PbxSettings()
    tell: TellSettings = TellSettings()
    numbers: NumberSettings = NumberSettings()
    http: HttpSettings
    dialer: DialerSettings = DialerSettings()
    store: StoreSettings = StoreSettings()
    claims: ClaimSettings = ClaimSettings()
    cdr: CdrSettings = CdrSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _tell_clients_apart(self) -> Self:
        users = {(one.username, one.client_id) for one in self.crm.clients if one.username is not None}
        names = [self.http.username, *(name for name, _ in users)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"crm.clients: username {name!r} is another client's or http.username: each needs its own")
        return self

    @model_validator(mode="after")
    def _share_a_database(self) -> Self:
        url = self.store.url.get_secret_value() if self.store.url else ""
        if self.claims.bridge is not None and not url.startswith("mysql+asyncmy://"):
            raise ValueError(
                "claims.bridge: needs store.url to be mysql+asyncmy://…, a database that both bridges share"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides what `load` read from file and credentials."""
        return (env_settings, init_settings)


def load(file: Path) -> Settings:
    """Read the settings. Raises ConfigError that names every mistake."""
    values = _read_file(file)
    _add_credentials(values)
    if "STATE_DIRECTORY" in os.environ:  # systemd's StateDirectory=
        _section(values, "store").setdefault("state_dir", os.environ["STATE_DIRECTORY"].partition(":")[0])
    return parse(values, source=str(file))


def parse(values: dict[str, Any], *, source: str) -> Settings:
    """Settings from plain values. Raises ConfigError that names every mistake; `source` says where they came from."""
    try:
        return Settings(**values)
    except ValidationError as error:
        mistakes = [_mistake(detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]
        lines = "".join(f"\n  {mistake}" for mistake in sorted(mistakes))
        raise ConfigError(f"{len(mistakes)} mistake(s) in the settings ({source} and environment):{lines}") from None


def _read_file(file: Path) -> dict[str, Any]:
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


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.setdefault(name, {})
    return section if isinstance(section, dict) else {}


def _add_credentials(values: dict[str, Any]) -> None:
    """systemd credentials named `section.key` (LoadCredential=ami.secret:…) stand above the file."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        raise ConfigError(f"the credentials in {folder} can't be read: {error.strerror}") from None
    for file in files:
        section, dot, key = file.name.partition(".")
        if dot and section in Settings.model_fields:
            try:
                value = str(file) if file.name in FILES else file.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the credential {file.name} can't be read: {error}") from None
            if file.name.startswith("crm.clients."):
                _client_credential(values, file.name, value)
            else:
                _section(values, section)[key] = value


def _client_credential(values: dict[str, Any], name: str, value: str) -> None:
    """`crm.clients.11.password` is that of the entry with this client_id."""
    client_id, _, key = name.removeprefix("crm.clients.").rpartition(".")
    clients = _section(values, "crm").get("clients")
    entries = [one for one in clients if isinstance(one, dict)] if isinstance(clients, list) else []
    found = [one for one in entries if str(one.get("client_id")) == client_id]
    if not found:
        raise ConfigError(
            f"the credential {name} is for no client: no entry of crm.clients has client_id {client_id!r}"
        )
    for entry in found:
        entry[key] = value


def _mistake(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location if part != "[key]")
    message = message.removeprefix("Value error, ")
    if not key:
        return message  # about several sections; it names them
    if kind == "missing":
        return f"{key}: is needed"
    if kind == "extra_forbidden":
        return f"{key}: there is no such setting{_known(location)}"
    return f"{key}: {message}"


def _known(location: tuple[int | str, ...]) -> str:
    model: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        model = ClientSettings if part == "clients" else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ""
    return f" (known: {', '.join(model.model_fields)})"
