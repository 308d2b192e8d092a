"""Passwords of roles as PostgreSQL keeps them: sent in that form, the password itself is in no statement and so in no log."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


def verifier(password: str) -> str:
    """What PostgreSQL keeps of an ASCII password (RFC 5803)."""
    salt, rounds = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt64}${stored64}:{server64}"
