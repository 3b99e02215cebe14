"""Numbers, times and other people's text as a person reads them, in pages and in Markdown."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from appliance.texts import markdown as md
from appliance.texts.pages import coded, foreign, foreign_block
from appliance.texts.wording import clip, duration, loss, moment, moment_iso, plural, rate, sentence, size, visible
from tests.page_reader import read_page

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)
MARKUP = st.text("<>&`*_[]()!#~|\\-=+1. \n\tabc:/\"'", max_size=60)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (4320, "1 h 12 min"),
        (86_400, "1 d"),
        (187_200, "2 d 4 h"),
        (90_000_000, "1041 d 16 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (13_240_000, "13.2 MB"),
        (128e9, "128 GB"),
        (3.4e12, "3.4 TB"),
    ],
)
def test_sizes_are_decimal(count, words):
    assert size(count) == words


def test_losses_and_rates_keep_the_digits_that_mean_something():
    assert [loss(value) for value in (None, 0, 2.3141, 0.01234)] == ["–", "0.000", "2.314", "0.012"]
    assert [rate(value) for value in (None, 1942.3, 4.512, 0.0512)] == ["–", "1,942", "4.51", "0.0512"]


def test_numbers_agree_with_their_noun():
    assert [plural(number, "row") for number in (0, 1, 7473)] == ["0 rows", "1 row", "7,473 rows"]
    assert plural(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("the disk is full", "The disk is full."),
        ("what now?", "What now?"),
        ("failed: it broke", "Failed: it broke."),
        ("lora.r is 0", "lora.r is 0."),
        ("`lora.r` is 0", "`lora.r` is 0."),
    ],
)
def test_a_message_becomes_a_sentence(text, said):
    assert sentence(text) == said


def test_a_moment_has_its_zone_in_summer_and_in_winter():
    berlin = ZoneInfo("Europe/Berlin")

    assert moment(1_790_000_000, berlin) == "2026-09-21 16:13 CEST"
    assert moment(1_800_000_000, berlin) == "2027-01-15 09:00 CET"
    assert moment_iso(1_790_000_000, berlin) == "2026-09-21T16:13:20+02:00"
    assert len(moment(1_790_000_000, None).split(" ")) == 3


def test_what_hides_or_reorders_text_is_spelled_out():
    assert visible("photo\u202egnp.exe") == r"photo\u202egnp.exe"
    assert visible("a\nb\x1b[31m\udcff\ufeff") == r"a\nb\x1b[31m\udcff\ufeff"
    assert visible("Grüße, 你好, שלום") == "Grüße, 你好, שלום"


def test_clipped_text_says_so():
    assert clip("abc", 3) == "abc"
    assert clip("abcd", 3) == "ab…"


@given(ANY_TEXT | MARKUP)
def test_any_text_on_a_page_stays_text(text):
    for write in (foreign, coded, foreign_block):
        page = read_page(f"<p>{write(text)}</p>")
        assert {element.tag for element in page.elements} <= {"p", "bdi", "code"}
        assert page.unclosed == []
        str(write(text)).encode()


@given(ANY_TEXT | MARKUP)
def test_any_text_in_markdown_stays_text(text):
    for write in (md.plain, md.code, md.prose):
        shown = read_page(MarkdownIt("commonmark", {"html": True}).render(write(text)))
        assert {element.tag for element in shown.elements} <= {"p", "code"}
        shown.text.encode()
    assert "".join(read_page(MarkdownIt().render(md.plain(text))).text.split()) == "".join(visible(text).split())


@given(ANY_TEXT | MARKUP)
def test_any_text_fits_into_a_code_block(text):
    shown = read_page(MarkdownIt("commonmark", {"html": True}).render(md.block(visible(text))))

    assert [element.tag for element in shown.elements] == ["pre", "code"]


def test_backticks_mark_what_a_person_would_type():
    assert coded("set `lora.r` to 8") == "<bdi>set <code>lora.r</code> to 8</bdi>"
    assert coded("a ` alone") == "<bdi>a ` alone</bdi>"
    assert md.prose("set `lora.r` to *8*") == r"set `lora.r` to \*8\*"
