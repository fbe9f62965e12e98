import { PrismaPg } from '@prisma/adapter-pg'

import { PrismaClient } from '../generated/client'

const adapter = new PrismaPg({ connectionString: process.env.DATABASE_URL, max: Number(process.env.POOL ?? 10) })

export const prisma = new PrismaClient({ adapter })
