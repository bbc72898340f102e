"Downloads from a hostile server: everything arrives whole or not at all, never half under its final name"

import hashlib, http.server, os, random, re, signal, socket, struct, subprocess, sys, threading, time
from email.utils import formatdate
from pathlib import Path
import pytest
from conftest import environment
from nanochat import hub as downloads
from nanochat.runs import UserError
from nanochat.hub import download, download_all

SIZE = 300_000


def body(seed, size=SIZE):
    return random.Random(seed).randbytes(size)


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    "Serves files as the script of each path says, one entry per request; an empty script means: well"

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        s, self.close_connection = self.server.hub, True
        with s.lock:
            how = s.scripts[self.path].pop(0) if s.scripts.get(self.path) else "ok"
            how, *rest = how if isinstance(how, tuple) else (how,)
            if how == "change":
                s.files[self.path] = rest.pop(0)
                how, rest = "ok", rest  # the file is replaced before this answer
            s.log.append((self.path, how, self.headers.get("Range"), time.monotonic()))
        if self.path not in s.files:
            return self.answer(404)
        if how == "moved":
            return self.answer(302, Location=rest[0])
        if isinstance(how, int):
            return self.answer(how, **(rest[0] if rest else {}))
        if how == "close":
            return  # not a word
        if how == "garbage":
            self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            return
        if how == "slow_headers":
            return time.sleep(rest[0])
        data = s.files[self.path]
        tag = s.tag(data)
        asked = re.match(r"bytes=(\d+)-$", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        if how == "ignore_range" or (
            self.headers.get("If-Range") not in (None, tag) and how != "ignore_if_range"
        ):
            asked, first = None, 0
        if asked and first >= len(data):
            return self.answer(416, **{"Content-Range": f"bytes */{len(data)}"})
        if how == "wrong_range" and asked:
            first = max(0, first - 1000)  # another piece than was asked for
        last = (
            min(len(data), first + rest[0]) - 1 if how == "piece" and asked else len(data) - 1
        )  # less than was asked for, honestly said
        out = data[first : last + 1]
        self.send_response(206 if asked else 200)
        for k, v in s.headers(data).items():
            self.send_header(k, v)
        if asked and how != "no_content_range":
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if how.startswith("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        elif how != "no_length":
            self.send_header("Content-Length", str(len(out) + (5000 if how == "longer" else 0)))
        if how == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            if how == "flip":
                out = bytes([out[0] ^ 1]) + out[1:]  # one bit, on its way
            if how in ("cut", "chunked_cut", "reset"):
                out = out[: rest[0]]
            if how.startswith("chunked"):
                for k in range(0, len(out), 50_000):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(out[k : k + 50_000]), out[k : k + 50_000]))
                if how == "chunked":
                    self.wfile.write(b"0\r\n\r\n")
                return
            if how in ("stall", "trickle"):
                self.wfile.write(out[: rest[0]])
                out = out[rest[0] :]
            if how == "stall":
                s.stop.wait(20)
                return
            if how == "trickle":
                for k in range(1000):
                    if s.stop.wait(0.02):
                        return
                    self.wfile.write(out[k : k + 1])
                    s.trickled += 1
                return
            if how == "slow" or s.slow:
                for k in range(0, len(out), 20_000):
                    self.wfile.write(out[k : k + 20_000])
                    s.count(len(out[k : k + 20_000]))
                    time.sleep(s.slow or 0.01)
                return
            self.wfile.write(out)
            s.count(len(out))
            if how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        except OSError:
            pass  # the client has gone

    def answer(self, code, **headers):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        for k, v in headers.items():
            self.send_header(k, str(v))
        self.end_headers()

    def log_message(self, *args):
        pass

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass


class Hub:
    "The server, its files, its script and its diary"

    def __init__(self):
        self.files, self.scripts, self.log, self.lock, self.stop, self.sent, self.slow, self.trickled = (
            {},
            {},
            [],
            threading.Lock(),
            threading.Event(),
            0,
            0,
            0,
        )
        self.headers = lambda data: {"ETag": self.tag(data)}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.server.daemon_threads = True
        self.server.handle_error = lambda *a: None
        threading.Thread(
            target=self.server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def tag(self, data):
        return f'"{sha(data)[:12]}"'

    def count(self, n):
        with self.lock:
            self.sent += n

    def put(self, path, data, *script):
        self.files[path], self.scripts[path] = data, list(script)
        return self.url + path

    def asked(self, path=None):
        return [r for p, _, r, _ in self.log if path in (None, p)]

    def close(self):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub():
    h = Hub()
    yield h
    h.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    "Short waits: what is tested is what is done, and not how long it is waited for"
    monkeypatch.setattr(downloads, "backoff", lambda *a, **k: 0.01)
    monkeypatch.setattr(downloads, "STALL", 0.4)


class Watch:
    "Looks at the final names all the time; whatever stands there must be one whole version"

    def __init__(self, folder, versions):
        self.folder, self.versions, self.seen, self.end = (
            Path(folder),
            {sha(v) for v in versions},
            [],
            threading.Event(),
        )

    def run(self):
        while not self.end.is_set():
            for p in self.folder.glob("*.bin"):
                with open(p, "rb") as f:
                    data = f.read()
                if sha(data) not in self.versions:
                    self.seen.append((p.name, len(data)))
            self.end.wait(0.002)

    def __enter__(self):
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.end.set()
        self.thread.join()
        assert not self.seen, f"half files under their final names: {self.seen[:3]}"


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# ---- each misdeed alone: it is survived, with and without a sha256 ----

MISDEEDS = {
    "cut": [("cut", 100_000)],
    "cut at once": [("cut", 0)],
    "cut often": [("cut", 20_000)] * 14,
    "cut before the last byte": [("cut", SIZE - 1)],
    "reset": [("reset", 100_000)],
    "stalls": [("stall", 50_000)],
    "stalls before the first byte": [("stall", 0)],
    "hardly a byte": [("trickle", 50_000)],
    "no answer": ["close"],
    "no HTTP": ["garbage"],
    "headers never come": [("slow_headers", 2)],
    "500": [500],
    "502, 503, 504": [502, 503, 504],
    "408": [408],
    "429": [(429, {"Retry-After": 1})],
    "429 without a time": [429, 429],
    "503 with a date": [(503, {"Retry-After": formatdate(time.time() - 5, usegmt=True)})],
    "ignores ranges": [("cut", 100_000), "ignore_range"],
    "another range": [("cut", 100_000), "wrong_range"],
    "206 without Content-Range": [("cut", 100_000), "no_content_range"],
    "a smaller piece": [("cut", 100_000), ("piece", 50_000)],
    "chunked": ["chunked"],
    "chunked and cut": [("chunked_cut", 100_000)],
    "announces too much": ["longer"],
    "compressed unasked": ["gzip"],
    "cut, 500, stall, cut": [("cut", 90_000), 500, ("stall", 30_000), ("cut", 60_000)],
}


@pytest.mark.parametrize("proven", [True, False], ids=["sha256", "nothing known"])
@pytest.mark.parametrize("script", MISDEEDS.values(), ids=MISDEEDS)
def test_misdeeds(hub, tmp_path, script, proven):
    data = body(1)
    url = hub.put("/a", data, *script)
    with Watch(tmp_path, [data]):
        download(url, tmp_path / "a.bin", *((SIZE, sha(data)) if proven else ()))
    assert (tmp_path / "a.bin").read_bytes() == data
    assert names(tmp_path) == ["a.bin"] + ["a.bin.sha256"] * proven
    assert (
        len(script) <= len(hub.log) <= len(script) + 2
    )  # the next one after each misdeed is the last, but where a length was a lie


def test_resumes_where_it_stopped(hub, tmp_path):
    data = body(1)
    url = hub.put("/a", data, *[("cut", 70_000)] * 4)
    download(url, tmp_path / "a.bin")
    assert (
        hub.asked() == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]
        and hub.sent == SIZE
    )


def test_hardly_a_byte_counts_as_dead(hub, tmp_path):
    data = body(1)
    url = hub.put("/a", data, ("trickle", 50_000))
    assert (
        download(url, tmp_path / "a.bin").read_bytes() == data and hub.trickled < 800
    )  # it would have gone on to 1,000


def test_progress_wins_new_patience(hub, tmp_path):
    data = body(1)
    url = hub.put("/a", data, *[500, ("cut", 30_000)] * 9)
    download(url, tmp_path / "a.bin", tries=3)
    assert (tmp_path / "a.bin").read_bytes() == data


@pytest.mark.parametrize("how", ["ignore_range", 500, "close", ("cut", 0)], ids=str)
def test_no_progress_ends(hub, tmp_path, how):
    url = hub.put("/a", body(1), ("cut", 60_000), *[("cut", 60_000) if how == "ignore_range" else how] * 20)
    hub.headers = lambda data: (
        {} if how == "ignore_range" else {"ETag": hub.tag(data)}
    )  # without a tag each try begins again
    with pytest.raises(UserError, match="could not be fetched"):
        download(url, tmp_path / "a.bin")
    assert len(hub.log) == 5 and not (tmp_path / "a.bin").exists()


# ---- which pieces are joined ----


@pytest.mark.parametrize(
    "headers,joins",
    [
        (lambda hub, d: {"ETag": hub.tag(d)}, True),
        (lambda hub, d: {"ETag": "W/" + hub.tag(d)}, False),
        (lambda hub, d: {}, False),
        (lambda hub, d: {"Last-Modified": formatdate(1e9, usegmt=True)}, True),
        (lambda hub, d: {"Last-Modified": formatdate(time.time() + 9, usegmt=True)}, False),
    ],
    ids=["ETag", "weak", "none", "Last-Modified", "modified just now"],
)
def test_only_a_strong_tag_joins(hub, tmp_path, headers, joins):
    data = body(1)
    hub.headers = lambda d: headers(hub, d)
    hub.tag = (lambda d: formatdate(1e9, usegmt=True)) if "Last-Modified" in headers(hub, data) else hub.tag
    url = hub.put("/a", data, ("cut", 100_000))
    download(url, tmp_path / "a.bin")
    assert (
        hub.asked() == [None, "bytes=100000-" if joins else None]
        and (tmp_path / "a.bin").read_bytes() == data
    )


@pytest.mark.parametrize(
    "size",
    [SIZE, SIZE - 70_000, SIZE + 70_000, 60_000],
    ids=["same size", "smaller", "larger", "smaller than the part"],
)
def test_changed_in_mid_way(hub, tmp_path, size):
    old, new = body(1), body(2, size)
    url = hub.put("/a", old, ("cut", 100_000), ("change", new))
    with Watch(tmp_path, [new]):
        download(url, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new


def test_changed_and_the_server_ignores_if_range(hub, tmp_path):
    old, new = body(1), body(2)
    url = hub.put("/a", old, ("cut", 100_000))
    with pytest.raises(UserError):
        download(url, tmp_path / "a.bin", tries=1)
    hub.files["/a"], hub.scripts["/a"] = new, ["ignore_if_range"]
    with Watch(tmp_path, [new]):
        download(url, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new


def test_changed_between_two_days(hub, tmp_path):
    old, new = body(1), body(2)
    url = hub.put("/a", old, ("cut", 100_000))
    with pytest.raises(UserError, match="100,000 bytes are kept"):
        download(url, tmp_path / "a.bin", tries=1)
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    hub.put("/a", new)
    download(url, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new and names(tmp_path) == ["a.bin"]
    assert hub.asked() == [None, "bytes=100000-"]  # If-Range: the answer to the second was the whole new file


@pytest.mark.parametrize(
    "part",
    [body(1)[:99_000], b"?" * 99_000, body(1), body(1) + b"?", b""],
    ids=["its beginning", "something else", "all of it", "more", "empty"],
)
@pytest.mark.parametrize(
    "known",
    [(), (SIZE,), (SIZE, sha(body(1))), (None, sha(body(1)))],
    ids=["nothing", "size", "size and sha256", "sha256"],
)
def test_a_part_of_unknown_origin(hub, tmp_path, part, known):
    data = body(1)
    url = hub.put("/a", data)
    (tmp_path / "a.bin.part").write_bytes(part)
    download(url, tmp_path / "a.bin", *known)
    assert (tmp_path / "a.bin").read_bytes() == data
    if len(known) < 2:
        assert hub.asked() == [None]  # nothing tells what it is: not trusted
    elif part == data[:99_000]:
        assert hub.asked() == ["bytes=99000-"]  # the sha256 will tell


@pytest.mark.parametrize(
    "note", ["", "{", "[]x", '{"url": 5}', '{"url": "http://other/", "tag": "\\"x\\"", "total": 5}']
)
def test_a_damaged_note(hub, tmp_path, note):
    data = body(1)
    url = hub.put("/a", data)
    (tmp_path / "a.bin.part").write_bytes(data[:5000])
    (tmp_path / "a.bin.part.json").write_text(note)
    assert download(url, tmp_path / "a.bin").read_bytes() == data and names(tmp_path) == ["a.bin"]


def test_a_mirror_goes_on_where_the_sha256_is_known(hub, tmp_path):
    data = body(1)
    first, second = hub.put("/a", data, ("cut", 100_000)), hub.put("/mirror/a", data)
    with pytest.raises(UserError):
        download(first, tmp_path / "a.bin", SIZE, sha(data), tries=1)
    download(second, tmp_path / "a.bin", SIZE, sha(data))
    assert hub.asked("/mirror/a") == ["bytes=100000-"] and (tmp_path / "a.bin").read_bytes() == data


def test_redirect_keeps_the_range(hub, tmp_path):
    data = body(1)
    hub.put("/cdn/a", data, ("cut", 100_000))
    url = hub.put("/a", data, *[("moved", "/cdn/a")] * 2)
    assert download(url, tmp_path / "a.bin").read_bytes() == data
    assert hub.asked("/cdn/a") == [None, "bytes=100000-"]


# ---- wrong bytes ----


def test_wrong_sha_never_arrives(hub, tmp_path):
    url = hub.put("/a", body(1))
    with Watch(tmp_path, []), pytest.raises(UserError, match="sha256 is not the expected"):
        download(url, tmp_path / "a.bin", SIZE, sha(body(2)))
    assert names(tmp_path) == [] and len(hub.log) == 2  # looked at twice, and not five times


def test_a_bit_flipped_on_its_way(hub, tmp_path):
    data = body(1)
    url = hub.put("/a", data, "flip")
    with Watch(tmp_path, [data]):
        assert download(url, tmp_path / "a.bin", SIZE, sha(data).upper()).read_bytes() == data


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
@pytest.mark.parametrize("how", ["ok", "chunked"])
def test_wrong_size_never_arrives(hub, tmp_path, size, how):
    url = hub.put("/a", body(1), *[how] * 9)
    with (
        Watch(tmp_path, []),
        pytest.raises(
            UserError,
            match="the server has 300,000 bytes, .* were expected"
            if how == "ok"
            else "300,000 bytes came, .* were expected|cut after",
        ),
    ):
        download(url, tmp_path / "a.bin", size, tries=3)
    assert not (tmp_path / "a.bin").exists()


def test_a_length_that_nobody_tells(hub, tmp_path):
    data = body(1)
    url = hub.put("/a", data, "no_length")
    with pytest.raises(UserError, match="give its size or sha256"):
        download(url, tmp_path / "a.bin")
    hub.put("/a", data, "no_length")
    assert download(url, tmp_path / "a.bin", SIZE).read_bytes() == data
    hub.put("/a", data, "no_length")
    assert download(url, tmp_path / "b.bin", None, sha(data)).read_bytes() == data


def test_an_empty_file(hub, tmp_path):
    assert download(hub.put("/a", b""), tmp_path / "a.bin", 0, sha(b"")).read_bytes() == b"" and names(
        tmp_path
    ) == ["a.bin", "a.bin.sha256"]


# ---- what stands there already ----


def test_existing_files(hub, tmp_path, monkeypatch):
    data = body(1)
    url = hub.put("/a", data)
    file = tmp_path / "a.bin"
    file.write_bytes(data)
    hashed = []
    real = downloads.sha256_file
    monkeypatch.setattr(downloads, "sha256_file", lambda p: hashed.append(p) or real(p))
    for _ in range(3):
        download(url, file, SIZE, sha(data))
    assert hub.log == [] and len(hashed) == 1  # proven once, then marked
    done = subprocess.run(["sha256sum", "-c", "a.bin.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "a.bin: OK\n"  # somebody else's tool reads the mark
    file.write_bytes(data[::-1])
    with pytest.raises(UserError, match="its sha256 differs: remove it"):
        download(url, file, SIZE, sha(data))
    with pytest.raises(UserError, match="its sha256 differs"):
        download(url, file, None, sha(data))
    assert file.read_bytes() == data[::-1]  # the reader's file is named and left alone
    with pytest.raises(UserError, match="300,000 bytes, 5 were expected"):
        download(url, file, 5)
    assert download(url, file) == file and hub.log == []


# ---- what can't be mended ----


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_gone_for_good(hub, tmp_path, code):
    url = hub.put("/a", body(1), *[code] * 9)
    with pytest.raises(UserError, match="check the address") as e:
        download(url, tmp_path / "a.bin")
    assert (
        len(hub.log) == 1
        and names(tmp_path) == []
        and "\n" not in str(e.value)
        and str(tmp_path / "a.bin") in str(e.value)
    )


def test_offline(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(UserError) as e:
        download_all(
            [(f"http://127.0.0.1:{port}/{k}", tmp_path / f"{k}.bin") for k in range(9)], what="shards"
        )
    for word in (
        "could not be fetched",
        "Connection refused",
        "network",
        "mirror",
        "yourself",
        "0 of 9 shards",
        "same command",
    ):
        assert word in str(e.value)
    assert "\n" not in str(e.value) and names(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["", "a", "ftp://x/y", "file:///etc/hosts", "http://", "http:///a", "http://a b/c"]
)
def test_no_address(tmp_path, url):
    with pytest.raises(UserError, match="no http"):
        download(url, tmp_path / "a.bin")


def test_no_room(hub, tmp_path):
    with pytest.raises(UserError, match="1,000,000.0 GB to fetch, .* free on the disk"):
        download(hub.put("/a", b"x"), tmp_path / "a.bin", 10**15)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be used"):
        download(hub.put("/a", b"x"), tmp_path / "file" / "a.bin")
    assert hub.log == []


def test_disk_full_is_said(hub, tmp_path, monkeypatch):
    data = body(1)
    url = hub.put("/a", data)
    real = os.fsync

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        download(url, tmp_path / "a.bin", SIZE, sha(data))
    assert not (tmp_path / "a.bin").exists()
    monkeypatch.setattr(os, "fsync", real)
    assert download(url, tmp_path / "a.bin", SIZE, sha(data)).read_bytes() == data


def test_asked_to_wait(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 5)
    url = hub.put("/a", body(1), (429, {"Retry-After": 1}))
    download(url, tmp_path / "a.bin")
    first, second = (t for *_, t in hub.log)
    assert second - first >= 1
    hub.log.clear()
    hub.put("/a", body(1), (429, {"RateLimit": '"resolvers";r=0;t=1'}))
    download(url, tmp_path / "b.bin")
    first, second = (t for *_, t in hub.log)
    assert second - first >= 1
    hub.put("/a", body(1), (429, {"Retry-After": 3600}))
    with pytest.raises(UserError, match="wait 3,600 s"):
        download(url, tmp_path / "c.bin")


def test_one_is_asked_to_wait_and_all_do(hub, tmp_path):
    "A 429 is meant for the machine: no worker asks before its time, but for those that had asked already"
    jobs = [
        (
            hub.put(f"/{k}", body(k, 1000), *([(429, {"Retry-After": 1})] if k == 0 else [])),
            tmp_path / f"{k}.bin",
        )
        for k in range(30)
    ]
    download_all(jobs, workers=2)
    told = next(t for p, how, _, t in hub.log if how == 429)
    assert len([1 for *_, t in hub.log if told + 0.2 < t < told + 1]) == 0


# ---- many ----


def test_many(hub, tmp_path, monkeypatch):
    files = {k: body(k, 1000 + k * 9000) for k in range(20)}
    bars, silent = [], []
    real = downloads.progress

    def watched(*args, **options):
        bars.append(real(*args, **options))
        silent.append(bars[-1].disable)
        return bars[-1]

    monkeypatch.setattr(downloads, "progress", watched)
    jobs = [
        (
            hub.put(f"/{k}", d, *([("cut", 5000)] if k % 3 == 0 else [])),
            tmp_path / "deep" / f"{k}.bin",
            *((len(d), sha(d)) if k % 2 else ()),
        )
        for k, d in files.items()
    ]
    paths = download_all(jobs, workers=5, what="shards")
    assert paths == [tmp_path / "deep" / f"{k}.bin" for k in files] and [
        p.read_bytes() for p in paths
    ] == list(files.values())
    assert len(bars) == 1 and bars[0].desc == "shards"
    assert bars[0].n == bars[0].total == sum(map(len, files.values()))  # one bar over all bytes
    hub.log.clear()
    assert download_all(jobs) == paths and hub.log == []
    assert bars[1].initial == bars[1].total  # nothing to do, and it says so
    download_all(jobs, what=None)
    assert silent == [False, False, True]  # in the background: silent


def test_the_first_that_fails_ends_it(hub, tmp_path):
    jobs = [(hub.put(f"/{k}", body(k)), tmp_path / f"{k}.bin") for k in range(6)]
    del hub.files["/2"]
    with (
        Watch(tmp_path, [body(k) for k in range(6)]),
        pytest.raises(UserError, match="404.*; 2 of 6 shards are there"),
    ):
        download_all(jobs, workers=1, what="shards")
    hub.put("/2", body(2))
    download_all(jobs, workers=3)
    assert [p.read_bytes() for _, p in jobs] == [body(k) for k in range(6)]


def test_bad_jobs(tmp_path):
    assert download_all([]) == []
    with pytest.raises(ValueError, match="two jobs"):
        download_all([("http://a/b", tmp_path / "x"), ("http://a/c", tmp_path / "x")])


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_night(hub, tmp_path, seed):
    "Random misdeeds, changing files, parts: a file is whole or absent, always; with good weather all arrive"
    rng = random.Random(seed)
    versions, jobs = [], []
    for k in range(8):
        old, new = (
            body(100 * seed + k, rng.randrange(1, 200_000)),
            body(100 * seed + 50 + k, rng.randrange(1, 200_000)),
        )
        versions += [old, new]
        known = rng.random() < 0.5
        script = [
            rng.choice(
                [
                    ("cut", rng.randrange(len(old))),
                    ("reset", rng.randrange(len(old))),
                    500,
                    429,
                    "close",
                    "garbage",
                    "ignore_range",
                    "wrong_range",
                    "no_content_range",
                    "chunked",
                    ("chunked_cut", rng.randrange(len(old))),
                    ("piece", rng.randrange(1, 9999)),
                    "gzip",
                    "longer",
                ]
                + ([] if known else [("change", new), ("change", old)])
            )
            for _ in range(rng.randrange(8))
        ]
        jobs.append(
            (hub.put(f"/{k}", old, *script), tmp_path / f"{k}.bin", *((len(old), sha(old)) if known else ()))
        )
        if rng.random() < 0.3:
            (tmp_path / f"{k}.bin.part").write_bytes(
                rng.choice([old[: rng.randrange(len(old))], b"?" * rng.randrange(300_000)])
            )
    with Watch(tmp_path, versions):
        for night in range(60):
            try:
                download_all(jobs, workers=3, tries=2)
                break
            except UserError as e:
                assert "could not be fetched" in str(e)
    assert sorted(n for n in names(tmp_path) if not n.endswith(".sha256")) == sorted(
        f"{k}.bin" for k in range(8)
    )


# ---- killed, interrupted, twice at once ----

CODE = """import sys; from nanochat import hub; hub.backoff = lambda *a, **k: .01
url, folder, n = sys.argv[1:]
def main(): hub.download_all([(f"{url}/{k}", f"{folder}/{k}.bin") for k in range(int(n))], workers=3)
from nanochat.runtime import friendly
friendly(main)()"""


def start(hub, folder, n):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, hub.url, str(folder), str(n)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_and_resume(hub, tmp_path):
    files = [body(k) for k in range(3)]
    hub.slow = 0.05  # 15 pieces of 20,000 bytes each, for each file: a second
    for k, d in enumerate(files):
        hub.put(f"/{k}", d)

    def here():
        return {f"/{k}": p.stat().st_size for k in range(3) if (p := tmp_path / f"{k}.bin.part").exists()}

    kept, resumed = {}, 0
    with Watch(tmp_path, files):
        for wait in (
            80_000,
            300_000,
            600_000,
            None,
        ):  # kill -9 when about so many bytes were sent; the last run may end
            begun = len(hub.log)
            run = start(hub, tmp_path, 3)
            if wait:
                while hub.sent < wait and run.poll() is None:
                    time.sleep(0.005)
                run.kill()
                run.wait()
            else:
                assert run.wait(60) == 0, run.stderr.read()
            run.stderr.close()
            for path, size in kept.items():  # it asked for what was missing, and for no byte more
                asked = [r for p, _, r, _ in hub.log[begun:] if p == path]
                if asked and size:
                    assert asked == [f"bytes={size}-"]
                    resumed += 1
            kept = here()
    assert [(tmp_path / f"{k}.bin").read_bytes() for k in range(3)] == files and names(tmp_path) == [
        "0.bin",
        "1.bin",
        "2.bin",
    ]
    assert resumed


def test_ctrl_c(hub, tmp_path):
    hub.slow = 0.2
    for k in range(3):
        hub.put(f"/{k}", body(k))
    run = start(hub, tmp_path, 3)
    while hub.sent < 80_000:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 130 and "Traceback" not in run.stderr.read()
    run.stderr.close()
    assert not list(tmp_path.glob("*.bin")) and list(tmp_path.glob("*.part"))


def test_four_processes_fetch_each_file_once(hub, tmp_path):
    files = [body(k) for k in range(5)]
    hub.slow = 0.01
    for k, d in enumerate(files):
        hub.put(f"/{k}", d)
    with Watch(tmp_path, files):
        runs = [start(hub, tmp_path, 5) for _ in range(4)]
        for run in runs:
            assert run.wait(60) == 0, run.stderr.read()
    for run in runs:
        run.stderr.close()
    assert [(tmp_path / f"{k}.bin").read_bytes() for k in range(5)] == files and names(tmp_path) == [
        f"{k}.bin" for k in range(5)
    ]
    assert len(hub.log) == 5 and hub.sent == 5 * SIZE  # as torchrun does it: one fetches, the others wait
