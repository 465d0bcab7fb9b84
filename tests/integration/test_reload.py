"""`kill -HUP`: new settings are followed without a call being lost; wrong ones are refused as a whole."""

# ruff: noqa: ASYNC240  # small files, between two awaits
from __future__ import annotations

import asyncio
import base64
import shutil
import signal
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from tests.integration.test_bridge import (
    ANSWER,
    LIMIT_S,
    RING,
    Daemon,
    configure,
    daemon,
    output,
    targets,
    trace,
)
from tests.integration.test_tls import pems

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx

__all__ = ["pems"]

ABROAD = "/dialer/sodialer.php?sExt=777&sNumber=00442071838750&ClientId=10"


async def asked(bridge: Daemon, path: str, password: str = "http-s3cret", user: str = "crm") -> int:
    headers = {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    url = f"http://127.0.0.1:{await bridge.port()}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status


async def changed(
    bridge: Daemon, config: Path, old: str, new: str, *, event: str = "bridge.reloaded"
) -> dict[str, object]:
    """Change the file, have it read, and wait for what the bridge says of it."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    times = sum(line["event"] == event for line in bridge.lines)
    bridge.process.send_signal(signal.SIGHUP)
    return (await bridge.logged(event, times + 1))[-1]


async def test_credentials_clients_number_rules_and_the_log_change_in_the_middle_of_a_call(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    call = trace("01_did_to_ext_answered")
    at = call.raw.index(b"Event: DialEnd")
    config = await configure(tmp_path, pbx, crm, '[pbx]\nname = "pbx"\n[dialer]\nper_minute = 60\n')
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        prefix = await pbx.play(replace(call, raw=call.raw[:at]))
        assert await targets(crm, 1) == [RING]
        assert (await asked(bridge, ABROAD), await asked(bridge, "/calls?number=1", "n3w")) == (403, 401)
        said = await changed(bridge, config, 'password = "http-s3cret"', 'password = "n3w"')
        assert said["changed"] == ["http.password"]
        assert (await asked(bridge, "/calls?number=1"), await asked(bridge, "/calls?number=1", "n3w")) == (401, 200)
        said = await changed(
            bridge, config, "per_minute = 60", "allow_numbers = ['[+]442071838750']\n[log]\nlevel = 'debug'"
        )
        assert said["changed"] == ["dialer.allow_numbers", "log.level"]
        assert await asked(bridge, ABROAD, "n3w") == 200
        eleven = '[[crm.clients]]\nclient_id = 11\nextensions = ["801"]\nusername = "eleven"\npassword = "e"\n[ami]'
        assert (await changed(bridge, config, "[ami]", eleven))["changed"] == ["crm.clients"]
        assert await asked(bridge, "/calls?number=1&ext=801", "e", "eleven") == 200
        await pbx.play(replace(call, raw=call.raw[at:]), prefix=prefix)
        assert await targets(crm, 2) == [RING, ANSWER]
    assert "n3w" not in str(bridge.lines)


async def test_an_address_that_is_taken_off_the_list_is_refused_and_one_that_is_put_on_it_let_in(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm)
    async with daemon(config) as bridge:
        assert await asked(bridge, "/calls?number=1") == 200
        await changed(bridge, config, "[http]", '[http]\nallow = ["203.0.113.7/32"]')
        assert await asked(bridge, "/calls?number=1") == 403
        await changed(bridge, config, "203.0.113.7/32", "127.0.0.0/8")
        assert await asked(bridge, "/calls?number=1") == 200


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("client_id = 10", "client_id = ''", "crm.client_id"),
        ("[store]", "[stroe]", "stroe"),
        ("[http]", "[http", "is not TOML"),
    ],
)
async def test_wrong_settings_are_refused_as_a_whole_with_their_mistakes(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, old: str, new: str, named: str
) -> None:
    config = await configure(tmp_path, pbx, crm)
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        text = config.read_text()
        config.write_text(text.replace('password = "http-s3cret"', 'password = "n3w"'))
        said = await changed(bridge, config, old, new, event="bridge.reload_refused")
        assert named in str(said["reason"])
        assert await asked(bridge, "/calls?number=1") == 200
        code, _ = await output("config", "check", "--config", str(config))
        assert code == 78
        config.write_text(text)
        assert await output("config", "check", "--config", str(config)) == (0, f"no mistakes in {config}\n")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]


async def test_what_only_a_restart_takes_up_is_named_and_stays_as_it_was(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    config = await configure(tmp_path, pbx, crm, '[pbx]\nname = "pbx"\n')
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        said = await changed(bridge, config, 'name = "pbx"', 'name = "haifa"', event="bridge.reload_incomplete")
        assert said["keys"] == ["pbx.name"]
        assert (await changed(bridge, config, "client_id = 10", "client_id = 12"))["changed"] == ["crm.client_id"]
        await bridge.logged("bridge.reload_incomplete", times=2)
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert await targets(crm, 2) == [RING.replace("ClientId=10", "ClientId=12"), ANSWER.replace("=10", "=12")]


def shown(port: int) -> str:
    """The certificate that is shown to who connects now, in PEM."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=LIMIT_S)


@pytest.mark.needs("openssl")
async def test_a_renewed_certificate_is_shown_and_one_that_does_not_fit_is_refused(
    tmp_path: Path,
    pems: Path,
    pbx: SimulatedPbx,  # is there
    crm: Receiver,
) -> None:
    cert, key = (Path(shutil.copy(pems / f"good.{kind}", tmp_path)) for kind in ("crt", "key"))
    http = f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"'
    config = await configure(tmp_path, pbx, crm)
    config.write_text(config.read_text().replace("[http]", http))
    async with daemon(config) as bridge:
        port = await bridge.port()
        before = await asyncio.to_thread(shown, port)
        shutil.copy(pems / "other.crt", cert)
        said = await changed(bridge, config, "[http]", "[http]", event="bridge.reload_refused")
        assert "is not the key" in str(said["reason"])
        assert await asyncio.to_thread(shown, port) == before
        shutil.copy(pems / "other.key", key)
        await changed(bridge, config, "[http]", "[http]")
        after = await asyncio.to_thread(shown, port)
        assert after != before
        assert after.split() == cert.read_text().split()
