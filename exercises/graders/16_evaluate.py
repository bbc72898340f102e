"Checks and known wrong answers for the exercises of chapter 16"
import functools, itertools, math, random, re, zlib
from contextlib import contextmanager
import torch
from grade import Exercise, Wrong, in_child
from graders.common import call, many, whole, written
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.evaluate import id_rows, sit_exam, swapped, wilson
from nanochat.gpt import GPT, GPTConfig
from nanochat.loader import to_batch
from nanochat.runtime import seed_all
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

# ---- 1. exam(docs, n, seed) -> rows ----

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
HOMES = "Elmay Garth Lorn Rindle Thorn Umber Wick Yarrow".split()
PEOPLE = [a+b for a in "Ba Be Bo Da De Do Ka Ke Ko La".split() for b in "ra ri na ni".split()]
ERRANDS = ["home for supper.", "to the market.", "up the hill.", "into the barn.", "down to the river.",
           "over the bridge.", "away without a word!", "out to feed the hens.", "past the old mill.",
           "round the whole lake!", "back to bed.", "along the narrow wall.", "after the lost sheep.",
           "to ring the bell!"]

def village(seed, favourite=1, sentences=2000):
    "Texts of a village where people go home for supper `favourite` times as often as anywhere else"
    rng, weights = random.Random(f"village {seed}"), [favourite, *[1]*(len(ERRANDS)-1)]
    def sentence():
        errand = rng.choices(ERRANDS, weights)[0]
        return f"On {rng.choice(DAYS)} {rng.choice(PEOPLE)} from {rng.choice(HOMES)} went {errand}"
    said = [sentence() for _ in range(sentences)]
    return [(" " if k % 3 else "\n").join(said[k:k+4]) for k in range(0, sentences, 4)]

PROSE = dict(person=6, place=2, nature=1, story=2)        # kinds of World's documents: sentences only

@functools.cache
def prose(split, n):
    "Documents of a world"
    return list(itertools.islice(World(0).documents(split, PROSE), n))

def cut_sentences(docs, rng, cut, least):
    "(beginning, end) of each sentence with so many words, in any order"
    pairs = []
    for sentence in re.findall(r"[^.!?\n]+[.!?]", "\n".join(docs)):
        words = sentence.split()
        if len(words) >= least:
            at = len(words)-rng.randint(*cut)
            pairs.append((" ".join(words[:at]), " ".join(words[at:])))
    rng.shuffle(pairs)
    return pairs

def in_rings(pairs, fits):
    "Four at a time with four different ends, so that each end is right once and wrong three times"
    left = list(pairs)
    while True:
        ring = []
        for pair in left:
            if all(fits(pair, other[1]) and fits(other, pair[1]) for other in ring):
                ring.append(pair)
            if len(ring) == 4:
                break
        else:
            return
        for pair in ring:
            left.remove(pair)
            yield pair, [end for _, end in ring if end != pair[1]]

def drawn(pairs, pool, rng, fits, shape=str):
    "For each the ends of three others, drawn from a pool"
    for pair in pairs:
        others = []
        while len(others) < 3:
            end = rng.choice(pool)
            if fits(pair, end) and shape(end) not in others:
                others.append(shape(end))
        yield pair, others

def as_row(query, right, others, rng, order="any", gold="place"):
    "A row in the multiple-choice form"
    choices = [right, *others]
    if order == "any":
        rng.shuffle(choices)
    place = choices.index(right)
    if order == "late":
        rng.shuffle(choices)
    places = dict(place=place, one=place+1, text=right)
    return dict(query=query, choices=choices, gold=places[gold])

def examiner(wrong="ring", order="any", gold="place", cut=(3, 3), least=7, seeds=lambda seed: seed,
             two_right=False, twice=False, fewer=0, change=lambda row: row):
    "The answer, with switches for its mistakes"
    def shuffled_words(end, rng=random.Random(0)):
        words = end.split()
        rng.shuffle(words)
        return " ".join(words)
    def exam(docs, n, seed):
        rng = random.Random(seeds(seed))
        pairs, goes = cut_sentences(docs, rng, cut, least), {}
        if not twice:
            pairs = list(dict.fromkeys(pairs))
        for query, end in pairs:
            goes.setdefault(query, set()).add(end)
        def fits(pair, end):
            return end != pair[1] and (two_right or end not in goes[pair[0]])
        ends = [end for _, end in pairs]
        ways = dict(ring=lambda: in_rings(pairs, fits), text=lambda: drawn(pairs, ends, rng, fits),
                    each=lambda: drawn(pairs, sorted(set(ends)), rng, fits),
                    short=lambda: drawn(pairs, ends, rng, fits, lambda end: end.split(None, 1)[1]),
                    made_up=lambda: drawn(pairs, ends, rng, fits, shuffled_words),
                    alike=lambda: ((pair, rng.choices(ends, k=3)) for pair in pairs))
        made = itertools.islice(ways[wrong](), n-fewer)
        return [change(as_row(query, right, others, rng, order, gold)) for (query, right), others in made]
    return exam

def places_after(text, part):
    "Where a part of a text ends, each time it comes"
    at, found = text.find(part), []
    while at >= 0:
        found.append(at+len(part))
        at = text.find(part, at+1)
    return found

def row_faults(text, row):
    "(kind, what is said) of each thing that is wrong with a row"
    if not isinstance(row, dict) or sorted(row, key=str) != ["choices", "gold", "query"]:
        yield "form", "a row is a dict with `query`, `choices` and `gold`, and nothing else"
        return
    query, choices, gold = row["query"], row["choices"], row["gold"]
    four = isinstance(choices, (list, tuple)) and len(choices) == 4 and all(type(c) is str for c in choices)
    if type(query) is not str or not four:
        yield "form", "the query is a text, and the choices are four texts"
        return
    if not whole(gold) or not 0 <= gold < 4:
        yield "gold", f"`gold` is the place of the right choice, 0 to 3, and not {gold!r}"
        return
    right = choices[gold]
    if any(t != t.strip() or "\n" in t for t in (query, *choices)):
        yield "blanks", ("a query or a choice begins or ends with a blank, or holds a line break. Between "
                         "query and choice the examiner puts one space")
    if len(query.split()) < 4:
        yield "query", f"a query has four words or more, and not only {query!r}"
    if min(len(choice.split()) for choice in choices) < 2:
        yield "choice", f"a choice has two words or more; here are {choices}"
    if len(set(choices)) < 4:
        yield "alike", "two choices are the same"
    ends = places_after(text, query)
    true = [choice for choice in choices if any(text.startswith(f" {choice}", at) for at in ends)]
    if right not in true:
        yield "true", f"no text goes on like this: {query!r} + ' ' + {right!r}"
    if strange := [c for c in choices if not re.search(r"[.!?]$", c) or f" {c}" not in text]:
        yield "ends", f"this choice is not the end of a sentence of the texts: {strange[0]!r}"
    if both := [choice for choice in true if choice != right]:
        yield "two right", f"two choices are right: some text goes on with {both[0]!r}, too"

def blind_players(text, rows):
    "{player: the share that it gets right without ever reading a query}"
    often = functools.cache(lambda choice: text.count(f" {choice}"))
    tastes = {"the end that is commonest in the texts": often,
              "the end that is rarest in the texts": lambda choice: -often(choice),
              "the longest choice": len, "the shortest choice": lambda choice: -len(choice)}
    places = [row["gold"] for row in rows]
    shares = {f"choice number {k} of 0 to 3": places.count(k)/len(rows) for k in range(4)}
    for player, taste in tastes.items():
        total = 0.
        for row in rows:
            liked = list(map(taste, row["choices"]))
            total += (liked[row["gold"]] == max(liked))/liked.count(max(liked))      # equals share it
        shares[player] = total/len(rows)
    return shares

def faults(docs, rows, n):
    "(kind, what is said) of each thing that is wrong with an exam, a kind once; of blind players the first"
    if not isinstance(rows, (list, tuple)) or len(rows) != n:
        count = f", and not {many(len(rows), 'row')}" if isinstance(rows, (list, tuple)) else ""
        yield "number", f"a list of {n} rows is asked for{count}"
        return
    text, seen = "\n\n".join(docs), set()
    for k, row in enumerate(rows):
        for kind, told in row_faults(text, row):
            if kind not in seen:
                yield kind, f"row {k}: {told}"
            seen.add(kind)
    if seen & {"form", "gold"}:
        return
    asked = {(row["query"], row["choices"][row["gold"]]) for row in rows}
    if len(asked) < n:
        yield "twice", f"there are {n} rows and {many(len(asked), 'question')}: nothing is asked twice"
    slack = 4*math.sqrt(.25*.75/n)
    for player, share in blind_players(text, rows).items():
        if abs(share-.25) > slack:
            yield player, (f"somebody who never reads a query and always takes {player} gets {share:.0%} of "
                           f"{n} questions right. Guessing gets 25%, give or take {slack:.0%}: there is "
                           "something to be known without reading")
            return

@contextmanager
def one_thread():
    "A model this small is slowed down by more"
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)

@functools.cache
def reader():
    "A small model that has read prose of a world for some seconds, and its tokenizer"
    docs = prose("train", 900)
    tok = Tokenizer.train(docs, 500)
    rows = [row.tolist() for row in id_rows(docs, tok, 48, 100_000)]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        seed_all(0)
        model = GPT(GPTConfig(vocab_size=tok.vocab_size, seq_len=96, n_layer=2, n_embd=48))
        opt = MuonAdamW(param_groups(model))
        for k in range(0, 80*16, 16):
            ids, targets = to_batch(rows[k:k+16], 49)
            model(ids, targets).backward()
            opt.step()
            opt.zero_grad()
    return tok, model.eval()

@in_child
def sat(answer, n, seed):
    "Right or wrong of a small model in an exam of prose that it has not read, and in the exam's control"
    rows = answer(list(prose("val", 400)), n, seed)
    with one_thread():
        tok, model = reader()
        exams = [sit_exam(model, tok, rows, shots=2, **how) for how in ({}, dict(twist=swapped))]
    return [[item.right for item in items] for items in exams]

EXAMS = [("village(0)", village(0), 300, 7), ("village(1, favourite=10)", village(1, 10), 300, 0)]

def exam_check(answer):
    for said, docs, n, seed in [*EXAMS, ("prose(\"val\", 400)", prose("val", 400), 200, 3)]:
        say, mine = f"exam(docs, {n}, {seed}) for `docs = {said}`", list(docs)
        rows = call(say, answer, mine, n, seed)
        assert mine == docs, f"{say}: your code changes the list of texts; only read it"
        for _, told in faults(docs, rows, n):
            raise AssertionError(f"{say}: {told}")
        again = answer(list(docs), n, seed)
        assert again == rows, f"{say}: called twice, it is two different exams. All chance comes from `seed`"
        other = answer(list(docs), n, seed+1)
        assert other != rows, f"{say}: the exam of seed {seed+1} is the same. A seed has an exam of its own"
    asked, control = sat(answer, 240, 0)
    right, swapped_right = sum(asked), sum(control)
    say = "exam(prose(\"val\", 400), 240, 0): a small model that has read other prose of this world"
    assert wilson(right, 240)[0] > .25, (
        f"{say} gets {right} of 240 right, and guessing would get 60. Can your questions be answered by "
        "reading?")
    assert wilson(swapped_right, 240, 3)[0] <= .25, (
        f"{say} gets {swapped_right} of 240 right when each question has another's query in place of its "
        "own, and guessing would get 60: your choices give the answer away")

def exam_does(answer, docs, n):
    "Kinds of faults; and whether it is seed, and seed alone, that decides"
    kinds = [[kind for kind, _ in faults(texts, answer(list(texts), n, 0), n)] for texts in docs]
    few = [answer(docs[0][:100], 20, seed) for seed in (0, 0, 1)]
    return kinds, few[0] == few[1], few[0] == few[2]

def with_query(change):
    "A change of a row's query"
    return lambda row: dict(row, query=change(row["query"]))

def with_choices(change):
    "A change of all texts of a row's choices"
    return lambda row: dict(row, choices=list(map(change, row["choices"])))

lab = Exercise("1. Lab: an exam from any text", 5, exam_check, examiner(), seconds=60,
    probes=[([village(3, 3.5), village(4, 10)], 400)],
    behave=exam_does,
    wrong=[
        Wrong("drawn as the text has them",
              "you draw wrong ends from all sentences, so a common end is offered often. But it is *right* "
              "even more often than its share of what is offered: somebody who always takes the commonest "
              "end needs no query. Each end should be wrong three times as often as it is right.",
              examiner(wrong="text")),
        Wrong("every end equally often",
              "you draw wrong ends from a list that has each end once. What is right follows the text, where "
              "some ends are common, so the commonest choice is the right one. Right and wrong have to come "
              "from the same hat.", examiner(wrong="each")),
        Wrong("the right one stands first", "the right choice is always the first: shuffle them.",
              examiner(order="first")),
        Wrong("shuffled afterwards",
              "you note the place of the right choice and shuffle after that. Look for it after the shuffle.",
              examiner(order="late")),
        Wrong("the longest is right",
              "your wrong ends have fewer words than the right one: length gives it away.",
              examiner(wrong="short")),
        Wrong("made-up ends",
              "wrong ends that nobody would write are told from right ones without the query. Take ends of "
              "other sentences.", examiner(wrong="made_up")),
        Wrong("two right answers",
              "a wrong choice continues the same query in another sentence, so it is right as well. Collect "
              "first what follows each query anywhere.", examiner(two_right=True)),
        Wrong("choices alike", "the same end is offered twice. Draw until there are four different ones.",
              examiner(wrong="alike")),
        Wrong("a space at the end",
              "your query ends with a space, and the examiner puts another one between it and the choice. "
              "The tokens of two spaces are seen in no text.", examiner(change=with_query(lambda q: q+" "))),
        Wrong("a space in front", "your choices begin with a space; the examiner puts it there.",
              examiner(change=with_choices(lambda c: " "+c))),
        Wrong("without the full stop", "a choice is the end of its sentence, with what closes it.",
              examiner(change=with_choices(lambda c: c.rstrip(".!?")))),
        Wrong("in small letters", "names are no names any more: leave the words as they stand in the text.",
              examiner(change=lambda row: with_query(str.lower)(with_choices(str.lower)(row)))),
        Wrong("hardly a query", "of your queries only the first words of a sentence are left: nobody can "
                                "know how they go on. Leave at least four.", examiner(cut=(6, 6), least=8)),
        Wrong("one word to choose", "a choice has at least two words.", examiner(cut=(1, 1))),
        Wrong("text for place", "`gold` is the place of the right choice among the four, not its text.",
              examiner(gold="text")),
        Wrong("counted from one", "places are counted from 0.", examiner(gold="one")),
        Wrong("asked twice", "a sentence that stands in two texts is asked twice: keep each pair once.",
              examiner(twice=True)),
        Wrong("one row too few", "count the rows: `n` are asked for.", examiner(fewer=1)),
        Wrong("dice without a seed", "each call is another exam, and nobody can sit yours again: "
              "`random.Random(seed)`.", examiner(seeds=lambda seed: None)),
        Wrong("one exam for all seeds", "the seed is not used.", examiner(seeds=lambda seed: 0))])

# ---- 2. compare(before, after, chance) -> dict(difference, lo, hi) ----

def two_exams(seed):
    "Right or wrong of two checkpoints in some tasks, and what guessing gets in each"
    rng, before, after, chance = random.Random(f"exams {seed}"), {}, {}, {}
    for k in range(rng.randrange(1, 6)):
        task, n = f"task {k}", rng.choice([1, 10, 40, 200])
        share, gain, loss = rng.choice([.3, .6, .9]), rng.choice([0, .1, .3]), rng.choice([0, .05, .2])
        old = [rng.random() < share for _ in range(n)]
        before[task] = [int(x) for x in old]
        after[task] = [int(rng.random() >= loss if x else rng.random() < gain) for x in old]
        chance[task] = rng.choice([0., .25, .5, .1])
    return before, after, chance

def comparer(paired=True, centred=True, once=False, over="tasks", add=1, deviations=1.96, about="added",
             turned=False, minus_chance=False, linear=False, square=True, pooled=False, one_chance=False):
    "The answer, with switches for its mistakes"
    def compare(before, after, chance):
        if turned:
            before, after = after, before
        if list(before) != list(after) or any(len(before[task]) != len(after[task]) for task in before):
            raise ValueError("not the same exam")
        if pooled:
            chance = {"all": sum(chance.values())/len(chance)}
            before, after = ({"all": list(itertools.chain(*exam.values()))} for exam in (before, after))
        differences, middles, variances = [], [], []
        for task in before:
            n, old, new = len(before[task]), sum(before[task]), sum(after[task])
            room = 1-(next(iter(chance.values())) if one_chance else chance[task]) if centred else 1
            gained = sum(b > a for a, b in zip(before[task], after[task]))
            lost = gained-(new-old)
            mid = (gained-lost)/(n+2*add)
            variance = ((gained+lost+2*add)/(n+2*add)-(mid**2 if square else 0))/(n+2*add)
            if not paired:
                shares = (old+1)/(n+2), (new+1)/(n+2)
                variance = sum(p*(1-p) for p in shares)/(n+2)
            differences.append(((gained-lost)/n-(chance[task] if minus_chance else 0))/room)
            middles.append(mid/room)
            variances.append(max(0., variance)/(room if once else room**2))
        T = len(differences)
        spread = sum(map(math.sqrt, variances)) if linear else math.sqrt(sum(variances))
        half = deviations*spread/(T if over == "tasks" else T**0.5)
        mean, mid = sum(differences)/T, sum(middles)/T
        mid = mid if about == "added" else mean
        return dict(difference=mean, lo=mid-half, hi=mid+half)
    return compare

def shown_exam(rights):
    "Right and wrong as it can be copied into a cell, if it is short"
    return "{"+", ".join(f"{task!r}: {right}" for task, right in rights.items())+"}"

SMALL = [({"a": [0, 1, 0, 0]}, {"a": [1, 1, 0, 0]}, {"a": 0.}),
         ({"a": [0, 1, 0, 0]}, {"a": [1, 0, 0, 0]}, {"a": .5}),
         ({"a": [1, 1, 1], "b": [0, 0]}, {"a": [1, 1, 1], "b": [0, 0]}, {"a": .25, "b": 0.})]

def compare_check(answer):
    right = comparer()
    for before, after, chance in [*SMALL, *map(two_exams, range(30))]:
        small = sum(map(len, before.values())) < 12
        tasks = ", ".join(f"{task} with {many(len(x), 'question')}" for task, x in before.items())
        say = f"compare for {tasks}"
        if small:
            say = f"compare({shown_exam(before)}, {shown_exam(after)}, {chance})"
        mine = [{task: list(x) for task, x in before.items()}, {task: list(x) for task, x in after.items()}]
        got, want = call(say, answer, *mine, dict(chance)), right(before, after, chance)
        assert mine == [before, after], f"{say}: your code changes the answer sheets; only read them"
        assert isinstance(got, dict) and sorted(got, key=str) == ["difference", "hi", "lo"], (
            f"{say}: a dict with `difference`, `lo` and `hi` is asked for")
        for key in ("difference", "lo", "hi"):
            number = type(got[key]) in (int, float) and math.isfinite(got[key])
            assert number and abs(got[key]-want[key]) < 1e-9, (
                f"{say}: {key} is {want[key]:.6f}, and you say {got[key]!r}. Chance is {chance}; gained and "
                f"lost in each task: {gained_and_lost(before, after)}")
    before, after, chance = two_exams(3)
    task = next(iter(before))
    for said, other in (("a task is missing in `after`", {t: x for t, x in after.items() if t != task}),
                        ("a task of `after` has a question more", after | {task: after[task]+[1]})):
        try:
            got = answer(before, other, chance)
        except ValueError:
            continue
        except NotImplementedError:
            raise
        except Exception as e:
            kind = type(e).__name__
            raise AssertionError(f"compare: {said}. A ValueError is asked for, not a {kind}") from None
        raise AssertionError(f"compare: {said}, and you give {got}. These are two different exams: a "
                             "ValueError is asked for")

def gained_and_lost(before, after):
    "For each task"
    return {task: (sum(b > a for a, b in zip(before[task], after[task])),
                   sum(a > b for a, b in zip(before[task], after[task]))) for task in before}

def compare_does(answer, before, after, chance):
    "The three numbers, rounded"
    got = answer(before, after, chance)
    return [float(f"{got[key]:.9g}") for key in ("difference", "lo", "hi")]

difference = Exercise("2. Lab: two checkpoints compared", 3, compare_check, comparer(),
    probes=[two_exams(seed) for seed in range(8)], behave=compare_does,
    wrong=[
        Wrong("two intervals",
              "you add up the variances of the two scores, as if two other exams had been sat. Most "
              "questions are answered alike by both checkpoints: only those that were gained or lost "
              "scatter.",
              comparer(paired=False)),
        Wrong("not centred",
              "a gain of one point is worth more in a task where guessing gets half: divide by the room "
              "above guessing.", comparer(centred=False)),
        Wrong("divided once",
              "you divide the difference by 1-chance, and its variance, too. A number divided by a has a "
              "variance divided by a².", comparer(once=True)),
        Wrong("chance is taken off",
              "guessing is in both scores and cancels in their difference: only the division is left.",
              comparer(minus_chance=True)),
        Wrong("the root of T",
              "the mean of T differences is their sum over T, and so its deviation is the sum's over T; you "
              "divide by √T.", comparer(over="root")),
        Wrong("deviations added",
              "you add the deviations of the tasks. Tasks scatter independently: variances add, and the root "
              "comes last.", comparer(linear=True)),
        Wrong("one deviation", "68 of 100 lie within one deviation; 95 within 1.96.", comparer(deviations=1)),
        Wrong("nothing added",
              "you leave out the question gained and the question lost that are added to each task: where "
              "two checkpoints agree everywhere, your interval has no width.", comparer(add=0)),
        Wrong("round the observed one",
              "the interval lies round the mean of the differences with the added questions in them, not "
              "round the observed one.", comparer(about="observed")),
        Wrong("before and after turned", "the difference is after minus before.", comparer(turned=True)),
        Wrong("the square is missing",
              "the variance of a difference is the mean of its squares minus the square of its mean: you "
              "leave out the second.", comparer(square=False)),
        Wrong("one big exam",
              "you put all questions into one list, so that large tasks decide. CORE gives each task the "
              "same weight.", comparer(pooled=True)),
        Wrong("one chance for all", "each task has a chance level of its own.", comparer(one_chance=True))])

# ---- 3. by_hand(encode, nats, query, choices) -> (by sum, by token, by byte) ----

def toy_ids(text):
    "A toy tokenizer: a word takes the space before it along, and is cut after four characters"
    pieces = re.findall(r" ?[^\W\d_]+| ?\d+|\s+(?!\S)|\s|[^\w\s]|_", text)
    return [zlib.crc32(piece[k:k+4].encode()) for piece in pieces for k in range(0, len(piece), 4)]

def toy_nats(seed):
    "A toy model, with opinions about each id after the three before it"
    def nats(ids):
        ids = [int(i) for i in ids]
        def cost(k):
            return .2+6*(zlib.crc32(f"{seed} {ids[max(0, k-3):k+1]}".encode()) % 9973)/9973
        return [cost(k) for k in range(len(ids))]
    return nats

def shared_start(lists):
    "How many ids all begin with"
    return next((k for k, column in enumerate(zip(*lists)) if len(set(column)) > 1), min(map(len, lists)))

def by_hand_way(strip=True, join=" ", cut="shared", skip=0, size="bytes", apart=False, prompt=False,
                last=False, most=False, leave=True, unread=False, rate="nats"):
    "The answer, with switches for its mistakes"
    def by_hand(encode, nats, query, choices):
        if strip:
            query, choices = query.rstrip(), [choice.lstrip() for choice in choices]
        if apart:
            before = encode(query+apart)
            options = [before+encode(join[len(apart):]+choice) for choice in choices]
        else:
            options = [encode(query+join+choice) for choice in choices]
        start = shared_start(options)
        if cut == "query" or apart:
            start = len(encode(query+(apart or "")))
        if leave:
            start = min(start, min(map(len, options))-1)
        start = 0 if prompt else start+skip
        picks, table = [], []
        for choice, option in zip(choices, options):
            costs = nats(option[start:]) if unread else nats(option)[start:]
            length = dict(bytes=len(choice.encode()), characters=len(choice),
                          whole=len((query+join+choice).encode()))[size]
            total, mean = sum(costs), sum(costs)/len(costs)
            table.append((total, mean, (mean if rate == "mean" else total)/length))
        for column in zip(*table):
            best = max(column) if most else min(column)
            picks.append(len(column)-1-column[::-1].index(best) if last else column.index(best))
        return tuple(picks)
    return by_hand

FAMILIES = [["a goat", "a goose", "a very old horse", "a hen"], ["100", "1000", "10000"],
            ["the", "the cat", "the catfish", "the cattle"],
            ["Bären", "überall", "eine Gänseschar", "夜の山", "夜"],
            ["naïveté", "two dogs and a hen", "nobody", "no", "goat"]]

def hand_row(seed):
    "(seed of the model, query, choices)"
    rng = random.Random(f"row {seed}")
    query = rng.choice(["Ada keeps", "Who came? Nobody knows. It was", "How many?\nAnswer:", "Ben saw"])
    family = rng.choice([*FAMILIES, sum(FAMILIES, [])])
    choices = rng.sample(family, rng.randrange(2, min(5, len(family))+1))
    query += rng.choice(["", "", " ", "\n"])
    return seed, query, [rng.choice(["", "", " "])+choice for choice in choices]

@in_child
def hand_picks(answer, seed, query, choices):
    "The answer's three picks"
    return answer(toy_ids, toy_nats(seed), query, list(choices))

@in_child
def tied_picks(answer, query, choices):
    "Where every token costs the same"
    return answer(toy_ids, lambda ids: [1. for _ in ids], query, list(choices))

PLAIN = [(1, "Ada keeps a", ["goat.", "dog."]), (2, "How many?", ["100", "1000"]),
         (3, "Ada keeps a ", ["goat.", "dog."]), (4, "Ada keeps", ["a goat.", "a dog.", "a very old horse."])]
TIED = [("Ada keeps a", ["dog.", "cat.", "pig."]), ("Who?", ["nobody knows", "we", "no"])]

def told_options(query, choices):
    "What a reader needs to compute the same"
    options = [toy_ids(query.rstrip()+" "+choice.lstrip()) for choice in choices]
    start = min(shared_start(options), min(map(len, options))-1)
    return (f"{many(start, 'id')} of the options are the prompt; scored are "
            f"{', '.join(str(len(option)-start) for option in options)}")

def hand_check(answer):
    right = by_hand_way()
    cases = [(f"by_hand(toy_ids, toy_nats({seed}), {query!r}, {choices})", (seed, query, choices))
             for seed, query, choices in [*PLAIN, *map(hand_row, range(60))]]
    all_alike = "lambda ids: [1. for _ in ids]"
    cases += [(f"by_hand(toy_ids, {all_alike}, {query!r}, {choices})", (None, query, choices))
              for query, choices in TIED]
    for say, (seed, query, choices) in cases:
        model = (lambda ids: [1. for _ in ids]) if seed is None else toy_nats(seed)
        got = tied_picks(answer, query, choices) if seed is None else hand_picks(answer, seed, query, choices)
        assert got is not None, f"{say}: nothing came back: is there a `return`?"
        assert isinstance(got, (list, tuple)) and len(got) == 3 and all(map(whole, got)), (
            f"{say}: three places of choices are asked for: by sum, by mean over tokens, by byte")
        want = right(toy_ids, model, query, choices)
        for name, a, b in zip(("the sum", "the mean over tokens", "nats per byte"), got, want):
            why = told_options(query, choices)
            assert a == b, f"{say}: by {name} it is choice {b}, and you say {a}. {why}"

def hand_does(answer, *cases):
    "Picks for several rows; what goes wrong is a pick, too"
    picks = []
    for seed, query, choices in cases:
        try:
            picks.append(tuple(hand_picks(answer, seed, query, choices)))
        except Exception as e:
            picks.append(type(e).__name__)
    return picks+[tuple(tied_picks(answer, *TIED[0]))]

hand = Exercise("3. One row by hand", 3, hand_check, by_hand_way(),
    probes=[(*map(hand_row, range(100, 130)), *PLAIN)], behave=hand_does,
    wrong=[
        Wrong("the query with its space",
              "you encode the query with the space at its end and then the choice without one. The token of "
              "a word begins with the space before it: encode query, space and choice in one piece.",
              by_hand_way(apart=" ")),
        Wrong("glued together", "between query and choice stands one space.", by_hand_way(join="")),
        Wrong("blanks left in",
              "a blank at the end of a query, or at the beginning of a choice, is still in the text.",
              by_hand_way(strip=False)),
        Wrong("cut where the query ends",
              "you begin to score after the ids of the query. What all options share belongs to the prompt, "
              "even the first words of the choices: it tells nothing, and it dilutes the mean.",
              by_hand_way(cut="query")),
        Wrong("nothing left to score",
              "one choice begins another, as 100 does 1000: all of it is shared, and nothing is scored. At "
              "least one id of each option must be.", by_hand_way(leave=False)),
        Wrong("the prompt is scored, too", "you score all ids, and in a mean the prompt's share is not the "
                                           "same for each choice. Only what differs is scored.",
                                           by_hand_way(prompt=True)),
        Wrong("the first id is missing", "the scored part begins with the first id that differs: one place "
              "further, you leave out the very id that tells the choices apart.", by_hand_way(skip=1)),
        Wrong("one id too early", "the last id of the prompt is scored, too.", by_hand_way(skip=-1)),
        Wrong("nobody read the query", "you ask for the nats of the scored ids alone: the model has to read "
                                       "the whole option.", by_hand_way(unread=True)),
        Wrong("characters", "a byte is no character: `len(choice.encode())`.",
                            by_hand_way(size="characters")),
        Wrong("bytes of the whole option", "divide by the bytes of the choice; the query's belong to none.",
              by_hand_way(size="whole")),
        Wrong("divided twice", "nats per byte is the sum over the bytes; you divide the mean.",
              by_hand_way(rate="mean")),
        Wrong("the most surprising", "the model picks what surprises it least.", by_hand_way(most=True)),
        Wrong("the last of equals", "of equally likely choices the first is picked.",
                                    by_hand_way(last=True))])

# ---- 4. blind(rows) -> {player: dict(right, surely)} ----

PLAYERS = "place", "length", "favourite"

def some_rows(seed, leak=None, n=None):
    "A set of multiple-choice rows with or without a leak"
    rng = random.Random(f"rows {seed} {leak}")
    n, rows = n or rng.randrange(20, 160), []
    counts = rng.choice([(4,), (2,), (2, 3, 5)])
    for _ in range(n):
        k = rng.choice(counts)
        def noise():
            return "".join(rng.choices("ab c", k=rng.randrange(3, 9))).strip()+rng.choice("xyz")
        choices = [noise() for _ in range(k)]
        if leak == "favourite" or rng.random() < .3:
            choices = rng.sample(["pony", "dog", "a cat", "goose", "hen", "an old sheep"], k)
        gold = rng.randrange(k)
        if leak == "place" and rng.random() < .4:
            gold = min(1, k-1)
        if leak == "length" and rng.random() < .4:
            gold = choices.index(max(choices, key=len))
        if leak == "short" and rng.random() < .5:
            gold = choices.index(min(choices, key=len))
        if leak == "favourite" and "goose" in choices and rng.random() < .7:
            gold = choices.index("goose")
        rows.append(dict(query="?", choices=choices, gold=gold))
    return rows

def blind_way(halves="other", equals="first", count="share", unseen="fair", measure=len, fixed=False,
              chance="rows", sure="lower", first=0, one_side=False):
    "The answer, with switches for its mistakes"
    def pick(values, best=max):
        top = best(values)
        return values.index(top) if equals == "first" else len(values)-1-values[::-1].index(top)
    def place(learned):
        golds = [row["gold"] for row in learned]
        liked = pick([golds.count(k) for k in range(max(len(row["choices"]) for row in learned))])
        return lambda row: min(liked, len(row["choices"])-1)
    def length(learned):
        def longest(row):
            return pick(list(map(measure, row["choices"])))
        def shortest(row):
            return pick(list(map(measure, row["choices"])), min)
        wins = [sum(player(row) == row["gold"] for row in learned) for player in (longest, shortest)]
        return longest if fixed or wins[0] >= wins[1] else shortest
    def favourite(learned):
        offered, gold = {}, {}
        for row in learned:
            for k, choice in enumerate(row["choices"]):
                offered[choice] = offered.get(choice, 0)+1
                gold[choice] = gold.get(choice, 0)+(k == row["gold"])
        def liking(choice, row):
            if choice not in offered:
                return 1/len(row["choices"]) if unseen == "fair" else 0
            return gold[choice]/(offered[choice] if count == "share" else 1)
        return lambda row: pick([liking(choice, row) for choice in row["choices"]])
    def blind(rows):
        even, odd = rows[0::2], rows[1::2]
        ways = dict(other=[(even, odd), (odd, even)], same=[(even, even), (odd, odd)], all=[(rows, rows)])
        rounds = ways[halves]
        if one_side:
            rounds = rounds[:1]
        shares = [1/len(row["choices"]) for row in rows]
        guess = dict(rows=sum(shares)/len(rows), quarter=.25,
                     mean=len(rows)/sum(len(row["choices"]) for row in rows))[chance]
        out = {}
        for player in (place, length, favourite):
            right = asked = 0
            for learned, answered in rounds:
                habit = player(learned)
                right += sum(habit(row)+first == row["gold"] for row in answered)
                asked += len(answered)
            lo, hi = wilson(right, asked)
            beats = dict(lower=lo, upper=hi, share=right/asked, one=wilson(right, asked, 1.)[0])[sure]
            out[player.__name__] = dict(right=right, surely=beats > guess)
        return out
    return blind

SETS = [(seed, leak) for leak in (None, "place", "length", "short", "favourite") for seed in range(8)]

def blind_check(answer):
    right = blind_way()
    for seed, leak, n in [(0, None, 2), (1, None, 5), (2, "place", 8), *((*pair, None) for pair in SETS)]:
        more = f", n={n}" if n else ""
        rows = some_rows(seed, leak, n)
        say = f"blind(some_rows({seed}, {leak!r}{more}))"
        mine = [dict(row, choices=list(row["choices"])) for row in rows]
        got, want = call(say, answer, mine), right(rows)
        assert mine == rows, f"{say}: your code changes the rows; only read them"
        assert isinstance(got, dict) and sorted(got, key=str) == sorted(PLAYERS), (
            f"{say}: a dict with the keys {', '.join(PLAYERS)} is asked for")
        for player in PLAYERS:
            mark = got[player]
            assert isinstance(mark, dict) and sorted(mark, key=str) == ["right", "surely"], (
                f"{say}: of each player a dict with `right` and `surely` is asked for, not {mark!r}")
            for key, value in want[player].items():
                assert type(mark[key]) is type(value) and mark[key] == value, (
                    f"{say}, {len(rows)} rows: {player} has {key} = {value}, and you say {mark[key]!r}"
                    + (f" (with {mark['right']!r} right)" if key == "surely" else ""))

def blind_does(answer, *sets):
    "What it says of several sets"
    return [[tuple(answer(some_rows(*args))[player].values()) for player in PLAYERS] for args in sets]

leaks = Exercise("4. Who never reads", 3, blind_check, blind_way(),
    probes=[tuple((seed+20, leak) for seed, leak in SETS[::2])], behave=blind_does,
    wrong=[
        Wrong("learned from what it answers",
              "a habit that was learned from the rows it is asked is above guessing by luck alone. Learn "
              "from one half, answer the other.", blind_way(halves="all")),
        Wrong("the same half", "each half is answered by what was learned from itself: swap them.",
              blind_way(halves="same")),
        Wrong("only one half", "the other way round is missing: every row is answered once.",
              blind_way(one_side=True)),
        Wrong("counted from one", "places are counted from 0.", blind_way(first=1)),
        Wrong("a quarter for all", "rows with two choices are guessed right half of the time. Guessing is "
                                   "the mean of 1/choices over the rows.", blind_way(chance="quarter")),
        Wrong("one over the mean", "guessing is the mean of 1/choices, not 1 over the mean number of "
                                   "choices.",
              blind_way(chance="mean")),
        Wrong("above is enough", "a share above guessing is luck half of the time. Surely is when the lower "
                                 "end of its interval is above.", blind_way(sure="share")),
        Wrong("the upper end", "the *lower* end of the interval has to lie above guessing.",
              blind_way(sure="upper")),
        Wrong("one deviation", "the interval is the chapter's, with 1.96 deviations.", blind_way(sure="one")),
        Wrong("how often, not which share",
              "a choice that is offered often is right often. What counts is the share: how often it was "
              "right of the times it was offered.", blind_way(count="times")),
        Wrong("unseen is hopeless", "a choice that was never offered counts as guessing, and not as 0.",
              blind_way(unseen="zero")),
        Wrong("always the longest", "which of the two, longest or shortest, is learned from the other half.",
              blind_way(fixed=True)),
        Wrong("length in words", "length is counted in characters.",
              blind_way(measure=lambda choice: len(choice.split()))),
        Wrong("the last of equals", "of equals the first is taken.", blind_way(equals="last"))])

# ---- 5. power(n, gain, loss) -> p ----

def binomial(n, k, p):
    "Probability of k of n, where each comes with probability p"
    if p in (0, 1):
        return float(k == n*p)
    return math.exp(math.lgamma(n+1)-math.lgamma(k+1)-math.lgamma(n-k+1)+k*math.log(p)+(n-k)*math.log(1-p))

@functools.cache
def p_value(gained, lost, how="exact"):
    "Of McNemar's test"
    differ, fewer = gained+lost, min(gained, lost)
    if how == "bell":
        return math.erfc(abs(gained-lost)/max(differ, 1)**0.5/2**0.5)
    tail = math.fsum(binomial(differ, k, .5) for k in range(fewer+1))
    if how == "middle":
        tail -= binomial(differ, fewer, .5)/2
    return min(1., tail if how == "one side" else 2*tail)

def power_way(how="exact", level=.05, both=False, differ="spread", turned=False, apart=False, ties=False):
    "The answer, with switches for its mistakes"
    def noticed(gained, lost):
        better = gained > lost or both and lost > gained
        return better and p_value(gained, lost, how) < level
    def power(n, gain, loss):
        if turned:
            gain, loss = loss, gain
        if ties:
            share = .5+(gain-loss)/2
            return math.fsum(binomial(n, k, share) for k in range(n+1) if noticed(k, n-k))
        if apart:
            return math.fsum(binomial(n, g, gain)*binomial(n, l, loss)
                             for g in range(n+1) for l in range(n+1-g) if noticed(g, l))
        moved, total = gain+loss, 0.
        counts = [round(n*moved)] if differ == "expected" else range(n+1)
        for d in counts:
            weight = 1. if differ == "expected" else binomial(n, d, moved)
            if differ == "both expected":
                return float(noticed(round(n*gain), round(n*loss)))
            if weight > 1e-14 and moved:
                total += weight*math.fsum(binomial(d, g, gain/moved) for g in range(d+1) if noticed(g, d-g))
        return total
    return power

POWERS = [(6, 1., 0.), (5, 1., 0.), (0, .2, .1), (1, .5, .1), (6, .9, 0.), (8, .5, .5), (10, .6, .1),
          (20, .4, .1), (20, .1, .4), (50, .2, .05), (50, .2, .2), (60, 0., 0.), (100, .1, .02),
          (100, .1, .1), (120, .15, .05), (160, .05, 0.)]

def power_check(answer):
    right = power_way()
    for n, gain, loss in POWERS:
        say = written("power", n, gain, loss)
        got, want = call(say, answer, n, gain, loss), right(n, gain, loss)
        assert type(got) in (int, float) and math.isfinite(got), f"{say}: a number is asked for, not {got!r}"
        assert abs(got-want) < 1e-6, (
            f"{say} is {want:.6f}, and you say {got:.6f}. On average {n*gain:g} questions are gained and "
            f"{n*loss:g} lost")

enough = Exercise("5. How many questions?", 3, power_check, power_way(),
    probes=[case for case in POWERS if case[0] < 101], behave=lambda f, *case: float(f"{f(*case):.7g}"),
    wrong=[
        Wrong("one side of the coin",
              "p counts a coin that falls so unevenly on *either* side, so it is twice the tail; or you let "
              "it pass below 0.1.", power_way(how="one side")),
        Wrong("worse counts as noticed",
              "you also count exams in which the second model is surely *worse*. Asked is how often it is "
              "seen to be better.", power_way(both=True)),
        Wrong("as many as expected",
              "how many questions differ is a matter of luck, too. Add up over all numbers that it can be, "
              "each with its probability.", power_way(differ="expected")),
        Wrong("the average exam",
              "you look at one exam, the average one. Others are luckier or unluckier: asked is in which "
              "share of them the difference is noticed.", power_way(differ="both expected")),
        Wrong("a bell curve",
              "you compare (gained-lost)/√(gained+lost) with the normal curve. For few questions it promises "
              "more than the coin keeps: with five gained and none lost p is 1/16.", power_way(how="bell")),
        Wrong("half of what was seen",
              "you count the result itself by half (the mid-p). The chapter's test counts it whole.",
              power_way(how="middle")),
        Wrong("gain and loss turned", "the second model gains with probability `gain`.",
                                      power_way(turned=True)),
        Wrong("two throws for a question",
              "you draw what is gained and what is lost independently. A question is gained, lost or "
              "neither: what is gained can't be lost any more.", power_way(apart=True)),
        Wrong("no question is left out",
              "you let every question fall to one side or the other. Those that both models answer alike "
              "tell nothing and leave the test.", power_way(ties=True)),
        Wrong("one percent", "p has to be below 0.05.", power_way(level=.01))])

EXERCISES = dict(exam=lab, compare=difference, hand=hand, blind=leaks, power=enough)
