"""Replacing files and folders: complete or not at all, nothing left behind, nothing else touched."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ttlib import _files
from ttlib._files import replacing


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_written_under_its_name_alone(tmp_path):
    file = tmp_path / "new" / "folders" / "a.txt"
    write(file, "one")
    write(file, "two")
    assert file.read_text() == "two"
    assert list(file.parent.iterdir()) == [file]


def test_the_temporary_name_keeps_the_suffix_and_the_folder(tmp_path):
    with replacing(tmp_path / "a.png") as temporary:
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path)
        temporary.touch()


def write_folder(path):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_a_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_body_that_raises_changes_nothing(tmp_path, error):
    file = tmp_path / "a"
    write(file, "old")

    def write_half():
        with replacing(file) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_put_back_when_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    rename = type(folder).rename

    def fail_for_the_new_one(self, target):
        if (self / "new").exists():
            raise OSError
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fail_for_the_new_one)
    with pytest.raises(OSError):
        write_folder(folder)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/old"]


def test_a_folder_with_links_is_brought_to_the_disk(tmp_path):
    with replacing(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("text")
        (temporary / "link to itself").symlink_to(temporary)
        (temporary / "link to nothing").symlink_to("nowhere")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "text"


def test_leftovers_of_dead_processes_go_at_the_next_save_of_the_same_file_only(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    dead = [tmp_path / f"{_files._temporary_prefix(file)}{gone.pid}-{k:08x}.txt" for k in range(2)]
    dead[0].touch()
    dead[1].mkdir()
    kept = [
        tmp_path / f"{_files._temporary_prefix(file)}{os.getpid()}-00000000.txt",  # alive: another thread
        tmp_path / f"{_files._temporary_prefix(file)}1-00000000.txt",  # alive, and not ours
        tmp_path / f"{_files._temporary_prefix(other)}{gone.pid}-00000000.txt",
        tmp_path / f".a.ttlib-elsewhere-{gone.pid}-00000000.txt",  # of another machine
        tmp_path / f"{_files._temporary_prefix(file)}{gone.pid}-00000000.txt.bak",
        tmp_path / ".a.hidden.txt",
    ]
    for path in kept:
        path.touch()
    write(file, "text")
    assert sorted(tmp_path.iterdir()) == sorted([file, *kept])


def test_names_as_long_as_the_file_system_allows(tmp_path):
    file = tmp_path / ("é" * 120 + ".safetensors")
    write(file, "text")
    assert list(tmp_path.iterdir()) == [file]


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("target")
    link.symlink_to(target)
    write(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("target", "new", False)


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="pipe or device"):
        write(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_threads_that_write_one_file_do_not_mix(tmp_path):
    file = tmp_path / "a"
    texts = [str(k) * 10_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write(file, text) for _ in range(5)], texts))
    assert file.read_text() in texts
    assert list(tmp_path.iterdir()) == [file]
