"""Events go to structlog where the application configured it, else to `logging`; a sink that fails ends nothing."""

from __future__ import annotations

import logging

import pytest
import structlog

from balancer import logs


@pytest.fixture(autouse=True)
def unconfigured():
    """As a program has it that never heard of structlog."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


EVENTS = [("debug", logging.DEBUG), ("info", logging.INFO), ("warning", logging.WARNING)]


@pytest.mark.parametrize(("method", "level"), EVENTS)
def test_unconfigured_it_is_plain_logging(method, level, caplog, capsys):
    """Under `balancer`, at its level, with its data; nothing on stdout."""
    caplog.set_level(logging.DEBUG, "balancer")
    getattr(logs, method)("balancer.thing_done", account="a", amount=3)
    assert caplog.record_tuples == [("balancer", level, "balancer.thing_done account='a' amount=3")]
    assert capsys.readouterr().out == ""


def test_what_nobody_wants_is_not_built(caplog):
    """A level that is off costs no text."""

    class Costly:
        def __repr__(self):
            raise AssertionError("built")

    caplog.set_level(logging.WARNING, "balancer")
    logs.debug("balancer.thing_done", value=Costly())
    assert caplog.records == []


def test_configured_it_is_structlog(caplog, capsys):
    """With the data as keys, and nothing twice."""
    with structlog.testing.capture_logs() as events:
        structlog.configure(processors=structlog.get_config()["processors"])
        logs.info("balancer.thing_done", account="a")
        logs.error("balancer.thing_failed", failure=ValueError("v"), account="a")
    assert events[0] == {"event": "balancer.thing_done", "account": "a", "log_level": "info"}
    assert events[1]["log_level"] == "error"
    assert isinstance(events[1]["exc_info"], ValueError)
    assert caplog.records == []


def test_a_failure_of_ours_has_its_traceback(caplog):
    """In plain logging too."""
    try:
        raise ValueError("broken")
    except ValueError as failure:
        logs.error("balancer.thing_failed", failure=failure, account="a")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "balancer.thing_failed account='a'"
    assert "broken" in caplog.text
    assert "Traceback" in caplog.text


def raising(*_arguments):
    raise RuntimeError("the sink is full")


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error"])
@pytest.mark.parametrize("configured", [True, False])
def test_a_sink_that_raises_ends_nothing(method, configured):
    """Neither a processor of structlog nor a filter of logging."""
    more = {"failure": ValueError("v")} if method == "error" else {}
    if configured:
        structlog.configure(processors=[raising])
        getattr(logs, method)("balancer.thing_done", **more)
        return
    standard = logging.getLogger("balancer")
    level, standard.level = standard.level, logging.DEBUG
    standard.addFilter(raising)
    try:
        getattr(logs, method)("balancer.thing_done", **more)
    finally:
        standard.removeFilter(raising)
        standard.setLevel(level)
