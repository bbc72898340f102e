"Answers to the exercises of chapter 01"
import codecs
import heapq
import re
from collections import Counter

from nanochat.bpe import SPLIT_PATTERN, count_pairs, merge
from answers import Answers

answers = Answers()

# ---- 1. overlapping pairs ----

@answers.right("overlap")
def by_merging(ids):
    return Counter({p: len(ids)-len(merge(ids, p, -1)) for p in set(zip(ids, ids[1:]))})

@answers.right("overlap")
def by_runs(ids):
    out, i = Counter(), 0
    while i < len(ids):
        j = i
        while j < len(ids) and ids[j] == ids[i]:
            j += 1
        if j-i >= 2:
            out[ids[i], ids[i]] += (j-i)//2
        if j < len(ids):
            out[ids[j-1], ids[j]] += 1
        i = j
    return dict(out)

@answers.wrong("overlap", named="ids are taken for characters")
def through_a_string(ids):
    text = "".join(map(str, ids))
    return Counter({p: text.count(f"{p[0]}{p[1]}") for p in set(zip(ids, ids[1:]))})

@answers.wrong("overlap")
def through_bytes(ids):
    data = bytes(ids)
    return Counter({p: data.count(bytes(p)) for p in set(zip(ids, ids[1:]))})

@answers.wrong("overlap", named="rounded up")
def rounded_up(ids):
    out = Counter()
    for m in re.finditer(r"(\d+,)\1*", "".join(f"{i}," for i in ids)):
        n = m[0].count(",")
        if n > 1:
            a = int(m[0].split(",")[0])
            out[a, a] += -(-n//2)
    return out+Counter({p: n for p, n in count_pairs(ids).items() if p[0] != p[1]})

@answers.wrong("overlap", named="every second window")
def every_place_once(ids):
    out, taken = Counter(), set()
    for i, p in enumerate(zip(ids, ids[1:])):
        if not {i, i+1} & taken:
            out[p] += 1
            taken |= {i, i+1}
    return out

@answers.wrong("overlap", named="doubles are not counted")
def without_doubles(ids): return Counter(p for p in zip(ids, ids[1:]) if p[0] != p[1])

@answers.wrong("overlap", named="the order within a pair")
def sorted_pairs(ids):
    out = Counter()
    for p, n in by_runs(ids).items():
        out[min(p), max(p)] += n
    return out

@answers.wrong("overlap")
def pairs_of_the_end(ids):
    out, last = Counter(), {}
    for i, p in enumerate(zip(ids, ids[1:])):
        if last.get(p, 0) != i-1:
            out[p] += 1
            last[p] = i
    return out

@answers.wrong("overlap", named="one per run")
def not_after_the_same(ids):
    out, pairs = Counter(), list(zip(ids, ids[1:]))
    for i, p in enumerate(pairs):
        if i and pairs[i-1] == p:
            continue
        out[p] += 1
    return out

@answers.wrong("overlap", named="every pair is there once")
def as_a_set(ids): return Counter(set(zip(ids, ids[1:])))

@answers.wrong("overlap")
def takes_ids_out(ids):
    out = by_merging(ids)
    ids.clear()
    return out

@answers.wrong("overlap")
def list_of_counts(ids): return list(by_merging(ids).items())

@answers.wrong("overlap")
def zero_is_nothing(ids): return Counter({p: n for p, n in by_merging(ids).items() if all(p)})

@answers.wrong("overlap")
def floats(ids): return {p: n/1 for p, n in by_merging(ids).items()}

@answers.wrong("overlap")
def without_the_last(ids): return by_merging(ids[:-1])

# ---- 2. the left-to-right encoder ----

@answers.right("hasty")
def all_of_one_rank(chunk, ranks):
    parts = [bytes([b]) for b in chunk]
    while True:
        pairs = {a+b: (a, b) for a, b in zip(parts, parts[1:]) if a+b in ranks}
        if not pairs:
            return [ranks[p] for p in parts]
        best = min(pairs, key=ranks.get)
        out, i = [], 0
        while i < len(parts):
            two = parts[i]+parts[i+1] if i+1 < len(parts) else b""
            out.append(best if two == best else parts[i])
            i += 2 if two == best else 1
        parts = out

@answers.right("hasty")
def with_a_heap(chunk, ranks):
    parts = [chunk[i:i+1] for i in range(len(chunk))]
    after, before = list(range(1, len(parts)+1)), list(range(-1, len(parts)-1))
    heap = [(ranks[a+b], i, a+b) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a+b in ranks]
    heapq.heapify(heap)
    while heap:
        _, i, glued = heapq.heappop(heap)
        j = after[i]
        if parts[i] is None or j >= len(parts) or parts[i]+parts[j] != glued:
            continue
        parts[i], parts[j], after[i] = glued, None, after[j]
        if after[i] < len(parts):
            before[after[i]] = i
        for a, b in ((before[i], i), (i, after[i])):
            if a >= 0 and b < len(parts) and parts[a]+parts[b] in ranks:
                heapq.heappush(heap, (ranks[parts[a]+parts[b]], a, parts[a]+parts[b]))
    return tuple(ranks[p] for p in parts if p is not None)

def glue(chunk, ranks, pick=lambda places: min(places), rank=None, single=None):
    parts = [bytes([b]) for b in chunk]
    rank = rank or ranks
    while True:
        pairs = enumerate(zip(parts, parts[1:]))
        places = [(rank[a+b], i, len(a+b)) for i, (a, b) in pairs if a+b in ranks]
        if not places:
            break
        i = pick(places)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return [single[p] if single and len(p) == 1 else rank[p] for p in parts]

@answers.wrong("hasty", named="places in the dict for ranks")
def order_of_the_dict(chunk, ranks): return glue(chunk, ranks, rank={t: k for k, t in enumerate(ranks)})

@answers.wrong("hasty", named="bytes for ids")
def bytes_are_their_own_ids(chunk, ranks):
    return glue(chunk, ranks, single={bytes([b]): b for b in range(256)})

KEPT = {}

@answers.wrong("hasty")
def remembers_chunks(chunk, ranks): return KEPT.setdefault(chunk, glue(chunk, ranks))

@answers.wrong("hasty", named="the longest pair first")
def longest_pair(chunk, ranks):
    return glue(chunk, ranks, pick=lambda places: max(places, key=lambda p: (p[2], -p[0], -p[1])))

@answers.wrong("hasty", named="from right to left")
def right_to_left(chunk, ranks):
    return glue(chunk, ranks, pick=lambda places: max(places, key=lambda p: p[1]))

@answers.wrong("hasty", named="from left to right")
def whole_word_first(chunk, ranks):
    return [ranks[chunk]] if chunk in ranks else glue(chunk, ranks, pick=lambda p: min(p, key=lambda q: q[1]))

@answers.wrong("hasty", named="the fewest tokens")
def fewest_tokens(chunk, ranks):
    best = [[]]
    for j in range(1, len(chunk)+1):
        best.append(min((best[i]+[ranks[chunk[i:j]]] for i in range(j) if chunk[i:j] in ranks), key=len))
    return best[-1]

@answers.wrong("hasty", named="bytes instead of ids")
def tokens_not_ids(chunk, ranks):
    tokens = {r: t for t, r in ranks.items()}
    return [tokens[i] for i in glue(chunk, ranks)]

@answers.wrong("hasty")
def as_text(chunk, ranks): return glue(chunk.decode().encode("ascii"), ranks)

@answers.wrong("hasty", named="the longest from the end")
def longest_from_the_end(chunk, ranks):
    out = []
    while chunk:
        n = max(n for n in range(1, len(chunk)+1) if chunk[-n:] in ranks)
        out.insert(0, ranks[chunk[-n:]])
        chunk = chunk[:-n]
    return out

@answers.wrong("hasty")
def takes_ranks_out(chunk, ranks):
    out = glue(chunk, ranks)
    for t in [t for t in ranks if len(t) > 20]:
        del ranks[t]
    ranks.popitem()
    return out

@answers.wrong("hasty")
def fails_on_nothing(chunk, ranks): return glue(chunk, ranks) if chunk[0] < 256 else []

@answers.wrong("hasty", named="one merge only")
def one_merge(chunk, ranks):
    parts = [bytes([b]) for b in chunk]
    places = [(ranks[a+b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a+b in ranks]
    if places:
        i = min(places)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return [ranks[p] for p in parts]

@answers.wrong("hasty")
def generator(chunk, ranks): return sum(glue(chunk, ranks))

@answers.wrong("hasty")
def float_ids(chunk, ranks): return [r/1 for r in glue(chunk, ranks)]


# ---- 3. only what changes ----

@answers.right("changes")
def by_windows(ids, pair, new_id, counts):
    out, i = [], 0
    change = Counter()
    while i < len(ids):
        if tuple(ids[i:i+2]) != tuple(pair):
            out.append(ids[i])
            i += 1
            continue
        change[pair] -= 1
        if out:
            change[out[-1], pair[0]] -= 1
            change[out[-1], new_id] += 1
        if i+2 < len(ids):
            change[pair[1], ids[i+2]] -= 1
            change[new_id, ids[i+2]] += 1
        out.append(new_id)
        i += 2
    for p, n in change.items():
        if n:
            counts[p] += n
    return out

@answers.right("changes")
def by_difference(ids, pair, new_id, counts):
    new = merge(ids, pair, new_id)
    before, after = Counter(zip(ids, ids[1:])), Counter(zip(new, new[1:]))
    for p in set(before) | set(after):
        if before[p] != after[p]:
            counts[p] += after[p]-before[p]
    return new

def update(ids, pair, new_id, counts, new=None, clear=False, delete=False, mutate=False, first=False,
           right_from_new=False):
    out, i, done = [], 0, False
    while i < len(ids):
        if i+1 < len(ids) and (ids[i], ids[i+1]) == pair and not (first and done):
            counts[pair] -= 1
            done = True
            if out:
                counts[out[-1], pair[0]] -= 1
                counts[out[-1], new or new_id] += 1
            if i+2 < len(ids):
                y = ids[i+2]
                counts[pair[1], y] -= 1
                if right_from_new and (ids[i+2:i+4] == list(pair)):
                    y = new_id
                counts[new or new_id, y] += 1
            out.append(new or new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    if clear:
        counts[pair] = 0
    if delete:
        for p in [p for p in counts if counts[p] <= 1]:
            del counts[p]
    if mutate:
        ids[:] = out
    return out

@answers.wrong("changes", named="the new id is a constant")
def new_id_is_99(ids, pair, new_id, counts): return update(ids, pair, new_id, counts, new=99)

@answers.wrong("changes")
def new_id_is_the_next(ids, pair, new_id, counts):
    return update(ids, pair, new_id, counts, new=max(ids, default=0)+1)

@answers.wrong("changes", named="the pair is set to zero")
def pair_set_to_zero(ids, pair, new_id, counts): return update(ids, pair, new_id, counts, clear=True)

@answers.wrong("changes")
def deletes_what_is_rare(ids, pair, new_id, counts): return update(ids, pair, new_id, counts, delete=True)

@answers.wrong("changes")
def changes_the_word(ids, pair, new_id, counts): return update(ids, pair, new_id, counts, mutate=True)

@answers.wrong("changes", named="the first place only")
def first_place_only(ids, pair, new_id, counts): return update(ids, pair, new_id, counts, first=True)

@answers.wrong("changes", named="the right neighbour is ahead of its time")
def right_neighbour_glued_early(ids, pair, new_id, counts):
    return update(ids, pair, new_id, counts, right_from_new=True)

@answers.wrong("changes", named="recounts the word")
def counted_anew(ids, pair, new_id, counts):
    new = merge(ids, pair, new_id)
    counts.subtract(Counter(zip(ids, ids[1:])))
    counts.update(Counter(zip(new, new[1:])))
    return new

@answers.wrong("changes", named="other words are forgotten")
def other_words_forgotten(ids, pair, new_id, counts):
    new = merge(ids, pair, new_id)
    counts.clear()
    counts.update(zip(new, new[1:]))
    return new

@answers.wrong("changes", named="the counts stay as they were")
def counts_stay(ids, pair, new_id, counts): return merge(ids, pair, new_id)

@answers.wrong("changes", named="the counts stay as they were")
def a_new_counter(ids, pair, new_id, counts):
    counts = Counter(counts)
    return update(ids, pair, new_id, counts)

@answers.wrong("changes")
def both_given_back(ids, pair, new_id, counts): return update(ids, pair, new_id, counts), counts

@answers.wrong("changes")
def short_words_are_recounted(ids, pair, new_id, counts):
    return counted_anew(ids, pair, new_id, counts) if len(ids) < 100 else update(ids, pair, new_id, counts)

@answers.wrong("changes", named="glues from the right")
def from_the_right(ids, pair, new_id, counts):
    turned = Counter()
    out = update(ids[::-1], pair[::-1], new_id, turned)[::-1]
    for (a, b), n in turned.items():
        if n:
            counts[b, a] += n
    return out

# ---- 4. a streaming decoder ----

@answers.right("streaming")
def one_line(tokens):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield from map(decoder.decode, tokens)
    if rest := decoder.decode(b"", True):
        yield rest

@answers.right("streaming")
def by_errors(tokens):
    held = b""
    for t in tokens:
        held, text = held+t, ""
        while held:
            try:
                text, held = text+held.decode(), b""
            except UnicodeDecodeError as e:
                text, held = text+held[:e.start].decode(), held[e.start:]
                if e.reason == "unexpected end of data":
                    break
                text, held = text+"\ufffd", held[e.end-e.start:]
        yield text
    yield held.decode("utf-8", "replace")

def decoded(tokens, encoding="utf-8", errors="replace", late=0):
    decoder, waiting = codecs.getincrementaldecoder(encoding)(errors), []
    for t in tokens:
        waiting.append(decoder.decode(t))
        yield waiting.pop(0) if len(waiting) > late else ""
    yield "".join(waiting)+decoder.decode(b"", True)

@answers.wrong("streaming", named="a byte order mark is swallowed")
def without_the_mark(tokens): yield from decoded(tokens, "utf-8-sig")

@answers.wrong("streaming", named="one token late")
def one_token_late(tokens): yield from decoded(tokens, late=1)

@answers.wrong("streaming")
def all_tokens_first(tokens): yield from decoded(list(tokens))

@answers.wrong("streaming", named="drops half characters")
def ignores(tokens): yield from decoded(tokens, errors="ignore")

@answers.wrong("streaming")
def strict(tokens): yield from decoded(tokens, errors="strict")

@answers.wrong("streaming")
def newlines(tokens):
    for text in decoded(tokens):
        yield text.replace("\r\n", "\n")

@answers.wrong("streaming", named="an empty token is no token")
def skips_empty_tokens(tokens):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for t in tokens:
        if t:
            yield decoder.decode(t)
    yield decoder.decode(b"", True)

@answers.wrong("streaming")
def stops_at_an_empty_token(tokens):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for t in tokens:
        if not t:
            break
        yield decoder.decode(t)
    yield decoder.decode(b"", True)

@answers.wrong("streaming", named="only texts that are not empty")
def nothing_for_nothing(tokens):
    for text in decoded(tokens):
        if text:
            yield text

@answers.wrong("streaming", named="a lead byte always waits")
def by_lead_byte(tokens):
    held = b""
    for t in tokens:
        held, text = held+t, ""
        while held:
            n = 1 if held[0] < 0x80 else 2 if held[0] < 0xe0 else 3 if held[0] < 0xf0 else 4
            if len(held) < n:
                break
            try:
                text, held = text+held[:n].decode(), held[n:]
            except UnicodeDecodeError:
                text, held = text+"\ufffd", held[1:]
        yield text
    yield held.decode("utf-8", "replace")

@answers.wrong("streaming", named="waits while the end is �")
def waits_while_the_end_is_bad(tokens):
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

@answers.wrong("streaming", named="the whole text each time")
def everything_each_time(tokens):
    held = b""
    for t in tokens:
        held += t
        yield held.decode("utf-8", "ignore")

@answers.wrong("streaming")
def letters_one_by_one_at_the_end(tokens): yield from b"".join(tokens).decode("utf-8", "replace")

@answers.wrong("streaming")
def bytes_not_text(tokens): yield from tokens

@answers.wrong("streaming", named="too many � at the end")
def one_mark_for_each_byte(tokens):
    held = b""
    for t in tokens:
        held, text = held+t, ""
        while held:
            try:
                text, held = text+held.decode(), b""
            except UnicodeDecodeError as e:
                text, held = text+held[:e.start].decode(), held[e.start:]
                if e.reason == "unexpected end of data":
                    break
                text, held = text+"\ufffd", held[1:]
        yield text
    yield "\ufffd"*len(held)

# ---- 5. a pattern for your language ----

ENGLISH = (
    "It's eight o'clock, and the printer's daughter hasn't come. The well-known baker of the north-east, "
    "who'd sell his day-old bread at four o'clock, didn't know where she'd gone; the printer's friend, a "
    "well-to-do inn-keeper, hadn't seen her either. \"She'll be at the letter-box,\" said the baker's "
    "mother-in-law. \"It's her birthday, isn't it?\" They'd forgotten. So the printer's neighbours went from "
    "door to door, and by nine o'clock there was a cake, half-baked, with twenty-one candles in it. The "
    "daughter's face, when she'd come home at ten o'clock, wasn't sad any more.")
WORDS = r"[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]+(?:['’-][\p{L}\p{M}]+)*"
REST = r"|\p{N}{1,2}| ?[^\s\p{L}\p{M}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

@answers.right("language")
def apostrophes_and_hyphens(): return WORDS+REST, ENGLISH

@answers.right("language")
def three_digits(): return WORDS+REST.replace("{1,2}", "{1,3}"), ENGLISH

def pattern(label, regex, text=ENGLISH, named=None):
    answers.wrong("language", label, named)(lambda: (regex, text))

answers.right("language", "a group that captures")(lambda: (WORDS.replace("(?:", "(")+REST, ENGLISH))
pattern("signs without a class are lost",
        r"[\p{L}\p{M}]+(?:['’-][\p{L}\p{M}]+)*|\p{N}{1,3}|\p{P}+|\p{S}+|\s+")
pattern("control signs are lost", r" ?[\p{L}\p{M}'’-]+|\p{N}{1,3}| ?[\p{P}\p{S}]|\p{Cf}|\s+")
pattern("digits with what follows", WORDS+r"|\p{N}{1,2} ?"+REST)
pattern("words of one piece with the next", WORDS+r"(?: \p{L}+)?"+REST)
pattern("a tab after the word", WORDS+r"\t?"+REST)
pattern("a newline after the word", WORDS+r"\n?"+REST)
pattern("a narrow space after the word", WORDS+"\u202f?"+REST)
pattern("four digits", WORDS+REST.replace("{1,2}", "{1,4}"))
pattern("empty pieces", WORDS+REST.replace(r"\s+(?!\S)", r"\s*(?!\S)"))
pattern("does not compile", "("+WORDS+REST)
pattern("too short a text", WORDS+REST, ENGLISH[:300])
pattern("one sentence many times", WORDS+REST, "It's eight o'clock. "*40)
pattern("the default pattern", SPLIT_PATTERN)
pattern("worse than the default", r"[\p{L}\p{M}]|[\s\S]")
pattern("line ends are lost", WORDS+REST.replace(r"|\s*[\r\n]|\s+(?!\S)|\s+", "| +|\n"))
pattern("everything that is not a space", r"\S+|\s+")

@answers.wrong("language")
def a_list(): return [WORDS+REST, ENGLISH]

@answers.wrong("language")
def a_compiled_pattern(): return re.compile(r"\w+|\W"), ENGLISH

@answers.wrong("language")
def text_first(): return ENGLISH, WORDS+REST
