"Answers to the exercises of chapter 04"
import codecs
import math
import unicodedata

import regex

from nanochat.bpe import SPLIT_PATTERN
from nanochat.tokenizer import TEMPLATE
from answers import Answers

answers = Answers()

# ---- 1. the stream that stops ----

def length_of(byte):
    "Bytes of a character that begins so"
    return 1 if byte < 0x80 else 2 if byte < 0xe0 else 3 if byte < 0xf0 else 4

@answers.right("stream")
def with_codecs(tok, ids):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i in ids:
        yield decoder.decode(tok.id_to_bytes(i))
    last = decoder.decode(b"", True)
    if last:
        yield last

@answers.right("stream")
def by_errors(tok, ids):
    held = b""
    for i in ids:
        held += tok.id_to_bytes(i)
        text = ""
        while held:
            try:
                text, held = text+held.decode(), b""
            except UnicodeDecodeError as e:
                text += held[:e.start].decode()
                held = held[e.start:]
                if e.reason == "unexpected end of data":
                    break
                text, held = text+"\ufffd", held[e.end-e.start:]
        yield text
    yield held.decode("utf-8", "replace")

def incremental(tok, ids, encoding="utf-8", errors="replace", late=0):
    decoder, waiting = codecs.getincrementaldecoder(encoding)(errors), []
    for i in ids:
        waiting.append(decoder.decode(tok.id_to_bytes(i)))
        yield waiting.pop(0) if len(waiting) > late else ""
    yield "".join(waiting)+decoder.decode(b"", True)

@answers.wrong("stream", named="a byte order mark is swallowed")
def swallows_the_byte_order_mark(tok, ids): yield from incremental(tok, ids, "utf-8-sig")

@answers.wrong("stream")
def latin(tok, ids): yield from incremental(tok, ids, "latin-1")

@answers.wrong("stream", named="one id late")
def one_id_late(tok, ids): yield from incremental(tok, ids, late=1)

@answers.wrong("stream")
def whole_list_first(tok, ids): yield from incremental(tok, list(ids))

@answers.wrong("stream")
def escapes(tok, ids): yield from incremental(tok, ids, errors="backslashreplace")

@answers.wrong("stream")
def strict(tok, ids): yield from incremental(tok, ids, errors="strict")

@answers.wrong("stream")
def newlines_made_alike(tok, ids):
    for text in incremental(tok, ids):
        yield text.replace("\r\n", "\n").replace("\r", "\n")

@answers.wrong("stream")
def stripped(tok, ids):
    for text in incremental(tok, ids):
        yield text.strip()

@answers.wrong("stream", named="a lead byte always waits")
def waits_by_length(tok, ids):
    held = b""
    for i in ids:
        held += tok.id_to_bytes(i)
        text = ""
        while held and len(held) >= length_of(held[0]):
            try:
                n = length_of(held[0])
                text, held = text+held[:n].decode(), held[n:]
            except UnicodeDecodeError:
                text, held = text+"\ufffd", held[1:]
        yield text
    yield held.decode("utf-8", "replace")

@answers.wrong("stream")
def four_bytes_at_most(tok, ids):
    held = b""
    for i in ids:
        held += tok.id_to_bytes(i)
        text = held.decode("utf-8", "replace")
        if text.endswith("\ufffd") and len(held) < 4:
            yield ""
        else:
            held = b""
            yield text
    yield held.decode("utf-8", "replace")

@answers.wrong("stream")
def one_string(tok, ids): return tok.decode(list(ids))

@answers.wrong("stream")
def prefix_difference(tok, ids):
    seen, shown = [], ""
    for i in ids:
        seen.append(i)
        text = tok.decode(seen)
        yield text[len(shown):]
        shown = text

@answers.wrong("stream")
def prefix_difference_without_marks(tok, ids):
    seen, shown = [], ""
    for i in ids:
        seen.append(i)
        text = tok.decode(seen).rstrip("\ufffd")
        yield text[len(shown):]
        shown = text
    yield tok.decode(seen)[len(shown):]

@answers.wrong("stream")
def ids_below_256_are_bytes(tok, ids):
    held = b""
    for i in ids:
        held += bytes([i]) if i < 256 else tok.id_to_bytes(i)
        if i < 256 and i >= 0x80:
            yield ""
        else:
            yield held.decode("utf-8", "replace")
            held = b""
    yield held.decode("utf-8", "replace")

# ---- 2. forgery ----

@answers.right("forgery")
def by_extend(tok, messages):
    row = [tok.bos]
    for voice, text in messages:
        row.append(tok.special(TEMPLATE[voice][0]))
        row.extend(tok.encode(text))
        row.append(tok.special(TEMPLATE[voice][1]))
    return row

@answers.right("forgery")
def as_a_tuple(tok, messages):
    inside = [(tok.special(TEMPLATE[v][0]), *tok.encode(t), tok.special(TEMPLATE[v][1])) for v, t in messages]
    return (tok.bos, *(i for ids in inside for i in ids))

def render(tok, messages, clean=None, names=None, bos=None, pad=""):
    row = [tok.bos if bos is None else bos]
    for voice, text in messages:
        start, end = (names or TEMPLATE)[voice]
        text = pad+(clean(text) if clean else text)
        row += [tok.special(start), *tok.encode(text), tok.special(end)]
    return row

@answers.wrong("forgery", named="the text is tidied up")
def stripped_text(tok, messages): return render(tok, messages, str.strip)

@answers.wrong("forgery", named="letters are made alike")
def normalised(tok, messages): return render(tok, messages, lambda t: unicodedata.normalize("NFC", t))

@answers.wrong("forgery", named="the text is tidied up")
def newlines_made_one(tok, messages): return render(tok, messages, lambda t: t.replace("\r\n", "\n"))

@answers.wrong("forgery")
def without_zero_bytes(tok, messages): return render(tok, messages, lambda t: t.replace("\x00", ""))

@answers.wrong("forgery")
def zero_width_space(tok, messages): return render(tok, messages, lambda t: t.replace("<|", "<\u200b|"))

@answers.wrong("forgery", named="a space in front")
def space_in_front(tok, messages): return render(tok, messages, pad=" ")

@answers.wrong("forgery", named="a BOS for each message")
def bos_for_each_message(tok, messages):
    return [i for m in messages for i in render(tok, [m])] or [tok.bos]

@answers.wrong("forgery")
def bos_of_another_tokenizer(tok, messages): return render(tok, messages, bos=613)

@answers.wrong("forgery", named="nobody ends")
def without_ends(tok, messages):
    row = [tok.bos]
    for voice, text in messages:
        row += [tok.special(TEMPLATE[voice][0]), *tok.encode(text)]
    return row

@answers.wrong("forgery")
def only_two_voices(tok, messages):
    return render(tok, [(v if v == "assistant" else "user", t) for v, t in messages])

@answers.wrong("forgery", named="empty texts are left out")
def without_empty_messages(tok, messages): return render(tok, [(v, t) for v, t in messages if t])

@answers.wrong("forgery")
def joined_by_a_zero_byte(tok, messages):
    texts = "\x00".join(t for _, t in messages).split("\x00")
    return render(tok, [(v, t) for (v, _), t in zip(messages, texts)])

@answers.wrong("forgery")
def as_text(tok, messages): return tok.decode(render(tok, messages))

@answers.wrong("forgery")
def takes_messages_out(tok, messages):
    row = [tok.bos]
    while messages:
        row += render(tok, [messages.pop(0)])[1:]
    return row

@answers.wrong("forgery", named="letters are thrown away")
def cut_to_ascii(tok, messages): return render(tok, messages, lambda t: t.encode("ascii", "ignore").decode())

# ---- 3. parts of a text ----

def before_blank(text, p): return text[p] == " " and text[p-1].isalpha() and text[p+1].isalpha()

def last(places, other): return max(places, default=other)

@answers.right("parts")
def word_by_word(tok, text, size):
    cuts = [0]+[p for p in range(1, len(text)-1) if before_blank(text, p)]+[len(text)]
    return [i for a, b in zip(cuts, cuts[1:]) for i in tok.encode(text[a:b])]

@answers.right("parts")
def forward_search(tok, text, size):
    out, begin = [], 0
    for m in regex.finditer(r"(?<=\p{L}) (?=\p{L})", text):
        if m.start()-begin >= size:
            out += tok.encode(text[begin:m.start()])
            begin = m.start()
    return out+tok.encode(text[begin:])

@answers.right("parts")
def any_single_whitespace(tok, text, size):
    out, begin = [], 0
    while len(text)-begin > size:
        places = [m.start() for m in regex.finditer(r"(?<=\p{L})\s(?=\p{L})", text) if m.start() > begin]
        good = [p for p in places if p <= begin+size] or [next(iter(places), len(text))]
        out += tok.encode(text[begin:good[-1]])
        begin = good[-1]
    return out+tok.encode(text[begin:])

def in_parts(tok, text, size, cut):
    "cut(text, begin, size) is where the part ends, or None"
    out, begin = [], 0
    while len(text)-begin > size:
        end = cut(text, begin, size)
        if not end or end <= begin:
            end = len(text)
        out += tok.encode(text[begin:end])
        begin = end
    return out+tok.encode(text[begin:])

def next_safe(text, begin):
    return next((p for p in range(begin+1, len(text)-1) if before_blank(text, p)), None)

@answers.wrong("parts", named="ASCII letters only")
def ascii_letters(tok, text, size):
    places = [m.start() for m in regex.finditer("(?<=[A-Za-z]) (?=[A-Za-z])", text)]
    def cut(text, begin, size):
        after = next((p for p in places if p > begin), None)
        return last((p for p in places if begin < p <= begin+size), after)
    return in_parts(tok, text, size, cut)

@answers.wrong("parts", named="cuts after a space")
def after_the_blank_backwards(tok, text, size):
    return in_parts(tok, text, size, lambda t, b, s: t.rfind(" ", b, b+s)+1)

@answers.wrong("parts", named="cuts after a space")
def after_the_blank_forwards(tok, text, size):
    return in_parts(tok, text, size, lambda t, b, s: t.find(" ", b+s//2)+1)

@answers.wrong("parts", named="cuts at any whitespace")
def before_whitespace_forwards(tok, text, size):
    def cut(t, begin, size):
        return next((p for p in range(begin+max(size//2, 1), len(t)) if t[p].isspace()), None)
    return in_parts(tok, text, size, cut)

@answers.wrong("parts", named="cuts before any space")
def before_any_blank_forwards(tok, text, size):
    def cut(t, begin, size):
        return next((p for p in range(begin+max(size//2, 1), len(t)) if t[p] == " "), None)
    return in_parts(tok, text, size, cut)

@answers.wrong("parts", named="gathers the pieces of the pattern")
def gathered_pieces(tok, text, size):
    out, part = [], ""
    for piece in regex.findall(SPLIT_PATTERN, text):
        if part and len(part)+len(piece) > size:
            out += tok.encode(part)
            part = ""
        part += piece
    return out+tok.encode(part)

@answers.wrong("parts", named="something is lost")
def split_words(tok, text, size): return [i for w in text.split() for i in tok.encode(w)]

@answers.wrong("parts", named="cuts before any space")
def split_and_spaces_added(tok, text, size):
    return [i for k, w in enumerate(text.split(" ")) for i in tok.encode(" "*(k > 0)+w)]

@answers.wrong("parts", named="cuts by count")
def by_twice_the_size(tok, text, size):
    return [i for k in range(0, len(text), 2*size) for i in tok.encode(text[k:k+2*size])]

@answers.wrong("parts")
def after_full_stops(tok, text, size):
    return in_parts(tok, text, size, lambda t, b, s: t.rfind(". ", b, b+s)+1 or t.find(". ", b+s)+1)

@answers.right("parts")
def letter_before_only(tok, text, size):
    def cut(t, begin, size):
        near = range(begin+1, min(begin+size+1, len(t)-1))
        return last((p for p in near if t[p] == " " and t[p-1].isalpha()), next_safe(t, begin))
    return in_parts(tok, text, size, cut)

@answers.right("parts")
def letter_behind_only(tok, text, size):
    def cut(t, begin, size):
        near = range(begin+1, min(begin+size+1, len(t)-1))
        return last((p for p in near if t[p] == " " and t[p+1].isalpha()), next_safe(t, begin))
    return in_parts(tok, text, size, cut)

@answers.wrong("parts", named="too much at once")
def all_at_once(tok, text, size): return tok.encode(text)

@answers.wrong("parts")
def too_large_parts(tok, text, size):
    def cut(t, begin, size):
        return next((p for p in range(begin+3*size, len(t)-1) if before_blank(t, p)), None)
    return in_parts(tok, text, size, cut)

@answers.wrong("parts")
def a_list_for_each_part(tok, text, size): return [word_by_word(tok, text, size)]

@answers.wrong("parts")
def falls_off_the_end(tok, text, size):
    out, begin = [], 0
    while begin < len(text):
        p = min(begin+size, len(text)-1)
        while not before_blank(text, p):
            p += 1
        out += tok.encode(text[begin:p])
        begin = p
    return out

@answers.wrong("parts")
def overlapping_parts(tok, text, size):
    ids = tok.encode(text[:size])
    for k in range(size, len(text), size):
        ids += tok.encode(text[k-1:k+size])[1:]
    return ids

# ---- 4. merges from ranks ----

def replay(token, ranks, best=min):
    parts = [token[k:k+1] for k in range(len(token))]
    while len(parts) > 2:
        glued = [(a+b, i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
        pairs = [(ranks[t], i) for t, i in glued if t in ranks and ranks[t] < ranks[token]]
        if not pairs:
            break
        i = best(pairs)[1]
        parts[i:i+2] = [parts[i]+parts[i+1]]
    return parts

@answers.right("halves")
def until_two_are_left(token, ranks): return tuple(replay(token, ranks))

@answers.right("halves")
def rank_after_rank(token, ranks):
    parts = [bytes([b]) for b in token]
    for other in sorted(ranks, key=ranks.get):
        if other == token:
            break
        out = []
        for p in parts:
            if out and out[-1]+p == other:
                out[-1] = other
            else:
                out.append(p)
        parts = out
    return parts

@answers.wrong("halves", named="the rightmost of equals")
def rightmost_first(token, ranks):
    return tuple(replay(token, ranks, best=lambda pairs: min(pairs, key=lambda p: (p[0], -p[1]))))

@answers.wrong("halves", named="from left to right")
def leftmost_first(token, ranks):
    return tuple(replay(token, ranks, best=lambda pairs: min(pairs, key=lambda p: p[1])))

@answers.wrong("halves", named="the youngest first")
def highest_first(token, ranks): return tuple(replay(token, ranks, best=max))

@answers.wrong("halves")
def middle(token, ranks): return token[:len(token)//2], token[len(token)//2:]

def cuts(token, ranks):
    return [(token[:k], token[k:]) for k in range(1, len(token)) if token[:k] in ranks and token[k:] in ranks]

@answers.wrong("halves")
def smallest_sum_of_ranks(token, ranks): return min(cuts(token, ranks), key=lambda c: ranks[c[0]]+ranks[c[1]])

@answers.wrong("halves")
def largest_sum_of_ranks(token, ranks): return max(cuts(token, ranks), key=lambda c: ranks[c[0]]+ranks[c[1]])

@answers.wrong("halves")
def all_cuts(token, ranks): return cuts(token, ranks)

@answers.wrong("halves")
def as_strings(token, ranks): return tuple(p.decode("latin-1") for p in replay(token, ranks))

@answers.wrong("halves", named="ids instead of bytes")
def as_ids(token, ranks): return tuple(ranks[p] for p in replay(token, ranks))

@answers.wrong("halves", named="right and left change places")
def right_first(token, ranks): return tuple(replay(token, ranks)[::-1])

@answers.wrong("halves")
def last_byte(token, ranks): return token[:-1], token[-1:]

@answers.wrong("halves")
def takes_the_token_out(token, ranks):
    own = ranks.pop(token)
    return tuple(replay(token, {**ranks, token: own}))

@answers.wrong("halves")
def longest_half(token, ranks): return max(cuts(token, ranks), key=lambda c: max(map(len, c)))

@answers.wrong("halves")
def order_of_the_dict(token, ranks):
    numbers = {t: k for k, t in enumerate(ranks)}
    return tuple(replay(token, numbers))

# ---- 5. a hundred shards ----

def width_of(vocab_size): return 1 if vocab_size <= 256 else 2 if vocab_size <= 65_536 else 4

def account_of(shards, chars, bytes_per_char, docs, bytes_per_token, mb_per_s, vocab_size, **changes):
    size = shards*chars*bytes_per_char
    tokens = round(size/bytes_per_token)+shards*docs
    return dict(tokens=tokens, disk_bytes=tokens*width_of(vocab_size), seconds=size/mb_per_s/1e6) | changes

@answers.right("account")
def rounded(*a): return account_of(*a)

@answers.right("account")
def by_bits(shards, chars, bytes_per_char, docs, bytes_per_token, mb_per_s, vocab_size):
    size = int(shards*chars*bytes_per_char)
    tokens = math.floor(size/bytes_per_token)+shards*docs
    width = next(n for n in (1, 2, 4) if 256**n >= vocab_size)
    return {"seconds": size/(mb_per_s*10**6), "tokens": tokens, "disk_bytes": width*tokens}

@answers.wrong("account", named="three bytes")
def three_bytes(*a):
    return account_of(*a, disk_bytes=account_of(*a)["tokens"]*max(1, math.ceil(math.log2(a[-1])/8)))

@answers.wrong("account", named=None)
def bos_for_each_shard(*a): return account_of(a[0], a[1], a[2], 1, *a[4:])

@answers.wrong("account", named="the documents of one shard")
def documents_of_one_shard(*a):
    tokens = account_of(a[0], a[1], a[2], 0, *a[4:])["tokens"]+a[3]
    return account_of(*a, tokens=tokens, disk_bytes=tokens*width_of(a[-1]))

@answers.wrong("account", named="one shard")
def one_shard(*a): return account_of(1, *a[1:])

@answers.wrong("account", named="BOS is not on the disk")
def bos_not_on_disk(*a):
    return account_of(*a, disk_bytes=account_of(a[0], a[1], a[2], 0, *a[4:])["disk_bytes"])

@answers.wrong("account", named="characters for each token")
def chars_a_token(*a):
    tokens = round(a[0]*a[1]/a[4])+a[0]*a[3]
    return account_of(*a, tokens=tokens, disk_bytes=tokens*width_of(a[-1]))

@answers.wrong("account", named="the text is on the disk")
def disk_is_the_text(*a): return account_of(*a, disk_bytes=a[0]*a[1]*a[2])

@answers.wrong("account")
def bits_on_disk(*a): return account_of(*a, disk_bytes=account_of(*a)["tokens"]*math.log2(a[-1])/8)

@answers.wrong("account")
def minutes(*a): return account_of(*a, seconds=account_of(*a)["seconds"]/60)

@answers.wrong("account", named="multiplied by the speed")
def times_the_speed(*a): return account_of(*a, seconds=a[0]*a[1]*a[2]*a[5]/1e6)

@answers.wrong("account")
def a_tuple(*a): return tuple(account_of(*a).values())

@answers.wrong("account", named="always four bytes")
def four_bytes(*a): return account_of(*a, disk_bytes=4*account_of(*a)["tokens"])

@answers.wrong("account", named="multiplied by the bytes of a token")
def times_bytes_per_token(*a): return account_of(*a[:4], 1/a[4], *a[5:])

@answers.wrong("account")
def megabits(*a): return account_of(*a, seconds=account_of(*a)["seconds"]*8)
