"""Where files live, and how they are written: atomic, hashed, never half."""

import errno
import hashlib
import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from sft_utils.errors import DataError, HandoffError, StorageError

ROOT = Path(__file__).resolve().parent.parent

IDENTITY = "identity.json"
"""What must be equal for a checkpoint to be continued; it also marks a folder as ours."""

COMPLETE = "complete.json"
"""Written when the notebook that trained here has ended; a folder without it is gone on from."""


def runs_dir(profile: str) -> Path:
    """Folder of everything a run at `profile` writes: outputs/runs/<profile>.

    `SFT_RUNS` replaces outputs/runs (the runner uses it to replay a run next to the original).
    """
    return Path(os.environ.get("SFT_RUNS", ROOT / "outputs" / "runs")) / profile


def display_path(path: Path | str) -> str:
    """The path relative to the repository, so that outputs name no machine."""
    try:
        return str(Path(path).resolve().relative_to(ROOT))
    except ValueError:
        return Path(path).name


def reader_path(given: Path | str) -> Path:
    """A path that the reader gave, with a home directory for `~`; there need be nothing.

    Raises:
        DataError: No file system takes it: too long, a link to itself, the home of nobody.
    """
    try:
        path = Path(given).expanduser()
        path.exists()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise DataError(f"{str(given)[:200]!r} is no usable path: {reason}. Check it.") from error
    return path


def placed(given: str) -> str:
    """A relative path counts from the repository's root, wherever the kernel runs.

    Args:
        given: A path, or what may be none: the id of a dataset, a text.
    Returns:
        The place of what is there, else what was given.
    """
    inside = ROOT / given
    relative = given and not Path(given).is_absolute()
    return str(inside) if relative and os.path.exists(inside) else given


def given_path(path: Path | str) -> str:
    """The path as it was given, if it lies outside the repository: for errors about such a file.

    Which file was looked for is then the reader's own business; `display_path` hides its folder.
    """
    inside = Path(path).resolve().is_relative_to(ROOT)
    return display_path(path) if inside else str(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there.

    Raises:
        StorageError: The disk is full or not writable; an older version stays in place.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as handle:
            temporary = Path(handle.name)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """The error to raise for a failed write: says which file, why, and what to do."""
    fix = "Free some space and run the same command again; finished work is kept."
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "Check the path and its permissions, then run the same command again."
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {display_path(path)}: {reason}. {fix}")


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        DataError: It holds no JSON: edited, merged with conflicts, or lost by the disk. Names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of the encoding too
        raise DataError(
            f"{display_path(path)} is no JSON ({error}). Bring it back with git if it is "
            "committed, else remove it and run what writes it again."
        ) from error


def sha256_text(text: str) -> str:
    """Hex sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return sha256_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(paths: list[Path]) -> str:
    """Hex sha256 over names and contents, independent of the order given."""
    parts = sorted((p.name, sha256_file(p)) for p in map(Path, paths))
    return sha256_json(parts)


def sha256_path(path: Path) -> str:
    """Hex sha256 of a file, or over relative names and contents of a folder."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return sha256_json([(str(p.relative_to(path)), sha256_file(p)) for p in files])


def result_path(notebook: str, profile: str) -> Path:
    """The hand-off file of a notebook: outputs/runs/<profile>/NN_name.json."""
    return runs_dir(profile) / f"{notebook}.json"


def require(notebook: str, profile: str, *, ours: bool = False) -> dict[str, Any]:
    """Load the hand-off of an earlier notebook.

    Args:
        notebook: Full name, for example "01_data_preparation".
        profile: Profile of this run; hand-offs never cross profiles.
        ours: Whether it must be of our task: numbers on a file of the reader's cannot stand beside
            those on the tickets.
    Raises:
        HandoffError: It was not run, or on another task; the message holds the command.
    """
    path = result_path(notebook, profile)
    number = notebook.split("_")[0]
    if not path.exists():
        raise HandoffError(
            f"{display_path(path)} is missing: notebook {notebook} has not finished at "
            f"profile {profile!r}. Run: make nb NB={number} PROFILE={profile}"
        )
    result = read_json(path)
    if not result.get("passed", True):
        raise HandoffError(
            f"{display_path(path)} holds failed checks. Repair notebook {notebook} first: "
            f"make nb NB={number} PROFILE={profile}{_own_file(result)}"
        )
    if ours and (own := result["parameters"].get("data")):
        raise HandoffError(
            f"{display_path(path)} is of a run on {own}, and its numbers would stand beside those "
            f"on the project's own data. Copy {display_path(path.with_suffix(''))} away if you "
            f"want to keep it, since this replaces it: make nb NB={number} PROFILE={profile}"
        )
    return result


def _own_file(result: dict[str, Any]) -> str:
    """The settings with which a run on the reader's file is repeated."""
    given = result.get("parameters", {})
    names = [name for name in ("data", "schema", "mapping") if given.get(name)]
    return "".join(f" {name.upper()}={shlex.quote(str(given[name]))}" for name in names)


HANDED: dict[str, dict[str, str]] = {}
"""Notebook -> name -> hash of every file that this process took over; results carry it."""


def handed_file(result: dict[str, Any], name: str) -> Path:
    """Path of a file that an earlier notebook handed on, verified against its hash.

    Raises:
        HandoffError: The file is gone or was changed since.
    """
    entry = result["files"][name]
    path = runs_dir(result["profile"]) / result["notebook"] / Path(entry["path"]).name
    number = result["notebook"].split("_")[0]
    fix = f"Run: make nb NB={number} PROFILE={result['profile']}"
    if not path.exists():
        raise HandoffError(f"{display_path(path)}, handed on by notebook {number}, is gone. {fix}")
    if sha256_path(path) != entry["sha256"]:
        raise HandoffError(f"{display_path(path)} was changed after notebook {number} ran. {fix}")
    HANDED.setdefault(result["notebook"], {})[name] = entry["sha256"]
    return path
