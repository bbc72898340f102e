"Checks and known wrong answers for the exercises of chapter 09"
import functools, math
import torch
import torch.nn.functional as F
from torch import nn
from grade import Exercise, Wrong, in_child
from graders.common import call, many, something

def plain(a, digits=4):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [plain(x, digits) for x in a]
    if isinstance(a, dict):
        return {str(k): plain(v, digits) for k, v in a.items()}
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

# ---- 1. the cap that came too early: capped(x_BTC, w_VC, cap) -> logits (B,T,V) in float32 ----

def capper(order="product cast cap", bend=torch.tanh, times=True, divided=True, nought=True):
    "The answer, with switches for its mistakes"
    def capped(x_BTC, w_VC, cap):
        def bent(t):
            if cap == 0 and nought:
                return t
            y = bend(t/cap if divided else t)
            return cap*y if times else y
        wide = "wide" in order
        logits = x_BTC.float() @ w_VC.float().T if wide else x_BTC @ w_VC.to(x_BTC.dtype).T
        if order == "product cap cast":
            return bent(logits).float()
        if order == "no cast":
            return bent(logits)
        if order == "cast back":
            return bent(logits.float()).to(x_BTC.dtype)
        return bent(logits.float())
    return capped

def hard_cap(x_BTC, w_VC, cap):
    "Cut off and not bent"
    logits = (x_BTC @ w_VC.to(x_BTC.dtype).T).float()
    return logits.clamp(-cap, cap) if cap else logits

def stream_and_head(seed, B, T, C, V, dtype):
    "Whole numbers whose products bfloat16 knows exactly, whatever the order of the sum"
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (B, T, C), generator=g).to(getattr(torch, dtype))
    return x, torch.randint(-8, 9, (V, C), generator=g).float()

CAPPED = [(1, 1, 1, 1, 3, 15., "bfloat16"), (2, 1, 1, 2, 3, 15., "bfloat16"),
          (3, 2, 3, 4, 5, 15., "bfloat16"), (4, 1, 2, 3, 4, 0., "bfloat16"),
          (5, 1, 2, 3, 4, 15., "float32"), (6, 1, 4, 8, 9, 30., "bfloat16"),
          (7, 1, 3, 4, 5, 0., "float32"), (8, 1, 4, 4, 6, 5., "bfloat16")]

def capped_check(answer):
    right = capper()
    for seed, B, T, C, V, cap, dtype in CAPPED:
        x, w = stream_and_head(seed, B, T, C, V, dtype)
        say = f"capped(x, w, cap={cap:g}) with x of {dtype}, "
        if B*T*C*V <= 12:
            say += f"{x.tolist()}, and w of float32, {w.tolist()}"
        else:
            say += f"{B}×{T}×{C}, and {V} rows"
        got = a_tensor(say, call(say, answer, x.clone(), w.clone(), cap), (B, T, V))
        assert got.dtype == torch.float32, f"{say}: the logits should be float32, and are {got.dtype}"
        assert got.isfinite().all(), f"{say}: there are logits that are no numbers: {plain(got)}"
        want = right(x, w, cap)
        worst = (got-want).abs().max().item()
        assert worst < 1e-4, f"{say}: the logits should be {plain(want)}, not {plain(got)}"
    x, w = torch.ones(1, 1, 1).bfloat16(), torch.tensor([[1.003], [3.01]])
    say = "capped(x, w, cap=15) with x of bfloat16, 1, and w of float32, 1.003 and 3.01"
    got, want = a_tensor(say, call(say, answer, x, w, 15.), (1, 1, 2)), right(x, w, 15.)
    assert (got-want).abs().max() < 1e-5, (
        f"{say}: the product is to be made in bfloat16, the stream's dtype: {plain(want)}, not {plain(got)}")

capping = Exercise("1. The cap that came too early", 2, capped_check, capper(),
    probes=[(2, 1, 1, 2, 3, 15., "bfloat16"), (3, 2, 3, 4, 5, 15., "bfloat16"),
            (4, 1, 2, 3, 4, 0., "bfloat16"), (5, 1, 2, 3, 4, 15., "float32"), (9, 1, 1, 1, 2, 15., "ones")],
    behave=lambda f, *case: capped_behave(f, *case),
    wrong=[
        Wrong("the cap comes before the cast",
              "the tanh is computed in bfloat16, which between 8 and 16 knows steps of 1/16 only; the cast "
              "after it can't bring back what is lost.",
              capper("product cap cast")),
        Wrong("no cast at all", "the logits come back in the stream's dtype; the loss wants float32.",
              capper("no cast")),
        Wrong("cast back again", "the cap is computed in float32 and then rounded to bfloat16 again.",
              capper("cast back")),
        Wrong("the product in float32",
              "the product is the expensive part: it is made in the stream's dtype, with the weights cast "
              "to it. Only what follows is made in float32.",
              capper("wide")),
        Wrong("into (-1, 1)", "the logits are bent into (-cap, cap): a factor is missing after the tanh.",
              capper(times=False)),
        Wrong("not divided first",
              "small logits should hardly change: tanh(x) bends from 1 on, and the cap is to bend from `cap` "
              "on.",
              capper(divided=False)),
        Wrong("cut off", "a hard limit has no slope beyond it: what is too large could never come back.",
              hard_cap),
        Wrong("cap 0", "with cap 0 the logits are left alone; you divide by it.", capper(nought=False)),
        Wrong("a sigmoid", "it bends into (0, cap), and half of all logits should be negative.",
              capper(bend=torch.sigmoid))])

def capped_behave(f, seed, B, T, C, V, cap, dtype):
    if dtype == "ones":
        got = f(torch.ones(1, 1, 1).bfloat16(), torch.tensor([[1.003], [3.01]]), cap)
    else:
        got = f(*stream_and_head(seed, B, T, C, V, dtype), cap)
    return str(getattr(got, "dtype", "")), plain(got)

# ---- 2. the scale that nobody filled: fill(shapes, n_layer) -> {name: tensor} ----

def filler(scales="all", bound=True, steps="last", unknown="refused", back="zero", fc=0.4, spread="uniform",
           alike=False, gates="positive", head="small"):
    "The answer, with switches for its mistakes"
    def fill(shapes, n_layer):
        weights = {}
        for name, shape in shapes.items():
            w = torch.full(tuple(shape), math.nan)
            C, ending = shape[-1], name.split(".")[-2] if "." in name else name
            if ending in ("c_q", "c_k", "c_v", "c_fc"):
                size = C**-.5*(fc if ending == "c_fc" else 1)
                edge = size*(3**.5 if bound else 1)
                w = w.uniform_(-edge, edge) if spread == "uniform" else w.normal_(std=size)
            elif ending == "c_proj":
                w = w.zero_() if back == "zero" else w.uniform_(-(3/C)**.5, (3/C)**.5)
            elif ending == "wte":
                w = w.normal_(std=.8)
            elif ending == "lm_head":
                w = w.normal_(std=.001) if head == "small" else w.zero_()
            elif ending == "smear_gate":
                w = w.uniform_(0, .02) if gates == "positive" else w.uniform_(-.02, .02)
            elif name in ("resid_scale", "x0_scale", "smear_scale", "backout_scale"):
                first, last = dict(resid_scale=(1.15, 1.05), x0_scale=(.2, .05), smear_scale=(0., 0.),
                                   backout_scale=(.2, .2))[name]
                if scales == "none" or scales == "vectors" and len(w) == 1:
                    pass
                elif len(w) == 1 and name.startswith(("smear", "backout")):
                    w.fill_(first)
                else:
                    share = [layer/(max(n_layer-1, 1) if steps == "last" else n_layer if steps == "count"
                                    else n_layer-1) for layer in range(n_layer)]
                    w = torch.tensor([first+(last-first)*(0 if alike else s) for s in share])
            elif unknown == "refused":
                raise ValueError(f"no rule for {name}")
            weights[name] = w
        return weights
    return fill

def some_shapes(n_layer, C, V):
    "Names and shapes of a model with scales, smear and backout"
    shapes = {"wte.weight": [V, C], "lm_head.weight": [V, C], "resid_scale": [n_layer], "x0_scale": [n_layer],
              "smear_scale": [1], "smear_gate.weight": [1, C], "backout_scale": [1]}
    for i in range(n_layer):
        for name, shape in dict(c_q=[C, C], c_k=[C//2, C], c_v=[C//2, C], c_proj=[C, C]).items():
            shapes[f"blocks.{i}.attn.{name}.weight"] = shape
        shapes[f"blocks.{i}.mlp.c_fc.weight"] = [4*C, C]
        shapes[f"blocks.{i}.mlp.c_proj.weight"] = [C, 4*C]
    return shapes

def spread_of(w):
    "What a sample says of its distribution: deviation, smallest, largest"
    return w.double().std().item(), w.min().item(), w.max().item()

def wanted_spread(name, C):
    "(deviation, smallest and largest possible) of the random weights; None: nothing is random"
    ending = name.split(".")[-2] if "." in name else ""
    if ending in ("wte", "lm_head"):
        return (.8 if ending == "wte" else .001), -math.inf, math.inf
    if ending == "smear_gate":
        return .02/12**.5, 0., .02
    if ending in ("c_q", "c_k", "c_v", "c_fc"):
        size = C**-.5*(.4 if ending == "c_fc" else 1)
        return size, -3**.5*size, 3**.5*size

def wanted_numbers(name, n_layer):
    "The constants; None where something random is wanted"
    line = {"resid_scale": (1.15, 1.05), "x0_scale": (.2, .05)}.get(name)
    if line:
        first, last = line
        return [first+(last-first)*layer/max(n_layer-1, 1) for layer in range(n_layer)]
    return {"smear_scale": [0.], "backout_scale": [.2]}.get(name)

def fill_check(answer):
    for n_layer, C, V in ((1, 32, 100), (2, 64, 200), (5, 128, 100)):
        shapes = some_shapes(n_layer, C, V)
        say = f"fill(shapes, n_layer={n_layer}) with C = {C}"
        got = call(say, answer, {k: list(v) for k, v in shapes.items()}, n_layer)
        assert isinstance(got, dict), f"{say}: a dict is asked for, not a {type(got).__name__}"
        missing = sorted(set(shapes)-set(got))
        assert not missing, f"{say}: {missing[0]} is missing in what comes back"
        for name, shape in shapes.items():
            w = a_tensor(f"{say}, {name}", got[name], shape).float()
            assert not w.isnan().any(), f"{say}: {name} was never filled: it holds what the memory held"
            numbers, spread = wanted_numbers(name, n_layer), wanted_spread(name, shape[-1])
            if numbers is not None:
                assert torch.allclose(w, torch.tensor(numbers), atol=1e-5), (
                    f"{say}: {name} should be {plain(numbers)}, and is {plain(w)}")
            elif spread is None:
                assert not w.any(), f"{say}: {name} writes back to the stream and begins at zero"
            else:
                size, least, most = spread
                std, low, high = spread_of(w)
                enough = .1 if w.numel() > 1000 else .35
                assert abs(std/size-1) < enough, (
                    f"{say}: the numbers of {name} should have a standard deviation of {size:.4g}, "
                    f"and have {std:.4g}")
                assert least*1.001 <= low and high <= most*1.001, (
                    f"{say}: the numbers of {name} should lie between {least:.4g} and {most:.4g}, "
                    f"and lie between {low:.4g} and {high:.4g}")
    say = 'fill({"blocks.0.attn.c_new.weight": [4, 4]}, 1)'
    try:
        answer({"blocks.0.attn.c_new.weight": [4, 4]}, 1)
    except ValueError:
        return
    raise AssertionError(f"{say}: no rule speaks of this name, so a ValueError is asked for; none came")

def fill_behave(f, n_layer, C, V, name):
    "One parameter, or an unknown one, in few digits"
    if name == "unknown":
        try:
            f({"blocks.0.attn.c_new.weight": [4, 4]}, 1)
        except Exception as e:
            return type(e).__name__
        return "passed"
    w = f(some_shapes(n_layer, C, V), n_layer).get(name)
    if not torch.is_tensor(w):
        return None
    if w.isnan().any() or not w.any() or w.ndim == 1:
        return plain(w.flatten()[:8])
    std, low, high = spread_of(w.float())
    size, least, most = wanted_spread(name, w.size(-1)) or (1., -9., 9.)
    return round(math.log(std/size, 1.2)), low >= least*1.001, high <= most*1.001

FILLED = [(5, 128, 100, name) for name in ("resid_scale", "x0_scale", "smear_scale", "backout_scale",
          "blocks.1.attn.c_q.weight", "blocks.4.mlp.c_fc.weight", "blocks.2.mlp.c_proj.weight",
          "lm_head.weight", "smear_gate.weight", "unknown")]

filling = Exercise("2. The scale that nobody filled", 3, fill_check, filler(),
    probes=[*FILLED, (1, 32, 100, "x0_scale")], behave=fill_behave,
    wrong=[
        Wrong("the bug itself",
              "the four scales are no matrices, so your loop passes them by, and they hold whatever the "
              "memory held before.",
              filler(scales="none")),
        Wrong("only the scales with a number for each layer",
              "`smear_scale` and `backout_scale` hold one number each, and nobody fills it.",
              filler(scales="vectors")),
        Wrong("the bound for the deviation",
              "a uniform distribution on (-b, b) has the standard deviation b/√3. You took the deviation for "
              "the bound.",
              filler(bound=False)),
        Wrong("normal for uniform", "uniform numbers are asked for: they have no outliers.",
              filler(spread="normal")),
        Wrong("the last layer does not reach its value",
              "from layer 0 to layer n_layer-1 there are n_layer-1 steps.", filler(steps="count")),
        Wrong("one layer, no step", "with a single layer you divide by zero.", filler(steps="naked")),
        Wrong("all layers alike", "the scales of the stream and of the first embedding fall with the depth.",
              filler(alike=True)),
        Wrong("an unknown name passes",
              "the next person who adds a parameter has your bug again: a name without a rule must be "
              "refused.",
              filler(unknown="passed")),
        Wrong("the ways back are not zero",
              "`c_proj` writes to the stream. With zeros a fresh block adds nothing.", filler(back="random")),
        Wrong("0.4 is forgotten", "`c_fc` begins smaller than the queries: 0.4/√C.", filler(fc=1.)),
        Wrong("a gate below zero", "the gate's numbers lie between 0 and 0.02, not on both sides of 0.",
              filler(gates="both")),
        Wrong("a head of zeros", "in this table the head is not zero but small: 0.001.",
              filler(head="zero"))])

# ---- 3. find the leak: first_leak(model, ids, V) -> None or (t, s) ----

def toy(kind):
    "A model of whole rows: a list of ids becomes a list of T rows of logits; causal, or leaky in some way"
    def share(j, token, v):
        return math.sin(1.7*j+2.3*token+3.1*v)
    def model(ids):
        T, V = len(ids), 5
        rows = [[sum(share(j, ids[j], v)/(t-j+1) for j in range(t+1)) for v in range(V)] for t in range(T)]
        sees = []                                      # (t, s, strength): t sees the later token s
        if kind == "smear":
            sees = [(t, t+1, .3) for t in range(T-1)]
        if kind == "row":                              # a norm over the whole row
            sees = [(t, s, .01) for t in range(T) for s in range(t+1, T)]
        if kind == "last":
            sees = [(t, T-1, .2) for t in range(1, T-1)]
        if kind == "heads":                            # a view where a transpose was needed
            sees = [(t, s, .5) for t in range(T) for s in (2*t % T, (2*t+1) % T) if s > t]
        if kind == "far":
            sees = [(2, s, .1) for s in range(5, T)]
        if kind == "two":
            sees = [(t, s, .1) for t, s in ((3, 4), (1, 6), (1, 5)) if s < T]
        if kind == "gated":                            # a gate that one token alone opens
            sees = [(t, t+1, .3) for t in range(T-1) if ids[t] == 4]
        if kind == "padding":                          # id 0 is taken for the end of the row
            sees = [(t, s, .4) for t in range(T) for s in range(t+1, T) if ids[s] == 0]
        if kind == "middle":
            sees = [(3, 4, .2)] if T > 4 else []
        for t, s, strength in sees:
            for v in range(V):
                rows[t][v] += strength*share(s, ids[s], v)
        if kind == "jitter":                           # the last bits depend on how a sum is cut into pieces
            rows = [[x+1e-9*math.sin(sum(ids)+v) for v, x in enumerate(row)] for row in rows]
        return rows
    return model

LEAKS = ("none", "smear", "row", "last", "heads", "far", "two", "gated", "padding", "middle", "jitter")

@in_child
def finding(answer, kind, ids):
    "What an answer says of a model"
    return answer(toy(kind), list(ids), 5)

def hunter(later="each", others="all", order="ts", near=1e-6, nothing=None, itself=False, next_only=False,
           pick="t", row="given"):
    "The answer, with switches for its mistakes"
    def first_leak(model, ids, V):
        base_ids = list(ids) if row == "given" else [1]*len(ids)
        base, T, found = model(base_ids), len(ids), []
        for s in range(T) if later == "each" else [T-1]:
            for token in range(V) if others == "all" else [(base_ids[s]+1) % V]:
                other = model([*base_ids[:s], token, *base_ids[s+1:]])
                moved = [t for t in range(T) if max(abs(a-b) for a, b in zip(base[t], other[t])) > near]
                found += [(t, s) for t in moved if t < s or itself and t == s]
        if next_only:
            found = [(t, s) for t, s in found if s == t+1]
        if not found:
            return nothing
        t, s = min(found) if pick == "t" else min(found, key=lambda pair: pair[::-1])
        return (t, s) if order == "ts" else (s, t)
    return first_leak

def leak_check(answer):
    right = hunter()
    rows = [[1, 2], [3], [1, 4, 2, 3], [2, 1, 3, 4, 1, 2, 4], [0, 3, 1, 2, 4, 0, 1, 3]]
    for kind in LEAKS:
        for ids in rows:
            told = dict(none="a model without a leak", jitter="a model without a leak (its logits jitter by "
                        "1e-9, as sums do)").get(kind, "a model that leaks")
            say = f"first_leak(model, {ids}, 5) with {told}"
            got, want = finding(answer, kind, ids), right(toy(kind), ids, 5)
            if want is None:
                assert got is None, f"{say} in this row: None is asked for, not {got!r}"
                continue
            got = tuple(got) if isinstance(got, list) else got
            t, s = want
            assert got == want, (f"{say}: the logits at position {t} change with the token at position {s}, "
                                 f"so ({t}, {s}); you say {got!r}")

leak = Exercise("3. Find the leak", 3, leak_check, hunter(),
    probes=[(kind, ids) for kind in LEAKS
            for ids in ([1, 4, 2, 3], [2, 1, 3, 4, 1, 2, 4], [0, 3, 1, 2, 4, 0, 1])],
    behave=lambda f, kind, ids: plain(finding(f, kind, ids)),
    wrong=[
        Wrong("only the last token is changed",
              "a leak from the middle of the row is missed, and where there is one from the last token you "
              "name that. Change each position in turn.",
              hunter(later="last")),
        Wrong("one other token is not enough",
              "one of the models takes the token 0 for the end of the row. Nothing moves until a 0 comes in "
              "or goes out: try every token.",
              hunter(others="next")),
        Wrong("only the next token is looked at",
              "a position may see any later one: two ahead, or the last of the row.",
              hunter(next_only=True)),
        Wrong("a position may see itself",
              "t depends on the token at t, and should: s must be larger than t.",
              hunter(itself=True)),
        Wrong("the pair is turned round", "(t, s): first the position whose logits move, then the token.",
              hunter(order="st")),
        Wrong("the first token, not the first position",
              "among all pairs the smallest *t* is asked for, and for that t the smallest s.",
              hunter(pick="s")),
        Wrong("rounding is no leak",
              "the last bits of a sum depend on how it is cut. Only what moves by more than 1e-6 counts.",
              hunter(near=0.)),
        Wrong("too coarse", "a leak of a hundredth is a leak: what moves by more than 1e-6 counts.",
              hunter(near=.05)),
        Wrong("another row", "start from the row that you are given: whether a leak shows may depend on it.",
              hunter(row="ones")),
        Wrong("False for None", "where nothing leaks the task wants None.", hunter(nothing=False))])

# ---- 4. your block: a class of n_embd, n_head, n_kv_head, window with forward(x_BTC, cos, sin) ----

SIX = dict(c_q="attn.c_q", c_k="attn.c_k", c_v="attn.c_v", c_proj="attn.c_proj", c_fc="mlp.c_fc",
           c_out="mlp.c_proj")

def seeing(q, k, v, window):
    "Causal attention, (B,T,H,D), with few keys for many queries"
    B, T, H, D = q.shape
    k, v = (t.repeat_interleave(H//k.size(2), 2) for t in (k, v))
    back = torch.arange(T)[:, None]-torch.arange(T)
    hidden = (back < 0) | (back > (window or T))
    scores = torch.einsum("bthd,bshd->bhts", q, k)/D**.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(hidden, -math.inf).softmax(-1), v)

def turn(x, cos, sin):
    "RoPE with halves as pairs"
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a*cos+b*sin, b*cos-a*sin), -1)

def rms(x, dims=(-1,)):
    return x*torch.rsqrt(x.square().mean(dims, keepdim=True)+2**-23)

def blocker(norms="both", bend="relu2", qk_norm=True, rope="qk", streams="add", start="zero", mixed=False,
            windowed=True, causal=True, shared=True, whole_row=False, bias=False, size=1.):
    "The answer, with switches for its mistakes"
    class MyBlock(nn.Module):
        def __init__(self, n_embd, n_head, n_kv_head, window):
            super().__init__()
            self.H, self.G, self.window = n_head, n_kv_head, window if windowed else 0
            D = n_embd//n_head
            E = D*n_kv_head
            shapes = dict(c_q=(n_embd, n_embd), c_k=(n_embd, E), c_v=(n_embd, E), c_proj=(n_embd, n_embd),
                          c_fc=(n_embd, 4*n_embd), c_out=(4*n_embd, n_embd))
            for name, (n_in, n_out) in shapes.items():
                matrix = nn.Linear(n_in, n_out, bias=bias)
                if start != "torch":
                    edge = size*(3/n_in)**.5
                    nn.init.uniform_(matrix.weight, -edge, edge)
                if name in ("c_proj", "c_out") and start == "zero":
                    nn.init.zeros_(matrix.weight)
                setattr(self, name, matrix)

        def attention(self, x, cos, sin):
            B, T, C = x.shape
            D = C//self.H
            q = self.c_q(x).view(B, T, self.H, D)
            k, v = (m(x).view(B, T, self.G, D) for m in (self.c_k, self.c_v))
            if rope != "none":
                q, k = turn(q, cos, sin), turn(k, cos, sin)
            if rope == "qkv":
                v = turn(v, cos, sin)
            if qk_norm:
                q, k = rms(q), rms(k)
            if not shared:
                n = self.H//self.G
                k, v = k.repeat(1, 1, n, 1), v.repeat(1, 1, n, 1)
            if causal:
                y = seeing(q, k, v, self.window)
            else:
                k, v = (t.repeat_interleave(self.H//t.size(2), 2) for t in (k, v))
                w = (torch.einsum("bthd,bshd->bhts", q, k)/D**.5).softmax(-1)
                y = torch.einsum("bhts,bshd->bthd", w, v)
            y = y.transpose(1, 2).reshape(B, T, C) if mixed else y.reshape(B, T, C)
            return self.c_proj(y)

        def mlp(self, x):
            h = self.c_fc(x)
            return self.c_out(dict(relu2=lambda: h.relu().square(), relu=h.relu,
                                   gelu=lambda: F.gelu(h), square=h.square)[bend]())

        def forward(self, x, cos, sin):
            dims = (1, 2) if whole_row else (-1,)
            first = rms(x, dims) if norms in ("both", "first") else x
            if streams == "parallel":
                return x+self.attention(first, cos, sin)+self.mlp(rms(x, dims))
            if streams == "replace":
                x = self.attention(first, cos, sin)
                return self.mlp(rms(x, dims))
            if norms == "after":
                x = rms(x+self.attention(x, cos, sin))
                return rms(x+self.mlp(x))
            if streams == "norm kept":
                x = first+self.attention(first, cos, sin)
                second = rms(x)
                return second+self.mlp(second)
            x = x+self.attention(first, cos, sin)
            second = rms(x, dims) if norms in ("both", "second") else x
            return x+self.mlp(second)
    return MyBlock

def angles(T, D):
    "Cosines and sines (T,D/2) as the library's"
    frequency = 10_000.**-(torch.arange(0, D, 2)/D)
    at = torch.arange(T)[:, None]*frequency
    return at.cos(), at.sin()

@in_child
def fresh_block(answer, shape, seed):
    "The parameters of a new block, what it makes of a stream, and modules that others wrote"
    torch.manual_seed(seed)
    n_embd, n_head, n_kv_head, window = shape
    block = answer(n_embd, n_head, n_kv_head, window)
    assert isinstance(block, nn.Module), f"MyBlock should be an nn.Module, not a {type(block).__name__}"
    lent = sorted({type(m).__name__ for m in block.modules() if type(m).__module__ == "nanochat.gpt"})
    x = torch.randn(2, 5, n_embd)
    cos, sin = angles(5, n_embd//n_head)
    with torch.no_grad():
        y = block(x.clone(), cos, sin)
    weights = {name: p.detach() for name, p in block.named_parameters()}
    return weights, x, y, lent

@in_child
def with_weights(answer, shape, weights, x, slope=False):
    "What a block with these six matrices makes of a stream, and the gradients of all six"
    n_embd, n_head, n_kv_head, window = shape
    block = answer(n_embd, n_head, n_kv_head, window)
    cos, sin = angles(x.size(1), n_embd//n_head)
    mine = dict(block.named_parameters())
    with torch.no_grad():
        for name, w in weights.items():
            mine[f"{name}.weight"].copy_(w)
    y = block(x.clone(), cos, sin)
    if not slope:
        return y
    assert torch.is_tensor(y) and y.requires_grad, "no gradient flows through your block"
    y.square().mean().backward()
    return [name for name in weights if mine[f"{name}.weight"].grad is None]

def six_matrices(n_embd, n_head, n_kv_head, seed):
    "Random weights, none of them zero"
    g = torch.Generator().manual_seed(seed)
    E = n_embd//n_head*n_kv_head
    shapes = dict(c_q=(n_embd, n_embd), c_k=(E, n_embd), c_v=(E, n_embd), c_proj=(n_embd, n_embd),
                  c_fc=(4*n_embd, n_embd), c_out=(n_embd, 4*n_embd))
    return {name: torch.randn(s, generator=g)/s[1]**.5 for name, s in shapes.items()}

def library_block(n_embd, n_head, n_kv_head, window, weights, x):
    "The same in the library"
    from nanochat.gpt import Block, GPTConfig
    block = Block(GPTConfig(n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head, window=window), 0)
    named = dict(block.named_parameters())
    with torch.no_grad():
        for name, w in weights.items():
            named[f"{SIX[name]}.weight"].copy_(w)
        return block(x, *angles(x.size(1), n_embd//n_head))

BLOCKS = [((8, 1, 1, 0), 1), ((8, 2, 2, 0), 4), ((16, 4, 2, 0), 6), ((32, 4, 1, 3), 9), ((24, 2, 2, 1), 12),
          ((64, 4, 4, 20), 12)]

def block_check(answer):
    for shape in ((64, 4, 2, 0), (128, 2, 2, 4)):
        n_embd, n_head, n_kv_head, window = shape
        say = f"MyBlock(n_embd={n_embd}, n_head={n_head}, n_kv_head={n_kv_head}, window={window})"
        weights, x, y, lent = fresh_block(answer, shape, 3)
        assert not lent, f"{say} is made of the library's {', '.join(lent)}: write the parts yourself"
        wanted = {f"{name}.weight": tuple(w.shape) for name, w in six_matrices(*shape[:3], 0).items()}
        found = {name: tuple(w.shape) for name, w in weights.items()}
        extra, missing = sorted(set(found)-set(wanted)), sorted(set(wanted)-set(found))
        assert not missing, f"{say}: there is no {missing[0]}; its parameters are {', '.join(sorted(found))}"
        assert not extra, f"{say}: {extra[0]} is too much: six matrices without bias are asked for"
        for name, size in wanted.items():
            assert found[name] == size, f"{say}: {name} should have the shape {size}, not {found[name]}"
        a_tensor(f"{say}, then block(x, cos, sin)", y, x.shape)
        for name in ("c_proj.weight", "c_out.weight"):
            assert not weights[name].any(), (
                f"{say}: {name} writes back to the stream and should begin at zero, so that a fresh block "
                "adds nothing")
        assert torch.equal(x, y), f"{say}: a fresh block should hand its stream through, to the bit"
        for name in ("c_q", "c_k", "c_v", "c_fc"):
            std = weights[f"{name}.weight"].std().item()
            assert .9 < std*n_embd**.5 < 1.1, (
                f"{say}: the weights of {name} should have a standard deviation of 1/√C = {n_embd**-.5:.4f} "
                f"at the start, and have {std:.4f}")
    for shape, T in BLOCKS:
        n_embd, n_head, n_kv_head, window = shape
        say = (f"MyBlock(n_embd={n_embd}, n_head={n_head}, n_kv_head={n_kv_head}, window={window}) with "
               f"copied weights, on {many(T, 'token')}")
        weights, x = six_matrices(n_embd, n_head, n_kv_head, T), some_stream(2, T, n_embd)
        y = a_tensor(say, with_weights(answer, shape, weights, x), x.shape)
        want = library_block(*shape, weights, x)
        late = x.clone()
        late[:, -1] += 1
        moved = with_weights(answer, shape, weights, late)
        assert T == 1 or torch.allclose(moved[:, :-1], y[:, :-1], atol=1e-5), (
            f"{say}: when only the last token changes, earlier outputs change, too: there is a leak")
        off = (y-want).abs().amax((0, 2))
        t = next((t for t in range(T) if not off[t] < 1e-4), None)
        assert t is None, (f"{say}: at position {t} the output differs from the library's by {off[t]:.3f}: "
                           f"{plain(y[0, t, :4], 3)} … instead of {plain(want[0, t, :4], 3)} …")
    shape = (32, 4, 2, 3)
    dry = with_weights(answer, shape, six_matrices(32, 4, 2, 1), some_stream(2, 6, 32), True)
    assert not dry, f"MyBlock: no gradient reaches {', '.join(dry)}"

def some_stream(B, T, C):
    "Vectors of different lengths, as a stream has them"
    g = torch.Generator().manual_seed(T)
    return torch.randn(B, T, C, generator=g)*(1+3*torch.rand(B, T, 1, generator=g))

def block_behave(f, shape, T):
    if T == 0:
        weights, x, y, _ = fresh_block(f, shape, 5)
        named = {name: (tuple(w.shape), bool(w.any()), round(math.log(max(w.std().item(), 1e-9), 1.3)))
                 for name, w in weights.items()}
        return sorted(named.items()), bool(torch.equal(x, y))
    x = some_stream(2, T, shape[0])
    return plain(with_weights(f, shape, six_matrices(*shape[:3], T), x), 3)

block = Exercise("4. Your block", 4, block_check, blocker(),
    probes=[((64, 4, 2, 0), 0), ((8, 2, 2, 0), 4), ((16, 4, 2, 2), 6)], behave=block_behave,
    wrong=[
        Wrong("the attention reads the stream as it is",
              "both workers read a *normed* copy: the first norm is missing.", blocker(norms="second")),
        Wrong("the MLP reads the stream as it is",
              "both workers read a *normed* copy: the second norm is missing.", blocker(norms="first")),
        Wrong("norms after the sum",
              "that is the order of 2017: the stream itself is normed. Here only what a worker reads is.",
              blocker(norms="after")),
        Wrong("the normed copy goes on",
              "the workers read the normed copy, but what they write is added to the *stream*.",
              blocker(streams="norm kept")),
        Wrong("nothing is added", "the stream is replaced by what a worker says; it should be added to it.",
              blocker(streams="replace")),
        Wrong("side by side",
              "the MLP reads the stream as it was before attention. That is PaLM's block, not this one.",
              blocker(streams="parallel")),
        Wrong("the square is missing", "the bend is relu, squared.", blocker(bend="relu")),
        Wrong("the relu is missing", "you square without cutting off: -2 becomes 4 and should become 0.",
              blocker(bend="square")),
        Wrong("GELU", "that is GPT-2's bend; here it is relu squared.", blocker(bend="gelu")),
        Wrong("no QK-norm", "queries and keys are normed, each head by itself, before they meet.",
              blocker(qk_norm=False)),
        Wrong("no positions", "queries and keys are not turned: the block can't tell the order of the past.",
              blocker(rope="none")),
        Wrong("values are turned, too", "only queries and keys are turned; values are what is handed over.",
              blocker(rope="qkv")),
        Wrong("heads and positions mixed",
              "the heads of one position belong side by side before `c_proj`: a transpose too much or too "
              "few before the reshape, and positions see each other.",
              blocker(mixed=True)),
        Wrong("groups in the wrong order",
              "with 4 query heads on 2 key heads, heads 0 and 1 share the first: 0 0 1 1, not 0 1 0 1.",
              blocker(shared=False)),
        Wrong("the window is ignored", "a query sees itself and at most `window` positions back.",
              blocker(windowed=False)),
        Wrong("the future is seen", "attention must be causal.", blocker(causal=False)),
        Wrong("a norm over the whole row",
              "each position is a vector of its own. A norm over all positions lets the past see how long "
              "the future is.",
              blocker(whole_row=True)),
        Wrong("torch's own first weights",
              "`nn.Linear` draws weights of its own, with a deviation of 1/√(3C), and none of them zero.",
              blocker(start="torch")),
        Wrong("the ways back begin at random",
              "the matrices that write to the stream begin at zero: a fresh block adds nothing.",
              blocker(start="random")),
        Wrong("the bound for the deviation",
              "a uniform distribution on (-b, b) has the deviation b/√3.", blocker(size=3**-.5)),
        Wrong("with a bias", "the norms before each matrix make a bias superfluous: bias=False.",
              blocker(bias=True))])

# ---- 5. train it: logits(ids_BT) -> (B,T,128) ----

BOUND = 3.0            # bits per byte; a bigram that has counted ten times as much gets to 3.5

@functools.cache
def world_bytes(n):
    "The first bytes of World's texts, as ids"
    from nanochat.world import World
    text, docs = "", World(0).documents()
    while len(text) < n:
        text += next(docs)+"\n"
    return list(text.encode()[:n])

def unseen_rows(n=64, T=64):
    "Bytes that the exercise does not train on"
    return torch.tensor(world_bytes(360_000)[350_000:350_000+n*T+1])

def counted(text, order):
    "Log-probabilities of the next byte after a list of them, from counts of up to `order` bytes, mixed"
    from collections import Counter, defaultdict
    tables = [defaultdict(Counter) for _ in range(order)]
    for n, table in enumerate(tables):
        for i in range(n, len(text)):
            table[tuple(text[i-n:i])][text[i]] += 1
    def after(past):
        p = torch.full((128,), 1/128)
        for n, table in enumerate(tables):
            seen = table.get(tuple(past[len(past)-n:])) if len(past) >= n else None
            if seen:
                found = torch.zeros(128)
                found[list(seen)] = torch.tensor(list(seen.values()), dtype=torch.float32)
                weight = found.sum()/(found.sum()+len(seen))
                p = weight*found/found.sum()+(1-weight)*p
        return p.log()
    return after

def speaker(order=5, late=False, leaky=False, probs=False, last=False, flat=False, cold=False):
    "An answer without a network: it has counted; with switches for mistakes"
    kept = {}
    def logits(ids_BT):
        if "after" not in kept:
            kept["after"] = counted(world_bytes(360_000)[:120_000], order)
        rows = []
        for row in ids_BT.tolist():
            outs = []
            for t in range(len(row)):
                past = row[:t] if late else row[:t+1]
                out = torch.zeros(128) if flat else kept["after"](past)
                if leaky and t+1 < len(row):
                    out = out.clone()
                    out[row[t+1]] += 5
                outs.append(out.exp() if probs else .02*out if cold else out)
            rows.append(torch.stack(outs))
        rows = torch.stack(rows)
        return rows[:, -1] if last else rows
    return logits

def trained_check(answer):
    ids = unseen_rows()
    x, y = ids[:-1].view(-1, 64), ids[1:].view(-1, 64)
    say = "logits(ids) with ids of shape (2, 8)"
    small = a_tensor(say, call(say, answer, x[:2, :8].clone()), (2, 8, 128))
    assert small.isfinite().all(), f"{say}: there are logits that are no numbers"
    changed = x[:2, :8].clone()
    changed[:, -1] = (changed[:, -1]+1) % 128
    other = a_tensor(say, answer(changed), (2, 8, 128))
    assert torch.allclose(small[:, :-1].float(), other[:, :-1].float(), atol=1e-4), (
        f"{say}: when only the last byte changes, earlier logits change, too: your model sees what it is "
        "asked for")
    say = f"logits(ids) with {len(x)} rows of 64 bytes that your model has not seen"
    got = a_tensor(say, call(say, answer, x.clone()), (*x.shape, 128)).float()
    bits = bits_of(got, y)
    assert bits < BOUND, (f"{say}: {bits:.2f} bits per byte, and less than {BOUND:g} are asked for (nothing "
                          "learned: 7; letters counted: 4.7; pairs counted: 3.5)")

def bits_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).item()/math.log(2)

def trained_behave(f, rows, T):
    "Does it see the answer, how much does it know, does it know it one position late, how bold is it?"
    ids = unseen_rows(rows, T)
    x, y = ids[:-1].view(-1, T), ids[1:].view(-1, T)
    got = f(x)
    if not torch.is_tensor(got) or got.shape != (rows, T, 128):
        return str(getattr(got, "shape", None))
    changed = x.clone()
    changed[:, -1] = (changed[:, -1]+1) % 128
    leaks = not torch.allclose(got[:, :-1], f(changed)[:, :-1], atol=1e-4, equal_nan=True)
    knows = sum(bits_of(got, y) > limit for limit in (BOUND, 4.2, 5.5))
    range_of = (got.amax(-1)-got.amin(-1)).max().item()
    shares = bool(got.min() >= 0 and (got.sum(-1)-1).abs().max() < 1e-3)
    return leaks, knows, bits_of(got, x) < BOUND, range_of == 0, range_of < 1, shares

training = Exercise("5. Train it", 4, trained_check, speaker(), seconds=60, probes=[(8, 64)],
    behave=trained_behave, wrong=[
        Wrong("nothing is learned", "all bytes are equally likely: 7 bits.", speaker(flat=True)),
        Wrong("letters are counted, nothing more",
              "these are the frequencies of single bytes. Is the model trained with its input?",
              speaker(order=1)),
        Wrong("a bigram",
              "it knows about as much as somebody who has counted pairs. Does the attention look back? "
              "And did the training go on for long enough, with a rate that falls?",
              speaker(order=2)),
        Wrong("one step behind",
              "the logits at a position are for the byte *after* it. Yours are for the byte that stands "
              "there.",
              speaker(late=True)),
        Wrong("it sees the answer",
              "the logits at a position depend on the byte that they are to predict.", speaker(leaky=True)),
        Wrong("probabilities for logits",
              "these are probabilities. The loss makes them from logits itself: no softmax.",
              speaker(probs=True)),
        Wrong("only the last position", "logits of every position are asked for, (B, T, 128).",
              speaker(last=True)),
        Wrong("far too careful",
              "all logits are close to each other: with a cap that is too small, or a head that never left "
              "zero, the model can't say what it knows.",
              speaker(cold=True))])

EXERCISES = dict(capped=capping, fill=filling, leak=leak, block=block, train=training)
