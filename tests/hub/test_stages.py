"""A version of the site's settings goes to a few boxes first, on to all when they are well, and back by
itself when one of them is not."""

from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import Connection

from edgegw.core.journal import sm3
from edgegw.core.records import Account, Directive, SiteDirective, SiteReturned
from edgegw.core.site import RateRule, Site, decode_site
from edgegw.core.site_file import check_site, restored
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.findings import findings
from edgegw.hub.identities import register_boxes
from edgegw.hub.site import SiteError, Staging, advance, bundle_of, halt, promote, publish, rollback
from edgegw.hub.stages import boxes_at, chosen, stages
from tests.hub.simulated_box import CNY, SimulatedBox
from tests.hub.world import ACCOUNTS, ALLOTTED, NORTH, SOUTH, World, a_site

SECOND_NS = 10**9


def sites(came: list[Directive]) -> list[SiteDirective]:
    return [directive for directive in came if isinstance(directive, SiteDirective)]


def stage(world: World, site: Site, *canaries: str, share_percent: int = 0, bake_seconds: int = 0) -> str:
    staging = Staging(canaries, share_percent, bake_seconds)
    with world.engine.begin() as connection:
        body = msgspec.json.encode(site)
        return publish(connection, world.keyring, body, now_ns=SECOND_NS, staging=staging)


def tick(world: World, *, seconds: int = 1) -> str:
    """What the hub does by itself a while from now."""
    with world.engine.begin() as connection:
        return advance(connection, world.keyring, now_ns=world.now_ns() + seconds * SECOND_NS)


def words(world: World) -> dict[str, tuple[int, str]]:
    with world.engine.begin() as connection:
        return {one.box: (one.version, one.word) for one in boxes_at(connection, world.keyring.pinned.keys())}


def two_boxes(world: World) -> tuple[SimulatedBox, SimulatedBox]:
    return world.box(NORTH), world.box(SOUTH)


def test_a_canary_alone_gets_a_staged_version(world: World) -> None:
    """The other box hears nothing of it before the version is let out to all."""
    north, south = two_boxes(world)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    assert [one.version for one in sites(north.sync())] == [2]
    assert sites(south.sync()) == []
    assert words(world) == {NORTH: (2, "applied"), SOUTH: (1, "applied")}
    with world.engine.begin() as connection:
        promote(connection, share_percent=100, now_ns=2)
    assert [one.version for one in sites(south.sync())] == [2]
    assert sites(north.sync()) == []


def test_the_hub_counts_for_each_box_by_the_version_that_the_box_has(world: World) -> None:
    """A staged allotment is money for the canaries alone."""
    world.fund("HOME", 1_000)
    world.fund("FAR", 1_000)
    north, south = two_boxes(world)
    stage(world, a_site(2, allowances=ALLOTTED), NORTH)
    north.sync()
    south.sync()
    assert world.money("HOME")[2] == 400
    assert world.money("FAR")[2] == 0


def test_a_version_may_be_numbered_by_its_date_and_a_box_that_never_spoke_is_not_called_old(
    world: World,
) -> None:
    """An operator would order a new program for a box that is only not switched on yet."""
    number = 2026_11_22_001
    rates = (RateRule(per_second_count=5, burst_count=5),)
    stage(world, a_site(number, rates=rates), NORTH)
    with world.engine.begin() as connection:
        boxes = {one.box: one for one in boxes_at(connection, world.keyring.pinned.keys())}
    assert (boxes[NORTH].wanted, boxes[NORTH].format) == (number, 0)


def test_a_canary_that_refuses_a_version_stops_it_and_gets_the_old_content_back(world: World) -> None:
    """No person has to see it first; the log only grows, so the old content has a new number."""
    north, south = two_boxes(world)
    north.refused_sites.add(2)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    north.sync()
    assert "halted" in tick(world)
    came = sites(north.sync())
    assert [one.version for one in came] == [3]
    with world.engine.begin() as connection:
        again = bundle_of(connection, came[0].digest)
    assert again is not None
    assert decode_site(again) == a_site(3)
    assert [one.version for one in sites(south.sync())] == [3]
    with world.engine.begin() as connection:
        assert [(one.version, one.stage) for one in stages(connection)] == [
            (3, "fleet"),
            (2, "halted"),
            (1, "fleet"),
        ]


def test_a_canary_that_returned_by_itself_stops_the_version(world: World) -> None:
    """The box's own record is the report; it needs no other way to the hub."""
    north, _ = two_boxes(world)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    second = sites(north.sync())[0]
    north.write(
        SiteReturned(
            **north.head(), version=2, left_digest=second.digest, digest="00" * 32, reason="unhealthy"
        )
    )
    north.sync()
    assert words(world)[NORTH] == (2, "returned: unhealthy")
    with world.engine.begin() as connection, pytest.raises(SiteError, match="has failed"):
        promote(connection, share_percent=100, now_ns=2)
    assert "returned: unhealthy" in tick(world)
    assert [one.version for one in sites(north.sync())] == [3]


def test_a_version_that_was_well_for_its_time_goes_to_all_where_that_was_asked(world: World) -> None:
    """Not before every chosen box has it, nor before each has had it for the time; and a box that has fallen
    silent with it is not taken for a healthy one."""
    north, south = two_boxes(world)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH, bake_seconds=3_600)
    world.ahead_ns += 7_200 * SECOND_NS
    assert tick(world) == ""
    north.sync()
    assert tick(world) == ""
    world.ahead_ns += 3_601 * SECOND_NS
    assert tick(world) == ""
    north.sync()
    assert "whole fleet" in tick(world)
    assert [one.version for one in sites(south.sync())] == [2]


def test_a_version_that_no_box_has_is_halted_without_another_one(world: World) -> None:
    """Nobody is told of what nobody heard of."""
    north, _ = two_boxes(world)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    with world.engine.begin() as connection:
        assert halt(connection, world.keyring, reason="second thoughts", now_ns=2) == 0
    assert sites(north.sync()) == []


def test_a_version_is_halted_though_the_one_before_cannot_be_given_back(world: World) -> None:
    """A box has left the hub's settings since: nothing could be published ever again."""
    box = world.box(NORTH)
    world.keyring = replace(world.keyring, pinned={NORTH: world.keyring.pinned[NORTH]})
    world.database.transact(lambda c: register_boxes(c, world.keyring, now_ns=2))
    here = tuple(one for one in ACCOUNTS if one.home != SOUTH)
    stage(world, a_site(2, accounts=here), NORTH)
    box.beat()
    box.apply(box.directives[-1], outcome="refused")
    box.sync()
    assert "its boxes keep what they have" in tick(world)
    with world.engine.begin() as connection:
        [halted, _] = stages(connection)
    assert "version 1 cannot be given back: " in halted.reason
    world.publish(a_site(3, accounts=here))
    assert [one.version for one in sites(box.sync())] == [3]


def test_a_box_that_refuses_the_fleets_version_waits_for_a_person(world: World) -> None:
    """It goes by the old settings until somebody looks."""
    box, _ = two_boxes(world)
    assert list(findings(world.database)) == []
    world.publish(a_site(2, late_decline_liable="branch"))
    box.beat()
    box.apply(box.directives[-1], outcome="refused")
    box.sync()
    [found] = findings(world.database)
    assert (found.kind, found.box) == ("site", NORTH)
    assert found.reason.startswith("version 2 of the site's settings is refused: ")


def test_publishing_to_all_what_is_staged_or_halted_is_not_answered_as_done(world: World) -> None:
    """The same bytes are there, but the fleet has not got them; a staging that is asked for twice is."""
    two_boxes(world)
    wanted = a_site(2, late_decline_liable="branch")
    assert stage(world, wanted, NORTH) == stage(world, wanted, NORTH)
    with pytest.raises(SiteError, match="2 is staged; `edgegw site promote"):
        world.publish(wanted)
    with world.engine.begin() as connection:
        halt(connection, world.keyring, reason="second thoughts", now_ns=2)
    with pytest.raises(SiteError, match=r"2 is halted \(second thoughts\)"):
        world.publish(wanted)


def test_nothing_else_is_published_while_a_version_is_staged(world: World) -> None:
    """Two versions on their way at once would leave boxes between them."""
    two_boxes(world)
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    with pytest.raises(SiteError, match="2 is staged"):
        world.publish(a_site(3))
    with world.engine.begin() as connection, pytest.raises(SiteError, match="2 is staged"):
        rollback(connection, world.keyring, 1, now_ns=2)


def test_a_rollback_names_what_the_box_has_kept(world: World) -> None:
    """So a box makes the bundle from its own copy, byte for byte the hub's, and fetches nothing."""
    north, _ = two_boxes(world)
    with world.engine.begin() as connection:
        first = bundle_of(connection, str(north.directives[0].digest))  # type: ignore[union-attr]
    world.publish(a_site(2, late_decline_liable="branch"))
    north.sync()
    with world.engine.begin() as connection:
        assert rollback(connection, world.keyring, 1, now_ns=2) == 3
    (third,) = sites(north.sync())
    assert first is not None
    assert third.restores == sm3(first).hex()
    assert sm3(restored(first, version=3)).hex() == third.digest


def test_a_bundle_is_signed_by_the_hub_itself(world: World) -> None:
    """Not only the log that names it: a bundle on a stick is to prove itself."""
    north = world.box(NORTH)
    (first,) = sites(north.directives)
    with world.engine.begin() as connection:
        bundle = bundle_of(connection, first.digest)
    assert bundle is not None
    said = check_site(first.note, bundle, world.hub_key.public)
    assert (said.bank, said.version, said.digest) == ("testbank", 1, first.digest)


def test_a_staged_version_moves_no_home_of_a_box_that_has_not_got_it(world: World) -> None:
    """The box still keeps the account's credits, so its money must not be allotted elsewhere yet."""
    two_boxes(world)
    moved = [
        msgspec.structs.replace(one, home={"HOME": SOUTH, "FAR": NORTH}.get(one.id, one.home))
        for one in a_site().accounts
    ]
    new = Account(id="NEW", currency=CNY, home=SOUTH)
    stage(world, a_site(2, accounts=(*moved, new)), NORTH)
    homes = "SELECT account_id, home FROM account WHERE account_id IN ('HOME', 'FAR', 'NEW') ORDER BY 1"
    assert world.rows(homes) == [("FAR", NORTH), ("HOME", NORTH), ("NEW", "")]
    with world.engine.begin() as connection:
        promote(connection, share_percent=100, now_ns=2)
    assert world.rows(homes) == [("FAR", NORTH), ("HOME", SOUTH), ("NEW", SOUTH)]


def test_a_new_epoch_begins_with_the_version_that_is_the_boxs_own(world: World) -> None:
    """A canary's next log of directives names the staged version, another box's the fleet's."""
    stage(world, a_site(2, late_decline_liable="branch"), NORTH)
    north, south = two_boxes(world)
    assert [one.version for one in sites(north.directives)] == [2]
    assert [one.version for one in sites(south.directives)] == [1]


def test_a_box_of_an_older_release_keeps_what_it_has_where_it_cannot_read_the_new(world: World) -> None:
    """A bundle without the rates would let clients ask faster; the hub says that the box waits."""
    north, south = world.new_box(NORTH), world.new_box(SOUTH)
    north.site_format = 0
    for box in (north, south):
        box.open()
        box.sync()
    world.publish(a_site(2, rates=(RateRule(per_second_count=5, burst_count=10),)))
    assert sites(north.sync()) == []
    assert [one.version for one in sites(south.sync())] == [2]
    with world.engine.begin() as connection:
        waiting = {one.box: one.format for one in boxes_at(connection, world.keyring.pinned.keys())}
    assert waiting == {NORTH: 1, SOUTH: 0}
    [held] = [one for one in findings(world.database) if one.kind == "site"]
    assert held.box == NORTH
    assert "keeps version 1 of the site's settings: its program reads format 1, version 2" in held.reason
    world.publish(a_site(3, late_decline_liable="branch"))
    assert [one.version for one in sites(north.sync())] == [3]


def test_a_box_hears_of_what_it_could_not_read_when_its_program_is_new(world: World) -> None:
    """The same version, by the next message of its next session."""
    north = world.new_box(NORTH)
    north.site_format = 0
    north.open()
    north.sync()
    world.publish(a_site(2, rates=(RateRule(per_second_count=5, burst_count=10),)))
    assert sites(north.sync()) == []
    north.site_format, north.boot = 2, "updated"
    north.open()
    assert [one.version for one in sites(north.sync())] == [2]


def test_a_directive_of_an_older_hub_has_neither_note_nor_origin(world: World) -> None:
    """Its bytes are what they were before there were any."""
    with world.engine.begin() as connection:
        body = _site_directive(connection, world)
    assert b"note" not in body
    assert b"restores" not in body


def _site_directive(connection: Connection, world: World) -> bytes:
    log = DirectiveLog(connection, world.keyring, box="other", incarnation=1, epoch=1, wall_ns=1)
    log.site(version=1, digest="11" * 32, bundle_bytes=1)
    body = log._rows[0]["body"]
    assert isinstance(body, bytes)
    return body


def test_a_larger_share_only_adds_boxes() -> None:
    """Which boxes are first changes with the version, and with nothing else."""
    fleet = [f"box-{number}" for number in range(40)]
    before: frozenset[str] = frozenset()
    for share in range(0, 101, 5):
        boxes = chosen(7, canaries=("box-1",), share_percent=share, fleet=fleet)
        assert before <= boxes
        assert len(boxes - {"box-1"}) in (-(-40 * share // 100), -(-40 * share // 100) - 1)
        before = boxes
    assert before == frozenset(fleet)
    ten = {version: chosen(version, canaries=(), share_percent=10, fleet=fleet) for version in (7, 8)}
    assert ten[7] != ten[8]
