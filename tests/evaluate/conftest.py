"""The embedded model, and small questions about it as a dataset on the disk."""

import json

import pytest

from foveate.evaluate.dataset import load_dataset
from foveate.loading import load
from foveate.scenes import evaluation_set


@pytest.fixture(scope="session")
def embedded():
    return load()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """14 questions about images of 36 visual tokens, as a person would keep them."""
    home = tmp_path_factory.mktemp("dataset")
    with open(home / "questions.jsonl", "w") as file:
        for i, sample in enumerate(evaluation_set(14, size=(168, 168))):
            sample.image.save(home / f"{i}.png")
            row = {"id": i, "image": f"{i}.png", "question": sample.question, "answer": sample.answer}
            file.write(json.dumps(row | {"kind": sample.kind}) + "\n")
    return home


@pytest.fixture(scope="session")
def questions(folder):
    return load_dataset(folder / "questions.jsonl")
