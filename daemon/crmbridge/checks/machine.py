"""This machine: the folder in which our state lies, and the disks."""

from __future__ import annotations

import os
from pathlib import Path

from crmbridge import app
from crmbridge.checks.link import Link, broken, good, judged
from crmbridge.config import Settings
from crmbridge.store.outbox import open_outbox
from crmbridge.store.schema import StoreError

OUTBOX, DISK = "outbox", "disk"

_MB = 1 << 20
FULL_MB, TIGHT_MB = 50, 500
"""Free: below the first callbacks may soon find no place (a hundred of them take some 100 kB), below the second
somebody should look. Recordings take a megabyte a minute, and it is Asterisk that needs the place."""
FEW_FILES = 1000
"""Files that can still be made; SQLite makes some beside its database."""


async def outbox(settings: Settings) -> Link:
    """Whether the outbox can be read, or made."""
    path = settings.store.state_dir / app.OUTBOX
    try:
        if not path.exists():
            return _folder(settings)
        if not os.access(path.parent, os.W_OK | os.X_OK) or not os.access(path, os.W_OK):
            return _not_ours(path)
        async with open_outbox(path, sole=False) as box:
            counts = await box.counts()
    except StoreError as error:
        return broken(OUTBOX, str(error))
    except OSError as error:
        return broken(OUTBOX, f"{path}: {error.strerror}; see store.state_dir")
    return good(OUTBOX, ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "empty")


def _folder(settings: Settings) -> Link:
    """A check must not leave files of the wrong owner behind: where there is no outbox yet, none is made."""
    existing = _existing(settings.store.state_dir)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return _not_ours(existing)
    return good(OUTBOX, f"none yet; it will be made in {settings.store.state_dir}")


def _not_ours(path: Path) -> Link:
    return broken(OUTBOX, f"{path} can't be written by this user: see store.state_dir, and who owns it (chown)")


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def disk(settings: Settings) -> Link:
    """Free space where we write, and where Asterisk records."""
    faults: list[str] = []
    remarks: list[str] = []
    recordings = dict.fromkeys(one.cdr.recordings_dir for one in settings.each())
    folders = [("store.state_dir", _existing(settings.store.state_dir))]
    folders += [("cdr.recordings_dir", folder) for folder in recordings if folder is not None]
    told = []
    for setting, folder in folders:
        try:
            stat = os.statvfs(folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # the links of the outbox and of the recordings say so
        except OSError as error:
            faults.append(f"{setting} {folder}: {error.strerror}")
            continue
        free_mb = stat.f_bavail * stat.f_frsize // _MB
        told.append(f"{free_mb} MB free in {folder}")
        mend = "delete or move something there, or enlarge the disk (df -h)"
        if free_mb < TIGHT_MB:
            ours = setting == "store.state_dir" and free_mb < FULL_MB
            needed = FULL_MB if ours else TIGHT_MB
            (faults if ours else remarks).append(f"{told.pop()} ({setting}), fewer than {needed} MB: {mend}")
        if stat.f_files and stat.f_favail < FEW_FILES:
            mend = "delete files that nobody needs (df -i)"
            text = f"room for {stat.f_favail} more files in {folder} ({setting}), fewer than {FEW_FILES}: {mend}"
            (faults if setting == "store.state_dir" else remarks).append(text)
    return judged(DISK, ", ".join(told), faults=faults, remarks=remarks)
