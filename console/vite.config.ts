// The console is built into the Python package and served by the API (src/butai/operations/console.py).
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "/console/",
  plugins: [react()],
  css: {
    modules: {
      // Where a class comes from is read off the page: `.name` of pages/library/card.module.css is `library-card__name`.
      generateScopedName: (name, file) => {
        const [, folder, sheet] = /([^/]+)\/([^/]+)\.module\.css/.exec(file) ?? [];
        return `${folder}-${sheet}__${name}`;
      },
    },
  },
  // A test looks into the style sheets; without this they are empty there.
  test: { css: true },
  build: {
    outDir: "../src/butai/console_dist",
    emptyOutDir: true,
    // The content security policy allows no data: scripts or styles, and small files compress as well alone.
    assetsInlineLimit: 0,
    target: "es2022",
    manifest: "manifest.json",
    rollupOptions: { input: ["index.html", "docs.html"] },
    // Swagger UI alone has 1.6 MB; it is loaded by /docs only.
    chunkSizeWarningLimit: 1700,
    modulePreload: { polyfill: false },
  },
});
