"Answers to the exercises of chapter 03"
import math

from answers import Answers

answers = Answers()

# ---- 1. what will it cost ----

def costs(tokens, bytes_per_token, text_bytes, file_bytes, total_shards, mbit, shards=None, gb=1e9, mega=1e6):
    n = shards or min(math.ceil(tokens*bytes_per_token/text_bytes)+1, total_shards)
    return n, n*file_bytes/gb, n*file_bytes*8/(mbit*mega)

@answers.right("costing")
def one_more_and_capped(*a): return costs(*a)

@answers.right("costing")
def by_floor_division(tokens, bytes_per_token, text_bytes, file_bytes, total_shards, mbit):
    needed = -(-(tokens*bytes_per_token)//text_bytes)
    shards = int(min(needed, total_shards-1))+1
    megabytes = shards*file_bytes/10**6
    return [shards, megabytes/1000, megabytes/(mbit/8)]

@answers.wrong("costing", named="the cap is one too high")
def cap_one_too_high(*a): return costs(*a, shards=min(math.ceil(a[0]*a[1]/a[2]), a[4])+1)

@answers.wrong("costing", named="rounded to the nearest")
def rounded(*a): return costs(*a, shards=min(round(a[0]*a[1]/a[2]), a[4]-1)+1)

@answers.wrong("costing", named="one more than rounded down")
def floor_plus_one(*a): return costs(*a, shards=min(int(a[0]*a[1]/a[2])+1, a[4]-1)+1)

@answers.wrong("costing", named="a megabit of 2^20")
def binary_megabits(*a): return costs(*a, mega=2**20)

@answers.wrong("costing", named="a megabit of 2^20")
def binary_megabits_in_bytes(*a):
    n, gb, _ = costs(*a)
    return n, gb, n*a[3]/(a[5]/8*1024*1024)

@answers.wrong("costing", named="megabytes instead of gigabytes")
def in_megabytes(*a): return costs(*a, gb=1e6)

@answers.wrong("costing", named="tokens are bytes")
def tokens_are_bytes(*a): return costs(a[0], 1, *a[2:])

@answers.wrong("costing", named="divided by the bytes of a token")
def divided_by_bytes_per_token(*a): return costs(a[0], 1/a[1], *a[2:])

@answers.wrong("costing", named="more shards than there are")
def no_cap(*a): return costs(*a, shards=math.ceil(a[0]*a[1]/a[2])+1)

@answers.wrong("costing")
def minutes(*a): return *costs(*a)[:2], costs(*a)[2]/60

@answers.wrong("costing")
def for_the_example(*a): return 217, 21.7, 173.6

@answers.wrong("costing", named="validation costs nothing")
def validation_not_on_disk(*a):
    n, gb, seconds = costs(*a)
    return n, gb*(n-1)/n, seconds*(n-1)/n

@answers.wrong("costing")
def rounded_results(*a): return tuple(round(x, 1) for x in costs(*a))

@answers.wrong("costing", named="a part of a shard is fetched")
def part_of_a_shard(*a):
    n = costs(*a)[0]
    size = (min(a[0]*a[1]/a[2], a[4]-1)+1)*a[3]
    return n, size/1e9, size*8/(a[5]*1e6)

@answers.wrong("costing")
def as_a_dict(*a): return dict(zip(("shards", "GB", "seconds"), costs(*a)))

@answers.wrong("costing")
def everything(*a): return costs(*a, shards=a[4])

# ---- 2. disjoint and complete ----

@answers.right("dealing")
def as_a_range(start, stop, rank, ranks, worker, workers):
    m, r = ranks*workers, rank*workers+worker
    return range(start+(r-start) % m, stop, m)

@answers.right("dealing")
def numbered_by_worker(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % ranks == rank and k//ranks % workers == worker]

@answers.right("dealing")
def tuple_of_all(start, stop, rank, ranks, worker, workers):
    mine = worker*ranks+rank
    return tuple(k for k in range(stop) if k >= start and k % (workers*ranks) == mine)

@answers.wrong("dealing", named="two remainders of one number")
def both_remainders(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % ranks == rank and k % workers == worker]

@answers.wrong("dealing", named="the last document is forgotten")
def last_one_lost(start, stop, rank, ranks, worker, workers):
    return list(as_a_range(start, stop-1, rank, ranks, worker, workers))

@answers.wrong("dealing", named="stop is read as well")
def stop_is_read(start, stop, rank, ranks, worker, workers):
    return list(as_a_range(start, stop+1, rank, ranks, worker, workers))

@answers.wrong("dealing", named="begins before start")
def before_start(start, stop, rank, ranks, worker, workers):
    m = ranks*workers
    return list(range(start//m*m+rank*workers+worker, stop, m))

@answers.wrong("dealing", named="a round too late")
def a_round_too_late(start, stop, rank, ranks, worker, workers):
    m = ranks*workers
    return list(range(-(-start//m)*m+rank*workers+worker, stop, m))

@answers.wrong("dealing", named="counted from start")
def offset_from_start(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if (k-start) % (ranks*workers) == rank*workers+worker]

@answers.wrong("dealing")
def workers_take_blocks(start, stop, rank, ranks, worker, workers):
    mine = [k for k in range(start, stop) if k % ranks == rank]
    n = -(-len(mine)//workers)
    return mine[worker*n:worker*n+n]

@answers.wrong("dealing")
def workers_take_turns_in_the_list(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % ranks == rank][worker::workers]

@answers.wrong("dealing")
def ranks_only(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % ranks == rank] if worker == 0 else []

@answers.wrong("dealing")
def workers_only(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k % workers == worker]

@answers.wrong("dealing")
def falling(start, stop, rank, ranks, worker, workers):
    return list(as_a_range(start, stop, rank, ranks, worker, workers))[::-1]

@answers.wrong("dealing")
def by_hash(start, stop, rank, ranks, worker, workers):
    return [k for k in range(start, stop) if k*2654435761 % 2**32 % (ranks*workers) == rank*workers+worker]

@answers.wrong("dealing")
def as_floats(start, stop, rank, ranks, worker, workers):
    return [k/1 for k in as_a_range(start, stop, rank, ranks, worker, workers)]

@answers.wrong("dealing")
def as_a_set(start, stop, rank, ranks, worker, workers):
    return sum(as_a_range(start, stop, rank, ranks, worker, workers))

# ---- 3. where training ends ----

@answers.right("cutting")
def by_slices(data, n):
    if len(data) <= n:
        return len(data)
    end = data[:n].rfind(b"\n")
    if end != -1:
        return end+1
    return len(data[:n].decode("utf-8", "ignore").encode())

@answers.right("cutting")
def step_back(data, n):
    cut = min(n, len(data))
    if cut == len(data):
        return cut
    k = cut
    while k and data[k-1] != 10:
        k -= 1
    if k:
        return k
    while 0x80 <= data[cut] < 0xc0:
        cut -= 1
    return cut

def cut(data, n, ends=b"\n"):
    if n >= len(data):
        return len(data)
    end = max(data.rfind(bytes([e]), 0, n) for e in ends)
    if end >= 0:
        return end+1
    while n > 0 and data[n] & 0xc0 == 0x80:
        n -= 1
    return n

@answers.wrong("cutting", named="every kind of line end")
def split_lines(data, n):
    if n >= len(data):
        return len(data)
    whole = data[:n].splitlines(keepends=True)
    if whole and not whole[-1].endswith((b"\n", b"\r")):
        whole = whole[:-1]
    return sum(map(len, whole)) or cut(data, n)

@answers.wrong("cutting", named="every kind of line end")
def carriage_returns(data, n): return cut(data, n, b"\n\r")

@answers.wrong("cutting", named="the end of the text is no line end")
def all_must_end_with_a_newline(data, n): return data.rfind(b"\n", 0, n)+1 or cut(data, n)

@answers.wrong("cutting", named="looks at the byte before the cut")
def byte_before_the_cut(data, n):
    if n >= len(data) or b"\n" in data[:n]:
        return cut(data, n)
    while n > 0 and data[n-1] & 0xc0 == 0x80:
        n -= 1
    return n

@answers.wrong("cutting")
def one_step_back(data, n):
    if n >= len(data) or b"\n" in data[:n]:
        return cut(data, n)
    return n-1 if data[n] & 0xc0 == 0x80 else n

@answers.wrong("cutting")
def ascii_only(data, n):
    if n >= len(data) or b"\n" in data[:n]:
        return cut(data, n)
    while n > 0 and data[n] >= 0x80:
        n -= 1
    return n

@answers.wrong("cutting", named="a line end at the very beginning")
def zero_is_nothing(data, n):
    if n >= len(data):
        return len(data)
    end = data.rfind(b"\n", 0, n)
    return end+1 if end > 0 else cut(data.replace(b"\n", b" "), n)

@answers.wrong("cutting")
def first_line_only(data, n):
    if n >= len(data):
        return len(data)
    return data.find(b"\n", 0, n)+1 or cut(data, n)

@answers.wrong("cutting")
def the_bytes_themselves(data, n): return data[:cut(data, n)]

@answers.wrong("cutting")
def as_a_float(data, n): return cut(data, n)/1

@answers.wrong("cutting")
def always_n(data, n): return n

@answers.wrong("cutting")
def fails_at_the_end(data, n):
    k = data.rfind(b"\n", 0, n)+1
    while not k and n and data[n] & 0xc0 == 0x80:
        n -= 1
    return k or n

@answers.wrong("cutting", named="the nearest line end")
def nearest_line_end(data, n):
    if n >= len(data):
        return len(data)
    before, after = data.rfind(b"\n", 0, n)+1, data.find(b"\n", n)+1
    return after if after and after-n < n-before else before or cut(data, n)

@answers.wrong("cutting")
def forward_out_of_a_character(data, n):
    if n >= len(data) or b"\n" in data[:n]:
        return cut(data, n)
    while n < len(data) and data[n] & 0xc0 == 0x80:
        n += 1
    return n

# ---- 4. number k ----

@answers.right("finding")
def by_listing(k, shards):
    places = [(i, g, n) for i, groups in enumerate(shards) for g, n in enumerate(groups) if n]
    k %= sum(n for *_, n in places)
    for i, g, n in places:
        if k < n:
            return [i, g, k]
        k -= n

@answers.right("finding")
def shard_first(k, shards):
    sizes = [sum(groups) for groups in shards]
    k = k % sum(sizes)
    shard = 0
    while k >= sizes[shard]:
        k -= sizes[shard]
        shard += 1
    group = 0
    while k >= shards[shard][group]:
        k -= shards[shard][group]
        group += 1
    return shard, group, k

def walk(k, shards, epoch=lambda k, n: k % n):
    k = epoch(k, sum(map(sum, shards)))
    for i, groups in enumerate(shards):
        for g, n in enumerate(groups):
            if k < n:
                return i, g, k
            k -= n

@answers.wrong("finding", named="one epoch taken off")
def one_epoch_taken_off(k, shards): return walk(k, shards, lambda k, n: k-n if k >= n else k)

@answers.wrong("finding", named="the last document of an epoch")
def last_of_an_epoch(k, shards): return walk(k, shards, lambda k, n: k % (n-1) if n > 1 else 0)

@answers.wrong("finding")
def clipped(k, shards): return walk(k, shards, min) or walk(sum(map(sum, shards))-1, shards)

@answers.wrong("finding")
def turned_in_the_next_epoch(k, shards):
    n = sum(map(sum, shards))
    return walk(k if k//n % 2 == 0 else n-1-k % n, shards)

@answers.wrong("finding", named="empty groups are not counted")
def empty_groups_not_counted(k, shards): return walk(k, [[n for n in groups if n] for groups in shards])

@answers.wrong("finding")
def empty_shards_not_counted(k, shards): return walk(k, [groups for groups in shards if sum(groups)])

@answers.wrong("finding", named="group and shard change places")
def group_first(k, shards):
    i, g, r = walk(k, shards)
    return g, i, r

@answers.wrong("finding", named="places counted from 1")
def places_from_one(k, shards): return tuple(x+1 for x in walk(k, shards))

@answers.wrong("finding")
def shard_and_row(k, shards):
    i, _, r = walk(k, shards)
    return i, r

@answers.wrong("finding")
def strings(k, shards): return tuple(map(str, walk(k, shards)))

@answers.wrong("finding")
def floats(k, shards): return tuple(x/1 for x in walk(k, shards))

@answers.wrong("finding")
def takes_rows_off(k, shards):
    k %= sum(map(sum, shards))
    for i, groups in enumerate(shards):
        for g, n in enumerate(groups):
            if k < n:
                groups[g] = n-k
                return i, g, k
            k -= n

@answers.wrong("finding")
def one_k_behind(k, shards): return walk(k+1, shards)

@answers.wrong("finding")
def two_groups_a_shard(k, shards):
    k %= sum(map(sum, shards))
    for i, groups in enumerate(shards):
        for g, n in enumerate(groups[:2]):
            if k < n:
                return i, g, k
            k -= n
