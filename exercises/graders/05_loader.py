"Checks and known wrong answers for the exercises of chapter 05"
import json, random
from itertools import islice
from nanochat.loader import Lane
from grade import Exercise, Wrong, in_child
from graders.common import call, many, telling, whole, written

BOS = 0

# ---- 1. a packer that loses text: next_row(buffer, size, bos) -> row ----

def packer(need=1, newest=False, newest_cut=False, rest="keep", shortest=True, pad=False, smallest=False,
           first=False, mark=None, short=0, rest_bos=False, eat=False, copy=False, oldest_cut=False):
    "Best fit, with switches for its mistakes"
    def next_row(buffer, size, bos):
        row, bos = [], bos if mark is None else mark
        if copy:
            buffer = [list(b) for b in buffer]
        while len(row) < size and buffer:
            space = size-len(row)
            order = range(len(buffer))
            fits = [i for i in (order[::-1] if newest else order) if len(buffer[i])+need <= space]
            if fits:
                i = fits[0] if first else (min if smallest else max)(fits, key=lambda i: len(buffer[i]))
                row += [bos, *buffer.pop(i)]
                row = row[:size]
            elif pad:
                row += [bos]*space
            else:
                i = 0 if oldest_cut else (min if shortest else max)(order[::-1] if newest_cut else order,
                    key=lambda i: len(buffer[i]))
                ids = buffer.pop(i)
                row += [bos, *ids[:space-1]]
                left = ids if rest == "all" else [bos]*rest_bos+ids[space-1+short:]
                if rest in ("keep", "all") and not (eat and space == 1):
                    buffer.insert(i, left)
                elif rest == "end":
                    buffer.append(left)
        return row
    return next_row

def buffers(rng, n, first):
    "n documents without BOS, each token another number"
    at, out = first, []
    for _ in range(n):
        k = rng.choice([1, 2, 3, 5, 8, 9])
        out.append(list(range(at, at+k)))
        at += k
    return out

DOCS = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11, 12], [13, 14], [15, 16, 17]]
SMALL = [(DOCS, 6), (DOCS, 7), (DOCS, 4), (DOCS, 12), (DOCS, 10), ([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], 4),
         ([[1, 2], [3, 4], [5, 6, 7]], 7), ([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15, 16]], 4),
         ([[1, 2], [3, 4], [5, 6]], 4), ([[1, 2, 3], [4, 5, 6]], 3), ([[1, 2, 3], [4, 5]], 5),
         ([[1], [2], [3], [4]], 3), ([[1], [2, 3]], 4), ([[1, 2, 3, 4]], 4), ([[1, 2], [3]], 1),
         ([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15]], 3)]

def pack_behave(answer, buffer, size, bos):
    "What is in the row up to its last token, how many places follow, what waits"
    tokens = {i for b in buffer for i in b}
    row = list(answer(buffer, size, bos))
    end = max((k+1 for k, i in enumerate(row) if i in tokens), default=0)
    return row[:end], len(row)-end, [list(b) for b in buffer]

def pack_check(answer):
    rng, right = random.Random(1), packer()
    cases = [(docs, size, bos) for docs, size in SMALL for bos in (0, 99)]
    cases += [(buffers(rng, rng.randrange(1, 20), bos == 0), rng.choice([2, 3, 4, 6, 10, 13]), bos)
              for bos in (0, 300, 65_535) for _ in range(100)]
    for docs, size, bos in sorted(cases, key=lambda c: (sum(map(len, c[0])), c[1])):
        buffer = [list(b) for b in docs]
        while sum(map(len, buffer)) >= size:
            before, waits = [list(b) for b in buffer], [list(b) for b in buffer]
            want, say = right(waits, size, bos), written("next_row", buffer, size, bos)
            row = call(say, answer, buffer, size, bos)
            assert isinstance(row, (list, tuple)), (
                f"{say} gives a {type(row).__name__}: a list of {size} ids is asked for")
            row, got = list(row), f"{say} gives {row}"
            if row == want and buffer == waits:
                if buffer == before:
                    break              # a row of one place takes nothing
                continue
            assert len(row) == size, f"{got}: {many(len(row), 'place')}, not {size}"
            assert row[0] == bos, f"{got}: it begins with {row[0]}, not with BOS, which is {bos}"
            assert buffer != before or len(want) == row.count(bos), (
                f"{got}, and the buffer is still what it was: take the documents out of `buffer` itself, "
                "not out of a copy")
            there = sorted(i for b in before for i in b)
            after = sorted([i for i in row if i != bos]+[i for b in buffer for i in b])
            strange = [i for i in row if i != bos and i not in there]
            assert not strange, f"{got}: {strange[0]} is no token of a document and not BOS, which is {bos}"
            lost = sorted(set(there)-set(after))
            assert not lost, (
                f"{got} and leaves {buffer}: {'token' if len(lost) == 1 else 'tokens'} "
                f"{', '.join(map(str, lost[:8]))} {'is' if len(lost) == 1 else 'are'} in neither")
            twice = sorted({i for i in after if after.count(i) > 1 and i != bos})
            assert not twice, (
                f"{got} and leaves {buffer}: {'token' if len(twice) == 1 else 'tokens'} "
                f"{', '.join(map(str, twice[:8]))} {'is' if len(twice) == 1 else 'are'} there twice")
            assert row == want, f"{got}, and should give {want}"
            assert buffer == waits, f"{got}, which is right, and leaves {buffer}; it should leave {waits}"

lossy = Exercise("1. A packer that loses text", 3, pack_check, packer(),
    probes=[(docs, size, 99) for docs, size in SMALL],
    behave=pack_behave,
    wrong=[
        Wrong("the place for BOS is forgotten",
              "a document of n tokens needs n+1 places. Where exactly n are left you take it all the same, "
              "and its last token falls off the row.",
              packer(need=0)),
        Wrong("0 in place of bos",
              "`bos` is an argument, and it is 0 in the example only. A tokenizer's BOS may be 65,527.",
              packer(mark=0)),
        Wrong("works on a copy",
              "the row is right, but `buffer` keeps the documents that are in it, and the next row takes "
              "them again. Change the list that was given to you.",
              packer(copy=True)),
        Wrong("the rest is thrown away",
              "what is left of a cut document must wait for the next row. (nanochat throws it away on "
              "purpose; here no token may be lost.)",
              packer(rest="drop")),
        Wrong("the rest is one token short",
              "one token is lost at each cut. Of a document of which `space-1` tokens went into the row, "
              "token number `space-1` is the first that did not.",
              packer(short=1)),
        Wrong("the last token comes twice",
              "the rest begins with the last token that is in the row already. BOS takes a place, so "
              "`space-1` tokens went in: the rest is what follows these.",
              packer(short=-1)),
        Wrong("BOS goes into the rest",
              "a BOS is at the beginning of what waits. The buffer holds documents without BOS: the row "
              "adds it when the rest is taken.",
              packer(rest_bos=True)),
        Wrong("the cut document stays whole",
              "the beginning of the document is in the row, and all of it still waits: its beginning will "
              "come again. Put only its rest back.",
              packer(rest="all")),
        Wrong("the rest goes to the end",
              "the rest of a cut document is as old as the document: put it back in its old place, not "
              "behind the others.",
              packer(rest="end")),
        *[Wrong("the youngest of equals", (
            "of documents of equal length you take the one that came last, to be placed or to be cut. Then "
            "the oldest may wait for ever."), a) for a in (packer(newest=True, newest_cut=True),
                                                           packer(newest=True), packer(newest_cut=True))],
        Wrong("the longest is cut",
              "where none fits you cut the longest. The shortest has the fewest tokens to lose its "
              "beginning.",
              packer(shortest=False)),
        Wrong("the oldest is cut",
              "where none fits you cut the oldest. The shortest has the fewest tokens to lose its "
              "beginning; age counts among equals only.",
              packer(oldest_cut=True)),
        Wrong("the last place eats a document",
              "where one place is left a BOS fills it alone. The document that you cut there loses no "
              "token: it stays in the buffer as it is.",
              packer(eat=True)),
        Wrong("padding instead of a cut",
              "where none fits you fill the row up. No place may be wasted here.",
              packer(pad=True)),
        Wrong("the first that fits",
              "you take the oldest that fits. Best fit takes the longest, and asks for the age only among "
              "equals.",
              packer(first=True)),
        Wrong("first the smallest",
              "you take the smallest that fits. The large ones are hard to place: take the largest that "
              "fits while there is room.",
              packer(smallest=True))])

# ---- 2. whose row is it: my_rows(rank, world, lanes, start, n) -> [(row, lane)] ----

def my_rows(rank, world, lanes, start, n):
    return [(r, r % lanes) for r in range(start+rank, start+n*world, world)]

def rows_check(answer):
    for lanes in (1, 2, 4, 8, 12, 16):
        for world in (w for w in range(1, lanes+1) if lanes % w == 0):
            for start in (0, world, 3*world, 5*world, lanes, 7*lanes+world):
                for n in (0, 1, 3, 10):
                    for rank in range(world):
                        say = f"my_rows(rank={rank}, world={world}, lanes={lanes}, start={start}, n={n})"
                        want = my_rows(rank, world, lanes, start, n)
                        got = call(say, answer, rank, world, lanes, start, n)
                        with telling(say):
                            got = list(got)
                        say += f" gives {got}"
                        assert all(isinstance(x, (tuple, list)) and len(x) == 2 for x in got), (
                            f"{say}: pairs (row of the run, lane) are asked for")
                        assert all(whole(i) for x in got for i in x), (
                            f"{say}: rows and lanes are whole numbers")
                        got = [tuple(x) for x in got]
                        if got == want:
                            continue
                        assert len(got) == n, f"{say}: {many(len(got), 'row')}, not {n}"
                        assert [r for r, _ in got] == sorted(r for r, _ in got), (
                            f"{say}: the rows are out of order")
                        for r, lane in got:
                            assert lane == r % lanes, (
                                f"{say}: row {r} from lane {lane}; the run has it from lane {r % lanes}")
                            assert lane % world == rank, (
                                f"{say}: a row from lane {lane}, which belongs to process {lane % world}")
                        raise AssertionError(f"{say}, and should give {want}")

owner = Exercise("2. Whose row is it?", 2, rows_check, my_rows,
    probes=[(0, 1, 4, 0, 6), (1, 2, 4, 0, 6), (1, 2, 8, 6, 5), (0, 2, 8, 2, 4), (3, 4, 8, 4, 3),
            (2, 4, 16, 20, 6), (0, 4, 4, 4, 2)],
    wrong=[
        Wrong("a block for each process", (
            "process 0 gets the first n rows, process 1 the next n. With another number of processes a "
            "step would hold the same rows, but their lanes would not stay with one process."),
              lambda rank, world, lanes, start,
              n: [(r, r % lanes) for r in range(start+rank*n, start+(rank+1)*n)]),
        Wrong("neighbouring lanes for each process", (
            "you give process k a block of neighbouring lanes. Then row 1 of the run, which is lane 1's, "
            "would not be made by process 1, and the order of the run would change with the number of "
            "processes."),
              lambda rank, world, lanes, start,
              n: [(start+rank+j*world, rank*(lanes//world)+j % (lanes//world)) for j in range(n)]),
        Wrong("after a resume the turn begins anew", (
            "your lanes begin again with the process's first one. Where `start` is not a multiple of "
            "`lanes`, another lane's turn has come."),
              lambda rank, world, lanes, start,
              n: [(start+rank+j*world, (rank+j*world) % lanes) for j in range(n)]),
        Wrong("start counts for one process", (
            "`start` is the number of rows of the *run*, of all processes together; you step as if each "
            "process had made so many."),
              lambda rank, world, lanes, start,
              n: [(r, r % lanes) for r in range(rank+start*world, rank+(start+n)*world, world)]),
        Wrong("a process is a lane", (
            "you take every row of a process from the lane with the number of the process. A process owns "
            "several lanes, and they take turns."),
              lambda rank, world, lanes, start, n: [(start+rank+j*world, rank) for j in range(n)]),
        Wrong("counted from one",
              "your first row is one turn late. The next row of process `rank` is `start+rank`.",
              lambda rank, world, lanes, start, n: my_rows(rank, world, lanes, start+world, n)),
        Wrong("every process packs every row",
              "`rank` and `world` are not looked at when you count rows: all processes pack the same ones.",
              lambda rank, world, lanes, start, n: [(start+j, (start+j) % lanes) for j in range(n)]),
        Wrong("n rows of all together",
              "each process packs n rows, so together they pack n·world. Your range ends too early.",
              lambda rank, world, lanes, start,
              n: [(r, r % lanes) for r in range(start+rank, start+n, world)]),
        Wrong("start is not looked at",
              "the run has made `start` rows. You begin again with the first.",
              lambda rank, world, lanes, start, n: my_rows(rank, world, lanes, 0, n)),
        Wrong("lane and row change places",
              "a pair is (row of the run, lane), in this order.",
              lambda rank, world, lanes, start,
              n: [(lane, r) for r, lane in my_rows(rank, world, lanes, start, n)])])

# ---- 3. the account: account(rows, size, lengths) -> dict ----

def accountant(bos=True, cut_long=False, pieces=False, orphan_pieces=False, whole_lost=False, missing=True,
               fits=0, first_as_orphan=False, together=False, met=False, row_bos=False, met_only=False):
    "The answer, with switches for its mistakes"
    def account(rows, size, lengths):
        out, seen, count, whole = dict(padding=0, dropped=0, cut=0, orphans=0), {}, {}, set()
        for row in rows:
            out["padding"] += size-1-sum(n for _, _, n in row) if row_bos else size-sum(n+bos for _, _,
                n in row)
            for k, first, n in row:
                seen[k], count[k] = seen.get(k, 0)+n, count.get(k, 0)+1
                if n == lengths[k]:
                    whole.add(k)
                if n < lengths[k] if first_as_orphan else count[k] > 1 if met else first > 0:
                    out["orphans"] += 1 if orphan_pieces else n
        for k, n in enumerate(lengths):
            gone = n-seen.get(k, 0)
            if together and not gone:
                whole.add(k)
            if met_only and k not in seen:
                whole.add(k)
            if missing or k in seen:
                out["dropped"] += (n if whole_lost and gone else gone)
            if (n+1-fits <= size or cut_long) and k not in whole:
                out["cut"] += max(count.get(k, 0), 1) if pieces else 1
        return out
    return account

def random_rows(rng):
    "Rows of pieces in which all may happen: cuts, losses, padding"
    size, lengths = rng.choice([4, 6, 9, 17]), [rng.randrange(1, 24) for _ in range(rng.randrange(1, 12))]
    rows, row, space = [], [], size
    for k, n in enumerate(lengths):
        first = 0
        if rng.random() < .15:
            continue                                   # dropped altogether
        while first < n:
            if space < 2 or rng.random() < .2 and row:
                rows.append(row)
                row, space = [], size
            take = min(n-first, space-1)
            row.append((k, first, take))
            first += take
            space -= take+1
            if first < n and rng.random() < .2:
                break                     # its rest is dropped
    rows += [row] if row else []
    # a rest may come before the beginning
    if rng.random() < .3:
        rng.shuffle(rows)
    # or its beginning not at all
    if rng.random() < .3:
        rows = [[p for p in r if p[1] or rng.random() < .7] for r in rows]
    return [r for r in rows if r], size, lengths

def account_check(answer):
    rng, right = random.Random(3), accountant()
    cases = [([[(0, 0, 5)]], 6, [5]), ([[(0, 0, 3)]], 6, [3, 4]), ([], 6, [4]),
             ([[(0, 0, 6)], [(0, 6, 1)]], 7, [7]), ([[(0, 3, 2)], [(0, 0, 3)]], 6, [5]),
             ([[(0, 3, 2)]], 6, [5]), ([[(0, 0, 3)], [(0, 3, 2)]], 6, [5]), ([], 6, [])]
    for rows, size, lengths in sorted(cases+[random_rows(rng) for _ in range(400)],
                                      key=lambda c: len(str(c))):
        say, mine = written("account", rows, size, lengths), ([list(r) for r in rows], list(lengths))
        got, want = call(say, answer, mine[0], size, mine[1]), right(rows, size, lengths)
        assert isinstance(got, dict), (
            f"{say}: a dict of padding, dropped, cut and orphans is asked for, not a {type(got).__name__}")
        assert mine == ([list(r) for r in rows], list(lengths)), (
            f"{say}: your code changes `rows` or `lengths`; only count")
        for k in want:
            assert k in got, f"{say}: {k} is not in the dict"
            assert whole(got[k]) and got[k] == want[k], f"{say}: {k} is {want[k]}, not {got[k]!r}"

ROWS = [[(0, 0, 3), (1, 0, 3)], [(2, 0, 7)], [(2, 7, 4), (1, 3, 2)], [(3, 0, 2)]]
books = Exercise("3. The account", 3, account_check, accountant(),
    probes=[(ROWS, 8, [3, 5, 11, 4, 6]), ([[(0, 0, 7)]], 8, [7, 9]), ([[(0, 0, 4)], [(0, 4, 3)]], 8, [7]),
            ([[(0, 0, 7)], [(0, 7, 1)]], 8, [8]), ([[(0, 0, 2)], [(0, 2, 2)], [(0, 4, 1)]], 8, [5]),
            ([[(0, 0, 5), (1, 0, 1)]], 8, [9, 3]), ([[(0, 3, 2)], [(0, 0, 3)]], 6, [5]),
            ([[(0, 3, 2)]], 6, [5])],
    wrong=[
        Wrong("BOS is forgotten",
              "each piece takes one place more than it has tokens, and so does a document that should fit: "
              "padding comes out too large.",
              accountant(bos=False)),
        Wrong("a document fits by its tokens",
              "a document of `size` tokens does not fit in a row of `size` places: BOS needs one. It is no "
              "fault of the packer that it was cut.",
              accountant(fits=1)),
        Wrong("long documents count as cut",
              "a document that is longer than a row has to be cut by any packer. Count only those that "
              "would have fitted.",
              accountant(cut_long=True)),
        Wrong("pieces are counted, not documents",
              "a document in three pieces is one document that was cut.",
              accountant(pieces=True)),
        Wrong("orphans are tokens, not pieces",
              "a piece of 40 tokens without its beginning is 40 orphans.",
              accountant(orphan_pieces=True)),
        Wrong("every piece of a cut document is orphaned",
              "the first piece of a document has its beginning. Only later pieces have lost it.",
              accountant(first_as_orphan=True)),
        Wrong("a document that lost a part is lost",
              "only the tokens that are in no row are dropped, not the whole document.",
              accountant(whole_lost=True)),
        Wrong("documents that never came are overlooked",
              "a document of which no row holds a piece is dropped as well. Go through `lengths`, not "
              "through what you met.",
              accountant(missing=False)),
        Wrong("in pieces, but all there",
              "a document whose pieces are all there was still cut, if no row holds it whole.",
              accountant(together=True)),
        Wrong("the second piece that is met is the orphan",
              "rows may come in another order than the document's pieces, and a beginning may be dropped. "
              "Whether a piece has the beginning is in its `first`.",
              accountant(met=True)),
        Wrong("one BOS for each row",
              "each *piece* has a BOS before it, not each row.",
              accountant(row_bos=True)),
        Wrong("only what was met counts as cut",
              "a document that came in no row at all is in no row whole either: go through `lengths`.",
              accountant(met_only=True))])

# ---- 4. a state that forgets: stream(docs, size, depth, state) yields (row, state) ----

def resumable(buffer=True, taken=True, rows=True, alias=False, early=False, ahead=0, tail=True, ordered=False,
              replay=False, touch=False):
    "The answer, with switches for its mistakes"
    def stream(docs, size, depth, state=None):
        given, state = state, dict(state or {})
        if replay:
            for k, (row, _) in enumerate(resumable()(docs, size, depth)):
                if k >= state.get("row", 0):
                    yield row, dict(row=k+1)
            return
        n = state.get("next", 0)
        lane = Lane(BOS, size, [list(b) for b in state.get("buffer", [])], rows=state.get("rows", 0))
        source, kept = docs(n), {}
        while True:
            before = dict(next=n, rows=lane.rows, buffer=[list(b) for b in lane.buffer])
            while not lane.ready(depth):
                d = next(source, None)
                if d is None:
                    break
                lane.put(d)
                n += 1
            if not len(lane) or not tail and not lane.ready(depth):
                return
            row = lane.row()
            now = before if early else dict(next=n+ahead, rows=lane.rows, buffer=lane.buffer)
            out = {k: now[k] for k, keep in (("next", taken), ("rows", rows), ("buffer", buffer)) if keep}
            if ordered:
                out["buffer"].sort(key=len)
            if touch and given:
                given["next"] = n
            if alias:
                kept.clear()
                kept.update(out)
                out = kept
            yield row, out
    return stream

def texts(seed, n, asked=None, shift=0):
    rng, at, out = random.Random(seed), 1+shift, []
    for _ in range(n):
        k = rng.choice([1, 2, 4, 7, 9, 30])
        out.append(list(range(at, at+k)))
        at += k
    def docs(k=0):
        if asked is not None:
            asked.append(k)
        return iter(out[k:])
    return docs

@in_child
def streamed(answer, documents, size, depth, most, saved=None):
    "What a stream yields first, where it began to read, and what became of the state that it was given"
    # All is taken before any of it is looked at: a state that is changed later shows.
    seed, n, shift = documents
    asked, given = [], () if saved is None else (saved,)
    pairs = answer(texts(seed, n, asked, shift), size, depth, *given)
    assert pairs is not None, "nothing came back: is there a `yield`?"
    return list(islice(pairs, most)), asked, saved

def state_behave(answer, seed, size, depth, stop, n):
    "The rows before and after a stop, whether all is read again, and whether the state stays as it was given"
    pairs, *_ = streamed(answer, (seed, n, 0), size, depth, stop+8)
    text = json.dumps(pairs[stop-1][1])
    rest, asked, saved = streamed(answer, (seed, n, 0), size, depth, 12, json.loads(text))
    return [list(r) for r, _ in pairs], [list(r) for r, _ in rest], asked == [0], json.dumps(saved) == text

def state_check(answer):
    for seed, size, depth, n in ((7, 5, 2, 9), (1, 10, 4, 120), (2, 17, 8, 120), (3, 33, 16, 120),
                                 (4, 6, 5, 120), (9, 8, 16, 5), (2, 7, 1, 12)):
        docs = texts(seed, n)
        say = (
            f"size {size}, depth {depth}, {n} documents of "
            f"{', '.join(str(len(d)) for d in list(docs())[:6])}… tokens")
        reference = list(resumable()(docs, size, depth))
        want = [r for r, _ in reference]
        pairs, *_ = streamed(answer, (seed, n, 0), size, depth, len(want)+5)
        assert all(isinstance(p, tuple) and len(p) == 2 for p in pairs), (
            "yield two things each time: (row, state)")
        assert all(isinstance(r, (list, tuple)) for r, _ in pairs), (
            f"the first of the two is the row, a list of ids; yours is a {type(pairs[0][0]).__name__}")
        rows = [list(r) for r, _ in pairs]
        k = next((i for i, (a, b) in enumerate(zip(rows, want)) if a != b), min(len(rows), len(want)))
        assert rows == want, f"{say}, never stopped: " + ((
            f"{many(len(rows), 'row')} in all, not {len(want)}") if k in (len(rows), len(want)) else (
                f"row {k} is {rows[k]}, and should be {want[k]}"))
        waiting = reference[2][1]["buffer"]
        others, *_ = streamed(answer, (seed, n, 100_000), size, depth, 3)
        assert not waiting or json.dumps(others[2][1], default=str) != json.dumps(pairs[2][1], default=str), (
            f"{say}: after three rows the state is {str(pairs[2][1])[:80]}, and it is the same after three "
            "rows of other documents. What waits in the lane is not in it, and another process could not "
            "go on.")
        for stop in (s for s in (1, 2, 3, 5, 6, 9, 16) if s < len(want)):
            saved = pairs[stop-1][1]
            with telling("json.dumps of the state"):
                text = json.dumps(saved)
            tail, asked, given = streamed(answer, (seed, n, 0), size, depth, len(want)+5, json.loads(text))
            tail = [list(r) for r, _ in tail]
            first = next((i for i, (a, b) in enumerate(zip(tail, want[stop:])) if a != b), None)
            assert tail == want[stop:], f"{say}, stopped after row {stop}, state {text[:80]}: " + ((
                f"{many(len(tail), 'row')} to follow, not {len(want)-stop}") if first is None else (
                f"row {stop+first} should be {want[stop+first]}, not {tail[first]}"))
            assert asked != [0], (
                f"{say}, stopped after row {stop}, state {text[:80]}: the rows are right, but all "
                "documents are read again from number 0 on. After a week of training that takes a week: "
                "call docs(k) with the first document that was not taken.")
            assert json.dumps(given) == text, (
                f"{say}, resumed from {text[:80]}: the state that was given to you has changed to "
                f"{json.dumps(given)[:80]}. Somebody keeps it: copy what you want to change.")

forgets = Exercise("4. A state that forgets", 4, state_check, resumable(),
    probes=[(1, 10, 4, 3, 60), (2, 17, 8, 5, 60), (3, 33, 16, 6, 60), (3, 33, 16, 2, 60), (5, 12, 12, 7, 60),
            (6, 20, 20, 9, 60), (7, 10, 4, 3, 9)],
    behave=state_behave,
    wrong=[
        Wrong("forgets the buffer",
              "the documents that wait were taken, and are in no row yet. After a resume nobody brings "
              "them: some tokens of each lane are lost at every stop, and no error is seen.",
              resumable(buffer=False)),
        Wrong("forgets how far it had read",
              "after a resume the documents begin again with the first: the run learns them twice.",
              resumable(taken=False)),
        Wrong("forgets the number of rows",
              "everything is there, but every fourth row opens with the oldest document, and the lane no "
              "longer knows which one is next. `Lane` takes `rows`.",
              resumable(rows=False)),
        Wrong("one state for all",
              "you hand out the same dict each time and change it later. Whoever keeps the state of row 3 "
              "finds that of the last row in it: make a new one each time.",
              resumable(alias=True)),
        Wrong("the state before the row",
              "your state was taken before the row was made. After a resume that row comes again.",
              resumable(early=True)),
        Wrong("counts one too many",
              "`next` is the number of the first document that was *not* taken. Counting from 1 skips one "
              "at each resume.",
              resumable(ahead=1)),
        Wrong("the last rows are forgotten",
              "when the documents have ended, some still wait in the lane. Go on until `len(lane)` is 0.",
              resumable(tail=False)),
        Wrong("what waits is sorted",
              "the lane needs to know what is oldest: keep `lane.buffer` in its order.",
              resumable(ordered=True)),
        Wrong("reads everything again",
              "your state says how many rows were given, and a resume makes them all once more to throw "
              "them away. After a week of training that takes a week. Keep what waits, and the number of "
              "the next document.",
              resumable(replay=True)),
        Wrong("the state that was given is changed",
              "after a resume your code writes into the state that it was given. Somebody keeps it: copy "
              "what you change.",
              resumable(touch=True))])

EXERCISES = dict(lossy=lossy, owner=owner, account=books, forgets=forgets)
