"""Says that a run failed.

`Alert` is the exit handler of a pipeline on Kubeflow or Vertex, which runs whatever happened; `report` is for the
callback for failures of any other orchestrator. Either writes one line of JSON with `severity` ERROR to the log, which
Cloud Logging understands, and the same to a file below a folder, for whatever watches that. Neither takes an address
with a secret in it, such as a webhook's: parameters are public.
"""

import json
import posixpath
import sys

from tfx.dsl.component.experimental.annotations import Parameter
from tfx.dsl.io import fileio
from tfx.orchestration.kubeflow.decorators import exit_handler

SUCCEEDED = "SUCCEEDED"


@exit_handler
def Alert(final_status: Parameter[str], alerts_dir: Parameter[str]) -> None:
    """Reports a run that did not succeed.

    Args:
        final_status: What Kubeflow says of the run: JSON with `state`, `pipelineJobResourceName` and `error.message`.
        alerts_dir: Folder for a file per failed run.
    """
    status = json.loads(final_status)
    if status.get("state") == SUCCEEDED:
        return
    message = status.get("error", {}).get("message", "")
    report(status.get("pipelineJobResourceName", ""), str(status.get("state")), message, alerts_dir)


def report(job: str, state: str, reason: str, alerts_dir: str) -> None:
    """Reports a run that did not succeed.

    Args:
        job: Name of the run; its last part names the file, so that a run is reported once however often this is called.
        state: What became of it, such as `FAILED`.
        reason: Why, as far as the orchestrator knows.
        alerts_dir: Folder for a file per failed run; created.
    """
    alert = {
        "severity": "ERROR",
        "message": f"Pipeline run {job} ended as {state}: {reason}",
        "pipeline_job": job,
        "state": state,
    }
    line = json.dumps(alert, sort_keys=True)
    print(line, file=sys.stderr, flush=True)
    fileio.makedirs(alerts_dir)
    with fileio.open(posixpath.join(alerts_dir, f"{posixpath.basename(job) or 'run'}.json"), "w") as file:
        file.write(line + "\n")
