"""The keys that settings name, and the keystore that opens them.

Leaves out what a keystore does (`access.keystore`) and public keys that settings pin (`edgegw.pinned`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places.passphrase import Passphrase
from edgegw.access.places.pkcs11 import Pkcs11
from edgegw.access.places.systemd import SystemdCredential
from edgegw.access.places.tpm2 import Tpm2
from edgegw.access.tls import SEALED_KEYS
from edgegw.config.box import Box, BoxSettings, tls_of
from edgegw.config.hub import EnrolmentTable, HubSettings
from edgegw.config.keys import KeysTable
from edgegw.config.mirror import MirrorSettings
from edgegw.tls_tables import ClientTls, OptionalClientTls, OptionalServerTls, is_encrypted


def keystore_of(settings: BoxSettings | HubSettings | MirrorSettings) -> Keystore:
    """The keystore of one machine's settings; nothing is opened yet."""
    table: KeysTable = settings.keys
    pkcs11 = table.pkcs11
    return Keystore(
        owner=owner_of(settings),
        place=table.place,
        directory=Path(table.kek_dir),
        places={
            "tpm2": Tpm2(tcti=table.tpm2.tcti, pcrs=table.tpm2.pcrs),
            "pkcs11": Pkcs11(
                module_file=pkcs11.module_file,
                token=pkcs11.token,
                pin_file=pkcs11.pin_file,
                key_label=pkcs11.key_label,
            ),
            "systemd": SystemdCredential(table.systemd.credential, with_key=table.systemd.with_key),
            "passphrase": Passphrase(table.passphrase.passphrase_file),
        },
    )


def owner_of(settings: BoxSettings | HubSettings | MirrorSettings) -> str:
    """The machine's name within its bank, which its slots carry."""
    if isinstance(settings, HubSettings):
        return "hub"
    return settings.box if isinstance(settings, BoxSettings) else settings.mirror


def device_key_file(settings: BoxSettings) -> KeyFile:
    """The box's device key."""
    return KeyFile(
        "device_key_file", Path(settings.device_key_file), "device", f"{settings.bank}/{settings.box}"
    )


def checkpoint_key_file(settings: BoxSettings) -> KeyFile:
    """The key that signs a box's checkpoints."""
    name = f"{settings.bank}/{settings.box}/checkpoint"
    return KeyFile("checkpoint_key_file", Path(settings.checkpoint_key_file), "checkpoint", name)


def webhook_key_file(settings: BoxSettings) -> KeyFile:
    """The key that signs a box's posts to webhooks."""
    name = f"{settings.bank}/{settings.box}/webhook"
    return KeyFile("webhook_key_file", Path(settings.webhook_key_file), "webhook", name)


def tls_key_file(settings: BoxSettings) -> KeyFile:
    """The key of the certificate that enrolment gives a box; its line to the hub shows it."""
    tls = settings.hub.tls
    path = tls.key_file if isinstance(tls, ClientTls) else ""
    return KeyFile("hub.tls.key_file", Path(path), "tls", tls_key_name(settings))


def tls_key_name(settings: BoxSettings | HubSettings | MirrorSettings) -> str:
    """Whose the keys of all TLS tables of these settings are."""
    return f"{settings.bank}/{owner_of(settings)}/tls"


def tls_tables(
    loaded: Box | HubSettings | MirrorSettings,
) -> Iterator[tuple[str, OptionalServerTls | OptionalClientTls]]:
    """Every TLS table of the settings, by its name, encrypting or not."""
    if isinstance(loaded, Box):
        yield "hub.tls", loaded.settings.hub.tls
        yield "mirror.tls", loaded.settings.mirror.tls
        yield from ((f"{name}.tls", tls_of(way)) for name, way in loaded.protocols.items())
        return
    yield "tls", loaded.tls
    if isinstance(loaded, HubSettings) and isinstance(loaded.enrolment, EnrolmentTable):
        yield "enrolment.tls", loaded.enrolment.tls


def tls_key_files(loaded: Box | HubSettings | MirrorSettings) -> Iterator[KeyFile]:
    """The private keys that those tables name, each file once."""
    name, known = tls_key_name(loaded.settings if isinstance(loaded, Box) else loaded), set()
    for where, table in tls_tables(loaded):
        if isinstance(table, msgspec.UnsetType) or not is_encrypted(table) or table.key_file in known:
            continue
        known.add(table.key_file)
        yield KeyFile(f"{where}.key_file", Path(table.key_file), "tls", name)


def open_sealed_tls_keys(settings: BoxSettings | HubSettings | MirrorSettings, keystore: Keystore) -> None:
    """Let the TLS contexts that this task makes from now on read a key_file that the machine's keystore has
    sealed."""
    name = tls_key_name(settings)
    SEALED_KEYS.set(lambda path: keystore.read(KeyFile("key_file", Path(path), "tls", name)))


def token_key_file(settings: BoxSettings) -> KeyFile:
    """The keys that sign a box's access tokens."""
    name = f"{settings.bank}/{settings.box}/tokens"
    return KeyFile("token_key_file", Path(settings.token_key_file), "tokens", name)


def hub_key_file(settings: HubSettings) -> KeyFile:
    """The hub's own key."""
    return KeyFile("key_file", Path(settings.key_file), "hub", f"{settings.bank}/hub")


def ca_key_file(settings: HubSettings, kind: str) -> KeyFile:
    """The key of one of the hub's CAs."""
    table = settings.enrolment
    folder = Path("secrets" if table is msgspec.UNSET else table.ca_dir)
    return KeyFile("enrolment.ca_dir", folder / f"ca-{kind}.pem", "ca", f"{settings.bank}/ca-{kind}")


def mirror_key_file(settings: MirrorSettings) -> KeyFile:
    """A mirror's own key."""
    name = f"{settings.bank}/{settings.mirror}"
    return KeyFile("key_file", Path(settings.key_file), "mirror", name)
