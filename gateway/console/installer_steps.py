"""The installer's page of one device: person, place, contacts, test press, agreement, label; replace and retire."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import apsw
import msgspec
from starlette.responses import RedirectResponse, Response

from gateway.clock import from_us, iso
from gateway.console.installer_frame import ROOT, Handler, Stay
from gateway.datum import to_wgs84
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.provisioning import claims, people, visits
from gateway.provisioning.codes import label_svg, read_code
from gateway.provisioning.swap import swap
from gateway.registry import place_sheet
from gateway.registry.contacts import list_contacts
from gateway.registry.devices import keys_of, set_state, update_device
from gateway.registry.places import list_places
from gateway.security import mask_name, mask_phone

TEST_MINUTES: Final = 10
MINUTE_US: Final = 60_000_000
DEFAULT_RADIUS_M: Final = 50
CERTIFICATES: Final = {
    "medical_registration": ("医疗器械注册证", "medical registration"),
    "srrc": ("无线电型号核准 SRRC", "SRRC"),
    "ccc": ("CCC 认证", "CCC"),
    "network_access": ("进网许可", "network access license"),
}


# ---- looking ---------------------------------------------------------------------------------------------------------


async def device(stay: Stay) -> Response:
    """Everything about the device on one page, and what is still open."""
    query = stay.request.query_params.get("q", "")[:64]
    facts = await stay.services.store.read(lambda c: _facts(c, stay, query))
    profile = stay.services.profiles.show(facts["row"]["profile"]) or {}
    certificates = profile.get("certificates") or {}
    heard = stay.outdoors.recent.of(stay.device_id)
    place = facts["home"] or heard["position"]
    return await stay.page(
        "installer/device.html",
        **facts,
        device_id=stay.device_id,
        query=query,
        profile=profile,
        missing=[name for key, name in CERTIFICATES.items() if not certificates.get(key)],
        manual=_web((profile.get("links") or {}).get("manual", "")),
        heard=heard,
        start=place,
        radius_m=(facts["home"] or {}).get("radius_m") or DEFAULT_RADIUS_M,
        has_outline=bool(stay.outdoors.outline),
        test=_test_view(facts["visit"], facts["alert"], stay.now_us),
        open=_open(facts),
    )


def _facts(connection: apsw.Connection, stay: Stay, query: str) -> dict[str, Any]:
    """What the page shows, masked. Raises as ``people.openable``."""
    row = people.openable(connection, stay.installer, stay.device_id)
    person_id, district = row["person_id"], stay.installer.district
    home = None
    contacts: list[dict[str, Any]] = []
    if person_id is not None:
        contacts = [
            {
                "name": mask_name(each["name"]),
                "phone": mask_phone(each["phone"]),
                "relation": each["relation"] or "",
                "channels": "、".join(each["channels"]),
            }
            for each in list_contacts(connection, person_id=person_id)
        ]
        home = next((place_sheet.show_line(connection, name) for name in _homes(connection, person_id)), None)
    visit = visits.current(connection, stay.device_id, stay.installer.link_id)
    return {
        "row": row,
        "serial": keys_of(connection, stay.device_id).get("serial", ""),
        "person": None if person_id is None else people.person_of(connection, person_id, district),
        "found": people.search(connection, query, district) if query else [],
        "home": home,
        "contacts": contacts,
        "visit": visit,
        "alert": None if visit is None else visits.test_alert(connection, visit),
        "signed": _has_agreement(connection, row),
    }


def _has_agreement(connection: apsw.Connection, row: Mapping[str, Any]) -> bool:
    if row["agreement_ref"] or row["agreement_waiver"]:
        return True
    found = connection.execute("SELECT agreement_ref FROM person WHERE id = ?", (row["person_id"],)).fetchone()
    return found is not None and bool(found[0])


def _homes(connection: apsw.Connection, person_id: str) -> list[str]:
    return [each["place_id"] for each in list_places(connection, person_id=person_id) if each["kind"] == "home"]


def _open(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is not done yet, in plain words."""
    visit = facts["visit"] or {}
    steps = (
        (facts["person"], "未绑定老人", "nobody is bound"),
        (facts["home"], "未设置家的位置", "no home on the map"),
        (facts["contacts"], "没有紧急联系人", "no contacts"),
        (visit.get("contacts_checked_at_us"), "联系人未核对", "contacts not checked"),
        (visit.get("test_passed_at_us"), "未完成测试按键", "no test press"),
        (facts["signed"], "没有服务协议", "no agreement"),
    )
    return [(chinese, english) for done, chinese, english in steps if not done]


def _web(url: str) -> str:
    """An address that may stand in a link: a profile of the site's own could say anything."""
    return url if url.startswith(("https://", "http://")) else ""


def _test_view(visit: Mapping[str, Any] | None, alert: Mapping[str, Any] | None, now_us: int) -> dict[str, Any]:
    """``state``: none, waiting, passed or over. ``took_ms``: from the frame's arrival to the alert."""
    if visit is None or visit["test_begun_at_us"] is None:
        return {"state": "none"}
    running = visit["test_until_us"] > now_us
    if alert is not None or visit["test_passed_at_us"] is not None:
        shown = {"state": "passed", "running": running}
        if alert is not None:
            took_us = max(0, alert["raised_at_us"] - alert["received_at_us"])
            shown |= {"kind": alert["kind"], "at": iso(alert["received_at_us"]), "took_ms": took_us // 1000}
        return shown
    return {"state": "waiting" if running else "over", "until": iso(visit["test_until_us"])}


async def live(stay: Stay) -> Response:
    """JSON for the page's script, asked every two seconds: frames, battery, signal, and the test press."""
    installer, now_us = stay.installer, stay.now_us

    def look(connection: apsw.Connection) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        people.openable(connection, installer, stay.device_id)
        visit = visits.current(connection, stay.device_id, installer.link_id)
        return visit, None if visit is None else visits.test_alert(connection, visit)

    visit, alert = await stay.services.store.read(look)
    if visit is not None and alert is not None and visit["test_passed_at_us"] is None:
        await stay.services.store.write(lambda c: visits.pass_test(c, visit, at_us=now_us, actor=installer.actor))
    told = {**stay.outdoors.recent.of(stay.device_id), "test": _test_view(visit, alert, now_us), "now": iso(now_us)}
    return Response(msgspec.json.encode(told), media_type="application/json")


async def label(stay: Stay) -> Response:
    """The device's own label: its page as QR. It opens nothing without a session."""
    row = await stay.services.store.read(lambda c: people.openable(c, stay.installer, stay.device_id))
    content = f"{stay.outdoors.public_url}{ROOT}/device/{stay.device_id}"
    picture = label_svg(stay.device_id, row["model"] or row["profile"], content, "")
    return Response(picture, media_type="image/svg+xml")


# ---- doing -----------------------------------------------------------------------------------------------------------


async def person(stay: Stay) -> Response:
    """Bind the device to a person of the installer's district, from now on."""
    person_id, where = stay.form.get("person_id", ""), stay.form.get("install_place", "")
    installer, now_us, known = stay.installer, stay.now_us, _profiles(stay)

    def bind(connection: apsw.Connection) -> None:
        people.openable(connection, installer, stay.device_id)
        people.person_of(connection, person_id, installer.district)
        values = {"person_id": person_id, "install_date": from_us(now_us).date().isoformat()}
        values |= {"install_place": where} if where.strip() else {}
        update_device(
            connection, stay.device_id, values, known_profiles=known, at_us=now_us, actor=installer.actor,
            reason="bound on the spot",
        )  # fmt: skip
        visits.begin(connection, stay.device_id, installer.link_id, now_us)

    await stay.services.store.write(bind)
    return stay.back("place")


async def place(stay: Stay) -> Response:
    """The person's home as a circle; with consent it is a fence."""
    form, installer, now_us = stay.form, stay.installer, stay.now_us
    latitude, longitude = _degrees(form, "latitude", 90), _degrees(form, "longitude", 180)
    datum = form.get("datum", "wgs84")
    if datum not in ("wgs84", "gcj02", "bd09"):
        raise UsageError("datum: wgs84, gcj02 or bd09")
    latitude, longitude = to_wgs84(latitude, longitude, datum)  # type: ignore[arg-type]  # one of the three by now
    consent = form.get("consent") == "1"
    by = form.get("consent_by", "").strip()
    if consent and not by:
        raise UsageError("consent_by: say who agreed to the fence")
    values = {
        "latitude": round(latitude, 6), "longitude": round(longitude, 6), "radius_m": form.get("radius_m", ""),
        "consent": consent, "consent_by": by if consent else None,
    }  # fmt: skip

    def keep(connection: apsw.Connection) -> None:
        person_id = people.openable(connection, installer, stay.device_id)["person_id"]
        if person_id is None:
            raise ConflictError("bind a person first")
        homes = _homes(connection, person_id)
        if not homes:
            new = {"person_id": person_id, "kind": "home", "name": "家", **values}
            place_sheet.add_line(connection, f"home-{person_id}"[:64], new, at_us=now_us, actor=installer.actor)
        elif place_sheet.show_line(connection, homes[0])["geometry"] is not None:
            raise ConflictError("the home is an area drawn in the console; it is changed there")
        else:
            place_sheet.update_line(
                connection, homes[0], values, at_us=now_us, actor=installer.actor, reason="set on the spot"
            )
        visits.begin(connection, stay.device_id, installer.link_id, now_us)

    await stay.services.store.write(keep)
    return stay.back("contacts")


def _degrees(form: Mapping[str, str], name: str, most: float) -> float:
    try:
        value = float(form.get(name, ""))
    except ValueError:
        raise UsageError(f"{name}: degrees, such as 39.123456") from None
    if not -most <= value <= most:
        raise UsageError(f"{name}: between {-most} and {most}")
    return value


async def contacts(stay: Stay) -> Response:
    """The installer went through the contacts with the person."""

    def check(connection: apsw.Connection) -> None:
        people.openable(connection, stay.installer, stay.device_id)
        visits.check_contacts(connection, stay.device_id, stay.installer.link_id, stay.now_us)

    await stay.services.store.write(check)
    return stay.back("test")


async def test(stay: Stay) -> Response:
    """Ten minutes in which a press of this device arrives, is shown, and alarms nobody."""
    installer, now_us = stay.installer, stay.now_us

    def running(connection: apsw.Connection) -> bool:
        people.openable(connection, installer, stay.device_id)
        visit = visits.current(connection, stay.device_id, installer.link_id)
        return bool(visit and visit["test_begun_at_us"] and visit["test_until_us"] > now_us
                    and visit["test_passed_at_us"] is None)  # fmt: skip

    if not await stay.services.store.read(running):
        until_us = now_us + TEST_MINUTES * MINUTE_US
        begun = await stay.services.desk.suppress(
            "test", f"device/{stay.device_id}", until_us, actor=installer.actor, reason="test press on the spot"
        )
        await stay.services.store.write(
            lambda c: visits.begin_test(
                c, stay.device_id, installer.link_id, number=begun["id"], until_us=until_us, at_us=now_us
            )
        )
    return stay.back("test")


async def end_test(stay: Stay) -> Response:
    """The device alarms again, now."""
    visit = await stay.services.store.read(lambda c: _visit(c, stay))
    await _end_test_mode(stay, visit)
    return stay.back("record")


def _visit(connection: apsw.Connection, stay: Stay) -> dict[str, Any] | None:
    people.openable(connection, stay.installer, stay.device_id)
    return visits.current(connection, stay.device_id, stay.installer.link_id)


async def _end_test_mode(stay: Stay, visit: dict[str, Any] | None) -> None:
    """Write down what came of it while its alert still shows it, then end it."""
    if visit is None or visit["test_suppression"] is None:
        return
    now_us = stay.now_us
    await stay.services.store.write(lambda c: visits.pass_test(c, visit, at_us=now_us, actor=stay.installer.actor))
    if visit["test_until_us"] > now_us:
        with contextlib.suppress(NotFoundError):  # somebody else ended it
            await stay.services.desk.end_suppression(visit["test_suppression"], actor=stay.installer.actor)
        await stay.services.store.write(lambda c: visits.test_ended(c, visit["id"], now_us))


async def record(stay: Stay) -> Response:
    """The agreement's number, references of pictures, and a word to the office."""
    form, installer, now_us, known = stay.form, stay.installer, stay.now_us, _profiles(stay)
    agreement = form.get("agreement_ref", "").strip()

    def keep(connection: apsw.Connection) -> None:
        people.openable(connection, installer, stay.device_id)
        visits.record(
            connection, stay.device_id, installer.link_id, agreement_ref=agreement,
            photos=form.get("photos", "").splitlines(), note=form.get("note", "").strip(), at_us=now_us,
            actor=installer.actor,
        )  # fmt: skip
        if agreement:
            update_device(
                connection, stay.device_id, {"agreement_ref": agreement}, known_profiles=known, at_us=now_us,
                actor=installer.actor, reason="signed on the spot",
            )  # fmt: skip

    await stay.services.store.write(keep)
    return stay.back("done")


async def finish(stay: Stay) -> Response:
    """The visit is over; a test that still runs ends with it. Said again, it still is."""
    await _end_test_mode(stay, await stay.services.store.read(lambda c: _visit(c, stay)))
    installer, now_us = stay.installer, stay.now_us

    def close(connection: apsw.Connection) -> dict[str, Any]:
        facts = _facts(connection, stay, "")
        ended = visits.newest(connection, stay.device_id, installer.link_id)
        if facts["visit"] is None and ended is not None:
            return facts | {"visit": ended}
        visits.end(
            connection, stay.device_id, installer.link_id, facts["row"]["person_id"], at_us=now_us,
            actor=installer.actor,
        )  # fmt: skip
        return facts

    facts = await stay.services.store.write(close)
    return await stay.page("installer/finished.html", device_id=stay.device_id, open=_open(facts))


async def replace(stay: Stay) -> Response:
    """The device whose code is given takes this one's place. Said again, it has it."""
    code = read_code(stay.form.get("code", ""))
    if code is None:
        raise UsageError("code: twelve letters and digits, as on the new device's label")
    installer, now_us = stay.installer, stay.now_us
    reason = _reason(stay)

    def put(connection: apsw.Connection) -> str:
        new_id = claims.redeem(connection, code, link_id=installer.link_id, at_us=now_us, actor=installer.actor)
        if _successor(connection, stay.device_id) == new_id:
            return new_id
        people.openable(connection, installer, stay.device_id)
        people.openable(connection, installer, new_id)
        swap(connection, stay.device_id, new_id, at_us=now_us, actor=installer.actor, reason=reason)
        visits.begin(connection, new_id, installer.link_id, now_us)
        return new_id

    new_id = await stay.services.store.write(put)
    return RedirectResponse(f"{ROOT}/device/{new_id}", 303)


def _successor(connection: apsw.Connection, device_id: str) -> str | None:
    row = connection.execute("SELECT replaced_by FROM device WHERE id = ?", (device_id,)).fetchone()
    return None if row is None else row[0]


async def retire(stay: Stay) -> Response:
    """The device is taken away: its binding and its tokens end. Said again, they have."""
    installer, now_us, reason = stay.installer, stay.now_us, _reason(stay)

    def end(connection: apsw.Connection) -> None:
        if _is_retired_by(connection, stay.device_id, installer.actor.id):
            return
        people.openable(connection, installer, stay.device_id)
        set_state(connection, stay.device_id, "retire", at_us=now_us, actor=installer.actor, reason=reason)

    await stay.services.store.write(end)
    return RedirectResponse(ROOT, 303)


def _is_retired_by(connection: apsw.Connection, device_id: str, actor_id: str) -> bool:
    row = connection.execute(
        "SELECT a.body FROM audit a JOIN device d ON d.id = ?1 AND d.state = 'retired'"
        " WHERE a.subject = 'device/' || ?1 AND a.action = 'device.retire' ORDER BY a.seq DESC LIMIT 1",
        (device_id,),
    ).fetchone()
    return row is not None and msgspec.json.decode(row[0])["actor"]["id"] == actor_id


def _reason(stay: Stay) -> str:
    reason = stay.form.get("reason", "").strip()
    if not 1 <= len(reason) <= 200 or not reason.isprintable():
        raise UsageError("reason: say why, in one line of at most 200 characters")
    return reason


def _profiles(stay: Stay) -> frozenset[str]:
    return frozenset(str(each["name"]) for each in stay.services.profiles.list())


STEPS: Final[Mapping[str, Handler]] = {
    "person": person,
    "place": place,
    "contacts": contacts,
    "test": test,
    "end-test": end_test,
    "record": record,
    "finish": finish,
    "replace": replace,
    "retire": retire,
}
"""What is posted, by the last part of its path."""
