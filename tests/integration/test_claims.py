"""Claims in a real MariaDB: one of two gets each, however the way to the database breaks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from asyncmy.errors import OperationalError
from structlog.testing import capture_logs
from tests.asterisk.lab import mariadb
from tests.integration.conftest import Fresh
from tests.integration.test_call_list_mariadb import stopped

from crmbridge.calls.claims import PLACED, Held, Mine, Standing, Told, Without, judge_click, of_callback, of_click
from crmbridge.calls.dialing import Click, Code, Result
from crmbridge.click_claims import ClickClaims
from crmbridge.store import claims_sql as sql
from crmbridge.store.claims import Claims, open_claims, try_out
from crmbridge.store.engine import parsed
from crmbridge.store.quick import Quick
from crmbridge.store.schema import StoreError
from crmbridge.store.servers import Servers, listed

pytestmark = pytest.mark.needs("mariadb")

LIMIT_S = 30


@asynccontextmanager
async def bridge(url: str, name: str = "one", *, timeout_s: float = 2.0, lease_s: float = 2.0) -> AsyncIterator[Claims]:
    async with open_claims(url, bridge=name, timeout_s=timeout_s, lease_s=lease_s) as claims:
        running = asyncio.create_task(claims.run())
        try:
            yield claims
        finally:
            claims.stop()
            async with asyncio.timeout(LIMIT_S):
                await running


def keys(count: int, call: str = "c") -> list[str]:
    return [of_callback(("pbx", f"{call}{number}", "777", "incomingCall")) for number in range(count)]


async def all_of(claims: Claims, wanted: list[str]) -> list[Standing]:
    return list(await asyncio.gather(*(claims.take(key) for key in wanted)))


async def until(happened: Callable[[], bool]) -> None:
    """Look again and again; only for what says nothing of itself."""
    async with asyncio.timeout(LIMIT_S):
        while not happened():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


def rows(fresh: Fresh, what: str = "claim, bridge, version, told") -> list[list[str]]:
    return [line.split("\t") for line in fresh.sql(f"SELECT {what} FROM claims ORDER BY claim").splitlines()[1:]]


async def test_of_two_one_gets_each(fresh: Fresh) -> None:
    wanted = keys(600)
    async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two") as two:
        ours, theirs = await asyncio.gather(all_of(one, wanted), all_of(two, wanted[::-1]))
    pairs = Counter(frozenset((type(mine), type(other))) for mine, other in zip(ours, theirs[::-1], strict=True))
    assert pairs == {frozenset((Mine, Held)): 600}
    assert (one.counts["taken"], two.counts["taken"]) == (two.counts["held"], one.counts["held"])
    assert one.counts["taken"] + two.counts["taken"] == 600


async def test_what_is_told_is_known_to_the_other_and_to_who_comes_later(fresh: Fresh) -> None:
    (key, refused, open_one) = keys(3)
    async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two") as two:
        assert isinstance(await one.take(key), Mine)
        one.tell(key, "confirmed")
        one.tell(refused, "refused")  # without a claim
        assert isinstance(await one.take(open_one), Mine)
        assert await two.take(key) == Told("one", "confirmed", by_us=False)
        assert await two.told([key, refused, open_one, "x"]) == {
            key: Told("one", "confirmed", by_us=False),
            refused: Told("one", "refused", by_us=False),
        }
    async with bridge(fresh.url, "one") as again:
        assert await again.take(key) == Told("one", "confirmed", by_us=True)
        assert isinstance(await again.take(open_one), Held), (
            "of the start before: nobody knows whether that still lives"
        )


async def test_what_is_let_go_of_is_anybodys(fresh: Fresh) -> None:
    (key,) = keys(1)
    async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two") as two:
        assert isinstance(await one.take(key), Mine)
        assert isinstance(await two.take(key), Held)
        one.let_go(key)
        await until(lambda: rows(fresh, "token") == [["0"]])
        assert isinstance(await two.take(key), Mine)
        assert isinstance(await one.take(key), Held)


async def test_who_lets_go_and_wants_it_again_at_once_has_it(fresh: Fresh) -> None:
    (key,) = keys(1)
    async with bridge(fresh.url, "one") as one:
        for _ in range(20):
            assert isinstance(await one.take(key), Mine)
            one.let_go(key)
        assert isinstance(await one.take(key), Mine)
        assert one.trouble is None


async def test_a_lease_that_is_not_renewed_ends_and_one_that_is_does_not(fresh: Fresh) -> None:
    kept, left = keys(2)
    async with bridge(fresh.url, "one", lease_s=0.4) as one, bridge(fresh.url, "two", lease_s=0.4) as two:
        await all_of(one, [kept, left])
        while not isinstance(taken := await two.take(left), Mine):
            assert isinstance(await one.renew(kept), Mine)
            assert isinstance(await two.take(kept), Held)
        assert taken.over == "one"
        assert two.counts["taken_over"] == 1
        assert isinstance(await one.renew(left), Held), "and knows that it must not send it any more"


class Way:
    """A way to the server that can be cut, and can swallow answers."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: set[asyncio.StreamWriter] = set()
        self.swallows = b""
        """After a statement with this in it, no answer comes back, and the connection is cut."""
        self.is_silent = False
        self.swallowed = 0

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._pairs:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, on = await asyncio.open_connection("127.0.0.1", self._to)
        self._pairs |= {writer, on}
        with suppress(ConnectionError):
            await asyncio.gather(self._forth(reader, on), self._back(there, writer))
        self._pairs -= {writer, on}
        writer.transport.abort()
        on.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            if self.swallows and self.swallows in data:
                self.swallowed += 1
                self.swallows = b"\0no more"
                self.is_silent = True
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.is_silent:
                writer.write(data)
            elif self.swallows:
                self.is_silent = False
                raise ConnectionError
        writer.close()


def through(fresh: Fresh, *ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return fresh.url.replace(f"{fresh.server.host}:{fresh.server.port}", hosts)


@pytest.mark.parametrize("statement", [b"INSERT INTO claims", b"UPDATE claims SET bridge", b"COMMIT"])
async def test_an_answer_that_is_lost_is_asked_for_again(fresh: Fresh, statement: bytes) -> None:
    first, second, third = keys(3)
    async with Way(fresh.server.port) as way, bridge(through(fresh, way.port)) as one:
        assert isinstance(await one.take(first), Mine)
        way.swallows = statement
        one.let_go(second)
        if statement == b"COMMIT":
            one.tell(third, "confirmed")
        asked = [first] if statement.startswith(b"UPDATE") else [second]
        assert [type(each) for each in await all_of(one, asked)] == [Mine]
        assert way.swallowed == 1
        assert one.trouble is None


async def test_a_server_that_is_silent_is_left_for_the_next_in_time(fresh: Fresh) -> None:
    (first, second) = keys(2)
    async with (
        Way(fresh.server.port) as silent,
        Way(fresh.server.port) as well,
        bridge(through(fresh, silent.port, well.port)) as one,
    ):
        assert isinstance(await one.take(first), Mine)
        silent.is_silent = True
        began = time.monotonic()
        assert isinstance(await one.take(second), Mine)
        print(f"left after {time.monotonic() - began:.2f} s")
        assert one.trouble is None
        assert one.counts["without"] == 0


async def test_a_database_that_hangs_holds_nothing_up_for_longer_than_is_set(fresh: Fresh) -> None:
    held, *others = keys(20)
    with capture_logs() as logs:
        async with bridge(fresh.url, "one", timeout_s=0.5) as one, bridge(fresh.url, "two") as two:
            assert isinstance(await two.take(held), Mine)
            with stopped(fresh.server):
                async with asyncio.timeout(LIMIT_S):
                    assert await all_of(one, [held, *others]) == [Without()] * 20
                assert "does not answer" in (one.trouble or "")
                assert await one.take(held) == Without()
                one.let_go(held)
                for key in others:
                    one.tell(key, "confirmed")
            await until(lambda: one.trouble is None)
            assert len(await one.told(others)) == 19, "put down when it was back"
            assert await two.take(others[0]) == Told("one", "confirmed", by_us=False)
    assert next(line["event"] for line in logs) == "claims.unreachable"
    (back,) = [line for line in logs if line["event"] == "claims.reachable" and line["sent_without"] == 21]
    assert back["log_level"] == "warning"


async def test_a_way_that_forgets_that_time_is_over_is_left_all_the_same() -> None:
    """As Python 3.11's wait_for does where a server refuses just then; else nobody is answered until it is back."""
    forgotten = 0

    async def refused(**how: object) -> None:
        nonlocal forgotten
        try:
            await asyncio.sleep(0.15)
        except asyncio.CancelledError:
            forgotten += 1
            if forgotten > 1:
                raise
        raise OperationalError(2003, f"can't connect to {how['host']}")

    address = parsed("mysql+asyncmy://root@127.0.0.1:1,127.0.0.1:2/none")
    database = Quick(address, 0.2)
    database._servers = Servers(listed(address), refused)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(OperationalError, match="can't connect"):
            await database.do(sql.is_up_to_date)
    assert forgotten == 1


async def test_a_bridge_that_was_frozen_does_not_take_that_for_the_databases_silence(fresh: Fresh) -> None:
    """Else it would send, when it goes on, what the other one has told meanwhile."""
    (key,) = keys(1)
    async with bridge(fresh.url, "one", timeout_s=0.5) as one, bridge(fresh.url, "two") as two:
        assert isinstance(await two.take(key), Mine)
        two.tell(key, "confirmed")
        await until(lambda: rows(fresh, "told") == [["confirmed"]])
        asked = asyncio.create_task(one.take(key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251  # nothing of this process goes on
        assert await asked == Told("two", "confirmed", by_us=False)
        assert one.trouble is None


async def test_a_database_that_is_away_at_the_start_is_found_later() -> None:
    port = mariadb.free_port()
    async with bridge(f"mysql+asyncmy://root@127.0.0.1:{port}/later") as one:
        assert "is not there" in (one.trouble or "")
        assert await one.take(keys(1)[0]) == Without()
        with mariadb.running(port=port) as server:
            server.run("CREATE DATABASE later")
            await until(lambda: one.trouble is None)
            assert isinstance(await one.take(keys(1)[0]), Mine)


async def test_a_database_that_says_nothing_does_not_hold_up_callback_after_callback(fresh: Fresh) -> None:
    """Each that waits keeps others waiting: with many calls rings would expire for it."""
    held, *others = keys(20)
    async with bridge(fresh.url, timeout_s=0.5) as one:
        assert isinstance(await one.take(held), Mine)
        with stopped(fresh.server):
            async with asyncio.timeout(LIMIT_S):
                assert await one.take(held) == Without()
                assert await one.take(held) == Without(), "after a look of its own"
            waited = [asyncio.create_task(one.take(key)) for key in others]
            await asyncio.sleep(0)
            assert all(each.done() for each in waited)
            assert {each.result() for each in waited} == {Without()}


async def test_a_database_that_is_back_is_found_by_who_asks_first(fresh: Fresh) -> None:
    """A bridge that was cut off is told at the same instant what the other one has told meanwhile."""
    async with bridge(fresh.url) as one:
        one._lost(OSError("cut"))
        assert [type(each) for each in await all_of(one, keys(3))] == [Mine] * 3
        assert (one.trouble, one.counts["without"]) == (None, 0)


async def test_bridges_that_start_at_the_same_time_on_an_empty_database_all_have_claims(fresh: Fresh) -> None:
    async def began(name: str) -> str | None:
        async with open_claims(fresh.url, bridge=name, timeout_s=5.0, lease_s=2.0) as claims:
            return claims.trouble

    assert await asyncio.gather(*(began(f"bridge-{number}") for number in range(6))) == [None] * 6


async def test_tables_that_somebody_dropped_are_made_again(fresh: Fresh) -> None:
    (first, second) = keys(2)
    async with bridge(fresh.url) as one:
        assert isinstance(await one.take(first), Mine)
        fresh.sql("DROP TABLE claims, bridges, schema_versions")
        assert await one.take(second) == Without()
        assert "lacks one of crmbridge's tables" in (one.trouble or "")
        await until(lambda: one.trouble is None)
        assert isinstance(await one.take(second), Mine)


async def test_a_user_without_the_rights_is_told_which(fresh: Fresh) -> None:
    fresh.sql(f"REVOKE ALL ON `{fresh.name}`.* FROM '{fresh.user}'@'127.0.0.1'")
    with pytest.raises(StoreError, match=r"GRANT|user or password"):
        await try_out(fresh.url, "one")
    fresh.sql(f"GRANT SELECT ON `{fresh.name}`.* TO '{fresh.user}'@'127.0.0.1'")
    with pytest.raises(StoreError, match="GRANT SELECT, INSERT"):
        await try_out(fresh.url, "one")


async def test_bridges_know_of_each_other_and_of_one_that_has_their_name(fresh: Fresh) -> None:
    with capture_logs() as logs:
        async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two"):
            await until(lambda: fresh.sql("SELECT bridge FROM bridges ORDER BY bridge").split()[1:] == ["one", "two"])
            took_s, seen = await try_out(fresh.url, "three")
            assert took_s > 0
            assert seen.keys() == {"one", "two"}
            assert rows(fresh) == []
            fresh.sql("UPDATE bridges SET token = 7 WHERE bridge = 'one'")
            one._beats_at = 0.0  # a beat is due
            await one.take(keys(1)[0])
            await until(lambda: any(line["event"] == "claims.name_taken" for line in logs))
    (taken,) = [line for line in logs if line["event"] == "claims.name_taken"]
    assert taken["bridge"] == "one"


async def test_old_claims_are_forgotten_in_steps(fresh: Fresh) -> None:
    async with bridge(fresh.url) as one:
        await all_of(one, keys(30))
        fresh.sql("UPDATE claims SET changed_at = UTC_TIMESTAMP(6) - INTERVAL 25 HOUR ORDER BY claim LIMIT 25")
        assert [await one.prune(86400, limit=20) for _ in range(3)] == [20, 5, 0]
        assert len(rows(fresh)) == 5


async def test_who_stops_puts_down_what_it_told(fresh: Fresh) -> None:
    told = keys(500)
    async with bridge(fresh.url) as one:
        for key in told:
            one.tell(key, "confirmed")
    assert Counter(row[3] for row in rows(fresh)) == {"confirmed": 500}


# Clicks


def click(name: str) -> Click:
    return Click(name, "10", "777", "0529876543", "pbx", 0.0)


def clicks(claims: Claims, window_s: float = 10.0) -> ClickClaims:
    return ClickClaims(claims, lambda: window_s)


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (Result(), None),
        (Result(Code.REFUSED, "the PBX refused: no"), Code.REFUSED),
        (Result(Code.UNKNOWN), Code.UNKNOWN),
    ],
)
async def test_the_second_of_a_click_gets_what_became_of_the_first(
    fresh: Fresh, result: Result, answer: Code | None
) -> None:
    async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two") as two:
        assert await clicks(one).claim(click("first")) is None
        second = asyncio.create_task(clicks(two).claim(click("second")))
        await until(lambda: two.counts["held"] > 0)
        clicks(one).told(click("first"), result)
        async with asyncio.timeout(LIMIT_S):
            became = await second
        assert became is not None
        assert became.code == answer
        again = await clicks(two).claim(click("third"))
        if answer is Code.REFUSED:
            assert again is None, "it was certainly not placed: another click may be"
        else:
            assert again is not None
            assert again.code == answer


async def test_after_its_time_the_same_click_is_another_call(fresh: Fresh) -> None:
    async with bridge(fresh.url, "one") as one, bridge(fresh.url, "two") as two:
        assert await clicks(one).claim(click("first")) is None
        clicks(one).told(click("first"), Result())
        assert await clicks(two).claim(click("second")) == Result()
        fresh.sql("UPDATE claims SET changed_at = changed_at - INTERVAL 11 SECOND")
        assert await clicks(two).claim(click("third")) is None
        key = of_click("10", "777", "0529876543")
        look = partial(judge_click, token=one.token, window_s=10, placing_s=20, again=())
        assert isinstance(await one.ask(key, look), Held)
        clicks(two).told(click("third"), Result())
        await until(lambda: rows(fresh, "told") == [[PLACED]])


async def test_a_click_is_placed_without_the_database_and_says_so(fresh: Fresh) -> None:
    async with bridge(fresh.url, timeout_s=0.3) as one:
        with stopped(fresh.server), capture_logs() as logs:
            assert await clicks(one).claim(click("first")) is None
        assert [line["event"] for line in logs if line["event"].startswith("click.")] == ["click.without_claim"]
