"""What traces and metrics cost at full load: `make bench-telemetry`, or this module with --help.

Rounds as in `benchmarks.end_to_end`, in turns: with nothing (`HES_METRICS=off`); with /metrics, as by default; with
metrics and traces exported to a collector as well; and with each email's trace sampled. The collector only reads what
comes. In turns, since this machine does other things too: a round is compared with the one beside it.
"""

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.end_to_end import arguments, machine, one_round

FIGURE = "CPU s per 1,000 emails"


class Collector(BaseHTTPRequestHandler):
    """Takes everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    given = arguments("Measure what telemetry costs.").parse_args()
    print(machine())
    with collector() as url:
        exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRIC_EXPORT_INTERVAL": "5000"}
        modes = {
            "off": {"HES_METRICS": "off"},
            "metrics": {},
            "metrics and traces": exported,
            "every trace": exported | {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
        for number in range(given.rounds):
            for name in modes if number % 2 == 0 else reversed(modes):
                rounds[name].append(one_round(given, modes[name]))
                figures = rounds[name][-1]
                rate = f"{figures['emails/s end to end']:8.0f} emails/s"
                print(f"{name:20} {rate} {figures[FIGURE]:8.3f} {FIGURE}", flush=True)
    print(f"medians of {given.rounds} rounds of {given.emails} emails")
    for name, ours in rounds.items():
        rate = statistics.median(one["emails/s end to end"] for one in ours)
        cpu = statistics.median(one[FIGURE] for one in ours)
        pairs = [one[FIGURE] / off[FIGURE] - 1 for one, off in zip(ours, rounds["off"], strict=True)]
        print(f"{name:20} {rate:8.0f} emails/s {cpu:8.3f} {FIGURE} {statistics.median(pairs):+8.1%} against off")


if __name__ == "__main__":
    main()
