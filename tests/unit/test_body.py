"""The body of a delivery: the contract's shape, the publisher's bytes, the same on every attempt."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.body import render_body
from tests.fakes import START, event, tenant


def test_the_shape_of_the_contract():
    """The body has the contract's fields in its order."""
    subject = event(id="whev_" + "x" * 24, data=b'{"amount":1}', timestamp=START)
    assert render_body(subject, "2026-08-27") == (
        b'{"id":"whev_xxxxxxxxxxxxxxxxxxxxxxxx","event":"invoice.paid","timestamp":"2026-03-25T14:30:00.000Z",'
        b'"organizationId":"acme","mode":"live","apiVersion":"2026-08-27","data":{"amount":1}}'
    )


def test_the_timestamp_is_the_time_of_emission():
    """`timestamp` says when the event happened, not when it was accepted."""
    assert json.loads(render_body(event(timestamp=START - 1_000), "v"))["timestamp"] == "2026-03-25T14:29:59.000Z"


def test_data_goes_out_byte_for_byte():
    """Spacing, order, repeated names, escapes and long numbers of `data` are the publisher's to the last byte."""
    data = b'{ "b":1.10,\n"a":"\\u00e9\xc3\xa9", "a":123456789012345678901234567890,"n":1e400 }'
    assert render_body(event(data=data), "v").endswith(b'"data":' + data + b"}")


@given(organization_id=st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text))
def test_any_organization_makes_json(organization_id: str):
    """An organization's id may hold quotes, newlines and any letter: the body stays JSON."""
    subject = event(tenant=tenant(organization_id))
    assert json.loads(render_body(subject, "2026-08-27"))["organizationId"] == organization_id


def test_a_body_is_rendered_once_for_each_version():
    """The same event and version give the same bytes, made once; another version gives others."""
    subject = event()
    first = render_body(subject, "2026-07-11")
    assert render_body(subject, "2026-07-11") is first
    assert json.loads(render_body(subject, "2026-08-27"))["apiVersion"] == "2026-08-27"
    assert render_body(subject, "2026-07-11") is first
