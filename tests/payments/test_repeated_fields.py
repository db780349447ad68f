"""Fields named twice are found by counting quotes, which is right for some shapes of bodies alone."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.payments.http_api.bodies import PaymentBody
from edgegw.payments.http_api.operations import OPERATIONS
from edgegw.payments.http_api.strict import decode_body
from edgegw.payments.problems import Unanswered

BODIES = sorted({operation.body for operation in OPERATIONS if operation.body is not None}, key=str)
ALWAYS = {
    "id": "0193a0000000700080000000000000a1",
    "debit_account_id": "alice",
    "credit_account_id": "shop",
    "amount_minor": 1250,
    "currency": "CNY",
}
MORE = {"stand_in": False, "terminal": "T1", "merchant": "M1", "reference": "id"}
DEFAULTS = {"stand_in": True, "terminal": "", "merchant": "", "reference": ""}
DECODER = msgspec.json.Decoder(PaymentBody)


@pytest.mark.parametrize("shape", BODIES, ids=lambda shape: shape.__name__)
def test_no_field_has_a_default_that_is_made_at_need(shape: type[msgspec.Struct]) -> None:
    """It would count as sent where it was not, and let another name stand there twice."""
    made = [one.name for one in msgspec.structs.fields(shape) if one.default_factory is not msgspec.NODEFAULT]
    assert made == []


@given(data=st.data())
def test_a_payment_is_refused_exactly_when_a_name_stands_there_twice(data: st.DataObject) -> None:
    """The last one would win, and a till's two amounts be decided by their order."""
    more = data.draw(st.dictionaries(st.sampled_from(sorted(MORE)), st.sampled_from((MORE, DEFAULTS))))
    sent = [*ALWAYS.items(), *((name, values[name]) for name, values in more.items())]
    again = data.draw(st.lists(st.sampled_from(sent), max_size=2))
    pairs = data.draw(st.permutations([*sent, *again]))
    said = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs)
    raw = f"{{{said}}}".encode()
    code = ""
    try:
        decode_body(raw, DECODER, known_account=lambda _: True)
    except Unanswered as problem:
        code = problem.code
    assert code == ("repeated_field" if again else "")
