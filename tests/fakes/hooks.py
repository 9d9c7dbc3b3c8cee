"""Providers' webhooks: each signs a POST as its vendor documents it, with other code than what checks it.

HMAC is written out here (RFC 2104); ECDSA signs with a key of its own, made anew for each run.
"""

import hashlib
from base64 import b64decode, b64encode
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Post = tuple[dict[str, str], bytes]
"""Headers, named as the vendor names them, and the body."""


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """RFC 2104, section 2."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


class SendGridHook:
    """An array of events in each POST."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.secret = b64encode(
            self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).decode()

    def post(self, events: Any, at: int) -> Post:
        """What SendGrid writes ends with a line."""
        return self.sign(msgspec.json.encode(events) + b"\r\n", at)

    def sign(self, body: bytes, at: int) -> Post:
        signature = self._key.sign(str(at).encode() + body, ec.ECDSA(SHA256()))
        return {
            "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": str(at),
        }, body


class MailgunHook:
    """One event in each POST; the signature stands in the body and covers only a timestamp and a token."""

    secret = "key-of-the-webhooks"

    def signature(self, at: int, token: str = "t" * 50) -> dict[str, str]:
        digest = hmac_sha256(self.secret.encode(), f"{at}{token}".encode())
        return {"timestamp": str(at), "token": token, "signature": digest.hex()}

    def post(self, event: Any, at: int, token: str = "t" * 50) -> Post:
        return {}, msgspec.json.encode({"signature": self.signature(at, token), "event-data": event})


class ResendHook:
    """One event in each POST, signed with Svix."""

    secret = "whsec_" + b64encode(b"a secret of Resend's webhook").decode()

    def post(self, event: Any, at: int, id_: str = "msg_1") -> Post:
        return self.sign(msgspec.json.encode(event), at, id_)

    def sign(self, body: bytes, at: int, id_: str = "msg_1") -> Post:
        key = b64decode(self.secret.removeprefix("whsec_"))
        signature = b64encode(hmac_sha256(key, f"{id_}.{at}.".encode() + body)).decode()
        return {"svix-id": id_, "svix-timestamp": str(at), "svix-signature": f"v1,{signature}"}, body
