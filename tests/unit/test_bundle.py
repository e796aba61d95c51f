"""A bundle is opened whole or refused by file name, wherever it was copied to."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine import Interaction, Recommender
from engine.bundle.manifest import MANIFEST_FILE, Precision, describe_file, read_manifest, seal
from engine.bundle.opened import (
    CATALOGUE_FILE,
    FRAGMENTS_FILE,
    ITEMS_FILE,
    TOKENIZER_FILE,
    open_bundle,
)
from engine.errors import BundleError
from engine.upkeep.check import PROBES_FILE, Probe, check_bundle
from export.recipes import RECIPES

WEIGHTS_FILE = "encoder.onnx.data"
LISTED = [
    CATALOGUE_FILE,
    "encoder.onnx",
    WEIGHTS_FILE,
    ITEMS_FILE,
    PROBES_FILE,
    FRAGMENTS_FILE,
    TOKENIZER_FILE,
]
HISTORY = [Interaction("1", 10**12), Interaction("2")]


class WatchedRecommender(Recommender):
    """Counts how many are open."""

    num_open = 0

    @classmethod
    def open(cls, bundle: Path | str, config: object = None) -> Recommender:
        assert config is None
        opened = super().open(bundle)
        cls.num_open += 1
        return opened

    def close(self) -> None:
        super().close()
        type(self).num_open -= 1


@pytest.fixture
def bundle(reference_bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a bundle to damage."""
    copied = shutil.copytree(reference_bundle, tmp_path / "bundle")
    yield copied
    shutil.rmtree(copied, ignore_errors=True)


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.upkeep.check.Recommender", WatchedRecommender)
    monkeypatch.setattr(WatchedRecommender, "num_open", 0)


def reseal(bundle: Path, **values: object) -> None:
    """Make the manifest true again, as only a faulty build could."""
    manifest = read_manifest(bundle)
    files = {name: describe_file(bundle / name) for name in manifest.files}
    sealed = seal(msgspec.structs.replace(manifest, files=files, **values))
    (bundle / MANIFEST_FILE).write_bytes(msgspec.json.encode(sealed))


def rewrite(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads((bundle / MANIFEST_FILE).read_text())
    change(content)
    (bundle / MANIFEST_FILE).write_text(json.dumps(content))


def flip(path: Path, place: int, mask: int = 1) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ mask]))


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Recommender.open(bundle)
    return str(caught.value)


def test_manifest_lists_every_other_file(reference_bundle: Path) -> None:
    names = sorted(file.name for file in reference_bundle.iterdir())
    assert sorted([*LISTED, MANIFEST_FILE]) == names
    assert sorted(read_manifest(reference_bundle).files) == sorted(LISTED)


def test_files_can_be_read_by_others(reference_bundle: Path) -> None:
    assert {file.stat().st_mode & 0o777 for file in reference_bundle.iterdir()} == {0o644}


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_found_and_its_file_named(bundle: Path, name: str, place: float) -> None:
    path = bundle / name
    flip(path, int(place * (path.stat().st_size - 1)))
    expected = rf"{path} is damaged: its SHA-256 is \w+, expected \w+; copy or build the bundle"
    assert re.match(expected, refusal(bundle))


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(bundle: Path) -> None:
    path = bundle / MANIFEST_FILE
    whole = read_manifest(bundle)
    for place in range(path.stat().st_size):
        flip(path, place, 1 << place % 8)
        with suppress(BundleError):
            assert read_manifest(bundle) == whole
        flip(path, place, 1 << place % 8)
    assert read_manifest(bundle) == whole


@pytest.mark.parametrize("name", [*LISTED, MANIFEST_FILE])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert re.match(rf"{bundle}\b.*{name}: No such file or directory.*; ", refusal(bundle))


@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_file_is_named_with_both_sizes(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    expected = f"{bundle / name} has {len(content) - 1} bytes, expected {len(content)}; copy"
    assert refusal(bundle).startswith(expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 9, "schema version 9, this release serves 3; build the bundle again"),
        ("schema_version", 2, "schema version 2, this release serves 3; build the bundle again"),
        ("template_version", 9, "prompt template 9, this release writes 1; build the bundle with"),
    ],
)
def test_a_bundle_of_another_release_is_refused_with_the_remedy(
    bundle: Path, key: str, value: int, message: str
) -> None:
    rewrite(bundle, lambda content: content.update({key: value}))
    assert refusal(bundle).startswith(f"{bundle / MANIFEST_FILE}: {message}")


@pytest.mark.parametrize(
    "encoder",
    [
        {"backend": "openvino", "precision": "fp32"},
        {"backend": "onnxruntime", "precision": "fp16"},
        {"backend": "onnxruntime", "precision": "fp32", "sizes": []},
        {"backend": "onnxruntime-cuda", "precision": "fp16"},
        {"backend": "onnxruntime-cuda", "precision": "fp16", "sizes": []},
        {"backend": "tensorrt", "precision": "fp16"},
        {"precision": "fp32"},
    ],
)
def test_encoder_of_no_kind_is_damage(bundle: Path, encoder: dict[str, object]) -> None:
    rewrite(bundle, lambda content: content.update({"encoder": encoder}))
    assert f"{bundle / MANIFEST_FILE} is damaged" in refusal(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"\xff": 1}'])
def test_a_manifest_that_is_no_manifest_is_damaged(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST_FILE).write_bytes(content)
    expected = rf"{bundle / MANIFEST_FILE} is damaged \(.+\); copy or build the bundle again"
    assert re.match(expected, refusal(bundle))


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_version", "other"), ("built_with", {}), ("digest", ""), ("num_items", 399)],
)
def test_a_changed_manifest_is_damaged(bundle: Path, key: str, value: object) -> None:
    rewrite(bundle, lambda content: content.update({key: value}))
    assert "is damaged: it is not what its digest says" in refusal(bundle)


def test_a_file_struck_from_the_manifest_is_missed(bundle: Path) -> None:
    def strike(content: dict[str, object]) -> None:
        files = content["files"]
        assert isinstance(files, dict)
        del files[WEIGHTS_FILE]

    rewrite(bundle, strike)
    assert "is damaged: it is not what its digest says" in refusal(bundle)


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/etc/hosts", "a/b", "x\0", "x\n"])
def test_a_manifest_that_names_files_elsewhere_is_refused(bundle: Path, name: str) -> None:
    entry = msgspec.to_builtins(describe_file(bundle / ITEMS_FILE))
    (bundle.parent / "x").write_bytes((bundle / ITEMS_FILE).read_bytes())
    rewrite(bundle, lambda content: content.update({"files": {name: entry}}))
    assert re.match(rf"{bundle / MANIFEST_FILE} is damaged \(.*`\$\.files`\); ", refusal(bundle))


def test_a_copy_elsewhere_opens_without_the_original(
    bundle: Path, tmp_path: Path, recommender: Recommender
) -> None:
    copied = shutil.copytree(bundle, tmp_path / "other place" / "renamed")
    shutil.rmtree(bundle)
    opened = Recommender.open(str(copied))
    vectors = opened.encode_users([HISTORY])
    opened.close()
    np.testing.assert_array_equal(vectors, recommender.encode_users([HISTORY]))


def test_a_bundle_says_nothing_of_where_it_was_built(
    reference_bundle: Path, reference_dir: Path
) -> None:
    for file in reference_bundle.iterdir():
        content = file.read_bytes()
        assert str(reference_bundle.parent).encode() not in content
        assert str(reference_dir).encode() not in content


def test_an_extra_file_does_no_harm(bundle: Path) -> None:
    (bundle / "README.md").write_text("ours")
    (bundle / ".nfs0001").touch()
    Recommender.open(bundle).close()


def test_a_file_of_another_size_than_the_catalogue_is_refused(bundle: Path) -> None:
    items = load_file(bundle / ITEMS_FILE)
    save_file({name: value[1:] for name, value in items.items()}, bundle / ITEMS_FILE)
    reseal(bundle)
    assert "400 catalogue items, 399 table rows and 399 vectors" in refusal(bundle)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ITEMS_FILE, b"x"),
        (FRAGMENTS_FILE, b""),
        (CATALOGUE_FILE, b"{}\n"),
        (CATALOGUE_FILE, b'{"id":"\xff"}\n'),
        ("encoder.onnx", b"x"),
    ],
)
def test_a_file_that_was_built_wrongly_is_refused(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    reseal(bundle)
    assert str(bundle) in refusal(bundle)


@pytest.mark.usefixtures("_watched")
def test_check_describes_a_whole_bundle_and_closes_it(reference_bundle: Path) -> None:
    manifest = read_manifest(reference_bundle)
    lines = check_bundle(reference_bundle)
    assert [line.split()[0] for line in lines] == [
        "model",
        "catalogue",
        "built",
        "files",
        "parity",
        "probes",
    ]
    assert manifest.model_version in lines[0]
    assert "400 items" in lines[1]
    assert f"by llmsrec-engine {version('llmsrec-engine')}, with torch " in lines[2]
    assert "8 user vectors, cosine 1.0000000" in lines[5]
    assert WatchedRecommender.num_open == 0


def probes_of(bundle: Path) -> list[Probe]:
    content = (bundle / PROBES_FILE).read_bytes()
    return msgspec.json.decode(content, type=list[Probe])


def with_last(probes: list[Probe], **values: object) -> bytes:
    return msgspec.json.encode([*probes[:-1], msgspec.structs.replace(probes[-1], **values)])


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda _: b"[{", r"probes\.json: .*truncated", id="no JSON"),
        pytest.param(
            lambda _: b'[{"history":[{"item_id":"\xff"}]}]', r"probes\.json: .*utf-8", id="no text"
        ),
        pytest.param(lambda _: b"[]", "expected user vectors of 128 values", id="none"),
        pytest.param(
            lambda probes: with_last(probes, user_vector=[1.0] * 127),
            "expected user vectors of 128 values",
            id="too short",
        ),
        pytest.param(
            lambda probes: with_last(probes, history=[Interaction("unknown")]),
            r"probes\.json does not fit its bundle \(histories\[7\]: none of its 1 item ids",
            id="unknown items",
        ),
        pytest.param(
            lambda probes: with_last(probes, user_vector=probes[0].user_vector),
            r"differ from those of the build \(cosine \S+ < 0\.9999\)",
            id="another vector",
        ),
        pytest.param(
            lambda probes: with_last(probes, user_vector=[0.0] * 128),
            r"differ from those of the build \(cosine nan < 0\.9999\)",
            id="no vector",
        ),
    ],
)
def test_check_refuses_probes_that_do_not_fit_and_closes_the_bundle(
    bundle: Path, damage: Callable[[list[Probe]], bytes], message: str
) -> None:
    (bundle / PROBES_FILE).write_bytes(damage(probes_of(bundle)))
    reseal(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        check_bundle(bundle)
    assert str(bundle) in str(caught.value)
    assert "; build the bundle" in str(caught.value)
    assert WatchedRecommender.num_open == 0


def turned(vector: list[float], cosine: float) -> list[float]:
    """Give a vector at an angle to `vector`."""
    along = np.array(vector)
    across = np.roll(along, 1)
    across -= along * (across @ along) / (along @ along)
    across *= np.linalg.norm(along) / np.linalg.norm(across)
    return (cosine * along + np.sqrt(1 - cosine**2) * across).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("precision", "cosine", "passes"),
    [
        ("fp32", 0.99995, True),
        ("fp32", 0.9995, False),
        ("int16", 0.9995, False),
        ("fp16", 0.9995, True),
        ("fp16", 0.9985, False),
        ("bf16", 0.9995, True),
        ("fp8", 0.997, True),
        ("fp8", 0.995, False),
    ],
)
def test_check_allows_another_machine_what_the_precision_costs(
    bundle: Path, precision: Precision, cosine: float, passes: bool
) -> None:
    probes = probes_of(bundle)
    vector = turned(probes[-1].user_vector, cosine)
    (bundle / PROBES_FILE).write_bytes(with_last(probes, user_vector=vector))
    reseal(bundle, min_probe_cosine=RECIPES[precision].min_probe_cosine)
    if passes:
        assert check_bundle(bundle)
    else:
        with pytest.raises(BundleError, match="differ from those of the build"):
            check_bundle(bundle)


@pytest.mark.usefixtures("_watched")
def test_check_misses_probes_that_the_manifest_does_not_list(bundle: Path) -> None:
    (bundle / PROBES_FILE).unlink()
    manifest = read_manifest(bundle)
    files = {name: entry for name, entry in manifest.files.items() if name != PROBES_FILE}
    sealed = seal(msgspec.structs.replace(manifest, files=files))
    (bundle / MANIFEST_FILE).write_bytes(msgspec.json.encode(sealed))
    with pytest.raises(BundleError, match=r"probes\.json: No such file.*; build the bundle again"):
        check_bundle(bundle)
    assert WatchedRecommender.num_open == 0


def test_a_bundle_is_read_into_one_row_an_item(reference_bundle: Path) -> None:
    opened = open_bundle(reference_bundle)
    assert opened.catalogue.row_of_id[opened.catalogue.item_ids[399]] == 399
    assert opened.item_table.shape == (400, 64)
    assert opened.catalogue.item_vectors.shape == (400, 128)
