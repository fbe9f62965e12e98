"""Keys in the wrong field: they are moved to where they belong, or refused, and never shown."""

from __future__ import annotations

import pytest

from butai.relay.rtmp.addresses import AddressInvalid
from butai.relay.rtmp.connection import Target
from butai.relay.rtmp.hidden import MARKS, as_typed, complete, from_whole_url, hidden_parts, sealed_text, separate
from butai.relay.rtmp.preflight import bandwidth_test

KEY = "abcd-efgh-ijkl-mnop-qrst"
HEX = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("url", "key", "shown", "moved"),
    [
        ("rtmp://x/live", KEY, "rtmp://x/live", KEY),
        ("rtmp://x/live/", KEY, "rtmp://x/live", KEY),
        # At the end of the path.
        (f"rtmp://x/live/{KEY}", KEY, "rtmp://x/live", KEY),
        (f"rtmp://x/live/{KEY}", "", "rtmp://x/live", KEY),
        (f"rtmp://x/live/{KEY}?a=1", "", "rtmp://x/live", f"{KEY}?a=1"),
        (f"rtmp://x/{KEY}", KEY, "rtmp://x", KEY),
        (f"rtmp://x/{KEY}", "", "rtmp://x/***", ""),
        (f"rtmp://x/live/{KEY}", "other", "rtmp://x/live/***", "other"),
        (f"rtmps://x:2935/live/{HEX}", "default", "rtmps://x:2935/live/***", "default"),
        (f"rtmp://x/live/live_123_{KEY}/a", "name", "rtmp://x/live/***", "name"),
        # In the query.
        ("rtmp://x/mystream?user=me&pass=p/w", "", "rtmp://x/mystream?***", ""),
        ("rtmp://x/live?token=abc", "name", "rtmp://x/live?***", "name"),
        (f"rtmp://x/live?backup=1/{KEY}", "", "rtmp://x/live?backup=1", KEY),
        # What is none.
        ("rtmps://b.rtmps.youtube.com:443/live2?backup=1", KEY, "rtmps://b.rtmps.youtube.com:443/live2?backup=1", KEY),
        ("rtmp://x/live/_definst_", "name", "rtmp://x/live/_definst_", "name"),
        ("rtmp://x/app-2Bq4", "name", "rtmp://x/app-2Bq4", "name"),
        ("rtmp://localhost/mystream", "", "rtmp://localhost/mystream", ""),
        ("rtmp://localhost", "mystream", "rtmp://localhost", "mystream"),
    ],
)
def test_what_belongs_to_the_key_is_moved_and_what_must_stay_is_hidden(
    url: str, key: str, shown: str, moved: str
) -> None:
    found = separate(url, key)
    assert (found.shown(MARKS[0]), found.key) == (shown, moved)
    if found.hidden:
        # The server gets exactly what the host gave.
        assert complete(shown, sealed_text(found.key, found.hidden)) == (url, key)
        assert found.hidden not in repr(found)
    assert KEY not in found.shown(MARKS[0])


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"rtmps://a.rtmps.youtube.com:443/live2/{KEY}", "another-key"),
        ("rtmp://live.twitch.tv/app/live_1_a", "live_2_b"),
        (f"rtmp://x/live?backup=1/{KEY}", "another-key"),
        (f"rtmp://me:{KEY}@x/live", "name"),
        (f"rtmp://x/live#{KEY}", "name"),
        ("rtmp://x/live?***", KEY),
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_quote(url: str, key: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        separate(url, key)
    assert KEY not in str(caught.value) and "live_" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "default", "found"),
    [
        (None, KEY, "", (None, KEY)),
        (None, f"rtmp://x:1936/live/{KEY}", "", ("rtmp://x:1936/live", KEY)),
        (None, f"rtmp://x/live/{KEY}?a=1", "", ("rtmp://x/live", f"{KEY}?a=1")),
        (None, f"rtmp://x/live2?backup=1/{KEY}", "", ("rtmp://x/live2?backup=1", KEY)),
        # A signature in base64.
        (None, "rtmp://x/live/name?token=ab/cd==", "", ("rtmp://x/live", "name?token=ab/cd==")),
        ("rtmp://x/live", "rtmp://x/live/name?token=ab/cd==", "", ("rtmp://x/live", "name?token=ab/cd==")),
        (None, f"rtmp://x/live2?backup=1/{KEY}?sig=a/b", "", ("rtmp://x/live2?backup=1", f"{KEY}?sig=a/b")),
        ("rtmp://x/live", f"rtmp://x/live/{KEY}", "", ("rtmp://x/live", KEY)),
        (None, f"rtmp://a.rtmp.youtube.com/live2/{KEY}", "rtmps://a.rtmps.youtube.com:443/live2", (None, KEY)),
        (
            None,
            "rtmp://live.twitch.tv/app/live_1_a",
            "rtmps://i.global-contribute.live-video.net/app",
            (None, "live_1_a"),
        ),
        (None, "name?callback=https://x", "", (None, "name?callback=https://x")),
        (None, f"RTMP://X:1936/live/{KEY}", "", ("rtmp://X:1936/live", KEY)),
        (None, f"rtmps://[2001:db8::1]:443/live/{KEY}", "", ("rtmps://[2001:db8::1]:443/live", KEY)),
        (None, f"rtmp://x/app/{KEY}?a=b/c", "", ("rtmp://x/app", f"{KEY}?a=b/c")),
        (None, "rtmp://x/live/a%2Fb", "", ("rtmp://x/live", "a%2Fb")),
        (
            None,
            f"rtmps://b.rtmps.youtube.com:443/live2?backup=1/{KEY}",
            "rtmps://a.rtmps.youtube.com:443/live2",
            (None, KEY),
        ),
        (
            None,
            "rtmp://x/live-bvc/?streamname=live_1_2&key=ab",
            "",
            ("rtmp://x/live-bvc", "?streamname=live_1_2&key=ab"),
        ),
        # Copied without its scheme.
        (None, f"a.rtmps.youtube.com/live2/{KEY}", "rtmps://a.rtmps.youtube.com:443/live2", (None, KEY)),
        ("rtmp://x/live", f"x:1935/live/{KEY}", "", ("rtmp://x/live", KEY)),
        ("rtmp://x/live", f"x/live/{KEY}", "", ("rtmp://x/live", KEY)),
        ("rtmp://x/live", f"xyz/{KEY}", "", ("rtmp://x/live", f"xyz/{KEY}")),
        # A host of one word, as of a container, and a key that begins with it.
        ("rtmp://live/app", "live/cam1", "", ("rtmp://live/app", "live/cam1")),
        ("rtmp://x/app", "rtmp://x/app/stream/?token=ab", "", ("rtmp://x/app", "stream?token=ab")),
    ],
)
def test_a_whole_url_as_the_key_is_taken_apart(
    url: str | None, key: str, default: str, found: tuple[str | None, str]
) -> None:
    assert from_whole_url(url, key, default) == found


@pytest.mark.parametrize(
    ("url", "key", "default"),
    [
        ("rtmp://x/live", f"rtmp://y/live/{KEY}", ""),
        ("rtmp://x/live", f"rtmp://x/other/{KEY}", ""),
        (None, f"rtmp://x/{KEY}", ""),
        (None, f"rtmp://y/live2/{KEY}", "rtmps://a.rtmps.youtube.com:443/live2"),
        (None, f"https://x/live/{KEY}", ""),
        (None, f"rtmp:\\\\x\\live\\{KEY}", ""),
        (None, f"rtmp:/x/live/{KEY}", ""),
        (None, f"rtmp://x/live/{KEY}#a", ""),
        ("rtmp://x.example/live", f"x.example/other/{KEY}", ""),
        ("rtmp://x/live", f"x:1935/other/{KEY}", ""),
        (None, f"rtmp://me:{KEY}@x/live/a", ""),
    ],
)
def test_a_url_that_cannot_be_the_key_is_refused_without_a_quote(url: str | None, key: str, default: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        from_whole_url(url, key, default)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("pasted", "typed"),
    [
        (f" {KEY}\r\n", KEY),
        (f"\ufeff{KEY[:9]}\u200b{KEY[9:]}\u00a0", KEY),
        ("rtmp://x/live\u2060\n", "rtmp://x/live"),
        # What can be seen stays, and is refused.
        (f"{KEY[:9]} {KEY[9:]}", f"{KEY[:9]} {KEY[9:]}"),
    ],
)
def test_what_cannot_be_seen_of_a_pasted_text_is_left_out(pasted: str, typed: str) -> None:
    assert as_typed(pasted) == typed


def test_each_of_two_urls_has_its_own_hidden_part() -> None:
    secret = sealed_text(KEY, "token=a", "token=b")
    assert complete("rtmp://x/live?***", secret) == ("rtmp://x/live?token=a", KEY)
    assert complete("rtmp://y/live?***2", secret) == ("rtmp://y/live?token=b", KEY)
    assert complete("rtmp://z/live", secret) == ("rtmp://z/live", KEY)
    assert hidden_parts(secret) == (KEY, "token=a", "token=b")
    assert (sealed_text(KEY), hidden_parts(KEY)) == (KEY, (KEY, "", ""))


def test_a_target_connects_to_the_whole_url_and_shows_no_secret() -> None:
    target = Target("rtmp://x/mystream?***", sealed_text("", "user=me&pass=canary-pass", ""))
    assert (target.address().app, target.stream_key) == ("mystream?user=me&pass=canary-pass", "")
    assert "canary" not in repr(target)


@pytest.mark.parametrize(
    ("key", "tested"),
    [
        ("live_1_a", "live_1_a?bandwidthtest=true"),
        ("live_1_a?token=x", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a?bandwidthtest=false&token=x", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a?token=x&BandwidthTest=0", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a?", "live_1_a?bandwidthtest=true"),
        ("live_1_a?bandwidthtest=true&bandwidthtest=true", "live_1_a?bandwidthtest=true"),
        ("live_1_a?token=x&%62andwidthtest=false", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a?token=x;bandwidthtest=false", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a?token=x?bandwidthtest=false", "live_1_a?bandwidthtest=true&token=x"),
        ("live_1_a#part", "live_1_a?bandwidthtest=true"),
        ("live_1_a\ntoken=a\n", "live_1_a?bandwidthtest=true\ntoken=a\n"),
    ],
)
def test_twitchs_test_is_never_an_ordinary_publish(key: str, tested: str) -> None:
    assert bandwidth_test(Target("rtmp://x/app", key)).key == tested
