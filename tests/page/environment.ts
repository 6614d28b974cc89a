// What `cargo xtask test` tells the tests: where the servers are, and the files and programs they need.
import { fileURLToPath } from "node:url";

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these tests are run by \`cargo xtask test\``);
  return value;
}

/** The address of the page. */
export const page = required("ESPALIER_PAGE");
/** The address of a model hub with the page's own model in it. */
export const hub = required("ESPALIER_HUB");
/** The browser. */
export const chromium = required("ESPALIER_CHROMIUM");
/** The native program. */
export const espalier = required("ESPALIER_BIN");
/** The Vulkan driver with which it sees the browser's adapter; empty where there is none. */
export const swiftshader = process.env.ESPALIER_VK_DRIVER_FILES ?? "";
/** The folder of the built page. */
export const dist = required("ESPALIER_DIST");
/** SmolLM2 as GGUF; empty where it is not there. */
export const smollm2 = process.env.ESPALIER_SMOLLM2_GGUF ?? "";
/** Where the pictures of the page are, and whether they are to be made anew. */
export const screenshots = fileURLToPath(new URL("../../docs/screenshots", import.meta.url));
export const draw = Boolean(process.env.ESPALIER_SCREENSHOTS);
/** The file of the page's own model. */
export const seedling = `${dist}/assets/seedling.gguf`;
