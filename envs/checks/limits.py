"""Time limits on calls into an author's code.

Python code is interrupted by an alarm. Code that holds the interpreter (`9**9**9`, a hungry regular expression in C)
does not see the alarm: where `TimeLimits` may end the process, a thread of C prints where it stands and does so.
"""

import faulthandler
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ParamSpec, Self, TypeVar

_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")

GRACE_S = 5.0
"""Seconds after the limit at which code that cannot be interrupted ends the process."""
_REARM_S = 1.0


class OutOfTimeError(BaseException):
    """A call took too long; not an `Exception`, so that the code in question does not catch it."""


class TimeLimits:
    """TimeLimits calls while it is entered, in the main thread of a process.

    Args:
        may_exit: Whether to end the process when code cannot be interrupted otherwise.
    """

    def __init__(self, *, may_exit: bool = False) -> None:
        self._may_exit = may_exit
        self._armed = (0.0, 0.0)

    def call(
        self, seconds: float, function: Callable[_Args, _Value], /, *arguments: _Args.args, **named: _Args.kwargs
    ) -> _Value:
        """Call `function`.

        Raises:
            OutOfTimeError: It took longer than that many seconds.
        """
        if self._may_exit:
            self._arm(seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function(*arguments, **named)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def idle(self) -> None:
        """No call is to be expected for a while."""
        faulthandler.cancel_dump_traceback_later()
        self._armed = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGALRM, _interrupt)
        self._timer = signal.setitimer(signal.ITIMER_REAL, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._may_exit:
            self.idle()
        signal.signal(signal.SIGALRM, self._handler)
        signal.setitimer(signal.ITIMER_REAL, *self._timer)

    def _arm(self, seconds: float) -> None:
        # Arming starts a thread, which costs more than a step: once a second is often enough.
        now = time.monotonic()
        end = now + seconds + GRACE_S
        if now - self._armed[0] > _REARM_S or end > self._armed[1] + _REARM_S:
            faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=2)
            self._armed = (now, end)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError
