"""What a failed publish is called, and that no text tells the key."""

from __future__ import annotations

import pytest

from butai.relay.rtmp.connection import Target, follow
from butai.relay.rtmp.failures import Redirected, closed, redact, refused
from butai.relay.rtmp.session import PublishRefused

KEY = "canary-5b7e-key"


@pytest.mark.parametrize(
    ("word", "said", "step", "code"),
    [
        ("NetStream.Publish.BadName", "Already publishing", "publish", "already_publishing"),
        ("NetStream.Publish.BadName", "", "publish", "key_rejected"),
        ("NetStream.Publish.Denied", "", "publish", "key_rejected"),
        ("NetConnection.Connect.Rejected", "[ AccessManager.Reject ] : auth failed", "connect", "key_rejected"),
        ("NetConnection.Connect.Rejected", "too busy", "connect", "destination_unreachable"),
        ("NetConnection.Connect.Rejected", "[ code=403 need auth; authmod=adobe ] : ", "connect", "login_required"),
        ("NetConnection.Connect.Rejected", "code=403 need auth; authmod=llnw", "connect", "login_required"),
        ("NetConnection.Connect.InvalidApp", "", "connect", "invalid_destination"),
        ("NetStream.Unpublish.Success", "", "publishing", "destination_closed"),
        ("NetStream.Publish.BadName", f"no stream {KEY}", "publish", "key_rejected"),
        # A name that another session has, in the words of SRS, MediaMTX, Red5, Ant Media and others.
        ("NetStream.Publish.BadName", "Stream already publishing", "publish", "already_publishing"),
        ("NetStream.Publish.Failed", "StreamBusy", "publish", "already_publishing"),
        ("NetStream.Publish.Rejected", "duplicate stream name", "publish", "already_publishing"),
        ("NetStream.Publish.Denied", "the path is being published", "publish", "already_publishing"),
        ("NetConnection.Connect.Rejected", "Already publishing", "publish", "already_publishing"),
        # What is over is not in use.
        ("NetStream.Publish.Denied", "Your stream key has already expired", "publish", "key_rejected"),
        ("NetStream.Publish.BadName", "Already publishing; takeover is disabled", "publish", "already_publishing"),
        ("NetStream.Publish.BadName", "No such stream exists", "publish", "key_rejected"),
        ("NetStream.Publish.BadName", "no publisher exists", "publish", "key_rejected"),
        ("NetStream.Publish.BadName", "stream not being published", "publish", "key_rejected"),
        ("NetStream.Publish.BadName", "stream exists", "publish", "already_publishing"),
        ("NetConnection.Connect.Rejected", "Application live: invalid token", "connect", "key_rejected"),
        ("NetConnection.Connect.Rejected", "Application live unknown", "connect", "invalid_destination"),
        ("NetConnection.Connect.Rejected", "Authorized key is too old", "publish", "key_rejected"),
        # Before the key was sent, it is not what is wrong.
        ("close", "", "connect", "destination_closed"),
        ("_error", "", "connect", "destination_unreachable"),
        ("NetConnection.Connect.Closed", "", "connect", "destination_closed"),
        ("NetConnection.Connect.AppShutdown", "", "connect", "destination_closed"),
        (
            "NetConnection.Connect.Rejected",
            "License.Limit: the licence key is used up",
            "connect",
            "destination_unreachable",
        ),
        (
            "NetConnection.Connect.Rejected",
            "[ Server.Reject ] : (_defaultRoot_, _defaultVHost_) : Application (live2) is not defined.",
            "connect",
            "invalid_destination",
        ),
        ("NetConnection.Connect.Rejected", "Unknown application: live2", "connect", "invalid_destination"),
        # After it was sent, a refusal is one of the key, whatever its code.
        ("NetConnection.Connect.Rejected", "", "publish", "key_rejected"),
        ("NetStream.Play.StreamNotFound", "", "publish", "key_rejected"),
    ],
)
def test_status_words_have_codes_and_no_key(word: str, said: str, step: str, code: str) -> None:
    error = refused(PublishRefused(word, said), step, KEY)
    assert error.code == code
    assert KEY[:6] not in error.detail


@pytest.mark.parametrize(
    ("word", "said", "step", "code"),
    [
        ("NetStream.Publish.BadName", "", "publish", "already_publishing"),
        ("NetStream.Publish.Denied", "", "publish", "already_publishing"),
        ("NetStream.Publish.Failed", "", "publish", "destination_closed"),
        ("close", "", "publish", "destination_closed"),
        ("NetConnection.Connect.InvalidApp", "", "connect", "destination_closed"),
        # What the platform repeats of the key is no word of its own.
        ("NetStream.Publish.BadName", f"no stream {KEY}", "publish", "already_publishing"),
        ("NetStream.Publish.BadName", "Invalid stream key", "publish", None),
        ("NetStream.Publish.Unauthorized", "Authorization required.", "publish", None),
        ("NetConnection.Connect.Rejected", "auth failed", "connect", None),
        # Neither the key nor a word of it.
        ("NetStream.Publish.Failed", "Keyframe interval is too long", "publish", "destination_closed"),
        ("NetStream.Publish.Rejected", "key-frame interval above 4 s", "publish", "destination_closed"),
        ("NetStream.Publish.Failed", "the author is offline", "publish", "destination_closed"),
        ("NetConnection.Connect.Rejected", "", "publish", "destination_closed"),
        ("NetStream.Publish.Denied", "This channel is suspended", "publish", None),
    ],
)
def test_a_key_that_worked_is_refused_only_by_words_that_name_it(
    word: str, said: str, step: str, code: str | None
) -> None:
    assert refused(PublishRefused(word, said), step, KEY).if_key_worked == code


def test_a_refusal_right_after_the_start_is_read_by_its_words() -> None:
    """Some servers start a publish and look the key up then."""
    named = PublishRefused("NetStream.Publish.BadName", "Invalid stream key")
    taken = PublishRefused("NetStream.Publish.BadName", "Stream already publishing")
    assert refused(named, "publishing", KEY, acknowledged=False).code == "key_rejected"
    assert refused(taken, "publishing", KEY, acknowledged=False).code == "already_publishing"
    over = refused(PublishRefused("NetStream.Unpublish.Success", ""), "publishing", KEY, acknowledged=False)
    assert (over.code, over.if_key_worked) == ("key_rejected", "destination_closed")
    assert refused(named, "publishing", KEY, acknowledged=True).code == "destination_closed"
    # One that began is not continued elsewhere: the next attempt is told where.
    elsewhere = PublishRefused("NetConnection.Connect.Rejected", "", "rtmp://y/live")
    assert refused(elsewhere, "publishing", KEY, acknowledged=False).code == "destination_closed"


def test_hanging_up_on_a_key_that_worked_is_a_closed_connection() -> None:
    assert closed("publish", acknowledged=False).if_key_worked == "destination_closed"
    assert closed("publishing", acknowledged=False).if_key_worked == "destination_closed"
    assert closed("publishing", acknowledged=True).if_key_worked is None


def test_a_close_means_what_came_before_it() -> None:
    assert closed("handshake", acknowledged=False).code == "destination_closed"
    assert closed("connect", acknowledged=False).code == "destination_closed"
    assert closed("publish", acknowledged=False).code == "key_rejected"
    assert closed("publishing", acknowledged=False).code == "key_rejected"
    assert closed("publishing", acknowledged=True).code == "destination_closed"


def test_words_with_a_piece_of_the_key_are_not_repeated() -> None:
    assert redact(f"bad name {KEY[3:10]}", KEY) == "[the platform's text contains the key]"
    assert redact("bad\r\nname", KEY) == "bad  name"
    hidden = "[the platform's text contains the key]"
    for echo in (KEY.upper(), KEY.replace("-", "%2D"), KEY[:9] + "\n" + KEY[9:], "x" * 296 + KEY, KEY[-6:]):
        assert redact(f"no such stream: {echo}", KEY) == hidden
    both = f"{KEY}\nuser=me&pass=canary-pass-11\n"
    assert redact("no stream canary-pass-11", both) == redact(f"no {KEY}", both) == hidden
    assert redact("no such stream", "\nuser=me\n") == "no such stream"
    # A key that is percent-encoded itself, and said decoded.
    encoded = "name?sig=%41b%2Fc%2Bd%3D%3D"
    for echo in (encoded, "sig=Ab/c+d==", "b/c+d=", "SIG%3DAB/C"):
        assert redact(f"no such stream: {echo}", encoded) == redact(echo, f"\n{encoded}\n") == hidden
    error = refused(PublishRefused("NetStream.Publish.BadName", KEY), "publish", KEY)
    assert error.detail == f"NetStream.Publish.BadName: {hidden}"


def test_what_a_key_says_percent_encoded_is_no_word_of_the_platform() -> None:
    said = PublishRefused("NetStream.Publish.Denied", "no stream name?already=1")
    assert refused(said, "publish", "name%3Falready%3D1").code == "key_rejected"


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("rtmp://edge.example/live?sig=edge-secret-1", "to edge.example"),
        ("rtmp://edge.example:1936/edge-secret-1/a", "to edge.example"),
        ("rtmp://edge-secret-1@edge.example/live", "to edge.example"),
        ("rtmp://[edge-secret-1/live", "to another server"),
        ("edge-secret-1", "to another server"),
        (f"rtmp://{KEY}/live", "to [the platform's text contains the key]"),
    ],
)
def test_of_a_redirect_only_the_host_is_shown(to: str, shown: str) -> None:
    description = f"RTMP 302 Redirect {to}"
    error = refused(PublishRefused("NetConnection.Connect.Rejected", description, to), "connect", KEY)
    assert isinstance(error, Redirected) and error.url == to
    assert error.detail == f"NetConnection.Connect.Rejected: {shown}"


def test_a_server_that_was_named_shows_neither_the_first_ones_secrets_nor_its_own() -> None:
    first = Target("rtmp://x/live?***", f"{KEY}\ntoken=first-secret-9a\n")
    second = follow(first, Redirected("rtmp://y/live/sk_other-name?sig=new-sig-7c", ""))
    for echo in (KEY, "first-secret-9a", "new-sig-7c", "sk_other-na"):
        assert echo not in refused(PublishRefused("close", f"bad {echo}"), "publish", second.secrets).detail
    said = PublishRefused("close", "no application live on y")
    assert refused(said, "publish", second.secrets).detail == "close: no application live on y"


@pytest.mark.parametrize(
    ("url", "key", "to", "found"),
    [
        ("rtmp://x/live", KEY, "rtmp://y/live", "rtmp://y:1935/live"),
        ("rtmp://x/live", KEY, "rtmps://y:444/other?vhost=v", "rtmps://y:444/other?vhost=v"),
        # SRS before 3.0 names the stream with its parameters.
        ("rtmp://x/live", f"{KEY}?a=1", f"rtmp://y/live/{KEY}?a=1", "rtmp://y:1935/live"),
        ("rtmp://x/live?***", f"{KEY}\ntoken=a\n", "rtmp://y/live", "rtmp://y:1935/live"),
        ("rtmps://x/live", KEY, "rtmp://y/live", None),
        ("rtmp://x/live", KEY, "http://y/live", None),
        ("rtmp://x/live", KEY, "rtmp://u:p@y/live", None),
    ],
)
def test_a_redirect_is_followed_with_the_key_but_not_out_of_tls(url: str, key: str, to: str, found: str | None) -> None:
    target, redirect = Target(url, key, True), Redirected(to, "")
    if found is None:
        with pytest.raises(Redirected):
            follow(target, redirect)
    else:
        assert follow(target, redirect) == Target(found, key.split("\n", maxsplit=1)[0], True)
