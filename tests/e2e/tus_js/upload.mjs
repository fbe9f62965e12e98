// Uploads a file with tus-js-client, as a studio's page would. Prints each progress and how it ended.
import { createReadStream, statSync } from "node:fs";
import { Upload } from "tus-js-client";

const [endpoint, path, cookie, key] = process.argv.slice(2);
const upload = new Upload(createReadStream(path), {
  endpoint,
  chunkSize: 6 * 1024 * 1024,
  uploadSize: statSync(path).size,
  retryDelays: [100, 500, 1000, 1000, 2000, 3000, 5000],
  metadata: { filename: key, filetype: "model/gltf-binary" },
  headers: { Cookie: cookie },
  onChunkComplete: (_size, accepted) => console.log("accepted", accepted),
  onError: (error) => {
    console.log("failed", String(error));
    process.exit(1);
  },
  onSuccess: () => console.log("done", upload.url),
});
upload.start();
