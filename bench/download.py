"""Downloads over a bad line: the library's download_all, curl, and the download that everybody writes first.

    python bench/download.py [--repeats 3]

One server, three lines, all tools in turns in one run. *throttled*: each connection gets 20 MB/s, 16 files
of 4 MB: what workers buy, beside `curl --parallel`. *cut*: each connection is cut once in 4 MB on average
(the same luck for all tools, another in each repeat), 12 files of 8 MB: bytes on the line, beside curl (`-C
- --retry`) and a loop that begins again, and what the formula of appendix A3 says. *fast*: one file of 256
MB as fast as it goes, sha256 proven by both. Every file of every tool is compared with the original. Waits
after failures are set to 0.1 s for all.
"""

import argparse, hashlib, http.server, json, math, multiprocessing, random, re, statistics, subprocess
import sys, tempfile, threading, time, urllib.request
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
from nanochat import hub
from nanochat.hub import download_all
from nanochat.runtime import provenance


class Handler(http.server.BaseHTTPRequestHandler):
    "/KIND/SIZE/K: file K of SIZE bytes over a line of that kind; knows ranges and tags"

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/sent":
            body = json.dumps(self.server.sent).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return self.wfile.write(body)
        kind, size, k = re.match(r"/[^/]+/(\w+)/(\d+)/(\d+)", self.path).groups()
        data = content(int(size), int(k))
        tool = self.path.split("/")[1]
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.close_connection = True
        if first >= len(data):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{size}.{k}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        out = memoryview(data)[first:]
        with self.server.lock:
            dice = self.server.dice.setdefault(tool, random.Random(int(tool.split("_")[-1])))
            cut = int(dice.expovariate(1 / self.server.gap)) if kind == "cut" else len(out)
        out = out[:cut]
        block = 1 << 18
        try:
            for i in range(0, len(out), block):
                t0 = time.perf_counter()
                self.wfile.write(out[i : i + block])
                with self.server.lock:
                    self.server.sent[tool] = self.server.sent.get(tool, 0) + len(out[i : i + block])
                if kind == "throttled":
                    time.sleep(max(0, block / 20e6 - (time.perf_counter() - t0)))
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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock, server.dice, server.sent, server.gap = threading.Lock(), {}, {}, gap
    pipe.send(server.server_address[1])
    server.serve_forever()


def named(kind, tool, r):
    return re.sub(r"\W+", "_", f"{kind} {tool} {r}")  # under this name the server counts and throws its dice


def ours(jobs, workers):
    download_all(jobs, workers=workers, what=None)


def curl(jobs, workers, *more):
    text = "".join(f'url = "{url}"\noutput = "{path}"\n' for url, path, *_ in jobs)
    subprocess.run(
        [
            "curl",
            "-s",
            "--create-dirs",
            *(["--no-progress-meter", "--parallel", "--parallel-max", str(workers)] if workers > 1 else []),
            *more,
            "-K",
            "-",
        ],
        input=text,
        text=True,
        check=True,
    )


def curl_resumes(jobs, workers):
    for url, path, *_ in jobs:  # one start per cut: curl finds out by itself where the part ends
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        while subprocess.run(["curl", "-s", "-C", "-", "-o", str(path), url]).returncode:
            time.sleep(0.1)


def begins_again(jobs, workers):
    for url, path, *_ in jobs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                urllib.request.urlretrieve(url, path)
                break
            except urllib.error.ContentTooShortError:
                time.sleep(0.1)


def curl_proven(jobs, workers):
    curl(jobs, workers)
    Path(jobs[0][1] + ".sha256").write_text(f"{jobs[0][3]}  {jobs[0][1]}\n")
    subprocess.run(["sha256sum", "--status", "-c", jobs[0][1] + ".sha256"], check=True)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--repeats", type=int, default=3)
    a = p.parse_args(argv)
    hub.backoff = lambda *args, **kw: 0.1
    for n, size in ((16, 4_000_000), (12, 8_000_000), (1, 256_000_000)):
        for k in range(n):
            content(size, k)  # made before the server forks, so that no tool waits for it
    gap, (mine, its) = 4e6, multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(its, gap), daemon=True)
    process.start()
    port = mine.recv()
    out = dict(
        machine=provenance(),
        curl=subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split("\n")[0],
        repeats=a.repeats,
        lines={},
    )
    plan = [
        (
            "throttled",
            16,
            4_000_000,
            {
                "ours, 1 worker": (ours, 1),
                "ours, 4 workers": (ours, 4),
                "ours, 8 workers": (ours, 8),
                "curl": (curl, 1),
                "curl, 4 in parallel": (curl, 4),
            },
        ),
        (
            "cut",
            12,
            8_000_000,
            {
                "ours, 1 worker": (ours, 1),
                "curl -C -, started again": (curl_resumes, 1),
                "urlretrieve, begins again": (begins_again, 1),
            },
        ),
        (
            "fast",
            1,
            256_000_000,
            {
                "ours, sha256 proven": (ours, 1),
                "curl, then sha256sum": (curl_proven, 1),
                "curl, not proven": (curl, 1),
            },
        ),
    ]
    for kind, n, size, tools in plan:
        seconds, whole = (
            {t: [] for t in tools},
            [hashlib.sha256(content(size, k)).hexdigest() for k in range(n)],
        )
        for r in range(a.repeats):
            for t, (f, workers) in tools.items():  # in turns: a noisy moment meets all
                with tempfile.TemporaryDirectory() as d:
                    name = named(kind, t, r)
                    jobs = [
                        (f"http://127.0.0.1:{port}/{name}/{kind}/{size}/{k}", f"{d}/{k}", size, whole[k])
                        for k in range(n)
                    ]
                    t0 = time.perf_counter()
                    f(jobs, workers)
                    seconds[t].append(time.perf_counter() - t0)
                    assert [
                        hashlib.sha256(Path(path).read_bytes()).hexdigest() for _, path, *_ in jobs
                    ] == whole, f"{t}: not what was sent"
        sent = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/sent").read())
        out["lines"][kind] = {
            t: dict(
                seconds=round(statistics.median(s), 3),
                mb_sent=round(statistics.mean(sent[named(kind, t, r)] for r in range(a.repeats)) / 1e6, 1),
            )
            for t, s in seconds.items()
        }
        print(
            f"{kind}: {n} files of {size / 1e6:.0f} MB"
            + (
                f", cut once in {gap / 1e6:.0f} MB; the formula says "
                f"{n * gap * math.expm1(size / gap) / 1e6:,.0f} MB for who begins again"
                if kind == "cut"
                else ""
            )
        )
        for t, v in out["lines"][kind].items():
            print(f"   {t:28} {v['seconds']:7.2f} s   {v['mb_sent']:7,.1f} MB on the line")
    process.terminate()
    (here / "bench" / "results").mkdir(exist_ok=True)
    (here / "bench" / "results" / "download.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
