"""Made-up calls from outside: DID, voicemail, groups, queues, menus, transfers, pickup, follow-me. Pure.

Each has the shape of a recorded call, which is named with it (tests/traces: `fp…` in recorded/freepbx, others in 22).
"""

from __future__ import annotations

from tests.bench.cdr_making import Leg, Making, Step, device, dial
from tests.bench.cdr_office import GROUPS, QUEUES


def did_answered(m: Making) -> None:
    """fp16_did_ext, fp16_did_hidden_cid."""
    (extension,) = m.extensions(1)
    a = m.caller(f"external-{extension}")
    m.record(a, m.phone(extension), dial(extension), ring_s=m.ring_s, talk_s=m.talk_s)
    m.line(extension, m.talk_s, a=a)


def did_missed(m: Making) -> None:
    """fp16_did_ext_abandon."""
    _rings_only(m, "NO ANSWER")


def did_busy(m: Making) -> None:
    """busy."""
    _rings_only(m, "BUSY")


def _rings_only(m: Making, disposition: str) -> None:
    (extension,) = m.extensions(1)
    a = m.caller(f"external-{extension}")
    m.record(a, m.phone(extension), dial(extension), ring_s=m.ring_s, disposition=disposition)
    m.line(extension, a=a)


def did_voicemail(m: Making) -> None:
    """fp16_did_ext_noanswer_vm: the mailbox's row is ANSWERED."""
    (extension,) = m.extensions(1)
    a = m.caller(f"external-{extension}")
    m.record(a, m.phone(extension), dial(extension), ring_s=15)
    step = Step(extension, "ext-local", "VoiceMail", f"{extension}@default,u")
    m.record(a, "", step, after_s=15, talk_s=m.ring_s)
    m.line(extension, a=a)


def ring_group(m: Making) -> None:
    """fp16_ringgroup_ringall: three rows with one uniqueid."""
    group, members = m.rng.choice(GROUPS), m.extensions(3)
    a = m.caller(f"rg-{group}")
    winner = m.rng.choice(members) if m.rng.random() < 0.85 else ""
    step = Step(group, "ext-group", "Dial", "&".join(map(device, members)))
    for member in members:
        m.record(a, m.phone(member), step, ring_s=m.ring_s, talk_s=m.talk_s if member == winner else 0)
    _taken(m, a, winner, m.talk_s, first=members[0])


def queue_of_locals(m: Making) -> None:
    """fp16_queue_ringall, freepbx_queue_rings_again, fp16_queue_twice (given up): two rows whenever a phone rings."""
    queue, members = m.rng.choice(QUEUES), m.extensions(m.rng.choice((2, 2, 2, 3)))
    a = m.caller(f"q-{queue}")
    rounds = m.rng.choice((1, 1, 1, 1, 2, 3))
    winner = m.rng.choice(members) if m.rng.random() < 0.8 else ""
    for turn in range(rounds - 1):
        for member in members:
            _agent_rings(m, a, queue, member, after_s=16 * turn, ring_s=15)
    for member in members:
        talk_s = m.talk_s if member == winner else 0
        _agent_rings(m, a, queue, member, after_s=16 * (rounds - 1), ring_s=m.ring_s, talk_s=talk_s)
    _taken(m, a, winner, m.talk_s, first=members[0])


def _agent_rings(m: Making, a: Leg, queue: str, member: str, *, after_s: int, ring_s: int, talk_s: int = 0) -> None:
    local, disposition = m.asterisk.local(f"{member}@from-queue"), "ANSWERED" if talk_s else "NO ANSWER"
    # The caller's leg is up in a queue: its billsec counts from when the agent's Local was made.
    outer_s = ring_s + talk_s
    m.record(a, local + "1", _queue(queue), after_s=after_s, talk_s=outer_s, disposition=disposition)
    uniqueid = m.asterisk.uniqueid(m.start_s + after_s)
    inner = a._replace(channel=local + "2", uniqueid=uniqueid, did="", recordingfile="")
    m.record(inner, m.phone(member), dial(member), after_s=after_s, ring_s=ring_s, talk_s=talk_s)


def _queue(queue: str) -> Step:
    return Step(queue, "ext-queues", "Queue", f"{queue},t,,,,,,,,")


def _taken(m: Making, a: Leg, winner: str, talk_s: int, *, first: str) -> None:
    """By the winner; where there is none, it is a missed call of who rang first."""
    m.line(winner or first, talk_s if winner else 0, a=a)


def queue_of_devices(m: Making) -> None:
    """fp_issabel_queue_direct_ringall_rtp: the winner's record has the wait in it, which the others' records tell."""
    queue, members = m.rng.choice(QUEUES), m.extensions(3)
    a = m.caller(f"q-{queue}")
    winner = m.rng.choice(members) if m.rng.random() < 0.8 else ""
    for member in members:
        talk_s = m.ring_s + m.talk_s if member == winner else m.ring_s
        disposition = "ANSWERED" if member == winner else "NO ANSWER"
        m.record(a, m.phone(member), _queue(queue), talk_s=talk_s, disposition=disposition)
    _taken(m, a, winner, m.talk_s, first=members[0])


def queue_of_nobody(m: Making) -> None:
    """queue_nobody_there."""
    a = m.caller("in")
    m.record(a, "", Step("s", "ext-queues", "Hangup", ""), talk_s=m.ring_s)
    m.line("", a=a)


def menu_answered(m: Making) -> None:
    """fp16_ivr_ext: what is talked has the time in the menu in it."""
    (extension,) = m.extensions(1)
    a, talk_s = m.caller(f"external-{extension}"), 10 + m.ring_s + m.talk_s
    m.record(a, m.phone(extension), dial(extension), talk_s=talk_s)
    m.line(extension, talk_s, a=a)


def menu_missed(m: Making) -> None:
    """As fp16_ivr_ext, but nobody answers: NO ANSWER, with billsec."""
    (extension,) = m.extensions(1)
    a = m.caller(f"external-{extension}")
    m.record(a, m.phone(extension), dial(extension), talk_s=10 + m.ring_s, disposition="NO ANSWER")
    m.line(extension, a=a)


def menu_left(m: Making) -> None:
    """As queue_nobody_there: the dialplan alone answered."""
    a = m.caller("in")
    m.record(a, "", Step("s", "ivr-3", "BackGround", "custom/menu"), talk_s=m.ring_s)
    m.line("", a=a)


def blind_transfer(m: Making) -> None:
    """fp16_xfer_blind_ami."""
    first, second = m.extensions(2)
    a, then_s = m.caller(f"external-{first}"), m.ring_s + m.talk_s
    m.record(a, m.phone(first), dial(first), ring_s=m.ring_s, talk_s=m.talk_s)
    m.record(a, m.phone(second), dial(second), after_s=then_s, talk_s=m.ring_s)
    m.line(first, m.talk_s, a=a)
    m.line(second, m.ring_s, a=a, after_s=then_s)


def attended_transfer(m: Making) -> None:
    """fp16_xfer_att_refer: the consultation is a call of its own."""
    first, second = m.extensions(2)
    a, then_s = m.caller(f"external-{first}"), m.ring_s + m.talk_s
    m.record(a, m.phone(first), dial(first), ring_s=m.ring_s, talk_s=m.talk_s)
    linkedid, consultation = m.linkedid, m.asterisk.uniqueid(m.start_s + then_s - 1)
    phone, m.linkedid = m.phone(second), consultation
    m.record(m.colleague(first, consultation), phone, dial(second), after_s=then_s - 1, talk_s=1)
    m.linkedid = linkedid
    m.record(a, phone, dial(first), after_s=then_s, talk_s=m.ring_s)
    m.line(first, m.talk_s, a=a)
    m.line(second, m.ring_s, a=a, after_s=then_s)


def pickup(m: Making) -> None:
    """fp16_pickup: the phone that rang is ANSWERED with no second of talk."""
    rings, takes = m.extensions(2)
    a = m.caller(f"external-{rings}")
    m.record(a, m.phone(rings), dial(rings), ring_s=m.ring_s, disposition="ANSWERED")
    m.record(a, m.phone(takes), dial(rings), after_s=m.ring_s, talk_s=m.talk_s)
    m.line(takes, m.talk_s, a=a)


def followme_mobile(m: Making) -> None:
    """fp16_followme_mobile: the mobile is nobody's extension."""
    (extension,), mobile = m.extensions(1), f"05{int(m.rng.random() * 10**8):08}"
    a = m.caller(f"external-{extension}")
    own, away = f"FMPR-{extension}@from-internal", f"FMGL-{mobile}#@from-internal"
    step = Step(extension, "followme-check", "Dial", f"Local/{own}&Local/{away},18,HhtrIM(auto-blkvm)")
    m.record(a, m.asterisk.local(own) + "1", step, ring_s=m.ring_s)
    m.record(a, m.asterisk.local(away) + "1", step, ring_s=m.ring_s, talk_s=m.talk_s)
    channel, uniqueid = m.asterisk.local(f"{mobile}@from-internal") + "2", m.asterisk.uniqueid(m.start_s)
    inner = a._replace(channel=channel, uniqueid=uniqueid, did="", recordingfile="")
    m.record(inner, m.asterisk.channel(m.trunk.endpoint), m.out(mobile), ring_s=m.ring_s, talk_s=m.talk_s)
    m.line(extension, a=a)


def followme_phone(m: Making) -> None:
    """fp16_followme_internal_rtp: the Locals were optimised away."""
    first, second = m.extensions(2)
    a = m.caller(f"external-{first}")
    own, other = f"FMPR-{first}@from-internal", f"FMGL-{second}@from-internal"
    step = Step(first, "followme-check", "Dial", f"Local/{own}&Local/{other},18,HhtrIM(auto-blkvm)")
    m.record(a, m.asterisk.local(own) + "1", step, ring_s=m.ring_s)
    m.record(a, m.asterisk.local(other) + "1", step, ring_s=m.ring_s, disposition="ANSWERED")
    m.record(a, m.phone(second), step, after_s=m.ring_s, talk_s=m.talk_s)
    m.line(second, m.talk_s, a=a)
