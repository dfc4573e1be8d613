"""A hub that is out of reach, silent, or serves half a file: no traceback, no endless wait, and `auto` goes on."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from difix.tiny_network import make_tiny

from difix3d_ns.difix import resolve
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.resolve import PUBLISHED_MODEL
from difix3d_ns.fixer import DifixConfig, DifixFixer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class Hub:
    """A hub on this machine, and what is wrong with it.

    Attributes:
        url: where it is.
        fault: `none`; `half`: weights end after half their length; `stall`: they stop there without an end; `mute`:
            nothing is answered at all; `garbage`: what is answered is no HTTP.
        asked: paths that were asked for.
    """

    def __init__(self, folder: Path) -> None:
        hub, self.fault, self.asked, self.closing = self, "none", [], Event()
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                if hub.fault == "mute":
                    hub.closing.wait(60)
                elif hub.fault == "garbage":
                    self.wfile.write(b"\0no HTTP\n")
                elif "/tree/" in self.path:
                    sizes = {name: (folder / name).stat().st_size for name in files}
                    tree = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
                    self._answer(json.dumps(tree).encode())
                elif self.path.startswith("/api/"):
                    siblings = [{"rfilename": name} for name in files]
                    self._answer(json.dumps({"id": PUBLISHED_MODEL, "sha": COMMIT, "siblings": siblings}).encode())
                else:
                    self._answer((folder / self.path.split("/", 5)[-1]).read_bytes(), is_file=True)

            def _answer(self, body: bytes, is_file: bool = False) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/octet-stream" if is_file else "application/json")
                if is_file:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                    self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if is_file and hub.fault in ("half", "stall") and self.path.endswith(WEIGHTS):
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    if hub.fault == "stall":
                        hub.closing.wait(60)
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Ends it, and requests that hang in it."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the published network's id for a tiny network, an empty cache, and short patience."""
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
    monkeypatch.setattr(resolve, "CONNECT_TIMEOUT_SECONDS", 1)
    yield server
    server.close()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def fixer(model: str) -> DifixFixer:
    """A fixer as on a machine with a GPU, where `auto` asks the hub; nothing is computed."""
    return DifixFixer(DifixConfig(model=model), "cuda")


def test_auto_downloads_the_published_network_before_the_training_and_no_code(hub: Hub, tmp_path: Path) -> None:
    choice = fixer("auto").fetch()
    # The commit goes into the run's config, so that later tools use the same weights whatever the hub then has.
    assert (choice.name, choice.revision) == (PUBLISHED_MODEL, COMMIT)
    assert DifixPipeline.from_pretrained(choice.source, choice.revision).unet is not None
    hub.fault = "mute"
    again = fixer(PUBLISHED_MODEL).fetch()
    assert (again.name, again.revision) == (PUBLISHED_MODEL, COMMIT)
    assert not list((tmp_path / "cache").rglob("*.py")) and not [path for path in hub.asked if path.endswith(".py")]


@pytest.mark.parametrize("fault", ["half", "stall"])
def test_where_a_file_does_not_come_auto_says_so_and_takes_the_embedded_network(hub: Hub, fault: str) -> None:
    hub.fault = fault
    choice = fixer("auto").fetch()
    assert choice.name == "embedded" and Path(choice.source).is_dir()
    assert f"{PUBLISHED_MODEL} is no folder here and cannot be had from the hub" in choice.reason
    assert choice.reason.count("\n") == 0


def test_where_a_file_does_not_come_a_chosen_network_ends_in_one_sentence(hub: Hub) -> None:
    hub.fault = "half"
    with pytest.raises(DifixError, match=rf"{PUBLISHED_MODEL} is no folder here and cannot be had from the hub"):
        fixer(PUBLISHED_MODEL).fetch()


@pytest.mark.parametrize("fault", ["mute", "garbage"])
def test_a_hub_that_does_not_answer_is_out_of_reach(hub: Hub, fault: str) -> None:
    hub.fault = fault
    choice = fixer("auto").fetch()
    assert choice.name == "embedded" and "neither cached nor can it be downloaded now" in choice.reason
    assert len(hub.asked) == 1
    with pytest.raises(DifixError, match=r"somebody/network is no folder here and cannot be had from the hub"):
        fixer("somebody/network").fetch()


def test_a_hub_that_refuses_connections_is_out_of_reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for url in (closed, "no url"):
        use(url, monkeypatch)
        assert fixer("auto").fetch().name == "embedded"
        with pytest.raises(DifixError, match="cannot be had from the hub"):
            fixer(PUBLISHED_MODEL).fetch()


def test_a_network_that_is_not_there_is_named_before_the_training(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "half" / "unet").mkdir(parents=True)
    for model, sentence in ((tmp_path / "nowhere", "neither a folder"), (tmp_path / "half", "has no folder vae")):
        with pytest.raises(DifixError, match=sentence):
            fixer(str(model)).fetch()
    assert hub.asked == []
