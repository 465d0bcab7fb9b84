"""AMI actions: what is sent, and that nothing can be smuggled into them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crmbridge.pbx.actions import Action, auto_answer, checked, fill, originate


def click(**other: object) -> Action:
    values: dict[str, object] = {
        "channel": "PJSIP/{ext}",
        "extension": "777",
        "number": "033004799",
        "context": "from-internal",
        "caller_id": '"CRM {number}" <{ext}>',
        "channel_id": "crm-1795413177.a1b2c3d4e5",
        "timeout_s": 30,
    }
    return originate(**(values | other))  # type: ignore[arg-type]  # a test's table


def wire(action: Action) -> bytes:
    """As it goes over the socket."""
    lines = [
        f"{name}: {line}" for name, value in action.items() for line in ([value] if isinstance(value, str) else value)
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_click() -> None:
    assert click() == {
        "Action": "Originate",
        "Channel": "PJSIP/777",
        "Context": "from-internal",
        "Exten": "033004799",
        "Priority": "1",
        "CallerID": '"CRM 033004799" <777>',
        "Timeout": "30000",
        "ChannelId": "crm-1795413177.a1b2c3d4e5",
        "Async": "true",
    }


def test_a_click_on_freepbx_with_auto_answer() -> None:
    channel = "Local/{ext}@originate-skipvm"
    action = click(channel=channel, variables=auto_answer(channel), number="+442079460018")
    assert action["Channel"] == "Local/777@originate-skipvm"
    assert action["Exten"] == "+442079460018"
    assert action["Variable"] == ["__ALERT_INFO=<http://127.0.0.1>;info=alert-autoanswer"]


def test_auto_answer_of_a_phone_is_one_header_per_variable() -> None:
    assert wire(click(variables=auto_answer("PJSIP/{ext}"))).endswith(
        b"Variable: PJSIP_HEADER(add,Alert-Info)=<http://127.0.0.1>;info=alert-autoanswer\r\n"
        b"Variable: PJSIP_HEADER(add,Call-Info)=<sip:>;answer-after=0\r\n\r\n"
    )


def test_auto_answer_of_an_unknown_kind_of_phone() -> None:
    with pytest.raises(ValueError, match="DAHDI"):
        auto_answer("DAHDI/{ext}")


def test_never_an_application() -> None:
    assert not {"Application", "Data"} & set(click())


BAD = [
    "",
    "777\r\nAction: Command",
    "777\n",
    "777\x00",
    "777\u2028",
    "777\x85",
    "7" * 2000,
    "${EXTEN}",
    "7,7",
    "7 7",
    "٧",
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("field", ["extension", "number", "context", "channel_id"])
def test_values_that_are_none(field: str, bad: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        click(**{field: bad})


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("channel", "PJSIP/{ext}&PJSIP/778"),
        ("channel", "PJSIP/{exten}"),
        ("channel", "{ext}"),
        ("channel", "PJSIP/{ext.__class__}"),
        ("channel", "PJSIP/{ext}\r\nContext: x"),
        ("channel_id", "x" * 31),
        ("caller_id", '"CRM" <{ext}>\r\nApplication: System'),
        ("caller_id", "{0}"),
        ("caller_id", "x" * 1000),
        ("variables", ["A=1,B=2"]),
        ("variables", ["A"]),
        ("variables", ["=1"]),
        ("variables", ['A="']),
        ("variables", ["A=(1,B=2"]),
        ("variables", ["A=1)(,B=2"]),
        ("variables", ["A=${SHELL(id)}"]),
        ("variables", ["A=1\nB: 2"]),
    ],
)
def test_settings_that_would_do_harm(field: str, bad: object) -> None:
    with pytest.raises(ValueError, match=r"is no|means nothing|control|longer"):
        click(**{field: bad})


def test_the_longest_line_counts_bytes() -> None:
    fits = "x" * (1000 - len("Name: \r\n"))
    assert checked({"Name": fits})
    with pytest.raises(ValueError, match="longer"):
        checked({"Name": fits[:-1] + "ש"})


def test_a_header_s_name_is_checked_too() -> None:
    with pytest.raises(ValueError, match="is no header"):
        checked({"Name: x\r\nOther": "y"})


def test_a_value_is_not_filled_in_again() -> None:
    assert fill("{number}", {"number": "{ext}", "ext": "777"}) == "{ext}"


_HOSTILE = st.text() | st.text('0123456789+\r\n\x00:{}$(),;"\\ \x0b\x0c\x1c\x85\u2028', max_size=20)
_LIKE_IT = st.text("0123456789abcXYZ._-+", min_size=1, max_size=12)


_FIELDS = ("extension", "number", "context", "channel_id", "channel", "caller_id")
_VALUES: dict[str, st.SearchStrategy[object]] = dict.fromkeys(_FIELDS, _HOSTILE | _LIKE_IT)
_VARIABLES: dict[str, st.SearchStrategy[object]] = {
    "variables": st.lists(_HOSTILE | _LIKE_IT.map(lambda text: f"A={text}"), max_size=3)
}


@given(st.fixed_dictionaries({}, optional=_VALUES | _VARIABLES))
@example({"caller_id": "a\x0bb"})
@example({"variables": ["A=1\r\n\r\nAction: Logoff"]})
def test_nothing_makes_a_second_header(values: dict[str, object]) -> None:
    try:
        action = click(**values)
    except ValueError:
        return
    count = sum(1 if isinstance(value, str) else len(value) for value in action.values())
    sent = wire(action)
    assert sent.count(b"\r\n") == count + 1
    assert sent.count(b"\r") == sent.count(b"\n") == count + 1
    assert len(sent.decode().splitlines()) == count + 1
    assert b"\0" not in sent
    assert all(len(line) <= 1000 for line in sent.split(b"\n"))
    assert sent.startswith(b"Action: Originate\r\n")
