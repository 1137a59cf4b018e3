"""Journals: what is appended is read back, whatever ended the writer and whatever happened to the file."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttlib.checkpoint import journal as module
from ttlib.checkpoint.journal import Journal, read_journal
from ttlib.errors import TTFileError

ROOT = Path(__file__).parents[2]
HEADER = {"fingerprint": "3f2a", "settings": {"shapes": 3, "orders": [2, 3]}}

numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def three(path):
    """The bytes of a journal of three records."""
    with Journal.create(path, HEADER) as journal:
        for n in range(3):
            journal.append({"n": n, "text": "a\nb ü"})
    return path.read_bytes()


@given(header=objects, records=st.lists(objects, max_size=5), resume_at=st.integers(0, 5), sync=st.booleans())
@settings(max_examples=15)  # each waits for the disk several times
def test_what_is_appended_is_read_back(tmp_path_factory, header, records, resume_at, sync):
    path = tmp_path_factory.mktemp("journal") / "new" / "run.jsonl"
    with Journal.create(path, header) as journal:
        for record in records[:resume_at]:
            journal.append(record, sync=sync)
    with Journal.resume(path, header) as journal:
        for record in records[resume_at:]:
            journal.append(record, sync=sync)
        assert list(journal.records()) == records
    lines = path.read_bytes().splitlines()  # by an oracle: it is a line of JSON for each
    assert [json.loads(line) for line in lines[1:]] == records
    found, rest = read_journal(path)
    assert (found, list(rest)) == (header, records)


def test_a_file_cut_anywhere_is_resumed_with_its_whole_records(path, three):
    for cut in range(0, len(three) + 1, 5):
        path.write_bytes(three[:cut])
        with Journal.resume(path, HEADER) as journal:
            kept = list(journal.records())
            assert [record["n"] for record in kept] == list(range(max(three[:cut].count(b"\n") - 1, 0)))
            for n in range(len(kept), 3):
                journal.append({"n": n, "text": "a\nb ü"}, sync=False)
        assert path.read_bytes() == three


def test_a_torn_line_longer_than_a_block_is_cut(path, three, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)
    with path.open("ab") as file:
        file.write(b'{"n": 3, "text": "' + b"x" * 100)
    _, records = read_journal(path)  # a reader leaves it out and leaves it there
    assert len(list(records)) == 3
    assert path.stat().st_size > len(three)
    Journal.resume(path, HEADER).close()
    assert path.read_bytes() == three


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (HEADER | {"fingerprint": "77"}, r"fingerprint was '3f2a' and is now '77'; resume with what it was begun with"),
        (HEADER | {"settings": {"shapes": 3, "orders": [2]}}, r"settings\.orders was \[2, 3\] and is now \[2\];"),
        (HEADER | {"settings": {"shapes": 3.0, "orders": [2, 3]}}, r"settings\.shapes was 3 and is now 3\.0;"),
        ({"fingerprint": "3f2a"}, r"settings was \{.*\} and is now None;"),
        (HEADER | {"new": 1}, r"new was None and is now 1;"),
        ({"a": 1, "b": 2, "c": 3}, r"; .*; .* and 2 more; resume"),
    ],
)
def test_a_journal_of_something_else_is_refused(path, three, header, says):
    with pytest.raises(TTFileError, match=says):
        Journal.resume(path, header)
    assert path.read_bytes() == three


def test_a_header_may_have_tuples(path):
    Journal.create(path, {"ranks": (1, 2)}).close()
    Journal.resume(path, {"ranks": (1, 2)}).close()
    assert read_journal(path)[0] == {"ranks": [1, 2]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense", r"line 3 of '.*run\.jsonl' is not valid JSON .*; take this line out"),
        (b"[1]", r"line 3 of .* is \[1\], expected a JSON object"),
        (b'{"n": NaN}', r"line 3 .*NaN is not a number"),
        (b'{"n": 1, "n": 2}', r"line 3 .*a name occurs twice"),
        (b"\xff\x00", r"line 3 .* is not valid JSON"),
        (b'{"n": ' + b"[" * 100_000, r"the depth of line 3 of .* is 'more than 32'"),
        (b"", r"line 3 of .* is not valid JSON"),
    ],
)
def test_a_damaged_line_is_told_by_its_number(path, three, line, says):
    lines = three.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with Journal.resume(path, HEADER) as journal:
        records = journal.records()
        assert next(records)["n"] == 0
        with pytest.raises(TTFileError, match=says):
            next(records)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"some notes",
            r"the start of '.*run\.jsonl' is 'some notes', expected a journal; this is no journal of ttlib",
        ),
        (b'{"key": 1}\n', r"expected a journal"),
        (
            b'{"format":"ttlib-journal","version":2,"header":{}}\n',
            r"version .* is 2, expected 1 at most; a newer ttlib",
        ),
        (b'{"format":"ttlib-journal","version":"1","header":{}}\n', r"version .* is '1', expected 1;"),
        (b'{"format":"ttlib-journal","version":1,"header":[]}\n', r"header .* is \[\], expected an object"),
        (b'{"format":"ttlib-journal","version":1,"header":{}\n', r"line 1 of .* is not valid JSON"),
    ],
)
def test_other_files_are_refused_and_left_alone(path, content, says):
    path.write_bytes(content)
    with pytest.raises(TTFileError, match=says):
        Journal.resume(path, {})
    assert path.read_bytes() == content
    with pytest.raises(TTFileError):
        read_journal(path)


def test_the_format_of_another_file_is_named(path):
    path.write_text('{"format": "something", "version": 1}\n')
    with pytest.raises(TTFileError, match=r"the format in line 1 of .* is 'something', expected 'ttlib-journal'"):
        read_journal(path)


def test_lines_are_bounded_both_ways(path, three, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 200)
    with Journal.resume(path, HEADER) as journal:
        with pytest.raises(TTFileError, match=r"the length of the record is \d+, expected less than 200 bytes; keep"):
            journal.append({"text": "x" * 200})
        journal.append({"text": "x" * (200 - len('{"text":""}') - 1)})
        with path.open("ab") as file:
            file.write(b"x" * 300 + b"\n")
        records = journal.records()
        assert len([next(records) for _ in range(4)]) == 4
        with pytest.raises(TTFileError, match="the length of line 6 of"):
            next(records)


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"": value}
    return value


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"a": {1, 2}}, r"the record cannot be written as JSON \(Object of type set"),
        ({"a": float("inf")}, r"the record is not valid JSON \(Infinity is not a number in JSON\); write None"),
        ({"a": 1, 1: 2, "1": 3}, "a name occurs twice"),
        (deep(40), "the depth of the record is 'more than 32'"),
        (deep(100_000), "the record cannot be written as JSON .*recursion"),
        ([1], "the record is .*1.*, expected a JSON object"),
    ],
)
def test_what_could_not_be_read_is_not_written(path, three, record, says):
    with Journal.resume(path, HEADER) as journal, pytest.raises(TTFileError, match=says):
        journal.append(record)
    assert path.read_bytes() == three


def test_a_journal_is_begun_once(path, three):
    with pytest.raises(TTFileError, match=r"'.*run\.jsonl' exists: resume that journal, remove it or choose another"):
        Journal.create(path, HEADER)
    assert path.read_bytes() == three


@pytest.mark.skipif(module.fcntl is None, reason="needs locks")
def test_one_run_at_a_time(path):
    with Journal.create(path, HEADER) as journal:
        with pytest.raises(TTFileError, match=r"another run writes the journal '.*': wait for its end, or choose"):
            Journal.resume(path, HEADER)
        journal.append({"n": 0})
        _, records = read_journal(path)  # readers are welcome
        assert list(records) == [{"n": 0}]
    Journal.resume(path, HEADER).close()


def test_file_systems_without_locks_are_used_without(path, three, monkeypatch):
    monkeypatch.setattr(module, "fcntl", None)
    with Journal.resume(path, HEADER) as journal:
        assert len(list(journal.records())) == 3


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    says = "cannot write .*; choose a path for the journal that can be written"
    for place in (tmp_path, tmp_path / "file" / "run.jsonl", Path("/proc/run.jsonl"), Path("a\0b")):
        with pytest.raises(TTFileError, match=says):
            Journal.resume(place, HEADER)
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(TTFileError, match="is a pipe or a device, which keeps nothing: choose"):
            Journal.resume(place, HEADER)
    with pytest.raises(FileNotFoundError):
        read_journal(tmp_path / "none")
    with pytest.raises(TTFileError, match="cannot read .*; give the path of a readable journal"):
        read_journal(tmp_path)


FULL_DISK = """
    import resource, sys
    from ttlib.checkpoint.journal import Journal, read_journal
    from ttlib.errors import TTFileError

    path, kept = sys.argv[1], 0
    for limit in range(0, 2000, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            with Journal.resume(path, {"a": 1}) as journal:
                while True:
                    journal.append({"n": kept, "text": "x" * 33})
                    kept += 1
        except TTFileError as error:
            assert "File too large" in str(error) and "make room and resume" in str(error), error
        with open(path, "rb") as file:
            content = file.read()
        assert content.count(b"\\n") == (kept + 1 if limit >= 100 else 0) and content[-1:] in (b"\\n", b""), content
    assert kept > 20 and [record["n"] for record in read_journal(path)[1]] == list(range(kept))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_keeps_whole_records(path):
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


class Interrupted(FileIO):
    """Takes a part of what it is given, and then comes Ctrl-C."""

    def write(self, data):
        if len(data) < 5:
            raise KeyboardInterrupt
        return super().write(data[:5])


def test_ctrl_c_in_the_middle_of_a_line_leaves_none_of_it(path, three):
    with Journal(path, Interrupted(path, "a+")) as journal, pytest.raises(KeyboardInterrupt):
        journal.append({"n": 3})
    assert path.read_bytes() == three


def test_ctrl_c_behind_a_line_leaves_all_of_it(path, three, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    with Journal.resume(path, HEADER) as journal:
        monkeypatch.setattr(module.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append({"n": 3})
        assert len(list(journal.records())) == 4


def test_what_does_not_come_to_the_disk_is_not_kept(path, three, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with Journal.resume(path, HEADER) as journal:
        monkeypatch.setattr(module.os, "fsync", broken)
        with pytest.raises(TTFileError, match="cannot write .*Input/output error; make room and resume"):
            journal.append({"n": 3})
    assert path.read_bytes() == three
