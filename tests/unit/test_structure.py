"""The source keeps the structure that docs/design.md describes: folders, names, pure modules."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from butai import errors
from butai.api import document
from butai.web.problems import Problem
from butai.web.responses import schemas

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "butai"

MOST_AT_THE_ROOT = 8
"""Modules beside the folders, so that a list of the folder fits on a screen."""

SAY_NOTHING = {"utils", "helpers", "common", "core", "base", "manager", "misc"}


def modules(folder: Path = SOURCE) -> Iterator[Path]:
    """All modules but migrations, whose names are numbers."""
    return (path for path in sorted(folder.rglob("*.py")) if "migrations" not in path.parts)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which most tests look at: parsed once."""
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(parsed(path)))


def place(path: Path, node: ast.AST) -> str:
    """Where a node stands: file and line."""
    return f"{_relative(path)}:{getattr(node, 'lineno', 0)}"


@functools.cache
def _relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_few_modules_stand_at_the_root() -> None:
    names = [path.name for path in SOURCE.glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= MOST_AT_THE_ROOT, names


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in modules() if path.stem in SAY_NOTHING or path.parent.name in SAY_NOTHING] == []


def test_each_sentence_of_the_mission_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 15))
    for number, cell in rows:
        named = re.findall(r"`([^`]+)`", cell)
        assert named, number
        for name in named:
            assert (SOURCE / name).is_file(), f"sentence {number}: there is no {name}"


def test_a_public_class_has_a_name_of_its_own() -> None:
    """But for those that docs/vocabulary.md lists, with the reason."""
    text = (ROOT / "docs" / "vocabulary.md").read_text().partition("## Names that stand for two things")[2]
    allowed = {name for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    places: dict[str, list[str]] = defaultdict(list)
    for part in ("assets", "live", "relay"):
        for path in modules(SOURCE / part):
            for node in parsed(path).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(SOURCE)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in allowed} == {}


def test_what_calls_itself_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = set(next(one["source_modules"] for one in contracts if one["name"].startswith("Pure")))
    says = set[str]()
    for path in modules():
        docstring = ast.get_docstring(parsed(path)) or ""
        if re.search(r"\bPure\b(?! ASGI)", docstring):
            says.add(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    assert says - held == set()


STATES_OF_THE_LIBRARY = {
    # The table's class, the module that writes it, its SQL name, and the module that spells its states.
    "AssetObject": ("assets/ledger.py", "asset_objects", "assets/object_states.py"),
    "ResumableUpload": ("assets/tus/transitions.py", "resumable_uploads", "assets/tus/states.py"),
}


@pytest.mark.parametrize("model", STATES_OF_THE_LIBRARY)
def test_a_state_of_the_library_is_written_in_one_module(model: str) -> None:
    """No insert, update, delete, new row or assignment of a state elsewhere."""
    writer, table, _ = STATES_OF_THE_LIBRARY[model]
    written = re.compile(rf"\b(INSERT INTO|UPDATE|DELETE FROM)\s+{table}\b", re.IGNORECASE)
    found: list[str] = []
    for path in modules():
        if path == SOURCE / writer:
            continue
        names_it = any(isinstance(node, ast.Name) and node.id == model for node in nodes(path))
        for node in nodes(path):
            at = place(path, node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and written.search(node.value):
                found.append(f"{at} SQL")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                first = node.args[0] if node.args else None
                if node.func.id == model:
                    found.append(f"{at} a new row")
                elif (
                    node.func.id in ("insert", "update", "delete") and isinstance(first, ast.Name) and first.id == model
                ):
                    found.append(f"{at} {node.func.id}")
            elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and names_it:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                flat = [part for target in targets for part in getattr(target, "elts", [target])]
                if any(isinstance(target, ast.Attribute) and target.attr == "state" for target in flat):
                    found.append(f"{at} a state")
    assert found == []


@pytest.mark.parametrize("model", STATES_OF_THE_LIBRARY)
def test_a_state_of_the_library_is_spelled_in_its_table_alone(model: str) -> None:
    """Not compared with a literal where the rows are known; what only reads in SQL may spell it."""
    table = STATES_OF_THE_LIBRARY[model][2]
    words = {
        node.value.value
        for cls in ast.parse((SOURCE / table).read_text()).body
        if isinstance(cls, ast.ClassDef) and cls.name.endswith("State")
        for node in cls.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert len(words) == 4
    found: list[str] = []
    for path in modules(SOURCE / "assets"):
        if path == SOURCE / table or not any(isinstance(node, ast.Name) and node.id == model for node in nodes(path)):
            continue
        for node in nodes(path):
            about_state = (
                (isinstance(node, ast.Compare) and ".state" in ast.unparse(node))
                or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".state.in_"))
                or (isinstance(node, ast.keyword) and node.arg == "state")
            )
            literals = (
                {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)} if about_state else set()
            )
            if literals & words:
                found.append(f"{path.relative_to(SOURCE)}: {ast.unparse(node)}")
    assert found == []


def test_tables_of_states_are_of_one_kind() -> None:
    """What refuses a move is a `StateTable`: its error is an `IllegalMove`, and no table is a plain dictionary."""
    found: list[str] = []
    for path in modules():
        for node in parsed(path).body:
            at = place(path, node)
            if isinstance(node, ast.ClassDef) and node.name.startswith("Illegal") and node.name != "IllegalMove":
                if [ast.unparse(base) for base in node.bases] != ["IllegalMove"]:
                    found.append(at)
            elif isinstance(node, ast.AnnAssign) and re.search(
                r"dict\[tuple\[.*Trigger\]", ast.unparse(node.annotation)
            ):
                found.append(at)
    assert found == []


PATROL_STATES = {
    # The model, the module that writes it, its table, and the columns that are its state.
    "PatrolRun": ("assets/patrol/progress.py", "patrol_runs", {"state", "ended_at"}),
    "Finding": ("assets/patrol/finding_writer.py", "findings", {"resolution", "resolved_at", "resolved_by"}),
}


@pytest.mark.parametrize("model", PATROL_STATES)
def test_a_state_of_the_patrol_is_written_in_one_module(model: str) -> None:
    """No insert, update, delete, new row or assignment of a state elsewhere."""
    writer, table, columns = PATROL_STATES[model]
    written = re.compile(rf"\b(INSERT INTO|UPDATE|DELETE FROM)\s+{table}\b", re.IGNORECASE)
    found: list[str] = []
    for path in modules():
        if path == SOURCE / writer:
            continue
        # By its import: `butai doctor` has findings of its own.
        names_it = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "butai.assets.patrol.models"
            and model in {alias.name for alias in node.names}
            for node in nodes(path)
        )
        for node in nodes(path):
            at = place(path, node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and written.search(node.value):
                found.append(f"{at} SQL")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and names_it:
                first = node.args[0] if node.args else None
                of_model = isinstance(first, ast.Name) and first.id == model
                if node.func.id == model or (node.func.id in ("insert", "update", "delete") and of_model):
                    found.append(f"{at} {node.func.id}")
            elif isinstance(node, ast.Assign) and names_it:
                flat = [part for target in node.targets for part in getattr(target, "elts", [target])]
                if any(isinstance(target, ast.Attribute) and target.attr in columns for target in flat):
                    found.append(f"{at} a state")
    assert found == []


def test_the_status_of_an_asset_is_set_by_a_transition_alone() -> None:
    """A new row has the state that its first transition gives it."""
    found: list[str] = []
    for path in modules(SOURCE / "assets"):
        if path == SOURCE / "assets" / "transitions.py":
            continue
        for node in nodes(path):
            at = place(path, node)
            if isinstance(node, ast.Assign):
                flat = [part for target in node.targets for part in getattr(target, "elts", [target])]
                if any(
                    ast.unparse(target).endswith(".status") and ast.unparse(target) != "self.status" for target in flat
                ):
                    found.append(at)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.search(r"\bUPDATE assets\b[^;]*\bSET\b[^;]*\bstatus\s*=", node.value.partition("WHERE")[0])
            ):
                found.append(at)
    assert found == []


def test_routes_and_commands_open_no_transaction() -> None:
    found = set[str]()
    for path in modules():
        relative = path.relative_to(SOURCE)
        if path.stem == "routes" or path.stem.endswith("_routes") or relative.parts[0] == "cli":
            for node in nodes(path):
                if isinstance(node, ast.Attribute) and node.attr in ("transaction", "persist"):
                    found.add(str(relative))
    assert found == set()


def test_the_api_process_loads_nothing_that_parses_a_file() -> None:
    """Not by any chain of imports: a parser in the process that answers requests can be stopped by one file."""
    argv = [sys.executable, "-c", "import sys, butai.api; print(*sys.modules)"]
    loaded = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert "butai.assets.studio_contract.routes" in loaded
    parsers = ("butai.assets.contents", "av", "numpy", "tinytag")
    assert [name for name in loaded if name.startswith(tuple(f"{one}." for one in parsers)) or name in parsers] == []


def test_procrastinates_tables_are_named_by_the_jobs_alone() -> None:
    """Its schema is not ours: a newer version may change it, in one folder."""
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in modules()
        if path.parent != SOURCE / "jobs"
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "procrastinate_" in node.value
    ]
    assert found == []


def test_no_transaction_of_the_library_is_held_over_the_network() -> None:
    """No call of the store inside the block of a transaction."""
    found: list[str] = []
    for path in modules(SOURCE / "assets"):
        for node in nodes(path):
            if not isinstance(node, ast.AsyncWith):
                continue
            if not any(".transaction(" in ast.unparse(item.context_expr) for item in node.items):
                continue
            found += [
                f"{path.relative_to(SOURCE)}:{inner.lineno}"
                for inner in ast.walk(node)
                if isinstance(inner, ast.Await) and re.search(r"\bstore\.\w+\(", ast.unparse(inner))
            ]
    assert found == []


_CALLERS = re.compile(
    r"\b(Called|Used|Built|Picked|Filled|Made|Started|Run|Registered) (only )?(by|from) (the )?`|[Rr]ead by (the )?`"
)


def test_no_docstring_lists_its_callers() -> None:
    """Such a list is incomplete soon; an editor finds callers. It says why the thing is here instead."""
    found: list[str] = []
    for path in modules():
        if "egress/livekit" in path.as_posix():
            # To be replaced as a whole.
            continue
        for node in nodes(path):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if _CALLERS.search(docstring):
                    found.append(f"{path.relative_to(SOURCE)}: {getattr(node, 'name', 'module')}")
    assert found == []


ROUTE_METHODS = {"get", "head", "post", "put", "patch", "delete", "options", "api_route"}

GIVEN = ("/api/s3/", "/api/vrm-thumbnail")
"""Paths whose shapes studios had before Butai."""

GIVEN_ITEMS = {"AssetItem", "ChangedAsset", "FoundAsset"}
"""Items of the given lists, which Butai's own lists show too."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each operation of the OpenAPI document: its method, path and description."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(node: object) -> Iterator[str]:
    """The names of the schemas that a part of the document refers to."""
    if isinstance(node, dict):
        for name, value in cast("dict[str, object]", node).items():
            if name == "$ref":
                yield str(value).rpartition("/")[2]
            yield from references(value)
    elif isinstance(node, list):
        for value in cast("list[object]", node):
            yield from references(value)


def test_each_json_answer_is_a_declared_struct() -> None:
    """By `answers`: a bare model or dictionary would be in the document with a schema of the framework's, or without one."""
    found: list[str] = []
    for method, path, operation in operations():
        # Routes of the application declare themselves when it is made.
        structs = set(schemas())
        for status, response in operation["responses"].items():
            for media, content in response.get("content", {}).items():
                # A file may be JSON too, such as a `_meta.json`: it goes out as it was uploaded.
                if media.endswith("json") and not (path == "/api/s3/read-object" and status in ("200", "206")):
                    schema: dict[str, str] = content.get("schema", {})
                    if schema.keys() != {"$ref"} or schema["$ref"].rpartition("/")[2] not in structs:
                        found.append(f"{method} {path} {status}")
    assert found == []


def test_json_leaves_by_one_function() -> None:
    """`respond`, and `answer` for errors: no handler makes JSON of its own, or leaves that to the framework."""
    found: list[str] = []
    for path in modules():
        if path in (SOURCE / "web" / "responses.py", SOURCE / "web" / "problems.py"):
            continue
        for node in nodes(path):
            at = place(path, node)
            if isinstance(node, ast.Name) and node.id.endswith("JSONResponse"):
                found.append(f"{at} {node.id}")
            elif isinstance(node, ast.keyword) and node.arg == "response_model":
                found.append(f"{at} response_model")
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                if called.endswith("Response") and any(
                    isinstance(value, ast.Constant) and value.value == "application/json" for value in values
                ):
                    found.append(f"{at} JSON by {called}")
                if called in ("respond", "respond_live") and any(isinstance(value, ast.Dict) for value in values[:1]):
                    found.append(f"{at} a dictionary")
            elif isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                routed = any(
                    isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in ROUTE_METHODS
                    for one in node.decorator_list
                )
                if routed and not (node.returns and ast.unparse(node.returns).endswith("Response")):
                    found.append(f"{at} {node.name} returns what the framework encodes")
    assert found == []


def test_the_names_of_our_own_paths_are_snake_case() -> None:
    """Parameters, bodies and answers; but for old names, which are deprecated, and the given lists' items."""
    components = document()["components"]["schemas"]
    found = set[str]()
    wanted = set[str]()
    for method, path, operation in operations():
        if path.startswith(GIVEN):
            continue
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query" and not parameter.get("deprecated"):
                found |= {f"{method} {path} {name}" for name in [parameter["name"]] if name != name.lower()}
        wanted |= set(references([operation.get("requestBody"), operation["responses"]]))
    seen = set[str]()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        schema = components[name]
        if name not in GIVEN_ITEMS:
            properties = schema.get("properties", {})
            found |= {
                f"{name}.{one}" for one, of in properties.items() if one != one.lower() and not of.get("deprecated")
            }
        wanted |= set(references(schema)) - seen
    assert {"AssetOut", "AssetPage", "AlertOut", "SessionOut", "AssetEdit", "Problem"} <= seen
    assert found == set()


def test_a_problem_has_a_field_for_each_member_that_errors_give_it() -> None:
    """`ButaiError` takes further members by name; `Problem` documents them."""
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    given = {
        keyword.arg
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds
        for keyword in node.keywords
    }
    assert "platform" in given
    assert given <= set(Problem.__struct_fields__)


_IDIOM = re.compile(
    # Actors have names; a fault is not the weather; a URL is not a door.
    r"\b(somebody|whoever|anybody|everybody|nobody|weather|a door|the door|whose door|this house|the house|anew|the fair"
    r"|despair|as it fares|how the service fares)\b",
    re.IGNORECASE,
)
_SAYS_NO_NOUN = re.compile(r"(Of|That|There|Told|Again)\b[^`]*\.$")


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings of a file and of its constants, with their lines."""
    for node in nodes(path):
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.lineno, child.value.value


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def test_docstrings_comments_and_documents_use_plain_words() -> None:
    """Words of a private idiom, which a reader has to ask about; what is quoted as `code` is a name."""
    found: list[str] = []
    for path in modules():
        if "egress/livekit" in path.as_posix():
            # To be replaced as a whole.
            continue
        for line, text in (*_docstrings(path), *_comments(path)):
            found += [
                f"{path.relative_to(ROOT)}:{line}: {match[0]}"
                for match in _IDIOM.finditer(re.sub(r"`[^`]*`", "", text))
            ]
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        # The vocabulary lists words that are not used.
        if path.name != "vocabulary.md":
            for line, text in enumerate(path.read_text().splitlines(), 1):
                matches = _IDIOM.finditer(re.sub(r"`[^`]*`", "", text))
                found += [f"{path.relative_to(ROOT)}:{line}: {match[0]}" for match in matches]
    assert found == []


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    """Not with a remainder of a sentence whose noun is the name above it ("Of both, in order.", "The same, closed.")."""
    found: list[str] = []
    for path in modules():
        if "egress/livekit" not in path.as_posix():
            found += [
                f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
                for line, text in _docstrings(path)
                if text and _SAYS_NO_NOUN.match(text.splitlines()[0])
            ]
    assert found == []
