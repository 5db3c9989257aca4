"""A server that benchmarks and tests start: it is there, or says why not, and is gone afterwards."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from benchmarks.running import started

ADDRESS = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('the disk is full')", "ended by itself, with 1.*the disk is full"),
        (
            "print('loading', flush=True); import time; time.sleep(60)",
            "not there after 1 s.*loading",
        ),
    ],
)
def test_a_server_that_does_not_start_says_why(script: str, said: str) -> None:
    start = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=f"(?s){said}"),
        started([sys.executable, "-c", script], ADDRESS, seconds=1),
    ):
        pass
    assert time.monotonic() - start < 30


def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.running.STOP_SECONDS", 0.2)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"print('{ADDRESS}', flush=True); time.sleep(60)"
    )
    with started([sys.executable, "-c", script], ADDRESS) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
