"""`scripts/environment`: what becomes of the .venv that is there, with a Python that only says what it was asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PYTHON = """#!/bin/sh
echo "$*" >>calls
case "$*" in
*version_info*) exit "$(cat "$(dirname "$0")/is-too-old")" ;;
"-m venv --clear .venv")
    rm -rf .venv
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    echo 0 >.venv/bin/is-too-old
    ;;
"-m pip install"*) [ ! -e offline ] ;;
esac
"""


class Project:
    """A copy of the scripts, with locks of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        for name in ("environment", "find-python"):
            shutil.copy(SCRIPTS / name, folder / "scripts")
        for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml"):
            (folder / name).write_text(name)
        (folder / "python").write_text(PYTHON)
        (folder / "python").chmod(0o755)
        (folder / "is-too-old").write_text("0")

    def make(self, lock: str = "requirements.lock") -> bool:
        """Runs the script; whether it ended well."""
        environment = {**os.environ, "PYTHON": str(self.folder / "python")}
        command = [str(self.folder / "scripts" / "environment"), lock]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    def asked(self) -> list[str]:
        """What was asked of pip and venv since the last look."""
        calls = (self.folder / "calls").read_text().splitlines()
        (self.folder / "calls").write_text("")
        return [" ".join(call.split()[1:3]) for call in calls if call.startswith("-m ")]


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


NEW = ["venv --clear", "pip install", "pip install"]
KEPT = ["pip install", "pip install"]


def test_the_environment_is_made_once(project):
    assert project.make()
    assert project.asked() == NEW
    assert project.make()
    assert project.asked() == []


def test_another_lock_is_installed_into_the_environment_that_is_there(project):
    """A gateway may be running from it: scripts/serve, and then scripts/test for the first time."""
    project.make()
    project.asked()
    (project.folder / ".venv" / "there").touch()
    assert project.make("requirements-dev.lock")
    assert project.asked() == KEPT
    assert (project.folder / ".venv" / "there").exists()
    project.make()
    assert project.asked() == []


@pytest.mark.parametrize("fault", ["is too old", "does not work"])
def test_an_environment_whose_python_is_no_use_is_made_anew(project, fault):
    project.make("requirements.lock")
    project.asked()
    if fault == "is too old":
        (project.folder / ".venv/bin/is-too-old").write_text("1")
    else:
        (project.folder / ".venv/bin/python").unlink()
    assert project.make("requirements-dev.lock")
    assert project.asked() == NEW


def test_a_first_installation_that_was_broken_off_is_made_anew(project):
    (project.folder / "offline").touch()
    assert not project.make()
    assert project.asked() == NEW[:2]
    (project.folder / "offline").unlink()
    assert project.make()
    assert project.asked() == NEW


def test_a_later_installation_that_was_broken_off_is_done_again(project):
    project.make()
    project.asked()
    (project.folder / "offline").touch()
    assert not project.make("requirements-dev.lock")
    (project.folder / "offline").unlink()
    project.asked()
    assert project.make()
    assert project.asked() == KEPT
