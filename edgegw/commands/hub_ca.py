"""`edgegw hub ca`: the hub's certificate authority: claims, certificates, revocations, and their log.

Each command opens the hub's database itself, so it works whether the hub runs or not. Leaves out what a box
does with a claim (`edgegw enroll`).
"""

from __future__ import annotations

import base64
import datetime
import re
import secrets
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgegw.commands import hub_settings_option, json_option, print_json
from edgegw.commands.orders import give_order, person_options
from edgegw.config.hub import EnrolmentTable, HubSettings, load_hub
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import (
    CLAIM_FORMAT,
    KINDS,
    SEED_BYTES,
    Claim,
    EnrolmentError,
    Kind,
    encode_claim,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgegw.access.operators import Person
    from edgegw.hub.certificates import Authority
    from edgegw.hub.identity_log import Event

NS_PER_S: Final = 1_000_000_000
DAY_S: Final = 86_400
HOUR_S: Final = 3_600
CLAIM_HOURS: Final = 24
CLIENT_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
FilePath: Final = click.Path(dir_okay=False, path_type=Path)
kind_option = click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="p256",
    show_default=True,
    help="p256 for the profiles intl and pq, sm2 for gm and gm-pq.",
)


@click.group("ca")
def ca() -> None:
    """The hub's certificate authority: who may speak for which box, with which certificate.

    \b
    edgegw hub ca init --kind p256 --hub hub.toml
    edgegw hub ca certificate --host hub.bank --out hub.crt --key-out hub.key
    edgegw hub ca claim branch-1 --branch "Harbour Street" --out claim.json
    edgegw hub ca list
    edgegw hub ca revoke branch-1 --reason "stolen"
    edgegw hub ca crl --out ca.crl
    edgegw hub ca log
    """


@ca.command("init")
@kind_option
@click.option(
    "--years", type=click.IntRange(1, 50), default=20, show_default=True, help="How long the CA lives."
)
@hub_settings_option
def ca_init(kind: Kind, years: int, hub_settings: Path) -> None:
    """Make a CA: its key, sealed as [keys] of the settings says, and its certificate, which is printed.

    Example: edgegw hub ca init --kind p256 --hub hub.toml
    """
    from edgegw.authorities import certificate_file, create_authority, enrolment_table
    from edgegw.hub.certificates import pem_of
    from edgegw.key_places import keystore_of

    settings = load_hub(hub_settings)
    enrolment_table(settings)
    now_s = int(time.time())
    ends_s = now_s + years * 365 * DAY_S
    made = create_authority(keystore_of(settings), settings, kind, at_s=now_s, ends_s=ends_s)
    _keep_lists(hub_settings)
    click.echo(pem_of(made.der).decode(), nl=False)
    click.echo(f"its certificate is {certificate_file(settings, kind)}", err=True)


@ca.command("certificate")
@kind_option
@click.option("--host", "hosts", multiple=True, help="A name or an address of the server; may be repeated.")
@click.option("--client", default="", help="The name of a client of the bank's own, in place of a server's.")
@click.option("--out", required=True, type=FilePath, help="File for the certificate, PEM.")
@click.option("--key-out", required=True, type=FilePath, help="File of its key; made if it is not there yet.")
@click.option(
    "--days", type=click.IntRange(1, 825), help="How long it lives; as the settings' certificate_days."
)
@hub_settings_option
def ca_certificate(
    kind: Kind,
    hosts: tuple[str, ...],
    client: str,
    out: Path,
    key_out: Path,
    days: int | None,
    hub_settings: Path,
) -> None:
    """Certify a server of the bank's own (the hub, a mirror, what encrypts in front of either), or a client.

    A client is named as URI:edgegw://BANK/client/NAME, which the site's settings can ask for. The same
    command again renews the certificate, with the same key, in the same file: a server that runs takes it
    up by itself.

    Example: edgegw hub ca certificate --host hub.bank --out hub.crt --key-out hub.key --hub hub.toml
    """
    from edgegw.access.key_files import replace_key_file
    from edgegw.authorities import enrolment_table
    from edgegw.hub.certificates import general_name, pem_of

    if bool(hosts) == bool(client):
        raise click.UsageError("give the server's --host, or --client NAME")
    settings = load_hub(hub_settings)
    life_s = int((days or enrolment_table(settings).certificate_days) * DAY_S)
    for host in hosts:
        try:
            general_name(host)
        except ValueError as problem:
            raise SettingsError(
                "--host", [f"{host}: it is neither a name nor an address ({problem})"]
            ) from None
    if client and not re.fullmatch(CLIENT_NAME, client):
        raise SettingsError("--client", [f"{client}: write 1 to 64 letters, digits or ._-"])
    uri = f"edgegw://{settings.bank}/client/{client}" if client else ""
    authority, public = _authority(settings, kind), _own_key(key_out, kind)
    now_ns = time.time_ns()
    now_s = now_ns // NS_PER_S
    name = client or hosts[0]
    der = authority.issue(public, name=name, uri=uri, hosts=hosts, at_s=now_s, ends_s=now_s + life_s)
    _keep(hub_settings, der, kind=kind, name=uri or name, public=public, ends_s=now_s + life_s, now_ns=now_ns)
    replace_key_file(out, pem_of(der), mode=0o644)
    click.echo(f"{out}: {client or ', '.join(hosts)}, until {_when(now_ns + life_s * NS_PER_S)}")


def _own_key(path: Path, kind: Kind) -> bytes:
    """The public key of a file's key, which is made if there is none; raises KeyFileError."""
    from edgegw.access.certificate_keys import certificate_key_of, make_certificate_key
    from edgegw.access.key_files import KeyFileError, read_key_file, write_new_file

    if not path.exists():
        key = make_certificate_key(kind)
        write_new_file(path, key.to_pem(), mode=0o600)
        return key.public
    try:
        return certificate_key_of(kind, read_key_file(path)).public
    except ValueError as problem:
        raise KeyFileError(path, str(problem), hint="give another file in --key-out") from None


def _keep(
    hub_settings: Path, der: bytes, *, kind: Kind, name: str, public: bytes, ends_s: int, now_ns: int
) -> None:
    """Write down what was certified, before anybody has the certificate."""
    from edgegw.commands.hub import open_books
    from edgegw.hub.certificates import serial_of
    from edgegw.hub.enrolments import keep_certificate
    from edgegw.hub.identities import lock_identities
    from edgegw.hub.identity_log import note_event

    def work(connection: Connection) -> None:
        lock_identities(connection)
        keep_certificate(
            connection,
            der,
            kind=kind,
            box="",
            generation=0,
            name=name,
            public=public,
            ends_s=ends_s,
            renews="",
            now_ns=now_ns,
        )
        detail = f"{name}, serial {serial_of(der):x}"
        note_event(connection, "certified", now_ns=now_ns, detail=detail)

    with open_books(hub_settings) as books:
        books.database.transact(work)


@ca.command("claim")
@click.argument("box", required=False)
@click.option(
    "--branch", default="", help="Where the box stands, in the bank's own words; the box must say so."
)
@click.option(
    "--host", "hosts", multiple=True, help="A name or an address under which the box serves its branch."
)
@click.option(
    "--hours", type=click.IntRange(min=1), help=f"How long it may be used; {CLAIM_HOURS} unless told."
)
@click.option(
    "--replaces", is_flag=True, help="It puts another device in the place of the box's present one."
)
@click.option(
    "--settings",
    "chosen",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with tables of the box's settings ([http], [log], ...) that a new box is to have.",
)
@click.option("--out", type=FilePath, help="File for the claim, which is a secret until it is used.")
@click.option(
    "--qr",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File for the same as a QR code, .svg or .png by its name, or - for the terminal; as secret.",
)
@click.option("--withdraw", "withdrawn", default="", help="The id of a claim that must not be used any more.")
@person_options
@hub_settings_option
def ca_claim(
    box: str | None,
    branch: str,
    hosts: tuple[str, ...],
    hours: int | None,
    replaces: bool,
    chosen: Path | None,
    out: Path | None,
    qr: Path | None,
    withdrawn: str,
    person: Person,
    hub_settings: Path,
) -> None:
    """Make the one-time claim by which a box enrols, or withdraw one that was lost.

    Carry the file to the box on a USB stick. Whoever has it may enrol this box, once, until it expires; a
    claim before it for the same box is withdrawn. With --replaces the device that the box has is fenced
    with the claim's use, and the box gets its next epoch. Where operators are listed, a claim is good once
    a second person has approved it.

    Example: edgegw hub ca claim branch-1 --branch "Harbour Street" --out claim.json --hub hub.toml
    """
    if withdrawn:
        _withdraw(withdrawn, person, hub_settings)
        return
    if box is None or out is None:
        raise click.UsageError("name the box and give --out FILE, or give --withdraw ID")
    _claim(box, branch, hosts, hours, replaces, chosen, out, qr, person, hub_settings)


def _claim(
    box: str,
    branch: str,
    hosts: tuple[str, ...],
    hours: int | None,
    replaces: bool,
    chosen: Path | None,
    out: Path,
    qr: Path | None,
    person: Person,
    hub_settings: Path,
) -> None:
    from edgegw.access.certificate_keys import claim_public
    from edgegw.access.key_files import write_new_file
    from edgegw.authorities import enrolment_table
    from edgegw.hub.order_actions import MakeClaim, ReplaceDevice

    settings = load_hub(hub_settings)
    table = enrolment_table(settings)
    life_s = _life_s(table, hours)
    seed = secrets.token_bytes(SEED_BYTES)
    claim = _document(settings, table, box, branch, replaces, seed, int(time.time()) + life_s)
    if chosen is not None:
        claim = _with_settings(claim, chosen)
    shape = ReplaceDevice if replaces else MakeClaim
    action = shape(
        id=claim.id,
        box=claim.box,
        branch=branch,
        public_key=claim_public(seed).hex(),
        hosts=hosts,
        expires_s=claim.expires_at_s,
    )
    try:
        body = encode_claim(claim)
    except EnrolmentError as problem:
        mend = "give [enrolment] fewer addresses, or one CA, or the claim fewer --settings"
        raise SettingsError("the claim", [f"{problem}; {mend}"]) from None
    is_shown = str(qr) == "-"
    files = [(out, body), *([(qr, _qr(body, qr))] if qr is not None and not is_shown else [])]
    written: list[Path] = []
    for path, _ in files:
        if path.exists():
            raise SettingsError(
                str(path), ["there is a file already, and it may be another box's claim: give another name"]
            )
    try:
        for path, content in files:
            write_new_file(path, content, mode=0o600)
            written.append(path)
        give_order(hub_settings, action, person=person, what="the claim")
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    if is_shown:
        _show_qr(body)
    click.echo(f"{out}: for {box}, until {_when(claim.expires_at_s * NS_PER_S)}; keep it secret till then")


def _with_settings(claim: Claim, file: Path) -> Claim:
    """The claim with the file's tables, once a box could be run by what it makes of them; raises
    SettingsError."""
    import tempfile

    import msgspec

    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box
    from edgegw.config.files import read_toml
    from edgegw.config.first_settings import first_settings

    mend = "give tables, as a box's settings have them"
    try:
        given = msgspec.convert(read_toml(file), dict[str, dict[str, object]])
        made = msgspec.structs.replace(claim, settings=given)
        text = first_settings(made, keys={}, for_branch=True)
    except (msgspec.ValidationError, ValueError) as problem:
        raise SettingsError(str(file), [f"{problem}; {mend}"]) from None
    with tempfile.TemporaryDirectory() as folder:
        box = Path(folder, "box.toml")
        box.write_text(text, encoding="utf-8")
        try:
            load_box(box, protocol_shapes())
        except SettingsError as problem:
            raise SettingsError(str(file), list(problem.faults)) from None
    return made


def _show_qr(body: bytes) -> None:
    """Draw the QR code with the terminal's own characters, two rows in a line."""
    import io

    import segno

    drawn = io.StringIO()
    segno.make_qr(body, error="l").terminal(drawn, border=2, compact=True)
    click.echo(drawn.getvalue())


def _qr(body: bytes, path: Path) -> bytes:
    """The claim's bytes as a QR code, in the format that the file's name asks for; raises SettingsError."""
    import io

    import segno

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("svg", "png"):
        raise SettingsError("--qr", [f"{path}: give a name that ends in .svg or .png"])
    content = io.BytesIO()
    segno.make_qr(body, error="l").save(content, kind=kind, scale=4)
    return content.getvalue()


def _life_s(table: EnrolmentTable, hours: int | None) -> int:
    wanted = min(CLAIM_HOURS, table.claim_hours_max) if hours is None else hours
    if wanted > table.claim_hours_max:
        mend = "give it less, or raise claim_hours_max in [enrolment]"
        raise SettingsError(
            "--hours", [f"{wanted} is more than claim_hours_max = {table.claim_hours_max}; {mend}"]
        )
    return wanted * HOUR_S


def _document(
    settings: HubSettings,
    table: EnrolmentTable,
    box: str,
    branch: str,
    replaces: bool,
    seed: bytes,
    expires_at_s: int,
) -> Claim:
    """The claim; raises SettingsError."""
    import msgspec

    from edgegw.access.keys import open_signing_key
    from edgegw.authorities import load_authorities
    from edgegw.key_places import hub_key_file, keystore_of

    keystore = keystore_of(settings)
    authorities = load_authorities(keystore, settings)
    if not table.addresses or not authorities:
        what = "addresses: none" if authorities else "ca_dir: there is no CA"
        mend = "write where boxes reach the enrolment" if authorities else "make one: edgegw hub ca init"
        raise SettingsError("enrolment", [f"{what}; {mend}"])
    made = Claim(
        format=CLAIM_FORMAT,
        id=secrets.token_hex(16),
        bank=settings.bank,
        box=box,
        branch=branch,
        addresses=table.addresses,
        profile="plain" if table.tls is msgspec.UNSET else table.tls.profile,
        server_name=table.server_name,
        line=table.line,
        line_profile="" if settings.tls is msgspec.UNSET else settings.tls.profile,
        hub_key=open_signing_key(keystore, hub_key_file(settings)).public.text(),
        authorities=tuple(base64.b64encode(one.der).decode() for one in authorities.values()),
        expires_at_s=expires_at_s,
        replaces=replaces,
        seed=base64.b64encode(seed).decode(),
    )
    try:
        return msgspec.convert(msgspec.to_builtins(made), Claim)
    except msgspec.ValidationError as problem:
        mend = "a box's name is small letters, digits and -, a branch has 64 characters at most"
        raise SettingsError("the claim", [f"{problem}; {mend}"]) from None


def _withdraw(id: str, person: Person, hub_settings: Path) -> None:
    from edgegw.hub.order_actions import WithdrawClaim

    give_order(hub_settings, WithdrawClaim(id=id), person=person, what="the claim")


@ca.command("list")
@click.option("--claims", "with_claims", is_flag=True, help="List the claims instead.")
@json_option
@hub_settings_option
def ca_list(with_claims: bool, as_json: bool, hub_settings: Path) -> None:
    """List every device that a box has or had, with its certificates; or the claims.

    Example: edgegw hub ca list --hub hub.toml
    """
    from edgegw.commands.hub import open_books

    with open_books(hub_settings) as books:
        rows = books.database.transact(_claims_listed if with_claims else _devices_listed)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(_told_claim(row) if with_claims else "\n".join(_told_device(row)))
    if not rows:
        click.echo("no claims" if with_claims else "no devices")


def _claims_listed(connection: Connection) -> list[dict[str, Any]]:
    from edgegw.hub.claims import OPEN, claims

    rows = []
    for one in claims(connection):
        row = one._asdict() | {"hosts": one.host_names}
        if one.state == OPEN and one.expires_s <= time.time():
            row["state"] = "expired"
        rows.append({name: value for name, value in row.items() if name not in ("public_key", "used_by")})
    return rows


def _devices_listed(connection: Connection) -> list[dict[str, Any]]:
    from sqlalchemy import select

    from edgegw.hub.identities import identities
    from edgegw.hub.schema import certificate

    table = certificate.c
    columns = (
        table.serial,
        table.kind,
        table.name,
        table.issued_ns,
        table.ends_s,
        table.revoked_s,
        table.reason,
    )
    held: dict[tuple[str, int], list[dict[str, Any]]] = {}
    query = select(table.box, table.generation, *columns).order_by(table.issued_ns)
    for row in connection.execute(query).mappings():
        shown = {name: row[name] for name in row if name not in ("box", "generation")}
        held.setdefault((row["box"], row["generation"]), []).append(shown)
    rows = [
        one._asdict() | {"hosts": one.host_names, "certificates": held.get((one.box, one.generation), [])}
        for one in identities(connection)
    ]
    servers = held.get(("", 0), [])
    return [*rows, *({"box": "", "certificates": [one]} for one in servers)]


def _told_claim(row: dict[str, Any]) -> str:
    what = "replaces the device" if row["replaces"] else "first device"
    branch = f", branch {row['branch']}" if row["branch"] else ""
    until = _when(row["expires_s"] * NS_PER_S)
    tried = f", {row['attempts']} refused uses" if row["attempts"] else ""
    return f"{row['id']} {row['box']}{branch}: {row['state']}, {what}, until {until}{tried}"


def _told_device(row: dict[str, Any]) -> Iterator[str]:
    if row["box"]:
        branch = f", branch {row['branch']}" if row["branch"] else ""
        why = f" ({row['reason']})" if row["reason"] else ""
        since = _when(row["bound_ns"])
        yield f"{row['box']} device {row['generation']}: {row['state']}{why}, {row['origin']} {since}{branch}"
        yield f"  key {row['device_key']}"
    else:
        yield f"certified {row['certificates'][0]['name']}"
    for one in row["certificates"]:
        ends = (
            f"revoked ({one['reason']})" if one["revoked_s"] else f"until {_when(one['ends_s'] * NS_PER_S)}"
        )
        yield f"  certificate {one['kind']} {one['serial']}: {ends}"


@ca.command("revoke")
@click.argument("box", required=False)
@click.option(
    "--serial", default="", help="One certificate by its serial number, in place of a box's device."
)
@click.option("--reason", required=True, help="Why; it is kept, and the box is told.")
@person_options
@hub_settings_option
def ca_revoke(box: str | None, serial: str, reason: str, person: Person, hub_settings: Path) -> None:
    """Let a box's device count no more: it is stolen, lost or taken out of service.

    The hub takes nothing of it from here on, and it clears nothing once it hears so; what it still holds may
    be brought with `edgegw order take-journal`. What was outstanding there stays so until its epoch is over
    and sealed.

    Example: edgegw hub ca revoke branch-1 --reason "stolen" --hub hub.toml
    """
    from edgegw.hub.order_actions import RevokeDevice

    if (box is None) == (not serial):
        raise click.UsageError("name the box, or give --serial")
    action = RevokeDevice(box=box or "", serial=serial, reason=reason)
    if give_order(hub_settings, action, person=person, reason=reason).is_done:
        _keep_lists(hub_settings)


def _keep_lists(hub_settings: Path) -> None:
    """Bring the files of what this machine's CAs have revoked up to date; a hub that serves does so, too."""
    from edgegw.authorities import enrolment_table, keep_list, load_authorities
    from edgegw.commands.hub import open_books
    from edgegw.hub.crls import crl_of
    from edgegw.key_places import keystore_of

    settings = load_hub(hub_settings)
    if not isinstance(settings.enrolment, EnrolmentTable):
        return
    life_s = int(enrolment_table(settings).certificate_days * DAY_S)
    with open_books(hub_settings) as books:
        for kind, authority in load_authorities(keystore_of(settings), settings).items():
            work = partial(crl_of, authority=authority, now_ns=time.time_ns(), life_s=life_s)
            der = books.database.transact(work)
            keep_list(settings, kind, der)


@ca.command("crl")
@kind_option
@click.option("--out", required=True, type=FilePath, help="File for the list, PEM.")
@hub_settings_option
def ca_crl(kind: Kind, out: Path, hub_settings: Path) -> None:
    """Write the list of revoked certificates, for servers on other machines that check them.

    Here it lies beside the CA, and is kept up to date there. The hub's own exchange should do without: it
    knows a revoked device by its key, and must be heard by it to fence it.

    Example: edgegw hub ca crl --out secrets/ca.crl --hub hub.toml
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from edgegw.access.key_files import replace_key_file
    from edgegw.authorities import enrolment_table
    from edgegw.commands.hub import open_books
    from edgegw.hub.crls import crl_of

    settings = load_hub(hub_settings)
    authority = _authority(settings, kind)
    life_s = int(enrolment_table(settings).certificate_days * DAY_S)
    with open_books(hub_settings) as books:
        der = books.database.transact(lambda c: crl_of(c, authority, now_ns=time.time_ns(), life_s=life_s))
    found = x509.load_der_x509_crl(der)
    replace_key_file(out, found.public_bytes(Encoding.PEM), mode=0o644)
    click.echo(f"{out}: {len(found)} revoked, list of {found.last_update_utc:%Y-%m-%d %H:%M} UTC")


@ca.command("log")
@click.option("--alarms", is_flag=True, help="Only what a person should look at.")
@click.option(
    "--seen", type=click.IntRange(min=1), help="Say that the alarms up to this number were looked at."
)
@json_option
@person_options
@hub_settings_option
def ca_log(alarms: bool, seen: int | None, as_json: bool, person: Person, hub_settings: Path) -> None:
    """Tell what happened to claims, devices and certificates, the newest 1 000.

    An alarm stands in `edgegw findings` until somebody says with --seen that they have looked.

    Example: edgegw hub ca log --alarms --hub hub.toml
    """
    from edgegw.commands.hub import open_books
    from edgegw.hub.identity_log import events
    from edgegw.hub.order_actions import SeeAlarms

    if seen is not None:
        give_order(hub_settings, SeeAlarms(number=seen), person=person)
        return
    with open_books(hub_settings) as books:
        rows = books.database.transact(lambda c: events(c, alarms=alarms))
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    for row in rows:
        click.echo(_told_event(row))


def _told_event(row: Event) -> str:
    place = "".join(f" {one}" for one in (row.box, row.remote and f"from {row.remote}") if one)
    claim = f" claim {row.claim}" if row.claim else ""
    mark = "ALARM " if row.alarm else ""
    return f"{row.number} {_when(row.at_ns)} {mark}{row.event}{place}{claim}: {row.detail}"


def _authority(settings: HubSettings, kind: Kind) -> Authority:
    """One of the hub's CAs; raises SettingsError and KeyFileError."""
    from edgegw.authorities import load_authorities
    from edgegw.key_places import keystore_of

    found = load_authorities(keystore_of(settings), settings).get(kind)
    if found is None:
        raise SettingsError(
            "enrolment", [f"there is no CA of kind {kind}; make it: edgegw hub ca init --kind {kind}"]
        )
    return found


def _when(at_ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(at_ns // NS_PER_S, datetime.UTC):%Y-%m-%d %H:%M} UTC"
