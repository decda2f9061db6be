"""FileTurn: processes take turns, whatever happens to them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from relay.file_turn import FileTurn
from relay.store_faults import StoreBusy

HOLD = """
import sys, time
from pathlib import Path
from relay.file_turn import FileTurn
with FileTurn(Path(sys.argv[1]), 5.0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_turn_that_does_not_come_is_said_so(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(StoreBusy, match=r"another process held it for 0\.1 s"), FileTurn(tmp_path / "lock", 0.1):
        pass
    assert time.monotonic() - began < 5


def test_a_holder_that_is_killed_gives_its_turn_up(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    with FileTurn(tmp_path / "lock", 10.0):
        pass


def test_the_lock_is_free_after_use_and_after_a_failure(tmp_path):
    first, second = FileTurn(tmp_path / "lock", 1.0), FileTurn(tmp_path / "lock", 0.05)
    with pytest.raises(ValueError, match="mine"), first:
        raise ValueError("mine")
    with second:
        pass
    first.close()
    first.close()
    second.close()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
