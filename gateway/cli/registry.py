"""The registry's commands, where ``carebell`` looks for them."""

from __future__ import annotations

from gateway.cli.commands import command
from gateway.cli.registry_contacts import contacts
from gateway.cli.registry_devices import devices
from gateway.cli.registry_persons import persons
from gateway.cli.registry_places import places

devices.command("command")(command)

__all__ = ["contacts", "devices", "persons", "places"]
