"""What a channel is, from its name."""

from __future__ import annotations

import pytest

from crmbridge.calls.channels import ChannelName, Endpoints, parse_name
from crmbridge.calls.clients import Client, Clients


@pytest.mark.parametrize(
    ("name", "technology", "peer"),
    [
        ("PJSIP/777-00000001", "PJSIP", "777"),
        ("PJSIP/trunk-bezeq-000000ea", "PJSIP", "trunk-bezeq"),
        ("SIP/primario-0000000f", "SIP", "primario"),
        ("IAX2/office-2-1234", "IAX2", "office-2"),
        ("SCCP/101-00000001", "SCCP", "101"),
        ("DAHDI/1-1", "DAHDI", "1"),
        ("DAHDI/i1/033004799-3", "DAHDI", "i1"),
        ("PJSIP/777-00000001<ZOMBIE>", "PJSIP", "777"),
        ("AsyncGoto/PJSIP/777-00000001", "PJSIP", "777"),
        ("Surrogate/PJSIP/777-00000001", "PJSIP", "777"),
        ("nonsense", "nonsense", ""),
        ("", "", ""),
    ],
)
def test_names(name: str, technology: str, peer: str) -> None:
    parsed = parse_name(name)
    assert (parsed.technology, parsed.peer) == (technology, peer)
    assert parsed.carrier == ("ZOMBIE" in name or name.startswith(("AsyncGoto", "Surrogate")))


def test_halves_of_a_local() -> None:
    assert parse_name("Local/778@from-queue-00000003;1") == ChannelName("Local", "778@from-queue", "1")
    assert parse_name("Local/778@from-queue-00000003;2").half == "2"
    assert parse_name("PJSIP/odd;1-00000001").half == ""


def endpoints() -> Endpoints:
    return Endpoints(
        extensions=r"7\d\d",
        trunks=["PJSIP/700", "PJSIP/megafon"],
        endpoints={"PJSIP/alice-desk": "781"},
        inbound_contexts=["from-trunk*"],
    )


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("PJSIP/777-1", "777"),
        ("SIP/777-1", "777"),
        ("PJSIP/7777-1", None),
        ("PJSIP/1777-1", None),
        ("PJSIP/alice-desk-1", "781"),
        ("SIP/alice-desk-1", None),
        ("PJSIP/700-1", None),  # a trunk, though it looks like an extension
        ("Local/777@from-queue-1;1", None),
        ("PJSIP/777-1<ZOMBIE>", None),
    ],
)
def test_extensions(name: str, extension: str | None) -> None:
    assert endpoints().extension(parse_name(name)) == extension


def test_a_dialed_phone_may_be_known_by_its_own_caller_id() -> None:
    assert endpoints().extension(parse_name("PJSIP/bob-1"), caller_id_num="778") == "778"
    assert endpoints().extension(parse_name("PJSIP/bob-1"), caller_id_num="033004799") is None
    assert endpoints().extension(parse_name("PJSIP/megafon-1"), caller_id_num="778") is None


@pytest.mark.parametrize(
    ("exten", "hint", "phones"),
    [
        ("777", "PJSIP/desk", ["PJSIP/desk"]),
        ("777", "PJSIP/777&PJSIP/99777&Custom:DND777,CustomPresence:777", ["PJSIP/777", "PJSIP/99777"]),
        ("777", "SIP/a-b & IAX2/c", ["SIP/a-b", "IAX2/c"]),
        ("*74777", "Custom:DEVDND777", []),
        ("777", "Custom:DND777", []),
        ("701", "park:701@parkedcalls", []),
        ("777", "Local/777@from-internal", []),
        ("777", "", []),
        ("bezeq", "PJSIP/megafon2", []),  # a lamp for a trunk makes no phone of it
    ],
)
def test_hints(exten: str, hint: str, phones: list[str]) -> None:
    assert endpoints().hinted(exten, hint) == dict.fromkeys(phones, exten)


def test_hints_stand_below_the_settings_and_above_the_pattern() -> None:
    known = endpoints()
    known.replace_hints({"PJSIP/778": "777", "PJSIP/alice-desk": "779", "PJSIP/megafon": "777", "PJSIP/bob": "778"})
    assert known.extension(parse_name("PJSIP/778-1")) == "777"
    assert known.extension(parse_name("PJSIP/alice-desk-1")) == "781"
    assert known.extension(parse_name("PJSIP/megafon-1")) is None
    assert known.extension(parse_name("PJSIP/bob-1")) == "778"
    known.learn_hints({"PJSIP/carol": "779"})
    assert known.extension(parse_name("PJSIP/carol-1")) == "779"
    known.replace_hints({})
    assert known.extension(parse_name("PJSIP/bob-1")) is None


def test_freepbx_s_devices_stand_below_the_hints() -> None:
    known = endpoints()
    known.replace_devices(
        {
            "/DEVICE/9105/dial": "PJSIP/9105",
            "/DEVICE/9105/user": "777",
            "/DEVICE/9106/dial": "PJSIP/9106",
            "/DEVICE/9106/user": "none",  # nobody is logged on there
            "/DEVICE/9107/dial": "PJSIP/9107",
            "/DEVICE/9107/user": "778",
            "/DEVICE/gate/dial": "Local/1@gate",
            "/DEVICE/gate/user": "779",
            "/DEVICE/lost/user": "779",
            "/DEVICE/9105/type": "adhoc",
        }
    )
    known.replace_hints({"PJSIP/9107": "779"})
    whose = {peer: known.extension(parse_name(f"PJSIP/{peer}-1")) for peer in ("9105", "9106", "9107", "lost")}
    assert whose == {"9105": "777", "9106": None, "9107": "779", "lost": None}
    known.replace_devices({})
    assert known.extension(parse_name("PJSIP/9105-1")) is None


def test_trunks_are_compared_whole() -> None:
    known = endpoints()
    assert known.is_trunk(parse_name("PJSIP/megafon-1"))
    assert not known.is_trunk(parse_name("PJSIP/megafon2-1"))
    known.learn_trunk(parse_name("PJSIP/megafon2-1"))
    assert known.is_trunk(parse_name("PJSIP/megafon2-9"))


def test_inbound_contexts_are_shell_patterns() -> None:
    assert endpoints().is_inbound_context("from-trunk-pjsip-bezeq")
    assert not endpoints().is_inbound_context("from-internal")
    assert not Endpoints(extensions="x").is_inbound_context("")


def test_the_called_number_tells_the_client_then_the_trunk_then_the_extension() -> None:
    clients = Clients(
        "10",
        [
            Client("11", dids=frozenset({"0723456777"})),
            Client("12", trunks=frozenset({"PJSIP/bezeq"})),
            Client("13", extensions=frozenset({"777"})),
        ],
    )
    assert clients.of_call(did="0723456777", trunk="PJSIP/bezeq", extension="777") == "11"
    assert clients.of_call(did="1", trunk="PJSIP/bezeq", extension="777") == "12"
    assert clients.of_call(did="1", trunk="PJSIP/x", extension="777") == "13"
    assert clients.of_call(did="1", trunk="PJSIP/x", extension="778") == "10"
    assert clients.ids == {"10", "11", "12", "13"}
    assert clients.owns("13", "777")
    assert not clients.owns("10", "777"), "what one client lists is no other's"
    assert clients.owns("10", "778")
