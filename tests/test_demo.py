"""`hes demo`, as people run it."""

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hes.demo.provider import FakeProvider
from hes.demo.story import figures
from tests.faults.server import PATIENCE_SECONDS, environment

DEMO = (sys.executable, "-m", "hes", "demo", "--fast")


def start(folder: Path) -> subprocess.Popen[str]:
    """Its temporary files are in `folder` too. A setting that would stop any start has no say."""
    env = environment(port="none") | {"TMPDIR": str(folder)}
    return subprocess.Popen(DEMO, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_failover_is_told_with_figures_and_nothing_is_left(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        told, _ = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert process.returncode == 0, told
    sentences = (
        "both providers work",
        "mailgun breaks",
        "HES shuts the gate of mailgun and goes on without it",
        "mailgun is mended",
        "traffic returns to mailgun",
        "its connections break before it answers",
        "HES shuts the gate of mailgun and goes on without it",
        "traffic returns to mailgun",
    )
    assert re.search(".*".join(map(re.escape, sentences)), told, re.DOTALL), told
    number = {
        name: int(count.replace(",", "")) for name, count in re.findall(r"^ *([a-z ]+): ([\d,]+)", told, re.MULTILINE)
    }
    assert number["accepted"] == number["sent"] > 100
    assert number["failed over"] >= 10
    assert number["doubts"] >= 5
    assert number["lost"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert "both providers work" in process.stdout.readline()
        process.send_signal(number)
        began_at = time.monotonic()
        rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert time.monotonic() - began_at < 5
    assert process.returncode == 1
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def an_email(email_id: str, status: str) -> Any:
    attempt = {"outcome": "accepted", "ended_at": "2026-01-31T12:00:02.500Z"}
    return {
        "id": email_id,
        "status": status,
        "provider": "sendgrid",
        "created_at": "2026-01-31T12:00:00.000Z",
        "attempts": [{"outcome": "in_doubt", "ended_at": None}, attempt],
        "events": [{"type": "failed_over"}],
    }


async def test_an_email_counts_as_sent_only_if_a_provider_has_it() -> None:
    one, two = FakeProvider("sendgrid"), FakeProvider("mailgun")
    one.taken, two.taken = Counter({"a": 1}), Counter({"a": 1, "b": 1})
    emails = [an_email("a", "sent"), an_email("b", "sending"), an_email("c", "sent")]
    found = figures(emails, ["a", "b", "c"], (one, two))
    assert (found.accepted, found.sent, found.lost) == (3, 1, 2)
    assert (found.sent_by, found.failed_over, found.doubts, found.twice) == ({"sendgrid": 1}, 3, 3, 1)
    assert found.slowest_seconds == 2.5
