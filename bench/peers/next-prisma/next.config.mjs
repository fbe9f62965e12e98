import { fileURLToPath } from 'node:url'

/** @type {import('next').NextConfig} */
export default {
  // This folder alone, not the lock files above it.
  turbopack: { root: fileURLToPath(new URL('.', import.meta.url)) },
  poweredByHeader: false,
  // wrk asks for no encoding; this only saves the look-up.
  compress: false,
}
