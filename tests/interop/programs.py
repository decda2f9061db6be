"""Where the programs are that the tests speak with: on the path, or unpacked by `tests/interop/install`."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / "var" / "interop" / "debian"
DEBIAN_PYTHON = "/usr/bin/python3"
"""It has the modules that come as Debian packages."""
NODE_MODULES = ROOT / "var" / "interop" / "node" / "node_modules"


def unpacked(path: str) -> Path | None:
    """A file of a package that was unpacked, not installed."""
    file = UNPACKED / path
    return file if file.exists() else None


@cache
def has_git_send_email() -> bool:
    if shutil.which("git") is None:
        return False
    folder = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(folder, "git-send-email").exists()


@cache
def has_mail_gem() -> bool:
    if shutil.which("ruby") is None:
        return False
    return subprocess.run(["ruby", "-e", "require 'mail'"], capture_output=True).returncode == 0


@cache
def has_django() -> bool:
    if not Path(DEBIAN_PYTHON).exists():
        return False
    return subprocess.run([DEBIAN_PYTHON, "-c", "import django"], capture_output=True).returncode == 0


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where `program` is absent."""
    here = {
        "git send-email": has_git_send_email,
        "nodemailer": lambda: shutil.which("node") is not None and (NODE_MODULES / "nodemailer").exists(),
        "smtp-server": lambda: shutil.which("node") is not None and (NODE_MODULES / "smtp-server").exists(),
        "postfix": lambda: unpacked("usr/sbin/postconf") is not None,
        "exim": lambda: unpacked("usr/sbin/exim4") is not None,
        "saslpasswd2": lambda: unpacked("usr/sbin/saslpasswd2") is not None,
        "phpmailer": lambda: shutil.which("php") is not None and Path("/usr/share/php/libphp-phpmailer").exists(),
        "mail gem": has_mail_gem,
        "django": has_django,
        "promtool": lambda: shutil.which("promtool") is not None or unpacked("usr/bin/promtool") is not None,
        "root": lambda: os.geteuid() == 0,
    }.get(program, lambda: shutil.which(program) is not None)
    reason = "only root can run this server" if program == "root" else f"{program} is not installed"
    return pytest.mark.skipif(not here(), reason=reason)
