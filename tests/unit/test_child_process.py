import os
import signal
import threading
import time

import pytest

from tfx_mobile import child_process

# These run in the child, which finds this module through the parent's sys.path.
HERE = __name__


def echo(request, emit):
    for number in range(request["count"]):
        emit({"number": number, "text": "x" * request.get("size", 0)})


def abort(request, emit):
    emit({"before": True})
    os.kill(os.getpid(), signal.SIGABRT)


def hang(request, emit):
    emit({"pid": os.getpid()})
    time.sleep(600)


def fail(request, emit):
    raise RuntimeError("this is why")


def environment(request, emit):
    emit({key: os.environ.get(key) for key in request["keys"]})


def test_events_arrive_in_order_and_whole():
    events = list(child_process.run(f"{HERE}:echo", {"count": 5, "size": 100_000}, deadline_seconds=60))
    assert [event["number"] for event in events] == [0, 1, 2, 3, 4]
    assert {len(event["text"]) for event in events} == {100_000}


def test_an_abort_becomes_an_error_after_the_events_before_it():
    events = []
    with pytest.raises(child_process.ChildDied) as died:
        events.extend(child_process.run(f"{HERE}:abort", {}, deadline_seconds=60))
    assert died.value.cause == "crashed"
    assert died.value.signal_name == "SIGABRT"


def test_a_hang_is_ended_at_the_deadline_and_the_child_is_gone():
    stream = child_process.run(f"{HERE}:hang", {}, deadline_seconds=5)
    pid = next(stream)["pid"]
    with pytest.raises(child_process.ChildDied) as died:
        next(stream)
    assert died.value.cause == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_loses_interest_ends_the_child():
    stream = child_process.run(f"{HERE}:hang", {}, deadline_seconds=60)
    pid = next(stream)["pid"]
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_another_thread_can_stop_the_child():
    read_fd, write_fd = os.pipe()
    stream = child_process.run(f"{HERE}:hang", {}, deadline_seconds=60, stop=read_fd)
    pid = next(stream)["pid"]
    timer = threading.Timer(0.2, os.close, [write_fd])
    timer.start()
    with pytest.raises(child_process.Stopped):
        next(stream)
    timer.join()
    os.close(read_fd)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_exception_is_reported_with_its_last_line():
    with pytest.raises(child_process.ChildDied, match="this is why") as died:
        list(child_process.run(f"{HERE}:fail", {}, deadline_seconds=60))
    assert died.value.cause == "failed"
    assert "Traceback" in died.value.stderr


def test_the_child_keeps_keras_3(monkeypatch):
    # tensorflow_transform sets it in the parent; with it, `tf.keras` in the child would be Keras 2.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    keys = {"keys": ["TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL"]}
    (event,) = child_process.run(f"{HERE}:environment", keys, deadline_seconds=60)
    assert event == {"TF_USE_LEGACY_KERAS": None, "TF_CPP_MIN_LOG_LEVEL": "3"}
