"""A dataset is checked row by row: what is broken is named and counted, the rest is there."""

import json

import pytest
from PIL import Image

from foveate.errors import InvalidValue
from foveate.evaluate.dataset import Sample, load_dataset, open_video
from foveate.measure.samples import Sample as Asked

GOOD = {"id": "ok", "image": "a.png", "question": "what?", "answer": "this"}


@pytest.fixture
def home(tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    return tmp_path


def written(home, *rows):
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    (home / "q.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return home / "q.jsonl"


BROKEN = {
    "no json": ('{"id": 1, ', "line 2: "),
    "no object": ("[1, 2]", "line 2: Input should be a valid dictionary"),
    "no text": (b'{"question": "\xff"}', "line 2: "),
    "missing file": (GOOD | {"id": 2, "image": "none.png"}, "no image at"),
    "missing video": ({**GOOD, "id": 2, "image": None, "video": "none.mp4"}, "no video at"),
    "empty question": (GOOD | {"id": 2, "question": " "}, "the question is empty"),
    "no question": ({"id": 2, "image": "a.png", "answer": "x"}, "question: Field required"),
    "no answer": ({"id": 2, "image": "a.png", "question": "?"}, "give one of answer, answers; got none"),
    "empty answer": (GOOD | {"id": 2, "answers": ["a", ""], "answer": None}, "an answer is empty"),
    "two media": (GOOD | {"id": 2, "images": ["a.png"]}, "got image and images"),
    "no media": ({"id": 2, "question": "?", "answer": "x"}, "give one of image, images, video; got none"),
    "misspelt field": (GOOD | {"id": 2, "choises": ["a", "b"]}, "choises: Extra inputs are not permitted"),
    "one choice": (GOOD | {"id": 2, "choices": ["a"]}, "choices must be 2 to 26"),
    "answer is no choice": (GOOD | {"id": 2, "choices": ["a b", "c d"]}, "neither a choice nor the letter of one"),
    "twice": (GOOD, "the id 'ok' was used before"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_and_the_rest_is_there(home, name):
    row, reason = BROKEN[name]
    data = load_dataset(written(home, GOOD, row, GOOD | {"id": "last"}))
    assert [s.id for s in data.samples] == ["ok", "last"]
    [broken] = data.broken
    assert reason in broken.reason and broken.reason.startswith("line 2: ")


def test_a_corrupt_image_is_found_when_it_is_opened(home):
    data = load_dataset(written(home, GOOD, GOOD | {"id": "cut", "image": "cut.png"}))
    good, cut = data.samples
    assert good.pictures()[0].size == (56, 56)
    with pytest.raises(InvalidValue, match="is broken"):
        cut.pictures()


def test_rows_may_be_short_and_numbers_are_words(home):
    rows = [{"image": "a.png", "question": "how many?", "answer": 4}, "", {**GOOD, "id": 7}]
    first, second = load_dataset(written(home, *rows)).samples
    assert (first.id, first.answers) == ("line 1", ("4",)) and second.id == "7"


def test_choices_are_asked_by_letter(home):
    row = GOOD | {"choices": ["this", "that"], "kind": "pick"}
    [sample] = load_dataset(written(home, row)).samples
    assert sample.prompt.splitlines()[:3] == ["what?", "A. this", "B. that"] and sample.kind == "pick"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\n \n", "is empty"), (b"nonsense", "none of the 1 samples")],
)
def test_a_file_with_nothing_in_it_is_refused(home, content, message):
    (home / "q.jsonl").write_bytes(content)
    with pytest.raises(InvalidValue, match=message):
        load_dataset(home / "q.jsonl")


def test_a_missing_file_names_the_remedy():
    with pytest.raises(InvalidValue, match="give a JSONL file, or the name 'embedded'"):
        load_dataset("nowhere.jsonl")


def test_the_embedded_set_is_a_dataset():
    data = load_dataset("embedded", limit=8)
    assert len(data.samples) == 8 and len({s.kind for s in data.samples}) == 7
    sample: Asked = data.samples[0]
    assert sample.pictures()[0].size == (336, 336) and sample.answers and sample.prompt and sample.video is None


def test_a_folder_of_frames_is_a_video(home, tmp_path):
    frames = tmp_path / "clip"
    frames.mkdir()
    for i in range(20):
        Image.new("RGB", (28, 28), (i * 10, 0, 0)).save(frames / f"{i:03}.png")
    reds = [frame.getpixel((0, 0))[0] // 10 for frame in open_video(frames, 4)]
    assert reds == [2, 7, 12, 17] and len(open_video(frames, 50)) == 20
    sample = Sample("v", "?", ("x",), video=frames)
    assert len(sample.pictures()) == 8
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidValue, match="no frames"):
        open_video(tmp_path / "nothing")


def test_a_video_file_is_decoded_or_the_remedy_is_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(InvalidValue, match=r"PyAV"):
        open_video(tmp_path / "x.mp4")
