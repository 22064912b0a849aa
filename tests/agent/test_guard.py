"""The border: nothing of ours raises into the application, and what keeps failing is turned off."""

from __future__ import annotations

import pytest
from glassbottom._guard import FAILURES_MAX, Guard


def fail(guard: Guard, name: str, error: BaseException) -> None:
    with guard.guarded(name):
        raise error


def test_an_error_inside_stops_at_the_border_and_is_counted():
    guard = Guard()
    fail(guard, "probe", ValueError("broken"))
    assert guard.errors == 1


def test_only_the_first_error_of_a_probe_is_logged(caplog: pytest.LogCaptureFixture):
    guard = Guard()
    fail(guard, "probe", ValueError("first"))
    fail(guard, "probe", ValueError("second"))
    assert "first" in caplog.text
    assert "second" not in caplog.text


def test_a_probe_that_keeps_failing_is_turned_off_with_its_reason():
    guard = Guard()
    for _ in range(FAILURES_MAX):
        assert not guard.is_disabled("probe")
        fail(guard, "probe", ValueError("broken"))
    assert guard.is_disabled("probe")
    assert "broken" in guard.disabled["probe"]
    assert not guard.is_disabled("another")


def test_success_forgives_what_went_before():
    guard = Guard()
    for _ in range(FAILURES_MAX * 3):
        fail(guard, "probe", ValueError("now and then"))
        with guard.guarded("probe"):
            pass
    assert not guard.is_disabled("probe")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_is_meant_for_the_application_goes_through(error: BaseException):
    with pytest.raises(type(error)):
        fail(Guard(), "probe", error)


def test_even_a_log_handler_that_raises_does_no_harm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("glassbottom._guard.log", lambda: 1 / 0)
    fail(Guard(), "probe", ValueError("broken"))
