"""The client's questionnaire, answered for an installation."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from crmbridge.cli_questionnaire import page
from crmbridge.config import parse

DOCS = Path(__file__).parents[2] / "docs"
SECRETS = ("ami-s3cret", "http-s3cret", "eleven-s3cret", "db-s3cret", "crm-s3cret")


def example() -> dict[str, Any]:
    values = tomllib.loads((DOCS / "config.toml").read_text(encoding="utf-8"))
    values["ami"]["secret"], values["http"]["password"] = SECRETS[:2]
    return values


def of(values: dict[str, Any]) -> str:
    return page(parse(values, source="a test"))


def test_the_page_that_we_ship_is_that_of_the_example() -> None:
    assert (DOCS / "questionnaire.md").read_text(encoding="utf-8") == of(example()), "crmbridge questionnaire makes it"


def test_an_installation_with_all_of_it() -> None:
    values = example()
    values["crm"]["url"] += "?token=crm-s3cret"
    values["crm"]["clients"] = [
        {"client_id": 11, "extensions": ["801"], "username": "eleven", "password": SECRETS[2], "dids": ["0723456777"]}
    ]
    values["http"] |= {"listen": "192.0.2.5:6560", "allow": ["203.0.113.7/32"], "credentials_as_parameters": True}
    values["store"] = {"url": f"mysql+asyncmy://bridge:{SECRETS[3]}@192.0.2.6/calls"}
    values["cdr"] = {"recordings_dir": "/var/spool/asterisk/monitor"}
    shown = of(values)
    for needed in (
        "| `11` | `0723456777` | - | `801` | `eleven` |",
        "| `10` | all others | all others | all others | `crm` |",
        "`GET http://192.0.2.5:6560/calls?number=033004799`, HTTP Basic, from `203.0.113.7/32`.",
        "`192.0.2.6:3306`, database\n`calls`",
        "`outgoing_calls`, `incoming_calls`, `all_calls`",
        "?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10`",
        "`http://192.0.2.5:6560/dialer/sodialer.php?sExt=777&sNumber=033004799&ClientId=10`",
        "`username` and `password` are taken as parameters, too.",
        "http://192.0.2.5:6560/recordings/",
    ):
        assert needed in shown, needed
    assert not [secret for secret in SECRETS if secret in shown]


def test_several_pbxes() -> None:
    values = example()
    ami = values.pop("ami")
    del values["pbx"]
    values["pbxes"] = [
        {"client_id": "20", "ami": ami, "pbx": {"name": "haifa"}},
        {
            "ami": ami | {"port": 5039},
            "pbx": {"name": "eilat"},
            "cdr": {"recordings_dir": "/srv/eilat", "links_expire_s": 60},
        },
    ]
    values["crm"]["clients"] = [
        {"client_id": "11", "extensions": ["801"], "pbx": "eilat"},
        {"client_id": "20", "dids": ["0720000000"], "username": "twenty", "password": SECRETS[2]},
    ]
    shown = of(values)
    for needed in (
        "PBXes: `haifa`, `eilat` (",
        "| PBX | ClientId | calls to | over | extensions | user |\n|---|---|---|---|---|---|\n",
        "| `eilat` | `11` | - | - | `801` | `crm` |",
        "| all | `20` | `0720000000` | - | - | `twenty` |",
        "| `haifa` | `20` | all others | all others | all others | `twenty` |",
        "| `eilat` | `10` | all others | all others | all others | `crm` |",
        "without the password for 60 s",
    ):
        assert needed in shown, needed
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    ("listen", "more", "base"),
    [
        ("127.0.0.1:6560", {}, "http://PBX:6560"),
        ("[::]:7000", {}, "http://PBX:7000"),
        ("[2001:db8::5]:6560", {}, "http://[2001:db8::5]:6560"),
        ("pbx.example:443", {"tls_cert": "/a", "tls_key": "/b"}, "https://pbx.example:443"),
    ],
)
def test_where_it_is_reached(listen: str, more: dict[str, str], base: str) -> None:
    values = example()
    values["http"] |= {"listen": listen, **more}
    assert f"`GET {base}/calls?" in of(values)
