"""A SIP phone, or a trunk's far end, at a loopback address of its own; no registration, no password.

It stands in for people: it rings, answers, refuses, is silent, hangs up, presses keys, and says whom it heard. What it
does when it is called is its plan, set before the call; what came of it is read from its calls.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import quote

from tests.asterisk.lab import sip
from tests.asterisk.lab.audio import Audio
from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.sip import Message

RING_S = 0.3
"""How long our phones ring: long enough for events in their order, short enough for many calls."""


@dataclass(frozen=True)
class Plan:
    """What a phone does when it is called: perhaps ring, wait, then perhaps give a final answer."""

    ring: int | None = 180
    """180, or 183 with early audio, or None: it says nothing before its final answer."""
    after_s: float = RING_S
    final: int | None = 200
    """None: it is left to ring."""
    forward_to: str = ""
    """The URI that a 302 names."""


ANSWER = Plan()
NO_ANSWER = Plan(final=None)
BUSY = Plan(ring=None, after_s=0, final=486)


class CallFailedError(Exception):
    """A call that should have been answered ended without."""


class Phone:
    """One phone. All its calls stay in `calls`, in the order they came or were made."""

    def __init__(self, network: Network, address: str, number: str, *, pbx: tuple[str, int]) -> None:
        self.network, self.address, self.number, self.pbx = network, address, number, pbx
        self.plan = ANSWER
        self.calls: list[Call] = []
        self._changes = Changes()
        self._following: set[asyncio.Task[None]] = set()
        self._socket: socket.socket

    async def __aenter__(self) -> Phone:
        self._socket = self.network.bound((self.address, 5060), socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for call in self.calls:
            call.audio.close()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    @property
    def contact(self) -> tuple[str, str]:
        return ("Contact", f"<sip:{self.number}@{self.address}:5060>")

    async def called(self, times: int = 1) -> Call:
        """Wait until the phone is in its call number `times`, whoever began it, and give that."""
        await self._changes.until(lambda: len(self.calls) >= times)
        return self.calls[times - 1]

    def dial(self, number: str, *, caller: str | None = None, name: str = "", privacy: str = "") -> Call:
        """Call a number of the PBX; comes back before anything was answered.

        As `caller` (a user, or user@host, or empty for an address without a user), else as the phone's own number.
        """
        who = self.number if caller is None else caller
        address = who if "@" in who or not who else f"{who}@{self.address}"
        shown = f"{sip.quoted(name)} " if name else ""
        local = f"{shown}<sip:{address or self.address}>;tag={secrets.token_hex(4)}"
        call = Call(self, call_id=secrets.token_hex(8), local=local, remote=f"<sip:{number}@{self.pbx[0]}>")
        self._add(call)
        call.invite([("Privacy", privacy)] if privacy else [])
        return call

    def send(self, message: Message) -> None:
        self._socket.sendto(message.encode(), self.pbx)

    def _add(self, call: Call) -> None:
        self.calls.append(call)
        self._changes.notify()

    def _receive(self) -> None:
        try:
            message = Message.parse(self._socket.recv(65536))
        except (BlockingIOError, ConnectionRefusedError):
            return
        call = next((call for call in self.calls if call.call_id == message["Call-ID"]), None)
        if call is not None:
            call.receive(message)
        elif message.status is None and message.method == "INVITE":
            self._take(message)
        elif message.status is None and message.method != "ACK":
            known = message.method in ("OPTIONS", "NOTIFY")
            self.send(message.response(200 if known else 481, tag=secrets.token_hex(4), headers=[]))

    def _take(self, invite: Message) -> None:
        local = f"{invite['To']};tag={secrets.token_hex(4)}"
        call = Call(self, call_id=invite["Call-ID"], local=local, remote=invite["From"], invited_by=invite)
        call.reply(invite, 100)
        self._add(call)
        task = asyncio.create_task(call.follow(self.plan))
        self._following.add(task)
        task.add_done_callback(self._following.discard)


class Call:
    """One call of a phone, whoever began it (a SIP dialog, and its audio)."""

    def __init__(
        self, phone: Phone, *, call_id: str, local: str, remote: str, invited_by: Message | None = None
    ) -> None:
        self.phone, self.call_id = phone, call_id
        self.rang = self.answered = self.over = False
        self.status: int | None = None
        """The final answer to the INVITE, ours or theirs."""
        self.caller = sip.user(local if invited_by is None else remote)
        self.dialed = sip.user(remote if invited_by is None else invited_by.start.split()[1])
        self.incoming = invited_by is not None
        self.audio = Audio(phone.network, phone.address)
        self._referred = 0
        """The latest that the PBX told of our REFER (RFC 3515, 2.4.4)."""
        self._sessions = itertools.count(1)
        self._local, self._remote = local, remote
        self._remote_tag = sip.tag(remote)
        """Of the latest answer: before the final one it is not yet part of what we send."""
        self._target = sip.uri(remote if invited_by is None else invited_by["Contact"])
        self._invite: Message | None = invited_by
        self._cseq = 0
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._changes = Changes()

    def header(self, name: str) -> str:
        """A header of the INVITE that came in, empty where it had none."""
        return self._invite[name] if self.incoming and self._invite is not None else ""

    # What the person does

    async def hang_up(self) -> None:
        """End the call, answered or not, and wait until it is over."""
        if self.over:
            return
        if self.answered:
            await self.request("BYE")
            self._end()
        elif self.incoming:
            self._final(603)
        else:
            assert self._invite is not None
            self.phone.send(self._message("CANCEL", cseq=self._invite.cseq, via=self._invite["Via"]))
        await self.until_over()

    async def press(self, key: str) -> None:
        """Send one DTMF key (SIP INFO)."""
        relay = [("Content-Type", "application/dtmf-relay")]
        await self.request("INFO", headers=relay, body=f"Signal={key}\r\nDuration=160\r\n")

    async def dials(self, keys: str) -> None:
        """Press keys one after another, each when the PBX has taken the one before."""
        for key in keys:
            await self.press(key)

    async def hold(self) -> None:
        """Put the other side on hold (re-INVITE, sendonly)."""
        self.audio.silent = True
        await self._invite_again("sendonly")

    async def resume(self) -> None:
        """Take the other side back from hold."""
        await self._invite_again("sendrecv")
        self.audio.silent = False

    async def _invite_again(self, direction: str) -> None:
        session = self._session(direction=direction)
        answer = await self.request("INVITE", headers=[("Content-Type", "application/sdp")], body=session)
        self.phone.send(self._message("ACK", cseq=answer.cseq))
        assert answer.status == 200, answer.start

    async def refer(self, number: str, *, replacing: Call | None = None) -> int:
        """Transfer the other side (REFER) to a number, perhaps in the place of a call of ours with it.

        Gives how it went, as soon as that shows: 180 or 200 from where they were sent, or why it can't be done. Where
        it can, the person hangs up.
        """
        to = f"sip:{number}@{self.phone.pbx[0]}"
        if replacing is not None:
            to += f"?Replaces={quote(replacing.dialog, safe='')}"
        by = f"<{sip.uri(self._local)}>"
        answer = await self.request("REFER", headers=[("Refer-To", f"<{to}>"), ("Referred-By", by)])
        assert answer.status is not None
        if answer.status >= 300:
            return answer.status
        await self._changes.until(lambda: self._referred > 100 or self.over)
        if self._referred < 300:
            await self.hang_up()
        return self._referred

    @property
    def dialog(self) -> str:
        """What Replaces names it by, at the PBX (RFC 3891, 3)."""
        return f"{self.call_id};to-tag={self._remote_tag};from-tag={sip.tag(self._local)}"

    async def request(self, method: str, *, headers: list[tuple[str, str]] | None = None, body: str = "") -> Message:
        """Send a request within the call and wait for its final answer."""
        message = self._message(method, headers=headers, body=body)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[message.cseq] = answer
        self.phone.send(message)
        return await answer

    # What came of it

    async def until_ringing(self) -> None:
        await self._changes.until(lambda: self.rang or self.answered or self.over)
        if not self.rang and not self.answered:
            raise CallFailedError(f"{self.caller} to {self.dialed}: {self.status}")

    async def until_answered(self) -> None:
        await self._changes.until(lambda: self.answered or self.over)
        if not self.answered:
            raise CallFailedError(f"{self.caller} to {self.dialed}: {self.status}")

    async def until_over(self) -> None:
        await self._changes.until(lambda: self.over)

    # SIP, being called

    async def follow(self, plan: Plan) -> None:
        """Do with the call that came in what the plan says."""
        assert self._invite is not None
        if plan.ring is not None:
            self.reply(self._invite, plan.ring, body=self._session() if plan.ring == 183 else "")
            self._set(rang=True)
        await asyncio.sleep(plan.after_s)
        if plan.final is not None and not self.over:
            self._final(plan.final, forward_to=plan.forward_to)

    def _final(self, status: int, *, forward_to: str = "") -> None:
        assert self._invite is not None
        contact = [("Contact", f"<{forward_to}>")] if forward_to else None
        self.status = status
        if status == 200:
            self._speak_to(self._invite.body)
            self.reply(self._invite, 200, body=self._session())
            self._set(answered=True)
        else:
            self.reply(self._invite, status, headers=contact)
            self._end()

    def reply(
        self, request: Message, status: int, *, headers: list[tuple[str, str]] | None = None, body: str = ""
    ) -> None:
        more = [self.phone.contact] if headers is None else headers
        if body:
            more = [*more, ("Content-Type", "application/sdp")]
        self.phone.send(request.response(status, tag=sip.tag(self._local), headers=more, body=body))

    # SIP, calling

    def invite(self, headers: list[tuple[str, str]]) -> None:
        """Ask the PBX for the call."""
        more = [*headers, ("Content-Type", "application/sdp")]
        self._invite = self._message("INVITE", headers=more, body=self._session())
        self.phone.send(self._invite)

    def _invite_answered(self, message: Message, status: int) -> None:
        self._remote_tag = sip.tag(message["To"])
        if status >= 200:
            self.status = status
            self._remote = message["To"]
            self._acknowledge(message, status)
        if message.body:
            self._speak_to(message.body)
        if status in (180, 183):
            self._set(rang=True)
        elif status == 200:
            self._set(answered=True)
        elif status > 200:
            self._end()

    def _acknowledge(self, message: Message, status: int) -> None:
        assert self._invite is not None
        if status == 200:
            self._target = sip.uri(message["Contact"])
            self.phone.send(self._message("ACK", cseq=message.cseq))
        else:
            self.phone.send(self._message("ACK", cseq=message.cseq, via=self._invite["Via"]))

    # SIP, both ways

    def receive(self, message: Message) -> None:
        """Take a message of this call."""
        if message.status is None:
            self._requested(message)
        elif message.cseq in self._answers:
            answer = self._answers[message.cseq]
            if message.status >= 200 and not answer.done():
                answer.set_result(message)
        elif message.method == "INVITE" and self._invite is not None and message.cseq == self._invite.cseq:
            self._invite_answered(message, message.status)

    def _requested(self, request: Message) -> None:
        again = self.incoming and self._invite is not None and request.cseq == self._invite.cseq
        if request.method == "INVITE" and again:
            return  # our answer is on its way, or still to be given
        if request.method == "INVITE":
            self._speak_to(request.body)
            self.reply(request, 200, body=self._session())
        elif request.method == "CANCEL":
            self.reply(request, 200)
            if not self.answered and not self.over:
                self._final(487)
        elif request.method == "BYE":
            self.reply(request, 200)
            self._end()
        elif request.method == "NOTIFY" and request.body.startswith("SIP/2.0 "):
            self.reply(request, 200)
            self._referred = int(request.body.split()[1])
            self._changes.notify()
        elif request.method != "ACK":
            self.reply(request, 200 if request.method in ("INFO", "NOTIFY", "OPTIONS", "UPDATE") else 501)

    def _message(
        self,
        method: str,
        *,
        cseq: int | None = None,
        via: str = "",
        headers: list[tuple[str, str]] | None = None,
        body: str = "",
    ) -> Message:
        if cseq is None:
            self._cseq += 1
        here = f"SIP/2.0/UDP {self.phone.address}:5060;rport;branch={sip.new_branch()}"
        return Message(
            f"{method} {self._target} SIP/2.0",
            [
                ("Via", via or here),
                ("Max-Forwards", "70"),
                ("From", self._local),
                ("To", self._remote),
                ("Call-ID", self.call_id),
                ("CSeq", f"{self._cseq if cseq is None else cseq} {method}"),
                self.phone.contact,
                *(headers or []),
            ],
            body,
        )

    def _session(self, *, direction: str = "sendrecv") -> str:
        version = next(self._sessions)
        return sip.session(self.phone.address, self.audio.port, version=version, direction=direction)

    def _speak_to(self, session: str) -> None:
        if far := sip.audio_address(session):
            self.audio.send_to(far)

    def _end(self) -> None:
        self.audio.send_to(None)
        self._set(over=True)

    def _set(self, *, rang: bool | None = None, answered: bool | None = None, over: bool | None = None) -> None:
        self.rang = self.rang if rang is None else rang
        self.answered = self.answered if answered is None else answered
        self.over = self.over if over is None else over
        self._changes.notify()
