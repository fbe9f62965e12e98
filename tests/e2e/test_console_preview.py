"""What the console's library shows of a file in a real browser: avatars, motions, skies, scenes and music, drawn and heard."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests import avatars, files, motions
from tests.e2e.browsers import axe
from tests.e2e.consoles import (
    CANVAS,
    HAPPY,
    SHIRT,
    SKIN,
    Console,
    Jobs,
    card,
    choose,
    colours,
    drop,
    music,
    sky,
    until,
)
from tests.e2e.visitors import SCHEMES

# One browser for all of them: it takes as long to start as any of the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST_SCREEN = 250 * 1024
"""Bytes of script, compressed, before anything is asked of the page."""

SLOW_CARD = """() => {
    const { fenceSync, clientWaitSync } = WebGL2RenderingContext.prototype;
    window.card = { busy: false, pictures: 0, asked: 0 };
    WebGL2RenderingContext.prototype.fenceSync = function (...given) {
        card.pictures += 1;
        return fenceSync.apply(this, given);
    };
    WebGL2RenderingContext.prototype.clientWaitSync = function (...given) {
        card.asked += 1;
        return card.busy ? this.TIMEOUT_EXPIRED : clientWaitSync.apply(this, given);
    };
}"""
"""A graphics card that says it has not finished while `card.busy`; it counts what it is given and asked."""

LOWEST = """([source, colour]) => {
    const small = document.createElement("canvas");
    small.width = small.height = 128;
    const context = small.getContext("2d");
    context.drawImage(document.querySelector(source), 0, 0, 128, 128);
    const { data } = context.getImageData(0, 0, 128, 128);
    for (let at = data.length - 4; at >= 0; at -= 4)
        if (colour.every((part, place) => Math.abs(part - data[at + place]) < 12)) return at / data.length;
    return 0;
}"""
"""How far down a picture a colour is found, from 0 to 1."""

DRAWN = """() => {
  const one = document.querySelector(".card img");
  return one?.complete && one.naturalWidth === 512;
}"""
"""The thumbnail that was made here is there, all of it."""

MODELS = os.environ.get("BUTAI_TEST_MODELS", "")
PICTURES = os.environ.get("BUTAI_TEST_PICTURES")


def open_exr() -> bytes:
    """A panorama as OpenEXR, red everywhere, by ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=red:size=64x32", "-frames:v", "1"]
    command += ["-pix_fmt", "gbrpf32le", "-c:v", "exr", "-f", "image2pipe", "-"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


async def test_an_avatar_that_is_dropped_is_drawn_and_what_its_licence_says_is_shown(
    console: Console, run_jobs: Jobs
) -> None:
    page = await console.page()
    await drop(page, {"Figure.vrm": avatars.figure()})
    await page.wait_for_selector(".upload[data-state=done]")
    await run_jobs()
    await page.click(card("Figure"))
    await page.wait_for_selector(CANVAS)
    (skin, shirt), wide = await colours(page, CANVAS, SKIN, SHIRT)
    assert skin > 0.03, "the head is not to be seen"
    assert shirt > 0.05, "the body is not to be seen"
    assert 0.3 < wide < 1
    # Its licence, in words and not in the file's.
    await page.wait_for_selector(".term[data-part=redistribution][data-value=forbidden]")
    assert await page.inner_text(".term[data-part=redistribution] dd") == "Not allowed"
    assert await page.inner_text(".term[data-part=commercial] dd") == "Individuals, also for profit"
    facts = await page.inner_text("dl.facts")
    assert "Triangles\n204" in facts
    assert "VRM 1.0" in facts
    # An expression changes the face.
    assert (await colours(page, CANVAS, HAPPY))[0] == [0]
    await page.click(".expressions button:text-is('happy')")
    await until(lambda: colours(page, CANVAS, HAPPY), lambda found: found[0][0] > 0.02)


@pytest.mark.parametrize("url", ["/sign-in?trap", "{own}/healthz?trap", "http://trap.localhost:9/picture.png"])
async def test_a_model_that_points_at_an_address_is_shown_and_nothing_is_asked_for(
    console: Console, run_jobs: Jobs, url: str
) -> None:
    body = avatars.pointing_at(url.format(own=console.api.url))
    asset_id = await console.upload("vrm/Trap.vrm", body)
    await run_jobs()
    page = await console.page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"/library?open={asset_id}")
    await page.wait_for_selector(CANVAS)
    (skin, shirt), _ = await colours(page, CANVAS, SKIN, SHIRT)
    assert skin > 0.03 and shirt > 0.05, "the figure is not to be seen"
    assert [one for one in asked if "read-object" in one], asked
    assert not [one for one in asked if "trap" in one]


@pytest.mark.parametrize("body", [avatars.figure(), avatars.figure0()], ids=["1.0", "0.x"])
async def test_an_avatar_that_stands_still_lets_its_arms_hang(console: Console, run_jobs: Jobs, body: bytes) -> None:
    asset_id = await console.upload("vrm/Figure.vrm", body)
    await run_jobs()
    page = await console.page(path=f"/library?open={asset_id}")
    await page.wait_for_selector(CANVAS)
    # Above the middle is the head, below it only hands have that colour.
    lowest = await page.evaluate(LOWEST, [CANVAS, SKIN])
    assert lowest > 0.6
    (skin, shirt), wide = await colours(page, CANVAS, SKIN, SHIRT)
    assert skin > 0.03
    assert shirt > 0.05
    assert wide < 0.8


async def test_a_card_that_is_still_at_work_is_given_no_further_pictures(console: Console, run_jobs: Jobs) -> None:
    asset_id = await console.upload("vrm/Figure.vrm", avatars.figure(thumbnail=files.png()))
    await run_jobs()
    page = await console.page()
    await page.add_init_script(f"({SLOW_CARD})()")
    await page.goto(f"/library?open={asset_id}")
    await page.wait_for_function("() => card.pictures > 5")
    before = await page.evaluate("() => { card.busy = true; card.asked = 0; return card.pictures }")
    await page.wait_for_function("() => card.asked > 20")
    assert await page.evaluate("() => card.pictures") <= before + 1
    await page.evaluate("() => { card.busy = false }")
    await page.wait_for_function("(before) => card.pictures > before + 5", arg=before)


@pytest.mark.skipif(not MODELS, reason="BUTAI_TEST_MODELS names no folder of real models")
async def test_real_avatars_are_drawn_with_their_licences(console: Console, run_jobs: Jobs) -> None:
    paths = sorted(path for path in Path(MODELS).iterdir() if path.suffix == ".vrm")
    assert paths
    page = await console.page()
    await drop(page, {path.name: path.read_bytes() for path in paths})
    await page.wait_for_function(f"() => document.querySelectorAll('.upload[data-state=done]').length === {len(paths)}")
    await run_jobs()
    for path in paths:
        await page.click(card(path.stem))
        await page.wait_for_selector(CANVAS)
        _, wide = await colours(page, CANVAS)
        assert 0.05 < wide < 1, path.name
        await page.wait_for_selector(".term[data-part=redistribution]")
        for part in ("commercial", "modification", "credit", "avatar"):
            assert await page.inner_text(f".term[data-part={part}] dd"), (path.name, part)
        if PICTURES:
            await page.screenshot(path=f"{PICTURES}/{path.stem}.png")
        await page.keyboard.press("Escape")


async def test_an_avatar_without_a_thumbnail_gets_one_that_is_drawn_here_and_stored(
    console: Console, run_jobs: Jobs
) -> None:
    asset_id = await console.upload("vrm/Figure.vrm", avatars.figure())
    await run_jobs()
    assert (await console.asset(asset_id))["thumbnail"] is None
    page = await console.page(path=f"/library?open={asset_id}")
    made = await until(lambda: console.asset(asset_id), lambda asset: asset["thumbnail"])
    status, picture, headers = await console.api.read(made["thumbnail"], "alice")
    assert (status, headers["content-type"], picture[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (512, 512)
    # The card has it without being asked, and it is the avatar's.
    await page.keyboard.press("Escape")
    await page.wait_for_function(DRAWN)
    (skin, shirt), _ = await colours(page, ".card img", SKIN, SHIRT)
    assert skin > 0.03
    assert shirt > 0.05


async def test_an_avatar_that_is_uploaded_gets_its_thumbnail_without_being_opened(
    console: Console, run_jobs: Jobs
) -> None:
    page = await console.page()
    await drop(page, {"Figure.vrm": avatars.figure()})
    await page.wait_for_selector(".upload[data-state=done]")
    await run_jobs()
    await page.wait_for_function(DRAWN)
    assert (await colours(page, ".card img", SHIRT))[0][0] > 0.05


@pytest.mark.parametrize(
    ("name", "body"),
    [("turn.vrma", avatars.wave()), ("side.bvh", motions.sideways_bvh()), ("side.fbx", motions.sideways_fbx())],
    ids=["vrma", "bvh", "fbx"],
)
async def test_an_animation_is_played_on_an_avatar(console: Console, run_jobs: Jobs, name: str, body: bytes) -> None:
    avatar = await console.upload("vrm/Figure.vrm", avatars.figure(thumbnail=files.png()))
    motion = await console.upload(f"animations/{name}", body)
    await run_jobs()
    page = await console.page(path=f"/library?open={avatar}")
    await page.wait_for_selector(CANVAS)
    _, wide = await colours(page, CANVAS)
    await choose(page, "Play an animation", (await console.asset(motion))["url"])
    # Turned, one sees it from the side.
    await until(lambda: colours(page, CANVAS), lambda found: found[1] < 0.75 * wide)
    # And the other way about: the animation is opened, and the avatar is what it is shown on.
    await page.goto(f"/library?open={motion}")
    await page.wait_for_selector(CANVAS)
    await until(lambda: colours(page, CANVAS), lambda found: 0 < found[1] < 0.75 * wide)


async def test_music_shows_its_waveform_and_plays_from_where_it_is_clicked(console: Console, run_jobs: Jobs) -> None:
    asset_id = await console.upload("bgm/Tone.wav", music(4))
    await run_jobs()
    page = await console.page(path=f"/library?open={asset_id}")
    wave_form = await page.wait_for_selector("svg.waveform")
    assert wave_form is not None
    assert int(await wave_form.get_attribute("data-peaks") or 0) > 20
    box = await wave_form.bounding_box()
    assert box is not None
    await page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    at = await page.evaluate("() => document.querySelector('.sound audio').currentTime")
    assert 2.9 < at < 3.1
    await page.click("button:text-is('Play')")
    await page.wait_for_function("() => document.querySelector('.sound audio').currentTime > 3.2")
    facts = await page.inner_text("dl.facts")
    assert "Channels\nMono" in facts
    assert "LUFS" in facts


@pytest.mark.parametrize("kind", ["hdr", "exr"])
async def test_a_sky_is_a_lit_sphere(console: Console, run_jobs: Jobs, kind: str) -> None:
    asset_id = await console.upload(f"hdr/Red.{kind}", sky() if kind == "hdr" else open_exr())
    await run_jobs()
    page = await console.page(path=f"/library?open={asset_id}")
    await page.wait_for_selector(CANVAS)

    async def red() -> float:
        return await page.evaluate(
            """(source) => {
                const small = document.createElement("canvas");
                small.width = small.height = 64;
                const context = small.getContext("2d");
                context.drawImage(document.querySelector(source), 0, 0, 64, 64);
                const { data } = context.getImageData(0, 0, 64, 64);
                let red = 0;
                for (let at = 0; at < data.length; at += 4) if (data[at] > 3 * data[at + 2] && data[at] > 80) red += 1;
                return red / 4096;
            }""",
            CANVAS,
        )

    await until(red, lambda share: share > 0.9)


async def test_a_scene_is_drawn(console: Console, run_jobs: Jobs) -> None:
    room = avatars.Model()
    unlit = {
        "pbrMetallicRoughness": {"baseColorFactor": [*avatars.SHIRT, 1]},
        "extensions": {"KHR_materials_unlit": {}},
    }
    room.document["extensionsUsed"] = ["KHR_materials_unlit"]
    room.add("nodes", {"mesh": room.box((0, 0, 0), (4, 2, 4), room.add("materials", unlit))})
    room.document["scenes"] = [{"nodes": [0]}]
    asset_id = await console.upload("scene/Room.glb", room.file())
    await run_jobs()
    page = await console.page(path=f"/library?open={asset_id}")
    await page.wait_for_selector(CANVAS)
    await until(lambda: colours(page, CANVAS, SHIRT), lambda found: found[0][0] > 0.1)
    # It turns under the keys, too.
    _, before = await colours(page, CANVAS)
    await page.focus(CANVAS)
    for _ in range(6):
        await page.keyboard.press("ArrowRight")
    await until(lambda: colours(page, CANVAS), lambda found: found[1] > before)


# For everybody


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_axe_finds_nothing_serious_light_and_dark(console: Console, run_jobs: Jobs, language: str) -> None:
    figure = avatars.figure(thumbnail=files.png())
    avatar = await console.upload("vrm/Figure.vrm", figure)
    sound = await console.upload("bgm/Tone.wav", music(1))
    await run_jobs()
    page = await console.page(language=language)

    async def look(where: str) -> None:
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            assert await axe(page) == [], (where, scheme)

    await page.wait_for_selector(card("Figure"))
    await drop(page, {"Again.vrm": figure, "Broken.vrm": b"nothing" * 20})
    await page.wait_for_selector(".upload[data-state=failed]")
    await page.wait_for_selector(".upload[data-state=known]")
    assert await page.evaluate("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
    await look("the list")
    for asset_id, there in ((avatar, CANVAS), (sound, "svg.waveform")):
        await page.goto(f"/library?open={asset_id}")
        await page.wait_for_selector(there)
        await page.wait_for_selector("dl.facts")
        await look(there)


async def test_the_first_screen_loads_little_and_3d_only_where_it_is_shown(console: Console, run_jobs: Jobs) -> None:
    avatar = await console.upload("vrm/Figure.vrm", avatars.figure(thumbnail=files.png()))
    await run_jobs()
    page = await console.page()
    await page.wait_for_selector(card("Figure"))
    await page.wait_for_load_state("networkidle")
    weigh = """() => performance.getEntriesByType("resource").filter((one) => new URL(one.name).pathname.endsWith(".js"))
        .map((one) => [one.name, one.encodedBodySize, one.decodedBodySize])"""
    loaded = await page.evaluate(weigh)
    sent = sum(encoded for _, encoded, _ in loaded)
    print(f"first screen: {sent / 1024:.1f} KiB of script")
    assert loaded
    assert all(encoded < decoded for _, encoded, decoded in loaded if decoded > 1000), "not compressed"
    assert sent <= FIRST_SCREEN
    await page.goto(f"/library?open={avatar}")
    await page.wait_for_selector(CANVAS)
    with_3d = sum(encoded for _, encoded, _ in await page.evaluate(weigh))
    assert with_3d > sent + 100 * 1024, "3D was there before it was shown"
