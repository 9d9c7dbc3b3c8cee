"""What is allowed, and warned about when a process starts."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hes.settings import load
from hes.start_warnings import flag_warnings, start_warnings


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "a key"
    file.write_text("hunter2" * 5)
    return file


@pytest.mark.parametrize(
    ("mode", "is_warned_of"), [(0o600, False), (0o400, False), (0o644, True), (0o640, True), (0o604, True)]
)
def test_a_key_file_that_others_can_read_is_warned_about_once(
    tmp_path: Path, key: Path, mode: int, *, is_warned_of: bool
) -> None:
    key.chmod(mode)
    spec = f"file%3A{str(key).replace('/', '%2F').replace(' ', '%20')}"
    environ = {
        "HES_BOOTSTRAP_KEY": f"file:{key}",
        "HES_PROVIDERS": f"sendgrid://{spec}@default resend://{spec}@default?webhook_secret={spec}",
    }
    wanted = [f"{key} holds a secret, and others on this machine can read it (mode {mode:04o}): chmod 600 '{key}'"]
    assert start_warnings(load({}, environ, tmp_path)) == (wanted if is_warned_of else [])


def test_what_is_not_ours_to_change_is_not_warned_about(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts secrets: of root, for everybody in the pod, on a file system that can't be written."""
    key.chmod(0o644)
    settings = load({}, {"HES_BOOTSTRAP_KEY": f"file:{key}"}, tmp_path)
    assert len(start_warnings(settings)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)
        assert start_warnings(settings) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
        assert start_warnings(settings) == []
    key.unlink()
    assert start_warnings(settings) == []


@pytest.mark.parametrize(
    ("url", "is_warned_of"),
    [
        ("postgresql://hes:hunter2@db/hes", True),
        ("postgresql://hes:hunt/er2@x@db/hes", True),
        ("postgresql://hes@db/hes?sslmode=require&password=hunter2", True),
        ("postgresql://hes@db/hes?sslpassword=hunter2", True),
        ("postgresql://hes@db:5432/hes", False),
        ("postgresql://hes:@db:5432/hes", False),
        ("postgresql:///hes?host=/run/pg", False),
        ("sqlite:///./hes.db", False),
        ("file:/run/secrets/url", False),
        ("env:URL", False),
        (None, False),
    ],
)
def test_a_password_in_a_flag_is_warned_about(url: str | None, *, is_warned_of: bool) -> None:
    warnings = flag_warnings({"database_url": url, "port": 1})
    assert [warning.startswith("--database-url holds a password") for warning in warnings] == [True] * is_warned_of
    assert "hunter2" not in str(warnings)
