"Checks and known wrong answers for the exercises of chapter 03"
import math, random
from nanochat.corpus import cut_at
from grade import Exercise, Wrong
from graders.common import call, number, telling, whole, written

# ---- 1. what will it cost?: cost(tokens, ...) -> (shards, GB on disk, seconds) ----

def cost(tokens, bytes_per_token, text_bytes, file_bytes, total_shards, mbit):
    train = min(math.ceil(tokens*bytes_per_token/text_bytes), total_shards-1)
    size = (train+1)*file_bytes
    return train+1, size/1e9, size*8/(mbit*1e6)

def costs(train=lambda t, b, text, file, total: min(math.ceil(t*b/text), total-1), val=1, gb=1e9,
          seconds=lambda size, mbit: size*8/(mbit*1e6), kind=lambda text, file: file, seen=lambda n: n,
          part=False):
    "A variant of the right answer"
    def answer(tokens, bytes_per_token, text_bytes, file_bytes, total_shards, mbit):
        n = train(tokens, bytes_per_token, text_bytes, file_bytes, total_shards)+val
        size = (min(tokens*bytes_per_token/text_bytes, total_shards-1)+1 if part
                else seen(n))*kind(text_bytes, file_bytes)
        return n, size/gb, seconds(size, mbit)
    return answer

PUBLISHED = [(11.2e9, 4.8, 250e6, 100e6, 1823, 1000), (3.5e6, 2.6, 481e6, 248e6, 5, 50),
             (5.1e9, 4.9, 250e6, 92e6, 6543, 10_000), (1e12, 4.8, 250e6, 100e6, 1823, 1000)]

ARGUMENTS = ("tokens", "bytes_per_token", "text_bytes", "file_bytes", "total_shards", "mbit")

def cost_check(answer):
    rng = random.Random(0)
    cases = PUBLISHED+[(rng.randrange(1, 10_000)*1e6, round(rng.uniform(2, 5), 1),
                        rng.randrange(100, 500)*1e6, rng.randrange(10, 100)*1e6, rng.randrange(2, 300),
                        rng.choice([20, 100, 1000])) for _ in range(60)]
    cases.append((5e8, 5, 250e6, 100e6, 1823, 100))      # ten shards to the byte
    for case in cases:
        say, want = f"cost({', '.join(f'{k}={number(v)}' for k, v in zip(ARGUMENTS, case))})", cost(*case)
        got = call(say, answer, *case)
        assert isinstance(got, (tuple, list)) and len(got) == 3, (
            f"{say}: three numbers are asked for: shards, GB, seconds; you gave {got!r}")
        for name, a, b in zip(("shards", "GB", "seconds"), got, want):
            assert isinstance(a, (int, float)) and not isinstance(a, bool), (
                f"{say}: {name} is {a!r}, which is no number")
            assert math.isclose(a, b, rel_tol=1e-9), f"{say}: {name} should be {b:,.6g}, yours are {a:,.6g}"

costing = Exercise("1. What will it cost?", 3, cost_check, cost,
                   probes=PUBLISHED+[(5e8, 5, 250e6, 100e6, 1823, 100)],
    behave=lambda f, *case: tuple(round(float(x), 9) for x in f(*case)),
    wrong=[
        Wrong("bits taken for bytes",
              "the speed of a line is counted in bits, a file in bytes. Your download seems eight times too "
              "fast.",
              costs(seconds=lambda size, mbit: size/(mbit*1e6))),
        Wrong("validation forgotten",
              "the last shard of the listing is fetched as well: without it there is nothing to score on.",
              costs(val=0)),
        Wrong("rounded down",
              "a run that needs 215.04 shards can't stop at 215. And a run always needs one, however small "
              "it is.",
              costs(train=lambda t, b, text, file, total: min(int(t*b/text), total-1))),
        Wrong("text instead of files",
              "what travels and what lies on the disk is compressed. The bytes of text only say how many "
              "shards are read.",
              costs(kind=lambda text, file: text)),
        Wrong("files instead of text",
              "how many shards a run reads depends on the text in them, not on the size of the compressed "
              "file.",
              costs(train=lambda t, b, text, file, total: min(math.ceil(t*b/file), total-1))),
        Wrong("more shards than there are",
              "a corpus ends. What is read a second time is not fetched a second time.",
              costs(train=lambda t, b, text, file, total: math.ceil(t*b/text))),
        Wrong("powers of two",
              "a GB is 10⁹ bytes here, as on the label of a disk; 2³⁰ bytes are a GiB.",
              costs(gb=2**30)),
        Wrong("a megabit of 2^20",
              "a line of 1 Mbit/s carries 1,000,000 bits a second. Powers of two are for memory.",
              costs(seconds=lambda size, mbit: size*8/(mbit*2**20))),
        Wrong("megabytes instead of gigabytes", "1 GB is 10⁹ bytes; 10⁶ are a MB.", costs(gb=1e6)),
        Wrong("the cap is one too high",
              "of `total_shards` one is for validation and is never read in training. So a run reads "
              "`total_shards - 1` at most, and fetches all of them at most.",
              costs(train=lambda t, b, text, file, total: min(math.ceil(t*b/text), total))),
        Wrong("rounded to the nearest",
              "a run that needs 215.04 shards needs 216, and one that needs 0.02 needs 1: round up.",
              costs(train=lambda t, b, text, file, total: min(round(t*b/text), total-1))),
        Wrong("one more than rounded down",
              "that is right for 215.04 shards and wrong for exactly 10. `math.ceil` rounds up and leaves "
              "whole numbers alone.",
              costs(train=lambda t, b, text, file, total: min(int(t*b/text)+1, total-1))),
        Wrong("tokens are bytes",
              "a token stands for `bytes_per_token` bytes of text.",
              costs(train=lambda t, b, text, file, total: min(math.ceil(t/text), total-1))),
        Wrong("divided by the bytes of a token",
              "the longer the tokens, the *more* text a number of tokens stands for: multiply.",
              costs(train=lambda t, b, text, file, total: min(math.ceil(t/b/text), total-1))),
        Wrong("validation costs nothing",
              "the shard for validation is counted, and it neither lies on your disk nor travels. It does "
              "both.",
              costs(seen=lambda n: n-1)),
        Wrong("a part of a shard is fetched",
              "the last shard is fetched whole, even if the run reads only its beginning.",
              costs(part=True))])

# ---- 2. disjoint and complete: reads(start, stop, rank, ranks, worker, workers) -> numbers of documents ----

def reads(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % (ranks*workers) == rank*workers+worker]

def by_worker_only(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % ranks == rank]
def from_start(start, stop, rank, ranks, worker, workers): return list(range(start+rank*workers+worker, stop,
    ranks*workers))
def blocks(start, stop, rank, ranks, worker, workers):
    n, me = (stop-start)//(ranks*workers), rank*workers+worker
    return list(range(start+me*n, start+(me+1)*n))
def clashing(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % (ranks*workers) == (rank+worker) % (ranks*workers)]
def past_start(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start+1, stop) if k % (ranks*workers) == rank*workers+worker]
def worker_first(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % (ranks*workers) == rank*ranks+worker]

def reads_check(answer):
    rng = random.Random(2)
    cases = [(2, 2, 0, 8), (2, 3, 0, 12), (2, 2, 5, 13), (1, 1, 0, 3), (3, 3, 4, 4), (3, 3, 7, 9)]
    for _ in range(120):
        start = rng.choice([0, rng.randrange(60)])
        cases.append((rng.randrange(1, 6), rng.randrange(1, 5), start, start+rng.randrange(80)))
    for ranks, workers, start, stop in sorted(cases, key=lambda c: (c[3]-c[2], c)):
        everyone = [(rank, worker) for rank in range(ranks) for worker in range(workers)]
        def ask(rank, worker, start):
            say = written("reads", start=start, stop=stop, rank=rank, ranks=ranks, worker=worker,
                          workers=workers)
            got = call(say, answer, start, stop, rank, ranks, worker, workers)
            with telling(say):
                got = list(got)
            assert all(whole(k) for k in got), (
                f"{say} gives {got[:6]}: numbers of documents are whole numbers")
            return say, got
        shares = {}
        for rank, worker in everyone:
            say, got = ask(rank, worker, start)
            assert got == sorted(got), f"{say} gives {got[:6]}…, not in rising order"
            outside = [k for k in got if not start <= k < stop]
            assert not outside, f"{say} gives {outside[0]}, which is outside"
            shares[rank, worker] = got
            _, before = ask(rank, worker, 0)
            before = [k for k in before if k >= start]
            assert got == before, (
                f"{say} gives {got[:5]}, and begun at 0 the same worker had {before[:5]} from {start} on: "
                "documents have changed hands")
        shape, all_read = (
            f"{ranks} ranks of {workers} workers, documents {start} to {stop-1}"), sum(shares.values(), [])
        twice = sorted({k for k in all_read if all_read.count(k) > 1})
        assert not twice, (
            f"{shape}: document {twice[0]} is read by (rank, worker) "
            f"{' and '.join(str(w) for w, got in shares.items() if twice[0] in got)}")
        lost = sorted(set(range(start, stop))-set(all_read))
        assert not lost, f"{shape}: nobody reads {', '.join(map(str, lost[:5]))}"
        sizes = {w: len(got) for w, got in shares.items()}
        least, most = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
        assert sizes[most]-sizes[least] <= 1, (
            f"{shape}: (rank, worker) {least} has {sizes[least]} documents and {most} has {sizes[most]}; "
            "deal them evenly")

dealing = Exercise("2. Disjoint and complete", 4, reads_check, reads,
    probes=[(a, b, r, R, w, W) for a, b in ((0, 24), (7, 31), (5, 23)) for R,
            W in ((2, 1), (3, 2), (2, 3)) for r in range(R) for w in range(W)],
    behave=lambda f, *case: list(f(*case)),
    wrong=[
        Wrong("all workers read the same",
              "you deal to ranks and forget the workers, so each document is read once by every worker of "
              "its rank. In a real run that is an epoch of copies, and the loss looks fine.",
              by_worker_only),
        Wrong("counted from start",
              "who reads a document depends on where the stream was begun. After a resume documents have "
              "other readers, and a state that is kept per reader no longer fits.",
              from_start),
        Wrong("blocks, and the rest is lost",
              "a division leaves a remainder, and nobody reads it. Besides, a block is neighbours: what one "
              "reader sees should be spread over the corpus.",
              blocks),
        Wrong("two readers of one number",
              "rank plus worker gives rank 0 with worker 1 the same number as rank 1 with worker 0. Each "
              "pair needs a number of its own.",
              clashing),
        Wrong("begun one too late",
              "document number `start` is the first that is wanted, and it is missing.",
              past_start),
        Wrong("numbered by the wrong width",
              "the number of a reader is rank times the workers of a rank, plus worker. You multiply by the "
              "number of ranks.",
              worker_first),
        Wrong("two remainders of one number",
              "`k % ranks` and `k % workers` are not independent: with 2 ranks of 2 workers rank 0's worker "
              "1 would want even numbers that are odd. Give each worker of each rank one number of its own.",
              lambda start, stop, rank, ranks, worker,
              workers: [k for k in range(start, stop) if k % ranks == rank and k % workers == worker]),
        Wrong("the last document is forgotten",
              "document `stop-1` is the last that is wanted, and `range(start, stop)` ends with it by "
              "itself.",
              lambda start, stop, *who: reads(start, stop-1, *who)),
        Wrong("stop is read as well",
              "document `stop` belongs to the next stretch: `stop-1` is the last.",
              lambda start, stop, *who: reads(start, stop+1, *who)),
        Wrong("begins before start",
              "you round `start` down to a whole round, so some workers read documents from before it.",
              lambda start, stop, rank, ranks, worker,
              workers: list(range(start//(ranks*workers)*ranks*workers+rank*workers+worker, stop,
                                  ranks*workers))),
        Wrong("a round too late",
              "you round `start` up to a whole round, so what lies in between is read by nobody.",
              lambda start, stop, rank, ranks, worker,
              workers: list(range(-(-start//(ranks*workers))*ranks*workers+rank*workers+worker, stop,
                                  ranks*workers)))])

# ---- 3. where training ends: cut_bytes(data, n) -> number of bytes for training ----

def cut_bytes(data, n):
    if n >= len(data):
        return len(data)
    line = data.rfind(b"\n", 0, n)+1
    if line:
        return line
    while n > 0 and data[n] & 0xC0 == 0x80:
        n -= 1
    return n

def in_characters(data, n):
    text = data.decode()
    head = text[:n]
    return len(text[:head.rfind("\n")+1 or len(head)].encode())
def forward(data, n):
    k = data.find(b"\n", n)
    return k+1 if k >= 0 else len(data)
def anywhere(data, n): return data.rfind(b"\n", 0, n)+1 or min(n, len(data))
def before_the_end(data, n):
    if n >= len(data):
        return len(data)
    k = data.rfind(b"\n", 0, n)
    return k if k >= 0 else cut_bytes(data, n)
def line_too_far(data, n):
    k = data.rfind(b"\n", 0, n+1)+1
    return k or cut_bytes(data, n)
def all_or_nothing(data, n): return len(data) if n >= len(data) else data.rfind(b"\n", 0, n)+1

def other_line_ends(data, n):
    if n >= len(data):
        return len(data)
    return max(data.rfind(b"\n", 0, n), data.rfind(b"\r", 0, n))+1 or cut_bytes(data, n)
def before_the_cut(data, n):
    if n >= len(data) or b"\n" in data[:n]:
        return cut_bytes(data, n)
    while n > 0 and data[n-1] & 0xC0 == 0x80:
        n -= 1
    return n
def nearest(data, n):
    if n >= len(data):
        return len(data)
    before, after = data.rfind(b"\n", 0, n)+1, data.find(b"\n", n)+1
    return after if after and after-n < n-before else before or cut_bytes(data, n)

TEXTS = ["one\ntwo\nthree\n", "äöü\nß🙂\nend", "🙂🙂🙂", "no line end at all", "\n\n\n", "", "é",
         "tail\n没有换行的一行", "a\r\nb\r\n", "\n🙂🙂🙂", "a\rb\x0bc\x85d\u2028e", "ab\ncdefgh\ni", "aé中🙂"]

def cut_check(answer):
    rng = random.Random(3)
    texts = TEXTS+["".join(rng.choices("ab\n é🙂中\r\u2028", k=rng.randrange(40))) for _ in range(200)]
    texts += ["".join(rng.choices("abé🙂中\r", k=rng.randrange(20))) for _ in range(50)]
    for text in sorted(texts, key=len):
        data = text.encode()
        for n in sorted({0, 1, len(data)//2, max(len(data)-1, 0), len(data), len(data)+3,
                         *(rng.randrange(len(data)+1) for _ in range(4))}):
            say = written("cut_bytes", data, n)
            got = call(say, answer, data, n)
            assert whole(got), f"{say} is {got!r}: a number of bytes is asked for, not a {type(got).__name__}"
            assert 0 <= got <= min(n, len(data)), (
                f"{say} is {got}: training may have {min(n, len(data))} bytes at most, and none less than 0")
            try:
                data[:got].decode(), data[got:].decode()
            except UnicodeDecodeError:
                raise AssertionError((
                f"{say} is {got}, in the middle of a character")) from None
            # text that fits is not cut; else the library decides, which counts its answer in characters
            want = len(data) if n >= len(data) else len(text[:cut_at(text, n)].encode())
            assert got == want, f"{say} is {got}, and should be {want}: {data[:want]!r} for training"

cutting = Exercise("3. Where training ends", 3, cut_check, cut_bytes,
                   probes=[(t.encode(), n) for t in TEXTS for n in (1, 3, 5, 6, 8, 9, 12, 99)],
    wrong=[
        Wrong("characters counted",
              "you cut at the n-th character. In a text of 🙂 that is four times as many bytes, and a tenth "
              "is no longer a tenth.",
              in_characters),
        Wrong("forward to the next line end",
              "the cut goes back, not forward: else validation loses text to training, and a last line "
              "without an end leaves it nothing.",
              forward),
        Wrong("inside a character",
              "where there is no line end you cut at byte n. Look at the byte that would begin the second "
              "part: 10xxxxxx continues a character.",
              anywhere),
        Wrong("the newline on the wrong side",
              "a line ends with its newline. You cut before it, so validation begins with an empty line.",
              before_the_end),
        Wrong("one byte too many",
              "a line end at byte n, counted from 0, would give training n+1 bytes.",
              line_too_far),
        Wrong("nothing without a line end",
              "where no line ends before byte n, training still gets what fits, up to the last whole "
              "character.",
              all_or_nothing),
        Wrong("every kind of line end",
              "`splitlines` and its like also end lines at \\r and other signs. Here a line ends with \\n "
              "and with nothing else; \\r\\n ends with it as well.",
              other_line_ends),
        Wrong("the end of the text is no line end",
              "where all of the data fits nothing is cut, and a last line without a newline stays. Look at "
              "that case first.",
              lambda data, n: data.rfind(b"\n", 0, n)+1 or cut_bytes(data, n)),
        Wrong("looks at the byte before the cut",
              "the cut is inside a character if the byte *after* it, data[n], goes on with one. That the "
              "byte before it does says nothing: every character ends so.",
              before_the_cut),
        Wrong("a line end at the very beginning",
              "`rfind` gives 0 for a newline that is the first byte, and -1 for none: then training gets "
              "one byte, the newline.",
              lambda data, n: len(data) if n >= len(data) else k+1 if (k := data.rfind(b"\n", 0, n)) > 0
              else cut_bytes(data.replace(b"\n", b" "), n)),
        Wrong("the nearest line end",
              "the nearest line end may lie behind byte n, and training may have n bytes at most.",
              nearest)])

# ---- 4. number k: find(k, shards) -> (shard, group, row) ----

def find(k, shards):
    k %= sum(map(sum, shards))
    for i, groups in enumerate(shards):
        for g, rows in enumerate(groups):
            if k < rows:
                return i, g, k
            k -= rows

def finder(inside, wrap=True):
    def answer(k, shards):
        if wrap:
            k %= sum(map(sum, shards))
        for i, groups in enumerate(shards):
            for g, rows in enumerate(groups):
                if inside(k, rows):
                    return i, g, k
                k -= rows
    return answer

def equal_groups(k, shards):
    k %= sum(map(sum, shards))
    for i, groups in enumerate(shards):
        if k < sum(groups):
            return i, k//groups[0], k % groups[0]
        k -= sum(groups)

def through_groups(k, shards):
    k %= sum(map(sum, shards))
    at = 0
    for i, groups in enumerate(shards):
        for rows in groups:
            if k < rows:
                return i, at, k
            k -= rows
            at += 1

def one_epoch_off(k, shards):
    n = sum(map(sum, shards))
    return finder(lambda k, rows: k < rows, wrap=False)(k-n if k >= n else k, shards)

def row_of_shard(k, shards):
    i, g, r = find(k, shards)
    return i, g, sum(shards[i][:g])+r

SHELVES = [[[3, 2], [4]], [[1], [0, 5], [2, 2, 2]], [[100, 100, 37], [100, 12], [], [50]],
           [[0, 0, 7], [7, 1]]]

def find_check(answer):
    rng = random.Random(4)
    shelves = SHELVES+[[[rng.randrange(6) for _ in range(rng.randrange(4))]
                        for _ in range(rng.randrange(1, 5))]+[[rng.randrange(1, 9)]] for _ in range(60)]
    for shards in sorted(shelves, key=lambda s: len(str(s))):
        n = sum(map(sum, shards))
        for k in [*range(min(n, 60)), n-1, n, n+1, 5*n+rng.randrange(n)]:
            mine, want, say = [list(g) for g in shards], find(k, shards), f"find({k}, {shards})"
            got = call(say+f" ({n} documents)", answer, k, mine)
            assert mine == shards, f"{say}: your code changes `shards`; only count"
            assert isinstance(got, (tuple, list)) and len(got) == 3 and all(whole(x) for x in got), (
                f"{say}: three whole numbers (shard, group, row) are asked for, not {got!r}")
            assert tuple(got) == want, f"{say} is {want}, you say {tuple(got)}"
    big = [[1024]*300 for _ in range(50)]
    assert tuple(answer(10**12+5, big)) == find(10**12+5, big), (
        "with 50 shards of 300 groups of 1,024 rows, document 1,000,000,000,005, many epochs on, has "
        "another place")

finding = Exercise("4. Number k", 3, find_check, find,
                   probes=[(k, s) for s in SHELVES
                           for k in (0, 1, 2, 3, 4, 5, 8, 9, 11, 14, 99, 100, 237, 240, 398, 400)],
                   seconds=10,
    behave=lambda f, k, shards: tuple(f(k, shards)),
    wrong=[
        Wrong("one row beyond the end",
              "a group of 3 rows has rows 0, 1 and 2. You find a row 3 in it, which is row 0 of the next.",
              finder(lambda k, rows: k <= rows)),
        Wrong("all groups alike",
              "the last group of a shard is shorter, and some are empty. Divide by the first one's size and "
              "you miss.",
              equal_groups),
        Wrong("groups counted through",
              "the number of a group is its place in its own shard: each file begins with group 0.",
              through_groups),
        Wrong("row of the shard",
              "the row is counted from the beginning of its group, not of its shard.",
              row_of_shard),
        Wrong("one epoch only",
              "after the last document comes the first one again: the second epoch begins there.",
              finder(lambda k, rows: k < rows, wrap=False)),
        Wrong("counted from 1",
              "document 0 is the first. You begin to count at 1, so everything is one place early.",
              lambda k, shards: find(k-1, shards)),
        Wrong("one epoch taken off",
              "k may lie many epochs on: `k % n` takes off as many as there are, one subtraction only one.",
              one_epoch_off),
        Wrong("the last document of an epoch",
              "n documents have the numbers 0 to n-1, so an epoch is n long, not n-1.",
              lambda k, shards: find(k % max(sum(map(sum, shards))-1, 1), shards)),
        Wrong("empty groups are not counted",
              "an empty group holds no document, and it has a number all the same.",
              lambda k, shards: find(k, [[n for n in groups if n] for groups in shards])),
        Wrong("group and shard change places",
              "the answer is (shard, group, row), in this order.",
              lambda k, shards: (lambda i, g, r: (g, i, r))(*find(k, shards))),
        Wrong("places counted from 1",
              "the first shard, its first group and the first row have the number 0.",
              lambda k, shards: tuple(x+1 for x in find(k, shards)))])

EXERCISES = dict(costing=costing, dealing=dealing, cutting=cutting, finding=finding)
