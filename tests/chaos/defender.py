"""The simulator's control surface, as the run speaks to it: faults in, truth out."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from service.simulator import sightings
from tests.chaos import scene

_decode = msgspec.json.Decoder(sightings.Sighting).decode


def settings(folder: Path) -> dict[str, str]:
    """What a collector is told, as the simulator wrote it."""
    lines = (folder / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


class Defender:
    """`async with Defender(folder)`: over TLS, trusting what the simulator issued for itself."""

    def __init__(self, folder: Path) -> None:
        self.settings = settings(folder)
        for name, value in self.settings.items():
            if name.endswith("_URL") and urlsplit(value).hostname != "localhost":
                raise RuntimeError(f"a run stays on this machine, and {name} is {value}")
        self._url = self.settings["ALERTWELL_AUTHORITY_URL"] + "/_sim/"
        self._trust = ssl.create_default_context(cafile=self.settings["ALERTWELL_CA_FILE"])

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust), timeout=aiohttp.ClientTimeout(total=120)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def _get(self, path: str, **query: str | None) -> bytes:
        asked = {name: value for name, value in query.items() if value is not None}
        async with self._session.get(self._url + path, params=asked) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._session.post(self._url + path, data=msgspec.json.encode(body)) as answer:
            said = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the simulator refuses {path}: {said[:300]!r}")
            return msgspec.json.decode(said, type=dict[str, Any])

    async def token(self, tenant_id: str, secret: str) -> str:
        """An access token of this tenant, as the app gets it."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.settings["ALERTWELL_CLIENT_ID"],
            "client_secret": secret,
            "scope": "https://graph.microsoft.com/.default",
        }
        url = f"{self.settings['ALERTWELL_AUTHORITY_URL']}/{tenant_id}/oauth2/v2.0/token"
        async with self._session.post(url, data=form) as answer:
            return str((await answer.json())["access_token"])

    async def counters(self) -> Mapping[str, int]:
        """What it answered, and which faults it made."""
        return msgspec.json.decode(await self._get("state"), type=dict[str, Any])["counters"]

    async def sightings(
        self, tenant_id: str, source: str, *, incidents: bool = False, at: int | None = None
    ) -> list[sightings.Sighting]:
        """What the source's API shows of the tenant, `at` in ticks (now); alerts, or incidents."""
        kind = "incidents" if incidents else None
        when = None if at is None else str(at)
        body = await self._get("sightings", tenant=tenant_id, api=scene.APIS[source], kind=kind, at=when)
        return [_decode(line) for line in body.splitlines()]

    async def truth(self, tenant_id: str, source: str, *, incidents: bool = False) -> dict[str, bytes]:
        """The newest version of each record by its id, as the source's API sends it."""
        kind = "incidents" if incidents else None
        body = await self._get("truth", tenant=tenant_id, api=scene.APIS[source], kind=kind, raw="1")
        lines = [msgspec.json.decode(line, type=dict[str, str]) for line in body.splitlines()]
        return {line["full_id"]: base64.b64decode(line["raw"]) for line in lines}

    async def plague(self, surface: str, tenant_id: str, fault: str, seconds: float) -> None:
        """Every answer of the surface for the tenant is this fault, for so long."""
        plan = {"surface": surface, "tenant": tenant_id, "times": None}
        await self._post("chaos", {"plan": [{**plan, "fault": fault}]})
        try:
            await asyncio.sleep(seconds)
        finally:
            await self._post("chaos", {"plan": [{**plan, "fault": None}]})

    async def burst(self, tenant_id: str, count: int, since: str, until: str) -> None:
        """So many detections more between two times (one instant where they are equal)."""
        await self._post("backlog", {"tenant": tenant_id, "count": count, "since": since, "until": until})

    async def clear(self) -> None:
        """No fault any more."""
        await self._post("chaos", {"clear": True, "api": {}, "token": {}})

    async def hold_still(self) -> str:
        """From now on nothing new is shown; the time of it."""
        return str((await self._post("still", {}))["now"])
