"Hub corpora against a hostile server: files arrive whole, documents are disjoint and complete over readers"

import hashlib, http.server, json, os, random, re, subprocess, sys, threading, time
from collections import Counter
from itertools import islice
import pytest
from conftest import ROOT, door, environment, leftovers, one_line, run_module

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq

NAME, REPO, REV = "tinystories", "roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"


class Hub:
    "A server that imitates the hub; `faults[path]` are met one after the other, `always[path]` every time"

    def __init__(self, files, ranges=True, page=2):
        self.files, self.ranges, self.page, self.faults, self.always, self.log, self.lock = (
            files,
            ranges,
            page,
            {},
            {},
            [],
            threading.Lock(),
        )
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                hub.get(self)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def entry(self, path):
        "A file as the hub's listing shows it"
        size, sha256 = len(self.files[path]), hashlib.sha256(self.files[path]).hexdigest()
        lfs = dict(oid=sha256, size=size, pointerSize=134)
        return dict(type="file", oid="1" * 40, size=size, path=path, lfs=lfs)

    def get(self, h):
        path, _, query = h.path.partition("?")
        if m := re.fullmatch(rf"/api/datasets/{REPO}/tree/(\w+)/data", path):
            at = int(re.search(r"cursor=(\d+)|$", query)[1] or 0)
            names = sorted(self.files)
            listed = [self.entry(p) for p in names[at : at + self.page]]
            if not at:
                listed = [
                    dict(type="directory", oid="2" * 40, size=0, path="data/old"),
                    dict(type="file", oid="3" * 40, size=7, path="data/README.md"),
                    *listed,
                ]
            next_page = f"{getattr(self, 'far', self.address)}{path}?recursive=false&cursor={at + self.page}"
            link = {"Link": f'<{next_page}>; rel="next"'} if at + self.page < len(names) else {}
            return self.send(h, "listing", json.dumps(listed).encode(), link)
        if (m := re.fullmatch(rf"/datasets/{REPO}/resolve/{REV}/(.+)", path)) and m[1] in self.files:
            return self.send(h, m[1], self.files[m[1]], {})
        self.send(h, "none", b"no such page", {}, 404)

    def send(self, h, what, body, headers, status=200):
        with self.lock:
            fault = self.faults[what].pop(0) if self.faults.get(what) else self.always.get(what)
        if isinstance(fault, int):
            h.send_response(fault)
            h.send_header("Retry-After", "1") if fault == 429 else None
            h.send_header("Content-Length", "4")
            h.end_headers()
            h.wfile.write(b"busy")
            return
        if fault == "other":
            body = bytes(b ^ 1 for b in body)  # as long, and not the same
        if fault == "longer":
            body = body + b"and more"
        if fault == "shorter":
            body = body[:-9]
        total, a, b = len(body), 0, len(body)
        if (
            self.ranges
            and (m := re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", "")))
            and what != "listing"
        ):
            a, b = int(m[1]), min(total, int(m[2] or total) + 1)
            if a >= total:
                h.send_response(416)
                h.send_header("Content-Length", "0")
                h.end_headers()
                return
            status, headers = 206, {**headers, "Content-Range": f"bytes {a}-{b - 1}/{total}"}
        part = body[a:b]
        h.send_response(status)
        for k, v in {"Content-Length": len(part), **headers}.items():
            h.send_header(k, str(v))
        h.end_headers()
        if fault in ("cut", "stall"):
            h.wfile.write(part[: len(part) // 2])
            h.wfile.flush()
            if fault == "stall":
                time.sleep(2)
            return
        with self.lock:
            self.log.append((what, a, len(part)))
        h.wfile.write(part)

    def whole(self):
        return Counter(what for what, a, n in self.log if what in self.files and n == len(self.files[what]))


def texts_of(seed, n):
    from nanochat.world import World

    return list(islice(dict.fromkeys(islice(World(seed).documents("train"), 2 * n)), n))


def parquet(texts, rows=50):
    out = pa.BufferOutputStream()
    pq.write_table(
        pa.table(dict(text=texts)), out, row_group_size=rows, compression="zstd", write_statistics=False
    )
    return out.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def corpus_texts():
    return texts_of(11, 1120)


@pytest.fixture
def hub(corpus_texts, base, monkeypatch):
    "Four training shards of 220 to 280 documents, one of 120 for validation"
    from nanochat import corpus, hub as downloads

    cuts = [0, 220, 480, 720, 1000, 1120]
    names = [
        *(f"data/train-0000{i}-of-00004-{i:016x}.parquet" for i in range(4)),
        "data/validation-00000-of-00001-869c898b519ad725.parquet",
    ]
    hub = Hub({n: parquet(corpus_texts[a:b]) for n, a, b in zip(names, cuts, cuts[1:])})
    monkeypatch.setenv("NANOCHAT_MIRROR", hub.address)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("NANOCHAT_SHARDS", raising=False)
    nap = time.sleep
    monkeypatch.setattr(
        time, "sleep", lambda s: nap(s if s == 2 else min(s, 0.02))
    )  # waits in small; a stall stays a stall
    monkeypatch.setattr(downloads, "backoff", lambda failed: 0.02)
    monkeypatch.setattr(downloads, "STALL", 0.5)
    monkeypatch.setattr(corpus, "STALL", 0.5)
    yield hub
    hub.close()


def stream(start=0, n=None, seed=3, **kw):
    from nanochat.corpus import documents

    return list(islice(documents(NAME, "train", seed, start, epochs=2, **kw), n))


# --- the listing ---


def test_listing_is_that_of_huggingface_hub(hub):
    pytest.importorskip("huggingface_hub")
    from nanochat.corpus import hub_files

    code = f"""
import json
from huggingface_hub import HfApi
api = HfApi(endpoint={hub.address!r}, token=False)
files = api.list_repo_tree({REPO!r}, 'data', repo_type='dataset', revision={REV!r})
print(json.dumps(sorted([f.path, f.size, f.lfs.sha256] for f in files if f.path.endswith('.parquet'))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(HF_HUB_OFFLINE="0", HF_HUB_DISABLE_TELEMETRY="1"),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout)
    assert len(theirs) == 5 and [list(s) for s in hub_files(NAME)] == theirs


def test_listing_survives_what_passes(hub):
    from nanochat.corpus import hub_files

    hub.faults["listing"] = [500, 429, "cut", "stall", None, 503, None]
    assert [s.path for s in hub_files(NAME)] == sorted(hub.files)


@pytest.mark.parametrize("fault", [404, 500, "cut", "shorter", "other"])
def test_listing_that_never_comes_is_one_line_and_nothing_is_kept(hub, base, fault):
    from nanochat.corpus import documents
    from nanochat.runs import UserError

    hub.always["listing"] = fault
    with pytest.raises(UserError) as e:
        next(documents(NAME))
    for word in (NAME, "HF_ENDPOINT", "--corpus DIR", str(base / "hub" / NAME)):
        assert word in str(e.value)
    assert "\n" not in str(e.value) and not list(base.rglob("*"))


def test_listing_without_its_last_page_is_refused(hub, base):
    "A proxy that drops the Link header would make another shard the last one"
    from nanochat.corpus import hub_files
    from nanochat.runs import UserError

    for name in sorted(hub.files)[-2:]:
        del hub.files[name]
    with pytest.raises(UserError, match="3 different shards, there should be 5"):
        hub_files(NAME)
    assert not list(base.rglob("*"))


def test_next_page_is_asked_at_the_mirror(hub):
    from nanochat.corpus import hub_files

    hub.far = "https://huggingface.co"
    assert len(hub_files(NAME)) == 5


@pytest.mark.parametrize(
    "path",
    ["data/../../../up.parquet", "/etc/up.parquet", "data/.hidden.parquet", "data/a b.parquet", "..parquet"],
)
def test_path_that_would_leave_the_folder(hub, base, path):
    from nanochat.corpus import hub_files
    from nanochat.runs import UserError

    hub.files = {**hub.files, path: b"x" * 9}
    with pytest.raises(UserError, match="lists"):
        hub_files(NAME)
    assert not list(base.rglob("*"))


# --- shards ---

FAULTS = [
    ("cut",),
    ("cut", "cut", "cut"),
    ("stall",),
    (429,),
    (500, 503),
    ("other",),
    ("shorter",),
    ("longer",),
    ("cut", 500, "other", 429),
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda f: "-".join(map(str, f)))
def test_shards_arrive_whole_whatever_the_server_does(hub, base, faults):
    from nanochat.corpus import fetch, hub_dir, hub_files

    shards = hub_files(NAME)
    for s in shards:
        hub.faults[s.path] = list(faults)
    fetch(NAME, shards)
    for s in shards:
        assert (hub_dir(NAME) / s.path).read_bytes() == hub.files[s.path], s.path
    assert not list(base.rglob("*.part"))


@pytest.mark.parametrize("fault", [404, 500, "cut", "other", "longer"])
def test_shard_that_never_comes_is_one_line_and_not_under_its_name(hub, base, fault):
    from nanochat.corpus import documents, hub_dir, hub_files
    from nanochat.runs import UserError

    for s in hub_files(NAME):
        hub.always[s.path] = fault
    if fault == "cut":
        hub.ranges = False  # or each try would bring half of the rest
    with pytest.raises(UserError) as e:
        next(documents(NAME))
    assert "\n" not in str(e.value) and ".parquet" in str(e.value)
    assert not list(hub_dir(NAME).rglob("*.parquet"))


def test_stream_is_the_same_whatever_the_server_does(hub, base, monkeypatch, tmp_path):
    calm = stream()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "rough"))
    rng = random.Random(5)
    for what in ("listing", *hub.files):
        hub.faults[what] = [rng.choice(["cut", 500, 429, "cut"]) for _ in range(3)]
    assert stream() == calm
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "no ranges"))
    hub.ranges = False
    assert stream() == calm and stream(700, 30) == calm[700:730]


def test_a_full_disk_is_told_before_anything_is_fetched(hub, monkeypatch):
    from nanochat import corpus, hub as downloads
    from nanochat.runs import UserError

    shards = corpus.hub_files(NAME)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda p: type("U", (), dict(free=1000))())
    with pytest.raises(UserError, match="NANOCHAT_BASE_DIR"):
        corpus.fetch(NAME, shards)
    assert not hub.whole()


@pytest.mark.parametrize("seen", [True, False])
def test_a_damaged_shard_is_named(hub, seen):
    "Changed by a copy (its time differs, so it is proven again), or by the disk itself"
    from nanochat.corpus import documents, fetch, hub_dir, hub_files
    from nanochat.runs import UserError

    shards = hub_files(NAME)
    fetch(NAME, shards)
    for s in shards[:-1]:
        f = hub_dir(NAME) / s.path
        st, data = f.stat(), f.read_bytes()
        f.write_bytes(data[:200] + bytes(3000) + data[3200:])
        if not seen:
            os.utime(f, ns=(st.st_atime_ns, st.st_mtime_ns))
    with pytest.raises(
        UserError,
        match=r"train-0000\d.*"
        + ("sha256 differs.*remove it" if seen else "can't be read to its end.*fetch it again"),
    ):
        list(islice(documents(NAME), 500))


def test_processes_of_one_machine_fetch_a_shard_once(hub, base):
    code = f"""
from itertools import islice
from nanochat.corpus import documents
print(sum(map(len, islice(documents({NAME!r}, 'train', 3), 20))))
"""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(base),
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    said = [job.communicate(timeout=120) for job in jobs]
    assert all(job.returncode == 0 for job in jobs), said
    assert len({out for out, _ in said}) == 1
    assert all(n == 1 for n in hub.whole().values()) and hub.whole(), hub.whole()


# --- documents ---


def test_every_epoch_has_every_document_once_and_the_seed_orders_it(hub, corpus_texts):
    two = stream()
    assert sorted(two[:1000]) == sorted(two[1000:]) == sorted(corpus_texts[:1000])
    assert two[:1000] != two[1000:] and stream(seed=4)[:1000] != two[:1000] and stream() == two


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_readers_are_disjoint_and_complete_also_after_a_resume(hub, world):
    two = stream()
    for start in (0, 1, 777, 1234):
        parts = [stream(start, rank=r, world=world) for r in range(world)]
        for r in range(world):
            assert parts[r] == [d for k, d in enumerate(two) if k >= start and k % world == r]
        assert sum(map(len, parts)) == len(two) - start


def test_resume_in_the_middle_of_a_shard_reads_one_row_group_and_fetches_one_shard(
    hub, base, monkeypatch, tmp_path
):
    from nanochat import corpus

    two = stream()
    monkeypatch.setattr(corpus, "TAIL", 256)
    monkeypatch.setattr(corpus, "ahead", lambda *a: None)
    for k in (333, 950, 999):
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / f"machine {k}"))
        hub.log.clear()
        groups, real = [], pq.ParquetFile.read_row_group
        monkeypatch.setattr(
            pq.ParquetFile, "read_row_group", lambda self, g, **kw: groups.append(g) or real(self, g, **kw)
        )
        assert stream(k, 1) == two[k : k + 1]
        monkeypatch.setattr(pq.ParquetFile, "read_row_group", real)
        assert len(groups) == 1 and sum(hub.whole().values()) == 1, (groups, hub.log)
        assert sum(n for what, a, n in hub.log if what in hub.files and not hub.whole()[what]) < 0.2 * sum(
            map(len, hub.files.values())
        )


def test_a_footer_that_lies_is_not_believed(hub, monkeypatch, tmp_path):
    "A far footer that is no footer: the shard itself, which is proven, is counted instead"
    from nanochat import corpus

    two = stream()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "other"))
    corpus.hub_files(NAME)
    for what in hub.files:
        hub.faults[what] = ["other"]
    assert stream() == two


def test_a_note_that_does_not_fit_its_shard_is_named(hub, base):
    from nanochat.runs import UserError

    stream()
    notes = list(base.rglob("*.rows.json"))
    assert len(notes) == 4
    for f in notes:
        d = json.loads(f.read_text())
        d["rows"][0] += 1
        f.write_text(json.dumps(d))
    with pytest.raises(UserError, match="rows.json: remove that note"):
        stream()
    for f in notes:
        f.write_text("{")  # and one that is no note is made again
    assert len(stream()) == 2000


def test_nothing_is_fetched_that_is_not_needed(hub, monkeypatch):
    stream(0, 5)
    time.sleep(0.1)
    before = set(hub.whole())
    assert len(before) <= 2, "the first shard and the next"
    monkeypatch.setenv("NANOCHAT_SHARDS", "2")
    stream()
    assert set(hub.whole()) <= before | set(sorted(hub.files)[:2])


def test_next_shards_come_while_one_is_read(hub, monkeypatch):
    from nanochat.corpus import documents, hub_dir, shard_order

    order, docs = shard_order(NAME, 3), documents(NAME, "train", 3)
    next(docs)  # the first shard is opened
    assert came(hub_dir(NAME) / order[1].path) and not (hub_dir(NAME) / order[2].path).exists()


def came(path, seconds=20):
    "Is the file there, within these seconds?"
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path.exists()


def test_shards_come_while_the_tokenizer_trains(hub, base, monkeypatch):
    "It reads a part of the first shard; when it begins to count, the second is on its way"
    from nanochat import tokenizer
    from nanochat.corpus import Corpus, hub_dir, shard_order

    order, train, seen = shard_order(NAME, 3), tokenizer.Tokenizer.train, []

    def slow(texts, vocab_size):
        texts = list(texts)
        seen.append(came(hub_dir(NAME) / order[1].path))
        return train(texts, vocab_size)

    monkeypatch.setattr(tokenizer.Tokenizer, "train", slow)
    tokenizer.train_tokenizer(base / "runs" / "moon", Corpus(NAME, 3), 300, n_bytes=5_000)
    assert seen == [True] and not (hub_dir(NAME) / order[2].path).exists()
    assert hub.whole() == Counter({order[0].path: 1, order[1].path: 1})


def test_what_comes_beforehand_is_bounded(hub, monkeypatch):
    "Room is left on the disk, nobody is waited for, and two calls don't add up their connections"
    from nanochat import corpus

    monkeypatch.setattr(corpus, "free_bytes", lambda folder: corpus.SPARE)
    calm = stream(0, 900)
    assert len(hub.whole()) == 4 and max(hub.whole().values()) == 1, "each when it was wanted"
    now, most = [], []

    def fetch(jobs, workers, what):
        now.append(jobs)
        most.append((len(now), workers))
        threading.Event().wait(0.2)
        now.remove(jobs)

    monkeypatch.setattr(corpus, "download_all", fetch)
    monkeypatch.setattr(corpus, "free_bytes", lambda folder: 2 * corpus.SPARE)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/nowhere")
    shards = [corpus.Shard(f"data/{k}.parquet", 9, None) for k in range(6)]
    monkeypatch.setattr(corpus, "hub_url", lambda name, shard: shard.path)
    corpus.ahead(NAME, shards[:4])
    corpus.ahead(NAME, shards[1:5])
    end = time.monotonic() + 20
    while len(most) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert most == [(1, 4), (1, 4)] and len(calm) == 900


def test_validation_is_the_last_shard_whatever_lies_on_the_disk(hub, corpus_texts, monkeypatch):
    from nanochat.corpus import documents

    for n in ("", "1", "3"):
        monkeypatch.setenv("NANOCHAT_SHARDS", n)
        assert list(documents(NAME, "val")) == corpus_texts[1000:]
        assert not set(corpus_texts[1000:]) & set(islice(documents(NAME), 2500))
        if n:
            assert len(set(documents(NAME, epochs=1))) == {"1": 220, "3": 720}[n]


def test_kept_files_need_no_network(hub, monkeypatch):
    two = stream()
    hub.close()
    monkeypatch.setenv("NANOCHAT_MIRROR", "http://127.0.0.1:9")
    assert stream() == two


def test_fingerprint_is_of_commit_and_shards_and_not_of_the_mirror(hub, monkeypatch):
    from nanochat.corpus import Corpus

    one = Corpus(NAME).fingerprint()
    monkeypatch.setenv("NANOCHAT_MIRROR", "http://elsewhere.example")
    assert Corpus(NAME).fingerprint() == one != Corpus(NAME, 1).fingerprint()
    monkeypatch.setenv("NANOCHAT_SHARDS", "2")
    assert Corpus(NAME).fingerprint() != one
    assert not hub.whole()


# --- doors ---


def test_offline_is_one_line(base):
    for address, word in (("http://127.0.0.1:9", "HF_ENDPOINT"), ("mirror.example", "whole address")):
        one_line(
            run_module(
                "tokenizer", "--run", "far", "--corpus", NAME, base=base, check=False, NANOCHAT_MIRROR=address
            ),
            word,
        )
        assert not leftovers(base) and not list(base.rglob("*.json"))
    one_line(run_module("corpus", "--corpus", "wikipedia", base=base, check=False), "wikipedia", "climbmix")
    one_line(run_module("corpus", "--shards", "0", base=base, check=False), "above 0")


def test_fetching_beforehand(hub, base):
    done = run_module("corpus", "--corpus", NAME, "--shards", 2, "--dry_run", base=base)
    assert "3 of 5 shards" in done.stderr and not hub.whole()
    run_module("corpus", "--corpus", NAME, "--shards", 2, base=base)
    assert hub.whole() == Counter({p: 1 for p in [*sorted(hub.files)[:2], sorted(hub.files)[-1]]})
    assert "to be fetched: 0" in run_module("corpus", "--corpus", NAME, "--shards", 2, base=base).stderr


@pytest.mark.slow
def test_a_whole_smoke_run_on_the_hub(corpus_texts, base, monkeypatch):
    from nanochat.runs import run_dir, write_plan
    from nanochat.scaling import make_plan

    texts = texts_of(12, 3000)
    hub = Hub(
        {
            f"data/train-0000{i}-of-00004.parquet": parquet(texts[700 * i : 700 * i + 700], 200)
            for i in range(4)
        }
        | {"data/validation-00000.parquet": parquet(texts[2800:])}
    )
    for what in ("listing", *hub.files):
        hub.faults[what] = ["cut", 500]
    try:
        run = f"smoke-{NAME}-d2-s0"
        write_plan(run_dir(run), make_plan(tier="smoke", corpus=NAME))
        done = door("--tier", "smoke", "--corpus", NAME, base=base, timeout=900, NANOCHAT_MIRROR=hub.address)
        assert done.returncode == 0, done.stderr[-3000:]
        d = run_dir(run)
        summary = json.loads((d / "results" / "summary.json").read_text())
        assert json.loads((d / "settings.json").read_text())["corpus"] == NAME
        assert 0 < summary["bpb"]["base"] < summary["bpb"]["unigram"] < summary["bpb"]["uniform"], summary[
            "bpb"
        ]
        assert (
            "finished already"
            in door(
                "--tier", "smoke", "--corpus", NAME, base=base, NANOCHAT_MIRROR="http://127.0.0.1:9"
            ).stderr
        )
    finally:
        hub.close()


def test_a_part_that_gets_its_name_while_its_size_is_asked(tmp_path, monkeypatch):
    "Another worker may finish a shard between two looks: the bytes are here all the time"
    from pathlib import Path
    from nanochat.hub import _bytes_here

    whole, part = tmp_path / "a.parquet", tmp_path / "a.parquet.part"
    part.write_bytes(b"12345")
    real = Path.stat

    def stat(path, **kw):
        if path == part and os.path.exists(part):
            os.replace(part, whole)
        return real(path, **kw)

    monkeypatch.setattr(Path, "stat", stat)
    assert _bytes_here(whole) == 5


# --- the hub that a rehearsal brings along ---


def test_own_hub_is_read_like_the_real_one(base, monkeypatch):
    "All names of the large corpora, whole files and parts of them; unknown pages are refused"
    import urllib.error, urllib.request
    from nanochat.corpus import HUB, Corpus, far_footer, hub_files, hub_url
    from nanochat.scaling import KINDS, own_hub, world_shard

    with own_hub() as address:
        monkeypatch.setenv("NANOCHAT_MIRROR", address)
        for name in ("fineweb-edu", "climbmix"):
            shards = hub_files(name)
            assert len(shards) == HUB[name]["shards"]
            last, first = shards[-1], shards[0]
            assert hashlib.sha256(world_shard(KINDS)).hexdigest() == last.sha256 != first.sha256
            assert far_footer(hub_url(name, first), first.size).num_rows == 1500
        train = set(islice(Corpus("climbmix", 0).documents(), 3000))
        assert not train & set(islice(Corpus("climbmix", 0).documents("val"), 200))
        for page in ("/api/datasets/nobody/nothing/tree/main/", "/datasets/x/y/resolve/main/a.parquet", "/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + page)


def test_a_long_listing_is_parsed_once(base, monkeypatch):
    "A fingerprint asks for thousands of addresses; each used to read the whole listing again: 38 seconds"
    from nanochat import corpus
    from nanochat.scaling import own_hub

    with own_hub() as address:
        monkeypatch.setenv("NANOCHAT_MIRROR", address)
        corpus.hub_files("climbmix")
        read, loads = [], json.loads
        monkeypatch.setattr(corpus.json, "loads", lambda text: read.append(len(text)) or loads(text))
        one = corpus.Corpus("climbmix", 0).fingerprint()
        assert sum(n > 100_000 for n in read) <= 1
        kept = corpus.hub_dir("climbmix") / "files.json"
        listing = loads(kept.read_text())
        listing["revision"] = "2" * 40
        kept.write_text(json.dumps(listing))
        os.utime(kept, (1, 1))
        assert corpus.Corpus("climbmix", 0).fingerprint() != one, "what has changed is read anew"
