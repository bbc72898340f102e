"The tests in two halves at once: those of exercises and sandboxes need no trained run and go beside the rest"

import argparse, subprocess, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BESIDE = [
    str(HERE / f"test_{name}.py") for name in ("exercises", "graders", "grade_hostile", "judge", "isolation")
]
ALONE = [str(HERE / "test_house.py")]  # a part of its own


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    pytest = [sys.executable, "-m", "pytest", "-q"]
    with tempfile.TemporaryFile() as said:
        other = subprocess.Popen([*pytest, *BESIDE], stdout=said, stderr=subprocess.STDOUT)
        try:
            first = subprocess.run(
                [*pytest, str(HERE), *(f"--ignore={path}" for path in BESIDE + ALONE)]
            ).returncode
            second = other.wait()
        finally:
            other.kill()
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    sys.exit(max(first, second))


if __name__ == "__main__":
    main()
