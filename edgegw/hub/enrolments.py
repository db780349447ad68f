"""What the hub answers to a box that enrols, renews or leaves, each in one SQL transaction.

The claim is taken in the transaction that binds the keys, behind one lock for all hub processes, so that one
device gets it. A request that is refused is written down with the claim's count of attempts in the same
transaction. Who repeats what was granted gets the same certificates again: a lost answer costs nothing.
Leaves out HTTP and how often anybody may ask (`hub.enrolment_app`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sqlalchemy import Connection, insert, select, update

from edgegw.access.certificate_keys import claim_has_signed, has_signed, point_of
from edgegw.access.keys import VerifyingKey
from edgegw.core.allowance import NS_PER_S
from edgegw.core.enrolment import (
    CLAIM,
    DEVICE,
    VERSION,
    Enrol,
    Enrolled,
    Issued,
    Kind,
    Leave,
    Left,
    Refusal,
    Renew,
    Reply,
    Request,
    Signed,
    Wanted,
    box_uri,
    old_role,
    signed_text,
)
from edgegw.core.journal import sm3
from edgegw.hub import schema
from edgegw.hub.certificates import Authority, serial_of
from edgegw.hub.claims import (
    ATTEMPTS_MAX,
    DEAD,
    OPEN,
    USED,
    WITHDRAWN,
    ClaimRow,
    claim_of,
    note_attempt,
    use_claim,
)
from edgegw.hub.crls import crl_of
from edgegw.hub.identities import (
    DROPPED,
    ENROLLED,
    PINNED,
    REPLACED,
    REPLACEMENT,
    REVOKED,
    Identity,
    adopt,
    bind,
    bound_to,
    end_identity,
    ended_identities,
    live_identity,
    lock_identities,
)
from edgegw.hub.identity_log import note_event, was_told
from edgegw.hub.schema import certificate

RENEWAL_S_MIN: Final = 3_600
"""A certificate that is younger, and in the first third of its life, is not renewed."""


TOLD_AGAIN_NS: Final = 600 * NS_PER_S
"""The same refusal from the same address is written down again after so long."""
UNAUTHENTIC: Final = frozenset(
    {Refusal.CLAIM_UNKNOWN, Refusal.BAD_SIGNATURE, Refusal.NOT_ENROLLED, Refusal.CLAIM_DEAD}
)
"""What anybody can be refused for."""
MADE_UP: Final = frozenset({Refusal.CLAIM_UNKNOWN, Refusal.NOT_ENROLLED})
"""Of these, the ones that may name any claim and box: one row stands for all of a while, lest they bury an
alarm that is authentic."""


class No(NamedTuple):
    """A refusal."""

    code: Refusal
    text: str
    is_alarm: bool = True
    is_attempt: bool = True
    """Whether it counts against the claim."""


class Scene(NamedTuple):
    """Where a request is answered."""

    connection: Connection
    signed: Signed
    remote: str
    now_ns: int
    told: Callable[[], bool]
    """Whether one more refusal of which nothing is authentic is worth a row."""

    @property
    def now_s(self) -> int:
        """Unix time."""
        return self.now_ns // NS_PER_S

    def has(self, role: str, public: bytes) -> bool:
        """Whether a certificate's key has signed as this role."""
        text = signed_text(role, self.signed.body)
        return has_signed(public, text, self.signed.signatures.get(role, b""))

    def is_of_device(self, key: VerifyingKey) -> bool:
        """Whether a device has signed."""
        text = signed_text(DEVICE, self.signed.body)
        return key.verify(text, self.signed.signatures.get(DEVICE, b""))


class Desk:
    """Who binds and certifies: one bank's hub."""

    def __init__(self, *, bank: str, authorities: Mapping[Kind, Authority], life_s: int) -> None:
        self._bank = bank
        self.authorities: Final = authorities
        self._life_s = life_s

    def answer(self, scene: Scene, request: Request) -> Reply | No:
        """The reply to a request whose signatures nobody has checked yet; what is refused is written down."""
        if request.version != VERSION:
            return No(
                Refusal.VERSION, f"the hub speaks version {VERSION}, not {request.version}", is_alarm=False
            )
        lock_identities(scene.connection)
        if isinstance(request, Enrol):
            return self._enrol(scene, request)
        answer = self._renew(scene, request) if isinstance(request, Renew) else self._leave(scene, request)
        if isinstance(answer, No):
            _note_refused(scene, answer, box=request.box)
        return answer

    def crl(self, connection: Connection, kind: Kind, *, now_ns: int) -> bytes | None:
        """The list of what a CA has revoked (DER); None where there is no such CA."""
        authority = self.authorities.get(kind)
        return (
            None if authority is None else crl_of(connection, authority, now_ns=now_ns, life_s=self._life_s)
        )

    # --- enrolment ------------------------------------------------------------------------------------------

    def _enrol(self, scene: Scene, request: Enrol) -> Reply | No:
        row = claim_of(scene.connection, request.claim)
        if row is None:
            refused = No(Refusal.CLAIM_UNKNOWN, "the hub knows no such claim")
            _note_refused(scene, refused, box=request.box, claim=request.claim)
            return refused
        answer = self._use(scene, request, row)
        if isinstance(answer, No):
            dies = answer.is_attempt and note_attempt(scene.connection, row)
            _note_refused(scene, answer, box=row.box, claim=row.id)
            if dies:
                detail = f"{ATTEMPTS_MAX} uses were refused: it is good for nothing more"
                _note(scene, "claim_dead", box=row.box, claim=row.id, detail=detail, alarm=True)
        return answer

    def _use(self, scene: Scene, request: Enrol, row: ClaimRow) -> Reply | No:
        device = _signers(scene, request, row)
        if isinstance(device, No):
            return device
        if (request.bank, device.name) != (self._bank, f"{self._bank}/{request.box}"):
            return No(Refusal.WRONG_BOX, f"the device is {device.name}'s, the hub is {self._bank}'s")
        keys = _keys_digest(request)
        if row.state == USED and row.used_by == keys:
            return self._again(scene, request, row)
        refused = _why_not(scene, request, row) or self._lacking(request)
        if refused is not None:
            return refused
        live = live_identity(scene.connection, row.box)
        refused = _why_bound(scene, request, row, device, live)
        if refused is not None:
            return refused
        bound = _bound(scene, row, device, live)
        use_claim(scene.connection, row, keys=keys, now_ns=scene.now_ns)
        issued = [self._issue(scene, bound, one, renews="") for one in request.wanted]
        _note(
            scene,
            "enrolled" if bound.origin == ENROLLED else "replaced",
            box=row.box,
            claim=row.id,
            detail=(
                f"device {bound.generation} {device.key_id.hex()}, branch {row.branch or '-'},"
                f" {_clock(scene, request.clock_s)}"
            ),
        )
        return self._reply(scene, request, bound, issued)

    def _again(self, scene: Scene, request: Enrol, row: ClaimRow) -> Reply | No:
        """The same device with the same keys: its answer was lost."""
        live = live_identity(scene.connection, row.box)
        if live is None or live.device_key != request.device_key:
            return No(Refusal.CLAIM_USED, "the device that used this claim does not count any more")
        table = certificate.c
        query = select(table.kind, table.der).where(table.box == row.box, table.generation == live.generation)
        rows = scene.connection.execute(query.where(table.renews == "").order_by(table.kind))
        issued = [Issued(kind=one.kind, chain=(bytes(one.der),)) for one in rows]
        _note(scene, "enrolled_again", box=row.box, claim=row.id, detail="the same request: answered again")
        return self._reply(scene, request, live, issued)

    def _lacking(self, request: Enrol | Renew) -> No | None:
        missing = sorted({one.kind for one in request.wanted} - self.authorities.keys())
        if not missing:
            return None
        has = ", ".join(self.authorities) or "none"
        text = f"the hub has no CA of kind {missing[0]}; it has {has}"
        return No(Refusal.NO_CA, text, is_alarm=False, is_attempt=False)

    # --- renewal --------------------------------------------------------------------------------------------

    def _renew(self, scene: Scene, request: Renew) -> Reply | No:
        live = self._speaker(scene, request)
        if isinstance(live, No):
            return live
        refused = self._lacking(request)
        if refused is not None:
            return refused
        renewals = []
        for wanted, der in zip(request.wanted, request.held, strict=True):
            one = self._renewal(scene, live, wanted, der)
            if isinstance(one, No):
                return one
            renewals.append(one)
        issued = []
        for one in renewals:
            is_again = one.again is not None
            issued.append(one.again or self._issue(scene, live, one.wanted, renews=one.held_digest))
            what = "renewed_again" if is_again else "renewed"
            _note(scene, what, box=live.box, detail=f"{one.wanted.kind}, {_clock(scene, request.clock_s)}")
        return self._reply(scene, request, live, issued)

    def _speaker(self, scene: Scene, request: Renew | Leave) -> Identity | No:
        """The live device that has signed."""
        if request.bank != self._bank:
            return No(Refusal.NOT_ENROLLED, f"this is the hub of {self._bank}, not of {request.bank}")
        live = live_identity(scene.connection, request.box)
        if live is not None and live.device_key == request.device_key:
            if scene.is_of_device(live.key):
                return live
            return No(Refusal.BAD_SIGNATURE, "the device's signature is wrong")
        for ended in ended_identities(scene.connection, request.box):
            if ended.device_key == request.device_key and scene.is_of_device(ended.key):
                code = Refusal.REPLACED if ended.state == REPLACED else Refusal.REVOKED
                return No(code, ended.why)
        return No(Refusal.NOT_ENROLLED, f"no such device is enrolled for {request.box}")

    def _renewal(self, scene: Scene, live: Identity, wanted: Wanted, der: bytes) -> _Renewal | No:
        table, digest = certificate.c, sm3(der).hex()
        held = scene.connection.execute(select(certificate).where(table.digest == digest)).one_or_none()
        if held is None or (held.box, held.generation) != (live.box, live.generation):
            return No(Refusal.NOT_ENROLLED, f"that certificate is none of {live.box}'s device")
        if held.kind != wanted.kind:
            return No(Refusal.MALFORMED, f"held: a certificate of {held.kind} for one of {wanted.kind}")
        if not scene.has(old_role(wanted.kind), bytes(held.public_key)):
            return No(Refusal.BAD_SIGNATURE, "the old certificate's key has not signed")
        if not scene.has(wanted.kind, wanted.public_key):
            return No(Refusal.BAD_SIGNATURE, f"the new key of kind {wanted.kind} has not signed")
        if held.revoked_s:
            return No(Refusal.REVOKED, f"that certificate is revoked: {held.reason}")
        if not held.is_newest:
            return _repeated(scene, wanted, digest)
        age_ns = scene.now_ns - held.issued_ns  # negative: the hub's clock was ahead then
        if 0 <= age_ns < min(RENEWAL_S_MIN, self._life_s // 3) * NS_PER_S:
            return No(Refusal.TOO_SOON, "that certificate was issued a moment ago", is_alarm=False)
        if bytes(held.public_key) != wanted.public_key and _is_certified(scene, wanted.public_key):
            return No(Refusal.KEY_BOUND, "the new key was certified before")
        return _Renewal(wanted, digest, None)

    # --- leaving --------------------------------------------------------------------------------------------

    def _leave(self, scene: Scene, request: Leave) -> Reply | No:
        live = self._speaker(scene, request)
        if isinstance(live, No):
            if live.code is not Refusal.REVOKED:
                return live
        else:
            end_identity(
                scene.connection, live, state=REVOKED, reason="it was reset at the box", now_ns=scene.now_ns
            )
            _note(scene, "left", box=live.box, detail=f"device {live.generation} gave itself up")
        return Left(
            version=VERSION, nonce=request.nonce, bank=self._bank, box=request.box, hub_time_s=scene.now_s
        )

    # --- certificates ---------------------------------------------------------------------------------------

    def _issue(self, scene: Scene, bound: Identity, wanted: Wanted, *, renews: str) -> Issued:
        authority = self.authorities[wanted.kind]
        name = f"{self._bank}/{bound.box}"
        der = authority.issue(
            wanted.public_key,
            name=name,
            uri=box_uri(bank=self._bank, box=bound.box),
            hosts=bound.host_names,
            at_s=scene.now_s,
            ends_s=scene.now_s + self._life_s,
        )
        keep_certificate(
            scene.connection,
            der,
            kind=wanted.kind,
            box=bound.box,
            generation=bound.generation,
            name=name,
            public=wanted.public_key,
            ends_s=min(scene.now_s + self._life_s, int(authority.ends.timestamp())),
            renews=renews,
            now_ns=scene.now_ns,
        )
        return Issued(kind=wanted.kind, chain=(der,))

    def _reply(self, scene: Scene, request: Enrol | Renew, bound: Identity, issued: list[Issued]) -> Enrolled:
        epoch = scene.connection.execute(
            select(schema.box.c.epoch).where(schema.box.c.box == bound.box)
        ).scalar_one()
        crls = (self.crl(scene.connection, kind, now_ns=scene.now_ns) for kind in self.authorities)
        return Enrolled(
            version=VERSION,
            nonce=request.nonce,
            bank=self._bank,
            box=bound.box,
            branch=bound.branch,
            generation=bound.generation,
            epoch=epoch,
            device_key=bound.device_key,
            certificates=tuple(issued),
            authorities=tuple(one.der for one in self.authorities.values()),
            crls=tuple(crl for crl in crls if crl is not None),
            hub_time_s=scene.now_s,
        )


class _Renewal(NamedTuple):
    wanted: Wanted
    held_digest: str
    again: Issued | None
    """The certificate that this renewal was answered with before."""


def keep_certificate(
    connection: Connection,
    der: bytes,
    *,
    kind: Kind,
    box: str,
    generation: int,
    name: str,
    public: bytes,
    ends_s: int,
    renews: str,
    now_ns: int,
) -> None:
    """Keep what was issued; renews: the digest of the certificate in whose place it comes, "" for none."""
    if renews:
        connection.execute(update(certificate).where(certificate.c.digest == renews).values(is_newest=False))
    connection.execute(
        insert(certificate).values(
            digest=sm3(der).hex(),
            serial=f"{serial_of(der):x}",
            kind=kind,
            box=box,
            generation=generation,
            name=name,
            public_key=public,
            key_digest=sm3(public).hex(),
            der=der,
            issued_ns=now_ns,
            ends_s=ends_s,
            renews=renews,
            is_newest=True,
            revoked_s=0,
            reason="",
        )
    )


# --- why not ------------------------------------------------------------------------------------------------


def _signers(scene: Scene, request: Enrol, row: ClaimRow) -> VerifyingKey | No:
    """The device's key, once the claim, the device and every new key have signed."""
    signature = scene.signed.signatures.get(CLAIM, b"")
    if row.state == DEAD:
        text = f"{ATTEMPTS_MAX} uses of this claim were refused: it is good for nothing more"
        return No(Refusal.CLAIM_DEAD, text, is_attempt=False)
    if not claim_has_signed(bytes.fromhex(row.public_key), scene.signed.body, signature):
        return No(Refusal.BAD_SIGNATURE, "the claim's signature is wrong")
    try:
        device = VerifyingKey.parse(request.device_key)
        for one in request.wanted:
            point_of(one.kind, one.public_key)
    except ValueError as problem:
        return No(Refusal.MALFORMED, f"a key cannot be used: {problem}", is_alarm=False)
    if not scene.is_of_device(device):
        return No(Refusal.BAD_SIGNATURE, "the device's signature is wrong")
    for one in request.wanted:
        if not scene.has(one.kind, one.public_key):
            return No(Refusal.BAD_SIGNATURE, f"the new key of kind {one.kind} has not signed")
    return device


def _why_not(scene: Scene, request: Enrol, row: ClaimRow) -> No | None:
    """What is wrong with an authentic use of a claim."""
    if row.state == WITHDRAWN:
        return No(Refusal.CLAIM_WITHDRAWN, "this claim was withdrawn")
    if row.state == USED:
        return No(Refusal.CLAIM_USED, "another device, or other keys, have used this claim")
    if row.state != OPEN:
        return No(Refusal.CLAIM_DEAD, f"this claim is {row.state}")
    if row.expires_s <= scene.now_s:
        return No(Refusal.CLAIM_EXPIRED, "this claim has expired", is_attempt=False)
    if request.box != row.box:
        return No(Refusal.WRONG_BOX, f"this claim is another box's, and {request.box} has used it")
    if request.branch != row.branch:
        return No(Refusal.WRONG_BRANCH, f"this claim is for another branch than {request.branch or '(none)'}")
    return None


def _why_bound(
    scene: Scene, request: Enrol, row: ClaimRow, device: VerifyingKey, live: Identity | None
) -> No | None:
    """Whether the keys, or the box, are bound already."""
    bound = bound_to(scene.connection, device)
    is_own = live is not None and live.origin == PINNED and live in bound
    for one in bound:
        if one.box != row.box or not (one.state == DROPPED or (one == live and is_own)):
            whose = f"{one.box}, where it is {one.state}"
            return No(Refusal.KEY_BOUND, f"the device's key is bound to {whose}: make another one")
    if any(_is_certified(scene, one.public_key) for one in request.wanted):
        return No(Refusal.KEY_BOUND, "a certificate's key was certified before: make another one")
    if live is not None and not is_own and not row.replaces:
        text = f"{row.box} has a device; a claim made with --replaces puts another one in its place"
        return No(Refusal.BOX_BOUND, text, is_attempt=False)
    return None


def _bound(scene: Scene, row: ClaimRow, device: VerifyingKey, live: Identity | None) -> Identity:
    """Bind the device; the one before is fenced at once, and the next epoch released."""
    if live is not None and live.device_key == device.text() and not row.replaces:
        return adopt(scene.connection, live, branch=row.branch, claim=row.id, hosts=row.host_names)
    if live is not None:
        reason = f"claim {row.id} put another device in its place"
        end_identity(scene.connection, live, state=REPLACED, reason=reason, now_ns=scene.now_ns)
    bound = bind(
        scene.connection,
        row.box,
        device,
        origin=REPLACEMENT if row.replaces else ENROLLED,
        branch=row.branch,
        claim=row.id,
        hosts=row.host_names,
        now_ns=scene.now_ns,
    )
    table = schema.box
    scene.connection.execute(
        update(table).where(table.c.box == row.box, table.c.epoch > 0).values(release=True)
    )
    return bound


def _repeated(scene: Scene, wanted: Wanted, digest: str) -> _Renewal | No:
    """A certificate that was renewed already: the same again for the same key, and for another one never."""
    table = certificate.c
    after = scene.connection.execute(
        select(table.public_key, table.der, table.is_newest).where(table.renews == digest)
    ).one()
    if after.is_newest and bytes(after.public_key) == wanted.public_key:
        return _Renewal(wanted, digest, Issued(kind=wanted.kind, chain=(bytes(after.der),)))
    return No(
        Refusal.SUPERSEDED,
        "that certificate was renewed already, with another key: two devices have this identity, or an old"
        " copy of its disk runs",
    )


def _is_certified(scene: Scene, public: bytes) -> bool:
    query = select(certificate.c.digest).where(certificate.c.key_digest == sm3(public).hex())
    return scene.connection.execute(query.limit(1)).first() is not None


def _keys_digest(request: Enrol) -> str:
    """By which the same request is known again: every key that it wants to be bound."""
    keys = sorted((one.kind.encode(), one.public_key) for one in request.wanted)
    return sm3(b"\n".join([request.device_key.encode(), *(sm3(a + b) for a, b in keys)])).hex()


def _note_refused(scene: Scene, refused: No, *, box: str, claim: str = "") -> None:
    code, since_ns = refused.code.value, scene.now_ns - TOLD_AGAIN_NS
    if refused.code in UNAUTHENTIC and not scene.told():
        return
    of = None if refused.code in MADE_UP else (box, claim, scene.remote)
    if was_told(scene.connection, code, of=of, since_ns=since_ns):
        return
    _note(scene, refused.code.value, box=box, claim=claim, detail=refused.text, alarm=refused.is_alarm)


def _note(scene: Scene, event: str, *, box: str, claim: str = "", detail: str, alarm: bool = False) -> None:
    note_event(
        scene.connection,
        event,
        now_ns=scene.now_ns,
        alarm=alarm,
        box=box,
        claim=claim,
        remote=scene.remote,
        detail=detail,
    )


def _clock(scene: Scene, clock_s: int) -> str:
    return f"the box's clock is {clock_s - scene.now_s:+d} s off"
