"""Keys: what may be written, what a read may mean, and that no spelling leaves its folder."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from butai.assets import keys, letters
from butai.assets import names as names_of_files
from butai.assets.kinds import AssetType, Sidecar
from butai.assets.letters import BIDI_CONTROLS
from butai.errors import KeyInvalid, TypeUnsupported

names = (
    st.text(
        st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="/\\"),
        min_size=1,
        max_size=40,
    )
    .filter(lambda name: not BIDI_CONTROLS & set(name))
    .filter(lambda name: letters.normalized(name) not in ("", ".", ".."))
)


@given(names)
@example("100%dance")
@example("50%Faktor +")
def test_any_name_reads_back_as_browsers_spell_it(name: str) -> None:
    key = keys.parse(f"vrm/{name}.vrm").text
    for spelled in (quote(key, safe=""), quote(key), quote(quote(key, safe=""), safe="")):
        assert key in keys.readings(spelled)
    # As a form would: a space is a plus, a plus is %2B.
    assert key in keys.readings(quote(key, safe=" ").replace(" ", "+"))


@given(st.text(max_size=60))
def test_no_spelling_yields_a_key_that_climbs(raw: str) -> None:
    try:
        found = keys.readings(raw)
    except KeyInvalid:
        return
    for key in found:
        assert not key.startswith("/")
        assert "\0" not in key
        assert ".." not in key.split("/")
        assert key.partition("/")[0] in keys.PREFIXES or key.startswith("AvatarSample_")


@given(st.text(max_size=60))
def test_a_written_key_is_refused_or_well_formed(text: str) -> None:
    try:
        key = keys.parse(text)
    except (KeyInvalid, TypeUnsupported):
        return
    assert key.text.startswith(key.stem)
    assert key.name


@pytest.mark.parametrize(
    ("text", "kind", "sidecar", "stem"),
    [
        ("vrm/A.vrm", AssetType.VRM, None, "vrm/A"),
        ("models/x/A.GLB", AssetType.VRM, None, "models/x/A"),
        ("fbx/walk.fbx", AssetType.ANIMATION, None, "fbx/walk"),
        ("vrm/A_thumb.png", AssetType.VRM, Sidecar.THUMB, "vrm/A"),
        ("vrm/A_meta.json", AssetType.VRM, Sidecar.META, "vrm/A"),
        ("animations/B_thumb.JPG", AssetType.ANIMATION, Sidecar.THUMB, "animations/B"),
        ("AvatarSample_Q.vrm", AssetType.VRM, None, "AvatarSample_Q"),
        ("AvatarSample_Q_thumb.png", AssetType.VRM, Sidecar.THUMB, "AvatarSample_Q"),
        ("vrm/two.dots.vrm", AssetType.VRM, None, "vrm/two.dots"),
    ],
)
def test_what_a_key_says(text: str, kind: AssetType, sidecar: Sidecar | None, stem: str) -> None:
    key = keys.parse(text)
    assert (key.kind, key.sidecar, key.stem) == (kind, sidecar, stem)


@pytest.mark.parametrize("text", ["vrm/.vrm", "vrm/a.", "vrm/a.fbx", "bgm/a.vrm", "vrm/_thumb.png", "vrm/a.json"])
def test_extensions_that_a_list_does_not_keep(text: str) -> None:
    with pytest.raises(TypeUnsupported):
        keys.parse(text)


@given(names)
def test_a_public_key_keeps_the_ending_and_the_limits_and_is_no_wanted_key(name: str) -> None:
    for text in (f"vrm/{name}.vrm", f"vrm/{name}_thumb.png", "vrm/" + "舞" * 83 + ".vrm", "vrm/" + "x" * 251 + ".vrm"):
        try:
            key = keys.parse(text)
        except KeyInvalid:
            continue
        other = keys.parse(names_of_files.mint(key))
        assert names_of_files.is_public(other.text)
        assert other.text != key.text
        assert (other.kind, other.sidecar, other.extension) == (key.kind, key.sidecar, key.extension)
        # There is room for each sidecar beside it.
        for suffix in ("_thumb.jpeg", "_meta.json") if key.sidecar is None else ():
            beside = keys.parse(names_of_files.stem_of(other.text) + suffix)
            assert names_of_files.is_public(beside.text) and beside.stem == names_of_files.stem_of(other.text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("vrm/a.vrm", "vrm/a.vrm"),
        ("vrm/a~k3v9q2ma.vrm", "vrm/a.vrm"),
        ("vrm/a~k3v9q2ma~k3v9q2mb.VRM", "vrm/a.VRM"),
        ("vrm/a~k3v9q2ma_thumb.png", "vrm/a_thumb.png"),
        ("vrm/a~k3v9q2ma_META.json", "vrm/a_META.json"),
        ("vrm/a~k3v9q2m.vrm", "vrm/a~k3v9q2m.vrm"),
        ("vrm/a~personal.vrm", "vrm/a~personal.vrm"),
        ("vrm/a~k3v9q2ma.b.vrm", "vrm/a~k3v9q2ma.b.vrm"),
        ("vrm/~k3v9q2ma.vrm", "vrm/~k3v9q2ma.vrm"),
        ("AvatarSample_A~k3v9q2ma.vrm", "AvatarSample_A.vrm"),
    ],
)
def test_tags_are_told_from_names(text: str, plain: str) -> None:
    assert names_of_files.plain(text) == plain
    assert names_of_files.is_public(text) == (text != plain)


@pytest.mark.parametrize("text", ["vrm/%2e%2e/x.vrm", "vrm/%00.vrm", "vrm/a/%2E/b.vrm", "vrm/x%5c..%5cy.vrm"])
def test_a_key_that_its_own_url_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(KeyInvalid):
        keys.parse(text)


@given(names)
def test_the_first_reading_of_its_own_url_is_the_key(name: str) -> None:
    try:
        key = keys.parse(f"vrm/{name}.vrm").text
    except KeyInvalid:
        return
    assert keys.readings(keys.encoded(key))[0] == key
