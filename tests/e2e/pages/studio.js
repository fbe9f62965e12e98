// What a studio's front end does, as functions that the tests call. `api` is "" on the API's own origin.
"use strict";

const api = new URLSearchParams(location.search).get("api") ?? "";

async function digest(buffer) {
  const hash = await crypto.subtle.digest("SHA-256", buffer);
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A request and its JSON. What the browser forbids comes back as {blocked: …}.
async function call(method, path, json, credentials = "same-origin") {
  const how = { method, credentials };
  if (json !== undefined) {
    how.headers = { "Content-Type": "application/json" };
    how.body = JSON.stringify(json);
  }
  try {
    const answer = await fetch(api + path, how);
    const type = answer.headers.get("content-type") ?? "";
    return { status: answer.status, body: type.includes("json") ? await answer.json() : null };
  } catch (error) {
    return { blocked: error.name };
  }
}

// Sends the form as it stands, with the file that was chosen.
async function upload(key, credentials = "same-origin") {
  const form = new FormData(document.getElementById("upload"));
  form.set("fileName", key);
  try {
    const answer = await fetch(api + "/api/s3/upload", { method: "POST", body: form, credentials });
    return { status: answer.status, body: await answer.json() };
  } catch (error) {
    return { blocked: error.name };
  }
}

// Past the API: a signed URL, the bytes to the store, the word that they are there.
async function uploadDirectly(key) {
  const file = document.querySelector("input[type=file]").files[0];
  const wanted = { fileName: key, fileType: "model/vrm", size: file.size };
  const signed = (await call("POST", "/api/s3/presigned-url", wanted)).body.data;
  const early = await call("POST", signed.completeUrl);
  const put = await fetch(signed.url, { method: signed.method, headers: signed.headers, body: file });
  const done = await call("POST", signed.completeUrl);
  return { early: early.status, put: put.status, origin: new URL(signed.url).origin, done, readUrl: signed.readUrl };
}

// To an address that needs no cookie, as the store's or the API's own signed one.
async function putTo(url) {
  const file = document.querySelector("input[type=file]").files[0];
  try {
    const answer = await fetch(url, { method: "PUT", headers: { "Content-Type": "model/vrm" }, body: file });
    return { status: answer.status, etag: answer.headers.get("etag") };
  } catch (error) {
    return { blocked: error.name };
  }
}

async function read(path, { headers = {}, credentials = "same-origin", cache = "default" } = {}) {
  try {
    const answer = await fetch(api + path, { headers, credentials, cache });
    const body = await answer.arrayBuffer();
    return {
      status: answer.status,
      redirected: answer.redirected,
      length: body.byteLength,
      sha256: await digest(body),
      headers: Object.fromEntries(answer.headers),
    };
  } catch (error) {
    return { blocked: error.name };
  }
}

// The width of a picture, as an <img> without CORS shows it; null when the browser refuses.
function picture(path) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => resolve(null);
    image.src = api + path;
  });
}
