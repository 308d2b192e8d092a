"""The managed identity endpoint of the machine or container that a collector runs on: plain http on loopback, as in
reality.

    GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=R[&client_id=C]   header Metadata: true
    GET /msi/token?api-version=2019-08-01&resource=R[&client_id=C]                        header X-IDENTITY-HEADER

The first is that of virtual machines (IMDS), the second that of App Service. Tokens are Entra's, of version 2.0, for the
resource as it was asked for; one for api://AzureADTokenExchange proves an app that has a federated credential with the
identity's issuer, its object id as subject and that audience. An answer's numbers are texts.

Choices where the documents are silent: a request without the header that the endpoint wants is 400 (IMDS, also with
X-Forwarded-For) or 401 (App Service); no api-version or resource, and an identity that the machine does not have: 400.
"""

from __future__ import annotations

import secrets
import types
from collections.abc import Iterable
from typing import Self

from aiohttp import web

from service.simulator import answers, directory, ticks, tokens, world

LIFETIME = 86_400
_IMDS = "/metadata/identity/oauth2/token"
_APP_SERVICE = "/msi/token"


class Endpoint:
    """The endpoint with a machine's identities, while the context is open.

    signer: of the simulator whose Entra is to accept the tokens. requests: how many came. down: answers 500 from now
    on. Raises OSError where it cannot listen.
    """

    def __init__(
        self,
        shown: world.World,
        signer: tokens.Signer,
        identities: Iterable[directory.ManagedIdentity],
        *,
        port: int = 0,
    ) -> None:
        self._world = shown
        self._signer = signer
        self._identities = tuple(identities)
        self.port = port
        self.header = secrets.token_hex(16)
        self.requests = 0
        self.down = False

    @property
    def url(self) -> str:
        """What stands for http://169.254.169.254 (AZURE_POD_IDENTITY_AUTHORITY_HOST)."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def app_service(self) -> dict[str, str]:
        """The environment of a container in App Service."""
        return {"IDENTITY_ENDPOINT": self.url + _APP_SERVICE, "IDENTITY_HEADER": self.header}

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        try:
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        answer = self._answer(request)
        return web.Response(status=answer.status, headers=answer.headers, body=b"".join(answer.chunks))

    def _answer(self, request: web.BaseRequest) -> answers.Answer:
        if request.method != "GET" or request.path not in (_IMDS, _APP_SERVICE):
            return answers.Answer(404)
        virtual_machine = request.path == _IMDS
        if self.down:
            return _refused(
                500, "unknown_error", "Failed to retrieve token.", virtual_machine=virtual_machine
            )
        if virtual_machine:
            forwarded = "X-Forwarded-For" in request.headers
            if request.headers.get("Metadata", "").lower() != "true" or forwarded:
                return _refused(400, "invalid_request", "Required metadata header not specified")
        elif not secrets.compare_digest(
            request.headers.get("X-IDENTITY-HEADER", "").encode(), self.header.encode()
        ):
            return _refused(401, "Unauthorized", "The identity header is wrong.", virtual_machine=False)
        resource = request.query.get("resource", "")
        for name in ("api-version", "resource"):
            if not request.query.get(name):
                return _refused(
                    400,
                    "invalid_request",
                    f"Required query variable '{name}' is missing",
                    virtual_machine=virtual_machine,
                )
        identity = self._identity(request.query.get("client_id"))
        if identity is None:
            return _refused(400, "invalid_request", "Identity not found", virtual_machine=virtual_machine)
        now = self._world.clock()
        token = self._signer.sign(
            tenant_id=identity.tenant_id,
            audience=resource,
            app_id=identity.client_id,
            roles=(),
            now=now,
            lifetime=LIFETIME,
            version="2.0",
            proof="2",
            object_id=identity.object_id,
        )
        return answers.json(
            {
                "access_token": token,
                "client_id": identity.client_id,
                "expires_in": str(LIFETIME),
                "expires_on": str(now // ticks.SECOND + LIFETIME),
                "not_before": str(now // ticks.SECOND),
                "resource": resource,
                "token_type": "Bearer",
            }
        )

    def _identity(self, client_id: str | None) -> directory.ManagedIdentity | None:
        for identity in self._identities:
            if identity.system if client_id is None else identity.client_id == client_id.lower():
                return identity
        return None


def _refused(status: int, error: str, text: str, *, virtual_machine: bool = True) -> answers.Answer:
    """The two endpoints word their errors differently."""
    if virtual_machine:
        return answers.json({"error": error, "error_description": text}, status)
    return answers.json({"statusCode": status, "message": text}, status)
