"""What the CRM's people will really use: curl, and PHP's file_get_contents, against the running daemon.

The URL of the client's questionnaire is called as it stands there, host and all; only the connection is led to us.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.integration.test_bridge import Daemon, configure, daemon, trace

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx

pytestmark = pytest.mark.asyncio(loop_scope="module")
URL = "http://199.203.227.132/dialer/sodialer.php:6560?sExt=777&sNumber=033004799&ClientId=10"
"""The questionnaire's, to the letter."""
BASE = "http://199.203.227.132/dialer/sodialer.php"
FORM = {"sExt": "777", "sNumber": "033004799", "ClientId": "10"}
DONE = {"success": True, "result": []}
RECORDING = "in-trunk-033004799-20261123-055257-1795413177.274.wav"
SOUND = b"sound" * 1000
API = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
LIMIT_S = 30


class Site:
    """The daemon, and the PBX behind it."""

    def __init__(self, pbx: SimulatedPbx, running: Daemon, port: int) -> None:
        self.pbx, self.daemon, self.port = pbx, running, port

    def calls(self) -> list[tuple[str, str]]:
        return [(one["Channel"], one["Exten"]) for one in self.pbx.originated]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret", click=trace("18a_c2c_pjsip"))
    await pbx.start()
    async with Receiver() as crm:
        often = """[dialer]
        duplicate_window_s = 0.001
        per_extension_per_minute = 1000
        max_calls = 1000
        when_talking = "ring"
        """
        folder = tmp_path_factory.mktemp("curl")
        (folder / RECORDING).write_bytes(SOUND)
        config = await configure(folder, pbx, crm, f'{often}[cdr]\nrecordings_dir = "{folder}"')
        config.write_text(config.read_text().replace("[http]", "[http]\ncredentials_as_parameters = true"))
        async with daemon(config) as running:
            await running.logged("ami.connected")
            yield Site(pbx, running, await running.port())
    await pbx.stop()


@pytest.fixture
def site(running_site: Site) -> Site:
    running_site.pbx.originated.clear()
    return running_site


async def output(*command: str, stdin: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, (command, out, err)
    assert err == b""
    return out.decode()


async def curl(site: Site, *arguments: str) -> dict[str, Any]:
    """The answer's body, as JSON."""
    led = ("--connect-to", f"199.203.227.132:80:127.0.0.1:{site.port}", "--noproxy", "*")
    answer = json.loads(await output("curl", "-sS", *led, *arguments))
    assert isinstance(answer, dict)
    return answer


async def php(script: str) -> str:
    return await output("php", "-d", "display_errors=stderr", "-d", "error_reporting=-1", stdin=script)


def fetched(site: Site, url: str, **options: object) -> str:
    """A script that fetches it with file_get_contents; the connection is led here as to a proxy."""
    http = {"proxy": f"tcp://127.0.0.1:{site.port}", "ignore_errors": True, **options}
    return f"<?php\necho file_get_contents({json.dumps(url)}, false, stream_context_create(['http' => json_decode(<<<'J'\n{json.dumps(http)}\nJ, true)]));"  # noqa: E501


BASIC = "Authorization: Basic " + base64.b64encode(b"crm:http-s3cret").decode()


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    "arguments",
    [
        ("-u", "crm:http-s3cret", URL),
        ("-u", "crm:http-s3cret", "--anyauth", URL),
        ("-u", "crm:http-s3cret", "--http1.0", URL),
        ("-u", "crm:http-s3cret", "-H", "Expect: 100-continue", "-d", URL.partition("?")[2], BASE),
        ("-u", "crm:http-s3cret", *(part for pair in FORM.items() for part in ("-F", "=".join(pair))), BASE),
        ("-u", "crm:http-s3cret", "-G", *(part for pair in FORM.items() for part in ("--data-urlencode", "=".join(pair))), BASE),  # noqa: E501
        (URL + "&username=crm&password=http-s3cret",),
        ("http://crm:http-s3cret@" + URL.removeprefix("http://"),),
    ],
)  # fmt: skip
async def test_curl(site: Site, arguments: tuple[str, ...]) -> None:
    assert await curl(site, *arguments) == DONE
    assert site.calls() == [("PJSIP/777", "033004799")]
    assert "http-s3cret" not in json.dumps(site.daemon.lines)


@pytest.mark.needs("curl")
async def test_curl_without_credentials_and_with_wrong_ones(site: Site) -> None:
    for arguments in ((URL,), ("-u", "crm:wrong", URL)):
        assert (await curl(site, *arguments))["error"]["code"] == "not_authenticated"
    assert site.calls() == []


@pytest.mark.needs("php")
@pytest.mark.parametrize(
    ("url", "options"),
    [
        (URL, {"header": BASIC}),
        (URL, {"header": BASIC, "request_fulluri": True}),
        (URL, {"header": BASIC, "protocol_version": "1.1"}),
        (BASE, {"header": f"{BASIC}\r\nContent-Type: application/x-www-form-urlencoded", "method": "POST", "content": URL.partition("?")[2]}),  # noqa: E501
        (URL + "&username=crm&password=http-s3cret", {}),
    ],
)  # fmt: skip
async def test_php(site: Site, url: str, options: dict[str, object]) -> None:
    assert json.loads(await php(fetched(site, url, **options))) == DONE
    assert site.calls() == [("PJSIP/777", "033004799")]
    assert "http-s3cret" not in json.dumps(site.daemon.lines)


@pytest.mark.needs("php")
async def test_the_examples_in_php_of_the_page(site: Site) -> None:
    examples = re.findall(r"```php\n(.*?)```", API, re.DOTALL)
    assert len(examples) == 2
    assert "ignore_errors" in examples[0]
    for example in examples:
        script = example.replace("PBX:6560", f"127.0.0.1:{site.port}").replace("PASSWORD", "http-s3cret")
        assert await php(f"{script}\nvar_export($answer['success'] ?? is_array($calls));") == "true"
    assert site.calls() == [("PJSIP/777", "033004799")]


@pytest.mark.needs("php")
async def test_what_the_example_in_php_logs_when_it_goes_wrong(site: Site) -> None:
    (example, _) = re.findall(r"```php\n(.*?)```", API, re.DOTALL)
    script = example.replace("PBX:6560", f"127.0.0.1:{site.port}").replace("error_log(", "print(")
    logged = await php(script)
    assert logged == "click to call: not_authenticated: username and password are wrong or missing"


@pytest.mark.needs("curl")
async def test_the_examples_in_curl_of_the_page(site: Site) -> None:
    lines = re.findall(r"^curl (.*)$", API, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        command = line.replace("PASSWORD", "http-s3cret").replace("127.0.0.1:6560", f"127.0.0.1:{site.port}")
        command = command.replace("PBX:6560", f"127.0.0.1:{site.port}")
        if " -O " in command:
            assert await output("sh", "-c", f"curl -sS {command.replace(' -O ', ' ')}") == SOUND.decode()
            continue
        answer = json.loads(await output("sh", "-c", f"curl -sS {command}"))
        assert answer["success"] is True
    assert site.calls() == [("PJSIP/777", "033004799")]
