"""CIFAR's archive, fetched from its official address: here, a server's."""

import dataclasses
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from own_files import refusal, tar

from nss_jax import data
from nss_jax.runtime import processes


def small_archive() -> bytes:
  """CIFAR-10 of a file of 20 images and one of 10."""
  rows = np.zeros((20, 3073), np.uint8)
  rows[:, 0] = np.arange(20) % 10
  rows[7, 1:] = 9
  members = {"data_batch_1.bin": rows, "test_batch.bin": rows[:10]}
  contents = {name: x.tobytes() for name, x in members.items()}
  return tar("cifar-10-batches-bin", contents)


ARCHIVE = small_archive()  # once: it holds the time at which it was made


@dataclasses.dataclass
class Server:
  """Gives the archive, and counts how often it is asked."""

  content: bytes
  requests: int = 0


@pytest.fixture
def official(monkeypatch):
  """Makes the small archive the official one, at an address."""
  # A proxy of the machine must not see loopback addresses.
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")

  def put(port: int) -> data.Archive:
    archive = dataclasses.replace(
      data.ARCHIVES["cifar10_binary"],
      url=f"http://127.0.0.1:{port}/cifar-10-binary.tar.gz",
      sha256=hashlib.sha256(ARCHIVE).hexdigest(),
      train={"data_batch_1.bin": 20},
      test={"test_batch.bin": 10},
    )
    monkeypatch.setitem(data.ARCHIVES, "cifar10_binary", archive)
    return archive

  return put


@pytest.fixture
def server(official) -> Iterator[Server]:
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.requests += 1
      self.send_response(200)
      self.send_header("Content-Length", str(len(state.content)))
      self.end_headers()
      self.wfile.write(state.content)

    def log_message(self, format, *args):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
    official(httpd.server_port)
    state = Server(ARCHIVE)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield state
    httpd.shutdown()
    thread.join(timeout=10)


@pytest.fixture
def archive(server) -> data.Archive:
  return data.ARCHIVES["cifar10_binary"]


def fetch(cache, progress: bool = False) -> data.Dataset:
  made = data.load("cifar10_binary", cache_dir=str(cache), progress=progress)
  assert made.train_images.shape == (20, 32, 32, 3)
  return made


def test_archive_is_fetched_once(archive, server, tmp_path, capsys):
  cache = tmp_path / "cache"
  blank = data.load("cifar10_binary", cache_dir=str(cache), fetch=False)
  assert server.requests == 0 and not cache.exists()
  for _ in range(2):
    made = fetch(cache)
    assert server.requests == 1
  assert [file.name for file in cache.iterdir()] == [archive.filename]
  assert "%" not in capsys.readouterr().err
  # What was not fetched is of the same shapes.
  for part in ("train", "test"):
    for kind in ("images", "labels"):
      one, other = (getattr(x, f"{part}_{kind}") for x in (blank, made))
      assert (one.shape, one.dtype) == (other.shape, other.dtype)
  assert blank.num_classes == made.num_classes


def test_altered_cached_archive_is_fetched_again(
  archive, server, tmp_path, capsys
):
  (tmp_path / archive.filename).write_bytes(b"altered")
  fetch(tmp_path, progress=True)
  assert server.requests == 1
  assert (tmp_path / archive.filename).read_bytes() == server.content
  assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("who", ["the first", "sees its file", "does not"])
def test_of_many_processes_the_first_fetches(
  who, archive, server, tmp_path, monkeypatch
):
  """The others wait, and fetch too where its file is not to be seen."""

  def run_once(work):
    assert server.requests == 0
    if who == "the first":
      return work()
    if who == "sees its file":
      (tmp_path / archive.filename).write_bytes(server.content)

  monkeypatch.setattr(processes, "run_once", run_once)
  fetch(tmp_path)
  assert server.requests == (who != "sees its file")


def test_what_cannot_be_fetched_is_refused(archive, server, tmp_path):
  cache, file = tmp_path / "cache", tmp_path / "file"
  server.content = server.content[:-1] + b"x"
  message = refusal("cifar10_binary", cache_dir=str(cache), progress=False)
  assert "SHA256" in message and archive.url in message
  assert list(cache.iterdir()) == []
  file.write_text("a file")
  message = refusal("cifar10_binary", cache_dir=str(file), progress=False)
  assert f"config.data.cache_dir={str(file)!r}" in message


def test_without_network_the_message_says_where_to_put_the_file(
  official, tmp_path
):
  with socket.socket() as closed:
    # Bound but not listening: connections are refused, nobody else gets it.
    closed.bind(("127.0.0.1", 0))
    archive = official(closed.getsockname()[1])
    message = refusal("cifar10_binary", cache_dir=str(tmp_path))
  assert archive.url in message
  assert "--config.data.path=FILE_OR_FOLDER" in message
  assert list(tmp_path.iterdir()) == []
