"""`python -m benchmarks.footage`: a row a file, right values checked, a time limit."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

from benchmarks.footage.boxes import mp4_facts
from benchmarks.footage.differences import differences
from benchmarks.footage.facts import as_plain, file_facts
from benchmarks.footage.job import Outcome, run_file
from benchmarks.footage.kinds import Check, checks, judge, kinds
from benchmarks.footage.measures import _MEASURES, measured
from tests.support.media import write_clip
from tests.support.paths import ROOT


def _sound(target):
    return [(target.add_stream("aac", rate=48000, layout="mono"), 4800)]


def test_the_command_writes_a_row_for_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_clip(folder / "good.mkv", tone=_sound)
    (folder / "bad.mp4").write_bytes(b"no video")
    call = [sys.executable, "-m", "benchmarks.footage", str(folder), "--json", str(tmp_path / "out.json")]
    done = subprocess.run([*call, "--md", str(tmp_path / "out.md")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bad, good = json.loads((tmp_path / "out.json").read_text())["files"]
    assert (bad["name"], bad["state"], good["state"]) == ("bad.mp4", "refused", "done")
    assert bad["message"].startswith("UnsupportedFile")
    assert good["source"]["picture"]["frames"] == good["result"]["picture"]["frames"] == 12
    assert good["source"]["offset_ms"] == good["result"]["offset_ms"] == 79
    assert not any("frames" in line or "moved" in line for line in good["differences"])
    assert "good.mkv | done (mp4, h264) | 12 → 12 |" in (tmp_path / "out.md").read_text()


def test_a_file_that_takes_too_long_is_a_row(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", times=range(400))
    outcome = run_file(source, {}, [], seconds=0.2)
    assert outcome.state == "timeout"
    assert outcome.seconds < 5


def test_facts_of_a_file(tmp_path: Path) -> None:
    facts = file_facts(write_clip(tmp_path / "in.mp4", tone=_sound), decode=True)
    assert facts.picture is not None
    assert facts.picture.times == [Fraction(n, 25) for n in range(12)]
    assert facts.picture.end == Fraction(12, 25)
    assert facts.offset == facts.heard_offset == Fraction(78, 1000)
    assert facts.boxes["tracks"][0]["sample_entry"] == "avc1"
    assert mp4_facts(write_clip(tmp_path / "in.mkv")) == {}


def test_differences_name_what_was_lost(tmp_path: Path) -> None:
    before = as_plain(file_facts(write_clip(tmp_path / "a.mp4", tone=_sound), decode=True))
    after = as_plain(file_facts(write_clip(tmp_path / "b.mp4", times=range(11)), decode=False))
    assert differences(before, before) == []
    assert differences(before, after) == ["frames 12 → 11", "audio tracks 1 → 0"]


def test_checks_are_well_formed() -> None:
    names = kinds()
    assert [name for name in names if name.startswith("R")] == [f"R{number}" for number in range(1, 33)]
    for check in checks():
        first = check.value.split(".")[0]
        assert first in {*vars(Outcome("", {})), "words"}
        assert first != "measures" or check.value.removeprefix("measures.") in _MEASURES
        assert check.right


def test_operators() -> None:
    outcome = Outcome("a", {}, "done", warnings=["Sound is lost."], result={"x": 5, "y": [1, 2], "z": 5})

    def holds(operator: str, wanted: object, value: str = "result.x") -> bool:
        return judge(Check("R", "a", value, operator, wanted, {}), outcome, {"a": outcome}).right

    assert holds("equals", 5)
    assert not holds("equals", 4)
    assert holds("near", [6, 1])
    assert not holds("near", [7, 1])
    assert holds("at_least", 5)
    assert not holds("at_most", 4)
    assert holds("matches", "sound", "words")
    assert not holds("lacks", "sound", "words")
    assert holds("same_as", "result.z")
    assert holds("like", {"file": "a", "tolerance": 0.1})
    assert holds("equals", 2, "result.y.1")
    assert not holds("equals", 2, "result.y.7")
    assert not holds("equals", None, "result.missing")


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4")
    assert measured("tone", clip, clip) == "not measurable: IndexError: tuple index out of range"
    assert measured("mean_shift", clip, clip) == 0.0
