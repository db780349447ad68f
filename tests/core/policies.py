"""Keys of epochs for tests: the policy of a journal that has had one key."""

from edgegw.access.keys import VerifyingKey
from edgegw.core.key_policy import KeyPolicy


def one_key(key: VerifyingKey, *, bank: str, box: str, epoch: int = 1) -> KeyPolicy:
    """An epoch whose link names this key, and no record another one."""
    return KeyPolicy(bank=bank, box=box, epoch=epoch, first=key.text(), parse=VerifyingKey.parse)
