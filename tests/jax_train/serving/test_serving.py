"""Models behind a page and a JSON API: right answers, clear refusals, and nothing that stops it."""

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("httpx")

import uvicorn
from starlette.responses import Response
from starlette.testclient import TestClient

from jax_train import __main__
from jax_train.analysis.prediction import predict
from jax_train.errors import UserError
from jax_train.runs import trained
from jax_train.serving.app import Server
from jax_train.serving.batching import Batcher, Work, batch_sizes
from jax_train.serving.hosts import OnlyNames, local_names
from jax_train.serving.models import ServedModel
from jax_train.serving.server import listen
from jax_train.serving.uploads import Limits
from tests.jax_train.commands.refusals import check_refusal
from tests.jax_train.pages import hostile

pytestmark = pytest.mark.xdist_group("pages")  # its runs are trained once
LIMITS = Limits(megabytes=0.2, megapixels=1, images=3, queue=5, seconds=5)
LOCAL = "http://127.0.0.1"
NAMES = ["vit", "simple_cnn"]


def png(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def photo(seed=0, size=(23, 17)):
    random = np.random.default_rng(seed)
    return png(Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)))


@pytest.fixture(scope="module")
def runs(compared_runs):
    return [trained.open_run(compared_runs[0] / name) for name in NAMES]


@pytest.fixture(scope="module")
def served(runs):
    """The server of both models, and a client of it."""
    models = [
        ServedModel(name, run, 2, LIMITS.megapixels) for name, run in zip(NAMES, runs, strict=True)
    ]
    with Batcher() as batcher:
        server = Server(models, batcher, LIMITS)
        app = server.app(["127.0.0.1"])
        yield SimpleNamespace(app=app, client=TestClient(app, LOCAL))


@pytest.fixture(scope="module")
def client(served):
    return served.client


def shares(prediction):
    return {one["index"]: one["probability"] for one in prediction["classes"]}


# Answers


@pytest.mark.parametrize("model", NAMES)
def test_it_says_what_predict_says(client, runs, model, tmp_path):
    files = []
    for seed in range(3):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(photo(seed))
    wanted = predict(runs[NAMES.index(model)], files, keep_all=True).all_probabilities
    form = [("image", (file.name, file.read_bytes())) for file in files]
    answer = client.post(f"/predict?model={model}", files=form)
    assert answer.status_code == 200
    assert answer.json()["model"] == model
    got = answer.json()["predictions"]
    assert [one["name"] for one in got] == ["0.png", "1.png", "2.png"]
    for one, row in zip(got, wanted, strict=True):
        assert [shares(one)[k] for k in range(3)] == pytest.approx(row, abs=1e-6)
        said = [part["probability"] for part in one["classes"]]
        assert said == sorted(said, reverse=True)
        assert {part["class"] for part in one["classes"]} == set(hostile.CLASSES)
    [alone] = client.post(f"/predict?model={model}&top=1", content=files[1].read_bytes()).json()[
        "predictions"
    ]
    assert alone["classes"] == [pytest.approx(got[1]["classes"][0], abs=1e-6)]


@pytest.mark.parametrize(
    ("model", "maps"),
    [("vit", ["rollout", "block 1", "block 2"]), ("simple_cnn", ["stage 2", "stage 1"])],
)
def test_it_shows_where_a_model_looks(client, model, maps):
    answer = client.post(f"/explain?model={model}", content=photo()).json()
    said = client.post(f"/predict?model={model}", content=photo()).json()["predictions"][0]
    assert shares(answer) == pytest.approx(shares(said), abs=1e-5)
    assert [one["name"] for one in answer["maps"]] == maps
    seen = pixels_of(answer["image"]["src"])
    assert seen.shape == (8, 8, 3)
    for one in answer["maps"]:
        left, top = one["left"], one["top"]
        assert left <= 0 or top <= 100
        assert left + one["width"] >= 90
        assert top + one["height"] >= 90
        assert pixels_of(one["src"]).ndim == 3
        assert one["where"].startswith("at the ") or one["where"] == "nowhere"


def pixels_of(src):
    data = base64.b64decode(src.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def check_described(described, path, method, code, said):
    """Check an answer against the description."""
    validators = pytest.importorskip("jsonschema.validators")
    content = described["paths"][path][method]["responses"][code]["content"]
    schema = content["application/json"]["schema"] | {"components": described["components"]}
    validators.validator_for(schema, validators.Draft202012Validator)(schema).validate(said)


def test_answers_are_as_the_description_says(client):
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    asked = {
        ("/predict", "post", "200"): client.post("/predict", content=photo()),
        ("/explain", "post", "200"): client.post("/explain", content=photo()),
        ("/models", "get", "200"): client.get("/models"),
        ("/healthz", "get", "200"): client.get("/healthz"),
        ("/predict", "post", "422"): client.post("/predict", content=b"text"),
        ("/explain", "post", "404"): client.post("/explain?model=bert", content=photo()),
        ("/predict", "post", "413"): client.post("/predict", content=bytes(300_000)),
    }
    assert {path for path, _, _ in asked} == set(described["paths"])
    for (path, method, code), answer in asked.items():
        assert str(answer.status_code) == code, (path, answer.text)
        check_described(described, path, method, code, answer.json())
    assert client.get("/healthz").json() == {"status": "ok", "models": NAMES, "requests": 0}
    assert client.get("/models").json()["models"][0]["maps"] == ["attention"]


# Refusals


def refused(answer, code, *words):
    assert answer.status_code == code, answer.text
    for word in words:
        assert word in answer.json()["error"], answer.text


WRONG = {
    "empty": (b"", "holds no image"),
    "text": (b"not an image", "text that starts with 'not an image'"),
    "cut short": (photo()[:-30], "damaged or cut short"),
    "pixels": (png(Image.new("1", (8000, 8000))), "too large: 8000x8000 pixels"),
    "noise": (bytes(range(256)), "no whole image"),
    "pixels decoded when opened": (png(Image.new("RGB", (16, 16)), "ICO"), "no whole image"),
    "pixels of an unknown size": (b"\xff\x0a" + bytes(64), "JXL, which is not taken"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_what_is_no_image_is_refused(client, path, name):
    body, words = WRONG[name]
    refused(client.post(path, content=body), 422, words)


def test_a_bomb_is_small(client):
    assert len(WRONG["pixels"][0]) < 0.1e6


def test_one_image_that_cannot_be_read_costs_no_other(client):
    form = [("a", ("a.png", photo())), ("b", ("b.txt", b"text"))]
    first, second = client.post("/predict", files=form).json()["predictions"]
    assert len(first["classes"]) == 3
    assert "text that starts with" in second["error"]
    refused(client.post("/predict", files=[form[1], form[1]]), 422, "2 images sent, of which none")
    refused(client.post("/explain", files=form), 422, "/explain takes one")


def parts(size):
    for _ in range(size // 1000):
        yield bytes(1000)


@pytest.mark.parametrize("length", ["told", "not told"])
def test_a_request_that_is_too_large_is_refused(client, length):
    content = bytes(300_000) if length == "told" else parts(300_000)
    refused(client.post("/predict", content=content), 413, "larger than 0.2 MB")
    form = [("a", ("a.png", bytes(300_000)))]
    refused(client.post("/predict", files=form), 413, "larger than 0.2 MB")


def test_wrong_requests_are_told(client):
    refused(client.get("/predict"), 405, "/predict takes no GET, but POST")
    refused(client.put("/healthz"), 405, "takes no PUT")
    refused(client.get("/etc/passwd"), 404, "nothing at /etc/passwd")
    refused(client.get("/..%2f..%2fetc/passwd"), 404, "nothing at")
    refused(client.post("/predict?model=vitt", content=photo()), 404, "did you mean vit")
    refused(client.post("/predict?model=", content=photo()), 404, "no model ''")
    for top in ("0", "-1", "2.5", "many", "9" * 5000):
        refused(client.post(f"/predict?top={top}", content=photo()), 422, "at least 1")
    refused(client.post("/predict", data={"a": "b"}, files={}), 422)
    refused(client.post("/predict", files={"model": (None, "vit")}), 422, "'model'", "no file")
    four = [("a", ("a.png", photo()))] * 4
    refused(client.post("/predict", files=four), 422, "Too many files")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post("/predict", content=b"abc", headers={"Content-Type": kind})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.2:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("elsewhere.org", 400),
        ("localhost:80:80", 400),
        ("x@localhost:80", 400),
        ("", 400),
    ],
)
def test_this_machine_is_served_by_its_names_alone(host, status):
    app = OnlyNames(Response(), local_names("127.0.0.2"))
    answer = TestClient(app, LOCAL).get("/", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "is no name of this machine" in answer.json()["error"]


def test_names_of_files_are_words_alone(client, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo(5))
    form = [("a", (str(secret), b"")), ("b", ("<img src=x>\n" * 99, photo()))]
    first, second = client.post("/predict", files=form).json()["predictions"]
    assert first["error"] == "empty: 0 bytes"
    assert len(second["name"]) <= 200


# Many at once


async def ask(app, path="/predict", body=b"", method="POST", wait=None, ends=True, headers=()):
    """The status and JSON of a request, without a socket; broken off where it does not end."""
    sent, path = [], path.partition("?")
    scope = {"type": "http", "method": method, "path": path[0], "query_string": path[2].encode()}
    scope |= {"headers": [(b"host", b"127.0.0.1"), *headers]}
    scope |= {"http_version": "1.1", "scheme": "http"}
    parts = [{"type": "http.request", "body": body, "more_body": not ends}]

    async def receive():
        if wait:
            await asyncio.sleep(wait)
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope | {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


def test_ten_thousand_at_once_are_answered_and_it_lives_on(served):
    body = photo()

    async def flood():
        return await asyncio.gather(*(ask(served.app, body=body) for _ in range(10_000)))

    answers = asyncio.run(flood())
    codes = [code for code, _ in answers]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= LIMITS.queue
    assert next(said for code, said in answers if code == 429)["error"].startswith("5 requests")
    assert served.client.get("/healthz").json()["requests"] == 0
    assert served.client.post("/predict", content=body).status_code == 200


def test_a_slow_upload_makes_room_for_others(served):
    slow = Limits(seconds=0.05, queue=1)
    with Batcher() as batcher:
        app = Server(served_models(served)[:1], batcher, slow).app()
        told = {"error": "The upload took longer than 0.05 seconds. Send it again."}
        assert asyncio.run(ask(app, wait=5)) == (408, told)
        assert asyncio.run(ask(app, body=photo()))[0] == 200


def bare_app(batcher=None, **model):
    """A server of a model that was never trained; `model` are its parts."""
    facts = {"name": "any", "image": {"width": 8, "height": 8, "channels": 3}, "classes": ["a"]}
    facts |= {"family": "vit", "maps": [], "notes": []}
    model = SimpleNamespace(**{"name": "any", "predict": None, "facts": lambda: facts} | model)
    return Server([model], batcher, LIMITS).app()


def test_a_server_that_cannot_compute_says_so():
    with Batcher() as ended:
        pass
    app = bare_app(ended)
    code, said = asyncio.run(ask(app, "/healthz", method="GET"))
    assert (code, said["status"]) == (503, "failed")
    _, described = asyncio.run(ask(app, "/openapi.json", method="GET"))
    check_described(described, "/healthz", "get", "503", said)


@pytest.mark.parametrize("charset", [b"undefined", b"punycode", b"none"])
def test_a_form_may_say_any_charset(charset):
    form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc\r\n--x--\r\n'
    headers = [(b"content-type", b"multipart/form-data; boundary=x; charset=" + charset)]
    code, said = asyncio.run(ask(bare_app(), body=form, headers=headers))
    assert code == 422
    assert "form" in said["error"]


def test_a_failure_is_told_in_signs_that_json_holds():
    def fail(file):
        raise UserError(os.fsdecode(b"The logits of runs/caf\xe9 are not finite."))

    with Batcher() as batcher:
        app = bare_app(batcher, decode=fail)
        told = {"error": r"The logits of runs/caf\xe9 are not finite."}
        assert asyncio.run(ask(app, body=photo())) == (500, told)


@pytest.mark.parametrize("kind", [b"image/png", b"multipart/form-data; boundary=x"])
def test_an_upload_that_is_broken_off_is_no_failure_of_the_server(kind):
    async def upload():
        begun = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nabc'
        headers = [(b"content-type", kind)]
        return await ask(app, body=begun, ends=False, headers=headers)

    app = bare_app()
    # Raised, it would be printed as an error of the program.
    told = {"error": "The upload was broken off. Send it again."}
    assert asyncio.run(upload()) == (400, told)
    assert asyncio.run(ask(app, "/models", method="GET"))[0] == 200


def served_models(served):
    endpoint = next(route.endpoint for route in served.app.routes if route.path == "/predict")
    return list(endpoint.__self__._models.values())


def test_a_failure_is_told_and_the_next_request_is_answered(served, monkeypatch):
    model = served_models(served)[0]

    def fail(images):
        raise RuntimeError("no memory")

    async def app(*args):
        with contextlib.suppress(RuntimeError):  # Starlette raises it again, for the log
            await served.app(*args)

    with monkeypatch.context() as patch:
        patch.setattr(model, "predict", Work(fail, (1,)))
        told = {"error": "The server failed; its own output says why."}
        assert asyncio.run(ask(app, body=photo())) == (500, told)
    with monkeypatch.context() as patch:
        patch.setattr(model._scorer, "probabilities", lambda images, _: np.nan * np.ones((1, 3)))
        code, said = asyncio.run(ask(app, body=photo()))
        assert code == 500
        assert "not finite" in said["error"]
    assert asyncio.run(ask(app, body=photo()))[0] == 200


# Batches


def test_images_that_come_together_are_computed_together():
    assert batch_sizes(1) == (1,)
    assert batch_sizes(16) == (1, 4, 16)
    assert batch_sizes(20) == (1, 4, 16, 20)
    shapes, begun, go = [], threading.Event(), threading.Event()

    def compute(images):
        shapes.append(images.shape)
        begun.set()
        assert go.wait(10)
        if (images == 9).any():
            raise ValueError("nine")
        return images.sum(axis=(1, 2, 3))

    work, other = Work(compute, (1, 4)), Work(lambda images: ["other"] * len(images), (1,))
    images = [np.full((2, 1, 1), i, np.uint8) for i in range(10)]
    with Batcher() as batcher:
        first = batcher.submit(work, images[0])
        assert begun.wait(10)
        left = batcher.submit(work, images[8])
        assert left.cancel()
        later = [batcher.submit(work, image) for image in images[1:4]]
        between = batcher.submit(other, images[0])
        later += [batcher.submit(work, image) for image in (images[4], images[5])]
        bad = batcher.submit(work, images[9])
        go.set()
        assert first.result(10) == 0
        assert [job.result(10) for job in later[:3]] == [2, 4, 6]
        assert between.result(10) == "other"
        with pytest.raises(ValueError, match="nine"):
            bad.result(10)
        assert batcher.alive
    assert shapes[0] == (1, 2, 1, 1)
    assert set(shapes[1:]) == {(4, 2, 1, 1)}
    assert not batcher.alive


def test_a_batch_waits_for_an_image_that_is_coming():
    sizes = []
    work = Work(lambda images: sizes.append(len(images)) or [0] * len(images), (1, 2))
    image = np.zeros((1, 1, 1), np.uint8)
    with Batcher(wait_seconds=5) as batcher:
        with batcher.coming():
            first = batcher.submit(work, image)
            time.sleep(0.05)
            assert sizes == []
            second = batcher.submit(work, image)
        assert [first.result(10), second.result(10)] == [0, 0]
        assert batcher.submit(work, image).result(2) == 0  # nobody comes: it is computed at once
    assert sizes == [2, 1]


# The page, in a browser


@pytest.fixture(scope="module")
def address(served):
    """The server on a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def choose(tab, *files):
    """Choose files as a user does."""
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    node = tab.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=node, files=list(map(str, files)))


def until(tab, script, seconds=30):
    end = time.monotonic() + seconds
    while not tab.evaluate(script):
        assert time.monotonic() < end, (script, tab.evaluate("document.body.innerText"))
        time.sleep(0.05)


def press(tab, key, code):
    for kind in ("keyDown", "keyUp"):
        how = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        tab.call("Input.dispatchKeyEvent", type=kind, **how)


STATUS = "document.getElementById('status').textContent"


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_shows_what_models_say_and_where_they_look(tab, address, tmp_path, width):
    (tmp_path / "<b>cat.png").write_bytes(photo())
    (tmp_path / "no image.png").write_bytes(b"text")
    tab.open(address, width)
    choose(tab, tmp_path / "<b>cat.png")
    until(tab, f"{STATUS}.startsWith('<b>cat.png: vit: ')")
    assert tab.problems(address) == []
    assert tab.evaluate("document.querySelectorAll('article h4').length") == 2
    bars = "[...document.querySelectorAll('.models > section')].map(s => s.querySelectorAll('li')"
    assert tab.evaluate(f"{bars}.length)") == [3, 3]
    assert "<script>alert(1)" in tab.evaluate("document.querySelector('article').innerText")
    assert min(tab.evaluate("[...document.images].map(image => image.naturalWidth)")) > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    choose(tab, tmp_path / "no image.png")
    until(tab, f"{STATUS}.startsWith('no image.png: ')")
    assert "cannot be read" in tab.evaluate("document.querySelector('.error').textContent")


def test_the_page_works_by_keyboard_and_for_a_screen_reader(tab, address, tmp_path):
    (tmp_path / "cat.png").write_bytes(photo())
    tab.open(address)
    assert tab.evaluate("document.getElementById('status').getAttribute('role')") == "status"
    choose(tab, tmp_path / "cat.png")
    until(tab, f"{STATUS}.startsWith('cat.png: ')")
    labelled = "[...document.querySelectorAll('input, select')].every(e => e.labels.length === 1)"
    assert tab.evaluate(labelled)
    assert tab.evaluate("[...document.images].every(image => image.alt.length > 10)")
    tab.evaluate("document.querySelector('.sliders input').focus()")
    map_of = "document.querySelector('img.map')"
    before = tab.evaluate(f"{map_of}.src")
    told = "document.activeElement.getAttribute('aria-valuetext')"
    assert tab.evaluate(told).startswith("rollout, strongest ")
    press(tab, "ArrowRight", 39)
    assert tab.evaluate(told).startswith("block 1, strongest ")
    assert tab.evaluate(f"{map_of}.alt").startswith("block 1, strongest ")
    assert tab.evaluate(f"{map_of}.src") != before
    press(tab, "Tab", 9)
    press(tab, "Home", 36)
    assert tab.evaluate(f"{map_of}.style.opacity") == "0"
    tab.evaluate("document.getElementById('second').value = ''")
    tab.evaluate("document.getElementById('second').dispatchEvent(new Event('change'))")
    until(tab, f"{STATUS}.startsWith('cat.png: ')")
    until(tab, "document.querySelectorAll('.models > section').length === 1")
    tab.evaluate("document.getElementById('clear').focus()")
    tab.evaluate("document.getElementById('clear').click()")
    assert tab.evaluate("document.activeElement.id") == "files"
    assert tab.evaluate("document.querySelectorAll('article').length") == 0
    assert tab.problems(address) == []


def test_files_can_be_dropped_and_pasted(tab, address):
    tab.open(address)
    encoded = base64.b64encode(photo()).decode()
    script = """(() => {
      const bytes = Uint8Array.from(atob("DATA"), (sign) => sign.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "NAME.png", { type: "image/png" }));
      EVENT
    })()"""
    drop = "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data }));"
    paste = "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }));"
    for name, event in (("dropped", drop), ("pasted", paste)):
        filled = script.replace("DATA", encoded).replace("NAME", name).replace("EVENT", event)
        tab.evaluate(filled)
        until(tab, f"{STATUS}.startsWith('{name}.png: ')")
    assert tab.evaluate("document.querySelectorAll('article').length") == 2


# The command


def test_the_command_serves_until_it_is_interrupted(compared_runs, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found, ended = [], threading.Event()

    def visit():
        while not found and not ended.wait(0.05):
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{LOCAL}:{port}/healthz", timeout=5) as answer:
                    found.append(json.load(answer))
                os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    folders = [str(compared_runs[0] / name) for name in ("vit", "vit")]
    code = __main__.main(["serve", *folders, "--port", str(port), "--batch", "1"])
    ended.set()
    visitor.join()
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert found == [{"status": "ok", "models": ["vit", "vit (2)"], "requests": 0}]
    assert f"serving 2 models at http://127.0.0.1:{port} until Ctrl+C" in out
    assert out.endswith("ended\n")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], ["--port 70000", "0 to 65535"]),
        (["--batch", "0"], ["--batch 0", "1 to 1024"]),
        (["--max_mb", "nan"], ["--max_mb nan"]),
        (["--host", "192.0.2.1"], ["nobody can listen there"]),
        (["--host", "a" * 70], ["nobody can listen there", "too long"]),
        (["--port", "0"], ["none"]),
    ],
)
def test_wrong_arguments_are_refused(capsys, tmp_path, flags, words):
    check_refusal(capsys, __main__.main(["serve", str(tmp_path / "none"), *flags]), *words)


def test_a_taken_port_is_told(capsys, tmp_path):
    with listen("127.0.0.1", 0) as taken:  # as a server does that has not begun yet
        port = str(taken.getsockname()[1])
        check_refusal(
            capsys, __main__.main(["serve", str(tmp_path), "--port", port]), "nobody can listen"
        )


def test_a_missing_library_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax_train.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    check_refusal(capsys, __main__.main(["serve", str(tmp_path)]), "pip install", "uvicorn")
