"Rows never change, 1 = 2 = 4 processes through a kill, threads keep the order, a cache is whole or absent"

import hashlib, json, os, random, signal, subprocess, sys, time
from itertools import combinations, islice
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from conftest import environment, leftovers
from nanochat.loader import (
    OLDEST_EVERY,
    Lane,
    Lanes,
    Tokens,
    batches,
    encode_arrays,
    ordered,
    prefetch,
    remembered,
    save_tokens,
    to_batch,
    val_rows,
    waste,
)
from nanochat.runs import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

N = 16  # lanes


@pytest.fixture(scope="module")
def docs():
    return list(islice(World(0).documents("train"), 3000))


@pytest.fixture(scope="module")
def tok(docs):
    return Tokenizer.train(docs[:600], 600)


def numbers(seed, n, longest=400):
    "Documents of made-up ids: the same on every machine"
    rng = random.Random(seed)
    return [
        [rng.randrange(1, 1000) for _ in range(min(int(rng.lognormvariate(4, 1)) + 1, longest))]
        for _ in range(n)
    ]


def sha(x):
    return hashlib.sha256(json.dumps(x).encode()).hexdigest()[:16]


# Rows and states as the first version of the loader made them (a sorted list and two fingers):
# a run that was begun with it goes on exactly
GOLDEN = {
    (257, True, 16, 64): ("378c81fe24d18d3e", "846f69d457f145a4"),
    (129, True, 4, 8): ("8a90da6925803d0b", "a4a876b40760ceb9"),
    (129, False, 4, 8): ("ec14e535f174b3a9", "158c67d629566d2d"),
    (33, True, 8, 3): ("4905e962dcef2fe4", "0e569c47616614bb"),
}


@pytest.mark.parametrize("size,cut,lanes,depth", GOLDEN)
def test_rows_and_states_are_those_of_the_first_version(size, cut, lanes, depth):
    docs = numbers(7, 3000)
    ls = Lanes(lambda k: islice(docs, k, None), lambda x: x, 0, size, lanes, depth=depth, cut=cut)
    assert (sha(ls.rows(400)), sha(ls.state())) == GOLDEN[size, cut, lanes, depth]


class Sorted:
    "The choice of the first version: a sorted list of (length, -age), two fingers"

    def __init__(self, order):
        self.order = sorted(order)

    def exact(self, space):
        o = [n for n, _ in self.order]
        hits = [
            tuple(sorted(c, reverse=True)) for r in (1, 2, 3) for c in combinations(o, r) if sum(c) == space
        ]
        short = min(map(len, hits), default=0)
        return max((h for h in hits if len(h) == short), default=())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=14), st.integers(1, 40))
def test_bits_choose_what_trying_all_sets_chooses(lengths, space):
    from nanochat.loader import Shelf

    shelf = Shelf(40)
    for age, n in enumerate(lengths):
        shelf.put(n, age)
    assert tuple(shelf.exact(space)) == Sorted([(n, -k) for k, n in enumerate(lengths)]).exact(space)
    assert shelf.fit(space) == max((n for n in lengths if n <= space), default=-1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=200), st.integers(2, 40), st.integers(1, 16), st.booleans())
def test_the_nth_that_waits_is_in_a_row_after_at_most_4n_minus_1_others(lengths, size, depth, cut):
    "Every fourth row takes the oldest, so what waited before bounds the wait, however many wait"
    lane, came, row = Lane(-1, size, cut=cut), {}, 0

    def give():
        nonlocal row
        for i in lane.row():
            if i in came:
                at, n = came.pop(i)
                assert row - at <= OLDEST_EVERY * n - 1, (row - at, n)
        row += 1

    for k, length in enumerate(lengths):
        ids = range(1000 * k, 1000 * k + length)
        for j, i in enumerate(ids[:: size - 1]):
            came[i] = row, len(lane) + j + 1  # the first token of each of its segments
        lane.put(list(ids))
        while lane.ready(depth):
            give()
    while len(lane):
        give()
    assert not came


def test_short_documents_wait_in_larger_numbers():
    "64 one-token documents do not fill two rows of 257 places: more are let in, and the bound is theirs"
    lane, waits, row = Lane(-1, 257), [], 0
    came = {}
    for k in range(4000):
        came[k] = row, len(lane) + 1
        lane.put([k])
        while lane.ready(64):
            for i in lane.row():
                if i in came:
                    at, n = came.pop(i)
                    waits.append((row - at, n))
            row += 1
    assert max(n for _, n in waits) > 200 and all(w <= OLDEST_EVERY * n - 1 for w, n in waits)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=60), st.integers(2, 30), st.integers(1, 10), st.booleans())
def test_nothing_is_lost_doubled_or_without_bos(lengths, size, depth, cut):
    ends = np.cumsum([0, *lengths]).tolist()
    lane, rows = Lane(-1, size, cut=cut), []
    for a, b in zip(ends, ends[1:]):
        lane.put(list(range(a, b)))
        while lane.ready(depth):
            rows.append(lane.row())
    while len(lane):
        rows.append(lane.row())
    assert (lane.total, lane.shelf.has, lane.shelf.flip, lane.shelf.ages) == (0, 0, 0, {})
    assert sorted(i for r in rows for i in r if i >= 0) == list(range(ends[-1]))
    assert all(len(r) <= size and r[0] == -1 for r in rows)
    if cut:
        assert all(len(r) == size for r in rows[:-1])
    assert all(b == a + 1 for r in rows for a, b in zip(r, r[1:]) if a >= 0 and b >= 0)


@pytest.mark.parametrize(
    "kind",
    [list, lambda x: np.array(x, np.uint16), lambda x: np.array(x, np.int32)],
    ids=["lists", "uint16", "int32"],
)
def test_lists_and_arrays_make_the_same_batches_and_states(kind):
    docs = numbers(3, 800)
    a, b = (
        Lanes(lambda k: islice(docs, k, None), f, 0, 129, 4)
        for f in (lambda x: x, lambda x: [kind(d) for d in x])
    )
    for (i, t, s), (j, u, z) in zip(islice(batches(a, 8, 128, 3), 9), batches(b, 8, 128, 3)):
        assert i.equal(j) and t.equal(u) and json.dumps(s) == json.dumps(z)
    assert a.rows(5) == b.rows(5)


def test_signs_survive_and_short_rows_have_no_targets():
    talks = [[~i for i in d[:3]] + d[3:] for d in numbers(4, 400, 60)]

    def make():
        return Lanes(lambda k: islice(talks, k, None), lambda x: x, ~5, 65, 4, cut=False)

    (ids, targets, _), rows = next(batches(make(), 8, 64)), make().rows(8)
    a, b = to_batch(rows, 65)
    assert (
        ids.equal(a)
        and targets.equal(b)
        and (ids >= 0).all()
        and (ids[:, 0] == 5).all()
        and (targets != 5).any()
    )
    for r, t in zip(rows, targets):
        assert (t >= 0).sum() == sum(i >= 0 for i in r[1:])


CHILD = """import json, sys
from itertools import combinations, islice
from nanochat.loader import Lanes, batches, prefetch
from nanochat.tokenizer import Tokenizer
from nanochat.world import World
folder, (rank, world, rows, start) = sys.argv[1], map(int, sys.argv[2:6])
state = json.loads(open(sys.argv[6]).read())
docs, tok = list(islice(World(0).documents("train"), 3000)), Tokenizer.load(folder)
lanes = Lanes(lambda k: islice(docs, k, None), tok.encode_batch, tok.bos, 129, 16, rank, world, state=state)
stream = prefetch(batches(lanes, rows//world, 128, 2, start))
out = [[ids.tolist(), saved] for ids, targets, saved in islice(stream, 6)]
print(json.dumps(out))"""


def processes(folder, world, start, state):
    "Six batches of 32 rows by real processes: rows of the run in order, joint states after batches 2, 4, 6"
    f = folder / f"state-{world}-{start}.json"
    f.write_text(json.dumps(state))
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), *map(str, (rank, world, 32, start)), str(f)],
            stdout=subprocess.PIPE,
            env=environment(OMP_NUM_THREADS=1),
            text=True,
        )
        for rank in range(world)
    ]
    outs = [json.loads(j.communicate(timeout=240)[0]) for j in jobs]
    rows = [outs[r % world][b][0][r // world] for b in range(6) for r in range(32)]
    return rows, [{k: v for o in outs for k, v in o[b][1].items()} for b in (1, 3, 5)]


def test_real_processes_1_2_4_resume_each_other(tok, tmp_path):
    tok.save(tmp_path)
    rows, states = processes(tmp_path, 1, 0, None)
    for world, after in ((2, 0), (4, 1)):  # go on after batch 2 or 4 with more processes
        tail, _ = processes(tmp_path, world, 2 * (after + 1), states[after])
        n = 64 * (after + 1)
        assert tail[: len(rows) - n] == rows[n:]
    two, two_states = processes(tmp_path, 2, 0, None)
    assert two == rows and two_states == states


def test_order_is_kept_whoever_is_first():
    rng = random.Random(0)

    def slow(x):
        time.sleep(rng.choice([0, 0.002]))
        return x

    assert list(ordered(slow, range(80), 6, 12)) == list(range(80))


def test_faults_come_in_their_place_and_threads_end(docs, tok):
    import gc, threading

    gc.collect()
    before = threading.active_count()

    def cut_off(k):
        yield from docs[k:400]
        raise UserError("the shard is gone")

    lanes = Lanes(cut_off, tok.encode_batch, tok.bos, 129, 4, depth=8)
    stream, n = prefetch(batches(lanes, 4, 128)), 0
    with pytest.raises(UserError, match="the shard is gone"):
        for _ in stream:
            n += 1
    assert n > 10  # what was read before still came
    del lanes, stream
    gc.collect()
    for _ in range(300):
        if threading.active_count() > before:
            time.sleep(0.1)
    assert threading.active_count() <= before


BUSY = """import sys, torch
from nanochat.loader import prefetch
def busy():
    while True: yield [torch.randn(200).sort() for _ in range(1000)][0][0]
stream = prefetch(busy()); next(stream)
if sys.argv[1] == "close": stream.close()
if sys.argv[1] == "break": raise SystemExit(3)
print("done")"""


@pytest.mark.parametrize("how", ["close", "leave open", "break"])
def test_a_thread_busy_in_torch_does_not_abort_the_end(how):
    for _ in range(2):  # without the wait, nearly every start ended in SIGABRT
        r = subprocess.run(
            [sys.executable, "-c", BUSY, how], capture_output=True, text=True, env=environment(), timeout=120
        )
        assert (r.returncode, r.stdout, r.stderr) == ((3, "", "") if how == "break" else (0, "done\n", "")), r


def test_too_short_and_unfair_shares_are_one_clear_line(tok):
    with pytest.raises(UserError, match="too short for a single row"):
        next(batches(Lanes(lambda k: iter([]), tok.encode_batch, tok.bos, 129, 4), 4, 128))
    with pytest.raises(UserError, match="16 lanes can't be shared by 3"):
        Lanes(lambda k: iter([]), tok.encode_batch, tok.bos, 129, 16, 0, 3)


def test_arrays_are_tiktokens_ids_and_refuse_half_characters(tok, docs):
    hostile = [
        "",
        " ",
        "<|bos|>",
        "a<|user_start|>b",
        "🙂" * 50,
        "\0\n\r\n",
        "x" * 5000,
        " " * 2000,
        "Köln 12345",
    ]
    for a, b in zip(
        encode_arrays(tok.enc, tok.encode)(hostile + docs[:300]), tok.encode_batch(hostile + docs[:300])
    ):
        assert a.tolist() == b
    with pytest.raises(UserError, match="lone surrogate"):
        encode_arrays(tok.enc, tok.encode)(["\ud83d"])


def test_remembered_ids_are_the_same_stream_over_epochs(tok, docs, tmp_path):
    some = docs[:700] + docs[:50]  # some documents twice

    def epochs(k):
        for e in range(3):
            order = list(range(len(some)))
            random.Random(e).shuffle(order)
            yield from (some[i] for n, i in enumerate(order, e * len(some)) if n >= k)

    calls = []
    memory = remembered(tmp_path / "t", lambda: some, tok.encode_batch, tok.vocab_size, dict(tokenizer="x"))
    again = remembered(
        tmp_path / "t",
        lambda: pytest.fail("it is there already"),
        lambda x: calls.append(x) or tok.encode_batch(x),
        tok.vocab_size,
        dict(tokenizer="x"),
    )
    assert len(memory) == len(set(some)) and (tmp_path / "t" / "ids.bin").stat().st_size == 2 * sum(
        len(tok.encode(d)) for d in set(some)
    )
    a, b = (Lanes(epochs, f, tok.bos, 129, 4) for f in (tok.encode_batch, again))
    assert a.rows(300) == b.rows(300) and json.dumps(a.state()) == json.dumps(b.state()) and not calls


def test_stale_damaged_or_empty_tokens_are_refused(tok, docs, tmp_path):
    save_tokens(tmp_path / "t", docs[:100], tok.encode_batch, tok.vocab_size, dict(tokenizer="a", corpus="b"))
    for key in (
        dict(tokenizer="a", corpus="c"),
        dict(tokenizer="z", corpus="b"),
        dict(tokenizer="a"),
        dict(tokenizer="a", corpus="b", more=1),
    ):
        with pytest.raises(UserError, match="stale"):
            Tokens(tmp_path / "t", tok.encode_batch, key)
    index = tmp_path / "t" / "index.npy"
    data = bytearray(index.read_bytes())
    data[-3] ^= 1
    index.write_bytes(data)
    with pytest.raises(UserError, match="index.npy is damaged"):
        Tokens(tmp_path / "t", tok.encode_batch, dict(tokenizer="a", corpus="b"))
    with pytest.raises(UserError, match="no text"):
        save_tokens(tmp_path / "e", [], tok.encode_batch, tok.vocab_size, {})
    assert not leftovers(tmp_path) and not (tmp_path / "e").exists()


def test_large_vocabularies_take_four_bytes(tmp_path):
    ids = {"a": [1, 70_000, 2**31], "b": [], "c": [65_536]}

    def encode(texts):
        return [ids[t] for t in texts]

    save_tokens(tmp_path / "t", ids, encode, 2**32, {})
    assert [x.tolist() for x in Tokens(tmp_path / "t", encode, {})(["c", "b", "a"])] == [
        [65_536],
        [],
        [1, 70_000, 2**31],
    ]


KILLED = """import sys, time
from nanochat.loader import save_tokens
def docs():
    for k in range(10**6):
        if k == 2000: print("half", flush=True)
        if k > 2000: time.sleep(.01)
        yield f"document {k}"
save_tokens(sys.argv[1], docs(), lambda t: [[1, 2, 3] for _ in t], 10, {})"""


def test_a_kill_leaves_no_half_cache(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "t")],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert job.stdout.readline() == "half\n"
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "t").exists()
    assert len(remembered(tmp_path / "t", lambda: ["a", "b"], lambda t: [[1] for _ in t], 10, {})) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(1, 30), st.integers(1, 12))
def test_waste_adds_up(lengths, T, depth):
    report, total = waste(lengths, T, depth), sum(lengths)
    for name, r in report.items():
        assert all(-1e-9 <= r[k] <= 1 for k in ("padding", "dropped", "cut", "orphans")), (name, r)
        if name != "best fit, rest dropped":
            assert r["dropped"] == pytest.approx(0)
        if not total:
            continue
        if name == "tape":
            assert (1 - r["padding"]) * r["rows"] * (T + 1) == pytest.approx(
                total + sum(n > 0 for n in lengths)
            )
        if name == "one a row":
            assert r["rows"] == sum(-(-n // T) for n in lengths) and r["cut"] == 0


def test_waste_is_what_the_lane_does():
    docs = numbers(9, 2000, 300)
    report = waste([len(d) for d in docs], 256)["lane"]
    lane, rows = Lane(0, 257), 0
    for d in docs:
        lane.put(d)
        while lane.ready(64):
            lane.row()
            rows += 1
    while len(lane):
        lane.row()
        rows += 1
    assert report["rows"] == rows and report["padding"] < 1 / rows and report["cut"] < 0.1


def test_validation_rows_ask_for_each_token_once(tok, docs):
    ids, targets = to_batch(val_rows(docs[:300], tok.encode, tok.bos, 128), 129)
    assert sorted(targets[(targets >= 0) & (targets != tok.bos)].tolist()) == sorted(
        i for d in docs[:300] for i in tok.encode(d)
    )
