"Checks and known wrong answers for the exercises of chapter 02"
import functools, hashlib, random, re, zlib
from math import comb, perm
from random import Random
from nanochat.world import Fact, HELD_OUT_WORDINGS, PERSON, RELATIONS, World
from grade import Exercise, Wrong, in_child

world = functools.lru_cache(World)

class Odd(str):
    "A text that equals itself and has another hash: what every text is in a process with another PYTHONHASHSEED"
    def __hash__(self): return hash(str(self)[::-1] + "odd")
    def __eq__(self, other): return str.__eq__(self, other)

def first_fault(faults, *args):
    "A check that says the first of the faults"
    def check(answer):
        for _, message in faults(answer, *args): raise AssertionError(message)
    return check

def fault_names(faults):
    "What an answer does, as far as mistakes go: the names of all its faults"
    return lambda answer, *probe: frozenset(name for name, _ in faults(answer, *probe))

# ---- 1. how many questions: count_questions(w, relation) -> int ----

def pool(w, f, people=True, directions=True):
    "How many wrong answers there are for a fact"
    wrong = [v for v in w.values[f.relation] if v != f.value]
    if people: wrong = [v for v in wrong if v != f.subject]
    if people and f.relation == "sibling": wrong = [v for v in wrong if w.person[v].he == w.person[f.value].he]
    if directions and f.relation in ("north", "east"):
        along = (lambda name: w.place[name].y) if f.relation == "north" else (lambda name: w.place[name].x)
        wrong = [p.name for p in w.places if p.name != f.subject and along(p.name) <= along(f.subject)]
    return len(wrong)

def counter(size=pool, ways=lambda m: perm(m, 3), places=4, wordings=True):
    "The answer, with switches for its mistakes"
    def count_questions(w, relation):
        forms = len(RELATIONS[relation]["ask"]) if wordings else 1
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
    made, got = generated(world(0), "legs"), counted(answer, 0, "legs")
    assert got is not None, "nothing came back: is there a `return`?"
    assert got == made, f"legs: the generator makes {made:,} different questions, you count {got:,}"
    right = counter()
    for seed in (0, 5):
        for relation in RELATIONS:
            want, got = right(world(seed), relation), counted(answer, seed, relation)
            assert got == want, f"World({seed}), {relation}: there are {want:,} different questions, you count {got:,}"

count = Exercise("1. How many questions?", 2, count_check, counter(),
    probes=[(s, r) for s in (0, 5) for r in ("legs", "home", "friend", "sibling", "north", "east", "job", "weather")],
    behave=counted,
    wrong=[
        Wrong("the order is forgotten", "you count which three wrong answers are drawn, and not in which order they stand. A list in another order is another question: a model that likes the first choice can tell.", counter(ways=lambda m: comb(m, 3))),
        Wrong("the place is forgotten", "the right answer can stand first, second, third or last.", counter(places=1)),
        Wrong("one wording", "each fact can be asked in several ways: look into RELATIONS[relation]['ask'].", counter(wordings=False)),
        Wrong("drawn with repetition", "you let the same wrong answer be drawn twice. After the first there is one less to draw from.", counter(ways=lambda m: m**3)),
        Wrong("people instead of values", "you count the other *facts*. Several people live in one village, and each village is offered once: count different values.", counter(size=lambda w, f: len(w.by_relation[f.relation])-1)),
        Wrong("every other value", "not every other value may be offered. Read `distractors`: nobody is their own friend, siblings keep their kind, and north has a rule.", counter(size=functools.partial(pool, people=False, directions=False))),
        Wrong("the map is forgotten", "for north and east the wrong answers are villages that do not lie further north or east than the subject itself: their number depends on where it lies.", counter(size=functools.partial(pool, directions=False)))])

# ---- 2. a score too good: hold_out(facts, rng, share) -> set of facts ----

def turned(f): return Fact(f.value, f.relation, f.subject)

def likings(rng):
    "A relation that sometimes goes both ways, and sometimes does not"
    names = [f"P{i}" for i in range(40)]
    pairs = {tuple(rng.sample(names, 2)) for _ in range(40)}
    pairs |= {(b, a) for a, b in sorted(pairs)[::2]}
    return [Fact(a, "likes", b) for a, b in sorted(pairs)]

def facts_to_split(seed): return world(seed).facts + likings(Random(seed))

def splitter(both_ways=lambda f: True, take=None, whole=False, per_relation=True, own_order=False, by_set=False, halves=False):
    "The answer, with switches for its mistakes"
    def hold_out(facts, rng, share=0.3):
        there, held = set(facts), set()
        for r in dict.fromkeys(f.relation for f in facts) if per_relation else [None]:
            mine = [f for f in facts if r in (None, f.relation)]
            groups = list(dict.fromkeys(tuple(sorted({f, turned(f)} & there)) if both_ways(f) else (f,) for f in mine))
            if by_set: groups = list(set(groups))
            if own_order: groups.sort()
            else: rng.shuffle(groups)
            if whole:
                if rng.random() < share: held |= set(mine)
                continue
            want, n = round(share*len(mine)), 0
            for g in groups:
                if n >= want: break
                held |= {g[0]} if halves else set(g)
                n += 1 if take == "groups" else len(g)
        return held
    return hold_out

@in_child
def split_with_odd_hashes(answer, facts):
    "What is held out where texts have other hashes"
    return [tuple(map(str, f)) for f in answer([Fact(Odd(f.subject), f.relation, Odd(f.value)) for f in facts], Random(1), 0.3)]

def split_faults(answer, seeds=(0, 3)):
    for seed in seeds:
        facts = facts_to_split(seed)
        there, before = set(facts), list(facts)
        held = answer(facts, Random(1), 0.3)
        if held is None: yield "nothing", "nothing came back: is there a `return`?"; return
        held = set(held)
        if facts != before: yield "changed", "the list of facts was changed"; return
        if held - there: yield "alien", f"{sorted(held - there)[0]} was held out, and is no fact of this world"; return
        by = {}
        for f in facts: by.setdefault(f.relation, []).append(f)
        leaky = {r: f for r, fs in by.items() for f in fs if f in held and turned(f) in there - held}
        halves = "" if any(f in held and turned(f) in held for f in facts) else "half "
        for r, f in sorted(leaky.items()): yield f"{halves}leak {r if r in ('friend', 'sibling') else 'other'}", f"World({seed}): {tuple(f)} is held out, and {tuple(turned(f))} is open. Who has heard the second can answer the first."
        shares = {r: sum(f in held for f in fs)/len(fs) for r, fs in by.items()}
        off = {r: s for r, s in shares.items() if abs(s*len(by[r]) - 0.3*len(by[r])) > 2}
        if off:
            r, s = next(iter(off.items()))
            kind = "whole" if all(s in (0, 1) for s in shares.values()) else "twice" if all(s > .5 for r, s in shares.items() if r in ("friend", "sibling")) else "uneven"
            yield f"share {kind}", f"World({seed}): of {r}, {s:.0%} of the facts are held out. About 30% of every relation should be (two facts more or less do not matter)."
        if set(answer(facts, Random(1), 0.3)) != held: yield "dice", "two calls with rng = Random(1) gave two splits: take all chance from `rng`"
        elif set(answer(facts, Random(2), 0.3)) == held: yield "fixed", "Random(1) and Random(2) give the same split: `rng` should decide what is held out"
        if set(split_with_odd_hashes(answer, facts)) != set(map(tuple, held)):
            yield "hash", "in a process with another PYTHONHASHSEED the split would be another one: somewhere the order of a set decides"
        half = answer(facts, Random(1), 0.5)
        if not 0.4 < sum(f in half for f in facts)/len(facts) < 0.6: yield "no share", "with share=0.5 about half of the facts should be held out"

leak = Exercise("2. A score too good", 3, first_fault(split_faults), splitter(), probes=[((0,),)], behave=fault_names(split_faults),
    wrong=[
        Wrong("each fact by itself", "you draw facts one by one. If Ben is Nora's friend, then Nora is Ben's: draw both or neither.", splitter(both_ways=lambda f: False)),
        Wrong("friends only", "you keep the halves of a friendship together, and other relations go both ways, too. Look at the symptom for each relation; better, find such pairs in the facts.", splitter(both_ways=lambda f: f.relation == "friend")),
        Wrong("friends and siblings by name", "what you named is right, and a new relation that goes both ways would leak. Look whether the turned fact is among the facts.", splitter(both_ways=lambda f: f.relation in ("friend", "sibling"))),
        Wrong("one half only", "you draw pairs, and then hold out only one fact of each. The other half tells it.", splitter(halves=True)),
        Wrong("twice too many", "you draw 30% of the number of facts, but in pairs: then 60% of the facts are held out.", splitter(take="groups")),
        Wrong("one pot for all", "you draw from all facts together. Then one relation has many held out and another few, and scores by relation mean little.", splitter(per_relation=False)),
        Wrong("whole relations", "a relation that is held out as a whole is never asked in training: then the exam tests whether the model understands a new kind of question, which is another exam.", splitter(whole=True)),
        Wrong("not by chance", "you take the first ones in the alphabet. `rng` should decide, so that another seed gives another exam.", splitter(own_order=True)),
        Wrong("the order of a set", "a set has no order of its own: it comes from the hashes, and they differ from process to process. Use dict.fromkeys or sort before you draw.", splitter(by_set=True))])

# ---- 3. a split without a list: held_out(text, percent) -> bool ----

def by_checksum(text, percent): return zlib.crc32(text.encode()) / 2**32 * 100 < percent

WORDS = "moon well goat harp bread lamp Arden Nora Ben snow tower rope Köln 東 keeps lives eats plays red blue".split()
def some_texts(n, seed=0):
    rng = Random(seed)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randrange(4, 30))) for _ in range(n)))

@functools.lru_cache
def corpus(): return some_texts(20_000)

@functools.lru_cache
def anagrams(n=2000):
    rng, words = Random(1), WORDS[:14]
    return list(dict.fromkeys(" ".join(rng.sample(words, len(words))) for _ in range(n)))

@in_child
def sides(answer, texts, percent, odd=False):
    "Which of many texts are held out; odd: where texts have other hashes"
    return [bool(answer(Odd(t) if odd else t, percent)) for t in texts]

def checksum_faults(answer):
    texts = corpus()
    share = lambda p, ts=texts: 100*sum(sides(answer, ts, p))/len(ts)
    if answer(texts[0], 10) is None: yield "nothing", "nothing came back: is there a `return`?"; return
    few = texts[:2000]
    first = sides(answer, few, 30)
    random.seed(5)
    again = sides(answer, few[::-1], 30)[::-1]
    if again != first: yield "memory", "asked again, in another order, the same text came to the other side. The answer may depend on the text and on nothing else."; return
    if sides(answer, few, 30, True) != first: yield "hash", "in a process with another PYTHONHASHSEED other texts would be held out: training in one process and testing in another would mix the two"
    if share(0, few) > 0: yield "zero", "with 0 percent nothing may be held out"
    if share(100, few) < 100: yield "hundred", "with 100 percent everything must be held out"
    for p, tolerance in ((10, 1), (30, 1.5)):
        if abs((s := share(p)) - p) > tolerance: yield f"share {p}" + (" turned" if abs(s-100+p) < tolerance else ""), f"of 20,000 texts {s:.1f}% are held out where {p}% were asked for"
    if abs((s := share(.5)) - .5) > .2: yield "fine", f"of 20,000 texts {s:.2f}% are held out where 0.5% were asked for: a percentage need not be a whole number"
    if abs((s := share(30, anagrams())) - 30) > 6: yield "anagrams", f"of 2,000 texts of the same words in other orders {s:.0f}% are held out where 30% were asked for: near relatives should not stay together"
    small = [t for t, a, b in zip(few, sides(answer, few, 20), first) if a and not b]
    if small: yield "sides", f"{len(small)} of 2,000 texts are held out at 20%, and not at 30%: who enlarges the test split would train on what was tested before"

checksum = Exercise("3. A split without a list", 3, first_fault(checksum_faults), by_checksum, probes=[()], behave=fault_names(checksum_faults),
    wrong=[
        Wrong("the built-in hash", "`hash` of a text starts from a random number in every process, so that nobody can flood a dictionary on purpose. Use a checksum that is the same everywhere.", lambda text, percent: hash(text) % 10_000 < percent*100),
        Wrong("the toss of a coin", "each call throws dice anew: the same text lands here and there.", lambda text, percent: random.random()*100 < percent),
        Wrong("the length decides", "texts of one length all land on one side: the split is no fair sample.", lambda text, percent: len(text) % 100 < percent),
        Wrong("the sum of the bytes", "a sum does not see the order: all texts of the same letters land on one side.", lambda text, percent: sum(text.encode())*7919 % 10_007 / 100.07 < percent),
        Wrong("whole percents only", "the rest of a division by 100 knows only whole percents: half a percent becomes one. Divide by a larger number, or compare the fraction of the checksum's range.", lambda text, percent: zlib.crc32(text.encode()) % 100 < percent),
        Wrong("one byte is too few", "a byte has 256 values, and 256 is no multiple of 100: small rests come up more often. Use the whole checksum.", lambda text, percent: hashlib.sha256(text.encode()).digest()[0] % 100 < percent),
        Wrong("every k-th", "taking every k-th checksum works for 50, 20 or 10 percent only, and a larger share is another set: texts change sides.", lambda text, percent: percent > 0 and zlib.crc32(text.encode()) % int(100/percent) == 0),
        Wrong("the other way round", "you hold out what should be kept for training.", lambda text, percent: zlib.crc32(text.encode()) / 2**32 * 100 >= percent)])

# ---- 4. a new kind of document: lesson(w, rng) -> str ----

def some(rng, xs, k): return rng.sample(xs, min(k, len(xs)))

def teacher(may_ask=lambda w, f: f not in w.test_facts, told_only=True, tells=lambda w, f: True, answers=1, before=lambda w, rng, facts: "", dice=lambda rng: rng, people=None):
    "The answer, with switches for its mistakes"
    def lesson(w, rng):
        rng = dice(rng)
        name = rng.choice([p.name for p in w.people][:people])
        facts = w.facts_of(name, list(PERSON))
        ask = some(rng, [f for f in facts if may_ask(w, f)], 2)
        rest = [f for f in facts if f not in ask and tells(w, f)]
        told = (ask if told_only else []) + some(rng, rest, 4)
        rng.shuffle(told)
        lines = [w.tell(rng, told) + before(w, rng, told)]
        for f, g in zip(ask, ask[::answers]): lines += [f"Question: {w.ask(rng, f)}", f"Answer: {w.short(g)}."]
        return "\n".join(lines)
    return lesson

def forbidden_end(w, rng, facts):
    f = facts[0]
    return " " + HELD_OUT_WORDINGS[f.relation][0].format_map(w.slots(f)).capitalize() + f" {f.value}."

@functools.lru_cache
def tables(seed):
    "All questions about people, with their facts; the exam's wordings as patterns"
    w = world(seed)
    questions = {q.format_map(w.slots(f)): f for r in PERSON for f in w.by_relation[r] for q in RELATIONS[r]["ask"]}
    exam = [(max(re.split(r"\{\w+\}", x), key=len), re.compile(r"\b" + re.sub(r"\\\{\w+\\\}", r"[\\w ]+", re.escape(x)), re.I)) for xs in HELD_OUT_WORDINGS.values() for x in xs]
    return questions, exam               # a wording of the exam: its longest fixed part, which is quick to look for, and the whole as a pattern

def words(text): return f" {re.sub(r'[^A-Za-z]+', ' ', text)} "

def mentions(text, value): return words(value).lower() in words(text).lower()

@in_child
def lessons_of(answer, seed, n, dice=None):
    "The first n lessons; dice: the state of the `random` that an answer must not use"
    texts = []
    for i in range(n):
        if dice is not None: random.seed(dice)
        texts.append(answer(world(seed), Random(f"lesson {i}")))
    return texts

def lesson_faults(answer, seeds=(0, 3), n=400):
    for seed in seeds:
        w, (questions, exam), faults = world(seed), tables(seed), {}
        lessons, subjects, told = [], set(), set()
        for i, text in enumerate(lessons_of(answer, seed, n)):
            if text is None: yield "nothing", "nothing came back: is there a `return`?"; return
            lessons.append(text)
            m = re.fullmatch(r"(.+)\nQuestion: (.+)\nAnswer: (.+)\nQuestion: (.+)\nAnswer: (.+)", text.strip(), re.S)
            if not m or "Question:" in m[1] or any("\n" in x for x in m.groups()[1:]): yield "form", f"this is no paragraph with two questions, each on a line `Question: ...`, and two answers, each on a line `Answer: ...`:\n{text[:300]}"; return
            paragraph, asked = m[1], [(m[2], m[3]), (m[4], m[5])]
            for q, a in asked:
                f = questions.get(q)
                if f is None: yield "unknown", f"{q!r} is not a question about a person from the table: use `w.ask`"; return
                if f in w.test_facts: faults.setdefault("asked", f"World({seed}), lesson {i}: {q!r} asks for a fact that is held out. The exam would be spoiled.")
                if not mentions(a, f.value) or any(words(v) in words(a) for v in w.values[f.relation] if v not in (f.value, f.subject)):
                    faults.setdefault("answer", f"World({seed}), lesson {i}: {q!r} is answered with {a!r}, and right is {f.value!r}")
                if not (mentions(paragraph, f.value) and mentions(paragraph, f.subject)): faults.setdefault("untold", f"World({seed}), lesson {i}: {q!r} asks for {f.value!r}, which the paragraph does not tell:\n{paragraph[:300]}")
            people = {questions[q].subject for q, _ in asked}
            if len(people) > 1 or asked[0][0] == asked[1][0] or questions[asked[0][0]] == questions[asked[1][0]]: faults.setdefault("two", f"World({seed}), lesson {i}: ask two different things about one person")
            here = [f for f in w.facts_of(min(people), list(PERSON)) if mentions(paragraph, f.value)]
            if len(here) < 4: faults.setdefault("short", f"World({seed}), lesson {i}: the paragraph tells {len(here)} facts about {min(people)}; tell four at least")
            if text.count("?") != 2: faults.setdefault("marks", f"World({seed}), lesson {i}: a third question stands in the text; only the two that are answered may")
            subjects |= people; told |= set(here)
        everything = "\n".join(lessons)
        for literal, x in exam:
            if literal in everything and (m := x.search(everything)): faults.setdefault("wording", f"World({seed}): {m[0]!r} is one of the exam's own wordings (`core`). No document may contain them."); break
        if lessons_of(answer, seed, 20, 1) != lessons_of(answer, seed, 20, 2): faults["dice"] = f"World({seed}): the same `rng` gave two different lessons. Take all chance from `rng`."
        if len(set(lessons)) < .9*n or len(subjects) < 50: faults["same"] = f"World({seed}): {n} lessons have {len(set(lessons))} different texts about {len(subjects)} people; write about all 60 of them"
        held = [f for f in w.test_facts if f.relation in PERSON]
        if len(subjects) >= 50 and sum(f in told for f in held) < .6*len(held):
            faults["hidden"] = f"World({seed}): only {sum(f in told for f in held)} of {len(held)} held-out facts about people are told in {n} lessons. Held out means never *asked*. If they are never *told*, nobody could know them."
        yield from faults.items()

lesson = Exercise("4. A new kind of document", 4, first_fault(lesson_faults), teacher(), probes=[((0,), 250)], behave=fault_names(lesson_faults),
    wrong=[
        Wrong("asks anything", "your questions are drawn from all that was told. Some of it is held out: look into w.test_facts before you ask.", teacher(may_ask=lambda w, f: True)),
        Wrong("asks what was not told", "what you ask may be asked, and does not stand in the paragraph. Draw the questions from what is told, or add them to it.", teacher(told_only=False)),
        Wrong("hides the exam", "you tell only facts that may be asked. Then this kind of document teaches nothing about the others, and a model could not know them. Tell everything, ask what is open.", teacher(tells=lambda w, f: f not in w.test_facts)),
        Wrong("answers crossed", "the first answer belongs to the second question.", teacher(answers=-1)),
        Wrong("speaks like the exam", "the paragraph uses a wording of `core`. World-CORE would then measure who remembers that sentence.", teacher(before=forbidden_end)),
        Wrong("a dice of its own", "chance comes from somewhere else than `rng`. Then the stream of documents is another one in every process, and nothing can be repeated.", teacher(dice=lambda rng: Random(random.random()))),
        Wrong("few people", "you write about the same few people again and again.", teacher(people=5))])

EXERCISES = dict(count=count, leak=leak, checksum=checksum, lesson=lesson)
