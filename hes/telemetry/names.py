"""Every span, metric and attribute that HES emits. A test compares this with what is emitted, and with the docs.

The names follow OpenTelemetry's semantic conventions where there are such (opentelemetry.io/docs/specs/semconv: http,
messaging, database), and begin with `hes.` elsewhere. No attribute ever holds an address, a subject, a body, a header
or a query; a metric's attributes are few and each has few values.
"""

from typing import Literal

from msgspec import Struct

# --- attributes ------------------------------------------------------------------------------------------------------

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS_CODE = "http.response.status_code"
SCHEME = "url.scheme"
URL = "url.full"
ADDRESS = "server.address"
PORT = "server.port"
ERROR = "error.type"
MESSAGING = "messaging.system"
DESTINATION = "messaging.destination.name"
MESSAGING_OPERATION = "messaging.operation.name"
MESSAGING_TYPE = "messaging.operation.type"
MESSAGE = "messaging.message.id"
MESSAGES = "messaging.batch.message_count"
EMAIL = "hes.email.id"
ATTEMPT = "hes.attempt.id"
NUMBER = "hes.attempt.number"
PROVIDER = "hes.provider"
OUTCOME = "hes.outcome"
FOUND = "hes.found"
OPERATION = "hes.operation"
EVENT = "hes.event"
RESOLUTION = "hes.resolution"
STATUS = "hes.status"
STATE = "hes.state"
ACTOR = "hes.actor"
CONNECTION_STATE = "db.client.connection.state"
POOL = "db.client.connection.pool.name"

ATTRIBUTES = {
    METHOD: "`POST`",
    ROUTE: "the route, such as `/v1/emails/{email_id}`; `none` for what no route takes",
    STATUS_CODE: "the answer's status",
    SCHEME: "`http` or `https`",
    URL: "the address at the provider, without its query",
    ADDRESS: "the provider's host",
    PORT: "and its port",
    ERROR: "a status, or the name of an error; only there if it went wrong",
    MESSAGING: "`hes`: the queue is HES's own",
    DESTINATION: "`emails`",
    MESSAGING_OPERATION: "`accept`, `lease`, `attempt`, `settle`, `ask` or `record`",
    MESSAGING_TYPE: "`send`, `receive`, `process` or `settle`",
    MESSAGE: "the email's id",
    MESSAGES: "how many emails a batch has",
    EMAIL: "the email's id",
    ATTEMPT: "the attempt's id, which providers get as `hes_attempt`",
    NUMBER: "the how many-th attempt of that email",
    PROVIDER: "a provider's configured name",
    OUTCOME: "`accepted`, `rejected`, `declined`, `refused`, `throttled`, `unavailable`, `in_doubt`, or `not_tried`",
    FOUND: "what a question about a doubt led to: `accepted`, `nothing` or `unavailable`",
    OPERATION: "`accept`, `lease`, `settle`, `record`, `sweep` or `count`",
    EVENT: "`accepted`, `delivered`, `deferred`, `bounced`, `complained`, `opened`, `clicked`, `unsubscribed`, "
    "`resubscribed`, `rejected` or `unknown`",
    RESOLUTION: "`accepted`, `not_accepted` or `operator`: a person",
    STATUS: "`scheduled`, `queued`, `sending`, `in_doubt` or `held`",
    STATE: "`up`, `slowed`, `probing`, `down`, `refused` or `paused`",
    ACTOR: "an actor's name, such as `intake` or `sender mailgun`",
    CONNECTION_STATE: "`used` or `idle`",
    POOL: "the database: `postgres` or `sqlite`",
}
"""Each one, and what it holds."""

SERVICE = "service.name"
VERSION = "service.version"
INSTANCE = "service.instance.id"
ROLE = "hes.role"

RESOURCE = {
    SERVICE: "`hes`, or OTEL_SERVICE_NAME",
    VERSION: "of HES",
    INSTANCE: "the process, fresh with each start",
    ROLE: "`all`, `api` or `mailer`",
}
"""What stands once for a process. OTEL_RESOURCE_ATTRIBUTES may say otherwise, and more."""

# --- spans -----------------------------------------------------------------------------------------------------------


class Span(Struct, frozen=True):
    """A kind of span."""

    name: str
    kind: Literal["server", "client", "producer", "consumer", "internal"]
    help: str
    attributes: tuple[str, ...]
    """Those that it may have."""


_BATCH = (MESSAGING, DESTINATION, MESSAGING_OPERATION, MESSAGING_TYPE, MESSAGES, ERROR)

REQUEST = Span(
    "{method} {route}", "server", "one request to HES", (METHOD, ROUTE, STATUS_CODE, SCHEME, ERROR, EMAIL, MESSAGES)
)
ACCEPT = Span("accept emails", "producer", "a group of emails is committed", _BATCH)
LEASE = Span("lease emails", "consumer", "due emails are given to free hands", _BATCH)
SEND = Span(
    "attempt emails",
    "consumer",
    "one attempt at one provider",
    (
        MESSAGING, DESTINATION, MESSAGING_OPERATION, MESSAGING_TYPE, MESSAGE, EMAIL, ATTEMPT, NUMBER, PROVIDER, OUTCOME,
        ERROR,
    ),
)  # fmt: skip
CALL = Span("{method}", "client", "one call to a provider", (METHOD, URL, ADDRESS, PORT, STATUS_CODE, ERROR))
SETTLE = Span("settle emails", "internal", "a batch of outcomes is committed", _BATCH)
RECORD = Span("record events", "internal", "what a provider told of emails is committed", _BATCH)
ASK = Span(
    "ask about emails",
    "consumer",
    "a provider is asked what became of an attempt in doubt",
    (MESSAGING, DESTINATION, MESSAGING_OPERATION, MESSAGING_TYPE, MESSAGE, EMAIL, ATTEMPT, PROVIDER, FOUND, ERROR),
)

SPANS = (REQUEST, ACCEPT, LEASE, SEND, CALL, SETTLE, RECORD, ASK)

# --- metrics ---------------------------------------------------------------------------------------------------------

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
_LONG = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metric(Struct, frozen=True):
    """An instrument."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    help: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""


REQUEST_SECONDS = Metric(
    "http.server.request.duration", "histogram", "s", "Requests to HES, health and metrics aside",
    (METHOD, ROUTE, STATUS_CODE), _FAST,
)  # fmt: skip
BATCH_SECONDS = Metric(
    "hes.batch.duration", "histogram", "s", "Transactions of the email's way, each over a batch", (OPERATION,), _FAST
)
BATCH_SIZE = Metric(
    "hes.batch.size", "histogram", "{email}", "Emails in one of these transactions", (OPERATION,), _COUNTS
)
STORAGE_ERRORS = Metric("hes.storage.errors", "counter", "{error}", "Transactions that failed", (OPERATION, ERROR))
ATTEMPT_SECONDS = Metric(
    "hes.attempt.duration", "histogram", "s", "Calls to providers, by how they ended", (PROVIDER, OUTCOME), _SLOW
)
QUESTION_SECONDS = Metric(
    "hes.question.duration", "histogram", "s", "Questions about doubts, by what they led to", (PROVIDER, FOUND), _SLOW
)
DOUBTS = Metric(
    "hes.doubts", "counter", "{attempt}", "Attempts of which nobody knows whether the provider took them", (PROVIDER,)
)
DOUBT_SECONDS = Metric(
    "hes.doubt.duration", "histogram", "s", "How long doubts lasted, by what settled them",
    (PROVIDER, RESOLUTION), _LONG,
)  # fmt: skip
EVENTS = Metric("hes.events", "counter", "{event}", "New events that providers told", (PROVIDER, EVENT))
NOT_TRIED = Metric("hes.attempts.not_tried", "counter", "{attempt}", "Leased, and given back untried", (PROVIDER,))
FAILOVERS = Metric("hes.failovers", "counter", "{email}", "Emails that came from another provider", (PROVIDER,))
LAPSED = Metric("hes.leases.lapsed", "counter", "{lease}", "Leases that ran out: their emails are in doubt")
EXPIRED = Metric("hes.emails.expired", "counter", "{email}", "Emails that failed since their time was over")
QUEUE = Metric(
    "hes.queue.emails", "gauge", "{email}", "What waits, drafts included, or is held, in the whole database", (STATUS,)
)
QUEUE_BYTES = Metric("hes.queue.size", "gauge", "By", "The same without what is held, in bytes")
QUEUE_LIMIT = Metric("hes.queue.limit", "gauge", "{email}", "HES_QUEUE_LIMIT; 0: none")
OLDEST_DUE = Metric("hes.queue.oldest_due", "gauge", "s", "For how long the longest waiting email has been due")
GATE = Metric("hes.gate.state", "gauge", "1", "1 for the state that a provider is in, else 0", (PROVIDER, STATE))
HANDS = Metric("hes.hands.in_use", "gauge", "{hand}", "Emails in a sender's hands", (PROVIDER,))
HANDS_LIMIT = Metric("hes.hands.limit", "gauge", "{hand}", "How many it takes at once, as learned", (PROVIDER,))
MAILBOX = Metric("hes.mailbox.fill", "gauge", "1", "How full an actor's mailbox is", (ACTOR,))
COMMITS = Metric("hes.commits.in_flight", "gauge", "{email}", "Emails whose commit is waited for or under way")
CONNECTIONS = Metric("db.client.connection.count", "gauge", "{connection}", "The pool", (POOL, CONNECTION_STATE))
CONNECTIONS_MAX = Metric("db.client.connection.max", "gauge", "{connection}", "How many it may have", (POOL,))
LOOP_LAG = Metric(
    "hes.loop.lag", "histogram", "s", "How late the event loop is, ten times a second", (),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)  # fmt: skip
UPTIME = Metric("process.uptime", "gauge", "s", "For how long the process has been running")
ACTOR_BUSY = Metric("hes.actor.busy", "gauge", "s", "For how long an actor has been at one piece of work", (ACTOR,))

METRICS = (
    REQUEST_SECONDS, BATCH_SECONDS, BATCH_SIZE, STORAGE_ERRORS, ATTEMPT_SECONDS, QUESTION_SECONDS, DOUBTS,
    DOUBT_SECONDS, EVENTS, NOT_TRIED, FAILOVERS, LAPSED, EXPIRED, QUEUE, QUEUE_BYTES, QUEUE_LIMIT, OLDEST_DUE, GATE,
    HANDS, HANDS_LIMIT, MAILBOX, COMMITS, CONNECTIONS, CONNECTIONS_MAX, LOOP_LAG, UPTIME, ACTOR_BUSY,
)  # fmt: skip
