"""`/docs`: the OpenAPI document as a page that a person can read. Installed by `butai.api`.

FastAPI's own page runs Swagger UI, 1.5 MB of script, from a public CDN: it shows nothing on a machine without the
internet, and it is another party's script on the origin whose cookies sign people in. This page is plain HTML, made here;
its content security policy allows no script at all. Where others have a "try it" button it has a line for curl.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto 6rem; padding: 0 1rem; }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { margin-bottom: .2rem }
code, pre { font: 13px/1.5 ui-monospace, monospace } pre { background: var(--soft); padding: .6rem .8rem; overflow-x: auto }
details { border-bottom: 1px solid var(--line) } details > div { padding: 0 0 1rem 1rem }
summary { padding: .4rem 0; cursor: pointer } summary span { color: var(--dim); margin-left: .6rem }
b.method { display: inline-block; min-width: 5.5rem; font: bold 12px ui-monospace, monospace }
.get, .head { color: #0a7d4b } .post { color: #1667c9 } .patch { color: #a86300 } .delete { color: #c62f2f }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem } caption { text-align: left; font-weight: 600 }
td { border-top: 1px solid var(--line); padding: .25rem .8rem .25rem 0; vertical-align: top }
td:first-child { min-width: 9rem } td:nth-child(2) { color: var(--dim); min-width: 11rem }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
}
"""What the page is sent with."""

_METHODS = ("get", "head", "post", "put", "patch", "delete")


def install(app: FastAPI) -> None:
    """Serves the page under `/docs`; `app` is made with `docs_url=None`."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        """The page, with addresses as the reader reached it."""
        return HTMLResponse(page(app.openapi(), str(request.base_url).rstrip("/")), headers=HEADERS)


def page(document: Mapping[str, Any], origin: str) -> str:
    """The whole page. `document` is OpenAPI 3.1; `origin` (`http://127.0.0.1:8080`) stands in the examples."""
    info = document["info"]
    tags: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for methods, operation in _merged(operations):
            tag = (operation.get("tags") or ["other"])[0]
            tags.setdefault(tag, []).append(_operation(document, origin, path, methods, operation))
    # What front ends call comes first, what machines ask last.
    order = sorted(tags, key=lambda tag: tag == "process")
    sections = "".join(f"<h2>{escape(tag.capitalize())}</h2>{''.join(tags[tag])}" for tag in order)
    components = document.get("components", {})
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} API</h1>"
        f"<p>{escape(info.get('summary', ''))} Version {escape(info['version'])}. "
        '<a href="/openapi.json">openapi.json</a></p>'
        f"{_ways_in(components.get('securitySchemes', {}))}{sections}"
        f"<h2>Shapes</h2>{''.join(_shape(name, schema) for name, schema in components.get('schemas', {}).items())}</html>"
    )


def _ways_in(schemes: Mapping[str, Any]) -> str:
    rows = []
    for scheme in schemes.values():
        sent = "Authorization: Bearer …" if scheme["type"] == "http" else f"{scheme['name']}: …"
        if scheme.get("in") == "cookie":
            sent = f"Cookie: {scheme['name']}=…"
        rows.append((f"<code>{escape(sent)}</code>", "", _prose(scheme.get("description", ""))))
    return _table("Ways to sign in", rows)


def _merged(operations: Mapping[str, Any]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """Each operation once, with its methods: GET and HEAD of one path are one."""
    seen: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for method in _METHODS:
        if method in operations:
            key = operations[method].get("operationId", method)
            seen.setdefault(key, ([], operations[method]))[0].append(method)
    yield from seen.values()


def _operation(
    document: Mapping[str, Any], origin: str, path: str, methods: list[str], operation: Mapping[str, Any]
) -> str:
    rows = [
        (
            f"<code>{escape(given['name'])}</code>",
            _type(given["schema"], required=given.get("required", False)),
            _about(given),
        )
        for given in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    sent = "".join(
        _table(f"Body, {media}", _fields(_resolved(document, content["schema"]))) for media, content in body.items()
    )
    return (
        f'<details id="{escape(operation.get("operationId", path))}"><summary>'
        f'<b class="method {methods[0]}">{escape(", ".join(methods).upper())}</b><code>{escape(path)}</code>'
        f"<span>{escape(operation.get('summary', ''))}</span></summary><div>"
        f"<p>{_prose(operation.get('description', ''))}</p>"
        f"<pre>{escape(_curl(document, origin, path, methods[0], operation))}</pre>"
        f"{_table('Parameters', rows)}{sent}{_table('Answers', _answers(operation['responses']))}</div></details>"
    )


def _answers(responses: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """One row for each success, one for all errors of one shape."""
    rows: dict[str, tuple[list[str], str, list[str]]] = {}
    for status, answer in sorted(responses.items()):
        content = answer.get("content", {})
        shapes = {_type(given["schema"]) for given in content.values() if given.get("schema")} or set(
            map(escape, content)
        )
        shape = ", ".join(sorted(shapes))
        row = rows.setdefault(shape if status >= "400" else status, ([], shape, []))
        row[0].append(f"<code>{escape(status)}</code>")
        row[2].append(escape(answer["description"]))
    return [(" ".join(statuses), shape, ", ".join(said)) for statuses, shape, said in rows.values()]


def _curl(document: Mapping[str, Any], origin: str, path: str, method: str, operation: Mapping[str, Any]) -> str:
    """A line to paste, with the document's own examples in it. `jar` is a cookie file, as `POST /api/session` fills it."""
    query = [
        f"{given['name']}={quote(str(_example(given) or '…'), safe='/')}"
        for given in operation.get("parameters", [])
        if given["in"] == "query" and (given.get("required") or _example(given) is not None)
    ]
    url = origin + path + (f"?{'&'.join(query)}" if query else "")
    words = ["curl"]
    if operation.get("security"):
        words += ["-b", "jar"]
    if method == "head":
        words += ["-I"]
    elif method != "get" and not (method == "post" and "requestBody" in operation):
        words += ["-X", method.upper()]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(document, content["schema"])
        if media == "multipart/form-data":
            for name in schema.get("required", []):
                given = schema["properties"][name]
                words += [
                    "-F",
                    f"{name}={'@avatar.vrm' if given.get('format') == 'binary' else _example(given) or '…'}",
                ]
        else:
            words += ["-H", f"Content-Type: {media}", "-d", json.dumps((schema.get("examples") or [{}])[0])]
    return shlex.join([*words, url])


def _example(given: Mapping[str, Any]) -> Any:
    schema = given.get("schema", {})
    found = [given.get("example"), *given.get("examples", []), *schema.get("examples", []), schema.get("example")]
    return next((value for value in found if value is not None), None)


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        return document["components"]["schemas"][_referred(schema)]
    return schema


def _referred(schema: Mapping[str, Any]) -> str:
    return schema["$ref"].rpartition("/")[2]


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    said = _prose(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{said}</p>{_table("", _fields(schema))}'


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    required = schema.get("required", [])
    return [
        (f"<code>{escape(name)}</code>", _type(given, required=name in required), _about(given))
        for name, given in schema.get("properties", {}).items()
    ]


def _type(schema: Mapping[str, Any], *, required: bool | None = None) -> str:
    """A schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(_referred(schema))
        text = f'<a href="#{name}">{name}</a>'
    elif "anyOf" in schema:
        text = " or ".join(_type(option) for option in schema["anyOf"])
    elif "enum" in schema:
        text = " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    elif "const" in schema:
        text = f"<code>{escape(json.dumps(schema['const']))}</code>"
    elif schema.get("type") == "array":
        text = f"list of {_type(schema.get('items', {}))}"
    else:
        text = escape(schema.get("format") or schema.get("type") or "anything")
        limits = [
            f"{word} {int(schema[name])}"
            for name, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"))
            if name in schema
        ]
        text += f" ({escape(' '.join(limits))})" if limits else ""
    return text + (", required" if required else "")


def _about(given: Mapping[str, Any]) -> str:
    schema = given.get("schema", given)
    said = given.get("description") or schema.get("description") or ""
    default = schema.get("default")
    return _prose(f"{said} Default: `{default}`." if default is not None else said)


def _prose(text: str) -> str:
    """Escaped, with `code` marked."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip(), quote=False)).replace("\n\n", "</p><p>")


def _table(caption: str, rows: list[tuple[str, str, str]]) -> str:
    """Cells are HTML already. Nothing for no rows."""
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{first}</td><td>{second}</td><td>{third}</td></tr>" for first, second, third in rows)
    return f"<table><caption>{escape(caption)}</caption>{cells}</table>"
