"""TLS in front of a Postgres: the server out of the wheel has none of its own. And the certificates that it takes."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""postgresql.org/docs/current/protocol-message-formats.html"""


KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Authority:
    """Signs certificates. `file`: its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._folder = folder
        signs = {name: name == "key_cert_sign" for name in KEY_USAGES}
        itself = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = _builder(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**signs), critical=True)
        builder = builder.add_extension(itself, critical=False)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, *, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key of a server of that host name or address; `days` below 0: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        is_address = name[0].isdigit()
        names = x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name)
        builder = _builder(_name(name), self._name, key, days=days)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=False)
        builder = builder.add_extension(issuer, critical=False)
        certificate, key_file = self._folder / f"{name}-{days}.pem", self._folder / f"{name}-{days}.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 30
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
    )


@asynccontextmanager
async def tls_to(server_url: str, files: tuple[Path, Path] | None) -> AsyncIterator[str]:
    """A URL that leads to that database over TLS, without any `ssl…` parameter; `files` None: it has no TLS."""
    server = urllib.parse.urlsplit(server_url)
    folder = urllib.parse.parse_qs(server.query)["host"][0]
    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"N" if context is None else b"S")
            if context is not None:
                await writer.start_tls(context)
                theirs = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
                await asyncio.gather(_pump(reader, theirs[1]), _pump(theirs[0], writer))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"postgresql://postgres@127.0.0.1:{port}{server.path}"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while portion := await reader.read(65_536):
        writer.write(portion)
        await writer.drain()
    writer.close()
