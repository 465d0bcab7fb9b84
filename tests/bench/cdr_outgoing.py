"""Made-up calls of the office's own: outgoing, by click, and between extensions. Pure.

Each has the shape of a recorded call, which is named with it (tests/traces: `fp…` in recorded/freepbx, others in 22).
"""

from __future__ import annotations

from tests.bench.cdr_making import Leg, Making, dial
from tests.bench.cdr_office import TRUNKS, dialed, some_number


def _starts(m: Making, extension: str = "") -> tuple[str, Leg]:
    """Somebody dials a number."""
    extension, m.number = extension or m.extensions(1)[0], some_number(m.rng)
    return extension, m.agent(extension, m.new_id())


def _trunk(m: Making) -> str:
    return m.asterisk.channel(m.trunk.endpoint)


def out_answered(m: Making) -> None:
    """fp16_outbound, freepbx_outbound."""
    extension, a = _starts(m)
    m.record(a, _trunk(m), m.out(dialed(m.number)), ring_s=m.ring_s, talk_s=m.talk_s)
    m.line(extension, m.talk_s, a=a, incoming=False)


def out_missed(m: Making) -> None:
    """As freepbx_outbound_busy, not answered."""
    _not_reached(m, "NO ANSWER")


def out_busy(m: Making) -> None:
    """freepbx_outbound_busy."""
    _not_reached(m, "BUSY")


def _not_reached(m: Making, disposition: str) -> None:
    extension, a = _starts(m)
    m.record(a, _trunk(m), m.out(dialed(m.number)), ring_s=m.ring_s, disposition=disposition)
    m.line(extension, a=a, incoming=False)


def out_busy_unanswered(m: Making) -> None:
    """As freepbx_outbound_busy, with `unanswered = yes` in cdr.conf: the busy leg has a row of its own."""
    extension, a = _starts(m)
    number, leg = dialed(m.number), _trunk(m)
    m.record(a, leg, m.out(number), ring_s=1, disposition="BUSY")
    own = Leg(leg, m.asterisk.uniqueid(m.start_s), number, f'"" <{number}>', number)
    step = m.out(number)._replace(dcontext="from-pstn", lastapp="AppDial", lastdata="(Outgoing Line)")
    m.record(own, "", step, ring_s=1, disposition="BUSY")
    m.line(extension, a=a, incoming=False)


def out_by_second_trunk(m: Making) -> None:
    """Two rows as in freepbx_outbound: the first trunk is full, the route takes its next."""
    extension, a = _starts(m)
    number = dialed(m.number)
    m.record(a, _trunk(m), m.out(number), ring_s=1, disposition="FAILED")
    m.trunk = TRUNKS[(TRUNKS.index(m.trunk) + 1) % len(TRUNKS)]
    m.record(a, _trunk(m), m.out(number), after_s=1, ring_s=m.ring_s, talk_s=m.talk_s)
    m.line(extension, m.talk_s, a=a, incoming=False)


def out_handed_on(m: Making) -> None:
    """outbound_handed_on: from then on the trunk's leg is A."""
    first, second = m.extensions(2)
    extension, a = _starts(m, first)
    leg, then_s, number = _trunk(m), m.ring_s + m.talk_s, dialed(m.number)
    m.record(a, leg, m.out(number), ring_s=m.ring_s, talk_s=m.talk_s)
    handed = Leg(leg, m.asterisk.uniqueid(m.start_s), number, f'"" <{number}>', number)
    m.record(handed, m.phone(second), dial(second), after_s=then_s, talk_s=m.ring_s)
    m.line(extension, m.talk_s, a=a, incoming=False)
    m.line(second, m.ring_s, a=a, after_s=then_s, incoming=False)


def _clicked(m: Making) -> tuple[str, str]:
    """Whose phone the bridge rings, and the id that it gave the call."""
    (extension,), m.number = m.extensions(1), some_number(m.rng)
    m.linkedid = f"crm-{m.start_s}.{m.rng.getrandbits(40):010x}"
    return extension, m.linkedid


def click_local(m: Making) -> None:
    """freepbx_click_local, fp16_c2c_local_rtp: only the last row, without Local, tells for how long."""
    extension, click = _clicked(m)
    local, phone, leg = m.asterisk.local(f"{extension}@originate-skipvm"), m.phone(extension), _trunk(m)
    first = Leg(local + "2", click + ";2", "s", '"CRM" <s>', "s")
    a = m.agent(extension, click, local + "1")
    m.record(first, phone, dial(extension), ring_s=m.ring_s, talk_s=5)
    m.record(a, leg, m.out(dialed(m.number)), ring_s=m.ring_s, talk_s=5)
    joined = Leg(leg, m.asterisk.uniqueid(m.start_s + m.ring_s), "s", '"CRM" <s>', "s")
    step = m.out("")._replace(dcontext="from-pstn", lastapp="AppDial", lastdata="(Outgoing Line)")
    m.record(joined, phone, step, after_s=m.ring_s + 5, talk_s=m.talk_s)
    m.line(extension, m.talk_s, a=a, incoming=False)


def click_local_missed(m: Making) -> None:
    """freepbx_click_local_no_answer: the agent's phone rang, and nothing was dialed."""
    extension, click = _clicked(m)
    local = m.asterisk.local(f"{extension}@originate-skipvm")
    first = Leg(local + "2", click + ";2", extension, f'"CRM" <{extension}>', extension)
    m.record(first, m.phone(extension), dial(extension), ring_s=m.ring_s)


def click_device(m: Making) -> None:
    """fp16_c2c_pjsip, freepbx_click_pjsip: the phone's leg is up before the trunk is dialed."""
    extension, click = _clicked(m)
    a, answered = m.agent(extension, click), m.rng.random() < 0.7
    talk_s = m.ring_s + m.talk_s if answered else m.ring_s
    disposition = "ANSWERED" if answered else "NO ANSWER"
    m.record(a, _trunk(m), m.out(dialed(m.number)), talk_s=talk_s, disposition=disposition)
    m.line(extension, talk_s if answered else 0, a=a, incoming=False)


def internal_answered(m: Making) -> None:
    """fp16_internal."""
    first, second = m.extensions(2)
    m.record(m.colleague(first, m.new_id()), m.phone(second), dial(second), ring_s=m.ring_s, talk_s=m.talk_s)


def internal_missed(m: Making) -> None:
    """As fp16_internal, not answered."""
    first, second = m.extensions(2)
    m.record(m.colleague(first, m.new_id()), m.phone(second), dial(second), ring_s=m.ring_s)
