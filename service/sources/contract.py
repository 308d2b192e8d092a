"""What a source is: the pure description of one Microsoft API that yields alerts. It does no I/O."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from service import model

Steps: TypeAlias = Generator[None, None, model.Page]
"""An answer read some records at a time: whoever runs them lets others have their turn in between."""


def whole(steps: Steps) -> model.Page:
    """All steps at once, for who keeps nobody waiting. Raises what they raise."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            page: model.Page = done.value
            return page


class Source(Protocol):
    """One API. Values are constant, methods pure; `registry` names every source."""

    @property
    def name(self) -> str:
        """As in the database, the settings and on the command line, such as `siem`."""
        ...

    @property
    def service(self) -> str:
        """Key for `clouds`, which knows host and token audience."""
        ...

    @property
    def quota(self) -> tuple[tuple[int, float], ...]:
        """(calls, seconds) pairs that the API's page allows an app and tenant, all of them at once; empty where no page says.

        They count per `service`: sources of one service share them, and each request names the service as its quota group.
        """
        ...

    @property
    def reach(self) -> timedelta | None:
        """How far back the API's page says it can be asked, None where no page says."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Application roles that a token must hold, one of them at least; empty where none can be granted."""
        ...

    @property
    def scopes(self) -> frozenset[str]:
        """Delegated permissions of which a signed-in user's token must hold one; empty where no page names any."""
        ...

    @property
    def mutable(self) -> bool:
        """Whether a record can change after it was first seen."""
        ...

    @property
    def incidents(self) -> bool:
        """Whether the top-level records are incidents, with alerts inside, and not alerts."""
        ...

    @property
    def most(self) -> int | None:
        """How many top-level records one answer holds at most, None where no page says."""
        ...

    @property
    def relief(self) -> Mapping[str, Any]:
        """Parameters that take the place of a stream's own where the service answers 500 to these; empty where none help.

        They may bring less of each record, never fewer records. What they bring is stored and proves nothing.
        """
        ...

    @property
    def narrowing(self) -> frozenset[str]:
        """Parameters with which a stream brings a part of the tenant's records only."""
        ...

    def check_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters in one spelling, so that equal wishes are equal values; they can be JSON.

        Raises errors.BadInput that names the parameter, its value and what would be right.
        """
        ...

    def request(self, window: model.Window, parameters: Mapping[str, Any]) -> model.Request:
        """The GET for at least all records of the window; `parameters` as `check_parameters` gave them."""
        ...

    def read(
        self,
        body: bytes,
        window: model.Window,
        tenant_id: UUID,
        *,
        asked: model.Request | None = None,
        base_url: str = "",
    ) -> Steps:
        """What a whole answer to the window's request holds; model.Page says how it is counted.

        A record that cannot be an alert becomes a reject, and so does one that names another tenant than
        `tenant_id`. Raises errors.BadBody, and nothing else, where the body is not what the API documents.

        `asked` is the request that the answer is to, `base_url` the address that its path was appended to: with
        both, `Page.next` says how to go on where the API has a way. It never leads away from `base_url`.
        """
        ...
