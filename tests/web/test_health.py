"""Is it alive, and should it get traffic."""

import pytest
import sqlalchemy as sa

from hes.errors import StorageUnavailable
from hes.web.desk import Readiness
from tests.storage.harness import run
from tests.web.service import Service, problem_in


class Broken:
    async def check(self) -> None:
        raise StorageUnavailable("the disk is full")


@pytest.mark.parametrize(("path", "status"), [("/health/live", "alive"), ("/health/ready", "ready")])
async def test_it_answers_without_a_key_and_is_never_cached(hes: Service, path: str, status: str) -> None:
    for suffix in ("", "/", "?at=1"):
        response = await hes.ask("GET", path + suffix, key=None)
        assert (response.status_code, response.json()) == (200, {"status": status})
        assert response.headers["cache-control"] == "no-store"


async def test_without_its_storage_it_lives_but_is_not_ready(hes: Service) -> None:
    response = await hes.ask("GET", "/health/ready", key=None, desk={"storage": Broken()})
    assert problem_in(response, 503)["detail"] == "the disk is full."
    assert response.headers["cache-control"] == "no-store"
    assert (await hes.ask("GET", "/health/live", key=None, desk={"storage": Broken()})).status_code == 200


async def test_it_says_why_it_is_not_ready(hes: Service) -> None:
    await run(hes.storage, sa.text("UPDATE alembic_version SET version_num = '0001'"))
    response = await hes.ask("GET", "/health/ready", key=None)
    assert "run `hes db upgrade`" in problem_in(response, 503)["detail"]


async def test_when_it_stops_it_lives_but_is_not_ready(hes: Service) -> None:
    stopping = Readiness()
    stopping.is_stopping = True
    response = await hes.ask("GET", "/health/ready", key=None, desk={"readiness": stopping})
    assert "storage" not in problem_in(response, 503)["detail"]
    assert (await hes.ask("GET", "/health/live", key=None, desk={"readiness": stopping})).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_head_gets_the_status_without_a_body(hes: Service, path: str) -> None:
    response = await hes.ask("HEAD", path, key=None)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["cache-control"] == "no-store"
    if path == "/health/ready":
        assert (await hes.ask("HEAD", path, key=None, desk={"storage": Broken()})).status_code == 503
