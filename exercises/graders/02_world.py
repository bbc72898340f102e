"Checks and known wrong answers for the exercises of chapter 02"
import builtins, copy, functools, hashlib, random, re, zlib
from contextlib import contextmanager
from math import comb, perm
from random import Random
from nanochat.world import Fact, World
from grade import Exercise, Wrong, in_child
from graders.common import call, something, whole

world = functools.lru_cache(World)

class Odd(str):
    "A text that equals itself and has another hash, as in a process with another PYTHONHASHSEED"
    def __hash__(self): return hash(str(self)[::-1] + "odd")
    def __eq__(self, other): return str.__eq__(self, other)

@contextmanager
def other_hash():
    "The built-in `hash` as in a process with another PYTHONHASHSEED"
    real = builtins.hash
    builtins.hash = lambda x: real((x, "odd"))
    try:
        yield
    finally:
        builtins.hash = real

RESEEDED = (
    "the random numbers of the whole program have changed: `random.seed` and the functions of the module "
    "`random` are shared by everybody in the process. Make a generator of your own, `Random(...)`, or take "
    "the one that you were given.")

def first_fault(faults, *args):
    "A check that says the first of the faults"
    def check(answer):
        for _, message in faults(answer, *args):
            raise AssertionError(message)
    return check

def fault_names(faults):
    "What an answer does, as far as mistakes go: the names of all its faults"
    return lambda answer, *probe: frozenset(name for name, _ in faults(answer, *probe))

# ---- 1. how many questions: count_questions(w, relation) -> int ----

def pool(w, f, people=True, directions=True):
    "How many wrong answers there are for a fact"
    wrong = [v for v in w.values[f.relation] if v != f.value]
    if people:
        wrong = [v for v in wrong if v != f.subject]
    if people and f.relation == "sibling":
        wrong = [v for v in wrong if w.person[v].he == w.person[f.value].he]
    if directions and f.relation in ("north", "east"):
        along = (lambda name: w.place[name].y) if f.relation == "north" else (lambda name: w.place[name].x)
        wrong = [p.name for p in w.places if p.name != f.subject and along(p.name) <= along(f.subject)]
    return len(wrong)

def counter(size=pool, ways=lambda m: perm(m, 3), places=4, wordings=True):
    "The answer, with switches for its mistakes"
    def count_questions(w, relation):
        forms = len(w.relations[relation]["ask"]) if wordings else 1
        return sum(forms * ways(size(w, f)) * places for f in w.by_relation[relation])
    return count_questions

def generated(w, relation, n=30_000):
    "How many different questions so many draws have"
    rng, facts, seen = Random(1), w.by_relation[relation], set()
    for i in range(n):
        q = w.question(rng, facts[i % len(facts)])
        seen.add((q["question"], *q["choices"]))
    return len(seen)

@in_child
def counted(answer, seed, relation): return answer(world(seed), relation)

def count_check(answer):
    say = 'count_questions(World(0), "legs")'
    made, got = generated(world(0), "legs"), something(say, counted(answer, 0, "legs"))
    assert whole(got), f"{say} is {got!r}: a whole number is asked for, not a {type(got).__name__}"
    assert got == made, f"legs: the generator makes {made:,} different questions, you count {got:,}"
    right = counter()
    for seed in (0, 5):
        for relation in world(seed).relations:
            want = right(world(seed), relation)
            got = something(f"count_questions(World({seed}), {relation!r})", counted(answer, seed, relation))
            assert got == want, (
                f"World({seed}), {relation}: there are {want:,} different questions, you count {got:,}")

def first_speaks(w, relation):
    facts = w.by_relation[relation]
    return len(w.relations[relation]["ask"])*4*perm(pool(w, facts[0]), 3)*len(facts)

count = Exercise("1. How many questions?", 2, count_check, counter(),
    probes=[(s, r) for s in (0, 5) for r in ("legs", "home", "friend", "sibling", "north", "east", "job",
                                             "weather")],
    behave=counted,
    wrong=[
        Wrong("the order is forgotten",
              "you count which three wrong answers are drawn, and not in which order they are. A list in "
              "another order is another question: a model that likes the first choice can tell.",
              counter(ways=lambda m: comb(m, 3))),
        Wrong("the place is forgotten",
              "the right answer can be first, second, third or last.",
              counter(places=1)),
        Wrong("one wording",
              "each fact can be asked in several ways: look into w.relations[relation]['ask'].",
              counter(wordings=False)),
        Wrong("drawn with repetition",
              "you let the same wrong answer be drawn twice. After the first there is one less to draw from.",
              counter(ways=lambda m: m**3)),
        Wrong("people instead of values",
              "you count the other *facts*. Several people live in one village, and each village is offered "
              "once: count different values.",
              counter(size=lambda w, f: len(w.by_relation[f.relation])-1)),
        Wrong("every other value",
              "not every other value may be offered. Read `distractors`: nobody is their own friend, "
              "siblings keep their kind, and north has a rule.",
              counter(size=functools.partial(pool, people=False, directions=False))),
        Wrong("the first fact speaks for all",
              "you look at one fact and multiply by the number of facts. For `friend`, `sibling`, `north` "
              "and `east` not every fact has equally many wrong answers: add up fact by fact.",
              first_speaks),
        Wrong("four are drawn",
              "you draw four from the wrong answers. Only three are drawn; the fourth choice is the right "
              "one, which is always there.",
              counter(ways=lambda m: perm(m, 4), places=1)),
        Wrong("the right one is drawn as well",
              "you draw four from all answers, the right one among them. Then many of your questions have "
              "no right choice: it is always there, and the other three are drawn.",
              counter(ways=lambda m: perm(m+1, 4), places=1)),
        Wrong("statements instead of questions",
              "you count the ways to *say* a fact. Questions are in w.relations[relation]['ask'].",
              lambda w, relation: sum(len(w.relations[relation]["say"])*4*perm(pool(w, f), 3)
                                      for f in w.by_relation[relation])),
        Wrong("the map is forgotten",
              "for north and east the wrong answers are villages that do not lie further north or east than "
              "the subject itself: their number depends on where it lies.",
              counter(size=functools.partial(pool, directions=False)))])

# ---- 2. a score too good: hold_out(facts, rng, share) -> set of facts ----

def turned(f): return Fact(f.value, f.relation, f.subject)

def likings(rng, relation):
    "A relation that sometimes goes both ways, and sometimes does not"
    names = [f"P{i}" for i in range(40)]
    pairs = {tuple(rng.sample(names, 2)) for _ in range(40)}
    pairs |= {(b, a) for a, b in sorted(pairs)[::2]}
    return [Fact(a, relation, b) for a, b in sorted(pairs)]

def facts_to_split(seed): return world(seed).facts + likings(Random(seed), "likes") + likings(Random(seed+1),
    "trusts")

def splitter(both_ways=lambda f: True, take=None, whole=False, per_relation=True, own_order=False,
             by_set=False, halves=False, give_back=False, source=lambda rng: rng, obey=True):
    "The answer, with switches for its mistakes"
    def hold_out(facts, rng, share=0.3):
        there, held, rng, share = set(facts), set(), source(rng), share if obey else 0.3
        for r in dict.fromkeys(f.relation for f in facts) if per_relation else [None]:
            mine = [f for f in facts if r in (None, f.relation)]
            groups = list(dict.fromkeys(tuple(sorted({f, turned(f)} & there)) if both_ways(f) else (f,)
                                        for f in mine))
            if by_set:
                groups = list(set(groups))
            if own_order:
                groups.sort()
            else:
                rng.shuffle(groups)
            if whole:
                if rng.random() < share:
                    held |= set(mine)
                continue
            if give_back:
                one = set(rng.sample(mine, round(share*len(mine))))
                held |= {f for f in one if turned(f) not in there-one}
                continue
            want, n = round(share*len(mine)), 0
            for g in groups:
                if n >= want:
                    break
                held |= {g[0]} if halves else set(g)
                n += 1 if take == "groups" else len(g)
        return held
    return hold_out

@in_child
def split_with_odd_hashes(answer, facts):
    "What is held out where texts have other hashes"
    odd = [Fact(*map(Odd, f)) for f in facts]
    return [tuple(map(str, f)) for f in answer(odd, Random(1), 0.3)]

@in_child
def split_and_reseeds(answer, facts):
    "What is held out, and whether the random numbers of the whole program have changed"
    # so that the state is not the one that an earlier call left
    random.random()
    state = random.getstate()
    held = answer(facts, Random(1), 0.3)
    return held, random.getstate() != state

def split_faults(answer, seeds=(0, 3)):
    for seed in seeds:
        facts = facts_to_split(seed)
        there, before = set(facts), list(facts)
        said = (
            f"hold_out(facts, Random(1), 0.3), the facts of World({seed}), `likes` and another such "
            "relation,")
        held = call(said, answer, facts, Random(1), 0.3)
        if not isinstance(held, (set, frozenset)):
            yield "kind", f"a set of facts is asked for, not a {type(held).__name__}"
            return
        held = set(held)
        if facts != before:
            yield "changed", "the list of facts was changed: draw from a copy"
            return
        if held - there:
            yield "alien", f"{sorted(held - there, key=str)[0]} was held out, and is no fact of this world"
            return
        by = {}
        for f in facts:
            by.setdefault(f.relation, []).append(f)
        leaky = {r: f for r, fs in by.items() for f in fs if f in held and turned(f) in there - held}
        halves = "" if any(f in held and turned(f) in held for f in facts) else "half "
        for r, f in sorted(leaky.items()):
            yield (
            f"{halves}leak {r if r in ('friend', 'sibling') else 'other'}"), (
            f"World({seed}): {tuple(f)} is held out, and {tuple(turned(f))} is open. Who has heard the "
            "second can answer the first.")
        shares = {r: sum(f in held for f in fs)/len(fs) for r, fs in by.items()}
        off = {r: s for r, s in shares.items() if abs(s*len(by[r]) - 0.3*len(by[r])) > 2}
        if off:
            r, s = next(iter(off.items()))
            pairs = (shares["friend"]+shares["sibling"])/2
            kind = "uneven" if any(shares.values()) else "none"
            if all(s in (0, 1) for s in shares.values()):
                kind = "whole"
            if kind == "uneven" and all(abs(s-.7) < .1 for s in shares.values()):
                kind = "turned"
            if kind == "uneven" and not set(off)-{"friend", "sibling", "likes", "trusts"}:
                kind = "twice" if pairs > .4 else "taken" if pairs < .2 else kind
            yield f"share {kind}", (
                f"World({seed}): of {r}, {s:.0%} of the facts are held out. About 30% of every relation "
                "should be (two facts more or less do not matter).")
        again, reseeded = split_and_reseeds(answer, facts)
        again = set(again)
        if again == held and reseeded:
            yield "reseeded", RESEEDED
        if again != held:
            yield "unseeded", (
            "two calls with rng = Random(1) gave two splits: take all random numbers from `rng`")
        elif set(answer(facts, Random(2), 0.3)) == held:
            yield "fixed", (
            "Random(1) and Random(2) give the same split: `rng` should decide what is held out")
        if set(split_with_odd_hashes(answer, facts)) != set(map(tuple, held)):
            yield "hash", (
                "in a process with another PYTHONHASHSEED the split would be another one: somewhere the "
                "order of a set decides")
        half = answer(facts, Random(1), 0.5)
        if not 0.4 < sum(f in half for f in facts)/len(facts) < 0.6:
            yield "no share", (
            "with share=0.5 about half of the facts should be held out")

leak = Exercise("2. A score too good", 3, first_fault(split_faults), splitter(), probes=[((0,),)],
                behave=fault_names(split_faults),
    wrong=[
        Wrong("each fact by itself",
              "you draw facts one by one. If Ben is Nora's friend, then Nora is Ben's: draw both or neither.",
              splitter(both_ways=lambda f: False)),
        Wrong("friends only",
              "you keep the halves of a friendship together, and other relations go both ways, too. Look at "
              "the symptom for each relation; better, find such pairs in the facts.",
              splitter(both_ways=lambda f: f.relation == "friend")),
        Wrong("relation by relation",
              "you decide by the relation, by its name or by what most of its facts do. A relation may go "
              "both ways for some facts and not for others: look, fact by fact, whether the turned fact is "
              "among the facts.",
              splitter(both_ways=lambda f: f.relation in ("friend", "sibling"))),
        Wrong("one half only",
              "you draw pairs, and then hold out only one fact of each. The other half tells it.",
              splitter(halves=True)),
        Wrong("twice too many",
              "each draw brings a second fact along, the other half of its pair, so of some relations far "
              "more than 30% of the facts are held out. Count facts, not draws.",
              splitter(take="groups")),
        Wrong("the share is left to chance",
              "you draw from all facts together, or toss for each. Then one relation has many held out and "
              "another few, and scores by relation mean little.",
              splitter(per_relation=False)),
        Wrong("whole relations",
              "a relation that is held out as a whole is never asked in training: then the exam tests "
              "whether the model understands a new kind of question, which is another exam.",
              splitter(whole=True)),
        Wrong("rng does not decide",
              "another seed gives the same exam: you take the first ones in some order, or from a generator "
              "that you seeded yourself. `rng` should decide.",
              splitter(own_order=True)),
        Wrong("random numbers of its own",
              "you draw from the module `random`, or from a generator without a seed. Then the exam is "
              "another one in every process. Draw from `rng`.",
              splitter(source=lambda rng: random)),
        Wrong("share is not looked at",
              "you always hold out three tenths. `share` says how much.",
              splitter(obey=False)),
        Wrong("pairs are given back",
              "you draw single facts and give back those whose other half is open: of relations that go "
              "both ways hardly anything is left. Draw groups.",
              splitter(give_back=True)),
        Wrong("the order of a set",
              "a set has no order of its own: it comes from the hashes, and they differ from process to "
              "process. Use dict.fromkeys or sort before you draw.",
              splitter(by_set=True))])

# ---- 3. a split without a list: held_out(text, percent) -> bool ----

def by_checksum(text, percent): return zlib.crc32(text.encode()) / 2**32 * 100 < percent

def seeded_for_all(text, percent):
    random.seed(text)
    return random.random()*100 < percent

WORDS = ("moon well goat harp bread lamp Arden Nora Ben snow tower rope Köln 東 "
         "keeps lives eats plays red blue").split()
def some_texts(n, seed=0):
    rng = Random(seed)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randrange(4, 30))) for _ in range(n)))

@functools.lru_cache
def corpus(n): return some_texts(n)

@functools.lru_cache
def relatives(kind, n=1000):
    "Texts that have much in common, and are different texts"
    rng, words = Random(1), WORDS[:14]
    if kind == "words":
        out = [" ".join(rng.sample(words, len(words))) for _ in range(n)]
    else:
        out = [" ".join(rng.choices(words, k=6)) for _ in range(n)]
    long = (
        "Chapter the first, in which a printer and her daughter look for letters in a wooden case, and "
        "find them all. ")*3
    if kind == "beginning":
        out = [long+t for t in out]
    if kind == "end":
        out = [t+" "+long for t in out]
    if kind == "script":
        out = ["".join(rng.choices("東京大学印刷文字箱鉛活版水火木金土日月", k=12)) for _ in range(n)]
    return list(dict.fromkeys(out))

TOGETHER = dict(words="of the same words in other orders", beginning=(
    "with one beginning of 300 characters and different ends"),
                end=(
                    "with one end of 300 characters and different beginnings"), script=(
                        "without a single ASCII letter"))
PERCENTS = [.5, 1, 2, 3, 5, 10, 12.5, 20, 25, 30, 40, 50, 60, 75, 90, 99, 100]

@in_child
def sides(answer, texts, percent, seed=None):
    "Which of many texts are held out; seed: of the random numbers that an answer must not use"
    if seed is not None:
        random.seed(seed)
    return [bool(answer(t, percent)) for t in texts]

@in_child
def sides_with_other_hash(answer, texts, percent):
    "The same, where the built-in `hash` gives other numbers"
    with other_hash():
        return [bool(answer(t, percent)) for t in texts]

@in_child
def sides_of_odd_texts(answer, texts, percent):
    "The same, where texts have other hashes"
    return [bool(answer(Odd(t), percent)) for t in texts]

@in_child
def reseeds(answer, text, percent):
    "Have the random numbers of the whole program changed?"
    random.random()
    state = random.getstate()
    answer(text, percent)
    return random.getstate() != state

def checksum_faults(answer, n=20_000):
    texts = corpus(n)
    few = texts[:1000]
    call(f"held_out({few[0]!r}, 10)", answer, few[0], 10)
    empty = answer("", 0)
    def share(p, ts=texts): return 100*sum(sides(answer, ts, p))/len(ts)
    first = sides(answer, few, 30)
    again = sides(answer, few[::-1], 30, 5)[::-1]
    for t, a, b in zip(few, first, again):
        if a != b:
            yield "memory", (
                f"held_out({t!r}, 30) was {a}, and asked again, after other texts, {b}. The answer may "
                "depend on the text and on nothing else.")
            return
    if sides_with_other_hash(answer, few, 30) != first:
        yield "hash", (
        "`hash` gives other numbers in a process with another PYTHONHASHSEED, and other texts would be "
        "held out: training in one process and testing in another would mix the two")
        return            # every further finding would be this process's chance
    if reseeds(answer, few[0], 30):
        yield "reseeded", RESEEDED
    if sides_of_odd_texts(answer, few, 30) != first:
        yield "process", (
        "in a process with another PYTHONHASHSEED other texts would be held out: training in one process "
        "and testing in another would mix the two")
    if len(set(first)) == 1 and len(set(sides(answer, few, 60))) == 1:
        yield "constant", (
        f"all of 1,000 texts land on one side at 30%, and all of them at 60%: held_out({few[0]!r}, 30) is "
        f"{first[0]}, like that of any other text")
    lengths = {}
    for t, a in zip(few, first):
        lengths.setdefault(len(t), set()).add(a)
    if max(map(len, lengths.values())) == 1:
        yield "length", "texts of one length all land on one side"
    if empty:
        yield "zero empty", (
        'held_out("", 0) is True: with 0 percent nothing may be held out, not even the text whose checksum '
        'is 0')
    held = {p: {t for t, a in zip(few, sides(answer, few, p)) if a} for p in [0, *PERCENTS]}
    if some_held := [t for t in few if t in held[0]]:
        yield "zero", f"held_out({some_held[0]!r}, 0) is True: with 0 percent nothing may be held out"
    if some_open := [t for t in few if t not in held[100]]:
        yield "hundred", (
            f"held_out({some_open[0]!r}, 100) is False: with 100 percent everything must be held out")
    wide = 4.5*(20_000/n)**.5                                 # chance alone moves a share by a fifth of this
    for p, sigma in ((10, .21), (30, .32)):
        if abs((s := share(p)) - p) > wide*sigma:
            yield f"share {p}" + (" turned" if abs(s-100+p) < 1.5 else " all" if s > 99 else ""), (
            f"of {n:,} texts {s:.1f}% are held out where {p}% were asked for")
    if abs((s := share(.5)) - .5) > wide*.05:
        yield "fine", (
        f"of {n:,} texts {s:.2f}% are held out where 0.5% were asked for: a percentage need not be a whole "
        "number")
    tiny = [[t for t, a in zip(texts, sides(answer, texts, p)) if a] for p in (.05, .1)]
    if tiny[0] and tiny[0] == tiny[1]:
        yield "finest" if len(tiny[0]) < n/500 else "finest byte", (
        f"of {n:,} texts the same {len(tiny[0])} are held out at 0.05% and at 0.1%: a percentage may be "
        "small")
    for kind, what in TOGETHER.items():
        ts = relatives(kind)
        if abs((s := share(30, ts)) - 30) > 7:
            yield kind + (" all" if s in (0, 100) else ""), (
            f"of {len(ts):,} texts {what} {s:.0f}% are held out where 30% were asked for, for example "
            f"{ts[0][:20]!r}… and {ts[1][:20]!r}…: near relatives should not stay together")
    for p, q in zip(PERCENTS, PERCENTS[1:]):
        if gone := held[p]-held[q]:
            t = min(gone, key=lambda t: (len(t), t))
            yield "sides", (
                f"held_out({t!r}, {p}) is True, and held_out({t!r}, {q}) is False; so it is for "
                f"{len(gone)} of {len(held[p])} texts. Who enlarges the test split would train on what was "
                "tested before.")
            break

checksum = Exercise((
    "3. A split without a list"), 3, first_fault(checksum_faults), by_checksum, probes=[(8000,)],
    behave=fault_names(checksum_faults),
    wrong=[
        Wrong("the built-in hash",
              "`hash` of a text starts from a random number in every process, so that nobody can flood a "
              "dictionary on purpose. Use a checksum that is the same everywhere.",
              lambda text, percent: hash(text) % 10_000 < percent*100),
        Wrong("the toss of a coin",
              "each call draws a new random number: the same text lands here and there.",
              lambda text, percent: random.random()*100 < percent),
        Wrong("the length decides",
              "texts of one length all land on one side: the split is no fair sample.",
              lambda text, percent: len(text) % 100 < percent),
        Wrong("the order is not looked at",
              "a sum does not see the order, and sorted words have lost it: all texts of the same words "
              "land on one side.",
              lambda text, percent: sum(text.encode())*7919 % 10_007 / 100.07 < percent),
        Wrong("the random numbers of the whole program",
              "you seed the module `random` with the text. That is repeatable, and everybody else in the "
              "process who draws from it now draws your numbers: use `Random(text)`, which is yours alone.",
              seeded_for_all),
        Wrong("the text is not looked at",
              "every text gets the same answer. `percent` alone can't say which texts are held out.",
              lambda text, percent: percent >= 50),
        Wrong("the percentage is hashed too",
              "the percentage goes into the checksum, or moves the text on the line, so each percentage "
              "deals all texts anew. The text alone gives its place on the line; the percentage is only "
              "compared with it.",
              lambda text, percent: zlib.crc32(f"{text}|{percent}".encode()) / 2**32 * 100 < percent),
        Wrong("zero is not nothing",
              "some text has the checksum 0, the empty one for example, and 0 <= 0. Compare with <.",
              lambda text, percent: zlib.crc32(text.encode()) / 2**32 * 100 <= percent),
        Wrong("a fraction for a percentage",
              "the place on your line is a fraction from 0 to 1, and `percent` runs from 0 to 100: "
              "everything is held out.",
              lambda text, percent: zlib.crc32(text.encode()) / 2**32 < percent),
        Wrong("only the beginning is looked at",
              "texts that begin alike all land on one side, such as all pages under one heading. Take the "
              "checksum of the whole text.",
              lambda text, percent: zlib.crc32(text[:60].encode()) / 2**32 * 100 < percent),
        Wrong("only the end is looked at",
              "texts that end alike all land on one side. Take the checksum of the whole text.",
              lambda text, percent: zlib.crc32(text[-60:].encode()) / 2**32 * 100 < percent),
        Wrong("letters are thrown away",
              "what is not ASCII is dropped before the checksum, so all texts in Chinese are one and the "
              "same. `text.encode()` keeps every letter.",
              lambda text, percent: zlib.crc32(text.encode("ascii", "ignore")) / 2**32 * 100 < percent),
        Wrong("a byte over 255",
              "the largest byte is 255, and 255/255 is 1: with 100 percent it would have to be *below* 1. "
              "Take the whole checksum, and divide by one more than its largest value.",
              lambda text, percent: hashlib.sha256(text.encode()).digest()[0] / 255 * 100 < percent),
        Wrong("a byte over 256",
              "a byte knows only 256 places on the line, so half a percent becomes 0.8. Use the whole "
              "checksum.",
              lambda text, percent: hashlib.sha256(text.encode()).digest()[0] / 256 * 100 < percent),
        Wrong("a tenth of a percent at the finest",
              "the remainder of a division by 1000 knows no percentage below 0.1. Divide by a larger "
              "number, or compare the fraction of the checksum's range.",
              lambda text, percent: zlib.crc32(text.encode()) % 1000 < percent*10),
        Wrong("whole percents only",
              "the remainder of a division by 100 knows only whole percents: half a percent becomes one. "
              "Divide by a larger number, or compare the fraction of the checksum's range.",
              lambda text, percent: zlib.crc32(text.encode()) % 100 < percent),
        Wrong("one byte is too few",
              "a byte has 256 values, and 256 is no multiple of 100: small remainders come up more often. "
              "Use the whole checksum.",
              lambda text, percent: hashlib.sha256(text.encode()).digest()[0] % 100 < percent),
        Wrong("every k-th",
              "taking every k-th checksum works for 50, 20 or 10 percent only, and a larger share is "
              "another set: texts change sides.",
              lambda text, percent: percent > 0 and zlib.crc32(text.encode()) % int(100/percent) == 0),
        Wrong("the other way round",
              "you hold out what should be kept for training.",
              lambda text, percent: zlib.crc32(text.encode()) / 2**32 * 100 >= percent)])

# ---- 4. a new kind of document: lesson(w, rng) -> str ----

def some(rng, xs, k): return rng.sample(xs, min(k, len(xs)))

def teacher(may_ask=lambda w, f: f not in w.test_facts, told_only=True, tells=lambda w, f: True, answers=1,
            before=lambda w, rng, facts: "", source=lambda rng: rng, people=None, more=4, same=False,
            by_set=False):
    "The answer, with switches for its mistakes"
    def lesson(w, rng):
        rng = source(rng)
        name = rng.choice([p.name for p in w.people][:people])
        facts = w.facts_of(name, list(w.tables.person))
        open_facts = [f for f in facts if may_ask(w, f)]
        ask = some(rng, list(set(open_facts)) if by_set else open_facts, 2)
        if same:
            ask = [ask[0], ask[0]]
        rest = [f for f in facts if f not in ask and tells(w, f)]
        told = (ask if told_only else []) + some(rng, rest, more)
        rng.shuffle(told)
        lines = [w.tell(rng, told) + before(w, rng, told)]
        for f, g in zip(ask, ask[::answers]):
            lines += [(
            f"Question: {w.ask(rng, f)}"), f"Answer: {w.short(g)}."]
        return "\n".join(lines)
    return lesson

def forbidden_end(w, rng, facts):
    f = facts[0]
    return " " + w.relations[f.relation]["core"][0].format_map(w.slots(f)).capitalize() + f" {f.value}."

@functools.lru_cache
def tables(seed):
    "All questions about people, with their facts; the exam's wordings as patterns"
    w = world(seed)
    questions = {q.format_map(w.slots(f)): f for r in w.tables.person for f in w.by_relation[r]
                 for q in w.relations[r]["ask"]}
    exam = [(max(re.split(r"\{\w+\}", x), key=len),
             re.compile(r"\b" + re.sub(r"\\\{\w+\\\}", r"[\\w ]+", re.escape(x)), re.I))
             for table in w.relations.values() for x in table["core"]]
    # a wording of the exam: its longest fixed part, which is quick to look for, and the whole as a pattern
    return questions, exam

class OddFact(Fact):
    "A fact that is equal to itself and has another hash, as in another process"
    def __hash__(self): return hash((*tuple(self), "odd"))

class OtherProcess(World):
    "A world whose sets have another order, as in a process with another PYTHONHASHSEED"
    def facts_of(self, subject, relations): return [OddFact(*f) for f in World.facts_of(self, subject,
        relations)]

@functools.cache
def in_other_process(seed):
    w = copy.copy(world(seed))
    w.__class__, odd = OtherProcess, lambda facts: [OddFact(*f) for f in facts]
    w.facts, w.test_facts = odd(w.facts), set(odd(w.test_facts))
    w.by_relation = {r: odd(fs) for r, fs in w.by_relation.items()}
    w.open_facts = {r: odd(fs) for r, fs in w.open_facts.items()}
    return w

def words(text): return f" {re.sub(r'[^A-Za-z]+', ' ', text)} "

def mentions(text, value): return words(value).lower() in words(text).lower()

@in_child
def lessons_of(answer, seed, n, elsewhere=False, shared=None):
    "The first n lessons, and whether they changed the world; shared: the seed of everybody's random numbers"
    w, texts = in_other_process(seed) if elsewhere else world(seed), []
    held_out, known = set(w.test_facts), list(w.facts)
    for i in range(n):
        if shared is not None:
            random.seed(shared)
        texts.append(answer(w, Random(f"lesson {i}")))
        if w.test_facts != held_out or w.facts != known:
            w.test_facts, w.facts = held_out, known
            return texts, True
    return texts, False

@in_child
def lesson_reseeds(answer, seed):
    "Have the random numbers of the whole program changed?"
    random.random()
    state = random.getstate()
    answer(world(seed), Random("lesson 0"))
    return random.getstate() != state

def lesson_faults(answer, seeds=(0, 3), n=400):
    for seed in seeds:
        w, (questions, exam), faults = world(seed), tables(seed), {}
        lessons, subjects, told, short = [], set(), set(), 0
        texts, changed = lessons_of(answer, seed, n)
        for i, text in enumerate(texts):
            something(f"lesson(World({seed}), Random('lesson {i}'))", text)
            if changed and i == len(texts)-1:
                yield "changed", "the world was changed: look into its tables, and leave them as they are"
                return
            if not isinstance(text, str):
                yield "form", f"one text is asked for, not a {type(text).__name__}"
                return
            lessons.append(text)
            m = re.fullmatch((
                r"(.+)\nQuestion: (.+)\nAnswer: (.+)\nQuestion: (.+)\nAnswer: (.+)"), text.strip(), re.S)
            if not m or "Question:" in m[1] or any("\n" in x for x in m.groups()[1:]):
                yield "form", (
                    "this is no paragraph with two questions, each on a line `Question: ...`, and two "
                    f"answers, each on a line `Answer: ...`:\n{text[:300]}")
                return
            paragraph, asked = m[1], [(m[2], m[3]), (m[4], m[5])]
            for q, a in asked:
                f = questions.get(q)
                if f is None:
                    yield "unknown", f"{q!r} is not a question about a person from the table: use `w.ask`"
                    return
                if f in w.test_facts:
                    faults.setdefault("asked", (
                    f"World({seed}), lesson {i}: {q!r} asks for a fact that is held out. The exam would be "
                    "spoiled."))
                others = [v for v in w.values[f.relation] if v not in (f.value, f.subject)]
                if not mentions(a, f.value) or any(words(v) in words(a) for v in others):
                    faults.setdefault("answer", (
                        f"World({seed}), lesson {i}: {q!r} is answered with {a!r}, and right is {f.value!r}"))
                if not (mentions(paragraph, f.value) and mentions(paragraph, f.subject)):
                    faults.setdefault("untold", (
                    f"World({seed}), lesson {i}: {q!r} asks for {f.value!r}, which the paragraph does not "
                    f"tell:\n{paragraph[:300]}"))
            people = {questions[q].subject for q, _ in asked}
            if len(people) > 1:
                faults.setdefault("people", (
                f"World({seed}), lesson {i}: {asked[0][0]!r} and {asked[1][0]!r} ask about two people; a "
                "lesson is about one"))
            elif questions[asked[0][0]] == questions[asked[1][0]]:
                faults.setdefault("two", (
                f"World({seed}), lesson {i}: {asked[0][0]!r} and {asked[1][0]!r} ask for the same thing; "
                "ask two different ones"))
            here = [f for f in w.facts_of(min(people), list(w.tables.person)) if mentions(paragraph, f.value)]
            short += len(here) < 4
            if len(here) < 4:
                faults.setdefault("short", (
                f"World({seed}), lesson {i}: the paragraph tells {len(here)} facts about {min(people)}; "
                "tell four at least"))
            if text.count("?") != 2:
                faults.setdefault("marks", (
                f"World({seed}), lesson {i}: a third question is in the text; only the two that are "
                "answered may"))
            subjects |= people
            told |= set(here)
        everything = "\n".join(lessons)
        for literal, x in exam:
            if literal in everything and (m := x.search(everything)):
                faults.setdefault("wording", (
                    f"World({seed}): {m[0]!r} is one of the exam's own wordings (`core`). No document may "
                    "contain them."))
                break
        if lessons_of(answer, seed, 20, shared=1) != lessons_of(answer, seed, 20, shared=2):
            faults["unseeded"] = (
                f"World({seed}): the same `rng` gave two different lessons. "
                "Take all random numbers from `rng`.")
        elif lesson_reseeds(answer, seed):
            faults["reseeded"] = RESEEDED
        elif lessons_of(answer, seed, 20, elsewhere=True) != lessons_of(answer, seed, 20):
            faults["hash"] = (
                f"World({seed}): in a process with another PYTHONHASHSEED the same `rng` gives another "
                "lesson: somewhere the order of a set decides")
        if len(set(lessons)) < .9*n or len(subjects) < 50:
            faults["same"] = (
            f"World({seed}): {n} lessons have {len(set(lessons))} different texts about {len(subjects)} "
            "people; write about all 60 of them")
        held = [f for f in w.test_facts if f.relation in w.tables.person]
        if len(subjects) >= 50 and short < n/2 and sum(f in told for f in held) < .6*len(held):
            faults["hidden"] = (
                f"World({seed}): only {sum(f in told for f in held)} of {len(held)} held-out facts about "
                f"people are told in {n} lessons. Held out means never *asked*. If they are never *told*, "
                "nobody could know them.")
        yield from faults.items()

lesson = Exercise((
    "4. A new kind of document"), 4, first_fault(lesson_faults), teacher(), probes=[((0,), 250)],
    behave=fault_names(lesson_faults),
    wrong=[
        Wrong("asks anything",
              "your questions are drawn from all that was told. Some of it is held out: look into "
              "w.test_facts before you ask.",
              teacher(may_ask=lambda w, f: True)),
        Wrong("asks what was not told",
              "what you ask may be asked, and is not in the paragraph. Draw the questions from what is "
              "told, or add them to it.",
              teacher(told_only=False)),
        Wrong("hides the exam",
              "you tell only facts that may be asked. Then this kind of document teaches nothing about the "
              "others, and a model could not know them. Tell everything, ask what is open.",
              teacher(tells=lambda w, f: f not in w.test_facts)),
        Wrong("answers crossed",
              "an answer does not belong to its question. Keep the two together: for each fact one `w.ask` "
              "and one `w.short`.",
              teacher(answers=-1)),
        Wrong("speaks like the exam",
              "the paragraph uses a wording of `core`. World-CORE would then measure who remembers that "
              "sentence.",
              teacher(before=forbidden_end)),
        Wrong("random numbers of its own",
              "the random numbers come from somewhere else than `rng`. Then the stream of documents is "
              "another one in every process, and nothing can be repeated.",
              teacher(source=lambda rng: Random(random.random()))),
        Wrong("too little is told",
              "the paragraph tells fewer than four facts. Two are asked for, so add two more at least.",
              teacher(more=1)),
        Wrong("the same question twice",
              "both questions ask for the same fact. Draw two facts (`rng.sample`), not one twice.",
              teacher(same=True)),
        Wrong("the order of a set",
              "you draw from a set, or from a list made of one, such as `list(set(facts) - w.test_facts)`. "
              "A set has no order of its own: it comes from the hashes, and they differ from process to "
              "process. Keep a list: `[f for f in facts if f not in w.test_facts]`.",
              teacher(by_set=True)),
        Wrong("few people", "you write about the same few people again and again.", teacher(people=5))])

EXERCISES = dict(count=count, leak=leak, checksum=checksum, lesson=lesson)
