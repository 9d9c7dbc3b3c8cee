"""Forks one life of `hes serve` after another. Orders come by stdin, one JSON object a line; see `Warm` in `server`.

Answers by stdout with the life's pid, and once that has ended with its exit code (negative: of which signal it died).
Nothing of HES runs in this process, it has imported HES only: no thread, no loop, no connection is forked.
"""

import os
import sys

import msgspec

import hes.__main__
import hes.app  # `hes serve` imports it once it knows the command


class Order(msgspec.Struct):
    """What a life is to be."""

    environ: dict[str, str]
    folder: str
    log: str


def live(order: Order) -> None:
    """One life, in a process of its own."""
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, log, log)):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(order.environ)
    os.chdir(order.folder)
    sys.argv = ["hes", "serve"]
    hes.__main__.main()


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        live(msgspec.json.decode(line, type=Order))
        sys.exit(0)
    print(pid, flush=True)  # noqa: T201
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201
