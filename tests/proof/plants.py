"""Faults that must not live: each is planted in a copy of the tree, and the tests that it names must go red.

    python -m tests.proof.plants [--only NAME ...] [--json]

Exits with 1 when a fault is not found, when its text is no longer in the product, or when the same tests are
red without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.proof.planting import Copy, Edit, Gone, Plant

BOOT, STORE, WRITER = "tests/ledger/test_boot.py", "tests/ledger/test_store.py", "tests/ledger/test_writer.py"
EXCHANGE, DECIDE = "tests/core/test_exchange.py", "tests/core/test_decide.py"
SYNCED, PRUNE = "tests/ledger/test_synced.py", "tests/ledger/test_prune.py"


def plant(name: str, harm: str, file: str, old: str, new: str, *tests: str) -> Plant:
    """A fault in one place of a file of the package."""
    return Plant(name, harm, (Edit(f"edgegw/{file}", old, new),), tests)


PLANTS: Final[tuple[Plant, ...]] = (
    plant(
        "synchronous-normal",
        "a COMMIT that is answered is lost in a power cut",
        "ledger/schema.py",
        '"synchronous": ("FULL", 2)',
        '"synchronous": ("NORMAL", 1)',
        "tests/crash/test_crash_states.py::test_no_power_cut_loses_an_answer",
    ),
    plant(
        "pragma-not-set",
        "SQLite syncs less than asked for and nobody notices",
        "ledger/schema.py",
        'connection.execute(f"PRAGMA {name}={setting}")',
        'connection.execute(f"PRAGMA {name}")',
        STORE,
    ),
    plant(
        "other-history-forgotten",
        "after a fork a payment that the centre's history answered is decided again",
        "ledger/store.py",
        "for elsewhere in (self.pruned, self.others):",
        "for elsewhere in (self.pruned,):",
        "tests/uplink/test_epochs.py",
    ),
    plant(
        "other-history-not-asked-for",
        "after a fork the next epoch begins without what the centre's history decided",
        "core/exchange.py",
        "elif epoch.forked and head.size and head not in (mine, *message.others):",
        "elif False:",
        EXCHANGE,
    ),
    plant(
        "settled-too-early",
        "an old epoch is settled while its box still has records of it: they are cut off",
        "hub/receive.py",
        "    note_told(connection, message.box, message.journals)\n",
        "",
        "tests/hub/test_receive.py",
    ),
    plant(
        "anchor-not-synced",
        "after a power cut the anchor is empty, and a sound box stops",
        "ledger/anchor.py",
        "        os.fsync(file.fileno())\n",
        "",
        SYNCED,
    ),
    plant(
        "anchor-directory-not-synced",
        "after a power cut the anchor's name leads to its past",
        "ledger/anchor.py",
        "    fsync_directory(path.parent)\n",
        "",
        SYNCED,
    ),
    plant(
        "ledger-directory-not-synced",
        "after a power cut the ledger's file has no name",
        "ledger/schema.py",
        "    fsync_directory(path.parent)\n",
        "",
        SYNCED,
    ),
    plant(
        "lineage-not-compared",
        "a restored ledger clears what it has cleared before",
        "ledger/anchor.py",
        "if token not in past.lineage:",
        "if token is None:",
        BOOT,
    ),
    plant(
        "anchored-size-not-compared",
        "a journal that has lost its end starts as if nothing were missing",
        "ledger/anchor.py",
        "if head is None or head.size < past.size:",
        "if head is None:",
        BOOT,
    ),
    plant(
        "dedupe-dropped",
        "a retry pays again",
        "ledger/requests.py",
        "known = batch.known.get(identity) if fresh is None else encode(fresh)",
        "known = None if fresh is None else encode(fresh)",
        WRITER,
    ),
    plant(
        "dedupe-in-batch-dropped",
        "two retries that wait for one COMMIT pay twice",
        "ledger/requests.py",
        "fresh = batch.book.fresh.get(identity)",
        "fresh = None",
        WRITER,
        "tests/payments/test_service.py",
    ),
    plant(
        "content-not-compared",
        "another payment under a used id gets the first one's approval",
        "ledger/requests.py",
        "field = record.request.different_field(request)",
        "field = None",
        WRITER,
    ),
    Plant(
        "answer-before-commit",
        "an answer is told that a power cut takes back",
        (
            Edit(
                "edgegw/ledger/writer.py",
                "            tip = await loop.run_in_executor(",
                "            for job in jobs:\n                job.tell()\n"
                "            tip = await loop.run_in_executor(",
            ),
            Edit(
                "edgegw/ledger/writer.py",
                "        for job in jobs:\n            job.tell()\n        for told in",
                "        for told in",
            ),
        ),
        (WRITER,),
    ),
    plant(
        "checkpoint-of-another-root",
        "the box signs what its disk does not hold",
        "ledger/writer.py",
        "checkpoint = sign(batch.epoch, batch.size, root)",
        "checkpoint = sign(batch.epoch, batch.size, tip.frontier.root())",
        WRITER,
    ),
    plant(
        "failed-commit-goes-on",
        "after a failed fsync the box answers from memory that no disk has",
        "ledger/writer.py",
        "        self.failure = error\n",
        "",
        WRITER,
        "tests/ledger/test_stopped_pen.py",
    ),
    plant(
        "head-not-claimed",
        "two processes write one journal",
        "ledger/store.py",
        "WHERE epoch = ? AND size = ? AND boot = ?",
        "WHERE epoch = ? AND size = ? AND boot <> ?||'x'",
        STORE,
        WRITER,
    ),
    plant(
        "records-deletable",
        "whoever has the file open takes records away",
        "ledger/schema.py",
        "CREATE TRIGGER record_keeps_content BEFORE UPDATE ON record\n"
        "    BEGIN SELECT RAISE(ABORT, 'records are never changed'); END;",
        "",
        STORE,
    ),
    plant(
        "overlap-not-compared",
        "a box whose past was rewritten goes on as if nothing had happened",
        "core/exchange.py",
        "_overlap_fault(package, held) or _signed_head_fault(checkpoint, held)",
        "_signed_head_fault(checkpoint, held)",
        EXCHANGE,
    ),
    plant(
        "signed-head-not-compared",
        "a second signed history is taken for the first",
        "core/exchange.py",
        "_overlap_fault(package, held) or _signed_head_fault(checkpoint, held)",
        "_overlap_fault(package, held)",
        EXCHANGE,
    ),
    plant(
        "proof-not-verified",
        "records are taken whose continuation nobody has signed",
        "core/exchange.py",
        "        return _refuse(held, PackageVerdict.BAD_PROOF, str(problem), checkpoint)\n",
        "        str(problem)\n",
        EXCHANGE,
    ),
    plant(
        "replayed-message-taken",
        "a recorded beat is played again",
        "core/exchange.py",
        "if counter > held.counter else None",
        "if counter >= held.counter else None",
        EXCHANGE,
    ),
    plant(
        "note-not-verified",
        "anybody signs checkpoints for the box",
        "core/journal.py",
        "if not verify(body.encode(), _only_signature(lines, name, key_id)):",
        "if verify(body.encode(), _only_signature(lines, name, key_id)) is None:",
        f"{EXCHANGE}::test_a_link_that_the_hub_did_not_sign_is_refused",
    ),
    plant(
        "envelope-not-verified",
        "anybody speaks for the hub",
        "core/messages.py",
        "if not verify(text, envelope.signature):",
        "if verify(text, envelope.signature) is None:",
        EXCHANGE,
    ),
    plant(
        "cosigned-whatever-commit-says",
        "the hub says that it holds what a failed COMMIT has thrown away",
        "hub/sqlite.py",
        "            with self.engine.begin() as connection:\n                return work(connection)\n",
        "            connection = self.engine.connect()\n            result = work(connection)\n"
        "            try:\n                connection.commit()\n            except Exception:\n"
        "                connection.invalidate()\n            connection.close()\n"
        "            return result\n",
        "tests/hub/test_cosigning.py",
    ),
    plant(
        "grant-applied-twice",
        "the branch spends money that the centre did not hand out",
        "core/apply.py",
        'return Effect(APPLIED, "", (leg,))',
        'return Effect(APPLIED, "", (leg, leg))',
        DECIDE,
        "tests/core/test_apply.py",
        "tests/uplink/test_line.py",
    ),
    plant(
        "late-grant-kept",
        "money that nobody waits for is spendable at the branch",
        "core/apply.py",
        "(leg, back))",
        "(leg,))",
        f"{DECIDE}::test_a_late_grant_is_handed_back",
    ),
    plant(
        "refusal-moves-money",
        "a payment that is refused is paid all the same",
        "ledger/requests.py",
        "        return self._journalled(batch, decided)\n",
        "        if isinstance(decided, Refusal):\n"
        "            from edgegw.core.records import Leg\n"
        "            legs = (Leg(request.debit_account_id, request.credit_account_id, 1),)\n"
        "            batch.book.post(legs, epoch=decided.epoch, seq=decided.seq, at_ns=decided.at_ns)\n"
        "        return self._journalled(batch, decided)\n",
        "tests/crash/test_crash_states.py::test_no_power_cut_loses_an_answer",
    ),
    plant(
        "held-money-spendable",
        "what a hold reserves is paid to somebody else",
        "core/ledger.py",
        "debits_minor = debit.debits_pending + debit.debits_posted",
        "debits_minor = debit.debits_posted",
        DECIDE,
        "tests/core/test_ledger.py",
    ),
    plant(
        "hold-resolves-twice",
        "one hold is paid twice",
        "core/ledger.py",
        "if status is not PendingStatus.pending:",
        "if status is None:",
        DECIDE,
        "tests/core/test_ledger.py",
    ),
    plant(
        "pruned-above-cosigned",
        "records are deleted that nobody else holds",
        "ledger/schema.py",
        "    WHEN NEW.size > coalesce((SELECT size FROM cosignature WHERE epoch = NEW.epoch), 0)\n",
        "    WHEN 0\n",
        PRUNE,
    ),
    plant(
        "pruned-before-the-horizon",
        "records are deleted that the law wants kept",
        "ledger/prune.py",
        "if now_s - mark.hub_s >= span_s and now_ns - mark.at_ns >= span_s * 1_000_000_000",
        "if now_s - mark.hub_s >= span_s",
        PRUNE,
    ),
    plant(
        "pruned-identity-forgotten",
        "a retry of a pruned payment pays again",
        "ledger/requests.py",
        "    if isinstance(known, Pruned):\n        return Recalled(known, request) if known.is_of(request)"
        ' else Conflict("", None)\n',
        "    if isinstance(known, Pruned):\n        return Recalled(known, request)\n",
        PRUNE,
    ),
    plant(
        "answer-before-the-mirror",
        "an answer is told that burns with the box",
        "ledger/coverage.py",
        "        return self.state is Durability.LOCAL or self._sizes.get(epoch, 0) >= size\n",
        "        return self._sizes.get(epoch, 0) >= size or self.state is not Durability.AWAY\n",
        "tests/ledger/test_coverage.py",
    ),
    plant(
        "leaf-not-compared",
        "a record that was edited by hand is served for ever",
        "ledger/scrub.py",
        "if leaf_hash(previous, body) != leaf:",
        "if not leaf:",
        "tests/ledger/test_scrub.py",
    ),
    plant(
        "edited-record-sent",
        "the hub gets records that are not what was decided",
        "uplink/outbox.py",
        "        if previous != leaf:\n",
        "        if not leaf:\n",
        "tests/uplink/test_line.py",
    ),
)


def main() -> int:
    """Plant what is asked for; 0 when every fault was found and the sound tree is green."""
    options = argparse.ArgumentParser(
        prog="python -m tests.proof.plants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [plant.name for plant in PLANTS]
    options.add_argument("--only", action="append", choices=names, metavar="NAME", help="only this fault")
    options.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = options.parse_args()
    plants = [plant for plant in PLANTS if not chosen.only or plant.name in chosen.only]
    with tempfile.TemporaryDirectory(prefix="edgegw-plants-") as directory:
        figures = play(plants, Copy(Path(directory) / "tree"))
    if chosen.json:
        print(json.dumps(figures))
    return 0 if figures["not_found"] == figures["gone"] == figures["red_without"] == 0 else 1


def play(plants: list[Plant], copy: Copy) -> dict[str, int]:
    """Plant each fault; how many were planted, found, not found, gone, and whether the sound copy was red."""
    assert copy.bites(), "the copy does not run its own package"
    wanted = sorted({test for plant in plants for test in plant.tests})
    sound = copy.check(wanted)
    figures = {"planted": 0, "found": 0, "not_found": 0, "gone": 0, "red_without": int(sound.returncode != 0)}
    if sound.returncode != 0:
        print(f"red without any fault:\n{sound.stdout[-3_000:]}", flush=True)
    for plant in plants:
        try:
            found, said = copy.finds(plant)
        except Gone as gone:
            figures["gone"] += 1
            print(f"{plant.name}: {gone}", flush=True)
            continue
        figures["planted"] += 1
        figures["found" if found else "not_found"] += 1
        print(f"{plant.name}: {'found' if found else f'NOT FOUND, so {plant.harm}'}", flush=True)
        if not found:
            print(said, flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
