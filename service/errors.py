"""Every error of Alertwell, in one tree.

    AlertwellError
    ├── UserMistake                 something a person set or typed; exit code 2, one line, no stack trace
    │   ├── BadSetting              names the setting, its value (never a secret) and what would be right
    │   ├── BadInput                an argument, a CSV line, a tenant id
    │   ├── SchemaMismatch          the database's schema is older than this version needs, or incompatibly newer
    │   ├── EmbeddedUnavailable     no PostgreSQL binaries, or they do not start
    │   └── EmbeddedInUse           another process owns the data folder
    ├── DatabaseUnavailable         PostgreSQL cannot be reached, or ended the connection; tried again
    ├── LeaseLost                   another replica owns the tenant now, or the stream changed: nothing was written
    └── PollFailure                 one request, or the token for it, did not bring what was asked for
        ├── Throttled               429, or a quota named in the body; `retry_after` where the answer said
        ├── Transient               5xx, time-out, reset, a body that is not what the API documents
        │   └── BadBody             the same, with a sample of the body to keep in soc.rejects
        ├── TooLarge                the answer is over MAX_BODY_BYTES: the window is split
        ├── Refused                 400: the API does not take this request; a narrow window that stays refused is poison
        ├── Gone                    410, 404, or the host name no longer exists
        └── Attention               a person must act: secret expired, consent gone, role missing, no licence, wrong cloud
            └── CredentialRefused   the app's own credential is refused: concerns every tenant that uses it

Each class has a `kind`; `ingest.pacing` turns a failure and the stream's history into the next delay and state.
Classes exist only where someone catches them. Messages are for people: they never hold a token, a secret or a body.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Kind = Literal[
    "mistake", "database", "lease_lost", "throttled", "transient", "too_large", "refused", "gone", "attention"
]


class AlertwellError(Exception):
    """Base of everything that Alertwell raises on purpose."""

    kind: ClassVar[Kind] = "transient"


class UserMistake(AlertwellError):
    """A person's mistake: one line that names the thing, its value and what would be right."""

    kind = "mistake"


class BadSetting(UserMistake):
    """A setting that cannot be used; the message names it as the environment spells it."""


class BadInput(UserMistake):
    """An argument or a line of a file that cannot be used."""


class SchemaMismatch(UserMistake):
    """The database's schema does not fit this version; the message names the command to run."""


class EmbeddedUnavailable(UserMistake):
    """The embedded PostgreSQL cannot be started; the message says what is missing."""


class EmbeddedInUse(UserMistake):
    """Another process owns the data folder; the message names its pid."""


class DatabaseUnavailable(AlertwellError):
    """PostgreSQL cannot be reached or ended the connection."""

    kind = "database"


class LeaseLost(AlertwellError):
    """The lease has another owner or epoch; nothing was written."""

    kind = "lease_lost"


class PollFailure(AlertwellError):
    """A request did not bring what was asked for. `retry_after` is in seconds, where the answer named a time.

    `sample` holds the first bytes of a body that could not be used, for soc.rejects. `asked` is false where the API was never
    reached, for want of a token or a way: then nothing is said of what was asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        sample: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.sample = sample
        self.asked = True


class Throttled(PollFailure):
    """The quota is used up; `retry_after` is the longest of what header and body said."""

    kind = "throttled"


class Transient(PollFailure):
    """Likely to pass by itself."""

    kind = "transient"


class BadBody(Transient):
    """A body that is not what the API documents."""


class TooLarge(PollFailure):
    """The answer is larger than MAX_BODY_BYTES; the window has to be split."""

    kind = "too_large"


class Refused(PollFailure):
    """The API does not take this request (400); asking again the same way brings the same."""

    kind = "refused"


class Gone(PollFailure):
    """The API is not there any more (410, 404, or a host name that does not exist)."""

    kind = "gone"


class Attention(PollFailure):
    """A person must act. `reason` is the sentence shown to them, `code` a stable word such as `consent_missing`."""

    kind = "attention"

    def __init__(
        self, message: str, *, code: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self.code = code


class CredentialRefused(Attention):
    """Entra refuses the app's own credential (`invalid_client`): all its tenants wait on one probe."""
