"""`crmbridge questionnaire`: the client's four questions, answered for this installation.

The page goes back to the CRM's people: addresses, names, examples, and no secret. docs/questionnaire.md is the same
page for the settings of docs/config.toml.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlencode

import typer

from crmbridge import config
from crmbridge.config import ClientSettings, Settings
from crmbridge.store import servers
from crmbridge.store.call_tables import VIEWS
from crmbridge.terminal import ConfigOption, load
from crmbridge.web.server import host_and_port

NUMBER = "033004799"
"""Of the questionnaire's own examples."""
EXTENSION = "777"


def questionnaire(config_file: ConfigOption = config.DEFAULT_FILE) -> None:
    """Print the client's questionnaire with its answers for this installation, without secrets."""
    typer.echo(page(load(config_file)), nl=False)


def page(settings: Settings) -> str:
    """The page, in Markdown."""
    parts = [_head(settings), _call_list(settings), _callbacks(settings), _click(settings)]
    return "\n".join(line for part in parts for line in part)


def _head(settings: Settings) -> Iterable[str]:
    crm = settings.crm
    yield "# The phone system and the FixDigital CRM"
    yield ""
    pbxes = settings.each()
    names = ", ".join(f"`{one.pbx.name}`" for one in pbxes)
    yield f"{'PBXes' if settings.names_pbxes else 'PBX'}: {names} (Asterisk, joined by crmbridge)."
    yield f"Numbers are written as `{_number(settings)}` in both directions; any spelling is understood."
    yield ""
    which = "| PBX " if settings.names_pbxes else ""
    yield f"{which}| ClientId | calls to | over | extensions | user |"
    yield f"{'|---' if which else ''}|---|---|---|---|---|"
    for one in crm.clients:
        where = f"| {f'`{one.pbx}`' if one.pbx else 'all'} " if which else ""
        yield where + _client(one, settings.http.username)
    for pbx in pbxes:
        where = f"| `{pbx.pbx.name}` " if which else ""
        rest = "all others" if pbx.crm.clients else "all"
        yield f"{where}| `{pbx.crm.client_id}` | {rest} | {rest} | {rest} | `{_user(settings, pbx.crm.client_id)}` |"
    yield ""


def _client(one: ClientSettings, common: str) -> str:
    lists = (one.dids, one.trunks, one.extensions)
    shown = " | ".join(", ".join(f"`{each}`" for each in some) or "-" for some in lists)
    return f"| `{one.client_id}` | {shown} | `{one.username or common}` |"


def _user(settings: Settings, client_id: str) -> str:
    """Whose credentials are for this client."""
    own = (one.username for one in settings.crm.clients if one.client_id == client_id and one.username)
    return next(own, settings.http.username)


def _call_list(settings: Settings) -> Iterable[str]:
    yield "## 1. Get call list by phone number"
    yield ""
    query = urlencode({"number": _number(settings)})
    yield f"`GET {_base(settings)}/calls?{query}`, HTTP Basic, from {_allowed(settings)}."
    yield "Newest first; also `ext`, `direction`, `since`, `until`, `ClientId`, `limit`, `cursor`. The answer:"
    yield ""
    yield "```"
    yield (
        '{"success":true,"result":[{"time":"2026-11-23 05:52:57","ext":"777","number":"'
        f'{_number(settings)}","duration":62,"filename":"","incoming":true}}]}}'
    )
    yield "```"
    yield ""
    yield from _sql(settings)
    served = [one for one in settings.each() if one.cdr.recordings_dir is not None]
    if not served:
        yield "Recordings are not served."
    else:
        lives_s = min(one.cdr.links_expire_s for one in served)
        yield f"Recordings: `{_base(settings)}/recordings/` with `filename` behind it; over HTTP each line has a `link`"
        yield f"besides, which a browser opens without the password for {lives_s} s."
    yield ""


def _sql(settings: Settings) -> Iterable[str]:
    url = settings.store.url
    if url is None or not url.get_secret_value().startswith("mysql"):
        yield "Direct SQL is not offered here: the list lies in a file, not in MySQL or MariaDB (`store.url`)."
        yield ""
        return
    address = servers.address(url.get_secret_value())
    yield f"Direct SQL: MySQL protocol, `{servers.shown_hosts(address)}`, database"
    yield f"`{address.database}`, a user of its own (`crmbridge sql-access` makes it), read only, these views:"
    yield f"{', '.join(f'`{view}`' for view in VIEWS)}."
    yield "Each has `time`, `ext`, `number`, `duration`, `filename`, `incoming`."
    yield ""
    yield "```sql"
    yield f"SELECT * FROM all_calls WHERE number = '{_number(settings)}' ORDER BY time DESC;"  # noqa: S608  # is shown, not run
    yield "```"
    yield ""
    yield "Your own query is valid with `$outgoingCallsTableName` = `outgoing_calls` and, for `%s`,"
    yield "``WHERE 0) UNION ALL SELECT `time`, `ext`, `number`, `duration`, `filename`, `incoming` FROM (all_calls``;"
    yield "`$phoneInSearchFormat` in quotes."
    yield ""


def _callbacks(settings: Settings) -> Iterable[str]:
    kinds = (
        ("2. Send incoming call", "incomingCall", "when an extension rings", settings.crm.ring_expires_s),
        ("3. Send answered incoming call", "incomingCallAnswered", "when one talks", settings.crm.answer_expires_s),
    )
    for title, operation, when, expires_s in kinds:
        asked = {"operation": operation, "sExt": EXTENSION, "sNumber": _number(settings)}
        query = urlencode({**asked, "ClientId": settings.crm.client_id})
        yield f"## {title}"
        yield ""
        yield f"`GET {_plain_url(settings)}?{query}`"
        yield ""
        yield f"At once {when} with a caller from outside; once per call and extension."
        yield 'It is sent until `{"success":true,…}` comes back with HTTP 200, for as long as it is of use'
        yield f"({expires_s:g} s), always with the same `Idempotency-Key` header. `success: false` or HTTP 4xx ends it."
        yield ""


def _click(settings: Settings) -> Iterable[str]:
    query = urlencode({"sExt": EXTENSION, "sNumber": _number(settings), "ClientId": settings.crm.client_id})
    yield "## 4. Get request for call to client"
    yield ""
    yield f"`{_base(settings)}/dialer/sodialer.php?{query}`, GET or POST, HTTP Basic, from {_allowed(settings)}."
    if settings.http.credentials_as_parameters:
        yield "`username` and `password` are taken as parameters, too."
    yield 'The answer: `{"success":true,"result":[]}`, or an HTTP error with'
    yield '`{"success":false,"error":{"code":"…","message":"…"}}`.'
    yield "The extension's phone rings; when it is answered, the number is dialed. The same click within"
    yield f"{settings.dialer.duplicate_window_s:g} s is one call."
    yield ""


def _number(settings: Settings) -> str:
    return "+97233004799" if settings.numbers.format == "e164" else NUMBER


def _allowed(settings: Settings) -> str:
    return ", ".join(f"`{one}`" for one in settings.http.allow) or "nowhere yet (`http.allow`)"


def _plain_url(settings: Settings) -> str:
    """Without parameters of its own: one may be a secret."""
    return str(settings.crm.url).partition("?")[0]


def _base(settings: Settings) -> str:
    host, port = host_and_port(settings.http.listen)
    scheme = "https" if settings.http.tls_cert else "http"
    with_brackets = f"[{host}]" if ":" in host else host
    return f"{scheme}://{'PBX' if _is_no_address(host) else with_brackets}:{port}"


def _is_no_address(host: str) -> bool:
    """Whether others reach the host by another address: all of its own are meant, or none that they see."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_loopback
