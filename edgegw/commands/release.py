"""`edgegw release`: the centre's releases: their keys, the repository, who takes which, and publishing.

Leaves out the repository's form (`update.repository`) and the box's side (`commands.update`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from edgegw.commands import hub_settings_option, json_option, print_json
from edgegw.config.options import SettingsError
from edgegw.core.records import UNREADABLE

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from edgegw.update.choosing import Offer
    from edgegw.update.repository import Life, Repository

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
FilePath: Final = click.Path(dir_okay=False, path_type=Path)
FolderPath: Final = click.Path(file_okay=False, path_type=Path)
ROLES: Final = ("root", "targets", "online")

folder_argument = click.argument("folder", type=FolderPath)
targets_option = click.option(
    "--targets-key", "targets_keys", multiple=True, required=True, type=FilePath, help="Signs releases."
)
online_option = click.option(
    "--online-key", required=True, type=FilePath, help="Signs snapshot and timestamp."
)
now_option = click.option(
    "--now",
    "now_s",
    type=int,
    default=None,
    help="Sign as at this moment (Unix seconds); the machine's clock else.",
)


@click.group()
def release() -> None:
    """Releases for appliances: a TUF repository whose root and releases are signed offline.

    \b
    edgegw release key root.pem
    edgegw release init releases --root-key root.pem --targets-key targets.pem --online-key online.pem
    edgegw release add releases edgegw-0.2.0+1-cloud.raucb --targets-key targets.pem --online-key online.pem
    edgegw release rollout releases 0.2.0+1 --percent 10 --targets-key targets.pem --online-key online.pem
    edgegw release publish releases /srv/edgegw/updates
    edgegw release show releases
    edgegw release fleet --hub hub.toml
    """


@release.command("key")
@click.argument("file", type=FilePath)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase and encrypt the key with it.")
def release_key(file: Path, passphrase: bool) -> None:
    """Make an Ed25519 key for releases; its id is printed. Root and targets keys belong offline.

    Example: edgegw release key root.pem --passphrase
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from securesystemslib.signer import CryptoSigner

    from edgegw.access.key_files import write_new_file

    key = Ed25519PrivateKey.generate()
    protected = NoEncryption() if not passphrase else BestAvailableEncryption(_asked(file, again=True))
    write_new_file(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected), mode=0o600)
    click.echo(CryptoSigner(key).public_key.keyid)


@release.command("init")
@folder_argument
@click.option(
    "--root-key", "root_keys", multiple=True, required=True, type=FilePath, help="Signs roots; repeatable."
)
@targets_option
@online_option
@click.option(
    "--root-threshold",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many root keys a root needs.",
)
@click.option(
    "--targets-threshold",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many targets keys a release needs.",
)
@now_option
def release_init(
    folder: Path,
    root_keys: tuple[Path, ...],
    targets_keys: tuple[Path, ...],
    online_key: Path,
    root_threshold: int,
    targets_threshold: int,
    now_s: int | None,
) -> None:
    """Make a repository without releases. Its metadata/1.root.json is what images and boxes trust.

    Example: edgegw release init releases --root-key root.pem --targets-key targets.pem --online-key o.pem
    """
    from edgegw.update.repository import Keys

    keys = Keys(
        root=[_signer(path) for path in root_keys],
        targets=[_signer(path) for path in targets_keys],
        online=_signer(online_key),
        root_threshold=root_threshold,
        targets_threshold=targets_threshold,
    )
    _repository(folder).create(keys, _life(now_s))
    click.echo(f"{folder / 'metadata' / '1.root.json'} is what boxes trust")


@release.command("add")
@folder_argument
@click.argument("bundle", type=FilePath)
@targets_option
@online_option
@click.option(
    "--facts",
    type=FilePath,
    help="File with the bundle's facts, JSON; else the one that the builder put beside it, NAME.json.",
)
@click.option("--percent", type=click.IntRange(0, 100), default=100, show_default=True, help="As rollout.")
@click.option("--box", "boxes", multiple=True, help="As rollout.")
@now_option
def release_add(
    folder: Path,
    bundle: Path,
    targets_keys: tuple[Path, ...],
    online_key: Path,
    facts: Path | None,
    percent: int,
    boxes: tuple[str, ...],
    now_s: int | None,
) -> None:
    """Take a bundle up as a release. The same number never gets another content.

    Example: edgegw release add releases edgegw-0.2.0+1-cloud.raucb --targets-key t.pem --online-key o.pem
    """
    from edgegw.update.choosing import Rollout

    offer = _offer(facts or bundle.with_suffix(".json"))
    offer = msgspec.structs.replace(offer, rollout=Rollout(percent=percent, boxes=boxes))
    signers = [_signer(path) for path in targets_keys]
    file = _repository(folder).add(
        bundle, offer, signers=signers, online=_signer(online_key), life=_life(now_s)
    )
    click.echo(f"{offer.version} for {offer.compatible}, {file.length} bytes, {file.hashes['sha256']}")


@release.command("rollout")
@folder_argument
@click.argument("version")
@targets_option
@online_option
@click.option("--percent", type=click.IntRange(0, 100), default=0, show_default=True, help="Of all boxes.")
@click.option("--box", "boxes", multiple=True, help="BANK/BOX that takes it whatever the share; repeatable.")
@now_option
def release_rollout(
    folder: Path,
    version: str,
    targets_keys: tuple[Path, ...],
    online_key: Path,
    percent: int,
    boxes: tuple[str, ...],
    now_s: int | None,
) -> None:
    """Say anew which boxes take a release by themselves: canaries first, then a share that grows.

    Example: edgegw release rollout releases 0.2.0+1 --box bank/b1 --targets-key t.pem --online-key o.pem
    """
    from edgegw.update.choosing import Rollout

    rollout = Rollout(percent=percent, boxes=boxes)
    signers = [_signer(path) for path in targets_keys]
    _repository(folder).roll_out(
        version, rollout, signers=signers, online=_signer(online_key), life=_life(now_s)
    )
    click.echo(f"{version}: {percent} of 100 boxes" + (f", and {', '.join(boxes)}" if boxes else ""))


@release.command("withdraw")
@folder_argument
@click.argument("version")
@targets_option
@online_option
@now_option
def release_withdraw(
    folder: Path, version: str, targets_keys: tuple[Path, ...], online_key: Path, now_s: int | None
) -> None:
    """Offer a release no more. Boxes that have it keep it; they go on with the next one.

    Example: edgegw release withdraw releases 0.2.0+1 --targets-key t.pem --online-key o.pem
    """
    signers = [_signer(path) for path in targets_keys]
    paths = _repository(folder).roll_out(
        version, None, signers=signers, online=_signer(online_key), life=_life(now_s)
    )
    click.echo(f"withdrawn: {', '.join(paths)}")


@release.command("refresh")
@folder_argument
@online_option
@click.option(
    "--targets-key", "targets_keys", multiple=True, type=FilePath, help="Sign the releases afresh as well."
)
@now_option
def release_refresh(
    folder: Path, online_key: Path, targets_keys: tuple[Path, ...], now_s: int | None
) -> None:
    """Sign the timestamp afresh, before boxes take the repository for frozen. FOLDER may be the published
    one; a hub that has the online key does this by itself.

    Example: edgegw release refresh /srv/edgegw/updates --online-key online.pem
    """
    repository, online, life = _repository(folder), _signer(online_key), _life(now_s)
    if targets_keys:
        repository.renew(signers=[_signer(path) for path in targets_keys], online=online, life=life)
    else:
        repository.refresh(online, life)
    click.echo(f"fresh until {_day(repository.timestamp().signed.expires)}")


@release.command("rotate")
@folder_argument
@click.option("--key", "keys", multiple=True, type=FilePath, help="A root key, old or new, that signs now.")
@click.option(
    "--role", type=click.Choice(ROLES), default="root", show_default=True, help="Whose keys change."
)
@click.option("--add", "added", multiple=True, type=FilePath, help="A key that the role gets.")
@click.option("--drop", "dropped", multiple=True, help="The id of a key that it loses, or its beginning.")
@click.option("--threshold", type=click.IntRange(min=1), help="How many of its keys it takes from now on.")
@now_option
def release_rotate(
    folder: Path,
    keys: tuple[Path, ...],
    role: str,
    added: tuple[Path, ...],
    dropped: tuple[str, ...],
    threshold: int | None,
    now_s: int | None,
) -> None:
    """Begin the next root: other keys, or the same ones for a longer time. Old and new root keys sign it,
    here or with `edgegw release sign`; then it is published with the rest.

    After a change of targets or online keys, sign the releases with the new ones: `release refresh`.

    Example: edgegw release rotate releases --add new.pem --drop 3f2a --key old.pem --key new.pem
    """
    from tuf.api.metadata import Root

    from edgegw.update.repository import replace_keys

    fresh = [_signer(path).public_key for path in added]

    def change(root: Root) -> None:
        for name in ("snapshot", "timestamp") if role == "online" else (role,):
            replace_keys(root, name, add=fresh, drop=dropped, threshold=threshold)

    repository = _repository(folder)
    number = repository.rotate(change, [_signer(path) for path in keys], _life(now_s))
    _say_signed(repository, number)


@release.command("sign")
@folder_argument
@click.option("--key", "keys", multiple=True, required=True, type=FilePath, help="A root key, old or new.")
def release_sign(folder: Path, keys: tuple[Path, ...]) -> None:
    """Sign the root that waits for it (staged/N.root.json), where its keys lie in several hands.

    Example: edgegw release sign releases --key root2.pem
    """
    repository = _repository(folder)
    number = repository.root().signed.version + 1
    repository.sign_root([_signer(path) for path in keys])
    _say_signed(repository, number)


@release.command("publish")
@folder_argument
@click.argument("to", type=FolderPath)
@click.option("--online-key", type=FilePath, help="Where the published timestamp is ahead of this one.")
@now_option
def release_publish(folder: Path, to: Path, online_key: Path | None, now_s: int | None) -> None:
    """Bring the folder that a hub serves, or edgegw/updates of a stick, to this state; the timestamp last.
    Unmount a stick before it is pulled.

    Example: edgegw release publish releases /srv/edgegw/updates
    """
    from edgegw.update.publishing import publish

    online = None if online_key is None else _signer(online_key)
    copied = publish(_repository(folder), to, online=online, life=_life(now_s))
    click.echo(f"{copied} files published")


@release.command("show")
@folder_argument
@json_option
def release_show(folder: Path, as_json: bool) -> None:
    """Say what a repository offers to whom, who signs it, and when that ends.

    Example: edgegw release show releases
    """
    repository = _repository(folder)
    root, targets = repository.root().signed, repository.targets().signed
    roles = {
        name: {"threshold": role.threshold, "keys": [keyid[:16] for keyid in role.keyids]}
        for name, role in root.roles.items()
    }
    ends = {
        "root": _day(root.expires),
        "targets": _day(targets.expires),
        "timestamp": _day(repository.timestamp().signed.expires),
    }
    releases = [
        {"path": path, "bytes": file.length, "sha256": file.hashes["sha256"], **msgspec.to_builtins(offer)}
        for path, (file, offer) in sorted(repository.offers().items())
    ]
    if as_json:
        print_json({"root": root.version, "roles": roles, "ends": ends, "releases": releases})
        return
    click.echo(f"root {root.version}; ends: " + ", ".join(f"{name} {day}" for name, day in ends.items()))
    for name, held in root.roles.items():
        click.echo(f"{name}: {held.threshold} of {', '.join(keyid[:16] for keyid in held.keyids)}")
    for one in releases:
        to = one["rollout"]
        who = f"{to['percent']} of 100 boxes" + (f" and {', '.join(to['boxes'])}" if to["boxes"] else "")
        click.echo(f"{one['version']} for {one['compatible']}, epoch {one['security_epoch']}: {who}")


@release.command("fleet")
@click.option("--version", default="", help="Only boxes that do not run this one.")
@json_option
@hub_settings_option
def release_fleet(version: str, as_json: bool, hub_settings: Path) -> None:
    """Say which program each box runs, what is under way there, and what has failed; the boxes' own word.

    Example: edgegw release fleet --hub hub.toml
    """
    from sqlalchemy import select

    from edgegw.commands.hub import open_books
    from edgegw.hub import schema

    box = schema.box.c
    query = select(box.box, box.program, box.program_word, box.program_problem, box.beat_at_ns)
    with open_books(hub_settings) as books:
        rows = books.database.transact(lambda c: c.execute(query.order_by(box.box)).mappings().all())
    for row in rows:
        if version and row["program"] == version:
            continue
        if as_json:
            print_json(dict(row))
            continue
        words = [row["program"] or "has not said", row["program_word"], row["program_problem"]]
        heard = _day(datetime.fromtimestamp(row["beat_at_ns"] / 1e9, UTC)) if row["beat_at_ns"] else "never"
        click.echo(f"{row['box']}: {', '.join(word for word in words if word)}; heard {heard}")


@release.command("facts")
def release_facts() -> None:
    """Print what this program's ledger is, JSON, for the facts of a bundle that holds it.

    Example: edgegw release facts
    """
    from edgegw import __version__
    from edgegw.ledger.schema import MIGRATIONS, READABLE_FROM

    print_json({"program": __version__, "schema": len(MIGRATIONS), "readable_from": READABLE_FROM})


def refresh_of(directory: Path, key_file: Path) -> Callable[[], bool]:
    """What signs the timestamp of a published repository afresh where that is due; raises KeyFileError."""
    online = _signer(key_file)
    return lambda: _repository(directory).refresh(online, _life(None), always=False)


def _say_signed(repository: Repository, number: int) -> None:
    if repository.root().signed.version == number:
        click.echo(f"root {number} is signed by enough keys, old and new; publish it")
    else:
        click.echo(f"root {number} waits for more signatures: `edgegw release sign`")


def _offer(path: Path) -> Offer:
    from edgegw.update.choosing import Offer

    try:
        return msgspec.json.decode(path.read_bytes(), type=Offer)
    except FileNotFoundError:
        raise SettingsError(
            str(path), ["it is missing; the builder writes it beside the bundle, or give --facts"]
        ) from None
    except (OSError, *UNREADABLE) as problem:
        raise SettingsError(str(path), [f"it says nothing of a bundle ({problem})"]) from None


def _repository(folder: Path) -> Repository:
    from edgegw.update.repository import Repository

    return Repository(folder)


def _life(now_s: int | None) -> Life:
    from edgegw.update.repository import Life

    return Life(datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC))


def _signer(path: Path) -> CryptoSigner:
    """The key of a file; raises KeyFileError."""
    from edgegw.access.key_files import KeyFileError, read_key_file
    from edgegw.commands.release_keys import signer_of

    body = read_key_file(path)
    try:
        return signer_of(body, lambda: _asked(path, again=False))
    except ValueError as problem:
        raise KeyFileError(path, str(problem), hint="`edgegw release key` makes one") from None


def _asked(path: Path, *, again: bool) -> bytes:
    text: str = click.prompt(f"passphrase of {path}", hide_input=True, confirmation_prompt=again, err=True)
    return text.encode()


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
