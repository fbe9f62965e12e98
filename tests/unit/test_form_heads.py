"""Heads of a form's parts as old and foreign clients write them: what a file is called there is no reason to refuse it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from butai.assets.uploads.multipart_form import UploadForm
from butai.errors import ButaiError, HeaderUnsupported, InvalidRequest

NAME = "vrm/舞台.vrm"
FILE = b"the file"


async def read(
    head: bytes, *, more: bytes = b"", name: bytes = NAME.encode(), name_head: bytes = b""
) -> tuple[str, str, bytes]:
    """Key, client's name and bytes of a form whose file has this head."""
    body = (
        b"--b\r\nContent-Disposition: form-data; name=fileType\r\n\r\nmodel/vrm\r\n"
        b'--b\r\nContent-Disposition: form-data; name="fileName"' + name_head + b"\r\n\r\n" + name + b"\r\n"
        b"--b\r\nContent-Disposition: form-data; " + head + more + b"\r\n\r\n" + FILE + b"\r\n--b--\r\n"
    )

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    form = await UploadForm.begun("multipart/form-data; boundary=b", chunks())
    held = b"".join([chunk async for chunk in form.chunks()])
    return (await form.key()).text, form.filename, held


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        ('name="file"; filename="舞台.vrm"'.encode(), "舞台.vrm"),
        (b"name=\"file\"; filename*=UTF-8''%E8%88%9E%E5%8F%B0.vrm", "舞台.vrm"),
        (b"name=file; filename*=utf-8'ja'%E8%88%9E%E5%8F%B0.vrm", "舞台.vrm"),
        (b'name="file"; filename="x.vrm"; filename*=UTF-8\'\'%E8%88%9E.vrm', "舞.vrm"),
        (b"name=\"file\"; filename*=GBK''%CE%E8%CC%A8.vrm", "舞台.vrm"),
        (b"name=\"file\"; filename*=x-none''%CE%E8.vrm", "��.vrm"),
        # Python has more of them: what they give may be no text, and cannot be sent back.
        (b"name=\"file\"; filename*=unicode_escape''%5Cud800.vrm", "\\ud800.vrm"),
        (b"name=\"file\"; filename*=utf-7''+2AA-.vrm", "+2AA-.vrm"),
        (b'name="file"; filename=""', ""),
        (b'filename="a.vrm"; name="file"', "a.vrm"),
        (b'name="file"; filename="' + "舞台.vrm".encode("gbk") + b'"', None),
        # The second byte of this letter is a backslash.
        (b'name="file"; filename="' + "表.vrm".encode("shift-jis") + b'"', None),
        (b'name="file"; filename="' + "表".encode("shift-jis") + b'"', None),
        (b'filename="' + "表".encode("shift-jis") + b'"; name="file"', None),
        (b'name="file"; filename="' + "Größe.vrm".encode("latin-1") + b'"', None),
    ],
)
async def test_a_file_is_taken_whatever_it_is_called(head: bytes, shown: str | None) -> None:
    key, filename, held = await read(head)
    assert (key, held) == (NAME, FILE)
    assert shown is None or filename == shown


async def test_a_field_may_say_its_encoding() -> None:
    charset = b"\r\nContent-Type: text/plain; charset=Shift_JIS"
    assert (await read(b'name="file"; filename="a"', name=NAME.encode("shift-jis"), name_head=charset))[0] == NAME
    # Without it the field is not right, and its letters would be guessed.
    unknown = (b"x-none", b"punycode", b"utf-16", b'"a\0"')
    for head in (b"", *(b"\r\nContent-Type: text/plain; charset=" + one for one in unknown)):
        with pytest.raises(InvalidRequest):
            await read(b'name="file"; filename="a"', name=NAME.encode("shift-jis"), name_head=head)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (b"\r\nContent-Transfer-Encoding: binary", None),
        (b"\r\nContent-Transfer-Encoding: 8bit", None),
        (b"\r\nContent-Transfer-Encoding: base64", HeaderUnsupported),
        (b"\r\nContent-Transfer-Encoding: quoted-printable", HeaderUnsupported),
        (b"\r\nContent-Encoding: gzip", HeaderUnsupported),
    ],
)
async def test_coded_bytes_of_a_part_are_not_taken_for_the_file(more: bytes, error: type[ButaiError] | None) -> None:
    if error is None:
        assert (await read(b'name="file"; filename="a"', more=more))[2] == FILE
        return
    with pytest.raises(error):
        await read(b'name="file"; filename="a"', more=more)
