"""The states of devices and machines, and which of them are not on disk yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import structlog

from rules.runtime import DEVICE_ROW, Device, Slot

Key = tuple[str, str]
"""Rule id and subject."""
Row = tuple[str, str, bytes | None]
"""A row of ``rule_state``; None where it is to go."""

_log = structlog.get_logger("rules")


class States:
    """States by device, and by machine and subject.

    Saving takes many turns of the loop, and what is saved must be of one moment. So whoever changes a state says so
    before (``touch``, ``touch_device``): one that waits to be saved is then written down as it was.
    """

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.slots: dict[Key, Slot] = {}
        self._changed: set[Key] = set()
        self._waiting: set[Key] = set()
        self._written_down: list[Row] = []

    def touch(self, key: Key) -> None:
        """Call it before a slot changes, comes or goes."""
        if key in self._waiting:
            self._waiting.remove(key)
            self._written_down.append(self._row(key))
        self._changed.add(key)

    def touch_device(self, device: Device) -> None:
        """Call it before what a ``waiting`` device said last changes."""
        device.waiting = False
        if device.changed():
            self._written_down.append((DEVICE_ROW, device.device_id, device.to_bytes()))

    def dirty(self) -> Iterator[Row]:
        """What changed since the last call, as it is now, however slowly the rows are then taken.

        An iterator that was left before its end loses nothing: the next call gives the rest, as it is then.
        """
        self._waiting |= self._changed
        self._changed.clear()
        devices = list(self.devices.values())
        for device in devices:
            device.waiting = True
        return self._rows(devices)

    def _rows(self, devices: list[Device]) -> Iterator[Row]:
        yield from self._taken_down()
        while self._waiting:
            yield self._row(self._waiting.pop())
        for device in devices:
            if device.waiting:
                self.touch_device(device)
                yield from self._taken_down()
        yield from self._taken_down()

    def _taken_down(self) -> list[Row]:
        rows, self._written_down = self._written_down, []
        return rows

    def _row(self, key: Key) -> Row:
        slot = self.slots.get(key)
        return (*key, slot.to_bytes() if slot is not None else None)

    def restore(self, rows: Iterable[tuple[str, str, bytes]]) -> Iterator[tuple[int, Key]]:
        """Take states back; yields the wake-ups of the machines. A row that cannot be read is logged and left out."""
        for rule_id, subject, data in rows:
            try:
                if rule_id == DEVICE_ROW:
                    self.devices[subject] = Device.from_bytes(subject, data)
                    continue
                slot = Slot.from_bytes(data)
            except (msgspec.DecodeError, ValueError) as error:
                _log.error("rule state unreadable, starting afresh", rule=rule_id, subject=subject, error=str(error))
                continue
            self.slots[rule_id, subject] = slot
            if slot.wake_us is not None:
                yield slot.wake_us, (rule_id, subject)
