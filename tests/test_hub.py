"""Fetch and publish, by a stand-in for the Hugging Face Hub on loopback.

`huggingface_hub` reads HF_ENDPOINT when it is imported, so a process of its own
does the work: `Client` tells it what to call.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import catalog, hub, model_card, run_config

TOKEN = "hf_ann"
WORKER = """
import json, os, sys, time
from click.testing import CliRunner
from pixace_tf.runs import hub

assert "huggingface_hub" not in sys.modules
time.sleep = lambda seconds: None  # No pause between tries.
for line in sys.stdin:
    os.environ["HF_TOKEN"], function, *arguments = json.loads(line)
    lines, answer = [], {}
    try:
        if function == "fetch":
            value = hub.fetch(hub.parse(*arguments), lines.append)
        elif function == "push":
            path, address, private = arguments
            value = hub.push(path, hub.parse(address), private, lines.append)
        else:
            from pixace_tf.cli import main

            done = CliRunner().invoke(main, arguments)
            value = [done.exit_code, done.output]
        answer["value"] = value
    except hub.UserError as error:
        answer["error"] = str(error)
    answer["lines"] = lines
    answer["heavy"] = sorted({"tensorflow", "keras"} & set(sys.modules))
    print(json.dumps(answer), flush=True)
"""


class Client:
    """A process that calls `hub.fetch`, `hub.push` and the command line."""

    def __init__(self, endpoint, home):
        settings = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and "proxy" not in name.lower()
        }
        settings |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
        for name in ("XET", "TELEMETRY", "PROGRESS_BARS"):
            settings[f"HF_HUB_DISABLE_{name}"] = "1"
        self.errors = home / f"errors-{endpoint.rpartition(':')[2]}.txt"
        with open(self.errors, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=settings,
            )

    def call(self, *arguments, token=TOKEN):
        line = json.dumps([token, *arguments])
        print(line, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        answer = json.loads(line)
        assert answer["heavy"] == []
        return answer

    def fetch(self, address):
        answer = self.call("fetch", address)
        assert "error" not in answer, answer
        return answer["value"], answer["lines"]

    def push(self, path, address, private=False):
        return self.call("push", str(path), address, private)

    def refusal(self, *arguments, token=TOKEN):
        message = self.call(*arguments, token=token)["error"]
        assert "\n" not in message
        return message

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    """Commits by their hashes, each with its files, and planned faults."""

    def __init__(self, files, private=False):
        self.private = private
        self.commits = {}
        self.downloads = []
        self.status = None  # The answer to every request: status, code, text.
        self.file_status = None  # The answer to a request for a file.
        self.sent = {}  # By name: a download's content instead of the real one.
        self.cut = set()  # Names whose download stops half way.
        self.sizes = {}  # By name: a size to tell instead of the real one.
        self.files = {}
        self.commit(files)

    def commit(self, files):
        self.latest = hashlib.sha1(os.urandom(8)).hexdigest()
        self.files = self.commits[self.latest] = {**self.files, **files}
        return self.latest

    def resolve(self, revision):
        if revision == "main":
            return self.latest
        return revision if revision in self.commits else None


class FakeHub(http.server.ThreadingHTTPServer):
    """As much of the Hub's HTTP interface as a push and a fetch use."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories = {}
        self.large = {}
        self.upload_status = 200

    def add(self, name, files, private=False):
        self.repositories[name] = Repository(files, private)
        return self.repositories[name]


def is_large(name):
    return name.endswith(".npz")


def described(repository, commit):
    """Yield the name, the size, the blob and the LFS entry of each file."""
    for name, content in repository.commits[commit].items():
        size = repository.sizes.get(name, len(content))
        if is_large(name):
            lfs = {"sha256": sha256(content), "size": size, "pointerSize": 130}
            yield name, size, blob_id(b"a pointer"), lfs
        else:
            yield name, size, blob_id(content), None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # No wait of 40 ms for an acknowledgment.

    def log_message(self, *_):
        pass

    def answer(self, status, value=(), **headers):
        content = json.dumps(value or {}).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def handle_path(self, routes):
        path = urllib.parse.urlsplit(self.path).path
        for pattern, handle in routes.items():
            if match := re.fullmatch(pattern, path):
                parts = [urllib.parse.unquote(part) for part in match.groups()]
                return handle(*parts)
        return self.answer(404, {"error": f"no route {path}"})

    def repository(self, name, is_file=False):
        """Return a repository; None where an error was answered."""
        found = self.server.repositories.get(name)
        status = found and (found.file_status if is_file else found.status)
        if found is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif status is not None:
            number, code, message = status
            self.answer(number, X_Error_Code=code, X_Error_Message=message)
        else:
            return found
        return None

    def do_GET(self):
        self.handle_path(
            {
                r"/api/models/([^/]+/[^/]+)": self.info,
                r"/api/models/([^/]+/[^/]+)/revision/([^/]+)": self.info,
                r"/api/models/([^/]+/[^/]+)/tree/([^/]+)": self.tree,
                r"/api/models/([^/]+/[^/]+)/commits/main": self.commits,
                r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.file,
            }
        )

    do_HEAD = do_GET

    def do_POST(self):
        self.handle_path(
            {
                r"/api/repos/create": self.create,
                r"/api/validate-yaml": self.validate,
                r"/api/models/([^/]+/[^/]+)/preupload/main": self.preupload,
                r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.batch,
                r"/api/models/([^/]+/[^/]+)/commit/main": self.commit,
            }
        )

    def do_PUT(self):
        content = self.read()
        self.server.large[self.path.rpartition("/")[2]] = content
        self.answer(self.server.upload_status)

    def info(self, name, revision="main"):
        found = self.repository(name)
        if found is None:
            return
        commit = found.resolve(revision)
        if commit is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        siblings = [
            {"rfilename": path, "size": size, "blobId": blob, "lfs": lfs}
            for path, size, blob, lfs in described(found, commit)
        ]
        value = {"id": name, "sha": commit, "private": found.private}
        self.answer(200, {**value, "siblings": siblings})

    def tree(self, name, commit):
        found = self.repository(name)
        if found is None:
            return
        entries = []
        for path, size, blob, lfs in described(found, commit):
            entry = {"type": "file", "path": path, "size": size, "oid": blob}
            if lfs is not None:
                entry["lfs"] = {**lfs, "oid": lfs["sha256"]}
            entries.append(entry)
        self.answer(200, entries)

    def commits(self, name):
        facts = {"authors": [], "title": "A commit", "message": ""}
        facts["date"] = "2026-11-26T12:00:00.000Z"
        commits = reversed(self.repository(name).commits)
        self.answer(200, [{**facts, "id": commit} for commit in commits])

    def file(self, name, revision, path):
        found = self.repository(name, is_file=True)
        if found is None:
            return
        commit = found.resolve(revision)
        content = found.commits[commit][path]
        etag = sha256(content) if is_large(path) else blob_id(content)
        is_head = self.command == "HEAD"
        body = content if is_head else found.sent.get(path, content)
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if is_head:
            return
        found.downloads.append(path)
        if path in found.cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def is_known(self):
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return True
        self.answer(401, {"error": "Invalid username or password."})
        return False

    def create(self):
        value = json.loads(self.read())
        name = f"{value['organization']}/{value['name']}"
        if not self.is_known():
            return
        if value["organization"] != "ann":
            self.answer(403, {"error": "No rights in this namespace."})
        elif name in self.server.repositories:
            self.answer(409, {"url": f"{self.server.endpoint}/{name}"})
        else:
            is_private = value.get("visibility") == "private"
            is_private |= bool(value.get("private"))
            self.server.add(name, {".gitattributes": b""}, is_private)
            self.answer(200, {"url": f"{self.server.endpoint}/{name}"})

    def validate(self):
        content = json.loads(self.read())["content"]
        has_header = re.match("---\n(.+\n)+?---\n", content)
        self.answer(200 if has_header else 400, {"errors": [], "warnings": []})

    def preupload(self, name):
        files = json.loads(self.read())["files"]
        if not self.is_known() or self.repository(name) is None:
            return
        for entry in files:
            mode = "lfs" if is_large(entry["path"]) else "regular"
            entry.update(uploadMode=mode, shouldIgnore=False, oid=None)
        self.answer(200, {"files": files})

    def batch(self, _name):
        objects = json.loads(self.read())["objects"]
        for entry in objects:
            target = f"{self.server.endpoint}/large/{entry['oid']}"
            entry["actions"] = {"upload": {"href": target}}
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, name):
        files = {}
        for line in self.read().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = self.server.repositories[name].commit(files)
        page = f"{self.server.endpoint}/{name}/commit/{commit}"
        self.answer(200, {"commitUrl": page, "commitOid": commit})


@pytest.fixture(scope="module")
def server():
    fake = FakeHub()
    threading.Thread(
        target=fake.serve_forever, args=[0.01], daemon=True
    ).start()
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(server, home):
    with contextlib.closing(Client(server.endpoint, home)) as one:
        yield one


@pytest.fixture(scope="module")
def offline(client, home):
    """A client of a Hub that is not there, with the cache of the other."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # Nobody listens.
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with contextlib.closing(Client(endpoint, home)) as one:
            yield one


SOURCE = "/home/ann/secret/animals"
CONFIG = {
    "format": run_config.FORMAT,
    "versions": {"pixace-tf": "0.1.0", "keras": "3.15.1"},
    "tokenizer": {"image_size": [24, 32], "palette": "hsv 5,4,4"},
    "model": {"decoder": "multiscale", "labels": ["a|b", "cat"]},
    "arguments": {"source": SOURCE, "preset": "nano", "seed": 0},
}
HISTORY = [{"epoch": 1, "val_bits_per_pixel": b} for b in (4.5, 3.25, 3.5)]


@pytest.fixture
def run(tmp_path):
    """A run folder with everything that one can have."""
    path = tmp_path / "animals"
    (path / "pictures").mkdir(parents=True)
    storage.write_json(path / "run.json", CONFIG)
    storage.write_json(path / "history.json", HISTORY)
    arrays = {"a/b": np.arange(999, dtype=np.float32)}
    for name in ("weights.npz", "checkpoint.npz"):
        storage.write_npz(path / name, arrays, {"step": 1})
    tokens = {"train": np.zeros((3, 4)), "validation": np.zeros((2, 4))}
    storage.write_npz(path / "tokens.npz", tokens, {})
    for name in ("samples.png", "examples.png", "pictures/1-new.png"):
        (path / name).write_bytes(b"\x89PNG " + name.encode())
    return path


@pytest.fixture
def published(run, server):
    """A new name on the Hub, and the repository there, with a run in it."""
    name = f"bob/run-{len(server.repositories)}"
    files = {"README.md": b"Hello", "x.py": b"1"}
    for file in run.glob("*.*"):
        files[file.name] = file.read_bytes()
    return name, server.add(name, files)


def test_names_and_limits_are_those_of_a_run_folder():
    assert set(hub.MAX_BYTES) == {
        storage.RUN_FILE,
        run_config.WEIGHTS_FILE,
        run_config.HISTORY_FILE,
        run_config.SAMPLES_FILE,
        "README.md",
    }


@pytest.mark.parametrize("text", ["ann/cats", "ann/cats@main", "a/b@refs/pr/1"])
def test_an_address_reads_as_it_is_written(text):
    address = hub.parse(f"hf://{text}")
    assert str(address) == f"hf://{text}"
    repository, _, revision = text.partition("@")
    assert address == hub.Address(repository, revision or None)


@pytest.mark.parametrize(
    "text",
    [
        *("ann/cats", "hf://cats", "hf://ann/", "hf://ann/cats/run.json"),
        *("hf://ann/cats@", "hf://../cats", "hf://ann/cats@../../x"),
        *("hf://ann/a--b", "hf://ann/cats.git", "hf://ann/a b", "hf://ann/ä"),
    ],
)
def test_another_form_is_no_address(text):
    with pytest.raises(UserError, match="hf://USER/NAME"):
        hub.parse(text)


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("https://huggingface.co/ann/cats", "hf://ann/cats"),
        ("http://www.huggingface.co/ann/cats/", "hf://ann/cats"),
        ("https://hf.co/ann/cats/tree/v1?x=1", "hf://ann/cats@v1"),
    ],
)
def test_a_page_of_the_hub_as_a_run_is_told_its_address(page, address):
    with pytest.raises(UserError, match=rf"Use {address}\.$"):
        catalog.locate(page)
    with pytest.raises(UserError, match="hf://USER/NAME"):
        catalog.locate("https://example.com/ann/cats")


def test_what_is_pushed_is_fetched_byte_for_byte(run, server, client, home):
    answer = client.push(run, "hf://ann/animals")
    repository = server.repositories["ann/animals"]
    commit = repository.latest
    page = f"{server.endpoint}/ann/animals at commit {commit[:12]}"
    assert answer["value"] == page
    assert len(repository.commits) == 2  # The Hub's own, and this one.
    assert set(repository.files) == {".gitattributes", *hub.MAX_BYTES}
    path, lines = client.fetch("hf://ann/animals")
    assert lines == [f"Using hf://ann/animals@{commit[:12]}."]
    assert path.startswith(str(home))
    assert set(os.listdir(path)) == set(hub.MAX_BYTES)
    for name in ("weights.npz", "history.json", "samples.png"):
        with open(os.path.join(path, name), "rb") as file:
            assert file.read() == (run / name).read_bytes()
    arrays, _ = storage.read_npz(os.path.join(path, "weights.npz"))
    assert arrays["a/b"][-1] == 998


def test_a_push_tells_no_path_of_this_machine(run, server, client):
    assert "value" in client.push(run, "hf://ann/paths")
    files = server.repositories["ann/paths"].files
    sent = json.loads(files["run.json"])
    assert sent["arguments"].pop("source") == "animals"
    assert sent["arguments"] == {"preset": "nano", "seed": 0}
    assert sent["tokenizer"] == CONFIG["tokenizer"]
    for content in files.values():
        assert b"secret" not in content
        assert bytes(run.parent) not in content


def test_the_card_says_what_the_run_is(run, server, client):
    assert "value" in client.push(run, "hf://ann/card")
    files = server.repositories["ann/card"].files
    card = files["README.md"].decode()
    header = card.split("---\n")[1]
    assert "library_name: pixace-tf\n" in header
    assert "pipeline_tag: unconditional-image-generation\n" in header
    for part in (
        "| images | animals: 3 for training, 2 for validation |",
        "| image size | 32x24 pixels, crop |",
        "| palette | HSV 544, 8,192 codes |",
        "| decoder | multiscale, preset nano |",
        "| parameters | 999 |",
        r"| labels | a\|b, cat |",
        "3.250 bits/pixel",
        "keras 3.15.1",
        "![samples](samples.png)",
        "pixace-tf generate hf://ann/card --out new.png\n",
    ):
        assert part in card


def test_a_card_of_its_own_is_sent_as_it_is(run, server, client):
    own = b"---\nlicense: mit\n---\nMine\n"
    (run / "README.md").write_bytes(own)
    assert "value" in client.push(run, "hf://ann/own")
    files = server.repositories["ann/own"].files
    assert files["README.md"] == own


def test_the_card_of_an_export_is_written_anew_for_the_hub(run, server, client):
    card = model_card.for_export(str(run), "1")
    assert str(run) in card
    (run / "README.md").write_text(card)
    assert len(client.push(run, "hf://ann/exported")["lines"]) == 1
    sent = server.repositories["ann/exported"].files["README.md"]
    assert sent.startswith(b"---\nlibrary_name")
    assert str(run).encode() not in sent
    assert (run / "README.md").read_text() == card


def test_a_page_without_a_header_stays_here(run, server, client):
    (run / "README.md").write_text("# animals\nserved from /home/ann/secret\n")
    answer = client.push(run, "hf://ann/notes")
    assert "README.md is not sent" in answer["lines"][0]
    sent = server.repositories["ann/notes"].files["README.md"]
    assert sent.startswith(b"---\nlibrary_name")


def test_a_second_push_is_the_latest_version_and_the_first_can_be_pinned(
    run, server, client
):
    client.push(run, "hf://ann/twice")
    storage.write_json(run / "history.json", HISTORY[:1])
    client.push(run, "hf://ann/twice")
    _, first, second = server.repositories["ann/twice"].commits
    for revision, commit in (
        *(("", second), ("@main", second), (f"@{first}", first)),
        # The Hub knows no short hashes; a user pins what a line has told.
        (f"@{first[:12]}", first),
    ):
        path, lines = client.fetch(f"hf://ann/twice{revision}")
        assert os.path.basename(path) == commit
        assert lines == [f"Using hf://ann/twice@{commit[:12]}."]
        with open(os.path.join(path, "history.json")) as file:
            assert len(json.load(file)) == (3 if commit == first else 1)


def test_only_files_of_a_run_are_fetched(published, client):
    name, repository = published
    path, _ = client.fetch(f"hf://{name}")
    assert set(repository.downloads) == set(os.listdir(path))
    assert set(os.listdir(path)) == set(hub.MAX_BYTES)
    assert {"x.py", "tokens.npz"} < set(repository.files)


def test_what_is_cached_is_not_fetched_again(published, client):
    name, repository = published
    client.fetch(f"hf://{name}")
    before = list(repository.downloads)
    client.fetch(f"hf://{name}")
    assert repository.downloads == before


def test_a_file_is_hashed_once_and_again_when_it_changes(published, client):
    name, _ = published
    path, _ = client.fetch(f"hf://{name}")
    weights = os.path.realpath(os.path.join(path, "weights.npz"))
    state = os.stat(weights)
    with open(weights, "r+b") as file:
        file.write(b"!")
    # With the old time nobody looks; with another one the checksum tells.
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    client.fetch(f"hf://{name}")
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert "weights.npz" in client.refusal("fetch", f"hf://{name}")
    client.fetch(f"hf://{name}")


@pytest.mark.parametrize("changed", ["weights.npz", "run.json"])
def test_a_changed_file_is_refused_and_deleted(published, client, changed):
    name, repository = published
    files = repository.files
    repository.sent[changed] = files[changed][:-1] + b"!"
    message = client.refusal("fetch", f"hf://{name}")
    assert f"{changed} of hf://{name} was changed on the way" in message
    # Nothing bad was kept: mended, it is fetched again.
    repository.sent.clear()
    path, _ = client.fetch(f"hf://{name}")
    with open(os.path.join(path, changed), "rb") as file:
        assert file.read() == files[changed]


def test_a_download_that_breaks_off_is_refused(published, client):
    name, repository = published
    repository.cut.add("weights.npz")
    message = client.refusal("fetch", f"hf://{name}")
    assert "connection" in message
    assert "failed" in message
    repository.cut.clear()
    files = repository.files
    path, _ = client.fetch(f"hf://{name}")
    with open(os.path.join(path, "weights.npz"), "rb") as file:
        assert file.read() == files["weights.npz"]


@pytest.mark.parametrize("short", ["run.json", "weights.npz"])
def test_a_short_file_is_refused(published, client, short):
    name, repository = published
    files = repository.files
    repository.sent[short] = files[short][:-9]
    message = client.refusal("fetch", f"hf://{name}")
    assert f"/{name} broke off" in message
    assert short in message


@pytest.mark.parametrize("missing", ["run.json", "weights.npz"])
def test_a_repository_without_a_run_is_refused(published, client, missing):
    name, repository = published
    files = repository.files
    del files[missing]
    message = client.refusal("fetch", f"hf://{name}")
    assert (
        message == f"hf://{name} is no run of pixace-tf: it has no {missing}."
    )
    assert repository.downloads == []


@pytest.mark.parametrize(
    ("large", "size"),
    [("weights.npz", 2_000_000_001), ("README.md", 20_000_001)],
)
def test_what_is_too_large_is_refused_before_the_download(
    published, client, large, size
):
    name, repository = published
    repository.sizes[large] = size
    message = client.refusal("fetch", f"hf://{name}")
    assert f"{large} of hf://{name} is too large" in message
    assert repository.downloads == []
    repository.sizes[large] = size - 1
    client.fetch(f"hf://{name}")


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        ((401, "RepoNotFound", ""), ["There is no", "hf auth login"]),
        ((401, "", "Invalid credentials"), ["valid token", "HF_TOKEN"]),
        ((403, "GatedRepo", ""), ["Accept the terms of", "hf auth login"]),
        ((403, "", "Not for you"), ["may not read", "Not for you", "HF_TOKEN"]),
        ((503, "", ""), ["does not work", "503", "cache has no"]),
        ((429, "", "Slow down"), ["429", "Slow down"]),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    published, client, status, parts
):
    name, repository = published
    repository.status = status
    message = client.refusal("fetch", f"hf://{name}")
    for part in [name, *parts]:
        assert part in message


def test_files_that_may_be_listed_and_not_read(published, client):
    name, repository = published
    repository.file_status = (403, "GatedRepo", "")
    assert "Accept the terms" in client.refusal("fetch", f"hf://{name}")
    repository.file_status = (403, "", "Not for you")
    assert "Not for you" in client.refusal("fetch", f"hf://{name}")


def test_a_missing_repository_or_revision_is_named(published, client):
    name, _ = published
    assert "There is no" in client.refusal("fetch", "hf://bob/nothing")
    for revision in ("v9", "0123456789ab"):
        message = client.refusal("fetch", f"hf://{name}@{revision}")
        assert f"{name} has no revision '{revision}'" in message


def test_without_a_connection_the_cache_is_used(published, client, offline):
    name, repository = published
    message = offline.refusal("fetch", f"hf://{name}")
    assert "The connection to" in message
    assert f"The cache has no hf://{name}." in message
    first = repository.latest
    path, _ = client.fetch(f"hf://{name}")
    second = repository.commit({"history.json": b"[]"})
    for revision in ("", "@main", f"@{first}", f"@{first[:12]}"):
        cached, (line,) = offline.fetch(f"hf://{name}{revision}")
        assert cached == path
        assert f"Using hf://{name}@{first[:12]} from the cache." in line
    assert "cache has no" in offline.refusal("fetch", f"hf://{name}@{second}")


def test_an_incomplete_cache_is_not_used(published, client, offline):
    name, repository = published
    repository.cut.add("weights.npz")
    client.refusal("fetch", f"hf://{name}")
    assert "cache has no" in offline.refusal("fetch", f"hf://{name}")


def test_who_may_not_write_is_told(run, client, offline, server):
    message = client.refusal("push", str(run), "hf://bob/animals", False)
    assert "may not write" in message
    assert "No rights in this namespace" in message
    assert "The connection to" in offline.refusal(
        "push", str(run), "hf://ann/animals", False
    )
    server.add("ann/there", {})
    for name in ("ann/there", "ann/not-there"):
        push = "push", str(run), f"hf://{name}", False
        message = client.refusal(*push, token="hf_wrong")
        assert "valid token" in message
        assert "hf auth login" in message
    assert len(server.repositories["ann/there"].commits) == 1


def test_weights_that_are_not_taken_are_not_committed(
    run, server, client, monkeypatch
):
    monkeypatch.setattr(server, "upload_status", 403)
    message = client.refusal("push", str(run), "hf://ann/full", False)
    assert "may not write" in message
    assert set(server.repositories["ann/full"].files) == {".gitattributes"}


def test_private_is_private(run, server, client):
    assert "value" in client.push(run, "hf://ann/hidden", private=True)
    assert server.repositories["ann/hidden"].private
    assert "value" in client.push(run, "hf://ann/hidden", private=True)
    client.push(run, "hf://ann/open")
    answer = client.push(run, "hf://ann/open", private=True)
    assert "exists and is not private" in answer["error"]
    assert len(server.repositories["ann/open"].commits) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "weights.npz").unlink(), "has no weights.npz yet"),
        (lambda run: (run / "run.json").unlink(), "no run folder"),
        (lambda run: (run / "run.json").write_text("{"), "is damaged"),
        (lambda run: shutil.rmtree(run), "There is no run folder"),
    ],
)
def test_what_is_no_run_is_not_pushed(run, server, client, damage, message):
    damage(run)
    before = set(server.repositories)
    answer = client.push(run, "hf://ann/damaged")
    assert message in answer["error"]
    assert set(server.repositories) == before


def test_the_command_publishes(run, server, client):
    push = ("cli", "push", str(run))
    code, output = client.call(*push, "hf://ann/typed")["value"]
    commit = server.repositories["ann/typed"].latest
    assert code == 0
    assert output.endswith(f"ann/typed at commit {commit[:12]}\n")
    code, output = client.call(*push, "hf://ann/typed@main")["value"]
    assert code == 2
    assert output.count("\n") == 1
    assert "without a revision" in output


def test_the_extra_is_named_where_it_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'pixace-tf\[hub\]'"):
        hub.fetch(hub.parse("hf://ann/animals"))
    with pytest.raises(UserError, match=r"pip install 'pixace-tf\[hub\]'"):
        hub.push(str(run), hub.parse("hf://ann/animals"))
