import { svelte } from "@sveltejs/vite-plugin-svelte";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { docs } from "./build/docs.mjs";

export default defineConfig({
  // Addresses go from the page's <base>, which the server writes.
  base: "./",
  plugins: [svelte(), docs(fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, ""))],
  server: { proxy: { "/api": "http://127.0.0.1:8080" } },
});
