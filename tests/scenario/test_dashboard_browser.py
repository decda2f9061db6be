"""The dashboard in a real browser: an operator's day, what strangers write into it, whether everybody can use it."""

from __future__ import annotations

import os
import re
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.fakes.smtp_server import reply
from tests.scenario.admin_rig import AdminRig
from tests.scenario.browser import Ear, chromium, logged_in, needs_chromium, save, serious
from tests.scenario.harness import wait_for
from tests.scenario.upstream import Upstream

pytestmark = [pytest.mark.scenario, pytest.mark.interop, needs_chromium]

SCRIPT = "<script>window.pwned=1;alert(1)</script>"
EVIL = f'"\'>{SCRIPT}<img src=x onerror="window.pwned=1">'
WORDS = f"535 5.7.8 {SCRIPT} no such login"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    made = Upstream("server", users={"relay": "right-password"})
    yield made
    made.close()


@pytest.fixture(scope="module")
def broken() -> Iterator[Upstream]:
    made = Upstream("broken")
    made.at("mail", reply(WORDS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, broken: Upstream) -> Iterator[AdminRig]:
    bridges = [
        {"name": name, "pool": pool, "credentials": [{"username": name, "password": "app-password"}]}
        for name, pool in (("app", "main"), ("odd", "broken"))
    ]
    pools = [
        {
            "name": "main",
            "id": 7,
            "default": True,
            "nodes": [{"name": "box", "type": "sandbox", "caps": {"hour": 900}}],
        },
        {"name": "broken", "id": 8, "nodes": [broken.node()]},
        {"name": "empty", "id": 9, "nodes": []},
    ]
    found = AdminRig(tmp_path_factory.mktemp("dashboard"), [], bridges=bridges, pools=pools)
    yield found.start()
    found.close()


@pytest.fixture
def ear(rig: AdminRig) -> Iterator[Ear]:
    made = Ear(rig.url)
    yield made
    assert made.faults == []
    assert made.foreign == []


@pytest.fixture
def page(browser: Browser, rig: AdminRig, ear: Ear) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield logged_in(context, rig.url, rig.token("admin"), ear)
    context.close()


@pytest.fixture(scope="module")
def strange(rig: AdminRig) -> str:
    """Mail that means harm, in the inbox and in the queue; the id of the one that waits."""
    _send(rig, "app", _evil())
    _send(rig, "odd", _evil())
    wait_for(lambda: rig.relay.node("broken")["status"] == "inactive", what="the broken node out of use")
    wait_for(lambda: rig.relay.node("box")["counts"].get("delivered"), what="the mail in the sandbox")
    return str(rig.relay.entries(pool="broken")[0]["id"])


def test_a_day_of_an_operator(page: Page, rig: AdminRig, server: Upstream) -> None:
    page.get_by_role("link", name="Nodes", exact=True).click()
    page.get_by_role("link", name="Add a node").click()

    # The form follows the type, and comes back.
    page.get_by_label("Type", exact=True).select_option("ses")
    expect(page.get_by_label("Region")).to_be_visible()
    page.get_by_label("Type", exact=True).select_option("smtp")
    expect(page.locator("#f-host")).to_be_visible()

    # A wrong password: the upstream's own words, and nothing is saved.
    page.locator("#name").fill("second")
    page.locator("#f-host").fill("127.0.0.1")
    page.get_by_label("Port", exact=True).fill(str(server.port))
    page.get_by_label("TLS", exact=True).select_option("none")
    page.get_by_label("Username", exact=True).fill("relay")
    page.get_by_label("Password", exact=True).fill("wrong-password")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#tested")).to_contain_text("535")
    page.get_by_role("button", name="Test and save").click()
    said = page.get_by_role("alert")
    expect(said).to_contain_text("535")
    expect(said).to_contain_text("not saved")
    assert "second" not in rig.relay.config_path.read_text()

    # Put right.
    expect(page.get_by_label("Username", exact=True)).to_have_value("relay")
    page.get_by_label("Password", exact=True).fill("right-password")
    page.get_by_label("Pool", exact=True).select_option("empty")
    page.get_by_role("button", name="Test and save").click()
    page.wait_for_url("**/node/second")
    expect(page.locator("#notice")).to_contain_text("is added")
    assert "right-password" not in page.content()
    expect(page.locator("#now")).to_contain_text("active")

    # A bridge for its pool; the password is shown once.
    page.goto(f"{rig.url}/bridges/new")
    page.locator("#f-name").fill("shop")
    page.get_by_label("Pool", exact=True).select_option("empty")
    page.get_by_role("button", name="Save").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("brg_")
    page.goto(f"{rig.url}/bridge/shop")
    assert secret not in page.content()

    # Send, and watch it arrive: the page finds out by itself.
    page.get_by_role("main").get_by_role("link", name="Test send").click()
    page.get_by_label("To", exact=True).fill("you@example.com")
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_url("**/message/*")
    expect(page.get_by_role("heading", name="Taken by second")).to_be_visible()
    expect(page.locator(".candidates")).to_contain_text("chosen")
    server.wait(1)

    # Paused: the queue says why it waits.
    page.goto(f"{rig.url}/node/second")
    page.get_by_label("Reason", exact=True).fill("contract ended")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#now")).to_contain_text("contract ended")
    _send(rig, "shop", _plain("Later"), password=secret)
    page.goto(f"{rig.url}/queue?pool=empty")
    expect(page.locator("#list")).to_contain_text("Later")
    expect(page.locator("#list")).to_contain_text("contract ended")
    page.goto(rig.url)
    expect(page.locator("#state")).to_contain_text("contract ended")

    # A pool with a node, a bridge and mail stays, and says what to move.
    page.goto(f"{rig.url}/pool/empty")
    page.get_by_label("Type empty to confirm").fill("empty")
    page.get_by_role("button", name="Remove pool").click()
    first = page.get_by_role("alert")
    for words in ("second", "shop", "1 waiting message"):
        expect(first).to_contain_text(words)

    # Held, then tried again; resumed, and it goes.
    page.goto(f"{rig.url}/queue?pool=empty")
    page.get_by_label(re.compile("Tick 0")).check()
    page.get_by_role("button", name="Hold").click()
    expect(page.locator("#notice")).to_contain_text("1 message held")
    page.get_by_label("Tick all shown").check()
    page.get_by_role("button", name="Retry now").click()
    expect(page.locator("#notice")).to_contain_text("1 message tried now")
    page.goto(f"{rig.url}/node/second")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#notice")).to_contain_text("back in the rotation")
    server.wait(2)

    # What was done is on record.
    page.goto(f"{rig.url}/audit")
    for action in ("node.add", "bridge.add", "message.test", "node.pause", "queue.hold", "node.resume"):
        expect(page.get_by_role("cell", name=action, exact=True).first).to_be_visible()
    assert "right-password" not in page.content()

    # Only now, bridge and node gone, the pool may go too.
    page.goto(f"{rig.url}/bridge/shop")
    page.get_by_label("Type shop to confirm").fill("shop")
    page.get_by_role("button", name="Remove bridge").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{rig.url}/node/second")
    page.get_by_role("button", name="Remove node").click()
    page.wait_for_url("**/nodes")
    page.goto(f"{rig.url}/pool/empty")
    page.get_by_label("Type empty to confirm").fill("empty")
    page.get_by_role("button", name="Remove pool").click()
    page.wait_for_url("**/pools")
    expect(page.locator("#list")).not_to_contain_text("empty")


def test_what_strangers_write_stays_text(page: Page, rig: AdminRig, strange: str) -> None:
    """Subject, sender, recipient, file name, an upstream's answer, an operator's reason: shown, never run."""
    rig.client("operator").post("/api/v1/nodes/broken/pause", json={"reason": EVIL}).raise_for_status()
    rig.client("operator").post("/api/v1/nodes/broken/resume").raise_for_status()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    paths = (
        "/", "/nodes", "/node/broken", "/pools", "/queue", f"/message/{strange}", "/inbox", "/bridges", "/events",
        "/issues", "/audit", "/queue?text=%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E",
    )  # fmt: skip
    for path in paths:
        page.goto(rig.url + path)
        assert page.evaluate("window.pwned") is None, path
        assert page.locator("main img, main script").count() == 0, path
    page.goto(f"{rig.url}/message/{strange}")
    expect(page.locator("#now")).to_contain_text(SCRIPT)  # the answer, word for word
    page.goto(f"{rig.url}/issues")
    expect(page.locator("#list")).to_contain_text(SCRIPT)  # and so is the issue that it opened
    page.goto(f"{rig.url}/inbox")
    page.get_by_role("link", name=re.compile("pwned")).click()
    expect(page.locator("main h1")).to_contain_text("<script>")
    title = page.title()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Harmless to look at")).to_be_visible()
    assert frame.locator("body").evaluate("() => self.origin") == "null"
    frame.get_by_text("click me").click()
    page.wait_for_timeout(200)
    assert page.title() == title
    assert page.url.startswith(rig.url)
    assert page.evaluate("window.pwned") is None
    expect(page.get_by_role("listitem").filter(has_text="evil<b>")).to_be_visible()
    for name in ("X-Virtual-MTA", "X-Feedtype", "X-Zone", "X-ServerID"):
        expect(page.locator(".stamps")).to_contain_text(name)
    page.get_by_role("tab", name="HTML").press("ArrowRight")
    expect(page.get_by_role("tabpanel")).to_contain_text("Only text.")
    page.get_by_role("tab", name="Text").press("End")
    expect(page.get_by_role("tabpanel")).to_contain_text("window.pwned")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)], ids=["light", "dark on a phone"])
def test_everybody_can_use_it(
    browser: Browser, rig: AdminRig, ear: Ear, strange: str, theme: str, width: int, tmp_path: Path
) -> None:
    """No serious finding of axe, nothing wider than the screen, no error in the console, in both themes."""
    pictures = Path(os.environ.get("DASHBOARD_PICTURES", tmp_path))
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)  # type: ignore[arg-type]
    page = logged_in(context, rig.url, rig.token("admin"), ear)
    axe = Axe()
    mail = rig.client("viewer").get("/inbox").text
    inside = re.search(r'href="(/inbox/box/[^"]+)"', mail)
    assert inside
    paths = {
        "overview": "/", "nodes": "/nodes", "node": "/node/broken", "node-form": "/nodes/new", "pools": "/pools",
        "pool": "/pool/main", "queue": "/queue", "message": f"/message/{strange}", "inbox": "/inbox",
        "mail": inside[1], "bridges": "/bridges", "bridge": "/bridge/app", "issues": "/issues",
        "events": "/events", "audit": "/audit",
        "send": "/send",
    }  # fmt: skip
    found = {}
    for name, path in paths.items():
        page.goto(rig.url + path)
        if name == "overview":
            page.wait_for_selector("#chart canvas")
        save(page, pictures, f"{name}-{theme}-{width}")
        wide = page.evaluate("document.documentElement.scrollWidth")
        if problems := [*serious(axe.run(page)), *([f"{wide} wide"] if wide > width else [])]:
            found[name] = problems
    context.close()
    assert found == {}


def test_by_keyboard_with_the_theme_kept(page: Page, rig: AdminRig) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("button", name="Dark").press("Enter")
    page.goto(f"{rig.url}/nodes")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(rig.url)
    page.wait_for_url("**/login")


def test_news_reach_the_page(page: Page, rig: AdminRig) -> None:
    """Without loading it again."""
    expect(page.locator("#live-words")).to_have_text("live")
    page.goto(f"{rig.url}/inbox")
    page.evaluate("window.stays = 1")
    _send(rig, "app", _plain("Hot off the press"))
    expect(page.get_by_role("link", name="Hot off the press")).to_be_visible()
    assert page.evaluate("window.stays") == 1


def _plain(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@acme.example", "you@example.com", subject
    message.set_content("Hello\n")
    return message


def _evil() -> EmailMessage:
    message = EmailMessage()
    message["From"] = '"<script>window.pwned=1</script>" <a@acme.example>'
    message["To"] = "you@example.com"
    message["Subject"] = EVIL
    message.set_content("Only text.\n")
    message.add_alternative(
        "<h1>Harmless to look at</h1><script>window.pwned=1; parent.document.title='owned'</script>"
        '<img src="http://198.51.100.1/pixel.png"><img src=x onerror="parent.pwned=1">'
        '<a href="javascript:parent.pwned=1" target=_top>click me</a><iframe src="http://198.51.100.1/"></iframe>'
        '<meta http-equiv=refresh content="0;url=http://198.51.100.1/"><form action="/logout" method=post></form>',
        subtype="html",
    )
    message.add_attachment(b"x", maintype="image", subtype="svg+xml", filename="evil<b>../../x.svg")
    return message


def _send(rig: AdminRig, username: str, message: EmailMessage, *, password: str = "app-password") -> None:
    with smtplib.SMTP("127.0.0.1", rig.relay.port, timeout=20) as client:
        client.login(username, password)
        client.send_message(message)
