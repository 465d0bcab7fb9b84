"""`crmbridge check` on a real Asterisk that is set up wrongly, one fault each: it names the fault and the mend.

One Asterisk for all of them: its files are changed and loaded as an administrator would, and put right again. Faults
of what is not Asterisk are in tests/integration/test_check.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.lab.bridge import COMMAND, CRM, configured
from tests.asterisk.lab.ours import inside
from tests.asterisk.lab.pbx import SECRET, SHIPPED, USER, Pbx

from crmbridge import build, checks
from crmbridge.checks import Link, State
from crmbridge.config import parse
from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 60
USER_FILE = "manager.d/crmbridge.conf"
SHIPPED_USER = (SHIPPED / USER_FILE).read_text().replace(";secret = REPLACE-ME", f"secret = {SECRET}")
CDR_MANAGER = (SHIPPED / "cdr_manager.conf").read_text()
LAB_CDR = (Path(__file__).parent / "lab" / "conf" / "cdr.conf").read_text()
FILES = {USER_FILE: SHIPPED_USER, "cdr_manager.conf": CDR_MANAGER, "cdr.conf": LAB_CDR}
LOAD = {
    USER_FILE: "manager reload",
    "cdr_manager.conf": "module reload cdr_manager.so",
    "cdr.conf": "module reload cdr",
}
FILTER = "eventfilter = ^Event: "


@dataclass(frozen=True)
class Fault:
    """One set-up that is broken in one place."""

    what: str
    link: str
    says: tuple[str, ...]
    """Words of what is found, and of the mend."""
    state: State = State.FAIL
    file: str = USER_FILE
    written: tuple[str, str] = ("", "")
    """In place of the first stands the second."""
    settings: dict[str, Any] = field(default_factory=dict)
    not_found_out: tuple[str, ...] = ()
    """Links that need what is missing, and say so."""


def user(
    what: str,
    old: str,
    new: str,
    *says: str,
    link: str = "AMI rights",
    state: State = State.FAIL,
    not_found_out: tuple[str, ...] = (),
) -> Fault:
    """Another line for our user in manager.conf."""
    return Fault(what, link, says, state, written=(old, new), not_found_out=not_found_out)


def told(
    what: str,
    link: str,
    settings: dict[str, Any],
    *says: str,
    state: State = State.FAIL,
    not_found_out: tuple[str, ...] = (),
) -> Fault:
    """Settings of ours that don't fit this PBX."""
    return Fault(what, link, says, state, settings=settings, not_found_out=not_found_out)


ASKED_BY_REPORTING = (
    *("AMI events", "Asterisk", "CDR", "time zone"),
    *("inbound contexts", "dialer context", "extensions", "trunks"),
)
READ, WRITE = "read = call,cdr,system,user", "write = originate,reporting"
FAULTS = (
    # Who we are
    user("a wrong secret", f"secret = {SECRET}", "secret = x", "Authentication failed", "ami.secret", link="AMI"),
    user("an address that may not", "permit = 127.0.0.1", "permit = 192.0.2.1", "permit", "manager.conf", link="AMI"),
    told("a wrong port", "AMI", {"ami": {"port": 5037}}, "connection refused", "manager.conf"),
    told("TLS where there is none", "AMI", {"ami": {"tls": True}}, "TLS", "ami.port"),
    # Too little
    user("no click to call", WRITE, "write = reporting", "add", "write = ", "originate"),
    user("no reporting", WRITE, "write = originate", "write = ", "reporting", not_found_out=ASKED_BY_REPORTING),
    user("calls are not heard", READ, "read = cdr,system,user", "add call", "read ="),
    user("starting is not heard", READ, "read = call,cdr,user", "add system", "read ="),
    user("records are not heard", READ, "read = call,system,user", "add cdr", "read ="),
    # Too much
    user("the console may be used", WRITE, f"{WRITE},command", "take it out", "command", "console", state=State.WARN),
    user(
        "programs may be run", WRITE, f"{WRITE},system", "take it out", "system", "runs any program", state=State.WARN
    ),
    user("files may be rewritten", WRITE, f"{WRITE},config", "take it out", "config", "rewrites", state=State.WARN),
    user("any call may be ended", WRITE, f"{WRITE},call", "take it out", "call (", "taps", state=State.WARN),
    user(
        "everything may be done",
        WRITE,
        "write = all",
        "take it out",
        "system",
        "command",
        "config",
        "call (",
        state=State.WARN,
    ),
    user("variables are heard", READ, f"{READ},dialplan", "take it out", "read =", "dialplan", state=State.WARN),
    # The filter
    user("a filter without dials", "DialBegin|", "", "hides DialBegin", "asterisk-conf", link="AMI events"),
    user("a filter that hides", FILTER, f"eventfilter = !Hangup\n{FILTER}", "Hangup", "eventfilter", link="AMI events"),
    # Records
    Fault(
        "records that are not sent",
        "CDR",
        ("cdr_manager.conf", "enabled = yes", "cdr.source"),
        file="cdr_manager.conf",
        written=("enabled = yes", "enabled = no"),
    ),
    Fault(
        "records that fall apart",
        "CDR",
        ("[mappings]", "linkedid", "asterisk-conf"),
        state=State.WARN,
        file="cdr_manager.conf",
        written=("linkedid => LinkedID\n", ""),
    ),
    told("another time zone", "time zone", {"cdr": {"timezone": "Asia/Tokyo"}}, "set cdr.timezone", "9 h off"),
    # The dialplan
    told(
        "contexts that are not there",
        "inbound contexts",
        {"pbx": {"inbound_contexts": ["from-bezeq*"]}},
        *("from-bezeq*", "pbx.inbound_contexts", "from-trunk"),
        not_found_out=("trunks",),
    ),
    told(
        "no context to dial in",
        "dialer context",
        {"dialer": {"context": "nowhere"}},
        "dialer.context nowhere",
        "set it",
    ),
    told("no extensions", "extensions", {"pbx": {"extensions": "9{7}"}}, "pbx.extensions", "9{7}", "PJSIP/"),
    told(
        "a phone that is not there",
        "extensions",
        {"pbx": {"endpoints": {"PJSIP/bob-desk": "782"}}},
        *("PJSIP/bob-desk", "pbx.endpoints", "mend"),
    ),
    told(
        "a trunk that is not there", "trunks", {"pbx": {"trunks": ["PJSIP/trunk-012"]}}, "PJSIP/trunk-012", "pbx.trunks"
    ),
    told(
        "trunks elsewhere",
        "trunks",
        {"pbx": {"inbound_contexts": ["from-queue"]}},
        *("PJSIP/trunk-bezeq in from-trunk", "add its context"),
        state=State.WARN,
    ),
    told(
        "phones among the trunks",
        "extensions",
        {"pbx": {"inbound_contexts": ["from-trunk", "from-internal"]}},
        *("PJSIP/", "pbx.inbound_contexts", "another context"),
        state=State.WARN,
    ),
)

NO_RECORDS = Fault(
    "no records", "CDR", ("cdr.conf", "enable = yes"), file="cdr.conf", written=("enable = yes", "enable = no")
)


@contextmanager
def broken(pbx: Pbx, fault: Fault) -> Iterator[None]:
    """Asterisk with the fault, until the end."""
    old, new = fault.written
    if not old:
        yield
        return
    text = FILES[fault.file]
    changed = text.replace(old, new, 1)
    assert changed != text
    try:
        pbx.configure(fault.file, changed)
        pbx.cli(LOAD[fault.file])
        yield
    finally:
        pbx.configure(fault.file, text)
        pbx.cli(LOAD[fault.file])


Check = Callable[..., Any]


@pytest.fixture
async def check(pbx: Pbx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Check]:
    """Tries all links with these settings, from this process into the PBX's network."""
    monkeypatch.setattr(build, "ami_address", lambda ami: inside(pbx.network, port=ami.port, tls=ami.tls))
    async with Receiver() as receiver:
        url = await receiver.start()

        async def check(**more: dict[str, Any]) -> dict[str, Link]:
            values: dict[str, Any] = {
                "crm": {"url": url, "client_id": "10"},
                "ami": {"username": USER, "secret": SECRET},
                "http": {"username": "crm", "password": "lab-password-of-the-crm", "listen": "127.0.0.1:0"},
                "store": {"state_dir": str(tmp_path)},
            }
            for section, keys in more.items():
                values[section] = values.get(section, {}) | keys
            async with asyncio.timeout(LIMIT_S):
                return {link.name: link for link in await checks.all_links(parse(values, source="test"))}

        yield check


async def test_a_healthy_one_has_nothing_to_mend(pbx: Pbx, check: Check) -> None:
    links = await check(pbx={"trunks": ["PJSIP/trunk-bezeq"], "endpoints": {"PJSIP/alice-desk": "781"}})
    assert {name: link for name, link in links.items() if link.state != State.OK} == {}
    assert list(links) == [name for name in checks.LINKS if name not in {"claims", "recordings", "TLS"}]
    assert links["Asterisk"].found.startswith(f"version {pbx.release()}")
    assert "PJSIP/trunk-bezeq" in links["trunks"].found
    assert "777" in links["extensions"].found or "101" in links["extensions"].found
    assert links["clock"].found.startswith("differs from ours by: Asterisk 0 s")


async def test_no_records(pbx: Pbx, check: Check) -> None:
    """The next test gets another Asterisk: one whose records were off and on again hangs when cdr_manager is loaded
    anew a second time, 16 and 22."""
    try:
        with broken(pbx, NO_RECORDS):
            links = await check()
    finally:
        pbx.stop()
    assert [name for name, link in links.items() if link.state != State.OK] == ["CDR"]
    assert all(words in links["CDR"].found for words in NO_RECORDS.says)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_a_fault_is_named_and_so_is_its_mend(pbx: Pbx, check: Check, fault: Fault) -> None:
    with broken(pbx, fault):
        links = await check(**fault.settings)
    link = links[fault.link]
    assert link.state == fault.state, link
    for words in fault.says:
        assert words in link.found
    others = {name: one for name, one in links.items() if one is not link and one.state != State.OK}
    assert all(one.state == State.WARN for one in others.values()), others
    assert set(others) == set(fault.not_found_out), others


@pytest.mark.needs("faketime")
async def test_a_clock_that_is_wrong(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    """The whole command, in the PBX's network; what it takes for the time is two minutes behind."""
    assert crm
    config = configured(tmp_path, crm=CRM)
    healthy = await asyncio.to_thread(checked, pbx, config)
    behind = await asyncio.to_thread(checked, pbx, config, "faketime", "-f", "-120s")
    assert {link["link"] for link in healthy if link["state"] != "ok"} == set()
    (clock,) = [link for link in behind if not link["ok"]]
    assert clock["link"] == "clock"
    for words in ("Asterisk's clock is 120 s ahead of ours", "at most 5 s", "timedatectl"):
        assert words in clock["found"]


def checked(pbx: Pbx, config: Path, *before: str) -> list[dict[str, Any]]:
    command = ["sh", "-c", '"$@" || true', "sh", *before, COMMAND, "check", "--json", "--config", str(config)]
    links: list[dict[str, Any]] = json.loads(pbx.network.run(*command, timeout_s=LIMIT_S))
    return links
