"""FHIR R4 (4.0.1) resources of what the history holds. Pure: points in, JSON-ready resources out.

Observation follows the vital signs profile (hl7.org/fhir/R4/observation-vitalsigns.html): category vital-signs, LOINC,
UCUM; blood pressure is a panel (85354-9) whose values are components.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.model import METRICS

LOINC: Final = "http://loinc.org"
UCUM: Final = "http://unitsofmeasure.org"
CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
PRESSURE_PANEL: Final = "85354-9"
MEDIA_TYPE: Final = "application/fhir+json"

DISPLAYS: Final[Mapping[str, str]] = {
    "heart_rate_bpm": "Heart rate",
    "spo2_percent": "Oxygen saturation in Arterial blood",
    "systolic_mmhg": "Systolic blood pressure",
    "diastolic_mmhg": "Diastolic blood pressure",
    "mean_arterial_mmhg": "Mean blood pressure",
    "body_temperature_celsius": "Body temperature",
    "blood_glucose_mmol_per_l": "Glucose [Moles/volume] in Blood",
    "respiratory_rate_per_min": "Respiratory rate",
    "weight_kg": "Body weight",
    "steps": "Number of steps",
}
"""Metrics that are Observations, with the LOINC display; others are facts of a device."""

PRESSURES: Final = ("systolic_mmhg", "diastolic_mmhg", "mean_arterial_mmhg")
ACTIVITY: Final = frozenset({"steps"})

Point = Mapping[str, Any]


def codes() -> dict[str, tuple[str, ...]]:
    """Which metrics a LOINC code asks for."""
    found: dict[str, tuple[str, ...]] = {
        str(METRICS[metric].loinc): (metric,) for metric in DISPLAYS if metric not in PRESSURES
    }
    found |= {str(METRICS[metric].loinc): PRESSURES for metric in PRESSURES}
    return found | {PRESSURE_PANEL: PRESSURES, "59408-5": ("spo2_percent",)}


def observations(person_id: str, series: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """Resources of these points by metric, newest first. Pressures of one time and device are one resource."""
    found = [
        _single(person_id, metric, point)
        for metric, points in series.items()
        if metric not in PRESSURES
        for point in points
    ]
    panels: dict[tuple[str, str], dict[str, float]] = {}
    for metric in PRESSURES:
        for point in series.get(metric, ()):
            panels.setdefault((point["at"], point["device_id"] or ""), {})[metric] = point["value"]
    found.extend(_panel(person_id, at, device, values) for (at, device), values in panels.items())
    return sorted(found, key=lambda each: (each["effectiveDateTime"], each["id"]), reverse=True)


def bundle(resources: Iterable[Mapping[str, Any]], url: str, base: str, *, following: str = "") -> dict[str, Any]:
    """A searchset. ``following`` is the address of the next page."""
    entries = [
        {
            "fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}",
            "resource": resource,
            "search": {"mode": "match"},
        }
        for resource in resources
    ]
    links = [{"relation": "self", "url": url}]
    if following:
        links.append({"relation": "next", "url": following})
    found: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if not following:
        found["total"] = len(entries)
    return found | ({"entry": entries} if entries else {})


def outcome(code: str, text: str) -> dict[str, Any]:
    """An OperationOutcome that says what was wrong with the request."""
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def capability(version: str, at: str, base: str) -> dict[str, Any]:
    """The CapabilityStatement: what can be asked here."""
    parameters = [
        {"name": "patient", "type": "reference", "documentation": "required: the person's id, or Patient/<id>"},
        {"name": "code", "type": "token", "documentation": f"LOINC, with or without the system: {', '.join(codes())}"},
        {"name": "date", "type": "date", "documentation": "ge, gt, le, lt or eq with a date or time; may be repeated"},
        {"name": "category", "type": "token", "documentation": "vital-signs or activity"},
        {"name": "_count", "type": "number", "documentation": "at most so many a page, 1 to 1000"},
    ]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": at,
        "kind": "instance",
        "software": {"name": "carebell", "version": version},
        "implementation": {"description": "carebell 安心铃, read access to observations", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Authorization: Bearer, as for the whole API"},
                "resource": [
                    {
                        "type": "Observation",
                        "interaction": [{"code": "search-type"}],
                        "searchParam": parameters,
                    }
                ],
            }
        ],
    }


def _single(person_id: str, metric: str, point: Point) -> dict[str, Any]:
    device = point["device_id"] or ""
    resource = _frame(person_id, point["at"], device, metric, metric in ACTIVITY)
    return resource | {"code": _concept(metric), "valueQuantity": _quantity(metric, point["value"])}


def _panel(person_id: str, at: str, device: str, values: Mapping[str, float]) -> dict[str, Any]:
    coding = {"system": LOINC, "code": PRESSURE_PANEL, "display": "Blood pressure panel with all children optional"}
    components: list[dict[str, Any]] = []
    for metric in PRESSURES:
        if metric in values:
            components.append({"code": _concept(metric), "valueQuantity": _quantity(metric, values[metric])})
        elif metric != "mean_arterial_mmhg":  # the profile wants both pressures, or why one is missing
            absent = {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "not-performed"}
                ]
            }
            components.append({"code": _concept(metric), "dataAbsentReason": absent})
    code = {"coding": [coding], "text": "Blood pressure"}
    return _frame(person_id, at, device, PRESSURE_PANEL, False) | {"code": code, "component": components}


def _frame(person_id: str, at: str, device: str, what: str, activity: bool) -> dict[str, Any]:
    """What every Observation has. The id is made of what it is about, so it is the same at every question."""
    digest = hashlib.sha256(f"{person_id}\n{at}\n{device}\n{what}".encode()).hexdigest()[:40]
    category = "activity" if activity else "vital-signs"
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": digest,
        "status": "final",
        "category": [{"coding": [{"system": CATEGORY, "code": category}]}],
        "subject": {"reference": f"Patient/{person_id}"},
        "effectiveDateTime": at,
    }
    if device:
        found["device"] = {"identifier": {"value": device}}
    return found


def _concept(metric: str) -> dict[str, Any]:
    display = DISPLAYS[metric]
    coding = [{"system": LOINC, "code": METRICS[metric].loinc, "display": display}]
    if metric == "spo2_percent":  # the profile wants the general code; the device is an oximeter
        coding.append(
            {"system": LOINC, "code": "59408-5", "display": "Oxygen saturation in Arterial blood by Pulse oximetry"}
        )
    return {"coding": coding, "text": display}


def _quantity(metric: str, value: float) -> dict[str, Any]:
    unit = METRICS[metric].ucum
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}
