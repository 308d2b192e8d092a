"""Rehearsing a credential: what passes by itself is tried again, and nothing is kept."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from service import errors, model
from service.ingest import rehearsing
from service.sources import registry


class Entra:
    """Tokens by a list of answers a tenant; the last one stays."""

    def __init__(self, answers: dict[int, list[str | errors.PollFailure]]) -> None:
        self.answers = answers
        self.forgotten: list[int] = []

    async def token(self, access: model.Access, service: str) -> str:
        """The next answer."""
        assert service == "mde"
        left = self.answers[access.tenant.tenant_id.int]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, errors.PollFailure):
            raise answer
        return answer

    def forget(self, tenant_id: UUID) -> None:
        """Note it."""
        self.forgotten.append(tenant_id.int)


def lacks(token: str, _: Collection[str]) -> bool:
    """As the token itself says."""
    return token == "bare"


async def test_who_would_be_lost() -> None:
    """Trouble that passes is waited out, three times at most; what a person must mend counts at once."""
    busy = errors.Transient("Entra is busy")
    entra = Entra(
        {
            1: ["good"],
            2: [busy, busy, "good"],
            3: [busy],
            4: [errors.Attention("not consented", code="consent_missing"), "good"],
            5: ["bare"],
        }
    )
    subjects = [
        rehearsing.Subject(
            model.Access(model.Tenant(UUID(int=n), f"Contoso {n}")), [registry.SOURCES["mde_alerts"]]
        )
        for n in entra.answers
    ]
    seen: list[tuple[int, int]] = []
    trials = await rehearsing.rehearse(
        entra, lacks, subjects, progress=lambda *of: seen.append(of), pause=0.001
    )
    assert [(trial.ok, trial.code) for trial in trials] == [
        (True, None),
        (True, None),
        (False, "transient"),
        (False, "consent_missing"),
        (False, "role_missing"),
    ]
    assert "Alert.Read.All or Alert.ReadWrite.All" in trials[-1].said
    assert (sorted(entra.forgotten), len(seen), seen[-1]) == ([1, 2, 3, 4, 5], 5, (5, 5))
