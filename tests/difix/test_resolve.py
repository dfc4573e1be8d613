"""Which network a name stands for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from difix3d_ns.difix import resolve
from difix3d_ns.difix.resolve import EMBEDDED_MODEL, PUBLISHED_MODEL, resolve_difix


def pretend(monkeypatch: pytest.MonkeyPatch, cached: bool, reachable: bool) -> None:
    monkeypatch.setattr(resolve, "_cached", lambda *args: cached)
    monkeypatch.setattr(resolve, "_hub_reachable", lambda: reachable)


@pytest.mark.parametrize(
    ("device", "cached", "reachable", "name"),
    [
        ("cpu", True, True, "embedded"),
        ("cuda", True, False, PUBLISHED_MODEL),
        ("cuda", False, True, PUBLISHED_MODEL),
        ("cuda", False, False, "embedded"),
    ],
)
def test_auto_takes_the_published_network_only_where_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch, device: str, cached: bool, reachable: bool, name: str
) -> None:
    pretend(monkeypatch, cached, reachable)
    choice = resolve_difix("auto", device)
    assert choice.name == name
    assert choice.reason.endswith(".") and "\n" not in choice.reason


def test_the_chosen_name_resolves_to_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cached=False, reachable=False)
    choice = resolve_difix("auto", "cuda")
    assert resolve_difix(choice.name, "cuda").source == choice.source == str(EMBEDDED_MODEL)


def test_offline_mode_of_the_hub_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_request(*args: object, **kwargs: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(resolve.urllib.request, "urlopen", no_request)
    monkeypatch.setattr(resolve, "_cached", lambda *args: False)
    assert resolve_difix("auto", "cuda").name == "embedded"


def test_anything_else_is_taken_at_its_word() -> None:
    choice = resolve_difix("nvidia/difix", "cpu", revision="abc")
    assert (choice.name, choice.source, choice.revision) == ("nvidia/difix", "nvidia/difix", "abc")


def test_resolving_loads_no_diffusion_library() -> None:
    code = (
        "import sys, difix3d_ns.difix.resolve as r; r.resolve_difix('auto', 'cpu'); print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
