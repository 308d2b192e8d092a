"""What Entra trusts of an app besides its secret, and how tests let time pass."""

from __future__ import annotations

import time
from typing import Any

import jwt

from service.auth import tokens
from tests.simulator import keys

CLUSTER = "https://oidc.example/cluster"
SUBJECT = "system:serviceaccount:soc:alertwell"
EXCHANGE = "api://AzureADTokenExchange"


def issued(pair: keys.Pair, subject: str = SUBJECT, life: int = 3600, **more: Any) -> str:
    """A token of the cluster."""
    now = int(time.time())
    content = {
        "iss": CLUSTER,
        "sub": subject,
        "aud": EXCHANGE,
        "iat": now,
        "nbf": now,
        "exp": now + life,
        **more,
    }
    return jwt.encode(content, pair.key, algorithm="RS256", headers={"kid": "k1"})


def reopen(made: tokens.Tokens) -> None:
    """Let the pause of every breaker pass, and every token end."""
    for guard in made._choice._breakers.values():
        guard._until = 0.0
    for holding in made._tenants.values():
        for slot in holding.slots.values():
            slot.drop()
