"""Published models over HTTPS into a cache folder, with nothing but the standard library.

A file is written beside its place, as NAME.VERSION.part, and goes on from there when a download was
interrupted. It takes its name only when its size and, where the server tells it, its SHA-256 are right.
download.json, written last, says that the folder is complete; from then on nothing is asked of the network.

The cache is MINILM_CACHE, else ~/.cache/minilm. HF_ENDPOINT names another server with the same layout.
"""

import hashlib
import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tqdm import tqdm

from ..plumbing.errors import UserError
from ..plumbing.folders import make_folder, read_json, write_json
from .weights import FILES

PUBLISHED = "hf:"  # how the name of a published model begins, where a folder could stand too
ENDPOINT = "https://huggingface.co"
NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?:@[\w.-]+)?")
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
VOCABULARIES += ("special_tokens_map.json", "added_tokens.json")
DONE = "download.json"
CHUNK = 2**20  # bytes read at once
TIMEOUT = 30  # seconds without a byte
FAILURES = (OSError, HTTPException)  # of the network: no connection, cut off, timed out


class Remote(NamedTuple):
    """What the server says of a file."""

    url: str
    size: int | None  # bytes
    sha256: str | None  # where the server gives it: of large files
    version: str  # changes when the file does


def cached(path: str | Path) -> Path:
    """Return the folder of "hf:NAME", downloaded if it has to be; any other path as it is."""
    text = str(path)
    return download(text.removeprefix(PUBLISHED)) if text.startswith(PUBLISHED) else Path(path)


def cache_folder() -> Path:
    """Return where downloads are kept."""
    return Path(os.environ.get("MINILM_CACHE") or Path.home() / ".cache" / "minilm")


def download(name: str, cache: str | Path | None = None) -> Path:
    """Return the folder with config, weights and vocabulary of a published model, downloaded if need be.

    Args:
        name: "OWNER/MODEL" or "MODEL", with "@REVISION" for another revision than main.
        cache: where to keep it; none: `cache_folder`.

    Raises:
        UserError: for a name that does not exist, a network that fails, and a file that is not what the
            server said. What was downloaded stays, and the next call goes on from there.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"hf:{name}: not the name of a model; names are OWNER/MODEL, with @REVISION if need be"
        )
    folder = Path(cache or cache_folder()) / name.replace("/", "--")
    if (folder / DONE).exists():
        return folder
    make_folder(folder)
    got = {}
    if not fetch(name, "config.json", folder, got):
        raise UserError(f"hf:{name}: {endpoint()} has no config.json of that name, or no such model")
    index = next((file for file in FILES if fetch(name, file, folder, got)), None)
    if index is None:
        raise UserError(f"hf:{name}: no weights; none of {', '.join(FILES)} is there")
    if index.endswith(".index.json"):
        for shard in dict.fromkeys(read_json(folder / index).get("weight_map", {}).values()):
            if Path(shard).name != shard or not fetch(name, shard, folder, got):
                raise UserError(f"hf:{name}: the shard {shard} that {index} lists is not there")
    for file in VOCABULARIES:
        fetch(name, file, folder, got)
    write_json(folder / DONE, {"name": name, "endpoint": endpoint(), "files": got})
    return folder


def endpoint() -> str:
    """Return the server's address; UserError where HF_ENDPOINT is no http(s) address."""
    address = (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    if not address.startswith(("https://", "http://")):
        raise UserError(f"HF_ENDPOINT {address}: must begin with https:// (or http://)")
    return address


def fetch(name: str, file: str, folder: Path, got: dict) -> bool:
    """Bring one file into the folder and note it in `got`; False where the server does not have it."""
    model, _, revision = name.partition("@")
    url = f"{endpoint()}/{quote(model)}/resolve/{quote(revision or 'main')}/{quote(file)}"
    remote = ask(url)
    if remote is None:
        return False
    target = folder / file
    if not (target.exists() and verify(target, remote) is None):
        part = folder / f"{file}.{remote.version}.part"
        receive(remote, part, f"hf:{name} {file}")
        wrong = verify(part, remote)
        if wrong:
            part.unlink()
            raise UserError(f"hf:{name}: {file} arrived {wrong}; it was deleted, so run the command again")
        os.replace(part, target)
    got[file] = {"size": target.stat().st_size, "sha256": remote.sha256}
    return True


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, and keep what the first answer says of the file: the last server does not know it."""

    def __init__(self):
        self.said = {}

    def redirect_request(self, request, fp, code, msg, headers, newurl):
        """Note the headers of a redirect; only http and https are followed (the base class sees to that)."""
        self.said = {name.lower(): value for name, value in headers.items()} | self.said
        following = super().redirect_request(request, fp, code, msg, headers, newurl)
        if following is not None:
            following.method = request.get_method()  # urllib would ask for the content
        return following


def ask(url: str) -> Remote | None:
    """Return what the server says of a file, without its content; None where there is no such file."""
    redirects = Redirects()
    request = urllib.request.Request(url, method="HEAD", headers={"Accept-Encoding": "identity"})
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT) as answer:
            said = {name.lower(): value for name, value in answer.headers.items()} | redirects.said
            size = said.get("x-linked-size") or answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code in (401, 404):  # the server hides names that do not exist, or are private, behind 401
            return None
        raise UserError(f"{url}: the server answers {error.code} ({error.reason})") from None
    except FAILURES as error:
        raise UserError(f"{url}: cannot be reached ({getattr(error, 'reason', error)})") from None
    tag = (said.get("x-linked-etag") or said.get("etag") or "").removeprefix("W/").strip('"')
    sha256 = tag if re.fullmatch("[0-9a-f]{64}", tag) else None
    version = hashlib.sha256(tag.encode()).hexdigest()[:16]
    return Remote(url, int(size) if size and size.isdigit() else None, sha256, version)


def receive(remote: Remote, part: Path, label: str) -> None:
    """Append to `part` what it lacks of the file; UserError where the network fails, `part` stays."""
    start = part.stat().st_size if part.exists() else 0
    if remote.size is not None and start > remote.size:
        part.unlink()
        start = 0
    if remote.size is not None and start == remote.size and part.exists():
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(remote.url, headers=headers)
    bar = tqdm(
        total=remote.size, initial=start, desc=label, unit="B", unit_scale=True, disable=None, ncols=100
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, bar:
            goes_on = start and answer.status == 206
            with open(part, "ab" if goes_on else "wb") as file:
                bar.reset(remote.size)
                bar.update(start if goes_on else 0)
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        raise UserError(f"{label}: the server answers {error.code} ({error.reason})") from None
    except FAILURES as error:
        n_byte = part.stat().st_size if part.exists() else 0
        raise UserError(
            f"{label}: interrupted after {n_byte:,} bytes ({error}); the same command goes on there"
        ) from None
    n_byte = part.stat().st_size
    if remote.size is not None and n_byte < remote.size:
        raise UserError(
            f"{label}: cut off after {n_byte:,} of {remote.size:,} bytes; the same command goes on there"
        )


def verify(path: Path, remote: Remote) -> str | None:
    """Return what is wrong with a file: its size, or its SHA-256 where the server gave one."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"with {size:,} bytes instead of {remote.size:,}"
    if remote.sha256:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != remote.sha256:
            return f"with the SHA-256 {digest.hexdigest()[:12]}... instead of {remote.sha256[:12]}..."
    return None
