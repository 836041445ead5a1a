"""Files are whole or not there, and their JSON is any reader's JSON."""

import json
import os

import pytest

from mechinterp import files
from mechinterp.files import plain, read_json, read_object, write_atomic, write_json


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def strict(text):
    """Read JSON as a browser does: NaN and Infinity are errors."""
    return json.loads(text, parse_constant=refuse_constant)


@pytest.mark.parametrize("content", [b"\x00\xff", "naïve – π"])
def test_what_is_written_is_read(tmp_path, content):
    write_atomic(tmp_path / "a", content)
    data = (tmp_path / "a").read_bytes()
    assert data == (content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    write_atomic(tmp_path / "a", "old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, step, crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_record_that_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", {"x": object()})
    assert read_json(tmp_path / "a") == {"x": 1}


def test_numbers_that_are_not_finite_become_null(tmp_path):
    record = {"x": [1.5, float("nan"), (float("inf"), -float("inf"))], 3: {"y": float("nan")}}
    write_json(tmp_path / "a", record)
    assert strict((tmp_path / "a").read_text()) == plain(record)
    assert plain(record) == {"x": [1.5, None, [None, None]], "3": {"y": None}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a file .*found none"),
        (b"", "expected JSON"),
        (b'{"x": 1', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"[1]", "expected a JSON object .*got a list"),
        (b"null", "expected a JSON object"),
    ],
)
def test_a_file_that_is_not_a_whole_object_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_object(tmp_path / "a")


def test_a_folder_in_a_files_place_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="expected a file"):
        read_json(tmp_path / "a")
