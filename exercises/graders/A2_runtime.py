"Checks and known wrong answers for the exercises of appendix A2"

import random
from grade import Exercise, Wrong
from graders.common import something, telling, written


def close(a, b):
    "Equal numbers, but for the rounding of another order of operations"
    return abs(a - b) <= 1e-6 * max(1, abs(b))


# ---- 1. how long still: seconds_left(marks, total, window) ----


def seconds_left(marks, total, window):
    if not marks:
        return None
    now, done = marks[-1]
    if done >= total:
        return 0
    older = [m for m in marks if m[0] <= now - window]
    then, before = older[-1] if older else marks[0]
    if now == then or done == before:
        return None
    return (total - done) * (now - then) / (done - before)


def guess(
    begun_at_zero=False,
    all_of_it=False,
    inside=False,
    nothing=None,
    finished=True,
    last_two=False,
    strict=False,
    of_all=False,
    per_second=False,
    at_least_one=False,
    short=True,
    mean=False,
    elapsed=False,
):
    "The answer, with switches for its mistakes"

    def f(marks, total, window):
        if not marks:
            return None
        now, done = marks[-1]
        if finished and done >= total:
            return 0
        older = [m for m in marks if (m[0] < now - window if strict else m[0] <= now - window)]
        if not older and not short:
            return None
        then, before = older[-1] if older else marks[0]
        if all_of_it:
            then, before = marks[0]
        if inside:
            then, before = next(m for m in marks if m[0] >= now - window)
        if last_two:
            then, before = marks[-2:][0]
        if begun_at_zero:
            before = 0
        if elapsed:
            then = now - window
        if now == then or done == before:
            return nothing
        rate = (done - before) / (now - then)
        if mean:
            used = [m for m in marks if m[0] >= then]
            rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(used, used[1:]) if b[0] > a[0]]
            rate = sum(rates) / len(rates) if rates else 0
            if not rate:
                return nothing
        if per_second:
            return rate
        left = total if of_all else total - done
        return max(1, left / rate) if at_least_one else left / rate

    return f


def marks_of(rng):
    "Some marks of a run that was begun before, is slow at first, and may stop"
    clock, done, out = rng.randrange(5), rng.choice([0, 0, 40, 500]), []
    for k in range(rng.randrange(1, 12)):
        out.append((clock, done))
        clock += rng.choice([1, 2, 2.5, 5, 20])
        done += rng.choice([0, 1, 5, 10, 10, 60])
    return (
        out,
        rng.choice([out[-1][1], out[-1][1] + rng.randrange(1, 900), 1000]),
        rng.choice([2, 5, 10, 30, 60]),
    )


def left_cases():
    rng = random.Random(20)
    simple = [
        ([(0, 0), (10, 5)], 20, 60),
        ([(0, 400), (10, 405)], 420, 60),
        ([(0, 0), (90, 1), (100, 11)], 31, 10),
        ([(0, 0), (60, 0), (100, 100)], 200, 30),
        ([], 10, 5),
        ([(3, 2)], 10, 5),
        ([(3, 10)], 10, 5),
        ([(0, 5), (9, 5)], 10, 60),
        ([(0, 0), (10, 5), (80, 5)], 9, 30),
        ([(0, 0), (9, 12)], 10, 5),
        ([(0, 0), (10, 50), (20, 60), (30, 70)], 90, 20),
        ([(0, 0), (5, 20), (20, 22)], 24, 10),
    ]
    return simple + sorted((marks_of(rng) for _ in range(200)), key=lambda c: len(c[0]))


def left_check(answer):
    for case in left_cases():
        said, want = written("seconds_left", *case), seconds_left(*case)
        got = answer(*map(lambda x: list(x) if isinstance(x, list) else x, case))
        if want is None:
            assert got is None, f"{said}: nothing can be said yet, so it should give None, not {got!r}"
            continue
        something(said, got)
        with telling(f"{said} gave {got!r}; comparing it"):
            right = type(got) in (int, float) and close(got, want)
        assert right, f"{said}: it should give {want:g} seconds, not {got!r}"


def left_kind(answer, *case):
    got = answer(*case)
    return round(got, 6) if isinstance(got, (int, float)) else got


left_ex = Exercise(
    "1. How much longer?",
    4,
    left_check,
    seconds_left,
    probes=left_cases(),
    behave=left_kind,
    wrong=[
        Wrong(
            "what was done before this start counts as speed",
            "a run that goes on at 400 has not done 400 in its first seconds: only the difference of two "
            "marks is speed.",
            guess(begun_at_zero=True, all_of_it=True),
        ),
        Wrong(
            "the second count is not subtracted",
            "you divide all that is done by the window's seconds: only what was added in them counts.",
            guess(begun_at_zero=True),
        ),
        Wrong(
            "the rate since the beginning",
            "the window is not used: an hour of waiting at the start would spoil the guess all day.",
            guess(all_of_it=True),
        ),
        Wrong(
            "the first mark inside the window",
            "the two marks should be at least `window` seconds apart, where there are such: the older "
            "one lies at the window's edge or before it, not inside.",
            guess(inside=True),
        ),
        Wrong(
            "the last two marks",
            "two marks in a row say little: one slow step, and an hour becomes a day.",
            guess(last_two=True),
        ),
        Wrong(
            "a mark at the window's edge is left out",
            "a mark that is exactly `window` seconds old is old enough.",
            guess(strict=True),
        ),
        Wrong(
            "zero seconds where nothing moves",
            "without progress nothing is known: None. A zero says that it is finished.",
            guess(nothing=0),
        ),
        Wrong(
            "infinity where nothing moves",
            "without progress nothing is known: None. A bar that shows `inf` helps nobody.",
            guess(nothing=float("inf")),
        ),
        Wrong(
            "a finished run is not noticed",
            "where all is done, 0 seconds are left, whatever the marks say about speed.",
            guess(finished=False),
        ),
        Wrong(
            "the time for all of it", "what is left is `total` less what is done already.", guess(of_all=True)
        ),
        Wrong(
            "the rate in place of the time",
            "that is how many a second; asked is for how many seconds.",
            guess(per_second=True),
        ),
        Wrong(
            "young runs get no guess",
            "where no mark is `window` seconds old, the oldest one serves.",
            guess(short=False),
        ),
        Wrong(
            "the mean of rates",
            "marks are not evenly spaced: a mean of the rates between neighbours gives a short lapse the "
            "weight of a long one.",
            guess(mean=True),
        ),
        Wrong(
            "divides by the window",
            "the two marks are rarely `window` seconds apart to the second: divide by the time between them.",
            guess(elapsed=True),
        ),
    ],
)

# ---- 2. from which size on: switch_at(laps, gain) ----


def switch_at(laps, gain):
    chosen = None
    for n in sorted(laps, reverse=True):
        f32, bf16 = map(min, zip(*laps[n]))
        if f32 < gain * bf16:
            break
        chosen = n
    return chosen


def mean(times):
    return sum(times) / len(times)


def median(times):
    return sorted(times)[len(times) // 2]


def switch(
    best=min,
    order=sorted,
    first=False,
    more=False,
    other_way=False,
    pairs=False,
    largest=False,
    by_gain=True,
    index=False,
    below=False,
    missing=None,
    minus=False,
):
    "The answer, with switches for its mistakes"

    def faster(laps, gain):
        if pairs:
            return any(a >= gain * b for a, b in laps)
        a, b = (best(times) for times in zip(*laps))
        if other_way:
            a, b = b, a
        if minus:
            return a - b >= gain
        if not by_gain:
            gain = 1
        return a > gain * b if more else a >= gain * b

    def f(laps, gain):
        sizes = list(order(laps))
        good = [faster(laps[n], gain) for n in sizes]
        if first:
            chosen = next((k for k, g in enumerate(good) if g), None)
        else:
            chosen = len(sizes)
            while chosen and good[chosen - 1]:
                chosen -= 1
            chosen = None if chosen == len(sizes) else chosen
        if largest and chosen is not None:
            chosen = max(k for k, g in enumerate(good) if g)
        if below:
            chosen = next((k for k in range(len(good) - 1, -1, -1) if not good[k]), None)
        if chosen is None:
            return missing if missing != "largest" else max(laps)
        return chosen if index else sizes[chosen]

    return f


def laps_of(rng):
    "Laps in microseconds for some sizes, in any order, some of them spoilt by a neighbour"
    sizes, out = rng.sample([16, 32, 64, 96, 128, 256, 512, 1024], rng.randrange(1, 7)), {}
    for n in sizes:
        bf16 = rng.randrange(10, 60) * 2
        f32 = rng.choice([bf16 // 2, bf16, bf16 * 3 // 2, bf16 * 2, bf16 * 3, bf16 * 3 - 1])
        laps = [[f32, bf16]] + [
            [f32 + rng.choice([0, 7, 400]), bf16 + rng.choice([0, 9, 500])] for _ in range(rng.randrange(4))
        ]
        rng.shuffle(laps)
        out[n] = [tuple(lap) for lap in laps]
    return out, rng.choice([1, 1.5, 1.5, 2, 3])


def switch_cases():
    rng = random.Random(21)
    simple = [
        ({64: [(20, 10)]}, 1.5),
        ({64: [(10, 20)]}, 1.5),
        ({64: [(30, 20)]}, 1.5),
        ({64: [(30, 20)]}, 2),
        ({32: [(10, 20)], 256: [(40, 10)]}, 1.5),
        ({32: [(40, 10)], 64: [(9, 10)], 256: [(40, 10)]}, 1.5),
        ({32: [(40, 10)], 256: [(9, 10)]}, 1.5),
        ({256: [(40, 10)], 32: [(9, 10)]}, 1.5),
        ({64: [(900, 10), (12, 11)]}, 1.5),
        ({64: [(20, 700), (21, 10)]}, 1.5),
        ({64: [(20, 19), (30, 10)]}, 1.5),
        ({16: [(40, 10)], 64: [(40, 10)], 256: [(40, 10)]}, 1.5),
    ]
    return simple + sorted((laps_of(rng) for _ in range(200)), key=lambda c: len(c[0]))


def switch_check(answer):
    for laps, gain in switch_cases():
        said, want = written("switch_at", laps, gain), switch_at(laps, gain)
        got = answer({n: list(rows) for n, rows in laps.items()}, gain)
        if want is None:
            assert got is None, f"{said}: not even the largest size gains so much: None is right, not {got!r}"
            continue
        something(said, got)
        assert type(got) is int and got == want, f"{said}: from {want} on bfloat16 wins, not from {got!r} on"


switch_ex = Exercise(
    "2. From which size on?",
    3,
    switch_check,
    switch_at,
    probes=switch_cases(),
    wrong=[
        Wrong(
            "the mean of the laps",
            "one lap beside a busy neighbour spoils a mean. The fastest lap is the machine's own.",
            switch(best=mean),
        ),
        Wrong(
            "the median of the laps",
            "a neighbour that is busy for most of the laps spoils a median, too.",
            switch(best=median),
        ),
        Wrong(
            "the slowest lap",
            "the slowest lap tells what the neighbours did, not what the machine can.",
            switch(best=max),
        ),
        Wrong(
            "the first lap", "the first lap is one of several, and not the best.", switch(best=lambda t: t[0])
        ),
        Wrong(
            "the first size that gains",
            "a small size that gains by luck is no beginning where a larger one loses again: the gain has "
            "to hold at every size from there on.",
            switch(first=True),
        ),
        Wrong(
            "the largest size that gains",
            "asked is where it *begins* to pay, not where it last did.",
            switch(largest=True),
        ),
        Wrong(
            "sizes are taken as they come",
            "a dict has the order in which it was filled; sort the sizes.",
            switch(order=list),
        ),
        Wrong(
            "exactly `gain` times is not enough",
            "*at least* `gain` times as fast: equality counts.",
            switch(more=True),
        ),
        Wrong(
            "the two are exchanged",
            "a lap is (float32, bfloat16) in seconds: fewer seconds are faster.",
            switch(other_way=True),
        ),
        Wrong(
            "lap against lap",
            "in one lap a neighbour may have met only one of the two: compare the best of each.",
            switch(pairs=True),
        ),
        Wrong(
            "faster at all",
            "`gain` is not used: a win of one percent is not worth fewer digits.",
            switch(by_gain=False),
        ),
        Wrong(
            "a difference for a ratio",
            "`gain` times as fast is a ratio of times, no difference.",
            switch(minus=True),
        ),
        Wrong("the place in the list", "the size itself is asked for, not its place.", switch(index=True)),
        Wrong(
            "the last size that does not gain",
            "that is one step too early: the gain begins at the size after it.",
            switch(below=True),
        ),
        Wrong(
            "the largest size where nothing gains",
            "where bfloat16 never pays, there is no such size: None.",
            switch(missing="largest"),
        ),
        Wrong(
            "zero where nothing gains",
            "0 would mean: from the smallest size on. Where it never pays, None.",
            switch(missing=0),
        ),
    ],
)

# ---- 3. kept blocks: memory(events, keep) ----


def memory(events, keep):
    live, kept, held, most, fresh = {}, [], 0, 0, 0
    for name, size in events:
        if size is None:
            block = live.pop(name)
            if keep:
                kept.append(block)
            else:
                held -= block
            continue
        fits = [block for block in kept if block >= size]
        block = min(fits, default=size)
        if fits:
            kept.remove(block)
        else:
            held += size
            fresh += size
        live[name] = block
        most = max(most, held)
    return most, fresh


def allocator(
    choose=min,
    exact=False,
    shrinks=False,
    always=False,
    never=False,
    stays=False,
    live_only=False,
    at_end=False,
    all_fresh=False,
    splits=False,
    counts=False,
    swapped=False,
    too_small=False,
    gives_back=True,
    strict=False,
):
    "The answer, with switches for its mistakes"

    def fits(kept, size):
        if exact:
            return [b for b in kept if b == size]
        if too_small:
            return list(kept)
        return [b for b in kept if (b > size if strict else b >= size)]

    def f(events, keep):
        live, kept, held, most, fresh = {}, [], 0, 0, 0
        keep = (keep or always) and not never
        for name, size in events:
            if size is None:
                block = live.pop(name)
                if keep:
                    kept.append(block)
                elif gives_back:
                    held -= block
                continue
            found = fits(kept, size)
            block = choose(found) if found else size
            if found:
                if not stays:
                    kept.remove(block)
                if splits and block > size:
                    kept.append(block - size)
            if not found:
                held += size
            if not found or all_fresh:
                fresh += 1 if counts else size
            live[name] = size if shrinks or splits else block
            most = max(most, sum(live.values()) if live_only else held)
        if at_end:
            most = held
        return (fresh, most) if swapped else (most, fresh)

    return f


def events_of(rng):
    "Blocks that come and go, as in some training steps"
    out, live, names = [], [], iter("abcdefghijklmnopqrstuvwxyz" * 3)
    for k in range(rng.randrange(1, 16)):
        if live and rng.random() < 0.45:
            out.append((live.pop(rng.randrange(len(live))), None))
        else:
            name = f"{next(names)}{k}"
            live.append(name)
            out.append((name, rng.choice([1, 2, 3, 4, 6, 8]) * 10))
    return out


def memory_cases():
    rng = random.Random(22)
    step = [("a", 30), ("a", None), ("b", 20)]
    simple = [
        ([], True),
        ([("a", 10)], False),
        ([("a", 10), ("a", None)], False),
        (step, False),
        (step, True),
        ([("a", 30), ("b", 20), ("a", None), ("b", None), ("c", 20)], True),
        ([("a", 20), ("b", 30), ("a", None), ("b", None), ("c", 20), ("d", 30)], True),
        ([("a", 20), ("a", None), ("b", 30)], True),
        ([("a", 30), ("a", None), ("b", 10), ("c", 10)], True),
        ([("a", 30), ("a", None), ("b", 10), ("b", None), ("c", 30)], True),
        ([("a", 50), ("b", 30), ("a", None), ("b", None), ("c", 20), ("d", 50)], True),
    ]
    more = [(events_of(rng), rng.random() < 0.7) for _ in range(200)]
    return simple + sorted(more, key=lambda c: len(c[0]))


def memory_check(answer):
    for events, keep in memory_cases():
        said, want = written("memory", events, keep), memory(events, keep)
        got = something(said, answer(list(events), keep))
        shape = isinstance(got, (tuple, list)) and len(got) == 2 and all(type(x) in (int, float) for x in got)
        assert shape, f"{said}: two numbers are asked for, (most, fresh), not {got!r}"
        assert got[0] == want[0], f"{said}: at most {want[0]} bytes are held at a time, not {got[0]!r}"
        assert got[1] == want[1], f"{said}: {want[1]} bytes come fresh from the system, not {got[1]!r}"


def memory_kind(answer, events, keep):
    got = answer(list(events), keep)
    return tuple(got) if isinstance(got, (tuple, list)) else got


memory_ex = Exercise(
    "3. Kept blocks",
    4,
    memory_check,
    memory,
    probes=memory_cases(),
    behave=memory_kind,
    wrong=[
        Wrong(
            "any block that fits",
            "of the kept blocks that are large enough the smallest is taken: the large ones are needed for "
            "large tensors.",
            allocator(choose=lambda b: b[0]),
        ),
        Wrong(
            "the largest block",
            "of the kept blocks that are large enough the *smallest* is taken.",
            allocator(choose=max),
        ),
        Wrong(
            "the newest block that fits",
            "not the one that was freed last, but the smallest that is large enough.",
            allocator(choose=lambda b: b[-1]),
        ),
        Wrong(
            "only a block of the very same size", "a larger kept block does as well.", allocator(exact=True)
        ),
        Wrong(
            "a block of the very same size is passed over",
            "a block that is exactly large enough is large enough.",
            allocator(strict=True),
        ),
        Wrong(
            "a block that is too small",
            "a tensor of 30 bytes does not fit into a block of 20.",
            allocator(too_small=True),
        ),
        Wrong(
            "a block shrinks to its tensor",
            "a block is handed out whole, and when it is freed it is as large as it was.",
            allocator(shrinks=True),
        ),
        Wrong(
            "a block is split",
            "here blocks are handed out whole: the remainder is nobody's until it is freed.",
            allocator(splits=True),
        ),
        Wrong(
            "a kept block is handed out twice",
            "who takes a kept block takes it away from the others.",
            allocator(stays=True),
        ),
        Wrong(
            "keeps in any case",
            "with keep=False a freed block goes back to the system at once.",
            allocator(always=True),
        ),
        Wrong(
            "never keeps",
            "with keep=True a freed block stays, and serves the next tensor that fits.",
            allocator(never=True),
        ),
        Wrong(
            "only what is in use counts",
            "a kept block is held, too: the system can't give it to anybody else.",
            allocator(live_only=True),
        ),
        Wrong(
            "what is held at the end",
            "the most that was ever held is asked for, not what is left at the end.",
            allocator(at_end=True),
        ),
        Wrong(
            "what is used again counts as fresh",
            "a kept block needs no clearing: only what comes from the system does.",
            allocator(all_fresh=True),
        ),
        Wrong(
            "blocks in place of bytes",
            "fresh is counted in bytes: the kernel clears pages, and large blocks have many.",
            allocator(counts=True),
        ),
        Wrong(
            "the two are exchanged",
            "first the most that is held, then what came fresh.",
            allocator(swapped=True),
        ),
        Wrong(
            "what is freed is still held",
            "with keep=False a freed block goes back: from then on it is not held.",
            allocator(gives_back=False),
        ),
    ],
)

EXERCISES = dict(left=left_ex, switch=switch_ex, memory=memory_ex)
