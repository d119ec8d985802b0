"""Progress of long work on stderr: a bar on a terminal, a plain line every so often elsewhere."""

import os
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

LINE_EVERY_S = 30.0


class ProgressReport:
    """Shows how far some work is, how long it took, and how long it will take.

    Args:
        title: What is being done.
        unit: What is counted, e.g. `"steps"`.
        total: How many there are.
        done: How many were done before this process began.
    """

    def __init__(self, title: str, unit: str, total: int, done: int = 0) -> None:
        self.title, self.unit, self.total = title, unit, total
        self.done = self._before = done
        self.text = ""
        self._began = time.perf_counter()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._over = threading.Event()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and self._console.is_terminal and "CI" not in os.environ:
            self._bar = Progress(
                # The metrics give way on a narrow terminal, not the progress.
                TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=24)),
                BarColumn(bar_width=10),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=self._console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, text="")
        else:
            # Also of work of which nothing is done for long; not beyond the life of the report.
            told = (weakref.ref(self), self._over)
            threading.Thread(target=_tell, args=told, name="palestra-progress", daemon=True).start()

    def update(self, done: int, text: str | None = None) -> None:
        """Report that `done` are done in all, with a short text such as the latest metrics."""
        self.done = done
        self.text = self.text if text is None else text
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=self.text)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self) -> None:
        elapsed = time.perf_counter() - self._began
        new = self.done - self._before
        left = f", {(self.total - self.done) * elapsed / new:.0f} s left" if new else ""
        self._console.print(f"{self.title}: {self.done}/{self.total} {self.unit}, {elapsed:.0f} s{left}  {self.text}")


def _tell(of: "weakref.ref[ProgressReport]", over: threading.Event) -> None:
    while not over.wait(LINE_EVERY_S):
        report = of()
        if report is None:
            return
        report._line()
        del report
