"""Boxes that enrol at a hub, and the desk that they come to: the requests as bytes, with nothing between."""

import os
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from edgegw.access.certificate_keys import (
    CertificateKey,
    claim_public,
    claim_signature,
    make_certificate_key,
)
from edgegw.access.keys import SigningKey
from edgegw.core.enrolment import (
    CLAIM,
    DEVICE,
    VERSION,
    Enrol,
    Enrolled,
    Kind,
    Leave,
    Left,
    Refusal,
    Renew,
    Reply,
    Request,
    Signed,
    Wanted,
    encode_body,
    encode_signed,
    old_role,
    read_request,
    signed_text,
)
from edgegw.hub.certificates import make_authority
from edgegw.hub.claims import make_claim
from edgegw.hub.enrolments import Desk, No, Scene
from edgegw.hub.identity_log import Event, events
from tests.hub.simulated_box import BANK, new_key
from tests.hub.world import World

T = TypeVar("T")
DAY_S = 86_400
LIFE_S = 90 * DAY_S
NS = 1_000_000_000
BRANCH = "Harbour Street"


class Ticket(NamedTuple):
    """What of a claim a box needs."""

    id: str
    seed: bytes


class Applicant:
    """A box's machine, with the keys that it has made."""

    def __init__(
        self, box: str, *, kinds: Iterable[Kind] = ("p256",), device: SigningKey | None = None
    ) -> None:
        self.box = box
        self.device = device or new_key(f"{BANK}/{box}")
        self.keys: dict[Kind, CertificateKey] = {kind: make_certificate_key(kind) for kind in kinds}
        self.certificates: dict[Kind, bytes] = {}

    def signed(self, body: Request, more: dict[str, bytes]) -> bytes:
        """A request that the device has signed, and whoever else."""
        raw = encode_body(body)
        return encode_signed(
            Signed(body=raw, signatures={DEVICE: self.device.sign(signed_text(DEVICE, raw)), **more})
        )

    def enrolment(self, ticket: Ticket, *, seed: bytes = b"", **changes: object) -> bytes:
        """The request that uses a claim; what is changed is signed as it is."""
        values: dict[str, object] = {
            "version": VERSION,
            "claim": ticket.id,
            "bank": BANK,
            "box": self.box,
            "branch": BRANCH,
            "device_key": self.device.public.text(),
            "wanted": tuple(Wanted(kind=one, public_key=key.public) for one, key in self.keys.items()),
            "nonce": os.urandom(16),
            "clock_s": 0,
        }
        body = Enrol(**(values | changes))  # type: ignore[arg-type]
        raw = encode_body(body)
        proofs: dict[str, bytes] = {one: key.sign(signed_text(one, raw)) for one, key in self.keys.items()}
        return self.signed(body, {CLAIM: claim_signature(seed or ticket.seed, raw), **proofs})

    def renewal(self, fresh: dict[Kind, CertificateKey] | None = None, **changes: object) -> bytes:
        """The request that renews what it holds, for new keys."""
        new = fresh or {kind: make_certificate_key(kind) for kind in self.keys}
        values: dict[str, object] = {
            "version": VERSION,
            "bank": BANK,
            "box": self.box,
            "device_key": self.device.public.text(),
            "wanted": tuple(Wanted(kind=kind, public_key=key.public) for kind, key in new.items()),
            "held": tuple(self.certificates[kind] for kind in new),
            "nonce": os.urandom(16),
            "clock_s": 0,
        }
        body = Renew(**(values | changes))  # type: ignore[arg-type]
        raw = encode_body(body)
        proofs: dict[str, bytes] = {kind: key.sign(signed_text(kind, raw)) for kind, key in new.items()}
        proofs |= {old_role(kind): self.keys[kind].sign(signed_text(old_role(kind), raw)) for kind in new}
        return self.signed(body, proofs)

    def leaving(self) -> bytes:
        """The request that gives the identity up."""
        nonce = os.urandom(16)
        key = self.device.public.text()
        return self.signed(
            Leave(version=VERSION, bank=BANK, box=self.box, device_key=key, nonce=nonce, clock_s=0), {}
        )

    def take(self, reply: Reply | No, fresh: dict[Kind, CertificateKey] | None = None) -> Enrolled:
        """Keep what was granted."""
        assert isinstance(reply, Enrolled), reply
        self.keys |= fresh or {}
        self.certificates |= {one.kind: one.chain[0] for one in reply.certificates}
        return reply


class Office:
    """The hub's desk, and the person who makes claims."""

    def __init__(self, world: World, *, kinds: Iterable[Kind] = ("p256",)) -> None:
        self.world = world
        now_s = world.now_ns() // NS
        self.authorities = {
            kind: make_authority(
                make_certificate_key(kind), name=f"CA {kind}", at_s=now_s, ends_s=now_s + 3_650 * DAY_S
            )
            for kind in kinds
        }
        self.desk = Desk(bank=BANK, authorities=self.authorities, life_s=LIFE_S)

    def run(self, work: Callable[[Connection], T]) -> T:
        """One transaction of the hub's."""
        return self.world.database.transact(work)

    def claim(
        self,
        box: str,
        *,
        replaces: bool = False,
        hours: int = 24,
        branch: str = BRANCH,
        hosts: tuple[str, ...] = (),
    ) -> Ticket:
        """A claim for a box."""
        ticket = Ticket(secrets.token_hex(16), os.urandom(32))
        self.run(
            lambda c: make_claim(
                c,
                id=ticket.id,
                box=box,
                branch=branch,
                public_key=claim_public(ticket.seed).hex(),
                hosts=hosts,
                expires_s=self.world.now_ns() // NS + hours * 3_600,
                replaces=replaces,
                by="mei",
                now_ns=self.world.now_ns(),
            )
        )
        return ticket

    def ask(self, data: bytes) -> Reply | No:
        """What the desk answers."""
        signed, request = read_request(data)
        return self.run(
            lambda c: self.desk.answer(
                Scene(c, signed, "192.0.2.7", self.world.now_ns(), lambda: True), request
            )
        )

    def refused(self, data: bytes) -> Refusal:
        """As what it refuses."""
        answer = self.ask(data)
        assert isinstance(answer, No), answer
        return answer.code

    def enrolled(self, box: str) -> Applicant:
        """A box that has enrolled by a claim of its own."""
        one = Applicant(box, kinds=self.authorities)
        one.take(self.ask(one.enrolment(self.claim(box))))
        return one

    def left(self, data: bytes) -> Left:
        """The word for a box that leaves."""
        answer = self.ask(data)
        assert isinstance(answer, Left), answer
        return answer

    def alarms(self) -> list[Event]:
        """Every alarm so far."""
        return self.run(lambda c: events(c, alarms=True))

    def pass_time(self, seconds: int) -> None:
        """Let the hub's clock go on."""
        self.world.ahead_ns += seconds * NS
