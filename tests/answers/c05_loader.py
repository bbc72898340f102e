"Answers to the exercises of chapter 05"
from itertools import islice

from nanochat.loader import Lane
from answers import Answers

answers = Answers()

# ---- 1. a packer that loses text ----

@answers.right("lossy")
def by_sorting(buffer, size, bos):
    row = []
    while len(row) < size:
        space = size-len(row)-1
        order = sorted(range(len(buffer)), key=lambda i: (-len(buffer[i]), i))
        best = next((i for i in order if len(buffer[i]) <= space), None)
        if best is None:
            i = sorted(range(len(buffer)), key=lambda i: (len(buffer[i]), i))[0]
            row = row+[bos]+buffer[i][:space]
            buffer[i] = buffer[i][space:]
        else:
            row = row+[bos]+buffer[best]
            del buffer[best]
    return row

@answers.right("lossy")
def by_loops(buffer, size, bos):
    row = []
    while size-len(row) > 0:
        best = shortest = 0
        found = False
        for i, document in enumerate(buffer):
            if len(document) < size-len(row) and (not found or len(document) > len(buffer[best])):
                best, found = i, True
            if len(document) < len(buffer[shortest]):
                shortest = i
        row.append(bos)
        if found:
            row.extend(buffer.pop(best))
        else:
            room = size-len(row)
            row.extend(buffer[shortest][:room])
            buffer[shortest] = buffer[shortest][room:]
    return tuple(row)

def pack(buffer, size, bos, rest_bos=False, short=0, order=None, empty=False, mark=None, whole=False):
    "A packer with more ways to go wrong"
    mark, row = bos if mark is None else mark, []
    while len(row) < size and buffer:
        space = size-len(row)
        fits = [i for i in range(len(buffer)) if len(buffer[i])+1 <= space]
        if fits:
            i = max(fits, key=lambda i: len(buffer[i])) if order is None else order(fits)
            row += [mark, *buffer.pop(i)]
            continue
        i = min(range(len(buffer)), key=lambda i: len(buffer[i]))
        if space == 1 and empty:
            buffer.pop(i)
            row.append(mark)
            continue
        row += [mark, *buffer[i][:space-1]]
        rest = ([bos] if rest_bos else [])+buffer[i][space-1+short:]
        buffer[i] = list(buffer[i]) if whole else rest
    return row

@answers.wrong("lossy", named="0 in place of bos")
def zero_for_bos(buffer, size, bos): return pack(buffer, size, bos, mark=0)

@answers.wrong("lossy", named="padding instead of a cut")
def pads_with_minus_one(buffer, size, bos): return padded(buffer, size, bos, -1)

@answers.wrong("lossy", named="padding instead of a cut")
def pads_with_zero(buffer, size, bos): return padded(buffer, size, bos, 0)

def padded(buffer, size, bos, value):
    row = []
    while len(row) < size:
        fits = [i for i in range(len(buffer)) if len(buffer[i])+1 <= size-len(row)]
        if not fits:
            return row+[value]*(size-len(row))
        row += [bos, *buffer.pop(max(fits, key=lambda i: len(buffer[i])))]
    return row

@answers.wrong("lossy", named="works on a copy")
def on_a_copy(buffer, size, bos): return pack([list(b) for b in buffer], size, bos)

@answers.wrong("lossy", named="works on a copy")
def on_a_shallow_copy(buffer, size, bos):
    buffer = list(buffer)
    return pack(buffer, size, bos)

@answers.wrong("lossy", named="the rest is one token short")
def remainder_one_short(buffer, size, bos): return pack(buffer, size, bos, short=1)

@answers.wrong("lossy", named="the last token comes twice")
def remainder_one_long(buffer, size, bos): return pack(buffer, size, bos, short=-1)

@answers.wrong("lossy", named="BOS goes into the rest")
def bos_in_the_remainder(buffer, size, bos): return pack(buffer, size, bos, rest_bos=True)

@answers.wrong("lossy", named="the cut document stays whole")
def remainder_is_the_document(buffer, size, bos): return pack(buffer, size, bos, whole=True)

@answers.wrong("lossy", named="the youngest of equals")
def newest_of_equals(buffer, size, bos):
    def newest(fits): return max(fits, key=lambda i: (len(buffer[i]), i))
    return pack(buffer, size, bos, order=newest)

@answers.wrong("lossy", named="the first that fits")
def first_fit(buffer, size, bos): return pack(buffer, size, bos, order=lambda fits: fits[0])

@answers.wrong("lossy", named="the last place eats a document")
def last_place_eats_a_document(buffer, size, bos): return pack(buffer, size, bos, empty=True)

@answers.wrong("lossy", named="the oldest is cut")
def oldest_is_cut(buffer, size, bos):
    row = []
    while len(row) < size:
        fits = [i for i in range(len(buffer)) if len(buffer[i]) < size-len(row)]
        if fits:
            row += [bos, *buffer.pop(max(fits, key=lambda i: len(buffer[i])))]
        else:
            room = size-len(row)-1
            row += [bos, *buffer[0][:room]]
            buffer[0] = buffer[0][room:]
    return row

@answers.wrong("lossy")
def ids_without_bos(buffer, size, bos): return [i for i in pack(buffer, size, bos) if i != bos]

@answers.wrong("lossy")
def buffer_sorted_by_length(buffer, size, bos):
    buffer.sort(key=len)
    return pack(buffer, size, bos)

def best_or_shortest(buffer, fits):
    def length(i): return len(buffer[i])
    return max(fits, key=length) if fits else min(range(len(buffer)), key=length)

@answers.wrong("lossy")
def rest_in_front(buffer, size, bos):
    row = []
    while len(row) < size:
        room = size-len(row)-1
        fits = [i for i in range(len(buffer)) if len(buffer[i]) <= room]
        i = best_or_shortest(buffer, fits)
        ids = buffer.pop(i)
        row += [bos, *ids[:room]]
        if ids[room:]:
            buffer.insert(0, ids[room:])
    return row

@answers.wrong("lossy")
def empty_documents_stay(buffer, size, bos):
    row = []
    while len(row) < size:
        room = size-len(row)-1
        fits = [i for i in range(len(buffer)) if len(buffer[i]) <= room]
        i = best_or_shortest(buffer, fits)
        row += [bos, *buffer[i][:room]]
        buffer[i] = buffer[i][room:]
    return row

@answers.wrong("lossy")
def nothing_for_one_place(buffer, size, bos): return pack(buffer, size, bos) if size > 1 else [buffer[0][0]]

@answers.wrong("lossy")
def row_and_buffer(buffer, size, bos): return pack(buffer, size, bos), buffer

@answers.wrong("lossy")
def end_of_document_first(buffer, size, bos):
    row = pack(buffer, size, bos)
    return row[::-1]

@answers.wrong("lossy")
def bos_closes(buffer, size, bos): return pack(buffer, size, bos)[1:]+[bos]

# ---- 2. whose row is it ----

@answers.right("owner")
def by_asking_all_rows(rank, world, lanes, start, n):
    return [(r, r % lanes) for r in range(start, start+n*world) if r % world == rank]

@answers.right("owner")
def lane_of_the_turn(rank, world, lanes, start, n):
    out = []
    for j in range(n):
        out.append((start+j*world+rank, (start+j*world) % lanes+rank))
    return out

@answers.wrong("owner", named="counted from one")
def from_one(rank, world, lanes, start, n):
    return [(start+rank+j*world, (start+rank+j*world) % lanes) for j in range(1, n+1)]

@answers.wrong("owner")
def one_row_at_least(rank, world, lanes, start, n):
    return by_asking_all_rows(rank, world, lanes, start, max(n, 1))

@answers.wrong("owner")
def one_too_few(rank, world, lanes, start, n): return by_asking_all_rows(rank, world, lanes, start, n)[:-1]

@answers.wrong("owner", named="every process packs every row")
def rank_forgotten(rank, world, lanes, start, n): return [(start+j, (start+j) % lanes) for j in range(n)]

@answers.wrong("owner", named="n rows of all together")
def n_for_all(rank, world, lanes, start, n):
    return [(r, r % lanes) for r in range(start+rank, start+n, world)]

@answers.wrong("owner")
def lane_by_world(rank, world, lanes, start, n):
    return [(start+rank+j*world, (start+rank+j*world) % world) for j in range(n)]

@answers.wrong("owner")
def row_of_the_lane(rank, world, lanes, start, n):
    return [(r//lanes, r % lanes) for r, _ in by_asking_all_rows(rank, world, lanes, start, n)]

@answers.wrong("owner", named="lane and row change places")
def lane_first(rank, world, lanes, start, n):
    return [(lane, r) for r, lane in by_asking_all_rows(rank, world, lanes, start, n)]

@answers.wrong("owner", named="start is not looked at")
def start_ignored(rank, world, lanes, start, n): return by_asking_all_rows(rank, world, lanes, 0, n)

@answers.wrong("owner")
def always_four_lanes(rank, world, lanes, start, n):
    return [(r, r % 4) for r, _ in by_asking_all_rows(rank, world, lanes, start, n)]

@answers.wrong("owner")
def rows_only(rank, world, lanes, start, n):
    return [r for r, _ in by_asking_all_rows(rank, world, lanes, start, n)]

@answers.wrong("owner")
def steps_of_lanes(rank, world, lanes, start, n):
    return [(start+rank+j*lanes, (start+rank) % lanes) for j in range(n)]

@answers.wrong("owner")
def as_floats(rank, world, lanes, start, n):
    return [(start/1+rank+j*world, (start/1+rank+j*world) % lanes) for j in range(n)]

# ---- 3. the account ----

def account_of(rows, size, lengths, **changes):
    pieces = [p for row in rows for p in row]
    whole = {k for k, _, n in pieces if n == lengths[k]}
    out = dict(padding=size*len(rows)-sum(n+1 for *_, n in pieces),
               dropped=sum(lengths)-sum(n for *_, n in pieces),
               cut=sum(n < size and k not in whole for k, n in enumerate(lengths)),
               orphans=sum(n for _, first, n in pieces if first))
    return out | changes

@answers.right("account")
def four_sums(rows, size, lengths): return account_of(rows, size, lengths)

@answers.right("account")
def step_by_step(rows, size, lengths):
    padding = orphans = 0
    left, whole = list(lengths), [False]*len(lengths)
    for row in rows:
        used = 0
        for k, first, n in row:
            used += 1+n
            left[k] -= n
            whole[k] |= first == 0 and n == lengths[k]
            if first > 0:
                orphans += n
        padding += size-used
    cut = sum(1 for k, n in enumerate(lengths) if n+1 <= size and not whole[k])
    return {"padding": padding, "dropped": sum(left), "cut": cut, "orphans": orphans, "rows": len(rows)}

@answers.wrong("account")
def changes_lengths(rows, size, lengths):
    out = account_of(rows, size, lengths)
    for row in rows:
        for k, _, n in row:
            lengths[k] -= n
    return out

@answers.wrong("account")
def a_tuple(rows, size, lengths): return tuple(account_of(rows, size, lengths).values())

@answers.wrong("account")
def shares_of_all(rows, size, lengths):
    return {k: v/max(1, sum(lengths)) for k, v in account_of(rows, size, lengths).items()}

@answers.wrong("account")
def floats(rows, size, lengths): return {k: float(v) for k, v in account_of(rows, size, lengths).items()}

@answers.wrong("account", named="in pieces, but all there")
def together_is_whole(rows, size, lengths):
    seen = {}
    for row in rows:
        for k, _, n in row:
            seen[k] = seen.get(k, 0)+n
    cut = sum(n < size and seen.get(k, 0) < n for k, n in enumerate(lengths))
    return account_of(rows, size, lengths, cut=cut)

@answers.wrong("account", named="the second piece that is met is the orphan")
def second_met_is_orphan(rows, size, lengths):
    met, orphans = set(), 0
    for row in rows:
        for k, _, n in row:
            orphans += n if k in met else 0
            met.add(k)
    return account_of(rows, size, lengths, orphans=orphans)

@answers.wrong("account", named="one BOS for each row")
def one_bos_a_row(rows, size, lengths):
    return account_of(rows, size, lengths, padding=sum(size-1-sum(n for *_, n in row) for row in rows))

@answers.wrong("account")
def dropped_documents(rows, size, lengths):
    there = {k for row in rows for k, *_ in row}
    return account_of(rows, size, lengths, dropped=len(lengths)-len(there))

@answers.wrong("account")
def dropped_with_bos(rows, size, lengths):
    there = {k for row in rows for k, *_ in row}
    out = account_of(rows, size, lengths)
    return out | dict(dropped=out["dropped"]+len(lengths)-len(there))

@answers.wrong("account")
def orphans_with_bos(rows, size, lengths):
    return account_of(rows, size, lengths, orphans=sum(n+1 for row in rows for _, first, n in row if first))

@answers.wrong("account")
def first_row_only(rows, size, lengths): return account_of(rows[:1], size, lengths)

@answers.wrong("account", named="only what was met counts as cut")
def cut_if_met(rows, size, lengths):
    there = {k for row in rows for k, *_ in row}
    whole = {k for row in rows for k, _, n in row if n == lengths[k]}
    cut = sum(n < size and k in there-whole for k, n in enumerate(lengths))
    return account_of(rows, size, lengths, cut=cut)

@answers.wrong("account")
def orphan_pieces_after_the_second(rows, size, lengths):
    return account_of(rows, size, lengths, orphans=sum(n for row in rows for _, first, n in row[1:] if first))

@answers.wrong("account")
def forgets_orphans(rows, size, lengths):
    out = account_of(rows, size, lengths)
    del out["orphans"]
    return out

# ---- 4. a state that forgets ----

@answers.wrong("forgets", "takes a document before it looks whether the lane is ready")
def state_made_beforehand(docs, size, depth, state=None):
    at, waiting, rows = (state["at"], state["waiting"], state["given"]) if state else (0, [], 0)
    lane = Lane(0, size, [list(ids) for ids in waiting], rows=rows)
    for ids in docs(at):
        lane.put(ids)
        at += 1
        while lane.ready(depth):
            row = lane.row()
            yield row, {"at": at, "waiting": [list(ids) for ids in lane.buffer], "given": lane.rows}
    while len(lane):
        row = lane.row()
        yield row, {"at": at, "waiting": [list(ids) for ids in lane.buffer], "given": lane.rows}

@answers.right("forgets")
def state_in_a_class(docs, size, depth, state=None):
    at, waiting, rows = (state["at"], state["waiting"], state["given"]) if state else (0, [], 0)
    lane, source = Lane(0, size, [list(ids) for ids in waiting], rows=rows), iter(docs(at))
    end = object()
    while True:
        ids = None
        while not lane.ready(depth) and ids is not end:
            ids = next(source, end)
            if ids is not end:
                lane.put(ids)
                at += 1
        if len(lane) == 0:
            break
        row = list(lane.row())
        yield row, {"at": at, "given": lane.rows, "waiting": [list(ids) for ids in lane.buffer]}

@answers.right("forgets")
def state_as_a_list(docs, size, depth, state=None):
    taken, rows, buffer = state or [0, 0, []]
    lane, source, more = Lane(0, size, buffer, rows=rows), docs(taken), True
    while more or len(lane):
        while more and not lane.ready(depth):
            ids = next(source, None)
            more = ids is not None
            if more:
                lane.put(ids)
                taken += 1
        if len(lane):
            yield lane.row(), [taken, lane.rows, lane.buffer]

def everything(lane, taken): return dict(next=taken, rows=lane.rows, buffer=lane.buffer)

def streaming(docs, size, depth, state, packed=everything, tail=True, deep=None):
    state = state or dict(next=0, rows=0, buffer=[])
    lane, taken = Lane(0, size, state["buffer"], rows=state["rows"]), state["next"]
    source = docs(taken)
    while True:
        while not lane.ready(deep or depth):
            if (ids := next(source, None)) is None:
                if not tail:
                    return
                break
            lane.put(ids)
            taken += 1
        if not len(lane):
            return
        yield lane.row(), packed(lane, taken)

@answers.wrong("forgets", named="reads everything again")
def replays_from_the_start(docs, size, depth, state=None):
    skip = state["row"] if state else 0
    for k, (row, _) in enumerate(streaming(docs, size, depth, None)):
        if k >= skip:
            yield row, {"row": k+1}

KEPT = {}

@answers.wrong("forgets")
def state_in_a_global(docs, size, depth, state=None):
    number = state["number"] if state else 0
    if number == 0:
        KEPT.clear()
    for row, now in streaming(docs, size, depth, KEPT.get(number)):
        number += 1
        KEPT[number] = now
        yield row, {"number": number}

@answers.wrong("forgets")
def keeps_the_lane(docs, size, depth, state=None):
    yield from streaming(docs, size, depth, state, packed=lambda lane, taken: dict(lane=lane, next=taken))

@answers.wrong("forgets")
def changes_the_kept_state(docs, size, depth, state=None):
    state = {"next": 0, "rows": 0, "buffer": []} if state is None else state
    lane, source = Lane(0, size, state["buffer"], rows=state["rows"]), docs(state["next"])
    while True:
        while not lane.ready(depth) and (ids := next(source, None)) is not None:
            lane.put(ids)
            state["next"] += 1
        if not len(lane):
            return
        row = lane.row()
        state["rows"], state["buffer"] = lane.rows, lane.buffer
        yield row, {**state}

@answers.wrong("forgets")
def one_dict_for_all(docs, size, depth, state=None):
    out = {}
    for row, now in streaming(docs, size, depth, state):
        out.update(now)
        yield row, out

@answers.wrong("forgets", named="the last rows are forgotten")
def ends_with_the_documents(docs, size, depth, state=None):
    yield from streaming(docs, size, depth, state, tail=False)

@answers.wrong("forgets")
def youngest_first(docs, size, depth, state=None):
    def packed(lane, taken): return dict(next=taken, rows=lane.rows, buffer=lane.buffer[::-1])
    yield from streaming(docs, size, depth, state, packed=packed)

@answers.wrong("forgets", named="what waits is sorted")
def sorted_buffer(docs, size, depth, state=None):
    def packed(lane, taken): return dict(next=taken, rows=lane.rows, buffer=sorted(lane.buffer, key=len))
    yield from streaming(docs, size, depth, state, packed=packed)

@answers.wrong("forgets")
def depth_of_its_own(docs, size, depth, state=None): yield from streaming(docs, size, depth, state, deep=8)

@answers.wrong("forgets")
def starts_anew(docs, size, depth, state=None): yield from streaming(docs, size, depth, None)

@answers.wrong("forgets")
def next_is_the_row(docs, size, depth, state=None):
    def packed(lane, taken): return dict(next=lane.rows, rows=lane.rows, buffer=lane.buffer)
    yield from streaming(docs, size, depth, state, packed=packed)

@answers.wrong("forgets")
def counts_one_too_few(docs, size, depth, state=None):
    def packed(lane, taken): return dict(next=taken-1, rows=lane.rows, buffer=lane.buffer)
    yield from streaming(docs, size, depth, state, packed=packed)

@answers.wrong("forgets")
def state_first(docs, size, depth, state=None):
    for row, now in streaming(docs, size, depth, state):
        yield now, row

@answers.wrong("forgets")
def rows_alone(docs, size, depth, state=None):
    for row, _ in streaming(docs, size, depth, state):
        yield row

@answers.wrong("forgets")
def whole_list(docs, size, depth, state=None): return list(islice(streaming(docs, size, depth, state), 5))

@answers.wrong("forgets", named="forgets the number of rows")
def turn_begins_anew(docs, size, depth, state=None):
    def packed(lane, taken): return dict(next=taken, rows=lane.rows//4*4, buffer=lane.buffer)
    yield from streaming(docs, size, depth, state, packed=packed)
