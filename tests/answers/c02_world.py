"Answers to the exercises of chapter 02"
import functools
import hashlib
import math
import random
import zlib
from collections import defaultdict
from random import Random

from nanochat.world import Fact, World
from answers import Answers

answers = Answers()

# ---- 1. how many questions ----

def sizes(w, relation):
    "How many wrong answers there are, for each fact"
    return [len(w.distractors(Random(0), f, 10_000)) for f in w.by_relation[relation]]

def forms(relation): return len(World(0).relations[relation]["ask"])

@answers.right("count")
def orders_of_four(w, relation):
    return sum(forms(relation)*math.comb(m, 3)*24 for m in sizes(w, relation))

@answers.right("count")
def three_factors(w, relation):
    total = 0
    for m in sizes(w, relation):
        total += forms(relation)*4*m*(m-1)*(m-2)
    return total

@answers.wrong("count")
def as_a_float(w, relation): return float(orders_of_four(w, relation))

@answers.wrong("count", named="the first fact speaks for all")
def first_fact_for_all(w, relation):
    return forms(relation)*4*math.perm(sizes(w, relation)[0], 3)*len(w.by_relation[relation])

@answers.wrong("count")
def of_world_zero(w, relation): return orders_of_four(World(0), relation)

@answers.wrong("count")
def orders_of_the_wrong_ones_only(w, relation):
    return sum(forms(relation)*math.comb(m, 3)*4 for m in sizes(w, relation)) * 4

@answers.wrong("count", named="four are drawn")
def four_drawn(w, relation): return sum(forms(relation)*math.perm(m, 4) for m in sizes(w, relation))

@answers.wrong("count", named="the right one is drawn as well")
def right_one_drawn_too(w, relation):
    return sum(forms(relation)*math.perm(m+1, 4) for m in sizes(w, relation))

@answers.wrong("count", named="statements instead of questions")
def ways_of_saying(w, relation):
    return sum(len(w.relations[relation]["say"])*4*math.perm(m, 3) for m in sizes(w, relation))

@answers.wrong("count")
def one_fact(w, relation): return forms(relation)*4*math.perm(sizes(w, relation)[0], 3)

@answers.wrong("count")
def a_draw(w, relation):
    rng, facts, seen = Random(0), w.by_relation[relation], set()
    for i in range(2_000):
        q = w.question(rng, facts[i % len(facts)])
        seen.add((q["question"], *q["choices"]))
    return len(seen)

@answers.wrong("count")
def forgets_north(w, relation):
    if relation in ("north", "east"):
        m = len(w.places)-2
        return forms(relation)*4*math.perm(m, 3)*len(w.by_relation[relation])
    return orders_of_four(w, relation)

@answers.wrong("count")
def places_without_orders(w, relation): return sum(forms(relation)*4*m*3 for m in sizes(w, relation))

@answers.wrong("count")
def open_facts_only(w, relation):
    facts = [f for f in w.by_relation[relation] if f not in w.test_facts]
    return sum(forms(relation)*4*math.perm(len(w.distractors(Random(0), f, 10_000)), 3) for f in facts)

# ---- 2. a score too good ----

def groups_of(facts):
    there = set(facts)
    return list(dict.fromkeys(tuple(sorted({f, turn(f)} & there)) for f in facts))

def turn(f): return Fact(f.value, f.relation, f.subject)

def relations_of(facts): return dict.fromkeys(f.relation for f in facts)

def draw(mine, groups, share):
    "Groups from the front, until the share is reached"
    held = set()
    for g in groups:
        if len(held) >= round(share*len(mine)):
            break
        held |= set(g)
    return held

@answers.right("leak")
def by_sorting(facts, rng, share=0.3):
    held = set()
    for r in relations_of(facts):
        mine = [f for f in facts if f.relation == r]
        groups = sorted(groups_of(mine))
        held |= draw(mine, rng.sample(groups, len(groups)), share)
    return held

@answers.right("leak")
def by_frozenset_keys(facts, rng, share=0.3):
    held = set()
    for r in sorted(relations_of(facts)):
        mine = [f for f in facts if f.relation == r]
        rest = list(mine)
        while rest and sum(f in held for f in mine) < int(share*len(mine)):
            f = rest[rng.randrange(len(rest))]
            pair = {f, turn(f)}
            held |= pair & set(mine)
            rest = [g for g in rest if g not in pair]
    return held

@answers.right("leak")
def a_frozen_set(facts, rng, share=0.3): return frozenset(by_sorting(facts, rng, share))

def hold_each(facts, rng, share, order=None, partners=False, remove=False, relations=None):
    held = set()
    for r in (relations or relations_of)(facts):
        mine = [f for f in facts if f.relation == r]
        one = set(rng.sample(mine, round(share*len(mine))))
        if partners:
            one |= {turn(f) for f in one} & set(mine)
        if remove:
            one -= {f for f in one if turn(f) in set(mine)-one}
        held |= one
    return held

@answers.wrong("leak", named="twice too many")
def adds_partners_afterwards(facts, rng, share=0.3): return hold_each(facts, rng, share, partners=True)

@answers.wrong("leak", named="pairs are given back")
def removes_what_leaks(facts, rng, share=0.3): return hold_each(facts, rng, share, remove=True)

@answers.wrong("leak", named="the order of a set")
def relations_in_a_set(facts, rng, share=0.3):
    held = set()
    for r in {f.relation for f in facts}:
        mine = [f for f in facts if f.relation == r]
        groups = groups_of(mine)
        rng.shuffle(groups)
        held |= draw(mine, groups, share)
    return held

@answers.wrong("leak", named="rng does not decide")
def its_own_generator(facts, rng, share=0.3): return by_sorting(facts, Random(0), share)

@answers.wrong("leak", named="random numbers of its own")
def the_global_generator(facts, rng, share=0.3): return by_sorting(facts, random, share)

@answers.wrong("leak", named="share is not looked at")
def always_three_tenths(facts, rng, share=0.3): return by_sorting(facts, rng)

@answers.wrong("leak", named="the share is left to chance")
def tosses_for_each_pair(facts, rng, share=0.3):
    return {f for g in groups_of(facts) if rng.random() < share for f in g}

@answers.wrong("leak", named="relation by relation")
def relations_that_are_symmetric(facts, rng, share=0.3):
    held = set()
    for r in relations_of(facts):
        mine = [f for f in facts if f.relation == r]
        both = all(turn(f) in set(mine) for f in mine)
        groups = groups_of(mine) if both else [(f,) for f in mine]
        rng.shuffle(groups)
        held |= draw(mine, groups, share)
    return held

@answers.wrong("leak", named="relation by relation")
def relations_named_in_the_task(facts, rng, share=0.3):
    held = set()
    for r in relations_of(facts):
        mine = [f for f in facts if f.relation == r]
        groups = groups_of(mine) if r in ("friend", "sibling", "likes") else [(f,) for f in mine]
        rng.shuffle(groups)
        held |= draw(mine, groups, share)
    return held

@answers.wrong("leak")
def reseeds_everybody(facts, rng, share=0.3):
    random.seed(rng.random())
    return by_sorting(facts, random, share)

@answers.wrong("leak")
def shuffles_the_facts(facts, rng, share=0.3):
    rng.shuffle(facts)
    return by_sorting(facts, rng, share)

@answers.wrong("leak")
def the_open_ones(facts, rng, share=0.3): return set(facts)-by_sorting(facts, rng, share)

@answers.wrong("leak")
def as_a_list(facts, rng, share=0.3): return sorted(by_sorting(facts, rng, share))

@answers.wrong("leak")
def the_groups(facts, rng, share=0.3): return {tuple(g) for g in groups_of(facts)[::3]}

@answers.wrong("leak")
def by_hash(facts, rng, share=0.3):
    return {f for g in groups_of(facts) if hash(g) % 100 < 100*share for f in g}

@answers.wrong("leak")
def every_third(facts, rng, share=0.3): return {f for g in groups_of(facts)[::3] for f in g}

# ---- 3. a split without a list ----

def spot(data): return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")/2**64*100

@answers.right("checksum")
def by_sha(text, percent): return spot(text.encode()) < percent

@answers.right("checksum")
def by_md5(text, percent): return int(hashlib.md5(text.encode()).hexdigest(), 16) % 10**9 < percent*10**7

@answers.right("checksum")
def by_seeded_generator(text, percent): return Random(text).random()*100 < percent

@answers.right("checksum")
def by_blake_without_case(text, percent):
    digest = hashlib.blake2b(text.lower().encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")/2**48 < percent/100

@answers.right("checksum")
def ten_thousandths(text, percent): return zlib.crc32(text.encode()) % 10**6 < percent*10**4

def crc(data): return zlib.crc32(data)/2**32*100

@answers.wrong("checksum", named="the percentage is hashed too")
def percent_in_the_text(text, percent): return crc(f"{text}|{percent}".encode()) < percent

@answers.wrong("checksum", named="the percentage is hashed too")
def percent_as_a_seed(text, percent): return zlib.crc32(text.encode(), int(percent*7))/2**32*100 < percent

@answers.wrong("checksum", named="zero is not nothing")
def at_most_percent(text, percent): return crc(text.encode()) <= percent

@answers.wrong("checksum", named="the text is not looked at")
def ignores_the_text(text, percent): return percent >= 50

@answers.wrong("checksum")
def by_adler(text, percent): return zlib.adler32(text.encode())/2**32*100 < percent

@answers.wrong("checksum", named="a byte over 255")
def one_byte_over_255(text, percent): return hashlib.md5(text.encode()).digest()[0]/255*100 < percent

@answers.wrong("checksum", named="a byte over 256")
def one_byte_over_256(text, percent): return hashlib.md5(text.encode()).digest()[0]/256*100 < percent

@answers.wrong("checksum", named="only the beginning is looked at")
def first_sixty_characters(text, percent): return crc(text[:60].encode()) < percent

@answers.wrong("checksum", named="only the end is looked at")
def last_sixty_characters(text, percent): return crc(text[-60:].encode()) < percent

@answers.wrong("checksum", named="the order is not looked at")
def sorted_words(text, percent): return crc(" ".join(sorted(text.split())).encode()) < percent

@answers.wrong("checksum", named="letters are thrown away")
def ascii_only(text, percent): return crc(text.encode("ascii", "ignore")) < percent

@answers.wrong("checksum")
def ascii_or_error(text, percent): return crc(text.encode("ascii")) < percent

@answers.wrong("checksum", named="a tenth of a percent at the finest")
def thousandths(text, percent): return zlib.crc32(text.encode()) % 1000 < percent*10

@answers.wrong("checksum")
def whole_percent(text, percent): return crc(text.encode()) < int(percent)

@answers.wrong("checksum", named="a fraction for a percentage")
def a_fraction(text, percent): return zlib.crc32(text.encode())/2**32 < percent

@answers.wrong("checksum")
def hash_of_the_bytes(text, percent): return hash(text.encode()) % 10**6 < percent*10**4

@answers.wrong("checksum")
def hash_of_the_words(text, percent): return hash(tuple(text.split())) % 10**6 < percent*10**4

@answers.wrong("checksum", named="the random numbers of the whole program")
def seeds_the_module(text, percent):
    random.seed(text)
    return random.uniform(0, 100) < percent

SEEN = {}

@answers.wrong("checksum")
def remembers_its_number(text, percent): return SEEN.setdefault(text, random.random())*100 < percent

@answers.wrong("checksum")
def counts_calls(text, percent, calls=defaultdict(int)):
    calls[percent] += 1
    return calls[percent] % 100 < percent

@answers.wrong("checksum")
def other_half_of_the_line(text, percent): return 50-percent/2 < crc(text.encode()) < 50+percent/4

@answers.wrong("checksum")
def two_windows(text, percent): return (crc(text.encode())+percent*3) % 100 < percent

@answers.wrong("checksum")
def fails_on_empty(text, percent): return crc(text.encode()[0:1]+text[0].encode()+text.encode()) < percent

# ---- 4. a new kind of document ----

def lines(paragraph, pairs):
    return "\n".join([paragraph]+[f"Question: {q}\nAnswer: {a}." for q, a in pairs])

def parts(w, rng, told=6):
    name = rng.choice([p.name for p in w.people])
    facts = w.facts_of(name, list(w.tables.person))
    ask = rng.sample([f for f in facts if f not in w.test_facts], 2)
    rest = [f for f in facts if f not in ask]
    tell = ask+rng.sample(rest, min(told-2, len(rest)))
    rng.shuffle(tell)
    return tell, ask

@functools.cache
def world_zero(): return World(0)

@answers.right("lesson")
def tells_everything(w, rng):
    tell, ask = parts(w, rng, 99)
    return lines(w.tell(rng, tell), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.right("lesson")
def sentence_by_sentence(w, rng):
    tell, ask = parts(w, rng)
    paragraph = " ".join(w.say(rng, f) for f in tell)
    return lines(paragraph, [(w.ask(rng, f), w.reply(rng, f).rstrip(".")) for f in ask])+"\n"

@answers.wrong("lesson")
def one_question(w, rng):
    tell, ask = parts(w, rng)
    return lines(w.tell(rng, tell), [(w.ask(rng, f), w.short(f)) for f in ask[:1]])

@answers.wrong("lesson", named="the same question twice")
def twice_the_same(w, rng):
    tell, ask = parts(w, rng)
    return lines(w.tell(rng, tell), [(w.ask(rng, ask[0]), w.short(ask[0])) for _ in ask])

@answers.wrong("lesson", named="too little is told")
def tells_three(w, rng):
    tell, ask = parts(w, rng, 3)
    return lines(w.tell(rng, tell), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.wrong("lesson")
def two_people(w, rng):
    (tell, ask), (tell2, ask2) = parts(w, rng), parts(w, rng)
    both = [ask[0], ask2[0]]
    return lines(w.tell(rng, tell)+" "+w.tell(rng, tell2), [(w.ask(rng, f), w.short(f)) for f in both])

@answers.wrong("lesson", named="answers crossed")
def answers_with_the_name(w, rng):
    tell, ask = parts(w, rng)
    return lines(w.tell(rng, tell), [(w.ask(rng, f), f.subject) for f in ask])

@answers.wrong("lesson")
def questions_before(w, rng):
    tell, ask = parts(w, rng)
    return "\n".join([f"Question: {w.ask(rng, f)}\nAnswer: {w.short(f)}." for f in ask]+[w.tell(rng, tell)])

@answers.wrong("lesson")
def as_pairs(w, rng):
    tell, ask = parts(w, rng)
    return [w.tell(rng, tell), *((w.ask(rng, f), w.short(f)) for f in ask)]

@answers.wrong("lesson")
def first_person_only(w, rng):
    facts = w.facts_of(w.people[0].name, list(w.tables.person))
    ask = rng.sample([f for f in facts if f not in w.test_facts], 2)
    return lines(w.tell(rng, facts), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.wrong("lesson", named="the order of a set")
def open_ones_from_a_set(w, rng):
    name = rng.choice([p.name for p in w.people])
    facts = w.facts_of(name, list(w.tables.person))
    ask = rng.sample(list(set(facts)-set(w.test_facts)), 2)
    tell = list(dict.fromkeys(ask+facts))
    return lines(w.tell(rng, tell), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.wrong("lesson")
def of_world_zero_only(w, rng): return tells_everything(world_zero(), rng)

@answers.wrong("lesson")
def strikes_off_the_exam(w, rng):
    tell, ask = parts(w, rng)
    w.test_facts = set(list(w.test_facts)[:-1])
    return lines(w.tell(rng, tell), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.wrong("lesson")
def reseeds_everybody_for_a_lesson(w, rng):
    random.seed(rng.random())
    return tells_everything(w, rng)

TURN = iter(range(10**9))

@answers.wrong("lesson", named="random numbers of its own")
def one_after_the_other(w, rng):
    facts = w.facts_of(w.people[next(TURN) % len(w.people)].name, list(w.tables.person))
    ask = rng.sample([f for f in facts if f not in w.test_facts], 2)
    return lines(w.tell(rng, facts), [(w.ask(rng, f), w.short(f)) for f in ask])

@answers.wrong("lesson")
def third_question_in_the_text(w, rng):
    tell, ask = parts(w, rng)
    return lines(w.tell(rng, tell)+" Who is it?", [(w.ask(rng, f), w.short(f)) for f in ask])
