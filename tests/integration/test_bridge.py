"""The installed command as an administrator runs it: between a simulated PBX and a receiver, and in trouble."""

# ruff: noqa: ASYNC240  # small files, between two awaits
from __future__ import annotations

import asyncio
import base64
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crmbridge import checks
from crmbridge.calls.events import Attempt, CallEvent, Kind, State
from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped
from crmbridge.store.outbox import open_outbox

LIMIT_S = 120
"""For what hangs: a command takes a second of one processor to begin, and that is long on a busy machine."""
COMMAND = str(Path(sys.executable).with_name("crmbridge"))
RING = "/webservice.php?operation=incomingCall&sExt=777&sNumber=033004799&ClientId=10"
ANSWER = "/webservice.php?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10"


def trace(end: str) -> Trace:
    (found,) = [one for one in shipped() if one.name.endswith(end)]
    return found


@dataclass
class Daemon:
    """A running `crmbridge run`."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            async with self._changed:
                text = raw.decode().rstrip()
                if text.startswith("{"):
                    self.lines.append(json.loads(text))
                else:
                    self.errors.append(text)
                self._changed.notify_all()

    async def logged(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        async with self._changed, asyncio.timeout(LIMIT_S):
            await self._changed.wait_for(lambda: len(self._of(event)) >= times)
        return self._of(event)

    async def logged_one_of(self, *events: str) -> None:
        async with self._changed, asyncio.timeout(LIMIT_S):
            await self._changed.wait_for(lambda: any(self._of(event) for event in events))

    async def until(self, happened: Callable[[], bool]) -> None:
        async with self._changed, asyncio.timeout(LIMIT_S):
            await self._changed.wait_for(happened)

    def _of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    async def port(self) -> int:
        return int((await self.logged("http.listening"))[0]["address"].rpartition(":")[2])


@asynccontextmanager
async def daemon(config: Path, *before: str) -> AsyncIterator[Daemon]:
    """`before`: a command, with its arguments, that ends in executing what comes after it."""
    process = await asyncio.create_subprocess_exec(
        *before,
        COMMAND,
        "run",
        "--config",
        str(config),
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    running = Daemon(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
            await reading


async def configure(folder: Path, pbx: SimulatedPbx, crm: Receiver, more: str = "") -> Path:
    url = await crm.start()
    return write(folder, ami_port=pbx.port, url=url, more=more)


def write(
    folder: Path,
    *,
    ami_port: int,
    url: str,
    secret: str = "s3cret",
    listen: str = "127.0.0.1:0",
    more: str = "",
    state: Path | None = None,
) -> Path:
    file = folder / "config.toml"
    file.write_text(
        f"""
        [crm]
        url = "{url}"
        client_id = 10
        [ami]
        port = {ami_port}
        username = "crmbridge"
        secret = "{secret}"
        [http]
        listen = "{listen}"
        username = "crm"
        password = "http-s3cret"
        [store]
        state_dir = "{state or folder}"
        {more}
        """
    )
    return file


async def targets(crm: Receiver, count: int) -> list[str]:
    async with asyncio.timeout(LIMIT_S):
        await crm.wait_for(count)
    return crm.targets


async def get(port: int, path: str) -> tuple[int, Any]:
    token = base64.b64encode(b"crm:http-s3cret").decode()
    headers = {"Authorization": f"Basic {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_call_rings_and_the_crm_hears_it(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"))
        assert await targets(crm, 2) == [RING, ANSWER]
        (ring,), (answer,) = await bridge.logged("call.rings"), await bridge.logged("call.answered")
        assert ring["linkedid"] == answer["linkedid"]
        assert (ring["extension"], ring["number"], ring["level"]) == ("777", "033004799", "info")
        await bridge.logged("crm.confirmed", times=2)
    assert bridge.process.returncode == 0
    assert "s3cret" not in json.dumps(bridge.lines)


async def test_a_phone_of_any_name_is_known_by_its_hint(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    call = trace("01_did_to_ext_answered")
    raw = call.raw.replace(b"PJSIP/777", b"PJSIP/desk").replace(b"CallerIDNum: 777", b"CallerIDNum: <unknown>")
    pbx.hints.append({"Exten": "777", "Context": "ext-local", "Hint": "PJSIP/desk", "Status": "0"})
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(replace(call, raw=raw))
        assert await targets(crm, 2) == [RING, ANSWER]


async def test_a_click_dials_once_and_tells_the_crm_nothing_and_both_calls_are_listed(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    async with daemon(await configure(tmp_path, pbx, crm, "[log]\nlevel = 'debug'")) as bridge:
        port = await bridge.port()
        await bridge.logged("ami.connected")
        status, answer = await get(port, "/dialer/sodialer.php:6560?sExt=777&sNumber=0529876543&ClientId=10")
        assert (status, answer) == (200, {"success": True, "result": []})
        (originate,) = pbx.originated
        assert originate["Channel"] == "PJSIP/777"
        assert (originate["Context"], originate["Exten"]) == ("from-internal", "0529876543")
        assert "Application" not in originate
        (stored,) = await bridge.logged("cdr.stored")
        assert stored["linkedid"] == originate["ChannelId"]
        (ended,) = await bridge.logged("click.ended")
        assert (ended["click"], ended["outcome"]) == (originate["ChannelId"], "answered")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]
        await bridge.logged("cdr.stored", times=2)
        _, incoming = await get(port, "/calls?number=%2B97233004799")
        _, outgoing = await get(port, "/calls?number=052-9876543")
        assert [(c["ext"], c["number"], c["incoming"]) for c in incoming["result"]] == [("777", "033004799", True)]
        assert [(c["ext"], c["number"], c["incoming"]) for c in outgoing["result"]] == [("777", "0529876543", False)]
    assert crm.targets == [RING, ANSWER]


async def test_a_click_rings_the_phone_that_has_a_name_of_its_own(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm, '[pbx.endpoints]\n"PJSIP/alice-desk" = "781"')
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        await get(await bridge.port(), "/dialer/sodialer.php?sExt=781&sNumber=0529876543&ClientId=10")
        assert [one["Channel"] for one in pbx.originated] == ["PJSIP/alice-desk"]


async def test_what_the_crm_did_not_take_is_sent_after_a_restart_with_the_same_key(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm)
    crm.default = Reply(status=500)
    async with daemon(config) as first:
        await first.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        await targets(crm, 1)
        await first.logged("call.answered")
        first.process.send_signal(signal.SIGKILL)
    before = crm.received[0].idempotency_key
    told = len(crm.received)
    crm.default = Reply()
    async with daemon(config) as second:
        assert (await second.logged("bridge.started"))[0]["waiting"] == 2
        assert (await targets(crm, told + 2))[told:] == [RING, ANSWER]
        await second.logged("crm.confirmed", times=2)
    assert crm.received[told].idempotency_key == before


@pytest.mark.parametrize("split", ["Event: DialEnd", "Event: HangupRequest"])
async def test_a_call_across_a_restart_of_the_bridge_is_told_once(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, split: str
) -> None:
    """Answered after the bridge is back, or while it was away."""
    call = trace("01_did_to_ext_answered")
    ringing, at = call.raw.index(b"Event: DialState"), call.raw.index(split.encode())
    first, gap, rest = (replace(call, raw=raw) for raw in (call.raw[:ringing], call.raw[ringing:at], call.raw[at:]))
    config = await configure(tmp_path, pbx, crm)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        prefix = await pbx.play(first)
        await targets(crm, 1)
        await bridge.logged("crm.confirmed")
        bridge.process.send_signal(signal.SIGKILL)
    await pbx.play(gap, prefix=prefix)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(rest, prefix=prefix)
        assert await targets(crm, 2) == [RING, ANSWER]
        await pbx.play(call)
        await targets(crm, 4)
    assert crm.targets == [RING, ANSWER, RING, ANSWER]


async def test_a_crm_that_is_away_is_told_when_it_is_back(tmp_path: Path, pbx: SimulatedPbx) -> None:
    away = Receiver()
    url = await away.start()
    await away.close()
    port = int(url.rpartition(":")[2].partition("/")[0])
    async with daemon(write(tmp_path, ami_port=pbx.port, url=url)) as bridge, Receiver() as back:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        (warning,) = await bridge.logged("crm.retrying")
        assert warning["level"] == "warning"
        await back.start(port=port)
        assert await targets(back, 2) == [RING, ANSWER]


async def failed(config: Path) -> tuple[int, str]:
    """Exit code and what was said by a daemon that can't start."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, "run", "--config", str(config), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            _, errors = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    plain = [line for line in errors.decode().splitlines() if not line.startswith("{")]
    return process.returncode, "\n".join(plain)


async def test_a_wrong_ami_password_is_one_line_that_names_what_to_mend_and_all_else_goes_on(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    url = await crm.start()
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        await outbox.add(
            [CallEvent(Kind.RING, "pbx", "1.1", "777", "033004799", "10", datetime.now(UTC), "1.1", "1.2")]
        )
    async with daemon(write(tmp_path, ami_port=pbx.port, url=url, secret="wr0ng")) as bridge:
        (refused,) = await bridge.logged("ami.login_refused")
        assert refused["level"] == "error"
        for what in ("ami.secret", "permit", "manager.conf", "manager_custom.conf"):
            assert what in refused["error"]
        assert await targets(crm, 1) == [RING], "what waits for the CRM is sent all the same"
        port = await bridge.port()
        status, answer = await get(port, "/readyz")
        assert status == 503
        assert "Authentication failed" in answer["reasons"][0]
        status, answer = await get(port, "/dialer/sodialer.php?sExt=777&sNumber=0529876543&ClientId=10")
        assert (status, answer["error"]["code"]) == (503, "pbx_not_connected")
        assert (await get(port, "/healthz"))[0] == 200
        code, said = await output("check", "--json", "--config", str(tmp_path / "config.toml"))
        links = {link["link"]: link for link in json.loads(said)}
        assert code == 1
        assert "ami.secret" in links["AMI"]["found"]
    assert "wr0ng" not in json.dumps(bridge.lines)
    assert bridge.process.returncode == 0


async def test_a_taken_port_ends_it_with_one_line(tmp_path: Path, pbx: SimulatedPbx) -> None:
    code, said = await failed(
        write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:9/x", listen=f"127.0.0.1:{pbx.port}")
    )
    assert code == 69
    assert said.count("\n") == 0
    assert "http.listen" in said


async def test_wrong_settings_end_it_with_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[crm]\nurl = 'x'\n[ami]\nport = 0\n")
    code, said = await failed(file)
    assert code == 78
    for key in ("crm.url", "crm.client_id", "ami.port", "ami.username", "ami.secret", "http"):
        assert f"\n  {key}: " in said


async def test_a_second_daemon_on_the_same_state_ends_with_one_line(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm)
    async with daemon(config) as first:
        await first.logged("ami.connected")
        code, said = await failed(config)
        assert code == 74
        assert said.count("\n") == 0
        assert "another crmbridge" in said


async def test_no_asterisk_is_one_line_and_another_try(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    config = await configure(tmp_path, pbx, crm)
    port = pbx.port
    await pbx.stop()
    async with daemon(config) as bridge:
        (first, *_) = await bridge.logged("ami.unreachable")
        assert "does Asterisk run" in first["error"]
        _, answer = await get(await bridge.port(), "/readyz")
        assert answer["success"] is False
        status, answer = await get(await bridge.port(), "/dialer/sodialer.php?sExt=777&sNumber=0529876543&ClientId=10")
        assert (status, answer["error"]["code"]) == (503, "pbx_not_connected")
        again = SimulatedPbx(username="crmbridge", secret="s3cret")
        await again.start(port=port)
        try:
            await bridge.logged("ami.connected")
        finally:
            await again.stop()


async def output(*arguments: str, stdin: bytes = b"", limit_s: float = LIMIT_S) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit_s):
            out, _ = await process.communicate(stdin)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_replay_prints_what_would_be_sent(tmp_path: Path) -> None:
    call = trace("01_did_to_ext_answered")
    file = tmp_path / "call.ami"
    file.write_bytes(call.raw)
    (tmp_path / "config.toml").write_text(
        """
        [crm]
        url = "http://crm.example/"
        client_id = 42
        [ami]
        username = "u"
        secret = "s"
        [http]
        username = "u"
        password = "p"
        """
    )
    for arguments, stdin, client in (
        ([str(file)], b"", "10"),
        (["-"], call.raw, "10"),
        (["--config", str(tmp_path / "config.toml"), str(file)], b"", "42"),
    ):
        code, said = await output("replay", *arguments, stdin=stdin)
        assert code == 0
        ring, answer = map(json.loads, said.splitlines())
        assert list(ring) == ["operation", "sExt", "sNumber", "ClientId", "linkedid", "uniqueid"]
        assert (ring["operation"], answer["operation"]) == ("incomingCall", "incomingCallAnswered")
        assert (ring["sExt"], ring["sNumber"], ring["ClientId"]) == ("777", "033004799", client)
        assert ring["linkedid"] == ring["uniqueid"] == "1795413177.274"
    assert (await output("replay", str(tmp_path / "missing.ami")))[0] == 74


async def test_support_sees_what_was_refused_and_sends_it_again(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm)

    async def outbox(*arguments: str) -> tuple[int, str]:
        return await output("outbox", *arguments, "--config", str(config))

    crm.script(Reply(body=b'{"success":false,"error":"[red]no such extension[/]"}'))
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        await targets(crm, 2)
        await bridge.logged("crm.refused")
        await bridge.logged("crm.confirmed")
        refused, confirmed = sorted(json.loads((await outbox("list", "--json"))[1]), key=lambda one: int(one["id"]))
        assert (refused["state"], refused["operation"], refused["ext"]) == ("refused", "incomingCall", "777")
        assert "[red]no such extension[/]" in refused["last"]
        assert confirmed["state"] == "confirmed"
        table = (await outbox("list", "--state", "refused"))[1]
        assert "033004799" in table
        assert "Answered" not in table
        assert json.loads((await outbox("list", "--json", "--ext", "999"))[1]) == []
        assert (await outbox("retry", str(refused["id"])))[0] == 0
        assert (await targets(crm, 3))[2] == RING
        (again,) = await bridge.logged("crm.queued_again")
        assert again["linkedid"] == refused["linkedid"]
        await bridge.logged("crm.confirmed", times=2)
    assert (await outbox("drop", "999"))[0] == 1
    assert (await outbox("drop", str(confirmed["id"])))[0] == 0
    assert [one["id"] for one in json.loads((await outbox("list", "--json"))[1])] == [refused["id"]]


async def test_callbacks_are_forgotten_when_their_time_is_over(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm, "keep_days = 30")
    long_ago, lately = (datetime.now(UTC) - timedelta(days=days) for days in (31, 29))
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        for number, at in enumerate((long_ago, lately)):
            event = CallEvent(Kind.RING, "pbx", f"{number}", "777", "1", "10", at, f"{number}", "x")
            (delivery,) = await outbox.add([event])
            await outbox.record(delivery.id, Attempt(at, 0.1, 200, "HTTP 200"), State.CONFIRMED)
    async with daemon(config) as bridge:
        (pruned,) = await bridge.logged("outbox.pruned")
        assert pruned["callbacks"] == 1
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        assert [one.delivery.event.call for one in await outbox.listing()] == ["1"]


async def test_support_finds_the_calls_with_a_number(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    config = await configure(tmp_path, pbx, crm, "[log]\nlevel = 'debug'")
    assert (await output("calls", "033004799", "--config", str(config)))[0] == 74, "nothing has run here yet"
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        await bridge.logged("cdr.stored")
    code, said = await output("calls", "+972-3-300-4799", "--json", "--config", str(config))
    (call,) = json.loads(said)
    assert (code, call["ext"], call["duration"], call["direction"]) == (0, "777", 2, "in")
    assert "no calls" in (await output("calls", "0521111111", "--config", str(config)))[1]


async def test_check_tries_each_link(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    config = await configure(tmp_path, pbx, crm)
    code, said = await output("check", "--json", "--config", str(config))
    links = {link["link"]: link for link in json.loads(said)}
    assert set(links) == set(checks.LINKS) - {"claims", "recordings", "TLS"}
    assert code == 0, said
    await crm.close()
    await pbx.stop()
    code, said = await output("check", "--json", "--config", str(config))
    links = {link["link"]: link for link in json.loads(said)}
    assert code == 1
    assert [name for name, link in links.items() if not link["ok"]] == ["AMI", "CRM"]
    assert crm.targets == ["/webservice.php"], "a check must not look like a call"


async def test_config_show_hides_secrets(tmp_path: Path) -> None:
    config = write(tmp_path, ami_port=5038, url="http://crm.example/w.php")
    code, said = await output("config", "show", "--config", str(config))
    assert code == 0
    assert "s3cret" not in said
    shown = json.loads(said)
    assert shown["ami"]["secret"] == "(hidden)"
    assert shown["crm"]["ring_expires_s"] == 60


async def test_the_demo_plays_each_recorded_call_once() -> None:
    code, said = await output("demo", "--once", limit_s=400)
    assert code == 0, said
    assert f"{len(shipped())} calls" in said
    assert " 0 told otherwise than expected" in said


async def test_a_damaged_outbox_is_set_aside_and_what_waited_is_told(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    file = tmp_path / "outbox.db"
    now = datetime.now(UTC)
    async with open_outbox(file) as outbox:
        answers = [CallEvent(Kind.ANSWER, "pbx", f"{n}", "777", f"{n}", "10", now, f"{n}", "x") for n in range(200)]
        await outbox.add(answers)
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size - 4096)
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        (said,) = await bridge.logged("store.damaged_file_set_aside")
        assert Path(said["set_aside"]).stat().st_size == size - 4096
        assert said["salvaged"]["callbacks"] == 200
        await targets(crm, 200)
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert (await targets(crm, 202))[200:] == [RING, ANSWER]
    assert len({one.idempotency_key for one in crm.received}) == 202


async def test_an_outbox_of_a_newer_version_ends_it_with_one_line(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    async with open_outbox(tmp_path / "outbox.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("UPDATE schema_versions SET version = 99, works_with = 99")
        connection.commit()
    code, said = await failed(await configure(tmp_path, pbx, crm))
    assert code == 74
    assert said.count("\n") == 0
    assert "was upgraded by a newer crmbridge (outbox version 99" in said
    assert "upgrade this bridge" in said


async def test_a_damaged_call_list_keeps_no_popup_away(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    (tmp_path / "calls.db").write_text("this was a database " * 500)
    async with daemon(await configure(tmp_path, pbx, crm, "[log]\nlevel = 'debug'")) as bridge:
        await bridge.logged("ami.connected")
        (said,) = await bridge.logged("store.damaged_file_set_aside")
        assert said["file"] == str(tmp_path / "calls.db")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]
        await bridge.logged("cdr.stored")


async def metrics(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await answer.text()


async def test_metrics_tell_what_was_told(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        await bridge.logged("crm.confirmed", times=2)
        await bridge.logged("cdr.stored")
        await get(await bridge.port(), "/calls?number=033004799")
        await get(await bridge.port(), "/dialer/sodialer.php?sExt=777&sNumber=0529876543&ClientId=10")
        await bridge.logged("click.ended")
        await bridge.logged("cdr.stored", times=2)
        pbx.cut()
        await bridge.logged("ami.connected", times=2)
        lines = (await metrics(await bridge.port())).splitlines()
    for line in (
        'crmbridge_callbacks_total{operation="incomingCall",pbx="pbx",state="confirmed"} 1.0',
        'crmbridge_callback_confirmed_seconds_count{operation="incomingCallAnswered"} 1.0',
        "crmbridge_callbacks_waiting 0.0",
        "crmbridge_requests_total 2.0",
        'crmbridge_ami_connected{pbx="pbx"} 1.0',
        'crmbridge_ami_attempts_total{pbx="pbx",result="session"} 2.0',
        'crmbridge_ami_attempts_total{pbx="pbx",result="unreachable"} 0.0',
        'crmbridge_ami_sessions_ended_total{pbx="pbx",reason="lost"} 1.0',
        'crmbridge_ami_sessions_ended_total{pbx="pbx",reason="silent"} 0.0',
        'crmbridge_ami_events_total{event="Newchannel",pbx="pbx"} 4.0',
        'crmbridge_ami_events_total{event="FullyBooted",pbx="pbx"} 2.0',
        'crmbridge_resyncs_total{pbx="pbx"} 0.0',
        "crmbridge_disk_refuses 0.0",
        'crmbridge_intake_dropped_frames_total{pbx="pbx"} 0.0',
        "crmbridge_call_list_up 1.0",
        'crmbridge_cdr_source_up{pbx="pbx"} 1.0',
        'crmbridge_call_records_waiting{pbx="pbx"} 0.0',
        'crmbridge_call_records_lag_seconds{pbx="pbx"} 0.0',
        "crmbridge_call_list_lookup_seconds_count 1.0",
        'crmbridge_originate_seconds_count{pbx="pbx",result="accepted"} 1.0',
        'crmbridge_originate_seconds_count{pbx="pbx",result="originate_failed"} 0.0',
        'crmbridge_log_lines_total{level="error"} 0.0',
        "crmbridge_log_lines_held_back_total 0.0",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert any(line.startswith("process_open_fds ") for line in lines)
    assert value(lines, 'crmbridge_intake_delay_seconds_count{pbx="pbx"}') > 0
    assert value(lines, 'crmbridge_call_records_total{pbx="pbx"}') >= 1
    assert value(lines, 'crmbridge_log_lines_total{level="info"}') > 5
    assert "033004799" not in "".join(lines)


def value(lines: list[str], name: str) -> float:
    (line,) = [one for one in lines if one.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


async def test_metrics_tell_of_a_source_that_is_away(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    source = "[cdr]\nsource = 'mysql+asyncmy://reader:geheim@127.0.0.1:1/asteriskcdrdb'"
    async with daemon(await configure(tmp_path, pbx, crm, source)) as bridge:
        await bridge.logged("cdr.source_away")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        await bridge.logged("crm.confirmed", times=2)
        lines = (await metrics(await bridge.port())).splitlines()
        assert value(lines, 'crmbridge_cdr_source_up{pbx="pbx"}') == 0
        assert value(lines, "crmbridge_call_list_up") == 1
        assert value(lines, 'crmbridge_call_records_waiting{pbx="pbx"}') >= 1
        assert value(lines, 'crmbridge_call_records_lag_seconds{pbx="pbx"}') > 0
        assert value(lines, 'crmbridge_log_lines_total{level="error"}') == 1
        assert (await get(await bridge.port(), "/readyz"))[0] == 200, "popups go on without it"


@pytest.mark.needs("promtool")
async def test_prometheus_takes_the_metrics_as_they_are_named(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver) -> None:
    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        text = await metrics(await bridge.port())
    judge = await asyncio.create_subprocess_exec(
        "promtool",
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await judge.communicate(text.encode())
    assert (judge.returncode, said.decode()) == (0, "")
