"""The reference pipeline's ExampleGen with spans: the newest is taken whole and split."""

from __future__ import annotations

from pathlib import Path

import pytest
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import RunOptions

from pipelines.digits import data, pipeline
from pipelines.lineage import latest_run


@pytest.mark.filterwarnings("ignore")  # TFX and Beam warn on every run
@pytest.mark.parametrize(
    ("pattern", "folders", "expected"),
    [
        ("span-{SPAN}/*", ("span-9", "span-10"), (10, None)),
        ("span-{SPAN}/version-{VERSION}/*", ("span-10/version-2", "span-10/version-1", "span-9/version-7"), (10, 2)),
    ],
)
def test_the_newest_span_is_taken(
    tmp_path: Path, pattern: str, folders: tuple[str, ...], expected: tuple[int, int | None]
) -> None:
    for folder in folders:
        data.write_examples(tmp_path / "days" / folder)
    # TFX finds a span in whatever its pattern matches, so what lies beside the spans must not stop it.
    (tmp_path / "days" / "README.txt").write_text("one folder per day")
    whole = pipeline.create(tmp_path, examples_dir=str(tmp_path / "days"), span_pattern=pattern)
    LocalDagRunner().run(whole, run_options=RunOptions(to_nodes=["ImportExampleGen"]))
    examples = latest_run(pipeline.metadata_path(tmp_path), pipeline.NAME, "ImportExampleGen").outputs["examples"]
    assert examples.custom_properties["span"].int_value == expected[0]
    assert ("version" in examples.custom_properties) == (expected[1] is not None)
    if expected[1] is not None:
        assert examples.custom_properties["version"].int_value == expected[1]
    assert [len(list(Path(examples.uri).glob(f"Split-{split}/*.gz"))) for split in ("train", "eval")] == [1, 1]
