"""What a person can order at the hub, each as a struct of plain arguments: what it does, and whether it takes
two people.

An order is kept as its arguments' bytes and carried out from them, so that what was approved is what is done.
Another kind of order is one more struct here. Leaves out who approves (`hub.orders`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from edgegw.core.counts import LimitChange
from edgegw.hub import (
    claims,
    identity_log,
    limit_orders,
    operate,
    revocations,
    settlement,
    site,
    suspense,
    void_keys,
)
from edgegw.hub.books import BooksError
from edgegw.hub.identities import live_boxes
from edgegw.hub.keyring import Keyring


class Scene(NamedTuple):
    """Where an order is carried out: inside one SQL transaction, with its record."""

    connection: Connection
    keyring: Keyring
    now_ns: int
    by: str
    """Who: one name, or the maker's and the checker's."""
    attachment: bytes = b""
    """What came with the order."""


class Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", forbid_unknown_fields=True):
    """An order's arguments."""

    takes_two: ClassVar[bool] = True
    """Whether a second person must approve it, where operators are listed."""

    @abstractmethod
    def run(self, scene: Scene) -> str:
        """Carry it out; what came of it. Raises one of REFUSED."""


class Freeze(Action, frozen=True, kw_only=True, tag="freeze"):
    """Bar an account from paying out, or let it again."""

    account_id: str
    frozen: bool
    reason: str

    def run(self, scene: Scene) -> str:
        """At the centre at once, and at each box when it hears of it."""
        operate.freeze(
            scene.connection,
            scene.keyring,
            account_id=self.account_id,
            frozen=self.frozen,
            reason=self.reason,
            now_ns=scene.now_ns,
        )
        return f"{self.account_id} pays nothing out" if self.frozen else f"{self.account_id} pays out again"


class Seal(Action, frozen=True, kw_only=True, tag="seal"):
    """Settle an old epoch whose records are all here."""

    takes_two: ClassVar[bool] = False
    box: str
    epoch: int

    def run(self, scene: Scene) -> str:
        """What was in doubt returns."""
        operate.seal_epoch(scene.connection, self.box, self.epoch, now_ns=scene.now_ns)
        return f"epoch {self.epoch} of {self.box} is sealed"


class DeclareLoss(Action, frozen=True, kw_only=True, tag="declare-loss"):
    """Settle an old epoch of which so many records are gone for good."""

    box: str
    epoch: int
    lost: int

    def run(self, scene: Scene) -> str:
        """What was in doubt returns, and what only those records knew is nobody's any more."""
        operate.seal_epoch(scene.connection, self.box, self.epoch, lost=self.lost, now_ns=scene.now_ns)
        return f"epoch {self.epoch} of {self.box} is sealed; {self.lost} records are declared lost"


class DeclareBoxLost(Action, frozen=True, kw_only=True, tag="declare-box-lost"):
    """Settle all of a box that is gone for ever."""

    box: str
    lost: int
    reason: str

    def run(self, scene: Scene) -> str:
        """What was outstanding there returns, and it stays out of service."""
        operate.declare_lost(
            scene.connection, self.box, lost=self.lost, reason=self.reason, now_ns=scene.now_ns
        )
        return f"{self.box} is declared lost; what was outstanding there is available again"


class NewEpoch(Action, frozen=True, kw_only=True, tag="new-epoch"):
    """Let a box have its next epoch: it begins with nothing to spend, so one person may."""

    takes_two: ClassVar[bool] = False
    box: str

    def run(self, scene: Scene) -> str:
        """The box takes it by itself."""
        operate.release_epoch(scene.connection, self.box)
        return (
            f"{self.box} gets a new epoch as soon as it holds all of its past again; let it run,"
            " with its data directory as it is. What an old epoch held of each account stays in doubt, and is"
            f" not granted again, until `edgegw order seal {self.box} EPOCH`"
        )


class VoidKey(Action, frozen=True, kw_only=True, tag="revoke-key"):
    """Let nothing count that a box's checkpoint key has signed above a size."""

    box: str
    epoch: int
    """0: the newest."""
    key: str
    """Its one-line text, or the key id in it."""
    size_max: int
    """-1: what the hub holds of it."""
    reason: str

    def run(self, scene: Scene) -> str:
        """At the hub at once; the box and its mirror hear of it with their next opening."""
        revoked = void_keys.revoke_key(
            scene.connection,
            scene.keyring,
            box=self.box,
            epoch=self.epoch,
            key=self.key,
            size_max=self.size_max,
            reason=self.reason,
            now_ns=scene.now_ns,
        )
        after = " It is the key that signs now: `edgegw order new-epoch` lets the box go on with another one."
        more = void_keys.signing_in(scene.connection, scene.keyring, self.box, revoked.key)
        others = f" It still counts in epoch {', '.join(map(str, more))}: revoke it there, too, with --epoch."
        return (
            f"{revoked.key} of {self.box} is void above size {revoked.void_above}; verifiers take it from"
            f" `edgegw keys policy --box {self.box} --output FILE`.{after if revoked.last is None else ''}"
            f"{others if more else ''}"
        )


class CloseAccount(Action, frozen=True, kw_only=True, tag="close-account"):
    """Let an account take and pay nothing new, or let it again."""

    account_id: str
    closed: bool
    reason: str

    def run(self, scene: Scene) -> str:
        """At the centre at once, and at each box when it hears of it."""
        operate.close(
            scene.connection,
            scene.keyring,
            account_id=self.account_id,
            closed=self.closed,
            reason=self.reason,
            now_ns=scene.now_ns,
        )
        if self.closed:
            return f"{self.account_id} takes and pays nothing new at any box"
        return f"{self.account_id} is open again"


class Block(Action, frozen=True, kw_only=True, tag="block"):
    """Let an account, card, terminal or merchant pay nothing, or let it again; or a client or a token not be
    heard."""

    of: str
    whose: str
    blocked: bool
    reason: str

    def run(self, scene: Scene) -> str:
        """At each box when it hears of it."""
        before = limit_orders.block(
            scene.connection,
            scene.keyring,
            of=self.of,
            whose=self.whose,
            blocked=self.blocked,
            reason=self.reason,
            now_ns=scene.now_ns,
        )
        is_heard = self.of in ("client", "token")
        if self.blocked:
            return f"{self.of} {self.whose} {'is not heard' if is_heard else 'pays nothing'}"
        again = f"{self.of} {self.whose} {'is heard' if is_heard else 'pays'} again"
        return again if before else f"{again}: no order had blocked it, so check the id"


class ChangeLimit(Action, frozen=True, kw_only=True, tag="limit"):
    """Other values for a limit of the site's settings, or its own again."""

    name: str
    whose: str
    change: LimitChange | None
    reason: str

    def run(self, scene: Scene) -> str:
        """At each box when it hears of it."""
        before = limit_orders.change_limit(
            scene.connection,
            scene.keyring,
            site.Sites().newest(scene.connection),
            name=self.name,
            whose=self.whose,
            change=self.change,
            reason=self.reason,
            now_ns=scene.now_ns,
        )
        who = f" for {self.whose}" if self.whose else ""
        if self.change is not None:
            return f"limit {self.name} is changed{who}"
        again = f"limit {self.name} is as the settings say{who}"
        return again if before else f"{again}: no order had changed it, so check name and id"


class Publish(Action, frozen=True, kw_only=True, tag="publish"):
    """Let boxes have the site bundle that comes with the order: all, or those of the staging first."""

    version: int
    staging: site.Staging | None

    def run(self, scene: Scene) -> str:
        """Each box is told with its next message."""
        digest = site.publish(
            scene.connection, scene.keyring, scene.attachment, now_ns=scene.now_ns, staging=self.staging
        )
        return f"version {self.version} is {'published' if self.staging is None else 'staged'}: {digest}"


class RollBack(Action, frozen=True, kw_only=True, tag="roll-back"):
    """Publish an older version's content again."""

    version: int
    staging: site.Staging | None

    def run(self, scene: Scene) -> str:
        """Under the next number."""
        number = site.rollback(
            scene.connection, scene.keyring, self.version, now_ns=scene.now_ns, staging=self.staging
        )
        what = "published" if self.staging is None else "staged"
        return f"version {number} is {what}: content of {self.version}"


class Promote(Action, frozen=True, kw_only=True, tag="promote"):
    """Let more boxes have the version that is staged."""

    share_percent: int
    canaries: tuple[str, ...]

    def run(self, scene: Scene) -> str:
        """A larger share, or all."""
        stage = site.promote(
            scene.connection,
            share_percent=self.share_percent,
            canaries=self.canaries,
            now_ns=scene.now_ns,
        )
        fleet = live_boxes(scene.connection)
        return f"version {stage.version} goes to {len(stage.boxes(fleet))} of {len(fleet)} boxes"


class Halt(Action, frozen=True, kw_only=True, tag="halt"):
    """Stop the version that is staged: it goes back to what the fleet has, so one person may."""

    takes_two: ClassVar[bool] = False
    reason: str

    def run(self, scene: Scene) -> str:
        """Its boxes get the fleet's content again."""
        number = site.halt(scene.connection, scene.keyring, reason=self.reason, now_ns=scene.now_ns)
        return f"halted; its boxes get version {number}" if number else "halted; no box gets another one"


class Park(Action, frozen=True, kw_only=True, tag="park"):
    """Set an item in suspense aside."""

    item: str
    reason: str

    def run(self, scene: Scene) -> str:
        """It is told as parked, and no longer as aged."""
        suspense.park(scene.connection, self.item, by=scene.by, reason=self.reason, now_ns=scene.now_ns)
        return f"{self.item} is parked"


class AcceptWindow(Action, frozen=True, kw_only=True, tag="accept-window"):
    """Close the case of a window that differs from its box's word, by the hub's figures."""

    box: str
    window: int
    history: int

    def run(self, scene: Scene) -> str:
        """It is settled with the next cycle."""
        settlement.accept_window(
            scene.connection,
            box=self.box,
            number=self.window,
            branch=self.history - 1,
            by=scene.by or "bank",
            now_ns=scene.now_ns,
        )
        return f"window {self.window} of {self.box} is settled with the next cycle, by the hub's figures"


class _Claiming(Action, frozen=True, kw_only=True):
    """A claim for a box; its seed is in the maker's file alone."""

    id: str
    box: str
    branch: str
    public_key: str
    hosts: tuple[str, ...]
    expires_s: int

    def make(self, scene: Scene, *, replaces: bool) -> None:
        """Let it be good."""
        claims.make_claim(
            scene.connection,
            id=self.id,
            box=self.box,
            branch=self.branch,
            public_key=self.public_key,
            hosts=self.hosts,
            expires_s=self.expires_s,
            replaces=replaces,
            by=scene.by,
            now_ns=scene.now_ns,
        )


class MakeClaim(_Claiming, frozen=True, kw_only=True, tag="ca-claim"):
    """Let a box without a device be enrolled: it may ask for any account's money then."""

    def run(self, scene: Scene) -> str:
        """Once, until it expires."""
        self.make(scene, replaces=False)
        return f"claim {self.id} is good for the first device of {self.box}"


class ReplaceDevice(_Claiming, frozen=True, kw_only=True, tag="ca-replace"):
    """Let another device take a box's place, its branch and its next epoch."""

    def run(self, scene: Scene) -> str:
        """The device before it is fenced with the claim's use."""
        self.make(scene, replaces=True)
        return f"claim {self.id} is good for a device in the place of {self.box}'s, which is fenced then"


class WithdrawClaim(Action, frozen=True, kw_only=True, tag="ca-withdraw"):
    """Let a claim be good for nothing more, as one that was lost, so one person may."""

    takes_two: ClassVar[bool] = False
    id: str

    def run(self, scene: Scene) -> str:
        """Whoever uses it is refused, and that is an alarm."""
        box = claims.withdraw_claim(
            scene.connection, self.id, by=scene.by, reason="it was withdrawn", now_ns=scene.now_ns
        )
        return f"claim {self.id} for {box} is withdrawn"


class SeeAlarms(Action, frozen=True, kw_only=True, tag="ca-seen"):
    """Say that the alarms about identities were looked at, up to one."""

    takes_two: ClassVar[bool] = False
    number: int

    def run(self, scene: Scene) -> str:
        """They wait for nobody any more."""
        fresh = identity_log.mark_seen(scene.connection, self.number, by=scene.by, now_ns=scene.now_ns)
        return f"{fresh} alarms were looked at"


class RevokeDevice(Action, frozen=True, kw_only=True, tag="ca-revoke"):
    """Let a device, or a certificate, count no more: it stops something, so one person may."""

    takes_two: ClassVar[bool] = False
    box: str
    serial: str
    reason: str

    def run(self, scene: Scene) -> str:
        """At the exchange at once; for TLS with the next list of revoked certificates."""
        if self.serial:
            name = revocations.revoke_certificate(
                scene.connection, self.serial, reason=self.reason, by=scene.by, now_ns=scene.now_ns
            )
            return f"certificate {self.serial} of {name} is revoked"
        number = revocations.revoke_device(
            scene.connection, self.box, reason=self.reason, by=scene.by, now_ns=scene.now_ns
        )
        return (
            f"device {number} of {self.box} is revoked; another one takes its place with `edgegw hub ca claim"
            f" {self.box} --replaces`"
        )


def recall_before(connection: Connection, action: Action, *, now_ns: int) -> bool:
    """Ask boxes for money that an order would decline for lack of; whether some of that may still come."""
    if isinstance(action, Seal | DeclareLoss):
        epochs = [action.epoch]
    elif isinstance(action, DeclareBoxLost):
        epochs = operate.not_sealed(connection, action.box)
    else:
        return False
    asked = [operate.recall_for_seal(connection, action.box, epoch, now_ns=now_ns) for epoch in epochs]
    return any(asked)


REFUSED: Final = (
    operate.OrderError,
    BooksError,
    site.SiteError,
    suspense.SuspenseError,
    settlement.SettlementError,
)
"""What an order raises that cannot be carried out."""

ACTIONS: Final[dict[str, type[Action]]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (*Action.__subclasses__(), *_Claiming.__subclasses__())
    if kind is not _Claiming
}
"""Every kind of order by its name in the records."""


def decode_action(arguments: bytes) -> Action:
    """An order from its bytes; raises msgspec.DecodeError."""
    kind = msgspec.json.decode(arguments, type=dict[str, msgspec.Raw]).get("action", msgspec.Raw(b'""'))
    shape = ACTIONS.get(msgspec.json.decode(kind, type=str))
    if shape is None:
        raise msgspec.DecodeError("this program knows no such order")
    return msgspec.json.decode(arguments, type=shape)
