"""The tool's small parts: processes, cgroups, archives, keys, progress."""

import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile

import pytest

from localcluster import build, cgroups, containerd, images, inspect, layout, oci, pki, processes, progress, waiting


def test_a_process_is_known_by_more_than_its_number() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        known = processes.Process.of(child.pid)
        stranger = processes.Process(pid=child.pid, started=known.started + 1)
        assert known.alive()
        assert not stranger.alive()
        assert stranger.kill(1)
        assert child.poll() is None, "a process with another start time is not ours to kill"
        assert known.kill(5)
        assert not known.alive()
    assert known.kill(1), "what is gone is killed"


def test_children_and_namespaces_are_found() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        assert child.pid in processes.children(os.getpid())
        found = processes.in_namespace("pid", processes.namespace(child.pid, "pid"))
        assert child.pid in found.values()
        child.kill()


def test_waiting_ends_when_the_condition_holds_or_time_is_up() -> None:
    answers = iter([False, False, True])
    assert waiting.until(lambda: next(answers), timeout=5, every=0.001)
    assert not waiting.until(lambda: False, timeout=0.01, every=0.001)


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_is_made_in_every_hierarchy(tmp_path: pathlib.Path, version: int) -> None:
    hierarchies = [tmp_path] if version == 2 else [tmp_path / "cpuset", tmp_path / "memory"]
    for hierarchy in hierarchies:
        hierarchy.mkdir(exist_ok=True)
        (hierarchy / "cgroup.procs").touch()
    if version == 2:
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
        (tmp_path / "cgroup.subtree_control").touch()
    cgroups.create("/veilpod-unit", tmp_path)
    assert all((hierarchy / "veilpod-unit").is_dir() for hierarchy in hierarchies)
    (hierarchies[0] / "veilpod-unit" / "kubepods" / "pod").mkdir(parents=True)
    assert cgroups.remove("/veilpod-unit", tmp_path, timeout=1) == []
    assert not any((hierarchy / "veilpod-unit").exists() for hierarchy in hierarchies)


def test_a_cgroup_that_stays_is_reported(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    stuck = tmp_path / "veilpod-unit"
    stuck.mkdir()
    (stuck / "busy").touch()
    assert cgroups.remove("/veilpod-unit", tmp_path, timeout=0.1) == [stuck]


def test_a_static_image_is_the_same_bytes_every_time(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    for name in ("one", "two"):
        oci.write_static(tmp_path / name, "localhost/x:1", program, ["/program", "-P"])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_blob_of_a_static_image_is_what_its_name_says(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    oci.write_static(tmp_path / "archive", "localhost/x:1", program, ["/program"])
    with tarfile.open(tmp_path / "archive") as tar:
        files = {member.name: stream.read() for member in tar if (stream := tar.extractfile(member))}
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    assert all(hashlib.sha256(data).hexdigest() == name.rpartition("/")[2] for name, data in blobs.items())
    digest = oci.digests(tmp_path / "archive")["localhost/x:1"]
    manifest = json.loads(blobs[f"blobs/sha256/{digest.removeprefix('sha256:')}"])
    assert {manifest["config"]["digest"], manifest["layers"][0]["digest"], digest} == {
        f"sha256:{name.rpartition('/')[2]}" for name in blobs
    }


def test_many_archives_become_one_with_each_blob_once(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"#!")
    archives = [tmp_path / "one", tmp_path / "two"]
    for archive, name in zip(archives, ("localhost/x:1", "localhost/y:1"), strict=True):
        oci.write_static(archive, name, program, ["/program"])
    merged = tmp_path / "merged"
    with merged.open("wb") as into:
        oci.merge(archives, into)
    assert oci.digests(merged) == oci.digests(archives[0]) | oci.digests(archives[1])
    with tarfile.open(merged) as tar, tarfile.open(archives[0]) as one:
        assert sorted(tar.getnames()) == sorted(one.getnames())  # the two images differ in nothing but their names


def test_a_tar_that_is_no_oci_archive_is_refused(tmp_path: pathlib.Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
    with pytest.raises(progress.Failure, match="no OCI archive"):
        oci.digests(tmp_path / "archive")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("localhost/x:dev", "localhost/x@sha256:1"),
        ("localhost:5000/x", "localhost:5000/x@sha256:1"),
        ("localhost:5000/x:dev", "localhost:5000/x@sha256:1"),
    ],
)
def test_a_reference_by_digest_has_no_tag(reference: str, expected: str) -> None:
    assert containerd.by_digest(reference, "sha256:1") == expected


def test_a_build_sees_how_packages_are_reached_and_nothing_else_of_pips_settings() -> None:
    settings = images.pip_settings(
        {"PIP_INDEX_URL": "x", "PIP_CERT": "/here", "PIP_FIND_LINKS": "/there", "HOME": "/", "PIP_DEFAULT_TIMEOUT": "9"}
    )
    assert settings == "[global]\ndefault-timeout = 9\nindex-url = x\n"
    assert images.pip_settings({"HOME": "/"}) == ""


def test_only_certificates_with_names_are_believed_as_servers() -> None:
    for certificate in pki.CERTIFICATES:
        assert any("serverAuth" in line for line in pki.extensions(certificate)) == bool(certificate.names)


def test_certificates_verify_against_their_own_authority_and_not_the_other(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "pki"
    pki.issue_all(directory)

    def verifies(certificate: str, authority: str) -> bool:
        command = ["openssl", "verify", "-CAfile", str(directory / f"{authority}.crt"), str(directory / f"{certificate}.crt")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert verifies("admin", "ca")
    assert verifies("etcd-client", "etcd-ca")
    assert not verifies("admin", "etcd-ca"), "a certificate of the cluster must not open the database"


def test_versions_come_from_go_mod() -> None:
    assert "version.gitVersion=v1." in build.linker_flags(build.KUBE).replace(" ", "")
    assert "gitMinor=" in build.linker_flags(build.KUBE)
    with pytest.raises(ValueError, match="does not pin"):
        build.pinned(build.HELM, "example.org/nothing")


def test_a_modules_key_changes_with_its_sources_only(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "go" / "helm"
    source.mkdir(parents=True)
    (source / "go.sum").write_text("a")
    monkeypatch.setattr(layout, "SOURCES", tmp_path)
    before = build.key(build.HELM)
    (source / "x_test.go").write_text("package x")
    assert build.key(build.HELM) == before
    (source / "go.sum").write_text("b")
    assert build.key(build.HELM) != before


def test_a_failure_says_what_died_how_it_ended_and_what_is_next(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    text = str(progress.Failure("etcd died", log=log, next="try again"))
    assert text.splitlines()[0] == "etcd died"
    assert "line 99" in text
    assert "line 50" not in text
    assert text.endswith("next: try again")


def test_status_of_a_cluster_that_does_not_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layout, "BUILD", tmp_path)
    assert inspect.status("nowhere") == 3
    assert "does not run" in capsys.readouterr().out
