"Answers to the exercises of chapter 08"
import math

import torch
import torch.nn.functional as F

from answers import Answers

answers = Answers()

# ---- 1. two bugs in one line ----

def distance(T, S): return torch.arange(S-T, S)[:, None]-torch.arange(S)

@answers.right("weights")
def renormed_after_the_softmax(q, k, window):
    back = distance(len(q), len(k))
    seen = (back >= 0) & (back <= (window or len(k)))
    w = (q @ k.T/math.sqrt(q.size(1))).softmax(-1)*seen
    return w/w.sum(-1, keepdim=True)

@answers.right("weights")
def query_by_query(q, k, window):
    T, S = len(q), len(k)
    out = torch.zeros(T, S, dtype=q.dtype)
    for t in range(T):
        at = S-T+t
        first = max(0, at-window) if window else 0
        out[t, first:at+1] = (k[first:at+1] @ q[t]/q.size(1)**0.5).softmax(0)
    return out

@answers.right("weights")
def by_a_very_small_score(q, k, window):
    T, S = len(q), len(k)
    seen = torch.ones(T, S, dtype=torch.bool).tril(S-T)
    if window:
        seen &= torch.ones(T, S, dtype=torch.bool).triu(S-T-window)
    return F.softmax((q @ k.T*q.size(1)**-0.5)+(~seen)*-1e9, dim=1)

def changed(scale=None, hide=None, fill=-math.inf, window_of=lambda w: w):
    "The answer with a part exchanged"
    def weights(q, k, window):
        T, S = len(q), len(k)
        back, w = distance(T, S), window_of(window)
        hidden = (back < 0) | ((back > w) if w else False) if hide is None else hide(back, w)
        by = q.size(1)**0.5 if scale is None else scale(q, k)
        return (q @ k.T/by).masked_fill(hidden, fill).softmax(-1)
    return weights

answers.wrong("weights", "divided by the root of the queries")(changed(scale=lambda q, k: len(q)**0.5))
answers.wrong("weights", "multiplied by the root of D")(changed(scale=lambda q, k: q.size(1)**-0.5))
answers.wrong("weights", "hidden scores are -1")(changed(fill=-1.))
answers.wrong("weights", "the window is not looked at")(changed(hide=lambda back, w: back < 0))
answers.wrong("weights", "the window alone")(changed(hide=lambda back, w: back > w if w else back < -99))
answers.wrong("weights", "the far past instead of the near")(
    changed(hide=lambda back, w: (back < 0) | (back < w if w else False)))
answers.wrong("weights", "twice the window")(changed(window_of=lambda w: 2*w))
answers.wrong("weights", named="√D is forgotten")(changed(scale=lambda q, k: 1))
answers.wrong("weights", "D", named="D instead of √D")(changed(scale=lambda q, k: q.size(1)))
answers.wrong("weights", "off by one", named="one position too few")(
    changed(hide=lambda back, w: (back < 0) | (back >= w if w else False)))
answers.wrong("weights", "all is seen", named="the future is seen")(
    changed(hide=lambda back, w: back > w if w else torch.zeros_like(back, dtype=torch.bool)))

@answers.wrong("weights", named="mask after softmax")
def masked_at_the_end(q, k, window):
    back = distance(len(q), len(k))
    return (q @ k.T/q.size(1)**0.5).softmax(-1)*((back >= 0) & (back <= (window or len(k))))

@answers.wrong("weights", named="the queries stand at the front")
def tril_from_the_corner(q, k, window):
    seen = torch.ones(len(q), len(k), dtype=torch.bool).tril()
    if window:
        seen = seen.triu(-window)
    return (q @ k.T/q.size(1)**0.5).masked_fill(~seen, -math.inf).softmax(-1)

@answers.wrong("weights", named="softmax over the queries")
def over_the_queries(q, k, window):
    back = distance(len(q), len(k))
    hidden = (back < 0) | (back > (window or len(k)))
    return (q @ k.T/q.size(1)**0.5).masked_fill(hidden, -math.inf).softmax(0)

@answers.wrong("weights")
def scores_and_no_weights(q, k, window): return q @ k.T/q.size(1)**0.5

@answers.wrong("weights")
def keys_by_queries(q, k, window): return renormed_after_the_softmax(q, k, window).T.contiguous()

@answers.wrong("weights")
def renormed_over_queries(q, k, window):
    w = masked_at_the_end(q, k, window)
    return w/w.sum(0, keepdim=True)

# ---- 2. whose pairs? ----

@answers.right("pairs")
def by_a_list_of_rows(w, n_head):
    D = len(w)//n_head
    order = [h*D+i for h in range(n_head) for i in (*range(0, D, 2), *range(1, D, 2))]
    return w[order]

@answers.right("pairs")
def head_by_head(w, n_head):
    return torch.cat([torch.cat((h[0::2], h[1::2])) for h in w.chunk(n_head)])

@answers.right("pairs")
def both_turned_by_a_right_angle(w, n_head):
    "The second of each pair first, with its sign changed: every pair is turned alike, so scores stay"
    return torch.cat([torch.cat((-h[1::2], h[0::2])) for h in w.chunk(n_head)])

def rows(order):
    "An answer that moves the rows of each head to the places that `order(D)` lists"
    def to_halves(w, n_head):
        D = len(w)//n_head
        return torch.cat([h[order(D)] for h in w.chunk(n_head)])
    return to_halves

answers.wrong("pairs", "all rows reversed")(rows(lambda D: [*range(D)][::-1]))
answers.wrong("pairs", "identity", named="nothing is moved")(rows(lambda D: [*range(D)]))
answers.wrong("pairs", "the halves exchanged")(rows(lambda D: [*range(D//2, D), *range(D//2)]))
answers.wrong("pairs", "odd, then even", named="second of a pair first")(
    rows(lambda D: [*range(1, D, 2), *range(0, D, 2)]))
answers.wrong("pairs", "the second half backwards")(rows(lambda D: [*range(0, D, 2), *range(1, D, 2)[::-1]]))
answers.wrong("pairs", "even numbers twice")(rows(lambda D: [*range(0, D, 2)]*2))
answers.wrong("pairs", "by remainder of three")(rows(lambda D: sorted(range(D), key=lambda i: i % 3)))
answers.wrong("pairs", "back again", named="the way back")(
    rows(lambda D: [i//2+(D//2)*(i % 2) for i in range(D)]))

@answers.wrong("pairs", named="the heads are mixed")
def as_one_head(w, n_head): return torch.cat((w[0::2], w[1::2]))

@answers.wrong("pairs", named="columns for rows")
def sorted_columns(w, n_head): return torch.cat((w[:, ::2], w[:, 1::2]), 1)

@answers.wrong("pairs")
def one_sign_is_changed(w, n_head):
    return torch.cat([torch.cat((h[0::2], -h[1::2])) for h in w.chunk(n_head)])

@answers.wrong("pairs")
def three_dimensions(w, n_head): return head_by_head(w, n_head).view(n_head, -1, w.size(1))

@answers.wrong("pairs")
def heads_in_another_order(w, n_head): return torch.cat(head_by_head(w, n_head).chunk(n_head)[::-1])*1.01

@answers.wrong("pairs")
def averaged(w, n_head):
    return torch.cat([torch.cat(((h[0::2]+h[1::2])/2, (h[0::2]-h[1::2])/2)) for h in w.chunk(n_head)])

# ---- 3. the cache that grew ----

@answers.right("grown")
def by_a_mask(k, lens, S):
    B, old = k.shape[:2]
    held = torch.arange(S) < torch.tensor(lens)[:, None]
    wide = F.pad(k, (0, 0, 0, 0, 0, max(0, S-old)))[:, :S]
    return torch.where(held[..., None, None], wide, torch.zeros((), dtype=k.dtype))

@answers.right("grown")
def row_after_row(k, lens, S):
    return torch.stack([F.pad(row[:n], (0, 0, 0, 0, 0, S-n)) for row, n in zip(k, lens)])

def by_rows(what):
    "An answer that fills row r, which holds n tokens, with what(k, r, n, S)"
    def grown(k, lens, S):
        out = k.new_zeros(k.size(0), S, *k.shape[2:])
        for r, n in enumerate(lens):
            for s, token in what(k, r, n, S):
                if 0 <= s < S:
                    out[r, s] = token
        return out
    return grown

answers.wrong("grown", "reversed")(by_rows(lambda k, r, n, S: [(n-1-s, k[r, s]) for s in range(n)]))
answers.wrong("grown", "one place on")(by_rows(lambda k, r, n, S: [(s+1, k[r, s]) for s in range(n)]))
answers.wrong("grown", "the next row")(by_rows(lambda k, r, n, S: [(s, k[r-1, s]) for s in range(n)]))
answers.wrong("grown", "empty")(by_rows(lambda k, r, n, S: []))
answers.wrong("grown", "the last token everywhere")(
    by_rows(lambda k, r, n, S: [(s, k[r, n-1]) for s in range(n)]))
answers.wrong("grown", "filled up with the last token")(
    by_rows(lambda k, r, n, S: [(s, k[r, min(s, n-1)]) for s in range(S if n else 0)]))
answers.wrong("grown", "wrapped around")(
    by_rows(lambda k, r, n, S: [(s, k[r, s % n]) for s in range(S if n else 0)]))
answers.wrong("grown", "heads exchanged")(
    by_rows(lambda k, r, n, S: [(s, k[r, s].flip(0)) for s in range(n)]))
answers.wrong("grown", "one token fewer", named="the last token is lost")(
    by_rows(lambda k, r, n, S: [(s, k[r, s]) for s in range(n-1)]))
answers.wrong("grown", "all that was there", named="old rubbish is kept")(
    by_rows(lambda k, r, n, S: [(s, k[r, s]) for s in range(min(S, k.size(1)))]))

@answers.wrong("grown", named="the layout is scrambled")
def one_long_copy(k, lens, S):
    out = k.new_zeros(k.size(0)*S*k.size(2)*k.size(3))
    n = min(len(out), k.numel())
    out[:n] = k.reshape(-1)[:n]
    return out.view(k.size(0), S, k.size(2), k.size(3))

@answers.wrong("grown")
def as_it_was(k, lens, S): return k

@answers.wrong("grown")
def in_half_precision(k, lens, S): return by_a_mask(k, lens, S).half()

@answers.wrong("grown")
def transposed(k, lens, S): return by_a_mask(k, lens, S).transpose(1, 2)

# ---- 4. by hand ----

def hand(join=True, share="near", hide=None, scale=None, keep=None, extra=None):
    "Attention with a cache that is a list of two tensors, and parts that can be exchanged"
    def by_hand(q, k, v, cache, window):
        if join and "held" in cache:
            k, v = torch.cat((cache["held"][0], k), 1), torch.cat((cache["held"][1], v), 1)
        cut = max(0, k.size(1)-keep(window)) if keep and window else 0
        cache["held"] = [k[:, cut:], v[:, cut:]]
        B, T, H, D = q.shape
        S, G = k.shape[1:3]
        if share == "near":                                   # groups without copies: (B,T,G,share,D)
            q5 = q.view(B, T, G, H//G, D)
        else:
            q5 = q.view(B, T, H//G, G, D).transpose(2, 3)
        scores = torch.einsum("btgnd,bsgd->bgnts", q5, k)/(D**0.5 if scale is None else scale(q, k))
        back = distance(T, S)
        hidden = (back < 0) | ((back > window) if window else False) if hide is None else hide(back, window)
        w = scores.masked_fill(hidden, -math.inf).softmax(-1)
        y = torch.einsum("bgnts,bsgd->btgnd", w, v)
        if share != "near":
            y = y.transpose(2, 3)
        y = y.reshape(B, T, H, D)
        return y if extra is None else extra(y, q, v)
    return by_hand

answers.right("by_hand", "groups without copies")(hand())
answers.right("by_hand", "keeps only a window")(hand(keep=lambda w: w))
answers.right("by_hand", "keeps a little more than a window")(hand(keep=lambda w: w+3))

answers.wrong("by_hand", "no cache", named="nothing is remembered")(hand(join=False))
answers.wrong("by_hand", "far groups", named="groups in the wrong order")(hand(share="far"))
answers.wrong("by_hand", "no scale", named="√D is forgotten")(hand(scale=lambda q, k: 1))
answers.wrong("by_hand", "D")(hand(scale=lambda q, k: q.size(-1)))
answers.wrong("by_hand", "the root of the keys")(hand(scale=lambda q, k: k.size(1)**0.5))
answers.wrong("by_hand", "no window", named="the window is ignored")(hand(hide=lambda back, w: back < 0))
answers.wrong("by_hand", "a narrow window", named="one position too few")(
    hand(hide=lambda back, w: (back < 0) | (back >= w if w else False)))
answers.wrong("by_hand", "half a window kept")(hand(keep=lambda w: w//2))
answers.wrong("by_hand", "one too few kept", named="thrown away too early")(hand(keep=lambda w: w-1))
answers.wrong("by_hand", "plus the value itself")(hand(extra=lambda y, q, v: y+v.mean()))
answers.wrong("by_hand", "no gradient")(hand(extra=lambda y, q, v: y.detach()))
answers.wrong("by_hand", "half precision")(hand(extra=lambda y, q, v: y.half().double()))
answers.wrong("by_hand", "channels together")(hand(extra=lambda y, q, v: y.flatten(2)))
answers.wrong("by_hand", "a step sees all", named="single steps ignore the window")(
    hand(hide=lambda back, w: (back < 0) | ((back > w) if w and len(back) > 1 else False)))

@answers.wrong("by_hand")
def ready_made(q, k, v, cache, window):
    if cache:
        k, v = torch.cat((cache["k"], k), 1), torch.cat((cache["v"], v), 1)
    cache.update(k=k, v=v)
    back = distance(q.size(1), k.size(1))
    mask = (back >= 0) & (back <= (window or k.size(1)))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

# ---- 5. a copier ----

TABLE = torch.zeros(24, 3)

def period_of(row):
    "The first period that the letters of a row obey"
    return next((p for p in range(10, 17) if row[p:] == row[:len(row)-p]), 16)

def reads(letters): F.embedding(torch.as_tensor(letters), TABLE)

def clerk(back=lambda p, T: p, read_last=False, twice=False, only=None, shape=None, spoil=None):
    "Writes by rule, and reads as a model would"
    def write(prompts, n):
        reads(prompts)
        if twice:
            reads(prompts)
        out = []
        for row in prompts.tolist():
            p, done = period_of(row), list(row)
            for _ in range(n):
                done.append(done[len(done)-back(p, len(row))])
            out.append(done[len(row):])
        for i in range(n if read_last else n-1):
            if only is None or i < only:
                reads([[new[i]] for new in out])
        out = torch.tensor(out)
        if spoil:
            out = spoil(out)
        return out if shape is None else shape(out)
    return write

answers.right("copier", "reads the last letter, too")(clerk(read_last=True))
def one_in(m):
    "Spoils every m-th letter"
    def spoil(out):
        at = torch.arange(out.numel()).view_as(out)
        return torch.where(at % m == m-1, (out+1) % 24, out)
    return spoil

answers.right("copier", "eleven of twelve letters")(clerk(spoil=one_in(12)))

answers.wrong("copier", "the prompt is read twice")(clerk(twice=True))
answers.wrong("copier", "does not read what it writes")(clerk(only=0))
answers.wrong("copier", "reads three of its letters")(clerk(only=3))
answers.wrong("copier", "(n, B)")(clerk(shape=lambda out: out.T.contiguous()))
answers.wrong("copier", "logits")(clerk(shape=lambda out: F.one_hot(out, 24).float()))
answers.wrong("copier", "letters as fractions")(clerk(shape=lambda out: out.float()))
answers.wrong("copier", "half of them wrong")(clerk(spoil=one_in(2)))
answers.wrong("copier", "every letter is one on")(clerk(spoil=lambda out: (out+1) % 24))
answers.wrong("copier", "backwards")(clerk(spoil=lambda out: out.flip(1)))
answers.wrong("copier", "sixteen back")(clerk(back=lambda p, T: 16))
answers.wrong("copier", "ten back", named="always ten back")(clerk(back=lambda p, T: 10))
answers.wrong("copier", "the newest again", named="the last letter again and again")(
    clerk(back=lambda p, T: 1))
answers.wrong("copier", "from the start", named="the prompt from its beginning")(
    clerk(back=lambda p, T: T))

@answers.wrong("copier")
def only_the_first_row(prompts, n): return clerk()(prompts[:1], n).expand(len(prompts), -1)

@answers.wrong("copier", named="everything is read again")
def without_a_cache(prompts, n):
    out = clerk()(prompts, n)
    F.embedding(torch.zeros(1, dtype=torch.long), TABLE)
    for i in range(1, n):
        reads(torch.cat((prompts, out[:, :i]), 1))
    return out

@answers.wrong("copier")
def a_list_of_text(prompts, n):
    return ["".join(chr(97+i) for i in row) for row in clerk()(prompts, n)]
