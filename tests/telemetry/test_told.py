"""What providers tell, and doubts from their beginning to their end: in the email's trace, the metrics and the log."""

import contextlib
import io
import time
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hes import app, settings
from hes.errors import StorageUnavailable
from hes.ids import id_maker
from hes.model import AttemptId, Email, EmailId, Evidence, OnDoubt, Room
from hes.storage.contents import traces
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.records import NewEmail, Reach
from hes.storage.sqlite import open_sqlite
from hes.telemetry import names
from hes.telemetry.telemetry import Telemetry
from hes.told import EventKind, ProviderEvent, Told
from tests import postgres
from tests.fakes import an_email
from tests.fakes.faults import Fault, Kind
from tests.fakes.hooks import SendGridHook
from tests.fakes.sendgrid import KEY, fake_sendgrid
from tests.faults.house import House, measured_house
from tests.storage.harness import NOW, new_policy, next_id, run
from tests.telemetry.collector import Collector
from tests.telemetry.test_logs import lines_with, out
from tests.telemetry.test_metrics import page_of, samples, value
from tests.telemetry.test_traces import CALLER, closed, send

__all__ = ["out"]

HOOK = SendGridHook()


def sendgrid_with_hook(url: str) -> str:
    return f"sendgrid://{KEY}@default?base_url={url}&webhook_secret={HOOK.secret}&name=sendgrid"


def event(email_id: str, number: int, kind: EventKind | None = EventKind.DELIVERED) -> ProviderEvent:
    return ProviderEvent(kind=kind, vendor_type="v", at=1, dedup_id=f"ev{number}", hes_id=email_id)


async def attempt_of(hes: House, email_id: str) -> AttemptId:
    stored = await hes.storage.read(Reach("default"), EmailId(email_id))
    return stored.attempts[-1].id


async def test_events_are_in_the_traces_of_their_emails_and_lead_to_the_request_that_told_them(
    tmp_path: Path, seen: Collector, all_of_it: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, sendgrid_with_hook(fake.url)) as hes:
        ids = [await send(hes), await send(hes, trace="")]
        for email_id in ids:
            await hes.until(email_id, "sent")
        told = [
            {"event": "delivered", "sg_event_id": f"ev{n}", "timestamp": 1, "email": "ann@example.org"}
            | {"hes_id": email_id, "hes_attempt": await attempt_of(hes, email_id)}
            for n, email_id in enumerate(ids)
        ]
        assert await hes.hook("sendgrid", *HOOK.post(told, int(time.time()))) == 200
        await hes.until(ids[0], "delivered")
        found = await page_of(hes)
    await closed(all_of_it)
    requests = {span.attributes.get("hes.email.id"): span for span in seen.named("POST /v1/emails")}
    [hook] = seen.named("POST /hooks/{provider_name}")
    [record] = seen.named(names.RECORD.name)
    joined = {(record.trace_id, record.parent_id), *record.links}
    assert joined == {(span.trace_id, span.span_id) for span in (*(requests[i] for i in ids), hook)}
    assert record.attributes["messaging.batch.message_count"] == 2
    assert value(found, "hes_events_total", hes_provider="sendgrid", hes_event="delivered") == 2
    assert value(found, "hes_batch_size_sum", hes_operation="record") == 2


async def test_only_new_events_are_counted_and_what_is_not_understood_is_unknown(
    tmp_path: Path, page: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(page, tmp_path, fake) as hes:
        email_id = await hes.send()
        await hes.until(email_id, "sent")
        for _ in range(2):
            await hes.storage.inbox.take("sendgrid", Told((event(email_id, 1), event(email_id, 2, None))))
        found = await page_of(hes)
    assert value(found, "hes_events_total", hes_event="delivered") == 1
    assert value(found, "hes_events_total", hes_event="unknown") == 1


@pytest.mark.parametrize("by", ["accepted", "not_accepted", "operator"])
async def test_a_doubt_is_measured_until_it_is_settled_and_told_in_its_trace(
    by: str, tmp_path: Path, all_of_it: Telemetry, out: io.StringIO
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        fake.fault = Fault(kind=Kind.RESET, count=1)
        email_id = await send(hes, on_doubt="hold")
        await hes.until(email_id, "held")
        attempt_id = await attempt_of(hes, email_id)
        earlier = sa.text("UPDATE attempts SET ended_at = ended_at - 60000 WHERE id = :id")
        await run(hes.storage, earlier.bindparams(id=attempt_id))
        if by == "operator":
            await hes.resolve(email_id, "sent")
        else:
            proof = Evidence(
                email_id=EmailId(email_id), attempt_id=attempt_id, accepted=by == "accepted", source="look-up"
            )
            await hes.storage.evidence([proof, proof])
            await hes.storage.evidence([proof])
        found = await page_of(hes)
    of = {"hes_provider": "sendgrid", "hes_resolution": by}
    assert value(found, "hes_doubt_duration_seconds_count") == 1
    assert value(found, "hes_doubt_duration_seconds_count", **of) == 1
    assert 60 <= value(found, "hes_doubt_duration_seconds_sum", **of) < 120
    for told in ("in_doubt, attempt 1 at sendgrid", "held, attempt 1 at sendgrid: doubt", "resolved"):
        [line] = lines_with(
            out, email_id, f": {told}", *([] if told != "resolved" else [by.replace("operator", "sent")])
        )
        assert line["trace_id"] == CALLER[3:35]


async def test_what_is_not_committed_is_not_told(
    tmp_path: Path, page: Telemetry, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_sendgrid() as fake, measured_house(page, tmp_path, fake) as hes:
        fake.fault = Fault(kind=Kind.RESET, count=1)
        email_id = await hes.send(on_doubt="hold")
        await hes.until(email_id, "held")
        proof = Evidence(
            email_id=EmailId(email_id), attempt_id=await attempt_of(hes, email_id), accepted=True, source="look-up"
        )
        database = hes.storage._database
        write = database.write

        async def rolled_back(work: object) -> object:
            def then_fail(connection: sa.Connection, now: int) -> None:
                work(connection, now)  # type: ignore[operator]
                raise StorageUnavailable("away")

            return await write(then_fail)

        with monkeypatch.context() as patch:
            patch.setattr(database, "write", rolled_back)
            with pytest.raises(StorageUnavailable):
                await hes.storage.evidence([proof])
        found = await page_of(hes)
    assert value(found, "hes_doubt_duration_seconds_count") == 0
    assert lines_with(out, email_id, "resolved") == []


def test_the_trace_is_the_last_field_of_what_is_stored() -> None:
    """Or it would not be found at the end of the JSON."""
    assert Email.__struct_fields__[-1] == "trace"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_traces_are_read_off_the_end_whatever_stands_before(kind: str, tmp_path: Path) -> None:
    emails = [
        an_email(id=EmailId("1"), trace=CALLER, text="x" * 200_000),
        an_email(id=EmailId("2"), headers={"trace": CALLER}),
        an_email(id=EmailId("3"), tags={"trace": CALLER}, trace=CALLER[:-2] + "00"),
    ]
    async with contextlib.AsyncExitStack() as stack:
        if kind == "sqlite":
            opening = open_sqlite(tmp_path / "hes.db", new_policy(), lambda: NOW, next_id)
        else:
            url = await stack.enter_async_context(postgres.database())
            opening = open_postgres(PostgresUrl(url), new_policy(), next_id)
        storage = await stack.enter_async_context(opening)
        for email in emails:
            await storage.accept(NewEmail(email=email, on_doubt=OnDoubt.HOLD, expires_in=3600))
        found = await storage._database.read(lambda c, _: traces(c, [EmailId(i) for i in ("1", "2", "3", "4")]))
    assert found == {"1": CALLER, "3": CALLER[:-2] + "00"}


async def test_expired_is_what_failed_of_that_whatever_providers_call_so(tmp_path: Path, page: Telemetry) -> None:
    async with fake_sendgrid() as fake, measured_house(page, tmp_path, fake) as hes:
        sent = await hes.send()
        await hes.until(sent, "sent")
        fake.fault = Fault(kind=Kind.RESET, count=1)
        in_doubt = await hes.send(on_doubt="wait")
        await hes.until(in_doubt, "in_doubt")
        await hes.turn("sendgrid", "pause")
        waiting = await hes.send()
        expire = sa.text("UPDATE deliveries SET expires_at = 1, due_at = 1 WHERE email_id IN (:one, :other)")
        await run(hes.storage, expire.bindparams(one=in_doubt, other=waiting))
        await hes.until(waiting, "failed")
        await hes.until(in_doubt, "held")  # one copy may be on its way: a person decides
        bounced = replace(
            event(sent, 1, EventKind.BOUNCED), data={"reason": "expired"}, hes_attempt=await attempt_of(hes, sent)
        )
        await hes.storage.inbox.take("sendgrid", Told((bounced,)))
        await hes.until(sent, "bounced")
        found = await page_of(hes)
    assert value(found, "hes_emails_expired_total") == 1
    assert value(found, "hes_doubts_total", hes_provider="sendgrid") == 1


async def test_doubts_of_a_process_that_died_are_counted_by_the_next_one(tmp_path: Path, page: Telemetry) -> None:
    """On SQLite it turns them into doubts before it serves, and nobody's sender ever tells of them."""
    url = f"sqlite:///{tmp_path / 'hes.db'}"
    loaded = settings.load({"database_url": url, "providers": "outbox://"}, {}, tmp_path)
    rng, new_id = Random(1), id_maker(app.now, Random(2))
    async with app.open_storage(loaded, app.now, new_id, rng) as storage:
        for number in range(3):
            await storage.accept(
                NewEmail(email=an_email(id=EmailId(f"{number}")), on_doubt=OnDoubt.HOLD, expires_in=3600)
            )
        leases = await storage.lease({"outbox": Room(hands=3)}, size_budget=10**6, is_idle=True, deadline=1e9)
        assert len(leases.items) == 3
    async with app.open_storage(loaded, app.now, new_id, rng, page):
        found = samples(page.exposition().decode()) if page.exposition else {}
    assert value(found, "hes_leases_lapsed_total") == 3
    assert value(found, "hes_doubts_total", hes_provider="outbox") == 3
