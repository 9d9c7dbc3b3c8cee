"""What is said when hints don't come: a connection that ended is not a pooler in between."""

import functools
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from hes.storage.hints import PostgresHints
from tests.actors.parts import in_virtual_time


class Postgres:
    """A connection and a database in one: what is told is heard, if there is no pooler in between."""

    def __init__(self, *, has_pooler: bool = False) -> None:
        self.has_pooler = has_pooler
        self.is_away = False
        self._listener: Callable[..., None] = lambda *_: None

    async def connect(self) -> "Postgres":
        if self.is_away:
            raise ConnectionRefusedError("refused")
        return self

    async def add_listener(self, _channel: str, listener: Callable[..., None]) -> None:
        self._listener = listener

    def is_closed(self) -> bool:
        return self.is_away

    def terminate(self) -> None: ...

    async def write(self, work: Callable[[Any, int], None]) -> None:
        work(self, 0)

    def execute(self, _statement: object, values: dict[str, str]) -> None:
        if not self.has_pooler and not self.is_away:
            self._listener(self, 1, values["channel"], values["payload"])


def new_id() -> str:
    return "0190"


async def listen(postgres: Postgres, seconds: float, away_after: float | None = None) -> None:
    hints = PostgresHints(postgres.connect, postgres, new_id)  # type: ignore[arg-type]
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hints.run)
            if away_after is not None:
                await anyio.sleep(away_after)
                postgres.is_away = True


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        one.getMessage().rpartition("each poll period: ")[2] for one in caplog.records if one.levelname == "WARNING"
    ]


@pytest.mark.parametrize("away_after", [10, 31])
def test_a_connection_that_ended_is_called_so(away_after: float, caplog: pytest.LogCaptureFixture) -> None:
    in_virtual_time(functools.partial(listen, Postgres(), 200, away_after))()
    assert warnings(caplog) == ["no connection to hear them: it ended"]


def test_what_is_never_heard_is_laid_to_a_pooler(caplog: pytest.LogCaptureFixture) -> None:
    in_virtual_time(functools.partial(listen, Postgres(has_pooler=True), 200))()
    assert warnings(caplog) == ["they are not heard: is there a pooler in between?"]
