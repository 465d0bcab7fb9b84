"""The claims that two bridges on the same PBXes share: can they be had, how quickly, and is the other bridge there?"""

from __future__ import annotations

from crmbridge.checks.link import Link, broken, good, judged
from crmbridge.config import Settings
from crmbridge.store.claims import try_out
from crmbridge.store.schema import StoreError

CLAIMS = "claims"

SLOW = 4
"""The part of claims.timeout_s that a claim may take on a quiet day."""
AWAY_S = 60.0
"""A bridge that lives says so every few seconds."""


async def claims(settings: Settings) -> list[Link]:
    """Nothing where this bridge is alone. Makes the tables, as the daemon would."""
    name, timeout_s, url = settings.claims.bridge, settings.claims.timeout_s, settings.store.url
    if name is None or url is None:
        return []
    try:
        took_s, seen = await try_out(url.get_secret_value(), name)
    except StoreError as error:
        return [broken(CLAIMS, str(error))]
    others = {bridge: ago_s for bridge, ago_s in seen.items() if bridge != name}
    found = f"as {name}; one takes {took_s * 1000:.1f} ms"
    remarks = [
        f"{one} was heard of last {ago_s:.0f} s ago: does it run?" for one, ago_s in others.items() if ago_s > AWAY_S
    ]
    if took_s > timeout_s / SLOW:
        remarks.append(f"one takes {took_s:.2f} s of the {timeout_s:g} s that it may (claims.timeout_s)")
    if not others:
        return [good(CLAIMS, f"{found}; no other bridge has been heard of yet")]
    heard = ", ".join(f"{one} {ago_s:.0f} s ago" for one, ago_s in others.items())
    return [judged(CLAIMS, f"{found}; heard of {heard}", faults=[], remarks=remarks)]
