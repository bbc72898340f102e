"""Downloads from a bad line on this machine: the library's beside huggingface_hub, curl, and a naive loop.

    python bench/download.py [--repeats 3] [--parts faults lines]

*faults*: one misdeed of the server at a time (the server of tests/test_download.py), beside huggingface_hub's
`hf_hub_download` with its own retries and resume. A file is *whole*, or it is *refused* with an error and
nothing under its name, or it is WRONG: bytes that are no version of the file, under the final name, without
an error. Both get the same two seconds after which a silent connection counts as dead.
*lines*: throttled (20 MB/s a connection, 16 files of 4 MB), cut (once in 4 MB on average, 12 files of 8 MB),
fast (one file of 200 MB from this machine), all tools in turns, medians. Every file is compared with the
original.
"""

import argparse
import functools
import hashlib
import http.server
import importlib.metadata
import json
import math
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ |= {
    "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    "HF_HUB_ETAG_TIMEOUT": "5",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import huggingface_hub  # noqa: E402
from nanochat import hub  # noqa: E402
from nanochat.hub import download_all  # noqa: E402
from nanochat.runtime import provenance  # noqa: E402

SIZE = 36_000_000  # huggingface_hub writes blocks of 10 MB, and keeps whole blocks when it is cut
REPO, COMMIT = "someone/corpus", "0" * 40


@functools.lru_cache(64)
def sha(data):
    return hashlib.sha256(data).hexdigest()


def ours(url, folder, size=None, sha256=None):
    return download_all([(url, Path(folder) / "a.bin", size, sha256)], what=None)


def huggingface(url, folder, cached=False):
    "hf_hub_download into a folder, or into its own cache"
    where = dict(cache_dir=folder) if cached else dict(local_dir=folder)
    endpoint = "/".join(url.split("/")[:3])
    return huggingface_hub.hf_hub_download(REPO, url.split("/")[-1], endpoint=endpoint, token=False, **where)


# ---- faults ----


def fault_server():
    "The server of the tests, which also answers HEAD as the hub does: commit, size, and the sha256 as ETag"
    from test_download import Handler, Hub

    def do_HEAD(self):
        data = self.server.hub.files[self.path]
        self.send_response(200)
        for name, value in hub_headers(data).items():
            self.send_header(name, value)
        self.end_headers()

    Handler.do_HEAD = do_HEAD
    server = Hub()
    server.tag = lambda data: f'"{sha(data)}"'
    return server


def hub_headers(data):
    return {
        "X-Repo-Commit": COMMIT,
        "ETag": f'"{sha(data)}"',
        "X-Linked-Etag": f'"{sha(data)}"',
        "X-Linked-Size": str(len(data)),
        "Content-Length": str(len(data)),
    }


def found(folder, versions):
    "What stands under the final name"
    path = Path(folder) / "a.bin"
    if not path.exists():
        return "refused"
    return "whole" if path.read_bytes() in versions else "WRONG"


OLD, NEW = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)
FAULTS = {  # what the server does, request after request; then it behaves
    "cut in the middle": [("cut", 25_000_000)],
    "cut after every 12 MB": [("cut", 12_000_000)] * 2,
    "cut after every 3 MB": [("cut", 3_000_000)] * 11,
    "cut, chunked, no length said": [("chunked_cut", 25_000_000)],
    "reset by the peer": [("reset", 25_000_000)],
    "announces 5,000 bytes too many": ["longer"],
    "429, Retry-After: 1": [(429, {"Retry-After": 1})],
    "503": [503],
    "502, 503, 504": [502, 503, 504],
    "not a word, then closes": ["close"],
    "stalls in the middle": [("stall", 25_000_000)],
    "a byte every 20 ms": [("trickle", 25_000_000)],
    "a new version between two halves": [("cut", 25_000_000), ("change", NEW)],
    "answers a range with all of it": [("cut", 25_000_000), "ignore_range"],
    "answers with another range": [("cut", 25_000_000), "wrong_range"],
    "one bit flipped on its way": ["flip"],
}


def meet(server, tool, script):
    "(what is found, seconds, what was said) after one call"
    url = server.put(f"/{REPO}/resolve/main/a.bin", OLD, *script)
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        try:
            tool(url, folder)
        except Exception as e:
            said = f"{type(e).__name__}: {str(e).splitlines()[0][:80] if str(e) else ''}"
        return found(folder, (OLD, NEW)), round(time.perf_counter() - begun, 2), said


def killed(server, tool):
    "(what is found, share sent twice) where the first process is killed half way and a second one goes on"
    url = server.put(f"/{REPO}/resolve/main/a.bin", OLD)
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import download; download.{tool}"
    with tempfile.TemporaryDirectory() as folder:
        server.sent, server.slow = 0, 0.001
        first = subprocess.Popen([sys.executable, "-c", f"{code}({url!r}, {folder!r})"])
        while server.sent < SIZE / 2:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        server.slow = 0
        time.sleep(0.2)
        subprocess.run([sys.executable, "-c", f"{code}({url!r}, {folder!r})"], check=True)
        return found(folder, (OLD,)), round(server.sent / SIZE - 1, 2)


def disk_full(server, tool):
    "(what is found, what was said) on a disk of 20 MB, or why there is none to try"
    url = server.put(f"/{REPO}/resolve/main/a.bin", OLD)
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import download; download.{tool}"
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=20m", "none", folder], capture_output=True
        ).returncode:
            return "no small disk here", ""
        try:
            done = subprocess.run(
                [sys.executable, "-c", f"{code}({url!r}, {folder!r})"], capture_output=True, text=True
            )
            return found(folder, (OLD,)), done.stderr.strip().splitlines()[-1][
                :100
            ] if done.returncode else ""
        finally:
            subprocess.run(["umount", folder])


def faults():
    hub.STALL = 2
    hub.backoff = lambda *args, **kw: 1.0  # huggingface_hub waits a second, too
    server = fault_server()
    tools = {
        "ours": ours,
        "ours, sha256 known": lambda url, folder: ours(url, folder, SIZE, sha(OLD)),
        "hf_hub_download": huggingface,
    }
    out = {}
    print(f"{'fault':36}" + "".join(f"{name:>28}" for name in tools))
    for fault, script in FAULTS.items():
        out[fault] = {name: meet(server, tool, script) for name, tool in tools.items()}
        print(
            f"{fault:36}"
            + "".join(f"{what:>20} {seconds:5.1f} s" for what, seconds, _ in out[fault].values())
        )
    for fault, test in (("kill -9 half way, started again", killed), ("disk full", disk_full)):
        out[fault] = {
            name: test(server, tool) for name, tool in (("ours", "ours"), ("hf_hub_download", "huggingface"))
        }
        print(f"{fault:36}", out[fault])
    server.close()
    return out


# ---- lines ----


class Line(http.server.BaseHTTPRequestHandler):
    "Serves /NAME/KIND/SIZE/K, and /someone/corpus/resolve/main/KIND-SIZE-K as the hub does"

    protocol_version = "HTTP/1.1"

    def parts(self):
        if self.path.startswith(f"/{REPO}/"):
            kind, size, k = self.path.split("/")[-1].split("-")
            return "hf", kind, content(int(size), int(k))
        name, kind, size, k = self.path[1:].split("/")
        return name, kind, content(int(size), int(k))

    def do_HEAD(self):
        self.send_response(200)
        for name, value in hub_headers(self.parts()[2]).items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.close_connection = True
        if self.path == "/sent":
            body = json.dumps(self.server.sent).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        tool, kind, data = self.parts()
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{len(data)}"')
        self.send_header("Content-Length", str(len(data) - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        out = memoryview(data)[first:]
        if kind == "cut":
            with self.server.lock:
                dice = self.server.dice.setdefault(tool, random.Random(int(tool.split("_")[-1])))
                out = out[: int(dice.expovariate(1 / self.server.gap))]
        self.send_blocks(out, tool, 20e6 if kind == "throttled" else math.inf)

    def send_blocks(self, out, tool, rate, block=1 << 18):
        try:
            for i in range(0, len(out), block):
                begun = time.perf_counter()
                self.wfile.write(out[i : i + block])
                with self.server.lock:
                    self.server.sent[tool] = self.server.sent.get(tool, 0) + len(out[i : i + block])
                time.sleep(max(0, block / rate - (time.perf_counter() - begun)))
        except OSError:
            pass

    def log_message(self, *args):
        pass


CACHE = {}


def content(size, k):
    if (size, k) not in CACHE:
        CACHE[size, k] = random.Random(k).randbytes(size)
    return CACHE[size, k]


def serve(pipe, gap):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Line)
    server.daemon_threads, server.lock = True, threading.Lock()
    server.dice, server.sent, server.gap = {}, {}, gap
    pipe.send(server.server_address[1])
    server.serve_forever()


def named(kind, tool, r):
    "Under this name the server counts and throws its dice"
    return re.sub(r"\W+", "_", f"{kind} {tool} {r}")


def all_of_ours(jobs, workers):
    download_all(jobs, workers=workers, what=None)


def all_of_huggingface(jobs, workers):
    for url, path, size, _ in jobs:
        kind, size, k = url.split("/")[-3:]
        got = huggingface("/".join([*url.split("/")[:3], f"{kind}-{size}-{k}"]), Path(path).parent)
        os.replace(got, path)


def curl(jobs, workers, *more):
    text = "".join(f'url = "{url}"\noutput = "{path}"\n' for url, path, *_ in jobs)
    parallel = ["--no-progress-meter", "--parallel", "--parallel-max", str(workers)] if workers > 1 else []
    subprocess.run(
        ["curl", "-s", "--create-dirs", *parallel, *more, "-K", "-"], input=text, text=True, check=True
    )


def curl_resumes(jobs, workers):
    for url, path, *_ in jobs:  # one start per cut: curl finds out where the part ends
        while subprocess.run(["curl", "-s", "-C", "-", "-o", str(path), url]).returncode:
            time.sleep(0.1)


def begins_again(jobs, workers):
    for url, path, *_ in jobs:
        while True:
            try:
                urllib.request.urlretrieve(url, path)
                break
            except urllib.error.ContentTooShortError:
                time.sleep(0.1)


def curl_verified(jobs, workers):
    curl(jobs, workers)
    Path(jobs[0][1] + ".sha256").write_text(f"{jobs[0][3]}  {jobs[0][1]}\n")
    subprocess.run(["sha256sum", "--status", "-c", jobs[0][1] + ".sha256"], check=True)


LINES = {  # files, bytes of each, {tool: (function, workers)}
    "throttled": (
        16,
        4_000_000,
        {
            "ours, 1 worker": (all_of_ours, 1),
            "ours, 4 workers": (all_of_ours, 4),
            "ours, 8 workers": (all_of_ours, 8),
            "curl": (curl, 1),
            "curl, 4 in parallel": (curl, 4),
        },
    ),
    "cut": (
        12,
        8_000_000,
        {
            "ours, 1 worker": (all_of_ours, 1),
            "curl -C -, started again": (curl_resumes, 1),
            "urlretrieve, begins again": (begins_again, 1),
        },
    ),
    "fast": (
        1,
        200_000_000,
        {
            "ours, sha256 verified": (all_of_ours, 1),
            "hf_hub_download, not verified": (all_of_huggingface, 1),
            "curl, then sha256sum": (curl_verified, 1),
            "curl, not verified": (curl, 1),
        },
    ),
}


def race(kind, port, repeats):
    "Seconds of all tools on one line, in turns, so that a noisy moment meets all"
    n, size, tools = LINES[kind]
    whole, seconds = [sha(content(size, k)) for k in range(n)], {tool: [] for tool in tools}
    for r in range(repeats):
        for tool, (f, workers) in tools.items():
            with tempfile.TemporaryDirectory() as folder:
                address = f"http://127.0.0.1:{port}/{named(kind, tool, r)}/{kind}/{size}"
                jobs = [(f"{address}/{k}", f"{folder}/{k}", size, whole[k]) for k in range(n)]
                begun = time.perf_counter()
                f(jobs, workers)
                seconds[tool].append(round(time.perf_counter() - begun, 3))
                got = [sha(Path(path).read_bytes()) for _, path, *_ in jobs]
                assert got == whole, f"{tool}: not what was sent"
    return seconds


def lines(repeats):
    hub.STALL = 30
    hub.backoff = lambda *args, **kw: 0.1
    for n, size, _ in LINES.values():
        for k in range(n):
            content(size, k)  # made before the server forks: no tool waits for it
    gap, (mine, its) = 4e6, multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(its, gap), daemon=True)
    process.start()
    port, out = mine.recv(), {}
    for kind, (n, size, tools) in LINES.items():
        seconds = race(kind, port, repeats)
        sent = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/sent").read())
        print(f"{kind}: {n} files of {size / 1e6:.0f} MB")
        out[kind] = {}
        for tool, laps in seconds.items():
            mine = [named(kind, tool, r) if "hf_" not in tool else "hf" for r in range(repeats)]
            mb = sum(sent.get(name, 0) for name in set(mine)) / repeats / 1e6
            out[kind][tool] = dict(seconds=statistics.median(laps), laps=laps, mb_sent=round(mb, 1))
            print(f"   {tool:28} {statistics.median(laps):7.2f} s   {mb:7,.1f} MB on the line")
    process.terminate()
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=("faults", "lines"), default=("faults", "lines"))
    args = parser.parse_args(argv)
    kept = ROOT / "bench" / "results" / "download.json"
    out = json.loads(kept.read_text()) if kept.exists() else {}
    curl_version = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    out |= dict(
        command=" ".join(["python bench/download.py", *sys.argv[1:]]),
        machine=provenance(),
        curl=curl_version,
        huggingface_hub=importlib.metadata.version("huggingface_hub"),
        repeats=args.repeats,
        load_before=os.getloadavg()[0],
    )
    if "faults" in args.parts:
        out["faults"] = faults()
    if "lines" in args.parts:
        out["lines"] = lines(args.repeats)
    kept.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
