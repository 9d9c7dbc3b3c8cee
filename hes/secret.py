"""Secrets: values that nothing shows unless it is asked to."""

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Self


class Wrong(ValueError):
    """What is wrong with a value, in words that go behind the setting's name."""


_ORIGINS = ("env", "file")


class Secret:
    """Something that only `reveal` shows: not repr, str, format, pickle or msgspec.

    One that comes from a file is read again when that file changes (time, size or inode; looked at on each reveal).
    Should the file be gone, empty or unreadable then, the last good value goes on being used: sending must not stop
    because a secret is being rotated at this moment.
    """

    __slots__ = ("_path", "_stamp", "_value", "file")

    def __init__(self, value: str) -> None:
        self._value = value
        self.file: Path | None = None
        """Where it was read."""
        self._path: Path | None = None
        self._stamp: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, spec: str, environ: Mapping[str, str], cwd: Path) -> Self:
        """From `env:NAME`, `file:PATH` or a literal. Raises Wrong, which names the variable or the path."""
        origin, _, name = spec.partition(":")
        if origin not in _ORIGINS and origin.lower() in _ORIGINS:
            raise Wrong(f"`{origin}:` is written `{origin.lower()}:`, or it would be taken for the secret itself")
        if origin == "env":
            if not environ.get(name, "").strip():
                raise Wrong(f"the environment variable {name if name.isidentifier() else 'behind env:'} is not set")
            return cls(_single_line(environ[name], f"the environment variable {name}"))
        made = cls(spec)
        if origin == "file":
            made._path = made.file = cwd / name
            try:
                made._read(made._path)
            except OSError as error:
                raise Wrong(f"cannot read {made._path}: {error.strerror}") from None
        return made

    def fixed(self) -> Self:
        """The same as it is now, whatever becomes of its file."""
        made = type(self)(self.reveal())
        made.file = self.file
        return made

    def reveal(self) -> str:
        if self._path is not None:
            try:
                if _stamp(self._path) != self._stamp:
                    self._read(self._path)
            except (OSError, Wrong):
                pass
        return self._value

    def _read(self, path: Path) -> None:
        stamp = _stamp(path)  # before reading: a change in between is seen by the next reveal
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Wrong(f"{path} is not UTF-8 text") from None
        self._value, self._stamp = _single_line(content, str(path)), stamp

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._path or self._value) == (other._path or other._value)

    def __hash__(self) -> int:
        return hash(self._path or self._value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled")


def exposed(path: Path) -> str | None:
    """What is wrong with a file that holds a secret and that others can read; None: nothing that we could mend.

    It is only told to the file's owner, and only where a chmod would work. A secret that Kubernetes mounts is root's
    and readable by all of the pod (its mode says nothing about who else is there); a swarm's lies on a file system that
    can't be written. Whoever runs HES there would be told in vain at each start.
    """
    try:
        found = path.stat()
        is_ours = found.st_uid == os.geteuid() and not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return None
    if not is_ours or not found.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    mode = stat.S_IMODE(found.st_mode)
    return (
        f"{path} holds a secret, and others on this machine can read it (mode {mode:04o}): "
        f"chmod 600 {shlex.quote(str(path))}"
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _single_line(value: str, origin: str) -> str:
    """Secrets go into headers: no line may end inside one."""
    stripped = value.strip()
    if not stripped or not stripped.isprintable():
        raise Wrong(f"{origin} must hold one line of text, without control characters")
    return stripped
