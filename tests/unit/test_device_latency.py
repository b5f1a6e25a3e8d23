"""Latencies measured on devices, from the files that people have of them."""

import pytest

from tfx_mobile import DeviceLatency, read_device_latencies
from tfx_mobile.errors import EvalConfigError

SHA256 = "ab" * 32

#: What benchmark_model of TensorFlow 2.16 prints, with --report_peak_memory_footprint=true.
CONSOLE = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [1]
INFO: Graph: [/data/local/tmp/{graph}]
INFO: Report the peak memory footprint: [1]
INFO: #threads used for CPU inference: [1]
INFO: Loaded model /data/local/tmp/{graph}
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.477872
INFO: Initialized session in 3.335ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=63 first=9243 curr=7880 min=7834 max=9243 avg=7955.13 std=211

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=127 first=7902 curr=7853 min=7834 max=8203 avg=7871.42 std=35

INFO: Inference timings in us: Init: 3335, First inference: 9243, Warmup (avg): 7955.13, Inference (avg): {average}
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=5.25 overall=7.5
INFO: Overall peak memory footprint (MB) via periodic monitoring: 8.65234
"""  # noqa: E501
TIMINGS_LINE = next(line for line in CONSOLE.format(graph="x", average=8000).splitlines() if "timings" in line)
LOGCAT = "11-25 10:12:01.204  4242  4242 I tflite  : Graph: [/data/local/tmp/float16.tflite]\n" + (
    "11-25 10:12:07.001  4242  4242 I tflite  : Inference timings in us: Init: 4108, First inference: 1, "
    "Warmup (avg): 91471, Inference (avg): 1.23457e+06\n"
)
OF_2019 = "Graph: [a.tflite]\nAverage inference timings in us: Warmup: 91471, Init: 4108, Inference: 80660.1\n"
WITH_STATS = "Graph: [a.tflite]\nAverage inference timings in us: Warmup: 2331.42, Init: 896, no stats: 2177.1\n"


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def latencies(found):
    return [(entry.variant, entry.milliseconds, entry.device, entry.sha256) for entry in found]


@pytest.mark.parametrize(
    ("text", "variant", "milliseconds"),
    [
        (CONSOLE.format(graph="integer_only_int8.tflite", average="7871.42"), "integer_only_int8", 7.87142),
        (CONSOLE.format(graph="v/full_integer/model.tflite", average="7871.42"), "full_integer", 7.87142),
        (CONSOLE.format(graph="model.v2.tflite", average="912"), "model.v2", 0.912),
        (LOGCAT, "float16", 1234.57),
        (OF_2019, "a", 80.6601),
        (WITH_STATS, "a", 2.1771),
    ],
)
def test_benchmark_model(tmp_path, text, variant, milliseconds):
    found = read_device_latencies(write(tmp_path, "pixel.txt", text), device="Pixel 8")
    assert all(isinstance(entry, DeviceLatency) for entry in found)
    assert latencies(found) == [(variant, pytest.approx(milliseconds), "Pixel 8", None)]


def test_several_runs_in_one_file(tmp_path):
    runs = [CONSOLE.format(graph=f"{name}.tflite", average=us) for name, us in (("float32", 20000), ("int8", 8000))]
    path = write(tmp_path, "pixel.log", "".join(runs))
    second = "".join(runs).splitlines().index(next(line for line in runs[1].splitlines() if "timings" in line)) + 1
    assert latencies(read_device_latencies(path, device="Pixel 8")) == [
        ("float32", 20.0, "Pixel 8", None),
        ("int8", 8.0, "Pixel 8", None),
    ]
    with pytest.raises(EvalConfigError, match=f"line {second}: a second run, though variant='int8' names one"):
        read_device_latencies(path, device="Pixel 8", variant="int8")


def test_a_run_may_be_named(tmp_path):
    path = write(tmp_path, "run.txt", CONSOLE.format(graph="app/classifier_v3.tflite", average=8000))
    assert latencies(read_device_latencies(path, device="d", variant="int8")) == [("int8", 8.0, "d", None)]
    timings_only = write(tmp_path, "cut.txt", TIMINGS_LINE)
    assert latencies(read_device_latencies(timings_only, device="d", variant="int8")) == [("int8", 8.0, "d", None)]


def test_csv(tmp_path):
    text = f"variant, milliseconds,device,sha256\nfloat32,20.5,Pixel 8,\nint8,8,,{SHA256}\n"
    assert latencies(read_device_latencies(write(tmp_path, "l.csv", "\ufeff" + text), device="Moto")) == [
        ("float32", 20.5, "Pixel 8", None),
        ("int8", 8.0, "Moto", SHA256),
    ]


def test_json(tmp_path):
    text = f'[{{"variant": "int8", "milliseconds": 8, "device": "Pixel 8", "sha256": "{SHA256}"}}]'
    assert latencies(read_device_latencies(write(tmp_path, "l.json", text))) == [("int8", 8.0, "Pixel 8", SHA256)]


@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        ("l.csv", "name,ms\nint8,8\n", {}, r"l\.csv, line 1: the columns are 'name', 'ms'. Expected are variant, mil"),
        ("l.csv", "", {}, r"line 1: the columns are none"),
        ("l.csv", "variant,milliseconds,device\n", {}, r"l\.csv holds no latency"),
        ("l.csv", "variant,milliseconds,device\nint8,8\n", {}, r"line 2: the row has not 3 values"),
        ("l.csv", "variant,milliseconds\nint8,8,9\n", {}, r"line 2: the row has not 2 values"),
        ("l.csv", "variant,milliseconds\nint8,8\n", {}, r"line 2: it does not say on which device .*device='Pixel 8"),
        ("l.csv", "variant,milliseconds,device\na,1,d\nb,fast,d\n", {}, r"line 3: milliseconds='fast': .*Expected are"),
        ("l.csv", "variant,milliseconds,device\na,-1,d\n", {}, r"line 2: milliseconds='-1': .*greater than 0"),
        ("l.csv", "variant,milliseconds,device\na,inf,d\n", {}, r"line 2: milliseconds='inf': "),
        ("l.csv", "variant,milliseconds,device\na,nan,d\n", {}, r"line 2: milliseconds='nan': "),
        ("l.csv", "variant,milliseconds,device\n,1,d\n", {}, r"line 2: variant=None"),
        ("l.csv", "variant,milliseconds,device,sha256\na,1,d,xyz\n", {}, r"line 2: sha256='xyz'"),
        ("l.csv", "variant,milliseconds,device\na,1,d\n", {"variant": "b"}, r"variant='b' is for benchmark_model's"),
        ("l.json", '{"variant": "a"}', {}, r"l\.json is not a list of objects"),
        ("l.json", "[\n1,]", {}, r"l\.json, line 2: not JSON"),
        ("l.json", '[{"variant": "a", "ms": 1}]', {"device": "d"}, r"entry 1: milliseconds=.*ms=1"),
        ("l.txt", "hello\n", {"device": "d"}, r"l\.txt is not what benchmark_model prints"),
        ("l.txt", OF_2019, {}, r"l\.txt, line 2: it does not say on which device"),
        ("l.txt", OF_2019.splitlines()[1], {"device": "d"}, r"line 1: there is no line 'Graph: .*variant='...'"),
        # The graph of one run is not that of the next.
        ("l.txt", OF_2019 + OF_2019.splitlines()[1], {"device": "d"}, r"line 3: there is no line 'Graph: "),
        ("l.txt", LOGCAT.replace("1.23457e+06", "fast"), {"device": "d"}, r"line 2: the average 'fast' is no number"),
        ("l.txt", LOGCAT.replace("1.23457e+06", "-nan"), {"device": "d"}, r"line 2: milliseconds=nan"),
    ],
)
def test_what_is_wrong_names_file_line_and_what_is_expected(tmp_path, name, text, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_device_latencies(write(tmp_path, name, text), **arguments)
    assert isinstance(raised.value, EvalConfigError)
    assert str(tmp_path / name) in str(raised.value) or "variant=" in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(EvalConfigError, match=r"none\.csv cannot be read: .*No such file"):
        read_device_latencies(tmp_path / "none.csv")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvalConfigError, match=r"binary\.txt cannot be read.*local text file"):
        read_device_latencies(tmp_path / "binary.txt")
