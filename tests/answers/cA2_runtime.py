"Answers to the exercises of appendix A2"
import bisect
import math

from answers import Answers

answers = Answers()

# ---- 1. how long still ----

@answers.right("left")
def by_bisection(marks, total, window):
    if marks and marks[-1][1] >= total:
        return 0.0
    if len(marks) < 2:
        return None
    clocks = [clock for clock, _ in marks]
    k = max(0, bisect.bisect_right(clocks, clocks[-1]-window)-1)
    done = marks[-1][1]-marks[k][1]
    return (total-marks[-1][1])/(done/(clocks[-1]-clocks[k])) if done else None

@answers.right("left")
def walking_back(marks, total, window):
    if not marks:
        return None
    now, done = marks[-1]
    if done >= total:
        return 0
    for then, before in reversed(marks):
        if now-then >= window:
            break
    return (total-done)/(done-before)*(now-then) if done > before else None

def left(marks, total, window, pick=None, finish=True, rate=None, none=None, rest=None):
    "The answer with places for mistakes"
    if not marks:
        return none
    now, done = marks[-1]
    if finish and done >= total:
        return 0
    old = [m for m in marks if m[0] <= now-window]
    then, before = pick(marks, old) if pick else (old[-1] if old else marks[0])
    if now == then or done == before:
        return none
    speed = rate(now, done, then, before) if rate else (done-before)/(now-then)
    return (rest(total, done) if rest else total-done)/speed

@answers.wrong("left", named="the rate since the beginning")
def all_marks(*a): return left(*a, pick=lambda marks, old: marks[0])

@answers.wrong("left", named="the last two marks")
def neighbours(*a): return left(*a, pick=lambda marks, old: marks[-2:][0])

@answers.wrong("left", named="young runs get no guess")
def waits_for_the_window(*a):
    return left(*a, pick=lambda marks, old: old[-1] if old else marks[-1])

@answers.wrong("left", named="zero seconds where nothing moves")
def zero(marks, total, window): return left(marks, total, window, none=0) if marks else None

@answers.wrong("left")
def zero_without_marks(*a):
    got = left(*a)
    return 0 if got is None else got

@answers.wrong("left")
def minutes(*a):
    got = left(*a)
    return got and got/60

@answers.wrong("left")
def whole_seconds(*a):
    got = left(*a)
    return got if got is None else math.ceil(got)

@answers.wrong("left", named="the time for all of it")
def not_less_what_is_done(*a): return left(*a, rest=lambda total, done: total)

@answers.wrong("left")
def one_less(*a): return left(*a, rest=lambda total, done: total-done-1)

@answers.wrong("left")
def counts_from_zero(*a): return left(*a, rate=lambda now, done, then, before: done/(now-then))

@answers.wrong("left")
def clock_from_zero(*a): return left(*a, rate=lambda now, done, then, before: (done-before)/(now or 1))

@answers.wrong("left")
def always_a_minute(marks, total, window): return left(marks, total, 60)

@answers.wrong("left")
def marks_in_place_of_seconds(marks, total, window):
    return left(marks, total, window, pick=lambda marks, old: marks[-int(window)-1:][0])

@answers.wrong("left", named="a finished run is not noticed")
def never_finished(*a): return left(*a, finish=False)

@answers.wrong("left")
def only_exactly_finished(marks, total, window):
    return 0 if marks and marks[-1][1] == total else left(marks, total, window, finish=False)

# ---- 2. from which size on ----

def wins(laps, gain): return min(a for a, _ in laps) >= gain*min(b for _, b in laps)

@answers.right("switch")
def upwards(laps, gain):
    chosen = None
    for n in sorted(laps):
        if not wins(laps[n], gain):
            chosen = None
        elif chosen is None:
            chosen = n
    return chosen

@answers.right("switch")
def as_one_question(laps, gain):
    return min((n for n in laps if all(wins(laps[m], gain) for m in laps if m >= n)), default=None)

def tail(laps, gain, good, sizes=sorted, none=None):
    chosen = none
    for n in reversed(list(sizes(laps))):
        if not good(laps[n], gain):
            break
        chosen = n
    return chosen

@answers.wrong("switch", named="the mean of the laps")
def sums(laps, gain):
    return tail(laps, gain, lambda rows, g: sum(a for a, _ in rows) >= g*sum(b for _, b in rows))

@answers.wrong("switch", named="lap against lap")
def any_lap(laps, gain): return tail(laps, gain, lambda rows, g: any(a >= g*b for a, b in rows))

@answers.wrong("switch")
def every_lap(laps, gain): return tail(laps, gain, lambda rows, g: all(a >= g*b for a, b in rows))

@answers.wrong("switch")
def the_best_lap_of_both(laps, gain):
    def good(rows, g):
        a, b = min(rows, key=sum)
        return a >= g*b
    return tail(laps, gain, good)

@answers.wrong("switch")
def best_of_bfloat16_only(laps, gain):
    return tail(laps, gain, lambda rows, g: max(a for a, _ in rows) >= g*min(b for _, b in rows))

@answers.wrong("switch")
def best_of_float32_only(laps, gain):
    return tail(laps, gain, lambda rows, g: min(a for a, _ in rows) >= g*max(b for _, b in rows))

@answers.wrong("switch", named="the first size that gains")
def first_that_wins(laps, gain): return next((n for n in sorted(laps) if wins(laps[n], gain)), None)

@answers.wrong("switch", named="exactly `gain` times is not enough")
def more_than(laps, gain):
    return tail(laps, gain, lambda rows, g: min(a for a, _ in rows) > g*min(b for _, b in rows))

@answers.wrong("switch")
def text_order(laps, gain): return tail(laps, gain, wins, sizes=lambda d: sorted(d, key=str))

@answers.wrong("switch", named="sizes are taken as they come")
def as_filled(laps, gain): return tail(laps, gain, wins, sizes=list)

@answers.wrong("switch")
def only_the_largest(laps, gain): return max(laps) if wins(laps[max(laps)], gain) else None

@answers.wrong("switch")
def minus_one(laps, gain): return tail(laps, gain, wins, none=-1)

@answers.wrong("switch")
def fixed_gain(laps, gain): return tail(laps, 1.5, wins)

@answers.wrong("switch")
def text(laps, gain):
    got = tail(laps, gain, wins)
    return got if got is None else str(got)

# ---- 3. kept blocks ----

@answers.right("memory")
def sorted_pool(events, keep):
    pool, block_of, held, most, fresh = [], {}, 0, 0, 0
    for name, size in events:
        if size is None:
            if keep:
                bisect.insort(pool, block_of[name])
            else:
                held -= block_of[name]
            continue
        at = bisect.bisect_left(pool, size)
        if at < len(pool):
            block_of[name] = pool.pop(at)
        else:
            block_of[name] = size
            held += size
            fresh += size
        most = max(most, held)
    return most, fresh

@answers.right("memory")
def two_ways(events, keep):
    if keep:
        pool, block_of, fresh = [], {}, 0
        for name, size in events:
            if size is None:
                pool.append(block_of.pop(name))
                continue
            fits = sorted(b for b in pool if b >= size)
            if fits:
                pool.remove(fits[0])
            fresh += 0 if fits else size
            block_of[name] = fits[0] if fits else size
        return [fresh, fresh]                  # nothing ever goes back: what came is what is held
    sizes, held, most = {}, 0, 0
    for name, size in events:
        held += size if size is not None else -sizes[name]
        sizes[name], most = size, max(most, held)
    return [most, sum(size for _, size in events if size is not None)]

def blocks(events, keep, choose=min, large=lambda b, size: b >= size, after=None, count=None, end=None):
    "The answer with places for mistakes"
    live, kept, held, most, fresh = {}, [], 0, 0, 0
    for name, size in events:
        if size is None:
            block = live.pop(name)
            if keep:
                kept.append(block)
            else:
                held -= block
            continue
        fits = [b for b in kept if large(b, size)]
        if fits:
            block = choose(fits)
            kept.remove(block)
        else:
            block = size
            held += size
        if count(fits, size) if count else not fits:
            fresh += size
        live[name] = after(block, size) if after else block
        most = max(most, held)
    return end(most, fresh) if end else (most, fresh)

@answers.wrong("memory", named="any block that fits")
def first_fit(events, keep): return blocks(events, keep, choose=lambda fits: fits[0])

@answers.wrong("memory", named="the newest block that fits")
def last_in_first_out(events, keep): return blocks(events, keep, choose=lambda fits: fits[-1])

@answers.wrong("memory", named="the largest block")
def worst_fit(events, keep): return blocks(events, keep, choose=max)

@answers.wrong("memory")
def not_twice_too_large(events, keep): return blocks(events, keep, large=lambda b, size: size <= b <= 2*size)

@answers.wrong("memory", named="only a block of the very same size")
def same_size(events, keep): return blocks(events, keep, large=lambda b, size: b == size)

@answers.wrong("memory", named="a block of the very same size is passed over")
def larger(events, keep): return blocks(events, keep, large=lambda b, size: b > size)

@answers.wrong("memory", named="a block shrinks to its tensor")
def shrinks(events, keep): return blocks(events, keep, after=lambda block, size: size)

@answers.wrong("memory", named="keeps in any case")
def always_kept(events, keep): return blocks(events, True)

@answers.wrong("memory", named="never keeps")
def never_kept(events, keep): return blocks(events, False)

@answers.wrong("memory", named="the two are exchanged")
def fresh_first(events, keep): return blocks(events, keep, end=lambda most, fresh: (fresh, most))

@answers.wrong("memory")
def one_number(events, keep): return blocks(events, keep, end=lambda most, fresh: most)

@answers.wrong("memory")
def all_in_one(events, keep): return blocks(events, keep, end=lambda most, fresh: (most, fresh, most-fresh))

@answers.wrong("memory")
def kept_blocks_from_the_start(events, keep, pool=[]):
    "A list as default lives longer than a call"
    if keep:
        pool.append(80)
    most, fresh = blocks(events, keep)
    return (max(most, sum(pool)), fresh) if pool else (most, fresh)

@answers.wrong("memory", named="what is used again counts as fresh")
def all_fresh(events, keep): return blocks(events, keep, count=lambda fits, size: True)

@answers.wrong("memory")
def kibibytes(events, keep): return blocks(events, keep, end=lambda most, fresh: (most/1024, fresh/1024))
