"""Accounts, second factors, sessions, lock-out and bearer tokens."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway import audit
from gateway.access import door, lockout, passwords, sessions, totp, users
from gateway.access.door import Door, LoginRefusedError
from gateway.access.sessions import Limits
from gateway.access.tokens import TokenVerifier
from gateway.clock import VirtualClock
from gateway.errors import ConfigError, ConflictError, NotFoundError, UsageError
from tests.live.api_harness import START, TESTER, FileStore

PASSWORD = "correct horse battery"
MINUTE_US = 60_000_000
LIMITS = Limits(idle_us=15 * MINUTE_US, watch_us=13 * 60 * MINUTE_US, absolute_us=13 * 60 * MINUTE_US)
ENCODED = passwords.hash_password(PASSWORD)


# ---- TOTP: appendix B of RFC 6238 ------------------------------------------------------------------------------------

SEEDS = {"sha1": b"12345678901234567890", "sha256": b"12345678901234567890123456789012",
         "sha512": b"1234567890123456789012345678901234567890123456789012345678901234"}  # fmt: skip
APPENDIX_B = [
    (59, "94287082", "46119246", "90693936"),
    (1_111_111_109, "07081804", "68084774", "25091201"),
    (1_111_111_111, "14050471", "67062674", "99943326"),
    (1_234_567_890, "89005924", "91819424", "93441116"),
    (2_000_000_000, "69279037", "90698825", "38618901"),
    (20_000_000_000, "65353130", "77737706", "47863826"),
]


@pytest.mark.parametrize(("at_s", "sha1", "sha256", "sha512"), APPENDIX_B)
def test_totp_gives_the_codes_of_rfc_6238(at_s: int, sha1: str, sha256: str, sha512: str) -> None:
    for algorithm, expected in (("sha1", sha1), ("sha256", sha256), ("sha512", sha512)):
        assert totp.code_at(SEEDS[algorithm], at_s // 30, digits=8, algorithm=algorithm) == expected


def test_a_code_counts_once_and_within_a_step_to_either_side() -> None:
    secret = base64.b32encode(SEEDS["sha1"]).decode()
    step = 1_111_111_111 // 30
    code = totp.code_at(SEEDS["sha1"], step)
    for drift_s, found in ((-60, None), (-30, step), (0, step), (30, step), (60, None)):
        assert totp.matching_step(secret, f" {code} ", step * 30 + drift_s, 0) == found
    assert totp.matching_step(secret, code, step * 30, step) is None


@given(st.text(max_size=20))
def test_nothing_else_is_a_code(text: str) -> None:
    secret = base64.b32encode(SEEDS["sha1"]).decode()
    valid = {totp.code_at(SEEDS["sha1"], step) for step in (999, 1000, 1001)}
    assert (totp.matching_step(secret, text, 30_000, 0) is None) == (text.strip() not in valid)


# ---- accounts --------------------------------------------------------------------------------------------------------


class Site:
    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.clock = VirtualClock(START)
        self.door = Door(self.store, self.clock, LIMITS)

    async def add(self, login: str, role: str, *, ready: bool = True) -> str:
        view = await self.store.write(
            lambda c: users.add_user(
                c, login, name="", role=role, password_hash=ENCODED, at_us=self.clock.now_us(), actor=TESTER
            )
        )
        if ready:
            await self.store.write(lambda c: c.execute("UPDATE user_account SET must_change = 0"))
        return str(view["user_id"])

    def code(self, secret: str) -> str:
        return totp.code_at(base64.b32decode(secret), self.clock.now_us() // 30_000_000)


def story(tmp_path: Path, tell: Callable[[Site], Any]) -> None:
    site = Site(tmp_path)
    try:
        asyncio.run(tell(site))
    finally:
        site.store.connection.close()


def test_an_account_is_added_disabled_reset_and_never_has_a_default_password(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        user_id = await site.add("Chen", "operator")
        session = await site.door.sign_in(" CHEN ", PASSWORD, "10.0.0.1")
        assert (session.user.id, session.step) == (user_id, "code")
        now_us = site.clock.now_us()
        await site.store.write(
            lambda c: users.set_disabled(c, "chen", disabled=True, at_us=now_us, actor=TESTER)
        )  # fmt: skip
        assert await site.door.session(session.token) is None
        with pytest.raises(LoginRefusedError):
            await site.door.sign_in("chen", PASSWORD, "10.0.0.1")
        with pytest.raises(ConflictError):
            await site.store.write(lambda c: users.set_disabled(c, "chen", disabled=True, at_us=now_us, actor=TESTER))
        for wrong in ("x", "has space", "-a", "a" * 41):
            with pytest.raises(UsageError):
                await site.add(wrong, "operator")
        for role in ("backend", "family", "root"):
            with pytest.raises(UsageError):
                await site.add("other", role)
        with pytest.raises(ConflictError):
            await site.add("chen", "operator")
        with pytest.raises(NotFoundError):
            await site.store.read(lambda c: users.by_login(c, "nobody"))
        assert len({passwords.new_password() for _ in range(20)}) == 20
        assert await site.store.read(lambda c: list(audit.verify(c))) == []

    story(tmp_path, tell)


def test_an_operator_needs_a_second_factor_and_a_password_of_their_own(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("chen", "operator", ready=False)
        session = await site.door.sign_in("chen", PASSWORD, "10.0.0.1")
        assert session.step == "code"
        secret, uri = await site.door.enrol(session)
        assert (await site.door.enrol(session))[0] == secret  # a reload shows the same one
        assert uri.startswith("otpauth://totp/carebell:chen?secret=")
        with pytest.raises(LoginRefusedError):
            await site.door.present_code(session, "000000", "10.0.0.1")
        code = site.code(secret)
        session = await site.door.present_code(session, code, "10.0.0.1")
        assert session.step == "password"
        with pytest.raises(UsageError):
            await site.door.change_password(session, PASSWORD, "chen-chen-chen-1", "10.0.0.1")
        session = await site.door.change_password(session, PASSWORD, "another long password", "10.0.0.1")
        assert session.step == "in"
        again = await site.door.sign_in("chen", "another long password", "10.0.0.1")
        with pytest.raises(LoginRefusedError):
            await site.door.present_code(again, code, "10.0.0.1")  # the same code a second time
        site.clock.advance(30)
        again = await site.door.present_code(again, site.code(secret), "10.0.0.1")
        assert again.step == "in"

    story(tmp_path, tell)


def test_five_wrong_passwords_lock_the_account_longer_each_time(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("audit", "auditor")
        for _ in range(lockout.TRIES):
            with pytest.raises(LoginRefusedError) as wrong:
                await site.door.sign_in("audit", "wrong", "10.0.0.1")
            assert wrong.value.retry_after_s == 0
        with pytest.raises(LoginRefusedError) as locked:
            await site.door.sign_in("audit", PASSWORD, "10.0.0.2")  # the right one, from elsewhere
        assert locked.value.retry_after_s == 60
        site.clock.advance(61)
        with pytest.raises(LoginRefusedError):
            await site.door.sign_in("audit", "wrong", "10.0.0.1")
        with pytest.raises(LoginRefusedError) as longer:
            await site.door.sign_in("audit", PASSWORD, "10.0.0.1")
        assert longer.value.retry_after_s == 120
        site.clock.advance(121)
        assert (await site.door.sign_in("audit", PASSWORD, "10.0.0.1")).step == "in"
        assert (await site.store.read(lambda c: users.by_login(c, "audit"))).failures == 0
        rows = await site.store.read(lambda c: c.execute("SELECT action FROM audit").fetchall())
        assert [row[0] for row in rows].count("user.locked") == 2

    story(tmp_path, tell)


@given(st.lists(st.integers(0, 40 * MINUTE_US), min_size=5, max_size=30))
def test_a_lock_only_grows_and_never_passes_an_hour(gaps_us: list[int]) -> None:
    failures, failed_us, now_us, locks = 0, 0, 10**15, []
    for gap_us in gaps_us:
        now_us += gap_us
        failures, until_us = lockout.after_failure(failures, failed_us, now_us)
        failed_us = now_us
        if until_us:
            locks.append(until_us - now_us)
    assert locks == sorted(locks)
    assert all(lockout.FIRST_LOCK_US <= lock <= lockout.LONGEST_LOCK_US for lock in locks)


def test_an_address_that_guesses_logins_has_to_wait_and_memory_is_bounded() -> None:
    addresses = lockout.Addresses()
    for number in range(lockout.ADDRESS_TRIES):
        assert addresses.locked_until_us("10.0.0.1", number) == 0
        addresses.failed("10.0.0.1", number)
    assert addresses.locked_until_us("10.0.0.1", 100) > 100
    assert addresses.locked_until_us("10.0.0.2", 100) == 0
    for number in range(lockout.ADDRESSES + 10):
        addresses.failed(str(number), 200)
    assert len(addresses._failures) == lockout.ADDRESSES


def test_a_cut_network_signs_nobody_out(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("audit", "auditor")
        token = (await site.door.sign_in("audit", PASSWORD, "")).token
        for _ in range(60):  # an hour before a screen, without a key
            site.clock.advance(60)
            assert token in await site.door.watched([token])
        site.clock.advance(14 * 60)  # a router, a gateway or a machine starts again
        assert token in await site.door.watched([token])
        site.clock.advance(15 * 60)  # the screen was left
        assert await site.door.session(token, active=False) is None

    story(tmp_path, tell)


def test_sessions_end_when_idle_but_not_under_a_watched_screen_and_always_after_a_shift(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("audit", "auditor")
        idle = (await site.door.sign_in("audit", PASSWORD, "")).token
        watched = (await site.door.sign_in("audit", PASSWORD, "")).token
        for _ in range(10):
            site.clock.advance(120)
            assert watched in await site.door.watched([watched])
        assert await site.door.session(idle) is None  # 20 minutes without a request
        assert await site.door.session(watched) is not None
        for _ in range((13 * 60 - 22) // 2):
            site.clock.advance(120)
            await site.door.watched([watched])
        assert await site.door.session(watched) is not None
        site.clock.advance(121)
        assert await site.door.watched([watched]) == {}
        assert await site.door.session("no such token") is None
        rows: list[Any] = await site.store.read(lambda c: c.execute("SELECT digest FROM session").fetchall())
        assert watched.encode() not in b"".join(bytes(row[0]) for row in rows)  # only digests are kept

    story(tmp_path, tell)


def test_a_csrf_token_is_of_one_session(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("audit", "auditor")
        mine = await site.door.sign_in("audit", PASSWORD, "")
        other = await site.door.sign_in("audit", PASSWORD, "")
        assert door.is_csrf(mine, mine.csrf)
        assert not door.is_csrf(mine, other.csrf)
        assert not door.is_csrf(mine, "")
        assert not door.is_csrf(mine, "\ud800")
        assert mine.token not in mine.csrf

    story(tmp_path, tell)


def test_unknown_logins_and_wrong_passwords_take_the_same_work() -> None:
    assert not passwords.fits(None, PASSWORD)
    assert passwords.fits(ENCODED, PASSWORD)
    assert not passwords.fits(ENCODED, PASSWORD + " ")
    assert passwords._NOBODY.split("$")[1:4] == ENCODED.split("$")[1:4]


def test_the_sweep_deletes_what_is_over(tmp_path: Path) -> None:
    async def tell(site: Site) -> None:
        await site.add("audit", "auditor")
        await site.door.sign_in("audit", PASSWORD, "")
        site.clock.advance(14 * 3600)
        await site.store.write(lambda c: sessions.sweep(c, site.clock.now_us(), LIMITS))
        assert await site.store.read(lambda c: c.execute("SELECT count(*) FROM session").fetchone()) == (0,)

    story(tmp_path, tell)


# ---- tokens: made by PyJWT, read by ours -----------------------------------------------------------------------------

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://id.example", "carebell"


def jwks(folder: Path) -> str:
    keys = [
        {**json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())), "kid": "r1", "use": "sig"},
        {**json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(EC.public_key())), "kid": "e1", "use": "sig"},
    ]
    file = folder / "jwks.json"
    file.write_text(json.dumps({"keys": keys}))
    return str(file)


def claims(**changed: Any) -> dict[str, Any]:
    now_s = int(START.timestamp())
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "chen", "exp": now_s + 600, "iat": now_s, "roles": ["operator"]}
    return {name: value for name, value in (told | changed).items() if value is not None}


def verifier(folder: Path) -> TokenVerifier:
    return TokenVerifier(
        issuer=ISSUER, audience=AUDIENCE, keys_file=jwks(folder), keys_url="", role_claim="roles",
        clock=VirtualClock(START),
    )  # fmt: skip


def test_tokens_of_the_provider_are_taken(tmp_path: Path) -> None:
    mine = verifier(tmp_path)
    for key, kid, algorithm in ((RSA, "r1", "RS256"), (RSA, "r1", "PS256"), (EC, "e1", "ES256")):
        token = pyjwt.encode(claims(district="和平区"), key, algorithm, headers={"kid": kid})
        found = asyncio.run(mine.verify(token))
        assert found is not None
        assert (found.role, found.district) == ("operator", "和平区")
        assert found.subject.startswith("oidc-")
        assert "chen" not in found.subject


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://other.example"}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"sub": ""}, {"sub": None},
        {"exp": int(START.timestamp()) - 31}, {"exp": None}, {"exp": int(START.timestamp()) + 86_400},
        {"nbf": int(START.timestamp()) + 120}, {"iat": int(START.timestamp()) + 120}, {"roles": []}, {"roles": None},
        {"roles": ["root"]}, {"roles": ["operator", "admin"]}, {"exp": "soon"}, {"exp": True}, {"district": 7},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_are_not_for_us_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    token = _encode(claims(**changed))
    assert asyncio.run(verifier(tmp_path).verify(token)) is None


def _encode(told: dict[str, Any]) -> str:
    """By hand: PyJWT itself refuses to write some of these."""
    jws = pyjwt.api_jws.PyJWS()
    return jws.encode(json.dumps(told).encode(), RSA, "RS256", {"kid": "r1"})


def _hmac(told: dict[str, Any], secret: bytes) -> str:
    parts = ({"alg": "HS256", "kid": "r1"}, told)
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    signature = hmac.digest(secret, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_forged_tokens_are_refused(tmp_path: Path) -> None:
    mine = verifier(tmp_path)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = pyjwt.encode(claims(), RSA, "RS256", headers={"kid": "r1"})
    head, body, signature = good.split(".")
    admin = base64.urlsafe_b64encode(json.dumps(claims(roles=["admin"])).encode()).rstrip(b"=").decode()
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = [
        pyjwt.encode(claims(), stranger, "RS256", headers={"kid": "r1"}),
        pyjwt.encode(claims(), "", "none"),
        _hmac(claims(), public),  # the public key taken for a shared secret
        f"{head}.{admin}.{signature}", f"{head}.{body}.", f"{head}..{signature}", "..", "a.b.c", good + "x" * 9000,
    ]  # fmt: skip
    for token in forged:
        assert asyncio.run(mine.verify(token)) is None, token[:60]
    assert asyncio.run(mine.verify(good)) is not None


@given(st.text(max_size=60))
def test_no_text_is_a_token(text: str) -> None:
    assert asyncio.run(_SHARED.verify(text)) is None
    assert asyncio.run(_SHARED.verify(f"{text}.{text}.{text}")) is None


_SHARED = TokenVerifier(
    issuer=ISSUER, audience=AUDIENCE, keys_file="", keys_url="http://127.0.0.1:9/jwks", role_claim="roles",
    clock=VirtualClock(START),
)  # fmt: skip
_SHARED._asked_s = time.monotonic() + 1e12  # asks nobody


def test_a_wrong_key_file_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    for content in ("", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '{"keys": [7]}'):
        file.write_text(content)
        with pytest.raises(ConfigError):
            TokenVerifier(
                issuer=ISSUER, audience=AUDIENCE, keys_file=str(file), keys_url="", role_claim="roles",
                clock=VirtualClock(START),
            )  # fmt: skip
