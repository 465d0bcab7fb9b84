"""The running daemon's log: all of a call is found by its linkedid, no number where they are masked, no secret ever."""

from __future__ import annotations

import base64
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import aiohttp
import pytest
from tests.integration.test_bridge import Daemon, configure, daemon, get, targets, trace
from yarl import URL

from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx

LINKEDID = "1795413177.274"
OF_NO_CALL = {"crm.down", "crm.back", "cdr.taken_up"}
"""Events of the loggers below that are about the whole."""
ABOUT_CALLS = {"crmbridge.calls", "crmbridge.crm", "crmbridge.cdr", "crmbridge.clicks", "crmbridge.dialer"}
REFUSED = Reply(body=b'{"success":false,"error":{"code":"x","message":"who is that?"}}')


async def test_all_that_happens_to_a_call_is_found_by_its_linkedid(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        crm.script(Reply(status=503), Reply(), REFUSED)
        linkedid = await pbx.play(trace("01_did_to_ext_answered"), speed=10) + LINKEDID
        await bridge.logged("crm.refused")
        await bridge.logged("cdr.stored")
        await get(await bridge.port(), "/dialer/sodialer.php?sExt=777&sNumber=0529876543&ClientId=10")
        await bridge.logged("click.ended")
        await bridge.logged("cdr.stored", times=2)
    of_call = [line for line in bridge.lines if linkedid in json.dumps(line)]
    assert {line["event"] for line in of_call} == {
        "call.rings",
        "call.answered",
        "crm.retrying",
        "crm.confirmed",
        "crm.refused",
        "cdr.stored",
    }
    for line in of_call:
        if line["event"] != "cdr.stored":
            told = (line["linkedid"], line["extension"], line["number"], line["client_id"])
            assert told == (linkedid, "777", "033004799", "10"), line["event"]
    click = pbx.originated[0]["ChannelId"]
    of_click = [line for line in bridge.lines if click in (line.get("click"), line.get("linkedid"))]
    events = [line["event"] for line in of_click]
    assert set(events) == {"dialer.placed", "click.phone", "click.number", "click.ended", "cdr.stored"}
    assert len(events) == len(set(events)) + 2, "phone and number each ring and answer"
    others = [line for line in bridge.lines if line["logger"] in ABOUT_CALLS and line not in of_call + of_click]
    assert {line["event"] for line in others} <= OF_NO_CALL
    assert {line["level"] for line in of_call + of_click} == {"info", "warning"}


async def test_a_callback_that_came_too_late_is_found_by_its_linkedid(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    crm.default = Reply(status=500)
    config = await configure(tmp_path, pbx, crm)
    config.write_text(config.read_text().replace("client_id = 10", "client_id = 10\nring_expires_s = 1"))
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        linkedid = await pbx.play(trace("01_did_to_ext_answered"), speed=10) + LINKEDID
        (expired,) = await bridge.logged("crm.expired")
        assert expired["linkedid"] == linkedid
        assert expired["reason"]
        crm.default = Reply(manner=crm.default.manner.NEVER)


async def test_a_call_on_an_unknown_line_is_found_by_its_linkedid(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm, '[pbx]\ninbound_contexts = ["from-elsewhere"]')
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        linkedid = await pbx.play(trace("01_did_to_ext_answered"), speed=10) + LINKEDID
        (line,) = await bridge.logged("pbx.unknown_line")
        assert line["linkedid"] == linkedid


async def test_a_scan_fills_no_disk_and_each_request_is_counted(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    many = 300
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge, aiohttp.ClientSession() as session:
        port = await bridge.port()
        for number in range(many):
            headers = {"X-Forwarded-For": f"198.51.100.{number % 200}", "Authorization": "Basic eDp5"}
            async with session.get(f"http://127.0.0.1:{port}/admin{number}", headers=headers) as answer:
                assert answer.status in {401, 429}
    for event in ("http.login_failed", "http.request"):
        lines = [line for line in bridge.lines if line["event"] == event]
        assert len(lines) < many / 4
        if event == "http.request":
            assert len(lines) + sum(line.get("repeated", 0) for line in lines) == many
    assert bridge.lines[-1]["repeated"] > 1, "told at the stop"


# What must not be in it

AMI_SECRET, HTTP_PASSWORD, CLIENT_PASSWORD = "ami-Gehe1m/+:@", "http-Gehe1m%41&", "client-Gehe1m"
DATABASE_PASSWORD, SIGNATURE = "db-Gehe1m", "c2lnbmF0dXJl-Gehe1m"

FAULTS = """
# The daemon as it is, but for defects at the places that see numbers; then the command that follows.
import asyncio, logging, runpy, sys, threading
from sqlalchemy import text
from crmbridge.calls.tracker import Tracker
from crmbridge.clicks import Clicks
from crmbridge.crm.client import CrmClient
from crmbridge.store.clicks import ClickStore
from crmbridge.web.call_list import CallListing

handle, take, send, shown = Tracker.handle, Clicks.take, CrmClient.send, CallListing._shown

def broken_handle(self, event, at):
    number = event.get("CallerIDNum") or ""
    if event.get("Event") == "Newchannel" and len(number) > 5:
        logging.getLogger("lib").warning("of a library: %s", number)
        handle(self, event, at)
        raise ValueError(f"can't take {number!r}")
    return handle(self, event, at)

async def lonely(number):
    raise LookupError(number)

def broken_take(self, pbx, frame, at):
    if frame.get("Event") == "Hangup":
        task = asyncio.ensure_future(lonely(frame.get("CallerIDNum", "") + " hung up"))
        del task  # nobody waits for it
        threading.Thread(target=int, args=(frame.get("CallerIDNum", "") + " in a thread",)).start()
    take(self, pbx, frame, at)

async def broken_write(self, changes):
    with self._reading.connect() as connection:
        connection.execute(text("SELECT :number FROM nowhere"), {"number": str(changes[0].number)})

async def broken_send(self, event, allowed):
    if event.extension == "779":
        raise RuntimeError(f"what is {event.number}?")
    return await send(self, event, allowed)

Tracker.handle, Clicks.take, CrmClient.send = broken_handle, broken_take, broken_send
ClickStore.write = broken_write
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def numbers(count: int) -> list[str]:
    """Of all the lengths that there are, as a trunk may give them."""
    dice = random.Random(7)
    return [
        dice.choice(("0", "+", "1", "5")) + "".join(dice.choice("0123456789") for _ in range(dice.randrange(6, 13)))
        for _ in range(count)
    ]


def spelled(number: str) -> list[str]:
    """As somebody may ask for it."""
    body = number.removeprefix("+")
    parted = f"{body[:3]}-{body[3:6]} {body[6:]}"
    return [quote(number), parted, quote(parted), quote(quote(parted)), "".join(f"%{ord(digit):02x}" for digit in body)]


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_number_and_no_secret_comes_into_the_log_whatever_fails(
    tmp_path: Path, crm: Receiver, form: str
) -> None:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    pbx = SimulatedPbx(username="crmbridge", secret=AMI_SECRET)
    await pbx.start()
    config = await configure(tmp_path, pbx, crm, f"[log]\nlevel = 'debug'\nformat = '{form}'\nmask_numbers = true")
    config.write_text(
        config.read_text().replace('"s3cret"', f"'{AMI_SECRET}'").replace('"http-s3cret"', f"'{HTTP_PASSWORD}'")
        + f"[cdr]\nsource = 'mysql+asyncmy://reader:{DATABASE_PASSWORD}@127.0.0.1:1/asteriskcdrdb'\n"
        f"[[crm.clients]]\nclient_id = 12\ndids = ['0720000']\nusername = 'other'\npassword = '{CLIENT_PASSWORD}'\n"
    )
    callers = numbers(12)
    call = trace("01_did_to_ext_answered")
    try:
        async with daemon(config, sys.executable, str(script)) as bridge:
            await _said(bridge, "ami.connected")
            for number in callers:
                raw = call.raw.replace(b"033004799", number.encode())
                told = json.dumps({"success": False, "error": f"nobody has {number} here"}).encode()
                crm.script(Reply(status=500, body=number.encode()), Reply(body=told), Reply(body=told))
                await pbx.play(replace(call, raw=raw), speed=1000)
            await targets(crm, len(callers))
            await _ask_all(await _port(bridge), callers)
            pbx.cut()
            await _said(bridge, "ami.connected", times=2)
            await pbx.play(replace(call, raw=call.raw.replace(b"777", b"779")), speed=1000)
            await bridge.process.wait()
    finally:
        await pbx.stop()
    assert bridge.process.returncode == 1
    text = "\n".join([json.dumps(line, ensure_ascii=False) for line in bridge.lines] + bridge.errors)
    for event in ("intake.event_failed", "click.not_stored", "bridge.died", "bridge.error_passed_over", "http.request"):
        assert event in text, "this test looks for numbers where there are none"
    for said in ("of a library", "can't take", "LookupError", "what is ", "nobody has", "dialer.refused"):
        assert said in text, said
    for number in [*callers, "033004799"]:
        digits = number.removeprefix("+")
        for way in (text, unquote(text), unquote(unquote(text))):
            assert digits not in re.sub(r"[ ().+-]", "", way), number
    for secret in (AMI_SECRET, HTTP_PASSWORD, CLIENT_PASSWORD, DATABASE_PASSWORD, SIGNATURE):
        for shape in (secret, quote(secret, safe=""), quote(quote(secret, safe="")), _token(secret)):
            assert shape not in text
        assert "Gehe1m" not in unquote(unquote(text)), "not even a part"


def _token(secret: str, user: str = "crm") -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


async def _said(bridge: Daemon, event: str, times: int = 1) -> None:
    """In either form."""
    await bridge.until(lambda: sum(event in one for one in [*map(str, bridge.lines), *bridge.errors]) >= times)


async def _port(bridge: Daemon) -> int:
    await _said(bridge, "http.listening")
    found = re.search(
        r"http\.listening.*?127\.0\.0\.1:(\d+)", "\n".join([*map(json.dumps, bridge.lines), *bridge.errors])
    )
    found = found or re.search(r"127\.0\.0\.1:(\d+).*?http\.listening", "\n".join(map(json.dumps, bridge.lines)))
    assert found
    return int(found[1])


async def _ask_all(port: int, callers: list[str]) -> None:
    """Whatever may be asked with a number or a secret in it, rightly and wrongly."""
    right = {"Authorization": f"Basic {_token(HTTP_PASSWORD)}"}
    wrong = {"Authorization": f"Basic {_token(CLIENT_PASSWORD)}"}
    secrets = "&".join(
        f"{name}={quote(value, safe='')}"
        for name, value in (("username", "crm"), ("password", HTTP_PASSWORD), ("signature", SIGNATURE))
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for number in callers:
            for way in spelled(number):
                for path in (
                    f"/dialer/sodialer.php?sExt=777&sNumber={way}&ClientId=10",
                    f"/dialer/sodialer.php?sExt={way}&sNumber=1&ClientId={way}",
                    f"/calls?number={way}&{secrets}",
                    f"/calls?Number={way}&limit={way}",
                    f"/recordings/2026/11/27/in-{way}-777-20261127-055257-1795413177.274.wav?{secrets}",
                    f"/{way}?{way}",
                ):
                    for headers in (right, wrong):
                        url = URL(path.replace(" ", "%20"), encoded=True)
                        async with session.get(url, headers=headers) as answer:
                            await answer.read()
