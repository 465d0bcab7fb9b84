"""What the CRM is told while the call list's MariaDB is away or hangs, by the whole bridge: the truth, and soon."""

# small files
from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import aiohttp
import pytest
from tests.asterisk.lab import mariadb
from tests.integration.test_bridge import daemon, trace, write
from tests.integration.test_call_list_mariadb import stopped

from crmbridge.demo.simulated_pbx import SimulatedPbx

pytestmark = pytest.mark.needs("mariadb")

LIMIT_S = 60
OF_CRM = "Basic " + base64.b64encode(b"crm:http-s3cret").decode()


class Asked:
    """Who asks the bridge."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession(headers={"Authorization": OF_CRM}) as session,
            session.get(f"{self._base}{path}") as answer,
        ):
            return answer.status, await answer.read()

    async def calls(self) -> str:
        """`there`, or the code of the error."""
        status, body = await self.get("/calls?number=033004799")
        answer = json.loads(body)
        assert (status, answer["success"]) in {(200, True), (503, False)}
        return "there" if status == 200 else str(answer["error"]["code"])

    async def until_there(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while await self.calls() != "there":  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(0.1)

    async def up(self) -> bool:
        return await self.reading("crmbridge_call_list_up") == 1

    async def reading(self, metric: str) -> float:
        """What it stands at."""
        _, text = await self.get("/metrics")
        (line,) = [one for one in text.decode().splitlines() if one.startswith(f"{metric} ")]
        return float(line.split()[1])


async def test_a_database_that_is_away_then_there_then_hangs(tmp_path: Path) -> None:
    pbx, port = SimulatedPbx(username="crmbridge", secret="s3cret"), mariadb.free_port()
    await pbx.start()
    settings = write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:1/")
    url = f'url = "mysql+asyncmy://root@127.0.0.1:{port}/calls"'
    settings.write_text(settings.read_text().replace("[store]", f"[store]\n{url}"))
    away = "call_list_unavailable"
    try:
        async with daemon(settings) as bridge:
            await bridge.logged("ami.connected")
            asked = Asked(await bridge.port())
            assert [await asked.calls() for _ in range(3)] == [away] * 3
            assert not await asked.up()
            assert (await asked.get("/readyz"))[0] == 200, "popups and clicks matter more"
            assert len(await bridge.logged("call_list.unavailable")) == 1, "said once"
            await pbx.play(trace("01_did_to_ext_answered"), speed=100)
            await bridge.logged("cdr.not_stored")
            assert await asked.reading('crmbridge_call_records_waiting{pbx="pbx"}') >= 1
            assert await asked.reading('crmbridge_call_records_lag_seconds{pbx="pbx"}') > 0
            with mariadb.running(port=port) as server:
                server.run("CREATE DATABASE calls")
                await asked.until_there()
                await bridge.logged("call_list.available")
                await bridge.logged("cdr.stored")
                assert await asked.up()
                assert await asked.reading('crmbridge_call_records_waiting{pbx="pbx"}') == 0
                assert await asked.reading('crmbridge_call_records_lag_seconds{pbx="pbx"}') == 0
                assert await asked.reading('crmbridge_call_records_total{pbx="pbx"}') >= 1
                with stopped(server):
                    async with asyncio.timeout(LIMIT_S):
                        assert set(await asyncio.gather(*(asked.calls() for _ in range(20)))) == {away}
                    assert (await asked.get("/healthz"))[0] == 200
                await asked.until_there()
            assert await asked.calls() == away
            assert len(await bridge.logged("call_list.unavailable", times=3)) == 3
    finally:
        await pbx.stop()
