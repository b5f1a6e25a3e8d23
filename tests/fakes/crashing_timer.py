"""Stands in for `tfx_mobile.tflite.timing` in a child process: dies as native code does over files called `crash`."""

import os
import signal

from tfx_mobile.tflite import timing


def time_files(request, emit):
    def watch(event):
        emit(event)
        if event.get("at", "").startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)

    timing.time_files(request, watch)
