// Node-Media-Server of a major version, RTMP only: `node server.cjs 2 PORT FOLDER`.
const [major, port, folder] = process.argv.slice(2);
const NodeMediaServer = require(`node-media-server-${major}`);
new NodeMediaServer({
  bind: "127.0.0.1",
  rtmp: { port: Number(port), chunk_size: 60000, gop_cache: true, ping: 30, ping_timeout: 60 },
  http: {},
  auth: { play: false, publish: false, secret: "" },
  store: { path: `${folder}/data` },
  record: { auto: false, path: `${folder}/record` },
}).run();
