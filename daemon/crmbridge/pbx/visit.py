"""A session with Asterisk's Manager Interface that follows nothing: it logs in, asks what there is, and leaves.

What can be asked with the few rights of our user: settings, lists, and the value of a dialplan function (`Getvar`,
`write = reporting`). Functions tell much that no action of these rights does: whether a context exists, what an
endpoint's context is, what stands in a configuration file (func_config.c, func_dialplan.c, func_pjsip_endpoint.c).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

from crmbridge.pbx import filters
from crmbridge.pbx.connection import Address, Answer, Connection, ConnectionLostError, connected, log_in
from crmbridge.pbx.listing import LISTS, List
from crmbridge.pbx.pauses import Timing
from crmbridge.pbx.wire import Frame

DIALPLAN = List("ShowDialPlan", "ShowDialPlanComplete", "ListDialplan")
_ITEMS = {"DeviceStateList": "DeviceStateChange", "ExtensionStateList": "ExtensionStatus"}
"""Of the lists whose items come by themselves, too."""
_WANTED = {name for one in (*LISTS, DIALPLAN) for name in (one.item, one.complete) if name}
_PREFIX = "visit-"


class Visit:
    """A session that is logged in. Asking raises NotConnectedError, ConnectionLostError, ActionTimeoutError."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._ids = count(1)
        self._lists: dict[str, tuple[List, list[Frame], asyncio.Future[bool]]] = {}
        self._booted = asyncio.Event()
        self._connection: Connection

    def begin(self, connection: Connection) -> None:
        """From now on it can be asked."""
        self._connection = connection

    @property
    def version(self) -> str:
        """AMI's, as in its greeting."""
        return self._connection.version or "unknown"

    async def booted(self) -> bool:
        """Whether Asterisk says that it has started, as it does after each login to users with `read = system`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.boot_wait_s):
                await self._booted.wait()
        return self._booted.is_set()

    async def ask(self, action: str) -> Answer:
        """Its answer, whatever it is."""
        return await self._connection.send({"Action": action})

    async def value(self, variable: str) -> str:
        """What a dialplan function gives (`DIALPLAN_EXISTS(from-trunk)`); empty where it gives nothing, or can't."""
        answer = await self._connection.send({"Action": "Getvar", "Variable": variable})
        return answer.headers.get("Value", "") if answer.success else ""

    async def listed(self, one: List) -> list[Frame] | None:
        """The items of a list; None where Asterisk refuses it or does not complete it."""
        action_id = f"{_PREFIX}{next(self._ids)}"
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        items: list[Frame] = []
        self._lists[action_id] = (one, items, done)
        self._connection.post(one.asked(action_id))
        lost = asyncio.create_task(self._connection.lost())
        try:
            either: list[asyncio.Future[Any]] = [done, lost]
            await asyncio.wait(either, timeout=self._timing.list_most_s, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not done.done():
                raise ConnectionLostError("the connection to Asterisk was lost")
        finally:
            lost.cancel()
            del self._lists[action_id]
        return items if done.done() and done.result() else None

    def ask_for_all(self) -> None:
        """Have all listed that the daemon has listed after a connect, so that calls under way are known."""
        for one in LISTS:
            self._connection.post(one.asked(f"record-{one.action}"))

    async def stay(self, stop: asyncio.Event) -> None:
        """Hold the session until `stop`. Raises ConnectionLostError where it ends before."""
        ends = [stop.wait(), self._connection.lost(), self._connection.keep_alive()]
        tasks = [asyncio.create_task(one) for one in ends]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not stop.is_set():
            raise ConnectionLostError("the connection to Asterisk was lost")

    def take(self, frame: Frame) -> None:
        """A frame that answers no action that waits for one."""
        event = frame.get("Event")
        if event == "FullyBooted":
            self._booted.set()
        found = self._lists.get(frame.get("ActionID", ""))
        if found is None:
            return
        one, items, done = found
        if done.done():
            return
        if event == one.complete or frame.get("Response") == "Error":
            done.set_result(event == one.complete)
        elif event is not None and event == (one.item or _ITEMS.get(one.action)):
            items.append(frame)


@asynccontextmanager
async def visit(
    address: Address,
    username: str,
    secret: str,
    timing: Timing | None = None,
    on_bytes: Callable[[bytes], None] | None = None,
) -> AsyncIterator[Visit]:
    """Log in, and out again in the end; `on_bytes` gets all that comes, from the greeting on.

    Raises LoginRefusedError, and what is PASSING.
    """
    timing = timing or Timing()
    session = Visit(timing)
    wanted = _WANTED | set(_ITEMS.values()) | filters.OF_SESSION
    async with connected(address, timing, wanted=wanted, on_frame=session.take, on_bytes=on_bytes) as connection:
        await log_in(connection, address, username, secret)
        session.begin(connection)
        yield session


def allowed(commands: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """What `ListCommands` answers, as the actions that the user may use and the write classes that allow each.

    `Hangup: Hangup channel.  (Priv: system,call,all)`: whoever has one of these may (main/manager.c). Those that need
    no class have an empty set.
    """
    found = {}
    for action, text in commands.items():
        _, told, classes = text.rpartition("(Priv: ")
        if told:
            found[action] = frozenset(classes.rstrip(") ").split(",")) - {"all", "<none>"}
    return found
