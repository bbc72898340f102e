"Answers to the exercises of appendix A3"
import math
import re

from answers import Answers

answers = Answers()

# ---- 1. patience ----

@answers.right("patience")
def with_for(ask, sleep, chance, tries=5):
    in_a_row = 0
    while in_a_row < tries:
        try:
            return ask()
        except OSError as e:
            in_a_row = 1 if e.progress else in_a_row+1
            if e.final or in_a_row >= tries:
                raise
            base = 2**(in_a_row-1) if in_a_row < 6 else 30
            sleep(e.wait+base*chance())

@answers.right("patience")
def with_an_inner_function(ask, sleep, chance, tries=5):
    def attempt():
        try:
            return True, ask()
        except OSError as e:
            return False, e
    k = 0
    while True:
        good, result = attempt()
        if good:
            return result
        if result.final:
            raise result
        k = 0 if result.progress else k
        k += 1
        if k == tries:
            raise result
        sleep(min(30, 2**(k-1))*chance()+result.wait)

def wait_for(ask, sleep, chance, tries=5, error=None, reset=1, falsy=False, which=OSError, first=False,
             nap=None, total=False, final_first=True):
    "Patience with more ways to go wrong"
    k, asked, kept = 0, 0, None
    while True:
        try:
            asked += 1
            got = ask()
            if got or not falsy:
                return got
            raise OSError("nothing")
        except which as e:
            kept = kept or e
            if final_first and getattr(e, "final", False):
                raise
            k = reset if getattr(e, "progress", False) else k+1
            if (asked if total else k) >= tries:
                if error:
                    raise error from e
                raise (kept if first else e)
            if not final_first and e.final:
                raise
            (nap or usual)(e, k, sleep, chance)

def usual(e, k, sleep, chance): sleep(getattr(e, "wait", 0)+min(30, 2**(k-1))*chance())

@answers.wrong("patience", named="another error in its place")
def new_error(*a): return wait_for(*a, error=OSError("gave up"))

@answers.wrong("patience", named="another error in its place")
def timeout_error(*a): return wait_for(*a, error=TimeoutError("gave up"))

@answers.wrong("patience", named="the first error in place of the last")
def first_error(*a): return wait_for(*a, first=True)

@answers.wrong("patience", named="progress counts as no failure")
def progress_sets_to_zero(*a):
    return wait_for(*a, reset=0, nap=lambda e, k, s, c: s(e.wait+min(30, 2**max(k-1, 0))*c()))

@answers.wrong("patience", named="an empty answer is no answer")
def empty_is_a_failure(ask, sleep, chance, tries=5):
    while True:
        got = wait_for(ask, sleep, chance, tries)
        if got:
            return got

@answers.wrong("patience")
def connection_errors_only(*a): return wait_for(*a, which=ConnectionError)

@answers.wrong("patience", named="two naps in place of one")
def two_naps(*a):
    def nap(e, k, sleep, chance):
        sleep(e.wait)
        sleep(min(30, 2**(k-1))*chance())
    return wait_for(*a, nap=nap)

@answers.wrong("patience", named="the cap is put on what chance made")
def cap_after_chance(*a): return wait_for(*a, nap=lambda e, k, s, c: s(e.wait+min(30, 2**(k-1)*c())))

@answers.wrong("patience", named="the cap is put on everything")
def cap_on_the_sum(*a): return wait_for(*a, nap=lambda e, k, s, c: s(min(30, e.wait+2**(k-1)*c())))

@answers.wrong("patience", named="all failures are counted, not those in a row")
def counts_questions(*a): return wait_for(*a, total=True)

@answers.wrong("patience")
def always_five_tries(ask, sleep, chance, tries=5): return wait_for(ask, sleep, chance, 5)

@answers.wrong("patience")
def three_tries_if_nothing_is_said(ask, sleep, chance, tries=3): return wait_for(ask, sleep, chance, tries)

@answers.wrong("patience", named="waits k seconds")
def linear(*a): return wait_for(*a, nap=lambda e, k, s, c: s(e.wait+min(30, k)*c()))

@answers.wrong("patience", named="the wait gets longer and longer")
def exponent_of_all_failures(ask, sleep, chance, tries=5):
    failures = [0]
    def nap(e, k, sleep, chance):
        failures[0] += 1
        sleep(e.wait+min(30, 2**(failures[0]-1))*chance())
    return wait_for(ask, sleep, chance, tries, nap=nap)

@answers.wrong("patience", named="one chance for all naps")
def one_chance(ask, sleep, chance, tries=5):
    u = chance()
    return wait_for(ask, sleep, lambda: u, tries)

@answers.wrong("patience")
def gives_back_none(ask, sleep, chance, tries=5):
    try:
        return wait_for(ask, sleep, chance, tries)
    except OSError:
        return None

@answers.wrong("patience", named="chance is asked twice")
def chance_asked_twice(*a):
    return wait_for(*a, nap=lambda e, k, s, c: s(e.wait+min(30, 2**(k-1))*(c()+c())/2))

@answers.wrong("patience")
def sleeps_before_asking(ask, sleep, chance, tries=5):
    sleep(chance())
    return wait_for(ask, sleep, chance, tries)

# ---- 2. two pieces ----

def parsed(headers): return tuple(map(int, re.findall(r"\d+", headers["Content-Range"])))

@answers.right("pieces")
def by_findall(part, tag, status, headers, body):
    if status == 200:
        return body, int(headers["Content-Length"]) == len(body)
    if status == 206:
        first, _, total = parsed(headers)
        fits = first == len(part) and tag == headers.get("ETag")
        part = part+body if fits else b""
        return part, fits and len(part) == total
    return (b"" if status == 416 else part), False

@answers.right("pieces")
def by_splitting(part, tag, status, headers, body):
    match status:
        case 200:
            return bytes(body), len(body) >= int(headers["Content-Length"])
        case 416:
            return b"", False
        case 206:
            span, total = headers["Content-Range"].removeprefix("bytes ").split("/")
            if span.split("-")[0] != str(len(part)) or "ETag" not in headers or headers["ETag"] != tag:
                return b"", False
            return part+body, len(part)+len(body) == int(total)
    return part, False

def glued(part, tag, status, headers, body, keep=lambda status: True, own_tag=None, total_of=None,
          at_416=None, trim=False, empty=True):
    tag = own_tag or tag
    if status == 200:
        return body, len(body) == int(headers["Content-Length"]) and (empty or bool(body))
    if status == 206:
        first, last, total = parsed(headers)
        total = total_of or total
        if trim and first < len(part):
            part = part[:first]
        if first != len(part) or headers.get("ETag") != tag:
            return b"", False
        return part+body, len(part+body) == total
    if status == 416:
        return at_416(part, headers) if at_416 else (b"", False)
    return (part if keep(status) else b""), False

@answers.wrong("pieces", named="one tag for every file")
def tag_of_the_example(*a): return glued(*a, own_tag='"v1"')

@answers.wrong("pieces")
def length_of_the_example(*a): return glued(*a, total_of=40)

@answers.wrong("pieces", named="416 can be the end")
def whole_at_416(*a):
    def at_416(part, headers): return part, len(part) == int(headers["Content-Range"].split("/")[1])
    return glued(*a, at_416=at_416)

@answers.wrong("pieces", named="an empty file is never whole")
def empty_file_is_not_whole(*a): return glued(*a, empty=False)

@answers.wrong("pieces", named="throws the part away at some errors")
def drops_at_404(*a): return glued(*a, keep=lambda status: status >= 429)

@answers.wrong("pieces", named="a piece that overlaps is trimmed")
def trims_the_part(*a): return glued(*a, trim=True)

@answers.wrong("pieces")
def any_two_hundred(part, tag, status, headers, body):
    if 200 <= status < 300 and status != 206:
        return body, len(body) == int(headers.get("Content-Length", 0))
    return glued(part, tag, status, headers, body)

@answers.wrong("pieces", named="the old part is kept")
def keeps_the_part_that_does_not_fit(part, tag, status, headers, body):
    new, whole = glued(part, tag, status, headers, body)
    return (part, False) if status == 206 and not new else (new, whole)

@answers.wrong("pieces", named="the new piece is kept")
def keeps_the_piece_that_does_not_fit(part, tag, status, headers, body):
    new, whole = glued(part, tag, status, headers, body)
    return (body, False) if status == 206 and not new else (new, whole)

@answers.wrong("pieces")
def part_is_enough(part, tag, status, headers, body):
    new, whole = glued(part, tag, status, headers, body)
    return new, whole or bool(part) and status == 416

@answers.wrong("pieces")
def status_says_whole(part, tag, status, headers, body):
    return glued(part, tag, status, headers, body)[0], status == 200

@answers.wrong("pieces", named="the new version is not taken")
def tag_must_fit_at_200(part, tag, status, headers, body):
    if status == 200 and headers["ETag"] != tag:
        return part, False
    return glued(part, tag, status, headers, body)

@answers.wrong("pieces")
def a_list(*a): return list(glued(*a))

@answers.wrong("pieces")
def last_byte_counts_from_one(part, tag, status, headers, body):
    new, whole = glued(part, tag, status, headers, body)
    return new, whole if status != 206 or not new else len(new) == parsed(headers)[1]

@answers.wrong("pieces", named="never whole")
def never_whole(*a): return glued(*a)[0], False

# ---- 3. the bill ----

@answers.right("bill")
def by_exp(n, size, gap, rate, workers, line, wait, resume):
    cuts = size/gap if resume else math.exp(size/gap)-1
    megabytes = size if resume else gap*cuts
    busy = n if n < workers else workers
    seconds = megabytes/min(rate, line/(8*busy))+cuts*wait
    return megabytes*n, -(-n//busy)*seconds

@answers.right("bill")
def with_named_parts(n, size, gap, rate, workers, line, wait, resume):
    busy = min(n, workers)
    mbit = min(8*rate, line/busy)
    tries = math.exp(size/gap)
    moved = size if resume else gap*(tries-1)
    stops = moved/gap
    return n*moved, math.ceil(n/busy)*(8*moved/mbit+stops*wait)

def bill(n, size, gap, rate, workers, line, wait, resume, cuts=None, moved=None, files=None,
         speed=None):
    busy = min(n, workers)
    x = size/gap
    stops = cuts(x, resume) if cuts else x if resume else math.expm1(x)
    mb = moved(size, gap, resume) if moved else size if resume else gap*math.expm1(x)
    rate = speed(rate, line, busy) if speed else min(rate, line/8/busy)
    each = mb/rate+stops*wait
    return n*mb, files(n, busy, each) if files else math.ceil(n/busy)*each

@answers.wrong("bill", named="whole cuts only")
def whole_cuts(*a): return bill(*a, cuts=lambda x, resume: int(x if resume else math.expm1(x)))

@answers.wrong("bill", named="a round too many")
def one_file_more(*a): return bill(*a, files=lambda n, busy, each: (n//busy+1)*each)

@answers.wrong("bill", named="all files one after the other")
def one_after_the_other(*a): return bill(*a, files=lambda n, busy, each: n*each)

@answers.wrong("bill", named="the line alone")
def line_alone(*a): return bill(*a, speed=lambda rate, line, busy: line/8/busy)

@answers.wrong("bill", named="the connection alone")
def connection_alone(*a): return bill(*a, speed=lambda rate, line, busy: rate)

@answers.wrong("bill", named="the larger of two speeds")
def larger_speed(*a): return bill(*a, speed=lambda rate, line, busy: max(rate, line/8/busy))

@answers.wrong("bill", named="the MB of one file")
def of_one_file(*a): return bill(*a)[0]/a[0], bill(*a)[1]

@answers.wrong("bill", named="one wait for each file")
def one_wait_for_each_file(*a): return bill(*a, cuts=lambda x, resume: 1)

@answers.wrong("bill")
def mebi(*a): return bill(*a[:5], a[5]*1e6/2**20, *a[6:])

@answers.wrong("bill")
def series_of_two_terms(*a): return bill(*a, moved=lambda s, g, resume: s if resume else s+s*s/g/2)

@answers.wrong("bill", named="all tries are counted whole")
def e_to_the_x(*a): return bill(*a, moved=lambda s, g, resume: s if resume else g*math.exp(s/g))

@answers.wrong("bill", named="half of a file is lost at each cut")
def half_a_file_for_each_cut(*a): return bill(*a, moved=lambda s, g, resume: s if resume else s+s/g*s/2)

@answers.wrong("bill")
def resume_turned_round(*a): return bill(*a[:7], not a[7])

@answers.wrong("bill")
def rounded(*a): return tuple(map(round, bill(*a)))

@answers.wrong("bill")
def seconds_first(*a): return bill(*a)[::-1]

@answers.wrong("bill")
def question_only(n, size, gap, rate, workers, line, wait, resume):
    return bill(n, 100, 1000, rate, workers, line, wait, resume)
