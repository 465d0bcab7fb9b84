"""What Prometheus is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crmbridge.calls.dialing import Code
from crmbridge.calls.events import Kind, State
from crmbridge.web.metrics import Metrics, PbxReadings, Readings

HAIFA = PbxReadings(
    ami_connected=True,
    ami_attempts={"session": 3, "refused": 0, "unreachable": 1},
    ami_ends={"lost": 1, "silent": 0, "asterisk_stopped": 1},
    ami_events={"Hangup": 6, "Newchannel": 7},
    resyncs=1,
    calls=2,
    channels=5,
    intake_waiting=6,
    intake_lag_s=0.25,
    intake_dropped=8,
    records=11,
    records_waiting=12,
    records_lag_s=1.25,
    cdr_source_up=False,
)
READINGS = Readings(
    waiting=3,
    under_way=1,
    oldest_s=2.5,
    requests=10,
    failed_requests=4,
    crm_down=True,
    disk_refuses=False,
    disk_hangs=True,
    unstored=7,
    call_list_up=True,
    clicks=4,
    click_codes={"accepted": 9, "too_many": 0},
    click_outcomes={"answered": 5},
    claims={"taken": 15, "without": 2},
    claims_up=False,
    log_lines={"info": 13, "error": 0},
    log_lines_held_back=14,
    pbxes={"haifa": HAIFA, "eilat": replace(HAIFA, ami_connected=False, calls=0)},
)


PBXES = ("haifa", "eilat")
SHOWN_BY_OTHERS = {
    "crmbridge_requests_under_way",
    "crmbridge_outbox_unstored_writes",
    "crmbridge_intake_waiting_frames",
    "crmbridge_clicks_in_progress",
}
"""For whoever looks closer: what they tell is part of something that is shown."""


def told(metrics: Metrics) -> dict[str, float]:
    """Each sample's value by its name and labels, as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        f"{sample.name}{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}": sample.value
        for family in families
        for sample in family.samples
    }


def test_what_stands_now_is_read_with_each_answer() -> None:
    readings = [READINGS, READINGS]
    metrics = Metrics(readings.pop, PBXES)
    samples = told(metrics)
    assert {name: samples[f"crmbridge_{name}"] for name in ("callbacks_waiting", "crm_down", "disk_hangs")} == {
        "callbacks_waiting": 3,
        "crm_down": 1,
        "disk_hangs": 1,
    }
    assert [samples[f"crmbridge_ami_connectedpbx={pbx}"] for pbx in ("haifa", "eilat")] == [1, 0]
    assert [samples[f"crmbridge_callspbx={pbx}"] for pbx in ("haifa", "eilat")] == [2, 0]
    assert samples["crmbridge_requests_total"] == 10
    assert samples["crmbridge_intake_dropped_frames_totalpbx=haifa"] == 8
    assert samples["crmbridge_intake_lag_secondspbx=haifa"] == 0.25
    assert samples["crmbridge_clicks_in_progress"] == 4
    assert samples["crmbridge_clicks_totalcode=accepted"] == 9
    assert samples["crmbridge_clicks_totalcode=too_many"] == 0
    assert samples["crmbridge_click_ends_totaloutcome=answered"] == 5
    assert samples["crmbridge_ami_events_totalevent=Newchannel,pbx=haifa"] == 7
    assert samples["crmbridge_ami_attempts_totalpbx=haifa,result=session"] == 3
    assert samples["crmbridge_ami_sessions_ended_totalpbx=haifa,reason=asterisk_stopped"] == 1
    assert samples["crmbridge_call_records_totalpbx=haifa"] == 11
    assert samples["crmbridge_call_records_lag_secondspbx=haifa"] == 1.25
    assert samples["crmbridge_cdr_source_uppbx=haifa"] == 0
    assert samples["crmbridge_claims_totalresult=taken"] == 15
    assert samples["crmbridge_claims_up"] == 0
    assert samples["crmbridge_log_lines_totallevel=error"] == 0
    assert samples["crmbridge_log_lines_held_back_total"] == 14
    told(metrics)
    assert readings == []


def test_what_takes_time_is_timed_and_known_from_the_first_answer_on() -> None:
    metrics = Metrics(lambda: READINGS, PBXES)
    before = told(metrics)
    assert before["crmbridge_originate_seconds_countpbx=eilat,result=originate_failed"] == 0
    assert (
        before["crmbridge_call_list_lookup_seconds_count"]
        == before["crmbridge_intake_delay_seconds_countpbx=eilat"]
        == 0
    )
    metrics.originated("haifa", None, 0.02)
    metrics.originated("haifa", Code.UNKNOWN, 10.0)
    metrics.looked_up(0.002)
    metrics.worked_off("haifa", 0.004)
    metrics.claimed(0.0008)
    after = told(metrics)
    assert after["crmbridge_originate_seconds_bucketle=0.025,pbx=haifa,result=accepted"] == 1
    assert after["crmbridge_originate_seconds_countpbx=haifa,result=originate_unknown"] == 1
    assert after["crmbridge_call_list_lookup_seconds_bucketle=0.0025"] == 1
    assert after["crmbridge_intake_delay_seconds_bucketle=0.005,pbx=haifa"] == 1
    assert after["crmbridge_claim_seconds_bucketle=0.001"] == 1


def test_outcomes_are_counted_from_zero_and_confirmations_timed() -> None:
    metrics = Metrics(lambda: READINGS, PBXES)
    assert told(metrics)["crmbridge_callbacks_totaloperation=incomingCall,pbx=haifa,state=refused"] == 0
    metrics.count("haifa", Kind.RING, State.CONFIRMED, 0.2)
    metrics.count("haifa", Kind.RING, State.CONFIRMED, 3.0)
    metrics.count("haifa", Kind.ANSWER, State.EXPIRED, 3600.0)
    samples = told(metrics)
    assert samples["crmbridge_callbacks_totaloperation=incomingCall,pbx=haifa,state=confirmed"] == 2
    assert samples["crmbridge_callbacks_totaloperation=incomingCallAnswered,pbx=haifa,state=expired"] == 1
    assert samples["crmbridge_callback_confirmed_seconds_countoperation=incomingCall"] == 2
    assert samples["crmbridge_callback_confirmed_seconds_bucketle=0.25,operation=incomingCall"] == 1
    assert samples["crmbridge_callback_confirmed_seconds_countoperation=incomingCallAnswered"] == 0
    assert not [name for name in samples if "_created" in name]


def test_the_page_names_every_metric_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"crmbridge_[a-z_]+", page)}
    families = Metrics(lambda: READINGS, PBXES).text().decode()
    types = dict(re.findall(r"^# TYPE (crmbridge_\w+) (\w+)", families, re.MULTILINE))
    assert names == set(types)


@pytest.mark.parametrize("page", ["alerts.yml", "grafana-dashboard.json"])
def test_what_we_ship_for_prometheus_asks_for_metrics_that_there_are(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(?:crmbridge|process)_[a-z_]+", text))
    families = text_string_to_metric_families(Metrics(lambda: READINGS, PBXES).text().decode())
    there = {sample.name for family in families for sample in family.samples}
    assert len(asked) > 5
    assert asked <= there


def test_what_we_measure_is_shown_or_watched() -> None:
    docs = Path(__file__).parents[2] / "docs"
    shown = "".join((docs / page).read_text(encoding="utf-8") for page in ("alerts.yml", "grafana-dashboard.json"))
    families = Metrics(lambda: READINGS, PBXES).text().decode()
    for name in re.findall(r"^# TYPE (crmbridge_\w+) ", families, re.MULTILINE):
        assert name in shown or name in SHOWN_BY_OTHERS, name
