"""What went wrong on the page once, in a real browser."""

from __future__ import annotations

import re

import pytest
from shown import Shown
from webdriver import KEYS

from conceptlens.session import Session

UNREADABLE = "龘"
"""No token of the embedded model."""
MANY = [
    f"{colour} {thing}"
    for thing in ("house", "tree", "boat", "sun")
    for colour in ["red", "blue", "green", "white", "pink", "grey"]
]


def test_a_refused_word_says_why_and_spoils_no_other(page: Shown) -> None:
    page.add(UNREADABLE)
    why = page.wait("document.querySelector('#legend .refused .why')?.textContent", "the reason")
    assert UNREADABLE in why
    page.add("tree")
    page.settle()
    assert page.shares()["tree"].endswith("%")
    assert page.js("document.getElementById('error').textContent") == ""
    page.press("#legend .refused .drop")
    assert UNREADABLE not in page.words()


def test_of_words_that_come_together_only_the_refused_ones_are_set_aside(page: Shown) -> None:
    page.add(f"tree, {UNREADABLE}, boat, {'x' * 90}")
    page.wait("document.querySelector('#legend .refused .why')?.textContent", "the reason")
    page.settle()
    assert {"tree", "boat"} <= set(page.shares())
    reasons = page.js("[...document.querySelectorAll('#legend .refused .why')].map(e => e.textContent)")
    assert len(reasons) == 2
    assert "has 90 letters; 80 are allowed" in "".join(reasons)


def test_a_word_too_many_is_said_and_not_taken(page: Shown) -> None:
    page.drop_all()
    page.add(", ".join(MANY))
    assert page.words() == MANY
    page.settle()
    page.add("moon")
    assert "24 words can be asked at once; “moon” was not added" in page.browser.text("#error")
    assert page.words() == MANY
    page.press("#legend .drop")
    page.add("moon")
    page.settle()
    assert page.words() == [*MANY[1:], "moon"]
    assert page.js("document.getElementById('error').hidden")


def test_no_two_of_many_words_have_one_colour(page: Shown) -> None:
    page.add(", ".join(MANY[:14]))
    page.settle()
    colours = page.js("[...document.querySelectorAll('#legend .colour')].map(e => e.value)")
    assert len(colours) == len(set(colours)) == 18


def test_words_typed_fast_all_stand_in_the_legend(page: Shown) -> None:
    page.drop_all()
    words = ["tree", "boat", "moon", "grass", "car"]
    script = """
        const [field, form] = [document.getElementById('word'), document.getElementById('ask')];
        for (const word of arguments[0]) {
            field.value = word;
            field.dispatchEvent(new Event('input'));
            form.requestSubmit();
        }
        return [...document.querySelectorAll('#legend .name')].map(e => e.textContent)
    """
    assert page.browser.run(script, words) == words
    page.settle()
    assert list(page.shares()) == words
    assert all(share.endswith("%") for share in page.shares().values())


def test_a_new_picture_brings_its_own_words_and_forgets_the_place(page: Shown) -> None:
    page.add("moon")
    page.wait("document.getElementById('fitting').textContent", "ranked words")
    page.point(0.5, 0.5)
    page.wait("document.querySelectorAll('#ranked li').length", "what fits")
    page.paint("a red car and a tree on sand")
    assert page.words() == ["moon", "car", "tree", "sand"]
    assert page.js("document.querySelectorAll('#ranked li').length") == 0
    assert page.js("document.getElementById('bubble').hidden && document.getElementById('mark').hidden")
    chips = page.js("[...document.querySelectorAll('#sentence .chip')].map(e => e.textContent)")
    assert chips == ["red", "car", "tree", "sand"]


def test_one_layer_alone_has_its_own_shares(page: Shown, demo: Session) -> None:
    page.paint(seed=5, steps=4)
    mean = page.shares()
    page.browser.run("document.getElementById('inside').open = true")
    page.wait("document.querySelectorAll('#strip .cell').length", "the small maps")
    page.press("#strip .cell[aria-label='layer 2, step 3']")
    page.wait("document.getElementById('alone').textContent.includes('step 3, layer 2')", "the layer alone")
    page.browser.wait(lambda: page.shares() != mean, "other shares")
    prompt = page.js("document.getElementById('prompt').value")
    live = demo.generate(prompt, list(mean), seed=5, num_inference_steps=4, steps=(3,), layers=(2,))
    places = live.refined(edges=True).places()
    # JavaScript rounds halves up.
    assert page.shares() == {word: f"{int(100 * places[word].area + 0.5)}%" for word in mean}
    page.press("#alone button")
    page.browser.wait(lambda: page.shares() == mean, "the mean again")


def test_an_over_long_prompt_is_refused_and_not_cut(page: Shown) -> None:
    long = "a red house " * 180
    page.fill("prompt", long)
    assert page.js("document.getElementById('prompt').value.length") == len(long)
    assert page.js("document.getElementById('prompt').maxLength") == -1
    assert "2160 letters; 2000 are allowed" in page.browser.text("#too-long")
    page.press("#go")
    assert "2160 letters; 2000 are allowed" in page.wait("document.getElementById('error').textContent", "the refusal")


def test_what_a_text_encoder_does_not_read_is_said(page: Shown) -> None:
    page.paint("a red house and a tree under the sun near a boat on the sea " * 6, steps=1)
    assert re.search(r"the prompt has \d+ tokens and a text encoder reads 32", page.browser.text("#notes"))


def test_on_a_phone_the_answer_to_a_tap_is_in_sight(phone: Shown) -> None:
    phone.wait("document.getElementById('fitting').textContent", "ranked words")
    for across, down in ((0.1, 0.1), (0.9, 0.2), (0.5, 0.95)):
        phone.point(across, down, touch=True)
        bubble = "const b = document.getElementById('bubble').getBoundingClientRect(); return "
        *edges, width = phone.browser.run(
            f"{bubble} [b.left, b.top, innerWidth - b.right, innerHeight - b.bottom, b.width]"
        )
        assert width > 100
        assert min(edges) >= 0, edges


def test_on_a_phone_the_picture_stays_in_sight_while_a_word_is_typed(phone: Shown) -> None:
    phone.browser.type("#word", "tree")
    phone.wait("document.querySelectorAll('#legend .draft .share').length", "the map of a half-typed word")
    top, bottom, field = phone.js(
        "[document.getElementById('canvas').getBoundingClientRect().top, "
        "document.getElementById('canvas').getBoundingClientRect().bottom, "
        "document.getElementById('word').getBoundingClientRect().top]"
    )
    assert top >= -1
    assert bottom <= field


def test_a_reload_loses_nothing(page: Shown) -> None:
    page.paint("a red car and a tree on sand", seed=5)
    page.add("sky")
    page.settle()
    page.wait("document.querySelectorAll('#gallery .thumb').length === 2", "two pictures")
    shares, canvas = page.shares(), page.canvas()
    page.open()
    page.browser.wait(lambda: page.canvas() == canvas, "the same picture with the same areas")
    assert page.shares() == shares
    assert page.js("document.getElementById('prompt').value") == "a red car and a tree on sand"
    assert page.js("document.querySelectorAll('#gallery .thumb').length") == 2
    page.press("#gallery li:nth-child(2) .thumb")
    page.browser.wait(lambda: page.words()[0] == "balloon", "the other picture")


def test_a_picture_that_the_server_forgot_is_painted_again(page: Shown) -> None:
    page.paint("a red car and a tree on sand", seed=5)
    shares = page.shares()
    page.browser.run("sessionStorage.clear()")
    page.open()
    page.add("sky")
    page.browser.wait(lambda: page.shares().get("sky"), "another word of a picture that came back")
    assert page.js("document.getElementById('error').hidden")
    page.press("#legend li:last-child .drop")
    page.browser.wait(lambda: page.shares() == shares, "the same areas")
    assert page.js("document.querySelectorAll('#gallery .thumb').length") == 2


def test_a_removed_word_can_be_brought_back(page: Shown) -> None:
    before, colours = page.words(), page.js("[...document.querySelectorAll('#legend .colour')].map(e => e.value)")
    page.press("#legend li:nth-child(2) .drop")
    page.press("#legend li:nth-child(2) .drop")
    page.settle()
    assert page.words() == [before[0], before[3]]
    assert "Removed “snow”." in page.browser.text("#removed")
    page.browser.run("document.activeElement.blur()")
    page.browser.type("body", "u")
    page.browser.type("body", "u")
    page.settle()
    assert page.words() == before
    assert page.js("[...document.querySelectorAll('#legend .colour')].map(e => e.value)") == colours
    assert page.js("document.getElementById('removed').hidden")


@pytest.mark.parametrize("view", ["heat", "areas"])
def test_the_focus_stays_where_words_are_removed(page: Shown, view: str) -> None:
    page.press(f"[data-view={view}]")
    page.browser.run("document.querySelector('#legend .drop').focus()")
    page.browser.type("#legend .drop", KEYS["enter"])
    page.settle()
    assert page.js("document.activeElement.className") == "drop"
