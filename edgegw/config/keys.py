"""`[keys]` of a box's, a hub's or a mirror's settings: where the key is that opens its own private keys."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PlaceName = Literal["files", "tpm2", "pkcs11", "systemd", "passphrase"]


class Tpm2Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys.tpm2]`: the machine's TPM 2.0, through tpm2-tools."""

    tcti: Annotated[
        str, msgspec.Meta(min_length=1, description="How it is reached, as tpm2-tools take it.")
    ] = "device:/dev/tpmrm0"
    pcrs: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=23)], ...],
        msgspec.Meta(
            max_length=16,
            description="PCRs (SHA-256) that must be as when the keys were sealed; none: the TPM alone.",
        ),
    ] = ()


class Pkcs11Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys.pkcs11]`: an HSM, through its maker's PKCS#11 module."""

    module_file: Annotated[str, msgspec.Meta(description="The maker's library.")] = ""
    token: Annotated[str, msgspec.Meta(description="The token's label.")] = ""
    pin_file: Annotated[str, msgspec.Meta(description="File with the user's PIN, mode 0600.")] = ""
    key_label: Annotated[
        str,
        msgspec.Meta(
            min_length=1, description="The AES-256 key in the token; made at the first use if there is none."
        ),
    ] = "edgegw-kek"


class SystemdTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys.systemd]`: a credential that systemd decrypts for the unit."""

    credential: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9._-]{1,64}\Z", description="Its name, as LoadCredentialEncrypted= has it."
        ),
    ] = "edgegw-kek"
    with_key: Annotated[
        Literal["auto", "host", "tpm2", "host+tpm2"],
        msgspec.Meta(
            description="What systemd-creds seals it with. The host's key alone lies on the same disk: a copy"
            " of the whole disk opens it."
        ),
    ] = "auto"


class PassphraseTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys.passphrase]`: a passphrase in a file, for the lab."""

    passphrase_file: Annotated[
        str, msgspec.Meta(description="File with the passphrase, 12 bytes or more, mode 0600.")
    ] = ""


class KeysTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys]`: where the key lies that opens the private keys' files."""

    place: Annotated[
        PlaceName,
        msgspec.Meta(
            description="`files`: the keys lie open, for the lab. Else each is sealed, and opens only with"
            " this machine's TPM, an HSM, systemd's credentials, or a passphrase."
        ),
    ] = "files"
    kek_dir: Annotated[
        str, msgspec.Meta(min_length=1, description="Directory of the sealed key-encryption key.")
    ] = "secrets"
    tpm2: Tpm2Table = Tpm2Table()
    pkcs11: Pkcs11Table = Pkcs11Table()
    systemd: SystemdTable = SystemdTable()
    passphrase: PassphraseTable = PassphraseTable()
