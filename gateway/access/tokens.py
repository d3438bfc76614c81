"""Bearer tokens of an identity provider: JWT (RFC 7519) checked against its keys (RFC 7517). OpenID Connect fits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec import Struct

from gateway.clock import US_PER_S, Clock
from gateway.errors import ConfigError
from gateway.security import ROLES

ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures with public keys alone: ``none`` and shared secrets are never accepted (RFC 8725, 3.1)."""
LEEWAY_S: Final = 30
MAX_LIFE_S: Final = 3600
"""A token that lives longer is refused: it cannot be taken back."""
KEYS_FRESH_S: Final = 600.0
KEYS_AGAIN_S: Final = 30.0
FETCH_S: Final = 5.0
MAX_TOKEN: Final = 8192
MAX_KEYS: Final = 1_048_576

log = structlog.get_logger("access")


class Claims(Struct, frozen=True):
    """Whose request it is. ``subject`` is a hash of issuer and ``sub``: a ``sub`` may be a name or an address."""

    subject: str
    role: str
    district: str
    person_id: str
    expires_at_us: int


class TokenVerifier:
    """``keys`` is the file or URL of a JWK set. ``role_claim`` names the claim that holds one of carebell's roles, or
    a list with one of them; claims ``district`` and ``person_id`` narrow what the token sees.
    """

    def __init__(
        self, *, issuer: str, audience: str, keys_file: str, keys_url: str, role_claim: str, clock: Clock
    ) -> None:
        if bool(keys_file) == bool(keys_url):
            raise ConfigError("access: an issuer needs either jwks_file or jwks_url")
        if not audience:
            raise ConfigError("access.audience: an issuer needs the audience that its tokens for carebell name")
        self._issuer, self._audience, self._role_claim = issuer, audience, role_claim
        self._keys_file, self._keys_url = keys_file, keys_url
        self._clock = clock
        self._keys: Any = None
        self._asked_s = float("-inf")
        self._lock = asyncio.Lock()
        if keys_file:
            self._keys = _read(keys_file)

    async def verify(self, token: str) -> Claims | None:
        """What a valid token claims; None for everything else."""
        if len(token) > MAX_TOKEN or token.count(".") != 2:
            return None
        claims = await self._claims(token)
        return None if claims is None else self._judge(claims)

    async def _claims(self, token: str) -> Mapping[str, Any] | None:
        from joserfc import jwt  # noqa: PLC0415 - only where tokens are configured
        from joserfc.errors import JoseError  # noqa: PLC0415 - as above

        if self._keys_url and self._clock.monotonic_s() - self._asked_s > KEYS_FRESH_S:
            await self._fetch()
        for again in (False, True):
            if again and not await self._look_again():
                return None
            if self._keys is None:
                continue
            try:
                return dict(jwt.decode(token, self._keys, algorithms=list(ALGORITHMS)).claims)
            except (JoseError, ValueError, TypeError, KeyError):
                continue  # perhaps of a key that is newer than ours
        return None

    def _judge(self, claims: Mapping[str, Any]) -> Claims | None:
        now_s = self._clock.now_us() / US_PER_S
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        expires: Any = claims.get("exp")
        issued, begins = claims.get("iat", now_s), claims.get("nbf", now_s)
        subject = claims.get("sub")
        times = (expires, issued, begins)
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in times):
            return None
        if (
            claims.get("iss") != self._issuer
            or self._audience not in audiences
            or not isinstance(subject, str)
            or not subject
            or not now_s - LEEWAY_S < expires
            or max(issued, begins) > now_s + LEEWAY_S
            or expires - now_s > MAX_LIFE_S + LEEWAY_S
        ):
            return None
        told = claims.get(self._role_claim)
        roles = {each for each in (told if isinstance(told, list) else [told]) if isinstance(each, str)} & ROLES
        district, person_id = claims.get("district", ""), claims.get("person_id", "")
        if len(roles) != 1 or not isinstance(district, str) or not isinstance(person_id, str):
            return None  # two of our roles at once: which one is meant, nobody can know
        digest = hashlib.sha256(f"{self._issuer}\n{subject}".encode()).hexdigest()[:16]
        return Claims(f"oidc-{digest}", roles.pop(), district, person_id, round(expires * US_PER_S))

    async def _look_again(self) -> bool:
        """Fetch the keys for an unknown one, at most every ``KEYS_AGAIN_S``; whether it was done."""
        if not self._keys_url or self._clock.monotonic_s() - self._asked_s < KEYS_AGAIN_S:
            return False
        return await self._fetch()

    async def _fetch(self) -> bool:
        import httpx2  # noqa: PLC0415 - only where keys come from a URL

        async with self._lock:
            if self._clock.monotonic_s() - self._asked_s < KEYS_AGAIN_S:
                return True
            self._asked_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(FETCH_S), httpx2.AsyncClient(follow_redirects=False) as client:
                    self._keys = _parse(await _bounded(client, self._keys_url))
            except (TimeoutError, httpx2.HTTPError, ValueError) as error:
                log.warning("jwks_not_fetched", error=type(error).__name__)  # the keys that are known stay in use
                return False
            return True


async def _bounded(client: Any, url: str) -> bytes:
    """The answer of status 200. Raises ValueError for another one, and for more than MAX_KEYS bytes."""
    content = bytearray()
    async with client.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > MAX_KEYS:
                raise ValueError("a key set is not so long")
    return bytes(content)


def _read(file: str) -> Any:
    try:
        return _parse(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"access.jwks_file: {file}: {error}") from error


def _parse(content: bytes) -> Any:
    """A JWK set of public keys. Raises ValueError."""
    import msgspec  # noqa: PLC0415 - only where tokens are configured
    from joserfc.errors import JoseError  # noqa: PLC0415 - as above
    from joserfc.jwk import KeySet  # noqa: PLC0415 - as above

    try:
        decoded: Any = msgspec.json.decode(content)
        usable = [key for key in decoded["keys"] if key.get("kty") in ("RSA", "EC", "OKP") and key.get("use") != "enc"]
        if not usable:
            raise ValueError("there is no public signing key in it")
        return KeySet.import_key_set({"keys": usable})
    except (msgspec.DecodeError, JoseError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no JWK set ({type(error).__name__})") from error
