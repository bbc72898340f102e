"Checks and known wrong answers for the exercises of chapter 01"
import random
from collections import Counter
import regex
from nanochat.bpe import SPLIT_PATTERN, count_pairs, encode_chunk, merge, split_text, train_bpe
from grade import Exercise, Wrong, in_child
from graders.common import as_early_as_can_be, call, many, something, telling, whole, written

def random_ids(rng, kinds=3, most=14): return [rng.randrange(1, kinds+1) for _ in range(rng.randrange(most))]

# ---- 1. overlapping pairs: count_apart(ids) -> Counter ----

def count_apart(ids):
    out, last = Counter(), {}
    for i,p in enumerate(zip(ids, ids[1:])):
        if last.get(p) != i-1:          # its left half is not taken by the same pair
            out[p] += 1
            last[p] = i
    return out

def overlap_check(answer):
    rng = random.Random(1)
    cases = [[1]*4, [1]*3, [1]*7, [1, 2, 1, 2], [1, 1, 2, 1, 1], [], [5], [0, 0, 1, 0], [0, 0, 0],
             [1, 11, 1, 1], [300, 300, 300], [256, 7, 256, 7], [2, 1, 1, 2]]
    for ids in sorted(cases+[random_ids(rng, rng.randrange(1, 4)) for _ in range(300)]+
                      [[rng.choice([0, 1, 10, 11, 256]) for _ in range(rng.randrange(12))]
                       for _ in range(50)], key=len):
        given, say = list(ids), written("count_apart", ids)
        got = call(say, answer, given)
        assert given == ids, f"{say}: the list was changed; count only"
        assert isinstance(got, dict), f"{say}: a Counter is asked for, not a {type(got).__name__}"
        for pair in sorted(set(zip(ids, ids[1:])))+[p for p in got if p not in set(zip(ids, ids[1:]))]:
            is_pair = isinstance(pair, tuple) and len(pair) == 2
            want, have = len(ids)-len(merge(ids, pair, 9999)) if is_pair else 0, got.get(pair, 0)
            assert have == want and whole(have), (
                f"{say}: merge glues {pair} {want} {'time' if want == 1 else 'times'}, your count says "
                f"{have!r}")

def through_text(ids):
    text = "".join(map(str, ids))
    return Counter({p: text.count(f"{p[0]}{p[1]}") for p in set(zip(ids, ids[1:]))})

def rounded_up(ids):
    out, runs = count_apart(ids), Counter()
    for i, a in enumerate(ids):
        if (i == 0 or ids[i-1] != a) and i+1 < len(ids) and ids[i+1] == a:
            n = next((j for j in range(i, len(ids)) if ids[j] != a), len(ids))-i
            runs[a, a] += (n+1)//2
    return Counter({p: runs.get(p, n) for p, n in out.items()})

def skip_two(ids): return Counter(zip(ids[::2], ids[1::2]))

def halve(ids):
    c = count_pairs(ids)
    return Counter({p: (n+1)//2 if p[0] == p[1] else n for p,n in c.items()})

def once_per_run(ids):
    pairs, out = list(zip(ids, ids[1:])), Counter()
    for i,p in enumerate(pairs):
        if i == 0 or pairs[i-1] != p:
            out[p] += 1
    return out

def any_neighbour(ids):
    out, i = Counter(), 0
    while i+1 < len(ids):
        out[ids[i], ids[i+1]] += 1
        i += 2 if ids[i] == ids[i+1] else 1
    return out

overlap = Exercise("1. Overlapping pairs", 2, overlap_check, count_apart,
    probes=[([1, 1, 1],), ([1, 1, 1, 1],), ([1, 1, 2, 1, 1],), ([1, 2, 1, 2],), ([2, 1, 2, 3, 3, 3, 3, 3],),
            ([1, 1, 2],), ([1, 11, 1, 1],), ([2, 1, 1, 2],), ([1, 2, 2, 3],)],
    behave=lambda f, ids: {p:n for p,n in f(ids).items() if n},
    wrong=[
        Wrong("windows overlap",
              "this counts every window of two. In `aaa` there are two windows, but merge glues once: the "
              "middle `a` can't be in two pieces.",
              count_pairs),
        Wrong("every second window",
              "you step by two each time. Only windows of the *same* pair exclude each other: in `abc` both "
              "`ab` and `bc` could be glued.",
              skip_two),
        Wrong("half of the windows",
              "halving the sum over the whole text rounds once for all runs together. Each run rounds by "
              "itself: think of `aa b aa`.",
              halve),
        Wrong("one per run",
              "a run such as `aaaa` is counted once. How many times does merge glue there?",
              once_per_run),
        Wrong("jumps over the next pair",
              "after a double such as `aa` you skip two places, and so lose the pair of its second `a` and "
              "what follows: `aab` holds `ab` too.",
              any_neighbour),
        Wrong("ids are taken for characters",
              "joined to a text, 1 and 11 are 111, and nobody can tell any more where one ends. Ids are "
              "numbers: compare pairs of numbers.",
              through_text),
        Wrong("rounded up",
              "in `aaa` merge glues once, and one `a` is left over: a run of n is n//2 pairs.",
              rounded_up),
        Wrong("doubles are not counted",
              "pairs of two equal ids are left out altogether. In `aa` merge glues once.",
              lambda ids: Counter(p for p in zip(ids, ids[1:]) if p[0] != p[1])),
        Wrong("the order within a pair",
              "`ab` and `ba` are two pairs.",
              lambda ids: sum((Counter({tuple(sorted(p)): n}) for p, n in count_apart(ids).items()),
                              Counter())),
        Wrong("every pair is there once",
              "a set holds each pair once. Count how many times.",
              lambda ids: Counter(set(zip(ids, ids[1:]))))])

# ---- 2. the left-to-right encoder: encode_word(chunk, ranks) -> ids ----

RANKS = train_bpe([(
    "the letters in the printer's case, and the other letters, then another hand on the handle; ababab "
    "aaaa aabaa banana bandana ")*3,
                   "theatre whether either neither gather together"], 340)

def glue(pick):
    "An encoder that glues, again and again, the place that `pick` chooses from [(rank, place, length)]"
    def encode_word(chunk, ranks):
        parts = [bytes([b]) for b in chunk]
        while places := [(ranks[a+b], i, len(a+b)) for i,
                         (a,b) in enumerate(zip(parts, parts[1:])) if a+b in ranks]:
            i = pick(places)[1]
            parts[i:i+2] = [parts[i]+parts[i+1]]
        return [ranks[p] for p in parts]
    return encode_word

def longest_match(chunk, ranks):
    out = []
    while chunk:
        n = max(n for n in range(1, len(chunk)+1) if chunk[:n] in ranks)
        out.append(ranks[chunk[:n]])
        chunk = chunk[n:]
    return out

def one_round(chunk, ranks):
    parts = [bytes([b]) for b in chunk]
    for r,i in sorted((ranks[a+b], i) for i,(a,b) in enumerate(zip(parts, parts[1:])) if a+b in ranks):
        if parts[i] and i+1 < len(parts) and parts[i+1] and parts[i]+parts[i+1] in ranks:
            parts[i], parts[i+1] = parts[i]+parts[i+1], b""
    return [ranks[p] for p in parts if p]

def other_numbers(ranks):
    "A vocabulary whose bytes have other ids than their values, and whose dict has another order"
    ids = list(range(256))
    random.Random(2).shuffle(ids)
    return dict(reversed([(t, ids[t[0]] if len(t) == 1 else r) for t, r in ranks.items()]))

OTHER = other_numbers(RANKS)

def hasty_check(answer):
    rng = random.Random(2)
    pieces = [t for t in RANKS if len(t) > 1]
    chunks = [b"", b"x", b"aaa", b"aaaaa", " Köln".encode(), "🙂".encode(), b"the"] + list(RANKS)
    chunks += [b"".join(rng.choices(pieces, k=rng.randrange(1, 5))) for _ in range(150)]
    chunks += [bytes(rng.choices(b"abnthe r", k=rng.randrange(12))) for _ in range(150)]
    for chunk in sorted(chunks, key=len):
        for ranks in (RANKS, OTHER):
            given, want, tokens = dict(ranks), encode_chunk(chunk, ranks), {r: t for t, r in ranks.items()}
            say = f"encode_word({chunk!r}, ranks)" + ("" if ranks is RANKS else (
                ", with ranks that are not in the order of the dict and bytes whose ids are not their "
                "values,"))
            got = call(say, answer, chunk, given)
            with telling(say):
                got = list(got)
            assert given == ranks, f"{say}: your code changes `ranks`"
            def shown_id(i):
                known = whole(i) and i in tokens
                return repr(tokens[i].decode("utf-8", "backslashreplace")) if known else f"<{i!r}?>"
            def show(ids): return " ".join(map(shown_id, ids))
            assert got == want and all(map(whole, got)), (
                f"{say} gives {show(got)} {got}, but replaying the merges gives {show(want)} {want}")

def fewest(chunk, ranks):
    best = [[]]
    for j in range(1, len(chunk)+1):
        best.append(min((best[i]+[ranks[chunk[i:j]]] for i in range(j) if chunk[i:j] in ranks), key=len))
    return best[-1]

def longest_from_the_end(chunk, ranks):
    out = []
    while chunk:
        n = max(n for n in range(1, len(chunk)+1) if chunk[-n:] in ranks)
        out.insert(0, ranks[chunk[-n:]])
        chunk = chunk[:-n]
    return out

def one_merge(chunk, ranks):
    parts = [bytes([b]) for b in chunk]
    if places := [(ranks[a+b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a+b in ranks]:
        i = min(places)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return [ranks[p] for p in parts]

def by_place(chunk, ranks): return encode_chunk(chunk, {t: k for k, t in enumerate(ranks)})

def token_bytes(chunk, ranks):
    tokens = {r: t for t, r in ranks.items()}
    return [tokens[i] for i in encode_chunk(chunk, ranks)]

def byte_values(chunk, ranks):
    tokens = {r: t for t, r in ranks.items()}
    return [tokens[i][0] if len(tokens[i]) == 1 else i for i in encode_chunk(chunk, ranks)]

hasty = Exercise("2. The left-to-right encoder", 3, hasty_check, encode_chunk,
    probes=[(w, RANKS) for w in (b" theatre", b"aaa", b"aaaaa", b"bananas", b" handle", b" together",
                                 b"ababa", b" another", b"whether", b" letterther", b"nthether", b"aabaaab",
                                 b" bandanaband", b"anandan", b"ananaab le", b" anather", b"andanaather",
                                 b" aaatheran")]+
           [(w, OTHER) for w in (b"xyz", b" theatre", b" another hand")],
    wrong=[
        Wrong("from left to right",
              "you glue the first pair that is in the vocabulary. Which pair was learned first does not "
              "depend on where it is: look at the ranks of *all* pairs before you glue one.",
              glue(lambda places: min(places, key=lambda p: p[1]))),
        Wrong("longest match",
              "you take the longest token that fits. Training never looked at lengths: it glued in the "
              "order of the ranks.",
              longest_match),
        Wrong("highest rank first",
              "you glue the pair that was learned *last*. Replay the merges in the order in which they were "
              "learned.",
              glue(lambda places: max(places, key=lambda p: (p[0], -p[1])))),
        Wrong("rightmost of equals",
              "of two places with the same rank you take the right one. Training went from left to right: "
              "`aaa` is `aa a`.",
              glue(lambda places: min(places, key=lambda p: (p[0], -p[1])))),
        Wrong("one round only",
              "you go through the pairs of the *bytes* once. A glued piece has new neighbours, and new "
              "pairs: look again after each merge.",
              one_round),
        Wrong("places in the dict for ranks",
              "you take the place of a token in the dict for its rank. The rank is the *value*: "
              "`ranks[token]`.",
              by_place),
        Wrong("bytes for ids",
              "a byte that stays alone has an id of its own, and that need not be its value: "
              "`ranks[bytes([b])]`.",
              byte_values),
        Wrong("the longest pair first",
              "you glue the pair with the most bytes. Training never looked at lengths: take the lowest "
              "rank.",
              glue(lambda places: max(places, key=lambda p: (p[2], -p[0], -p[1])))),
        Wrong("from right to left",
              "you glue the last pair that is in the vocabulary. Which pair was learned first does not "
              "depend on where it is.",
              glue(lambda places: max(places, key=lambda p: p[1]))),
        Wrong("the fewest tokens",
              "you look for the shortest row of tokens. Training did not: it glued in the order of the "
              "ranks, and that may take more.",
              fewest),
        Wrong("the longest from the end",
              "you take the longest token that fits, from the end. Training never looked at lengths.",
              longest_from_the_end),
        Wrong("bytes instead of ids",
              "these are the tokens. Asked for are their ids: `ranks[token]`.",
              token_bytes),
        Wrong("one merge only",
              "you glue once. Go on until no pair of neighbours is in the vocabulary.",
              one_merge)])

# ---- 3. only what changes: glue_and_update(ids, pair, new_id, counts) -> ids ----

class Watched(Counter):
    "Counts that count how often they are written"
    writes = 0
    def __setitem__(self, k, v):
        self.writes += 1
        super().__setitem__(k, v)
    def __delitem__(self, k):
        self.writes += 1
        super().__delitem__(k)
    def clear(self):
        self.writes += len(self)
        super().clear()
    def pop(self, *a):
        self.writes += 1
        return super().pop(*a)

def watched(ids, extra=()):
    counts = Watched()
    for p in [*zip(ids, ids[1:]), *extra]:
        counts[p] += 1
    counts.writes = 0
    return counts

def updater(left=True, right=True, take_off=True, left_from_old=False, own=True, constant=None, zero=False,
            first=False, early=False, copy=False):
    "The answer, with switches for its mistakes"
    def glue_and_update(ids, pair, new_id, counts):
        (a, b), out, i, new_id, done = pair, [], 0, constant or new_id, False
        if copy:
            counts = Counter(counts)
        while i < len(ids):
            if i+1 < len(ids) and (ids[i], ids[i+1]) == pair and not (first and done):
                done = True
                if own:
                    counts[a, b] -= 1
                if out and left:
                    x = ids[i-1] if left_from_old else out[-1]
                    if take_off:
                        counts[x, a] -= 1
                    counts[x, new_id] += 1
                if i+2 < len(ids) and right:
                    y = ids[i+2]
                    if take_off:
                        counts[b, y] -= 1
                    if early and tuple(ids[i+2:i+4]) == pair:
                        y = new_id
                    counts[new_id, y] += 1
                out.append(new_id)
                i += 2
            else:
                out.append(ids[i])
                i += 1
        if zero:
            counts[pair] = 0
        return out
    return glue_and_update

def recount(ids, pair, new_id, counts):
    new = merge(ids, pair, new_id)
    for p in zip(ids, ids[1:]):
        counts[p] -= 1
    for p in zip(new, new[1:]):
        counts[p] += 1
    return new

def start_again(ids, pair, new_id, counts):
    new = merge(ids, pair, new_id)
    counts.clear()
    counts.update(zip(new, new[1:]))
    return new

def from_the_right(ids, pair, new_id, counts):
    turned, (a, b) = Counter(), pair
    out = updater()(ids[::-1], (b, a), new_id, turned)[::-1]
    for (x, y), n in turned.items():
        if n:
            counts[y, x] += n
    return out

OTHERS = [(7, 8), (1, 2)]           # pairs of other words, which are in the counts too

@in_child
def updated(answer, ids, pair, new_id, extra=()):
    "The new word, the counts afterwards, how often they were written, and what became of the list of ids"
    counts, given = watched(ids, extra), list(ids)
    new = answer(given, pair, new_id, counts)
    return new, dict(counts), counts.writes, given

def changes_behave(answer, ids, pair, new_id):
    new, counts, writes, _ = updated(answer, ids, pair, new_id, OTHERS)
    places = len(ids)-len(merge(ids, pair, 99))
    return list(new), {p: c for p, c in counts.items() if c}, writes <= 5*places

def changes_check(answer):
    rng = random.Random(3)
    cases = [([1, 2, 3, 1, 2], (1, 2)), ([1, 2, 1, 2], (1, 2)), ([1]*3, (1, 1)), ([1]*6, (1, 1)),
             ([3, 1, 2, 1, 2, 4], (1, 2)), ([], (1, 2)), ([2, 1], (1, 2)), ([1, 2], (1, 2))]
    cases += [(random_ids(rng), (rng.randrange(1, 4), rng.randrange(1, 4))) for _ in range(400)]
    for k, (ids, pair) in enumerate(sorted(cases, key=lambda c: len(c[0]))):
        new_id = (99, 256, 4)[k % 3]
        say = f"glue_and_update({ids}, {pair}, {new_id}, counts)"
        new, counts, writes, given = updated(answer, ids, pair, new_id, OTHERS)
        with telling(say):
            new = list(something(say, new))
        want, places = merge(ids, pair, new_id), len(ids)-len(merge(ids, pair, 99))
        assert new == want, f"{say}: the word should be {want}, not {new}"
        assert given == ids, (
            f"{say}: your code changes `ids`; `merge` gives a new list and leaves the old one alone")
        truth, have = count_pairs(want)+Counter(OTHERS), {p: c for p, c in counts.items() if c}
        off = sorted({p for p in set(truth)|set(have) if truth.get(p, 0) != have.get(p, 0)}, key=str)
        off = off[0] if off else None
        assert off is None, (
            f"{say}, where counts also holds one {OTHERS[0]} and one {OTHERS[1]} of other words: "
            f"the count of {off} should be {truth.get(off, 0)} afterwards, not {have.get(off, 0)}")
        glued = many(places, "place")+(" was" if places == 1 else " were")
        assert writes <= 5*places, (
            f"{say}: {glued} glued, and counts were written {writes} times: "
            "at most five writes a place are allowed")
    ids = [rng.randrange(3, 60) for _ in range(4000)]
    ids[1000:1002] = ids[2000:2002] = ids[3000:3002] = [1, 2]
    _, _, writes, _ = updated(answer, ids, (1, 2), 99)
    assert writes <= 15, (
        f"three places in a word of 4,000 were glued, and counts were written {writes:,} times: "
        "at most five writes a place are needed")

changes = Exercise("3. Only what changes", 4, changes_check, updater(),
    probes=[(ids, pair, n) for ids,
            pair in (([1, 2, 1, 2], (1, 2)), ([3, 1, 2, 4], (1, 2)), ([1]*5, (1, 1)),
                     ([5, 6, 1, 2, 5, 6, 7, 5, 6, 7], (1, 2)), ([1, 2, 3], (1, 2)), ([3, 1, 2], (1, 2)),
                     ([1, 2, 1, 2, 1, 2], (1, 2))) for n in (99, 256)],
    behave=changes_behave,
    wrong=[
        Wrong("recounts the word",
              "the counts are right, but every pair of the word was taken off and put back. Only the pairs "
              "that touch a glued place change.",
              recount),
        Wrong("forgets the right neighbour",
              "you correct the pair to the left of each place, and not the one to its right.",
              updater(right=False)),
        Wrong("forgets the left neighbour",
              "you correct the pair to the right of each place, and not the one to its left.",
              updater(left=False)),
        Wrong("nothing is taken off",
              "the new pairs are counted, but the old neighbours `(x, a)` and `(b, y)` are gone from the "
              "word and still in the counts.",
              updater(take_off=False)),
        Wrong("the left neighbour is out of date",
              "in `abab` the left neighbour of the second `ab` is no longer `b`: you have just glued it. "
              "Look into the new list, not into the old one.",
              updater(left_from_old=True)),
        Wrong("the pair itself stays",
              "the glued pair `(a, b)` is still counted although it is gone.",
              updater(own=False)),
        Wrong("the new id is a constant",
              "`new_id` says which id the glued pair gets; 99 is the one of the example.",
              updater(constant=99)),
        Wrong("the pair is set to zero",
              "the glued pair is gone from *this* word. Other words may hold it: take off as many as you "
              "have glued.",
              updater(zero=True)),
        Wrong("the first place only",
              "the pair may be in the word many times. Glue every one of them.",
              updater(first=True)),
        Wrong("the right neighbour is ahead of its time",
              "in `abab` the right neighbour of the first `ab` is still an `a`: the second `ab` is not yet "
              "glued. Count (new, a), and the next place takes it off again.",
              updater(early=True)),
        Wrong("other words are forgotten",
              "you empty the counts and count this word alone. They hold the pairs of other words as well.",
              start_again),
        Wrong("the counts stay as they were",
              "the word is right, and `counts` is what it was: change the Counter that was given to you, "
              "not a copy of it.",
              updater(copy=True)),
        Wrong("glues from the right",
              "`merge` goes from left to right: of `aaa` it glues the first two.",
              from_the_right)])

# ---- 4. a streaming decoder: stream(tokens) yields str ----

def stream(tokens):
    import codecs
    waiting = codecs.getincrementaldecoder("utf-8")("replace")
    for t in tokens:
        yield waiting.decode(t)
    yield waiting.decode(b"", final=True)

def each_alone(tokens):
    for t in tokens:
        yield t.decode("utf-8", "replace")

def wait_for_end(tokens): yield b"".join(tokens).decode("utf-8", "replace")

def drop_halves(tokens):
    for t in tokens:
        yield t.decode("utf-8", "ignore")

def wait_for_valid(tokens):
    held = b""
    for t in tokens:
        held += t
        try:
            text, held = held.decode("utf-8"), b""
        except UnicodeDecodeError:
            text = ""
        yield text
    yield held.decode("utf-8", "replace")

def no_flush(tokens):
    import codecs
    waiting = codecs.getincrementaldecoder("utf-8")("replace")
    for t in tokens:
        yield waiting.decode(t)

def whole_prefix(tokens):
    "Shows what is whole at the front of what is held; one bad byte blocks all that follows"
    held = b""
    for t in tokens:
        held += t
        for end in range(len(held), -1, -1):
            try:
                text = held[:end].decode("utf-8")
            except UnicodeDecodeError:
                continue
            break
        held = held[end:]
        yield text
    yield held.decode("utf-8", "replace")

def incremental(encoding="utf-8", errors="replace", late=0, empty=True, silent=False):
    "Python's decoder, with switches for mistakes"
    def stream(tokens):
        import codecs
        decoder, waiting = codecs.getincrementaldecoder(encoding)(errors), []
        for t in tokens:
            if not t and not empty:
                continue
            waiting.append(decoder.decode(t))
            text = waiting.pop(0) if len(waiting) > late else ""
            if text or not silent:
                yield text
        yield "".join(waiting)+decoder.decode(b"", True)
    return stream

def by_lead_byte(tokens):
    held, size = b"", lambda b: 1 if b < 0x80 else 2 if b < 0xe0 else 3 if b < 0xf0 else 4
    for t in tokens:
        held, text = held+t, ""
        while held and len(held) >= (n := size(held[0])):
            try:
                text, held = text+held[:n].decode(), held[n:]
            except UnicodeDecodeError:
                text, held = text+"\ufffd", held[1:]
        yield text
    yield held.decode("utf-8", "replace")

def until_end_is_valid(tokens):
    held = b""
    for t in tokens:
        held += t
        text = held.decode("utf-8", "replace")
        if text.endswith("\ufffd"):
            yield ""
        else:
            held = b""
            yield text
    yield held.decode("utf-8", "replace")

def everything_each_time(tokens):
    held = b""
    for t in tokens:
        held += t
        yield held.decode("utf-8", "ignore")

def one_mark_a_byte(tokens):
    held = b""
    for t in tokens:
        held, text = held+t, ""
        while held:
            try:
                text, held = text+held.decode(), b""
            except UnicodeDecodeError as e:
                text, held = text+held[:e.start].decode(), held[e.start:]
                wait = e.reason == "unexpected end of data"
                if wait:
                    break
                text, held = text+"\ufffd", held[1:]
        yield text
    yield "\ufffd"*len(held)

@in_child
def shown(answer, tokens):
    "The text on the screen after each token, and at the end"
    taken = 0
    def feed():
        nonlocal taken
        for t in tokens:
            taken += 1
            yield t
    screen, after = "", {}
    pieces = answer(feed())
    assert pieces is not None, "nothing came back: is there a `yield`?"
    assert hasattr(pieces, "__iter__"), f"yield texts; a {type(pieces).__name__} came back"
    for piece in pieces:
        assert isinstance(piece, str), f"yield texts, which are strings; a {type(piece).__name__} came"
        screen += piece
        after[taken] = screen        # what is shown when so many tokens have been taken
    return [after.get(k) for k in range(1, len(tokens))], screen

def stream_check(answer):
    rng = random.Random(4)
    texts = ["Köln 🙂!", "naïve", "你好, 世界", "👩‍👩‍👧 and 🇩🇪", "plain", "", "\ufeffa", "a\r\nb", "a\ufffdb",
             " a "]
    cases = [[bytes([b]) for b in t.encode()] for t in texts] + [[b"a\xff", b"b", b"c"],
        [b"\xf0\x9f", b"x", b"\x99"], [b"\xc3"], [b"\xe4\xbd"], [b"\x80", b"ok"],
        [b"\xf0", b"\x9f\x99", b"\x82\xf0\x9f", b"\x99\x82"]]
    cases += [[b"a", b"", b"b"], [b"a\r\n", b"b\rc"], [b"", b"\xc3", b"", b"\xa9"], [b"\xe2", b"a", b"b"],
              [b"\xe0", b"\x80", b"a"], [b"\xf0", b"\x80", b"b"], [b"\xf4", b"\x90"], [b"\xc0", b"a"],
              [b"\xf5", b"a"], [b"\xf0", b"\x9f"], [b"x\xf0\x9f\x99"]]
    for _ in range(300):
        data, tokens = "".join(rng.choices(["é", "a", " ", "🙂", "你", "ß"],
                                           k=rng.randrange(1, 9))).encode(), []
        if rng.random() < .3:
            begin, byte, end = rng.randrange(len(data)), rng.randrange(128, 256), rng.randrange(len(data))
            data = data[:begin]+bytes([byte])+data[end:]
        while data:
            n = rng.randrange(1, 5)
            tokens.append(data[:n])
            data = data[n:]
        cases.append(tokens)
    for tokens in sorted(cases, key=len):
        steps, end = shown(answer, tokens)
        right_steps, right_end = shown(stream, tokens)
        sooner, _ = shown(as_early_as_can_be, tokens)
        assert end == right_end, f"stream({tokens}): the whole text should be {right_end!r}, not {end!r}"
        for k,(got,want) in enumerate(zip(steps, right_steps)):
            nothing = "nothing (yield once per token, an empty string if need be)"
            assert got in (want, sooner[k]), (
                f"stream({tokens}): after {k+1} of them {want!r} should be shown, not "
                f"{nothing if got is None else repr(got)}")

streaming = Exercise("4. A streaming decoder", 3, stream_check, stream,
    probes=[([bytes([b]) for b in "aé🙂".encode()],), ([b"a\xff", b"b", b"c", b"d"],), ([b"ok", b"\xc3"],),
            ([b"x\xc3", b"\xa9y\xe4", b"\xbd\xa0"],), ([b"a", b"b", b"c"],),
            ([bytes([b]) for b in "\ufeffab".encode()],), ([b"a", b"", b"b", b"c"],),
            ([b"\xe2", b"a", b"b"],), ([b"\xf0\x80", b"a", b"b", b"c", b"d"],),
            ([b"a", "\ufffd".encode(), b"b"],), ([b"x\xf0\x9f"],)],
    behave=shown,
    wrong=[
        Wrong("each token alone",
              "a token that ends inside a character is decoded by itself, and both halves become �. Keep "
              "the unfinished bytes for the next token.",
              each_alone),
        Wrong("waits for the end",
              "the text is right, but nothing is shown before the last token. The reader looks at an empty "
              "screen.",
              wait_for_end),
        Wrong("drops half characters",
              "unfinished bytes are ignored, and so the characters that they begin are lost.",
              drop_halves),
        Wrong("waits until everything is valid",
              "you hold all bytes back until the whole of them decodes. `x` and half an `é` can show the "
              "`x` at once; and after one bad byte nothing would ever be shown.",
              wait_for_valid),
        Wrong("a bad byte blocks the rest",
              "unfinished and impossible are different things: a byte such as 0xff begins no character and "
              "will never be whole. Show � for it and go on.",
              whole_prefix),
        Wrong("forgets the last bytes",
              "when the tokens end inside a character, what is still held must be shown, as �.",
              no_flush),
        Wrong("drops half characters",
              "bytes that belong to no character are ignored. They must be shown as �: all pieces together "
              "are `decode(..., errors=\"replace\")`.",
              incremental(errors="ignore")),
        Wrong("a byte order mark is swallowed",
              "`utf-8-sig` drops the character U+FEFF at the beginning. It belongs to the text like any "
              "other.",
              incremental(encoding="utf-8-sig")),
        Wrong("one token late",
              "each text is shown with the *next* token. The reader always waits for one more than is "
              "needed.",
              incremental(late=1)),
        Wrong("an empty token is no token",
              "a token may have no bytes. Yield once for it all the same, an empty text.",
              incremental(empty=False)),
        Wrong("only texts that are not empty",
              "yield once for each token, an empty string where nothing has become whole: whoever counts "
              "tokens needs it.",
              incremental(silent=True)),
        Wrong("a lead byte always waits",
              "you count how many bytes the first one promises, and wait for them even when one comes that "
              "can't belong to the character: 0xe2 and then an `a` is no character, and both can be shown "
              "at once.",
              by_lead_byte),
        Wrong("waits while the end is �",
              "a � at the end has two meanings: a character that is not finished, and one that never will "
              "be. The second must be shown at once. Ask the bytes and not the decoded text.",
              until_end_is_valid),
        Wrong("the whole text each time",
              "you yield all of the text after each token. Yield only what has become whole with *this* one.",
              everything_each_time),
        Wrong("too many � at the end",
              "`decode` shows one � for an unfinished character, not one for each of its bytes.",
              one_mark_a_byte)])

# ---- 5. a pattern for your language: my_language() -> (pattern, text) ----

FRAGMENTS = ["don't stop", " l'eau", "12345 67", "a  b\n\n c", "रोटी और पानी", "e\u0301te\u0301",
             "well-known...", "\t\tx\r\n", "價錢", "🙂🙂", "«так»", "\u00a0—", "_x1", "a\x00b", "x\u200by",
             "\ue000", "\u2028z", "\u0301a \u0301", "\U000e0001", "½ Ⅳ", "\ud7ff", "_ __", "\n", "\r",
             "end\n"]
FRAGMENTS += [f"word{s}next{s}{s}12{s}3{s}" for s in "\t\n\r\x0b\x0c\x85\u1680\u2003\u202f\u3000"]

def bytes_per_token(pattern, text):
    "Trained and measured on the same small text: how well this pattern lets it be packed"
    ranks = train_bpe([text], 256+200, pattern)
    return len(text.encode()) / sum(len(encode_chunk(w.encode(), ranks)) for w in split_text(text, pattern))

def language_check(answer):
    got = call("my_language()", answer)
    assert isinstance(got, tuple) and len(got) == 2 and all(isinstance(x, str) for x in got), (
        "give back two strings: (pattern, text)")
    pattern, text = got
    try:
        regex.compile(pattern)
    except regex.error as e:
        raise AssertionError(f"the pattern does not compile: {e}") from None
    assert len(text) >= 400, (
        f"your text has {len(text)} characters; give at least 400, so that the measure means something")
    assert len(set(text.split())) >= 30 or len(set(text)) >= 80, (
        "your text repeats itself; give one with more different words")
    for t in [*sorted(FRAGMENTS, key=len), " ".join(FRAGMENTS), text]:
        with telling(f"split_text({t[:60]!r}, pattern)"):
            words = split_text(t, pattern)
        assert "".join(words) == t, (
            f"text is lost: {t[:60]!r} becomes {words[:8]}. End with alternatives that take all that is "
            "left.")
        assert all(words), (
            f"an empty piece: {t[:60]!r} becomes {words[:8]}. An alternative matches nothing at all; write "
            "+ in place of *.")
        for w in words:
            assert not regex.search(r"[\p{L}\p{M}\p{N}]\s", w), (
                f"a piece goes on after its word has ended: {w[:60]!r}")
            assert not regex.search(r"\p{N}{4}", w), f"more than three digits in one piece: {w[:60]!r}"
    assert split_text(text, pattern) != split_text(text), (
        "on your text the pattern cuts just as the default one: nothing to compare")
    mine, default = bytes_per_token(pattern, text), bytes_per_token(SPLIT_PATTERN, text)
    assert mine > default, (
        f"{mine:.3f} bytes per token, the default pattern reaches {default:.3f} on the same text")

HINDI = ("एक छापने वाली हर अक्षर को उसके अपने खाने में रखती थी। जो अक्षर बहुत काम आते थे, उनके खाने बड़े थे। "
         "शाम को वह और उसकी बेटी पास-पास खड़े अक्षरों के जोड़े गिनती थीं। "
         "सुबह वे सबसे आम जोड़े को एक साथ ढालती थीं और उसे एक नया खाना देती थीं। फिर वे दोबारा गिनती थीं, "
         "क्योंकि अब सबसे आम जोड़ा कोई दूसरा था। कुछ दिनों में पूरे शब्द एक ही टुकड़े में मिलने लगे। "
         "बेटी ने कहा, हर नया खाना मेज़ को लंबा करता है, और हमें उस तक चलकर जाना पड़ता है। माँ हँसी और "
         "बोली, इसलिए हम वहीं रुकेंगे जहाँ चलना गिनने से ज़्यादा थकाता है।")
MARKS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]+|\p{N}{1,2}| "
    r"?[^\s\p{L}\p{M}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")

language = Exercise("5. A pattern for your language", 3, language_check, lambda: (MARKS, HINDI),
    probes=[(t,) for t in [*FRAGMENTS, HINDI[:80], "The cat's hat, 1984.", "so  it goes\n\non"]],
    behave=lambda f, text: split_text(text, f()[0]),
    wrong=[
        Wrong("no cuts at all",
              "one piece for everything packs the most bytes into a token, and brings back the pieces of "
              "section 4 that run over the ends of words.",
              lambda: (r"[\s\S]+", HINDI)),
        Wrong("text is lost",
              "what no alternative matches disappears without a word. End with alternatives that take "
              "everything that is left: marks, blanks, newlines.",
              lambda: (r"[\p{L}\p{M}]+|\p{N}{1,3}", HINDI)),
        Wrong("the default once more",
              "this cuts exactly as SPLIT_PATTERN. What does it do badly in your language? Draw the pieces "
              "of one sentence.",
              lambda: (SPLIT_PATTERN, HINDI)),
        Wrong("numbers of any length",
              "`\\p{N}+` makes a token of every common number. Limit the digits.",
              lambda: (MARKS.replace(r"\p{N}{1,2}", r"\p{N}+"), HINDI)),
        Wrong("every character alone",
              "nothing is lost, and nothing can be glued: pieces can't grow past a cut.",
              lambda: (r"[\s\S]", HINDI)),
        Wrong("blank, word, blank",
              "the blanks before *and* after a word are in its piece, so the same word has several pieces.",
              lambda: (MARKS.replace(r"[\p{L}\p{M}]+|", r"[\p{L}\p{M}]+ ?|"), HINDI))])

EXERCISES = dict(overlap=overlap, hasty=hasty, changes=changes, streaming=streaming, language=language)
