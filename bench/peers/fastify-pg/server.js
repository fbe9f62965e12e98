// The list of the studio contract as a careful team would write it on Fastify and pg: a keyset page through a prepared
// statement, one pool, the answer through a compiled schema (fast-json-stringify). Public assets only, no sign-in.

import Fastify from 'fastify'
import pg from 'pg'

// int8 as a number: sizes are far below 2^53.
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Number(process.env.POOL ?? 10) })

const COLUMNS = `id, display_name, s3_key, size_bytes, type, mime_type, visibility, created_at, updated_at, tags,
  thumbnail_key, description, meta`
const LISTED = `status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL AND visibility = 'public'`
const FIRST = {
  name: 'first',
  text: `SELECT ${COLUMNS} FROM assets WHERE type = $1 AND ${LISTED} ORDER BY created_at DESC, id DESC LIMIT $2`,
}
const NEXT = {
  name: 'next',
  text: `SELECT ${COLUMNS} FROM assets WHERE type = $1 AND ${LISTED} AND (created_at, id) < ($3, $4)
         ORDER BY created_at DESC, id DESC LIMIT $2`,
}

const item = {
  type: 'object',
  required: ['id', 'name', 'url', 's3Key', 'size', 'type', 'category', 'createdAt', 'tags', 'hasThumbnail', 'description'],
  properties: {
    id: { type: 'string' },
    name: { type: 'string' },
    url: { type: 'string' },
    s3Key: { type: 'string' },
    size: { type: 'integer' },
    type: { type: 'string' },
    category: { type: 'string' },
    mimeType: { type: 'string' },
    visibility: { type: 'string' },
    createdAt: { type: 'string', format: 'date-time' },
    updatedAt: { type: 'string', format: 'date-time' },
    tags: { type: 'array', items: { type: 'string' } },
    hasThumbnail: { type: 'boolean' },
    thumbnail: { type: 'string' },
    description: { type: 'string' },
    attributes: { type: 'object', additionalProperties: true },
    gender: { type: 'string' },
    suggestedVoice: { type: 'string' },
    styleTags: { type: 'array', items: { type: 'string' } },
  },
}
const schema = {
  querystring: {
    type: 'object',
    required: ['type'],
    properties: {
      type: { type: 'string', enum: ['vrm', 'animation', 'bgm', 'hdr', 'scene'] },
      pageSize: { type: 'integer', minimum: 1, maximum: 1000, default: 50 },
      cursor: { type: 'string', pattern: '^[^,]+,[0-9a-f-]{36}$' },
    },
  },
  response: {
    200: {
      type: 'object',
      properties: {
        success: { type: 'boolean' },
        data: { type: 'array', items: item },
        pagination: {
          type: 'object',
          properties: {
            pageSize: { type: 'integer' },
            hasMore: { type: 'boolean' },
            nextCursor: { type: ['string', 'null'] },
          },
        },
      },
    },
  },
}

const readUrl = (key) => `/api/s3/read-object?key=${encodeURIComponent(key)}`

function toItem(row) {
  return {
    id: row.id,
    name: row.display_name,
    url: readUrl(row.s3_key),
    s3Key: row.s3_key,
    size: row.size_bytes,
    type: row.type === 'vrm' ? 'model/vrm' : row.mime_type,
    category: row.type,
    mimeType: row.mime_type,
    visibility: row.visibility,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    tags: row.tags,
    hasThumbnail: row.thumbnail_key !== null,
    thumbnail: row.thumbnail_key === null ? undefined : readUrl(row.thumbnail_key),
    description: row.description,
    // By name: `...row.meta` would take twice the time of all the rest.
    gender: row.meta.gender,
    styleTags: row.meta.styleTags,
    suggestedVoice: row.meta.suggestedVoice,
    attributes: row.meta.attributes,
  }
}

const app = Fastify({ logger: false })

app.get('/api/s3/resources', { schema }, async (request) => {
  const { type, pageSize, cursor } = request.query
  const [at, id] = cursor?.split(',') ?? []
  const { rows } = await pool.query(
    cursor ? { ...NEXT, values: [type, pageSize + 1, at, id] } : { ...FIRST, values: [type, pageSize + 1] },
  )
  const hasMore = rows.length > pageSize
  if (hasMore) rows.pop()
  const last = rows.at(-1)
  return {
    success: true,
    data: rows.map(toItem),
    pagination: { pageSize, hasMore, nextCursor: hasMore ? `${last.created_at.toISOString()},${last.id}` : null },
  }
})

await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT ?? 3000) })
