"Answers to the exercises of appendix A1"
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from answers import Answers

answers = Answers()

# ---- 1. whole or not at all ----

def write_part(part, path, data, sync=True):
    with open(part, "wb") as f:
        f.write(data)
        f.flush()
        if sync:
            os.fsync(f.fileno())
    os.replace(part, path)

def cleaned(part, path, data, errors=BaseException, **how):
    try:
        write_part(part, path, data, **how)
    except errors:
        if os.path.exists(part):
            os.unlink(part)
        raise

@answers.right("atomic")
def name_with_the_process(path, data): cleaned(f"{path}.{os.getpid()}.part", path, data)

@answers.right("atomic")
def random_name(path, data): cleaned(path.parent/f".{uuid.uuid4().hex}", path, data)

@answers.right("atomic")
def low_level(path, data):
    fd, part = tempfile.mkstemp(dir=path.parent)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.fsync(fd)
        os.close(fd)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise

@answers.right("atomic")
def named_temporary_file(path, data):
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
        part = f.name
        try:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        except BaseException:
            os.unlink(part)
            raise
    try:
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise

@answers.wrong("atomic", named="only some errors are cleaned up after")
def cleans_after_os_errors_only(path, data): cleaned(path.parent/uuid.uuid4().hex, path, data, errors=OSError)

@answers.wrong("atomic", named="only some errors are cleaned up after")
def cleans_after_exceptions_only(path, data):
    cleaned(path.parent/uuid.uuid4().hex, path, data, errors=Exception)

@answers.wrong("atomic", named="nothing is written for no bytes")
def no_empty_file(path, data):
    if data:
        random_name(path, data)

@answers.wrong("atomic", named="one name for all parts")
def suffix_part(path, data): cleaned(path.with_suffix(".part"), path, data)

@answers.wrong("atomic", named="a copy in place of a rename")
def copied(path, data):
    part = path.parent/uuid.uuid4().hex
    try:
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        shutil.copy(part, path)
    finally:
        os.unlink(part)

@answers.wrong("atomic", named="another error reaches the caller")
def another_error(path, data):
    try:
        random_name(path, data)
    except OSError as e:
        raise RuntimeError("could not write") from e

@answers.wrong("atomic", named="the error is swallowed")
def returns_false(path, data):
    try:
        random_name(path, data)
    except OSError:
        return False
    return True

@answers.wrong("atomic")
def backup_first(path, data):
    backup = path.parent/f"{uuid.uuid4().hex}.bak"
    if path.exists():
        os.replace(path, backup)
    try:
        random_name(path, data)
    except BaseException:
        if backup.exists():
            os.replace(backup, path)
        raise
    backup.unlink(missing_ok=True)

@answers.wrong("atomic", named="in place")
def opened_and_synced(path, data):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())

@answers.wrong("atomic", named="no fsync")
def flushed_only(path, data): cleaned(path.parent/uuid.uuid4().hex, path, data, sync=False)

@answers.wrong("atomic", named="the folder is synced, not the file")
def syncs_the_folder(path, data):
    part = path.parent/uuid.uuid4().hex
    try:
        part.write_bytes(data)
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

@answers.wrong("atomic")
def leaves_a_backup(path, data):
    if path.exists():
        shutil.copy(path, f"{path}.bak")
    random_name(path, data)

@answers.wrong("atomic", named="a second try in place")
def writes_in_place_if_all_fails(path, data):
    try:
        random_name(path, data)
    except OSError:
        path.write_bytes(data)

@answers.wrong("atomic")
def lock_file(path, data):
    lock = Path(f"{path}.lock")
    fd = os.open(lock, os.O_CREAT | os.O_EXCL)
    os.close(fd)
    try:
        random_name(path, data)
    finally:
        lock.unlink()

@answers.wrong("atomic")
def as_text(path, data): random_name(path, data.decode().encode()+b"\n")
