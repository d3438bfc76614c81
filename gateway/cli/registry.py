"""The registry's commands, where ``carebell`` looks for them."""

from __future__ import annotations

from gateway.cli import provisioning, pull
from gateway.cli.commands import command
from gateway.cli.registry_contacts import contacts
from gateway.cli.registry_devices import devices
from gateway.cli.registry_persons import persons
from gateway.cli.registry_places import places

pull.add_pull(persons, "person", pull.PERSONS)
pull.add_pull(contacts, "contact", pull.CONTACTS)
devices.command("command")(command)
devices.command("claim-code")(provisioning.claim_code)
devices.command("label")(provisioning.label)
devices.command("stock")(provisioning.stock)
devices.command("due")(provisioning.due)
devices.command("visits")(provisioning.list_visits)
devices.command("brokers")(provisioning.brokers)

__all__ = ["contacts", "devices", "persons", "places"]
