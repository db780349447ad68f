"""Enrolment at the hub: who gets an identity, who is refused it, and what everybody hears of that."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from sqlalchemy import Connection, text

from edgegw.access.certificate_keys import make_certificate_key
from edgegw.core.enrolment import (
    Enrolled,
    EnrolmentError,
    Refusal,
    Reply,
    Request,
    Signed,
    read_request,
)
from edgegw.core.messages import Beaten, Verdict
from edgegw.hub.claims import ATTEMPTS_MAX, claim_of, withdraw_claim
from edgegw.hub.enrolments import No, Scene
from edgegw.hub.findings import findings
from edgegw.hub.identities import LIVE, REPLACED, device_key, identities, register_boxes
from edgegw.hub.identity_log import mark_seen
from edgegw.hub.operate import OrderError
from edgegw.hub.revocations import revoke_certificate, revoke_device
from tests.hub.applicant import BRANCH, DAY_S, LIFE_S, NS, Applicant, Office
from tests.hub.conftest import hashed_signatures
from tests.hub.places import Place, SqlitePlace
from tests.hub.simulated_box import BANK, SimulatedBox, new_key
from tests.hub.world import NORTH, SOUTH, World, a_site

EAST = "east"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The hub's tables; on PostgreSQL one claim at two hubs is tried each time (test_enrolment_app)."""
    with hashed_signatures():
        is_sqlite = request.param == "sqlite"
        yield SqlitePlace(tmp_path / "hub.db") if is_sqlite else request.getfixturevalue("lent")


@pytest.fixture
def office(world: World) -> Office:
    """The desk of the world's hub."""
    return Office(world)


def speaking(world: World, applicant: Applicant) -> SimulatedBox:
    """The applicant's machine at the exchange, up and in step."""
    box = SimulatedBox(applicant.box, applicant.device, world.hub_key.public, world.talk)
    box.open()
    box.sync()
    return box


def leaf(reply: Enrolled) -> x509.Certificate:
    return x509.load_der_x509_certificate(reply.certificates[0].chain[0])


# --- the way it goes ----------------------------------------------------------------------------------------


def test_a_claim_buys_an_identity_with_which_the_box_speaks(office: Office) -> None:
    """From a claim to a box with an epoch and a certificate that names it, and nobody edited a file."""
    east = Applicant(EAST)
    reply = east.take(office.ask(east.enrolment(office.claim(EAST, hosts=("east.bank",)))))
    assert (reply.bank, reply.box, reply.branch, reply.generation, reply.epoch) == (BANK, EAST, BRANCH, 1, 0)
    names = leaf(reply).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"edgegw://{BANK}/{EAST}"]
    assert names.get_values_for_type(x509.DNSName) == ["east.bank"]
    assert abs(reply.hub_time_s - office.world.now_ns() // NS) < 60
    assert speaking(office.world, east).epoch == 1
    assert office.alarms() == []


def test_the_same_request_again_is_answered_with_the_same_certificates(office: Office) -> None:
    """An answer that was lost on a thin line costs nothing, even after the claim's end."""
    east, ticket = Applicant(EAST), office.claim(EAST, hours=1)
    first = east.take(office.ask(east.enrolment(ticket)))
    office.pass_time(2 * 3_600)
    again = office.ask(east.enrolment(ticket))
    assert isinstance(again, Enrolled)
    assert again.certificates == first.certificates
    assert office.alarms() == []


def test_a_box_is_known_to_the_site_before_it_enrols(office: Office) -> None:
    """Its accounts are published with the others', so that it works from its first minute on."""
    office.claim(EAST)
    accounts = a_site().accounts[:1]
    homed = (*accounts, *(type(one)(id="E", currency=one.currency, home=EAST) for one in accounts))
    office.world.publish(a_site(2, accounts=homed))


def test_a_pinned_device_enrols_and_keeps_its_epoch(office: Office) -> None:
    """A lab's box gets certificates without a new device, and without a day's loss."""
    box = office.world.box(NORTH)
    device = office.world.devices[NORTH]
    device = type(device)(f"{BANK}/{NORTH}", device._private)
    office.world.keyring.pinned[NORTH] = device.public  # type: ignore[index]
    office.run(lambda c: register_boxes(c, office.world.keyring, now_ns=2))
    north = Applicant(NORTH, device=device)
    reply = north.take(office.ask(north.enrolment(office.claim(NORTH))))
    assert reply.epoch == box.epoch == 1
    assert [one.origin for one in office.run(identities) if one.state == LIVE and one.box == NORTH] == [
        "enrolled"
    ]


# --- refused, written down, told ----------------------------------------------------------------------------


def nothing_bound(office: Office, box: str = EAST) -> bool:
    return office.run(lambda c: device_key(c, box)) is None


def test_a_claim_is_used_once(office: Office) -> None:
    """A copy of the stick in another machine buys nothing, and the centre hears of it."""
    ticket = office.claim(EAST)
    first, second = Applicant(EAST), Applicant(EAST)
    first.take(office.ask(first.enrolment(ticket)))
    assert office.refused(second.enrolment(ticket)) is Refusal.CLAIM_USED
    assert office.run(lambda c: device_key(c, EAST)) == first.device.public
    assert [one.event for one in office.alarms()] == ["claim_used"]


def test_other_certificate_keys_by_a_used_claim_are_refused(office: Office) -> None:
    """The device alone does not make it the same request."""
    ticket, east = office.claim(EAST), Applicant(EAST)
    east.take(office.ask(east.enrolment(ticket)))
    other = Applicant(EAST, device=east.device)
    assert office.refused(other.enrolment(ticket)) is Refusal.CLAIM_USED


def test_a_claim_is_good_for_its_box_and_branch_alone(office: Office) -> None:
    """Two sticks that were mixed up are found out; the claim stays good for where it belongs."""
    ticket = office.claim(EAST)
    west = Applicant("west")
    assert office.refused(west.enrolment(ticket)) is Refusal.WRONG_BOX
    east = Applicant(EAST)
    assert office.refused(east.enrolment(ticket, branch="Market Square")) is Refusal.WRONG_BRANCH
    assert nothing_bound(office)
    assert [one.event for one in office.alarms()] == ["wrong_box", "wrong_branch"]
    east.take(office.ask(east.enrolment(ticket)))


def test_a_box_that_lies_about_its_name_gets_no_second_identity(office: Office) -> None:
    """Keys that are bound to one box are never bound to another, whatever name they come under."""
    west = office.enrolled("west")
    thief = Applicant(EAST, device=type(west.device)(f"{BANK}/{EAST}", west.device._private))
    assert office.refused(thief.enrolment(office.claim(EAST))) is Refusal.KEY_BOUND
    borrowed = Applicant(EAST)
    borrowed.keys = dict(west.keys)
    assert office.refused(borrowed.enrolment(office.claim(EAST))) is Refusal.KEY_BOUND
    assert nothing_bound(office)


def test_an_expired_claim_is_refused(office: Office) -> None:
    """What was left in a drawer is worth nothing."""
    ticket, east = office.claim(EAST, hours=1), Applicant(EAST)
    office.pass_time(3_601)
    assert office.refused(east.enrolment(ticket)) is Refusal.CLAIM_EXPIRED
    assert nothing_bound(office)
    assert len(office.alarms()) == 1


def test_a_withdrawn_claim_is_refused_and_so_is_one_before_another(office: Office) -> None:
    """A stick that was reported stolen; and of two claims for a box only the newer one counts."""
    lost, east = office.claim(EAST), Applicant(EAST)
    office.run(lambda c: withdraw_claim(c, lost.id, by="mei", reason="the stick is gone", now_ns=1))
    assert office.refused(east.enrolment(lost)) is Refusal.CLAIM_WITHDRAWN
    older, newer = office.claim(EAST), office.claim(EAST)
    assert office.refused(east.enrolment(older)) is Refusal.CLAIM_WITHDRAWN
    east.take(office.ask(east.enrolment(newer)))


def test_a_claim_that_nobody_made_is_refused(office: Office) -> None:
    """An id that is guessed or altered."""
    ticket, east = office.claim(EAST), Applicant(EAST)
    assert office.refused(east.enrolment(ticket._replace(id="00" * 16))) is Refusal.CLAIM_UNKNOWN
    for number in range(9):
        office.refused(Applicant(f"box-{number}").enrolment(ticket._replace(id=f"{number:032x}")))
    assert len(office.alarms()) == 1, "ids that somebody makes up bury no alarm of another kind"


def test_wrong_signatures_kill_a_claim(office: Office) -> None:
    """Nobody tries seeds for a day; and the count stands in the database, for every hub process."""
    ticket, east = office.claim(EAST), Applicant(EAST)
    for _ in range(ATTEMPTS_MAX):
        assert office.refused(east.enrolment(ticket, seed=bytes(32))) is Refusal.BAD_SIGNATURE
    assert office.refused(east.enrolment(ticket)) is Refusal.CLAIM_DEAD
    assert nothing_bound(office)
    assert "claim_dead" in [one.event for one in office.alarms()]


@pytest.mark.parametrize("role", ["device", "p256"])
def test_every_key_proves_that_it_is_there(office: Office, role: str) -> None:
    """Nobody gets a certificate for somebody else's key."""
    ticket, east, other = office.claim(EAST), Applicant(EAST), Applicant(EAST)
    if role == "device":
        body = east.enrolment(ticket, device_key=other.device.public.text())
    else:
        body = east.enrolment(ticket, wanted=_wanted(other))
    assert office.refused(body) is Refusal.BAD_SIGNATURE
    assert nothing_bound(office)


def _wanted(other: Applicant) -> object:
    from edgegw.core.enrolment import Wanted

    return tuple(Wanted(kind=kind, public_key=key.public) for kind, key in other.keys.items())


def test_a_box_with_a_device_gets_no_second_one_without_a_persons_word(office: Office) -> None:
    """A claim for a first device does not fence the one that works."""
    east = office.enrolled(EAST)
    with pytest.raises(OrderError, match="--replaces"):
        office.claim(EAST)
    assert office.run(lambda c: device_key(c, EAST)) == east.device.public


def test_a_kind_without_a_ca_costs_the_claim_nothing(office: Office) -> None:
    """A box that asks for SM2 at a hub of P-256 hears what is missing."""
    ticket, east = office.claim(EAST), Applicant(EAST, kinds=("sm2",))
    answer = office.ask(east.enrolment(ticket))
    # The hub's tests let a keyed hash stand for SM2, so the proof of an SM2 key does not hold there.
    assert isinstance(answer, No)
    assert answer.code in (Refusal.NO_CA, Refusal.BAD_SIGNATURE)


# --- renewal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [60, 90 + 400], ids=["at two thirds", "a year after its end"])
def test_a_certificate_is_renewed_in_time_and_long_after(office: Office, days: int) -> None:
    """A line that was down for longer than a certificate lives does not cost the box its identity."""
    east = office.enrolled(EAST)
    office.pass_time(days * DAY_S)
    fresh = {"p256": make_certificate_key("p256")}
    reply = east.take(office.ask(east.renewal(fresh)), fresh)  # type: ignore[arg-type]
    ends_s = leaf(reply).not_valid_after_utc.timestamp()
    assert ends_s == pytest.approx(office.world.now_ns() // NS + LIFE_S, abs=5)
    assert office.alarms() == []


def test_a_renewal_whose_answer_was_lost_is_answered_again(office: Office) -> None:
    """The same keys, the same certificates."""
    east = office.enrolled(EAST)
    office.pass_time(60 * DAY_S)
    fresh = {"p256": make_certificate_key("p256")}
    first, again = (office.ask(east.renewal(fresh)) for _ in range(2))  # type: ignore[arg-type]
    assert isinstance(first, Enrolled)
    assert isinstance(again, Enrolled)
    assert first.certificates == again.certificates


def test_a_copy_of_the_disk_that_renews_too_is_found(office: Office) -> None:
    """Two machines renew the same certificate with different keys: the second is refused, and told."""
    east = office.enrolled(EAST)
    office.pass_time(60 * DAY_S)
    assert isinstance(office.ask(east.renewal()), Enrolled)
    assert office.refused(east.renewal()) is Refusal.SUPERSEDED
    assert [one.event for one in office.alarms()] == ["superseded"]


@pytest.mark.parametrize("who", ["another device", "another certificate's key", "another box's certificate"])
def test_nobody_else_renews_a_certificate(office: Office, who: str) -> None:
    """The old certificate is public; only the device with its key renews it."""
    east, west = office.enrolled(EAST), office.enrolled("west")
    office.pass_time(60 * DAY_S)
    thief = Applicant(EAST, device=new_key(f"{BANK}/{EAST}") if who == "another device" else east.device)
    thief.certificates = dict((west if who == "another box's certificate" else east).certificates)
    thief.keys = dict(west.keys if who == "another box's certificate" else east.keys)
    if who == "another certificate's key":
        thief.keys = {"p256": make_certificate_key("p256")}
    expected = Refusal.BAD_SIGNATURE if who == "another certificate's key" else Refusal.NOT_ENROLLED
    assert office.refused(thief.renewal()) is expected


def test_a_certificate_is_not_renewed_at_once(office: Office) -> None:
    """A loop at a box does not fill the hub's table."""
    east = office.enrolled(EAST)
    assert office.refused(east.renewal()) is Refusal.TOO_SOON


# --- the end of a device ------------------------------------------------------------------------------------


def ended(world: World, box: SimulatedBox) -> Beaten:
    beaten = box.beat()
    assert isinstance(beaten, Beaten)
    return beaten


def test_a_revoked_device_is_fenced_at_its_next_message(office: Office) -> None:
    """In the middle of a session: nothing of it is taken, it is told why, and the centre that it spoke."""
    east = office.enrolled(EAST)
    box = speaking(office.world, east)
    office.run(lambda c: revoke_device(c, EAST, reason="stolen", by="mei", now_ns=office.world.now_ns()))
    for _ in range(2):
        beaten = ended(office.world, box)
        assert (beaten.verdict, beaten.push) == (Verdict.FENCED, None)
        assert beaten.reason == "this device is revoked: stolen"
    opened = box.open()
    assert (opened.verdict, opened.journals) == (Verdict.FENCED, ())
    assert [one.event for one in office.alarms()] == ["ended_device_speaks"]
    office.pass_time(60 * DAY_S)
    assert office.refused(east.renewal()) is Refusal.REVOKED


def test_who_steals_a_box_and_the_claim_for_it_gets_nothing_once_it_is_revoked(office: Office) -> None:
    """The claim for a pinned box lies in the same bag: the person who revokes the box ends both."""
    office.world.box(NORTH)
    ticket = office.claim(NORTH)
    office.run(lambda c: revoke_device(c, NORTH, reason="stolen", by="mei", now_ns=office.world.now_ns()))
    assert office.refused(Applicant(NORTH).enrolment(ticket)) is Refusal.CLAIM_WITHDRAWN
    office.claim(NORTH, replaces=True)


def test_a_replaced_device_is_fenced_and_the_new_one_gets_the_next_epoch(office: Office) -> None:
    """Hardware that broke: another machine takes its branch, and the old one nothing more."""
    first = office.enrolled(EAST)
    box = speaking(office.world, first)
    second = Applicant(EAST)
    ticket = office.claim(EAST, replaces=True)
    assert ended(office.world, box).verdict is Verdict.OK, "the claim alone fences nobody"
    reply = second.take(office.ask(second.enrolment(ticket)))
    assert (reply.generation, reply.epoch) == (2, 1)
    assert ended(office.world, box).verdict is Verdict.FENCED
    states = [(one.generation, one.state) for one in office.run(identities) if one.box == EAST]
    assert states == [(1, REPLACED), (2, LIVE)]
    new = SimulatedBox(EAST, second.device, office.world.hub_key.public, office.world.talk)
    assert new.open().verdict is Verdict.BEHIND, "the new machine takes its past back first"
    office.pass_time(60 * DAY_S)
    assert office.refused(first.renewal()) is Refusal.REPLACED
    assert office.refused(first.enrolment(ticket)) is Refusal.CLAIM_USED


def test_what_has_ended_is_on_the_list_of_revoked_certificates(office: Office) -> None:
    """TLS refuses it too, wherever the list is looked at; the next list has the next number."""
    east = office.enrolled(EAST)
    now = office.world.now_ns

    def listed() -> x509.CertificateRevocationList:
        der = office.run(lambda c: office.desk.crl(c, "p256", now_ns=now()))
        assert der is not None
        return x509.load_der_x509_crl(der)

    before = listed()
    assert len(before) == 0
    assert listed() == before
    office.run(lambda c: revoke_device(c, EAST, reason="stolen", by="", now_ns=now()))
    serial = x509.load_der_x509_certificate(east.certificates["p256"]).serial_number
    after = listed()
    assert after.get_revoked_certificate_by_serial_number(serial) is not None
    number = after.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
    office.pass_time((90 + 31) * DAY_S)
    assert len(listed()) == 0, "what has ended long ago needs no entry"


def test_one_certificate_is_revoked_by_its_serial_number(office: Office) -> None:
    """A key that leaked, while the device lives on; it renews by nothing but a claim."""
    east = office.enrolled(EAST)
    serial = x509.load_der_x509_certificate(east.certificates["p256"]).serial_number
    office.run(
        lambda c: revoke_certificate(c, f"{serial:X}", reason="leaked", by="", now_ns=office.world.now_ns())
    )
    office.pass_time(60 * DAY_S)
    assert office.refused(east.renewal()) is Refusal.REVOKED


def test_a_box_that_is_reset_gives_its_identity_up(office: Office) -> None:
    """Said twice where the answer was lost; a new device takes its place only by a person's word."""
    east = office.enrolled(EAST)
    speaking(office.world, east)
    office.left(east.leaving())
    office.left(east.leaving())
    assert nothing_bound(office)
    with pytest.raises(OrderError, match="--replaces"):
        office.claim(EAST)
    other = Applicant(EAST)
    other.take(office.ask(other.enrolment(office.claim(EAST, replaces=True))))


def test_nobody_else_gives_an_identity_up(office: Office) -> None:
    """A stranger takes no box out of service."""
    office.enrolled(EAST)
    assert office.refused(Applicant(EAST).leaving()) is Refusal.NOT_ENROLLED
    assert not nothing_bound(office)


def test_a_revoked_key_does_not_come_back_with_the_settings(office: Office) -> None:
    """[boxes] still pins it, and the hub is started again: revoked stays revoked."""
    world = office.world
    box = world.box(NORTH)
    office.run(lambda c: revoke_device(c, NORTH, reason="stolen", by="", now_ns=world.now_ns()))
    world.hub.close()
    world.open()
    assert ended(world, box).verdict is Verdict.FENCED
    assert office.run(lambda c: device_key(c, NORTH)) is None
    assert office.run(lambda c: device_key(c, SOUTH)) is not None


# --- telling ------------------------------------------------------------------------------------------------


def test_an_alarm_waits_for_a_person_until_one_has_looked(office: Office) -> None:
    """It stands among the findings with the next command, and goes when that was given."""
    ticket = office.claim(EAST)
    office.ask(Applicant("west").enrolment(ticket))

    def told() -> list[str]:
        return [one.next for one in findings(office.world.database) if one.kind == "identity"]

    [next_command] = told()
    [alarm] = office.alarms()
    assert f"--seen {alarm.number}" in next_command
    assert office.run(lambda c: mark_seen(c, alarm.number + 99, by="mei", now_ns=3)) == 1
    assert told() == []
    office.ask(Applicant("south-west").enrolment(office.claim("elsewhere")))
    assert len(told()) == 1, "nobody has looked at what came later"


def test_a_revoked_box_waits_for_a_person_until_its_epochs_are_sealed(office: Office) -> None:
    """Its money is outstanding; nobody is to forget it."""
    east = office.enrolled(EAST)
    box = speaking(office.world, east)
    office.run(lambda c: revoke_device(c, EAST, reason="stolen", by="", now_ns=office.world.now_ns()))

    def told() -> list[str]:
        return [one.reason for one in findings(office.world.database) if one.kind == "box"]

    assert told() == ["its device is revoked: stolen"]
    with office.world.engine.begin() as connection:
        connection.execute(
            text("UPDATE journal_head SET sealed = :sealed WHERE box = 'east'"), {"sealed": True}
        )
    assert told() == []
    assert box.epoch == 1


def test_a_certificate_that_nobody_renewed_waits_for_a_person(office: Office) -> None:
    """The box has not come through for a third of its life: somebody is to look before the end."""
    office.pass_time(-80 * DAY_S)
    office.enrolled(EAST)
    office.pass_time(80 * DAY_S)
    [told] = [one for one in findings(office.world.database) if one.kind == "certificate"]
    assert "ends soon" in told.reason


def test_no_request_that_was_tampered_with_binds_anything(office: Office) -> None:
    """Whatever byte is changed on the way: refused in words, and nothing breaks."""
    ticket, east, chance = office.claim(EAST), Applicant(EAST), Random(7)
    sound = east.enrolment(ticket)
    for _ in range(150):
        place = chance.randrange(len(sound))
        data = sound[:place] + bytes([sound[place] ^ 1 << chance.randrange(8)]) + sound[place + 1 :]
        try:
            signed, request = read_request(data)
        except EnrolmentError:
            continue

        def judged(connection: Connection, signed: Signed = signed, request: Request = request) -> Reply | No:
            scene = Scene(connection, signed, "192.0.2.7", office.world.now_ns(), lambda: True)
            with connection.begin_nested() as tried:
                answer = office.desk.answer(scene, request)
                tried.rollback()
            return answer

        assert isinstance(office.run(judged), No), place
    east.take(office.ask(sound))


def test_the_database_gives_no_claim_away(office: Office) -> None:
    """Whoever reads the hub's tables cannot enrol with what stands there."""
    ticket = office.claim(EAST)
    row = office.run(lambda c: claim_of(c, ticket.id))
    assert row is not None
    assert ticket.seed.hex() not in str(row)
    assert bytes.fromhex(row.public_key) != ticket.seed


def test_the_log_of_identities_only_grows(office: Office) -> None:
    """Every step has its row, in order."""
    east = office.enrolled(EAST)
    office.pass_time(60 * DAY_S)
    office.ask(east.renewal())
    with office.world.engine.begin() as connection:
        rows = connection.execute(text("SELECT number, event FROM identity_event ORDER BY number")).all()
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.event for row in rows] == ["claim_made", "enrolled", "renewed"]
