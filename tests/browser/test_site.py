"""The site of a board in a browser: sorting, filtering, drill-down, no error, no request, nothing hostile runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from board_results import HOSTILE
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


def opened(driver: WebDriver, path: Path) -> None:
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(path.as_uri())


def requests(driver: WebDriver) -> set[str]:
    """The addresses that the page asked for since it was opened, data within the page left out."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    return {url for url in asked if not url.startswith("data:")}


def rows(driver: WebDriver, table: str = "table") -> list[list[str]]:
    shown = "[...document.querySelectorAll(arguments[0])].filter(row => !row.hidden)"
    script = f"return {shown}.map(row => [...row.cells].map(cell => cell.innerText))"
    return [[cell.strip() for cell in row] for row in driver.execute_script(script, f"#{table} tbody tr")]


def heading(driver: WebDriver, number: int, table: str = "table") -> WebElement:
    return driver.find_elements(By.CSS_SELECTOR, f"#{table} thead th button")[number]


def column(driver: WebDriver, number: int) -> list[float]:
    script = "return [...document.querySelectorAll('#table tbody tr')].map(r => r.cells[arguments[0]].dataset.v)"
    return [float(value) for value in driver.execute_script(script, number) if value]


def test_no_error_and_no_request_leaves_the_page(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    for button in driver.find_elements(By.CSS_SELECTOR, "thead button"):
        button.send_keys(Keys.ENTER)
    driver.find_element(By.ID, "next").click()
    assert driver.get_log("browser") == []
    assert requests(driver) == {page.as_uri()}


def test_the_policy_stops_what_is_not_of_the_page(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'https://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert driver.execute_script("return window.ran") is None
    blocked = " ".join(entry["message"] for entry in driver.get_log("browser"))
    assert blocked.count("Content Security Policy") >= 2


def test_headings_sort_by_value_and_turn_round_by_keyboard_too(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    heading(driver, 2).click()
    values = column(driver, 2)
    assert values == sorted(values)
    assert len(values) > 5
    assert rows(driver)[-1][2].startswith("N/A")
    heading(driver, 2).send_keys(Keys.ENTER)
    assert column(driver, 2) == sorted(values, reverse=True)
    assert rows(driver)[-1][2].startswith("N/A")
    assert driver.find_elements(By.CSS_SELECTOR, "#table th")[2].get_attribute("aria-sort") == "descending"
    heading(driver, 0).click()
    names = [row[0] for row in rows(driver)]
    assert names == sorted(names)


def test_rows_and_columns_are_filtered(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    every = rows(driver)
    box = driver.find_element(By.ID, "filter")
    box.send_keys("METHOD-3")
    assert [row[0] for row in rows(driver)] == ["method-3"]
    assert driver.find_element(By.ID, "shown").text == f"1 of {len(every)} rows"
    box.send_keys(Keys.BACKSPACE * 8)
    driver.find_element(By.ID, "controls").click()
    assert len(rows(driver)) == 9
    Select(driver.find_element(By.ID, "metric")).select_by_visible_text("stability")
    shown = [head for head in driver.find_elements(By.CSS_SELECTOR, "#table thead th") if head.is_displayed()]
    assert len(shown) == 4
    assert "[" in driver.find_element(By.CSS_SELECTOR, "#table tbody").text
    driver.find_element(By.ID, "intervals").click()
    assert "[" not in driver.find_element(By.CSS_SELECTOR, "#table tbody").text


def test_drill_down_shows_one_image_or_one_method(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    data = json.loads(driver.find_element(By.ID, "data").get_attribute("textContent") or "")
    pick = Select(driver.find_element(By.ID, "pick"))
    assert len(pick.options) == 40
    assert driver.find_elements(By.CSS_SELECTOR, "#picture img")
    driver.find_element(By.ID, "next").click()
    assert pick.first_selected_option.text == "0001"
    first = data["columns"][0]
    expected = [str(scores[1]) if scores else "-" for scores in first["scores"]]
    assert [row[1] for row in rows(driver, "drill")] == expected
    Select(driver.find_element(By.ID, "by")).select_by_visible_text("images, by one method")
    assert len(rows(driver, "drill")) == 40
    assert [row[1] for row in rows(driver, "drill")][:3] == [str(v) for v in first["scores"][0][:3]]
    heading(driver, 1, "drill").click()
    values = [float(row[1]) for row in rows(driver, "drill") if row[1] != "NaN"]
    assert values == sorted(values)


def test_curves_are_switched_on_and_off(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    boxes = driver.find_elements(By.CSS_SELECTOR, ".legend input")
    visible = lambda: len(driver.find_elements(By.CSS_SELECTOR, ".series:not([hidden])"))  # noqa: E731
    before = visible()
    assert before == sum(box.is_selected() for box in boxes)
    boxes[0].send_keys(Keys.SPACE)
    assert visible() == before - 1


def test_hostile_text_stays_text(driver: WebDriver, hostile: Path) -> None:
    opened(driver, hostile)
    visible = " ".join(HOSTILE.replace("\x1b", " ").split())
    assert driver.find_element(By.TAG_NAME, "h1").get_attribute("textContent") == visible
    assert driver.execute_script("return window.pwned") is None
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 2
    assert driver.find_elements(By.CSS_SELECTOR, "img, iframe, object, [onerror], [onload], b b") == []
    assert rows(driver)[0][0].startswith(visible[:20])
    assert Select(driver.find_element(By.ID, "pick")).first_selected_option.text.startswith(visible[:20])
    assert driver.get_log("browser") == []
    assert requests(driver) == {hostile.as_uri()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(driver: WebDriver, page: Path, scheme: str) -> None:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened(driver, page)
    script = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.backgroundColor]"

    def luminance(colour: str) -> float:
        channels = [int(c) / 255 for c in colour.strip("rgba()").split(",")[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for selector in ("body", "#table td.best", "tr.control td", "#table thead th"):
        ink, paper = (luminance(colour) for colour in driver.execute_script(script, selector))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector
    dark = luminance(driver.execute_script(script, "body")[1]) < 0.1
    assert dark == (scheme == "dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone_scrolls_tables_not_the_page(driver: WebDriver, page: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    opened(driver, page)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print_shows_everything_that_is_folded(driver: WebDriver, page: Path) -> None:
    opened(driver, page)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert driver.find_elements(By.CSS_SELECTOR, "details:not([open])") == []
