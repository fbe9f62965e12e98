"""One million assets, the same ones every time: what the list benchmark reads.

Called by `servers.seeded_postgres`; by itself (`python bench/seed.py`) it fills the benchmarks' database and says how
long that took. The rows come from `generate_series` and MD5, so no run differs from another. They are filled once per
data folder; a change of the migrations or of this file fills them again.

The mix is what studios have: three quarters avatars, nearly all ready and public (so that 500,000 pages of depth
exist), names in Latin and Japanese letters, some with a `_meta.json`, uploads in bursts that share a time stamp, so
that the order needs its tie-breaker.
"""

from __future__ import annotations

import hashlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template

import psycopg
from psycopg import sql

from butai import database

ROWS = 1_000_000

OWNER = "bench-owner"
"""A user with 10,000 private assets, for the list that merges public and own."""

STRANGER = "bench-stranger"
"""A user with none: sees exactly what is public, which is what the peers list."""

_FILL = Template("""
INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, owner_user_id,
                    visibility, ever_public, created_at, updated_at, attempts, object_key, sha256, etag, description,
                    tags, meta, duration_seconds, thumbnail_key, own_thumbnail_key, change_seq, facts, terms, triangles,
                    inspected_key)
SELECT (lpad(to_hex((extract(epoch FROM created) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3)
            || '8' || substr(h, 4, 3) || substr(h, 7, 12))::uuid,
       type, stem || '.' || extension, stem || '.' || extension, stem, name, mime,
       CASE type WHEN 'vrm' THEN 4000000 + r % 36000000 WHEN 'scene' THEN 8000000 + r % 90000000
                 ELSE 200000 + r % 6000000 END,
       CASE WHEN r % 100 < 97 THEN 'ready' WHEN r % 100 = 97 THEN 'failed' WHEN r % 100 = 98 THEN 'missing'
            ELSE 'uploading' END,
       owner, visibility, visibility = 'public', created, created + (r % 1000) * interval '1 minute', 1,
       'butai/' || substr(h, 1, 2) || '/' || h, h || h, h,
       CASE WHEN r % 2 = 0 THEN 'A ' || mood || ' ' || type || ' by studio ' || r % 5000
                                || '. Please read the terms before use. ' || noun ELSE '' END,
       CASE r % 5 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[mood] WHEN 2 THEN ARRAY[mood, noun]
                  WHEN 3 THEN ARRAY[mood, noun, 'series ' || r % 20011]
                  ELSE ARRAY[mood, noun, 'ver' || r % 9] END,
       CASE WHEN type = 'vrm' AND r % 10 < 3
            THEN jsonb_build_object('gender', CASE r % 4 WHEN 0 THEN 'female' WHEN 1 THEN 'male' ELSE 'neutral' END,
                                    'styleTags', ARRAY[mood, noun], 'suggestedVoice', 'voice-' || r % 40,
                                    'attributes', jsonb_build_object('hair', mood, 'height', 140 + r % 50))
            ELSE '{}' END,
       CASE WHEN type IN ('animation', 'bgm') THEN round((1 + r % 24000 / 100.0)::numeric, 2) END,
       CASE WHEN type = 'vrm' AND r % 10 < 6 THEN stem || '_thumb.png' END,
       CASE WHEN type = 'vrm' AND r % 10 < 6 THEN stem || '_thumb.png' END,
       i,
       CASE WHEN type = 'vrm'
            THEN jsonb_build_object(
                'licence', jsonb_build_object('commercial', commercial, 'redistribution', redistribution,
                    'modification', modification, 'credit', credit, 'avatar', 'everyone', 'violent', false,
                    'sexual', false, 'spec', format, 'licence_url', 'https://vrm.dev/licenses/1.0/'),
                'model', jsonb_build_object('triangles', triangles, 'vertices', triangles * 2 / 3, 'meshes', 3 + r % 9,
                    'materials', 4 + r % 21, 'textures', 5 + r % 30, 'images', 5 + r % 30, 'title', name,
                    'spring_bones', r % 40, 'expressions', expressions))
            ELSE '{}' END,
       CASE WHEN type = 'vrm'
            THEN ARRAY['format=' || format, 'licence.commercial=' || commercial, 'licence.credit=' || credit,
                       'licence.redistribution=' || redistribution, 'licence.modification=' || modification,
                       'licence.avatar=everyone', 'humanoid'] || expression_words
            ELSE ARRAY['format=' || format] END,
       triangles,
       'butai/' || substr(h, 1, 2) || '/' || h
FROM (
    SELECT *,
           CASE WHEN type <> 'vrm' THEN extension WHEN r % 50 < 20 THEN 'vrm0' ELSE 'vrm1' END AS format,
           CASE WHEN type IN ('vrm', 'scene') THEN 4000 + (r / 5) % 150000 END AS triangles,
           (ARRAY['personal_non_profit', 'personal_profit', 'corporation'])[1 + (r / 11) % 20 / 9] AS commercial,
           CASE WHEN (r / 13) % 10 < 8 THEN 'forbidden' ELSE 'allowed' END AS redistribution,
           (ARRAY['forbidden', 'allowed', 'allowed_redistribution'])[1 + (r / 17) % 3] AS modification,
           CASE WHEN (r / 19) % 10 < 6 THEN 'required' ELSE 'unnecessary' END AS credit,
           -- No VRM 0.x here has `surprised`: two common words that never meet.
           CASE WHEN r % 50 < 20 THEN $presets ELSE $presets || ARRAY['surprised', 'lookUp', 'lookDown'] END AS expressions,
           CASE WHEN r % 50 < 20 THEN $preset_words
                ELSE $preset_words || ARRAY['expression=surprised', 'expression=lookup', 'expression=lookdown'] END
               || CASE WHEN (r / 31) % 8 = 0 THEN ARRAY['expression=tongue'] ELSE '{}' END
               || CASE WHEN (r / 37) % 4 = 0 THEN ARRAY['expression=custom ' || (r / 41) % 4001] ELSE '{}' END
               AS expression_words
    FROM (
    SELECT *, folder || '/' || name || ' ' || i AS stem
    FROM (
        SELECT i, h, r, type, mood, noun,
               CASE WHEN r % 3 = 0 THEN noun || ' ' || mood ELSE mood || ' ' || noun END AS name,
               timestamptz '2024-01-01 00:00:00Z' + (i / 3) * interval '190 seconds'
                   + (('x' || substr(md5((i / 3)::text), 1, 4))::bit(16)::int % 1000) * interval '1 millisecond'
                   AS created,
               CASE WHEN r % 100 < 8 THEN 'private' ELSE 'public' END AS visibility,
               CASE WHEN r % 100 = 7 THEN $owner WHEN r % 10 = 9 THEN NULL ELSE 'user-' || r % 20000 END AS owner,
               CASE type WHEN 'vrm' THEN 'vrm' WHEN 'animation' THEN 'animations' ELSE type END AS folder,
               CASE type WHEN 'vrm' THEN 'vrm' WHEN 'animation' THEN (ARRAY['fbx', 'vrma', 'bvh'])[1 + r % 3]
                         WHEN 'bgm' THEN 'mp3' WHEN 'hdr' THEN 'hdr' ELSE 'glb' END AS extension,
               CASE type WHEN 'vrm' THEN 'model/gltf-binary' WHEN 'scene' THEN 'model/gltf-binary'
                         WHEN 'bgm' THEN 'audio/mpeg' WHEN 'hdr' THEN 'image/vnd.radiance'
                         ELSE 'application/octet-stream' END AS mime
        FROM (
            SELECT i, h, r,
                   CASE WHEN t < 75 THEN 'vrm' WHEN t < 90 THEN 'animation' WHEN t < 95 THEN 'bgm'
                        WHEN t < 98 THEN 'scene' ELSE 'hdr' END AS type,
                   (ARRAY['Midnight', 'Gentle', 'Neon', 'Autumn', 'Clockwork', 'Silent', 'Crystal', 'Sunny', '夜の',
                          '桜色の', '静かな', '電脳'])[1 + (r / 7) % 12] AS mood,
                   (ARRAY['Aoi', 'Hikari', 'Sakura', 'Fox (v2)', 'Idol', 'Maid & Butler', 'Dragon', 'Student 100%',
                          'あおい', '雪女', '猫又', '歌姫'])[1 + (r / 91) % 12] AS noun
            FROM (
                SELECT i, md5('butai' || i) AS h,
                       ('x' || substr(md5('butai' || i), 1, 7))::bit(28)::int AS r,
                       ('x' || substr(md5('butai' || i), 9, 7))::bit(28)::int % 100 AS t
                FROM generate_series($first, $last) AS i
            ) AS numbers
        ) AS kinds
    ) AS named
    ) AS plain
) AS complete
""")


_PRESETS = (
    "aa",
    "ih",
    "ou",
    "ee",
    "oh",
    "blink",
    "blinkLeft",
    "blinkRight",
    "neutral",
    "happy",
    "angry",
    "sad",
    "relaxed",
)
_PARAMETERS = {
    "owner": f"'{OWNER}'",
    "presets": f"ARRAY[{', '.join(map(repr, _PRESETS))}]",
    "preset_words": f"ARRAY[{', '.join(repr(f'expression={name.lower()}') for name in _PRESETS)}]",
}


def fingerprint(rows: int) -> str:
    """Changes when the tables or the rows would."""
    digest = hashlib.sha256(f"{rows}".encode())
    for path in (Path(__file__), *sorted((database.MIGRATIONS / "versions").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_seeded(url: str, rows: int = ROWS) -> bool:
    """Whether the database holds what `fill` would make."""
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass('bench_seed')").fetchone() == (None,):
            return False
        return connection.execute("SELECT fingerprint FROM bench_seed").fetchone() == (fingerprint(rows),)


def fill(url: str, rows: int = ROWS, *, service_url: str = "") -> None:
    """Migrates an empty database as `database.migrate` does, and fills it. Indexes are dropped meanwhile, which halves the
    time."""
    database.migrate(url, service_url=service_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_seed")
        connection.execute("TRUNCATE assets, asset_events, asset_objects, asset_tombstones CASCADE")
        indexes = connection.execute(
            """SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'assets'
               AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE conrelid = 'assets'::regclass)"""
        ).fetchall()
        for name, _ in indexes:
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        # It locks each owner until the transaction ends, and these have more than Postgres has places for locks.
        connection.execute("ALTER TABLE assets DISABLE TRIGGER assets_hide_of_suspended")

    def insert(first: int, last: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(_FILL.substitute(_PARAMETERS, first=first, last=last).encode())

    step = max(1, rows // 20)
    with ThreadPoolExecutor(2) as pool:
        starts = range(1, rows + 1, step)
        list(pool.map(insert, starts, [min(start + step - 1, rows) for start in starts]))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("ALTER TABLE assets ENABLE TRIGGER assets_hide_of_suspended")
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("SELECT setval('asset_changes', %s)", (rows,))
        connection.execute("VACUUM (ANALYZE) assets")
        connection.execute("CREATE TABLE bench_seed (fingerprint text NOT NULL)")
        connection.execute("INSERT INTO bench_seed VALUES (%s)", (fingerprint(rows),))


def main() -> None:
    import servers

    began = time.monotonic()
    with servers.postgres() as running:
        servers.seed(running)
        with psycopg.connect(running.url) as connection:
            for row in connection.execute(
                "SELECT type, status, visibility, count(*) FROM assets GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 8"
            ):
                print(*row)
            print(connection.execute("SELECT pg_size_pretty(pg_total_relation_size('assets'))").fetchone())
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
