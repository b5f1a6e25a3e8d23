"""`tfx-mobile releases | rollback | promote | pin | unpin | prune`, and where they look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.operations import grow_old, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL, falsify_statement, manifest_of, model_bytes, tree
from tests.unit.test_operations import of_span
from tfx_mobile.cli import COMMANDS, main
from tfx_mobile.commands.destination_option import parse_destinations_text
from tfx_mobile.commands.keyring_option import keyring_of
from tfx_mobile.records import ChannelReceipt, ChannelReleases, PruneReceipt, StoreOverview
from tfx_mobile.release_store.destinations import FilesystemDestination, destinations_to_json
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.publishing import Push, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "releases"
    for seed in (1, 2, 3):
        push(root, seed)
    push(root, 4, "canary")
    return root


def run(*arguments: object, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, [str(argument) for argument in arguments])


def documents(result: Result, record: Any) -> list[Any]:
    assert result.exit_code == 0, result.output
    return [record.from_json(json.dumps(one)) for one in json.loads(result.stdout)]


def release_id(seed: int) -> str:
    return release_id_of(manifest_of(model_bytes(seed)))


# --- looking ---------------------------------------------------------------------------------------------------------


def test_the_overview_and_the_history(root: Path) -> None:
    result = run("releases", "--at", root)
    assert result.exit_code == 0, result.output
    for text in (str(root), MODEL, "canary", "production", release_id(3)[:12], release_id(4)[:12]):
        assert text in result.output
    run("rollback", MODEL, "--at", root)
    run("pin", MODEL, "1", "--at", root)
    lines = run("releases", MODEL, "--at", root).output.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()[:1].isdigit()}
    assert list(rows) == ["5", "4", "3", "2", "1"]
    assert rows["5"].split()[1] == "pin"
    assert rows["5"].rstrip().endswith("live")
    assert rows["3"].rstrip().endswith("refused")
    assert rows["1"].rstrip().endswith("pinned")
    assert "accuracy 0.99 (1)" in rows["1"]
    assert release_id(1)[:12] in rows["1"]


def test_what_is_gone_is_shown(root: Path) -> None:
    (root / manifest_of(model_bytes(1)).blob).unlink()
    (root / "releases" / MODEL / f"{release_id(2)}.json").write_bytes(b"{}")
    output = run("releases", MODEL, "--at", root).output
    assert "file gone" in output
    assert "damaged" in output
    assert f"{release_id(2)[:12]}: " in output
    falsify_statement(
        root / "channels" / MODEL / f"{CHANNEL}.json", pruning=(sha(1),), refused=(sha(8),), pinned=(sha(9),)
    )
    output = run("releases", MODEL, "--at", root).output
    assert "being pruned" in output
    assert "run one" in output
    assert f"refused, not in the history: {sha(8)[:12]}" in output
    assert f"pinned, not in the history: {sha(9)[:12]}" in output


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(root: Path, width: int) -> None:
    for arguments in (
        ("releases", "--at", root),
        ("releases", MODEL, "--at", root),
        ("rollback", MODEL, "--at", root, "--dry-run"),
        ("rollback", MODEL, "--at", root),
        ("rollback", MODEL, "--at", root),
        ("prune", MODEL, "--at", root),
    ):
        lines = [line for line in run(*arguments, width=width).output.splitlines() if str(root) not in line]
        assert max(map(len, lines)) <= width
        assert all(part in " ".join(lines) for part in ("production",))


def test_json_shapes(root: Path) -> None:
    (overview,) = documents(run("releases", "--at", root, "--json"), StoreOverview)
    assert [model.model for model in overview.models] == [MODEL]
    (history,) = documents(run("releases", MODEL, "--at", root, "--json"), ChannelReleases)
    assert [entry.version for entry in history.entries] == [3, 2, 1]
    (receipt,) = documents(run("rollback", MODEL, "--at", root, "--json", "--dry-run"), ChannelReceipt)
    assert (receipt.status, receipt.would_be, receipt.sha256) == ("dry_run", "done", sha(2))
    grow_old(root)
    (pruned,) = documents(run("prune", MODEL, "--at", root, "--keep", 1, "--json"), PruneReceipt)
    assert {one.sha256 for one in pruned.pruned} == {sha(1), sha(2)}


def test_what_a_store_says_cannot_control_the_terminal(root: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\u202e[red]x[/red]"
    data = model_bytes(6)
    manifest = manifest_of(data)
    assert manifest.evaluation is not None
    evaluation = manifest.evaluation.model_copy(update={"variant": {evil: 0.5}})
    hostile = manifest.model_copy(update={"variant": evil, "evaluation": evaluation})
    publish(FilesystemStore(str(root)), Push(hostile, data, CHANNEL))
    (root / "releases" / MODEL / f"{release_id(3)}.json").write_bytes(evil.encode())
    (root / "channels" / MODEL / "broken.json").write_bytes(b'{"payloadType": "' + evil.encode() + b'"}')
    for arguments in (
        ("releases", MODEL),
        ("releases",),
        ("releases", MODEL, "--json"),
        ("rollback", MODEL, "--to", "3"),
    ):
        result = run(*arguments, "--at", root, width=400)
        assert not set(result.output) & set("\x1b\x07\u202e"), arguments
    assert "[red]x[/red]" in run("releases", MODEL, "--at", root, width=400).output
    for command in ("rollback", "unpin"):
        result = run(command, MODEL, "--at", root, *(("--to", evil) if command == "rollback" else (evil,)))
        assert result.exit_code == 1
        assert not set(result.output) & set("\x1b\x07\u202e")


# --- acting ----------------------------------------------------------------------------------------------------------


def test_rollback_and_back(root: Path) -> None:
    before = tree(root)
    result = run("rollback", MODEL, "--at", root, "--dry-run")
    assert (result.exit_code, tree(root)) == (0, before)
    assert "would roll back" in result.output
    assert "nothing was written" in result.output
    result = run("rollback", MODEL, "--at", root)
    assert result.exit_code == 0
    for text in ("rolled back", "version 4", release_id(2)[:12], f"{release_id(3)[:12]}, refused until"):
        assert text in result.output
    result = run("rollback", MODEL, "--at", root)
    assert result.exit_code == 0
    assert "nothing to do" in result.output
    assert "to go back further" in result.output
    assert statement_of(root).version == 4
    result = run("unpin", MODEL, "3", "--at", root)
    assert (result.exit_code, "unpinned" in result.output) == (0, True)
    assert "neither pinned nor refused" in run("unpin", MODEL, "3", "--at", root).output
    result = run("promote", MODEL, "--at", root)
    assert (result.exit_code, "promoted" in result.output) == (0, True)
    assert statement_of(root).sha256 == sha(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollback", "nosuch"), "Nothing was published to"),
        (("rollback", MODEL, "--to", "77"), "names no release '77'"),
        (("rollback", MODEL, "--channel", "canary"), "could be gone back to"),
        (("releases", MODEL, "--channel", "beta"), "Nothing was published to"),
        (("promote", MODEL, "--from", "beta"), "Nothing was published to"),
        (("pin", MODEL, "ffffffff"), "names no release"),
        (("unpin", MODEL, "ffffffff"), "nothing that"),
        (("prune", "nosuch"), "nothing says what is in use"),
    ],
)
def test_what_is_refused_is_said_on_stderr(root: Path, arguments: tuple[str, ...], message: str) -> None:
    before = tree(root)
    for options in ((), ("--json",)):
        result = CliRunner().invoke(main, [*arguments, "--at", str(root), *options])
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert message in result.stderr
        assert result.stdout in ("", "[]\n")
    assert tree(root) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollback", "no/model"), "is not valid"),
        (("rollback", MODEL, "--channel", "Production"), "is not valid"),
        (("rollback", MODEL, "--at", "s3://bucket"), "is no destination"),
        (("promote", MODEL, "--from", "canary", "--to", "canary"), "to itself"),
        (("prune",), "Give MODEL, or --all"),
        (("prune", MODEL, "--all"), "Give MODEL, or --all"),
        (("prune", MODEL, "--keep", "0"), "keep"),
        (("prune", MODEL, "--grace-days", "0"), "grace-days"),
        (("unpin", MODEL), "Missing argument"),
        (("nosuch",), "No such command"),
    ],
)
def test_wrong_usage(root: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, "--at", root)
    assert result.exit_code == 2
    assert message in result.output


def test_without_a_destination() -> None:
    result = run("releases", MODEL)
    assert result.exit_code == 2
    assert "--at" in result.output


def test_a_release_of_an_older_run_is_not_promoted(tmp_path: Path) -> None:
    store = FilesystemStore(str(tmp_path))
    publish(store, of_span(1, 1, "canary"))
    publish(store, of_span(2, 2))
    for options in ((), ("--dry-run",), ("--json",)):
        result = CliRunner().invoke(main, ["promote", MODEL, "--at", str(tmp_path), *options])
        assert result.exit_code == 1
        assert "Error: production of digits" in result.stderr
        assert "newer run" in result.stderr
    assert statement_of(tmp_path).version == 1


def test_prune(root: Path) -> None:
    push(root, 1, model_name="faces")
    push(root, 2, model_name="faces")
    grow_old(root)
    before = tree(root)
    result = run("prune", MODEL, "--at", root, "--keep", 1, "--dry-run")
    assert (result.exit_code, tree(root)) == (0, before)
    for text in ("would prune", "to delete", "2 models", sha(1)[:12], sha(2)[:12]):
        assert text in result.output
    result = run("prune", MODEL, "--at", root, "--keep", 1)
    assert (result.exit_code, "pruned" in result.output) == (0, True)
    assert "nothing to do" in run("prune", MODEL, "--at", root, "--keep", 1).output
    assert len(list((root / "blobs" / "faces").glob("*.tflite"))) == 2
    # One model that cannot be pruned does not keep the others from it.
    (root / "channels" / MODEL / "broken.json").write_bytes(b"{}")
    result = CliRunner().invoke(main, ["prune", "--all", "--at", str(root), "--keep", "1"])
    assert result.exit_code == 1
    assert f"Error: {MODEL} at {root}: " in result.stderr
    assert "faces" in result.stdout
    assert len(list((root / "blobs" / "faces").glob("*.tflite"))) == 1


def test_several_destinations(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for seed in (1, 2, 3):
        push(other, seed)
    receipts = documents(run("rollback", MODEL, "--at", root, "--at", other, "--json"), ChannelReceipt)
    assert [(receipt.destination, receipt.status) for receipt in receipts] == [
        (str(root), "done"),
        (str(other), "done"),
    ]
    push(other, 5)
    before = tree(tmp_path)
    result = run("rollback", MODEL, "--at", root, "--at", other)
    assert result.exit_code == 0  # one was rolled back already, the other goes to the same
    assert tree(root) == {
        name.removeprefix("releases/"): data for name, data in before.items() if name.startswith("releases/")
    }


# --- keys ------------------------------------------------------------------------------------------------------------


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_trusted_keys_are_required(root: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(pem_of(key))
    assert keyring_of([tmp_path / "key.pem"]).trusted is not None
    for command in ("releases", "rollback"):
        result = run(command, MODEL, "--at", root, "--trusted-key", tmp_path / "key.pem")
        assert result.exit_code == 1
        assert "no valid signature of a trusted key" in result.output


def test_a_private_key_is_not_a_trusted_key(root: Path, tmp_path: Path) -> None:
    secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(secret)
    result = run("releases", MODEL, "--at", root, "--trusted-key", tmp_path / "key.pem")
    assert result.exit_code == 2
    assert "Give the public half" in result.output
    assert secret.decode().splitlines()[1] not in result.output
    assert secret.splitlines()[1].decode() not in result.output


# --- where -----------------------------------------------------------------------------------------------------------


def test_every_form_of_a_destination(tmp_path: Path) -> None:
    folder = FilesystemDestination(base_directory=str(tmp_path))
    file = tmp_path / "destinations.json"
    file.write_text(destinations_to_json([folder, FilesystemDestination(base_directory="/other")]))
    assert parse_destinations_text(str(tmp_path)) == (folder,)
    assert parse_destinations_text(f'{{"type": "filesystem", "base_directory": "{tmp_path}"}}') == (folder,)
    assert parse_destinations_text(f"@{file}")[0] == folder
    assert len(parse_destinations_text(file.read_text())) == 2
    assert parse_destinations_text("relative/folder")[0].model_dump()["base_directory"] == "relative/folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no destination; give a folder"),
        ("s3://bucket/x", "is no destination; give a folder, gs://BUCKET/PREFIX"),
        ("gs://", "is no destination"),
        ("{", "is not JSON"),
        ('{"type": "ftp"}', "Unknown destination"),
        ('{"type": "filesystem"}', "base_directory"),
        ("[]", "at least one"),
        ("@/nowhere.json", "is not a regular file"),
    ],
)
def test_what_is_no_destination(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_destinations_text(text)


def test_a_file_that_holds_no_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a folder")
    with pytest.raises(ValueError, match="holds no JSON"):
        parse_destinations_text(f"@{tmp_path / 'file'}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a regular file"):
        parse_destinations_text(f"@{tmp_path / 'pipe'}")


# --- the table of commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {name}" in result.output
    assert f"  {name} " in run("--help").output


def test_help_stays_light() -> None:
    heavy = "('tensorflow', 'tfx', 'apache_beam', 'numpy', 'pydantic', 'rich', 'cryptography', 'flatbuffers')"
    code = (
        "import sys; from tfx_mobile.cli import main; main(['--help'], standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.endswith(
        "[]\n"
    )


def test_looking_needs_neither_tfx_nor_tensorflow(root: Path) -> None:
    heavy = "('tensorflow', 'tfx', 'apache_beam', 'numpy')"
    code = (
        "import sys; from tfx_mobile.cli import main; "
        f"main(['rollback', 'digits', '--at', {str(root)!r}], standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.endswith(
        "[]\n"
    )


def test_a_real_process(root: Path) -> None:
    command = [sys.executable, "-c", "from tfx_mobile.cli import main; main()"]
    done = subprocess.run([*command, "rollback", MODEL, "--at", root], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rolled back")
    refused = subprocess.run([*command, "rollback", MODEL, "--to", "9", "--at", root], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: ")
    # Through a pipe nothing is cut or broken into two lines.
    deep = root / ("d" * 120)
    push(deep, 1)
    unset = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    listed = subprocess.run([*command, "releases", MODEL, "--at", deep], capture_output=True, text=True, env=unset)
    assert str(deep) in listed.stdout
    assert "\x1b" not in listed.stdout
