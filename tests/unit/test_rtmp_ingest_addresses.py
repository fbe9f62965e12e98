"""Ingest URLs and stream keys that can be, and the IP addresses that may be connected to."""

from __future__ import annotations

import pytest

from butai.relay.rtmp.addresses import AddressInvalid, check_key, check_pair, is_forbidden, is_private, parse


@pytest.mark.parametrize(
    "url",
    [
        *("http://x/live", "rtmp:///live", "rtmp://", "rtmp://u:p@x/live", "rtmp://x:0/live"),
        *("rtmp://x:99999/live", "rtmp://x/live#a", "rtmp://x/li ve", "rtmp://x/live\r\n", "", "rtmp://" + "x" * 3000),
        *("rtmp://[::1/live", "rtmp://é/live", "rtmp://x/\x00"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(AddressInvalid):
        parse(url)


def test_addresses_have_ports_and_queries() -> None:
    assert (parse("rtmp://x/live").port, parse("rtmps://x/app").port) == (1935, 443)
    assert parse("rtmp://[::1]:5/live").url == "rtmp://[::1]:5/live"
    assert parse("rtmps://b.rtmps.youtube.com:443/live2?backup=1").app == "live2?backup=1"


@pytest.mark.parametrize("url", ["rtmp://x", "rtmp://x/"])
def test_a_server_without_applications_needs_a_key(url: str) -> None:
    assert check_pair(url, "mystream").app == ""
    assert parse(url).url == "rtmp://x:1935/"
    with pytest.raises(AddressInvalid):
        check_pair(url, "")


def test_a_url_that_names_the_stream_needs_no_key() -> None:
    assert check_pair("rtmp://localhost/mystream", "").app == "mystream"


def test_the_address_that_kick_shows_has_amazons_application() -> None:
    assert parse("rtmps://fa723fc1b171.global-contribute.live-video.net").app == "app"
    assert parse("rtmps://fa723fc1b171.global-contribute.live-video.net/app").app == "app"


def test_a_key_has_up_to_two_thousand_letters() -> None:
    check_key("k" * 2000)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "k" * 2001, "é"])
def test_a_key_that_cannot_be_is_refused(key: str) -> None:
    with pytest.raises(AddressInvalid):
        check_key(key)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((one, True) for one in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0")),
        *((one, True) for one in ("::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "ff02::1", "100.64.0.1")),
        *((one, True) for one in ("64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "nonsense")),
        *((one, True) for one in ("::7f00:1", "fec0::1", "64:ff9b:1::808:808", "::ffff:0:7f00:1", "2001:db8::1")),
        *((one, False) for one in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
    ],
)
def test_private_addresses_are_known_in_every_spelling(address: str, private: bool) -> None:
    assert is_private(address) is private


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        *((one, True) for one in ("169.254.169.254", "169.254.0.1", "169.254.170.2", "168.63.129.16", "fe80::1%eth0")),
        *((one, True) for one in ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "febf::1")),
        *((one, True) for one in ("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "::a9fe:a9fe")),
        *((one, True) for one in ("64:ff9b:1::a9fe:a9fe", "::ffff:0:a9fe:a9fe", "::ffff:168.63.129.16", "nonsense")),
        *(
            (one, False)
            for one in ("127.0.0.1", "::1", "10.0.0.1", "192.168.1.9", "fd00::1", "8.8.8.8", "168.63.129.17")
        ),
    ],
)
def test_what_is_never_connected_to_is_known_in_every_spelling(address: str, forbidden: bool) -> None:
    assert is_forbidden(address) is forbidden
