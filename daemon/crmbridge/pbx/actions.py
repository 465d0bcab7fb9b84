"""The AMI actions that we send, built and checked. Pure: sending them is `ami`'s business.

A line end in a value would begin another header, and after an empty line another action, with our rights. So every
value is checked here, on top of what was checked before: control characters and over-long lines are refused, names of
extensions and numbers hold only what such names hold.

Calls are originated by Context and Exten only. Application and Data would let whoever controls a value run a program
on the PBX (Asterisk's security advisories AST-2019-007 and GHSA-c4cg-9275-6w44).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Action = dict[str, str | list[str]]
"""Header names and values; a list repeats its header."""

LONGEST_LINE = 1000
"""Bytes of a whole line; Asterisk reads lines into a buffer of 1,025 (include/asterisk/manager.h, inbuf)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)
_NUMBER = re.compile(r"\+?[A-Za-z0-9._-]{1,40}", re.ASCII)
_CONTEXT = re.compile(r"[A-Za-z0-9._-]{1,79}", re.ASCII)
_CHANNEL_ID = re.compile(r"[A-Za-z0-9._-]{1,30}", re.ASCII)
"""FreePBX's CDR table keeps 32 characters, and `;2` is appended for the other half of a Local."""
_CHANNEL = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9._+@/-]{1,150}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

_SIP_ANSWER_BY_ITSELF = "<http://127.0.0.1>;info=alert-autoanswer"
_AUTO_ANSWER = {
    "PJSIP": (
        f"PJSIP_HEADER(add,Alert-Info)={_SIP_ANSWER_BY_ITSELF}",
        "PJSIP_HEADER(add,Call-Info)=<sip:>;answer-after=0",
    ),
    # FreePBX's dialplan behind the Local makes the header of it, for whatever kind of phone.
    "Local": (f"__ALERT_INFO={_SIP_ANSWER_BY_ITSELF}",),
}


def originate(
    *,
    channel: str,
    extension: str,
    number: str,
    context: str,
    caller_id: str,
    channel_id: str,
    timeout_s: float,
    variables: Iterable[str] = (),
) -> Action:
    """Ring the extension's phone; when it answers, dial the number in the context.

    `channel` and `caller_id` are templates with `{ext}` and `{number}`. `channel`: `PJSIP/{ext}`, or on FreePBX
    `Local/{ext}@originate-skipvm`. `caller_id`: what the ringing phone shows, and what a plain dialplan sends out as
    the caller's number, so its number should be the extension's: `"CRM {number}" <{ext}>`. `channel_id`: becomes the
    channel's Uniqueid and the call's Linkedid; must not be in use. `timeout_s`: how long the phone rings.
    `variables`: `NAME=value`, set on the phone's channel. Raises ValueError for anything that doesn't belong there.
    """
    _must(_EXTENSION, extension, "extension")
    _must(_NUMBER, number, "number")
    _must(_CONTEXT, context, "context")
    _must(_CHANNEL_ID, channel_id, "channel id")
    values = {"ext": extension, "number": number}
    action: Action = {
        "Action": "Originate",
        "Channel": _must(_CHANNEL, fill(channel, values), "channel"),
        "Context": context,
        "Exten": number,
        "Priority": "1",
        "CallerID": fill(caller_id, values),
        "Timeout": str(max(1, round(timeout_s * 1000))),
        "ChannelId": channel_id,
        "Async": "true",  # or the whole AMI session waits until the phone answers
    }
    given = [_variable(variable) for variable in variables]
    if given:
        action["Variable"] = list(given)
    return checked(action)


def auto_answer(channel: str) -> tuple[str, ...]:
    """Variables that make the agent's phone answer by itself, for a channel of this kind.

    Raises ValueError for a technology for which none are known.
    """
    technology = channel.partition("/")[0]
    if technology not in _AUTO_ANSWER:
        known = ", ".join(sorted(_AUTO_ANSWER))
        raise ValueError(f"phones on {technology} channels can't be made to answer by themselves, only {known}")
    return _AUTO_ANSWER[technology]


def fill(template: str, values: dict[str, str]) -> str:
    """Put values into a template's `{name}` places. Raises ValueError for a name that there is no value for."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"{match[0]} in {template!r} means nothing: there are {', '.join(sorted(values))}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value, template)


def checked(action: Action) -> Action:
    """The same action. Raises ValueError where a header could become two, or would not fit Asterisk's line buffer."""
    for name, value in action.items():
        _must(_HEADER, name, "header")
        for line in [value] if isinstance(value, str) else value:
            if _CONTROL.search(line):
                raise ValueError(f"{name} holds a control character: {line[:80]!r}")
            if len(f"{name}: {line}\r\n".encode()) > LONGEST_LINE:
                raise ValueError(f"{name} is longer than {LONGEST_LINE} bytes")
    return action


def _must(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is no {what}")
    return value


def _variable(text: str) -> str:
    """One variable. Asterisk splits the header at commas that are in no parentheses (main/app.c)."""
    name, equals, _ = text.partition("=")
    outside = re.sub(r"\([^()]*\)", "", text)
    if not (name and equals) or set(outside) & set(',"\\()[]{}'):
        raise ValueError(f"{text[:80]!r} is no NAME=value that can be set through AMI")
    return text
