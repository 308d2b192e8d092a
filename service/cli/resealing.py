"""`alertwell reseal`: every stored secret under the newest sealing key, so that the older keys can go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import typer

from service import errors
from service.cli import actors, database, epilog, output

if TYPE_CHECKING:
    from service.auth import sealing
    from service.store import pool, reseals

EPILOG: Final = epilog.lines(
    """
    To change keys without a stop:
      alertwell seal-key --into /etc/alertwell/sealing_keys   a new key on top; the replicas read the file again
      alertwell reseal                                        once each replica has the new file
      then take the old keys out of the file; nothing needs a restart

    Safe beside running replicas, and to run again: what is sealed with the newest key already is left alone.
    Exit code 1 where a secret is left that no key of the file opens; it is named.
    """
)
_BATCH: Final = 1000
_ROUNDS: Final = 3


@dataclass(slots=True)
class Tally:
    """What was found and done. `lost` are the secrets that no key opens."""

    anew: int = 0
    newest: int = 0
    missed: int = 0
    lost: list[reseals.Sealed] = field(default_factory=list)


def reseal() -> None:
    """Seal every stored secret anew with the newest key.

    The newest is the first in ALERTWELL_SEALING_KEYS_FILE. Afterwards the older ones are of no use any more: remove them.
    """
    from service import parts, settings

    loaded = settings.load()
    sealer = parts.sealer(loaded)
    if sealer is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set: it names the file of keys, and the newest is the first in it"
        )
    tally = database.work(loaded, lambda opened: _rounds(opened, sealer))
    output.say(f"{tally.anew} sealed anew, {tally.newest} with the newest key already")
    for each in tally.lost:
        whose = f"{each.tenant_name} ({each.tenant_id}), {each.source or 'all sources'}"
        output.warn(
            f"{whose}: no key of the file opens its credential; set it again: alertwell tenants set-credential"
        )
    if tally.missed:
        output.warn(f"{tally.missed} changed while they were sealed: run it again")
    if tally.lost or tally.missed:
        raise typer.Exit(1)


async def _rounds(opened: pool.Database, sealer: sealing.Sealer) -> Tally:
    # What a replica has just renewed is found again in the next round, most likely under the newest key already.
    tally = await _round(opened, sealer)
    for _ in range(_ROUNDS - 1):
        if not tally.missed:
            break
        again = await _round(opened, sealer)
        again.newest -= tally.anew
        again.anew += tally.anew
        tally = again
    return tally


async def _round(opened: pool.Database, sealer: sealing.Sealer) -> Tally:
    from service.store import reseals

    tally = Tally()
    after = None
    while found := await reseals.batch(opened, after, limit=_BATCH):
        after = found[-1].place
        anew = []
        for each in found:
            try:
                sealed = sealer.resealed(each.sealed)
            except errors.BadSetting:
                tally.lost.append(each)
                continue
            if sealed is None:
                tally.newest += 1
            else:
                anew.append((each, sealed))
        if anew:
            done = await reseals.replace(opened, anew, actor=actors.person())
            tally.anew += done
            tally.missed += len(anew) - done
    return tally
