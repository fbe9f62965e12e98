// Reads models with Khronos' validator. Prints one line of JSON for each path: what it found in it, and its errors.
import { readFileSync } from "node:fs";
import { validateBytes } from "gltf-validator";

for (const path of process.argv.slice(2)) {
  const report = await validateBytes(new Uint8Array(readFileSync(path)), { maxIssues: 1000 });
  const errors = report.issues.messages.filter((one) => one.severity === 0).map((one) => `${one.pointer}: ${one.message}`);
  console.log(JSON.stringify({ path, errors, info: report.info }));
}
