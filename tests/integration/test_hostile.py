"""Requests that are meant to place a call that they may not, or to slip something into what Asterisk is told.

The whole bridge runs, as `crmbridge run` runs it, with every byte that it sends to the PBX recorded on the way. After
each request a click that is allowed is made, too: whatever was to be sent before it has been sent by then. So it is
certain how many calls a request placed, and that what Asterisk read was nothing but our own actions with our own
headers.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.integration.bridge_thread import LIMIT_S, BridgeThread

from crmbridge.web import parameters
from crmbridge.web.attempts import FREE

CRM, STRANGER, PROXY, ELEVEN, SELF = "127.0.0.5", "127.0.0.6", "127.0.0.9", "127.0.0.11", "127.0.0.1"
"""Who may ask; who may not; a trusted proxy; client 11's own address; the PBX's host."""
BEHIND_PROXY = "203.0.113.7"
PATH = "/dialer/sodialer.php"
GOOD = {"sExt": "777", "sNumber": "0521234567", "ClientId": "10"}
SETTINGS = f"""
trusted_proxies = ["{PROXY}"]
allow = ["{CRM}", "{BEHIND_PROXY}", "127.0.1.0/24"]
[pbx]
extensions = '7\\d\\d'
[dialer]
per_extension_per_minute = 100000
per_minute = 100000
max_calls = 100000
duplicate_window_s = 600
[[crm.clients]]
client_id = 11
extensions = [711]
username = "eleven"
password = "its own"
allow = ["{ELEVEN}"]
"""
OUR_IDS = r"action/|resync-\d+-|crm-\d+\."
"""How the ids of our own actions begin; nothing that is slipped in below has such a one."""
ORIGINATE = {
    "Action": r"Originate",
    "ActionID": r"[A-Za-z0-9./_-]+",
    "Async": r"true",
    "CallerID": r'"CRM \+?[0-9]+" <7\d\d>',
    "ChannelId": r"crm-[0-9]+\.[0-9a-f]+",
    "Channel": r"PJSIP/7\d\d",
    "Context": r"from-internal",
    "Exten": r"\+?[0-9]+",
    "Priority": r"1",
    "Timeout": r"30000",
}
Call = tuple[str, str]


class Bridge(BridgeThread):
    """The bridge, and what it sends to the PBX."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sent = bytearray()
        self._numbers = count(1)

    def configured(self, ami_port: int) -> Path:
        file = super().configured(ami_port)
        file.write_text(file.read_text().replace("[store]", f"{SETTINGS}\n[store]"))
        return file

    @asynccontextmanager
    async def way_to(self, ami_port: int) -> AsyncIterator[int]:
        self._pbx_port = ami_port
        recorder = await asyncio.start_server(self._record, "127.0.0.1", 0)
        yield recorder.sockets[0].getsockname()[1]
        recorder.close()

    async def _record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_pbx, to_pbx = await asyncio.open_connection("127.0.0.1", self._pbx_port)

        async def back() -> None:
            while data := await from_pbx.read(65536):
                writer.write(data)
            writer.close()

        task = asyncio.create_task(back())
        while data := await reader.read(65536):
            self.sent += data
            to_pbx.write(data)
        to_pbx.close()
        await task

    def raw(self, request: bytes, source: str = CRM) -> bytes:
        return super().raw(request, source)

    def cut_short(self, request: bytes, source: str) -> bytes:
        """Send bytes, say that there are no more, and read what comes."""
        with socket.create_connection(self.address, LIMIT_S, (source, 0)) as stream:
            try:
                stream.sendall(request)
                stream.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: stream.recv(65536), b""))
            except OSError:
                return b""

    def placed(self, since: int) -> list[Call]:
        """The calls that were placed since so many bytes, but for the one that is allowed; all bytes are looked at."""
        number = f"05400{next(self._numbers):05}"
        assert statuses(self.raw(get({**GOOD, "sExt": "799", "sNumber": number}))) == [200]
        sent = actions(bytes(self.sent[since:]))
        calls = [(one["Channel"].partition("/")[2], one["Exten"]) for one in sent if one["Action"] == "Originate"]
        calls.remove(("799", number))
        return calls


def actions(sent: bytes) -> list[dict[str, str]]:
    """Every action, each being whole, of lines that are headers, and an Originate being ours to the byte."""
    assert sent.endswith(b"\r\n\r\n") or not sent
    found = []
    for action in sent.split(b"\r\n\r\n")[:-1]:
        headers: dict[str, str] = {}
        for line in action.split(b"\r\n"):
            match = re.fullmatch(rb"([A-Za-z]+): ([ -~]*)", line)
            assert match, line
            name = match[1].decode()
            assert name not in headers or name == "Operation", f"{name} twice: {action!r}"
            headers[name] = match[2].decode()
        assert re.match(OUR_IDS, headers["ActionID"]), action
        if headers["Action"] == "Originate":
            assert set(headers) == set(ORIGINATE), action
            assert all(re.fullmatch(ORIGINATE[name], value) for name, value in headers.items()), action
        found.append(headers)
    return found


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def basic(user: str = "crm", password: str = "http-s3cret") -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = basic()


def query(values: dict[str, str] | str) -> str:
    """Values stand as they are: what is to be escaped is escaped already."""
    if isinstance(values, str):
        return values
    return "&".join(f"{name}={value}" for name, value in values.items())


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "Connection: close", "", ""]).encode("latin-1")


def get(values: dict[str, str] | str = GOOD, *headers: str, path: str = PATH) -> bytes:
    return head(f"GET {path}?{query(values)} HTTP/1.1", "Host: pbx", *(headers or (RIGHT,)))


def post(form: bytes | str, *headers: str, path: str = PATH, kind: str = "application/x-www-form-urlencoded") -> bytes:
    body = form.encode() if isinstance(form, str) else form
    lines = ("Host: pbx", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *(headers or (RIGHT,)))
    return head(f"POST {path} HTTP/1.1", *lines) + body


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with pytest.MonkeyPatch.context() as quicker, Bridge(tmp_path_factory.mktemp("hostile")) as running:
        quicker.setattr(parameters, "BODY_S", 0.5)
        assert running.placed(0) == []
        yield running


# What is slipped into a value


SLIPPED = {
    "an action": "%0d%0aAction:%20Command%0d%0aCommand:%20core%20stop%20now%0d%0a%0d%0a",
    "a header": "%0d%0aApplication:%20System%0d%0aData:%20id",
    "a variable": "%0d%0aVariable:%20X=1",
    "CR LF": "%0d%0a",
    "LF": "%0a",
    "CR": "%0d",
    "NUL": "%00",
    "vertical tab": "%0b",
    "form feed": "%0c",
    "escape": "%1b[2J",
    "delete": "%7f",
    "next line": "%c2%85",
    "line separator": "%e2%80%a8",
    "paragraph separator": "%e2%80%a9",
    "overlong UTF-8": "%c0%8d%c0%8a",
    "cut to a byte": "%e5%98%8d%e5%98%8aX:1",
    "escaped twice": "%250d%250aX:1",
    "as IIS escapes": "%u000d%u000aX:1",
    "as C escapes": "\\r\\nX:1",
    "no UTF-8": "%ff%fe",
    "half a surrogate": "%ed%a0%80",
    "comma": ",1,g",
    "parentheses": "(x)",
    "variable": "${SHELL(id)}",
    "expression": "$[1+1]",
    "quote": '"',
    "angle brackets": "<900>",
    "ampersand": "%26PJSIP%2f778",
    "bar": "|1",
    "semicolon": ";2",
    "at": "@from-trunk",
    "n": "/n",
    "backslash": "\\",
    "Arabic digits": "%d9%a7",
    "fullwidth digit": "%ef%bc%97",
    "superscript": "%c2%b2",
    "letter that folds to k": "%e2%84%aa",
    "zero width": "%e2%80%8b",
    "long": "7" * 41,
    "longer": "7" * 201,
    "longest": "7" * 7000,
}


@pytest.mark.parametrize("where", ["sExt", "sNumber", "ClientId"])
@pytest.mark.parametrize("what", SLIPPED)
@pytest.mark.parametrize("side", ["before", "behind"])
def test_something_slipped_into_a_value(bridge: Bridge, where: str, what: str, side: str) -> None:
    since = len(bridge.sent)
    value = SLIPPED[what] + GOOD[where] if side == "before" else GOOD[where] + SLIPPED[what]
    values = {**GOOD, where: value}
    for request in (get(values), post(query(values))):
        (status,) = statuses(bridge.raw(request))
        assert status in {400, 403}
    assert bridge.placed(since) == []


# Requests that place no call

CLICK = query(GOOD)
OTHER = CLICK.replace("0521234567", "0537654321")
MULTIPART = "".join(
    f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in GOOD.items()
)
PARTS = "multipart/form-data; boundary=b"
XFF = "X-Forwarded-For: "
CHUNKED = f"{len(CLICK):x}\r\n{CLICK}\r\n0\r\n\r\n".encode()
FORM = "Content-Type: application/x-www-form-urlencoded"


def smuggled(*headers: str, body: bytes = b"") -> bytes:
    """A POST whose length is told in two ways, with a click behind it for who believes the other one."""
    return head(f"POST {PATH} HTTP/1.1", "Host: pbx", RIGHT, FORM, *headers) + body + get()


NOTHING: dict[str, tuple[bytes, str]] = {
    # parameters that are odd
    "array sNumber": (get(CLICK.replace("sNumber=", "sNumber[]=")), CRM),
    "array sNumber escaped": (get(CLICK.replace("sNumber=", "sNumber%5b%5d=")), CRM),
    "array sExt": (get(CLICK.replace("sExt=", "sExt[0]=")), CRM),
    "array ClientId": (get(CLICK.replace("ClientId=", "ClientId[a]=")), CRM),
    "sExt twice": (get(CLICK + "&sExt=778"), CRM),
    "sExt twice, first empty": (get("sExt=&" + CLICK), CRM),
    "sNumber twice": (get(CLICK + "&sNumber=0537654321"), CRM),
    "sNumber twice, escaped": (get(CLICK + "&s%4eumber=0537654321"), CRM),
    "sNumber a thousand times": (get(CLICK + "&sNumber=1" * 700), CRM),
    "ClientId twice": (get(CLICK + "&ClientId=11"), CRM),
    "query and form": (post("sNumber=0537654321", path=f"{PATH}?{CLICK}"), CRM),
    "query and form, the same": (post(CLICK, path=f"{PATH}?{CLICK}"), CRM),
    "query and multipart": (
        post(MULTIPART + "--b--\r\n", path=f"{PATH}?{CLICK}", kind=PARTS),
        CRM,
    ),
    "multipart twice": (post(MULTIPART * 2 + "--b--\r\n", kind=PARTS), CRM),
    "multipart without an end": (post(MULTIPART, kind=PARTS), CRM),
    "semicolons": (get(CLICK.replace("&", ";")), CRM),
    "other case": (get(CLICK.lower()), CRM),
    "no parameters": (get(""), CRM),
    "in the fragment": (get("#" + CLICK), CRM),
    "in a cookie": (get("", RIGHT, "Cookie: " + CLICK.replace("&", "; ")), CRM),
    "in headers": (get("", RIGHT, "sExt: 777", "sNumber: 0521234567", "ClientId: 10"), CRM),
    "JSON": (post('{"sExt":"777","sNumber":"0521234567","ClientId":"10"}', kind="application/json"), CRM),
    "text": (post(CLICK, kind="text/plain"), CRM),
    "UTF-7": (post(CLICK.replace("sExt", "+AHM-Ext"), kind="application/x-www-form-urlencoded; charset=utf-7"), CRM),
    "UTF-16": (post(CLICK.encode("utf-16"), kind="application/x-www-form-urlencoded; charset=utf-16"), CRM),
    "IDNA, which is slow": (post("x" * 60_000, kind="application/x-www-form-urlencoded; charset=idna"), CRM),
    "parts in UTF-7": (
        post(
            MULTIPART.replace("\r\n\r\n", "\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n") + "--b--\r\n",
            kind=PARTS,
        ),
        CRM,
    ),
    "parts in UTF-7, said beforehand": (
        post(
            '--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nutf-7\r\n' + MULTIPART + "--b--\r\n",
            kind=PARTS,
        ),
        CRM,
    ),
    "parts in base64": (
        post(
            MULTIPART.replace("777", "Nzc3").replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n")
            + "--b--\r\n",
            kind=PARTS,
        ),
        CRM,
    ),
    "very many parts": (post(MULTIPART + MULTIPART.replace("s", "x") * 300 + "--b--\r\n", kind=PARTS), CRM),
    "a huge part": (post(MULTIPART.replace("777", "7" * 200_000) + "--b--\r\n", kind=PARTS), CRM),
    "a file": (
        post(
            MULTIPART.replace('name="sNumber"', 'name="sNumber"; filename="x"') + "--b--\r\n",
            kind=PARTS,
        ),
        CRM,
    ),
    # what may not be dialed
    "premium": (get({**GOOD, "sNumber": "1900123456"}), CRM),
    "satellite": (get({**GOOD, "sNumber": "%2b881612345678"}), CRM),
    "abroad": (get({**GOOD, "sNumber": "%2b442079460018"}), CRM),
    "abroad with 00": (get({**GOOD, "sNumber": "00442079460018"}), CRM),
    "abroad, +00": (get({**GOOD, "sNumber": "%2b00442079460018"}), CRM),
    "abroad with a carrier's code": (get({**GOOD, "sNumber": "012442079460018"}), CRM),
    "abroad behind a 0": (get({**GOOD, "sNumber": "0442079460018"}), CRM),
    "Ascension Island behind +972 and a carrier's code": (get({**GOOD, "sNumber": "%2b972122476123"}), CRM),
    "feature code": (get({**GOOD, "sNumber": "*21*0521234567%23"}), CRM),
    "itself": (get({**GOOD, "sNumber": "777"}), CRM),
    "no extension": (get({**GOOD, "sExt": "888"}), CRM),
    "somebody's extension": (get({**GOOD, "sExt": "711"}), CRM),
    # other clients
    "another's ClientId": (get({**GOOD, "sExt": "711", "ClientId": "11"}), CRM),
    "the common credentials at another's address": (get(), ELEVEN),
    "another's credentials at ours": (get({**GOOD, "sExt": "711", "ClientId": "11"}, basic("eleven", "its own")), CRM),
    "another's credentials for us": (get(GOOD, basic("eleven", "its own")), ELEVEN),
    "another's credentials for our extension": (get({**GOOD, "ClientId": "11"}, basic("eleven", "its own")), ELEVEN),
    "another's user with our password": (get(GOOD, basic("eleven")), "127.0.1.1"),
    # credentials
    "none": (get(GOOD, "X: 1"), CRM),
    "two": (get(GOOD, RIGHT, RIGHT), "127.0.1.2"),
    "two, one wrong": (get(GOOD, basic("crm", "wrong"), RIGHT), "127.0.1.3"),
    "two in one line": (get(GOOD, RIGHT + ", " + RIGHT.partition(" ")[2]), "127.0.1.4"),
    "folded": (get(GOOD, RIGHT.replace("Basic ", "Basic\r\n ")), "127.0.1.5"),
    "bearer": (get(GOOD, RIGHT.replace("Basic", "Bearer")), "127.0.1.6"),
    "for the proxy": (get(GOOD, "Proxy-" + RIGHT), CRM),
    "in the address": (head(f"GET http://crm:http-s3cret@pbx{PATH}?{CLICK} HTTP/1.1", "Host: pbx"), CRM),
    "as parameters": (get(CLICK + "&username=crm&password=http-s3cret", "X: 1"), CRM),
    "as a form": (post(CLICK + "&username=crm&password=http-s3cret", "X: 1"), CRM),
    "name with a zero byte": (get(GOOD, basic("crm\0")), "127.0.1.7"),
    "a long password": (get(GOOD, basic("crm", "http-s3cret" * 500)), "127.0.1.8"),
    # lengths told in two ways
    "length and chunks": (smuggled(f"Content-Length: {len(CHUNKED)}", "Transfer-Encoding: chunked", body=CHUNKED), CRM),
    "chunks and length": (smuggled("Transfer-Encoding: chunked", "Content-Length: 4", body=CHUNKED), CRM),
    "two lengths": (smuggled("Content-Length: 0", f"Content-Length: {len(CLICK)}", body=CLICK.encode()), CRM),
    "length with a sign": (smuggled(f"Content-Length: +{len(CLICK)}", body=CLICK.encode()), CRM),
    "length in hex": (smuggled("Content-Length: 0x10", body=CLICK.encode()), CRM),
    "chunks, said oddly": (smuggled("Transfer-Encoding: xchunked", body=CHUNKED), CRM),
    "chunks, said twice": (smuggled("Transfer-Encoding: chunked, chunked", body=CHUNKED), CRM),
    "chunks, a blank before the colon": (smuggled("Transfer-Encoding : chunked", body=CHUNKED), CRM),
    "a chunk of negative size": (smuggled("Transfer-Encoding: chunked", body=b"-1\r\n" + CLICK.encode()), CRM),
    "a chunk with bare line feeds": (smuggled("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n", b"\n")), CRM),
    # methods, hosts, paths
    "HEAD": (get().replace(b"GET", b"HEAD", 1), CRM),
    "PUT": (get().replace(b"GET", b"PUT", 1), CRM),
    "OPTIONS": (get().replace(b"GET", b"OPTIONS", 1), CRM),
    "TRACE": (get().replace(b"GET", b"TRACE", 1), CRM),
    "CONNECT": (head("CONNECT 127.0.0.1:5038 HTTP/1.1", "Host: pbx", RIGHT), CRM),
    "lower case": (get().replace(b"GET", b"get", 1), CRM),
    "HEAD, overridden": (
        get(GOOD, RIGHT, "X-HTTP-Method-Override: GET", "X-HTTP-Method: GET").replace(b"GET", b"HEAD", 1),
        CRM,
    ),
    "PUT, overridden by a parameter": (get(CLICK + "&_method=GET").replace(b"GET", b"PUT", 1), CRM),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", CRM),
    "HTTP/0.9": (f"GET {PATH}?{CLICK}\r\n\r\n".encode(), CRM),
    "health, rewritten": (
        head("GET /healthz HTTP/1.1", "Host: pbx", f"X-Original-URL: {PATH}?{CLICK}", f"X-Rewrite-URL: {PATH}?{CLICK}"),
        CRM,
    ),
    "health with our parameters": (get(GOOD, "X: 1", path="/healthz"), CRM),
    "up from health": (get(GOOD, "X: 1", path=f"/healthz/..{PATH}"), CRM),
    "up from health, escaped": (get(GOOD, "X: 1", path=f"/healthz/%2e%2e{PATH.replace('/', '%2f')}"), CRM),
    "health with a semicolon": (get(GOOD, "X: 1", path=f"/healthz;{PATH}"), CRM),
    "two slashes": (get(path="/" + PATH), CRM),
    "a slash behind": (get(path=PATH + "/"), CRM),
    "a zero byte behind": (get(path=PATH + "%00"), CRM),
    "capitals": (get(path=PATH.upper()), CRM),
    "a port that is none": (get(path=PATH + ":%d9%a7"), CRM),
    "a long port": (get(path=PATH + ":656065"), CRM),
    "a line end in the path": (get(path=PATH + "%0d%0a"), CRM),
    "a line end for real": (get(path=PATH + "\r\nX: "), CRM),
    # from where one may not ask
    "a stranger": (get(), STRANGER),
    "this machine": (get(), SELF),
    "a stranger as us": (get(GOOD, RIGHT, XFF + CRM), STRANGER),
    "a stranger as the proxy": (get(GOOD, RIGHT, XFF + PROXY, f"X-Real-IP: {CRM}", f"Forwarded: for={CRM}"), STRANGER),
    "the proxy itself": (get(), PROXY),
    **{
        f"the proxy, {value!r}": (get(GOOD, RIGHT, XFF + value), PROXY)
        for value in (
            "",
            ",",
            "unknown",
            "_hidden",
            STRANGER,
            f"{BEHIND_PROXY}, {STRANGER}",
            f"{BEHIND_PROXY},{STRANGER}:51234",
            f"{BEHIND_PROXY}, ::ffff:{STRANGER}",
            f"{BEHIND_PROXY}, [::ffff:{STRANGER}]:80",
            f"{BEHIND_PROXY}, {PROXY},",
            f"{BEHIND_PROXY} {STRANGER}",
            f"{BEHIND_PROXY}/32",
            f"'{BEHIND_PROXY}'",
            f'"{BEHIND_PROXY}"',
            f"for={BEHIND_PROXY}",
            "3405803783",
            "0xcb007107",
            "0313.0.0161.07",
            "203.0.113.007",
            "203.0.28935",
            "::ffff:cb00:7108",
            "64:ff9b::203.0.113.7",
            "::203.0.113.7",
            f"{BEHIND_PROXY}\t.1",
            ", ".join([BEHIND_PROXY] * 300 + [STRANGER]),
        )
    },
    "the proxy, two lines": (get(GOOD, RIGHT, XFF + BEHIND_PROXY, XFF + STRANGER), PROXY),
    "the proxy, other headers": (
        get(
            GOOD, RIGHT, f"X-Real-IP: {BEHIND_PROXY}", f"Forwarded: for={BEHIND_PROXY}", f"X-Client-IP: {BEHIND_PROXY}"
        ),
        PROXY,
    ),
    # too much
    "a huge head": (get(GOOD, RIGHT, "A: " + "a" * 1_000_000), CRM),
    "many headers": (get(GOOD, RIGHT, *(f"A{n}: 1" for n in range(1000))), CRM),
    "a huge query": (get(CLICK + "&x=" + "a" * 1_000_000), CRM),
    "a huge body": (post(CLICK + "&x=" + "a" * 1_000_000), CRM),
    "many fields": (post(CLICK + "&x=1" * 5000), CRM),
    "a body that stops": (post(CLICK)[:-5], CRM),
}


@pytest.mark.parametrize("name", NOTHING)
def test_requests_that_place_no_call(bridge: Bridge, name: str) -> None:
    since = len(bridge.sent)
    request, source = NOTHING[name]
    assert len(statuses(bridge.raw(request, source))) <= 1, "what is behind a refused request is not looked at"
    assert bridge.placed(since) == []


def test_the_table_is_long_enough() -> None:
    assert len(NOTHING) >= 60


# Requests that look odd and are right


def asked(number: int) -> dict[str, str]:
    return {**GOOD, "sNumber": f"05299{number:05}"}


ONE = {
    "an absolute URI of another host": (
        head(f"GET http://evil{PATH}?{query(asked(1))} HTTP/1.1", "Host: pbx", RIGHT),
        CRM,
    ),
    "another host": (head(f"GET {PATH}?{query(asked(2))} HTTP/1.1", "Host: evil", RIGHT), CRM),
    "an escaped path": (get(asked(3), path="/dialer/%73odialer.php"), CRM),
    "overridden, which nobody reads": (get(asked(4), RIGHT, "X-HTTP-Method-Override: DELETE"), CRM),
    "behind the proxy": (get(asked(5), RIGHT, XFF + BEHIND_PROXY), PROXY),
    "behind the proxy, mapped": (get(asked(6), RIGHT, f"{XFF}1.2.3.4, [::ffff:{BEHIND_PROXY}]:443"), PROXY),
    "behind the proxy, blanks": (get(asked(7), RIGHT, f"{XFF} \t {STRANGER} ,\t{BEHIND_PROXY} \t"), PROXY),
    "behind two proxies": (get(asked(8), RIGHT, f"{XFF}{BEHIND_PROXY}", f"{XFF}{PROXY}"), PROXY),
    "on the list, whatever it says": (get(asked(9), RIGHT, XFF + STRANGER), CRM),
    "in parts": (post(MULTIPART.replace("0521234567", "0529900012") + "--b--\r\n", kind=PARTS), CRM),
    "in chunks": (
        head(f"POST {PATH} HTTP/1.1", "Host: pbx", RIGHT, FORM, "Transfer-Encoding: chunked")
        + CHUNKED.replace(b"0521234567", b"0529900010"),
        CRM,
    ),
    "a body behind a GET": (get(asked(11), RIGHT, "Content-Length: 5") + b"X=1&Y", CRM),
}


@pytest.mark.parametrize("name", ONE)
def test_requests_that_place_one_call(bridge: Bridge, name: str) -> None:
    since = len(bridge.sent)
    request, source = ONE[name]
    assert statuses(bridge.raw(request, source)) == [200]
    ((extension, number),) = bridge.placed(since)
    assert (extension, number[:5]) == ("777", "05299")


# Requests that are damaged at random


TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"%0d%0a",
    b"%00",
    b"&",
    b"=",
    b"?",
    b"#",
    b" ",
    b":",
    b";",
    b"..",
    b"/",
    b"%",
    b"\xff",
]
TOKENS += [
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    b"sNumber=",
    b"7",
    b"+",
    b"*72",
    b"[",
]


def damaged(request: bytes, chance: random.Random) -> bytes:
    """A few changes here and there: something cut out, put in, doubled or overwritten."""
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(request) + 1)
        until = min(len(request), at + chance.randint(0, 12))
        put = chance.choice([b"", request[at:until] * 2, chance.choice(TOKENS), chance.randbytes(2)])
        request = request[:at] + put + request[until:]
    return request


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("may", [True, False])
def test_damaged_requests(bridge: Bridge, seed: int, may: bool) -> None:
    """Who may not ask places no call; who may, no other than one that is allowed. Nothing is an internal error."""
    since = len(bridge.sent)
    chance = random.Random(seed)
    right = [get(), post(CLICK), post(MULTIPART + "--b--\r\n", kind=PARTS), ONE["in chunks"][0]]
    for _ in range(150):
        request = damaged(chance.choice(right), chance)
        answer = bridge.cut_short(request, f"127.0.1.{chance.randint(100, 200)}" if may else STRANGER)
        assert not any(status >= 500 for status in statuses(answer)), request
    placed = bridge.placed(since)
    assert may or placed == []
    for extension, number in placed:
        assert re.fullmatch(r"7\d\d", extension)
        assert re.fullmatch(r"0\d{8,9}|7\d\d", number)


# Many at once


async def together(bridge: Bridge, requests: Sequence[bytes], source: str) -> list[list[int]]:
    """Each on a connection of its own: all are open before anything is sent, then all is sent at once."""

    async def open_one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            return await asyncio.open_connection(*bridge.address, local_addr=(source, 0))
        except ConnectionError:
            return None

    async def answer(reader: asyncio.StreamReader) -> list[int]:
        try:
            return statuses(await reader.read())
        except ConnectionError:
            return []

    streams = [one for one in await asyncio.gather(*(open_one() for _ in requests)) if one]
    for (_, writer), request in zip(streams, requests, strict=False):
        writer.write(request)
    answers = await asyncio.gather(*(answer(reader) for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    return answers


async def test_a_thousand_times_the_same_at_the_same_instant(bridge: Bridge) -> None:
    since = len(bridge.sent)
    spellings = ["0526000001", "052-6000001", "%2b972526000001", "(052)6000001"]
    five = [get({**GOOD, "sNumber": spelling}) for spelling in [*spellings, spellings[0]]]
    pipelined = b"".join(one.replace(b"Connection: close\r\n", b"") for one in five[:-1]) + five[-1]
    answers = await together(bridge, [pipelined] * 200, CRM)
    assert [status for answer in answers for status in answer] == [200] * 1000
    assert bridge.placed(since) == [("777", "0526000001")]


def test_replays(bridge: Bridge) -> None:
    since = len(bridge.sent)
    request = get({**GOOD, "sNumber": "0526000002"})
    assert [statuses(bridge.raw(request)) for _ in range(20)] == [[200]] * 20
    assert bridge.placed(since) == [("777", "0526000002")]


async def test_five_hundred_connections_at_once(bridge: Bridge) -> None:
    """Those that are too many are closed; each that is answered with a success is one call, and no other is."""
    since = len(bridge.sent)
    requests = [get({**GOOD, "sNumber": f"05271{number:05}"}) for number in range(500)]
    answers = [status for answer in await together(bridge, requests, CRM) for status in answer]
    assert set(answers) == {200}
    assert 200 <= len(answers) <= 500
    placed = bridge.placed(since)
    assert len(placed) == len(set(placed)) == len(answers)


async def test_strangers_who_hold_connections_keep_nobody_out(bridge: Bridge) -> None:
    since = len(bridge.sent)
    held = []
    for _ in range(100):
        _, writer = await asyncio.open_connection(*bridge.address, local_addr=(STRANGER, 0))
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        held.append(writer)
    for _ in range(100):
        _, writer = await asyncio.open_connection(*bridge.address, local_addr=(CRM, 0))
        writer.write(f"POST {PATH} HTTP/1.1\r\n{RIGHT}\r\n{FORM}\r\nContent-Length: 60\r\n\r\nsExt=777".encode())
        held.append(writer)
    assert await asyncio.to_thread(bridge.placed, since) == []
    for writer in held:
        writer.close()


def test_brute_force_gets_nowhere_and_locks_out_nobody_else(bridge: Bridge) -> None:
    since = len(bridge.sent)
    guesses = [basic("crm", f"guess {number}") for number in range(100)]
    found = [statuses(bridge.raw(get(GOOD, guess), "127.0.1.66"))[0] for guess in guesses]
    assert found[: FREE + 1] == [401] * (FREE + 1)
    assert found.count(401) < FREE + 10, "a second or two may pass meanwhile, and one guess with it"
    assert set(found) == {401, 429}
    assert statuses(bridge.raw(get(), "127.0.1.66")) in ([429], [200])
    assert statuses(bridge.raw(get(), "127.0.1.67")) == [200]
    assert len(bridge.placed(since)) <= 1
