"""The web page in a real browser: headless Chromium, driven by its keyboard and pointer as a person would.

Pictures of what was seen stay in screenshots/ beside the sources.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from decant.embedder import Encoder
from decant.index import Document, Store
from decant.index.batches import index_documents
from decant.service.keys import hash_key

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "screenshots"
OTHERS = 60
SECONDS = 20
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
TEXTS = {
    "docs/whales/blue.txt": "The blue whale is the largest animal that has ever lived. It eats krill 🦐🦐, up to four "
    "tonnes a day.\nBlue whales sing 🐋 at ten hertz, too low for people to hear.",
    "docs/whales/orca.txt": "The orca, or killer whale, hunts in groups called pods.\nOrcas are dolphins, not whales.",
    "docs/tea/green.txt": "Green tea is made from leaves that were not fermented. It is brewed at eighty degrees.",
    "docs/tea/black.txt": "Black tea is fermented before it is dried, and brewed with boiling water.",
    "docs/kettle.txt": "To start the kettle from a terminal, run:\n\n```sh\nkettle --start cups[1]\n```\n\nIt hums.",
    "docs/evil.txt": f"A note on harmless squid {EVIL} and nothing else about squid.",
}
CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8")


class Page:
    """The page, and what a test does with it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.address = ""

    def open(self, server: Any, at: str = "#/search") -> None:
        """Load the page anew."""
        self.driver.get("about:blank")
        self.address = f"http://127.0.0.1:{server.server.http_port}/"
        self.driver.get(self.address + at)
        self.until(lambda: self.run("return document.readyState") == "complete")

    def screen(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Be a screen of this size that prefers light or dark, and no motion."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def all(self, selector: str) -> list[WebElement]:
        return [e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]

    def one(self, selector: str) -> WebElement:
        """The first that can be seen; waits for it."""
        self.until(lambda: self.all(selector))
        return self.all(selector)[0]

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, SECONDS, 0.05).until(lambda _: condition())

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def search(self, query: str) -> None:
        field = self.one("#query")
        field.clear()
        field.send_keys(query, Keys.ENTER)
        self.until(lambda: self.all(".hit, .nothing") and not self.all(".column[aria-busy]"))

    def picture(self, name: str) -> None:
        PICTURES.mkdir(exist_ok=True)
        assert self.driver.save_screenshot(str(PICTURES / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the browser logged as wrong since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver() -> Generator[webdriver.Chrome]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("no Chromium to drive: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # A container has no user namespaces for the sandbox and little shared memory.
    container = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
    for argument in ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb", *container]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield made
    made.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Generator[Page]:
    made = Page(driver)
    made.screen(1280, 800)
    made.complaints()
    yield made
    if made.address:
        made.run("localStorage.clear(); sessionStorage.clear()")


def fill(folder: Path, encoder: Encoder) -> Path:
    """Store five documents to look for, one of them harmful, among others: evidence is measured against those."""
    documents = [Document(path, text, Path(path).stem, path) for path, text in TEXTS.items()]
    documents[-1] = Document("evil", TEXTS["docs/evil.txt"], EVIL, f"docs/{EVIL}.txt", metadata={"note": EVIL})
    lines = (ROOT / "examples/corpus/tldr/commands.jsonl").read_text("utf-8").splitlines()[:OTHERS]
    others = [Document(str(i), json.loads(line)["text"], path=f"docs/tldr/{i}.md") for i, line in enumerate(lines)]
    with Store.open(folder, encoder=encoder, create=True) as store:
        index_documents(store, encoder, documents + others)
    return folder


@pytest.fixture(scope="module")
def library(mini: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("page") / "alpha", mini)


@pytest.fixture(scope="module")
def served(mini: Encoder, make_running: Callable[..., Any], library: Path) -> Generator[Any]:
    """decant-mini over what `fill` stores."""
    running = make_running(mini, store=library)
    yield running
    running.stop()


def test_search_by_keyboard_to_the_source_and_back(page: Page, served: Any) -> None:
    page.open(served)
    page.until(lambda: f"{len(TEXTS) + OTHERS} documents" in page.one("#tagline").text)
    page.run("document.activeElement.blur()")
    page.press("/")
    page.until(lambda: page.focused.get_attribute("id") == "query")
    page.search("what do whales eat")
    assert [c.get_attribute("data-mode") for c in page.all(".column")] == ["hybrid", "dense", "lexical"]
    assert "this store holds none" in page.one("#unavailable [data-mode=sparse]").text
    assert any("whale" in mark.text.lower() for mark in page.all(".hit mark"))
    assert page.all(".other")
    page.press(Keys.ARROW_DOWN)
    first = page.focused
    assert first == page.all(".column[data-mode=hybrid] .hit")[0]
    page.press(Keys.ARROW_RIGHT)
    assert page.focused == page.all(".column[data-mode=dense] .hit")[0]
    page.press(Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert page.focused == first
    page.press(Keys.ENTER)
    cited = page.one("#source mark").get_attribute("textContent")
    whole = page.one("#source-text").get_attribute("textContent")
    assert whole in TEXTS.values() and cited in whole
    page.picture("source-light")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("#source"))
    assert page.focused == first
    assert "#/search?q=what" in page.driver.current_url
    page.driver.back()
    page.until(lambda: not page.all(".hit"))
    assert page.complaints() == []


def test_ranges_are_right_behind_characters_a_browser_counts_twice(page: Page, served: Any) -> None:
    page.open(served, "#/ask?q=At how many hertz do blue whales sing?")
    page.one("button.cite")
    for button in page.all("button.cite"):
        button.click()
        page.one("#source mark")
        cited = page.one("#source mark").get_attribute("textContent")
        assert cited in page.one(".answer-text").text
        page.press(Keys.ESCAPE)
    assert "hertz" in page.one(".answer-text").text
    page.picture("ask-light")
    assert page.complaints() == []


def test_code_in_an_answer_is_code(page: Page, served: Any) -> None:
    page.open(served, "#/ask?q=How do I start the kettle from a terminal?")
    page.until(lambda: page.all(".answer-text .code") and not page.all("[data-writing]"))
    assert page.one(".answer-text .code").text == "kettle --start cups[1]"
    assert "run: 1" in " ".join(page.one(".answer-text").text.split())
    assert "```" not in page.one(".answer-text").text
    assert page.run(CONTRAST) == []
    page.picture("ask-code")
    assert page.complaints() == []


def test_a_conversation_goes_on_and_starts_anew(page: Page, served: Any) -> None:
    page.open(served, "#/ask")
    for question in ("How many degrees is green tea brewed at?", "Who won the chess match in Reykjavik?"):
        before = len(page.all(".turn"))
        page.one("#question").send_keys(question, Keys.ENTER)
        page.until(lambda before=before: len(page.all(".turn")) == before + 1 and not page.all("[data-writing]"))
    assert "eighty degrees" in page.all(".answer")[0].text and page.all(".source-card")
    assert page.all("[data-abstained]") and not page.all(".turn:last-child .cite")
    page.one("#ask-new").click()
    page.until(lambda: not page.all(".turn"))


def test_what_went_wrong_is_said_where_it_was_asked(page: Page, served: Any) -> None:
    page.open(served, "#/search?q=tea&filter=path =&k=5")
    page.until(lambda: len(page.all(".nothing")) == 3)
    assert all("filter" in column.text for column in page.all(".nothing"))
    assert page.one("#filter").get_attribute("value") == "path =" and page.one("#k").get_attribute("value") == "5"
    page.complaints()  # the refusals, which the browser logs
    page.open(served, "#/search?q=tea&filter=path LIKE '%25green%25'")
    page.until(lambda: len(page.all(".hit")) >= 3)
    assert {"green"} == {hit.text.split("\n")[1] for hit in page.all(".hit")}
    page.until(lambda: "hybrid" in page.one("#heard").get_attribute("textContent"))
    page.run("document.activeElement.blur()")
    page.press("?")
    assert "Esc" in page.one("#help-dialog").text
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("#help-dialog"))


def test_one_of_several_stores_is_chosen(page: Page, run_server: Callable[..., Any], tmp_path: Path) -> None:
    stores = [{"name": name, "path": str(tmp_path / name), "writable": True} for name in ("sea", "land")]
    server = run_server(stores=stores)
    body = {"documents": [{"doc_id": "only", "text": "The hedgehog sleeps."}], "store": "land"}
    assert server.http("/documents", body).status == 200
    page.open(server)
    page.until(lambda: "0 documents" in page.one("#tagline").text)
    page.one("#store").send_keys("land")
    page.until(lambda: "1 document," in page.one("#tagline").text)
    page.search("hedgehog")
    assert "hedgehog" in page.one(".hit").text
    assert page.complaints() == []


def test_what_a_document_says_never_becomes_markup(page: Page, served: Any) -> None:
    page.open(served)
    page.search("harmless squid")
    hit = next(hit for hit in page.all(".hit") if "squid" in hit.text)
    assert EVIL in hit.text
    hit.click()
    page.until(lambda: EVIL in page.one("#source-text").get_attribute("textContent"))
    assert f"note: {EVIL}" in page.one("#source-facts").text and page.one("#source-title").text == EVIL
    page.press(Keys.ESCAPE)
    page.driver.get(page.address + "#/ask?q=What is said about harmless squid?")
    page.until(lambda: page.all(".turn") and not page.all("[data-writing]"))
    page.driver.get(page.address + "#/map")
    page.until(lambda: page.all(".legend button"))
    page.one("#canvas").send_keys(Keys.ARROW_RIGHT)
    for _ in TEXTS:
        page.press(Keys.ARROW_LEFT)
    assert page.run("return document.querySelectorAll('main img:not([src=\"ui/icon.svg\"]), main script').length") == 0
    assert "owned" not in page.driver.title and page.complaints() == []


def test_markup_made_of_a_string_is_refused_by_the_browser(page: Page, served: Any) -> None:
    page.open(served)
    refused = page.run("try { document.body.innerHTML = '<b>x</b>'; return '' } catch (error) { return error.name }")
    assert refused == "TypeError"
    page.complaints()


def test_terms_of_a_query_are_bars(
    page: Page, run_server: Callable[..., Any], sparse_encoder: Encoder, tmp_path: Path
) -> None:
    server = run_server(of=sparse_encoder, store=fill(tmp_path / "s", sparse_encoder))
    page.open(server)
    page.search("the water of rivers")
    assert [c.get_attribute("data-mode") for c in page.all(".column")] == ["hybrid", "dense", "sparse", "lexical"]
    page.until(lambda: page.all("#term-bars li"))
    widths = [bar.size["width"] for bar in page.driver.find_elements(By.CSS_SELECTOR, "#term-bars .track i")]
    assert len(widths) > 3 and widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    assert not page.all("#unavailable li")
    page.picture("search-four-modes")
    assert page.complaints() == []


def test_the_map_zooms_tells_and_opens(page: Page, served: Any) -> None:
    page.open(served, "#/map")
    page.until(lambda: {button.text.split("\n")[0] for button in page.all(".legend button")} >= {"whales", "tea"})
    canvas = page.one("#canvas")
    ink = (
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let sum = 0; for (let i = 0; i < d.length; i += 4) sum += (d[i + 3] > 0) * (1 + i % 97); return sum"
    )
    page.until(lambda: page.run(ink, canvas) > 0)
    fitted = page.run(ink, canvas)
    canvas.send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: page.all("#tip") and page.one("#tip").text)
    page.picture("map-chosen")
    canvas.send_keys("+", "+")
    page.until(lambda: page.run(ink, canvas) != fitted)
    page.one("#zoom-fit").click()
    ActionChains(page.driver).scroll_from_origin(_middle(canvas), 0, -400).perform()
    page.one("[data-method=tsne]").click()
    page.until(lambda: "t-SNE" in page.one("#map-note").text)
    page.all(".legend button")[0].click()
    assert page.all(".legend button")[0].get_attribute("aria-pressed") == "false"
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
    page.until(lambda: page.all("#source mark"))
    assert page.complaints() == []


def test_the_index_is_described(page: Page, served: Any) -> None:
    page.open(served, "#/index")
    page.until(lambda: page.all(".tiles li"))
    assert page.all(".tiles li")[0].text.split() == [str(len(TEXTS) + OTHERS), "documents"]
    facts = page.one("#facts").text
    fingerprint = served.http("/ui/api/status").json["info"]["fingerprint"]
    assert fingerprint in facts and "BM25" in facts and "not available" in facts


def test_the_theme_follows_the_system_until_it_is_chosen(page: Page, served: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    page.open(served)
    light = page.run(back)
    page.screen(1280, 800, dark=True)
    dark = page.run(back)
    assert light != dark
    page.one("#theme").click()
    assert page.one("#theme").accessible_name == "Theme: light" and page.run(back) == light
    page.driver.refresh()
    assert page.run(back) == light
    page.one("#theme").click()
    assert page.run(back) == dark


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_view_fits_can_be_read_and_is_named(page: Page, served: Any, look: str) -> None:
    width, height = (360, 740) if look == "phone" else (1440, 900)
    page.screen(width, height, dark=look == "dark", phone=look == "phone")
    views = {
        "start": ("#/search", "#tagline code"),
        "search": ("#/search?q=what do whales eat", ".hit mark"),
        "ask": ("#/ask?q=How many degrees is green tea brewed at?", ".source-card"),
        "map": ("#/map", ".legend button"),
        "index": ("#/index", ".tiles li"),
    }
    for name, (at, sign) in views.items():
        page.open(served, at)
        page.one(sign)
        assert page.run("return document.documentElement.scrollWidth") <= width, name
        unnamed = [e.get_attribute("outerHTML") for e in page.all("button, input, select, a") if not e.accessible_name]
        assert unnamed == [], name
        assert page.run(CONTRAST) == [], name
        page.picture(f"{name}-{look}")
    assert page.complaints() == []


def test_a_key_is_asked_for_and_kept_in_the_tab(
    page: Page, run_server: Callable[..., Any], mini: Encoder, library: Path
) -> None:
    keys = [{"sha256": hash_key("alpha"), "tenant": "alpha", "scopes": ["search", "ask"]}]
    stores = [{"name": "notes", "path": str(library.parent / "{tenant}")}]
    server = run_server(of=mini, stores=stores, api_keys=keys)
    page.open(server)
    for wrong in ("wrong", "alpha"):
        field = page.one("#key")
        page.until(lambda field=field: "key" in page.one("#key-why").text)
        field.clear()
        field.send_keys(wrong, Keys.ENTER)
        page.until(lambda wrong=wrong: wrong == "alpha" or "not valid" in page.one("#key-why").text)
    page.until(lambda: f"{len(TEXTS) + OTHERS} documents" in page.one("#tagline").text)
    assert page.run("return sessionStorage.getItem('decant.key')") == "alpha"
    assert "alpha" not in str(page.run("return JSON.stringify(localStorage) + document.cookie + location.href"))
    page.search("tea")
    assert page.all(".hit")
    page.complaints()  # the refusals, which the browser logs


def _middle(element: WebElement) -> Any:
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(element)
