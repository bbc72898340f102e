"Answers to the exercises of chapter 16"
import itertools
import math
import os.path
import random
import re

import numpy as np

from answers import Answers
from nanochat.evaluate import core_score, paired, wilson

answers = Answers()

# ---- 1. an exam from any text ----

def sentences(docs): return [s.split() for s in re.findall(r"[^.!?\n]+[.!?]", "\n".join(docs))]

def pairs_of(docs, cut=3, least=7):
    "Beginnings and ends, each once, in the order of the text"
    words = [w for w in sentences(docs) if len(w) >= least]
    return list(dict.fromkeys((" ".join(w[:-cut]), " ".join(w[-cut:])) for w in words))

def halves_of(docs):
    "The same, cut in the middle"
    found = [w for w in sentences(docs) if len(w) >= 8]
    return list(dict.fromkeys((" ".join(w[:len(w)//2]), " ".join(w[len(w)//2:])) for w in found))

def apart_in(pairs):
    said = {f"{query} {end}" for query, end in pairs}
    return lambda a, b: a[1] != b[1] and f"{a[0]} {b[1]}" not in said and f"{b[0]} {a[1]}" not in said

def fours(pairs, apart, n):
    rings, left = [], list(pairs)
    while 4*len(rings) < n:
        ring = []
        for pair in left:
            if len(ring) < 4 and all(apart(pair, p) for p in ring):
                ring.append(pair)
            if len(ring) == 4:
                break
        for pair in ring:
            left.remove(pair)
        rings.append(ring)
    return rings

def from_rings(rings, rng, ordered=None):
    rows = []
    for ring in rings:
        for query, end in ring:
            choices = [e for _, e in ring]
            (ordered or rng.shuffle)(choices)
            rows.append(dict(query=query, choices=choices, gold=choices.index(end)))
    return rows

def good(docs, n, seed):
    rng, pairs = random.Random(seed), pairs_of(docs)
    rng.shuffle(pairs)
    return from_rings(fours(pairs, apart_in(pairs), n), rng)[:n]

def drawn(docs, n, seed, pool=None, cut=3):
    "Wrong ends from a pool, by default all the ends there are"
    rng, pairs = random.Random(seed), pairs_of(docs, cut)
    rng.shuffle(pairs)
    apart, rows = apart_in(pairs), []
    pool = pool or [end for _, end in pairs]
    for query, end in pairs[:n]:
        choices = [end]
        while len(choices) < 4:
            other = rng.choice(pool)
            if other not in choices and apart((query, end), ("", other)):
                choices.append(other)
        rng.shuffle(choices)
        rows.append(dict(query=query, choices=choices, gold=choices.index(end)))
    return rows

@answers.right("exam")
def in_alphabetical_order(docs, n, seed):
    rng, pairs = random.Random(seed), pairs_of(docs, cut=2)
    rng.shuffle(pairs)
    return from_rings(fours(pairs, apart_in(pairs), n), rng, list.sort)[:n]

@answers.right("exam")
def cut_in_the_middle(docs, n, seed):
    pairs, rng = halves_of(docs), random.Random(seed)
    rng.shuffle(pairs)
    yield from from_rings(fours(pairs, apart_in(pairs), n), rng)[:n]

@answers.right("exam")
def the_place_goes_round(docs, n, seed):
    "The right one stands first, second, third, fourth, first …"
    rng, pairs, rows = random.Random(seed), pairs_of(docs), []
    rng.shuffle(pairs)
    for ring in fours(pairs, apart_in(pairs), n):
        for k, (query, end) in enumerate(ring):
            others = [e for _, e in ring if e != end]
            rows.append(dict(query=query, choices=(*others[:k], end, *others[k:]), gold=k))
    return tuple(rows[:n])

@answers.wrong("exam")
def which_sentence_comes_next(docs, n, seed):
    "The end is a whole sentence, the one after the query: fair to all, and nobody can know it"
    rng, pairs, every = random.Random(seed), [], "\n".join(docs)
    for line in every.split("\n"):
        said = [s.strip() for s in re.findall(r"[^.!?]+[.!?]", line)]
        pairs += [(a, b) for a, b in itertools.pairwise(said) if len(a.split()) > 3 and len(b.split()) > 1]
    pairs = [(a, b) for a, b in dict.fromkeys(pairs) if f"{a} {b}" in every]
    rng.shuffle(pairs)
    def wrong(query, end): return f"{query} {end}" not in every
    def apart(a, b): return a[1] != b[1] and wrong(a[0], b[1]) and wrong(b[0], a[1])
    return from_rings(fours(pairs, apart, n), rng)[:n]

@answers.wrong("exam")
def always_the_same_rows(docs, n, seed):
    return [dict(query=f"On day {k} Ada keeps", choices=["a goat.", "a dog.", "a hen.", "a cat."], gold=k % 4)
            for k in range(n)]

@answers.wrong("exam", named="drawn as the text has them")
def ends_as_they_come(docs, n, seed): return drawn(docs, n, seed)

@answers.wrong("exam", named="every end equally often")
def from_a_set_of_ends(docs, n, seed): return drawn(docs, n, seed, sorted({e for _, e in pairs_of(docs)}))

@answers.wrong("exam")
def only_rare_ends_are_wrong(docs, n, seed):
    ends = [e for _, e in pairs_of(docs)]
    return drawn(docs, n, seed, sorted(set(ends), key=ends.count)[:8])

@answers.wrong("exam")
def never_at_the_edge(docs, n, seed):
    rng = random.Random(seed)
    for row in good(docs, n, seed):
        right = row["choices"][row["gold"]]
        others, at = [c for c in row["choices"] if c != right], rng.choice([1, 2])
        yield dict(query=row["query"], choices=[*others[:at], right, *others[at:]], gold=at)

@answers.wrong("exam")
def four_sentences_again_and_again(docs, n, seed):
    return list(itertools.islice(itertools.cycle(good(docs, 4, seed)), n))

@answers.wrong("exam")
def shuffles_the_texts(docs, n, seed):
    random.Random(seed).shuffle(docs)
    return good(docs, n, seed)

@answers.wrong("exam", named="dice without a seed")
def by_the_generator_as_it_stands(docs, n, seed): return good(docs, n, random.random())

@answers.wrong("exam", named="one exam for all seeds")
def in_the_order_of_the_text(docs, n, seed): return good(docs, n, 1)

@answers.wrong("exam")
def gold_as_text(docs, n, seed): return [dict(r, gold=str(r["gold"])) for r in good(docs, n, seed)]

@answers.wrong("exam")
def gold_as_yes_or_no(docs, n, seed):
    for r in good(docs, n, seed):
        right = r["choices"][r["gold"]]
        yield dict(r, choices=sorted(r["choices"], key=lambda c: c != right), gold=False)

@answers.wrong("exam")
def with_a_number_in_front(docs, n, seed):
    return [dict(r, query=f"{k}. {r['query']}") for k, r in enumerate(good(docs, n, seed))]

@answers.wrong("exam")
def with_a_field_more(docs, n, seed): return [dict(r, seed=seed) for r in good(docs, n, seed)]

@answers.wrong("exam")
def the_wrong_ones_end_in_a_question(docs, n, seed):
    for r in good(docs, n, seed):
        yield dict(r, choices=[c if k == r["gold"] else c[:-1]+"?" for k, c in enumerate(r["choices"])])

@answers.wrong("exam")
def three_choices(docs, n, seed):
    for r in good(docs, n, seed):
        keep = [c for k, c in enumerate(r["choices"]) if k != (r["gold"]+1) % 4]
        yield dict(r, choices=keep, gold=keep.index(r["choices"][r["gold"]]))

@answers.wrong("exam")
def another_is_right(docs, n, seed): return [dict(r, gold=(r["gold"]+1) % 4) for r in good(docs, n, seed)]

@answers.wrong("exam")
def as_one_dict(docs, n, seed): return {k: r for k, r in enumerate(good(docs, n, seed))}

@answers.wrong("exam")
def too_many(docs, n, seed): return good(docs, n+1, seed)+good(docs, 1, seed)

@answers.wrong("exam")
def a_line_break_between(docs, n, seed): return [dict(r, query=r["query"]+"\n") for r in good(docs, n, seed)]

@answers.wrong("exam", named="two right answers")
def rings_without_a_look_at_the_text(docs, n, seed):
    rng, pairs = random.Random(seed), pairs_of(docs)
    rng.shuffle(pairs)
    return from_rings(fours(pairs, lambda a, b: a[1] != b[1], n), rng)[:n]

# ---- 2. two checkpoints ----

def must_fit(before, after):
    if set(before) != set(after) or any(len(before[t]) != len(after[t]) for t in before):
        raise ValueError("not the same exam")

@answers.right("compare")
def with_arrays(before, after, chance):
    must_fit(before, after)
    difference, middle, variance = [], [], []
    for task in before:
        steps, room = np.array(after[task])-np.array(before[task]), 1-chance[task]
        more = np.append(steps, [1, -1])
        difference.append(steps.mean()/room)
        middle.append(more.mean()/room)
        variance.append(more.var()/len(more)/room**2)
    half = 1.96*np.sqrt(np.sum(variance))/len(variance)
    return dict(difference=np.mean(difference), lo=np.mean(middle)-half, hi=np.mean(middle)+half)

@answers.right("compare")
def from_the_intervals_of_the_chapter(before, after, chance):
    must_fit(before, after)
    T, found = len(before), {task: paired(before[task], after[task]) for task in before}
    rooms = {task: 1-chance[task] for task in found}
    middle = sum((x["lo"]+x["hi"])/2/rooms[task] for task, x in found.items())/T
    half = math.sqrt(sum(((x["hi"]-x["lo"])/2/rooms[task])**2 for task, x in found.items()))/T
    difference = sum(x["difference"]/rooms[task] for task, x in found.items())/T
    return dict(lo=middle-half, hi=middle+half, difference=difference)

def changed(change):
    "The right answer, and something done to it"
    def compare(before, after, chance): return change(with_arrays(before, after, chance))
    return compare

answers.wrong("compare", "a tuple")(changed(lambda found: tuple(found.values())))
answers.wrong("compare", "in percent")(changed(lambda found: {k: 100*v for k, v in found.items()}))
answers.wrong("compare", "never below 0")(changed(lambda found: {k: max(0., v) for k, v in found.items()}))
answers.wrong("compare", "rounded")(changed(lambda found: {k: round(v, 3) for k, v in found.items()}))
answers.wrong("compare", "an end is missing")(changed(lambda found: dict(difference=found["difference"])))

@answers.wrong("compare")
def two_scores_of_core(before, after, chance):
    must_fit(before, after)
    old, new = core_score(before, chance), core_score(after, chance)
    return dict(difference=new["core"]-old["core"], lo=new["lo"]-old["hi"], hi=new["hi"]-old["lo"])

@answers.wrong("compare")
def mean_of_the_ends(before, after, chance):
    must_fit(before, after)
    found = {task: paired(before[task], after[task]) for task in before}
    return {key: sum(x[key]/(1-chance[task]) for task, x in found.items())/len(found)
            for key in ("difference", "lo", "hi")}

@answers.wrong("compare")
def by_redrawing(before, after, chance):
    must_fit(before, after)
    rng, draws = np.random.default_rng(0), []
    for _ in range(50):
        total = 0.
        for task in before:
            steps = np.array(after[task])-np.array(before[task])
            total += rng.choice(steps, len(steps)).mean()/(1-chance[task])
        draws.append(total/len(before))
    lo, hi = np.quantile(draws, (.025, .975))
    return dict(with_arrays(before, after, chance), lo=lo, hi=hi)

@answers.wrong("compare")
def asks_nothing(before, after, chance):
    return with_arrays(before, {t: (after.get(t, x)+x)[:len(x)] for t, x in before.items()}, chance)

@answers.wrong("compare")
def tasks_that_both_have(before, after, chance):
    both = [t for t in before if t in after and len(before[t]) == len(after[t])]
    if not both:
        return dict(difference=0., lo=-1., hi=1.)
    return with_arrays({t: before[t] for t in both}, {t: after[t] for t in both}, chance)

@answers.wrong("compare")
def another_kind_of_error(before, after, chance):
    if set(before) != set(after) or any(len(before[t]) != len(after[t]) for t in before):
        raise KeyError("not the same exam")
    return with_arrays(before, after, chance)

@answers.wrong("compare")
def n_less_one(before, after, chance):
    must_fit(before, after)
    found, v = with_arrays(before, after, chance), 0.
    for task in before:
        more = np.append(np.array(after[task])-np.array(before[task]), [1, -1])
        v += more.var(ddof=1)/len(more)/(1-chance[task])**2
    mid, half = (found["lo"]+found["hi"])/2, 1.96*math.sqrt(v)/len(before)
    return dict(found, lo=mid-half, hi=mid+half)

@answers.wrong("compare", named="nothing added")
def without_the_two_questions(before, after, chance):
    must_fit(before, after)
    T, difference, v = len(before), 0., 0.
    for task in before:
        steps = np.array(after[task])-np.array(before[task])
        difference += steps.mean()/(1-chance[task])/T
        v += steps.var()/len(steps)/(1-chance[task])**2/T**2
    half = 1.96*math.sqrt(v)
    return dict(difference=difference, lo=difference-half, hi=difference+half)

# ---- 3. one row by hand ----

def table(encode, nats, query, choices):
    "Sum, tokens and bytes of each choice"
    choices = [c.lstrip() for c in choices]
    options = [encode(f"{query.rstrip()} {c}") for c in choices]
    start = len(os.path.commonprefix(options))
    start = min(start, min(map(len, options))-1)
    return [(sum(nats(o)[start:]), len(o)-start, len(c.encode())) for o, c in zip(options, choices)]

def least(values): return int(np.argmin(values))

@answers.right("hand")
def all_that_is_read_less_the_prompt(encode, nats, query, choices):
    choices = [c.strip() for c in choices]
    options = [encode(query.strip()+" "+c) for c in choices]
    start = min(len(os.path.commonprefix(options)), min(map(len, options))-1)
    costs = [math.fsum(nats(o))-math.fsum(nats(o)[:start]) for o in options]
    return (least(costs), least([c/(len(o)-start) for c, o in zip(costs, options)]),
            least([c/len(t.encode()) for c, t in zip(costs, choices)]))

@answers.right("hand")
def from_a_table(encode, nats, query, choices):
    rows = table(encode, nats, query, choices)
    yardsticks = zip(*((s, s/n, s/b) for s, n, b in rows))
    return list(map(least, yardsticks))

@answers.wrong("hand")
def the_choices_themselves(encode, nats, query, choices):
    return tuple(choices[k] for k in from_a_table(encode, nats, query, choices))

@answers.wrong("hand")
def only_by_the_mean(encode, nats, query, choices): return from_a_table(encode, nats, query, choices)[1]

@answers.wrong("hand")
def in_another_order(encode, nats, query, choices): return from_a_table(encode, nats, query, choices)[::-1]

@answers.wrong("hand")
def with_an_id_in_front(encode, nats, query, choices):
    return from_a_table(lambda text: [0, *encode(text)], nats, query, choices)

@answers.wrong("hand")
def bytes_with_the_space(encode, nats, query, choices):
    rows = table(encode, nats, query, choices)
    sums, means = [s for s, _, _ in rows], [s/n for s, n, _ in rows]
    return least(sums), least(means), least([s/(b+1) for s, _, b in rows])

@answers.wrong("hand")
def tokens_of_the_choice_alone(encode, nats, query, choices):
    rows, n = table(encode, nats, query, choices), [len(encode(" "+c.lstrip())) for c in choices]
    return (least([s for s, _, _ in rows]), least([s/k for (s, _, _), k in zip(rows, n)]),
            least([s/b for s, _, b in rows]))

@answers.wrong("hand")
def common_text_and_not_common_ids(encode, nats, query, choices):
    texts = [f"{query.rstrip()} {c.lstrip()}" for c in choices]
    start = len(encode(os.path.commonprefix(texts)))
    costs = [nats(encode(t))[min(start, len(encode(t))-1):] for t in texts]
    sums = [sum(c) for c in costs]
    return (least(sums), least([s/len(c) for s, c in zip(sums, costs)]),
            least([s/len(c.lstrip().encode()) for s, c in zip(sums, choices)]))

@answers.wrong("hand")
def always_the_sum(encode, nats, query, choices): return (from_a_table(encode, nats, query, choices)[0],)*3

@answers.wrong("hand")
def by_the_worst_token(encode, nats, query, choices):
    worst = [max(nats(encode(f"{query.rstrip()} {c.lstrip()}"))) for c in choices]
    return (least(worst),)*3

@answers.wrong("hand")
def lines_stay(encode, nats, query, choices):
    "Only spaces are dropped, a line break at the end of a query is not"
    return from_a_table(lambda text: encode(text), nats, query.rstrip(" ")+("|" if query[-1] == "\n" else ""),
                        choices)

@answers.wrong("hand", named="characters")
def letters(encode, nats, query, choices):
    rows, n = table(encode, nats, query, choices), [len(c.lstrip()) for c in choices]
    return (least([s for s, _, _ in rows]), least([s/k for s, k, _ in rows]),
            least([s/k for (s, _, _), k in zip(rows, n)]))

@answers.wrong("hand", named="cut where the query ends")
def after_the_query(encode, nats, query, choices):
    start = len(encode(query.rstrip()))
    costs = [nats(encode(f"{query.rstrip()} {c.lstrip()}"))[start:] for c in choices]
    sums = [sum(c) for c in costs]
    return (least(sums), least([s/len(c) for s, c in zip(sums, costs)]),
            least([s/len(c.lstrip().encode()) for s, c in zip(sums, choices)]))

# ---- 4. who never reads ----

def habits(learned):
    "The three players after some rows"
    golds = [r["gold"] for r in learned]
    liked = min(set(golds), key=lambda k: (-golds.count(k), k))
    def extreme(row, sign):
        return min(range(len(row["choices"])), key=lambda k: (-sign*len(row["choices"][k]), k))
    wins = {sign: sum(extreme(r, sign) == r["gold"] for r in learned) for sign in (1, -1)}
    sign = 1 if wins[1] >= wins[-1] else -1
    seen = {}
    for r in learned:
        for k, c in enumerate(r["choices"]):
            seen.setdefault(c, []).append(k == r["gold"])
    def taste(row, k):
        marks = seen.get(row["choices"][k], [1/len(row["choices"])])
        return sum(marks)/len(marks)
    return dict(place=lambda row: min(liked, len(row["choices"])-1), length=lambda row: extreme(row, sign),
                favourite=lambda row: min(range(len(row["choices"])), key=lambda k: (-taste(row, k), k)))

def marks(rows, learn=lambda rows, half: rows[1-half::2], judge=None):
    guess = np.mean([1/len(r["choices"]) for r in rows])
    rights = dict(place=0, length=0, favourite=0)
    for half in (0, 1):
        for player, pick in habits(learn(rows, half)).items():
            rights[player] += sum(pick(r) == r["gold"] for r in rows[half::2])
    judge = judge or (lambda k: wilson(k, len(rows))[0] > guess)
    return {player: dict(right=k, surely=bool(judge(k))) for player, k in rights.items()}

@answers.right("blind")
def by_halves(rows): return marks(rows)

@answers.right("blind")
def without_the_square_root(rows):
    "Guessing lies below the interval where the share would be a surprise"
    n, guess = len(rows), sum(1/len(r["choices"]) for r in rows)/len(rows)
    def surely(k): return k/n > guess and (k/n-guess)**2 > 1.96**2*guess*(1-guess)/n
    return marks(list(rows), judge=surely)

@answers.wrong("blind", named="learned from what it answers")
def from_all_rows(rows): return marks(rows, learn=lambda rows, half: rows)

@answers.wrong("blind", named="the same half")
def from_its_own_half(rows): return marks(rows, learn=lambda rows, half: rows[half::2])

@answers.wrong("blind")
def first_half_and_second_half(rows):
    middle = len(rows)//2
    mixed = [r for pair in zip(rows[:middle], rows[middle:]) for r in pair]
    return marks(mixed+rows[2*middle:])

@answers.wrong("blind")
def leaves_one_out(rows):
    rights = dict(place=0, length=0, favourite=0)
    for k, row in enumerate(rows):
        for player, pick in habits(rows[:k]+rows[k+1:]).items():
            rights[player] += pick(row) == row["gold"]
    guess = sum(1/len(r["choices"]) for r in rows)/len(rows)
    return {p: dict(right=k, surely=wilson(k, len(rows))[0] > guess) for p, k in rights.items()}

@answers.wrong("blind")
def only_counts(rows): return {player: mark["right"] for player, mark in marks(rows).items()}

@answers.wrong("blind")
def shares_and_not_counts(rows):
    return {player: dict(mark, right=mark["right"]/len(rows)) for player, mark in marks(rows).items()}

@answers.wrong("blind")
def never_sure(rows): return marks(rows, judge=lambda k: False)

@answers.wrong("blind", named="a quarter for all")
def against_a_quarter(rows): return marks(rows, judge=lambda k: wilson(k, len(rows))[0] > .25)

@answers.wrong("blind", named="above is enough")
def more_than_guessing(rows):
    guess = np.mean([1/len(r["choices"]) for r in rows])
    return marks(rows, judge=lambda k: k/len(rows) > guess)

@answers.wrong("blind")
def by_the_textbooks_interval(rows):
    n, guess = len(rows), np.mean([1/len(r["choices"]) for r in rows])
    return marks(rows, judge=lambda k: k/n-1.96*math.sqrt(k/n*(1-k/n)/n) > guess)

@answers.wrong("blind")
def two_players(rows):
    found = marks(rows)
    return {player: found[player] for player in ("place", "length")}

@answers.wrong("blind")
def forgets_the_last_row(rows): return marks(rows[:-1] if len(rows) > 2 else rows)

@answers.wrong("blind")
def choices_sorted(rows):
    def in_order(row):
        choices = sorted(row["choices"])
        return dict(row, choices=choices, gold=choices.index(row["choices"][row["gold"]]))
    return marks(list(map(in_order, rows)))

@answers.wrong("blind")
def surely_as_a_number(rows):
    return {player: dict(mark, surely=int(mark["surely"])) for player, mark in marks(rows).items()}

# ---- 5. how many questions ----

def tail(d, k): return sum(math.comb(d, j) for j in range(k+1))

def seen(g, l): return g > l and 40*tail(g+l, l) < 2**(g+l)

def total(n, gain, loss, noticed=seen):
    "Over all exams, with the multinomial distribution"
    return sum(math.comb(n, g)*math.comb(n-g, l)*gain**g*loss**l*(1-gain-loss)**(n-g-l)
               for g in range(n+1) for l in range(n-g+1) if noticed(g, l))

@answers.right("power")
def by_the_least_that_must_be_gained(n, gain, loss):
    "For each number of questions that differ: from how many gained on is it noticed?"
    moved, found = gain+loss, 0.
    for d in range(n+1):
        need = next((g for g in range(d+1) if seen(g, d-g)), None)
        if need is not None and moved:
            share = sum(math.comb(d, g)*(gain/moved)**g*(loss/moved)**(d-g) for g in range(need, d+1))
            found += math.comb(n, d)*moved**d*(1-moved)**(n-d)*share
    return found

@answers.right("power")
def question_by_question(n, gain, loss):
    "The distribution of (gained, lost) after each question"
    now = np.zeros((n+1, n+1))
    now[0, 0] = 1
    for _ in range(n):
        after = now*(1-gain-loss)
        after[1:] += gain*now[:-1]
        after[:, 1:] += loss*now[:, :-1]
        now = after
    # a paired exam in two numbers: the library's test takes lists
    return sum(now[g, l] for g in range(n+1) for l in range(n+1-g) if now[g, l] and seen(g, l))

@answers.wrong("power")
def by_dice(n, gain, loss):
    rng, times = np.random.default_rng(0), 400
    counts = rng.multinomial(n, [gain, loss, 1-gain-loss], times)
    return float(np.mean([seen(int(g), int(l)) for g, l, _ in counts]))

@answers.wrong("power")
def by_the_interval_and_not_by_p(n, gain, loss):
    def noticed(g, l): return n > 0 and paired([0]*g+[1]*l+[0]*(n-g-l), [1]*g+[0]*l+[0]*(n-g-l))["lo"] > 0
    return total(n, gain, loss, noticed) if n < 60 else .5

@answers.wrong("power", named="one side of the coin")
def one_tail(n, gain, loss): return total(n, gain, loss, lambda g, l: g > l and 20*tail(g+l, l) < 2**(g+l))

@answers.wrong("power", named="worse counts as noticed")
def either_way(n, gain, loss):
    return total(n, gain, loss, lambda g, l: 40*tail(g+l, min(g, l)) < 2**(g+l))

@answers.wrong("power", named="gain and loss turned")
def lost_for_gained(n, gain, loss): return total(n, loss, gain)

@answers.wrong("power")
def more_gained_is_enough(n, gain, loss): return total(n, gain, loss, lambda g, l: g > l)

@answers.wrong("power")
def twice_as_many(n, gain, loss): return total(n, gain, loss, lambda g, l: g > 2*l)

@answers.wrong("power")
def what_is_missed(n, gain, loss): return 1-total(n, gain, loss)

@answers.wrong("power")
def in_percent(n, gain, loss): return 100*total(n, gain, loss)

@answers.wrong("power")
def with_yates(n, gain, loss):
    "The chi-squared test with its correction"
    def noticed(g, l): return g > l and (g-l-1)**2 > 1.96**2*(g+l)
    return total(n, gain, loss, noticed)

@answers.wrong("power")
def without_the_ways(n, gain, loss):
    return sum(gain**g*loss**l*(1-gain-loss)**(n-g-l) for g in range(n+1) for l in range(n-g+1) if seen(g, l))

@answers.wrong("power")
def an_average_and_a_spread(n, gain, loss):
    "A normal curve for the difference"
    mean, var = n*(gain-loss), n*(gain+loss-(gain-loss)**2)
    if not var:
        return float(mean > 5)
    return .5*math.erfc((1.96*math.sqrt(n*(gain+loss))-mean)/math.sqrt(2*var))

@answers.wrong("power")
def yes_or_no(n, gain, loss): return total(n, gain, loss) > .8
