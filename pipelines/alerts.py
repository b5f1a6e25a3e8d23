"""Says that a run failed: the exit handler of a pipeline on Kubeflow or Vertex, which runs whatever happened.

It writes one line of JSON with `severity` ERROR to the log, which Cloud Logging understands, and the same to a file
below a folder, for whatever watches that. It takes no address with a secret in it, such as a webhook's: parameters are
public.
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
    job = status.get("pipelineJobResourceName", "")
    alert = {
        "severity": "ERROR",
        "message": f"Pipeline run {job} ended as {status.get('state')}: {status.get('error', {}).get('message', '')}",
        "pipeline_job": job,
        "state": status.get("state"),
    }
    line = json.dumps(alert, sort_keys=True)
    print(line, file=sys.stderr, flush=True)
    fileio.makedirs(alerts_dir)
    with fileio.open(posixpath.join(alerts_dir, f"{posixpath.basename(job) or 'run'}.json"), "w") as file:
        file.write(line + "\n")
