"""Event types and patterns as the contract spells them, and the operator's catalogue."""

from pathlib import Path

import pytest

from gateway.errors import SettingsError
from gateway.publishing.event_types import Catalogue, is_event_pattern, is_event_type


@pytest.mark.parametrize("text", ["invoice.paid", "a.b", "a.b.c.d", "a_1.b_2", "0.9", "_._", "a." + "b" * 126])
def test_event_types(text: str):
    """Two or more parts of `a-z 0-9 _` joined by dots, up to 128 characters, are an event type, and a pattern too."""
    assert is_event_type(text)
    assert is_event_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "invoice",
        ".",
        "a.",
        ".a",
        "a..b",
        "A.b",
        "a-b.c",
        "a.b ",
        " a.b",
        "a.b\n",
        "a.*",
        "*",
        "ä.b",
        "a.b/c",
        "a." + "b" * 127,
    ],
)
def test_what_is_no_event_type(text: str):
    """Anything else is none, least of all with something before or after it."""
    assert not is_event_type(text)


@pytest.mark.parametrize("text", ["*", "a.*", "invoice.paid.*", "a_1.*", "a" * 126 + ".*"])
def test_patterns(text: str):
    """`*`, and a prefix of one part or more with `.*`, are patterns."""
    assert is_event_pattern(text)


@pytest.mark.parametrize(
    "text", ["", "**", ".*", "*.*", "*.paid", "a.*.b", "a*", "a.*\n", "a..*", "A.*", "invoice", "a" * 127 + ".*"]
)
def test_what_is_no_pattern(text: str):
    """A star elsewhere than alone or at the end, or a malformed prefix, makes no pattern."""
    assert not is_event_pattern(text)


def write(path: Path, text: str | bytes) -> Path:
    file = path / "types.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_catalogue_knows_its_types(tmp_path: Path):
    """What the file names is known, with its description; nothing else is."""
    catalogue = Catalogue.load(write(tmp_path, '[event_types]\n"invoice.paid" = "Paid."\n"invoice.void" = "Void."\n'))
    assert catalogue.types == {"invoice.paid": "Paid.", "invoice.void": "Void."}
    assert catalogue.knows("invoice.paid")
    assert not catalogue.knows("invoice.sent")
    assert not catalogue.knows("invoice.*")


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("*", True),
        ("invoice.*", True),
        ("invoice.paid", True),
        ("invoice.sent", False),
        ("inv.*", False),
        ("invoice.paid.*", False),
    ],
)
def test_a_catalogue_covers_patterns(tmp_path: Path, pattern: str, covered: bool):  # noqa: FBT001 - a column of the table
    """A pattern is covered when some type of the catalogue matches it."""
    catalogue = Catalogue.load(write(tmp_path, '[event_types]\n"invoice.paid" = "Paid."\n'))
    assert catalogue.covers(pattern) is covered


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not toml", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        ("", "[event_types]"),
        ("event_types = 1", "[event_types]"),
        ('[event_types]\n"invoice.paid" = 1', "[event_types]"),
        ('[event_types]\nInvoice = "x"', "'Invoice' is not an event type"),
    ],
)
def test_a_wrong_catalogue_is_refused(tmp_path: Path, content: str | bytes, complaint: str):
    """A file that is no catalogue stops the start with a sentence that names the setting, the file and the fault."""
    file = write(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        Catalogue.load(file)
    assert str(refused.value).startswith(f"events.catalogue: {file}")
    assert complaint in str(refused.value)


def test_a_missing_catalogue_is_refused(tmp_path: Path):
    """A file that is not there stops the start with a sentence that says so."""
    with pytest.raises(SettingsError) as refused:
        Catalogue.load(tmp_path / "nowhere.toml")
    assert "cannot be read (No such file or directory)" in str(refused.value)
