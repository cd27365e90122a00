"""Looks at a run of trio step by step: how many task steps something takes, and what is left when a call is cancelled at one.

A step is what a task does between two of its checkpoints. Counts of steps are free of noise, where times are not.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import trio


class StepCounter(trio.abc.Instrument):
    """Counts the steps of all tasks.

    Attributes:
        steps: how many began since it was added.
    """

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """One more."""
        self.steps += 1


@contextmanager
def counted_steps() -> Generator[StepCounter]:
    """Counts the steps that any task begins inside the block; the step that enters it is not among them."""
    counter = StepCounter()
    trio.lowlevel.add_instrument(counter)
    try:
        yield counter
    finally:
        trio.lowlevel.remove_instrument(counter)


class CancelAtStep(trio.abc.Instrument):
    """Cancels scopes when the n-th step begins that any task takes after it was added: once for every n, a call is cancelled
    while it waits, after it was granted and before it has run, and while another task runs.

    Args:
        step: n, from 1.
        scopes: what to cancel, all of them in the same step.

    Attributes:
        fired: whether the step came. A sweep is over when it no longer does.
    """

    def __init__(self, step: int, *scopes: trio.CancelScope) -> None:
        self.fired = False
        self._left = step
        self._scopes = scopes

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count down, and cancel at the end."""
        self._left -= 1
        if self._left == 0:
            self.fired = True
            for scope in self._scopes:
                scope.cancel()
