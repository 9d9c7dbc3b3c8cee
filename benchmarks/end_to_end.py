"""Emails per second, from the POST to the provider: `make bench`, or `python -m benchmarks.end_to_end --help`.

Three processes beside this one: `hes serve` on a new SQLite file (or a Postgres), a sink in the provider's place that
answers after 30 ms, and a load of keep-alive connections in a closed loop. In each round HES starts anew; first it is
idle and gets one email at a time, then the load. Ends with 1 if any email came to the sink not exactly once.
"""

import argparse
import asyncio
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import msgspec

from benchmarks.load import Result, body
from benchmarks.sink import Counts
from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, run_schema
from tests.postgres import start_server

ROOT = Path(__file__).parents[1]
KEY = "benchmark-key-of-more-than-32-characters"
IDLE_EMAILS, IDLE_PAUSE_MS = 60, 50
PATIENCE_SECONDS = 60
LOAD_SECONDS = 600
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A running `hes serve`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self.process = process

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far (proc_pid_stat(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def sink(latency_ms: float) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.sink", "--latency-ms", str(latency_ms)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.stdin.close()


@contextmanager
def database(folder: Path, *, on_postgres: bool) -> Iterator[str]:
    """A URL: a new SQLite file, or a Postgres out of the wheel, with fsync on and the schema made."""
    if not on_postgres:
        yield f"sqlite:///{folder / 'hes.db'}"
        return
    server = start_server(Path(tempfile.mkdtemp(prefix="hes-bench-")))
    try:
        asyncio.run(run_schema(PostgresUrl(server.get_uri()), migrations.upgrade))
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def hes(
    folder: Path, url: str, provider: str, in_flight: int, more: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Log lines are read until it serves, and go to a file from then on. `more`: variables besides."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("HES_", "OTEL_"))}
    settings = {
        "HES_DATABASE_URL": url,
        "HES_PORT": "0",
        "HES_BOOTSTRAP_KEY": KEY,
        "HES_LOG_FORMAT": "json",
        "HES_PROVIDERS": f"sendgrid://KEY@default?base_url={quote(provider, safe='')}&max_in_flight={in_flight}",
        "PYTHONPATH": str(ROOT),
        **(more or {}),
    }
    log = folder / "log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "hes", "serve"], cwd=folder, env=rest | settings, stderr=stderr
        ) as process,
    ):
        try:
            yield Server(process, _url(process, log))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"serves (http://[^\"]+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    sys.exit(f"hes serve did not start:\n{log.read_text()}")


def load(url: str, emails: int, connections: int, pause_ms: float = 0) -> Result:
    command = [sys.executable, "-m", "benchmarks.load", url, "--emails", str(emails)]
    command += ["--connections", str(connections), "--pause-ms", str(pause_ms)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"HES_API_KEY": KEY},
        stdout=subprocess.PIPE,
        check=True,
        timeout=LOAD_SECONDS,
    )
    return msgspec.json.decode(done.stdout, type=Result)


def counts(url: str) -> Counts:
    with urlopen(f"{url}/counts") as answer:
        return msgspec.json.decode(answer.read(), type=Counts)


def wait_for(url: str, emails: int) -> Counts:
    """What the sink has once it has so many emails, or at the end of our patience."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len((now := counts(url)).times) < emails and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def one_round(given: argparse.Namespace, more: Mapping[str, str] | None = None) -> dict[str, float]:
    """All figures of one round. Exits if an email is lost or came twice."""
    with (
        tempfile.TemporaryDirectory(prefix="hes-bench-", dir=given.folder) as folder,
        sink(given.latency_ms) as url,
        database(Path(folder), on_postgres=given.postgres) as at,
        hes(Path(folder), at, url, given.in_flight, more) as server,
    ):
        load(server.url, 200, given.connections)  # warm: caches of statements, connections
        idle = load(server.url, IDLE_EMAILS, 1, IDLE_PAUSE_MS)
        before = wait_for(url, 200 + IDLE_EMAILS)
        cpu = server.cpu_seconds()
        loaded = load(server.url, given.emails, given.connections)
        after = wait_for(url, len(before.times) + given.emails)
        cpu = server.cpu_seconds() - cpu
        check(loaded, after)
        return {
            "accepts/s": len(loaded.ids) / (loaded.ended - loaded.began),
            "emails/s end to end": len(loaded.ids) / (after.last_new - loaded.began),
            "CPU s per 1,000 emails": cpu / len(loaded.ids) * 1000,
            "peak RSS MiB": server.peak_rss_mib(),
            "accept p50 ms": percentile(loaded, 50),
            "accept p99 ms": percentile(loaded, 99),
            "idle accept p50 ms": percentile(idle, 50),
            "idle accept p99 ms": percentile(idle, 99),
        }


def check(result: Result, seen: Counts) -> None:
    """Each accepted email came exactly once, and nothing else did."""
    if result.refused:
        sys.exit(f"{result.refused} requests were not answered with 202")
    lost = [email_id for email_id in result.ids if email_id not in seen.times]
    doubled = [email_id for email_id, times in seen.times.items() if times > 1]
    if lost or doubled or "" in seen.times:
        sys.exit(f"of {len(result.ids)} emails {len(lost)} did not arrive, {len(doubled)} arrived more than once")


def percentile(result: Result, percent: int) -> float:
    """Milliseconds."""
    return statistics.quantiles(result.latencies, n=100)[percent - 1] * 1000


def machine() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.processor()
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}; "
        f"{platform.system()} {platform.release()}"
    )


def arguments(description: str) -> argparse.ArgumentParser:
    """What a round needs to know."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--emails", type=int, default=10_000, help="in each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=30, help="the provider's")
    parser.add_argument("--in-flight", type=int, default=128, help="calls to the provider at the same time")
    parser.add_argument("--folder", type=Path, help="where the database is made; default: the system's temporary one")
    parser.add_argument("--postgres", action="store_true", help="instead of SQLite; its CPU is not counted")
    return parser


def main() -> None:
    given = arguments("Measure emails per second, end to end.").parse_args()
    print(machine())
    print(
        f"{given.rounds} rounds of {given.emails} emails of {len(body(0))} bytes, {given.connections} connections, "
        f"provider answers after {given.latency_ms:g} ms, {given.in_flight} calls in flight"
    )
    rounds: list[dict[str, Any]] = []
    for number in range(given.rounds):
        rounds.append(one_round(given))
        print(f"round {number + 1}: {rounds[-1]['emails/s end to end']:.0f} emails/s", flush=True)
    for name in rounds[0]:
        values = sorted(figures[name] for figures in rounds)
        print(f"{name:24} {statistics.median(values):10.2f}   ({values[0]:.2f} to {values[-1]:.2f})")


if __name__ == "__main__":
    main()
