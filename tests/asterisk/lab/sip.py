"""SIP messages and session descriptions as text, as far as the lab's phones need them (RFC 3261, RFC 4566)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

REASONS = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    302: "Moved Temporarily",
    404: "Not Found",
    480: "Temporarily Unavailable",
    481: "Call Does Not Exist",
    486: "Busy Here",
    487: "Request Terminated",
    501: "Not Implemented",
    603: "Decline",
}
_BRANCH = "z9hG4bK"  # RFC 3261, 8.1.1.7


@dataclass
class Message:
    """A request (`start` begins with the method) or a response (`start` begins with SIP/2.0).

    Bytes that are no UTF-8 stay what they are, in surrogates (PEP 383): names come in any encoding.
    """

    start: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Message:
        head, _, body = data.decode(errors="surrogateescape").partition("\r\n\r\n")
        start, *lines = head.split("\r\n")
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return cls(start, headers, body)

    def encode(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        body = self.body.encode()
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode(errors="surrogateescape") + body

    def all(self, name: str) -> list[str]:
        """Each value of a header, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        """A header's first value, empty where there is none."""
        return next(iter(self.all(name)), "")

    @property
    def status(self) -> int | None:
        """A response's status, None for a request."""
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0 ") else None

    @property
    def method(self) -> str:
        """The request's method, or that of the request which this response answers."""
        return self["CSeq"].split()[1] if self.status is not None else self.start.split()[0]

    @property
    def cseq(self) -> int:
        return int(self["CSeq"].split()[0])

    def response(self, status: int, *, tag: str, headers: list[tuple[str, str]], body: str = "") -> Message:
        """The answer to this request, from whom `tag` names."""
        copied = [(name, value) for name in ("Via", "From", "Call-ID", "CSeq") for value in self.all(name)]
        to = self["To"] if status == 100 or ";tag=" in self["To"] else f"{self['To']};tag={tag}"
        return Message(f"SIP/2.0 {status} {REASONS[status]}", [*copied, ("To", to), *headers], body)


def new_branch() -> str:
    return _BRANCH + secrets.token_hex(8)


def uri(address: str) -> str:
    """What stands between the angle brackets of a From, To or Contact; those in the name before it don't count."""
    nameless = re.sub(r'"(?:[^"\\]|\\.)*"', "", address)
    found = re.search(r"<([^>]*)>", nameless)
    return found[1] if found else nameless.partition(";")[0]


def user(address: str) -> str:
    """The user part of a From, To or Contact; empty where there is none."""
    found = re.match(r"sips?:([^@;]*)@", uri(address))
    return found[1] if found else ""


def quoted(name: str) -> str:
    """A display name as it stands in a From."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def tag(address: str) -> str:
    """The tag of a From or To; empty where it has none yet."""
    return address.rpartition(";tag=")[2] if ";tag=" in address else ""


def session(address: str, port: int, *, version: int = 1, direction: str = "sendrecv") -> str:
    """An offer or answer of G.711 µ-law and nothing else; `version` counts what was said before in the same dialog."""
    lines = [
        "v=0",
        f"o=- {port} {version} IN IP4 {address}",
        "s=-",
        f"c=IN IP4 {address}",
        "t=0 0",
        f"m=audio {port} RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
        "a=ptime:20",
        f"a={direction}",
    ]
    return "\r\n".join([*lines, ""])


def audio_address(body: str) -> tuple[str, int] | None:
    """Where the other side wants its audio, None where it named no place."""
    address = re.search(r"^c=IN IP4 (\S+)", body, re.M)
    port = re.search(r"^m=audio (\d+)", body, re.M)
    return (address[1], int(port[1])) if address and port else None
