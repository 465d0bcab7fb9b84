"""`crmbridge sql-access`: the user by whom the CRM reads the call list with its own SQL."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from crmbridge import build, config
from crmbridge.config import Settings
from crmbridge.store import sql_access as access
from crmbridge.store.call_tables import VIEWS
from crmbridge.store.servers import address
from crmbridge.terminal import EX_CONFIG, EX_IOERR, ConfigOption, fail, load, run

ClientOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="For this client alone: a user of its own, who reads this client's calls."),
]
UserOption = Annotated[str | None, typer.Option(help="The user's name; without it crm, for a client crm_ID.")]
FromOption = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="ADDRESS", help="From where it may come, in place of http.allow; may be repeated."),
]
PasswordOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its password; without it one is made up and shown.")
]
ConnectionsOption = Annotated[
    int, typer.Option(min=1, max=1000, help="Connections at the same time, for each address.")
]
SecondsOption = Annotated[int, typer.Option(min=1, max=3600, help="Seconds for one statement (MariaDB).")]
DropOption = Annotated[bool, typer.Option("--drop", help="Take the user away again, and its client's views.")]
ApplyOption = Annotated[bool, typer.Option("--apply", help="Do it, rather than print how it is done.")]
AdminOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="CRMBRIDGE_SQL_ADMIN",
        help="As whom to apply it: mysql+asyncmy://root@localhost/?unix_socket=/run/mysqld/mysqld.sock",
    ),
]


def sql_access(
    client: ClientOption = None,
    user: UserOption = None,
    from_: FromOption = None,
    password_file: PasswordOption = None,
    connections: ConnectionsOption = 10,
    statement_s: SecondsOption = 10,
    drop: DropOption = False,
    apply: ApplyOption = False,
    admin: AdminOption = None,
    config_file: ConfigOption = config.DEFAULT_FILE,
) -> None:
    """Print the statements that give the CRM its read-only database user: crmbridge sql-access | mariadb -u root.

    They may be run again: they make the user what they say, its password included.
    """
    settings = load(config_file)
    url = _server(settings)
    database = address(url).database or ""
    reader = access.Reader(
        name=_named(client, user),
        password=_password(password_file),
        hosts=_hosts(settings, from_),
        connections=connections,
        statement_s=statement_s,
    )
    views = _views(database, client)
    if not drop:
        run(_views_made(settings, url))
    server = run(access.ask(url))
    if drop:
        statements = access.removal(reader, database, client)
        done, notes = f"{reader.name} may read nothing any more", _notes_on_removal(reader, views, client)
    else:
        statements = access.statements(reader, server, database, client)
        done = f"{reader.name} may read {', '.join(VIEWS)} in {views} from {_from(reader)}"
        notes = _notes(settings, reader, server, client, made_up=password_file is None)
    if apply:
        run(access.apply(admin or url, statements))
        typer.echo(done)
    else:
        typer.echo(f"-- For {server.version}; as a user who may create users: crmbridge sql-access | mariadb -u root")
        typer.echo("".join(f"{statement};\n" for statement in statements), nl=False)
    for note in notes:
        typer.echo(f"crmbridge: {note}", err=True)


def _server(settings: Settings) -> str:
    url = settings.store.url.get_secret_value() if settings.store.url else ""
    if not url.startswith("mysql"):
        hint = 'store.url = "mysql+asyncmy://crmbridge:PASSWORD@127.0.0.1/crmbridge", then crmbridge sync'
        fail(f"the call list is kept in SQLite, which nobody can read from elsewhere: set {hint}", EX_CONFIG)
    return url


async def _views_made(settings: Settings, url: str) -> None:
    """They may not be there yet, or belong to a user by whom crmbridge came before. Raises StoreError."""
    async with build.call_list(settings, lambda records: []):  # noqa: ARG005  # none is read here
        await access.make_views(url)


def _named(client: str | None, user: str | None) -> str:
    if client is None or user is not None:
        return _checked("crm" if user is None else user, "--user")
    try:
        return access.client_user(client)
    except ValueError as error:
        fail(f"--client: {error}", 2)


def _views(database: str, client: str | None) -> str:
    """The database with the user's views."""
    try:
        return database if client is None else access.client_database(database, client)
    except ValueError as error:
        fail(f"--client: {error}", 2)


def _hosts(settings: Settings, given: list[str] | None) -> list[access.Host]:
    try:
        return access.hosts(given or settings.http.allow)
    except ValueError as error:
        fail(f"{'--from' if given else 'http.allow'}: {error}", 2 if given else EX_CONFIG)


def _password(file: Path | None) -> str:
    if file is None:
        return _made_up()
    try:
        return _checked(file.read_text(encoding="utf-8").rstrip("\r\n"), f"the password in {file}")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} can't be read: {error}", EX_IOERR)


def _checked(text: str, what: str) -> str:
    try:
        access.quoted(text)
    except ValueError as error:
        fail(f"{what}: {error}", 2)
    return text


def _made_up() -> str:
    """144 bits, with letters of both kinds, a digit and a sign: servers may insist on that (validate_password)."""
    while True:
        text = secrets.token_urlsafe(24)
        if any(map(str.isdigit, text)) and any(map(str.isupper, text)) and any(map(str.islower, text)):
            return f"{text[:16]}-{text[16:]}"


def _from(reader: access.Reader) -> str:
    return ", ".join(host.pattern for host in reader.hosts)


def _notes_on_removal(reader: access.Reader, views: str, client: str | None) -> list[str]:
    notes = [f"{reader.name} goes as one who comes from {_from(reader)}; mysql.user has all it may come from"]
    return notes if client is None else [*notes, f"the database {views} stays, without views: DROP DATABASE it"]


def _notes(
    settings: Settings, reader: access.Reader, server: access.Server, client: str | None, *, made_up: bool
) -> list[str]:
    """What whoever runs this must know."""
    notes = [f"the password of {reader.name}, shown this once: {reader.password}"] if made_up else []
    far = [host.pattern for host in reader.hosts if not host.local]
    if far and not server.has_tls:
        notes.append(f"the server has no TLS: numbers and the password can be read on the way from {', '.join(far)}")
    if access.ANYWHERE in far:
        notes.append("it may come from anywhere: name the CRM's addresses (http.allow or --from)")
    if client is None and any(one.stands_apart for one in settings.crm.clients):
        notes.append("it reads the calls of all clients of the CRM: --client makes a user for one of them")
    if not server.is_mariadb:
        notes.append("MySQL can't limit how long this user's statements take: see max_execution_time")
    return notes
