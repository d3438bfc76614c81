"""The audit: who did what, each row hashed over the one before it."""

from __future__ import annotations

from typing import Annotated, Any

import apsw
import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from gateway.api.answers import Limit, ShortText, page
from gateway.api.auth import may, services_of
from gateway.clock import iso
from gateway.registry.changes import listing
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/audit", tags=["audit"])
Row = dict[str, Any]


@router.get("", response_model=None, responses={200: {"model": list[Row]}})
async def list_audit(
    request: Request,
    _principal: Annotated[ApiKey, Depends(may("audit.read"))],
    after: Annotated[int, Query(ge=0, le=2**53, description="only rows behind this seq")] = 0,
    subject: Annotated[ShortText, Query(description="for example person/P-0001, device/D-0001, key/...")] = "",
    alert_id: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """Rows in order. They hold ids, states and settings; of personal data only that it changed."""

    def read(connection: apsw.Connection) -> list[Row]:
        asked = (
            (True, "seq > ?", (after,)),
            (subject, "subject = ?", (subject,)),
            (alert_id, "alert_id = ?", (alert_id,)),
        )
        found = listing(connection, "SELECT body, hash FROM audit", asked, "seq", limit)
        return [_view(str(row["body"]), bytes(row["hash"])) for row in found]

    rows = await services_of(request).store.read(read)
    return page(request, rows, limit, "after", "seq")


def _view(body: str, digest: bytes) -> Row:
    row: Row = msgspec.json.decode(body)
    return {"seq": row["seq"], "at": iso(row["at_us"]), **row, "hash": digest.hex()}
