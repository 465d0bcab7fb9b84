"""Which numbers are known to stand in the dictionary (`numbers`): a bulk load needn't write them again and again.

Known is only what a committed transaction of this PBX has written, and only until numbers are pruned.
"""

from __future__ import annotations

MOST_KNOWN = 100_000
"""Of a PBX, in a bulk load: some 25 MB."""
FEW_KNOWN = 4_000
"""The same where calls come one by one, as in the daemon: some 1 MB."""
LONGEST_NUMBER = 64

Numbers = dict[tuple[str, str], int]
"""(number, key) → id."""


class KnownNumbers:
    """What this process knows of the dictionary."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        """`most`: beyond it all are forgotten, and those begin anew that are written next."""
        self._most = most
        self._known: dict[str, tuple[int, Numbers]] = {}

    def of(self, pbx: str, prunings: int) -> Numbers:
        """Those known to be there. `prunings`: how often numbers were pruned so far, as this PBX's turn has it."""
        then, known = self._known.get(pbx, (prunings, {}))
        if then != prunings or len(known) > self._most:
            known = {}
        self._known[pbx] = prunings, known
        return known

    def committed(self, pbx: str, prunings: int, new: Numbers) -> None:
        """These were there when they had been pruned so often."""
        then, known = self._known[pbx]
        if then == prunings:
            known.update(new)
