"""Fetches the official CIFAR-10 archive: resumable, bounded in size, checked before it is used."""

import fcntl
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from machine.errors import DownloadError, StorageError, UserError
from machine.files import file_sha256

ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE_NAME}"
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ARCHIVE_BYTES = 170_498_071

TRIES = 3  # in a row without a single new byte
RETRY_PAUSE = 1.0  # seconds


class _InterruptedTransferError(Exception):
    """The transfer stopped on the network's side; another try may go on from there."""


def fetch(
    data_dir: str | Path,
    url: str | None = None,
    sha256: str = ARCHIVE_SHA256,
    progress: bool | None = None,
    *,
    size: int = ARCHIVE_BYTES,
    timeout: float = 30.0,
) -> Path:
    """Downloads the archive into a folder, going on from an earlier, interrupted download.

    Args:
        data_dir: folder for the archive; created if it is missing.
        url: http(s) address of the archive, or of its folder when it ends in "/"; None: official.
        sha256: expected SHA-256 of the whole file, 64 hexadecimal digits.
        progress: show a progress bar; None: only on a terminal.
        size: expected length of the file in bytes; a server that offers another is refused.
        timeout: seconds of silence after which a connection counts as broken.

    Returns:
        The path of the complete, checked archive, ``data_dir / ARCHIVE_NAME``.

    Raises:
        UserError: the address is neither http nor https.
        DownloadError: no connection, a refused or broken transfer, or a wrong file.
        StorageError: the folder cannot be written.
    """
    url = url or ARCHIVE_URL
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"mirror: expected an http:// or https:// address, found {url!r}; fix it")
    if url.endswith("/"):
        url += ARCHIVE_NAME
    target = Path(data_dir) / ARCHIVE_NAME
    lock = target.with_name(f".{ARCHIVE_NAME}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            _take(held, target)
            return _fetch_alone(target, url, sha256, progress, size, timeout)
    except OSError as error:
        raise StorageError(
            f"{target}: expected to write {size:,} bytes, found {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error


def _take(held, target: Path) -> None:
    """Two downloads into one file would spoil it. The system lets go when the owner ends."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Waiting for another process that downloads {target}", file=sys.stderr)
        fcntl.flock(held, fcntl.LOCK_EX)


def _fetch_alone(
    target: Path, url: str, sha256: str, progress: bool | None, size: int, timeout: float
) -> Path:
    part = target.with_name(ARCHIVE_NAME + ".part")
    if not target.exists():
        print(f"Downloading {url} to {target}", file=sys.stderr)
        _transfer_all(url, part, size, timeout, progress)
        found = file_sha256(part)
        if found != sha256:
            part.unlink()
            raise DownloadError(
                f"{url}: expected SHA-256 {sha256}, found {found}; the download was removed: "
                "run again, or use another --mirror"
            )
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    return target


def _transfer_all(url: str, part: Path, size: int, timeout: float, progress: bool | None) -> None:
    """Tries until the part is complete; a try that brought new bytes renews the patience."""
    failures = 0
    while (start := _bytes_in(part)) != size:
        try:
            _transfer(url, part, size, timeout, progress)
            return
        except _InterruptedTransferError as error:
            failures = 1 if _bytes_in(part) > start else failures + 1
            if failures == TRIES:
                raise DownloadError(
                    f"{url}: expected {size:,} bytes, found {error}; get {ARCHIVE_URL} by hand and "
                    f"put it into {part.parent}, or run the embedded set instead: "
                    "python main.py train --preset quickstart"
                ) from error
            time.sleep(RETRY_PAUSE)


def _transfer(url: str, part: Path, size: int, timeout: float, progress: bool | None) -> None:
    """Asks for the bytes that the part still lacks and appends them."""
    start = _bytes_in(part)
    answer = _open(url, start, timeout)
    if answer is None:
        return
    with answer:
        if answer.status != 206:
            start = 0  # the server sends the whole file
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise _InterruptedTransferError("an answer for another range than the one asked for")
        offered = size if answer.length is None else start + answer.length
        if offered != size:
            raise DownloadError(
                f"{url}: expected a file of {size:,} bytes, found {offered:,}; check the address"
            )
        bar = tqdm(
            total=size,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=None if progress is None else not progress,
        )
        with bar, part.open("ab" if start else "wb") as file:
            while chunk := _read(answer):
                start += len(chunk)
                if start > size:
                    raise DownloadError(f"{url}: expected {size:,} bytes, found more; not the file")
                file.write(chunk)
                bar.update(len(chunk))
    if start < size:
        raise _InterruptedTransferError(f"a connection closed after {start:,}")


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse | None:
    """Opens the address from byte ``start`` on; None if the server has nothing after it."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                return None
            if error.code >= 500:
                raise _InterruptedTransferError(f"HTTP {error.code}") from error
            raise DownloadError(
                f"{url}: expected the archive, found HTTP {error.code} {error.reason}; "
                f"check the address; the official one is {ARCHIVE_URL}"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _InterruptedTransferError(f"no connection ({error})") from error


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Reads what has arrived, at most 1 MiB, so that a broken connection loses nothing."""
    try:
        return answer.read1(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedTransferError(f"a connection that broke ({error})") from error


def _bytes_in(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
