"""The wheel, installed beside its dependencies and nothing of this repository."""

import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARED_NAMES = """
import proto
from llmsrec.v1 import recommender_pb2 as pb

class Film(proto.Message):
    title = proto.Field(proto.STRING, number=1)

assert Film.deserialize(Film.serialize(Film(title="Alien"))).title == "Alien"
assert pb.Interaction.FromString(pb.Interaction(item_id="50").SerializeToString()).item_id == "50"
"""
SAME_WIRE = """
from gen.llmsrec.v1 import recommender_pb2 as theirs
from gen.llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from llmsrec.v1 import recommender_pb2 as ours
import grpc

assert theirs.__file__.startswith(sys.argv[1]) and not ours.__file__.startswith(sys.argv[1])
request = theirs.RecommendRequest(history=[theirs.Interaction(item_id="50")], k=5)
received = ours.RecommendRequest.FromString(request.SerializeToString())
assert (received.history[0].item_id, received.k) == ("50", 5)
RecommenderServiceStub(grpc.insecure_channel("127.0.0.1:1"))
"""


class Installed(NamedTuple):
    """An environment that has the wheel, and finds its dependencies among those of the tests."""

    wheel: Path
    scripts: Path

    def run(self, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [self.scripts / script, *arguments]
        return subprocess.run(
            command, cwd=self.scripts, capture_output=True, text=True, check=False
        )

    def names(self) -> list[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Compiled once: the folder stays, as an editable install's does.
    options = ["-C", "build-dir=build/test-wheel", "-C", "cmake.define.LLMSREC_CUDA=OFF"]
    options += ["--no-build-isolation", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *options, "."], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files there are not read: an editable install
    # of this repository stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(wheel, environment / "bin")


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stranger makes of the wire contract."""
    folder = tmp_path_factory.mktemp("stranger") / "gen"
    folder.mkdir()
    flags = [f"-I{ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *flags, "llmsrec/v1/recommender.proto"]
    subprocess.run(command, check=True)
    return folder


def test_wheel_holds_packages_alone(installed: Installed) -> None:
    names = installed.names()
    metadata = f"llmsrec_engine-{version('llmsrec-engine')}.dist-info"
    assert {name.split("/")[0] for name in names} == {"engine", "export", "llmsrec", metadata}
    assert {"engine/py.typed", "export/py.typed", "llmsrec/py.typed"} <= set(names)
    sources = {".cpp", ".h", ".cu", ".proto", ".safetensors"}
    assert [name for name in names if Path(name).suffix in sources] == []


def test_installed_server_verifies_a_bundle(installed: Installed, reference_bundle: Path) -> None:
    done = installed.run("llmsrec-engine", "check", reference_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "probes" in done.stdout


@pytest.mark.parametrize("script", ["llmsrec-engine", "llmsrec-build-engine", "llmsrec"])
def test_console_script_tells_its_version(installed: Installed, script: str) -> None:
    done = installed.run(script, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"llmsrec-engine {version('llmsrec-engine')}\n"


def test_console_script_exits_with_what_its_command_gave(
    installed: Installed, tmp_path: Path
) -> None:
    done = installed.run("llmsrec-engine", "check", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "imports",
    ["import proto, engine.rpc.client", "import engine.rpc.client, proto"],
    ids=["proto-plus first", "ours first"],
)
def test_proto_plus_works_beside_it(installed: Installed, imports: str) -> None:
    done = installed.run("python", "-I", "-c", f"{imports}\n{SHARED_NAMES}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("place", ["0", "len(sys.path)"], ids=["path before", "path after"])
@pytest.mark.parametrize(
    "imports",
    ["import engine.rpc.client", "from gen.llmsrec.v1 import recommender_pb2"],
    ids=["ours first", "theirs first"],
)
def test_code_generated_by_a_stranger_works_beside_it(
    installed: Installed, generated: Path, place: str, imports: str
) -> None:
    paths = f"import sys\nsys.path[{place}:{place}] = [sys.argv[1], sys.argv[2]]"
    script = f"{paths}\n{imports}\nimport engine.rpc.client\n{SAME_WIRE}"
    done = installed.run("python", "-I", "-c", script, generated, generated.parent)
    assert (done.returncode, done.stderr) == (0, "")
