"""One suite for all providers, over loopback: every fault, what it must be called, and how often the email left."""

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from hes.errors import ConfigError
from hes.model import Answer, AttemptId, Outcome
from hes.provider_settings import BUILT
from hes.provider_settings import Kind as Kinds
from hes.providers import REGISTRY
from hes.secret import Secret
from tests.fakes import an_email
from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.providers.lines import ATTEMPT, EMAIL, LINES, Line, made, talking

pytestmark = pytest.mark.anyio

BEFORE, AFTER, MID = Point.BEFORE_STORING, Point.AFTER_STORING, Point.MID_ANSWER


async def sent_with(line: Line, fault: Fault | None, timeout_seconds: float = 2.0) -> tuple[Answer, int]:
    """The provider's answer under this fault, and how many copies were really taken."""
    async with talking(line) as (provider, fake):
        fake.fault = fault
        answer = await provider.send(EMAIL, ATTEMPT, timeout_seconds)
        return answer, fake.copies(EMAIL.id)


def test_no_line_of_the_registry_is_left_out() -> None:
    """The outbox talks to nobody: its own tests are elsewhere."""
    assert set(REGISTRY) == BUILT == {line.kind for line in LINES} | {Kinds.OUTBOX}


async def test_an_accepted_email_carries_our_ids(line: Line) -> None:
    async with talking(line) as (provider, fake):
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
        (copy,) = fake.accepted
    assert answer == Answer(
        outcome=Outcome.ACCEPTED, status_code=line.accepted_status, provider_message_id=line.message_id
    )
    assert (copy.hes_id, copy.hes_attempt, copy.envelope) == (EMAIL.id, ATTEMPT, ("ann@example.org",))


async def test_the_same_email_and_attempt_make_the_same_request(line: Line) -> None:
    async with talking(line) as (provider, fake):
        for _ in range(2):
            await provider.send(EMAIL, ATTEMPT, 2.0)
        first, second = fake.requests
    assert (first.path, dict(first.headers), first.body) == (second.path, dict(second.headers), second.body)


async def test_a_missing_message_id_is_still_accepted(line: Line) -> None:
    async with talking(line, line.rules(gives_message_id=False)) as (provider, _):
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
    assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, None)
    assert answer.detail


@pytest.mark.parametrize("at", [Point.BEFORE_READING, BEFORE, AFTER, MID])
@pytest.mark.parametrize("kind", [Kind.HANG, Kind.RESET, Kind.CLOSE])
async def test_a_lost_answer_is_in_doubt_whether_or_not_it_was_taken(line: Line, kind: Kind, at: Point) -> None:
    answer, copies = await sent_with(line, Fault(kind=kind, at=at), 0.15)
    assert answer.outcome is Outcome.IN_DOUBT
    assert copies == (at in {AFTER, MID})


@pytest.mark.parametrize("at", [BEFORE, AFTER])
@pytest.mark.parametrize("kind", [Kind.GARBAGE, Kind.HUGE_BODY])
async def test_an_unreadable_answer_is_in_doubt(line: Line, kind: Kind, at: Point) -> None:
    answer, copies = await sent_with(line, Fault(kind=kind, at=at, status=line.accepted_status))
    assert answer.outcome is Outcome.IN_DOUBT
    assert copies == (at is AFTER)


async def test_the_deadline_is_over_the_whole_call(line: Line) -> None:
    """A byte every 50 ms would keep any time-out per read alive."""
    fault = Fault(kind=Kind.SLOW_BODY, at=AFTER, status=line.accepted_status, seconds=0.05)
    answer, copies = await sent_with(line, fault, 0.3)
    assert (answer.outcome, copies) == (Outcome.IN_DOUBT, 1)


@pytest.mark.parametrize("at", [BEFORE, AFTER])
async def test_an_answer_that_is_late_but_in_time_counts(line: Line, at: Point) -> None:
    answer, copies = await sent_with(line, Fault(kind=Kind.LATE, at=at, seconds=0.05))
    assert (answer.outcome, copies) == (Outcome.ACCEPTED, 1)


async def test_a_refused_connection_is_unavailable_and_heals(line: Line) -> None:
    async with talking(line) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        await fake.refuse()
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.UNAVAILABLE
        await fake.refuse(refuse=False)
        assert (await provider.send(EMAIL, AttemptId("0190-next"), 2.0)).outcome is Outcome.ACCEPTED
        assert fake.copies(EMAIL.id) == 2


async def test_error_answers_in_the_vendors_shape_and_in_others(line: Line) -> None:
    async with talking(line) as (provider, fake):
        for status, (own, foreign) in line.errors.items():
            fake.script([Fault(kind=Kind.STATUS, status=status, shape=s) for s in ("own", "foreign", "empty")])
            got = [await provider.send(EMAIL, ATTEMPT, 2.0) for _ in range(3)]
            assert [(status, answer.outcome) for answer in got] == [(status, own), (status, foreign), (status, foreign)]
            assert {answer.status_code for answer in got} == {status}
        assert fake.accepted == []


async def test_an_error_after_it_was_taken_is_in_doubt(line: Line) -> None:
    answer, copies = await sent_with(line, Fault(kind=Kind.STATUS, at=AFTER, status=500))
    assert (answer.outcome, copies) == (Outcome.IN_DOUBT, 1)


@pytest.mark.parametrize(("given", "seconds"), [("7", 7), ("1e9", 3600), ("soon", None)])
async def test_throttled_for_as_long_as_it_says(line: Line, given: str, seconds: float | None) -> None:
    answer, _ = await sent_with(line, Fault(kind=Kind.STATUS, status=429, headers={"Retry-After": given}))
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, seconds)


async def test_a_redirect_is_not_followed(line: Line) -> None:
    async with talking(line) as (provider, fake):
        fake.fault = Fault(kind=Kind.STATUS, status=307, headers={"Location": fake.url + "/elsewhere"}, count=1)
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.IN_DOUBT
        assert len(fake.requests) == 1


async def test_no_fault_makes_it_ask_twice(line: Line) -> None:
    async with talking(line) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)  # a kept connection is where libraries repeat
        fake.script([Fault(kind=Kind.RESET, at=AFTER), Fault(kind=Kind.CLOSE, at=BEFORE)])
        for _ in range(2):
            await provider.send(EMAIL, ATTEMPT, 2.0)
        assert len(fake.requests) == 3


async def test_a_declined_email_never_leaves(line: Line) -> None:
    async with talking(line) as (provider, fake):
        answer = await provider.send(line.cannot, ATTEMPT, 2.0)
        assert (answer.outcome, fake.requests) == (Outcome.DECLINED, [])
    assert answer.detail


async def test_what_can_not_be_written_down_is_declined_and_quoted_nowhere(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(line) as (provider, fake):
        answer = await provider.send(an_email(subject="my secret \ud800"), ATTEMPT, 2.0)
        assert (answer.outcome, fake.requests) == (Outcome.DECLINED, [])
    assert answer.is_ours
    assert "UnicodeEncodeError" in answer.detail
    assert "a bug" in caplog.text
    assert "secret" not in answer.detail + caplog.text


async def test_the_key_is_read_for_each_send(line: Line, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("an old key")
    async with talking(line, api_key=Secret.of("file:key", {}, tmp_path)) as (provider, _):
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.REFUSED
        (tmp_path / "key").write_text(line.key)
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.ACCEPTED


async def test_without_a_setting_that_it_needs_it_is_not_made(line: Line) -> None:
    for key in ("api_key", *line.needs):
        with pytest.raises(ConfigError, match=rf"provider p: {key} is missing. Example: {key} = "):
            made(replace(line.settings(FakeServer(line.rules())), **{key: None}))


async def test_the_key_is_nowhere_to_be_read(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Not in `repr`, not in a detail though the provider says it back, not in a log at debug level."""
    caplog.set_level(logging.DEBUG)
    async with talking(line) as (provider, fake):
        fake.script([Fault(kind=Kind.STATUS, status=401, message=f"bad key {line.key}"), Fault(kind=Kind.GARBAGE)])
        answers = [await provider.send(EMAIL, ATTEMPT, 2.0) for _ in range(2)]
        assert answers[0].detail.endswith(": bad key [secret]")
        transport = vars(provider)["_transport"]
        assert line.key not in f"{provider!r} {vars(provider)} {vars(transport)} {answers} {caplog.text}"
