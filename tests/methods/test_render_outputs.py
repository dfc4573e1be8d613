"""The lazy mapping of render outputs."""

from __future__ import annotations

from difix3d_ns.methods.render_outputs import RenderOutputs


def outputs_with_counter() -> tuple[RenderOutputs, list[int]]:
    calls: list[int] = []

    def enhanced() -> str:
        calls.append(1)
        return "enhanced"

    return RenderOutputs({"rgb": "raw"}, {"rgb_enhanced": enhanced}), calls


def test_listing_and_membership_do_not_compute_lazy_entries() -> None:
    outputs, calls = outputs_with_counter()
    assert "rgb_enhanced" in outputs
    assert list(outputs.keys()) == ["rgb", "rgb_enhanced"]
    assert len(outputs) == 2
    assert outputs["rgb"] == "raw"
    assert outputs.get("nothing") is None
    assert not calls


def test_a_lazy_entry_is_computed_once() -> None:
    outputs, calls = outputs_with_counter()
    assert outputs["rgb_enhanced"] == outputs["rgb_enhanced"] == "enhanced"
    assert len(calls) == 1
    assert sorted(outputs) == ["rgb", "rgb_enhanced"]


def test_a_written_or_deleted_entry_is_not_computed() -> None:
    outputs, calls = outputs_with_counter()
    outputs["rgb_enhanced"] = "mine"
    outputs["gl_z_buf_depth"] = "depth"
    assert outputs["rgb_enhanced"] == "mine"
    del outputs["rgb_enhanced"]
    assert "rgb_enhanced" not in outputs
    assert not calls
