"Checks and known wrong answers for the exercises of chapter 08"
import math
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from grade import Exercise, Wrong, in_child
from graders.common import call, many, something

def plain(a, digits=4):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [plain(x, digits) for x in a]
    if isinstance(a, float):
        return round(a, digits)+0. if math.isfinite(a) else str(a)
    return a

def a_tensor(say, got, shape):
    "What came back, if it is a tensor of this shape"
    something(say, got)
    assert torch.is_tensor(got), f"{say}: a tensor is asked for, not a {type(got).__name__}"
    found = tuple(got.shape)
    assert found == tuple(shape), f"{say}: the shape should be {tuple(shape)}, not {found}"
    return got

def near(a, b, tol=1e-5):
    return torch.allclose(a.detach().double(), b.detach().double(), rtol=tol, atol=tol)

def rounded(*shape, seed):
    "Random numbers of one digit, so that a message can show them"
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=g, dtype=torch.float64)*10).round()/10

# ---- 1. two bugs in one line: weights(q_TD, k_SD, window) -> (T,S) ----

def weigher(after=False, scale="D", off=0, nought_is_all=True, front=False, causal=True, itself=True, dim=-1,
            both_sides=False, hidden=-math.inf, turned=False):
    "The answer, with switches for its mistakes"
    def weights(q_TD, k_SD, window):
        T, S, D = len(q_TD), len(k_SD), q_TD.size(1)
        by = dict(D=D**.5, none=1., whole=D, keys=S**.5, both=D**.5*S**.5)[scale]
        scores = q_TD @ k_SD.T/by
        at = torch.arange(T)+(0 if front else S-T)
        back = at[:, None]-torch.arange(S)
        seen = back >= (0 if itself else 1) if causal else torch.ones_like(back, dtype=torch.bool)
        if both_sides:
            seen = torch.ones_like(seen) if not window else back.abs() <= window
        elif window or not nought_is_all:
            seen = seen & (back <= window+off)
        if turned:
            seen = ~seen
        if after:
            return scores.softmax(dim)*seen
        return scores.masked_fill(~seen, hidden).softmax(dim)
    return weights

def weights_check(answer):
    right = weigher()
    cases = [(1, 1, 1, 0), (2, 2, 1, 0), (2, 2, 4, 0), (3, 3, 1, 1), (3, 3, 2, 2), (1, 3, 2, 0), (1, 4, 1, 2),
             (2, 4, 3, 0), (2, 5, 4, 2), (5, 5, 9, 3), (7, 7, 64, 0), (4, 9, 16, 5), (9, 9, 4, 40)]
    for k, (T, S, D, window) in enumerate(cases):
        q, keys = rounded(T, D, seed=k), rounded(S, D, seed=100+k)
        say = (f"weights(q, k, window={window}) with q of {T}×{D} and k of {S}×{D}" if T*S*D > 30 else
               f"weights(tensor({q.tolist()}), tensor({keys.tolist()}), window={window})")
        got = a_tensor(say, call(say, answer, q.clone(), keys.clone(), window), (T, S)).double()
        want = right(q, keys, window)
        assert torch.isfinite(got).all(), f"{say}: there are NaN or infinite weights: {plain(got, 3)}"
        for t in range(T):
            for s in range(S):
                if want[t, s] == 0 and got[t, s].abs() > 1e-9:
                    where = "comes after it" if s > t+S-T else f"is {t+S-T-s} positions back"
                    raise AssertionError(f"{say}: the query at position {t+S-T} gives the weight "
                                         f"{got[t, s]:.3f} to key {s}, which {where}")
            total = float(got[t].sum())
            assert abs(total-1) < 1e-4, f"{say}: the weights of query {t} add up to {total:.4f} and not to 1"
        assert near(got, want), f"{say}: the weights should be {plain(want, 3)}, not {plain(got, 3)}"

weighing = Exercise("1. Two bugs in one line", 3, weights_check, weigher(),
    probes=[(3, 3, 2, 0), (2, 4, 3, 0), (4, 4, 2, 1), (2, 5, 4, 2), (5, 5, 9, 3)],
    behave=lambda f, T, S, D, window: plain(f(rounded(T, D, seed=T), rounded(S, D, seed=S+50), window)),
    wrong=[
        Wrong("both bugs are still there",
              "hidden keys take part in the softmax, and the scores grow with D.",
              weigher(after=True, scale="none")),
        Wrong("mask after softmax",
              "the hidden weights are 0, but the softmax has already counted them: what is left does not "
              "add up to 1, and it changes when the future changes.",
              weigher(after=True)),
        Wrong("√D is forgotten",
              "a dot product of D terms has variance D. Wide heads give scores so large that the softmax "
              "picks one key.",
              weigher(scale="none")),
        Wrong("D instead of √D",
              "the *variance* of a score is D, so its size is √D. You divide by D, and wide heads see "
              "everything alike.",
              weigher(scale="whole")),
        Wrong("the number of keys is divided by",
              "√D is about the width of a head. You divide by the root of the number of keys.",
              weigher(scale="keys")),
        Wrong("hidden scores are 0",
              "a score of 0 is a score like any other: e⁰ = 1. Which score gives the weight 0?",
              weigher(hidden=0.)),
        Wrong("one position too few",
              "a window of W shows the query itself *and* W positions before it: W+1 keys.",
              weigher(off=-1)),
        Wrong("one position too many",
              "a window of W shows the query itself and W positions before it, W+1 keys in all.",
              weigher(off=1)),
        Wrong("window 0 hides everything",
              "window 0 means no window: everything before is seen.",
              weigher(nought_is_all=False)),
        Wrong("the queries stand at the front",
              "there are more keys than queries: T queries are the *last* T of S positions. So the first of "
              "them stands at S-T.",
              weigher(front=True)),
        Wrong("the future is seen",
              "nothing hides the keys after the query.",
              weigher(causal=False)),
        Wrong("a query does not see itself",
              "every query sees its own position. The first one would have nothing to look at.",
              weigher(itself=False)),
        Wrong("softmax over the queries",
              "each *query* deals out a weight of 1 over the keys: the last dimension.",
              weigher(dim=0)),
        Wrong("a window to both sides",
              "the window reaches back only. What comes after the query stays hidden.",
              weigher(both_sides=True)),
        Wrong("hidden and seen exchanged",
              "`masked_fill` fills where the mask is True. Your mask is True where a key may be seen.",
              weigher(turned=True))])

# ---- 2. whose pairs?: to_halves(w_OC, n_head) -> w_OC ----

def turned(x_THD, pairs):
    "RoPE with neighbours as pairs, or with halves; position t at row t"
    T, H, D = x_THD.shape
    frequency = 100.**(-torch.arange(0, D, 2, dtype=torch.float64)/D)
    angle = torch.arange(T, dtype=torch.float64)[:, None, None]*frequency
    a, b = (x_THD[..., 0::2], x_THD[..., 1::2]) if pairs else x_THD.chunk(2, -1)
    return a*angle.cos()+b*angle.sin(), b*angle.cos()-a*angle.sin()

def rope_scores(x_TC, wq, wk, H, G, pairs):
    "Scores (H,T,T) of turned queries and keys, H query heads share G key heads"
    q, k = ((x_TC @ w.T).view(len(x_TC), n, -1) for w, n in ((wq, H), (wk, G)))
    (qa, qb), (ka, kb) = turned(q, pairs), turned(k, pairs)
    ka, kb = (t.repeat_interleave(H//G, 1) for t in (ka, kb))
    return torch.einsum("thf,shf->hts", qa, ka)+torch.einsum("thf,shf->hts", qb, kb)

def mover(heads=True, inverse=False, columns=False, odd_first=False, first_only=False, mixed=False,
          same=False, backwards=False, wide=False):
    "The answer, with switches for its mistakes"
    def to_halves(w_OC, n_head):
        O, C = w_OC.shape
        H = n_head if heads else 1
        if same:
            return w_OC
        if columns:
            return torch.cat((w_OC[:, 0::2], w_OC[:, 1::2]), 1)
        if mixed:
            return w_OC.view(O//H, H, C).transpose(0, 1).reshape(O, C)
        if inverse:
            return w_OC.view(H, 2, O//H//2, C).transpose(1, 2).reshape(O, C)
        split = w_OC.view(H, O//H//2, 2, C)
        if odd_first:
            split = split.flip(2)
        if backwards:
            split = split.flip(1)
        out = split.transpose(1, 2)
        if first_only:
            return torch.cat((out[0].reshape(-1, C), w_OC[O//H:]))
        if wide:
            return out.reshape(H, O//H, C)
        return out.reshape(O, C)
    return to_halves

def halves_check(answer):
    for k, (H, G, D, C) in enumerate([(1, 1, 4, 2), (1, 1, 6, 3), (2, 2, 4, 3), (2, 1, 4, 2), (4, 2, 8, 16),
                                      (3, 3, 2, 5), (6, 2, 4, 24)]):
        wq, wk, x = rounded(H*D, C, seed=k), rounded(G*D, C, seed=50+k), rounded(7, C, seed=90+k)
        new = []
        for w, n in ((wq, H), (wk, G)):
            say = (f"to_halves(w, n_head={n}) with w of {n*D}×{C}" if w.numel() > 16 else
                   f"to_halves(tensor({w.tolist()}), n_head={n})")
            new.append(a_tensor(say, call(say, answer, w.clone(), n), w.shape).double())
        want, got = rope_scores(x, wq, wk, H, G, True), rope_scores(x, *new, H, G, False)
        if not near(got, want):
            rows = mover()(torch.arange(H*D).view(-1, 1), H).flatten().tolist()
            hint = f"; its rows should be rows {rows} of w" if H*D <= 8 else ""
            raise AssertionError(
                f"{say}: with {many(H, 'query head')} and {many(G, 'key head')} of {D} the scores are not "
                f"those of the old weights with their own RoPE{hint}")

pairing = Exercise("2. Whose pairs?", 3, halves_check, mover(),
    probes=[(1, 4, 2), (2, 4, 3), (2, 6, 4), (3, 2, 2)],
    behave=lambda f, H, D, C: plain(f(rounded(H*D, C, seed=H), H)),
    wrong=[
        Wrong("nothing is moved",
              "neighbours turn together in the old model, and with us row f turns with row f + D/2.",
              mover(same=True)),
        Wrong("the heads are mixed",
              "each head has its own pairs. You sort the rows of all heads together, so that half of a head "
              "comes from its neighbours.",
              mover(heads=False)),
        Wrong("the way back",
              "this turns halves into neighbours: the other direction.",
              mover(inverse=True)),
        Wrong("columns for rows",
              "a row of the matrix makes one number of the query. The columns read the stream, and stay.",
              mover(columns=True)),
        Wrong("second of a pair first",
              "the numbers 0, 2, 4 … of a head come first, then 1, 3, 5 … The other way round everything "
              "turns backwards.",
              mover(odd_first=True)),
        Wrong("the first head only",
              "all heads are to be converted; you moved the rows of the first.",
              mover(first_only=True)),
        Wrong("heads lie one behind the other",
              "the rows of one head are D consecutive rows. You read the matrix as if the heads took turns.",
              mover(mixed=True)),
        Wrong("the speeds are reversed",
              "pair 0 is the fastest in both models. Yours are in the opposite order.",
              mover(backwards=True))])

# ---- 3. the cache that grew: grown(k_BSGD, lens, S) -> (B,S,G,D) ----

def grower(how="rows"):
    "The answer, or one of its mistakes"
    def grown(k_BSGD, lens, S):
        B, old, G, D = k_BSGD.shape
        out = k_BSGD.new_zeros(B, S, G, D)
        if how == "flat":
            flat = out.flatten()
            n = min(flat.numel(), k_BSGD.numel())
            flat[:n] = k_BSGD.flatten()[:n]
            return flat.view(B, S, G, D)
        if how == "garbage":
            out[:, :min(old, S)] = k_BSGD[:, :S]
            return out
        if how == "heads":
            return F.pad(k_BSGD.reshape(B, G, old, D), (0, 0, 0, S))[:, :, :S].clone()
        if how == "packed":
            tokens = torch.cat([k_BSGD[r, :n] for r, n in enumerate(lens)])[:B*S]
            out.view(B*S, G, D)[:len(tokens)] = tokens
            return out
        if how == "dtype":
            out = out.double()
        for r, n in enumerate(lens):
            if how == "longest":
                n = min(max(lens), S)
            if how == "shortest":
                n = min(lens)
            if how == "one less":
                n = max(0, n-1)
            if how == "first":
                r = 0
            if how == "right" and n:
                out[r, -n:] = k_BSGD[r, :n]
            elif how == "newest" and n:
                out[r, :n] = k_BSGD[r, old-n:]
            else:
                out[r, :n] = k_BSGD[r, :n]
        return out
    return grown

GROWN = [(1, 2, 1, 1, [2], 3), (2, 2, 1, 1, [2, 1], 3), (2, 2, 1, 1, [1, 2], 4), (2, 3, 2, 1, [3, 3], 5),
         (3, 2, 1, 2, [0, 2, 1], 4), (2, 6, 1, 1, [2, 3], 4), (3, 5, 2, 4, [4, 0, 5], 9),
         (2, 3, 1, 2, [3, 1], 3)]

def a_cache(B, S, G, D):
    "A cache full of numbers that tell where they were: row, position, head and place in one number each"
    r, s, g, d = torch.meshgrid(*(torch.arange(1, n+1) for n in (B, S, G, D)), indexing="ij")
    return (r*1000+s*100+g*10+d).to(torch.float32)

def grown_check(answer):
    for B, old, G, D, lens, S in GROWN:
        cache = a_cache(B, old, G, D)
        say = f"grown(k, lens={lens}, S={S}) with k of shape {tuple(cache.shape)}"
        got = a_tensor(say, call(say, answer, cache.clone(), list(lens), S), (B, S, G, D))
        assert got.dtype == torch.float32, f"{say}: a cache of float32 has become one of {got.dtype}"
        for r, n in enumerate(lens):
            for s in range(S):
                want = cache[r, s] if s < n else torch.zeros(G, D)
                assert torch.equal(got[r, s], want), (
                    f"{say}: row {r} holds {many(n, 'token')}; at position {s} there should be "
                    f"{plain(want)}, not {plain(got[r, s])} (k[row, position, head, place] holds "
                    "(row+1)·1000 + (position+1)·100 + (head+1)·10 + place+1)")

def grown_behave(f, B, old, G, D, lens, S):
    got = f(a_cache(B, old, G, D), list(lens), S)
    return str(getattr(got, "dtype", "")), plain(got)

growing = Exercise("3. The cache that grew", 2, grown_check, grower(),
    probes=[(2, 2, 1, 1, [2, 1], 3), (2, 3, 2, 1, [3, 2], 5), (3, 2, 1, 2, [1, 2, 1], 4),
            (2, 6, 2, 1, [2, 3], 4), (2, 3, 2, 2, [2, 3], 6)],
    behave=grown_behave,
    wrong=[
        Wrong("the layout is scrambled",
              "the numbers lie in memory row after row. When each row gets longer, the second row no longer "
              "begins where it did, so tokens of one row end up in another.",
              grower("flat")),
        Wrong("old rubbish is kept",
              "behind a row's own length there may be anything: tokens of a talk that has ended. A new "
              "cache begins with zeros there.",
              grower("garbage")),
        Wrong("all rows are as long as the longest",
              "each row has its own length, and what stands behind it is not to be kept.",
              grower("longest")),
        Wrong("all rows are as long as the shortest",
              "tokens are lost: each row keeps as many as `lens` says.",
              grower("shortest")),
        Wrong("the last token is lost",
              "a row of n tokens holds positions 0 to n-1, which is `[:n]`.",
              grower("one less")),
        Wrong("moved to the right",
              "a token's position is what the causal mask and RoPE go by: it must stay where it was.",
              grower("right")),
        Wrong("heads for positions",
              "positions are the second dimension, heads the third.",
              grower("heads")),
        Wrong("rows flow together",
              "each row begins at its own place; you lay the tokens of all rows end to end.",
              grower("packed")),
        Wrong("the last tokens instead of the first",
              "the tokens of a row stand at its beginning; at the end of the old buffer there is rubbish.",
              grower("newest")),
        Wrong("everything into the first row",
              "every row of the old cache is a row of the new one.",
              grower("first")),
        Wrong("another dtype",
              "the new cache must be of the old one's dtype, or the next product fails.",
              grower("dtype"))])

# ---- 4. by hand: by_hand(q_BTHD, k_BTGD, v_BTGD, cache, window) -> (B,T,H,D) ----

class Fused(TorchDispatchMode):
    "Notes whether somebody else's attention is called"
    def __init__(self):
        super().__init__()
        self.used = False
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.used = self.used or "attention" in str(func)
        return func(*args, **(kwargs or {}))

def some_heads(seed, B, T, H, G, D):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, T, n, D, generator=g, dtype=torch.float64) for n in (H, G, G)]

def by_formula(q, k, v, window):
    "The whole pass, (B,T,H,D)"
    B, T, H, D = q.shape
    k, v = (t.repeat_interleave(H//k.size(2), 2) for t in (k, v))
    back = torch.arange(T)[:, None]-torch.arange(T)
    seen = (back >= 0) & (back <= (window or T))
    scores = torch.einsum("bthd,bshd->bhts", q, k)/D**.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~seen, -math.inf).softmax(-1), v)

@in_child
def in_pieces(answer, seed, B, H, G, D, window, cuts):
    "What comes out for two talks that take turns, each with its own cache, piece by piece; was help used?"
    talks = [some_heads(seed+i, B, sum(cuts), H, G, D) for i in range(2)]
    caches, outs, start = [{}, {}], [[], []], 0
    with torch.no_grad(), Fused() as seen:
        for n in cuts:
            for talk, cache, out in zip(talks, caches, outs):
                piece = [t[:, start:start+n].clone() for t in talk]
                y = answer(*piece, cache, window)
                assert torch.is_tensor(y), f"a tensor is asked for, not a {type(y).__name__}"
                found = tuple(y.shape)
                assert found == (B, n, H, D), f"the shape should be {(B, n, H, D)}, not {found}"
                out.append(y)
            start += n
    return [torch.cat(out, 1) for out in outs], seen.used

@in_child
def slopes(answer, seed, B, T, H, G, D, window):
    "Gradients of a whole pass with respect to q, k and v; None where there is none"
    tensors = [t.requires_grad_() for t in some_heads(seed, B, T, H, G, D)]
    y = answer(*tensors, {}, window)
    assert torch.is_tensor(y) and y.requires_grad, "no gradient flows through your result"
    return list(torch.autograd.grad(y.square().sum(), tensors, allow_unused=True))

def hander(cache="keep", groups="interleave", scale="D", off=0, front=False, after=False, steps_too=True,
           cut=None, causal=True, no_window=False, grad=True, heads_last=False, shared=False,
           keys_only=False):
    "The answer, with switches for its mistakes"
    everybody = {}
    def by_hand(q_BTHD, k_BTGD, v_BTGD, cache_of_talk, window):
        B, T, H, D = q_BTHD.shape
        held = everybody if shared and cache_of_talk is not None else cache_of_talk
        k, v = k_BTGD, v_BTGD
        if not grad:
            k, v = k.detach(), v.detach()
        if cache != "none" and "k" in held and held["k"].size(0) == B and held["k"].shape[2:] == k.shape[2:]:
            k = torch.cat((held["k"], k), 1)
            v = torch.cat((held["v"], v), 1)
        if keys_only:
            v = F.pad(v_BTGD, (0, 0, 0, 0, k.size(1)-T, 0))
        keep = len(k[0]) if cut is None or not window else max(0, window+cut)
        held["k"], held["v"] = (k_BTGD, v_BTGD) if cache == "newest" else (
            k[:, max(0, k.size(1)-keep):], v[:, max(0, v.size(1)-keep):])
        S, n = k.size(1), H//k.size(2)
        if groups == "interleave":
            k, v = k.repeat_interleave(n, 2), v.repeat_interleave(n, 2)
        else:
            k, v = k.repeat(1, 1, n, 1), v.repeat(1, 1, n, 1)
        by = dict(D=D**.5, none=1., all=(H*D)**.5)[scale]
        scores = torch.einsum("bthd,bshd->bhts", q_BTHD, k)/by
        back = (torch.arange(T)+(0 if front else S-T))[:, None]-torch.arange(S)
        seen = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
        if window and not no_window and (steps_too or T > 1):
            seen = seen & (back <= window+off)
        w = scores.softmax(-1)*seen if after else scores.masked_fill(~seen, -math.inf).softmax(-1)
        y = torch.einsum("bhts,bshd->bthd", w, v)
        return y.transpose(1, 2).reshape(B, T, H, D) if heads_last else y
    return by_hand

PIECES = [(1, 1, 1, 2, 0, [1]), (1, 1, 1, 2, 0, [3]), (1, 1, 1, 2, 0, [1, 1]), (2, 2, 2, 4, 0, [3, 1, 1]),
          (1, 4, 2, 2, 0, [4]), (2, 6, 2, 4, 0, [2, 3, 1]), (1, 2, 2, 4, 2, [6]),
          (1, 2, 1, 4, 1, [3, 1, 1, 1]),
          (2, 4, 2, 8, 3, [4, 1, 1, 3, 1, 2]), (3, 4, 1, 4, 5, [1]*9), (1, 2, 2, 16, 40, [5, 2, 1])]

def hand_check(answer):
    for k, (B, H, G, D, window, cuts) in enumerate(PIECES):
        say = (f"by_hand with {many(B, 'row')}, {many(H, 'query head')} on {many(G, 'key head')} of {D}, "
               f"window={window}, tokens in pieces of {cuts}")
        outs, helped = in_pieces(answer, 10*k, B, H, G, D, window, cuts)
        assert not helped, f"{say}: a ready-made attention was called; only products and softmax, please"
        for i, out in enumerate(outs):
            want = by_formula(*some_heads(10*k+i, B, sum(cuts), H, G, D), window)
            off = (out-want).abs().amax((0, 2, 3))
            wrong = next((t for t in range(len(off)) if not off[t] < 1e-5), None)
            if wrong is None:
                continue
            piece = next(j for j in range(len(cuts)) if wrong < sum(cuts[:j+1]))
            turn = "" if i == 0 else "; the second of two talks that take turns, each with a cache of its own"
            raise AssertionError(f"{say}: the output at position {wrong} (piece {piece+1}) is not that of "
                                 f"the whole pass{turn}: {plain(out[0, wrong, 0], 3)} instead of "
                                 f"{plain(want[0, wrong, 0], 3)} in row 0, head 0")
    B, T, H, G, D, window = 2, 6, 4, 2, 4, 3
    got = slopes(answer, 5, B, T, H, G, D, window)
    tensors = [t.requires_grad_() for t in some_heads(5, B, T, H, G, D)]
    want = torch.autograd.grad(by_formula(*tensors, window).square().sum(), tensors)
    for name, a, b in zip("qkv", got, want):
        assert a is not None, f"by_hand: the numbers are right, but no gradient reaches {name}"
        assert near(a, b), f"by_hand: the numbers are right, but the gradient of {name} is not"

def hand_behave(f, B, H, G, D, window, cuts):
    try:
        outs, helped = in_pieces(f, 3, B, H, G, D, window, cuts)
        grads = slopes(f, 3, B, 3, H, G, D, window)
    except AssertionError as e:
        return str(e).split(": ", 1)[-1]
    return plain(outs, 3), helped, [g is None or plain(g, 3) for g in grads]

handmade = Exercise("4. By hand", 4, hand_check, hander(),
    probes=[(1, 2, 2, 4, 0, [3, 1]), (1, 4, 2, 2, 2, [5, 1, 1]), (2, 2, 1, 4, 1, [2, 2, 1])],
    behave=hand_behave,
    wrong=[
        Wrong("nothing is remembered",
              "the first piece is right, and then the past is gone: put the keys and values into `cache`, "
              "and look there first.",
              hander(cache="none")),
        Wrong("only the newest are kept",
              "the cache holds the last piece only. What must it hold after the second piece?",
              hander(cache="newest")),
        Wrong("a step sees only the beginning",
              "after a first piece the new queries stand at the *end* of the keys: the first of them at "
              "S-T, not at 0.",
              hander(front=True)),
        Wrong("√D is forgotten",
              "the scores must be divided by √D before the softmax.",
              hander(scale="none")),
        Wrong("√ of all channels",
              "D is the width of *one head*, not of all heads together.",
              hander(scale="all")),
        Wrong("mask after softmax",
              "hidden keys have been counted in the softmax. Give them the score -∞ before it.",
              hander(after=True)),
        Wrong("the future is seen",
              "within a piece a token must not see the tokens after it.",
              hander(causal=False)),
        Wrong("groups in the wrong order",
              "with 4 query heads on 2 key heads, heads 0 and 1 share the first and 2 and 3 the second. "
              "`repeat` lays the key heads out as 0 1 0 1; you need 0 0 1 1.",
              hander(groups="tile")),
        Wrong("the window is ignored",
              "a query sees itself and at most `window` positions back.",
              hander(no_window=True)),
        Wrong("single steps ignore the window",
              "whole passes keep to the window, and a step of one token sees everything. The model was not "
              "trained that way.",
              hander(steps_too=False)),
        Wrong("one position too few",
              "a window of W shows the query itself *and* W positions before it: W+1 keys.",
              hander(off=-1)),
        Wrong("one position too many",
              "a window of W shows the query itself and W positions before it, W+1 keys in all.",
              hander(off=1)),
        Wrong("thrown away too early",
              "it is clever to keep only what a window can still see. The next query sees W positions back, "
              "so W must be kept; you keep one fewer.",
              hander(cut=-1)),
        Wrong("one cache for all talks",
              "two talks take turns here, and each brings its own `cache`. Yours finds the other's tokens: "
              "nothing may be kept outside the dict.",
              hander(shared=True)),
        Wrong("values are not remembered",
              "the old keys are found again, their values are not.",
              hander(keys_only=True)),
        Wrong("cut off from keys and values",
              "the numbers are right, but keys and values are detached: a model could not learn what to "
              "offer.",
              hander(grad=False)),
        Wrong("heads and positions exchanged at the end",
              "the result has the right shape, but its numbers stand in the wrong places: a transpose "
              "before a reshape.",
              hander(heads_last=True))])

# ---- 5. a copier: write(prompts_BT, n) -> (B,n) ----

LETTERS, PROMPT = 24, 20

def repeating_rows(B, T, seed):
    "Rows of random letters that repeat with a period of 10 to 16"
    g = torch.Generator().manual_seed(seed)
    period = torch.randint(10, 17, (B, 1), generator=g)
    letters = torch.randint(LETTERS, (B, T), generator=g)
    return letters.gather(1, torch.arange(T)[None] % period)

class Reading(TorchDispatchMode):
    "Counts the tokens that are looked up in a table of embeddings"
    def __init__(self):
        super().__init__()
        self.tokens = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "embedding" in str(func) and "backward" not in str(func) and len(args) > 1:
            self.tokens += args[1].numel()
        return func(*args, **(kwargs or {}))

@in_child
def written_on(answer, B, n, seed):
    "What is written after B prompts, and how many tokens were read"
    prompts = repeating_rows(B, PROMPT, seed)
    before = prompts.clone()
    with torch.no_grad(), Reading() as read:
        got = answer(prompts, n)
    assert torch.equal(prompts, before), "your code changes the prompts"
    return got, read.tokens

def scribe(rule="copy", again=False, whole=False, blind=False):
    "An answer without a network: it finds the period, and reads the tokens as a model would"
    def write(prompts_BT, n):
        table = torch.zeros(LETTERS, 2)
        rows = [list(map(int, row)) for row in prompts_BT]
        if not blind:
            F.embedding(prompts_BT, table)
        out = []
        for row in rows:
            first = next((p for p in range(10, 17) if row[p:] == row[:len(row)-p]), 16)
            new = []
            for _ in range(n):
                done = row+new
                back = dict(copy=first, early=first+1, late=first-1, beginning=len(row), last=1, ten=10)[rule]
                new.append(done[len(done)-back])
            out.append(row+new if whole else new)
        for i in range(n-1):
            if not blind:
                news = [new[-n:] for new in out]
                read = [row+new[:i+1] if again else [new[i]] for row, new in zip(rows, news)]
                F.embedding(torch.tensor(read), table)
        return torch.tensor(out)
    return write

def copier_check(answer):
    for B, n, seed in ((1, 1, 1), (1, 4, 2), (3, 8, 3), (64, 10, 4)):
        say = f"write(prompts, {n}) with {many(B, 'prompt')} of {PROMPT} letters"
        got, read = written_on(answer, B, n, seed)
        got = a_tensor(say, got, (B, n))
        assert not got.dtype.is_floating_point, f"{say}: letters are whole numbers, not {got.dtype}"
        least, most = B*(PROMPT+n-1), B*(PROMPT+n)
        assert read > 0, f"{say}: no token was looked up in an `nn.Embedding`: let your model write"
        assert read <= most, (f"{say}: your model read {read:,} tokens; with a cache each of them is read "
                              f"once, which makes {least:,} to {most:,}")
        assert read >= least, f"{say}: your model read only {many(read, 'token')} of {least:,}"
        if B < 64:
            continue
        prompts = repeating_rows(B, PROMPT, seed)
        truth = continued(prompts, n)
        share = (got == truth).double().mean().item()
        assert share >= .8, (f"{say}: {share:.0%} of the letters are what the row repeats; 80% are asked "
                             f"for. After {plain(prompts[0])} comes {plain(truth[0])}, and yours are "
                             f"{plain(got[0])}")

def continued(prompts, n):
    "What a row repeats, for rows whose period shows"
    return scribe()(prompts, n)

def copier_behave(f, B, n, seed):
    try:
        got, read = written_on(f, B, n, seed)
    except AssertionError as e:
        return str(e).split(": ", 1)[-1]
    share = (got == continued(repeating_rows(B, PROMPT, seed), n)).double().mean().item() if (
        torch.is_tensor(got) and got.shape == (B, n)) else None
    return plain(got), read > B*(PROMPT+n), read == 0, share is not None and share > .8

copying = Exercise("5. A copier", 4, copier_check, scribe(), seconds=40,
    probes=[(8, 6, 7), (4, 10, 8)], behave=copier_behave,
    wrong=[
        Wrong("everything is read again",
              "the letters are right, but each step reads the whole row. Keep the caches between the steps, "
              "and hand over only the newest letter.",
              scribe(again=True)),
        Wrong("one step behind",
              "what is predicted at a position is the *next* letter. You continue with the letter before it.",
              scribe("early")),
        Wrong("one letter is left out",
              "the first letter that you give back is the one after the next. The logits of the prompt's "
              "last position are the first letter's.",
              scribe("late")),
        Wrong("the last letter again and again",
              "each step must read the letter that was just written.",
              scribe("last")),
        Wrong("the prompt from its beginning",
              "the row repeats in the middle of the prompt already: after its last letter comes what "
              "followed that letter the first time.",
              scribe("beginning")),
        Wrong("always ten back",
              "the period is 10 in some rows only. Whoever looks ten back does not look at the letters.",
              scribe("ten")),
        Wrong("the prompt is given back, too",
              "only the new letters are asked for: (B, n).",
              scribe(whole=True)),
        Wrong("nothing is read",
              "no letter went through an embedding: this was not written by a model.",
              scribe(blind=True))])

EXERCISES = dict(weights=weighing, pairs=pairing, grown=growing, by_hand=handmade, copier=copying)
