"""Written pages are sent to the disk early, and only large pieces."""

import os

import pytest

from fusionbench.weights import mapped_memory, writer
from fusionbench.weights.mapped_memory import begin_writing_back


@pytest.fixture
def descriptor(tmp_path):
    held = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield held
    os.close(held)


def test_large_pieces_are_sent_off_as_they_are_written_and_small_ones_are_not(descriptor, monkeypatch):
    sent = []
    monkeypatch.setattr(writer, "begin_writing_back", lambda *place: sent.append(place))
    writer.put(descriptor, b"x" * (writer.EARLY_BYTES - 1), 5)
    assert sent == []
    writer.put(descriptor, b"y" * writer.EARLY_BYTES, 7)
    assert sent == [(descriptor, 7, writer.EARLY_BYTES)]


def test_a_piece_that_the_system_takes_in_parts_is_sent_off_whole(descriptor, monkeypatch):
    sent = []
    monkeypatch.setattr(writer, "begin_writing_back", lambda *place: sent.append(place))
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda to, content, offset: whole(to, content[:300_000], offset))
    writer.put(descriptor, b"z" * writer.EARLY_BYTES, 11)
    assert sent == [(descriptor, 11, writer.EARLY_BYTES)]
    assert os.pread(descriptor, 1 << 21, 0) == b"\0" * 11 + b"z" * writer.EARLY_BYTES


def test_sending_off_leaves_the_bytes_as_they_are_and_never_fails(descriptor, monkeypatch):
    os.pwrite(descriptor, b"content", 0)
    begin_writing_back(descriptor, 0, 7)
    begin_writing_back(-1, 0, 7)
    assert os.pread(descriptor, 10, 0) == b"content"
    monkeypatch.setattr(mapped_memory, "_sync_file_range", lambda: None)
    begin_writing_back(descriptor, 0, 7)
