"""``carebell places``: homes and fences of persons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, print_json
from gateway.cli.registry_shared import (
    PAGE,
    ReasonOption,
    SearchOption,
    SetOption,
    StateOption,
    given,
    json_file,
    now_us,
    transaction,
)
from gateway.cli.registry_sheets import Help, Sheet, View, add_commands

places = typer.Typer(help="Homes and fences of persons.", no_args_is_help=True, add_completion=False)

_FORMS = {"Point": "圆 circle", "Polygon": "多边形 polygon", "LineString": "路线 corridor"}

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The place's id.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="名称 Name.")]
LatitudeOption = Annotated[str | None, typer.Option("--latitude", metavar="DEGREES", help="纬度 Centre of a circle.")]
LongitudeOption = Annotated[str | None, typer.Option("--longitude", metavar="DEGREES", help="经度 Centre of a circle.")]
RadiusOption = Annotated[str | None, typer.Option("--radius", metavar="METRES", help="半径 Radius of a circle.")]
GeometryOption = Annotated[
    Path | None,
    typer.Option("--geometry", metavar="FILE", help="几何 GeoJSON: a Polygon, or a LineString with --width."),
]
WidthOption = Annotated[str | None, typer.Option("--width", metavar="METRES", help="宽度 Whole width of a corridor.")]
DatumOption = Annotated[
    str | None, typer.Option("--datum", metavar="wgs84|gcj02|bd09", help="坐标系 Of the coordinates; wgs84 without it.")
]
MarginOption = Annotated[str | None, typer.Option("--margin", metavar="METRES", help="边距 How far in to be back.")]
ScheduleOption = Annotated[
    str | None, typer.Option("--schedule", metavar="JSON", help="时段 When it is in force; always without it.")
]
ConsentOption = Annotated[
    bool | None, typer.Option("--consent/--no-consent", help="同意 The person agreed; without that it does nothing.")
]
ConsentByOption = Annotated[str | None, typer.Option("--consent-by", metavar="TEXT", help="同意人 Who agreed.")]
PersonFilter = Annotated[str, typer.Option("--person", metavar="ID", help="Only this person's.")]


def _options(
    shape: tuple[str | None, str | None, str | None, Path | None, str | None],
    name: str | None,
    datum: str | None,
    margin: str | None,
    schedule: str | None,
    consent: bool | None,
    consent_by: str | None,
) -> dict[str, Any]:
    latitude, longitude, radius, geometry, width = shape
    options: dict[str, Any] = {"latitude": latitude, "longitude": longitude, "radius_m": radius, "width_m": width}
    options |= {"geometry": json_file(geometry), "name": name, "datum": datum, "margin_m": margin}
    return options | {"schedule": schedule, "consent": consent, "consent_by": consent_by}


@places.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    place_id: Annotated[str, typer.Option("--id", metavar="ID", help="编号 Id: letters, digits, '.', '_', '-'.")],
    person: Annotated[str, typer.Option("--person", metavar="ID", help="人员 Whose place it is.")],
    kind: Annotated[str, typer.Option("--kind", metavar="home|allowed|forbidden", help="类别 Kind.")] = "home",
    name: NameOption = None,
    latitude: LatitudeOption = None,
    longitude: LongitudeOption = None,
    radius: RadiusOption = None,
    geometry: GeometryOption = None,
    width: WidthOption = None,
    datum: DatumOption = None,
    margin: MarginOption = None,
    schedule: ScheduleOption = None,
    consent: ConsentOption = None,
    consent_by: ConsentByOption = None,
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Add a home or a fence.

    Example: carebell places add --id P-1.home --person P-1 --latitude 39.1 --longitude 117.2 --radius 150 --consent
    """
    from gateway.registry.place_sheet import add_line  # noqa: PLC0415 - keeps `--help` quick

    shape = (latitude, longitude, radius, geometry, width)
    options = _options(shape, name, datum, margin, schedule, consent, consent_by)
    values = given(options | {"person_id": person, "kind": kind}, extra)
    with transaction(config, data_dir) as connection:
        view = add_line(connection, place_id, values, at_us=now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json(view)
    else:
        print(f"place {view['place_id']} added")


@places.command()
def update(
    place_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    person: Annotated[str | None, typer.Option("--person", metavar="ID", help="人员 Whose place it is.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="home|allowed|forbidden", help="类别 Kind.")] = None,
    name: NameOption = None,
    latitude: LatitudeOption = None,
    longitude: LongitudeOption = None,
    radius: RadiusOption = None,
    geometry: GeometryOption = None,
    width: WidthOption = None,
    datum: DatumOption = None,
    margin: MarginOption = None,
    schedule: ScheduleOption = None,
    consent: ConsentOption = None,
    consent_by: ConsentByOption = None,
    state: Annotated[str | None, typer.Option("--state", metavar="active|removed", help="状态 State.")] = None,
    reason: ReasonOption = "",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Change what is given; empty text clears a field. Example: carebell places update P-0001.home --radius 200"""
    from gateway.registry.place_sheet import update_line  # noqa: PLC0415 - keeps `--help` quick

    shape = (latitude, longitude, radius, geometry, width)
    options = _options(shape, name, datum, margin, schedule, consent, consent_by)
    values = given(options | {"person_id": person, "kind": kind, "state": state}, extra)
    with transaction(config, data_dir) as connection:
        view = update_line(connection, place_id, values, at_us=now_us(), actor=CLI_ACTOR, reason=reason)
    if json_output:
        print_json(view)
    else:
        print(f"place {place_id} is at version {view['version']}")


def _exported(connection: apsw.Connection, after_id: str) -> list[View]:
    from gateway.registry.place_sheet import list_lines  # noqa: PLC0415 - keeps `--help` quick

    return list_lines(connection, after_id=after_id, limit=PAGE)


def _masked(view: View) -> View:
    from gateway.security import mask_name  # noqa: PLC0415 - keeps `--help` quick

    consent = "是 yes" if (view["settings"] or {}).get("consent") else "否 no"
    return view | {"name": mask_name(view["name"]), "form": _FORMS[view["geometry"]["type"]], "consent": consent}


def _described(connection: apsw.Connection, view: View) -> View:
    """In the columns of a file."""
    from gateway.registry.fields import encode_object  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.place_sheet import show_line  # noqa: PLC0415

    line = show_line(connection, view["place_id"])
    line |= {name: view[name] for name in ("version", "created_at", "updated_at")}
    return {name: encode_object(value) if isinstance(value, dict) else value for name, value in line.items()}


SHEET = Sheet(
    table="places",
    help=Help(
        show="Everything about one place; JSON is as in the API. Example: carebell places show P-0001.home",
        list="Places; the table shows names in part and no coordinates. Example: carebell places list --person P-0001",
        import_="""Add the places of a file, and update those that exist: all of it or nothing.

    Columns: place_id, person_id, kind, then latitude, longitude and radius_m, or GeoJSON in geometry (with width_m for
    a LineString) and, optionally, name, datum, margin_m, schedule, consent, consent_by, settings, state.
    Example: carebell places import places.csv --dry-run
    """,
        export="All places as CSV, as 'import' takes it. Example: carebell places export -o places.csv",
    ),
    filters={"person_id": (PersonFilter, ""), "state": (StateOption, "active"), "search": (SearchOption, "")},
    columns={
        "place_id": "编号",
        "person_id": "人员",
        "kind": "类别",
        "name": "名称",
        "form": "形状",
        "consent": "同意",
        "state": "状态",
    },
    masked=_masked,
    exported=_exported,
    described=_described,
)
add_commands(places, SHEET)
