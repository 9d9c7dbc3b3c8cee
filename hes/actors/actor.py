"""What all actors share: the mailbox between them, and what they know together of the storage's health."""

from typing import Generic, Protocol, TypeVar

import anyio

from hes.model import Monotonic

Message = TypeVar("Message")


class Actor(Protocol):
    """A task with a name. It does not know that it is supervised."""

    name: str

    async def run(self) -> None:
        """Work until there is nothing more to do for ever. Raising means a bug: the supervisor starts it again."""
        ...


class Mailbox(Generic[Message]):
    """Messages for one actor, of one type, in order. Bounded; owned by who wires the actors, so it outlives a crash.

    Nothing in it is more than a hint of what is on disk, and whoever tells has made sure that there is room: a full
    mailbox is a bug of the one who tells, and raises.
    """

    def __init__(self, size: int) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Message](size)

    def tell(self, message: Message) -> None:
        """Raises anyio.WouldBlock when full, anyio.ClosedResourceError when closed."""
        self._send.send_nowait(message)

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""
        now = self._receive.statistics()
        return now.current_buffer_used / now.max_buffer_size

    async def receive(self) -> Message:
        """The next message. Raises anyio.EndOfStream once it is closed and empty."""
        try:
            return await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._receive.close()
            raise anyio.EndOfStream from None

    def ready(self, most: int) -> list[Message]:
        """What is there already."""
        messages: list[Message] = []
        while len(messages) < most:
            try:
                messages.append(self._receive.receive_nowait())
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        return messages

    def close(self) -> None:
        """Nobody tells any more; what is in it is still read."""
        self._send.close()

    def discard(self) -> None:
        """Let go of both ends."""
        self._send.close()
        self._receive.close()


class Pulse:
    """Whether an actor gets on: it says when it begins a piece of work, and when that is done."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._began_at: float | None = None

    def __enter__(self) -> None:
        self.beat()

    def beat(self) -> None:
        """The next piece begins."""
        self._began_at = self._monotonic()

    def __exit__(self, *_: object) -> None:
        self._began_at = None

    def busy_seconds(self) -> float:
        """For how long it has been at the present piece; 0: it has none."""
        return 0.0 if self._began_at is None else self._monotonic() - self._began_at


class StorageTrouble:
    """When this process last saw the storage away. Shared by the actors that use it."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._last: float | None = None

    def note(self) -> None:
        self._last = self._monotonic()

    def seconds_ago(self) -> float:
        """Infinite if it was never away."""
        return float("inf") if self._last is None else self._monotonic() - self._last
