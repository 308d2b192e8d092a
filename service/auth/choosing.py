"""With which credentials a tenant may be read, each behind its breaker, and which of the shared ones is in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from service import errors, model
from service.auth import breaker, credentials, entra, modes, sealing, slots

_log = structlog.get_logger(__name__)


class Choice:
    """Belongs to one event loop. What is kept of a tenant's own credentials is in its `slots.Holding`, and goes with it."""

    def __init__(
        self,
        shared: modes.SharedApp | None,
        sealer: sealing.Sealer | None,
        on_restored: Callable[[], None] | None,
    ) -> None:
        """`on_restored()` is called when a credential that was refused is accepted again.

        Raises errors.BadSetting where a file cannot be used.
        """
        self.shared = credentials.Shared(shared) if shared else None
        self._sealer = sealer
        self._on_restored = on_restored
        self._used: model.CredentialKind | None = None
        self._breakers: dict[modes.Identity, breaker.Breaker] = {}

    def apps(
        self, access: model.Access, holding: slots.Holding, authority: str
    ) -> list[tuple[entra.App, breaker.Breaker]]:
        """The app with each credential that this access may use, in the order in which they are tried."""
        own = access.credential
        if own is not None:
            identity = modes.own_identity(access.tenant, own)
            source = self.shared.app.federated if self.shared else None
            newest = replace(own, sealed=holding.sealed(own))
            opened = partial(modes.unsealed, newest, self._sealer, source)
            app = entra.App(identity, authority, opened, holding.memory)
            return [(app, holding.guard(identity, partial(self._new_breaker, identity)))]
        found = [
            (entra.App(identity, authority, partial(_given, mode), holding.memory), self._breaker(identity))
            for identity, mode in (self.shared.read() if self.shared else [])
        ]
        if not found:
            raise errors.Attention(
                "no app to sign in with: set CLIENT_ID with a secret, a certificate or a federated token, or give the "
                "tenant an app of its own",
                code="credential_missing",
            )
        return found

    def _breaker(self, identity: modes.Identity) -> breaker.Breaker:
        """Of one of the shared credentials; another version of it begins with a breaker that is closed."""
        if identity not in self._breakers:
            for old in [one for one in self._breakers if one.kind == identity.kind]:
                del self._breakers[old]
            self._breakers[identity] = self._new_breaker(identity)
        return self._breakers[identity]

    def _new_breaker(self, identity: modes.Identity) -> breaker.Breaker:
        return breaker.Breaker(on_change=partial(self._credential_changed, identity))

    def _credential_changed(self, identity: modes.Identity, refusal: errors.CredentialRefused | None) -> None:
        named = {"kind": identity.kind, "app_id": identity.app_id, "owner": identity.owner}
        if refusal is not None:
            _log.error("credential.refused", reason=str(refusal), code=refusal.code, **named)
            return
        _log.info("credential.restored", **named)
        if self._on_restored:
            self._on_restored()

    def note(self, identity: modes.Identity) -> None:
        """Say once which of the shared credentials has taken the place of another."""
        if identity.owner != credentials.OWNER or identity.kind == self._used:
            return
        if self._used is not None:
            _log.warning("credential.changed_over", before=self._used, now=identity.kind)
        self._used = identity.kind


def _given(mode: modes.Mode) -> modes.Mode:
    return mode
