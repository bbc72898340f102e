"Answers to the exercises of chapter 13"
import math

import torch

from answers import Answers

answers = Answers()

# ---- 1. weigh a model ----

def sizes_of(shape):
    names = ("layers", "width", "heads", "inner", "vocabulary", "length")
    return [shape[name] for name in names]

def counted(shape):
    "(matrices that multiply, all parameters)"
    layers, width, _, inner, vocabulary, length = sizes_of(shape)
    matrices = layers*(4*width**2 + 3*inner*width) + vocabulary*width
    return matrices, matrices + (vocabulary+length)*width

def kept(shape, size, each_layer=None, end=None, norms=0):
    "Bytes for each row"
    layers, width, heads, inner, vocabulary, length = sizes_of(shape)
    numbers = each_layer(shape) if each_layer else 8*width + 4*inner + heads*length
    at_the_end = end(shape, size) if end else 2*width*size + 4*vocabulary
    return length*(layers*(size*numbers + norms) + at_the_end)

def made_of(parts):
    "An answer from a function that changes the right parts"
    def weigh(shape, rows, size):
        matrices, params = counted(shape)
        right = dict(weights=4*params, gradients=4*params, state=8*params,
                     copies=2*matrices if size == 2 else 0, kept=rows*kept(shape, size))
        return {**right, **parts(shape, rows, size)}
    return weigh

right_weigh = made_of(lambda shape, rows, size: {})

@answers.right("weigh")
def with_the_norms_numbers(shape, rows, size):
    return {**right_weigh(shape, rows, size), "kept": float(rows*kept(shape, size, norms=16))}

@answers.right("weigh")
def tensor_by_tensor(shape, rows, size):
    layers, width, heads, inner, vocabulary, length = sizes_of(shape)
    tokens = rows*length
    block = ["stream", "normed", "q", "k", "v", "attention", "stream", "normed"]
    held = layers*size*tokens*(sum(width for _ in block) + sum([inner]*4))
    held += layers*size*rows*heads*length*length
    held += tokens*(size*width + size*width + vocabulary*4 + 2*8)
    matrices, params = counted(shape)
    short = {2: matrices*2, 4: 0}[size]
    return {"kept": held, "copies": short, "state": params*4*2, "weights": params*4, "gradients": params*4}

@answers.wrong("weigh")
def by_korthikanti(shape, rows, size):
    "34 bytes for each token, channel and layer, and 5 for each head and pair: with dropout, without a gate"
    layers, width, heads, inner, vocabulary, length = sizes_of(shape)
    quoted = layers*length*(34*width + 5*heads*length)
    return {**right_weigh(shape, rows, size), "kept": rows*quoted}

@answers.wrong("weigh")
def sixteen_bytes_for_each(shape, rows, size):
    _, params = counted(shape)
    return {**right_weigh(shape, rows, size), "weights": 16*params}

answers.wrong("weigh", "the MLP of GPT-2")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(
        shape, size, lambda s: 8*s["width"] + 2*s["inner"] + s["heads"]*s["length"]))))
answers.wrong("weigh", "scores half, since they are causal")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(
        shape, size, lambda s: 8*s["width"] + 4*s["inner"] + s["heads"]*s["length"]/2))))
answers.wrong("weigh", "logits twice")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(
        shape, size, end=lambda s, size: 2*size*s["width"] + 8*s["vocabulary"]))))
answers.wrong("weigh", "logits as they come and in float32")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(
        shape, size, end=lambda s, size: 2*size*s["width"] + (4+size)*s["vocabulary"]))))
answers.wrong("weigh", "no scores", named="the scores are forgotten")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(shape, size, lambda s: 8*s["width"] + 4*s["inner"]))))
answers.wrong("weigh", "always float32")(made_of(
    lambda shape, rows, size: dict(kept=rows*kept(shape, 4))))
answers.wrong("weigh", "copies with the rows")(made_of(
    lambda shape, rows, size: dict(copies=rows*2*counted(shape)[0] if size == 2 else 0)))
answers.wrong("weigh", "copies in float32", named="copies in float32")(made_of(
    lambda shape, rows, size: dict(copies=2*counted(shape)[0])))
answers.wrong("weigh", "copies of four bytes")(made_of(
    lambda shape, rows, size: dict(copies=4*counted(shape)[0] if size == 2 else 0)))
answers.wrong("weigh", "copies belong to what is kept")(made_of(
    lambda shape, rows, size: dict(copies=0, kept=rows*kept(shape, size) + 2*counted(shape)[0]*(size == 2))))
answers.wrong("weigh", "one mean", named="one running mean")(made_of(
    lambda shape, rows, size: dict(state=4*counted(shape)[1])))
answers.wrong("weigh", "gradients of matrices only")(made_of(
    lambda shape, rows, size: dict(gradients=4*counted(shape)[0])))
answers.wrong("weigh", "three percent too many")(made_of(
    lambda shape, rows, size: dict(kept=1.03*rows*kept(shape, size))))
answers.wrong("weigh", "a part is NaN")(made_of(lambda shape, rows, size: dict(kept=math.nan)))
answers.wrong("weigh", "a part is text")(made_of(lambda shape, rows, size: dict(kept="much")))
answers.wrong("weigh", "a part is a yes")(made_of(lambda shape, rows, size: dict(copies=False)))

@answers.wrong("weigh")
def in_gigabytes(shape, rows, size):
    return {part: taken/1e9 for part, taken in right_weigh(shape, rows, size).items()}

@answers.wrong("weigh")
def a_sum(shape, rows, size): return sum(right_weigh(shape, rows, size).values())

@answers.wrong("weigh")
def a_part_is_missing(shape, rows, size):
    parts = right_weigh(shape, rows, size)
    parts.pop("copies")
    return parts

@answers.wrong("weigh")
def changes_the_shape(shape, rows, size):
    parts = right_weigh(shape, rows, size)
    shape["rows"] = rows
    return parts

@answers.wrong("weigh")
def makes_its_tensors(shape, rows, size):
    torch.empty(rows, shape["length"], shape["width"], device="meta")
    return right_weigh(shape, rows, size)

@answers.wrong("weigh")
def another_key(shape, rows, size):
    parts = right_weigh(shape, rows, size)
    return {**parts, "all": sum(parts.values())}

# ---- 2. fill the card ----

def taken(shape, size, rows, gpus, shared=("state",)):
    parts = right_weigh(shape, rows, size)
    return sum(amount/(gpus if part in shared else 1) for part, amount in parts.items())

@answers.right("fill")
def from_above(shape, size, memory, step_rows, gpus):
    own, rest = divmod(step_rows, gpus)
    if rest:
        return None
    for rows in range(own, 0, -1):
        if own % rows == 0 and taken(shape, size, rows, gpus) <= 0.9*memory:
            return [rows, own//rows]
    return None

@answers.right("fill")
def by_division(shape, size, memory, step_rows, gpus):
    "What is kept grows with the rows, and nothing else does"
    if step_rows % gpus:
        return None
    one, two = (taken(shape, size, rows, gpus) for rows in (1, 2))
    most, own = int((0.9*memory-(2*one-two))//(two-one)), step_rows//gpus
    counts = [count for count in range(1, own+1) if own % count == 0 and own//count <= most]
    return (own//counts[0], counts[0]) if counts else None

def filled(shape, size, memory, step_rows, gpus, limit=0.9, need=taken):
    own = step_rows//gpus
    rows = [n for n in range(1, own+1) if own % n == 0 and need(shape, size, n, gpus) <= limit*memory]
    return None if step_rows % gpus or not rows else (max(rows), own//max(rows))

@answers.wrong("fill", named="the whole card")
def nothing_stays_free(*args): return filled(*args, limit=1.)

@answers.wrong("fill")
def half_stays_free(*args): return filled(*args, limit=0.5)

@answers.wrong("fill")
def gib_for_gb(*args): return filled(*args, limit=0.9*2**30/1e9)

@answers.wrong("fill")
def a_tenth_on_top(*args): return filled(*args, limit=1.1)

@answers.wrong("fill", named="every GPU holds the whole state")
def all_of_the_state(*args):
    return filled(*args, need=lambda shape, size, rows, gpus: taken(shape, size, rows, gpus, ()))

@answers.wrong("fill")
def gradients_are_shared(*args):
    shared = ("state", "gradients")
    return filled(*args, need=lambda shape, size, rows, gpus: taken(shape, size, rows, gpus, shared))

@answers.wrong("fill")
def all_is_shared(*args):
    return filled(*args, need=lambda shape, size, rows, gpus: taken(shape, size, rows, 1)/gpus)

@answers.wrong("fill")
def without_copies(*args):
    def need(shape, size, rows, gpus):
        return taken(shape, size, rows, gpus) - right_weigh(shape, rows, size)["copies"]
    return filled(*args, need=need)

@answers.wrong("fill")
def one_size_for_all(shape, size, memory, step_rows, gpus):
    return filled(shape, 4, memory, step_rows, gpus)

@answers.wrong("fill")
def counts_first(*args):
    found = filled(*args)
    return found and found[::-1]

@answers.wrong("fill")
def rows_alone(*args):
    found = filled(*args)
    return found and found[0]

@answers.wrong("fill", named="micro-batches of all GPUs")
def counts_all_micro_batches(*args):
    found = filled(*args)
    return found and (found[0], found[1]*args[-1])

@answers.wrong("fill")
def every_row_alone(shape, size, memory, step_rows, gpus):
    return (1, step_rows//gpus) if filled(shape, size, memory, step_rows, gpus) else None

@answers.wrong("fill", named="a remainder is left")
def as_many_as_fit(shape, size, memory, step_rows, gpus):
    own = step_rows//gpus
    rows = [n for n in range(1, own+1) if taken(shape, size, n, gpus) <= 0.9*memory]
    return None if step_rows % gpus or not rows else (max(rows), own//max(rows))

@answers.wrong("fill")
def rounds_up(shape, size, memory, step_rows, gpus):
    own = step_rows//gpus
    rows = [n for n in range(1, own+1) if taken(shape, size, n, gpus) <= 0.9*memory]
    return None if step_rows % gpus or not rows else (max(rows), -(-own//max(rows)))

@answers.wrong("fill")
def says_false(*args): return filled(*args) or False

@answers.wrong("fill")
def stops_at_the_first(shape, size, memory, step_rows, gpus):
    "Goes up until the first divisor, and takes it"
    if step_rows % gpus or taken(shape, size, 1, gpus) > 0.9*memory:
        return None
    own, rows = step_rows//gpus, 1
    while own % (rows+1) == 0 and taken(shape, size, rows+1, gpus) <= 0.9*memory:
        rows += 1
    return rows, own//rows

@answers.wrong("fill")
def empties_the_shape(shape, *rest):
    found = filled(shape, *rest)
    shape.clear()
    return found

# ---- 3. the bottom of the valley ----

def solve(rows, values):
    "A small system of equations, by elimination"
    rows = [[*row, value] for row, value in zip(rows, values)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(len(rows)):
            if r != i:
                factor = rows[r][i]/rows[i][i]
                rows[r] = [a-factor*b for a, b in zip(rows[r], rows[i])]
    return [row[-1]/row[i] for i, row in enumerate(rows)]

def fitted(points, degree=2, weight=None):
    "(coefficients from the constant up, in log N less its mean; that mean)"
    xs = [math.log(n) for n, _ in points]
    mean = sum(xs)/len(xs)
    xs, ys = [x-mean for x in xs], [y for _, y in points]
    ws = [weight(y) for y in ys] if weight else [1.]*len(ys)
    powers = range(degree+1)
    left = [[sum(w*x**(i+j) for w, x in zip(ws, xs)) for j in powers] for i in powers]
    return solve(left, [sum(w*y*x**i for w, x, y in zip(ws, xs, ys)) for i in powers]), mean

def lowest(points, budget, cost=6, inside=True, upward=True, **how):
    (_, slope, bend), mean = fitted(points, **how)
    if upward and bend <= 0:
        return None
    at = mean - slope/(2*bend)
    logs = [math.log(n) for n, _ in points]
    if inside and not min(logs) <= at <= max(logs):
        return None
    return math.exp(at), budget/cost/math.exp(at)

@answers.right("valley")
def by_normal_equations(points, budget): return list(lowest(points, budget) or ()) or None

@answers.right("valley")
def by_torch(points, budget):
    n, y = torch.tensor(points, dtype=torch.float64).T
    x = n.log10()-8
    c, b, a = torch.linalg.lstsq(torch.stack((x**0, x, x*x), 1), y).solution
    at = -b/(2*a)
    if not a > 0 or not x.min() <= at <= x.max():
        return None
    params = 10**(at+8)
    return params, budget/6/params

@answers.wrong("valley", named="never None")
def silent(points, budget): return lowest(points, budget, inside=False, upward=False)

@answers.wrong("valley", named="the best run")
def luckiest(points, budget):
    params = min(points, key=lambda point: point[1])[0]
    return params, budget/(6*params)

@answers.wrong("valley")
def middle_of_the_lowest_three(points, budget):
    best = sorted(points, key=lambda point: point[1])[:3]
    params = math.exp(sum(math.log(n) for n, _ in best)/3)
    return params, budget/(6*params)

@answers.wrong("valley")
def mean_of_sizes(points, budget):
    params = sum(n for n, _ in points)/len(points)
    return params, budget/(6*params)

@answers.wrong("valley")
def mean_of_the_logarithms(points, budget):
    params = math.exp(sum(math.log(n) for n, _ in points)/len(points))
    return params, budget/(6*params)

@answers.wrong("valley")
def through_first_middle_last(points, budget):
    points = sorted(points)
    return lowest([points[0], points[len(points)//2], points[-1]], budget)

@answers.wrong("valley")
def good_runs_count_more(points, budget): return lowest(points, budget, weight=lambda y: math.exp(-20*y))

@answers.wrong("valley", named="forward only")
def two_operations(points, budget): return lowest(points, budget, cost=2)

@answers.wrong("valley")
def eight_operations(points, budget): return lowest(points, budget, cost=8)

@answers.wrong("valley")
def the_sign_of_the_slope(points, budget):
    found = lowest(points, budget)
    if found is None:
        return None
    mean = fitted(points)[1]
    params = math.exp(2*mean-math.log(found[0]))
    return params, budget/(6*params)

@answers.wrong("valley")
def forgets_the_two(points, budget):
    (_, slope, bend), mean = fitted(points)
    if lowest(points, budget) is None:
        return None
    params = math.exp(mean-slope/bend)
    return params, budget/(6*params)

@answers.wrong("valley")
def in_single_precision(points, budget):
    "Squares of logarithms that are not centred, in float32"
    n, y = torch.tensor(points).T
    x = n.log()
    gram = torch.stack((x**0, x, x*x), 1)
    c, b, a = torch.linalg.pinv(gram.T @ gram) @ gram.T @ y
    at = -b/(2*a)
    if lowest(points, budget) is None:
        return None
    return at.exp().item(), (budget/6/at.exp()).item()

@answers.wrong("valley")
def without_tokens(points, budget):
    found = lowest(points, budget)
    return found and found[0]

@answers.wrong("valley")
def none_is_zero(points, budget): return lowest(points, budget) or (0, 0)

@answers.wrong("valley")
def sorts_in_place(points, budget):
    points.sort()
    return lowest(points, budget)

@answers.wrong("valley")
def only_where_it_curves(points, budget): return lowest(points, budget, inside=False)

@answers.wrong("valley")
def not_a_number(points, budget): return math.nan, math.nan

@answers.wrong("valley")
def always_none(points, budget): return None

# ---- 4. what is a change worth? ----

def between(baseline, flops, bpb, near=lambda a, b: True):
    points = sorted(baseline)
    for (small, above), (large, below) in zip(points, points[1:]):
        if below <= bpb <= above and near(small, large):
            share = math.log(above/bpb)/math.log(above/below)
            return small*(large/small)**share/flops
    return None

@answers.right("worth")
def by_shares(baseline, flops, bpb): return between(baseline, flops, bpb)

@answers.right("worth")
def from_the_other_end(baseline, flops, bpb):
    "By bits per byte, from the lowest up, in tensors"
    curve = sorted((b, c) for c, b in baseline)
    if not curve[0][0] <= bpb <= curve[-1][0]:
        return None
    b, c = torch.tensor(curve, dtype=torch.float64).log().T.contiguous()
    target = torch.tensor(bpb, dtype=torch.float64).log()
    i = int(torch.searchsorted(b, target).clamp(1, len(b)-1))
    at = c[i-1] + (c[i]-c[i-1])*(target-b[i-1])/(b[i]-b[i-1])
    return (at.exp()/flops).item()

@answers.wrong("worth", named="upside down")
def the_other_way_round(*args):
    factor = between(*args)
    return factor and 1/factor

@answers.wrong("worth")
def in_percent(*args):
    factor = between(*args)
    return factor and 100*(factor-1)

@answers.wrong("worth")
def saved_share(*args):
    factor = between(*args)
    return factor and 1-1/factor

@answers.wrong("worth")
def the_baselines_flops(baseline, flops, bpb):
    factor = between(baseline, flops, bpb)
    return factor and factor*flops

@answers.wrong("worth")
def base_ten(*args):
    factor = between(*args)
    return factor and math.log10(factor)

@answers.wrong("worth")
def middle_of_two(baseline, flops, bpb):
    points = sorted(baseline)
    for (small, above), (large, below) in zip(points, points[1:]):
        if below <= bpb <= above:
            return math.sqrt(small*large)/flops
    return None

@answers.wrong("worth", named="the line goes on")
def goes_on(baseline, flops, bpb):
    points = sorted(baseline)
    inside = [i for i in range(len(points)-1) if points[i+1][1] <= bpb <= points[i][1]]
    i = inside[0] if inside else 0 if bpb > points[0][1] else len(points)-2
    (small, above), (large, below) = points[i:i+2]
    return small*(large/small)**(math.log(above/bpb)/math.log(above/below))/flops

@answers.wrong("worth")
def through_the_ends(baseline, flops, bpb):
    points = sorted(baseline)
    if between(baseline, flops, bpb) is None:
        return None
    return between([points[0], points[-1]], flops, bpb)

@answers.wrong("worth")
def two_best_runs(baseline, flops, bpb): return between(sorted(baseline)[-2:], flops, bpb)

@answers.wrong("worth")
def one_where_nobody_knows(*args): return between(*args) or 1.

@answers.wrong("worth")
def infinite_where_nobody_knows(*args): return between(*args) or math.inf

@answers.wrong("worth")
def better_or_worse(*args):
    factor = between(*args)
    return None if factor is None else factor > 1

@answers.wrong("worth")
def in_whole_numbers(*args):
    factor = between(*args)
    return None if factor is None else round(factor)

@answers.wrong("worth")
def takes_a_run_away(baseline, flops, bpb):
    factor = between(baseline, flops, bpb)
    baseline.pop()
    return factor

@answers.wrong("worth")
def range_of_flops(baseline, flops, bpb):
    "None where the variant's budget, not its score, is outside the baseline's"
    budgets = [c for c, _ in baseline]
    return between(baseline, flops, bpb) if min(budgets) <= flops <= max(budgets) else None

# ---- 5. the bill ----

def offers(params, tokens, cards, deadline, cost=6., speed=None, numbers=None, price=None):
    "Every card's fewest GPUs that are in time"
    for name, card in cards.items():
        peak = speed(card) if speed else card["sheet"]*card["share"]*(0.5 if card["sparse"] else 1)
        gpu_hours, gpus = cost*params*tokens/peak/3600, 1
        while gpus <= card["most"] and gpu_hours/gpus > deadline:
            gpus = numbers(gpus) if numbers else 2*gpus
        if gpus <= card["most"]:
            hours = gpu_hours/gpus
            yield name, gpus, hours, price(card, gpus, hours) if price else gpu_hours*card["dollars"]

def cheapest(*args, **how): return min(offers(*args, **how), key=lambda offer: offer[-1], default=None)

@answers.right("bill")
def by_gpu_hours(params, tokens, cards, deadline): return cheapest(params, tokens, cards, deadline)

@answers.right("bill")
def by_a_list(params, tokens, cards, deadline):
    found = None
    for name in sorted(cards):
        card = cards[name]
        speed = card["share"]*card["sheet"]/(2 if card["sparse"] else 1)
        for power in range(int(math.log2(card["most"]))+1):
            hours = 6*params*tokens/(2**power*speed)/3600
            if hours <= deadline:
                cost = 2**power*hours*card["dollars"]
                if found is None or cost < found[3]:
                    found = [name, 2**power, hours, cost]
                break
    return found

@answers.wrong("bill", named="the sparse peak is believed")
def as_the_sheet_says(*args): return cheapest(*args, speed=lambda card: card["sheet"]*card["share"])

@answers.wrong("bill", named="the peak is reached")
def at_the_peak(*args): return cheapest(*args, speed=lambda card: card["sheet"]*(1-card["sparse"]/2))

@answers.wrong("bill", named="forward only")
def forward(*args): return cheapest(*args, cost=2.)

@answers.wrong("bill")
def with_recomputing(*args): return cheapest(*args, cost=8.)

@answers.wrong("bill")
def doubled_and_not_halved(*args):
    return cheapest(*args, speed=lambda card: card["sheet"]*card["share"]*(2 if card["sparse"] else 1))

@answers.wrong("bill", named="the price of one GPU")
def one_is_paid(*args): return cheapest(*args, price=lambda card, gpus, hours: hours*card["dollars"])

@answers.wrong("bill")
def whole_hours(*args):
    return cheapest(*args, price=lambda card, gpus, hours: math.ceil(hours)*gpus*card["dollars"])

@answers.wrong("bill")
def nodes_of_eight(*args):
    return cheapest(*args, price=lambda card, gpus, hours: hours*card["dollars"]*8*math.ceil(gpus/8))

@answers.wrong("bill")
def one_more_at_a_time(*args): return cheapest(*args, numbers=lambda gpus: gpus+1)

@answers.wrong("bill")
def dollars_before_hours(*args):
    found = cheapest(*args)
    return found and (*found[:2], found[3], found[2])

@answers.wrong("bill")
def gpu_hours_for_hours(*args):
    found = cheapest(*args)
    return found and (*found[:2], found[1]*found[2], found[3])

@answers.wrong("bill")
def dearest(*args): return max(offers(*args), key=lambda offer: offer[-1], default=None)

@answers.wrong("bill")
def first_in_the_list(*args): return next(offers(*args), None)

@answers.wrong("bill", named="the fastest")
def soonest(*args): return min(offers(*args), key=lambda offer: offer[2], default=None)

@answers.wrong("bill")
def name_only(*args):
    found = cheapest(*args)
    return found and found[0]

@answers.wrong("bill")
def number_of_the_card(params, tokens, cards, deadline):
    found = cheapest(params, tokens, cards, deadline)
    return found and (list(cards).index(found[0]), *found[1:])

@answers.wrong("bill")
def nothing_is_too_late(params, tokens, cards, deadline):
    return cheapest(params, tokens, cards, deadline) or cheapest(params, tokens, cards, math.inf)

@answers.wrong("bill")
def halves_the_sheets(params, tokens, cards, deadline):
    found = cheapest(params, tokens, cards, deadline)
    for card in cards.values():
        card["sheet"] /= 2
    return found
