"""What is said of a connection that could not be made, where no server of the tests can make it fail so."""

import ssl

import pytest

from gateway.store.postgres.connecting import refusal

URL = "postgresql://gateway:hunter2@db/gateway"


def test_a_certificate_that_does_not_hold_is_told_with_the_reason():
    """Though the error is one of values, too."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    assert str(refusal(error, URL)) == "the certificate of the store's server does not hold: self-signed certificate"


def test_files_of_the_environment_are_looked_at_as_well(monkeypatch: pytest.MonkeyPatch):
    """What the URL says goes before."""
    monkeypatch.setenv("PGSSLROOTCERT", "/nope")
    assert "the file of `sslrootcert`, /nope, cannot be read" in str(refusal(FileNotFoundError(), URL))
    assert "the file of `sslrootcert`, /none, cannot be read" in str(refusal(FileNotFoundError(), f"{URL}?sslrootcert=/none"))


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), TimeoutError(), FileNotFoundError(2, "no socket")])
def test_what_has_nothing_to_do_with_the_url_is_left_as_it_is(error: OSError):
    """It is told as it would be of a connection that was made."""
    assert refusal(error, URL) is None
