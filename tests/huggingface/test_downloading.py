"""Grades huggingface/downloading.py against a server on this machine that fails in every way."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import published
import pytest

import minilm
from minilm.huggingface import downloading
from minilm.huggingface.downloading import (
    Redirects,
    Remote,
    ask,
    cache_folder,
    cached,
    download,
    endpoint,
    fetch,
    receive,
    verify,
)
from minilm.plumbing.errors import UserError

BIG = "model.safetensors"


class Hub:
    """What the server has and does; `log` are the requests: method, file, range."""

    def __init__(self, folder: Path):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.log = []
        self.cut = {}  # file -> bytes after which the next answer ends
        self.corrupt = set()  # files whose content is another than the server says
        self.ranges = True
        self.broken = set()  # files that end in the middle of a chunk
        self.busy = False


def make_handler(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            name = self.path.rsplit("/", 1)[-1]
            hub.log.append((self.command, self.path, self.headers.get("Range")))
            if hub.busy:
                self.send_error(503)
                return
            if name not in hub.files or "/owner/model/" not in self.path:
                self.send_error(404)
                return
            data = hub.files[name]
            digest = hashlib.sha256(data).hexdigest()
            if name == BIG and self.path.startswith("/owner/"):  # large files live on another server
                self.send_response(302)
                self.send_header("Location", "/cdn" + self.path)
                self.send_header("X-Linked-Size", str(len(data)))
                self.send_header("X-Linked-ETag", f'"{digest}"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if hub.ranges else 0
            self.send_response(206 if start else 200)
            if name in hub.broken:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", '"cdn"' if name == BIG else f'W/"{digest[:40]}"')
            self.end_headers()
            if body and name in hub.broken:
                self.wfile.write(b"5\r\n" + data[:5] + b"\r\nff\r\n" + data[5:9])
            elif body:
                sent = data.replace(b"a", b"b") if name in hub.corrupt else data
                end = hub.cut.pop(name, len(data))
                self.wfile.write(sent[start:end])

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(published.folder(tmp_path / "bert", "bert"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("MINILM_CACHE", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield hub
    server.shutdown()
    server.server_close()


def test_a_published_model_by_its_name(hub, tmp_path):
    model, tokenizer = minilm.load("hf:owner/model")
    assert model.config.n_encoder_layer == 2 and tokenizer.vocab_size == len(published.BERT_TOKENS)
    folder = tmp_path / "cache" / "owner--model"
    assert {path.name for path in folder.iterdir()} == {*hub.files, "download.json"}, "nothing half is left"
    assert all((folder / name).read_bytes() == data for name, data in hub.files.items())
    asked = len(hub.log)
    assert minilm.load("hf:owner/model")[0].config == model.config
    assert len(hub.log) == asked, "a complete folder asks nothing of the network"
    assert cached("hf:owner/model") == folder and cached("runs/x") == Path("runs/x")


def test_an_interrupted_download_goes_on_where_it_was(hub, tmp_path):
    n = len(hub.files[BIG])
    hub.cut[BIG] = n // 3
    with pytest.raises(UserError, match=rf"{BIG}: .*after {n // 3:,} of {n:,} bytes.*goes on there"):
        download("owner/model")
    folder = tmp_path / "cache" / "owner--model"
    assert not (folder / BIG).exists() and not (folder / "download.json").exists(), (
        "no half file has the name"
    )
    assert download("owner/model") == folder
    assert (folder / BIG).read_bytes() == hub.files[BIG]
    ranges = [wanted for method, path, wanted in hub.log if method == "GET" and path.endswith(BIG)]
    assert ranges[-1] == f"bytes={n // 3}-", "it asked for the rest alone"


def test_a_server_that_knows_no_ranges(hub, tmp_path):
    hub.cut[BIG], hub.ranges = 100, False
    with pytest.raises(UserError):
        download("owner/model")
    assert (download("owner/model") / BIG).read_bytes() == hub.files[BIG], (
        "from the start again, not appended"
    )


def test_a_corrupted_file_is_not_kept(hub, tmp_path):
    hub.corrupt.add(BIG)
    with pytest.raises(
        UserError, match="model.safetensors arrived with the SHA-256 .* instead of .*run the command"
    ):
        download("owner/model")
    assert not list((tmp_path / "cache" / "owner--model").glob(f"{BIG}*"))
    hub.corrupt.clear()
    assert (download("owner/model") / BIG).read_bytes() == hub.files[BIG]


def test_a_file_that_changed_meanwhile_is_not_mixed(hub):
    hub.cut[BIG] = 100
    with pytest.raises(UserError):
        download("owner/model")
    hub.files[BIG] = hub.files[BIG][:-4] + b"\0\0\0\0"
    assert (download("owner/model") / BIG).read_bytes() == hub.files[BIG], "another version starts anew"


def test_shards(hub):
    whole = hub.files.pop(BIG)
    hub.files["one.safetensors"] = whole
    hub.files[f"{BIG}.index.json"] = b'{"weight_map": {"a": "one.safetensors"}}'
    folder = download("owner/model")
    assert (folder / "one.safetensors").read_bytes() == whole
    hub.files[f"{BIG}.index.json"] = b'{"weight_map": {"a": "../../x"}}'
    with pytest.raises(UserError, match=r"the shard \.\./\.\./x that .*index.json lists"):
        download("owner/model@other")


def test_what_is_not_there(hub, monkeypatch):
    with pytest.raises(UserError, match="hf:owner/nobody: http://127.* has no config.json of that name"):
        download("owner/nobody")
    del hub.files[BIG]
    with pytest.raises(UserError, match="hf:owner/model: no weights; none of model.safetensors"):
        download("owner/model")
    for name in ("../x", "a/b/c", "", "/etc", "a/..", "a b"):
        with pytest.raises(UserError, match="not the name of a model"):
            download(name)
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(UserError, match="HF_ENDPOINT file:///etc: must begin with https"):
        download("owner/other")


def test_a_connection_that_breaks(hub, tmp_path):
    hub.broken.add("vocab.txt")
    with pytest.raises(UserError, match=r"vocab.txt: interrupted after [\d,]+ bytes .*goes on there"):
        download("owner/model")
    hub.broken.clear()
    assert (download("owner/model") / "vocab.txt").read_bytes() == hub.files["vocab.txt"]
    hub.busy = True
    with pytest.raises(UserError, match="config.json: the server answers 503"):
        download("owner/model@other")


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        UserError, match="http://127.0.0.1:1/owner/model/resolve/main/config.json: cannot be reached"
    ):
        download("owner/model", tmp_path)


def test_a_revision_has_a_folder_of_its_own(hub):
    assert download("owner/model@v1.0").name == "owner--model@v1.0"
    assert all("/resolve/v1.0/" in path for _, path, _ in hub.log)


def test_what_the_server_says(hub):
    remote = ask(f"{endpoint()}/owner/model/resolve/main/{BIG}")
    assert remote.size == len(hub.files[BIG]) and remote.sha256 == hashlib.sha256(hub.files[BIG]).hexdigest()
    small = ask(f"{endpoint()}/owner/model/resolve/main/config.json")
    assert small.size == len(hub.files["config.json"]) and small.sha256 is None, (
        "of small files it gives none"
    )
    assert small.version != remote.version and ask(f"{endpoint()}/owner/model/none") is None
    assert Redirects().said == {}


def test_verify(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    right = hashlib.sha256(b"abc").hexdigest()
    assert verify(tmp_path / "a", Remote("u", 3, right, "v")) is None
    assert verify(tmp_path / "a", Remote("u", None, None, "v")) is None
    assert "3 bytes instead of 4" in verify(tmp_path / "a", Remote("u", 4, None, "v"))
    assert "SHA-256" in verify(tmp_path / "a", Remote("u", 3, "0" * 64, "v"))


def test_parts(hub, tmp_path):
    got = {}
    assert fetch("owner/model", "config.json", tmp_path, got) and not fetch(
        "owner/model", "none", tmp_path, got
    )
    assert got == {"config.json": {"size": len(hub.files["config.json"]), "sha256": None}}
    part = tmp_path / "x.part"
    part.write_bytes(b"#" * 10**6)  # more than there is: of another file
    receive(ask(f"{endpoint()}/owner/model/resolve/main/vocab.txt"), part, "vocab.txt")
    assert part.read_bytes() == hub.files["vocab.txt"]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MINILM_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "minilm"
    assert downloading.ENDPOINT.startswith("https://")
