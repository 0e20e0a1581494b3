"""Ctrl-C and SIGTERM reach a command wherever it is, and let it tidy up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Timer, main_thread
from types import FrameType

AGAIN = 0.5
"""Seconds after which a stop that got lost is made again."""
PATIENCE = 5.0
"""Seconds that a program that was stopped has for what Python and libraries do at its end."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(SystemExit):
    """SIGTERM as an exception, so that drafts are removed on the way out."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt or `Terminated` within, at the first SIGINT or SIGTERM.

    Libraries swallow exceptions here and there, and Python drops those of destructors and of forks. So a stop
    is made again until it arrives, but not while something tidies up because of it. What else fails after a
    stop, such as a loader whose workers were stopped too, is not told.
    """
    asked: list[BaseException] = []
    over = Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated(128 + number))
        sys.unraisablehook = lambda dropped: None
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises where workers were stopped too
        again = Timer(AGAIN, remind, [number])
        again.daemon = True
        again.start()
        if not _is_being_stopped(sys.exception()):
            raise asked[0]

    def remind(number: int) -> None:
        if not over.is_set():
            signal.pthread_kill(main_thread().ident or 0, number)

    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:  # a program in the background is not to hear of Ctrl-C
            signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        if asked and error is not asked[0]:
            raise asked[0] from error
        raise
    finally:
        over.set()
        for number, handler in before.items():  # after a stop the last words are still to come
            signal.signal(number, signal.SIG_IGN if asked else handler)


def end_soon(status: int | str | None) -> None:
    """See that a program that was stopped ends, whatever waits at its end.

    A stop may come between the taking of a lock and the block that gives it back, in a loader's queue for
    example; what joins that queue's thread at the end of the program would wait for ever.

    Args:
        status: That the program ends with; of those that were not stopped nothing is done.
    """
    if status not in {128 + number for number in _SIGNALS}:
        return

    def end() -> None:
        for process in multiprocessing.active_children():  # what reads their output would wait for them
            process.kill()
        os._exit(int(str(status)))

    late = Timer(PATIENCE, end)
    late.daemon = True
    late.start()


def _is_being_stopped(error: BaseException | None) -> bool:
    """Whether an error is a stop, or came up while one was on its way."""
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__context__
    return error is not None
