"""The statements that make the CRM's database user, for servers and addresses that a test machine doesn't have."""

from __future__ import annotations

import pytest

from crmbridge.store.sql_access import Host, Reader, Server, hosts, quoted, statements

OURS = "'bridge'@'localhost'"
MARIADB = Server("10.11.6-MariaDB-log", has_tls=True, account=OURS)
MYSQL = Server("8.0.40", has_tls=True, account=OURS)
FAR, NEAR = Host("203.0.113.7", local=False), Host("127.0.0.1", local=True)


@pytest.mark.parametrize(
    ("network", "patterns"),
    [
        ("203.0.113.7/32", ["203.0.113.7"]),
        ("203.0.113.7", ["203.0.113.7"]),
        ("203.0.113.0/24", ["203.0.113.0/255.255.255.0"]),
        ("203.0.113.16/28", ["203.0.113.16/255.255.255.240"]),
        ("2001:db8::7", ["2001:db8::7"]),
        ("2001:DB8:0:0::7/128", ["2001:db8::7"]),
        ("2001:db8::/32", ["2001:db8:%"]),
        ("2001:db8:a:b::/64", ["2001:db8:a:b:%"]),
        ("0.0.0.0/0", ["%"]),
        ("::/0", ["%"]),
        ("127.0.0.0/8", ["localhost", "127.0.0.0/255.0.0.0"]),
        ("127.0.0.1", ["localhost", "127.0.0.1"]),
        ("127.0.0.5", ["127.0.0.5"]),
        ("::1/128", ["localhost", "::1"]),
    ],
)
def test_addresses_as_mysql_writes_them(network: str, patterns: list[str]) -> None:
    assert [host.pattern for host in hosts([network])] == patterns


@pytest.mark.parametrize("network", ["2001:db8::/33", "2001:db8:0::/48", "crm.example", ""])
def test_what_mysql_can_not_be_told(network: str) -> None:
    with pytest.raises(ValueError, match=r"name each address|does not appear to be"):
        hosts([network])


def test_each_once() -> None:
    assert [host.pattern for host in hosts(["127.0.0.1", "::1", "127.0.0.1/32"])] == ["localhost", "127.0.0.1", "::1"]


def altered(server: Server, *given: Host) -> list[str]:
    reader = Reader("crm", "geheim", given, connections=10, statement_s=5)
    return [one for one in statements(reader, server, "calls") if one.startswith("ALTER")]


def test_for_mariadb_and_for_mysql() -> None:
    far = "ALTER USER 'crm'@'203.0.113.7' IDENTIFIED BY 'geheim' REQUIRE SSL WITH MAX_USER_CONNECTIONS 10"
    near = "ALTER USER 'crm'@'127.0.0.1' IDENTIFIED BY 'geheim' REQUIRE NONE WITH MAX_USER_CONNECTIONS 10"
    assert altered(MARIADB, FAR, NEAR) == [f"{far} MAX_STATEMENT_TIME 5", f"{near} MAX_STATEMENT_TIME 5"]
    assert altered(MYSQL, FAR, NEAR) == [far, near]
    assert altered(Server("8.0.40", has_tls=False, account=OURS), FAR) == [far.replace("SSL", "NONE")]


def test_what_is_granted_and_nothing_else() -> None:
    reader = Reader("crm", "geheim", [FAR], connections=10, statement_s=5)
    granted = [one for one in statements(reader, MARIADB, "a`b") if "GRANT" in one and "REVOKE" not in one]
    assert granted == [
        f"GRANT SELECT ON `a``b`.`{view}` TO 'crm'@'203.0.113.7'"
        for view in ("outgoing_calls", "incoming_calls", "all_calls")
    ]


def test_values_are_quoted() -> None:
    assert quoted("a'b\\c\"%") == "'a''b\\\\c\"%'"
    for text in ("", "a\nb", "a\0b"):
        with pytest.raises(ValueError, match="must not be empty"):
            quoted(text)
