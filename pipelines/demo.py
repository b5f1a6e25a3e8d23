"""Runs the digits pipeline and shows what came out, up to a device that uses the release: `make demo`."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

LOG_FILE = "pipeline.log"
ACCURACY = "sparse_categorical_accuracy"


@click.command(help=__doc__)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for artifacts, lineage and the release store. A second run there takes the model from the cache and "
    "compares with the first one's release.",
)
@click.option("--qat", is_flag=True, help="Train the quantization-aware twin too, and show it beside the others.")
def main(output: Path, qat: bool) -> None:
    # Before anything imports TensorFlow: its start-up messages would drown the result.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")
    output.mkdir(parents=True, exist_ok=True)
    log = output / LOG_FILE
    started = time.monotonic()
    with _native_output_to(log) as terminal:
        console = Console(file=terminal, highlight=False)
        console.print(f"[bold]Handwritten digits to the phone.[/bold] Full log: {log}\n")
        try:
            with _progress(console):
                from pipelines import local
                from pipelines.digits import pipeline

                local.run(output, **(pipeline.QAT if qat else {}))
        except Exception as error:
            console.print(
                f"\n[red bold]The pipeline stopped.[/red bold] {type(error).__name__}: {error}", soft_wrap=True
            )
            console.print(f"The full log is {log}.")
            logging.exception("the pipeline stopped")
            sys.exit(1)
        _show_results(console, output)
        console.print(f"\nDone in {time.monotonic() - started:.0f} s.")


@contextlib.contextmanager
def _native_output_to(log: Path) -> Iterator[Any]:
    """Sends all that this process and its native code print to `log`; yields a stream to the real terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8")
    saved = os.dup(1), os.dup(2)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
    try:
        yield terminal
    finally:
        terminal.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)


class _StepLog(logging.Handler):
    """Follows TFX's runner through its log and reports each node once it is finished."""

    def __init__(self, console: Console, status: Any) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._status = status
        self._cached = False
        self._started = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        words = message.split()
        if message.startswith("Component ") and message.endswith(" is running."):
            self._cached, self._started = False, time.monotonic()
            self._status.update(f"{words[1]} ...")
        elif message.startswith("A cached execution "):
            self._cached = True
        elif message.startswith("Component ") and message.endswith(" is finished."):
            took = "cached" if self._cached else f"{time.monotonic() - self._started:.1f} s"
            self._console.print(f"  [green]✓[/green] {words[1]:<32} [dim]{took:>8}[/dim]")


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[None]:
    with console.status("Loading TFX ...") as status:
        handler = _StepLog(console, status)
        # Through absl, not through the logger itself: Keras saves and restores the level that absl knows.
        absl.logging.set_verbosity(absl.logging.INFO)
        absl.logging.get_absl_logger().addHandler(handler)
        try:
            yield
        finally:
            absl.logging.get_absl_logger().removeHandler(handler)


def _show_results(console: Console, output: Path) -> None:
    from pipelines.digits import pipeline
    from pipelines.lineage import latest_run
    from tfx_mobile.artifacts import BLESSING_FILE, CHANNEL, PUSH_STATUS, REASONS, RELEASE_ID, REPORT_FILE
    from tfx_mobile.records import EvaluationRecord

    evaluated = latest_run(pipeline.metadata_path(output), pipeline.NAME, "QuantizationEvaluator").outputs
    pushed_model = latest_run(pipeline.metadata_path(output), pipeline.NAME, "MobilePusher").outputs["pushed_model"]
    record = EvaluationRecord.read(Path(evaluated["blessing"].uri) / BLESSING_FILE)
    console.print(
        f"\nAccuracy on {record.num_examples} examples of split {', '.join(record.splits)}; change in points against "
        "float."
    )
    console.print(_results_table(record))
    report = Path(evaluated["evaluation"].uri) / REPORT_FILE
    if record.winner is not None:
        console.print(f"Blessed  {record.winner}, the smallest that passed")
    console.print(f"Report   {output / report.relative_to(output.resolve())}", soft_wrap=True)
    pushed = {name: value.string_value for name, value in pushed_model.custom_properties.items()}
    if pushed[PUSH_STATUS] == "not_blessed":
        console.print(f"Release  none, nothing was pushed: {'; '.join(json.loads(pushed[REASONS]))}")
        return
    console.print(f"Release  {pushed[RELEASE_ID][:12]}, {pushed[PUSH_STATUS]} on channel {pushed[CHANNEL]!r}")
    _act_as_device(console, output)


def _results_table(record: Any) -> Table:
    # As Google's own table: the float model, post-training quantization, quantization-aware training.
    with_training = any(variant.ranges_from == "training" for variant in record.variants)
    # A column more still leaves room for the verdict on a terminal of 80 characters.
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=with_training)
    table.add_column("variant", no_wrap=True)
    if with_training:
        table.add_column("kind", no_wrap=True)
    for heading in ("accuracy", "change", "bytes", "gzip"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict and why")
    accuracy = {m.model: m.slices[0].metrics.get(ACCURACY) for m in record.models}
    baseline = accuracy[record.models[0].model]
    table.add_row("SavedModel", *["float"] * with_training, f"{baseline:.4f}", "", "", "", "float baseline")
    if (value := accuracy.get("production")) is not None:
        shown = (f"{value:.4f}", f"{100 * (value - baseline):+.2f}", "", "")
        table.add_row("in production", *["release"] * with_training, *shown, "second baseline")
    for variant in record.variants:
        verdict = record.verdict(variant.name)
        value = accuracy.get(variant.name)
        table.add_row(
            variant.name,
            *[_kind(variant)] * with_training,
            "" if value is None else f"{value:.4f}",
            "" if value is None else f"{100 * (value - baseline):+.2f}",
            f"{variant.file.size_bytes:,}" if variant.file else "",
            f"{variant.file.gzip_bytes:,}" if variant.file else "",
            _verdict_text(record, verdict),
        )
    return table


def _kind(variant: Any) -> str:
    if variant.ranges_from == "training":
        return "QAT"
    return "float" if variant.recipe.quantization == "none" else "PTQ"


def _verdict_text(record: Any, verdict: Any) -> Text:
    if verdict.variant == record.winner:
        return Text("blessed", "green")
    if verdict.passed:
        return Text("passed")
    return Text("; ".join(reason.message for reason in verdict.reasons), "red")


def _act_as_device(console: Console, output: Path) -> None:
    """What an app does: follow the channel over HTTP, verify what comes, load the file, use it."""
    import numpy as np

    from pipelines.digits import data, pipeline
    from tfx_mobile.device_client import DeviceClient
    from tfx_mobile.tflite.runtime import SignatureRunner

    with _served(pipeline.release_store(output.resolve())) as address:
        client = DeviceClient(address, pipeline.NAME, pipeline.CHANNEL, directory=output.resolve() / "device")
        result = client.update()
    requests = f"{result.requests} request{'s' * (result.requests != 1)}"
    console.print(f"Fetch    {result.status} over HTTP: {requests}, {result.bytes_downloaded:,} bytes")
    if result.status in ("offline", "refused"):
        console.print(result.message, soft_wrap=True)
    if result.model_path is None or result.sha256 is None:
        return
    runner = SignatureRunner(Path(result.model_path).read_bytes())
    console.print(
        f"Device   version {result.version}, sha256 {result.sha256[:12]} verified, runs on {runner.runtime}\n"
    )
    images, labels = data.unseen()
    probabilities = runner.run({data.IMAGE: images})["probabilities"]
    client.report_success(result.sha256)
    predicted = np.argmax(probabilities, axis=1)
    _draw(console, images[:4], labels[:4], predicted[:4], probabilities.max(axis=1)[:4])
    console.print(f"\n{(predicted == labels).sum()} of {len(labels)} digits the pipeline never saw are read correctly.")


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine only; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            logging.info(format, *args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _draw(console: Console, images: Any, labels: Any, predicted: Any, confidence: Any) -> None:
    shades = " ░▒▓█"
    for row in range(8):
        line = (
            "".join(shades[round(pixel / 16 * (len(shades) - 1))] * 2 for pixel in image.reshape(8, 8)[row])
            for image in images
        )
        console.print("   ".join(line).rstrip(), markup=False)
    captions = (
        f"{'✓' if guess == label else '✗'} {guess} ({100 * sure:.0f} %)"
        for guess, label, sure in zip(predicted, labels, confidence, strict=True)
    )
    console.print("   ".join(f"{caption:<16}" for caption in captions).rstrip(), markup=False)


if __name__ == "__main__":
    main()
