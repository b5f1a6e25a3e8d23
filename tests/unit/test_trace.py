"""`tfx-mobile trace` on real ML Metadata stores that are filled by hand, and on real release stores."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from ml_metadata.proto import metadata_store_pb2 as mlmd

from tests.fakes.lineage import CACHED, Lineage, serving
from tests.fakes.releases import manifest_of, model_bytes, push_of
from tfx_mobile.commands.trace import trace
from tfx_mobile.errors import TraceError
from tfx_mobile.records import ArtifactOrigin, LineageGraph, TraceRecord, sha256_of
from tfx_mobile.records import Lineage as ManifestLineage
from tfx_mobile.release_store.destinations import FilesystemDestination
from tfx_mobile.release_store.publishing import Push, publish
from tfx_mobile.trace.metadata import open_config, open_sqlite
from tfx_mobile.trace.releases import trace_releases
from tfx_mobile.trace.target import resolve_target
from tfx_mobile.trace.walking import PUSHED_MODEL, TFLITE_MODEL, trace_metadata

DATA = model_bytes(7)
SHA256 = sha256_of(DATA)
OTHER = sha256_of(b"other bytes")
RELEASE = sha256_of(b"a release")
NODES = ("example_gen", "trainer", "converter", "evaluator", "pusher")
MADE = ("examples", "model", "variants", "blessed_model", "blessing", "evaluation", "pushed_model")


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path / "metadata.sqlite")


def traced(lineage: Lineage, target: str = SHA256) -> LineageGraph | None:
    return trace_metadata(open_sqlite(str(lineage.path)), target)


def ids(items) -> set[int]:
    return {item.id for item in items}


# --- walking ---------------------------------------------------------------------------------------------------------


def test_from_the_bytes_to_the_examples_with_the_evaluation_beside_them(lineage):
    made = lineage.run(SHA256, release_id=RELEASE)
    graph = traced(lineage)
    assert graph.starts == (made["pushed_model"],)
    assert ids(graph.executions) == {made[node] for node in NODES}
    # The evaluation is nobody's input: it is found beside the blessing.
    assert ids(graph.artifacts) == {made[name] for name in MADE}
    examples = next(a for a in graph.artifacts if a.id == made["examples"])
    assert (examples.type, examples.uri, examples.state) == ("Examples", "/artifacts/Examples", "live")
    assert examples.properties == {"span": 3, "version": 1, "split_names": '["train", "eval"]'}
    assert examples.created_ms > 0
    evaluator = next(e for e in graph.executions if e.id == made["evaluator"])
    assert (evaluator.pipeline, evaluator.run, evaluator.node) == ("digits", "run 1", "QuantizationEvaluator")
    assert (evaluator.state, evaluator.fingerprint) == ("complete", "tfx-mobile 1")
    edges = {(e.execution, e.artifact, e.direction, e.keys) for e in graph.events}
    assert (made["trainer"], made["examples"], "input", ("examples",)) in edges
    assert (made["evaluator"], made["evaluation"], "output", ("evaluation",)) in edges
    assert LineageGraph.from_json(graph.to_json()) == graph


def test_a_release_id_means_its_bytes(lineage):
    made = lineage.run(SHA256, release_id=RELEASE)
    assert traced(lineage, RELEASE) == traced(lineage)
    second = lineage.push(
        SHA256,
        made,
        release_id=RELEASE,
        destinations=json.dumps([{"release_id": RELEASE}, {"release_id": OTHER, "previous_release_id": SHA256}]),
    )
    assert traced(lineage, OTHER).starts == (second["pushed_model"],)


def test_a_previous_release_is_not_what_was_pushed(lineage):
    lineage.run(SHA256, previous_release_id=OTHER, destinations=json.dumps([{"previous_release_id": OTHER}]))
    lineage.run(SHA256, destinations="not JSON")
    lineage.run(SHA256, destinations='{"release_id": 3}')
    assert traced(lineage, OTHER) is None


def test_other_runs_are_left_out(lineage):
    lineage.run(OTHER, "run 0")
    made = lineage.run(SHA256)
    lineage.run(OTHER, "run 2")
    # What was done with the model later is not where it comes from.
    lineage.execution("BulkInferrer", {"model": [made["model"]]}, {"result": [lineage.artifact("InferenceResult")]})
    graph = traced(lineage)
    assert ids(graph.executions) == {made[node] for node in NODES}
    assert {e.run for e in graph.executions} == {"run 1"}


def test_the_same_bytes_of_several_runs_are_all_found(lineage):
    first, second = lineage.run(SHA256), lineage.run(SHA256, "run 2")
    graph = traced(lineage)
    assert graph.starts == (second["pushed_model"], first["pushed_model"])
    assert ids(graph.executions) == {made[node] for made in (first, second) for node in NODES}


def test_a_cached_step_names_the_execution_that_did_the_work(lineage):
    first = lineage.run(SHA256)
    for node, key, read in (("ExampleGen", "examples", {}), ("Trainer", "model", {"examples": [first["examples"]]})):
        lineage.execution(node, read, {key: [first[key]]}, run="run 2", state=CACHED)
    second = lineage.push(SHA256, first | lineage.judge(SHA256, first, "run 2"), "run 2")
    graph = traced(lineage)
    assert graph.starts == (second["pushed_model"], first["pushed_model"])
    makers = {e.artifact: e.execution for e in graph.events if e.direction == "output"}
    assert makers[first["model"]] == first["trainer"]
    assert not [e for e in graph.executions if e.state == "cached"]


def test_a_resolver_hands_on_and_makes_nothing(lineage):
    made = lineage.run(SHA256)
    later = lineage.run(OTHER, "run 2")
    both = {"model": [made["model"], later["model"]]}
    lineage.execution(
        "Resolver",
        both,
        {"model": [made["model"]]},
        run="run 3",
        kinds=(mlmd.Event.INTERNAL_INPUT, mlmd.Event.INTERNAL_OUTPUT),
    )
    assert ids(traced(lineage).executions) == {made[node] for node in NODES}


def test_a_model_brought_in_from_outside_ends_the_trace(lineage):
    model = lineage.artifact("tfx_mobile.TFLiteModel", "/bought/model", sha256=SHA256)
    blessing = lineage.artifact("tfx_mobile.TFLiteBlessing", sha256=SHA256)
    pushed = lineage.push(SHA256, {"blessed_model": model, "blessing": blessing})
    graph = traced(lineage)
    assert graph.starts == (pushed["pushed_model"],)
    assert ids(graph.artifacts) == {model, blessing, pushed["pushed_model"]}
    assert ids(graph.executions) == {pushed["pusher"]}
    # An Importer names it as its output, in each run again.
    importers = [lineage.execution("Importer", {}, {"result": [model]}, run=f"run {n}") for n in range(3)]
    assert ids(traced(lineage).executions) == {pushed["pusher"], importers[0]}


def test_a_model_that_was_not_pushed_is_found(lineage):
    made = lineage.run(SHA256)
    again = lineage.judge(SHA256, made, "run 2")
    assert traced(lineage).starts == (made["pushed_model"], again["blessed_model"])
    # The blessing has the hash, too, but is not the bytes.
    assert again["blessing"] not in traced(lineage).starts


def test_what_was_not_blessed_was_not_pushed(lineage):
    lineage.artifact("PushedModel", push_status="not_blessed", sha256="", release_id="")
    assert traced(lineage) is None


def test_edges_that_are_there_twice(lineage):
    made = lineage.run(SHA256)
    lineage.event(made["evaluator"], made["model"], mlmd.Event.DECLARED_INPUT, "model")
    lineage.event(made["converter"], made["blessing"], mlmd.Event.INPUT, "baseline", "model")
    edges = [(e.execution, e.artifact, e.direction) for e in traced(lineage).events if e.execution == made["evaluator"]]
    assert len(edges) == len(set(edges)) == 6
    twice = next(
        e for e in traced(lineage).events if e.artifact == made["blessing"] and e.execution == made["converter"]
    )
    assert twice.keys == ("baseline", "model")


def test_hundreds_of_models_that_start_from_each_other(lineage):
    before = lineage.artifact("Model")
    for number in range(105):
        model = lineage.artifact("Model")
        lineage.execution("Trainer", {"base_model": [before]}, {"model": [model]}, run=f"run {number}")
        before = model
    wide = [lineage.artifact("Examples", span=span) for span in range(105)]
    for examples in wide:
        lineage.execution("ExampleGen", {}, {"examples": [examples]})
    pushed = lineage.artifact("PushedModel", sha256=SHA256)
    lineage.execution("MobilePusher", {"model": [before], "examples": wide}, {"pushed_model": [pushed]})
    graph = traced(lineage)
    assert len(graph.executions) == 211
    assert len(graph.artifacts) == 212
    output = run(SHA256, "--metadata", lineage.path).stdout
    assert "… --json has what that was made of." in output


def test_properties_of_every_kind(lineage):
    values = {"text": "t", "number": 2**60, "ratio": 0.5, "flag": True, "struct": {"b": [1, 2]}}
    lineage.artifact("PushedModel", sha256=SHA256, **values)
    properties = traced(lineage).artifacts[0].properties
    assert properties == {"sha256": SHA256, **values, "struct": '{"b":[1.0,2.0]}'}
    assert properties["flag"] is True


# --- opening ---------------------------------------------------------------------------------------------------------


def test_nothing_is_written_to_the_store(lineage):
    lineage.run(SHA256)
    before, folder = lineage.path.read_bytes(), sorted(lineage.path.parent.iterdir())
    os.chmod(lineage.path, 0o444)
    assert traced(lineage)
    assert (lineage.path.read_bytes(), sorted(lineage.path.parent.iterdir())) == (before, folder)


def test_any_path_can_be_opened(lineage, tmp_path):
    lineage.run(SHA256)
    folder = tmp_path / "a b?x=1&y%20#z"
    folder.mkdir()
    copied = Path(shutil.copy(lineage.path, folder / "m?.sqlite"))
    assert trace_metadata(open_sqlite(str(copied)), SHA256)
    assert [path.name for path in folder.iterdir()] == ["m?.sqlite"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist. Nothing was created"),
        (b"", "no such table: MLMDEnv. Nothing was changed"),
        (b"no database at all " * 99, "file is not a database"),
    ],
)
def test_a_wrong_path_creates_nothing(tmp_path, content, message):
    path = tmp_path / "metadata.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        open_sqlite(str(path))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if content is None else [content])


def test_a_folder_and_a_pipe_are_no_store(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(TraceError, match="is not a regular file"):
            open_sqlite(str(path))


@pytest.mark.parametrize("version", [6, 99])
def test_a_store_of_another_schema_is_refused_and_left_alone(lineage, version):
    lineage.run(SHA256)
    with sqlite3.connect(lineage.path) as database:
        database.execute("UPDATE MLMDEnv SET schema_version = ?", [version])
    database.close()
    before = lineage.path.read_bytes()
    with pytest.raises(TraceError, match=rf"cannot be read: .*{version}"):
        traced(lineage)
    assert lineage.path.read_bytes() == before


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.pbtxt"
    path.write_text(text)
    return str(path)


def test_a_config_of_a_sqlite_file(lineage, tmp_path):
    lineage.run(SHA256)
    opened = open_config(config(tmp_path, f"sqlite {{ filename_uri: '{lineage.path}' connection_mode: 3 }}"))
    assert trace_metadata(opened, SHA256) == traced(lineage)
    with pytest.raises(TraceError, match="does not exist"):
        open_config(config(tmp_path, f"sqlite {{ filename_uri: '{tmp_path}/other' connection_mode: 3 }}"))
    assert not (tmp_path / "other").exists()


def test_a_grpc_server_answers_the_same(lineage, tmp_path):
    lineage.run(SHA256)
    with serving(lineage.path) as port:
        opened = open_config(config(tmp_path, f"host: '127.0.0.1' port: {port}"))
        assert opened.address == f"127.0.0.1:{port}"
        graph = trace_metadata(opened, SHA256)
        assert trace_metadata(opened, OTHER) is None
    assert graph.model_copy(update={"metadata": str(lineage.path)}) == traced(lineage)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_not_there(tmp_path):
    opened = open_config(config(tmp_path, f"host: '127.0.0.1' port: {closed_port()} client_timeout_sec: 5"))
    with pytest.raises(TraceError, match=r"127\.0\.0\.1:\d+ cannot be read: UnavailableError.*--at DESTINATION"):
        trace_metadata(opened, SHA256)


def test_a_database_that_is_not_there(tmp_path):
    text = f'mysql {{ host: "127.0.0.1" port: {closed_port()} database: "metadb" user: "reader" password: "hunter2" }}'
    with pytest.raises(TraceError, match=r"mysql://127\.0\.0\.1:\d+/metadb cannot be read") as caught:
        open_config(config(tmp_path, text))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it names no database"),
        ("fake_database {}", "a fake_database is empty"),
        ('mysql {\n  password: "hunter2" pasword: "hunter2"\n}', "line 2, column 23 is not understood"),
        ('mysql { password: "hunter2', "line 1, column 19 is not understood"),
        ('password: "hunter2"', "line 1, column 1 is not understood"),
        ("port: 8080", "line 1, column 1 is not understood"),
        ("sqlite {}", "sqlite needs filename_uri"),
        ('mysql { database: "d" password: "hunter2" }', "mysql needs host or socket"),
        ('mysql { host: "h" password: "hunter2" }', "mysql needs database"),
        ('postgresql { hostaddr: "h" dbname: "d" user: "u" }', "postgresql needs port"),
    ],
)
def test_a_config_that_describes_nothing_is_not_quoted(tmp_path, text, message):
    with pytest.raises(
        TraceError, match=f"describes no ML Metadata store: {message}.*MetadataStoreClientConfig"
    ) as error:
        open_config(config(tmp_path, text))
    assert "hunter2" not in str(error.value)


def test_a_config_that_cannot_be_read(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        open_config(str(tmp_path / "missing"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="cannot be read"):
        open_config(str(tmp_path / "binary"))


# --- target ----------------------------------------------------------------------------------------------------------


def test_a_target_is_a_hash_or_a_file(tmp_path):
    (tmp_path / "model.tflite").write_bytes(DATA)
    assert resolve_target(str(tmp_path / "model.tflite")) == SHA256
    assert resolve_target(SHA256.upper()) == SHA256


@pytest.mark.parametrize("text", ["", "abc", SHA256[:-1], f"{SHA256}\n", "a\0b", "/"])
def test_anything_else_is_refused(text):
    with pytest.raises(TraceError, match=r"is neither a file nor 64|cannot be read"):
        resolve_target(text)


# --- releases --------------------------------------------------------------------------------------------------------

ORIGINS = ManifestLineage(
    model=ArtifactOrigin(type="Model", id=13, name="digits:run 1:Trainer:model:0", created_ms=1_700_000_000_000),
    examples=(ArtifactOrigin(type="Examples", id=1, span=3, version=1),),
    variants=ArtifactOrigin(type="tfx_mobile.TFLiteVariants", id=17),
)


@pytest.fixture
def store(tmp_path):
    destination = FilesystemDestination(base_directory=str(tmp_path / "releases"))
    opened = destination.open_store()
    publish(opened, Push(manifest_of(DATA).model_copy(update={"lineage": ORIGINS}), DATA, "production"))
    publish(opened, push_of(model_bytes(8)))
    publish(opened, push_of(DATA, model_name="mnist"))
    return opened


def test_the_manifest_tells_the_lineage(store):
    releases, problems = trace_releases(store, SHA256, "digits")
    assert problems == ()
    assert [(r.manifest.model, r.manifest.lineage, r.verified) for r in releases] == [("digits", ORIGINS, False)]
    assert trace_releases(store, releases[0].release_id)[0] == releases
    assert Path(releases[0].manifest_uri).is_file()
    assert releases[0].destination == store.address


def test_all_models_are_searched_unless_one_is_named(store):
    assert {r.manifest.model for r in trace_releases(store, SHA256)[0]} == {"digits", "mnist"}
    assert trace_releases(store, SHA256, "other") == ((), ())
    assert trace_releases(store, OTHER) == ((), ())
    with pytest.raises(ValueError, match=r"model_name='\.\.' is not valid"):
        trace_releases(store, SHA256, "..")


def test_a_damaged_manifest_hides_no_other(store):
    damaged = Path(trace_releases(store, sha256_of(model_bytes(8)))[0][0].manifest_uri)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (damaged.parent / "notes.txt").write_text("not a release")
    releases, problems = trace_releases(store, SHA256, "digits")
    assert len(releases) == 1
    assert len(problems) == 1
    assert str(damaged) in problems[0]


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments, width=160):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(trace, [str(argument) for argument in arguments])


def test_the_tree_leads_from_the_file_to_the_examples(lineage, tmp_path):
    made = lineage.run(SHA256, release_id=RELEASE)
    (tmp_path / "model.tflite").write_bytes(DATA)
    result = run(tmp_path / "model.tflite", "--metadata", lineage.path)
    assert result.exit_code == 0, result.output
    places = [
        result.stdout.index(text)
        for text in (
            f"PushedModel {made['pushed_model']}  channel production  push_status pushed",
            f"release_id {RELEASE}",
            "made by MobilePusher",
            f"model: TFLiteModel {made['blessed_model']}  variant float16  blessed 1",
            "made by QuantizationEvaluator",
            f"beside it: ModelEvaluation {made['evaluation']}\n│   │   /artifacts/evaluation",
            f"variants: TFLiteVariants {made['variants']}",
            f"model: Model {made['model']}",
            "made by Trainer",
            f'examples: Examples {made["examples"]}  span 3  version 1  split_names ["train", "eval"]',
            f"made by ExampleGen {made['example_gen']}  run run 1 of digits  complete  20",
        )
    ]
    assert places == sorted(places)
    assert f"Examples {made['examples']}  above" in result.stdout


def test_several_matches_are_listed_newest_first(lineage):
    runs = [lineage.run(SHA256, f"run {number}") for number in range(22)]
    output = run(SHA256, "--metadata", lineage.path).stdout
    assert "22 artifacts are these bytes" in output
    newest, oldest, left_out = (f"PushedModel {runs[number]['pushed_model']} " for number in (21, 2, 1))
    assert output.index(newest) < output.index(oldest)
    assert left_out not in output
    assert "… and 2 more" in output


def test_json_is_one_document_with_everything(lineage, store):
    lineage.run(SHA256)
    result = run(SHA256, "--metadata", lineage.path, "--at", store.address, "--model", "digits", "--json")
    assert result.exit_code == 0, result.output
    assert TraceRecord.from_json(result.stdout) == TraceRecord(
        target=SHA256, graph=traced(lineage), releases=trace_releases(store, SHA256, "digits")[0]
    )


def test_nothing_found_says_what_was_searched(lineage, store):
    result = run(OTHER, "--metadata", lineage.path, "--at", store.address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Nothing is known of {OTHER}" in result.stderr
    assert f"ML Metadata at {lineage.path}; the releases at {store.address}" in result.stderr
    result = run(OTHER, "--metadata", lineage.path, "--json")
    assert (result.exit_code, TraceRecord.from_json(result.stdout)) == (1, TraceRecord(target=OTHER))


def test_the_release_store_helps_out_where_ml_metadata_cannot_be_reached(store, tmp_path):
    missing = tmp_path / "missing.sqlite"
    arguments = (
        SHA256,
        "--metadata",
        missing,
        "--at",
        json.dumps({"type": "filesystem", "base_directory": store.address}),
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert f"Warning: {missing} does not exist" in result.stderr
    for text in ("Model 13, 2023-11-14 22:13:20Z, digits:run 1:Trainer:model:0", "Examples 1, span 3, version 1"):
        assert text in result.stdout
    assert "unsigned, not verified" in result.stdout
    record = TraceRecord.from_json(run(*arguments, "--json").stdout)
    assert (len(record.releases), record.problems, record.graph) == (
        2,
        (result.stderr[len("Warning: ") :].rstrip(),),
        None,
    )
    assert not missing.exists()


def test_nothing_readable_is_an_error(tmp_path):
    result = run(SHA256, "--metadata", tmp_path / "missing.sqlite")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {tmp_path}/missing.sqlite does not exist")
    assert "Nothing is known" not in result.stderr


def test_a_trusted_key_is_required_if_given(store, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    result = run(SHA256, "--at", store.address, "--model", "digits", "--trusted-key", tmp_path / "key.pem")
    assert result.exit_code == 1
    assert "holds no valid signature of a trusted key" in result.stderr
    (tmp_path / "key.pem").write_text("no key")
    result = run(SHA256, "--at", store.address, "--trusted-key", tmp_path / "key.pem")
    assert (result.exit_code, "not a public key in PEM form" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Say where to look"),
        (("--metadata", "a", "--metadata-config", "b"), "not both"),
        (("--metadata", "a", "--model", "digits"), "need --at"),
    ],
)
def test_usage(arguments, message):
    result = run(SHA256, *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize(("destination", "message"), [("{", "is not JSON"), ('{"type": "ftp"}', "Unknown destination")])
def test_a_destination_that_is_none(destination, message):
    result = run(SHA256, "--at", destination)
    assert (result.exit_code, message in result.stderr) == (1, True)


def test_a_target_that_is_none():
    result = run("model.tflite", "--metadata", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'model.tflite' is neither a file nor" in result.stderr


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_nothing_recorded_can_control_the_terminal(lineage, option):
    evil = "\x1b]0;owned\x07\x1b[31m\x9b1m\u202e[red]name[/red]\r\n"
    model = lineage.artifact(f"own.{evil}", f"/x/{evil}")
    pushed = lineage.artifact("PushedModel", evil, sha256=SHA256, release_id=evil, channel=evil)
    lineage.execution(evil, {evil: [model]}, {"pushed_model": [pushed]}, run=evil)
    result = run(SHA256, "--metadata", lineage.path, *option)
    assert result.exit_code == 0
    assert not set(result.output) & set("\x1b\x07\x9b\u202e\r")
    assert "[red]name[/red]" in result.output


@pytest.mark.parametrize("width", [60, 120])
def test_lines_fit_the_terminal(lineage, store, width):
    lineage.run(SHA256, release_id=RELEASE)
    output = run(SHA256, "--metadata", lineage.path, "--at", store.address, width=width).stdout
    assert max(map(len, output.splitlines())) <= width


# --- what it needs ---------------------------------------------------------------------------------------------------


def test_neither_tfx_nor_tensorflow_is_needed(lineage, store):
    lineage.run(SHA256)
    code = (
        "import sys\n"
        "from tfx_mobile.commands.trace import trace\n"
        f"trace([{SHA256!r}, '--metadata', {str(lineage.path)!r}, '--at', {store.address!r}], standalone_mode=False)\n"
        "heavy = ('tfx', 'tensorflow', 'apache_beam', 'numpy', 'pandas')\n"
        "sys.exit(str([name for name in heavy if name in sys.modules] or ''))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), "PushedModel" in done.stdout) == ("", True)


def test_the_types_are_those_the_components_write():
    artifacts = pytest.importorskip("tfx_mobile.artifacts")
    standard_artifacts = pytest.importorskip("tfx.types.standard_artifacts")
    assert standard_artifacts.PushedModel.TYPE_NAME == PUSHED_MODEL
    assert artifacts.TFLiteModel.TYPE_NAME == TFLITE_MODEL
    assert (artifacts.SHA256, artifacts.RELEASE_ID, artifacts.DESTINATIONS) == ("sha256", "release_id", "destinations")
