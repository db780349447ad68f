"""The command line: `edgegw --help` names every command. Commands are in `edgegw.commands`."""

from __future__ import annotations

import click

from edgegw import __version__
from edgegw.commands import (
    ExitCode,
    Program,
    allowances,
    audit,
    box,
    crypto,
    enroll,
    factory_reset,
    first_boot,
    health,
    hub,
    hub_backup,
    hub_ca,
    key_changes,
    key_places,
    keys,
    ledger,
    limit_orders,
    mirror,
    oauth,
    orders,
    peers,
    prune,
    reconcile,
    release,
    restore,
    settings,
    signing,
    site,
    site_list,
    support,
    suspense,
    terminal_keys,
    units,
    update,
    vault,
    windows,
)

EPILOG = "Exit codes: " + " ".join(f"{int(code)} - {code.meaning}" for code in ExitCode)


@click.group(cls=Program, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
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


for command in (
    box.run,
    hub.hub,
    mirror.mirror,
    box.status,
    peers.peers,
    health.health,
    support.support,
    enroll.enroll,
    first_boot.first_boot,
    factory_reset.factory_reset,
    ledger.verify,
    settings.config,
    ledger.journal,
    audit.export,
    ledger.ledger,
    restore.restore,
    restore.drill,
    keys.keygen,
    keys.token,
    signing.sign,
    signing.session,
    keys.card_lookup,
    crypto.crypto,
    key_places.keys,
    oauth.oauth,
    site.site,
    hub.post,
    hub.findings,
    allowances.allowances,
    hub.order,
    orders.orders,
    reconcile.reconcile,
    box.window,
    windows.windows,
    windows.settlement,
    suspense.suspense,
    suspense.receivables,
    units.units,
    vault.vault,
    update.update,
    release.release,
):
    main.add_command(command)

key_places.keys.add_command(terminal_keys.keys_terminal)
ledger.ledger.add_command(prune.ledger_prune)
hub.hub.add_command(hub_ca.ca)
hub.hub.add_command(hub_backup.hub_backup)
hub_ca.ca.add_command(hub_backup.ca_recall)
hub_ca.ca.add_command(hub_backup.ca_destroyed)
key_places.keys.add_command(key_changes.keys_rotate)
key_places.keys.add_command(key_changes.keys_policy)
site.site.add_command(site_list.site_list)
hub.order.add_command(limit_orders.order_block)
hub.order.add_command(limit_orders.order_limit)
hub.order.add_command(key_changes.order_revoke_key)

if __name__ == "__main__":
    main(prog_name="edgegw")
