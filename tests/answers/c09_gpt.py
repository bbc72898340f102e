"Answers to the exercises of chapter 09"
import functools
import math
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch import nn

from answers import Answers
from nanochat.world import World

answers = Answers()

# ---- 1. the cap that came too early ----

def product(x, w): return F.linear(x, w.to(x.dtype))

def bent_by(bend, cast=torch.Tensor.float, multiply=product, after=lambda y: y):
    "The answer with a part exchanged: `bend` gets logits and a cap above 0"
    def capped(x_BTC, w_VC, cap):
        logits = cast(multiply(x_BTC, w_VC))
        return after(bend(logits, cap) if cap else logits)
    return capped

def tanh(z, cap): return cap*torch.tanh(z/cap)

@answers.right("capped")
def by_a_sigmoid(x_BTC, w_VC, cap):
    z = product(x_BTC, w_VC).float()
    return 2*cap*torch.sigmoid(z*(2/cap))-cap if cap else z

@answers.right("capped")
def row_by_row(x_BTC, w_VC, cap):
    rows = [product(x, w_VC).float() for x in x_BTC]
    return torch.stack([tanh(z, cap) if cap > 0 else z for z in rows])

answers.wrong("capped", "an arc tangent")(bent_by(lambda z, cap: cap*2/math.pi*torch.atan(z*math.pi/2/cap)))
answers.wrong("capped", "z over 1 + |z|")(bent_by(lambda z, cap: z/(1+z.abs()/cap)))
answers.wrong("capped", "an error function")(bent_by(lambda z, cap: cap*torch.erf(z/cap)))
answers.wrong("capped", "always 15")(bent_by(lambda z, cap: tanh(z, 15.)))
answers.wrong("capped", "half of the cap")(bent_by(lambda z, cap: tanh(z, cap/2)))
answers.wrong("capped", "bent twice")(bent_by(lambda z, cap: tanh(tanh(z, cap), cap)))
answers.wrong("capped", "only what is positive")(bent_by(lambda z, cap: torch.where(z > 0, tanh(z, cap), z)))
answers.wrong("capped", "in float64")(bent_by(tanh, cast=torch.Tensor.double))
answers.wrong("capped", "float16 on the way")(bent_by(lambda z, cap: tanh(z.half(), cap).float()))
answers.wrong("capped", "rounded to whole numbers")(bent_by(tanh, after=torch.round))
answers.wrong("capped", "the sign is lost")(bent_by(tanh, after=torch.abs))
answers.wrong("capped", "vocabulary before time")(bent_by(tanh, after=lambda y: y.transpose(1, 2)))
answers.wrong("capped", "a list")(bent_by(tanh, after=lambda y: y.tolist()))
answers.wrong("capped", "hard", named="cut off")(bent_by(lambda z, cap: z.clamp(-cap, cap)))
answers.wrong("capped", "a wide product", named="the product in float32")(
    bent_by(tanh, multiply=lambda x, w: F.linear(x.float(), w)))

# ---- 2. the scale that nobody filled ----

def uniform(shape, std): return (2*torch.rand(shape)-1)*3**.5*std

def falling(first, last, n): return torch.tensor([first+(last-first)*i/max(n-1, 1) for i in range(n)])

def one(name, shape, n_layer):
    "One parameter, as the table says"
    kind = name.removesuffix(".weight").split(".")[-1]
    rules = dict(
        wte=lambda: .8*torch.randn(shape), lm_head=lambda: .001*torch.randn(shape),
        c_fc=lambda: uniform(shape, .4*shape[1]**-.5), c_proj=lambda: torch.zeros(shape),
        smear_gate=lambda: .02*torch.rand(shape), resid_scale=lambda: falling(1.15, 1.05, n_layer),
        x0_scale=lambda: falling(.2, .05, n_layer), smear_scale=lambda: torch.zeros(1),
        backout_scale=lambda: torch.full((1,), .2))
    rules |= dict.fromkeys(("c_q", "c_k", "c_v"), lambda: uniform(shape, shape[1]**-.5))
    if kind not in rules:
        raise ValueError(f"no rule for {name}")
    return rules[kind]()

def fill_with(change=lambda name, w: w, rule=one):
    "All parameters, one changed afterwards"
    def fill(shapes, n_layer):
        return {name: change(name, rule(name, shape, n_layer)) for name, shape in shapes.items()}
    return fill

@answers.right("fill")
def in_place(shapes, n_layer):
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        weights[name].copy_(one(name, shape, n_layer))
    return weights

@answers.right("fill")
def turned_names(shapes, n_layer):
    return {name: one(name, shapes[name], n_layer) for name in reversed(list(shapes))}

def where(ending, f):
    "Change the parameters of one kind"
    return lambda name, w: f(w) if name.removesuffix(".weight").endswith(ending) else w

answers.wrong("fill", "the embedding is 1 wide")(fill_with(where("wte", lambda w: w/.8)))
answers.wrong("fill", "the head ten times as large")(fill_with(where("lm_head", lambda w: 10*w)))
answers.wrong("fill", "keys like c_fc")(fill_with(where("c_k", lambda w: .4*w)))
answers.wrong("fill", "values twice as large")(fill_with(where("c_v", lambda w: 2*w)))
answers.wrong("fill", "the second size for the first")(
    fill_with(where("c_fc", lambda w: w*(w.size(1)/w.size(0))**.5)))
answers.wrong("fill", "only positive queries")(fill_with(where("c_q", torch.abs)))
answers.wrong("fill", "ones on the way back")(fill_with(where("c_proj", torch.ones_like)))
answers.wrong("fill", "x0 rises")(fill_with(where("x0_scale", lambda w: w.flip(0)+.001)))
answers.wrong("fill", "resid is 1")(fill_with(where("resid_scale", torch.ones_like)))
answers.wrong("fill", "smear begins open")(fill_with(where("smear_scale", torch.ones_like)))
answers.wrong("fill", "backout is nothing")(fill_with(where("backout_scale", torch.zeros_like)))
answers.wrong("fill", "the gate is ten times as large")(fill_with(where("smear_gate", lambda w: 10*w)))
answers.wrong("fill", "matrices turned")(fill_with(where("c_fc", lambda w: w.T)))
answers.wrong("fill", "the scales are left out")(
    lambda shapes, n_layer: {name: w for name, w in fill_with()(shapes, n_layer).items() if w.ndim > 1})
answers.wrong("fill", "a list")(lambda shapes, n_layer: list(fill_with()(shapes, n_layer).values()))

@answers.wrong("fill", "an unknown name is empty")
def unknown_is_empty(shapes, n_layer):
    known = {name: shape for name, shape in shapes.items() if "new" not in name}
    empty = {name: torch.zeros(shape) for name, shape in shapes.items() if "new" in name}
    return fill_with()(known, n_layer) | empty

# ---- 3. find the leak ----

def moves(model, ids, V, near=1e-6, places=None, tokens=None):
    "All pairs (t, s) in which logits at t move with the token at s"
    before, pairs = model(ids), set()
    for s in range(len(ids)) if places is None else places:
        for token in range(V) if tokens is None else tokens:
            after = model(ids[:s]+[token]+ids[s+1:])
            for t, (a, b) in enumerate(zip(before, after)):
                if max(abs(x-y) for x, y in zip(a, b)) > near:
                    pairs.add((t, s))
    return sorted(pairs)

def first(pairs, choose=min): return choose(pairs) if pairs else None

@answers.right("leak")
def with_tensors(model, ids, V):
    before, leaks = torch.tensor(model(ids)), []
    for s in range(1, len(ids)):
        for token in range(V):
            changed = list(ids)
            changed[s] = token
            moved = (torch.tensor(model(changed))-before).abs().amax(-1) > 1e-6
            leaks += [(int(t), s) for t in moved.nonzero()[:, 0] if t < s]
    return first(leaks)

@answers.right("leak")
def position_by_position(model, ids, V):
    pairs = moves(model, ids, V)
    for t in range(len(ids)):
        for s in range(t+1, len(ids)):
            if (t, s) in pairs:
                return [t, s]
    return None

def ahead(model, ids, V, **how):
    "The pairs that are leaks"
    return [(t, s) for t, s in moves(model, ids, V, **how) if t < s]

answers.wrong("leak", "the largest t")(lambda m, ids, V: first(ahead(m, ids, V), max))
answers.wrong("leak", "the largest s of the smallest t")(
    lambda m, ids, V: first(ahead(m, ids, V), lambda pairs: min(pairs, key=lambda pair: (pair[0], -pair[1]))))
answers.wrong("leak", "only position 0")(
    lambda m, ids, V: first([(t, s) for t, s in ahead(m, ids, V) if t == 0]))
answers.wrong("leak", "never the last token")(
    lambda m, ids, V: first([p for p in moves(m, ids, V, places=range(len(ids)-1)) if p[0] < p[1]]))
answers.wrong("leak", "only token 0")(lambda m, ids, V: first(ahead(m, ids, V, tokens=[0])))
answers.wrong("leak", "never token 0")(
    lambda m, ids, V: first([p for p in moves(m, ids, V, tokens=range(1, V)) if p[0] < p[1]]))
answers.wrong("leak", "the past leaks")(lambda m, ids, V: first([p for p in moves(m, ids, V) if p[0] > p[1]]))
answers.wrong("leak", "nothing ever leaks")(lambda m, ids, V: None)
answers.wrong("leak", "everything leaks")(lambda m, ids, V: (0, 1))
answers.wrong("leak", "all pairs")(lambda m, ids, V: [p for p in moves(m, ids, V) if p[0] < p[1]] or None)
answers.wrong("leak", "only t")(lambda m, ids, V: first([p[0] for p in moves(m, ids, V) if p[0] < p[1]]))
answers.wrong("leak", "counted from 1")(
    lambda m, ids, V: first([(t+1, s+1) for t, s in moves(m, ids, V) if t < s]))
answers.wrong("leak", "turned round", named="the pair is turned round")(
    lambda m, ids, V: (first([p for p in moves(m, ids, V) if p[0] < p[1]]) or [None])[::-1] if any(
        t < s for t, s in moves(m, ids, V)) else None)
answers.wrong("leak", "neighbours", named="only the next token is looked at")(
    lambda m, ids, V: first([p for p in moves(m, ids, V) if p[0]+1 == p[1]]))

# ---- 4. your block ----

def rms(x): return F.rms_norm(x, x.shape[-1:], eps=2**-23)

def turned(x, cos, sin):
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a*cos+b*sin, b*cos-a*sin), -1)

def block_with(turn=turned, norm=rms, scale=lambda D: D**-.5, reach=lambda window: window,
               order="attention first", wide=4, bend=lambda h: h.relu().square(), half=1.,
               values=lambda v: v, matrix=None, back=0., norm_first=False):
    "A block with a part exchanged"
    class MyBlock(nn.Module):
        def __init__(self, n_embd, n_head, n_kv_head, window):
            super().__init__()
            self.heads, self.groups, self.window = n_head, n_kv_head, reach(window)
            E = n_embd//n_head*n_kv_head
            sizes = dict(c_q=(n_embd, n_embd), c_k=(n_embd, E), c_v=(n_embd, E), c_proj=(n_embd, n_embd),
                         c_fc=(n_embd, wide*n_embd), c_out=(wide*n_embd, n_embd))
            for name, (n_in, n_out) in sizes.items():
                layer = nn.Linear(n_in, n_out, bias=False)
                edge = (3/n_in)**.5 if matrix is None else matrix(n_in, n_out)
                nn.init.uniform_(layer.weight, -edge, edge)
                if name in ("c_proj", "c_out"):
                    nn.init.constant_(layer.weight, back)
                setattr(self, name, layer)

        def attention(self, x, cos, sin):
            B, T, C = x.shape
            D = C//self.heads
            q = self.c_q(x).view(B, T, self.heads, D)
            k, v = (layer(x).view(B, T, self.groups, D) for layer in (self.c_k, self.c_v))
            q, k = ((turn(norm(t), cos, sin) if norm_first else norm(turn(t, cos, sin))) for t in (q, k))
            k, v = (t.repeat_interleave(self.heads//self.groups, 2) for t in (k, values(v)))
            back = torch.arange(T)[:, None]-torch.arange(T)
            hidden = (back < 0) | (back > (self.window or T))
            scores = torch.einsum("bthd,bshd->bhts", q, k)*scale(D)
            weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
            return half*self.c_proj(torch.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, C))

        def forward(self, x, cos, sin):
            if order == "attention first":
                x = x+self.attention(rms(x), cos, sin)
            x = x+half*self.c_out(bend(self.c_fc(rms(x))))
            if order == "MLP first":
                x = x+self.attention(rms(x), cos, sin)
            return x
    return MyBlock

answers.right("block", "by einsum")(block_with())
answers.right("block", "a rotation keeps lengths")(block_with(norm_first=True))

def neighbours(x, cos, sin):
    "Pairs of neighbours, as in the paper of RoPE"
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a*cos+b*sin, b*cos-a*sin), -1).flatten(-2)

answers.wrong("block", "the MLP first")(block_with(order="MLP first"))
answers.wrong("block", "no attention at all")(block_with(order="none"))
answers.wrong("block", "neighbours as pairs")(block_with(turn=neighbours))
answers.wrong("block", "a doubled angle")(
    block_with(turn=lambda x, cos, sin: turned(turned(x, cos, sin), cos, sin)))
answers.wrong("block", "√D is forgotten")(block_with(scale=lambda D: 1.))
answers.wrong("block", "D for √D")(block_with(scale=lambda D: 1/D))
answers.wrong("block", "one position too few")(block_with(reach=lambda window: max(window-1, 0)))
answers.wrong("block", "one position too many")(block_with(reach=lambda window: window and window+1))
answers.wrong("block", "twice as wide")(block_with(wide=2))
answers.wrong("block", "half of what is written")(block_with(half=.5))
answers.wrong("block", "leaky relu, squared")(block_with(bend=lambda h: F.leaky_relu(h, .1).square()))
answers.wrong("block", "cubed")(block_with(bend=lambda h: h.relu()**3))
answers.wrong("block", "normed values")(block_with(values=rms))
answers.wrong("block", "a norm without a root")(
    block_with(norm=lambda x: x/x.square().mean(-1, keepdim=True)))
answers.wrong("block", "by the larger side")(block_with(matrix=lambda n_in, n_out: (3/max(n_in, n_out))**.5))
answers.wrong("block", "writes a little at once")(block_with(back=1e-3))
answers.wrong("block", "GELU's bend", named="GELU")(block_with(bend=F.gelu))

# ---- 5. train it ----

@functools.cache
def counts(order, size):
    "How often each byte followed up to `order`-1 others in World's text"
    text, docs = "", World(0).documents()
    while len(text) < size:
        text += next(docs)+"\n"
    ids, tables = text.encode()[:size], [defaultdict(Counter) for _ in range(order)]
    for n, table in enumerate(tables):
        for at in range(n, len(ids)):
            table[ids[at-n:at]][ids[at]] += 1
    return tables

def log_probs(past, order, size):
    "Of the next byte, (128,): longer contexts lean on shorter ones"
    p, past = torch.full((128,), 1/128), bytes(past)
    for n, table in enumerate(counts(order, size)):
        seen = table.get(past[len(past)-n:]) if len(past) >= n else None
        if seen:
            found = torch.zeros(128)
            found[list(seen)] = torch.tensor(list(seen.values()), dtype=torch.float32)
            p = (found+len(seen)*p)/(found.sum()+len(seen))
    return p.log()

def says(order=5, size=120_000, change=lambda out, past: out, past_of=lambda row, t: row[:t+1],
         whole=lambda rows: rows):
    "An answer that counts, with a part exchanged"
    def logits(ids_BT):
        rows = []
        for row in ids_BT.tolist():
            pasts = [past_of(row, t) for t in range(len(row))]
            rows.append(torch.stack([change(log_probs(past, order, size), past) for past in pasts]))
        return whole(torch.stack(rows))
    return logits

answers.right("train", "counts of six bytes")(says(6))
answers.right("train", "a constant more")(says(change=lambda out, past: out+3))

answers.wrong("train", "counted on a thousand bytes")(says(size=1000))
answers.wrong("train", "twice as bold and turned round")(says(change=lambda out, past: -out))
answers.wrong("train", "only sure of itself")(
    says(change=lambda out, past: F.one_hot(out.argmax(), 128)*50.))
answers.wrong("train", "a tenth as bold")(says(change=lambda out, past: .1*out))
answers.wrong("train", "two bytes late")(says(past_of=lambda row, t: row[:max(t-1, 0)]))
answers.wrong("train", "the row without its last byte")(says(whole=lambda rows: rows[:, :-1]))
answers.wrong("train", "256 kinds of bytes")(says(whole=lambda rows: F.pad(rows, (0, 128))))
answers.wrong("train", "time and bytes exchanged")(says(whole=lambda rows: rows.transpose(1, 2)))
answers.wrong("train", "infinities")(says(change=lambda out, past: torch.where(out < -9, -math.inf, out)))
answers.wrong("train", "a list")(says(whole=lambda rows: rows.tolist()))
answers.wrong("train", "the whole row is seen")(says(past_of=lambda row, t: row))
answers.wrong("train", "pairs", named="a bigram")(says(2))
answers.wrong("train", "one late", named="one step behind")(says(past_of=lambda row, t: row[:t]))
