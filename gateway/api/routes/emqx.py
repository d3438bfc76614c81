"""What EMQX asks over HTTP: whether a client may connect, and to which topics it may write and listen."""

from __future__ import annotations

import hmac
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.api.answers import answer
from gateway.api.auth import services_of
from gateway.api.problems import documented, refuse

router = APIRouter(prefix="/emqx", tags=["emqx"])
_bearer = HTTPBearer(auto_error=False, description="the secret of `[emqx] secret_file`")
Text = Annotated[str, StringConstraints(max_length=1024)]


class Client(BaseModel):
    """Members that are not named here are left alone, so that a site's own template does no harm."""

    model_config = ConfigDict(extra="ignore")

    username: Text = ""
    password: Text = ""
    cert_common_name: Text = Field("", description="of a client certificate that EMQX has verified")


class Topic(BaseModel):
    model_config = ConfigDict(extra="ignore")

    username: Text = ""
    topic: Text = ""
    action: Text = ""


class AuthView(BaseModel):
    result: Literal["allow", "deny", "ignore"]
    is_superuser: bool = False


class AclView(BaseModel):
    result: Literal["allow", "deny", "ignore"]


async def _asked_by_emqx(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    secret = services_of(request).emqx_secret
    if not secret:
        raise refuse(404, "[emqx] secret_file is not configured")
    presented = "" if credentials is None else credentials.credentials
    if not hmac.compare_digest(presented.encode(), secret.encode()):
        raise refuse(401, "this needs EMQX's secret", {"www-authenticate": 'Bearer realm="emqx"'})


@router.post(
    "/auth", response_model=None, responses={200: {"model": AuthView}, **documented(401, 404)},
    dependencies=[Depends(_asked_by_emqx)],
)  # fmt: skip
async def auth(request: Request, body: Client) -> Response:
    """Whether a device may connect: user name = device id, password = its token, or a certificate's common name.

    ``ignore`` for a name that is no device: EMQX goes on to its next authenticator.
    """
    services = services_of(request)
    found = None
    if services.credentials is not None:
        if body.cert_common_name:
            found = await services.credentials.by_certificate(body.cert_common_name)
            if found is not None and body.username not in ("", found.device_id):
                found = None
        if found is None and body.username:
            found = await services.credentials.authenticate(body.username, body.password.encode())
    if found is not None:
        return answer({"result": "allow", "is_superuser": False})
    return answer({"result": "deny" if await _is_device(request, body.username) else "ignore", "is_superuser": False})


@router.post(
    "/acl", response_model=None, responses={200: {"model": AclView}, **documented(401, 404)},
    dependencies=[Depends(_asked_by_emqx)],
)  # fmt: skip
async def acl(request: Request, body: Topic) -> Response:
    """A device writes to ``carebell/<id>/up`` and listens to ``carebell/<id>/down``, and to nothing else."""
    if not await _is_device(request, body.username):
        return answer({"result": "ignore"})
    own = {"publish": f"carebell/{body.username}/up", "subscribe": f"carebell/{body.username}/down"}
    return answer({"result": "allow" if own.get(body.action) == body.topic else "deny"})


async def _is_device(request: Request, name: str) -> bool:
    if not name:
        return False
    found = await services_of(request).store.read(
        lambda c: c.execute("SELECT 1 FROM device WHERE id = ?", (name,)).fetchone()
    )
    return found is not None
