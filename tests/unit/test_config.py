"""Settings: every mistake at once, with its key and what is allowed; where values come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.cdr_tables import record

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


def test_claims_need_a_database_that_can_be_shared(tmp_path: Path) -> None:
    claims = '[claims]\nbridge = "bridge-1"\n'
    shared = '[store]\nurl = "mysql+asyncmy://crmbridge:p@db1,db2/crmbridge"\n'
    assert config.load(write(tmp_path, GOOD + shared + claims)).claims.bridge == "bridge-1"
    for store in ("", '[store]\nurl = "sqlite+aiosqlite:////var/lib/crmbridge/calls.db"\n'):
        assert "claims.bridge: needs store.url to be mysql+asyncmy" in mistakes(tmp_path, GOOD + store + claims)
    for wrong in ('bridge = ""', 'bridge = "bridge 1"', f'bridge = "{"x" * 33}"', "timeout_s = 0", "lease_s = -1"):
        assert f"claims.{wrong.split()[0]}" in mistakes(tmp_path, f"{GOOD}{shared}[claims]\n{wrong}\n")


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


# Several PBXes

SEVERAL = """
[crm]
url = "https://crm.example/w.php"
client_id = 10
[http]
username = "crm"
password = "http-s3cret"
[dialer]
channel = "SIP/{ext}"
context = "agents"
[[pbxes]]
client_id = 20
[pbxes.ami]
host = "192.0.2.21"
username = "u"
secret = "s3cret-1"
[pbxes.pbx]
name = "tel-aviv.2"
extensions = '8\\d\\d'
[pbxes.cdr]
timezone = "Asia/Jerusalem"
[pbxes.dialer]
channel = "PJSIP/{ext}"
auto_answer = true
[[pbxes]]
[pbxes.ami]
username = "u"
secret = "s3cret-2"
[pbxes.pbx]
name = "eilat"
[[crm.clients]]
client_id = 11
extensions = [801]
pbx = "tel-aviv.2"
[[crm.clients]]
client_id = 12
dids = ["0720000000"]
"""


def test_each_pbx_has_what_it_would_have_alone(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, SEVERAL))
    assert settings.names_pbxes
    assert "s3cret" not in repr(settings)
    tel_aviv, eilat = settings.each()
    assert (tel_aviv.pbx.name, tel_aviv.ami.host, tel_aviv.pbx.extensions) == ("tel-aviv.2", "192.0.2.21", r"8\d\d")
    assert (eilat.pbx.name, eilat.ami.host, eilat.pbx.extensions) == ("eilat", "127.0.0.1", r"\d{2,5}")
    assert (tel_aviv.crm.client_id, eilat.crm.client_id) == ("20", "10")
    assert [one.client_id for one in tel_aviv.crm.clients] == ["11", "12"]
    assert [one.client_id for one in eilat.crm.clients] == ["12"]
    dialers = [(one.dialer.channel, one.dialer.context, one.dialer.auto_answer) for one in settings.each()]
    assert dialers == [("PJSIP/{ext}", "agents", True), ("SIP/{ext}", "agents", False)]
    assert (tel_aviv.cdr.timezone, eilat.cdr.timezone) == ("Asia/Jerusalem", None)
    assert tel_aviv.each() == [tel_aviv], "what is one PBX's stays so"
    assert build.client_ids(settings) == {"10", "11", "12", "20"}


def test_one_pbx_in_the_short_form_is_the_only_one(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD + '[[crm.clients]]\nclient_id = 11\nextensions = [711]\npbx = "pbx"\n'))
    assert not settings.names_pbxes
    assert settings.each() == [settings]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[http]", '[ami]\nusername = "u"\nsecret = "s"\n[http]', "pbxes: there is [ami] (CRMBRIDGE_AMI__…), too"),
        ("[http]", '[cdr]\ntable = "x"\n[http]', "pbxes: there is"),
        ('name = "eilat"', 'name = "tel-aviv.2"', "pbxes.1.pbx.name: 'tel-aviv.2' is another PBX's name"),
        ('name = "eilat"', "", "pbxes.1.pbx.name: is needed"),
        ('[pbxes.pbx]\nname = "eilat"', "", "pbxes.1.pbx: is needed"),
        ('name = "eilat"', 'name = "a/b"', "pbxes.1.pbx.name: must be at most 64 characters"),
        ('name = "eilat"', 'name = ".."', "pbxes.1.pbx.name: must be at most 64 characters"),
        ('name = "eilat"', f'name = "{"x" * 65}"', "pbxes.1.pbx.name: must be at most 64 characters"),
        ('secret = "s3cret-2"', "", "pbxes.1.ami.secret: is needed"),
        (
            'secret = "s3cret-2"',
            'secret = "s"\nhost = "192.0.2.21"',
            "tel-aviv.2 and eilat are both at 192.0.2.21:5038",
        ),
        ("client_id = 20", "client = 20", "pbxes.0.client: there is no such setting (known: client_id, ami, pbx"),
        ("auto_answer = true", "timeout_s = 3", "pbxes.0.dialer.timeout_s: there is no such setting"),
        ('channel = "PJSIP/{ext}"', 'channel = "PJSIP"', "pbxes.0.dialer.channel: must be a channel"),
        (
            'pbx = "tel-aviv.2"',
            'pbx = "haifa"',
            "crm.clients.0.pbx: there is no PBX 'haifa' (known: tel-aviv.2, eilat)",
        ),
    ],
)
def test_mistakes_about_several_pbxes(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SEVERAL
    told = mistakes(tmp_path, SEVERAL.replace(old, new, 1))
    assert says in told
    assert "s3cret" not in told


def test_a_client_of_a_pbx_that_is_not_there_is_a_mistake_in_the_short_form_too(tmp_path: Path) -> None:
    text = GOOD + '[[crm.clients]]\nclient_id = 11\npbx = "haifa"\n'
    assert "crm.clients.0.pbx: there is no PBX 'haifa' (known: pbx)" in mistakes(tmp_path, text)


def test_a_systemd_credential_for_one_pbx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "pbxes.tel-aviv.2.ami.secret").write_text("from a credential\n")
    (folder / "pbxes.eilat.ami.ca_file").write_text("PEM")
    (folder / "pbxes.eilat.cdr.source").write_text("/var/log/cdr.csv")
    (folder / "ami.secret").write_text("of the short form: our unit loads it in any case")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    tel_aviv, eilat = config.load(write(tmp_path, SEVERAL.replace('secret = "s3cret-1"', ""))).each()
    assert tel_aviv.ami.secret.get_secret_value() == "from a credential"
    assert eilat.ami.ca_file == folder / "pbxes.eilat.ami.ca_file"
    assert eilat.cdr.source.get_secret_value() == "/var/log/cdr.csv"
    for name in ("pbxes.haifa.ami.secret", "pbxes.secret"):
        (folder / name).write_text("x")
        assert f"the credential {name} is for no PBX" in mistakes(tmp_path, SEVERAL)
        (folder / name).unlink()


def test_the_environment_for_one_pbx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRMBRIDGE_PBXES__TEL_AVIV_2__AMI__SECRET", "from-env")
    monkeypatch.setenv("CRMBRIDGE_PBXES__EILAT__AMI__PORT", "5039")
    monkeypatch.setenv("CRMBRIDGE_PBXES__EILAT__CLIENT_ID", "30")
    monkeypatch.setenv("CRMBRIDGE_PBXES__EILAT__PBX__TRUNKS", '["PJSIP/trunk"]')
    tel_aviv, eilat = config.load(write(tmp_path, SEVERAL)).each()
    assert tel_aviv.ami.secret.get_secret_value() == "from-env"
    assert (eilat.ami.port, eilat.crm.client_id, eilat.pbx.trunks) == (5039, "30", ["PJSIP/trunk"])
    monkeypatch.setenv("CRMBRIDGE_PBXES__EILAT__PBX__TRUNKS", "PJSIP/trunk")
    assert "CRMBRIDGE_PBXES__EILAT__PBX__TRUNKS is no list" in mistakes(tmp_path, SEVERAL)
    monkeypatch.delenv("CRMBRIDGE_PBXES__EILAT__PBX__TRUNKS")
    monkeypatch.setenv("CRMBRIDGE_AMI__SECRET", "x")
    assert "pbxes: there is [ami] (CRMBRIDGE_AMI__…), too" in mistakes(tmp_path, SEVERAL)
    monkeypatch.delenv("CRMBRIDGE_AMI__SECRET")
    monkeypatch.setenv("CRMBRIDGE_PBXES__HAIFA__AMI__SECRET", "x")
    assert "CRMBRIDGE_PBXES__HAIFA__AMI__SECRET is for no PBX" in mistakes(tmp_path, SEVERAL)


def test_the_common_credentials_are_for_the_clients_of_all_pbxes(tmp_path: Path) -> None:
    own = 'client_id = 11\nusername = "eleven"\npassword = "e"'
    settings = config.load(write(tmp_path, SEVERAL.replace("client_id = 11", own)))
    common, of_eleven = build.accounts(settings)
    assert common.client_ids == frozenset({"10", "12", "20"})
    assert of_eleven.client_ids == frozenset({"11"})


def test_names_of_recordings_and_their_lines_say_of_which_pbx_they_are(tmp_path: Path) -> None:
    several, one = config.load(write(tmp_path, SEVERAL)), config.load(write(tmp_path, GOOD))
    rows = build.histories(build.sites(several))
    records = [
        record(1_795_413_177, pbx=pbx, dstchannel=f"PJSIP/{extension}-1", recordingfile=file)
        for pbx, extension, file in RECORDED
    ]
    assert [row.filename for each in records for row in rows([each])] == [
        "tel-aviv.2/in.wav",
        "eilat/var/spool/in.wav",
        "",
        f"eilat/{'x' * 249}",
    ]
    assert rows([]) == []
    (row,) = build.histories(build.sites(one))([record(1_795_413_177, recordingfile="/var/spool/in.wav")])
    assert row.filename == "/var/spool/in.wav"


RECORDED = [("tel-aviv.2", 801, "in.wav"), *(("eilat", 777, file) for file in ("/var/spool/in.wav", "", "x" * 255))]
