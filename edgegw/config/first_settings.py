"""A box's first settings, written from its claim: what a technician would otherwise type on a ladder.

Files and folders are those of the defaults, beside the settings. Leaves out the claim (`core.enrolment`) and
what the options mean (`config.box`).
"""

from __future__ import annotations

import msgspec

from edgegw.core.enrolment import Claim
from edgegw.tls_tables import PLAIN


def first_settings(claim: Claim, *, place: str) -> str:
    """The TOML text of a box that has this claim and nothing else; ValueError where the claim does not say
    where the hub's exchange is. place: where its keys are to lie, `files` or one of `config.keys`."""
    if not claim.line:
        raise ValueError(
            "the claim does not name the hub's exchange, so no settings can be written from it: give them, or"
            " have the centre set enrolment.line in its settings and make another claim"
        )
    profile = claim.line_profile or claim.profile
    if profile == PLAIN:
        raise ValueError(
            "the hub's exchange is plain, and enrolment is for lines that are encrypted: have the centre give"
            " its settings [tls]"
        )
    hubs = "".join(
        f"[[hub.addresses]]\nurl = {_text(url)}\npriority = {number}\n"
        for number, url in enumerate(claim.line)
    )
    name = f"server_name = {_text(claim.server_name)}\n" if claim.server_name else ""
    keys = "" if place == "files" else f"[keys]\nplace = {_text(place)}\n\n"
    return f"""# Written by `edgegw enroll` from its claim. REFERENCE.md names every option.
bank = {_text(claim.bank)}
box = {_text(claim.box)}

{keys}[hub]
key = {_text(claim.hub_key)}
{hubs}
[hub.tls]
profile = {_text(profile)}
ca_file = "secrets/ca.pem"
certificate_file = "secrets/box.pem"
key_file = "secrets/box.key"
crl_file = "secrets/crl.pem"
{name}
[enrolment]
addresses = {_text(claim.addresses)}
profile = {_text(claim.profile)}
{name}branch = {_text(claim.branch)}

# Tills on other machines need host = "0.0.0.0" and an [http.tls].
[http]
host = "127.0.0.1"
"""


def _text(value: object) -> str:
    """A value as TOML, whose texts and lists are written as JSON's."""
    return msgspec.json.encode(value).decode()
