"Checks and known wrong answers for the exercises of appendix A1"
import contextlib, errno, os, shutil, tempfile
from pathlib import Path
from nanochat.runs import atomic_write
from grade import Exercise, Wrong, in_child

# ---- 1. whole or not at all: write_whole(path, data) ----

@contextlib.contextmanager
def watched_os(fail=None, before_rename=None):
    "os.fsync, os.replace and os.rename note what they see; the one named `fail` raises as on a full disk"
    real, seen = {n: getattr(os, n) for n in ("fsync", "replace", "rename")}, dict(synced=[], renamed=[])
    def fsync(fd):
        if fail == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")
        if fail == "stop":
            raise KeyboardInterrupt
        fd = fd if isinstance(fd, int) else fd.fileno()
        s = os.fstat(fd)
        seen["synced"].append((s.st_dev, s.st_ino, s.st_size))
        real["fsync"](fd)
    def rename(name):
        def f(src, dst, **kw):
            if fail == "replace":
                raise OSError(errno.ENOSPC, "No space left on device")
            s = os.stat(src)
            seen["renamed"].append(dict(src=Path(src), old=Path(dst).exists(), size=s.st_size,
                                        synced=(s.st_dev, s.st_ino, s.st_size) in seen["synced"]))
            if before_rename and len(seen["renamed"]) == 1:
                mine = os.getpid
                os.getpid = lambda: mine()+1                # the other writer is another process
                try:
                    before_rename()
                finally:
                    os.getpid = mine
            return real[name](src, dst, **kw)
        return f
    os.fsync, os.replace, os.rename = fsync, rename("replace"), rename("rename")
    try:
        yield seen
    finally:
        for n, f in real.items():
            setattr(os, n, f)

@in_child
def left_behind(answer, case):
    "What an answer leaves behind in one case of those that are listed below"
    # none (no trouble), fsync or replace (that step fails), new (no old file), two (another writer comes in
    # between), empty (no bytes), type (12345 is no bytes), stop (Ctrl-C)
    with tempfile.TemporaryDirectory() as d:
        path, data = Path(d)/"box"/"model.bin", {"empty": b"", "type": 12345}.get(case, b"new"*5000)
        path.parent.mkdir()
        if case != "new":
            path.write_bytes(b"old")
        error = None
        with watched_os(case if case in ("fsync", "replace", "stop") else None,
                        (lambda: answer(path, b"other")) if case == "two" else None) as seen:
            try:
                answer(path, data)
            except NotImplementedError:
                raise
            except KeyboardInterrupt:
                if case != "stop":
                    raise
                error = "KeyboardInterrupt"
            except Exception as e:
                error = errno.errorcode.get(e.errno, "OSError") if isinstance(e, OSError) else (
                f"{type(e).__name__}: {e}")
        found = path.read_bytes() if path.exists() else None
        found = {None: "nothing", data: "new", b"old": "old", b"other": "other"}.get(found,
            "something broken")
        r = seen["renamed"][0] if seen["renamed"] else None
        step = r and dict(beside=r["src"].parent.resolve() == path.parent.resolve(),
                          old=r["old"] or case == "new",
                          all=r["size"] in (len(data) if case != "type" else 0, 5), synced=r["synced"])
        return dict(found=found, error=error, left=len(os.listdir(path.parent))-(found != "nothing"),
                    rename=step)

def left_kind(answer, case):
    "The same, as far as mistakes go"
    got = left_behind(answer, case)
    if case in ("type", "stop"):
        return got["left"] > 0
    error = {None: None, "ENOSPC": "told"}.get(got["error"], "another")
    return got["found"], error, got["left"] > 0, got["rename"]

def atomic_check(answer):
    got = left_behind(answer, "none")
    assert got["error"] is None, f"without any trouble your code raised {got['error']}"
    assert got["found"] == "new", f"after a write without trouble the file holds {got['found']}"
    assert got["rename"], (
        "nothing was renamed: write the new bytes beside the file, under another name, then os.replace")
    assert got["rename"]["beside"], (
        "the part lies in another folder, perhaps on another disk: then no rename can be atomic. Write it "
        "beside the file.")
    assert got["rename"]["old"], (
        "the old file is gone before the new one has its name: killed in between, there is neither")
    assert got["rename"]["all"], (
        "when the new file got its name, its bytes were still in Python's buffer: flush first")
    assert got["rename"]["synced"], (
        "the file got its name before its bytes were surely on the disk: os.fsync, after the flush and "
        "before the rename")
    assert got["left"] == 0, "after write_whole(path, data) something is left beside the file"
    assert left_behind(answer, "new")["found"] == "new", "where there was no file yet, it does not arrive"
    got = left_behind(answer, "empty")
    assert got["found"] == "new" and not got["error"], (
        'write_whole(path, b""): the file should be empty afterwards, and it holds what was there before '
        f'(error: {got["error"]})')
    for step in ("fsync", "replace"):
        got = left_behind(answer, step)
        assert got["found"] == "old", (
            f"the disk is full at os.{step}: the old file must survive, but there is {got['found']}")
        assert got["error"], f"the disk is full at os.{step}, and the caller never hears of it"
        assert got["error"] == "ENOSPC", (
            f"the disk is full at os.{step}: the caller should get that OSError, and gets {got['error']}")
        assert got["left"] == 0, f"the disk is full at os.{step}, and the part stays there"
    got = left_behind(answer, "two")
    assert got["found"] in ("new", "other") and not got["error"] and got["left"] == 0, (
        f"two processes write the same file at once: there is {got['found']}, error {got['error']}, "
        f"{got['left']} files left over")
    got = left_behind(answer, "type")
    assert got["error"] and got["found"] == "old", (
        "write_whole(path, 12345), which is no bytes: the old file must survive and the error reach the "
        f"caller, but there is {got['found']}, error {got['error']}")
    assert got["left"] == 0, (
        f"write_whole(path, 12345), which is no bytes, raised {got['error']}, and the part stays there: an "
        "error need not be an OSError")
    got = left_behind(answer, "stop")
    assert got["error"] == "KeyboardInterrupt" and got["found"] == "old", (
        "somebody pressed Ctrl-C at os.fsync: the old file must survive and the KeyboardInterrupt go on to "
        f"the caller, but there is {got['found']}, error {got['error']}")
    assert got["left"] == 0, (
        "somebody pressed Ctrl-C at os.fsync, and the part stays there: a KeyboardInterrupt is no "
        "Exception. Catch BaseException, clean up, and raise it again.")

def in_place(path, data): Path(path).write_bytes(data)

def in_place_synced(path, data):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())

def careful(folder=None, flush=True, sync=True, sync_late=False, drop_old=False, clean=True, tell=True,
            name=None, errors=BaseException, empty=True, other=None, copy=False, aside=False,
            folder_sync=False, again=False):
    "The answer, with switches for its mistakes"
    def write_whole(path, data):
        path = Path(path)
        if not empty and not data:
            return
        if name:
            tmp = str(path)+name
            fd = os.open(tmp, os.O_WRONLY|os.O_CREAT|os.O_TRUNC, 0o644)
        else:
            fd, tmp = tempfile.mkstemp(dir=folder or path.parent)
        try:
            f = os.fdopen(fd, "wb", buffering=1 << 20)
            with f:
                f.write(data)
                if flush:
                    f.flush()
                if folder_sync:
                    fd = os.open(path.parent, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)
                elif sync and not sync_late:
                    os.fsync(f.fileno())
                # the buffer is emptied when the block ends: too late
                if not flush:
                    os.replace(tmp, path)
            if drop_old:
                path.unlink(missing_ok=True)
            if aside and path.exists():
                os.replace(path, tmp+".old")
            if copy:
                shutil.copy(tmp, path)
                os.unlink(tmp)
            elif flush:
                os.replace(tmp, path)
            if aside and os.path.exists(tmp+".old"):
                os.unlink(tmp+".old")
            if sync_late:
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
        except errors as e:
            if aside and os.path.exists(tmp+".old"):
                os.replace(tmp+".old", path)
            if clean and os.path.exists(tmp):
                os.unlink(tmp)
            if again:
                path.write_bytes(data)
                return
            if other and isinstance(e, OSError):
                raise other("could not write") from e
            if tell:
                raise
    return write_whole

atomic = Exercise("1. Whole or not at all", 3, atomic_check, atomic_write,
    probes=[(c,) for c in ("none", "new", "fsync", "replace", "two", "empty", "type", "stop")],
    behave=left_kind,
    wrong=[
        Wrong("in place",
              "`open(path, 'wb')` cuts the old file to nothing before the first new byte is written. Killed "
              "then, both are lost.",
              in_place),
        Wrong("in place",
              "`open(path, 'wb')` cuts the old file to nothing before the first new byte is written. Killed "
              "then, both are lost; fsync comes too late for that.",
              in_place_synced),
        Wrong("a copy in place of a rename",
              "`shutil.copy` empties the file and fills it again: killed in between, it is half. Only a "
              "rename is one step.",
              careful(copy=True)),
        Wrong("a part on another disk",
              "`tempfile` without `dir` writes to the system's folder for temporary files, often another "
              "disk. From there a rename is a copy, and a copy can be half done.",
              careful(folder=tempfile.gettempdir())),
        Wrong("no fsync",
              "a rename may reach the disk before the bytes do. After a power cut the new name may then "
              "belong to an empty file.",
              careful(sync=False)),
        Wrong("fsync without flush",
              "`os.fsync` takes to the disk what the *system* holds. Python's own buffer is not among it: "
              "f.flush() comes first.",
              careful(flush=False)),
        Wrong("fsync after the rename",
              "the order matters: first the bytes, then the name.",
              careful(sync_late=True)),
        Wrong("the old one goes first",
              "between removing the old file and naming the new one there is a moment with neither. "
              "os.replace needs no room made for it.",
              careful(drop_old=True)),
        Wrong("the part stays",
              "after an error the part lies there, and the next one, and the next: the disk that was full "
              "stays full.",
              careful(clean=False)),
        Wrong("the error is swallowed",
              "the caller goes on as if the file were written. Clean up, then `raise`.",
              careful(tell=False)),
        Wrong("one name for all parts",
              "two processes that write the same file write the same part, and one takes it away from the "
              "other. Let `tempfile.mkstemp(dir=...)` find a free name.",
              careful(name=".tmp")),
        Wrong("the old one is moved aside",
              "between moving the old file aside and naming the new one there is a moment with neither. "
              "os.replace needs no room made for it.",
              careful(aside=True)),
        Wrong("the folder is synced, not the file",
              "os.fsync of the folder takes the *name* to the disk. The bytes need an fsync of the file's "
              "own descriptor.",
              careful(folder_sync=True)),
        Wrong("only some errors are cleaned up after",
              "you clean up after an OSError. A TypeError, or a Ctrl-C, leaves the part lying there: clean "
              "up after every exception, and raise it again.",
              careful(errors=OSError)),
        Wrong("only some errors are cleaned up after",
              "a KeyboardInterrupt (somebody presses Ctrl-C) is no Exception, and the part is left lying "
              "there: catch BaseException, clean up, and raise it again.",
              careful(errors=Exception)),
        Wrong("another error reaches the caller",
              "the caller asked the disk and wants to hear what the disk said. Clean up, then a bare "
              "`raise`.",
              careful(other=RuntimeError)),
        Wrong("a second try in place",
              "when the careful way fails you write in place, and the old file is lost just when the disk "
              "is in trouble.",
              careful(again=True)),
        Wrong("nothing is written for no bytes",
              "an empty file is a file: `b\"\"` must replace what was there.",
              careful(empty=False))])

EXERCISES = dict(atomic=atomic)
