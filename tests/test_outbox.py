"""Results appear in the outbox whole, or not at all."""

import hashlib
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.outbox import find_result, publish, read_manifest, remove_partials


def fill(staging: Path) -> None:
    (staging / "adapter").mkdir()
    (staging / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (staging / "labels.txt").write_text("rows")


def publish_it(outbox: Path, *, job_uuid: str = "u") -> Path:
    return publish(outbox, "0001-a", job_uuid=job_uuid, fill=fill, facts=lambda: {"job_uuid": job_uuid})


def test_the_manifest_names_every_other_file_with_its_hash(tmp_path: Path):
    files = {entry["path"]: entry for entry in read_manifest(publish_it(tmp_path))["files"]}
    assert set(files) == {"adapter/adapter_model.safetensors", "labels.txt"}
    weights = files["adapter/adapter_model.safetensors"]
    assert weights["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (weights["bytes"], weights["push"]) == (7, True)


def test_rows_never_leave(tmp_path: Path):
    files = {entry["path"]: entry["push"] for entry in read_manifest(publish_it(tmp_path))["files"]}
    assert files["labels.txt"] is False


def test_nothing_is_visible_while_it_is_being_filled(tmp_path: Path):
    def look(staging: Path) -> None:
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
        fill(staging)

    publish(tmp_path, "0001-a", job_uuid="u", fill=look, facts=dict)
    assert [path.name for path in tmp_path.iterdir()] == ["0001-a"]


def test_a_second_time_changes_nothing(tmp_path: Path):
    first = publish_it(tmp_path)
    manifest = (first / "manifest.json").stat().st_mtime_ns
    assert publish_it(tmp_path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == manifest


def test_another_jobs_result_is_never_replaced(tmp_path: Path):
    publish_it(tmp_path)
    with pytest.raises(ApplianceError, match="not of this job"):
        publish_it(tmp_path, job_uuid="other")
    assert read_manifest(tmp_path / "0001-a")["job_uuid"] == "u"


def test_what_a_crash_left_half_done_is_begun_anew(tmp_path: Path):
    (tmp_path / ".0001-a.partial" / "rubbish").mkdir(parents=True)
    assert not (publish_it(tmp_path) / "rubbish").exists()


def test_only_partials_of_ours_are_cleared_away(tmp_path: Path):
    (tmp_path / ".0002-b.partial").mkdir()
    (tmp_path / ".somebody.partial").mkdir()
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".somebody.partial"]


def test_a_result_is_found_whatever_its_outcome(tmp_path: Path):
    (tmp_path / "0001-a.failed").mkdir()
    (tmp_path / "0001-ab").mkdir()
    assert find_result(tmp_path, "0001-a") == tmp_path / "0001-a.failed"
    assert find_result(tmp_path, "0002-a") is None
