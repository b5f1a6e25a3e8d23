"""The files of `kubeflow/iam` grant what the code needs and no more: its calls are recorded and become permissions."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.publishing import plan, publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.trace.releases import trace_releases

IAM = Path(__file__).parents[2] / "kubeflow" / "iam"
OBJECTS = "storage.objects."
FOLDERS = ("blobs", "releases", "channels")

#: What each operation of a store takes on Cloud Storage. Whoever may not list gets 403 for an object that is not there;
#: to overwrite takes delete: https://cloud.google.com/storage/docs/access-control/iam-json
NEEDED = {
    "read": {"get", "list"},
    "holds": {"get", "list"},
    "check_writable": {"list"},
    "list": {"list"},
    "put_if_absent": {"create", "get", "list"},
    "compare_and_swap": {"create", "delete"},
    "delete": {"delete", "get", "list"},
}
#: `tfx-mobile prune`: finds what nobody needs, announces it in the channels, and deletes it.
PRUNE = {
    "blobs": {"list", "delete"},
    "releases": {"list", "read", "delete"},
    "channels": {"list", "read", "compare_and_swap"},
}
#: The other services, by the call: what is asked of them is one method each.
CALLS = {
    "firebase_ml": {
        "POST models": "firebaseml.models.create",
        "GET models/ID, models/ID:download and operations/ID": "firebaseml.models.get",
        "GET models?filter=": "firebaseml.models.list",
        "PATCH models/ID": "firebaseml.models.update",
    },
    "url_signer": {"POST serviceAccounts/EMAIL:signBlob": "iam.serviceAccounts.signBlob"},
    "rollout": {"GET remoteConfig": "cloudconfig.configs.get", "PUT remoteConfig": "cloudconfig.configs.update"},
    "release_signer": {
        "AsymmetricSign": "cloudkms.cryptoKeyVersions.useToSign",
        "GetPublicKey": "cloudkms.cryptoKeyVersions.viewPublicKey",
    },
    "submitter": {
        "create_pipeline_job": "aiplatform.pipelineJobs.create",
        "get_pipeline_job": "aiplatform.pipelineJobs.get",
    },
    "scheduler": {
        "create_schedule": "aiplatform.schedules.create",
        "delete_schedule": "aiplatform.schedules.delete",
        "list_schedules": "aiplatform.schedules.list",
        "pause_schedule": "aiplatform.schedules.update",
        "resume_schedule": "aiplatform.schedules.update",
        "update_schedule": "aiplatform.schedules.update",
    },
}
#: Google's own roles that the README grants, with what they are granted on. None of them is an administrator's.
PREDEFINED = {
    "aiplatform.user": "project",
    "artifactregistry.reader": "repository",
    "dataflow.developer": "project",
    "dataflow.worker": "project",
    "iam.serviceAccountUser": "account",
    "iam.workloadIdentityUser": "account",
    "storage.objectUser": "bucket",
}


class RecordingStore:
    """A release store that notes which operation was used in which folder."""

    def __init__(self, folder: Path) -> None:
        self._store = FilesystemStore(str(folder))
        self.used: dict[str, set[str]] = defaultdict(set)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name not in NEEDED:
            return attribute

        def recording(path: str, *arguments: Any) -> Any:
            self.used[path.split("/", 1)[0]].add(name)
            return attribute(path, *arguments)

        return recording


def permissions(role: str) -> set[str]:
    return set(yaml.safe_load((IAM / "roles" / f"{role}.yaml").read_text())["includedPermissions"])


def needed(operations: set[str]) -> set[str]:
    return {f"{OBJECTS}{permission}" for operation in operations for permission in NEEDED[operation]}


ROLES = sorted(path.stem for path in (IAM / "roles").iterdir())


def test_there_is_a_role_for_each_part_and_no_other():
    assert set(ROLES) == {"reader", "publisher", "channel_writer", "retention", *CALLS}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_one_that_gcloud_takes(role):
    text = (IAM / "roles" / f"{role}.yaml").read_text()
    document = yaml.safe_load(text)
    assert set(document) == {"title", "description", "stage", "includedPermissions"}
    assert 0 < len(document["title"]) <= 100
    assert 0 < len(document["description"]) <= 256
    assert document["stage"] == "GA"
    granted = document["includedPermissions"]
    assert granted == sorted(set(granted))
    # A custom role has no wildcards; each permission is service.resource.verb.
    assert all(re.fullmatch(r"[a-z]+(\.[A-Za-z]+){2}", permission) for permission in granted)
    assert re.fullmatch(r"[a-zA-Z0-9_.]{3,64}", f"tfx_mobile_{role}")


@pytest.fixture
def pushed(tmp_path) -> RecordingStore:
    """What first, second and repeated pushes, and dry runs, use."""
    store = RecordingStore(tmp_path)
    for seed in (0, 1, 1, 0):
        plan(store, push_of(model_bytes(seed)))
        publish(store, push_of(model_bytes(seed)))
    return store


def test_the_pusher_may_do_what_a_push_does_and_nothing_else(pushed):
    assert set(pushed.used) == set(FOLDERS)
    assert needed(pushed.used["blobs"] | pushed.used["releases"]) == permissions("publisher")
    assert needed(pushed.used["channels"]) == permissions("channel_writer")


def test_the_pusher_can_neither_delete_nor_replace_what_was_released():
    assert f"{OBJECTS}delete" not in permissions("publisher")
    assert f"{OBJECTS}update" not in permissions("publisher")


def test_a_reader_may_read(pushed, tmp_path):
    store = RecordingStore(tmp_path)
    resolve(store, MODEL, CHANNEL)
    trace_releases(store, push_of(model_bytes()).sha256)
    used = set().union(*store.used.values())
    assert needed(used) == permissions("reader")


def test_retention_deletes_and_can_add_nothing():
    assert needed(PRUNE["blobs"] | PRUNE["releases"]) == permissions("retention")
    assert needed(PRUNE["channels"]) == permissions("channel_writer")
    assert f"{OBJECTS}create" not in permissions("retention")


@pytest.mark.parametrize("role", CALLS)
def test_other_services_are_asked_for_what_is_called(role):
    assert set(CALLS[role].values()) == permissions(role)


def test_vertex_is_asked_for_nothing_else():
    vertex = pytest.importorskip("pipelines.vertex")
    called = re.findall(r"self\._(?:pipelines|schedules)\.(\w+)\(", Path(vertex.__file__).read_text())
    assert set(called) == {*CALLS["submitter"], *CALLS["scheduler"]}


def test_predefined_roles_are_granted_where_they_belong():
    readme = (IAM / "README.md").read_text().replace("\\\n", " ")
    commands = [line for line in readme.splitlines() if re.search(r"--role=roles/", line)]
    kinds = {"projects": "project", "iam service-accounts": "account", "storage buckets": "bucket"}
    kinds["artifacts repositories"] = "repository"
    granted = set()
    for command in commands:
        kind = re.match(r"\s+gcloud (.+) add-iam-policy-binding", command)
        assert kind, command
        role = re.search(r"--role=roles/(\S+)", command)[1]
        # One command grants two roles in a loop.
        names = ["dataflow.developer", "dataflow.worker"] if role == "$role" else [role]
        granted |= {(name, kinds[kind[1]]) for name in names}
    assert granted == set(PREDEFINED.items())


def test_no_role_can_change_who_may_do_what():
    for role in ROLES:
        for permission in permissions(role):
            assert not re.search(r"setIamPolicy|actAs|getAccessToken|implicitDelegation|\.admin|signJwt", permission), (
                role
            )


# --- Security Rules --------------------------------------------------------------------------------------------------

METHODS = ("get", "list", "create", "update", "delete")
GROUPS = {"read": {"get", "list"}, "write": {"create", "update", "delete"}}
SIGNED_IN = SimpleNamespace(auth=SimpleNamespace(uid="device"))
STRANGER = SimpleNamespace(auth=None)


def rules() -> tuple[list[str], list[tuple[set[str], str]]]:
    """The path patterns and allow statements of the rules, which are as simple as this reads them, or it fails."""
    text = re.sub(r"//[^\n]*", "", (IAM / "storage-rules.rules").read_text())
    assert text.count("{") == text.count("}")
    whole = re.fullmatch(
        r"\s*rules_version = '2';\s*service firebase\.storage \{\s*match (\S+) \{\s*match (\S+) \{(.*?)\}\s*\}\s*\}\s*",
        text,
        re.DOTALL,
    )
    assert whole, "the rules have another form than this test understands"
    statements = [statement.strip() for statement in whole[3].split(";")]
    assert statements.pop() == ""
    allows = []
    for statement in statements:
        allow = re.fullmatch(r"allow ([a-z, ]+): if (.+)", statement, re.DOTALL)
        assert allow, statement
        named = {name.strip() for name in allow[1].split(",")}
        methods = set().union(*(GROUPS.get(name, {name}) for name in named))
        assert methods <= set(METHODS)
        allows.append((methods, " ".join(allow[2].split())))
    return [whole[1], whole[2]], allows


def allowed(path: str, method: str, request: SimpleNamespace) -> bool:
    """What the rules say to a request, `path` being that of the object in its bucket."""
    patterns, allows = rules()
    assert patterns == ["/b/{bucket}/o", "/{role}/{path=**}"]
    role, _, rest = path.partition("/")
    if not rest:  # {path=**} takes any number of segments in version 2, also none, but {role} alone names no object
        return False
    for methods, condition in allows:
        python = (
            condition.replace("&&", " and ").replace("||", " or ").replace("null", "None").replace("false", "False")
        )
        names = {"role": role, "request": request}
        if method in methods and eval(python, {"__builtins__": {}}, names):
            return True
    return False


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_device_may_get_what_it_can_name(folder):
    assert allowed(f"{folder}/digits/name", "get", SIGNED_IN)
    assert not allowed(f"{folder}/digits/name", "get", STRANGER)


@pytest.mark.parametrize("path", ["users/1/photo", "other/x", "blobs2/x", "channel/x/y", "Blobs/x/y"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_else_in_the_bucket_is_open(path, method):
    assert not allowed(path, method, SIGNED_IN)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("request_", [SIGNED_IN, STRANGER])
def test_no_device_lists_or_writes(folder, method, request_):
    assert not allowed(f"{folder}/digits/name", method, request_)


# --- The folder ------------------------------------------------------------------------------------------------------


def test_the_folder_holds_no_python():
    # An importable `kubeflow` would shadow Kubeflow's own SDK.
    assert not [path for path in IAM.parent.rglob("*") if path.suffix in (".py", ".pyc", ".so")]


def test_the_readme_names_every_role_and_no_other():
    readme = (IAM / "README.md").read_text()
    assert set(re.findall(r"roles/tfx_mobile_(\w+)", readme)) == set(ROLES)
    table = "\n".join(line for line in readme.splitlines() if line.startswith("|"))
    assert {role for role in ROLES if f"`{role}`" in table} == set(ROLES)


def test_nothing_here_is_a_secret_or_somebodys():
    for path in IAM.rglob("*"):
        if path.is_file():
            assert not re.search(r"PRIVATE KEY|AIza|ya29\.|@(?!\$PROJECT)[a-z-]+\.iam", path.read_text()), path
