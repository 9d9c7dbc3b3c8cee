"""GET /v1/providers, and pause, resume and reset."""

import pytest

from hes.model import GateState
from tests.web.service import Service


async def test_each_provider_is_told_with_its_gate(hes: Service) -> None:
    hes.gates.standing["two"] = GateState.DOWN
    answer = await hes.ask("GET", "/v1/providers")
    assert answer.status_code == 200
    one, two = answer.json()["data"]
    assert one == {
        "name": "one",
        "kind": "sendgrid",
        "state": "up",
        "reason": None,
        "since": "2027-01-15T08:00:00.000Z",
        "until": None,
        "weight": 2.0,
        "effective_weight": 2.0,
        "in_flight": 3,
        "in_flight_limit": 64,
        "rate_limit": None,
        "sent_last_minute": 17,
        "error_rate": 0.0,
        "retries_left": 100,
        "daily_quota": None,
        "quota_left": None,
        "refused_sender_domains": [],
        "nodes": [
            {
                "id": "01890000-0000-7000-8000-00000000000a",
                "host": "here",
                "role": "all",
                "version": "1",
                "started_at": "2027-01-15T08:00:00.000Z",
                "seen_at": "2027-01-15T08:00:00.000Z",
                "state": "up",
                "reason": None,
                "since": "2027-01-15T08:00:00.000Z",
                "until": None,
                "in_flight": 3,
                "sent_last_minute": 17,
                "error_rate": 0.0,
            }
        ],
    }
    assert (two["name"], two["state"], two["reason"]) == ("two", "down", "because")


@pytest.mark.parametrize(("turn", "state"), [("pause", "paused"), ("resume", "up"), ("reset", "up")])
async def test_an_operator_turns_a_provider(hes: Service, turn: str, state: str) -> None:
    answer = await hes.ask("POST", f"/v1/providers/two/{turn}")
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["state"]) == ("two", state)
    assert hes.gates.told == [(turn, "two", "bootstrap")]


@pytest.mark.parametrize("turn", ["pause", "resume", "reset"])
async def test_an_unknown_provider_is_404_and_nobody_is_told(hes: Service, turn: str) -> None:
    answer = await hes.ask("POST", f"/v1/providers/three/{turn}")
    assert (answer.status_code, answer.json()["title"]) == (404, "Not found")
    assert hes.gates.told == []


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/one/pause")])
async def test_without_a_key_nothing_is_told(hes: Service, method: str, path: str) -> None:
    assert (await hes.ask(method, f"/v1/providers{path}", key=None)).status_code == 401
    assert hes.gates.told == []


async def test_a_body_or_parameter_that_means_nothing_is_refused(hes: Service) -> None:
    assert (await hes.ask("POST", "/v1/providers/one/pause", json={"for": "an hour"})).status_code == 422
    assert (await hes.ask("GET", "/v1/providers?state=down")).status_code == 422
    assert hes.gates.told == []
