"""`kubeflow/`: the image holds what is tested, the manifests are valid and name what exists, and no version drifts."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml
from click.testing import CliRunner

from pipelines import config_file, kubeflow_v2
from tfx_mobile import __version__, secrets_check
from tfx_mobile.cli import COMMANDS
from tfx_mobile.cli import main as tfx_mobile_command
from tfx_mobile.errors import SecretParameterError
from tfx_mobile.release_store.destinations import parse_destinations

REPOSITORY = Path(__file__).parents[2]
KUBEFLOW = REPOSITORY / "kubeflow"
DOCKERFILE = KUBEFLOW / "Dockerfile"
MANIFESTS = KUBEFLOW / "manifests"
LOCK = REPOSITORY / "requirements" / "tfx-1.16.txt"
TOOLS = REPOSITORY / ".tools" / "lint" / "bin"

needs_tools = pytest.mark.skipif(
    not (TOOLS / "hadolint").exists() or not (TOOLS / "kubernetes-validate").exists(),
    reason="hadolint and the schemas of Kubernetes are not there; `make setup` brings them",
)


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, each on one line."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


DOCKER = instructions(DOCKERFILE.read_text())
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def all_of(word: str) -> list[str]:
    return [rest for name, rest in DOCKER if name == word]


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    return [source for rest in all_of("COPY") if "--from=" not in rest for source in rest.split()[:-1]]


def locked(package: str, lock: Path = LOCK) -> str:
    found = re.search(rf"^{re.escape(package)}==(\S+)", lock.read_text(), re.MULTILINE)
    assert found, f"{lock.name} has no {package}"
    return found[1]


# --- The image -------------------------------------------------------------------------------------------------------


def test_what_is_copied_exists_and_nothing_else_is_seen_by_the_build():
    assert copied()
    for source in copied():
        assert (REPOSITORY / source).exists(), source
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"
    seen = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert seen == {source.split("/")[0] for source in copied()}
    # What is taken away again: caches and dot files, such as an .env beside the code.
    assert {pattern for pattern in patterns[1:] if not pattern.startswith("!")} == {"**/__pycache__", "**/.*"}


def test_the_wheel_gets_every_file_that_its_metadata_name():
    project = (REPOSITORY / "pyproject.toml").read_text()
    named = re.findall(r'^(?:readme = |license-files = \[)"([^"]+)"', project, re.MULTILINE)
    assert set(named) == {"README.md", "LICENSE"}
    assert set(named) <= set(copied())


def test_every_installation_is_of_hash_pinned_files():
    installs = [part for rest in all_of("RUN") for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 4
    for install in installs:
        words = shlex.split(install)
        if "dist/*.whl" in words:
            assert "--no-deps" in words
            continue
        assert "--require-hashes" in words
        lock = REPOSITORY / words[words.index("-r") + 1]
        assert str(lock.relative_to(REPOSITORY)) in copied()
        pins = re.findall(r"^[a-zA-Z0-9_.\[\]-]+==\S+", lock.read_text(), re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[a-zA-Z0-9_.\[\]-]+==\S+ \\\n    --hash=sha256:", lock.read_text(), re.M))


def test_base_images_are_pinned_and_of_the_locks_python():
    python = (REPOSITORY / ".python-version").read_text().strip()
    assert f"PYTHON_1.16 := {python}" in MAKEFILE
    bases = [rest.split()[0] for rest in all_of("FROM")]
    assert bases == [
        f"python:{python}-slim-bookworm${{PYTHON_DIGEST}}",
        f"apache/beam_python{python}_sdk:${{BEAM_VERSION}}${{BEAM_DIGEST}}",
        f"python:{python}-slim-bookworm${{PYTHON_DIGEST}}",
    ]
    arguments = dict(rest.partition("=")[::2] for rest in all_of("ARG"))
    for name in ("PYTHON_DIGEST", "BEAM_DIGEST"):
        assert re.fullmatch(r'"(@sha256:[0-9a-f]{64})?"', arguments[name])
    assert f"/opt/venv/lib/python{python}/site-packages/app.pth" in DOCKERFILE.read_text()


def test_no_version_is_written_down_a_second_time():
    written = DOCKERFILE.read_text() + (KUBEFLOW / "build.sh").read_text()
    for version in (__version__, locked("apache-beam"), locked("tfx"), locked("tensorflow")):
        assert version not in written
    arguments = [rest for rest in all_of("ARG") if rest.split("=")[0] in ("VERSION", "BEAM_VERSION")]
    assert arguments
    assert not [rest for rest in arguments if "=" in rest], "a default would be used in silence"


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs build.sh with a builder that only says how it was called."""
    return subprocess.run(
        [str(KUBEFLOW / "build.sh"), *arguments],
        env={**os.environ, "DOCKER": "echo"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_tag_is_the_version_and_beam_that_of_the_lock():
    done = build("registry.example:5000/mobile/tfx-mobile", "--push")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[words.index("--tag") + 1] == f"registry.example:5000/mobile/tfx-mobile:{__version__}"
    assert f"VERSION={__version__}" in words
    assert f"BEAM_VERSION={locked('apache-beam')}" in words
    assert words[words.index("--file") + 1] == "kubeflow/Dockerfile"
    assert words[words.index("--platform") + 1] == "linux/amd64"
    assert words[-2:] == ["--push", "."]
    # Every argument that the Dockerfile leaves open is given.
    given = {word.partition("=")[0] for before, word in itertools.pairwise(words) if before == "--build-arg"}
    assert {rest for rest in all_of("ARG") if "=" not in rest} <= given


@pytest.mark.parametrize("name", ["", "europe/tfx-mobile:1", "europe/tfx-mobile@sha256:0", "europe/", "Europe/UPPER"])
def test_a_name_with_a_tag_or_none_is_refused(name):
    done = build(name)
    assert done.returncode == 2
    assert f"'{name}' is no name of an image" in done.stderr
    assert not done.stdout


def test_the_container_is_not_root_and_serves_dataflow():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", all_of("USER")[-1])
    assert [name for name, _ in DOCKER[-2:]] == ["USER", "ENTRYPOINT"]
    assert all_of("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert "--from=beam /opt/apache/beam /opt/apache/beam" in all_of("COPY")
    environment = " ".join(all_of("ENV")[-1:])
    assert "PATH=/opt/venv/bin:$PATH" in environment
    # Else the harness makes an environment that does not see /opt/venv: boot.go of Beam's Python container.
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in environment


def test_the_image_and_its_stand_in_without_docker_take_the_same_steps():
    recipe = MAKEFILE.split("\n$(CONTAINER)/.complete:", 1)[1].split("\n\n", 1)[0]
    recipe = recipe.replace("\\\n", " ").replace("$(LOCK)", "requirements/tfx-1.16.txt")
    image = " ".join(all_of("RUN"))
    for step in (
        r"uv build .*--build-constraints requirements/build.txt --wheel",
        r"uv pip install .*--require-hashes --no-deps --compile-bytecode .*"
        r"--build-constraints requirements/build.txt -r requirements/tfx-1.16.txt",
        r"uv pip install .*--no-deps --compile-bytecode dist/\*\.whl",
        r"/app\"? > .*site-packages.*/app\.pth",
    ):
        assert re.search(step, image), step
        assert re.search(step.replace("uv ", r"\$\(UV\) "), recipe), step
    code = re.search(r"cp -r (.+) \$\(CONTAINER\)/app/", recipe)
    assert code
    assert set(code[1].split()) == {source for source in copied() if f"{source} /app/{source}" in all_of("COPY")}


def test_slim_has_every_shared_object_that_the_lock_needs():
    """No package of the system is installed into the image; a lock that needs one would fail there and not here."""
    readelf = subprocess.run(["which", "readelf"], capture_output=True, text=True).stdout.strip()
    if not readelf:
        pytest.skip("readelf (binutils) is not there")
    folder = Path(sysconfig.get_path("purelib"))
    objects = [path for path in folder.rglob("*.so*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    assert len(objects) > 100
    dynamic = subprocess.run([readelf, "-d", *map(str, objects)], capture_output=True, text=True).stdout
    brought = {path.name for path in objects} | set(re.findall(r"Library soname: \[(.+?)\]", dynamic))
    # glibc, the C++ runtime (apt needs it) and zlib (dpkg needs it).
    slim = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}
    slim |= {"libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"}
    # Compiler plugins of LiteRT for two makers of chips; nothing here loads them.
    plugins = re.compile(r"libQnn\w+\.so|libopenvino\w*\.so\.\d+")
    needed = set(re.findall(r"Shared library: \[(.+?)\]", dynamic))
    assert not {name for name in needed - brought - slim if not plugins.fullmatch(name)}


@needs_tools
def test_the_linter_of_dockerfiles_has_no_objection():
    done = subprocess.run([str(TOOLS / "hadolint"), str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@needs_tools
def test_the_linter_finds_what_is_bad(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text() + "USER root\nRUN cd /opt && pip install something\n")
    done = subprocess.run([str(TOOLS / "hadolint"), str(bad)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert {"DL3003", "DL3013", "DL3002"} <= set(re.findall(r"\bDL\d{4}\b", done.stdout))


# --- The manifests ---------------------------------------------------------------------------------------------------

FILES = sorted(path for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATION = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [document for path in FILES for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in OBJECTS if document["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in of_kind("CronJob").items():
        yield name, job["spec"]["jobTemplate"]["spec"]["template"]


PODS = dict(pods())
#: The pipeline that the manifests run.
PIPELINE_FILE = REPOSITORY / "configs" / "digits" / "self_hosted.yaml"
PIPELINE = config_file.load(PIPELINE_FILE)


def containers() -> list[dict[str, Any]]:
    return [container for pod in PODS.values() for container in containers_of(pod["spec"])]


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_the_kustomization_lists_every_file():
    assert KUSTOMIZATION["resources"]
    assert sorted(KUSTOMIZATION["resources"]) == [path.name for path in FILES]
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "namespace", "labels", "images", "resources"}
    # One namespace, said once: a role binding that named another would grant something elsewhere.
    assert not [document for document in OBJECTS if "namespace" in document["metadata"]]
    assert not [s for b in of_kind("RoleBinding").values() for s in b["subjects"] if "namespace" in s]


def test_the_image_is_the_versions_and_the_pipelines():
    (image,) = KUSTOMIZATION["images"]
    assert {container["image"] for container in containers()} == {image["name"]}
    assert image["newTag"] == __version__, "the version has changed: change newTag in kustomization.yaml with it"
    # What the job compiles are steps in the image that it runs in.
    assert kubeflow_v2.image_of(PIPELINE) == f"{image['newName']}:{image['newTag']}"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_pipeline_takes_its_images_tag_from_the_version(path):
    assert config_file.load(path).image.endswith(":{version}")


@needs_tools
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_manifest_fits_the_schemas_of_kubernetes(path):
    done = validate(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") + done.stderr.count("passed") == len(list(yaml.safe_load_all(path.read_text())))


@needs_tools
@pytest.mark.parametrize(
    ("old", "new"),
    [("concurrencyPolicy: Forbid", "concurrencyPolicy: 3"), ("restartPolicy: Never", "restart: Never")],
)
def test_the_schemas_refuse_what_kubernetes_would(old, new, tmp_path):
    text = (MANIFESTS / "prune.yaml").read_text()
    assert old in text
    broken = tmp_path / "prune.yaml"
    broken.write_text(text.replace(old, new))
    done = validate(broken)
    assert done.returncode != 0
    assert "mobile-prune" in done.stdout + done.stderr


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    program = [str(TOOLS / "kubernetes-validate"), "--strict", str(path)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60)


def test_accounts_exist_and_are_used_by_whom_they_are_for():
    accounts = of_kind("ServiceAccount")
    assert {name: pod["spec"]["serviceAccountName"] for name, pod in PODS.items()} == {
        "mobile-retrain": "mobile-submitter",
        "mobile-prune": "mobile-retention",
    }
    assert {pod["spec"]["serviceAccountName"] for pod in PODS.values()} < set(accounts)
    readme = (KUBEFLOW / "iam" / "README.md").read_text()
    for account in accounts.values():
        (email,) = account["metadata"]["annotations"].values()
        name, _, domain = email.partition("@")
        assert domain == "example-project.iam.gserviceaccount.com"
        assert f"gcloud iam service-accounts create {name} " in readme
        assert f"[$NAMESPACE/{account['metadata']['name']}]" in readme


def test_rights_in_the_cluster_are_few_and_named():
    assert not of_kind("ClusterRole")
    assert not of_kind("ClusterRoleBinding")
    bindings, roles = of_kind("RoleBinding"), of_kind("Role")
    assert {binding["roleRef"]["name"] for binding in bindings.values()} == set(roles)
    for binding in bindings.values():
        assert binding["roleRef"]["kind"] == "Role"
        (subject,) = binding["subjects"]
        assert subject["kind"] == "ServiceAccount"
        assert subject["name"] in of_kind("ServiceAccount")
    for role in roles.values():
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if set(rule["resources"]) & {"secrets", "configmaps"}:
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]
    # Whoever deletes releases may do nothing in the cluster.
    assert "mobile-retention" not in {subject["name"] for b in bindings.values() for subject in b["subjects"]}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_keeps_the_restricted_standard(name):
    pod = PODS[name]["spec"]
    uid, gid = (int(number) for number in all_of("USER")[-1].split(":"))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"]) == (uid, gid)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"
    for container in containers_of(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == set(container["resources"]["limits"]) == {"cpu", "memory"}
        mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounted["tmp"]["mountPath"] == "/tmp"
        assert not [mount for mount in mounted.values() if mount["name"] != "tmp" and not mount.get("readOnly")]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(volumes) == {mount["name"] for container in containers_of(pod) for mount in container["volumeMounts"]}
    assert volumes["tmp"]["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("name", of_kind("CronJob"))
def test_a_job_never_overlaps_itself_and_ends(name):
    spec = of_kind("CronJob")[name]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"(\S+ ){4}\S+", spec["schedule"])
    assert spec["timeZone"]
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0


def command_of(container: dict[str, Any]) -> tuple[click.Command, str, list[str]]:
    """The command that a container runs, its name, and what it is given."""
    words = [*container["command"], *container["args"]]
    # What the image has in /app is here in the checkout.
    words = [word.replace("/app/", f"{REPOSITORY}/") for word in words]
    words = [word.replace("$(NAMESPACE)", KUSTOMIZATION["namespace"]) for word in words]
    if words[0] == "tfx-mobile":
        command = tfx_mobile_command.get_command(click.Context(tfx_mobile_command), words[1])
        assert command, f"tfx-mobile has no command {words[1]}"
        return command, words[1], words[2:]
    assert words[:2] == ["python", "-m"]
    return pytest.importorskip(words[2]).main, words[2], words[3:]


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_a_job_runs_a_command_that_exists_with_options_that_it_has(container):
    command, name, arguments = command_of(container)
    # Parses and checks every option as the command would, and runs nothing.
    context = command.make_context(name, list(arguments))
    for argument in arguments:
        path = argument.partition("=")[2]
        if path.startswith(str(REPOSITORY)):
            assert Path(path).is_file(), path
    assert context.params
    with pytest.raises(click.UsageError):
        command.make_context(name, [*arguments, "--no-such-option"])


def option(container: dict[str, Any], name: str) -> str:
    (value,) = (argument.partition("=")[2] for argument in container["args"] if argument.startswith(f"--{name}="))
    return value


def test_what_is_compiled_is_submitted_and_what_is_released_is_pruned():
    named = {container["name"]: container for container in containers()}
    assert option(named["submit"], "job") == option(named["compile"], "output")
    assert option(named["submit"], "config") == option(named["compile"], "config")
    assert option(named["submit"], "config") == f"/app/{PIPELINE_FILE.relative_to(REPOSITORY)}"
    assert PIPELINE.service_account in of_kind("ServiceAccount")
    command, name, arguments = command_of(named["prune"])
    ((destination,),) = command.make_context(name, arguments).params["destinations"]
    assert (destination,) == parse_destinations(PIPELINE.destinations)


def test_the_pipeline_of_the_manifests_is_one_that_self_hosted_kubeflow_runs(tmp_path):
    submit_kfp = pytest.importorskip("pipelines.submit_kfp")
    kubeflow_v2.compile_pipeline(PIPELINE, tmp_path / "job.json")
    arguments = [
        f"--job={tmp_path / 'job.json'}",
        f"--config={PIPELINE_FILE}",
        "--host=http://127.0.0.1:1",
        "--dry-run",
    ]
    done = CliRunner().invoke(submit_kfp.main, ["run", *arguments])
    assert done.exit_code == 0, done.output


def test_the_submitter_shows_kubeflow_the_token_that_is_mounted():
    from kfp import client

    (container,) = (c for c in containers() if c["name"] == "submit")
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    path = environment[client.KF_PIPELINES_SA_TOKEN_ENV]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] != "tmp")
    (volume,) = (v for v in PODS["mobile-retrain"]["spec"]["volumes"] if v["name"] == mount["name"])
    (source,) = volume["projected"]["sources"]
    assert path == f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def test_network_policies_select_the_jobs():
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    selected = {
        policy: {
            name
            for name, has in labels.items()
            if document["spec"]["podSelector"]["matchLabels"].items() <= has.items()
        }
        for policy, document in of_kind("NetworkPolicy").items()
    }
    assert selected == {"mobile-jobs": set(PODS), "mobile-submitter": {"mobile-retrain"}}
    policy = of_kind("NetworkPolicy")["mobile-jobs"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []


# --- The folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(path for path in KUBEFLOW.rglob("*") if path.is_file()), ids=lambda path: path.name
)
def test_nothing_looks_like_a_secret(path):
    values = list(strings(list(yaml.safe_load_all(path.read_text())))) if path.suffix == ".yaml" else []
    for text in [*path.read_text().splitlines(), *values]:
        secrets_check.refuse_secrets({"text": text})
    assert not [d for d in OBJECTS if d["kind"] == "Secret"]


def test_the_check_of_secrets_finds_one():
    with pytest.raises(SecretParameterError):
        secrets_check.refuse_secrets({"text": "-----BEGIN EC PRIVATE KEY-----"})


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, nested in value.items():
            yield from strings(key)
            yield from strings(nested)
    elif isinstance(value, list):
        for nested in value:
            yield from strings(nested)


def test_no_package_registry_is_named():
    # As in the locks: where packages come from is the business of whoever builds.
    hosts = re.compile(r"index-url|find-links|trusted-host|https?://(?!ml-pipeline)\S*(simple|packages)", re.IGNORECASE)
    for path in (DOCKERFILE, KUBEFLOW / "build.sh", *MANIFESTS.iterdir()):
        assert not hosts.search(path.read_text()), path


README = (KUBEFLOW / "README.md").read_text()


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (pipelines\.\w+)", README))))
def test_the_readme_runs_commands_that_exist(module):
    assert isinstance(pytest.importorskip(module).main, click.Command)


def test_what_the_readme_names_exists():
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README):
        assert "://" in link or (KUBEFLOW / link).exists(), link
    for target in re.findall(r"(?:`|^    )make ([a-z][\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    for command in re.findall(r"`tfx-mobile ([a-z-]+)", README):
        assert command in COMMANDS, command
    for name in (*(path.name for path in FILES), "Dockerfile", "build.sh"):
        assert name in README, name
