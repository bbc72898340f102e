"""All tests but those of the house, by several processes at once.

One begins with the files that read the smoke run, which it trains once; the others work through groups of
files that need no trained run. Whichever has finished takes the next group.
"""

import argparse, re, subprocess, sys, tempfile, threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALONE = HERE / "test_house.py"  # a part of its own
ALSO_BESIDE = {"test_baseline", "test_hub", "test_training"}  # their own runs: less than a wait for the first
EARLY = {"test_rehearsal", "test_exercises", "test_graders"}  # the longest: nobody should wait for them alone
WORKERS = 3  # for two cores: a test waits for starts, sockets and disks, and in that time another may compute
GROUPS = 12  # each start of pytest takes some seconds, and the last group's work can't be shared


def groups():
    "Lists of files: those that name the fixture `smoke`, then the others, about as much text in each"
    files = [path for path in sorted(HERE.glob("test_*.py")) if path != ALONE]
    trained = [path for path in files if re.search(r"\bsmoke\b", path.read_text())]
    trained = [path for path in trained if path.stem not in ALSO_BESIDE]
    beside = [[] for _ in range(GROUPS)]
    for path in sorted(set(files) - set(trained), key=lambda path: (-path.stat().st_size, path.name)):
        min(beside, key=lambda group: sum(path.stat().st_size for path in group)).append(path)
    beside.sort(key=lambda group: not any(path.stem in EARLY for path in group))
    return [trained, *beside]


def run(group: list, said) -> int:
    "One pytest; its words go to a file, or are shown as they come where `said` is None"
    pytest = [sys.executable, "-m", "pytest", "-q", "--durations=8"]
    return subprocess.run([*pytest, *group], stdout=said, stderr=said and subprocess.STDOUT).returncode


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    waiting, lock, held = groups(), threading.Lock(), []
    status = {tuple(group): None for group in waiting}  # None: never finished

    def work(shown: bool):
        while True:
            with lock:
                if not waiting:
                    return
                group = waiting.pop(0)
            with tempfile.TemporaryFile() as said:
                code = run(group, None if shown else said)
                said.seek(0)
                words = said.read().decode(errors="replace")
            with lock:
                status[tuple(group)] = code
                held.append(words)

    threads = [threading.Thread(target=work, args=(k == 0,)) for k in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(filter(None, held)), flush=True)
    for group, code in status.items():
        if code is None or code < 0:
            how = "was never finished" if code is None else f"was ended by signal {-code}"
            print(f"a group of tests {how}: {', '.join(path.stem for path in group)}", flush=True)
    sys.exit(int(any(code != 0 for code in status.values())))


if __name__ == "__main__":
    main()
