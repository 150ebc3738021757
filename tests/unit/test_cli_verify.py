"""`gateway verify`: both families of signatures, held against what was received."""

import time

import msgspec
import pytest
from click.testing import CliRunner

from gateway import signing
from gateway.cli import program

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
BODY = b'{"id": "whev_1", "data": {"total": 1}}'


def headers(*, secret: str = SECRET, body: bytes = BODY, at: int | None = None, **changed: str) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    key = signing.secret_key(secret)
    return {
        "Content-Type": "application/json",
        "X-Commet-Signature": signing.hex_signature(secret, body),
        "webhook-id": "whev_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signing.standard_signature([key], "whev_1", at, body),
    } | {name.replace("_", "-"): value for name, value in changed.items()}


def verify(*arguments: str, given: dict[str, str], body: bytes = BODY, secret: str | None = SECRET):
    options = [option for name, value in given.items() for option in ("--header", f"{name}: {value}")]
    environment = {"GATEWAY_WEBHOOK_SECRET": secret, "GATEWAY_CONFIG": None}
    return CliRunner().invoke(program, ["verify", *options, *arguments], input=body, env=environment)


def test_what_was_received_as_it_was_sent_holds_by_both_families():
    result = verify(given=headers())
    assert result.exit_code == 0
    assert result.stdout.startswith("X-Commet-Signature holds\nwebhook-signature holds\nsigned at ")


def test_the_secret_and_the_body_may_come_from_files(tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "body").write_bytes(BODY)
    result = verify(str(tmp_path / "body"), "--secret-file", str(tmp_path / "secret"), given=headers(), body=b"", secret=None)
    assert result.exit_code == 0


def test_names_of_headers_are_matched_whatever_their_case():
    result = verify(given={name.upper(): value for name, value in headers().items()})
    assert result.exit_code == 0


@pytest.mark.parametrize("family", ["X-Commet-Signature", "webhook-signature"])
def test_one_family_is_enough_when_the_other_was_not_given(family):
    given = headers()
    del given[family]
    assert verify(given=given).exit_code == 0


@pytest.mark.parametrize(
    ("body", "secret"), [(BODY + b" ", SECRET), (BODY, OTHER_SECRET)], ids=["another body", "another secret"]
)
def test_what_was_not_signed_does_not_hold(body, secret):
    result = verify(given=headers(), body=body, secret=secret)
    assert result.exit_code == 1
    assert "X-Commet-Signature does not hold\nwebhook-signature does not hold\n" in result.stdout
    assert "not what was signed" in result.stderr


def test_one_signature_that_does_not_hold_is_enough_to_fail():
    result = verify(given=headers(X_Commet_Signature="0" * 64))
    assert result.exit_code == 1
    assert "X-Commet-Signature does not hold\nwebhook-signature holds\n" in result.stdout


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"webhook_timestamp": "soon"}, "webhook-timestamp is not a whole number of seconds"),
        ({"webhook_timestamp": "9" * 5_000}, ""),
        ({"webhook_signature": "v1,ä"}, ""),
        ({"X_Commet_Signature": "ä"}, ""),
    ],
)
def test_headers_that_make_no_sense_do_not_hold(changed, reason):
    result = verify(given=headers(**changed))
    assert result.exit_code == 1
    assert reason in result.stdout


def test_a_signature_without_what_it_covers_does_not_hold():
    given = headers()
    del given["webhook-id"]
    result = verify(given=given)
    assert result.exit_code == 1
    assert "webhook-signature does not hold: it covers webhook-id, which was not given" in result.stdout


def test_a_secret_of_another_form_holds_by_the_first_family_only():
    given = headers(X_Commet_Signature=signing.hex_signature("hello", BODY))
    result = verify(given=given, secret="hello")
    assert result.exit_code == 1
    assert (
        "X-Commet-Signature holds\nwebhook-signature does not hold: the secret is not 'whsec_' followed by base64"
        in result.stdout
    )


def test_a_line_break_that_an_editor_added_is_pointed_out():
    result = verify(given=headers(), body=BODY + b"\n")
    assert result.exit_code == 1
    assert "it holds without the line break at the end" in result.stdout


def test_without_any_signature_nothing_is_verified():
    result = verify(given={"Content-Type": "application/json"})
    assert result.exit_code == 1
    assert "neither X-Commet-Signature nor webhook-signature" in result.stderr


def test_age_is_told_and_counts_only_with_a_tolerance():
    old = headers(at=int(time.time()) - 3_600)
    assert verify(given=old).exit_code == 0
    result = verify("--tolerance", "300", given=old)
    assert result.exit_code == 1
    assert "not within 300 s of now" in result.stderr


def test_the_prefix_of_the_first_family_is_the_setting():
    given = headers()
    given["Acme-Signature"] = given.pop("X-Commet-Signature")
    result = verify("--set", "delivery.signature_header_prefix=Acme", given=given)
    assert result.exit_code == 0
    assert "Acme-Signature holds" in result.stdout


def test_json_says_the_same():
    result = verify("--json", given=headers(X_Commet_Signature="0" * 64))
    told = msgspec.json.decode(result.stdout)
    assert result.exit_code == 1
    assert told["valid"] is False
    assert [(finding["header"], finding["holds"]) for finding in told["signatures"]] == [
        ("X-Commet-Signature", False),
        ("webhook-signature", True),
    ]


def test_without_a_secret_it_is_wrong_usage_and_the_secret_is_never_shown():
    assert verify(given=headers(), secret=None).exit_code == 2
    for given in (headers(), headers(X_Commet_Signature="0")):
        assert SECRET.removeprefix("whsec_") not in verify(given=given).output


def test_a_secret_that_is_not_text_is_wrong_usage(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"\xff\xfe\x00")
    result = verify("--secret-file", str(file), given=headers(), secret=None)
    assert result.exit_code == 2
    assert f"{file} holds no secret: it is not text" in result.stderr
    result = verify(given=headers(), secret="whsec_\udcff")
    assert result.exit_code == 2
    assert "it is not text in UTF-8" in result.stderr
