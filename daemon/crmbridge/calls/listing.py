"""One of AMI's lists, collected item by item until the event that ends it. Pure.

A list may come twice, be cut off in the middle by the end of a connection, or lose items where we could not keep up
with the PBX. What is taken for the whole must be the whole: an item that is missing would be a call forgotten, one
left over from a list before a call that never ends.
"""

from __future__ import annotations

from collections.abc import Mapping

Headers = Mapping[str, str]
"""An AMI event: header names as Asterisk writes them, `Event` among them."""


class Listing:
    """The items of a list, each known by the values of some of its headers."""

    def __init__(self, *key: str) -> None:
        """`key`: the headers that tell one item from another."""
        self._key = key
        self._action_id = ""
        self._items: dict[tuple[str, ...], Headers] = {}

    def add(self, item: Headers) -> None:
        """Take an item; one of another list than those before it begins anew."""
        self._begin(item)
        self._items[tuple(item.get(header, "") for header in self._key)] = item

    def complete(self, end: Headers) -> tuple[list[Headers], bool]:
        """The items, and whether they are all: no fewer than the list's end says (`ListItems`).

        Asterisk 16.28 says 1 of DBGetTree's two (`listed_freepbx_log_on_without_hint`).
        """
        self._begin(end)
        items, self._items = list(self._items.values()), {}
        said = end.get("ListItems", "")
        return items, not said.isdecimal() or len(items) >= int(said)

    def _begin(self, event: Headers) -> None:
        action_id = event.get("ActionID", "")
        if action_id != self._action_id:
            self._action_id, self._items = action_id, {}
