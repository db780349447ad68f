"""The command line: `edgegw --help` names every command. Commands are in `edgegw.commands`.

Only the command that is asked for is loaded: on a slow machine all of them take longer than a box's start.
"""

from __future__ import annotations

from typing import Final

import click

from edgegw import __version__
from edgegw.commands import ExitCode, Program

COMMANDS: Final = {
    "allowances": "commands.allowances:allowances",
    "card-lookup": "commands.keys:card_lookup",
    "config": "commands.settings:config",
    "crypto": "commands.crypto:crypto",
    "demo": "demo.command:demo",
    "drill": "commands.restore:drill",
    "enroll": "commands.enroll:enroll",
    "export": "commands.audit:export",
    "factory-reset": "commands.factory_reset:factory_reset",
    "findings": "commands.hub:findings",
    "first-boot": "commands.first_boot:first_boot",
    "health": "commands.health:health",
    "hub": "commands.hub:hub",
    "journal": "commands.ledger:journal",
    "keygen": "commands.keys:keygen",
    "keys": "commands.key_places:keys",
    "ledger": "commands.ledger:ledger",
    "mirror": "commands.mirror:mirror",
    "oauth": "commands.oauth:oauth",
    "order": "commands.hub:order",
    "orders": "commands.orders:orders",
    "peers": "commands.peers:peers",
    "post": "commands.hub:post",
    "receivables": "commands.suspense:receivables",
    "reconcile": "commands.reconcile:reconcile",
    "release": "commands.release:release",
    "restore": "commands.restore:restore",
    "run": "commands.box:run",
    "session": "commands.signing:session",
    "settlement": "commands.windows:settlement",
    "sign": "commands.signing:sign",
    "site": "commands.site:site",
    "status": "commands.box:status",
    "support": "commands.support:support",
    "suspense": "commands.suspense:suspense",
    "token": "commands.keys:token",
    "units": "commands.units:units",
    "update": "commands.update:update",
    "vault": "commands.vault:vault",
    "verify": "commands.ledger:verify",
    "window": "commands.box:window",
    "windows": "commands.windows:windows",
}
"""Every command, and where it is."""

ADDED: Final = {
    "hub": ("commands.hub_ca:ca", "commands.hub_backup:hub_backup"),
    "hub ca": ("commands.hub_backup:ca_recall", "commands.hub_backup:ca_destroyed"),
    "journal": (
        "commands.audit:journal_receipt",
        "commands.audit:journal_checkpoint",
        "commands.audit:journal_proof",
    ),
    "keys": (
        "commands.terminal_keys:keys_terminal",
        "commands.key_changes:keys_rotate",
        "commands.key_changes:keys_policy",
    ),
    "ledger": ("commands.prune:ledger_prune",),
    "order": (
        "commands.limit_orders:order_block",
        "commands.limit_orders:order_limit",
        "commands.key_changes:order_revoke_key",
    ),
    "site": ("commands.site_list:site_list",),
}
"""Commands of a group that have files of their own."""

EPILOG = "Exit codes: " + " ".join(f"{int(code)} - {code.meaning}" for code in ExitCode)


@click.group(
    cls=Program,
    places=COMMANDS,
    added=ADDED,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgegw")
def main() -> None:
    """edgegw: a payment gateway for a bank branch that keeps clearing while the line to the centre is down.

    A box runs in the branch (`edgegw run`), the hub at the centre (`edgegw hub`). `edgegw demo` plays a
    branch's day with both, on this machine.

    \b
    edgegw demo
    edgegw config check box.toml
    edgegw run box.toml
    edgegw status box.toml
    """


if __name__ == "__main__":
    main(prog_name="edgegw")
