"""Records from a table's rows and from lines of files; whatever they are read from, the same record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crmbridge.calls.cdr import COLUMNS, Cdr, from_event, from_rows
from crmbridge.calls.cdr_csv import MOST_LINES, OURS, from_line, split
from crmbridge.calls.wall_time import WallTime, seconds
from crmbridge.pbx.cdr_columns import Column, shape

JERUSALEM = ZoneInfo("Asia/Jerusalem")

# The same record as Asterisk 16.28 wrote it everywhere: tests/asterisk/test_record_files.py has it write more of them.
EXPECTED = Cdr(
    pbx="pbx",
    linkedid="1795787166.4",
    uniqueid="1795787166.6",
    sequence=4,
    channel="Local/778@from-queue-00000000;2",
    dstchannel="PJSIP/778-00000003",
    src="033004799",
    dst="778",
    did="",
    start_at=datetime(2026, 11, 27, 13, 46, 6, tzinfo=UTC),
    duration_s=7,
    billsec_s=5,
    disposition="ANSWERED",
    recordingfile="",
)
EVENT = {
    "Event": "Cdr",
    "Source": "033004799",
    "Destination": "778",
    "Channel": "Local/778@from-queue-00000000;2",
    "DestinationChannel": "PJSIP/778-00000003",
    "StartTime": "2026-11-27 15:46:06",
    "Duration": "7",
    "BillableSeconds": "5",
    "Disposition": "ANSWERED",
    "UniqueID": "1795787166.6",
    "LinkedID": "1795787166.4",
    "Sequence": "4",
}
OUR_LINE = (
    '"crmbridge-1","1795787166.4","1795787166.6",4,"Local/778@from-queue-00000000;2","PJSIP/778-00000003",'
    '"033004799","778","",1795787166.616150,7,5,"ANSWERED",""'
)
MASTER_LINE = (
    '"","033004799","778","from-queue",""""" <033004799>","Local/778@from-queue-00000000;2","PJSIP/778-00000003",'
    '"Dial","PJSIP/778,20,tT","2026-11-27 15:46:06","2026-11-27 15:46:07","2026-11-27 15:46:07",7,5,"ANSWERED",'
    '"DOCUMENTATION","1795787166.6","","","1795787166.4",4'
)


def row(**other: str | int | None) -> tuple[Any, ...]:
    values = dict(zip(COLUMNS, EXPECTED[1:], strict=True)) | {"calldate": seconds("2026-11-27 15:46:06")} | other
    return tuple(values.values())


def rows(*some: tuple[Any, ...]) -> list[Cdr]:
    return from_rows("pbx", WallTime(JERUSALEM))(some)


def line(text: str) -> Cdr | None:
    return from_line("pbx", JERUSALEM)(text)


def test_the_same_record_from_everywhere() -> None:
    assert from_event(EVENT, pbx="pbx", timezone=JERUSALEM) == EXPECTED
    assert rows(row()) == [EXPECTED]
    assert line(OUR_LINE) == EXPECTED
    assert line(MASTER_LINE) == EXPECTED


def test_without_a_sequence_it_is_made_the_same_way_everywhere() -> None:
    (told,) = rows(row(sequence=None))
    assert told == from_event(EVENT | {"Sequence": ""}, pbx="pbx", timezone=JERUSALEM)
    assert told == line(OUR_LINE.replace(",4,", ",,"))


def test_without_a_linkedid_a_record_is_a_call_of_its_own() -> None:
    (told,) = rows(row(linkedid=""))
    assert told.linkedid == "1795787166.6"


def test_a_row_without_a_unique_id_is_left_out() -> None:
    assert rows(row(uniqueid=""), row()) == [EXPECTED]


def test_what_can_be_in_a_row() -> None:
    (told,) = rows(row(src="05\x00012\r\n", dst="שלום", duration=-1, billsec=-1, disposition="no answer"))
    assert (told.src, told.dst, told.duration_s, told.billsec_s) == ("05012", "שלום", 0, 0)
    assert told.disposition == "NO ANSWER"
    (told,) = rows(row(disposition="Something"))
    assert told.disposition == "SOMETHING"


@pytest.mark.parametrize(("uniqueid", "hour"), [("1792880000.1", 22), ("1792883600.1", 23), ("x", 22)])
def test_the_hour_that_comes_twice(uniqueid: str, hour: int) -> None:
    """01:13:20 on 25 October 2026, when the clock in Jerusalem was set back at 02:00."""
    (told,) = rows(row(uniqueid=uniqueid, linkedid=uniqueid, calldate=seconds("2026-10-25 01:13:20")))
    assert told.start_at == datetime(2026, 10, 24, hour, 13, 20, tzinfo=UTC)
    same = {"StartTime": "2026-10-25 01:13:20", "UniqueID": uniqueid, "LinkedID": uniqueid}
    assert from_event(EVENT | same, pbx="pbx", timezone=JERUSALEM).key == told.key
    assert from_event(EVENT | same, pbx="pbx", timezone=JERUSALEM).start_at == told.start_at


@pytest.mark.parametrize(
    ("more", "uniqueid", "linkedid", "sequence"),
    [
        (',"1795787166.6"', "1795787166.6", "1795787166.6", None),
        (',"1795787166.6","a note"', "1795787166.6", "1795787166.6", None),
        (',"pbx1-1795787166.6","","","1795787166.4",4', "pbx1-1795787166.6", "1795787166.4", 4),
        (',"1795787166.6","","1795787166.4",4', "1795787166.6", "1795787166.4", 4),
    ],
)
def test_columns_of_master_csv(more: str, uniqueid: str, linkedid: str, sequence: int | None) -> None:
    base = MASTER_LINE[: MASTER_LINE.index(',"1795787166.6"')]
    told = line(base + more)
    assert told is not None
    assert (told.uniqueid, told.linkedid) == (uniqueid, linkedid)
    assert told.sequence == (sequence if sequence is not None else -int(EXPECTED.start_at.timestamp()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MASTER_LINE[: MASTER_LINE.index(',"1795787166.6"')], "loguniqueid"),
        (MASTER_LINE[: MASTER_LINE.index(',"1795787166.6"')] + ',"a note"', "loguniqueid"),
        (MASTER_LINE[: MASTER_LINE.index(',"1795787166.6"')] + ',"","1795787166.4",4', "loguniqueid"),
        (MASTER_LINE + ",1", "columns"),
        (OUR_LINE + ",1", "columns"),
        (OUR_LINE.replace("1795787166.616150", "2026-11-27 15:46:06"), "epoch"),
        (OUR_LINE.replace('"1795787166.6"', '""'), "unique id"),
        (OUR_LINE[:-1], "no CSV"),
        ("call,me", "columns"),
    ],
)
def test_lines_that_are_no_records(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        line(text)


def test_an_empty_line_is_nothing() -> None:
    assert line("") is None
    assert line("\r") is None
    assert line("\0\0\0") is None, "what a crash leaves at the end of a file"


def test_commas_quotes_and_line_breaks_in_a_value() -> None:
    text = OUR_LINE.replace('"033004799"', '"03,""x""\n4"')
    assert split(text + "\n" + OUR_LINE + "\n") == ([(text, 2), (OUR_LINE, 1)], "")
    told = line(text)
    assert told is not None
    assert told.src == '03,"x"4'


def test_a_quote_that_is_never_closed_costs_one_line() -> None:
    lines = [OUR_LINE[:-1], *[OUR_LINE] * (MOST_LINES + 5)]
    records, rest = split("\n".join(lines) + "\n")
    assert [text for text, _ in records] == lines
    assert rest == ""


@settings(max_examples=50)
@given(
    values=st.lists(st.text(st.sampled_from('ab,"\n;שׁ'), max_size=8), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_wherever_a_file_is_cut_the_same_records(values: list[str], cuts: list[int]) -> None:
    texts = [OUR_LINE.replace('"033004799"', '"' + value.replace('"', '""') + '"') for value in values]
    whole = "".join(text + "\n" for text in texts)
    found: list[str] = []
    rest, before = "", 0
    for cut in [*sorted(cuts), len(whole)]:
        records, rest = split(rest + whole[before:cut])
        before = max(before, cut)
        found += [text for text, _ in records]
    assert (found, rest) == (texts, "")
    sources = [told.src for told in map(line, found) if told]
    assert sources == [value.replace("\n", "") for value in values]


def column(name: str, kind: str = "varchar", nullable: str = "NO", length: int | None = 80) -> Column:
    return Column(name, kind, nullable, None if kind in {"int", "datetime"} else length)


def columns(*some: Column) -> dict[str, Column]:
    return {one.name.lower(): one for one in some}


def test_what_a_table_lacks_is_selected_as_nothing() -> None:
    told = shape(columns(column("start", "datetime"), column("uniqueid"), column("src", nullable="YES")), {"start"})
    assert (told.calldate, told.linkedid, told.indexed) == ("`start`", "`uniqueid`", True)
    assert told.select.split(", ")[:4] == ["`uniqueid`", "`uniqueid`", "NULL", "''"]
    assert "IFNULL(`src`, '')" in told.select
    assert {"linkedid", "sequence", "did", "recordingfile"} <= set(told.lacking)


def test_columns_of_other_types_are_turned_into_what_is_expected() -> None:
    others = (column("billsec", "float"), column("userfield"), column("sequence", "varchar", "YES"))
    told = shape(columns(column("calldate", "datetime"), column("uniqueid", "varbinary"), *others), set())
    assert "CONVERT(`uniqueid` USING utf8mb4)" in told.select
    assert "CAST(FLOOR(`billsec`) AS SIGNED)" in told.select
    assert "CAST(FLOOR(`sequence`) AS SIGNED)" in told.select
    assert not told.indexed
    assert shape(columns(column("calldate", "datetime"), column("uniqueid")), None).indexed, "a view tells of no index"


@pytest.mark.parametrize(
    ("some", "reason"),
    [
        ((column("calldate", "datetime"),), "no column uniqueid"),
        ((column("uniqueid"),), "no column calldate"),
        ((column("uniqueid"), column("start", "int")), "start as int"),
    ],
)
def test_a_table_that_nothing_can_be_made_of(some: tuple[Column, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        shape(columns(*some), set())


def test_our_format_is_the_one_that_is_shipped() -> None:
    assert OUR_LINE.startswith(f'"{OURS}",')
