"""If the hub is unreachable, silent or serves half a file, there is no traceback and no endless wait, and `auto` falls
back to the embedded network."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix import download, network_files
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.resolve import PUBLISHED_MODEL
from difix3d_ns.difix.training.networks import start_network
from difix3d_ns.difix.training.train_options import TrainConfig
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class Hub:
    """A local hub server with a selectable fault.

    Attributes:
        url: its address.
        commits: folders with the repository's files, by commit.
        refs: commits by branch and tag.
        fault: `none`; `half`: the connection closes after half of the weights; `stall`: it stays open there without
            sending more; `drip`: the second half arrives byte by byte; `mute`: there is no answer; `garbage`: the
            answer is not HTTP; `moved`: another commit is returned than the one asked for.
        asked: requested paths.
    """

    def __init__(self, folder: Path) -> None:
        hub, self.fault, self.asked, self.closing = self, "none", [], Event()
        self.commits, self.refs = {COMMIT: folder}, {"main": COMMIT}

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                parts = self.path.partition("?")[0].split("/")
                is_of_files = parts[1] != "api"
                where = next((parts.index(word) for word in ("tree", "resolve", "revision") if word in parts), None)
                revision = "main" if where is None else parts[where + 1]
                commit = hub.refs.get(revision, revision)
                if hub.fault == "mute":
                    hub.closing.wait(60)
                elif hub.fault == "garbage":
                    self.wfile.write(b"\0no HTTP\n")
                elif commit not in hub.commits:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RevisionNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif is_of_files:
                    assert where is not None
                    self._answer((hub.commits[commit] / "/".join(parts[where + 2 :])).read_bytes(), commit)
                else:
                    folder = hub.commits[commit]
                    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
                    tree = [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}
                        for name, path in files.items()
                    ]
                    answered = hub.refs["main"] if hub.fault == "moved" else commit
                    about = {
                        "id": PUBLISHED_MODEL,
                        "sha": answered,
                        "siblings": [{"rfilename": name} for name in files],
                    }
                    self._answer(json.dumps(tree if "tree" in parts else about).encode())

            def _answer(self, body: bytes, commit: str | None = None) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/octet-stream" if commit else "application/json")
                if commit:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                    self.send_header("X-Repo-Commit", commit)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if commit and hub.fault in ("half", "stall", "drip") and self.path.endswith(WEIGHTS):
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    if hub.fault == "stall":
                        hub.closing.wait(60)
                    while hub.fault == "drip" and not hub.closing.wait(0.2):
                        self.wfile.write(b"\0")
                        self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops the server and all requests that still hang."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a tiny network under the published id, an empty cache, and short time-outs."""
    from huggingface_hub import constants

    make_tiny().save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "unet" / "unet_2d_condition.py").write_text("raise RuntimeError('code was run')")
    server = Hub(tmp_path / "tiny")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    use(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    for module in (download, network_files):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT_SECONDS", 1)
    yield server
    server.close()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def fixer(model: str) -> LazyFixer:
    """A fixer for CUDA, with which `auto` asks the hub. Nothing is computed, so no GPU is needed."""
    return LazyFixer(DifixConfig(model=model), "cuda")


def test_auto_downloads_the_published_network_before_the_training_and_no_code(hub: Hub, tmp_path: Path) -> None:
    choice = fixer("auto").fetch()
    # The commit is written into the run's config, so that later tools use the same weights even if the hub changes.
    assert (choice.name, choice.revision) == (PUBLISHED_MODEL, COMMIT)
    assert DifixPipeline.from_pretrained(choice.source, choice.revision).unet is not None
    hub.fault = "mute"
    again = fixer(PUBLISHED_MODEL).fetch()
    assert (again.name, again.revision) == (PUBLISHED_MODEL, COMMIT)
    assert not list((tmp_path / "cache").rglob("*.py")) and not [path for path in hub.asked if path.endswith(".py")]


@pytest.mark.parametrize("fault", ["half", "stall"])
def test_auto_falls_back_to_the_embedded_network_if_a_file_does_not_arrive(hub: Hub, fault: str) -> None:
    hub.fault = fault
    choice = fixer("auto").fetch()
    assert choice.name == "embedded" and Path(choice.source).is_dir()
    assert f"{PUBLISHED_MODEL} is not a folder and cannot be downloaded from the hub" in choice.reason
    assert choice.reason.count("\n") == 0


def test_a_server_that_drips_does_not_delay_the_training_forever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 1.0)
    hub.fault = "drip"
    choice = fixer("auto").fetch()
    assert choice.name == "embedded" and "less than 10 MB arrived in 1 s" in choice.reason
    with pytest.raises(
        DifixError, match=rf"{PUBLISHED_MODEL} .* cannot be downloaded from the hub \(less than 10 MB arrived in 1 s"
    ):
        fixer(PUBLISHED_MODEL).fetch()


def publish_another(hub: Hub, folder: Path) -> None:
    """Moves the published network's branch to a network with other weights, and tags the old commit v1."""
    network = make_tiny()
    with torch.no_grad():
        network.unet.conv_out.weight.add_(1.0)
    network.save_pretrained(folder)
    hub.commits[LATER_COMMIT] = folder
    hub.refs = {"main": LATER_COMMIT, "v1": COMMIT}


def weights_of(model: str, revision: str | None) -> torch.Tensor:
    return DifixFixer(DifixConfig(model, revision), torch.device("cpu")).network.unet.conv_out.weight


@pytest.mark.parametrize("is_cached", [True, False])
def test_later_tools_use_the_commit_of_the_run_even_if_the_branch_moved(
    hub: Hub, tmp_path: Path, is_cached: bool
) -> None:
    trained = fixer("auto").fetch()
    publish_another(hub, tmp_path / "later")
    if not is_cached:  # as on another machine
        shutil.rmtree(tmp_path / "cache")
    first = make_tiny().unet.conv_out.weight
    assert torch.equal(weights_of(trained.name, trained.revision), first)
    assert torch.equal(weights_of(PUBLISHED_MODEL, None), first + 1)
    assert torch.equal(weights_of(trained.name, trained.revision), first)


@pytest.mark.parametrize("revision", [COMMIT, "v1"])
def test_the_user_can_pin_a_revision(hub: Hub, tmp_path: Path, revision: str) -> None:
    publish_another(hub, tmp_path / "later")
    choice = LazyFixer(DifixConfig(PUBLISHED_MODEL, revision), "cuda").fetch()
    assert choice.revision == COMMIT
    assert not list((tmp_path / "cache").rglob(LATER_COMMIT))


def test_a_missing_revision_and_another_commit_than_asked_for_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DifixError, match=rf"{PUBLISHED_MODEL} .* cannot be downloaded from the hub"):
        LazyFixer(DifixConfig(PUBLISHED_MODEL, "f" * 40), "cuda").fetch()
    publish_another(hub, tmp_path / "later")
    hub.fault = "moved"
    with pytest.raises(DifixError, match=rf"it returns the commit {LATER_COMMIT} instead of {COMMIT}"):
        LazyFixer(DifixConfig(PUBLISHED_MODEL, COMMIT), "cuda").fetch()


def test_a_chosen_network_is_an_error_if_a_file_does_not_arrive(hub: Hub) -> None:
    hub.fault = "half"
    with pytest.raises(DifixError, match=rf"{PUBLISHED_MODEL} is not a folder and cannot be downloaded from the hub"):
        fixer(PUBLISHED_MODEL).fetch()


@pytest.mark.parametrize("fault", ["mute", "garbage"])
def test_a_hub_without_a_valid_answer_is_unreachable(hub: Hub, fault: str) -> None:
    hub.fault = fault
    choice = fixer("auto").fetch()
    assert choice.name == "embedded" and "is not cached and cannot be downloaded now" in choice.reason
    assert len(hub.asked) == 1
    with pytest.raises(DifixError, match=r"somebody/network is not a folder and cannot be downloaded from the hub"):
        fixer("somebody/network").fetch()


def test_a_hub_that_refuses_connections_is_unreachable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for url in (closed, "no url"):
        use(url, monkeypatch)
        assert fixer("auto").fetch().name == "embedded"
        with pytest.raises(DifixError, match="cannot be downloaded from the hub"):
            fixer(PUBLISHED_MODEL).fetch()


def test_a_missing_or_incomplete_folder_is_refused_before_the_training(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "half" / "unet").mkdir(parents=True)
    for model, sentence in ((tmp_path / "nowhere", "neither a folder"), (tmp_path / "half", "has no folder vae")):
        with pytest.raises(DifixError, match=sentence):
            fixer(str(model)).fetch()
    assert hub.asked == []


def test_training_from_a_network_that_does_not_exist_asks_the_hub_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    config = TrainConfig(pairs=tmp_path / "pairs.json", output_dir=tmp_path / "out", base="nosuch/network")
    hub.fault = "mute"
    with pytest.raises(DifixError, match="nosuch/network is not a folder and cannot be downloaded from the hub"):
        start_network(config)
    assert len(hub.asked) == 1
