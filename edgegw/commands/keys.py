"""Keys and tokens, made by hand: `edgegw keygen`, `edgegw token`, `edgegw card-lookup`."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import ExitCode, SettingsPath
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgegw.access.keystore import KeyFile, Keystore

KeyPath = click.Path(dir_okay=False, path_type=Path)


@click.group()
def keygen() -> None:
    """Make a key. No command ever overwrites one.

    \b
    edgegw keygen hub --bank mybank --out hub/secrets/hub.pem
    edgegw keygen box --bank mybank --box branch-1 --out secrets/device.pem
    edgegw keygen mirror --bank mybank --mirror branch-1-mirror --out secrets/mirror.pem
    edgegw keygen client --out till.pem
    edgegw keygen client --sm2 --out till-sm2.pem
    edgegw keygen operator --out mei.pem
    edgegw keygen vault --out secrets/vault.key
    """


def _device_key(name: str, path: Path) -> None:
    """Make an SM2 key and its .pub beside it, and print the public line."""
    from edgegw.access import keys

    path.parent.mkdir(parents=True, exist_ok=True)
    key = keys.create_signing_key(path, name)
    keys.store_verifying_key(path.with_suffix(".pub"), key.public)
    click.echo(key.public.text())


@keygen.command("hub")
@click.option("--bank", required=True, help="The bank's name.")
@click.option(
    "--out", required=True, type=KeyPath, help="File for the private key; .pub is written beside it."
)
def keygen_hub(bank: str, out: Path) -> None:
    """Make the hub's SM2 key; boxes pin the line that is printed (and written to .pub).

    Example: edgegw keygen hub --bank mybank --out secrets/hub.pem
    """
    _device_key(f"{bank}/hub", out)


@keygen.command("box")
@click.option("--bank", required=True, help="The bank's name.")
@click.option("--box", required=True, help="The box's name.")
@click.option(
    "--out", required=True, type=KeyPath, help="File for the private key; .pub is written beside it."
)
def keygen_box(bank: str, box: str, out: Path) -> None:
    """Make a box's SM2 device key; the hub pins the line that is printed, in [boxes] of its settings.

    Example: edgegw keygen box --bank mybank --box branch-1 --out secrets/device.pem
    """
    _device_key(f"{bank}/{box}", out)


@keygen.command("mirror")
@click.option("--bank", required=True, help="The bank's name.")
@click.option("--mirror", required=True, help="The mirror's name; no box of the bank has it.")
@click.option(
    "--out", required=True, type=KeyPath, help="File for the private key; .pub is written beside it."
)
def keygen_mirror(bank: str, mirror: str, out: Path) -> None:
    """Make a mirror's SM2 key; its boxes pin the line that is printed, in [mirror] of their settings.

    Example: edgegw keygen mirror --bank mybank --mirror branch-1-mirror --out secrets/mirror.pem
    """
    _device_key(f"{bank}/{mirror}", out)


@keygen.command("client")
@click.option("--out", required=True, type=KeyPath, help="File for the private key.")
@click.option("--sm2", is_flag=True, help="An SM2 key, to sign requests with; print it for sm2_public_keys.")
def keygen_client(out: Path, sm2: bool) -> None:
    """Make an Ed25519 key for a program that sends payments; print its public_key for the site's settings.

    \b
    edgegw keygen client --out till.pem
    edgegw keygen client --sm2 --out till-sm2.pem
    """
    if sm2:
        _signing_key(out)
    else:
        _person_key(out)


def _signing_key(out: Path) -> None:
    """Make a client's SM2 key and print its public one."""
    from edgegw.access import key_files
    from edgegw.sm.sm2 import PrivateKey

    key = PrivateKey.generate()
    out.parent.mkdir(parents=True, exist_ok=True)
    key_files.store_private_key(out, key)
    click.echo(base64.b64encode(key.public.point).decode())


@keygen.command("operator")
@click.option("--out", required=True, type=KeyPath, help="File for the private key.")
def keygen_operator(out: Path) -> None:
    """Make an Ed25519 key for a person who gives orders at the hub; print its public_key for [[operators]].

    Keep it with the person, not on the hub's machine: whoever has two keys is two people.

    Example: edgegw keygen operator --out mei.pem
    """
    _person_key(out)


def _person_key(out: Path) -> None:
    """Make an Ed25519 key and print its public one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from edgegw.access import key_files, tokens

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    out.parent.mkdir(parents=True, exist_ok=True)
    key_files.write_new_file(out, pem, mode=0o600)
    click.echo(tokens.public_key_text(key))


def ed25519_key(path: Path) -> Ed25519PrivateKey:
    """The private key of a client or an operator; raises SettingsError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as problem:
        raise SettingsError(
            str(path), [f"no private key can be read: {problem}; give the client's or operator's own"]
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(
            str(path), ["it is no Ed25519 key; make one with `edgegw keygen client` or `keygen operator`"]
        )
    return private


@keygen.command("vault")
@click.option("--out", required=True, type=KeyPath, help="File for the key.")
def keygen_vault(out: Path) -> None:
    """Make the bank's vault key, which turns card numbers into lookups; all boxes of the bank share it.

    Example: edgegw keygen vault --out secrets/vault.key
    """
    from edgegw.payments import vault

    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        vault.create_key(out)
    except FileExistsError:
        raise SettingsError(
            str(out), ["it exists already; a key is never overwritten: move it away"]
        ) from None


@click.command()
@click.option("--client", required=True, help="The client's name in the site's settings.")
@click.option("--box", required=True, help="The box that is spoken to.")
@click.option("--key", required=True, type=KeyPath, help="The client's private key (`edgegw keygen client`).")
@click.option(
    "--minutes",
    default=60,
    show_default=True,
    type=click.IntRange(1, 24 * 60),
    help="How long it is good for; a day at most.",
)
@click.option(
    "--certificate",
    type=KeyPath,
    help="PEM: the certificate with which alone the token is good (RFC 8705), so that a copy of it is"
    " worth nothing.",
)
def token(client: str, box: str, key: Path, minutes: int, certificate: Path | None) -> None:
    """Print a bearer token with which a client speaks to one box over HTTP.

    Example: edgegw token --client till --box branch-1 --key till.pem
    """
    from edgegw.access import tokens

    private = ed25519_key(key)
    minted = tokens.mint_token(
        private,
        client=client,
        box=box,
        lifetime_seconds=minutes * 60,
        now_s=int(time.time()),
        certificate="" if certificate is None else _thumbprint(certificate),
    )
    click.echo(minted)


def _thumbprint(path: Path) -> str:
    """The SHA-256 of a file's first certificate, as RFC 8705 writes it; raises SettingsError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from edgegw.access.client_certificates import certificate_of

    try:
        der = x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(Encoding.DER)
    except (OSError, ValueError) as problem:
        raise SettingsError(
            str(path), [f"no certificate can be read: {problem}; give the client's own, in PEM"]
        ) from None
    certificate = certificate_of(der)
    if certificate is None:
        raise SettingsError(str(path), ["its certificate cannot be read; give the client's own"])
    return certificate.x5t_s256


@click.command("card-lookup")
@click.option("--vault-key", type=KeyPath, help="The bank's vault key (`edgegw keygen vault`), lying open.")
@click.option("--box", type=SettingsPath, help="A box's settings instead: its vault key, sealed or not.")
@click.pass_context
def card_lookup(ctx: click.Context, vault_key: Path | None, box: Path | None) -> None:
    """Read card numbers from standard input, one a line, and print each one's lookup, by which the site's
    cards, lists, limits and orders name it at all boxes of the bank.

    Example: edgegw card-lookup --vault-key secrets/vault.key < cards.txt
    """
    from edgegw.payments import vault

    keystore, key = _vault_key(vault_key, box)
    try:
        lookups = vault.Lookups.open(keystore, key)
    except vault.SecretFileError as problem:
        raise SettingsError(str(key.path), [str(problem)]) from None
    for number, line in enumerate(sys.stdin, 1):
        try:
            click.echo(lookups.lookup(line.strip()))
        except ValueError as problem:
            click.echo(f"edgegw: line {number}: {problem}", err=True)
            ctx.exit(ExitCode.USAGE)


def _vault_key(open_file: Path | None, settings: Path | None) -> tuple[Keystore, KeyFile]:
    """The bank's vault key, and what opens it."""
    from edgegw import key_places
    from edgegw.access.keystore import OPEN_FILES
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box
    from edgegw.payments import protocols, vault

    if (open_file is None) == (settings is None):
        raise click.UsageError("give one of --vault-key and --box")
    if open_file is not None:
        return OPEN_FILES, vault.vault_key_file(open_file, option="--vault-key")
    box = load_box(Path(str(settings)), protocol_shapes())
    known = protocols.discover()
    keys = (key for name, options in box.protocols.items() for key in known[name].key_files(options))
    key = next((key for key in keys if key.purpose == "vault"), None)
    if key is None:
        raise SettingsError(str(settings), ["no way in takes card numbers, so it names no vault key"])
    return key_places.keystore_of(box.settings), key
