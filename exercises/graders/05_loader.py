"Checks and known wrong answers for the exercises of chapter 05"
import json, random
from itertools import islice
from nanochat.loader import Lane
from grade import Exercise, Wrong, in_child

BOS = 0

# ---- 1. a packer that loses text: next_row(buffer, size, bos) -> row ----

def packer(need=1, newest=False, rest="keep", shortest=True, pad=False, rest_bos=True, smallest=False):
    "Best fit, with switches for its mistakes"
    def next_row(buffer, size, bos):
        row = []
        while len(row) < size and buffer:
            space = size-len(row)
            order = range(len(buffer))[::-1] if newest else range(len(buffer))
            fits = [i for i in order if len(buffer[i])+need <= space]
            if fits:
                i = (min if smallest else max)(fits, key=lambda i: len(buffer[i]))
                row += [bos, *buffer.pop(i)]
                row = row[:size]
            elif pad: row += [bos]*space
            else:
                i = (min if shortest else max)(order, key=lambda i: len(buffer[i]))
                ids = buffer.pop(i)
                row += [bos, *ids[:space-1]] if rest_bos else ids[:space]
                left = ids[space-1:] if rest_bos else ids[space:]
                if rest == "keep": buffer.insert(i, left)
                elif rest == "end": buffer.append(left)
        return row
    return next_row

def buffers(rng, n):
    "n documents without BOS, each token another number"
    at, out = 1, []
    for _ in range(n):
        k = rng.choice([1, 2, 3, 5, 8, 9])
        out.append(list(range(at, at+k))); at += k
    return out

def pack_behave(answer, buffer, size):
    return answer(buffer, size, BOS), buffer

def pack_check(answer):
    rng, right = random.Random(1), packer()
    for _ in range(300):
        size, buffer = rng.choice([2, 4, 6, 10, 13]), buffers(rng, rng.randrange(12, 30))
        while sum(map(len, buffer)) >= size:
            before = [list(b) for b in buffer]
            want_buffer = [list(b) for b in buffer]
            want = right(want_buffer, size, BOS)
            row = answer(buffer, size, BOS)
            say = f"documents {[len(b) for b in before][:10]}…, size {size}: "
            assert row is not None, "nothing came back: is there a `return`?"
            row = list(row)
            assert len(row) == size, say+f"the row has {len(row)} places, not {size}"
            assert row[0] == BOS, say+f"the row begins with {row[0]}, not with BOS"
            all_before, all_after = sorted(i for b in before for i in b), sorted([i for i in row if i != BOS]+[i for b in buffer for i in b])
            lost = sorted(set(all_before)-set(all_after))
            assert not lost, say+f"{len(lost)} tokens are neither in the row nor in the buffer"
            assert all_after == all_before, say+"some tokens are now there twice"
            for a, b in zip(row, row[1:]): assert b == BOS or a == BOS or b == a+1, say+f"token {b} stands directly behind {a}: two documents without a BOS between"
            assert row == want, say+f"the row should hold pieces of {parts(want)} tokens, yours has {parts(row)} (which documents: {row[:12]}…, wanted {want[:12]}…)"
            assert buffer == want_buffer, say+"the row is right, but what waits is not in its old order: the rest of a cut document stands where the document stood"

def parts(row):
    "Lengths of the pieces in a row"
    out = []
    for i in row:
        if i == BOS: out.append(0)
        elif out: out[-1] += 1
    return out

DOCS = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11, 12], [13, 14], [15, 16, 17]]
lossy = Exercise("1. A packer that loses text", 3, pack_check, packer(),
    probes=[(DOCS, 6), (DOCS, 7), (DOCS, 4), (DOCS, 12), (DOCS, 10), ([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], 4), ([[1, 2], [3, 4], [5, 6, 7]], 7), ([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15, 16]], 4)],
    behave=pack_behave,
    wrong=[
        Wrong("the place for BOS is forgotten", "a document of n tokens needs n+1 places. Where exactly n are left you take it all the same, and its last token falls off the row.", packer(need=0)),
        Wrong("the rest is thrown away", "what is left of a cut document must wait for the next row. (nanochat throws it away on purpose; here no token may be lost.)", packer(rest="drop")),
        Wrong("the rest goes to the end", "the rest of a cut document is as old as the document: put it back in its old place, not behind the others.", packer(rest="end")),
        Wrong("the youngest of equals", "of documents of equal length you take the one that came last. Then the oldest may wait for ever.", packer(newest=True)),
        Wrong("the longest is cut", "where none fits you cut the longest. The shortest has the fewest tokens to lose its beginning.", packer(shortest=False)),
        Wrong("padding instead of a cut", "where none fits you fill the row up. No place may be wasted here.", packer(pad=True)),
        Wrong("first the smallest", "you take the smallest that fits. The large ones are hard to place: take the largest that fits while there is room.", packer(smallest=True))])

# ---- 2. whose row is it: my_rows(rank, world, lanes, start, n) -> [(row, lane)] ----

def my_rows(rank, world, lanes, start, n):
    return [(r, r % lanes) for r in range(start+rank, start+n*world, world)]

def rows_check(answer):
    for lanes in (1, 2, 8, 12, 16):
        for world in (w for w in range(1, lanes+1) if lanes % w == 0):
            for start in (0, world, 3*world, 5*world, lanes, 7*lanes+world):
                for n in (1, 3, 10):
                    say = f"{lanes} lanes, {world} processes, {start} rows done, {n} rows each: "
                    got = [answer(rank, world, lanes, start, n) for rank in range(world)]
                    assert all(g is not None for g in got), "nothing came back: is there a `return`?"
                    got = [[tuple(x) for x in g] for g in got]
                    for rank, g in enumerate(got):
                        assert len(g) == n, say+f"rank {rank} has {len(g)} rows, not {n}"
                        assert [r for r, _ in g] == sorted(r for r, _ in g), say+f"rank {rank} packs its rows out of order"
                        for r, l in g:
                            assert l == r % lanes, say+f"rank {rank} takes row {r} from lane {l}; the run has it from lane {r % lanes}"
                            assert l % world == rank, say+f"rank {rank} takes a row from lane {l}, which belongs to rank {l % world}"
                    rows = sorted(r for g in got for r, _ in g)
                    assert rows == list(range(start, start+n*world)), say+f"together they pack rows {rows[:8]}…, not {list(range(start, start+n*world))[:8]}…"

owner = Exercise("2. Whose row is it?", 2, rows_check, my_rows,
    probes=[(0, 1, 4, 0, 6), (1, 2, 4, 0, 6), (1, 2, 8, 6, 5), (0, 2, 8, 2, 4), (3, 4, 8, 4, 3), (2, 4, 16, 20, 6), (0, 4, 4, 4, 2)],
    wrong=[
        Wrong("a block for each process", "process 0 gets the first n rows, process 1 the next n. With another number of processes a step would hold the same rows, but their lanes would not stay with one process.",
              lambda rank, world, lanes, start, n: [(r, r % lanes) for r in range(start+rank*n, start+(rank+1)*n)]),
        Wrong("neighbouring lanes for each process", "you give process k a block of neighbouring lanes. Then row 1 of the run, which is lane 1's, would not be made by process 1, and the order of the run would change with the number of processes.",
              lambda rank, world, lanes, start, n: [(start+rank+j*world, rank*(lanes//world)+j % (lanes//world)) for j in range(n)]),
        Wrong("after a resume the turn begins anew", "your lanes begin again with the process's first one. Where `start` is not a multiple of `lanes`, another lane's turn has come.",
              lambda rank, world, lanes, start, n: [(start+rank+j*world, (rank+j*world) % lanes) for j in range(n)]),
        Wrong("start counts for one process", "`start` is the number of rows of the *run*, of all processes together; you step as if each process had made so many.",
              lambda rank, world, lanes, start, n: [(r, r % lanes) for r in range(rank+start*world, rank+(start+n)*world, world)]),
        Wrong("a process is a lane", "you take every row of a process from the lane with the number of the process. A process owns several lanes, and they take turns.",
              lambda rank, world, lanes, start, n: [(start+rank+j*world, rank) for j in range(n)])])

# ---- 3. the account: account(rows, size, lengths) -> dict ----

def accountant(bos=True, cut_long=False, pieces=False, orphan_pieces=False, whole_lost=False, missing=True, fits=0, first_as_orphan=False):
    "The answer, with switches for its mistakes"
    def account(rows, size, lengths):
        out, seen, count, whole = dict(padding=0, dropped=0, cut=0, orphans=0), {}, {}, set()
        for row in rows:
            out["padding"] += size-sum(n+bos for _, _, n in row)
            for k, first, n in row:
                seen[k], count[k] = seen.get(k, 0)+n, count.get(k, 0)+1
                if n == lengths[k]: whole.add(k)
                if first_as_orphan and n < lengths[k] or not first_as_orphan and first > 0: out["orphans"] += 1 if orphan_pieces else n
        for k, n in enumerate(lengths):
            gone = n-seen.get(k, 0)
            if missing or k in seen: out["dropped"] += (n if whole_lost and gone else gone)
            if (n+1-fits <= size or cut_long) and k not in whole: out["cut"] += max(count.get(k, 0), 1) if pieces else 1
        return out
    return account

def random_rows(rng):
    "Rows of pieces in which all may happen: cuts, losses, padding"
    size, lengths, rows, row, space = rng.choice([4, 6, 9, 17]), [rng.randrange(1, 24) for _ in range(rng.randrange(1, 12))], [], [], 0
    space = size
    for k, n in enumerate(lengths):
        first = 0
        if rng.random() < .15: continue                                   # dropped altogether
        while first < n:
            if space < 2 or rng.random() < .2 and row: rows.append(row); row, space = [], size
            take = min(n-first, space-1)
            row.append((k, first, take)); first += take; space -= take+1
            if first < n and rng.random() < .2: break                     # its rest is dropped
    return (rows+[row] if row else rows), size, lengths

def account_check(answer):
    rng, right = random.Random(3), accountant()
    cases = [([[(0, 0, 5)]], 6, [5]), ([[(0, 0, 5)], [(0, 5, 4), (1, 0, 0)]], 6, [9, 0]), ([[(0, 0, 3)]], 6, [3, 4]), ([], 6, [4]), ([[(0, 0, 6)], [(0, 6, 1)]], 7, [7])]
    for rows, size, lengths in cases + [random_rows(rng) for _ in range(400)]:
        if any(n == 0 for n in lengths): continue
        got, want = answer([list(r) for r in rows], size, list(lengths)), right(rows, size, lengths)
        assert got is not None, "nothing came back: is there a `return`?"
        for k in want: assert got.get(k) == want[k], f"size {size}, documents of {lengths} tokens, rows {rows}: {k} is {want[k]}, not {got.get(k)}"

ROWS = [[(0, 0, 3), (1, 0, 3)], [(2, 0, 7)], [(2, 7, 4), (1, 3, 2)], [(3, 0, 2)]]
books = Exercise("3. The account", 3, account_check, accountant(),
    probes=[(ROWS, 8, [3, 5, 11, 4, 6]), ([[(0, 0, 7)]], 8, [7, 9]), ([[(0, 0, 4)], [(0, 4, 3)]], 8, [7]), ([[(0, 0, 7)], [(0, 7, 1)]], 8, [8]), ([[(0, 0, 2)], [(0, 2, 2)], [(0, 4, 1)]], 8, [5]), ([[(0, 0, 5), (1, 0, 1)]], 8, [9, 3])],
    wrong=[
        Wrong("BOS is forgotten", "each piece takes one place more than it has tokens, and so does a document that shall fit: padding comes out too large.", accountant(bos=False)),
        Wrong("a document fits by its tokens", "a document of `size` tokens does not fit in a row of `size` places: BOS needs one. It is no fault of the packer that it was cut.", accountant(fits=1)),
        Wrong("long documents count as cut", "a document that is longer than a row has to be cut by any packer. Count only those that would have fitted.", accountant(cut_long=True)),
        Wrong("pieces are counted, not documents", "a document in three pieces is one document that was cut.", accountant(pieces=True)),
        Wrong("orphans are tokens, not pieces", "a piece of 40 tokens without its beginning is 40 orphans.", accountant(orphan_pieces=True)),
        Wrong("every piece of a cut document is orphaned", "the first piece of a document has its beginning. Only later pieces have lost it.", accountant(first_as_orphan=True)),
        Wrong("a document that lost a part is lost", "only the tokens that are in no row are dropped, not the whole document.", accountant(whole_lost=True)),
        Wrong("documents that never came are overlooked", "a document of which no row holds a piece is dropped as well. Go through `lengths`, not through what you met.", accountant(missing=False))])

# ---- 4. a state that forgets: stream(docs, size, depth, state) yields (row, state) ----

def resumable(buffer=True, taken=True, rows=True, alias=False, early=False, ahead=0, skip_bos=False):
    "The answer, with switches for its mistakes"
    def stream(docs, size, depth, state=None):
        state = state or {}
        n = state.get("next", 0)
        lane = Lane(BOS, size, [list(b) for b in state.get("buffer", [])], rows=state.get("rows", 0))
        source, kept = docs(n), {}
        while True:
            before = dict(next=n, rows=lane.rows, buffer=[list(b) for b in lane.buffer])
            while not lane.ready(depth):
                d = next(source, None)
                if d is None: break
                lane.put(d); n += 1
            if not len(lane): return
            row = lane.row()
            now = before if early else dict(next=n+ahead, rows=lane.rows, buffer=lane.buffer)
            out = {k: now[k] for k, keep in (("next", taken), ("rows", rows), ("buffer", buffer)) if keep}
            if alias: kept.clear(); kept.update(out); out = kept
            yield row, out
    return stream

def texts(seed, n):
    rng, at, out = random.Random(seed), 1, []
    for _ in range(n):
        k = rng.choice([1, 2, 4, 7, 9, 30]); out.append(list(range(at, at+k))); at += k
    return lambda k=0: iter(out[k:])

@in_child
def streamed(answer, seed, n, size, depth, most, state=None):
    "What a stream over n documents yields first; all of it is taken before any of it is looked at"
    given = () if state is None else (state,)
    pairs = answer(texts(seed, n), size, depth, *given)
    assert pairs is not None, "nothing came back: is there a `yield`?"
    return list(islice(pairs, most))

def state_behave(answer, seed, size, depth, stop):
    "The rows that come after a resume"
    pairs = streamed(answer, seed, 60, size, depth, stop+8)
    saved = json.loads(json.dumps(pairs[stop-1][1]))
    return [r for r, _ in pairs], [r for r, _ in streamed(answer, seed, 60, size, depth, 12, saved)]

def state_check(answer):
    for seed, size, depth in ((1, 10, 4), (2, 17, 8), (3, 33, 16), (4, 6, 5)):
        docs = texts(seed, 120)
        want = [r for r, _ in resumable()(docs, size, depth)]
        pairs = streamed(answer, seed, 120, size, depth, len(want)+5)
        assert all(isinstance(p, tuple) and len(p) == 2 for p in pairs), "yield two things each time: (row, state)"
        rows = [list(r) for r, _ in pairs]
        assert rows == want, f"the rows of a run that is never stopped are not the lane's: row {next((i for i, (a, b) in enumerate(zip(rows, want)) if a != b), min(len(rows), len(want)))} differs"
        for stop in (1, 2, 3, 5, 6, 9, 16):
            saved = pairs[stop-1][1]
            try: text = json.dumps(saved)
            except TypeError as e: raise AssertionError(f"the state does not go through JSON: {e}") from None
            tail = [list(r) for r, _ in streamed(answer, seed, 120, size, depth, len(want)+5, json.loads(text))]
            first = next((i for i, (a, b) in enumerate(zip(tail, want[stop:])) if a != b), None)
            assert tail == want[stop:], f"size {size}, stopped after row {stop}: " + (f"{len(tail)} rows follow, not {len(want)-stop}" if first is None else f"row {stop+first} should be {want[stop+first][:8]}…, not {tail[first][:8]}…")

forgets = Exercise("4. A state that forgets", 4, state_check, resumable(),
    probes=[(1, 10, 4, 3), (2, 17, 8, 5), (3, 33, 16, 6), (3, 33, 16, 2), (5, 12, 12, 7), (6, 20, 20, 9)],
    behave=state_behave,
    wrong=[
        Wrong("forgets the buffer", "the documents that wait were taken, and are in no row yet. After a resume nobody brings them: some tokens of each lane are lost at every stop, and no error is seen.", resumable(buffer=False)),
        Wrong("forgets how far it had read", "after a resume the documents begin again with the first: the run learns them twice.", resumable(taken=False)),
        Wrong("forgets the number of rows", "everything is there, but every fourth row opens with the oldest document, and the lane no longer knows which one is next. `Lane` takes `rows`.", resumable(rows=False)),
        Wrong("one state for all", "you hand out the same dict each time and change it later. Whoever keeps the state of row 3 finds that of the last row in it: make a new one each time.", resumable(alias=True)),
        Wrong("the state before the row", "your state was taken before the row was made. After a resume that row comes again.", resumable(early=True)),
        Wrong("counts one too many", "`next` is the number of the first document that was *not* taken. Counting from 1 skips one at each resume.", resumable(ahead=1))])

EXERCISES = dict(lossy=lossy, owner=owner, account=books, forgets=forgets)
