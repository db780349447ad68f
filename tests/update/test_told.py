"""What a box tells the centre of its program."""

from pathlib import Path

from edgegw.update.state import Failed, Store, Word
from edgegw.update.told import Told


def test_the_centre_hears_what_runs_and_what_failed(tmp_path: Path) -> None:
    """A fleet whose versions nobody knows cannot be updated."""
    told = Told(tmp_path, version="0.1.0")
    assert (told().version, told().problem) == ("0.1.0", "")
    store = Store(tmp_path)
    store.tell(Word(version="1.0.0+3", slot="a", phase="downloading", target="1.1.0"))
    assert (told().version, told().slot, told().word) == ("1.0.0+3", "a", "downloading 1.1.0")
    failed = Failed(version="1.1.0", sha256="00", why="unwell " * 500, at_s=1)
    store.tell(Word(version="1.0.0+3", slot="a", failed=(failed,)))
    assert told().problem.startswith("1.1.0 has failed: unwell")
    assert len(told().problem) <= 500
    (tmp_path / "status.json").write_bytes(b"{")
    assert told().version == "0.1.0"
