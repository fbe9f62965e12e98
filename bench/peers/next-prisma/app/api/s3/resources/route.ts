// The list of the studio contract on Next.js and Prisma, as studios have it: a route handler, one typed query by keyset
// (the first condition bounds the index scan, the OR breaks ties), the answer by NextResponse.json. Public assets only.

import { NextRequest, NextResponse } from 'next/server'

import { prisma } from '../../../../lib/prisma'

export const dynamic = 'force-dynamic'

const TYPES = new Set(['vrm', 'animation', 'bgm', 'hdr', 'scene'])

const readUrl = (key: string) => `/api/s3/read-object?key=${encodeURIComponent(key)}`

// What the front end reads of a _meta.json.
function meta(of: unknown) {
  const { gender, styleTags, suggestedVoice, attributes } = of as Record<string, unknown>
  return { gender, styleTags, suggestedVoice, attributes }
}

export async function GET(request: NextRequest) {
  const query = request.nextUrl.searchParams
  const type = query.get('type') ?? ''
  const pageSize = Number(query.get('pageSize') ?? 50)
  if (!TYPES.has(type) || !Number.isInteger(pageSize) || pageSize < 1 || pageSize > 1000) {
    return NextResponse.json({ success: false, message: 'Bad request' }, { status: 400 })
  }
  const [at, id] = query.get('cursor')?.split(',') ?? []
  const rows = await prisma.asset.findMany({
    where: {
      type,
      status: 'ready',
      visibility: 'public',
      deletedAt: null,
      sidecar: null,
      ...(id && {
        createdAt: { lte: new Date(at) },
        OR: [{ createdAt: { lt: new Date(at) } }, { id: { lt: id } }],
      }),
    },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    take: pageSize + 1,
    select: {
      id: true,
      displayName: true,
      s3Key: true,
      sizeBytes: true,
      type: true,
      mimeType: true,
      visibility: true,
      createdAt: true,
      updatedAt: true,
      tags: true,
      thumbnailKey: true,
      description: true,
      meta: true,
    },
  })
  const hasMore = rows.length > pageSize
  if (hasMore) rows.pop()
  const last = rows.at(-1)
  return NextResponse.json({
    success: true,
    data: rows.map((row) => ({
      id: row.id,
      name: row.displayName,
      url: readUrl(row.s3Key),
      s3Key: row.s3Key,
      size: Number(row.sizeBytes),
      type: row.type === 'vrm' ? 'model/vrm' : row.mimeType,
      category: row.type,
      mimeType: row.mimeType,
      visibility: row.visibility,
      createdAt: row.createdAt.toISOString(),
      updatedAt: row.updatedAt.toISOString(),
      tags: row.tags,
      hasThumbnail: row.thumbnailKey !== null,
      thumbnail: row.thumbnailKey === null ? undefined : readUrl(row.thumbnailKey),
      description: row.description,
      ...meta(row.meta),
    })),
    pagination: { pageSize, hasMore, nextCursor: hasMore && last ? `${last.createdAt.toISOString()},${last.id}` : null },
  })
}
