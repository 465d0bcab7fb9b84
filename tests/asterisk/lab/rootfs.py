"""Root filesystems with an Asterisk in them, built once from Debian's packages and kept outside the repository.

A recipe's stamp is part of the folder's name, so a changed recipe is built anew. Building takes about half a minute and
300 MB; two runs at once don't build the same, and a folder is in use by nobody until it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

BUILD_TIMEOUT_S = 900


class BuildError(Exception):
    """A root filesystem could not be built: no network, no space, or a package that is no more."""


@dataclass(frozen=True)
class Recipe:
    """What mmdebstrap is told."""

    suite: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()


_COMMON = (
    "--variant=apt",
    '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Acquire::Retries "3"',
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
_ASTERISK = (
    "asterisk",
    "asterisk-modules",
    "asterisk-config",
    "asterisk-core-sounds-en-gsm",
    "odbc-mariadb",
    "unixodbc",
)

RECIPES = {
    "22": Recipe("forky", _ASTERISK),
    "16": Recipe(
        "bullseye",
        (*_ASTERISK, "asterisk-voicemail"),
        # Not the security archive: its last Asterisk is there in part only, and an installation mixes no versions.
        ('--setup-hook=sed -i /-security/d "$1"/etc/apt/sources.list',),
    ),
}
"""By major version of Asterisk."""

HOST = "host"
_ALL = {**RECIPES, HOST: Recipe("bookworm", ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv"))}
"""With a host that boots, on which the bridge is installed; without an Asterisk."""


def cache_folder() -> Path:
    """Where built things are kept."""
    if named := os.environ.get("CRMBRIDGE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crmbridge"


@contextmanager
def root_filesystem(version: str) -> Iterator[Path]:
    """The root filesystem of a version, built if need be; nobody removes it while it is in use. Raises BuildError."""
    recipe = _ALL[version]
    stamp = hashlib.sha256(repr((astuple(recipe), _COMMON)).encode()).hexdigest()[:12]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"asterisk-{version}-{stamp}"
    while True:
        with _locked(root, fcntl.LOCK_SH):
            if root.is_dir():
                _remove_others(cache, version, root)
                yield root
                return
        with _locked(root, fcntl.LOCK_EX):
            if not root.is_dir():
                _build(recipe, root)


def _build(recipe: Recipe, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "root"
        packages = ",".join(recipe.packages)
        command = [
            "mmdebstrap",
            "--quiet",
            *_COMMON,
            *recipe.options,
            f"--include={packages}",
            recipe.suite,
            str(target),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildError(
                f"Debian {recipe.suite} with {recipe.packages[0]} can't be built: {_last_words(error)}"
            ) from error
        target.rename(root)


def _last_words(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    told = [line for line in lines if line.startswith("E:") and "mmdebstrap failed" not in line] or lines[-1:]
    return told[0][:300] if told else type(error).__name__


def _remove_others(cache: Path, version: str, root: Path) -> None:
    for other in cache.glob(f"asterisk-{version}-*"):
        if other == root or not other.is_dir():
            continue
        try:
            with _locked(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if other.is_dir():  # another run may have been first
                    shutil.rmtree(other)
        except BlockingIOError:
            continue  # another run still has it in use


@contextmanager
def _locked(root: Path, kind: int) -> Iterator[None]:
    with root.with_name(f".{root.name}.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield
