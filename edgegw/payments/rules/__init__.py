"""The rules a payment or hold must pass before its funds are looked at. Every module of this folder is one
rule; a newcomer adds one file and nothing else.

A module says what it is with one value, `RULE = PaymentRule(name=..., order=..., refuses=...)`; its
docstring is its page in the reference. Rules run in rising order (lists 10, limits 20; a
site's own from 100 on) and the first refusal wins. A rule is pure: it reads the book, which sees what the
batch has decided so far, and changes nothing.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil

from edgegw.payments.rule import PaymentRule


def discover() -> tuple[PaymentRule, ...]:
    """All rules of this folder in their order; raises TypeError that names a module without a RULE, or two
    with one order."""
    found: list[PaymentRule] = []
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        rule = getattr(module, "RULE", None)
        if not isinstance(rule, PaymentRule):
            raise TypeError(
                f"{module.__name__} has no RULE; set RULE = PaymentRule(name=..., order=..., refuses=...)"
            )
        found.append(rule._replace(documentation=(module.__doc__ or "").strip()))
    found.sort(key=lambda rule: rule.order)
    for first, second in itertools.pairwise(found):
        if first.order == second.order:
            raise TypeError(f"rules {first.name} and {second.name} both have order {first.order}")
    return tuple(found)
