"""A dump of the database can be restored with Postgres's own programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg

from butai.embedded.postgres import pg_bin_dir
from tests.databases import Databases

ASSET = """
INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, owner_user_id,
                    visibility, ever_public, object_key, change_seq, thumbnail_key, tags, facts, triangles)
VALUES (gen_random_uuid(), 'vrm', 'vrm/あおい (1).vrm', 'vrm/あおい (1).vrm', 'vrm/あおい (1)', 'あおい', 'model/gltf-binary',
        7, 'ready', 'alice', 'public', true, 'object/1', 1, 'vrm/あおい (1)_thumb.png', '{neon}', '{"model": {"bones": 3}}', 12)
"""
ROWS = "SELECT a::text FROM assets a"
COUNT = "SELECT count(*) FROM audit WHERE action = 'asset.upload'"


def test_a_dump_is_restored_with_all_that_the_database_computes(databases: Databases, tmp_path: Path) -> None:
    dump = tmp_path / "butai.dump"
    with databases.fresh() as kept, databases.fresh() as restored:
        with psycopg.connect(kept) as connection:
            connection.execute(ASSET.encode())
            connection.execute("INSERT INTO audit (actor, action, result) VALUES ('user:alice', 'asset.upload', 'ok')")
            connection.commit()
            before = connection.execute(ROWS).fetchall()
        run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={databases.owners(kept)}")
        run(
            "pg_restore",
            *("--clean", "--if-exists", "--exit-on-error", "--single-transaction"),
            *(f"--dbname={databases.owners(restored)}", str(dump)),
        )
        with psycopg.connect(restored) as connection:
            assert connection.execute(ROWS).fetchall() == before
            assert connection.execute(COUNT).fetchone() == (1,)
            # What the service writes from now on is computed as before.
            connection.execute("UPDATE assets SET display_name = 'Aoi'")
            (item,) = connection.execute("SELECT names || item FROM assets").fetchone() or ("",)
            assert '"name": "Aoi"' in item
            assert "/api/s3/read-object?key=vrm%2F%E3%81%82" in item


def run(program: str, *arguments: str) -> None:
    ended = subprocess.run(
        [pg_bin_dir() / program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
