"Checks and known wrong answers for the exercises of chapter 07"
import math, random
import torch
import torch.nn.functional as F
from torch import nn
from nanochat.baseline import Characters
from grade import Exercise, Wrong, in_child
from graders.common import call, something, whole, written

def plain(a, digits=4):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [plain(x, digits) for x in a]
    if isinstance(a, (int, float)) and not isinstance(a, bool):
        return round(float(a), digits) if math.isfinite(a) else str(a)
    return a

def near(a, b, tol=1e-6):
    return torch.allclose(a.detach().double(), b.detach().double(), rtol=tol, atol=tol)

def is_tensor_of(a, shape, say):
    assert torch.is_tensor(a), f"{say}: a tensor is asked for, this is {type(a).__name__}"
    assert a.shape == shape, f"{say}: the shape should be {tuple(shape)}, not {tuple(a.shape)}"

# ---- 1. your own block: block(x_BTC, w, n_head) -> (B,T,C) ----

def shapes_of(C):
    "Name and shape of every weight of the block"
    return {"ln.weight": (C,), "c_attn.weight": (3*C, C), "attn_proj.weight": (C, C),
            "c_fc.weight": (4*C, C), "mlp_proj.weight": (C, 4*C)}

def new_weights(C, dice, spread, dtype=torch.float64):
    weights = {name: spread*torch.randn(shape, generator=dice, dtype=dtype)
               for name, shape in shapes_of(C).items()}
    weights["ln.weight"] += 1
    return weights

def masked(scores, how):
    "Weights of the past, and the usual ways to get them wrong"
    T = scores.size(-1)
    future = torch.ones(T, T, dtype=torch.bool).triu(2 if how == "one too many" else 1)
    if how == "none":
        return scores.softmax(-1)
    if how == "after":
        return scores.softmax(-1).masked_fill(future, 0)
    if how == "past":
        return scores.masked_fill(future.mT, -math.inf).softmax(-1)
    if how == "zero":
        return scores.masked_fill(future, 0).softmax(-1)
    return scores.masked_fill(future, -math.inf).softmax(-1 if how != "columns" else -2)

def builder(mask="before", scale="D", slope=1, first=1, power=8, residual="stream", serial=False, norms="one",
            order="qkv", split="heads", gelu="none", join="transpose", square=False):
    "The block, with switches for its mistakes"
    def block(x_BTC, w, n_head):
        B, T, C = x_BTC.shape
        D = C//n_head
        def norm(x):
            dims = (T, C) if norms == "time" else (C,)
            scaled = F.layer_norm(x, dims, None, None, 1e-5)*(w["ln.weight"] if norms != "no scale" else 1)
            return x if norms == "none" else scaled
        y = norm(x_BTC)
        parts = (y @ w["c_attn.weight"].mT).split(C, -1)
        named = dict(zip(order, parts))
        def heads(a):
            if split == "interleaved":
                return a.view(B, T, D, n_head).permute(0, 3, 1, 2)
            if split == "no transpose":
                return a.reshape(B, n_head, T, D)
            return a.view(B, T, n_head, D).transpose(1, 2)
        q, k, v = (heads(named[letter]) for letter in "qkv")
        scores = q @ k.mT/{"D": math.sqrt(D), "C": math.sqrt(C), "none": 1, "all": D}[scale]
        if slope:
            slopes = 2.0**(-power*(torch.arange(n_head, dtype=x_BTC.dtype)+first)/n_head)
            at = torch.arange(T, dtype=x_BTC.dtype)
            distance = at[:, None]-at
            scores = scores - slope*slopes[:, None, None]*(distance**2 if square else distance)
        z = masked(scores, mask) @ v
        z = z.transpose(1, 2) if join == "transpose" else z
        attended = z.reshape(B, T, C) @ w["attn_proj.weight"].mT
        into_mlp = norm(x_BTC+attended) if serial else y
        bent = F.relu(into_mlp @ w["c_fc.weight"].mT) if gelu == "relu" else F.gelu(
            into_mlp @ w["c_fc.weight"].mT, approximate=gelu)
        added = attended + bent @ w["mlp_proj.weight"].mT
        return {"stream": x_BTC+added, "normed": y+added, "none": added}[residual]
    return block

build_right = builder()

@in_child
def block_and_inputs(answer, x, w, n_head):
    "What comes back, and the inputs afterwards"
    return answer(x, w, n_head), x, w

@in_child
def block_training(answer, text, steps, C, n_head, T):
    "First and last loss of a training with two of these blocks, and the weights that no gradient reaches"
    torch.manual_seed(0)
    codec = Characters(text)
    ids_N = torch.tensor(codec.encode(text))
    table = nn.Parameter(0.02*torch.randn(codec.vocab_size, C))
    dice = torch.Generator().manual_seed(0)
    drawn = [new_weights(C, dice, 0.06, torch.float32) for _ in range(2)]
    blocks = [{name: nn.Parameter(weight) for name, weight in w.items()} for w in drawn]
    parameters = [table, *(weight for w in blocks for weight in w.values())]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.1)
    losses, untouched = [], []
    for _ in range(steps):
        starts_B = torch.randint(len(ids_N)-T, (16,))
        rows = ids_N[starts_B[:, None]+torch.arange(T+1)]
        x = table[rows[:, :-1]]
        for w in blocks:
            x = answer(x, w, n_head)
            if not x.requires_grad:
                return [], ["any weight"]
        logits = F.layer_norm(x, (C,)) @ table.mT
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        untouched = untouched or [name for w in blocks for name, weight in w.items() if weight.grad is None]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, untouched

PAGE = "".join(f"{who} has {n} {thing}s and gives {m} to {whom}; now {whom} has {m} {thing}s more. "
               for who, whom in (("Ada", "Ben"), ("Cleo", "Dan"), ("Eva", "Finn"))
               for thing in ("apple", "book", "coin", "dime") for n in (7, 8, 9) for m in (1, 2, 3))
MOST_NATS = 0.6     # after TRAINING_STEPS steps on this page

TRAINING_STEPS = 80

def block_check(answer):
    dice = torch.Generator().manual_seed(7)
    sizes = (1, 1, 2, 1), (1, 2, 2, 1), (1, 3, 4, 2), (2, 4, 8, 2), (2, 7, 12, 3), (3, 9, 16, 4)
    for B, T, C, n_head in sizes:
        x, w = torch.randn(B, T, C, generator=dice, dtype=torch.float64), new_weights(C, dice, 0.7)
        say = f"block of x (B={B}, T={T}, C={C}) with n_head={n_head}"
        copies = {name: weight.clone() for name, weight in w.items()}
        got, x_after, w_after = block_and_inputs(answer, x.clone(), copies, n_head)
        something(say, got)
        is_tensor_of(got, x.shape, say)
        assert torch.equal(x_after, x) and all(torch.equal(w_after[k], w[k]) for k in w), (
            f"{say}: your code changes its inputs; an operation whose name ends in _, and +=, work in place")
        if T > 1:
            other = x.clone()
            other[:, -1] += 1
            moved = (call(say, answer, other, w, n_head)-got).abs().amax((0, 2))
            assert moved[:-1].max() < 1e-9, (
                f"{say}: the last token was changed, and position {moved[:-1].argmax()} before it came out "
                "otherwise: the future leaks into the past")
        want = build_right(x, w, n_head)
        at = (got-want).abs().amax((0, 2)).argmax().item()
        assert near(got, want), (
            f"{say}: position {at} of row 0 should begin {plain(want[0, at, :3])}, "
            f"not {plain(got[0, at, :3])}; with T=1 it is "
            f"{'right' if T > 1 else 'wrong, too: look at norm, value, MLP, residual'}")
    losses, untouched = block_training(answer, PAGE, TRAINING_STEPS, 32, 4, 32)
    assert not untouched, f"no gradient reaches {untouched[0]}: is something detached?"
    reached = sum(losses[-10:])/10
    assert reached < MOST_NATS, (
        f"the values are right, but {TRAINING_STEPS} steps of training end at {reached:.2f} nats a "
        f"character, and below {MOST_NATS} is asked for")

BLOCK_PROBES = []
for probe, (B_, T_, C_, H_) in enumerate(((1, 1, 4, 2), (1, 3, 4, 1), (2, 4, 8, 2), (1, 5, 12, 3))):
    dice_ = torch.Generator().manual_seed(probe)
    BLOCK_PROBES.append((torch.randn(B_, T_, C_, generator=dice_, dtype=torch.float64),
                         new_weights(C_, dice_, 0.8), H_))

block = Exercise("1. Your own block", 5, block_check, build_right, probes=BLOCK_PROBES, seconds=60,
    behave=lambda f, x, w, h: plain(f(x.clone(), w, h)),
    wrong=[
        Wrong("mask after softmax",
              "you set the future's weights to 0 after the softmax. By then the future has taken part in the "
              "sum below, and a row no longer adds up to 1.",
              builder(mask="after")),
        Wrong("no mask", "every position sees all others, also those that come after it.",
              builder(mask="none")),
        Wrong("the past is masked", "you have masked the wrong triangle: row t is the position that looks, "
              "column s the position that is looked at, and s > t is the future.",
              builder(mask="past")),
        Wrong("masked scores are 0",
              "a score of 0 is a score like any other: e to the 0 is 1. What must be ignored has the score "
              "minus infinity.",
              builder(mask="zero")),
        Wrong("one position of the future",
              "your mask lets each position see the one right after it: the diagonal belongs "
              "to the past, what lies above it does not.",
              builder(mask="one too many")),
        Wrong("softmax over the positions that look",
              "each *row* of weights must add up to 1: softmax over the last dimension.",
              builder(mask="columns")),
        Wrong("forgot the square root of D", "the scores are the bare products of queries and keys.",
              builder(scale="none")),
        Wrong("the square root of C", "a head has D = C/H channels, and its scores are sums of D products: "
              "divide by the root of D.",
              builder(scale="C")),
        Wrong("divided by D", "divide by the square root of D, not by D.", builder(scale="all")),
        Wrong("no slopes", "the distance does not count in your scores at all.", builder(slope=0)),
        Wrong("the far is favoured", "a position that lies further back must get a *lower* score.",
              builder(slope=-1)),
        Wrong("the first slope is 1",
              "heads are counted from 0, and the exponent from 1: of 8 heads the first has the slope 1/2.",
              builder(first=0)),
        Wrong("the square of the distance", "each step back costs the same: the distance itself, not its "
              "square.", builder(square=True)),
        Wrong("no residual", "what the parts find is *added* to the stream. You return it alone.",
              builder(residual="none")),
        Wrong("the normed copy goes on",
              "the stream itself goes on untouched: add to x, not to the normed copy.",
              builder(residual="normed")),
        Wrong("one after the other",
              "your MLP reads what attention has added. In this block both read the same normed copy.",
              builder(serial=True)),
        Wrong("no LayerNorm", "the parts read the stream as it is, without the norm.", builder(norms="none")),
        Wrong("the norm forgets its scale", "after norming, each channel is multiplied by `ln.weight`.",
              builder(norms="no scale")),
        Wrong("normed over time", "each token is normed alone, over its channels. Yours takes all positions "
              "together, the future too.",
              builder(norms="time")),
        Wrong("heads interleaved", "head 0 owns the *first* D channels. In your reshape a head takes every "
              "H-th channel: (B,T,H,D), not (B,T,D,H).",
              builder(split="interleaved")),
        Wrong("positions and heads mixed up",
              "a reshape from (B,T,C) straight to (B,H,T,D) cuts through positions. First (B,T,H,D), "
              "then swap T and H.",
              builder(split="no transpose")),
        Wrong("heads not put back", "before the reshape to (B,T,C), T and H must be swapped back.",
              builder(join="none")),
        Wrong("keys before queries", "the first C channels are the queries, then the keys, then the values.",
              builder(order="kqv")),
        Wrong("another GELU", "`F.gelu` as it stands is asked for, without the approximation.",
              builder(gelu="tanh")),
        Wrong("ReLU", "the bend of this block is GELU.", builder(gelu="relu"))])

# ---- 2. it trains too well: causal_weights(scores_BTT, starts_B) -> (B,T,T) ----

def weigher(how="before", starts=True, padding="zero", edge=0):
    "The weights, with switches for the mistakes"
    def causal_weights(scores_BTT, starts_B):
        T = scores_BTT.size(-1)
        at = torch.arange(T)
        seen = (at[:, None] >= at)[None].expand(len(scores_BTT), T, T)
        begun = at[None, :] >= starts_B[:, None]+edge
        if starts:
            seen = seen & begun[:, None, :]
        looks = begun[:, :, None] if starts else torch.ones(1, T, 1, dtype=torch.bool)
        if how == "after":
            weights = scores_BTT.softmax(-1)*seen
        elif how == "renormed":
            weights = scores_BTT.softmax(-1)*seen
            weights = weights/weights.sum(-1, keepdim=True)
        elif how == "small":
            weights = scores_BTT.where(seen, -10.0).softmax(-1)
        elif how == "columns":
            weights = scores_BTT.where(seen, -1e30).softmax(-2)
        elif how == "exp":
            e = scores_BTT.exp()*seen
            weights = e/e.sum(-1, keepdim=True).clamp(min=1e-300)
        else:
            weights = scores_BTT.where(seen, -1e30 if padding != "nan" else -math.inf).softmax(-1)
        if padding == "zero":
            return weights.where(looks & seen, 0.0) if how != "small" else weights.where(looks, 0.0)
        if padding == "nan_to_num":
            return (scores_BTT+torch.zeros(seen.shape).where(seen, -math.inf)).softmax(-1).nan_to_num()
        return weights
    return causal_weights

weights_right = weigher()

@in_child
def weights_and_slope(answer, scores, starts):
    "The weights, the gradient of a sum of them with respect to the scores, and the inputs afterwards"
    leaf = scores.clone().requires_grad_()
    starts_given = starts.clone()
    weights = answer(leaf, starts_given)
    if not torch.is_tensor(weights) or weights.shape != scores.shape:
        return weights, None, None
    same = torch.equal(leaf.detach(), scores) and torch.equal(starts_given, starts)
    if not weights.requires_grad:
        return weights, None, same
    pulls = torch.arange(1., 1+weights.numel(), dtype=scores.dtype).view(weights.shape)
    return weights.detach(), torch.autograd.grad((weights*pulls).sum(), leaf)[0], same

def weights_check(answer):
    dice = torch.Generator().manual_seed(3)
    cases = [([0], 1, 1), ([0], 2, 1), ([1], 2, 1), ([0], 3, 1), ([0, 1], 3, 1), ([2, 0, 1], 4, 2),
             ([3, 3], 4, 1), ([0], 3, 300), ([0, 2], 4, 300), ([1, 0, 4, 2], 6, 5)]
    for starts, T, spread in cases:
        scores = spread*torch.randn(len(starts), T, T, generator=dice, dtype=torch.float64)
        scores = scores.round(decimals=1)
        starts_B = torch.tensor(starts)
        say = f"causal_weights(tensor({scores.tolist()}, dtype=float64), tensor({starts}))"
        if T > 3:
            say = f"causal_weights of {len(starts)} rows of {T} positions that begin at {starts}"
        if spread > 100:
            say += " (with scores of some hundreds)"
        weights, slope, same = weights_and_slope(answer, scores, starts_B)
        something(say, weights)
        is_tensor_of(weights, scores.shape, say)
        assert same, f"{say}: your code changes its inputs; an operation whose name ends in _ works in place"
        assert not weights.isnan().any(), (
            f"{say}: row {weights.isnan().any(-1).any(-1).nonzero()[0].item()} holds NaN: which position "
            "has nothing to look at?")
        want = weights_right(scores, starts_B)
        sums = weights.sum(-1)
        for b, start in enumerate(starts):
            for t in range(T):
                row = weights[b, t]
                assert not row[t+1:].any(), f"{say}: row {b}: position {t} looks at the future: {plain(row)}"
                assert not row[:start].any(), (
                    f"{say}: row {b} begins at {start}, and position {t} looks at the padding: {plain(row)}")
                total = float(t >= start)
                assert abs(sums[b, t].item()-total) < 1e-6, (
                    f"{say}: row {b}: the weights of position {t} should add up to {total:g}, "
                    f"not {plain(sums[b, t])}")
        assert near(weights, want), f"{say}: should be {plain(want)}, not {plain(weights)}"
        assert slope is not None, f"{say}: no gradient comes back to the scores: is something detached?"
        assert slope.isfinite().all(), (
            f"{say}: the weights are right, and the gradient of the scores holds NaN or infinity: "
            "softmax over nothing, mended afterwards, is still in the graph")

weights = Exercise("2. It trains too well", 3, weights_check, weights_right,
    probes=[(torch.tensor([[[1., 2.], [3., 1.]]], dtype=torch.float64), torch.tensor([0])),
            (torch.tensor([[[1., 2., 0.], [3., 1., 2.], [0., 1., 5.]]], dtype=torch.float64),
             torch.tensor([1])),
            (torch.tensor([[[0., 9., 800.], [1., 2., 900.], [0., 0., 1.]]], dtype=torch.float64),
             torch.tensor([0]))],
    behave=lambda f, scores, starts: plain(weights_and_slope(f, scores, starts)[:2]),
    wrong=[
        Wrong("mask after softmax",
              "the future is set to 0 after the softmax. It has been in the sum below all the same: a row "
              "does not add up to 1, and through that sum a model can *read* what comes next.",
              weigher(how="after")),
        Wrong("mended after softmax",
              "dividing by the sum afterwards is right on paper. But a large score in the future has already "
              "pushed the others down to 0, and 0/0 is NaN: mask before.",
              weigher(how="renormed", padding="as it comes")),
        Wrong("not low enough",
              "-10 is a score like any other, and softmax gives it a weight. Where scores are low, a large "
              "one. Minus infinity is what has no weight.",
              weigher(how="small")),
        Wrong("the padding is looked at",
              "a row begins at its start: what lies before it is padding, and gets no weight.",
              weigher(starts=False)),
        Wrong("softmax over the positions that look", "each *row* must add up to 1: softmax over the last "
              "dimension.", weigher(how="columns")),
        Wrong("NaN where nothing can be seen",
              "a position in the padding has nothing to look at, and a softmax of nothing but minus infinity "
              "is 0/0. Its weights are 0.",
              weigher(padding="nan")),
        Wrong("NaN is swept away",
              "the weights look right now, but minus infinity was *added*, so the NaN of the padding still "
              "reaches the gradient of the scores, and with it the next step.",
              weigher(padding="nan_to_num")),
        Wrong("equal weights in the padding",
              "with a large negative number in place of minus infinity, a position in the padding gives "
              "equal weights to everything. It must give 0.",
              weigher(padding="as it comes")),
        Wrong("the first token is cut off", "the start itself is the first token, and not padding.",
              weigher(edge=1))])

# ---- 3. up a line, down a cosine, again: rate(step, lr, min_lr, warmup, period, factor) ----

def scheduler(first=1, top=1, grows="factor", last=1, shape="cosine", from_start=False, border=0,
              turn=math.pi, lowest=True, one=True):
    "The schedule, with switches for its mistakes"
    def rate(step, lr, min_lr, warmup, period, factor):
        if step < warmup:
            return lr*(step+first)/(warmup+top)
        at, n, k = step if from_start else step-warmup, period, 0
        while at >= n+border:
            at -= n
            k += 1
            n = {"factor": n*factor, "never": n, "adds": period*(1+k*(factor-1)), "period": n+period}[grows]
        if n-last <= 0:
            return lr if one else min_lr
        done = at/(n-last)
        low = min_lr if lowest else 0
        if shape == "line":
            return lr+(low-lr)*done
        return low+(lr-low)*(1+math.cos(turn*done))/2
    return rate

rate_right = scheduler()

def rate_check(answer):
    cases = [(0, 10, 1, 0.1), (0, 4, 2, 0.0), (3, 5, 1, 0.1), (5, 3, 2, 0.01), (1, 1, 2, 0.1), (2, 2, 3, 0.5),
             (10, 7, 1, 1.0), (4, 6, 2, 0.1), (0, 1, 1, 0.2)]
    for warmup, period, factor, low in sorted(cases, key=lambda c: c[0]+c[1]*c[2]):
        for step in range(warmup+period*(1+factor+factor**2)+3):
            args = step, 1.0, low, warmup, period, factor
            say = written("rate", step, lr=1.0, min_lr=low, warmup=warmup, period=period, factor=factor)
            try:
                got = call(say, answer, *args)
            except ZeroDivisionError:
                raise AssertionError(f"{say} divides by zero") from None
            is_number = whole(got) or type(got) is float
            assert is_number and math.isfinite(got), f"{say}: a number is asked for, not {got!r}"
            want = rate_right(*args)
            right = math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-9)
            assert right, f"{say} should be {want:.6g}, not {got:.6g}"

rate = Exercise("3. Up a line, down a cosine, and again", 3, rate_check, rate_right,
    probes=[(s, 1.0, 0.1, 3, 4, 2) for s in (0, 2, 3, 4, 5, 6, 7, 10, 14, 15, 22)]
        +[(s, 2.0, 0.5, 0, 1, 3) for s in (0, 1, 2, 3, 4)]
        +[(s, 1.0, 0.0, 2, 3, 3) for s in (5, 8, 13, 14, 20, 40)],
    behave=lambda f, *args: plain(f(*args), 6),
    wrong=[
        Wrong("the first step is lost", "at step 0 your rate is 0: a step that moves nothing.",
              scheduler(first=0)),
        Wrong("the way up ends too early",
              "the last step of the way up is still below lr; the first one after it has lr.",
              scheduler(top=0)),
        Wrong("all cycles are equally long", "each cycle is `factor` times as long as the one before.",
              scheduler(grows="never")),
        Wrong("cycles grow by addition",
              "lengths are period, period·factor, period·factor²: they multiply, they do not add up.",
              scheduler(grows="adds")),
        Wrong("never quite at the bottom",
              "the *last step* of a cycle has exactly min_lr. n steps have n-1 gaps between them.",
              scheduler(last=0)),
        Wrong("a line, not a cosine", "the way down is half a cosine: slow, fast, slow.",
              scheduler(shape="line")),
        Wrong("the way up is counted twice",
              "the first cycle begins after the way up: count its steps from there.",
              scheduler(from_start=True)),
        Wrong("the border belongs to the next cycle",
              "a cycle of n steps ends with its step n-1; the next step is at the top again.",
              scheduler(border=1)),
        Wrong("a whole cosine", "cos over a whole turn comes up again: half a turn, pi, leads from top to "
              "bottom.", scheduler(turn=2*math.pi)),
        Wrong("down to 0", "the way down ends at min_lr, not at 0.", scheduler(lowest=False)),
        Wrong("a cycle of one step", "a cycle of a single step begins at the top: its rate is lr.",
              scheduler(one=False))])

# ---- 4. who decays?: groups(parameters) -> names that decay, names that don't ----

def grouper(rule="large", tied=True, frozen=True, turned=False, at="first"):
    "The two lists, with switches for the mistakes"
    def groups(parameters):
        decay, plain_, seen = [], [], set()
        for name, shape, number, learns in parameters if at == "first" else reversed(parameters):
            if frozen and not learns or tied and number in seen:
                continue
            seen.add(number)
            decays = {"large": sum(n > 1 for n in shape) >= 2, "dims": len(shape) >= 2,
                      "names": not name.endswith("bias"), "weights": name.endswith("weight"),
                      "exactly 2": len(shape) == 2, "norms": not name.endswith("bias") and "ln" not in name,
                      "all": True, "embeddings": sum(n > 1 for n in shape) >= 2 and "wte" not in name
                      and "wpe" not in name}[rule]
            (decay if decays else plain_).append(name)
        if at != "first":
            decay, plain_ = decay[::-1], plain_[::-1]
        return (plain_, decay) if turned else (decay, plain_)
    return groups

groups_right = grouper()

MODEL = [("wte.weight", (50, 8), 0, True), ("wpe.weight", (16, 8), 1, True),
         ("h.0.ln_1.weight", (8,), 2, True), ("h.0.ln_1.bias", (8,), 3, True),
         ("h.0.attn.c_attn.weight", (24, 8), 4, True), ("h.0.attn.c_attn.bias", (24,), 5, True),
         ("h.0.attn.temperature", (1, 1), 6, True), ("h.0.gain", (1, 1, 8), 7, True),
         ("h.0.conv.weight", (8, 1, 3), 8, True), ("h.0.mlp.c_fc.weight", (32, 8), 9, False),
         ("ln_f.weight", (8,), 10, True), ("scale", (), 11, True), ("lm_head.weight", (50, 8), 0, True)]

def groups_check(answer):
    rng = random.Random(4)
    cases = [[], MODEL[:1], MODEL[2:4], [MODEL[6]], [MODEL[7]], [MODEL[8]], [MODEL[9]], [MODEL[11]],
             [MODEL[0], MODEL[-1]], [("lm_head.weight", (9, 4), 3, True), ("wte.weight", (9, 4), 3, True)],
             [("b.bias", (4, 4), 0, True), ("a.weight", (4,), 1, True)], MODEL]
    for _ in range(30):
        numbers, case = {}, []
        for k in range(rng.randrange(1, 7)):
            number = rng.randrange(6)
            drawn = tuple(rng.choice((1, 1, 3, 4)) for _ in range(rng.randrange(4)))
            shape, learns = numbers.setdefault(number, (drawn, rng.random() < 0.8))
            name = rng.choice(("ln", "attn", "bias", "weight", "wte"))
            case.append((f"{k}.{name}.{rng.choice(('weight', 'bias'))}", shape, number, learns))
        cases.append(case)
    for case in sorted(cases, key=len):
        say = f"groups({case})"
        got = call(say, answer, [tuple(p) for p in case])
        pair = isinstance(got, (tuple, list)) and len(got) == 2
        assert pair and all(isinstance(x, (list, tuple)) for x in got), (
            f"{say}: two lists of names are asked for: those that decay and those that don't")
        for what, mine, want in zip(("that decay", "that don't"), got, groups_right(case)):
            assert all(type(name) is str for name in mine), f"{say}: the lists hold names"
            assert list(mine) == want, f"{say}: the names {what} should be {want}, not {list(mine)}"

groups = Exercise("4. Who decays?", 3, groups_check, groups_right,
    probes=[(MODEL,), (MODEL[:6],), ([MODEL[0], MODEL[-1]],), (MODEL[6:9],), ([MODEL[9]],)],
    wrong=[
        Wrong("the name decides",
              "a parameter whose name does not end in `bias` need not be a matrix: the scale of a LayerNorm "
              "is called weight. Look at the shape.",
              grouper(rule="names")),
        Wrong("everything called weight",
              "LayerNorm's scale is called weight, too, and it is no matrix. Look at the shape.",
              grouper(rule="weights")),
        Wrong("the norms by their name",
              "leaving out biases and what has `ln` in its name works for one model. A scale may have "
              "another name: look at the shape.",
              grouper(rule="norms")),
        Wrong("dimensions of length 1",
              "(1, 1, 8) is a vector that lies in three dimensions so that it can be broadcast. Count the "
              "dimensions that are *longer* than 1.",
              grouper(rule="dims")),
        Wrong("only two dimensions", "a convolution's weight has three dimensions and multiplies like a "
              "matrix: two or more that are longer than 1.",
              grouper(rule="exactly 2")),
        Wrong("everything decays", "biases and scales must not decay.", grouper(rule="all")),
        Wrong("tables left out", "in this recipe the tables of tokens and positions decay, too: the shape "
              "decides.", grouper(rule="embeddings")),
        Wrong("tied, and in twice",
              "two names with one number are one tensor. An optimizer that is given it twice refuses, or "
              "steps twice.",
              grouper(tied=False)),
        Wrong("frozen, and in a group", "what does not learn gets no gradient and belongs in neither list.",
              grouper(frozen=False)),
        Wrong("the other way round", "the names that decay come first.", grouper(turned=True)),
        Wrong("under its last name", "a tensor with two names stands under the *first* of them, in the order "
              "given.", grouper(at="last"))])

EXERCISES = dict(block=block, weights=weights, rate=rate, groups=groups)
