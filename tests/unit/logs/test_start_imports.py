"""What a start does without: whole libraries that would be read for nothing while an operator waits."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_is_loaded_without_them() -> None:
    code = "import sys, relay.app.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=True)
    assert "relay.app.worker" in done.stdout.split()
    assert not {"rich", "pygments", "structlog", "fastapi", "botocore"}.intersection(done.stdout.split())
