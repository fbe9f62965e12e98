// Generating the client needs no database and no schema engine (see the script `generate`): the engine is only for
// migrations, which are Butai's own.
import { defineConfig } from 'prisma/config'

export default defineConfig({ schema: 'prisma/schema.prisma' })
