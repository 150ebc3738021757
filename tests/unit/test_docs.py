"""The docs name what the code has."""

import re
from pathlib import Path

import pytest

from gateway.api import problems
from gateway.audit.finding import Kind
from gateway.model import AttemptError, AuditAction, DeliveryState, DisabledReason, Reason
from gateway.registry.keys import PERMISSIONS

DOCS = Path(__file__).parents[2] / "docs"
RUNNING = (DOCS / "running.md").read_text()
OPERATING = (DOCS / "operating.md").read_text()
API = (DOCS / "api.md").read_text()


@pytest.mark.parametrize("word", [*AttemptError, *Reason, *DisabledReason])
def test_operators_find_every_word_of_the_log(word: str):
    """What the log may say of a failure is explained where operators look."""
    assert f"`{word}`" in RUNNING


@pytest.mark.parametrize("word", [*DeliveryState, *sorted({permission.split(":")[0] for permission in PERMISSIONS})])
def test_api_users_find_every_state_and_permission(word: str):
    """The states of a delivery and what a permission speaks of are in the docs."""
    assert f"`{word}`" in API + RUNNING


@pytest.mark.parametrize("word", AuditAction)
def test_everybody_finds_every_action_of_the_audit_log(word: str):
    """What the audit log may say is explained where operators look, and where users of the API do."""
    assert f"`{word}`" in RUNNING
    assert f"`{word}`" in API


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.word)
def test_operators_find_every_finding(kind: Kind):
    """Each kind of finding of an audit has its row, with what it means and what to do."""
    assert re.search(rf"^\| `{kind.word}` \| [^|]+ \| [^|]+ \|$", OPERATING, re.MULTILINE)


def test_api_users_find_every_error():
    """Each code that an answer may bear has its row, with its status."""
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)]
    assert len(kinds) > 10
    for kind in kinds:
        assert re.search(rf"^\| {kind.status} \|.*`{kind.code}`", API, re.MULTILINE), kind


def test_links_lead_somewhere():
    """Every relative link of README, ARCHITECTURE and the docs is to a file that is there."""
    root = DOCS.parent
    for page in [root / "README.md", root / "ARCHITECTURE.md", root / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
