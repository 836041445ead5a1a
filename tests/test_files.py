"""Files are whole or not there, and their JSON is any reader's JSON."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from mechinterp import files
from mechinterp.files import (
    folder_lock,
    lock_of,
    plain,
    read_bytes,
    read_json,
    read_object,
    write_atomic,
    write_json,
    write_new,
)


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


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b'{"x": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[" * 500 + b"]" * 500, "nested too deeply"),
        (b'{"x":' * 500 + b"1" + b"}" * 500, "nested too deeply"),
        (b"[" + b"[]," * 1_100_000 + b"0]", "too many"),
        (b"[" + b"0," * 5_100_000 + b"0]", "too many"),
        (b"1" * 5000, "digits"),
        (b'"\\ud800"', "half a character"),
    ],
    ids=["NaN", "infinity", "deep lists", "deep objects", "lists", "numbers", "digits", "surrogate"],
)
def test_json_that_would_hurt_later_is_refused(tmp_path, content, got):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected JSON in .*{got}"):
        read_json(tmp_path / "a")


def test_what_json_may_hold_is_read(tmp_path):
    (tmp_path / "a").write_text('["\\ud83d\\ude00", "[[{{,,::", ' + "[" * 90 + "]" * 90 + "]")
    assert read_json(tmp_path / "a")[0] == "\U0001f600"


def test_only_files_of_bounded_size_are_read_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(10 * 2**30)
    for name in ("pipe", "folder", "zero", "loop", "huge", "missing"):
        with pytest.raises(ValueError, match=f"expected a file .*{name}"):
            read_json(tmp_path / name)
    (tmp_path / "there").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("there")
    assert read_bytes(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ValueError, match="at most 4 bytes, got 5"):
        read_bytes(tmp_path / "link", 4)


def test_a_folder_in_a_files_place_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for use in (read_json, lambda path: write_json(path, {})):
        with pytest.raises(ValueError, match=r"expected .*file"):
            use(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_of_many_that_write_a_new_file_one_does(tmp_path):
    begin, wrote = threading.Barrier(8), []

    def write(number):
        begin.wait()
        if write_new(tmp_path / "a", str(number)):
            wrote.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "a").read_text()] == list(map(str, wrote))
    assert os.listdir(tmp_path) == ["a"]


def test_a_new_file_needs_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert write_new(tmp_path / "a", "x")
    assert not write_new(tmp_path / "a", "y")
    assert ((tmp_path / "a").read_text(), os.listdir(tmp_path)) == ("x", ["a"])


HOLD = """
import sys, time
from mechinterp.files import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_one_process_s_until_that_ends_however_it_ends(tmp_path):
    place = tmp_path / "run"
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen([sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(ValueError, match=rf"expected no other training .*process {holder.pid};"),
                folder_lock(place),
            ):
                pass
            holder.send_signal(end)
        assert lock_of(place).exists(), "nobody could clean up"
        with folder_lock(place):
            (place / "kept").write_text("")
        assert os.listdir(place) == ["kept"]


def test_a_lock_is_one_thread_s_at_a_time_and_leaves_nothing(tmp_path):
    inside, most, refused = [], [], []

    def take():
        for _ in range(50):
            try:
                with folder_lock(tmp_path / "run"):
                    inside.append(0)
                    most.append(len(inside))
                    inside.pop()
            except ValueError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) + len(refused) == 200
    assert all(f"process {os.getpid()};" in said or "another process" in said for said in refused)
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("there", ["folder", "pipe", "link"])
def test_what_cannot_be_locked_is_not(tmp_path, there):
    lock = lock_of(tmp_path)
    {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock), "link": lambda: lock.symlink_to("x")}[there]()
    with folder_lock(tmp_path), folder_lock(None):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder"), folder_lock(tmp_path / "file" / "run"):
        pass
