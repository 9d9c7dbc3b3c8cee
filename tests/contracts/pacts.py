"""Contracts in `contracts/` (Pact): written by tests that drive the consumer, held against the provider.

A contract changes only on purpose: what the tests write must be what is committed. `make contracts` writes it anew.
"""

import gc
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["PACT_DO_NOT_TRACK"] = "true"  # before it is imported: it reports its use otherwise

from pact import Pact, Verifier

CONTRACTS = Path(__file__).parents[2] / "contracts"

StateHandler = Callable[[str, str, dict[str, Any]], None]
"""State, `setup` or `teardown`, parameters. Called in another thread."""


def a_pact(consumer: str, provider: str) -> Pact:
    return Pact(consumer, provider).with_specification("V4")


def written(folder: Path, name: str) -> str:
    """The contract that was written there, without the versions of what wrote it."""
    contract = json.loads((folder / name).read_text())
    contract["metadata"] = {"pactSpecification": contract["metadata"]["pactSpecification"]}
    contract["interactions"].sort(key=lambda interaction: interaction["description"])
    return json.dumps(contract, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def check_committed(folder: Path, name: str) -> None:
    """What the consumer's tests wrote is what is committed; with WRITE_CONTRACTS set it is committed now."""
    now = written(folder, name)
    if os.environ.get("WRITE_CONTRACTS"):
        (CONTRACTS / name).write_text(now)
    assert (CONTRACTS / name).read_text() == now, f"contracts/{name} changes; if that is meant: make contracts"


def verify(name: str, provider: str, prepare: Callable[[Verifier], Verifier], folder: Path = CONTRACTS) -> None:
    """The provider keeps the contract. Blocks; what it does not keep is in the AssertionError."""
    verifier = prepare(Verifier(provider, host="127.0.0.1")).add_source(folder / name)
    told = ""
    try:
        verifier.verify()
    except RuntimeError:
        told = verifier.output(strip_ansi=True)
    with warnings.catch_warnings():  # it leaves the socket of its handlers to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        del verifier
        gc.collect()
    assert not told, told
