"""Providers: how each stands, and the operator's hand."""

from typing import Annotated, Any, Literal

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct

from hes.errors import Forbidden, NotFound
from hes.model import GateState, GateStatus, Node, ProviderStatus
from hes.web.auth import authorize
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.requests import read_nothing, read_query, read_small_body
from hes.web.views import Time, rfc3339, rfc3339_or_none


class NodeView(Struct, frozen=True, kw_only=True):
    """A provider as one process sees it."""

    id: Annotated[str, Meta(description="Of the process, fresh with each start.")]
    host: str
    role: str
    version: str
    started_at: Time
    seen_at: Time
    state: GateState
    reason: str | None
    since: Time
    until: Time | None
    in_flight: int
    sent_last_minute: int
    error_rate: float


class ProviderView(Struct, frozen=True, kw_only=True):
    """One provider and its gate."""

    name: str
    kind: str
    state: Annotated[
        GateState,
        Meta(
            description="`up`; `slowed`: told us to slow down, or fails often or answers slowly; `down`: it fails, and "
            "nothing goes there until it is asked again; `probing`: one email finds out whether it works again; "
            "`refused`: it does not want our account; `paused`: by an operator."
        ),
    ]
    reason: str | None
    since: Time
    until: Annotated[Time | None, Meta(description="When it is asked again by itself.")]
    weight: float
    effective_weight: Annotated[float, Meta(description="Its share now: less while it fails or answers slowly.")]
    in_flight: int
    in_flight_limit: Annotated[int, Meta(description="Calls at once, as far as it is seen to carry them.")]
    rate_limit: Annotated[float | None, Meta(description="Emails a second, set or learned; null: none is known.")]
    sent_last_minute: int
    error_rate: Annotated[float, Meta(description="Share of failures of late, 0 to 1.")]
    retries_left: Annotated[int, Meta(description="How many emails of later rounds it may get now.")]
    daily_quota: int | None
    quota_left: Annotated[int | None, Meta(description="Of the daily quota, until midnight UTC.")]
    refused_sender_domains: list[str]
    nodes: Annotated[
        list[NodeView],
        Meta(description="How each process that sends sees it: failures are counted by each for itself."),
    ]


class ProviderList(Struct, frozen=True):
    """All providers, in the order of the configuration."""

    data: list[ProviderView]


@get(
    "/providers",
    operation_id="listProviders",
    summary="How each provider stands",
    response_description="All providers",
    responses=problems(401, 403, 422, 503),
)
async def list_providers(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> ProviderList:
    await authorize(desk.authenticator, request, "providers")
    read_query(request.scope["query_string"])
    return ProviderList([provider_view(status) for status in await desk.gates.status()])


@post(
    "/providers/{name:str}/pause",
    operation_id="pauseProvider",
    summary="Send nothing through a provider",
    description="Until `resume`, also after a restart. Calls in flight end. Pausing again changes nothing. "
    "Not with a test key.",
    status_code=200,
    response_description="The provider, paused",
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
)
async def pause_provider(
    name: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> ProviderView:
    return await _turn("pause", name, request, desk)


@post(
    "/providers/{name:str}/resume",
    operation_id="resumeProvider",
    summary="End a pause",
    description="Not with a test key.",
    status_code=200,
    response_description="The provider",
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
)
async def resume_provider(
    name: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> ProviderView:
    return await _turn("resume", name, request, desk)


@post(
    "/providers/{name:str}/reset",
    operation_id="resetProvider",
    summary="Forget what was learned of a provider",
    description="For when its trouble was mended: it is used again at once, refusals are forgotten. A pause stays. "
    "Not with a test key.",
    status_code=200,
    response_description="The provider",
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
)
async def reset_provider(
    name: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> ProviderView:
    return await _turn("reset", name, request, desk)


async def _turn(
    how: Literal["pause", "resume", "reset"], name: str, request: Request[Any, Any, Any], desk: Desk
) -> ProviderView:
    principal = await authorize(desk.authenticator, request, "providers")
    read_query(request.scope["query_string"])
    read_nothing(request.headers, await read_small_body(request, desk, principal))
    if principal.test:
        raise Forbidden("A test key sends nothing through providers, so it can't pause, resume or reset one.")
    if name not in desk.provider_names:
        raise NotFound("There is no such provider.")
    turn = {"pause": desk.gates.pause, "resume": desk.gates.resume, "reset": desk.gates.reset}[how]
    await turn(name, principal.key_id)
    return next(provider_view(status) for status in await desk.gates.status() if status.gate.name == name)


def provider_view(provider: ProviderStatus) -> ProviderView:
    status = provider.gate
    return ProviderView(
        name=status.name,
        kind=status.kind,
        state=status.state,
        reason=status.reason,
        since=rfc3339(status.since),
        until=rfc3339_or_none(status.until),
        weight=status.weight,
        effective_weight=status.effective_weight,
        in_flight=status.in_flight,
        in_flight_limit=status.in_flight_limit,
        rate_limit=status.rate_limit,
        sent_last_minute=status.sent_last_minute,
        error_rate=status.error_rate,
        retries_left=status.retries_left,
        daily_quota=status.daily_quota,
        quota_left=status.quota_left,
        refused_sender_domains=list(status.refused_sender_domains),
        nodes=[_node_view(node, gate) for node, gate in provider.nodes],
    )


def _node_view(node: Node, gate: GateStatus) -> NodeView:
    return NodeView(
        id=node.id,
        host=node.host,
        role=node.role,
        version=node.version,
        started_at=rfc3339(node.started_at),
        seen_at=rfc3339(node.seen_at),
        state=gate.state,
        reason=gate.reason,
        since=rfc3339(gate.since),
        until=rfc3339_or_none(gate.until),
        in_flight=gate.in_flight,
        sent_last_minute=gate.sent_last_minute,
        error_rate=gate.error_rate,
    )
