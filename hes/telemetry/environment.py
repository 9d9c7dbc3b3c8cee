"""Which of the OTEL_* variables HES follows (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables).

Unlike the specification has it, nothing is exported unless an endpoint or an exporter is named: a HES that nobody set
up for it must not talk to port 4318. What a variable says is read by the SDK; here it is only checked.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

_FOLLOWED = re.compile(
    r"OTEL_(SDK_DISABLED|SERVICE_NAME|RESOURCE_ATTRIBUTES|TRACES_SAMPLER(_ARG)?|(TRACES|METRICS)_EXPORTER"
    r"|BSP_(SCHEDULE_DELAY|MAX_QUEUE_SIZE|MAX_EXPORT_BATCH_SIZE)|METRIC_EXPORT_(INTERVAL|TIMEOUT)"
    r"|(SPAN_)?ATTRIBUTE_(COUNT|VALUE_LENGTH)_LIMIT|SPAN_(EVENT|LINK)_COUNT_LIMIT|(EVENT|LINK)_ATTRIBUTE_COUNT_LIMIT"
    r"|EXPORTER_OTLP_((TRACES|METRICS)_)?(ENDPOINT|PROTOCOL|HEADERS|TIMEOUT|COMPRESSION|CERTIFICATE|CLIENT_KEY"
    r"|CLIENT_CERTIFICATE))"
)
_SAMPLERS = tuple(
    f"{parent}{kind}" for parent in ("", "parentbased_") for kind in ("always_on", "always_off", "traceidratio")
)


class Exports(Struct, frozen=True):
    """What goes out by OTLP."""

    traces: bool = False
    metrics: bool = False


def is_followed(name: str) -> bool:
    """Whether this variable does anything."""
    return _FOLLOWED.fullmatch(name) is not None


def exports_of(environ: Mapping[str, str]) -> Exports:
    """Raises ValueError with the variable's name, what is wrong with it, and an example."""
    given = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Exports()
    sampler = given.get("OTEL_TRACES_SAMPLER", "always_on")
    if sampler not in _SAMPLERS:
        raise ValueError(
            f"OTEL_TRACES_SAMPLER: must be one of {', '.join(_SAMPLERS)}. Example: parentbased_traceidratio"
        )
    return Exports(_is_exported("TRACES", given), _is_exported("METRICS", given))


def _is_exported(signal: str, given: Mapping[str, str]) -> bool:
    endpoint = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    name = endpoint if endpoint in given else "OTEL_EXPORTER_OTLP_ENDPOINT"
    exporter = given.get(f"OTEL_{signal}_EXPORTER", "otlp" if name in given else "none")
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise ValueError(f"OTEL_{signal}_EXPORTER: must be otlp or none. Example: OTEL_{signal}_EXPORTER=otlp")
    for protocol in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if given.get(protocol, "http/protobuf") != "http/protobuf":
            raise ValueError(f"{protocol}: HES speaks http/protobuf, usually on port 4318. Example: http/protobuf")
    if name in given and not _is_http(given[name]):
        raise ValueError(f"{name}: must be an http:// or https:// URL. Example: {name}=http://127.0.0.1:4318")
    return True


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
