"""Settings: every mistake at once, with its key and what is allowed; where values come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from crmbridge import build, config
from crmbridge.config import ConfigError

GOOD = """
[crm]
url = "https://testcall.crm.fixdigital.co.il/webservice.php"
client_id = 10
[ami]
username = "crmbridge"
secret = "ami-s3cret"
[http]
username = "crm"
password = "http-s3cret"
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(folder, text))
    return str(caught.value)


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD))
    assert str(settings.crm.url) == "https://testcall.crm.fixdigital.co.il/webservice.php"
    assert settings.crm.client_id == "10", "a number without quotes is taken as text"
    assert (settings.ami.host, settings.ami.port) == ("127.0.0.1", 5038)
    assert settings.http.listen == "127.0.0.1:6560"
    assert (settings.crm.ring_expires_s, settings.crm.answer_expires_s) == (60, 3600)
    assert settings.store.state_dir == Path("/var/lib/crmbridge")


def test_no_secret_shows(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD))
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in mistakes(tmp_path, GOOD.replace('"crmbridge"', "3.5"))


def test_every_mistake_is_told_at_once_with_its_key(tmp_path: Path) -> None:
    text = """
    [crm]
    url = "nowhere"
    timeot_s = 3
    [[crm.clients]]
    client_id = 11
    trunks = ["megafon"]
    [ami]
    port = 99999
    secret = "x"
    username = "u"
    [pbx]
    extensions = "(("
    [http]
    listen = "6560"
    allow = ["1.2.3.4/99"]
    username = "u"
    password = "p"
    [dialer]
    channel = "PJSIP/777"
    [cdr]
    timezone = "Mars/Olympus"
    [log]
    level = "loud"
    [colour]
    """
    told = mistakes(tmp_path, text).splitlines()
    assert told[0].startswith("12 mistake(s)")
    keys = {line.strip().partition(": ")[0]: line for line in told[1:]}
    assert set(keys) == {
        *("crm.url", "crm.client_id", "crm.timeot_s", "crm.clients.0.trunks.0", "ami.port", "pbx.extensions"),
        *("http.listen", "http.allow.0", "dialer.channel", "cdr.timezone", "log.level", "colour"),
    }
    assert "is needed" in keys["crm.client_id"]
    assert "timeout_s" in keys["crm.timeot_s"], "the known keys are named"
    assert "203.0.113.7/32" in keys["http.allow.0"], "what is allowed is shown"
    assert "'debug'" in keys["log.level"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("crm = [", "is not TOML"), ("crm = 3", "crm:"), ("ami = [1]\n" + GOOD.replace("[ami]", "[x]"), "ami:")],
)
def test_a_file_of_the_wrong_shape(tmp_path: Path, text: str, says: str) -> None:
    assert says in mistakes(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(tmp_path / "latin.toml")


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRMBRIDGE_AMI__PORT", "5039")
    monkeypatch.setenv("CRMBRIDGE_AMI__SECRET", "from-env")
    settings = config.load(write(tmp_path, GOOD))
    assert settings.ami.port == 5039
    assert settings.ami.secret.get_secret_value() == "from-env"
    assert settings.ami.username == "crmbridge"


def test_a_mistake_in_the_environment_is_told_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRMBRIDGE_AMI__PORT", "many")
    assert "ami.port" in mistakes(tmp_path, GOOD)


def test_secrets_may_be_systemd_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "ami.secret").write_text("from-credential\n")
    (folder / "unrelated").write_text("x")
    (folder / "other.thing").write_text("x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    settings = config.load(write(tmp_path, GOOD.replace('secret = "ami-s3cret"', "")))
    assert settings.ami.secret.get_secret_value() == "from-credential"


def test_systemd_says_where_state_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/crmbridge-2")
    assert config.load(write(tmp_path, GOOD)).store.state_dir == Path("/var/lib/crmbridge-2")


@pytest.mark.parametrize("url", ["https://u:p@crm.example/w.php", "https://crm.example/w.php#x", "ftp://crm.example/"])
def test_addresses_that_are_none_for_callbacks(tmp_path: Path, url: str) -> None:
    text = GOOD.replace("https://testcall.crm.fixdigital.co.il/webservice.php", url)
    assert "crm.url" in mistakes(tmp_path, text)


def test_line_breaks_reach_no_protocol(tmp_path: Path) -> None:
    assert "dialer.context" in mistakes(tmp_path, GOOD + '[dialer]\ncontext = "a\\r\\nAction: x"\n')
    assert "ami.username" in mistakes(tmp_path, GOOD.replace('"crmbridge"', '"a\\nb"'))


CLIENTS = """
[[crm.clients]]
client_id = 11
extensions = [711]
username = "eleven"
password = "eleven-s3cret"
allow = ["192.0.2.11"]
[[crm.clients]]
client_id = 12
extensions = [712]
"""


def test_a_client_may_have_credentials_and_addresses_of_its_own(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD + CLIENTS))
    eleven, twelve = settings.crm.clients
    assert eleven.stands_apart
    assert not twelve.stands_apart
    assert "s3cret" not in repr(settings)
    common, of_eleven = build.accounts(settings)
    assert (common.username, common.client_ids, common.allow) == (
        "crm",
        frozenset({"10", "12"}),
        ["127.0.0.0/8", "::1/128"],
    )
    assert (of_eleven.username, of_eleven.password) == ("eleven", "eleven-s3cret")
    assert (of_eleven.client_ids, of_eleven.allow) == (frozenset({"11"}), ["192.0.2.11"])


def test_the_common_credentials_are_for_all_who_have_none(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD + CLIENTS.replace("username", "#").replace("password", "#")))
    common, of_eleven = build.accounts(settings)
    assert (of_eleven.username, of_eleven.client_ids, of_eleven.allow) == ("crm", frozenset({"11"}), ["192.0.2.11"])
    settings = config.load(write(tmp_path, GOOD + "[[crm.clients]]\nclient_id = 11\nextensions = [711]"))
    (common,) = build.accounts(settings)
    assert common.client_ids is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + CLIENTS.replace("password", "#"), "crm.clients.0: username and password go together"),
        (GOOD + CLIENTS.replace('"eleven"', '"el:even"'), "crm.clients.0.username: must hold no colon"),
        (GOOD + CLIENTS.replace('"eleven-s3cret"', '""'), "crm.clients.0.password: must not be empty"),
        (GOOD + CLIENTS.replace('"eleven"', '"crm"'), "crm.clients: username 'crm' is another client's"),
        (GOOD + CLIENTS.replace("192.0.2.11", "crm.example"), "crm.clients.0.allow.0: is no address"),
        (GOOD.replace('"http-s3cret"', '""'), "http.password: must not be empty"),
    ],
)
def test_credentials_that_would_not_work_or_guard_nothing(tmp_path: Path, text: str, says: str) -> None:
    told = mistakes(tmp_path, text)
    assert f"\n  {says}" in told
    assert "s3cret" not in told


def test_credentials_that_systemd_does_not_let_us_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "gone"))
    assert "can't be read: No such file" in mistakes(tmp_path, GOOD)


def test_a_systemd_credential_for_one_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "crm.clients.11.password").write_text("from a credential\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    settings = config.load(write(tmp_path, GOOD + CLIENTS))
    password = settings.crm.clients[0].password
    assert password is not None
    assert password.get_secret_value() == "from a credential"
    (folder / "crm.clients.99.password").write_text("x")
    assert "no entry of crm.clients has client_id '99'" in mistakes(tmp_path, GOOD + CLIENTS)
