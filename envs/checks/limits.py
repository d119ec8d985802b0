"""Time limits on calls into an author's code.

Python code is interrupted by an alarm. Code that holds the interpreter (a long loop in C, say `sum(range(10**13))`)
does not see the alarm: where `TimeLimits` may end the process, a second timer, of processor time, prints where it
stands and does so.
"""

import faulthandler
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ParamSpec, Self, TypeVar

_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")

_GRACE = 2.0
"""Multiple of the limit after which code that cannot be interrupted ends the process."""


class OutOfTimeError(BaseException):
    """A call took too long; not an `Exception`, so that the code in question does not catch it."""


class TimeLimits:
    """Limits calls while it is entered, in the main thread of a process.

    Args:
        may_exit: Whether to end the process when code cannot be interrupted otherwise.
    """

    def __init__(self, *, may_exit: bool = False) -> None:
        self._may_exit = may_exit

    def call(
        self, seconds: float, function: Callable[_Args, _Value], /, *arguments: _Args.args, **named: _Args.kwargs
    ) -> _Value:
        """Call `function`.

        Raises:
            OutOfTimeError: It took longer than that many seconds.
        """
        if self._may_exit:
            signal.setitimer(signal.ITIMER_PROF, _GRACE * seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function(*arguments, **named)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if self._may_exit:
                signal.setitimer(signal.ITIMER_PROF, 0)

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGALRM, _interrupt)
        self._timer = signal.setitimer(signal.ITIMER_REAL, 0)
        if self._may_exit:
            # In C: prints the traceback, then does what the signal does by default, which is to end the process.
            faulthandler.register(signal.SIGPROF, file=2, all_threads=False, chain=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._may_exit:
            faulthandler.unregister(signal.SIGPROF)
        signal.signal(signal.SIGALRM, self._handler)
        signal.setitimer(signal.ITIMER_REAL, *self._timer)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError
