"""Tokens of an identity provider whose keys come from a URL: rotation, an outage, and what is never taken."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.access.tokens import KEYS_AGAIN_S, KEYS_FRESH_S, TokenVerifier
from gateway.api.app import build_app
from simulators.server import LocalServer
from tests.live.api_harness import START, Site, add_persons
from tests.live.http_harness import run, serving

pytestmark = pytest.mark.live
ISSUER, AUDIENCE = "https://id.example", "carebell"
OLD, NEW, FOREIGN = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3))


def public(kid: str, key: rsa.RSAPrivateKey) -> dict[str, Any]:
    return {**json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


class Provider:
    """The provider's endpoint. ``keys`` is what it tells, ``asked`` how often it was asked."""

    def __init__(self) -> None:
        self.keys = [public("old", OLD)]
        self.asked = 0
        self.answer: Response | None = None

    async def jwks(self, _request: Request) -> Response:
        self.asked += 1
        return self.answer or Response(json.dumps({"keys": self.keys}), media_type="application/json")


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[tuple[Provider, LocalServer]]:
    it = Provider()
    async with asyncio.TaskGroup() as group:
        server = LocalServer(Starlette(routes=[Route("/keys", it.jwks)]), group)
        await server.start()
        try:
            yield it, server
        finally:
            await server.stop()


def token(site: Site, key: Any = OLD, kid: str = "old", algorithm: str = "RS256", **changed: Any) -> str:
    now_s = site.clock.now_us() // 1_000_000
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "chen", "exp": now_s + 600, "iat": now_s, "roles": ["operator"]}
    return pyjwt.encode(told | changed, key, algorithm, headers={"kid": kid})


@contextlib.asynccontextmanager
async def gateway(folder: Path, keys_url: str) -> AsyncIterator[Site]:
    it = Site(folder)
    tokens = TokenVerifier(
        issuer=ISSUER, audience=AUDIENCE, keys_file="", keys_url=keys_url, role_claim="roles", clock=it.clock
    )
    services = dataclasses.replace(it.services, tokens=tokens)
    try:
        async with serving(build_app(services), on_drain=services.closing.set) as it.server:
            async with it.as_role("admin") as client:
                await add_persons(client, "P-1")
            yield it
    finally:
        it.store.connection.close()


async def status(site: Site, presented: str) -> int:
    async with site.client(presented) as client:
        answer = await client.get("/api/v1/persons/P-1")
        return answer.status_code


def test_keys_are_fetched_rotated_and_survive_an_outage(tmp_path: Path) -> None:
    async def main() -> None:
        async with provider() as (it, server), gateway(tmp_path, f"{server.url}/keys") as site:
            assert await status(site, token(site)) == 200
            assert await status(site, token(site)) == 200
            assert it.asked == 1  # once for all
            # A new key is looked for when a token names it, not with each token, however many come.
            it.keys.append(public("new", NEW))
            assert await status(site, token(site, NEW, "new")) == 401
            assert it.asked == 1
            site.clock.advance(KEYS_AGAIN_S + 1)
            assert await status(site, token(site, NEW, "new")) == 200
            assert it.asked == 2
            # The provider takes the old key back: within the time that keys are fresh.
            it.keys = [public("new", NEW)]
            assert await status(site, token(site)) == 200
            site.clock.advance(KEYS_FRESH_S + 1)
            assert await status(site, token(site)) == 401
            assert await status(site, token(site, NEW, "new")) == 200
            # It is away: the keys that are known stay in use.
            await server.stop()
            site.clock.advance(KEYS_FRESH_S + 1)
            assert await status(site, token(site, NEW, "new")) == 200
            await server.start()

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        Response("<html>", 200), Response("{}", 500), Response('{"keys": []}'),
        Response('{"keys": [{"kty": "oct", "k": "c2Vj"}]}'),
        RedirectResponse("https://evil.example/keys"), Response(b"x" * 2_000_000),
    ],
    ids=["no JSON", "a fault", "no keys", "a shared secret", "elsewhere", "endless"],
)  # fmt: skip
def test_a_provider_that_answers_nonsense_lets_nobody_in(tmp_path: Path, answer: Response) -> None:
    async def main() -> None:
        async with provider() as (it, server), gateway(tmp_path, f"{server.url}/keys") as site:
            it.answer = answer
            assert await status(site, token(site)) == 401
            it.answer = None
            site.clock.advance(KEYS_AGAIN_S + 1)
            assert await status(site, token(site)) == 200

    run(main())


def test_what_is_not_for_us_is_refused_and_keys_of_ours_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with provider() as (_it, server), gateway(tmp_path, f"{server.url}/keys") as site:
            now_s = int(START.timestamp())
            for presented in (
                token(site, iss="https://other.example"), token(site, aud="another"), token(site, exp=now_s - 60),
                token(site, nbf=now_s + 600), token(site, roles=["root"]), token(site, FOREIGN),
                token(site, "", algorithm="none"), token(site, "a" * 32, algorithm="HS256"),
                token(site, FOREIGN, kid="unknown"),
            ):  # fmt: skip
                assert await status(site, presented) == 401, pyjwt.decode(
                    presented, options={"verify_signature": False}
                )
            assert await status(site, token(site, roles=["auditor"])) == 403  # whose role may not
            assert await status(site, await site.key("operator")) == 200  # API keys need no provider

    run(main())


def test_a_provider_that_was_never_there_leaves_api_keys_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, "http://127.0.0.1:9/keys") as site:
            assert await status(site, token(site)) == 401
            assert await status(site, await site.key("operator")) == 200

    run(main())
