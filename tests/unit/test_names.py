"""What a key names, decided without a database."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from butai.assets import names
from butai.assets.names import Candidate, Companion, Via

RESERVED = ("AvatarSample_*",)

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from(("vrm/a.vrm", "vrm/b.vrm", "AvatarSample_A.vrm")),
        place=st.integers(1, 3),
        via=st.sampled_from(Via),
        ended=st.booleans(),
        readable=st.booleans(),
        file=st.sampled_from(("x", "y")),
    ),
    max_size=6,
)


@given(candidates)
def test_ones_own_file_comes_first_in_every_state_and_spelling(found: list[Candidate[str]]) -> None:
    chosen = names.choose(found, RESERVED)
    own = [one for one in found if one.via is Via.OWN and not (one.ended and one.name.startswith("Avatar"))]
    if own:
        assert chosen is not None and chosen.via is Via.OWN and chosen.place == min(one.place for one in own)
    else:
        assert chosen is None or (chosen.via is not Via.OWN and chosen.readable)


@given(candidates)
def test_a_plain_name_is_its_holders_alone(found: list[Candidate[str]]) -> None:
    chosen = names.choose(found, RESERVED)
    if chosen is None or chosen.via in (Via.OWN, Via.PUBLIC):
        return
    plain = [one for one in found if one.via > Via.PUBLIC]
    counts = [one for one in plain if one.via is Via.STUDIO or not one.name.startswith("Avatar")]
    first = min(one.place for one in counts)
    assert chosen.place == first
    assert chosen.via == min(one.via for one in counts if one.place == first)


def test_a_sidecar_is_put_beside_the_file_that_needs_it() -> None:
    def file(**about: object) -> Companion:
        return Companion(**{"live": True, "private": True, "has": None, "created": 1.0, **about})  # pyright: ignore[reportArgumentType]

    order = [
        file(created=2.0),
        file(),
        file(private=False, created=3.0),
        file(has="derived"),
        file(has="uploaded"),
        file(has="uploaded", private=False, created=9.0),
        file(live=False),
    ]
    backwards = order[::-1]
    assert sorted(backwards, key=names.precedence) == order
