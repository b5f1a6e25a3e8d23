"""Peak memory of real files, measured in real children."""

import pytest

from tests.fakes import tflite_files
from tfx_mobile.tflite import peak_memory
from tfx_mobile.tflite.peak_memory import measure_peak_memory

KB, MB = 1 << 10, 1 << 20


def measure(tmp_path, data):
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    return measure_peak_memory(path, select_tf_ops=False)


def test_it_is_the_mapped_file_and_the_repacked_weights(tmp_path):
    """XNNPACK keeps its own copy of float weights, so twice the file, and little else for so small tensors."""
    data = tflite_files.stack(1024)
    assert len(data) > 16 * MB
    peak, problem = measure(tmp_path, data)
    assert problem == ""
    assert 2 * len(data) - 64 * KB < peak < 2 * len(data) + 2 * MB


def test_tensors_count_in_a_small_file(tmp_path):
    small, large = (measure(tmp_path, tflite_files.large_arena(side))[0] for side in (16, 512))
    tensor = 512 * 512 * 16 * 4
    assert small < 2 * MB
    assert tensor < large < 2.5 * tensor
    # The runtime's code, some megabytes, does not count.
    assert measure(tmp_path, tflite_files.dense())[0] < MB


def test_measuring_twice_gives_about_the_same(tmp_path):
    one, other = (measure(tmp_path, tflite_files.stack(256))[0] for _ in range(2))
    assert one == pytest.approx(other, abs=256 * KB)


def test_what_cannot_be_measured_says_why(tmp_path, monkeypatch):
    assert measure(tmp_path, tflite_files.open_size(None)) == (
        None,
        "Input 'x' has open sizes, [1, -1, 3]: what is measured depends on them. Fix them with "
        "TFLiteConverter(input_shapes={...}).",
    )
    monkeypatch.setattr(peak_memory, "_DEADLINE_SECONDS", 0.001)
    peak, problem = measure(tmp_path, tflite_files.dense())
    assert peak is None
    assert problem == "The interpreter process ended: no answer within 0.001 seconds."


def test_a_system_that_does_not_tell_is_not_measurable(tmp_path, monkeypatch):
    monkeypatch.setattr(peak_memory, "_STATUS", str(tmp_path / "status"))
    events = []
    peak_memory.load_and_measure({"path": "unused", "select_tf_ops": False}, events.append)
    (event,) = events
    assert event["bytes"] is None
    assert "does not tell the peak memory" in event["problem"]
    (tmp_path / "status").write_text("VmRSS:\t 10 kB\n")
    peak_memory.load_and_measure({"path": "unused", "select_tf_ops": False}, events.append)
    assert "has no RssFile, VmHWM" in events[1]["problem"]
