"""What processes over one storage know of each other and of the providers. Errors as in `hes.storage.storage`."""

from collections.abc import Collection
from typing import Protocol

from hes.model import Fact, FactKey, Node
from hes.storage.records import Presence


class SharedState(Protocol):
    """Beside the emails: no email's way goes through here."""

    async def facts(self) -> list[Fact]:
        """What is known of the providers' accounts."""
        ...

    async def state_facts(self, stated: Collection[Fact], withdrawn: Collection[FactKey] = ()) -> None:
        """Write down what became known, in place of what was known before of the same, and what holds no more."""
        ...

    async def appear(self, node: Node) -> Presence:
        """Say that this node is there, now; it counts as gone when it has not for some seconds."""
        ...

    async def leave(self, node_id: str) -> None:
        """Say that this node is gone."""
        ...

    async def nodes(self) -> list[Node]:
        """Those that are there."""
        ...

    async def quotas_used(self) -> dict[str, int]:
        """How many emails were given to each provider today (UTC). Only those with a daily quota are counted."""
        ...
