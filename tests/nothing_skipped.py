"""A pytest plugin for CI: a test that would be skipped fails, since a check that did not run says nothing."""

from collections.abc import Generator

import pytest


def _failed(reason: object) -> str:
    return f"skipped, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure; an expected failure (`xfail`) is none."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = _failed(call.excinfo.value if call.excinfo else "no reason given")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = _failed(report.longrepr)
    return report
