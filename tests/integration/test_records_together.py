"""Call records of several PBXes, taken up in one transaction where they come at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from tests.integration.test_call_list import record

from crmbridge.calls.cdr import Cdr
from crmbridge.records import AT_ONCE, Together
from crmbridge.store.schema import StoreError


class Store:
    """Takes up what it is given, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[Cdr]] = []
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()
        self.refusal: StoreError | None = None

    async def add(self, records: Sequence[Cdr]) -> Mapping[str, int]:
        self.batches.append(list(records))
        self.asked.set()
        await self.may.wait()
        if self.refusal:
            raise self.refusal
        return Counter(one.pbx for one in records)


def of(pbx: str, *numbers: int) -> list[Cdr]:
    return [record(pbx=pbx, linkedid=f"{number}.1", uniqueid=f"{number}.1") for number in numbers]


async def test_what_comes_at_the_same_time_goes_together_and_each_hears_of_its_own() -> None:
    store = Store()
    together = Together(store.add)
    haifa, eilat = of("haifa", 1, 2), of("eilat", 1)
    assert list(await asyncio.gather(together.add(haifa), together.add(eilat))) == [2, 1]
    assert store.batches == [[*haifa, *eilat]]


async def test_what_comes_meanwhile_is_next_and_all_of_it_at_once() -> None:
    store = Store()
    store.may.clear()
    together = Together(store.add)
    first = asyncio.create_task(together.add(of("haifa", 1)))
    await store.asked.wait()
    others = [asyncio.create_task(together.add(of(pbx, 2))) for pbx in ("eilat", "akko")]
    await asyncio.sleep(0)
    store.may.set()
    assert await asyncio.gather(first, *others) == [1, 1, 1]
    assert [[one.pbx for one in batch] for batch in store.batches] == [["haifa"], ["eilat", "akko"]]


async def test_a_refusal_is_told_to_each_and_the_next_is_tried() -> None:
    store = Store()
    refusal = store.refusal = StoreError("it is away")
    together = Together(store.add)
    told = await asyncio.gather(together.add(of("haifa", 1)), together.add(of("eilat", 1)), return_exceptions=True)
    assert list(told) == [refusal, refusal]
    store.refusal = None
    assert await together.add(of("haifa", 1)) == 1


async def test_one_transaction_does_not_grow_with_the_number_of_pbxes() -> None:
    store = Store()
    together = Together(store.add)
    many = [of(f"pbx-{number}", *range(AT_ONCE)) for number in range(3)]
    assert await asyncio.gather(*map(together.add, many)) == [AT_ONCE] * 3
    assert [len(batch) for batch in store.batches] == [AT_ONCE] * 3


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    store = Store()
    store.may.clear()
    together = Together(store.add)
    leaving = asyncio.create_task(together.add(of("haifa", 1)))
    staying = asyncio.create_task(together.add(of("eilat", 1)))
    await store.asked.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    store.may.set()
    assert await staying == 1
