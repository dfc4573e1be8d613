"""Which network a name refers to."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest

from difix3d_ns.difix.resolve import EMBEDDED_MODEL, PUBLISHED_MODEL, resolve_difix

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, which is empty."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into(cache: Path, weights: tuple[str, ...]) -> None:
    """Puts files of the published network into the cache, in the hub's layout."""
    folder = cache / f"models--{PUBLISHED_MODEL.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in weights:
        file = folder / "snapshots" / COMMIT / f"{name}.safetensors"
        file.parent.mkdir(parents=True)
        file.touch()


def set_reachable(monkeypatch: pytest.MonkeyPatch, reachable: bool) -> None:
    """Makes the hub answer, or no server at all."""

    def urlopen(*args: object, **kwargs: object) -> nullcontext[None]:
        if not reachable:
            raise urllib.error.URLError("no network")
        return nullcontext()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize(
    ("device", "cached", "reachable", "name"),
    [
        ("cpu", WEIGHTS, True, "embedded"),
        ("cuda", WEIGHTS, False, PUBLISHED_MODEL),
        ("cuda", (), True, PUBLISHED_MODEL),
        ("cuda", (), False, "embedded"),
        ("cuda", WEIGHTS[:2], False, "embedded"),  # after an interrupted download
    ],
)
def test_auto_takes_the_published_network_only_if_there_is_a_gpu_and_it_is_available(
    monkeypatch: pytest.MonkeyPatch, cache: Path, device: str, cached: tuple[str, ...], reachable: bool, name: str
) -> None:
    put_into(cache, cached)
    set_reachable(monkeypatch, reachable)
    choice = resolve_difix("auto", device)
    assert choice.name == name
    assert choice.reason.endswith(".") and "\n" not in choice.reason


def test_the_chosen_name_resolves_to_the_same_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    set_reachable(monkeypatch, False)
    choice = resolve_difix("auto", "cuda")
    assert resolve_difix(choice.name, "cuda").source == choice.source == str(EMBEDDED_MODEL)


def test_offline_mode_of_the_hub_is_respected(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    set_reachable(monkeypatch, True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_difix("auto", "cuda").name == "embedded"


def test_any_other_name_is_used_as_given() -> None:
    choice = resolve_difix("nvidia/difix", "cpu", revision="abc")
    assert (choice.name, choice.source, choice.revision) == ("nvidia/difix", "nvidia/difix", "abc")


def test_resolving_loads_no_diffusion_library() -> None:
    code = (
        "import sys, difix3d_ns.difix.resolve as r; r.resolve_difix('auto', 'cpu'); print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
