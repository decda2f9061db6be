"""The dashboard's pages without a browser: who may do what, what is refused, and what each answer allows a browser."""

from __future__ import annotations

import re
import smtplib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from hatchling.builders.wheel import WheelBuilder

from relay.admin.web import pages
from relay.admin.web.forms import form_of
from tests.scenario.admin_rig import AdminRig
from tests.scenario.harness import ROOT, wait_for

pytestmark = pytest.mark.scenario

PATHS = (
    "/", "/nodes", "/nodes/new", "/node/a", "/node/a/edit", "/pools", "/pools/new", "/pool/main", "/pool/main/edit",
    "/queue", "/inbox", "/bridges", "/bridges/new", "/bridge/app", "/bridge/app/edit", "/issues", "/events", "/audit",
    "/send",
)  # fmt: skip


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    nodes = [{"name": "a", "type": "sandbox", "directory": "box"}, {"name": "memory", "type": "sandbox"}]
    found = AdminRig(tmp_path_factory.mktemp("pages"), nodes)
    yield found.start()
    found.close()


class Session:
    """A browser that is logged in."""

    def __init__(self, rig: AdminRig, role: str) -> None:
        self.client = httpx.Client(base_url=rig.url, follow_redirects=False, timeout=30)
        assert self.client.post("/login", data={"token": rig.token(role)}).status_code == 303
        self.csrf = self.client.get("/api/v1/session").json()["csrf"]

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.client.post(path, data={"csrf_token": self.csrf, **fields})


@pytest.fixture(scope="module")
def admin(rig: AdminRig) -> Iterator[Session]:
    found = Session(rig, "admin")
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def viewer(rig: AdminRig) -> Iterator[Session]:
    found = Session(rig, "viewer")
    yield found
    found.client.close()


def test_every_page_that_changes_something_reads_its_form_by_the_one_way() -> None:
    """A handler that took a form by itself would be open to other sites."""
    changing = [
        route
        for router in pages.ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.methods - {"GET", "HEAD"} and route.path not in ("/login", "/logout")
    ]
    assert len(changing) >= 15
    for route in changing:
        assert form_of in [each.call for each in route.dependant.dependencies], route.path


def test_pages_hold_nothing_inline_and_say_so(admin: Session) -> None:
    for path in PATHS:
        answer = admin.client.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", answer.text), path
        assert admin.csrf in answer.text
    for file in re.findall(r'(?:href|src)="(/static/[^"]+)"', admin.client.get("/").text):
        assert "immutable" in admin.client.get(file).headers["cache-control"], file
    icon = admin.client.get("/static/relay.svg")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")


@pytest.mark.parametrize(
    "path",
    ["/static/..%2fapp.css", "/static/%2e%2e/pages.py", "/static/VENDORED.md", "/node/nobody", "/pool/%3Cb%3E",
     "/message/01M88BJKZX8580004CRESB3M07", "/message/x", "/inbox/a/..%2f..%2frelay", "/inbox/a/%2e%2e%2frelay.yaml",
     "/inbox/a/x", "/inbox/nobody/x/html", "/nodes/new?type=%3Cscript%3E", "/no/such/page", "/bridge/x"],
)  # fmt: skip
def test_what_there_is_not(admin: Session, path: str) -> None:
    answer = admin.client.get(path)
    assert answer.status_code == 404
    assert "<script>" not in answer.text
    assert "relay.yaml" not in answer.text or "yaml" in path


def test_forms_need_the_session_s_own_token(rig: AdminRig, admin: Session) -> None:
    url, fields = "/node/a/pause", {"reason": "x"}
    assert admin.client.post(url, data=fields).status_code == 403
    assert admin.client.post(url, data={**fields, "csrf_token": "x" * 43}).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    assert admin.client.post(url, data={**fields, "csrf_token": admin.csrf}, headers=foreign).status_code == 403
    bearer = httpx.post(rig.url + url, data=fields, headers={"Authorization": f"Bearer {rig.token('admin')}"})
    assert bearer.status_code == 401  # tokens have the API
    assert rig.relay.node("a")["status"] == "active"


def test_a_viewer_sees_and_does_nothing(rig: AdminRig, viewer: Session) -> None:
    page = viewer.client.get("/node/a").text
    assert "Pause" not in page
    assert "/audit" not in page
    for path in ("/node/a/pause", "/node/a/delete", "/pool/main/delete", "/queue/drop", "/bridge/app/rotate", "/send"):
        assert viewer.post(path, confirm="main", scope="all", text="x").status_code == 403, path
    assert [viewer.client.get(path).status_code for path in ("/audit", "/nodes/new", "/send")] == [403, 403, 403]
    assert rig.relay.node("a")["status"] == "active"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from", "a@b.example\r\nBcc: victim@c.example"),
        ("to", "a@b.example\nX-Evil: 1"),
        ("subject", "hello\r\nBcc: victim@c.example"),
        ("subject", "hello\u2028X: 1"),
        ("to", ""),
        ("bridge", "nobody"),
    ],
    ids=["from", "to", "subject", "line separator", "nobody", "no such bridge"],
)
def test_header_injection_by_a_test_message(rig: AdminRig, admin: Session, field: str, value: str) -> None:
    """B276: the same validators as the send API; nothing is sent."""
    fields = {"bridge": "app", "from": "a@acme.example", "to": "you@example.com", "subject": "s", "text": "t"}
    before = rig.relay.node("a")["counts"], rig.relay.node("memory")["counts"]
    answer = admin.post("/send", **{**fields, field: value})
    assert answer.status_code == 200
    assert 'role="alert"' in answer.text
    assert (rig.relay.node("a")["counts"], rig.relay.node("memory")["counts"]) == before


def test_captured_mail_of_both_kinds_of_sandbox(rig: AdminRig, admin: Session) -> None:
    html = "<p>Hello</p><script>alert(1)</script>"
    raw = f"From: a@acme.example\r\nTo: you@example.com\r\nSubject: seen\r\nContent-Type: text/html\r\n\r\n{html}\r\n"
    for _ in range(2):  # one for each, in turn
        with smtplib.SMTP("127.0.0.1", rig.relay.port, timeout=20) as client:
            client.login("app", "app-password")
            client.sendmail("a@acme.example", ["you@example.com"], raw)

    def found() -> set[str]:
        return set(re.findall(r'href="(/inbox/(?:a|memory)/[^"]+)"', admin.client.get("/inbox").text))

    wait_for(lambda: len(found()) == 2, what="both mails in the inbox")
    assert {path.split("/")[2] for path in found()} == {"a", "memory"}
    for path in found():
        page = admin.client.get(path).text
        assert '<iframe class="mail-frame"' in page
        assert 'sandbox=""' in page
        assert "&lt;script&gt;" in page
        assert html not in page
        framed = admin.client.get(f"{path}/html")
        assert html in framed.text
        policy = framed.headers["content-security-policy"]
        assert policy.startswith("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        assert framed.headers["x-content-type-options"] == "nosniff"
        source = admin.client.get(f"{path}/source")
        assert source.headers["content-type"].startswith("text/plain")
        assert source.headers["content-disposition"].startswith("attachment")
    assert len(re.findall("<tr>", admin.client.get("/inbox?part=list&text=seen").text)) == 3
    assert "No mail fits" in admin.client.get("/inbox?text=nothing-like-it").text


def test_a_sentence_is_carried_once_and_escaped(admin: Session) -> None:
    admin.client.cookies.set("relay_said", "%3Cscript%3E1%3C%2Fscript%3E")
    answer = admin.client.get("/pools")
    assert "&lt;script&gt;1" in answer.text
    assert "<script>1" not in answer.text
    admin.client.cookies.delete("relay_said")


def test_a_new_password_is_told_once(rig: AdminRig, admin: Session) -> None:
    answer = admin.post(
        "/bridges/new", **{"o.name": "once", "o.delivery": "queue", "pool": "main", "o.limits.hour": "5"}
    )
    secret = re.search(r"brg_[A-Za-z0-9_-]+", answer.text)
    assert secret
    for path in ("/bridge/once", "/bridges", "/audit", "/events", "/bridge/once/edit"):
        assert secret[0] not in admin.client.get(path).text
    rotated = admin.post("/bridge/once/rotate", username="once", keep="on")
    assert re.search(r"brg_[A-Za-z0-9_-]+", rotated.text)
    assert admin.post("/bridge/once/revoke", username="once").status_code == 303
    assert "once-2" in admin.client.get("/bridge/once").text
    assert admin.post("/bridge/once/delete", confirm="on").headers["location"] == "/bridge/once"
    assert admin.post("/bridge/once/delete", confirm="once").headers["location"] == "/bridges"
    assert secret[0] not in rig.relay.log()


def test_faults_of_a_form_stand_at_their_fields(admin: Session) -> None:
    answer = admin.post("/nodes/new", name="Bad Name", type="sandbox", **{"o.keep": "many", "o.smtputf8": "on"})
    assert answer.status_code == 200
    assert "not a name" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert 'value="many"' in answer.text


def test_news_come_as_a_stream(rig: AdminRig, admin: Session) -> None:
    with admin.client.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        rig.client("operator").post("/api/v1/nodes/memory/test").raise_for_status()
        assert next(line for line in lines if line.startswith("event:")) in ("event: news", "event: tick")


def test_the_wheel_has_what_pages_need(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("templates", "static"):
        for file in (ROOT / "relay" / "admin" / "web" / folder).iterdir():
            assert f"relay/admin/web/{folder}/{file.name}" in names
