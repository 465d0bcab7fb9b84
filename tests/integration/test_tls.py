"""TLS on our endpoint: pairs that can't be used are told at the start, and what comes over it is HTTP as ever."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.test_bridge import COMMAND, write

from crmbridge import build, config
from crmbridge.config import ConfigError
from crmbridge.web import connection, recordings, tls
from crmbridge.web.access import Access, Account
from crmbridge.web.links import Links
from crmbridge.web.ops import Ops
from crmbridge.web.recordings import Recordings
from crmbridge.web.server import Part, Server
from crmbridge.web.tls import TlsError

pytestmark = pytest.mark.needs("openssl")
LIMIT_S = 10
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


CA = """
[ca]
default_ca = this
[this]
database = {folder}/index
new_certs_dir = {folder}
serial = {folder}/serial
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good.crt, good.key; other.key; old.crt, expired; tomorrow.crt; locked.key, with a passphrase; chain.crt."""
    folder = tmp_path_factory.mktemp("tls")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=pbx", "-addext", "subjectAltName=DNS:pbx.example,IP:127.0.0.1")
    for name in ("good", "other"):
        openssl("req", "-x509", *curve, *names, "-days", 3, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")  # fmt: skip  # noqa: E501
    openssl("req", "-new", "-key", folder / "good.key", *names, "-out", folder / "old.csr")
    openssl("x509", "-req", "-in", folder / "old.csr", "-signkey", folder / "good.key", "-days", -1, "-out", folder / "old.crt")  # fmt: skip  # noqa: E501
    openssl("pkey", "-in", folder / "good.key", "-aes128", "-passout", "pass:x", "-out", folder / "locked.key")
    (folder / "chain.crt").write_bytes((folder / "good.crt").read_bytes() + (folder / "old.crt").read_bytes())
    (folder / "nonsense").write_text("nonsense")
    (folder / "ca.conf").write_text(CA.format(folder=folder))
    for name in ("index", "index.attr"):
        (folder / name).touch()
    openssl(
        *("ca", "-batch", "-selfsign", "-notext", "-create_serial", "-config", folder / "ca.conf"),
        *("-keyfile", folder / "good.key", "-in", folder / "old.csr", "-out", folder / "tomorrow.crt"),
        *("-startdate", "20980101000000Z", "-enddate", "20990101000000Z"),
    )
    return folder


@pytest.mark.parametrize("cert", ["good.crt", "chain.crt"])
def test_a_good_pair(pems: Path, cert: str) -> None:
    found = tls.load(pems / cert, pems / "good.key")
    assert found.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert found.names == ("pbx.example", "127.0.0.1")


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("none.crt", "good.key", "http.tls_cert = '.*none.crt' can't be read: No such file"),
        ("good.crt", "none.key", "http.tls_key = '.*none.key' can't be read: No such file"),
        ("good.crt", ".", "http.tls_key = .* can't be read: Is a directory"),
        ("good.crt", "other.key", "http.tls_key '.*other.key' is not the key of the certificate"),
        ("good.crt", "locked.key", "has a passphrase"),
        ("good.crt", "nonsense", "is not PEM"),
        ("nonsense", "good.key", "is not PEM"),
        ("good.key", "good.key", "is not PEM"),
        ("old.crt", "good.key", "has expired: renew it"),
        ("tomorrow.crt", "good.key", "is not valid yet: is this machine's clock right"),
    ],
)
def test_pairs_that_cannot_be_used(pems: Path, cert: str, key: str, says: str) -> None:
    with pytest.raises(TlsError, match=says):
        tls.load(pems / cert, pems / key)


def test_a_key_that_the_daemon_may_not_read(pems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(TlsError, match=r"can't be read: Permission denied; .*LoadCredential=http\.tls_cert:"):
        tls.load(pems / "good.crt", pems / "good.key")


@pytest.mark.parametrize("cert", ["old.crt", "good.crt"])
def test_the_daemon_at_its_start_and_check(pems: Path, tmp_path: Path, cert: str) -> None:
    file = write(tmp_path, ami_port=1, url="http://127.0.0.1:1/")
    key = pems / ("other.key" if cert == "good.crt" else "good.key")
    paths = f'username = "crm"\ntls_cert = "{pems / cert}"\ntls_key = "{key}"'
    file.write_text(file.read_text().replace('username = "crm"', paths))
    done = subprocess.run([COMMAND, "run", "-c", file], capture_output=True, text=True, timeout=60, check=False)
    why = "expired" if cert == "old.crt" else "is not the key of"
    assert done.returncode == 78
    assert why in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 0
    checked = subprocess.run([COMMAND, "check", "-c", file, "--json"], capture_output=True, timeout=60, check=False)
    (link,) = [link for link in json.loads(checked.stdout) if link["link"] == "TLS"]
    assert not link["ok"]
    assert why in link["found"]


def test_systemd_hands_the_pair_over(pems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    file = write(tmp_path, ami_port=1, url="http://127.0.0.1:1/")
    assert build.certificate(config.load(file).http) is None
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "http.tls_cert").write_bytes((pems / "good.crt").read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    with pytest.raises(ConfigError, match="http: tls_cert and tls_key go together"):
        config.load(file)
    (folder / "http.tls_key").write_bytes((pems / "good.key").read_bytes())
    with capture_logs() as logs:
        assert build.certificate(config.load(file).http) is not None
    assert [(line["event"], line["log_level"]) for line in logs] == [("http.certificate", "warning")], "two days left"


@asynccontextmanager
async def serving(pems: Path, *more: Part) -> AsyncIterator[tuple[str, int]]:
    server = Server(
        listen="127.0.0.1:0",
        access=Access([Account("crm", "s3cret", ["127.0.0.0/8"])]),
        parts=[Ops(list), *more],
        tls=tls.load(pems / "good.crt", pems / "good.key").context,
    )
    async with server, asyncio.timeout(LIMIT_S):
        yield server.address


async def ask(address: tuple[str, int], trust: ssl.SSLContext, sent: bytes = REQUEST) -> bytes:
    reader, writer = await asyncio.open_connection(*address, ssl=trust, server_hostname="pbx.example")
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    return answer


async def test_https(pems: Path) -> None:
    trust = ssl.create_default_context(cafile=str(pems / "good.crt"))
    async with serving(pems) as address:
        answers = await asyncio.gather(*(ask(address, trust) for _ in range(20)))
        big = await ask(address, trust, REQUEST[:-2] + b"X: " + b"a" * 30_000 + b"\r\n\r\n")
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert b'{"success":true}' in answers[0]
    assert b" 400 Bad Request" in big


async def test_a_recording_over_tls(pems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As browsers get it, by a link; one that takes nothing is let go here, too."""
    sound = os.urandom(1024 * 1024) * 24
    (tmp_path / "a.wav").write_bytes(sound)
    monkeypatch.setattr(recordings, "STALL_S", 1.0)
    trust = ssl.create_default_context(cafile=str(pems / "good.crt"))
    serves = Recordings(folder=tmp_path, links=Links(b"k" * 32, expire_s=3600))
    request = f"GET {serves.link('a.wav', '10')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with serving(pems, serves) as address:
        head, _, body = (await ask(address, trust, request)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == sound
        with capture_logs() as logs:
            _, writer = await asyncio.open_connection(*address, ssl=trust, server_hostname="pbx.example", limit=1024)
            writer.write(request)
            while not [one for one in logs if one["event"] == "http.request"]:  # noqa: ASYNC110  # the log sets no event
                await asyncio.sleep(0.05)
            writer.close()
        (line,) = [line for line in logs if line["event"] == "recordings.cut_off"]
        assert line["bytes_left"] > 0


def test_a_request_in_the_same_packet_as_the_end_of_the_handshake(pems: Path) -> None:
    """Nothing that comes early is lost: the client's last bytes of the handshake and its request in one piece."""
    trust = ssl.create_default_context(cafile=str(pems / "good.crt"))

    def client(address: tuple[str, int]) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inside = trust.wrap_bio(incoming, outgoing, server_hostname="pbx.example")
        with socket.create_connection(address, timeout=LIMIT_S) as stream:
            while True:
                try:
                    inside.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    stream.sendall(outgoing.read())
                    incoming.write(stream.recv(65536))
            inside.write(REQUEST)
            stream.sendall(outgoing.read())
            answer = b""
            while data := stream.recv(65536):
                incoming.write(data)
                try:
                    while part := inside.read(65536):
                        answer += part
                except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                    pass
            return answer

    async def both() -> bytes:
        async with serving(pems) as address:
            return await asyncio.to_thread(client, address)

    assert asyncio.run(both()).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [REQUEST, b"\x00" * 300, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_what_is_no_tls_gets_a_clean_end(pems: Path, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as logs:
        async with serving(pems) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            writer.write_eof()
            await reader.read()
            writer.close()
            assert (await ask(address, ssl.create_default_context(cafile=str(pems / "good.crt")))).startswith(b"HTTP")
    assert [(line["address"], line["log_level"]) for line in logs if line["event"] == "http.tls_failed"] == [
        ("127.0.0.1", "info")
    ]
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []


async def test_old_tls(pems: Path) -> None:
    trust = ssl.create_default_context(cafile=str(pems / "good.crt"))
    trust.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trust.minimum_version = ssl.TLSVersion.TLSv1
        trust.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(pems) as address:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(address, trust)


async def test_who_says_nothing_is_counted_and_ends(pems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.2)
    async with serving(pems) as address:
        held = [await asyncio.open_connection(*address) for _ in range(3)]
        refused, writer = await asyncio.open_connection(*address)
        assert await ended(refused) == b""
        writer.close()
        for reader, one in held:
            assert await ended(reader) == b"", "after a while without a handshake"
            one.close()
        trust = ssl.create_default_context(cafile=str(pems / "good.crt"))
        assert (await ask(address, trust)).startswith(b"HTTP"), "there is room again"


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_stop_in_the_middle_of_a_handshake(pems: Path) -> None:
    async with serving(pems) as address:
        reader, writer = await asyncio.open_connection(*address)
        trust = ssl.create_default_context(cafile=str(pems / "good.crt"))
        assert (await ask(address, trust)).startswith(b"HTTP"), "so the other one is at the door, too"
    assert await ended(reader) == b""
    writer.close()
