// How the page is tested: Chromium as it is installed, WebGPU on SwiftShader, one test at a time on one server.
import { defineConfig } from "@playwright/test";
import { chromium, page } from "./environment.ts";

export default defineConfig({
  testDir: ".",
  workers: 1,
  // SwiftShader computes on the processor: what takes a GPU a moment takes it many seconds.
  timeout: 180_000,
  expect: { timeout: 30_000 },
  forbidOnly: true,
  reporter: "list",
  projects: [
    { name: "tests", testMatch: "*.spec.ts" },
    { name: "bench", testMatch: "*.bench.ts" },
  ],
  outputDir: "../../target/page-tests",
  use: {
    baseURL: page,
    viewport: { width: 1280, height: 900 },
    screenshot: "only-on-failure",
    trace: "retain-on-failure",
    launchOptions: { executablePath: chromium, args: flags() },
  },
});

/** Those of webdriver.json, which the tests of the library run under. */
function flags(): string[] {
  return [
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ];
}
