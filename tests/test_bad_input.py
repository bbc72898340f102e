"What a reader can get wrong, or a disk can do: one clear line, a status other than 0, nothing half written"

import contextlib, errno, gzip, io, json, lzma, os, random, shutil, signal, subprocess, sys, time
import pytest
from conftest import ROOT, Run, door, door_environment, leftovers, one_line, run_module

WORDS = (
    "the old miller walked to the market and sold a sack of flour for three coins before the rain came"
).split()


def prose(n, seed=0):
    "About n bytes of lines of plain words"
    rng, lines, size = random.Random(seed), [], 0
    while size < n:
        lines.append(" ".join(rng.choices(WORDS, k=12)) + ".\n")
        size += len(lines[-1])
    return "".join(lines)


def pretrain(base, folder, *args):
    return run_module(
        "pretrain",
        "--run",
        "bad",
        "--tier",
        "smoke",
        "--corpus",
        folder,
        "--num_iterations",
        2,
        *args,
        base=base,
        check=False,
    )


def nothing_half(base):
    "No file of an unfinished write, no tokenizer and no checkpoint of text that could not be read"
    assert not leftovers(base)
    assert not list(base.rglob("tokenizer.json")) and not list(base.rglob("step_*"))


# --- the corpus ---


def test_missing_folder(base, tmp_path):
    one_line(door("--corpus", tmp_path / "nowhere", "--tier", "smoke"), "nowhere", "no such folder", status=1)
    assert not base.exists()
    one_line(pretrain(base, tmp_path / "nowhere"), "nowhere")
    nothing_half(base)


def test_empty_folder(base, tmp_path):
    (tmp_path / "empty").mkdir()
    one_line(door("--corpus", tmp_path / "empty", "--tier", "smoke"), "empty", ".txt", status=1)
    nothing_half(base)


def spoil_junk(d):
    (d / "a.txt").write_bytes(random.Random(0).randbytes(50_000))


def spoil_parquet(d):
    import pyarrow as pa, pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [prose(2000, i) for i in range(50)]}), d / "a.parquet")
    data = (d / "a.parquet").read_bytes()
    (d / "a.parquet").write_bytes(data[: len(data) // 2])


def spoil_xz(d):
    data = lzma.compress(prose(200_000).encode())
    (d / "a.txt.xz").write_bytes(data[: len(data) // 2])


def spoil_gz(d):
    data = gzip.compress(prose(200_000).encode())
    (d / "a.txt.gz").write_bytes(data[: len(data) // 2])


def spoil_jsonl(d):
    (d / "a.jsonl").write_text('{"text": "one"}\n{"text": "tw')


def spoil_field(d):
    (d / "a.jsonl").write_text('{"body": "one"}\n')


def spoil_column(d):
    import pyarrow as pa, pyarrow.parquet as pq

    pq.write_table(pa.table({"body": ["one"]}), d / "a.parquet")


def spoil_blank(d):
    (d / "a.txt").write_text("\n \n")


@pytest.mark.parametrize(
    "spoil",
    [spoil_junk, spoil_parquet, spoil_xz, spoil_gz, spoil_jsonl, spoil_field, spoil_column],
    ids=lambda f: f.__name__[6:],
)
def test_file_that_cannot_be_read_is_named(base, tmp_path, spoil):
    folder = tmp_path / "texts"
    folder.mkdir()
    spoil(folder)
    bad = next(folder.iterdir()).name
    (folder / "0.txt").write_text(prose(20_000))  # a good file before it: it is the bad one that is named
    one_line(pretrain(base, folder), bad)
    nothing_half(base)


def test_folder_that_changed_under_a_run(base, tmp_path):
    "A run that would go on in other text says so; with the old files back it goes on as if nothing had been"
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(prose(40_000))

    def again():
        return pretrain(base, folder, "--save_every", 1)

    assert again().returncode == 0
    last = base / "runs" / "bad" / "base" / "step_2"
    whole = (last / "model.safetensors").read_bytes()
    shutil.rmtree(last)
    (folder / "b.txt").write_text(prose(5_000, 1))  # one step is still to do
    one_line(again(), "texts", "added, removed or changed", status=1)
    assert [p.name for p in last.parent.iterdir()] == ["step_1"]
    (folder / "b.txt").unlink()
    assert again().returncode == 0 and (last / "model.safetensors").read_bytes() == whole


def test_later_stages_notice_another_text_too(base, tmp_path):
    "Bits per byte of two texts in one report would be compared; the last byte counts as much as the first"
    folder = tmp_path / "texts"
    folder.mkdir()
    text = prose(40_000)
    (folder / "a.txt").write_text(text)
    assert pretrain(base, folder, "--save_every", 2).returncode == 0
    (folder / "a.txt").write_text(text[:-6] + text[-6:].swapcase())
    for module, stage in (("evaluate", "base"), ("sft", "mid")):
        done = run_module(module, "--run", "bad", "--stage", stage, base=base, check=False)
        one_line(done, "texts", "not the one that run 'bad' began with", status=1)
    (folder / "a.txt").write_text(text)
    assert run_module("evaluate", "--run", "bad", "--stage", "base", base=base).returncode == 0


def test_folder_of_blanks(base, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    spoil_blank(folder)
    one_line(pretrain(base, folder), "texts")
    nothing_half(base)


# --- folders as people have them ---


def index_of(base, folder):
    "What a start says of a folder, and the files that it reads, as a finished command would show it"
    from nanochat import corpus, runtime

    getattr(corpus, "_said", set()).clear()
    before, out, err, status = os.environ.get("NANOCHAT_BASE_DIR"), io.StringIO(), io.StringIO(), 0
    os.environ["NANOCHAT_BASE_DIR"] = str(base)

    def command():
        for file, *_ in corpus.folder_index(folder):
            print(file)

    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runtime.friendly(command)()
    except SystemExit as e:
        status = 1
        err.write(f"{e.code}\n")
    finally:
        os.environ.pop("NANOCHAT_BASE_DIR") if before is None else os.environ.__setitem__(
            "NANOCHAT_BASE_DIR", before
        )
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())


@pytest.fixture
def texts(tmp_path):
    "A folder with one good file"
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "good.txt").write_text(prose(3000))
    return folder


def test_what_is_left_out_of_a_folder_is_said(base, texts):
    for name in ("part-000.json", "part-001.json", "page.html", "scan.pdf", "two.json.gz"):
        (texts / name).write_text("[]")
    (texts / ".git").mkdir()
    (texts / "gone.txt").symlink_to("nowhere.txt")
    (texts / "README.md").write_text("# About\n")
    os.mkfifo(texts / "pipe.txt")
    done = index_of(base, texts)
    assert done.returncode == 0, done.stderr
    (line,) = [l for l in done.stderr.splitlines() if l.startswith("corpus texts")]
    for words in (
        "2 files are read (1 .md, 1 .txt)",
        "part-000.json",
        "and 2 more",
        "not a kind that is read",
        "hidden: .git",
        "gone.txt",
        "a link to nothing",
        "not a file: pipe.txt",
    ):
        assert words in line, (words, line)
    assert [l.rsplit("/", 1)[1] for l in done.stdout.splitlines()] == ["README.md", "good.txt"]


def test_a_folder_of_other_files_names_them(base, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(5):
        (folder / f"part-{i}.json").write_text("[]")
    one_line(index_of(base, folder), "no file in it", "part-0.json", "and 2 more")


def test_linked_folders_are_walked_once(base, texts, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "far.txt").write_text(prose(2000, 1))
    (texts / "linked").symlink_to(other)
    (texts / "twice").symlink_to(other)
    (other / "up").symlink_to(texts)
    (texts / "round").symlink_to(".")
    done = index_of(base, texts)
    assert done.returncode == 0, done.stderr
    assert sorted(l.rsplit("/", 1)[1] for l in done.stdout.splitlines()) == ["far.txt", "good.txt"]
    assert "a link to a folder that is read already" in done.stderr


def test_a_file_of_two_names_is_read_once(base, texts):
    "Else all of the validation text would be in the training text, under the other name"
    (texts / "latest.txt").symlink_to(texts / "good.txt")
    (texts / "hard.txt").hardlink_to(texts / "good.txt")
    done = index_of(base, texts)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stdout
    assert "another name of a file that is read already" in done.stderr


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_may_not_be_read_is_named(base, texts, what, monkeypatch):
    from nanochat.corpus import folder_index
    from nanochat.runs import UserError

    inner = texts / "private"
    inner.mkdir()
    (inner / "a.txt").write_text(prose(2000))
    target = inner if what == "folder" else inner / "a.txt"
    target.chmod(0)
    if os.getuid() == 0:
        for d in (texts, *texts.parents):
            if d.stat().st_uid == 0 and d.name.startswith(("texts", "test_", "pytest-")):
                d.chmod(0o755)
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(texts.parent / "never-written"))
        "".encode("utf-8-sig")  # so that nothing is left to import for a user who may not
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="private.*can't be read .Permission denied"):
            folder_index(texts)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        target.chmod(0o755)


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.jsonl", "a.parquet", "a.csv", "a.txt.gz", "a.jsonl.xz", "a.jsonl.zst"]
)
def test_a_pointer_is_not_the_text(base, texts, name):
    (texts / name).write_bytes(POINTER)
    one_line(index_of(base, texts), name, "Git LFS pointer", "git lfs pull")


def test_the_base_folder_inside_the_corpus_is_left_out(texts):
    base = texts / "nanochat"
    base.mkdir()
    first = index_of(base, texts)
    assert first.returncode == 0 and "nanochat's own: nanochat" in first.stderr, first.stderr
    (base / "runs" / "x").mkdir(parents=True)
    (base / "runs" / "x" / "log.jsonl").write_text('{"stage": "base", "step": 1}\n')
    again = index_of(base, texts)
    assert again.stdout == first.stdout and again.returncode == 0
    home = index_of(texts, texts)  # the base folder itself as a corpus: its runs are no text
    (texts / "runs").mkdir(exist_ok=True)
    (texts / "runs" / "log.jsonl").write_text("{}\n")
    assert index_of(texts, texts).stdout == home.stdout


GOOD = '{"text": "a good line"}\n'
BAD_ROWS = {
    "quote": '{"text": "an "inner" quote"}\n',
    "null": '{"text": null}\n',
    "no text": '{"body": "x"}\n',
    "a list": "[1]\n",
    "a number": '{"text": 5}\n',
    "surrogate": '{"text": "\\ud83d"}\n',
    "half": '{"text": "x\n',
}


@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_and_one_in_a_hundred_passes(base, tmp_path, row):
    folder = tmp_path / "texts"
    folder.mkdir()
    file = folder / "a.jsonl"
    file.write_text(GOOD * 4 + row + GOOD)
    one_line(index_of(base, folder), "a.jsonl, row 5", "1 of 6 rows")
    file.write_text(GOOD * 400 + row + GOOD * 4 + row + GOOD * 400)
    done = index_of(base, folder)
    assert (
        done.returncode == 0
        and "2 rows without a text are passed over, the first is" in done.stderr
        and "row 401" in done.stderr
    ), done.stderr
    from nanochat.corpus import read_texts

    assert list(read_texts(file)) == ["a good line"] * 804


def test_json_errors_name_the_column(base, tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD * 4 + '{"text": "an "inner" quote"}\n' + GOOD)
    one_line(index_of(base, tmp_path / "a.jsonl"), "row 5: not JSON", "column 15")


def test_a_cut_file_is_not_a_bad_row(base, tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD * 1000 + '{"text": "and her')
    one_line(index_of(base, tmp_path / "a.jsonl"), "row 1001", "cut short")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_another_encoding_is_named_as_such(base, tmp_path, name, encoding):
    text = "text\nKöln ist eine Stadt\n" if name.endswith("csv") else '{"text": "Köln ist eine Stadt"}\n'
    (tmp_path / name).write_bytes(text.encode(encoding))
    done = index_of(base, tmp_path / name)
    one_line(done, name)
    assert "UTF-8" in done.stderr or name.endswith("csv") and "no column" in done.stderr, done.stderr


def test_tables_and_packed_files(base, tmp_path):
    import pyarrow
    from nanochat.corpus import read_texts

    rows = ["plain", 'with "quotes", commas', "two\nlines", "x" * 300_000]
    import csv

    with open(tmp_path / "a.csv", "w", newline="") as f:
        csv.writer(f).writerows([["id", "text"], *[[i, r] for i, r in enumerate(rows)]])
    assert list(read_texts(tmp_path / "a.csv")) == rows
    data = "".join(json.dumps(dict(text=r)) + "\n" for r in rows).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(pyarrow.compress(data, "zstd", asbytes=True))
    assert list(read_texts(tmp_path / "a.jsonl.zst")) == rows
    (tmp_path / "b.csv").write_text("id;text\n1;x\n")
    one_line(index_of(base, tmp_path / "b.csv"), "b.csv", "no column 'text'")
    (tmp_path / "c.jsonl.zst").write_bytes(b"no zst at all")
    one_line(index_of(base, tmp_path / "c.jsonl.zst"), "c.jsonl.zst")
    (tmp_path / "d.csv").write_text("")
    one_line(index_of(base, tmp_path / "d.csv"), "d.csv", "no column 'text'")


def test_a_note_about_a_folder_that_is_damaged_is_made_again(base, texts):
    first = index_of(base, texts)
    (note,) = (base / "corpora").glob("*.json")
    odd = "[" * 3000, '[["a", 1, 2, 3, "b"]]', "[[1, 2, 3, 4, 5]]"
    for spoilt in ("{}", "[[1]]", "[", "7", "[[1, 2, 3]]", *odd):
        note.write_text(spoilt)
        again = index_of(base, texts)
        assert again.returncode == 0 and again.stdout == first.stdout, again.stderr


# --- shapes ---


def test_vocabulary_smaller_than_bytes_and_special_tokens(base):
    one_line(
        run_module("tokenizer", "--run", "bad", "--vocab_size", 200, base=base, check=False), "200", "265"
    )
    one_line(door("--tier", "smoke", "--run", "small", "--vocab_size", 200), "200", "265", status=1)
    nothing_half(base)


def test_sequence_longer_than_the_corpus(base, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(prose(3000))
    one_line(pretrain(base, folder, "--seq_len", 4096), "4096")
    assert not leftovers(base) and not list(base.rglob("step_*"))


@pytest.mark.parametrize(
    "args, word",
    [
        (("--depth", 0), "depth"),
        (("--seq_len", 0), "seq_len"),
        (("--total_batch_size", 7), "7"),
        (("--dtype", "float8"), "float8"),
        (("--tier", "huge"), "huge"),
        (("--num_iterations", -1), "num_iterations"),
    ],
)
def test_impossible_settings(base, args, word):
    one_line(
        run_module(
            "scaling",
            "--run",
            "bad",
            *(() if "--tier" in args else ("--tier", "smoke")),
            *args,
            base=base,
            check=False,
        ),
        word,
    )
    assert not list(base.rglob("settings.json"))


def test_unknown_option_of_a_module_is_named(base):
    done = run_module("pretrain", "--run", "bad", "--iterations", 3, base=base, check=False)
    assert (
        done.returncode == 2
        and "Traceback" not in done.stderr
        and "--iterations" in done.stderr.splitlines()[-1]
    )
    assert not base.exists()


# --- runs ---


@pytest.mark.parametrize("module", ["evaluate", "tasks", "sft", "grpo", "report", "chat", "serve"])
def test_run_that_is_not_there(base, module):
    (base / "runs" / "here").mkdir(parents=True)
    (base / "runs" / "here" / "settings.json").write_text("{}")
    one_line(run_module(module, "--run", "nosuch", base=base, check=False), "nosuch", "here")
    assert [p.name for p in (base / "runs").iterdir()] == ["here"]


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "x" * 101])
def test_name_that_would_leave_the_folder(base, name):
    one_line(door("--tier", "smoke", "--run", name), "run name", status=1)
    one_line(run_module("tokenizer", "--run", name, base=base, check=False), "run name")
    assert not base.exists()


def test_changed_settings_under_an_old_name(smoke):
    for args, words in (
        (("--depth", "5"), ("depth", "2", "5")),
        (("--seed", "9"), ("seed", "0", "9")),
        (("--tier", "laptop"), ("tier", "smoke", "laptop")),
        (("--vocab_size", "600"), ("vocab_size", "512", "600")),
    ):
        one_line(door("--run", smoke.name, *args, base=smoke.base), *words, status=1)
        one_line(run_module("pretrain", "--run", smoke.name, *args, base=smoke.base, check=False), *words)


def test_stage_before_its_turn(base):
    run_module("scaling", "--run", "young", "--tier", "smoke", base=base)
    for module, args in (
        ("sft", ("--stage", "mid")),
        ("grpo", ()),
        ("evaluate", ("--stage", "base")),
        ("tasks", ("--stage", "sft")),
        ("chat", ()),
    ):
        one_line(
            run_module(module, "--run", "young", *args, base=base, check=False),
            "young" if module != "evaluate" else "",
        )


def test_settings_that_are_damaged(base):
    run_module("scaling", "--run", "torn", "--tier", "smoke", base=base)
    file = base / "runs" / "torn" / "settings.json"
    file.write_text(file.read_text()[:40])
    one_line(door("--run", "torn"), "settings.json", status=1)
    one_line(run_module("pretrain", "--run", "torn", base=base, check=False), "settings.json")


def test_tokenizer_that_is_damaged(smoke, tmp_path):
    run = smoke.before("base", tmp_path)
    file = run.dir / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text()[:1000])
    one_line(run.train("base", check=False), "tokenizer.json")


def test_two_starts_at_once(base, tmp_path):
    first = subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "--tier", "smoke", "--run", "twice"],
        env=door_environment(base),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lock = base / "runs" / "twice" / ".lock"
        while first.poll() is None and not (lock.exists() and lock.read_text()):
            time.sleep(0.05)
        one_line(door("--tier", "smoke", "--run", "twice"), "twice", str(first.pid), status=1)
        while first.poll() is None and not (base / "runs" / "twice" / "settings.json").exists():
            time.sleep(0.05)
        one_line(run_module("pretrain", "--run", "twice", base=base, check=False), "twice", "in use")
        one_line(door("clean", "twice"), "in use", status=1)
        assert first.poll() is None, "the first goes on undisturbed"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert door("clean", "twice").returncode == 0, "the lock ends with the job, however it ends"


# --- a full disk ---


def small_disk(path, size):
    "Mount a small file system in memory; False where that is not allowed"
    path.mkdir(parents=True, exist_ok=True)
    return (
        sys.platform == "linux"
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.slow
def test_full_disk_and_then_room_again(smoke, tmp_path):
    disk = tmp_path / "disk"
    if not small_disk(disk, "1500k"):
        pytest.skip("mounting is not allowed here")
    try:
        args = (
            "--run",
            "full",
            "--tier",
            "smoke",
            "--seed",
            0,
            "--dtype",
            json.loads((smoke.dir / "results" / "base.json").read_text())["dtype"],
        )
        one_line(run_module("pretrain", *args, base=disk, check=False), "no space left", str(disk))
        run = Run(disk, "full")
        assert not leftovers(disk) and not list((run.dir / "base").glob("step_*"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        run_module("pretrain", *args, base=disk)
        assert run.weights("base") == smoke.weights("base"), (
            "the same command, with room, ends where it would have ended"
        )
    finally:
        subprocess.run(["umount", "-l", str(disk)])


@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_no_space_at_any_write_leaves_nothing_half(tmp_path, monkeypatch, where):
    from nanochat.runs import atomic_write, write_checked

    def full(*a, **k):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_write(tmp_path / "a.json", "old")
    for name in dict(fsync=("fsync",), rename=("rename", "replace"))[where]:
        monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError):
        atomic_write(tmp_path / "a.json", "new")
    with pytest.raises(OSError):
        write_checked(tmp_path / "base" / "step_1", {"model.safetensors": b"x" * 1000}, {})
    monkeypatch.undo()
    assert (
        (tmp_path / "a.json").read_text() == "old"
        and not leftovers(tmp_path)
        and not (tmp_path / "base" / "step_1").exists()
    )
