"""When a credential's end is spoken of, and how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service import horizons
from service.doctor import horizon

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
APP = "55555555-5555-5555-5555-555555555555"


def ending(days: float | None, **changes: object) -> horizons.Ending:
    """A secret of the shared app that ends in so many days."""
    end = None if days is None else NOW + timedelta(days=days)
    return horizons.Ending(
        **{"owner": "shared", "app_id": APP, "kind": "client_secret", "expires_at": end, **changes}
    )


@pytest.mark.parametrize(
    ("days", "step"),
    [(None, None), (400, None), (60.1, None), (60, 60), (30.5, 60), (30, 30), (14, 14), (7, 7), (0.1, 7), (0, 0), (-9, 0)],
)  # fmt: skip
def test_steps(days: float | None, step: int | None) -> None:
    """60, 30, 14 and 7 days before, and once it is over."""
    assert ending(days).step(NOW) == step


def test_a_token_that_is_rotated_has_no_end() -> None:
    """Minutes before its end are nothing to speak of, unless nobody renews it."""
    renewed = ending(1 / 24, kind="federated", overdue_at=NOW + timedelta(minutes=50))
    assert (renewed.step(NOW), renewed.end(NOW)) == (None, None)
    assert renewed.said(NOW).endswith("is renewed by whoever rotates its file")
    left = ending(1 / 240, kind="federated", overdue_at=NOW)
    assert left.step(NOW) == 7
    assert "ends at 2026-11-22 12:06 UTC and was not renewed" in left.said(NOW)
    assert "FEDERATED_TOKEN_FILE is rotated again" in horizons.remedy(left)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (ending(9.5), f"the client secret of app {APP} ends on 2026-12-02, in 9 days"),
        (ending(1.5, kind="certificate"), f"the certificate of app {APP} ends on 2026-11-24, in 1 day"),
        (ending(-2), f"the client secret of app {APP} ended on 2026-11-20"),
        (ending(None), f"the client secret of app {APP}: when it ends is not known here"),
        (
            ending(9.5, owner="tenants", first="Contoso (1111…)", soon=3),
            f"the client secret of app {APP} of Contoso (1111…) ends on 2026-12-02, in 9 days; 3 tenants' own end within 60 days",
        ),
    ],
)
def test_sentences(one: horizons.Ending, said: str) -> None:
    """Which credential, when, and how many more."""
    assert one.said(NOW) == said


def test_findings() -> None:
    """The doctor calls broken what has ended, warns of what ends, and asks for an end that nobody has stated."""
    found = horizon.of(
        [ending(-1), ending(20, owner="tenants", first="Contoso (1111…)"), ending(300), ending(None)], NOW
    )
    assert [one.ok for one in found] == ["broken", "warning", "ok", "ok"]
    assert "tenants check --credential" in found[0].remedy
    assert "tenants set-credential" in found[1].remedy
    assert (found[2].remedy, "CLIENT_SECRET_EXPIRES_AT" in found[3].remedy) == ("", True)
