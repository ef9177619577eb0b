import { defineConfig } from "vite";

/** `MEDIA_BASE` names a running api for `npm run dev`; the built page calls the api that serves it. */
const api = process.env.MEDIA_BASE ?? "http://127.0.0.1:8080";

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    // The page's policy lets in no inline style or script, and pictures of its own need no data: URL.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { host: "127.0.0.1", proxy: { "/v1": api, "/shared": api, "/objects": api, "/page.json": api } },
});
