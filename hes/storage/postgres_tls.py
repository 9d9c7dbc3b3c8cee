"""Says what is wrong with a Postgres URL that no waiting mends, and what to do: TLS above all.

The driver's own words name no file and no parameter: "No such file or directory". So the files are looked at here, once
something is wrong. Which parameters there are: postgresql.org/docs/current/libpq-connect.html; the driver reads the
same from the environment (PGSSLROOTCERT, ...).
"""

import os
import re
import ssl
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import asyncpg

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
EXPIRED, NOT_YET_VALID = 10, 9
"""x509_vfy.h of OpenSSL: `X509_V_ERR_CERT_HAS_EXPIRED` and the like."""
OTHER_NAME = frozenset({62, 64})


class BadUrl(OSError):
    """No connection, and for the same reason each time until somebody changes something. Says what."""


def bad_url(error: Exception, dsn: str) -> BadUrl | None:
    """What is wrong with the URL, if the driver's error says that something is; None: the server is away, or busy."""
    parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(dsn).query))
    for name in (*FILES, "sslmode"):
        if name not in parameters and (value := os.environ.get(f"PG{name.upper()}")):
            parameters[name] = value
    found: str | None = None
    match error:
        case asyncpg.ClientConfigurationError() | asyncpg.UndefinedObjectError():
            found = _missing_root(parameters, error) or str(error).replace("`", "")
        case ssl.SSLCertVerificationError():
            found = _certificate(parameters, error)
        case ssl.SSLError():
            found = _file(parameters) or _content(parameters) or f"the TLS handshake failed ({error.reason})"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            found = (
                f"sslmode={parameters.get('sslmode')}, but the server has no TLS. Turn it on there (ssl = on), or say "
                "sslmode=disable, on a link that nobody else can read"
            )
        case OSError():
            found = _file(parameters)
    return BadUrl(found) if found else None


def _missing_root(parameters: Mapping[str, str], error: Exception) -> str | None:
    if "root certificate file" not in str(error):
        return None
    mode = parameters.get("sslmode")
    return (
        f"sslmode={mode} needs to know who signed the server's certificate. Add sslrootcert=FILE, the CA's certificate "
        "in PEM; for a public CA, your system's list of them, such as /etc/ssl/certs/ca-certificates.crt"
    )


def _certificate(parameters: Mapping[str, str], error: ssl.SSLCertVerificationError) -> str:
    """Why the server's certificate is not trusted."""
    if error.verify_code in OTHER_NAME:
        name = re.search("'.*'", error.verify_message)
        return (
            f"the server's certificate is not for {name[0] if name else 'this host'}. Connect by the name that it is "
            "for, or have one made for this name; sslmode=verify-ca checks who signed it and no name"
        )
    if error.verify_code == EXPIRED:
        return "the server's certificate has expired, or its CA's has. Have it renewed there"
    if error.verify_code == NOT_YET_VALID:
        return "the server's certificate is not valid yet. Is the clock of this machine right?"
    return (
        f"the server's certificate is not signed by the CA in sslrootcert={parameters.get('sslrootcert')} "
        f"({error.verify_message}). Name the certificate of the CA that signed it"
    )


def _file(parameters: Mapping[str, str]) -> str | None:
    """Which of the files can't be read."""
    for name in FILES:
        if name in parameters:
            try:
                with Path(parameters[name]).open("rb"):
                    pass
            except OSError as error:
                return f"{name}={parameters[name]} can't be read: {error.strerror}. Name a file that this user can read"
    return None


def _content(parameters: Mapping[str, str]) -> str | None:
    """Which of them holds something else than it should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root, certificate, key = (parameters.get(name) for name in ("sslrootcert", "sslcert", "sslkey"))
    if root:
        try:
            context.load_verify_locations(root)
        except ssl.SSLError:
            return f"sslrootcert={root} holds no certificate in PEM. Name the certificate of the CA"
    if certificate and not key:
        return f"sslcert={certificate} needs its key: add sslkey=FILE"
    if certificate:
        try:
            context.load_cert_chain(certificate, key, parameters.get("sslpassword", ""))
        except ssl.SSLError:
            return (
                f"sslcert={certificate} and sslkey={key} are no certificate and its key, both in PEM"
                " (a key with a password needs sslpassword=...)"
            )
    return None
