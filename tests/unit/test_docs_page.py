"""The page that shows the OpenAPI document."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

from butai.api import document
from butai.web import docs

ORIGIN = "https://api.example"


def test_every_operation_and_every_shape_is_there_and_every_link_leads_somewhere() -> None:
    whole = document()
    html = docs.page(whole, ORIGIN)
    for path, operations in whole["paths"].items():
        assert f"<code>{path}</code>" in html
        for operation in operations.values():
            assert operation["summary"].replace("'", "&#x27;") in html
    targets = set(re.findall(r'id="([^"]+)"', html))
    assert set(whole["components"]["schemas"]) <= targets
    assert set(re.findall(r'href="#([^"]+)"', html)) <= targets


def test_the_examples_are_lines_for_the_address_that_the_reader_used() -> None:
    html = docs.page(document(), ORIGIN)
    upload = f"curl -b jar -F file=@avatar.vrm -F fileName=vrm/Aoi.vrm -F fileType=model/vrm {ORIGIN}/api/s3/upload"
    assert f"<pre>{upload}</pre>" in html
    assert html.count(f"{ORIGIN}/") == html.count("<pre>")


def test_nothing_in_the_document_can_become_markup() -> None:
    evil = '<script>alert("1")</script>'
    poisoned: dict[str, Any] = {
        "info": {"title": evil, "version": evil, "summary": evil},
        "paths": {
            f"/{evil}": {
                "post": {
                    "tags": [evil],
                    "operationId": evil,
                    "summary": evil,
                    "description": f"`{evil}`",
                    "parameters": [
                        {"name": evil, "in": "query", "required": True, "description": evil, "schema": {"enum": [evil]}}
                    ],
                    "requestBody": {"content": {evil: {"schema": {"$ref": f"#/components/schemas/{evil[1:8]}"}}}},
                    "responses": {"200": {"description": evil, "content": {evil: {}}}},
                }
            }
        },
        "components": {
            "schemas": {
                evil[1:8]: {
                    "description": evil,
                    "properties": {evil: {"type": evil, "default": evil, "examples": [evil]}},
                }
            },
            "securitySchemes": {"x": {"type": "apiKey", "in": "header", "name": evil, "description": evil}},
        },
    }
    html = docs.page(poisoned, f"http://{evil}")
    tags: set[str] = set()
    attributes: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Reader().feed(html)
    assert html.count("alert(") > 10
    assert "script" not in tags
    assert attributes <= {"lang", "charset", "name", "content", "rel", "href", "id", "class"}


def test_its_policy_lets_in_the_page_s_own_style_and_no_script() -> None:
    html = docs.page(document(), ORIGIN)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert len(styles) == 1
    policy = docs.HEADERS["content-security-policy"]
    assert base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert " style=" not in html
