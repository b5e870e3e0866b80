"""Job files: takeover, publication, removal, quota and a full disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from jobs.disk import open_regular, replace, room, size_of
from jobs.errors import JobFailed, NotFound, StorageFull
from jobs.incoming import Incoming
from jobs.storage import Fenced, Storage, new_id, part_id


@pytest.fixture
def storage(data_dir: Path) -> Storage:
    storage = Storage(data_dir)
    storage.prepare()
    return storage


def adopted(storage: Storage) -> str:
    job_id = new_id()
    upload = storage.uploads / "x.part"
    upload.write_bytes(b"video")
    storage.adopt(upload, job_id)
    return job_id


def test_adopt_moves_the_upload(storage: Storage) -> None:
    job_id = adopted(storage)
    assert storage.input_path(job_id).read_bytes() == b"video"
    assert list(storage.uploads.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc", "ABC", "0" * 15, "a/b" * 10, "0" * 24 + "\n"])
def test_malformed_ids_are_not_found(storage: Storage, name: str) -> None:
    with pytest.raises(NotFound):
        storage.input_path(name)


def test_a_higher_token_takes_the_working_folder_over(storage: Storage) -> None:
    job_id = adopted(storage)
    old = storage.take_work(job_id, 3)
    (old / "manifest.json").write_text("{}")
    new = storage.take_work(job_id, 7)
    assert (new / "manifest.json").exists()
    assert not old.exists()
    assert storage.take_work(job_id, 7) == new, "a repeated call succeeds"
    with pytest.raises(FileNotFoundError):
        (old / "segment").write_bytes(b"")
    with pytest.raises(Fenced):
        storage.take_work(job_id, 3)


def test_only_the_owner_of_the_working_folder_publishes(storage: Storage) -> None:
    job_id = adopted(storage)
    old = storage.take_work(job_id, 1)
    (old / "result.mp4").write_bytes(b"old")
    new = storage.take_work(job_id, 2)
    with pytest.raises(Fenced):
        storage.publish(old / "result.mp4", job_id)
    assert not storage.result_path(job_id).exists()
    (new / "result.mp4").write_bytes(b"new")
    storage.publish(new / "result.mp4", job_id)
    assert storage.result_path(job_id).read_bytes() == b"new"
    storage.remove_work(job_id, 1)
    assert new.exists(), "the folder belongs to another worker"
    storage.remove_work(job_id, 2)
    assert not new.exists()
    storage.remove_work(job_id)


def test_the_result_keeps_the_suffix_of_its_container(storage: Storage) -> None:
    job_id = adopted(storage)
    work = storage.take_work(job_id, 1)
    (work / "result.mkv").write_bytes(b"x")
    storage.publish(work / "result.mkv", job_id)
    assert storage.result_path(job_id) == storage.job_dir(job_id) / "result.mkv"


def test_a_removed_job_fences_its_worker(storage: Storage) -> None:
    job_id = adopted(storage)
    work = storage.take_work(job_id, 1)
    (work / "result.mp4").write_bytes(b"x")
    storage.remove(job_id)
    storage.remove(job_id)
    assert storage.folders() == {}
    with pytest.raises(Fenced):
        storage.publish(work / "result.mp4", job_id)
    with pytest.raises(Fenced):
        storage.take_work(job_id, 2)


def test_errors_name_the_quota_and_the_free_space_setting(storage: Storage) -> None:
    adopted(storage)
    assert storage.used() == 5 == size_of(storage.root)
    storage.check_room(10**6)
    storage.quota = 10**6
    with pytest.raises(StorageFull, match="SKIPVSR_QUOTA_GB"):
        storage.check_room(10**6)
    storage.quota, storage.min_free = 0, 10**18
    with pytest.raises(StorageFull, match="SKIPVSR_MIN_FREE_GB"):
        storage.check_room(0)


def test_concurrent_uploads_never_share_the_same_space(storage: Storage) -> None:
    storage.prepare()
    storage.quota = 30 << 20
    first = Incoming(storage, storage.uploads / "first.part", 20 << 20)
    with pytest.raises(StorageFull, match="SKIPVSR_QUOTA_GB"):
        Incoming(storage, storage.uploads / "second.part", 24 << 20)
    unknown = Incoming(storage, storage.uploads / "third.part", 0)
    unknown.write(bytes(1 << 20))
    first.write(bytes(20 << 20))
    with pytest.raises(StorageFull, match="SKIPVSR_QUOTA_GB"):
        unknown.write(bytes(10 << 20))
    for incoming in (first, unknown):
        incoming.close()
    assert first.path.stat().st_size == 20 << 20
    unknown.path.unlink()
    storage.check_room(10 << 20)


def test_announced_bytes_are_reserved_as_they_arrive(storage: Storage) -> None:
    """A step at first, and later as much again as has arrived."""
    storage.prepare()
    storage.quota = 100 << 20
    incoming = Incoming(storage, storage.uploads / "first.part", 60 << 20)
    try:
        storage.check_room(92 << 20)
        incoming.write(bytes(20 << 20))
        storage.check_room(60 << 20)
        with pytest.raises(StorageFull):
            storage.check_room(61 << 20)
        incoming.write(bytes(21 << 20))
        with pytest.raises(StorageFull):
            storage.check_room(41 << 20)
    finally:
        incoming.close()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "over its quota"), (errno.EROFS, "read-only")]
)
def test_only_errors_about_space_become_storage_full(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StorageFull, match=words), room(tmp_path):
        raise OSError(number, "no")
    with pytest.raises(OSError, match="no"), room(tmp_path):
        raise OSError(errno.EIO, "no")


def test_a_full_disk_raises_storage_full() -> None:
    full = Path("/dev/full")
    with pytest.raises(StorageFull, match="is full"), room(full), full.open("wb", buffering=0) as file:
        file.write(b"x")


def test_replace_renames_a_whole_file(tmp_path: Path) -> None:
    part, final = tmp_path / "a.part", tmp_path / "a"
    final.write_text("old")
    part.write_text("new")
    replace(part, final)
    assert final.read_text() == "new"
    assert not part.exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "socket"])
def test_only_regular_files_are_adopted_published_and_opened(storage: Storage, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    job_id = adopted(storage)
    result = storage.take_work(job_id, 1) / "result.mp4"
    match kind:
        case "link":
            result.symlink_to(secret)
        case "dangling link":
            result.symlink_to(tmp_path / "nothing")
        case "pipe":
            os.mkfifo(result)
        case "folder":
            result.mkdir()
        case _:
            os.mknod(result, stat.S_IFSOCK | 0o600)
    with pytest.raises(JobFailed, match="no regular file"):
        storage.publish(result, job_id)
    with pytest.raises(JobFailed, match="no regular file"):
        storage.adopt(result, new_id())
    with pytest.raises(JobFailed, match="no regular file"):
        open_regular(result)
    assert not storage.result_path(job_id).exists()


def test_a_folder_that_is_a_link_opens_no_file(storage: Storage, tmp_path: Path) -> None:
    job_id = adopted(storage)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "result.mp4").write_bytes(b"secret")
    with open_regular(storage.input_path(job_id)) as file:
        assert file.read() == b"video"
    storage.remove(job_id)
    storage.job_dir(job_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JobFailed, match="no regular file"):
        open_regular(storage.result_path(job_id))


def test_parts_have_working_folders_of_their_own_which_end_with_the_job(storage: Storage) -> None:
    job_id = adopted(storage)
    parts = storage.parts(job_id)
    parts.begin(part_id(1))
    parts.begin(part_id(1))
    work = parts.take_work(part_id(1), 4)
    (work / "manifest.json").write_text("{}")
    assert storage.last_token(job_id) == 0
    taken = storage.parts(job_id).take_work(part_id(1), 5)
    assert (taken / "manifest.json").exists()
    assert not work.exists()
    assert storage.job_ids() == {job_id}
    storage.take_work(job_id, 6)
    storage.remove_work(job_id, 6)
    assert taken.exists(), "another worker may need the parts"
    storage.remove_work(job_id)
    assert {path.name for path in storage.job_dir(job_id).iterdir()} == {"input"}
    parts.begin(part_id(2))
    storage.remove(job_id)
    for call in (lambda: parts.begin(part_id(2)), lambda: parts.take_work(part_id(2), 7)):
        with pytest.raises(Fenced):
            call()
    assert not storage.job_dir(job_id).exists()
