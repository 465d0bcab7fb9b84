"""SQLAlchemy's engines for asyncio, without its ORM.

`sqlalchemy.ext.asyncio` loads its sessions, and with them the whole ORM, of which nothing is used here: 6 MB of a
daemon that idles at 78, and a tenth of its start. So its two modules of sessions are left out while the package is
loaded; whoever imports them by their own names later gets them whole.
"""

from __future__ import annotations

import sys
from types import ModuleType

_SESSIONS = ("sqlalchemy.ext.asyncio.scoping", "sqlalchemy.ext.asyncio.session")


class _LeftOut(ModuleType):
    """In place of a module: what the package takes out of it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


_left_out = [name for name in _SESSIONS if name not in sys.modules]
sys.modules.update({name: _LeftOut(name) for name in _left_out})

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine  # noqa: E402

for _name in _left_out:
    del sys.modules[_name]

__all__ = ["AsyncConnection", "AsyncEngine", "create_async_engine"]
