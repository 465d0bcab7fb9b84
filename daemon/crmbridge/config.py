"""The settings: a TOML file, the environment (`CRMBRIDGE_SECTION__KEY`) and systemd credentials (`section.key`).

Only `cli`, `app` and `demo` know them; the other parts are handed plain values. Every mistake is found at once and told
with its key and what is allowed. Secrets don't show in a repr.

Where PBXes are named one by one (`[[pbxes]]`), `Settings.each` gives what one PBX alone would have; whatever has to do
with a PBX takes that. What single values may be stands in `config_values`, where they are read in `config_sources`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from crmbridge.config_sources import (
    ENV_PREFIX,
    SHORT_FORM,
    ConfigError,
    add_credentials,
    add_environment,
    mistake,
    read_file,
    section,
)
from crmbridge.config_values import (
    CdrSource,
    ChannelPattern,
    CrmUrl,
    Days,
    Endpoint,
    Id,
    Listen,
    Network,
    Password,
    PbxName,
    Port,
    Regex,
    StoreUrl,
    TableName,
    Text,
    Timezone,
    Username,
)

__all__ = ["DEFAULT_FILE", "SHORT_FORM", "ConfigError", "Settings", "load", "parse"]

DEFAULT_FILE = Path("/etc/crmbridge/config.toml")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClientSettings(Section):
    """One of several clients that share the PBX."""

    client_id: Id
    pbx: Id | None = None
    """The PBX on which this entry counts; None: all of them."""
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

    url: CrmUrl
    client_id: Id
    timeout_s: PositiveFloat = 10
    concurrency: PositiveInt = 8
    ring_expires_s: PositiveFloat = 60
    answer_expires_s: PositiveFloat = 3600
    clients: list[ClientSettings] = []


class AmiSettings(Section):
    """How Asterisk is reached."""

    host: Id = "127.0.0.1"
    port: Port = 5038
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

    listen: Listen = "127.0.0.1:6560"
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

    channel: ChannelPattern = "PJSIP/{ext}"
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
    keep_days: Days = 180
    keep_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    url: StoreUrl | None = None
    """Of the call list's database; None: SQLite in state_dir."""
    keep_calls_days: Days | None = None
    """None: for good."""


class ClaimSettings(Section):
    """Two bridges on the same PBXes: who tells what is settled in the database of store.url."""

    bridge: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")] | None = None
    """This bridge's name; None: it is alone."""
    timeout_s: PositiveFloat = 2
    lease_s: PositiveFloat = 2


class CdrSettings(Section):
    """Where call records come from."""

    source: CdrSource = SecretStr("ami")
    """`ami`, a database's address, or a file of cdr_csv or cdr_custom."""
    table: TableName = "cdr"
    timezone: Timezone | None = None
    """Of the PBX's clock; None: this machine's own."""
    recordings_dir: Path | None = None
    """Where the PBX keeps recordings; None: none are served."""
    links_expire_s: PositiveInt = 3600
    """How long a signed link to a recording opens it."""


class OwnPbxSettings(PbxSettings):
    """What is what on one of several PBXes."""

    name: PbxName


class OwnDialerSettings(Section):
    """How clicks ring on one of several PBXes; what is None is as in [dialer]."""

    channel: ChannelPattern | None = None
    context: Id | None = None
    caller_id: Text | None = None
    auto_answer: bool | None = None


class OnePbxSettings(Section):
    """One of several PBXes."""

    client_id: Id | None = None
    """Whose all is there that no entry of crm.clients claims; None: crm.client_id."""
    ami: AmiSettings
    pbx: OwnPbxSettings
    cdr: CdrSettings = CdrSettings()
    dialer: OwnDialerSettings = OwnDialerSettings()


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    mask_numbers: bool = False


class _Environment(EnvSettingsSource):
    """The environment, without single keys of `[[pbxes]]`: those are put in by the PBX's name (`add_environment`)."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if isinstance(values.get("pbxes"), dict):
            del values["pbxes"]
        return values


_OF_EACH: Any = Field(default=None, validate_default=False)
"""For the sections of the only PBX. With [[pbxes]] there are none but in what `each` gives: who takes these is to fail.
"""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    crm: CrmSettings
    ami: AmiSettings = _OF_EACH
    pbx: PbxSettings = _OF_EACH
    pbxes: list[OnePbxSettings] = []
    tell: TellSettings = TellSettings()
    numbers: NumberSettings = NumberSettings()
    http: HttpSettings
    dialer: DialerSettings = DialerSettings()
    store: StoreSettings = StoreSettings()
    claims: ClaimSettings = ClaimSettings()
    cdr: CdrSettings = _OF_EACH
    log: LogSettings = LogSettings()

    @property
    def names_pbxes(self) -> bool:
        """Whether PBXes are named one by one, and so told apart wherever something is said of one."""
        return bool(self.pbxes)

    def each(self) -> list[Settings]:
        """What each PBX would have if it were the only one: its ami, pbx, cdr and clients, and how its phones ring."""
        return [self._of(one) for one in self.pbxes] or [self]

    def _of(self, one: OnePbxSettings) -> Settings:
        dialer = self.dialer.model_copy(update=one.dialer.model_dump(exclude_none=True))
        clients = [client for client in self.crm.clients if client.pbx in {None, one.pbx.name}]
        crm = self.crm.model_copy(update={"client_id": one.client_id or self.crm.client_id, "clients": clients})
        own = {"ami": one.ami, "pbx": one.pbx, "cdr": one.cdr, "dialer": dialer, "crm": crm}
        return self.model_copy(update={**own, "pbxes": [one]})

    @model_validator(mode="before")
    @classmethod
    def _either_form(cls, values: dict[str, Any]) -> dict[str, Any]:
        short = [name for name in SHORT_FORM if name in values]
        if not values.get("pbxes"):
            return {**{name: {} for name in SHORT_FORM}, **values}
        if short:
            both = ", ".join(f"[{name}] ({ENV_PREFIX}{name.upper()}__…)" for name in short)
            raise ValueError(f"pbxes: there is {both}, too: name all PBXes in [[pbxes]], each with its own sections")
        return values

    @model_validator(mode="after")
    def _tell_clients_apart(self) -> Self:
        users = {(one.username, one.client_id) for one in self.crm.clients if one.username is not None}
        names = [self.http.username, *(name for name, _ in users)]
        for name in _twice(names):
            raise ValueError(f"crm.clients: username {name!r} is another client's or http.username: each needs its own")
        return self

    @model_validator(mode="after")
    def _tell_pbxes_apart(self) -> Self:
        names = [one.pbx.name for one in self.pbxes] or [self.pbx.name]
        for name in _twice(names):
            at = len(names) - 1 - names[::-1].index(name)
            raise ValueError(f"pbxes.{at}.pbx.name: {name!r} is another PBX's name, too: each needs its own")
        places = [f"{one.ami.host}:{one.ami.port}" for one in self.pbxes]
        for place in _twice(places):
            one, other = [names[at] for at, there in enumerate(places) if there == place][:2]
            raise ValueError(f"pbxes: {one} and {other} are both at {place}: each of its calls would be told twice")
        for at, client in enumerate(self.crm.clients):
            if client.pbx is not None and client.pbx not in names:
                raise ValueError(f"crm.clients.{at}.pbx: there is no PBX {client.pbx!r} (known: {', '.join(names)})")
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
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides what `load` read from file and credentials."""
        return (_Environment(settings_cls), init_settings)


def load(file: Path) -> Settings:
    """Read the settings. Raises ConfigError that names every mistake."""
    values = read_file(file)
    add_credentials(values, set(Settings.model_fields))
    add_environment(values, OnePbxSettings)
    if "STATE_DIRECTORY" in os.environ:  # systemd's StateDirectory=
        section(values, "store").setdefault("state_dir", os.environ["STATE_DIRECTORY"].partition(":")[0])
    return parse(values, source=str(file))


def parse(values: dict[str, Any], *, source: str) -> Settings:
    """Settings from plain values. Raises ConfigError that names every mistake; `source` says where they came from."""
    try:
        return Settings(**values)
    except ValidationError as error:
        mistakes = [mistake(Settings, detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]
        lines = "".join(f"\n  {one}" for one in sorted(mistakes))
        raise ConfigError(f"{len(mistakes)} mistake(s) in the settings ({source} and environment):{lines}") from None


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
