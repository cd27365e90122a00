"""`map`: many calls, so many at once, results as they finish."""

from __future__ import annotations

import contextvars
import itertools

import pytest
import trio

from balancer import AttemptsFailed, Call, Closed, Faulted, open_balancer
from balancer.testing import Reply, ScriptedBackend

tenant = contextvars.ContextVar("tenant")


def calls(count):
    return [Call(tags=(str(number),)) for number in range(count)]


async def test_results_come_as_they_finish(balancing, autojump_clock):
    """The order is that of the ends, not of the calls; each result holds its call, value and decision."""

    async def attempt(lease):
        [tag] = lease.call.tags
        await trio.sleep(10.0 - int(tag))
        return tag

    given = calls(5)
    async with balancing("a", "b") as balancer, balancer.map(given, attempt) as results:
        found = [result async for result in results]
    assert [result.value for result in found] == ["4", "3", "2", "1", "0"]
    assert [result.call for result in found] == given[::-1]
    assert all(result.error is None and result.decision.call is result.call for result in found)


async def test_at_most_so_many_at_once(balancing, autojump_clock):
    """And as many as that, while there are any."""
    backend = ScriptedBackend(default=Reply(1.0))
    start = trio.current_time()
    async with balancing("a") as balancer, balancer.map(calls(30), backend.attempt, limit=7) as results:
        assert len([result async for result in results]) == 30
    assert backend.most == {"a": 7}
    assert trio.current_time() - start == 5.0


@pytest.mark.parametrize("kind", ["iterable", "async iterable"])
async def test_calls_are_read_as_room_appears(kind, balancing, autojump_clock):
    """An endless source is read no further than there is room for; a result that is not taken holds its place."""
    read = 0

    def endless():
        nonlocal read
        for _ in itertools.count():
            read += 1
            yield Call()

    class Endless:
        def __init__(self):
            self.source = endless()

        def __aiter__(self):
            return self

        async def __anext__(self):
            await trio.sleep(0.1)
            return next(self.source)

    backend = ScriptedBackend(default=Reply(1.0))
    source = endless() if kind == "iterable" else Endless()
    async with balancing("a") as balancer:
        async with balancer.map(source, backend.attempt, limit=5) as results:
            await trio.sleep(60.0)
            assert read == 5
            taken = 0
            async for _ in results:
                taken += 1
                if taken == 20:
                    break
        assert read <= 20 + 5
        assert backend.running == 0


async def test_a_failed_call_is_a_result(balancing, autojump_clock):
    """Errors of ours and of the caller alike; the others go on."""
    bug = ValueError("bug")

    async def attempt(lease):
        [tag] = lease.call.tags
        if tag == "1":
            raise bug
        if tag == "2":
            raise OSError
        return tag

    async with balancing("a", max_attempts=1) as balancer, balancer.map(calls(4), attempt) as results:
        found = {result.call.tags[0]: result async for result in results}
    assert (found["0"].value, found["3"].value) == ("0", "3")
    assert found["1"].error is bug
    assert isinstance(found["2"].error, AttemptsFailed)
    assert (found["1"].value, found["2"].value) == (None, None)
    assert found["2"].decision.outcome == Faulted("OSError")
    assert found["1"].decision.call.tags == ("1",)


async def test_leaving_early_cancels_the_rest(balancing, autojump_clock):
    """Nothing runs on, nothing is in flight, nothing waits."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": {"concurrency": 2}}) as balancer:
        async with balancer.map(calls(50), backend.attempt) as results:
            async for _ in results:
                break
        assert trio.current_time() - backend.began()[0] == 1.0
        assert (balancer.statistics().in_flight, balancer.statistics().waiting, backend.running) == (0, 0, 0)


async def test_an_exception_of_the_block_leaves_it_unchanged(balancing, autojump_clock):
    """The same object, with its context."""
    bug = ValueError("bug")
    async with balancing("a") as balancer:
        with pytest.raises(ValueError, match="bug") as caught:
            async with balancer.map(calls(5), ScriptedBackend(default=Reply(1.0)).attempt):
                raise bug
        assert caught.value is bug
        assert bug.__cause__ is bug.__context__ is None


async def test_a_source_that_fails_ends_the_block_with_its_error(balancing, autojump_clock):
    """It is the caller's own."""

    def source():
        yield Call()
        raise ValueError("bug")

    async with balancing("a") as balancer:
        with pytest.raises(ValueError, match="bug"):
            async with balancer.map(source(), ScriptedBackend(default=Reply(1.0)).attempt) as results:
                async for _ in results:
                    pass


async def test_the_deadline_of_the_scope_holds(balancing, autojump_clock):
    """The tasks are the caller's: its deadline bounds each call, and a lease shows it."""
    deadlines = []

    async def attempt(lease):
        deadlines.append(lease.deadline)
        await trio.sleep(60.0)

    async with balancing("a") as balancer:
        with trio.move_on_after(3.0) as scope:
            async with balancer.map(calls(3), attempt) as results:
                async for _ in results:
                    pass
        assert scope.cancelled_caught
        assert deadlines == [scope.deadline] * 3


async def test_context_variables_hold(balancing, autojump_clock):
    """What the caller has bound is seen by the attempts."""

    async def attempt(lease):
        return tenant.get()

    async with balancing("a") as balancer:
        token = tenant.set("t-1")
        async with balancer.map(calls(3), attempt) as results:
            assert {result.value async for result in results} == {"t-1"}
        tenant.reset(token)


async def test_no_calls_no_results(balancing, autojump_clock):
    """An empty source ends at once; a limit below 1 is refused."""
    async with balancing("a") as balancer:
        async with balancer.map([], ScriptedBackend().attempt) as results:
            assert [result async for result in results] == []
        with pytest.raises(ValueError, match="limit"):
            async with balancer.map([], ScriptedBackend().attempt, limit=0):
                pass


async def test_after_the_balancer_is_closed_every_result_is_closed(balancing, autojump_clock):
    """A failed call is a result, here too."""
    async with open_balancer(balancing.config("a")) as balancer:
        pass
    async with balancer.map(calls(3), ScriptedBackend().attempt) as results:
        assert [type(result.error) async for result in results] == [Closed] * 3
