"""The build's command line: `python -m firmware --help` names every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from edgegw.errors import OperatingError
from firmware import image, keys, lockfile, product, resolve, roots, sbom, virtual
from firmware.layout import ProfileName
from firmware.places import BuildError, program


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def firmware() -> None:
    """Build the appliance from locked packages. firmware/README.md tells how."""


@firmware.command()
@click.argument("names", nargs=-1)
def lock(names: tuple[str, ...]) -> None:
    """Lock today's versions of Debian's packages for all roots, or for those NAMES."""
    for written in resolve.write_locks(list(names or lockfile.catalogue().roots)):
        size_mb = written.size_bytes // 1_000_000
        click.echo(f"{lockfile.lock_path(written.root)}: {len(written.packages)} packages, {size_mb} MB")


@firmware.command()
@click.argument("names", nargs=-1)
def root(names: tuple[str, ...]) -> None:
    """Make the root file systems NAMES (all without a name) from their locks; print where they are."""
    for name in names or tuple(lockfile.catalogue().roots):
        click.echo(roots.ready(name).path)


@firmware.command()
@click.argument("profile", type=click.Choice(["cloud", "hardware"]))
def squashfs(profile: ProfileName) -> None:
    """Make the finished root of a PROFILE, as it goes into a slot; print where it is."""
    built = product.appliance(profile)
    size_mb = built.squashfs.stat().st_size // 1_000_000
    click.echo(f"{built.squashfs}: {size_mb} MB, edgegw {built.version}, kernel {built.kernel_version}")


@firmware.command(name="sbom")
@click.argument("profile", type=click.Choice(["cloud", "hardware"]))
def bill(profile: ProfileName) -> None:
    """Write what is in the finished root of a PROFILE, as CycloneDX; print where it is."""
    built = product.appliance(profile)
    click.echo(sbom.write_bill(built, version=built.version))


@firmware.command("image")
@click.argument("profile", type=click.Choice(["cloud", "hardware"]), default="cloud")
@click.option("--build", type=int, help="The number after the + of its version; image.toml's unless given.")
def make_image(profile: ProfileName, build: int | None) -> None:
    """Build the image of a PROFILE, with its bundle for updates; print where they are."""
    made = image.image(profile, build=build)
    for path in (made.disk, made.bundle, made.kernel_image, made.facts, made.contents, made.flasher):
        if path is not None:
            click.echo(path)
    most = product.SIZE_BYTES_MAX[profile]
    click.echo(f"root with its hashes: {made.root_bytes / 1e6:.1f} MB of {most / 1e6:.0f} MB")


@firmware.command()
@click.argument("disk", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="machine",
    show_default=True,
    help="What outlasts a start: the disk's changes, the firmware's variables, the TPM.",
)
@click.option("--claim", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Handed to it.")
@click.option(
    "--forward",
    type=(int, int),
    multiple=True,
    default=((8443, 18443), (8090, 18090)),
    show_default=True,
    metavar="GUEST HERE",
    help="A port of the machine, and the one of this machine's loopback that leads there.",
)
def boot(disk: Path, folder: Path, claim: Path | None, forward: tuple[tuple[int, int], ...]) -> None:
    """Start a virtual machine from an image (DISK stays as it is); Ctrl-C pulls its plug."""
    machine = virtual.Virtual(
        folder,
        image=disk,
        tools=roots.ready("tools").path,
        keys=keys.keys(),
        forwarded=dict(forward),
        claim=None if claim is None else claim.read_text(encoding="utf-8").strip(),
    )
    sys.exit(machine.run())


@firmware.command("keys")
def make_keys() -> None:
    """Make the lab's keys unless they are there; print where they are, and what the firmware must have."""
    found = keys.keys()
    image.releases(found)
    click.echo(found.folder)
    for name in keys.SECURE_BOOT:
        click.echo(found.certificate(name))


@firmware.command()
def prune() -> None:
    """Remove roots that no lock of this checkout asks for any more; the pool is kept."""
    for name in lockfile.catalogue().roots:
        for path in roots.prune(name):
            click.echo(f"removed {path}")


def _as_root_of_its_own() -> None:
    """Begin anew as root of a user namespace where an ordinary user runs this: files of a root file system
    belong to many users, who here are the user's own sub-ids. Raises BuildError where there are none.
    """
    if os.geteuid() == 0:
        return
    words = [program("unshare"), "--user", "--map-root-user", "--map-auto", "--"]
    program("newuidmap")
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise BuildError(
            f"this user may not have a namespace with users of its own: {tried.stderr.strip()}",
            hint="Give it sub-ids, as root (usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
            " NAME), or build as root.",
        )
    os.execv(words[0], [*words, sys.executable, "-m", "firmware", *sys.argv[1:]])  # noqa: S606 - words, no shell


def main() -> int:
    """Run a command; an error that an operator can mend is told in words, with what to do."""
    try:
        _as_root_of_its_own()
        firmware(prog_name="python -m firmware")
    except OperatingError as error:
        click.echo(f"error: {error}\n  {error.hint}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
