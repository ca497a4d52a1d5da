"""Studies: what is finished stays readable, whatever happens to the writer."""

import json
import re
import resource
import subprocess
import sys

import pytest

from foveate.errors import InvalidValue
from foveate.measure.study import Study


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "s", "bench", settings={"x": 1}, recipes={"a": {"method": "aim"}}, samples=3)


def row(i, **more):
    return {"kind": "bench", "method": "a", "budget": None, "sample": str(i), "error": None, **more}


def test_what_is_appended_is_read_and_recorded(study):
    study.append(row(1, text="é\n"), row(2))
    study.append(row(3))
    again = Study.open(study.folder)
    assert again.rows() == [row(1, text="é\n"), row(2), row(3)]
    about = again.about
    assert about["settings"] == {"x": 1} and about["finished"] is None and about["samples"] == 3
    assert about["versions"]["torch"] and about["machine"]["cpu"] and about["machine"]["threads"] == 1
    again.finish()
    assert Study.open(study.folder).about["finished"] >= about["started"]


def test_a_torn_last_line_is_left_out_and_then_cut_off(study):
    study.append(row(1), row(2))
    whole = study._rows.read_bytes()
    for length in range(len(whole) // 2 + 1, len(whole)):
        study._rows.write_bytes(whole[:length])
        assert study.rows() == [row(1)]
    study.append(row(3))
    assert study.rows() == [row(1), row(3)]


def test_a_torn_line_longer_than_a_block_is_cut_off_too(study):
    study.append(row(1))
    with open(study._rows, "ab") as file:
        file.write(b"x" * 10_000)
    study.append(row(2))
    assert study.rows() == [row(1), row(2)]


def test_a_broken_line_before_the_last_is_named(study):
    study.append(row(1))
    with open(study._rows, "ab") as file:
        file.write(b"[1, 2]\n")
    study.append(row(2))
    with pytest.raises(InvalidValue, match="line 2 is no row"):
        study.rows()


def test_a_full_disk_leaves_the_finished_rows(study):
    """The system lets the file grow by a few bytes more: the row is written in part, as on a disk that fills up."""
    study.append(row(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (study._rows.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match=r"finished can be read there.*--resume"):
            study.append(row(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert study._rows.stat().st_size > len(json.dumps(row(1))) + 1, "nothing was written in part"
    assert study.rows() == [row(1)]
    study.append(row(3))
    assert study.rows() == [row(1), row(3)]


def test_what_lies_inside_a_study_goes_on_with_the_study(study):
    album = Study(study.folder / "overlays", within=study.folder)  # a folder that is not there cannot be written to
    with pytest.raises(OSError, match=rf"--resume {re.escape(str(study.folder))}$"):
        album.append(row(1))


def test_several_processes_write_one_study(study):
    code = (
        "import sys; from foveate.measure.study import Study; s = Study.open(sys.argv[1]);\n"
        "for i in range(60): s.append({'sample': i, 'who': sys.argv[2], 'text': 'x' * 5000})"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, study.folder, str(i)]) for i in range(3)]
    assert [w.wait() for w in workers] == [0, 0, 0]
    rows = study.rows()
    assert {(r["who"], r["sample"]) for r in rows} == {(str(w), i) for w in range(3) for i in range(60)}
    assert len(rows) == 180


def test_numbers_that_no_reader_takes_are_refused(study):
    with pytest.raises(ValueError, match="JSON compliant"):
        study.append(row(1, ms=float("nan")))
    assert study.rows() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no study in"), ("{", "is no JSON"), ("[]", "schema None"), ('{"schema": 99}', "schema 99")],
)
def test_what_is_no_study_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(InvalidValue, match=message):
        Study.open(tmp_path)


def test_a_study_is_neither_overwritten_nor_mixed(study, tmp_path):
    with pytest.raises(InvalidValue, match="holds a study already"):
        Study.create(study.folder, "bench")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValue, match="cannot make the folder"):
        Study.create(tmp_path / "file" / "s", "bench")
    with pytest.raises(InvalidValue, match="resume it with foveate bench"):
        Study.resume(study.folder, "compare")
    assert len(Study.resume(study.folder, "bench").about["resumed"]) == 1
    study.update(versions=study.about["versions"] | {"torch": "1.0"})
    with pytest.raises(InvalidValue, match=r"begun with torch 1\.0"):
        Study.resume(study.folder, "bench")


def test_the_default_folder_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = Study.create(Study.default_folder("bench"), "bench")
    second = Study.create(Study.default_folder("bench"), "bench")
    assert first.folder != second.folder and first.folder.parent.name == "studies"


def test_studies_are_read_without_torch(study):
    study.append(row(1))
    code = (
        "import sys; from foveate.measure.study import Study; from foveate.measure import interval;"
        "assert len(Study.open(sys.argv[1]).rows()) == 1; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, study.folder], check=False).returncode == 0
