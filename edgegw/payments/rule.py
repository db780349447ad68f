"""What a rule is: the value by which the modules in `payments.rules` say so."""

from __future__ import annotations

from typing import NamedTuple

from edgegw.core.decide import Rule


class PaymentRule(NamedTuple):
    """One rule: its name in the reference, its place among the others, and the function that refuses."""

    name: str
    order: int
    """Lists 10, limits 20; a site's own from 100 on."""
    refuses: Rule
    documentation: str = ""
