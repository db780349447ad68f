"""Who gives way when places run out."""

import random
from collections import Counter

from edgegw.access.crowd import Crowd


def test_it_is_always_one_of_the_address_with_most_and_its_longest_waiting() -> None:
    """A count that drifts would let a flood keep its places and take those of others."""
    dice = random.Random(8)
    crowd: Crowd[int] = Crowd()
    waiting: dict[int, str] = {}
    for step in range(3_000):
        if waiting and dice.random() < 0.45 + (step > 2_000) * 0.2:
            one = dice.choice(list(waiting))
            crowd.discard(one)
            crowd.discard(one)
            del waiting[one]
        else:
            one = dice.choice(list(waiting)) if waiting and dice.random() < 0.3 else step
            waiting[one] = waiting.pop(one, dice.choice("abcde"))
            crowd.add(one, waiting[one])
        counts = Counter(waiting.values())
        assert len(crowd) == len(waiting)
        assert all(crowd.count(host) == counts[host] for host in "abcde")
        first = crowd.first()
        if first is None:
            assert not waiting
            continue
        host = waiting[first]
        assert counts[host] == max(counts.values())
        assert first == next(one for one, whose in waiting.items() if whose == host)
