"""First instants of civil days and months against real transitions and a slow scan; the window against a list of its charges."""

from __future__ import annotations

import ast
import inspect
import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from balancer.core import calendar
from balancer.core.calendar import APART, CalendarWindow, Period, load_zone, next_start
from balancer.core.quota import MARGIN, PROMPT, Counter, room

ZONES = sorted(available_timezones() - {"localtime"})
HOUR = 3600
DAY = 24 * HOUR
SLACK = APART + MARGIN
LOS_ANGELES = ZoneInfo("America/Los_Angeles")


def epoch(text: str) -> float:
    """Of an ISO instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def utc(instant: float) -> str:
    """Read back what `epoch` reads."""
    return datetime.fromtimestamp(instant, UTC).isoformat(" ").removesuffix("+00:00")


def starts(zone: str, period: Period, since: str, count: int) -> list[str]:
    """The next `count` starts, each asked for at the one before."""
    at, found = epoch(since), []
    for _ in range(count):
        at = next_start(at, period, load_zone(zone))
        found.append(utc(at))
    return found


def scan(instant: int, period: Period, zone: ZoneInfo) -> int:
    """The slow model: walk until the local date is later than every date that was shown before."""

    def shown(at: int) -> tuple[int, ...]:
        local = datetime.fromtimestamp(at, zone)
        return (local.year, local.month, local.day) if period == "day" else (local.year, local.month)

    before = instant - instant % 60
    latest = max(shown(at) for at in (*range(before - 30 * HOUR, before, 60), instant))
    at = before
    while shown(at + 60) <= latest:
        at += 60
    return next(second for second in range(at, at + 61) if shown(second) > latest)


def changes(zone: ZoneInfo, year: int) -> list[int]:
    """The hours of the year in which the zone's offset changes."""
    first = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    hours = range(first, first + 366 * DAY, HOUR)
    offsets = [datetime.fromtimestamp(at, zone).utcoffset() for at in hours]
    return [at for at, offset, later in zip(hours, offsets, offsets[1:], strict=False) if offset != later]


@pytest.mark.parametrize("name", ["UTC", "America/Los_Angeles", "America/Argentina/ComodRivadavia", "Etc/GMT+12", "EST5EDT"])
def test_a_zone_is_loaded_by_its_name(name: str) -> None:
    """Of one, two and three parts, with signs and digits."""
    assert load_zone(name) == ZoneInfo(name)


def test_every_zone_of_the_database_is_allowed() -> None:
    """The form of a name excludes none."""
    assert all(load_zone(name).key == name for name in ZONES)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "\0",
        "UTC\0",
        "UTC\n",
        " UTC",
        ".",
        "..",
        "../x",
        "../zoneinfo/UTC",
        "./UTC",
        "America",
        "America/",
        "America//Los_Angeles",
        "America/../UTC",
        "America\\Los_Angeles",
        "/etc/localtime",
        "/usr/share/zoneinfo/UTC",
        "localtime",
        "right/UTC",
        "posix/UTC",
        "posixrules",
        "tzdata.zi",
        "zone.tab",
        "leapseconds",
        "__init__.py",
        "Mars/Olympus",
        "PST",
        "UTC+1",
        "América/Bahia",
        "\ud800",
        "A" * 60,
        "A" * 100_000,
        "A/" * 50_000,
    ],
)
def test_another_name_is_a_value_error_of_one_short_line(name: str) -> None:
    """Unknown, hostile, a path, a directory, a file that is no zone."""
    with pytest.raises(ValueError, match="unknown time zone") as caught:
        load_zone(name)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(name=st.text())
def test_any_text_is_a_zone_or_a_value_error(name: str) -> None:
    """Nothing but the documented error leaves."""
    try:
        assert load_zone(name).key == name
    except ValueError as error:
        assert str(error).startswith("unknown time zone")


@pytest.mark.parametrize(
    ("zone", "since", "expected"),
    [
        ("UTC", "2024-02-28 12:00", ["2024-02-29 00:00:00", "2024-03-01 00:00:00", "2024-03-02 00:00:00"]),
        ("UTC", "2023-02-28 12:00", ["2023-03-01 00:00:00", "2023-03-02 00:00:00"]),
        ("UTC", "2100-02-28 12:00", ["2100-03-01 00:00:00"]),
        ("UTC", "2099-12-31 23:59:59", ["2100-01-01 00:00:00"]),
        ("Asia/Kathmandu", "2024-05-05 18:14:59", ["2024-05-05 18:15:00", "2024-05-06 18:15:00"]),
        # 23 and 25 hours, the change at 02:00
        ("America/New_York", "2024-03-09 12:00", ["2024-03-10 05:00:00", "2024-03-11 04:00:00", "2024-03-12 04:00:00"]),
        ("America/New_York", "2024-11-02 12:00", ["2024-11-03 04:00:00", "2024-11-04 05:00:00", "2024-11-05 05:00:00"]),
        # forward at midnight: the day begins at 01:00
        ("America/Sao_Paulo", "2018-11-03 12:00", ["2018-11-04 03:00:00", "2018-11-05 02:00:00"]),
        # back at midnight: 23:00 again, the next day begins once
        ("America/Sao_Paulo", "2018-02-17 12:00", ["2018-02-18 03:00:00", "2018-02-19 03:00:00"]),
        ("Africa/Cairo", "2023-04-27 12:00", ["2023-04-27 22:00:00", "2023-04-28 21:00:00"]),
        ("Africa/Cairo", "2023-10-25 12:00", ["2023-10-25 21:00:00", "2023-10-26 22:00:00", "2023-10-27 22:00:00"]),
        # back at 00:01 to 23:01: the seventh begins, is the sixth again, and does not begin again
        ("America/St_Johns", "2010-11-06 12:00", ["2010-11-07 02:30:00", "2010-11-08 03:30:00"]),
        ("America/St_Johns", "2010-11-07 02:30:30", ["2010-11-08 03:30:00"]),
        ("America/St_Johns", "2010-11-07 02:45", ["2010-11-08 03:30:00"]),
        ("America/St_Johns", "2010-11-07 03:45", ["2010-11-08 03:30:00"]),
        # the thirtieth does not exist
        ("Pacific/Apia", "2011-12-29 08:00", ["2011-12-29 10:00:00", "2011-12-30 10:00:00", "2011-12-31 10:00:00"]),
        ("Pacific/Apia", "2011-12-30 09:59:59", ["2011-12-30 10:00:00", "2011-12-31 10:00:00"]),
    ],
)
def test_days_begin_at_their_first_instant_across_real_transitions(zone: str, since: str, expected: list[str]) -> None:
    """Each once, whatever the clocks of the zone show around midnight."""
    assert starts(zone, "day", since, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "since", "expected"),
    [
        ("UTC", "2023-12-15 00:00", ["2024-01-01 00:00:00", "2024-02-01 00:00:00", "2024-03-01 00:00:00"]),
        ("UTC", "2024-01-31 23:59:59", ["2024-02-01 00:00:00", "2024-03-01 00:00:00"]),
        ("UTC", "2024-02-01 00:00", ["2024-03-01 00:00:00"]),
        ("America/New_York", "2024-02-10 00:00", ["2024-03-01 05:00:00", "2024-04-01 04:00:00"]),
        ("Pacific/Apia", "2011-12-30 00:00", ["2011-12-31 10:00:00"]),
        # back at 00:01 on the first: October comes back for an hour
        ("America/Goose_Bay", "2009-11-01 02:30", ["2009-11-01 03:00:00", "2009-12-01 04:00:00"]),
        ("America/Goose_Bay", "2009-11-01 03:30", ["2009-12-01 04:00:00"]),
    ],
)
def test_months_begin_with_their_first_day(zone: str, since: str, expected: list[str]) -> None:
    """Of 28 to 31 days, at the first instant of the first."""
    assert starts(zone, "month", since, len(expected)) == expected


def test_a_moment_before_midnight_is_the_old_day() -> None:
    """Even where rounding to microseconds would reach the new one: its start may not be passed over."""
    midnight = epoch("2024-01-02 00:00")
    assert next_start(math.nextafter(midnight, 0.0), "day", ZoneInfo("UTC")) == midnight
    assert next_start(midnight, "day", ZoneInfo("UTC")) == midnight + DAY


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    instant=st.integers(int(epoch("2000-01-01")), int(epoch("2100-12-31"))),
)
def test_the_next_day_is_what_a_scan_finds_at_any_instant(zone: str, instant: int) -> None:
    """In every zone of the database, in the years 2000 to 2100."""
    assert next_start(instant, "day", ZoneInfo(zone)) == scan(instant, "day", ZoneInfo(zone))


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    year=st.integers(2000, 2100),
    after=st.integers(-30, 30).map(lambda hours: hours * HOUR) | st.integers(-2 * HOUR, 2 * HOUR),
)
def test_the_next_day_is_what_a_scan_finds_near_a_change(zone: str, year: int, after: int) -> None:
    """Where the zone's offset changes that year."""
    for change in changes(ZoneInfo(zone), year):
        assert next_start(change + after, "day", ZoneInfo(zone)) == scan(change + after, "day", ZoneInfo(zone))


@settings(max_examples=20, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    instant=st.integers(int(epoch("2000-01-01")), int(epoch("2100-11-30"))),
)
def test_the_next_month_is_what_a_scan_finds(zone: str, instant: int) -> None:
    """In every zone of the database, in the years 2000 to 2100."""
    assert next_start(instant, "month", ZoneInfo(zone)) == scan(instant, "month", ZoneInfo(zone))


@settings(max_examples=30, deadline=None)
@given(zone=st.sampled_from(ZONES), year=st.integers(2000, 2100))
def test_a_year_has_one_start_for_each_date_that_its_zone_shows(zone: str, year: int) -> None:
    """Strictly increasing, and each at a date of its own: exactly once per civil day."""
    at, end = datetime(year, 1, 1, tzinfo=UTC).timestamp(), datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()
    shown = {datetime.fromtimestamp(hour, ZoneInfo(zone)).date() for hour in range(int(at), int(end), HOUR)}
    before = {datetime.fromtimestamp(at, ZoneInfo(zone)).date()}
    begun = []
    while (at := next_start(at, "day", ZoneInfo(zone))) < end:
        begun.append(datetime.fromtimestamp(at, ZoneInfo(zone)).date())
    assert begun == sorted(shown - before)


NOW = 5_000.0
NOON = epoch("2024-03-09 20:00")
RESET = NOW + 12 * HOUR
"""Trio time of midnight; the day that follows has 23 hours."""


def window(limit: float = 10, period: Period = "day") -> CalendarWindow:
    """A window in Los Angeles, asked about first at noon."""
    return CalendarWindow(limit, period, LOS_ANGELES, (NOW, NOON))


def test_everything_used_leaves_at_once_after_the_start() -> None:
    """Late by the slack, and not a moment before."""
    day = window()
    day.charge(4, NOW)
    day.charge(6, RESET - 2)
    assert day.level(NOW) == (10, math.inf, RESET + SLACK)
    assert day.earliest(1, RESET) == RESET + SLACK
    assert room(day, RESET + SLACK - 0.01) == 0
    assert day.earliest(10, RESET + SLACK) == RESET + SLACK
    assert day.level(RESET + SLACK) == (0, math.inf, math.inf)
    day.charge(1, RESET + 100)
    assert day.level(RESET + 100) == (1, math.inf, RESET + 23 * HOUR + SLACK)


def test_a_month_resets_on_its_first_day() -> None:
    """At midnight of the zone, by its summer time."""
    month = window(period="month")
    month.charge(10, NOW)
    assert month.period == 30 * DAY
    assert month.earliest(1, NOW) == NOW + (epoch("2024-04-01 07:00") - NOON) + SLACK


@pytest.mark.parametrize("apart", [-SLACK, -0.5, 0.0, 0.5, SLACK - 0.001])
def test_a_charge_around_the_start_counts_on_both_sides(apart: float) -> None:
    """Which window the provider counts it in cannot be known."""
    day = window()
    day.charge(3, RESET - 10)
    day.charge(7, RESET + apart)
    assert room(day, RESET + SLACK - 0.001) == 0
    assert day.earliest(3, RESET + SLACK - 0.001) == RESET + SLACK
    assert day.earliest(4, RESET + SLACK - 0.001) == RESET + 23 * HOUR + SLACK
    assert day.level(RESET + SLACK) == (7, math.inf, RESET + 23 * HOUR + SLACK)
    assert day.level(RESET + 23 * HOUR + SLACK) == (0, math.inf, math.inf)


def test_what_never_fits_is_told_from_what_fits_later() -> None:
    """`inf` for more than the limit; debt leaves at the start like the rest."""
    day = window()
    assert day.burst == 10
    assert day.earliest(10.5, NOW) == math.inf
    assert day.earliest(10, NOW) == NOW
    day.charge(25, NOW)
    assert room(day, NOW) == -15
    assert day.earliest(10, NOW) == RESET + SLACK
    assert room(day, RESET + SLACK) == 10


def test_a_charge_is_taken_back_from_the_windows_that_hold_it() -> None:
    """From one, from both, from the later of both, from none."""
    day = window()
    early, late = day.charge(4, NOW), day.charge(3, RESET - 0.5)
    day.take_back(early, 2)
    assert room(day, RESET) == 5
    day.take_back(late, 1)
    assert room(day, RESET) == 6
    assert room(day, RESET + SLACK) == 8
    day.take_back(early, 2)
    day.take_back(late, 1)
    assert room(day, RESET + SLACK) == 9
    assert room(day, RESET + 2 * DAY) == 10
    day.take_back(late, 1)
    assert room(day, RESET + 2 * DAY) == 10


def test_a_prompt_answer_moves_its_charge_to_when_it_came() -> None:
    """Across the margin it counts in both windows; one that took long stays where it was charged."""
    day = window()
    at = RESET - SLACK - PROMPT / 2
    prompt, late = day.charge(3, at), day.charge(4, at)
    moved = day.answered(prompt, 3, at, at + PROMPT)
    assert day.answered(late, 4, at, at + 2 * PROMPT) == late
    assert day.number(moved) == day.number(prompt)
    assert room(day, RESET) == 3
    assert room(day, RESET + SLACK) == 7
    day.take_back(moved, 3)
    assert room(day, RESET + SLACK) == 10


def test_a_wider_margin_widens_the_time_around_the_start() -> None:
    """From when it is known."""
    day = window()
    day.charge(10, RESET - SLACK - 0.1)
    day.margin += 0.2
    assert day.earliest(1, NOW) == pytest.approx(RESET + SLACK + 0.2, abs=1e-6)
    day.charge(2, RESET - SLACK - 0.1)
    assert room(day, RESET + SLACK + 0.21) == 8


def test_a_charge_leaves_its_room_among_the_lows() -> None:
    """So an honest response that shows as little is explained."""
    day = window()
    day.mirrored = True
    number = day.number(day.charge(4, NOW))
    assert day.number(day.charge(3, NOW + 1)) == number + 1 == day.charges
    assert day.least_room(number) == 3
    day.charge(1, RESET + 10)
    assert day.least_room(number) == 3
    assert day.least_room(number + 2) == 9


def test_a_resized_window_keeps_the_units_in_use() -> None:
    """Less than what is used is debt until the start."""
    day = window()
    day.charge(6, NOW)
    day.resize(4, NOW)
    assert room(day, NOW) == -2
    assert day.earliest(4, NOW) == RESET + SLACK
    day.resize(20, NOW)
    assert room(day, NOW) == 14


def test_a_window_is_a_counter() -> None:
    """For the type checker, and for who asks the ledger's questions."""
    counter: Counter = window()
    assert (counter.limit, counter.period, counter.burst, counter.grain) == (10, DAY, 10, 0.0)


def test_no_clock_is_read() -> None:
    """Same inputs, same outputs: a wall clock that jumps cannot reset a day twice or never."""
    tree = ast.parse(inspect.getsource(calendar))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not names & {"now", "utcnow", "today", "time", "monotonic"}
    assert not modules & {"time", "trio"}


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_only_the_difference_of_the_anchor_counts(jump: float) -> None:
    """Trio's clock may begin anywhere; another origin moves every answer by as much."""
    moved = CalendarWindow(10, "day", LOS_ANGELES, (NOW + jump, NOON))
    plain = window()
    for at in (NOW, RESET - 0.5, RESET + 5, RESET + 40 * DAY):
        moved.charge(2, at + jump)
        plain.charge(2, at)
        assert moved.earliest(9, at + jump) == pytest.approx(plain.earliest(9, at) + jump)
        assert room(moved, at + jump) == room(plain, at)


class WindowMachine(RuleBasedStateMachine):
    """A window against a list of everything that was ever charged, each entry with the instant at which it leaves."""

    @initialize(
        place=st.sampled_from(
            [
                ("UTC", "2024-02-27 12:00"),
                ("America/St_Johns", "2010-11-05 12:00"),
                ("America/Sao_Paulo", "2018-11-02 12:00"),
                ("Pacific/Apia", "2011-12-28 12:00"),
            ]
        )
    )
    def begin(self, place: tuple[str, str]) -> None:
        self.zone = ZoneInfo(place[0])
        self.shift = epoch(place[1]) - NOW
        self.window = CalendarWindow(8, "day", self.zone, (NOW, NOW + self.shift))
        self.now = NOW
        self.log: list[list[float]] = []
        self.marks: list[tuple[tuple[int, int], int]] = []

    def start(self, after: float) -> float:
        return next_start(after + self.shift, "day", self.zone) - self.shift

    def used(self, at: float) -> float:
        return sum(amount for leaves_at, amount in self.log if at < leaves_at)

    @rule(after=st.sampled_from([0.0, 0.5, 60.0, 5 * HOUR, DAY, 3 * DAY]))
    def pass_time(self, after: float) -> None:
        self.now += after

    @rule(apart=st.sampled_from([-2.0, -1.0, -0.25, 0.25, 1.0, 2.0]))
    def pass_to_the_start(self, apart: float) -> None:
        self.now = max(self.now, self.start(self.now) + apart)

    @rule(amount=st.integers(1, 9))
    def charge(self, amount: int) -> None:
        self.marks.append((self.window.charge(amount, self.now), len(self.log)))
        self.log.append([self.start(self.now + SLACK) + SLACK, amount])

    @precondition(lambda self: self.marks)
    @rule(data=st.data(), share=st.sampled_from([0.25, 0.5, 1.0]))
    def take_back(self, data: st.DataObject, share: float) -> None:
        mark, place = self.marks.pop(data.draw(st.integers(0, len(self.marks) - 1)))
        amount = self.log[place][1]
        self.window.take_back(mark, amount * share)
        self.log[place][1] = amount * (1 - share)

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        assert room(self.window, self.now) == 8 - self.used(self.now)

    @invariant()
    def admits_at_the_first_moment_the_list_does(self) -> None:
        for amount in (1, 5, 8):
            moments = sorted({self.now, *(leaves_at for leaves_at, _ in self.log if leaves_at > self.now)})
            fits_at = next(at for at in moments if self.used(at) + amount <= 8)
            assert self.window.earliest(amount, self.now) == pytest.approx(fits_at, abs=1e-5)


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    ahead=st.floats(-1.0, 1.0),
    gaps=st.lists(st.sampled_from([0.0, 0.3, 1.0, 4 * HOUR, 11 * HOUR]), min_size=1, max_size=60),
    delays=st.lists(st.floats(0.0, MARGIN), min_size=1, max_size=60),
)
def test_a_provider_whose_clock_is_a_second_off_never_counts_more_than_the_limit(
    ahead: float, gaps: list[float], delays: list[float]
) -> None:
    """A charge at the earliest moment after each gap; the provider counts it by its own clock, up to the margin later."""
    day, at = window(limit=3), NOW
    counted: dict[object, int] = {}
    for place, gap in enumerate(gaps):
        at = day.earliest(1, at + gap)
        day.charge(1, at)
        seen_at = NOON + (at - NOW) + delays[place % len(delays)] + ahead
        date = datetime.fromtimestamp(seen_at, LOS_ANGELES).date()
        counted[date] = counted.get(date, 0) + 1
    assert max(counted.values()) <= 3


@pytest.mark.parametrize("later", [-7200.0, -300.0, 300.0, 7200.0])
def test_a_start_that_the_provider_states_is_its_start(later: float) -> None:
    """Clocks may differ by minutes: then it is the calendar's own, once. By more, the calendar's own still comes."""
    day = window()
    day.charge(10, 0.0)
    _, _, midnight = day.level(0.0)
    day.starts_at(midnight + later)
    assert day.earliest(1, 0.0) == midnight + later
    day.charge(10, midnight + later + 5.0)
    again = midnight + DAY - HOUR if later > -7200.0 else midnight  # summer time begins
    assert abs(day.earliest(1, midnight + later + 5.0) - again) <= SLACK
