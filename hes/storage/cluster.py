"""What processes over one database know of each other: who is there, how each sees the providers, who may probe."""

import logging
from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from hes.model import GateStatus, Millis, Node, Room
from hes.storage import tables
from hes.storage.batches import Insert

PRESENT_MS = 15_000
"""A node that was not seen for so long counts as gone."""
FORGOTTEN_MS = 3600_000
GAP_MS = 5_000
"""Nodes appear once a second: where nobody did for so long, the database was away for all of them, or they for it."""

_node = tables.nodes.c
_encode = msgspec.json.Encoder().encode
_decode_gates = msgspec.json.Decoder(tuple[GateStatus, ...]).decode
_log = logging.getLogger("hes.storage")

_appear = Insert(
    tables.nodes,
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, gates = excluded.gates, seen_since = "
    # What is seen in the future was seen before the database's clock was put back.
    f"CASE WHEN nodes.seen_at BETWEEN excluded.seen_at - {GAP_MS} AND excluded.seen_at "
    "THEN coalesce(nodes.seen_since, excluded.seen_since) ELSE excluded.seen_since END",
)
_select_seen = sa.select(_node.seen_since, _node.seen_at).order_by(_node.seen_at.desc())
_take_probes = Insert(
    tables.provider_probes,
    "ON CONFLICT (provider, sender_domain) DO UPDATE "
    "SET node = excluded.node, taken_at = excluded.taken_at, until = excluded.until "
    "WHERE provider_probes.until <= excluded.taken_at OR provider_probes.node = excluded.node "
    "RETURNING provider, sender_domain",
)

Probe = tuple[str, str]
"""Provider, and sender domain or "" for the provider as a whole."""


def appear(connection: sa.Connection, now: Millis, node: Node) -> None:
    """Say that this node is there, and how it sees the providers."""
    gates = _encode(node.gates).decode()
    _appear.run(connection, [(node.id, node.role, node.host, node.version, node.started_at or now, now, gates, now)])
    connection.execute(sa.delete(tables.nodes).where(_node.seen_at < now - FORGOTTEN_MS))


def leave(connection: sa.Connection, node_id: str) -> None:
    connection.execute(sa.delete(tables.nodes).where(_node.id == node_id))


def reached_since(connection: sa.Connection, now: Millis) -> Millis:
    """Since when somebody has reached this database all the while; now, if nobody did just before.

    One node after another may have been there: only a gap in the heartbeats of all of them ends it.
    """
    since = now
    for seen_since, seen_at in connection.execute(_select_seen):
        if seen_at < since - GAP_MS:
            break
        since = min(since, seen_at if seen_since is None else seen_since)
    return since


def present(connection: sa.Connection, now: Millis) -> list[Node]:
    """Those that are there, the oldest first."""
    rows = connection.execute(
        sa.select(tables.nodes).where(_node.seen_at > now - PRESENT_MS).order_by(_node.started_at, _node.id)
    )
    return [
        Node(
            id=row.id,
            role=row.role,
            host=row.host,
            version=row.version,
            started_at=row.started_at,
            seen_at=row.seen_at,
            gates=_gates_of(row.id, row.gates),
        )
        for row in rows
    ]


def take_probes(
    connection: sa.Connection, now: Millis, node_id: str, wanted: Iterable[Probe], until: Millis
) -> set[Probe]:
    """The right to find out whether these take our emails again: one node's at a time, until then. Returns the got."""
    rows = [(provider, domain, node_id, now, until) for provider, domain in sorted(set(wanted))]
    return {(row.provider, row.sender_domain) for row in _take_probes.run(connection, rows)}


def without_probes(rooms: Mapping[str, Room], probes: Iterable[Probe]) -> Mapping[str, Room]:
    """The rooms, shut for what these would find out."""
    changed = dict(rooms)
    for provider, domain in probes:
        room = changed[provider]
        closed, due = room.closed_domains | {domain}, room.probing_domains - {domain}
        changed[provider] = (
            replace(room, closed_domains=closed, probing_domains=due) if domain else replace(room, hands=0)
        )
    return changed


def count_mailers(connection: sa.Connection, now: Millis) -> int:
    there = sa.select(sa.func.count()).where(_node.seen_at > now - PRESENT_MS, _node.role != "api")
    return connection.execute(there).scalar_one()


def _gates_of(node_id: str, text: str) -> tuple[GateStatus, ...]:
    try:
        return _decode_gates(text)
    except msgspec.MsgspecError:  # another version's words
        _log.debug("how node %s sees the providers can't be read", node_id)
        return ()
