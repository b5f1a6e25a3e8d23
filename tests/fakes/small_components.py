"""Components that do next to nothing, for pipelines whose order, conditions and failures are what is tested."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Float, Integer, Model, ModelBlessing


@component
def Make(blessed: Parameter[int], model: OutputArtifact[Model], blessing: OutputArtifact[ModelBlessing]) -> None:
    for artifact in (model, blessing):
        Path(artifact.uri).mkdir(parents=True, exist_ok=True)
    blessing.set_int_custom_property("blessed", blessed)


@component
def Use(model: InputArtifact[Model], seen: OutputArtifact[Model], fail: Parameter[int] = 0) -> None:
    Path(seen.uri).mkdir(parents=True, exist_ok=True)
    seen.set_string_custom_property("uri_seen", model.uri)
    if fail:
        raise RuntimeError("told to fail")


@component
def UseBlessing(blessing: InputArtifact[ModelBlessing], seen: OutputArtifact[Model]) -> None:
    Path(seen.uri).mkdir(parents=True, exist_ok=True)


@component
def Count(count: OutputArtifact[Integer], share: OutputArtifact[Float]) -> None:
    count.value, share.value = 3, 0.5


@component
def TakeNumber(number: Parameter[int], seen: OutputArtifact[Model]) -> None:
    Path(seen.uri).mkdir(parents=True, exist_ok=True)
    seen.set_string_custom_property("seen", repr(number))
