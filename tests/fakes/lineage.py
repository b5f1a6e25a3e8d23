"""A real ML Metadata store, filled by hand the way TFX's orchestrators fill it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from ml_metadata import metadata_store
from ml_metadata.metadata_store.pywrap.metadata_store_extension import metadata_store as served
from ml_metadata.proto import metadata_store_pb2 as mlmd

OUTPUT, INPUT = mlmd.Event.OUTPUT, mlmd.Event.INPUT
COMPLETE, CACHED = mlmd.Execution.COMPLETE, mlmd.Execution.CACHED
SERVICE = "/ml_metadata.MetadataStoreService/"


def config_of(path: Path) -> mlmd.ConnectionConfig:
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


class Lineage:
    """Writes artifacts, executions and events; ids grow in the order they are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = metadata_store.MetadataStore(config_of(path))

    def artifact(self, kind: str, uri: str | None = None, **properties: Any) -> int:
        type_id = self.store.put_artifact_type(mlmd.ArtifactType(name=kind))
        artifact = mlmd.Artifact(type_id=type_id, uri=uri or f"/artifacts/{kind}", state=mlmd.Artifact.LIVE)
        for name, value in properties.items():
            set_value(artifact.custom_properties[name], value)
        return self.store.put_artifacts([artifact])[0]

    def execution(
        self,
        node: str,
        inputs: Mapping[str, Sequence[int]] = {},
        outputs: Mapping[str, Sequence[int]] = {},
        *,
        run: str = "run 1",
        state: int = COMPLETE,
        kinds: tuple[int, int] = (INPUT, OUTPUT),
        **properties: Any,
    ) -> int:
        type_id = self.store.put_execution_type(mlmd.ExecutionType(name=f"some.module.component.{node}"))
        execution = mlmd.Execution(type_id=type_id, last_known_state=state)
        for name, value in properties.items():
            set_value(execution.custom_properties[name], value)
        events = [
            (self.store.get_artifacts_by_id([artifact])[0], event_of(kind, key, place))
            for kind, channels in zip(kinds, (inputs, outputs), strict=True)
            for key, artifacts in channels.items()
            for place, artifact in enumerate(artifacts)
        ]
        contexts = [
            self._context("pipeline", "digits"),
            self._context("pipeline_run", run),
            self._context("node", f"digits.{node}"),
        ]
        return self.store.put_execution(execution, events, contexts, reuse_context_if_already_exist=True)[0]

    def event(self, execution: int, artifact: int, kind: int, *keys: str) -> None:
        event = mlmd.Event(execution_id=execution, artifact_id=artifact, type=kind)
        for key in keys:
            event.path.steps.add().key = key
            event.path.steps.add().index = 0
        self.store.put_events([event])

    def _context(self, kind: str, name: str) -> mlmd.Context:
        return mlmd.Context(type_id=self.store.put_context_type(mlmd.ContextType(name=kind)), name=name)

    def run(self, sha256: str, name: str = "run 1", **pushed: Any) -> dict[str, int]:
        """One whole run, from examples to a push."""
        made: dict[str, int] = {}
        made["examples"] = self.artifact("Examples", span=3, version=1, split_names='["train", "eval"]')
        made["example_gen"] = self.execution("ExampleGen", {}, {"examples": [made["examples"]]}, run=name)
        made["model"] = self.artifact("Model")
        made["trainer"] = self.execution(
            "Trainer", {"examples": [made["examples"]]}, {"model": [made["model"]]}, run=name
        )
        made["variants"] = self.artifact("tfx_mobile.TFLiteVariants")
        read = {"model": [made["model"]], "examples": [made["examples"]]}
        made["converter"] = self.execution("TFLiteConverter", read, {"variants": [made["variants"]]}, run=name)
        made |= self.judge(sha256, made, name)
        made |= self.push(sha256, made, name, **pushed)
        return made

    def judge(self, sha256: str, made: Mapping[str, int], name: str = "run 1") -> dict[str, int]:
        judged = {
            "blessed_model": self.artifact("tfx_mobile.TFLiteModel", sha256=sha256, variant="float16", blessed=1),
            "blessing": self.artifact("tfx_mobile.TFLiteBlessing", sha256=sha256, blessed=1),
            "evaluation": self.artifact("ModelEvaluation", "/artifacts/evaluation"),
        }
        read = {key: [made[key]] for key in ("model", "examples", "variants")}
        written = {key: [artifact] for key, artifact in judged.items()}
        execution = self.execution("QuantizationEvaluator", read, written, run=name, fingerprint="tfx-mobile 1")
        return {**judged, "evaluator": execution}

    def push(self, sha256: str, made: Mapping[str, int], name: str = "run 1", **pushed: Any) -> dict[str, int]:
        properties = {"sha256": sha256, "push_status": "pushed", "channel": "production", **pushed}
        artifact = self.artifact("PushedModel", **properties)
        # The evaluation is not wired: it is a sibling of the blessing.
        read = {"model": [made["blessed_model"]], "blessing": [made["blessing"]]}
        return {
            "pushed_model": artifact,
            "pusher": self.execution("MobilePusher", read, {"pushed_model": [artifact]}, run=name),
        }


def set_value(value: mlmd.Value, content: Any) -> None:
    if isinstance(content, bool):
        value.bool_value = content
    elif isinstance(content, int):
        value.int_value = content
    elif isinstance(content, float):
        value.double_value = content
    elif isinstance(content, dict):
        value.struct_value.update(content)
    else:
        value.string_value = content


def event_of(kind: int, key: str, place: int) -> mlmd.Event:
    event = mlmd.Event(type=kind)
    event.path.steps.add().key = key
    event.path.steps.add().index = place
    return event


class _Service(grpc.GenericRpcHandler):
    """MetadataStoreService: its requests and answers are those of the library, which therefore serves them."""

    def __init__(self, path: Path) -> None:
        self.connection = served.CreateMetadataStore(
            config_of(path).SerializeToString(), mlmd.MigrationOptions().SerializeToString()
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = getattr(served, details.method.removeprefix(SERVICE))

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            response, message, status = method(self.connection, request)
            if status:
                context.abort(next(code for code in grpc.StatusCode if code.value[0] == status), message.decode())
            return response

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.contextmanager
def serving(path: Path) -> Iterator[int]:
    """An ML Metadata gRPC server on loopback; its port."""
    server = grpc.server(futures.ThreadPoolExecutor(1))  # SQLite wants one thread
    server.add_generic_rpc_handlers([_Service(path)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
