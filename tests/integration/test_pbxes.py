"""One bridge between several PBXes and the CRM: each stands for itself, and nothing of one is taken for another's."""

# small files, between two awaits
from __future__ import annotations

import asyncio
import base64
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from tests.integration.cdr_tables import record
from tests.integration.conftest import click_trace
from tests.integration.test_bridge import (
    ANSWER,
    COMMAND,
    LIMIT_S,
    RING,
    Daemon,
    daemon,
    metrics,
    output,
    targets,
    trace,
    value,
)
from tests.integration.test_reload import changed
from tests.integration.test_sync import line
from yarl import URL

from crmbridge import checks
from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx

FLOOD = 30_000
SOUND = {"haifa": b"RIFF of haifa" * 10, "eilat": b"RIFF of eilat" * 10}

ELEVEN = "eleven:eleven-s3cret"
CLIENTS = """
[[crm.clients]]
client_id = 11
pbx = "eilat"
extensions = [801]
username = "eleven"
password = "eleven-s3cret"
[[crm.clients]]
client_id = 11
pbx = "haifa"
dids = ["0720000000"]
username = "eleven"
password = "eleven-s3cret"
"""


@pytest.fixture
async def pbxes() -> AsyncIterator[dict[str, SimulatedPbx]]:
    """Two PBXes that play recorded calls."""
    async with AsyncExitStack() as stack:
        made = {}
        for name in ("haifa", "eilat"):
            made[name] = SimulatedPbx(username="crmbridge", secret=f"s3cret-{name}", click=click_trace())
            await made[name].start()
            stack.push_async_callback(made[name].stop)
        yield made


async def configure(
    folder: Path,
    pbxes: Mapping[str, SimulatedPbx],
    crm: Receiver | None = None,
    more: str = "",
    of_pbx: Mapping[str, str] | None = None,
) -> Path:
    """Haifa is client 20's, Eilat the common one's. `of_pbx`: sections of one of them."""
    entries = "".join(
        f"""
        [[pbxes]]
        {'client_id = "20"' if name == "haifa" else ""}
        [pbxes.ami]
        port = {pbx.port}
        username = "crmbridge"
        secret = "s3cret-{name}"
        [pbxes.pbx]
        name = "{name}"
        {(of_pbx or {}).get(name, "")}
        """
        for name, pbx in pbxes.items()
    )
    url = await crm.start() if crm else "http://127.0.0.1:9/webservice.php"
    file = folder / "config.toml"
    file.write_text(
        f"""
        [crm]
        url = "{url}"
        client_id = 10
        [http]
        listen = "127.0.0.1:0"
        username = "crm"
        password = "http-s3cret"
        [store]
        state_dir = "{folder}"
        {entries}
        {more}
        """
    )
    return file


async def ask(bridge: Daemon, path: str, user: str = "crm:http-s3cret") -> tuple[int, Any]:
    headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    url = URL(f"http://127.0.0.1:{await bridge.port()}{path}", encoded=True)
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        body = await answer.read()
        return answer.status, json.loads(body) if answer.content_type == "application/json" else body


async def click(bridge: Daemon, extension: str, client: str, user: str = "crm:http-s3cret") -> str:
    """`placed`, or the code of the refusal."""
    query = f"sExt={extension}&sNumber=0529876543&ClientId={client}"
    _, answer = await ask(bridge, f"/dialer/sodialer.php?{query}", user)
    return "placed" if answer["success"] else str(answer["error"]["code"])


def of(client: str) -> list[str]:
    return [target.replace("ClientId=10", f"ClientId={client}") for target in (RING, ANSWER)]


async def test_the_same_ids_on_two_pbxes_are_two_calls_each_of_its_own_client(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    """A restored backup, two hosts started in one second: Asterisk's ids are unique on one PBX only."""
    config = await configure(tmp_path, pbxes, crm)
    call = trace("01_did_to_ext_answered")
    async with daemon(config) as bridge:
        assert (await bridge.logged("bridge.started"))[0]["pbx"] == "haifa, eilat"
        await bridge.logged("ami.connected", times=2)
        prefix = f"{time.time():.0f}.1-"
        await asyncio.gather(*(pbx.play(call, prefix=prefix) for pbx in pbxes.values()))
        told = await targets(crm, 4)
        await bridge.logged("crm.confirmed", times=4)
        await bridge.logged("cdr.stored", times=2)
        for client in ("10", "20"):
            assert [target for target in told if f"ClientId={client}" in target] == of(client), "in order in each call"
        assert len({one.idempotency_key for one in crm.received}) == 4
        rings = await bridge.logged("call.rings")
        assert sorted((ring["pbx"], ring["client_id"]) for ring in rings) == [("eilat", "10"), ("haifa", "20")]
        assert len({ring["linkedid"] for ring in rings}) == 1
        for event in ("ami.connected", "call.answered", "cdr.stored"):
            assert sorted(one["pbx"] for one in await bridge.logged(event)) == ["eilat", "haifa"], event
        assert Counter(one["pbx"] for one in await bridge.logged("crm.confirmed")) == {"eilat": 2, "haifa": 2}
        lines = (await metrics(await bridge.port())).splitlines()
        _, everybodys = await ask(bridge, "/calls?number=033004799")
        assert len(everybodys["result"]) == 2
        for client in ("10", "20"):
            _, own = await ask(bridge, f"/calls?number=033004799&ClientId={client}")
            assert len(own["result"]) == 1
    for pbx in pbxes:
        assert value(lines, f'crmbridge_ami_connected{{pbx="{pbx}"}}') == 1
        assert value(lines, f'crmbridge_callbacks_total{{operation="incomingCall",pbx="{pbx}",state="confirmed"}}') == 1
        assert value(lines, f'crmbridge_intake_delay_seconds_count{{pbx="{pbx}"}}') > 0
        assert value(lines, f'crmbridge_call_records_total{{pbx="{pbx}"}}') == 1
    arguments = ("--json", "--config", str(config))
    listed = json.loads((await output("calls", "033004799", *arguments))[1])
    assert sorted((one["pbx"], one["ext"]) for one in listed) == [("eilat", "777"), ("haifa", "777")]
    entries = json.loads((await output("story", rings[0]["linkedid"], *arguments))[1])
    seen = Counter((one["pbx"], one["source"]) for one in entries)
    each = {"callback": 2, "request": 2, "call list": 1}
    assert seen == {(pbx, source): count for pbx in pbxes for source, count in each.items()}
    outbox = json.loads((await output("outbox", "list", *arguments))[1])
    assert Counter(one["pbx"] for one in outbox) == {"haifa": 2, "eilat": 2}


async def test_calls_of_the_same_ids_go_on_across_a_restart_each_with_its_own_client(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    call = trace("01_did_to_ext_answered")
    at = call.raw.index(b"Event: DialEnd")
    prefix = f"{time.time():.0f}.1-"
    config = await configure(tmp_path, pbxes, crm)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected", times=2)
        first = replace(call, raw=call.raw[:at])
        await asyncio.gather(*(pbx.play(first, prefix=prefix, speed=10) for pbx in pbxes.values()))
        await targets(crm, 2)
        await bridge.logged("crm.confirmed", times=2)
        bridge.process.send_signal(signal.SIGKILL)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected", times=2)
        rest = replace(call, raw=call.raw[at:])
        await asyncio.gather(*(pbx.play(rest, prefix=prefix, speed=10) for pbx in pbxes.values()))
        told = await targets(crm, 4)
    for client in ("10", "20"):
        assert [target for target in told if f"ClientId={client}" in target] == of(client)
    assert len(crm.targets) == 4


async def test_a_pbx_that_is_away_is_no_trouble_to_the_other_and_is_taken_up_when_it_is_back(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    haifa, eilat = pbxes["haifa"], pbxes["eilat"]
    call = trace("01_did_to_ext_answered")
    config = await configure(tmp_path, pbxes, crm)
    await eilat.stop()
    async with daemon(config) as bridge:
        assert [one["pbx"] for one in await bridge.logged("ami.connected")] == ["haifa"]
        assert {one["pbx"] for one in await bridge.logged("ami.unreachable")} == {"eilat"}
        status, answer = await ask(bridge, "/readyz")
        assert (status, answer["success"], len(answer["reasons"])) == (200, True, 1)
        assert "the PBX eilat" in answer["reasons"][0]
        await haifa.play(call, speed=10)
        assert await targets(crm, 2) == of("20")
        assert await click(bridge, "777", "20") == "placed"
        assert await click(bridge, "777", "10") == "pbx_not_connected"
        haifa.cut()
        await haifa.stop()
        (lost,) = await bridge.logged("ami.lost")
        assert lost["pbx"] == "haifa"
        status, answer = await ask(bridge, "/readyz")
        assert (status, answer["success"], len(answer["reasons"])) == (503, False, 2)
        back = SimulatedPbx(username="crmbridge", secret="s3cret-eilat")
        await back.start(port=eilat.port)
        try:
            assert (await bridge.logged("ami.connected", times=2))[1]["pbx"] == "eilat"
            assert (await ask(bridge, "/readyz"))[0] == 200
            await back.play(call, speed=10)
            assert (await targets(crm, 4))[2:] == of("10")
            lines = (await metrics(await bridge.port())).splitlines()
        finally:
            await back.stop()
        assert value(lines, 'crmbridge_ami_connected{pbx="haifa"}') == 0
        assert value(lines, 'crmbridge_ami_connected{pbx="eilat"}') == 1


async def test_call_records_in_a_database_that_hangs_hold_up_nobody_else(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    hanging = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    source = f"[pbxes.cdr]\nsource = 'mysql+asyncmy://u:p@127.0.0.1:{port}/asteriskcdrdb'"
    call = trace("01_did_to_ext_answered")
    try:
        async with daemon(await configure(tmp_path, pbxes, crm, of_pbx={"haifa": source})) as bridge:
            async with asyncio.timeout(LIMIT_S):
                await connected.wait()
            await bridge.logged("ami.connected", times=2)
            await asyncio.gather(*(pbx.play(call, speed=10) for pbx in pbxes.values()))
            assert sorted(await targets(crm, 4)) == sorted([*of("10"), *of("20")])
            assert [one["pbx"] for one in await bridge.logged("cdr.stored")] == ["eilat"]
            (away,) = await bridge.logged("cdr.source_away")
            assert away["pbx"] == "haifa"
            lines = (await metrics(await bridge.port())).splitlines()
            assert value(lines, 'crmbridge_cdr_source_up{pbx="haifa"}') == 0
            assert value(lines, 'crmbridge_cdr_source_up{pbx="eilat"}') == 1
            assert value(lines, "crmbridge_call_list_up") == 1
    finally:
        hanging.close()


async def test_a_pbx_that_floods_keeps_no_popup_of_the_other_away(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    channel = "Uniqueid: {0}\r\nLinkedid: {0}\r\nChannel: PJSIP/999-{0}\r\nContext: from-internal\r\n"
    begun = "".join(f"Event: Newchannel\r\n{channel.format(n)}ChannelState: 4\r\n\r\n" for n in range(FLOOD))
    async with daemon(await configure(tmp_path, pbxes, crm)) as bridge:
        await bridge.logged("ami.connected", times=2)
        flooding = asyncio.create_task(pbxes["eilat"].send(begun.encode()))
        await pbxes["haifa"].play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == of("20")
        await flooding
        await pbxes["eilat"].play(trace("01_did_to_ext_answered"), speed=10)
        assert (await targets(crm, 4))[2:] == of("10"), "which comes when the flood is over"
        lines = (await metrics(await bridge.port())).splitlines()
    assert value(lines, 'crmbridge_ami_events_total{event="Newchannel",pbx="eilat"}') >= FLOOD


async def test_a_click_goes_to_the_pbx_that_has_the_extension_of_that_client(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    haifa, eilat = pbxes["haifa"], pbxes["eilat"]
    haifa.hints.append({"Exten": "702", "Context": "ext-local", "Hint": "PJSIP/702", "Status": "0"})
    of_pbx = {"haifa": '[pbxes.dialer]\nchannel = "SIP/{ext}"\ncontext = "agents"'}
    config = await configure(tmp_path, pbxes, crm, CLIENTS, of_pbx)
    config.write_text(config.read_text().replace('client_id = "20"', 'client_id = "10"'))
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected", times=2)
        # The list of hints, which tells of 702, has come before that of channels.
        await haifa.play(trace("01_did_to_ext_answered"), speed=100)
        await bridge.logged("call.answered")
        assert await click(bridge, "801", "11", ELEVEN) == "placed", "an entry of this client names it on eilat"
        assert await click(bridge, "702", "10") == "placed", "haifa knows the phone"
        assert await click(bridge, "703", "10") == "extension_ambiguous", "either may have it, and it is not guessed"
        assert await click(bridge, "801", "12") == "unknown_client"
        assert await click(bridge, "702", "11", ELEVEN) == "extension_not_allowed", "they are the common client's"
        (on_eilat,), (on_haifa,) = eilat.originated, haifa.originated
        assert (on_eilat["Channel"], on_eilat["Context"]) == ("PJSIP/801", "from-internal")
        assert (on_haifa["Channel"], on_haifa["Context"]) == ("SIP/702", "agents")
        placed = await bridge.logged("dialer.placed", times=2)
        assert [one["pbx"] for one in placed] == ["eilat", "haifa"]
        ended = await bridge.logged("click.ended", times=2)
        assert {one["click"]: one["pbx"] for one in ended} == {
            on_eilat["ChannelId"]: "eilat",
            on_haifa["ChannelId"]: "haifa",
        }
        assert await click(bridge, "702", "10") == "placed", "the same click again"
        assert len(haifa.originated) == 1
        lines = (await metrics(await bridge.port())).splitlines()
        assert value(lines, 'crmbridge_originate_seconds_count{pbx="eilat",result="accepted"}') == 1
    arguments = ("--json", "--config", str(config))
    listed = json.loads((await output("clicks", *arguments))[1])
    assert [(one["pbx"], one["code"] or one["outcome"]) for one in listed] == [
        ("haifa", "repeated"),
        ("", "extension_not_allowed"),
        ("", "unknown_client"),
        ("", "extension_ambiguous"),
        ("haifa", "answered"),
        ("eilat", "answered"),
    ]
    assert "haifa, eilat" in listed[3]["reason"]
    of_eilat = json.loads((await output("clicks", "--pbx", "eilat", *arguments))[1])
    assert [one["ext"] for one in of_eilat] == ["801"]


async def test_a_client_reads_its_calls_of_all_pbxes_and_nobody_elses(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    config = await configure(tmp_path, pbxes, crm, CLIENTS.replace("[801]", "[777]"))
    config.write_text(config.read_text().replace("0720000000", "0723456777"))
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected", times=2)
        await asyncio.gather(*(pbx.play(trace("01_did_to_ext_answered"), speed=10) for pbx in pbxes.values()))
        assert Counter(await targets(crm, 4)) == Counter(of("11") * 2)
        await bridge.logged("cdr.stored", times=2)
        status, answer = await ask(bridge, "/calls?number=033004799", ELEVEN)
        assert (status, len(answer["result"])) == (200, 2)
        assert (await ask(bridge, "/calls?number=033004799"))[1]["result"] == []


async def test_recordings_of_one_name_on_two_pbxes_are_two(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    of_pbx = {}
    for name, sound in SOUND.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "in-0.wav").write_bytes(sound)
        of_pbx[name] = f'[pbxes.cdr]\nrecordings_dir = "{folder}"\nsource = "{tmp_path}/{name}.csv"'
        (tmp_path / f"{name}.csv").write_text(line(record(int(time.time()) - 60)))
    async with daemon(await configure(tmp_path, pbxes, crm, CLIENTS, of_pbx)) as bridge:
        await bridge.logged("cdr.stored", times=2)
        _, answer = await ask(bridge, "/calls?number=033004799&ext=777")
        links = {one["filename"]: one["link"] for one in answer["result"]}
        assert set(links) == {"haifa/in-0.wav", "eilat/in-0.wav"}
        for name, sound in SOUND.items():
            assert await ask(bridge, links[f"{name}/in-0.wav"], "nobody:x") == (200, sound)
            swapped = links[f"{name}/in-0.wav"].replace(name, "haifa" if name == "eilat" else "eilat")
            assert (await ask(bridge, swapped, "nobody:x"))[0] in {401, 403}, "a link opens one PBX's recording"
            # The common credentials are not for client 11, and the name of a file does not tell whose it is.
            assert (await ask(bridge, f"/recordings/{name}/in-0.wav"))[0] == 403
    config = await configure(tmp_path, pbxes, of_pbx=of_pbx)
    async with daemon(config) as bridge:
        for name, sound in SOUND.items():
            assert await ask(bridge, f"/recordings/{name}/in-0.wav") == (200, sound)
        assert await ask(bridge, "/recordings/in-0.wav") == (200, SOUND["haifa"]), "listed while haifa was alone"
        assert (await ask(bridge, "/recordings/tiberias/in-0.wav"))[0] == 404
        assert (await ask(bridge, "/recordings/haifa/../eilat/in-0.wav"))[0] == 404
        assert (await ask(bridge, "/recordings/haifa/%2e%2e/eilat/in-0.wav"))[0] == 404


async def test_each_pbx_has_its_own_time_zone(tmp_path: Path, pbxes: dict[str, SimulatedPbx]) -> None:
    zones = {"haifa": "Asia/Jerusalem", "eilat": "UTC"}
    of_pbx = {
        name: f'[pbxes.cdr]\nsource = "{tmp_path}/{name}.csv"\ntimezone = "{zone}"' for name, zone in zones.items()
    }
    at = datetime.fromtimestamp(int(time.time()) - 60, UTC)
    for name in zones:
        (tmp_path / f"{name}.csv").write_text(line(record(int(at.timestamp()))))
    async with daemon(await configure(tmp_path, pbxes, of_pbx=of_pbx)) as bridge:
        await bridge.logged("cdr.stored", times=2)
        walls = {}
        for name, client in (("haifa", "20"), ("eilat", "10")):
            _, answer = await ask(bridge, f"/calls?number=033004799&ClientId={client}")
            (walls[name],) = [one["time"] for one in answer["result"]]
    assert walls == {name: f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}" for name, zone in zones.items()}
    with closing(sqlite3.connect(tmp_path / "calls.db")) as connection:
        assert dict(connection.execute("SELECT pbx, time FROM calls")) == walls, "as direct SQL has it"


async def test_check_tries_each_pbx_and_names_it(tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver) -> None:
    config = await configure(tmp_path, pbxes, crm)
    _, said = await output("check", "--json", "--config", str(config))
    shared = {"settings", "outbox", "disk", "call list", "CRM", "clock", "dialer"}
    own = set(checks.LINKS) - shared - {"claims", "recordings", "TLS"}
    links = {link["link"]: link for link in json.loads(said)}
    assert set(links) == shared | {f"{pbx}: {link}" for pbx in pbxes for link in own}
    assert "Asterisk of haifa" in links["clock"]["found"]
    await pbxes["eilat"].stop()
    code, said = await output("check", "--json", "--config", str(config))
    assert code == 1
    assert [link["link"] for link in json.loads(said) if not link["ok"]] == ["eilat: AMI"]


async def test_commands_about_one_pbx_ask_which(tmp_path: Path, pbxes: dict[str, SimulatedPbx]) -> None:
    config = str(await configure(tmp_path, pbxes))
    file = tmp_path / "call.ami"
    file.write_bytes(trace("01_did_to_ext_answered").raw)
    for command in (("replay", str(file)), ("record", str(tmp_path / "new.ami"))):
        for which, says in (((), "--pbx (haifa, eilat)"), (("--pbx", "acre"), "no PBX 'acre'")):
            code, said = await errors(*command, "--config", config, *which)
            assert (code, said.count("\n")) == (2, 1)
            assert says in said
    for pbx, client in (("haifa", "20"), ("eilat", "10")):
        code, said = await output("replay", str(file), "--config", config, "--pbx", pbx)
        assert code == 0
        assert {json.loads(one)["ClientId"] for one in said.splitlines()} == {client}
    code, said = await errors(
        "record", str(tmp_path / "new.ami"), "--seconds", "1", "--config", config, "--pbx", "eilat"
    )
    assert code == 0
    assert "--pbx eilat" in said
    shown = json.loads((await output("config", "show", "--config", config))[1])
    assert [(one["pbx"]["name"], one["ami"]["secret"]) for one in shown["pbxes"]] == [
        ("haifa", "(hidden)"),
        ("eilat", "(hidden)"),
    ]
    assert not {"ami", "pbx", "cdr"} & set(shown)


async def errors(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(LIMIT_S):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_sync_brings_the_history_of_each_pbx(tmp_path: Path, pbxes: dict[str, SimulatedPbx]) -> None:
    of_pbx = {name: f'[pbxes.cdr]\nsource = "{tmp_path}/{name}.csv"' for name in pbxes}
    config = await configure(tmp_path, pbxes, of_pbx=of_pbx)
    start = int(time.time()) - 40 * 86400
    for name, count in (("haifa", 3), ("eilat", 2)):
        text = "".join(line(record(start + n, n)) for n in range(count))
        (tmp_path / f"{name}.csv").write_text(text)
    arguments = ("--json", "--config", str(config))
    code, said = await output("sync", "--pbx", "haifa", *arguments)
    assert code == 0
    assert [(one["pbx"], one["calls"]) for one in json.loads(said)] == [("haifa", 3)]
    code, said = await output("sync", "--again", *arguments)
    assert code == 0
    assert [(one["pbx"], one["calls"], one["lines"]) for one in json.loads(said)] == [("haifa", 3, 0), ("eilat", 2, 2)]
    listed = json.loads((await output("calls", "033004799", *arguments))[1])
    assert Counter(one["pbx"] for one in listed) == {"haifa": 3, "eilat": 2}
    assert {one["filename"] for one in listed if one["pbx"] == "eilat"} == {"eilat/in-0.wav", "eilat/in-1.wav"}
    (tmp_path / "haifa.csv").unlink()
    code, said = await output("sync", "--again", *arguments)
    assert code == 69, "haifa's can't be read"
    assert [one["pbx"] for one in json.loads(said)] == ["eilat"], "the other's is read all the same"
    config.write_text(config.read_text().replace(f'source = "{tmp_path}/eilat.csv"', "", 1))
    code, said = await errors("sync", "--pbx", "eilat", *arguments)
    assert code == 2
    assert "cdr.source is ami" in said


async def test_a_reload_follows_what_a_pbx_can_follow_and_names_the_rest(
    tmp_path: Path, pbxes: dict[str, SimulatedPbx], crm: Receiver
) -> None:
    config = await configure(tmp_path, pbxes, crm)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected", times=2)
        said = await changed(bridge, config, 'client_id = "20"', 'client_id = "21"')
        assert said["changed"] == ["pbxes.haifa.client_id"]
        await pbxes["haifa"].play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == of("21")
        await bridge.logged("cdr.stored")
        _, answer = await ask(bridge, "/calls?number=033004799&ClientId=21")
        assert len(answer["result"]) == 1, "the call list follows, too"
        name = '[pbxes.pbx]\n        name = "eilat"'
        said = await changed(bridge, config, name, f'[pbxes.dialer]\ncontext = "agents"\n{name}')
        assert said["changed"] == ["pbxes.eilat.dialer"]
        assert await click(bridge, "777", "10") == "placed"
        assert pbxes["eilat"].originated[0]["Context"] == "agents"
        said = await changed(bridge, config, "s3cret-eilat", "another", event="bridge.reload_incomplete")
        assert said["keys"] == ["pbxes.eilat.ami"]
        said = await changed(bridge, config, '"eilat"', '"acre"', event="bridge.reload_incomplete")
        assert said["keys"] == ["pbxes.eilat", "pbxes.acre"]
        bridge.process.send_signal(signal.SIGTERM)
        await bridge.logged("bridge.stopped")
