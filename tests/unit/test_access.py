"""Who may ask."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.web.access import Access, Account, Denied, Grant, address, network
from crmbridge.web.connection import shown_query
from crmbridge.web.server import host_and_port

ALLOW = ("203.0.113.7/32", "198.51.100.0/24", "2001:db8::/64")
HERE = address("203.0.113.7")


def access(allow: Sequence[str] = ALLOW, others: Sequence[Account] = ()) -> Access:
    common = Account("crm", "s3cret:שלום", allow)
    proxies = ["127.0.0.1", "10.1.0.0/16", "2001:db8:ff::1"]
    return Access([common, *others], trusted_proxies=proxies, credentials_as_parameters=True)


def basic(username: str = "crm", password: str = "s3cret:שלום", scheme: str = "Basic") -> str:
    return f"{scheme} " + base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("peer", "may"),
    [
        ("203.0.113.7", True),
        ("203.0.113.8", False),
        ("198.51.100.255", True),
        ("198.51.101.0", False),
        ("::ffff:203.0.113.7", True),
        ("::ffff:203.0.113.8", False),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("2001:db8:0:1::1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("", False),
        (None, False),
        ("nonsense", False),
    ],
)
def test_addresses(peer: str | None, may: bool) -> None:
    rules = access()
    assert rules.may_ask(rules.client(peer, [])) is may


@pytest.mark.parametrize(
    ("allowed", "peer", "may"),
    [
        ("::ffff:203.0.113.0/120", "203.0.113.9", True),
        ("::ffff:203.0.113.0/120", "::ffff:203.0.113.9", True),
        ("::ffff:203.0.113.0/120", "203.0.114.9", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "203.0.113.9", False),
    ],
)
def test_families_and_mapped_networks(allowed: str, peer: str, may: bool) -> None:
    rules = access(allow=[allowed])
    assert rules.may_ask(rules.client(peer, [])) is may


@pytest.mark.parametrize("text", ["203.0.113.7/24", "203.0.113.7/33", "crm.example", "", "203.0.113"])
def test_a_network_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network(text)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # nobody's proxy: what it says is nothing
        ("127.0.0.1", [], None),  # a proxy that names nobody
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("::ffff:127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["198.51.100.1, 192.0.2.66"], "192.0.2.66"),  # the client wrote the first one itself
        ("127.0.0.1", ["198.51.100.1", "192.0.2.66"], "192.0.2.66"),
        ("127.0.0.1", ["192.0.2.66", "198.51.100.1, 10.1.2.3"], "198.51.100.1"),  # through two proxies
        ("127.0.0.1", ["10.1.2.3,10.1.2.4"], None),  # and two of them
        ("127.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        ("127.0.0.1", ["[2001:db8::5]:51234"], "2001:db8::5"),
        ("127.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        ("127.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["203.0.113.7, unknown"], None),
        ("127.0.0.1", ["203.0.113.7,"], None),
        ("127.0.0.1", [""], None),
        ("127.0.0.1", ["203.0.113.7, 10.1.2.3, \x00"], None),
        ("127.0.0.1", ["203.0.113.7/32"], None),
        ("127.0.0.1", ["0x7f000001"], None),
        ("127.0.0.1", ["٢٠٣.0.113.7"], None),
    ],
)
def test_forwarded(peer: str, forwarded: list[str], client: str | None) -> None:
    found = access().client(peer, forwarded)
    assert (str(found) if found else None) == client


def test_who_may_connect_at_all() -> None:
    rules = access()
    assert all(rules.may_connect(peer) for peer in ("203.0.113.7", "10.1.9.9", "127.0.0.9", "::1"))
    assert not any(rules.may_connect(peer) for peer in ("192.0.2.1", "", None, "x"))


def test_from_where_links_are_followed() -> None:
    rules = Access(
        [Account("crm", "s3cret", ALLOW)], trusted_proxies=["127.0.0.1"], links_from=["192.0.2.0/24", "::/0"]
    )
    for peer, may in (("203.0.113.7", True), ("192.0.2.200", True), ("::ffff:192.0.2.1", True), ("2001:db8:9::1", True),
                      ("192.0.3.1", False), ("127.0.0.1", False), ("", False)):  # fmt: skip
        assert rules.may_follow(rules.client(peer, [])) is may
        assert rules.may_connect_for_links(peer) is may
    assert rules.may_follow(rules.client("127.0.0.1", ["192.0.2.9"]))
    assert not rules.may_follow(rules.client("127.0.0.1", ["192.0.3.9"]))
    assert not rules.may_ask(address("192.0.2.200"))
    assert not rules.may_connect("192.0.2.200"), "it takes the place of none who may ask"
    nobody = access()
    assert nobody.may_follow(HERE)
    assert not nobody.may_follow(address("192.0.2.200"))


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_the_right_credentials(scheme: str) -> None:
    assert access().login(HERE, [basic(scheme=scheme)]) == Grant(None)
    assert access().login(HERE, [], ["crm"], ["s3cret:שלום"]) == Grant(None)


@pytest.mark.parametrize(
    "headers",
    [
        [""],
        ["Basic"],
        ["Basic "],
        ["Basic !!!"],
        ["Basic YQ"],
        ["Basic Y3Jt"],
        ["Basic שלום"],
        ["Basic \x00"],
        ["Bearer " + basic().partition(" ")[2]],
        [basic().partition(" ")[2]],
        [basic("crm", "wrong")],
        [basic("wrong")],
        [basic("CRM")],
        [basic("crm", "")],
        [basic("", "")],
        [basic("crm", "s3cret")],
        [basic("crm", "s3cret:שלום ")],
        [basic(), basic()],
        [basic("crm", "x" * 8000)],
        [basic() + "=="],
        ["Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()],
    ],
)
def test_wrong_credentials(headers: list[str]) -> None:
    assert access().login(HERE, headers) is Denied.WRONG


def test_no_credentials() -> None:
    assert access().login(HERE, []) is access().login(HERE, [], [], []) is Denied.NOT_GIVEN


def test_parameters_count_only_where_switched_on_and_never_beside_a_header() -> None:
    right = (["crm"], ["s3cret:שלום"])
    off = Access([Account("crm", "s3cret:שלום", ALLOW)])
    assert off.login(HERE, [], *right) is Denied.NOT_GIVEN
    assert access().login(HERE, [basic("crm", "wrong")], *right) is Denied.WRONG


@pytest.mark.parametrize(
    ("names", "passwords"),
    [(["crm"], []), (["crm", "crm"], ["s3cret:שלום"]), (["crm"], ["\ud800"]), (["crm"], [""])],
)
def test_wrong_parameters(names: list[str], passwords: list[str]) -> None:
    assert access().login(HERE, [], names, passwords) is Denied.WRONG


ELEVEN = Account("eleven", "its own", ["192.0.2.11"], frozenset({"11"}))
TWELVE = Account("crm", "s3cret:שלום", ["192.0.2.12"], frozenset({"12"}))
"""No credentials of its own, but an address."""


@pytest.mark.parametrize(
    ("source", "username", "password", "opened"),
    [
        ("203.0.113.7", "crm", "s3cret:שלום", {"10"}),
        ("192.0.2.11", "eleven", "its own", {"11"}),
        ("192.0.2.12", "crm", "s3cret:שלום", {"12"}),
        ("192.0.2.11", "crm", "s3cret:שלום", Denied.ELSEWHERE),
        ("203.0.113.7", "eleven", "its own", Denied.ELSEWHERE),
        ("192.0.2.12", "eleven", "its own", Denied.ELSEWHERE),
        ("192.0.2.11", "eleven", "s3cret:שלום", Denied.WRONG),
        ("192.0.2.11", "crm", "its own", Denied.WRONG),
        ("192.0.2.11", "", "", Denied.WRONG),
    ],
)
def test_each_account_opens_what_is_its_own_from_where_it_may(
    source: str, username: str, password: str, opened: set[str] | Denied
) -> None:
    common = Account("crm", "s3cret:שלום", ALLOW, frozenset({"10"}))
    rules = Access([common, ELEVEN, TWELVE], credentials_as_parameters=True)
    client = address(source)
    expected = opened if isinstance(opened, Denied) else Grant(frozenset(opened))
    assert rules.login(client, [basic(username, password)]) == expected
    assert rules.login(client, [], [username], [password]) == expected
    assert rules.may_ask(client)


def test_one_password_at_one_address_may_be_for_several_clients() -> None:
    rules = Access(
        [
            Account("crm", "p", ["192.0.2.1"], frozenset({"10"})),
            Account("crm", "p", ["192.0.2.0/24"], frozenset({"11"})),
        ]
    )
    assert rules.login(address("192.0.2.1"), [basic("crm", "p")]) == Grant(frozenset({"10", "11"}))
    assert rules.login(address("192.0.2.2"), [basic("crm", "p")]) == Grant(frozenset({"11"}))


def test_every_account_is_compared_whatever_the_first_ones_say(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    rules = access(others=[ELEVEN, TWELVE])
    for header in (basic(), basic("eleven", "its own"), basic("nobody", "")):
        compared.clear()
        rules.login(HERE, [header])
        assert compared == [32] * 6


def test_no_password_shows() -> None:
    assert "its own" not in repr(ELEVEN)


@given(st.text(), st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=2))
def test_whatever_is_sent(peer: str, forwarded: list[str], authorization: list[str]) -> None:
    rules = access()
    assert not rules.may_ask(rules.client(peer, forwarded)) or address(peer) is not None
    assert not isinstance(rules.login(HERE, authorization), Grant)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", ""),
        ("sExt=777&ClientId=10", "sExt=777&ClientId=10"),
        ("username=crm&password=s3cret", "username=***&password=***"),
        ("PassWord=s3cret&password=other", "PassWord=***&password=***"),
        ("p%61ssword=s3cret", "p%61ssword=***"),
        ("password%20=s3cret", "password%20=***"),
        ("password=a=b", "password=***"),
        ("password", "***"),
        ("password[]=s3cret", "***"),
        ("sExt=777;password=s3cret&ClientId=10", "***&ClientId=10"),
        ("sExt=777%26password%3Ds3cret", "***"),
        ("sExt=777%2526password%253Ds3cret", "***"),
        ("?username=crm&?password=s3cret", "***&***"),
        ("/dialer/sodialer.php&username=crm&password=s3cret", "/dialer/sodialer.php&username=***&password=***"),
        ("/dialer/password=s3cret", "***"),
        ("sNumber=0330%0A04799", "sNumber=0330%0A04799"),
    ],
)
def test_what_the_log_shows_of_a_query(raw: str, shown: str) -> None:
    assert shown_query(raw, {"username", "password"}) == shown


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("127.0.0.1:6560", ("127.0.0.1", 6560)),
        ("[::1]:6560", ("::1", 6560)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_listen(text: str, taken: tuple[str, int]) -> None:
    assert host_and_port(text) == taken


@pytest.mark.parametrize("text", ["6560", ":6560", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http"])
def test_listen_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"http\.listen"):
        host_and_port(text)
