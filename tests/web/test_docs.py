"""The docs page: all of it comes from here."""

import re
from pathlib import Path

import httpx
import pytest

from tests.faults.server import cold
from tests.web.service import Service, problem_in

PATHS = ["/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"]


@pytest.mark.parametrize("path", PATHS)
async def test_it_needs_no_key_and_may_load_nothing_from_elsewhere(hes: Service, path: str) -> None:
    response = await hes.ask("GET", path, key=None)
    assert (response.status_code, bool(response.content)) == (200, True)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "http" not in policy
    assert "unsafe" not in policy


async def test_the_page_names_only_what_is_served_here(hes: Service) -> None:
    page = (await hes.ask("GET", "/docs", key=None)).text
    loaded = [path for path in re.findall(r'(?:src|href)="([^"]+)"', page) if path != "data:,"]
    assert set(loaded) == {*PATHS[1:], "/openapi.json"}
    for path in loaded:
        assert (await hes.ask("GET", path, key=None)).status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/openapi.json"])
async def test_head_is_answered_like_get_without_the_body(hes: Service, path: str) -> None:
    got, head = await hes.ask("GET", path, key=None), await hes.ask("HEAD", path, key=None)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


@pytest.mark.parametrize("path", PATHS)
async def test_it_is_sent_again_only_when_it_changed(hes: Service, path: str) -> None:
    first = await hes.ask("GET", path, key=None)
    assert first.headers["cache-control"] in {"no-cache", "public, max-age=86400"}
    again = await hes.ask("GET", path, key=None, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_other_files_of_the_package_are_not_served(hes: Service) -> None:
    for name in ("page", "swagger-editor.js", "..%2Fcore.py", "nothing"):
        problem_in(await hes.ask("GET", f"/docs/{name}", key=None), 404)


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    async with cold(tmp_path, docs="off") as process, httpx.AsyncClient(trust_env=False) as http:
        await process.ready()
        for path in [*PATHS, "/openapi.json"]:
            problem_in(await http.get(f"{process.url}{path}"), 404)
