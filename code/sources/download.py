"""Fetch an official archive: resumable, bounded in size, checked before it is used."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from machine.errors import DataError, DownloadError, UserError
from machine.files import file_sha256, locked, storing

OFFICIAL = "https://www.cs.toronto.edu/~kriz/"
OFFICIAL_RATE = 50_000  # bytes a second, since June 2026
TRIES = 3  # in a row without a single new byte
RETRY_PAUSE = 1.0  # seconds


class _BrokenTransferError(Exception):
    """The transfer stopped on the network's side; another try may go on from there."""


def fetch(
    folder: Path, name: str, size: int, sha256: str, mirror: str | None = None, timeout: float = 30
) -> Path:
    """Download an archive into a folder, going on from an earlier, interrupted download.

    Args:
        folder: where the archive goes; created if it is missing.
        name: file name of the archive.
        size: its length in bytes; a server that offers another is refused.
        sha256: its checksum, 64 hexadecimal digits.
        mirror: http(s) address of it, or of its folder when it ends in "/"; None: the official one.
        timeout: seconds of silence after which a connection counts as broken.

    Returns:
        ``folder / name``, complete and checked.

    Raises:
        UserError: the address is neither http nor https.
        DataError: another file of that name is there.
        DownloadError: no connection, a refused or broken transfer, or a wrong file.
        StorageError: the folder cannot be written.
    """
    url = mirror or OFFICIAL
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"mirror: expected an http:// or https:// address, found {url!r}; fix it")
    url += name if url.endswith("/") else ""
    target, part = folder / name, folder / f"{name}.part"
    with storing(target):
        folder.mkdir(parents=True, exist_ok=True)
        # Two downloads into one file would spoil it. The lock ends with its owner.
        with contextlib.ExitStack() as held:
            lock = folder / f".{name}.lock"
            if held.enter_context(locked(lock)) is None:
                _say(f"Waiting for another process that downloads {target}")
                held.enter_context(locked(lock, wait=True))
            if not target.exists():
                _say(f"Downloading {url} to {target}. A download that breaks can go on.")
                if not mirror:
                    minutes = (size - _bytes_in(part)) / OFFICIAL_RATE / 60
                    _say(
                        f"The official server sends about 50 kB/s, {minutes:.0f} minutes for this. "
                        f"Faster: --mirror, or bring {name} from elsewhere into {folder}."
                    )
                _transfer_all(url, part, size, timeout)
                if (found := file_sha256(part)) != sha256:
                    part.unlink()
                    raise DownloadError(
                        f"{url}: expected SHA-256 {sha256}, found {found}; use another --mirror"
                    )
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, target)
            elif file_sha256(target) != sha256:
                raise DataError(
                    f"{target}: expected SHA-256 {sha256}, found another file; move it away"
                )
    return target


def _transfer_all(url: str, part: Path, size: int, timeout: float) -> None:
    """Try until the part is complete; a try that brought new bytes renews the patience."""
    failures = 0
    with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        while (start := _bytes_in(part)) < size:
            try:
                _transfer(url, part, size, timeout, bar)
            except _BrokenTransferError as error:
                failures = 0 if _bytes_in(part) > start else failures + 1
                if failures == TRIES:
                    raise DownloadError(
                        f"{url}: expected {size:,} bytes, found {error}; run again to go on, or "
                        f"get {OFFICIAL}{part.stem} by hand and put it into {part.parent}, or train"
                        " on the embedded set: python main.py train --preset quickstart"
                    ) from error
                time.sleep(RETRY_PAUSE)


def _transfer(url: str, part: Path, size: int, timeout: float, bar: tqdm) -> None:
    """Ask for the bytes that the part still lacks and append them."""
    start = _bytes_in(part)
    with _network(url):
        request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        answer = urlopen(request, timeout=timeout)
    with answer:
        if answer.status != 206:
            start = 0  # the server sends the whole file
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _BrokenTransferError("an answer for another range than the one asked for")
        if answer.length not in (None, size - start):
            found = f"{start + answer.length:,}"
            raise DownloadError(f"{url}: expected {size:,} bytes, found {found}; check the address")
        bar.n = start
        with part.open("ab" if start else "wb") as file:
            while start < size:
                with _network(url):
                    chunk = answer.read1(min(1 << 20, size - start))  # what has arrived
                if not chunk:
                    raise _BrokenTransferError(f"a connection that closed after {start:,}")
                file.write(chunk)
                start += len(chunk)
                bar.update(len(chunk))


@contextlib.contextmanager
def _network(url: str):
    """Tell what another try may mend from what it cannot, and both from a disk that fails."""
    try:
        yield
    except HTTPError as error:
        with error:
            if error.code >= 500 or error.code in (408, 429):  # too slow, too often
                raise _BrokenTransferError(f"HTTP {error.code}") from error
            found = f"HTTP {error.code} {error.reason}"
            raise DownloadError(
                f"{url}: expected a file, found {found}; check the address"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _BrokenTransferError(f"no connection ({error})") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _bytes_in(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
