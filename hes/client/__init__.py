"""A client of HES's API for Python: `Client`, and `AsyncClient` for anyio and asyncio.

    with Client("http://127.0.0.1:8025", key) as hes:
        accepted = hes.send(from_="shop@example.com", to="ann@example.org", subject="Receipt 7", text="Thank you.")
        for email in hes.watch(accepted["id"]):
            print(email["status"])

What it sends and how answers are read is decided in `calls` and `answers`, which do no I/O; the two clients differ in
nothing but how they wait.
"""

from hes.client.answers import HesApiError, HesUnreachable
from hes.client.async_client import AsyncClient
from hes.client.client import Client
from hes.client.types import (
    Accepted,
    BatchItem,
    Email,
    EmailFields,
    EmailPage,
    EmailState,
    Filters,
    Key,
    KeyFields,
    Provider,
)

__all__ = [
    "Accepted",
    "AsyncClient",
    "BatchItem",
    "Client",
    "Email",
    "EmailFields",
    "EmailPage",
    "EmailState",
    "Filters",
    "HesApiError",
    "HesUnreachable",
    "Key",
    "KeyFields",
    "Provider",
]
