"""Job files in a bucket of a real S3 server: takeover, fence, publication, removal, outages."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.bucket import Bucket, Changed
from jobs.errors import NotFound, StorageFull, StorageUnavailable
from jobs.ledger import Filed, Ledger, Piece
from jobs.object_storage import ObjectStorage
from jobs.settings import Settings
from jobs.storage import Fenced, new_id, part_id
from jobs.storages import open_storage
from tests.support.s3_server import S3Server, proxy
from tests.support.stored import content


@pytest.fixture
def machines(server: S3Server, base: Settings, tmp_path: Path) -> list[ObjectStorage]:
    """Two machines with data folders of their own."""
    server.empty()
    found = [open_storage(server.settings(base, tmp_path / name)) for name in ("one", "two")]
    for each in found:
        each.prepare()
    assert all(isinstance(each, ObjectStorage) for each in found)
    return found  # type: ignore[return-value]


def adopted(storage: ObjectStorage, content: bytes = b"video") -> str:
    job_id = new_id()
    upload = storage.uploads / f"{job_id}.part"
    upload.write_bytes(content)
    storage.adopt(upload, job_id)
    return job_id


def test_the_server_keeps_its_conditions(server: S3Server, base: Settings, machines: list[ObjectStorage]) -> None:
    bucket = Bucket.from_settings(server.settings(base, base.data_dir))
    bucket.check()
    etag = bucket.put("a", b"1", new=True)
    with pytest.raises(Changed):
        bucket.put("a", b"2", new=True)
    bucket.put("a", b"2", replaces=etag)
    with pytest.raises(Changed):
        bucket.put("a", b"3", replaces=etag)
    bucket.delete("a", "b")
    with pytest.raises(Changed):
        bucket.put("a", b"3", replaces=etag)
    with pytest.raises(FileNotFoundError):
        bucket.get("a")


def test_another_machine_reads_the_input(machines: list[ObjectStorage]) -> None:
    here, there = machines
    data = bytes(range(256)) * 40_000  # more than one block and one part
    job_id = adopted(here, data)
    assert there.fetch_input(job_id).read_bytes() == data
    assert content(there.input(job_id)) == data
    assert content(there.input(job_id), 5 << 20, (5 << 20) + 3) == data[5 << 20 :][:3]
    assert there.job_ids() == {job_id}
    assert there.result(job_id) is None


def test_a_checkpoint_is_taken_over(machines: list[ObjectStorage]) -> None:
    here, there = machines
    job_id = adopted(here)
    mine = here.take_work(job_id, 3)
    (mine / "manifest.json").write_text("1")
    (mine / "segment-000000.mp4").write_bytes(b"segment")
    (mine / "state-000001.safetensors").write_bytes(b"old state")
    (mine / "figures.jsonl").write_bytes(b"a\n")
    here.save(job_id, mine)
    (mine / "manifest.json.part").write_text("2")
    (mine / "manifest.json.part").replace(mine / "manifest.json")
    (mine / "state-000001.safetensors").unlink()
    (mine / "state-000002.safetensors").write_bytes(b"new state")
    with (mine / "figures.jsonl").open("ab") as file:
        file.write(b"bb\n")
    here.save(job_id, mine)
    (mine / "segment-000001.mp4").write_bytes(b"of an unfinished chunk")
    taken = there.take_work(job_id, 7)
    assert {path.name: path.read_bytes() for path in taken.iterdir()} == {
        "manifest.json": b"2",
        "segment-000000.mp4": b"segment",
        "state-000002.safetensors": b"new state",
        "figures.jsonl": b"a\nbb\n",
    }
    assert there.last_token(job_id) == here.last_token(job_id) == 7
    before = {found.key for found in here._bucket.objects("files/")}
    with pytest.raises(Fenced):
        here.save(job_id, mine)
    assert {found.key for found in here._bucket.objects("files/")} == before, "the loser takes its objects back"
    (mine / "result.mp4").write_bytes(b"result of the loser")
    with pytest.raises(Fenced):
        here.publish(mine / "result.mp4", job_id)
    assert not here.write_record(job_id, "{}", through=mine)
    with pytest.raises(Fenced):
        here.take_work(job_id, 3)
    assert there.result(job_id) is None
    again = there.take_work(job_id, 8)
    assert (again / "figures.jsonl").read_bytes() == b"a\nbb\n", "the loser changed nothing"
    assert not taken.exists(), "the folder of the last worker of this machine"


def test_files_that_grow_have_few_pieces(machines: list[ObjectStorage]) -> None:
    here, there = machines
    job_id = adopted(here)
    mine = here.take_work(job_id, 1)
    for number in range(40):
        with (mine / "figures.jsonl").open("ab") as file:
            file.write(b"%04d\n" % number)
        here.save(job_id, mine)
    ledger = here._ledgers.read(job_id)
    assert ledger is not None
    assert len(ledger.work["figures.jsonl"].pieces) <= 6
    objects = [found.key for found in here._bucket.objects(f"files/{job_id}/")]
    assert len(objects) == len(ledger.pieces()), "replaced pieces are deleted"
    expected = b"".join(b"%04d\n" % number for number in range(40))
    assert (there.take_work(job_id, 2) / "figures.jsonl").read_bytes() == expected


def test_result_and_figures_appear_in_one_step(machines: list[ObjectStorage]) -> None:
    here, there = machines
    job_id = adopted(here)
    mine = here.take_work(job_id, 1)
    names = ("result.mkv", "figures.jsonl", "skipmap.bin")
    for name in names:
        (mine / name).write_bytes(name.encode())
    here.publish(mine / names[0], job_id, also=[mine / name for name in names[1:]])
    result = there.result(job_id)
    assert result is not None
    assert (result.name, content(result)) == ("result.mkv", b"result.mkv")
    assert there.on_disk(job_id, result).read_bytes() == b"result.mkv"
    (folder,) = there.figures_folders(job_id)
    assert {path.name for path in folder.iterdir()} == set(names[1:])
    here.remove_work(job_id)
    assert not here.job_dir(job_id).exists()
    there.remove_file(job_id, result)
    assert here.result(job_id) is None
    assert content(here.input(job_id)) == b"video"


def test_a_removed_job_fences_its_worker_and_leaves_nothing(machines: list[ObjectStorage]) -> None:
    here, there = machines
    job_id = adopted(here)
    mine = here.take_work(job_id, 1)
    there.remove(job_id)
    there.remove(job_id)
    (mine / "result.mp4").write_bytes(b"x")
    with pytest.raises(Fenced):
        here.publish(mine / "result.mp4", job_id)
    with pytest.raises(Fenced):
        here.take_work(job_id, 2)
    assert there.job_ids() == set()
    assert list(there._bucket.objects("")) == []
    there._bucket.put(f"files/{job_id}/0-input", b"of a process that died before its next step")
    entries = {entry.job_id: entry for entry in there.entries()}
    assert entries[job_id].changed() > 0
    entries[job_id].remove()
    assert list(there._bucket.objects("")) == []


def test_the_janitor_spares_the_files_in_use(machines: list[ObjectStorage]) -> None:
    here, _ = machines
    job_id = adopted(here)
    here.fetch_input(job_id)
    (scratch,) = [entry for entry in here.leftovers() if entry.name == job_id]
    in_use = scratch.changed()
    here.leave(job_id)
    left = scratch.changed()
    assert left == scratch.changed() <= in_use
    assert in_use < scratch.changed() + 60
    assert scratch.job_id == ""
    scratch.remove()
    assert not here.job_dir(job_id).exists()
    assert here.fetch_input(job_id).read_bytes() == b"video"


def test_records_are_written_once_or_over_what_was_read(machines: list[ObjectStorage]) -> None:
    here, there = machines
    job_id = adopted(here)
    assert here.read_record(job_id) is None
    assert here.write_record(job_id, "1", replaces=None)
    assert not there.write_record(job_id, "2", replaces=None)
    assert not there.write_record(job_id, "2", replaces=b"0")
    assert there.write_record(job_id, "2", replaces=b"1")
    there.survey()
    assert there.read_record(job_id) == b"2"
    assert here.write_record(job_id, "3")
    assert there.read_record(job_id) == b"2", "as of the survey"
    assert not there.write_record(job_id, "4", replaces=b"2")
    there.survey()
    assert there.read_record(job_id) == b"3"
    assert not here.write_record(new_id(), "1")


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc", "ABC", "0" * 15, "a/b" * 10, "0" * 24 + "\n", "0" * 20 + "/../x"]
)
def test_no_id_leaves_the_prefix(machines: list[ObjectStorage], name: str) -> None:
    here = machines[0]
    upload = here.uploads / "x.part"
    upload.write_bytes(b"video")
    for call in (here.input, here.result, here.holds, here.fetch_input, here.remove, here.last_token):
        with pytest.raises(NotFound):
            call(name)
    with pytest.raises(NotFound):
        here.adopt(upload, name)
    with pytest.raises(NotFound):
        here.take_work(name, 1)
    assert here.read_record(name) is None
    assert list(here._bucket.objects("")) == []


@pytest.mark.parametrize("name", ["../input", "a/b", "/etc/passwd", ".lock", "", "x" * 200, "a\nb"])
def test_no_ledger_leaves_a_folder(machines: list[ObjectStorage], name: str) -> None:
    here = machines[0]
    job_id = adopted(here)
    evil = (
        Ledger(token=1)
        .model_dump_json()
        .replace('"work":{}', '"work":{"NAME":{"pieces":[{"key":"KEY","size":1}],"modified":0}}')
    )
    for text in (evil.replace("NAME", "x").replace("KEY", name), evil.replace("NAME", name).replace("KEY", "x")):
        here._bucket.put(f"jobs/{job_id}.json", text.replace("\n", "\\n").encode())
        with pytest.raises(Fenced):
            here.take_work(job_id, 2)


def test_copies_stay_within_their_limit(server: S3Server, base: Settings, machines: list[ObjectStorage]) -> None:
    ids = [adopted(machines[0], bytes(400)) for _ in range(3)]
    small = open_storage(server.settings(base, base.data_dir / "small").model_copy(update={"cache_gb": 1000e-9}))
    small.prepare()
    for job_id in ids:
        stored = small.input(job_id)
        assert stored is not None
        assert small.on_disk(job_id, stored).stat().st_size == 400
    kept = [path.name for path in (base.data_dir / "small" / "cache").iterdir()]
    assert sorted(kept) == sorted(ids[1:])
    large = machines[0].input(adopted(machines[0], bytes(1001)))
    assert large is not None
    with pytest.raises(StorageFull):
        small.on_disk(ids[0], large)


def test_an_outage_is_reported_and_passes(server: S3Server, base: Settings, machines: list[ObjectStorage]) -> None:
    with proxy(server.port) as way:
        far = open_storage(server.settings(base, base.data_dir / "far", way.port))
        far.prepare()
        assert isinstance(far, ObjectStorage)
        job_id = adopted(far)
        mine = far.take_work(job_id, 1)
        (mine / "manifest.json").write_text("1")
        way.cut()
        for call in (far.check, lambda: far.save(job_id, mine), lambda: far.input(job_id), lambda: adopted(far)):
            with pytest.raises(StorageUnavailable):
                call()
        way.mend()
        far.check()
        far.save(job_id, mine)
        assert machines[1].take_work(job_id, 2).joinpath("manifest.json").read_text() == "1"


def test_filed_size_is_that_of_all_pieces() -> None:
    assert Filed(pieces=[Piece(key="a", size=2), Piece(key="b", size=3)], modified=0).size == 5


def test_a_commit_whose_answer_was_lost_stays(machines: list[ObjectStorage], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker's write arrives, its answer does not, and another worker takes the job over at once."""
    here, there = machines
    job_id = adopted(here)
    mine = here.take_work(job_id, 1)
    (mine / "manifest.json").write_text("1")
    put = Bucket.put

    def unanswered(self: Bucket, key: str, *args: object, **conditions: object) -> str:
        etag = put(self, key, *args, **conditions)  # type: ignore[arg-type]
        if key.startswith("jobs/"):
            monkeypatch.setattr(Bucket, "put", put)
            there.take_work(job_id, 2)
            raise Changed
        return etag

    monkeypatch.setattr(Bucket, "put", unanswered)
    with pytest.raises(Fenced):
        here.save(job_id, mine)
    assert (there.take_work(job_id, 3) / "manifest.json").read_text() == "1"


def test_parts_travel_between_machines_and_end_with_the_job(
    server: S3Server, base: Settings, machines: list[ObjectStorage]
) -> None:
    one, two = machines
    job_id = adopted(one)
    lead, helper = one.parts(job_id), two.parts(job_id)
    lead.begin(part_id(1))
    work = helper.take_work(part_id(1), 4)
    (work / "segment-000000.mp4").write_bytes(b"frames")
    helper.save(part_id(1), work)
    taken = lead.take_work(part_id(1), 5)
    assert (taken / "segment-000000.mp4").read_bytes() == b"frames"
    (work / "segment-000001.mp4").write_bytes(b"late")
    with pytest.raises(Fenced):
        helper.save(part_id(1), work)
    helper.leave(part_id(1))
    lead.leave(part_id(1))
    assert one.job_ids() == {job_id}
    folder = one.take_work(job_id, 6)
    assert taken.exists(), "a takeover of the job leaves the parts"
    (folder / "manifest.json").write_text("{}")
    one.save(job_id, folder)
    one.remove_work(job_id)
    bucket = Bucket.from_settings(server.settings(base, base.data_dir))
    assert len(list(bucket.objects("files/"))) == 1, "the input alone"
    lead.begin(part_id(1))
    one.remove(job_id)
    with pytest.raises(Fenced):
        helper.take_work(part_id(1), 9)
    assert not list(bucket.objects("files/"))
