"""Addresses of databases, with one host or several, and whose turn it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asyncmy.errors import OperationalError
from sqlalchemy.exc import ArgumentError

from crmbridge.store.servers import Host, Servers, address, listed, shown_hosts

BEGIN = "mysql+asyncmy://bridge:p%40ss@"


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ("db", "db:3306"),
        ("db:3307", "db:3307"),
        ("[::1]:3307", "[::1]:3307"),
        ("db1,db2", "db1:3306,db2:3306"),
        ("db1,db2:3307,10.0.0.3", "db1:3306,db2:3307,10.0.0.3:3306"),
        ("[2001:db8::1],[::1]:3307", "[2001:db8::1]:3306,[::1]:3307"),
        ("db1, db2", "db1:3306,db2:3306"),
    ],
)
def test_hosts(hosts: str, found: str) -> None:
    url = address(f"{BEGIN}{hosts}/crm?ssl_ca=ca.pem")
    assert shown_hosts(url) == found
    assert (url.username, url.password, url.database) == ("bridge", "p@ss", "crm")
    assert url.query == {"ssl_ca": "ca.pem"}
    assert shown_hosts(address(url)) == found


@pytest.mark.parametrize("hosts", ["a,", "a,,b", "a:0,b", "a:70000,b", "a:x,b", "::1,b", "a:x", "a:b:c,d"])
def test_what_is_no_host(hosts: str) -> None:
    with pytest.raises(ArgumentError):
        listed(address(f"{BEGIN}{hosts}/crm"))


class Answering:
    """Servers, each of which answers in its own way."""

    def __init__(self, **answers: BaseException | None) -> None:
        self.answers = answers
        self.tried: list[str] = []

    async def connect(self, **how: Any) -> Any:  # noqa: ANN401  # as asyncmy's
        self.tried.append(how["host"])
        if error := self.answers[how["host"]]:
            raise error
        return Connection()


class Connection:
    def cursor(self) -> Connection:
        return self

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, statement: str) -> None:
        pass

    async def fetchone(self) -> None:
        return None

    async def fetchall(self) -> list[tuple[str, str]]:
        return []


def servers(answering: Answering) -> Servers:
    return Servers([Host(name, 3306) for name in answering.answers], answering.connect)


async def test_the_one_that_served_last_is_tried_first() -> None:
    answering = Answering(a=OperationalError(2003, "away"), b=None, c=None)
    turns = servers(answering)
    await turns.connected()
    await turns.connected()
    answering.answers = {"a": None, "b": OperationalError(2003, "away"), "c": None}
    await turns.connected()
    assert answering.tried == ["a", "b", "b", "b", "c"]


async def test_where_none_serves_the_first_one_tried_says_why() -> None:
    answering = Answering(a=OperationalError(1045, "refused"), b=OSError("away"))
    turns = servers(answering)
    with pytest.raises(OperationalError, match="refused"):
        await turns.connected()
    turns.leave(turns.turn)
    with pytest.raises(OSError, match="away"):
        await turns.connected()


async def test_several_that_waited_in_vain_leave_a_server_once() -> None:
    answering = Answering(a=None, b=None)
    turns = servers(answering)
    waited_on = turns.turn
    turns.leave(waited_on)
    turns.leave(waited_on)
    await turns.connected()
    assert answering.tried == ["b"]


async def test_one_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crmbridge.store.servers.CONNECT_EACH_S", 0.01)
    answering = Answering(a=None, b=None)
    connect = answering.connect

    async def silent(**how: Any) -> Any:  # noqa: ANN401  # as asyncmy's
        made = await connect(**how)
        if how["host"] == "a":
            await asyncio.Event().wait()
        return made

    turns = Servers([Host("a", 3306), Host("b", 3306)], silent)
    await turns.connected()
    assert answering.tried == ["a", "b"]
