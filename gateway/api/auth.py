"""Who asks, and what that role may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import apsw
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.api.problems import refuse
from gateway.api.services import Services, Shared
from gateway.errors import NotFoundError
from gateway.model import Actor
from gateway.registry.keys import ApiKey

_EVERYBODY_INSIDE: Final = frozenset({"admin", "operator", "supervisor"})

MAY: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # An administrator of a small site is often its only user, so the role reads what operators read.
        "persons.read": _EVERYBODY_INSIDE | {"backend", "family"},
        "persons.write": frozenset({"admin", "supervisor"}),
        "contacts.read": _EVERYBODY_INSIDE | {"backend", "family"},
        "contacts.write": frozenset({"admin", "supervisor"}),
        "devices.read": _EVERYBODY_INSIDE | {"backend", "installer"},
        "devices.write": frozenset({"admin", "installer"}),
        "devices.command": _EVERYBODY_INSIDE | {"backend", "installer"},
        "profiles.read": _EVERYBODY_INSIDE | {"backend", "installer"},
        "observations.read": _EVERYBODY_INSIDE | {"backend", "family"},
        "alerts.read": _EVERYBODY_INSIDE | {"backend", "family", "auditor"},
        "alerts.act": _EVERYBODY_INSIDE,
        "alerts.present": _EVERYBODY_INSIDE | {"backend"},
        "alerts.family": frozenset({"family"}),
        "alerts.note": _EVERYBODY_INSIDE | {"family"},
        "suppressions.read": _EVERYBODY_INSIDE | {"backend", "installer", "auditor"},
        "suppressions.write": frozenset({"admin", "supervisor", "installer"}),
        "orders.read": _EVERYBODY_INSIDE | {"backend", "auditor"},
        "orders.callback": frozenset({"admin", "backend"}),
        "orders.checkin": _EVERYBODY_INSIDE | {"backend"},  # and a device, by its own token
        "care.read": _EVERYBODY_INSIDE | {"backend", "family"},
        "care.write": frozenset({"admin", "supervisor"}),
        "care.act": _EVERYBODY_INSIDE,
        "events.read": _EVERYBODY_INSIDE | {"backend", "family"},
        "outbox.read": _EVERYBODY_INSIDE | {"auditor"},
        "outbox.act": frozenset({"admin", "supervisor"}),
        "calls.read": _EVERYBODY_INSIDE | {"auditor"},  # operators see masked numbers
        "audit.read": frozenset({"admin", "auditor"}),
        "keys.write": frozenset({"admin"}),
        "status.read": _EVERYBODY_INSIDE | {"backend", "installer", "auditor"},
    }
)
"""Permission to roles. Rows are limited further by a key's district and person (``visible_persons``)."""


def actor_of(principal: ApiKey) -> Actor:
    """Who did it, for the audit."""
    kind = "platform" if principal.role == "backend" else "operator"
    return Actor(kind, principal.key_id, principal.role, "api")


bearer = HTTPBearer(auto_error=False, description="an API key, `carebell_<id>_<secret>`, or a JWT")


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def shared_of(request: Request) -> Shared:
    """As ``services_of``, where there may be no more than that (gateway.faces)."""
    shared: Shared = request.app.state.services
    return shared


async def principal_of(services: Shared, presented: str) -> ApiKey | None:
    """Whose key or token this is, None when it is not in force."""
    if presented.count(".") == 2:  # an API key has no dots
        claims = None if services.tokens is None else await services.tokens.verify(presented)
        if claims is None or (claims.role == "family") != bool(claims.person_id):
            return None
        return ApiKey(claims.subject, claims.role, b"", claims.district, claims.person_id, claims.expires_at_us)
    return await services.keys.api_key(presented)


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> ApiKey:
    """The principal of the request; 401 without a valid key."""
    services = shared_of(request)
    principal = None
    if credentials is not None:
        principal = await principal_of(services, credentials.credentials)
    if principal is None:
        raise refuse(
            401,
            "this needs the header 'Authorization: Bearer carebell_<id>_<secret>', a key or token that is valid now",
            {"www-authenticate": 'Bearer realm="carebell"'},
        )
    request.scope["carebell.bearer"] = credentials.credentials if credentials else ""  # event streams ask again
    request.scope["carebell.key_id"] = principal.key_id  # for the access log
    return principal


def may(permission: str) -> Callable[..., Awaitable[ApiKey]]:
    """A dependency: the principal, if its role has this permission; else 403."""
    roles = MAY[permission]

    async def check(principal: Annotated[ApiKey, Depends(authenticated)]) -> ApiKey:
        if principal.role not in roles:
            raise refuse(403, f"the role {principal.role} may not do this ({permission}: {', '.join(sorted(roles))})")
        return principal

    return check


async def visible_persons(services: Shared, principal: ApiKey) -> frozenset[str] | None:
    """Ids of the persons that the principal sees; None for all."""
    if principal.person_id:
        return frozenset({principal.person_id})
    if principal.role == "family":
        return frozenset()  # a family key that names nobody
    if not principal.district:
        return None
    district = principal.district

    def read(connection: apsw.Connection) -> frozenset[str]:
        rows = connection.execute("SELECT id FROM person WHERE district = ?", (district,))
        return frozenset(str(person_id) for (person_id,) in rows)

    return await services.store.read(read)


async def require_person(services: Shared, principal: ApiKey, person_id: str) -> None:
    """Raises NotFoundError for a person that the principal does not see, as for one that does not exist."""
    visible = await visible_persons(services, principal)
    if visible is not None and person_id not in visible:
        raise NotFoundError(f"no person {person_id!r}")


async def require_owner(services: Shared, principal: ApiKey, body: Mapping[str, Any]) -> None:
    """As ``require_person``, of the person that a body names, if it names one."""
    person_id = body.get("person_id")
    if isinstance(person_id, str) and person_id:
        await require_person(services, principal, person_id)


def sees(visible: frozenset[str] | None, person_id: str | None, principal: ApiKey) -> bool:
    """Whether something of this person is shown. What belongs to nobody yet is shown to staff, not to families."""
    if visible is None:
        return True
    if not person_id:
        return principal.role != "family" and not principal.person_id
    return person_id in visible
