"Checks and known wrong answers for the exercises of appendix A3"
import math, random, re
from grade import Exercise, Wrong, in_child
from graders.common import call, number, telling

# ---- 1. patience: patient(ask, sleep, chance, tries) ----

def trouble(number=0, wait=0, final=False, progress=False):
    e = OSError(f"trouble {number}")
    e.wait, e.final, e.progress = wait, final, progress
    return e

def patient(ask, sleep, chance, tries=5):
    failed = 0
    while True:
        try:
            return ask()
        except OSError as e:
            if e.final:
                raise
            failed = 1 if e.progress else failed+1
            if failed >= tries:
                raise
            sleep(e.wait+min(30, 2**(failed-1))*chance())

def patience(nap=lambda wait, k, u: wait+min(30, 2**(k-1))*u, last=0, final=True, progress=True,
             nap_at_end=False, errors=OSError, other=None, first=False, reset=1, empty=True, twice=False,
             total=False, longer=False, one_chance=False, ask_twice=False):
    "The answer, with switches for its mistakes"
    def f(ask, sleep, chance, tries=5):
        failed = asked = 0
        kept, u = None, chance() if one_chance else None
        while True:
            try:
                got = ask()
                if got or empty:
                    return got
            except errors as e:
                kept, asked = kept or e, asked+1
                mine = other() if other else kept if first else e
                if final and getattr(e, "final", False):
                    raise
                failed = reset if progress and getattr(e, "progress", False) else failed+1
                count = asked if total else failed
                if not nap_at_end and count >= tries+last:
                    raise mine
                if ask_twice:
                    chance()
                wait, k = getattr(e, "wait", 0), max(asked if longer else failed, 1)
                if twice:
                    sleep(wait)
                    wait = 0
                sleep(nap(wait, k, u if one_chance else chance()))
                if nap_at_end and count >= tries+last:
                    raise mine
    return f

def chance_twice(ask, sleep, chance, tries=5): return patient(ask, sleep, lambda: (chance()+chance())/2,
    tries)

def said_of(script, tries, us):
    "The case in words"
    def one(how):
        if how is True:
            return "gives 'the file'"
        if how == "empty":
            return "gives b''"
        if how == "bug":
            return "raises ZeroDivisionError"
        return "raises OSError"+"".join(f" ({k}={v})" for k, v in how.items())
    end = " and so on" if script[-1] is not True and script[-1] not in ("empty", "bug") else ""
    return (
        f"ask() {', then '.join(map(one, script[:8]))}{' …' if len(script) > 8 else end}; "
        f"{'tries is not given' if tries is None else f'tries={tries}'}; chance() gives "
        f"{', '.join(f'{u:.3f}' for u in us[:4])}…")

def chances():
    rng = random.Random(5)
    return [rng.random() for _ in range(1000)]

@in_child
def patience_behave(answer, script, tries):
    "(how it ends, naps, questions): `script` lists what each question meets, True at its end for an answer"
    naps, asked, us = [], 0, iter(chances())
    def ask():
        nonlocal asked
        asked += 1
        if asked > 200:
            raise RuntimeError("asked 200 times")
        how = script[min(asked, len(script))-1]
        if how is True:
            return "the file"
        if how == "empty":
            return b""
        if how == "bug":
            raise ZeroDivisionError("a bug")
        raise trouble(asked, **how)
    try:
        end = answer(ask, naps.append, lambda: next(us), *([] if tries is None else [tries]))
    except NotImplementedError:
        raise
    except Exception as e:
        end = f"{type(e).__name__}: {e}"
    return end, [round(n, 9) for n in naps], asked

NO, BITS = {}, dict(progress=True)
SCRIPTS = [([True], 5), ([NO, True], 5), ([NO], 5), ([NO]*7+[True], 9), ([NO], 1), ([NO], 9),
           ([NO, dict(final=True)], 5), ([dict(wait=100), True], 5), ([NO, NO, dict(wait=7), NO, True], 5),
           ([NO, NO, BITS]*4+[True], 4), ([BITS]*30+[True], 2), (["bug"], 5), ([NO, "bug"], 5),
           (["empty"], 5), ([NO, "empty"], 5), ([NO], None), ([NO, NO, NO, BITS, NO, NO, True], 5)]

def patience_check(answer):
    rng = random.Random(6)
    more = [([rng.choice([NO, NO, BITS, dict(wait=rng.randrange(50))]) for _ in range(rng.randrange(12))]+
             [rng.choice([True, dict(final=True), NO])], rng.randrange(1, 7)) for _ in range(100)]
    for script, tries in sorted(SCRIPTS+more, key=lambda c: len(c[0])):
        end, naps, asked = patience_behave(answer, script, tries)
        want_end, want_naps, want_asked = patience_behave(patient, script, tries)
        told = said_of(script, tries, chances())
        assert end is not None, f"{told}: nothing came back: is there a `return`?"
        assert end == want_end and type(end) is type(want_end), (
            f"{told}: it should end with {want_end!r}, not with {end!r}") + ((
                " (the numbers count the errors)") if "trouble" in str(want_end) else "")
        assert asked == want_asked, f"{told}: ask() should be called {want_asked} times, not {asked}"
        assert naps == want_naps, (
            f"{told}: the naps should be {[round(n, 3) for n in want_naps[:8]]}, not "
            f"{[round(n, 3) for n in naps[:8]]}")

patience_ex = Exercise("1. Patience", 4, patience_check, patient,
    probes=SCRIPTS, behave=patience_behave,
    wrong=[
        Wrong("a nap for nothing",
              "after the last failure nothing is tried any more, and still your code sleeps before it gives "
              "up.",
              patience(nap_at_end=True)),
        Wrong("one question too many",
              "`tries` failures in a row are one too many: the last one ends it, and no question follows.",
              patience(last=1)),
        Wrong("asks again for what is not there",
              "a final error (404: not found) will be the same in a second. Raise it at once.",
              patience(final=False)),
        Wrong("no chance",
              "all machines that failed together come back together, at the same second.",
              patience(nap=lambda w, k, u: w+min(30, 2**(k-1)))),
        Wrong("no cap",
              "after 20 failures your code sleeps for six days. Cap the base at 30 s.",
              patience(nap=lambda w, k, u: w+2**(k-1)*u)),
        Wrong("deaf to the server",
              "`e.wait` is what the server asks for, and it knows better than any formula.",
              patience(nap=lambda w, k, u: min(30, 2**(k-1))*u)),
        Wrong("chance shortens the server's time",
              "the random share goes off *your* part of the wait. What the server asks for is waited in "
              "full.",
              patience(nap=lambda w, k, u: (w+min(30, 2**(k-1)))*u)),
        Wrong("either the one or the other",
              "the larger of the two waits brings everybody back at the very second that the server named. "
              "Add your random part to it.",
              patience(nap=lambda w, k, u: max(w, min(30, 2**(k-1))*u))),
        Wrong("old failures are never forgotten",
              "a try that brought some bytes is progress: the failures in a row begin anew with it. A file "
              "of 100 GB may be cut a hundred times.",
              patience(progress=False)),
        Wrong("starts at two",
              "the first wait has the base 1 = 2**0 s.",
              patience(nap=lambda w, k, u: w+min(30, 2**k)*u)),
        Wrong("patient with bugs",
              "a ZeroDivisionError is a bug of the program: waiting does not fix it. Catch OSError only.",
              patience(errors=Exception)),
        Wrong("another error in its place",
              "the caller should get the error itself, with what it says: a bare `raise`, and no new one.",
              patience(other=lambda: OSError("gave up"))),
        Wrong("another error in its place",
              "the caller should get the error itself, with what it says: a bare `raise`, and no new one.",
              patience(other=lambda: TimeoutError("gave up"))),
        Wrong("the first error in place of the last",
              "it is failure number `tries` that ends it: raise that one.",
              patience(first=True)),
        Wrong("progress counts as no failure",
              "a try that brought some bytes and failed is the *first* failure in a row: the counter is 1 "
              "after it, not 0.",
              patience(reset=0)),
        Wrong("an empty answer is no answer",
              "a file may be empty: `b\"\"` is what ask() gave back. Only an error means that something "
              "failed.",
              patience(empty=False)),
        Wrong("two naps in place of one",
              "one failure, one nap: the server's wait and your own part are added and slept at once.",
              patience(twice=True)),
        Wrong("the cap is put on what chance made",
              "the cap belongs to the base: min(30, 2^(k-1)), and then times u.",
              patience(nap=lambda w, k, u: w+min(30, 2**(k-1)*u))),
        Wrong("the cap is put on everything",
              "what the server asks for is waited in full, also where it is more than 30 s. The cap belongs "
              "to the base alone.",
              patience(nap=lambda w, k, u: min(30, w+2**(k-1)*u))),
        Wrong("all failures are counted, not those in a row",
              "after progress the count begins anew. You give up after `tries` failures in all.",
              patience(total=True)),
        Wrong("waits k seconds",
              "the base doubles with each failure in a row: 1, 2, 4, 8. Yours grows by one.",
              patience(nap=lambda w, k, u: w+min(30, k)*u)),
        Wrong("the wait gets longer and longer",
              "you stop counting failures after progress, and still wait as long as after all failures so "
              "far: k in the formula is the failure *in a row*.",
              patience(longer=True)),
        Wrong("one chance for all naps",
              "you call `chance()` once and use that number for every nap. Machines that drew alike meet "
              "again and again.",
              patience(one_chance=True)),
        Wrong("chance is asked twice", "one nap, one call of `chance()`.", patience(ask_twice=True)),
        Wrong("chance is asked twice", "one nap, one call of `chance()`.", chance_twice)])

# ---- 2. two pieces: join(part, tag, status, headers, body) -> (part, whole) ----

def join(part, tag, status, headers, body):
    if status == 200:
        return body, len(body) == int(headers["Content-Length"])
    if status == 206:
        first, total = map(int, re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers["Content-Range"]).groups())
        if first != len(part) or headers.get("ETag") != tag:
            return b"", False
        return part+body, len(part+body) == total
    if status == 416:
        return b"", False
    return part, False

def hasty_join(part, tag, status, headers, body): return part+body, status in (200, 206)

def joiner(on_200="new", start=True, tagged=True, whole="total", on_416=b"", on_error="keep", own_tag=None,
           end_416=False, empty=True, trim=False, misfit="none", never=False):
    "The answer, with switches for its mistakes"
    def f(part, tag, status, headers, body):
        tag = own_tag or tag
        if status == 200:
            if on_200 == "same" and headers.get("ETag") != tag:
                return part, False
            new = part+body if on_200 == "glue" else body
            return new, not never and (whole == "end" or len(new) == int(headers["Content-Length"])
                                       and (empty or len(new) > 0))
        if status == 206:
            first, total = map(int, re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers["Content-Range"]).groups())
            if trim:
                part = part[:first]
            if start and first != len(part) or tagged and headers.get("ETag") != tag:
                return {"none": b"", "part": part, "body": body}[misfit], False
            new = part+body
            return new, not never and (whole == "end"
                                       or len(new) == (int(headers["Content-Length"]) if whole == "piece"
                                                       else total))
        if status == 416:
            if end_416:
                return part, len(part) == int(headers["Content-Range"].split("/")[1])
            return (part if on_416 is None else on_416), False
        if on_error == "some":
            return (part if status in (429, 500, 503) else b""), False
        return {"keep": part, "drop": b"", "glue": part+body}[on_error], False
    return f

def replies(file, tag, part, rng=None):
    "What servers answer to a request for the rest of `file` after `part`: [(what, status, headers, body)]"
    n, k = len(file), len(part)
    rest = file[k:]
    def h206(first, body, t=tag):
        place = f"bytes {first}-{first+len(body)-1}/{n}"
        return {"ETag": t, "Content-Length": str(len(body)), "Content-Range": place}
    other = bytes(255-b for b in file)
    out = [("the rest", 206, h206(k, rest), rest), ("the rest, cut", 206, h206(k, rest), rest[:len(rest)//2]),
           ("a smaller piece, whole", 206, h206(k, rest[:5]), rest[:5]),
           ("all of it", 200, {"ETag": tag, "Content-Length": str(n)}, file),
           ("all of it, cut", 200, {"ETag": tag, "Content-Length": str(n)}, file[:k//2]),
           ("a new version, all of it", 200, {"ETag": '"new"', "Content-Length": str(n)}, other), ((
               "the rest of a new version"), 206, h206(k, other[k:], '"new"'), other[k:]),
           ("another piece", 206, h206(max(0, k-2), file[max(0, k-2):]), file[max(0, k-2):]),
           ("the rest, without a tag", 206, {x: v for x, v in h206(k, rest).items() if x != "ETag"}, rest),
           ("range not satisfiable", 416, {"Content-Range": f"bytes */{n}"}, b""),
           ("busy", 429, {"Retry-After": "3", "Content-Length": "4"}, b"busy"),
           ("broken", 500, {"Content-Length": "5"}, b"sorry"),
           ("not found", 404, {"Content-Length": "4"}, b"gone"),
           ("moved", 302, {"Location": "/other", "Content-Length": "0"}, b""),
           ("forbidden", 403, {"Content-Length": "2"}, b"no"), ("no content", 204, {}, b""),
           ("the file is empty now", 200, {"ETag": '"new"', "Content-Length": "0"}, b"")]
    return out

FILE, SHORT = b"0123456789abcdefghijklmnopqrstuvwxyzABCD", b"abcdef"
CASES = [(what, tag, file[:k], status, headers, body) for file, tag,
         ks in ((SHORT, '"v7"', (3, 6)), (FILE, '"v1"', (10, 25, 39)))
         for k in ks for what, status, headers,
         body in replies(file, tag, file[:k]) if k < len(file) or status != 206]

def join_behave(answer, what, tag, part, status, headers, body):
    new, whole = answer(part, tag, status, dict(headers), body)
    return bytes(new), bool(whole)

def join_check(answer):
    for what, tag, part, status, headers, body in CASES:
        say = f"join({part!r}, {tag!r}, {status}, {headers}, {body!r}) ({what})"
        got = call(say, answer, part, tag, status, dict(headers), body)
        assert isinstance(got, tuple) and len(got) == 2, (
            f"{say}: (part, whole) should come back, not {type(got).__name__}")
        (new, whole), (want, want_whole) = got, join(part, tag, status, headers, body)
        assert isinstance(new, (bytes, bytearray)), f"{say}: the part is bytes, not {type(new).__name__}"
        assert bytes(new) == want, f"{say}: the part should be {want!r} afterwards, not {bytes(new)!r}"
        assert bool(whole) == want_whole, f"{say}: whole should be {want_whole}, not {whole}"
    TAG = '"v1"'
    rng = random.Random(7)
    for _ in range(200):                              # a whole download over a bad line, again and again
        file, part, whole = rng.randbytes(rng.randrange(2, 60)), b"", False
        for turn in range(60):
            first = len(part)
            if first == 0 or first >= len(file) or rng.random() < .2:
                status, body, headers = 200, file, {"ETag": TAG, "Content-Length": str(len(file))}
            else:
                status, body, headers = 206, file[first:], {"ETag": TAG,
                "Content-Length": str(len(file)-first), "Content-Range": (
                f"bytes {first}-{len(file)-1}/{len(file)}")}
            if rng.random() < .2:
                status, body, headers = 503, b"<html>busy</html>", {"Content-Length": "17"}
            elif rng.random() < .6:
                body = body[:rng.randrange(len(body))]
            say = f"join({part!r}, {TAG!r}, {status}, {headers}, {body!r})"
            got = call(say, answer, part, TAG, status, headers, body)
            with telling(say):
                part, whole = got
            if whole:
                break
        assert not whole or part == file, (
            f"a download over a bad line was called whole with {len(part)} of {len(file)} bytes") + ((
                ", the right number, and wrong ones") if len(part) == len(file) else "")

pieces = Exercise("2. Two pieces", 3, join_check, join,
    probes=CASES, behave=join_behave,
    wrong=[
        Wrong("the colleague's own",
              "this is the code of the task. Go through its symptoms one by one: which answer led to which?",
              hasty_join),
        Wrong("glues the whole to the part",
              "200 means that *all* of the file follows, from its first byte, whatever was asked for. The "
              "part must go.",
              joiner(on_200="glue")),
        Wrong("does not look where the piece begins",
              "a 206 says in Content-Range which bytes it brings. If they don't begin where the part ends, "
              "they don't fit.",
              joiner(start=False)),
        Wrong("mixes two versions",
              "the piece has another ETag than the part, or none: it may come from another version of the "
              "file. Begin again.",
              joiner(tagged=False)),
        Wrong("whole when the line goes quiet",
              "that a connection has ended does not mean that all has come. Compare with the length that "
              "was announced.",
              joiner(whole="end")),
        Wrong("the length of the piece for that of the file",
              "in a 206 Content-Length counts the bytes of this piece. The length of the file is behind the "
              "slash of Content-Range.",
              joiner(whole="piece")),
        Wrong("keeps a part that does not fit",
              "416 means that the file has no byte at the place where the part ends: the part is of "
              "something else, or too long.",
              joiner(on_416=None)),
        Wrong("an error page in the file",
              "the body of a 429 or 500 is a message for people and no part of the file.",
              joiner(on_error="glue")),
        Wrong("throws the part away when the server stumbles",
              "a 500 or 429 says nothing about the part. Keep it, and ask again later.",
              joiner(on_error="drop")),
        Wrong("throws the part away at some errors",
              "every other status says nothing about the part: 404, 403 and 302 as little as 500. Keep it.",
              joiner(on_error="some")),
        Wrong("one tag for every file",
              "the tag of the part comes as `tag`; '\"v1\"' is the one in the example.",
              joiner(own_tag='"v1"')),
        Wrong("416 can be the end",
              "you call a part whole because it is as long as the file. A part that was whole was called so "
              "when its last piece came: at a 416 all begins again.",
              joiner(end_416=True)),
        Wrong("an empty file is never whole",
              "a file may have no bytes at all: a 200 with Content-Length 0 is whole at once.",
              joiner(empty=False)),
        Wrong("a piece that overlaps is trimmed",
              "a clever thought, and not what is asked: a piece that does not begin where the part ends is "
              "not joined.",
              joiner(trim=True)),
        Wrong("the new piece is kept",
              "a piece alone, without what came before it, is no beginning of a file: nothing of both is "
              "kept.",
              joiner(misfit="body")),
        Wrong("the old part is kept",
              "a part that the next piece does not fit may be of another version: nothing of both is kept, "
              "and all begins again.",
              joiner(misfit="part")),
        Wrong("the new version is not taken",
              "with a 200 all of the file comes, of whatever version: take it. The tag is asked for only "
              "where two pieces are joined.",
              joiner(on_200="same")),
        Wrong("never whole",
              "nothing is ever called whole, and the download goes on for ever.",
              joiner(never=True))])

# ---- 3. the bill: bill(n, size, gap, rate, workers, line, wait, resume) -> (MB, seconds) ----

def bill(n, size, gap, rate, workers, line, wait, resume):
    mb, cuts = (size, size/gap) if resume else (gap*math.expm1(size/gap), math.expm1(size/gap))
    busy = min(workers, n)
    speed = min(rate, line/8/busy)
    return n*mb, math.ceil(n/busy)*(mb/speed+cuts*wait)

def biller(bits=True, share=True, waits=True, rounds=math.ceil, again=None, resume_costs=False,
           again_cuts=None, idle=True, speed_of=None, total=None, each=False, resume_cuts=lambda x: x):
    "The answer, with switches for its mistakes"
    def f(n, size, gap, rate, workers, line, wait, resume):
        x = size/gap
        crossed = again or (lambda s, g: g*math.expm1(s/g))
        mb, cuts = crossed(size, gap), (again_cuts or math.expm1)(x)
        if resume and not resume_costs:
            mb, cuts = size, resume_cuts(x)
        busy = min(workers, n) if idle else workers
        shared = (line/8 if bits else line)/(busy if share else 1)
        speed = (speed_of or min)(rate, shared)
        turns = total(n, busy) if total else rounds(n/busy)
        return (mb if each else n*mb), turns*(mb/speed+cuts*wait*waits)
    return f

def simulated(n, size, gap, rate, workers, line, wait, resume, rng):
    "One unlucky download after the other: MB per file and seconds per file"
    speed, mb, seconds = min(rate, line/8/min(workers, n)), 0, 0
    for _ in range(n):
        left = size
        while (cut := rng.expovariate(1/gap)) < left:
            mb, seconds = mb+cut, seconds+cut/speed+wait
            left = left-cut if resume else size
        mb, seconds = mb+left, seconds+left/speed
    return mb/n, seconds/n

BILLS = [(100, 100, 1000, 25, 4, 1000, 8, True), (100, 100, 1000, 25, 4, 1000, 8, False),
         (100, 250, 100, 25, 4, 1000, 8, True), (100, 250, 100, 25, 4, 1000, 8, False),
         (101, 100, 1000, 25, 4, 100, 8, True),
         (100, 100, 500, 50, 16, 1000, 20, False), (10, 1000, 400, 25, 3, 80, 5, True),
         (3, 100, 1000, 25, 8, 400, 8, True), (1, 2000, 500, 25, 1, 1000, 8, False),
         (20, 100, 1000, 25, 8, 100, 8, True)]

def bill_behave(answer, *args): return tuple(float(f"{v:.6g}") for v in answer(*args))

ARGUMENTS = ("n", "size", "gap", "rate", "workers", "line", "wait", "resume")

def bill_check(answer):
    rng = random.Random(8)
    more = [(rng.randrange(1, 300), *(round(rng.uniform(*r), 1) for r in ((10, 800), (200, 3000), (5, 100))),
             rng.randrange(1, 20), round(rng.uniform(50, 2000), 1), round(rng.uniform(0, 30), 1),
             rng.random() < .5) for _ in range(100)]
    for args in BILLS+more:
        say = f"bill({', '.join(f'{k}={number(v)}' for k, v in zip(ARGUMENTS, args))})"
        got = call(say, answer, *args)
        assert isinstance(got, tuple) and len(got) == 2 and all(isinstance(x, (int, float)) for x in got), (
            f"{say}: (MB, seconds) should come back, not {got!r}")
        for what, have, want in zip(("MB", "seconds"), got, bill(*args)):
            assert math.isclose(have, want, rel_tol=1e-3), f"{say}: {want:,.1f} {what}, not {have:,.1f}"
    # and the formula itself against bad luck, thrown 4,000 times
    for args in BILLS[2:4]:
        mb, seconds = simulated(4000, *args[1:4], 4, *args[5:], rng)
        near = [math.isclose(a, b, rel_tol=.1) for a, b in zip(answer(*args), (100*mb, 25*seconds))]
        assert all(near), (
            "far from what a simulation finds")

bill_ex = Exercise("3. The bill", 4, bill_check, bill,
    probes=BILLS, behave=bill_behave,
    wrong=[
        Wrong("bits for bytes",
              "lines are sold in megabits, files are counted in megabytes. A byte has eight bits.",
              biller(bits=False)),
        Wrong("the line to itself",
              "the workers share one line. Each gets its part of it, and never more than its connection "
              "gives.",
              biller(share=False)),
        Wrong("cuts cost no time",
              "each cut also costs `wait` seconds in which its worker does nothing.",
              biller(waits=False)),
        Wrong("parts of files",
              "101 files for 4 workers: nobody fetches a quarter of a file. The busiest worker decides when "
              "all are done.",
              biller(rounds=lambda x: x)),
        Wrong("the odd files are forgotten",
              "101 files for 4 workers: one of them has 26. You round down.",
              biller(rounds=lambda x: max(1, math.floor(x)))),
        Wrong("one cut, one file more",
              "without resume each cut costs what had come so far, and the next try may be cut as well: "
              "that is a series, and its sum is the formula of section 10.",
              biller(again=lambda s, g: s*(1+s/g))),
        Wrong("as many cuts as with resume",
              "without resume more bytes cross the line, and each of them can be cut.",
              biller(again_cuts=lambda x: x)),
        Wrong("resume is not used",
              "with resume no byte is sent twice, so the bytes are those of the files.",
              biller(resume_costs=True)),
        Wrong("workers without work",
              "3 files keep 3 workers busy, not 8; the others take no share of the line.",
              biller(idle=False)),
        Wrong("whole cuts only",
              "you count whole cuts. These are averages: a file of 100 MB with a cut per 1,000 MB has a "
              "tenth of a cut.",
              biller(again_cuts=lambda x: int(math.expm1(x)), resume_cuts=int)),
        Wrong("a round too many",
              "100 files for 4 workers are 25 each, not 26. `math.ceil` rounds up and leaves whole numbers "
              "alone.",
              biller(total=lambda n, busy: n//busy+1)),
        Wrong("all files one after the other",
              "the workers fetch at the same time: each has only its part of the files.",
              biller(total=lambda n, busy: n)),
        Wrong("the line alone",
              "a connection gives `rate` at most, however fast the line is.",
              biller(speed_of=lambda rate, shared: shared)),
        Wrong("the connection alone",
              "the line is not looked at: all connections together get no more than it carries.",
              biller(speed_of=lambda rate, shared: rate)),
        Wrong("the larger of two speeds",
              "the slower of the two decides: the smaller of `rate` and the worker's share of the line.",
              biller(speed_of=max)),
        Wrong("the MB of one file", "the first number is asked for all files together.", biller(each=True)),
        Wrong("one wait for each file",
              "you wait once for each file. A file has size/gap cuts on average, and each costs `wait`.",
              biller(again_cuts=lambda x: 1, resume_cuts=lambda x: 1)),
        Wrong("all tries are counted whole",
              "gap·e^(size/gap) is one `gap` too many: for a file of no bytes nothing crosses the line. "
              "Take 1 off: math.expm1.",
              biller(again=lambda s, g: g*math.exp(s/g))),
        Wrong("half of a file is lost at each cut",
              "a fair thought for rare cuts, but the next try may be cut as well: that is a series, and its "
              "sum is the formula of section 10.",
              biller(again=lambda s, g: s+s*s/g/2))])

EXERCISES = dict(patience=patience_ex, pieces=pieces, bill=bill_ex)
