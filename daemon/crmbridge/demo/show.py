"""The demo: a simulated PBX, the real bridge, and a receiver that plays the CRM and shows what it is told."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from crmbridge import app, config
from crmbridge.calls.events import CallEvent
from crmbridge.crm.callback import idempotency_key
from crmbridge.demo.receiver import Received, Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.sound import put_recordings
from crmbridge.demo.traces import Told, Trace, shipped
from crmbridge.store.outbox import open_outbox

USERNAME, PASSWORD = "crm", "demo"
"""Of the demo's dialer: it listens on loopback only, and its PBX has no telephone line."""

CLICK = "18a_c2c_pjsip"
"""The recording that answers a click: 777 calls 0521111111."""
FIRST = "22/did_answered"
"""The recording that shows best what this is about."""
RECORDINGS = "monitor"
"""Folder in the demo's own."""
PAUSE_S = 1.0
"""Between two calls, for the eye."""
PORT = 6560
AT_ONCE = 40
"""Calls in progress at the same time in `--once`."""
SETTLE_S = 10.0
"""How long `--once` waits for the last callbacks after the last call has ended."""

_OPERATIONS = {"incomingCall": "rings", "incomingCallAnswered": "answered by"}


@dataclass(slots=True)
class _Stage:
    """Everything that runs in the demo."""

    pbx: SimulatedPbx
    http_port: int


async def forever(console: Console, stop: asyncio.Event) -> None:
    """Play recorded calls one after another until `stop`, and show each callback as it comes."""
    popups = Receiver(on_callback=lambda received: console.print(_popup(received), soft_wrap=True))
    traces = [trace for trace in shipped() if trace.expected]
    traces = [trace for trace in traces if trace.timing]  # those that kept their rhythm
    traces.sort(key=lambda trace: (trace.name != FIRST, -int(trace.asterisk.partition(".")[0]), trace.name))
    with _folder() as folder:
        async with _stage(folder, popups, stop) as stage:
            console.print(_what_to_try(stage.http_port, traces[0]), soft_wrap=True)
            playing = asyncio.create_task(_play_on(stage.pbx, traces, console))
            await stop.wait()
            playing.cancel()
            await asyncio.wait({playing})


async def _play_on(pbx: SimulatedPbx, traces: list[Trace], console: Console) -> None:
    for trace in cycle(traces):
        console.print(f"[dim]── {trace.scenario}  (Asterisk {trace.asterisk}, {trace.name})[/]", soft_wrap=True)
        await pbx.play(trace)
        await asyncio.sleep(PAUSE_S)


async def once(console: Console) -> bool:
    """Play each recorded call once, print what was expected and what was told; whether all were told as expected."""
    traces, receiver, stop = shipped(), Receiver(), asyncio.Event()
    with _folder() as folder:
        async with _stage(folder, receiver, stop) as stage:
            plays = dict(zip(await _play_all(stage.pbx, traces, console), traces, strict=True))
            with suppress(TimeoutError):  # the table shows what is missing
                async with asyncio.timeout(SETTLE_S):
                    await receiver.wait_for(sum(len(trace.expected) for trace in traces))
        async with open_outbox(folder / app.OUTBOX, sole=False) as outbox:
            events = {
                idempotency_key(one.delivery.event): one.delivery.event for one in await outbox.listing(limit=10**6)
            }
    return _report(console, plays, receiver.received, events)


async def _play_all(pbx: SimulatedPbx, traces: list[Trace], console: Console) -> list[str]:
    """Play all, several at once; the prefixes of their ids, in the order of `traces`."""
    places = asyncio.Semaphore(AT_ONCE)

    async def play(trace: Trace) -> str:
        async with places:
            return await pbx.play(trace)

    console.print(f"Playing {len(traces)} recorded calls, {AT_ONCE} at a time, in their own rhythm …")
    return await asyncio.gather(*(play(trace) for trace in traces))


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="crmbridge-demo-") as folder:
        put_recordings(Path(folder) / RECORDINGS, shipped())
        yield Path(folder)


@asynccontextmanager
async def _stage(folder: Path, receiver: Receiver, stop: asyncio.Event) -> AsyncIterator[_Stage]:
    """Everything up and joined; at the end `stop` is set and all is taken down again."""
    click = next(trace for trace in shipped() if trace.name.endswith(CLICK))
    pbx = SimulatedPbx(username="demo", secret="demo", click=click)  # noqa: S106  # loopback, and no real PBX
    with _http_socket() as http:
        async with receiver:
            url = await receiver.start()
            await pbx.start()
            settings = _settings(url, pbx.port, folder, http.getsockname()[1])
            bridge = asyncio.create_task(app.run(settings, stop, http=http))
            try:
                logged_in = asyncio.ensure_future(pbx.logged_in())
                await asyncio.wait({bridge, logged_in}, return_when=asyncio.FIRST_COMPLETED)
                logged_in.cancel()
                if bridge.done():
                    await bridge  # tells why it could not start
                yield _Stage(pbx, http.getsockname()[1])
            finally:
                stop.set()
                await asyncio.wait({bridge})
                await pbx.stop()
            await bridge


def _http_socket() -> socket.socket:
    """The usual port where it is free, else any."""
    for port in (PORT, 0):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return sock
    raise AssertionError("there is always a free port")


def _settings(crm_url: str, ami_port: int, state_dir: Path, http_port: int) -> config.Settings:
    """The defaults, but for what cannot be known of the recorded PBXes: their extensions' pattern and odd phones."""
    endpoints = {name: extension for trace in shipped() for name, extension in trace.endpoints.items()}
    values = {
        "crm": {"url": crm_url, "client_id": "10"},
        "ami": {"port": ami_port, "username": "demo", "secret": "demo"},
        "pbx": {"extensions": r"[17]\d\d", "endpoints": endpoints},
        "http": {"listen": f"127.0.0.1:{http_port}", "username": USERNAME, "password": PASSWORD},
        "store": {"state_dir": state_dir},
        "cdr": {"recordings_dir": state_dir / RECORDINGS},
    }
    return config.parse(values, source="the demo's own settings")


def _popup(received: Received) -> str:
    what = _OPERATIONS.get(received["operation"], received["operation"])
    number, extension = received["sNumber"], received["sExt"]
    colour = "green" if received["operation"] == "incomingCallAnswered" else "yellow"
    return f"  [{colour}]☎ {number} {what} {extension}[/]   [dim]GET {received.target}[/]"


def _what_to_try(port: int, trace: Trace) -> str:
    number = trace.expected[0][2]
    base = f"http://127.0.0.1:{port}"
    return (
        "A simulated PBX replays recorded calls of real Asterisks; the lines with ☎ are what the CRM is told.\n"
        "Try, in another terminal:\n"
        f"  [bold]curl -u {USERNAME}:{PASSWORD}"
        f" '{base}/dialer/sodialer.php?sExt=777&sNumber=033004799&ClientId=10'[/]   click to call\n"
        f"  [bold]curl -u {USERNAME}:{PASSWORD} '{base}/calls?number={number}'[/]   the call list of a number\n"
        f"  {base} and the `link` of a call behind it, in a browser   its recording (a dial tone, here)\n"
        "Ctrl-C ends it.\n"
    )


def _by_play(
    plays: Iterable[str], received: list[Received], events: dict[str, CallEvent]
) -> tuple[dict[str, list[tuple[Told, float]]], list[str]]:
    """What was told of each play, with the milliseconds it took; and the requests that belong to none.

    Within a call they come in order; which of two calls is told first, where one caller calls twice, is no promise.
    """
    told: dict[str, list[tuple[Told, float]]] = {prefix: [] for prefix in plays}
    strays: list[str] = []
    first: dict[str, datetime] = {}
    for event in events.values():
        first[event.call] = min(event.at, first.get(event.call, event.at))
    began = {key: f"{first[event.call].isoformat()} {event.call}" for key, event in events.items()}
    for one in sorted(received, key=lambda each: began.get(each.idempotency_key, "")):
        known = events.get(one.idempotency_key)
        prefix = next((prefix for prefix in told if known is not None and known.call.startswith(prefix)), None)
        if known is None or prefix is None:
            strays.append(one.target)
        else:
            told[prefix].append(((one["operation"], one["sExt"], one["sNumber"]), _ms(known.at, one.at)))
    return told, strays


def _report(console: Console, plays: dict[str, Trace], received: list[Received], events: dict[str, CallEvent]) -> bool:
    told, strays = _by_play(plays, received, events)
    table = Table(show_edge=False)
    for heading in ("", "call", "expected", "told", "ms"):
        table.add_column(heading, no_wrap=heading == "call", justify="right" if heading == "ms" else "left")
    wrong = 0
    for prefix, trace in plays.items():
        result = [callback for callback, _ in told[prefix]]
        right = trace.right(result)
        wrong += not right
        slowest = max((ms for _, ms in told[prefix]), default=None)
        table.add_row(
            "[green]✓[/]" if right else "[red]✗[/]",
            trace.name.removeprefix("recorded/"),
            _short(list(trace.expected)),
            _short(result),
            "" if slowest is None else f"{slowest:.0f}",
        )
    console.print(table)
    for target in strays:
        console.print(f"[red]told for no call:[/] {target}")
    console.print(
        f"{len(plays)} calls, {len(received)} callbacks, {wrong} told otherwise than expected. "
        "ms: from the PBX's event to the CRM, the slowest of the call; on disk in between."
    )
    return not wrong and not strays


def _ms(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds() * 1000


def _short(told: list[Told]) -> str:
    signs = {"incomingCall": "ring", "incomingCallAnswered": "talk"}
    return " ".join(f"{signs[operation]} {extension}" for operation, extension, _ in told) or "nothing"
