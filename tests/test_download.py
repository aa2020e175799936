"""sources/download.py against a real server: every way in which a transfer goes wrong."""

import fcntl
import hashlib
import http.server
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from machine.errors import DataError, DownloadError, StorageError, UserError
from sources import download

CONTENT = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
NAME = "archive.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; each request is first given to `server.trouble`."""

    def do_GET(self):
        header = self.headers.get("Range")
        self.server.ranges.append(header)
        if self.server.trouble(self):
            return
        if self.path != f"/{NAME}":
            self.send_error(404)
            return
        content = self.server.content
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.begin(content, start)
        self.wfile.write(content[start:])

    def begin(self, content, start=0, length=True):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_proxy_and_no_pause(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that hangs up is part of these tests
    server.content, server.ranges, server.trouble = CONTENT, [], lambda handler: False
    server.url = f"http://127.0.0.1:{server.server_port}/{NAME}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(folder, url, **changes):
    return download.fetch(folder, NAME, len(CONTENT), SHA256, url, **changes)


def part_of(folder):
    return folder / (NAME + ".part")


def files(folder):
    """What a download leaves, its lock apart."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_good_answer_is_stored_under_the_archive_name(server, tmp_path):
    path = fetch(tmp_path / "new" / "folder", server.url)
    assert path == tmp_path / "new" / "folder" / NAME
    assert path.read_bytes() == CONTENT
    assert not part_of(path.parent).exists()


def test_the_official_server_is_slow_and_the_way_around_is_said(
    server, tmp_path, capsys, monkeypatch
):
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    folder = server.url.rpartition("/")[0] + "/"
    monkeypatch.setattr(download, "OFFICIAL", folder)
    fetch(tmp_path, None)
    begins, slow = capsys.readouterr().err.splitlines()
    assert folder in begins and str(tmp_path) in begins
    assert "minutes" in slow and "--mirror" in slow
    (tmp_path / NAME).unlink()
    fetch(tmp_path, folder)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_404_names_address_and_code_and_is_not_tried_again(server, tmp_path):
    server.trouble = lambda handler: handler.send_error(404) or True
    with pytest.raises(DownloadError, match=f"{server.url}.*404"):
        fetch(tmp_path, server.url)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("code", [503, 429])
def test_a_server_error_is_tried_again(server, tmp_path, code):
    server.trouble = lambda handler: len(server.ranges) < 3 and (handler.send_error(code) or True)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT


def test_a_transfer_that_breaks_midway_goes_on_where_it_broke(server, tmp_path):
    def close_midway(handler):
        if len(server.ranges) > 1:
            return False
        handler.begin(CONTENT)
        handler.wfile.write(CONTENT[:HALF])
        return True

    server.trouble = close_midway
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_progress_renews_the_patience(server, tmp_path):
    step = len(CONTENT) // (2 * download.TRIES)

    def send_one_step(handler):
        start = step * (len(server.ranges) - 1)
        handler.begin(CONTENT, start)
        handler.wfile.write(CONTENT[start : start + step])
        return True

    server.trouble = send_one_step
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert len(server.ranges) > download.TRIES


def test_patience_is_for_tries_without_a_new_byte(server, tmp_path):
    def trouble(handler):
        if len(server.ranges) == 1:
            handler.begin(CONTENT)
            handler.wfile.write(CONTENT[:1000])
            return True
        return len(server.ranges) <= download.TRIES and (handler.send_error(503) or True)

    server.trouble = trouble
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT


def test_a_complete_part_is_checked_without_asking_the_server(server, tmp_path):
    part_of(tmp_path).write_bytes(CONTENT)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.ranges == []


def test_a_part_longer_than_the_file_is_removed(server, tmp_path):
    part_of(tmp_path).write_bytes(CONTENT + b"more")
    with pytest.raises(DownloadError, match="expected SHA-256"):
        fetch(tmp_path, server.url)
    assert not part_of(tmp_path).exists()


def test_another_file_in_the_place_is_left_alone_and_named(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"{NAME}: expected SHA-256"):
        fetch(tmp_path, server.url)
    assert (tmp_path / NAME).read_bytes() == CONTENT[:-1]
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.ranges == []


def test_a_server_without_ranges_starts_over(server, tmp_path):
    def whole_file(handler):
        handler.begin(CONTENT)
        handler.wfile.write(CONTENT)
        return True

    server.trouble = whole_file
    part_of(tmp_path).write_bytes(b"x" * 1000)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT


def test_an_answer_for_another_range_is_not_used(server, tmp_path):
    def wrong_range(handler):
        if len(server.ranges) > 1:
            return False
        handler.begin(CONTENT, 500)
        handler.wfile.write(CONTENT[500:])
        return True

    server.trouble = wrong_range
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_a_corrupt_file_is_removed_and_both_checksums_are_named(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError, match=f"expected SHA-256 {SHA256}, found {found}"):
        fetch(tmp_path, server.url)
    assert files(tmp_path) == []


@pytest.mark.parametrize("content", [CONTENT * 2, b"<html>sign in to this network</html>"])
def test_a_file_of_another_length_is_refused_before_it_is_read(server, tmp_path, content):
    server.content = content
    with pytest.raises(DownloadError, match=f"{len(CONTENT):,} bytes, found {len(content):,}"):
        fetch(tmp_path, server.url)
    assert files(tmp_path) == []


def test_an_endless_answer_stops_at_the_expected_length(server, tmp_path):
    def endless(handler):
        handler.begin(CONTENT, length=False)
        try:
            while True:
                handler.wfile.write(b"other content" * 1000)
        except OSError:
            return True

    server.trouble = endless
    with pytest.raises(DownloadError, match="expected SHA-256"):
        fetch(tmp_path, server.url)
    assert files(tmp_path) == []


def test_silence_counts_as_a_broken_connection(server, tmp_path):
    fetched = threading.Event()

    def stall(handler):
        if len(server.ranges) > 1:
            return False
        handler.begin(CONTENT)
        handler.wfile.write(CONTENT[:HALF])
        handler.wfile.flush()
        return fetched.wait(60)

    server.trouble = stall
    assert fetch(tmp_path, server.url, timeout=1).read_bytes() == CONTENT
    fetched.set()
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_without_a_network_the_message_says_how_to_go_on(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DownloadError) as error:
            fetch(tmp_path, url)
    message = str(error.value)
    for part in (url, download.OFFICIAL + NAME, str(tmp_path), "train --preset quickstart"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/hostname", "host/file"])
def test_only_http_and_https_are_fetched(tmp_path, url):
    with pytest.raises(UserError, match=r"^mirror: expected an http"):
        fetch(tmp_path, url)


@pytest.mark.parametrize("url", ["http://[", "http:///nowhere", "http://host:port/", "http://a b/"])
def test_a_malformed_address_is_one_line(tmp_path, url):
    with pytest.raises(DownloadError, match="no connection"):
        fetch(tmp_path, url)


def test_a_folder_that_cannot_be_written_is_a_storage_error(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file"):
        fetch(tmp_path / "file", server.url)


def test_a_full_disk_is_a_storage_error(server, tmp_path):
    try:
        part_of(tmp_path).symlink_to("/dev/full")
        part_of(tmp_path).stat()
    except OSError:
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="free some space"):
        fetch(tmp_path, server.url)


def test_of_two_downloads_into_one_folder_the_second_waits(server, tmp_path, capsys):
    lock, said = tmp_path / f".{NAME}.lock", ""
    with ThreadPoolExecutor() as threads, lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threads.submit(fetch, tmp_path, server.url)
        deadline = time.monotonic() + 60
        while "Waiting for another process" not in said:
            assert time.monotonic() < deadline and not second.done()
            time.sleep(0.01)
            said += capsys.readouterr().err
        held.close()
        assert second.result(60).read_bytes() == CONTENT
