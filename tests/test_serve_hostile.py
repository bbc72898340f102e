"Clients that crowd, stall, vanish or lie, and an engine that fails: the server tells everybody, and goes on"

import contextlib, http.client, json, queue, resource, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import pytest, torch
from conftest import environment
from nanochat.engine import Row
from nanochat.gpt import GPT
from nanochat.serve import Hosts, Limits, LogLimit, Worker, make_app, serving
import test_serve
from test_serve import HELLO, get, make_run, post, tiny, until

endless, model, tok = test_serve.endless, test_serve.model, test_serve.tok  # fixtures


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Small models are no faster on two threads, and on a busy machine many times slower"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def connect(url, timeout=30):
    host, port = url[7:].split(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def read_all(s):
    "Until the server closes"
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(1 << 16):
            data += part
    return data


def answer_to(url, raw, timeout=20):
    "(status, error) of raw bytes; the connection stays open meanwhile, as if more were to come"
    with connect(url, timeout) as s:
        with contextlib.suppress(ConnectionError):
            s.sendall(raw)
        r = http.client.HTTPResponse(s)
        r.begin()
        return r.status, json.loads(r.read())["error"]


def ask_bytes(**kw):
    "A whole request as bytes"
    body = json.dumps(dict(messages=HELLO, **kw)).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


@contextlib.contextmanager
def served(model, tok, **limits):
    "(address, service) of a server in this process"
    app = make_app(model, tok, dict(name="tiny"), Limits(**limits))
    with serving(app) as url:
        yield url, app.state.service


# --- the engine fails ---
class Moody(GPT):
    "Fails as often as it is told to"

    failures, error, slow = 0, None, 0.0

    def forward(self, *args, **kw):
        time.sleep(self.slow)
        if self.failures:
            self.failures -= 1
            raise self.error
        return super().forward(*args, **kw)


@pytest.fixture
def moody(tok):
    m = tiny(tok)
    m.__class__ = Moody
    return m


ERRORS = [torch.OutOfMemoryError("no memory"), RuntimeError("bad luck"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_two_failed_steps_free_every_client_and_the_engine_goes_on(moody, tok, error, capsys):
    moody.error, moody.slow = error, 0.02
    with served(moody, tok, rows=2, waiting=8) as (url, svc):
        want = post(url, dict(messages=HELLO, max_tokens=5, temperature=0))
        for stream in (False, True):
            with ThreadPoolExecutor(6) as pool:  # two are being written, four wait
                asked = [pool.submit(post_any, url, stream) for _ in range(6)]
                until(lambda: len(svc.open) == 6)
                moody.failures = 2
                for a in asked:
                    e = a.result(timeout=20)["error"]
                    assert e["type"] == "server_error" and "try again" in e["message"]
            until(lambda: not svc.open)
            if moody.failures:
                assert "error" in post_any(url, stream)  # the second failure, if nobody has met it yet
            assert moody.failures == 0 and get(url + "/health")["status"] == "ok"
            again = post(url, dict(messages=HELLO, max_tokens=5, temperature=0))
            assert again[0] == 200 and again[1]["choices"] == want[1]["choices"]
    assert "Traceback" not in capsys.readouterr().err


def post_any(url, stream):
    "The error of a request, streamed or whole; the last event where there is none"
    if not stream:
        return post(url, dict(messages=HELLO, max_tokens=200, temperature=0))[1]
    with connect(url) as s:
        s.sendall(
            ask_bytes(max_tokens=200, temperature=0, stream=True).replace(
                b"Host: localhost", b"Host: localhost\r\nConnection: close"
            )
        )
        events = [
            json.loads(part.split(b"\r\n")[0][6:])
            for part in read_all(s).split(b"\n\n")
            if b"data: {" in part
            for part in [part[part.index(b"data: ") :]]
        ]
    return events[-1]


def ended(worker, rows, tell=None):
    "(reason, error) of each row"
    boxes = [queue.Queue() for _ in rows]
    for k, (row, box) in enumerate(zip(rows, boxes)):

        def listen(ids, reason, error, box=box):
            if reason or error:
                box.put((reason, error))

        worker.submit(row, tell if tell and k == 0 else listen)
    return [box.get(timeout=20) for box in boxes[bool(tell) :]]


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda e: type(e).__name__)
def test_a_listener_that_fails_harms_nobody(moody, error, capsys):
    "Also where it fails while everybody is told of a failure"
    worker = Worker(moody)
    worker.start()
    moody.error, calls = error, []

    def deaf(*news):
        calls.append(news)
        raise RuntimeError("the event loop is closed")

    try:
        assert [r for r, _ in ended(worker, [Row([1], 9) for _ in range(4)], deaf)] == ["length"] * 3
        moody.failures = 2
        for _ in range(2):
            assert [type(e) for _, e in ended(worker, [Row([1], 9) for _ in range(4)], deaf)] == [
                type(error)
            ] * 3
        assert (
            [r for r, _ in ended(worker, [Row([1], 9)])] == ["length"]
            and worker.is_alive()
            and len(calls) == 3
            and not worker.jobs
        )
    finally:
        worker.stop()


def test_a_reset_that_fails_leaves_nobody_waiting(moody, monkeypatch):
    worker = Worker(moody)
    worker.start()
    moody.error, reset = RuntimeError("bad luck"), worker.engine.reset

    def no():
        raise torch.OutOfMemoryError("not even for this")

    try:
        moody.failures = 1
        monkeypatch.setattr(worker.engine, "reset", no)
        assert all(e for _, e in ended(worker, [Row([1], 9) for _ in range(12)]))
        monkeypatch.setattr(worker.engine, "reset", reset)
        moody.failures = 1
        assert all(e for _, e in ended(worker, [Row([1], 9)]))
        assert [r for r, _ in ended(worker, [Row([1], 9)])] == ["length"]
    finally:
        worker.stop()


def test_when_the_engine_thread_is_gone_nobody_waits_for_it(moody, tok, monkeypatch):
    with served(moody, tok) as (url, svc):
        with ThreadPoolExecutor(2) as pool:
            monkeypatch.setattr(Worker, "_read_inbox", lambda self: (_ for _ in ()).throw(GeneratorExit))
            monkeypatch.setattr(
                Worker, "_fail", lambda self, *a, **k: (_ for _ in ()).throw(SystemExit)
            )  # nothing that could be told
            monkeypatch.setattr(threading, "excepthook", lambda args: None)
            svc.worker.inbox.put(("add", None))
            asked = [
                pool.submit(post, url, dict(messages=HELLO, stream=False, max_tokens=5)) for _ in range(2)
            ]
            for a in asked:
                status, e = a.result(timeout=20)
                assert status == 503 and "engine has stopped" in e["error"]["message"]
        with pytest.raises(Exception, match="503"):
            get(url + "/health")


def test_a_broken_tool_ends_its_answer_only(model, tok, monkeypatch):
    "The calculator fails for one of two clients"

    class Broken:
        def __init__(self, tok):
            self.n = 0

        def __call__(self, i):
            self.n += 1
            if self.n == 3 and next(broken, False):
                raise ZeroDivisionError("a tool that is out of order")

    broken = iter([True])
    monkeypatch.setattr("nanochat.serve.ToolUse", Broken)
    with served(model, tok) as (url, svc):
        with ThreadPoolExecutor(5) as pool:
            got = list(
                pool.map(lambda k: post(url, dict(messages=HELLO, max_tokens=20, temperature=0)), range(5))
            )
        assert sorted(status for status, _ in got) == [200] * 4 + [500]
        assert (
            len({a["choices"][0]["message"]["content"] for status, a in got if status == 200}) == 1
            and not svc.open
        )


# --- nobody is starved, no place is held ---
def test_one_token_requests_from_sixteen_clients_do_not_stop_an_answer(endless, tok):
    "Counted in steps of the engine: those between the answer's first token and its last"
    with served(endless, tok, rows=8) as (url, svc):
        steps, step, stop = [0], svc.worker.engine.step, threading.Event()

        def counted():
            steps[0] += 1
            return step()

        svc.worker.engine.step = counted

        def greedy():
            n = 0
            while not stop.is_set():
                n += post(url, dict(messages=HELLO, max_tokens=1, temperature=0))[0] == 200
            return n

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(greedy) for _ in range(16)]
            try:
                until(lambda: steps[0] > 20)
                with connect(url, 120) as s:
                    s.sendall(
                        ask_bytes(max_tokens=47, temperature=0, stream=True).replace(
                            b"Host: localhost", b"Host: localhost\r\nConnection: close"
                        )
                    )
                    seen = b""
                    while seen.count(b'"part"') < 1:
                        seen += s.recv(1 << 16)
                    first = steps[0]
                    seen += read_all(s)
                    last = steps[0]
            finally:
                stop.set()
            assert seen.count(b'"finish_reason": "length"') == 1
            assert last - first <= 47 + 30, (
                "the answer gets a token in every step (thirty more for what goes by while it is read)"
            )
            assert sum(c.result(timeout=60) for c in clients) >= 20


class Counted(set):
    "Remembers how many it held at the most, and how many in all"

    most = total = 0

    def add(self, x):
        super().add(x)
        self.most, self.total = max(self.most, len(self)), self.total + 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_burst_never_exceeds_the_limit(endless, tok, stream):
    with served(endless, tok, rows=2, waiting=4) as (url, svc):
        svc.open = Counted()
        sockets = [connect(url) for _ in range(100)]
        for s in sockets:
            s.sendall(ask_bytes(max_tokens=1500, temperature=0, stream=stream))

        def status(s):
            s.settimeout(1)
            try:
                return int(s.recv(64).split()[1])
            except TimeoutError:
                return 200  # it is being written

        got = [status(s) for s in sockets]
        assert got.count(503) == 94 and got.count(200) == 6 and svc.open.most == 6
        assert len(svc.worker.engine.rows) + len(svc.worker.engine.waiting) <= 6
        for s in sockets:
            s.close()
        until(lambda: not svc.open)
        assert post(url, dict(messages=HELLO, max_tokens=1))[0] == 200


def test_clients_that_never_read_get_no_place_for_ever(model, tok):
    "Two dozen of them, three times as many as places: each row ends, and with it its place"
    with served(model, tok, rows=4, waiting=4) as (url, svc):
        svc.open, sockets = Counted(), []
        for k in range(24):
            until(lambda: svc.open.total == k and len(svc.open) < 8)
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            s.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
            sockets.append(s)
            s.sendall(ask_bytes(temperature=0, stream=True))
        until(lambda: svc.open.total == 24 and not svc.open)
        assert post(url, dict(messages=HELLO, max_tokens=1))[0] == 200
        for s in sockets:
            s.close()


def test_who_does_not_read_is_cut_after_a_deadline(endless, tok):
    "A thousand pages asked for in one go, and none read"
    with served(endless, tok, write_seconds=1.0) as (url, svc):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.settimeout(20)
        s.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(3000):
                s.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def gone():
            try:
                s.send(b"GET / HTTP/1.1\r\n")
                return False
            except BlockingIOError:
                return False
            except OSError:
                return True

        until(gone)
        assert get(url + "/health")["status"] == "ok"


# --- silence ---
STALL = {
    "silent": (b"", b""),
    "a byte of the head now and then": (b"G", b"G"),
    "a byte of the body now and then": (ask_bytes()[:-60], b" "),
    "asks and never reads": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300, b""),
}


@pytest.mark.parametrize("how", STALL)
def test_four_hundred_stalling_connections_leave_health_answering(base, model, tok, tmp_path, how):
    "With 256 descriptors, as macOS has them; and the log stays short"
    begin, drip = STALL[how]
    with command(base, model, tok, tmp_path, descriptors=256) as (url, p, log):
        sockets, stop = [], threading.Event()

        def keep_dripping():
            while not stop.wait(0.5):
                for s in list(sockets):
                    with contextlib.suppress(OSError):
                        s.send(drip)

        thread = threading.Thread(target=keep_dripping)
        thread.start()
        try:
            for k in range(200 if how == "asks and never reads" else 400):  # that one costs the server work
                s = socket.socket()
                s.settimeout(20)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                s.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
                s.setblocking(False)
                with contextlib.suppress(OSError):
                    s.send(begin)
                sockets.append(s)
                if k % 100 == 99:
                    assert get(url + "/health")["status"] == "ok"
            for _ in range(5):
                assert (
                    get(url + "/health")["status"] == "ok"
                    and post(url, dict(messages=HELLO, max_tokens=2))[0] == 200
                )
                time.sleep(0.2)
            assert log.stat().st_size < 5000, log.read_text()[:2000]
        finally:
            stop.set()
            thread.join()
            for s in sockets:
                s.close()
        assert post(url, dict(messages=HELLO, max_tokens=2))[0] == 200


def test_every_wait_has_a_deadline(model, tok):
    host = b"Host: localhost\r\n"
    slow = {
        "nothing": b"",
        "half a line": b"GET /hea",
        "half a head": b"GET /health HTTP/1.1\r\n" + host,
        "HTTP/0.9": b"GET /\r\n",
        "no body": b"POST /v1/chat/completions HTTP/1.1\r\n"
        + host
        + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n",
        "half a body": ask_bytes()[:-3],
        "a body that nobody reads": b"GET /health HTTP/1.1\r\n" + host + b"Content-Length: 100000\r\n\r\n",
        "after an answer": b"GET /health HTTP/1.1\r\n" + host + b"\r\n",
    }
    with served(model, tok, head_seconds=1.0, body_seconds=1.0) as (url, svc):

        def closed(raw):
            with connect(url) as s:
                s.sendall(raw)
                s.settimeout(0.2)
                data, t0 = b"", time.time()
                while time.time() - t0 < 20:  # a byte now and then must not keep it open
                    try:
                        part = s.recv(1 << 16)
                        if not part:
                            return data
                        data += part
                    except TimeoutError:
                        with contextlib.suppress(OSError):
                            s.send(b"a" if raw else b"")
                    except ConnectionResetError:
                        return data
            pytest.fail(f"still open: {raw!r}, {data!r}")

        with ThreadPoolExecutor(8) as pool:
            got = dict(zip(slow, pool.map(closed, slow.values())))
    status = {k: int(v.split(b" ")[1]) if v else None for k, v in got.items()}
    assert status == {
        "nothing": None,
        "half a line": 408,
        "half a head": 408,
        "HTTP/0.9": 408,
        "no body": 408,
        "half a body": status["half a body"],
        "a body that nobody reads": 200,
        "after an answer": 200,
    }
    assert status["half a body"] in (
        400,
        408,
    )  # the drip completes it, to something that is no JSON, or it comes too late


def test_who_keeps_the_server_waiting_makes_room_and_who_is_served_stays(endless, tok):
    with served(endless, tok, connections=4) as (url, svc):
        with connect(url) as served_one:
            served_one.sendall(ask_bytes(max_tokens=1900, stream=True, temperature=0))
            assert served_one.recv(1).startswith(b"H")
            waited_for = [connect(url) for _ in range(20)]
            until(lambda: all(not s.recv(1) for s in waited_for[:10]))
            assert get(url + "/health")["open"] == 1
            assert b"data: " in served_one.recv(1000)
            for s in waited_for:
                s.close()


# --- lies ---
@pytest.mark.parametrize(
    "raw,status",
    [
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nContent-Length: 1000000000000000000\r\n\r\n{",
            413,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n{",
            413,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nContent-Length: 99999999999999999999999\r\n\r\n{",
            400,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nContent-Length: -1\r\n\r\n{",
            400,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n400000000000000000\r\n{",
            413,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"fffffffffffffffffffffffffff\r\n{",
            400,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n7fffffff\r\n{",
            413,
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # somebody speaks TLS
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000, 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    ],
)
def test_lies_about_length_are_answered_at_once(model, tok, raw, status, capsys):
    with served(model, tok, head_seconds=60.0, body_seconds=60.0) as (url, svc):
        got, error = answer_to(url, raw)  # gives up after 20 seconds
        assert got == status and error["type"] == "invalid_request_error" and error["message"]
        assert not svc.open and get(url + "/health")["status"] == "ok"
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.2",
        "[::2]",
        "0.0.0.0",
        "192.168.0.1",
        "local host",
        "localhost:99999999",
        "xn--localhost",
        "127.1",
        "2130706433",
    ],
)
def test_a_name_that_is_not_ours_gets_no_answer(model, tok, host):
    with served(model, tok) as (url, svc):
        for method, path, body in (
            ("GET", "/", None),
            ("GET", "/health", None),
            ("GET", "/v1/models", None),
            ("POST", "/v1/chat/completions", json.dumps(dict(messages=HELLO, max_tokens=1))),
        ):
            c = http.client.HTTPConnection(url[7:], timeout=30)
            c.request(method, path, body, {"Host": host, "Content-Type": "application/json"})
            r = c.getresponse()
            e = json.load(r)["error"]
            assert (
                r.status == 403
                and e["code"] == "host_not_allowed"
                and repr(host) in e["message"]
                and "--allowed_hosts" in e["message"]
            )
        assert svc.worker.tokens == 0


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1",
        "LocalHost:8000",
        "localhost.",
        "127.0.0.1:65535",
        "[::1]:8000",
        "chat.example",
        "CHAT.example:443",
    ],
)
def test_our_own_names_are_answered(model, tok, host):
    with serving(make_app(model, tok, allowed_hosts=["chat.example"])) as url:
        c = http.client.HTTPConnection(url[7:], timeout=30)
        c.request("GET", "/health", headers={"Host": host})
        assert c.getresponse().status == 200


def test_a_server_for_the_whole_network_answers_to_addresses_but_not_to_strange_names():
    h = Hosts("chat.example")
    h.bind("0.0.0.0")
    for good in ("10.0.0.7:8000", "[fe80::1]", "127.0.0.1", "chat.example", socket.gethostname()):
        assert good in h
    for bad in ("evil.example", "10.0.0.7.evil.example", "", "10.0.0.7:8000:1"):
        assert bad not in h


# --- the end ---
@contextlib.contextmanager
def command(base, model, tok, tmp_path, descriptors=None):
    "(address, process, its log) of `python -m nanochat.serve`"
    make_run(base, model, tok)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tmp_path / "log"

    def limit():
        if descriptors:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )

    with log.open("w") as f:
        p = subprocess.Popen(
            [sys.executable, "-m", "nanochat.serve", "--run", "r1", "--port", str(port), "--device", "cpu"],
            env=environment(base),
            stdout=f,
            stderr=f,
            preexec_fn=limit,
        )
    url = f"http://127.0.0.1:{port}"

    def up():
        try:
            return get(url + "/health")["status"] == "ok"
        except OSError:
            return p.poll() is not None

    try:
        until(up, 60)
        assert p.poll() is None, log.read_text()
        yield url, p, log
    finally:
        p.kill()
        p.wait()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_the_end_with_forty_answers_open(base, endless, tok, tmp_path, sign):
    "Twenty streams, twenty that wait for the whole: each is told; others are silent or do not read"
    with command(base, endless, tok, tmp_path) as (url, p, log):
        sockets = [connect(url, 20) for _ in range(44)]
        for k, s in enumerate(sockets[:40]):
            s.sendall(ask_bytes(max_tokens=1900, temperature=0, stream=k % 2 == 0))
        sockets[40].sendall(b"GET /hea")
        sockets[41].sendall(ask_bytes()[:-3])
        sockets[42].setblocking(False)  # asks for the page a thousand times, and reads nothing
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                sockets[42].send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: get(url + "/health")["open"] == 40)
        t0 = time.time()
        p.send_signal(sign)
        p.wait(timeout=20)
        took = time.time() - t0
        got = [read_all(s) for s in sockets[:40]]
        text = log.read_text()
    for k, data in enumerate(got):
        status, events = int(data.split()[1]), [l for l in data.split(b"\n") if b"error" in l]
        error = json.loads(events[-1].partition(b"{")[1] + events[-1].partition(b"{")[2])["error"]
        assert (
            status == (200 if k % 2 == 0 else 503)
            and error["type"] == "server_error"
            and "closing" in error["message"]
        ), data[-300:]
    assert "Traceback" not in text and "Exception" not in text and text.count("\n") <= 3, text
    assert p.returncode in ((130,) if sign == signal.SIGINT else (-signal.SIGTERM, 143)) and took < 10, took


def test_the_log_does_not_grow_without_bound():
    import logging

    limit = LogLimit(5, 1e6)
    lines = [limit.filter(logging.LogRecord("x", 30, "", 0, "again %d", (k,), None)) for k in range(1000)]
    assert lines == [True] * 5 + [False] * 995
    limit.begun = -1e9
    r = logging.LogRecord("x", 30, "", 0, "again %d", (7,), None)
    assert limit.filter(r) and r.getMessage() == "again 7 (995 lines before this one were left out)"
