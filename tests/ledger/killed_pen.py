"""A process to be killed: writes batches into the ledger in argv[1] and tells stdout each size on disk."""

import random
import sys
from pathlib import Path

from edgegw.access.keys import load_signing_key
from edgegw.ledger.boot import open_ledger
from tests.ledger.pens import BANK, BOX, TestPen


def main() -> None:
    directory, boot, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    opened = open_ledger(
        directory, anchor_directory=directory / "outside", bank=BANK, box=BOX, boot=boot, create=True
    )
    if opened.trouble is not None:
        raise opened.trouble
    pen = TestPen(opened.store, boot=boot, key=load_signing_key(directory / "key.pem", f"{BANK}/{BOX}"))
    pen.resume()
    rng = random.Random(seed)
    while True:
        pen.write_transfers(rng.choice([1, 2, 16, 64, 300]))
        opened.anchor.note(epoch=1, size=pen.size, root=pen.frontier.root())
        print(pen.size, flush=True)


if __name__ == "__main__":
    main()
