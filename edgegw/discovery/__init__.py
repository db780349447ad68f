"""Being found on the branch's network, and finding who else is there: addresses, never trust.

A process of its own speaks multicast DNS, with a small share of the machine and no secret; what the box takes
from it is a short list. A flood, a lie or a fault there costs the payments nothing.
"""
