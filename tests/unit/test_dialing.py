"""What a click may dial, how often, and that it is one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.dialable import MAX_RAW, Dialable, MalformedError, NotAllowedError
from crmbridge.calls.dialing import Click, Code, Dialing, DialingRules, Refusal, Result
from crmbridge.calls.phone_states import PhoneState
from crmbridge.calls.routing import Phones

ISRAEL = Dialable.from_settings(region="IL", extensions=r"7\d\d")


@pytest.mark.parametrize(
    ("written", "dialed"),
    [
        ("033004799", "033004799"),
        ("03-3004799", "033004799"),
        ("(03) 300.47.99", "033004799"),
        ("+97233004799", "033004799"),
        (" 97233004799", "033004799"),  # an unescaped + in a query string
        ("97233004799", "033004799"),
        ("0097233004799", "033004799"),
        ("\u200e03\u201130\u200f04799\u202c", "033004799"),  # copied from a right-to-left page
        ("\u00a003 300 4799", "033004799"),
        ("0723456777", "0723456777"),
        ("054-1234567", "0541234567"),
        ("0521111111", "0521111111"),  # a range that the tables don't know (yet)
        ("0901234567", "0901234567"),  # another one, and the 0 stays: without it, it begins like one in Turkey
        ("+972901234567", "0901234567"),
        ("1-800-123-456", "1800123456"),
        ("1700123456", "1700123456"),
        ("778", "778"),
        (" 778 ", "778"),
    ],
)
def test_what_is_dialed(written: str, dialed: str) -> None:
    assert ISRAEL.dialed(written) == dialed


@pytest.mark.parametrize(
    "number",
    [
        "1900123456",  # premium rate
        "+9721900123456",
        "190012345",  # too short to be one, and among them
        "+972190012345",
        "1919123456",
        "+442079460018",
        "00442079460018",
        "012442079460018",  # another international carrier's prefix
        "0442079460018",  # London behind a 0, which the PBX's trunk may take for the national prefix and leave out
        "04420794600",
        "0521234564567",  # Mexico
        "+972521234564567",
        "079161234567",  # Russia
        "0120794600181",
        "+972122476123",  # becomes 0122476123: a carrier's prefix, and Ascension Island
        "+97212345678",
        "0112476123",
        "+18095551234",
        "+870773111632",  # Inmarsat
        "+881612345678",
        "+97910123456",
        "*72",
        "*721234567",
        "#31#033004799",
        "##",
        "100",
        "1",
        "12345",
        "888",
        "79",
        "7777",
        "2079460018",
        "00",
        "+",
        "03300479903300479903",
    ],
)
def test_what_is_not_dialed(number: str) -> None:
    with pytest.raises((NotAllowedError, MalformedError)):
        ISRAEL.dialed(number)


@pytest.mark.parametrize(
    "number",
    [
        "",
        " ",
        "+",
        "++97233004799",
        "033004799+",
        "0330 04799\r\nAction: Command",
        "033004799\x00",
        "033004799,1",
        "033004799&PJSIP/1900123456",
        "033004799@from-trunk",
        "${EXTEN}",
        "033004799;ext=1",
        "033004799x12",
        "033004799|1",
        "٠٣٣٠٠٤٧٩٩",
        "０３３００４７９９",
        "1-800-FLOWERS",
        "tel:033004799",
        "0330047990330047990330",
        "1" * 1000,
        "0" * (MAX_RAW + 1),
    ],
)
def test_what_is_no_number(number: str) -> None:
    with pytest.raises(MalformedError):
        ISRAEL.dialed(number)


@given(st.from_regex(r"(\+?972|\+|0|00|01[2-9])?[0-9]{1,14}", fullmatch=True))
def test_whatever_digits_are_written_nobody_abroad_is_dialed(number: str) -> None:
    """Not by what leaves here either: it is national with its 0, a service number of the country, or an extension."""
    try:
        dialed = ISRAEL.dialed(number)
    except (NotAllowedError, MalformedError):
        return
    read = phonenumbers.parse(dialed, "IL")
    assert read.country_code == 972
    assert re.fullmatch(r"0[2-9][0-9]{7,8}|1[0-9]{9,11}|\*?[0-9]{4}|7[0-9]{2}", dialed), dialed


def test_allow_adds_deny_takes_away_and_deny_wins() -> None:
    rules = Dialable.from_settings(
        region="IL",
        extensions=r"7\d\d",
        allow=[r"\+44\d+", r"1900\d{6}", "100"],
        deny=[r"\+4470\d+", r"03\d+", r"779"],
    )
    assert rules.dialed("+44 20 7946 0018") == "+442079460018"
    assert rules.dialed("1900123456") == "1900123456"
    assert rules.dialed("100") == "100"
    assert rules.dialed("778") == "778"
    for denied in ("+447012345678", "033004799", "+97233004799", "03 300 4799", "779"):
        with pytest.raises(NotAllowedError, match="deny_numbers"):
            rules.dialed(denied)


def test_a_pattern_must_match_the_whole_number() -> None:
    rules = Dialable.from_settings(region="IL", extensions=r"7\d\d", allow=[r"1900"])
    with pytest.raises(NotAllowedError):
        rules.dialed("1900123456")


def test_international_when_switched_on_is_not_for_premium_and_satellite() -> None:
    rules = Dialable.from_settings(region="IL", extensions=r"7\d\d", international=True)
    assert rules.dialed("00442079460018") == "+442079460018"
    for number in ("+449098790012", "+870773111632", "+881612345678", "+97910123456", "1900123456", "+491805123456"):
        with pytest.raises(NotAllowedError):
            rules.dialed(number)


def test_countries_that_share_a_country_code() -> None:
    rules = Dialable.from_settings(region="US", extensions=r"7\d\d")
    assert rules.dialed("(212) 555-0123") == "2125550123"
    for number in ("+18095551234", "8765551234", "9005551234"):  # Dominican Republic, Jamaica, premium rate
        with pytest.raises(NotAllowedError):
            rules.dialed(number)


def test_a_generous_extension_pattern_does_not_open_the_world() -> None:
    rules = Dialable.from_settings(region="IL", extensions=r".*")
    assert rules.dialed("4321") == "4321"
    for number in ("1900123456", "+442079460018", "00442079460018"):
        with pytest.raises(NotAllowedError):
            rules.dialed(number)


def test_a_short_code_that_costs_money_is_no_extension() -> None:
    rules = Dialable.from_settings(region="FR", extensions=r"\d{2,5}")
    assert rules.dialed("501") == "501"
    with pytest.raises(NotAllowedError, match="premium"):
        rules.dialed("3200")


@pytest.mark.parametrize("number", ["0", "00", "012", "00441"])
def test_what_begins_with_0_is_the_way_out_and_no_extension(number: str) -> None:
    rules = Dialable.from_settings(region="IL", extensions=r"\d{1,5}")
    with pytest.raises(NotAllowedError):
        rules.dialed(number)
    assert Dialable.from_settings(region="IL", extensions=r"\d{1,5}", allow=[number]).dialed(number) == number


@pytest.mark.parametrize(
    "extension",
    [
        "",
        "77",
        "7777",
        "777\n",
        "٧٧٧",
        "777 ",
        "777,1",
        "777&PJSIP/778",
        "777/n",
        "777@from-trunk",
        "${X}",
        "777\r\nAction: Hangup",
        "7" * 1000,
    ],
)
def test_what_is_no_extension(extension: str) -> None:
    assert not ISRAEL.is_extension(extension)
    if extension not in {"77", "7777"}:
        assert not Dialable.from_settings(region="IL", extensions=r"(?s).*\D.*|77.*").is_extension(extension)


@given(st.text(max_size=60) | st.text("0123456789+-*#() ,\r\n\x00${}&@٠", max_size=30))
def test_whatever_is_asked_what_is_dialed_has_a_strict_alphabet(number: str) -> None:
    rules = Dialable.from_settings(region="IL", extensions=r".*", international=True, allow=[r"(?s).*"])
    try:
        dialed = rules.dialed(number)
    except (NotAllowedError, MalformedError):
        return
    assert re.fullmatch(r"\+?[0-9]{1,20}", dialed, re.ASCII)


# Clicks


def dialing(**other: object) -> Dialing:
    values: dict[str, object] = {
        "dialable": {"pbx": ISRAEL},
        "per_extension_per_minute": 3,
        "per_minute": 5,
        "duplicate_window_s": 10,
    }
    in_progress = {"in_progress": other.pop("in_progress")} if "in_progress" in other else {}
    of_phones = {name: other.pop(name) for name in ("owns", "state") if name in other}
    return Dialing(
        DialingRules(**(values | other)),  # type: ignore[arg-type]  # a test's table
        [phones("pbx", **of_phones)],  # type: ignore[arg-type]
        **in_progress,  # type: ignore[arg-type]
    )


def phones(
    pbx: str,
    *,
    serves: Collection[str] = ("10", "11"),
    owns: Callable[[str, str], bool] = lambda client_id, extension: True,  # noqa: ARG005  # all own everything
    lists: Collection[tuple[str, str]] = (),
    knows: Collection[str] = (),
    state: Callable[[str], PhoneState] = lambda extension: PhoneState.MAY_RING,  # noqa: ARG005  # of all
) -> Phones:
    return Phones(
        pbx=pbx,
        serves=lambda client_id: client_id in serves,
        owns=owns,
        lists=lambda client_id, extension: (client_id, extension) in lists,
        knows=lambda extension: extension in knows,
        state=state,
    )


class Clicks:
    """Clicks with ids in order."""

    def __init__(self, **other: object) -> None:
        self.dialing = dialing(**other)
        self.count = 0

    def __call__(
        self, number: str = "033004799", *, ext: str = "777", client: str = "10", now: float = 0.0
    ) -> Click | Refusal:
        self.count += 1
        return self.dialing.admit(
            client_id=client, extension=ext, number=number, click_id=f"click-{self.count}", now_s=now
        )

    def placed(self, number: str, now: float, ext: str = "777") -> bool:
        """Whether this was a new call."""
        click = self(number, ext=ext, now=now)
        if not isinstance(click, Click) or click.id != f"click-{self.count}":
            return False
        self.dialing.settle(click, Result(), now)
        return True


def code(answer: Click | Refusal) -> Code | None:
    return answer.code if isinstance(answer, Refusal) else None


def test_a_click() -> None:
    answer = Clicks()("03-3004799")
    assert isinstance(answer, Click)
    assert (answer.id, answer.client_id, answer.extension, answer.number) == ("click-1", "10", "777", "033004799")


def test_refusals() -> None:
    click = Clicks(owns=lambda client, extension: (client, extension) != ("11", "777"))
    assert code(click(client="12")) is Code.UNKNOWN_CLIENT
    assert code(click(ext="888")) is Code.EXTENSION
    assert code(click(client="11")) is Code.EXTENSION
    assert code(click(client="11", ext="778")) is None
    assert code(click("abc")) is Code.MALFORMED
    assert code(click("*72")) is Code.NUMBER
    assert code(click("777")) is Code.NUMBER


def test_the_same_click_is_one_call_while_it_is_placed_and_for_a_while_after() -> None:
    clicks = Clicks()
    first = clicks("033004799")
    assert isinstance(first, Click)
    assert clicks("+972 3 300 4799", now=500) is first, "it is still being placed"
    clicks.dialing.settle(first, Result(), 500)
    assert clicks("033004799", now=509.9) is first
    assert clicks("033004799", now=510) is not first


def test_other_clients_extensions_and_numbers_are_other_clicks() -> None:
    clicks = Clicks()
    same = [clicks(), clicks(client="11"), clicks(ext="778"), clicks("0541234567")]
    assert len({one.id for one in same if isinstance(one, Click)}) == 4


@pytest.mark.parametrize(
    ("result", "again"),
    [
        (Result(Code.NOT_CONNECTED), True),
        (Result(Code.REFUSED), True),
        (Result(Code.UNKNOWN), False),
        (Result(), False),
    ],
)
def test_only_what_was_certainly_not_placed_may_be_clicked_again_at_once(result: Result, again: bool) -> None:
    clicks = Clicks()
    first = clicks()
    assert isinstance(first, Click)
    clicks.dialing.settle(first, result, 1)
    assert (clicks(now=1) is not first) == again


def test_how_often_an_extension_may_dial() -> None:
    clicks = Clicks(per_minute=100)
    assert [clicks.placed(f"0541234{n}0", now=0.0) for n in range(10, 14)] == [True, True, True, False]
    assert clicks.placed("0541234999", now=0.0, ext="778"), "another extension may"
    refused = clicks("0541234998", now=5.0)
    assert isinstance(refused, Refusal)
    assert refused.code is Code.TOO_MANY
    assert refused.retry_after_s == pytest.approx(15)
    assert clicks.placed("0541234997", now=20.5)
    assert not clicks.placed("0541234996", now=20.5)


def test_how_often_all_may_dial() -> None:
    clicks = Clicks()
    placed = [clicks.placed("033004799", now=0.0, ext=f"70{n}") for n in range(7)]
    assert placed == [True] * 5 + [False] * 2
    assert clicks.placed("033004799", now=12.5, ext="709")


def test_repetitions_and_refusals_cost_nothing() -> None:
    clicks = Clicks(per_extension_per_minute=2)
    for _ in range(50):
        clicks("033004799", now=0.0)
        clicks("1900123456", now=0.0)
    assert clicks.placed("0541234567", now=0.0)
    assert not clicks.placed("0541234568", now=0.0)


def test_nothing_is_remembered_for_ever() -> None:
    clicks = Clicks(per_extension_per_minute=1000, per_minute=100_000)
    for n in range(500):
        assert clicks.placed(f"0541234{n:03}", now=float(n), ext=f"7{n % 100:02}")
    assert len(clicks.dialing) < 15


# Not in vain, and not too many at once


def test_a_phone_that_is_away_or_talks_is_not_rung() -> None:
    states = {"777": PhoneState.AWAY, "778": PhoneState.TALKS}
    clicks = Clicks(state=lambda extension: states.get(extension, PhoneState.MAY_RING))
    codes = [click.code for ext in ("777", "778") if isinstance(click := clicks(ext=ext), Refusal)]
    assert codes == [Code.UNREACHABLE, Code.BUSY]
    assert isinstance(clicks(ext="779"), Click)
    states.clear()
    assert isinstance(clicks(ext="777"), Click), "it may be clicked again as soon as the phone is back"


def test_it_is_rung_all_the_same_where_that_is_wanted() -> None:
    clicks = Clicks(state=lambda extension: PhoneState.TALKS, not_rung={PhoneState.AWAY})  # noqa: ARG005  # of all
    assert isinstance(clicks(), Click)


def test_a_click_again_whose_phone_talks_because_of_it_shares_its_fate() -> None:
    states = {"777": PhoneState.MAY_RING}
    clicks = Clicks(state=states.__getitem__)
    first = clicks()
    assert isinstance(first, Click)
    clicks.dialing.settle(first, Result(), 1.0)
    states["777"] = PhoneState.TALKS
    assert clicks(now=2.0) is first


def test_no_more_calls_at_once_than_allowed() -> None:
    in_progress = 2
    clicks = Clicks(max_calls=2, in_progress=lambda: in_progress)
    refusal = clicks()
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.TOO_MANY
    assert refusal.retry_after_s > 0
    assert "dialer.max_calls" in refusal.message
    in_progress = 1
    assert isinstance(clicks(), Click)


# Several PBXes

HAIFA_AND_EILAT = {"haifa": ISRAEL, "eilat": Dialable.from_settings(region="IL", extensions=r"[78]\d\d")}


def routed(*pbxes: Phones, client: str = "10", ext: str = "777", number: str = "033004799") -> str:
    """The PBX on which a click rings, or the code with which it is refused."""
    rules = DialingRules(HAIFA_AND_EILAT, per_extension_per_minute=3, per_minute=5, duplicate_window_s=10)
    dialing = Dialing(rules, pbxes)
    click = dialing.admit(client_id=client, extension=ext, number=number, click_id="click-1", now_s=0)
    return click.pbx if isinstance(click, Click) else click.code.value


def test_a_click_rings_where_an_entry_of_its_client_names_the_extension() -> None:
    listed = phones("haifa", lists={("10", "777")})
    assert routed(listed, phones("eilat", knows={"777"})) == "haifa"
    assert routed(phones("eilat", knows={"777"}), listed) == "haifa", "whatever their order"
    assert routed(phones("haifa", lists={("11", "777")}), phones("eilat", knows={"777"})) == "eilat"


def test_of_several_the_one_counts_on_which_the_phone_is_known() -> None:
    assert routed(phones("haifa", knows={"777"}), phones("eilat", knows={"778"})) == "haifa"
    both = {"lists": {("10", "777")}}
    assert routed(phones("haifa", **both), phones("eilat", knows={"777"}, **both)) == "eilat"  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [set(), {"777"}])
def test_where_it_is_not_sure_which_one_nobody_is_rung(known: set[str]) -> None:
    assert routed(phones("haifa", knows=known), phones("eilat", knows=known)) == Code.AMBIGUOUS
    everywhere = {"lists": {("10", "777")}, "knows": known}
    assert routed(phones("haifa", **everywhere), phones("eilat", **everywhere)) == Code.AMBIGUOUS  # type: ignore[arg-type]


def test_a_pbx_counts_only_where_the_client_and_the_extension_may_be() -> None:
    assert routed(phones("haifa", serves={"11"}, knows={"777"}), phones("eilat")) == "eilat"
    assert routed(phones("haifa", serves={"11"}), phones("eilat", serves={"11"})) == Code.UNKNOWN_CLIENT
    assert routed(phones("haifa", knows={"801"}), phones("eilat"), ext="801") == "eilat", "haifa has no such extensions"
    somebody_elses = phones("haifa", owns=lambda client_id, extension: False, lists={("10", "777")})  # noqa: ARG005
    assert routed(somebody_elses, phones("eilat")) == "eilat"
    assert routed(somebody_elses) == Code.EXTENSION


def test_a_refusal_tells_on_which_pbx_it_would_have_rung() -> None:
    rules = DialingRules(HAIFA_AND_EILAT, per_extension_per_minute=1, per_minute=2, duplicate_window_s=10)
    away = phones("eilat", serves={"11"}, state=lambda extension: PhoneState.AWAY)  # noqa: ARG005  # of all
    dialing = Dialing(rules, [phones("haifa", serves={"10"}), away])

    def admitted(client: str, number: str) -> Click | Refusal:
        return dialing.admit(client_id=client, extension="777", number=number, click_id=number, now_s=0)

    refused = admitted("11", "033004799")
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.pbx) == (Code.UNREACHABLE, "eilat")
    abroad = admitted("10", "+442079460018")
    assert isinstance(abroad, Refusal)
    assert (abroad.code, abroad.pbx) == (Code.NUMBER, "haifa")


def test_limits_are_one_for_all_pbxes_and_by_extension_for_each() -> None:
    rules = DialingRules(HAIFA_AND_EILAT, per_extension_per_minute=1, per_minute=3, duplicate_window_s=10)
    dialing = Dialing(rules, [phones("haifa", serves={"10"}), phones("eilat", serves={"11"})])

    def code(client: str, ext: str, number: str) -> str:
        one = dialing.admit(client_id=client, extension=ext, number=number, click_id=number, now_s=0)
        return one.code.value if isinstance(one, Refusal) else one.pbx

    assert code("10", "777", "033004700") == "haifa"
    assert code("10", "777", "033004701") == Code.TOO_MANY, "one a minute for this phone"
    assert code("11", "777", "033004702") == "eilat", "another phone, though of the same name"
    assert code("10", "778", "033004703") == "haifa"
    assert code("10", "779", "033004704") == Code.TOO_MANY, "three a minute for all"
